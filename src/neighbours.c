#include "neighbours.h"

#include <stdio.h>

#include "base/check.h"
#include "base/error.h"
#include "cluster/beat.h"
#include "cluster/cluster.h"
#include "cluster/peer.h"
#include "errand.h"

enum { DENIAL_LOG_MS = 60000 /* a JOIN that is denied is logged no more often: who may not tries again and again */ };

/* ---- JOIN ---- */

static void log_denial(struct session *session, const char *why)
{
    struct server *server = session->server;
    char from[CONN_PEER_BYTES];
    uint64_t now = loop_now_ms(session->here->loop), last = figure(&server->join_denial_ms);
    figure_add(&session->here->figures.denied_joins, 1);
    uint64_t denials = atomic_fetch_add_explicit(&server->join_denials, 1, memory_order_relaxed) + 1;
    if ((last != 0 && now < last + DENIAL_LOG_MS) || !atomic_compare_exchange_strong(&server->join_denial_ms, &last, now))
        return;
    atomic_fetch_sub_explicit(&server->join_denials, denials, memory_order_relaxed);
    conn_peer_text(session->conn, from);
    log_warn(server->log, "join_denied", "from=%s why=\"%s\" denied=%llu", from, why, (unsigned long long)denials);
}

/* Nothing tells what was wrong, but the log. */
static void refuse(struct session *session, const struct frame *frame, const char *why)
{
    static const char message[] = "not a node of this cluster";
    log_denial(session, why);
    session_break(session, frame->op, frame->id, CODE_DENIED, message);
}

/* What both sides prove something about: the nonce of HELLO, then theirs. False: there is none. */
static bool challenge_of(struct session *session, const struct msg_join *msg, uint8_t out[2 * NONCE_BYTES])
{
    if (!session->grant.has_nonce || msg->nonce.len != NONCE_BYTES)
        return false;
    memcpy(out, session->grant.nonce, NONCE_BYTES);
    memcpy(out + NONCE_BYTES, msg->nonce.at, NONCE_BYTES);
    session->grant.has_nonce = false;
    return true;
}

/* From its own loop to the first one, where it is taken for the newest of its node, then to each loop in turn, where those before it end,
 * and back. */
struct join_request {
    struct request request;
    struct task task;
    struct arrival arrival;
    unsigned loop; /* where it is */
    bool newest;
    uint8_t mac[MAC_BYTES];
};

static void join_back(struct task *task)
{
    struct join_request *join = CONTAINER_OF(task, struct join_request, task);
    struct request *request = &join->request;
    struct session *session = request->session;
    struct frame frame = {.op = request->op, .id = request->id};
    struct msg_join_reply reply = {.has = 1u << F_JOINR_MAC, .mac = span_of(join->mac, sizeof join->mac)};
    bool asked = request_answer(request);
    if (asked && join->newest) {
        session->neighbour = join->arrival;
        session_reply(session, frame.op, frame.id, CODE_OK, msg_reply(frame.op), &reply);
    } else if (asked) {
        refuse(session, &frame, "it has a newer connection");
    }
    request_free(request);
}

static void go_to(struct join_request *join, struct server_loop *there, task_fn fn)
{
    task_init(&join->task, there->loop, fn);
    loop_post(&join->task);
}

static bool is_superseded(const struct session *session, const struct arrival *by)
{
    const struct arrival *it = &session->neighbour;
    return it->connection > 0 && it->connection < by->connection && strcmp(it->id, by->id) == 0 &&
           incarnation_equal(it->incarnation, by->incarnation);
}

static void join_here(struct task *task)
{
    struct join_request *join = CONTAINER_OF(task, struct join_request, task);
    struct server *server = join->request.server;
    const struct server_loop *here = &server->loops[join->loop];
    for (struct list *at = here->sessions.next; at != &here->sessions; at = at->next) {
        struct session *session = CONTAINER_OF(at, struct session, link);
        if (!session->closed && is_superseded(session, &join->arrival))
            session_close(session);
    }
    join->loop++;
    if (join->loop < server->loop_count)
        go_to(join, &server->loops[join->loop], join_here);
    else
        go_to(join, join->request.here, join_back);
}

static void join_first(struct task *task)
{
    struct join_request *join = CONTAINER_OF(task, struct join_request, task);
    join->newest = cluster_arrive(join->request.server->cluster, &join->arrival);
    if (join->newest)
        join_here(task);
    else
        go_to(join, join->request.here, join_back);
}

/* It has proved itself. */
static void arrive(struct session *session, const struct frame *frame, const struct msg_join *msg, const uint8_t mac[MAC_BYTES])
{
    struct join_request *join = (void *)request_new(session, sizeof *join, frame, 0, false);
    if (!join) {
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        return;
    }
    join->arrival = (struct arrival){.incarnation = {msg->start, msg->random}, .connection = msg->connection};
    snprintf(join->arrival.id, sizeof join->arrival.id, "%.*s", (int)msg->from.len, (const char *)msg->from.at);
    memcpy(join->mac, mac, MAC_BYTES);
    request_barrier(&join->request, BARRIER_ALL);
    go_to(join, session->server->loops, join_first);
}

void handle_join(struct session *session, const struct frame *frame, const struct msg_join *msg)
{
    const struct server *server = session->server;
    struct span cluster = span_text(server->config->cluster), me = span_text(server->config->node);
    uint8_t challenge[2 * NONCE_BYTES], mac[MAC_BYTES];
    bool formed = node_id_is_good(msg->from) && !span_equal(msg->from, me) && msg->start > 0 && msg->connection > 0;
    if (!formed || !challenge_of(session, msg, challenge)) {
        refuse(session, frame, "ill-formed");
        return;
    }
    if (!span_equal(msg->cluster, cluster) || !span_equal(msg->to, me)) {
        refuse(session, frame, "another cluster, or for another node");
        return;
    }
    struct span token = cluster_token(server->cluster);
    if (peer_mac(mac, true, token, cluster, msg->from, me, challenge) != 0) {
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        return;
    }
    if (msg->mac.len != MAC_BYTES || !mac_equal(mac, msg->mac.at)) {
        refuse(session, frame, "another token");
        return;
    }
    if (peer_mac(mac, false, token, cluster, msg->from, me, challenge) != 0)
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
    else
        arrive(session, frame, msg, mac);
}

/* ---- BEAT: on the first loop, and back ---- */

struct beat_request {
    struct request request;
    struct errand errand;
    struct arrival arrival; /* on which it came */
    struct beat beat;
    struct view view; /* that came with it */
    enum cluster_heard heard;
    struct msg_beat answer;
    char address[NODE_ADDRESS_MAX + 1];
    uint8_t view_bytes[VIEW_BYTES];
};

static void beat_back(struct errand *errand)
{
    struct beat_request *beat = CONTAINER_OF(errand, struct beat_request, errand);
    struct request *request = &beat->request;
    bool asked = request_answer(request);
    if (asked && beat->heard == HEARD)
        session_reply(request->session, request->op, request->id, CODE_OK, msg_reply(request->op), &beat->answer);
    else if (asked && beat->heard == HEARD_BUSY)
        session_fail(request->session, request->op, request->id, CODE_BUSY, "this node cannot answer now");
    else if (asked)
        session_break(request->session, request->op, request->id, CODE_DENIED, "this node has a newer connection");
    request_free(request);
}

static void beat_there(struct errand *errand)
{
    struct beat_request *beat = CONTAINER_OF(errand, struct beat_request, errand);
    struct server *server = beat->request.server;
    struct beat answer;
    beat->heard = cluster_hear(server->cluster, &beat->arrival, &beat->beat, &answer);
    if (beat->heard == HEARD) {
        beat_to_msg(&answer, span_text(server->config->cluster), beat->view_bytes, &beat->answer);
        snprintf(beat->address, sizeof beat->address, "%s", answer.from.address);
        beat->answer.address = span_text(beat->address);
    }
}

void handle_beat(struct session *session, const struct frame *frame, const struct msg_beat *msg)
{
    struct server *server = session->server;
    const struct arrival *from = &session->neighbour;
    CHECK(from->connection > 0); /* handle_allowed() has looked */
    struct beat_request *beat = (void *)request_new(session, sizeof *beat, frame, 0, false);
    if (!beat) {
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        return;
    }
    beat->arrival = *from;
    request_barrier(&beat->request, BARRIER_ALL); /* who beats has one under way */
    if (beat_from_msg(msg, span_text(server->config->cluster), from->id, &beat->view, &beat->beat) != 0 ||
        !incarnation_equal(beat->beat.from.incarnation, from->incarnation)) {
        (void)request_answer(&beat->request);
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST, "no beat of a node");
        request_free(&beat->request);
        return;
    }
    errand_start(&beat->errand, session->here->loop, server->loops[0].loop, beat_there, beat_back);
}
