/* Whatever bytes a disk gives: headers of records, of segments, slots and node files. Nothing crashes, and what is accepted is in bounds.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/check.h"
#include "tier/layout.h"
#include "tier/node_file.h"
#include "tier/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_record(const uint8_t *at, size_t len)
{
    struct record record;
    uint32_t header_bytes = record_peek(at, len);
    CHECK(header_bytes <= RECORD_HEADER_MAX_BYTES);
    if (record_parse(at, len, &record) != 0)
        return;
    struct record_shape shape = record_shape(record.key.len, record.size);
    CHECK(shape.header_bytes == header_bytes && header_bytes <= len);
    CHECK(record.key.at >= at && record.key.at + record.key.len <= at + len);
    for (uint32_t i = 0; i < shape.chunks; i++)
        (void)record_sum(&record, i);
}

/* The sum would stop nearly everything: with a sum that is right, all that record_peek() lets through is a record. */
static void try_record_with_sum(const uint8_t *at, size_t len)
{
    uint32_t header_bytes = record_peek(at, len);
    if (header_bytes == 0 || header_bytes > len)
        return;
    uint8_t *copy = malloc(len);
    CHECK(copy);
    memcpy(copy, at, len);
    put_le64(copy + header_bytes - 8, XXH3_64bits(copy, header_bytes - 8));
    struct record record;
    CHECK(record_parse(copy, len, &record) == 0);
    try_record(copy, len);
    free(copy);
}

static void try_blocks(const uint8_t *at, size_t len)
{
    uint8_t *block = calloc(2, BLOCK_BYTES);
    CHECK(block);
    memcpy(block, at, len < 2 * BLOCK_BYTES ? len : 2 * BLOCK_BYTES);
    put_le64(block + BLOCK_BYTES - 8, XXH3_64bits(block, BLOCK_BYTES - 8));
    struct layout_head head;
    if (layout_head_parse(block, &head) == 0)
        CHECK(head.node.at + head.node.len <= block + BLOCK_BYTES && head.cluster.at + head.cluster.len <= block + BLOCK_BYTES);
    put_le64(block + 40, XXH3_64bits(block, 40));
    struct layout_slot slot;
    (void)layout_slot_parse(block, block + 16, get_le32(block + 8), &slot);
    struct node_state state;
    (void)node_file_parse(block, 2 * BLOCK_BYTES, span_text("node1"), span_text("test"), &state);
    (void)node_file_parse(at, len, span_text("node1"), span_text("test"), &state);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_record(data, size);
    try_record_with_sum(data, size);
    try_blocks(data, size);
    return 0;
}
