/* disk_run.c - records on their way to a segment: those that lie one behind the other go by one operation. */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

/* ---- slots and runs ---- */

int disk_runs_init(struct disk *disk)
{
    disk->slots = calloc(WRITE_SLOTS, sizeof *disk->slots);
    disk->write_runs = calloc(WRITE_RUNS, sizeof *disk->write_runs);
    disk->slot_headers = aligned_alloc(BLOCK_BYTES, (size_t)WRITE_SLOTS * BLOCK_BYTES);
    if (!disk->slots || !disk->write_runs || !disk->slot_headers) {
        disk_runs_fini(disk);
        return -ENOMEM;
    }
    for (size_t i = 0; i < WRITE_SLOTS; i++)
        list_push_back(&disk->free_slots, &disk->slots[i].link);
    for (size_t i = 0; i < WRITE_RUNS; i++) {
        disk->write_runs[i].disk = disk;
        list_init(&disk->write_runs[i].slots);
        list_push_back(&disk->free_runs, &disk->write_runs[i].link);
    }
    return 0;
}

void disk_runs_fini(struct disk *disk)
{
    free(disk->slots);
    free(disk->write_runs);
    free(disk->slot_headers);
    disk->slots = NULL;
    disk->write_runs = NULL;
    disk->slot_headers = NULL;
}

bool disk_run_has_slot(const struct disk *disk)
{
    return !list_empty(&disk->free_slots);
}

static uint8_t *slot_header(struct disk *disk, struct write_slot *slot)
{
    slot->own_header = NULL;
    if (slot->header_bytes <= BLOCK_BYTES)
        return disk->slot_headers + (size_t)(slot - disk->slots) * BLOCK_BYTES;
    slot->own_header = aligned_alloc(BLOCK_BYTES, slot->header_bytes);
    return slot->own_header;
}

static void slot_give_back(struct disk *disk, struct write_slot *slot)
{
    free(slot->own_header);
    slot->own_header = NULL;
    slot->write = NULL;
    list_push_back(&disk->free_slots, &slot->link);
}

static void run_give_back(struct write_run *run)
{
    run->segment = NULL;
    list_push_back(&run->disk->free_runs, &run->link);
    run->disk->runs_used--;
}

/* ---- filling ---- */

struct write_run *disk_run_begin(struct disk *disk, struct segment *segment)
{
    struct list *free_run = list_pop_front(&disk->free_runs);
    if (!free_run)
        return NULL;
    struct write_run *run = CONTAINER_OF(free_run, struct write_run, link);
    disk->runs_used++;
    run->segment = segment;
    run->since_ms = loop_now_ms(disk->loop);
    run->at = run->end = segment->length;
    return run;
}

/* An index may have got its place behind the last one. */
bool disk_run_takes(const struct write_run *run, const struct segment *segment, const struct disk_write *write)
{
    return run->segment == segment && run->end == segment->length && run->end - run->at + write->bytes <= WRITE_RUN_BYTES;
}

static void slot_build_header(struct write_slot *slot, const struct record_shape *shape, uint64_t sequence)
{
    struct disk_write *write = slot->write;
    struct record record = {
        .sequence = sequence,
        .version = write->version,
        .node = write->segment->disk->node_hash,
        .expires_ms = write->expires_ms,
        .size = blob_size(write->blob),
        .checksum = write->checksum,
        .key = write->key,
    };
    memcpy(record.segment_id, write->segment->head.id, DISK_ID_BYTES);
    record_build(slot->header, &record, shape->chunks > 1 ? blob_sums(write->blob) : NULL);
    uint64_t copied = shape->shared ? 0 : record.size;
    while (copied < record.size) {
        size_t len;
        const uint8_t *from = blob_at(write->blob, copied, &len);
        len = min_u64(len, record.size - copied);
        memcpy(slot->header + shape->header_bytes + copied, from, len);
        copied += len;
    }
}

int disk_run_add(struct write_run *run, struct disk_write *write)
{
    struct disk *disk = run->disk;
    struct segment *segment = run->segment;
    struct record_shape shape = record_shape(write->key.len, blob_size(write->blob));
    CHECK(shape.shared || blob_room(write->blob) >= blob_room_needed(write->blob));
    struct write_slot *slot = CONTAINER_OF(list_pop_front(&disk->free_slots), struct write_slot, link);
    slot->header_bytes = (uint64_t)shape.header_blocks * BLOCK_BYTES;
    slot->header = slot_header(disk, slot);
    struct index_entry entry = {
        .key = write->key,
        .version = write->version,
        .size = blob_size(write->blob),
        .checksum = write->checksum,
        .expires_ms = write->expires_ms,
        .blocks = shape.blocks,
    };
    uint64_t sequence = segment->appender->next_sequence;
    int err = slot->header ? segment_append(segment, &slot->append, &entry) : -ENOMEM;
    if (err) {
        slot_give_back(disk, slot);
        return err;
    }
    CHECK(slot->append.offset == run->end);
    run->end += slot->append.bytes;
    list_push_back(&run->slots, &slot->link);
    write->segment = segment;
    write->since_ms = run->since_ms;
    write->where = (struct disk_where){segment, entry.block, entry.blocks};
    slot->write = write;
    slot_build_header(slot, &shape, sequence);
    return 0;
}

/* ---- writing ---- */

static void slot_done(struct write_run *run, struct write_slot *slot, int err)
{
    struct disk *disk = run->disk;
    struct disk_write *write = slot->write;
    list_remove(&slot->link);
    segment_appended(run->segment, &slot->append, err);
    slot_give_back(disk, slot);
    disk_write_done(disk, write, err);
}

/* From the last one on: those that are tried again are queued in their order. */
static void run_failed(struct write_run *run, int err)
{
    struct disk *disk = run->disk;
    const struct write_slot *first = CONTAINER_OF(list_first(&run->slots), struct write_slot, link);
    log_warn(disk->log, "write_failed", "file=%s what=record attempt=%d error=\"%s\"", run->segment->below, first->write->attempts,
             error_text(err));
    disk->figures.write_errors++;
    disk_health_note(disk, err);
    struct list *last;
    while ((last = list_last(&run->slots)))
        slot_done(run, CONTAINER_OF(last, struct write_slot, link), err);
    run_give_back(run);
}

static void run_write_piece(struct write_run *run);

static void run_piece_written(struct file_op *op)
{
    struct write_run *run = CONTAINER_OF(op, struct write_run, op);
    /* A short write goes on at the block where it stopped; one that gets nowhere has failed. */
    int64_t moved = op->result > 0 ? op->result & -(int64_t)BLOCK_BYTES : op->result;
    if (moved <= 0) {
        run_failed(run, moved < 0 ? (int)moved : -EIO);
        return;
    }
    disk_health_note(run->disk, 0);
    run->at += (uint64_t)moved;
    struct list *first;
    while ((first = list_first(&run->slots))) {
        struct write_slot *slot = CONTAINER_OF(first, struct write_slot, link);
        if (slot->append.offset + slot->append.bytes > run->at)
            break;
        slot_done(run, slot, 0);
    }
    if (first)
        run_write_piece(run);
    else
        run_give_back(run);
}

/* What of this record is not moved yet: header and value, from where they lie; at most `want` bytes in `room` vectors. Returns how many
 * vectors. */
static unsigned slot_iov(const struct write_slot *slot, uint64_t done, uint64_t want, struct iovec *iov, unsigned room)
{
    unsigned count = 0;
    if (done < slot->header_bytes) {
        uint64_t len = min_u64(slot->header_bytes - done, want);
        iov[count++] = (struct iovec){slot->header + done, len};
        want -= len;
        done += len;
    }
    if (want > 0 && count < room) {
        unsigned more = blob_iov(slot->write->blob, done - slot->header_bytes, want, iov + count, room - count);
        count += more < room - count ? more : room - count;
    }
    return count;
}

static void run_write_piece(struct write_run *run)
{
    struct disk *disk = run->disk;
    uint64_t end = min_u64(run->end, run->at + WRITE_PIECE_BYTES);
    unsigned count = 0;
    run->since_ms = loop_now_ms(disk->loop);
    for (struct list *at = run->slots.next; at != &run->slots; at = at->next) {
        struct write_slot *slot = CONTAINER_OF(at, struct write_slot, link);
        uint64_t from = max_u64(slot->append.offset, run->at);
        uint64_t upto = min_u64(slot->append.offset + slot->append.bytes, end);
        slot->write->since_ms = run->since_ms;
        if (from < upto && count < WRITE_RUN_IOVS)
            count += slot_iov(slot, from - slot->append.offset, upto - from, run->iov + count, WRITE_RUN_IOVS - count);
    }
    run->op.file = &run->segment->file;
    run->op.iov = run->iov;
    run->op.iov_count = count;
    run->op.offset = run->at;
    file_write_start(disk->loop, &run->op, run_piece_written);
}

void disk_run_go(struct write_run *run)
{
    if (list_empty(&run->slots))
        run_give_back(run);
    else
        run_write_piece(run);
}
