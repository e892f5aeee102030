#include <criterion/criterion.h>

#include "base/list.h"

struct item {
    int number;
    struct list link;
};

enum { ITEMS = 5 };

static void items_init(struct item items[ITEMS])
{
    for (int i = 0; i < ITEMS; i++) {
        items[i].number = i;
        list_init(&items[i].link);
    }
}

/* The numbers on `head` as decimal digits, read forwards; -1 when backwards says something else. */
static int digits(struct list *head)
{
    int forwards = 0, backwards = 0, place = 1;
    for (struct list *at = head->next; at != head; at = at->next)
        forwards = forwards * 10 + CONTAINER_OF(at, struct item, link)->number;
    for (struct list *at = head->prev; at != head; at = at->prev, place *= 10)
        backwards += place * CONTAINER_OF(at, struct item, link)->number;
    return forwards == backwards ? forwards : -1;
}

Test(list, an_empty_head_has_no_ends)
{
    struct list head;
    list_init(&head);
    cr_assert(list_empty(&head));
    cr_assert_null(list_first(&head));
    cr_assert_null(list_last(&head));
    cr_assert_null(list_pop_front(&head));
}

Test(list, pushes_keep_their_order)
{
    struct list head;
    struct item items[ITEMS];
    list_init(&head);
    items_init(items);
    list_push_back(&head, &items[2].link);
    list_push_back(&head, &items[3].link);
    list_push_front(&head, &items[1].link);
    list_insert_after(&items[2].link, &items[4].link);
    cr_assert_eq(digits(&head), 1243);
    cr_assert_eq(list_first(&head), &items[1].link);
    cr_assert_eq(list_last(&head), &items[3].link);
}

Test(list, removing_leaves_an_element_on_no_list)
{
    struct list head;
    struct item items[ITEMS];
    list_init(&head);
    items_init(items);
    for (int i = 1; i < ITEMS; i++)
        list_push_back(&head, &items[i].link);
    list_remove(&items[3].link);
    cr_assert(list_empty(&items[3].link));
    list_remove(&items[3].link); /* harmless */
    cr_assert_eq(digits(&head), 124);
    list_remove(&items[1].link);
    list_remove(&items[4].link);
    cr_assert_eq(digits(&head), 2);
    cr_assert_eq(list_pop_front(&head), &items[2].link);
    cr_assert(list_empty(&head));
    cr_assert(list_empty(&items[2].link));
}

Test(list, a_whole_list_moves_to_the_end_of_another)
{
    struct list to, from;
    struct item items[ITEMS];
    list_init(&to);
    list_init(&from);
    items_init(items);
    list_move_all(&to, &from);
    cr_assert(list_empty(&to));
    list_push_back(&from, &items[1].link);
    list_push_back(&from, &items[2].link);
    list_move_all(&to, &from);
    cr_assert(list_empty(&from));
    cr_assert_eq(digits(&to), 12);
    list_push_back(&from, &items[3].link);
    list_push_back(&from, &items[4].link);
    list_move_all(&to, &from);
    cr_assert(list_empty(&from));
    cr_assert_eq(digits(&to), 1234);
    list_move_all(&to, &from);
    cr_assert_eq(digits(&to), 1234);
}
