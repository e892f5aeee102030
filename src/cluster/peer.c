#include "cluster/peer.h"

#include <errno.h>
#include <stdio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/text.h"

/* ---- proofs ---- */

int peer_mac(uint8_t out[MAC_BYTES], bool first, struct span token, struct span cluster, struct span from, struct span to,
             const uint8_t challenge[2 * NONCE_BYTES])
{
    /* Names have no 0 in them: these bytes are of these three alone. */
    uint8_t names[3 * NODE_ID_MAX + 2], key[MAC_BYTES];
    CHECK(cluster.len <= NODE_ID_MAX && from.len <= NODE_ID_MAX && to.len <= NODE_ID_MAX);
    size_t len = 0;
    const struct span parts[] = {cluster, from, to};
    for (size_t i = 0; i < 3; i++) {
        if (i > 0)
            names[len++] = 0;
        bytes_copy(names + len, parts[i].at, parts[i].len);
        len += parts[i].len;
    }
    int err = mac_of(key, token, "kvd-node-names", span_of(names, len));
    if (!err)
        err = mac_of(out, span_of(key, sizeof key), first ? "kvd-node-1" : "kvd-node-2", span_of(challenge, 2 * NONCE_BYTES));
    mac_wipe(key, sizeof key);
    return err;
}

/* ---- wire and back ---- */

void beat_to_msg(const struct beat *beat, struct span cluster, uint8_t view_bytes[VIEW_BYTES], struct msg_beat *msg)
{
    *msg = (struct msg_beat){
        .has = (1u << F_BEAT_VIEW) - (1u << F_BEAT_START),
        .start = beat->from.incarnation.start,
        .random = beat->from.incarnation.random,
        .address = span_text(beat->from.address),
        .known = beat->known,
        .acknowledged = beat->acknowledged,
        .effective = beat->effective,
        .asked_us = beat->asked_us,
        .promised_us = beat->promised_us,
        .promised_view = beat->promised_view,
        .ceiling = beat->ceiling,
        .acting = beat->acting,
        .wants_in = beat->wants_in,
        .left = beat->left,
        .former_dead = beat->former_dead,
    };
    if (beat->view && view_build(view_bytes, cluster, beat->view) == 0) {
        msg->has |= 1u << F_BEAT_VIEW;
        msg->view = span_of(view_bytes, VIEW_BYTES);
    }
}

int beat_from_msg(const struct msg_beat *msg, struct span cluster, const char *id, struct view *view, struct beat *beat)
{
    if (msg->start == 0 || !node_address_is_good(msg->address))
        return KVD_EPROTO;
    bool has_view = MSG_HAS(msg, F_BEAT_VIEW);
    if (has_view && (view_parse(msg->view.at, msg->view.len, cluster, view) != 0 || view->number != msg->known))
        return KVD_EPROTO;
    *beat = (struct beat){
        .from = {.incarnation = {msg->start, msg->random}},
        .known = msg->known,
        .acknowledged = msg->acknowledged,
        .effective = msg->effective,
        .asked_us = msg->asked_us,
        .promised_us = msg->promised_us,
        .promised_view = msg->promised_view,
        .ceiling = msg->ceiling,
        .acting = msg->acting,
        .wants_in = msg->wants_in,
        .left = msg->left,
        .former_dead = msg->former_dead,
        .view = has_view ? view : NULL,
    };
    snprintf(beat->from.id, sizeof beat->from.id, "%s", id);
    memcpy(beat->from.address, msg->address.at, msg->address.len);
    return 0;
}

/* ---- the connection ---- */

static void peer_is_closed(void *owner)
{
    struct peer *peer = owner;
    peer->phase = PEER_CLOSED;
    peer->conn = NULL;
    peer->closed(peer);
}

static void let_go(struct peer *peer)
{
    timer_stop(&peer->deadline);
    task_cancel(&peer->failing);
    if (!peer->conn || peer->phase == PEER_CLOSING)
        return;
    peer->sent_bytes += conn_sent_bytes(peer->conn);
    peer->received_bytes += conn_received_bytes(peer->conn);
    peer->phase = PEER_CLOSING;
    conn_close(peer->conn, peer_is_closed, peer);
}

static void peer_fails(struct peer *peer, int err)
{
    let_go(peer);
    if (!peer->waiting)
        return;
    peer->waiting = false;
    peer->failures++;
    peer->fn(peer, err, NULL);
}

static void too_late(struct timer *timer)
{
    peer_fails(CONTAINER_OF(timer, struct peer, deadline), KVD_ETIMEOUT);
}

static void failing(struct task *task)
{
    struct peer *peer = CONTAINER_OF(task, struct peer, failing);
    peer_fails(peer, peer->fail_err);
}

static void fail_soon(struct peer *peer, int err)
{
    peer->fail_err = err;
    task_post(&peer->failing);
}

static void is_sent(struct conn_send *send, int err)
{
    struct peer_frame *frame = CONTAINER_OF(send, struct peer_frame, send);
    frame->sending = false;
    if (err && err != -ECANCELED)
        peer_fails(frame->peer, err);
}

/* The one request that is under way. Failing is for the next turn: this runs inside peer_send(), too. */
static void send_frame(struct peer *peer, uint8_t op, const struct schema *schema, const void *msg)
{
    struct peer_frame *out = &peer->frames[++peer->next_id % 2];
    static const uint8_t prefix_room[FRAME_PREFIX_BYTES];
    CHECK(!out->sending);
    out->bytes.len = 0;
    out->bytes.failed = false;
    pack_raw(&out->bytes, span_of(prefix_room, sizeof prefix_room));
    if (out->bytes.failed || msg_encode(schema, msg, &out->bytes) != 0) {
        fail_soon(peer, -ENOMEM);
        return;
    }
    struct frame frame = {.op = op, .id = peer->next_id, .meta_len = (uint32_t)(out->bytes.len - FRAME_PREFIX_BYTES)};
    frame_encode(out->bytes.at, &frame);
    out->iov = (struct iovec){out->bytes.at, out->bytes.len};
    out->send = (struct conn_send){.iov = &out->iov, .iov_count = 1};
    out->sending = true;
    conn_send(peer->conn, &out->send, is_sent);
}

static void send_beat(struct peer *peer)
{
    peer->phase = PEER_BEAT;
    peer->sent_us = loop_now_us(peer->self->loop);
    send_frame(peer, OP_BEAT, msg_request(OP_BEAT), &peer->beat);
}

static int hello_came(struct peer *peer, const struct msg_hello_reply *hello)
{
    const struct peer_self *self = peer->self;
    if (hello->version != 1 || hello->nonce.len != NONCE_BYTES)
        return KVD_EUNSUPPORTED;
    memcpy(peer->challenge, hello->nonce.at, NONCE_BYTES);
    uint8_t mac[MAC_BYTES];
    int err = loop_random(self->loop, peer->challenge + NONCE_BYTES, NONCE_BYTES);
    if (!err)
        err = peer_mac(mac, true, self->token, span_text(self->cluster), span_text(self->id), span_text(peer->id), peer->challenge);
    if (err)
        return err;
    struct msg_join join = {
        .has = (1u << (F_JOIN_MAC + 1)) - (1u << F_JOIN_CLUSTER),
        .cluster = span_text(self->cluster),
        .from = span_text(self->id),
        .to = span_text(peer->id),
        .nonce = span_of(peer->challenge + NONCE_BYTES, NONCE_BYTES),
        .mac = span_of(mac, sizeof mac),
    };
    peer->phase = PEER_JOIN;
    send_frame(peer, OP_JOIN, msg_request(OP_JOIN), &join);
    return 0;
}

static int join_came(struct peer *peer, const struct msg_join_reply *reply)
{
    const struct peer_self *self = peer->self;
    uint8_t mac[MAC_BYTES];
    int err = peer_mac(mac, false, self->token, span_text(self->cluster), span_text(self->id), span_text(peer->id), peer->challenge);
    if (err)
        return err;
    if (reply->mac.len != MAC_BYTES || !mac_equal(mac, reply->mac.at))
        return KVD_EDENIED;
    send_beat(peer);
    return 0;
}

static int beat_came(struct peer *peer, const struct msg_beat *msg)
{
    struct beat beat;
    int err = beat_from_msg(msg, span_text(peer->self->cluster), peer->id, &peer->view, &beat);
    if (err)
        return err;
    peer->round_trip_us = loop_now_us(peer->self->loop) - peer->sent_us;
    peer->phase = PEER_READY;
    peer->waiting = false;
    peer->beats++;
    timer_stop(&peer->deadline);
    peer->fn(peer, 0, &beat);
    return 0;
}

static int reply_came(struct peer *peer, const struct frame *frame, struct span meta)
{
    static const uint8_t ops[] = {[PEER_HELLO] = OP_HELLO, [PEER_JOIN] = OP_JOIN, [PEER_BEAT] = OP_BEAT};
    if (peer->phase != PEER_HELLO && peer->phase != PEER_JOIN && peer->phase != PEER_BEAT)
        return KVD_EPROTO;
    if (frame->op != ops[peer->phase] || frame->id != peer->next_id)
        return KVD_EPROTO;
    if (frame->code != CODE_OK)
        return frame->code == CODE_DENIED ? KVD_EDENIED : KVD_EREFUSED;
    union {
        struct msg_hello_reply hello;
        struct msg_join_reply join;
        struct msg_beat beat;
    } msg;
    const char *why;
    int err = msg_decode(msg_reply(frame->op), meta, 64, &peer->arena, &msg, &why);
    if (err)
        return err;
    if (peer->phase == PEER_HELLO)
        return hello_came(peer, &msg.hello);
    return peer->phase == PEER_JOIN ? join_came(peer, &msg.join) : beat_came(peer, &msg.beat);
}

static void on_room(void *owner, void **base, size_t *len)
{
    struct peer *peer = owner;
    *base = peer->in + peer->have;
    *len = sizeof peer->in - peer->have;
}

/* One reply at most is on its way: what comes behind it is no reply. */
static void on_received(void *owner, size_t len)
{
    struct peer *peer = owner;
    struct frame frame;
    peer->have += (uint32_t)len;
    if (peer->have < FRAME_PREFIX_BYTES)
        return;
    int err = frame_decode(peer->in, &frame);
    if (!err && (frame.body_len > 0 || frame.meta_len > sizeof peer->in - FRAME_PREFIX_BYTES))
        err = KVD_ETOOLARGE;
    uint64_t whole = FRAME_PREFIX_BYTES + (err ? 0 : (uint64_t)frame.meta_len);
    if (!err && peer->have < whole)
        return;
    if (!err && peer->have > whole)
        err = KVD_EPROTO;
    peer->have = 0;
    if (!err)
        err = reply_came(peer, &frame, span_of(peer->in + FRAME_PREFIX_BYTES, frame.meta_len));
    if (err)
        peer_fails(peer, err);
}

/* Where connecting fails, sending is what the socket tells it to first. */
static void on_ended(void *owner, int err)
{
    struct peer *peer = owner;
    for (size_t i = 0; i < 2 && !err; i++)
        if (peer->frames[i].sending && peer->frames[i].send.done)
            err = peer->frames[i].send.err;
    peer_fails(peer, err ? err : -ECONNRESET);
}

static const struct conn_events events = {.room = on_room, .received = on_received, .ended = on_ended};

static int begin(struct peer *peer)
{
    char host[NODE_ADDRESS_MAX + 1];
    uint16_t port;
    if (!text_split_address(peer->address, host, sizeof host, &port))
        return KVD_EUSAGE;
    int err = conn_connect(&peer->conn, peer->self->loop, host, port);
    if (err)
        return err;
    peer->have = 0;
    peer->phase = PEER_HELLO;
    conn_start(peer->conn, &events, peer);
    uint64_t one = 1;
    struct msg_hello hello = {
        .has = 1u << F_HELLO_VERSIONS | 1u << F_HELLO_CLIENT, .versions = {&one, 1}, .client = span_text("kvd " KVD_VERSION)};
    send_frame(peer, OP_HELLO, msg_request(OP_HELLO), &hello);
    return 0;
}

void peer_init(struct peer *peer, const struct peer_self *self, const char *id, peer_fn fn, peer_closed_fn closed, void *owner)
{
    *peer = (struct peer){.self = self, .fn = fn, .closed = closed, .owner = owner};
    snprintf(peer->id, sizeof peer->id, "%s", id);
    timer_init(&peer->deadline, self->loop, too_late);
    task_init(&peer->failing, self->loop, failing);
    for (size_t i = 0; i < 2; i++) {
        peer->frames[i].peer = peer;
        buffer_init(&peer->frames[i].bytes);
    }
    arena_init(&peer->arena);
}

void peer_send(struct peer *peer, const char *address, const struct beat *beat)
{
    CHECK(!peer->waiting);
    beat_to_msg(beat, span_text(peer->self->cluster), peer->beat_view, &peer->beat);
    snprintf(peer->beat_address, sizeof peer->beat_address, "%s", beat->from.address);
    peer->beat.address = span_text(peer->beat_address);
    peer->waiting = true;
    timer_start(&peer->deadline, PEER_TIMEOUT_MS);
    if (peer->phase == PEER_READY && strcmp(peer->address, address) != 0)
        let_go(peer);
    if (peer->phase == PEER_READY) {
        send_beat(peer);
        return;
    }
    int err = -EAGAIN; /* the connection before is just going */
    if (peer->phase == PEER_CLOSED) {
        snprintf(peer->address, sizeof peer->address, "%s", address);
        err = begin(peer);
    }
    if (err)
        fail_soon(peer, err);
}

void peer_close(struct peer *peer)
{
    peer->waiting = false;
    if (!peer->conn)
        peer->phase = PEER_CLOSED;
    let_go(peer);
}

void peer_fini(struct peer *peer)
{
    CHECK(!peer->conn);
    timer_stop(&peer->deadline);
    task_cancel(&peer->failing);
    for (size_t i = 0; i < 2; i++)
        buffer_fini(&peer->frames[i].bytes);
    arena_fini(&peer->arena);
}
