#include "loop/loop_impl.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

enum { JOB_THREADS = 8 };

static void on_prepare(uv_prepare_t *handle)
{
    struct loop *loop = handle->data;
    /* The disk works while the loop sends. */
    loop_lock(loop);
    files_take(loop);
    loop_unlock(loop);
    files_submit(loop);
    conns_flush(loop);
    loop_lock(loop);
    timers_arm(loop);
    loop_unlock(loop);
}

/* Only those that were posted before this turn: a task that posts itself must not keep the loop from polling. */
static void on_idle(uv_idle_t *handle)
{
    struct loop *loop = handle->data;
    uv_idle_stop(handle);
    struct list now;
    list_init(&now);
    loop_lock(loop);
    list_move_all(&now, &loop->tasks);
    struct list *link;
    while ((link = list_pop_front(&now))) {
        struct task *task = CONTAINER_OF(link, struct task, link);
        task->fn(task);
        loop_unlock(loop); /* others may be waiting for it */
        loop_lock(loop);
    }
    loop_unlock(loop);
}

void loop_wake(struct loop *loop)
{
    if (loop_on_its_thread(loop))
        CHECK(uv_idle_start(&loop->idle, on_idle) == 0);
    else
        loop_nudge(loop);
}

static void loop_init_handles(struct loop *loop)
{
    CHECK(uv_prepare_init(&loop->uv, &loop->prepare) == 0);
    CHECK(uv_prepare_start(&loop->prepare, on_prepare) == 0);
    CHECK(uv_idle_init(&loop->uv, &loop->idle) == 0);
    loop->prepare.data = loop;
    loop->idle.data = loop;
    timers_init(loop);
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Also runs the close callbacks of listeners that were closed just before. */
static void loop_close_handles(struct loop *loop)
{
    uv_walk(&loop->uv, close_handle, NULL);
    CHECK(uv_run(&loop->uv, UV_RUN_DEFAULT) == 0);
    CHECK(uv_loop_close(&loop->uv) == 0);
}

int loop_new(struct loop **out, const struct loop_options *options, const struct log *log)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->log = log;
    list_init(&loop->tasks);
    list_init(&loop->dirty_conns);
    atomic_init(&loop->fs_calls, 0);
    int err = uv_loop_init(&loop->uv);
    if (err)
        goto fail_loop;
    loop_init_handles(loop);
    loop->locked = options->locked;
    loop->zero_copy_sends = options->zero_copy_sends;
    err = share_init(loop);
    if (err)
        goto fail_handles;
    if (!options->conns_only)
        err = workers_init(&loop->jobs, loop, options->job_threads ? options->job_threads : JOB_THREADS);
    if (err)
        goto fail_share;
    if (!options->conns_only)
        err = files_init(loop, options);
    if (err)
        goto fail_workers;
    *out = loop;
    return 0;

fail_workers:
    workers_fini(&loop->jobs);
fail_share:
    share_fini(loop);
fail_handles:
    loop_close_handles(loop);
fail_loop:
    free(loop);
    return err;
}

void loop_free(struct loop *loop)
{
    CHECK(loop->open_conns == 0 && loop->open_listeners == 0);
    if (loop->files.carrier) {
        files_fini(loop);
        workers_fini(&loop->jobs);
    }
    share_fini(loop);
    CHECK(!loop->timers && !loop->due_timers);
    CHECK(list_empty(&loop->tasks));
    loop_close_handles(loop);
    free(loop);
}

void loop_run(struct loop *loop)
{
    atomic_store_explicit(&loop->thread, pthread_self(), memory_order_relaxed);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    CHECK(loop->stopping);
    loop->stopping = false;
}

void loop_exit_now(int status)
{
    _exit(status);
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->locked ? loop->now_ms : uv_now(&loop->uv);
}

uint64_t loop_now_us(const struct loop *loop)
{
    (void)loop;
    return uv_hrtime() / 1000;
}

uint64_t loop_boot_us(const struct loop *loop)
{
    (void)loop;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_BOOTTIME, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t loop_wall_ms(const struct loop *loop)
{
    (void)loop;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void task_init(struct task *task, struct loop *loop, task_fn fn)
{
    list_init(&task->link);
    task->loop = loop;
    task->fn = fn;
}

void task_post(struct task *task)
{
    CHECK(loop_is_mine(task->loop));
    if (!list_empty(&task->link))
        return;
    list_push_back(&task->loop->tasks, &task->link);
    loop_wake(task->loop);
}

void task_cancel(struct task *task)
{
    CHECK(loop_is_mine(task->loop));
    list_remove(&task->link);
}

void job_start(struct loop *loop, struct job *job, job_fn work, job_fn done)
{
    job->loop = loop;
    job->work = work;
    job->done = done;
    CHECK(loop->files.carrier && loop_is_mine(loop));
    workers_start(&loop->jobs, job);
}

static void on_signal(uv_signal_t *handle, int signo)
{
    struct loop *loop = handle->data;
    loop->signal_fn(loop->signal_arg, signo == SIGHUP ? SIGNAL_HANG_UP : SIGNAL_END);
}

static int signal_catch(struct loop *loop, uv_signal_t *handle, int signo)
{
    int err = uv_signal_init(&loop->uv, handle);
    if (err)
        return err;
    handle->data = loop;
    return uv_signal_start(handle, on_signal, signo);
}

int loop_catch_signals(struct loop *loop, loop_signal_fn fn, void *arg)
{
    CHECK(!loop->signal_fn);
    loop->signal_fn = fn;
    loop->signal_arg = arg;
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    static const int caught[] = {SIGTERM, SIGINT, SIGHUP};
    int err = 0;
    for (size_t i = 0; i < sizeof caught / sizeof caught[0] && !err; i++)
        err = signal_catch(loop, &loop->signals[i], caught[i]);
    return err;
}
