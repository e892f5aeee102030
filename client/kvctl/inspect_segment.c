/* A segment, gone through as kvd's recovery does at start (src/tier/recovery.c), but to the end of it and with every byte looked at: what
 * its indexes cover is compared with what lies there, what they do not cover is walked by lengths. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "client/kvctl/inspect_impl.h"
#include "tier/index.h"
#include "tier/layout.h"

enum { MAX_SLOTS = 1 << 16 }; /* of a segment of 1 TiB */

/* A stretch that is stepped over: an index that is not good. */
struct skip {
    uint64_t offset, bytes;
};

struct segment {
    struct inspect *inspect;
    struct layout_head head;
    uint64_t end; /* of the file, in whole blocks */
    struct layout_slot *slots;
    struct skip *skips;
    uint32_t slot_count, skip_count, bad_indexes;
    uint64_t pos;
    bool expects; /* the next record's sequence number is known */
    uint64_t expect;
    bool final, tail_cut;
    uint64_t indexed, walked, voids, lost_bytes;
    uint64_t walk_from, good_end; /* of the last stretch that was walked */
    int err;                      /* -ENOMEM: give up */
};

/* ---- the header and the slots ---- */

static const char *head_fault(const uint8_t *block)
{
    if (memcmp(block, "KVDS", 4) != 0)
        return "the header's magic is not KVDS";
    if (get_le64(block + BLOCK_BYTES - 8) != XXH3_64bits(block, BLOCK_BYTES - 8))
        return "the header's sum is wrong";
    return "the header says what cannot be";
}

static void head_tell(const struct segment *segment)
{
    struct inspect *inspect = segment->inspect;
    const struct layout_head *head = &segment->head;

    inspect_figure(inspect, "sequence", INSPECT_COUNT, head->sequence);
    inspect_id(inspect, head->id);
    inspect_name(inspect, "node", head->node);
    inspect_name(inspect, "cluster", head->cluster);
    inspect_figure(inspect, "created_ms", INSPECT_TIME_MS, head->created_ms);
    inspect_figure(inspect, "full_bytes", INSPECT_BYTES, head->full_bytes);
    inspect_figure(inspect, "slots", INSPECT_COUNT, head->slots);
}

/* Names point into the inspector's buffer and are not kept. False: kvd leaves the file alone. */
static bool head_judge(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;
    uint64_t sequence = 0;

    const int err = inspect->source->bytes < BLOCK_BYTES ? KVD_ESHORT : layout_head_parse(inspect->header, &segment->head);
    if (err) {
        inspect_wrong(inspect, 0, "%s",
                      err == KVD_EFORMAT  ? "a segment of a newer format"
                      : err == KVD_ESHORT ? "the file ends within the header"
                                          : head_fault(inspect->header));
        return false;
    }
    head_tell(segment);
    if (!inspect_sequence(inspect->source->name, "", ".seg", &sequence))
        inspect_note(inspect, 0, "the file's name is not that of a segment: kvd would take no notice of it");
    else if (sequence != segment->head.sequence)
        inspect_wrong(inspect, 8, "the header has sequence %016" PRIx64 ", the name another", segment->head.sequence);
    segment->head.node = segment->head.cluster = (struct span){0};
    return sequence == 0 || sequence == segment->head.sequence;
}

static bool slot_is_sane(const struct segment *segment, const struct layout_slot *slot)
{
    const uint64_t blocks = segment->end / BLOCK_BYTES;

    return slot->block >= layout_first_block(segment->head.slots) && slot->blocks > 0 && slot->block < blocks &&
           slot->blocks <= blocks - slot->block;
}

static void slot_judge(struct segment *segment, const uint8_t *block, uint32_t ordinal)
{
    struct inspect *inspect = segment->inspect;
    const uint64_t offset = (uint64_t)(1 + ordinal) * BLOCK_BYTES;
    struct layout_slot slot;

    const int parsed = layout_slot_parse(block, segment->head.id, ordinal, &slot);
    if (parsed == LAYOUT_SLOT_EMPTY)
        return;
    if (parsed) {
        inspect_wrong(inspect, offset, "slot %" PRIu32 " is damaged: kvd does not use the index that it points to", ordinal);
        segment->bad_indexes++;
    } else if (!slot_is_sane(segment, &slot)) {
        inspect_wrong(inspect, offset, "slot %" PRIu32 " points out of the file: to block %" PRIu32 ", %" PRIu32 " long", ordinal,
                      slot.block, slot.blocks);
        segment->bad_indexes++;
    } else {
        segment->slots[segment->slot_count++] = slot;
        if (!bytes_are_zero(block + 48, BLOCK_BYTES - 48))
            inspect_wrong(inspect, offset + 48, "padding that is not zero after slot %" PRIu32 "; kvd does not look at it", ordinal);
    }
}

static int slot_compare(const void *a, const void *b)
{
    const struct layout_slot *left = a;
    const struct layout_slot *right = b;
    return left->block < right->block ? -1 : left->block > right->block;
}

/* False: kvd leaves the file alone. */
static bool slots_judge(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;
    const uint32_t count = segment->head.slots;
    int err = 0;

    if (count > MAX_SLOTS || (uint64_t)layout_first_block(count) * BLOCK_BYTES > segment->end) {
        inspect_wrong(inspect, 40, count > MAX_SLOTS ? "more slots than kvctl looks at" : "the file ends within the slots");
        return false;
    }
    segment->slots = calloc(count, sizeof *segment->slots);
    segment->skips = calloc(count, sizeof *segment->skips);
    if (!segment->slots || !segment->skips) {
        segment->err = -ENOMEM;
        return false;
    }
    for (uint32_t i = 0; i < count && !err; i++) {
        err = inspect_read(inspect, inspect->header, BLOCK_BYTES, (uint64_t)(1 + i) * BLOCK_BYTES);
        if (err)
            inspect_wrong(inspect, (uint64_t)(1 + i) * BLOCK_BYTES, "the slots cannot be read: %s", error_text(err));
        else
            slot_judge(segment, inspect->header, i);
    }
    qsort(segment->slots, segment->slot_count, sizeof *segment->slots, slot_compare);
    return !err;
}

/* ---- indexes, through a window ---- */

struct entries {
    struct inspect *inspect;
    uint64_t offset, left; /* of what is not in the window yet */
    size_t at, have;       /* the window's own */
};

static struct entries entries_of(struct inspect *inspect, const struct index_head *head)
{
    return (struct entries){
        .inspect = inspect, .offset = (uint64_t)head->block * BLOCK_BYTES + INDEX_HEAD_BYTES, .left = head->payload_bytes};
}

static int entries_fill(struct entries *entries)
{
    uint8_t *window = entries->inspect->window;
    const size_t rest = entries->have - entries->at;

    if (rest >= INDEX_ENTRY_BYTES + RECORD_KEY_MAX || entries->left == 0)
        return 0;
    memmove(window, window + entries->at, rest);
    const uint64_t more = min_u64(INSPECT_BUFFER_BYTES - rest, entries->left);
    const int err = inspect_read(entries->inspect, window + rest, more, entries->offset);
    if (err)
        return err;
    entries->offset += more;
    entries->left -= more;
    entries->at = 0;
    entries->have = rest + more;
    return 0;
}

enum { ENTRY_END, ENTRY_ONE };

/* ENTRY_ONE, ENTRY_END, KVD_ECORRUPT: no sense from here on; or -errno. The key is in the window until the next call. */
static int entries_next(struct entries *entries, struct index_entry *out)
{
    uint8_t *window = entries->inspect->window;

    const int err = entries_fill(entries);
    if (err < 0)
        return err;
    if (entries->at == entries->have)
        return ENTRY_END;
    struct index_cursor cursor = {window + entries->at, window + entries->have};
    if (!index_next(&cursor, out))
        return KVD_ECORRUPT;
    entries->at = (size_t)(cursor.at - window);
    return ENTRY_ONE;
}

static int payload_judge(struct inspect *inspect, const struct index_head *head)
{
    XXH3_state_t *sum = XXH3_createState();
    uint64_t offset = (uint64_t)head->block * BLOCK_BYTES + INDEX_HEAD_BYTES;
    int err = sum ? 0 : -ENOMEM;

    if (sum)
        (void)XXH3_64bits_reset(sum);
    for (uint64_t left = head->payload_bytes, len = 0; left > 0 && !err; left -= len, offset += len) {
        len = min_u64(INSPECT_BUFFER_BYTES, left);
        err = inspect_read(inspect, inspect->window, len, offset);
        if (!err)
            (void)XXH3_64bits_update(sum, inspect->window, len);
    }
    if (!err && XXH3_64bits_digest(sum) != head->payload_sum)
        err = KVD_ECORRUPT;
    (void)XXH3_freeState(sum);
    return err;
}

/* What kvd asks of an index before it believes it. NULL, or what is wrong. */
static const char *index_fault(struct segment *segment, const struct layout_slot *slot, struct index_head *head)
{
    struct inspect *inspect = segment->inspect;

    int err = inspect_read(inspect, inspect->window, BLOCK_BYTES, (uint64_t)slot->block * BLOCK_BYTES);
    if (err)
        return error_text(err);
    if (index_parse_head(inspect->window, BLOCK_BYTES, head))
        return "its header's sum is wrong";
    if (memcmp(head->segment_id, segment->head.id, DISK_ID_BYTES) != 0 || head->block != slot->block)
        return "it belongs to another segment, or to another place";
    if (head->from_block < layout_first_block(segment->head.slots) || index_head_blocks(head) > slot->blocks)
        return "it says what cannot be";
    err = payload_judge(inspect, head);
    return err == KVD_ECORRUPT ? "the sum of its entries is wrong" : err ? error_text(err) : NULL;
}

static void index_padding(struct segment *segment, const struct index_head *head)
{
    const uint64_t from = (uint64_t)head->block * BLOCK_BYTES + INDEX_HEAD_BYTES + head->payload_bytes;
    const uint64_t end = round_up(from, BLOCK_BYTES);
    int err = 0;

    const uint64_t at = inspect_not_zero(segment->inspect, from, end, &err);
    if (!err && at < end)
        inspect_wrong(segment->inspect, at, "padding that is not zero after an index; kvd does not look at it");
}

/* False: the index is passed over, and what it covers is walked. */
static bool index_judge(struct segment *segment, const struct layout_slot *slot, struct index_head *head)
{
    struct inspect *inspect = segment->inspect;
    const uint64_t offset = (uint64_t)slot->block * BLOCK_BYTES;

    const char *fault = index_fault(segment, slot, head);
    if (fault) {
        inspect_wrong(inspect, offset, "index %" PRIu32 " is not good (%s): kvd walks what it covers", slot->ordinal, fault);
        segment->skips[segment->skip_count++] = (struct skip){offset, (uint64_t)slot->blocks * BLOCK_BYTES};
        segment->bad_indexes++;
        return false;
    }
    if (head->ordinal != slot->ordinal || head->count != slot->count || head->final != slot->final ||
        index_head_blocks(head) != slot->blocks)
        inspect_wrong(inspect, offset, "index %" PRIu32 " and its slot do not say the same", slot->ordinal);
    index_padding(segment, head);
    return true;
}

/* ---- walking ---- */

/* A record at pos, as the walk needs it. 0, KVD_ECORRUPT and *why, or an error of reading. */
static int record_at(struct segment *segment, uint64_t offset, uint64_t end, struct record *record, struct record_shape *shape,
                     const char **why)
{
    struct inspect *inspect = segment->inspect;

    const int err = inspect_record_read(inspect, offset, end, record, shape, why);
    if (err)
        return err;
    *why = "a record of another segment";
    return memcmp(record->segment_id, segment->head.id, DISK_ID_BYTES) == 0 ? 0 : KVD_ECORRUPT;
}

static int value_at(struct segment *segment, uint64_t offset, const struct record *record, const struct record_shape *shape)
{
    const int err = inspect_value(segment->inspect, offset, record, shape);
    if (err == -ENOMEM)
        segment->err = err;
    return err;
}

static void record_passed(struct segment *segment, const struct record *record, const struct record_shape *shape)
{
    segment->expects = true;
    segment->expect = record->sequence + 1;
    segment->pos += (uint64_t)shape->blocks * BLOCK_BYTES;
}

/* False: the walk is over, *why says at what. */
static bool walk_record(struct segment *segment, uint64_t end, const char **why)
{
    struct record record;
    struct record_shape shape;
    const uint64_t offset = segment->pos;

    const int err = record_at(segment, offset, end, &record, &shape, why);
    if (err) {
        *why = err == KVD_ECORRUPT ? *why : error_text(err);
        return false;
    }
    *why = "a record out of its turn";
    if (segment->expects && record.sequence != segment->expect)
        return false;
    const bool is_void = value_at(segment, offset, &record, &shape) != 0;
    segment->voids += is_void;
    segment->walked += !is_void;
    inspect_tell(segment->inspect, offset, &record, &shape, is_void ? INSPECT_VOID : INSPECT_WALKED);
    record_passed(segment, &record, &shape);
    if (!is_void)
        segment->good_end = segment->pos;
    return true;
}

/* An index on the way is stepped over: by what it says itself, or, damaged, by its slot. */
static bool walk_index(struct segment *segment, uint64_t end)
{
    struct inspect *inspect = segment->inspect;
    struct index_head head;
    const uint64_t room = (end - segment->pos) / BLOCK_BYTES;

    if (room == 0 || inspect_read(inspect, inspect->header, BLOCK_BYTES, segment->pos))
        return false;
    if (index_parse_head(inspect->header, BLOCK_BYTES, &head) == 0 && (uint64_t)head.block * BLOCK_BYTES == segment->pos &&
        memcmp(head.segment_id, segment->head.id, DISK_ID_BYTES) == 0 && index_head_blocks(&head) <= room) {
        segment->pos += index_head_blocks(&head) * BLOCK_BYTES;
        segment->expects = true;
        segment->expect = head.next_sequence;
        return true;
    }
    for (uint32_t i = 0; i < segment->skip_count; i++) {
        if (segment->skips[i].offset == segment->pos && segment->skips[i].bytes <= end - segment->pos) {
            segment->pos += segment->skips[i].bytes;
            segment->expects = false;
            return true;
        }
    }
    return false;
}

static bool blank_at(const struct inspect *inspect, uint64_t offset)
{
    return inspect_read(inspect, inspect->header, BLOCK_BYTES, offset) == 0 && bytes_are_zero(inspect->header, BLOCK_BYTES);
}

/* Up to `end`, or to the first thing that is neither a record nor an index. Returns why it ended there; NULL at the end, or at zeros. */
static const char *walk(struct segment *segment, uint64_t end)
{
    const char *why = NULL;

    segment->walk_from = segment->good_end = segment->pos;
    while (!segment->err && segment->pos < end) {
        if (walk_index(segment, end) || walk_record(segment, end, &why))
            continue;
        return blank_at(segment->inspect, segment->pos) ? NULL : why;
    }
    return NULL;
}

/* What lies between two indexes and is covered by neither: one between them is damaged. */
static void walk_between(struct segment *segment, uint64_t end)
{
    const char *why = walk(segment, end);

    if (segment->pos < end) {
        inspect_wrong(segment->inspect, segment->pos,
                      "%s: what lies between here and the next good index, at %" PRIu64 ", is lost as long as it stays so",
                      why ? why : "nothing but zeros", end);
        segment->lost_bytes += end - segment->pos;
        segment->expects = false;
    }
    segment->pos = end;
}

/* ---- what an index covers ---- */

/* Blocks that no entry names: a write that failed leaves them, with or without a record in them. */
static void pass_unnamed(struct segment *segment, uint64_t end)
{
    struct inspect *inspect = segment->inspect;
    struct record record;
    struct record_shape shape;
    const char *why = NULL;

    while (segment->pos < end && !segment->err) {
        if (walk_index(segment, end))
            continue;
        const uint64_t offset = segment->pos;
        if (record_at(segment, offset, end, &record, &shape, &why)) {
            inspect_note(inspect, offset, "%" PRIu64 " bytes that the index does not name (a write that failed leaves such)", end - offset);
            segment->pos = end;
            segment->expects = false;
            return;
        }
        inspect_tell(inspect, offset, &record, &shape, INSPECT_UNNAMED);
        record_passed(segment, &record, &shape);
    }
}

static const char *entry_fault(const struct segment *segment, const struct index_entry *entry, const struct record *record)
{
    if (!span_equal(record->key, entry->key))
        return "the record there has another key than its index entry";
    if (record->version != entry->version)
        return "the record there has another version than its index entry";
    if (record->size != entry->size || record->checksum != entry->checksum)
        return "the record there has another size or sum than its index entry";
    if (record->expires_ms != entry->expires_ms)
        return "the record there expires at another time than its index entry says";
    if (segment->expects && record->sequence != segment->expect)
        return "a record out of its turn";
    return NULL;
}

/* The record cannot be told of: its entry can. */
static void tell_entry(struct segment *segment, const struct index_entry *entry)
{
    const struct record record = {
        .key = entry->key,
        .version = entry->version,
        .size = entry->size,
        .checksum = entry->checksum,
        .expires_ms = entry->expires_ms,
    };
    const struct record_shape shape = {.blocks = entry->blocks};

    inspect_tell(segment->inspect, (uint64_t)entry->block * BLOCK_BYTES, &record, &shape, INSPECT_DAMAGED);
}

static void entry_judge(struct segment *segment, const struct index_entry *entry)
{
    struct inspect *inspect = segment->inspect;
    const uint64_t offset = (uint64_t)entry->block * BLOCK_BYTES;
    struct record record;
    struct record_shape shape;
    const char *why = NULL;

    int err = record_at(segment, offset, segment->end, &record, &shape, &why);
    if (!err && (why = entry_fault(segment, entry, &record)) != NULL)
        err = KVD_ECORRUPT;
    if (err) {
        inspect_wrong(inspect, offset, "%s: kvd drops it when it is read", err == KVD_ECORRUPT ? why : error_text(err));
        tell_entry(segment, entry);
        segment->pos = max_u64(segment->pos, offset + (uint64_t)entry->blocks * BLOCK_BYTES);
        segment->expects = false;
        return;
    }
    err = value_at(segment, offset, &record, &shape);
    inspect_tell(inspect, offset, &record, &shape, err ? INSPECT_DAMAGED : INSPECT_INDEXED);
    if (offset == segment->pos)
        record_passed(segment, &record, &shape);
}

static void entry_pass(struct segment *segment, const struct index_head *head, const struct index_entry *entry)
{
    const uint64_t offset = (uint64_t)entry->block * BLOCK_BYTES;
    const uint64_t end = offset + (uint64_t)entry->blocks * BLOCK_BYTES;

    segment->indexed++;
    if (entry->block < head->from_block || end > (uint64_t)head->block * BLOCK_BYTES || offset < segment->pos) {
        inspect_wrong(segment->inspect, offset, "an index entry that points out of its stretch, or into another record");
        tell_entry(segment, entry);
        return;
    }
    pass_unnamed(segment, offset);
    entry_judge(segment, entry);
}

static void index_pass(struct segment *segment, const struct index_head *head)
{
    struct inspect *inspect = segment->inspect;
    const uint64_t offset = (uint64_t)head->block * BLOCK_BYTES;
    struct entries entries = entries_of(inspect, head);
    struct index_entry entry;
    uint64_t count = 0;
    int next = ENTRY_ONE;

    if ((uint64_t)head->from_block * BLOCK_BYTES < segment->pos)
        inspect_wrong(inspect, offset, "index %" PRIu32 " covers what another one covers", head->ordinal);
    while (!segment->err && (next = entries_next(&entries, &entry)) == ENTRY_ONE) {
        count++;
        entry_pass(segment, head, &entry);
    }
    if (next < 0)
        inspect_wrong(inspect, offset, "index %" PRIu32 " makes no sense after %" PRIu64 " entries", head->ordinal, count);
    else if (count != head->count)
        inspect_wrong(inspect, offset, "index %" PRIu32 " has %" PRIu64 " entries and says %" PRIu32, head->ordinal, count, head->count);
    pass_unnamed(segment, offset);
    segment->pos = offset + index_head_blocks(head) * BLOCK_BYTES;
    segment->expects = true;
    segment->expect = head->next_sequence;
    segment->final = head->final;
}

/* ---- the whole ---- */

static void pass_indexes(struct segment *segment)
{
    struct index_head head = {0};

    for (uint32_t i = 0; i < segment->slot_count && !segment->err; i++) {
        const struct layout_slot *slot = &segment->slots[i];
        if ((uint64_t)slot->block * BLOCK_BYTES < segment->pos || !index_judge(segment, slot, &head))
            continue;
        if ((uint64_t)head.from_block * BLOCK_BYTES > segment->pos)
            walk_between(segment, (uint64_t)head.from_block * BLOCK_BYTES);
        index_pass(segment, &head);
    }
}

static void rest_judge(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;
    int err = 0;

    if (!inspect->verify || segment->pos >= segment->end)
        return;
    const uint64_t at = inspect_not_zero(inspect, segment->pos, segment->end, &err);
    if (err)
        inspect_wrong(inspect, segment->pos, "what follows cannot be read: %s", error_text(err));
    else if (at < segment->end)
        inspect_wrong(inspect, at, "bytes after the last record that are not zero: kvd does not look for records there");
}

static void pass_tail(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;

    const char *why = walk(segment, segment->end);
    segment->tail_cut = why != NULL;
    if (why)
        inspect_wrong(inspect, segment->pos, "the tail is torn here: %s; what follows was never acknowledged as durable, or is damaged",
                      why);
    else
        rest_judge(segment);
}

static void length_judge(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;
    const uint64_t bytes = inspect->source->bytes;

    if (bytes % BLOCK_BYTES != 0)
        inspect_wrong(inspect, segment->end, "the file's length is no multiple of %d", BLOCK_BYTES);
    if (bytes > segment->head.full_bytes)
        inspect_wrong(inspect, segment->head.full_bytes, "the file is longer than its header allows");
    if (segment->final && segment->pos < segment->end)
        inspect_wrong(inspect, segment->pos, "%" PRIu64 " bytes after the final index: kvd does not look at them",
                      segment->end - segment->pos);
}

static void tell_start(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;
    char lost[80] = "";

    if (segment->lost_bytes > 0)
        snprintf(lost, sizeof lost, "; what was in %" PRIu64 " bytes is not found", segment->lost_bytes);
    if (segment->final)
        inspect_text(inspect, "at_start", "kvd finds %" PRIu64 " records by its indexes and %" PRIu64 " by walking%s", segment->indexed,
                     segment->walked, lost);
    else
        inspect_text(inspect, "at_start",
                     "kvd finds %" PRIu64 " records by its indexes, walks on from %" PRIu64 " and finds %" PRIu64
                     " more, gives it its last index at %" PRIu64 " and cuts it there%s%s",
                     segment->indexed, segment->walk_from, segment->walked, segment->good_end,
                     segment->tail_cut ? ": the torn tail is gone" : "", lost);
}

static void tell_sums(struct segment *segment)
{
    struct inspect *inspect = segment->inspect;

    inspect_text(inspect, "end", segment->final ? "sealed" : "open, or cut off: it has no final index");
    inspect_figure(inspect, "found", INSPECT_COUNT, inspect->found);
    inspect_figure(inspect, "found_bytes", INSPECT_BYTES, inspect->found_bytes);
    inspect_figure(inspect, "indexed", INSPECT_COUNT, segment->indexed);
    inspect_figure(inspect, "walked", INSPECT_COUNT, segment->walked);
    inspect_figure(inspect, "void", INSPECT_COUNT, segment->voids);
    inspect_figure(inspect, "expired", INSPECT_COUNT, inspect->expired);
    inspect_figure(inspect, "indexes", INSPECT_COUNT, segment->slot_count);
    inspect_figure(inspect, "bad_indexes", INSPECT_COUNT, segment->bad_indexes);
    inspect_figure(inspect, "end_offset", INSPECT_COUNT, segment->final ? segment->pos : segment->good_end);
    tell_start(segment);
}

static void pass_all(struct segment *segment)
{
    segment->pos = (uint64_t)layout_first_block(segment->head.slots) * BLOCK_BYTES;
    segment->expects = true;
    pass_indexes(segment);
    if (!segment->final && !segment->err)
        pass_tail(segment);
    if (!segment->err) {
        length_judge(segment);
        tell_sums(segment);
    }
}

int inspect_segment(struct inspect *inspect)
{
    struct segment segment = {.inspect = inspect, .end = inspect->source->bytes / BLOCK_BYTES * BLOCK_BYTES};

    inspect_text(inspect, "kind", "segment");
    inspect_figure(inspect, "file_bytes", INSPECT_BYTES, inspect->source->bytes);
    if (head_judge(&segment) && slots_judge(&segment))
        pass_all(&segment);
    else if (!segment.err)
        inspect_text(inspect, "at_start", "kvd leaves it alone");
    free(segment.slots);
    free(segment.skips);
    return segment.err;
}
