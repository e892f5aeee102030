#include "loop/file.h"

#include <errno.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/loop_impl.h"

enum { IO_DEPTH = 64, IO_DEPTH_MAX = 16384, IO_THREADS = 8, IOV_MAX_COUNT = 1024, OTHERS_SHARE = 5 };

/* Some disks say of none that it is done while more wait: what is read together comes together. */
enum { READ_BYTES = 8 << 20, FUSE_READ_BYTES = 32 << 20 };

int files_init(struct loop *loop, const struct loop_options *options)
{
    struct file_io *files = &loop->files;
    list_init(&files->reads);
    list_init(&files->others);
    files->depth = options->io_depth ? options->io_depth : IO_DEPTH;
    if (files->depth > IO_DEPTH_MAX)
        files->depth = IO_DEPTH_MAX;
    files->most_read_bytes = options->io_bytes;
    if (!options->forbid_ring) {
        int err = ring_new(loop, files->depth);
        if (err == 0) {
            files->carrier = &ring_carrier;
            if (options->forbid_fixed)
                files->fixed.uring = NULL;
            return 0;
        }
        log_warn(loop->log, "io_uring_refused", "err=\"%s\"", error_text(err));
    }
    files->carrier = &file_threads_carrier;
    return file_threads_init(loop, options->io_threads ? options->io_threads : IO_THREADS);
}

void files_fini(struct loop *loop)
{
    CHECK(list_empty(&loop->files.reads) && list_empty(&loop->files.others));
    CHECK(loop->files.counts.in_flight == 0);
    loop->files.carrier->fini(loop);
}

/* Reads and others wait: are the others to have the next place? */
static bool others_turn(const struct file_io *files)
{
    uint64_t others = files->counts.in_flight - files->counts.reads_in_flight;
    if (files->depth >= OTHERS_SHARE)
        return others < files->depth / OTHERS_SHARE;
    return others == 0 && files->reads_in_row >= OTHERS_SHARE - 1;
}

/* May the first of those that wait, of which there are some, go? */
static bool read_may_go(const struct file_io *files)
{
    const struct file_op *op = CONTAINER_OF(list_first(&files->reads), struct file_op, link);
    uint64_t most = files->most_read_bytes ? files->most_read_bytes : op->file->punt ? FUSE_READ_BYTES : READ_BYTES;
    return files->counts.reads_in_flight_bytes < most;
}

static struct list *next_waiting(struct file_io *files)
{
    if (list_empty(&files->reads))
        return list_pop_front(&files->others);
    if (!list_empty(&files->others) && others_turn(files))
        return list_pop_front(&files->others);
    if (!read_may_go(files))
        return NULL;
    files->counts.reads_first += !list_empty(&files->others);
    return list_pop_front(&files->reads);
}

static void op_take(struct loop *loop, struct file_op *op)
{
    struct file_io *files = &loop->files;
    files->counts.waiting--;
    files->counts.in_flight++;
    op->taken = true;
    if (op->kind == FILE_READ) {
        files->counts.reads_waiting--;
        files->counts.reads_in_flight++;
        files->counts.reads_in_flight_bytes += op->bytes;
        files->reads_in_row++;
    } else {
        files->reads_in_row = 0;
    }
    files->carrier->start(loop, op);
}

void files_take(struct loop *loop)
{
    struct file_io *files = &loop->files;
    struct list *link;
    while (files->counts.in_flight < files->depth && (link = next_waiting(files)))
        op_take(loop, CONTAINER_OF(link, struct file_op, link));
}

void files_submit(struct loop *loop)
{
    if (loop->files.carrier)
        loop->files.carrier->submit(loop);
}

static void file_op_start(struct loop *loop, struct file_op *op, enum file_op_kind kind, file_op_fn fn)
{
    CHECK(op->file->fd >= 0 && loop_is_mine(loop));
    CHECK(op->iov_count <= IOV_MAX_COUNT || kind == FILE_SYNC);
    op->kind = kind;
    op->fn = fn;
    op->loop = loop;
    op->result = 0;
    op->taken = false;
    op->parts = 0;
    op->bytes = 0;
    for (unsigned i = 0; kind == FILE_READ && i < op->iov_count; i++)
        op->bytes += op->iov[i].iov_len;
    list_push_back(kind == FILE_READ ? &loop->files.reads : &loop->files.others, &op->link);
    loop->files.counts.waiting++;
    loop->files.counts.reads_waiting += kind == FILE_READ;
    loop_nudge(loop);
}

void file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop->files.counts.reads++;
    file_op_start(loop, op, FILE_READ, fn);
}

void file_read_hangs(struct file_op *op)
{
    if (op->taken)
        op->loop->files.counts.reads_in_flight_bytes -= op->bytes;
    op->bytes = 0;
    loop_nudge(op->loop);
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
    counts->reads_in_flight -= op->kind == FILE_READ;
    counts->reads_in_flight_bytes -= op->bytes;
    op->bytes = 0;
    if (result > 0 && op->kind == FILE_READ)
        counts->read_bytes += (uint64_t)result;
    if (result > 0 && op->kind == FILE_WRITE)
        counts->written_bytes += (uint64_t)result;
    op->result = result;
    op->fn(op);
}

static void say_fixed_ended(const struct loop *loop, uint64_t bytes, int err)
{
    struct rlimit most = {0};
    (void)getrlimit(RLIMIT_MEMLOCK, &most);
    log_info(loop->log, "fixed_buffers_ended", "fixed=%llu of=%llu memlock=%llu err=\"%s\"",
             (unsigned long long)fixed_bytes(&loop->files.fixed), (unsigned long long)bytes, (unsigned long long)most.rlim_cur,
             error_text(err));
}

int file_memory_begin(struct loop *loop, void *base, uint64_t bytes, uint64_t slice_bytes)
{
    int err = fixed_begin(&loop->files.fixed, base, bytes, slice_bytes);
    if (err && err != -EOPNOTSUPP)
        say_fixed_ended(loop, bytes, err);
    return err;
}

int file_memory_next(struct loop *loop)
{
    int err = fixed_next(&loop->files.fixed);
    if (err)
        say_fixed_ended(loop, loop->files.fixed.bytes, err);
    return err;
}

void file_memory_pages_are_small(struct loop *loop)
{
    loop->files.fixed.small_pages = true;
}

void file_memory_end(struct loop *loop)
{
    fixed_end(&loop->files.fixed);
}

const char *loop_io_kind(const struct loop *loop)
{
    return loop->files.carrier->kind;
}

void loop_file_counts(const struct loop *loop, struct file_counts *out)
{
    *out = loop->files.counts;
    out->fixed_bytes = fixed_bytes(&loop->files.fixed);
    out->fixed_slices = atomic_load_explicit(&loop->files.fixed.slices, memory_order_relaxed);
    out->other = atomic_load_explicit(&loop->fs_calls, memory_order_relaxed);
}
