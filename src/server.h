/* server.h - the roof: one kvd, from start to end.
 *
 * Owns:    the store, the listener, and on each loop its sessions and the scratch memory that they share.
 * Borrows: the loops and the log.
 * Thread:  the first loop's, but where said otherwise. A `struct server_loop` is its own loop's, but for its figures.
 */
#ifndef KVD_SERVER_H
#define KVD_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "access.h"
#include "auth/token.h"
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
    SKIP_LIMIT_BYTES = 1 << 30,      /* a longer body ends the connection */
    OUT_LIMIT_BYTES = 64 << 20,      /* replies queued on one connection before it is read no further */
    OUT_LIMIT_SHARE = 2,             /* replies queued on all of them: this part of the pool */
    PACE_BYTES = 1 << 20,            /* what a peer must send of a frame in frame-timeout, or take of its replies in send-timeout */
    REQUESTS_PER_CONN = 1024,        /* unanswered requests of one connection before it is read no further */
    KEYS_PER_CONN = 16384,           /* keys that these remember, likewise */
    STRANGER_META_BYTES = 16 * 1024, /* of a request of somebody who has shown no token, where one is asked for */
    STRANGER_OUT_BYTES = 2 * 1024,   /* OUT_LIMIT_BYTES of one of those, whose replies are so small that each takes a multiple of it */
    STRANGER_MS = 5000,              /* so long he has to show one, or frame-timeout if that is less */
    AUTH_FAILURES_MOST = 3,          /* of one connection, which the last one ends */
    LOOPS_MOST = 64,
    REMEMBERED_KEY_BYTES = 384, /* what one takes beside its own bytes, until its request is answered */
    ROOM_WAIT_MS = 100,         /* a put waits so long on its own connection before it is BUSY */
};

enum server_state { SERVER_STARTING, SERVER_SERVING, SERVER_DRAINING };

/* Counted on their loop, and read on any. */
struct server_figures {
    _Atomic uint64_t connections; /* now */
    _Atomic uint64_t accepted;
    _Atomic uint64_t requests, refused; /* refused: answered with a code from 16 up */
    _Atomic uint64_t busy;              /* of these: BUSY */
    _Atomic uint64_t cut_slow_senders, cut_slow_readers, bad_frames;
    _Atomic uint64_t auths, failed_auths, denied; /* denied: answered with DENIED, failed AUTHs too */
    _Atomic uint64_t cut_strangers, cut_token_gone, denied_joins;
    _Atomic uint64_t received_bytes, sent_bytes; /* as of the last tick, but for the loop that asks */
    _Atomic uint64_t ops[256];
};

static inline uint64_t figure(const _Atomic uint64_t *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

/* One thread writes each: no more is needed. */
static inline void figure_add(_Atomic uint64_t *count, uint64_t more)
{
    atomic_store_explicit(count, figure(count) + more, memory_order_relaxed);
}

/* What the server has on one of its loops. */
struct server_loop {
    struct server *server;
    struct loop *loop;
    struct store_desk desk;
    struct list sessions;
    uint64_t refused_count;  /* connections without a session, for want of memory, that are not closed yet */
    uint64_t request_count;  /* unanswered ones of all sessions, and those that outlive theirs */
    enum server_state state; /* as the first loop has told it */
    struct timer tick;
    struct task end;                   /* is all over here? */
    struct task serve, drain, hang_up; /* news from the first loop, each once */
    struct task alone;                 /* to it: all is over here */
    bool is_alone;
    struct server_figures figures;
    struct buffer out;  /* metas are packed here, one at a time */
    struct arena arena; /* metas are decoded here, one at a time */
    uint8_t scratch[SCRATCH_BYTES];
};

struct server {
    /* what does not change */
    struct log *log;             /* but its level */
    const struct config *config; /* as it was at the start */
    struct store *store;
    struct loop *store_loop;
    struct access access; /* any loop's */
    struct token cluster_token;
    struct server_loop *loops;
    unsigned loop_count;
    uint64_t started_ms;
    uint64_t value_limit;
    /* any loop's */
    struct mutex *live_lock;
    struct config live; /* under live_lock: with what CONFIG has set */
    _Atomic uint64_t send_timeout_ms, frame_timeout_ms;
    _Atomic uint64_t reply_bytes;   /* of all sessions, queued and not sent */
    _Atomic uint64_t request_bytes; /* of all sessions: of metas that are being gathered or wait, and of keys that requests remember */
    atomic_bool no_puts;            /* ADMIN drain: puts are refused, the rest goes on */
    atomic_bool tearing_down;       /* ADMIN teardown: so is all else, and at the end the folder goes */
    /* JOINs that were denied: when one was logged last, 0: never; and how many since. */
    _Atomic uint64_t join_denial_ms, join_denials;
    /* the first loop's */
    struct listener *listener;
    struct listener_place *places;
    enum server_state state;
    char port_text[16];       /* what the port file says */
    struct timer start_timer; /* --wait-for-index */
    struct timer drain_timer;
    bool drain_over;         /* clients have had their time */
    struct task stop;        /* of what is torn down */
    struct task closing;     /* of the store, at the end */
    unsigned alone_count;    /* loops on which all is over */
    bool stop_asked;         /* the store is closing */
    bool hurried;            /* and has had its time */
    struct cluster *cluster; /* NULL: this node is alone. The first loop's, but for its figures */
    struct task cluster_ended;
    bool folder_held; /* the lock on this node's folder is this process's */
    bool all_alone, cluster_begun, cluster_gone;
    int exit_status;
};

/* Bind, then open the store. Serving begins when the disk tier knows what it has, or after --wait-for-index. `loops` take connections, the
 * first one accepts; `store_loop` is the first one itself, or, where there are several, one with a lock. They do not run yet.
 * Returns 0; or a negative error, logged, with nothing left open. A failure of the directory comes later: the loops stop, with
 * server->exit_status set. `tokens`, if not NULL, is what is to be shown by who wants to be served; a reference is taken. */
int server_open(struct server *server, struct loop *const *loops, unsigned loop_count, struct loop *store_loop, struct log *log,
                const struct config *config, struct tokens *tokens);
/* Be one of a cluster, with its token, which is copied. After server_open(), before the loops run. Returns 0 or -ENOMEM. */
int server_join_cluster(struct server *server, const struct token *token);
/* SIGHUP: where there are tokens, read their file again; else as server_stop(). */
void server_hang_up(struct server *server);
/* SIGTERM: stop listening, finish what is under way, write, seal, and stop the loops. A second call drops what is not written. */
void server_stop(struct server *server);
/* Everything is removed, and this is the end: the node's folder goes too. Soon. Any loop, once. */
void server_tear_down(struct server *server);
/* After the loops have stopped. */
void server_fini(struct server *server);

/* CONFIG set: `set` is a msgpack map {str: str, bool or unsigned}. All of it or nothing is applied. Returns 0; KVD_EUNSUPPORTED for a key
 * that is not live; KVD_EUSAGE, KVD_EPROTO; all with a line in `why`. Any loop. */
int server_configure(struct server *server, struct span set, char *why, size_t why_len);

/* Take memory for requests, within --request-memory. False: there is none left; nothing is taken. Any loop. */
bool server_take_request_bytes(struct server *server, uint64_t bytes);
void server_give_request_bytes(struct server *server, uint64_t bytes);

/* Bytes of replies that may be queued on all connections together. */
uint64_t server_reply_limit(const struct server *server);

/* The settings as they are now. Any loop. */
void server_settings(struct server *server, struct config *out);

/* The figures of all loops together, asked on this one. */
void server_figures_sum(struct server_loop *here, struct server_figures *out);

/* For sessions: one, or a request, has ended. The store is closed when they were the last of a server that is to end. */
void server_check_end(struct server_loop *here);

#endif
