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
    uint8_t parts;  /* under way, of an operation that was divided: */
    int part_results[2];
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

/* ---- fixed memory ----
 *
 * For each read and write the kernel looks up the pages of its memory and holds them until it is done: of a MiB in pages of 4 KiB, 256 of
 * them. Of memory that is fixed it has done so once, for good. An operation with one vector, all of it in one slice of fixed memory, goes
 * by that, whoever asks for it; all else as ever. Fixed pages are resident and stay where they are, and count as locked memory
 * (RLIMIT_MEMLOCK) of this user, unless the process may lock what it likes. */

/* Slices of [base, base + bytes), whole pages of a mapping, will be fixed: `slice_bytes` each, at most 1 GiB, the last one perhaps shorter;
 * 16,384 slices at most. One mapping at a time. Returns 0, -EOPNOTSUPP (no ring, or loop_options.forbid_fixed), -EINVAL (a kernel
 * before 5.19) or another errno: then nothing is fixed. What the kernel has refused, here or later, the log says once
 * (event=fixed_buffers_ended). */
int file_memory_begin(struct loop *loop, void *base, uint64_t bytes, uint64_t slice_bytes);
/* Fix the next slice, from the start on. Returns 0, -ENOMEM (the limit of locked memory, or no memory), -ENOBUFS (there is no further one)
 * or another errno. Blocking, and the loop's operations are not submitted meanwhile: for a job, one at a time. */
int file_memory_next(struct loop *loop);
/* What is fixed lies in pages of 4 KiB: from now on a large last vector goes by fixed memory as well, as an operation of its own, which is
 * then the cheaper way. Not on FUSE, where it would be one more request. */
void file_memory_pages_are_small(struct loop *loop);
/* The mapping may go, or be given back. No operation in it, and no file_memory_next(), is under way. Harmless when there is none. */
void file_memory_end(struct loop *loop);

/* What has gone through the seam to file systems since the loop was made: fs.h's calls in `other`. */
struct file_counts {
    uint64_t reads, writes, syncs, other;
    uint64_t read_bytes, written_bytes;
    uint64_t in_flight, waiting; /* now */
    uint64_t reads_in_flight, reads_waiting;
    uint64_t reads_in_flight_bytes;
    uint64_t reads_first;               /* reads that went before writes and syncs that waited too */
    uint64_t fixed_reads, fixed_writes; /* of the first tries, to or from fixed memory */
    uint64_t fixed_bytes, fixed_slices; /* now */
};
void loop_file_counts(const struct loop *loop, struct file_counts *out);

#endif
