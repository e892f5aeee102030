/* store_bench.h - a store on a real loop over the fake disk tier, and the few words that its tests are written in.
 * To be included by one file of a test program, after nothing.
 */
#ifndef KVD_TEST_STORE_BENCH_H
#define KVD_TEST_STORE_BENCH_H

#include <criterion/criterion.h>
#include <errno.h>

#include "store/store_impl.h"
#include "test/support/fake_disk.h"
#include "test/support/quiet.h"

enum { NOT_ENDED = 99 };

struct bench {
    struct loop *loop;
    struct store *store;
    struct disk *disk;
    struct lease_owner owner;
    struct task turn;
    unsigned turns_left;
    int opened;
    bool recovered, closed;
    uint64_t ttl_ms; /* of the puts that follow; 0: none */
};

/* A test program has one at a time. */
static struct bench bench;

static inline void bench_opened(void *arg, int err)
{
    cr_assert_eq(arg, &bench);
    cr_assert_eq(bench.opened, NOT_ENDED);
    bench.opened = err;
}

static inline void bench_recovered(void *arg)
{
    cr_assert_eq(arg, &bench);
    cr_assert(!bench.recovered && bench.opened == 0);
    bench.recovered = true;
}

static inline void bench_turn(struct task *task)
{
    if (--bench.turns_left > 0)
        task_post(task);
    else
        loop_stop(bench.loop);
}

/* Let the loop turn; it never sleeps meanwhile. */
static inline void turns(unsigned count)
{
    bench.turns_left = count;
    task_post(&bench.turn);
    loop_run(bench.loop);
}

/* Long enough for whatever goes from task to task. */
static inline void settle(void)
{
    turns(50);
}

static inline void bench_stop(struct timer *timer)
{
    loop_stop(timer->loop);
}

/* Let this much time pass. */
static inline void pass_ms(uint64_t ms)
{
    struct timer timer;
    timer_init(&timer, bench.loop, bench_stop);
    turns(1); /* the loop's clock is up to date */
    timer_start(&timer, ms);
    loop_run(bench.loop);
}

static inline struct store_config bench_config(void)
{
    return (struct store_config){
        .memory_bytes = 4 * MIB,
        .inflight_bytes = 2 * MIB,
        .queue_bytes = 2 * MIB,
        .persist = PERSIST_WRITE_THROUGH,
        .disk = {.dir = "somewhere", .cluster = "kvd", .node = "fake"},
    };
}

/* The same order of keys in every run. */
static inline void bench_fix_order(struct store *store)
{
    uint8_t secret[TABLE_SECRET_BYTES];
    for (unsigned i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)(i * 37 + 11);
    leases_free(store->leases);
    table_free(store->table);
    cr_assert_eq(table_new(&store->table, secret), 0);
    cr_assert_eq(leases_new(&store->leases, store->table, 1000, 1), 0);
}

/* What the desk's task would do on the next turn. */
static inline void bench_told(void)
{
    struct store_desk *desk = &bench.store->home;
    while (desk->called) {
        task_cancel(&desk->task);
        desk->task.fn(&desk->task);
    }
}

static inline void bench_begin_with(const struct store_config *config, const struct store_events *events)
{
    bench = (struct bench){.opened = NOT_ENDED};
    struct loop_options options = {.job_threads = 1, .io_threads = 1, .forbid_ring = true};
    cr_assert_eq(loop_new(&bench.loop, &options, &quiet), 0);
    cr_assert_eq(store_new(&bench.store, bench.loop, bench.loop, &quiet, config, events, &bench), 0);
    bench_fix_order(bench.store);
    bench.disk = fake_disk;
    bench.disk->told = bench_told;
    lease_owner_init(&bench.owner);
    task_init(&bench.turn, bench.loop, bench_turn);
}

static inline void bench_begin(const struct store_config *config)
{
    static const struct store_events events = {.opened = bench_opened, .recovered = bench_recovered};
    bench_begin_with(config, &events);
}

/* With the disk open and all of it known. */
static inline void bench_begin_on(const struct store_config *config)
{
    bench_begin(config);
    fake_opened(bench.disk, 0, 0);
    fake_recovered(bench.disk);
}

static inline void bench_begin_usual(void)
{
    struct store_config config = bench_config();
    bench_begin_on(&config);
}

static inline void bench_closed(void *arg)
{
    ((struct bench *)arg)->closed = true;
}

/* Whatever is still under way ends well. */
static inline void bench_close(void)
{
    store_owner_end(bench.store, &bench.owner);
    store_close(bench.store, true, bench_closed, &bench);
    settle();
    fake_close_end(bench.disk);
    settle();
    cr_assert(bench.closed);
    store_free(bench.store);
    loop_free(bench.loop);
}

static inline struct store_info info(void)
{
    struct store_info out;
    store_info(bench.store, &out);
    return out;
}

/* Everything that was put or found is in the table, or counted where it went (docs/protocol.md). */
static inline void expect_figures_add_up(void)
{
    struct store_info now = info();
    const struct store_figures *f = &now.figures;
    cr_assert_eq(f->puts + f->found, now.table.objects + f->removed + f->puts_replaced + f->dropped_evicted + f->dropped_untouched +
                                         f->dropped_shed + f->dropped_reclaimed + f->dropped_corrupt + f->dropped_short +
                                         f->dropped_versions + f->dropped_index + f->expired);
}

/* ---- values: a number makes the bytes ---- */

static inline uint64_t mix(uint64_t n)
{
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

static inline uint64_t value_word(uint64_t number, uint64_t index)
{
    return mix(number * 1000003 + index);
}

static inline void value_fill(uint64_t number, uint64_t from, uint8_t *out, size_t len)
{
    uint64_t word = 0;
    for (size_t i = 0; i < len; i++) {
        uint64_t at = from + i;
        if (i == 0 || at % 8 == 0)
            word = value_word(number, at / 8);
        out[i] = (uint8_t)(word >> at % 8 * 8);
    }
}

/* Are these the bytes of the value from `from` on? */
static inline bool value_is(uint64_t number, uint64_t from, const uint8_t *bytes, size_t len)
{
    uint8_t right[512];
    for (size_t at = 0; at < len; at += sizeof right) {
        size_t part = min_u64(sizeof right, len - at);
        value_fill(number, from + at, right, part);
        if (memcmp(right, bytes + at, part) != 0)
            return false;
    }
    return true;
}

/* ---- puts ---- */

struct put {
    struct store_put put;
    char key[32];
    uint64_t number;
    int outcome;
    unsigned ended; /* how often it was answered: once is right */
};

enum { REPLACE = 1, ACK_DISK = 2, PIN = 4 };

static inline void put_ended(struct store_put *store_put, int outcome)
{
    struct put *put = CONTAINER_OF(store_put, struct put, put);
    put->outcome = outcome;
    put->ended++;
}

static inline int put_begin(struct put *put, const char *key, unsigned flags, uint64_t number, uint64_t size)
{
    *put = (struct put){.number = number, .outcome = NOT_ENDED};
    snprintf(put->key, sizeof put->key, "%s", key);
    put->put.key = span_text(put->key);
    put->put.size = size;
    put->put.replace = flags & REPLACE;
    put->put.ack_disk = flags & ACK_DISK;
    put->put.pin = flags & PIN;
    put->put.ttl_ms = bench.ttl_ms;
    return store_put_begin(&bench.store->home, &put->put);
}

/* Let up to `len` more bytes of the body come. 0, or what store_put_room() said. */
static inline int put_feed(struct put *put, uint64_t len)
{
    while (len > 0 && put->put.received < put->put.size) {
        void *base;
        size_t room;
        int err = store_put_room(&put->put, &base, &room);
        if (err)
            return err;
        cr_assert(room > 0 && room <= put->put.size - put->put.received);
        room = min_u64(room, len);
        value_fill(put->number, put->put.received, base, room);
        store_put_received(&put->put, room);
        len -= room;
    }
    return 0;
}

static inline int put_commit(struct put *put)
{
    int outcome = store_put_commit(&put->put, put_ended);
    if (outcome != STORE_PENDING)
        put_ended(&put->put, outcome);
    return outcome;
}

/* All of a put: begin, body, commit. Its outcome, or STORE_PENDING. */
static inline int put_go(struct put *put, const char *key, unsigned flags, uint64_t number, uint64_t size)
{
    int outcome = put_begin(put, key, flags, number, size);
    if (outcome == STORE_PRESENT) {
        outcome = store_put_present(&put->put, put_ended);
        if (outcome != STORE_PENDING)
            put_ended(&put->put, outcome);
        return outcome;
    }
    if (outcome == STORE_OK)
        outcome = put_feed(put, size);
    if (outcome == 0)
        return put_commit(put);
    store_put_abort(&put->put);
    put_ended(&put->put, outcome);
    return outcome;
}

static inline void put_ok(const char *key, uint64_t number, uint64_t size)
{
    struct put put;
    cr_assert_eq(put_go(&put, key, 0, number, size), STORE_OK);
}

/* ---- gets ---- */

struct get {
    struct store_get get;
    int outcome;
    unsigned ended;
};

static inline void get_ended(struct store_get *store_get, int outcome)
{
    struct get *get = CONTAINER_OF(store_get, struct get, get);
    get->outcome = outcome;
    get->ended++;
}

static inline int get_range(struct get *get, const char *key, uint64_t offset, uint64_t length)
{
    *get = (struct get){.outcome = NOT_ENDED};
    get->get.key = span_text(key);
    get->get.offset = offset;
    get->get.length = length;
    int outcome = store_get_start(&bench.store->home, &get->get, get_ended);
    if (outcome != STORE_PENDING)
        get_ended(&get->get, outcome);
    return outcome;
}

static inline int get_go(struct get *get, const char *key)
{
    return get_range(get, key, 0, UINT64_MAX);
}

/* Is what came the bytes [offset, offset + length) of this value? Drops the reference. */
static inline void expect_got(struct get *get, uint64_t number, uint64_t offset, uint64_t length)
{
    cr_assert_eq(get->outcome, STORE_OK);
    cr_assert_eq(get->ended, 1);
    cr_assert_eq(get->get.blob_length, length);
    size_t run;
    for (uint64_t at = 0; at < length; at += run) {
        const uint8_t *here = blob_at(get->get.blob, get->get.blob_offset + at, &run);
        run = min_u64(run, length - at);
        cr_assert(value_is(number, offset + at, here, run), "wrong bytes at %llu", (unsigned long long)(offset + at));
    }
    if (get->get.blob)
        store_unref(bench.store, get->get.blob);
    get->get.blob = NULL;
}

/* It is in memory and is this value. */
static inline void expect_value(const char *key, uint64_t number, uint64_t size)
{
    struct get get;
    cr_assert_eq(get_go(&get, key), STORE_OK, "%s is not there", key);
    cr_assert_eq(get.get.size, size);
    expect_got(&get, number, 0, size);
}

/* As expect_value(), read from disk if it must be. */
static inline void expect_value_anywhere(const char *key, uint64_t number, uint64_t size)
{
    struct get get;
    if (get_go(&get, key) == STORE_PENDING)
        fake_read_all(bench.disk);
    cr_assert_eq(get.get.size, size);
    expect_got(&get, number, 0, size);
}

static inline void expect_miss(const char *key)
{
    struct get get;
    cr_assert_eq(get_go(&get, key), STORE_MISS, "%s is still there", key);
    cr_assert_null(get.get.reason);
}

/* IN_MEMORY, ON_DISK, both or 0. */
static inline unsigned where_is(const char *key)
{
    struct span span = span_text(key);
    uint8_t present;
    uint64_t lease;
    store_exists(bench.store, &span, 1, 0, &bench.owner, &present, &lease);
    return present;
}

static inline struct store_stat stat_of(const char *key)
{
    struct store_stat stat;
    cr_assert_eq(store_stat(bench.store, span_text(key), &stat), STORE_OK, "%s is not there", key);
    return stat;
}

static inline uint64_t lease_of(const char *key, uint64_t ms)
{
    struct span span = span_text(key);
    struct store_matched matched;
    store_match(bench.store, &span, 1, ms, false, &bench.owner, &matched);
    return matched.lease;
}

static inline bool pin(const char *key, bool pinned)
{
    struct span span = span_text(key);
    return store_pin(bench.store, &span, 1, pinned) == 1;
}

/* ---- removes ---- */

struct removing {
    struct store_remove remove;
    int outcome;
    unsigned ended;
};

static inline void remove_ended(struct store_remove *store_remove, int outcome)
{
    struct removing *removing = CONTAINER_OF(store_remove, struct removing, remove);
    removing->outcome = outcome;
    removing->ended++;
}

static inline int remove_go(struct removing *removing, const char *key)
{
    struct span span = span_text(key);
    *removing = (struct removing){.outcome = NOT_ENDED};
    int outcome = store_remove_start(&bench.store->home, &removing->remove, &span, 1, remove_ended);
    if (outcome != STORE_PENDING)
        remove_ended(&removing->remove, outcome);
    return outcome;
}

static inline int remove_many_go(struct removing *removing, enum kill_kind kind, struct span prefix)
{
    *removing = (struct removing){.outcome = NOT_ENDED};
    int outcome = store_remove_many_start(&bench.store->home, &removing->remove, kind, prefix, remove_ended);
    if (outcome != STORE_PENDING)
        remove_ended(&removing->remove, outcome);
    return outcome;
}

/* ---- the way to a state ---- */

/* On disk, synced, and in memory. */
static inline void put_on_both(const char *key, uint64_t number, uint64_t size)
{
    struct put put;
    cr_assert_eq(put_go(&put, key, ACK_DISK, number, size), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    cr_assert_eq(where_is(key), IN_MEMORY | ON_DISK);
}

static inline struct entry *entry_of(const char *key)
{
    struct table *table = bench.store->table;
    return table_find(table, span_text(key), table_hash(table, span_text(key)));
}

static inline void leave_memory(const char *key)
{
    struct entry *entry = entry_of(key);
    cr_assert(entry && entry->blob && entry->place);
    entry_forget_memory(bench.store, entry);
}

static inline void put_on_disk(const char *key, uint64_t number, uint64_t size)
{
    put_on_both(key, number, size);
    leave_memory(key);
    cr_assert_eq(where_is(key), ON_DISK);
}

/* ---- the end ---- */

/* End well whatever is under way. */
static inline void drain(void)
{
    settle();
    while (bench.disk->state != DISK_OFF && fake_count(&bench.disk->queue) + fake_count(&bench.disk->running) +
                                                    fake_count(&bench.disk->kills) + fake_count(&bench.disk->syncs) +
                                                    fake_count(&bench.disk->reads) >
                                                0) {
        fake_write_all(bench.disk);
        fake_sync_all(bench.disk);
        fake_kill_all(bench.disk);
        fake_read_all(bench.disk);
        settle();
    }
}

/* When all requests have ended and all objects are removed, nothing may be left in memory. */
static inline void expect_nothing_leaks(void)
{
    struct removing removing;
    drain();
    store_owner_end(bench.store, &bench.owner);
    cr_assert_eq(remove_many_go(&removing, KILL_ALL, span_of(NULL, 0)), STORE_PENDING);
    drain();
    cr_assert_eq(removing.ended, 1);
    struct store_info now = info();
    cr_assert_eq(now.memory_used_bytes, 0, "%llu bytes of the pool are lost", (unsigned long long)now.memory_used_bytes);
    cr_assert_eq(now.memory_blobs, 0);
    cr_assert_eq(now.inflight_bytes, 0);
    cr_assert_eq(now.held_memory_only_bytes, 0);
    cr_assert_eq(now.leases + now.lease_holds, 0);
    cr_assert_eq(now.table.objects + now.table.memory_bytes + now.table.disk_bytes, 0);
}

static inline void bench_end(void)
{
    expect_figures_add_up();
    expect_nothing_leaks();
    bench_close();
}

#endif
