#include "tier/recovery.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/sum.h"

enum {
    BUFFER_BYTES = RECORD_HEADER_MAX_BYTES,
    STEP_RECORDS = 256,
    STEP_BYTES = 16 << 20,
    INDEX_MAX_BYTES = 256 << 20, /* a longer one is no index of ours */
};

void recovery_init(struct recovery *recovery, struct loop *loop, const char *path, const char *node, const char *cluster, uint64_t sequence)
{
    *recovery = (struct recovery){
        .loop = loop, .path = path, .node = node, .cluster = cluster, .sequence = sequence, .outcome = RECOVERY_MORE, .file.fd = -1};
}

void recovery_fini(struct recovery *recovery)
{
    free(recovery->slots);
    free(recovery->skips);
    index_fini(&recovery->index);
    index_fini(&recovery->walk);
    free(recovery->header);
    free(recovery->chunk);
    recovery->slots = NULL;
    recovery->skips = NULL;
    recovery->header = recovery->chunk = NULL;
}

/* ---- reading blocks ---- */

/* 0, KVD_ESHORT, or -errno. */
static int blocks_read(struct recovery *recovery, uint8_t *at, uint64_t block, uint64_t bytes)
{
    int64_t got = fs_read(recovery->loop, &recovery->file, at, bytes, block * BLOCK_BYTES);
    if (got < 0)
        return (int)got;
    return (uint64_t)got < bytes ? KVD_ESHORT : 0;
}

static uint32_t file_blocks(const struct recovery *recovery)
{
    return (uint32_t)min_u64(recovery->length / BLOCK_BYTES, UINT32_MAX);
}

/* ---- opening ---- */

static void slots_sort(struct recovery *recovery)
{
    for (uint32_t i = 1; i < recovery->slot_count; i++)
        for (uint32_t j = i; j > 0 && recovery->slots[j].block < recovery->slots[j - 1].block; j--) {
            struct layout_slot swap = recovery->slots[j];
            recovery->slots[j] = recovery->slots[j - 1];
            recovery->slots[j - 1] = swap;
        }
}

static bool slot_is_sane(const struct recovery *recovery, const struct layout_slot *slot)
{
    return slot->block >= layout_first_block(recovery->head.slots) && slot->blocks > 0 && slot->block < file_blocks(recovery) &&
           slot->blocks <= file_blocks(recovery) - slot->block && (uint64_t)slot->blocks * BLOCK_BYTES <= INDEX_MAX_BYTES;
}

static int slots_read(struct recovery *recovery)
{
    uint32_t count = recovery->head.slots;
    if (layout_first_block(count) > file_blocks(recovery))
        return KVD_ESHORT;
    uint8_t *blocks = aligned_alloc(BLOCK_BYTES, (size_t)count * BLOCK_BYTES);
    recovery->slots = calloc(count, sizeof *recovery->slots);
    recovery->skips = calloc(count, sizeof *recovery->skips);
    int err = blocks && recovery->slots && recovery->skips ? 0 : -ENOMEM;
    if (!err)
        err = blocks_read(recovery, blocks, 1, (uint64_t)count * BLOCK_BYTES);
    recovery->next_ordinal = 0;
    for (uint32_t i = 0; i < count && !err; i++) {
        struct layout_slot slot;
        int parsed = layout_slot_parse(blocks + (size_t)i * BLOCK_BYTES, recovery->head.id, i, &slot);
        if (parsed != LAYOUT_SLOT_EMPTY)
            recovery->next_ordinal = i + 1;
        if (parsed == 0 && slot_is_sane(recovery, &slot))
            recovery->slots[recovery->slot_count++] = slot;
        else if (parsed != LAYOUT_SLOT_EMPTY)
            recovery->bad_indexes++;
    }
    free(blocks);
    slots_sort(recovery);
    return err;
}

static int head_read(struct recovery *recovery)
{
    uint8_t *block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
    if (!block)
        return -ENOMEM;
    struct layout_head head = {0};
    int err = blocks_read(recovery, block, 0, BLOCK_BYTES);
    if (!err)
        err = layout_head_parse(block, &head);
    if (!err && (head.sequence != recovery->sequence || !span_equal(head.node, span_text(recovery->node)) ||
                 !span_equal(head.cluster, span_text(recovery->cluster))))
        err = KVD_ECORRUPT;
    free(block);
    if (err)
        return err;
    head.node = head.cluster = (struct span){0};
    recovery->head = head;
    return 0;
}

static void step_open(struct recovery *recovery)
{
    int err = fs_open(recovery->loop, &recovery->file, recovery->path, FS_DIRECT);
    if (err)
        goto fail_open;
    int64_t size = fs_size(recovery->loop, &recovery->file);
    recovery->length = size > 0 ? (uint64_t)size : 0;
    err = size < 0 ? (int)size : head_read(recovery);
    if (!err)
        err = slots_read(recovery);
    if (err)
        goto fail_read;
    recovery->opened = true;
    recovery->pos = layout_first_block(recovery->head.slots);
    return;
fail_read:
    (void)fs_close(recovery->loop, &recovery->file);
    if (size == 0 && fs_unlink(recovery->loop, recovery->path) == 0) {
        recovery->outcome = RECOVERY_EMPTY;
        return;
    }
fail_open:
    recovery->err = err;
    recovery->outcome = err == KVD_EFORMAT ? RECOVERY_NEWER : RECOVERY_UNREADABLE;
}

/* ---- walking ---- */

static int buffers_make(struct recovery *recovery)
{
    if (!recovery->header)
        recovery->header = aligned_alloc(BLOCK_BYTES, BUFFER_BYTES);
    if (!recovery->chunk)
        recovery->chunk = aligned_alloc(BLOCK_BYTES, BUFFER_BYTES);
    index_fini(&recovery->walk);
    return recovery->header && recovery->chunk ? index_init(&recovery->walk) : -ENOMEM;
}

static void walk_begin(struct recovery *recovery, uint32_t end)
{
    recovery->walk_from = recovery->good_end = recovery->pos;
    recovery->walk_end = end;
    recovery->walking = true;
    if (buffers_make(recovery)) {
        recovery->lost = recovery->read_failed = true;
        recovery->walk_end = recovery->pos;
    }
}

/* Read and judge the header at pos: its first block is in the buffer. */
static int header_read(struct recovery *recovery, struct record *record, struct record_shape *shape)
{
    uint32_t bytes = record_peek(recovery->header, BLOCK_BYTES);
    if (bytes == 0)
        return KVD_ECORRUPT;
    uint32_t rest = (uint32_t)round_up(bytes, BLOCK_BYTES) - BLOCK_BYTES;
    int err = rest > 0 ? blocks_read(recovery, recovery->header + BLOCK_BYTES, recovery->pos + 1, rest) : 0;
    if (!err)
        err = record_parse(recovery->header, BUFFER_BYTES, record);
    if (err)
        return err;
    *shape = record_shape(record->key.len, record->size);
    bool ours = memcmp(record->segment_id, recovery->head.id, DISK_ID_BYTES) == 0 && shape->blocks <= recovery->walk_end - recovery->pos &&
                (recovery->expect < 0 || record->sequence == (uint64_t)recovery->expect);
    return ours ? 0 : KVD_ECORRUPT;
}

/* 0, KVD_ECORRUPT, or an error of reading. */
static int value_verify(struct recovery *recovery, const struct record *record, const struct record_shape *shape)
{
    if (shape->shared) {
        const uint8_t *value = recovery->header + shape->header_bytes;
        return sum_of(value, record->size) == record->checksum ? 0 : KVD_ECORRUPT;
    }
    uint64_t block = (uint64_t)recovery->pos + shape->header_blocks;
    for (uint32_t i = 0; i < shape->chunks; i++) {
        uint64_t offset = (uint64_t)i * RECORD_CHUNK_BYTES;
        uint64_t len = min_u64(RECORD_CHUNK_BYTES, record->size - offset);
        int err = blocks_read(recovery, recovery->chunk, block + offset / BLOCK_BYTES, round_up(len, BLOCK_BYTES));
        if (err)
            return err;
        if (sum_of(recovery->chunk, len) != record_sum(record, i))
            return KVD_ECORRUPT;
    }
    return 0;
}

static int walk_keep(struct recovery *recovery, const struct record *record, const struct record_shape *shape)
{
    struct index_entry entry = {
        .key = record->key,
        .version = record->version,
        .size = record->size,
        .checksum = record->checksum,
        .expires_ms = record->expires_ms,
        .block = recovery->pos,
        .blocks = shape->blocks,
    };
    int err = index_add(&recovery->walk, &entry);
    if (err)
        return err;
    recovery->walked++;
    recovery->good_end = recovery->pos + shape->blocks;
    return 0;
}

/* A record whose header is good and whose value is not is void; its length is still to be trusted. */
static int walk_record(struct recovery *recovery)
{
    struct record record;
    struct record_shape shape;
    int err = header_read(recovery, &record, &shape);
    if (err)
        return err;
    err = value_verify(recovery, &record, &shape);
    if (err == KVD_ECORRUPT)
        recovery->torn++;
    else if (!err)
        err = walk_keep(recovery, &record, &shape);
    if (err && err != KVD_ECORRUPT)
        return err;
    recovery->expect = (int64_t)record.sequence + 1;
    recovery->pos += shape.blocks;
    return 0;
}

/* An index on the way is stepped over: by what it says itself, or, damaged, by its slot. */
static bool walk_index(struct recovery *recovery)
{
    struct index_head head;
    bool good = index_parse_head(recovery->header, BLOCK_BYTES, &head) == 0 && head.block == recovery->pos &&
                memcmp(head.segment_id, recovery->head.id, DISK_ID_BYTES) == 0 &&
                index_head_blocks(&head) <= recovery->walk_end - recovery->pos;
    if (good) {
        recovery->pos += (uint32_t)index_head_blocks(&head);
        recovery->expect = (int64_t)head.next_sequence;
        return true;
    }
    for (uint32_t i = 0; i < recovery->skip_count; i++)
        if (recovery->skips[i].block == recovery->pos && recovery->skips[i].blocks <= recovery->walk_end - recovery->pos) {
            recovery->pos += recovery->skips[i].blocks;
            recovery->expect = -1;
            return true;
        }
    return false;
}

/* One record or index. False when the walk is over. */
static bool walk_one(struct recovery *recovery)
{
    if (recovery->pos >= recovery->walk_end)
        return false;
    int err = blocks_read(recovery, recovery->header, recovery->pos, BLOCK_BYTES);
    if (!err && walk_index(recovery))
        return true;
    bool blank = !err && bytes_are_zero(recovery->header, BLOCK_BYTES);
    if (!err)
        err = walk_record(recovery);
    if (!err)
        return true;
    if (err != KVD_ECORRUPT && err != KVD_ESHORT)
        recovery->read_failed = recovery->lost = true;
    else if (!blank)
        recovery->torn++;
    return false;
}

/* The stretch before the index that is held: what was not reached is lost, but may be there another time. */
static void walk_over(struct recovery *recovery)
{
    recovery->walking = false;
    if (!recovery->index_held)
        return;
    if (recovery->pos < recovery->walk_end)
        recovery->lost = true;
    recovery->pos = recovery->walk_end;
    recovery->expect = -1;
}

static void step_walk(struct recovery *recovery)
{
    size_t before = recovery->walk.len;
    uint64_t count_before = recovery->walked;
    uint32_t pos_before = recovery->pos;
    bool more = true;
    while (more && recovery->walked - count_before < STEP_RECORDS && recovery->pos - pos_before < STEP_BYTES / BLOCK_BYTES)
        more = walk_one(recovery);
    recovery->records += recovery->walked - count_before;
    if (recovery->walk.len > before)
        recovery->found = (struct index_cursor){recovery->walk.at + before, recovery->walk.at + recovery->walk.len};
    if (!more)
        walk_over(recovery);
}

/* ---- indexes ---- */

static int index_load(struct recovery *recovery, const struct layout_slot *slot)
{
    size_t bytes = (size_t)slot->blocks * BLOCK_BYTES;
    index_fini(&recovery->index);
    recovery->index.at = aligned_alloc(BLOCK_BYTES, bytes);
    if (!recovery->index.at)
        return -ENOMEM;
    int err = blocks_read(recovery, recovery->index.at, slot->block, bytes);
    if (!err)
        err = index_parse(recovery->index.at, bytes, &recovery->index_head);
    if (err)
        return err;
    const struct index_head *head = &recovery->index_head;
    bool ours = memcmp(head->segment_id, recovery->head.id, DISK_ID_BYTES) == 0 && head->block == slot->block &&
                head->from_block >= layout_first_block(recovery->head.slots);
    return ours ? 0 : KVD_ECORRUPT;
}

static void index_announce(struct recovery *recovery)
{
    const struct index_head *head = &recovery->index_head;
    recovery->index_held = false;
    recovery->found = index_entries(recovery->index.at, head);
    recovery->records += head->count;
    recovery->pos = head->block + (uint32_t)index_head_blocks(head);
    recovery->expect = (int64_t)head->next_sequence;
    recovery->final = head->final;
}

static void index_is_bad(struct recovery *recovery, const struct layout_slot *slot, int err)
{
    recovery->bad_indexes++;
    recovery->skips[recovery->skip_count++] = (struct recovery_skip){slot->block, slot->blocks};
    if (err != KVD_ECORRUPT && err != KVD_ESHORT)
        recovery->read_failed = true;
}

static void step_index(struct recovery *recovery)
{
    const struct layout_slot *slot = &recovery->slots[recovery->slot_next++];
    if (slot->block < recovery->pos)
        return;
    int err = index_load(recovery, slot);
    if (err) {
        index_is_bad(recovery, slot, err);
        return;
    }
    recovery->index_held = true;
    if (recovery->index_head.from_block > recovery->pos)
        walk_begin(recovery, recovery->index_head.from_block);
}

/* ---- the end ---- */

static int end_write(struct recovery *recovery, bool with_index)
{
    uint64_t index_at = (uint64_t)recovery->good_end * BLOCK_BYTES;
    uint64_t bytes = with_index ? index_bytes(&recovery->walk, 0) : 0;
    int err = bytes > 0 ? fs_write(recovery->loop, &recovery->file, recovery->walk.at, bytes, index_at) : 0;
    if (!err)
        err = fs_truncate(recovery->loop, &recovery->file, index_at + bytes);
    if (!err)
        err = fs_sync(recovery->loop, &recovery->file);
    if (!err)
        recovery->length = index_at + bytes;
    return err;
}

static int end_slot(struct recovery *recovery)
{
    struct layout_slot slot = {
        .ordinal = recovery->next_ordinal,
        .count = recovery->walk.count,
        .block = recovery->good_end,
        .blocks = (uint32_t)(index_bytes(&recovery->walk, 0) / BLOCK_BYTES),
        .final = true,
    };
    layout_slot_build(recovery->chunk, recovery->head.id, &slot);
    int err = fs_write(recovery->loop, &recovery->file, recovery->chunk, BLOCK_BYTES, (uint64_t)(1 + slot.ordinal) * BLOCK_BYTES);
    return err ? err : fs_sync(recovery->loop, &recovery->file);
}

/* Give a segment that was cut off its last index and its length. Without a free slot, or room, it gets its length alone and is walked
 * again next time. */
static void step_end(struct recovery *recovery)
{
    recovery->outcome = RECOVERY_DONE;
    if (recovery->final || recovery->read_failed)
        return;
    struct index_head head = {
        .next_sequence = recovery->expect < 0 ? 0 : (uint64_t)recovery->expect,
        .ordinal = recovery->next_ordinal,
        .from_block = recovery->walk_from,
        .block = recovery->good_end,
        .final = true,
    };
    memcpy(head.segment_id, recovery->head.id, DISK_ID_BYTES);
    uint64_t end = (uint64_t)recovery->good_end * BLOCK_BYTES + index_bytes(&recovery->walk, 0);
    bool with_index = recovery->next_ordinal < recovery->head.slots && end <= recovery->head.full_bytes;
    index_finish(&recovery->walk, &head);
    recovery->err = end_write(recovery, with_index);
    if (!recovery->err && with_index)
        recovery->err = end_slot(recovery);
    if (recovery->err)
        recovery->lost = true;
}

static void tail_begin(struct recovery *recovery)
{
    recovery->tail = true;
    walk_begin(recovery, file_blocks(recovery));
}

void recovery_step(struct recovery *recovery)
{
    CHECK(recovery->outcome == RECOVERY_MORE);
    recovery->found = (struct index_cursor){0};
    if (!recovery->opened)
        step_open(recovery);
    else if (recovery->walking)
        step_walk(recovery);
    else if (recovery->index_held)
        index_announce(recovery);
    else if (recovery->slot_next < recovery->slot_count)
        step_index(recovery);
    else if (!recovery->final && !recovery->tail)
        tail_begin(recovery);
    else
        step_end(recovery);
}
