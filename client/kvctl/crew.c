#include "client/kvctl/crew.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

enum { TICK_MS = 100, TICKS_A_REPORT = 5 };

#define NS_A_MS ((uint64_t)1000000)
#define NS_A_SECOND ((uint64_t)1000000000)

struct member {
    struct crew *crew;
    pthread_t thread;
    unsigned index;
    crew_work_fn work;
    void *arg;
};

void crew_init(struct crew *crew)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->changed, &attr);
    pthread_condattr_destroy(&attr);
    crew->running = 0;
    atomic_init(&crew->stop, false);
}

void crew_fini(struct crew *crew)
{
    pthread_cond_destroy(&crew->changed);
    pthread_mutex_destroy(&crew->lock);
}

uint64_t crew_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_A_SECOND + (uint64_t)now.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_A_SECOND), .tv_nsec = (long)(ns % NS_A_SECOND)};
}

void crew_stop(struct crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    atomic_store(&crew->stop, true);
    pthread_cond_broadcast(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
}

bool crew_stopped(struct crew *crew)
{
    return atomic_load_explicit(&crew->stop, memory_order_relaxed);
}

bool crew_wait_until(struct crew *crew, uint64_t deadline_ns)
{
    const struct timespec until = timespec_of(deadline_ns);
    int err = 0;

    pthread_mutex_lock(&crew->lock);
    while (!atomic_load(&crew->stop) && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&crew->changed, &crew->lock, &until);
    pthread_mutex_unlock(&crew->lock);
    return !crew_stopped(crew);
}

static void *member_main(void *arg)
{
    struct member *member = arg;
    struct crew *crew = member->crew;

    member->work(member->arg, member->index);
    pthread_mutex_lock(&crew->lock);
    crew->running--;
    pthread_cond_broadcast(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* Wait for one tick at most; true once nobody runs any more. */
static bool wait_a_tick(struct crew *crew)
{
    const struct timespec until = timespec_of(crew_now_ns() + TICK_MS * NS_A_MS);
    int err = 0;

    pthread_mutex_lock(&crew->lock);
    while (crew->running > 0 && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&crew->changed, &crew->lock, &until);
    const bool ended = crew->running == 0;
    pthread_mutex_unlock(&crew->lock);
    return ended;
}

/* Signals are blocked while the crew runs and are taken here, so that no handler and no global is needed. */
static int watch(struct crew *crew, const sigset_t *signals, crew_tick_fn tick, void *arg)
{
    const struct timespec at_once = {0};
    int stopped_by = 0;
    bool ended = false;

    for (unsigned ticks = 1; !ended; ticks++) {
        ended = wait_a_tick(crew);
        const int signal = stopped_by == 0 ? sigtimedwait(signals, NULL, &at_once) : 0;
        if (signal > 0) {
            stopped_by = signal;
            crew_stop(crew);
            pthread_sigmask(SIG_UNBLOCK, signals, NULL);
        }
        if (tick && (ended || ticks % TICKS_A_REPORT == 0))
            tick(arg);
    }
    return stopped_by;
}

static int start_members(struct crew *crew, struct member *members, unsigned count, unsigned *started)
{
    for (unsigned i = 0; i < count; i++) {
        pthread_mutex_lock(&crew->lock);
        crew->running++;
        pthread_mutex_unlock(&crew->lock);
        const int err = pthread_create(&members[i].thread, NULL, member_main, &members[i]);
        if (err) {
            pthread_mutex_lock(&crew->lock);
            crew->running--;
            pthread_mutex_unlock(&crew->lock);
            crew_stop(crew);
            return -err;
        }
        ++*started;
    }
    return 0;
}

int crew_run(struct crew *crew, unsigned count, crew_work_fn work, crew_tick_fn tick, void *arg)
{
    struct member *members = calloc(count, sizeof *members);
    unsigned started = 0;
    sigset_t signals, before;

    if (!members)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++)
        members[i] = (struct member){.crew = crew, .index = i, .work = work, .arg = arg};
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    const int err = start_members(crew, members, count, &started);
    const int stopped_by = watch(crew, &signals, tick, arg);
    for (unsigned i = 0; i < started; i++)
        pthread_join(members[i].thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    free(members);
    return err ? err : stopped_by;
}
