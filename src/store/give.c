/* Memory given up because somebody asked for it: what is on disk just goes, what belongs there is written first. */
#include "store/store_impl.h"

/* Objects that are on disk, in one bounded step. How many went. */
static unsigned give_spared(struct store_evict *evict)
{
    struct store *store = evict->store;
    uint64_t bytes = 0;
    unsigned n = 0;
    for (struct entry *entry; n < STEP_KEYS && bytes < STEP_BYTES && evict->bytes < evict->target; n++) {
        entry = table_victim(store->table, VICTIM_SPARED);
        if (!entry)
            break;
        bytes += entry->size;
        evict->bytes += entry->size;
        evict->objects++;
        store->figures.evicted++;
        entry_forget_memory(store, entry);
        changed(store, entry_key(entry), entry->version);
    }
    room_changed(store);
    return n;
}

/* Write the next ones that the policy would have on disk. True while there is something to wait for. */
static bool write_more(struct store_evict *evict)
{
    struct store *store = evict->store;
    bool may = store->write_failures == evict->failures && !store->closing;
    for (unsigned n = 0; may && n < STEP_KEYS && evict->target - evict->bytes > table_ahead_bytes(store->table); n++) {
        struct entry *entry = table_victim(store->table, VICTIM_DIRTY);
        if (!entry || !policy_wants(store, entry) || !persist_queue_has_room(store))
            break;
        if (persist_start(store, entry) != 0)
            evict->failures = UINT64_MAX;
        may = store->write_failures == evict->failures;
    }
    struct table_sums sums;
    table_sums(store->table, &sums);
    return sums.writing > 0;
}

static void give_step(struct task *task)
{
    struct store_evict *evict = CONTAINER_OF(task, struct store_evict, step);
    struct store *store = evict->store;
    uint64_t begun_us = step_begin();
    bool go_on = give_spared(evict) > 0;
    bool wait = !go_on && evict->bytes < evict->target && write_more(evict);
    step_end(store, "give", begun_us);
    if (go_on && evict->bytes < evict->target) {
        task_post(&evict->step);
    } else if (!wait) {
        list_remove(&evict->link);
        answer_give(&evict->answer, 0);
    }
}

void evictions_check(struct store *store)
{
    for (struct list *at = store->evictions.next; at != &store->evictions; at = at->next)
        task_post(&CONTAINER_OF(at, struct store_evict, link)->step);
}

void evictions_expire(struct store *store)
{
    for (struct list *at = store->evictions.next, *next; at != &store->evictions; at = next) {
        next = at->next;
        struct store_evict *evict = CONTAINER_OF(at, struct store_evict, link);
        if (!waits_in_vain(store, &evict->since_ms, persist_moved_ms(store)))
            continue;
        list_remove(at);
        task_cancel(&evict->step);
        answer_give(&evict->answer, 0);
    }
}

static void evict_tell(struct store_answer *answer)
{
    struct store_evict *evict = CONTAINER_OF(answer, struct store_evict, answer);
    evict->fn(evict);
}

void store_evict_start(struct store_desk *desk, struct store_evict *evict, uint64_t bytes, store_evict_fn fn)
{
    struct store *store = desk->store;
    store_lock(store);
    *evict = (struct store_evict){.store = store, .fn = fn, .target = bytes, .failures = store->write_failures, .since_ms = now_ms(store)};
    answer_init(&evict->answer, desk, evict_tell);
    list_push_back(&store->evictions, &evict->link);
    durable_watch(store);
    task_init(&evict->step, store->loop, give_step);
    task_post(&evict->step);
    store_unlock(store);
}

void store_evict_stop(struct store_evict *evict)
{
    struct store *store = evict->store;
    store_lock(store);
    list_remove(&evict->link);
    task_cancel(&evict->step);
    (void)answer_take_back(&evict->answer);
    store_unlock(store);
}
