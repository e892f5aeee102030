/* Objects with an end, in every state that an object can be in, by a clock that the test sets. */
#include "test/support/store_bench.h"

enum { SMALL = 5000, MEDIUM = 300 * 1024, TTL = 10000 };

/* ---- clocks ---- */

static uint64_t fake_wall_ms = 1700000000000, fake_passed_ms = 1000000;

uint64_t __wrap_loop_wall_ms(const struct loop *loop);
uint64_t __wrap_loop_wall_ms(const struct loop *loop)
{
    (void)loop;
    return fake_wall_ms;
}

uint64_t __wrap_loop_now_us(const struct loop *loop);
uint64_t __wrap_loop_now_us(const struct loop *loop)
{
    (void)loop;
    return fake_passed_ms * 1000;
}

static void time_passes(uint64_t ms)
{
    fake_wall_ms += ms;
    fake_passed_ms += ms;
}

/* ---- the heap ---- */

static _Thread_local bool heap_is_out;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return heap_is_out ? NULL : __real_malloc(size);
}

static void sweep(void)
{
    task_post(&bench.store->expire_task);
    settle();
}

static void begin(void)
{
    bench_begin_usual();
    bench.ttl_ms = TTL;
}

static bool always(void)
{
    return true;
}

/* kill -9, then a start that finds what is there. */
static void die_and_start(void)
{
    fake_crash(bench.disk, always);
    bench_close();
    struct store_config config = bench_config();
    bench_begin(&config);
    fake_opened(bench.disk, 0, 0);
    for (struct list *at = bench.disk->records.next; at != &bench.disk->records; at = at->next)
        fake_found(bench.disk, CONTAINER_OF(at, struct fake_record, link));
    fake_recovered(bench.disk);
}

/* What was found at start was not put in this life: the figures need not add up. */
static void end_of_second_life(void)
{
    expect_nothing_leaks();
    bench_close();
}

/* Entries of the remove log that were asked for, for keys. */
static unsigned key_kills(void)
{
    unsigned count = 0;
    for (struct list *at = bench.disk->noted.next; at != &bench.disk->noted; at = at->next)
        count += CONTAINER_OF(at, struct fake_dead, link)->kind == KILL_KEY;
    return count;
}

/* ---- by look-ups, each of them ---- */

static void expect_gone(const char *key)
{
    struct store_stat stat;
    cr_assert_eq(store_stat(bench.store, span_text(key), &stat), STORE_MISS, "%s is still there", key);
}

Test(expire, its_time_is_counted_from_when_it_can_be_seen)
{
    begin();
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 1, MEDIUM), STORE_OK);
    cr_assert_eq(put_feed(&put, 1000), 0);
    time_passes(3 * TTL);
    cr_assert_eq(put_feed(&put, MEDIUM), 0);
    cr_assert_eq(put_commit(&put), STORE_OK);
    expect_value("a", 1, MEDIUM);
    cr_assert(stat_of("a").mortal && stat_of("a").ttl_ms == TTL);
    time_passes(TTL - 1);
    expect_value("a", 1, MEDIUM);
    cr_assert_eq(stat_of("a").ttl_ms, 1);
    time_passes(1);
    expect_miss("a");
    cr_assert_eq(info().figures.expired, 1);
    cr_assert_eq(info().table.objects + info().table.mortal, 0);
    bench_end();
}

Test(expire, every_look_up_sees_that_it_is_over)
{
    begin();
    static const char *const keys[] = {"exists", "match", "stat", "touch", "pin", "put", "remove", "scan"};
    for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++)
        put_ok(keys[i], i, SMALL);
    time_passes(TTL);
    cr_assert_eq(where_is("exists"), 0);
    cr_assert_eq(lease_of("match", 1000), 0);
    expect_gone("stat");
    struct span touched = span_text("touch");
    store_touch(bench.store, &touched, 1);
    cr_assert_not(pin("pin", true));
    struct put put;
    cr_assert_eq(put_go(&put, "put", 0, 77, SMALL), STORE_OK, "PRESENT, by what is over");
    expect_value("put", 77, SMALL);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "remove"), STORE_OK);
    cr_assert_eq(removing.remove.removed, 0);
    cr_assert_eq(info().figures.expired, 7);
    cr_assert_eq(info().table.objects, 2);
    sweep();
    cr_assert_eq(info().figures.expired, 8);
    bench_end();
}

static void note_key(void *arg, const struct store_scanned *object)
{
    (void)object;
    ++*(unsigned *)arg;
}

Test(expire, a_scan_and_a_prefix_remove_pass_over_it)
{
    begin();
    for (unsigned i = 0; i < 20; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", i);
        bench.ttl_ms = i % 2 ? TTL : 0;
        put_ok(key, i, SMALL);
    }
    time_passes(TTL);
    unsigned seen = 0;
    cr_assert_eq(store_scan(bench.store, 0, span_text("k1"), 1000, note_key, &seen), 0);
    cr_assert_eq(seen, 5, "10, 12, 14, 16, 18, not %u", seen);
    struct removing removing;
    cr_assert_eq(remove_many_go(&removing, KILL_PREFIX, span_text("k")), STORE_PENDING);
    drain();
    cr_assert_eq(removing.remove.removed, 10);
    cr_assert_eq(info().figures.expired, 10);
    bench_end();
}

Test(expire, what_nobody_looks_for_is_swept_in_small_steps)
{
    begin();
    enum { COUNT = 300 };
    for (unsigned i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", i);
        put_ok(key, i, 100);
        fake_write_all(bench.disk);
    }
    time_passes(TTL + EXPIRY_TICK_MS);
    uint64_t before = 0;
    task_post(&bench.store->expire_task);
    for (unsigned turn = 0; before < COUNT; turn++) {
        cr_assert_lt(turn, 20);
        turns(1);
        cr_assert_leq(info().figures.expired - before, STEP_KEYS, "a step of more than %d keys", STEP_KEYS);
        before = info().figures.expired;
    }
    cr_assert_eq(info().table.objects, 0);
    bench_end();
}

Test(expire, the_timer_sweeps_by_itself)
{
    begin();
    put_ok("a", 1, SMALL);
    time_passes(TTL + EXPIRY_TICK_MS);
    for (unsigned i = 0; info().table.objects > 0; i++) {
        cr_assert_lt(i, 50);
        pass_ms(20);
    }
    cr_assert_eq(info().figures.expired, 1);
    bench_end();
}

/* ---- who holds it ---- */

Test(expire, neither_a_pin_nor_a_lease_keeps_it)
{
    begin();
    struct put put;
    cr_assert_eq(put_go(&put, "pinned", PIN, 1, SMALL), STORE_OK);
    put_ok("leased", 2, SMALL);
    uint64_t lease = lease_of("leased", 60000);
    cr_assert_neq(lease, 0);
    time_passes(TTL);
    sweep();
    sweep();
    time_passes(EXPIRY_TICK_MS);
    sweep();
    cr_assert_eq(info().table.objects + info().lease_holds + info().held_memory_only_bytes, 0);
    store_release(bench.store, lease, NULL, 0);
    bench_end();
}

Test(expire, who_has_the_bytes_keeps_them)
{
    begin();
    put_ok("a", 1, MEDIUM);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_OK);
    time_passes(TTL);
    expect_miss("a");
    expect_got(&get, 1, 0, MEDIUM);
    bench_end();
}

/* ---- the disk ---- */

Test(expire, a_queued_write_is_taken_back)
{
    begin();
    put_ok("a", 1, SMALL);
    cr_assert_eq(fake_count(&bench.disk->queue), 1);
    time_passes(TTL);
    expect_miss("a");
    cr_assert_eq(fake_count(&bench.disk->queue), 0);
    bench_end();
}

Test(expire, a_write_under_way_says_when_it_ends)
{
    begin();
    put_ok("a", 1, SMALL);
    uint64_t end = fake_wall_ms + TTL;
    struct fake_record *record = fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    cr_assert_eq(record->expires_ms, end);
    time_passes(TTL);
    expect_miss("a");
    cr_assert_eq(key_kills(), 0, "the record says it, and so does the log");
    fake_write_all(bench.disk);
    expect_miss("a");
    die_and_start();
    expect_miss("a");
    cr_assert_eq(info().figures.recovered_expired, 1);
    end_of_second_life();
}

Test(expire, ack_disk_is_answered_though_it_ended_before)
{
    begin();
    struct put first, second;
    cr_assert_eq(put_go(&first, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&second, "b", ACK_DISK, 1, SMALL), STORE_PENDING);
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    time_passes(TTL);
    expect_miss("a");
    expect_miss("b");
    drain();
    cr_assert(first.ended == 1 && second.ended == 1);
    bench_end();
}

Test(expire, on_disk_it_is_over_too_and_after_a_crash)
{
    begin();
    put_on_disk("a", 1, SMALL);
    put_on_disk("b", 2, SMALL);
    time_passes(TTL - CLOCK_SLACK_MS - 1);
    die_and_start();
    cr_assert_eq(where_is("a"), ON_DISK);
    cr_assert_eq(stat_of("a").ttl_ms, CLOCK_SLACK_MS + 1, "the end is where it was");
    time_passes(CLOCK_SLACK_MS);
    expect_value_anywhere("a", 1, SMALL);
    time_passes(1);
    expect_miss("a");
    cr_assert_eq(where_is("b"), 0);
    cr_assert_eq(key_kills(), 0);
    die_and_start();
    expect_miss("a");
    cr_assert_eq(info().table.objects, 0);
    end_of_second_life();
}

Test(expire, a_read_that_began_before_is_answered_and_brings_nothing_back)
{
    begin();
    put_on_disk("a", 1, MEDIUM);
    struct get before, after;
    cr_assert_eq(get_go(&before, "a"), STORE_PENDING);
    time_passes(TTL);
    cr_assert_eq(get_go(&after, "a"), STORE_MISS, "it joined a read of what is over");
    fake_read_all(bench.disk);
    expect_got(&before, 1, 0, MEDIUM);
    expect_miss("a");
    cr_assert_eq(info().figures.promoted, 0);
    bench_end();
}

Test(expire, in_a_segment_that_is_being_given_up)
{
    begin();
    for (unsigned i = 0; i < 3; i++)
        put_on_disk((const char *[]){"a", "b", "c"}[i], i, SMALL);
    fake_seal(bench.disk);
    cr_assert(reclaim_full(bench.store));
    time_passes(TTL);
    expect_miss("a");
    fake_kill_all(bench.disk);
    expect_miss("b");
    settle();
    expect_miss("c");
    cr_assert_eq(info().table.objects, 0);
    bench_end();
}

/* ---- what comes after ---- */

Test(expire, a_later_put_wins_over_the_record_that_is_over)
{
    begin();
    put_on_disk("a", 1, SMALL);
    time_passes(TTL);
    bench.ttl_ms = 0;
    put_on_disk("a", 2, SMALL);
    cr_assert_eq(key_kills(), 0, "a log entry where none is needed");
    die_and_start();
    expect_value_anywhere("a", 2, SMALL);
    cr_assert_not(stat_of("a").mortal);
    cr_assert_eq(bench.store->doubt, 0);
    end_of_second_life();
}

Test(expire, a_replace_gives_the_end_of_the_new_value)
{
    begin();
    struct put put;
    put_ok("a", 1, SMALL);
    put_ok("b", 2, SMALL);
    bench.ttl_ms = 0;
    put_ok("c", 3, SMALL);
    cr_assert_eq(put_go(&put, "a", REPLACE, 4, SMALL), STORE_OK);
    bench.ttl_ms = 2 * TTL;
    cr_assert_eq(put_go(&put, "b", REPLACE, 5, SMALL), STORE_OK);
    cr_assert_eq(put_go(&put, "c", REPLACE, 6, SMALL), STORE_OK);
    cr_assert_eq(put_go(&put, "a", 0, 7, SMALL), STORE_PRESENT);
    time_passes(2 * TTL - 1);
    sweep();
    expect_value("a", 4, SMALL);
    expect_value("b", 5, SMALL);
    expect_value("c", 6, SMALL);
    time_passes(1);
    expect_value("a", 4, SMALL);
    expect_miss("b");
    expect_miss("c");
    bench_end();
}

Test(expire, no_end_and_ends_beyond_all_counting)
{
    begin();
    static const uint64_t ends[] = {0, ((uint64_t)1 << 48) + 1, UINT64_MAX, (uint64_t)1 << 48};
    for (unsigned i = 0; i < 4; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", i);
        bench.ttl_ms = ends[i];
        put_on_disk(key, i, SMALL);
        cr_assert_eq(stat_of(key).mortal, i == 3);
    }
    time_passes((uint64_t)100 * 365 * 24 * 3600 * 1000);
    sweep();
    cr_assert_eq(info().table.objects, 4);
    die_and_start();
    cr_assert_eq(info().table.objects, 4);
    end_of_second_life();
}

/* ---- a wall clock that is set ---- */

Test(expire, a_clock_that_is_set_back_brings_nothing_back)
{
    begin();
    put_on_disk("a", 1, SMALL);
    put_on_disk("b", 2, SMALL);
    time_passes(TTL);
    expect_miss("a");
    fake_wall_ms -= CLOCK_SLACK_MS;
    expect_miss("a");
    expect_miss("b");
    cr_assert_eq(key_kills(), 0);
    die_and_start();
    expect_miss("a");
    expect_miss("b");
    end_of_second_life();
}

Test(expire, a_clock_that_is_set_back_by_hours_neither)
{
    begin();
    put_on_disk("a", 1, SMALL);
    fake_wall_ms -= 3600 * 1000;
    put_on_disk("b", 2, SMALL);
    cr_assert_eq(stat_of("b").ttl_ms, TTL, "an hour more, or less");
    time_passes(TTL - 1);
    cr_assert_eq(where_is("a"), ON_DISK);
    time_passes(1);
    expect_miss("a");
    expect_miss("b");
    fake_kill_all(bench.disk);
    die_and_start();
    expect_miss("a");
    expect_miss("b");
    end_of_second_life();
}

/* As if it had been asked for, and had failed: a start that has not come to the record yet does not announce it. */
Test(expire, what_cannot_be_buried_for_want_of_heap_is_not_found_and_is_owed)
{
    begin();
    put_on_disk("a", 1, SMALL);
    fake_wall_ms -= 3600 * 1000;
    time_passes(TTL);
    heap_is_out = true;
    struct store_stat stat;
    int outcome = store_stat(bench.store, span_text("a"), &stat);
    heap_is_out = false;
    cr_assert_eq(outcome, STORE_MISS);
    cr_assert(list_empty(&bench.disk->kills));
    cr_assert_eq(key_kills(), 1);
    cr_assert_gt(bench.store->doubt, 0);
    bench_end();
}

static uint64_t first_kill_bytes(void)
{
    cr_assert(!list_empty(&bench.disk->kills));
    return CONTAINER_OF(bench.disk->kills.next, struct disk_kill, link)->bytes;
}

/* --disk counts what lies there. */
Test(expire, a_file_of_its_own_counts_until_it_is_unlinked)
{
    begin();
    bench.disk->objects = true;
    put_on_both("a", 1, SMALL);
    put_on_both("bb", 2, SMALL);
    bench.disk->own_objects = bench.disk->open;
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "bb"), STORE_PENDING);
    cr_assert_eq(first_kill_bytes(), disk_object_bytes(2, SMALL));
    fake_kill_all(bench.disk);
    time_passes(TTL);
    expect_miss("a");
    cr_assert_eq(first_kill_bytes(), disk_object_bytes(1, SMALL));
    fake_kill_all(bench.disk);
    bench_end();
}

/* Another host may have taken the name away: then ours is not found when it is to be unlinked, and may be looked at by its old name. */
Test(expire, a_look_at_its_file_does_not_bring_it_back)
{
    struct store_config config = bench_config();
    config.probe = true;
    bench_begin_on(&config);
    bench.disk->objects = bench.disk->probes = true;
    bench.ttl_ms = TTL;
    put_on_both("a", 1, SMALL);
    bench.disk->own_objects = bench.disk->open;
    uint64_t version = stat_of("a").version;
    fake_wall_ms -= 3600 * 1000;
    time_passes(TTL);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    fake_kill_all(bench.disk);
    fake_probe_end(bench.disk, 0, version, bench.disk->own_objects);
    cr_assert(get.ended == 1 && get.outcome == STORE_MISS);
    bench_end();
}

Test(expire, a_clock_that_is_set_forward_is_followed)
{
    begin();
    put_ok("a", 1, SMALL);
    fake_wall_ms += 3600 * 1000;
    expect_miss("a");
    put_ok("a", 2, SMALL);
    fake_wall_ms -= 3600 * 1000;
    time_passes(TTL - 1);
    expect_value("a", 2, SMALL);
    time_passes(1);
    expect_miss("a");
    bench_end();
}
