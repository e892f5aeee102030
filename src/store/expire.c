/* The end of an object's time. Whoever looks for it after that finds nothing; what nobody looks for is swept out in small steps. The record
 * on disk says when it ends, so the remove log need not. */
#include "store/store_impl.h"

#include "base/check.h"

enum { ADVANCE_TICKS = 1024 /* of the wheel, a step */ };

uint64_t clock_now_ms(struct store *store)
{
    uint64_t passed = loop_now_us(store->loop) / 1000;
    uint64_t wall = loop_wall_ms(store->loop);
    if (wall > passed + store->clock_offset_ms + 1) /* two clocks cut to ms: one is no step */
        store->clock_offset_ms = wall - passed;
    return passed + store->clock_offset_ms;
}

uint64_t clock_behind_ms(struct store *store)
{
    uint64_t now = clock_now_ms(store);
    return now - min_u64(now, loop_wall_ms(store->loop));
}

void expire_at(struct store *store, struct entry *entry, uint64_t at_ms)
{
    struct expiry *expiry = entry_expiry(entry);
    list_remove(&expiry->link);
    expiry->at_ms = at_ms;
    if (at_ms == 0 || store->closing)
        return;
    expiry_add(&store->wheel, expiry);
    if (!store->expire_timer.active)
        timer_start(&store->expire_timer, EXPIRY_TICK_MS);
}

uint64_t expire_wall_ms(struct store *store, struct entry *entry)
{
    const struct expiry *expiry = entry_expiry(entry);
    if (!expiry || expiry->at_ms == 0)
        return 0;
    uint64_t behind = clock_behind_ms(store);
    return expiry->at_ms > behind ? expiry->at_ms - behind : 1;
}

bool entry_expired(struct store *store, struct entry *entry)
{
    const struct expiry *expiry = entry_expiry(entry);
    return expiry && expiry->at_ms > 0 && expiry->at_ms <= clock_now_ms(store);
}

/* Its record ends by the wall clock: where that was set back, a restart would find it alive. A file of its own goes at once. */
void entry_expire(struct store *store, struct entry *entry)
{
    bool on_disk = entry->place || entry->flags & ENTRY_STRAY;
    on_disk |= persist_detach(store, entry);
    if (on_disk && (disk_has_objects(store->disk) || clock_behind_ms(store) > CLOCK_SLACK_MS))
        bury(store, entry_key(entry), entry->version, entry_file_bytes(store, entry));
    else
        changed(store, entry_key(entry), entry->version);
    store->ended_on_disk |= on_disk;
    store->figures.expired++;
    entry_forget(store, entry);
    room_changed(store);
}

struct entry *store_find_hashed(struct store *store, struct span key, uint64_t hash)
{
    CHECK(loop_is_mine(store->loop));
    struct entry *entry = table_find(store->table, key, hash);
    if (!entry || !entry_expired(store, entry))
        return entry;
    entry_expire(store, entry);
    return NULL;
}

struct entry *store_find(struct store *store, struct span key)
{
    return store_find_hashed(store, key, table_hash(store->table, key));
}

/* ---- sweeping ---- */

static void expire_run(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, expire_task);
    uint64_t begun_us = step_begin();
    bool all = expiry_advance(&store->wheel, clock_now_ms(store), ADVANCE_TICKS);
    unsigned looked_at = 0;
    for (struct expiry *expiry; looked_at < STEP_KEYS && (expiry = expiry_take(&store->wheel)) != NULL; looked_at++) {
        if (entry_expired(store, expiry_entry(expiry)))
            entry_expire(store, expiry_entry(expiry));
        else
            expiry_add(&store->wheel, expiry);
    }
    step_end(store, "expire", begun_us);
    struct table_sums sums;
    table_sums(store->table, &sums);
    if (!all || looked_at == STEP_KEYS)
        task_post(&store->expire_task);
    else if (sums.mortal > 0)
        timer_start(&store->expire_timer, EXPIRY_TICK_MS);
}

static void expire_tick(struct timer *timer)
{
    task_post(&CONTAINER_OF(timer, struct store, expire_timer)->expire_task);
}

void expire_setup(struct store *store)
{
    expiry_wheel_init(&store->wheel, clock_now_ms(store));
    timer_init(&store->expire_timer, store->loop, expire_tick);
    task_init(&store->expire_task, store->loop, expire_run);
}

void expire_stop(struct store *store)
{
    timer_stop(&store->expire_timer);
    task_cancel(&store->expire_task);
}
