/* A node's way to another: proofs, messages, and a connection to a listener that does as it is told. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cluster/peer.h"
#include "test/support/quiet.h"

#define TOKEN span_text("a-token-that-is-long-enough")
#define CLUSTER span_text("test")

static struct beat some_beat(const struct view *view)
{
    return (struct beat){.from = {.id = "a", .address = "10.0.0.1:7950", .incarnation = {3, 4}},
                         .known = 9,
                         .acknowledged = 8,
                         .effective = 7,
                         .asked_us = 6,
                         .promised_us = 5,
                         .promised_view = 4,
                         .ceiling = 3,
                         .acting = true,
                         .left = true,
                         .view = view};
}

static struct view some_view(uint64_t number)
{
    struct node_name name = {.id = "a", .address = "10.0.0.1:7950", .incarnation = {3, 4}};
    struct view view = {.number = number, .previous = number - 1, .proposer = "a"};
    cr_assert(view_put(&view, &name));
    return view;
}

/* ---- proofs ---- */

Test(peer, a_proof_is_of_token_names_side_and_challenge)
{
    uint8_t challenge[2 * NONCE_BYTES] = {1}, other[2 * NONCE_BYTES] = {2};
    uint8_t macs[7][MAC_BYTES];
    struct span a = span_text("a"), b = span_text("b");
    cr_assert_eq(peer_mac(macs[0], true, TOKEN, CLUSTER, a, b, challenge), 0);
    cr_assert_eq(peer_mac(macs[1], false, TOKEN, CLUSTER, a, b, challenge), 0);
    cr_assert_eq(peer_mac(macs[2], true, span_text("another-token-long-enough"), CLUSTER, a, b, challenge), 0);
    cr_assert_eq(peer_mac(macs[3], true, TOKEN, span_text("testa"), span_text(""), b, challenge), 0);
    cr_assert_eq(peer_mac(macs[4], true, TOKEN, CLUSTER, b, a, challenge), 0);
    cr_assert_eq(peer_mac(macs[5], true, TOKEN, CLUSTER, a, b, other), 0);
    cr_assert_eq(peer_mac(macs[6], true, TOKEN, CLUSTER, span_text("ab"), span_text(""), challenge), 0);
    for (size_t i = 0; i < 7; i++)
        for (size_t k = 0; k < i; k++)
            cr_assert_not(mac_equal(macs[i], macs[k]), "%zu and %zu", i, k);
}

/* ---- messages ---- */

Test(peer, a_beat_there_and_back)
{
    struct view view = some_view(9), read;
    struct beat beat = some_beat(&view), back;
    struct msg_beat msg;
    uint8_t bytes[VIEW_BYTES];
    beat_to_msg(&beat, CLUSTER, bytes, &msg);
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), 0);
    cr_assert(back.known == 9 && back.acknowledged == 8 && back.effective == 7 && back.asked_us == 6 && back.promised_us == 5);
    cr_assert(back.promised_view == 4 && back.ceiling == 3 && back.acting && back.left && !back.wants_in && !back.former_dead);
    cr_assert(back.view == &read && read.number == 9 && incarnation_equal(back.from.incarnation, beat.from.incarnation));
    cr_assert_str_eq(back.from.address, beat.from.address);
}

Test(peer, what_is_no_beat)
{
    struct view view = some_view(8), read;
    struct beat beat = some_beat(&view), back;
    struct msg_beat msg;
    uint8_t bytes[VIEW_BYTES];
    beat_to_msg(&beat, CLUSTER, bytes, &msg);
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), KVD_EPROTO, "a view that is not the one it knows");
    msg.known = 8;
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), 0);
    cr_assert_eq(beat_from_msg(&msg, span_text("other"), "a", &read, &back), KVD_EPROTO);
    msg.start = 0;
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), KVD_EPROTO);
    msg.start = 1;
    msg.address = span_text("");
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), KVD_EPROTO);
}

/* ---- a connection ---- */

enum answer { ANSWERS, WRONG_PROOF, DENIES, SAYS_NOTHING, HANGS_UP, TALKS_ROT };

struct rig {
    struct loop *loop;
    struct listener *listener;
    struct peer_self self;
    struct peer peer;
    enum answer answer;
    struct conn *conn; /* that was taken */
    bool conn_open, ended;
    uint8_t in[16384];
    uint32_t have;
    struct buffer out;
    struct iovec iov;
    struct conn_send send;
    struct arena arena;
    uint8_t challenge[2 * NONCE_BYTES];
    unsigned beats_wanted, beats, taken;
    int err;
};

static void sent(struct conn_send *send, int err)
{
    (void)send;
    (void)err;
}

static void reply(struct rig *rig, const struct frame *request, enum code code, const void *msg)
{
    static const uint8_t room[FRAME_PREFIX_BYTES];
    rig->out.len = 0;
    pack_raw(&rig->out, span_of(room, sizeof room));
    if (msg)
        cr_assert_eq(msg_encode(msg_reply(request->op), msg, &rig->out), 0);
    struct frame frame = {.op = request->op, .code = (uint8_t)code, .id = request->id, .meta_len = (uint32_t)(rig->out.len - sizeof room)};
    frame_encode(rig->out.at, &frame);
    rig->iov = (struct iovec){rig->out.at, rig->out.len};
    rig->send = (struct conn_send){.iov = &rig->iov, .iov_count = 1};
    conn_send(rig->conn, &rig->send, sent);
}

static void answer_join(struct rig *rig, const struct frame *frame, const struct msg_join *join)
{
    uint8_t mac[MAC_BYTES];
    memcpy(rig->challenge + NONCE_BYTES, join->nonce.at, NONCE_BYTES);
    cr_assert_eq(peer_mac(mac, true, TOKEN, CLUSTER, span_text("a"), span_text("b"), rig->challenge), 0);
    cr_assert(join->mac.len == MAC_BYTES && mac_equal(mac, join->mac.at), "it proves itself");
    cr_assert_eq(peer_mac(mac, rig->answer == WRONG_PROOF, TOKEN, CLUSTER, span_text("a"), span_text("b"), rig->challenge), 0);
    struct msg_join_reply proof = {.has = 1, .mac = span_of(mac, sizeof mac)};
    reply(rig, frame, rig->answer == DENIES ? CODE_DENIED : CODE_OK, rig->answer == DENIES ? NULL : &proof);
}

static void answer_one(struct rig *rig, const struct frame *frame, struct span meta)
{
    union {
        struct msg_hello hello;
        struct msg_join join;
        struct msg_beat beat;
    } msg;
    const char *why;
    cr_assert_eq(msg_decode(msg_request(frame->op), meta, 16, &rig->arena, &msg, &why), 0);
    struct msg_hello_reply hello = {.has = 1u << F_HELLOR_VERSION | 1u << F_HELLOR_SERVER | 1u << F_HELLOR_NODE | 1u << F_HELLOR_NONCE |
                                           1u << F_HELLOR_FEATURES | 1u << F_HELLOR_LIMITS | 1u << F_HELLOR_AUTHENTICATED,
                                    .version = 1,
                                    .server = span_text("x"),
                                    .node = span_text("b"),
                                    .limits = span_of("\x80", 1),
                                    .nonce = span_of(rig->challenge, NONCE_BYTES)};
    if (frame->op == OP_HELLO)
        reply(rig, frame, CODE_OK, &hello);
    else if (frame->op == OP_JOIN)
        answer_join(rig, frame, &msg.join);
    else
        reply(rig, frame, CODE_OK, &msg.beat);
}

static void rig_room(void *owner, void **base, size_t *len)
{
    struct rig *rig = owner;
    *base = rig->in + rig->have;
    *len = sizeof rig->in - rig->have;
}

static void rig_closed(void *owner)
{
    (void)owner;
}

static void hang_up(struct rig *rig)
{
    if (rig->conn_open)
        conn_close(rig->conn, rig_closed, rig);
    rig->conn_open = false;
}

static void rig_received(void *owner, size_t len)
{
    struct rig *rig = owner;
    struct frame frame;
    rig->have += (uint32_t)len;
    if (rig->have < FRAME_PREFIX_BYTES || frame_decode(rig->in, &frame) != 0 || rig->have < FRAME_PREFIX_BYTES + frame.meta_len)
        return;
    rig->have = 0;
    if (rig->answer == HANGS_UP) {
        hang_up(rig);
    } else if (rig->answer == TALKS_ROT) {
        rig->iov = (struct iovec){rig->in, FRAME_PREFIX_BYTES};
        memset(rig->in, 'x', FRAME_PREFIX_BYTES);
        rig->send = (struct conn_send){.iov = &rig->iov, .iov_count = 1};
        conn_send(rig->conn, &rig->send, sent);
    } else if (rig->answer != SAYS_NOTHING) {
        answer_one(rig, &frame, span_of(rig->in + FRAME_PREFIX_BYTES, frame.meta_len));
    }
}

static void rig_ended(void *owner, int err)
{
    (void)err;
    hang_up(owner);
}

static const struct conn_events events = {.room = rig_room, .received = rig_received, .ended = rig_ended};

static void taken(void *arg, struct conn *conn)
{
    struct rig *rig = arg;
    rig->conn = conn;
    rig->conn_open = true;
    rig->have = 0;
    rig->taken++;
    conn_start(conn, &events, rig);
}

static void beat_once(struct rig *rig)
{
    char address[32];
    struct beat beat = some_beat(NULL);
    snprintf(address, sizeof address, "127.0.0.1:%u", listener_port(rig->listener));
    peer_send(&rig->peer, address, &beat);
}

static void rig_end(struct rig *rig)
{
    rig->ended = true;
    peer_close(&rig->peer);
    hang_up(rig);
    if (!rig->peer.conn)
        loop_stop(rig->loop);
}

static void heard(struct peer *peer, int err, const struct beat *answer)
{
    struct rig *rig = peer->owner;
    rig->err = err;
    rig->beats += answer != NULL;
    if (answer)
        cr_assert(answer->known == 9 && strcmp(answer->from.id, "b") == 0);
    if (answer && rig->beats < rig->beats_wanted)
        beat_once(rig);
    else
        rig_end(rig);
}

static void closed(struct peer *peer)
{
    struct rig *rig = peer->owner;
    if (rig->ended)
        loop_stop(rig->loop);
}

static int run(enum answer answer, unsigned beats)
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct loop_options options = {.conns_only = true};
    rig->answer = answer;
    rig->beats_wanted = beats;
    cr_assert_eq(loop_new(&rig->loop, &options, &quiet), 0);
    cr_assert_eq(listener_open(&rig->listener, rig->loop, "127.0.0.1", 0, 4, taken, rig), 0);
    rig->self = (struct peer_self){.loop = rig->loop, .log = &quiet, .cluster = "test", .id = "a", .token = TOKEN};
    buffer_init(&rig->out);
    arena_init(&rig->arena);
    peer_init(&rig->peer, &rig->self, "b", heard, closed, rig);
    beat_once(rig);
    loop_run(rig->loop);
    cr_assert_eq(rig->beats, beats);
    cr_assert(rig->taken <= 1);
    listener_close(rig->listener);
    peer_fini(&rig->peer);
    int err = rig->err;
    loop_free(rig->loop);
    buffer_fini(&rig->out);
    arena_fini(&rig->arena);
    free(rig);
    return err;
}

Test(peer, beats_go_over_one_connection, .timeout = 20)
{
    cr_assert_eq(run(ANSWERS, 5), 0);
}

Test(peer, who_cannot_prove_himself_gets_no_beat, .timeout = 20)
{
    cr_assert_eq(run(WRONG_PROOF, 0), KVD_EDENIED);
}

Test(peer, denied, .timeout = 20)
{
    cr_assert_eq(run(DENIES, 0), KVD_EDENIED);
}

static void refused(struct peer *peer, int err, const struct beat *answer)
{
    struct rig *rig = peer->owner;
    cr_assert_null(answer);
    rig->err = err;
    rig_end(rig);
}

Test(peer, nobody_listens, .timeout = 20)
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct loop_options options = {.conns_only = true};
    cr_assert_eq(loop_new(&rig->loop, &options, &quiet), 0);
    cr_assert_eq(listener_open(&rig->listener, rig->loop, "127.0.0.1", 0, 4, taken, rig), 0);
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", listener_port(rig->listener));
    listener_close(rig->listener);
    rig->self = (struct peer_self){.loop = rig->loop, .log = &quiet, .cluster = "test", .id = "a", .token = TOKEN};
    peer_init(&rig->peer, &rig->self, "b", refused, closed, rig);
    struct beat beat = some_beat(NULL);
    peer_send(&rig->peer, address, &beat);
    loop_run(rig->loop);
    cr_assert_eq(rig->err, -ECONNREFUSED, "%d", rig->err);
    peer_fini(&rig->peer);
    loop_free(rig->loop);
    free(rig);
}

Test(peer, silence_ends_at_the_deadline, .timeout = 20)
{
    cr_assert_eq(run(SAYS_NOTHING, 0), KVD_ETIMEOUT);
}

Test(peer, a_connection_that_ends, .timeout = 20)
{
    cr_assert_eq(run(HANGS_UP, 0), -ECONNRESET);
}

Test(peer, what_is_no_frame, .timeout = 20)
{
    cr_assert_eq(run(TALKS_ROT, 0), KVD_EPROTO);
}
