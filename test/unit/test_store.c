/* The store, step by step, over a disk tier that does only what the test says. Orders and failures: test/fault/test_store_order.c. */
#include "test/support/store_bench.h"

enum { SMALL = 5000, MEDIUM = 300 * 1024 };

/* ---- put and get in memory ---- */

Test(store, a_put_is_seen_when_it_is_whole_and_not_before)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 7, MEDIUM), STORE_OK);
    expect_miss("a");
    cr_assert_eq(put_feed(&put, MEDIUM - 1), 0);
    expect_miss("a");
    cr_assert_eq(put_feed(&put, 1), 0);
    expect_miss("a");
    cr_assert_eq(put_commit(&put), STORE_OK);
    expect_value("a", 7, MEDIUM);
    struct store_stat stat = stat_of("a");
    cr_assert(stat.version == put.put.version && stat.size == MEDIUM && stat.memory && !stat.disk && stat.disk_writing);
    cr_assert_eq(stat.hits, 1);
    bench_end();
}

Test(store, a_put_that_is_given_up_leaves_nothing)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 7, MEDIUM), STORE_OK);
    cr_assert_eq(put_feed(&put, MEDIUM / 2), 0);
    cr_assert_gt(info().inflight_bytes, 0);
    store_put_abort(&put.put);
    store_put_abort(&put.put);
    expect_miss("a");
    cr_assert_eq(info().memory_used_bytes + info().inflight_bytes + info().memory_blobs, 0);
    bench_end();
}

Test(store, other_bytes_than_were_announced_are_refused)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 7, SMALL), STORE_OK);
    put.put.has_checksum = true;
    put.put.checksum = 12345;
    cr_assert_eq(put_feed(&put, SMALL), 0);
    cr_assert_eq(put_commit(&put), KVD_ECORRUPT);
    expect_miss("a");
    cr_assert_eq(info().figures.puts_corrupt, 1);
    cr_assert_eq(info().memory_used_bytes, 0);
    bench_end();
}

Test(store, a_put_of_a_present_key_changes_nothing)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    uint64_t version = stat_of("a").version;
    struct put put;
    cr_assert_eq(put_go(&put, "a", 0, 2, SMALL), STORE_PRESENT);
    cr_assert_eq(put.put.version, version);
    expect_value("a", 1, SMALL);
    cr_assert_eq(info().figures.puts_present, 1);
    bench_end();
}

Test(store, of_two_puts_at_once_the_first_to_end_wins)
{
    bench_begin_usual();
    struct put first, second;
    cr_assert_eq(put_begin(&first, "a", 0, 1, SMALL), STORE_OK);
    cr_assert_eq(put_begin(&second, "a", 0, 2, SMALL), STORE_OK);
    cr_assert_eq(put_feed(&first, SMALL) + put_feed(&second, SMALL), 0);
    cr_assert_eq(put_commit(&second), STORE_OK);
    cr_assert_eq(put_commit(&first), STORE_PRESENT);
    cr_assert_eq(first.put.version, second.put.version);
    expect_value("a", 2, SMALL);
    bench_end();
}

Test(store, ranges_are_cut_to_the_value)
{
    bench_begin_usual();
    put_ok("a", 3, MEDIUM);
    put_ok("empty", 4, 0);
    struct get get;
    cr_assert_eq(get_range(&get, "a", 4090, 20), STORE_OK);
    expect_got(&get, 3, 4090, 20);
    cr_assert_eq(get_range(&get, "a", MEDIUM - 5, 100), STORE_OK);
    expect_got(&get, 3, MEDIUM - 5, 5);
    cr_assert_eq(get_range(&get, "a", MEDIUM + 1, 100), STORE_OK);
    expect_got(&get, 3, MEDIUM, 0);
    cr_assert_eq(get_range(&get, "a", UINT64_MAX, UINT64_MAX), STORE_OK);
    expect_got(&get, 3, MEDIUM, 0);
    cr_assert_eq(get_range(&get, "a", 10, 0), STORE_OK);
    expect_got(&get, 3, 10, 0);
    expect_value("empty", 4, 0);
    bench_end();
}

Test(store, bytes_stay_for_whoever_has_them)
{
    bench_begin_usual();
    put_ok("a", 1, MEDIUM);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_OK);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_OK);
    for (uint64_t n = 0; n < 40; n++) {
        char key[16];
        snprintf(key, sizeof key, "n%d", (int)n);
        put_ok(key, 100 + n, 64 * 1024);
        fake_write_all(bench.disk);
    }
    expect_got(&get, 1, 0, MEDIUM);
    bench_end();
}

Test(store, what_can_never_fit_is_refused_at_once)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 1, 4 * MIB + 1), KVD_ETOOLARGE);
    cr_assert_eq(info().memory_blobs, 0);
    store_put_abort(&put.put);
    bench_end();
}

Test(store, the_figures_say_what_was_done)
{
    bench_begin_usual();
    struct put put;
    struct get get;
    put_ok("a", 1, SMALL);
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_OK);
    expect_value("a", 2, SMALL);
    cr_assert_eq(get_range(&get, "a", 1, 9), STORE_OK);
    expect_got(&get, 2, 1, 9);
    expect_miss("b");
    struct store_figures f = info().figures;
    cr_assert(f.puts == 2 && f.puts_replaced == 1 && f.put_bytes == 2 * SMALL);
    cr_assert(f.gets == 3 && f.hits_memory == 2 && f.misses == 1 && f.get_bytes == SMALL + 9 && f.hits_disk == 0);
    bench_end();
}

/* ---- the way to disk ---- */

Test(store, a_put_goes_to_disk_by_itself_if_the_policy_says_so)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    store_set_persist(bench.store, PERSIST_NONE);
    cr_assert_eq(store_persist(bench.store), PERSIST_NONE);
    put_ok("b", 2, SMALL);
    fake_write_all(bench.disk);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    cr_assert_eq(where_is("b"), IN_MEMORY);
    cr_assert_eq(bench.disk->writes_started, 1);
    struct store_stat stat = stat_of("a");
    cr_assert(stat.disk && !stat.disk_writing && stat.offset > 0);
    cr_assert_str_eq(stat.file, "kvd/fake/0001.seg");
    bench_end();
}

Test(store, an_object_that_left_memory_is_read_from_disk_and_comes_back)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    cr_assert_eq(info().inflight_bytes, round_up(MEDIUM, BLOCK_BYTES));
    fake_read_all(bench.disk);
    cr_assert(get.get.from_disk);
    expect_got(&get, 1, 0, MEDIUM);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    expect_value("a", 1, MEDIUM);
    struct store_figures f = info().figures;
    cr_assert(f.promoted == 1 && f.hits_disk == 1 && f.hits_memory == 1);
    cr_assert_eq(info().inflight_bytes, 0);
    bench_end();
}

Test(store, an_empty_range_of_an_object_on_disk_needs_no_read)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    struct get get;
    cr_assert_eq(get_range(&get, "a", SMALL, 1), STORE_OK);
    expect_got(&get, 1, SMALL, 0);
    cr_assert(list_empty(&bench.disk->reads));
    bench_end();
}

Test(store, without_a_disk_everything_works_in_memory)
{
    struct store_config config = bench_config();
    config.disk.dir = NULL;
    bench_begin(&config);
    struct put put;
    struct removing removing;
    put_ok("a", 1, SMALL);
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_OK);
    expect_value("a", 2, SMALL);
    cr_assert_eq(put_go(&put, "new", REPLACE, 3, SMALL), STORE_OK);
    cr_assert_eq(remove_go(&removing, "a"), STORE_OK);
    expect_miss("a");
    cr_assert_eq(put_go(&put, "b", ACK_DISK, 2, SMALL), KVD_EOFF);
    bench_end();
}

/* ---- eviction ---- */

static void name(char out[32], const char *prefix, unsigned number)
{
    snprintf(out, 32, "%s%u", prefix, number);
}

static void put_many(const char *prefix, unsigned count, uint64_t size)
{
    char key[32];
    for (unsigned i = 0; i < count; i++) {
        name(key, prefix, i);
        put_ok(key, i, size);
    }
}

/* Fill memory until something leaves it. */
static void push_out(const char *prefix, uint64_t size)
{
    struct store_figures before = info().figures;
    char key[32];
    for (unsigned i = 0; info().figures.evicted + info().figures.dropped_evicted == before.evicted + before.dropped_evicted; i++) {
        cr_assert_lt(i, 1000, "nothing leaves");
        name(key, prefix, i);
        struct put put;
        if (put_go(&put, key, 0, i, size) != STORE_OK)
            break;
        settle();
    }
}

Test(store, the_least_recently_used_leaves_first)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_many("n", 4, 64 * 1024);
    struct span keys[] = {span_text("n0"), span_text("n1")};
    store_touch(bench.store, keys, 2); /* last to first: n0 is the last to go */
    push_out("fill", 64 * 1024);
    cr_assert_eq(where_is("n2"), 0);
    cr_assert_eq(where_is("n0"), IN_MEMORY);
    while (where_is("n1"))
        push_out("more", 64 * 1024);
    cr_assert_eq(where_is("n0"), IN_MEMORY);
    cr_assert_eq(info().figures.dropped_evicted, info().figures.puts - info().table.objects);
    cr_assert_str_eq(info().longest_step.what, "evict");
    bench_end();
}

Test(store, what_is_on_disk_is_only_evicted_and_the_rest_is_counted_as_dropped)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_on_both("a", 1, 64 * 1024);
    push_out("fill", 64 * 1024);
    cr_assert_eq(where_is("a"), ON_DISK);
    cr_assert_eq(info().figures.evicted, 1);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, 64 * 1024);
    bench_end();
}

Test(store, what_is_being_written_stays)
{
    bench_begin_usual();
    put_many("w", 20, 64 * 1024);
    store_set_persist(bench.store, PERSIST_NONE);
    push_out("fill", 256 * 1024);
    for (unsigned i = 0; i < 20; i++) {
        char key[32];
        name(key, "w", i);
        cr_assert_eq(where_is(key), IN_MEMORY, "%s", key);
    }
    bench_end();
}

Test(store, what_is_leased_or_pinned_stays)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("leased", 1, 64 * 1024);
    put_ok("pinned", 2, 64 * 1024);
    cr_assert_neq(lease_of("leased", 60000), 0);
    cr_assert(pin("pinned", true));
    for (unsigned i = 0; i < 70; i++)
        push_out("fill", 64 * 1024);
    cr_assert_eq(where_is("leased"), IN_MEMORY);
    cr_assert_eq(where_is("pinned"), IN_MEMORY);
    bench_end();
}

Test(store, in_need_even_held_objects_leave_memory_if_they_are_on_disk)
{
    bench_begin_usual();
    char key[32];
    for (unsigned i = 0; i < 16; i++) {
        name(key, "n", i);
        put_on_both(key, i, 256 * 1024);
        cr_assert(pin(key, true));
    }
    put_ok("x", 99, 256 * 1024);
    cr_assert_eq(where_is("n0"), ON_DISK);
    cr_assert(stat_of("n0").pinned);
    cr_assert_eq(info().figures.evicted, 1);
    expect_value("x", 99, 256 * 1024);
    bench_end();
}

Test(store, a_large_object_finds_room_among_many_small_ones)
{
    struct store_config config = bench_config();
    config.memory_bytes = 16 * MIB;
    config.inflight_bytes = 8 * MIB;
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_on_disk("large", 1, 3 * MIB);
    put_many("n", 4000, 4096);
    struct get get;
    cr_assert_eq(get_go(&get, "large"), STORE_PENDING);
    settle();
    cr_assert_eq(fake_count(&bench.disk->reads), 1, "it waits though there is nobody who could not leave");
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, 3 * MIB);
    bench_end();
}

/* ---- bounds, and waiting at them ---- */

struct waiter {
    struct store_wait wait;
    int err;
    unsigned ended;
};

static void waited(struct store_wait *wait, int err)
{
    struct waiter *waiter = CONTAINER_OF(wait, struct waiter, wait);
    waiter->err = err;
    waiter->ended++;
}

static void wait_go(struct waiter *waiter, uint64_t ms)
{
    waiter->ended = 0;
    store_wait_init(&waiter->wait);
    waiter->wait.bytes = 0;
    bench.store->home.room_seen = bench.store->room_changes; /* as after a try that has just failed */
    store_wait_start(&bench.store->home, &waiter->wait, ms, waited);
}

Test(store, room_that_came_free_before_a_put_waits_is_seen)
{
    bench_begin_usual();
    struct waiter waiter = {0};
    store_wait_init(&waiter.wait);
    bench.store->home.room_seen = bench.store->room_changes; /* a try has failed, */
    room_changed(bench.store);                               /* and another loop had the lock before it comes to wait */
    store_wait_start(&bench.store->home, &waiter.wait, 60000, waited);
    settle();
    cr_assert(waiter.ended == 1 && waiter.err == 0);
    bench_end();
}

Test(store, bodies_under_way_are_bounded_and_one_end_lets_the_next_begin)
{
    struct store_config config = bench_config();
    config.inflight_bytes = MIB;
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    struct put first, second;
    cr_assert_eq(put_begin(&first, "a", 0, 1, MIB), STORE_OK);
    cr_assert_eq(put_begin(&second, "b", 0, 2, MIB), STORE_OK);
    cr_assert_eq(put_feed(&first, MIB), 0);
    cr_assert_eq(info().inflight_bytes, MIB);
    cr_assert_eq(put_feed(&second, MIB), KVD_EBUSY);
    struct waiter waiter;
    wait_go(&waiter, 60000);
    settle();
    cr_assert_eq(waiter.ended, 0);
    cr_assert_eq(put_commit(&first), STORE_OK);
    settle();
    cr_assert(waiter.ended == 1 && waiter.err == 0, "nobody was told that there is room");
    cr_assert_eq(put_feed(&second, MIB), 0);
    cr_assert_eq(put_commit(&second), STORE_OK);
    cr_assert_eq(info().inflight_bytes, 0);
    bench_end();
}

Test(store, a_single_body_may_be_larger_than_the_bound)
{
    struct store_config config = bench_config();
    config.inflight_bytes = MIB;
    bench_begin_on(&config);
    put_ok("a", 1, 3 * MIB);
    expect_value("a", 1, 3 * MIB);
    bench_end();
}

Test(store, waiting_ends_by_time_and_can_be_stopped)
{
    bench_begin_usual();
    struct waiter late, stopped;
    wait_go(&late, 300);
    wait_go(&stopped, 300);
    store_wait_stop(&stopped.wait);
    store_wait_stop(&stopped.wait);
    pass_ms(10);
    cr_assert_eq(late.ended, 0);
    pass_ms(400);
    cr_assert(late.ended == 1 && late.err == KVD_EBUSY && stopped.ended == 0);
    cr_assert_eq(info().figures.waits, 2);
    cr_assert_eq(info().figures.waits_expired, 1);
    bench_end();
}

/* Two puts of 2 MiB that have 1 MiB each of the 2 MiB that there are. */
static void fill_half(struct put *first, struct put *second)
{
    cr_assert_eq(put_begin(first, "a", 0, 1, 2 * MIB), STORE_OK);
    cr_assert_eq(put_begin(second, "b", 0, 2, 2 * MIB), STORE_OK);
    cr_assert_eq(put_feed(first, MIB), 0);
    cr_assert_eq(put_feed(second, MIB), 0);
    cr_assert_eq(info().inflight_bytes, 2 * MIB);
}

/* Deadlines of those who wait are looked at. */
static void pass_ticks(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        pass_ms(WAIT_TICK_MS + 1);
}

static void wait_with(struct waiter *waiter, struct put *put, uint64_t ms)
{
    cr_assert_eq(put_feed(put, MIB), KVD_EBUSY);
    waiter->ended = 0;
    waiter->wait.put = &put->put;
    store_wait_start(&bench.store->home, &waiter->wait, ms, waited);
}

Test(store, of_puts_that_wait_for_each_other_one_goes_and_one_tries_again)
{
    struct store_config config = bench_config();
    config.inflight_bytes = 2 * MIB;
    bench_begin_on(&config);
    struct put first, second;
    struct waiter waiters[2];
    store_wait_init(&waiters[0].wait);
    store_wait_init(&waiters[1].wait);
    fill_half(&first, &second);
    wait_with(&waiters[0], &first, 1);
    wait_with(&waiters[1], &second, 1);
    pass_ms(60);
    cr_assert(waiters[0].ended == 1 && waiters[0].err == KVD_EBUSY);
    cr_assert(waiters[1].ended == 1 && waiters[1].err == 0);
    wait_with(&waiters[1], &second, 0); /* it was too early: now it is over */
    pass_ms(60);
    cr_assert(waiters[1].ended == 1 && waiters[1].err == KVD_EBUSY);
    cr_assert(!store_put_given_up(&first.put) && !store_put_given_up(&second.put), "they were waiting");
    store_put_abort(&first.put);
    cr_assert_eq(put_feed(&second, MIB), 0);
    cr_assert_eq(put_commit(&second), STORE_OK);
    cr_assert_eq(info().inflight_bytes, 0);
    bench_end();
}

Test(store, the_slowest_put_is_given_up_for_one_that_waits)
{
    struct store_config config = bench_config();
    config.inflight_bytes = 2 * MIB;
    bench_begin_on(&config);
    struct put slow, fast, third;
    struct waiter waiter;
    fill_half(&slow, &fast);
    cr_assert_eq(put_begin(&third, "c", 0, 3, MIB), STORE_OK);
    wait_go(&waiter, 60000); /* not for room */
    slow.put.room_ms -= SLOW_PUT_MS - 1;
    fast.put.room_ms -= SLOW_PUT_MS - 1;
    pass_ms(60);
    cr_assert(!store_put_given_up(&fast.put) && !store_put_given_up(&slow.put), "nobody waits for room");
    store_wait_stop(&waiter.wait);
    fast.put.room_ms += SLOW_PUT_MS;
    wait_with(&waiter, &third, 60000);
    pass_ms(60);
    cr_assert(store_put_given_up(&slow.put) && !store_put_given_up(&fast.put));
    cr_assert_eq(info().figures.puts_given_up, 1);
    cr_assert_eq(waiter.ended, 0);
    store_put_abort(&slow.put);
    settle();
    cr_assert(waiter.ended == 1 && waiter.err == 0);
    cr_assert_eq(put_feed(&third, MIB), 0);
    cr_assert_eq(put_commit(&third), STORE_OK);
    store_put_abort(&fast.put);
    cr_assert_eq(info().inflight_bytes, 0);
    bench_end();
}

Test(store, no_more_slow_puts_are_given_up_than_it_takes)
{
    struct store_config config = bench_config();
    config.inflight_bytes = 2 * MIB;
    bench_begin_on(&config);
    struct put slow[2], others[2];
    struct waiter waiters[2];
    fill_half(&slow[0], &slow[1]);
    slow[0].put.room_ms -= SLOW_PUT_MS;
    slow[1].put.room_ms -= SLOW_PUT_MS;
    cr_assert_eq(put_begin(&others[0], "c", 0, 3, MIB), STORE_OK);
    cr_assert_eq(put_begin(&others[1], "d", 0, 4, MIB), STORE_OK);
    store_wait_init(&waiters[0].wait);
    store_wait_init(&waiters[1].wait);
    wait_with(&waiters[0], &others[0], 60000);
    pass_ticks(3);
    cr_assert_eq(info().figures.puts_given_up, 1, "it still has its room, which will do");
    wait_with(&waiters[1], &others[1], 60000);
    pass_ticks(3);
    cr_assert_eq(info().figures.puts_given_up, 2);
    store_put_abort(&slow[0].put);
    store_put_abort(&slow[1].put);
    settle();
    for (unsigned i = 0; i < 2; i++) {
        cr_assert(waiters[i].ended == 1 && waiters[i].err == 0);
        cr_assert_eq(put_feed(&others[i], MIB), 0);
        cr_assert_eq(put_commit(&others[i]), STORE_OK);
    }
    cr_assert_eq(info().inflight_bytes, 0);
    cr_assert_eq(bench.store->giving_bytes, 0);
    bench_end();
}

Test(store, a_put_that_was_given_up_and_goes_on_is_not_given_up_again)
{
    struct store_config config = bench_config();
    config.inflight_bytes = 2 * MIB;
    bench_begin_on(&config);
    struct put slow, fast, others[2];
    struct waiter waiters[2];
    fill_half(&slow, &fast);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(put_begin(&others[i], i ? "d" : "c", 0, 3 + i, MIB), STORE_OK);
        store_wait_init(&waiters[i].wait);
        wait_with(&waiters[i], &others[i], 60000);
    }
    slow.put.room_ms -= SLOW_PUT_MS;
    pass_ticks(2);
    cr_assert(store_put_given_up(&slow.put) && !store_put_given_up(&fast.put));
    store_put_abort(&fast.put);
    settle();
    cr_assert_eq(put_feed(&slow, MIB), 0); /* before whoever feeds it has seen that it was given up */
    for (unsigned i = 0; i < 2; i++)
        wait_with(&waiters[i], &others[i], 60000);
    slow.put.room_ms -= SLOW_PUT_MS;
    pass_ticks(3);
    cr_assert_eq(info().figures.puts_given_up, 1);
    store_put_abort(&slow.put);
    cr_assert_eq(bench.store->giving_bytes, 0);
    settle();
    for (unsigned i = 0; i < 2; i++)
        store_put_abort(&others[i].put);
    cr_assert_eq(info().inflight_bytes, 0);
    bench_end();
}

Test(store, a_full_queue_to_disk_makes_puts_wait)
{
    struct store_config config = bench_config();
    config.queue_bytes = MIB;
    bench_begin_on(&config);
    struct put put;
    put_ok("large", 1, 2 * MIB); /* nothing was queued: it may pass */
    cr_assert_eq(put_begin(&put, "a", 0, 2, SMALL), KVD_EBUSY);
    cr_assert_eq(put_begin(&put, "large", 0, 2, SMALL), STORE_PRESENT);
    bench.disk->drain_rate = 10 * MIB;
    cr_assert_geq(store_retry_after_ms(bench.store, SMALL), 100);
    cr_assert_lt(store_retry_after_ms(bench.store, SMALL), 120);
    bench.disk->drain_rate = 1;
    cr_assert_eq(store_retry_after_ms(bench.store, SMALL), 5000);
    struct waiter waiter;
    wait_go(&waiter, 60000);
    settle();
    cr_assert_eq(waiter.ended, 0);
    fake_write_all(bench.disk);
    settle();
    cr_assert(waiter.ended == 1 && waiter.err == 0);
    cr_assert_leq(store_retry_after_ms(bench.store, SMALL), 5);
    put_ok("a", 2, SMALL);
    bench_end();
}

Test(store, a_read_that_finds_no_room_waits_and_then_is_busy)
{
    struct store_config config = bench_config();
    config.inflight_bytes = MIB;
    bench_begin_on(&config);
    put_on_disk("a", 1, MIB);
    put_on_disk("b", 2, MIB);
    struct get first, second, third;
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&second, "b"), STORE_PENDING);
    cr_assert_eq(get_go(&third, "b"), STORE_PENDING);
    settle();
    cr_assert_eq(fake_count(&bench.disk->reads), 1);
    struct load *load = CONTAINER_OF(fake_at(&bench.store->starved, 0), struct load, link);
    load->since_ms -= LOAD_WAIT_MS / 2; /* as if it had waited for so long already */
    pass_ms(15);
    cr_assert_eq(second.ended, 0);
    load->since_ms -= LOAD_WAIT_MS / 2;
    pass_ms(100);
    cr_assert(second.ended == 1 && second.outcome == KVD_EBUSY && third.outcome == KVD_EBUSY && first.ended == 0);
    fake_read_all(bench.disk);
    expect_got(&first, 1, 0, MIB);
    expect_value_anywhere("b", 2, MIB);
    bench_end();
}

Test(store, a_read_that_waits_for_room_goes_on_when_there_is_some)
{
    struct store_config config = bench_config();
    config.inflight_bytes = MIB;
    bench_begin_on(&config);
    put_on_disk("a", 1, MIB);
    put_on_disk("b", 2, MIB);
    struct get first, second;
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&second, "b"), STORE_PENDING);
    fake_read_all(bench.disk);
    settle();
    fake_read_all(bench.disk);
    expect_got(&first, 1, 0, MIB);
    expect_got(&second, 2, 0, MIB);
    cr_assert_eq(info().inflight_bytes, 0);
    bench_end();
}

/* ---- leases and pins ---- */

Test(store, match_counts_without_a_gap_and_only_what_it_can_lease)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_many("n", 6, 512 * 1024);
    char names[7][32];
    struct span keys[7];
    for (unsigned i = 0; i < 7; i++) {
        name(names[i], "n", i);
        keys[i] = span_text(names[i]);
    }
    struct store_matched matched;
    store_match(bench.store, keys, 7, 0, false, &bench.owner, &matched);
    cr_assert(matched.count == 6 && matched.memory == 6 && matched.lease == 0);
    store_match(bench.store, keys, 7, 60000, false, &bench.owner, &matched);
    cr_assert(matched.count == 4 && matched.memory == 4 && matched.lease != 0, "half the pool is four of them");
    cr_assert_eq(info().held_memory_only_bytes, 2 * MIB);
    cr_assert_not(pin("n5", true));
    cr_assert(pin("n0", true)); /* held already */
    uint8_t present[7];
    uint64_t lease;
    cr_assert_eq(store_exists(bench.store, keys, 7, 60000, &bench.owner, present, &lease), 4);
    cr_assert(present[0] == IN_MEMORY && present[4] == 0 && present[6] == 0);
    store_release(bench.store, matched.lease, keys, 2);
    store_release(bench.store, lease, NULL, 0);
    cr_assert_eq(info().held_memory_only_bytes, 3 * 512 * 1024);
    cr_assert(pin("n5", true));
    store_release(bench.store, matched.lease, NULL, 0);
    store_release(bench.store, matched.lease, NULL, 0);
    cr_assert(stat_of("n0").pinned && !stat_of("n2").leased);
    bench_end();
}

Test(store, what_is_on_disk_can_be_leased_beyond_the_bound)
{
    bench_begin_usual();
    char key[32];
    for (unsigned i = 0; i < 7; i++) {
        name(key, "n", i);
        put_on_both(key, i, 512 * 1024);
        cr_assert_neq(lease_of(key, 60000), 0);
    }
    cr_assert_eq(info().held_memory_only_bytes, 0);
    bench_end();
}

Test(store, a_put_that_would_pin_too_much_is_refused)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    struct put put;
    cr_assert_eq(put_go(&put, "a", PIN, 1, 3 * MIB / 2), STORE_OK);
    cr_assert(stat_of("a").pinned);
    cr_assert_eq(put_go(&put, "b", PIN, 2, MIB), KVD_EBUSY);
    expect_miss("b");
    cr_assert_eq(put_go(&put, "b", PIN, 2, MIB / 2), STORE_OK);
    cr_assert(pin("a", false));
    cr_assert_eq(put_go(&put, "c", PIN, 3, MIB), STORE_OK);
    bench_end();
}

Test(store, remove_and_replace_end_leases_and_pins)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    put_ok("b", 2, SMALL);
    uint64_t lease = lease_of("a", 60000);
    cr_assert(lease && lease_of("b", 60000) && pin("a", true) && pin("b", true));
    struct put put;
    cr_assert_eq(put_go(&put, "a", REPLACE, 3, SMALL), STORE_OK);
    struct store_stat stat = stat_of("a");
    cr_assert(!stat.pinned && !stat.leased);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "b"), STORE_OK);
    put_ok("b", 4, SMALL);
    stat = stat_of("b");
    cr_assert(!stat.pinned && !stat.leased);
    cr_assert_eq(info().lease_holds, 0);
    store_release(bench.store, lease, NULL, 0);
    bench_end();
}

Test(store, a_lease_ends_by_time_and_wakes_who_waits_for_room)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    cr_assert_neq(lease_of("a", 20), 0);
    struct waiter waiter;
    wait_go(&waiter, 60000);
    settle();
    cr_assert_eq(waiter.ended, 0);
    timer_start(&bench.store->lease_timer, 25); /* it ticks once a second otherwise */
    pass_ms(40);
    settle();
    cr_assert(!stat_of("a").leased);
    cr_assert(waiter.ended == 1 && waiter.err == 0);
    bench_end();
}

Test(store, the_end_of_a_connection_ends_its_leases)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    cr_assert(lease_of("a", 60000) && lease_of("a", 60000));
    cr_assert_eq(info().leases, 2);
    store_owner_end(bench.store, &bench.owner);
    cr_assert_eq(info().leases, 0);
    cr_assert(!stat_of("a").leased);
    bench_end();
}

/* ---- look-ups ---- */

Test(store, ill_formed_keys_are_absent)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    static const uint8_t zeros[KEY_MAX_BYTES + 1];
    struct span keys[] = {span_of(zeros, 0), span_of(zeros, sizeof zeros), span_text("a")};
    uint8_t present[3];
    uint64_t lease;
    cr_assert_eq(store_exists(bench.store, keys, 3, 60000, &bench.owner, present, &lease), 1);
    cr_assert(present[0] == 0 && present[1] == 0 && present[2] == IN_MEMORY && lease != 0);
    cr_assert_eq(store_pin(bench.store, keys, 3, true), 1);
    struct store_matched matched;
    store_match(bench.store, keys, 3, 0, true, &bench.owner, &matched);
    cr_assert_eq(matched.count, 0);
    struct removing removing = {.outcome = NOT_ENDED};
    cr_assert_eq(store_remove_start(&bench.store->home, &removing.remove, keys, 3, remove_ended), STORE_OK);
    cr_assert_eq(removing.remove.removed, 1);
    bench_end();
}

Test(store, match_can_warm_what_it_finds_on_disk)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    struct span key = span_text("a");
    struct store_matched matched;
    store_match(bench.store, &key, 1, 60000, true, &bench.owner, &matched);
    cr_assert(matched.count == 1 && matched.memory == 0);
    store_match(bench.store, &key, 1, 60000, true, &bench.owner, &matched);
    cr_assert_eq(fake_count(&bench.disk->reads), 1);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, MEDIUM);
    cr_assert_eq(info().figures.loads_shared, 1);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    bench_end();
}

static void scan_count(void *arg, const struct store_scanned *object)
{
    unsigned *seen = arg;
    cr_assert(object->size == SMALL && object->memory && !object->disk);
    (*seen)++;
}

Test(store, a_scan_shows_what_begins_with_the_prefix)
{
    bench_begin_usual();
    put_many("n", 150, SMALL);
    put_ok("other", 1, SMALL);
    unsigned seen = 0;
    uint64_t cursor = 0;
    do
        cursor = store_scan(bench.store, cursor, span_text("n"), 10, scan_count, &seen);
    while (cursor);
    cr_assert_eq(seen, 150);
    bench_end();
}

/* ---- remove ---- */

Test(store, a_remove_of_what_no_disk_knows_is_answered_at_once)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("a", 1, SMALL);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_OK);
    cr_assert_eq(removing.remove.removed, 1);
    expect_miss("a");
    cr_assert_eq(remove_go(&removing, "a"), STORE_OK);
    cr_assert_eq(removing.remove.removed, 0);
    cr_assert_eq(bench.disk->kills_started, 0);
    bench_end();
}

Test(store, a_prefix_goes_in_steps_and_what_comes_meanwhile_stays)
{
    bench_begin_usual();
    put_many("p", 200, 100);
    put_ok("other", 1, SMALL);
    struct removing removing;
    cr_assert_eq(remove_many_go(&removing, KILL_PREFIX, span_text("p")), STORE_PENDING);
    struct put put;
    cr_assert_eq(put_go(&put, "pnew", 0, 5, SMALL), STORE_PENDING); /* a kill of its own first */
    settle();
    cr_assert_eq(removing.ended, 0);
    fake_kill_all(bench.disk);
    cr_assert(removing.ended == 1 && removing.outcome == STORE_OK);
    cr_assert_eq(removing.remove.removed, 200);
    cr_assert_eq(put.outcome, STORE_OK);
    expect_value("pnew", 5, SMALL);
    expect_value("other", 1, SMALL);
    cr_assert_eq(info().table.objects, 2);
    bench_end();
}

static int forget_go(struct removing *removing)
{
    *removing = (struct removing){.outcome = NOT_ENDED};
    return store_forget_start(&bench.store->home, &removing->remove, remove_ended);
}

/* It would be written behind the walk through the files, and be there for good. */
Test(store, a_put_whose_body_is_under_way_when_its_node_is_torn_down_is_refused)
{
    bench_begin_usual();
    struct put arriving, waiting;
    struct removing removing;
    put_on_both("b", 1, SMALL);
    cr_assert_eq(put_begin(&arriving, "a", 0, 7, SMALL), STORE_OK);
    cr_assert_eq(put_go(&waiting, "b", REPLACE, 8, SMALL), STORE_PENDING);
    cr_assert_eq(forget_go(&removing), STORE_PENDING);
    cr_assert_eq(put_feed(&arriving, SMALL), 0);
    cr_assert_eq(put_commit(&arriving), KVD_ECLOSING);
    settle();
    fake_kill_all(bench.disk);
    cr_assert_eq(waiting.outcome, KVD_ECLOSING);
    cr_assert(removing.ended == 1 && removing.outcome == STORE_OK);
    cr_assert_eq(info().table.objects, 0);
    bench_end();
}

Test(store, after_a_teardown_that_failed_puts_go_on)
{
    bench_begin_usual();
    struct removing removing;
    cr_assert_eq(forget_go(&removing), STORE_PENDING);
    settle();
    fake_kill_end(bench.disk, -EIO);
    cr_assert(removing.ended == 1 && removing.outcome == -EIO);
    put_ok("a", 1, SMALL);
    bench_end();
}

/* ---- the end ---- */

Test(store, closing_frees_what_there_is)
{
    bench_begin_usual();
    put_on_both("a", 1, MEDIUM);
    put_ok("b", 2, SMALL);
    cr_assert(pin("b", true) && lease_of("a", 60000));
    struct put put;
    cr_assert_eq(put_go(&put, "c", ACK_DISK, 3, SMALL), STORE_PENDING);
    bench_close();
    cr_assert_eq(put.outcome, KVD_ECLOSING);
}

Test(store, it_closes_while_the_disk_is_opening)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    put_ok("a", 1, SMALL);
    cr_assert_eq(info().table.objects, 1);
    bench_close();
}

/* ---- a read that takes too long ---- */

static void expect_late(const struct get *get)
{
    cr_assert(get->ended == 1 && get->outcome == STORE_MISS);
    cr_assert_str_eq(get->get.reason, "timeout");
}

enum { LATE_MS = 60000 };

static void oldest_read_is_late(void)
{
    struct load *load = CONTAINER_OF(list_first(&bench.store->reading), struct load, link);
    load->since_ms -= LATE_MS;
    timer_stop(&bench.store->read_timer);
    timer_start(&bench.store->read_timer, 0);
    pass_ms(1);
}

/* Two values hang, and all room for what is under way is the kernel's. */
Test(store, nobody_waits_for_a_read_beyond_its_deadline)
{
    struct store_config config = bench_config();
    config.inflight_bytes = 2 * MIB;
    config.read_timeout_ms = LATE_MS;
    bench_begin_on(&config);
    put_on_disk("a", 1, MIB);
    put_on_disk("b", 2, MIB);
    struct get first, second, other, again;
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&second, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&other, "b"), STORE_PENDING);
    oldest_read_is_late();
    expect_late(&first);
    expect_late(&second);
    cr_assert_eq(other.ended, 0, "it has a deadline of its own");
    cr_assert_eq(get_go(&again, "a"), STORE_MISS);
    cr_assert_str_eq(again.get.reason, "timeout");
    oldest_read_is_late();
    expect_late(&other);
    cr_assert_eq(fake_count(&bench.disk->reads), 2, "none is read twice");
    cr_assert_eq(bench.disk->late_reads, 2);
    cr_assert_eq(info().inflight_bytes, 2 * MIB, "the buffers are the kernel's");
    cr_assert_eq(info().figures.read_timeouts, 4);
    put_ok("c", 3, MIB);
    expect_value("c", 3, MIB);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "b"), STORE_PENDING);
    fake_kill_all(bench.disk);
    fake_read_all(bench.disk);
    settle();
    cr_assert_eq(info().inflight_bytes, 0);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK, "what came late is kept");
    cr_assert_eq(where_is("b"), 0, "but not what was removed meanwhile");
    expect_value("a", 1, MIB);
    bench_end();
}
