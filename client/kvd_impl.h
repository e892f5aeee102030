/* kvd_impl.h - inside libkvd: one connection, and exchanges of requests and replies over it.
 *
 * Owns:    the socket, what was read ahead from it, the request that is being sent.
 * Borrows: values and buffers of the caller, for the time of one call.
 * Thread:  that of the handle.
 *
 * wire.c moves frames and knows no op; call.c is one request and its one reply; auth.c shows the token; batch.c is mput and mget; kvd.c,
 * inspect.c, config.c and admin.c are the calls of kvd.h.
 */
#ifndef KVD_CLIENT_KVD_IMPL_H
#define KVD_CLIENT_KVD_IMPL_H

#include "base/bytes.h"
#include "client/kvd.h"
#include "proto/frame.h"
#include "proto/msg.h"

enum {
    TEXT_BYTES = 256,          /* messages and names that are kept */
    READ_AHEAD_BYTES = 4096,   /* what is read behind a body: at most so much of a value is copied once more */
    KEY_MAX_BYTES = 1024,      /* what the protocol allows */
    META_MAX_BYTES = 8 << 20,  /* of a reply; beyond it is no valid reply */
    BATCH_MAX_KEYS = 65536,    /* whatever a server says */
    BATCH_DEFAULT_KEYS = 4096, /* where it says nothing */
};
#define VALUE_MAX_BYTES ((uint64_t)64 << 30) /* of a reply; beyond it is no valid reply */
#define BODY_MAX_BYTES GIB                   /* of a request; a longer one ends the connection, whatever else is under way */

enum phase { AT_PREFIX, AT_META, AT_BODY };

struct reader {
    enum phase phase;
    uint8_t ahead[READ_AHEAD_BYTES];
    size_t ahead_at; /* of these bytes, [ahead_at, ahead_len) are not yet used */
    size_t ahead_len;
    struct frame frame;
    uint8_t *meta; /* keeps its memory from reply to reply */
    size_t meta_cap;
    size_t meta_got;
    uint8_t *body; /* where the body goes; NULL: it is dropped */
    uint64_t body_got;
    uint64_t first_body_us; /* when the first byte of a body that is not dropped came; 0: not yet */
};

struct sender {
    struct buffer head; /* prefix and meta */
    struct span body;
    uint64_t sent; /* of both together */
    bool active;
    bool broken; /* the server reads no more; it may have said why */
};

struct kvd {
    char host[TEXT_BYTES];
    uint16_t port;
    char client[TEXT_BYTES];
    char *token_file; /* NULL: none */
    uint64_t timeout_ms;
    uint64_t connect_ms;
    uint64_t inflight_bytes;
    int fd; /* -1: not connected */
    uint64_t next_id;
    uint64_t deadline_us; /* of the call that is running */
    struct reader reader;
    struct sender sender;
    struct arena arena;
    char message[TEXT_BYTES];
    char server_text[TEXT_BYTES];
    char node_text[TEXT_BYTES];
    struct kvd_server server;
};

/* ---- wire.c ---- */

/* Who has requests to send and knows what replies mean. All three are called from wire_exchange(). */
struct exchange {
    void *arg;
    /* Fill kvd->sender with wire_request(). Returns 1 when done so; 0 when there is nothing to send before a reply comes or the time
     * *wake_us; a negative result ends the exchange. */
    int (*next)(struct kvd *kvd, void *arg, uint64_t *wake_us);
    /* A reply's prefix and meta are there: say in *body where its body_len bytes go (NULL: drop them). Returns 0, or a negative result. */
    int (*head)(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta, uint8_t **body);
    /* The reply is whole. Returns 0; 1 when no more is to come; or a negative result. */
    int (*done)(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta);
};

uint64_t wire_now_us(void);

/* Connect, without HELLO. Returns 0, KVD_ERR_NETWORK or KVD_ERR_TIMEOUT. */
int wire_open(struct kvd *kvd, uint64_t deadline_us);
void wire_close(struct kvd *kvd);

/* Is there a connection that can take the next request? One that died since the last call, or where something came that nobody
 * asked for, is closed. */
bool wire_alive(struct kvd *kvd);

/* Make a request of `msg` the one that is being sent; `body` is borrowed until its reply. Returns 0 or KVD_ERR_MEMORY. */
int wire_request(struct kvd *kvd, uint8_t op, uint64_t id, const void *msg, struct span body);

/* Send and receive until done() says 1. A negative result is returned with the connection closed. */
int wire_exchange(struct kvd *kvd, const struct exchange *exchange);

/* Wait for that moment and no reply. */
void wire_sleep_until(uint64_t us);

/* Keep a text for kvd_message(). Returns `result`. */
int wire_fail(struct kvd *kvd, int result, const char *text);
int wire_fail_span(struct kvd *kvd, int result, struct span text);

/* ---- call.c ---- */

/* Begin a call of kvd.h: set its deadline, clear the message, connect and say HELLO where there is no connection. Returns 0 or a
 * negative result. */
int call_begin(struct kvd *kvd);

int call_result(uint8_t code);

/* When to ask again after BUSY, a little jitter added; UINT64_MAX when that is past the deadline. */
uint64_t call_retry_at(const struct kvd *kvd, const struct msg_failure_reply *failure);

/* The whole ms that are left, at least 1: for `timeout_ms`. */
uint64_t call_left_ms(const struct kvd *kvd);

/* Decode a reply's meta. Returns 0, KVD_ERR_PROTOCOL or KVD_ERR_MEMORY, with the message set. */
int call_decode(struct kvd *kvd, const struct schema *schema, struct span meta, void *out);

/* Decode a reply that is neither OK nor PRESENT, and keep its message or reason. Returns the result that its code means; KVD_ERR_PROTOCOL
 * or KVD_ERR_MEMORY, which no code means, when it cannot be decoded. */
int call_refused(struct kvd *kvd, uint8_t code, struct span meta, struct msg_failure_reply *out);

/* One request with one reply; BUSY is asked again. */
struct call {
    uint8_t op;
    uint8_t outcome;   /* the one code below 16 that may come beside OK; 0: none */
    bool with_timeout; /* tell the server how long the answer is wanted */
    void *msg;         /* of the op's request schema */
    struct span body;
    void *reply; /* of the op's reply schema: set with KVD_OK and KVD_PRESENT; spans in it live until the next call */
    /* Where the body of an OK reply goes, its meta decoded; NULL: it must be empty. Returns 0 or a negative result. */
    int (*land)(struct kvd *kvd, struct call *call, uint64_t body_len, uint8_t **body);
    void *land_arg;
    struct span meta; /* the reply's, likewise */

    uint64_t id;
    bool sent;
    uint64_t not_before_us;
    int result;
};

/* The result of the call. */
int call_run(struct kvd *kvd, struct call *call);

bool call_key_good(struct kvd_key key);

/* ---- auth.c ---- */

/* Answer the nonce of HELLO with the token of kvd->token_file. Returns 0, or KVD_ERR_USAGE, _DENIED or what a call returns. */
int auth_show(struct kvd *kvd, struct span nonce);

/* How many of these keys, none longer than KEY_MAX_BYTES, fit in one request to this server; 1 at least, 0 when count is 0. */
size_t call_keys_fit(const struct kvd *kvd, const struct span *keys, size_t count);

/* Judge an OK reply of GET or MGET to a request for a whole value. Returns 0 or KVD_ERR_PROTOCOL. */
int call_got_check(struct kvd *kvd, const struct msg_get_reply *got);

/* The letter of kvd_item.tier. */
char call_tier(struct span tier);

#endif
