#include "store/store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"

enum {
    HIGH_PERCENT = 97,
    LOW_PERCENT = 94,
    MARGIN_SHARE = 16,          /* of the pool is kept written ahead of eviction */
    SKETCH_MEMORY_SHARE = 1024, /* of the pool's size is that of each generation of the sketch */
    MAX_HOLDS = 1 << 20,
    LEASE_TICK_MS = 1000,
    LEASE_STEP = 64,
};

static void tell_opened(struct store_answer *answer)
{
    struct store *store = CONTAINER_OF(answer, struct store, opened);
    store->events.opened(store->events_arg, answer->outcome);
}

static void tell_recovered(struct store_answer *answer)
{
    struct store *store = CONTAINER_OF(answer, struct store, all_known);
    store->events.recovered(store->events_arg);
}

static void tell_closed(struct store_answer *answer)
{
    struct store *store = CONTAINER_OF(answer, struct store, closed);
    store->closed_fn(store->closed_arg);
}

static void lease_tick(struct timer *timer)
{
    struct store *store = CONTAINER_OF(timer, struct store, lease_timer);
    uint64_t next = lease_expire(store->leases, now_ms(store), LEASE_STEP);
    uint64_t wait = next <= now_ms(store) ? 0 : min_u64(next - now_ms(store), LEASE_TICK_MS);
    room_changed(store);
    timer_start(&store->lease_timer, wait);
}

static void set_limits(struct store *store)
{
    uint64_t bytes = store->config.memory_bytes;
    store->high_bytes = bytes / 100 * HIGH_PERCENT;
    store->low_bytes = bytes / 100 * LOW_PERCENT;
    store->inflight_limit = min_u64(store->config.inflight_bytes, bytes / 2);
    store->queue_limit = min_u64(store->config.queue_bytes, bytes / 2);
    store->margin_bytes = min_u64(bytes / MARGIN_SHARE, store->queue_limit);
    store->ahead_from_bytes = store->high_bytes - store->margin_bytes;
}

static int make_tables(struct store *store)
{
    uint8_t secret[TABLE_SECRET_BYTES];
    uint64_t lease_secret;
    int err = loop_random(store->loop, secret, sizeof secret);
    if (err == 0)
        err = loop_random(store->loop, &lease_secret, sizeof lease_secret);
    if (err == 0)
        err = table_new(&store->table, secret);
    if (err)
        return err;
    err = leases_new(&store->leases, store->table, MAX_HOLDS, lease_secret);
    if (err)
        goto fail_table;
    err = sketch_new(&store->dropped, store->config.memory_bytes / SKETCH_MEMORY_SHARE);
    if (err)
        goto fail_leases;
    return 0;

fail_leases:
    leases_free(store->leases);
fail_table:
    table_free(store->table);
    return err;
}

static int make(struct store **out, struct loop *loop, struct loop *home, const struct log *log, const struct store_config *config,
                const struct store_events *events, void *arg)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store)
        return -ENOMEM;
    store->loop = loop;
    store->log = log;
    store->config = *config;
    store->events = *events;
    store->events_arg = arg;
    store_desk_init(&store->home, store, home);
    answer_init(&store->opened, &store->home, tell_opened);
    answer_init(&store->all_known, &store->home, tell_recovered);
    answer_init(&store->closed, &store->home, tell_closed);
    store->recovered = !config->disk.dir; /* there is nothing to find */
    list_init(&store->filling);
    list_init(&store->waits);
    list_init(&store->starved);
    list_init(&store->reading);
    timer_init(&store->read_timer, loop, load_deadline);
    list_init(&store->writings);
    list_init(&store->syncs);
    list_init(&store->shelves);
    list_init(&store->evictions);
    list_init(&store->removals);
    set_limits(store);
    wait_setup(store);
    expire_setup(store);
    probe_setup(store);
    reclaim_objects_setup(store);
    scrub_setup(store);

    int err = backing_new(&store->backing, loop, log, config->memory_bytes);
    if (err)
        goto fail_store;
    err = pool_new(&store->pool, backing_base(store->backing), config->memory_bytes);
    if (err)
        goto fail_backing;
    err = make_tables(store);
    if (err)
        goto fail_pool;
    err = config->in_cluster ? changes_new(store) : 0;
    if (err)
        goto fail_tables;
    store->config.disk.keep_kills = config->in_cluster;
    err = disk_new(&store->disk, loop, log, &store->config.disk, &store_disk_events, store);
    if (err)
        goto fail_changes;
    CHECK(!config->in_cluster || (!config->probe && !disk_has_objects(store->disk)));
    reclaim_setup(store);
    durable_setup(store);
    timer_init(&store->lease_timer, loop, lease_tick);
    timer_start(&store->lease_timer, LEASE_TICK_MS);
    if (config->prefault)
        backing_touch_start(store->backing);
    *out = store;
    return 0;

fail_changes:
    changes_free(store);
fail_tables:
    sketch_free(store->dropped);
    leases_free(store->leases);
    table_free(store->table);
fail_pool:
    pool_free(store->pool);
fail_backing:
    backing_free(store->backing);
fail_store:
    free(store);
    return err;
}

int store_new(struct store **out, struct loop *loop, struct loop *home, const struct log *log, const struct store_config *config,
              const struct store_events *events, void *arg)
{
    loop_lock(loop);
    int err = make(out, loop, home, log, config, events, arg);
    loop_unlock(loop);
    return err;
}

static void backing_stopped(void *arg)
{
    struct store *store = arg;
    answer_give(&store->closed, 0);
}

static void disk_closed(void *arg)
{
    struct store *store = arg;
    backing_stop(store->backing, backing_stopped, store);
}

static void close_disk(struct store *store, bool abandon)
{
    store->closing = true;
    timer_stop(&store->lease_timer);
    expire_stop(store);
    scrub_stop(store);
    reclaim_stop(store);
    durable_stop(store);
    changes_stop(store);
    disk_close(store->disk, abandon, disk_closed, store);
}

static void last_synced(struct store_sync *sync, int err)
{
    (void)err; /* logged where it arose; the disk tier closes whatever there is */
    struct store *store = sync->store;
    store_lock(store);
    if (!store->closing)
        close_disk(store, false);
    store_unlock(store);
}

void store_close(struct store *store, bool abandon, store_closed_fn fn, void *arg)
{
    store_lock(store);
    CHECK(!store->closed_fn);
    store->closed_fn = fn;
    store->closed_arg = arg;
    if (abandon || sync_start(&store->home, &store->last_sync, false, last_synced) != STORE_PENDING)
        close_disk(store, abandon);
    store_unlock(store);
}

void store_close_hurry(struct store *store)
{
    store_lock(store);
    if (store->closed_fn && !store->closing) {
        list_remove(&store->last_sync.link);
        task_cancel(&store->last_sync.step);
        (void)answer_take_back(&store->last_sync.answer);
        close_disk(store, true);
    }
    store_unlock(store);
}

static void forget_all(void *arg, struct entry *entry)
{
    entry_forget(arg, entry);
}

void store_free(struct store *store)
{
    struct loop *loop = store->loop;
    loop_lock(loop);
    table_scan(store->table, 0, span_of(NULL, 0), UINT32_MAX, UINT32_MAX, forget_all, store);
    load_free_starved(store);
    CHECK(list_empty(&store->waits) && list_empty(&store->writings) && list_empty(&store->evictions) && !store->scrub.blob);
    timer_stop(&store->wait_timer);
    timer_stop(&store->read_timer);
    task_cancel(&store->room_task);
    task_cancel(&store->evict_task);
    task_cancel(&store->ahead_task);
    task_cancel(&store->objects_task);
    CHECK(store->probing_count == 0);
    struct list *item;
    while ((item = list_pop_front(&store->shelves)) != NULL) {
        struct shelf *shelf = CONTAINER_OF(item, struct shelf, link);
        task_cancel(&shelf->step);
        free(shelf);
    }
    changes_free(store);
    disk_free(store->disk);
    sketch_free(store->dropped);
    leases_free(store->leases);
    table_free(store->table);
    pool_free(store->pool);
    backing_free(store->backing);
    free(store);
    loop_unlock(loop);
}

uint64_t store_newest_version(struct store *store)
{
    store_lock(store);
    uint64_t version = disk_next_version(store->disk);
    store_unlock(store);
    return version;
}

void store_quiet(struct store *store)
{
    store_lock(store);
    scrub_stop(store);
    store_unlock(store);
}

void store_erase(struct store *store)
{
    store_lock(store);
    disk_erase(store->disk);
    store_unlock(store);
}

int store_erase_err(struct store *store)
{
    store_lock(store);
    int err = disk_erase_err(store->disk);
    store_unlock(store);
    return err;
}

void unref(struct store *store, struct blob *blob)
{
    blob_unref(blob);
    room_changed(store);
}

void store_unref(struct store *store, struct blob *blob)
{
    store_lock(store);
    unref(store, blob);
    store_unlock(store);
}

/* Bytes that must drain before so many more fit behind those that wait: out of the queue, or out of memory, which waits for the queue. */
static uint64_t bytes_behind(const struct store *store, uint64_t bytes)
{
    uint64_t queued = disk_queued_bytes(store->disk);
    uint64_t more = store->wait_bytes + bytes;
    if (queued + more > store->queue_limit && queued > 0)
        return min_u64(queued + store->wait_bytes, queued + more - store->queue_limit);
    uint64_t used = pool_used(store->pool);
    return queued > 0 && used + more > pool_size(store->pool) ? used + more - pool_size(store->pool) : 0;
}

static uint64_t retry_after_ms(struct store *store, uint64_t bytes)
{
    enum { LEAST_MS = 5, MOST_MS = 5000, UNKNOWN_MS = 50 };
    uint64_t behind = bytes_behind(store, bytes);
    uint64_t rate = disk_drain_rate(store->disk);
    if (behind == 0)
        return LEAST_MS;
    if (rate == 0)
        return UNKNOWN_MS;
    uint64_t now = now_ms(store);
    uint64_t promised = store->promised_ms > now ? (store->promised_ms - now) * store->promised_rate / rate : 0;
    uint64_t wait = min_u64(MOST_MS, max_u64(behind * 1000 / rate, promised));
    store->promised_ms = now + min_u64(MOST_MS, wait + bytes * 1000 / rate);
    store->promised_rate = rate;
    return max_u64(LEAST_MS, wait);
}

uint64_t store_retry_after_ms(struct store *store, uint64_t bytes)
{
    store_lock(store);
    uint64_t ms = retry_after_ms(store, bytes);
    store_unlock(store);
    return ms;
}

static void info(const struct store *store, struct store_info *out)
{
    struct reclaim_marks marks = reclaim_marks(store);
    *out = (struct store_info){
        .figures = store->figures,
        .disk_state = disk_state_name(store->disk),
        .memory_limit_bytes = pool_size(store->pool),
        .memory_used_bytes = pool_used(store->pool),
        .memory_blobs = pool_blobs(store->pool),
        .held_memory_only_bytes = table_held_memory_only_bytes(store->table),
        .inflight_bytes = store->inflight,
        .inflight_limit_bytes = store->inflight_limit,
        .queue_limit_bytes = store->queue_limit,
        .reclaim_high_bytes = marks.high_bytes,
        .reclaim_low_bytes = marks.low_bytes,
        .rewrite_budget_bytes = store->reclaim.budget_bytes,
        .leases = leases_count(store->leases),
        .lease_holds = leases_holds(store->leases),
    };
    snprintf(out->disk_off_reason, sizeof out->disk_off_reason, "%s", disk_off_reason(store->disk));
    snprintf(out->disk_trouble, sizeof out->disk_trouble, "%s", disk_trouble(store->disk));
    out->longest_step = store->longest_step;
    loop_file_counts(store->loop, &out->files);
    loop_holds(store->loop, &out->holds);
    backing_get_figures(store->backing, &out->backing);
    scrub_look(store, &out->scrub);
    table_sums(store->table, &out->table);
    disk_get_figures(store->disk, &out->disk);
    if (out->disk.longest_announce_us > out->longest_step.us)
        out->longest_step = (struct step){.what = "recovery", .us = out->disk.longest_announce_us};
    if (out->disk.longest_judge_us > out->longest_step.us)
        out->longest_step = (struct step){.what = "judge", .us = out->disk.longest_judge_us};
}

void store_info(struct store *store, struct store_info *out)
{
    store_lock(store);
    info(store, out);
    store_unlock(store);
}
