/* disk_read.c - reading a value, or a range of one, into a blob: pieces to the loop, then judgement. */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

enum { PIECE_IOVS = 1024, JUDGE_STEP_BYTES = 1 << 20 };

_Static_assert(JUDGE_STEP_BYTES % RECORD_CHUNK_BYTES == 0, "chunks are judged whole");

struct piece {
    struct file_op op;
    struct reading *reading;
    struct iovec *iov;
    uint64_t left_bytes;
};

/* One allocation: the header's blocks, this, its pieces, their vectors. */
struct reading {
    uint8_t *header; /* aligned; the allocation itself */
    struct disk *disk;
    struct disk_read *read;
    struct record_shape shape;
    uint32_t piece_count;
    /* when all is there */
    struct record record;
    uint64_t judged; /* bytes of the value */
    struct task judge;
    struct iovec *next_iov;
    struct piece pieces[];
};

/* ---- judgement ---- */

/* They are right: who writes the value on need not take them again. 0 or -ENOMEM. */
static int sums_keep(const struct disk_read *read, const struct record *record)
{
    if (read->length < read->size || blob_sums(read->blob) || blob_chunks(read->blob) <= 1)
        return 0;
    if (blob_sums_make(read->blob) != 0)
        return -ENOMEM;
    for (uint32_t i = 0; i < blob_chunks(read->blob); i++)
        blob_sums(read->blob)[i] = record_sum(record, i);
    return 0;
}

static void shared_copy(const struct reading *reading)
{
    const struct disk_read *read = reading->read;
    const uint8_t *from = reading->header + reading->shape.header_bytes + read->offset;
    for (uint64_t at = 0; at < read->length;) {
        size_t run;
        uint8_t *to = blob_at(read->blob, at, &run);
        run = min_u64(run, read->length - at);
        memcpy(to, from + at, run);
        at += run;
    }
}

/* Length comes before checksum: a short read of a file that is going is ordinary, and must not count as corruption. */
static int judge_header(struct reading *reading)
{
    const struct disk_read *read = reading->read;
    const struct record *record = &reading->record;
    if (read->err)
        return read->err;
    int err = record_parse(reading->header, (size_t)reading->shape.header_blocks * BLOCK_BYTES, &reading->record);
    if (err)
        return err;
    bool ours = memcmp(record->segment_id, read->where.segment->head.id, DISK_ID_BYTES) == 0 && span_equal(record->key, read->key) &&
                record->version == read->version && record->size == read->size && record->checksum == read->checksum;
    if (!ours)
        return KVD_ECORRUPT;
    if (reading->shape.shared)
        shared_copy(reading);
    return 0;
}

/* One step of the chunks that are left. */
static int judge_chunks(struct reading *reading)
{
    const struct disk_read *read = reading->read;
    uint64_t end = min_u64(reading->judged + JUDGE_STEP_BYTES, read->length);
    for (uint64_t at = reading->judged; at < end; at += RECORD_CHUNK_BYTES) {
        uint64_t len = min_u64(RECORD_CHUNK_BYTES, end - at);
        if (blob_range_sum(read->blob, at, len) != record_sum(&reading->record, (uint32_t)((read->offset + at) / RECORD_CHUNK_BYTES)))
            return KVD_ECORRUPT;
    }
    reading->judged = end;
    return end < read->length ? 0 : sums_keep(read, &reading->record);
}

/* ---- pieces ---- */

void disk_read_note(struct disk *disk, const struct disk_read *read, int err)
{
    disk->figures.reads++;
    if (!err)
        disk->figures.read_bytes += read->length;
    else if (err == KVD_ESHORT)
        disk->figures.read_short++;
    else if (err == KVD_ECORRUPT)
        disk->figures.read_corrupt++;
    else if (err != KVD_ESTALE)
        disk->figures.read_errors++;
}

static void reading_end(struct reading *reading, int err)
{
    struct disk *disk = reading->disk;
    struct disk_read *read = reading->read;
    struct segment *segment = read->where.segment;
    disk_read_note(disk, read, err);
    disk_health_note(disk, err == KVD_ECORRUPT || err == KVD_ESHORT ? 0 : err);
    if (err)
        log_warn(disk->log, "read_failed", "file=%s block=%u error=\"%s\"", segment->below, read->where.block, error_text(err));
    read->pieces = NULL;
    free(reading->header);
    segment->reads--;
    disk->reads--;
    disk_post(disk);
    disk_read_fn fn = read->fn;
    fn(read, err);
}

/* A value may be large: others have a turn between two steps. */
static void judge_step(struct task *task)
{
    struct reading *reading = CONTAINER_OF(task, struct reading, judge);
    struct disk_figures *figures = &reading->disk->figures;
    uint64_t begun_us = loop_cpu_us();
    int err = judge_chunks(reading);
    figures->longest_judge_us = max_u64(figures->longest_judge_us, loop_cpu_us() - begun_us);
    if (!err && reading->judged < reading->read->length)
        task_post(task);
    else
        reading_end(reading, err);
}

static void reading_judge(struct reading *reading)
{
    int err = judge_header(reading);
    if (err) {
        reading_end(reading, err);
        return;
    }
    task_init(&reading->judge, reading->disk->loop, judge_step);
    judge_step(&reading->judge);
}

/* Take `bytes` off the front of the vectors. */
static void piece_advance(struct piece *piece, uint64_t bytes)
{
    piece->op.offset += bytes;
    piece->left_bytes -= bytes;
    while (bytes > 0) {
        uint64_t len = min_u64(bytes, piece->iov->iov_len);
        piece->iov->iov_base = (uint8_t *)piece->iov->iov_base + len;
        piece->iov->iov_len -= len;
        bytes -= len;
        if (piece->iov->iov_len == 0) {
            piece->iov++;
            piece->op.iov_count--;
        }
    }
    piece->op.iov = piece->iov;
}

/* A read may stop early in the middle of a file: it goes on at the block where it stopped. */
static void piece_read(struct file_op *op)
{
    struct piece *piece = CONTAINER_OF(op, struct piece, op);
    struct reading *reading = piece->reading;
    struct disk_read *read = reading->read;
    int64_t moved = op->result;
    if (moved > 0 && (uint64_t)moved < piece->left_bytes)
        moved &= -(int64_t)BLOCK_BYTES;
    if (moved > 0 && (uint64_t)moved < piece->left_bytes) {
        piece_advance(piece, (uint64_t)moved);
        file_read_start(reading->disk->loop, op, piece_read);
        return;
    }
    if (moved < 0 && (!read->err || read->err == KVD_ESHORT))
        read->err = (int)moved;
    else if (moved == 0 && !read->err)
        read->err = KVD_ESHORT;
    if (--read->pieces_left == 0)
        reading_judge(reading);
}

bool disk_read_let_go(struct disk_read *read)
{
    struct reading *reading = read->where.segment->objects ? NULL : read->pieces;
    for (size_t i = 0; reading && i < reading->piece_count; i++)
        file_read_hangs(&reading->pieces[i].op);
    return reading && read->pieces_left == 0;
}

static struct piece *piece_add(struct reading *reading, uint64_t file_offset)
{
    struct piece *piece = &reading->pieces[reading->piece_count++];
    *piece = (struct piece){.reading = reading, .iov = reading->next_iov};
    piece->op.file = &reading->read->where.segment->file;
    piece->op.iov = piece->iov;
    piece->op.offset = file_offset;
    return piece;
}

static void piece_add_iov(struct piece *piece, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        piece->left_bytes += piece->reading->next_iov[i].iov_len;
    piece->op.iov_count += count;
    piece->reading->next_iov += count;
}

/* Fill pieces from value bytes [at, end) of the blob, the first one perhaps with the header before it. */
static void pieces_plan(struct reading *reading)
{
    const struct disk_read *read = reading->read;
    struct disk *disk = reading->disk;
    uint64_t header_at = (uint64_t)read->where.block * BLOCK_BYTES;
    uint64_t header_bytes = (uint64_t)reading->shape.header_blocks * BLOCK_BYTES;
    struct piece *piece = piece_add(reading, header_at);
    *reading->next_iov = (struct iovec){reading->header, header_bytes};
    piece_add_iov(piece, 1);
    uint64_t end = reading->shape.shared ? 0 : round_up(read->length, BLOCK_BYTES);
    uint64_t value_at = header_at + header_bytes + read->offset;
    bool joined = read->offset == 0;
    for (uint64_t at = 0; at < end;) {
        if (!joined)
            piece = piece_add(reading, value_at + at);
        unsigned room = PIECE_IOVS - piece->op.iov_count;
        unsigned count = blob_iov(read->blob, at, min_u64(end - at, disk->read_split_bytes), reading->next_iov, room);
        uint64_t before = piece->left_bytes;
        piece_add_iov(piece, count < room ? count : room);
        at += piece->left_bytes - before;
        joined = false;
    }
}

/* How many pieces and vectors there can be at most. */
static void plan_bound(const struct disk *disk, const struct disk_read *read, const struct record_shape *shape, size_t *pieces,
                       size_t *iovs)
{
    uint64_t bytes = shape->shared ? 0 : round_up(read->length, BLOCK_BYTES);
    size_t extents = bytes > 0 ? blob_iov(read->blob, 0, bytes, NULL, 0) : 0;
    *pieces = 2 + bytes / disk->read_split_bytes + 1 + extents / (PIECE_IOVS - 1);
    *iovs = 1 + extents + *pieces;
}

static struct reading *reading_new(struct disk *disk, struct disk_read *read)
{
    struct record_shape shape = record_shape(read->key.len, read->size);
    size_t pieces;
    size_t iovs;
    plan_bound(disk, read, &shape, &pieces, &iovs);
    size_t header_bytes = (size_t)shape.header_blocks * BLOCK_BYTES;
    size_t reading_bytes = sizeof(struct reading) + pieces * sizeof(struct piece);
    uint8_t *at = aligned_alloc(BLOCK_BYTES, round_up(header_bytes + reading_bytes + iovs * sizeof(struct iovec), BLOCK_BYTES));
    if (!at)
        return NULL;
    struct reading *reading = (struct reading *)(void *)(at + header_bytes);
    *reading = (struct reading){.header = at, .disk = disk, .read = read, .shape = shape};
    reading->next_iov = (struct iovec *)(void *)(at + header_bytes + reading_bytes);
    pieces_plan(reading);
    CHECK(reading->piece_count <= pieces);
    return reading;
}

int disk_read_start(struct disk *disk, struct disk_read *read, disk_read_fn fn)
{
    if (disk->state == DISK_OFF || disk->state == DISK_OPENING || disk->health.tripped || disk->closing)
        return KVD_EOFF;
    struct segment *segment = read->where.segment;
    if (segment->file.fd < 0 && !segment->objects)
        return -EIO; /* it was not there when the tier came back */
    CHECK(segment->state != SEGMENT_DEAD && segment->state != SEGMENT_UNLINKING);
    CHECK(read->offset % RECORD_CHUNK_BYTES == 0 && read->offset + read->length <= read->size);
    CHECK(blob_size(read->blob) == read->length && blob_room(read->blob) >= blob_room_needed(read->blob));
    if (segment->objects)
        return objects_read(disk->objects, read, fn);
    struct reading *reading = reading_new(disk, read);
    if (!reading)
        return -ENOMEM;
    read->fn = fn;
    read->err = 0;
    read->pieces = reading;
    read->pieces_left = reading->piece_count;
    segment->reads++;
    disk->reads++;
    for (uint32_t i = 0; i < reading->piece_count; i++)
        file_read_start(disk->loop, &reading->pieces[i].op, piece_read);
    return 0;
}
