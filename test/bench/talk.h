/* talk.h - how one asks kvd, redis-server and memcached for the same: requests to bytes, bytes to answers.
 *
 * Owns:    nothing.
 * Borrows: the connection, for a call.
 * Not its: which keys, how many at once, when.
 * Thread:  that of the connection.
 */
#ifndef KVD_BENCH_TALK_H
#define KVD_BENCH_TALK_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/msg.h"
#include "test/bench/conn.h"

enum ask { ASK_PUT, ASK_GET, ASK_EXISTS, ASK_MATCH };
enum { TALK_KEY_BYTES = 48, TALK_HEAD_BYTES = 192, TALK_WHY_BYTES = 160 };

/* What an answer says; below 0: it is none, or an error's, and `why` says it. */
enum outcome { ANSWER_FAILED = -1, ANSWER_OK, ANSWER_MISS, ANSWER_BUSY };

struct answer {
    uint64_t slot;     /* in: of the oldest request; set where the server says which one it answers */
    uint64_t size;     /* in: of the value */
    uint8_t *value;    /* in: where it goes */
    bool from_disk;    /* set: the server says so */
    uint64_t retry_ms; /* set with ANSWER_BUSY */
    char why[TALK_WHY_BYTES];
};

struct talk {
    const char *name;
    bool answers_each_key; /* EXISTS of many keys has as many answers */
    /* The bytes that come before a value, or ask for one: up to TALK_HEAD_BYTES into `out`. Returns how many. */
    size_t (*head)(enum ask ask, uint64_t slot, const char key[TALK_KEY_BYTES], uint64_t size, char *out);
    /* What comes behind a value that is put; "" for nothing. */
    const char *tail;
    /* Append a request for `count` keys to `out`; NULL where it has none. */
    void (*look)(enum ask ask, const struct span *keys, uint32_t count, struct buffer *out);
    enum outcome (*put_answer)(struct conn *conn, struct answer *answer);
    enum outcome (*get_answer)(struct conn *conn, struct answer *answer);
    /* Are all `count` keys there? */
    enum outcome (*look_answer)(struct conn *conn, enum ask ask, uint64_t count, struct arena *arena, struct answer *answer);
};

/* "kvd", "redis", "redis-pipelined" (EXISTS one by one), "memcached"; NULL for another. */
const struct talk *talk_find(const char *name);

#endif
