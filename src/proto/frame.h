/* frame.h - the 28-byte prefix of every frame (docs/protocol.md). Pure functions; any thread. */
#ifndef KVD_PROTO_FRAME_H
#define KVD_PROTO_FRAME_H

#include <stdint.h>

enum { FRAME_PREFIX_BYTES = 28 };

enum op {
    OP_HELLO = 0x01,
    OP_AUTH = 0x02,
    OP_PING = 0x03,
    OP_PUT = 0x10,
    OP_GET = 0x11,
    OP_MGET = 0x12,
    OP_EXISTS = 0x13,
    OP_MATCH = 0x14,
    OP_RELEASE = 0x15,
    OP_REMOVE = 0x16,
    OP_REMOVE_PREFIX = 0x17,
    OP_REMOVE_ALL = 0x18,
    OP_PIN = 0x19,
    OP_STAT = 0x20,
    OP_SCAN = 0x21,
    OP_INFO = 0x22,
    OP_CONFIG = 0x23,
    OP_ADMIN = 0x24,
    OP_WATCH = 0x25,
    OP_JOIN = 0x40, /* from here to 0x5f: kvd to kvd */
    OP_BEAT = 0x41,
    OP_LOOKUP = 0x48,
    OP_COMMIT = 0x49,
    OP_FORGET = 0x4a,
    OP_KILL = 0x4b,
    OP_REPLICA = 0x4d,
    OP_DROP = 0x4e,
    OP_GATHER = 0x53,
};

enum code {
    CODE_OK = 0,
    CODE_PRESENT = 1,
    CODE_NOT_FOUND = 2,
    CODE_BAD_REQUEST = 16, /* from here up, meta has `message` */
    CODE_UNSUPPORTED = 17,
    CODE_TOO_LARGE = 18,
    CODE_NO_SPACE = 19,
    CODE_BUSY = 20,
    CODE_DENIED = 21,
    CODE_CORRUPT = 22,
    CODE_IO_ERROR = 23,
    CODE_TIMEOUT = 24,
    CODE_CLOSING = 25,
    CODE_INTERNAL = 26,
};

struct frame {
    uint8_t op;
    uint8_t code;
    uint64_t id;
    uint32_t meta_len;
    uint64_t body_len;
};

void frame_encode(uint8_t out[FRAME_PREFIX_BYTES], const struct frame *frame);

/* Returns 0, or KVD_EPROTO when a type byte is not the one that belongs there; *frame untouched then. */
int frame_decode(const uint8_t in[FRAME_PREFIX_BYTES], struct frame *frame);

/* "PUT", "NOT_FOUND"; NULL when unknown. Static storage. */
const char *op_name(uint8_t op);
const char *code_name(uint8_t code);

#endif
