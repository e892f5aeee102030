/* Several loops in one process: the lock, what other threads start under it, posts, connections handed to the loop with the fewest. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/conn.h"
#include "loop/file.h"
#include "loop/loop.h"
#include "test/support/quiet.h"
#include "test/support/scratch.h"

enum { THREADS = 4, ROUNDS = 300 };

static struct loop *make_loop(struct loop_options options)
{
    struct loop *loop;
    cr_assert_eq(loop_new(&loop, &options, &quiet), 0);
    return loop;
}

/* ---- a loop with a lock, used from four threads ---- */

struct errand {
    struct timer timer;
    struct task task;
    struct job job;
    struct file_op op;
    struct iovec iov;
    uint8_t bytes[512];
    struct shop *shop;
};

/* Everything here is under the lock. */
struct shop {
    struct loop *loop;
    struct file file;
    unsigned timers, tasks, jobs, reads;
    bool crowded; /* somebody else was in here */
    bool inside;
};

static void shop_enter(struct shop *shop)
{
    cr_assert(loop_is_mine(shop->loop));
    shop->crowded |= shop->inside;
    shop->inside = true;
}

static void shop_leave(struct shop *shop)
{
    shop->inside = false;
}

static void on_timer(struct timer *timer)
{
    struct shop *shop = CONTAINER_OF(timer, struct errand, timer)->shop;
    shop_enter(shop);
    shop->timers++;
    shop_leave(shop);
}

static void on_task(struct task *task)
{
    struct shop *shop = CONTAINER_OF(task, struct errand, task)->shop;
    shop_enter(shop);
    shop->tasks++;
    shop_leave(shop);
}

static void job_work(struct job *job)
{
    (void)job;
}

static void job_done(struct job *job)
{
    struct shop *shop = CONTAINER_OF(job, struct errand, job)->shop;
    shop_enter(shop);
    shop->jobs++;
    shop_leave(shop);
}

static void on_read(struct file_op *op)
{
    struct shop *shop = CONTAINER_OF(op, struct errand, op)->shop;
    shop_enter(shop);
    cr_assert_eq(op->result, 512);
    shop->reads++;
    shop_leave(shop);
}

static bool all_served(struct shop *shop)
{
    const unsigned all = THREADS * ROUNDS;
    loop_lock(shop->loop);
    bool served = shop->timers == all && shop->tasks == all && shop->jobs == all && shop->reads == all;
    loop_unlock(shop->loop);
    return served;
}

static void errand_start(struct errand *errand, unsigned i)
{
    struct shop *shop = errand->shop;
    errand->iov = (struct iovec){errand->bytes, sizeof errand->bytes};
    errand->op = (struct file_op){.file = &shop->file, .iov = &errand->iov, .iov_count = 1};
    timer_init(&errand->timer, shop->loop, on_timer);
    task_init(&errand->task, shop->loop, on_task);
    loop_lock(shop->loop);
    shop_enter(shop);
    timer_start(&errand->timer, i % 7);
    task_post(&errand->task);
    job_start(shop->loop, &errand->job, job_work, job_done);
    file_read_start(shop->loop, &errand->op, on_read);
    shop_leave(shop);
    loop_unlock(shop->loop);
}

struct customer {
    pthread_t thread;
    struct shop *shop;
    struct errand errands[ROUNDS];
};

static void *customer_main(void *arg)
{
    struct customer *customer = arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        customer->errands[i].shop = customer->shop;
        errand_start(&customer->errands[i], i);
    }
    return NULL;
}

static void shop_run(bool forbid_ring)
{
    char path[256];
    uint8_t block[4096] = {7};
    int fd = scratch_file(path, sizeof path);
    unlink(path);
    cr_assert_eq(write(fd, block, sizeof block), sizeof block);
    struct shop shop = {.file = {.fd = fd}};
    shop.loop =
        make_loop((struct loop_options){.job_threads = 2, .io_threads = 2, .io_depth = 16, .forbid_ring = forbid_ring, .locked = true});
    cr_assert_eq(loop_start(shop.loop), 0);
    struct customer *customers = calloc(THREADS, sizeof *customers);
    for (unsigned i = 0; i < THREADS; i++) {
        customers[i].shop = &shop;
        cr_assert_eq(pthread_create(&customers[i].thread, NULL, customer_main, &customers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(customers[i].thread, NULL), 0);
    while (!all_served(&shop))
        sched_yield();
    loop_stop(shop.loop);
    loop_join(shop.loop);
    cr_assert(!shop.crowded);
    struct loop_holds holds;
    loop_lock(shop.loop);
    loop_holds(shop.loop, &holds);
    loop_unlock(shop.loop);
    uint64_t counted = 0;
    for (unsigned i = 0; i < LOOP_HOLDS; i++)
        counted += holds.counts[i];
    cr_assert_geq(holds.taken, 2 * THREADS * ROUNDS);
    cr_assert_gt(counted, holds.taken / 32);
    cr_assert_eq(counted, holds.sampled);
    loop_free(shop.loop);
    free(customers);
    close(fd);
}

Test(share, what_others_start_under_the_lock_runs_under_it, .timeout = 30)
{
    shop_run(false);
}

Test(share, likewise_where_files_are_threads, .timeout = 30)
{
    shop_run(true);
}

struct waiter {
    pthread_t thread;
    struct loop *loop;
    _Atomic pid_t id;
    bool served; /* under the lock */
};

static void *waiter_main(void *arg)
{
    struct waiter *waiter = arg;
    (void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}); /* who wakes it runs on */
    waiter->id = gettid();
    loop_lock(waiter->loop);
    waiter->served = true;
    loop_unlock(waiter->loop);
    return NULL;
}

static bool sleeps(pid_t id)
{
    char path[64], text[256], state = 0;
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)id);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    if (fgets(text, sizeof text, file) && strrchr(text, ')'))
        state = strrchr(text, ')')[2];
    (void)fclose(file);
    return state == 'S';
}

/* Though he has gone to sleep over it, and there is one processor for both, on which he is not even awake when it is taken again. */
Test(share, who_waits_has_the_lock_first_when_others_are_let, .timeout = 20)
{
    struct loop *loop = make_loop((struct loop_options){.job_threads = 1, .io_threads = 1, .locked = true});
    struct waiter waiter = {.loop = loop};
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    cr_assert_eq(sched_setaffinity(0, sizeof here, &here), 0);
    loop_lock(loop);
    cr_assert_eq(pthread_create(&waiter.thread, NULL, waiter_main, &waiter), 0);
    while (waiter.id == 0 || !sleeps(waiter.id))
        sched_yield();
    loop_let_others(loop);
    cr_assert(waiter.served);
    loop_unlock(loop);
    cr_assert_eq(pthread_join(waiter.thread, NULL), 0);
    loop_free(loop);
}

static void late_timer(struct timer *timer)
{
    loop_stop(timer->loop);
}

/* The loop sleeps towards a timer far away: one that is nearer wakes it. */
Test(share, a_nearer_timer_of_another_thread_is_in_time, .timeout = 20)
{
    struct timer far, near;
    struct loop *loop = make_loop((struct loop_options){.job_threads = 1, .io_threads = 1, .locked = true});
    timer_init(&far, loop, late_timer);
    timer_init(&near, loop, late_timer);
    loop_lock(loop);
    timer_start(&far, 3600 * 1000);
    loop_unlock(loop);
    cr_assert_eq(loop_start(loop), 0);
    usleep(20000); /* it sleeps by now, most likely; if not, the test is easier to pass */
    loop_lock(loop);
    timer_start(&near, 5);
    loop_unlock(loop);
    loop_join(loop);
    loop_lock(loop);
    timer_stop(&far);
    loop_unlock(loop);
    loop_free(loop);
}

/* ---- posts ---- */

struct letter {
    struct task task;
    struct office *office;
    unsigned sender, number;
};

struct office {
    struct loop *loop;
    unsigned next[THREADS];
    unsigned got;
    bool disordered;
};

static void letter_arrives(struct task *task)
{
    const struct letter *letter = CONTAINER_OF(task, struct letter, task);
    struct office *office = letter->office;
    office->disordered |= letter->number != office->next[letter->sender]++;
    if (++office->got == THREADS * ROUNDS)
        loop_stop(office->loop);
}

struct sender {
    pthread_t thread;
    struct letter letters[ROUNDS];
};

static void *sender_main(void *arg)
{
    struct sender *sender = arg;
    for (unsigned i = 0; i < ROUNDS; i++)
        loop_post(&sender->letters[i].task);
    return NULL;
}

Test(share, posts_of_one_thread_run_in_their_order, .timeout = 20)
{
    struct office office = {.loop = make_loop((struct loop_options){.conns_only = true})};
    struct sender *senders = calloc(THREADS, sizeof *senders);
    cr_assert_eq(loop_start(office.loop), 0);
    for (unsigned s = 0; s < THREADS; s++) {
        for (unsigned i = 0; i < ROUNDS; i++) {
            senders[s].letters[i] = (struct letter){.office = &office, .sender = s, .number = i};
            task_init(&senders[s].letters[i].task, office.loop, letter_arrives);
        }
        cr_assert_eq(pthread_create(&senders[s].thread, NULL, sender_main, &senders[s]), 0);
    }
    for (unsigned s = 0; s < THREADS; s++)
        cr_assert_eq(pthread_join(senders[s].thread, NULL), 0);
    loop_join(office.loop);
    cr_assert_eq(office.got, THREADS * ROUNDS);
    cr_assert(!office.disordered);
    loop_free(office.loop);
    free(senders);
}

/* ---- connections ---- */

enum { LOOPS = 3, GUESTS = 9 };

struct room {
    struct loop *loop;
    struct conn *conns[GUESTS];
    unsigned count;
    bool wrong;
    struct task task;
    struct hotel *hotel;
};

struct hotel {
    struct listener *listener;
    struct listener_place places[LOOPS];
    struct room rooms[LOOPS];
    struct task close;
    _Atomic unsigned in, out;
};

static void checked_in(void *arg, struct conn *conn)
{
    struct room *room = arg;
    struct timer probe;
    timer_init(&probe, room->loop, late_timer); /* only the loop's thread may: ThreadSanitizer sees it if this is another */
    timer_start(&probe, 1000);
    timer_stop(&probe);
    room->conns[room->count++] = conn;
    atomic_fetch_add(&room->hotel->in, 1);
}

static void checked_out(void *arg)
{
    struct room *room = arg;
    atomic_fetch_add(&room->hotel->out, 1);
}

static void all_out(struct task *task)
{
    struct room *room = CONTAINER_OF(task, struct room, task);
    for (unsigned i = 0; i < room->count; i++)
        conn_close(room->conns[i], checked_out, room);
}

static void hotel_closes(struct task *task)
{
    struct hotel *hotel = CONTAINER_OF(task, struct hotel, close);
    listener_close(hotel->listener);
    atomic_fetch_add(&hotel->out, 1);
}

static void wait_for(_Atomic unsigned *what, unsigned count)
{
    while (atomic_load(what) < count)
        sched_yield();
}

static int guest_connect(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

Test(share, connections_go_to_the_loop_with_the_fewest, .timeout = 20)
{
    struct hotel hotel = {0};
    int fds[GUESTS];
    for (unsigned i = 0; i < LOOPS; i++) {
        struct room *room = &hotel.rooms[i];
        room->hotel = &hotel;
        room->loop = make_loop((struct loop_options){.conns_only = true});
        hotel.places[i] = (struct listener_place){.loop = room->loop, .arg = room};
        task_init(&room->task, room->loop, all_out);
    }
    struct loop *home = hotel.rooms[0].loop;
    cr_assert_eq(listener_open(&hotel.listener, home, "127.0.0.1", 0, 100, checked_in, NULL), 0);
    listener_spread(hotel.listener, hotel.places, LOOPS);
    uint16_t port = listener_port(hotel.listener);
    for (unsigned i = 0; i < LOOPS; i++)
        cr_assert_eq(loop_start(hotel.rooms[i].loop), 0);
    for (unsigned i = 0; i < GUESTS; i++)
        fds[i] = guest_connect(port);
    wait_for(&hotel.in, GUESTS);
    for (unsigned i = 0; i < LOOPS; i++)
        loop_post(&hotel.rooms[i].task);
    wait_for(&hotel.out, GUESTS);
    task_init(&hotel.close, home, hotel_closes);
    loop_post(&hotel.close);
    wait_for(&hotel.out, GUESTS + 1);
    for (unsigned i = LOOPS; i-- > 0;) { /* the home last: connections say there that they have gone */
        loop_stop(hotel.rooms[i].loop);
        loop_join(hotel.rooms[i].loop);
    }
    for (unsigned i = 0; i < LOOPS; i++) {
        cr_assert_eq(hotel.rooms[i].count, GUESTS / LOOPS);
        cr_assert_eq(hotel.places[i].conns, 0);
        loop_free(hotel.rooms[i].loop);
    }
    for (unsigned i = 0; i < GUESTS; i++)
        close(fds[i]);
}
