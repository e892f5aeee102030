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
};

/* A file on its way out. */
struct dying {
    struct store *store;
    struct disk_kill kill;
    uint8_t key[];
};

static bool above(const struct store *store, uint64_t percent)
{
    struct disk_figures figures;
    disk_get_figures(store->disk, &figures);
    return figures.used_bytes > figures.limit_bytes / 100 * percent;
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
        .bytes = disk_object_bytes(entry->key_len, entry->size),
        .keep = true,
    };
    if (disk_kill_start(store->disk, &dying->kill, died) != 0) {
        free(dying);
        return false;
    }
    store->dying_objects++;
    store->figures.reclaimed_objects++;
    note_dead(store, entry_key(entry), entry->version);
    if (entry->blob && !store->config.probe) {
        entry_forget_disk(store, entry);
        return true;
    }
    store->figures.dropped_reclaimed++;
    entry_forget(store, entry);
    return true;
}

/* Returns how many go. */
static unsigned step(struct store *store)
{
    struct segment *own = disk_own_objects(store->disk);
    struct shelf *shelf = own ? shelf_of(store, own) : NULL;
    uint64_t begun_us = step_begin();
    uint64_t bytes = 0;
    unsigned n = 0;
    for (; n < STEP_KEYS && bytes < STEP_BYTES && shelf; n++) {
        struct entry *entry = victim_of(shelf, now_ms(store));
        bytes += entry ? entry->size : 0;
        if (!entry || !give_up(store, entry))
            break;
    }
    step_end(store, "reclaim", begun_us);
    return n;
}

static void run(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, objects_task);
    if (store->closing || store->dying_objects > 0)
        return;
    store->reclaiming = (above(store, LOW_PERCENT) || bound_is_near(store)) && step(store) > 0;
}

void reclaim_objects_setup(struct store *store)
{
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

void reclaim_objects_check(struct store *store)
{
    bool segments = !disk_has_objects(store->disk);
    if (segments || store->closing || !store->recovered || store->reclaiming || !(above(store, HIGH_PERCENT) || bound_is_near(store)))
        return;
    store->reclaiming = true;
    task_post(&store->objects_task);
}
