/* workers_impl.h - a bounded set of threads that run jobs in the order in which they were queued.
 *
 * Used twice by a loop: for jobs, and for file operations where io_uring is refused.
 * Thread: the loop's, or whoever holds its lock; `work` of a job runs on a worker.
 */
#ifndef KVD_LOOP_WORKERS_IMPL_H
#define KVD_LOOP_WORKERS_IMPL_H

#include <pthread.h>
#include <uv.h>

#include "loop/loop.h"

struct workers {
    struct loop *loop;
    uv_async_t async;
    pthread_t *threads;
    unsigned count;
    unsigned pending; /* queued, running, or done and not yet told: the loop's */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under the lock */
    struct list queue;
    struct list finished;
    bool stop;
};

/* Start `count` threads. Returns 0, -ENOMEM, or what libuv or pthread_create said: then nothing is left. */
int workers_init(struct workers *workers, struct loop *loop, unsigned count);
/* Join the threads. Nothing may be pending. The async handle is left to be closed by whoever ends the libuv loop. */
void workers_fini(struct workers *workers);
void workers_start(struct workers *workers, struct job *job);

#endif
