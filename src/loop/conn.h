/* conn.h - TCP listeners and connections that receive into the owner's memory and send from it.
 *
 * Owns:    the socket. A `struct conn` is the loop's heap from accept until the close callback has run.
 * Borrows: memory named by `room` until the next call of `received`, and what `conn_send` was given until its fn: with
 *          loop_options.zero_copy_sends the kernel reads it so long, and it must not change.
 * Not its: frames, keys, limits.
 * Thread:  the loop's.
 */
#ifndef KVD_LOOP_CONN_H
#define KVD_LOOP_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "loop/loop.h"

struct conn;
struct listener;

/* Called for each accepted connection; the owner calls conn_start() or conn_close() in time; nothing is read before. */
typedef void (*listener_fn)(void *arg, struct conn *conn);

/* Listen on `host` (a numeric address or a name, which is resolved here, blocking) and `port` (0: any free one).
 * Accepts at most `max_conns` at once; beyond it, and when descriptors run out, connections wait in the backlog.
 * Returns 0, -EADDRINUSE, -EADDRNOTAVAIL, -EACCES or another errno; KVD_EUSAGE when the host cannot be resolved. */
int listener_open(struct listener **out, struct loop *loop, const char *host, uint16_t port, unsigned max_conns, listener_fn fn, void *arg);
/* Hand each connection to that of these loops which has the fewest: `fn` is called there, with the place's arg. Each is a loop without a
 * lock; the listener's own is one of them. Before its first turn; `places` is the listener's until its last connection is gone. */
struct listener_place {
    struct loop *loop;
    void *arg;
    unsigned conns; /* the listener's */
};
void listener_spread(struct listener *listener, struct listener_place *places, unsigned count);
uint16_t listener_port(const struct listener *listener);
/* The port is free when this returns. */
void listener_close(struct listener *listener);

/* True when every address of `host` is a loopback one; false too when it cannot be resolved. Blocking; at start only. */
bool address_is_loopback(const char *host);
/* Is it an address, not a name to be looked up? */
bool address_is_numeric(const char *host);

/* Connect to `host`, a numeric address, and `port`. The conn is there at once, and is started, sent on and closed as one that was accepted;
 * bytes leave when the other side has taken it. Where it does not, `ended` and sends say why: -ECONNREFUSED, -ETIMEDOUT... Returns 0;
 * KVD_EUSAGE for what is no numeric address; -ENOMEM, -EMFILE or another errno. */
int conn_connect(struct conn **out, struct loop *loop, const char *host, uint16_t port);

struct conn_events {
    /* Where the next bytes go: set *base and *len. *len 0 stops reading until conn_resume(). May close the conn. */
    void (*room)(void *owner, void **base, size_t *len);
    /* `len` bytes have come to where room said. May close the conn. */
    void (*received)(void *owner, size_t len);
    /* Nothing more will be received: 0 the peer has shut down its side, or -errno. Once. Sends may go on after 0. */
    void (*ended)(void *owner, int err);
};
void conn_start(struct conn *conn, const struct conn_events *events, void *owner);
/* Ask `room` again, after it said 0. Harmless otherwise. Runs on the next turn. */
void conn_resume(struct conn *conn);

struct conn_send;
/* err: 0 when the kernel has taken every byte, and looks at none any more; -ECANCELED when the conn was closed before; or why sending
 * failed. In the order in which they were queued. */
typedef void (*conn_send_fn)(struct conn_send *send, int err);
struct conn_send {
    struct iovec *iov; /* borrowed until fn, and used up by it; up to 1,024 entries go in one system call */
    unsigned iov_count;
    conn_send_fn fn;
    struct list link; /* the conn's, like all that follows */
    bool done;
    bool large;         /* enough not to be copied */
    bool lent;          /* some of it was not: up to */
    uint32_t last_call; /* this one (lending_impl.h) */
    int err;
};
/* Queue bytes behind those queued before. They leave at the end of this turn, gathered with others of this conn into as
 * few vectored writes as can be; at most about 1 MiB a turn and conn, so that others get theirs. After an error or a shutdown fn
 * gets it. */
void conn_send(struct conn *conn, struct conn_send *send, conn_send_fn fn);

/* Shut down the sending side once what is queued has left. Receiving goes on. */
void conn_shutdown(struct conn *conn);

/* Close. Pending sends end with -ECANCELED, then `fn` runs; no other callback runs for the conn from this call on. Once. While the kernel
 * still reads bytes of a send, the connection is reset, what the peer has not taken is lost, and all of this comes when the kernel is done
 * with them, however long that takes. */
typedef void (*conn_closed_fn)(void *owner);
void conn_close(struct conn *conn, conn_closed_fn fn, void *owner);

/* Who is at the other end: "192.0.2.1:4242" or "[2001:db8::1]:4242"; "unknown" when the kernel does not say (any more). */
enum { CONN_PEER_BYTES = 64 };
void conn_peer_text(const struct conn *conn, char out[CONN_PEER_BYTES]);

/* Bytes queued and not yet sent: not taken by the kernel, or taken and still read by it; total bytes sent so far; total received. */
uint64_t conn_unsent_bytes(const struct conn *conn);
uint64_t conn_sent_bytes(const struct conn *conn);
uint64_t conn_received_bytes(const struct conn *conn);

/* Sends without a copy, on all connections of the loop; zero where loop_options.zero_copy_sends is not set. */
struct conns_figures {
    uint64_t zero_copy_sends, zero_copy_bytes; /* system calls that took bytes so */
    uint64_t zero_copy_copied;                 /* of these: the kernel says that it copied after all */
    uint64_t zero_copy_fallbacks;              /* further ones, as large, that copied: the kernel had no room for another notice */
    uint64_t zero_copy_lent_bytes;             /* that the kernel reads now */
};
/* Any thread. */
void conns_figures(const struct loop *loop, struct conns_figures *out);

#endif
