#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "tier/record.h"

static struct record example(const char *key, uint64_t size)
{
    struct record record = {
        .sequence = 7, .version = 0x1122334455667788u, .node = 42, .expires_ms = 99, .size = size, .checksum = 1234, .key = span_text(key)};
    for (uint8_t i = 0; i < DISK_ID_BYTES; i++)
        record.segment_id[i] = i;
    return record;
}

static uint8_t *build(const struct record *record, size_t *len)
{
    struct record_shape shape = record_shape(record->key.len, record->size);
    *len = (size_t)shape.header_blocks * BLOCK_BYTES;
    uint8_t *at = aligned_alloc(BLOCK_BYTES, *len);
    uint64_t *sums = calloc(shape.chunks + 1, sizeof *sums);
    for (uint32_t i = 0; i < shape.chunks; i++)
        sums[i] = 1000 + i;
    memset(at, 0xee, *len);
    record_build(at, record, shape.chunks > 1 ? sums : NULL);
    free(sums);
    return at;
}

Test(record, shapes)
{
    /* 88 + 8 for one sum + 8 for the key + 8: a value shares the block up to what is left of it. */
    struct record_shape shape = record_shape(3, 0);
    cr_assert_eq(shape.header_bytes, 104);
    cr_assert(shape.shared);
    cr_assert_eq(shape.blocks, 1);
    cr_assert_eq(record_shape(3, 1).header_bytes, 112);
    cr_assert(record_shape(3, 4096 - 112).shared);
    shape = record_shape(3, 4096 - 111);
    cr_assert_not(shape.shared);
    cr_assert_eq(shape.blocks, 2);
    cr_assert_eq(record_shape(3, 4097).blocks, 3);
    cr_assert_eq(record_shape(8, 256 * 1024).chunks, 1);
    cr_assert_eq(record_shape(8, 256 * 1024 + 1).chunks, 2);
    shape = record_shape(1024, 256 * MIB);
    cr_assert_eq(shape.chunks, 1024);
    cr_assert_eq(shape.header_blocks, 3);
    cr_assert_leq(record_shape(RECORD_KEY_MAX, RECORD_VALUE_MAX).header_bytes, RECORD_HEADER_MAX_BYTES);
}

Test(record, a_header_of_two_blocks)
{
    struct record_shape shape = record_shape(16, 500 * (uint64_t)RECORD_CHUNK_BYTES);
    cr_assert_eq(shape.header_blocks, 2);
    cr_assert_not(shape.shared);
    cr_assert_eq(shape.blocks, 2 + 500 * 64);
}

Test(record, there_and_back)
{
    static const uint64_t sizes[] = {0, 1, 4000, 262144, 262145, 300 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct record record = example("some key", sizes[i]);
        size_t len;
        uint8_t *at = build(&record, &len);
        struct record back;
        cr_assert_eq(record_parse(at, len, &back), 0);
        cr_assert_eq(memcmp(back.segment_id, record.segment_id, DISK_ID_BYTES), 0);
        cr_assert_eq(back.sequence, 7);
        cr_assert_eq(back.version, record.version);
        cr_assert_eq(back.node, 42);
        cr_assert_eq(back.expires_ms, 99);
        cr_assert_eq(back.size, sizes[i]);
        cr_assert_eq(back.checksum, 1234);
        cr_assert(span_equal(back.key, record.key));
        struct record_shape shape = record_shape(record.key.len, sizes[i]);
        for (uint32_t c = 0; c < shape.chunks; c++)
            cr_assert_eq(record_sum(&back, c), shape.chunks > 1 ? 1000 + c : 1234);
        for (size_t byte = shape.header_bytes; byte < len; byte++)
            cr_assert_eq(at[byte], 0, "padding");
        free(at);
    }
}

/* The bytes of docs/disk-format.md. */
Test(record, layout_on_disk)
{
    struct record record = example("k", 5);
    size_t len;
    uint8_t *at = build(&record, &len);
    cr_assert_eq(memcmp(at, "KVDR\x01\x00\x01\x00", 8), 0);
    cr_assert_eq(get_le32(at + 8), 112);
    cr_assert_eq(get_le32(at + 12), 1);
    cr_assert_eq(get_le64(at + 32), 7);
    cr_assert_eq(get_le64(at + 40), 5);
    cr_assert_eq(get_le64(at + 48), 0x1122334455667788u);
    cr_assert_eq(get_le32(at + 76), 1);
    cr_assert_eq(get_le64(at + 80), 1234);
    cr_assert_eq(get_le64(at + 88), 1234);
    cr_assert_eq(at[96], 'k');
    cr_assert_eq(get_le64(at + 104), XXH3_64bits(at, 104));
    free(at);
}

Test(record, any_flipped_byte_is_seen)
{
    struct record record = example("another key", 600000);
    size_t len;
    uint8_t *at = build(&record, &len);
    uint32_t header_bytes = record_peek(at, len);
    for (uint32_t i = 0; i < header_bytes; i++) {
        struct record back;
        at[i] ^= 0x10;
        cr_assert_eq(record_parse(at, len, &back), KVD_ECORRUPT, "byte %u", i);
        at[i] ^= 0x10;
    }
    free(at);
}

Test(record, short_and_foreign_bytes)
{
    struct record record = example("k", 600 * MIB);
    size_t len;
    uint8_t *at = build(&record, &len);
    struct record back;
    uint32_t header_bytes = record_peek(at, BLOCK_BYTES);
    cr_assert_gt(header_bytes, BLOCK_BYTES);
    for (size_t cut = 0; cut < header_bytes; cut += 97)
        cr_assert_eq(record_parse(at, cut, &back), KVD_ECORRUPT);
    cr_assert_eq(record_parse(at, header_bytes, &back), 0);
    memset(at, 0, len);
    cr_assert_eq(record_peek(at, len), 0);
    memset(at, 0xff, len);
    cr_assert_eq(record_peek(at, len), 0);
    free(at);
}
