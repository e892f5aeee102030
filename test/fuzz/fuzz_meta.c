/* Any bytes as meta: what meta_check() takes, msgpack-c takes too, whole, and the walk over it ends at its end. */
#include <msgpack.h>

#include "base/check.h"
#include "proto/meta.h"
#include "proto/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t depth_of(const msgpack_object *object)
{
    uint32_t deepest = 0;
    if (object->type == MSGPACK_OBJECT_ARRAY) {
        for (uint32_t i = 0; i < object->via.array.size; i++) {
            uint32_t depth = depth_of(&object->via.array.ptr[i]);
            deepest = depth > deepest ? depth : deepest;
        }
    } else if (object->type == MSGPACK_OBJECT_MAP) {
        for (uint32_t i = 0; i < object->via.map.size; i++) {
            uint32_t key = depth_of(&object->via.map.ptr[i].key);
            uint32_t value = depth_of(&object->via.map.ptr[i].val);
            uint32_t depth = key > value ? key : value;
            deepest = depth > deepest ? depth : deepest;
        }
    } else {
        return 0;
    }
    return deepest + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span meta = span_of(data, size);
    if (meta_check(meta) || size == 0)
        return 0;
    msgpack_unpacked whole;
    msgpack_unpacked_init(&whole);
    size_t used = 0;
    CHECK(msgpack_unpack_next(&whole, (const char *)data, size, &used) == MSGPACK_UNPACK_SUCCESS);
    CHECK(used == size && whole.data.type == MSGPACK_OBJECT_MAP && depth_of(&whole.data) <= MSG_MAX_DEPTH);
    struct meta_walk walk;
    CHECK(meta_map(meta, &walk) == 0 && walk.left == whole.data.via.map.size);
    while (walk.left > 0) {
        struct span key;
        struct span value;
        CHECK(meta_next_pair(&walk, &key, &value) == 0);
    }
    CHECK(walk.bytes.len == 0);
    msgpack_unpacked_destroy(&whole);
    return 0;
}
