#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "loop/file.h"
#include "test/support/disk_rig.h"
#include "tier/node_file.h"

static const uint64_t sizes[] = {0, 1, 100, 4095, 4096, 4097, 65536, 262143, 262144, 262145, 1 << 20, (5 << 20) + 3};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static const char *size_key(unsigned i)
{
    static const char *const keys[] = {"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11"};
    return keys[i];
}

static void put_sizes(struct rig *rig)
{
    for (unsigned i = 0; i < SIZES; i++)
        cr_assert_eq(rig_put(rig, size_key(i), sizes[i]), 0, "size %lu", (unsigned long)sizes[i]);
}

static void check_sizes(struct rig *rig)
{
    for (unsigned i = 0; i < SIZES; i++) {
        cr_assert(rig_object(rig, size_key(i)), "size %lu is not known", (unsigned long)sizes[i]);
        cr_assert_eq(rig_object(rig, size_key(i))->size, sizes[i]);
        cr_assert_eq(rig_get(rig, size_key(i)), 0, "size %lu", (unsigned long)sizes[i]);
    }
}

Test(disk, sizes_through_close)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_sizes(&rig);
    check_sizes(&rig);
    rig_reopen(&rig);
    check_sizes(&rig);
    cr_assert_eq(rig_figures(&rig).recovered_walked, 0);
    rig_fini(&rig);
}

Test(disk, sizes_through_kill)
{
    struct rig rig, copy;
    rig_init(&rig);
    rig.segment_bytes = 32 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    put_sizes(&rig);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    check_sizes(&copy);
    cr_assert_eq(rig_figures(&copy).recovered_walked, SIZES);
    rig_reopen(&copy);
    check_sizes(&copy);
    cr_assert_eq(rig_figures(&copy).recovered_walked, 0);
    rig_fini(&copy);
    rig_fini(&rig);
}

Test(disk, threads_in_place_of_the_ring)
{
    struct rig rig;
    rig_init(&rig);
    rig.forbid_ring = true;
    cr_assert_eq(rig_open(&rig), 0);
    put_sizes(&rig);
    rig_reopen(&rig);
    check_sizes(&rig);
    rig_fini(&rig);
}

Test(disk, ranges)
{
    struct rig rig;
    rig_init(&rig);
    rig.segment_bytes = 16 << 20;
    rig.read_split_bytes = 512 * KIB;
    cr_assert_eq(rig_open(&rig), 0);
    const uint64_t size = (5 << 20) + 3;
    const uint64_t chunk = 256 * KIB;
    cr_assert_eq(rig_put(&rig, "big", size), 0);
    for (uint64_t offset = 0; offset < size; offset += chunk) {
        cr_assert_eq(rig_get_range(&rig, "big", offset, size - offset), 0);
        if (offset + chunk <= size)
            cr_assert_eq(rig_get_range(&rig, "big", offset, chunk), 0);
    }
    cr_assert_eq(rig_get_range(&rig, "big", 0, 0), 0);
    cr_assert_eq(rig_put(&rig, "small", 77), 0);
    cr_assert_eq(rig_get_range(&rig, "small", 0, 77), 0);
    rig_fini(&rig);
}

/* ---- kills ---- */

static void put_some(struct rig *rig)
{
    static const char *const keys[] = {"a", "b", "pre/1", "pre/2", "prefix"};
    for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++)
        cr_assert_eq(rig_put(rig, keys[i], 5000 + i), 0);
}

static bool known_after_kill9(const struct rig *rig, const char *key)
{
    struct rig copy;
    rig_init_copy(&copy, rig);
    cr_assert_eq(rig_open(&copy), 0);
    bool known = rig_object(&copy, key) != NULL;
    if (known)
        cr_assert_eq(rig_get(&copy, key), 0);
    rig_fini(&copy);
    return known;
}

Test(disk, a_killed_key_stays_dead)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    cr_assert(known_after_kill9(&rig, "a"));
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "a"), 0);
    cr_assert_not(known_after_kill9(&rig, "a"));
    cr_assert(known_after_kill9(&rig, "b"));
    rig_reopen(&rig);
    cr_assert_not(rig_object(&rig, "a"));
    cr_assert_eq(rig_figures(&rig).recovered_killed, 1);
    /* A later put of it lives, over any number of restarts and compactions. */
    cr_assert_eq(rig_put(&rig, "a", 99), 0);
    for (unsigned i = 0; i < 3; i++) {
        rig_settle(&rig);
        rig_reopen(&rig);
        cr_assert_eq(rig_get(&rig, "a"), 0);
        cr_assert_eq(rig_object(&rig, "a")->size, 99);
    }
    rig_fini(&rig);
}

Test(disk, a_killed_prefix_and_all)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    cr_assert_eq(rig_kill(&rig, KILL_PREFIX, "pre/"), 0);
    cr_assert_not(known_after_kill9(&rig, "pre/1"));
    cr_assert_not(known_after_kill9(&rig, "pre/2"));
    cr_assert(known_after_kill9(&rig, "prefix"));
    cr_assert_eq(rig_put(&rig, "pre/1", 10), 0);
    cr_assert(known_after_kill9(&rig, "pre/1"));
    cr_assert_eq(rig_kill(&rig, KILL_ALL, ""), 0);
    cr_assert_eq(rig_put(&rig, "after", 10), 0);
    rig_reopen(&rig);
    cr_assert_eq(rig.object_count, 1);
    cr_assert(rig_object(&rig, "after"));
    rig_fini(&rig);
}

Test(disk, the_highest_version_counts)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    for (uint64_t size = 1; size < 30; size++)
        cr_assert_eq(rig_put(&rig, "k", size * 10000), 0);
    rig_reopen(&rig);
    cr_assert_eq(rig_object(&rig, "k")->size, 290000);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_fini(&rig);
}

static bool flag(void *arg)
{
    return *(bool *)arg;
}

struct kill_one {
    struct disk_kill kill;
    char key[32];
    unsigned *order;
    unsigned place;
    bool done;
    int err;
};

static void kill_one_done(struct disk_kill *kill, int err)
{
    struct kill_one *one = CONTAINER_OF(kill, struct kill_one, kill);
    one->place = (*one->order)++;
    one->err = err;
    one->done = true;
}

enum { MANY_KILLS = 30000 };

Test(disk, many_kills_share_frames_and_end_in_order, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    unsigned order = 0;
    struct kill_one *kills = calloc(MANY_KILLS, sizeof *kills);
    for (unsigned i = 0; i < MANY_KILLS; i++) {
        snprintf(kills[i].key, sizeof kills[i].key, i == MANY_KILLS / 2 ? "a" : "key-%u", i);
        kills[i].order = &order;
        kills[i].kill = (struct disk_kill){KILL_KEY, span_text(kills[i].key), .version = disk_next_version(rig.disk)};
        cr_assert_eq(disk_kill_start(rig.disk, &kills[i].kill, kill_one_done), 0);
        cr_assert(disk_kill_pending(rig.disk, kills[i].kill.name));
    }
    rig_until(&rig, flag, &kills[MANY_KILLS - 1].done);
    uint64_t payload = 0;
    for (unsigned i = 0; i < MANY_KILLS; i++) {
        cr_assert(kills[i].done && kills[i].err == 0 && kills[i].place == i);
        payload += 12 + kills[i].kill.name.len;
    }
    cr_assert_not(disk_kill_pending(rig.disk, span_text("a")));
    struct disk_figures figures = rig_figures(&rig);
    cr_assert_eq(figures.kills, MANY_KILLS);
    cr_assert_leq(figures.kill_batches, payload / 200000 + 2);
    cr_assert_leq(figures.log_bytes, 2 * payload + 10000);
    cr_assert_not(known_after_kill9(&rig, "a"));
    cr_assert(known_after_kill9(&rig, "b"));
    free(kills);
    rig_fini(&rig);
}

Test(disk, logs_rotate_and_are_compacted, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "old", 100), 0);
    static char name[1001];
    memset(name, 'n', sizeof name - 1);
    unsigned order = 0;
    struct kill_one *kills = calloc(9000, sizeof *kills);
    for (unsigned i = 0; i < 9000; i++) {
        kills[i].order = &order;
        kills[i].kill = (struct disk_kill){KILL_KEY, span_text(name), .version = disk_next_version(rig.disk)};
        cr_assert_eq(disk_kill_start(rig.disk, &kills[i].kill, kill_one_done), 0);
    }
    rig_until(&rig, flag, &kills[8999].done);
    free(kills);
    rig_settle(&rig);
    /* All name one key: what rotated away is one entry by now. */
    cr_assert_gt(rig_figures(&rig).log_compactions, 0);
    cr_assert_lt(rig_files_bytes(&rig, ".log"), 5 << 20);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "old"), 0);
    for (unsigned i = 0; i < 3; i++) {
        rig_reopen(&rig);
        rig_settle(&rig);
        cr_assert_not(rig_object(&rig, "old"));
    }
    /* Nothing on disk is left that they could kill: the segment went with its last record. */
    struct segment *segment = disk_segment_next(rig.disk, NULL);
    cr_assert_eq(rig_give_up(&rig, segment), 0);
    rig_settle(&rig);
    rig_reopen(&rig);
    rig_settle(&rig);
    cr_assert_eq(rig_files_bytes(&rig, ".log"), 80);
    rig_fini(&rig);
}

Test(disk, compaction_spares_what_still_kills)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "dead", 100), 0);
    cr_assert_eq(rig_put(&rig, "live", 100), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "dead"), 0);
    for (unsigned i = 0; i < 4; i++) {
        rig_reopen(&rig);
        rig_settle(&rig);
        cr_assert_gt(rig_figures(&rig).log_compactions, 0);
        cr_assert_not(rig_object(&rig, "dead"));
        cr_assert_eq(rig_get(&rig, "live"), 0);
    }
    cr_assert_leq(rig_file_count(&rig, ".log"), 2);
    rig_fini(&rig);
}

/* ---- segments ---- */

Test(disk, a_given_up_segment_stays_gone)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(rig_put(&rig, "other", 10), 0);
    struct segment *first = disk_segment_next(rig.disk, NULL);
    cr_assert_not(segment_busy(first));
    cr_assert(segment_sealed(first));
    cr_assert_str_eq(segment_path(first), "test/node1/0000000000000001.seg");
    cr_assert(segment_busy(disk_segment_next(rig.disk, first)));
    uint64_t used = rig_figures(&rig).used_bytes;
    uint64_t bytes = segment_bytes(first);
    cr_assert_eq(rig_give_up(&rig, first), 0);
    cr_assert_eq(rig_figures(&rig).used_bytes, used - bytes);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 1);
    rig_reopen(&rig);
    cr_assert_eq(rig.object_count, 1);
    cr_assert_eq(rig_get(&rig, "other"), 0);
    rig_fini(&rig);
}

static void nothing_killed(struct disk_kill *kill, int err)
{
    struct kill_one *one = CONTAINER_OF(kill, struct kill_one, kill);
    one->err = err;
    one->done = true;
}

Test(disk, a_kill_of_a_segment_outlives_the_process)
{
    struct rig rig, copy;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    cr_assert_eq(rig_seal(&rig), 0);
    struct kill_one one = {0};
    struct segment *first = disk_segment_next(rig.disk, NULL);
    cr_assert_eq(disk_segment_kill_start(rig.disk, &one.kill, first, nothing_killed), 0);
    cr_assert(segment_busy(first));
    rig_until(&rig, flag, &one.done);
    cr_assert_eq(one.err, 0);
    /* Killed, not unlinked yet, and then the power goes. */
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    rig_settle(&copy);
    cr_assert_eq(copy.object_count, 0);
    cr_assert_eq(rig_file_count(&copy, ".seg"), 0);
    cr_assert_eq(rig_figures(&copy).used_bytes, 0);
    rig_fini(&copy);
    rig_fini(&rig);
}

Test(disk, a_read_outlives_the_segment)
{
    struct rig rig;
    rig_init(&rig);
    rig.segment_bytes = 4 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 2 << 20), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    struct segment *segment = rig_object(&rig, "k")->where.segment;
    struct kill_one kill = {0};
    cr_assert_eq(disk_segment_kill_start(rig.disk, &kill.kill, segment, nothing_killed), 0);
    rig_until(&rig, flag, &kill.done);
    struct rig_read read;
    rig_read_start(&rig, &read, "k", 0, 2 << 20);
    rig_forget(&rig, "k");
    disk_segment_unlink(rig.disk, segment);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 1);
    cr_assert_eq(rig_read_end(&read), 0);
    while (rig.gone_calls == 0)
        rig_turns(&rig, 1);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 0);
    rig_fini(&rig);
}

Test(disk, a_large_record_gets_a_segment_of_its_own)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "small", 1000), 0);
    cr_assert_eq(rig_put(&rig, "large", 20 << 20), 0);
    cr_assert_eq(rig_put(&rig, "small2", 1000), 0);
    rig_settle(&rig);
    cr_assert_neq(rig_object(&rig, "large")->where.segment, rig_object(&rig, "small")->where.segment);
    cr_assert_lt(rig_figures(&rig).used_bytes, 22 << 20);
    cr_assert_eq(rig_get(&rig, "large"), 0);
    rig_reopen(&rig);
    cr_assert_eq(rig_get(&rig, "large"), 0);
    cr_assert_eq(rig_get(&rig, "small"), 0);
    cr_assert_eq(rig_get(&rig, "small2"), 0);
    rig_fini(&rig);
}

/* ---- the limit ---- */

Test(disk, the_limit_is_never_exceeded, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    rig.limit_bytes = 4 << 20;
    rig.give_up = true;
    cr_assert_eq(rig_open(&rig), 0);
    char key[32];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(rig_put(&rig, key, 100000 + i), 0);
        cr_assert_leq(rig_figures(&rig).used_bytes, rig.limit_bytes);
        cr_assert_leq(rig_files_bytes(&rig, ""), rig.limit_bytes);
    }
    cr_assert_gt(rig.full_calls, 0);
    cr_assert_gt(rig.gone_calls, 10);
    /* The oldest went, the newest are there. */
    cr_assert_not(rig_object(&rig, "key-0"));
    cr_assert_eq(rig_get(&rig, "key-199"), 0);
    cr_assert_gt(rig.object_count, 15);
    rig_reopen(&rig);
    cr_assert_leq(rig_figures(&rig).used_bytes, rig.limit_bytes);
    cr_assert_gt(rig.object_count, 15);
    cr_assert_not(rig_object(&rig, "key-0"));
    rig_fini(&rig);
}

Test(disk, full_with_nothing_to_give_up)
{
    struct rig rig;
    rig_init(&rig);
    rig.limit_bytes = 2 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    int err = 0;
    char key[32];
    for (unsigned i = 0; i < 40 && !err; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        err = rig_put(&rig, key, 100000);
    }
    cr_assert_eq(err, KVD_EFULL);
    cr_assert_eq(rig.full_calls, 1);
    cr_assert_eq(rig_put(&rig, "huge", 3 << 20), KVD_ETOOLARGE);
    cr_assert_eq(rig_get(&rig, "key-0"), 0);
    rig_fini(&rig);
}

/* ---- the queue ---- */

Test(disk, a_queued_write_can_be_taken_back)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    struct rig_write *kept = rig_write_start(&rig, "kept", disk_next_version(rig.disk), 1000);
    struct rig_write *taken = rig_write_start(&rig, "taken", disk_next_version(rig.disk), 1000);
    cr_assert_gt(disk_queued_bytes(rig.disk), 2000);
    cr_assert(disk_write_cancel(rig.disk, &taken->write));
    rig_until(&rig, flag, &kept->done);
    cr_assert_eq(kept->err, 0);
    cr_assert_not(taken->done);
    cr_assert_not(disk_write_cancel(rig.disk, &kept->write));
    cr_assert_eq(disk_queued_bytes(rig.disk), 0);
    rig_write_free(kept);
    rig_write_free(taken);
    rig_reopen(&rig);
    cr_assert_eq(rig.object_count, 1);
    rig_fini(&rig);
}

enum { BURST = 300 };

Test(disk, a_burst_is_written_in_full, .timeout = 60)
{
    struct rig rig, copy;
    rig_init(&rig);
    rig.segment_bytes = 8 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    struct rig_write *writes[BURST];
    uint64_t bytes = 0;
    for (unsigned i = 0; i < BURST; i++) {
        char key[32];
        snprintf(key, sizeof key, "burst-%u", i);
        writes[i] = rig_write_start(&rig, key, disk_next_version(rig.disk), 1 + i * 400);
        bytes += writes[i]->write.bytes;
    }
    cr_assert_eq(disk_queued_bytes(rig.disk), bytes);
    for (unsigned i = 0; i < BURST; i++) {
        rig_until(&rig, flag, &writes[i]->done);
        cr_assert_eq(writes[i]->err, 0);
        rig_write_free(writes[i]);
    }
    cr_assert_eq(disk_queued_bytes(rig.disk), 0);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_eq(copy.object_count, BURST);
    for (unsigned i = 0; i < BURST; i++) {
        char key[32];
        snprintf(key, sizeof key, "burst-%u", i);
        cr_assert_eq(rig_get(&copy, key), 0);
    }
    rig_fini(&copy);
    rig_fini(&rig);
}

/* ---- indexes ---- */

Test(disk, a_restart_reads_indexes_not_data, .timeout = 60)
{
    struct rig rig, copy;
    rig_init(&rig);
    rig.limit_bytes = 256 << 20;
    rig.segment_bytes = 64 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    char key[32];
    for (unsigned i = 0; i < 42; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(rig_put(&rig, key, 1 << 20), 0);
    }
    rig_settle(&rig);
    cr_assert_eq(rig_figures(&rig).index_writes, 2);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_eq(copy.object_count, 42);
    /* 16 MiB are 16 records and a bit: two indexes name 32, the rest was walked. */
    cr_assert_eq(rig_figures(&copy).recovered_walked, 10);
    for (unsigned i = 0; i < 42; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(rig_get(&copy, key), 0);
    }
    rig_reopen(&copy);
    cr_assert_eq(copy.object_count, 42);
    cr_assert_eq(rig_figures(&copy).recovered_walked, 0);
    rig_fini(&copy);
    rig_fini(&rig);
}

/* ---- durability ---- */

struct order {
    struct rig *rig;
    struct rig_write *writes[8];
    struct disk_sync sync;
    bool done;
    int err;
};

static void ordered_sync_done(struct disk_sync *sync, int err)
{
    struct order *order = CONTAINER_OF(sync, struct order, sync);
    for (unsigned i = 0; i < 8; i++)
        if (!order->writes[i]->done)
            err = 1;
    order->err = err;
    order->done = true;
}

Test(disk, a_sync_waits_for_all_before_it)
{
    struct rig rig;
    rig_init(&rig);
    rig.segment_bytes = 32 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    struct order order = {.rig = &rig};
    for (unsigned i = 0; i < 8; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", i);
        order.writes[i] = rig_write_start(&rig, key, disk_next_version(rig.disk), i == 7 ? 10 : 2 << 20);
    }
    rig_until(&rig, flag, &order.writes[7]->done);
    cr_assert_eq(disk_sync_start(rig.disk, &order.sync, &order.writes[7]->write.where, ordered_sync_done), 0);
    rig_until(&rig, flag, &order.done);
    cr_assert_eq(order.err, 0);
    for (unsigned i = 0; i < 8; i++)
        rig_write_free(order.writes[i]);
    rig_fini(&rig);
}

struct many_syncs {
    struct disk_sync sync;
    unsigned *left;
    int err;
};

static void one_of_many(struct disk_sync *sync, int err)
{
    struct many_syncs *one = CONTAINER_OF(sync, struct many_syncs, sync);
    one->err = err;
    --*one->left;
}

static bool none_left(void *arg)
{
    return *(unsigned *)arg == 0;
}

Test(disk, who_waits_shares_one_fsync)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 1000), 0);
    uint64_t before = rig_figures(&rig).syncs;
    struct many_syncs syncs[50];
    unsigned left = 50;
    for (unsigned i = 0; i < 50; i++) {
        syncs[i].left = &left;
        cr_assert_eq(disk_sync_start(rig.disk, &syncs[i].sync, &rig_object(&rig, "k")->where, one_of_many), 0);
    }
    rig_until(&rig, none_left, &left);
    for (unsigned i = 0; i < 50; i++)
        cr_assert_eq(syncs[i].err, 0);
    cr_assert_eq(rig_figures(&rig).syncs, before + 1);
    cr_assert_eq(rig_sync(&rig, "k"), 0);
    cr_assert_eq(rig_sync_all(&rig), 0);
    cr_assert_eq(rig_figures(&rig).syncs, before + 1, "it is synced already");
    rig_fini(&rig);
}

Test(disk, sync_all_and_seal)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_sync_all(&rig), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    put_some(&rig);
    cr_assert_eq(rig_sync_all(&rig), 0);
    cr_assert_eq(rig_figures(&rig).syncs, 1);
    struct segment *segment = rig_object(&rig, "a")->where.segment;
    cr_assert_not(segment_sealed(segment));
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert(segment_sealed(segment));
    cr_assert_lt(rig_files_bytes(&rig, ".seg"), 100000);
    cr_assert_eq(rig_figures(&rig).used_bytes, rig_files_bytes(&rig, ".seg"));
    cr_assert_eq(rig_get(&rig, "a"), 0);
    cr_assert_eq(rig_sync(&rig, "a"), 0);
    rig_fini(&rig);
}

/* ---- versions ---- */

Test(disk, versions_only_grow)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    uint64_t last = disk_next_version(rig.disk);
    for (unsigned restart = 0; restart < 3; restart++) {
        /* Past the ceiling and more: writes and kills wait until it is raised. */
        for (unsigned i = 0; i < 3000000; i++) {
            uint64_t version = disk_next_version(rig.disk);
            cr_assert_gt(version, last);
            last = version;
        }
        cr_assert_eq(rig_put(&rig, "k", 10), 0);
        cr_assert_eq(rig_kill(&rig, KILL_KEY, "other"), 0);
        last = disk_next_version(rig.disk);
        cr_assert(!disk_versions_jumped(rig.disk) || restart > 0);
        struct rig copy;
        rig_init_copy(&copy, &rig);
        cr_assert_eq(rig_open(&copy), 0);
        cr_assert_gt(disk_next_version(copy.disk), last, "after kill -9");
        cr_assert_eq(rig_get(&copy, "k"), 0);
        rig_fini(&copy);
        rig_reopen(&rig);
    }
    rig_fini(&rig);
}

Test(disk, a_clock_that_went_back)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_close(&rig);
    char path[600];
    struct node_state state = {.generation = 1000, .ceiling = (uint64_t)1 << 62};
    uint8_t at[NODE_FILE_BYTES];
    node_file_build(at, span_text("node1"), span_text("test"), &state);
    cr_assert(rig_file(&rig, "node", 0, path, sizeof path));
    rig_file_store(path, at, sizeof at);
    rig_open_start(&rig);
    uint64_t early = disk_next_version(rig.disk);
    while (rig.recovered == 0)
        rig_turns(&rig, 1);
    cr_assert(disk_versions_jumped(rig.disk));
    cr_assert_lt(early, state.ceiling);
    cr_assert_gt(disk_next_version(rig.disk), state.ceiling);
    rig_fini(&rig);
}

/* ---- the folder ---- */

Test(disk, one_process_at_a_time)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    struct rig other;
    rig_init(&other);
    snprintf(other.dir, sizeof other.dir, "%s", rig.dir);
    cr_assert_eq(rig_open(&other), -EWOULDBLOCK);
    cr_assert_eq(disk_state(other.disk), DISK_OFF);
    cr_assert_neq(strlen(disk_off_reason(other.disk)), 0);
    cr_assert_eq(rig_logged(&other, "disk_off"), 1);
    cr_assert_eq(rig_put(&other, "k", 10), KVD_EOFF);
    cr_assert_eq(rig_kill(&other, KILL_KEY, "k"), KVD_EOFF);
    cr_assert_eq(rig_sync_all(&other), KVD_EOFF);
    rig_fini(&other);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_reopen(&rig);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_fini(&rig);
}

Test(disk, a_folder_that_others_can_write_is_refused)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(mkdir(rig.dir, 0700), 0);
    cr_assert_eq(chmod(rig.dir, 0770), 0);
    cr_assert_eq(rig_open(&rig), -EACCES);
    cr_assert_eq(rig_logged(&rig, "folder_open_to_others"), 1);
    rig_fini(&rig);
}

static void file_in_folder(const struct rig *rig, const char *name, char *path, size_t path_len)
{
    snprintf(path, path_len, "%s/test/node1/%s", rig->dir, name);
}

Test(disk, foreign_files_are_left_alone)
{
    static const char *const names[] = {"notes.txt", "0000000000000001.segx", "000000000000000G.seg", "1.seg", "removes-1.log", "x.tmp"};
    struct rig rig;
    char path[600];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_close(&rig);
    for (unsigned i = 0; i < 6; i++) {
        file_in_folder(&rig, names[i], path, sizeof path);
        rig_file_store(path, (const uint8_t *)"hello", 5);
    }
    static const char *const ours[] = {"node.tmp", "removes-00000000000000ff.log.tmp"};
    for (unsigned i = 0; i < 2; i++) {
        file_in_folder(&rig, ours[i], path, sizeof path);
        rig_file_store(path, (const uint8_t *)"torn", 4);
    }
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_figures(&rig).foreign_files, 6);
    cr_assert_eq(rig_logged(&rig, "foreign_file"), 6);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_close(&rig);
    for (unsigned i = 0; i < 6; i++) {
        file_in_folder(&rig, names[i], path, sizeof path);
        cr_assert_eq(access(path, F_OK), 0, "%s", names[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        file_in_folder(&rig, ours[i], path, sizeof path);
        cr_assert_neq(access(path, F_OK), 0, "%s", ours[i]);
    }
    rig_fini(&rig);
}

Test(disk, a_foreign_file_with_a_segments_name)
{
    struct rig rig;
    char path[600];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_close(&rig);
    file_in_folder(&rig, "00000000000000aa.seg", path, sizeof path);
    rig_file_store(path, (const uint8_t *)"hello", 5);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_figures(&rig).unreadable_segments, 1);
    cr_assert_eq(rig_figures(&rig).used_bytes, rig_files_bytes(&rig, ".seg"));
    cr_assert_eq(rig_get(&rig, "k"), 0);
    cr_assert_eq(rig_put(&rig, "k2", 10), 0);
    cr_assert(rig_file(&rig, "00000000000000ab.seg", 0, path, sizeof path), "new files have higher numbers");
    rig_close(&rig);
    file_in_folder(&rig, "00000000000000aa.seg", path, sizeof path);
    cr_assert_eq(access(path, F_OK), 0);
    rig_fini(&rig);
}

Test(disk, a_segment_of_a_newer_format)
{
    struct rig rig;
    char path[600];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k2", 10), 0);
    rig_close(&rig);
    cr_assert(rig_file(&rig, ".seg", 0, path, sizeof path));
    rig_file_flip(path, 4, 0x03); /* format 2 */
    uint64_t bytes = rig_files_bytes(&rig, ".seg");
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_figures(&rig).newer_segments, 1);
    cr_assert_eq(rig_logged(&rig, "segment_newer"), 1);
    cr_assert_eq(rig_figures(&rig).used_bytes, bytes);
    cr_assert_not(rig_object(&rig, "k"));
    cr_assert_eq(rig_get(&rig, "k2"), 0);
    /* What it may hold is unknown: no kill is forgotten, and it is never unlinked. */
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "k"), 0);
    rig_settle(&rig);
    rig_reopen(&rig);
    rig_settle(&rig);
    rig_close(&rig);
    rig_file_flip(path, 4, 0x03);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_not(rig_object(&rig, "k"), "killed while it could not be read");
    rig_fini(&rig);
}

static bool heap_is_out;
struct segment *__real_segment_new(struct disk *disk, uint64_t sequence, uint64_t full_bytes);
struct segment *__wrap_segment_new(struct disk *disk, uint64_t sequence, uint64_t full_bytes);

struct segment *__wrap_segment_new(struct disk *disk, uint64_t sequence, uint64_t full_bytes)
{
    return heap_is_out ? NULL : __real_segment_new(disk, sequence, full_bytes);
}

Test(disk, a_segment_that_a_start_had_no_heap_for)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "dead", 10), 0);
    cr_assert_eq(rig_put(&rig, "live", 10), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "dead"), 0);
    rig_close(&rig);
    heap_is_out = true;
    cr_assert_eq(rig_open(&rig), 0);
    rig_settle(&rig);
    heap_is_out = false;
    cr_assert_eq(rig_figures(&rig).unreadable_segments, 1);
    cr_assert_eq(rig_logged(&rig, "segment_unreadable"), 1);
    cr_assert_gt(rig_figures(&rig).log_compactions, 0);
    rig_reopen(&rig);
    cr_assert_eq(rig_get(&rig, "live"), 0);
    cr_assert_not(rig_object(&rig, "dead"), "its kill was dropped while nobody knew what is in the segment");
    rig_fini(&rig);
}

Test(disk, the_node_file)
{
    struct rig rig;
    char path[600];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_close(&rig);
    cr_assert(rig_file(&rig, "node", 0, path, sizeof path));
    rig_file_flip(path, 20, 1);
    cr_assert_eq(rig_open(&rig), 0, "one copy is enough");
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_close(&rig);
    rig_file_flip(path, 20, 1);
    rig_file_flip(path, 4096 + 20, 1);
    cr_assert_eq(rig_open(&rig), KVD_ECORRUPT);
    cr_assert_eq(disk_state(rig.disk), DISK_OFF);
    rig_close(&rig);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(rig_open(&rig), KVD_ECORRUPT, "files without a node file");
    rig_close(&rig);
    struct node_state state = {.generation = 1000, .ceiling = (uint64_t)1 << 62};
    uint8_t at[NODE_FILE_BYTES];
    node_file_build(at, span_text("node2"), span_text("test"), &state);
    rig_file_store(path, at, sizeof at);
    cr_assert_eq(rig_open(&rig), KVD_EFORMAT, "another node's");
    rig_fini(&rig);
}

Test(disk, both_copies_of_a_kill_damaged)
{
    struct rig rig;
    char path[600];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "a"), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "b"), 0);
    rig_close(&rig);
    cr_assert(rig_file(&rig, ".log", 0, path, sizeof path));
    size_t len;
    uint8_t *log = rig_file_load(path, &len);
    cr_assert_eq(len, 80 + 4 * (56 + 12 + 1));
    rig_file_flip(path, 80 + 60, 1);
    cr_assert_eq(rig_open(&rig), 0, "one copy is enough");
    cr_assert_not(rig_object(&rig, "a"));
    rig_close(&rig);
    rig_file_store(path, log, len);
    free(log);
    rig_file_flip(path, 80 + 60, 1);
    rig_file_flip(path, 80 + 69 + 60, 1);
    cr_assert_eq(rig_open(&rig), KVD_ECORRUPT);
    cr_assert_eq(rig_logged(&rig, "disk_off"), 1);
    cr_assert_eq(rig.found_calls, 0);
    rig_fini(&rig);
}

Test(disk, a_flipped_byte_in_the_remove_log, .timeout = 120)
{
    struct rig rig;
    char path[600];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "a"), 0);
    cr_assert_eq(rig_kill(&rig, KILL_PREFIX, "pre/"), 0);
    rig_close(&rig);
    cr_assert(rig_file(&rig, ".log", 0, path, sizeof path));
    size_t len;
    uint8_t *log = rig_file_load(path, &len);
    for (size_t i = 0; i < len; i += 5) {
        log[i] ^= 0x20;
        rig_file_store(path, log, len);
        cr_assert_eq(rig_open(&rig), 0, "byte %zu", i);
        cr_assert_eq(rig.object_count, 2, "byte %zu", i);
        cr_assert(rig_object(&rig, "b") && rig_object(&rig, "prefix"));
        rig_close(&rig);
        log[i] ^= 0x20;
    }
    free(log);
    rig_fini(&rig);
}

/* ---- steps ---- */

static uint64_t summed_now, summed_most; /* bytes in this turn; in any */

uint64_t __real_blob_range_sum(const struct blob *blob, uint64_t offset, uint64_t length);
uint64_t __wrap_blob_range_sum(const struct blob *blob, uint64_t offset, uint64_t length);
uint64_t __wrap_blob_range_sum(const struct blob *blob, uint64_t offset, uint64_t length)
{
    summed_now += length;
    summed_most = summed_now > summed_most ? summed_now : summed_most;
    return __real_blob_range_sum(blob, offset, length);
}

static void next_turn(struct task *task)
{
    summed_now = 0;
    task_post(task);
}

/* Others have their turn while a large value is judged. */
Test(disk, what_was_read_is_judged_in_steps)
{
    struct rig rig;
    struct task task;
    char path[500];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", (6 << 20) + 5), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    task_init(&task, rig.loop, next_turn);
    task_post(&task);
    summed_most = 0;
    cr_assert_eq(rig_get(&rig, "k"), 0);
    cr_assert(summed_most > 0 && summed_most <= MIB, "%lu bytes in one turn", (unsigned long)summed_most);
    cr_assert_eq(rig_get_range(&rig, "k", MIB, 3 << 20), 0);
    cr_assert_leq(summed_most, MIB);
    cr_assert_gt(rig_figures(&rig).longest_judge_us, 0);
    cr_assert(rig_file(&rig, ".seg", 0, path, sizeof path));
    rig_file_flip(path, rig_object(&rig, "k")->where.block * 4096ul + (6 << 20), 1); /* in the last step but one */
    cr_assert_eq(rig_get(&rig, "k"), KVD_ECORRUPT);
    cr_assert_eq(rig_get_range(&rig, "k", 0, 4 << 20), 0);
    task_cancel(&task);
    rig_fini(&rig);
}

/* ---- start and end ---- */

Test(disk, what_comes_while_it_opens_waits)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    rig_close(&rig);
    rig_open_start(&rig);
    cr_assert_eq(disk_state(rig.disk), DISK_OPENING);
    cr_assert_str_eq(disk_state_name(rig.disk), "opening");
    struct rig_write *write = rig_write_start(&rig, "early", disk_next_version(rig.disk), 5000);
    struct kill_one kill = {.kill = {KILL_KEY, span_text("a"), .version = disk_next_version(rig.disk)}};
    cr_assert_eq(disk_kill_start(rig.disk, &kill.kill, nothing_killed), 0);
    cr_assert(disk_kill_pending(rig.disk, span_text("a")));
    rig_until(&rig, flag, &write->done);
    rig_until(&rig, flag, &kill.done);
    while (rig.recovered == 0)
        rig_turns(&rig, 1);
    cr_assert_eq(write->err, 0);
    cr_assert_eq(kill.err, 0);
    cr_assert_not(rig_object(&rig, "a"), "killed before it was found");
    cr_assert_eq(rig_get(&rig, "b"), 0);
    rig_write_free(write);
    rig_reopen(&rig);
    cr_assert_not(rig_object(&rig, "a"));
    cr_assert(rig_object(&rig, "early"));
    rig_fini(&rig);
}

Test(disk, closing_while_it_opens)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_some(&rig);
    rig_close(&rig);
    rig_open_start(&rig);
    struct rig_write *write = rig_write_start(&rig, "early", disk_next_version(rig.disk), 5000);
    rig_close(&rig);
    cr_assert(write->done);
    cr_assert_eq(write->err, 0);
    rig_write_free(write);
    rig_open_start(&rig);
    write = rig_write_start(&rig, "early2", disk_next_version(rig.disk), 5000);
    rig_close_abandon(&rig);
    cr_assert_eq(write->err, KVD_ECLOSING);
    rig_write_free(write);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig.object_count, 6);
    cr_assert(rig_object(&rig, "early"));
    rig_fini(&rig);
}

static void set_flag(void *arg)
{
    *(bool *)arg = true;
}

enum { MANY_LARGE = 20 };

struct many_large {
    struct rig *rig;
    struct rig_write *writes[MANY_LARGE];
    struct task watch;
    uint64_t most; /* operations in flight */
};

static void many_large_watch(struct task *task)
{
    struct many_large *large = CONTAINER_OF(task, struct many_large, watch);
    struct file_counts counts;
    loop_file_counts(large->rig->loop, &counts);
    if (counts.in_flight > large->most)
        large->most = counts.in_flight;
    task_post(task);
}

static bool many_large_written(void *arg)
{
    struct many_large *large = arg;
    for (unsigned i = 0; i < MANY_LARGE; i++)
        if (!large->writes[i]->done)
            return false;
    return true;
}

Test(disk, records_wait_once_8_mib_of_them_are_under_way)
{
    struct rig rig;
    rig_init(&rig);
    rig.segment_bytes = 64 << 20;
    rig.limit_bytes = 256 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    struct many_large large = {.rig = &rig};
    task_init(&large.watch, rig.loop, many_large_watch);
    task_post(&large.watch);
    for (unsigned i = 0; i < MANY_LARGE; i++) {
        char key[32];
        snprintf(key, sizeof key, "large-%u", i);
        large.writes[i] = rig_write_start(&rig, key, disk_next_version(rig.disk), 1 << 20);
    }
    rig_until(&rig, many_large_written, &large);
    task_cancel(&large.watch);
    cr_assert_leq(large.most, 9); /* one more may be an index */
    for (unsigned i = 0; i < MANY_LARGE; i++) {
        cr_assert_eq(large.writes[i]->err, 0);
        rig_write_free(large.writes[i]);
    }
    rig_close(&rig);
    rig_fini(&rig);
}

Test(disk, small_records_go_together)
{
    enum { SMALL = 200 };
    struct rig rig, copy;
    struct file_counts before, after;
    struct rig_write *writes[SMALL];
    rig_init(&rig);
    rig.segment_bytes = 32 << 20; /* so that no index comes between */
    rig.limit_bytes = 256 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "first", 10), 0);
    rig_settle(&rig);
    loop_file_counts(rig.loop, &before);
    for (unsigned i = 0; i < SMALL; i++) {
        char key[32];
        snprintf(key, sizeof key, "small-%u", i);
        writes[i] = rig_write_start(&rig, key, disk_next_version(rig.disk), 50 * i);
    }
    for (unsigned i = 0; i < SMALL; i++)
        rig_until(&rig, flag, &writes[i]->done);
    loop_file_counts(rig.loop, &after);
    uint64_t bytes = after.written_bytes - before.written_bytes;
    cr_assert_leq(after.writes - before.writes, 2 * bytes / (1 << 20) + 1, "not half full: %lu operations for %lu bytes",
                  (unsigned long)(after.writes - before.writes), (unsigned long)bytes);
    cr_assert_eq(rig_figures(&rig).writes, 1 + SMALL);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    for (unsigned i = 0; i < SMALL; i++) {
        cr_assert_eq(writes[i]->err, 0);
        cr_assert_eq(rig_get(&copy, writes[i]->key), 0, "%s", writes[i]->key);
        rig_write_free(writes[i]);
    }
    rig_fini(&copy);
    rig_fini(&rig);
}

Test(disk, closing_finishes_what_is_queued)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    struct rig_write *writes[100];
    for (unsigned i = 0; i < 100; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        writes[i] = rig_write_start(&rig, key, disk_next_version(rig.disk), 50000);
    }
    struct kill_one kill = {.kill = {KILL_KEY, span_text("x"), .version = disk_next_version(rig.disk)}};
    cr_assert_eq(disk_kill_start(rig.disk, &kill.kill, nothing_killed), 0);
    bool closed = false;
    disk_close(rig.disk, false, set_flag, &closed);
    struct disk_write refused = {.key = span_text("late"), .blob = writes[0]->write.blob};
    cr_assert_eq(disk_write_start(rig.disk, &refused, NULL), KVD_ECLOSING);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "x"), KVD_ECLOSING);
    cr_assert_eq(rig_sync_all(&rig), KVD_ECLOSING);
    rig_until(&rig, flag, &closed);
    cr_assert(kill.done && kill.err == 0);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert(writes[i]->done && writes[i]->err == 0);
        rig_write_free(writes[i]);
    }
    disk_free(rig.disk);
    rig.disk = NULL;
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig.object_count, 100);
    cr_assert_eq(rig_figures(&rig).recovered_walked, 0);
    rig_fini(&rig);
}

Test(disk, no_directory_no_tier)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    rig_close(&rig);
    struct disk_config config = {.cluster = "c", .node = "n", .limit_bytes = GIB, .segment_bytes = MIB};
    struct disk_events events = {0};
    cr_assert_eq(disk_new(&rig.disk, rig.loop, &rig.log, &config, &events, NULL), 0);
    cr_assert_eq(disk_state(rig.disk), DISK_OFF);
    cr_assert_eq(rig_kill(&rig, KILL_ALL, ""), KVD_EOFF);
    cr_assert_lt(disk_next_version(rig.disk), disk_next_version(rig.disk));
    rig_fini(&rig);
}
