/* ADMIN: what whoever runs a server has it do. */
#include <string.h>

#include "base/error.h"
#include "cluster/cluster.h"
#include "errand.h"
#include "session.h"

enum { SEGMENTS_MOST = 1000, SCRUB_BYTES_PER_S = 200 << 20 };

/* ---- sync, seal ---- */

struct sync_request {
    struct request request;
    struct store_sync sync;
};

static void sync_done(struct store_sync *sync, int err)
{
    struct request *request = &CONTAINER_OF(sync, struct sync_request, sync)->request;
    if (request_answer(request)) {
        if (err) {
            session_fail(request->session, request->op, request->id, code_of(err), error_text(err));
        } else if (sync->failed > 0) {
            session_fail(request->session, request->op, request->id, CODE_IO_ERROR,
                         "some objects could not be written; they are in memory only");
        } else {
            session_reply(request->session, request->op, request->id, CODE_OK, NULL, NULL);
        }
    }
    request_free(request);
}

static struct request *later(struct session *session, size_t size, const struct frame *frame, const struct msg_admin *msg)
{
    struct request *request = request_new(session, size, frame, msg->timeout_ms, MSG_HAS(msg, F_TIMEOUT));
    if (!request)
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
    return request;
}

static void sync_start(struct session *session, const struct frame *frame, const struct msg_admin *msg, bool seal)
{
    struct sync_request *mine = (struct sync_request *)later(session, sizeof *mine, frame, msg);
    if (!mine)
        return;
    int err = store_sync_start(&session->here->desk, &mine->sync, seal, sync_done);
    if (err != STORE_PENDING)
        sync_done(&mine->sync, err);
}

static void do_sync(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    sync_start(session, frame, msg, false);
}

static void do_seal(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    sync_start(session, frame, msg, true);
}

static void answer(struct request *request, const struct msg_admin_reply *reply)
{
    if (request_answer(request))
        session_reply(request->session, request->op, request->id, CODE_OK, msg_reply(OP_ADMIN), reply);
}

/* ---- evict ---- */

struct evict_request {
    struct request request;
    struct store_evict evict;
};

static bool evict_abandon(struct request *request)
{
    store_evict_stop(&CONTAINER_OF(request, struct evict_request, request)->evict);
    return true;
}

static void evicted(struct store_evict *evict)
{
    struct request *request = &CONTAINER_OF(evict, struct evict_request, evict)->request;
    struct msg_admin_reply reply = {.has = 1u << F_ADMINR_OBJECTS | 1u << F_ADMINR_BYTES, .objects = evict->objects, .bytes = evict->bytes};
    answer(request, &reply);
    request_free(request);
}

static void do_evict(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    struct evict_request *mine = (struct evict_request *)later(session, sizeof *mine, frame, msg);
    if (!mine)
        return;
    mine->request.abandon = evict_abandon;
    store_evict_start(&session->here->desk, &mine->evict, MSG_HAS(msg, F_ADMIN_BYTES) ? msg->bytes : UINT64_MAX, evicted);
}

/* ---- scrub ---- */

struct scrub_request {
    struct request request;
    struct store_scrub scrub;
};

static bool scrub_abandon(struct request *request)
{
    store_scrub_leave(&CONTAINER_OF(request, struct scrub_request, request)->scrub);
    return true;
}

static void scrubbed(struct store_scrub *scrub, int err)
{
    struct request *request = &CONTAINER_OF(scrub, struct scrub_request, scrub)->request;
    struct store_info info;
    store_info(request->server->store, &info);
    struct msg_admin_reply reply = {
        .has = 1u << F_ADMINR_RUN | 1u << F_ADMINR_RECORDS | 1u << F_ADMINR_BYTES | 1u << F_ADMINR_BAD | 1u << F_ADMINR_UNREADABLE,
        .run = info.scrub.run,
        .records = info.scrub.records,
        .bytes = info.scrub.bytes,
        .bad = info.scrub.bad,
        .unreadable = info.scrub.unreadable,
    };
    if (err == 0)
        answer(request, &reply);
    else if (request_answer(request))
        session_fail(request->session, request->op, request->id, code_of(err), error_text(err));
    request_free(request);
}

static void scrub_and_wait(struct session *session, const struct frame *frame, const struct msg_admin *msg, uint64_t rate)
{
    struct scrub_request *mine = (struct scrub_request *)later(session, sizeof *mine, frame, msg);
    if (!mine)
        return;
    uint64_t run;
    mine->request.abandon = scrub_abandon;
    int err = store_scrub_start(&session->here->desk, &mine->scrub, rate, &run, scrubbed);
    if (err)
        scrubbed(&mine->scrub, err);
}

static void do_scrub(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    uint64_t rate = MSG_HAS(msg, F_ADMIN_RATE) ? msg->rate : SCRUB_BYTES_PER_S;
    struct msg_admin_reply reply = {.has = 1u << F_ADMINR_RUN};
    if (msg->stop) {
        reply.run = store_scrub_stop(session->server->store);
        session_reply(session, frame->op, frame->id, CODE_OK, msg_reply(OP_ADMIN), &reply);
        return;
    }
    if (rate == 0) {
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST, "rate is 1 byte a second or more");
        return;
    }
    if (msg->wait) {
        scrub_and_wait(session, frame, msg, rate);
        return;
    }
    int err = store_scrub_start(&session->here->desk, NULL, rate, &reply.run, NULL);
    if (err)
        session_fail(session, frame->op, frame->id, code_of(err), error_text(err));
    else
        session_reply(session, frame->op, frame->id, CODE_OK, msg_reply(OP_ADMIN), &reply);
}

/* ---- drain: no more puts, what belongs on disk is written, the rest goes on ---- */

struct drain_request {
    struct request request;
    struct store_sync sync;
    struct timer timer;
};

static void drain_answer(struct request *request)
{
    struct store_info info;
    store_info(request->server->store, &info);
    struct msg_admin_reply reply = {.has = 1u << F_ADMINR_UNWRITTEN, .unwritten = info.table.objects - info.table.on_disk};
    log_info(request->server->log, "drained", "unwritten=%llu", (unsigned long long)reply.unwritten);
    answer(request, &reply);
}

/* Where the disk is off, or some of it failed, `unwritten` says it. */
static void drained(struct store_sync *sync, int err)
{
    (void)err;
    struct drain_request *mine = CONTAINER_OF(sync, struct drain_request, sync);
    timer_stop(&mine->timer);
    drain_answer(&mine->request);
    request_free(&mine->request);
}

static void drain_late(struct timer *timer)
{
    drain_answer(&CONTAINER_OF(timer, struct drain_request, timer)->request);
}

static void do_drain(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    struct server *server = session->server;
    struct drain_request *mine = (struct drain_request *)later(session, sizeof *mine, frame, msg);
    if (!mine)
        return;
    server->no_puts = true;
    log_info(server->log, "draining", NULL);
    timer_init(&mine->timer, session->here->loop, drain_late);
    timer_start(&mine->timer, server->config->drain_timeout);
    int err = store_sync_start(&session->here->desk, &mine->sync, false, drained);
    if (err != STORE_PENDING)
        drained(&mine->sync, err);
}

/* ---- teardown: the remove log says first that all is dead; then everything goes ---- */

struct teardown_request {
    struct request request;
    struct store_remove remove;
};

static void all_dead(struct store_remove *remove, int outcome)
{
    struct request *request = &CONTAINER_OF(remove, struct teardown_request, remove)->request;
    struct server *server = request->server;
    struct msg_admin_reply reply = {.has = 1u << F_ADMINR_REMOVED, .removed = remove->removed};
    if (outcome == STORE_OK) {
        answer(request, &reply);
        server_tear_down(server);
    } else {
        server->no_puts = false;
        server->tearing_down = false;
        if (request_answer(request))
            session_fail(request->session, request->op, request->id, CODE_IO_ERROR,
                         "removed here, but the disk could not take the record of it: no file was deleted");
    }
    request_free(request);
}

static void do_teardown(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    struct server *server = session->server;
    struct store_info info;
    store_info(server->store, &info);
    const char *wrong = NULL;
    enum code code = CODE_BAD_REQUEST;
    if (!span_equal(msg->node, span_text(server->config->node))) {
        wrong = "node must be this node's name";
    } else if (span_equal(span_text(info.disk_state), span_text("off"))) {
        code = CODE_IO_ERROR;
        wrong = "the disk tier is off: its folder is not touched";
    }
    if (wrong) {
        session_fail(session, frame->op, frame->id, code, wrong);
        return;
    }
    if (atomic_exchange(&server->tearing_down, true)) { /* on another loop */
        session_fail(session, frame->op, frame->id, CODE_CLOSING, "this node is being torn down");
        return;
    }
    struct teardown_request *mine = (struct teardown_request *)later(session, sizeof *mine, frame, msg);
    if (!mine) {
        server->tearing_down = false;
        return;
    }
    server->no_puts = true;
    request_barrier(&mine->request, BARRIER_ALL);
    int outcome = store_forget_start(&session->here->desk, &mine->remove, all_dead);
    if (outcome != STORE_PENDING)
        all_dead(&mine->remove, outcome);
}

/* ---- forget: a node of the cluster is gone for good ---- */

struct forget_request {
    struct request request;
    struct errand errand;
    char node[NODE_ID_MAX + 1];
    enum member_forgot forgot;
};

static void forget_there(struct errand *errand)
{
    struct forget_request *mine = CONTAINER_OF(errand, struct forget_request, errand);
    mine->forgot = cluster_forget(mine->request.server->cluster, mine->node);
}

static void forget_back(struct errand *errand)
{
    struct forget_request *mine = CONTAINER_OF(errand, struct forget_request, errand);
    struct request *request = &mine->request;
    if (mine->forgot == FORGOT)
        answer(request, &(struct msg_admin_reply){.has = 0});
    else if (request_answer(request))
        session_fail(request->session, request->op, request->id, CODE_BAD_REQUEST,
                     mine->forgot == FORGOT_LIVES ? "that node lives, or did within the last lease time"
                                                  : "no node of that name is known, but perhaps this one");
    request_free(request);
}

static void do_forget(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    struct server *server = session->server;
    if (!server->cluster || !node_id_is_good(msg->node)) {
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST,
                     server->cluster ? "node must be a node's name" : "this node has no peers");
        return;
    }
    struct forget_request *mine = (struct forget_request *)later(session, sizeof *mine, frame, msg);
    if (!mine)
        return;
    memcpy(mine->node, msg->node.at, msg->node.len);
    errand_start(&mine->errand, session->here->loop, server->loops[0].loop, forget_there, forget_back);
}

/* ---- segments ---- */

struct listing {
    struct buffer rows;
    uint32_t count;
};

static void pack_segment(void *arg, const struct store_segment *segment)
{
    struct listing *listing = arg;
    struct msg_segment row = {
        .has = ((1u << F_SEGMENT_IDLE) - 1) | (segment->was_read ? 1u << F_SEGMENT_IDLE : 0),
        .file = span_text(segment->file),
        .state = span_text(segment->state),
        .bytes = segment->bytes,
        .live_bytes = segment->live_bytes,
        .live_objects = segment->live_objects,
        .held_objects = segment->held,
        .age_ms = segment->age_ms,
        .idle_ms = segment->idle_ms,
    };
    listing->count++;
    listing->rows.failed |= msg_encode(&msg_segment_part, &row, &listing->rows) != 0;
}

static void do_segments(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    uint64_t limit = MSG_HAS(msg, F_ADMIN_LIMIT) ? msg->limit : SEGMENTS_MOST;
    if (limit < 1 || limit > SEGMENTS_MOST) {
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST, "limit is 1 to 1,000");
        return;
    }
    struct listing listing = {.count = 0};
    struct buffer all;
    buffer_init(&listing.rows);
    buffer_init(&all);
    struct msg_admin_reply reply = {.has = 1u << F_ADMINR_CURSOR | 1u << F_ADMINR_SEGMENTS};
    reply.cursor = store_segments(session->server->store, msg->cursor, (uint32_t)limit, pack_segment, &listing);
    pack_array(&all, listing.count);
    pack_raw(&all, span_of(listing.rows.at, listing.rows.len));
    reply.segments = span_of(all.at, all.len);
    if (all.failed || listing.rows.failed)
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
    else
        session_reply(session, frame->op, frame->id, CODE_OK, msg_reply(OP_ADMIN), &reply);
    buffer_fini(&all);
    buffer_fini(&listing.rows);
}

/* ---- which action is what ---- */

static const struct {
    const char *name;
    void (*run)(struct session *session, const struct frame *frame, const struct msg_admin *msg);
} actions[] = {
    {"sync", do_sync},   {"seal", do_seal},         {"evict", do_evict},       {"scrub", do_scrub},
    {"drain", do_drain}, {"teardown", do_teardown}, {"segments", do_segments}, {"forget", do_forget},
};

void handle_admin(struct session *session, const struct frame *frame, const struct msg_admin *msg)
{
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (span_equal(msg->action, span_text(actions[i].name))) {
            actions[i].run(session, frame, msg);
            return;
        }
    }
    session_fail(session, frame->op, frame->id, CODE_UNSUPPORTED, "this server does not know the action");
}
