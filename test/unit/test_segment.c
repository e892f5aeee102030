/* Segment headers, checkpoint slots and indexes: the pure parts of a segment's file. What a segment does is in test_disk.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tier/index.h"
#include "tier/layout.h"

static const uint8_t id[DISK_ID_BYTES] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static void head_make(uint8_t block[BLOCK_BYTES])
{
    struct layout_head head = {.sequence = 5,
                               .full_bytes = 256 * MIB,
                               .created_ms = 77,
                               .slots = layout_slots(256 * MIB),
                               .node = span_text("node1"),
                               .cluster = span_text("prod")};
    memcpy(head.id, id, sizeof id);
    layout_head_build(block, &head);
}

Test(layout, head_there_and_back)
{
    uint8_t block[BLOCK_BYTES];
    head_make(block);
    struct layout_head head;
    cr_assert_eq(layout_head_parse(block, &head), 0);
    cr_assert_eq(head.sequence, 5);
    cr_assert_eq(head.full_bytes, 256 * MIB);
    cr_assert_eq(head.created_ms, 77);
    cr_assert_eq(head.slots, 20);
    cr_assert_eq(layout_first_block(head.slots), 21);
    cr_assert(span_equal(head.node, span_text("node1")));
    cr_assert(span_equal(head.cluster, span_text("prod")));
    cr_assert_eq(memcmp(head.id, id, sizeof id), 0);
}

Test(layout, head_any_flipped_byte_is_seen)
{
    uint8_t block[BLOCK_BYTES];
    struct layout_head head;
    head_make(block);
    for (size_t i = 0; i < BLOCK_BYTES; i++) {
        block[i] ^= 0x40;
        cr_assert_lt(layout_head_parse(block, &head), 0, "byte %zu", i);
        block[i] ^= 0x40;
    }
}

Test(layout, head_of_a_newer_format)
{
    uint8_t block[BLOCK_BYTES];
    struct layout_head head;
    head_make(block);
    put_le16(block + 4, DISK_FORMAT + 1);
    cr_assert_eq(layout_head_parse(block, &head), KVD_EFORMAT);
}

Test(layout, slot)
{
    uint8_t block[BLOCK_BYTES];
    struct layout_slot slot = {.ordinal = 3, .count = 250, .block = 5000, .blocks = 7, .final = true};
    struct layout_slot back;
    memset(block, 0, sizeof block);
    cr_assert_eq(layout_slot_parse(block, id, 3, &back), LAYOUT_SLOT_EMPTY);
    layout_slot_build(block, id, &slot);
    cr_assert_eq(layout_slot_parse(block, id, 3, &back), 0);
    cr_assert_eq(back.count, 250);
    cr_assert_eq(back.block, 5000);
    cr_assert_eq(back.blocks, 7);
    cr_assert(back.final);
    cr_assert_eq(layout_slot_parse(block, id, 2, &back), KVD_ECORRUPT, "another slot's");
    uint8_t other[DISK_ID_BYTES] = {0};
    cr_assert_eq(layout_slot_parse(block, other, 3, &back), KVD_ECORRUPT, "another segment's");
    for (size_t i = 0; i < 48; i++) {
        block[i] ^= 1;
        cr_assert_eq(layout_slot_parse(block, id, 3, &back), KVD_ECORRUPT, "byte %zu", i);
        block[i] ^= 1;
    }
}

static void entry_add(struct index_buffer *buffer, unsigned i)
{
    char key[32];
    snprintf(key, sizeof key, "key-%u", i);
    struct index_entry entry = {
        .key = span_text(key), .version = 100 + i, .size = 5000, .checksum = i, .expires_ms = 3, .block = 30 + 3 * i, .blocks = 3};
    cr_assert_eq(record_shape(entry.key.len, entry.size).blocks, 3);
    cr_assert_eq(index_add(buffer, &entry), 0);
}

static struct index_head head_of(uint32_t block)
{
    struct index_head head = {.next_sequence = 12, .ordinal = 1, .from_block = 30, .block = block};
    memcpy(head.segment_id, id, sizeof id);
    return head;
}

Test(index, there_and_back)
{
    struct index_buffer buffer;
    cr_assert_eq(index_init(&buffer), 0);
    cr_assert_eq(index_bytes(&buffer, 0), BLOCK_BYTES);
    for (unsigned i = 0; i < 1000; i++)
        entry_add(&buffer, i);
    index_drop(&buffer, 30 + 3 * 500);
    index_drop(&buffer, 31);
    struct index_head head = head_of(30 + 3 * 1000);
    index_finish(&buffer, &head);
    uint64_t bytes = index_bytes(&buffer, 0);
    cr_assert_eq(bytes % BLOCK_BYTES, 0);
    struct index_head back;
    cr_assert_eq(index_parse(buffer.at, bytes, &back), 0);
    cr_assert_eq(back.count, 999);
    cr_assert_eq(back.next_sequence, 12);
    cr_assert_eq(back.from_block, 30);
    cr_assert_eq(back.block, 3030);
    cr_assert_not(back.final);
    cr_assert_eq(index_head_blocks(&back) * BLOCK_BYTES, bytes);
    struct index_cursor cursor = index_entries(buffer.at, &back);
    struct index_entry entry;
    unsigned count = 0;
    for (; index_next(&cursor, &entry); count++) {
        unsigned i = count < 500 ? count : count + 1;
        cr_assert_eq(entry.version, 100 + i);
        cr_assert_eq(entry.block, 30 + 3 * i);
        cr_assert_eq(entry.checksum, i);
        cr_assert_eq(entry.expires_ms, 3);
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert(span_equal(entry.key, span_text(key)));
    }
    cr_assert_eq(count, 999);
    cr_assert_eq(cursor.at, cursor.end);
    index_fini(&buffer);
}

Test(index, any_flipped_byte_is_seen)
{
    struct index_buffer buffer;
    cr_assert_eq(index_init(&buffer), 0);
    for (unsigned i = 0; i < 20; i++)
        entry_add(&buffer, i);
    struct index_head head = head_of(90);
    head.final = true;
    index_finish(&buffer, &head);
    for (size_t i = 0; i < buffer.len; i++) {
        struct index_head back;
        buffer.at[i] ^= 4;
        cr_assert_eq(index_parse(buffer.at, buffer.room, &back), KVD_ECORRUPT, "byte %zu", i);
        buffer.at[i] ^= 4;
    }
    struct index_head back;
    cr_assert_eq(index_parse(buffer.at, buffer.len - 1, &back), KVD_ECORRUPT, "cut");
    cr_assert_eq(index_parse(buffer.at, buffer.len, &back), 0);
    cr_assert(back.final);
    index_fini(&buffer);
}

Test(index, an_empty_one)
{
    struct index_buffer buffer;
    struct index_head back;
    struct index_entry entry;
    cr_assert_eq(index_init(&buffer), 0);
    struct index_head head = head_of(30);
    index_finish(&buffer, &head);
    cr_assert_eq(index_parse(buffer.at, BLOCK_BYTES, &back), 0);
    struct index_cursor cursor = index_entries(buffer.at, &back);
    cr_assert_not(index_next(&cursor, &entry));
    cr_assert_eq(cursor.at, cursor.end);
    index_fini(&buffer);
}

Test(index, an_entry_that_makes_no_sense_ends_the_walk)
{
    struct index_buffer buffer;
    struct index_head back;
    struct index_entry entry;
    cr_assert_eq(index_init(&buffer), 0);
    entry_add(&buffer, 0);
    size_t second = buffer.len;
    entry_add(&buffer, 1);
    put_le32(buffer.at + second + 4, 99); /* more blocks than its size takes */
    struct index_head head = head_of(90);
    index_finish(&buffer, &head);
    cr_assert_eq(index_parse(buffer.at, buffer.room, &back), 0);
    struct index_cursor cursor = index_entries(buffer.at, &back);
    cr_assert(index_next(&cursor, &entry));
    cr_assert_not(index_next(&cursor, &entry));
    cr_assert_neq(cursor.at, cursor.end);
    index_fini(&buffer);
}
