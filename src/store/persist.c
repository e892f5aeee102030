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
    task_init(&shelf->step, store->loop, reclaim_step);
    list_push_back(&store->shelves, &shelf->link);
    segment_set_user(segment, shelf);
    return shelf;
}

/* ---- dead without anybody waiting ---- */

struct burial {
    struct disk_kill kill;
    uint8_t key[];
};

static void buried(struct disk_kill *kill, int err)
{
    (void)err; /* the tier has counted and logged it */
    free(CONTAINER_OF(kill, struct burial, kill));
}

void bury(struct store *store, struct span key, uint64_t version)
{
    struct burial *burial = malloc(sizeof *burial + key.len);
    if (!burial)
        return;
    memcpy(burial->key, key.at, key.len);
    burial->kill = (struct disk_kill){.kind = KILL_KEY, .name = span_of(burial->key, key.len), .version = version};
    if (disk_kill_start(store->disk, &burial->kill, buried) != 0)
        free(burial);
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
static int shelve(struct store *store, struct writing *writing)
{
    struct shelf *shelf = shelf_of(store, writing->write.where.segment);
    if (!shelf)
        return -ENOMEM;
    table_set_place(store->table, writing->entry, &shelf->place, writing->write.where.block, writing->write.where.blocks);
    blob_sums_drop(writing->write.blob);
    return 0;
}

static void writing_end(struct writing *writing, int err)
{
    struct store *store = writing->store;
    struct entry *entry = writing->entry;
    if (entry) {
        entry->work = NULL;
        entry->flags &= (uint8_t)~ENTRY_WRITING;
        if (err == 0)
            err = shelve(store, writing);
        table_settle(store->table, entry);
    }
    if (err) {
        store->write_failures++;
        count_unwritten(store, err);
    }
    if (err && err != KVD_EFULL && err != KVD_EOFF && err != KVD_ECLOSING && err != KVD_ETOOLARGE)
        bury(store, writing->write.key, writing->write.version);
    list_remove(&writing->link);
    durable_written(store, writing, err);
    blob_unref(writing->write.blob);
    free(writing);
    syncs_check(store);
    room_changed(store);
}

static void written(struct disk_write *write, int err)
{
    writing_end(CONTAINER_OF(write, struct writing, write), err);
}

static void cancelled(struct task *task)
{
    writing_end(CONTAINER_OF(task, struct writing, late), 0);
}

int persist_start(struct store *store, struct entry *entry)
{
    CHECK(entry->blob && !entry->work && !entry->place);
    struct writing *writing = calloc(1, sizeof *writing + entry->key_len);
    int err = -ENOMEM;
    if (!writing)
        goto fail;
    memcpy(writing->key, entry->key, entry->key_len);
    writing->work.kind = WORK_WRITE;
    writing->store = store;
    writing->entry = entry;
    list_init(&writing->waiters);
    task_init(&writing->late, store->loop, cancelled);
    writing->write = (struct disk_write){
        .key = span_of(writing->key, entry->key_len),
        .version = entry->version,
        .checksum = entry->checksum,
        .blob = entry->blob,
    };
    err = disk_write_start(store->disk, &writing->write, written);
    if (err)
        goto fail;
    blob_ref(entry->blob);
    writing->number = ++store->writing_number;
    list_push_back(&store->writings, &writing->link);
    entry->work = &writing->work;
    entry->flags |= ENTRY_WRITING;
    table_settle(store->table, entry);
    return 0;

fail:
    free(writing);
    count_unwritten(store, err);
    return err;
}

bool persist_detach(struct store *store, struct entry *entry)
{
    struct work *work = entry->work;
    if (!work || work->kind != WORK_WRITE)
        return false;
    struct writing *writing = CONTAINER_OF(work, struct writing, work);
    writing->entry = NULL;
    entry->work = NULL;
    entry->flags &= (uint8_t)~ENTRY_WRITING;
    table_settle(store->table, entry);
    if (!disk_write_cancel(store->disk, &writing->write))
        return true;
    task_post(&writing->late);
    return writing->write.attempts > 0;
}

/* ---- sync ---- */

static void sync_end(struct disk_sync *disk_sync, int err)
{
    struct store_sync *sync = CONTAINER_OF(disk_sync, struct store_sync, sync);
    sync->failed = sync->store->write_failures - sync->failed;
    sync->fn(sync, err);
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

static void syncs_check(struct store *store)
{
    for (struct list *at = store->syncs.next, *next; at != &store->syncs; at = next) {
        next = at->next;
        struct store_sync *sync = CONTAINER_OF(at, struct store_sync, link);
        if (still_writing(store, sync->upto))
            break; /* later ones wait for no less */
        list_remove(at);
        int err = sync_disk(sync);
        if (err)
            sync->fn(sync, err);
    }
}

int store_sync_start(struct store *store, struct store_sync *sync, bool seal, store_sync_fn fn)
{
    sync->store = store;
    sync->fn = fn;
    sync->seal = seal;
    sync->upto = store->writing_number;
    sync->failed = store->write_failures;
    list_init(&sync->link);
    if (disk_state(store->disk) == DISK_OFF)
        return KVD_EOFF;
    if (still_writing(store, sync->upto)) {
        list_push_back(&store->syncs, &sync->link);
        return STORE_PENDING;
    }
    int err = sync_disk(sync);
    return err ? err : STORE_PENDING;
}
