/* sim_loop.c - src/loop/loop.h in virtual time. Jobs run on stacks of their own, so that a blocking call takes time while others go on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/conn.h"
#include "loop/loop.h"
#include "sim.h"

enum { JOB_THREADS = 4, STACK_BYTES = 256 * 1024, IO_DEPTH = 64 };

struct loop {
    uint64_t now_ms;
    struct list tasks;
    struct list jobs; /* queued */
    unsigned running; /* jobs */
    struct event *turn;
    uint32_t restless_turns; /* running, in each of which a task posted itself again */
    bool stopped;
    bool locked; /* it has a lock, */
    bool held;   /* which somebody holds */
    struct list posts;
    struct list team; /* with the other loops of its process */
    unsigned timers;
    struct loop_parts parts;
};

struct routine {
    struct list link; /* of its host */
    ucontext_t here, back;
    struct job *job; /* NULL: free */
    struct loop *loop;
    bool ended;
    uint8_t *stack;
};

/* ---- life ---- */

int loop_new(struct loop **out, const struct loop_options *options, const struct log *log)
{
    (void)log;
    struct loop *loop = seam_alloc(16, sizeof *loop);
    list_init(&loop->tasks);
    list_init(&loop->jobs);
    list_init(&loop->parts.dirty_conns);
    list_init(&loop->parts.files_waiting);
    list_init(&loop->posts);
    list_init(&loop->team);
    loop->locked = options->locked;
    loop->parts.zero_copy_sends = options->zero_copy_sends;
    loop->parts.files_depth = options->io_depth ? options->io_depth : IO_DEPTH;
    *out = loop;
    loop_entered(loop);
    return 0;
}

void loop_free(struct loop *loop)
{
    const struct loop_parts *parts = &loop->parts;
    CHECK(list_empty(&loop->jobs) && loop->running == 0);
    CHECK(list_empty(&parts->files_waiting) && parts->files_in_flight == 0);
    CHECK(parts->open_conns == 0 && parts->open_listeners == 0);
    CHECK(list_empty(&loop->tasks) && list_empty(&loop->posts) && !loop->held);
    if (loop->turn)
        event_cancel(loop->turn);
    if (loop->timers > 0)
        sim_fail("%u timers are active when the loop is freed", loop->timers);
    list_remove(&loop->team);
    free(loop);
}

void loop_joins(struct loop *loop, struct loop *other)
{
    list_push_back(&other->team, &loop->team);
}

void loop_run(struct loop *loop)
{
    (void)loop;
    abort();
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}

bool loop_has_stopped(const struct loop *loop)
{
    return loop->stopped;
}

_Noreturn void loop_exit_now(int status)
{
    note("exit", (uint64_t)status, 0, 0);
    sim_escape(ESCAPE_EXIT);
}

const char *loop_io_kind(const struct loop *loop)
{
    (void)loop;
    return "simulator";
}

struct loop_parts *loop_parts(struct loop *loop)
{
    return &loop->parts;
}

/* ---- time and chance ---- */

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}

uint64_t loop_now_us(const struct loop *loop)
{
    (void)loop;
    return 5000 * (uint64_t)MS + sim->now_us;
}

uint64_t loop_boot_us(const struct loop *loop)
{
    return loop_now_us(loop);
}

uint64_t loop_wall_ms(const struct loop *loop)
{
    (void)loop;
    return sim_wall_ms();
}

int loop_random(struct loop *loop, void *bytes, size_t len)
{
    (void)loop;
    uint8_t *at = bytes;
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)(chance() >> 24);
    return 0;
}

static void entered(struct loop *loop)
{
    loop->now_ms = loop_now_us(loop) / MS;
}

void loop_entered(struct loop *loop)
{
    entered(loop);
    for (struct list *at = loop->team.next; at != &loop->team; at = at->next)
        entered(CONTAINER_OF(at, struct loop, team));
}

/* ---- the lock: one thread, so it only looks whether it is taken and let go as it should be ---- */

void loop_lock(struct loop *loop)
{
    if (!loop->locked)
        return;
    CHECK(!loop->held);
    loop->held = true;
    loop_entered(loop);
}

void loop_unlock(struct loop *loop)
{
    if (!loop->locked)
        return;
    CHECK(loop->held);
    loop->held = false;
}

void loop_let_others(struct loop *loop)
{
    loop_unlock(loop);
    loop_lock(loop);
}

bool loop_is_mine(const struct loop *loop)
{
    return !loop->locked || loop->held;
}

bool loop_is_held(struct loop *loop)
{
    bool held = loop->held;
    for (struct list *at = loop->team.next; at != &loop->team; at = at->next)
        held |= CONTAINER_OF(at, struct loop, team)->held;
    return held;
}

void loop_holds(const struct loop *loop, struct loop_holds *out)
{
    (void)loop;
    *out = (struct loop_holds){0};
}

struct mutex {
    bool held;
};

struct mutex *mutex_new(void)
{
    return calloc(1, sizeof(struct mutex));
}

void mutex_free(struct mutex *mutex)
{
    free(mutex);
}

void mutex_lock(struct mutex *mutex)
{
    CHECK(!mutex->held);
    mutex->held = true;
}

void mutex_unlock(struct mutex *mutex)
{
    CHECK(mutex->held);
    mutex->held = false;
}

/* ---- turns: tasks, connections, file operations ---- */

/* Did one of them post itself again? */
static bool run_tasks(struct loop *loop, struct list *tasks)
{
    bool again = false;
    struct list now;
    list_init(&now);
    list_move_all(&now, tasks);
    for (struct list *at; (at = list_pop_front(&now)) != NULL;) {
        struct task *task = CONTAINER_OF(at, struct task, link);
        loop_lock(loop);
        task->fn(task);
        loop_unlock(loop);
        again |= tasks->prev == at;
    }
    return again;
}

/* A step of 64 keys a turn is through with all that a seed has long before; a task that goes on for ever keeps a core busy. */
enum { RESTLESS_MOST = 2000 };

static void turn(void *arg)
{
    struct loop *loop = arg;
    loop->turn = NULL;
    (void)run_tasks(loop, &loop->posts);
    loop->restless_turns = run_tasks(loop, &loop->tasks) ? loop->restless_turns + 1 : 0;
    if (loop->restless_turns > RESTLESS_MOST)
        sim_fail("the loop does not rest: tasks have posted themselves in %d turns running", RESTLESS_MOST);
    conns_turn(loop);
    files_turn(loop);
}

void loop_post(struct task *task)
{
    CHECK(!task->loop->locked && list_empty(&task->link));
    list_push_back(&task->loop->posts, &task->link);
}

static void settle(struct loop *loop)
{
    if (!sim->host->life || loop->turn)
        return;
    if (!list_empty(&loop->tasks) || !list_empty(&loop->posts) || conns_dirty(loop) || files_waiting(loop))
        loop->turn = event_add(chance_below(20), true, turn, loop);
}

void loop_settle(struct loop *loop)
{
    settle(loop);
    for (struct list *at = loop->team.next; at != &loop->team; at = at->next)
        settle(CONTAINER_OF(at, struct loop, team));
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
    if (list_empty(&task->link))
        list_push_back(&task->loop->tasks, &task->link);
}

void task_cancel(struct task *task)
{
    CHECK(loop_is_mine(task->loop));
    list_remove(&task->link);
}

/* ---- timers: an event each, kept in `child` ---- */

static void timer_fires(void *arg)
{
    struct timer *timer = arg;
    timer->active = false;
    timer->child = NULL;
    timer->loop->timers--;
    struct loop *loop = timer->loop;
    loop_lock(loop);
    timer->fn(timer);
    loop_unlock(loop);
}

void timer_init(struct timer *timer, struct loop *loop, timer_fn fn)
{
    *timer = (struct timer){.loop = loop, .fn = fn};
}

void timer_start(struct timer *timer, uint64_t after_ms)
{
    enum { FOREVER_MS = 1000 * 1000 * 1000 };
    CHECK(loop_is_mine(timer->loop));
    timer_stop(timer);
    timer->active = true;
    timer->loop->timers++;
    timer->due_ms = timer->loop->now_ms + after_ms;
    uint64_t late_us = chance_one_in(8) ? chance_below(20 * MS) : chance_below(MS);
    uint64_t delay_us = min_u64(after_ms, FOREVER_MS) * MS + late_us;
    timer->child = (struct timer *)(void *)event_add(delay_us, true, timer_fires, timer);
}

void timer_stop(struct timer *timer)
{
    if (!timer->active)
        return;
    event_cancel((struct event *)(void *)timer->child);
    timer->child = NULL;
    timer->active = false;
    timer->loop->timers--;
}

/* ---- jobs ---- */

static void job_begins(void *arg);

static void jobs_next(struct loop *loop)
{
    while (loop->running < JOB_THREADS && !list_empty(&loop->jobs)) {
        struct job *job = CONTAINER_OF(list_pop_front(&loop->jobs), struct job, link);
        loop->running++;
        event_add(chance_delay(2 * MS), true, job_begins, job);
    }
}

static void job_ends(void *arg)
{
    struct job *job = arg;
    struct loop *loop = job->loop;
    loop->running--;
    jobs_next(loop);
    loop_lock(loop);
    job->done(job);
    loop_unlock(loop);
}

static void routine_main(void)
{
    for (;;) {
        struct routine *routine = sim->routine;
        routine->job->work(routine->job);
        routine->ended = true;
        swapcontext(&routine->here, &routine->back);
    }
}

/* Not inline: getcontext() returns twice. */
static __attribute__((noinline)) struct routine *routine_free(void)
{
    for (struct list *at = sim->host->routines.next; at != &sim->host->routines; at = at->next)
        if (!CONTAINER_OF(at, struct routine, link)->job)
            return CONTAINER_OF(at, struct routine, link);
    struct routine *routine = sim_alloc(sizeof *routine);
    routine->stack = sim_alloc(STACK_BYTES);
    list_push_back(&sim->host->routines, &routine->link);
    return routine;
}

/* Until it pauses or ends. */
static void routine_go(void *arg)
{
    struct routine *routine = arg;
    sim->routine = routine;
    swapcontext(&routine->back, &routine->here);
    sim->routine = NULL;
    if (sim->pending != ESCAPE_NONE) {
        enum escape escape = sim->pending;
        sim->pending = ESCAPE_NONE;
        sim_escape(escape);
    }
    if (!routine->ended)
        return;
    struct job *job = routine->job;
    routine->job = NULL;
    event_add(chance_delay(MS), true, job_ends, job);
}

static void job_begins(void *arg)
{
    struct routine *routine = routine_free();
    routine->job = arg;
    routine->ended = false;
    getcontext(&routine->here);
    routine->here.uc_stack.ss_sp = routine->stack;
    routine->here.uc_stack.ss_size = STACK_BYTES;
    routine->here.uc_link = NULL;
    makecontext(&routine->here, routine_main, 0);
    routine_go(routine);
}

void routine_pause(uint64_t delay_us)
{
    struct routine *routine = sim->routine;
    if (!routine)
        return;
    event_add(delay_us, true, routine_go, routine);
    swapcontext(&routine->here, &routine->back);
}

void routines_drop(void)
{
    for (struct list *at; (at = list_pop_front(&sim->host->routines)) != NULL;) {
        struct routine *routine = CONTAINER_OF(at, struct routine, link);
        sim_free(routine->stack);
        sim_free(routine);
    }
}

_Noreturn void sim_escape(enum escape escape)
{
    struct routine *routine = sim->routine;
    if (!routine)
        longjmp(sim->out, (int)escape);
    sim->pending = escape;
    swapcontext(&routine->here, &routine->back);
    abort();
}

void job_start(struct loop *loop, struct job *job, job_fn work, job_fn done)
{
    CHECK(loop_is_mine(loop));
    job->loop = loop;
    job->work = work;
    job->done = done;
    list_push_back(&loop->jobs, &job->link);
    jobs_next(loop);
}

/* ---- the rest of the process ---- */

int loop_catch_signals(struct loop *loop, loop_signal_fn fn, void *arg)
{
    (void)loop, (void)fn, (void)arg;
    return 0;
}

int loop_boot_mark(uint8_t out[BOOT_MARK_BYTES])
{
    memset(out, 1, BOOT_MARK_BYTES);
    return 0;
}

int loop_host_name(char *out, size_t out_len)
{
    snprintf(out, out_len, "sim");
    return 0;
}

uint64_t loop_raise_file_limit(void)
{
    return 20000;
}

uint64_t loop_host_memory_bytes(void)
{
    return 0;
}

uint64_t loop_available_memory_bytes(void)
{
    return UINT64_MAX;
}

uint64_t loop_rss_bytes(void)
{
    return 0;
}

uint64_t loop_cpu_ms(void)
{
    return 0;
}

uint64_t loop_cpu_us(void)
{
    return 0;
}

int loop_write_small_file(const char *path, const char *text)
{
    (void)path, (void)text;
    return 0;
}

int loop_remove_small_file(const char *path, const char *text)
{
    (void)path, (void)text;
    return 0;
}

int64_t loop_read_small_file(const char *path, char *text, size_t len)
{
    (void)path, (void)text, (void)len;
    return -ENOENT;
}

int64_t loop_read_secret_file(const char *path, char *text, size_t len, struct file_rights *rights)
{
    (void)path, (void)text, (void)len, (void)rights;
    return -ENOENT;
}

int memory_reserve(struct memory *memory, uint64_t bytes)
{
    *memory = (struct memory){.base = seam_alloc(BLOCK_BYTES, bytes), .mapped_bytes = bytes};
    return 0;
}

void memory_release(struct memory *memory)
{
    free(memory->base);
}

int memory_touch(void *at, uint64_t bytes)
{
    (void)at, (void)bytes;
    return 0;
}

uint64_t memory_huge_bytes(const struct memory *memory)
{
    (void)memory;
    return 0;
}

/* ---- a failed assertion is the seed's failure ---- */

_Noreturn void __wrap_check_failed(const char *file, int line, const char *what);
_Noreturn void __wrap_check_failed(const char *file, int line, const char *what)
{
    sim_fail("CHECK failed at %s:%d: %s", file, line, what);
}
