#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "proto/meta.h"
#include "proto/msg.h"

enum { NUMBERS = 3, TEXTS = 4, MAX_MSG_BYTES = 512 };

static struct arena arena;
static struct buffer packed;

static void setup(void)
{
    arena_init(&arena);
    buffer_init(&packed);
}

static void teardown(void)
{
    arena_fini(&arena);
    buffer_fini(&packed);
}

TestSuite(msg, .init = setup, .fini = teardown);

static struct span packed_span(void)
{
    return span_of(packed.at, packed.len);
}

static const struct schema *schema_at(unsigned index)
{
    static const struct schema *const parts[] = {&msg_failure, &msg_limits_part, &msg_replica_part, &msg_object_part};
    if (index < 256)
        return msg_request((uint8_t)index);
    if (index < 512)
        return msg_reply((uint8_t)(index - 256));
    return parts[index - 512];
}

enum { SCHEMAS = 516 };

/* ---- a message with every field of a schema set to something ---- */

static struct span some_texts[TEXTS] = {{(const uint8_t *)"", 0},
                                        {(const uint8_t *)"a", 1},
                                        {(const uint8_t *)"bc", 2},
                                        {(const uint8_t *)"thirty-three bytes of text, or so", 33}};
static uint64_t some_numbers[NUMBERS] = {0, 127, UINT64_MAX};

static void field_fill(const struct field *field, uint8_t *msg, uint64_t seed)
{
    void *at = msg + field->at;
    switch (field->type) {
    case FIELD_BOOL:
        *(bool *)at = true;
        break;
    case FIELD_U64:
        *(uint64_t *)at = seed << (seed % 57);
        break;
    case FIELD_STR:
    case FIELD_BIN:
        *(struct span *)at = some_texts[seed % TEXTS];
        break;
    case FIELD_KEYS:
    case FIELD_STRS:
        *(struct spans *)at = (struct spans){some_texts, TEXTS};
        break;
    case FIELD_U64S:
        *(struct u64s *)at = (struct u64s){some_numbers, NUMBERS};
        break;
    case FIELD_RAW:
        *(struct span *)at = span_of("\x81\xa1k\x92\x01\x80", 6);
        break;
    }
}

static bool spans_equal(const struct spans *a, const struct spans *b)
{
    bool same = a->count == b->count;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = span_equal(a->at[i], b->at[i]);
    return same;
}

static bool field_equal(const struct field *field, const uint8_t *a, const uint8_t *b)
{
    const void *x = a + field->at;
    const void *y = b + field->at;
    const struct u64s *numbers = x;
    switch (field->type) {
    case FIELD_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case FIELD_U64:
        return *(const uint64_t *)x == *(const uint64_t *)y;
    case FIELD_STR:
    case FIELD_BIN:
    case FIELD_RAW:
        return span_equal(*(const struct span *)x, *(const struct span *)y);
    case FIELD_KEYS:
    case FIELD_STRS:
        return spans_equal(x, y);
    case FIELD_U64S:
        return numbers->count == NUMBERS && memcmp(numbers->at, some_numbers, sizeof some_numbers) == 0;
    }
    return false;
}

static void check_round_trip(const struct schema *schema, uint32_t has)
{
    _Alignas(8) uint8_t msg[MAX_MSG_BYTES] = {0};
    _Alignas(8) uint8_t back[MAX_MSG_BYTES];
    memset(back, 0xee, sizeof back);
    memcpy(msg, &has, sizeof has);
    for (uint32_t i = 0; i < schema->count; i++)
        if (has >> i & 1u)
            field_fill(&schema->fields[i], msg, i + 1);
    packed.len = 0;
    cr_assert_eq(msg_encode(schema, msg, &packed), 0);
    const char *why = "";
    cr_assert_eq(msg_decode(schema, packed_span(), TEXTS, &arena, back, &why), 0, "%s: %s", schema->name, why);
    uint32_t has_back;
    memcpy(&has_back, back, sizeof has_back);
    cr_assert_eq(has_back, has, "%s", schema->name);
    for (uint32_t i = 0; i < schema->count; i++)
        if (has >> i & 1u)
            cr_assert(field_equal(&schema->fields[i], back, msg), "%s.%s", schema->name, schema->fields[i].name);
}

static uint32_t required_of(const struct schema *schema)
{
    uint32_t has = 0;
    for (uint32_t i = 0; i < schema->count; i++)
        has |= (uint32_t)schema->fields[i].required << i;
    return has;
}

Test(msg, every_schema_there_and_back)
{
    unsigned seen = 0;
    for (unsigned i = 0; i < SCHEMAS; i++) {
        const struct schema *schema = schema_at(i);
        if (!schema)
            continue;
        seen++;
        cr_assert(schema->size <= MAX_MSG_BYTES);
        uint32_t all = (uint32_t)((uint64_t)1 << schema->count) - 1;
        check_round_trip(schema, all);
        check_round_trip(schema, required_of(schema));
        for (uint32_t f = 0; f < schema->count; f++)
            check_round_trip(schema, required_of(schema) | 1u << f);
    }
    cr_assert_eq(seen, 2 * 28 + 4);
}

/* The arena has one array of spans and one of numbers, which two fields of a message would share. */
Test(msg, no_schema_has_two_arrays_of_a_kind)
{
    for (unsigned i = 0; i < SCHEMAS; i++) {
        const struct schema *schema = schema_at(i);
        unsigned spans = 0;
        unsigned numbers = 0;
        for (uint32_t f = 0; schema && f < schema->count; f++) {
            spans += schema->fields[f].type == FIELD_KEYS || schema->fields[f].type == FIELD_STRS;
            numbers += schema->fields[f].type == FIELD_U64S;
        }
        cr_assert(spans <= 1 && numbers <= 1);
    }
}

Test(msg, timeout_is_field_0_of_every_request)
{
    for (unsigned op = 0; op < 256; op++) {
        const struct schema *schema = msg_request((uint8_t)op);
        cr_assert_eq(schema != NULL, op_name((uint8_t)op) != NULL);
        cr_assert_eq(schema != NULL, msg_reply((uint8_t)op) != NULL);
        if (schema)
            cr_assert_str_eq(schema->fields[F_TIMEOUT].name, "timeout_ms");
    }
}

/* ---- what decoding says of bytes that it was not made for ---- */

static int decode(uint8_t op, const char *bytes, size_t len, void *out)
{
    const char *why = NULL;
    int err = msg_decode(msg_request(op), span_of(bytes, len), 4, &arena, out, &why);
    cr_assert_eq(why != NULL, err != 0);
    return err;
}

#define DECODE(op, text, out) decode(op, text, sizeof(text) - 1, out)

Test(msg, missing_fields_are_zero)
{
    struct msg_scan scan;
    memset(&scan, 0xee, sizeof scan);
    cr_assert_eq(decode(OP_SCAN, NULL, 0, &scan), 0);
    struct msg_scan zero = {0};
    cr_assert_eq(memcmp(&scan, &zero, sizeof scan), 0);
}

Test(msg, unknown_fields_are_ignored)
{
    struct msg_get get;
    cr_assert_eq(DECODE(OP_GET, "\x84\xa1x\x93\x01\xc0\x81\x01\x02\xa3key\xc4\x01k\xa0\xd4\x01\x02\xa4name\xca\x01\x02\x03\x04", &get), 0);
    cr_assert_eq(get.has, 1u << F_GET_KEY);
    cr_assert(span_equal(get.key, span_text("k")));
}

Test(msg, unknown_fields_with_a_mark_are_unsupported)
{
    struct msg_get get;
    cr_assert_eq(DECODE(OP_GET, "\x82\xa3key\xc4\x01k\xa5!must\xc3", &get), KVD_EUNSUPPORTED);
    cr_assert_eq(DECODE(OP_GET, "\x82\xa3key\xc4\x01k\xa1!\xc3", &get), KVD_EUNSUPPORTED);
    cr_assert_eq(DECODE(OP_GET, "\x82\xa3key\xc4\x01k\xa2k!\xc3", &get), 0);
}

Test(msg, a_field_twice)
{
    struct msg_get get;
    cr_assert_eq(DECODE(OP_GET, "\x82\xa3key\xc4\x01k\xa3key\xc4\x01k", &get), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_GET, "\x83\xa3key\xc4\x01k\xa1x\x01\xa1x\x02", &get), 0, "an unknown one may be");
}

Test(msg, a_required_field_missing)
{
    struct msg_get get;
    cr_assert_eq(DECODE(OP_GET, "\x80", &get), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_GET, "", &get), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_GET, "\x81\xa6offset\x01", &get), KVD_EPROTO);
}

Test(msg, wrong_types)
{
    struct msg_put put;
    cr_assert_eq(DECODE(OP_PUT, "\x81\xa3key\x01", &put), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT, "\x81\xa3key\xc0", &put), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT, "\x82\xa3key\xa1k\xa7replace\x01", &put), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT, "\x82\xa3key\xa1k\xa7replace\xc0", &put), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT,
                        "\x82\xa3key\xa1k\xa3"
                        "ack\xc4\x01m",
                        &put),
                 KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT,
                        "\x82\xa3key\xa1k\xa8"
                        "checksum\xff",
                        &put),
                 KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT,
                        "\x82\xa3key\xa1k\xa8"
                        "checksum\xca\x00\x00\x00\x00",
                        &put),
                 KVD_EPROTO);
    cr_assert_eq(DECODE(OP_PUT,
                        "\x82\xa3key\xa1k\xa8"
                        "checksum\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
                        &put),
                 KVD_EPROTO);
    struct msg_mget mget;
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\xc4\x01k", &mget), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x80", &mget), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x92\xc4\x01k\x05", &mget), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x92\xc4\x01k\xd4\x01k", &mget), KVD_EPROTO);
    struct msg_hello hello;
    cr_assert_eq(DECODE(OP_HELLO, "\x81\xa8versions\x91\xff", &hello), KVD_EPROTO);
    cr_assert_eq(DECODE(OP_HELLO,
                        "\x81\xa8versions\x91\xa1"
                        "1",
                        &hello),
                 KVD_EPROTO);
    struct msg_config config;
    cr_assert_eq(DECODE(OP_CONFIG, "\x81\xa3get\x91\xc4\x01k", &config), KVD_EPROTO, "names are str alone");
}

Test(msg, integers_of_any_width_and_signed_ones_that_are_not_negative)
{
    struct msg_get get;
    cr_assert_eq(DECODE(OP_GET, "\x83\xa3key\xa1k\xa6offset\xcf\x00\x00\x00\x00\x00\x00\x00\x05\xa6length\xd1\x01\x00", &get), 0);
    cr_assert_eq(get.offset, 5);
    cr_assert_eq(get.length, 256);
}

Test(msg, a_str_is_a_key_too)
{
    struct msg_mget mget;
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x92\xa2kk\xc4\x02mm", &mget), 0);
    cr_assert_eq(mget.keys.count, 2);
    cr_assert(span_equal(mget.keys.at[0], span_text("kk")));
    cr_assert(span_equal(mget.keys.at[1], span_text("mm")));
}

/* An ill-formed key is for the handler to judge. */
Test(msg, keys_of_any_length)
{
    static uint8_t long_key[1025];
    struct span keys[2] = {{long_key, sizeof long_key}, {long_key, 0}};
    struct msg_mget mget = {.has = 1u << F_MGET_KEYS, .keys = {keys, 2}};
    cr_assert_eq(msg_encode(msg_request(OP_MGET), &mget, &packed), 0);
    struct msg_mget back;
    const char *why;
    cr_assert_eq(msg_decode(msg_request(OP_MGET), packed_span(), 2, &arena, &back, &why), 0);
    cr_assert_eq(back.keys.at[0].len, 1025);
    cr_assert_eq(back.keys.at[1].len, 0);
}

Test(msg, too_many_items)
{
    struct msg_mget mget;
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x94\xa1k\xa1k\xa1k\xa1k", &mget), 0);
    cr_assert_eq(mget.keys.count, 4);
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x95\xa1k\xa1k\xa1k\xa1k\xa1k", &mget), KVD_ETOOLARGE);
    cr_assert_eq(DECODE(OP_MGET, "\x81\xa4keys\x90", &mget), 0);
    cr_assert_eq(mget.keys.count, 0);
    cr_assert_eq(mget.has, 1u << F_MGET_KEYS);
}

/* One arena serves big and small messages in turn; what it gives belongs to the last one. */
Test(msg, an_arena_is_used_again)
{
    enum { MANY = 4096 };
    static struct span keys[MANY];
    static char texts[MANY][12];
    for (int i = 0; i < MANY; i++)
        keys[i] = span_of(texts[i], (size_t)snprintf(texts[i], sizeof texts[i], "key-%d", i));
    for (uint32_t round = 0; round < 40; round++) {
        uint32_t count = round % 2 ? MANY : round;
        struct msg_look look = {.has = 1u << F_LOOK_KEYS, .keys = {keys, count}};
        packed.len = 0;
        cr_assert_eq(msg_encode(msg_request(OP_EXISTS), &look, &packed), 0);
        struct msg_look back;
        const char *why;
        cr_assert_eq(msg_decode(msg_request(OP_EXISTS), packed_span(), MANY, &arena, &back, &why), 0);
        cr_assert_eq(back.keys.count, count);
        for (uint32_t i = 0; i < count; i++)
            cr_assert(span_equal(back.keys.at[i], keys[i]));
    }
}

/* Nothing is read past the end, whatever is cut off. */
Test(msg, truncated_at_every_length)
{
    struct msg_look look = {.has = 1u << F_LOOK_KEYS | 1u << F_LOOK_LEASE, .keys = {some_texts, TEXTS}, .lease_ms = 70000};
    cr_assert_eq(msg_encode(msg_request(OP_MATCH), &look, &packed), 0);
    for (size_t len = 0; len < packed.len; len++) {
        char *copy = malloc(len ? len : 1);
        memcpy(copy, packed.at, len);
        cr_assert_eq(decode(OP_MATCH, copy, len, &look), KVD_EPROTO, "%zu", len);
        free(copy);
    }
}

/* ---- packing ---- */

Test(msg, packs_every_kind)
{
    pack_map(&packed, 7);
    pack_text(&packed, "text");
    pack_str(&packed, span_text("s"));
    pack_text(&packed, "bin");
    pack_bin(&packed, span_of("\x00\x01", 2));
    pack_text(&packed, "none");
    pack_bin(&packed, (struct span){NULL, 0});
    pack_text(&packed, "u");
    pack_u64(&packed, 70000);
    pack_text(&packed, "b");
    pack_bool(&packed, false);
    pack_text(&packed, "d");
    pack_double(&packed, 0.5);
    pack_text(&packed, "a");
    pack_array(&packed, 1);
    pack_raw(&packed, span_of("\xc0", 1));
    static const char wanted[] = "\x87\xa4text\xa1s\xa3"
                                 "bin\xc4\x02\x00\x01\xa4none\xc4\x00\xa1u\xce\x00\x01\x11\x70\xa1"
                                 "b\xc2\xa1"
                                 "d\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00\xa1"
                                 "a\x91\xc0";
    cr_assert_eq(packed.len, sizeof wanted - 1);
    cr_assert_arr_eq(packed.at, wanted, sizeof wanted - 1);
    cr_assert(!packed.failed);
    cr_assert_eq(meta_check(packed_span()), 0);
}

Test(msg, nothing_is_appended_after_a_failure)
{
    pack_u64(&packed, 1);
    packed.failed = true;
    pack_text(&packed, "more");
    cr_assert_eq(packed.len, 1);
    struct msg_empty empty = {0};
    cr_assert_eq(msg_encode(msg_reply(OP_PING), &empty, &packed), -ENOMEM);
}
