#include "history.h"

#include <stdlib.h>
#include <string.h>

#include "sim.h"

/* ---- recording ---- */

void history_init(struct history *history)
{
    *history = (struct history){0};
}

void history_fini(struct history *history)
{
    sim_free(history->aliases);
    sim_free(history->calls);
    sim_free(history->drops);
    sim_free(history->leases);
    sim_free(history->ends);
}

/* Room for one more, zeroed. */
static void *more(void **at, size_t *count, size_t *room, size_t bytes)
{
    if (*count == *room) {
        *room = *room ? 2 * *room : 64;
        *at = sim_grow(*at, *room * bytes);
    }
    return memset((char *)*at + (*count)++ * bytes, 0, bytes);
}

#define MORE(list, count, room) more((void **)&(list), &(count), &(room), sizeof *(list))

size_t history_begin(struct history *history, enum call_kind kind, unsigned key)
{
    struct call *call = MORE(history->calls, history->count, history->room);
    *call = (struct call){
        .begin = ++sim->stamp,
        .end = UINT64_MAX,
        .tight_end = UINT64_MAX,
        .begin_us = sim->now_us,
        .end_us = UINT64_MAX,
        .value = NO_VALUE,
        .jumps = sim->jumps,
        .wall_begin_ms = sim->host->life ? sim_wall_ms() : 0,
        .faults = sim->fault_count,
        .kind = (uint8_t)kind,
        .key = (uint8_t)key,
        .host = (uint8_t)sim->host->number,
    };
    return history->count - 1;
}

/* Requests of one connection on one key take effect in the order in which they were sent: what was sent before has had its effect too.
 * But a put that waits for the remove log does not hold up the puts behind it, which may be shown, or say PRESENT of an older value,
 * before it. And a get that waits for a look at another host's file sees what is there then. */
static void tighten(struct history *history, size_t index)
{
    const struct call *call = &history->calls[index];
    bool put = call->kind == CALL_PUT || call->of_put;
    for (size_t i = 0; i < index; i++) {
        struct call *other = &history->calls[i];
        if ((put && other->kind == CALL_PUT) || (!history->apart && other->kind != CALL_PUT && other->kind != CALL_REMOVE))
            continue;
        if (other->wire == call->wire && other->key == call->key && other->begin <= call->begin && other->tight_end > call->end)
            other->tight_end = call->end;
    }
}

void history_end(struct history *history, size_t index, enum call_state state)
{
    struct call *call = &history->calls[index];
    call->end = ++sim->stamp;
    call->end_us = sim->now_us;
    call->state = (uint8_t)state;
    call->tight_end = min_u64(call->tight_end, call->end);
    call->faults_end = sim->fault_count;
    call->wall_end_ms = sim_wall_ms() - (uint64_t)sim->host->wall_now_ms + (uint64_t)sim->wall_ahead_ms[call->life % SIM_LIVES];
    if (call->jumps != sim->jumps)
        call->jumps = UINT32_MAX;
    if (call->kind == CALL_MISS)
        call->faults = sim->fault_count;
    if (state == CALL_DONE)
        tighten(history, index);
}

void history_drop(struct history *history, unsigned key, enum drop_kind kind)
{
    struct drop *drop = MORE(history->drops, history->drop_count, history->drop_room);
    *drop = (struct drop){.stamp = ++sim->stamp, .key = (uint8_t)key, .host = (uint8_t)sim->host->number, .kind = (uint8_t)kind};
    note("drop", key, kind, 0);
}

struct lease_grant *history_lease(struct history *history)
{
    return MORE(history->leases, history->lease_count, history->lease_room);
}

void history_wire_ended(uint32_t wire)
{
    uint64_t stamp = ++sim->stamp;
    for (size_t i = 0; i < sim->history.lease_count; i++) {
        struct lease_grant *lease = &sim->history.leases[i];
        if (lease->wire == wire)
            lease->released = min_u64(lease->released, stamp);
    }
}

void history_life_end(struct history *history, uint32_t life, bool kept_all)
{
    while (history->end_count < life)
        (void)MORE(history->ends, history->end_count, history->end_room);
    history->ends[life - 1] = (struct life_end){.stamp = ++sim->stamp, .kept_all = kept_all};
}

/* ---- values ---- */

enum { LEAST_TELLING_BYTES = 8 }; /* fewer may be another value's, too */

static uint64_t word_of(uint64_t identity, uint64_t at)
{
    uint64_t z = (identity + at) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 32) * 0xd6e8feb86659fd93u;
    return z ^ z >> 32;
}

void value_fill(uint64_t identity, uint64_t offset, uint8_t *at, uint64_t len)
{
    for (uint64_t i = 0; i < len;) {
        uint64_t word = word_of(identity, (offset + i) / 8);
        uint64_t skip = (offset + i) % 8;
        uint64_t part = min_u64(8 - skip, len - i);
        memcpy(at + i, (uint8_t *)&word + skip, part);
        i += part;
    }
}

bool value_is(uint64_t identity, uint64_t offset, const uint8_t *at, uint64_t len)
{
    for (uint64_t i = 0; i < len;) {
        uint64_t word = word_of(identity, (offset + i) / 8);
        uint64_t skip = (offset + i) % 8;
        uint64_t part = min_u64(8 - skip, len - i);
        if (memcmp(at + i, (uint8_t *)&word + skip, part) != 0)
            return false;
        i += part;
    }
    return true;
}

/* May this host see what that call put? */
static bool shows(const struct history *history, unsigned host, const struct call *put)
{
    return !history->apart || put->host == host;
}

/* Two hosts may give one version to a value each: then it tells something only beside the bytes. */
static const struct alias *alias_of(const struct history *history, uint64_t version, unsigned key, unsigned host)
{
    const struct alias *found = NULL;
    for (size_t i = 0; i < history->alias_count && version != 0; i++) {
        const struct call *put = &history->calls[history->aliases[i].put];
        if (history->aliases[i].version != version || put->key != key || !shows(history, host, put))
            continue;
        if (found)
            return NULL;
        found = &history->aliases[i];
    }
    return found;
}

/* Have both come from the one counter? */
static bool same_node(const struct history *history, const struct call *a, const struct call *b)
{
    uint64_t anew = history->begun_anew[a->host];
    return a->host == b->host && (a->begin < anew) == (b->begin < anew);
}

void history_alias(struct history *history, uint64_t version, size_t put)
{
    bool early = sim->host->life && sim->host->life->opened_us == 0;
    for (size_t i = 0; i < history->alias_count && version != 0; i++) {
        const struct alias *known = &history->aliases[i];
        if (known->version == version && known->put == put)
            return;
        if (known->version != version || !same_node(history, &history->calls[known->put], &history->calls[put]))
            continue;
        if ((known->early || early) && history->calls[known->put].life != history->calls[put].life)
            continue;
        sim_fail("version %llu is said to be two values: calls %zu and %zu", (unsigned long long)version, known->put, put);
    }
    struct alias *alias = MORE(history->aliases, history->alias_count, history->alias_room);
    *alias = (struct alias){version, put, early};
}

int64_t history_identify(struct history *history, unsigned key, uint64_t version, uint64_t size, uint64_t offset, const uint8_t *at,
                         uint64_t len, bool *ambiguous)
{
    int64_t found = NO_VALUE;
    const struct alias *alias = alias_of(history, version, key, sim->host->number);
    *ambiguous = false;
    for (size_t i = 0; i < history->count; i++) {
        const struct call *put = &history->calls[i];
        if (put->kind != CALL_PUT || put->key != key || put->size != size || !shows(history, sim->host->number, put) ||
            !value_is(put->identity, offset, at, len))
            continue;
        if (alias && alias->put == i)
            return (int64_t)i;
        /* One that failed for certain is the answer only if there is no better one: then that is what is wrong. */
        bool another = alias && history->calls[alias->put].host == put->host;
        if (another || (found != NO_VALUE && put->state == CALL_VOID))
            continue;
        *ambiguous = found != NO_VALUE && history->calls[found].state != CALL_VOID;
        found = (int64_t)i;
    }
    if (found == NO_VALUE)
        return NO_VALUE;
    *ambiguous |= len < LEAST_TELLING_BYTES;
    if (!*ambiguous)
        history_alias(history, version, (size_t)found);
    return found;
}

/* ---- the judge ---- */

struct zone {
    uint64_t low, high;
    size_t call;
};

/* A value that came back after a restart as it was allowed to: the disk had not taken the record of its end. From then on it is as if it
 * had been put anew by somebody. */
struct ghost {
    size_t value; /* place of its put */
    size_t epoch; /* how many such ends lie before */
    uint64_t first, last;
    size_t read;
};

struct judging {
    const struct history *history;
    unsigned key, host;
    const size_t *calls; /* of this key and host, in order of their begin; and what another host did that may show here */
    size_t count;
    uint64_t *first, *last; /* of each put (by its place in `calls`): earliest end, latest begin */
    uint64_t *last_ever;    /* the same, ghosts included */
    bool *known;            /* it has taken effect for certain */
    struct zone *forward, *backward;
    size_t forward_count, backward_count;
    struct ghost *ghosts;
    size_t ghost_count;
    char *why;
    size_t why_len;
};

static const struct call *at(const struct judging *judging, size_t i)
{
    return &judging->history->calls[judging->calls[i]];
}

/* Another host's: if this one ever sees it, then some time after it began. */
static bool foreign(const struct judging *judging, const struct call *call)
{
    return call->host != judging->host;
}

static bool wrong(const struct judging *judging, const char *what, const struct call *a, const struct call *b)
{
    static const char *const kinds[] = {"put", "read", "seen", "miss", "remove"};
    int len = snprintf(judging->why, judging->why_len, "key %u: %s: ", judging->key, what);
    const struct call *both[2] = {a, b};
    for (int i = 0; i < 2 && both[i]; i++)
        len +=
            snprintf(judging->why + len, judging->why_len - (size_t)len, "%s #%zu [%lld..%lld] host %u life %u version %llu%s",
                     kinds[both[i]->kind], (size_t)(both[i] - judging->history->calls), (long long)both[i]->begin, (long long)both[i]->end,
                     both[i]->host, both[i]->life, (unsigned long long)both[i]->version, i == 0 && b ? "; " : "");
    return false;
}

/* The place in `calls` of the put whose value this call saw; SIZE_MAX when it is not known. */
static size_t value_of(const struct judging *judging, const struct call *call)
{
    const struct history *history = judging->history;
    bool told = call->kind == CALL_SEEN && (history->apart || history->hosts == 1);
    const struct alias *alias = told ? alias_of(history, call->version, judging->key, judging->host) : NULL;
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *put = at(judging, i);
        if (put->kind != CALL_PUT)
            continue;
        if (call->kind == CALL_READ && call->value == (int64_t)judging->calls[i])
            return i;
        if (alias && alias->put == judging->calls[i])
            return i;
    }
    return SIZE_MAX;
}

enum { END_SLACK_MS = 300, START_SLACK_MS = 2100 };

/* Its time was certainly over when `later` began: `shown` is a call that had ended, and after which the object could be seen. The server's
 * clock goes at least as fast as time, and is never behind the wall clock. */
static bool has_ended(const struct call *put, const struct call *shown, const struct call *later)
{
    if (put->ttl_ms == 0 || shown->end == UINT64_MAX || shown->end > later->begin || shown->life != put->life)
        return false;
    if (shown->life == later->life && later->begin_us > shown->end_us + (put->ttl_ms + END_SLACK_MS) * MS)
        return true;
    /* Where the wall clock was set back while records were found, what they end by is later by as much. */
    if (sim && sim->scenario.clock_jumps)
        return false;
    return later->jumps != UINT32_MAX && later->wall_begin_ms > shown->wall_end_ms + put->ttl_ms + END_SLACK_MS;
}

/* It may have been over before `later` ended. */
static bool may_have_ended(const struct call *put, const struct call *later)
{
    if (put->ttl_ms == 0)
        return false;
    uint64_t over_us = put->begin_us + put->ttl_ms * MS;
    return put->life != later->life || put->jumps != later->jumps || put->jumps == UINT32_MAX ||
           later->end_us > over_us - min_u64(over_us, 20 * MS); /* UINT64_MAX: it had no answer */
}

/* It may have ended before this put took its place, and the wall clock may have been set back while no server ran. */
static bool back_in_time(const struct call *value, const struct call *put)
{
    return put->kind == CALL_PUT && sim && sim->jumps > 0 && may_have_ended(value, put);
}

/* The end of an older value that may be undone by a restart: a remove that the disk could not take; while the disk fails, or before what
 * is on it is known, a put that does not replace (P8: it goes on without the disk); while it fails, a remove of which nothing is known. */
static bool may_be_undone(const struct call *call, const struct call *value)
{
    if (back_in_time(value, call))
        return true;
    if (call->kind == CALL_REMOVE && call->state == CALL_HERE)
        return true;
    bool faulty = call->state == CALL_OPEN ? sim && sim->fault_count > 0 : call->faults_end > 0;
    bool unknown = call->kind == CALL_REMOVE && (call->state == CALL_OPEN || call->state == CALL_UNSURE);
    bool plain_put = call->kind == CALL_PUT && !call->replace && call->state != CALL_VOID;
    return (faulty && (unknown || plain_put)) || (plain_put && !call->recovered);
}

/* By this host: what another one gives up is missing there. */
static bool dropped(const struct judging *judging, uint64_t from, uint64_t to, unsigned kinds)
{
    for (size_t i = 0; i < judging->history->drop_count; i++) {
        const struct drop *drop = &judging->history->drops[i];
        if (drop->key == judging->key && drop->host == judging->host && drop->stamp > from && drop->stamp < to && (kinds >> drop->kind & 1))
            return true;
    }
    return false;
}

/* It was acknowledged, and would have survived the end of its life. */
static bool durable(const struct judging *judging, const struct call *call)
{
    const struct history *history = judging->history;
    if (call->ack_disk)
        return true;
    return call->life >= 1 && call->life <= history->end_count && history->ends[call->life - 1].kept_all &&
           call->end < history->ends[call->life - 1].stamp;
}

/* A put that does not replace hides another host's value, which this one did not know of, as long as its own is there (docs/operations.md):
 * was that given up before this read, or did it end with its life, and was not on disk? */
static bool hid_for_a_while(const struct judging *judging, const struct call *put, const struct call *value, const struct call *read)
{
    bool hides = foreign(judging, value) && put->kind == CALL_PUT && !put->replace && put->state != CALL_VOID;
    if (!hides || put->ack_disk || put->on_disk_us != 0 || put->end >= read->begin)
        return false;
    bool kept = durable(judging, put) && !may_have_ended(put, read);
    return (put->life < read->life && !kept) ||
           dropped(judging, put->begin, read->end, 1u << DROP_COUNTED | 1u << DROP_EARLY | 1u << DROP_BAD);
}

/* How many ends of this value before this read may have been undone, in earlier lives or because it is another host's? */
static size_t epoch_of(const struct judging *judging, size_t value, const struct call *read)
{
    size_t epoch = 0;
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        if (i == value || foreign(judging, call) || call->end <= at(judging, value)->begin)
            continue;
        epoch += (call->life < read->life && may_be_undone(call, at(judging, value))) ||
                 hid_for_a_while(judging, call, at(judging, value), read);
    }
    return epoch;
}

static void note_ghost(struct judging *judging, size_t value, size_t epoch, const struct call *read, size_t place)
{
    for (size_t i = 0; i < judging->ghost_count; i++) {
        struct ghost *ghost = &judging->ghosts[i];
        if (ghost->value != value || ghost->epoch != epoch)
            continue;
        ghost->first = min_u64(ghost->first, read->tight_end);
        ghost->last = max_u64(ghost->last, read->begin);
        return;
    }
    judging->ghosts[judging->ghost_count++] = (struct ghost){value, epoch, read->tight_end, read->begin, place};
}

static bool note_read(struct judging *judging, const struct call *read, size_t place)
{
    size_t i = value_of(judging, read);
    if (i == SIZE_MAX)
        return true;
    const struct call *put = at(judging, i);
    if (put->state == CALL_VOID)
        return wrong(judging, "a value was seen whose put had failed", put, read);
    if (read->end < put->begin)
        return wrong(judging, "a value was seen before its put began", put, read);
    for (size_t j = 0; j < judging->count; j++) {
        const struct call *shown = at(judging, j);
        bool is_shown = (j == i || ((shown->kind == CALL_READ || shown->kind == CALL_SEEN) && value_of(judging, shown) == i)) &&
                        shown->state == CALL_DONE;
        if (put->ttl_ms > 0 && is_shown && has_ended(put, shown, read))
            return wrong(judging, "a value was seen after its time", put, read);
    }
    judging->last_ever[i] = max_u64(judging->last_ever[i], read->begin);
    size_t epoch = epoch_of(judging, i, read);
    /* Its end was undone by a wall clock set back, and the start has not come to what was put in its place since. */
    if (epoch > 0 && put->ttl_ms > 0 && sim && sim->jumps > 0 && !read->recovered)
        return true;
    if (epoch > 0) {
        note_ghost(judging, i, epoch, read, place);
        return true;
    }
    judging->first[i] = min_u64(judging->first[i], read->tight_end);
    judging->last[i] = max_u64(judging->last[i], read->begin);
    judging->known[i] = true;
    return true;
}

static bool gather(struct judging *judging)
{
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        bool known = call->state == CALL_DONE && !foreign(judging, call);
        judging->first[i] = known ? call->tight_end : UINT64_MAX;
        judging->last[i] = judging->last_ever[i] = foreign(judging, call) ? 0 : call->begin;
        judging->known[i] = call->kind == CALL_PUT && known;
    }
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        if ((call->kind == CALL_READ || call->kind == CALL_SEEN) && call->state == CALL_DONE && !note_read(judging, call, i))
            return false;
    }
    return true;
}

static void add_zone(struct judging *judging, uint64_t f, uint64_t s, size_t call)
{
    if (f < s)
        judging->forward[judging->forward_count++] = (struct zone){f, s, call};
    else
        judging->backward[judging->backward_count++] = (struct zone){s, f, call};
}

/* A remove of many goes by what lies there. A file that another host had taken away before, of which this one remembers the name, it does
 * not come by. */
static bool passes_by(const struct history *history, const struct call *remove)
{
    if (!remove->many || history->apart || history->names_us == 0)
        return false;
    for (size_t i = 0; i < history->count; i++) {
        const struct call *call = &history->calls[i];
        bool changes = (call->kind == CALL_PUT || call->kind == CALL_REMOVE) && call->state != CALL_VOID;
        if (changes && call->key == remove->key && call->host != remove->host && call->begin < remove->end)
            return true;
    }
    return false;
}

/* A remove that says of this host that what it served before is over. */
static bool is_over(const struct judging *judging, const struct call *remove)
{
    return remove->kind == CALL_REMOVE && remove->state == CALL_DONE && !foreign(judging, remove) && !passes_by(judging->history, remove);
}

static void make_zones(struct judging *judging)
{
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        if (is_over(judging, call)) {
            judging->backward[judging->backward_count++] = (struct zone){call->begin, call->tight_end, i};
        } else if (call->kind == CALL_PUT && judging->known[i]) {
            add_zone(judging, judging->first[i], judging->last[i], i);
        }
    }
    for (size_t i = 0; i < judging->ghost_count; i++)
        add_zone(judging, judging->ghosts[i].first, judging->ghosts[i].last, judging->ghosts[i].read);
}

static int zone_compare(const void *a, const void *b)
{
    const struct zone *left = a;
    const struct zone *right = b;
    return left->low < right->low ? -1 : left->low > right->low;
}

static bool judge_zones(struct judging *judging)
{
    struct zone *forward = judging->forward;
    qsort(forward, judging->forward_count, sizeof *forward, zone_compare);
    for (size_t i = 1; i < judging->forward_count; i++)
        if (forward[i].low < forward[i - 1].high)
            return wrong(judging, "two values were there at once (one came back, or is stale)", at(judging, forward[i - 1].call),
                         at(judging, forward[i].call));
    for (size_t i = 0; i < judging->backward_count; i++) {
        const struct zone *zone = &judging->backward[i];
        for (size_t j = 0; j < judging->forward_count; j++)
            if (forward[j].low < zone->low && zone->high < forward[j].high)
                return wrong(judging,
                             at(judging, zone->call)->kind == CALL_REMOVE ? "a removed value was seen again"
                                                                          : "a replaced value was seen again",
                             at(judging, forward[j].call), at(judging, zone->call));
    }
    return true;
}

/* Ghost or not: what was removed or replaced with an acknowledgement does not come back. */
static bool judge_final(struct judging *judging)
{
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *end = at(judging, i);
        bool replaces = end->kind == CALL_PUT && end->replace && end->state == CALL_DONE && !foreign(judging, end);
        bool final = replaces || is_over(judging, end);
        for (size_t j = 0; final && j < judging->count; j++)
            if (j != i && at(judging, j)->kind == CALL_PUT && !back_in_time(at(judging, j), end) && judging->first[j] < end->begin &&
                end->tight_end < judging->last_ever[j])
                return wrong(judging, "removed or replaced, and seen again", at(judging, j), end);
    }
    return true;
}

/* Something was there: some put of it is not certainly gone by then. */
static bool judge_seen(struct judging *judging, const struct call *seen)
{
    const struct call *culprit = NULL;
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *put = at(judging, i);
        if (put->kind != CALL_PUT || put->state == CALL_VOID || put->begin > seen->end)
            continue;
        bool gone = false;
        for (size_t j = 0; j < judging->count && !gone; j++) {
            const struct call *remove = at(judging, j);
            gone = judging->first[i] < remove->begin && remove->end < seen->begin && is_over(judging, remove);
            culprit = gone ? remove : culprit;
        }
        if (put->state == CALL_DONE && has_ended(put, put, seen)) {
            culprit = put;
            gone = true;
        }
        if (!gone)
            return true;
    }
    return wrong(judging, "something was seen that no put can have left there", seen, culprit);
}

/* A remove that the disk could not take: gone from this process all the same. */
static bool judge_here(struct judging *judging, const struct call *remove)
{
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *read = at(judging, i);
        size_t put = read->kind == CALL_READ || read->kind == CALL_SEEN ? value_of(judging, read) : SIZE_MAX;
        if (put == SIZE_MAX || read->state != CALL_DONE || read->life != remove->life || read->begin < remove->end)
            continue;
        if (judging->first[put] < remove->begin)
            return wrong(judging, "a removed value was seen again in the same process", remove, read);
    }
    return true;
}

/* Could somebody have taken the key away, or put something else there, between the two moments? */
static bool disturbed(const struct judging *judging, const struct call *self, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        bool changes = call->kind == CALL_REMOVE || (call->kind == CALL_PUT && call != self);
        if (changes && call->state != CALL_VOID && call->begin < to &&
            (call->state == CALL_OPEN || call->state == CALL_UNSURE || call->end > from || foreign(judging, call)))
            return true;
    }
    return false;
}

/* Could what was there have come to its end? `put` NULL: it is not known what it was. */
static bool may_be_over(const struct judging *judging, const struct call *put, const struct call *miss)
{
    for (size_t i = 0; i < judging->count && !put; i++)
        if (at(judging, i)->kind == CALL_PUT && at(judging, i)->state != CALL_VOID && may_have_ended(at(judging, i), miss))
            return true;
    return put && may_have_ended(put, miss);
}

static bool judge_miss(struct judging *judging, const struct call *miss)
{
    const struct history *history = judging->history;
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        bool there = call->kind == CALL_PUT || call->kind == CALL_READ || call->kind == CALL_SEEN;
        if (!there || foreign(judging, call) || call->state != CALL_DONE || call->tight_end >= miss->begin)
            continue;
        const struct call *put = call;
        if (call->kind != CALL_PUT) {
            size_t place = value_of(judging, call);
            put = place == SIZE_MAX ? NULL : at(judging, place);
        }
        if (put && foreign(judging, put))
            continue; /* a get looks for it, the others go by the table */
        if (disturbed(judging, put, call->begin, miss->end) || may_be_over(judging, put, miss))
            continue;
        if (call->life == miss->life) {
            if (!dropped(judging, call->begin, miss->end, 1u << DROP_COUNTED | 1u << DROP_EARLY | 1u << DROP_BAD))
                return wrong(judging, "an object is missing, and no drop was counted", call, miss);
        } else if (miss->life > call->life && miss->recovered && !history->lied && durable(judging, call) && call->faults == miss->faults) {
            if (!dropped(judging, put ? put->begin : 0, miss->end, 15))
                return wrong(judging, "an object that was on disk is missing after a restart", call, miss);
        }
    }
    return true;
}

static bool judge_leases(struct judging *judging, const struct call *miss)
{
    const struct history *history = judging->history;
    for (size_t i = 0; i < history->lease_count; i++) {
        const struct lease_grant *lease = &history->leases[i];
        bool holds = (lease->keys >> judging->key & 1) && lease->life == miss->life && lease->end < miss->begin &&
                     miss->end_us < lease->until_us && miss->end < lease->released;
        if (!holds || disturbed(judging, NULL, lease->begin, miss->end) || may_be_over(judging, NULL, miss))
            continue;
        if (dropped(judging, lease->begin, miss->end, 1u << DROP_EARLY))
            continue;
        if (miss->faults > 0 && dropped(judging, lease->begin, miss->end, 1u << DROP_BAD))
            continue;
        snprintf(judging->why, judging->why_len, "key %u: missing though leased [%llu..%llu] by lease %zu: miss [%llu..%llu] life %u",
                 judging->key, (unsigned long long)lease->begin, (unsigned long long)lease->end, i, (unsigned long long)miss->begin,
                 (unsigned long long)miss->end, miss->life);
        return false;
    }
    return true;
}

static bool judge_calls(struct judging *judging)
{
    for (size_t i = 0; i < judging->count; i++) {
        const struct call *call = at(judging, i);
        bool good = true;
        if (foreign(judging, call))
            continue;
        if (call->kind == CALL_SEEN && call->state == CALL_DONE)
            good = judge_seen(judging, call);
        else if (call->kind == CALL_REMOVE && call->state == CALL_HERE)
            good = judge_here(judging, call);
        else if (call->kind == CALL_MISS && call->state == CALL_DONE)
            good = judge_miss(judging, call) && judge_leases(judging, call);
        if (!good)
            return false;
    }
    return true;
}

/* What another host did is of interest as far as it may show here. */
static bool concerns(const struct judging *judging, const struct call *call)
{
    if (call->key != judging->key)
        return false;
    bool changes = (call->kind == CALL_PUT || call->kind == CALL_REMOVE) && call->state != CALL_VOID;
    return !foreign(judging, call) || (changes && !judging->history->apart);
}

static bool judge_key(const struct history *history, unsigned key, unsigned host, char *why, size_t why_len)
{
    size_t room = 2 * history->count + 1; /* a value and its ghosts */
    size_t *calls = sim_alloc(room * sizeof *calls);
    struct judging judging = {
        .history = history,
        .key = key,
        .host = host,
        .calls = calls,
        .first = sim_alloc(room * sizeof(uint64_t)),
        .last = sim_alloc(room * sizeof(uint64_t)),
        .last_ever = sim_alloc(room * sizeof(uint64_t)),
        .known = sim_alloc(room * sizeof(bool)),
        .forward = sim_alloc(room * sizeof(struct zone)),
        .backward = sim_alloc(room * sizeof(struct zone)),
        .ghosts = sim_alloc(room * sizeof(struct ghost)),
        .why = why,
        .why_len = why_len,
    };
    for (size_t i = 0; i < history->count; i++)
        if (concerns(&judging, &history->calls[i]))
            calls[judging.count++] = i;
    bool good = gather(&judging);
    if (good) {
        make_zones(&judging);
        good = judge_zones(&judging) && judge_final(&judging) && judge_calls(&judging);
    }
    sim_free(calls);
    sim_free(judging.first);
    sim_free(judging.last);
    sim_free(judging.last_ever);
    sim_free(judging.known);
    sim_free(judging.forward);
    sim_free(judging.backward);
    sim_free(judging.ghosts);
    return good;
}

/* All that is known of a key, for the trace. */
static void tell(const struct history *history, unsigned key)
{
    static const char *const kinds[] = {"put", "read", "seen", "miss", "remove"};
    static const char *const states[] = {"open", "done", "void", "unsure", "here only"};
    for (size_t i = 0; i < history->count; i++) {
        const struct call *call = &history->calls[i];
        if (call->key != key || (call->state == CALL_OPEN && call->kind > CALL_PUT && call->kind != CALL_REMOVE))
            continue;
        say("#%zu %s %s [%lld..%lld, %lld] us %lld..%lld host %u life %u wire %u value %lld version %llu%s%s", i, kinds[call->kind],
            states[call->state], (long long)call->begin, (long long)call->tight_end, (long long)call->end, (long long)call->begin_us,
            (long long)call->end_us, call->host, call->life, call->wire, (long long)call->value, (unsigned long long)call->version,
            call->ack_disk ? " disk" : "", call->replace ? " replace" : "");
        if (call->ttl_ms > 0)
            say("    ends after %llu ms, jumps %u", (unsigned long long)call->ttl_ms, call->jumps);
    }
    for (size_t i = 0; i < history->drop_count; i++)
        if (history->drops[i].key == key)
            say("dropped at %llu, kind %u", (unsigned long long)history->drops[i].stamp, history->drops[i].kind);
}

/* ---- across hosts ---- */

/* So much later than promised may a get be answered from what was asked for before: by a look at the file, or a read, that takes long. */
enum { CHECK_US = 3 * SECOND, ASIDE_US = 2 * SECOND };

/* Was this value certainly on disk, where that remove or replace could reach it? */
static bool reachable(const struct history *history, size_t value, const struct call *end)
{
    const struct call *put = &history->calls[value];
    if (put->host == end->host)
        return put->state == CALL_DONE && put->end < end->begin;
    if (put->on_disk_us != 0 && put->on_disk_us + history->missing_us + ASIDE_US < end->begin_us)
        return true;
    for (size_t i = 0; i < history->count; i++) {
        const struct call *read = &history->calls[i];
        if (read->kind == CALL_READ && read->state == CALL_DONE && read->value == (int64_t)value && read->host == end->host &&
            read->end < end->begin)
            return true;
    }
    return false;
}

static bool judge_read_across(const struct history *history, const struct call *read, char *why, size_t why_len)
{
    const struct judging judging = {.history = history, .key = read->key, .why = why, .why_len = why_len};
    for (size_t i = 0; i < history->count; i++) {
        const struct call *end = &history->calls[i];
        bool ends = end->kind == CALL_REMOVE || (end->kind == CALL_PUT && end->replace && end->ack_disk);
        if (end->key != read->key || !ends || end->state != CALL_DONE || (int64_t)i == read->value || end->end >= read->begin)
            continue;
        bool elsewhere = end->host != read->host;
        if (elsewhere && read->begin_us < end->end_us + CHECK_US + history->names_us + history->slow_us + ASIDE_US)
            continue;
        if (!elsewhere && end->host == history->calls[read->value].host)
            continue; /* judge_key() knows more of that */
        if ((elsewhere || !passes_by(history, end)) && reachable(history, (size_t)read->value, end))
            return wrong(&judging,
                         elsewhere ? "removed or replaced on one host, and seen on another long after"
                                   : "another host's, removed or replaced here, and seen again",
                         end, read);
    }
    return true;
}

/* What one host has removed or replaced on disk: not seen there again, nor on another once that has looked. */
static bool judge_across(const struct history *history, unsigned key, char *why, size_t why_len)
{
    for (size_t i = 0; i < history->count && history->hosts > 1 && !history->apart; i++) {
        const struct call *read = &history->calls[i];
        bool known = read->kind == CALL_READ && read->state == CALL_DONE && read->key == key && read->value != NO_VALUE;
        if (known && !judge_read_across(history, read, why, why_len))
            return false;
    }
    return true;
}

bool history_judge(const struct history *history, char *why, size_t why_len)
{
    for (unsigned key = 0; key < SIM_KEYS; key++) {
        bool good = judge_across(history, key, why, why_len);
        for (unsigned host = 0; host < history->hosts && good; host++)
            good = judge_key(history, key, host, why, why_len);
        if (good)
            continue;
        if (sim)
            tell(history, key);
        return false;
    }
    return true;
}
