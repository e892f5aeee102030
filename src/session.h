/* session.h - one client's connection: frames in, replies out.
 *
 * Owns:    the conn, the requests that are not answered yet, the leases its client took.
 * Borrows: the server, and what it has on this loop.
 * Not its: what an op means (handlers.c, put.c).
 * Thread:  the loop's.
 *
 * Its memory goes when the conn is closed. Requests that cannot be given up (a remove, a put that is being made durable) outlive it with
 * request->session NULL and answer nobody.
 */
#ifndef KVD_SESSION_H
#define KVD_SESSION_H

#include "cluster/arrivals.h"
#include "proto/frame.h"
#include "server.h"

enum session_state {
    SESSION_PREFIX, /* waiting for a prefix, or in it */
    SESSION_META,   /* in the meta */
    SESSION_READY,  /* the meta is there; something must be answered first */
    SESSION_VALUE,  /* a put's body goes to the pool */
    SESSION_PING,   /* a ping's body */
    SESSION_SKIP,   /* a body that nobody wants */
    SESSION_DISCARD /* a broken peer: everything, for a while */
};

struct request;

struct session {
    struct server *server;
    struct server_loop *here;
    struct conn *conn;
    struct list link;
    enum session_state state;
    bool closed;  /* conn_close() was called */
    bool broken;  /* to be closed on the next turn */
    bool ended;   /* the peer sends no more */
    bool waiting; /* a put waits for room */
    uint8_t prefix[FRAME_PREFIX_BYTES];
    uint32_t have; /* bytes of the prefix, or of the meta */
    struct frame frame;
    uint8_t *meta;       /* malloc'd while a meta arrives in pieces or waits; NULL otherwise */
    uint32_t meta_taken; /* of the server's memory for requests */
    bool meta_refused;   /* there was none: it is skipped, and the request is BUSY */
    uint8_t *ping;       /* likewise a ping's body */
    uint64_t body_left;
    uint8_t *stash; /* bytes that came with a frame that has to wait */
    uint32_t stash_at, stash_len;
    struct request *put;        /* whose body arrives */
    struct request *after_skip; /* a put found PRESENT, to be answered when its body is through */
    struct list requests;
    uint32_t request_count;
    uint32_t request_keys; /* that they remember */
    uint32_t resumable;    /* of them: with `resume` */
    uint32_t barriers;     /* of them: BARRIER_ALL */
    uint32_t put_barriers; /* of them: BARRIER_PUT */
    struct store_wait wait;
    uint64_t wait_until_ms;
    struct task kick;
    uint64_t turn_until_us; /* when it must let others have their turn */
    bool tired;             /* that time has come: the rest is for the next turn */
    struct grant grant;
    struct arrival neighbour; /* the node that it has proved to be; connection 0: none */
    uint64_t since_ms;        /* when it began to be read */
    struct lease_owner leases;
    uint64_t heard_ms;       /* the last time that a frame ended, or PACE_BYTES of one had come, or that was not the peer's affair */
    uint64_t received_bytes; /* as of then */
    uint64_t progress_ms;    /* the last time that the peer had taken all, or PACE_BYTES */
    uint64_t sent_bytes;     /* as of then */
    uint64_t owed_bytes;     /* sent and queued, at that time */
    uint64_t told_received_bytes, told_sent_bytes; /* in the loop's figures */
    uint64_t discard_until_ms;
};

/* Take the conn; reading starts with session_begin(). NULL when the heap is out (the conn is closed). */
struct session *session_open(struct server_loop *here, struct conn *conn);
/* Has it shown nothing yet, neither a client's token nor a cluster's? */
bool session_is_stranger(const struct session *session);
/* Bring the loop's figures of received and sent bytes up to date. */
void session_count_bytes(struct session *session);
void session_begin(struct session *session);
void session_close(struct session *session);
/* Close it if nothing is under way on it. For draining. */
void session_close_if_idle(struct session *session);
/* Deadlines: a frame that stopped half-way, replies nobody takes. Every so often. */
void session_tick(struct session *session, uint64_t now);
/* Say in the log why it is about to be cut off. `reason` is one word. */
void session_log_cut(const struct session *session, const char *reason);
/* Something that it waited for may have happened: go on, on the next turn. */
void session_kick(struct session *session);
/* More bytes wait to be sent than is good: on this connection, or on all together (then each still has one reply under way). */
bool session_clogged(const struct session *session);

/* ---- requests that are answered later ---- */

/* What waits for it, so that requests on one key take effect in their order. */
enum barrier {
    BARRIER_NONE,
    BARRIER_PUT, /* every op but a PUT of another key: the value is not shown yet */
    BARRIER_ALL, /* everything behind it */
};

struct request {
    uint8_t op;
    uint64_t id;
    struct session *session; /* NULL: the client is gone */
    struct server *server;
    struct server_loop *here;
    struct list link;
    struct timer timer;
    bool answered;
    enum barrier barrier;
    uint32_t keys;  /* that it remembers */
    uint64_t taken; /* for them, of the server's memory for requests */
    /* Give up what can be given up; true: it is over and may be freed now. NULL: nothing can. */
    bool (*abandon)(struct request *request);
    /* The connection takes bytes again. Must not free the request. Set by request_resumes(). */
    void (*resume)(struct request *request);
};

/* Zeroed memory of `size` bytes that begins with a request, on the session's list, with a deadline if the message has one. NULL: heap. */
struct request *request_new(struct session *session, size_t size, const struct frame *frame, uint64_t timeout_ms, bool has_timeout);
/* Take it off the session and free it. */
void request_free(struct request *request);
/* Set or lift it; harmless when the client is gone. */
void request_barrier(struct request *request, enum barrier barrier);
/* It remembers these keys until it ends: the connection has a bound of their number, the server of what they take. Once. False: the
 * server's is reached. */
bool request_keys(struct request *request, const struct spans *keys);
void request_resumes(struct request *request, void (*resume)(struct request *request));
/* True: the client still waits for the answer; it is answered from now on. */
bool request_answer(struct request *request);

/* ---- replies ---- */

/* Send code and meta; `msg` NULL: an empty meta. */
void session_reply(struct session *session, uint8_t op, uint64_t id, enum code code, const struct schema *schema, const void *msg);
/* The same with bytes of a blob behind it; takes the reference. */
void session_reply_value(struct session *session, uint8_t op, uint64_t id, const struct schema *schema, const void *msg, struct blob *blob,
                         uint64_t offset, uint64_t length);
/* Meta that is packed already, and a small body that is copied. */
void session_reply_raw(struct session *session, uint8_t op, uint64_t id, enum code code, struct span meta, struct span body);
void session_fail(struct session *session, uint8_t op, uint64_t id, enum code code, const char *message);
/* BUSY for lack of room for so many bytes, and when to come back. */
void session_busy(struct session *session, uint8_t op, uint64_t id, uint64_t bytes);
/* Answer, then end the connection: shut down sending, discard for up to 1 s, close. */
void session_break(struct session *session, uint8_t op, uint64_t id, enum code code, const char *message);

/* ---- handlers.c, put.c: called with the whole meta; the body, if any, comes afterwards ---- */

void handle_request(struct session *session, const struct frame *frame, struct span meta);
void handle_ping(struct session *session, const struct frame *frame, struct span body);
/* Decode into the loop's arena and `msg`; answers and returns false when it is not what the op takes. */
bool handle_decode(struct session *session, const struct frame *frame, struct span meta, void *msg);
/* admin.c: ADMIN, whichever action. */
void handle_admin(struct session *session, const struct frame *frame, const struct msg_admin *msg);
/* May this connection ask for that op? False: it has been answered, with DENIED. */
bool handle_allowed(struct session *session, const struct frame *frame);
/* Status and text for what the store said. */
enum code code_of(int err);

/* Is a put of the same key, sent before on this connection, not shown yet? For other ops than PUT: false. */
bool put_must_wait(struct session *session, struct span meta);
/* A PUT's meta is there: sets session->state to what its body needs. */
void put_open(struct session *session, const struct frame *frame, struct span meta);
/* Where the next bytes of the body go. False: wait (or the state has changed). */
bool put_room(struct session *session, void **base, size_t *len);
void put_received(struct session *session, size_t len);
/* Every so often: is the put whose body arrives too slow for others who wait? */
void put_tick(struct session *session);
/* The body of a put that was PRESENT has been skipped. */
void put_skipped(struct session *session, struct request *request);

/* info.c: append INFO's meta, all sections (an empty name) or the one that is named. False: there is none of that name. */
bool info_pack(struct server_loop *here, struct buffer *out, struct span section);

#endif
