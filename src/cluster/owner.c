#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "cluster/owner_inner.h"

int owner_new(struct owner **out, const struct owner_options *options)
{
    struct owner *owner = calloc(1, sizeof *owner);
    if (!owner)
        return -ENOMEM;
    if (directory_new(&owner->directory, options->seed, options->max_bytes)) {
        free(owner);
        return -ENOMEM;
    }
    owner->options = *options;
    list_init(&owner->to_log);
    list_init(&owner->ranges);
    for (int i = 0; i < PENDING_BUCKETS; i++)
        list_init(&owner->pending[i]);
    owner->settled = true;
    owner_begin_anew(owner);
    *out = owner;
    return 0;
}

static struct pending *pending_of(struct list *bucket)
{
    return CONTAINER_OF(bucket, struct pending, bucket);
}

static void free_all(struct list *list)
{
    for (struct list *at; (at = list_pop_front(list)) != NULL;)
        free(pending_of(at));
}

void owner_free(struct owner *owner)
{
    if (!owner)
        return;
    for (int i = 0; i < PENDING_BUCKETS; i++)
        free_all(&owner->pending[i]);
    free_all(&owner->ranges);
    free(owner->answered);
    kill_map_free(owner->kills);
    directory_free(owner->directory);
    free(owner);
}

/* ---- kills under way ---- */

enum { TICKET_STEP = 2 * PENDING_BUCKETS };

static struct list *pending_bucket(struct owner *owner, uint64_t hash)
{
    return &owner->pending[hash % PENDING_BUCKETS];
}

static bool is_pending(struct owner *owner, struct span key, uint64_t hash, enum pending_kind kind)
{
    const struct list *head = pending_bucket(owner, hash);
    for (struct list *at = head->next; at != head; at = at->next) {
        const struct pending *pending = pending_of(at);
        if (pending->kind == kind && !pending->void_now && span_equal(pending->name, key))
            return true;
    }
    return false;
}

/* NULL: there is no room. */
static struct pending *pending_add(struct owner *owner, enum pending_kind kind, struct span name, uint64_t hash, uint64_t dead_version)
{
    struct pending *pending = owner->pending_count < OWNER_PENDING_MAX ? calloc(1, sizeof *pending + name.len) : NULL;
    if (!pending)
        return NULL;
    owner->pending_count++;
    pending->kind = kind;
    pending->dead_version = dead_version;
    pending->ticket = ++owner->next_ticket * TICKET_STEP + (kind == PENDING_RANGE ? PENDING_BUCKETS : hash % PENDING_BUCKETS);
    bytes_copy(pending + 1, name.at, name.len);
    pending->name = span_of(pending + 1, name.len);
    list_push_back(kind == PENDING_RANGE ? &owner->ranges : pending_bucket(owner, hash), &pending->bucket);
    list_push_back(&owner->to_log, &pending->link);
    return pending;
}

/* Commits of this key that are not shown yet will not be; `sender` -1: whoever's. */
static void void_commits(struct owner *owner, struct span key, uint64_t hash, int sender)
{
    const struct list *head = pending_bucket(owner, hash);
    for (struct list *at = head->next; at != head; at = at->next) {
        struct pending *pending = pending_of(at);
        if (pending->kind == PENDING_COMMIT && span_equal(pending->name, key) && (sender < 0 || pending->sender == (unsigned)sender))
            pending->void_now = true;
    }
}

static void void_range(struct owner *owner, struct span prefix, uint64_t version)
{
    for (int i = 0; i < PENDING_BUCKETS; i++) {
        const struct list *head = &owner->pending[i];
        for (struct list *at = head->next; at != head; at = at->next) {
            struct pending *pending = pending_of(at);
            if (pending->kind == PENDING_COMMIT && pending->facts.version <= version && span_starts_with(pending->name, prefix))
                pending->void_now = true;
        }
    }
}

/* The one with this ticket, taken out; NULL: none. A ticket says in which bucket. */
static struct pending *pending_take(struct owner *owner, uint64_t ticket)
{
    uint64_t bucket = ticket % TICKET_STEP;
    if (bucket > PENDING_BUCKETS)
        return NULL;
    const struct list *head = bucket == PENDING_BUCKETS ? &owner->ranges : &owner->pending[bucket];
    struct list *at = head->next;
    while (at != head && pending_of(at)->ticket != ticket)
        at = at->next;
    if (at == head)
        return NULL;
    struct pending *pending = pending_of(at);
    list_remove(&pending->bucket);
    list_remove(&pending->link);
    owner->pending_count--;
    return pending;
}

/* ---- what is there ---- */

/* The next version; 0: none may be given now. */
static uint64_t next_version(const struct owner *owner)
{
    struct version_counter *versions = owner->options.versions;
    return versions->last < versions->ceiling ? ++versions->last : 0;
}

/* What to say of a key that is not answered for. */
static enum owner_result not_served(const struct owner *owner, const struct owner_now *now, uint64_t view_hash)
{
    return now->acting && owner_in_scope(owner, view_hash) ? OWNER_BUSY : OWNER_NOT_MINE;
}

static bool serves(const struct owner *owner, const struct owner_now *now, uint64_t view_hash)
{
    return now->acting && owner_complete(owner, view_hash);
}

struct listing *owner_find(struct owner *owner, const struct owner_now *now, struct span key, uint64_t hash)
{
    struct listing *listing = directory_find(owner->directory, key, hash);
    if (!listing || listing->end_ms == 0 || listing->end_ms > now->wall_ms)
        return listing;
    directory_drop(owner->directory, listing);
    return NULL;
}

enum { LOOK_AHEAD = 8 };

void owner_look_up(struct owner *owner, const struct owner_now *now, const struct span *keys, uint32_t count, uint64_t leased_until_ms,
                   struct owner_found *out)
{
    CHECK(count <= OWNER_BATCH_MAX);
    uint64_t hashes[LOOK_AHEAD];
    for (uint32_t i = 0; i < count + LOOK_AHEAD; i++) {
        if (i >= LOOK_AHEAD) {
            uint32_t at = i - LOOK_AHEAD;
            uint64_t view_hash = view_key_hash(keys[at]);
            struct listing *listing = NULL;
            out[at].result = not_served(owner, now, view_hash);
            if (serves(owner, now, view_hash)) {
                listing = owner_find(owner, now, keys[at], hashes[at % LOOK_AHEAD]);
                out[at].result = listing ? OWNER_OK : OWNER_ABSENT;
            }
            if (listing)
                listing->leased_until_ms = max_u64(listing->leased_until_ms, leased_until_ms);
            out[at].listing = listing;
        }
        if (i < count) {
            hashes[i % LOOK_AHEAD] = directory_hash(owner->directory, keys[i]);
            directory_prefetch(owner->directory, hashes[i % LOOK_AHEAD]);
        }
        if (i >= LOOK_AHEAD / 2 && i - LOOK_AHEAD / 2 < count)
            directory_prefetch_listing(owner->directory, hashes[(i - LOOK_AHEAD / 2) % LOOK_AHEAD]);
    }
}

static void answer(struct owner *owner, struct owner_answer *out)
{
    free(owner->answered);
    owner->answered = NULL;
    *out = (struct owner_answer){0};
}

/* ---- commit ---- */

static void note_holders(const struct listing *listing, uint8_t holders[HOLDERS_BYTES])
{
    for (unsigned i = 0; i < listing->count; i++)
        holders[listing->replicas[i].node / 8] |= (uint8_t)(1 << listing->replicas[i].node % 8);
}

/* Enter the object in place of what is there. */
static enum owner_result show(struct owner *owner, struct listing *there, struct span key, uint64_t hash, const struct object_facts *facts,
                              bool pinned, unsigned sender)
{
    if (there)
        directory_drop(owner->directory, there);
    struct replica first = {.node = sender & 255, .memory = 1};
    struct listing *listing = directory_add(owner->directory, key, hash, facts, &first);
    if (!listing)
        return OWNER_FULL;
    listing->pinned = pinned;
    return OWNER_OK;
}

/* A version of the key that nobody here knows of may be somewhere, or come back. */
static bool may_be_elsewhere(struct owner *owner, struct span key, uint64_t hash)
{
    return !owner->all_heard || owner->lossy || !list_empty(&owner->ranges) || is_pending(owner, key, hash, PENDING_FORGET);
}

static enum owner_result log_commit(struct owner *owner, unsigned sender, const struct owner_put *put, uint64_t hash,
                                    const struct object_facts *facts, struct owner_answer *out)
{
    struct pending *pending = pending_add(owner, PENDING_COMMIT, put->key, hash, facts->version - 1);
    if (!pending)
        return OWNER_BUSY;
    pending->facts = *facts;
    pending->sender = sender;
    pending->incarnation = owner->sources[sender].incarnation;
    pending->pinned = put->pinned;
    owner_keep_kill(owner, KILL_KEY, put->key, pending->dead_version);
    out->ticket = pending->ticket;
    return OWNER_LOGGING;
}

static enum owner_result commit(struct owner *owner, const struct owner_now *now, unsigned sender, const struct owner_put *put,
                                struct owner_answer *out)
{
    uint64_t view_hash = view_key_hash(put->key), hash = directory_hash(owner->directory, put->key);
    if (!serves(owner, now, view_hash))
        return not_served(owner, now, view_hash);
    if (is_pending(owner, put->key, hash, PENDING_COMMIT))
        return OWNER_BUSY;
    struct listing *there = owner_find(owner, now, put->key, hash);
    if (there && !put->replace) {
        out->version = there->version;
        return OWNER_PRESENT;
    }
    struct object_facts facts = put->facts;
    facts.version = next_version(owner);
    if (facts.version == 0)
        return OWNER_BUSY;
    out->version = facts.version;
    if (there || may_be_elsewhere(owner, put->key, hash))
        return log_commit(owner, sender, put, hash, &facts, out);
    return show(owner, NULL, put->key, hash, &facts, put->pinned, sender);
}

void owner_commit(struct owner *owner, const struct owner_now *now, unsigned sender, const struct owner_put *put, struct owner_answer *out)
{
    CHECK(sender < DIRECTORY_NODES_MAX && owner->sources[sender].listened);
    answer(owner, out);
    out->result = commit(owner, now, sender, put, out);
}

/* ---- remove ---- */

static enum owner_result forget(struct owner *owner, const struct owner_now *now, struct span key, struct owner_answer *out)
{
    /* Also while it gathers, and where nothing is listed: the kill reaches whatever there is, heard of or not. A node that was fenced comes
     * back with what it had. */
    uint64_t view_hash = view_key_hash(key), hash = directory_hash(owner->directory, key);
    if (!now->acting || !(owner_complete(owner, view_hash) || owner_in_scope(owner, view_hash)))
        return OWNER_NOT_MINE;
    struct listing *there = owner_find(owner, now, key, hash);
    uint64_t version = next_version(owner);
    struct pending *pending = version > 0 ? pending_add(owner, PENDING_FORGET, key, hash, version) : NULL;
    if (!pending)
        return OWNER_BUSY;
    void_commits(owner, key, hash, -1);
    owner_keep_kill(owner, KILL_KEY, key, version);
    pending->removed = there != NULL;
    out->ticket = pending->ticket;
    if (there) {
        note_holders(there, pending->holders);
        directory_drop(owner->directory, there);
    }
    return OWNER_LOGGING;
}

void owner_forget(struct owner *owner, const struct owner_now *now, struct span key, struct owner_answer *out)
{
    answer(owner, out);
    out->result = forget(owner, now, key, out);
}

static bool is_in(const struct owner *owner, uint64_t view)
{
    return view > 0 && view == owner->acknowledged && owner->phase != OWNER_WAITING;
}

uint64_t owner_highest(const struct owner *owner, uint64_t view)
{
    return is_in(owner, view) ? owner->options.versions->last : 0;
}

static enum owner_result forget_range(struct owner *owner, const struct owner_now *now, uint64_t view, struct span prefix, uint64_t version,
                                      struct owner_answer *out)
{
    if (!now->acting || !is_in(owner, view))
        return OWNER_NOT_MINE;
    if (version > owner->options.versions->ceiling || version >= owner->floor + VIEW_FLOOR_STEP)
        return OWNER_BUSY;
    owner->options.versions->last = max_u64(owner->options.versions->last, version);
    struct pending *pending = pending_add(owner, PENDING_RANGE, prefix, 0, version);
    if (!pending)
        return OWNER_BUSY;
    if (directory_forget_range(owner->directory, prefix, version)) {
        free(pending_take(owner, pending->ticket));
        return OWNER_BUSY;
    }
    owner->settled = false;
    void_range(owner, prefix, version);
    owner_keep_kill(owner, prefix.len > 0 ? KILL_PREFIX : KILL_ALL, prefix, version);
    out->ticket = pending->ticket;
    return OWNER_LOGGING;
}

void owner_forget_range(struct owner *owner, const struct owner_now *now, uint64_t view, struct span prefix, uint64_t version,
                        struct owner_answer *out)
{
    answer(owner, out);
    out->result = forget_range(owner, now, view, prefix, version, out);
}

/* ---- the log has it ---- */

/* Whoever had the bytes at the other end may be gone, and another have his place. */
static bool sender_is_there(const struct owner *owner, const struct pending *pending)
{
    const struct source *source = &owner->sources[pending->sender];
    return source->known && source->listened && incarnation_equal(source->incarnation, pending->incarnation);
}

static enum owner_result commit_logged(struct owner *owner, const struct owner_now *now, struct pending *pending)
{
    uint64_t hash = directory_hash(owner->directory, pending->name);
    if (pending->void_now || !serves(owner, now, view_key_hash(pending->name)) || !sender_is_there(owner, pending))
        return OWNER_BUSY;
    struct listing *there = owner_find(owner, now, pending->name, hash);
    if (there)
        note_holders(there, pending->holders);
    return show(owner, there, pending->name, hash, &pending->facts, pending->pinned, pending->sender);
}

/* Is what it removed still its own to speak of? */
static bool still_owns(const struct owner *owner, const struct owner_now *now, const struct pending *pending)
{
    uint64_t view_hash = view_key_hash(pending->name);
    return now->acting && (pending->kind == PENDING_RANGE || owner_complete(owner, view_hash) || owner_in_scope(owner, view_hash));
}

bool owner_logged(struct owner *owner, const struct owner_now *now, uint64_t ticket, bool durable, struct owner_answer *out)
{
    answer(owner, out);
    struct pending *pending = pending_take(owner, ticket);
    if (!pending)
        return false;
    owner->answered = pending;
    out->ticket = ticket;
    out->removed = pending->removed;
    out->version = pending->kind == PENDING_COMMIT ? pending->facts.version : 0;
    if (!durable) {
        /* A commit whose kill is lost changed nothing; what a remove took away may come back. */
        out->result = pending->kind == PENDING_COMMIT ? OWNER_BUSY : OWNER_FAILED;
        owner->lossy = true;
        return true;
    }
    if (pending->kind == PENDING_COMMIT)
        out->result = commit_logged(owner, now, pending);
    else
        out->result = still_owns(owner, now, pending) ? OWNER_OK : OWNER_BUSY;
    if (pending->kind == PENDING_RANGE || out->result == OWNER_BUSY)
        return true;
    out->key = pending->name;
    out->dead_version = pending->dead_version;
    /* Whoever is gone by now has nothing to forget. */
    for (unsigned i = 0; i < DIRECTORY_NODES_MAX; i++)
        if (owner->sources[i].known)
            out->holders[i / 8] |= pending->holders[i / 8] & (uint8_t)(1 << i % 8);
    return true;
}

/* ---- what holders say ---- */

bool owner_drop_former(struct owner *owner, struct listing *listing, unsigned node)
{
    for (unsigned i = 0; i < listing->count;) {
        unsigned other = listing->replicas[i].node;
        if (other == node || strcmp(owner->sources[other].id, owner->sources[node].id) != 0) {
            i++;
            continue;
        }
        if (directory_drop_replica(owner->directory, listing, other))
            return true;
    }
    return false;
}

/* It has nothing of this version. */
static void has_nothing(struct owner *owner, struct listing *listing, unsigned sender)
{
    if (!owner_drop_former(owner, listing, sender))
        (void)directory_drop_replica(owner->directory, listing, sender);
}

/* `known`: what is not listed is dead. */
static enum report_result report(struct owner *owner, struct listing *listing, unsigned sender, bool known, const struct holding *has)
{
    if (!listing || has->version != listing->version) {
        if (listing)
            has_nothing(owner, listing, sender);
        return has->version == 0 ? REPORT_KEPT : known ? REPORT_DEAD : REPORT_LATER;
    }
    struct replica replica = has->replica;
    replica.node = sender & 255;
    if (!(replica.memory || replica.disk)) {
        has_nothing(owner, listing, sender);
        return REPORT_KEPT;
    }
    listing = directory_put_replica(owner->directory, listing, &replica);
    if (!listing)
        return REPORT_LATER;
    (void)owner_drop_former(owner, listing, sender);
    return REPORT_KEPT;
}

enum report_result owner_report(struct owner *owner, const struct owner_now *now, unsigned sender, struct span key,
                                const struct holding *has)
{
    CHECK(sender < DIRECTORY_NODES_MAX && owner->sources[sender].listened);
    uint64_t view_hash = view_key_hash(key), hash = directory_hash(owner->directory, key);
    bool complete = owner_complete(owner, view_hash);
    if (!now->acting || !(complete || owner_in_scope(owner, view_hash)))
        return REPORT_LATER;
    if (!(has->replica.memory && has->replica.disk))
        owner_note_loss(owner, sender, hash);
    void_commits(owner, key, hash, (int)sender);
    bool known = complete && owner->sources[sender].heard_as_member;
    return report(owner, owner_find(owner, now, key, hash), sender, known, has);
}

static bool is_held(const struct owner *owner, const struct owner_now *now, const struct listing *listing)
{
    return listing->pinned || listing->leased_until_ms > now->now_ms || owner->phase != OWNER_GATHERED;
}

/* Somebody else's. */
static bool has_others(const struct owner *owner, const struct listing *listing, unsigned sender)
{
    for (unsigned i = 0; i < listing->count; i++)
        if (strcmp(owner->sources[listing->replicas[i].node].id, owner->sources[sender].id) != 0)
            return true;
    return false;
}

bool owner_drop(struct owner *owner, const struct owner_now *now, unsigned sender, struct span key, uint64_t version, bool memory,
                bool disk)
{
    CHECK(sender < DIRECTORY_NODES_MAX && owner->sources[sender].listened);
    uint64_t hash = directory_hash(owner->directory, key);
    if (!serves(owner, now, view_key_hash(key)))
        return false;
    struct listing *listing = owner_find(owner, now, key, hash);
    /* Who has not been asked yet what it holds may have what belongs here. */
    if (!listing || listing->version != version)
        return owner->sources[sender].heard_as_member;
    struct replica *own = listing_replica(listing, sender);
    struct replica left = own ? *own : (struct replica){.node = sender & 255};
    left.memory = left.memory && !memory;
    left.disk = left.disk && !disk;
    bool keeps = left.memory || left.disk;
    if (!keeps && is_held(owner, now, listing) && !has_others(owner, listing, sender))
        return false;
    owner_note_loss(owner, sender, hash);
    if (keeps)
        *own = left;
    else
        has_nothing(owner, listing, sender);
    return true;
}

/* ---- leases and pins ---- */

static enum owner_result find_served(struct owner *owner, const struct owner_now *now, struct span key, struct listing **out)
{
    uint64_t view_hash = view_key_hash(key);
    if (!serves(owner, now, view_hash))
        return not_served(owner, now, view_hash);
    *out = owner_find(owner, now, key, directory_hash(owner->directory, key));
    return *out ? OWNER_OK : OWNER_ABSENT;
}

enum owner_result owner_hold(struct owner *owner, const struct owner_now *now, struct span key, uint64_t leased_until_ms)
{
    struct listing *listing;
    enum owner_result result = find_served(owner, now, key, &listing);
    if (result == OWNER_OK)
        listing->leased_until_ms = max_u64(listing->leased_until_ms, leased_until_ms);
    return result;
}

enum owner_result owner_pin(struct owner *owner, const struct owner_now *now, struct span key, bool pinned)
{
    struct listing *listing;
    enum owner_result result = find_served(owner, now, key, &listing);
    if (result == OWNER_OK)
        listing->pinned = pinned;
    return result;
}

/* ---- what is to be done ---- */

static bool next_log(struct owner *owner, struct owner_action *out)
{
    struct list *first = list_pop_front(&owner->to_log);
    if (!first)
        return false;
    const struct pending *pending = CONTAINER_OF(first, struct pending, link);
    out->act = OWNER_LOG;
    out->ticket = pending->ticket;
    out->kind = pending->kind != PENDING_RANGE ? KILL_KEY : pending->name.len > 0 ? KILL_PREFIX : KILL_ALL;
    out->name = pending->name;
    out->version = pending->dead_version;
    return true;
}

bool owner_next(struct owner *owner, const struct owner_now *now, struct owner_action *out)
{
    *out = (struct owner_action){0};
    return next_log(owner, out) || owner_next_gather(owner, now, out);
}

const char *owner_node_id(const struct owner *owner, unsigned node)
{
    return directory_node_id(owner->directory, node);
}

struct incarnation owner_node_incarnation(const struct owner *owner, unsigned node)
{
    return directory_node_incarnation(owner->directory, node);
}

void owner_figures(const struct owner *owner, struct owner_figures *out)
{
    static const uint64_t stages[] = {
        [OWNER_STEPPING] = 1, [OWNER_KILLS] = 1, [OWNER_MEMBERS] = 2, [OWNER_FOLDERS] = 3, [OWNER_GATHERED] = 0,
    };
    *out = (struct owner_figures){.pending = owner->pending_count, .gathering = stages[owner->phase], .left_out = owner->left_out};
    out->kills = owner->kills ? kill_map_count(owner->kills) : 0;
    directory_sums(owner->directory, &out->directory);
}
