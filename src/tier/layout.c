#include "tier/layout.h"

#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum {
    HEAD_FORMAT = 4,
    HEAD_SEQUENCE = 8,
    HEAD_ID = 16,
    HEAD_FULL = 32,
    HEAD_SLOTS = 40,
    HEAD_CREATED = 48,
    HEAD_NODE_LEN = 56,
    HEAD_CLUSTER_LEN = 58,
    HEAD_NAMES = 64,
    HEAD_SUM = BLOCK_BYTES - 8,
};

enum {
    SLOT_FORMAT = 4,
    SLOT_FLAGS = 6,
    SLOT_ORDINAL = 8,
    SLOT_COUNT = 12,
    SLOT_ID = 16,
    SLOT_BLOCK = 32,
    SLOT_BLOCKS = 36,
    SLOT_SUM = 40,
    SLOT_FLAG_FINAL = 1,
};

static const uint8_t head_magic[4] = {'K', 'V', 'D', 'S'};
static const uint8_t slot_magic[4] = {'K', 'V', 'D', 'C'};

uint32_t layout_slots(uint64_t full_bytes)
{
    return (uint32_t)(full_bytes / LAYOUT_STRIDE_BYTES) + LAYOUT_SPARE_SLOTS;
}

uint32_t layout_first_block(uint32_t slots)
{
    return 1 + slots;
}

void layout_head_build(uint8_t *block, const struct layout_head *head)
{
    CHECK(head->node.len <= LAYOUT_NAME_MAX && head->cluster.len <= LAYOUT_NAME_MAX);
    memset(block, 0, BLOCK_BYTES);
    memcpy(block, head_magic, sizeof head_magic);
    put_le16(block + HEAD_FORMAT, DISK_FORMAT);
    put_le64(block + HEAD_SEQUENCE, head->sequence);
    memcpy(block + HEAD_ID, head->id, DISK_ID_BYTES);
    put_le64(block + HEAD_FULL, head->full_bytes);
    put_le32(block + HEAD_SLOTS, head->slots);
    put_le64(block + HEAD_CREATED, head->created_ms);
    put_le16(block + HEAD_NODE_LEN, (uint16_t)head->node.len);
    put_le16(block + HEAD_CLUSTER_LEN, (uint16_t)head->cluster.len);
    memcpy(block + HEAD_NAMES, head->node.at, head->node.len);
    memcpy(block + HEAD_NAMES + head->node.len, head->cluster.at, head->cluster.len);
    put_le64(block + HEAD_SUM, XXH3_64bits(block, HEAD_SUM));
}

int layout_head_parse(const uint8_t *block, struct layout_head *out)
{
    if (memcmp(block, head_magic, sizeof head_magic) != 0)
        return KVD_ECORRUPT;
    if (get_le16(block + HEAD_FORMAT) > DISK_FORMAT)
        return KVD_EFORMAT;
    if (get_le64(block + HEAD_SUM) != XXH3_64bits(block, HEAD_SUM))
        return KVD_ECORRUPT;
    size_t node_len = get_le16(block + HEAD_NODE_LEN);
    size_t cluster_len = get_le16(block + HEAD_CLUSTER_LEN);
    uint64_t full_bytes = get_le64(block + HEAD_FULL);
    uint32_t slots = get_le32(block + HEAD_SLOTS);
    bool sane = node_len <= LAYOUT_NAME_MAX && cluster_len <= LAYOUT_NAME_MAX && full_bytes / BLOCK_BYTES <= UINT32_MAX &&
                full_bytes % BLOCK_BYTES == 0 && slots == layout_slots(full_bytes);
    if (!sane)
        return KVD_ECORRUPT;
    memcpy(out->id, block + HEAD_ID, DISK_ID_BYTES);
    out->sequence = get_le64(block + HEAD_SEQUENCE);
    out->full_bytes = full_bytes;
    out->created_ms = get_le64(block + HEAD_CREATED);
    out->slots = slots;
    out->node = span_of(block + HEAD_NAMES, node_len);
    out->cluster = span_of(block + HEAD_NAMES + node_len, cluster_len);
    return 0;
}

void layout_slot_build(uint8_t *block, const uint8_t id[DISK_ID_BYTES], const struct layout_slot *slot)
{
    memset(block, 0, BLOCK_BYTES);
    memcpy(block, slot_magic, sizeof slot_magic);
    put_le16(block + SLOT_FORMAT, DISK_FORMAT);
    put_le16(block + SLOT_FLAGS, slot->final ? SLOT_FLAG_FINAL : 0);
    put_le32(block + SLOT_ORDINAL, slot->ordinal);
    put_le32(block + SLOT_COUNT, slot->count);
    memcpy(block + SLOT_ID, id, DISK_ID_BYTES);
    put_le32(block + SLOT_BLOCK, slot->block);
    put_le32(block + SLOT_BLOCKS, slot->blocks);
    put_le64(block + SLOT_SUM, XXH3_64bits(block, SLOT_SUM));
}

int layout_slot_parse(const uint8_t *block, const uint8_t id[DISK_ID_BYTES], uint32_t ordinal, struct layout_slot *out)
{
    if (bytes_are_zero(block, BLOCK_BYTES))
        return LAYOUT_SLOT_EMPTY;
    bool ours = memcmp(block, slot_magic, sizeof slot_magic) == 0 && get_le16(block + SLOT_FORMAT) == DISK_FORMAT &&
                get_le64(block + SLOT_SUM) == XXH3_64bits(block, SLOT_SUM) && memcmp(block + SLOT_ID, id, DISK_ID_BYTES) == 0;
    if (!ours || get_le32(block + SLOT_ORDINAL) != ordinal)
        return KVD_ECORRUPT;
    out->ordinal = ordinal;
    out->count = get_le32(block + SLOT_COUNT);
    out->block = get_le32(block + SLOT_BLOCK);
    out->blocks = get_le32(block + SLOT_BLOCKS);
    out->final = (get_le16(block + SLOT_FLAGS) & SLOT_FLAG_FINAL) != 0;
    return 0;
}
