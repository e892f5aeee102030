#include "proto/settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include <msgpack.h>

#include "base/error.h"

static bool to_text(const msgpack_object *value, char *out, size_t out_len)
{
    switch (value->type) {
    case MSGPACK_OBJECT_STR:
        if (value->via.str.size >= out_len || memchr(value->via.str.ptr, 0, value->via.str.size))
            return false;
        memcpy(out, value->via.str.ptr, value->via.str.size);
        out[value->via.str.size] = '\0';
        return true;
    case MSGPACK_OBJECT_BOOLEAN:
        snprintf(out, out_len, "%s", value->via.boolean ? "yes" : "no");
        return true;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        snprintf(out, out_len, "%llu", (unsigned long long)value->via.u64);
        return true;
    default:
        return false;
    }
}

static int each(const msgpack_object_map *map, setting_fn fn, void *arg)
{
    for (uint32_t i = 0; i < map->size; i++) {
        char name[SETTING_NAME_BYTES], value[SETTING_VALUE_BYTES];
        if (map->ptr[i].key.type != MSGPACK_OBJECT_STR || !to_text(&map->ptr[i].key, name, sizeof name) ||
            !to_text(&map->ptr[i].val, value, sizeof value))
            return KVD_EPROTO;
        int err = fn(arg, name, value);
        if (err)
            return err;
    }
    return 0;
}

int settings_each(struct span map, setting_fn fn, void *arg)
{
    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    size_t at = 0;
    msgpack_unpack_return got = msgpack_unpack_next(&unpacked, (const char *)map.at, map.len, &at);
    int err = KVD_EPROTO;
    if (got == MSGPACK_UNPACK_NOMEM_ERROR)
        err = -ENOMEM;
    else if (got == MSGPACK_UNPACK_SUCCESS && unpacked.data.type == MSGPACK_OBJECT_MAP)
        err = each(&unpacked.data.via.map, fn, arg);
    msgpack_unpacked_destroy(&unpacked);
    return err;
}
