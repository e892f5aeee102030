/* A store of a cluster over a disk tier that does only what the test says: versions and deaths come from the keys' owners. */
#include "test/support/store_bench.h"

enum { SMALL = 5000, MEDIUM = 300 * 1024, PAST_SYNC_MS = 300 };

/* ---- what was told ---- */

enum { TOLD_MOST = 256 };
static struct told {
    struct store_holding holding;
    char key[64];
} told[TOLD_MOST];
static unsigned told_count;
static unsigned events;
static bool told_lost;

static void holding_told(void *arg, const struct store_holding *holding)
{
    (void)arg;
    cr_assert_lt(told_count, TOLD_MOST);
    struct told *at = &told[told_count++];
    at->holding = *holding;
    cr_assert_lt(holding->key.len, sizeof at->key);
    memcpy(at->key, holding->key.at, holding->key.len);
    at->key[holding->key.len] = '\0';
}

static void on_changed(void *arg)
{
    cr_assert_eq(arg, &bench);
    events++;
}

/* All that has changed by now. */
static unsigned take_changes(void)
{
    settle();
    told_count = 0;
    unsigned count = store_changes(bench.store, TOLD_MOST, &told_lost, holding_told, NULL);
    cr_assert_eq(count, told_count);
    return count;
}

static unsigned walk(uint32_t limit)
{
    uint64_t cursor = 0;
    told_count = 0;
    do {
        cursor = store_walk(bench.store, cursor, limit, holding_told, NULL);
    } while (cursor != 0);
    return told_count;
}

static const struct store_holding *told_of(const char *key)
{
    const struct store_holding *found = NULL;
    for (unsigned i = 0; i < told_count; i++) {
        if (strcmp(told[i].key, key) != 0)
            continue;
        cr_assert_null(found, "%s is told twice", key);
        found = &told[i].holding;
    }
    cr_assert_not_null(found, "%s is not told", key);
    return found;
}

static void begin_with(struct store_config *config)
{
    static const struct store_events store_events = {.opened = bench_opened, .recovered = bench_recovered, .changed = on_changed};
    config->in_cluster = true;
    events = told_count = 0;
    bench_begin_with(config, &store_events);
}

static void begin_on(struct store_config *config)
{
    begin_with(config);
    fake_opened(bench.disk, 0, 0);
    fake_recovered(bench.disk);
}

static void begin(enum persist persist)
{
    struct store_config config = bench_config();
    config.persist = persist;
    begin_on(&config);
}

static void end(void)
{
    struct removing removing = {.outcome = NOT_ENDED};
    drain();
    cr_assert_eq(store_forget_start(&bench.store->home, &removing.remove, remove_ended), STORE_PENDING);
    settle();
    cr_assert_eq(removing.outcome, STORE_OK);
    struct store_info now = info();
    cr_assert_eq(now.memory_used_bytes + now.memory_blobs + now.inflight_bytes + now.held_memory_only_bytes + now.table.objects, 0);
    cr_assert_eq(bench.store->pinning, 0);
    bench_close();
}

/* ---- puts ---- */

static void seal_ok(struct put *put, const char *key, unsigned flags, uint64_t number, uint64_t size)
{
    cr_assert_eq(put_begin(put, key, flags, number, size), STORE_OK);
    cr_assert_eq(put_feed(put, size), 0);
    cr_assert_eq(store_put_seal(&put->put), STORE_OK);
}

static int show(struct put *put, uint64_t version)
{
    int outcome = store_put_show(&put->put, version, put_ended);
    if (outcome != STORE_PENDING)
        put_ended(&put->put, outcome);
    return outcome;
}

static void show_ok(const char *key, uint64_t number, uint64_t size, uint64_t version)
{
    struct put put;
    seal_ok(&put, key, 0, number, size);
    cr_assert_eq(show(&put, version), STORE_OK);
    cr_assert(put.put.shown && put.put.version == version);
}

static void show_on_both(const char *key, uint64_t number, uint64_t size, uint64_t version)
{
    struct put put;
    seal_ok(&put, key, ACK_DISK, number, size);
    cr_assert_eq(show(&put, version), STORE_PENDING);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    cr_assert_eq(where_is(key), IN_MEMORY | ON_DISK);
}

static void forget(const char *key, uint64_t version)
{
    struct span span = span_text(key);
    store_forget_versions(bench.store, &span, &version, 1);
}

static int get_version(struct get *get, const char *key, uint64_t wanted)
{
    *get = (struct get){.outcome = NOT_ENDED};
    get->get.key = span_text(key);
    get->get.length = UINT64_MAX;
    get->get.wanted = wanted;
    int outcome = store_get_start(&bench.store->home, &get->get, get_ended);
    if (outcome != STORE_PENDING)
        get_ended(&get->get, outcome);
    return outcome;
}

Test(store_cluster, a_sealed_put_is_seen_when_it_is_shown_and_as_what_it_is_shown)
{
    begin(PERSIST_NONE);
    struct put put;
    seal_ok(&put, "a", 0, 7, MEDIUM);
    cr_assert_eq(put.put.size, MEDIUM);
    expect_miss("a");
    struct get get;
    cr_assert_eq(get_version(&get, "a", 5), STORE_MISS);
    cr_assert(get.get.awaited);
    cr_assert_eq(get_version(&get, "b", 5), STORE_MISS);
    cr_assert_not(get.get.awaited);
    cr_assert_eq(show(&put, 123456), STORE_OK);
    expect_value("a", 7, MEDIUM);
    cr_assert_eq(stat_of("a").version, 123456);
    cr_assert_eq(stat_of("a").checksum, put.put.checksum);
    uint64_t next;
    cr_assert_eq(store_next_version(bench.store, &next), 0);
    cr_assert_gt(next, 123456);
    cr_assert_eq(bench.disk->kills_started, 0);
    end();
}

Test(store_cluster, whether_a_key_is_present_is_not_the_stores_to_say)
{
    begin(PERSIST_NONE);
    show_ok("a", 1, SMALL, 2000);
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 2, SMALL), STORE_OK);
    cr_assert_eq(put_feed(&put, SMALL), 0);
    cr_assert_eq(store_put_seal(&put.put), STORE_OK);
    expect_value("a", 1, SMALL);
    cr_assert_eq(show(&put, 2001), STORE_OK);
    expect_value("a", 2, SMALL);
    cr_assert_eq(info().figures.puts_replaced, 1);
    end();
}

Test(store_cluster, a_sealed_put_that_is_given_up_leaves_nothing)
{
    begin(PERSIST_NONE);
    struct put put;
    seal_ok(&put, "a", PIN, 7, MEDIUM);
    cr_assert_gt(bench.store->pinning, 0);
    cr_assert_gt(info().inflight_bytes, 0); /* it is bounded like one under way */
    store_put_abort(&put.put);
    store_put_abort(&put.put);
    cr_assert_eq(bench.store->pinning, 0);
    cr_assert_eq(info().memory_used_bytes + info().inflight_bytes + info().memory_blobs, 0);
    struct get get;
    cr_assert_eq(get_version(&get, "a", 5), STORE_MISS);
    cr_assert_not(get.get.awaited);
    end();
}

Test(store_cluster, other_bytes_than_were_announced_are_not_sealed)
{
    begin(PERSIST_NONE);
    struct put put;
    cr_assert_eq(put_begin(&put, "a", 0, 7, SMALL), STORE_OK);
    put.put.has_checksum = true;
    put.put.checksum = 12345;
    cr_assert_eq(put_feed(&put, SMALL), 0);
    cr_assert_eq(store_put_seal(&put.put), KVD_ECORRUPT);
    cr_assert_eq(info().memory_used_bytes + info().inflight_bytes, 0);
    end();
}

Test(store_cluster, a_put_that_was_overtaken_is_dropped_in_silence)
{
    begin(PERSIST_WRITE_THROUGH);
    struct put old, same;
    seal_ok(&old, "a", ACK_DISK, 1, SMALL);
    seal_ok(&same, "a", 0, 3, SMALL);
    show_ok("a", 2, SMALL, 5001);
    cr_assert_eq(show(&old, 5000), STORE_OK);
    cr_assert_not(old.put.shown);
    cr_assert_eq(show(&same, 5001), STORE_OK);
    cr_assert_not(same.put.shown);
    expect_value("a", 2, SMALL);
    cr_assert_eq(stat_of("a").version, 5001);
    cr_assert_eq(bench.disk->writes_started, 1);
    cr_assert_eq(info().figures.puts, 1);
    end();
}

Test(store_cluster, a_put_that_was_forgotten_before_it_is_shown_is_not)
{
    begin(PERSIST_NONE);
    struct put put, newer;
    seal_ok(&put, "a", 0, 1, SMALL);
    seal_ok(&newer, "a", 0, 2, SMALL);
    forget("a", 5000);
    forget("b", 9000);
    cr_assert_eq(show(&put, 5000), STORE_OK);
    cr_assert_not(put.put.shown);
    expect_miss("a");
    cr_assert_eq(show(&newer, 5001), STORE_OK);
    expect_value("a", 2, SMALL);
    end();
}

Test(store_cluster, what_cannot_be_shown_is_dropped)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    begin_with(&config);
    struct put early, wild;
    seal_ok(&early, "a", 0, 1, SMALL);
    cr_assert_eq(show(&early, 5000), KVD_EBUSY); /* the counter is not known */
    uint64_t version;
    cr_assert_eq(store_next_version(bench.store, &version), KVD_EBUSY);
    cr_assert_eq(store_raise_version(bench.store, 77777), KVD_EBUSY);
    fake_opened(bench.disk, 0, 0);
    fake_recovered(bench.disk);
    seal_ok(&wild, "a", 0, 1, SMALL);
    cr_assert_eq(show(&wild, UINT64_MAX), KVD_EUSAGE);
    expect_miss("a");
    cr_assert_eq(store_raise_version(bench.store, 77777), 0);
    cr_assert_eq(store_next_version(bench.store, &version), 0);
    cr_assert_gt(version, 77777);
    cr_assert_eq(info().memory_used_bytes + info().inflight_bytes, 0);
    end();
}

Test(store_cluster, a_shown_value_is_on_disk_when_that_was_asked_for)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    cr_assert(fake_is_safe(bench.disk, span_text("a"), stat_of("a").checksum));
    struct put put;
    seal_ok(&put, "a", ACK_DISK, 2, SMALL);
    cr_assert_eq(show(&put, 5001), STORE_PENDING);
    expect_value("a", 2, SMALL); /* everybody sees it meanwhile */
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    forget("a", 5001);
    fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 0), 0);
    cr_assert_eq(put.outcome, STORE_OK); /* put, and removed */
    expect_miss("a");
    seal_ok(&put, "a", ACK_DISK, 3, SMALL);
    cr_assert_eq(show(&put, 5002), STORE_PENDING);
    for (unsigned i = 0; i < 1; i++)
        fake_write_end(bench.disk, fake_write_at(&bench.disk->queue, 0), -EIO);
    cr_assert_eq(put.outcome, -EIO);
    cr_assert(put.put.shown);
    expect_value("a", 3, SMALL);
    cr_assert_eq(bench.disk->kills_started, 0);
    end();
}

Test(store_cluster, a_value_ends_when_the_put_says)
{
    begin(PERSIST_NONE);
    struct put put;
    seal_ok(&put, "a", 0, 1, SMALL);
    put.put.expires_ms = loop_wall_ms(bench.loop) + 3600 * 1000;
    uint64_t expires_ms = put.put.expires_ms;
    cr_assert_eq(show(&put, 5000), STORE_OK);
    cr_assert(stat_of("a").mortal);
    cr_assert_eq(walk(10), 1);
    cr_assert_leq(told_of("a")->expires_ms, expires_ms + 1);
    cr_assert_geq(told_of("a")->expires_ms + 1, expires_ms);
    seal_ok(&put, "b", 0, 1, SMALL);
    put.put.expires_ms = 1;
    cr_assert_eq(show(&put, 5001), STORE_OK);
    expect_miss("b");
    cr_assert_eq(take_changes(), 1);
    const struct store_holding *holding = told_of("b");
    cr_assert(holding->version == 5001 && !holding->in_memory && !holding->on_disk && !holding->unsure);
    end();
}

/* ---- gets ---- */

Test(store_cluster, a_get_of_a_version_is_answered_with_that_alone)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    leave_memory("a");
    struct get old, wrong, new;
    cr_assert_eq(get_version(&wrong, "a", 4999), STORE_MISS);
    cr_assert_str_eq(wrong.get.reason, "version");
    cr_assert_eq(get_version(&old, "a", 5000), STORE_PENDING);
    show_ok("a", 2, SMALL, 5001);
    cr_assert_eq(get_version(&wrong, "a", 5000), STORE_MISS); /* the read of it is not ended, and this is not the one that waits */
    cr_assert_str_eq(wrong.get.reason, "version");
    cr_assert_eq(get_version(&new, "a", 5001), STORE_OK);
    expect_got(&new, 2, 0, SMALL);
    fake_read_all(bench.disk);
    cr_assert_eq(old.get.version, 5000);
    expect_got(&old, 1, 0, SMALL);
    expect_value("a", 2, SMALL);
    end();
}

Test(store_cluster, a_read_under_way_of_an_old_version_does_not_answer_for_the_new_one)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    leave_memory("a");
    struct get old, new;
    cr_assert_eq(get_version(&old, "a", 5000), STORE_PENDING);
    show_on_both("a", 2, SMALL, 5001);
    leave_memory("a");
    cr_assert_eq(get_version(&new, "a", 5001), STORE_PENDING);
    cr_assert_eq(fake_count(&bench.disk->reads), 2);
    fake_read_end(bench.disk, 0, 0);
    expect_got(&old, 1, 0, SMALL);
    cr_assert_eq(new.ended, 0);
    fake_read_end(bench.disk, 0, 0);
    cr_assert_eq(new.get.version, 5001);
    expect_got(&new, 2, 0, SMALL);
    end();
}

/* ---- forgetting ---- */

Test(store_cluster, what_is_forgotten_is_gone_from_every_tier_and_nothing_above_it)
{
    begin(PERSIST_WRITE_THROUGH);
    show_on_both("a", 1, SMALL, 5000);
    show_on_both("b", 2, SMALL, 5001);
    show_ok("c", 3, SMALL, 5002);
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    (void)take_changes();
    struct span keys[] = {span_text("a"), span_text("b"), span_text("c"), span_text("nobody")};
    uint64_t versions[] = {5000, 5000, 6000, 9000};
    store_forget_versions(bench.store, keys, versions, 4);
    expect_miss("a");
    expect_value("b", 2, SMALL);
    expect_miss("c");
    fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 0), 0);
    cr_assert_eq(where_is("c"), 0);
    cr_assert_eq(bench.disk->kills_started, 0);
    cr_assert_eq(info().figures.removed, 2);
    cr_assert_eq(take_changes(), 0); /* who said so knows it */
    end();
}

Test(store_cluster, a_read_under_way_ends_as_for_a_remove)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    leave_memory("a");
    struct get get;
    cr_assert_eq(get_version(&get, "a", 5000), STORE_PENDING);
    forget("a", 5000);
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, SMALL);
    expect_miss("a");
    end();
}

/* ---- kills ---- */

struct logged {
    struct store_kill kill;
    int outcome;
    unsigned ended;
};

static void kill_ended(struct store_kill *kill, int outcome)
{
    struct logged *logged = CONTAINER_OF(kill, struct logged, kill);
    logged->outcome = outcome;
    logged->ended++;
}

static int log_kill(struct logged *logged, enum kill_kind kind, const char *name, uint64_t version)
{
    *logged = (struct logged){.outcome = NOT_ENDED};
    struct span span = name ? span_text(name) : span_of(NULL, 0);
    return store_log_kill(&bench.store->home, &logged->kill, kind, span, version, kill_ended);
}

Test(store_cluster, an_owners_kill_is_logged_whatever_is_here)
{
    begin(PERSIST_NONE);
    show_ok("a", 1, SMALL, 5000);
    struct logged here, nowhere, range, all;
    cr_assert_eq(log_kill(&here, KILL_KEY, "a", 5000), STORE_PENDING);
    cr_assert_eq(log_kill(&nowhere, KILL_KEY, "nobody", 6000), STORE_PENDING);
    cr_assert_eq(log_kill(&range, KILL_PREFIX, "pre", 7000), STORE_PENDING);
    cr_assert_eq(log_kill(&all, KILL_ALL, NULL, 8000), STORE_PENDING);
    uint64_t version;
    cr_assert_eq(store_next_version(bench.store, &version), 0);
    cr_assert_gt(version, 8000);
    settle();
    cr_assert_eq(here.ended + nowhere.ended + range.ended + all.ended, 0);
    fake_kill_all(bench.disk);
    cr_assert(here.ended == 1 && here.outcome == STORE_OK && nowhere.outcome == STORE_OK && range.outcome == STORE_OK &&
              all.outcome == STORE_OK);
    expect_value("a", 1, SMALL); /* that is another call's */
    end();
}

Test(store_cluster, a_kill_that_cannot_be_logged_says_so)
{
    struct store_config config = bench_config();
    begin_with(&config);
    struct logged early, failed, late, off;
    cr_assert_eq(log_kill(&early, KILL_KEY, "a", 5000), KVD_EBUSY);
    fake_opened(bench.disk, 0, 0);
    fake_recovered(bench.disk);
    cr_assert_eq(log_kill(&failed, KILL_KEY, "a", 5000), STORE_PENDING);
    cr_assert(failed.kill.kill.keep); /* the tier owes it */
    fake_kill_end(bench.disk, -EIO);
    cr_assert_eq(failed.outcome, -EIO);
    cr_assert_eq(log_kill(&late, KILL_KEY, "a", 5000), STORE_PENDING);
    fake_kill_end(bench.disk, KVD_ETIMEOUT);
    cr_assert_eq(late.outcome, KVD_ETIMEOUT);
    cr_assert_eq(bench.store->doubt, 0); /* what is here is as well known as before */
    bench.disk->state = DISK_TRIPPED;
    cr_assert_eq(log_kill(&off, KILL_KEY, "a", 5000), KVD_EOFF);
    bench.disk->state = DISK_ON;
    end();
}

/* ---- what has changed ---- */

Test(store_cluster, a_record_is_told_when_it_is_synced)
{
    begin(PERSIST_WRITE_THROUGH);
    show_ok("a", 1, SMALL, 5000);
    cr_assert_eq(take_changes(), 0);
    fake_write_all(bench.disk);
    cr_assert_eq(take_changes(), 0);
    cr_assert_eq(events, 0);
    pass_ms(PAST_SYNC_MS);
    cr_assert_eq(fake_count(&bench.disk->syncs), 1);
    cr_assert_eq(take_changes(), 0);
    fake_sync_all(bench.disk);
    settle();
    cr_assert_eq(events, 1);
    cr_assert_eq(take_changes(), 1);
    const struct store_holding *holding = told_of("a");
    struct store_stat stat = stat_of("a");
    cr_assert(holding->version == 5000 && holding->size == SMALL && holding->checksum == stat.checksum && holding->expires_ms == 0);
    cr_assert(holding->in_memory && holding->on_disk && holding->synced && !holding->sealed && !holding->unsure);
    cr_assert(holding->sequence == 1 && (uint64_t)holding->block * BLOCK_BYTES == stat.offset && holding->blocks > 1);
    cr_assert_eq(holding->segment_id[0], 1);
    cr_assert_eq(take_changes(), 0);
    end();
}

Test(store_cluster, one_sync_follows_many_writes)
{
    begin(PERSIST_WRITE_THROUGH);
    char key[16];
    for (unsigned i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "n%u", i);
        show_ok(key, i, 100, 5000 + i);
    }
    fake_write_all(bench.disk);
    pass_ms(PAST_SYNC_MS);
    cr_assert_eq(fake_count(&bench.disk->syncs), 1);
    show_ok("late", 1, 100, 6000);
    fake_sync_all(bench.disk); /* what is written after it was begun waits for the next */
    fake_write_all(bench.disk);
    cr_assert_eq(take_changes(), 100);
    pass_ms(PAST_SYNC_MS);
    cr_assert_eq(fake_count(&bench.disk->syncs), 1);
    fake_sync_all(bench.disk);
    cr_assert_eq(take_changes(), 1);
    cr_assert(told_of("late")->synced);
    end();
}

Test(store_cluster, what_is_gone_before_its_sync_is_not_waited_for)
{
    begin(PERSIST_WRITE_THROUGH);
    show_ok("a", 1, SMALL, 5000);
    show_ok("b", 2, SMALL, 5001);
    fake_write_all(bench.disk);
    forget("a", 5000);
    pass_ms(PAST_SYNC_MS);
    fake_sync_end(bench.disk, 0, -EIO);
    cr_assert_eq(take_changes(), 0);
    pass_ms(PAST_SYNC_MS);
    cr_assert_eq(fake_count(&bench.disk->syncs), 0); /* nobody will ever say that it is well */
    cr_assert_eq(walk(10), 1);
    cr_assert(told_of("b")->on_disk && !told_of("b")->synced);
    cr_assert_eq(take_changes(), 0);
    end();
}

Test(store_cluster, memory_that_is_given_up_is_told)
{
    struct store_config config = bench_config();
    config.persist = PERSIST_NONE;
    begin_on(&config);
    show_on_both("disk", 1, 64 * 1024, 5000);
    show_ok("memory", 2, 64 * 1024, 5001);
    (void)take_changes();
    char key[16];
    for (unsigned i = 0; info().figures.dropped_evicted == 0; i++) {
        snprintf(key, sizeof key, "n%u", i);
        show_ok(key, i, 64 * 1024, 6000 + i);
        settle();
    }
    cr_assert_geq(take_changes(), 2);
    cr_assert_gt(events, 0);
    const struct store_holding *disk = told_of("disk"), *memory = told_of("memory");
    cr_assert(disk->version == 5000 && !disk->in_memory && disk->on_disk && disk->synced);
    cr_assert(memory->version == 5001 && !memory->in_memory && !memory->on_disk && !memory->unsure);
    cr_assert_eq(bench.disk->kills_started, 0); /* no record of it can come back */
    end();
}

static void evict_ended(struct store_evict *evict)
{
    cr_assert_eq(evict->objects, 1);
}

Test(store_cluster, a_key_is_told_once_as_it_is_by_then)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    (void)take_changes();
    struct store_evict evict;
    store_evict_start(&bench.store->home, &evict, UINT64_MAX, evict_ended);
    settle();
    cr_assert_eq(where_is("a"), ON_DISK);
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    fake_read_all(bench.disk);
    expect_got(&get, 1, 0, SMALL);
    struct put put;
    seal_ok(&put, "a", 0, 2, SMALL);
    cr_assert_eq(take_changes(), 1);
    cr_assert(told_of("a")->in_memory && told_of("a")->on_disk && told_of("a")->sealed && told_of("a")->version == 5000);
    store_put_abort(&put.put);
    end();
}

Test(store_cluster, what_was_wrong_on_disk_is_told_and_its_version_stays_the_owners)
{
    begin(PERSIST_NONE);
    show_on_both("only", 1, SMALL, 5000);
    show_on_both("both", 2, SMALL, 5001);
    leave_memory("only");
    leave_memory("both");
    (void)take_changes();
    struct get only, both;
    cr_assert_eq(get_go(&only, "only"), STORE_PENDING);
    cr_assert_eq(get_go(&both, "both"), STORE_PENDING);
    entry_of("both")->blob =
        blob_ref(CONTAINER_OF((struct work *)entry_of("both")->work, struct load, work)->blob); /* as if by another way */
    table_settle(bench.store->table, entry_of("both"));
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    fake_read_end(bench.disk, 0, KVD_ECORRUPT);
    cr_assert_eq(only.outcome, STORE_MISS);
    cr_assert_eq(stat_of("both").version, 5001);
    cr_assert_eq(take_changes(), 1); /* "nothing" only when no restart can say otherwise */
    cr_assert(told_of("both")->in_memory && !told_of("both")->on_disk);
    struct store_holding holding;
    store_holds(bench.store, span_text("only"), &holding);
    cr_assert(holding.unsure && !holding.in_memory && !holding.on_disk && span_equal(holding.key, span_text("only")));
    store_holds(bench.store, span_text("both"), &holding);
    cr_assert(holding.in_memory && !holding.on_disk && holding.version == 5001 && !holding.unsure);
    fake_kill_all(bench.disk);
    store_holds(bench.store, span_text("only"), &holding);
    cr_assert(!holding.unsure && holding.version == 0);
    cr_assert_eq(take_changes(), 1);
    cr_assert(!told_of("only")->in_memory && !told_of("only")->on_disk && !told_of("only")->unsure && told_of("only")->version == 5000);
    cr_assert_not(fake_may_rise(bench.disk, span_text("only"), 5000));
    end();
}

Test(store_cluster, what_could_not_be_buried_is_told_as_unsure)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    leave_memory("a");
    (void)take_changes();
    struct get get;
    cr_assert_eq(get_go(&get, "a"), STORE_PENDING);
    fake_read_end(bench.disk, 0, KVD_ESHORT);
    cr_assert_eq(take_changes(), 0);
    fake_kill_end(bench.disk, -EIO);
    cr_assert_eq(take_changes(), 1);
    cr_assert(told_of("a")->unsure && !told_of("a")->on_disk);
    end();
}

Test(store_cluster, a_failed_write_leaves_a_stray_that_is_buried_when_the_object_goes)
{
    begin(PERSIST_WRITE_THROUGH);
    show_ok("a", 1, SMALL, 5000);
    fake_write_run(bench.disk, fake_write_at(&bench.disk->queue, 0));
    fake_write_end(bench.disk, fake_write_at(&bench.disk->running, 0), -EIO);
    cr_assert_eq(stat_of("a").version, 5000); /* no other is ours to give */
    cr_assert_eq(bench.disk->kills_started, 0);
    entry_drop(bench.store, entry_of("a"), &bench.store->figures.dropped_evicted);
    cr_assert_eq(bench.disk->kills_started, 1);
    cr_assert_eq(take_changes(), 0);
    fake_kill_all(bench.disk);
    cr_assert_eq(take_changes(), 1);
    cr_assert_not(fake_may_rise(bench.disk, span_text("a"), 5000));
    end();
}

Test(store_cluster, a_record_whose_sync_failed_is_a_stray_of_what_is_written_again)
{
    begin(PERSIST_NONE);
    struct put put;
    seal_ok(&put, "a", ACK_DISK, 1, SMALL);
    cr_assert_eq(show(&put, 5000), STORE_PENDING);
    fake_write_all(bench.disk);
    cr_assert_eq(walk(10), 1);
    cr_assert(told_of("a")->on_disk && !told_of("a")->synced);
    fake_sync_end(bench.disk, 0, -EIO);
    cr_assert_eq(bench.store->doubt, 0); /* what there may be is of this object */
    cr_assert_eq(take_changes(), 1);
    cr_assert(!told_of("a")->on_disk && told_of("a")->in_memory);
    fake_write_all(bench.disk);
    fake_sync_all(bench.disk);
    cr_assert_eq(put.outcome, STORE_OK);
    pass_ms(PAST_SYNC_MS);
    fake_sync_all(bench.disk);
    cr_assert_eq(take_changes(), 1);
    cr_assert(told_of("a")->synced && told_of("a")->sequence == 2 && told_of("a")->version == 5000);
    entry_drop(bench.store, entry_of("a"), &bench.store->figures.dropped_evicted);
    cr_assert_eq(take_changes(), 0);
    fake_kill_all(bench.disk);
    cr_assert_eq(take_changes(), 1);
    cr_assert_not(fake_may_rise(bench.disk, span_text("a"), 5000));
    end();
}

Test(store_cluster, what_goes_with_its_segment_is_told)
{
    begin(PERSIST_NONE);
    show_on_both("a", 1, SMALL, 5000);
    show_on_both("b", 2, SMALL, 5001);
    leave_memory("a");
    (void)take_changes();
    fake_seal(bench.disk);
    cr_assert(reclaim_full(bench.store));
    cr_assert_eq(take_changes(), 0);
    fake_kill_all(bench.disk);
    cr_assert_eq(take_changes(), 2);
    cr_assert(!told_of("a")->on_disk && !told_of("a")->in_memory && told_of("a")->version == 5000);
    cr_assert(!told_of("b")->on_disk && told_of("b")->in_memory);
    fake_reap(bench.disk);
    end();
}

Test(store_cluster, too_many_changes_are_told_by_walking)
{
    begin(PERSIST_WRITE_THROUGH);
    show_ok("a", 1, SMALL, 5000);
    fake_write_all(bench.disk);
    char key[64];
    for (unsigned i = 0; i < 65536; i++) {
        snprintf(key, sizeof key, "n%u", i);
        changed(bench.store, span_text(key), 1);
    }
    cr_assert_eq(take_changes(), 0);
    cr_assert(told_lost);
    cr_assert_eq(take_changes(), 0);
    cr_assert_not(told_lost);
    pass_ms(PAST_SYNC_MS);
    cr_assert_eq(fake_count(&bench.disk->syncs), 0);
    cr_assert_eq(walk(1), 1);
    cr_assert(told_of("a")->on_disk && !told_of("a")->synced);
    pass_ms(PAST_SYNC_MS); /* the walk has noted it again */
    fake_sync_all(bench.disk);
    cr_assert_eq(take_changes(), 1);
    cr_assert(told_of("a")->synced);
    end();
}

/* ---- all of it ---- */

Test(store_cluster, a_walk_tells_of_all_that_is_here)
{
    begin(PERSIST_NONE);
    char key[16];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "n%u", i);
        if (i % 2)
            show_ok(key, i, 100, 5000 + i);
        else
            show_on_both(key, i, 100, 5000 + i);
    }
    for (uint32_t limit = 1; limit < 100; limit += 33) {
        cr_assert_eq(walk(limit), 200);
        for (unsigned i = 0; i < 200; i++) {
            snprintf(key, sizeof key, "n%u", i);
            const struct store_holding *holding = told_of(key);
            cr_assert(holding->version == 5000 + i && holding->size == 100 && holding->in_memory);
            cr_assert(holding->on_disk == (i % 2 == 0) && holding->synced == holding->on_disk);
        }
    }
    end();
}

Test(store_cluster, what_a_start_finds_is_a_holding_and_no_more)
{
    struct store_config config = bench_config();
    begin_with(&config);
    fake_opened(bench.disk, 0, 0);
    struct segment *segment = fake_segment_new(bench.disk);
    segment->ended = true;
    struct fake_record *old = fake_old_record(bench.disk, segment, "a", 500, "old", 3);
    struct fake_record *new = fake_old_record(bench.disk, segment, "a", 501, "new", 3);
    fake_found(bench.disk, new);
    fake_found(bench.disk, old);
    fake_recovered(bench.disk);
    cr_assert_eq(bench.store->doubt, 0); /* the owner of that time had the older one's death in its log */
    cr_assert_eq(take_changes(), 0);
    cr_assert_eq(walk(10), 1);
    const struct store_holding *holding = told_of("a");
    cr_assert(holding->version == 501 && !holding->in_memory && holding->on_disk && holding->synced && holding->block == new->block);
    forget("a", 501); /* says the owner */
    cr_assert_eq(walk(10), 0);
    cr_assert_eq(fake_count(&bench.disk->kills), 1); /* of the segment, which is empty now */
    end();
}

/* ---- what the log says ---- */

struct page {
    struct store_kills kills;
    int outcome;
    uint32_t count;
    char name[16];
};

static void page_ended(struct store_kills *kills, int outcome)
{
    struct page *page = CONTAINER_OF(kills, struct page, kills);
    page->outcome = outcome;
    if (outcome != STORE_OK)
        return;
    page->count = kills->page.count;
    memcpy(page->name, kills->page.kills[0].name.at, kills->page.kills[0].name.len);
}

Test(store_cluster, pages_of_the_log_come_from_the_tier)
{
    begin(PERSIST_NONE);
    struct page page = {.outcome = NOT_ENDED, .kills.page.limit = 5};
    cr_assert_eq(store_kills_start(&bench.store->home, &page.kills, page_ended), STORE_PENDING);
    struct log_entry *entries = malloc(sizeof *entries + 4);
    cr_assert_not_null(entries);
    memcpy(entries + 1, "name", 4);
    *entries = (struct log_entry){KILL_KEY, span_of(entries + 1, 4), 5000};
    struct disk_kill_page *read = bench.disk->page;
    bench.disk->page = NULL;
    read->kills = read->memory = entries;
    read->count = 1;
    read->fn(read, 0);
    settle();
    cr_assert(page.outcome == STORE_OK && page.count == 1 && strcmp(page.name, "name") == 0);
    cr_assert_eq(store_kills_start(&bench.store->home, &page.kills, page_ended), STORE_PENDING);
    read = bench.disk->page;
    bench.disk->page = NULL;
    read->fn(read, -EIO);
    settle();
    cr_assert_eq(page.outcome, -EIO);
    bench.disk->state = DISK_TRIPPED;
    cr_assert_eq(store_kills_start(&bench.store->home, &page.kills, page_ended), KVD_EOFF);
    bench.disk->state = DISK_ON;
    end();
}
