/* Put: bytes come straight into the pool, their sums growing with them; then the object is shown, whole. */
#include "store/store_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/sum.h"

/* The sum of the whole value, and that of the chunk that is arriving (values of more than one chunk only). */
struct hashing {
    struct sum whole;
    struct sum chunk;
};

bool store_may_hold_more(const struct store *store, uint64_t bytes)
{
    return table_held_memory_only_bytes(store->table) + store->pinning + bytes <= pool_size(store->pool) / 2;
}

bool store_may_hold(const struct store *store, const struct entry *entry)
{
    return entry_held(entry) || entry->place || store_may_hold_more(store, entry->size);
}

static int put_begin(struct store_put *put)
{
    struct store *store = put->store;
    struct entry *entry = store_find(store, put->key);
    if (entry && !put->replace && !store->config.in_cluster) {
        put->version = entry->version;
        return STORE_PRESENT;
    }
    if (put->size > pool_size(store->pool))
        return KVD_ETOOLARGE;
    if (!entry && !bound_admits(store))
        return KVD_EBUSY;
    if (policy_waits(store, put->ack_disk) && policy_queue_full(store, put->size))
        return KVD_EBUSY;
    struct hashing *hashing = aligned_alloc(_Alignof(struct hashing), sizeof *hashing);
    if (!hashing)
        return -ENOMEM;
    put->blob = blob_new(store->pool, put->size);
    if (!put->blob || blob_sums_make(put->blob) != 0) {
        free(hashing);
        put_abort(put);
        return -ENOMEM;
    }
    sum_init(&hashing->whole);
    sum_init(&hashing->chunk);
    put->hashing = hashing;
    return STORE_OK;
}

static void put_tell(struct store_answer *answer)
{
    struct store_put *put = CONTAINER_OF(answer, struct store_put, answer);
    put->fn(put, answer->outcome);
}

int store_put_begin(struct store_desk *desk, struct store_put *put)
{
    put->store = desk->store;
    put->blob = NULL;
    put->hashing = NULL;
    put->received = 0;
    put->counted = 0;
    put->shown = false;
    list_init(&put->filling);
    list_init(&put->sealed);
    put->giving_bytes = 0;
    put->retried = false;
    answer_init(&put->answer, desk, put_tell);
    store_lock(put->store);
    desk->room_seen = put->store->room_changes;
    int outcome = put_begin(put);
    store_unlock(put->store);
    return outcome;
}

static int put_grow(struct store_put *put)
{
    struct store *store = put->store;
    uint64_t extent = min_u64(POOL_EXTENT_BYTES, blob_room_needed(put->blob) - blob_room(put->blob));
    uint64_t inflight = store->inflight - store->late_bytes; /* however many reads hang, puts go on */
    bool alone = inflight == put->counted;
    if (!alone && inflight + extent > store->inflight_limit)
        return KVD_EBUSY;
    uint64_t before = blob_room(put->blob);
    int err = evict_for(store, put->blob, false);
    if (err)
        return err;
    uint64_t taken = blob_room(put->blob) - before;
    put->counted += taken;
    store->inflight += taken;
    put->room_ms = now_ms(store);
    if (put->giving_bytes == 0) /* given up once is given up */
        list_push_back(&store->filling, &put->filling);
    return 0;
}

/* Nobody else knows of its blob: what is there of it needs no lock. */
int store_put_room(struct store_put *put, void **base, size_t *len)
{
    CHECK(put->received < put->size);
    if (put->received == blob_room(put->blob)) {
        store_lock(put->store);
        put->answer.desk->room_seen = put->store->room_changes;
        list_remove(&put->filling); /* if it is to wait, that is not its own slowness */
        int err = put_grow(put);
        store_unlock(put->store);
        if (err)
            return err;
    }
    *base = blob_at(put->blob, put->received, len);
    *len = min_u64(*len, put->size - put->received);
    return 0;
}

/* Chunk sums are taken while the bytes are still in the cache; a value of one chunk needs none but its own. */
static void sum_chunks(struct store_put *put, const uint8_t *at, size_t len)
{
    struct hashing *hashing = put->hashing;
    uint64_t *sums = blob_sums(put->blob);
    uint64_t offset = put->received;
    while (len > 0) {
        size_t part = min_u64(len, POOL_CHUNK_BYTES - offset % POOL_CHUNK_BYTES);
        sum_add(&hashing->chunk, at, part);
        at += part;
        len -= part;
        offset += part;
        if (offset % POOL_CHUNK_BYTES == 0 || offset == put->size) {
            sums[(offset - 1) / POOL_CHUNK_BYTES] = sum_value(&hashing->chunk);
            sum_init(&hashing->chunk);
        }
    }
}

void store_put_received(struct store_put *put, size_t len)
{
    struct hashing *hashing = put->hashing;
    size_t contiguous;
    const uint8_t *at = blob_at(put->blob, put->received, &contiguous);
    CHECK(len <= contiguous && len <= put->size - put->received);
    sum_add(&hashing->whole, at, len);
    if (blob_sums(put->blob))
        sum_chunks(put, at, len);
    put->received += len;
}

bool store_put_given_up(const struct store_put *put)
{
    store_lock(put->store);
    bool given_up = put->giving_bytes > 0;
    store_unlock(put->store);
    return given_up;
}

/* The body is no longer under way. */
static void settle_body(struct store_put *put)
{
    list_remove(&put->filling);
    free(put->hashing);
    put->hashing = NULL;
    put->store->giving_bytes -= put->giving_bytes;
    put->giving_bytes = 0;
}

void put_settle_room(struct store_put *put)
{
    settle_body(put);
    put->store->inflight -= put->counted;
    put->counted = 0;
    room_changed(put->store);
}

void put_abort(struct store_put *put)
{
    if (!put->blob)
        return;
    put_unseal(put);
    put_settle_room(put);
    unref(put->store, put->blob);
    put->blob = NULL;
}

void store_put_abort(struct store_put *put)
{
    if (!put->blob)
        return;
    store_lock(put->store);
    put_abort(put);
    store_unlock(put->store);
}

static int present(struct store_put *put, struct entry *entry)
{
    put->version = entry->version;
    put->checksum = entry->checksum;
    probe_aside(put->store, entry);
    put->store->figures.puts_present++;
    policy_touched(put->store, entry);
    return put->ack_disk ? durable_start(put->store, put, entry, STORE_PRESENT) : STORE_PRESENT;
}

static uint64_t end_of(const struct store_put *put)
{
    const uint64_t most = (uint64_t)1 << 48;
    return put->ttl_ms > 0 && put->ttl_ms <= most ? clock_now_ms(put->store) + put->ttl_ms : 0;
}

/* Where the value goes: the old one's entry, if that can have an end as the new one has, or needs none. NULL: the heap is out. */
static struct entry *entry_for(struct store *store, struct span key, struct entry *old, bool mortal)
{
    uint64_t hash = table_hash(store->table, key);
    store->figures.puts_replaced += old != NULL;
    if (old && (!mortal || entry_expiry(old))) {
        entry_strip(store, old);
        return old;
    }
    if (old)
        entry_forget(store, old);
    return mortal ? table_add_mortal(store->table, key, hash) : table_add(store->table, key, hash);
}

int put_enter(struct store_put *put, struct entry *old, uint64_t version, uint64_t end_ms)
{
    struct store *store = put->store;
    bool again = old || sketch_knows(store->dropped, table_hash(store->table, put->key));
    struct entry *entry = entry_for(store, put->key, old, end_ms > 0);
    if (!entry) {
        put_abort(put);
        return -ENOMEM;
    }
    entry->version = version;
    entry_set_size(entry, put->size);
    entry->checksum = put->checksum;
    entry->blob = put->blob;
    entry->put_tick = table_tick(now_ms(store));
    entry->used_tick = entry->put_tick;
    entry->hits = 0;
    if (entry_expiry(entry))
        expire_at(store, entry, end_ms);
    entry->flags |= (uint16_t)((put->pin ? ENTRY_PINNED : 0) | (again ? ENTRY_TOUCHED : 0));
    table_settle(store->table, entry);
    put->blob = NULL;
    put->version = entry->version;
    put->shown = true;
    store->figures.puts++;
    store->figures.put_bytes += put->size;
    evict_check(store);
    if (put->ack_disk)
        return durable_start(store, put, entry, STORE_OK);
    policy_shown(store, entry);
    return STORE_OK;
}

static int publish(struct store_put *put)
{
    struct store *store = put->store;
    struct entry *entry = store_find(store, put->key);
    if (entry && !put->replace) {
        put_abort(put);
        return present(put, entry);
    }
    probe_overtake(store, put->key);
    return put_enter(put, entry, disk_next_version(store->disk), end_of(put));
}

/* Could a restart bring back an older value of this key over the one that is about to be shown, or a look at the directory another host's?
 * Then the remove log must say first that it is dead (invariant I4). A write under way goes on: until the new value is shown, the old one
 * is what there is. */
static bool must_kill_first(struct store *store, const struct store_put *put, struct entry *entry)
{
    if (!store->recovered || store->overflowing > 0 || disk_kill_pending(store->disk, put->key))
        return true;
    if ((store->doubt > 0 || store->config.probe) && put->replace)
        return true;
    return entry && (entry->place || entry->flags & ENTRY_STRAY || !persist_withdraw(store, entry));
}

/* The log's entry reaches the old value whenever it is written. The kill of an object's own file takes what is there: a write that began
 * behind it brings the old value back. */
static bool written_behind(struct store *store, struct entry *entry)
{
    return disk_has_objects(store->disk) && !persist_withdraw(store, entry);
}

/* Was the key put again, and perhaps removed, while our entry of the log was on its way? That does not reach what may be on disk of the
 * newer one. Entries of other puts that wait as we do are no reason to wait once more: two of them would wait for each other for ever. */
static bool overtaken(struct store *store, const struct store_put *put)
{
    struct entry *entry = store_find(store, put->key);
    if (!entry)
        return (disk_kill_pending(store->disk, put->key) && died_since(store, put->key, put->kill.version)) ||
               (put->replace && store->doubt > put->kill.version);
    if (!put->replace)
        return false;
    return entry->version > put->kill.version ? must_kill_first(store, put, entry) : written_behind(store, entry);
}

static void killed(struct disk_kill *kill, int err);

static int kill_first(struct store_put *put)
{
    struct store *store = put->store;
    put->kill = (struct disk_kill){
        .kind = KILL_KEY,
        .name = put->key,
        .version = disk_next_version(store->disk),
        .whoever = true,
        .keep = !put->replace, /* the old value stays if a replace fails */
    };
    int err = disk_kill_start(store->disk, &put->kill, killed);
    if (err) {
        put_abort(put);
        return err;
    }
    store->pinning += put->pin ? put->size : 0;
    return STORE_PENDING;
}

/* Only a replace promises that the old value is dead: any other put goes on without the disk (P8). */
static void killed(struct disk_kill *kill, int err)
{
    struct store_put *put = CONTAINER_OF(kill, struct store_put, kill);
    struct store *store = put->store;
    store->pinning -= put->pin ? put->size : 0;
    int outcome = store->forgetting ? KVD_ECLOSING : err;
    if (err)
        in_doubt(store);
    if (store->forgetting || (err && put->replace))
        put_abort(put);
    else
        outcome = overtaken(store, put) ? kill_first(put) : publish(put);
    if (outcome != STORE_PENDING)
        answer_give(&put->answer, outcome);
}

int put_judge(struct store_put *put, uint64_t checksum)
{
    struct store *store = put->store;
    if (put->has_checksum && put->checksum != checksum) {
        store->figures.puts_corrupt++;
        put_abort(put);
        return KVD_ECORRUPT;
    }
    put->checksum = checksum;
    settle_body(put);
    return STORE_OK;
}

int put_admit(struct store_put *put)
{
    const struct store *store = put->store;
    bool holds_too_much = put->pin && !store_may_hold_more(store, put->size);
    if (!store->forgetting && !holds_too_much)
        return STORE_OK;
    put_abort(put);
    return store->forgetting ? KVD_ECLOSING : KVD_EBUSY;
}

static int put_commit(struct store_put *put, uint64_t checksum)
{
    struct store *store = put->store;
    CHECK(!store->config.in_cluster);
    int outcome = put_judge(put, checksum);
    if (outcome != STORE_OK)
        return outcome;
    put_settle_room(put);
    struct entry *entry = store_find(store, put->key);
    if (entry && !put->replace) {
        put_abort(put);
        return present(put, entry);
    }
    outcome = put_admit(put);
    if (outcome != STORE_OK)
        return outcome;
    if (!must_kill_first(store, put, entry))
        return publish(put);
    enum disk_state state = disk_state(store->disk);
    if (!put->replace && (state == DISK_OPENING || state == DISK_OFF || state == DISK_TRIPPED)) {
        /* Nobody knows when the log can be written, and memory keeps its latency (P8). */
        bury(store, put->key, disk_next_version(store->disk), 0);
        return publish(put);
    }
    return kill_first(put);
}

uint64_t put_finish(struct store_put *put)
{
    const struct hashing *hashing = put->hashing;
    CHECK(put->received == put->size);
    blob_zero_tail(put->blob);
    return sum_value(&hashing->whole);
}

int store_put_commit(struct store_put *put, store_put_fn fn)
{
    uint64_t checksum = put_finish(put);
    put->fn = fn;
    store_lock(put->store);
    int outcome = put_commit(put, checksum);
    put->unseen = outcome == STORE_PENDING && put->blob;
    store_unlock(put->store);
    return outcome;
}

static int put_present(struct store_put *put)
{
    struct entry *entry = store_find(put->store, put->key);
    if (entry)
        return present(put, entry);
    if (put->ack_disk)
        return KVD_EBUSY; /* on no disk, and its bytes are skipped: the next try stores them */
    put->store->figures.puts_present++;
    return STORE_PRESENT;
}

int store_put_present(struct store_put *put, store_put_fn fn)
{
    put->fn = fn;
    store_lock(put->store);
    int outcome = put_present(put);
    store_unlock(put->store);
    return outcome;
}
