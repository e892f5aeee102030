/* file_impl.h - what carries file operations out: a ring or threads, behind four functions.
 *
 * file.c counts, limits and queues; a carrier only takes an operation and says when it is done, by file_op_finish().
 */
#ifndef KVD_LOOP_FILE_IMPL_H
#define KVD_LOOP_FILE_IMPL_H

#include "loop/file.h"
#include "loop/fixed_impl.h"
#include "loop/workers_impl.h"

struct ring;

struct file_carrier {
    const char *kind; /* loop_io_kind() */
    /* Take one operation. Never fails: what goes wrong is the operation's result. */
    void (*start)(struct loop *loop, struct file_op *op);
    /* All operations of this turn have been taken: off with them. May take a while: the loop's lock is not held. */
    void (*submit)(struct loop *loop);
    /* Nothing is in flight. Handles are left to be closed by whoever ends the libuv loop. */
    void (*fini)(struct loop *loop);
};

struct file_io {
    const struct file_carrier *carrier;
    struct list reads, others; /* waiting, each in order */
    unsigned reads_in_row;     /* started since the last of the others */
    unsigned depth;
    uint64_t most_read_bytes; /* in flight; 0: by the file system */
    struct file_counts counts;
    struct ring *ring;
    struct fixed fixed;
    struct workers threads;
};

/* Choose a carrier and make it ready. Returns 0 or -errno. */
int files_init(struct loop *loop, const struct loop_options *options);
void files_fini(struct loop *loop);
/* Give the carrier what waits, as far as the depth allows; then have it submit that. */
void files_take(struct loop *loop);
void files_submit(struct loop *loop);

/* From a carrier, on the loop, its lock held: `op` is done. `op` may be gone afterwards. */
void file_op_finish(struct file_op *op, int64_t result);

/* ring.c: returns 0 with loop->files.ring made, or -errno when io_uring is refused. */
int ring_new(struct loop *loop, unsigned depth);
extern const struct file_carrier ring_carrier;

/* file_threads.c */
int file_threads_init(struct loop *loop, unsigned count);
extern const struct file_carrier file_threads_carrier;

#endif
