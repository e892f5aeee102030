/* The store's persist policies and what happens when the disk is behind, over a disk tier that does only what the test says. */
#include "test/support/store_bench.h"

enum { SMALL = 5000, BLOCK = 64 * 1024 };

static void begin_with(enum persist persist, enum when_behind when_behind)
{
    struct store_config config = bench_config();
    config.persist = persist;
    config.when_behind = when_behind;
    bench_begin_on(&config);
}

static const char *name(const char *prefix, unsigned n)
{
    static char names[4][32];
    static unsigned next;
    char *key = names[next++ % 4];
    snprintf(key, sizeof names[0], "%s%u", prefix, n);
    return key;
}

static int try_put(const char *key, uint64_t number, uint64_t size)
{
    struct put put;
    int outcome = put_go(&put, key, 0, number, size);
    settle();
    return outcome;
}

/* Put as many blocks as `bytes` need; the disk writes nothing meanwhile. */
static void fill(const char *prefix, uint64_t bytes)
{
    for (unsigned i = 0; i < bytes / BLOCK; i++)
        cr_assert_eq(try_put(name(prefix, i), i, BLOCK), STORE_OK, "%s%u", prefix, i);
}

static uint64_t dropped(void)
{
    struct store_figures f = info().figures;
    return f.dropped_evicted + f.dropped_untouched + f.dropped_shed;
}

/* ---- on-evict ---- */

Test(store_policies, on_evict_writes_nothing_while_there_is_room)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    fill("n", 3 * MIB);
    cr_assert_eq(bench.disk->writes_started, 0);
    bench_end();
}

/* Before memory is full, a margin of its coldest objects is on its way: the coldest first, and no more than that. */
Test(store_policies, on_evict_keeps_a_margin_written_ahead_of_need)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    uint64_t margin = bench.store->margin_bytes;
    cr_assert_eq(margin, 4 * MIB / 16);
    fill("n", 60 * BLOCK); /* 94 % of memory: above the mark, and nothing has to go yet */
    cr_assert_eq(info().figures.evicted + dropped(), 0);
    cr_assert_eq(fake_count(&bench.disk->queue), margin / BLOCK);
    for (unsigned i = 0; i < margin / BLOCK; i++)
        cr_assert(span_equal(fake_write_at(&bench.disk->queue, i)->key, span_text(name("n", i))), "%u is not the coldest", i);
    fake_write_all(bench.disk);
    settle();
    cr_assert_eq(bench.disk->writes_started, margin / BLOCK, "what is written is margin enough");
    for (unsigned i = 0; i < margin / BLOCK; i++)
        cr_assert_eq(where_is(name("n", i)), IN_MEMORY | ON_DISK);
    bench_end();
}

/* As long as the disk keeps up, nothing is lost and no put waits. */
Test(store_policies, on_evict_puts_find_clean_room)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    for (unsigned i = 0; i < 500; i++) {
        cr_assert_eq(try_put(name("n", i), i, BLOCK), STORE_OK, "put %u", i);
        fake_write_all(bench.disk);
    }
    cr_assert_eq(dropped(), 0);
    cr_assert_gt(info().figures.evicted, 400);
    cr_assert_eq(info().table.objects, 500);
    cr_assert_leq(bench.disk->writes_started, 500, "nothing is written twice");
    for (unsigned i = 0; i < 500; i += 37)
        expect_value_anywhere(name("n", i), i, BLOCK);
    bench_end();
}

/* What was used after it was written is not what leaves next, and what is used is not written. */
Test(store_policies, on_evict_writes_and_evicts_what_is_cold)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    put_ok("hot", 77, BLOCK);
    for (unsigned i = 0; i < 200; i++) {
        cr_assert_eq(try_put(name("n", i), i, BLOCK), STORE_OK);
        expect_value("hot", 77, BLOCK);
        fake_write_all(bench.disk);
        if (i % 50 == 0)
            pass_ms(17); /* uses are told apart by ticks of the clock */
    }
    cr_assert_eq(where_is("hot"), IN_MEMORY);
    cr_assert_eq(where_is("n0"), ON_DISK);
    bench_end();
}

Test(store_policies, on_evict_a_put_waits_while_the_disk_is_behind)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    unsigned stored = 0;
    while (stored < 100 && try_put(name("n", stored), stored, BLOCK) == STORE_OK)
        stored++;
    cr_assert_eq(stored, 64, "all of memory is used before that");
    cr_assert_eq(dropped(), 0);
    cr_assert_geq(fake_count(&bench.disk->queue), 1, "what is to go is on its way");
    cr_assert_leq(bench.disk->queued_bytes, bench.store->margin_bytes + 2 * BLOCK, "and not all that there is");
    fake_write_all(bench.disk);
    settle();
    cr_assert_eq(try_put("late", 99, BLOCK), STORE_OK);
    cr_assert_eq(dropped(), 0);
    bench_end();
}

Test(store_policies, on_evict_sheds_the_coldest_if_it_may)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_SHED);
    fill("n", 10 * MIB);
    uint64_t shed = info().figures.dropped_shed;
    cr_assert_geq(shed, 160 - 64);
    cr_assert_eq(dropped(), shed);
    cr_assert_eq(where_is("n159"), IN_MEMORY);
    cr_assert_eq(info().table.objects + shed, 160);
    bench_end();
}

/* A clean object goes before anybody waits, hot as it may be. */
Test(store_policies, on_evict_in_need_anything_on_disk_goes_first)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    put_on_both("clean", 1, BLOCK);
    fill("n", 60 * BLOCK);
    pass_ms(33);
    expect_value("clean", 1, BLOCK);
    fill("m", 3 * BLOCK);
    cr_assert_eq(where_is("clean"), IN_MEMORY | ON_DISK);
    cr_assert_eq(try_put("x", 2, BLOCK), STORE_OK);
    cr_assert_eq(where_is("clean"), ON_DISK);
    cr_assert_eq(dropped(), 0);
    bench_end();
}

Test(store_policies, on_evict_what_cannot_be_written_is_dropped_and_counted)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    for (unsigned i = 0; i < 200; i++) {
        int outcome = try_put(name("n", i), i, BLOCK);
        while (!list_empty(&bench.disk->queue))
            fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), KVD_EFULL);
        settle();
        cr_assert_eq(outcome == KVD_EBUSY ? try_put(name("n", i), i, BLOCK) : outcome, STORE_OK, "put %u", i);
    }
    struct store_figures f = info().figures;
    cr_assert_gt(f.unwritten_full, 0);
    cr_assert_eq(f.dropped_evicted, 200 - info().table.objects);
    bench_end();
}

/* Nothing waits for a disk that is off; what was put meanwhile is written when it is back. */
Test(store_policies, on_evict_a_disk_that_is_off_makes_a_smaller_cache_until_it_is_back)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    fill("n", 60 * BLOCK);
    while (!list_empty(&bench.disk->queue))
        fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), KVD_EOFF);
    bench.disk->state = DISK_TRIPPED;
    for (unsigned i = 0; i < 200; i++)
        cr_assert_eq(try_put(name("m", i), i, BLOCK), STORE_OK, "put %u", i);
    uint64_t lost = info().figures.dropped_evicted;
    cr_assert(lost == dropped() && lost == 260 - info().table.objects);
    cr_assert_leq(info().figures.unwritten_off, 260, "it is not tried again and again");
    bench.disk->state = DISK_ON;
    for (unsigned i = 0; i < 200; i++) {
        cr_assert_eq(try_put(name("o", i), i, BLOCK), STORE_OK, "put %u", i);
        fake_write_all(bench.disk);
    }
    cr_assert_eq(dropped(), lost, "what could be written was dropped");
    bench_end();
}

Test(store_policies, on_evict_what_is_removed_while_it_is_written_is_gone)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    fill("n", 60 * BLOCK);
    while (!list_empty(&bench.disk->queue))
        fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    struct removing removing;
    struct put put;
    cr_assert_eq(remove_go(&removing, "n0"), STORE_PENDING);
    cr_assert_eq(put_go(&put, "n1", REPLACE, 99, BLOCK), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_kill_all(bench.disk);
    cr_assert(removing.outcome == STORE_OK && put.outcome == STORE_OK);
    expect_miss("n0");
    expect_value("n1", 99, BLOCK);
    fake_write_all(bench.disk);
    cr_assert_not(fake_may_rise(bench.disk, span_text("n0"), UINT64_MAX), "a restart would bring it back");
    cr_assert_not(fake_may_rise(bench.disk, span_text("n1"), put.put.version - 1));
    bench_end();
}

/* A read of what is larger than the margin gets its room all the same. */
Test(store_policies, on_evict_a_large_read_finds_room_among_unwritten_objects)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    put_on_disk("large", 1, 3 * MIB / 2);
    for (unsigned i = 0; i < 64; i++) {
        cr_assert_eq(try_put(name("n", i), i, BLOCK), STORE_OK);
        fake_write_all(bench.disk);
    }
    struct get get;
    cr_assert_eq(get_go(&get, "large"), STORE_PENDING);
    for (unsigned i = 0; i < 20 && fake_count(&bench.disk->reads) == 0; i++) {
        fake_write_all(bench.disk);
        settle();
    }
    cr_assert_eq(fake_count(&bench.disk->reads), 1, "it waits though everything could be written");
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, 3 * MIB / 2);
    cr_assert_eq(dropped(), 0);
    bench_end();
}

/* ---- second touch ---- */

static bool written(const char *key)
{
    return entry_of(key)->work || entry_of(key)->place;
}

Test(store_policies, a_second_touch_is_a_get_a_leased_match_or_another_put)
{
    begin_with(PERSIST_SECOND_TOUCH, BEHIND_WAIT);
    const char *keys[] = {"read", "leased", "present", "replaced", "batch", "seen", "range"};
    for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++)
        put_ok(keys[i], i, SMALL);
    cr_assert_eq(bench.disk->writes_started, 0, "once is not twice");
    cr_assert_eq(where_is("seen"), IN_MEMORY); /* EXISTS is no touch */
    struct get get;
    struct put put;
    expect_value("read", 0, SMALL);
    cr_assert_neq(lease_of("leased", 60000), 0);
    cr_assert_eq(put_go(&put, "present", 0, 2, SMALL), STORE_PRESENT);
    cr_assert_eq(put_go(&put, "replaced", REPLACE, 9, SMALL), STORE_OK);
    struct span batch[] = {span_text("batch")};
    store_touch(bench.store, batch, 1);
    cr_assert_eq(get_range(&get, "range", 5, 10), STORE_OK);
    expect_got(&get, 6, 5, 10);
    for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++)
        cr_assert_eq(written(keys[i]), strcmp(keys[i], "seen") != 0, "%s", keys[i]);
    fake_write_all(bench.disk);
    expect_value("read", 0, SMALL);
    cr_assert_eq(bench.disk->writes_started, 6, "a third touch changes nothing");
    bench_end();
}

Test(store_policies, untouched_objects_are_dropped_by_their_own_reason_and_remembered)
{
    begin_with(PERSIST_SECOND_TOUCH, BEHIND_WAIT);
    put_ok("first", 1, BLOCK);
    fill("n", 8 * MIB);
    cr_assert_eq(bench.disk->writes_started, 0);
    struct store_figures f = info().figures;
    cr_assert(f.dropped_untouched == dropped() && f.dropped_untouched == 129 - info().table.objects);
    expect_miss("first");
    put_ok("first", 1, BLOCK);
    cr_assert_eq(bench.disk->writes_started, 1, "its key was here before");
    fake_write_all(bench.disk);
    cr_assert_eq(where_is("first"), IN_MEMORY | ON_DISK);
    fill("m", 8 * MIB);
    cr_assert_eq(where_is("first"), ON_DISK);
    expect_value_anywhere("first", 1, BLOCK);
    bench_end();
}

/* What was touched when the queue was full is written when memory gives it up. */
Test(store_policies, a_touch_that_finds_the_queue_full_is_made_good_at_eviction)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_SECOND_TOUCH;
    config.queue_bytes = MIB;
    bench_begin_on(&config);
    fill("n", 40 * BLOCK);
    for (unsigned i = 0; i < 40; i++)
        expect_value(name("n", i), i, BLOCK);
    cr_assert_leq(bench.disk->queued_bytes, MIB);
    cr_assert_lt(bench.disk->writes_started, 20);
    for (unsigned i = 40; i < 200; i++) {
        cr_assert_eq(try_put(name("n", i), i, BLOCK), STORE_OK, "put %u", i);
        fake_write_all(bench.disk);
    }
    cr_assert_eq(bench.disk->writes_started, 40);
    for (unsigned i = 0; i < 40; i++)
        cr_assert(where_is(name("n", i)) & ON_DISK, "%u was touched twice, and is gone", i);
    cr_assert_eq(dropped(), info().figures.dropped_untouched);
    bench_end();
}

/* ---- the queue is full ---- */

Test(store_policies, write_through_sheds_writes_and_counts_what_it_costs)
{
    struct store_config config = bench_config();
    config.when_behind = BEHIND_SHED;
    config.queue_bytes = MIB;
    bench_begin_on(&config);
    fill("n", 40 * BLOCK);
    uint64_t shed = info().figures.unwritten_shed;
    cr_assert_eq(shed + fake_count(&bench.disk->queue), 40);
    cr_assert_geq(shed, 24);
    cr_assert_eq(dropped(), 0);
    struct put put;
    cr_assert_eq(put_begin(&put, "safe", ACK_DISK, 1, SMALL), KVD_EBUSY, "who asks for the disk waits for it");
    fake_write_all(bench.disk);
    fill("m", 60 * BLOCK);
    struct store_figures f = info().figures;
    cr_assert_gt(f.dropped_shed, 0);
    cr_assert_eq(f.dropped_shed, dropped());
    cr_assert_eq(where_is("m59"), IN_MEMORY);
    store_set_when_behind(bench.store, BEHIND_WAIT);
    fake_write_all(bench.disk);
    for (unsigned i = 0; !policy_queue_full(bench.store, BLOCK); i++)
        put_ok(name("w", i), 5, BLOCK);
    cr_assert_eq(put_begin(&put, "late", 0, 1, BLOCK), KVD_EBUSY);
    bench_end();
}

static void nobody_waits(struct store_wait *wait, int err)
{
    (void)wait;
    (void)err;
    cr_assert(false);
}

/* Several are told BUSY at once: each is told when there is room for it, behind those before it. */
Test(store_policies, who_is_told_to_come_back_finds_room_then)
{
    enum { CLIENTS = 6 };
    struct store_config config = bench_config();
    config.queue_bytes = MIB;
    bench_begin_on(&config);
    bench.disk->drain_rate = MIB;
    put_ok("large", 1, MIB);
    uint64_t over = bench.disk->queued_bytes - MIB, last = 0;
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct put put;
        cr_assert_eq(put_begin(&put, name("n", i), 0, i, BLOCK), KVD_EBUSY);
        uint64_t ms = store_retry_after_ms(bench.store, BLOCK);
        uint64_t drained = ms * bench.disk->drain_rate / 1000;
        cr_assert_geq(drained + BLOCK / 8, over + (i + 1) * (uint64_t)BLOCK, "client %u comes back too early", i);
        cr_assert_leq(drained, over + (i + 2) * (uint64_t)BLOCK, "client %u is kept away too long", i);
        cr_assert_gt(ms, last);
        last = ms;
    }
    bench.disk->drain_rate = 100 * MIB; /* it was an outlier: what was promised is not kept longer than it takes */
    uint64_t alone = store_retry_after_ms(bench.store, BLOCK);
    cr_assert_lt(alone, last / 50);
    struct store_wait wait = {.bytes = 50 * MIB};
    store_wait_init(&wait);
    bench.store->home.room_seen = bench.store->room_changes; /* as after a try that has just failed */
    store_wait_start(&bench.store->home, &wait, 60000, nobody_waits);
    cr_assert_geq(store_retry_after_ms(bench.store, BLOCK), alone + 400, "who waits already comes first");
    store_wait_stop(&wait);
    cr_assert_eq(bench.store->wait_bytes, 0);
    bench_end();
}

/* ---- sync, and the end ---- */

struct syncing {
    struct store_sync sync;
    int err;
    unsigned ended;
};

static void sync_ended(struct store_sync *sync, int err)
{
    struct syncing *syncing = CONTAINER_OF(sync, struct syncing, sync);
    syncing->err = err;
    syncing->ended++;
}

static void sync_go(struct syncing *syncing)
{
    *syncing = (struct syncing){0};
    cr_assert_eq(store_sync_start(&bench.store->home, &syncing->sync, false, sync_ended), STORE_PENDING);
    settle();
}

static void sync_all(void)
{
    struct syncing syncing;
    sync_go(&syncing);
    while (syncing.ended == 0) {
        fake_write_all(bench.disk);
        fake_sync_all(bench.disk);
        settle();
    }
    cr_assert(syncing.err == 0 && syncing.sync.failed == 0);
}

Test(store_policies, sync_writes_what_each_policy_could_still_write)
{
    static const enum persist policies[] = {PERSIST_WRITE_THROUGH, PERSIST_ON_EVICT, PERSIST_SECOND_TOUCH, PERSIST_NONE};
    static const unsigned on_disk[] = {2, 2, 1, 0};
    for (unsigned i = 0; i < 4; i++) {
        begin_with(PERSIST_NONE, BEHIND_WAIT);
        put_ok("once", 1, SMALL);
        put_ok("twice", 2, SMALL);
        expect_value("twice", 2, SMALL);
        store_set_persist(bench.store, policies[i]);
        sync_all();
        cr_assert_eq(info().table.on_disk, on_disk[i], "policy %u", i);
        cr_assert_eq(where_is("twice") & ON_DISK, on_disk[i] ? ON_DISK : 0);
        bench_end();
    }
}

Test(store_policies, sync_writes_the_hottest_first_and_within_the_queue)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_ON_EVICT;
    config.queue_bytes = MIB;
    bench_begin_on(&config);
    enum { COUNT = 300 };
    for (unsigned i = 0; i < COUNT; i++)
        put_ok(name("n", i), i, SMALL);
    expect_value("n7", 7, SMALL);
    struct syncing syncing;
    sync_go(&syncing);
    cr_assert_lt(bench.disk->queued_bytes, MIB + 3 * BLOCK_BYTES);
    cr_assert(span_equal(fake_write_at(&bench.disk->queue, 0)->key, span_text("n7")), "the hottest is first");
    for (unsigned i = 1; i < 64; i++)
        cr_assert(span_equal(fake_write_at(&bench.disk->queue, i)->key, span_text(name("n", COUNT - i))), "then the others");
    while (syncing.ended == 0) {
        fake_write_all(bench.disk);
        fake_sync_all(bench.disk);
        settle();
    }
    cr_assert_eq(info().table.on_disk, COUNT);
    bench_end();
}

Test(store_policies, sync_ends_though_others_put_and_writes_fail)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    for (unsigned i = 0; i < 100; i++)
        put_ok(name("n", i), i, SMALL);
    struct syncing syncing;
    sync_go(&syncing);
    unsigned puts = 0;
    for (unsigned turn = 0; syncing.ended == 0; turn++) {
        cr_assert_lt(turn, 100, "it never ends");
        if (puts < 60)
            put_ok(name("p", puts++), 1, SMALL);
        while (!list_empty(&bench.disk->queue))
            fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), turn % 2 ? 0 : KVD_EFULL);
        fake_sync_all(bench.disk);
        settle();
    }
    cr_assert_gt(syncing.sync.failed, 0);
    bench_end();
}

static void count_closed(void *arg)
{
    ++*(unsigned *)arg;
}

Test(store_policies, the_end_writes_what_the_policy_could)
{
    begin_with(PERSIST_ON_EVICT, BEHIND_WAIT);
    fill("n", 20 * BLOCK);
    unsigned closed = 0;
    store_close(bench.store, false, count_closed, &closed);
    settle();
    cr_assert_eq(fake_count(&bench.disk->queue), 20);
    while (!bench.disk->closing) {
        fake_write_all(bench.disk);
        fake_sync_all(bench.disk);
        settle();
    }
    cr_assert_eq(info().table.on_disk, 20);
    fake_close_end(bench.disk);
    settle();
    cr_assert_eq(closed, 1);
    store_free(bench.store);
    loop_free(bench.loop);
}

/* Time is over in the midst of it: what has been written is closed in order, the rest dropped and counted, and the end comes once. */
Test(store_policies, an_end_whose_time_is_over_keeps_what_was_written)
{
    for (unsigned state = 0; state < 3; state++) {
        struct store_config config = bench_config();
        config.persist = PERSIST_ON_EVICT;
        config.queue_bytes = MIB;
        bench_begin_on(&config);
        store_close_hurry(bench.store); /* harmless */
        fill("n", 40 * BLOCK);
        unsigned closed = 0, written = state == 2 ? 40 : 5;
        store_close(bench.store, false, count_closed, &closed);
        settle();
        for (unsigned i = 0; i < written; i++) {
            if (state > 0 || i < 4) /* or one is under way */
                fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
            while (!list_empty(&bench.disk->running))
                fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 0), 0);
            settle();
        }
        if (state == 0)
            fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
        cr_assert_eq(fake_count(&bench.disk->syncs), state == 2 ? 1 : 0);
        store_close_hurry(bench.store);
        store_close_hurry(bench.store);
        cr_assert(bench.disk->closing && bench.disk->abandon);
        settle();
        fake_close_end(bench.disk);
        settle();
        cr_assert_eq(closed, 1);
        cr_assert_eq(info().table.on_disk, written);
        cr_assert(state == 2 || info().figures.unwritten_closing > 0);
        store_free(bench.store);
        loop_free(bench.loop);
    }
}

/* ---- ack: disk ---- */

Test(store_policies, ack_disk_holds_under_every_policy)
{
    static const enum persist policies[] = {PERSIST_WRITE_THROUGH, PERSIST_ON_EVICT, PERSIST_SECOND_TOUCH, PERSIST_NONE};
    for (unsigned i = 0; i < 8; i++) {
        begin_with(policies[i % 4], i < 4 ? BEHIND_WAIT : BEHIND_SHED);
        struct put put, again;
        put_ok("present", 2, SMALL);
        cr_assert_eq(put_go(&put, "new", ACK_DISK, 1, SMALL), STORE_PENDING);
        cr_assert_eq(put_go(&again, "present", ACK_DISK, 2, SMALL), STORE_PENDING);
        fake_write_all(bench.disk);
        cr_assert(!put.ended && !again.ended, "said too early");
        fake_sync_all(bench.disk);
        cr_assert(put.outcome == STORE_OK && again.outcome == STORE_PRESENT);
        cr_assert(fake_is_safe(bench.disk, span_text("new"), put.put.checksum));
        cr_assert(fake_is_safe(bench.disk, span_text("present"), again.put.checksum));
        bench_end();
    }
}

Test(store_policies, ack_disk_ends_when_its_write_stands_still)
{
    begin_with(PERSIST_WRITE_THROUGH, BEHIND_WAIT);
    bench.disk->timeout_ms = 40;
    bench.disk->moves = true;
    struct put put, other;
    cr_assert_eq(put_go(&put, "hangs", ACK_DISK, 1, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&other, "hangs", ACK_DISK, 1, SMALL), STORE_PENDING, "and one that finds it there");
    pass_ms(150);
    cr_assert(!put.ended && !other.ended, "the queue is long, and moves");
    bench.disk->moves = false;
    pass_ms(150);
    cr_assert(put.ended && other.ended);
    cr_assert(put.outcome == KVD_ETIMEOUT && other.outcome == KVD_ETIMEOUT);
    expect_value("hangs", 1, SMALL);
    fake_write_all(bench.disk);
    cr_assert_eq(info().table.on_disk, 1, "it came all the same");
    bench_end();
}

/* ---- figures ---- */

Test(store_policies, bytes_written_and_bytes_hit_are_counted)
{
    begin_with(PERSIST_WRITE_THROUGH, BEHIND_WAIT);
    put_on_disk("a", 1, BLOCK);
    put_ok("b", 2, SMALL);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "b"), STORE_OK);
    settle();
    cr_assert_eq(info().figures.written_value_bytes, BLOCK, "what was cancelled was not written");
    expect_value_anywhere("a", 1, BLOCK);
    expect_value("a", 1, BLOCK);
    cr_assert_eq(info().figures.get_disk_bytes, BLOCK);
    cr_assert_eq(info().figures.get_bytes, 2 * BLOCK);
    bench_end();
}
