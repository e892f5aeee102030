#include "neighbours.h"

#include <stdio.h>

#include "base/check.h"
#include "base/error.h"
#include "cluster/cluster.h"
#include "cluster/peer.h"

/* ---- JOIN ---- */

/* Nothing tells what was wrong, but the log. */
static void refuse(struct session *session, const struct frame *frame, const char *why)
{
    static const char message[] = "not a node of this cluster";
    char from[CONN_PEER_BYTES];
    conn_peer_text(session->conn, from);
    log_warn(session->server->log, "join_denied", "from=%s why=\"%s\"", from, why);
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

void handle_join(struct session *session, const struct frame *frame, const struct msg_join *msg)
{
    const struct server *server = session->server;
    struct span cluster = span_text(server->config->cluster), me = span_text(server->config->node);
    uint8_t challenge[2 * NONCE_BYTES], mac[MAC_BYTES];
    if (!node_id_is_good(msg->from) || span_equal(msg->from, me) || !challenge_of(session, msg, challenge)) {
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
    if (peer_mac(mac, false, token, cluster, msg->from, me, challenge) != 0) {
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        return;
    }
    snprintf(session->neighbour, sizeof session->neighbour, "%.*s", (int)msg->from.len, (const char *)msg->from.at);
    struct msg_join_reply reply = {.has = 1u << F_JOINR_MAC, .mac = span_of(mac, sizeof mac)};
    session_reply(session, frame->op, frame->id, CODE_OK, msg_reply(frame->op), &reply);
}

/* ---- BEAT: on the first loop, and back ---- */

struct beat_request {
    struct request request;
    struct task task;
    struct beat beat;
    struct view view; /* that came with it */
    bool answered;
    struct msg_beat answer;
    char address[NODE_ADDRESS_MAX + 1];
    uint8_t view_bytes[VIEW_BYTES];
};

static void beat_back(struct task *task)
{
    struct beat_request *beat = CONTAINER_OF(task, struct beat_request, task);
    struct request *request = &beat->request;
    if (request_answer(request) && beat->answered)
        session_reply(request->session, request->op, request->id, CODE_OK, msg_reply(request->op), &beat->answer);
    else if (request->session && !beat->answered)
        session_fail(request->session, request->op, request->id, CODE_BUSY, "this node cannot answer now");
    request_free(request);
}

static void beat_there(struct task *task)
{
    struct beat_request *beat = CONTAINER_OF(task, struct beat_request, task);
    struct server *server = beat->request.server;
    struct beat answer;
    beat->answered = cluster_hear(server->cluster, &beat->beat, &answer);
    if (beat->answered) {
        beat_to_msg(&answer, span_text(server->config->cluster), beat->view_bytes, &beat->answer);
        snprintf(beat->address, sizeof beat->address, "%s", answer.from.address);
        beat->answer.address = span_text(beat->address);
    }
    if (beat->request.here->loop == server->loops[0].loop) {
        beat_back(&beat->task);
        return;
    }
    task_init(&beat->task, beat->request.here->loop, beat_back);
    loop_post(&beat->task);
}

void handle_beat(struct session *session, const struct frame *frame, const struct msg_beat *msg)
{
    struct server *server = session->server;
    if (session->neighbour[0] == '\0') {
        session_fail(session, frame->op, frame->id, CODE_DENIED, "JOIN first");
        return;
    }
    struct beat_request *beat = (void *)request_new(session, sizeof *beat, frame, 0, false);
    if (!beat) {
        session_fail(session, frame->op, frame->id, CODE_INTERNAL, "out of memory");
        return;
    }
    if (beat_from_msg(msg, span_text(server->config->cluster), session->neighbour, &beat->view, &beat->beat) != 0) {
        (void)request_answer(&beat->request);
        session_fail(session, frame->op, frame->id, CODE_BAD_REQUEST, "no beat of a node");
        request_free(&beat->request);
        return;
    }
    task_init(&beat->task, server->loops[0].loop, beat_there);
    if (session->here == server->loops)
        beat_there(&beat->task);
    else
        loop_post(&beat->task);
}
