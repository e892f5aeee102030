/* What an operator asks of the store, over a disk tier that does what the test says: reading all that is on disk, giving up memory. */
#include "test/support/store_bench.h"

enum { SMALL = 5000, LARGE = 2 * MIB + 300 * 1024, PIECE = 1 << 20 };

struct scrubbing {
    struct store_scrub scrub;
    unsigned ended;
    int err;
};

static void scrub_ended(struct store_scrub *scrub, int err)
{
    struct scrubbing *scrubbing = CONTAINER_OF(scrub, struct scrubbing, scrub);
    scrubbing->ended++;
    scrubbing->err = err;
}

static void scrub_go(struct scrubbing *scrubbing)
{
    uint64_t run = 0;
    *scrubbing = (struct scrubbing){.err = NOT_ENDED};
    cr_assert_eq(store_scrub_start(&bench.store->home, &scrubbing->scrub, UINT64_MAX / MIB, &run, scrub_ended), 0);
    cr_assert_gt(run, 0);
    settle();
}

static struct disk_read *read_under_way(void)
{
    cr_assert_eq(fake_count(&bench.disk->reads), 1, "one at a time");
    return CONTAINER_OF(fake_at(&bench.disk->reads, 0), struct disk_read, link);
}

static void scrub_all(struct scrubbing *scrubbing)
{
    while (!scrubbing->ended) {
        read_under_way();
        fake_read_end(bench.disk, 0, 0);
        settle();
    }
}

Test(scrub, reads_every_record_piece_by_piece_and_keeps_nothing)
{
    bench_begin_usual();
    put_on_disk("small", 1, SMALL);
    put_on_disk("large", 2, LARGE);
    put_on_disk("empty", 3, 0);
    put_on_both("both", 4, SMALL);
    put_ok("memory", 5, SMALL);
    uint64_t before = info().memory_used_bytes;
    struct scrubbing scrubbing;
    scrub_go(&scrubbing);
    while (!scrubbing.ended) {
        struct disk_read *read = read_under_way();
        cr_assert_leq(read->length, PIECE);
        cr_assert_leq(info().memory_used_bytes, before + PIECE);
        fake_read_end(bench.disk, 0, 0);
        settle();
    }
    struct store_scrubbed done = info().scrub;
    cr_assert(scrubbing.ended == 1 && scrubbing.err == 0 && !done.running && done.run == 1);
    cr_assert_eq(done.records, 4);
    cr_assert_eq(done.bytes, 2 * SMALL + LARGE);
    cr_assert(done.of_records == 4 && done.of_bytes == done.bytes && done.bad + done.unreadable == 0);
    cr_assert_eq(info().memory_used_bytes, before);
    cr_assert_eq(info().inflight_bytes + info().figures.promoted, 0);
    cr_assert_eq(where_is("large"), ON_DISK);
    drain();
    bench_end();
}

Test(scrub, what_is_bad_goes_and_what_the_device_refuses_stays)
{
    static const int errs[] = {KVD_ECORRUPT, KVD_ESHORT, -EIO};
    for (unsigned i = 0; i < 3; i++) {
        bench_begin_usual();
        put_on_disk("a", 1, SMALL);
        struct scrubbing scrubbing;
        scrub_go(&scrubbing);
        fake_read_end(bench.disk, 0, errs[i]);
        settle();
        cr_assert(scrubbing.ended == 1 && scrubbing.err == 0);
        struct store_scrubbed done = info().scrub;
        cr_assert_eq(done.bad, i < 2);
        cr_assert_eq(done.unreadable, i == 2);
        cr_assert_eq(where_is("a"), i < 2 ? 0 : ON_DISK);
        cr_assert_eq(info().figures.dropped_corrupt, i == 0);
        cr_assert_eq(info().figures.dropped_short, i == 1);
        if (i < 2) {
            fake_kill_all(bench.disk);
            cr_assert_not(fake_may_rise(bench.disk, span_text("a"), UINT64_MAX), "a restart could bring it back");
        }
        bench_end();
    }
}

Test(scrub, in_memory_it_stays_when_it_is_bad_on_disk)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    struct scrubbing scrubbing;
    scrub_go(&scrubbing);
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    settle();
    cr_assert_eq(info().scrub.bad, 1);
    cr_assert_eq(where_is("a"), IN_MEMORY);
    expect_value("a", 1, SMALL);
    fake_kill_all(bench.disk);
    fake_write_all(bench.disk);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK, "it is written again");
    bench_end();
}

Test(scrub, what_goes_meanwhile_is_passed_over)
{
    bench_begin_usual();
    put_on_disk("large", 2, LARGE);
    struct scrubbing scrubbing;
    scrub_go(&scrubbing);
    cr_assert_eq(read_under_way()->offset, 0);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "large"), STORE_PENDING);
    fake_read_end(bench.disk, 0, 0);
    settle();
    cr_assert_eq(scrubbing.ended, 1, "the next piece of what is gone was read");
    cr_assert_eq(info().scrub.records, 0);
    drain();
    bench_end();
}

/* The reading of a record that was replaced says nothing about the new one. */
Test(scrub, a_bad_record_that_was_replaced_takes_nothing_with_it)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    struct scrubbing scrubbing;
    scrub_go(&scrubbing);
    struct put put;
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    settle();
    expect_value("a", 2, SMALL);
    drain();
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    scrub_all(&scrubbing);
    bench_end();
}

static void wait_on(struct store_wait *wait, int err)
{
    cr_assert_eq(err, 0);
    list_push_back(&bench.store->waits, &wait->link);
}

Test(scrub, who_waits_for_room_comes_first)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    put_on_disk("b", 2, SMALL);
    struct store_wait wait = {0};
    store_wait_init(&wait);
    struct scrubbing scrubbing;
    scrub_go(&scrubbing);
    bench.store->home.room_seen = bench.store->room_changes; /* as after a try that has just failed */
    store_wait_start(&bench.store->home, &wait, 1000000, wait_on);
    fake_read_end(bench.disk, 0, 0);
    settle();
    cr_assert_eq(fake_count(&bench.disk->reads), 0, "it read on while a put waits for room");
    store_wait_stop(&wait);
    for (unsigned i = 0; fake_count(&bench.disk->reads) == 0; i++) {
        cr_assert_lt(i, 100);
        pass_ms(5);
    }
    scrub_all(&scrubbing);
    cr_assert_eq(info().scrub.records, 2);
    bench_end();
}

Test(scrub, broken_off_in_the_middle_of_a_read)
{
    bench_begin_usual();
    put_on_disk("large", 2, LARGE);
    struct scrubbing scrubbing, second;
    scrub_go(&scrubbing);
    scrub_go(&second);
    cr_assert_eq(info().scrub.run, 1, "one at a time");
    store_scrub_leave(&second.scrub);
    store_quiet(bench.store);
    bench_told();
    cr_assert(scrubbing.ended == 1 && scrubbing.err == KVD_ECLOSING && second.ended == 0);
    cr_assert_not(info().scrub.running);
    uint64_t run;
    cr_assert_eq(store_scrub_start(&bench.store->home, NULL, 1, &run, NULL), KVD_ECLOSING, "its read is still under way");
    fake_read_end(bench.disk, 0, 0);
    settle();
    cr_assert_eq(fake_count(&bench.disk->reads), 0);
    bench_end();
}

/* ---- memory given up ---- */

struct giving {
    struct store_evict evict;
    unsigned ended;
};

static void gave(struct store_evict *evict)
{
    CONTAINER_OF(evict, struct giving, evict)->ended++;
}

static void put_many(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", i);
        put_on_both(key, i, 100);
    }
}

Test(give, in_steps_and_no_more_than_asked_for)
{
    enum { COUNT = 200 };
    bench_begin_usual();
    put_many(COUNT);
    struct giving giving = {.ended = 0};
    store_evict_start(&bench.store->home, &giving.evict, 150 * 100, gave);
    uint64_t before = 0;
    for (unsigned turn = 0; !giving.ended; turn++) {
        cr_assert_lt(turn, 20);
        turns(1);
        cr_assert_leq(info().figures.evicted - before, STEP_KEYS);
        before = info().figures.evicted;
    }
    cr_assert(giving.evict.objects == 150 && giving.evict.bytes == 15000);
    cr_assert_eq(info().table.in_memory, COUNT - 150);
    cr_assert_eq(where_is("k0"), ON_DISK);
    cr_assert_eq(where_is("k199"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(give, what_is_held_or_would_be_lost_stays)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("only", 1, SMALL);
    put_on_both("pinned", 2, SMALL);
    put_on_both("leased", 3, SMALL);
    cr_assert(pin("pinned", true) && lease_of("leased", 60000) != 0);
    struct giving giving = {.ended = 0};
    store_evict_start(&bench.store->home, &giving.evict, UINT64_MAX, gave);
    settle();
    cr_assert(giving.ended == 1 && giving.evict.objects == 0);
    expect_value("only", 1, SMALL);
    cr_assert_eq(where_is("pinned"), IN_MEMORY | ON_DISK);
    cr_assert_eq(where_is("leased"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(give, what_belongs_on_disk_is_written_first)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("a", 1, SMALL);
    put_ok("b", 2, SMALL);
    store_set_persist(bench.store, PERSIST_WRITE_THROUGH);
    struct giving giving = {.ended = 0};
    store_evict_start(&bench.store->home, &giving.evict, UINT64_MAX, gave);
    settle();
    cr_assert_eq(giving.ended, 0, "it left though it is on no disk");
    cr_assert_eq(where_is("a"), IN_MEMORY);
    fake_write_all(bench.disk);
    settle();
    cr_assert(giving.ended == 1 && giving.evict.objects == 2);
    cr_assert(where_is("a") == ON_DISK && where_is("b") == ON_DISK);
    expect_value_anywhere("a", 1, SMALL);
    bench_end();
}

Test(give, a_write_that_fails_ends_it)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("a", 1, SMALL);
    store_set_persist(bench.store, PERSIST_WRITE_THROUGH);
    struct giving giving = {.ended = 0};
    store_evict_start(&bench.store->home, &giving.evict, UINT64_MAX, gave);
    settle();
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 0), -EIO);
    settle();
    cr_assert(giving.ended == 1 && giving.evict.objects == 0, "it tries for ever");
    cr_assert_eq(where_is("a"), IN_MEMORY);
    drain();
    bench_end();
}

Test(give, stopped_while_it_waits)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("a", 1, SMALL);
    store_set_persist(bench.store, PERSIST_WRITE_THROUGH);
    struct giving giving = {.ended = 0};
    store_evict_start(&bench.store->home, &giving.evict, UINT64_MAX, gave);
    settle();
    store_evict_stop(&giving.evict);
    fake_write_all(bench.disk);
    settle();
    cr_assert_eq(giving.ended, 0);
    bench_end();
}
