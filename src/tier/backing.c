#include "tier/backing.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/error.h"
#include "loop/file.h"

struct backing {
    struct loop *loop;
    const struct log *log;
    uint64_t bytes;
    uint64_t touched_bytes;
    uint64_t huge_bytes;
    bool stopping;
    backing_stopped_fn stopped_fn;
    void *stopped_arg;
    struct task stopped;
    /* The job's while it is under way, but for the mapping's place. */
    struct memory memory;
    struct job job;
    bool touching; /* a job is under way */
    bool last;     /* the job is, or was, the one that counts */
    uint64_t slice_bytes;
    uint64_t counted_bytes;
    int err;
    bool fixing; /* slices that were touched are fixed, as long as the kernel lets them */
    bool fixed;  /* some may be */
};

int backing_new(struct backing **out, struct loop *loop, const struct log *log, uint64_t bytes)
{
    struct backing *backing = calloc(1, sizeof *backing);
    if (!backing)
        return -ENOMEM;
    *backing = (struct backing){.loop = loop, .log = log, .bytes = bytes};
    int err = memory_reserve(&backing->memory, bytes);
    if (err) {
        free(backing);
        return err;
    }
    *out = backing;
    return 0;
}

void backing_free(struct backing *backing)
{
    if (!backing)
        return;
    CHECK(!backing->touching);
    if (backing->fixed)
        file_memory_end(backing->loop);
    memory_release(&backing->memory);
    free(backing);
}

void *backing_base(const struct backing *backing)
{
    return backing->memory.base;
}

static void touch_work(struct job *job)
{
    struct backing *backing = CONTAINER_OF(job, struct backing, job);
    if (backing->last)
        backing->counted_bytes = memory_huge_bytes(&backing->memory);
    else if (backing->memory.pages != MEMORY_EXPLICIT && loop_available_memory_bytes() < backing->slice_bytes + BACKING_LEAVES_BYTES)
        backing->err = -ENOMEM;
    else
        backing->err = memory_touch((uint8_t *)backing->memory.base + backing->touched_bytes, backing->slice_bytes);
    if (!backing->last && !backing->err && backing->fixing)
        backing->fixing = file_memory_next(backing->loop) == 0;
}

static void stopped(struct task *task)
{
    struct backing *backing = CONTAINER_OF(task, struct backing, stopped);
    backing->stopped_fn(backing->stopped_arg);
}

static void touch_done(struct job *job);

static void touch_next(struct backing *backing)
{
    backing->slice_bytes = min_u64(BACKING_SLICE_BYTES, backing->bytes - backing->touched_bytes);
    backing->last = backing->err != 0 || backing->slice_bytes == 0;
    backing->touching = true;
    job_start(backing->loop, &backing->job, touch_work, touch_done);
}

static void touch_counted(struct backing *backing)
{
    backing->huge_bytes = backing->counted_bytes;
    if (backing->fixed && backing->huge_bytes < backing->touched_bytes / 2)
        file_memory_pages_are_small(backing->loop);
}

static void touch_done(struct job *job)
{
    struct backing *backing = CONTAINER_OF(job, struct backing, job);
    backing->touching = false;
    bool was_last = backing->last;
    if (was_last)
        touch_counted(backing);
    else if (backing->err == 0)
        backing->touched_bytes += backing->slice_bytes;
    else
        log_warn(backing->log, "prefault_ended", "touched=%llu of=%llu err=\"%s\"", (unsigned long long)backing->touched_bytes,
                 (unsigned long long)backing->bytes, error_text(backing->err));
    if (backing->stopping)
        stopped(&backing->stopped);
    else if (!was_last)
        touch_next(backing);
}

void backing_touch_start(struct backing *backing)
{
    CHECK(!backing->touching && backing->touched_bytes == 0 && backing->err == 0);
    backing->fixed = backing->fixing = file_memory_begin(backing->loop, backing->memory.base, backing->bytes, BACKING_SLICE_BYTES) == 0;
    touch_next(backing);
}

void backing_stop(struct backing *backing, backing_stopped_fn fn, void *arg)
{
    CHECK(!backing->stopping);
    backing->stopping = true;
    backing->stopped_fn = fn;
    backing->stopped_arg = arg;
    task_init(&backing->stopped, backing->loop, stopped);
    if (!backing->touching)
        task_post(&backing->stopped);
}

void backing_get_figures(const struct backing *backing, struct backing_figures *out)
{
    static const char *const names[] = {[MEMORY_SMALL] = "none", [MEMORY_TRANSPARENT] = "transparent", [MEMORY_EXPLICIT] = "explicit"};
    *out = (struct backing_figures){
        .huge_pages = names[backing->memory.pages],
        .touched_bytes = backing->touched_bytes,
        .huge_bytes = backing->huge_bytes,
    };
}
