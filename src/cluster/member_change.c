#include "base/check.h"
#include "cluster/member_inner.h"

/* ---- who is past acting ---- */

/* The file of this id has said the same for so long that whoever could not write to it has lost lease and incarnation. What another start
 * wrote counts from when `who` had written for certain: before it was taken into the view. */
static bool stood_still(const struct member *m, const struct peer_state *peer, const struct node_name *who)
{
    uint64_t since_us = peer->alive_since_us;
    if (!incarnation_equal(peer->alive_incarnation, who->incarnation))
        since_us = max_u64(since_us, m->known_us);
    return peer->alive_last_us >= since_us + rule_wait_us(m->options.dead_after_us);
}

bool member_is_dead(const struct member *m, const struct node_name *who)
{
    uint64_t start = who->incarnation.start;
    if (is_me(m, who->id))
        return m->options.former_dead && start < m->options.name.incarnation.start;
    const struct peer_state *peer = peer_look(m, who->id);
    if (!peer)
        return false;
    if (peer->left && incarnation_equal(peer->name.incarnation, who->incarnation))
        return true;
    if (peer->former_dead && start < peer->name.incarnation.start)
        return true;
    if (!peer->alive_seen)
        return false;
    if (stood_still(m, peer, who))
        return true;
    if (incarnation_equal(peer->alive_incarnation, who->incarnation))
        return peer->alive_left;
    return peer->alive_former_dead && start < peer->alive_incarnation.start;
}

static bool is_forgotten(const struct member *m, const struct node_name *who)
{
    const struct peer_state *peer = peer_start(m, who);
    return peer && peer->forgotten;
}

/* ---- the next view, as this node would have it ---- */

/* Long enough for a start to have got its lease. */
static bool is_idle(const struct member *m, const struct peer_state *peer)
{
    return peer->idle_us > 0 && m->now_us - peer->idle_us > m->options.lease_us + m->options.suspect_us;
}

static bool is_refused(const struct member *m, const struct peer_state *peer)
{
    return peer->refused_us > 0 && m->now_us - peer->refused_us > m->options.suspect_us / 3;
}

/* A member that cannot be reached, or says that it does nothing. */
static bool is_suspect(const struct member *m, const struct peer_state *peer)
{
    return m->now_us - peer->heard_us >= m->options.suspect_us || is_refused(m, peer) || is_idle(m, peer);
}

static bool is_gone(const struct member *m, const struct node_name *who)
{
    const struct peer_state *peer = peer_look(m, who->id);
    CHECK(peer);
    bool later_start = incarnation_before(who->incarnation, peer->name.incarnation) && peer_is_near(m, peer);
    return later_start || peer->forgotten || peer->left || is_suspect(m, peer);
}

/* A node whose place a later start of it is about to take is not lost to this one's sight. */
static bool is_seen(const struct member *m, const struct node_name *who)
{
    if (is_me(m, who->id))
        return true;
    const struct peer_state *peer = peer_look(m, who->id);
    return peer && peer_is_near(m, peer) && !is_refused(m, peer);
}

static bool may_join(const struct member *m, const struct peer_state *peer)
{
    return peer->wants_in && !peer->left && peer_is_near(m, peer) && peer->ceiling < VIEW_FLOOR_MAX / 2 &&
           !view_has(&m->known, peer->name.id, peer->name.incarnation);
}

static uint64_t floor_above(uint64_t floor, uint64_t ceiling)
{
    return max_u64(floor, ceiling + 1);
}

struct change {
    struct view next;
    bool loses, gains;
};

static void drop_gone(const struct member *m, struct change *change)
{
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *who = &m->known.members[i];
        if (is_me(m, who->id) || !is_gone(m, who))
            continue;
        view_drop(&change->next, who->id);
        change->loses = true;
    }
}

static void take_in(const struct member *m, struct change *change)
{
    uint8_t block[VIEW_BYTES];
    for (uint32_t i = 0; i < m->peer_count; i++) {
        const struct peer_state *peer = &m->peers[i];
        if (!may_join(m, peer))
            continue;
        struct view with = change->next;
        /* As many as a slot holds: the name of the cluster is as long as it can be, for all that is known here. */
        static const uint8_t longest[NODE_ID_MAX];
        if (!view_put(&with, &peer->name) || view_build(block, span_of(longest, NODE_ID_MAX), &with) != 0)
            continue;
        with.floor = floor_above(with.floor, peer->ceiling);
        change->next = with;
        change->gains = true;
    }
}

/* Number, floor and proposer of the view after the newest. */
static void number_it(const struct member *m, struct view *next)
{
    next->previous = m->known.number;
    next->number = m->known.number + 1;
    next->floor = m->known.floor + VIEW_FLOOR_STEP;
    memcpy(next->proposer, m->options.name.id, sizeof next->proposer);
}

static bool begin(struct member *m, const struct view *next)
{
    if (next->floor > VIEW_FLOOR_MAX)
        return false;
    CHECK(next->number == m->known.number + 1 && next->floor >= m->known.floor + VIEW_FLOOR_STEP);
    m->try = TRY_LINK;
    m->try_view = *next;
    m->file.next_us = max_u64(m->file.next_us, m->now_us);
    m->reason_us = 0;
    return true;
}

/* ---- from inside ---- */

/* How long to leave it to others: to those who see more, then to those whose ids come first. */
static uint64_t patience_us(const struct member *m)
{
    uint32_t seen = 0, before = 0;
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *who = &m->known.members[i];
        if (!is_seen(m, who))
            continue;
        seen++;
        if (strcmp(who->id, m->options.name.id) < 0 && !is_gone(m, who))
            before++;
    }
    uint64_t wait_us = before * beat_pause_us(m);
    if (2 * seen < m->known.count)
        wait_us += 2 * m->options.suspect_us;
    else if (2 * seen == m->known.count && !is_seen(m, &m->known.members[0]))
        wait_us += m->options.suspect_us;
    return wait_us;
}

static void consider_inside(struct member *m)
{
    struct change change = {.next = m->known};
    number_it(m, &change.next);
    drop_gone(m, &change);
    take_in(m, &change);
    /* Who wants in waits until those who are in are settled. A slot that cannot be read, and a view of which nobody knows whether it was
     * published, are to be passed by. */
    bool settled = m->in_effective && m->effective == m->known.number;
    bool stuck = m->garbled || m->attempted > m->known.number;
    if (!change.loses && !stuck && !(change.gains && settled)) {
        m->reason_us = 0;
        return;
    }
    if (m->reason_us == 0)
        m->reason_us = m->now_us;
    if (is_sure(m) && m->now_us - m->reason_us >= patience_us(m))
        (void)begin(m, &change.next);
}

/* ---- from outside ---- */

/* Nobody of the newest view acts any more, or there is no view. */
static bool nobody_is_left(const struct member *m)
{
    for (uint32_t i = 0; i < m->known.count; i++)
        if (!member_is_dead(m, &m->known.members[i]) && !is_forgotten(m, &m->known.members[i]))
            return false;
    return true;
}

static bool is_ready(const struct member *m)
{
    return m->phase == MEMBER_OUTSIDE && m->alive_once && !m->start_anew && is_sure(m);
}

bool member_wants_in(const struct member *m)
{
    if (!is_ready(m) || m->known.number == 0)
        return false;
    /* Who is heard by some members alone would be thrown out by the others. */
    for (uint32_t i = 0; i < m->known.count; i++) {
        const struct node_name *who = &m->known.members[i];
        const struct peer_state *peer = peer_look(m, who->id);
        if (!is_me(m, who->id) && (!peer || !peer_is_near(m, peer)))
            return false;
    }
    return true;
}

static void consider_outside(struct member *m)
{
    if (!is_ready(m) || !nobody_is_left(m))
        return;
    struct view next = {0};
    number_it(m, &next);
    next.floor = floor_above(next.floor, m->options.ceiling);
    CHECK(view_put(&next, &m->options.name));
    (void)begin(m, &next);
}

void member_consider(struct member *m)
{
    if (m->try != TRY_NONE || m->file.busy)
        return;
    if (m->phase == MEMBER_INSIDE && !m->start_anew)
        consider_inside(m);
    else if (m->phase == MEMBER_OUTSIDE)
        consider_outside(m);
}
