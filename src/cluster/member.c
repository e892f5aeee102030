#include "base/check.h"
#include "cluster/member_inner.h"

/* ---- peers ---- */

const struct peer_state *peer_look(const struct member *m, const char *id)
{
    for (uint32_t i = 0; i < m->peer_count; i++)
        if (strcmp(m->peers[i].name.id, id) == 0)
            return &m->peers[i];
    return NULL;
}

struct peer_state *peer_find(struct member *m, const char *id)
{
    const struct peer_state *peer = peer_look(m, id);
    return peer ? &m->peers[peer - m->peers] : NULL;
}

const struct peer_state *peer_start(const struct member *m, const struct node_name *who)
{
    const struct peer_state *peer = peer_look(m, who->id);
    return peer && incarnation_equal(peer->name.incarnation, who->incarnation) ? peer : NULL;
}

bool peer_is_near(const struct member *m, const struct peer_state *peer)
{
    return peer->heard && m->now_us - peer->heard_us < m->options.suspect_us;
}

/* A place that is free, or whose node is not in the newest view and has not spoken for a while; for a member any node's that is not. */
static struct peer_state *peer_place(struct member *m, bool for_member)
{
    if (m->peer_count < MEMBER_PEERS_MAX)
        return &m->peers[m->peer_count++];
    for (uint32_t i = 0; i < m->peer_count; i++) {
        struct peer_state *peer = &m->peers[i];
        bool in_use = peer->sending || peer->reading_alive || peer_is_near(m, peer);
        if ((!in_use || for_member) && !view_member(&m->known, peer->name.id))
            return peer;
    }
    return NULL;
}

/* Another start of an id is another node, but for what is under way to it and what its file said. */
static void peer_begin(struct member *m, struct peer_state *peer, const struct node_name *name)
{
    struct peer_state begun = {.name = *name, .heard_us = m->now_us, .sending = peer->sending, .next_send_us = m->now_us};
    begun.reading_alive = peer->reading_alive;
    begun.next_alive_us = peer->next_alive_us;
    begun.alive_seen = peer->alive_seen;
    begun.alive_incarnation = peer->alive_incarnation;
    begun.alive_count = peer->alive_count;
    begun.alive_since_us = peer->alive_since_us;
    begun.alive_last_us = peer->alive_last_us;
    begun.alive_left = peer->alive_left;
    begun.alive_former_dead = peer->alive_former_dead;
    *peer = begun;
}

/* An earlier start than the latest that was heard of is not listened to; unless what counts them went back (a write of `alive` that came
 * late), and nobody has heard of that one for long. */
static bool gives_way(const struct member *m, const struct peer_state *peer, const struct node_name *name)
{
    if (incarnation_before(peer->name.incarnation, name->incarnation))
        return true;
    bool is_member = view_has(&m->known, peer->name.id, peer->name.incarnation);
    return !incarnation_equal(peer->name.incarnation, name->incarnation) && !is_member &&
           m->now_us - peer->heard_us > 4 * m->options.suspect_us;
}

/* The state of this start or of a later one; NULL when there is no room, as for a member there always is. */
static struct peer_state *peer_of(struct member *m, const struct node_name *name, bool for_member)
{
    struct peer_state *peer = peer_find(m, name->id);
    if (!peer) {
        peer = peer_place(m, for_member);
        if (!peer)
            return NULL;
        *peer = (struct peer_state){0};
        peer_begin(m, peer, name);
    } else if (gives_way(m, peer, name)) {
        peer_begin(m, peer, name);
    }
    return peer;
}

void beat_all(struct member *m)
{
    for (uint32_t i = 0; i < m->known.count; i++) {
        struct peer_state *peer = peer_find(m, m->known.members[i].id);
        if (!peer)
            continue;
        peer->next_send_us = m->now_us;
        peer->send_again = peer->sending;
    }
}

/* ---- time ---- */

static void stop_acting(struct member *m)
{
    m->lease_end_us = 0;
    m->in_effective = false;
    m->acknowledged = 0;
}

/* This start is over, the process is not. */
static void start_anew(struct member *m, uint64_t next_start)
{
    stop_acting(m);
    if (m->phase == MEMBER_INSIDE)
        m->phase = MEMBER_OUTSIDE;
    if (m->try == TRY_LINK)
        m->try = TRY_NONE;
    m->start_anew = true;
    m->next_start = max_u64(next_start, m->options.name.incarnation.start + 1);
    m->claim.next_us = m->now_us;
}

/* Who was stopped, or asleep, has not listened: that nothing was heard meanwhile says nothing about the others. */
static void forgive(struct member *m, uint64_t gap_us)
{
    for (uint32_t i = 0; i < m->peer_count; i++) {
        struct peer_state *peer = &m->peers[i];
        peer->heard_us += gap_us;
        peer->refused_us = 0;
        peer->idle_us = 0;
    }
    m->reason_us = 0;
}

uint64_t member_tick_us(const struct member *m)
{
    return min_u64(m->options.suspect_us, m->options.lease_us) / 16;
}

static void advance(struct member *m, uint64_t now_us)
{
    CHECK(now_us >= m->now_us);
    if (now_us - m->now_us > beat_pause_us(m))
        forgive(m, now_us - m->now_us);
    m->now_us = now_us;
    /* Others may take who has not written for so long for dead: so it is, even when the write comes through after all. */
    if (!is_over(m) && m->alive_once && !m->start_anew && now_us >= m->alive_us + m->options.dead_after_us)
        start_anew(m, 0);
    /* Likewise an earlier start, which has not been able to write since this one did. */
    if (m->first_alive_us > 0 && now_us >= m->first_alive_us + rule_wait_us(m->options.dead_after_us))
        m->options.former_dead = true;
}

/* ---- the lease ---- */

bool member_may_act(const struct member *m, uint64_t now_us)
{
    return member_lease_left_us(m, now_us) > 0;
}

uint64_t member_lease_left_us(const struct member *m, uint64_t now_us)
{
    if (m->phase != MEMBER_INSIDE || !m->in_effective || m->alive_us == 0)
        return 0;
    uint64_t end_us = min_u64(m->lease_end_us, m->alive_us + m->options.dead_after_us);
    return end_us > now_us ? end_us - now_us : 0;
}

bool member_serves(const struct member *m, uint64_t now_us, uint64_t key_hash)
{
    return member_may_act(m, now_us) && rivals_owner(&m->rivals, m->options.name.id, key_hash);
}

static void renew(struct member *m, uint64_t asked_us, uint64_t *counter)
{
    uint64_t end_us = rule_lease_end(asked_us, m->now_us, m->options.lease_us);
    if (end_us <= m->lease_end_us)
        return;
    m->lease_end_us = end_us;
    (*counter)++;
}

/* The earliest moment at which somebody was asked for the promise that he gave; 0 when one gave none. */
static uint64_t promised_since(const struct member *m)
{
    uint64_t since_us = m->now_us;
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *name = &m->known.members[i];
        if (is_me(m, name->id))
            continue;
        const struct peer_state *peer = peer_start(m, name);
        if (!peer || peer->promised_view != m->known.number)
            return 0;
        since_us = min_u64(since_us, peer->promised_us);
    }
    return since_us;
}

static void renew_by_promise(struct member *m)
{
    /* Whoever has begun to publish a view promises nothing, himself included. */
    if (m->phase != MEMBER_INSIDE || !rule_may_promise(m->known.number, m->attempted, m->known.number))
        return;
    uint64_t since_us = promised_since(m);
    if (since_us > 0)
        renew(m, since_us, &m->renewals_by_promise);
}

/* ---- views ---- */

/* May somebody who is in the view known so far, and not in this one, still act? */
static bool leaves_out(const struct member *m, const struct view *view)
{
    if (m->known.number == 0)
        return view->number > 1;
    if (view->number != m->known.number + 1)
        return true;
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *name = &m->known.members[i];
        if (!view_has(view, name->id, name->incarnation) && !member_is_dead(m, name))
            return true;
    }
    return false;
}

/* Those that the newest view brings have from now on to be heard of. */
static void expect_members(struct member *m, const struct view *before)
{
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *name = &m->known.members[i];
        struct peer_state *peer = is_me(m, name->id) ? NULL : peer_of(m, name, true);
        CHECK(peer || is_me(m, name->id));
        if (!peer || view_has(before, name->id, name->incarnation))
            continue;
        peer->heard_us = m->now_us;
        peer->refused_us = 0;
        peer->idle_us = 0;
        peer->wants_in = false; /* it is in; who dies now, and is left out, has not asked again */
    }
}

static void be_inside(struct member *m)
{
    if (m->phase == MEMBER_OUTSIDE)
        m->rivals.count = 0;
    m->phase = MEMBER_INSIDE;
    m->acknowledged = m->known.number;
    rivals_add(&m->rivals, &m->known);
}

/* The newest view does not have this start of the node. */
static void be_outside(struct member *m)
{
    const struct node_name *mine = view_member(&m->known, m->options.name.id);
    struct incarnation own = m->options.name.incarnation;
    bool looking = m->phase == MEMBER_LOOKING;
    bool later = mine && (m->start_anew ? mine->incarnation.start >= m->next_start : incarnation_before(own, mine->incarnation));
    if (later && !looking) {
        stop_acting(m);
        m->phase = MEMBER_REPLACED;
        return;
    }
    if (m->phase == MEMBER_INSIDE) {
        m->left_out++;
        start_anew(m, 0);
    } else if (looking && mine && mine->incarnation.start >= own.start) {
        /* What counts the starts was lost, or the folder came from elsewhere. */
        start_anew(m, mine->incarnation.start + 1);
    }
    m->phase = MEMBER_OUTSIDE;
}

void member_know(struct member *m, const struct view *view)
{
    if (view->number <= m->known.number || is_over(m))
        return;
    if (leaves_out(m, view)) {
        m->waiting = true;
        m->out_us = m->now_us;
    }
    struct view before = m->known;
    m->known = *view;
    m->known_us = m->now_us;
    m->absent_us = 0;
    m->garbled = false;
    m->reason_us = 0;
    m->slot.next_us = m->now_us;
    if (m->try != TRY_NONE && m->try_view.number <= view->number)
        m->try = TRY_NONE;
    expect_members(m, &before);
    if (view_has(view, m->options.name.id, m->options.name.incarnation) && !m->start_anew)
        be_inside(m);
    else
        be_outside(m);
    beat_all(m);
}

static bool all_acknowledged(const struct member *m)
{
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *name = &m->known.members[i];
        if (is_me(m, name->id))
            continue;
        const struct peer_state *peer = peer_start(m, name);
        if (!peer || peer->acknowledged != m->known.number)
            return false;
    }
    return true;
}

void member_effective(struct member *m)
{
    CHECK(m->phase == MEMBER_INSIDE && m->acknowledged == m->known.number);
    m->effective = m->known.number;
    m->in_effective = true;
    m->waiting = false;
    m->options.former_dead = true;
    rivals_reset(&m->rivals, &m->known);
    beat_all(m);
}

static void judge_effective(struct member *m)
{
    if (m->phase != MEMBER_INSIDE || (m->in_effective && m->effective == m->known.number) || !all_acknowledged(m))
        return;
    if (!m->waiting || m->now_us >= m->out_us + rule_wait_us(m->options.lease_us))
        member_effective(m);
}

/* Since when a member that answers says that it may not act, though this one may. */
static void watch_idle(struct member *m)
{
    bool mine = member_may_act(m, m->now_us);
    for (uint32_t i = 0; i < m->peer_count; i++) {
        struct peer_state *peer = &m->peers[i];
        bool idle = mine && peer->heard && !peer->acting && m->effective == m->known.number;
        if (!idle)
            peer->idle_us = 0;
        else if (peer->idle_us == 0)
            peer->idle_us = m->now_us;
    }
}

/* After anything was told. */
static void settle(struct member *m)
{
    renew_by_promise(m);
    judge_effective(m);
    watch_idle(m);
    member_consider(m);
}

void member_init(struct member *m, const struct member_options *options, uint64_t now_us)
{
    CHECK(options->name.incarnation.start > 0 && options->lease_us >= 64 && options->suspect_us >= 64);
    CHECK(options->dead_after_us >= options->lease_us);
    *m = (struct member){.options = *options, .now_us = now_us};
}

void member_tick(struct member *m, uint64_t now_us)
{
    advance(m, now_us);
    settle(m);
}

/* ---- files ---- */

void member_ring_read(struct member *m, uint64_t now_us, enum member_found found, const struct view *view)
{
    advance(m, now_us);
    m->scan.busy = false;
    m->scan.next_us = m->now_us + file_pause_us(m);
    if (found == FOUND_VIEW)
        member_know(m, view);
    if ((found == FOUND_VIEW || found == FOUND_NOTHING) && m->phase == MEMBER_LOOKING)
        m->phase = MEMBER_OUTSIDE;
    settle(m);
}

void member_slot_read(struct member *m, uint64_t now_us, uint64_t started_us, enum member_found found, const struct view *view)
{
    advance(m, now_us);
    m->slot.busy = false;
    bool newer = found == FOUND_VIEW && view->number > m->known.number;
    bool absent = found == FOUND_NOTHING || (found == FOUND_VIEW && !newer);
    if (newer) {
        member_know(m, view);
    } else if (absent && m->slot_asked == m->known.number + 1) {
        m->absent_us = max_u64(m->absent_us, started_us);
        if (m->phase == MEMBER_INSIDE)
            renew(m, started_us, &m->renewals_by_file);
    }
    if (found == FOUND_GARBLED && m->slot_asked == m->known.number + 1 && m->try == TRY_NONE && !m->file.busy) {
        /* Whoever finds the name without the slot writes it. */
        m->garbled = true;
        m->try = TRY_READ;
        m->try_view.number = m->slot_asked;
        m->file.next_us = m->now_us;
    }
    settle(m);
}

/* The file of the number that is being published, or should be in the ring. */
static void try_again(struct member *m, enum member_try try)
{
    m->try = try;
    m->file.next_us = m->now_us + file_pause_us(m);
}

void member_view_read(struct member *m, uint64_t now_us, enum member_found found, const struct view *view)
{
    advance(m, now_us);
    m->file.busy = false;
    if (m->try == TRY_READ) {
        if (found == FOUND_VIEW && view->number == m->try_view.number) {
            m->try_view = *view;
            m->try = TRY_WRITE;
            m->file.next_us = m->now_us;
        } else {
            /* A name that is not there, or not seen here yet: link() knows. */
            try_again(m, found == FOUND_NOTHING ? TRY_NONE : TRY_READ);
        }
    }
    settle(m);
}

void member_linked(struct member *m, uint64_t now_us, enum member_linked linked)
{
    advance(m, now_us);
    m->file.busy = false;
    if (m->try == TRY_LINK) {
        if (linked == LINKED)
            m->views_published++;
        m->try = linked == LINKED ? TRY_WRITE : TRY_READ;
        m->file.next_us = m->now_us;
    }
    settle(m);
}

void member_slot_written(struct member *m, uint64_t now_us, bool durable)
{
    advance(m, now_us);
    m->file.busy = false;
    if (m->try == TRY_WRITE) {
        m->file.next_us = m->now_us;
        if (durable)
            member_know(m, &m->try_view);
        else
            try_again(m, TRY_WRITE);
    }
    settle(m);
}

void member_alive_written(struct member *m, uint64_t now_us, uint64_t started_us, enum member_alive_result result)
{
    advance(m, now_us);
    m->alive.busy = false;
    if (result == ALIVE_REPLACED && !is_over(m)) {
        stop_acting(m);
        m->phase = MEMBER_REPLACED;
    }
    /* A write of the incarnation before says nothing of this one. */
    if (result == ALIVE_WRITTEN && started_us >= m->alive_started_us) {
        m->alive_us = started_us;
        m->alive_once = true;
        if (m->first_alive_us == 0)
            m->first_alive_us = now_us;
    }
    settle(m);
}

void member_alive_read(struct member *m, uint64_t now_us, uint64_t started_us, const char *id, const struct alive *alive)
{
    advance(m, now_us);
    struct peer_state *peer = peer_find(m, id);
    if (peer)
        peer->reading_alive = false;
    if (peer && alive && strcmp(alive->name.id, id) == 0) {
        bool same = peer->alive_seen && incarnation_equal(peer->alive_incarnation, alive->name.incarnation);
        if (!same || peer->alive_count != alive->count)
            peer->alive_since_us = now_us;
        peer->alive_seen = true;
        peer->alive_incarnation = alive->name.incarnation;
        peer->alive_count = alive->count;
        peer->alive_left = alive->left;
        peer->alive_former_dead = alive->former_dead;
        peer->alive_last_us = started_us;
    }
    settle(m);
}

/* ---- what others say ---- */

static void take_beat(struct member *m, struct peer_state *peer, const struct beat *beat)
{
    peer->heard = true;
    peer->heard_us = m->now_us;
    peer->refused_us = 0;
    /* Views only grow: what was under way for long tells nothing. */
    peer->known = max_u64(peer->known, beat->known);
    peer->acknowledged = max_u64(peer->acknowledged, beat->acknowledged);
    peer->effective = max_u64(peer->effective, beat->effective);
    peer->acting = beat->acting;
    peer->wants_in = beat->wants_in;
    peer->left = peer->left || beat->left;
    peer->former_dead = beat->former_dead;
    peer->ceiling = beat->ceiling;
    if (beat->asked_us > peer->asked_us) {
        peer->asked_us = beat->asked_us;
        peer->asked_view = beat->known;
    }
    bool mine = beat->promised_us > 0 && beat->promised_us <= m->now_us;
    if (mine && beat->promised_view == m->known.number &&
        (peer->promised_view != m->known.number || beat->promised_us > peer->promised_us)) {
        peer->promised_view = beat->promised_view;
        peer->promised_us = beat->promised_us;
    }
    memcpy(peer->name.address, beat->from.address, sizeof peer->name.address);
}

void member_hear(struct member *m, uint64_t now_us, const struct beat *beat)
{
    advance(m, now_us);
    if (is_over(m) || is_me(m, beat->from.id))
        return;
    struct peer_state *peer = peer_of(m, &beat->from, false);
    if (!peer || !incarnation_equal(peer->name.incarnation, beat->from.incarnation))
        return;
    take_beat(m, peer, beat);
    if (beat->view && m->phase != MEMBER_LOOKING)
        member_know(m, beat->view);
    if (beat->known > m->known.number)
        m->slot.next_us = now_us;
    bool it_is_member = view_has(&m->known, beat->from.id, beat->from.incarnation);
    if (m->phase == MEMBER_INSIDE && it_is_member && beat->effective == m->known.number &&
        !(m->in_effective && m->effective == beat->effective))
        member_effective(m);
    settle(m);
}

void beat_fill(struct member *m, struct peer_state *peer, struct beat *out)
{
    *out = (struct beat){
        .from = m->options.name,
        .known = m->known.number,
        .acknowledged = m->acknowledged,
        .effective = m->in_effective ? m->effective : 0,
        .asked_us = m->now_us,
        .ceiling = m->options.ceiling,
        .acting = member_may_act(m, m->now_us),
        .wants_in = member_wants_in(m),
        .left = m->phase == MEMBER_LEFT,
        .former_dead = m->options.former_dead,
        .view = peer->heard && peer->known < m->known.number ? &m->known : NULL,
    };
    if (peer->asked_us > 0 && rule_may_promise(m->known.number, m->attempted, peer->asked_view)) {
        out->promised_us = peer->asked_us;
        out->promised_view = peer->asked_view;
    }
}

bool member_answer(struct member *m, uint64_t now_us, const char *id, struct beat *out)
{
    advance(m, now_us);
    struct peer_state *peer = peer_find(m, id);
    if (!peer || m->phase == MEMBER_REPLACED || m->phase == MEMBER_LOOKING)
        return false;
    beat_fill(m, peer, out);
    return true;
}

void member_sent(struct member *m, uint64_t now_us, const char *id, enum member_sent sent)
{
    advance(m, now_us);
    struct peer_state *peer = peer_find(m, id);
    if (!peer)
        return;
    peer->sending = false;
    if (peer->send_again)
        peer->next_send_us = now_us;
    peer->send_again = false;
    if (sent == SENT_REFUSED && peer->refused_us == 0)
        peer->refused_us = now_us;
    settle(m);
}

/* ---- what is asked of it ---- */

void member_leave(struct member *m, uint64_t now_us)
{
    advance(m, now_us);
    if (is_over(m))
        return;
    stop_acting(m);
    m->phase = MEMBER_LEFT;
    m->alive.next_us = now_us;
    beat_all(m);
}

enum member_forgot member_forget(struct member *m, uint64_t now_us, const char *id)
{
    advance(m, now_us);
    struct peer_state *peer = peer_find(m, id);
    if (!peer)
        return FORGOT_NOBODY;
    bool moves = peer->alive_seen ? now_us - peer->alive_since_us < rule_wait_us(m->options.lease_us) : peer->reading_alive;
    if (peer_is_near(m, peer) || moves)
        return FORGOT_LIVES;
    peer->forgotten = true;
    settle(m);
    return FORGOT;
}

void member_claimed(struct member *m, uint64_t now_us, enum member_claimed claimed, uint64_t random, uint64_t ceiling)
{
    advance(m, now_us);
    CHECK(m->claim.busy);
    m->claim.busy = false;
    if (is_over(m) || claimed == CLAIM_FAILED)
        return;
    if (claimed == CLAIM_TAKEN) {
        m->phase = MEMBER_REPLACED;
        return;
    }
    m->start_anew = false;
    m->options.name.incarnation = (struct incarnation){m->next_start, random};
    m->options.ceiling = ceiling;
    m->alive_once = false;
    m->alive_us = 0;
    m->alive_started_us = now_us;
    m->alive_count = 0;
    m->alive.next_us = now_us;
    settle(m);
}
