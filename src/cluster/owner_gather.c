#include "base/check.h"
#include "cluster/owner_inner.h"

#include "base/error.h"

/* ---- what it is complete for ---- */

bool owner_complete(const struct owner *owner, uint64_t view_hash)
{
    return rivals_owner(&owner->base, owner->options.id, view_hash);
}

bool owner_in_scope(const struct owner *owner, uint64_t view_hash)
{
    return owner->phase >= OWNER_STEPPING && rivals_owner(&owner->members, owner->options.id, view_hash);
}

bool gather_wants(const struct gather_ask *ask, struct span key)
{
    uint64_t view_hash = view_key_hash(key);
    if (!rivals_owner(ask->members, ask->id, view_hash))
        return false;
    return ask->what != GATHER_HOLDINGS || ask->all || !rivals_owner(ask->base, ask->id, view_hash);
}

bool owner_step(struct owner *owner, uint32_t steps)
{
    /* What is being gathered is kept: it is not complete, but it will be. */
    bool gathering = owner->phase == OWNER_KILLS || owner->phase == OWNER_MEMBERS;
    owner->settled = directory_step(owner->directory, gathering ? &owner->members : &owner->base, owner->options.id, steps);
    return owner->settled;
}

/* ---- kills that are kept while there is something to be heard ---- */

bool owner_killed(const struct owner *owner, struct span key, uint64_t version)
{
    return owner->kills && kill_map_dead(owner->kills, key, version);
}

/* What the map has no room for counts as: all that is older than the view, or than what the map had. */
static void kill_all_old(struct owner *owner)
{
    uint64_t version = max_u64(kill_map_max_version(owner->kills), owner->floor - 1);
    (void)kill_map_add(owner->kills, KILL_ALL, (struct span){0}, version);
}

void owner_keep_kill(struct owner *owner, enum kill_kind kind, struct span name, uint64_t version)
{
    if (!owner->kills)
        return;
    if (kill_map_count(owner->kills) < owner->options.kills_max && kill_map_add(owner->kills, kind, name, version) == 0)
        return;
    (void)kill_map_add(owner->kills, KILL_ALL, (struct span){0}, version);
    kill_all_old(owner);
}

static void keep_pending(struct owner *owner, const struct list *head)
{
    for (struct list *at = head->next; at != head; at = at->next) {
        const struct pending *pending = CONTAINER_OF(at, struct pending, bucket);
        enum kill_kind kind = pending->kind != PENDING_RANGE ? KILL_KEY : pending->name.len > 0 ? KILL_PREFIX : KILL_ALL;
        owner_keep_kill(owner, kind, pending->name, pending->dead_version);
    }
}

static void stop_gathering(struct owner *owner)
{
    kill_map_free(owner->kills);
    owner->kills = NULL;
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++)
        owner->sources[i].asked = 0;
}

/* ---- sources ---- */

static int source_of(struct owner *owner, const char *id, struct incarnation incarnation)
{
    int node = directory_node(owner->directory, id, incarnation);
    if (node < 0)
        return node;
    struct source *source = &owner->sources[node];
    if (!source->known || strcmp(source->id, id) != 0 || !incarnation_equal(source->incarnation, incarnation)) {
        *source = (struct source){.known = true, .incarnation = incarnation};
        memcpy(source->id, id, strlen(id) + 1);
    }
    return node;
}

bool owner_hears(struct owner *owner, const char *id, struct incarnation incarnation, uint64_t connection, unsigned *sender)
{
    for (unsigned i = 0; i < DIRECTORY_NODES_MAX; i++) {
        struct source *source = &owner->sources[i];
        if (!source->known || !source->listened || strcmp(source->id, id) != 0 || !incarnation_equal(source->incarnation, incarnation))
            continue;
        if (connection < source->connection)
            return false;
        source->connection = connection;
        *sender = i;
        return true;
    }
    return false;
}

void owner_note_loss(struct owner *owner, unsigned node, uint64_t hash)
{
    struct source *source = &owner->sources[node];
    if (source->asked == 0 || source->at != GATHER_HOLDINGS || source->lost_count > SOURCE_LOST_MAX)
        return;
    if (source->lost_count < SOURCE_LOST_MAX)
        source->lost[source->lost_count] = hash;
    source->lost_count++;
}

static bool was_lost(const struct source *source, uint64_t hash)
{
    for (uint32_t i = 0; i < source->lost_count && i < SOURCE_LOST_MAX; i++)
        if (source->lost[i] == hash)
            return true;
    return false;
}

/* ---- views ---- */

/* Commits of keys that it has lost are not shown, even if it has them again by the time that they are logged: others answered meanwhile. */
static void void_lost(struct owner *owner)
{
    for (int i = 0; i < PENDING_BUCKETS; i++) {
        const struct list *head = &owner->pending[i];
        for (struct list *at = head->next; at != head; at = at->next) {
            struct pending *pending = CONTAINER_OF(at, struct pending, bucket);
            if (pending->kind == PENDING_COMMIT && !owner_complete(owner, view_key_hash(pending->name)))
                pending->void_now = true;
        }
    }
}

void owner_begin_anew(struct owner *owner)
{
    stop_gathering(owner);
    owner->phase = OWNER_WAITING;
    owner->base.count = 0;
    owner->base.too_many = true; /* all keys may be another's */
    owner->all_heard = false;
    void_lost(owner);
    owner->acknowledged = owner->view = 0;
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++)
        owner->sources[i].listened = false;
    directory_base_grew(owner->directory);
    owner->settled = false;
}

void owner_acknowledge(struct owner *owner, const struct view *view)
{
    CHECK(view->number > owner->acknowledged);
    owner->acknowledged = view->number;
    stop_gathering(owner);
    owner->phase = OWNER_WAITING;
    rivals_add(&owner->base, view);
    void_lost(owner);
    directory_base_grew(owner->directory);
    owner->settled = false;
    struct version_counter *versions = owner->options.versions;
    versions->last = max_u64(versions->last, view->floor - 1);
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++)
        owner->sources[i].listened = false;
    for (uint32_t i = 0; i < view->count; i++) {
        int node = source_of(owner, view->members[i].id, view->members[i].incarnation);
        if (node >= 0)
            owner->sources[node].listened = true;
    }
}

static bool has_folder(const struct folder_name *folders, uint32_t count, const char *id)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(folders[i].id, id) == 0)
            return true;
    return false;
}

static void begin_source(struct owner *owner, int node, bool folder)
{
    struct source *source = &owner->sources[node];
    source->member = !folder;
    source->folder = folder;
    source->at = GATHER_KILLS;
    source->done = false;
    source->cursor = 0;
    source->asked = 0;
    source->next_ms = 0;
    if (owner->lossy)
        source->heard_as_member = source->heard_as_folder = false;
}

int owner_effective(struct owner *owner, const struct view *view, const struct folder_name *folders, uint32_t folder_count)
{
    CHECK(view->number == owner->acknowledged && owner->phase == OWNER_WAITING);
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++)
        owner->sources[i].member = owner->sources[i].folder = false;
    for (uint32_t i = 0; i < view->count + folder_count; i++) {
        bool folder = i >= view->count;
        const char *id = folder ? folders[i - view->count].id : view->members[i].id;
        int node = source_of(owner, id, folder ? folders[i - view->count].incarnation : view->members[i].incarnation);
        if (node < 0)
            return node;
        owner->sources[node].listened = !folder;
        begin_source(owner, node, folder);
    }
    for (unsigned i = 0; i < DIRECTORY_NODES_MAX; i++) {
        struct source *source = &owner->sources[i];
        if (!source->known || view_has(view, source->id, source->incarnation))
            continue;
        if (has_folder(folders, folder_count, source->id) || view_member(view, source->id)) {
            directory_memory_gone(owner->directory, i);
        } else {
            directory_node_gone(owner->directory, i);
            source->known = false;
        }
    }
    rivals_reset(&owner->members, view);
    owner->view = view->number;
    owner->floor = view->floor;
    owner->phase = OWNER_STEPPING;
    owner->all_heard = false;
    owner->lossy = false;
    directory_base_grew(owner->directory);
    owner->settled = false;
    return 0;
}

/* ---- stages ---- */

/* Has everything of this stage been heard, of all sources, or of the members? */
static bool all_past(const struct owner *owner, enum gather_what what, bool folders)
{
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++) {
        const struct source *source = &owner->sources[i];
        if (source->known && (source->member || (folders && source->folder)) && !source->done && source->at <= what)
            return false;
    }
    return true;
}

static void next_phase(struct owner *owner)
{
    if (owner->phase == OWNER_STEPPING && owner->settled) {
        if (kill_map_new(&owner->kills, owner->options.seed))
            return; /* tried again */
        owner->phase = OWNER_KILLS;
        keep_pending(owner, &owner->ranges);
        for (int i = 0; i < PENDING_BUCKETS; i++)
            keep_pending(owner, &owner->pending[i]);
    }
    if (owner->phase == OWNER_KILLS && all_past(owner, GATHER_KILLS, true))
        owner->phase = OWNER_MEMBERS;
    if (owner->phase == OWNER_MEMBERS && all_past(owner, GATHER_HOLDINGS, false)) {
        owner->phase = OWNER_FOLDERS;
        owner->base = owner->members;
    }
    if (owner->phase == OWNER_FOLDERS && all_past(owner, GATHER_HOLDS, true)) {
        owner->phase = OWNER_GATHERED;
        owner->all_heard = true;
        stop_gathering(owner);
    }
}

/* The source has said all that it has. Other starts of its id have nothing that it has not. */
static void source_heard(struct owner *owner, unsigned node)
{
    struct source *source = &owner->sources[node];
    if (source->folder)
        source->heard_as_folder = true;
    else
        source->heard_as_member = true;
    for (unsigned i = 0; i < DIRECTORY_NODES_MAX; i++) {
        struct source *other = &owner->sources[i];
        if (i == node || !other->known || strcmp(other->id, source->id) != 0)
            continue;
        directory_node_gone(owner->directory, i);
        other->known = other->folder = false;
        owner->settled = false;
    }
}

static void page_done(struct owner *owner, unsigned node, uint64_t next)
{
    struct source *source = &owner->sources[node];
    source->asked = 0;
    source->next_ms = 0;
    source->cursor = next;
    if (next == 0) {
        if (source->at == GATHER_HOLDINGS)
            source_heard(owner, node);
        source->done = source->at == GATHER_HOLDS || (source->at == GATHER_HOLDINGS && source->folder);
        if (!source->done)
            source->at++;
    }
    next_phase(owner);
}

/* ---- asking ---- */

static bool may_ask(const struct owner *owner, const struct source *source)
{
    if (!source->known || !(source->member || source->folder) || source->done || source->asked > 0)
        return false;
    if (source->at == GATHER_KILLS)
        return owner->phase >= OWNER_KILLS;
    /* What members hold comes first: keys wait for that. */
    return owner->phase >= (source->folder || source->at == GATHER_HOLDS ? OWNER_FOLDERS : OWNER_MEMBERS);
}

bool owner_next_gather(struct owner *owner, const struct owner_now *now, struct owner_action *out)
{
    next_phase(owner);
    if (owner->phase < OWNER_KILLS || owner->phase > OWNER_FOLDERS)
        return false;
    for (unsigned k = 0; k < DIRECTORY_NODES_MAX; k++) {
        unsigned i = (owner->turn + k) % DIRECTORY_NODES_MAX;
        struct source *source = &owner->sources[i];
        if (!may_ask(owner, source) || now->now_ms < source->next_ms)
            continue;
        owner->turn = i + 1;
        source->asked = ++owner->next_number;
        source->lost_count = 0;
        if (source->cursor == 0)
            source->asked_all = !(source->folder ? source->heard_as_folder : source->heard_as_member);
        out->act = OWNER_GATHER;
        out->ask = (struct gather_ask){
            .number = source->asked,
            .view = owner->view,
            .source = i,
            .folder = source->folder,
            .what = source->at,
            .cursor = source->cursor,
            .all = source->asked_all,
            .id = owner->options.id,
            .members = &owner->members,
            .base = &owner->base,
        };
        return true;
    }
    return false;
}

/* The source that was asked for this page, or NULL. */
static struct source *asked_of(struct owner *owner, uint64_t number, enum gather_what what, unsigned *node)
{
    for (unsigned i = 0; number > 0 && i < DIRECTORY_NODES_MAX; i++) {
        struct source *source = &owner->sources[i];
        if (!source->known || source->asked != number || source->at != what)
            continue;
        *node = i;
        return source;
    }
    return NULL;
}

static bool is_mine(const struct owner *owner, struct span key)
{
    return owner_in_scope(owner, view_key_hash(key));
}

bool owner_gathered_kills(struct owner *owner, const struct owner_now *now, uint64_t number, const struct gathered_kill *kills,
                          uint32_t count, uint64_t next)
{
    (void)now;
    unsigned node;
    if (!asked_of(owner, number, GATHER_KILLS, &node))
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (kills[i].kind != KILL_SEGMENT && (kills[i].kind != KILL_KEY || is_mine(owner, kills[i].name)))
            owner_keep_kill(owner, kills[i].kind, kills[i].name, kills[i].version);
    page_done(owner, node, next);
    return true;
}

/* ---- what others hold ---- */

static void left_out(struct owner *owner)
{
    owner->lossy = true;
    owner->left_out++;
}

/* The node has more, or the same, of an object that is listed. */
static void add_replica(struct owner *owner, struct listing *listing, const struct replica *heard)
{
    struct replica replica = *heard;
    const struct replica *known = listing_replica(listing, replica.node);
    if (known && known->disk && !replica.disk) {
        replica.disk = 1;
        replica.sequence = known->sequence;
        replica.block = known->block;
        replica.blocks = known->blocks;
    }
    replica.memory = replica.memory || (known && known->memory);
    listing = directory_put_replica(owner->directory, listing, &replica);
    if (listing)
        (void)owner_drop_former(owner, listing, replica.node);
    else
        left_out(owner);
}

static void take_object(struct owner *owner, const struct owner_now *now, unsigned node, struct gathered_object *object)
{
    struct replica replica = object->replica;
    replica.node = node & 255;
    if (!is_mine(owner, object->key) || !(replica.memory || replica.disk))
        return;
    uint64_t hash = directory_hash(owner->directory, object->key);
    struct listing *there = owner_find(owner, now, object->key, hash);
    if (there && there->version == object->facts.version) {
        add_replica(owner, there, &replica);
        return;
    }
    object->dead = (there && there->version > object->facts.version) || owner_killed(owner, object->key, object->facts.version);
    if (object->dead || (object->facts.end_ms > 0 && object->facts.end_ms <= now->wall_ms))
        return;
    if (there)
        directory_drop(owner->directory, there);
    if (!directory_add(owner->directory, object->key, hash, &object->facts, &replica))
        left_out(owner);
}

static bool any_was_lost(const struct owner *owner, const struct source *source, const struct gathered_object *objects, uint32_t count)
{
    if (source->lost_count > SOURCE_LOST_MAX)
        return true;
    for (uint32_t i = 0; source->lost_count > 0 && i < count; i++)
        if (was_lost(source, directory_hash(owner->directory, objects[i].key)))
            return true;
    return false;
}

bool owner_gathered_objects(struct owner *owner, const struct owner_now *now, uint64_t number, struct gathered_object *objects,
                            uint32_t count, uint64_t next)
{
    unsigned node;
    struct source *source = asked_of(owner, number, GATHER_HOLDINGS, &node);
    for (uint32_t i = 0; i < count; i++)
        objects[i].dead = false;
    if (!source)
        return false;
    /* The page may be older than what the node has said since. */
    if (any_was_lost(owner, source, objects, count)) {
        source->asked = 0;
        return true;
    }
    for (uint32_t i = 0; i < count; i++)
        take_object(owner, now, node, &objects[i]);
    page_done(owner, node, next);
    return true;
}

bool owner_gathered_holds(struct owner *owner, const struct owner_now *now, uint64_t number, const struct gathered_hold *holds,
                          uint32_t count, uint64_t next)
{
    unsigned node;
    if (!asked_of(owner, number, GATHER_HOLDS, &node))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        struct listing *listing =
            is_mine(owner, holds[i].key) ? owner_find(owner, now, holds[i].key, directory_hash(owner->directory, holds[i].key)) : NULL;
        if (!listing)
            continue;
        listing->leased_until_ms = max_u64(listing->leased_until_ms, holds[i].leased_until_ms);
        listing->pinned = listing->pinned || holds[i].pinned;
    }
    page_done(owner, node, next);
    return true;
}

void owner_gather_failed(struct owner *owner, const struct owner_now *now, uint64_t number, enum gather_failure failure)
{
    for (unsigned i = 0; number > 0 && i < DIRECTORY_NODES_MAX; i++) {
        struct source *source = &owner->sources[i];
        if (!source->known || source->asked != number)
            continue;
        source->asked = 0;
        source->next_ms = now->now_ms + GATHER_PAUSE_MS;
        if (failure == GATHER_UNREADABLE && source->at == GATHER_KILLS && owner->kills) {
            kill_all_old(owner);
            page_done(owner, i, 0);
        }
        return;
    }
}
