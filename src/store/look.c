/* Look-ups, leases, pins: answered from the replica table alone. */
#include "store/store_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"

/* Before the i-th key of a batch. */
static void batch_goes_on(struct store *store, uint32_t i)
{
    if (i > 0 && i % STEP_KEYS == 0)
        store_let_others(store);
}

static bool well_formed(struct span key)
{
    return key.len >= 1 && key.len <= KEY_MAX_BYTES;
}

static struct entry *find(struct store *store, struct span key)
{
    return well_formed(key) ? store_find(store, key) : NULL;
}

/* Keys that are asked for together. What the table will read is fetched for several at once: the time of a look-up is that of waiting for
 * memory, and the waits of so many go by together. */
enum { AHEAD = 16 };
struct batch {
    struct store *store;
    const struct span *keys;
    uint32_t count;
    uint32_t ready; /* keys whose hashes are known */
    uint64_t hashes[AHEAD];
};

static void batch_fetch(struct batch *batch)
{
    const struct table *table = batch->store->table;
    uint32_t from = batch->ready, end = (uint32_t)min_u64(batch->count, (uint64_t)from + AHEAD);
    for (uint32_t i = from; i < end; i++) {
        if (!well_formed(batch->keys[i]))
            continue;
        batch->hashes[i % AHEAD] = table_hash(table, batch->keys[i]);
        table_prefetch(table, batch->hashes[i % AHEAD]);
    }
    for (uint32_t i = from; i < end; i++)
        if (well_formed(batch->keys[i]))
            table_prefetch_entry(table, batch->hashes[i % AHEAD]);
    batch->ready = end;
}

/* Each key in its turn. */
static struct entry *batch_find(struct batch *batch, uint32_t i)
{
    if (i == batch->ready)
        batch_fetch(batch);
    return well_formed(batch->keys[i]) ? store_find_hashed(batch->store, batch->keys[i], batch->hashes[i % AHEAD]) : NULL;
}

static uint8_t where(const struct entry *entry)
{
    return (uint8_t)((entry->blob ? IN_MEMORY : 0) | (entry->place ? ON_DISK : 0));
}

/* What is on a segment that is being given up, and nowhere else, is as good as gone. */
static bool leasable(const struct store *store, const struct entry *entry)
{
    if (!entry->blob && CONTAINER_OF(entry->place, struct shelf, place)->doomed)
        return false;
    return store_may_hold(store, entry);
}

/* The lease of one request: opened with the first object that it holds. */
struct taking {
    struct store *store;
    struct lease_owner *owner;
    uint64_t lease_ms;
    uint64_t id;
};

static bool take_lease(struct taking *taking, struct entry *entry)
{
    struct leases *leases = taking->store->leases;
    if (taking->lease_ms == 0)
        return true;
    if (!leasable(taking->store, entry))
        return false;
    if (taking->id == 0 && lease_open(leases, taking->owner, now_ms(taking->store) + taking->lease_ms, &taking->id) != 0)
        return false;
    return lease_add(leases, taking->id, entry) == 0;
}

uint32_t store_exists(struct store *store, const struct span *keys, uint32_t count, uint64_t lease_ms, struct lease_owner *owner,
                      uint8_t *present, uint64_t *lease)
{
    struct taking taking = {.store = store, .owner = owner, .lease_ms = lease_ms};
    struct batch batch = {.store = store, .keys = keys, .count = count};
    uint32_t found = 0;
    store_lock(store);
    for (uint32_t i = 0; i < count; i++) {
        batch_goes_on(store, i);
        struct entry *entry = batch_find(&batch, i);
        present[i] = entry && take_lease(&taking, entry) ? where(entry) : 0;
        found += present[i] != 0;
    }
    store->figures.exists_keys += count;
    store_unlock(store);
    *lease = taking.id;
    return found;
}

static void match_warm(struct store *store, struct entry *entry)
{
    if (!entry->blob && !entry->work)
        (void)load_start(store, entry, NULL);
}

void store_match(struct store *store, const struct span *keys, uint32_t count, uint64_t lease_ms, bool warm, struct lease_owner *owner,
                 struct store_matched *out)
{
    struct taking taking = {.store = store, .owner = owner, .lease_ms = lease_ms};
    struct batch batch = {.store = store, .keys = keys, .count = count};
    struct store_matched matched = {0};
    store_lock(store);
    for (; matched.count < count; matched.count++) {
        batch_goes_on(store, matched.count);
        struct entry *entry = batch_find(&batch, matched.count);
        if (!entry || !take_lease(&taking, entry))
            break;
        matched.memory += entry->blob != NULL;
        if (warm)
            match_warm(store, entry);
    }
    if (lease_ms > 0)
        touch(store, keys, matched.count);
    store->figures.match_keys += count;
    store->figures.match_hits += matched.count;
    store_unlock(store);
    matched.lease = taking.id;
    *out = matched;
}

void store_release(struct store *store, uint64_t lease, const struct span *keys, uint32_t count)
{
    store_lock(store);
    if (!keys)
        lease_release(store->leases, lease);
    for (uint32_t i = 0; keys && i < count; i++) {
        batch_goes_on(store, i);
        struct entry *entry = find(store, keys[i]);
        if (entry)
            lease_release_entry(store->leases, lease, entry);
    }
    room_changed(store);
    store_unlock(store);
}

void store_owner_end(struct store *store, struct lease_owner *owner)
{
    store_lock(store);
    lease_owner_end(store->leases, owner);
    room_changed(store);
    store_unlock(store);
}

uint32_t store_pin(struct store *store, const struct span *keys, uint32_t count, bool pinned)
{
    uint32_t changed = 0;
    store_lock(store);
    for (uint32_t i = 0; i < count; i++) {
        batch_goes_on(store, i);
        struct entry *entry = find(store, keys[i]);
        if (!entry || !!(entry->flags & ENTRY_PINNED) == pinned || (pinned && !leasable(store, entry)))
            continue;
        entry->flags ^= ENTRY_PINNED;
        table_settle(store->table, entry);
        changed++;
    }
    if (!pinned)
        room_changed(store);
    store_unlock(store);
    return changed;
}

static int stat_of(struct store *store, struct span key, struct store_stat *out)
{
    struct entry *entry = find(store, key);
    if (!entry)
        return STORE_MISS;
    *out = (struct store_stat){
        .size = entry->size,
        .version = entry->version,
        .checksum = entry->checksum,
        .age_ms = table_ms_since(entry->put_tick, now_ms(store)),
        .idle_ms = table_ms_since(entry->used_tick, now_ms(store)),
        .hits = entry->hits,
        .pinned = (entry->flags & ENTRY_PINNED) != 0,
        .leased = (entry->flags & ENTRY_LEASED) != 0,
        .memory = entry->blob != NULL,
        .disk = entry->place != NULL,
        .disk_writing = (entry->flags & ENTRY_WRITING) != 0,
    };
    const struct expiry *expiry = entry_expiry(entry);
    out->mortal = expiry && expiry->at_ms > 0;
    if (out->mortal)
        out->ttl_ms = expiry->at_ms - min_u64(expiry->at_ms, clock_now_ms(store));
    if (entry->place) {
        struct segment *segment = CONTAINER_OF(entry->place, struct shelf, place)->segment;
        struct disk_where where = {.segment = segment, .block = entry->block, .blocks = entry->blocks};
        snprintf(out->file, sizeof out->file, "%s", disk_file_of(store->disk, &where, key));
        out->offset = segment_is_objects(segment) ? 0 : (uint64_t)entry->block * BLOCK_BYTES;
    }
    return STORE_OK;
}

int store_stat(struct store *store, struct span key, struct store_stat *out)
{
    store_lock(store);
    int outcome = stat_of(store, key, out);
    store_unlock(store);
    return outcome;
}

/* Some segments, or some objects, at a time: they are told when the lock is let go. */
struct told_segment {
    struct store_segment segment;
    char file[STORE_FILE_BYTES];
};

static unsigned segments_gather(struct store *store, uint64_t cursor, struct told_segment *out, unsigned most)
{
    unsigned count = 0;
    uint64_t wall_ms = loop_wall_ms(store->loop);
    for (struct segment *at = NULL; count < most && (at = disk_segment_next(store->disk, at)) != NULL;) {
        if (segment_sequence(at) <= cursor)
            continue;
        const struct shelf *shelf = segment_user(at);
        struct told_segment *told = &out[count++];
        snprintf(told->file, sizeof told->file, "%s", segment_path(at));
        told->segment = (struct store_segment){
            .file = told->file,
            .state = segment_state_name(at),
            .sequence = segment_sequence(at),
            .bytes = segment_bytes(at),
            .live_objects = shelf ? shelf->place.count : 0,
            .live_bytes = shelf ? shelf->place.bytes : 0,
            .held = shelf ? shelf->place.held_disk_only : 0,
            .age_ms = wall_ms - min_u64(wall_ms, segment_created_ms(at)),
            .was_read = shelf && shelf->read_ms > 0,
            .idle_ms = shelf ? now_ms(store) - shelf->read_ms : 0,
        };
    }
    return count;
}

uint64_t store_segments(struct store *store, uint64_t cursor, uint32_t limit, store_segment_fn fn, void *arg)
{
    enum { AT_A_TIME = 16 };
    struct told_segment told[AT_A_TIME];
    uint32_t left = limit;
    for (;;) {
        store_lock(store);
        unsigned count = segments_gather(store, cursor, told, AT_A_TIME);
        store_unlock(store);
        for (unsigned i = 0; i < count; i++, left--) {
            if (left == 0)
                return cursor;
            fn(arg, &told[i].segment);
            cursor = told[i].segment.sequence;
        }
        if (count < AT_A_TIME)
            return 0;
    }
}

enum { SCAN_KEYS = STEP_KEYS, SCAN_STEPS = 1024, ALIKE = TABLE_BUCKET_MOST /* whose 64-bit hashes are the same come together */ };

struct scanning {
    struct store *store;
    unsigned count;
    struct told_object {
        struct store_scanned object;
        uint8_t key[KEY_MAX_BYTES];
    } told[SCAN_KEYS + ALIKE];
};

static void scan_one(void *arg, struct entry *entry)
{
    struct scanning *scanning = arg;
    if (entry_expired(scanning->store, entry)) {
        entry_expire(scanning->store, entry);
        return;
    }
    CHECK(scanning->count < SCAN_KEYS + ALIKE);
    struct told_object *told = &scanning->told[scanning->count++];
    memcpy(told->key, entry->key, entry->key_len);
    told->object = (struct store_scanned){
        .key = span_of(told->key, entry->key_len),
        .size = entry->size,
        .memory = entry->blob != NULL,
        .disk = entry->place != NULL,
    };
}

uint64_t store_scan(struct store *store, uint64_t cursor, struct span prefix, uint32_t limit, store_scan_fn fn, void *arg)
{
    enum { STEPS = 4096 };
    struct scanning scanning = {.store = store};
    uint32_t steps = STEPS;
    do {
        uint32_t most = (uint32_t)min_u64(limit, SCAN_KEYS);
        scanning.count = 0;
        store_lock(store);
        cursor = table_scan(store->table, cursor, prefix, most, SCAN_STEPS, scan_one, &scanning);
        store_unlock(store);
        for (unsigned i = 0; i < scanning.count; i++)
            fn(arg, &scanning.told[i].object);
        limit -= (uint32_t)min_u64(limit, scanning.count);
        steps -= SCAN_STEPS;
    } while (cursor != 0 && limit > 0 && steps > 0);
    return cursor;
}
