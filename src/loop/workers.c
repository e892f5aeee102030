#include "loop/workers_impl.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "base/check.h"
#include "loop/loop_impl.h"

static void workers_lock(struct workers *workers)
{
    CHECK(pthread_mutex_lock(&workers->lock) == 0);
}

static void workers_unlock(struct workers *workers)
{
    CHECK(pthread_mutex_unlock(&workers->lock) == 0);
}

/* The next job, or NULL when it is time to go. */
static struct job *worker_next(struct workers *workers)
{
    workers_lock(workers);
    while (list_empty(&workers->queue) && !workers->stop)
        CHECK(pthread_cond_wait(&workers->wake, &workers->lock) == 0);
    struct list *link = list_pop_front(&workers->queue);
    workers_unlock(workers);
    return link ? CONTAINER_OF(link, struct job, link) : NULL;
}

static void *worker_main(void *arg)
{
    struct workers *workers = arg;
    struct job *job;
    while ((job = worker_next(workers))) {
        job->work(job);
        workers_lock(workers);
        list_push_back(&workers->finished, &job->link);
        workers_unlock(workers);
        CHECK(uv_async_send(&workers->async) == 0);
    }
    return NULL;
}

static void on_finished(uv_async_t *handle)
{
    struct workers *workers = handle->data;
    struct list finished;
    list_init(&finished);
    workers_lock(workers);
    list_move_all(&finished, &workers->finished);
    workers_unlock(workers);
    struct list *link;
    while ((link = list_pop_front(&finished))) {
        struct job *job = CONTAINER_OF(link, struct job, link);
        struct loop *loop = workers->loop;
        loop_lock(loop);
        workers->pending--;
        job->done(job);
        loop_unlock(loop);
    }
}

/* Signals are the loop's thread's business: a new thread inherits a mask without any. */
static int workers_spawn(struct workers *workers, unsigned count)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    int err = 0;
    while (workers->count < count && err == 0) {
        err = pthread_create(&workers->threads[workers->count], NULL, worker_main, workers);
        if (err == 0)
            workers->count++;
    }
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    return -err;
}

int workers_init(struct workers *workers, struct loop *loop, unsigned count)
{
    *workers = (struct workers){.loop = loop, .threads = calloc(count, sizeof(pthread_t))};
    if (!workers->threads)
        return -ENOMEM;
    list_init(&workers->queue);
    list_init(&workers->finished);
    CHECK(pthread_mutex_init(&workers->lock, NULL) == 0);
    CHECK(pthread_cond_init(&workers->wake, NULL) == 0);
    int err = uv_async_init(&loop->uv, &workers->async, on_finished);
    if (err) {
        workers_fini(workers);
        return err;
    }
    workers->async.data = workers;
    err = workers_spawn(workers, count);
    if (err) {
        workers_fini(workers);
        uv_close((uv_handle_t *)&workers->async, NULL);
    }
    return err;
}

void workers_fini(struct workers *workers)
{
    CHECK(workers->pending == 0);
    workers_lock(workers);
    workers->stop = true;
    CHECK(pthread_cond_broadcast(&workers->wake) == 0);
    workers_unlock(workers);
    for (unsigned i = 0; i < workers->count; i++)
        CHECK(pthread_join(workers->threads[i], NULL) == 0);
    CHECK(pthread_cond_destroy(&workers->wake) == 0);
    CHECK(pthread_mutex_destroy(&workers->lock) == 0);
    free(workers->threads);
    workers->threads = NULL;
}

void workers_start(struct workers *workers, struct job *job)
{
    workers->pending++;
    workers_lock(workers);
    list_push_back(&workers->queue, &job->link);
    CHECK(pthread_cond_signal(&workers->wake) == 0);
    workers_unlock(workers);
}
