/* loop_impl.h - what the files of this folder share about a loop. Not for other rooms.
 *
 * Order of a turn: timers, tasks, flushing of connections, submission of file operations, arming of the timer, poll.
 */
#ifndef KVD_LOOP_LOOP_IMPL_H
#define KVD_LOOP_LOOP_IMPL_H

#include <stdatomic.h>
#include <uv.h>

#include "loop/file_impl.h"
#include "loop/loop.h"
#include "loop/workers_impl.h"

struct loop {
    uv_loop_t uv;
    uv_prepare_t prepare;
    uv_idle_t idle; /* active while something waits for the next turn, so that poll does not block */
    uv_timer_t timer;
    uv_signal_t signals[3];
    const struct log *log;
    bool stopping;

    loop_signal_fn signal_fn;
    void *signal_arg;

    struct timer *timers;     /* root of the heap */
    struct timer *due_timers; /* taken out of the heap to be run in this turn, linked by `sibling` */
    uint64_t armed_ms;        /* when `timer` fires; UINT64_MAX when it does not */

    struct list tasks;
    struct list dirty_conns; /* to be flushed before the next poll */
    unsigned open_conns;     /* closed fn not yet run */
    unsigned open_listeners; /* not yet closed */

    struct workers jobs;
    struct file_io files;
    _Atomic uint64_t fs_calls;
};

/* Make sure that another turn comes at once. */
void loop_wake(struct loop *loop);

/* timer.c */
void timers_init(struct loop *loop);
/* Let libuv's timer fire when the first of ours is due. */
void timers_arm(struct loop *loop);

/* conn.c: send what the connections have queued in this turn. */
void conns_flush(struct loop *loop);

#endif
