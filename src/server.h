/* server.h - the roof: one kvd, from start to end.
 *
 * Owns:    the store, the listener, the sessions, the scratch memory that all sessions of the loop share.
 * Borrows: the loop and the log.
 * Thread:  the loop's.
 */
#ifndef KVD_SERVER_H
#define KVD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/log.h"
#include "config.h"
#include "loop/conn.h"
#include "loop/file.h"
#include "loop/loop.h"
#include "proto/msg.h"
#include "store/store.h"

enum {
    SCRATCH_BYTES = 16 * 1024, /* what comes in one read with a header may be copied, no more */
    META_LIMIT_BYTES = (4 << 20) + (64 << 10),
    BATCH_KEYS = 4096,
    PING_BODY_BYTES = 64 * 1024,
    SKIP_LIMIT_BYTES = 1 << 30, /* a longer body ends the connection */
    OUT_LIMIT_BYTES = 64 << 20, /* replies queued on one connection before it is read no further */
    OUT_LIMIT_SHARE = 2,        /* replies queued on all of them: this part of the pool */
    PACE_BYTES = 1 << 20,       /* what a peer must send of a frame in frame-timeout, or take of its replies in send-timeout */
    REQUESTS_PER_CONN = 1024,   /* unanswered requests of one connection before it is read no further */
    KEYS_PER_CONN = 16384,      /* keys that these remember, likewise */
    ROOM_WAIT_MS = 100,         /* a put waits so long on its own connection before it is BUSY */
};

enum server_state { SERVER_STARTING, SERVER_SERVING, SERVER_DRAINING };

struct server_figures {
    uint64_t accepted, closed;
    uint64_t requests, refused; /* refused: answered with a code from 16 up */
    uint64_t busy;              /* of these: BUSY */
    uint64_t cut_slow_senders, cut_slow_readers, bad_frames;
    uint64_t received_bytes, sent_bytes; /* of connections that are closed; INFO adds the living */
    uint64_t ops[256];
};

struct server {
    struct loop *loop;
    struct log *log;
    struct config *config;
    struct store *store;
    struct store_desk desk;
    struct listener *listener;
    struct list sessions;
    uint64_t session_count;
    uint64_t refused_count; /* connections without a session, for want of memory, that are not closed yet */
    uint64_t request_count; /* unanswered ones of all sessions, and those that outlive theirs */
    enum server_state state;
    uint64_t started_ms;
    uint64_t value_limit;
    char port_text[16];       /* what the port file says */
    struct timer start_timer; /* --wait-for-index */
    struct timer tick;
    struct timer drain_timer;
    struct task end;
    bool drain_over;   /* clients have had their time */
    bool no_puts;      /* ADMIN drain: puts are refused, the rest goes on */
    bool tearing_down; /* ADMIN teardown: so is all else, and at the end the folder goes */
    struct task stop;  /* of what is torn down */
    bool stop_asked;   /* the store is closing */
    bool hurried;      /* and has had its time */
    int exit_status;
    struct server_figures figures;
    _Atomic uint64_t reply_bytes; /* of all sessions, queued and not taken by the kernel */
    struct buffer out;            /* metas are packed here, one at a time */
    struct arena arena;           /* metas are decoded here, one at a time */
    uint8_t scratch[SCRATCH_BYTES];
};

/* Bind, then open the store. Serving begins when the disk tier knows what it has, or after --wait-for-index.
 * Returns 0; or a negative error, logged, with nothing left open. A failure of the directory comes later: the loop stops, with
 * server->exit_status set. */
int server_open(struct server *server, struct loop *loop, struct log *log, struct config *config);
/* SIGTERM: stop listening, finish what is under way, write, seal, and stop the loop. A second call drops what is not written. */
void server_stop(struct server *server);
/* Everything is removed, and this is the end: the node's folder goes too. On the next turn. */
void server_tear_down(struct server *server);
/* After the loop has stopped. */
void server_fini(struct server *server);

/* CONFIG set: `set` is a msgpack map {str: str, bool or unsigned}. All of it or nothing is applied. Returns 0; KVD_EUNSUPPORTED for a key
 * that is not live; KVD_EUSAGE, KVD_EPROTO; all with a line in `why`. */
int server_configure(struct server *server, struct span set, char *why, size_t why_len);

/* Bytes of replies that may be queued on all connections together. */
uint64_t server_reply_limit(const struct server *server);

/* Bytes of all connections so far, the living ones included. */
void server_traffic(const struct server *server, uint64_t *received_bytes, uint64_t *sent_bytes);

/* For sessions: one, or a request, has ended. The store is closed, on the next turn, when they were the last of a server that is to end. */
void server_check_end(struct server *server);

#endif
