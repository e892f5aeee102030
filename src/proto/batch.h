/* batch.h - what nodes say of many keys at once: records packed one behind the other in one bin, one for each key of the message, in its
 * order (docs/protocol.md). Everything is big-endian.
 *
 * Owns:    nothing. What is taken points into the bytes.
 * Not its: keys, which op carries which records, what is made of them.
 * Thread:  any. Pure; nothing is allocated.
 *
 * Bytes that came from outside are counted first, by batch_count(), which looks at all of them; then taken, record by record.
 */
#ifndef KVD_PROTO_BATCH_H
#define KVD_PROTO_BATCH_H

#include <stdbool.h>

#include "base/bytes.h"
#include "proto/frame.h"

enum batch_kind {
    BATCH_OBJECT,  /* struct batch_object */
    BATCH_HOLDING, /* struct batch_holding */
    BATCH_ANSWER,  /* struct batch_answer */
    BATCH_VERSION, /* u64 */
    BATCH_KILL,    /* struct batch_kill */
};

enum {
    BATCH_REPLICAS_MAX = 31,
    BATCH_FOLDERS = 128, /* nodes below: of the view, by their place; from here on: not in it, `folders` of the message, by theirs */
    BATCH_NAME_MAX = 1024,
    BATCH_ANSWER_BYTES = 9,
    BATCH_VERSION_BYTES = 8,
    BATCH_HOLDING_BYTES = 25,
    BATCH_OBJECT_BYTES = 34, /* and what its replicas take */
    BATCH_REPLICA_BYTES = 2, /* and, on disk, */
    BATCH_PLACE_BYTES = 16,
    BATCH_KILL_BYTES = 11, /* and its name */
    BATCH_OBJECT_MOST = BATCH_OBJECT_BYTES + BATCH_REPLICAS_MAX * (BATCH_REPLICA_BYTES + BATCH_PLACE_BYTES),
};
#define BATCH_SIZE_MAX (((uint64_t)1 << 36) - 1)
#define BATCH_SEQUENCE_MAX (((uint64_t)1 << 40) - 1)

/* Where bytes lie in a node's folder. */
struct batch_place {
    uint64_t sequence; /* of the segment: 1 to BATCH_SEQUENCE_MAX */
    uint32_t block, blocks;
};

struct batch_replica {
    uint8_t node;
    bool memory, disk;        /* one of them, or both */
    struct batch_place place; /* on disk */
};

/* What an owner knows of a key, or is to know. Version 0: nothing is known, or it has none yet. */
struct batch_object {
    uint64_t version, size, checksum, end_ms;
    bool pinned, leased, replace;
    uint8_t count;
    struct batch_replica replicas[BATCH_REPLICAS_MAX]; /* nodes rise */
};

/* What one node has of a key: nothing (all zero), or that version. */
struct batch_holding {
    uint64_t version;
    bool memory, disk;
    struct batch_place place;
};

/* What became of a key. */
struct batch_answer {
    enum code code;
    uint64_t version;
};

enum { BATCH_KILL_KEY = 1, BATCH_KILL_PREFIX = 2, BATCH_KILL_ALL = 3 };
/* What has this name, or begins with it, is dead up to that version. */
struct batch_kill {
    uint8_t kind;
    uint64_t version;
    struct span name; /* none for all; else 1 to BATCH_NAME_MAX */
};

/* ---- building ---- */

struct batch {
    uint8_t *at;
    size_t len, room;
};
/* Append one, which is as it must be. False: there is no room for it; nothing was written. */
bool batch_put_object(struct batch *batch, const struct batch_object *object);
bool batch_put_holding(struct batch *batch, const struct batch_holding *holding);
bool batch_put_answer(struct batch *batch, const struct batch_answer *answer);
bool batch_put_version(struct batch *batch, uint64_t version);
bool batch_put_kill(struct batch *batch, const struct batch_kill *kill);

/* ---- reading ---- */

/* How many records of that kind these bytes are, every one as it must be and nothing behind the last; or KVD_EPROTO. */
int batch_count(enum batch_kind kind, struct span bytes);
/* The first of bytes that were counted as of its kind, which begin behind it then. There is one. */
void batch_take_object(struct span *bytes, struct batch_object *object);
void batch_take_holding(struct span *bytes, struct batch_holding *holding);
void batch_take_answer(struct span *bytes, struct batch_answer *answer);
void batch_take_version(struct span *bytes, uint64_t *version);
void batch_take_kill(struct span *bytes, struct batch_kill *kill);

#endif
