/* Get: from memory at once, else by a read that everybody who asks meanwhile shares; the object comes back to memory by it. */
#include "store/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

static void loaded(struct disk_read *read, int err);

static void load_free(struct load *load)
{
    load->store->inflight -= load->counted;
    if (load->late)
        load->store->late_bytes -= load->counted;
    list_remove(&load->link);
    if (load->entry)
        load->entry->work = NULL;
    blob_unref(load->blob);
    free(load);
}

static const char *reason_of(int err)
{
    switch (err) {
    case KVD_ECORRUPT:
        return "corrupt";
    case KVD_ESHORT:
        return "short";
    case KVD_EOFF:
        return "disk off";
    case KVD_ETIMEOUT:
        return "timeout";
    case KVD_ESTALE:
    case STORE_MISS:
        return NULL;
    default:
        return "io error";
    }
}

static void get_take(struct store_get *get, struct blob *blob, uint64_t blob_starts_at)
{
    get->blob = blob_ref(blob);
    get->blob_offset = get->offset - blob_starts_at;
    get->blob_length = min_u64(get->length, get->size - get->offset);
    get->store->figures.get_bytes += get->blob_length;
    get->store->figures.get_disk_bytes += get->from_disk ? get->blob_length : 0;
}

static int miss(struct store_get *get, int err)
{
    struct store_figures *figures = &get->store->figures;
    figures->misses++;
    figures->read_errors += err != KVD_ECORRUPT && err != KVD_ESHORT && err != KVD_ESTALE && err != STORE_MISS;
    figures->read_timeouts += err == KVD_ETIMEOUT;
    get->reason = reason_of(err);
    return STORE_MISS;
}

/* Answer everybody who waits. */
static void answer(struct load *load, int err)
{
    for (struct list *at; (at = list_pop_front(&load->waiters)) != NULL;) {
        struct store_get *get = CONTAINER_OF(at, struct store_get, link);
        int outcome = STORE_OK;
        if (err == KVD_ESTALE && probe_again(load->store, get, load->read.key) == STORE_PENDING)
            continue;
        if (err == 0) {
            load->store->figures.hits_disk++;
            get_take(get, load->blob, load->read.offset);
        } else if (err == KVD_EBUSY || err == -ENOMEM) {
            outcome = KVD_EBUSY;
        } else {
            outcome = miss(get, err);
        }
        answer_give(&get->answer, outcome);
    }
}

void replica_drop(struct store *store, const struct disk_read *read, int err)
{
    struct entry *entry = table_find(store->table, read->key, table_hash(store->table, read->key));
    if (!entry || entry->version != read->version || !entry->place || entry->block != read->where.block ||
        CONTAINER_OF(entry->place, struct shelf, place)->segment != read->where.segment)
        return;
    if (err == KVD_ESTALE) {
        object_lost(store, entry);
        return;
    }
    if (store->config.in_cluster)
        entry->flags |= ENTRY_STRAY; /* its version is the owner's: it is buried when it leaves */
    else
        bury(store, read->key, read->version, 0);
    if (entry->blob && !store->config.probe) {
        entry_forget_disk(store, entry);
        changed(store, read->key, read->version);
        if (!store->config.in_cluster)
            entry_renew(store, entry);
        if (!entry->work)
            policy_shown(store, entry); /* it is written again, if the policy has it so */
        return;
    }
    entry_drop(store, entry, err == KVD_ECORRUPT ? &store->figures.dropped_corrupt : &store->figures.dropped_short);
}

static void promote(struct load *load)
{
    struct store *store = load->store;
    struct entry *entry = load->entry;
    if (!entry || entry->blob)
        return;
    entry->work = NULL;
    load->entry = NULL;
    blob_zero_tail(load->blob); /* it may be written again */
    entry->blob = blob_ref(load->blob);
    store->figures.promoted++;
    if (segment_is_objects(load->read.where.segment))
        table_checked(entry, table_tick(load->since_ms));
    table_settle(store->table, entry);
    evict_check(store);
}

/* Read to be written on: it comes back to memory only if somebody asked for it meanwhile. True when its write has begun. */
static bool move_on(struct load *load)
{
    struct entry *entry = load->entry;
    if (!entry)
        return false;
    if (!list_empty(&load->waiters))
        promote(load);
    load_detach(entry);
    return rewrite_read(load->store, entry, load->blob);
}

static void loaded(struct disk_read *read, int err)
{
    struct load *load = CONTAINER_OF(read, struct load, read);
    struct store *store = load->store;
    struct shelf *from = load->from;
    uint64_t bytes = blob_size(load->blob);
    bool moves = false;
    if (err == 0 && from)
        moves = move_on(load);
    else if (err == 0)
        promote(load);
    else if (err == KVD_ECORRUPT || err == KVD_ESHORT || err == KVD_ESTALE)
        replica_drop(store, &load->read, err);
    answer(load, err);
    load_free(load);
    if (from && !moves)
        rewrite_ended(from, bytes);
    room_changed(store);
}

/* Take room and start reading. KVD_EBUSY: no room now. */
static int load_go(struct load *load)
{
    struct store *store = load->store;
    uint64_t need = blob_room_needed(load->blob);
    if (store->inflight > 0 && store->inflight + need > store->inflight_limit)
        return KVD_EBUSY;
    int err = evict_for(store, load->blob, true);
    if (err)
        return err;
    err = disk_read_start(store->disk, &load->read, loaded);
    if (err)
        return err;
    load->counted = need;
    shelf_of(store, load->read.where.segment)->read_ms = now_ms(store);
    store->inflight += need;
    load->since_ms = now_ms(store);
    list_remove(&load->link);
    list_push_back(&store->reading, &load->link);
    if (store->config.read_timeout_ms > 0 && !store->read_timer.active)
        timer_start(&store->read_timer, store->config.read_timeout_ms);
    return 0;
}

void load_retry_starved(struct store *store)
{
    for (struct list *at; (at = list_first(&store->starved)) != NULL;) {
        struct load *load = CONTAINER_OF(at, struct load, link);
        int err = list_empty(&load->waiters) ? STORE_MISS : load_go(load); /* they may all have left */
        if (err == KVD_EBUSY)
            return;
        if (err) {
            list_remove(at);
            answer(load, err);
            load_free(load);
        }
    }
}

void load_expire_starved(struct store *store)
{
    for (struct list *at; (at = list_first(&store->starved)) != NULL;) {
        struct load *load = CONTAINER_OF(at, struct load, link);
        if (now_ms(store) < load->since_ms + LOAD_WAIT_MS)
            return;
        list_remove(at);
        answer(load, KVD_EBUSY);
        load_free(load);
    }
}

/* Who waits is answered; the read lives on, and its buffer with it, until the tier's answer: what it brings then is kept all the same. */
void load_deadline(struct timer *timer)
{
    struct store *store = CONTAINER_OF(timer, struct store, read_timer);
    uint64_t timeout_ms = store->config.read_timeout_ms;
    for (struct list *at; (at = list_first(&store->reading)) != NULL;) {
        struct load *load = CONTAINER_OF(at, struct load, link);
        if (now_ms(store) < load->since_ms + timeout_ms) {
            timer_start(timer, load->since_ms + timeout_ms - now_ms(store));
            return;
        }
        list_remove(at);
        load->late = true;
        store->late_bytes += load->counted;
        disk_read_is_late(store->disk, &load->read);
        answer(load, KVD_ETIMEOUT);
        room_changed(store);
    }
}

void load_abandon(struct store *store, const struct segment *segment)
{
    struct list abandoned;
    list_init(&abandoned);
    for (struct list *at = store->starved.next, *next; at != &store->starved; at = next) {
        next = at->next;
        if (CONTAINER_OF(at, struct load, link)->read.where.segment != segment)
            continue;
        list_remove(at);
        list_push_back(&abandoned, at);
    }
    for (struct list *at; (at = list_pop_front(&abandoned)) != NULL;) {
        struct load *load = CONTAINER_OF(at, struct load, link);
        answer(load, STORE_MISS);
        load_free(load);
    }
}

/* At the end; nobody waits for them any more. */
void load_free_starved(struct store *store)
{
    for (struct list *at; (at = list_pop_front(&store->starved)) != NULL;) {
        struct load *load = CONTAINER_OF(at, struct load, link);
        CHECK(list_empty(&load->waiters));
        load_free(load);
    }
}

void load_detach(struct entry *entry)
{
    struct work *work = entry->work;
    if (!work || work->kind != WORK_LOAD)
        return;
    CONTAINER_OF(work, struct load, work)->entry = NULL;
    entry->work = NULL;
}

/* Whole (shared, promoted), or with `get` a range of a large object by itself. */
static struct load *load_new(struct store *store, struct entry *entry, uint64_t offset, uint64_t length)
{
    struct load *load = calloc(1, sizeof *load + entry->key_len);
    if (!load)
        return NULL;
    load->blob = blob_new(store->pool, length);
    if (!load->blob) {
        free(load);
        return NULL;
    }
    memcpy(load->key, entry->key, entry->key_len);
    load->work.kind = WORK_LOAD;
    load->store = store;
    load->since_ms = now_ms(store);
    list_init(&load->waiters);
    list_init(&load->link);
    load->read = (struct disk_read){
        .where = {CONTAINER_OF(entry->place, struct shelf, place)->segment, entry->block, entry->blocks},
        .key = span_of(load->key, entry->key_len),
        .version = entry->version,
        .size = entry->size,
        .checksum = entry->checksum,
        .offset = offset,
        .length = length,
        .blob = load->blob,
    };
    return load;
}

static void load_range(const struct entry *entry, const struct store_get *get, uint64_t *offset, uint64_t *length)
{
    *offset = 0;
    *length = entry->size;
    if (!get || entry->size <= RANGE_ALONE_BYTES)
        return;
    uint64_t end = get->offset + min_u64(get->length, entry->size - get->offset);
    if (get->offset == 0 && end == entry->size)
        return;
    *offset = get->offset / POOL_CHUNK_BYTES * POOL_CHUNK_BYTES;
    *length = min_u64(round_up(end, POOL_CHUNK_BYTES), entry->size) - *offset;
}

/* `get` NULL: nobody waits (warm). */
int load_start(struct store *store, struct entry *entry, struct store_get *get)
{
    CHECK(entry->place && !entry->blob);
    struct work *work = entry->work;
    struct load *load = work ? CONTAINER_OF(work, struct load, work) : NULL;
    CHECK(!load || !get || get->wanted == 0 || load->read.version == get->wanted); /* whoever replaces it detaches that */
    if (load && load->late)
        return KVD_ETIMEOUT; /* nor is it read a second time meanwhile */
    if (load) {
        store->figures.loads_shared += get != NULL;
    } else {
        uint64_t offset, length;
        load_range(entry, get, &offset, &length);
        load = load_new(store, entry, offset, length);
        if (!load)
            return KVD_EBUSY;
        if (length == entry->size) {
            load->entry = entry;
            entry->work = &load->work;
        }
        int err = list_empty(&store->starved) ? load_go(load) : KVD_EBUSY;
        if (err == KVD_EBUSY && get) {
            list_push_back(&store->starved, &load->link);
            if (!store->wait_timer.active)
                timer_start(&store->wait_timer, WAIT_TICK_MS);
        } else if (err) {
            load_free(load);
            return err;
        }
    }
    if (get) {
        get->load = load;
        list_push_back(&load->waiters, &get->link);
    }
    return STORE_PENDING;
}

static void note_use(struct store *store, struct entry *entry)
{
    table_use(store->table, entry, now_ms(store));
    policy_touched(store, entry);
}

int load_move_start(struct store *store, struct entry *entry)
{
    CHECK(!entry->work);
    int err = load_start(store, entry, NULL);
    if (err == STORE_PENDING)
        CONTAINER_OF((struct work *)entry->work, struct load, work)->from = CONTAINER_OF(entry->place, struct shelf, place);
    return err;
}

int get_go_on(struct store_get *get, struct entry *entry)
{
    struct store *store = get->store;
    if (!entry || (get->wanted > 0 && entry->version != get->wanted)) {
        store->figures.misses++;
        get->reason = entry ? "version" : NULL;
        get->awaited = put_is_sealed(store, get->key);
        return STORE_MISS;
    }
    if (!get->quiet)
        note_use(store, entry);
    get->size = entry->size;
    get->version = entry->version;
    get->checksum = entry->checksum;
    get->from_disk = !entry->blob;
    get->offset = min_u64(get->asked, entry->size);
    if (entry->blob || get->offset == entry->size || get->length == 0) {
        store->figures.hits_memory += !get->from_disk;
        store->figures.hits_disk += get->from_disk;
        get->blob_length = 0;
        if (entry->blob)
            get_take(get, entry->blob, 0);
        return STORE_OK;
    }
    int err = load_start(store, entry, get);
    if (err == STORE_PENDING || err == KVD_EBUSY)
        return err;
    if (err == -ENOMEM)
        return KVD_EBUSY;
    return miss(get, err);
}

static int get_start(struct store_get *get)
{
    struct store *store = get->store;
    struct entry *entry = store_find(store, get->key);
    store->figures.gets++;
    int first = probe_first(store, get, get->key, entry);
    if (first == STORE_MISS)
        return get_go_on(get, entry);
    return first == KVD_EOFF ? miss(get, first) : first;
}

static void get_tell(struct store_answer *answer)
{
    struct store_get *get = CONTAINER_OF(answer, struct store_get, answer);
    get->fn(get, answer->outcome);
}

int store_get_start(struct store_desk *desk, struct store_get *get, store_get_fn fn)
{
    get->store = desk->store;
    get->fn = fn;
    get->blob = NULL;
    get->reason = NULL;
    get->awaited = false;
    get->size = 0;
    get->asked = get->offset;
    get->looked_again = false;
    list_init(&get->link);
    answer_init(&get->answer, desk, get_tell);
    store_lock(get->store);
    int outcome = get_start(get);
    get->pending_bytes = get->size;
    store_unlock(get->store);
    return outcome;
}

void store_get_cancel(struct store_get *get)
{
    struct store *store = get->store;
    store_lock(store);
    list_remove(&get->link);
    if (answer_take_back(&get->answer) && get->blob) {
        unref(store, get->blob);
        get->blob = NULL;
    }
    store_unlock(store);
}

void touch(struct store *store, const struct span *keys, uint32_t count)
{
    for (uint32_t i = count; i-- > 0;) {
        struct entry *entry = store_find(store, keys[i]);
        if (entry)
            note_use(store, entry);
        if (i % STEP_KEYS == STEP_KEYS - 1)
            store_let_others(store);
    }
}

void store_touch(struct store *store, const struct span *keys, uint32_t count)
{
    store_lock(store);
    touch(store, keys, count);
    store_unlock(store);
}
