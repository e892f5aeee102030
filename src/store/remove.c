/* Remove: gone from the table at once; answered when no restart can bring it back. */
#include "store/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum { KILLS_AHEAD = 4096 /* of one remove; then its walk waits */ };

/* One entry of the remove log that a remove waits for. */
struct removal {
    struct disk_kill kill;
    bool unknown; /* to the table: what is unlinked is what was removed */
    struct store_remove *remove;
    uint8_t name[];
};

static void finish_one(struct store_remove *remove, int err)
{
    if (err && !remove->err)
        remove->err = err;
    if (--remove->kills > 0)
        return;
    if (remove->own && remove->err)
        remove->store->forgetting = false;
    answer_give(&remove->answer, remove->err);
}

/* What it names may still be on disk, where a look at its file would find it. */
static void not_killed(struct store *store, enum kill_kind kind, struct span name, uint64_t version)
{
    in_doubt(store);
    if (kind == KILL_KEY)
        note_dead(store, name, version);
    else
        store->many_dead = max_u64(store->many_dead, version);
}

static void removal_done(struct disk_kill *kill, int err)
{
    struct removal *removal = CONTAINER_OF(kill, struct removal, kill);
    struct store_remove *remove = removal->remove;
    if (err)
        not_killed(remove->store, kill->kind, kill->name, kill->version);
    if (kill->kind == KILL_KEY)
        probe_overtake(remove->store, kill->name);
    else
        probe_overtake_many(remove->store, kill->name);
    if (removal->unknown)
        remove->removed += kill->unlinked;
    free(removal);
    if (remove->paused && remove->kills <= KILLS_AHEAD) {
        remove->paused = false;
        task_post(&remove->step);
    }
    finish_one(remove, err);
}

static void log_removal(struct store_remove *remove, enum kill_kind kind, struct span name, uint64_t version, uint64_t bytes, bool unknown)
{
    struct disk_kill kill = {.kind = kind, .name = name, .version = version, .keep = true, .whoever = !remove->own, .bytes = bytes};
    struct removal *removal = malloc(sizeof *removal + name.len);
    int err = -ENOMEM;
    if (removal) {
        bytes_copy(removal->name, name.at, name.len);
        kill.name.at = removal->name;
        *removal = (struct removal){.kill = kill, .unknown = unknown, .remove = remove};
        err = disk_kill_start(remove->store->disk, &removal->kill, removal_done);
    } else {
        disk_kill_missed(remove->store->disk, &kill);
    }
    if (err == 0) {
        remove->kills++;
        return;
    }
    not_killed(remove->store, kind, name, version);
    free(removal);
    if (!remove->err)
        remove->err = err;
}

/* The object leaves every tier of this process. True when its bytes may be on disk. */
static bool remove_entry(struct store *store, struct entry *entry)
{
    bool on_disk = entry->place || entry->flags & ENTRY_STRAY;
    on_disk |= persist_detach(store, entry);
    if (on_disk) /* a file of its own may have been written behind the kills of puts that wait: they need others, behind ours */
        note_dead(store, entry_key(entry), disk_has_objects(store->disk) ? disk_next_version(store->disk) : entry->version);
    entry_forget(store, entry);
    store->figures.removed++;
    return on_disk;
}

/* Is the key, though not in the table, perhaps on disk: not found yet, or removed by somebody whose log entry is not durable, or left
 * there by a failure, or by an object that has had its end? */
static bool may_rise(struct store *store, struct span key)
{
    return !store->recovered || store->overflowing > 0 || store->doubt > 0 || store->ended_on_disk || store->config.probe ||
           disk_kill_pending(store->disk, key);
}

static void remove_tell(struct store_answer *answer)
{
    struct store_remove *remove = CONTAINER_OF(answer, struct store_remove, answer);
    remove->fn(remove, answer->outcome);
}

static void remove_init(struct store_desk *desk, struct store_remove *remove, store_remove_fn fn)
{
    *remove = (struct store_remove){.store = desk->store, .fn = fn};
    answer_init(&remove->answer, desk, remove_tell);
}

static void remove_key(struct store_remove *remove, struct span key)
{
    struct store *store = remove->store;
    struct entry *entry = store_find(store, key);
    bool log_it = may_rise(store, key);
    bool unknown = !entry;
    uint64_t bytes = entry ? entry_file_bytes(store, entry) : 0;
    probe_overtake(store, key);
    if (entry) {
        log_it |= remove_entry(store, entry);
        remove->removed++;
    }
    if (log_it)
        log_removal(remove, KILL_KEY, key, disk_next_version(store->disk), bytes, unknown); /* a newer one may be on disk, not found yet */
}

int store_remove_start(struct store_desk *desk, struct store_remove *remove, const struct span *keys, uint32_t count, store_remove_fn fn)
{
    struct store *store = desk->store;
    CHECK(!store->config.in_cluster);
    remove_init(desk, remove, fn);
    store_lock(store);
    remove->kills = 1; /* this call: the first may be durable before the last is begun */
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i].len >= 1 && keys[i].len <= KEY_MAX_BYTES)
            remove_key(remove, keys[i]);
        if (i % STEP_KEYS == STEP_KEYS - 1)
            store_let_others(store);
    }
    room_changed(store);
    int outcome = --remove->kills > 0 ? STORE_PENDING : remove->err;
    store_unlock(store);
    return outcome;
}

static void remove_older(void *arg, struct entry *entry)
{
    struct store_remove *remove = arg;
    if (entry->version > remove->version)
        return;
    if (entry_expired(remove->store, entry)) {
        entry_expire(remove->store, entry);
        return;
    }
    uint8_t key[KEY_MAX_BYTES];
    size_t key_len = entry->key_len;
    memcpy(key, entry->key, key_len);
    remove->removed++;
    struct store *store = remove->store;
    uint64_t bytes = entry_file_bytes(store, entry);
    bool on_disk = remove_entry(store, entry);
    if ((on_disk || store->config.probe) && disk_has_objects(store->disk)) /* the walk of the files may have passed it, or not seen it */
        log_removal(remove, KILL_KEY, span_of(key, key_len), remove->version, bytes, false);
}

static void remove_step(struct task *task)
{
    enum { LOOKED_AT = 1024 };
    struct store_remove *remove = CONTAINER_OF(task, struct store_remove, step);
    struct store *store = remove->store;
    uint64_t begun_us = step_begin();
    remove->cursor = table_scan(store->table, remove->cursor, remove->prefix, STEP_KEYS, LOOKED_AT, remove_older, remove);
    step_end(store, "remove", begun_us);
    room_changed(store);
    if (remove->cursor == 0) {
        list_remove(&remove->link);
        finish_one(remove, 0);
    } else if (remove->kills > KILLS_AHEAD) {
        remove->paused = true;
    } else {
        task_post(&remove->step);
    }
}

/* A walk on its way to the object knows it by its version. What it is to remove keeps that: it will not be written with it, or not for
 * long. */
void entry_renew(struct store *store, struct entry *entry)
{
    for (struct list *at = store->removals.next; at != &store->removals; at = at->next) {
        const struct store_remove *remove = CONTAINER_OF(at, struct store_remove, link);
        if (entry->version <= remove->version && span_starts_with(entry_key(entry), remove->prefix))
            return;
    }
    entry->version = disk_next_version(store->disk);
}

static int many_start(struct store_remove *remove, enum kill_kind kind, struct span prefix)
{
    struct store *store = remove->store;
    store_lock(store);
    remove->prefix = prefix;
    remove->version = disk_next_version(store->disk);
    remove->kills = 1; /* the walk itself */
    store->forgetting |= remove->own;
    list_push_back(&store->removals, &remove->link);
    task_init(&remove->step, store->loop, remove_step);
    if (!store->config.in_cluster) /* there it would be what an owner says, of what other nodes have, too */
        log_removal(remove, kind, prefix, remove->version, 0, false);
    probe_overtake_many(store, prefix);
    task_post(&remove->step);
    store_unlock(store);
    return STORE_PENDING;
}

int store_remove_many_start(struct store_desk *desk, struct store_remove *remove, enum kill_kind kind, struct span prefix,
                            store_remove_fn fn)
{
    CHECK((kind == KILL_PREFIX || kind == KILL_ALL) && !desk->store->config.in_cluster);
    remove_init(desk, remove, fn);
    return many_start(remove, kind, prefix);
}

int store_forget_start(struct store_desk *desk, struct store_remove *remove, store_remove_fn fn)
{
    remove_init(desk, remove, fn);
    remove->own = true;
    return many_start(remove, KILL_ALL, span_of(NULL, 0));
}
