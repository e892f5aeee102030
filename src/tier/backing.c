#include "tier/backing.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/error.h"
#include "loop/file.h"

enum {
    FIX_MOST_US = 10000 /* of a processor, for one slice: whoever submits to the ring waits meanwhile */
};

/* One after the other, each by jobs. */
enum backing_step { STEP_TOUCH, STEP_COUNT, STEP_FIX };

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
    bool working; /* a job is under way */
    enum backing_step step;
    uint64_t slice_bytes;
    uint64_t counted_bytes;
    int err; /* of the touching */
    int fix_err;
    uint64_t unfixed_bytes; /* that are to be */
    bool fixed;             /* some may be */
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
    CHECK(!backing->working);
    if (backing->fixed)
        file_memory_end(backing->loop);
    memory_release(&backing->memory);
    free(backing);
}

void *backing_base(const struct backing *backing)
{
    return backing->memory.base;
}

static int touch(struct backing *backing)
{
    if (backing->memory.pages != MEMORY_EXPLICIT && loop_available_memory_bytes() < backing->slice_bytes + BACKING_LEAVES_BYTES)
        return -ENOMEM;
    return memory_touch((uint8_t *)backing->memory.base + backing->touched_bytes, backing->slice_bytes);
}

static int fix(struct backing *backing)
{
    uint64_t begun_us = loop_cpu_us();
    int err = file_memory_next(backing->loop);
    return err == 0 && loop_cpu_us() - begun_us > FIX_MOST_US ? -EBUSY : err;
}

static void work(struct job *job)
{
    struct backing *backing = CONTAINER_OF(job, struct backing, job);
    switch (backing->step) {
    case STEP_TOUCH:
        backing->err = touch(backing);
        break;
    case STEP_COUNT:
        backing->counted_bytes = memory_huge_bytes(&backing->memory);
        break;
    case STEP_FIX:
        backing->fix_err = fix(backing);
        break;
    }
}

static void stopped(struct task *task)
{
    struct backing *backing = CONTAINER_OF(task, struct backing, stopped);
    backing->stopped_fn(backing->stopped_arg);
}

static void work_done(struct job *job);

static void work_start(struct backing *backing, enum backing_step step)
{
    backing->step = step;
    backing->working = true;
    job_start(backing->loop, &backing->job, work, work_done);
}

static void touch_next(struct backing *backing)
{
    backing->slice_bytes = min_u64(BACKING_SLICE_BYTES, backing->bytes - backing->touched_bytes);
    work_start(backing, backing->err != 0 || backing->slice_bytes == 0 ? STEP_COUNT : STEP_TOUCH);
}

static void touched(struct backing *backing)
{
    if (backing->err == 0)
        backing->touched_bytes += backing->slice_bytes;
    else
        log_warn(backing->log, "prefault_ended", "touched=%llu of=%llu err=\"%s\"", (unsigned long long)backing->touched_bytes,
                 (unsigned long long)backing->bytes, error_text(backing->err));
    touch_next(backing);
}

/* In huge pages nothing is gained, and to fix them costs a kernel more with each slice that it has. */
static void counted(struct backing *backing)
{
    backing->huge_bytes = backing->counted_bytes;
    if (backing->huge_bytes >= backing->touched_bytes / 2 || backing->touched_bytes == 0)
        return;
    backing->fixed = file_memory_begin(backing->loop, backing->memory.base, backing->touched_bytes, BACKING_SLICE_BYTES) == 0;
    if (!backing->fixed)
        return;
    file_memory_pages_are_small(backing->loop);
    backing->unfixed_bytes = backing->touched_bytes;
    work_start(backing, STEP_FIX);
}

static void fixed_one(struct backing *backing)
{
    backing->unfixed_bytes -= min_u64(backing->unfixed_bytes, BACKING_SLICE_BYTES);
    if (backing->fix_err == -EBUSY)
        log_info(backing->log, "fixed_buffers_slow", "left=%llu what=\"it is ordinary memory\"",
                 (unsigned long long)backing->unfixed_bytes);
    else if (backing->fix_err == 0 && backing->unfixed_bytes > 0)
        work_start(backing, STEP_FIX);
}

static void work_done(struct job *job)
{
    struct backing *backing = CONTAINER_OF(job, struct backing, job);
    backing->working = false;
    if (backing->stopping)
        stopped(&backing->stopped);
    else if (backing->step == STEP_TOUCH)
        touched(backing);
    else if (backing->step == STEP_COUNT)
        counted(backing);
    else
        fixed_one(backing);
}

void backing_touch_start(struct backing *backing)
{
    CHECK(!backing->working && backing->touched_bytes == 0 && backing->err == 0);
    touch_next(backing);
}

void backing_stop(struct backing *backing, backing_stopped_fn fn, void *arg)
{
    CHECK(!backing->stopping);
    backing->stopping = true;
    backing->stopped_fn = fn;
    backing->stopped_arg = arg;
    task_init(&backing->stopped, backing->loop, stopped);
    if (!backing->working)
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
