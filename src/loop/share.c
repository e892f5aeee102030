/* What other threads may do to a loop: hold its lock, post to it, wake it, stop it. */
#include "loop/loop_impl.h"

#include <signal.h>
#include <stdlib.h>

#include "base/check.h"

enum { HOLDS_SAMPLED = 16 /* one in so many: two clock reads cost more than the lock */ };

bool loop_on_its_thread(const struct loop *loop)
{
    return pthread_equal(atomic_load_explicit(&loop->thread, memory_order_relaxed), pthread_self());
}

/* ---- waking ---- */

static void run_posts(struct loop *loop)
{
    struct list now;
    list_init(&now);
    CHECK(pthread_mutex_lock(&loop->posts_lock) == 0);
    list_move_all(&now, &loop->posts);
    CHECK(pthread_mutex_unlock(&loop->posts_lock) == 0);
    for (struct list *at; (at = list_pop_front(&now)) != NULL;) {
        struct task *task = CONTAINER_OF(at, struct task, link);
        task->fn(task);
    }
}

/* The turn that it makes submits and arms what others have started. */
static void on_wake(uv_async_t *handle)
{
    struct loop *loop = handle->data;
    bool stopping = atomic_load(&loop->stopping); /* before the posts are run: none that came before the stop is left */
    if (loop->locked) {
        loop_lock(loop);
        if (!list_empty(&loop->tasks))
            loop_wake(loop);
        loop_unlock(loop);
    } else {
        run_posts(loop);
    }
    if (stopping)
        uv_stop(&loop->uv);
}

void loop_nudge(struct loop *loop)
{
    if (loop->locked && !loop_on_its_thread(loop))
        CHECK(uv_async_send(&loop->wake) == 0);
}

/* Behind what other threads have posted, even from the loop's own: those of one thread run in their order. */
void loop_post(struct task *task)
{
    struct loop *loop = task->loop;
    CHECK(!loop->locked);
    CHECK(pthread_mutex_lock(&loop->posts_lock) == 0);
    CHECK(list_empty(&task->link));
    list_push_back(&loop->posts, &task->link);
    CHECK(pthread_mutex_unlock(&loop->posts_lock) == 0);
    CHECK(uv_async_send(&loop->wake) == 0);
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stopping, true);
    if (loop_on_its_thread(loop))
        uv_stop(&loop->uv);
    else
        CHECK(uv_async_send(&loop->wake) == 0);
}

/* ---- the lock ---- */

/* No other thread's while somebody else holds it: ours is what we have stored ourselves. */
static bool holds(const struct loop *loop)
{
    return pthread_equal(atomic_load_explicit(&loop->holder, memory_order_relaxed), pthread_self());
}

bool loop_is_mine(const struct loop *loop)
{
    return !loop->locked || holds(loop);
}

static void lock_in_turn(struct loop *loop)
{
    CHECK(pthread_mutex_lock(&loop->gate) == 0);
    CHECK(pthread_mutex_lock(&loop->lock) == 0);
    CHECK(pthread_mutex_unlock(&loop->gate) == 0);
}

static void lock_taken(struct loop *loop)
{
    atomic_store_explicit(&loop->holder, pthread_self(), memory_order_relaxed);
    uint64_t now_us = loop_now_us(loop);
    loop->now_ms = now_us / 1000;
    loop->taken_us = loop->holds.taken++ % HOLDS_SAMPLED == 0 ? now_us : 0;
}

void loop_lock(struct loop *loop)
{
    if (!loop->locked)
        return;
    CHECK(!holds(loop));
    if (pthread_mutex_trylock(&loop->lock) != 0)
        lock_in_turn(loop);
    lock_taken(loop);
}

static void measure(struct loop *loop)
{
    struct loop_holds *sums = &loop->holds;
    uint64_t us = loop_now_us(loop) - loop->taken_us;
    unsigned slot = us == 0 ? 0 : 64u - (unsigned)__builtin_clzll(us);
    sums->counts[slot < LOOP_HOLDS ? slot : LOOP_HOLDS - 1]++;
    sums->sampled++;
    sums->longest_us = us > sums->longest_us ? us : sums->longest_us;
}

void loop_unlock(struct loop *loop)
{
    if (!loop->locked)
        return;
    CHECK(holds(loop));
    if (loop->taken_us > 0)
        measure(loop);
    atomic_store_explicit(&loop->holder, (pthread_t)0, memory_order_relaxed);
    CHECK(pthread_mutex_unlock(&loop->lock) == 0);
}

/* A mutex that is let go and taken again at once is had by nobody else: who sleeps for it takes longer to wake. Behind the gate he is
 * first. */
void loop_let_others(struct loop *loop)
{
    if (!loop->locked)
        return;
    loop_unlock(loop);
    lock_in_turn(loop);
    lock_taken(loop);
}

void loop_holds(const struct loop *loop, struct loop_holds *out)
{
    CHECK(loop_is_mine(loop));
    *out = loop->holds;
}

/* ---- a lock of its own ---- */

struct mutex {
    pthread_mutex_t lock;
};

struct mutex *mutex_new(void)
{
    struct mutex *mutex = malloc(sizeof *mutex);
    if (mutex)
        CHECK(pthread_mutex_init(&mutex->lock, NULL) == 0);
    return mutex;
}

void mutex_free(struct mutex *mutex)
{
    if (mutex)
        CHECK(pthread_mutex_destroy(&mutex->lock) == 0);
    free(mutex);
}

void mutex_lock(struct mutex *mutex)
{
    CHECK(pthread_mutex_lock(&mutex->lock) == 0);
}

void mutex_unlock(struct mutex *mutex)
{
    CHECK(pthread_mutex_unlock(&mutex->lock) == 0);
}

/* ---- life ---- */

/* Sections are short: whoever waits for the lock does better to turn a little before it sleeps. */
static void lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    CHECK(pthread_mutexattr_init(&attr) == 0);
    CHECK(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP) == 0);
    CHECK(pthread_mutex_init(lock, &attr) == 0);
    CHECK(pthread_mutexattr_destroy(&attr) == 0);
}

int share_init(struct loop *loop)
{
    int err = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (err)
        return err;
    loop->wake.data = loop;
    list_init(&loop->posts);
    atomic_store_explicit(&loop->thread, pthread_self(), memory_order_relaxed);
    lock_init(&loop->posts_lock);
    lock_init(&loop->lock);
    lock_init(&loop->gate);
    return 0;
}

void share_fini(struct loop *loop)
{
    CHECK(list_empty(&loop->posts));
    CHECK(pthread_mutex_destroy(&loop->posts_lock) == 0);
    CHECK(pthread_mutex_destroy(&loop->lock) == 0);
    CHECK(pthread_mutex_destroy(&loop->gate) == 0);
}

static void *thread_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

/* Signals are the first loop's business. */
int loop_start(struct loop *loop)
{
    sigset_t all, old;
    pthread_t thread;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    pthread_t maker = atomic_exchange(&loop->thread, (pthread_t)0); /* until it runs it is nobody's: whoever posts wakes it */
    int err = pthread_create(&thread, NULL, thread_main, loop);
    if (err == 0)
        loop->started = thread;
    else
        atomic_store(&loop->thread, maker);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    return -err;
}

/* What it owns is this thread's from now on. */
void loop_join(struct loop *loop)
{
    CHECK(pthread_join(loop->started, NULL) == 0);
    atomic_store_explicit(&loop->thread, pthread_self(), memory_order_relaxed);
}
