#include <errno.h>
#include <unistd.h>

#include "loop/loop_impl.h"

static int64_t file_op_carry_out(const struct file_op *op)
{
    switch (op->kind) {
    case FILE_READ:
        return preadv(op->file->fd, op->iov, (int)op->iov_count, (off_t)op->offset);
    case FILE_WRITE:
        return pwritev(op->file->fd, op->iov, (int)op->iov_count, (off_t)op->offset);
    case FILE_SYNC:
        return fsync(op->file->fd);
    }
    errno = EINVAL;
    return -1;
}

static void file_op_work(struct job *job)
{
    struct file_op *op = CONTAINER_OF(job, struct file_op, job);
    int64_t result;
    do
        result = file_op_carry_out(op);
    while (result < 0 && errno == EINTR);
    op->result = result < 0 ? -errno : result;
}

static void file_op_work_done(struct job *job)
{
    struct file_op *op = CONTAINER_OF(job, struct file_op, job);
    file_op_finish(op, op->result);
}

static void file_threads_start(struct loop *loop, struct file_op *op)
{
    op->job.loop = loop;
    op->job.work = file_op_work;
    op->job.done = file_op_work_done;
    workers_start(&loop->files.threads, &op->job);
}

static void file_threads_submit(struct loop *loop)
{
    (void)loop;
}

static void file_threads_fini(struct loop *loop)
{
    workers_fini(&loop->files.threads);
}

int file_threads_init(struct loop *loop, unsigned count)
{
    return workers_init(&loop->files.threads, loop, count);
}

const struct file_carrier file_threads_carrier = {
    .kind = "threads",
    .start = file_threads_start,
    .submit = file_threads_submit,
    .fini = file_threads_fini,
};
