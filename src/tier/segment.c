#include "tier/segment.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

/* ---- life ---- */

struct segment *segment_new(struct disk *disk, uint64_t sequence, uint64_t full_bytes)
{
    struct segment *segment = calloc(1, sizeof *segment);
    if (!segment)
        return NULL;
    if (asprintf(&segment->path, "%s/%016" PRIx64 ".seg", disk->folder, sequence) < 0) {
        free(segment);
        return NULL;
    }
    segment->below = segment->path + strlen(disk->dir) + 1;
    segment->disk = disk;
    segment->state = SEGMENT_CREATING;
    segment->file.fd = -1;
    segment->head.sequence = sequence;
    segment->head.full_bytes = full_bytes;
    segment->head.slots = layout_slots(full_bytes);
    segment->min_version = UINT64_MAX;
    list_init(&segment->link);
    list_init(&segment->dead_link);
    return segment;
}

static void appender_free(struct appender *appender)
{
    if (!appender)
        return;
    CHECK(list_empty(&appender->waiters));
    index_fini(&appender->index);
    index_fini(&appender->checkpoint.index);
    free(appender->block);
    free(appender);
}

void segment_free(struct segment *segment)
{
    if (!segment)
        return;
    appender_free(segment->appender);
    free(segment->path);
    free(segment);
}

int segment_add_appender(struct segment *segment)
{
    struct appender *appender = calloc(1, sizeof *appender);
    if (!appender)
        return -ENOMEM;
    if (index_init(&appender->index))
        goto fail_index;
    appender->block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
    if (!appender->block)
        goto fail_block;
    list_init(&appender->appends);
    list_init(&appender->waiters);
    list_init(&appender->checkpoint.append.link);
    appender->from_block = layout_first_block(segment->head.slots);
    appender->broken_at = UINT64_MAX;
    appender->segment = segment;
    segment->length = (uint64_t)appender->from_block * BLOCK_BYTES;
    appender->durable = appender->completed_end = segment->length;
    segment->appender = appender;
    return 0;
fail_block:
    index_fini(&appender->index);
fail_index:
    free(appender);
    return -ENOMEM;
}

/* ---- room ---- */

uint64_t segment_bytes_for(size_t key_len, uint64_t record_bytes)
{
    uint64_t index = round_up(INDEX_HEAD_BYTES + INDEX_ENTRY_BYTES + key_len, BLOCK_BYTES) + BLOCK_BYTES;
    uint64_t rest = record_bytes + index + 2 * BLOCK_BYTES;
    return rest + (uint64_t)layout_slots(2 * rest) * BLOCK_BYTES;
}

/* Beside the record there must be room for the index that names it and for an empty last one. */
bool segment_fits(const struct segment *segment, size_t key_len, uint64_t record_bytes)
{
    uint64_t indexes = index_bytes(&segment->appender->index, key_len) + BLOCK_BYTES;
    return segment->length + record_bytes + indexes <= segment->head.full_bytes;
}

static uint64_t stretch_bytes(const struct segment *segment)
{
    return segment->length - (uint64_t)segment->appender->from_block * BLOCK_BYTES;
}

bool segment_stalled(const struct segment *segment)
{
    return segment->appender->checkpoint.state != CHECKPOINT_NONE && stretch_bytes(segment) >= 2 * (uint64_t)LAYOUT_STRIDE_BYTES;
}

/* ---- appending ---- */

static uint64_t contiguous(const struct segment *segment)
{
    const struct appender *appender = segment->appender;
    struct list *first = list_first(&appender->appends);
    uint64_t upto = first ? CONTAINER_OF(first, struct append, link)->offset : segment->length;
    return min_u64(upto, appender->broken_at);
}

static void append_place(struct segment *segment, struct append *append, uint64_t bytes)
{
    append->offset = segment->length;
    append->bytes = bytes;
    list_push_back(&segment->appender->appends, &append->link);
    segment->length += bytes;
}

/* Between two records: the index of the stretch gets its place now, and is written once what it names is durable. */
static void checkpoint_place(struct segment *segment)
{
    struct appender *appender = segment->appender;
    struct checkpoint *checkpoint = &appender->checkpoint;
    bool due = stretch_bytes(segment) >= LAYOUT_STRIDE_BYTES && checkpoint->state == CHECKPOINT_NONE;
    if (!due || appender->next_ordinal + 1 >= segment->head.slots)
        return;
    struct index_buffer fresh;
    if (index_init(&fresh))
        return;
    checkpoint->index = appender->index;
    appender->index = fresh;
    checkpoint->head = (struct index_head){
        .next_sequence = appender->next_sequence,
        .ordinal = appender->next_ordinal++,
        .from_block = appender->from_block,
        .block = (uint32_t)(segment->length / BLOCK_BYTES),
    };
    memcpy(checkpoint->head.segment_id, segment->head.id, DISK_ID_BYTES);
    append_place(segment, &checkpoint->append, index_bytes(&checkpoint->index, 0));
    appender->from_block = (uint32_t)(segment->length / BLOCK_BYTES);
    checkpoint->state = CHECKPOINT_WAITING;
}

int segment_append(struct segment *segment, struct append *append, struct index_entry *entry)
{
    CHECK(segment->state == SEGMENT_OPEN);
    struct appender *appender = segment->appender;
    entry->block = (uint32_t)(segment->length / BLOCK_BYTES);
    int err = index_add(&appender->index, entry);
    if (err)
        return err;
    append_place(segment, append, (uint64_t)entry->blocks * BLOCK_BYTES);
    CHECK(segment->length + index_bytes(&appender->index, 0) <= segment->head.full_bytes);
    segment->min_version = min_u64(segment->min_version, entry->version);
    appender->next_sequence++;
    appender->in_flight++;
    checkpoint_place(segment);
    return 0;
}

static void segment_fail(struct segment *segment)
{
    segment->failed = true;
    segment_end(segment);
}

void segment_appended(struct segment *segment, struct append *append, int err)
{
    struct appender *appender = segment->appender;
    list_remove(&append->link);
    appender->in_flight--;
    if (err) {
        uint32_t block = (uint32_t)(append->offset / BLOCK_BYTES);
        appender->broken_at = min_u64(appender->broken_at, append->offset);
        index_drop(&appender->index, block);
        if (appender->checkpoint.state == CHECKPOINT_WAITING)
            index_drop(&appender->checkpoint.index, block);
        segment_fail(segment);
    } else {
        appender->good++;
        appender->completed_end = max_u64(appender->completed_end, append->offset + append->bytes);
    }
    disk_post(segment->disk);
}

void segment_end(struct segment *segment)
{
    struct disk *disk = segment->disk;
    if (segment->state != SEGMENT_OPEN)
        return;
    segment->state = SEGMENT_ENDING;
    disk->sealing++;
    if (disk->open == segment)
        disk->open = NULL;
    disk_post(disk);
}

/* ---- checkpoints ---- */

static void checkpoint_write(struct segment *segment, file_op_fn fn)
{
    struct appender *appender = segment->appender;
    appender->in_flight++;
    appender->checkpoint.op.file = &segment->file;
    appender->checkpoint.op.iov = &appender->checkpoint.iov;
    appender->checkpoint.op.iov_count = 1;
    file_write_start(segment->disk->loop, &appender->checkpoint.op, fn);
}

static struct segment *checkpoint_segment(struct file_op *op)
{
    return CONTAINER_OF(op, struct appender, checkpoint.op)->segment;
}

static void checkpoint_failed(struct segment *segment, int err, const char *what)
{
    log_warn(segment->disk->log, "write_failed", "file=%s what=%s error=\"%s\"", segment->below, what, error_text(err));
    segment->disk->figures.write_errors++;
    disk_health_note(segment->disk, err);
    segment_fail(segment);
    disk_post(segment->disk);
}

static void slot_written(struct file_op *op)
{
    struct segment *segment = checkpoint_segment(op);
    struct appender *appender = segment->appender;
    appender->in_flight--;
    appender->checkpoint.state = CHECKPOINT_NONE;
    index_fini(&appender->checkpoint.index);
    if (op->result != BLOCK_BYTES)
        checkpoint_failed(segment, op->result < 0 ? (int)op->result : -EIO, "slot");
    disk_post(segment->disk);
}

static struct layout_slot slot_of(const struct index_head *head, const struct index_buffer *index)
{
    return (struct layout_slot){
        .ordinal = head->ordinal,
        .count = index->count,
        .block = head->block,
        .blocks = (uint32_t)(index_bytes(index, 0) / BLOCK_BYTES),
        .final = head->final,
    };
}

static uint64_t slot_offset(uint32_t ordinal)
{
    return (uint64_t)(1 + ordinal) * BLOCK_BYTES;
}

static void slot_write(struct segment *segment)
{
    struct appender *appender = segment->appender;
    struct checkpoint *checkpoint = &appender->checkpoint;
    struct layout_slot slot = slot_of(&checkpoint->head, &checkpoint->index);
    layout_slot_build(appender->block, segment->head.id, &slot);
    checkpoint->state = CHECKPOINT_SLOT;
    checkpoint->iov = (struct iovec){appender->block, BLOCK_BYTES};
    checkpoint->op.offset = slot_offset(slot.ordinal);
    checkpoint_write(segment, slot_written);
}

static void index_write_piece(struct segment *segment);

static void index_written(struct file_op *op)
{
    struct segment *segment = checkpoint_segment(op);
    struct appender *appender = segment->appender;
    struct checkpoint *checkpoint = &appender->checkpoint;
    appender->in_flight--;
    int64_t moved = op->result > 0 ? op->result & -(int64_t)BLOCK_BYTES : op->result;
    if (moved <= 0) {
        /* It keeps its place, and the end of the segment tries once more. */
        checkpoint->state = CHECKPOINT_WAITING;
        checkpoint_failed(segment, moved < 0 ? (int)moved : -EIO, "index");
        return;
    }
    checkpoint->done_bytes += (uint64_t)moved;
    if (checkpoint->done_bytes < checkpoint->append.bytes) {
        index_write_piece(segment);
        return;
    }
    list_remove(&checkpoint->append.link);
    segment->disk->figures.index_writes++;
    slot_write(segment);
    disk_post(segment->disk);
}

static void index_write_piece(struct segment *segment)
{
    struct checkpoint *checkpoint = &segment->appender->checkpoint;
    checkpoint->iov.iov_base = checkpoint->index.at + checkpoint->done_bytes;
    checkpoint->iov.iov_len = checkpoint->append.bytes - checkpoint->done_bytes;
    checkpoint->op.offset = checkpoint->append.offset + checkpoint->done_bytes;
    checkpoint_write(segment, index_written);
}

/* Only when all that it names is on stable storage: so what an index names is there. */
static void checkpoint_tick(struct segment *segment)
{
    struct appender *appender = segment->appender;
    struct checkpoint *checkpoint = &appender->checkpoint;
    if (checkpoint->state != CHECKPOINT_WAITING || segment->state != SEGMENT_OPEN || appender->durable < checkpoint->append.offset)
        return;
    index_finish(&checkpoint->index, &checkpoint->head);
    checkpoint->state = CHECKPOINT_WRITING;
    checkpoint->done_bytes = 0;
    index_write_piece(segment);
}

/* ---- syncs ---- */

static void sync_ripen(struct disk *disk, struct disk_sync *sync, int err)
{
    sync->err = err;
    list_remove(&sync->link);
    list_push_back(&disk->ripe, &sync->link);
    disk_post(disk);
}

static void waiters_ripen(struct segment *segment, uint64_t upto, int err)
{
    struct list *head = &segment->appender->waiters;
    struct list *next;
    for (struct list *at = head->next; at != head; at = next) {
        next = at->next;
        struct disk_sync *sync = CONTAINER_OF(at, struct disk_sync, link);
        if (sync->upto <= upto)
            sync_ripen(segment->disk, sync, err);
    }
}

void segment_waiters_fail(struct segment *segment, int err)
{
    if (segment->appender)
        waiters_ripen(segment, UINT64_MAX, err);
}

void segment_wait(struct segment *segment, struct disk_sync *sync, uint64_t upto)
{
    sync->segment = segment;
    sync->upto = upto;
    list_init(&sync->link);
    const struct appender *appender = segment->appender;
    if (segment->sync_failed)
        sync_ripen(segment->disk, sync, -EIO);
    else if (segment->state == SEGMENT_RECOVERING)
        list_push_back(&segment->disk->late_syncs, &sync->link);
    else if (!appender || upto <= appender->durable)
        sync_ripen(segment->disk, sync, 0);
    else
        list_push_back(&segment->appender->waiters, &sync->link);
    disk_post(segment->disk);
}

static void synced(struct file_op *op)
{
    struct appender *appender = CONTAINER_OF(op, struct appender, sync_op);
    struct segment *segment = appender->segment;
    struct disk *disk = segment->disk;
    appender->in_flight--;
    appender->syncing = false;
    disk->figures.syncs++;
    disk_health_note(disk, (int)op->result);
    if (op->result < 0) {
        log_error(disk->log, "sync_failed", "file=%s error=\"%s\"", segment->below, error_text((int)op->result));
        disk->figures.sync_errors++;
        segment->sync_failed = true;
        waiters_ripen(segment, UINT64_MAX, (int)op->result);
        segment_fail(segment);
    } else {
        appender->durable = max_u64(appender->durable, appender->sync_upto);
    }
    disk_post(disk);
}

static bool sync_wanted(const struct segment *segment, uint64_t upto)
{
    const struct appender *appender = segment->appender;
    if (upto <= appender->durable)
        return false;
    if (appender->checkpoint.state == CHECKPOINT_WAITING && upto >= appender->checkpoint.append.offset)
        return true;
    for (struct list *at = appender->waiters.next; at != &appender->waiters; at = at->next)
        if (CONTAINER_OF(at, struct disk_sync, link)->upto <= upto)
            return true;
    return false;
}

/* One at a time: who comes meanwhile shares the next. */
static void sync_tick(struct segment *segment)
{
    struct appender *appender = segment->appender;
    uint64_t upto = contiguous(segment);
    if (appender->syncing || segment->state != SEGMENT_OPEN || !sync_wanted(segment, upto))
        return;
    appender->syncing = true;
    appender->sync_upto = upto;
    appender->sync_since_ms = loop_now_ms(segment->disk->loop);
    appender->in_flight++;
    appender->sync_op.file = &segment->file;
    file_sync_start(segment->disk->loop, &appender->sync_op, synced);
}

/* ---- the end ---- */

static int seal_index(struct seal *seal, const struct index_buffer *index, const struct index_head *head)
{
    return fs_write(seal->loop, &seal->file, index->at, index_bytes(index, 0), (uint64_t)head->block * BLOCK_BYTES);
}

static int seal_slot(struct seal *seal, const struct index_buffer *index, const struct index_head *head)
{
    struct layout_slot slot = slot_of(head, index);
    layout_slot_build(seal->block, head->segment_id, &slot);
    return fs_write(seal->loop, &seal->file, seal->block, BLOCK_BYTES, slot_offset(slot.ordinal));
}

/* The order is what makes it safe: records, then the indexes that name them, the length, and last the slot that says it is final. */
static void seal_work(struct job *job)
{
    struct seal *seal = CONTAINER_OF(job, struct seal, job);
    uint64_t length = (uint64_t)seal->last_head.block * BLOCK_BYTES + index_bytes(&seal->last, 0);
    int err = fs_sync(seal->loop, &seal->file);
    if (seal->doubtful || err) {
        seal->err = err ? err : -EIO;
        return;
    }
    if (!err && seal->late.at)
        err = seal_index(seal, &seal->late, &seal->late_head);
    if (!err)
        err = seal_index(seal, &seal->last, &seal->last_head);
    if (!err)
        err = fs_truncate(seal->loop, &seal->file, length);
    if (!err)
        err = fs_sync(seal->loop, &seal->file);
    if (!err && seal->late.at)
        err = seal_slot(seal, &seal->late, &seal->late_head);
    if (!err)
        err = seal_slot(seal, &seal->last, &seal->last_head);
    if (!err)
        err = fs_sync(seal->loop, &seal->file);
    seal->err = err;
}

static void seal_failed(struct segment *segment, int err)
{
    struct disk *disk = segment->disk;
    log_error(disk->log, "write_failed", "file=%s what=seal error=\"%s\"", segment->below, error_text(err));
    disk->figures.write_errors++;
    segment->sync_failed = true;
    waiters_ripen(segment, UINT64_MAX, err);
}

static void segment_account(struct segment *segment, uint64_t bytes)
{
    segment->disk->used_bytes = segment->disk->used_bytes - segment->accounted + bytes;
    segment->accounted = bytes;
}

static void segment_sealed_now(struct segment *segment)
{
    struct disk *disk = segment->disk;
    bool empty = segment->appender->good == 0;
    segment->records = segment->appender->good;
    appender_free(segment->appender);
    segment->appender = NULL;
    segment->state = SEGMENT_SEALED;
    disk->sealing--;
    if (empty)
        disk_segment_unlink(disk, segment);
    disk_post(disk);
}

static void seal_done(struct job *job)
{
    struct seal *seal = CONTAINER_OF(job, struct seal, job);
    struct segment *segment = seal->segment;
    struct disk *disk = segment->disk;
    int err = seal->err;
    if (!seal->doubtful)
        disk_health_note(disk, err);
    if (err) {
        seal_failed(segment, err);
    } else {
        segment->length = (uint64_t)seal->last_head.block * BLOCK_BYTES + index_bytes(&seal->last, 0);
        segment_account(segment, segment->length);
        disk->figures.index_writes++;
        waiters_ripen(segment, UINT64_MAX, 0);
        log_debug(disk->log, "segment_sealed", "file=%s bytes=%" PRIu64 " records=%" PRIu32, segment->below, segment->length,
                  segment->appender->good);
    }
    index_fini(&seal->late);
    index_fini(&seal->last);
    disk_job_ended(disk);
    segment_sealed_now(segment);
}

static void seal_prepare(struct segment *segment)
{
    struct appender *appender = segment->appender;
    struct seal *seal = &appender->seal;
    seal->segment = segment;
    seal->loop = segment->disk->loop;
    seal->file = segment->file;
    seal->block = appender->block;
    seal->doubtful = segment->sync_failed;
    seal->last = appender->index;
    appender->index = (struct index_buffer){0};
    seal->last_head = (struct index_head){
        .next_sequence = appender->next_sequence,
        .ordinal = appender->next_ordinal++,
        .from_block = appender->from_block,
        .block = (uint32_t)(segment->length / BLOCK_BYTES),
        .final = true,
    };
    memcpy(seal->last_head.segment_id, segment->head.id, DISK_ID_BYTES);
    index_finish(&seal->last, &seal->last_head);
    if (appender->checkpoint.state == CHECKPOINT_WAITING) {
        list_remove(&appender->checkpoint.append.link);
        seal->late = appender->checkpoint.index;
        seal->late_head = appender->checkpoint.head;
        appender->checkpoint.index = (struct index_buffer){0};
        index_finish(&seal->late, &seal->late_head);
    }
}

static void end_tick(struct segment *segment)
{
    if (segment->state != SEGMENT_ENDING || segment->appender->in_flight > 0)
        return;
    segment->state = SEGMENT_SEALING;
    if (segment->appender->good == 0) {
        waiters_ripen(segment, UINT64_MAX, 0);
        segment_sealed_now(segment);
        return;
    }
    seal_prepare(segment);
    disk_job_start(segment->disk, &segment->appender->seal.job, seal_work, seal_done);
}

void segment_tick(struct segment *segment)
{
    if (!segment->appender || segment->state == SEGMENT_SEALING)
        return;
    checkpoint_tick(segment);
    sync_tick(segment);
    waiters_ripen(segment, segment->appender->durable, 0);
    end_tick(segment);
}

/* ---- unlinking ---- */

static void unlink_work(struct job *job)
{
    struct segment *segment = CONTAINER_OF(job, struct segment, job);
    struct disk *disk = segment->disk; /* only what never changes: loop, folder */
    if (segment->file.fd >= 0)         /* a mount that went and came back may not have had it */
        (void)fs_close(disk->loop, &segment->file);
    int err = fs_unlink(disk->loop, segment->path);
    if (err == -ENOENT)
        err = 0;
    if (!err)
        err = fs_sync_dir(disk->loop, disk->folder);
    segment->job_err = err;
}

static void unlink_done(struct job *job)
{
    struct segment *segment = CONTAINER_OF(job, struct segment, job);
    struct disk *disk = segment->disk;
    disk_job_ended(disk);
    disk->unlinking--;
    disk->unlinks--;
    if (segment->job_err)
        log_error(disk->log, "unlink_failed", "file=%s error=\"%s\"", segment->below, error_text(segment->job_err));
    else
        segment_account(segment, 0);
    disk_space_freed(disk, segment->length);
    disk_segment_gone(disk, segment);
}

void segment_die(struct segment *segment, bool at_once)
{
    struct disk *disk = segment->disk;
    segment->state = SEGMENT_DEAD;
    segment->unlink_at_ms = at_once ? 0 : loop_now_ms(disk->loop) + disk->unlink_delay_ms;
    disk->unlinking++;
    if (at_once)
        list_push_front(&disk->dead, &segment->dead_link);
    else
        list_push_back(&disk->dead, &segment->dead_link);
    disk_post(disk);
}

static void unlink_tick(struct timer *timer)
{
    disk_post(CONTAINER_OF(timer, struct disk, unlink_timer));
}

void segments_unlink_init(struct disk *disk, uint64_t delay_ms)
{
    disk->unlink_delay_ms = delay_ms;
    timer_init(&disk->unlink_timer, disk->loop, unlink_tick);
}

/* Whether it is time for this one; if not, when to look again. */
static bool unlink_is_due(struct segment *segment)
{
    struct disk *disk = segment->disk;
    uint64_t now_ms = loop_now_ms(disk->loop);
    if (now_ms >= segment->unlink_at_ms)
        return true;
    if (!disk->unlink_timer.active)
        timer_start(&disk->unlink_timer, segment->unlink_at_ms - now_ms);
    return false;
}

void segments_unlink_pump(struct disk *disk)
{
    struct list *next;
    for (struct list *at = disk->dead.next; at != &disk->dead && disk->unlinks < UNLINKS_AT_ONCE; at = next) {
        next = at->next;
        struct segment *segment = CONTAINER_OF(at, struct segment, dead_link);
        if (!unlink_is_due(segment))
            return;
        if (segment->reads > 0)
            continue;
        list_remove(at);
        segment->state = SEGMENT_UNLINKING;
        disk->unlinks++;
        disk_job_start(disk, &segment->job, unlink_work, unlink_done);
    }
}

void segments_unlink_leave(struct disk *disk)
{
    timer_stop(&disk->unlink_timer);
    for (struct list *at = disk->dead.next, *next; at != &disk->dead; at = next) {
        next = at->next;
        struct segment *segment = CONTAINER_OF(at, struct segment, dead_link);
        if (loop_now_ms(disk->loop) >= segment->unlink_at_ms)
            continue;
        list_remove(at);
        disk->unlinking--;
    }
}
