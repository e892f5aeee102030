/* A node's way to another: proofs, and calls over connections to a listener that does as it is told. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/error.h"
#include "cluster/peer.h"
#include "test/support/quiet.h"

#define TOKEN span_text("a-token-that-is-long-enough")
#define CLUSTER span_text("test")

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

/* ---- the other side, and what is asked of it ---- */

enum {
    MANY = PEER_CALLS_MAX + 8,
    PATIENCE_MS = 10000,
};

enum manner { PROVES_ITSELF, WRONG_PROOF, WRONG_ID, DENIES, SAYS_NOTHING, HANGS_UP, TALKS_ROT, HOLDS_THE_PROOF };

struct rig;

/* A call, and what became of it. */
struct ask {
    struct peer_call call;
    struct rig *rig;
    unsigned number, ends;
    int err;
    enum code code;
    uint64_t version;
};

/* A connection that the other side has taken. */
struct door {
    struct rig *rig;
    struct conn *conn;
    bool open;
    uint8_t in[65536];
    size_t have;
};

struct rig {
    struct loop *loop;
    struct listener *listener;
    struct peer_self self;
    struct peer peer;
    enum manner manner;
    struct door *door; /* the newest */
    struct arena arena;
    uint8_t challenge[2 * NONCE_BYTES];
    struct frame held_join;
    struct msg_join joins[4];
    unsigned taken, joined, doors;
    struct frame got[MANY]; /* requests, in their order */
    unsigned got_count;
    void (*on_asked)(struct rig *rig);
    void (*on_end)(struct rig *rig, struct ask *ask);
    struct ask asks[MANY];
    unsigned ended;
    bool ending;
    unsigned sends; /* system calls of both sides */
};

static struct rig *sending_rig;
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    if (sending_rig)
        sending_rig->sends++;
    return __real_sendmsg(fd, msg, flags);
}

struct out {
    struct conn_send send;
    struct iovec iov;
    uint8_t bytes[];
};

static void out_sent(struct conn_send *send, int err)
{
    (void)err;
    free(CONTAINER_OF(send, struct out, send));
}

static void send_bytes(struct door *door, struct span head, struct span rest)
{
    struct out *out = malloc(sizeof *out + head.len + rest.len);
    bytes_copy(out->bytes, head.at, head.len);
    bytes_copy(out->bytes + head.len, rest.at, rest.len);
    out->iov = (struct iovec){out->bytes, head.len + rest.len};
    out->send = (struct conn_send){.iov = &out->iov, .iov_count = 1};
    conn_send(door->conn, &out->send, out_sent);
}

static void send_reply(struct door *door, uint8_t op, uint64_t id, enum code code, struct span meta)
{
    uint8_t prefix[FRAME_PREFIX_BYTES];
    frame_encode(prefix, &(struct frame){.op = op, .code = (uint8_t)code, .id = id, .meta_len = (uint32_t)meta.len});
    send_bytes(door, span_of(prefix, sizeof prefix), meta);
}

static void reply(struct door *door, const struct frame *request, const void *msg)
{
    struct buffer meta;
    buffer_init(&meta);
    cr_assert_eq(msg_encode(msg_reply(request->op), msg, &meta), 0);
    send_reply(door, request->op, request->id, CODE_OK, span_of(meta.at, meta.len));
    buffer_fini(&meta);
}

/* The n-th request, with `version`, and so many bytes more that nobody reads. */
static void answer_long(struct rig *rig, unsigned n, uint64_t version, size_t more)
{
    uint8_t *fill = calloc(1, more + 1);
    struct buffer meta;
    buffer_init(&meta);
    pack_map(&meta, 2);
    pack_text(&meta, "version");
    pack_u64(&meta, version);
    pack_text(&meta, "more");
    pack_bin(&meta, span_of(fill, more));
    send_reply(rig->door, rig->got[n].op, rig->got[n].id, CODE_OK, span_of(meta.at, meta.len));
    buffer_fini(&meta);
    free(fill);
}

static void answer(struct rig *rig, unsigned n, uint64_t version)
{
    answer_long(rig, n, version, 0);
}

static void prove(struct rig *rig, const struct frame *frame)
{
    struct frame answered = *frame;
    answered.id += rig->manner == WRONG_ID;
    uint8_t mac[MAC_BYTES];
    cr_assert_eq(peer_mac(mac, rig->manner == WRONG_PROOF, TOKEN, CLUSTER, span_text("a"), span_text("b"), rig->challenge), 0);
    reply(rig->door, &answered, &(struct msg_join_reply){.has = 1, .mac = span_of(mac, sizeof mac)});
}

/* Its time has passed. */
static void expire(struct ask *ask)
{
    timer_start(&ask->call.deadline, 0);
}

static void join_came(struct rig *rig, const struct frame *frame, const struct msg_join *join)
{
    uint8_t mac[MAC_BYTES];
    memcpy(rig->challenge + NONCE_BYTES, join->nonce.at, NONCE_BYTES);
    cr_assert_eq(peer_mac(mac, true, TOKEN, CLUSTER, span_text("a"), span_text("b"), rig->challenge), 0);
    cr_assert(join->mac.len == MAC_BYTES && mac_equal(mac, join->mac.at), "it proves itself");
    rig->joins[rig->joined++ % 4] = *join;
    rig->held_join = *frame;
    if (rig->manner == DENIES)
        send_reply(rig->door, OP_JOIN, frame->id, CODE_DENIED, span_of(NULL, 0));
    else if (rig->manner == HOLDS_THE_PROOF)
        expire(&rig->asks[0]);
    else
        prove(rig, frame);
}

static void request_came(struct rig *rig, const struct frame *frame, struct span meta)
{
    union {
        struct msg_hello hello;
        struct msg_join join;
        struct msg_put put;
    } msg;
    const char *why;
    struct msg_hello_reply hello = {.has = 1u << F_HELLOR_VERSION | 1u << F_HELLOR_SERVER | 1u << F_HELLOR_NODE | 1u << F_HELLOR_NONCE |
                                           1u << F_HELLOR_FEATURES | 1u << F_HELLOR_LIMITS | 1u << F_HELLOR_AUTHENTICATED,
                                    .version = 1,
                                    .server = span_text("x"),
                                    .node = span_text("b"),
                                    .limits = span_of("\x80", 1),
                                    .nonce = span_of(rig->challenge, NONCE_BYTES)};
    cr_assert_eq(msg_decode(msg_request(frame->op), meta, 16, &rig->arena, &msg, &why), 0);
    if (frame->op == OP_HELLO) {
        reply(rig->door, frame, &hello);
    } else if (frame->op == OP_JOIN) {
        join_came(rig, frame, &msg.join);
    } else {
        cr_assert_lt(rig->got_count, MANY);
        rig->got[rig->got_count++] = *frame;
        if (rig->on_asked)
            rig->on_asked(rig);
    }
}

static void door_room(void *owner, void **base, size_t *len)
{
    struct door *door = owner;
    *base = door->in + door->have;
    *len = sizeof door->in - door->have;
}

static void stop_when_over(struct rig *rig)
{
    if (rig->ending && peer_is_quiet(&rig->peer) && rig->doors == 0)
        loop_stop(rig->loop);
}

static void door_closed(void *owner)
{
    struct door *door = owner;
    struct rig *rig = door->rig;
    if (rig->door == door)
        rig->door = NULL;
    rig->doors--;
    free(door);
    stop_when_over(rig);
}

static void door_close(struct door *door)
{
    if (door && door->open)
        conn_close(door->conn, door_closed, door);
    if (door)
        door->open = false;
}

static void door_received(void *owner, size_t len)
{
    struct door *door = owner;
    struct rig *rig = door->rig;
    struct frame frame;
    size_t at = 0;
    door->have += len;
    if (rig->manner == HANGS_UP)
        door_close(door);
    if (rig->manner == TALKS_ROT)
        send_bytes(door, span_text("this is no frame of ours, and longer than a prefix"), span_of(NULL, 0));
    if (rig->manner == SAYS_NOTHING || rig->manner == TALKS_ROT)
        door->have = 0;
    while (door->open && door->have - at >= FRAME_PREFIX_BYTES) {
        cr_assert_eq(frame_decode(door->in + at, &frame), 0);
        if (door->have - at < FRAME_PREFIX_BYTES + frame.meta_len)
            break;
        at += FRAME_PREFIX_BYTES + frame.meta_len;
        request_came(rig, &frame, span_of(door->in + at - frame.meta_len, frame.meta_len));
    }
    door->have -= at;
    memmove(door->in, door->in + at, door->have);
}

static void door_ended(void *owner, int err)
{
    (void)err;
    door_close(owner);
}

static const struct conn_events door_events = {.room = door_room, .received = door_received, .ended = door_ended};

static void taken(void *arg, struct conn *conn)
{
    struct rig *rig = arg;
    struct door *door = malloc(sizeof *door);
    *door = (struct door){.rig = rig, .conn = conn, .open = true};
    rig->door = door;
    rig->taken++;
    rig->doors++;
    conn_start(conn, &door_events, door);
}

/* ---- this side ---- */

static void now_quiet(struct peer *peer)
{
    stop_when_over(peer->owner);
}

static void rig_end(struct rig *rig)
{
    rig->ending = true;
    peer_close(&rig->peer);
    door_close(rig->door);
    stop_when_over(rig);
}

static void ended(struct peer_call *call, int err, enum code code, struct span meta)
{
    struct ask *ask = CONTAINER_OF(call, struct ask, call);
    struct rig *rig = ask->rig;
    struct msg_put_reply msg;
    const char *why;
    ask->err = err;
    ask->code = code;
    ask->ends++;
    if (err == 0 && code == CODE_OK) {
        cr_assert_eq(msg_decode(msg_reply(OP_PUT), meta, 0, &rig->arena, &msg, &why), 0);
        ask->version = msg.version;
    }
    rig->ended++;
    rig->on_end(rig, ask);
}

static int ask_of(struct rig *rig, unsigned number, struct span key)
{
    struct ask *ask = &rig->asks[number];
    struct msg_put msg = {.has = 1u << F_PUT_KEY, .key = key};
    ask->rig = rig;
    ask->number = number;
    return peer_call_start(&rig->peer, &ask->call, OP_PUT, &msg, PATIENCE_MS, ended);
}

static void ask(struct rig *rig, unsigned number)
{
    unsigned before = rig->ended;
    cr_assert_eq(ask_of(rig, number, span_text("key")), 0);
    cr_assert_eq(rig->ended, before, "nothing ends inside");
}

static void reach(struct rig *rig)
{
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", listener_port(rig->listener));
    peer_reach(&rig->peer, address);
}

static struct rig *rig_new(enum manner manner, void (*on_asked)(struct rig *), void (*on_end)(struct rig *, struct ask *))
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct loop_options options = {.conns_only = true};
    rig->manner = manner;
    rig->on_asked = on_asked;
    rig->on_end = on_end;
    cr_assert_eq(loop_new(&rig->loop, &options, &quiet), 0);
    cr_assert_eq(listener_open(&rig->listener, rig->loop, "127.0.0.1", 0, 8, taken, rig), 0);
    rig->self = (struct peer_self){.loop = rig->loop, .cluster = "test", .id = "a", .token = TOKEN, .incarnation = {3, 4}};
    arena_init(&rig->arena);
    peer_init(&rig->peer, &rig->self, "b", now_quiet, rig);
    reach(rig);
    sending_rig = rig;
    return rig;
}

/* Until the test has called rig_end(). Each of the first `asks` has ended once. */
static void rig_run(struct rig *rig, unsigned asks)
{
    loop_run(rig->loop);
    for (unsigned i = 0; i < asks; i++)
        cr_assert_eq(rig->asks[i].ends, 1, "%u ended %u times", i, rig->asks[i].ends);
    cr_assert(rig->ended == asks && rig->peer.call_count == 0 && rig->peer.queued_bytes == 0 && rig->peer.free_places == PEER_CALLS_MAX);
    cr_assert(list_empty(&rig->peer.unsent) && list_empty(&rig->peer.sending) && !rig->peer.long_meta);
}

static void rig_free(struct rig *rig)
{
    listener_close(rig->listener);
    peer_fini(&rig->peer);
    loop_free(rig->loop);
    arena_fini(&rig->arena);
    sending_rig = NULL;
    free(rig);
}

static void end_at_once(struct rig *rig, struct ask *ask)
{
    (void)ask;
    rig_end(rig);
}

static void answer_last(struct rig *rig)
{
    answer(rig, rig->got_count - 1, rig->got_count - 1);
}

/* ---- one call, and how it can fail ---- */

static int one_call(enum manner manner)
{
    struct rig *rig = rig_new(manner, answer_last, end_at_once);
    ask(rig, 0);
    if (manner == SAYS_NOTHING)
        expire(&rig->asks[0]);
    rig_run(rig, 1);
    int err = rig->asks[0].err;
    cr_assert(rig->taken <= 1 && rig->peer.answered == (err == 0) && rig->peer.failures == (err != 0));
    rig_free(rig);
    return err;
}

Test(peer, who_cannot_prove_himself_is_asked_nothing, .timeout = 20)
{
    cr_assert_eq(one_call(WRONG_PROOF), KVD_EDENIED);
}

Test(peer, a_proof_that_was_not_asked_for, .timeout = 20)
{
    cr_assert_eq(one_call(WRONG_ID), KVD_EPROTO);
}

Test(peer, denied, .timeout = 20)
{
    cr_assert_eq(one_call(DENIES), KVD_EDENIED);
}

Test(peer, silence_ends_at_the_deadline, .timeout = 20)
{
    cr_assert_eq(one_call(SAYS_NOTHING), KVD_ETIMEOUT);
}

Test(peer, a_connection_that_ends, .timeout = 20)
{
    cr_assert_eq(one_call(HANGS_UP), -ECONNRESET);
}

Test(peer, what_is_no_frame, .timeout = 20)
{
    cr_assert_eq(one_call(TALKS_ROT), KVD_EPROTO);
}

Test(peer, nobody_listens, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, NULL, end_at_once);
    listener_close(rig->listener);
    ask(rig, 0);
    rig_run(rig, 1);
    cr_assert_eq(rig->asks[0].err, -ECONNREFUSED, "%d", rig->asks[0].err);
    cr_assert_eq(listener_open(&rig->listener, rig->loop, "127.0.0.1", 0, 4, taken, rig), 0);
    rig_free(rig);
}

static void refuse_last(struct rig *rig)
{
    send_reply(rig->door, OP_PUT, rig->got[0].id, CODE_BUSY, span_of(NULL, 0));
}

Test(peer, a_code_is_an_answer, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, refuse_last, end_at_once);
    ask(rig, 0);
    rig_run(rig, 1);
    cr_assert(rig->asks[0].err == 0 && rig->asks[0].code == CODE_BUSY);
    rig_free(rig);
}

/* ---- many at once ---- */

static void answer_three_in_another_order(struct rig *rig)
{
    if (rig->got_count < 3)
        return;
    answer(rig, 2, 2);
    answer(rig, 0, 0);
    answer(rig, 1, 1);
}

static void end_after_three(struct rig *rig, struct ask *ask)
{
    static const unsigned order[] = {2, 0, 1};
    cr_assert_eq(ask->number, order[rig->ended - 1]);
    cr_assert(ask->err == 0 && ask->version == ask->number);
    if (rig->ended == 3)
        rig_end(rig);
}

Test(peer, replies_come_in_any_order, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_three_in_another_order, end_after_three);
    for (unsigned i = 0; i < 3; i++)
        ask(rig, i);
    rig_run(rig, 3);
    cr_assert(rig->taken == 1 && rig->peer.answered == 3);
    rig_free(rig);
}

static void answer_but_the_first(struct rig *rig)
{
    if (rig->got_count > 1)
        answer_last(rig);
}

static void late_reply_behind_the_deadline(struct rig *rig, struct ask *ended)
{
    if (ended->number == 0) {
        cr_assert_eq(ended->err, KVD_ETIMEOUT);
        answer(rig, 0, 77);
        ask(rig, 2);
    } else {
        cr_assert(ended->err == 0 && ended->version == ended->number);
    }
    if (ended->number == 1)
        expire(&rig->asks[0]);
    if (ended->number == 2)
        rig_end(rig);
}

Test(peer, a_reply_behind_its_deadline_is_skipped, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_but_the_first, late_reply_behind_the_deadline);
    ask(rig, 0);
    ask(rig, 1);
    rig_run(rig, 3);
    cr_assert(rig->taken == 1 && rig->peer.late == 1 && rig->peer.owed == 0 && rig->peer.failures == 1);
    rig_free(rig);
}

static void silent_after_the_first(struct rig *rig, struct ask *ended)
{
    if (ended->number == 0) {
        ask(rig, 1);
        ask(rig, 2);
        expire(&rig->asks[1]);
    } else {
        cr_assert_eq(ended->err, KVD_ETIMEOUT, "%u: %d", ended->number, ended->err);
    }
    if (rig->ended == 3)
        rig_end(rig);
}

static void answer_the_first(struct rig *rig)
{
    if (rig->got_count == 1)
        answer_last(rig);
}

Test(peer, a_connection_that_was_silent_all_that_time_is_broken, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_the_first, silent_after_the_first);
    ask(rig, 0);
    rig_run(rig, 3);
    rig_free(rig);
}

static void prove_late(struct rig *rig, struct ask *ended)
{
    if (ended->number == 0) {
        cr_assert_eq(ended->err, KVD_ETIMEOUT);
        ask(rig, 1);
        prove(rig, &rig->held_join);
    } else {
        cr_assert(ended->err == 0 && ended->version == 0);
        rig_end(rig);
    }
}

Test(peer, what_was_given_up_before_the_proofs_is_not_sent, .timeout = 20)
{
    struct rig *rig = rig_new(HOLDS_THE_PROOF, answer_last, prove_late);
    ask(rig, 0);
    rig_run(rig, 2);
    cr_assert(rig->taken == 1 && rig->got_count == 1 && rig->peer.late == 0);
    rig_free(rig);
}

static void hang_up_on_a_hundred(struct rig *rig)
{
    if (rig->got_count == 100)
        door_close(rig->door);
    else if (rig->got_count == 101)
        answer(rig, 100, 100);
}

static void one_more_after_a_hundred(struct rig *rig, struct ask *ended)
{
    cr_assert_eq(ended->err, ended->number < 100 ? -ECONNRESET : 0, "%u: %d", ended->number, ended->err);
    if (rig->ended == 100)
        ask(rig, 100);
    else if (rig->ended == 101)
        rig_end(rig);
}

Test(peer, all_calls_end_when_the_connection_breaks_and_the_next_one_opens_another, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, hang_up_on_a_hundred, one_more_after_a_hundred);
    for (unsigned i = 0; i < 100; i++)
        ask(rig, i);
    rig_run(rig, 101);
    cr_assert(rig->taken == 2 && rig->joined == 2);
    cr_assert(rig->joins[0].start == 3 && rig->joins[0].random == 4 && rig->joins[1].start == 3);
    cr_assert(rig->joins[0].connection > 0 && rig->joins[1].connection > rig->joins[0].connection, "numbers of connections rise");
    rig_free(rig);
}

static void another_start(struct rig *rig, struct ask *ended)
{
    if (ended->number == 0) {
        rig->self.incarnation = (struct incarnation){9, 9};
        ask(rig, 2);
    }
    if (rig->ended == 3)
        rig_end(rig);
}

static void answer_all_but_the_second(struct rig *rig)
{
    if (rig->got_count != 2)
        answer_last(rig);
}

Test(peer, a_connection_is_of_one_start_of_this_node, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_all_but_the_second, another_start);
    ask(rig, 0);
    ask(rig, 1);
    rig_run(rig, 3);
    cr_assert(rig->asks[0].err == 0 && rig->asks[1].err == -ECONNRESET && rig->asks[2].err == 0);
    cr_assert(rig->taken == 2 && rig->joins[1].start == 9 && rig->joins[1].random == 9);
    rig_free(rig);
}

static void elsewhere(struct rig *rig, struct ask *ended)
{
    if (ended->number == 0) {
        peer_reach(&rig->peer, "127.0.0.1:1");
        ask(rig, 2);
    }
    if (rig->ended == 3)
        rig_end(rig);
}

static void answer_two_at_once(struct rig *rig)
{
    for (unsigned i = 0; i < 2 && rig->got_count == 2; i++)
        answer(rig, i, i);
}

/* The second's reply is at hand when the connection is given up, and is not taken for one of the next. */
Test(peer, a_connection_is_to_one_address, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_two_at_once, elsewhere);
    ask(rig, 0);
    ask(rig, 1);
    rig_run(rig, 3);
    cr_assert(rig->asks[1].err == -ECONNRESET && rig->asks[2].err == -ECONNREFUSED && rig->taken == 1);
    rig_free(rig);
}

static void answer_three_at_once(struct rig *rig)
{
    for (unsigned i = 0; i < 3 && rig->got_count == 3; i++)
        answer(rig, i, i);
}

static void close_at_the_first(struct rig *rig, struct ask *ended)
{
    cr_assert_eq(ended->err, ended->number == 0 ? 0 : KVD_ECLOSING);
    if (ended->number == 0)
        rig_end(rig);
}

Test(peer, closing_ends_what_is_under_way_even_with_its_reply_at_hand, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_three_at_once, close_at_the_first);
    for (unsigned i = 0; i < 3; i++)
        ask(rig, i);
    rig_run(rig, 3);
    rig_free(rig);
}

/* ---- replies that are none ---- */

static void answer_what_was_not_asked(struct rig *rig)
{
    rig->got[0].id += PEER_CALLS_MAX;
    answer(rig, 0, 0);
}

Test(peer, a_reply_to_what_was_never_asked_breaks_the_connection, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_what_was_not_asked, end_at_once);
    ask(rig, 0);
    rig_run(rig, 1);
    cr_assert_eq(rig->asks[0].err, KVD_EPROTO);
    rig_free(rig);
}

static void a_reply_too_many(struct rig *rig, struct ask *ended)
{
    if (ended->number == 0)
        ask(rig, 1);
    else
        rig_end(rig);
}

static void answer_twice(struct rig *rig)
{
    if (rig->got_count > 1)
        return;
    answer(rig, 0, 0);
    answer(rig, 0, 0);
}

Test(peer, a_second_reply_breaks_the_connection, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_twice, a_reply_too_many);
    ask(rig, 0);
    rig_run(rig, 2);
    cr_assert(rig->asks[0].err == 0 && rig->asks[1].err == KVD_EPROTO);
    rig_free(rig);
}

static void answer_another_op(struct rig *rig)
{
    rig->got[0].op = OP_GET;
    answer(rig, 0, 0);
}

Test(peer, a_reply_of_another_op_breaks_the_connection, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_another_op, end_at_once);
    ask(rig, 0);
    rig_run(rig, 1);
    cr_assert_eq(rig->asks[0].err, KVD_EPROTO);
    rig_free(rig);
}

static void answer_too_long(struct rig *rig)
{
    uint8_t prefix[FRAME_PREFIX_BYTES];
    frame_encode(prefix, &(struct frame){.op = OP_PUT, .id = rig->got[0].id, .meta_len = PEER_META_BYTES + 1});
    send_bytes(rig->door, span_of(prefix, sizeof prefix), span_of(NULL, 0));
}

static void answer_with_a_body(struct rig *rig)
{
    uint8_t prefix[FRAME_PREFIX_BYTES];
    frame_encode(prefix, &(struct frame){.op = OP_PUT, .id = rig->got[0].id, .body_len = 1});
    send_bytes(rig->door, span_of(prefix, sizeof prefix), span_of("x", 1));
}

Test(peer, a_reply_that_is_too_long_breaks_the_connection, .timeout = 20)
{
    void (*const ways[])(struct rig *) = {answer_too_long, answer_with_a_body};
    for (size_t i = 0; i < 2; i++) {
        struct rig *rig = rig_new(PROVES_ITSELF, ways[i], end_at_once);
        ask(rig, 0);
        rig_run(rig, 1);
        cr_assert_eq(rig->asks[0].err, KVD_ETOOLARGE);
        rig_free(rig);
    }
}

/* The longest there may be, one that just fits `in`, one byte more; small ones before and behind. */
static void answer_long_and_short(struct rig *rig)
{
    static const size_t more[] = {
        0, PEER_META_BYTES - 20, 0, PEER_IN_BYTES - FRAME_PREFIX_BYTES - 18, PEER_IN_BYTES - FRAME_PREFIX_BYTES - 17, 0};
    for (unsigned i = 0; i < 6 && rig->got_count == 6; i++)
        answer_long(rig, i, i, more[i]);
}

static void end_after_six(struct rig *rig, struct ask *ended)
{
    cr_assert(ended->err == 0 && ended->version == ended->number, "%u: %d", ended->number, ended->err);
    if (rig->ended == 6)
        rig_end(rig);
}

Test(peer, long_replies_come_whole, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_long_and_short, end_after_six);
    for (unsigned i = 0; i < 6; i++)
        ask(rig, i);
    rig_run(rig, 6);
    rig_free(rig);
}

static void half_a_long_reply(struct rig *rig)
{
    uint8_t prefix[FRAME_PREFIX_BYTES];
    frame_encode(prefix, &(struct frame){.op = OP_PUT, .id = rig->got[0].id, .meta_len = PEER_META_BYTES});
    send_bytes(rig->door, span_of(prefix, sizeof prefix), span_text("the beginning of it"));
    conn_shutdown(rig->door->conn);
}

Test(peer, a_connection_that_ends_within_a_long_reply, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, half_a_long_reply, end_at_once);
    ask(rig, 0);
    rig_run(rig, 1);
    cr_assert_eq(rig->asks[0].err, -ECONNRESET);
    rig_free(rig);
}

/* ---- bounds ---- */

static void answer_beyond_the_bound(struct rig *rig)
{
    if (rig->got_count == PEER_CALLS_MAX)
        for (unsigned i = 0; i < PEER_CALLS_MAX; i++)
            answer(rig, i, i);
    else if (rig->got_count > PEER_CALLS_MAX)
        answer_last(rig);
}

/* One is let in for the first that ends. */
static void end_beyond_the_bound(struct rig *rig, struct ask *ended)
{
    cr_assert(ended->err == 0 && ended->version == ended->number);
    if (rig->ended == 1)
        ask(rig, PEER_CALLS_MAX);
    if (rig->ended == PEER_CALLS_MAX + 1)
        rig_end(rig);
}

Test(peer, no_more_calls_than_the_bound, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, answer_beyond_the_bound, end_beyond_the_bound);
    for (unsigned i = 0; i < PEER_CALLS_MAX; i++)
        ask(rig, i);
    cr_assert_eq(ask_of(rig, PEER_CALLS_MAX, span_text("key")), KVD_EBUSY);
    cr_assert_eq(rig->peer.slow, 1);
    rig_run(rig, PEER_CALLS_MAX + 1);
    rig_free(rig);
}

static void closed_over(struct rig *rig, struct ask *ended)
{
    (void)rig;
    cr_assert_eq(ended->err, KVD_ECLOSING);
}

Test(peer, no_more_bytes_than_the_bound, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, NULL, closed_over);
    uint8_t *key = calloc(1, PEER_META_BYTES);
    unsigned count = 0;
    while (ask_of(rig, count, span_of(key, 4 << 20)) == 0)
        count++;
    cr_assert_eq(count, 15, "the sixteenth comes with a prefix and a map");
    cr_assert(rig->peer.slow == 1 && rig->peer.queued_bytes <= PEER_QUEUE_BYTES);
    cr_assert_eq(ask_of(rig, count, span_of(key, PEER_META_BYTES)), KVD_ETOOLARGE);
    cr_assert_eq(ask_of(rig, count, span_text("key")), 0, "what fits still goes");
    free(key);
    rig_end(rig);
    rig_run(rig, count + 1);
    rig_free(rig);
}

static void count_sends(struct rig *rig)
{
    if (rig->got_count == 1) {
        answer_last(rig);
    } else if (rig->got_count == 1001) {
        cr_assert_leq(rig->sends, 2, "%u system calls for 1,000 requests of one turn", rig->sends);
        for (unsigned i = 1000; i > 0; i--)
            answer(rig, i, i);
    }
}

static void flood(struct rig *rig, struct ask *ended)
{
    cr_assert(ended->err == 0 && ended->version == ended->number);
    if (ended->number == 0) {
        rig->sends = 0;
        for (unsigned i = 1; i <= 1000; i++)
            ask(rig, i);
    }
    if (rig->ended == 1001)
        rig_end(rig);
}

Test(peer, requests_of_one_turn_leave_together, .timeout = 20)
{
    struct rig *rig = rig_new(PROVES_ITSELF, count_sends, flood);
    ask(rig, 0);
    rig_run(rig, 1001);
    rig_free(rig);
}
