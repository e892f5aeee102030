/* Where a key is, tried in a small world of its own: 3 to 5 nodes, views by an oracle that keeps C1 to C4, a virtual clock, all by a seed.
 *
 * Each node has the owner machine under test, and beside it a model of what holds bytes and of what coordinates, which does what
 * docs/cluster.md says: puts that are sealed, committed and shown; look-ups and fetches; removes; evictions that ask; reports; a log and
 * records that survive kills. Messages are late, lost with their connection, or come after the next one was made; pages are lost; nodes are
 * killed, fenced, come back with their folder. The judge looks at what clients are told, and at all nodes at once.
 *
 * KVD_OWNER_SEEDS=FROM-TO tries others; KVD_OWNER_TRACE=1 tells what happens.
 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cluster/owner_inner.h"

enum {
    IDS = 5,
    KEYS = 12,
    RECORDS = 8, /* of one key in one folder */
    OPS = 4096,
    EVENTS_MAX = 1 << 15,
    VIEWS = 256,
    LEASES = 64,
    PAGE_KEYS = 3,
    MS = 1000,
    SECOND = 1000 * MS,
    TIMEOUT = 150 * MS,
    TRIES = 40,
    CALM_AFTER = 4 * SECOND,
    END_AFTER = 12 * SECOND,
};

/* ---- planted bugs ---- */

enum bug {
    PLANT_NONE,
    PLANT_SERVES_EARLY,
    PLANT_BASE_STAYS,
    PLANT_REPORT_MAKES,
    PLANT_ANSWERS_EARLY,
    PLANT_LEASE_UNSEEN,
    PLANT_NOT_ALL,
    PLANT_DROPS_LAST,
    PLANT_NO_FLOOR,
    PLANT_OWN_KILLS_LOST,
    PLANT_OLD_PAGE,
};
static enum bug planted;

bool __real_owner_complete(const struct owner *owner, uint64_t view_hash);
bool __wrap_owner_complete(const struct owner *owner, uint64_t view_hash);
bool __wrap_owner_complete(const struct owner *owner, uint64_t view_hash)
{
    return __real_owner_complete(owner, view_hash) || (planted == PLANT_SERVES_EARLY && owner_in_scope(owner, view_hash));
}

void __real_rivals_add(struct rivals *rivals, const struct view *view);
void __wrap_rivals_add(struct rivals *rivals, const struct view *view);
void __wrap_rivals_add(struct rivals *rivals, const struct view *view)
{
    if (planted != PLANT_BASE_STAYS)
        __real_rivals_add(rivals, view);
}

void __real_owner_keep_kill(struct owner *owner, enum kill_kind kind, struct span name, uint64_t version);
void __wrap_owner_keep_kill(struct owner *owner, enum kill_kind kind, struct span name, uint64_t version);
void __wrap_owner_keep_kill(struct owner *owner, enum kill_kind kind, struct span name, uint64_t version)
{
    if (planted != PLANT_OWN_KILLS_LOST)
        __real_owner_keep_kill(owner, kind, name, version);
}

void __real_owner_note_loss(struct owner *owner, unsigned node, uint64_t hash);
void __wrap_owner_note_loss(struct owner *owner, unsigned node, uint64_t hash);
void __wrap_owner_note_loss(struct owner *owner, unsigned node, uint64_t hash)
{
    if (planted != PLANT_OLD_PAGE)
        __real_owner_note_loss(owner, node, hash);
}

/* ---- the world ---- */

/* What a node has of a key, as it shows it. */
struct have {
    uint64_t version, sum;
    bool memory, disk;
    bool disk_told;      /* to whoever owns it in this view */
    bool dirty;          /* it is to be said */
    uint64_t reporting;  /* it is being said: the number of the report, or 0 */
    uint64_t changes;    /* so that an answer is known to be about what is here now */
    unsigned committing; /* commits of the key by way of this node that are under way */
    bool writing;
    uint64_t asking; /* may it be dropped? The number of the question, or 0: nothing is said of the key meanwhile */
};

struct on_disk {
    uint64_t version, sum;
};

struct logged {
    int key; /* -1: a prefix */
    int prefix;
    uint64_t version;
};

struct folder {
    struct on_disk records[KEYS][RECORDS];
    struct logged *log;
    size_t log_count, log_room;
    uint64_t ceiling;
    uint64_t start; /* the last */
    bool was_member;
};

struct process {
    bool up, acting, wants_in;
    int life;
    struct incarnation incarnation;
    uint64_t acknowledged, effective;
    struct owner *owner;
    struct version_counter versions;
    struct have have[KEYS];
    uint64_t connection[IDS]; /* to each other; that to itself stays */
    uint64_t lease_end_us;    /* of one that is to be fenced */
};

enum op_kind { OP_PUT, OP_GET, OP_REMOVE, OP_RANGE };
enum op_state { OP_TRYING, OP_UNSURE, OP_DONE };

struct op {
    enum op_kind kind;
    enum op_state state;
    int who, life, key, prefix;
    bool replace;
    uint64_t sum; /* number of the op and 1: what was put */
    uint64_t start_us, end_us;
    uint64_t view; /* when it was asked */
    uint64_t request;
    unsigned tries, waiting, round;
    bool failed;
    uint64_t highest;
    enum owner_result result;
    bool acked;   /* to the client, as something that happened */
    bool nothing; /* ... as something that did not */
    uint64_t version, dead_version;
    uint64_t lease_us;
    struct listing_copy {
        uint64_t version, sum;
        unsigned count, at;
        struct {
            int id;
            struct incarnation incarnation;
            bool memory, disk;
        } at_nodes[LISTING_REPLICAS_MAX];
    } found;
};

enum message_kind {
    ASK_LOOK_UP,
    ASK_COMMIT,
    ASK_FORGET,
    ASK_HIGHEST,
    ASK_RANGE,
    ASK_REPORT,
    ASK_DROP,
    ASK_FETCH,
    ASK_GATHER,
    TELL_KILL,
    TELL_DEAD,
    ANSWER = 100, /* added to what was asked */
};

struct page {
    struct gathered_kill kills[PAGE_KEYS];
    struct gathered_object objects[PAGE_KEYS];
    struct gathered_hold holds[PAGE_KEYS];
    uint32_t count;
    uint64_t next;
    bool failed;
};

struct message {
    int kind;
    int from, to, to_life, asker_life;
    struct incarnation incarnation; /* of who sends */
    uint64_t connection;            /* of who asked */
    uint64_t view;
    int op, key;
    uint64_t request;
    enum owner_result result;
    enum report_result reported;
    bool yes, memory, disk, removed;
    uint64_t version, dead_version, changes;
    struct holding holding;
    struct gather_ask ask;
    struct rivals members, base; /* of the ask */
    uint64_t sum;
    struct page page;
    struct listing_copy found;
};

enum event_kind {
    EVENT_MESSAGE,
    EVENT_OP,
    EVENT_TIMEOUT,
    EVENT_LOG,
    EVENT_LOGGED,
    EVENT_TICK,
    EVENT_WRITTEN,
    EVENT_FAULT,
    EVENT_ACKNOWLEDGE,
    EVENT_EFFECTIVE,
    EVENT_TELL_EFFECTIVE,
    EVENT_LEASE_ENDS,
    EVENT_FENCE,
    EVENT_RENEW,
    EVENT_START,
    EVENT_PUBLISH,
    EVENT_PAGE_LOST,
    EVENT_CLIENT,
};

struct event {
    uint64_t at_us, order;
    enum event_kind kind;
    int who, life;
    uint64_t number; /* of an op, a view, a ticket, a page */
    uint64_t request;
    struct message *message;
    struct logged entry;
    struct on_disk record;
    bool failed;
};

struct lease {
    int key, who, life;
    uint64_t version, until_us;
};

struct world {
    uint64_t now_us, order, random;
    struct event heap[EVENTS_MAX];
    size_t events;
    int ids;
    unsigned slow_percent, log_slow_percent, evict_percent;
    bool calm, quiet; /* no more faults; no more clients */
    struct process processes[IDS];
    struct folder folders[IDS];
    uint64_t channel_us[IDS][IDS][2]; /* until when what was sent is on its way: order is kept */
    struct view views[VIEWS];
    uint64_t newest;
    bool newest_effective;
    struct op ops[OPS];
    int op_count;
    struct lease leases[LEASES];
    unsigned lease_at;
    uint64_t requests;
    char keys[KEYS][16];
    uint64_t dead_acked[KEYS]; /* no version up to it may be said to a get that begins now */
    uint64_t given_acked[KEYS];
    uint64_t lost[KEYS]; /* a version of which a replica went with its node, or rotted: its leases are void */
    bool trace;
    char wrong[256];
    uint64_t hits, misses, puts, removes, presents, gathers;
};

static uint64_t next_random(struct world *w)
{
    w->random += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = w->random;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t below(struct world *w, uint64_t n)
{
    return next_random(w) % n;
}

static bool chance(struct world *w, unsigned percent)
{
    return below(w, 100) < percent;
}

__attribute__((format(printf, 2, 3))) static void wrong(struct world *w, const char *format, ...)
{
    if (w->wrong[0])
        return;
    int n = snprintf(w->wrong, sizeof w->wrong, "%.3f s: ", (double)w->now_us / SECOND);
    va_list args;
    va_start(args, format);
    vsnprintf(w->wrong + n, sizeof w->wrong - (size_t)n, format, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void tell(const struct world *w, const char *format, ...)
{
    if (!w->trace)
        return;
    fflush(stderr);
    printf("%9.4f  ", (double)w->now_us / SECOND);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static bool sooner(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void event_add(struct world *w, struct event event, uint64_t after_us)
{
    cr_assert(w->events < EVENTS_MAX);
    event.at_us = w->now_us + after_us;
    event.order = w->order++;
    size_t i = w->events++;
    for (; i > 0 && sooner(&event, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = event;
}

static struct event event_take(struct world *w)
{
    struct event first = w->heap[0], last = w->heap[--w->events];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->events)
            break;
        if (child + 1 < w->events && sooner(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!sooner(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return first;
}

static struct span key_of(const struct world *w, int key)
{
    return span_text(w->keys[key]);
}

static int key_number(const struct world *w, struct span key)
{
    for (int i = 0; i < KEYS; i++)
        if (span_equal(key, key_of(w, i)))
            return i;
    return -1;
}

static struct owner_now moment(const struct world *w, const struct process *p)
{
    return (struct owner_now){.now_ms = w->now_us / MS, .wall_ms = w->now_us / MS, .acting = p->acting};
}

static void id_text(char out[NODE_ID_MAX + 1], int id)
{
    snprintf(out, NODE_ID_MAX + 1, "n%d", id);
}

/* ---- the judge ---- */

static const struct op *put_of(const struct world *w, uint64_t sum)
{
    return sum >= 1 && sum <= (uint64_t)w->op_count && w->ops[sum - 1].kind == OP_PUT ? &w->ops[sum - 1] : NULL;
}

/* A get, or a put that found something, began when no version up to `dead` could be said any more. */
static void judge_value(struct world *w, const struct op *op, uint64_t dead, uint64_t version, uint64_t sum, bool bytes)
{
    const struct op *put = put_of(w, sum);
    const char *what = bytes ? "a get" : "a look-up";
    if (!put || put->key != op->key)
        wrong(w, "P1: %s of key %d: not what was put", what, op->key);
    else if (bytes && put->state == OP_DONE && put->nothing && put->end_us < op->start_us)
        wrong(w, "P1: %s of key %d: version %lu, of a put that was refused", what, op->key, (unsigned long)version);
    else if (version <= dead)
        wrong(w, "P1: %s of key %d by node %d: version %lu, but %lu was dead", what, op->key, op->who, (unsigned long)version,
              (unsigned long)dead);
}

/* Who serves a key, or -1. */
static int server_of(struct world *w, int key)
{
    int server = -1;
    uint64_t hash = view_key_hash(key_of(w, key));
    for (int i = 0; i < w->ids; i++) {
        const struct process *p = &w->processes[i];
        if (!p->up || !p->acting || !owner_complete(p->owner, hash))
            continue;
        if (server >= 0)
            wrong(w, "C4: nodes %d and %d both serve key %d", server, i, key);
        server = i;
    }
    return server;
}

static struct listing *listing_of(struct world *w, int who, int key)
{
    struct directory *directory = w->processes[who].owner->directory;
    struct span name = key_of(w, key);
    return directory_find(directory, name, directory_hash(directory, name));
}

static void judge_servers(struct world *w)
{
    for (int k = 0; k < KEYS; k++) {
        int server = server_of(w, k);
        const struct listing *listing = server >= 0 ? listing_of(w, server, k) : NULL;
        if (listing && listing->version <= w->dead_acked[k])
            wrong(w, "C8: node %d lists key %d with version %lu, but %lu was dead", server, k, (unsigned long)listing->version,
                  (unsigned long)w->dead_acked[k]);
    }
}

/* Somebody else, or another medium, has this version. */
static bool is_somewhere(const struct world *w, int key, uint64_t version)
{
    for (int i = 0; i < w->ids; i++) {
        const struct have *have = &w->processes[i].have[key];
        if (w->processes[i].up && have->version == version && (have->memory || have->disk))
            return true;
        for (int r = 0; r < RECORDS && !w->processes[i].up; r++)
            if (w->folders[i].records[key][r].version == version)
                return true;
    }
    return false;
}

/* It is dead, or nobody knows. */
static bool may_be_dead(const struct world *w, int key, uint64_t version)
{
    bool dead = w->dead_acked[key] >= version;
    for (int n = 0; n < w->op_count && !dead; n++) {
        const struct op *op = &w->ops[n];
        bool about = op->kind == OP_RANGE ? op->prefix < 0 || key % 2 == op->prefix : op->key == key;
        dead = about && op->kind != OP_GET && (op->dead_version >= version || !(op->acked || op->nothing));
    }
    return dead;
}

/* A replica was given up because its owner said that it may. */
static void judge_dropped(struct world *w, int key, uint64_t version)
{
    int server = server_of(w, key);
    if (is_somewhere(w, key, version) || server < 0 || w->lost[key] >= version)
        return;
    for (unsigned i = 0; i < LEASES; i++) {
        const struct lease *lease = &w->leases[i];
        const struct process *p = &w->processes[lease->who];
        if (lease->key != key || lease->version != version || lease->until_us <= w->now_us || !p->up || p->life != lease->life)
            continue;
        if (!may_be_dead(w, key, version))
            wrong(w, "C10: the last replica of key %d version %lu was dropped, which node %d has leased", key, (unsigned long)version,
                  lease->who);
    }
}

/* What happened is told to the client. */
static void op_ends(struct world *w, struct op *op, bool acked, bool nothing)
{
    op->state = OP_DONE;
    op->end_us = w->now_us;
    op->acked = acked;
    op->nothing = nothing;
    op->request = 0;
    static const char *const names[] = {"put", "get", "remove", "range"};
    tell(w, "op %d: %s of key %d by node %d: %s, result %d version %lu dead %lu", (int)(op - w->ops), names[op->kind], op->key, op->who,
         acked     ? "done"
         : nothing ? "refused"
                   : "unknown",
         op->result, (unsigned long)op->version, (unsigned long)op->dead_version);
    if (!acked)
        return;
    for (int k = 0; k < KEYS; k++) {
        if (op->kind == OP_RANGE ? op->prefix >= 0 && k % 2 != op->prefix : k != op->key)
            continue;
        w->dead_acked[k] = max_u64(w->dead_acked[k], op->dead_version);
        w->given_acked[k] = max_u64(w->given_acked[k], max_u64(op->version, op->dead_version));
    }
    w->puts += op->kind == OP_PUT;
    w->removes += op->kind == OP_REMOVE;
}

/* ---- messages ---- */

static int owner_of(const struct world *w, const struct process *p, int key)
{
    struct view_order order;
    const struct view *view = &w->views[p->acknowledged];
    view_order_init(&order, view);
    return view->members[view_owner(&order, view_key_hash(key_of(w, key)))].id[1] - '0';
}

static uint64_t delay(struct world *w)
{
    if (!w->quiet && chance(w, w->slow_percent))
        return below(w, 120 * MS);
    return 100 + below(w, 2 * MS);
}

/* In order behind what was sent the same way over the same connection. */
static void post(struct world *w, struct message *m, bool answer)
{
    uint64_t *channel = &w->channel_us[m->from][m->to][answer];
    uint64_t at_us = max_u64(w->now_us + delay(w), *channel);
    *channel = at_us;
    event_add(w, (struct event){.kind = EVENT_MESSAGE, .who = m->to, .message = m}, at_us - w->now_us);
}

static struct message *message_to(struct world *w, int from, int to, int kind)
{
    struct message *m = calloc(1, sizeof *m);
    cr_assert(m);
    struct process *p = &w->processes[from];
    *m = (struct message){.kind = kind, .from = from, .to = to, .incarnation = p->incarnation, .to_life = w->processes[to].life};
    m->connection = p->connection[to];
    m->asker_life = p->life;
    m->view = p->acknowledged;
    return m;
}

static struct message *answer_to(struct world *w, const struct message *asked)
{
    struct message *m = message_to(w, asked->to, asked->from, asked->kind + ANSWER);
    m->to_life = asked->asker_life;
    m->connection = asked->connection;
    m->op = asked->op;
    m->key = asked->key;
    m->request = asked->request;
    m->version = asked->version;
    m->changes = asked->changes;
    m->view = asked->view;
    m->memory = asked->memory;
    m->disk = asked->disk;
    return m;
}

/* What was sent before may be lost or come late. */
static void break_connection(struct world *w, int from, int to)
{
    if (from == to)
        return;
    w->processes[from].connection[to]++;
    w->channel_us[from][to][0] = w->channel_us[to][from][1] = 0;
    for (size_t i = 0; i < w->events; i++) {
        struct message *m = w->heap[i].kind == EVENT_MESSAGE ? w->heap[i].message : NULL;
        bool over_it = m && (m->kind < ANSWER ? m->from == from && m->to == to : m->from == to && m->to == from);
        if (over_it && chance(w, 50))
            m->to_life = -1;
    }
}

static void drive(struct world *w, int who);

/* ---- holders ---- */

static void changed(struct have *have, bool dirty)
{
    have->changes++;
    have->dirty = have->dirty || dirty;
}

static void record_add(struct world *w, int id, int key, struct on_disk record)
{
    struct on_disk *records = w->folders[id].records[key];
    int to = 0;
    for (int i = 0; i < RECORDS; i++)
        if (records[i].version < records[to].version || records[i].version == record.version)
            to = i;
    records[to] = record;
}

static void records_erase(struct world *w, int id, int key, uint64_t version)
{
    for (int i = 0; i < RECORDS; i++)
        if (w->folders[id].records[key][i].version == version)
            w->folders[id].records[key][i] = (struct on_disk){0};
}

static void log_add(struct world *w, int id, struct logged entry)
{
    struct folder *folder = &w->folders[id];
    if (folder->log_count == folder->log_room) {
        folder->log_room = folder->log_room ? 2 * folder->log_room : 64;
        folder->log = realloc(folder->log, folder->log_room * sizeof folder->log[0]);
        cr_assert(folder->log);
    }
    folder->log[folder->log_count++] = entry;
}

/* By the owner's word: no version up to this one. What is on disk may stay there. */
static void forget_up_to(struct world *w, int who, int key, uint64_t version, bool bury)
{
    struct have *have = &w->processes[who].have[key];
    if (bury)
        log_add(w, who, (struct logged){.key = key, .version = version});
    if (have->version == 0 || have->version > version)
        return;
    tell(w, "node %d forgets key %d version %lu%s", who, key, (unsigned long)have->version, bury ? ", dead" : "");
    if (chance(w, 50))
        records_erase(w, who, key, have->version);
    have->version = have->sum = 0;
    have->memory = have->disk = have->disk_told = have->dirty = false;
    changed(have, false);
}

static void send_report(struct world *w, int who, int key)
{
    struct process *p = &w->processes[who];
    struct have *have = &p->have[key];
    if (!have->dirty || have->reporting || have->asking || have->committing > 0 || p->acknowledged == 0)
        return;
    have->reporting = ++w->requests;
    struct message *m = message_to(w, who, owner_of(w, p, key), ASK_REPORT);
    m->key = key;
    m->changes = have->changes;
    m->request = have->reporting;
    m->holding.version = have->version;
    m->holding.replica.memory = have->memory;
    m->holding.replica.disk = have->disk;
    m->holding.replica.sequence = 1;
    event_add(w, (struct event){.kind = EVENT_TIMEOUT, .who = who, .life = p->life, .number = (uint64_t)key, .request = m->request},
              TIMEOUT);
    post(w, m, false);
}

static void report_answered(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct have *have = &p->have[m->key];
    if (have->reporting != m->request)
        return;
    have->reporting = 0;
    if (have->changes != m->changes || m->view != p->acknowledged || m->reported == REPORT_LATER || have->committing > 0)
        return;
    have->dirty = false;
    if (m->reported == REPORT_DEAD) {
        uint64_t version = have->version;
        forget_up_to(w, m->to, m->key, version, true);
        judge_dropped(w, m->key, version);
    } else {
        have->disk_told = have->disk;
    }
}

static void evict(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    int key = (int)below(w, KEYS);
    struct have *have = &p->have[key];
    if (have->version == 0 || have->writing || have->asking || have->committing > 0 || p->acknowledged == 0)
        return;
    if (have->memory && have->disk && have->disk_told && chance(w, 50)) {
        have->memory = false;
        changed(have, true);
        tell(w, "node %d drops key %d version %lu from memory", who, key, (unsigned long)have->version);
        judge_dropped(w, key, have->version);
        return;
    }
    struct message *m = message_to(w, who, owner_of(w, p, key), ASK_DROP);
    m->key = key;
    m->version = have->version;
    m->changes = have->changes;
    m->memory = have->memory && (!have->disk || chance(w, 50));
    m->disk = !m->memory || chance(w, 20);
    m->request = have->asking = ++w->requests;
    event_add(w, (struct event){.kind = EVENT_TIMEOUT, .who = who, .life = p->life, .number = (uint64_t)key, .request = m->request},
              TIMEOUT);
    post(w, m, false);
}

static void drop_answered(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct have *have = &p->have[m->key];
    if (have->asking != m->request)
        return;
    have->asking = 0;
    have->dirty = true;
    if (have->changes != m->changes || !m->yes || m->view != p->acknowledged || have->writing || have->committing > 0)
        return;
    uint64_t version = have->version;
    tell(w, "node %d drops key %d version %lu%s%s, as it may", m->to, m->key, (unsigned long)version, m->memory ? " from memory" : "",
         m->disk ? " from disk" : "");
    if (m->disk) {
        records_erase(w, m->to, m->key, version);
        have->disk = have->disk_told = false;
    }
    have->memory = have->memory && !m->memory;
    if (!have->memory && !have->disk)
        have->version = have->sum = 0;
    changed(have, true);
    judge_dropped(w, m->key, version);
}

static void persist(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    int key = (int)below(w, KEYS);
    struct have *have = &p->have[key];
    if (have->version == 0 || !have->memory || have->disk || have->writing || !p->acting)
        return;
    have->writing = true;
    event_add(
        w,
        (struct event){.kind = EVENT_WRITTEN, .who = who, .life = p->life, .number = (uint64_t)key, .record = {have->version, have->sum}},
        1 * MS + below(w, 20 * MS));
}

static void written(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    int key = (int)event->number;
    if (!p->up || p->life != event->life) {
        /* The process was killed meanwhile: it is there, or not. */
        return;
    }
    struct have *have = &p->have[key];
    have->writing = false;
    if (have->version == event->record.version && have->memory) {
        record_add(w, event->who, key, event->record);
        have->disk = true;
        changed(have, true);
    } else {
        log_add(w, event->who, (struct logged){.key = key, .version = event->record.version});
    }
}

static void rot(struct world *w, int who)
{
    int key = (int)below(w, KEYS);
    struct have *have = &w->processes[who].have[key];
    if (!have->disk || have->writing)
        return;
    uint64_t version = have->version;
    records_erase(w, who, key, version);
    have->disk = have->disk_told = false;
    if (!have->memory)
        have->version = have->sum = 0;
    changed(have, true);
    w->lost[key] = max_u64(w->lost[key], version);
}

/* ---- a node as owner ---- */

static void answer_commit(struct world *w, int who, const struct owner_answer *answer, struct message *asked)
{
    struct message *m = answer_to(w, asked);
    m->result = answer->result;
    m->version = answer->version;
    m->dead_version = answer->dead_version;
    m->removed = answer->removed;
    (void)who;
    post(w, m, true);
}

enum { TICKETS = 256 };
struct waiting {
    uint64_t ticket;
    int life;
    struct message asked;
};
static struct waiting waiting[IDS][TICKETS];

static void wait_for(struct world *w, int who, uint64_t ticket, const struct message *asked)
{
    for (int i = 0; i < TICKETS; i++) {
        if (waiting[who][i].ticket != 0 && waiting[who][i].life == w->processes[who].life)
            continue;
        waiting[who][i] = (struct waiting){ticket, w->processes[who].life, *asked};
        return;
    }
    cr_assert(false, "too many tickets");
}

static void tell_holders(struct world *w, int who, const struct owner_answer *answer)
{
    const struct process *p = &w->processes[who];
    int key = answer->dead_version > 0 ? key_number(w, answer->key) : -1;
    for (unsigned node = 0; key >= 0 && node < DIRECTORY_NODES_MAX; node++) {
        if (!(answer->holders[node / 8] >> node % 8 & 1))
            continue;
        int id = owner_node_id(p->owner, node)[1] - '0';
        if (!w->processes[id].up || chance(w, 10))
            continue;
        struct message *m = message_to(w, who, id, TELL_KILL);
        m->key = key;
        m->version = answer->dead_version;
        post(w, m, false);
    }
}

static void ticket_done(struct world *w, int who, uint64_t ticket, bool durable)
{
    struct process *p = &w->processes[who];
    struct owner_now now = moment(w, p);
    now.acting = now.acting || planted == PLANT_LEASE_UNSEEN;
    struct owner_answer answer;
    if (!owner_logged(p->owner, &now, ticket, durable, &answer))
        return;
    for (int i = 0; i < TICKETS; i++) {
        struct waiting *one = &waiting[who][i];
        if (one->ticket != ticket || one->life != p->life)
            continue;
        one->ticket = 0;
        answer_commit(w, who, &answer, &one->asked);
        break;
    }
    tell_holders(w, who, &answer);
}

static void copy_listing(const struct world *w, int who, const struct listing *listing, struct listing_copy *out)
{
    const struct process *p = &w->processes[who];
    *out = (struct listing_copy){.version = listing->version, .sum = listing->checksum, .count = listing->count};
    for (unsigned i = 0; i < listing->count; i++) {
        const struct replica *replica = &listing->replicas[i];
        out->at_nodes[i].id = owner_node_id(p->owner, replica->node)[1] - '0';
        out->at_nodes[i].incarnation = owner_node_incarnation(p->owner, replica->node);
        out->at_nodes[i].memory = replica->memory;
        out->at_nodes[i].disk = replica->disk;
    }
}

static void hear_look_up(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct owner_now now = moment(w, p);
    struct span key = key_of(w, m->key);
    struct owner_found found;
    owner_look_up(p->owner, &now, &key, 1, w->ops[m->op].lease_us / MS, &found);
    struct message *answer = answer_to(w, m);
    answer->result = found.result;
    if (found.listing) {
        copy_listing(w, m->to, found.listing, &answer->found);
        tell(w, "owner %d: key %d is there as version %lu%s", m->to, m->key, (unsigned long)found.listing->version,
             w->ops[m->op].lease_us > 0 ? ", leased" : "");
    }
    post(w, answer, true);
}

static bool is_heard(struct world *w, const struct message *m, unsigned *sender)
{
    struct process *p = &w->processes[m->to];
    char id[NODE_ID_MAX + 1];
    id_text(id, m->from);
    return owner_hears(p->owner, id, m->incarnation, m->connection, sender);
}

static void hear_commit(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct owner_now now = moment(w, p);
    const struct op *op = &w->ops[m->op];
    struct owner_put put = {.key = key_of(w, m->key), .replace = op->replace, .facts = {.size = 1, .checksum = op->sum}};
    struct owner_answer answer = {.result = OWNER_NOT_MINE};
    unsigned sender;
    if (is_heard(w, m, &sender))
        owner_commit(p->owner, &now, sender, &put, &answer);
    if (answer.result == OWNER_LOGGING)
        wait_for(w, m->to, answer.ticket, m);
    else
        answer_commit(w, m->to, &answer, m);
}

static void hear_forget(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct owner_now now = moment(w, p);
    struct owner_answer answer;
    if (m->kind == ASK_FORGET) {
        owner_forget(p->owner, &now, key_of(w, m->key), &answer);
    } else {
        const struct op *op = &w->ops[m->op];
        struct span prefix = span_of(op->prefix > 0 ? "1/" : "0/", op->prefix < 0 ? 0 : 2);
        owner_forget_range(p->owner, &now, m->view, prefix, m->version, &answer);
    }
    if (answer.result == OWNER_LOGGING)
        wait_for(w, m->to, answer.ticket, m);
    else
        answer_commit(w, m->to, &answer, m);
}

static void hear_report(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct owner_now now = moment(w, p);
    struct message *answer = answer_to(w, m);
    unsigned sender;
    answer->reported = REPORT_LATER;
    if (is_heard(w, m, &sender)) {
        answer->reported = owner_report(p->owner, &now, sender, key_of(w, m->key), &m->holding);
        if (planted == PLANT_REPORT_MAKES && answer->reported == REPORT_DEAD && m->holding.replica.memory &&
            !listing_of(w, m->to, m->key)) {
            struct directory *directory = p->owner->directory;
            struct replica replica = m->holding.replica;
            replica.node = sender & 255;
            directory_add(directory, key_of(w, m->key), directory_hash(directory, key_of(w, m->key)),
                          &(struct object_facts){m->holding.version, 1, w->processes[m->from].have[m->key].sum, 0}, &replica);
            answer->reported = REPORT_KEPT;
        }
        static const char *const names[] = {"kept", "dead", "later"};
        tell(w, "owner %d: node %d has key %d version %lu%s%s: %s", m->to, m->from, m->key, (unsigned long)m->holding.version,
             m->holding.replica.memory ? " in memory" : "", m->holding.replica.disk ? " on disk" : "", names[answer->reported]);
    }
    post(w, answer, true);
}

static void hear_drop(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct owner_now now = moment(w, p);
    struct message *answer = answer_to(w, m);
    unsigned sender;
    if (is_heard(w, m, &sender)) {
        struct listing *listing = listing_of(w, m->to, m->key);
        if (planted == PLANT_DROPS_LAST && listing && p->owner->phase == OWNER_GATHERED)
            listing->leased_until_ms = 0;
        answer->yes = owner_drop(p->owner, &now, sender, key_of(w, m->key), m->version, m->memory, m->disk);
        tell(w, "owner %d: may node %d drop key %d version %lu%s%s? %s", m->to, m->from, m->key, (unsigned long)m->version,
             m->memory ? " in memory" : "", m->disk ? " on disk" : "", answer->yes ? "yes" : "no");
    }
    post(w, answer, true);
}

/* ---- a node as a source ---- */

static bool is_buried(const struct world *w, int id, int key, uint64_t version)
{
    const struct folder *folder = &w->folders[id];
    for (size_t i = 0; i < folder->log_count; i++) {
        const struct logged *entry = &folder->log[i];
        bool reaches = entry->key >= 0 ? entry->key == key : entry->prefix < 0 || key % 2 == entry->prefix;
        if (reaches && version <= entry->version)
            return true;
    }
    return false;
}

static struct on_disk best_record(const struct world *w, int id, int key)
{
    struct on_disk best = {0};
    for (int i = 0; i < RECORDS; i++) {
        struct on_disk record = w->folders[id].records[key][i];
        if (record.version > best.version && !is_buried(w, id, key, record.version))
            best = record;
    }
    return best;
}

static void give_kills(struct world *w, int id, const struct gather_ask *ask, struct page *page)
{
    const struct folder *folder = &w->folders[id];
    size_t at = ask->cursor;
    for (; at < folder->log_count && page->count < PAGE_KEYS; at++) {
        const struct logged *entry = &folder->log[at];
        struct gathered_kill kill = {.kind = KILL_KEY, .version = entry->version};
        if (entry->key >= 0)
            kill.name = key_of(w, entry->key);
        else
            kill = (struct gathered_kill){entry->prefix < 0 ? KILL_ALL : KILL_PREFIX,
                                          span_of(entry->prefix > 0 ? "1/" : "0/", entry->prefix < 0 ? 0 : 2), entry->version};
        if (kill.kind != KILL_KEY || gather_wants(ask, kill.name))
            page->kills[page->count++] = kill;
    }
    page->next = at < folder->log_count ? at : 0;
}

static void give_objects(struct world *w, int id, const struct gather_ask *ask, struct page *page)
{
    uint64_t at = ask->cursor;
    for (; at < KEYS && page->count < PAGE_KEYS; at++) {
        struct have have = w->processes[id].have[at];
        if (ask->folder) {
            struct on_disk record = best_record(w, id, (int)at);
            have = (struct have){.version = record.version, .sum = record.sum, .disk = true};
        }
        if (have.version == 0 || !gather_wants(ask, key_of(w, (int)at)))
            continue;
        page->objects[page->count++] = (struct gathered_object){
            .key = key_of(w, (int)at),
            .facts = {have.version, 1, have.sum, 0},
            .replica = {.memory = have.memory, .disk = have.disk, .sequence = 1},
        };
    }
    page->next = at < KEYS ? at : 0;
}

static void give_holds(struct world *w, int id, const struct gather_ask *ask, struct page *page)
{
    uint64_t at = ask->cursor;
    for (; at < LEASES && page->count < PAGE_KEYS; at++) {
        const struct lease *lease = &w->leases[at];
        if (lease->until_us > w->now_us && lease->who == id && lease->life == w->processes[id].life &&
            gather_wants(ask, key_of(w, lease->key)))
            page->holds[page->count++] = (struct gathered_hold){key_of(w, lease->key), lease->until_us / MS, false};
    }
    page->next = at < LEASES ? at : 0;
}

static void hear_gather(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct message *answer = answer_to(w, m);
    struct gather_ask ask = m->ask;
    char id[NODE_ID_MAX + 1];
    id_text(id, m->from);
    ask.id = id;
    ask.members = &m->members;
    ask.base = &m->base;
    answer->ask = m->ask;
    answer->page.failed = p->acknowledged != ask.view || (!w->calm && chance(w, 5));
    int source = m->holding.version ? (int)m->holding.version - 1 : m->to;
    if (answer->page.failed)
        (void)0;
    else if (ask.what == GATHER_KILLS)
        give_kills(w, source, &ask, &answer->page);
    else if (ask.what == GATHER_HOLDINGS)
        give_objects(w, source, &ask, &answer->page);
    else
        give_holds(w, source, &ask, &answer->page);
    post(w, answer, true);
}

static void gather_answered(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    struct owner_now now = moment(w, p);
    uint64_t number = m->ask.number;
    if (m->page.failed) {
        owner_gather_failed(p->owner, &now, number, GATHER_NOT_YET);
        return;
    }
    if (m->ask.what == GATHER_KILLS) {
        (void)owner_gathered_kills(p->owner, &now, number, m->page.kills, m->page.count, m->page.next);
        return;
    }
    if (m->ask.what == GATHER_HOLDS) {
        (void)owner_gathered_holds(p->owner, &now, number, m->page.holds, m->page.count, m->page.next);
        return;
    }
    if (!owner_gathered_objects(p->owner, &now, number, m->page.objects, m->page.count, m->page.next))
        return;
    for (uint32_t i = 0; i < m->page.count; i++) {
        const struct gathered_object *object = &m->page.objects[i];
        if (!object->dead || m->ask.folder)
            continue;
        struct message *dead = message_to(w, m->to, m->from, TELL_DEAD);
        dead->key = key_number(w, object->key);
        dead->version = object->facts.version;
        post(w, dead, false);
    }
}

/* ---- what an owner wants done ---- */

static void ask_page(struct world *w, int who, const struct gather_ask *ask)
{
    struct process *p = &w->processes[who];
    int id = owner_node_id(p->owner, ask->source)[1] - '0', to = id;
    if (ask->folder) {
        const struct view *view = &w->views[p->acknowledged];
        to = view->members[(unsigned)id % view->count].id[1] - '0';
    }
    struct message *m = message_to(w, who, to, ASK_GATHER);
    m->ask = *ask;
    m->members = *ask->members;
    m->base = *ask->base;
    if (planted == PLANT_NOT_ALL)
        m->ask.all = false;
    m->holding.version = ask->folder ? (uint64_t)id + 1 : 0;
    w->gathers++;
    event_add(w, (struct event){.kind = EVENT_PAGE_LOST, .who = who, .life = p->life, .number = ask->number}, TIMEOUT);
    post(w, m, false);
}

static void drive(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    if (!p->up)
        return;
    (void)owner_step(p->owner, 1 + (uint32_t)below(w, 400));
    struct owner_now now = moment(w, p);
    for (struct owner_action action; owner_next(p->owner, &now, &action);) {
        if (action.act == OWNER_GATHER) {
            ask_page(w, who, &action.ask);
            continue;
        }
        struct logged entry = {.key = -1, .prefix = -1, .version = action.version};
        if (action.kind == KILL_KEY)
            entry.key = key_number(w, action.name);
        else if (action.kind == KILL_PREFIX)
            entry.prefix = action.name.at[0] - '0';
        bool failed = !w->calm && chance(w, 2);
        uint64_t after_us = chance(w, w->log_slow_percent) && !w->calm ? below(w, 600 * MS) : below(w, 10 * MS);
        event_add(w, (struct event){.kind = EVENT_LOG, .who = who, .life = p->life, .entry = entry, .failed = failed}, after_us);
        struct event logged = {.kind = EVENT_LOGGED, .who = who, .life = p->life, .number = action.ticket, .failed = failed};
        if (planted == PLANT_ANSWERS_EARLY)
            ticket_done(w, who, action.ticket, true);
        else
            event_add(w, logged, after_us + below(w, 3 * MS));
    }
}

/* ---- clients, by way of a coordinator ---- */

static void op_try_later(struct world *w, struct op *op, uint64_t after_us)
{
    op->request = 0;
    event_add(w, (struct event){.kind = EVENT_OP, .number = (uint64_t)(op - w->ops)}, after_us);
}

static void op_send(struct world *w, struct op *op, int to, int kind, uint64_t version)
{
    struct message *m = message_to(w, op->who, to, kind);
    m->op = (int)(op - w->ops);
    m->key = op->key;
    m->request = op->request;
    m->version = version;
    post(w, m, false);
}

static void op_request(struct world *w, struct op *op)
{
    op->request = ++w->requests;
    event_add(w, (struct event){.kind = EVENT_OP, .number = (uint64_t)(op - w->ops), .request = op->request},
              TIMEOUT + (op->kind == OP_GET ? 0 : 700 * MS));
}

static void range_round(struct world *w, struct op *op)
{
    const struct process *p = &w->processes[op->who];
    const struct view *view = &w->views[p->acknowledged];
    op_request(w, op);
    op->waiting = view->count;
    op->failed = false;
    for (uint32_t i = 0; i < view->count; i++)
        op_send(w, op, view->members[i].id[1] - '0', op->round == 0 ? ASK_HIGHEST : ASK_RANGE, op->highest);
}

static void op_refuse(struct world *w, struct op *op)
{
    /* A remove that was tried may have happened. */
    op_ends(w, op, false, op->kind == OP_PUT);
}

static void op_try(struct world *w, struct op *op)
{
    struct process *p = &w->processes[op->who];
    struct have *have = op->key >= 0 ? &p->have[op->key] : NULL;
    if (op->state == OP_UNSURE && (have->dirty || have->reporting)) {
        send_report(w, op->who, op->key);
        if (++op->tries > TRIES)
            op_refuse(w, op);
        else
            op_try_later(w, op, 20 * MS);
        return;
    }
    if (++op->tries > TRIES || p->acknowledged == 0) {
        if (op->kind == OP_GET)
            op_ends(w, op, false, false);
        else
            op_refuse(w, op);
        return;
    }
    op->state = OP_TRYING;
    op->view = p->acknowledged;
    if (op->kind == OP_RANGE) {
        op->round = 0;
        op->highest = 0;
        range_round(w, op);
        return;
    }
    static const int asks[] = {[OP_PUT] = ASK_COMMIT, [OP_GET] = ASK_LOOK_UP, [OP_REMOVE] = ASK_FORGET};
    if (op->kind == OP_PUT)
        have->committing++;
    op_request(w, op);
    op_send(w, op, owner_of(w, p, op->key), asks[op->kind], 0);
}

/* Nobody knows whether it was committed: that is put straight first. */
static void op_unsure(struct world *w, struct op *op)
{
    changed(&w->processes[op->who].have[op->key], true);
    op->state = OP_UNSURE;
    send_report(w, op->who, op->key);
    op_try_later(w, op, 10 * MS);
}

static void op_timeout(struct world *w, struct op *op)
{
    switch (op->kind) {
    case OP_PUT:
        w->processes[op->who].have[op->key].committing--;
        op_unsure(w, op);
        break;
    case OP_GET:
        op_ends(w, op, false, false);
        break;
    case OP_REMOVE:
    case OP_RANGE:
        op_try_later(w, op, 10 * MS);
        break;
    }
}

static void commit_answered(struct world *w, struct op *op, const struct message *m)
{
    struct process *p = &w->processes[op->who];
    struct have *have = &p->have[op->key];
    have->committing--;
    op->result = m->result;
    op->version = m->version;
    if (m->result == OWNER_PRESENT) {
        w->presents++;
        op->version = 0;
        if (m->version <= op->highest)
            wrong(w, "P3: key %d is said to be present as version %lu, but %lu was dead", op->key, (unsigned long)m->version,
                  (unsigned long)op->highest);
        op_ends(w, op, true, false);
        op->nothing = true; /* of its own bytes */
        return;
    }
    if (m->result == OWNER_OK && p->acknowledged != op->view) {
        op_unsure(w, op);
        return;
    }
    if (m->result != OWNER_OK) {
        op->version = 0;
        if (m->result == OWNER_FULL)
            op_refuse(w, op);
        else
            op_try_later(w, op, 10 * MS + below(w, 20 * MS));
        return;
    }
    if (m->version <= op->found.version)
        wrong(w, "C5: key %d is given version %lu after %lu", op->key, (unsigned long)m->version, (unsigned long)op->found.version);
    op->dead_version = m->dead_version;
    if (op->version > have->version) {
        have->version = op->version;
        have->sum = op->sum;
        have->memory = true;
        have->disk = have->disk_told = false;
        changed(have, false);
    }
    op_ends(w, op, true, false);
}

/* The bytes, from wherever the owner said. */
static void fetch_next(struct world *w, struct op *op)
{
    struct process *p = &w->processes[op->who];
    const struct have *have = &p->have[op->key];
    struct listing_copy *found = &op->found;
    uint64_t sum = have->version == found->version && have->memory ? have->sum : 0;
    for (; sum == 0 && found->at < found->count; found->at++) {
        int id = found->at_nodes[found->at].id;
        if (found->at_nodes[found->at].disk) {
            for (int i = 0; i < RECORDS; i++)
                if (w->folders[id].records[op->key][i].version == found->version)
                    sum = w->folders[id].records[op->key][i].sum;
        }
        if (sum == 0 && id != op->who && found->at_nodes[found->at].memory) {
            found->at++;
            op_request(w, op);
            op_send(w, op, id, ASK_FETCH, found->version);
            return;
        }
    }
    if (sum == 0) {
        w->misses++;
        op_ends(w, op, false, false);
        return;
    }
    w->hits++;
    judge_value(w, op, op->highest, found->version, sum, true);
    op_ends(w, op, false, false);
}

static void fetched(struct world *w, struct op *op, const struct message *m)
{
    struct process *p = &w->processes[op->who];
    struct have *have = &p->have[op->key];
    if (!m->yes) {
        fetch_next(w, op);
        return;
    }
    w->hits++;
    judge_value(w, op, op->highest, op->found.version, m->sum, true);
    if (have->version < op->found.version && have->committing == 0 && !have->writing && chance(w, 50)) {
        have->version = op->found.version;
        have->sum = m->sum;
        have->memory = true;
        have->disk = have->disk_told = false;
        changed(have, true);
        send_report(w, op->who, op->key);
    }
    op_ends(w, op, false, false);
}

static void looked_up(struct world *w, struct op *op, const struct message *m)
{
    if (m->result != OWNER_OK) {
        w->misses++;
        op_ends(w, op, false, false);
        return;
    }
    op->found = m->found;
    judge_value(w, op, op->highest, op->found.version, op->found.sum, false);
    if (op->lease_us > 0)
        w->leases[w->lease_at++ % LEASES] = (struct lease){op->key, op->who, w->processes[op->who].life, op->found.version, op->lease_us};
    fetch_next(w, op);
}

static void forgotten(struct world *w, struct op *op, const struct message *m)
{
    op->result = m->result;
    op->dead_version = m->dead_version;
    if (m->result == OWNER_OK)
        op_ends(w, op, true, false);
    else
        op_try_later(w, op, 10 * MS + below(w, 20 * MS));
}

static void range_answered(struct world *w, struct op *op, const struct message *m)
{
    const struct process *p = &w->processes[op->who];
    op->failed = op->failed || (m->kind == ASK_HIGHEST + ANSWER ? m->version == 0 : m->result != OWNER_OK) || p->acknowledged != op->view;
    if (m->kind == ASK_HIGHEST + ANSWER)
        op->highest = max_u64(op->highest, m->version);
    if (--op->waiting > 0)
        return;
    if (op->failed || !p->acting) {
        op_try_later(w, op, 20 * MS);
    } else if (op->round++ == 0) {
        range_round(w, op);
    } else {
        op->dead_version = op->highest;
        op_ends(w, op, true, false);
    }
}

static void op_answered(struct world *w, const struct message *m)
{
    struct op *op = &w->ops[m->op];
    if (op->state == OP_DONE || op->life != w->processes[op->who].life || op->request != m->request || m->request == 0)
        return;
    bool more = op->kind == OP_RANGE && op->waiting > 1;
    if (!more)
        op->request = 0;
    switch (m->kind - ANSWER) {
    case ASK_LOOK_UP:
        looked_up(w, op, m);
        break;
    case ASK_COMMIT:
        commit_answered(w, op, m);
        break;
    case ASK_FORGET:
        forgotten(w, op, m);
        break;
    case ASK_HIGHEST:
    case ASK_RANGE:
        range_answered(w, op, m);
        break;
    default:
        fetched(w, op, m);
        break;
    }
}

static void client(struct world *w)
{
    event_add(w, (struct event){.kind = EVENT_CLIENT}, below(w, 12 * MS));
    int who = (int)below(w, (uint64_t)w->ids);
    struct process *p = &w->processes[who];
    if (!p->up || !p->acting || w->op_count == OPS || w->quiet)
        return;
    struct op *op = &w->ops[w->op_count++];
    uint64_t kind = below(w, 100);
    *op = (struct op){.kind = kind < 35 ? OP_PUT : kind < 85 ? OP_GET : kind < 97 ? OP_REMOVE : OP_RANGE, .who = who, .life = p->life};
    op->key = op->kind == OP_RANGE ? -1 : (int)below(w, KEYS);
    op->prefix = (int)below(w, 3) - 1;
    op->replace = chance(w, 40);
    op->sum = (uint64_t)(op - w->ops) + 1;
    op->start_us = w->now_us;
    op->lease_us = op->kind == OP_GET && chance(w, 30) ? w->now_us + 200 * MS + below(w, 800 * MS) : 0;
    if (op->key >= 0) {
        op->highest = w->dead_acked[op->key];
        op->found.version = w->given_acked[op->key];
    }
    op_try(w, op);
    drive(w, who);
}

/* ---- messages arrive ---- */

static void hear_fetch(struct world *w, struct message *m)
{
    struct have *have = &w->processes[m->to].have[m->key];
    struct message *answer = answer_to(w, m);
    answer->yes = have->version == m->version && have->memory;
    answer->sum = have->sum;
    if (!answer->yes && have->committing == 0)
        changed(have, true);
    post(w, answer, true);
}

static void deliver(struct world *w, struct message *m)
{
    struct process *p = &w->processes[m->to];
    if (!p->up || p->life != m->to_life)
        return;
    if (m->kind >= ANSWER && m->connection != p->connection[m->from])
        return;
    switch (m->kind) {
    case ASK_LOOK_UP:
        hear_look_up(w, m);
        break;
    case ASK_COMMIT:
        hear_commit(w, m);
        break;
    case ASK_FORGET:
    case ASK_RANGE:
        hear_forget(w, m);
        break;
    case ASK_HIGHEST: {
        struct message *answer = answer_to(w, m);
        answer->version = owner_highest(p->owner, m->view);
        post(w, answer, true);
        break;
    }
    case ASK_REPORT:
        hear_report(w, m);
        break;
    case ASK_DROP:
        hear_drop(w, m);
        break;
    case ASK_FETCH:
        hear_fetch(w, m);
        break;
    case ASK_GATHER:
        hear_gather(w, m);
        break;
    case TELL_KILL:
    case TELL_DEAD:
        forget_up_to(w, m->to, m->key, m->version, m->kind == TELL_DEAD);
        break;
    case ASK_REPORT + ANSWER:
        report_answered(w, m);
        break;
    case ASK_DROP + ANSWER:
        drop_answered(w, m);
        break;
    case ASK_GATHER + ANSWER:
        gather_answered(w, m);
        judge_servers(w);
        break;
    default:
        op_answered(w, m);
        break;
    }
    drive(w, m->to);
}

/* ---- views, by an oracle ---- */

static void process_end(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    struct folder *folder = &w->folders[who];
    for (int k = 0; k < KEYS; k++)
        if (p->have[k].memory)
            w->lost[k] = max_u64(w->lost[k], p->have[k].version);
    for (int k = 0; k < KEYS; k++)
        if (p->have[k].writing && p->have[k].memory && chance(w, 50))
            record_add(w, who, k, (struct on_disk){p->have[k].version, p->have[k].sum});
    folder->ceiling = p->versions.last + below(w, 1000);
    owner_free(p->owner);
    for (int i = 0; i < w->op_count; i++)
        if (w->ops[i].who == who && w->ops[i].state != OP_DONE)
            op_ends(w, &w->ops[i], false, false);
    *p = (struct process){.life = p->life + 1};
    tell(w, "node %d is killed", who);
}

static void claim(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    p->incarnation = (struct incarnation){++w->folders[who].start, next_random(w)};
    p->acknowledged = p->effective = 0;
    p->acting = false;
    p->wants_in = true;
}

static void process_start(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    if (p->up)
        return;
    *p = (struct process){.up = true, .life = p->life + 1};
    claim(w, who);
    p->versions = (struct version_counter){w->folders[who].ceiling + 1, UINT64_MAX};
    for (int i = 0; i < IDS; i++)
        p->connection[i] = 1;
    struct owner_options options = {.seed = next_random(w), .max_bytes = GIB, .kills_max = 1 << 20, .versions = &p->versions};
    id_text(options.id, who);
    cr_assert_eq(owner_new(&p->owner, &options), 0);
    for (int k = 0; k < KEYS; k++) {
        struct on_disk record = best_record(w, who, k);
        if (record.version > 0)
            p->have[k] = (struct have){.version = record.version, .sum = record.sum, .disk = true};
    }
    tell(w, "node %d starts (%lu)", who, (unsigned long)p->incarnation.start);
}

static bool in_view(const struct world *w, uint64_t number, int who)
{
    char id[NODE_ID_MAX + 1];
    id_text(id, who);
    return view_has(&w->views[number], id, w->processes[who].incarnation);
}

/* Whoever acts and is left out: until the end of its lease. */
static void publish(struct world *w)
{
    if (w->newest + 1 >= VIEWS)
        return;
    const struct view *before = &w->views[w->newest];
    struct view next = {.number = w->newest + 1, .previous = w->newest, .floor = before->floor + VIEW_FLOOR_STEP};
    for (int i = 0; i < w->ids; i++) {
        const struct process *p = &w->processes[i];
        bool member = p->up && (p->wants_in || in_view(w, w->newest, i));
        if (!member || (!w->calm && chance(w, 12)))
            continue;
        struct node_name name = {.incarnation = p->incarnation};
        id_text(name.id, i);
        view_put(&next, &name);
    }
    if (next.count == 0)
        return;
    w->views[++w->newest] = next;
    w->newest_effective = false;
    tell(w, "view %lu is published, with %u members", (unsigned long)w->newest, next.count);
    for (int i = 0; i < w->ids; i++) {
        struct process *p = &w->processes[i];
        if (!p->up)
            continue;
        struct event event = {.who = i, .life = p->life, .number = w->newest};
        event.kind = in_view(w, w->newest, i) ? EVENT_ACKNOWLEDGE : EVENT_LEASE_ENDS;
        if (event.kind == EVENT_ACKNOWLEDGE) {
            p->wants_in = false;
            w->folders[i].was_member = true;
        } else if (p->acknowledged == 0) {
            continue;
        }
        event_add(w, event, chance(w, 20) ? below(w, 400 * MS) : below(w, 20 * MS));
    }
    event_add(w, (struct event){.kind = EVENT_EFFECTIVE, .number = w->newest}, 1 * MS);
}

static void acknowledge(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    if (!p->up || p->life != event->life || p->acknowledged >= event->number || !in_view(w, event->number, event->who))
        return;
    uint64_t last = p->versions.last;
    p->acknowledged = event->number;
    owner_acknowledge(p->owner, &w->views[event->number]);
    if (planted == PLANT_NO_FLOOR)
        p->versions.last = last;
    for (int k = 0; k < KEYS; k++)
        p->have[k].disk_told = false;
    tell(w, "node %d acknowledges view %lu", event->who, (unsigned long)event->number);
    drive(w, event->who);
}

/* It may not know for a while why. */
static void lease_ends(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    if (!p->up || p->life != event->life || in_view(w, w->newest, event->who) || p->acknowledged == 0)
        return;
    tell(w, "node %d has no lease any more", event->who);
    p->acting = false;
    struct event fenced = *event;
    fenced.kind = EVENT_FENCE;
    event_add(w, fenced, chance(w, 50) ? below(w, 400 * MS) : 0);
}

static void fence(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    if (!p->up || p->life != event->life || in_view(w, w->newest, event->who) || p->acknowledged == 0)
        return;
    tell(w, "node %d is left out of view %lu", event->who, (unsigned long)event->number);
    claim(w, event->who);
    owner_begin_anew(p->owner);
    for (int k = 0; k < KEYS; k++) {
        p->have[k].disk_told = p->have[k].dirty = false;
        p->have[k].reporting = p->have[k].asking = 0;
    }
    drive(w, event->who);
}

static bool is_effective(const struct world *w)
{
    const struct view *view = &w->views[w->newest];
    uint32_t acknowledged = 0;
    for (int i = 0; i < w->ids; i++) {
        const struct process *p = &w->processes[i];
        if (p->up && p->acting && !in_view(w, w->newest, i))
            return false;
        acknowledged += p->up && p->acknowledged == w->newest;
    }
    return acknowledged == view->count;
}

static void look_whether_effective(struct world *w, const struct event *event)
{
    if (event->number != w->newest)
        return;
    if (!is_effective(w)) {
        event_add(w, *event, 2 * MS);
        return;
    }
    w->newest_effective = true;
    for (int i = 0; i < w->ids; i++)
        if (w->processes[i].up && in_view(w, w->newest, i))
            event_add(w, (struct event){.kind = EVENT_TELL_EFFECTIVE, .who = i, .life = w->processes[i].life, .number = w->newest},
                      chance(w, 20) ? below(w, 200 * MS) : below(w, 5 * MS));
}

static void tell_effective(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    if (!p->up || p->life != event->life || p->acknowledged != event->number || p->effective == event->number)
        return;
    const struct view *view = &w->views[event->number];
    struct folder_name folders[IDS];
    uint32_t count = 0;
    for (int i = 0; i < w->ids; i++) {
        struct folder_name *folder = &folders[count];
        id_text(folder->id, i);
        folder->incarnation = (struct incarnation){w->folders[i].start, 0};
        count += w->folders[i].was_member && !view_member(view, folder->id);
    }
    if (owner_effective(p->owner, view, folders, count)) {
        event_add(w, *event, 5 * MS);
        return;
    }
    p->effective = event->number;
    /* Who is left out of a newer one by now has no lease to be had. */
    p->acting = p->acting || in_view(w, w->newest, event->who);
    tell(w, "view %lu is effective for node %d", (unsigned long)event->number, event->who);
    judge_servers(w);
    drive(w, event->who);
}

/* ---- what goes wrong ---- */

static void fault(struct world *w)
{
    if (w->calm)
        return;
    event_add(w, (struct event){.kind = EVENT_FAULT}, below(w, 100 * MS));
    int who = (int)below(w, (uint64_t)w->ids);
    struct process *p = &w->processes[who];
    uint64_t what = below(w, 100);
    if (what < 12) {
        if (p->up) {
            process_end(w, who);
            event_add(w, (struct event){.kind = EVENT_START, .who = who}, below(w, 600 * MS));
            event_add(w, (struct event){.kind = EVENT_PUBLISH}, 20 * MS + below(w, 300 * MS));
        }
    } else if (what < 40) {
        if (p->acting && p->up) {
            p->acting = false;
            tell(w, "node %d has no lease", who);
            event_add(w, (struct event){.kind = EVENT_RENEW, .who = who, .life = p->life}, below(w, 100 * MS));
        }
    } else if (what < 60) {
        event_add(w, (struct event){.kind = EVENT_PUBLISH}, 0);
    } else if (what < 90) {
        int to = (int)below(w, (uint64_t)w->ids);
        break_connection(w, who, to);
    } else if (p->up) {
        rot(w, who);
    }
}

static void renew(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    if (!p->up || p->life != event->life || p->effective == 0)
        return;
    if (p->acknowledged == w->newest)
        p->acting = true;
    else if (in_view(w, w->newest, event->who))
        event_add(w, *event, 10 * MS);
}

static void tick(struct world *w, int who)
{
    event_add(w, (struct event){.kind = EVENT_TICK, .who = who}, 5 * MS + below(w, 20 * MS));
    struct process *p = &w->processes[who];
    if (!p->up)
        return;
    for (int k = 0; k < KEYS; k++)
        send_report(w, who, k);
    if (chance(w, 40))
        persist(w, who);
    if (chance(w, w->evict_percent) && !w->quiet)
        evict(w, who);
    drive(w, who);
}

static void do_event(struct world *w, const struct event *event)
{
    struct process *p = &w->processes[event->who];
    bool same = p->up && p->life == event->life;
    switch (event->kind) {
    case EVENT_MESSAGE:
        deliver(w, event->message);
        free(event->message);
        break;
    case EVENT_OP: {
        struct op *op = &w->ops[event->number];
        if (op->state == OP_DONE || op->request != event->request)
            break;
        if (event->request > 0) {
            op->request = 0;
            op_timeout(w, op);
        } else {
            op_try(w, op);
        }
        drive(w, op->who);
        break;
    }
    case EVENT_TIMEOUT:
        if (same && p->have[event->number].reporting == event->request)
            p->have[event->number].reporting = 0;
        if (same && p->have[event->number].asking == event->request) {
            /* It does not know what the owner has done. */
            p->have[event->number].asking = 0;
            changed(&p->have[event->number], true);
        }
        break;
    case EVENT_LOG:
        if ((same && !event->failed) || chance(w, 50))
            log_add(w, event->who, event->entry);
        break;
    case EVENT_LOGGED:
        if (same)
            ticket_done(w, event->who, event->number, !event->failed);
        break;
    case EVENT_TICK:
        tick(w, event->who);
        break;
    case EVENT_WRITTEN:
        written(w, event);
        break;
    case EVENT_FAULT:
        fault(w);
        break;
    case EVENT_ACKNOWLEDGE:
        acknowledge(w, event);
        break;
    case EVENT_EFFECTIVE:
        look_whether_effective(w, event);
        break;
    case EVENT_TELL_EFFECTIVE:
        tell_effective(w, event);
        break;
    case EVENT_LEASE_ENDS:
        lease_ends(w, event);
        break;
    case EVENT_FENCE:
        fence(w, event);
        break;
    case EVENT_RENEW:
        renew(w, event);
        break;
    case EVENT_START:
        process_start(w, event->who);
        event_add(w, (struct event){.kind = EVENT_PUBLISH}, below(w, 100 * MS));
        break;
    case EVENT_PUBLISH:
        publish(w);
        break;
    case EVENT_PAGE_LOST:
        if (same) {
            struct owner_now now = moment(w, p);
            owner_gather_failed(p->owner, &now, event->number, GATHER_NOT_YET);
            drive(w, event->who);
        }
        break;
    case EVENT_CLIENT:
        client(w);
        break;
    }
}

static void run_until(struct world *w, uint64_t end_us)
{
    while (w->events > 0 && w->heap[0].at_us <= end_us && !w->wrong[0]) {
        struct event event = event_take(w);
        w->now_us = event.at_us;
        do_event(w, &event);
    }
    w->now_us = max_u64(w->now_us, end_us);
}

/* Long after the last fault and the last client: all is heard, and the directory says of all nodes what they have. */
static void judge_rest(struct world *w)
{
    for (int k = 0; k < KEYS; k++) {
        int server = server_of(w, k);
        if (server < 0 || w->processes[server].owner->phase != OWNER_GATHERED) {
            wrong(w, "nobody serves key %d, long after the last fault", k);
            return;
        }
        struct listing *listing = listing_of(w, server, k);
        for (int i = 0; !listing && i < w->ids; i++)
            if (w->processes[i].have[k].version > 0 && !may_be_dead(w, k, w->processes[i].have[k].version))
                wrong(w, "C9: node %d has key %d version %lu, which is not listed", i, k, (unsigned long)w->processes[i].have[k].version);
        for (int i = 0; listing && i < w->ids; i++) {
            const struct process *p = &w->processes[i];
            const struct have *have = &p->have[k];
            struct replica replica = {0};
            for (unsigned r = 0; r < listing->count; r++)
                if (owner_node_id(w->processes[server].owner, listing->replicas[r].node)[1] - '0' == i)
                    replica = listing->replicas[r];
            bool has = p->up && have->version == listing->version;
            if ((has && have->memory) != replica.memory || (has && have->disk) != replica.disk)
                wrong(w, "C9: node %d has key %d version %lu:%s%s, and is listed with%s%s", i, k, (unsigned long)listing->version,
                      has && have->memory ? " memory" : "", has && have->disk ? " disk" : "", replica.memory ? " memory" : "",
                      replica.disk ? " disk" : "");
        }
    }
    for (int i = 0; i < w->op_count; i++)
        if (w->ops[i].state != OP_DONE)
            wrong(w, "op %d has no end", i);
}

struct totals {
    uint64_t hits, misses, puts, removes, presents, gathers, views;
};

static const char *world_run(struct world *w, uint64_t seed, char *out, size_t len)
{
    w->random = seed;
    w->ids = 3 + (int)below(w, 3);
    static const unsigned percents[] = {2, 5, 20, 50};
    w->slow_percent = percents[below(w, 3)];
    w->log_slow_percent = percents[below(w, 4)];
    w->evict_percent = percents[1 + below(w, 3)];
    w->now_us = SECOND;
    w->views[0].floor = 0;
    for (int k = 0; k < KEYS; k++)
        snprintf(w->keys[k], sizeof w->keys[k], "%d/%d-%lu", k % 2, k, (unsigned long)(next_random(w) % 100000));
    memset(waiting, 0, sizeof waiting);
    for (int i = 0; i < w->ids; i++) {
        w->folders[i].ceiling = below(w, 1 << 20);
        process_start(w, i);
        event_add(w, (struct event){.kind = EVENT_TICK, .who = i}, below(w, 20 * MS));
    }
    event_add(w, (struct event){.kind = EVENT_PUBLISH}, 0);
    event_add(w, (struct event){.kind = EVENT_CLIENT}, 100 * MS);
    event_add(w, (struct event){.kind = EVENT_FAULT}, 300 * MS);
    run_until(w, SECOND + CALM_AFTER);
    w->calm = true;
    tell(w, "faults end");
    for (int i = 0; i < w->ids; i++)
        event_add(w, (struct event){.kind = EVENT_START, .who = i}, 50 * MS);
    run_until(w, w->now_us + SECOND);
    for (int i = 0; i < 3; i++) {
        publish(w);
        run_until(w, w->now_us + SECOND / 2);
    }
    w->quiet = true;
    uint64_t limit_us = w->now_us + END_AFTER;
    run_until(w, limit_us);
    if (!w->wrong[0])
        judge_rest(w);
    if (w->wrong[0])
        snprintf(out, len, "seed %lu: %s", (unsigned long)seed, w->wrong);
    return w->wrong[0] ? out : NULL;
}

static const char *run_seed(uint64_t seed, struct totals *totals, char *out, size_t len)
{
    struct world *w = calloc(1, sizeof *w);
    cr_assert(w);
    w->trace = getenv("KVD_OWNER_TRACE") != NULL;
    const char *result = world_run(w, seed, out, len);
    totals->hits += w->hits;
    totals->misses += w->misses;
    totals->puts += w->puts;
    totals->removes += w->removes;
    totals->presents += w->presents;
    totals->gathers += w->gathers;
    totals->views += w->newest;
    for (size_t i = 0; i < w->events; i++)
        free(w->heap[i].message);
    for (int i = 0; i < IDS; i++) {
        owner_free(w->processes[i].owner);
        free(w->folders[i].log);
    }
    free(w);
    return result;
}

Test(owner, seeds, .timeout = 3600)
{
    uint64_t from = 1, to = 100;
    const char *wanted = getenv("KVD_OWNER_SEEDS");
    if (wanted && sscanf(wanted, "%lu-%lu", &from, &to) == 1)
        to = from;
    struct totals totals = {0};
    char text[320];
    unsigned failed = 0;
    for (uint64_t seed = from; seed <= to; seed++) {
        const char *result = run_seed(seed, &totals, text, sizeof text);
        if (result && failed++ < 10)
            fprintf(stderr, "%s\n", result);
    }
    if (wanted)
        fprintf(stderr, "%lu hits, %lu misses, %lu puts, %lu present, %lu removes, %lu pages, %lu views\n", (unsigned long)totals.hits,
                (unsigned long)totals.misses, (unsigned long)totals.puts, (unsigned long)totals.presents, (unsigned long)totals.removes,
                (unsigned long)totals.gathers, (unsigned long)totals.views);
    cr_assert_eq(failed, 0, "%u seeds failed", failed);
    cr_assert(totals.hits > totals.views && totals.removes > totals.views);
}

/* The judge finds what breaks the rules. `from`: a little before it did, so that this does not take long. */
static void must_fail(enum bug which, uint64_t from)
{
    planted = which;
    char text[320];
    struct totals totals = {0};
    for (uint64_t seed = from; seed <= from + 3000; seed++)
        if (run_seed(seed, &totals, text, sizeof text) && !strstr(text, "nobody serves")) {
            planted = PLANT_NONE;
            if (getenv("KVD_OWNER_SEEDS"))
                fprintf(stderr, "plant %d: %s\n", which, text);
            return;
        }
    cr_assert(false, "plant %d was not found", which);
}

Test(owner, serves_before_it_has_heard, .timeout = 600)
{
    must_fail(PLANT_SERVES_EARLY, 190);
}

Test(owner, acknowledges_without_giving_up, .timeout = 600)
{
    must_fail(PLANT_BASE_STAYS, 1);
}

Test(owner, a_report_makes_an_entry, .timeout = 600)
{
    must_fail(PLANT_REPORT_MAKES, 1);
}

Test(owner, answers_before_the_kill_is_durable, .timeout = 600)
{
    must_fail(PLANT_ANSWERS_EARLY, 1);
}

Test(owner, lease_not_looked_at_after, .timeout = 600)
{
    must_fail(PLANT_LEASE_UNSEEN, 960);
}

Test(owner, new_start_not_asked_for_all, .timeout = 600)
{
    must_fail(PLANT_NOT_ALL, 890);
}

Test(owner, evicts_the_last_that_is_leased, .timeout = 600)
{
    must_fail(PLANT_DROPS_LAST, 1);
}

Test(owner, versions_without_floor, .timeout = 600)
{
    must_fail(PLANT_NO_FLOOR, 1);
}

Test(owner, own_kills_not_kept_while_gathering, .timeout = 600)
{
    must_fail(PLANT_OWN_KILLS_LOST, 1);
}

Test(owner, a_page_older_than_a_report, .timeout = 600)
{
    must_fail(PLANT_OLD_PAGE, 450);
}

/* ---- one node alone: what the small world does not have ---- */

struct alone {
    struct owner *owner;
    struct version_counter versions;
    struct view view;
    struct owner_now now;
    unsigned self;
};

static void alone_view(struct alone *a)
{
    struct node_name name = {.id = "n0", .incarnation = {1, 1}};
    a->view.number++;
    a->view.floor += VIEW_FLOOR_STEP;
    view_put(&a->view, &name);
    owner_acknowledge(a->owner, &a->view);
    cr_assert_eq(owner_effective(a->owner, &a->view, NULL, 0), 0);
    while (!owner_step(a->owner, 1000))
        continue;
    cr_assert(owner_hears(a->owner, "n0", (struct incarnation){1, 1}, 1, &a->self));
}

static struct alone *alone_new(uint64_t max_bytes, uint64_t kills_max)
{
    struct alone *a = calloc(1, sizeof *a);
    a->versions.ceiling = UINT64_MAX;
    a->now = (struct owner_now){.now_ms = 1000, .wall_ms = 1000, .acting = true};
    struct owner_options options = {.id = "n0", .seed = 3, .max_bytes = max_bytes, .kills_max = kills_max, .versions = &a->versions};
    cr_assert_eq(owner_new(&a->owner, &options), 0);
    alone_view(a);
    return a;
}

static void alone_free(struct alone *a)
{
    owner_free(a->owner);
    free(a);
}

/* The next page that it asks for must be of this. */
static uint64_t next_page(struct alone *a, enum gather_what what)
{
    struct owner_action action;
    cr_assert(owner_next(a->owner, &a->now, &action));
    cr_assert(action.act == OWNER_GATHER && action.ask.what == what && action.ask.cursor == 0);
    return action.ask.number;
}

static void gather_nothing(struct alone *a)
{
    cr_assert(owner_gathered_kills(a->owner, &a->now, next_page(a, GATHER_KILLS), NULL, 0, 0));
    cr_assert(owner_gathered_objects(a->owner, &a->now, next_page(a, GATHER_HOLDINGS), NULL, 0, 0));
    cr_assert(owner_gathered_holds(a->owner, &a->now, next_page(a, GATHER_HOLDS), NULL, 0, 0));
    struct owner_action action;
    cr_assert_not(owner_next(a->owner, &a->now, &action));
}

static enum owner_result put(struct alone *a, const char *key, bool replace, uint64_t end_ms, struct owner_answer *answer)
{
    struct owner_put what = {.key = span_text(key), .replace = replace, .facts = {.size = 1, .checksum = 7, .end_ms = end_ms}};
    owner_commit(a->owner, &a->now, a->self, &what, answer);
    return answer->result;
}

static const struct listing *look(struct alone *a, const char *text)
{
    struct span key = span_text(text);
    struct owner_found found;
    owner_look_up(a->owner, &a->now, &key, 1, 0, &found);
    cr_assert_eq(found.result, found.listing ? OWNER_OK : OWNER_ABSENT);
    return found.listing;
}

static void log_it(struct alone *a, bool durable, enum owner_result expected, struct owner_answer *answer)
{
    struct owner_action action;
    cr_assert(owner_next(a->owner, &a->now, &action));
    cr_assert(action.act == OWNER_LOG && action.kind == KILL_KEY);
    cr_assert(owner_logged(a->owner, &a->now, action.ticket, durable, answer));
    cr_assert_eq(answer->result, expected);
    struct owner_answer again;
    cr_assert_not(owner_logged(a->owner, &a->now, action.ticket, durable, &again));
}

Test(owner, commits_removes_and_replaces)
{
    struct alone *a = alone_new(GIB, 100);
    gather_nothing(a);
    struct owner_answer answer;
    cr_assert_eq(put(a, "k", false, 0, &answer), OWNER_OK);
    uint64_t first = answer.version;
    cr_assert_geq(first, a->view.floor);
    cr_assert_eq(put(a, "k", false, 0, &answer), OWNER_PRESENT);
    cr_assert_eq(answer.version, first);
    cr_assert_eq(put(a, "k", true, 0, &answer), OWNER_LOGGING);
    cr_assert_eq(put(a, "k", true, 0, &answer), OWNER_BUSY, "one at a time");
    cr_assert_eq(look(a, "k")->version, first);
    log_it(a, true, OWNER_OK, &answer);
    cr_assert(answer.dead_version >= first && answer.version > answer.dead_version && answer.holders[0] != 0);
    cr_assert_eq(look(a, "k")->version, answer.version);
    /* A remove overtakes a replace that is being logged, and nobody is told that it was done. */
    cr_assert_eq(put(a, "k", true, 0, &answer), OWNER_LOGGING);
    owner_forget(a->owner, &a->now, span_text("k"), &answer);
    cr_assert_eq(answer.result, OWNER_LOGGING);
    cr_assert_null(look(a, "k"));
    log_it(a, true, OWNER_BUSY, &answer);
    log_it(a, true, OWNER_OK, &answer);
    cr_assert(answer.removed && span_equal(answer.key, span_text("k")));
    a->now.acting = false;
    cr_assert_eq(put(a, "k", false, 0, &answer), OWNER_NOT_MINE);
    alone_free(a);
}

Test(owner, a_log_that_fails_makes_it_careful)
{
    struct alone *a = alone_new(GIB, 100);
    gather_nothing(a);
    struct owner_answer answer;
    cr_assert_eq(put(a, "k", false, 0, &answer), OWNER_OK);
    owner_forget(a->owner, &a->now, span_text("k"), &answer);
    log_it(a, false, OWNER_FAILED, &answer);
    cr_assert_null(look(a, "k"));
    /* What could not be killed may come back: a put is in front of it, durably. */
    cr_assert_eq(put(a, "k", false, 0, &answer), OWNER_LOGGING);
    log_it(a, true, OWNER_OK, &answer);
    a->versions.ceiling = a->versions.last;
    cr_assert_eq(put(a, "l", false, 0, &answer), OWNER_BUSY, "no version may be given");
    alone_free(a);
}

Test(owner, what_has_ended_is_not_there)
{
    struct alone *a = alone_new(GIB, 100);
    gather_nothing(a);
    struct owner_answer answer;
    cr_assert_eq(put(a, "k", false, 1500, &answer), OWNER_OK);
    cr_assert(look(a, "k"));
    a->now.wall_ms = 1500;
    cr_assert_null(look(a, "k"));
    cr_assert_eq(put(a, "k", false, 0, &answer), OWNER_OK);
    cr_assert_eq(owner_pin(a->owner, &a->now, span_text("k"), true), OWNER_OK);
    cr_assert_not(owner_drop(a->owner, &a->now, a->self, span_text("k"), answer.version, true, false));
    cr_assert_eq(owner_pin(a->owner, &a->now, span_text("k"), false), OWNER_OK);
    cr_assert_eq(owner_hold(a->owner, &a->now, span_text("k"), 1200), OWNER_OK);
    cr_assert_not(owner_drop(a->owner, &a->now, a->self, span_text("k"), answer.version, true, false));
    a->now.now_ms = 1200;
    cr_assert(owner_drop(a->owner, &a->now, a->self, span_text("k"), answer.version, true, false));
    cr_assert_null(look(a, "k"));
    alone_free(a);
}

static struct gathered_object object_of(const char *key, uint64_t version)
{
    return (struct gathered_object){.key = span_text(key), .facts = {version, 1, 7, 0}, .replica = {.disk = 1, .sequence = 1, .blocks = 1}};
}

/* A log of which nobody knows the end, and kills that there is no room for: what is older than the view is gone, what is not, is not. */
static void gather_in_need(bool unreadable)
{
    struct alone *a = alone_new(GIB, 4);
    uint64_t page = next_page(a, GATHER_KILLS);
    if (unreadable) {
        owner_gather_failed(a->owner, &a->now, page, GATHER_NOT_YET);
        struct owner_action action;
        cr_assert_not(owner_next(a->owner, &a->now, &action), "not at once");
        a->now.now_ms += GATHER_PAUSE_MS;
        owner_gather_failed(a->owner, &a->now, next_page(a, GATHER_KILLS), GATHER_UNREADABLE);
    } else {
        struct gathered_kill kills[6];
        char names[6][8];
        for (int i = 0; i < 6; i++) {
            snprintf(names[i], sizeof names[i], "k%d", i);
            kills[i] = (struct gathered_kill){KILL_KEY, span_text(names[i]), 5};
        }
        cr_assert(owner_gathered_kills(a->owner, &a->now, page, kills, 6, 0));
    }
    struct gathered_object objects[] = {object_of("old", 4), object_of("new", a->view.floor)};
    cr_assert(owner_gathered_objects(a->owner, &a->now, next_page(a, GATHER_HOLDINGS), objects, 2, 0));
    cr_assert(objects[0].dead && !objects[1].dead);
    cr_assert(!look(a, "old") && look(a, "new"));
    cr_assert_not(owner_gathered_objects(a->owner, &a->now, page, objects, 2, 0), "a page that nobody waits for");
    alone_free(a);
}

Test(owner, unreadable_log)
{
    gather_in_need(true);
}

Test(owner, too_many_kills)
{
    gather_in_need(false);
}

Test(owner, is_bounded)
{
    struct alone *a = alone_new(128 * KIB, 100);
    gather_nothing(a);
    struct owner_answer answer;
    char key[32];
    unsigned n = 0;
    do
        snprintf(key, sizeof key, "key-%u", n++);
    while (put(a, key, false, 0, &answer) == OWNER_OK);
    cr_assert_eq(answer.result, OWNER_FULL);
    struct owner_figures figures;
    owner_figures(a->owner, &figures);
    cr_assert(figures.directory.listings == n - 1 && figures.pending == 0 && figures.gathering == 0);
    /* What is heard of and has no room may come back: puts are logged until it was asked for again. */
    alone_view(a);
    cr_assert(owner_gathered_kills(a->owner, &a->now, next_page(a, GATHER_KILLS), NULL, 0, 0));
    struct gathered_object object = object_of("one more", 4);
    cr_assert(owner_gathered_objects(a->owner, &a->now, next_page(a, GATHER_HOLDINGS), &object, 1, 0));
    cr_assert(owner_gathered_holds(a->owner, &a->now, next_page(a, GATHER_HOLDS), NULL, 0, 0));
    owner_figures(a->owner, &figures);
    cr_assert_eq(figures.left_out, 1);
    cr_assert_eq(put(a, "one more", false, 0, &answer), OWNER_LOGGING);
    for (unsigned i = 0; i < OWNER_PENDING_MAX - 1; i++)
        owner_forget(a->owner, &a->now, span_text("x"), &answer);
    cr_assert_eq(answer.result, OWNER_LOGGING);
    owner_forget(a->owner, &a->now, span_text("x"), &answer);
    cr_assert_eq(answer.result, OWNER_BUSY);
    alone_free(a);
}

Test(owner, hears_members_over_their_latest_connection)
{
    struct alone *a = alone_new(GIB, 100);
    unsigned sender;
    cr_assert(owner_hears(a->owner, "n0", (struct incarnation){1, 1}, 5, &sender));
    cr_assert_not(owner_hears(a->owner, "n0", (struct incarnation){1, 1}, 4, &sender));
    cr_assert_not(owner_hears(a->owner, "n0", (struct incarnation){2, 1}, 6, &sender));
    cr_assert_not(owner_hears(a->owner, "n1", (struct incarnation){1, 1}, 6, &sender));
    cr_assert_str_eq(owner_node_id(a->owner, sender), "n0");
    alone_free(a);
}
