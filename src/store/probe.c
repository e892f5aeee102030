/* Files of other hosts (--probe): what a get does not find in the table may be there, and what is in memory here may not be there any more.
 *
 * An object in memory whose file was last seen SOON_MS ago is looked at again while it is served; from CHECK_MS on the get waits for it.
 * So no get gives back what another host removed or replaced more than CHECK_MS ago, and what its own file system takes to show it.
 */
#include "store/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

enum {
    SOON_MS = 1000,
    CHECK_MS = 3000,
    MISSED_MS = 1000, /* so long it is remembered that there is no file */
    PROBES_MAX = 1024,
    ASIDE_MAX = PROBES_MAX / 4, /* that nobody waits for */
};

/* A look at the file of one key. Lives until the tier's answer. */
struct probing {
    struct list link;    /* store->probings[] */
    struct list in_time; /* store->probings_in_time */
    struct store *store;
    struct list waiters; /* struct store_get */
    uint64_t hash;
    uint64_t since_ms;
    bool overtaken; /* the key was put or removed since: who waits has come before that, and what is found is old */
    uint64_t version;
    uint32_t block; /* of the object that is known, when it began */
    struct disk_probe probe;
    uint8_t key[];
};

void probe_setup(struct store *store)
{
    for (unsigned i = 0; i < PROBING_SLOTS; i++)
        list_init(&store->probings[i]);
    list_init(&store->probings_in_time);
}

static struct probing *probing_of(struct store *store, struct span key, uint64_t hash)
{
    struct list *slot = &store->probings[hash % PROBING_SLOTS];
    for (struct list *at = slot->next; at != slot; at = at->next) {
        struct probing *probing = CONTAINER_OF(at, struct probing, link);
        if (probing->hash == hash && !probing->overtaken && span_equal(probing->probe.key, key))
            return probing;
    }
    return NULL;
}

void probe_overtake(struct store *store, struct span key)
{
    if (store->probing_count == 0)
        return;
    struct probing *probing = probing_of(store, key, table_hash(store->table, key));
    if (probing)
        probing->overtaken = true;
}

void probe_overtake_many(struct store *store, struct span prefix)
{
    struct list *head = &store->probings_in_time;
    for (struct list *at = head->next; at != head; at = at->next) {
        struct probing *probing = CONTAINER_OF(at, struct probing, in_time);
        probing->overtaken |= span_starts_with(probing->probe.key, prefix);
    }
}

/* ---- what is known not to be there ---- */

static struct missed *missed_of(struct store *store, uint64_t hash)
{
    return &store->missed[hash % MISSED_SLOTS];
}

static bool missed_lately(struct store *store, uint64_t hash)
{
    const struct missed *missed = missed_of(store, hash);
    return missed->hash == hash && missed->until_ms > now_ms(store);
}

/* ---- the answer ---- */

static bool is_object(const struct entry *entry)
{
    return entry->place && segment_is_objects(CONTAINER_OF(entry->place, struct shelf, place)->segment);
}

/* Where objects are files, what is being written has no file that the table knows of: a value that replaces one has given up the old place.
 */
void object_lost(struct store *store, struct entry *entry)
{
    CHECK(!(entry->flags & ENTRY_WRITING));
    if (entry->blob && !store->config.probe) {
        entry_forget_disk(store, entry); /* it stays in memory */
        return;
    }
    store->figures.dropped_elsewhere++;
    entry_forget(store, entry);
}

/* Is it still what it was when the look began, and does the file say the same? Otherwise it is not, or somebody else's by now. */
static void judge(struct probing *probing, struct entry *entry, int err)
{
    struct store *store = probing->store;
    const struct disk_found *found = &probing->probe.found;
    if (!is_object(entry) || entry->version != probing->version || entry->block != probing->block)
        return;
    if (err == 0 && found->version == entry->version && found->where.block == entry->block)
        table_checked(entry, table_tick(probing->since_ms));
    else if (err == 0 || err == -ENOENT || err == KVD_ESTALE)
        object_lost(store, entry);
}

/* Was it removed here, and could not be unlinked? (P4: gone from this process all the same.) Or did it have its end here, and its file was
 * not found, which goes by an old name? True for others, too, whose hash is like it. */
static bool is_undead(const struct store *store, const struct disk_found *found)
{
    bool died = died_since(store, found->key, found->version - 1);
    bool ours = found->where.segment == disk_own_objects(store->disk);
    return (ours && died) || (store->doubt > 0 && (found->version <= store->many_dead || died));
}

static void adopt(struct probing *probing)
{
    struct store *store = probing->store;
    const struct disk_found *found = &probing->probe.found;
    if (store->closing || disk_kill_pending(store->disk, found->key) || found_expired(store, found) || is_undead(store, found))
        return;
    struct entry *entry = entry_of_found(store, found);
    if (!entry)
        return;
    table_checked(entry, table_tick(probing->since_ms));
    store->figures.probes_found++;
    store->figures.found++;
}

static void tell(struct probing *probing, const char *reason)
{
    struct store *store = probing->store;
    for (struct list *at; (at = list_pop_front(&probing->waiters)) != NULL;) {
        struct store_get *get = CONTAINER_OF(at, struct store_get, link);
        int outcome = STORE_MISS;
        if (!reason && !probing->overtaken)
            outcome = get_go_on(get, store_find(store, probing->probe.key));
        else
            store->figures.misses++;
        if (outcome == STORE_MISS && reason)
            get->reason = reason;
        if (outcome != STORE_PENDING)
            answer_give(&get->answer, outcome);
    }
}

static void probed(struct disk_probe *probe, int err)
{
    struct probing *probing = CONTAINER_OF(probe, struct probing, probe);
    struct store *store = probing->store;
    bool said = err == 0 || err == -ENOENT || err == KVD_ESTALE;
    struct entry *entry = probing->overtaken ? NULL : store_find(store, probe->key);
    if (entry)
        judge(probing, entry, err);
    if (err == 0 && !probing->overtaken && !store_find(store, probe->key))
        adopt(probing);
    if (said && err != 0)
        *missed_of(store, probing->hash) = (struct missed){probing->hash, now_ms(store) + MISSED_MS};
    store->figures.read_errors += !said && !list_empty(&probing->waiters);
    tell(probing, said ? NULL : "io error");
    list_remove(&probing->link);
    list_remove(&probing->in_time);
    store->probing_count--;
    free(probing);
}

/* ---- the question ---- */

static int probing_start(struct store *store, struct span key, const struct entry *entry)
{
    struct probing *probing = calloc(1, sizeof *probing + key.len);
    if (!probing)
        return -ENOMEM;
    memcpy(probing->key, key.at, key.len);
    probing->store = store;
    probing->hash = table_hash(store->table, key);
    probing->since_ms = now_ms(store);
    probing->version = entry ? entry->version : 0;
    probing->block = entry ? entry->block : 0;
    probing->probe = (struct disk_probe){.key = span_of(probing->key, key.len), .known = entry != NULL};
    list_init(&probing->waiters);
    int err = disk_probe_start(store->disk, &probing->probe, probed);
    if (err) {
        free(probing);
        return err;
    }
    list_push_back(&store->probings[probing->hash % PROBING_SLOTS], &probing->link);
    list_push_back(&store->probings_in_time, &probing->in_time);
    store->probing_count++;
    store->figures.probes++;
    return 0;
}

/* STORE_PENDING; KVD_EOFF; KVD_EBUSY: too many wait. */
static int wait_for_probe(struct store *store, struct span key, const struct entry *entry, struct store_get *get)
{
    uint64_t hash = table_hash(store->table, key);
    if (!probing_of(store, key, hash)) {
        int err = store->probing_count < PROBES_MAX ? probing_start(store, key, entry) : KVD_EBUSY;
        if (err)
            return err == KVD_EOFF ? err : KVD_EBUSY;
    }
    list_push_back(&probing_of(store, key, hash)->waiters, &get->link);
    if (!store->wait_timer.active)
        timer_start(&store->wait_timer, WAIT_TICK_MS);
    return STORE_PENDING;
}

static uint64_t unseen_ms(const struct store *store, const struct entry *entry)
{
    return table_ms_since(entry->checked_tick, now_ms(store));
}

void probe_aside(struct store *store, const struct entry *entry)
{
    if (!store->config.probe || !is_object(entry) || unseen_ms(store, entry) < SOON_MS || store->probing_count >= ASIDE_MAX)
        return;
    if (!probing_of(store, entry_key(entry), table_hash(store->table, entry_key(entry))))
        (void)probing_start(store, entry_key(entry), entry);
}

int probe_first(struct store *store, struct store_get *get, struct span key, struct entry *entry)
{
    if (!store->config.probe)
        return STORE_MISS;
    if (!entry) {
        uint64_t hash = table_hash(store->table, key);
        bool open = disk_state(store->disk) == DISK_ON || disk_state(store->disk) == DISK_RECOVERING;
        if (!open || missed_lately(store, hash))
            return STORE_MISS;
        int err = wait_for_probe(store, key, NULL, get);
        return err == STORE_PENDING ? err : STORE_MISS; /* a cache may miss */
    }
    bool reads = !entry->blob && get->length > 0 && get->offset < entry->size; /* that looks at the file by itself */
    if (!is_object(entry) || reads)
        return STORE_MISS;
    if (unseen_ms(store, entry) >= CHECK_MS)
        return wait_for_probe(store, key, entry, get);
    probe_aside(store, entry);
    return STORE_MISS;
}

int probe_again(struct store *store, struct store_get *get, struct span key)
{
    if (!store->config.probe || get->looked_again)
        return STORE_MISS;
    get->looked_again = true;
    int err = wait_for_probe(store, key, NULL, get);
    return err == STORE_PENDING ? err : STORE_MISS;
}

void probe_expire(struct store *store)
{
    struct list *head = &store->probings_in_time;
    uint64_t patience_ms = store->config.read_timeout_ms;
    for (struct list *at = head->next; at != head && patience_ms > 0; at = head->next) {
        struct probing *probing = CONTAINER_OF(at, struct probing, in_time);
        if (now_ms(store) < probing->since_ms + patience_ms)
            return;
        list_remove(at);
        probing->overtaken = true; /* nobody joins it any more */
        tell(probing, "timeout");
    }
}
