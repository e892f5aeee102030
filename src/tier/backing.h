/* backing.h - the memory under the pool: one mapping in the largest pages there are, touched ahead of its first use.
 *
 * What has not been touched costs whoever uses it first: the kernel finds and clears a page of 2 MiB in the middle of a put, or, once
 * memory is in pieces, 512 of 4 KiB, which every disk read afterwards pays for.
 *
 * Owns:    the mapping. Borrows: the loop and the log.
 * Not its: what lies in it, and who has it.
 * Thread:  the loop's; the touching is done by jobs, a slice each.
 */
#ifndef KVD_TIER_BACKING_H
#define KVD_TIER_BACKING_H

#include <stdint.h>

#include "base/log.h"
#include "loop/loop.h"

enum {
    BACKING_SLICE_BYTES = 64 << 20,  /* touched by one job */
    BACKING_LEAVES_BYTES = 512 << 20 /* touching ends where the host would have less than this afterwards */
};

struct backing;

/* Returns 0, -ENOMEM or another errno. */
int backing_new(struct backing **out, struct loop *loop, const struct log *log, uint64_t bytes);
/* No job may be under way: backing_touch_start() was not called, or backing_stop() has ended. */
void backing_free(struct backing *backing);

/* At a multiple of 2 MiB; stays where it is. */
void *backing_base(const struct backing *backing);

/* Touch all of it, from the start on, in the background; then, if it turned out to lie in pages of 4 KiB, fix what was touched (file.h), as
 * far as the kernel lets it and does not take long. Once. Where the kernel or the host does not let it be touched, the rest is backed as it
 * is used; the log says so. */
void backing_touch_start(struct backing *backing);

/* Touch no more. `fn` runs once, from the loop, never inside this call, when no job is under way any more. */
typedef void (*backing_stopped_fn)(void *arg);
void backing_stop(struct backing *backing, backing_stopped_fn fn, void *arg);

struct backing_figures {
    const char *huge_pages; /* "explicit": set aside by somebody; "transparent": where the kernel finds them; "none" */
    uint64_t touched_bytes; /* from the start on; what is behind it may have been used all the same */
    uint64_t huge_bytes;    /* of what was touched, that lie in huge pages: known once the touching has ended */
};
void backing_get_figures(const struct backing *backing, struct backing_figures *out);

#endif
