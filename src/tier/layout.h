/* layout.h - the first blocks of a segment's file: its header and the slots that say where its indexes are.
 *
 *     block 0           header
 *     blocks 1..slots   checkpoint slots, each written once, zero until then
 *     first_block ...   records and indexes
 *
 * Pure functions; any thread. Bytes that are parsed may be anything. docs/disk-format.md has it byte by byte.
 */
#ifndef KVD_TIER_LAYOUT_H
#define KVD_TIER_LAYOUT_H

#include "tier/record.h"

enum {
    LAYOUT_NAME_MAX = 255,
    LAYOUT_STRIDE_BYTES = 16 << 20, /* of records between two indexes */
    LAYOUT_SPARE_SLOTS = 4,
};

struct layout_head {
    uint8_t id[DISK_ID_BYTES];
    uint64_t sequence; /* as in the file's name */
    uint64_t full_bytes;
    uint64_t created_ms; /* wall clock */
    uint32_t slots;
    struct span node, cluster; /* at most LAYOUT_NAME_MAX bytes */
};

struct layout_slot {
    uint32_t ordinal; /* which slot it is, and which index of the segment */
    uint32_t count;   /* of the records that the index names */
    uint32_t block;   /* of the index */
    uint32_t blocks;
    bool final;
};

/* Slots in a segment of this full size; first block after them. */
uint32_t layout_slots(uint64_t full_bytes);
uint32_t layout_first_block(uint32_t slots);

/* Write one block. */
void layout_head_build(uint8_t *block, const struct layout_head *head);
/* 0, KVD_EFORMAT (a newer format), or KVD_ECORRUPT. Names point into `block`. */
int layout_head_parse(const uint8_t *block, struct layout_head *out);

void layout_slot_build(uint8_t *block, const uint8_t id[DISK_ID_BYTES], const struct layout_slot *slot);
enum { LAYOUT_SLOT_EMPTY = 1 };
/* 0, LAYOUT_SLOT_EMPTY (never written), or KVD_ECORRUPT: also when it is another segment's or not slot number `ordinal`. */
int layout_slot_parse(const uint8_t *block, const uint8_t id[DISK_ID_BYTES], uint32_t ordinal, struct layout_slot *out);

#endif
