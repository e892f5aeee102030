#include "base/check.h"
#include "cluster/member_inner.h"

static bool is_due(const struct member *m, const struct member_op *op)
{
    return !op->busy && m->now_us >= op->next_us;
}

static void begin_op(struct member *m, struct member_op *op)
{
    op->busy = true;
    op->next_us = m->now_us + file_pause_us(m);
}

static bool next_of_ring(struct member *m, struct member_action *out)
{
    if (m->phase == MEMBER_LOOKING) {
        if (!is_due(m, &m->scan))
            return false;
        begin_op(m, &m->scan);
        out->act = MEMBER_READ_RING;
        return true;
    }
    if (is_over(m) || !is_due(m, &m->slot))
        return false;
    begin_op(m, &m->slot);
    m->slot_asked = m->known.number + 1;
    out->act = MEMBER_READ_SLOT;
    out->number = m->slot_asked;
    return true;
}

static bool next_of_try(struct member *m, struct member_action *out)
{
    static const enum member_act acts[] = {
        [TRY_LINK] = MEMBER_LINK,
        [TRY_READ] = MEMBER_READ_VIEW,
        [TRY_WRITE] = MEMBER_WRITE_SLOT,
    };
    if (m->try == TRY_NONE || is_over(m) || !is_due(m, &m->file))
        return false;
    begin_op(m, &m->file);
    out->act = acts[m->try];
    out->number = m->try_view.number;
    out->view = m->try == TRY_READ ? NULL : &m->try_view;
    if (m->try == TRY_LINK)
        m->attempted = m->try_view.number;
    return true;
}

static bool next_of_alive(struct member *m, struct member_action *out)
{
    if (m->phase == MEMBER_REPLACED || m->start_anew || !is_due(m, &m->alive))
        return false;
    begin_op(m, &m->alive);
    m->alive_started_us = max_u64(m->alive_started_us, m->now_us);
    out->act = MEMBER_WRITE_ALIVE;
    out->alive = (struct alive){
        .name = m->options.name,
        .count = ++m->alive_count,
        .acknowledged = m->acknowledged,
        .left = m->phase == MEMBER_LEFT,
        .former_dead = m->options.former_dead,
    };
    memcpy(out->alive.host, m->options.host, sizeof out->alive.host);
    return true;
}

/* Who stands outside and hears a member not looks at its file. */
static bool next_look(struct member *m, struct member_action *out)
{
    if (m->phase != MEMBER_OUTSIDE)
        return false;
    for (uint32_t i = 0; i < m->known.count; i++) {
        struct peer_state *peer = peer_find(m, m->known.members[i].id);
        if (!peer || peer->reading_alive || m->now_us < peer->next_alive_us)
            continue;
        peer->reading_alive = true;
        peer->next_alive_us = m->now_us + file_pause_us(m);
        out->act = MEMBER_READ_ALIVE;
        out->to = &peer->name;
        return true;
    }
    return false;
}

static bool next_beat(struct member *m, struct member_action *out)
{
    if (m->phase == MEMBER_REPLACED || m->phase == MEMBER_LOOKING)
        return false;
    for (uint32_t k = 0; k < m->known.count; k++) {
        uint32_t i = (m->send_turn + k) % m->known.count;
        struct peer_state *peer = peer_find(m, m->known.members[i].id);
        if (!peer || peer->sending || m->now_us < peer->next_send_us)
            continue;
        m->send_turn = i + 1;
        peer->sending = true;
        peer->send_again = false;
        peer->next_send_us = m->now_us + beat_pause_us(m);
        out->act = MEMBER_SEND;
        out->to = &peer->name;
        beat_fill(m, peer, &out->beat);
        return true;
    }
    return false;
}

static bool next_claim(struct member *m, struct member_action *out)
{
    if (!m->start_anew || is_over(m) || !is_due(m, &m->claim))
        return false;
    begin_op(m, &m->claim);
    out->act = MEMBER_CLAIM;
    out->number = m->next_start;
    return true;
}

bool member_next(struct member *m, struct member_action *out)
{
    *out = (struct member_action){0};
    return next_claim(m, out) || next_of_ring(m, out) || next_of_try(m, out) || next_of_alive(m, out) || next_look(m, out) ||
           next_beat(m, out);
}
