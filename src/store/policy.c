/* What is written to disk, and when: the persist policies. */
#include "store/store_impl.h"

bool policy_wants(const struct store *store, const struct entry *entry)
{
    switch (store->config.persist) {
    case PERSIST_WRITE_THROUGH:
    case PERSIST_ON_EVICT:
        return true;
    case PERSIST_SECOND_TOUCH:
        return entry->flags & ENTRY_TOUCHED;
    case PERSIST_NONE:
        break;
    }
    return false;
}

bool policy_writes_first(const struct store *store, const struct entry *entry)
{
    if (entry->place || entry->flags & ENTRY_UNWRITABLE || store->config.persist == PERSIST_WRITE_THROUGH)
        return false;
    return policy_wants(store, entry);
}

bool policy_queue_full(const struct store *store, uint64_t size)
{
    uint64_t queued = disk_queued_bytes(store->disk);
    return disk_works(store) && queued > 0 && queued + size > store->queue_limit;
}

bool policy_waits(const struct store *store, bool ack_disk)
{
    return ack_disk || (store->config.persist == PERSIST_WRITE_THROUGH && store->config.when_behind == BEHIND_WAIT);
}

/* What finds the queue full is written when memory gives it up. */
static void write_touched(struct store *store, struct entry *entry)
{
    bool can = entry->blob && !entry->place && !entry->work && !(entry->flags & ENTRY_UNWRITABLE);
    if (can && disk_works(store) && !policy_queue_full(store, entry->size))
        (void)persist_start(store, entry);
}

void policy_shown(struct store *store, struct entry *entry)
{
    if (store->config.persist == PERSIST_SECOND_TOUCH && entry->flags & ENTRY_TOUCHED)
        write_touched(store, entry);
    if (store->config.persist != PERSIST_WRITE_THROUGH)
        return;
    if (store->config.when_behind == BEHIND_SHED && policy_queue_full(store, entry->size)) {
        entry->flags |= ENTRY_SHED;
        store->figures.unwritten_shed++;
        return;
    }
    (void)persist_start(store, entry);
}

void policy_touched(struct store *store, struct entry *entry)
{
    entry->flags |= ENTRY_TOUCHED;
    if (store->config.persist == PERSIST_SECOND_TOUCH)
        write_touched(store, entry);
}

/* P6: gone without having been stored, and why. */
static uint64_t *reason_of(struct store *store, const struct entry *entry, bool shed)
{
    struct store_figures *figures = &store->figures;
    if (shed || entry->flags & ENTRY_SHED)
        return &figures->dropped_shed;
    if (store->config.persist == PERSIST_SECOND_TOUCH && !(entry->flags & ENTRY_TOUCHED))
        return &figures->dropped_untouched;
    return &figures->dropped_evicted;
}

void policy_drop(struct store *store, struct entry *entry, bool shed)
{
    entry_drop(store, entry, reason_of(store, entry, shed));
}

void store_set_persist(struct store *store, enum persist persist)
{
    store_lock(store);
    store->config.persist = persist;
    evict_check(store);
    room_changed(store); /* who waits may go on under the new one */
    store_unlock(store);
}

void store_set_when_behind(struct store *store, enum when_behind when_behind)
{
    store_lock(store);
    store->config.when_behind = when_behind;
    room_changed(store);
    store_unlock(store);
}

enum persist store_persist(struct store *store)
{
    store_lock(store);
    enum persist persist = store->config.persist;
    store_unlock(store);
    return persist;
}
