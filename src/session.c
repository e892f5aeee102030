#include "session.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

enum {
    DISCARD_MS = 1000,
    TURN_US = 1000, /* so long one connection may answer requests before others get their turn */
};

/* ---- replies ---- */

struct reply {
    struct conn_send send;
    struct session *session;
    struct blob *blob;
    uint64_t bytes;
    uint32_t count;
    struct iovec iov[]; /* the frame's head lies behind the last */
};

/* Nothing more can be said: the heap is out (better no answer than a wrong one), or the peer takes nothing. The session ends on its next
 * turn, not under the feet of who is replying. */
static void break_off(struct session *session)
{
    session->broken = true;
    session_kick(session);
}

/* A peer that is gone may be seen by this alone, while nothing is read from it. */
static void reply_sent(struct conn_send *send, int err)
{
    struct reply *reply = CONTAINER_OF(send, struct reply, send);
    struct session *session = reply->session;
    if (reply->blob)
        store_unref(session->server->store, reply->blob);
    atomic_fetch_sub_explicit(&session->server->reply_bytes, reply->bytes, memory_order_relaxed);
    free(reply);
    if (err == 0)
        session_kick(session);
    else if (session->state != SESSION_DISCARD)
        break_off(session);
}

/* Takes the blob's reference, also when it fails. */
static void send_frame(struct session *session, const struct frame *frame, struct span meta, struct span body, struct blob *blob,
                       uint64_t offset)
{
    struct store *store = session->server->store;
    unsigned vectors = blob && frame->body_len > 0 ? blob_iov(blob, offset, frame->body_len, NULL, 0) : 0;
    size_t head = FRAME_PREFIX_BYTES + meta.len + body.len;
    struct reply *reply = session->closed || session->broken ? NULL : malloc(sizeof *reply + (1 + vectors) * sizeof(struct iovec) + head);
    if (!reply) {
        if (blob)
            store_unref(store, blob);
        break_off(session);
        return;
    }
    uint8_t *bytes = (uint8_t *)&reply->iov[1 + vectors];
    frame_encode(bytes, frame);
    bytes_copy(bytes + FRAME_PREFIX_BYTES, meta.at, meta.len);
    bytes_copy(bytes + FRAME_PREFIX_BYTES + meta.len, body.at, body.len);
    reply->iov[0] = (struct iovec){bytes, head};
    if (vectors > 0)
        blob_iov(blob, offset, frame->body_len, &reply->iov[1], vectors);
    reply->session = session;
    reply->blob = blob;
    reply->bytes = head + (vectors > 0 ? frame->body_len : 0);
    reply->count = 1 + vectors;
    reply->send = (struct conn_send){.iov = reply->iov, .iov_count = reply->count};
    if (frame->code >= CODE_BAD_REQUEST)
        figure_add(&session->here->figures.refused, 1);
    if (frame->code == CODE_BUSY)
        figure_add(&session->here->figures.busy, 1);
    if (frame->code == CODE_DENIED)
        figure_add(&session->here->figures.denied, 1);
    atomic_fetch_add_explicit(&session->server->reply_bytes, reply->bytes, memory_order_relaxed);
    conn_send(session->conn, &reply->send, reply_sent);
}

void session_reply_raw(struct session *session, uint8_t op, uint64_t id, enum code code, struct span meta, struct span body)
{
    struct frame frame = {.op = op, .code = (uint8_t)code, .id = id, .meta_len = (uint32_t)meta.len, .body_len = body.len};
    send_frame(session, &frame, meta, body, NULL, 0);
}

static bool pack(struct session *session, const struct schema *schema, const void *msg, struct span *meta)
{
    struct buffer *out = &session->here->out;
    out->len = 0;
    out->failed = false;
    if (msg && msg_encode(schema, msg, out) != 0) {
        break_off(session);
        return false;
    }
    *meta = span_of(out->at, out->len);
    return true;
}

void session_reply(struct session *session, uint8_t op, uint64_t id, enum code code, const struct schema *schema, const void *msg)
{
    struct span meta;
    if (!session->closed && pack(session, schema, msg, &meta))
        session_reply_raw(session, op, id, code, meta, span_of(NULL, 0));
}

void session_reply_value(struct session *session, uint8_t op, uint64_t id, const struct schema *schema, const void *msg, struct blob *blob,
                         uint64_t offset, uint64_t length)
{
    struct span meta;
    if (session->closed || !pack(session, schema, msg, &meta)) {
        if (blob)
            store_unref(session->server->store, blob);
        return;
    }
    struct frame frame = {.op = op, .code = CODE_OK, .id = id, .meta_len = (uint32_t)meta.len, .body_len = length};
    send_frame(session, &frame, meta, span_of(NULL, 0), blob, offset);
}

void session_fail(struct session *session, uint8_t op, uint64_t id, enum code code, const char *message)
{
    struct msg_failure_reply failure = {.has = 1u << F_FAIL_MESSAGE, .message = span_text(message)};
    session_reply(session, op, id, code, &msg_failure, &failure);
}

void session_busy(struct session *session, uint8_t op, uint64_t id, uint64_t bytes)
{
    struct msg_failure_reply failure = {
        .has = 1u << F_FAIL_MESSAGE | 1u << F_FAIL_RETRY,
        .message = span_text("no room now"),
        .retry_after_ms = store_retry_after_ms(session->server->store, bytes),
    };
    session_reply(session, op, id, CODE_BUSY, &msg_failure, &failure);
}

void session_break(struct session *session, uint8_t op, uint64_t id, enum code code, const char *message)
{
    struct server_figures *figures = &session->here->figures;
    figure_add(code == CODE_DENIED ? &figures->cut_strangers : &figures->bad_frames, 1);
    session_fail(session, op, id, code, message);
    if (session->closed)
        return;
    conn_shutdown(session->conn);
    session->state = SESSION_DISCARD;
    session->discard_until_ms = loop_now_ms(session->here->loop) + DISCARD_MS;
}

/* ---- requests ---- */

static void request_timed_out(struct timer *timer)
{
    struct request *request = CONTAINER_OF(timer, struct request, timer);
    struct session *session = request->session;
    if (!request_answer(request))
        return;
    session_fail(session, request->op, request->id, CODE_TIMEOUT, "the request's timeout_ms has passed");
    if (request->abandon && request->abandon(request))
        request_free(request);
}

struct request *request_new(struct session *session, size_t size, const struct frame *frame, uint64_t timeout_ms, bool has_timeout)
{
    struct request *request = calloc(1, size);
    if (!request)
        return NULL;
    request->op = frame->op;
    request->id = frame->id;
    request->session = session;
    request->server = session->server;
    request->here = session->here;
    list_push_back(&session->requests, &request->link);
    session->request_count++;
    session->here->request_count++;
    timer_init(&request->timer, session->here->loop, request_timed_out);
    if (has_timeout && timeout_ms > 0)
        timer_start(&request->timer, timeout_ms);
    return request;
}

void request_barrier(struct request *request, enum barrier barrier)
{
    struct session *session = request->session;
    if (!session || request->barrier == barrier)
        return;
    session->barriers -= request->barrier == BARRIER_ALL;
    session->put_barriers -= request->barrier == BARRIER_PUT;
    session->barriers += barrier == BARRIER_ALL;
    session->put_barriers += barrier == BARRIER_PUT;
    request->barrier = barrier;
    session_kick(session);
}

bool request_keys(struct request *request, const struct spans *keys)
{
    uint64_t bytes = (uint64_t)keys->count * REMEMBERED_KEY_BYTES;
    for (uint32_t i = 0; i < keys->count; i++)
        bytes += keys->at[i].len;
    if (!server_take_request_bytes(request->server, bytes))
        return false;
    request->taken = bytes;
    request->keys = keys->count;
    request->session->request_keys += keys->count;
    return true;
}

void request_resumes(struct request *request, void (*resume)(struct request *request))
{
    request->resume = resume;
    request->session->resumable++;
}

void request_free(struct request *request)
{
    struct session *session = request->session;
    struct server_loop *here = request->here;
    timer_stop(&request->timer);
    if (session) {
        request_barrier(request, BARRIER_NONE);
        session->resumable -= request->resume != NULL;
        list_remove(&request->link);
        session->request_count--;
        session->request_keys -= request->keys;
        session_kick(session);
    }
    server_give_request_bytes(here->server, request->taken);
    free(request);
    here->request_count--;
    server_check_end(here);
}

bool request_answer(struct request *request)
{
    if (request->answered || !request->session)
        return false;
    request->answered = true;
    return true;
}

/* ---- frames in ---- */

bool session_is_stranger(const struct session *session)
{
    return session->grant.rights == 0 && session->neighbour.connection == 0;
}

bool session_clogged(const struct session *session)
{
    uint64_t unsent = conn_unsent_bytes(session->conn);
    const struct server *server = session->server;
    return unsent > (session_is_stranger(session) ? STRANGER_OUT_BYTES : OUT_LIMIT_BYTES) ||
           (unsent > 0 && atomic_load_explicit(&server->reply_bytes, memory_order_relaxed) > server_reply_limit(server));
}

static bool must_wait(const struct session *session)
{
    if (session->tired || session->barriers > 0 || session_clogged(session))
        return true;
    if (session->request_count >= REQUESTS_PER_CONN || session->request_keys >= KEYS_PER_CONN)
        return true;
    return session->put_barriers > 0 && session->frame.op != OP_PUT;
}

/* It may answer requests for TURN_US from now on, or for what is left of it. */
static void turn_begin(struct session *session)
{
    uint64_t now_us = loop_now_us(session->here->loop);
    session->tired = false;
    if (now_us >= session->turn_until_us)
        session->turn_until_us = now_us + TURN_US;
}

/* A request has been answered or begun. */
static void turn_check(struct session *session)
{
    if (session->tired || loop_now_us(session->here->loop) < session->turn_until_us)
        return;
    session->tired = true;
    session_kick(session);
}

static void heard(struct session *session, uint64_t now)
{
    session->heard_ms = now;
    session->received_bytes = conn_received_bytes(session->conn);
}

/* False: the heap is out. Where it is the server's memory for requests, the meta is refused. Small ones, of which each connection has one
 * at most, as it has a stash, are not counted. */
static bool meta_begin(struct session *session)
{
    uint32_t bytes = session->frame.meta_len;
    uint32_t counted = bytes > SCRATCH_BYTES ? bytes : 0;
    if (counted > 0 && !server_take_request_bytes(session->server, counted)) {
        session->meta_refused = true;
        return true;
    }
    session->meta_taken = counted;
    session->meta = malloc(bytes + 1);
    return session->meta != NULL;
}

static void meta_end(struct session *session)
{
    server_give_request_bytes(session->server, session->meta_taken);
    session->meta_taken = 0;
    session->meta_refused = false;
    free(session->meta);
    session->meta = NULL;
}

/* The frame is through. */
static void next_frame(struct session *session)
{
    heard(session, loop_now_ms(session->here->loop));
    meta_end(session);
    session->have = 0;
    session->state = SESSION_PREFIX;
}

static void cut_token_gone(struct session *session)
{
    figure_add(&session->here->figures.cut_token_gone, 1);
    session_log_cut(session, "token_gone");
    session_close(session);
}

/* Only PUT and PING have a body. Sets the state that the body needs. */
static void dispatch(struct session *session, struct span meta)
{
    struct frame *frame = &session->frame;
    struct server_loop *here = session->here;
    session->body_left = frame->body_len;
    session->state = SESSION_SKIP;
    figure_add(&here->figures.requests, 1);
    figure_add(&here->figures.ops[frame->op], 1);
    if (!grant_stands(&session->grant, &session->server->access))
        cut_token_gone(session);
    else if (frame->body_len > SKIP_LIMIT_BYTES)
        session_break(session, frame->op, frame->id, CODE_TOO_LARGE, "the body is longer than can be skipped");
    else if (!handle_allowed(session, frame))
        return;
    else if (frame->code != 0)
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST, "code is not 0");
    else if (here->state == SERVER_DRAINING)
        session_fail(session, frame->op, frame->id, CODE_CLOSING, "kvd is closing");
    else if (session->meta_refused)
        session_busy(session, frame->op, frame->id, 0);
    else if (frame->op == OP_PUT)
        put_open(session, frame, meta);
    else if (frame->body_len > 0 && frame->op != OP_PING && op_name(frame->op))
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST, "this op has no body");
    else if (frame->op == OP_PING && frame->body_len > PING_BODY_BYTES)
        session_fail(session, frame->op, frame->id, CODE_TOO_LARGE, "a ping's body is at most 64 KiB");
    else if (frame->op == OP_PING) {
        struct msg_plain ping;
        session->ping = malloc(frame->body_len + 1);
        if (!session->ping)
            session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        else if (handle_decode(session, frame, meta, &ping))
            session->state = SESSION_PING;
    } else {
        handle_request(session, frame, meta);
    }
}

/* Bodies without bytes end here too. */
static void body_check(struct session *session)
{
    if (session->closed || session->waiting || session->body_left > 0)
        return;
    if (session->state == SESSION_PING) {
        handle_ping(session, &session->frame, span_of(session->ping, session->frame.body_len));
    } else if (session->state == SESSION_SKIP) {
        struct request *request = session->after_skip;
        session->after_skip = NULL;
        if (request)
            put_skipped(session, request);
    } else {
        return;
    }
    free(session->ping);
    session->ping = NULL;
    if (session->state != SESSION_DISCARD && !session->closed)
        next_frame(session);
}

static void meta_done(struct session *session, struct span meta)
{
    dispatch(session, meta);
    if (session->closed || session->state == SESSION_DISCARD)
        return;
    meta_end(session);
    body_check(session);
    turn_check(session);
}

/* Nobody takes in much for who has not said who he is. */
static bool stranger_sends_much(const struct session *session)
{
    return session_is_stranger(session) && (session->frame.body_len > 0 || session->frame.meta_len > STRANGER_META_BYTES);
}

/* The prefix is there. */
static void prefix_done(struct session *session)
{
    session->have = 0;
    if (frame_decode(session->prefix, &session->frame) != 0)
        session_break(session, 0, 0, CODE_BAD_REQUEST, "not a frame: the prefix is broken");
    else if (stranger_sends_much(session))
        session_break(session, session->frame.op, session->frame.id, CODE_DENIED, "a body, or a long meta, before AUTH");
    else if (session->frame.meta_len > META_LIMIT_BYTES)
        session_break(session, session->frame.op, session->frame.id, CODE_TOO_LARGE, "meta_len is over the limit");
    else
        session->state = SESSION_META;
}

static size_t feed_prefix(struct session *session, const uint8_t *at, size_t len)
{
    size_t part = min_u64(len, FRAME_PREFIX_BYTES - session->have);
    bytes_copy(session->prefix + session->have, at, part);
    session->have += (uint32_t)part;
    if (session->have == FRAME_PREFIX_BYTES)
        prefix_done(session);
    return part;
}

/* A meta that lies whole in what came is used in place; otherwise it is gathered. */
static size_t feed_meta(struct session *session, const uint8_t *at, size_t len)
{
    uint32_t meta_len = session->frame.meta_len;
    bool in_place = session->have == 0 && len >= meta_len;
    if (in_place && !must_wait(session) && !put_must_wait(session, span_of(at, meta_len))) {
        meta_done(session, span_of(at, meta_len));
        return meta_len;
    }
    if (!session->meta && !session->meta_refused && !meta_begin(session)) {
        session_close(session);
        return len;
    }
    size_t part = min_u64(len, meta_len - session->have);
    if (session->meta)
        bytes_copy(session->meta + session->have, at, part);
    session->have += (uint32_t)part;
    if (session->have == meta_len)
        session->state = SESSION_READY;
    return part;
}

static size_t feed_body(struct session *session, const uint8_t *at, size_t len)
{
    size_t part = min_u64(len, session->body_left);
    if (session->state == SESSION_PING) {
        bytes_copy(session->ping + session->frame.body_len - session->body_left, at, part);
    } else if (session->state == SESSION_VALUE) {
        void *base;
        size_t room;
        if (!put_room(session, &base, &room))
            return 0;
        part = min_u64(part, room);
        bytes_copy(base, at, part);
        put_received(session, part);
        body_check(session);
        return part;
    }
    session->body_left -= part;
    body_check(session);
    return part;
}

/* Take what can be taken of `len` bytes; what is left has to wait. */
static size_t feed(struct session *session, const uint8_t *at, size_t len)
{
    size_t used = 0;
    while (!session->closed && !session->broken && !session->waiting) {
        if (session->state == SESSION_READY) {
            struct span meta = span_of(session->meta, session->meta ? session->frame.meta_len : 0);
            if (must_wait(session) || put_must_wait(session, meta))
                break;
            meta_done(session, meta);
            continue;
        }
        bool empty_meta = session->state == SESSION_META && session->frame.meta_len == 0;
        if (used == len && !empty_meta)
            break;
        if (session->state == SESSION_DISCARD)
            return len;
        if (session->state == SESSION_PREFIX)
            used += feed_prefix(session, at + used, len - used);
        else if (session->state == SESSION_META)
            used += feed_meta(session, at + used, len - used);
        else
            used += feed_body(session, at + used, len - used);
    }
    return used;
}

static void stash(struct session *session, const uint8_t *at, size_t len)
{
    CHECK(!session->stash);
    session->stash = malloc(len);
    if (!session->stash) {
        session_close(session);
        return;
    }
    bytes_copy(session->stash, at, len);
    session->stash_at = 0;
    session->stash_len = (uint32_t)len;
}

static void feed_stash(struct session *session)
{
    session->stash_at += (uint32_t)feed(session, session->stash + session->stash_at, session->stash_len - session->stash_at);
    if (session->stash_at < session->stash_len)
        return;
    free(session->stash);
    session->stash = NULL;
}

/* Those that stopped because the peer took no more. */
static void resume_requests(struct session *session)
{
    if (session->resumable == 0 || session_clogged(session))
        return;
    for (struct list *at = session->requests.next; at != &session->requests; at = at->next) {
        struct request *request = CONTAINER_OF(at, struct request, link);
        if (request->resume)
            request->resume(request);
    }
}

static void kicked(struct task *task)
{
    struct session *session = CONTAINER_OF(task, struct session, kick);
    if (session->closed)
        return;
    if (session->broken) {
        session_close(session);
        return;
    }
    turn_begin(session);
    resume_requests(session);
    body_check(session); /* a put that waited may be over */
    if (session->stash)
        feed_stash(session);
    else
        (void)feed(session, session->here->scratch, 0);
    if (session->closed)
        return;
    conn_resume(session->conn);
    if (session->ended || session->here->state == SERVER_DRAINING)
        session_close_if_idle(session);
}

void session_kick(struct session *session)
{
    if (!session->closed)
        task_post(&session->kick);
}

/* ---- conn ---- */

static void room(void *owner, void **base, size_t *len)
{
    struct session *session = owner;
    *len = 0;
    if (session->stash || session->waiting)
        return;
    *base = session->here->scratch;
    switch (session->state) {
    case SESSION_PREFIX:
    case SESSION_DISCARD:
        *len = SCRATCH_BYTES;
        break;
    case SESSION_META:
        if (session->meta) {
            *base = session->meta + session->have;
            *len = session->frame.meta_len - session->have;
        } else {
            *len = SCRATCH_BYTES;
        }
        break;
    case SESSION_READY:
        break;
    case SESSION_VALUE:
        if (!put_room(session, base, len))
            *len = 0;
        break;
    case SESSION_PING:
        *base = session->ping + session->frame.body_len - session->body_left;
        *len = session->body_left;
        break;
    case SESSION_SKIP:
        *len = min_u64(SCRATCH_BYTES, session->body_left);
        break;
    }
}

static void received(void *owner, size_t len)
{
    struct session *session = owner;
    uint8_t *scratch = session->here->scratch;
    if (!session->tired)
        turn_begin(session);
    if (session->state == SESSION_VALUE) {
        put_received(session, len);
        body_check(session);
    } else if (session->state == SESSION_PING || session->state == SESSION_SKIP) {
        session->body_left -= len;
        body_check(session);
    } else if (session->state == SESSION_META && session->meta) {
        session->have += (uint32_t)len;
        if (session->have == session->frame.meta_len)
            session->state = SESSION_READY;
        (void)feed(session, session->here->scratch, 0);
    } else if (session->state != SESSION_DISCARD) {
        size_t used = feed(session, scratch, len);
        if (used < len && !session->closed)
            stash(session, scratch + used, len - used);
    }
}

static void ended(void *owner, int err)
{
    struct session *session = owner;
    session->ended = true;
    if (err)
        session_close(session);
    else
        session_close_if_idle(session);
}

static const struct conn_events conn_events = {.room = room, .received = received, .ended = ended};

struct session *session_open(struct server_loop *here, struct conn *conn)
{
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    session->server = here->server;
    session->here = here;
    session->conn = conn;
    list_init(&session->requests);
    lease_owner_init(&session->leases);
    store_wait_init(&session->wait);
    task_init(&session->kick, here->loop, kicked);
    grant_init(&session->grant, &here->server->access);
    session->heard_ms = loop_now_ms(here->loop);
    session->progress_ms = session->heard_ms;
    session->since_ms = session->heard_ms;
    list_push_back(&here->sessions, &session->link);
    figure_add(&here->figures.connections, 1);
    figure_add(&here->figures.accepted, 1);
    return session;
}

void session_begin(struct session *session)
{
    session->since_ms = loop_now_ms(session->here->loop);
    conn_start(session->conn, &conn_events, session);
}

static void conn_closed(void *owner)
{
    struct session *session = owner;
    struct server_loop *here = session->here;
    CHECK(list_empty(&session->requests));
    list_remove(&session->link);
    figure_add(&here->figures.connections, UINT64_MAX); /* one less */
    meta_end(session);
    free(session->ping);
    free(session->stash);
    free(session);
    server_check_end(here);
}

void session_count_bytes(struct session *session)
{
    uint64_t received = conn_received_bytes(session->conn);
    uint64_t sent = conn_sent_bytes(session->conn);
    figure_add(&session->here->figures.received_bytes, received - session->told_received_bytes);
    figure_add(&session->here->figures.sent_bytes, sent - session->told_sent_bytes);
    session->told_received_bytes = received;
    session->told_sent_bytes = sent;
}

void session_log_cut(const struct session *session, const char *reason)
{
    char peer[CONN_PEER_BYTES];
    conn_peer_text(session->conn, peer);
    log_warn(session->server->log, "client_cut", "reason=%s peer=%s unsent_bytes=%llu", reason, peer,
             (unsigned long long)conn_unsent_bytes(session->conn));
}

void session_close(struct session *session)
{
    if (session->closed)
        return;
    session->closed = true;
    session_count_bytes(session);
    task_cancel(&session->kick);
    store_wait_stop(&session->wait);
    store_owner_end(session->server->store, &session->leases);
    for (struct list *at; (at = list_pop_front(&session->requests)) != NULL;) {
        struct request *request = CONTAINER_OF(at, struct request, link);
        timer_stop(&request->timer);
        request->session = NULL;
        if (request->abandon && request->abandon(request))
            request_free(request);
    }
    session->request_count = 0;
    session->put = NULL;
    session->after_skip = NULL;
    conn_close(session->conn, conn_closed, session);
}

/* A frame of which something has come counts as under way only once its meta was taken, and only while the peer still sends. */
void session_close_if_idle(struct session *session)
{
    if (session->closed || session->state == SESSION_DISCARD)
        return;
    bool taking = session->state == SESSION_VALUE || session->state == SESSION_SKIP || session->stash || session->state == SESSION_READY;
    if (session->ended && session->state != SESSION_READY && !session->stash)
        taking = false;
    bool hopeless = session->ended && !taking && (session->put || session->after_skip); /* its body will never be whole */
    if (taking || session->request_count > hopeless || conn_unsent_bytes(session->conn) > 0)
        return;
    session_close(session);
}

void session_tick(struct session *session, uint64_t now)
{
    struct server *server = session->server;
    struct server_figures *figures = &session->here->figures;
    if (session->closed)
        return;
    session_count_bytes(session);
    uint64_t sent = conn_sent_bytes(session->conn);
    if (sent - session->sent_bytes >= PACE_BYTES || sent >= session->owed_bytes) {
        session->sent_bytes = sent;
        session->owed_bytes = sent + conn_unsent_bytes(session->conn); /* some of it may have been queued in this very turn */
        session->progress_ms = now;
    }
    bool stranger = session_is_stranger(session) && session->here->state != SERVER_STARTING;
    bool half_way = session->state != SESSION_PREFIX || session->have > 0;
    bool ours = session->waiting || session->stash || session->state == SESSION_READY || session_clogged(session);
    if (ours || !half_way || conn_received_bytes(session->conn) - session->received_bytes >= PACE_BYTES)
        heard(session, now);
    put_tick(session);
    if (session->state == SESSION_DISCARD) {
        if ((session->ended && conn_unsent_bytes(session->conn) == 0) || now >= session->discard_until_ms)
            session_close(session);
    } else if (now - session->progress_ms >= figure(&server->send_timeout_ms)) {
        figure_add(&figures->cut_slow_readers, 1);
        session_log_cut(session, "send_timeout");
        session_close(session);
    } else if (!grant_stands(&session->grant, &server->access)) {
        cut_token_gone(session);
    } else if (stranger && now - session->since_ms >= min_u64(figure(&server->frame_timeout_ms), STRANGER_MS)) {
        figure_add(&figures->cut_strangers, 1);
        session_log_cut(session, "no_token");
        session_close(session);
    } else if (half_way && now - session->heard_ms >= figure(&server->frame_timeout_ms)) {
        figure_add(&figures->cut_slow_senders, 1);
        session_log_cut(session, "frame_timeout");
        session_close(session);
    }
}
