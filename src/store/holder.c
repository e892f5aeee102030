/* A store of a cluster: the owner of a key gives its versions and says which are dead; what is here of it is shown, asked for and forgotten
 * by version. docs/cluster.md, "Where a key is". */
#include "store/store_impl.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"

/* ---- puts that are whole, and whose version is not known yet ---- */

static struct list *sealed_slot(const struct store *store, struct span key)
{
    return &store->changes->sealed[table_hash(store->table, key) % SEALED_SLOTS];
}

bool put_is_sealed(const struct store *store, struct span key)
{
    if (!store->changes)
        return false;
    struct list *slot = sealed_slot(store, key);
    for (struct list *at = slot->next; at != slot; at = at->next)
        if (span_equal(CONTAINER_OF(at, const struct store_put, sealed)->key, key))
            return true;
    return false;
}

void put_unseal(struct store_put *put)
{
    if (list_empty(&put->sealed))
        return;
    list_remove(&put->sealed);
    put->store->pinning -= put->pin ? put->size : 0;
}

int store_put_seal(struct store_put *put)
{
    struct store *store = put->store;
    uint64_t checksum = put_finish(put);
    store_lock(store);
    CHECK(store->config.in_cluster && list_empty(&put->sealed));
    int outcome = put_judge(put, checksum);
    if (outcome == STORE_OK)
        outcome = put_admit(put);
    if (outcome == STORE_OK) {
        store->pinning += put->pin ? put->size : 0;
        put->dead_version = 0;
        list_push_back(sealed_slot(store, put->key), &put->sealed);
    }
    store_unlock(store);
    return outcome;
}

/* The owner may know already that it is dead: its word and the answer to the commit come by two ways. */
static bool is_overtaken(const struct store_put *put, const struct entry *entry, uint64_t version)
{
    return version <= put->dead_version || (entry && entry->version >= version);
}

static int put_show(struct store_put *put, uint64_t version)
{
    struct store *store = put->store;
    CHECK(!list_empty(&put->sealed));
    put_unseal(put);
    int err = store->forgetting ? KVD_ECLOSING : disk_raise_version(store->disk, version);
    struct entry *entry = store_find(store, put->key);
    if ((err && err != KVD_EOFF) || is_overtaken(put, entry, version)) {
        put_abort(put);
        return err == KVD_EOFF ? STORE_OK : err;
    }
    uint64_t expires_ms = put->expires_ms;
    uint64_t end_ms = expires_ms ? expires_ms + min_u64(UINT64_MAX - expires_ms, clock_behind_ms(store)) : 0;
    put_settle_room(put);
    return put_enter(put, entry, version, end_ms);
}

int store_put_show(struct store_put *put, uint64_t version, store_put_fn fn)
{
    put->fn = fn;
    store_lock(put->store);
    int outcome = put_show(put, version);
    store_unlock(put->store);
    return outcome;
}

/* ---- what is dead ---- */

static void forget_version(struct store *store, struct span key, uint64_t version)
{
    struct list *slot = sealed_slot(store, key);
    for (struct list *at = slot->next; at != slot; at = at->next) {
        struct store_put *put = CONTAINER_OF(at, struct store_put, sealed);
        if (span_equal(put->key, key))
            put->dead_version = max_u64(put->dead_version, version);
    }
    struct entry *entry = store_find(store, key);
    if (!entry || entry->version > version)
        return;
    store->figures.removed++;
    entry_forget(store, entry);
}

void store_forget_versions(struct store *store, const struct span *keys, const uint64_t *versions, uint32_t count)
{
    store_lock(store);
    CHECK(store->config.in_cluster);
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i].len >= 1 && keys[i].len <= KEY_MAX_BYTES)
            forget_version(store, keys[i], versions[i]);
        if (i % STEP_KEYS == STEP_KEYS - 1)
            store_let_others(store);
    }
    room_changed(store);
    store_unlock(store);
}

static void kill_tell(struct store_answer *answer)
{
    struct store_kill *kill = CONTAINER_OF(answer, struct store_kill, answer);
    kill->fn(kill, answer->outcome);
}

static void kill_logged(struct disk_kill *disk_kill, int err)
{
    answer_give(&CONTAINER_OF(disk_kill, struct store_kill, kill)->answer, err);
}

int store_log_kill(struct store_desk *desk, struct store_kill *kill, enum kill_kind kind, struct span name, uint64_t version,
                   store_kill_fn fn)
{
    struct store *store = desk->store;
    CHECK(store->config.in_cluster);
    *kill = (struct store_kill){.fn = fn, .kill = {.kind = kind, .name = name, .version = version, .keep = true, .whoever = true}};
    answer_init(&kill->answer, desk, kill_tell);
    store_lock(store);
    int err = disk_raise_version(store->disk, version);
    if (!err)
        err = disk_kill_start(store->disk, &kill->kill, kill_logged);
    store_unlock(store);
    return err ? err : STORE_PENDING;
}

/* ---- versions ---- */

int store_next_version(struct store *store, uint64_t *version)
{
    store_lock(store);
    CHECK(store->config.in_cluster);
    int err = disk_give_version(store->disk, version);
    store_unlock(store);
    return err;
}

int store_raise_version(struct store *store, uint64_t floor)
{
    store_lock(store);
    CHECK(store->config.in_cluster);
    int err = disk_raise_version(store->disk, floor);
    store_unlock(store);
    return err;
}

/* ---- what the log says ---- */

static void kills_tell(struct store_answer *answer)
{
    struct store_kills *kills = CONTAINER_OF(answer, struct store_kills, answer);
    void *memory = answer->outcome == STORE_OK ? kills->page.memory : NULL;
    kills->fn(kills, answer->outcome);
    free(memory);
}

static void kills_read(struct disk_kill_page *page, int err)
{
    answer_give(&CONTAINER_OF(page, struct store_kills, page)->answer, err);
}

int store_kills_start(struct store_desk *desk, struct store_kills *kills, store_kills_fn fn)
{
    struct store *store = desk->store;
    CHECK(store->config.in_cluster);
    kills->fn = fn;
    answer_init(&kills->answer, desk, kills_tell);
    store_lock(store);
    int err = disk_kill_page_start(store->disk, &kills->page, kills_read);
    store_unlock(store);
    return err ? err : STORE_PENDING;
}
