#include "tier/disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

/* ---- jobs and the pump ---- */

void disk_post(struct disk *disk)
{
    task_post(&disk->pump);
}

void disk_job_start(struct disk *disk, struct job *job, job_fn work, job_fn done)
{
    if (disk->jobs++ == 0)
        disk->health.jobs_moved_ms = loop_now_ms(disk->loop);
    job_start(disk->loop, job, work, done);
}

void disk_look_ended(struct disk *disk)
{
    CHECK(disk->jobs > 0);
    disk->jobs--;
    disk_post(disk);
}

void disk_job_ended(struct disk *disk)
{
    disk->health.jobs_moved_ms = loop_now_ms(disk->loop);
    disk_look_ended(disk);
}

static void close_pump(struct disk *disk);

/* Those that are not sealed are among the newest: a turn does not look at all there are. */
static void segments_pump(struct disk *disk)
{
    uint32_t live = disk->sealing + (disk->open ? 1 : 0);
    struct list *prev;
    for (struct list *at = disk->segments.prev; at != &disk->segments && live > 0; at = prev) {
        prev = at->prev;
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (!segment->appender)
            continue;
        live--;
        segment_tick(segment);
    }
}

static void syncs_pump(struct disk *disk);

static void pump(struct task *task)
{
    struct disk *disk = CONTAINER_OF(task, struct disk, pump);
    if (disk->state == DISK_RECOVERING || disk->state == DISK_ON) {
        disk_health_pump(disk);
        if (!disk->health.tripped) {
            disk_kills_pump(disk);
            if (disk->objects)
                objects_pump(disk->objects);
            else
                disk_writes_pump(disk);
            disk_compact_pump(disk);
            disk_raise_maybe(disk);
            disk_heal_pump(disk);
        }
        disk_kill_pages_pump(disk);
        segments_pump(disk);
        segments_unlink_pump(disk);
    }
    syncs_pump(disk);
    if (disk->closing)
        close_pump(disk);
}

/* ---- making ---- */

static int names_take(struct disk *disk, const struct disk_config *config)
{
    disk->dir = strdup(config->dir ? config->dir : "");
    disk->cluster = strdup(config->cluster ? config->cluster : "");
    disk->node = strdup(config->node ? config->node : "");
    if (!disk->dir || !disk->cluster || !disk->node)
        return -ENOMEM;
    if (asprintf(&disk->folder, "%s/%s/%s", disk->dir, disk->cluster, disk->node) < 0) {
        disk->folder = NULL;
        return -ENOMEM;
    }
    disk->node_hash = XXH3_64bits(disk->node, strlen(disk->node));
    return 0;
}

static uint64_t log_bytes(const struct disk *disk)
{
    uint64_t bytes = disk->log_open ? disk->log_length : 0;
    for (size_t i = 0; i < disk->closed_logs.count; i++)
        bytes += disk->closed_logs.at[i].bytes;
    return bytes;
}

/* Room for a log that grows is kept from the start. However long it gets, it does not take all: values go, and with them what it is for. */
uint64_t disk_usable_bytes(const struct disk *disk)
{
    uint64_t others = max_u64(disk->limit_bytes / 64, log_bytes(disk) + OTHER_FILES_BYTES);
    return disk->limit_bytes - min_u64(others, disk->limit_bytes / 4);
}

/* At least two segments fit, so that giving one up makes room for another. */
static void sizes_take(struct disk *disk, const struct disk_config *config)
{
    disk->limit_bytes = config->limit_bytes;
    disk->keeps_objects = config->segment_bytes == 0;
    disk->segment_bytes = min_u64(config->segment_bytes, disk_usable_bytes(disk) / 2);
    disk->segment_bytes = max_u64(disk->segment_bytes, SEGMENT_MIN_BYTES) & ~(uint64_t)(BLOCK_BYTES - 1);
    disk->read_split_bytes = config->read_split_bytes ? config->read_split_bytes : MIB;
}

static void lists_init(struct disk *disk)
{
    list_init(&disk->segments);
    list_init(&disk->dead);
    list_init(&disk->stuck);
    list_init(&disk->free_slots);
    list_init(&disk->free_runs);
    disk_writes_init(disk);
    list_init(&disk->ripe);
    list_init(&disk->late_syncs);
    list_init(&disk->kills);
    list_init(&disk->kills_running);
    list_init(&disk->kill_pages);
    task_init(&disk->pump, disk->loop, pump);
    task_init(&disk->announce, disk->loop, disk_announce);
}

static int disk_begin(struct disk *disk)
{
    uint64_t seed;
    int err = loop_random(disk->loop, &seed, sizeof seed) ? -ENOMEM : kill_map_new(&disk->dead_live, seed);
    if (!err)
        err = log_frame_init(&disk->frame);
    if (!err)
        err = disk->keeps_objects ? objects_new(&disk->objects, disk) : disk_runs_init(disk);
    return err ? err : disk_open_start(disk);
}

int disk_new(struct disk **out, struct loop *loop, const struct log *log, const struct disk_config *config,
             const struct disk_events *events, void *arg)
{
    struct disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return -ENOMEM;
    disk->loop = loop;
    disk->log = log;
    disk->events = *events;
    disk->arg = arg;
    disk->started_ms = loop_now_ms(loop);
    disk->keep_kills = config->keep_kills;
    disk->version = loop_wall_ms(loop) << 16;
    disk->state = config->dir ? DISK_OPENING : DISK_OFF;
    lists_init(disk);
    sizes_take(disk, config);
    disk_space_init(disk, config);
    segments_unlink_init(disk, config->unlink_delay_ms);
    int err = disk_health_init(disk, config);
    if (!err)
        err = names_take(disk, config);
    if (!err && config->dir)
        err = disk_begin(disk);
    if (err) {
        disk->closed = true;
        disk_free(disk);
        return err;
    }
    if (!config->dir)
        (void)snprintf(disk->off_reason, sizeof disk->off_reason, "no directory is configured");
    *out = disk;
    return 0;
}

static void segments_free(struct list *segments)
{
    struct list *at;
    while ((at = list_pop_front(segments)))
        segment_free(CONTAINER_OF(at, struct segment, link));
}

void disk_free(struct disk *disk)
{
    CHECK(disk->closed && disk->jobs == 0);
    segments_free(&disk->segments);
    segments_free(&disk->stuck);
    objects_free(disk->objects);
    disk_runs_fini(disk);
    log_frame_fini(&disk->frame);
    disk_health_fini(disk);
    kill_map_free(disk->dead_log);
    kill_map_free(disk->dead_live);
    free(disk->found_files);
    free(disk->closed_logs.at);
    free(disk->folder);
    free(disk->node);
    free(disk->cluster);
    free(disk->dir);
    free(disk);
}

/* ---- state ---- */

enum disk_state disk_state(const struct disk *disk)
{
    return disk->health.tripped ? DISK_TRIPPED : disk->state;
}

const char *disk_state_name(const struct disk *disk)
{
    static const char *const names[] = {"opening", "recovering", "on", "off", "tripped"};
    return names[disk_state(disk)];
}

const char *disk_trouble(const struct disk *disk)
{
    if (disk->health.tripped)
        return disk->health.reason;
    if (disk->space.low)
        return disk->space.trouble;
    return disk->create_err ? error_text(disk->create_err) : "";
}

const char *disk_off_reason(const struct disk *disk)
{
    return disk->off_reason;
}

uint64_t disk_used_bytes(const struct disk *disk)
{
    return disk->objects ? objects_used_bytes(disk->objects) : disk->used_bytes;
}

void disk_get_figures(const struct disk *disk, struct disk_figures *out)
{
    *out = disk->figures;
    out->limit_bytes = disk->limit_bytes;
    out->free_bytes = disk->space.free_bytes;
    out->free_least_bytes = disk->space.least_bytes;
    out->used_bytes = disk_used_bytes(disk);
    out->drain_bytes_per_s = disk->drain_rate;
    out->kills_owed = disk->health.owed_count;
    out->log_bytes = log_bytes(disk);
}

/* ---- versions ---- */

struct raise {
    struct job job;
    struct disk *disk; /* for `done` */
    struct disk_place place;
    struct node_state state;
    int err;
};

static void raise_work(struct job *job)
{
    struct raise *raise = CONTAINER_OF(job, struct raise, job);
    const struct disk_place *place = &raise->place;
    raise->err = disk_place_check(place, NULL);
    if (!raise->err)
        raise->err = node_file_store(place->loop, place->folder, place->node, place->cluster, &raise->state);
}

static void raise_done(struct job *job)
{
    struct raise *raise = CONTAINER_OF(job, struct raise, job);
    struct disk *disk = raise->disk;
    int err = raise->err;
    disk->raising = disk->log_hung = false;
    disk_job_ended(disk);
    disk_health_note(disk, err);
    if (!err) {
        disk->ceiling = raise->state.ceiling;
        disk->generation = raise->state.generation;
    } else {
        log_error(disk->log, "write_failed", "file=node what=ceiling error=\"%s\"", error_text(err));
        disk->figures.write_errors++;
    }
    free(raise);
    /* Who waits for a higher ceiling is told; the next one tries again. */
    if (err && disk->version > disk->ceiling) {
        disk->raise_err = err;
        disk_writes_fail(disk, err);
    }
}

static void raise_start(struct disk *disk)
{
    struct raise *raise = disk->raising ? NULL : calloc(1, sizeof *raise);
    if (!raise)
        return;
    raise->disk = disk;
    disk_place_of(disk, &raise->place);
    raise->state.generation = disk->generation + 1;
    raise->state.ceiling = max_u64(disk->version, disk->ceiling) + VERSION_STEP;
    disk->raising = true;
    disk->raise_tried = raise->state;
    disk_job_start(disk, &raise->job, raise_work, raise_done);
}

void disk_raise_maybe(struct disk *disk)
{
    if (disk->ceiling < disk->version + VERSION_STEP / 2 && !disk->closing)
        raise_start(disk);
}

bool disk_version_allowed(struct disk *disk, uint64_t version)
{
    CHECK(version <= disk->version);
    if (version <= disk->ceiling)
        return true;
    raise_start(disk);
    return false;
}

uint64_t disk_next_version(struct disk *disk)
{
    uint64_t version = ++disk->version;
    bool opened = disk->state == DISK_RECOVERING || disk->state == DISK_ON;
    if (opened && disk->ceiling < version + VERSION_STEP / 2 && !disk->raising)
        disk_post(disk);
    return version;
}

bool disk_versions_jumped(const struct disk *disk)
{
    return disk->jumped;
}

static int versions_known(const struct disk *disk)
{
    if (disk->state == DISK_OFF)
        return KVD_EOFF;
    return disk->state == DISK_OPENING ? KVD_EBUSY : 0;
}

int disk_give_version(struct disk *disk, uint64_t *version)
{
    int err = versions_known(disk);
    if (!err && disk->version >= disk->ceiling) {
        disk_post(disk); /* it tries again to raise that */
        err = KVD_EBUSY;
    }
    if (!err)
        *version = disk_next_version(disk);
    return err;
}

int disk_raise_version(struct disk *disk, uint64_t floor)
{
    int err = floor > DISK_VERSION_MOST ? KVD_EUSAGE : versions_known(disk);
    if (err)
        return err;
    disk->version = max_u64(disk->version, floor);
    disk_post(disk);
    return 0;
}

/* ---- durability ---- */

uint64_t disk_timeout_ms(const struct disk *disk)
{
    return disk->health.timeout_ms;
}

static int sync_allowed(const struct disk *disk)
{
    if (disk->state == DISK_OFF || disk->health.tripped)
        return KVD_EOFF;
    return disk->closing ? KVD_ECLOSING : 0;
}

static void sync_ripe(struct disk *disk, struct disk_sync *sync, int err)
{
    sync->err = err;
    list_init(&sync->link);
    list_push_back(&disk->ripe, &sync->link);
    disk_post(disk);
}

void disk_late_syncs_end(struct disk *disk, const struct segment *segment, int err)
{
    struct list *next;
    for (struct list *at = disk->late_syncs.next; at != &disk->late_syncs; at = next) {
        next = at->next;
        struct disk_sync *sync = CONTAINER_OF(at, struct disk_sync, link);
        if (segment && sync->segment != segment)
            continue;
        list_remove(at);
        sync_ripe(disk, sync, err);
    }
}

int disk_sync_start(struct disk *disk, struct disk_sync *sync, const struct disk_where *where, disk_sync_fn fn)
{
    int err = sync_allowed(disk);
    if (err)
        return err;
    sync->fn = fn;
    sync->at = sync->last = 0;
    if (where->segment->objects) {
        sync_ripe(disk, sync, 0); /* it was synced before the write ended */
        return 0;
    }
    segment_wait(where->segment, sync, ((uint64_t)where->block + where->blocks) * BLOCK_BYTES);
    return 0;
}

/* Wait for the next segment that has something to sync. False when there is none. */
static bool sync_all_next(struct disk *disk, struct disk_sync *sync)
{
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next) {
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (segment->head.sequence <= sync->at || segment->head.sequence > sync->last)
            continue;
        bool waits = segment->appender && segment->appender->completed_end > segment->appender->durable;
        bool alive = segment->state != SEGMENT_DEAD && segment->state != SEGMENT_UNLINKING;
        if (!waits && !(segment->sync_failed && alive))
            continue;
        sync->at = segment->head.sequence;
        segment_wait(segment, sync, waits ? segment->appender->completed_end : 0);
        return true;
    }
    return false;
}

int disk_sync_all_start(struct disk *disk, struct disk_sync *sync, disk_sync_fn fn)
{
    int err = sync_allowed(disk);
    if (err)
        return err;
    sync->fn = fn;
    sync->at = 0;
    sync->last = disk->next_sequence;
    if (!sync_all_next(disk, sync))
        sync_ripe(disk, sync, 0);
    return 0;
}

enum disk_synced disk_synced(const struct disk_where *where)
{
    const struct segment *segment = where->segment;
    const struct appender *appender = segment->appender;
    uint64_t end = ((uint64_t)where->block + where->blocks) * BLOCK_BYTES;
    if (segment->objects)
        return DISK_SYNCED;
    if (segment->sync_failed)
        return DISK_UNSURE;
    bool known = appender ? end <= appender->durable : segment->state != SEGMENT_RECOVERING;
    return known ? DISK_SYNCED : DISK_NOT_SYNCED;
}

int disk_seal_start(struct disk *disk, struct disk_sync *sync, disk_sync_fn fn)
{
    int err = sync_allowed(disk);
    if (err)
        return err;
    sync->fn = fn;
    sync->at = sync->last = 0;
    struct segment *segment = disk->open;
    for (struct list *at = disk->segments.next; at != &disk->segments && !segment; at = at->next)
        if (CONTAINER_OF(at, struct segment, link)->appender)
            segment = CONTAINER_OF(at, struct segment, link);
    if (!segment) {
        sync_ripe(disk, sync, 0);
        return 0;
    }
    segment_end(segment);
    segment_wait(segment, sync, UINT64_MAX);
    return 0;
}

static void syncs_pump(struct disk *disk)
{
    struct list ripe;
    list_init(&ripe);
    list_move_all(&ripe, &disk->ripe);
    struct list *at;
    while ((at = list_pop_front(&ripe))) {
        struct disk_sync *sync = CONTAINER_OF(at, struct disk_sync, link);
        if (!sync->err && sync->last > 0 && sync_all_next(disk, sync))
            continue;
        disk_sync_fn fn = sync->fn;
        fn(sync, sync->err);
    }
}

/* ---- segments ---- */

void *segment_user(const struct segment *segment)
{
    return segment->user;
}

void segment_set_user(struct segment *segment, void *user)
{
    segment->user = user;
}

const char *segment_path(const struct segment *segment)
{
    return segment->below;
}

bool segment_sealed(const struct segment *segment)
{
    return segment->state >= SEGMENT_SEALED;
}

uint64_t segment_sequence(const struct segment *segment)
{
    return segment->head.sequence;
}

uint64_t segment_created_ms(const struct segment *segment)
{
    return segment->head.created_ms;
}

const uint8_t *segment_id(const struct segment *segment)
{
    return segment->head.id;
}

const char *segment_state_name(const struct segment *segment)
{
    static const char *const names[] = {
        [SEGMENT_CREATING] = "creating", [SEGMENT_RECOVERING] = "recovering", [SEGMENT_OPEN] = "open", [SEGMENT_ENDING] = "ending",
        [SEGMENT_SEALING] = "sealing",   [SEGMENT_SEALED] = "sealed",         [SEGMENT_DEAD] = "dead", [SEGMENT_UNLINKING] = "unlinking",
    };
    return names[segment->state];
}

uint64_t segment_bytes(const struct segment *segment)
{
    return segment->accounted;
}

bool segment_busy(const struct segment *segment)
{
    return segment->state != SEGMENT_SEALED || segment->killing;
}

struct segment *disk_segment_next(const struct disk *disk, const struct segment *after)
{
    struct list *next = after ? after->link.next : disk->segments.next;
    return next == &disk->segments ? NULL : CONTAINER_OF(next, struct segment, link);
}

static uint64_t sequence_of(struct list *at)
{
    return CONTAINER_OF(at, struct segment, link)->head.sequence;
}

/* Of those there are; 0 when there are none. */
static uint64_t middle_sequence(const struct disk *disk)
{
    if (list_empty(&disk->segments))
        return 0;
    return sequence_of(disk->segments.next) + (sequence_of(disk->segments.prev) - sequence_of(disk->segments.next)) / 2;
}

/* New ones come at the end, those that are found at start at the beginning. */
void disk_segment_insert(struct disk *disk, struct segment *segment)
{
    uint64_t sequence = segment->head.sequence;
    struct list *after = disk->segments.prev;
    if (sequence < middle_sequence(disk))
        for (after = &disk->segments; sequence_of(after->next) < sequence;)
            after = after->next;
    while (after != &disk->segments && sequence_of(after) > sequence)
        after = after->prev;
    list_insert_after(after, &segment->link);
    segment->shown = true;
    disk->figures.segments++;
}

/* What could not be unlinked is still there, and still counts. */
void disk_segment_gone(struct disk *disk, struct segment *segment)
{
    bool shown = segment->shown;
    list_remove(&segment->link);
    disk->compact_due = true;
    disk_post(disk);
    if (shown) {
        disk->figures.segments--;
        disk->events.gone(disk->arg, segment);
    }
    segment->shown = false;
    if (segment->accounted > 0)
        list_push_back(&disk->stuck, &segment->link);
    else
        segment_free(segment);
}

void disk_ask_again(struct disk *disk)
{
    disk_post(disk);
}

void disk_segment_unlink(struct disk *disk, struct segment *segment)
{
    CHECK(segment->state == SEGMENT_SEALED);
    if (disk->files_closing) {
        segment->state = SEGMENT_DEAD; /* the next start unlinks it: the log says that it is dead */
        return;
    }
    segment_die(segment, false);
}

/* ---- closing ---- */

static void close_work(struct job *job)
{
    /* Nothing else is under way: the open files are this job's. */
    struct disk *disk = CONTAINER_OF(job, struct disk, close_job);
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next) {
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (segment->file.fd >= 0)
            (void)fs_close(disk->loop, &segment->file);
    }
    if (disk->log_open)
        (void)fs_close(disk->loop, &disk->log_file);
    if (disk->erase)
        disk_erase_work(disk);
    (void)fs_close(disk->loop, &disk->lock);
}

static void close_end(struct disk *disk)
{
    disk->state = DISK_OFF;
    (void)snprintf(disk->off_reason, sizeof disk->off_reason, "closed");
    disk->closed = true;
    task_cancel(&disk->pump);
    task_cancel(&disk->announce);
    disk_writes_stop(disk);
    disk_health_stop(disk);
    disk_space_stop(disk);
    disk->closed_fn(disk->closed_arg);
}

static void close_done(struct job *job)
{
    struct disk *disk = CONTAINER_OF(job, struct disk, close_job);
    disk->jobs--;
    close_end(disk);
}

/* True when everything that was asked for has ended, one way or the other. */
static bool requests_ended(struct disk *disk)
{
    if (disk->abandon)
        disk_writes_fail(disk, KVD_ECLOSING);
    if (disk->objects && disk->health.tripped)
        objects_give_up(disk->objects, KVD_EOFF);
    if (disk->objects && !objects_idle(disk->objects))
        return false;
    if (!list_empty(&disk->queue) || disk->runs_used > 0 || !list_empty(&disk->kills) || !list_empty(&disk->kills_running) ||
        disk->frame_running) /* a late one, perhaps, for which nobody waits any more */
        return false;
    disk_recovery_stop(disk);
    if (disk->open)
        segment_end(disk->open);
    segments_unlink_leave(disk);
    return disk->sealing == 0 && disk->unlinking == 0 && disk->reads == 0 && list_empty(&disk->ripe);
}

static void close_pump(struct disk *disk)
{
    if (disk->closed || disk->state == DISK_OPENING)
        return;
    if (disk->state == DISK_OFF) {
        if (disk->jobs == 0 && list_empty(&disk->ripe) && !disk->frame_running)
            close_end(disk);
        return;
    }
    if (!requests_ended(disk) || disk->jobs > 0)
        return;
    disk->files_closing = true;
    disk_job_start(disk, &disk->close_job, close_work, close_done);
}

void disk_close(struct disk *disk, bool abandon, disk_closed_fn fn, void *arg)
{
    CHECK(!disk->closing);
    disk->closing = true;
    disk_health_stop(disk);
    disk_space_stop(disk);
    disk->abandon = abandon;
    disk->closed_fn = fn;
    disk->closed_arg = arg;
    disk_post(disk);
}
