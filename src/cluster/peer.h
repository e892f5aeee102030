/* peer.h - this node's way to another: a connection that it opens, proves itself on and lets the other prove itself, and beats over it.
 *
 * Owns:    the connection, its buffers, its deadline.
 * Borrows: names and the token (struct peer_self), which outlive it.
 * Not its: what a beat means (member.h), what the other connects to this node for (the roof's sessions).
 * Thread:  the loop's.
 *
 * One beat at a time. A connection stays until something is wrong with it.
 */
#ifndef KVD_CLUSTER_PEER_H
#define KVD_CLUSTER_PEER_H

#include "auth/mac.h"
#include "cluster/member.h"
#include "loop/conn.h"
#include "proto/frame.h"
#include "proto/msg.h"

enum {
    PEER_TIMEOUT_MS = 1000, /* for a beat, with all that goes before it */
    PEER_IN_BYTES = 16384,  /* of a reply */
};

/* What all peers of a node share. */
struct peer_self {
    struct loop *loop;
    const struct log *log;
    const char *cluster, *id;
    struct span token;
};

enum peer_phase { PEER_CLOSED, PEER_HELLO, PEER_JOIN, PEER_READY, PEER_BEAT, PEER_CLOSING };

struct peer;
/* A request, as long as it is the conn's: the end of sending one may be told after its reply has come, so there are two. */
struct peer_frame {
    struct peer *peer;
    struct conn_send send;
    struct iovec iov;
    struct buffer bytes;
    bool sending;
};

/* The beat's end. `answer` NULL: there is none; `err` says why. Not inside peer_send(). */
typedef void (*peer_fn)(struct peer *peer, int err, const struct beat *answer);
/* Its connection is gone. */
typedef void (*peer_closed_fn)(struct peer *peer);

struct peer {
    const struct peer_self *self;
    peer_fn fn;
    peer_closed_fn closed;
    void *owner;
    char id[NODE_ID_MAX + 1];
    char address[NODE_ADDRESS_MAX + 1];
    enum peer_phase phase;
    struct conn *conn;
    bool waiting; /* a beat is to be sent, or its answer to come */
    struct timer deadline;
    struct task failing;
    int fail_err;
    struct msg_beat beat;
    char beat_address[NODE_ADDRESS_MAX + 1];
    uint8_t beat_view[VIEW_BYTES];
    uint8_t challenge[2 * NONCE_BYTES]; /* the other's nonce, then ours */
    uint64_t next_id;
    struct peer_frame frames[2];
    struct arena arena;
    uint32_t have;
    uint8_t in[PEER_IN_BYTES];
    struct view view; /* of the last answer */
    uint64_t sent_us, round_trip_us, beats, failures;
    uint64_t sent_bytes, received_bytes;
    bool denied; /* the last time; its owner's */
};

void peer_init(struct peer *peer, const struct peer_self *self, const char *id, peer_fn fn, peer_closed_fn closed, void *owner);
/* Not while `waiting`. */
void peer_send(struct peer *peer, const char *address, const struct beat *beat);
/* Let go of the connection: `closed` runs once it is gone; no other callback. At once, where there is none. */
void peer_close(struct peer *peer);
void peer_fini(struct peer *peer);

/* ---- both sides ---- */

/* The proof of one side. `first`: of who connects. Returns 0 or -ENOMEM. */
int peer_mac(uint8_t out[MAC_BYTES], bool first, struct span token, struct span cluster, struct span from, struct span to,
             const uint8_t challenge[2 * NONCE_BYTES]);

/* Wire and back. `view_bytes` has room for a view; `msg` points into it, and into `beat`. */
void beat_to_msg(const struct beat *beat, struct span cluster, uint8_t view_bytes[VIEW_BYTES], struct msg_beat *msg);
/* 0 or KVD_EPROTO. `beat->view` is `view` or NULL. */
int beat_from_msg(const struct msg_beat *msg, struct span cluster, const char *id, struct view *view, struct beat *beat);

#endif
