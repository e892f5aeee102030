/* Room in the pool: who leaves memory, and who waits for it. */
#include "store/store_impl.h"

#include "base/check.h"
#include "base/error.h"

void entry_forget_memory(struct store *store, struct entry *entry)
{
    struct blob *blob = entry->blob;
    entry->blob = NULL;
    table_settle(store->table, entry);
    blob_unref(blob);
}

void entry_set_place(struct store *store, struct entry *entry, struct shelf *shelf, uint32_t block, uint32_t blocks)
{
    if (entry->place)
        disk_object_count(store->disk, CONTAINER_OF(entry->place, struct shelf, place)->segment, entry->key_len, entry->size, false);
    table_set_place(store->table, entry, shelf ? &shelf->place : NULL, block, blocks);
    if (!shelf || !segment_is_objects(shelf->segment))
        return;
    disk_object_count(store->disk, shelf->segment, entry->key_len, entry->size, true);
    table_checked(entry, entry->put_tick); /* then it was not there, or new */
}

uint64_t entry_file_bytes(const struct store *store, const struct entry *entry)
{
    const struct segment *own = disk_own_objects(store->disk);
    bool is_own = entry->place && own && CONTAINER_OF(entry->place, struct shelf, place)->segment == own;
    return is_own ? disk_object_bytes(entry->key_len, entry->size) : 0;
}

void entry_forget_disk(struct store *store, struct entry *entry)
{
    struct shelf *shelf = CONTAINER_OF(entry->place, struct shelf, place);
    entry_set_place(store, entry, NULL, 0, 0);
    reclaim_if_empty(store, shelf);
}

void entry_strip(struct store *store, struct entry *entry)
{
    persist_detach(store, entry);
    load_detach(entry);
    lease_forget(store->leases, entry);
    entry->flags &= (uint16_t) ~(ENTRY_PINNED | ENTRY_STRAY);
    if (entry->place)
        entry_forget_disk(store, entry);
    if (entry->blob)
        entry_forget_memory(store, entry);
    else
        table_settle(store->table, entry);
}

void entry_forget(struct store *store, struct entry *entry)
{
    entry_strip(store, entry);
    table_drop(store->table, entry);
}

/* Its key may be put anew: if there may be a record of it that the table does not know, that is buried. */
void entry_leave(struct store *store, struct entry *entry)
{
    if (entry->flags & ENTRY_STRAY)
        bury(store, entry_key(entry), entry->version, 0);
    else
        changed(store, entry_key(entry), entry->version);
    entry_forget(store, entry);
}

void entry_drop(struct store *store, struct entry *entry, uint64_t *reason)
{
    ++*reason;
    sketch_note(store->dropped, table_hash(store->table, entry_key(entry)));
    entry_leave(store, entry);
}

/* The coldest. What the policy writes before it goes is put on its way, until `need` bytes are; it leaves when they are written, and until
 * then what is on disk already goes before it: what was written while it was cold, in need anything. *shed: it goes unwritten, because
 * there is nothing else and nobody is to wait. NULL: there is nobody to go now. */
static struct entry *choose_victim(struct store *store, uint64_t need, bool desperate, bool *shed)
{
    struct table *table = store->table;
    for (unsigned n = 0; n < STEP_KEYS; n++) {
        struct entry *coldest = table_victim(table, VICTIM_ANY);
        if (!coldest)
            return desperate ? table_held_victim(table) : NULL;
        if (!policy_writes_first(store, coldest))
            return coldest;
        if (table_ahead_bytes(table) >= need || !persist_queue_has_room(store))
            break;
        if (persist_start(store, coldest) != 0)
            return coldest;
    }
    struct entry *spared = table_victim(table, desperate ? VICTIM_SPARED : VICTIM_WRITTEN);
    if (spared || !desperate)
        return spared;
    *shed = store->config.when_behind == BEHIND_SHED;
    return *shed ? table_victim(table, VICTIM_DIRTY) : table_held_victim(table);
}

/* One object leaves memory; returns the bytes of its value, 0 when nobody can leave. */
static uint64_t evict_one(struct store *store, uint64_t need, bool desperate)
{
    bool shed = false;
    struct entry *victim = choose_victim(store, need, desperate, &shed);
    if (!victim)
        return 0;
    /* Its file is going: memory will be all that a held one has. */
    if (victim->place && entry_held(victim) && CONTAINER_OF(victim->place, struct shelf, place)->doomed)
        return 0;
    uint64_t bytes = blob_room(victim->blob);
    if (victim->place) {
        store->figures.evicted++;
        entry_forget_memory(store, victim);
        changed(store, entry_key(victim), victim->version);
    } else {
        policy_drop(store, victim, shed);
    }
    return bytes > 0 ? bytes : 1;
}

/* One bounded step towards `target` bytes used. False when there was nobody to evict. */
static bool evict_step(struct store *store, uint64_t target)
{
    uint64_t begun_us = step_begin();
    uint64_t bytes = 0, freed = 1;
    unsigned n = 0;
    for (; freed > 0 && n < STEP_KEYS && bytes < STEP_BYTES && pool_used(store->pool) > target; n++) {
        freed = evict_one(store, store->margin_bytes, false);
        bytes += freed;
    }
    step_end(store, "evict", begun_us);
    return freed > 0 || n > 1;
}

static void evict_run(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, evict_task);
    if (pool_used(store->pool) > store->low_bytes && evict_step(store, store->low_bytes))
        task_post(&store->evict_task);
    room_changed(store);
}

/* ---- ahead of need ---- */

/* Is memory about to be full, and too little of it on disk or on its way there? */
static bool ahead_due(const struct store *store)
{
    if (store->config.persist != PERSIST_ON_EVICT || pool_used(store->pool) <= store->ahead_from_bytes)
        return false;
    return table_ahead_bytes(store->table) < store->margin_bytes && persist_queue_has_room(store) && disk_works(store);
}

/* The next to leave that is on no disk, if it is colder than all that is. */
static struct entry *ahead_next(const struct store *store)
{
    struct entry *entry = table_victim(store->table, VICTIM_CLEAN | VICTIM_DIRTY);
    return entry && policy_writes_first(store, entry) ? entry : NULL;
}

static void ahead_run(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, ahead_task);
    struct entry *entry = NULL;
    uint64_t bytes = 0, begun_us = step_begin();
    for (unsigned n = 0; n < STEP_KEYS && bytes < STEP_BYTES && ahead_due(store) && (entry = ahead_next(store)) != NULL; n++) {
        bytes += entry->size;
        (void)persist_start(store, entry);
    }
    step_end(store, "ahead", begun_us);
    if (entry && ahead_due(store))
        task_post(&store->ahead_task);
}

/* Above the high watermark memory is given up in steps of its own, so that a put finds room without a sweep. */
void evict_check(struct store *store)
{
    if (pool_used(store->pool) > store->high_bytes)
        task_post(&store->evict_task);
    if (ahead_due(store))
        task_post(&store->ahead_task);
}

/* Until `missing` bytes fit, or a step is done. Returns what came free. */
static uint64_t evict_to_fit(struct store *store, uint64_t missing)
{
    uint64_t size = pool_size(store->pool);
    if (pool_used(store->pool) + missing <= size)
        return 0;
    uint64_t begun_us = step_begin();
    uint64_t given = 0;
    for (unsigned n = 0; pool_used(store->pool) + missing > size && n < STEP_KEYS; n++) {
        uint64_t freed = evict_one(store, missing, true);
        if (freed == 0 || (given += freed) > STEP_BYTES + missing)
            break;
    }
    step_end(store, "evict", begun_us);
    return given;
}

int evict_for(struct store *store, struct blob *blob, bool whole)
{
    uint64_t missing =
        whole ? blob_room_needed(blob) - blob_room(blob) : min_u64(blob_room_needed(blob) - blob_room(blob), POOL_EXTENT_BYTES);
    uint64_t given = evict_to_fit(store, missing);
    int err = whole ? blob_grow_all(blob) : blob_grow(blob);
    if (err == KVD_EBUSY && given > 0) {
        store->room_changes++;
        task_post(&store->room_task); /* this step was not enough: whoever waits goes on with the next */
    }
    evict_check(store);
    return err;
}

/* ---- waiting for room ---- */

void store_wait_init(struct store_wait *wait)
{
    wait->store = NULL;
    list_init(&wait->link);
    list_init(&wait->answer.link);
    wait->put = NULL;
    wait->last_try = false;
}

static void wait_tell(struct store_answer *answer)
{
    struct store_wait *wait = CONTAINER_OF(answer, struct store_wait, answer);
    store_lock(wait->store);
    wait->store->waits_told--;
    store_unlock(wait->store);
    wait->fn(wait, answer->outcome);
}

void store_wait_start(struct store_desk *desk, struct store_wait *wait, uint64_t for_ms, store_wait_fn fn)
{
    struct store *store = desk->store;
    store_lock(store);
    CHECK(list_empty(&wait->link) && list_empty(&wait->answer.link));
    answer_init(&wait->answer, desk, wait_tell);
    wait->until_ms = now_ms(store) + for_ms;
    wait->fn = fn;
    wait->store = store;
    wait->last_try = for_ms == 0 && wait->last_try;
    store->wait_bytes += wait->bytes;
    list_push_back(&store->waits, &wait->link);
    if (desk->room_seen != store->room_changes)
        task_post(&store->room_task); /* since the try that failed: other loops had the lock in between */
    store->figures.waits++;
    if (!store->wait_timer.active)
        timer_start(&store->wait_timer, WAIT_TICK_MS);
    store_unlock(store);
}

static struct store_wait *wait_leave(struct list *link)
{
    struct store_wait *wait = CONTAINER_OF(link, struct store_wait, link);
    list_remove(link);
    wait->store->wait_bytes -= wait->bytes;
    return wait;
}

void store_wait_stop(struct store_wait *wait)
{
    struct store *store = wait->store;
    if (!store)
        return; /* it has never waited */
    store_lock(store);
    if (!list_empty(&wait->link))
        wait_leave(&wait->link);
    if (answer_take_back(&wait->answer))
        store->waits_told--;
    store_unlock(store);
}

static void wait_answer(struct store_wait *wait, int err)
{
    wait->store->waits_told++;
    answer_give(&wait->answer, err);
}

/* One put a tick, and none while those that were given up still have an extent for each of those who wait: no more go than it takes. A put
 * holds its room until whoever feeds it has seen that it was given up. */
static void slowest_give_up(struct store *store, uint64_t waiting)
{
    struct list *slowest = list_first(&store->filling);
    if (!slowest || store->giving_bytes >= waiting * POOL_EXTENT_BYTES)
        return;
    struct store_put *put = CONTAINER_OF(slowest, struct store_put, filling);
    if (now_ms(store) - put->room_ms < SLOW_PUT_MS)
        return;
    list_remove(&put->filling);
    put->giving_bytes = put->counted;
    store->giving_bytes += put->giving_bytes;
    store->figures.puts_given_up++;
}

static bool wait_is_for_room(const struct store_wait *wait)
{
    return wait->put != NULL;
}

/* Their time is over. Where those that go leave room behind, as many of the others try once more as it may do for: puts that wait for each
 * other do not all go at once. */
static void waits_end(struct store *store, struct list *due)
{
    uint64_t freed = 0;
    for (struct list *at; (at = list_first(due)) != NULL;) {
        struct store_wait *wait = wait_leave(at);
        if (wait_is_for_room(wait) && !wait->last_try && freed >= POOL_EXTENT_BYTES) {
            freed -= POOL_EXTENT_BYTES;
            wait->last_try = true;
            wait_answer(wait, 0);
            continue;
        }
        freed += wait_is_for_room(wait) ? wait->put->counted : 0;
        store->figures.waits_expired++;
        wait_answer(wait, KVD_EBUSY);
    }
}

static void wait_tick(struct timer *timer)
{
    struct store *store = CONTAINER_OF(timer, struct store, wait_timer);
    uint64_t for_room = 0;
    struct list due;
    list_init(&due);
    for (struct list *at = store->waits.next, *next; at != &store->waits; at = next) {
        next = at->next;
        const struct store_wait *wait = CONTAINER_OF(at, struct store_wait, link);
        for_room += wait_is_for_room(wait);
        if (wait->until_ms <= now_ms(store)) {
            list_remove(at);
            list_push_back(&due, at);
        }
    }
    load_expire_starved(store);
    probe_expire(store);
    slowest_give_up(store, for_room);
    waits_end(store, &due);
    if (!list_empty(&store->waits) || !list_empty(&store->starved) || !list_empty(&store->probings_in_time))
        timer_start(&store->wait_timer, WAIT_TICK_MS);
}

/* Everybody who waited when the turn began tries once; who finds no room waits again, behind the others. */
static void room_run(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, room_task);
    load_retry_starved(store);
    struct list now;
    list_init(&now);
    list_move_all(&now, &store->waits);
    for (struct list *at; (at = list_first(&now)) != NULL;) {
        wait_answer(wait_leave(at), 0);
    }
}

void room_changed(struct store *store)
{
    CHECK(loop_is_mine(store->loop));
    store->room_changes++;
    if (!list_empty(&store->waits) || !list_empty(&store->starved))
        task_post(&store->room_task);
}

void wait_setup(struct store *store)
{
    timer_init(&store->wait_timer, store->loop, wait_tick);
    task_init(&store->room_task, store->loop, room_run);
    task_init(&store->evict_task, store->loop, evict_run);
    task_init(&store->ahead_task, store->loop, ahead_run);
}
