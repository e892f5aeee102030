/* Timers, tasks, jobs, signals, and what a loop says about the process and its memory. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loop/loop.h"
#include "test/support/quiet.h"
#include "test/support/scratch.h"

static struct loop *make_loop(void)
{
    struct loop *loop;
    struct loop_options options = {.job_threads = 2};
    cr_assert_eq(loop_new(&loop, &options, &quiet), 0);
    return loop;
}

/* ---- timers ---- */

enum { MANY = 500 };

struct ticker {
    struct timer timer;
    struct bench *bench;
    uint64_t started_ms;
    uint64_t after_ms;
    unsigned fired;
    bool stopped;
};

struct bench {
    struct loop *loop;
    struct ticker tickers[MANY];
    struct timer end;
    uint64_t last_due_ms;
    unsigned fired;
    unsigned seed;
};

static unsigned bench_random(struct bench *bench, unsigned below)
{
    bench->seed = bench->seed * 1103515245u + 12345u;
    return (bench->seed >> 16) % below;
}

static void on_end(struct timer *timer)
{
    loop_stop(timer->loop);
}

static void ticker_start(struct ticker *ticker, unsigned after_ms)
{
    ticker->started_ms = loop_now_ms(ticker->bench->loop);
    ticker->after_ms = after_ms;
    ticker->stopped = false;
    timer_start(&ticker->timer, after_ms);
}

/* Stop, restart or leave some other one, active or not, due in this very turn or not. */
static void bench_disturb(struct bench *bench)
{
    struct ticker *other = &bench->tickers[bench_random(bench, MANY)];
    unsigned what = bench_random(bench, 4);
    if (what == 0) {
        timer_stop(&other->timer);
        other->stopped = true;
    } else if (what == 1 && loop_now_ms(bench->loop) < bench->end.due_ms - 60) {
        ticker_start(other, bench_random(bench, 50));
    }
}

static void on_ticker(struct timer *timer)
{
    struct ticker *ticker = CONTAINER_OF(timer, struct ticker, timer);
    struct bench *bench = ticker->bench;
    cr_assert(!ticker->stopped, "a stopped timer ran");
    cr_assert(!timer->active);
    cr_assert_geq(loop_now_ms(bench->loop), ticker->started_ms + ticker->after_ms);
    ticker->fired++;
    ticker->stopped = true; /* until it is started again */
    bench->fired++;
    bench_disturb(bench);
}

Test(timer, any_mixture_of_start_stop_and_restart, .timeout = 20)
{
    for (unsigned seed = 1; seed <= 5; seed++) {
        struct bench bench = {.loop = make_loop(), .seed = seed};
        timer_init(&bench.end, bench.loop, on_end);
        timer_start(&bench.end, 200);
        for (unsigned i = 0; i < MANY; i++) {
            bench.tickers[i].bench = &bench;
            timer_init(&bench.tickers[i].timer, bench.loop, on_ticker);
            ticker_start(&bench.tickers[i], bench_random(&bench, 60));
        }
        for (unsigned i = 0; i < MANY; i++)
            bench_disturb(&bench);
        loop_run(bench.loop);
        cr_assert_gt(bench.fired, MANY / 3);
        for (unsigned i = 0; i < MANY; i++)
            cr_assert(bench.tickers[i].stopped, "a timer was lost");
        loop_free(bench.loop);
    }
}

static void on_ordered(struct timer *timer)
{
    struct ticker *ticker = CONTAINER_OF(timer, struct ticker, timer);
    struct bench *bench = ticker->bench;
    cr_assert_geq(ticker->timer.due_ms, bench->last_due_ms);
    bench->last_due_ms = ticker->timer.due_ms;
    bench->fired++;
}

Test(timer, in_order_of_their_times, .timeout = 20)
{
    struct bench bench = {.loop = make_loop(), .seed = 9};
    timer_init(&bench.end, bench.loop, on_end);
    timer_start(&bench.end, 40);
    for (unsigned i = 0; i < MANY; i++) {
        bench.tickers[i].bench = &bench;
        timer_init(&bench.tickers[i].timer, bench.loop, on_ordered);
        timer_start(&bench.tickers[i].timer, bench_random(&bench, 40));
    }
    loop_run(bench.loop);
    cr_assert_eq(bench.fired, MANY);
    loop_free(bench.loop);
}

struct again {
    struct timer timer;
    struct job job;
    unsigned count;
    atomic_bool worked;
};

static void again_work(struct job *job)
{
    atomic_store(&CONTAINER_OF(job, struct again, job)->worked, true);
}

static void again_done(struct job *job)
{
    struct again *again = CONTAINER_OF(job, struct again, job);
    timer_stop(&again->timer);
    loop_stop(job->loop);
}

static void on_again(struct timer *timer)
{
    struct again *again = CONTAINER_OF(timer, struct again, timer);
    if (again->count++ == 0)
        job_start(timer->loop, &again->job, again_work, again_done);
    timer_start(timer, 0);
}

Test(timer, one_that_restarts_itself_at_once_leaves_the_loop_its_turns, .timeout = 10)
{
    struct loop *loop = make_loop();
    struct again again = {0};
    timer_init(&again.timer, loop, on_again);
    timer_start(&again.timer, 0);
    loop_run(loop);
    cr_assert(atomic_load(&again.worked));
    cr_assert_geq(again.count, 1);
    loop_free(loop);
}

Test(timer, never_means_never_and_stop_is_harmless, .timeout = 10)
{
    struct timespec before;
    struct timespec after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    struct bench bench = {.loop = make_loop()};
    struct ticker *never = &bench.tickers[0];
    never->bench = &bench;
    timer_init(&never->timer, bench.loop, on_ticker);
    timer_stop(&never->timer);
    timer_start(&never->timer, UINT64_MAX);
    timer_init(&bench.end, bench.loop, on_end);
    timer_start(&bench.end, 50);
    loop_run(bench.loop);
    clock_gettime(CLOCK_MONOTONIC, &after);
    /* The loop's clock may be a tick behind. */
    cr_assert_geq((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000, 40);
    cr_assert_eq(never->fired, 0);
    timer_stop(&never->timer);
    timer_stop(&never->timer);
    loop_free(bench.loop);
}

Test(loop, is_not_freed_while_a_timer_is_active, .signal = SIGABRT, .timeout = 10)
{
    struct loop *loop = make_loop();
    struct timer timer;
    timer_init(&timer, loop, on_end);
    timer_start(&timer, 1000);
    loop_free(loop);
}

/* ---- tasks ---- */

struct step {
    struct task task;
    struct steps *steps;
    char name;
};

struct steps {
    struct loop *loop;
    struct step a, b, c;
    struct timer end;
    char trace[16];
    unsigned count;
};

static void step_note(struct step *step)
{
    cr_assert_lt(step->steps->count, sizeof step->steps->trace - 1);
    step->steps->trace[step->steps->count++] = step->name;
}

static void on_step(struct task *task)
{
    struct step *step = CONTAINER_OF(task, struct step, task);
    struct steps *steps = step->steps;
    step_note(step);
    if (step->name == 'a' && steps->count == 1) {
        task_cancel(&steps->b.task);
        task_post(&steps->c.task); /* posted already: stays where it is */
        task_post(&steps->a.task); /* on the turn after */
        task_post(&steps->b.task);
    }
    if (steps->count == 4)
        loop_stop(steps->loop);
}

Test(task, order_cancelling_and_posting_from_within, .timeout = 10)
{
    struct steps steps = {.loop = make_loop()};
    struct step *all[] = {&steps.a, &steps.b, &steps.c};
    for (unsigned i = 0; i < 3; i++) {
        all[i]->steps = &steps;
        all[i]->name = (char)('a' + i);
        task_init(&all[i]->task, steps.loop, on_step);
        task_post(&all[i]->task);
        task_post(&all[i]->task);
    }
    cr_assert_eq(steps.count, 0, "a task ran inside task_post()");
    loop_run(steps.loop);
    cr_assert_str_eq(steps.trace, "acab");
    loop_free(steps.loop);
}

static void on_forever(struct task *task)
{
    struct step *step = CONTAINER_OF(task, struct step, task);
    step->steps->count++;
    task_post(task);
}

static void steps_end(struct timer *timer)
{
    struct steps *steps = CONTAINER_OF(timer, struct steps, end);
    task_cancel(&steps->a.task);
    loop_stop(timer->loop);
}

Test(task, one_that_posts_itself_for_ever_leaves_the_loop_its_turns, .timeout = 10)
{
    struct steps steps = {.loop = make_loop()};
    steps.a.steps = &steps;
    task_init(&steps.a.task, steps.loop, on_forever);
    task_post(&steps.a.task);
    timer_init(&steps.end, steps.loop, steps_end);
    timer_start(&steps.end, 5);
    loop_run(steps.loop);
    cr_assert_gt(steps.count, 1);
    loop_free(steps.loop);
}

/* ---- jobs ---- */

enum { JOBS = 40 };

struct chore {
    struct job job;
    struct chores *chores;
    unsigned number;
    bool worked;
};

struct chores {
    struct loop *loop;
    struct chore all[JOBS];
    pthread_t loop_thread;
    atomic_uint running;
    atomic_uint most;
    atomic_uint started;
    unsigned done;
    bool ordered;
};

static void chore_work(struct job *job)
{
    struct chore *chore = CONTAINER_OF(job, struct chore, job);
    struct chores *chores = chore->chores;
    unsigned running = atomic_fetch_add(&chores->running, 1) + 1;
    unsigned most = atomic_load(&chores->most);
    while (running > most && !atomic_compare_exchange_weak(&chores->most, &most, running))
        ;
    unsigned before = atomic_fetch_add(&chores->started, 1);
    chore->worked = !pthread_equal(pthread_self(), chores->loop_thread) && (!chores->ordered || before == chore->number);
    for (volatile unsigned i = 0; i < 20000; i++)
        ;
    atomic_fetch_sub(&chores->running, 1);
}

static void chore_done(struct job *job)
{
    struct chore *chore = CONTAINER_OF(job, struct chore, job);
    struct chores *chores = chore->chores;
    cr_assert(chore->worked);
    cr_assert(pthread_equal(pthread_self(), chores->loop_thread));
    chore->worked = false;
    if (++chores->done == JOBS)
        loop_stop(chores->loop);
    else if (chores->done <= JOBS / 2)
        job_start(chores->loop, &chores->all[JOBS / 2 + chores->done - 1].job, chore_work, chore_done);
}

static void run_chores(unsigned threads)
{
    struct chores chores = {.loop_thread = pthread_self(), .ordered = threads == 1};
    struct loop_options options = {.job_threads = threads};
    cr_assert_eq(loop_new(&chores.loop, &options, &quiet), 0);
    for (unsigned i = 0; i < JOBS; i++) {
        chores.all[i].chores = &chores;
        chores.all[i].number = i;
        if (i < JOBS / 2)
            job_start(chores.loop, &chores.all[i].job, chore_work, chore_done);
    }
    cr_assert_eq(chores.done, 0);
    loop_run(chores.loop);
    cr_assert_eq(chores.done, JOBS);
    cr_assert_leq(atomic_load(&chores.most), threads);
    loop_free(chores.loop);
}

Test(job, each_runs_once_on_a_thread_and_is_done_on_the_loop, .timeout = 20)
{
    run_chores(3);
}

Test(job, one_thread_takes_them_in_order, .timeout = 20)
{
    run_chores(1);
}

/* ---- the rest ---- */

struct signals {
    struct loop *loop;
    unsigned ends;
    unsigned hang_ups;
};

static void on_signals(void *arg, enum loop_signal what)
{
    struct signals *signals = arg;
    signals->hang_ups += what == SIGNAL_HANG_UP;
    signals->ends += what == SIGNAL_END;
    if (what == SIGNAL_HANG_UP)
        cr_assert_eq(raise(SIGINT), 0);
    else if (signals->hang_ups == 0)
        cr_assert_eq(raise(SIGHUP), 0);
    else
        loop_stop(signals->loop);
}

Test(loop, signals_reach_the_loop_and_sigpipe_kills_nobody, .timeout = 10)
{
    struct signals signals = {.loop = make_loop()};
    cr_assert_eq(loop_catch_signals(signals.loop, on_signals, &signals), 0);
    cr_assert_eq(raise(SIGPIPE), 0);
    cr_assert_eq(raise(SIGTERM), 0);
    loop_run(signals.loop);
    cr_assert_eq(signals.ends, 2);
    cr_assert_eq(signals.hang_ups, 1);
    loop_free(signals.loop);
}

Test(loop, clocks_go_forward)
{
    struct loop *loop = make_loop();
    uint64_t us = loop_now_us(loop);
    cr_assert_geq(loop_now_us(loop), us);
    cr_assert_gt(loop_wall_ms(loop), UINT64_C(1600000000000));
    cr_assert_gt(loop_now_ms(loop), 0);
    loop_free(loop);
}

Test(loop, stopped_before_it_runs_returns_at_once, .timeout = 10)
{
    struct loop *loop = make_loop();
    loop_stop(loop);
    loop_run(loop);
    loop_free(loop);
}

Test(loop, random_bytes_differ)
{
    struct loop *loop = make_loop();
    unsigned char a[300] = {0};
    unsigned char b[300] = {0};
    cr_assert_eq(loop_random(loop, a, sizeof a), 0);
    cr_assert_eq(loop_random(loop, b, sizeof b), 0);
    cr_assert_neq(memcmp(a, b, sizeof a), 0);
    cr_assert_neq(memcmp(a + 280, b + 280, 20), 0);
    loop_free(loop);
}

Test(process, host_name_rss_and_cpu)
{
    char name[256] = "";
    char small[3];
    cr_assert_eq(loop_host_name(name, sizeof name), 0);
    cr_assert_gt(strlen(name), 0);
    cr_assert_eq(loop_host_name(small, sizeof small), 0);
    cr_assert_eq(strncmp(small, name, 2), 0);
    cr_assert_gt(loop_rss_bytes(), 100000);
    cr_assert_lt(loop_cpu_ms(), 100000);
}

Test(process, a_threads_own_processor_time_stands_still_while_it_sleeps)
{
    struct timespec nap = {.tv_nsec = 60 * 1000 * 1000};
    uint64_t begun_us = loop_cpu_us();
    nanosleep(&nap, NULL);
    cr_assert_lt(loop_cpu_us() - begun_us, 20000);
    volatile uint64_t burnt = 0;
    while (loop_cpu_us() - begun_us < 30000)
        burnt++;
    cr_assert_gt(burnt, 0);
}

Test(process, a_small_file_is_written_as_a_whole)
{
    char dir[256];
    char path[300];
    char text[16] = "";
    char tight[3];
    scratch_folder(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/port", dir);
    int first = loop_write_small_file(path, "1234567\n");
    int second = loop_write_small_file(path, "89\n");
    int64_t fits = loop_read_small_file(path, text, sizeof text - 1);
    int64_t exactly = loop_read_small_file(path, tight, 3);
    int64_t too_long = loop_read_small_file(path, tight, 2);
    int64_t folder = loop_read_small_file(dir, tight, 2);
    int another = loop_remove_small_file(path, "88\n");
    int there = access(path, F_OK);
    int ours = loop_remove_small_file(path, "89\n");
    int gone = loop_remove_small_file(path, "89\n");
    int rmdir_rc = rmdir(dir); /* nothing temporary is left in it */
    cr_assert_eq(first, 0);
    cr_assert_eq(second, 0);
    cr_assert_str_eq(text, "89\n");
    cr_assert_eq(fits, 3);
    cr_assert_eq(exactly, 3);
    cr_assert_eq(too_long, -EFBIG);
    cr_assert_eq(folder, -EINVAL);
    cr_assert_eq(another, -ENOENT);
    cr_assert_eq(there, 0);
    cr_assert_eq(ours, 0);
    cr_assert_eq(gone, -ENOENT);
    cr_assert_eq(rmdir_rc, 0);
    cr_assert_eq(loop_write_small_file("/nonexistent/dir/port", "1"), -ENOENT);
}

Test(process, log_lines_have_a_time_and_are_whole)
{
    struct log log;
    int pipes[2];
    char text[256] = "";
    cr_assert_eq(pipe(pipes), 0);
    int saved = dup(STDERR_FILENO);
    dup2(pipes[1], STDERR_FILENO);
    loop_log_to_stderr(&log, LOG_INFO);
    log_info(&log, "started", "port=%d", 7950);
    log_debug(&log, "unseen", NULL);
    dup2(saved, STDERR_FILENO);
    ssize_t len = read(pipes[0], text, sizeof text - 1);
    cr_assert_gt(len, 0);
    cr_assert_eq(strncmp(text, "ts=20", 5), 0, "%s", text);
    cr_assert_str_eq(text + strlen("ts=2024-01-01T00:00:00.000"), "Z level=info event=started port=7950\n");
}

Test(memory, reserved_aligned_zero_and_touched)
{
    enum { BYTES = 5 << 20 };
    struct memory memory;
    cr_assert_eq(memory_reserve(&memory, BYTES), 0);
    cr_assert_eq((uintptr_t)memory.base % (2 << 20), 0);
    cr_assert_geq(memory.mapped_bytes, (uint64_t)BYTES);
    unsigned char *bytes = memory.base;
    cr_assert_eq(bytes[0] | bytes[BYTES - 1], 0);
    memset(bytes, 7, 4096);
    uint64_t before = loop_rss_bytes();
    cr_assert_eq(memory_touch(bytes, BYTES), 0);
    if (memory.pages != MEMORY_EXPLICIT) /* which are not counted as resident */
        cr_assert_geq(loop_rss_bytes(), before + (2 << 20));
    cr_assert_eq(bytes[4095], 7);
    cr_assert_eq(bytes[4096], 0);
    memory_release(&memory);
}

/* /sys says whether the host has any; where it has none left to give, the figure tells so. */
Test(memory, lies_in_huge_pages_where_there_are_any)
{
    enum { BYTES = 8 << 20 };
    struct memory memory;
    cr_assert_eq(memory_reserve(&memory, BYTES), 0);
    char enabled[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    bool any = file && fgets(enabled, sizeof enabled, file) && !strstr(enabled, "[never]");
    if (file)
        fclose(file);
    cr_assert_eq(memory.pages == MEMORY_SMALL, !any && memory.pages != MEMORY_EXPLICIT);
    cr_assert_eq(memory_huge_bytes(&memory), memory.pages == MEMORY_EXPLICIT ? BYTES : 0);
    cr_assert_eq(memory_touch(memory.base, BYTES), 0);
    cr_assert_leq(memory_huge_bytes(&memory), (uint64_t)BYTES);
    cr_assert_eq(memory_huge_bytes(&memory) % (2 << 20), 0);
    memory_release(&memory);
}

Test(memory, what_is_no_mapping_cannot_be_touched)
{
    struct memory memory;
    cr_assert_eq(memory_reserve(&memory, 4 << 20), 0);
    void *gone = memory.base;
    memory_release(&memory);
    cr_assert_lt(memory_touch(gone, 4 << 20), 0);
}

Test(memory, what_is_available_is_part_of_what_there_is)
{
    uint64_t available = loop_available_memory_bytes();
    cr_assert(available == UINT64_MAX || (available > 0 && available <= loop_host_memory_bytes()));
}

Test(memory, much_more_than_there_is_can_be_reserved_but_not_all)
{
    struct memory memory;
    cr_assert_eq(memory_reserve(&memory, UINT64_C(1) << 40), 0);
    memory_release(&memory);
    cr_assert_lt(memory_reserve(&memory, UINT64_MAX), 0);
    cr_assert_lt(memory_reserve(&memory, UINT64_C(1) << 60), 0);
}
