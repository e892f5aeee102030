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
    TURN_BYTES = 1 << 20, /* that were read: whoever gets them reads them through, and others wait meanwhile */
};

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

/* There is an entry for each operation in flight: the kernel may hold back no more than those. */
static void ring_prepare(struct ring *ring, struct file_op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    CHECK(sqe);
    switch (op->kind) {
    case FILE_READ:
        io_uring_prep_readv(sqe, op->file->fd, op->iov, op->iov_count, op->offset);
        break;
    case FILE_WRITE:
        io_uring_prep_writev(sqe, op->file->fd, op->iov, op->iov_count, op->offset);
        break;
    case FILE_SYNC:
        io_uring_prep_fsync(sqe, op->file->fd, 0);
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    /* A second try goes to a worker, which waits where the first one would not. */
    if (op->file->punt || op->result > 0)
        io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
    op_probe_memory(op);
    PROBE_HAND_OVER(op);
}

static void ring_start(struct loop *loop, struct file_op *op)
{
    ring_prepare(loop->files.ring, op);
}

/* The result of an operation in flight is nobody's: it counts the tries. */
static bool op_wants_again(struct file_op *op, int result)
{
    if (result != -EAGAIN && result != -EINTR)
        return false;
    return ++op->result <= RETRIES_MAX;
}

static void op_finish(struct loop *loop, struct file_op *op, int result)
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
        struct file_op *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        bytes += result > 0 && op->kind == FILE_READ ? (uint64_t)result : 0;
        io_uring_cqe_seen(&ring->uring, cqe);
        PROBE_TAKE_BACK(op);
        op_probe_memory(op);
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
}

static unsigned power_of_two(unsigned at_least)
{
    unsigned n = 1;
    while (n < at_least)
        n *= 2;
    return n;
}

/* The completion queue is twice as long as the submission queue, which holds all that may be in flight: no overflow. */
static int ring_setup(struct ring *ring, unsigned depth)
{
    struct io_uring_params params = {0};
    int err = io_uring_queue_init_params(power_of_two(depth), &ring->uring, &params);
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
