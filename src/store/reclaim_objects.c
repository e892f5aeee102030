/* Room on disk where each object is a file: they go one by one. Of those at the head of the queue the one that was used least recently
 * goes; the others get to its end, which is their second chance. What is pinned, leased or being read stays. */
#include "store/store_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum {
    LOOKED_AT = 16, /* for one that goes */
    HIGH_PERCENT = 95,
    LOW_PERCENT = 90,
    GIVE_BACK_SHARE = 16, /* of what is used, each time that the file system is too full */
};

/* A file on its way out. */
struct dying {
    struct store *store;
    struct disk_kill kill;
    uint8_t key[];
};

static bool above(const struct store *store, uint64_t percent)
{
    return disk_used_bytes(store->disk) > disk_usable_bytes(store->disk) / 100 * percent;
}

/* Is there a reason to go on, once begun? */
static bool goes_on(struct store *store)
{
    return above(store, LOW_PERCENT) || bound_is_near(store) || disk_used_bytes(store->disk) > store->objects_goal;
}

static void died(struct disk_kill *kill, int err)
{
    struct dying *dying = CONTAINER_OF(kill, struct dying, kill);
    struct store *store = dying->store;
    store->dying_objects--;
    if (err) {
        store->doom_failed = true;
        in_doubt(store);
    }
    free(dying);
    if (store->dying_objects == 0 && store->reclaiming)
        task_post(&store->objects_task);
}

static bool may_go(const struct entry *entry)
{
    return !entry_held(entry) && !entry->work;
}

static struct entry *victim_of(struct shelf *shelf, uint64_t now)
{
    struct entry *victim = NULL;
    struct list *objects = &shelf->place.objects;
    for (unsigned n = 0; n < LOOKED_AT && n < shelf->place.count; n++) {
        struct list *first = list_pop_front(objects);
        struct entry *entry = CONTAINER_OF(first, struct entry, in_place);
        list_push_back(objects, first);
        if (may_go(entry) && (!victim || table_ms_since(entry->used_tick, now) > table_ms_since(victim->used_tick, now)))
            victim = entry;
    }
    return victim;
}

/* Where other hosts look for the file, memory does not outlive it: a remove there could not reach it. */
static bool give_up(struct store *store, struct entry *entry)
{
    struct dying *dying = calloc(1, sizeof *dying + entry->key_len);
    if (!dying)
        return false;
    memcpy(dying->key, entry->key, entry->key_len);
    dying->store = store;
    dying->kill = (struct disk_kill){
        .kind = KILL_KEY,
        .name = span_of(dying->key, entry->key_len),
        .version = entry->version,
        .bytes = entry_file_bytes(store, entry),
        .keep = true,
    };
    if (disk_kill_start(store->disk, &dying->kill, died) != 0) {
        free(dying);
        return false;
    }
    store->dying_objects++;
    store->figures.reclaimed_objects++;
    note_dead(store, entry_key(entry), entry->version);
    if (entry->blob && !store->config.probe && !bound_is_near(store))
        entry_forget_disk(store, entry);
    else
        entry_drop(store, entry, &store->figures.dropped_reclaimed);
    return true;
}

/* What is another host's takes no room but in the table. */
static bool let_go(struct store *store, struct entry *entry)
{
    entry_drop(store, entry, &store->figures.dropped_reclaimed);
    return true;
}

/* Returns how many go of those in this segment. */
static unsigned step_in(struct store *store, struct segment *segment, bool (*leave)(struct store *store, struct entry *entry))
{
    struct shelf *shelf = segment ? shelf_of(store, segment) : NULL;
    uint64_t begun_us = step_begin();
    uint64_t bytes = 0;
    unsigned n = 0;
    for (; n < STEP_KEYS && bytes < STEP_BYTES && shelf; n++) {
        struct entry *entry = victim_of(shelf, now_ms(store));
        bytes += entry ? entry->size : 0;
        if (!entry || !leave(store, entry))
            break;
    }
    step_end(store, "reclaim", begun_us);
    return n;
}

static unsigned step(struct store *store)
{
    enum disk_state state = disk_state(store->disk);
    if (state != DISK_ON && state != DISK_RECOVERING)
        return 0;
    unsigned n = bound_is_near(store) ? step_in(store, disk_others_objects(store->disk), let_go) : 0;
    return n > 0 ? n : step_in(store, disk_own_objects(store->disk), give_up);
}

static void run(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, objects_task);
    if (store->closing || store->dying_objects > 0)
        return;
    store->reclaiming = goes_on(store) && step(store) > 0;
    if (!store->reclaiming)
        store->objects_goal = UINT64_MAX;
    else if (store->dying_objects == 0)
        task_post(task);
}

void reclaim_objects_setup(struct store *store)
{
    store->objects_goal = UINT64_MAX;
    task_init(&store->objects_task, store->loop, run);
}

bool reclaim_objects_full(struct store *store)
{
    if (store->dying_objects > 0)
        return true;
    bool failed = store->doom_failed;
    store->doom_failed = false;
    return !failed && step(store) > 0;
}

static void begin(struct store *store)
{
    if (store->reclaiming)
        return;
    store->reclaiming = true;
    if (store->dying_objects == 0)
        task_post(&store->objects_task);
}

void reclaim_objects_check(struct store *store)
{
    bool files = disk_has_objects(store->disk) && !store->closing && store->recovered;
    if (files && (above(store, HIGH_PERCENT) || bound_is_near(store)))
        begin(store);
}

void reclaim_objects_give_back(struct store *store)
{
    uint64_t used = disk_used_bytes(store->disk);
    store->objects_goal = max_u64(store->config.disk_min_bytes, used - used / GIVE_BACK_SHARE);
    begin(store);
}
