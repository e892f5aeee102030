#include "proto/batch.h"

#include <limits.h>

#include "base/check.h"
#include "base/error.h"

enum { IN_MEMORY = 1, ON_DISK = 2 };
enum { PINNED = 1, LEASED = 2, REPLACE = 4 };

static void put_be16(uint8_t *at, uint16_t v)
{
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

static uint16_t get_be16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

/* ---- building ---- */

/* NULL: there is no room. */
static uint8_t *make_room(struct batch *batch, size_t len)
{
    if (batch->room - batch->len < len)
        return NULL;
    uint8_t *at = batch->at + batch->len;
    batch->len += len;
    return at;
}

static uint8_t kinds_of(bool memory, bool disk)
{
    return (uint8_t)((memory ? IN_MEMORY : 0) | (disk ? ON_DISK : 0));
}

static void put_place(uint8_t *at, const struct batch_place *place)
{
    put_be64(at, place->sequence);
    put_be32(at + 8, place->block);
    put_be32(at + 12, place->blocks);
}

static size_t replica_bytes(uint8_t kinds)
{
    return BATCH_REPLICA_BYTES + (kinds & ON_DISK ? (size_t)BATCH_PLACE_BYTES : 0);
}

bool batch_put_object(struct batch *batch, const struct batch_object *object)
{
    size_t len = BATCH_OBJECT_BYTES;
    for (unsigned i = 0; i < object->count; i++)
        len += replica_bytes(kinds_of(false, object->replicas[i].disk));
    uint8_t *at = make_room(batch, len);
    if (!at)
        return false;
    put_be64(at, object->version);
    put_be64(at + 8, object->size);
    put_be64(at + 16, object->checksum);
    put_be64(at + 24, object->end_ms);
    at[32] = (uint8_t)((object->pinned ? PINNED : 0) | (object->leased ? LEASED : 0) | (object->replace ? REPLACE : 0));
    at[33] = object->count;
    at += BATCH_OBJECT_BYTES;
    for (unsigned i = 0; i < object->count; i++) {
        const struct batch_replica *replica = &object->replicas[i];
        at[0] = replica->node;
        at[1] = kinds_of(replica->memory, replica->disk);
        if (replica->disk)
            put_place(at + BATCH_REPLICA_BYTES, &replica->place);
        at += replica_bytes(at[1]);
    }
    return true;
}

bool batch_put_holding(struct batch *batch, const struct batch_holding *holding)
{
    uint8_t *at = make_room(batch, BATCH_HOLDING_BYTES);
    if (!at)
        return false;
    put_be64(at, holding->version);
    at[8] = kinds_of(holding->memory, holding->disk);
    put_place(at + 9, holding->disk ? &holding->place : &(const struct batch_place){0});
    return true;
}

bool batch_put_answer(struct batch *batch, const struct batch_answer *answer)
{
    uint8_t *at = make_room(batch, BATCH_ANSWER_BYTES);
    if (!at)
        return false;
    at[0] = (uint8_t)answer->code;
    put_be64(at + 1, answer->version);
    return true;
}

bool batch_put_version(struct batch *batch, uint64_t version)
{
    uint8_t *at = make_room(batch, BATCH_VERSION_BYTES);
    if (!at)
        return false;
    put_be64(at, version);
    return true;
}

bool batch_put_kill(struct batch *batch, const struct batch_kill *kill)
{
    CHECK(kill->name.len <= BATCH_NAME_MAX);
    uint8_t *at = make_room(batch, BATCH_KILL_BYTES + kill->name.len);
    if (!at)
        return false;
    at[0] = kill->kind;
    put_be64(at + 1, kill->version);
    put_be16(at + 9, (uint16_t)kill->name.len);
    bytes_copy(at + BATCH_KILL_BYTES, kill->name.at, kill->name.len);
    return true;
}

/* ---- is it one? Each says how long the first record is, 0: it is none ---- */

static bool place_is_good(const uint8_t *at)
{
    uint64_t sequence = get_be64(at);
    uint32_t block = get_be32(at + 8), blocks = get_be32(at + 12);
    return sequence >= 1 && sequence <= BATCH_SEQUENCE_MAX && blocks >= 1 && blocks <= UINT32_MAX - block;
}

/* `node`: of the replica before, or -1. */
static size_t replica_length(struct span bytes, int node)
{
    if (bytes.len < BATCH_REPLICA_BYTES || bytes.at[0] <= node)
        return 0;
    uint8_t kinds = bytes.at[1];
    if (kinds < IN_MEMORY || kinds > (IN_MEMORY | ON_DISK) || bytes.len < replica_bytes(kinds))
        return 0;
    return !(kinds & ON_DISK) || place_is_good(bytes.at + BATCH_REPLICA_BYTES) ? replica_bytes(kinds) : 0;
}

static size_t object_length(struct span bytes)
{
    if (bytes.len < BATCH_OBJECT_BYTES || get_be64(bytes.at + 8) > BATCH_SIZE_MAX)
        return 0;
    if (bytes.at[32] > (PINNED | LEASED | REPLACE) || bytes.at[33] > BATCH_REPLICAS_MAX)
        return 0;
    size_t len = BATCH_OBJECT_BYTES;
    int node = -1;
    for (unsigned i = 0; i < bytes.at[33]; i++) {
        size_t more = replica_length(span_of(bytes.at + len, bytes.len - len), node);
        if (more == 0)
            return 0;
        node = bytes.at[len];
        len += more;
    }
    return len;
}

static size_t holding_length(struct span bytes)
{
    if (bytes.len < BATCH_HOLDING_BYTES || bytes.at[8] > (IN_MEMORY | ON_DISK))
        return 0;
    bool nothing = get_be64(bytes.at) == 0, on_disk = (bytes.at[8] & ON_DISK) != 0;
    bool good = nothing == (bytes.at[8] == 0) && (on_disk ? place_is_good(bytes.at + 9) : bytes_are_zero(bytes.at + 9, BATCH_PLACE_BYTES));
    return good ? BATCH_HOLDING_BYTES : 0;
}

static size_t answer_length(struct span bytes)
{
    return bytes.len >= BATCH_ANSWER_BYTES && code_name(bytes.at[0]) ? BATCH_ANSWER_BYTES : 0;
}

static size_t version_length(struct span bytes)
{
    return bytes.len >= BATCH_VERSION_BYTES ? BATCH_VERSION_BYTES : 0;
}

static size_t kill_length(struct span bytes)
{
    if (bytes.len < BATCH_KILL_BYTES || bytes.at[0] < BATCH_KILL_KEY || bytes.at[0] > BATCH_KILL_ALL)
        return 0;
    size_t name = get_be16(bytes.at + 9);
    bool good = name <= BATCH_NAME_MAX && (name == 0) == (bytes.at[0] == BATCH_KILL_ALL) && bytes.len - BATCH_KILL_BYTES >= name;
    return good ? BATCH_KILL_BYTES + name : 0;
}

int batch_count(enum batch_kind kind, struct span bytes)
{
    static size_t (*const lengths[])(struct span) = {[BATCH_OBJECT] = object_length,
                                                     [BATCH_HOLDING] = holding_length,
                                                     [BATCH_ANSWER] = answer_length,
                                                     [BATCH_VERSION] = version_length,
                                                     [BATCH_KILL] = kill_length};
    int count = 0;
    while (bytes.len > 0) {
        size_t len = lengths[kind](bytes);
        if (len == 0 || count == INT_MAX)
            return KVD_EPROTO;
        CHECK(len <= bytes.len);
        bytes = span_of(bytes.at + len, bytes.len - len);
        count++;
    }
    return count;
}

/* ---- reading ---- */

static const uint8_t *pass(struct span *bytes, size_t len)
{
    const uint8_t *at = bytes->at;
    CHECK(len > 0 && len <= bytes->len);
    *bytes = span_of(at + len, bytes->len - len);
    return at;
}

static struct batch_place get_place(const uint8_t *at)
{
    return (struct batch_place){get_be64(at), get_be32(at + 8), get_be32(at + 12)};
}

void batch_take_object(struct span *bytes, struct batch_object *object)
{
    const uint8_t *at = pass(bytes, object_length(*bytes));
    *object = (struct batch_object){
        .version = get_be64(at),
        .size = get_be64(at + 8),
        .checksum = get_be64(at + 16),
        .end_ms = get_be64(at + 24),
        .pinned = (at[32] & PINNED) != 0,
        .leased = (at[32] & LEASED) != 0,
        .replace = (at[32] & REPLACE) != 0,
        .count = at[33],
    };
    at += BATCH_OBJECT_BYTES;
    for (unsigned i = 0; i < object->count; i++) {
        struct batch_replica *replica = &object->replicas[i];
        *replica = (struct batch_replica){.node = at[0], .memory = (at[1] & IN_MEMORY) != 0, .disk = (at[1] & ON_DISK) != 0};
        if (replica->disk)
            replica->place = get_place(at + BATCH_REPLICA_BYTES);
        at += replica_bytes(at[1]);
    }
}

void batch_take_holding(struct span *bytes, struct batch_holding *holding)
{
    const uint8_t *at = pass(bytes, holding_length(*bytes));
    *holding = (struct batch_holding){
        .version = get_be64(at), .memory = (at[8] & IN_MEMORY) != 0, .disk = (at[8] & ON_DISK) != 0, .place = get_place(at + 9)};
}

void batch_take_answer(struct span *bytes, struct batch_answer *answer)
{
    const uint8_t *at = pass(bytes, answer_length(*bytes));
    *answer = (struct batch_answer){(enum code)at[0], get_be64(at + 1)};
}

void batch_take_version(struct span *bytes, uint64_t *version)
{
    *version = get_be64(pass(bytes, version_length(*bytes)));
}

void batch_take_kill(struct span *bytes, struct batch_kill *kill)
{
    const uint8_t *at = pass(bytes, kill_length(*bytes));
    *kill = (struct batch_kill){at[0], get_be64(at + 1), span_of(at + BATCH_KILL_BYTES, get_be16(at + 9))};
}
