/* file.h - open files, and reads, writes and syncs on them that do not block the loop.
 *
 * Reads, writes and syncs go through the loop's ring (or its threads where io_uring is refused): all that are started in
 * one turn of the loop are submitted together at its end; at most `io_depth` are in flight, later ones wait: reads in their
 * order, the others in theirs. Once `io_bytes` of reads are in flight, others wait, too. While reads wait, the others get no more than a
 * fifth of the places (of fewer than five: every fifth turn), so that what somebody waits for goes before what is written in the
 * background. Everything else that touches a file system is in fs.h, is blocking, and belongs into jobs.
 *
 * Thread: the loop's, or whoever holds its lock.
 */
#ifndef KVD_LOOP_FILE_H
#define KVD_LOOP_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "loop/loop.h"

struct file {
    int fd;      /* -1 when closed */
    bool direct; /* O_DIRECT: memory, offsets and lengths must be multiples of 4 KiB */
    bool punt;   /* on FUSE: submission alone could block, so the ring is asked to use a worker (IOSQE_ASYNC) */
};

enum file_op_kind { FILE_READ, FILE_WRITE, FILE_SYNC };

struct file_op;
typedef void (*file_op_fn)(struct file_op *op);
struct file_op {
    /* set by the caller */
    const struct file *file; /* stays open until fn */
    const struct iovec *iov; /* borrowed until fn; at most 1,024 */
    unsigned iov_count;
    uint64_t offset;
    /* set before fn */
    int64_t result; /* bytes moved, perhaps fewer than asked; or -errno. FILE_SYNC: 0 or -errno */
    /* the loop's */
    enum file_op_kind kind;
    file_op_fn fn;
    uint64_t bytes; /* of a read, as far as they count among those that are under way */
    bool taken;     /* by the carrier */
    struct loop *loop;
    struct list link;
    struct job job;
};

void file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn);
/* It hangs: what it brings is waited for by others no longer, and it does not count among the bytes that may be under way. */
void file_read_hangs(struct file_op *op);
void file_write_start(struct loop *loop, struct file_op *op, file_op_fn fn);
/* fsync: data, length and all (fdatasync does not publish a length on 3FS). Covers writes that had completed before. */
void file_sync_start(struct loop *loop, struct file_op *op, file_op_fn fn);

/* What has gone through the seam to file systems since the loop was made: fs.h's calls in `other`. */
struct file_counts {
    uint64_t reads, writes, syncs, other;
    uint64_t read_bytes, written_bytes;
    uint64_t in_flight, waiting; /* now */
    uint64_t reads_in_flight, reads_waiting;
    uint64_t reads_in_flight_bytes;
    uint64_t reads_first; /* reads that went before writes and syncs that waited too */
};
void loop_file_counts(const struct loop *loop, struct file_counts *out);

#endif
