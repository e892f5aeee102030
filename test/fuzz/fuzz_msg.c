/* Any meta against any schema: what decodes, encodes to bytes that decode to the same, and encode to themselves. */
#include <string.h>

#include "base/check.h"
#include "proto/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_MSG_BYTES = 512, MAX_ITEMS = 64 };

static const struct schema *schema_pick(uint8_t which, uint8_t op)
{
    switch (which & 7u) {
    case 0:
        return &msg_failure;
    case 1:
        return &msg_limits_part;
    case 2:
        return &msg_replica_part;
    case 3:
        return &msg_object_part;
    default:
        return which & 1u ? msg_reply(op) : msg_request(op);
    }
}

static void encode_again(const struct schema *schema, const void *msg)
{
    struct buffer once;
    struct buffer twice;
    buffer_init(&once);
    buffer_init(&twice);
    struct arena arena;
    arena_init(&arena);
    _Alignas(8) uint8_t back[MAX_MSG_BYTES];
    const char *why;
    CHECK(msg_encode(schema, msg, &once) == 0);
    CHECK(msg_decode(schema, span_of(once.at, once.len), MAX_ITEMS, &arena, back, &why) == 0);
    CHECK(msg_encode(schema, back, &twice) == 0);
    CHECK(once.len == twice.len && memcmp(once.at, twice.at, once.len) == 0);
    arena_fini(&arena);
    buffer_fini(&once);
    buffer_fini(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct schema *schema = size >= 2 ? schema_pick(data[0], data[1]) : NULL;
    if (!schema)
        return 0;
    CHECK(schema->size <= MAX_MSG_BYTES);
    struct arena arena;
    arena_init(&arena);
    _Alignas(8) uint8_t msg[MAX_MSG_BYTES];
    const char *why = NULL;
    int err = msg_decode(schema, span_of(data + 2, size - 2), MAX_ITEMS, &arena, msg, &why);
    CHECK((err != 0) == (why != NULL));
    if (!err)
        encode_again(schema, msg);
    arena_fini(&arena);
    return 0;
}
