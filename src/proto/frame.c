#include "proto/frame.h"

#include <stddef.h>

#include "base/bytes.h"
#include "base/error.h"

/* Where the five type bytes stand, and what they must be: an array of five, u8, u8, u64, u32, u64. */
static const struct {
    uint8_t at;
    uint8_t byte;
} marks[] = {{0, 0x95}, {1, 0xcc}, {3, 0xcc}, {5, 0xcf}, {14, 0xce}, {19, 0xcf}};

enum { MARK_COUNT = sizeof marks / sizeof marks[0] };

void frame_encode(uint8_t out[FRAME_PREFIX_BYTES], const struct frame *frame)
{
    for (size_t i = 0; i < MARK_COUNT; i++)
        out[marks[i].at] = marks[i].byte;
    out[2] = frame->op;
    out[4] = frame->code;
    put_be64(out + 6, frame->id);
    put_be32(out + 15, frame->meta_len);
    put_be64(out + 20, frame->body_len);
}

int frame_decode(const uint8_t in[FRAME_PREFIX_BYTES], struct frame *frame)
{
    for (size_t i = 0; i < MARK_COUNT; i++)
        if (in[marks[i].at] != marks[i].byte)
            return KVD_EPROTO;
    frame->op = in[2];
    frame->code = in[4];
    frame->id = get_be64(in + 6);
    frame->meta_len = get_be32(in + 15);
    frame->body_len = get_be64(in + 20);
    return 0;
}

const char *op_name(uint8_t op)
{
    static const char *const names[] = {
        [OP_HELLO] = "HELLO",
        [OP_AUTH] = "AUTH",
        [OP_PING] = "PING",
        [OP_PUT] = "PUT",
        [OP_GET] = "GET",
        [OP_MGET] = "MGET",
        [OP_EXISTS] = "EXISTS",
        [OP_MATCH] = "MATCH",
        [OP_RELEASE] = "RELEASE",
        [OP_REMOVE] = "REMOVE",
        [OP_REMOVE_PREFIX] = "REMOVE_PREFIX",
        [OP_REMOVE_ALL] = "REMOVE_ALL",
        [OP_PIN] = "PIN",
        [OP_STAT] = "STAT",
        [OP_SCAN] = "SCAN",
        [OP_INFO] = "INFO",
        [OP_CONFIG] = "CONFIG",
        [OP_ADMIN] = "ADMIN",
        [OP_JOIN] = "JOIN",
        [OP_BEAT] = "BEAT",
        [OP_LOOKUP] = "LOOKUP",
        [OP_COMMIT] = "COMMIT",
        [OP_FORGET] = "FORGET",
        [OP_KILL] = "KILL",
        [OP_REPLICA] = "REPLICA",
        [OP_DROP] = "DROP",
        [OP_GATHER] = "GATHER",
        [OP_WATCH] = "WATCH",
    };
    return op < sizeof names / sizeof names[0] ? names[op] : NULL;
}

const char *code_name(uint8_t code)
{
    static const char *const names[] = {
        [CODE_OK] = "OK",
        [CODE_PRESENT] = "PRESENT",
        [CODE_NOT_FOUND] = "NOT_FOUND",
        [CODE_BAD_REQUEST] = "BAD_REQUEST",
        [CODE_UNSUPPORTED] = "UNSUPPORTED",
        [CODE_TOO_LARGE] = "TOO_LARGE",
        [CODE_NO_SPACE] = "NO_SPACE",
        [CODE_BUSY] = "BUSY",
        [CODE_DENIED] = "DENIED",
        [CODE_CORRUPT] = "CORRUPT",
        [CODE_IO_ERROR] = "IO_ERROR",
        [CODE_TIMEOUT] = "TIMEOUT",
        [CODE_CLOSING] = "CLOSING",
        [CODE_INTERNAL] = "INTERNAL",
    };
    return code < sizeof names / sizeof names[0] ? names[code] : NULL;
}
