#include "loop/file.h"

#include "base/check.h"
#include "base/error.h"
#include "loop/loop_impl.h"

enum { IO_DEPTH = 64, IO_DEPTH_MAX = 16384, IO_THREADS = 8, IOV_MAX_COUNT = 1024 };

int files_init(struct loop *loop, const struct loop_options *options)
{
    struct file_io *files = &loop->files;
    list_init(&files->waiting);
    files->depth = options->io_depth ? options->io_depth : IO_DEPTH;
    if (files->depth > IO_DEPTH_MAX)
        files->depth = IO_DEPTH_MAX;
    if (!options->forbid_ring) {
        int err = ring_new(loop, files->depth);
        if (err == 0) {
            files->carrier = &ring_carrier;
            return 0;
        }
        log_warn(loop->log, "io_uring_refused", "err=\"%s\"", error_text(err));
    }
    files->carrier = &file_threads_carrier;
    return file_threads_init(loop, options->io_threads ? options->io_threads : IO_THREADS);
}

void files_fini(struct loop *loop)
{
    CHECK(list_empty(&loop->files.waiting));
    CHECK(loop->files.counts.in_flight == 0);
    loop->files.carrier->fini(loop);
}

void files_submit(struct loop *loop)
{
    struct file_io *files = &loop->files;
    struct list *link;
    while (files->counts.in_flight < files->depth && (link = list_pop_front(&files->waiting))) {
        files->counts.waiting--;
        files->counts.in_flight++;
        files->carrier->start(loop, CONTAINER_OF(link, struct file_op, link));
    }
    files->carrier->submit(loop);
}

static void file_op_start(struct loop *loop, struct file_op *op, enum file_op_kind kind, file_op_fn fn)
{
    CHECK(op->file->fd >= 0);
    CHECK(op->iov_count <= IOV_MAX_COUNT || kind == FILE_SYNC);
    op->kind = kind;
    op->fn = fn;
    op->loop = loop;
    op->result = 0;
    list_push_back(&loop->files.waiting, &op->link);
    loop->files.counts.waiting++;
}

void file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop->files.counts.reads++;
    file_op_start(loop, op, FILE_READ, fn);
}

void file_write_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop->files.counts.writes++;
    file_op_start(loop, op, FILE_WRITE, fn);
}

void file_sync_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop->files.counts.syncs++;
    file_op_start(loop, op, FILE_SYNC, fn);
}

void file_op_finish(struct file_op *op, int64_t result)
{
    struct file_counts *counts = &op->loop->files.counts;
    counts->in_flight--;
    if (result > 0 && op->kind == FILE_READ)
        counts->read_bytes += (uint64_t)result;
    if (result > 0 && op->kind == FILE_WRITE)
        counts->written_bytes += (uint64_t)result;
    op->result = result;
    op->fn(op);
}

const char *loop_io_kind(const struct loop *loop)
{
    return loop->files.carrier->kind;
}

void loop_file_counts(const struct loop *loop, struct file_counts *out)
{
    *out = loop->files.counts;
    out->other = atomic_load_explicit(&loop->fs_calls, memory_order_relaxed);
}
