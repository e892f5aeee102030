/* disk_kill.c - kills: batched into frames of the remove log, one write and one fsync each; rotation and compaction of logs. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

/* ---- what is pending ---- */

static uint32_t *pending_count(struct disk *disk, struct span key)
{
    return &disk->kills_pending_keys[XXH3_64bits(key.at, key.len) % PENDING_FILTER];
}

static void pending_add(struct disk *disk, const struct disk_kill *kill)
{
    if (kill->kind == KILL_KEY)
        ++*pending_count(disk, kill->name);
    else if (kill->kind != KILL_SEGMENT)
        disk->kills_pending_ranges++;
}

static void pending_remove(struct disk *disk, const struct disk_kill *kill)
{
    if (kill->kind == KILL_KEY)
        --*pending_count(disk, kill->name);
    else if (kill->kind != KILL_SEGMENT)
        disk->kills_pending_ranges--;
}

bool disk_kill_pending(const struct disk *disk, struct span key)
{
    return disk->kills_pending_ranges > 0 || disk->kills_pending_keys[XXH3_64bits(key.at, key.len) % PENDING_FILTER] > 0;
}

/* ---- queueing ---- */

/* What is found after this must not show what is dead by now. Where the heap is out, more is taken for dead: a cache may forget. */
void disk_kill_note(struct disk *disk, const struct disk_kill *kill)
{
    if (!disk->dead_live || kill->kind == KILL_SEGMENT)
        return;
    if (kill_map_add(disk->dead_live, kill->kind, kill->name, kill->version))
        (void)kill_map_add(disk->dead_live, KILL_ALL, (struct span){0}, kill->version);
}

void disk_kill_missed(struct disk *disk, const struct disk_kill *kill)
{
    if (!kill->keep || disk->state == DISK_OFF)
        return;
    disk_kill_note(disk, kill);
    disk_owe(disk, kill);
}

static int kill_queue(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn)
{
    if (disk->state == DISK_OFF)
        return KVD_EOFF;
    if (disk->closing)
        return KVD_ECLOSING;
    if (disk->health.tripped) {
        disk_kill_missed(disk, kill);
        return KVD_EOFF;
    }
    kill->fn = fn;
    kill->err = 0;
    kill->since_ms = loop_now_ms(disk->loop);
    kill->unlinked = 0;
    list_init(&kill->link);
    if (disk->objects) {
        int err = objects_kill(disk->objects, kill);
        if (err) {
            disk_kill_missed(disk, kill);
            return err;
        }
    } else {
        list_push_back(&disk->kills, &kill->link);
    }
    pending_add(disk, kill);
    disk_kill_note(disk, kill);
    disk_post(disk);
    return 0;
}

int disk_kill_start(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn)
{
    CHECK(kill->kind == KILL_ALL ? kill->name.len == 0 : kill->name.len > 0 && kill->name.len <= RECORD_KEY_MAX);
    CHECK(kill->kind != KILL_SEGMENT);
    kill->segment = NULL;
    return kill_queue(disk, kill, fn);
}

int disk_segment_kill_start(struct disk *disk, struct disk_kill *kill, struct segment *segment, disk_kill_fn fn)
{
    CHECK(!segment_busy(segment));
    kill->kind = KILL_SEGMENT;
    kill->name = span_of(segment->head.id, DISK_ID_BYTES);
    kill->version = 0;
    kill->segment = segment;
    int err = kill_queue(disk, kill, fn);
    if (err)
        return err;
    segment->killing = true;
    disk->segment_kills++;
    return 0;
}

void disk_kills_raise(struct disk *disk)
{
    for (struct list *at = disk->kills.next; at != &disk->kills; at = at->next) {
        struct disk_kill *kill = CONTAINER_OF(at, struct disk_kill, link);
        if (kill->kind == KILL_SEGMENT)
            continue;
        kill->version = disk->version;
        disk_kill_note(disk, kill);
    }
    if (disk->objects)
        objects_kills_raise(disk->objects, disk->version);
    disk_owed_raise(disk);
}

void disk_kill_ended(struct disk *disk, struct disk_kill *kill, int err)
{
    pending_remove(disk, kill);
    if (kill->segment) {
        disk->segment_kills--;
        kill->segment->killing = !err;
    }
    if (!err)
        disk->figures.kills++;
    else
        disk_owe(disk, kill);
    kill->err = err;
    disk_kill_fn fn = kill->fn;
    fn(kill, err);
}

static void kills_end(struct disk *disk, struct list *kills, int err)
{
    if (list_empty(kills))
        return;
    struct list ended;
    list_init(&ended);
    list_move_all(&ended, kills);
    disk_post(disk);
    struct list *at;
    while ((at = list_pop_front(&ended)))
        disk_kill_ended(disk, CONTAINER_OF(at, struct disk_kill, link), err);
}

void disk_kills_fail(struct disk *disk, int err)
{
    kills_end(disk, &disk->kills, err);
}

void disk_kills_give_up(struct disk *disk, int err)
{
    kills_end(disk, &disk->kills_running, err);
    kills_end(disk, &disk->kills, err);
}

void disk_kills_expire(struct disk *disk)
{
    if (disk->objects && objects_kills_late(disk->objects)) {
        log_warn(disk->log, "unlinks_late", "dir=\"%s\"", objects_folder(disk->objects));
        objects_kills_give_up(disk->objects, KVD_ETIMEOUT);
    }
    struct list *first = list_first(&disk->kills_running);
    if (!first)
        first = list_first(&disk->kills);
    if (!first || loop_now_ms(disk->loop) - CONTAINER_OF(first, struct disk_kill, link)->since_ms < disk->health.timeout_ms)
        return;
    if (disk->state == DISK_OPENING)
        log_warn(disk->log, "opening_late", "dir=\"%s\" what=\"removes cannot be logged yet\"", disk->folder);
    else
        log_warn(disk->log, "remove_log_late", "file=removes-%016" PRIx64 ".log", disk->log_sequence);
    disk->log_hung = disk->frame_running || disk->rotating || disk->raising;
    disk_kills_give_up(disk, KVD_ETIMEOUT);
}

/* ---- logs ---- */

int closed_logs_add(struct closed_logs *logs, const struct closed_log *closed)
{
    if (logs->count == logs->room) {
        size_t room = logs->room ? 2 * logs->room : 16;
        struct closed_log *at = realloc(logs->at, room * sizeof *at);
        if (!at)
            return -ENOMEM;
        logs->at = at;
        logs->room = room;
    }
    size_t place = logs->count++;
    for (; place > 0 && logs->at[place - 1].sequence > closed->sequence; place--)
        logs->at[place] = logs->at[place - 1];
    logs->at[place] = *closed;
    return 0;
}

void disk_log_begin(struct disk *disk, const struct file *file, const uint8_t id[DISK_ID_BYTES], uint64_t sequence)
{
    disk->log_file = *file;
    disk->log_open = true;
    disk->log_sequence = sequence;
    memcpy(disk->log_id, id, DISK_ID_BYTES);
    disk->log_length = LOG_FRAMES_AT;
    disk->log_frames = 0;
    disk->frame_failed = false;
    disk->log_summary = (struct log_summary){.min_version = UINT64_MAX};
}

struct rotation {
    struct job job;
    struct disk *disk; /* for `done` */
    struct disk_place place;
    struct file old, file;
    bool has_old;
    uint64_t cut_at; /* the end of the last good frame of `old`, when one behind it failed; else 0 */
    uint64_t sequence;
    uint8_t id[DISK_ID_BYTES];
    int err;
};

static void rotation_work(struct job *job)
{
    struct rotation *rotation = CONTAINER_OF(job, struct rotation, job);
    struct loop *loop = rotation->place.loop;
    if (rotation->has_old && rotation->cut_at > 0 && fs_truncate(loop, &rotation->old, rotation->cut_at) == 0)
        (void)fs_sync(loop, &rotation->old); /* what failed is not to be found by a restart, if that can be helped */
    if (rotation->has_old)
        (void)fs_close(loop, &rotation->old);
    rotation->err = disk_place_check_marker(&rotation->place, NULL);
    if (!rotation->err)
        rotation->err = remove_log_create(loop, rotation->place.folder, rotation->sequence, &rotation->file, rotation->id);
}

static void rotation_done(struct job *job)
{
    struct rotation *rotation = CONTAINER_OF(job, struct rotation, job);
    struct disk *disk = rotation->disk;
    int err = rotation->err;
    disk->rotating = disk->log_hung = false;
    disk_job_ended(disk);
    disk_health_note(disk, err);
    if (!err) {
        disk_log_begin(disk, &rotation->file, rotation->id, rotation->sequence);
        disk->compact_due = true;
    } else {
        log_error(disk->log, "write_failed", "file=removes-%016" PRIx64 ".log what=create error=\"%s\"", rotation->sequence,
                  error_text(err));
        disk->figures.write_errors++;
    }
    free(rotation);
    disk_post(disk);
    if (err)
        disk_kills_fail(disk, err);
}

/* End the log that is open, if one is, and make the next. A log whose frame failed is ended in any case: its end may be torn. */
static void rotation_start(struct disk *disk)
{
    struct rotation *rotation = calloc(1, sizeof *rotation);
    struct closed_log closed = {.sequence = disk->log_sequence, .bytes = disk->log_length, .summary = disk->log_summary, .fresh = true};
    if (!rotation || (disk->log_open && closed_logs_add(&disk->closed_logs, &closed))) {
        free(rotation);
        disk_kills_fail(disk, -ENOMEM);
        return;
    }
    rotation->disk = disk;
    disk_place_of(disk, &rotation->place);
    rotation->has_old = disk->log_open;
    rotation->old = disk->log_file;
    rotation->cut_at = disk->frame_failed ? disk->log_length : 0;
    rotation->sequence = disk->next_log_sequence++;
    disk->log_open = false;
    disk->rotating = true;
    disk_job_start(disk, &rotation->job, rotation_work, rotation_done);
}

/* ---- frames ---- */

static void frame_end(struct disk *disk, int err)
{
    disk->frame_running = disk->log_hung = false;
    disk_health_note(disk, err);
    if (err) {
        log_error(disk->log, "write_failed", "file=removes-%016" PRIx64 ".log what=frame error=\"%s\"", disk->log_sequence,
                  error_text(err));
        disk->figures.write_errors++;
        disk->frame_failed = true;
    } else {
        disk->log_frames++;
        disk->log_length += disk->frame_done_bytes;
        disk->figures.kill_batches++;
    }
    disk_post(disk); /* those that came meanwhile are next, also when nobody waits for this frame any more */
    kills_end(disk, &disk->kills_running, err);
}

static void frame_synced(struct file_op *op)
{
    struct disk *disk = CONTAINER_OF(op, struct disk, frame_op);
    disk->figures.syncs++;
    if (op->result < 0)
        disk->figures.sync_errors++;
    frame_end(disk, op->result < 0 ? (int)op->result : 0);
}

static void frame_written(struct file_op *op)
{
    struct disk *disk = CONTAINER_OF(op, struct disk, frame_op);
    if (op->result <= 0) {
        frame_end(disk, op->result < 0 ? (int)op->result : -EIO);
        return;
    }
    uint64_t moved = (uint64_t)op->result;
    disk->frame_done_bytes += moved;
    op->offset += moved;
    disk->frame_iov.iov_base = (uint8_t *)disk->frame_iov.iov_base + moved;
    disk->frame_iov.iov_len -= moved;
    if (disk->frame_iov.iov_len > 0)
        file_write_start(disk->loop, op, frame_written);
    else
        file_sync_start(disk->loop, op, frame_synced);
}

static void frame_write(struct disk *disk)
{
    uint32_t bytes = log_frame_finish(&disk->frame, disk->log_id, disk->log_frames);
    disk->frame_running = true;
    disk->frame_since_ms = loop_now_ms(disk->loop);
    disk->frame_done_bytes = 0;
    disk->frame_iov = (struct iovec){disk->frame.at, bytes};
    disk->frame_op.file = &disk->log_file;
    disk->frame_op.iov = &disk->frame_iov;
    disk->frame_op.iov_count = 1;
    disk->frame_op.offset = disk->log_length;
    file_write_start(disk->loop, &disk->frame_op, frame_written);
}

static void summary_note(struct log_summary *summary, const struct disk_kill *kill)
{
    summary->entries++;
    if (kill->kind == KILL_SEGMENT) {
        summary->segment_entries++;
        return;
    }
    summary->min_version = min_u64(summary->min_version, kill->version);
    summary->max_version = max_u64(summary->max_version, kill->version);
}

/* All that wait, as far as they fit and their versions are safe. */
static void frame_gather(struct disk *disk)
{
    log_frame_clear(&disk->frame);
    while (!list_empty(&disk->kills)) {
        struct disk_kill *kill = CONTAINER_OF(list_first(&disk->kills), struct disk_kill, link);
        if (!disk_version_allowed(disk, kill->version) || !log_frame_add(&disk->frame, kill->kind, kill->name, kill->version))
            break;
        list_remove(&kill->link);
        list_push_back(&disk->kills_running, &kill->link);
        summary_note(&disk->log_summary, kill);
    }
}

void disk_kills_pump(struct disk *disk)
{
    if (disk->log_hung) {
        disk_kills_fail(disk, KVD_ETIMEOUT);
        return;
    }
    if (disk->frame_running || disk->rotating)
        return;
    if (disk->raise_err) {
        int err = disk->raise_err;
        disk->raise_err = 0;
        disk_kills_fail(disk, err);
        return;
    }
    if (list_empty(&disk->kills))
        return;
    if (!disk->log_open || disk->frame_failed || disk->log_length >= LOG_ROTATE_BYTES) {
        rotation_start(disk);
        return;
    }
    frame_gather(disk);
    if (disk->frame.count > 0)
        frame_write(disk);
}

/* ---- compaction ---- */

struct compact {
    struct job job;
    struct disk *disk; /* for `done` */
    struct disk_place place;
    struct log_needs needs;
    uint8_t (*ids)[DISK_ID_BYTES];
    uint64_t *sequences;
    size_t count;
    struct log_summary summary;
    uint64_t bytes;
    int err;
};

static void compact_free(struct compact *compact)
{
    free(compact->ids);
    free(compact->sequences);
    free(compact);
}

static void compact_work(struct job *job)
{
    struct compact *compact = CONTAINER_OF(job, struct compact, job);
    compact->err = disk_place_check(&compact->place, NULL);
    if (!compact->err)
        compact->err = remove_log_compact(compact->place.loop, compact->place.folder, compact->sequences, compact->count, &compact->needs,
                                          &compact->summary, &compact->bytes);
}

static bool compact_has(const struct compact *compact, uint64_t sequence)
{
    for (size_t i = 0; i < compact->count; i++)
        if (compact->sequences[i] == sequence)
            return true;
    return false;
}

/* The last of them has what is left of all. */
static void compact_apply(struct disk *disk, const struct compact *compact)
{
    struct closed_logs *logs = &disk->closed_logs;
    uint64_t last = compact->sequences[compact->count - 1];
    size_t kept = 0;
    for (size_t i = 0; i < logs->count; i++) {
        struct closed_log log = logs->at[i];
        if (!compact->err && compact_has(compact, log.sequence)) {
            if (log.sequence != last || compact->bytes == 0)
                continue;
            log = (struct closed_log){.sequence = last, .bytes = compact->bytes, .summary = compact->summary};
        } else if (compact->err && compact_has(compact, log.sequence)) {
            log.fresh = false;
        }
        logs->at[kept++] = log;
    }
    logs->count = kept;
}

static void compact_done(struct job *job)
{
    struct compact *compact = CONTAINER_OF(job, struct compact, job);
    struct disk *disk = compact->disk;
    disk->compacting = false;
    disk_job_ended(disk);
    if (compact->err)
        log_warn(disk->log, "compaction_failed", "logs=%zu error=\"%s\"", compact->count, error_text(compact->err));
    else
        disk->figures.log_compactions++;
    compact_apply(disk, compact);
    compact_free(compact);
    disk_post(disk);
}

/* No file holds a version below this one, nor will what is on its way. */
static uint64_t versions_floor(const struct disk *disk)
{
    uint64_t floor = disk->found_unread > 0 ? 0 : disk_writes_min_version(disk);
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next)
        floor = min_u64(floor, CONTAINER_OF(at, struct segment, link)->min_version);
    for (struct list *at = disk->stuck.next; at != &disk->stuck; at = at->next)
        floor = min_u64(floor, CONTAINER_OF(at, struct segment, link)->min_version);
    return floor;
}

static bool log_is_worth_it(const struct closed_log *log, uint64_t floor)
{
    const struct log_summary *summary = &log->summary;
    if (log->fresh || summary->segment_entries > 0)
        return true;
    return summary->min_version <= summary->max_version && floor > summary->min_version &&
           floor - summary->min_version >= (summary->max_version - summary->min_version) / 2;
}

static size_t ids_collect(const struct list *segments, uint8_t (*ids)[DISK_ID_BYTES], bool *all_known)
{
    static const uint8_t none[DISK_ID_BYTES];
    size_t count = 0;
    for (struct list *at = segments->next; at != segments; at = at->next) {
        const struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (memcmp(segment->head.id, none, DISK_ID_BYTES) == 0)
            *all_known = false;
        if (ids)
            memcpy(ids[count], segment->head.id, DISK_ID_BYTES);
        count++;
    }
    return count;
}

static void compact_pick(struct disk *disk, struct compact *compact)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < disk->closed_logs.count; i++) {
        const struct closed_log *log = &disk->closed_logs.at[i];
        if (!log_is_worth_it(log, compact->needs.min_version))
            continue;
        if (compact->count > 0 && bytes + log->bytes > COMPACT_GROUP_BYTES) {
            disk->compact_due = true;
            return;
        }
        bytes += log->bytes;
        compact->sequences[compact->count++] = log->sequence;
    }
}

static struct compact *compact_new(struct disk *disk)
{
    bool all_known = disk->found_unread == 0;
    size_t segments = ids_collect(&disk->segments, NULL, &all_known) + ids_collect(&disk->stuck, NULL, &all_known);
    struct compact *compact = calloc(1, sizeof *compact);
    if (!compact)
        return NULL;
    compact->ids = calloc(segments + 1, DISK_ID_BYTES);
    compact->sequences = calloc(disk->closed_logs.count + 1, sizeof *compact->sequences);
    if (!compact->ids || !compact->sequences) {
        compact_free(compact);
        return NULL;
    }
    size_t count = ids_collect(&disk->segments, compact->ids, &all_known);
    count += ids_collect(&disk->stuck, compact->ids + count, &all_known);
    compact->disk = disk;
    disk_place_of(disk, &compact->place);
    compact->needs = (struct log_needs){.min_version = disk->keep_kills ? 0 : versions_floor(disk),
                                        .segments = compact->ids,
                                        .segment_count = count,
                                        .keep_all_segments = !all_known};
    return compact;
}

/* Only when every file is known: before, any version may be out there. */
void disk_compact_pump(struct disk *disk)
{
    if (!disk->compact_due || disk->compacting || disk->pages_reading > 0 || disk->state != DISK_ON || disk->closing)
        return;
    disk->compact_due = false;
    struct compact *compact = disk->closed_logs.count > 0 ? compact_new(disk) : NULL;
    if (!compact)
        return;
    compact_pick(disk, compact);
    if (compact->count == 0) {
        compact_free(compact);
        return;
    }
    disk->compacting = true;
    disk_job_start(disk, &compact->job, compact_work, compact_done);
}
