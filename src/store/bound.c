/* The bound of the replica table (--index-memory). Near it, segments are given up as if the disk were full, and what they held leaves the
 * table. At it, objects that are in memory alone go, the coldest first; if there are none, puts of new keys are BUSY until a segment is
 * gone.
 *
 * At start the bound holds as well: what is found beyond it is not taken, and the segments it lies in are given up. Until they are
 * dead, records that the table does not know may be there: every put and remove goes through the remove log first. */
#include "store/store_impl.h"

enum { NEAR_PERCENT = 95, ENOUGH_PERCENT = 90 };

static uint64_t limit(const struct store *store)
{
    return store->config.index_bytes > 0 ? store->config.index_bytes : UINT64_MAX;
}

bool bound_is_near(struct store *store)
{
    uint64_t percent = store->reclaim.index_near ? ENOUGH_PERCENT : NEAR_PERCENT;
    store->reclaim.index_near = table_heap_bytes(store->table) > limit(store) / 100 * percent;
    return store->reclaim.index_near || store->overflowing > 0;
}

bool bound_is_reached(const struct store *store)
{
    return table_heap_bytes(store->table) >= limit(store);
}

/* One step: each new object makes room for itself. */
static void drop_memory_only(struct store *store)
{
    uint64_t begun_us = step_begin();
    struct entry *victim;
    for (unsigned n = 0; n < STEP_KEYS && bound_is_reached(store); n++) {
        victim = table_victim(store->table, VICTIM_DIRTY);
        if (!victim)
            break;
        store->figures.dropped_index++;
        entry_leave(store, victim);
    }
    step_end(store, "evict", begun_us);
}

bool bound_admits(struct store *store)
{
    if (!bound_is_reached(store))
        return true;
    reclaim_check(store);
    reclaim_objects_check(store);
    drop_memory_only(store);
    if (!bound_is_reached(store))
        return true;
    store->figures.index_busy++;
    return false;
}

/* A version that was not taken may be newer than one that is found later: from the first on, no more keys are. */
bool bound_takes_found(struct store *store, const struct disk_found *found)
{
    if (store->overflowing == 0 && !bound_is_reached(store))
        return true;
    store->figures.recovered_beyond_index++;
    struct segment *segment = found->where.segment;
    struct shelf *shelf = segment_is_objects(segment) ? NULL : shelf_of(store, segment);
    if (segment_is_objects(segment))
        bury(store, found->key, found->version, 0); /* the file goes by itself */
    else if (!shelf)
        in_doubt(store);
    if (shelf && !shelf->overflows) {
        shelf->overflows = true;
        store->overflowing++;
    }
    return false;
}

void bound_dead(struct store *store, struct shelf *shelf)
{
    store->overflowing -= shelf->overflows;
    shelf->overflows = false;
}
