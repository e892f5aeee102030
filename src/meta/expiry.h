/* expiry.h - who ends when: a timing wheel of the objects that have an end.
 *
 * Owns:    the places of `struct expiry` in its lists; their memory is the caller's (an entry's, see table.h).
 * Not its: clocks (times are ms of whatever clock the caller has), what happens to who has ended.
 * Thread:  the loop's.
 *
 * Nothing here is O(n): a slot whose time comes is moved as a whole to the list of those that are due for a look, and is taken from there
 * one by one. Who is looked at too early (its time was too far away for a slot of its own) is added again.
 */
#ifndef KVD_META_EXPIRY_H
#define KVD_META_EXPIRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

enum { EXPIRY_TICK_MS = 250, EXPIRY_LEVELS = 4, EXPIRY_SLOTS = 64 };

/* Taken off by list_remove(&link), from wherever it is. */
struct expiry {
    struct list link;
    uint64_t at_ms; /* 0: never */
};

struct expiry_wheel {
    uint64_t tick; /* the next one to be looked at */
    struct list slots[EXPIRY_LEVELS][EXPIRY_SLOTS];
    struct list due;
};

void expiry_wheel_init(struct expiry_wheel *wheel, uint64_t now_ms);

/* Add one that has an end and is on no list. */
void expiry_add(struct expiry_wheel *wheel, struct expiry *expiry);

/* Move on towards `now_ms`, over `most` ticks at most. False: there is more to go. */
bool expiry_advance(struct expiry_wheel *wheel, uint64_t now_ms, uint32_t most);

/* The next one to be looked at: it has ended, or is to be added again. NULL: none. */
struct expiry *expiry_take(struct expiry_wheel *wheel);

#endif
