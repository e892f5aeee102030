#include "proto/msg.h"

#include <errno.h>
#include <msgpack.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "proto/meta.h"

void arena_init(struct arena *arena)
{
    *arena = (struct arena){0};
}

void arena_fini(struct arena *arena)
{
    free(arena->keys.at);
    free(arena->numbers.at);
    if (arena->zone)
        msgpack_zone_free(arena->zone);
    *arena = (struct arena){0};
}

static int arena_reset(struct arena *arena)
{
    if (arena->zone)
        msgpack_zone_clear(arena->zone);
    else
        arena->zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
    return arena->zone ? 0 : -ENOMEM;
}

static int room_for_spans(struct arena *arena, uint32_t count)
{
    if (count <= arena->cap)
        return 0;
    struct span *at = realloc(arena->keys.at, count * sizeof *at);
    if (!at)
        return -ENOMEM;
    arena->keys.at = at;
    arena->cap = count;
    return 0;
}

static int room_for_numbers(struct arena *arena, uint32_t count)
{
    if (count <= arena->numbers_cap)
        return 0;
    uint64_t *at = realloc(arena->numbers.at, count * sizeof *at);
    if (!at)
        return -ENOMEM;
    arena->numbers.at = at;
    arena->numbers_cap = count;
    return 0;
}

/* ---- one value ---- */

/* Where a field lies in its message; a cast away from const only in decoding, where the message is the caller's to write. */
static void *field_in(void *msg, const struct field *field)
{
    return (uint8_t *)msg + field->at;
}

static const void *field_of(const void *msg, const struct field *field)
{
    return (const uint8_t *)msg + field->at;
}

static int str_read(const msgpack_object *object, bool or_bin, bool or_str, struct span *out)
{
    if (or_str && object->type == MSGPACK_OBJECT_STR)
        *out = span_of(object->via.str.ptr, object->via.str.size);
    else if (or_bin && object->type == MSGPACK_OBJECT_BIN)
        *out = span_of(object->via.bin.ptr, object->via.bin.size);
    else
        return KVD_EPROTO;
    return 0;
}

static int spans_read(const msgpack_object_array *array, bool keys, struct arena *arena, struct spans *out)
{
    int err = room_for_spans(arena, array->size);
    for (uint32_t i = 0; !err && i < array->size; i++)
        err = str_read(&array->ptr[i], keys, true, &arena->keys.at[i]);
    if (err)
        return err;
    arena->keys.count = array->size;
    *out = arena->keys;
    return 0;
}

static int numbers_read(const msgpack_object_array *array, struct arena *arena, struct u64s *out)
{
    int err = room_for_numbers(arena, array->size);
    if (err)
        return err;
    for (uint32_t i = 0; i < array->size; i++) {
        if (array->ptr[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER)
            return KVD_EPROTO;
        arena->numbers.at[i] = array->ptr[i].via.u64;
    }
    arena->numbers.count = array->size;
    *out = arena->numbers;
    return 0;
}

static int array_read(const struct field *field, const msgpack_object *object, struct arena *arena, void *at)
{
    if (object->type != MSGPACK_OBJECT_ARRAY)
        return KVD_EPROTO;
    if (field->type == FIELD_U64S)
        return numbers_read(&object->via.array, arena, at);
    return spans_read(&object->via.array, field->type == FIELD_KEYS, arena, at);
}

static int object_read(const struct field *field, const msgpack_object *object, struct arena *arena, void *at)
{
    switch (field->type) {
    case FIELD_BOOL:
        if (object->type != MSGPACK_OBJECT_BOOLEAN)
            return KVD_EPROTO;
        *(bool *)at = object->via.boolean;
        return 0;
    case FIELD_U64:
        if (object->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
            return KVD_EPROTO;
        *(uint64_t *)at = object->via.u64;
        return 0;
    case FIELD_STR:
        return str_read(object, false, true, at);
    case FIELD_BIN:
        return str_read(object, true, true, at);
    case FIELD_KEYS:
    case FIELD_STRS:
    case FIELD_U64S:
        return array_read(field, object, arena, at);
    case FIELD_RAW:
        break;
    }
    check_failed(__FILE__, __LINE__, "a field of a type that is read here");
}

/* Too many items are refused by the count alone, before msgpack-c makes room for them. */
static int count_check(const struct field *field, struct span value, uint32_t max_items)
{
    if (field->type != FIELD_KEYS && field->type != FIELD_STRS && field->type != FIELD_U64S)
        return 0;
    struct meta_walk walk;
    int err = meta_array(value, &walk);
    if (err)
        return err;
    return walk.left <= max_items ? 0 : KVD_ETOOLARGE;
}

static int value_read(const struct field *field, struct span value, uint32_t max_items, struct arena *arena, void *at)
{
    if (field->type == FIELD_RAW) {
        *(struct span *)at = value;
        return 0;
    }
    int err = count_check(field, value, max_items);
    if (err)
        return err;
    msgpack_object object;
    size_t used = 0;
    /* The one entry of msgpack-c that takes a zone of ours, which is kept from message to message. */
    msgpack_unpack_return got = msgpack_unpack((const char *)value.at, value.len, &used, arena->zone, &object);
    if (got == MSGPACK_UNPACK_NOMEM_ERROR)
        return -ENOMEM;
    if (got != MSGPACK_UNPACK_SUCCESS || used != value.len)
        return KVD_EPROTO;
    return object_read(field, &object, arena, at);
}

/* ---- a whole message ---- */

static uint32_t field_find(const struct schema *schema, struct span name)
{
    uint32_t i = 0;
    while (i < schema->count && !span_equal(name, span_text(schema->fields[i].name)))
        i++;
    return i;
}

static const char *reason_of(int err)
{
    switch (err) {
    case KVD_ETOOLARGE:
        return "too many items in one array";
    case -ENOMEM:
        return "out of memory";
    default:
        return "a field is of the wrong type";
    }
}

static int pair_read(const struct schema *schema, struct span name, struct span value, uint32_t max_items, struct arena *arena, void *out,
                     const char **why)
{
    uint32_t *has = out;
    uint32_t index = field_find(schema, name);
    if (index == schema->count) {
        bool must_understand = name.len > 0 && name.at[0] == '!';
        if (must_understand)
            *why = "a field that begins with '!' is not known here";
        return must_understand ? KVD_EUNSUPPORTED : 0;
    }
    if (*has >> index & 1u) {
        *why = "a field is there twice";
        return KVD_EPROTO;
    }
    const struct field *field = &schema->fields[index];
    int err = value_read(field, value, max_items, arena, field_in(out, field));
    if (err)
        *why = reason_of(err);
    else
        *has |= 1u << index;
    return err;
}

static int required_check(const struct schema *schema, uint32_t has, const char **why)
{
    for (uint32_t i = 0; i < schema->count; i++) {
        if (schema->fields[i].required && !(has >> i & 1u)) {
            *why = "a required field is missing";
            return KVD_EPROTO;
        }
    }
    return 0;
}

int msg_decode(const struct schema *schema, struct span meta, uint32_t max_items, struct arena *arena, void *out, const char **why)
{
    memset(out, 0, schema->size);
    if (meta_check(meta)) {
        *why = "meta is not one whole map with str keys, at most 4 levels deep";
        return KVD_EPROTO;
    }
    int err = arena_reset(arena);
    if (err) {
        *why = reason_of(err);
        return err;
    }
    struct meta_walk walk = {0};
    if (meta.len > 0)
        CHECK(meta_map(meta, &walk) == 0);
    while (walk.left > 0) {
        struct span name;
        struct span value;
        CHECK(meta_next_pair(&walk, &name, &value) == 0); /* meta_check() has walked it */
        err = pair_read(schema, name, value, max_items, arena, out, why);
        if (err)
            return err;
    }
    return required_check(schema, *(uint32_t *)out, why);
}

/* ---- encoding ---- */

static void field_pack(const struct field *field, const void *at, struct buffer *out)
{
    const struct spans *spans = at;
    const struct u64s *numbers = at;
    switch (field->type) {
    case FIELD_BOOL:
        pack_bool(out, *(const bool *)at);
        break;
    case FIELD_U64:
        pack_u64(out, *(const uint64_t *)at);
        break;
    case FIELD_STR:
        pack_str(out, *(const struct span *)at);
        break;
    case FIELD_BIN:
        pack_bin(out, *(const struct span *)at);
        break;
    case FIELD_RAW:
        pack_raw(out, *(const struct span *)at);
        break;
    case FIELD_KEYS:
    case FIELD_STRS:
        pack_array(out, spans->count);
        for (uint32_t i = 0; i < spans->count; i++)
            (field->type == FIELD_KEYS ? pack_bin : pack_str)(out, spans->at[i]);
        break;
    case FIELD_U64S:
        pack_array(out, numbers->count);
        for (uint32_t i = 0; i < numbers->count; i++)
            pack_u64(out, numbers->at[i]);
        break;
    }
}

int msg_encode(const struct schema *schema, const void *msg, struct buffer *out)
{
    uint32_t has = *(const uint32_t *)msg;
    CHECK(has >> schema->count == 0);
    pack_map(out, (uint32_t)__builtin_popcount(has));
    for (uint32_t i = 0; i < schema->count; i++) {
        if (!(has >> i & 1u))
            continue;
        pack_text(out, schema->fields[i].name);
        field_pack(&schema->fields[i], field_of(msg, &schema->fields[i]), out);
    }
    return out->failed ? -ENOMEM : 0;
}
