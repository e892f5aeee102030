/* loop.h - one event loop and what time, chance and other threads mean to it.
 *
 * This folder is the seam: everything that src/ reaches outside (sockets, files, clock, timers, randomness, threads) it
 * reaches through the headers here. They name no libuv or liburing type, so that a simulator can stand in for them.
 *
 * Owns:    the libuv loop, the ring or the threads in its place, the job threads.
 * Borrows: the log, which must outlive it.
 * Not its: what anything means.
 * Thread:  all functions from the loop's own thread, but where said otherwise. Those of a loop with a lock: from any thread
 *          that holds the lock.
 *
 * Callbacks run from the loop, never inside the call that started the operation, exactly once for each accepted request.
 * Requests (timer, task, job, file_op, conn_send) lie in the caller's memory and must not move or die until then.
 */
#ifndef KVD_LOOP_LOOP_H
#define KVD_LOOP_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/log.h"

struct loop;

struct loop_options {
    unsigned io_depth;    /* file operations in flight at most, the rest wait in order; 0: 64 */
    uint64_t io_bytes;    /* of reads in flight at most, the last one not counted; 0: 32 MiB on FUSE, 8 MiB elsewhere */
    unsigned job_threads; /* threads for jobs; 0: 8 */
    unsigned io_threads;  /* threads for file operations where io_uring is refused; 0: 8 */
    bool forbid_ring;     /* use the threads even where io_uring works */
    bool forbid_fixed;    /* fix no memory (file.h) */
    bool conns_only;      /* no jobs and no file operations: a loop for connections, timers and tasks */
    bool locked;          /* it has a lock, and other threads use it, too; it takes no connections */
    bool zero_copy_sends; /* large sends of its connections are not copied, where the kernel has that */
};

/* Make a loop. Tries io_uring; where that is refused, file operations run on threads and the log says so once
 * (event=io_uring_refused). Returns 0, -ENOMEM, or what libuv or pthread_create said. */
int loop_new(struct loop **out, const struct loop_options *options, const struct log *log);

/* Everything opened on it must be closed and every request have run. Joins the threads: one stuck in a hung file system
 * keeps it waiting, so the roof ends the process by loop_exit_now() instead when its patience ends. */
void loop_free(struct loop *loop);

/* Run until loop_stop(). */
void loop_run(struct loop *loop);
/* Run it on a thread of its own until loop_stop(); then loop_join(). Returns 0 or -errno. */
int loop_start(struct loop *loop);
void loop_join(struct loop *loop);
/* Any thread. */
void loop_stop(struct loop *loop);

/* ---- several loops in one process ----
 *
 * A loop with a lock is a monitor: whoever holds the lock may call all that takes this loop (timers, tasks, jobs, files), from any thread.
 * Its own callbacks run with the lock held; it is let go while the loop waits and while it submits to the kernel. For a loop without a
 * lock, taking and letting go are nothing. */

/* Not twice by one thread. now_ms is read anew. */
void loop_lock(struct loop *loop);
void loop_unlock(struct loop *loop);
/* In the midst of long work: if anybody waits for it, one who does has it first. now_ms is read anew. */
void loop_let_others(struct loop *loop);
/* Does this thread hold it? True for a loop without a lock, which is its own thread's. */
bool loop_is_mine(const struct loop *loop);

/* How long the lock was held, of every sixteenth time that it was taken: counts[0] below 1 us, counts[n] below 2^n us, the last one all
 * above. With the lock held. */
enum { LOOP_HOLDS = 16 };
struct loop_holds {
    uint64_t taken, sampled, longest_us;
    uint64_t counts[LOOP_HOLDS];
};
void loop_holds(const struct loop *loop, struct loop_holds *out);

/* For the little that loops share beside the store: held for a moment, and with nothing else. NULL when the heap is out. */
struct mutex;
struct mutex *mutex_new(void);
void mutex_free(struct mutex *mutex); /* or NULL */
void mutex_lock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);

/* End the process at once with `status`, without waiting for threads. Any thread. */
_Noreturn void loop_exit_now(int status);

/* "io_uring" or "threads"; static. */
const char *loop_io_kind(const struct loop *loop);

/* Monotonic clock. now_ms is that of this turn of the loop (one clock read a turn), or of when its lock was taken; now_us reads the clock
 * (any thread). */
uint64_t loop_now_ms(const struct loop *loop);
uint64_t loop_now_us(const struct loop *loop);

/* A monotonic clock that runs on while the machine sleeps. Any thread. */
uint64_t loop_boot_us(const struct loop *loop);

/* Wall clock, in ms since 1970. Any thread. */
uint64_t loop_wall_ms(const struct loop *loop);

/* Fill `len` bytes from the kernel's generator. Returns 0 or -errno. Any thread. */
int loop_random(struct loop *loop, void *bytes, size_t len);

/* ---- timers ---- */

struct timer;
typedef void (*timer_fn)(struct timer *timer);
struct timer {
    struct loop *loop;
    timer_fn fn;
    uint64_t due_ms;
    struct timer *child, *sibling, *prev; /* a pairing heap's links; the loop's */
    bool active;
};
void timer_init(struct timer *timer, struct loop *loop, timer_fn fn);
/* (Re)start: `fn` runs once, at least `after_ms` from this turn's now. */
void timer_start(struct timer *timer, uint64_t after_ms);
/* Harmless when it is not active; `fn` will not run. */
void timer_stop(struct timer *timer);

/* ---- tasks: run once, on the loop's next turn ---- */

struct task;
typedef void (*task_fn)(struct task *task);
struct task {
    struct list link;
    struct loop *loop;
    task_fn fn;
};
void task_init(struct task *task, struct loop *loop, task_fn fn);
/* Harmless when it is posted already. A task posted from a task runs on the turn after. */
void task_post(struct task *task);
void task_cancel(struct task *task);
/* The same from any thread, for a loop without a lock; it must not be posted already. It cannot be cancelled; those of one thread run in
 * their order. */
void loop_post(struct task *task);

/* ---- jobs: blocking work (fs.h) on a bounded set of threads ---- */

struct job;
typedef void (*job_fn)(struct job *job);
struct job {
    struct list link;
    struct loop *loop;
    job_fn work; /* on a job thread: touches only memory that is this job's */
    job_fn done; /* on the loop */
};
/* Queue it; jobs start in the order in which they were queued. `work` then `done` run once each; there is no cancelling. */
void job_start(struct loop *loop, struct job *job, job_fn work, job_fn done);

/* ---- signals ---- */

enum loop_signal {
    SIGNAL_END,     /* SIGTERM, SIGINT */
    SIGNAL_HANG_UP, /* SIGHUP: a terminal that closes, or somebody who wants files read again */
};
/* Call fn on the loop for each of them; SIGPIPE is ignored for the process. Once a loop. Returns 0 or libuv's error. */
typedef void (*loop_signal_fn)(void *arg, enum loop_signal what);
int loop_catch_signals(struct loop *loop, loop_signal_fn fn, void *arg);

/* ---- what the process is and has ---- */

/* A sink for log.h that writes lines to stderr, each with `ts=` (UTC, ms) before it, in one write. Any thread. */
void loop_log_to_stderr(struct log *log, enum log_level level);

/* This host's name, cut to fit. Returns 0 or -errno. */
int loop_host_name(char *out, size_t out_len);

/* A mark of this boot of this machine: two that run at once never have the same. Returns 0 or -errno. */
enum { BOOT_MARK_BYTES = 36 };
int loop_boot_mark(uint8_t out[BOOT_MARK_BYTES]);

/* Let this process open as many files as its hard limit allows. Returns how many that is. */
uint64_t loop_raise_file_limit(void);

/* Memory of this host in bytes; 0 when unknown. */
uint64_t loop_host_memory_bytes(void);
/* How much of it, or of what its control group leaves this process, is to be had without anybody's being short; UINT64_MAX when unknown.
 * Any thread. */
uint64_t loop_available_memory_bytes(void);

/* Resident set of this process in bytes; 0 when unknown. CPU time (user + system) used, in ms. */
uint64_t loop_rss_bytes(void);
uint64_t loop_cpu_ms(void);
/* CPU time used by the calling thread, in us: to measure how long a step of work takes. Any thread. */
uint64_t loop_cpu_us(void);

/* Write `text` (a pid, a port) to `path` as a whole, by a temporary name and rename. Returns 0 or -errno. Blocking; at start only. */
int loop_write_small_file(const char *path, const char *text);

/* Unlink what that wrote, unless somebody else has written something else there. Returns 0 or -errno (-ENOENT: it is gone, or another's).
 */
int loop_remove_small_file(const char *path, const char *text);

/* Read the whole file into text[0..len); returns its bytes, -EFBIG when there are more, or -errno. Only regular files (-EINVAL). Blocking;
 * at start and end only. */
int64_t loop_read_small_file(const char *path, char *text, size_t len);

/* Whose a file is. */
struct file_rights {
    uint32_t mode; /* st_mode */
    uint32_t owner;
    uint32_t reader; /* the effective user of this process */
};
/* The same, for what only some may read: *rights are set as well. For a job, too. */
int64_t loop_read_secret_file(const char *path, char *text, size_t len, struct file_rights *rights);

/* ---- memory ---- */

/* The pages behind a mapping: of 4 KiB; of 2 MiB where the kernel finds them as they are touched; of 2 MiB that somebody had set aside. */
enum memory_pages { MEMORY_SMALL, MEMORY_TRANSPARENT, MEMORY_EXPLICIT };

/* A mapping, in the caller's memory. */
struct memory {
    void *base; /* at a multiple of 2 MiB */
    uint64_t mapped_bytes;
    enum memory_pages pages;
};

/* Reserve `bytes` of address space, readable and writable, zero, left out of core dumps. Where enough explicit huge pages are free for all
 * of it, it gets those. Else it is backed as it is touched, with huge pages asked for, and not counted against overcommit. Returns 0 or
 * -errno. Any thread. */
int memory_reserve(struct memory *memory, uint64_t bytes);
void memory_release(struct memory *memory);

/* Have all of [at, at + bytes), whole pages of a mapping, backed now, whoever uses them meanwhile. Returns 0, -EINVAL (a kernel
 * before 5.14), -ENOMEM or another errno. Blocking: for a job. */
int memory_touch(void *at, uint64_t bytes);

/* How much of it lies in huge pages now. Blocking: for a job. */
uint64_t memory_huge_bytes(const struct memory *memory);

#endif
