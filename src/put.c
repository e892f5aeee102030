/* PUT: the one op whose body matters, and so the one that is begun, fed and ended in pieces. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "session.h"

struct put_request {
    struct request request;
    struct store_put put;
    uint8_t key[];
};

static struct put_request *of(struct request *request)
{
    return CONTAINER_OF(request, struct put_request, request);
}

/* What remains of the body is not wanted. */
static void skip_rest(struct session *session)
{
    session->put = NULL;
    session->state = SESSION_SKIP;
}

static void reply_version(struct request *request, int outcome)
{
    struct msg_put_reply reply = {.has = 1u << F_PUTR_VERSION, .version = of(request)->put.version};
    session_reply(request->session, request->op, request->id, outcome == STORE_PRESENT ? CODE_PRESENT : CODE_OK, msg_reply(OP_PUT), &reply);
}

static void finish(struct request *request, int outcome)
{
    if (request_answer(request)) {
        if (outcome >= 0)
            reply_version(request, outcome);
        else if (outcome == KVD_EBUSY)
            session_busy(request->session, request->op, request->id, of(request)->put.size);
        else
            session_fail(request->session, request->op, request->id, code_of(outcome), error_text(outcome));
    }
    request_free(request);
}

static void stored(struct store_put *put, int outcome)
{
    finish(&CONTAINER_OF(put, struct put_request, put)->request, outcome);
}

/* The client gave up, or its time is over. A body under way is dropped; what was committed goes on. */
static bool abandon(struct request *request)
{
    struct put_request *mine = of(request);
    struct session *session = request->session;
    if (session && session->put == request) {
        store_wait_stop(&session->wait);
        session->waiting = false;
        skip_rest(session);
        session_kick(session);
    } else if (session && session->after_skip == request) {
        session->after_skip = NULL;
    } else if (session || !mine->put.store || mine->put.fn) {
        return false;
    }
    store_put_abort(&mine->put);
    return true;
}

static void commit(struct session *session)
{
    struct request *request = session->put;
    session->put = NULL;
    session->state = SESSION_SKIP; /* of nothing: the frame is through */
    int outcome = store_put_commit(&of(request)->put, stored);
    if (outcome != STORE_PENDING)
        finish(request, outcome);
    else if (of(request)->put.unseen)
        request_barrier(request, BARRIER_PUT);
}

static void refuse_busy(struct session *session)
{
    struct request *request = session->put;
    skip_rest(session);
    store_put_abort(&of(request)->put);
    finish(request, KVD_EBUSY);
}

static void begin(struct session *session);

static void waited(struct store_wait *wait, int err)
{
    struct session *session = CONTAINER_OF(wait, struct session, wait);
    session->waiting = false;
    if (err)
        refuse_busy(session);
    else if (!of(session->put)->put.blob)
        begin(session);
    session_kick(session);
}

static void wait_for_room(struct session *session)
{
    uint64_t now = loop_now_ms(session->here->loop);
    if (session->wait_until_ms == 0)
        session->wait_until_ms = now + ROOM_WAIT_MS;
    session->waiting = true;
    session->wait.bytes = of(session->put)->put.size;
    session->wait.put = session->state == SESSION_VALUE ? &of(session->put)->put : NULL;
    store_wait_start(&session->here->desk, &session->wait, session->wait_until_ms > now ? session->wait_until_ms - now : 0, waited);
}

static void begin(struct session *session)
{
    struct request *request = session->put;
    int outcome = store_put_begin(&session->here->desk, &of(request)->put);
    if (outcome == STORE_OK) {
        session->state = SESSION_VALUE;
        session->wait_until_ms = 0;
        if (session->body_left == 0)
            commit(session);
    } else if (outcome == KVD_EBUSY) {
        wait_for_room(session);
    } else if (outcome == STORE_PRESENT) {
        skip_rest(session);
        session->after_skip = request;
    } else {
        skip_rest(session);
        finish(request, outcome);
    }
}

bool put_room(struct session *session, void **base, size_t *len)
{
    int err = store_put_room(&of(session->put)->put, base, len);
    if (err == 0) {
        session->wait_until_ms = 0;
        return true;
    }
    if (err == KVD_EBUSY)
        wait_for_room(session);
    else
        refuse_busy(session);
    return false;
}

void put_received(struct session *session, size_t len)
{
    store_put_received(&of(session->put)->put, len);
    session->body_left -= len;
    if (session->body_left == 0)
        commit(session);
}

void put_tick(struct session *session)
{
    if (session->state == SESSION_VALUE && !session->waiting && store_put_given_up(&of(session->put)->put))
        refuse_busy(session);
}

void put_skipped(struct session *session, struct request *request)
{
    (void)session;
    int outcome = store_put_present(&of(request)->put, stored);
    if (outcome != STORE_PENDING)
        finish(request, outcome);
}

/* Says what is wrong with it, or returns true. */
static bool acceptable(struct session *session, const struct frame *frame, const struct msg_put *msg)
{
    const char *wrong = NULL;
    enum code code = CODE_BAD_REQUEST;
    if (session->server->no_puts) {
        code = CODE_CLOSING;
        wrong = "this server is being drained: it takes no more puts";
    } else if (msg->key.len < 1 || msg->key.len > KEY_MAX_BYTES) {
        wrong = "a key has 1 to 1,024 bytes";
    } else if (MSG_HAS(msg, F_PUT_ACK) && !span_equal(msg->ack, span_text("memory")) && !span_equal(msg->ack, span_text("disk"))) {
        wrong = "ack is \"memory\" or \"disk\"";
    } else if (frame->body_len > session->server->value_limit) {
        code = CODE_TOO_LARGE;
        wrong = "the value is larger than value_bytes";
    }
    if (wrong)
        session_fail(session, frame->op, frame->id, code, wrong);
    return !wrong;
}

bool put_must_wait(struct session *session, struct span meta)
{
    struct msg_put msg;
    const char *why;
    if (session->put_barriers == 0 || session->frame.op != OP_PUT)
        return false;
    if (msg_decode(msg_request(OP_PUT), meta, BATCH_KEYS, &session->here->arena, &msg, &why) != 0)
        return false; /* it will be answered for what it is */
    for (struct list *at = session->requests.next; at != &session->requests; at = at->next) {
        struct request *request = CONTAINER_OF(at, struct request, link);
        if (request->barrier == BARRIER_PUT && span_equal(of(request)->put.key, msg.key))
            return true;
    }
    return false;
}

void put_open(struct session *session, const struct frame *frame, struct span meta)
{
    struct msg_put msg;
    session->state = SESSION_SKIP;
    if (!handle_decode(session, frame, meta, &msg) || !acceptable(session, frame, &msg))
        return;
    struct request *request =
        request_new(session, sizeof(struct put_request) + msg.key.len, frame, msg.timeout_ms, MSG_HAS(&msg, F_TIMEOUT));
    if (!request) {
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        return;
    }
    struct put_request *mine = of(request);
    memcpy(mine->key, msg.key.at, msg.key.len);
    mine->put = (struct store_put){
        .key = span_of(mine->key, msg.key.len),
        .size = frame->body_len,
        .replace = msg.replace,
        .ack_disk = span_equal(msg.ack, span_text("disk")),
        .pin = msg.pin,
        .ttl_ms = msg.ttl_ms,
        .has_checksum = MSG_HAS(&msg, F_PUT_CHECKSUM),
        .checksum = msg.checksum,
    };
    request->abandon = abandon;
    session->put = request;
    session->wait_until_ms = 0;
    begin(session);
}
