/* loop_impl.h - what the files of this folder share about a loop. Not for other rooms.
 *
 * Order of a turn: timers, tasks, submission of file operations, flushing of connections, arming of the timer, poll.
 *
 * What another thread may touch under a loop's lock: tasks, timers, jobs, the lists and counts of files. libuv and the ring are the loop's
 * thread's alone; whoever else wants a turn sends `wake`.
 */
#ifndef KVD_LOOP_LOOP_IMPL_H
#define KVD_LOOP_LOOP_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "loop/file_impl.h"
#include "loop/lending_impl.h"
#include "loop/loop.h"
#include "loop/workers_impl.h"

struct loop {
    uv_loop_t uv;
    uv_prepare_t prepare;
    uv_idle_t idle; /* active while something waits for the next turn, so that poll does not block */
    uv_timer_t timer;
    uv_signal_t signals[3];
    const struct log *log;
    _Atomic bool stopping;

    _Atomic pthread_t thread; /* it runs on */
    pthread_t started;        /* loop_start()'s, for loop_join() */
    uv_async_t wake;          /* from other threads: look at `posts`, `tasks` and `stopping`, and take a turn */
    pthread_mutex_t posts_lock;
    struct list posts; /* under posts_lock: tasks of loop_post() */

    bool locked; /* it has a lock: */
    pthread_mutex_t lock;
    pthread_mutex_t gate;     /* of those who have found it taken, the one who is next holds this */
    _Atomic pthread_t holder; /* 0: nobody */
    uint64_t now_ms;          /* when it was taken */
    uint64_t taken_us;        /* the same, if this time is measured; else 0 */
    struct loop_holds holds;

    loop_signal_fn signal_fn;
    void *signal_arg;

    struct timer *timers;     /* root of the heap */
    struct timer *due_timers; /* taken out of the heap to be run in this turn, linked by `sibling` */
    uint64_t armed_ms;        /* when `timer` fires; UINT64_MAX when it does not */

    struct list tasks;
    struct list dirty_conns; /* to be flushed before the next poll */
    unsigned open_conns;     /* closed fn not yet run */
    unsigned open_listeners; /* not yet closed */
    bool zero_copy_sends;
    bool zero_copy_refused; /* and said so */
    struct lending_figures lending;

    struct workers jobs;
    struct file_io files;
    _Atomic uint64_t fs_calls;
};

/* Make sure that another turn comes at once. */
void loop_wake(struct loop *loop);

/* share.c */
int share_init(struct loop *loop);
void share_fini(struct loop *loop);
bool loop_on_its_thread(const struct loop *loop);
/* A thread that holds the lock has started something: let the loop's own have a turn, if that is another one. */
void loop_nudge(struct loop *loop);

/* timer.c */
void timers_init(struct loop *loop);
/* Let libuv's timer fire when the first of ours is due. With the lock held. */
void timers_arm(struct loop *loop);

/* conn.c: send what the connections have queued in this turn. */
void conns_flush(struct loop *loop);

#endif
