#include "proto/meta.h"

#include "base/check.h"
#include "base/error.h"
#include "proto/msg.h"

enum kind { KIND_SCALAR, KIND_STR, KIND_BYTES, KIND_ARRAY, KIND_MAP, KIND_BAD };

/* The first bytes of one object: `head` bytes of type and lengths, then `payload` bytes of its own, then `children` objects. */
struct head {
    enum kind kind;
    uint32_t head;
    uint64_t payload;
    uint64_t children;
};

/* What each type byte from 0xc0 to 0xdf stands for. `width`: bytes of length or count after the type byte. */
struct shape {
    uint8_t kind;
    uint8_t width;
    uint8_t fixed; /* payload bytes beside what the length says */
};

static const struct shape shapes[32] = {
    {KIND_SCALAR, 0, 0},  /* c0 nil */
    {KIND_BAD, 0, 0},     /* c1 never used */
    {KIND_SCALAR, 0, 0},  /* c2 false */
    {KIND_SCALAR, 0, 0},  /* c3 true */
    {KIND_BYTES, 1, 0},   /* c4 bin 8 */
    {KIND_BYTES, 2, 0},   /* c5 bin 16 */
    {KIND_BYTES, 4, 0},   /* c6 bin 32 */
    {KIND_BYTES, 1, 1},   /* c7 ext 8: a byte of type more */
    {KIND_BYTES, 2, 1},   /* c8 ext 16 */
    {KIND_BYTES, 4, 1},   /* c9 ext 32 */
    {KIND_SCALAR, 0, 4},  /* ca float 32 */
    {KIND_SCALAR, 0, 8},  /* cb float 64 */
    {KIND_SCALAR, 0, 1},  /* cc uint 8 */
    {KIND_SCALAR, 0, 2},  /* cd uint 16 */
    {KIND_SCALAR, 0, 4},  /* ce uint 32 */
    {KIND_SCALAR, 0, 8},  /* cf uint 64 */
    {KIND_SCALAR, 0, 1},  /* d0 int 8 */
    {KIND_SCALAR, 0, 2},  /* d1 int 16 */
    {KIND_SCALAR, 0, 4},  /* d2 int 32 */
    {KIND_SCALAR, 0, 8},  /* d3 int 64 */
    {KIND_SCALAR, 0, 2},  /* d4 fixext 1 */
    {KIND_SCALAR, 0, 3},  /* d5 fixext 2 */
    {KIND_SCALAR, 0, 5},  /* d6 fixext 4 */
    {KIND_SCALAR, 0, 9},  /* d7 fixext 8 */
    {KIND_SCALAR, 0, 17}, /* d8 fixext 16 */
    {KIND_STR, 1, 0},     /* d9 str 8 */
    {KIND_STR, 2, 0},     /* da str 16 */
    {KIND_STR, 4, 0},     /* db str 32 */
    {KIND_ARRAY, 2, 0},   /* dc array 16 */
    {KIND_ARRAY, 4, 0},   /* dd array 32 */
    {KIND_MAP, 2, 0},     /* de map 16 */
    {KIND_MAP, 4, 0},     /* df map 32 */
};

static uint32_t length_read(const uint8_t *at, uint32_t width)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

/* The types whose length lies in the type byte, and small integers. */
static struct head head_short(uint8_t byte)
{
    uint32_t low = byte & 0x0f;
    if (byte >= 0xa0 && byte <= 0xbf)
        return (struct head){.kind = KIND_STR, .head = 1, .payload = byte & 0x1f};
    if (byte >= 0x90 && byte <= 0x9f)
        return (struct head){.kind = KIND_ARRAY, .head = 1, .children = low};
    if (byte >= 0x80 && byte <= 0x8f)
        return (struct head){.kind = KIND_MAP, .head = 1, .children = 2 * low};
    return (struct head){.kind = KIND_SCALAR, .head = 1};
}

/* Payload and children are covered by the bytes that are there when this returns 0; an object takes a byte at least. */
static int head_read(struct span bytes, struct head *out)
{
    if (bytes.len == 0)
        return KVD_EPROTO;
    uint8_t byte = bytes.at[0];
    struct head head = head_short(byte);
    if (byte >= 0xc0 && byte <= 0xdf) {
        struct shape shape = shapes[byte - 0xc0];
        if (shape.kind == KIND_BAD || bytes.len < 1u + shape.width)
            return KVD_EPROTO;
        uint64_t length = length_read(bytes.at + 1, shape.width);
        head = (struct head){.kind = shape.kind, .head = 1u + shape.width, .payload = shape.fixed};
        if (shape.kind == KIND_ARRAY || shape.kind == KIND_MAP)
            head.children = shape.kind == KIND_MAP ? 2 * length : length;
        else
            head.payload += length;
    }
    if (head.payload + head.children > bytes.len - head.head)
        return KVD_EPROTO;
    *out = head;
    return 0;
}

static struct span span_from(struct span bytes, size_t from)
{
    return span_of(bytes.at + from, bytes.len - from);
}

/* How long is the one object at the front? Walks it with a stack of what is left at each level: no recursion. */
static int object_measure(struct span bytes, uint32_t max_depth, size_t *out)
{
    CHECK(max_depth <= MSG_MAX_DEPTH);
    uint64_t left[MSG_MAX_DEPTH + 1] = {1};
    uint32_t depth = 0;
    size_t pos = 0;
    for (;;) {
        while (left[depth] == 0) {
            if (depth-- == 0) {
                *out = pos;
                return 0;
            }
        }
        struct head head;
        int err = head_read(span_from(bytes, pos), &head);
        if (err)
            return err;
        left[depth]--;
        pos += head.head + (size_t)head.payload;
        if (head.kind != KIND_ARRAY && head.kind != KIND_MAP)
            continue;
        if (++depth > max_depth)
            return KVD_EPROTO;
        left[depth] = head.children;
    }
}

static int container_open(struct span object, enum kind kind, struct meta_walk *walk)
{
    struct head head;
    if (head_read(object, &head) || head.kind != kind)
        return KVD_EPROTO;
    walk->bytes = span_from(object, head.head);
    walk->left = (uint32_t)(kind == KIND_MAP ? head.children / 2 : head.children);
    return 0;
}

int meta_map(struct span object, struct meta_walk *walk)
{
    return container_open(object, KIND_MAP, walk);
}

int meta_array(struct span object, struct meta_walk *walk)
{
    return container_open(object, KIND_ARRAY, walk);
}

static int object_take(struct span *bytes, struct span *object)
{
    size_t len;
    int err = object_measure(*bytes, MSG_MAX_DEPTH, &len);
    if (err)
        return err;
    *object = span_of(bytes->at, len);
    *bytes = span_from(*bytes, len);
    return 0;
}

int meta_next_item(struct meta_walk *walk, struct span *item)
{
    CHECK(walk->left > 0);
    int err = object_take(&walk->bytes, item);
    if (!err)
        walk->left--;
    return err;
}

int meta_next_pair(struct meta_walk *walk, struct span *key_text, struct span *value)
{
    CHECK(walk->left > 0);
    struct head head;
    if (head_read(walk->bytes, &head) || head.kind != KIND_STR)
        return KVD_EPROTO;
    struct span text = span_of(walk->bytes.at + head.head, (size_t)head.payload);
    struct span rest = span_from(walk->bytes, head.head + text.len);
    int err = object_take(&rest, value);
    if (err)
        return err;
    *key_text = text;
    walk->bytes = rest;
    walk->left--;
    return 0;
}

int meta_check(struct span meta)
{
    if (meta.len == 0)
        return 0;
    size_t len;
    if (object_measure(meta, MSG_MAX_DEPTH, &len) || len != meta.len)
        return KVD_EPROTO;
    struct meta_walk walk;
    int err = meta_map(meta, &walk);
    while (!err && walk.left > 0) {
        struct span key;
        struct span value;
        err = meta_next_pair(&walk, &key, &value);
    }
    return err;
}
