/* crew.h - threads that do one job together, while the calling thread watches for signals and tells how far they are.
 *
 * Owns:    its threads, from crew_run() until it returns.
 * Not its: what they do; what they share is the caller's to guard.
 * Thread:  crew_run() is the main thread's; the rest, any thread of the crew.
 */
#ifndef KVD_CLIENT_CREW_H
#define KVD_CLIENT_CREW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct crew {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a thread has ended, or crew_stop() was called; waits by CLOCK_MONOTONIC */
    unsigned running;
    atomic_bool stop;
};

/* The caller's storage. */
void crew_init(struct crew *crew);
void crew_fini(struct crew *crew);

typedef void (*crew_work_fn)(void *arg, unsigned index);
typedef void (*crew_tick_fn)(void *arg);

/* Run work(arg, 0), ..., work(arg, count - 1), each on a thread of its own, and wait for them. `tick`, if not NULL, is called about
 * twice a second. SIGINT and SIGTERM ask the crew to stop; a second one has its usual effect. Returns 0, the signal that
 * stopped it, or a negative errno when a thread could not be started (those that could have stopped again). */
int crew_run(struct crew *crew, unsigned count, crew_work_fn work, crew_tick_fn tick, void *arg);

/* Ask all to end soon. */
void crew_stop(struct crew *crew);
bool crew_stopped(struct crew *crew);

/* Sleep until `deadline_ns` of crew_now_ns(); false at once when the crew is to stop. */
bool crew_wait_until(struct crew *crew, uint64_t deadline_ns);

/* Nanoseconds of the monotonic clock. */
uint64_t crew_now_ns(void);

#endif
