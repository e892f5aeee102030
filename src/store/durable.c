/* ack: disk. Who waits here is answered when the object would survive a power cut. */
#include "store/store_impl.h"

#include <errno.h>

static void synced(struct disk_sync *sync, int err);

static int sync_where(struct store_put *put, struct segment *segment, uint32_t block, uint32_t blocks)
{
    struct disk_where where = {.segment = segment, .block = block, .blocks = blocks};
    int err = disk_sync_start(put->store->disk, &put->sync, &where, synced);
    return err ? err : STORE_PENDING;
}

int durable_start(struct store *store, struct store_put *put, struct entry *entry, int outcome)
{
    put->outcome = outcome;
    if (entry->place)
        return sync_where(put, CONTAINER_OF(entry->place, struct shelf, place)->segment, entry->block, entry->blocks);
    if (!entry->work) {
        int err = persist_start(store, entry);
        if (err)
            return err;
    }
    struct writing *writing = CONTAINER_OF((struct work *)entry->work, struct writing, work);
    list_push_back(&writing->waiters, &put->link);
    return STORE_PENDING;
}

/* A failed fsync says nothing of what reached the disk: the object is written once more, elsewhere. */
static int write_again(struct store_put *put)
{
    struct store *store = put->store;
    struct entry *entry = table_find(store->table, put->key, table_hash(store->table, put->key));
    if (!entry || entry->version != put->version)
        return put->outcome; /* superseded meanwhile: there is nothing left to keep */
    if (!entry->blob || put->retried)
        return -EIO;
    put->retried = true;
    if (entry->place)
        table_set_place(store->table, entry, NULL, 0, 0);
    return durable_start(store, put, entry, put->outcome);
}

static void synced(struct disk_sync *sync, int err)
{
    struct store_put *put = CONTAINER_OF(sync, struct store_put, sync);
    int outcome = err ? write_again(put) : put->outcome;
    if (outcome != STORE_PENDING)
        put->fn(put, outcome);
}

void durable_written(struct store *store, struct writing *writing, int err)
{
    (void)store;
    bool superseded = !writing->entry;
    for (struct list *at; (at = list_pop_front(&writing->waiters)) != NULL;) {
        struct store_put *put = CONTAINER_OF(at, struct store_put, link);
        int outcome = err;
        if (superseded)
            outcome = put->outcome;
        else if (err == 0)
            outcome = sync_where(put, writing->write.where.segment, writing->write.where.block, writing->write.where.blocks);
        if (outcome != STORE_PENDING)
            put->fn(put, outcome);
    }
}
