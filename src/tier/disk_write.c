/* disk_write.c - the write queue: records to runs to the open segment; new segments; what to do when there is no room. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

enum write_state { WRITE_QUEUED = 1, WRITE_RUNNING };

/* ---- figures ---- */

static void drain_measure(struct disk *disk)
{
    uint64_t rate = disk->drain_bytes * 1000000 / (disk->drain_last_us - disk->drain_since_us + 1);
    disk->drain_rate = disk->drain_rate ? (disk->drain_rate * 3 + rate) / 4 : rate;
    disk->drain_since_us = disk->drain_last_us;
    disk->drain_bytes = 0;
}

/* Records that were written together end together: a window of 100 ms ends behind the last of them, not with the first, or in the midst of
 * a stream that has no end. What ends in no time at all says nothing. */
static void drain_note(struct disk *disk, uint64_t bytes)
{
    const uint64_t window_us = 100 * 1000, together_us = 2000, least_us = 1000;
    uint64_t now_us = loop_now_us(disk->loop);
    bool apart = now_us - disk->drain_last_us > together_us;
    if (disk->drain_last_us - (apart ? disk->drain_since_us : disk->drain_stream_us) >= window_us) {
        drain_measure(disk);
        disk->drain_stream_us = now_us;
    }
    if (apart)
        disk->drain_stream_us = now_us;
    disk->drain_bytes += bytes;
    disk->drain_last_us = now_us;
    if (disk->figures.queued_records <= 1 && disk->drain_bytes >= MIB && now_us - disk->drain_since_us >= least_us)
        drain_measure(disk);
}

/* Idle time says nothing of how fast the disk is. */
static void drain_begin(struct disk *disk)
{
    if (disk->figures.queued_records > 0)
        return;
    disk->drain_since_us = loop_now_us(disk->loop);
    disk->drain_last_us = disk->drain_since_us;
    disk->drain_stream_us = disk->drain_since_us;
    disk->drain_bytes = 0;
}

uint64_t disk_queued_bytes(const struct disk *disk)
{
    return disk->figures.queued_bytes;
}

uint64_t disk_drain_rate(const struct disk *disk)
{
    return disk->drain_rate;
}

uint64_t disk_writes_min_version(const struct disk *disk)
{
    uint64_t least = UINT64_MAX;
    for (struct list *at = disk->queue.next; at != &disk->queue; at = at->next)
        least = min_u64(least, CONTAINER_OF(at, struct disk_write, link)->version);
    for (size_t i = 0; disk->slots && i < WRITE_SLOTS; i++)
        if (disk->slots[i].write)
            least = min_u64(least, disk->slots[i].write->version);
    return least;
}

/* ---- one record ---- */

void disk_write_ended(struct disk *disk, struct disk_write *write, int err)
{
    if (!err) {
        disk->figures.writes++;
        disk->figures.written_bytes += write->bytes;
        drain_note(disk, write->bytes);
    }
    disk->figures.queued_bytes -= write->bytes;
    disk->figures.queued_records--;
    disk_write_fn fn = write->fn;
    fn(write, err);
}

static void write_queue(struct disk *disk, struct disk_write *write, bool first)
{
    write->state = WRITE_QUEUED;
    write->segment = NULL;
    write->since_ms = 0;
    if (first)
        list_push_front(&disk->queue, &write->link);
    else
        list_push_back(&disk->queue, &write->link);
    disk_post(disk);
}

void disk_write_done(struct disk *disk, struct disk_write *write, int err)
{
    disk->in_flight_bytes -= write->bytes;
    bool again = err && write->attempts < WRITE_ATTEMPTS && !write->first;
    if (again && !disk->health.tripped && !(disk->closing && disk->abandon)) {
        disk->figures.write_retries++;
        write_queue(disk, write, true);
        return;
    }
    disk_write_ended(disk, write, err);
}

/* Put the record into the open segment, where it fits. 0 or -ENOMEM. */
static int write_begin(struct disk *disk, struct write_run *run, struct disk_write *write)
{
    int err = disk_run_add(run, write);
    if (err)
        return err;
    disk->queue_moved_ms = loop_now_ms(disk->loop);
    disk->in_flight_bytes += write->bytes;
    write->state = WRITE_RUNNING;
    write->attempts++;
    return 0;
}

/* ---- a new segment ---- */

struct creation {
    struct job job;
    struct disk *disk; /* for `done` */
    struct loop *loop;
    struct segment *segment; /* `work` may read what never changes */
    struct disk_place place;
    uint64_t free_percent;
    uint64_t promised;       /* bytes of records that are on their way to other segments */
    struct fs_dir_info info; /* total_bytes 0: not known */
    struct layout_head head;
    struct file file;
    int err;
};

/* Where nothing may be written any more, no segment of ours is given up to make room; but one of ours makes room for the next. */
static int creation_check_place(struct creation *creation)
{
    struct fs_dir_info *info = &creation->info;
    int err = disk_place_check_marker(&creation->place, info);
    if (err)
        return err;
    uint64_t least = disk_space_least(creation->free_percent, info);
    if (info->free_bytes < least)
        return KVD_EFULL;
    uint64_t needed = creation->promised + creation->head.full_bytes + max_u64(least, SPACE_KEPT_FREE);
    return info->free_bytes < needed ? -ENOSPC : 0;
}

static int creation_write_head(struct creation *creation)
{
    uint8_t *block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
    if (!block)
        return -ENOMEM;
    layout_head_build(block, &creation->head);
    int err = fs_truncate(creation->loop, &creation->file, creation->head.full_bytes);
    if (!err)
        err = fs_write(creation->loop, &creation->file, block, BLOCK_BYTES, 0);
    if (!err)
        err = fs_sync(creation->loop, &creation->file);
    if (!err)
        err = fs_sync_dir(creation->loop, creation->place.folder);
    free(block);
    return err;
}

/* Made at its full size and opened again: another host that has seen the file keeps that size, whatever it caches. */
static void creation_work(struct job *job)
{
    struct creation *creation = CONTAINER_OF(job, struct creation, job);
    const char *path = creation->segment->path;
    int err = creation_check_place(creation);
    if (!err)
        err = loop_random(creation->loop, creation->head.id, DISK_ID_BYTES);
    if (!err)
        err = fs_open(creation->loop, &creation->file, path, FS_CREATE);
    creation->err = err;
    if (err)
        return;
    err = creation_write_head(creation);
    if (err)
        (void)fs_truncate(creation->loop, &creation->file, 0);
    int close_err = fs_close(creation->loop, &creation->file);
    if (!err)
        err = close_err;
    if (!err)
        err = fs_open(creation->loop, &creation->file, path, FS_DIRECT);
    if (err)
        (void)fs_unlink(creation->loop, path); /* what is left of it if that fails, too, a restart finds empty */
    creation->err = err;
}

static bool is_full(int err)
{
    return err == -ENOSPC || err == -EDQUOT;
}

static void trouble_say(struct disk *disk)
{
    if (!disk->trouble_said)
        log_error(disk->log, "cannot_write", "dir=\"%s\" error=\"%s\"", disk->folder, error_text(disk->create_err));
    disk->trouble_said = true;
}

/* A full file system is not yet trouble: giving a segment up may help. */
static void creation_failed(struct disk *disk, struct segment *segment, int err)
{
    disk->create_err = err;
    disk->create_retry_ms = loop_now_ms(disk->loop) + CREATE_RETRY_MS;
    disk->used_bytes -= segment->accounted;
    segment_free(segment);
    if (is_full(err))
        return;
    if (err == KVD_EFULL) { /* disk_space.c says why */
        disk->create_err = 0;
        disk_writes_fail(disk, err);
        return;
    }
    disk->figures.write_errors++;
    trouble_say(disk);
    disk_writes_fail(disk, err);
}

static void creation_worked(struct disk *disk)
{
    if (disk->trouble_said)
        log_info(disk->log, "written_again", "after=\"%s\"", error_text(disk->create_err));
    disk->trouble_said = false;
    disk->create_err = 0;
    disk->freed_in_trouble = 0;
}

void disk_space_freed(struct disk *disk, uint64_t bytes)
{
    disk->create_retry_ms = 0;
    disk->freed_in_trouble += disk->create_err ? bytes : 0;
}

static void creation_done(struct job *job)
{
    struct creation *creation = CONTAINER_OF(job, struct creation, job);
    struct disk *disk = creation->disk;
    struct segment *segment = creation->segment;
    int err = creation->err;
    disk->creating = NULL;
    disk_job_ended(disk);
    disk_health_note(disk, err);
    if (creation->info.total_bytes > 0)
        disk_space_note(disk, &creation->info);
    if (!err) {
        memcpy(segment->head.id, creation->head.id, DISK_ID_BYTES);
        segment->file = creation->file;
        segment->state = SEGMENT_OPEN;
        disk->open = segment;
        creation_worked(disk);
        disk_segment_insert(disk, segment);
        if (disk->health.tripped)
            segment_end(segment);
    }
    free(creation);
    disk_post(disk);
    if (err)
        creation_failed(disk, segment, err);
}

static int segment_create(struct disk *disk, uint64_t full_bytes)
{
    struct creation *creation = calloc(1, sizeof *creation);
    struct segment *segment = segment_new(disk, disk->next_sequence, full_bytes);
    if (!creation || !segment || segment_add_appender(segment)) {
        segment_free(segment);
        free(creation);
        return -ENOMEM;
    }
    disk->next_sequence++;
    segment->accounted = full_bytes;
    disk->used_bytes += full_bytes;
    disk->creating = segment;
    creation->disk = disk;
    creation->loop = disk->loop;
    creation->segment = segment;
    disk_place_of(disk, &creation->place);
    creation->promised = disk->in_flight_bytes;
    creation->free_percent = disk->space.percent;
    segment->head.created_ms = loop_wall_ms(disk->loop);
    creation->head = segment->head;
    creation->head.node = span_text(disk->node);
    creation->head.cluster = span_text(disk->cluster);
    creation->file.fd = -1;
    disk_job_start(disk, &creation->job, creation_work, creation_done);
    return 0;
}

/* ---- the queue ---- */

static void on_run_timer(struct timer *timer)
{
    struct disk *disk = CONTAINER_OF(timer, struct disk, run_timer);
    disk->run_overdue = true;
    disk_post(disk);
}

void disk_writes_init(struct disk *disk)
{
    list_init(&disk->queue);
    timer_init(&disk->run_timer, disk->loop, on_run_timer);
}

void disk_writes_stop(struct disk *disk)
{
    timer_stop(&disk->run_timer);
}

static uint64_t full_bytes_for(const struct disk *disk, const struct disk_write *write)
{
    return max_u64(disk->segment_bytes, round_up(segment_bytes_for(write->key.len, write->bytes), BLOCK_BYTES));
}

static bool write_is_too_large(const struct disk *disk, const struct disk_write *write)
{
    return blob_size(write->blob) > RECORD_VALUE_MAX || full_bytes_for(disk, write) > disk_usable_bytes(disk);
}

/* Room that will come by itself: what is ending gets shorter, what is dead goes. */
static bool room_is_coming(const struct disk *disk)
{
    bool late = disk->closing && disk->unlink_delay_ms > 0; /* nobody waits for those */
    return disk->sealing > 0 || (disk->unlinking > 0 && !late) || (disk->closing && disk->segment_kills > 0);
}

/* Nothing fits. Ask above for a segment to give up. */
static void room_ask(struct disk *disk)
{
    if (room_is_coming(disk) || (disk->state == DISK_RECOVERING && !disk->closing) || (disk->waiting_for_room && disk->segment_kills > 0))
        return;
    disk->waiting_for_room = true;
    if (disk->closing || !disk->events.full(disk->arg)) {
        disk->waiting_for_room = false;
        if (disk->create_err)
            trouble_say(disk);
        disk_writes_fail(disk, KVD_EFULL);
    }
}

/* Making a segment failed a moment ago. True: not again yet, and whoever waits has been seen to. */
static bool creation_rests(struct disk *disk)
{
    if (!disk->create_err || loop_now_ms(disk->loop) >= disk->create_retry_ms)
        return false;
    if (!is_full(disk->create_err)) {
        disk_writes_fail(disk, disk->create_err);
        return true;
    }
    if (room_is_coming(disk) || disk->segment_kills > 0 || (disk->state == DISK_RECOVERING && !disk->closing))
        return true;
    if (disk->freed_in_trouble >= 2 * disk->segment_bytes) {
        trouble_say(disk);
        disk_writes_fail(disk, KVD_EFULL);
    } else {
        room_ask(disk);
    }
    return true;
}

/* See to it that the open segment has room for this one. True: it has. False: wait, or the queue has changed. */
static bool room_make(struct disk *disk, struct disk_write *write)
{
    if (disk->open && segment_fits(disk->open, write->key.len, write->bytes))
        return !segment_stalled(disk->open);
    if (disk->open)
        segment_end(disk->open);
    if (disk->creating || creation_rests(disk))
        return false;
    uint64_t full_bytes = full_bytes_for(disk, write);
    if (disk->used_bytes + full_bytes > disk_usable_bytes(disk)) {
        room_ask(disk);
        return false;
    }
    disk->waiting_for_room = false;
    int err = segment_create(disk, full_bytes);
    if (err)
        disk_writes_fail(disk, err);
    return false;
}

bool disk_write_may_begin(const struct disk *disk)
{
    return disk->in_flight_bytes < (disk->lock.punt ? FUSE_WRITE_IN_FLIGHT_BYTES : WRITE_IN_FLIGHT_BYTES);
}

/* Small records go together: while others are under way, they wait until there are enough of them, but not for long. One that no other of
 * its size could go with waits for none. */
static bool run_is_due(struct disk *disk, const struct disk_write *first)
{
    bool enough = disk->figures.queued_bytes - disk->in_flight_bytes >= WRITE_RUN_BYTES || first->bytes > WRITE_RUN_BYTES / 2;
    if (enough || disk->runs_used == 0 || disk->run_overdue) {
        timer_stop(&disk->run_timer);
        return true;
    }
    if (!disk->run_timer.active)
        timer_start(&disk->run_timer, WRITE_RUN_WAIT_MS);
    return false;
}

/* May the first one go, and with whom? */
static bool run_find(struct disk *disk, const struct disk_write *write, struct write_run **run)
{
    if (*run && disk_run_takes(*run, disk->open, write))
        return true;
    if (*run)
        disk_run_go(*run);
    *run = run_is_due(disk, write) ? disk_run_begin(disk, disk->open) : NULL;
    return *run != NULL;
}

void disk_writes_pump(struct disk *disk)
{
    struct write_run *run = NULL;
    if (disk->space.low)
        disk_writes_fail(disk, KVD_EFULL);
    while (!list_empty(&disk->queue)) {
        struct disk_write *write = CONTAINER_OF(list_first(&disk->queue), struct disk_write, link);
        int err = write_is_too_large(disk, write) ? KVD_ETOOLARGE : 0;
        bool may_begin = err || (disk_run_has_slot(disk) && disk_write_may_begin(disk) && disk_version_allowed(disk, write->version) &&
                                 room_make(disk, write) && run_find(disk, write, &run));
        if (!may_begin)
            break;
        list_remove(&write->link);
        if (!err)
            err = write_begin(disk, run, write);
        if (err)
            disk_write_ended(disk, write, err);
    }
    if (run)
        disk_run_go(run);
    disk->run_overdue = false;
}

void disk_writes_fail(struct disk *disk, int err)
{
    struct list failed;
    list_init(&failed);
    list_move_all(&failed, &disk->queue);
    struct list *at;
    while ((at = list_pop_front(&failed)))
        disk_write_ended(disk, CONTAINER_OF(at, struct disk_write, link), err);
}

int disk_write_start(struct disk *disk, struct disk_write *write, disk_write_fn fn)
{
    if (disk->state == DISK_OFF || disk->health.tripped)
        return KVD_EOFF;
    if (disk->closing)
        return KVD_ECLOSING;
    CHECK(write->key.len > 0 && write->key.len <= RECORD_KEY_MAX);
    uint64_t size = blob_size(write->blob);
    write->fn = fn;
    write->attempts = 0;
    write->bytes = size > RECORD_VALUE_MAX ? size : (uint64_t)record_shape(write->key.len, size).blocks * BLOCK_BYTES;
    list_init(&write->link);
    drain_begin(disk);
    disk->figures.queued_bytes += write->bytes;
    disk->figures.queued_records++;
    write_queue(disk, write, write->first);
    return 0;
}

uint64_t disk_write_moved_ms(const struct disk *disk, const struct disk_write *write)
{
    return write->since_ms ? write->since_ms : disk->queue_moved_ms;
}

bool disk_write_cancel(struct disk *disk, struct disk_write *write)
{
    /* After a first try some of it may be on disk. */
    if (write->state != WRITE_QUEUED || write->attempts > 0 || list_empty(&write->link))
        return false;
    list_remove(&write->link);
    disk->figures.queued_bytes -= write->bytes;
    disk->figures.queued_records--;
    disk_post(disk);
    return true;
}
