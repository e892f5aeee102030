#include "test/support/segment_image.h"

#include <string.h>
#include <xxhash.h>

#include "base/check.h"
#include "tier/index.h"
#include "tier/layout.h"

static const uint8_t id[DISK_ID_BYTES] = {2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5};

static void put_record(uint8_t *out, size_t at, uint64_t sequence, const char *key, uint64_t size, struct index_buffer *index)
{
    static const char text[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    uint8_t value[6000] = {0};
    CHECK(size <= sizeof value);
    for (uint64_t i = 0; i < size; i++)
        value[i] = (uint8_t)text[i % (sizeof text - 1)];
    struct record record = {
        .sequence = sequence, .version = 100 + sequence, .node = XXH3_64bits("n1", 2), .size = size, .key = span_text(key)};
    memcpy(record.segment_id, id, sizeof id);
    record.checksum = XXH3_64bits(value, size);
    struct record_shape shape = record_shape(record.key.len, size);
    record_build(out + at, &record, NULL);
    memcpy(out + at + (shape.shared ? shape.header_bytes : shape.header_blocks * BLOCK_BYTES), value, size);
    struct index_entry entry = {.key = record.key,
                                .version = record.version,
                                .size = size,
                                .checksum = record.checksum,
                                .block = (uint32_t)(at / BLOCK_BYTES),
                                .blocks = shape.blocks};
    CHECK(index_add(index, &entry) == 0);
}

static void put_index(uint8_t *out, size_t at, struct index_buffer *index, uint32_t ordinal, uint32_t from, uint64_t next, bool final)
{
    struct index_head head = {
        .next_sequence = next, .ordinal = ordinal, .from_block = from, .block = (uint32_t)(at / BLOCK_BYTES), .final = final};
    memcpy(head.segment_id, id, sizeof id);
    index_finish(index, &head);
    memcpy(out + at, index->at, index_bytes(index, 0));
    struct layout_slot slot = {.ordinal = ordinal, .count = index->count, .block = head.block, .blocks = 1, .final = final};
    layout_slot_build(out + (size_t)(1 + ordinal) * BLOCK_BYTES, id, &slot);
}

void segment_image(uint8_t *out, bool sealed)
{
    struct index_buffer first, last;
    CHECK(index_init(&first) == 0 && index_init(&last) == 0);
    memset(out, 0, IMAGE_FULL_BYTES);
    struct layout_head head = {.sequence = IMAGE_SEQUENCE, .full_bytes = IMAGE_FULL_BYTES, .slots = layout_slots(IMAGE_FULL_BYTES)};
    head.created_ms = 1700000000000;
    head.node = span_text("n1");
    head.cluster = span_text("kvd");
    memcpy(head.id, id, sizeof id);
    layout_head_build(out, &head);
    put_record(out, IMAGE_SMALL_AT, 0, "small", 10, &first);
    put_record(out, IMAGE_LARGE_AT, 1, "large", 5000, &first);
    put_index(out, IMAGE_INDEX_AT, &first, 0, IMAGE_SMALL_AT / BLOCK_BYTES, 2, false);
    put_record(out, IMAGE_LAST_AT, 2, "last", 0, &last);
    if (sealed)
        put_index(out, IMAGE_FINAL_AT, &last, 1, IMAGE_LAST_AT / BLOCK_BYTES, 3, true);
    index_fini(&first);
    index_fini(&last);
}

static void sum_record(uint8_t *at)
{
    uint32_t header_bytes = record_peek(at, BLOCK_BYTES);
    if (header_bytes > 0 && header_bytes <= BLOCK_BYTES)
        put_le64(at + header_bytes - 8, XXH3_64bits(at, header_bytes - 8));
}

static void sum_index(uint8_t *at)
{
    if (bytes_are_zero(at, BLOCK_BYTES))
        return;
    uint64_t payload = get_le64(at + 32);
    if (payload <= BLOCK_BYTES - INDEX_HEAD_BYTES)
        put_le64(at + 56, XXH3_64bits(at + INDEX_HEAD_BYTES, payload));
    put_le64(at + 64, XXH3_64bits(at, 64));
}

void segment_image_sum(uint8_t *at)
{
    put_le64(at + BLOCK_BYTES - 8, XXH3_64bits(at, BLOCK_BYTES - 8));
    for (size_t slot = 1; slot <= 4; slot++)
        if (!bytes_are_zero(at + slot * BLOCK_BYTES, BLOCK_BYTES))
            put_le64(at + slot * BLOCK_BYTES + 40, XXH3_64bits(at + slot * BLOCK_BYTES, 40));
    sum_record(at + IMAGE_SMALL_AT);
    sum_record(at + IMAGE_LARGE_AT);
    sum_record(at + IMAGE_LAST_AT);
    sum_index(at + IMAGE_INDEX_AT);
    sum_index(at + IMAGE_FINAL_AT);
}
