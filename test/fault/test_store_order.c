/* The store when the disk answers in any order, late, or with errors: what may be shown and what may be acknowledged, and when. */
#include "test/support/store_bench.h"

enum { SMALL = 5000, MEDIUM = 300 * 1024 };

static void end_write(int err)
{
    fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 0), err);
}

static void run_write(void)
{
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
}

static unsigned kills(void)
{
    return fake_count(&bench.disk->kills);
}

/* After an acknowledged remove or replace: nothing up to `version` may come back by a restart. */
static void expect_dead_for_good(const char *key, uint64_t version)
{
    cr_assert_not(fake_may_rise(bench.disk, span_text(key), version), "a restart could bring \"%s\" back", key);
}

/* ---- replace ---- */

Test(store_order, a_replaced_value_is_shown_until_its_death_is_durable)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    struct put put;
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING);
    expect_value("a", 1, SMALL);
    settle();
    expect_value("a", 1, SMALL);
    cr_assert_eq(kills(), 1);
    fake_kill_all(bench.disk);
    cr_assert(put.ended == 1 && put.outcome == STORE_OK && put.put.version > old);
    expect_value("a", 2, SMALL);
    expect_dead_for_good("a", old);
    fake_write_all(bench.disk);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(store_order, a_replace_whose_kill_fails_is_not_shown)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    struct put put;
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING);
    fake_kill_end(bench.disk, -EIO);
    cr_assert_eq(put.outcome, -EIO);
    expect_value("a", 1, SMALL);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(store_order, a_write_under_way_goes_on_until_the_replace_is_shown)
{
    bench_begin_usual();
    struct put first, second;
    cr_assert_eq(put_go(&first, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    run_write();
    cr_assert_eq(put_go(&second, "a", REPLACE, 2, SMALL), STORE_PENDING);
    end_write(0);
    settle();
    /* Nobody sees the second: so the first is not superseded, and "on disk" means what it says. */
    cr_assert_eq(first.ended, 0);
    fake_kill_end(bench.disk, -EIO);
    cr_assert_eq(second.outcome, -EIO);
    fake_sync_all(bench.disk);
    cr_assert_eq(first.outcome, STORE_OK);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    expect_value("a", 1, SMALL);
    bench_end();
}

Test(store_order, a_write_that_ends_after_its_object_was_replaced_is_no_replica)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    run_write();
    struct put put;
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    expect_dead_for_good("a", old);
    store_set_persist(bench.store, PERSIST_NONE);
    end_write(0);
    cr_assert_eq(where_is("a"), IN_MEMORY);
    cr_assert_eq(stat_of("a").disk_writing, true); /* its own write is still queued */
    fake_write_all(bench.disk);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    expect_value("a", 2, SMALL);
    bench_end();
}

Test(store_order, a_write_still_queued_is_taken_back_and_needs_no_kill)
{
    bench_begin_usual();
    struct put first, second;
    cr_assert_eq(put_go(&first, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&second, "a", REPLACE, 2, SMALL), STORE_OK);
    cr_assert_eq(bench.disk->kills_started, 0);
    settle();
    cr_assert_eq(first.outcome, STORE_OK); /* replaced by what everybody sees */
    expect_value("a", 2, SMALL);
    fake_write_all(bench.disk);
    cr_assert_eq(fake_count(&bench.disk->records), 1);
    struct removing removing;
    put_ok("b", 3, SMALL);
    cr_assert_eq(remove_go(&removing, "b"), STORE_OK);
    cr_assert_eq(bench.disk->kills_started, 0);
    bench_end();
}

Test(store_order, a_replace_overtaken_by_another_one_kills_that_too)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    struct put first, second;
    cr_assert_eq(put_go(&first, "a", REPLACE, 2, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&second, "a", REPLACE, 3, SMALL), STORE_PENDING);
    fake_kill_end(bench.disk, 0);
    cr_assert_eq(first.outcome, STORE_OK);
    expect_value("a", 2, SMALL);
    run_write(); /* of the first replace: newer than the kill of the second */
    fake_kill_end(bench.disk, 0);
    if (second.ended == 0)
        expect_value("a", 2, SMALL);
    fake_kill_all(bench.disk);
    cr_assert_eq(second.outcome, STORE_OK);
    expect_value("a", 3, SMALL);
    expect_dead_for_good("a", second.put.version - 1);
    bench_end();
}

Test(store_order, a_replace_overtaken_by_a_replace_and_its_remove_waits_for_that_too)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    struct put first, second;
    struct removing removing;
    cr_assert_eq(put_go(&first, "a", REPLACE, 2, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&second, "a", REPLACE, 3, SMALL), STORE_PENDING);
    fake_kill_end(bench.disk, 0);
    fake_write_all(bench.disk);
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    fake_kill_end(bench.disk, 0); /* of the second, which does not reach the first's record */
    if (second.ended)
        expect_dead_for_good("a", second.put.version - 1);
    fake_kill_all(bench.disk);
    cr_assert_eq(second.outcome, STORE_OK);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_value("a", 3, SMALL);
    expect_dead_for_good("a", second.put.version - 1);
    bench_end();
}

/* "a" is on both tiers, and its file is being looked at: a get waits for that. Then it is replaced, and the new value is being written. */
static void replace_while_looked_at(struct put *put, struct get *get)
{
    struct store_config config = bench_config();
    config.probe = true;
    bench_begin_on(&config);
    bench.disk->objects = bench.disk->probes = true;
    put_on_both("a", 1, SMALL);
    table_checked(entry_of("a"), table_tick(loop_now_ms(bench.loop) - 10000));
    cr_assert_eq(get_go(get, "a"), STORE_PENDING);
    cr_assert_not_null(bench.disk->probe);
    cr_assert_eq(put_go(put, "a", REPLACE | ACK_DISK, 2, SMALL), STORE_PENDING);
    fake_kill_all(bench.disk);
    run_write();
}

/* Whatever is said of the old file, the new value's write is its own. */
static void expect_written(struct put *put, struct get *get)
{
    cr_assert(get->ended == 1 && get->outcome == STORE_MISS);
    expect_value("a", 2, SMALL);
    cr_assert_eq(info().figures.dropped_elsewhere, 0);
    end_write(0);
    fake_sync_all(bench.disk);
    cr_assert(put->ended == 1 && put->outcome == STORE_OK);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(store_order, a_file_that_is_found_gone_takes_no_newer_value_with_it)
{
    struct put put;
    struct get get;
    replace_while_looked_at(&put, &get);
    fake_probe_end(bench.disk, -ENOENT, 0, NULL);
    expect_written(&put, &get);
}

Test(store_order, a_file_that_is_found_to_be_another_takes_no_newer_value_with_it)
{
    struct put put;
    struct get get;
    replace_while_looked_at(&put, &get);
    fake_probe_end(bench.disk, 0, disk_next_version(bench.disk), fake_segment_new(bench.disk));
    expect_written(&put, &get);
}

/* Before all is known every put waits for a kill. The one that is replaced is in memory, and begins to be written. */
static void replace_while_unknown(struct put *put, struct put *present)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_ON_EVICT;
    bench_begin(&config);
    bench.disk->objects = true;
    fake_opened(bench.disk, 0, 0);
    struct put old;
    cr_assert_eq(put_go(&old, "a", 0, 1, SMALL), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(old.outcome, STORE_OK);
    cr_assert_eq(put_go(put, "a", REPLACE, 2, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(present, "a", ACK_DISK, 3, SMALL), STORE_PENDING);
    run_write();
    cr_assert_eq(kills(), 1);
}

/* It unlinks what is there; the log would reach a version whenever it is written. */
Test(store_order, the_kill_of_a_file_does_not_reach_a_write_that_began_behind_it)
{
    struct put put, present;
    replace_while_unknown(&put, &present);
    fake_kill_end(bench.disk, 0);
    cr_assert_eq(put.ended, 0, "the old value's file is being written");
    cr_assert_eq(kills(), 1, "behind the write");
    expect_value("a", 1, SMALL);
    end_write(0);
    fake_kill_end(bench.disk, 0);
    cr_assert(put.ended == 1 && put.outcome == STORE_OK);
    cr_assert_eq(kills(), 0);
    expect_value("a", 2, SMALL);
    bench_end();
}

Test(store_order, a_write_behind_the_kill_of_a_file_is_taken_back_if_it_is_still_queued)
{
    struct put put, present, next, also;
    replace_while_unknown(&put, &present);
    end_write(0);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    cr_assert_eq(put_go(&next, "a", REPLACE, 4, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&also, "a", ACK_DISK, 5, SMALL), STORE_PENDING);
    fake_kill_end(bench.disk, 0);
    cr_assert(next.ended == 1 && next.outcome == STORE_OK);
    cr_assert_eq(kills(), 0);
    cr_assert(list_empty(&bench.disk->running));
    expect_value("a", 4, SMALL);
    bench_end();
}

Test(store_order, a_replace_waits_for_the_remove_of_a_file_that_was_written_behind_its_kill)
{
    struct put put, present;
    struct removing removing;
    replace_while_unknown(&put, &present);
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    fake_kill_end(bench.disk, 0);
    cr_assert_eq(put.ended, 0, "the old value's file is being written, and the kill behind that is not durable");
    end_write(0);
    fake_kill_end(bench.disk, 0);
    cr_assert(removing.ended == 1 && removing.outcome == STORE_OK);
    fake_kill_end(bench.disk, 0);
    cr_assert(put.ended == 1 && put.outcome == STORE_OK);
    expect_value("a", 2, SMALL);
    bench_end();
}

Test(store_order, two_puts_of_an_absent_key_wait_for_their_kills_and_the_first_wins)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    struct removing removing;
    struct put first, second;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    cr_assert_eq(put_go(&first, "a", 0, 2, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&second, "a", 0, 3, SMALL), STORE_PENDING);
    expect_miss("a");
    fake_kill_end(bench.disk, 0);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_miss("a");
    fake_kill_end(bench.disk, 0);
    cr_assert(first.outcome == STORE_OK && second.ended == 0);
    expect_value("a", 2, SMALL);
    fake_kill_end(bench.disk, 0);
    cr_assert_eq(second.outcome, STORE_PRESENT);
    cr_assert_eq(second.put.version, first.put.version);
    bench_end();
}

Test(store_order, a_put_that_changes_nothing_old_survives_a_failed_kill)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    struct removing removing;
    struct put put;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    cr_assert_eq(put_go(&put, "a", 0, 2, SMALL), STORE_PENDING);
    fake_kill_end(bench.disk, -EIO);
    fake_kill_end(bench.disk, -EIO);
    cr_assert_eq(removing.outcome, -EIO);
    cr_assert_eq(put.outcome, STORE_OK); /* a failing disk is a smaller cache, not a dead one */
    expect_value("a", 2, SMALL);
    bench_end();
}

Test(store_order, a_pinned_put_that_waits_for_its_kill_keeps_its_share)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    store_set_persist(bench.store, PERSIST_NONE);
    struct put waiting, other;
    cr_assert_eq(put_go(&waiting, "a", REPLACE | PIN, 2, 3 * MIB / 2), STORE_PENDING);
    cr_assert_eq(put_go(&other, "b", PIN, 3, MIB), KVD_EBUSY);
    put_ok("c", 4, MIB);
    cr_assert_not(pin("c", true));
    cr_assert_eq(lease_of("c", 60000), 0);
    fake_kill_all(bench.disk);
    cr_assert_eq(waiting.outcome, STORE_OK);
    cr_assert_leq(info().held_memory_only_bytes, 2 * MIB);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_OK);
    cr_assert(pin("c", true));
    bench_end();
}

Test(store_order, a_refused_pin_has_killed_nothing)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    struct put put, big;
    store_set_persist(bench.store, PERSIST_NONE);
    cr_assert_eq(put_go(&big, "big", PIN, 2, 3 * MIB / 2), STORE_OK);
    int outcome = put_go(&put, "a", REPLACE | PIN, 3, MIB);
    fake_kill_all(bench.disk);
    cr_assert_eq(outcome == STORE_PENDING ? put.outcome : outcome, KVD_EBUSY);
    expect_value("a", 1, SMALL);
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum), "said to be on disk, and dead there");
    bench_end();
}

/* ---- remove ---- */

Test(store_order, a_remove_is_answered_when_it_is_durable_though_gone_at_once)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    struct removing first, second;
    cr_assert_eq(remove_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(first.remove.removed, 1);
    expect_miss("a");
    cr_assert_eq(remove_go(&second, "a"), STORE_PENDING, "the first one's record may still be lost");
    cr_assert_eq(second.remove.removed, 0);
    fake_kill_end(bench.disk, 0);
    cr_assert(first.ended == 1 && first.outcome == STORE_OK && second.ended == 0);
    expect_dead_for_good("a", old);
    fake_kill_end(bench.disk, 0);
    cr_assert_eq(second.outcome, STORE_OK);
    cr_assert_eq(remove_go(&second, "a"), STORE_OK);
    bench_end();
}

Test(store_order, a_remove_during_the_write_kills_what_that_may_leave)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    run_write();
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    end_write(0);
    expect_miss("a");
    cr_assert_eq(removing.ended, 0);
    fake_kill_all(bench.disk);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_miss("a");
    expect_dead_for_good("a", old);
    cr_assert_eq(info().table.disk_bytes, 0);
    bench_end();
}

Test(store_order, a_remove_that_failed_is_not_ok_the_second_time)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    fake_kill_end(bench.disk, -EIO);
    cr_assert_eq(removing.outcome, -EIO);
    expect_miss("a");
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING, "nothing on disk says that it is dead");
    fake_kill_all(bench.disk);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_dead_for_good("a", old);
    bench_end();
}

Test(store_order, a_replace_after_a_failed_remove_is_logged)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    fake_kill_end(bench.disk, -EIO);
    struct put put;
    store_set_persist(bench.store, PERSIST_NONE);
    cr_assert_eq(put_go(&put, "a", 0, 2, SMALL), STORE_OK);
    cr_assert_eq(put_go(&put, "a", REPLACE, 3, SMALL), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    expect_dead_for_good("a", old);
    bench_end();
}

Test(store_order, removes_while_the_disk_is_off_say_so_every_time)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    bench.disk->state = DISK_OFF;
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), KVD_EOFF);
    expect_miss("a");
    cr_assert_eq(remove_go(&removing, "a"), KVD_EOFF);
    bench.disk->state = DISK_ON;
    bench_end();
}

Test(store_order, a_batch_remove_waits_for_all_and_says_the_first_error)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    put_on_both("b", 2, SMALL);
    put_on_both("c", 3, SMALL);
    struct span keys[] = {span_text("a"), span_text("none"), span_text("b"), span_text("c"), span_text("a")};
    struct removing removing = {.outcome = NOT_ENDED};
    cr_assert_eq(store_remove_start(&bench.store->home, &removing.remove, keys, 5, remove_ended), STORE_PENDING);
    cr_assert_eq(removing.remove.removed, 3);
    fake_kill_end(bench.disk, 0);
    fake_kill_end(bench.disk, -EIO);
    fake_kill_end(bench.disk, -ENOSPC);
    cr_assert_eq(removing.ended, 0);
    fake_kill_all(bench.disk);
    cr_assert(removing.ended == 1 && removing.outcome == -EIO);
    bench_end();
}

Test(store_order, a_failed_removal_of_all_empties_the_table_and_says_so)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    put_on_disk("b", 2, SMALL);
    struct removing removing;
    cr_assert_eq(remove_many_go(&removing, KILL_ALL, span_of(NULL, 0)), STORE_PENDING);
    fake_kill_end(bench.disk, -EIO);
    settle();
    cr_assert_eq(removing.outcome, -EIO);
    cr_assert_eq(info().table.objects, 0);
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    bench_end();
}

Test(store_order, what_gets_a_new_version_does_not_escape_a_removal_of_many)
{
    bench_begin_usual();
    put_on_both("p-other", 3, SMALL);
    put_ok("p-failed", 1, SMALL);
    run_write();
    put_ok("q-failed", 2, SMALL);
    run_write();
    struct removing removing;
    cr_assert_eq(remove_many_go(&removing, KILL_PREFIX, span_text("p-")), STORE_PENDING);
    end_write(-EIO);
    end_write(-EIO);
    fake_kill_all(bench.disk);
    settle();
    cr_assert(removing.ended == 1 && removing.outcome == STORE_OK && removing.remove.removed == 2);
    cr_assert_eq(where_is("p-failed"), 0);
    expect_value("q-failed", 2, SMALL);
    put_ok("p-failed", 4, SMALL);
    expect_value("p-failed", 4, SMALL);
    bench_end();
}

/* ---- ack: disk ---- */

Test(store_order, on_disk_means_written_and_synced)
{
    bench_begin_usual();
    struct put first, second, third;
    cr_assert_eq(put_go(&first, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    expect_value("a", 1, SMALL);
    cr_assert_eq(put_go(&second, "a", ACK_DISK, 9, SMALL), STORE_PENDING);
    run_write();
    settle();
    end_write(0);
    settle();
    cr_assert(first.ended == 0 && second.ended == 0);
    cr_assert_eq(put_go(&third, "a", ACK_DISK, 9, SMALL), STORE_PENDING);
    fake_sync_end(bench.disk, 1, 0);
    fake_sync_end(bench.disk, 0, 0);
    cr_assert(first.outcome == STORE_OK && second.outcome == STORE_PRESENT && third.ended == 0);
    fake_sync_all(bench.disk);
    cr_assert_eq(third.outcome, STORE_PRESENT);
    cr_assert_eq(third.put.version, first.put.version);
    bench_end();
}

Test(store_order, on_disk_holds_whatever_the_policy_says)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    struct put put;
    put_ok("a", 1, SMALL);
    cr_assert_eq(bench.disk->writes_started, 0);
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    bench_end();
}

Test(store_order, a_write_that_fails_is_said_and_the_object_stays_in_memory)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    run_write();
    end_write(-EIO);
    cr_assert_eq(put.outcome, -EIO);
    expect_value("a", 1, SMALL);
    cr_assert(!stat_of("a").disk && !stat_of("a").disk_writing);
    cr_assert_eq(info().figures.unwritten_error, 1);
    bench_end();
}

Test(store_order, what_failed_to_be_written_can_be_written_later)
{
    bench_begin_usual();
    struct put put;
    put_ok("a", 1, SMALL);
    run_write();
    end_write(-EIO);
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum), "its own burial reaches it");
    bench_end();
}

Test(store_order, a_full_disk_is_no_error_of_the_object)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), KVD_EFULL);
    cr_assert_eq(info().figures.unwritten_full, 1);
    cr_assert_eq(kills(), 0);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_OK);
    bench_end();
}

Test(store_order, a_record_of_a_first_try_is_buried_though_the_second_never_began)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    run_write();
    fake_write_again(bench.disk, fake_write_at(&bench.disk->running, 0));
    fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), KVD_EFULL);
    struct removing removing;
    int outcome = remove_go(&removing, "a");
    fake_kill_all(bench.disk);
    cr_assert_eq(outcome == STORE_PENDING ? removing.outcome : outcome, STORE_OK);
    expect_dead_for_good("a", old);
    bench_end();
}

Test(store_order, a_failed_burial_is_not_forgotten)
{
    bench_begin_usual();
    put_ok("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    run_write();
    end_write(-EIO);
    fake_kill_end(bench.disk, -EIO);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_dead_for_good("a", old);
    bench_end();
}

Test(store_order, after_a_failed_sync_it_is_written_once_more_elsewhere)
{
    bench_begin_usual();
    struct put put, present;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, MEDIUM), STORE_PENDING);
    cr_assert_eq(put_go(&present, "a", ACK_DISK, 1, MEDIUM), STORE_PENDING);
    fake_write_all(bench.disk);
    cr_assert_eq(fake_count(&bench.disk->syncs), 2);
    fake_sync_end(bench.disk, 0, -EIO);
    fake_sync_end(bench.disk, 0, -EIO);
    cr_assert(put.ended == 0 && present.ended == 0);
    cr_assert_eq(fake_count(&bench.disk->queue), 1);
    fake_write_all(bench.disk);
    cr_assert_str_eq(stat_of("a").file, "kvd/fake/0002.seg");
    fake_sync_all(bench.disk);
    cr_assert(put.outcome == STORE_OK && present.outcome == STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    bench_end();
}

Test(store_order, a_second_failed_sync_is_an_error)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_end(bench.disk, 0, -EIO);
    fake_write_all(bench.disk);
    fake_sync_end(bench.disk, 0, -EIO);
    cr_assert_eq(put.outcome, -EIO);
    expect_value("a", 1, SMALL);
    bench_end();
}

Test(store_order, what_a_failed_sync_leaves_behind_is_killed_with_the_object)
{
    bench_begin_usual();
    struct put put;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    uint64_t old = stat_of("a").version;
    fake_write_all(bench.disk);
    fake_sync_end(bench.disk, 0, -EIO);
    struct removing removing; /* the second write is still queued; the first record may be there */
    int outcome = remove_go(&removing, "a");
    settle();
    fake_kill_all(bench.disk);
    cr_assert_eq(outcome == STORE_PENDING ? removing.outcome : outcome, STORE_OK);
    expect_dead_for_good("a", old);
    bench_end();
}

Test(store_order, a_large_object_whose_disk_replica_went_can_be_written_again)
{
    bench_begin_usual();
    put_on_both("a", 1, MEDIUM);
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(where_is("a"), IN_MEMORY);
    struct put put;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, MEDIUM), STORE_PENDING);
    fake_write_all(bench.disk); /* checks the chunks' sums */
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    bench_end();
}

Test(store_order, a_large_object_that_came_from_disk_can_be_written_again)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    expect_value_anywhere("a", 1, MEDIUM);
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    struct put put;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, MEDIUM), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    bench_end();
}

Test(store_order, present_on_a_segment_that_is_given_up_is_not_on_disk)
{
    bench_begin_usual();
    put_on_both("a", 1, SMALL);
    put_on_disk("b", 2, SMALL);
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    struct put put;
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), KVD_EBUSY);
    cr_assert_eq(put_go(&put, "b", ACK_DISK, 2, SMALL), KVD_EBUSY);
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, SMALL), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    expect_miss("b");
    bench_end();
}

Test(store_order, what_lost_its_replica_before_the_sync_is_written_again)
{
    bench_begin_usual();
    put_on_disk("a", 1, 3 * MIB / 2);
    struct get range;
    struct put put;
    cr_assert_eq(get_range(&range, "a", 10, 10), STORE_PENDING);
    struct get whole;
    cr_assert_eq(get_go(&whole, "a"), STORE_PENDING);
    fake_read_end(bench.disk, 1, 0);
    expect_got(&whole, 1, 0, 3 * MIB / 2);
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, 3 * MIB / 2), STORE_PENDING);
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.ended, 0);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    bench_end();
}

Test(store_order, present_is_not_said_of_what_has_gone_meanwhile)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    put_ok("a", 1, SMALL);
    struct put memory, disk;
    cr_assert_eq(put_begin(&memory, "a", 0, 1, SMALL), STORE_PRESENT);
    cr_assert_eq(put_begin(&disk, "a", ACK_DISK, 1, SMALL), STORE_PRESENT);
    entry_forget(bench.store, entry_of("a")); /* as an eviction does, while the body is skipped */
    bench.store->figures.dropped_evicted++;
    cr_assert_eq(store_put_present(&memory.put, put_ended), STORE_PRESENT);
    cr_assert_eq(store_put_present(&disk.put, put_ended), KVD_EBUSY);
    bench_end();
}

/* ---- sync ---- */

struct syncing {
    struct store_sync sync;
    int err;
    unsigned ended;
};

static void sync_ended(struct store_sync *store_sync, int err)
{
    struct syncing *syncing = CONTAINER_OF(store_sync, struct syncing, sync);
    syncing->err = err;
    syncing->ended++;
}

static int sync_go(struct syncing *syncing)
{
    *syncing = (struct syncing){.err = NOT_ENDED};
    return store_sync_start(&bench.store->home, &syncing->sync, false, sync_ended);
}

Test(store_order, a_sync_waits_for_the_writes_before_it_and_no_others)
{
    bench_begin_usual();
    struct syncing first, second;
    put_ok("a", 1, SMALL);
    cr_assert_eq(sync_go(&first), STORE_PENDING);
    put_ok("b", 2, SMALL);
    cr_assert_eq(sync_go(&second), STORE_PENDING);
    run_write();
    run_write();
    fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 1), 0);
    cr_assert(list_empty(&bench.disk->syncs));
    end_write(0);
    cr_assert_eq(fake_count(&bench.disk->syncs), 2);
    fake_sync_end(bench.disk, 0, 0);
    cr_assert(first.ended == 1 && first.err == 0 && first.sync.failed == 0 && second.ended == 0);
    fake_sync_all(bench.disk);
    cr_assert_eq(second.ended, 1);
    bench_end();
}

Test(store_order, a_sync_counts_what_could_not_be_written)
{
    bench_begin_usual();
    struct syncing syncing, refused;
    struct removing removing;
    put_ok("a", 1, SMALL);
    put_ok("b", 2, SMALL);
    put_ok("gone", 3, SMALL);
    cr_assert_eq(sync_go(&syncing), STORE_PENDING);
    run_write();
    end_write(-EIO);
    run_write();
    end_write(0);
    run_write();
    cr_assert_eq(remove_go(&removing, "gone"), STORE_PENDING);
    end_write(-EIO); /* nobody wants it any more */
    fake_sync_all(bench.disk);
    cr_assert(syncing.err == 0 && syncing.sync.failed == 1);
    cr_assert_eq(info().figures.unwritten_error, 1);
    fake_kill_all(bench.disk);
    put_ok("c", 3, SMALL);
    cr_assert_eq(sync_go(&refused), STORE_PENDING);
    settle();
    bench.disk->closing = true;
    fake_write_all(bench.disk);
    cr_assert(refused.ended == 1 && refused.err == KVD_ECLOSING && refused.sync.failed == 0);
    bench.disk->closing = false;
    bench_end();
}

Test(store_order, a_sync_writes_what_the_disk_does_not_have_any_more)
{
    bench_begin_usual();
    put_ok("failed", 1, SMALL);
    run_write();
    end_write(-EIO);
    put_on_both("reclaimed", 2, MEDIUM);
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    cr_assert(where_is("failed") == IN_MEMORY && where_is("reclaimed") == IN_MEMORY);
    struct syncing syncing;
    cr_assert_eq(sync_go(&syncing), STORE_PENDING);
    settle();
    fake_write_all(bench.disk);
    settle();
    fake_sync_all(bench.disk);
    cr_assert(syncing.ended == 1 && syncing.err == 0 && syncing.sync.failed == 0);
    cr_assert(fake_is_safe(bench.disk, span_text("failed"), stat_of("failed").checksum));
    cr_assert(fake_is_safe(bench.disk, span_text("reclaimed"), stat_of("reclaimed").checksum));
    bench_end();
}

/* ---- reads ---- */

Test(store_order, gets_share_a_read_and_one_may_leave)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    struct get first, second, part;
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&second, "a"), STORE_PENDING);
    cr_assert_eq(get_range(&part, "a", 1000, 10), STORE_PENDING);
    cr_assert_eq(fake_count(&bench.disk->reads), 1);
    cr_assert_eq(info().figures.loads_shared, 2);
    store_get_cancel(&first.get);
    fake_read_all(bench.disk);
    cr_assert_eq(first.ended, 0);
    expect_got(&second, 1, 0, MEDIUM);
    expect_got(&part, 1, 1000, 10);
    bench_end();
}

Test(store_order, a_read_that_nobody_waits_for_any_more_still_comes_to_memory)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    store_get_cancel(&get.get);
    fake_read_all(bench.disk);
    cr_assert_eq(get.ended, 0);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(store_order, a_remove_during_a_read_ends_the_object_and_not_the_read)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    struct get before;
    struct removing removing;
    cr_assert_eq(get_go(&before, "a"), STORE_PENDING);
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    expect_miss("a");
    fake_kill_all(bench.disk);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_miss("a");
    fake_read_all(bench.disk);
    expect_got(&before, 1, 0, MEDIUM); /* it was asked before */
    expect_miss("a");
    bench_end();
}

Test(store_order, a_replace_during_a_read_shows_each_what_was_there_when_it_asked)
{
    bench_begin_usual();
    put_on_disk("a", 1, MEDIUM);
    struct get before, meanwhile;
    struct put put;
    cr_assert_eq(get_go(&before, "a"), STORE_PENDING);
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING);
    cr_assert_eq(get_go(&meanwhile, "a"), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    expect_value("a", 2, SMALL);
    fake_read_all(bench.disk);
    expect_got(&before, 1, 0, MEDIUM);
    expect_got(&meanwhile, 1, 0, MEDIUM);
    expect_value("a", 2, SMALL);
    cr_assert_eq(info().figures.promoted, 0);
    bench_end();
}

static void expect_bad_read(int err, const char *reason)
{
    struct get first, second;
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&second, "a"), STORE_PENDING);
    fake_read_end(bench.disk, 0, err);
    cr_assert(first.outcome == STORE_MISS && second.outcome == STORE_MISS);
    cr_assert_str_eq(first.get.reason, reason);
    cr_assert_str_eq(second.get.reason, reason);
    cr_assert_null(first.get.blob);
}

Test(store_order, wrong_bytes_are_a_miss_and_the_replica_is_buried)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    uint64_t old = stat_of("a").version;
    expect_bad_read(KVD_ECORRUPT, "corrupt");
    expect_miss("a");
    cr_assert_eq(info().figures.dropped_corrupt, 1);
    struct put put;
    cr_assert_eq(put_go(&put, "a", 0, 2, SMALL), STORE_PENDING); /* the burial is not durable yet */
    fake_kill_all(bench.disk);
    expect_dead_for_good("a", old);
    expect_value("a", 2, SMALL);
    bench_end();
}

Test(store_order, a_short_file_is_a_miss_and_the_replica_is_buried)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    expect_bad_read(KVD_ESHORT, "short");
    expect_miss("a");
    cr_assert_eq(info().figures.dropped_short, 1);
    cr_assert_eq(kills(), 1);
    bench_end();
}

Test(store_order, a_device_error_is_a_miss_and_the_replica_stays)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    expect_bad_read(-EIO, "io error");
    cr_assert_eq(info().figures.read_errors, 2);
    cr_assert_eq(where_is("a"), ON_DISK);
    cr_assert_eq(kills(), 0);
    expect_value_anywhere("a", 1, SMALL);
    bench_end();
}

Test(store_order, a_read_from_a_disk_that_is_off_is_a_miss_with_its_reason)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    bench.disk->state = DISK_OFF;
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_MISS);
    cr_assert_str_eq(get.get.reason, "disk off");
    cr_assert_eq(info().inflight_bytes + info().memory_used_bytes, 0);
    bench.disk->state = DISK_ON;
    expect_value_anywhere("a", 1, SMALL);
    bench_end();
}

Test(store_order, ranges_of_large_objects_are_read_by_themselves)
{
    bench_begin_usual();
    put_on_disk("a", 1, 3 * MIB / 2);
    struct get range, other, whole;
    cr_assert_eq(get_range(&range, "a", POOL_CHUNK_BYTES + 10, POOL_CHUNK_BYTES), STORE_PENDING);
    const struct disk_read *read = CONTAINER_OF(fake_at(&bench.disk->reads, 0), struct disk_read, link);
    cr_assert(read->offset == POOL_CHUNK_BYTES && read->length == 2 * POOL_CHUNK_BYTES);
    cr_assert_eq(get_range(&other, "a", 3 * MIB / 2 - 5, 100), STORE_PENDING);
    fake_read_all(bench.disk);
    expect_got(&range, 1, POOL_CHUNK_BYTES + 10, POOL_CHUNK_BYTES);
    expect_got(&other, 1, 3 * MIB / 2 - 5, 5);
    cr_assert_eq(where_is("a"), ON_DISK);
    cr_assert_eq(info().memory_used_bytes, 0);
    cr_assert_eq(get_range(&range, "a", 0, 10), STORE_PENDING);
    cr_assert_eq(get_go(&whole, "a"), STORE_PENDING);
    cr_assert_eq(fake_count(&bench.disk->reads), 2);
    fake_read_all(bench.disk);
    expect_got(&range, 1, 0, 10);
    expect_got(&whole, 1, 0, 3 * MIB / 2);
    cr_assert_eq(where_is("a"), IN_MEMORY | ON_DISK);
    bench_end();
}

Test(store_order, a_wrong_range_of_an_object_in_memory_costs_it_its_replica_alone)
{
    bench_begin_usual();
    put_on_disk("a", 1, 3 * MIB / 2);
    struct get range, whole;
    cr_assert_eq(get_range(&range, "a", 10, 10), STORE_PENDING);
    cr_assert_eq(get_go(&whole, "a"), STORE_PENDING);
    fake_read_end(bench.disk, 1, 0);
    expect_got(&whole, 1, 0, 3 * MIB / 2);
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    cr_assert_eq(range.outcome, STORE_MISS);
    cr_assert_eq(where_is("a"), IN_MEMORY);
    expect_figures_add_up();
    struct put put; /* and what is written next is not reached by the burial */
    cr_assert_eq(put_go(&put, "a", ACK_DISK, 1, 3 * MIB / 2), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_PRESENT);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    bench_end();
}

/* ---- room on disk ---- */

Test(store_order, a_segment_goes_in_order_kill_forget_unlink)
{
    bench_begin_usual();
    char key[32];
    for (unsigned i = 0; i < 150; i++) {
        snprintf(key, sizeof key, "n%u", i);
        put_ok(key, i, 100);
        fake_write_all(bench.disk);
        if (i % 2)
            leave_memory(key);
    }
    struct segment *segment = bench.disk->open;
    cr_assert_not(bench.disk->events.full(bench.disk->arg), "the only one is open");
    fake_seal(bench.disk);
    put_on_both("kept", 1, SMALL);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    cr_assert(bench.disk->events.full(bench.disk->arg));
    cr_assert_eq(kills(), 1);
    settle();
    cr_assert_eq(where_is("n1"), ON_DISK, "forgotten before its death is durable");
    cr_assert_eq(lease_of("n1", 60000), 0);
    cr_assert_not(pin("n1", true));
    cr_assert_neq(lease_of("n0", 60000), 0);
    fake_kill_all(bench.disk);
    turns(1);
    cr_assert(!segment->dead);
    settle();
    cr_assert(segment->dead);
    cr_assert_eq(where_is("n1"), 0);
    cr_assert_eq(where_is("n0"), IN_MEMORY);
    cr_assert(stat_of("n0").leased);
    cr_assert_eq(where_is("kept"), IN_MEMORY | ON_DISK);
    fake_reap(bench.disk);
    struct store_figures f = info().figures;
    cr_assert(f.dropped_reclaimed == 75 && f.reclaimed_segments == 1);
    expect_value("n0", 0, 100);
    bench_end();
}

Test(store_order, a_segment_whose_kill_fails_stays)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_end(bench.disk, -EIO);
    settle();
    expect_value_anywhere("a", 1, SMALL);
    cr_assert_not(bench.disk->events.full(bench.disk->arg), "it would try the same for ever");
    cr_assert(bench.disk->events.full(bench.disk->arg), "the next one may try again");
    cr_assert_neq(lease_of("a", 60000), 0);
    bench_end();
}

Test(store_order, the_oldest_goes_but_not_what_is_held_there_alone)
{
    bench_begin_usual();
    const char *keys[] = {"a", "b", "c", "d"};
    for (unsigned i = 0; i < 4; i++) {
        put_on_disk(keys[i], i, SMALL);
        fake_seal(bench.disk);
    }
    cr_assert(pin("a", true));
    cr_assert_neq(lease_of("b", 60000), 0);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    cr_assert(where_is("a") && where_is("b") && !where_is("c") && where_is("d"));
    cr_assert(pin("d", true));
    cr_assert_not(bench.disk->events.full(bench.disk->arg), "all that is left is held");
    store_owner_end(bench.store, &bench.owner);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    cr_assert(where_is("a") && !where_is("b"));
    bench_end();
}

Test(store_order, what_holds_nothing_goes_first_and_by_itself)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    fake_seal(bench.disk);
    put_on_disk("b", 2, SMALL);
    struct segment *second = bench.disk->open;
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "b"), STORE_PENDING);
    fake_kill_all(bench.disk);
    cr_assert_eq(kills(), 0); /* it is open */
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    cr_assert(second->dead);
    fake_reap(bench.disk);
    cr_assert_eq(where_is("a"), ON_DISK);
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    cr_assert_eq(kills(), 2); /* its segment has nothing else */
    fake_kill_all(bench.disk);
    settle();
    fake_reap(bench.disk);
    cr_assert(list_empty(&bench.disk->segments));
    cr_assert_eq(info().figures.reclaimed_segments, 2);
    cr_assert_eq(info().figures.dropped_reclaimed, 0);
    bench_end();
}

Test(store_order, a_read_from_a_segment_that_is_given_up_is_still_answered)
{
    bench_begin_usual();
    put_on_disk("a", 1, SMALL);
    fake_seal(bench.disk);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    expect_miss("a");
    fake_reap(bench.disk);
    cr_assert_eq(fake_count(&bench.disk->segments), 1);
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, SMALL);
    fake_reap(bench.disk);
    bench_end();
}

Test(store_order, a_get_that_waits_for_room_misses_when_its_file_goes)
{
    struct store_config config = bench_config();
    config.inflight_bytes = MIB;
    bench_begin_on(&config);
    put_on_disk("a", 1, MIB);
    fake_seal(bench.disk);
    put_on_disk("b", 2, MIB);
    struct get first, second, removed;
    cr_assert_eq(get_go(&first, "b"), STORE_PENDING);
    cr_assert_eq(get_go(&second, "a"), STORE_PENDING);
    cr_assert_eq(get_range(&removed, "a", 1, 1), STORE_PENDING);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    fake_reap(bench.disk);
    cr_assert_eq(fake_count(&bench.disk->segments), 1);
    fake_read_all(bench.disk);
    settle();
    expect_got(&first, 2, 0, MIB);
    cr_assert(second.ended == 1 && second.outcome == STORE_MISS && removed.outcome == STORE_MISS);
    bench_end();
}

Test(store_order, a_held_object_does_not_leave_memory_while_its_file_goes)
{
    bench_begin_usual();
    put_on_both("held", 1, 3 * MIB / 2);
    fake_seal(bench.disk);
    cr_assert_neq(lease_of("held", 60000), 0);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    store_set_persist(bench.store, PERSIST_NONE);
    struct put put;
    cr_assert_eq(put_go(&put, "x", PIN, 2, MIB), STORE_OK);
    cr_assert_eq(put_go(&put, "y", PIN, 3, MIB), STORE_OK);
    cr_assert_eq(put_go(&put, "z", 0, 4, MIB), KVD_EBUSY, "something left that must not");
    fake_kill_all(bench.disk);
    settle();
    expect_value("held", 1, 3 * MIB / 2);
    cr_assert(stat_of("held").leased);
    bench_end();
}

Test(store_order, held_objects_that_lose_their_file_are_written_on_beyond_the_bound)
{
    bench_begin_usual();
    put_on_both("a", 1, 3 * MIB / 2);
    put_on_both("b", 2, 3 * MIB / 2);
    cr_assert(pin("a", true) && pin("b", true));
    fake_seal(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    fake_write_all(bench.disk);
    cr_assert_leq(info().held_memory_only_bytes, 2 * MIB);
    expect_value("a", 1, 3 * MIB / 2);
    expect_value("b", 2, 3 * MIB / 2);
    bench_end();
}

Test(store_order, a_get_that_waited_for_room_and_left_is_not_read)
{
    struct store_config config = bench_config();
    config.inflight_bytes = MIB;
    bench_begin_on(&config);
    put_on_disk("a", 1, MIB);
    put_on_disk("b", 2, MIB);
    struct get first, left, last;
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&left, "b"), STORE_PENDING);
    store_get_cancel(&left.get);
    fake_read_all(bench.disk);
    settle();
    cr_assert(list_empty(&bench.disk->reads) && left.ended == 0);
    expect_got(&first, 1, 0, MIB);
    leave_memory("a");
    cr_assert_eq(get_go(&first, "a"), STORE_PENDING);
    cr_assert_eq(get_go(&last, "b"), STORE_PENDING);
    store_get_cancel(&last.get);
    cr_assert_eq(fake_count(&bench.store->starved), 1);
    store_get_cancel(&first.get);
    bench_close(); /* it is still waiting */
    cr_assert_eq(last.ended, 0);
}

/* ---- start ---- */

Test(store_order, before_all_is_known_no_segment_is_given_up)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    fake_segment_new(bench.disk)->ended = true;
    fake_opened(bench.disk, 0, 0);
    cr_assert_not(bench.disk->events.full(bench.disk->arg), "it may hold what has not been read yet");
    cr_assert_eq(kills(), 0);
    fake_recovered(bench.disk);
    cr_assert(bench.disk->events.full(bench.disk->arg));
    bench_end();
}

Test(store_order, of_what_is_found_the_highest_version_counts)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct segment *one = fake_segment_new(bench.disk), *two = fake_segment_new(bench.disk);
    one->ended = two->ended = true;
    uint8_t old[100], new[100];
    value_fill(1, 0, old, sizeof old);
    value_fill(2, 0, new, sizeof new);
    fake_opened(bench.disk, 0, 5000);
    fake_found(bench.disk, fake_old_record(bench.disk, one, "up", 10, old, sizeof old));
    fake_found(bench.disk, fake_old_record(bench.disk, two, "up", 20, new, sizeof new));
    fake_found(bench.disk, fake_old_record(bench.disk, two, "down", 20, new, sizeof new));
    fake_found(bench.disk, fake_old_record(bench.disk, one, "down", 10, old, sizeof old));
    fake_found(bench.disk, fake_old_record(bench.disk, one, "other", 10, old, sizeof old));
    expect_value_anywhere("up", 2, sizeof new);
    fake_recovered(bench.disk);
    cr_assert(bench.recovered);
    cr_assert_eq(stat_of("up").version, 20);
    cr_assert_eq(stat_of("down").version, 20);
    cr_assert_eq(info().table.objects, 3);
    /* The lower ones are still there, and a remove must reach them whatever happens to the higher ones. */
    cr_assert(pin("other", true));
    cr_assert(bench.disk->events.full(bench.disk->arg));
    fake_kill_all(bench.disk);
    settle();
    cr_assert(two->dead);
    struct removing removing;
    int outcome = remove_go(&removing, "down");
    fake_kill_all(bench.disk);
    cr_assert_eq(outcome == STORE_PENDING ? removing.outcome : outcome, STORE_OK);
    expect_dead_for_good("down", 20);
    bench_end();
}

Test(store_order, puts_before_all_is_known_beat_what_is_found)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct segment *segment = fake_segment_new(bench.disk);
    segment->ended = true;
    uint8_t old[100];
    value_fill(1, 0, old, sizeof old);
    struct fake_record *early = fake_old_record(bench.disk, segment, "early", 10, old, sizeof old);
    struct fake_record *late = fake_old_record(bench.disk, segment, "late", 10, old, sizeof old);
    struct put put;
    put_ok("early", 2, SMALL);
    fake_opened(bench.disk, 0, 0);
    cr_assert_eq(put_go(&put, "late", 0, 3, SMALL), STORE_PENDING);
    fake_found(bench.disk, early);
    fake_found(bench.disk, late);
    expect_value("early", 2, SMALL);
    expect_miss("late");
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    fake_recovered(bench.disk);
    fake_write_all(bench.disk);
    expect_value("early", 2, SMALL);
    expect_value("late", 3, SMALL);
    expect_dead_for_good("early", 10);
    expect_dead_for_good("late", 10);
    bench_end();
}

Test(store_order, a_replace_while_the_disk_opens_is_answered_when_it_is_durable)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct segment *segment = fake_segment_new(bench.disk);
    uint8_t old[100];
    value_fill(1, 0, old, sizeof old);
    fake_old_record(bench.disk, segment, "a", 10, old, sizeof old);
    segment->ended = true;
    struct put put;
    cr_assert_eq(put_go(&put, "a", REPLACE, 2, SMALL), STORE_PENDING, "nothing on disk says that the old one is dead");
    expect_miss("a");
    fake_opened(bench.disk, 0, 0);
    fake_kill_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    expect_dead_for_good("a", 10);
    expect_value("a", 2, SMALL);
    fake_recovered(bench.disk);
    bench_end();
}

Test(store_order, a_remove_before_all_is_known_reaches_what_is_found_later)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct segment *segment = fake_segment_new(bench.disk);
    segment->ended = true;
    uint8_t old[100];
    value_fill(1, 0, old, sizeof old);
    const char *keys[] = {"one", "two", "three"};
    struct fake_record *records[3];
    for (unsigned i = 0; i < 3; i++)
        records[i] = fake_old_record(bench.disk, segment, keys[i], 10 + i, old, sizeof old);
    struct removing opening, recovering, seen;
    cr_assert_eq(remove_go(&opening, "one"), STORE_PENDING);
    fake_opened(bench.disk, 0, 0);
    cr_assert_eq(remove_go(&recovering, "two"), STORE_PENDING);
    for (unsigned i = 0; i < 3; i++)
        fake_found(bench.disk, records[i]);
    cr_assert(!where_is("one") && !where_is("two") && where_is("three"));
    cr_assert_eq(remove_go(&seen, "three"), STORE_PENDING);
    cr_assert(opening.ended == 0 && recovering.ended == 0);
    fake_kill_all(bench.disk);
    fake_recovered(bench.disk);
    cr_assert(opening.outcome == STORE_OK && recovering.outcome == STORE_OK && seen.outcome == STORE_OK);
    cr_assert_eq(seen.remove.removed, 1);
    for (unsigned i = 0; i < 3; i++)
        expect_dead_for_good(keys[i], 20);
    bench_end();
}

Test(store_order, a_remove_reaches_a_newer_record_that_is_not_found_yet)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct segment *segment = fake_segment_new(bench.disk);
    segment->ended = true;
    uint8_t old[100];
    value_fill(1, 0, old, sizeof old);
    struct fake_record *older = fake_old_record(bench.disk, segment, "a", 10, old, sizeof old);
    struct fake_record *newer = fake_old_record(bench.disk, segment, "a", 20, old, sizeof old);
    fake_opened(bench.disk, 0, 0);
    fake_found(bench.disk, older);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), STORE_PENDING);
    fake_found(bench.disk, newer);
    expect_miss("a");
    fake_kill_all(bench.disk);
    cr_assert_eq(removing.outcome, STORE_OK);
    expect_dead_for_good("a", 20);
    fake_recovered(bench.disk);
    bench_end();
}

Test(store_order, versions_that_jump_drop_what_was_put_before_and_nobody_is_told_ok)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct put put;
    put_ok("a", 1, SMALL);
    cr_assert_eq(put_go(&put, "b", ACK_DISK, 2, SMALL), STORE_PENDING);
    fake_opened(bench.disk, 0, 1000000);
    settle();
    cr_assert_eq(put.ended, 1);
    cr_assert_lt(put.outcome, 0, "it is said to be on disk, and is nowhere");
    expect_miss("a");
    cr_assert_eq(info().figures.dropped_versions, 2);
    fake_recovered(bench.disk);
    bench_end();
}

Test(store_order, a_disk_that_does_not_open_leaves_a_memory_cache)
{
    struct store_config config = bench_config();
    bench_begin(&config);
    struct put queued, waiting, put;
    put_ok("a", 1, SMALL);
    cr_assert_eq(put_go(&queued, "b", ACK_DISK, 2, SMALL), STORE_PENDING);
    cr_assert_eq(put_go(&waiting, "c", REPLACE, 3, SMALL), STORE_PENDING);
    fake_opened(bench.disk, -EACCES, 0);
    settle();
    cr_assert_eq(bench.opened, -EACCES);
    cr_assert_eq(queued.outcome, KVD_EOFF);
    cr_assert_eq(waiting.outcome, KVD_EOFF);
    expect_value("a", 1, SMALL);
    put_ok("d", 4, SMALL);
    expect_value("d", 4, SMALL);
    struct removing removing;
    cr_assert_eq(remove_go(&removing, "a"), KVD_EOFF); /* gone here; who knows what is on that disk */
    expect_miss("a");
    cr_assert_eq(put_go(&put, "e", ACK_DISK, 5, SMALL), KVD_EOFF);
    struct syncing syncing;
    cr_assert_eq(sync_go(&syncing), KVD_EOFF);
    cr_assert_gt(info().figures.unwritten_off, 0);
    bench_end();
}
