#include <msgpack.h>
#include <stdlib.h>

#include "proto/msg.h"

enum { FIRST_BYTES = 256 };

void buffer_init(struct buffer *buffer)
{
    *buffer = (struct buffer){0};
}

void buffer_fini(struct buffer *buffer)
{
    free(buffer->at);
    *buffer = (struct buffer){0};
}

static bool buffer_grow(struct buffer *buffer, size_t need)
{
    size_t cap = buffer->cap ? buffer->cap : FIRST_BYTES;
    while (cap < need)
        cap *= 2;
    uint8_t *at = realloc(buffer->at, cap);
    if (!at)
        return false;
    buffer->at = at;
    buffer->cap = cap;
    return true;
}

/* msgpack-c's callback. */
static int buffer_write(void *data, const char *bytes, size_t len)
{
    struct buffer *buffer = data;
    if (buffer->failed)
        return -1;
    if (len > buffer->cap - buffer->len && !buffer_grow(buffer, buffer->len + len)) {
        buffer->failed = true;
        return -1;
    }
    if (len > 0)
        memcpy(buffer->at + buffer->len, bytes, len);
    buffer->len += len;
    return 0;
}

static msgpack_packer packer_of(struct buffer *buffer)
{
    msgpack_packer packer;
    msgpack_packer_init(&packer, buffer, buffer_write);
    return packer;
}

void pack_map(struct buffer *buffer, uint32_t pairs)
{
    msgpack_packer packer = packer_of(buffer);
    msgpack_pack_map(&packer, pairs);
}

void pack_array(struct buffer *buffer, uint32_t items)
{
    msgpack_packer packer = packer_of(buffer);
    msgpack_pack_array(&packer, items);
}

void pack_text(struct buffer *buffer, const char *text)
{
    pack_str(buffer, span_text(text));
}

void pack_str(struct buffer *buffer, struct span text)
{
    msgpack_packer packer = packer_of(buffer);
    msgpack_pack_str(&packer, text.len);
    msgpack_pack_str_body(&packer, text.at, text.len);
}

void pack_bin(struct buffer *buffer, struct span bytes)
{
    msgpack_packer packer = packer_of(buffer);
    msgpack_pack_bin(&packer, bytes.len);
    msgpack_pack_bin_body(&packer, bytes.at, bytes.len);
}

void pack_u64(struct buffer *buffer, uint64_t value)
{
    msgpack_packer packer = packer_of(buffer);
    msgpack_pack_uint64(&packer, value);
}

void pack_bool(struct buffer *buffer, bool value)
{
    msgpack_packer packer = packer_of(buffer);
    if (value)
        msgpack_pack_true(&packer);
    else
        msgpack_pack_false(&packer);
}

void pack_double(struct buffer *buffer, double value)
{
    msgpack_packer packer = packer_of(buffer);
    msgpack_pack_double(&packer, value);
}

void pack_raw(struct buffer *buffer, struct span msgpack)
{
    buffer_write(buffer, (const char *)msgpack.at, msgpack.len);
}
