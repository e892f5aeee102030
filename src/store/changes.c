/* What a node of a cluster holds, and what of it has changed by itself: evicted, written, moved, reclaimed, lost. The keys are noted, once
 * each, and what is here of them is said when somebody asks.
 *
 * That a record is on disk is news only when it is synced. Nothing else may wait for that (a put that asks for no disk), so a sync follows
 * what was written by SYNC_BEHIND_MS, one for all of it. Who has been written since is looked at in the order of time: what stands before
 * it in its segment is synced with it. */
#include "store/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum {
    CHANGES_MOST = 1 << 16,  /* keys that are noted; then all of them are forgotten, and all there is must be told anew */
    CHANGES_BYTES = 8 << 20, /* of them */
    SYNC_BEHIND_MS = 250,
};

/* A key that is noted. */
struct change {
    struct list in_slot;
    struct list ready;   /* it is to be told; */
    struct list written; /* it has a record that may not be synced yet */
    uint64_t version;    /* the highest that this was about */
    size_t key_len;
    uint8_t key[];
};

static struct span change_key(const struct change *change)
{
    return span_of(change->key, change->key_len);
}

static void change_free(struct changes *changes, struct change *change)
{
    list_remove(&change->in_slot);
    list_remove(&change->ready);
    list_remove(&change->written);
    changes->count--;
    changes->bytes -= change->key_len;
    free(change);
}

static void free_if_done(struct changes *changes, struct change *change)
{
    if (list_empty(&change->ready) && list_empty(&change->written))
        change_free(changes, change);
}

static void forget_all(struct changes *changes)
{
    for (unsigned i = 0; i < CHANGE_SLOTS; i++)
        for (struct list *at; (at = list_first(&changes->slots[i])) != NULL;)
            change_free(changes, CONTAINER_OF(at, struct change, in_slot));
}

/* One event at a time is on its way. */
static void tell(struct changes *changes)
{
    if (changes->event_on_its_way || changes->stopped)
        return;
    changes->event_on_its_way = true;
    answer_give(&changes->event, 0);
}

static void event_tell(struct store_answer *answer)
{
    struct changes *changes = CONTAINER_OF(answer, struct changes, event);
    struct store *store = changes->store;
    store_lock(store);
    changes->event_on_its_way = false;
    store_unlock(store);
    store->events.changed(store->events_arg);
}

/* ---- noting ---- */

static struct change *change_of(struct changes *changes, struct span key, uint64_t version)
{
    struct list *slot = &changes->slots[table_hash(changes->store->table, key) % CHANGE_SLOTS];
    for (struct list *at = slot->next; at != slot; at = at->next) {
        struct change *change = CONTAINER_OF(at, struct change, in_slot);
        if (span_equal(change_key(change), key)) {
            change->version = max_u64(change->version, version);
            return change;
        }
    }
    bool fits = changes->count < CHANGES_MOST && changes->bytes + key.len <= CHANGES_BYTES;
    struct change *change = fits ? malloc(sizeof *change + key.len) : NULL;
    if (!change)
        return NULL;
    *change = (struct change){.version = version, .key_len = key.len};
    memcpy(change->key, key.at, key.len);
    list_init(&change->ready);
    list_init(&change->written);
    list_push_back(slot, &change->in_slot);
    changes->count++;
    changes->bytes += key.len;
    return change;
}

/* NULL: all that there is must be told anew, whatever this is about. */
static struct change *note(struct store *store, struct span key, uint64_t version)
{
    struct changes *changes = store->changes;
    if (!changes || changes->stopped || changes->lost)
        return NULL;
    struct change *change = change_of(changes, key, version);
    if (change)
        return change;
    forget_all(changes);
    changes->lost = true;
    tell(changes);
    return NULL;
}

static void ready(struct changes *changes, struct change *change)
{
    if (list_empty(&change->ready))
        list_push_back(&changes->ready, &change->ready);
    tell(changes);
}

void changed(struct store *store, struct span key, uint64_t version)
{
    struct change *change = note(store, key, version);
    if (change)
        ready(store->changes, change);
}

static struct disk_where where_of(const struct entry *entry)
{
    return (struct disk_where){CONTAINER_OF(entry->place, struct shelf, place)->segment, entry->block, entry->blocks};
}

static void sync_later(struct changes *changes)
{
    if (!changes->syncing && !changes->sync_timer.active)
        timer_start(&changes->sync_timer, SYNC_BEHIND_MS);
}

void changed_on_disk(struct store *store, const struct entry *entry)
{
    struct changes *changes = store->changes;
    struct change *change = note(store, entry_key(entry), entry->version);
    struct disk_where where = entry->place ? where_of(entry) : (struct disk_where){0};
    if (!change)
        return;
    if (disk_synced(&where) != DISK_NOT_SYNCED) {
        ready(changes, change);
        return;
    }
    if (list_empty(&change->written))
        list_push_back(&changes->written, &change->written);
    sync_later(changes);
}

/* ---- syncing ---- */

static void synced(struct disk_sync *sync, int err)
{
    (void)err; /* each record is looked at */
    struct changes *changes = CONTAINER_OF(sync, struct changes, sync);
    changes->syncing = false;
    if (!changes->stopped)
        task_post(&changes->synced_task);
}

static void sync_start_for(struct changes *changes, const struct disk_where *where)
{
    changes->syncing = disk_sync_start(changes->store->disk, &changes->sync, where, synced) == 0;
    if (!changes->syncing)
        sync_later(changes); /* the tier may come back */
}

/* The first of those that were written, if it still waits for a sync. */
static struct change *written_first(struct changes *changes, struct disk_where *where)
{
    struct store *store = changes->store;
    struct list *first = list_first(&changes->written);
    if (!first)
        return NULL;
    struct change *change = CONTAINER_OF(first, struct change, written);
    const struct entry *entry = table_find(store->table, change_key(change), table_hash(store->table, change_key(change)));
    if (entry && entry->place)
        *where = where_of(entry);
    if (entry && entry->place && disk_synced(where) == DISK_NOT_SYNCED)
        return change;
    list_remove(first);
    if (entry && entry->place && disk_synced(where) == DISK_SYNCED)
        ready(changes, change);
    free_if_done(changes, change);
    return NULL;
}

/* False: there are more than one step looks at. */
static bool written_look(struct changes *changes, struct change **waits, struct disk_where *where)
{
    *waits = NULL;
    for (unsigned n = 0; n < STEP_KEYS && !*waits && !list_empty(&changes->written); n++)
        *waits = written_first(changes, where);
    return *waits || list_empty(&changes->written);
}

static void on_synced(struct task *task)
{
    struct changes *changes = CONTAINER_OF(task, struct changes, synced_task);
    struct disk_where where;
    struct change *waits;
    if (!written_look(changes, &waits, &where))
        task_post(task);
    else if (waits)
        sync_later(changes);
}

static void on_sync_timer(struct timer *timer)
{
    struct changes *changes = CONTAINER_OF(timer, struct changes, sync_timer);
    struct disk_where where;
    struct change *waits;
    if (!written_look(changes, &waits, &where))
        task_post(&changes->synced_task);
    else if (waits)
        sync_start_for(changes, &where);
}

/* ---- telling ---- */

enum { TOLD_AT_ONCE = STEP_KEYS, ALIKE = TABLE_BUCKET_MOST /* whose 64-bit hashes are the same come together */ };

struct telling {
    struct store *store;
    unsigned count;
    struct told_holding {
        struct store_holding holding;
        uint8_t key[KEY_MAX_BYTES];
    } told[TOLD_AT_ONCE + ALIKE];
};

static struct store_holding *told_next(struct telling *telling, struct span key)
{
    CHECK(telling->count < TOLD_AT_ONCE + ALIKE);
    struct told_holding *told = &telling->told[telling->count++];
    memcpy(told->key, key.at, key.len);
    told->holding.key = span_of(told->key, key.len);
    return &told->holding;
}

static void holding_of_entry(struct store *store, struct entry *entry, struct store_holding *out)
{
    *out = (struct store_holding){
        .key = out->key,
        .version = entry->version,
        .size = entry->size,
        .checksum = entry->checksum,
        .expires_ms = expire_wall_ms(store, entry),
        .in_memory = entry->blob != NULL,
        .on_disk = entry->place != NULL,
        .sealed = put_is_sealed(store, out->key),
    };
    if (!entry->place)
        return;
    struct disk_where where = where_of(entry);
    out->synced = disk_synced(&where) == DISK_SYNCED;
    out->sequence = segment_sequence(where.segment);
    memcpy(out->segment_id, segment_id(where.segment), DISK_ID_BYTES);
    out->block = where.block;
    out->blocks = where.blocks;
}

/* out->key is set. What is being buried is not dead for certain. */
static void holding_of_key(struct store *store, uint64_t version, struct store_holding *out)
{
    struct entry *entry = table_find(store->table, out->key, table_hash(store->table, out->key));
    if (entry && !entry_expired(store, entry)) {
        holding_of_entry(store, entry, out);
        return;
    }
    *out = (struct store_holding){
        .key = out->key,
        .version = version,
        .sealed = put_is_sealed(store, out->key),
        .unsure = !store->recovered || store->overflowing > 0 || store->doubt > 0 || disk_kill_pending(store->disk, out->key),
    };
}

void store_holds(struct store *store, struct span key, struct store_holding *out)
{
    store_lock(store);
    CHECK(store->config.in_cluster);
    out->key = key;
    holding_of_key(store, 0, out);
    store_unlock(store);
}

static void tell_all(const struct telling *telling, store_holding_fn fn, void *arg)
{
    for (unsigned i = 0; i < telling->count; i++)
        fn(arg, &telling->told[i].holding);
}

uint32_t store_changes(struct store *store, uint32_t limit, bool *lost, store_holding_fn fn, void *arg)
{
    struct changes *changes = store->changes;
    struct telling telling = {.store = store};
    uint32_t told = 0;
    *lost = false;
    do {
        telling.count = 0;
        store_lock(store);
        *lost = changes->lost;
        changes->lost = false;
        for (struct list *at; telling.count < min_u64(TOLD_AT_ONCE, limit - told) && (at = list_pop_front(&changes->ready)) != NULL;) {
            struct change *change = CONTAINER_OF(at, struct change, ready);
            holding_of_key(store, change->version, told_next(&telling, change_key(change)));
            free_if_done(changes, change);
        }
        store_unlock(store);
        tell_all(&telling, fn, arg);
        told += telling.count;
    } while (!*lost && telling.count > 0 && told < limit);
    return told;
}

/* What is not synced yet is told again when it is. */
static void walk_one(void *arg, struct entry *entry)
{
    struct telling *telling = arg;
    if (entry_expired(telling->store, entry))
        return;
    holding_of_entry(telling->store, entry, told_next(telling, entry_key(entry)));
    struct disk_where where = entry->place ? where_of(entry) : (struct disk_where){0};
    if (entry->place && disk_synced(&where) == DISK_NOT_SYNCED)
        changed_on_disk(telling->store, entry);
}

uint64_t store_walk(struct store *store, uint64_t cursor, uint32_t limit, store_holding_fn fn, void *arg)
{
    enum { STEPS = 1024 };
    struct telling telling = {.store = store};
    CHECK(limit > 0);
    store_lock(store);
    cursor = table_scan(store->table, cursor, span_of(NULL, 0), (uint32_t)min_u64(limit, TOLD_AT_ONCE), STEPS, walk_one, &telling);
    store_unlock(store);
    tell_all(&telling, fn, arg);
    return cursor;
}

/* ---- its life ---- */

int changes_new(struct store *store)
{
    struct changes *changes = calloc(1, sizeof *changes);
    if (!changes)
        return -ENOMEM;
    CHECK(store->events.changed);
    changes->store = store;
    for (unsigned i = 0; i < CHANGE_SLOTS; i++)
        list_init(&changes->slots[i]);
    for (unsigned i = 0; i < SEALED_SLOTS; i++)
        list_init(&changes->sealed[i]);
    list_init(&changes->ready);
    list_init(&changes->written);
    timer_init(&changes->sync_timer, store->loop, on_sync_timer);
    task_init(&changes->synced_task, store->loop, on_synced);
    answer_init(&changes->event, &store->home, event_tell);
    store->changes = changes;
    return 0;
}

void changes_stop(struct store *store)
{
    if (!store->changes)
        return;
    store->changes->stopped = true;
    timer_stop(&store->changes->sync_timer);
    task_cancel(&store->changes->synced_task);
}

void changes_free(struct store *store)
{
    struct changes *changes = store->changes;
    if (!changes)
        return;
    for (unsigned i = 0; i < SEALED_SLOTS; i++)
        CHECK(list_empty(&changes->sealed[i]));
    forget_all(changes);
    free(changes);
    store->changes = NULL;
}
