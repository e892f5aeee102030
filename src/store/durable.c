/* ack: disk. Who waits here is answered when the object would survive a power cut. */
#include "store/store_impl.h"

#include <errno.h>

#include "base/error.h"

enum { LOOKS = 64 }; /* at those who wait, a step */

static void synced(struct disk_sync *sync, int err);

/* ---- a write that hangs ---- */

/* Who has seen nothing happen to the write for --disk-timeout is told: it may be durable yet. A long queue that moves is no reason. */
static void look(struct timer *timer)
{
    struct store *store = CONTAINER_OF(timer, struct store, durable_timer);
    unsigned n = 0;
    for (; n < LOOKS && !list_empty(&store->durables); n++) {
        struct store_put *put = CONTAINER_OF(list_first(&store->durables), struct store_put, late_link);
        if (!waits_in_vain(store, &put->since_ms, 0))
            break;
        const struct writing *writing = put->waits_for;
        list_remove(&put->late_link);
        if (!waits_in_vain(store, &put->since_ms, disk_write_moved_ms(store->disk, &writing->write))) {
            list_push_back(&store->durables, &put->late_link);
        } else {
            list_remove(&put->link);
            answer_give(&put->answer, KVD_ETIMEOUT);
        }
    }
    syncs_expire(store);
    evictions_expire(store);
    if (n == LOOKS && !store->closing)
        timer_start(timer, 0); /* more may be due */
    durable_watch(store);
}

void durable_watch(struct store *store)
{
    bool waited_for = !list_empty(&store->durables) || !list_empty(&store->syncs) || !list_empty(&store->evictions);
    if (waited_for && !store->durable_timer.active && !store->closing)
        timer_start(&store->durable_timer, max_u64(disk_timeout_ms(store->disk) / 4, WAIT_TICK_MS));
}

void durable_setup(struct store *store)
{
    list_init(&store->durables);
    timer_init(&store->durable_timer, store->loop, look);
}

void durable_stop(struct store *store)
{
    timer_stop(&store->durable_timer);
}

/* ---- who waits ---- */

static int sync_where(struct store_put *put, struct segment *segment, uint32_t block, uint32_t blocks)
{
    struct disk_where where = {.segment = segment, .block = block, .blocks = blocks};
    int err = disk_sync_start(put->store->disk, &put->sync, &where, synced);
    return err ? err : STORE_PENDING;
}

int durable_start(struct store *store, struct store_put *put, struct entry *entry, int outcome)
{
    put->outcome = outcome;
    if (entry->place && CONTAINER_OF(entry->place, struct shelf, place)->doomed)
        return KVD_EBUSY; /* what is there dies at any moment, and until then a remove must know that it is there */
    if (entry->place)
        return sync_where(put, CONTAINER_OF(entry->place, struct shelf, place)->segment, entry->block, entry->blocks);
    if (!entry->work) {
        int err = persist_start(store, entry);
        if (err)
            return err;
    }
    struct writing *writing = CONTAINER_OF((struct work *)entry->work, struct writing, work);
    list_push_back(&writing->waiters, &put->link);
    put->waits_for = writing;
    put->since_ms = now_ms(store);
    list_push_back(&store->durables, &put->late_link);
    durable_watch(store);
    return STORE_PENDING;
}

/* Once more, elsewhere, if the object is still the one that this is about. */
static int write_again(struct store_put *put, struct entry *entry)
{
    if (!entry->blob || put->retried)
        return -EIO;
    put->retried = true;
    if (entry->place) {
        entry_forget_disk(put->store, entry);
        changed(put->store, put->key, entry->version);
    }
    return durable_start(put->store, put, entry, put->outcome);
}

/* A failed fsync says nothing of what reached the disk: a record may be there that the table does not know of. Without an error the
 * replica may be gone all the same: its bytes were found to be wrong. */
static void synced(struct disk_sync *sync, int err)
{
    struct store_put *put = CONTAINER_OF(sync, struct store_put, sync);
    struct store *store = put->store;
    struct entry *entry = table_find(store->table, put->key, table_hash(store->table, put->key));
    bool same = entry && entry->checksum == put->checksum;
    int outcome = put->outcome;
    if (err == KVD_ETIMEOUT) {
        answer_give(&put->answer, err); /* the table knows of the record, and of whatever comes of it */
        return;
    }
    if (err && same)
        entry_is_stray(store, entry);
    else if (err)
        in_doubt(store);
    if (same && err != KVD_EOFF && (err || !entry->place))
        outcome = write_again(put, entry);
    else if (err && (same || !entry))
        outcome = err; /* where the tier is off, what is there may yet be read when it comes back */
    if (outcome != STORE_PENDING)
        answer_give(&put->answer, outcome);
}

void durable_written(struct store *store, struct writing *writing, int err)
{
    (void)store;
    bool superseded = !writing->entry;
    for (struct list *at; (at = list_pop_front(&writing->waiters)) != NULL;) {
        struct store_put *put = CONTAINER_OF(at, struct store_put, link);
        list_remove(&put->late_link);
        int outcome = err;
        if (superseded)
            outcome = writing->lost ? writing->lost : put->outcome;
        else if (err == 0)
            outcome = sync_where(put, writing->write.where.segment, writing->write.where.block, writing->write.where.blocks);
        if (outcome != STORE_PENDING)
            answer_give(&put->answer, outcome);
    }
}
