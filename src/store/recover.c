/* What the disk tier tells the store. */
#include "store/store_impl.h"

#include <stdlib.h>

#include "base/error.h"

static void drop_early(void *arg, struct entry *entry)
{
    struct store *store = arg;
    persist_lose(entry, KVD_EOFF); /* it has been seen: no "no effect" */
    entry_drop(store, entry, &store->figures.dropped_versions);
}

static void opened(void *arg, int err)
{
    struct store *store = arg;
    /* What was put before the ceiling was known has versions below those on disk: an older value would win a restart. */
    if (err == 0 && disk_versions_jumped(store->disk))
        table_scan(store->table, 0, span_of(NULL, 0), UINT32_MAX, UINT32_MAX, drop_early, store);
    answer_give(&store->opened, err);
}

/* What ends in the next moment is taken for ended: it may have been so before the restart, if the wall clock was set back a little. */
bool found_expired(const struct store *store, const struct disk_found *found)
{
    return found->expires_ms != 0 && found->expires_ms <= loop_wall_ms(store->loop) + CLOCK_SLACK_MS;
}

static struct entry *found_add(struct store *store, const struct disk_found *found, uint64_t hash)
{
    if (found->expires_ms == 0)
        return table_add(store->table, found->key, hash);
    struct entry *entry = table_add_mortal(store->table, found->key, hash);
    if (entry)
        expire_at(store, entry, found->expires_ms + min_u64(UINT64_MAX - found->expires_ms, clock_behind_ms(store)));
    return entry;
}

struct entry *entry_of_found(struct store *store, const struct disk_found *found)
{
    struct shelf *shelf = shelf_of(store, found->where.segment);
    struct entry *entry = shelf ? found_add(store, found, table_hash(store->table, found->key)) : NULL;
    if (!entry)
        return NULL;
    entry->version = found->version;
    entry_set_size(entry, found->size);
    entry->checksum = found->checksum;
    entry->put_tick = table_tick(now_ms(store));
    entry->used_tick = entry->put_tick;
    entry_set_place(store, entry, shelf, found->where.block, found->where.blocks);
    return entry;
}

static void found(void *arg, const struct disk_found *found)
{
    struct store *store = arg;
    if (found_expired(store, found)) {
        store->figures.recovered_expired++;
        if (segment_is_objects(found->where.segment))
            bury(store, found->key, found->version, 0);
        store->ended_on_disk = true;
        return;
    }
    struct entry *entry = table_find(store->table, found->key, table_hash(store->table, found->key));
    bool known = entry != NULL;
    if (known && segment_is_objects(found->where.segment) && entry->version == found->version)
        return; /* it was written, or looked for, meanwhile */
    if (known && entry->version == found->version && entry->checksum == found->checksum) {
        entry->flags |= ENTRY_STRAY; /* a copy that a reclaim had begun */
        return;
    }
    if (known && !store->config.in_cluster) /* there the owner has seen to it that only the newer one is alive */
        in_doubt(store);                    /* of two records the table can know one */
    if (known && entry->version >= found->version)
        return;
    if (!known && !bound_takes_found(store, found))
        return;
    if (known)
        entry_forget(store, entry);
    if (entry_of_found(store, found)) {
        store->figures.found += !known;
    } else {
        in_doubt(store);
        store->figures.dropped_versions += known;
    }
}

static void recovered(void *arg)
{
    struct store *store = arg;
    struct disk_figures figures;
    disk_get_figures(store->disk, &figures);
    if (figures.unreadable_segments + figures.newer_segments + figures.damaged_segments > 0)
        in_doubt(store); /* what could not be read now may be read another time */
    store->recovered = true;
    reclaim_check(store);
    reclaim_objects_check(store);
    answer_give(&store->all_known, 0);
}

static bool full(void *arg)
{
    struct store *store = arg;
    return disk_has_objects(store->disk) ? reclaim_objects_full(store) : reclaim_full(store);
}

static void gone(void *arg, struct segment *segment)
{
    struct store *store = arg;
    struct shelf *shelf = segment_user(segment);
    if (store->reclaim.hand == segment)
        store->reclaim.hand = NULL;
    if (shelf) {
        shelf->segment = NULL;
        bound_dead(store, shelf);
        store->reclaim.leaving_bytes -= shelf->leaving_bytes;
        shelf->leaving_bytes = 0;
        if (shelf->place.count == 0) { /* otherwise the tier is closing, and store_free() forgets the objects first */
            list_remove(&shelf->link);
            free(shelf);
        }
    }
    reclaim_check(store);
}

const struct disk_events store_disk_events = {
    .opened = opened,
    .found = found,
    .recovered = recovered,
    .full = full,
    .gone = gone,
};
