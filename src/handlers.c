/* One function an op: wire struct in, store call, wire struct out. Nobody else holds both. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "neighbours.h"
#include "session.h"

enum { LEASE_DEFAULT_MS = 10000, LEASE_MOST_MS = 60000, SCAN_MOST = 1000 };

enum code code_of(int err)
{
    switch (err) {
    case STORE_OK:
        return CODE_OK;
    case STORE_PRESENT:
        return CODE_PRESENT;
    case STORE_MISS:
        return CODE_NOT_FOUND;
    case KVD_EBUSY:
        return CODE_BUSY;
    case KVD_ECORRUPT:
        return CODE_CORRUPT;
    case KVD_ETOOLARGE: /* it can never fit the pool, or the disk that was asked for */
        return CODE_NO_SPACE;
    case KVD_ECLOSING:
        return CODE_CLOSING;
    case -ENOMEM:
        return CODE_INTERNAL;
    default:
        return CODE_IO_ERROR;
    }
}

bool handle_decode(struct session *session, const struct frame *frame, struct span meta, void *msg)
{
    const char *why = "bad meta";
    int err = msg_decode(msg_request(frame->op), meta, BATCH_KEYS, &session->here->arena, msg, &why);
    if (err == 0)
        return true;
    enum code code = err == KVD_EUNSUPPORTED ? CODE_UNSUPPORTED
                     : err == KVD_ETOOLARGE  ? CODE_TOO_LARGE
                     : err == -ENOMEM        ? CODE_INTERNAL
                                             : CODE_BAD_REQUEST;
    session_fail(session, frame->op, frame->id, code, why);
    return false;
}

static const char *why_denied(unsigned rights_shown, unsigned rights)
{
    if (rights_shown == 0)
        return "authenticate first";
    switch (rights) {
    case RIGHT_READ:
        return "not allowed: this takes the right read";
    case RIGHT_WRITE:
        return "not allowed: this takes the right write";
    case RIGHT_ADMIN:
        return "not allowed: this takes the right admin";
    default:
        return "not allowed: this takes the right read or admin";
    }
}

/* Has this connection one of these? False: answered. */
static bool has_right(struct session *session, const struct frame *frame, unsigned rights)
{
    if (rights == 0 || (session->grant.rights & rights) != 0)
        return true;
    session_fail(session, frame->op, frame->id, CODE_DENIED, why_denied(session->grant.rights, rights));
    return false;
}

/* ---- a request that is being answered at once ---- */

struct call {
    struct session *session;
    struct server *server;
    struct store *store;
    struct store_desk *desk;
    const struct frame *frame;
};

static void reply(const struct call *call, const void *msg)
{
    session_reply(call->session, call->frame->op, call->frame->id, CODE_OK, msg_reply(call->frame->op), msg);
}

static void fail(const struct call *call, enum code code, const char *message)
{
    session_fail(call->session, call->frame->op, call->frame->id, code, message);
}

static void fail_memory(const struct call *call)
{
    fail(call, CODE_INTERNAL, "out of memory");
}

static struct request *later(const struct call *call, size_t size, uint64_t timeout_ms, bool has_timeout)
{
    struct request *request = request_new(call->session, size, call->frame, timeout_ms, has_timeout);
    if (!request)
        fail_memory(call);
    return request;
}

/* The server's memory for requests is taken. */
static void busy_memory(const struct call *call, struct request *request)
{
    session_busy(call->session, call->frame->op, call->frame->id, 0);
    request_free(request);
}

static bool key_is_well_formed(struct span key)
{
    return key.len >= 1 && key.len <= KEY_MAX_BYTES;
}

/* ---- HELLO, AUTH, PING ---- */

static void pack_limits(const struct server *server, struct buffer *limits)
{
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"key_bytes", KEY_MAX_BYTES},
        {"value_bytes", server->value_limit},
        {"batch_keys", BATCH_KEYS},
        {"meta_bytes", META_LIMIT_BYTES},
        {"inflight_bytes", min_u64(server->config->inflight, server->config->memory / 2)},
    };
    pack_map(limits, sizeof rows / sizeof rows[0]);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pack_text(limits, rows[i].name);
        pack_u64(limits, rows[i].value);
    }
}

static void do_hello(const struct call *call, const void *arg)
{
    const struct msg_hello *msg = arg;
    bool known = false;
    for (uint32_t i = 0; i < msg->versions.count; i++)
        known |= msg->versions.at[i] == 1;
    if (!known) {
        fail(call, CODE_UNSUPPORTED, "this server speaks version 1");
        return;
    }
    uint8_t nonce[NONCE_BYTES];
    if (loop_random(call->session->here->loop, nonce, sizeof nonce) != 0) {
        fail(call, CODE_INTERNAL, "no random bytes");
        return;
    }
    struct buffer limits;
    buffer_init(&limits);
    pack_limits(call->server, &limits);
    struct span features[] = {span_text("lease"), span_text("pin"), span_text("ttl")};
    struct msg_hello_reply hello = {
        .has = (1u << (F_HELLOR_AUTHENTICATED + 1)) - 1,
        .version = 1,
        .server = span_text("kvd " KVD_VERSION),
        .node = span_text(call->server->config->node),
        .features = {.at = features, .count = sizeof features / sizeof features[0]},
        .limits = span_of(limits.at, limits.len),
        .nonce = span_of(nonce, sizeof nonce),
        .authenticated = call->session->grant.rights != 0,
    };
    grant_challenge(&call->session->grant, nonce);
    if (limits.failed)
        fail_memory(call);
    else
        reply(call, &hello);
    buffer_fini(&limits);
}

static void reply_rights(const struct call *call)
{
    struct span rights[RIGHT_COUNT];
    struct msg_auth_reply auth = {.has = 1u << F_AUTHR_RIGHTS, .rights = {.at = rights}};
    auth.rights.count = rights_texts(call->session->grant.rights, rights);
    reply(call, &auth);
}

/* Nothing tells what was wrong. */
static void refuse_auth(const struct call *call)
{
    static const char message[] = "authentication failed";
    struct session *session = call->session;
    figure_add(&session->here->figures.failed_auths, 1);
    if (session->grant.failures < AUTH_FAILURES_MOST) {
        fail(call, CODE_DENIED, message);
        return;
    }
    session_log_cut(session, "failed_auths");
    session_break(session, call->frame->op, call->frame->id, CODE_DENIED, message);
}

static void do_auth(const struct call *call, const void *arg)
{
    const struct msg_auth *msg = arg;
    struct access *access = &call->server->access;
    char name[TOKEN_NAME_BYTES + 1], peer[CONN_PEER_BYTES];
    if (!access->needs_token) {
        fail(call, CODE_UNSUPPORTED, "this server has no tokens");
        return;
    }
    int err = grant_authenticate(&call->session->grant, access, MSG_HAS(msg, F_AUTH_NAME) ? &msg->name : NULL, msg->mac, name);
    if (err == -ENOMEM) {
        fail_memory(call);
    } else if (err) {
        refuse_auth(call);
    } else {
        figure_add(&call->session->here->figures.auths, 1);
        conn_peer_text(call->session->conn, peer);
        log_debug(call->server->log, "authenticated", "token=%s peer=%s", name, peer);
        reply_rights(call);
    }
}

void handle_ping(struct session *session, const struct frame *frame, struct span body)
{
    session_reply_raw(session, frame->op, frame->id, CODE_OK, span_of(NULL, 0), body);
}

/* ---- GET ---- */

struct get_request {
    struct request request;
    struct store_get get;
    bool body_checksum;
};

/* Of GET, and of one key of MGET (`index` is not NULL). Takes the get's blob. */
static void reply_get(struct session *session, uint8_t op, uint64_t id, struct store_get *get, int outcome, bool body_checksum,
                      const uint64_t *index)
{
    struct msg_get_reply msg = {0};
    if (index) {
        msg.has |= 1u << F_GETR_INDEX;
        msg.index = *index;
    }
    if (outcome == STORE_OK) {
        msg.has |= 1u << F_GETR_SIZE | 1u << F_GETR_VERSION | 1u << F_GETR_TIER | 1u << F_GETR_CHECKSUM;
        msg.size = get->size;
        msg.version = get->version;
        msg.tier = span_text(get->from_disk ? "disk" : "memory");
        msg.checksum = get->checksum;
        if (body_checksum) {
            msg.has |= 1u << F_GETR_BODY_CHECKSUM;
            msg.body_checksum =
                get->blob_length == get->size ? get->checksum : blob_range_sum(get->blob, get->blob_offset, get->blob_length);
        }
        session_reply_value(session, op, id, msg_reply(op), &msg, get->blob, get->blob_offset, get->blob_length);
        get->blob = NULL;
        return;
    }
    if (outcome == STORE_MISS && get->reason) {
        msg.has |= 1u << F_GETR_REASON;
        msg.reason = span_text(get->reason);
    } else if (outcome != STORE_MISS) {
        msg.has |= 1u << F_GETR_MESSAGE;
        msg.message = span_text(error_text(outcome));
    }
    if (outcome == KVD_EBUSY) {
        msg.has |= 1u << F_GETR_RETRY;
        msg.retry_after_ms = store_retry_after_ms(session->server->store, 0);
    }
    session_reply(session, op, id, code_of(outcome), msg_reply(op), &msg);
}

static bool get_abandon(struct request *request)
{
    store_get_cancel(&CONTAINER_OF(request, struct get_request, request)->get);
    return true;
}

static void got(struct store_get *get, int outcome)
{
    struct get_request *mine = CONTAINER_OF(get, struct get_request, get);
    struct request *request = &mine->request;
    if (request_answer(request))
        reply_get(request->session, request->op, request->id, get, outcome, mine->body_checksum, NULL);
    request_free(request);
}

static void do_get(const struct call *call, const void *arg)
{
    const struct msg_get *msg = arg;
    if (!key_is_well_formed(msg->key)) {
        fail(call, CODE_BAD_REQUEST, "a key has 1 to 1,024 bytes");
        return;
    }
    struct get_request *mine = (struct get_request *)later(call, sizeof *mine, msg->timeout_ms, MSG_HAS(msg, F_TIMEOUT));
    if (!mine)
        return;
    mine->request.abandon = get_abandon;
    mine->body_checksum = msg->body_checksum;
    mine->get.key = msg->key;
    mine->get.offset = msg->offset;
    mine->get.length = MSG_HAS(msg, F_GET_LENGTH) ? msg->length : UINT64_MAX;
    int outcome = store_get_start(call->desk, &mine->get, got);
    if (outcome != STORE_PENDING)
        got(&mine->get, outcome);
}

/* ---- MGET: many gets, each answered as it is ready; no more under way than the connection takes. What comes behind it waits until all
 * are begun, or a remove could overtake the get of its key. ---- */

struct mget_item {
    struct store_get get;
    struct mget_request *mget;
    uint64_t index;
    bool pending;
    uint64_t reading_bytes; /* while it is */
};

struct mget_request {
    struct request request;
    struct task step;
    uint64_t offset, length;
    uint32_t count, next, answered, hits;
    uint64_t reading_bytes;
    struct mget_item *items;
    struct span *keys;
    uint8_t *key_bytes;
};

_Static_assert(sizeof(struct mget_item) + sizeof(struct span) <= REMEMBERED_KEY_BYTES, "what a key of an MGET takes is counted");

static struct mget_request *mget_of(struct request *request)
{
    return CONTAINER_OF(request, struct mget_request, request);
}

static bool mget_abandon(struct request *request)
{
    struct mget_request *mget = mget_of(request);
    for (uint32_t i = 0; i < mget->next; i++)
        if (mget->items[i].pending)
            store_get_cancel(&mget->items[i].get);
    task_cancel(&mget->step);
    free(mget->items);
    free(mget->keys);
    free(mget->key_bytes);
    return true;
}

static void mget_resume(struct request *request)
{
    task_post(&mget_of(request)->step);
}

static void mget_answer(struct mget_item *item, int outcome)
{
    struct request *request = &item->mget->request;
    item->mget->hits += outcome == STORE_OK;
    item->mget->answered++;
    reply_get(request->session, request->op, request->id, &item->get, outcome, false, &item->index);
}

static void mget_got(struct store_get *get, int outcome)
{
    struct mget_item *item = CONTAINER_OF(get, struct mget_item, get);
    item->pending = false;
    item->mget->reading_bytes -= item->reading_bytes;
    mget_answer(item, outcome);
    task_post(&item->mget->step);
}

static void mget_bad_key(struct mget_item *item)
{
    struct request *request = &item->mget->request;
    struct msg_get_reply bad = {
        .has = 1u << F_GETR_INDEX | 1u << F_GETR_MESSAGE,
        .index = item->index,
        .message = span_text("a key has 1 to 1,024 bytes"),
    };
    item->mget->answered++;
    session_reply(request->session, request->op, request->id, CODE_BAD_REQUEST, msg_reply(OP_MGET), &bad);
}

static void mget_next(struct mget_request *mget)
{
    struct mget_item *item = &mget->items[mget->next];
    struct span key = mget->keys[mget->next];
    item->mget = mget;
    item->index = mget->next++;
    if (!key_is_well_formed(key)) {
        mget_bad_key(item);
        return;
    }
    item->get = (struct store_get){.key = key, .offset = mget->offset, .length = mget->length, .quiet = true};
    int outcome = store_get_start(&mget->request.here->desk, &item->get, mget_got);
    item->pending = outcome == STORE_PENDING;
    item->reading_bytes = item->get.pending_bytes;
    if (item->pending)
        mget->reading_bytes += item->reading_bytes;
    else
        mget_answer(item, outcome);
}

static void mget_step(struct task *task)
{
    struct mget_request *mget = CONTAINER_OF(task, struct mget_request, step);
    struct request *request = &mget->request;
    while (mget->next < mget->count && !session_clogged(request->session) && mget->reading_bytes < OUT_LIMIT_BYTES)
        mget_next(mget);
    request_barrier(request, mget->next < mget->count ? BARRIER_ALL : BARRIER_NONE);
    if (mget->answered < mget->count)
        return;
    struct msg_get_reply last = {.has = 1u << F_GETR_HITS, .hits = mget->hits};
    store_touch(request->server->store, mget->keys, mget->count);
    if (request_answer(request))
        session_reply(request->session, request->op, request->id, CODE_OK, msg_reply(OP_MGET), &last);
    mget_abandon(request);
    request_free(request);
}

/* The keys outlive the meta they came in. */
static bool copy_keys(struct mget_request *mget, const struct spans *keys)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < keys->count; i++)
        bytes += keys->at[i].len;
    mget->key_bytes = malloc(bytes + 1);
    mget->keys = calloc(keys->count + 1, sizeof *mget->keys);
    mget->items = calloc(keys->count + 1, sizeof *mget->items);
    if (!mget->key_bytes || !mget->keys || !mget->items)
        return false;
    uint8_t *at = mget->key_bytes;
    for (uint32_t i = 0; i < keys->count; i++) {
        mget->keys[i] = span_of(at, keys->at[i].len);
        bytes_copy(at, keys->at[i].at, keys->at[i].len);
        at += keys->at[i].len;
    }
    mget->count = keys->count;
    return true;
}

static void do_mget(const struct call *call, const void *arg)
{
    const struct msg_mget *msg = arg;
    struct mget_request *mget = (struct mget_request *)later(call, sizeof *mget, msg->timeout_ms, MSG_HAS(msg, F_TIMEOUT));
    if (!mget)
        return;
    task_init(&mget->step, call->session->here->loop, mget_step);
    mget->offset = msg->offset;
    mget->length = MSG_HAS(msg, F_MGET_LENGTH) ? msg->length : UINT64_MAX;
    if (!request_keys(&mget->request, &msg->keys)) {
        busy_memory(call, &mget->request);
        return;
    }
    if (!copy_keys(mget, &msg->keys)) {
        fail_memory(call);
        mget_abandon(&mget->request);
        request_free(&mget->request);
        return;
    }
    mget->request.abandon = mget_abandon;
    request_resumes(&mget->request, mget_resume);
    mget_step(&mget->step);
}

/* ---- EXISTS, MATCH, RELEASE, PIN ---- */

/* False: refused. *lease_ms is 0 when no lease is asked for. */
static bool lease_time(const struct call *call, const struct msg_look *msg, uint64_t *lease_ms)
{
    *lease_ms = 0;
    if (!MSG_HAS(msg, F_LOOK_LEASE))
        return true;
    if (msg->lease_ms > LEASE_MOST_MS) {
        fail(call, CODE_BAD_REQUEST, "lease_ms is at most 60,000");
        return false;
    }
    *lease_ms = msg->lease_ms ? msg->lease_ms : LEASE_DEFAULT_MS;
    return true;
}

static void do_exists(const struct call *call, const void *arg)
{
    const struct msg_look *msg = arg;
    uint64_t lease_ms;
    if (!lease_time(call, msg, &lease_ms))
        return;
    uint8_t present[BATCH_KEYS];
    struct msg_exists_reply exists = {.has = 1u << F_EXISTSR_PRESENT | 1u << F_EXISTSR_COUNT};
    exists.count = store_exists(call->store, msg->keys.at, msg->keys.count, lease_ms, &call->session->leases, present, &exists.lease);
    exists.present = span_of(present, msg->keys.count);
    exists.has |= lease_ms ? 1u << F_EXISTSR_LEASE : 0;
    reply(call, &exists);
}

static void do_match(const struct call *call, const void *arg)
{
    const struct msg_look *msg = arg;
    uint64_t lease_ms;
    if (!lease_time(call, msg, &lease_ms))
        return;
    struct store_matched matched;
    store_match(call->store, msg->keys.at, msg->keys.count, lease_ms, msg->warm, &call->session->leases, &matched);
    struct msg_match_reply match = {
        .has = 1u << F_MATCHR_COUNT | 1u << F_MATCHR_MEMORY | (lease_ms ? 1u << F_MATCHR_LEASE : 0),
        .count = matched.count,
        .memory = matched.memory,
        .lease = matched.lease,
    };
    reply(call, &match);
}

static void do_release(const struct call *call, const void *arg)
{
    const struct msg_release *msg = arg;
    store_release(call->store, msg->lease, MSG_HAS(msg, F_RELEASE_KEYS) ? msg->keys.at : NULL, msg->keys.count);
    reply(call, NULL);
}

static void do_pin(const struct call *call, const void *arg)
{
    const struct msg_pin *msg = arg;
    struct msg_pin_reply pin = {.has = 1u << F_PINR_CHANGED};
    pin.changed = store_pin(call->store, msg->keys.at, msg->keys.count, msg->pinned);
    reply(call, &pin);
}

/* ---- REMOVE, REMOVE_PREFIX, REMOVE_ALL ---- */

struct remove_request {
    struct request request;
    struct store_remove remove;
    uint8_t prefix[];
};

static void removed(struct store_remove *remove, int outcome)
{
    struct request *request = &CONTAINER_OF(remove, struct remove_request, remove)->request;
    if (request_answer(request)) {
        struct msg_removed_reply msg = {.has = 1u << F_REMOVER_REMOVED, .removed = remove->removed};
        if (outcome == STORE_OK)
            session_reply(request->session, request->op, request->id, CODE_OK, msg_reply(request->op), &msg);
        else
            session_fail(request->session, request->op, request->id, CODE_IO_ERROR,
                         "removed here, but the disk could not take the record of it: it may come back after a restart");
    }
    request_free(request);
}

static void do_remove(const struct call *call, const void *arg)
{
    const struct msg_remove *msg = arg;
    struct remove_request *mine = (struct remove_request *)later(call, sizeof *mine, msg->timeout_ms, MSG_HAS(msg, F_TIMEOUT));
    if (!mine)
        return;
    if (!request_keys(&mine->request, &msg->keys)) {
        busy_memory(call, &mine->request);
        return;
    }
    int outcome = store_remove_start(call->desk, &mine->remove, msg->keys.at, msg->keys.count, removed);
    if (outcome != STORE_PENDING)
        removed(&mine->remove, outcome);
}

/* Whatever comes behind it on this connection sees its effect. */
static void remove_many(const struct call *call, enum kill_kind kind, struct span prefix, uint64_t timeout_ms, bool has_timeout)
{
    struct remove_request *mine = (struct remove_request *)later(call, sizeof *mine + prefix.len, timeout_ms, has_timeout);
    if (!mine)
        return;
    bytes_copy(mine->prefix, prefix.at, prefix.len);
    request_barrier(&mine->request, BARRIER_ALL);
    int outcome = store_remove_many_start(call->desk, &mine->remove, kind, span_of(mine->prefix, prefix.len), removed);
    if (outcome != STORE_PENDING)
        removed(&mine->remove, outcome);
}

static void do_remove_prefix(const struct call *call, const void *arg)
{
    const struct msg_remove_prefix *msg = arg;
    if (msg->prefix.len < 1 || msg->prefix.len > KEY_MAX_BYTES)
        fail(call, CODE_BAD_REQUEST, "a prefix has 1 to 1,024 bytes");
    else
        remove_many(call, KILL_PREFIX, msg->prefix, msg->timeout_ms, MSG_HAS(msg, F_TIMEOUT));
}

static void do_remove_all(const struct call *call, const void *arg)
{
    const struct msg_plain *msg = arg;
    remove_many(call, KILL_ALL, span_of(NULL, 0), msg->timeout_ms, MSG_HAS(msg, F_TIMEOUT));
}

/* ---- STAT, SCAN, INFO ---- */

static void pack_replica(struct buffer *out, const struct server *server, const struct store_stat *stat, bool disk)
{
    bool complete = !disk || stat->disk;
    pack_map(out, disk && complete ? 5 : 3);
    pack_text(out, "type");
    pack_text(out, disk ? "disk" : "memory");
    pack_text(out, "state");
    pack_text(out, complete ? "complete" : "writing");
    pack_text(out, "node");
    pack_text(out, server->config->node);
    if (!disk || !complete)
        return;
    pack_text(out, "file");
    pack_text(out, stat->file);
    pack_text(out, "offset");
    pack_u64(out, stat->offset);
}

static void do_stat(const struct call *call, const void *arg)
{
    const struct msg_stat *msg = arg;
    struct store_stat stat;
    if (!key_is_well_formed(msg->key)) {
        fail(call, CODE_BAD_REQUEST, "a key has 1 to 1,024 bytes");
        return;
    }
    if (store_stat(call->store, msg->key, &stat) != STORE_OK) {
        session_reply(call->session, call->frame->op, call->frame->id, CODE_NOT_FOUND, NULL, NULL);
        return;
    }
    struct buffer replicas;
    buffer_init(&replicas);
    bool disk = stat.disk || stat.disk_writing;
    pack_array(&replicas, (uint32_t)stat.memory + disk);
    if (stat.memory)
        pack_replica(&replicas, call->server, &stat, false);
    if (disk)
        pack_replica(&replicas, call->server, &stat, true);
    struct msg_stat_reply out = {
        .has = ((1u << (F_STATR_REPLICAS + 1)) - 1) | (stat.mortal ? 1u << F_STATR_TTL : 0),
        .size = stat.size,
        .version = stat.version,
        .checksum = stat.checksum,
        .age_ms = stat.age_ms,
        .idle_ms = stat.idle_ms,
        .hits = stat.hits,
        .pinned = stat.pinned,
        .leased = stat.leased,
        .replicas = span_of(replicas.at, replicas.len),
        .ttl_ms = stat.ttl_ms,
    };
    if (replicas.failed)
        fail_memory(call);
    else
        reply(call, &out);
    buffer_fini(&replicas);
}

struct scan_out {
    struct buffer objects;
    uint32_t count;
};

static void scan_one(void *arg, const struct store_scanned *object)
{
    struct scan_out *out = arg;
    out->count++;
    pack_map(&out->objects, 4);
    pack_text(&out->objects, "key");
    pack_bin(&out->objects, object->key);
    pack_text(&out->objects, "size");
    pack_u64(&out->objects, object->size);
    pack_text(&out->objects, "memory");
    pack_bool(&out->objects, object->memory);
    pack_text(&out->objects, "disk");
    pack_bool(&out->objects, object->disk);
}

static void reply_scan(const struct call *call, struct scan_out *found, uint64_t next)
{
    uint8_t cursor[8];
    put_be64(cursor, next);
    struct buffer objects;
    buffer_init(&objects);
    pack_array(&objects, found->count);
    pack_raw(&objects, span_of(found->objects.at, found->objects.len));
    struct msg_scan_reply out = {
        .has = 1u << F_SCANR_CURSOR | 1u << F_SCANR_OBJECTS,
        .cursor = span_of(cursor, next ? sizeof cursor : 0),
        .objects = span_of(objects.at, objects.len),
    };
    if (objects.failed || found->objects.failed)
        fail_memory(call);
    else
        reply(call, &out);
    buffer_fini(&objects);
}

static void do_scan(const struct call *call, const void *arg)
{
    const struct msg_scan *msg = arg;
    uint64_t limit = MSG_HAS(msg, F_SCAN_LIMIT) ? msg->limit : SCAN_MOST;
    if (limit < 1 || limit > SCAN_MOST) {
        fail(call, CODE_BAD_REQUEST, "limit is 1 to 1,000");
        return;
    }
    if ((msg->cursor.len != 0 && msg->cursor.len != 8) || msg->prefix.len > KEY_MAX_BYTES) {
        fail(call, CODE_BAD_REQUEST, msg->prefix.len > KEY_MAX_BYTES ? "a prefix has at most 1,024 bytes" : "not a cursor of this server");
        return;
    }
    uint64_t cursor = msg->cursor.len ? get_be64(msg->cursor.at) : 0;
    struct scan_out found = {0};
    buffer_init(&found.objects);
    uint64_t next = store_scan(call->store, cursor, msg->prefix, (uint32_t)limit, scan_one, &found);
    reply_scan(call, &found, next);
    buffer_fini(&found.objects);
}

static void do_info(const struct call *call, const void *arg)
{
    const struct msg_info *msg = arg;
    struct buffer out;
    buffer_init(&out);
    if (!info_pack(call->session->here, &out, msg->section))
        fail(call, CODE_BAD_REQUEST, "no section of that name");
    else if (out.failed)
        fail_memory(call);
    else
        session_reply_raw(call->session, call->frame->op, call->frame->id, CODE_OK, span_of(out.at, out.len), span_of(NULL, 0));
    buffer_fini(&out);
}

/* ---- CONFIG ---- */

static void pack_value(const struct config *config, struct buffer *out, const struct config_key *key)
{
    char value[CONFIG_TEXT_BYTES];
    pack_text(out, key->name);
    pack_text(out, config_get(config, key, value, sizeof value));
}

static const struct config_key *key_named(struct span name)
{
    char text[64];
    if (name.len >= sizeof text)
        return NULL;
    memcpy(text, name.at, name.len);
    text[name.len] = '\0';
    return config_find(text);
}

/* None asked for: all. False: a name is unknown. */
static bool pack_values(const struct call *call, const struct msg_config *msg, struct buffer *out)
{
    struct config config;
    server_settings(call->server, &config);
    uint32_t count = msg->get.count;
    pack_map(out, count ? count : (uint32_t)config_key_count);
    for (size_t i = 0; i < config_key_count && count == 0; i++)
        pack_value(&config, out, &config_keys[i]);
    for (uint32_t i = 0; i < count; i++) {
        const struct config_key *key = key_named(msg->get.at[i]);
        if (!key)
            return false;
        pack_value(&config, out, key);
    }
    return true;
}

static void config_get_values(const struct call *call, const struct msg_config *msg)
{
    struct buffer values;
    buffer_init(&values);
    bool known = pack_values(call, msg, &values);
    struct msg_config_reply out = {.has = 1u << F_CONFIGR_VALUES, .values = span_of(values.at, values.len)};
    if (!known)
        fail(call, CODE_BAD_REQUEST, "no setting of that name");
    else if (values.failed)
        fail_memory(call);
    else
        reply(call, &out);
    buffer_fini(&values);
}

static void do_config(const struct call *call, const void *arg)
{
    const struct msg_config *msg = arg;
    char why[CONFIG_TEXT_BYTES];
    int err = 0;
    if (MSG_HAS(msg, F_CONFIG_GET) && MSG_HAS(msg, F_CONFIG_SET))
        fail(call, CODE_BAD_REQUEST, "get or set, not both");
    else if (MSG_HAS(msg, F_CONFIG_SET) && !has_right(call->session, call->frame, RIGHT_ADMIN))
        return;
    else if (MSG_HAS(msg, F_CONFIG_SET) && (err = server_configure(call->server, msg->set, why, sizeof why)) != 0)
        fail(call, err == KVD_EUNSUPPORTED ? CODE_UNSUPPORTED : CODE_BAD_REQUEST, why);
    else
        config_get_values(call, msg);
}

static void do_admin(const struct call *call, const void *arg)
{
    handle_admin(call->session, call->frame, arg);
}

static void do_join(const struct call *call, const void *arg)
{
    handle_join(call->session, call->frame, arg);
}

static void do_beat(const struct call *call, const void *arg)
{
    handle_beat(call->session, call->frame, arg);
}

/* ---- which op is what ---- */

typedef void (*op_fn)(const struct call *call, const void *msg);

/* Instead of rights: it takes a JOIN. */
enum { OF_NODES = RIGHTS_ALL + 1 };

/* `rights`: any of them will do; 0: nobody is asked for a token. docs/protocol.md has the same table. */
static const struct op_row {
    op_fn fn; /* NULL: session.c has it, or nobody */
    unsigned rights;
} op_rows[] = {
    [OP_HELLO] = {do_hello, 0},
    [OP_AUTH] = {do_auth, 0},
    [OP_PING] = {NULL, RIGHTS_ALL},
    [OP_PUT] = {NULL, RIGHT_WRITE},
    [OP_GET] = {do_get, RIGHT_READ},
    [OP_MGET] = {do_mget, RIGHT_READ},
    [OP_EXISTS] = {do_exists, RIGHT_READ},
    [OP_MATCH] = {do_match, RIGHT_READ},
    [OP_RELEASE] = {do_release, RIGHT_READ},
    [OP_REMOVE] = {do_remove, RIGHT_WRITE},
    [OP_REMOVE_PREFIX] = {do_remove_prefix, RIGHT_WRITE},
    [OP_REMOVE_ALL] = {do_remove_all, RIGHT_ADMIN},
    [OP_PIN] = {do_pin, RIGHT_WRITE},
    [OP_STAT] = {do_stat, RIGHT_READ},
    [OP_SCAN] = {do_scan, RIGHT_READ},
    [OP_INFO] = {do_info, RIGHT_READ | RIGHT_ADMIN},
    [OP_CONFIG] = {do_config, RIGHT_READ | RIGHT_ADMIN}, /* `set` takes admin */
    [OP_ADMIN] = {do_admin, RIGHT_ADMIN},
    [OP_WATCH] = {NULL, RIGHT_READ},
    [OP_JOIN] = {do_join, 0}, /* its proof is of the cluster's token */
    [OP_BEAT] = {do_beat, OF_NODES},
    [OP_LOOKUP] = {NULL, OF_NODES},
    [OP_COMMIT] = {NULL, OF_NODES},
    [OP_FORGET] = {NULL, OF_NODES},
    [OP_KILL] = {NULL, OF_NODES},
    [OP_REPLICA] = {NULL, OF_NODES},
    [OP_DROP] = {NULL, OF_NODES},
    [OP_GATHER] = {NULL, OF_NODES},
};
enum { OP_ROWS = sizeof op_rows / sizeof op_rows[0] };

/* Where there are no peers, nobody knows their ops. */
static struct op_row op_row(const struct server *server, uint8_t op)
{
    bool is_known = op_name(op) && (op < OP_JOIN || server->cluster);
    return is_known && op < OP_ROWS ? op_rows[op] : (struct op_row){NULL, RIGHTS_ALL};
}

bool handle_allowed(struct session *session, const struct frame *frame)
{
    unsigned rights = op_row(session->server, frame->op).rights;
    if (rights != OF_NODES)
        return has_right(session, frame, rights);
    if (session->neighbour.connection > 0)
        return true;
    session_fail(session, frame->op, frame->id, CODE_DENIED, "JOIN first");
    return false;
}

void handle_request(struct session *session, const struct frame *frame, struct span meta)
{
    union {
        struct msg_plain plain;
        struct msg_hello hello;
        struct msg_auth auth;
        struct msg_get get;
        struct msg_mget mget;
        struct msg_look look;
        struct msg_release release;
        struct msg_remove remove;
        struct msg_remove_prefix remove_prefix;
        struct msg_pin pin;
        struct msg_stat stat;
        struct msg_scan scan;
        struct msg_info info;
        struct msg_config config;
        struct msg_admin admin;
        struct msg_join join;
        struct msg_beat beat;
    } msg;
    struct call call = {
        .session = session, .server = session->server, .store = session->server->store, .desk = &session->here->desk, .frame = frame};
    op_fn fn = op_row(session->server, frame->op).fn;
    if (!fn)
        fail(&call, CODE_UNSUPPORTED, "this server does not know the op");
    else if (session->server->tearing_down && frame->op != OP_HELLO && frame->op != OP_AUTH && frame->op != OP_INFO)
        fail(&call, CODE_CLOSING, "this node is being torn down");
    else if (handle_decode(session, frame, meta, &msg))
        fn(&call, &msg);
}
