/* plant.c - functions of the server that are looked at, or broken on purpose, on their way (by -Wl,--wrap). */
#include <stdlib.h>

#include "base/error.h"
#include "meta/lease.h"
#include "session.h"
#include "sim.h"
#include "tier/pool.h"
#include "tier/record.h"

void __real_table_drop(struct table *table, struct entry *entry);
void __wrap_table_drop(struct table *table, struct entry *entry);
void __real_table_set_place(struct table *table, struct entry *entry, struct place *place, uint32_t block, uint32_t blocks);
void __wrap_table_set_place(struct table *table, struct entry *entry, struct place *place, uint32_t block, uint32_t blocks);
int __real_disk_segment_kill_start(struct disk *disk, struct disk_kill *kill, struct segment *segment, disk_kill_fn fn);
int __wrap_disk_segment_kill_start(struct disk *disk, struct disk_kill *kill, struct segment *segment, disk_kill_fn fn);
int __real_disk_kill_start(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn);
int __wrap_disk_kill_start(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn);
bool __real_disk_kill_pending(const struct disk *disk, struct span key);
bool __wrap_disk_kill_pending(const struct disk *disk, struct span key);
int __real_disk_sync_start(struct disk *disk, struct disk_sync *sync, const struct disk_where *where, disk_sync_fn fn);
int __wrap_disk_sync_start(struct disk *disk, struct disk_sync *sync, const struct disk_where *where, disk_sync_fn fn);
int __real_disk_read_start(struct disk *disk, struct disk_read *read, disk_read_fn fn);
int __wrap_disk_read_start(struct disk *disk, struct disk_read *read, disk_read_fn fn);
int __real_disk_write_start(struct disk *disk, struct disk_write *write, disk_write_fn fn);
int __wrap_disk_write_start(struct disk *disk, struct disk_write *write, disk_write_fn fn);
int __real_probe_first(struct store *store, struct store_get *get, struct span key, struct entry *entry);
int __wrap_probe_first(struct store *store, struct store_get *get, struct span key, struct entry *entry);
bool __real_persist_detach(struct store *store, struct entry *entry);
bool __wrap_persist_detach(struct store *store, struct entry *entry);
int __real_lease_add(struct leases *leases, uint64_t id, struct entry *entry);
int __wrap_lease_add(struct leases *leases, uint64_t id, struct entry *entry);
void __real_blob_unref(struct blob *blob);
void __wrap_blob_unref(struct blob *blob);
void __real_session_reply(struct session *session, uint8_t op, uint64_t id, enum code code, const struct schema *schema, const void *msg);
void __wrap_session_reply(struct session *session, uint8_t op, uint64_t id, enum code code, const struct schema *schema, const void *msg);

static const char *const names[PLANT_COUNT] = {
    [PLANT_NONE] = "none",
    [PLANT_SYNC_LIES] = "sync-lies",
    [PLANT_KILL_AT_ONCE] = "remove-at-once",
    [PLANT_DETACH_FORGETS] = "remove-forgets-write",
    [PLANT_LEASE_IGNORED] = "lease-ignored",
    [PLANT_NO_CHECKSUM] = "torn-unseen",
    [PLANT_NO_LENGTH] = "short-unseen",
    [PLANT_NO_VERSION] = "version-unseen",
    [PLANT_REUSE] = "buffer-reused",
    [PLANT_ACK_EARLY] = "ack-early",
    [PLANT_KILL_UNSEEN] = "kill-unseen",
    [PLANT_LOST_REPLY] = "lost-reply",
    [PLANT_LEAK] = "leak",
    [PLANT_NO_RECHECK] = "file-unchecked",
    [PLANT_KILL_OWN] = "remove-own-only",
    [PLANT_ORDER] = "unlink-first",
    [PLANT_LENT] = "lent-early",
};

const char *plant_name(enum plant plant)
{
    return names[plant];
}

bool planted(enum plant plant)
{
    return sim->options->plant == plant;
}

/* ---- what is dropped ---- */

static void sums(uint64_t *counted, uint64_t *early, uint64_t *bad)
{
    const struct store_figures *figures = &sim->host->life->server.store->figures;
    *counted =
        figures->dropped_evicted + figures->dropped_untouched + figures->dropped_shed + figures->dropped_reclaimed + figures->dropped_index;
    *early = figures->dropped_versions;
    *bad = figures->dropped_corrupt + figures->dropped_short + figures->dropped_elsewhere;
}

void drops_look(void)
{
    sums(&sim->host->drops_counted, &sim->host->drops_early, &sim->host->drops_bad);
}

static void look_at(const struct entry *entry, enum drop_kind kind)
{
    int key = sim_key_index(entry_key(entry));
    if (key >= 0)
        history_drop(&sim->history, (unsigned)key, kind);
}

/* The store counts first and forgets then. */
void __wrap_table_drop(struct table *table, struct entry *entry)
{
    uint64_t counted, early, bad;
    sums(&counted, &early, &bad);
    if (counted > sim->host->drops_counted)
        look_at(entry, DROP_COUNTED);
    else if (early > sim->host->drops_early)
        look_at(entry, DROP_EARLY);
    else if (bad > sim->host->drops_bad)
        look_at(entry, DROP_BAD);
    drops_look();
    __real_table_drop(table, entry);
}

/* I3: what lies where an object's disk replica is said to be is this version of this key. */
static void check_place(const struct entry *entry, struct place *place, uint32_t block)
{
    uint8_t header[BLOCK_BYTES];
    char path[256];
    struct record record;
    struct segment *segment = CONTAINER_OF(place, struct shelf, place)->segment;
    struct disk_where where = {.segment = segment, .block = block};
    snprintf(path, sizeof path, "/disk/%s", disk_file_of(sim->host->life->server.store->disk, &where, entry_key(entry)));
    struct inode *inode = vfs_find(&sim->vfs, path);
    if (!inode || sim->fault_count > 0 || (sim->host_count > 1 && sim->scenario.probe)) /* another host may have replaced it meanwhile */
        return;
    uint64_t at = segment_is_objects(segment) ? 0 : (uint64_t)block * BLOCK_BYTES;
    uint64_t got = vfs_read(inode, at, header, sizeof header);
    if (got < sizeof header || record_parse(header, sizeof header, &record) != 0)
        sim_fail("an object is said to be on disk where there is no record");
    if (record.version != entry->version || !span_equal(record.key, entry_key(entry)))
        sim_fail("version %llu of an object is said to be on disk where version %llu is", (unsigned long long)entry->version,
                 (unsigned long long)record.version);
}

void __wrap_table_set_place(struct table *table, struct entry *entry, struct place *place, uint32_t block, uint32_t blocks)
{
    if (place)
        check_place(entry, place, block);
    else
        look_at(entry, DROP_UNPLACED);
    __real_table_set_place(table, entry, place, block, blocks);
}

/* ---- answers that come too early ---- */

static void kill_ends(void *arg)
{
    struct disk_kill *kill = arg;
    struct loop *loop = sim->host->life->server.store->loop;
    loop_lock(loop);
    kill->fn(kill, 0);
    loop_unlock(loop);
}

static int kill_at_once(struct disk_kill *kill, disk_kill_fn fn)
{
    kill->fn = fn;
    event_add(chance_below(50), true, kill_ends, kill);
    return 0;
}

int __wrap_disk_segment_kill_start(struct disk *disk, struct disk_kill *kill, struct segment *segment, disk_kill_fn fn)
{
    const struct shelf *shelf = segment_user(segment);
    for (struct list *at = shelf->place.objects.next; at != &shelf->place.objects; at = at->next)
        look_at(CONTAINER_OF(at, struct entry, in_place), DROP_UNPLACED);
    if (planted(PLANT_ORDER))
        return kill_at_once(kill, fn);
    return __real_disk_segment_kill_start(disk, kill, segment, fn);
}

int __wrap_disk_kill_start(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn)
{
    int key = kill->kind == KILL_KEY ? sim_key_index(kill->name) : -1;
    note("kill", kill->kind, (uint64_t)(key + 1), kill->version);
    kill->whoever &= !planted(PLANT_KILL_OWN);
    if (planted(PLANT_KILL_AT_ONCE) && disk_state(disk) != DISK_OFF)
        return kill_at_once(kill, fn);
    return __real_disk_kill_start(disk, kill, fn);
}

static void sync_ends(void *arg)
{
    struct disk_sync *sync = arg;
    struct loop *loop = sim->host->life->server.store->loop;
    loop_lock(loop);
    sync->fn(sync, 0);
    loop_unlock(loop);
}

int __wrap_disk_sync_start(struct disk *disk, struct disk_sync *sync, const struct disk_where *where, disk_sync_fn fn)
{
    if (!planted(PLANT_ACK_EARLY))
        return __real_disk_sync_start(disk, sync, where, fn);
    sync->fn = fn;
    event_add(chance_below(50), true, sync_ends, sync);
    return 0;
}

/* ---- what is not looked at ---- */

bool __wrap_disk_kill_pending(const struct disk *disk, struct span key)
{
    return !planted(PLANT_KILL_UNSEEN) && __real_disk_kill_pending(disk, key);
}

int __wrap_probe_first(struct store *store, struct store_get *get, struct span key, struct entry *entry)
{
    bool unchecked = entry && entry->blob && planted(PLANT_NO_RECHECK);
    return unchecked ? STORE_MISS : __real_probe_first(store, get, key, entry);
}

bool __wrap_persist_detach(struct store *store, struct entry *entry)
{
    bool perhaps = __real_persist_detach(store, entry);
    return !planted(PLANT_DETACH_FORGETS) && perhaps;
}

int __wrap_lease_add(struct leases *leases, uint64_t id, struct entry *entry)
{
    return planted(PLANT_LEASE_IGNORED) ? 0 : __real_lease_add(leases, id, entry);
}

/* ---- reads that are not judged, or not waited for ---- */

enum { REUSE_AFTER_US = 5 * MS };

/* Stands between the store and the disk tier. The server's memory: a crash takes it away. */
struct watched {
    struct disk_read read;
    struct disk_read *real; /* NULL: it was answered early */
    disk_read_fn fn;
    struct event *deadline;
};

static void watched_ends(struct disk_read *read, int err)
{
    struct watched *watched = CONTAINER_OF(read, struct watched, read);
    struct disk_read *real = watched->real;
    disk_read_fn fn = watched->fn;
    if (watched->deadline)
        event_cancel(watched->deadline);
    free(watched);
    bool unseen = (planted(PLANT_NO_CHECKSUM) && err == KVD_ECORRUPT) || (planted(PLANT_NO_LENGTH) && err == KVD_ESHORT);
    if (real)
        fn(real, unseen ? 0 : err);
}

/* The deadline has passed, and the buffer is given back though the kernel may still write into it. */
static void watched_late(void *arg)
{
    struct watched *watched = arg;
    struct disk_read *real = watched->real;
    watched->real = NULL;
    watched->deadline = NULL;
    watched->read.err = KVD_ETIMEOUT; /* the bytes that still come are not looked at */
    struct loop *loop = sim->host->life->server.store->loop;
    loop_lock(loop);
    watched->fn(real, KVD_ETIMEOUT);
    loop_unlock(loop);
}

int __wrap_disk_read_start(struct disk *disk, struct disk_read *read, disk_read_fn fn)
{
    bool stands = planted(PLANT_NO_CHECKSUM) || planted(PLANT_NO_LENGTH) || planted(PLANT_REUSE);
    if (!stands)
        return __real_disk_read_start(disk, read, fn);
    struct watched *watched = malloc(sizeof *watched);
    *watched = (struct watched){.read = *read, .real = read, .fn = fn};
    int err = __real_disk_read_start(disk, &watched->read, watched_ends);
    if (err)
        free(watched);
    else if (planted(PLANT_REUSE))
        watched->deadline = event_add(REUSE_AFTER_US, true, watched_late, watched);
    return err;
}

/* ---- a write whose object is another one by now ---- */

static disk_write_fn write_fn;

static void written_unseen(struct disk_write *write, int err)
{
    const struct writing *writing = CONTAINER_OF(write, struct writing, write);
    struct store *store = writing->store;
    struct entry *entry = table_find(store->table, write->key, table_hash(store->table, write->key));
    struct shelf *shelf = err || writing->entry ? NULL : shelf_of(store, write->where.segment);
    if (entry && shelf && !entry->place)
        __wrap_table_set_place(store->table, entry, &shelf->place, write->where.block, write->where.blocks);
    write_fn(write, err);
}

int __wrap_disk_write_start(struct disk *disk, struct disk_write *write, disk_write_fn fn)
{
    if (!planted(PLANT_NO_VERSION))
        return __real_disk_write_start(disk, write, fn);
    write_fn = fn;
    return __real_disk_write_start(disk, write, written_unseen);
}

/* ---- what is lost ---- */

void __wrap_blob_unref(struct blob *blob)
{
    if (planted(PLANT_LEAK) && ++sim->plant_turn % 100 == 0)
        return;
    __real_blob_unref(blob);
}

void __wrap_session_reply(struct session *session, uint8_t op, uint64_t id, enum code code, const struct schema *schema, const void *msg)
{
    if (planted(PLANT_LOST_REPLY) && op == OP_REMOVE && ++sim->plant_turn % 20 == 0)
        return;
    __real_session_reply(session, op, id, code, schema, msg);
}
