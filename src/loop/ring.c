#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/loop_impl.h"
#include "loop/probe_impl.h"

enum {
    RETRIES_MAX = 100,
    RETRY_MS = 1,
    SPLIT_LEAST_BYTES = 256 << 10, /* an entry of its own costs as much as some fifty pages */
    TURN_BYTES = 1 << 20,          /* that were read: whoever gets them reads them through, and others wait meanwhile */
};

/* An operation may be divided: what is before its last vector, and that one. The address of it leaves this bit free. */
enum { REST = 0, LEAD = 1 };

struct ring {
    struct io_uring uring;
    uv_poll_t poll;
    struct loop *loop;
    struct list again;  /* the kernel asked for another try */
    struct timer later; /* runs when the kernel did not take all that was prepared */
    bool refusing;      /* said so already */
};

static void op_probe_memory(const struct file_op *op)
{
    if (op->kind == FILE_SYNC)
        return;
    PROBE_ALIVE((void *)(uintptr_t)op->iov, op->iov_count * sizeof *op->iov);
    for (unsigned i = 0; i < op->iov_count; i++)
        PROBE_ALIVE(op->iov[i].iov_base, op->iov[i].iov_len);
}

/* There are entries for each operation in flight: the kernel may hold back no more than those. */
static struct io_uring_sqe *ring_entry(struct ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    CHECK(sqe);
    return sqe;
}

/* The first `count` vectors, by whatever memory they are in. */
static void prepare_ordinary(struct io_uring_sqe *sqe, struct file_op *op, unsigned count)
{
    switch (op->kind) {
    case FILE_READ:
        io_uring_prep_readv(sqe, op->file->fd, op->iov, count, op->offset);
        break;
    case FILE_WRITE:
        io_uring_prep_writev(sqe, op->file->fd, op->iov, count, op->offset);
        break;
    case FILE_SYNC:
        io_uring_prep_fsync(sqe, op->file->fd, 0);
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    /* A second try goes to a worker, which waits where the first one would not. */
    if (op->file->punt || op->result > 0)
        io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
}

static uint64_t lead_bytes(const struct file_op *op)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i + 1 < op->iov_count; i++)
        bytes += op->iov[i].iov_len;
    return bytes;
}

/* The last vector. */
static void prepare_fixed(struct io_uring_sqe *sqe, struct file_op *op, int slice)
{
    const struct iovec *last = &op->iov[op->iov_count - 1];
    uint64_t offset = op->offset + lead_bytes(op);
    if (op->kind == FILE_READ)
        io_uring_prep_read_fixed(sqe, op->file->fd, last->iov_base, (unsigned)last->iov_len, offset, slice);
    else
        io_uring_prep_write_fixed(sqe, op->file->fd, last->iov_base, (unsigned)last->iov_len, offset, slice);
    io_uring_sqe_set_data(sqe, op);
    if (op->file->punt)
        io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
}

/* In huge pages a second operation costs more than it saves, and on FUSE each is a request. */
static bool may_divide(const struct loop *loop, const struct file_op *op)
{
    return loop->files.fixed.small_pages && !op->file->punt && op->iov[op->iov_count - 1].iov_len >= SPLIT_LEAST_BYTES;
}

/* The slice by which the last vector goes, or -1. Second tries are made as if there were none. */
static int op_slice(const struct loop *loop, const struct file_op *op)
{
    if (op->kind == FILE_SYNC || op->iov_count == 0 || op->result > 0)
        return -1;
    if (op->iov_count > 1 && !may_divide(loop, op))
        return -1;
    const struct iovec *last = &op->iov[op->iov_count - 1];
    return fixed_slice(&loop->files.fixed, last->iov_base, last->iov_len);
}

static void op_count_fixed(struct loop *loop, const struct file_op *op)
{
    loop->files.counts.fixed_reads += op->kind == FILE_READ;
    loop->files.counts.fixed_writes += op->kind == FILE_WRITE;
}

static void ring_prepare(struct ring *ring, struct file_op *op)
{
    int slice = op_slice(ring->loop, op);
    op->parts = slice >= 0 && op->iov_count > 1 ? 2 : 0;
    if (slice < 0) {
        prepare_ordinary(ring_entry(ring), op, op->iov_count);
    } else {
        op_count_fixed(ring->loop, op);
        prepare_fixed(ring_entry(ring), op, slice);
    }
    if (op->parts > 0) {
        struct io_uring_sqe *lead = ring_entry(ring);
        prepare_ordinary(lead, op, op->iov_count - 1);
        lead->user_data |= LEAD;
    }
    op_probe_memory(op);
    PROBE_HAND_OVER(op);
}

static void ring_start(struct loop *loop, struct file_op *op)
{
    ring_prepare(loop->files.ring, op);
}

static bool is_again(int64_t result)
{
    return result == -EAGAIN || result == -EINTR;
}

/* What came of both parts, as one would have told it: bytes up to where the first one stopped short, or that one's error. A write of which
 * the larger part failed has failed: who counts failures is not to be told of bytes. */
static int64_t parts_result(const struct file_op *op)
{
    int lead = op->part_results[LEAD], rest = op->part_results[REST];
    if (is_again(lead) || is_again(rest))
        return -EAGAIN;
    if (lead < 0 || (uint64_t)lead < lead_bytes(op))
        return lead;
    if (rest < 0)
        return op->kind == FILE_WRITE ? rest : lead;
    return (int64_t)lead + rest;
}

/* Is that the end of it? The result of one that was divided is made of its parts'. */
static bool op_ended(struct file_op *op, unsigned part, int64_t *result)
{
    if (op->parts == 0)
        return true;
    op->part_results[part] = (int)*result;
    if (--op->parts > 0)
        return false;
    *result = parts_result(op);
    return true;
}

/* The result of an operation in flight is nobody's: it counts the tries. */
static bool op_wants_again(struct file_op *op, int64_t result)
{
    if (!is_again(result))
        return false;
    return ++op->result <= RETRIES_MAX;
}

static void op_finish(struct loop *loop, struct file_op *op, int64_t result)
{
    loop_lock(loop);
    file_op_finish(op, result);
    loop_unlock(loop);
}

static void on_ring(uv_poll_t *handle, int status, int events)
{
    (void)status;
    (void)events;
    struct ring *ring = handle->data;
    struct io_uring_cqe *cqe;
    uint64_t bytes = 0;
    while (bytes < TURN_BYTES && io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
        unsigned part = cqe->user_data & LEAD;
        struct file_op *op = (struct file_op *)(uintptr_t)(cqe->user_data - part);
        int64_t result = cqe->res;
        bytes += result > 0 && op->kind == FILE_READ ? (uint64_t)result : 0;
        io_uring_cqe_seen(&ring->uring, cqe);
        PROBE_TAKE_BACK(op);
        op_probe_memory(op);
        if (!op_ended(op, part, &result))
            continue;
        if (op_wants_again(op, result))
            list_push_back(&ring->again, &op->link);
        else
            op_finish(ring->loop, op, result);
    }
}

/* The kernel may be short of memory: what it did not take stays in the ring for another turn. */
static void ring_held_back(struct ring *ring, int err)
{
    if (!ring->refusing)
        log_warn(ring->loop->log, "io_uring_submit_failed", "err=\"%s\"", error_text(err));
    ring->refusing = true;
    loop_lock(ring->loop);
    timer_start(&ring->later, RETRY_MS);
    loop_unlock(ring->loop);
}

static void on_later(struct timer *timer)
{
    (void)timer; /* the turn that it makes is what was wanted */
}

static void ring_submit(struct loop *loop)
{
    struct ring *ring = loop->files.ring;
    struct list *link;
    while ((link = list_pop_front(&ring->again)))
        ring_prepare(ring, CONTAINER_OF(link, struct file_op, link));
    while (io_uring_sq_ready(&ring->uring) > 0) {
        int taken = io_uring_submit(&ring->uring);
        if (taken <= 0) {
            ring_held_back(ring, taken);
            break;
        }
        ring->refusing = false;
    }
}

static void on_poll_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void ring_fini(struct loop *loop)
{
    struct ring *ring = loop->files.ring;
    loop_lock(loop);
    timer_stop(&ring->later);
    loop_unlock(loop);
    uv_close((uv_handle_t *)&ring->poll, on_poll_closed);
    io_uring_queue_exit(&ring->uring);
    loop->files.ring = NULL;
    loop->files.fixed = (struct fixed){.uring = NULL};
}

static unsigned power_of_two(unsigned at_least)
{
    unsigned n = 1;
    while (n < at_least)
        n *= 2;
    return n;
}

/* The completion queue is twice as long as the submission queue, which holds all that may be in flight, in two parts each: no overflow. */
static int ring_setup(struct ring *ring, unsigned depth)
{
    struct io_uring_params params = {0};
    int err = io_uring_queue_init_params(power_of_two(2 * depth), &ring->uring, &params);
    if (err)
        return err;
    /* As old as IOSQE_ASYNC, without which a hung mount would hang the loop. */
    if (!(params.features & IORING_FEAT_RW_CUR_POS)) {
        io_uring_queue_exit(&ring->uring);
        return -EOPNOTSUPP;
    }
    /* Or four for each core, of which a hung mount would soon have taken all. Older kernels cannot; no matter. */
    unsigned workers[2] = {depth, 0};
    (void)io_uring_register_iowq_max_workers(&ring->uring, workers);
    (void)fcntl(ring->uring.ring_fd, F_SETFD, FD_CLOEXEC);
    return 0;
}

int ring_new(struct loop *loop, unsigned depth)
{
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    int err = ring_setup(ring, depth);
    if (err)
        goto fail_ring;
    err = uv_poll_init(&loop->uv, &ring->poll, ring->uring.ring_fd);
    if (err)
        goto fail_setup;
    ring->poll.data = ring;
    CHECK(uv_poll_start(&ring->poll, UV_READABLE, on_ring) == 0);
    ring->loop = loop;
    list_init(&ring->again);
    timer_init(&ring->later, loop, on_later);
    loop->files.ring = ring;
    loop->files.fixed.uring = &ring->uring;
    return 0;

fail_setup:
    io_uring_queue_exit(&ring->uring);
fail_ring:
    free(ring);
    return err;
}

const struct file_carrier ring_carrier = {
    .kind = "io_uring",
    .start = ring_start,
    .submit = ring_submit,
    .fini = ring_fini,
};
