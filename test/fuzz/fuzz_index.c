/* Indexes of any bytes. The sums would stop nearly all of them, so entries are walked as well as if the sums were right. */
#include <string.h>

#include "base/check.h"
#include "tier/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const uint8_t *at, const struct index_head *head, const uint8_t *end)
{
    struct index_cursor cursor = index_entries(at, head);
    CHECK(cursor.end <= end);
    struct index_entry entry;
    while (index_next(&cursor, &entry)) {
        CHECK(entry.key.len > 0 && entry.key.len <= RECORD_KEY_MAX);
        CHECK(entry.key.at + entry.key.len <= end && cursor.at <= end);
        CHECK(entry.blocks == record_shape(entry.key.len, entry.size).blocks);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct index_head head;
    if (index_parse(data, size, &head) == 0)
        walk(data, &head, data + size);
    if (size >= INDEX_HEAD_BYTES) {
        struct index_head claimed = {.payload_bytes = size - INDEX_HEAD_BYTES};
        walk(data, &claimed, data + size);
    }
    return 0;
}
