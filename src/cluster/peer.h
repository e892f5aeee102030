/* peer.h - this node's way to another: a connection that it opens, proves itself on and lets the other prove itself, and calls over it, any
 * number at once, answered in any order.
 *
 * Owns:    the connection; requests until the kernel has them; a reply until it is told.
 * Borrows: names and the token (struct peer_self), which outlive it; calls, which neither move nor die until their fn has run.
 * Not its: what is asked and what is answered, what the other connects to this node for (the roof's sessions).
 * Thread:  the loop's.
 *
 * A call on a way without a connection opens one. When a connection breaks, all calls on it end. One from which nothing at all has come for
 * the whole time of a call that had no answer is broken. Requests leave in the order of their calls; those of one turn leave together.
 */
#ifndef KVD_CLUSTER_PEER_H
#define KVD_CLUSTER_PEER_H

#include "auth/mac.h"
#include "cluster/view.h"
#include "loop/conn.h"
#include "proto/frame.h"
#include "proto/msg.h"

enum {
    PEER_CALLS_MAX = 1024,                    /* under way on one way; a power of two */
    PEER_QUEUE_BYTES = 64 << 20,              /* of requests that the kernel has not taken, of one way */
    PEER_META_BYTES = (4 << 20) + (64 << 10), /* of a request, of a reply */
    PEER_IN_BYTES = 16384,                    /* replies that are longer are gathered on the heap, one at a time */
};

/* What all peers of a node share. */
struct peer_self {
    struct loop *loop;
    const char *cluster, *id;
    struct span token;
    struct incarnation incarnation; /* of this node now; a connection is of one */
    uint64_t connections;           /* that all ways have opened: each has a number, and they rise */
};

struct peer;
struct peer_call;
/* A call's end, once, not inside peer_call_start(). `err` 0: it was answered with `code` and `meta`, which is borrowed for this call and is
 * not decoded yet. Else there is no answer, and whether the other has acted is unknown:
 *   KVD_ETIMEOUT  its time has passed, or that of another call on a connection that was silent since
 *   KVD_EDENIED   the other does not take this node for one of its cluster, or could not prove that it is
 *   KVD_EPROTO, KVD_ETOOLARGE  the other sent what is no reply, or too long a one
 *   KVD_ECLOSING  peer_close()
 *   -errno        of the connection: -ECONNREFUSED, -ECONNRESET... */
typedef void (*peer_call_fn)(struct peer_call *call, int err, enum code code, struct span meta);
struct peer_frame;
struct peer_call { /* the peer's, but for the memory */
    struct peer *peer;
    peer_call_fn fn;
    uint64_t id;
    uint8_t op;
    int err;
    struct peer_frame *unsent; /* its request, while there is no connection for it */
    uint64_t heard_bytes;      /* the way had received when it began */
    uint64_t started_us;
    struct timer deadline;
    struct list link;
};

enum peer_phase { PEER_CLOSED, PEER_HELLO, PEER_JOIN, PEER_READY, PEER_CLOSING };

/* It has become quiet: there is neither a connection nor a call. The last thing done; the peer may go. */
typedef void (*peer_quiet_fn)(struct peer *peer);

struct peer {
    struct peer_self *self;
    peer_quiet_fn quiet;
    void *owner;
    char id[NODE_ID_MAX + 1];
    char address[NODE_ADDRESS_MAX + 1];
    enum peer_phase phase;
    struct conn *conn;
    struct incarnation incarnation; /* of this node, and the number of the connection, as its JOIN says them */
    uint64_t connection;
    uint8_t challenge[2 * NONCE_BYTES];
    uint64_t join_id;                        /* of HELLO, of JOIN */
    uint64_t last_id;                        /* without the place among `calls` */
    struct peer_call *calls[PEER_CALLS_MAX]; /* by the low bits of their ids */
    uint16_t places[PEER_CALLS_MAX];         /* free ones */
    uint32_t free_places;
    uint32_t call_count; /* those that have ended and are not told yet among them */
    uint64_t owed;       /* replies of this connection that nobody waits for any more, and that may come */
    struct list unsent;  /* requests that wait until both have proved themselves */
    struct list sending; /* those that the connection has */
    uint64_t queued_bytes;
    struct list ended; /* calls whose fn is to run */
    struct task telling;
    bool is_telling;
    struct arena arena;
    uint32_t have; /* of `in`, or of a long reply's meta */
    struct frame long_frame;
    uint8_t *long_meta; /* malloc'd while one is gathered */
    uint8_t in[PEER_IN_BYTES];
    uint64_t round_trip_us; /* of the last call that was answered */
    uint64_t answered, failures, late, slow;
    uint64_t sent_bytes, received_bytes; /* of connections before this one */
};

void peer_init(struct peer *peer, struct peer_self *self, const char *id, peer_quiet_fn quiet, void *owner);
/* Quiet, and not inside a call's fn. */
void peer_fini(struct peer *peer);
bool peer_is_quiet(const struct peer *peer);

/* Where it is found from now on. A connection to elsewhere is broken. Before the first call. */
void peer_reach(struct peer *peer, const char *address);
/* Ask for `op`; `msg` is of its request's schema, and is encoded at once. Returns 0, and then fn runs once; KVD_EBUSY: too many calls are
 * under way, or bytes queued: it is slow; KVD_ETOOLARGE; -ENOMEM. */
int peer_call_start(struct peer *peer, struct peer_call *call, uint8_t op, const void *msg, uint64_t timeout_ms, peer_call_fn fn);
/* Break the connection; all calls end with KVD_ECLOSING. `quiet` will run, unless it is quiet. */
void peer_close(struct peer *peer);

/* Sent to it, received from it, so far. */
uint64_t peer_sent_bytes(const struct peer *peer);
uint64_t peer_received_bytes(const struct peer *peer);

/* The proof of one side. `first`: of who connects. Returns 0 or -ENOMEM. Any thread. */
int peer_mac(uint8_t out[MAC_BYTES], bool first, struct span token, struct span cluster, struct span from, struct span to,
             const uint8_t challenge[2 * NONCE_BYTES]);

#endif
