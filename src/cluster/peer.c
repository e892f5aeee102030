#include "cluster/peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/text.h"

enum { FEATURES_MAX = 64 /* that a node says it has */ };

/* A request. It outlives its call: the kernel may still be taking it. */
struct peer_frame {
    struct peer *peer;
    struct peer_call *call; /* while it is unsent */
    struct list link;       /* of the peer's `unsent`, or `sending` */
    struct conn_send send;
    struct iovec iov;
    struct buffer bytes;
    size_t len;
};

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

/* ---- a call's end ---- */

static void call_place_free(struct peer *peer, const struct peer_call *call)
{
    uint64_t place = call->id % PEER_CALLS_MAX;
    CHECK(peer->calls[place] == call);
    peer->calls[place] = NULL;
    peer->places[peer->free_places++] = (uint16_t)place;
}

static void frame_free(struct peer_frame *frame)
{
    frame->peer->queued_bytes -= frame->len;
    list_remove(&frame->link);
    buffer_fini(&frame->bytes);
    free(frame);
}

/* It is not under way any more; its fn is still to run. */
static void call_end(struct peer_call *call)
{
    call_place_free(call->peer, call);
    timer_stop(&call->deadline);
    if (call->unsent)
        frame_free(call->unsent);
    call->unsent = NULL;
}

/* The last thing done with it. */
static void call_tell(struct peer_call *call, int err, enum code code, struct span meta)
{
    struct peer *peer = call->peer;
    peer->call_count--;
    peer->answered += err == 0;
    peer->failures += err != 0;
    call->fn(call, err, code, meta);
}

static void tell_quiet(struct peer *peer)
{
    if (peer_is_quiet(peer))
        peer->quiet(peer);
}

/* Those that end by more than their own doing end in a turn of their own: whoever closes or calls is not called back meanwhile. */
static void tell_ended(struct task *task)
{
    struct peer *peer = CONTAINER_OF(task, struct peer, telling);
    peer->is_telling = true;
    for (struct list *at; (at = list_pop_front(&peer->ended)) != NULL;) {
        struct peer_call *call = CONTAINER_OF(at, struct peer_call, link);
        call_tell(call, call->err, CODE_OK, span_of(NULL, 0));
    }
    peer->is_telling = false;
    tell_quiet(peer);
}

static void begin(struct peer *peer);

static void is_closed(void *owner)
{
    struct peer *peer = owner;
    peer->phase = PEER_CLOSED;
    peer->conn = NULL;
    if (list_empty(&peer->unsent))
        tell_quiet(peer);
    else
        begin(peer);
}

static void let_go(struct peer *peer)
{
    if (!peer->conn || peer->phase == PEER_CLOSING)
        return;
    peer->sent_bytes += conn_sent_bytes(peer->conn);
    peer->received_bytes += conn_received_bytes(peer->conn);
    free(peer->long_meta);
    peer->long_meta = NULL;
    peer->phase = PEER_CLOSING;
    conn_close(peer->conn, is_closed, peer);
}

/* All calls end. */
static void break_off(struct peer *peer, int err)
{
    for (size_t i = 0; i < PEER_CALLS_MAX; i++) {
        struct peer_call *call = peer->calls[i];
        if (!call)
            continue;
        call_end(call);
        call->err = err;
        list_push_back(&peer->ended, &call->link);
        task_post(&peer->telling);
    }
    let_go(peer);
}

/* Its request has left, or may have: then its answer is skipped when it comes. */
static void too_late(struct timer *timer)
{
    struct peer_call *call = CONTAINER_OF(timer, struct peer_call, deadline);
    struct peer *peer = call->peer;
    bool silent = peer_received_bytes(peer) == call->heard_bytes;
    peer->owed += !call->unsent;
    call_end(call);
    if (silent)
        break_off(peer, KVD_ETIMEOUT);
    call_tell(call, KVD_ETIMEOUT, CODE_OK, span_of(NULL, 0));
}

/* ---- requests ---- */

static void is_sent(struct conn_send *send, int err)
{
    struct peer_frame *frame = CONTAINER_OF(send, struct peer_frame, send);
    struct peer *peer = frame->peer;
    frame_free(frame);
    if (err && peer->phase != PEER_CLOSING)
        break_off(peer, err);
}

static void frame_send(struct peer_frame *frame)
{
    struct peer *peer = frame->peer;
    list_remove(&frame->link);
    list_push_back(&peer->sending, &frame->link);
    if (frame->call)
        frame->call->unsent = NULL;
    frame->call = NULL;
    conn_send(peer->conn, &frame->send, is_sent);
}

/* Returns 0, KVD_ETOOLARGE or -ENOMEM. It is on no list yet, and not counted. */
static int frame_make(struct peer *peer, uint8_t op, uint64_t id, const void *msg, struct peer_frame **out)
{
    static const uint8_t prefix_room[FRAME_PREFIX_BYTES];
    struct peer_frame *made = malloc(sizeof *made);
    if (!made)
        return -ENOMEM;
    *made = (struct peer_frame){.peer = peer};
    list_init(&made->link);
    buffer_init(&made->bytes);
    pack_raw(&made->bytes, span_of(prefix_room, sizeof prefix_room));
    int err = made->bytes.failed ? -ENOMEM : msg_encode(msg_request(op), msg, &made->bytes);
    if (!err && made->bytes.len - FRAME_PREFIX_BYTES > PEER_META_BYTES)
        err = KVD_ETOOLARGE;
    if (err) {
        buffer_fini(&made->bytes);
        free(made);
        return err;
    }
    struct frame frame = {.op = op, .id = id, .meta_len = (uint32_t)(made->bytes.len - FRAME_PREFIX_BYTES)};
    frame_encode(made->bytes.at, &frame);
    made->len = made->bytes.len;
    made->iov = (struct iovec){made->bytes.at, made->len};
    made->send = (struct conn_send){.iov = &made->iov, .iov_count = 1};
    *out = made;
    return 0;
}

/* HELLO and JOIN, whose ids have the place of no call. Returns 0 or an error that ends the connection. */
static int send_own(struct peer *peer, uint8_t op, const void *msg)
{
    struct peer_frame *frame;
    peer->join_id = ++peer->last_id * PEER_CALLS_MAX;
    int err = frame_make(peer, op, peer->join_id, msg, &frame);
    if (err)
        return err;
    peer->queued_bytes += frame->len;
    frame_send(frame);
    return 0;
}

/* ---- the beginning of a connection ---- */

static int say_hello(struct peer *peer)
{
    uint64_t one = 1;
    struct msg_hello hello = {
        .has = 1u << F_HELLO_VERSIONS | 1u << F_HELLO_CLIENT, .versions = {&one, 1}, .client = span_text("kvd " KVD_VERSION)};
    peer->phase = PEER_HELLO;
    return send_own(peer, OP_HELLO, &hello);
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
        .has = (1u << (F_JOIN_CONNECTION + 1)) - (1u << F_JOIN_CLUSTER),
        .cluster = span_text(self->cluster),
        .from = span_text(self->id),
        .to = span_text(peer->id),
        .nonce = span_of(peer->challenge + NONCE_BYTES, NONCE_BYTES),
        .mac = span_of(mac, sizeof mac),
        .start = peer->incarnation.start,
        .random = peer->incarnation.random,
        .connection = peer->connection,
    };
    peer->phase = PEER_JOIN;
    return send_own(peer, OP_JOIN, &join);
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
    peer->phase = PEER_READY;
    for (struct list *at; (at = list_first(&peer->unsent)) != NULL;)
        frame_send(CONTAINER_OF(at, struct peer_frame, link));
    return 0;
}

static int own_reply_came(struct peer *peer, const struct frame *frame, struct span meta)
{
    union {
        struct msg_hello_reply hello;
        struct msg_join_reply join;
    } msg;
    const char *why;
    if (frame->id != peer->join_id || frame->op != (peer->phase == PEER_HELLO ? OP_HELLO : OP_JOIN))
        return KVD_EPROTO;
    if (frame->code != CODE_OK)
        return frame->code == CODE_DENIED ? KVD_EDENIED : KVD_EREFUSED;
    int err = msg_decode(msg_reply(frame->op), meta, FEATURES_MAX, &peer->arena, &msg, &why);
    if (err)
        return err;
    return peer->phase == PEER_HELLO ? hello_came(peer, &msg.hello) : join_came(peer, &msg.join);
}

/* ---- replies ---- */

static int reply_came(struct peer *peer, const struct frame *frame, struct span meta)
{
    if (peer->phase != PEER_READY)
        return own_reply_came(peer, frame, meta);
    struct peer_call *call = peer->calls[frame->id % PEER_CALLS_MAX];
    if (call && call->id == frame->id) {
        if (call->op != frame->op)
            return KVD_EPROTO;
        call_end(call);
        peer->round_trip_us = loop_now_us(peer->self->loop) - call->started_us;
        call_tell(call, 0, (enum code)frame->code, meta);
        return 0;
    }
    /* No more of those than calls were given up: a reply to what was never asked, or was answered, is none. */
    if (peer->owed == 0 || frame->id / PEER_CALLS_MAX > peer->last_id)
        return KVD_EPROTO;
    peer->owed--;
    peer->late++;
    return 0;
}

/* What is longer than `in`: the rest is read to where it stays. */
static int long_begin(struct peer *peer, const struct frame *frame, const uint8_t *at, uint32_t len)
{
    peer->long_meta = malloc(frame->meta_len);
    if (!peer->long_meta)
        return -ENOMEM;
    peer->long_frame = *frame;
    bytes_copy(peer->long_meta, at, len);
    peer->have = len;
    return 0;
}

static int long_take(struct peer *peer)
{
    if (peer->have < peer->long_frame.meta_len)
        return 0;
    uint8_t *meta = peer->long_meta;
    peer->long_meta = NULL;
    peer->have = 0;
    int err = reply_came(peer, &peer->long_frame, span_of(meta, peer->long_frame.meta_len));
    free(meta);
    return err;
}

static int replies_take(struct peer *peer)
{
    uint32_t at = 0;
    int err = 0;
    while (!err && peer->phase != PEER_CLOSING && peer->have - at >= FRAME_PREFIX_BYTES) {
        struct frame frame;
        err = frame_decode(peer->in + at, &frame);
        if (!err && (frame.body_len > 0 || frame.meta_len > PEER_META_BYTES))
            err = KVD_ETOOLARGE;
        if (err)
            break;
        uint32_t there = peer->have - at - FRAME_PREFIX_BYTES;
        const uint8_t *meta = peer->in + at + FRAME_PREFIX_BYTES;
        if (frame.meta_len > sizeof peer->in - FRAME_PREFIX_BYTES)
            return long_begin(peer, &frame, meta, there);
        if (there < frame.meta_len)
            break;
        at += FRAME_PREFIX_BYTES + frame.meta_len;
        err = reply_came(peer, &frame, span_of(meta, frame.meta_len));
    }
    peer->have -= at;
    memmove(peer->in, peer->in + at, peer->have);
    return err;
}

static void on_room(void *owner, void **base, size_t *len)
{
    struct peer *peer = owner;
    *base = (peer->long_meta ? peer->long_meta : peer->in) + peer->have;
    *len = (peer->long_meta ? peer->long_frame.meta_len : sizeof peer->in) - peer->have;
}

static void on_received(void *owner, size_t len)
{
    struct peer *peer = owner;
    peer->have += (uint32_t)len;
    int err = peer->long_meta ? long_take(peer) : replies_take(peer);
    if (err)
        break_off(peer, err);
}

/* Where connecting fails, sending is what the socket tells it to first. */
static void on_ended(void *owner, int err)
{
    struct peer *peer = owner;
    for (struct list *at = peer->sending.next; at != &peer->sending && !err; at = at->next) {
        const struct conn_send *send = &CONTAINER_OF(at, struct peer_frame, link)->send;
        err = send->done ? send->err : 0;
    }
    break_off(peer, err ? err : -ECONNRESET);
}

static const struct conn_events events = {.room = on_room, .received = on_received, .ended = on_ended};

static int connect_now(struct peer *peer)
{
    char host[NODE_ADDRESS_MAX + 1];
    uint16_t port;
    if (!text_split_address(peer->address, host, sizeof host, &port))
        return KVD_EUSAGE;
    int err = conn_connect(&peer->conn, peer->self->loop, host, port);
    if (err)
        return err;
    peer->have = 0;
    peer->owed = 0;
    peer->incarnation = peer->self->incarnation;
    peer->connection = ++peer->self->connections;
    conn_start(peer->conn, &events, peer);
    return say_hello(peer);
}

static void begin(struct peer *peer)
{
    int err = connect_now(peer);
    if (err)
        break_off(peer, err);
}

/* ---- what its owner does ---- */

void peer_init(struct peer *peer, struct peer_self *self, const char *id, peer_quiet_fn quiet, void *owner)
{
    *peer = (struct peer){.self = self, .quiet = quiet, .owner = owner};
    snprintf(peer->id, sizeof peer->id, "%s", id);
    while (peer->free_places < PEER_CALLS_MAX) {
        peer->places[peer->free_places] = (uint16_t)peer->free_places;
        peer->free_places++;
    }
    list_init(&peer->unsent);
    list_init(&peer->sending);
    list_init(&peer->ended);
    task_init(&peer->telling, self->loop, tell_ended);
    arena_init(&peer->arena);
}

void peer_fini(struct peer *peer)
{
    CHECK(peer_is_quiet(peer));
    arena_fini(&peer->arena);
}

bool peer_is_quiet(const struct peer *peer)
{
    return !peer->conn && peer->call_count == 0 && !peer->is_telling;
}

void peer_reach(struct peer *peer, const char *address)
{
    if (strcmp(peer->address, address) == 0)
        return;
    break_off(peer, -ECONNRESET);
    snprintf(peer->address, sizeof peer->address, "%s", address);
}

/* What is said from now on is said by another start of this node. */
static bool is_of_another_start(const struct peer *peer)
{
    return peer->conn && peer->phase != PEER_CLOSING && !incarnation_equal(peer->incarnation, peer->self->incarnation);
}

static void call_begin(struct peer *peer, struct peer_call *call, struct peer_frame *frame, uint64_t timeout_ms)
{
    peer->queued_bytes += frame->len;
    peer->calls[call->id % PEER_CALLS_MAX] = call;
    peer->free_places--;
    peer->call_count++;
    timer_init(&call->deadline, peer->self->loop, too_late);
    timer_start(&call->deadline, timeout_ms);
    list_init(&call->link);
    if (peer->phase == PEER_READY) {
        frame_send(frame);
        return;
    }
    frame->call = call;
    call->unsent = frame;
    list_push_back(&peer->unsent, &frame->link);
    if (peer->phase == PEER_CLOSED)
        begin(peer);
}

int peer_call_start(struct peer *peer, struct peer_call *call, uint8_t op, const void *msg, uint64_t timeout_ms, peer_call_fn fn)
{
    CHECK(peer->address[0] != '\0');
    if (is_of_another_start(peer))
        break_off(peer, -ECONNRESET);
    struct peer_frame *frame = NULL;
    int err = peer->call_count == PEER_CALLS_MAX ? KVD_EBUSY : 0;
    uint64_t id = err ? 0 : ++peer->last_id * PEER_CALLS_MAX + peer->places[peer->free_places - 1];
    if (!err)
        err = frame_make(peer, op, id, msg, &frame);
    if (!err && peer->queued_bytes + frame->len > PEER_QUEUE_BYTES) {
        buffer_fini(&frame->bytes);
        free(frame);
        err = KVD_EBUSY;
    }
    if (err) {
        peer->slow += err == KVD_EBUSY;
        return err;
    }
    *call = (struct peer_call){
        .peer = peer, .fn = fn, .id = id, .op = op, .heard_bytes = peer_received_bytes(peer), .started_us = loop_now_us(peer->self->loop)};
    call_begin(peer, call, frame, timeout_ms);
    return 0;
}

void peer_close(struct peer *peer)
{
    break_off(peer, KVD_ECLOSING);
}

uint64_t peer_sent_bytes(const struct peer *peer)
{
    return peer->sent_bytes + (peer->conn && peer->phase != PEER_CLOSING ? conn_sent_bytes(peer->conn) : 0);
}

uint64_t peer_received_bytes(const struct peer *peer)
{
    return peer->received_bytes + (peer->conn && peer->phase != PEER_CLOSING ? conn_received_bytes(peer->conn) : 0);
}
