/* list.h - intrusive doubly linked lists. A head is a `struct list` whose neighbours are itself when empty.
 * No allocation, no locks; the caller's thread.
 */
#ifndef KVD_BASE_LIST_H
#define KVD_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev;
    struct list *next;
};

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Make `list` an empty head, or an element that is on no list. */
static inline void list_init(struct list *list)
{
    list->prev = list;
    list->next = list;
}

/* True for an empty head, and for an element that is on no list. */
static inline bool list_empty(const struct list *list)
{
    return list->next == list;
}

static inline void list_insert_after(struct list *at, struct list *item)
{
    item->prev = at;
    item->next = at->next;
    at->next->prev = item;
    at->next = item;
}

static inline void list_push_front(struct list *head, struct list *item)
{
    list_insert_after(head, item);
}

static inline void list_push_back(struct list *head, struct list *item)
{
    list_insert_after(head->prev, item);
}

/* Take `item` off its list; harmless when it is on none. It is on none afterwards. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

/* First element, or NULL. */
static inline struct list *list_first(const struct list *head)
{
    return list_empty(head) ? NULL : head->next;
}

/* Last element, or NULL. */
static inline struct list *list_last(const struct list *head)
{
    return list_empty(head) ? NULL : head->prev;
}

/* Take the first element off and return it, or NULL. */
static inline struct list *list_pop_front(struct list *head)
{
    struct list *item = list_first(head);
    if (item)
        list_remove(item);
    return item;
}

/* Move every element of `from` to the end of `to`, in order. */
static inline void list_move_all(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#endif
