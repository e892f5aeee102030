/* Memory to disk: one write an object, in the background; the table gains the replica only if the object is still the same. */
#include "store/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

static void syncs_check(struct store *store);

struct shelf *shelf_of(struct store *store, struct segment *segment)
{
    struct shelf *shelf = segment_user(segment);
    if (shelf)
        return shelf;
    shelf = calloc(1, sizeof *shelf);
    if (!shelf)
        return NULL;
    place_init(&shelf->place);
    shelf->store = store;
    shelf->segment = segment;
    list_init(&shelf->writings);
    task_init(&shelf->step, store->loop, reclaim_step);
    list_push_back(&store->shelves, &shelf->link);
    segment_set_user(segment, shelf);
    return shelf;
}

/* ---- dead without anybody waiting ---- */

struct burial {
    struct store *store;
    struct disk_kill kill;
    uint8_t key[];
};

void in_doubt(struct store *store)
{
    if (store->doubt == 0 && !store->closing)
        log_warn(store->log, "disk_in_doubt", "what=\"unknown records may be there: every remove and replace waits for the disk\"");
    store->doubt = disk_next_version(store->disk);
}

static void buried(struct disk_kill *kill, int err)
{
    struct burial *burial = CONTAINER_OF(kill, struct burial, kill);
    if (err)
        in_doubt(burial->store);
    changed(burial->store, kill->name, kill->version);
    free(burial);
}

static void not_buried(struct store *store, struct span key, uint64_t version)
{
    in_doubt(store);
    changed(store, key, version);
}

void note_dead(struct store *store, struct span key, uint64_t version)
{
    uint64_t *slot = &store->dead[table_hash(store->table, key) % DEAD_SLOTS];
    *slot = max_u64(*slot, version);
}

bool died_since(const struct store *store, struct span key, uint64_t version)
{
    return store->dead[table_hash(store->table, key) % DEAD_SLOTS] > version;
}

void bury(struct store *store, struct span key, uint64_t version, uint64_t bytes)
{
    note_dead(store, key, version);
    struct disk_kill kill = {.kind = KILL_KEY, .name = key, .version = version, .keep = true, .bytes = bytes};
    struct burial *burial = malloc(sizeof *burial + key.len);
    if (!burial) {
        disk_kill_missed(store->disk, &kill);
        not_buried(store, key, version);
        return;
    }
    memcpy(burial->key, key.at, key.len);
    kill.name.at = burial->key;
    burial->store = store;
    burial->kill = kill;
    if (disk_kill_start(store->disk, &burial->kill, buried) != 0) {
        not_buried(store, key, version);
        free(burial);
    }
}

/* In a cluster that is nobody's concern but ours, and no put or remove here depends on it. */
void entry_is_stray(struct store *store, struct entry *entry)
{
    if (store->config.in_cluster)
        entry->flags |= ENTRY_STRAY;
    else
        in_doubt(store);
}

/* ---- writes ---- */

static void count_unwritten(struct store *store, int err)
{
    struct store_figures *figures = &store->figures;
    switch (err) {
    case KVD_EOFF:
        figures->unwritten_off++;
        break;
    case KVD_EFULL:
    case KVD_ETOOLARGE:
        figures->unwritten_full++;
        break;
    case -EEXIST:
        figures->unwritten_collision++;
        break;
    case KVD_ECLOSING:
        figures->unwritten_closing++;
        break;
    case -ENOMEM:
        figures->unwritten_memory++;
        break;
    default:
        figures->unwritten_error++;
    }
}

/* The object has a new disk replica. Without a shelf (the heap is out) it goes on in memory alone. */
int persist_shelve(struct store *store, struct writing *writing)
{
    struct shelf *shelf = shelf_of(store, writing->write.where.segment);
    if (!shelf)
        return -ENOMEM;
    writing->entry->flags &= (uint16_t) ~(ENTRY_UNWRITABLE | ENTRY_SHED);
    entry_set_place(store, writing->entry, shelf, writing->write.where.block, writing->write.where.blocks);
    changed_on_disk(store, writing->entry);
    return 0;
}

/* The object stays in memory alone. A record of it may be on disk all the same, if a write of it ever began. */
static void not_written(struct writing *writing, int err)
{
    struct store *store = writing->store;
    store->write_failures++;
    if (err != KVD_EOFF) /* the tier may come back, and says at once when it is off */
        writing->entry->flags |= ENTRY_UNWRITABLE;
    count_unwritten(store, err);
    if (writing->write.attempts == 0)
        return;
    if (store->config.in_cluster) { /* its version is the owner's: it is buried when it leaves */
        writing->entry->flags |= ENTRY_STRAY;
        return;
    }
    bury(store, writing->write.key, writing->write.version, 0);
    entry_renew(store, writing->entry);
}

static void entry_written(struct writing *writing, int err)
{
    struct store *store = writing->store;
    if (err == 0)
        err = persist_shelve(store, writing);
    table_settle(store->table, writing->entry);
    if (err)
        not_written(writing, err);
    else if (writing->write.attempts > 1)
        entry_is_stray(store, writing->entry); /* by the first try */
}

static void writing_end(struct writing *writing, int err)
{
    struct store *store = writing->store;
    struct entry *entry = writing->entry;
    struct shelf *from = writing->from;
    uint64_t bytes = blob_size(writing->write.blob);
    if (entry) {
        entry->work = NULL;
        entry->flags &= (uint16_t)~ENTRY_WRITING;
        if (from)
            rewrite_written(writing, err);
        else
            entry_written(writing, err);
    }
    if (err == 0 && writing->write.attempts > 0)
        store->figures.written_value_bytes += blob_size(writing->write.blob);
    list_remove(&writing->link);
    list_remove(&writing->move_link);
    durable_written(store, writing, err);
    blob_unref(writing->write.blob);
    if (from)
        rewrite_ended(from, bytes);
    else if (err == 0 && writing->write.attempts > 0)
        rewrite_earn(store, writing->write.bytes);
    free(writing);
    syncs_check(store);
    evict_check(store);
    reclaim_objects_check(store);
    evictions_check(store);
    room_changed(store);
    reclaim_check(store);
}

static void copy_synced(struct disk_sync *sync, int err)
{
    writing_end(CONTAINER_OF(sync, struct writing, sync), err);
}

/* A copy counts from when it is on stable storage: what it is a copy of may have been acknowledged as being there. */
static void written(struct disk_write *write, int err)
{
    struct writing *writing = CONTAINER_OF(write, struct writing, write);
    if (err == 0 && writing->from && writing->entry) {
        err = disk_sync_start(writing->store->disk, &writing->sync, &write->where, copy_synced);
        if (err == 0)
            return;
    }
    writing_end(writing, err);
}

static void cancelled(struct task *task)
{
    writing_end(CONTAINER_OF(task, struct writing, late), 0);
}

static int writing_start(struct store *store, struct entry *entry, struct shelf *from)
{
    CHECK(entry->blob && !entry->work && loop_is_mine(store->loop));
    CHECK(blob_sums(entry->blob) || blob_chunks(entry->blob) <= 1); /* taken as it came, or read with it */
    struct writing *writing = calloc(1, sizeof *writing + entry->key_len);
    if (!writing)
        return -ENOMEM;
    memcpy(writing->key, entry->key, entry->key_len);
    writing->work.kind = WORK_WRITE;
    writing->store = store;
    writing->entry = entry;
    list_init(&writing->waiters);
    list_init(&writing->move_link);
    task_init(&writing->late, store->loop, cancelled);
    writing->write = (struct disk_write){
        .key = span_of(writing->key, entry->key_len),
        .version = entry->version,
        .checksum = entry->checksum,
        .expires_ms = expire_wall_ms(store, entry),
        .first = from != NULL, /* or it would come when its segment has gone: the queue is long when room is short */
        .blob = entry->blob,
    };
    int err = disk_write_start(store->disk, &writing->write, written);
    if (err) {
        free(writing);
        return err;
    }
    blob_ref(entry->blob);
    writing->number = ++store->writing_number;
    list_push_back(&store->writings, &writing->link);
    entry->work = &writing->work;
    entry->flags |= ENTRY_WRITING;
    if (from) {
        writing->from = from;
        writing->from_block = entry->block;
        list_push_back(&from->writings, &writing->move_link);
    }
    table_settle(store->table, entry);
    return 0;
}

int persist_start(struct store *store, struct entry *entry)
{
    CHECK(!entry->place);
    int err = writing_start(store, entry, NULL);
    if (err)
        count_unwritten(store, err);
    return err;
}

int persist_copy_start(struct store *store, struct entry *entry)
{
    return writing_start(store, entry, CONTAINER_OF(entry->place, struct shelf, place));
}

static struct writing *writing_of(const struct entry *entry)
{
    struct work *work = entry->work;
    return work && work->kind == WORK_WRITE ? CONTAINER_OF(work, struct writing, work) : NULL;
}

static void detach(struct store *store, struct entry *entry, struct writing *writing)
{
    writing->entry = NULL;
    entry->work = NULL;
    entry->flags &= (uint16_t)~ENTRY_WRITING;
    table_settle(store->table, entry);
}

bool persist_withdraw(struct store *store, struct entry *entry)
{
    struct writing *writing = writing_of(entry);
    if (!writing)
        return true;
    if (!disk_write_cancel(store->disk, &writing->write))
        return false;
    detach(store, entry, writing);
    task_post(&writing->late);
    return true;
}

bool persist_detach(struct store *store, struct entry *entry)
{
    if (persist_withdraw(store, entry))
        return false;
    detach(store, entry, writing_of(entry));
    return true;
}

void persist_lose(struct entry *entry, int err)
{
    struct writing *writing = writing_of(entry);
    if (writing)
        writing->lost = err;
}

/* ---- sync ---- */

static void sync_end(struct disk_sync *disk_sync, int err)
{
    struct store_sync *sync = CONTAINER_OF(disk_sync, struct store_sync, sync);
    sync->failed = sync->store->write_failures - sync->failed;
    answer_give(&sync->answer, err);
}

static int sync_disk(struct store_sync *sync)
{
    struct disk *disk = sync->store->disk;
    return sync->seal ? disk_seal_start(disk, &sync->sync, sync_end) : disk_sync_all_start(disk, &sync->sync, sync_end);
}

static bool still_writing(const struct store *store, uint64_t upto)
{
    struct list *first = list_first(&store->writings);
    return first && CONTAINER_OF(first, struct writing, link)->number <= upto;
}

static void sync_go_on(struct store_sync *sync)
{
    if (still_writing(sync->store, sync->upto))
        return;
    list_remove(&sync->link);
    int err = sync_disk(sync);
    if (err)
        sync_end(&sync->sync, err);
}

bool persist_queue_has_room(const struct store *store)
{
    return disk_queued_bytes(store->disk) < store->queue_limit;
}

uint64_t persist_moved_ms(const struct store *store)
{
    struct list *first = list_first(&store->writings);
    return first ? disk_write_moved_ms(store->disk, &CONTAINER_OF(first, struct writing, link)->write) : now_ms(store);
}

/* The sync of a close waits for as long as the process has time. */
void syncs_expire(struct store *store)
{
    for (struct list *at = store->syncs.next, *next; at != &store->syncs; at = next) {
        next = at->next;
        struct store_sync *sync = CONTAINER_OF(at, struct store_sync, link);
        if (sync == &store->last_sync || !waits_in_vain(store, &sync->since_ms, persist_moved_ms(store)))
            continue;
        list_remove(&sync->link);
        task_cancel(&sync->step);
        sync_end(&sync->sync, KVD_ETIMEOUT);
    }
}

static void syncs_check(struct store *store)
{
    for (struct list *at = store->syncs.next, *next; at != &store->syncs; at = next) {
        next = at->next;
        struct store_sync *sync = CONTAINER_OF(at, struct store_sync, link);
        if (!sync->walking)
            sync_go_on(sync);
        else if (persist_queue_has_room(store))
            task_post(&sync->step);
    }
}

/* What the policy would have on disk, and is in memory alone: its write failed or was skipped, its segment was given up, its time has not
 * come. */
static void write_unwritten(void *arg, struct entry *entry)
{
    struct store *store = arg;
    if (entry->blob && !entry->place && !entry->work && policy_wants(store, entry) && persist_start(store, entry) != 0)
        store->write_failures++;
}

/* How many objects there are at most that the policy might still write. */
static uint64_t unwritten(const struct store *store)
{
    struct table_sums sums;
    table_sums(store->table, &sums);
    uint64_t copied = store->reclaim.moving ? store->reclaim.moving->moves : 0; /* those are on disk and being written */
    uint64_t stored = sums.on_disk + sums.writing - min_u64(sums.writing, copied);
    return store->config.persist == PERSIST_NONE || sums.objects <= stored ? 0 : sums.objects - stored;
}

static bool start_hottest(struct store *store)
{
    struct entry *entry = table_hottest_dirty(store->table);
    return entry && !(entry->flags & ENTRY_UNWRITABLE) && policy_wants(store, entry) && persist_start(store, entry) == 0;
}

/* The hottest first, as long as it is as simple as that: what the policy does not want, and what failed before, is left to the walk over
 * the whole table that follows. No more than were there at the start, for others may be putting. False when it is time for the walk. */
static bool write_hottest(struct store_sync *sync)
{
    for (unsigned n = 0; n < STEP_KEYS && sync->hot_left > 0 && persist_queue_has_room(sync->store); n++)
        sync->hot_left = start_hottest(sync->store) ? sync->hot_left - 1 : 0;
    return sync->hot_left > 0;
}

static void sync_step(struct task *task)
{
    enum { LOOKED_AT = 1024 };
    struct store_sync *sync = CONTAINER_OF(task, struct store_sync, step);
    struct store *store = sync->store;
    if (!persist_queue_has_room(store))
        return; /* syncs_check() goes on when it has drained */
    uint64_t begun_us = step_begin();
    if (write_hottest(sync)) {
        step_end(store, "sync", begun_us);
        task_post(&sync->step);
        return;
    }
    sync->cursor = table_scan(store->table, sync->cursor, span_of(NULL, 0), STEP_KEYS, LOOKED_AT, write_unwritten, store);
    step_end(store, "sync", begun_us);
    if (sync->cursor != 0) {
        task_post(&sync->step);
        return;
    }
    sync->walking = false;
    sync->upto = store->writing_number;
    sync_go_on(sync);
}

static void sync_tell(struct store_answer *answer)
{
    struct store_sync *sync = CONTAINER_OF(answer, struct store_sync, answer);
    sync->fn(sync, answer->outcome);
}

int sync_start(struct store_desk *desk, struct store_sync *sync, bool seal, store_sync_fn fn)
{
    struct store *store = desk->store;
    *sync = (struct store_sync){.store = store, .fn = fn, .seal = seal, .upto = store->writing_number, .failed = store->write_failures};
    answer_init(&sync->answer, desk, sync_tell);
    list_init(&sync->link);
    task_init(&sync->step, store->loop, sync_step);
    if (!disk_works(store))
        return KVD_EOFF;
    sync->hot_left = unwritten(store);
    sync->walking = sync->hot_left > 0;
    if (sync->walking)
        task_post(&sync->step);
    if (sync->walking || still_writing(store, sync->upto)) {
        sync->since_ms = now_ms(store);
        list_push_back(&store->syncs, &sync->link);
        durable_watch(store);
        return STORE_PENDING;
    }
    int err = sync_disk(sync);
    return err ? err : STORE_PENDING;
}

int store_sync_start(struct store_desk *desk, struct store_sync *sync, bool seal, store_sync_fn fn)
{
    store_lock(desk->store);
    int err = sync_start(desk, sync, seal, fn);
    store_unlock(desk->store);
    return err;
}
