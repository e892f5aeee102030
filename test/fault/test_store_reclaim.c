/* Segments given up ahead of need: which one, what is written on first, and what happens when the world changes in the midst. */
#include "test/support/store_bench.h"

enum { SMALL = 3000, LARGE = 3 << 19, SEGMENT = 1 << 20 };

static void begin(void)
{
    struct store_config config = bench_config();
    config.memory_bytes = 8 * MIB;
    config.disk.limit_bytes = 8 * SEGMENT;
    config.disk.segment_bytes = SEGMENT;
    config.rewrite_percent = 90;
    bench_begin_on(&config);
}

/* As it would be: a write has ended, and the files take so much. */
static void used(uint64_t bytes)
{
    bench.disk->used_bytes = bytes;
    reclaim_check(bench.store);
    settle();
}

static void use(const char *key)
{
    struct span span = span_text(key);
    store_touch(bench.store, &span, 1);
}

/* Let all that is under way end well, but for kills. */
static void move_on(void)
{
    for (unsigned i = 0; i < 5; i++) {
        settle();
        fake_read_all(bench.disk);
        settle();
        fake_write_all(bench.disk);
        settle();
        fake_sync_all(bench.disk);
    }
    settle();
}

static unsigned kills(void)
{
    return fake_count(&bench.disk->kills);
}

static bool is_in(const char *key, const struct segment *segment)
{
    const struct entry *entry = entry_of(key);
    return entry && entry->place && CONTAINER_OF(entry->place, struct shelf, place)->segment == segment;
}

/* A sealed segment with one object on disk alone, or in memory as well. */
static struct segment *segment_of(const char *key, uint64_t number, uint64_t size, bool memory)
{
    put_on_both(key, number, size);
    if (!memory)
        leave_memory(key);
    struct segment *segment = bench.disk->open;
    fake_seal(bench.disk);
    return segment;
}

static void end(void)
{
    move_on();
    fake_kill_all(bench.disk);
    settle();
    fake_reap(bench.disk);
    bench.disk->used_bytes = 0;
    bench_end();
}

Test(store_reclaim, nothing_goes_below_the_high_mark_and_then_it_does_down_to_the_low_one)
{
    begin();
    struct segment *first = segment_of("a", 1, SMALL, false);
    segment_of("b", 2, SMALL, false);
    used(7 * SEGMENT);
    cr_assert_eq(kills(), 0);
    used(7 * SEGMENT + 1);
    cr_assert_eq(kills(), 1);
    cr_assert(first->killing, "not the one that is used least");
    fake_kill_all(bench.disk);
    settle();
    cr_assert(first->dead);
    cr_assert_eq(where_is("a"), 0);
    cr_assert_eq(kills(), 0, "what leaves counts as gone");
    fake_reap(bench.disk);
    settle();
    cr_assert_eq(kills(), 1, "it is still above the low mark");
    fake_kill_all(bench.disk);
    settle();
    bench.disk->used_bytes = 6 * SEGMENT;
    fake_reap(bench.disk);
    settle();
    cr_assert_eq(info().figures.dropped_reclaimed, 2);
    end();
}

Test(store_reclaim, a_tier_of_few_segments_gives_up_only_what_a_write_waits_for)
{
    struct store_config config = bench_config();
    config.disk.limit_bytes = 3 * SEGMENT;
    config.disk.segment_bytes = SEGMENT;
    bench_begin_on(&config);
    segment_of("a", 1, SMALL, false);
    used(3 * SEGMENT);
    cr_assert_eq(kills(), 0);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    cr_assert_eq(kills(), 1);
    end();
}

Test(store_reclaim, what_is_mostly_dead_goes_before_what_is_old)
{
    begin();
    char key[32];
    struct segment *old = segment_of("old", 1, SMALL, false);
    for (unsigned i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "n%u", i);
        put_on_disk(key, i, SMALL);
    }
    struct segment *holes = bench.disk->open;
    fake_seal(bench.disk);
    for (unsigned i = 1; i < 20; i++) {
        struct removing removing;
        snprintf(key, sizeof key, "n%u", i);
        cr_assert_eq(remove_go(&removing, key), STORE_PENDING);
        fake_kill_all(bench.disk);
    }
    used(8 * SEGMENT - 1);
    cr_assert(holes->killing && !old->killing);
    end();
}

Test(store_reclaim, what_is_used_is_written_on_and_the_rest_goes)
{
    begin();
    put_on_disk("cold", 1, SMALL);
    put_on_disk("read", 2, SMALL);
    put_on_both("memory", 3, LARGE / 4);
    put_on_disk("pinned", 4, SMALL);
    struct segment *old = bench.disk->open;
    fake_seal(bench.disk);
    use("read");
    use("memory");
    cr_assert(pin("pinned", true));
    used(8 * SEGMENT - 1);
    cr_assert_eq(kills(), 0, "before anything is written on");
    cr_assert(is_in("read", old));
    move_on();
    struct segment *new = bench.disk->open;
    cr_assert(is_in("read", new) && is_in("memory", new) && is_in("pinned", new) && is_in("cold", old));
    cr_assert_eq(where_is("read"), ON_DISK, "it passed through memory, and stays there");
    cr_assert_eq(where_is("memory"), IN_MEMORY | ON_DISK);
    cr_assert_eq(kills(), 1);
    fake_kill_all(bench.disk);
    settle();
    bench.disk->used_bytes = 0;
    fake_reap(bench.disk);
    cr_assert_eq(where_is("cold"), 0);
    struct store_figures f = info().figures;
    cr_assert(f.rewritten_objects == 3 && f.dropped_reclaimed == 1 && f.rewrite_failures == 0 && f.reclaimed_segments == 1);
    cr_assert_gt(f.rewritten_bytes, 0);
    fake_seal(bench.disk);
    /* The next time, what nobody has used since goes. */
    expect_value_anywhere("memory", 3, LARGE / 4);
    cr_assert(pin("pinned", false));
    used(8 * SEGMENT - 1);
    move_on();
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(where_is("read") | where_is("pinned"), 0);
    cr_assert_eq(where_is("memory"), IN_MEMORY | ON_DISK);
    end();
}

Test(store_reclaim, a_copy_counts_when_it_is_synced)
{
    begin();
    struct segment *old = segment_of("a", 1, SMALL, true);
    use("a");
    used(8 * SEGMENT - 1);
    fake_write_all(bench.disk);
    settle();
    cr_assert(is_in("a", old));
    cr_assert_eq(kills(), 0);
    fake_sync_end(bench.disk, 0, -EIO);
    settle();
    cr_assert(is_in("a", old), "a copy that may be lost");
    cr_assert_eq(info().figures.rewrite_failures, 1);
    expect_value("a", 1, SMALL);
    end();
}

/* Of several copies the k-th fails, in its write or in its sync: the others arrive, that one goes with its segment, and nothing of it
 * rises. */
Test(store_reclaim, the_kth_copy_fails)
{
    enum { COPIES = 5 };
    for (unsigned k = 0; k < 2 * COPIES; k++) {
        begin();
        char key[32];
        for (unsigned i = 0; i < COPIES; i++) {
            snprintf(key, sizeof key, "n%u", i);
            put_on_disk(key, i, SMALL);
        }
        struct segment *old = bench.disk->open;
        fake_seal(bench.disk);
        for (unsigned i = 0; i < COPIES; i++) {
            snprintf(key, sizeof key, "n%u", i);
            use(key);
        }
        used(8 * SEGMENT - 1);
        fake_read_all(bench.disk);
        settle();
        cr_assert_eq(fake_count(&bench.disk->queue), COPIES);
        for (unsigned i = 0; i < COPIES; i++) {
            struct disk_write *write = fake_write_at(&bench.disk->queue, 0);
            fake_write_run(bench.disk, write);
            fake_write_end(bench.disk, write, i == k ? -EIO : 0);
        }
        for (unsigned i = 0; fake_count(&bench.disk->syncs) > 0; i++)
            fake_sync_end(bench.disk, 0, i == k - COPIES ? -EIO : 0);
        settle();
        bool synced = k < COPIES; /* who comes behind a failed sync of the same file is not told that it is well */
        cr_assert_eq(info().figures.rewritten_objects, synced ? COPIES - 1 : k - COPIES);
        cr_assert_eq(info().figures.rewrite_failures, synced ? 1 : 2 * COPIES - k);
        cr_assert(old->killing);
        fake_kill_all(bench.disk);
        settle();
        bench.disk->used_bytes = 0;
        fake_reap(bench.disk);
        store_set_persist(bench.store, PERSIST_NONE);
        for (unsigned i = 0; i < COPIES; i++) {
            snprintf(key, sizeof key, "n%u", i);
            if (where_is(key)) {
                expect_value_anywhere(key, i, SMALL);
                continue;
            }
            struct put put;
            if (put_go(&put, key, 0, 100 + i, SMALL) == STORE_PENDING)
                fake_kill_all(bench.disk);
            cr_assert_eq(put.outcome, STORE_OK);
            cr_assert_not(fake_may_rise(bench.disk, span_text(key), stat_of(key).version - 1), "k %u: %s", k, key);
        }
        end();
    }
}

Test(store_reclaim, a_remove_while_it_is_copied_wins)
{
    for (unsigned stage = 0; stage < 4; stage++) {
        begin();
        segment_of("a", 1, SMALL, false);
        use("a");
        struct removing removing;
        used(8 * SEGMENT - 1);
        cr_assert_eq(fake_count(&bench.disk->reads), 1);
        if (stage > 0)
            fake_read_all(bench.disk);
        if (stage > 1)
            fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
        if (stage > 2)
            fake_write_all(bench.disk);
        uint64_t version = stat_of("a").version;
        cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
        expect_miss("a");
        move_on();
        fake_kill_all(bench.disk);
        cr_assert_eq(removing.outcome, STORE_OK);
        cr_assert_not(fake_may_rise(bench.disk, span_text("a"), version), "stage %u", stage);
        expect_miss("a");
        end();
    }
}

Test(store_reclaim, a_replace_while_it_is_copied_wins)
{
    for (unsigned stage = 0; stage < 4; stage++) {
        begin();
        segment_of("a", 1, SMALL, stage % 2);
        use("a");
        used(8 * SEGMENT - 1);
        fake_read_all(bench.disk);
        if (stage > 1)
            fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
        uint64_t version = stat_of("a").version;
        struct put put;
        cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING);
        move_on();
        fake_kill_all(bench.disk);
        settle();
        cr_assert_eq(put.outcome, STORE_OK);
        cr_assert_not(fake_may_rise(bench.disk, span_text("a"), version), "stage %u", stage);
        move_on();
        expect_value_anywhere("a", 2, SMALL);
        end();
    }
}

/* Its replica was found to be wrong and is buried: the copy, of the same version, is as dead. */
Test(store_reclaim, a_copy_of_what_was_buried_meanwhile_is_not_believed)
{
    begin();
    segment_of("a", 1, LARGE, false);
    use("a");
    bench.store->reclaim.budget_bytes = 2 * LARGE;
    struct get range;
    cr_assert_eq(get_range(&range, "a", 0, 100), STORE_PENDING);
    used(8 * SEGMENT - 1);
    cr_assert_eq(fake_count(&bench.disk->reads), 2);
    fake_read_end(bench.disk, 1, 0);
    settle();
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    cr_assert_eq(range.outcome, STORE_MISS);
    move_on();
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(where_is("a"), IN_MEMORY);
    expect_value("a", 1, LARGE);
    end();
}

/* A write of the copy that failed may be on disk all the same; when the object is dropped and its key put anew, it must not come back. */
Test(store_reclaim, a_copy_that_nobody_knows_of_does_not_rise_over_a_new_value)
{
    begin();
    struct segment *old = segment_of("a", 1, SMALL, false);
    use("a");
    used(8 * SEGMENT - 1);
    fake_read_all(bench.disk);
    settle();
    uint64_t version = stat_of("a").version;
    struct disk_write *write = fake_write_at(&bench.disk->queue, 0);
    fake_write_run(bench.disk, write);
    fake_write_end(bench.disk, write, -EIO);
    settle();
    cr_assert(old->killing);
    fake_kill_end(bench.disk, 0);
    settle();
    expect_miss("a");
    store_set_persist(bench.store, PERSIST_NONE);
    struct put put;
    if (put_go(&put, "a", 0, 2, SMALL) == STORE_PENDING)
        fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    cr_assert_not(fake_may_rise(bench.disk, span_text("a"), version));
    expect_value("a", 2, SMALL);
    end();
}

Test(store_reclaim, nor_when_memory_gave_it_up)
{
    begin();
    segment_of("a", 1, SMALL, true);
    use("a");
    used(8 * SEGMENT - 1);
    uint64_t version = stat_of("a").version;
    struct disk_write *write = fake_write_at(&bench.disk->queue, 0);
    fake_write_run(bench.disk, write);
    fake_write_end(bench.disk, write, -EIO);
    settle();
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(where_is("a"), IN_MEMORY);
    bench.disk->used_bytes = 0;
    store_set_persist(bench.store, PERSIST_NONE);
    char key[32];
    for (unsigned i = 0; where_is("a"); i++) {
        snprintf(key, sizeof key, "n%u", i);
        put_ok(key, i, MIB);
        settle();
    }
    struct put put;
    if (put_go(&put, "a", 0, 2, SMALL) == STORE_PENDING)
        fake_kill_all(bench.disk);
    fake_kill_all(bench.disk);
    cr_assert_not(fake_may_rise(bench.disk, span_text("a"), version));
    end();
}

Test(store_reclaim, what_a_crash_left_twice_is_known_once_and_removed_twice)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct segment *one = fake_segment_new(bench.disk), *two = fake_segment_new(bench.disk);
    one->ended = two->ended = true;
    uint8_t bytes[100];
    value_fill(1, 0, bytes, sizeof bytes);
    fake_opened(bench.disk, 0, 5000);
    fake_found(bench.disk, fake_old_record(bench.disk, one, "a", 10, bytes, sizeof bytes));
    fake_found(bench.disk, fake_old_record(bench.disk, two, "a", 10, bytes, sizeof bytes));
    fake_recovered(bench.disk);
    cr_assert_eq(bench.store->doubt, 0, "two copies of one version are no reason for doubt");
    cr_assert_eq(info().table.objects, 1);
    /* The one that is known goes with its segment, and the other does not rise over what is put then. */
    struct shelf *shelf = CONTAINER_OF(entry_of("a")->place, struct shelf, place);
    bench.store->reclaim.hand = shelf->segment == one ? two : one;
    shelf_of(bench.store, bench.store->reclaim.hand)->rests_until_ms = UINT64_MAX;
    bench.disk->limit_bytes = 100;
    bench.disk->used_bytes = 101;
    reclaim_check(bench.store);
    settle();
    fake_kill_end(bench.disk, 0);
    settle();
    expect_miss("a");
    store_set_persist(bench.store, PERSIST_NONE);
    struct put put;
    if (put_go(&put, "a", 0, 2, SMALL) == STORE_PENDING)
        fake_kill_all(bench.disk);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    cr_assert_not(fake_may_rise(bench.disk, span_text("a"), 10));
    bench_end();
}

Test(store_reclaim, no_more_is_written_on_than_the_share)
{
    begin();
    bench.store->reclaim.budget_bytes = 3 * (SMALL / BLOCK_BYTES + 2) * BLOCK_BYTES;
    char key[32];
    for (unsigned i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "n%u", i);
        put_on_disk(key, i, SMALL);
    }
    struct segment *old = bench.disk->open;
    bench.store->reclaim.budget_bytes = 3 * (uint64_t)entry_of("n0")->blocks * BLOCK_BYTES;
    fake_seal(bench.disk);
    for (unsigned i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "n%u", i);
        use(key);
    }
    cr_assert(pin("n9", true));
    used(8 * SEGMENT - 1);
    move_on();
    cr_assert(old->killing);
    cr_assert_eq(info().figures.rewritten_objects, 3);
    cr_assert_not(is_in("n9", old), "what is held is written on before what is not");
    cr_assert_eq(info().rewrite_budget_bytes, 0);
    uint64_t before = info().rewrite_budget_bytes;
    put_on_disk("new", 77, 100 * BLOCK_BYTES);
    cr_assert_eq(info().rewrite_budget_bytes - before, entry_of("new")->blocks * (uint64_t)BLOCK_BYTES * 90 / 100);
    end();
}

Test(store_reclaim, what_is_held_stays_where_it_cannot_be_written_on)
{
    begin();
    struct segment *old = segment_of("held", 1, SMALL, false);
    struct segment *next = segment_of("other", 2, SMALL, false);
    cr_assert(pin("held", true));
    used(8 * SEGMENT - 1);
    fake_read_all(bench.disk);
    settle();
    struct disk_write *write = fake_write_at(&bench.disk->queue, 0);
    fake_write_run(bench.disk, write);
    fake_write_end(bench.disk, write, KVD_EFULL);
    for (unsigned i = 0; i < 3 && !next->killing; i++) {
        settle();
        fake_read_all(bench.disk);
        settle();
        while (!list_empty(&bench.disk->queue))
            fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), KVD_EFULL);
    }
    settle();
    cr_assert_not(old->killing);
    cr_assert(next->killing, "another goes instead");
    cr_assert_eq(info().figures.reclaims_left, 1);
    expect_value_anywhere("held", 1, SMALL);
    end();
}

Test(store_reclaim, a_write_that_waits_for_room_waits_for_no_copies)
{
    begin();
    struct segment *old = segment_of("a", 1, SMALL, false);
    put_on_both("b", 2, SMALL);
    use("a");
    use("b");
    used(8 * SEGMENT - 1);
    fake_read_all(bench.disk);
    settle();
    cr_assert_eq(fake_count(&bench.disk->queue), 1);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    settle();
    cr_assert_eq(fake_count(&bench.disk->queue), 0, "it is taken back");
    cr_assert(old->killing);
    fake_kill_all(bench.disk);
    settle();
    end();
}

Test(store_reclaim, a_get_of_what_is_on_its_way_is_answered_and_keeps_it_in_memory)
{
    begin();
    segment_of("a", 1, SMALL, false);
    use("a");
    used(8 * SEGMENT - 1);
    struct get joined, later;
    cr_assert_eq(get_go(&joined, "a"), STORE_PENDING);
    fake_read_all(bench.disk);
    expect_got(&joined, 1, 0, SMALL);
    cr_assert_eq(get_go(&later, "a"), STORE_OK);
    expect_got(&later, 1, 0, SMALL);
    move_on();
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    end();
}

/* One more look at the file system's room, as the timer has it every second. */
static void tick(uint32_t low_checks)
{
    bench.disk->low_checks = low_checks;
    timer_start(&bench.store->reclaim.timer, 0);
    turns(1);
    settle();
}

Test(store_reclaim, on_a_file_system_that_is_too_full_segments_are_given_back_slowly_and_not_all)
{
    begin();
    bench.store->config.disk_min_bytes = 8 * BLOCK_BYTES;
    char key[32];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "n%u", i);
        segment_of(key, i, SMALL, false);
    }
    uint64_t each = segment_bytes(disk_segment_next(bench.disk, NULL));
    bench.disk->used_bytes = 8 * each;
    tick(0);
    tick(1);
    tick(2);
    cr_assert_eq(kills(), 0, "at once");
    tick(9);
    cr_assert_eq(kills(), 1);
    fake_kill_all(bench.disk);
    settle();
    tick(11);
    cr_assert_eq(kills(), 0, "without patience");
    tick(30);
    cr_assert_eq(kills(), 0, "one at a time");
    bench.disk->used_bytes -= each;
    fake_reap(bench.disk);
    for (uint32_t checks = 40; checks < 1000; checks += 10) {
        tick(checks);
        unsigned dying = kills();
        fake_kill_all(bench.disk);
        settle();
        fake_reap(bench.disk);
        bench.disk->used_bytes -= dying * each;
        cr_assert_geq(bench.disk->used_bytes, bench.store->config.disk_min_bytes);
    }
    cr_assert_leq(bench.disk->used_bytes, bench.store->config.disk_min_bytes + each);
    cr_assert_eq(info().figures.given_back_segments, info().figures.reclaimed_segments);
    tick(0);
    end();
}

Test(store_reclaim, the_end_in_the_midst)
{
    for (unsigned stage = 0; stage < 4; stage++) {
        begin();
        segment_of("a", 1, SMALL, false);
        use("a");
        used(8 * SEGMENT - 1);
        if (stage > 0)
            fake_read_all(bench.disk);
        settle();
        if (stage > 1)
            fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
        if (stage > 2)
            fake_write_all(bench.disk);
        bench_close();
    }
}
