/* disk_health.c - does the device answer? A breaker that switches the tier off while it does not, and on again when it does; whether the
 * folder is still where it was; kills that failed, to be logged once they can be.
 *
 * Tripped, the tier starts nothing: reads, writes, kills and syncs end with KVD_EOFF at once. Every few seconds a probe, a job, tries the
 * folder out. Where the mount has gone and come back, every file that was open is dead: what is under way must end first, then
 * the probe opens all of them again by their names and takes the lock anew.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

/* ---- what is owed ---- */

/* A kill that failed: what it names is gone for good, and a restart would bring it back. */
struct owed {
    struct list link;
    struct disk *disk;
    struct disk_kill kill;
    uint8_t name[];
};

void disk_owe(struct disk *disk, const struct disk_kill *kill)
{
    struct health *health = &disk->health;
    if (!kill->keep || disk->closing)
        return;
    bool fits = health->owed_count < OWED_MOST && health->owed_bytes + kill->name.len <= OWED_BYTES;
    struct owed *owed = fits ? malloc(sizeof *owed + kill->name.len) : NULL;
    if (!owed) {
        disk->figures.kills_forgotten++;
        return;
    }
    *owed = (struct owed){.disk = disk};
    bytes_copy(owed->name, kill->name.at, kill->name.len);
    owed->kill = (struct disk_kill){
        .kind = kill->kind, .name = span_of(owed->name, kill->name.len), .version = kill->version, .keep = true, .whoever = kill->whoever};
    list_push_back(&health->owed, &owed->link);
    health->owed_count++;
    health->owed_bytes += kill->name.len;
}

static void owed_free(struct owed *owed)
{
    struct health *health = &owed->disk->health;
    health->owed_count--;
    health->owed_bytes -= owed->kill.name.len;
    free(owed);
}

/* One that failed again is owed again, by a copy. What the tier itself did not let through has not been tried; what the folder says no to
 * may be a walk through all its files, and is not asked for all the time. */
static void owed_paid(struct disk_kill *kill, int err)
{
    struct owed *owed = CONTAINER_OF(kill, struct owed, kill);
    struct disk *disk = owed->disk;
    struct health *health = &disk->health;
    bool refused = err != 0 && err != KVD_EOFF && err != KVD_ECLOSING && err != KVD_ETIMEOUT;
    health->owed_pause_ms = refused ? min_u64(OWED_PAUSE_MOST_MS, max_u64(OWED_PAUSE_MS, 2 * health->owed_pause_ms)) : 0;
    health->owed_due_ms = loop_now_ms(disk->loop) + health->owed_pause_ms;
    owed_free(owed);
}

void disk_owed_raise(struct disk *disk)
{
    struct list *head = &disk->health.owed;
    for (struct list *at = head->next; at != head; at = at->next) {
        struct disk_kill *kill = &CONTAINER_OF(at, struct owed, link)->kill;
        kill->version = disk->version;
        disk_kill_note(disk, kill);
    }
}

static void owed_pay(struct disk *disk)
{
    struct list *at;
    if (loop_now_ms(disk->loop) < disk->health.owed_due_ms)
        return;
    for (unsigned n = 0; n < OWED_A_TURN && (at = list_pop_front(&disk->health.owed)) != NULL; n++) {
        struct owed *owed = CONTAINER_OF(at, struct owed, link);
        if (disk_kill_start(disk, &owed->kill, owed_paid) != 0) {
            owed_free(owed); /* the heap is out: a copy is owed instead */
            return;
        }
    }
}

/* ---- the folder ---- */

void disk_place_of(const struct disk *disk, struct disk_place *place)
{
    *place = (struct disk_place){
        .loop = disk->loop,
        .folder = disk->folder,
        .node = disk->node,
        .cluster = disk->cluster,
        .require_fs = disk->health.require_fs,
        .device = disk->device,
    };
}

int disk_place_check(const struct disk_place *place, struct fs_dir_info *out)
{
    struct fs_dir_info info;
    int err = fs_dir_info(place->loop, place->folder, &info);
    if (err)
        return err == -ENOENT ? -ENODEV : err;
    if (info.device != place->device || (place->require_fs[0] != '\0' && strcmp(place->require_fs, info.type) != 0))
        return -ENODEV;
    if (out)
        *out = info;
    return 0;
}

int disk_place_check_marker(const struct disk_place *place, struct fs_dir_info *info)
{
    struct node_state state;
    int err = disk_place_check(place, info);
    if (!err)
        err = node_file_load(place->loop, place->folder, place->node, place->cluster, &state);
    if (err == -ENOENT)
        return -ENODEV;
    return err <= KVD_EPROTO ? -EIO : err; /* a write does not end with what is said of values */
}

/* ---- the breaker ---- */

static bool cannot_write(int err)
{
    return err == -ENOSPC || err == -EDQUOT || err == -EROFS;
}

static bool mount_is_gone(int err)
{
    return err == -ENODEV || err == -ENOTCONN || err == -ECONNABORTED;
}

/* The device has answered: that it is full, or may only be read, or that the heap is out, is no sickness of its. */
static bool is_an_answer(int err)
{
    bool ours = err <= KVD_EPROTO && err != KVD_ETIMEOUT;
    return ours || cannot_write(err) || err == -ENOMEM || err == -EFBIG;
}

static void trip(struct disk *disk, int err)
{
    struct health *health = &disk->health;
    uint64_t least_ms = min_u64(PROBE_MS, health->timeout_ms);
    health->pause_ms = health->answered ? least_ms : min_u64(2 * health->pause_ms, PROBE_MOST_MS);
    health->answered = false;
    health->tripped = health->fail_due = true;
    health->since_ms = loop_now_ms(disk->loop);
    (void)snprintf(health->reason, sizeof health->reason, "%s", error_text(err));
    disk->figures.trips++;
    log_error(disk->log, "disk_tripped", "dir=\"%s\" error=\"%s\" what=\"memory alone until it answers again\"", disk->folder,
              health->reason);
    timer_start(&health->timer, health->pause_ms);
    disk_post(disk);
}

void disk_health_note(struct disk *disk, int err)
{
    struct health *health = &disk->health;
    if (health->tripped || disk->closing || disk->state == DISK_OPENING || disk->state == DISK_OFF)
        return;
    if (err == 0) {
        health->failures = 0;
        health->answered = true;
    }
    if (err == 0 || is_an_answer(err))
        return;
    health->failures++;
    if (health->failures >= TRIP_FAILURES || mount_is_gone(err))
        trip(disk, err);
}

void disk_read_is_late(struct disk *disk, struct disk_read *read)
{
    if (disk_read_let_go(read))
        return; /* the device has answered: what takes long is the judging */
    log_warn(disk->log, "read_late", "file=%s block=%u", read->where.segment->below, read->where.block);
    disk_health_note(disk, KVD_ETIMEOUT);
}

/* Everybody who waits is told; what the kernel has goes on, and is seen to when it comes back. */
void disk_health_pump(struct disk *disk)
{
    if (!disk->health.fail_due)
        return;
    disk->health.fail_due = false;
    if (disk->open)
        segment_end(disk->open);
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next)
        segment_waiters_fail(CONTAINER_OF(at, struct segment, link), KVD_EOFF);
    disk_late_syncs_end(disk, NULL, KVD_EOFF);
    disk_writes_fail(disk, KVD_EOFF);
    disk_kills_give_up(disk, KVD_EOFF);
    if (disk->objects)
        objects_give_up(disk->objects, KVD_EOFF);
}

/* ---- the probe ---- */

struct reopened {
    uint64_t sequence;
    uint8_t id[DISK_ID_BYTES];
    struct file file; /* fd -1: it could not be opened */
};

struct probe {
    struct job job;
    struct disk *disk; /* for `done` */
    struct loop *loop;
    const struct log *log;
    const char *folder, *node, *cluster, *require_fs;
    uint64_t device;
    struct node_state ours, tried; /* what the node file says if nobody else has written it */
    bool quiet;                    /* nothing is under way on the files that are open */
    bool last_try;                 /* what cannot be opened now is done without */
    struct reopened *files;
    size_t count;
    /* what came of it */
    int err;
    char reason[160];
    bool moved; /* it is another mount than before */
    bool reopen_failed;
    uint64_t new_device;
    struct file lock;
    struct node_state state;
};

static int probe_fail(struct probe *probe, int err, const char *what)
{
    probe->err = err;
    (void)snprintf(probe->reason, sizeof probe->reason, "%s: %s", what, error_text(err));
    return err;
}

static bool same_state(const struct node_state *a, const struct node_state *b)
{
    return a->generation == b->generation && a->ceiling == b->ceiling;
}

static int probe_place(struct probe *probe)
{
    struct fs_dir_info info;
    int err = fs_dir_info(probe->loop, probe->folder, &info);
    if (err)
        return probe_fail(probe, err, "the folder");
    if (probe->require_fs[0] != '\0' && strcmp(probe->require_fs, info.type) != 0)
        return probe_fail(probe, -ENODEV, "the folder is not on the file system that is required");
    err = node_file_load(probe->loop, probe->folder, probe->node, probe->cluster, &probe->state);
    if (err)
        return probe_fail(probe, err, "the node file");
    if (!same_state(&probe->state, &probe->ours) && !same_state(&probe->state, &probe->tried))
        return probe_fail(probe, -ESTALE, "another process has used the folder");
    probe->moved = info.device != probe->device;
    probe->new_device = info.device;
    return probe->moved && !probe->quiet ? probe_fail(probe, -EBUSY, "operations on the old mount are under way") : 0;
}

static int probe_write(struct probe *probe, const char *path, const uint8_t *block)
{
    struct file file;
    int err = fs_open(probe->loop, &file, path, FS_CREATE);
    if (err)
        return err;
    err = fs_write(probe->loop, &file, block, BLOCK_BYTES, 0);
    if (!err)
        err = fs_sync(probe->loop, &file);
    int close_err = fs_close(probe->loop, &file);
    return err ? err : close_err;
}

static int probe_read(struct probe *probe, const char *path, const uint8_t *block, uint8_t *got)
{
    struct file file;
    int err = fs_open(probe->loop, &file, path, FS_DIRECT | FS_READ_ONLY);
    if (err)
        return err;
    int64_t len = fs_read(probe->loop, &file, got, BLOCK_BYTES, 0);
    (void)fs_close(probe->loop, &file);
    if (len < 0)
        return (int)len;
    return len == BLOCK_BYTES && memcmp(block, got, BLOCK_BYTES) == 0 ? 0 : -EIO;
}

/* What may only be read is served all the same: that it is full, or read-only, is seen to where something is written. */
static int probe_io(struct probe *probe)
{
    char *path;
    if (asprintf(&path, "%s/probe.tmp", probe->folder) < 0)
        return probe_fail(probe, -ENOMEM, "probing");
    uint8_t *blocks = aligned_alloc(BLOCK_BYTES, 2 * BLOCK_BYTES);
    int err = blocks ? loop_random(probe->loop, blocks, BLOCK_BYTES) : -ENOMEM;
    if (!err)
        err = fs_unlink(probe->loop, path);
    if (!err || err == -ENOENT)
        err = probe_write(probe, path, blocks);
    if (!err)
        err = probe_read(probe, path, blocks, blocks + BLOCK_BYTES);
    (void)fs_unlink(probe->loop, path);
    free(blocks);
    free(path);
    return err && !cannot_write(err) ? probe_fail(probe, err, "writing a file and reading it") : 0;
}

static int probe_lock(struct probe *probe)
{
    char *path;
    if (asprintf(&path, "%s/lock", probe->folder) < 0)
        return probe_fail(probe, -ENOMEM, "probing");
    int err = fs_open(probe->loop, &probe->lock, path, 0);
    free(path);
    if (!err)
        err = fs_lock(probe->loop, &probe->lock);
    return err ? probe_fail(probe, err, "the lock file") : 0;
}

/* 0, or why it cannot be read: KVD_ECORRUPT when it is another. */
static int probe_open_segment(struct probe *probe, struct reopened *file, const char *path, uint8_t *block)
{
    struct layout_head head;
    int err = fs_open(probe->loop, &file->file, path, FS_DIRECT);
    if (err)
        return err;
    int64_t got = fs_read(probe->loop, &file->file, block, BLOCK_BYTES, 0);
    err = got < 0 ? (int)got : got < BLOCK_BYTES ? KVD_ESHORT : layout_head_parse(block, &head);
    if (!err && memcmp(head.id, file->id, DISK_ID_BYTES) != 0)
        err = KVD_ECORRUPT;
    if (err)
        (void)fs_close(probe->loop, &file->file);
    return err;
}

/* One that is not there, or is another, stays closed: its objects are misses. So does, in the end, one that cannot be read. */
static int probe_open_segments(struct probe *probe)
{
    uint8_t *block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
    int err = block ? 0 : -ENOMEM;
    for (size_t i = 0; i < probe->count && !err; i++) {
        struct reopened *file = &probe->files[i];
        char *path;
        if (asprintf(&path, "%s/%016" PRIx64 ".seg", probe->folder, file->sequence) < 0) {
            err = -ENOMEM;
            break;
        }
        err = probe_open_segment(probe, file, path, block);
        if (err)
            log_warn(probe->log, "segment_unreadable", "file=\"%s\" error=\"%s\"", path, error_text(err));
        if (err <= KVD_EPROTO || err == -ENOENT || probe->last_try)
            err = 0;
        free(path);
    }
    free(block);
    probe->reopen_failed = err != 0;
    return err ? probe_fail(probe, err, "opening the segments again") : 0;
}

static void files_close(struct probe *probe)
{
    for (size_t i = 0; i < probe->count; i++)
        if (probe->files[i].file.fd >= 0)
            (void)fs_close(probe->loop, &probe->files[i].file);
    if (probe->lock.fd >= 0)
        (void)fs_close(probe->loop, &probe->lock);
}

static void probe_work(struct job *job)
{
    struct probe *probe = CONTAINER_OF(job, struct probe, job);
    int err = probe_place(probe);
    if (!err && probe->moved)
        err = probe_lock(probe);
    if (!err)
        err = probe_io(probe);
    if (!err && probe->moved)
        err = probe_open_segments(probe);
    if (err)
        files_close(probe);
}

static void probe_free(struct probe *probe)
{
    free(probe->files);
    free(probe);
}

/* ---- coming back ---- */

static void old_files_close_work(struct job *job)
{
    files_close(CONTAINER_OF(job, struct probe, job));
}

static void old_files_closed(struct job *job)
{
    struct probe *probe = CONTAINER_OF(job, struct probe, job);
    disk_job_ended(probe->disk);
    probe_free(probe);
}

static void file_swap(struct file *a, struct file *b)
{
    struct file c = *a;
    *a = *b;
    *b = c;
}

static void segment_take_file(struct segment *segment, struct file *file)
{
    file_swap(&segment->file, file);
    segment->reopened = segment->file.fd >= 0;
}

/* The new files take the places of the old ones, which a job closes. */
static void files_take(struct disk *disk, struct probe *probe)
{
    size_t i = 0;
    file_swap(&disk->lock, &probe->lock);
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next) {
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        while (i < probe->count && probe->files[i].sequence < segment->head.sequence)
            i++;
        bool same = i < probe->count && probe->files[i].sequence == segment->head.sequence;
        if (same && segment->state == SEGMENT_SEALED && segment->reads == 0)
            segment_take_file(segment, &probe->files[i].file);
    }
    disk->device = probe->new_device;
    disk->heal.due = !disk->closing;
    disk->frame_failed = true; /* the log that was open is dead: the next kill begins another */
    disk_job_start(disk, &probe->job, old_files_close_work, old_files_closed);
}

static void come_back(struct disk *disk, const struct probe *probe)
{
    struct health *health = &disk->health;
    health->tripped = false;
    health->failures = health->reopens_failed = 0;
    health->reason[0] = '\0';
    health->owed_pause_ms = health->owed_due_ms = 0;
    disk->generation = probe->state.generation;
    disk->ceiling = probe->state.ceiling;
    disk->create_retry_ms = 0;
    log_info(disk->log, "disk_back", "dir=\"%s\" after_ms=%" PRIu64 " moved=%s owed_kills=%" PRIu32, disk->folder,
             loop_now_ms(disk->loop) - health->since_ms, probe->moved ? "yes" : "no", health->owed_count);
}

static void probe_done(struct job *job)
{
    struct probe *probe = CONTAINER_OF(job, struct probe, job);
    struct disk *disk = probe->disk;
    disk_job_ended(disk);
    disk->health.reopens_failed += probe->reopen_failed;
    if (!probe->err)
        come_back(disk, probe);
    else
        (void)snprintf(disk->health.reason, sizeof disk->health.reason, "%s", probe->reason);
    if (!disk->closing)
        timer_start(&disk->health.timer, probe->err ? disk->health.pause_ms : 0);
    if (!probe->err && probe->moved)
        files_take(disk, probe);
    else
        probe_free(probe);
    if (!disk->health.tripped && !disk->closing)
        disk_recovery_resume(disk);
}

static bool is_quiet(const struct disk *disk)
{
    return !disk_recovery_busy(disk) && disk->reads == 0 && disk->runs_used == 0 && !disk->frame_running && disk->sealing == 0 &&
           disk->jobs == 0 && !disk->open;
}

static void probe_start(struct disk *disk)
{
    struct probe *probe = calloc(1, sizeof *probe);
    struct reopened *files = calloc(disk->figures.segments + 1, sizeof *files);
    if (!probe || !files) {
        free(probe);
        free(files);
        timer_start(&disk->health.timer, disk->health.pause_ms);
        return;
    }
    *probe = (struct probe){
        .disk = disk,
        .loop = disk->loop,
        .log = disk->log,
        .folder = disk->folder,
        .node = disk->node,
        .cluster = disk->cluster,
        .require_fs = disk->health.require_fs,
        .device = disk->device,
        .ours = {disk->generation, disk->ceiling},
        .tried = disk->raise_tried,
        .quiet = is_quiet(disk),
        .last_try = disk->health.reopens_failed >= REOPENS_MOST,
        .files = files,
        .lock.fd = -1,
    };
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next) {
        const struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (segment->objects)
            continue; /* those have no file open */
        struct reopened *file = &files[probe->count++];
        file->sequence = segment->head.sequence;
        file->file.fd = -1;
        memcpy(file->id, segment->head.id, DISK_ID_BYTES);
    }
    disk->figures.probes++;
    disk_job_start(disk, &probe->job, probe_work, probe_done);
}

/* ---- what hangs ---- */

static bool is_late(const struct disk *disk, uint64_t since_ms)
{
    return loop_now_ms(disk->loop) - since_ms >= disk->health.timeout_ms;
}

static bool run_is_late(const struct disk *disk, const struct write_run *run)
{
    return run->segment && is_late(disk, run->since_ms);
}

static bool sync_is_late(const struct disk *disk, const struct segment *segment)
{
    return segment->appender && segment->appender->syncing && is_late(disk, segment->appender->sync_since_ms);
}

/* Those with an appender are among the newest. */
static uint32_t live_segments(const struct disk *disk)
{
    return disk->sealing + (disk->open ? 1 : 0);
}

static uint32_t overdue_count(const struct disk *disk)
{
    uint32_t count = disk->jobs > 0 && is_late(disk, disk->health.jobs_moved_ms);
    count += disk->frame_running && is_late(disk, disk->frame_since_ms);
    for (size_t i = 0; disk->write_runs && i < WRITE_RUNS; i++)
        count += run_is_late(disk, &disk->write_runs[i]);
    uint32_t live = live_segments(disk);
    for (struct list *at = disk->segments.prev; at != &disk->segments && live > 0; at = at->prev) {
        const struct segment *segment = CONTAINER_OF(at, struct segment, link);
        live -= segment->appender != NULL;
        count += sync_is_late(disk, segment);
    }
    return count;
}

/* Whoever waits for a sync is told when it hangs, or a write before it in its segment does. */
static void syncs_expire(struct disk *disk)
{
    for (size_t i = 0; disk->write_runs && i < WRITE_RUNS; i++)
        if (run_is_late(disk, &disk->write_runs[i]))
            segment_waiters_fail(disk->write_runs[i].segment, KVD_ETIMEOUT);
    uint32_t live = live_segments(disk);
    for (struct list *at = disk->segments.prev; at != &disk->segments && live > 0; at = at->prev) {
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        live -= segment->appender != NULL;
        if (sync_is_late(disk, segment))
            segment_waiters_fail(segment, KVD_ETIMEOUT);
    }
}

static void watch(struct disk *disk)
{
    uint32_t overdue = overdue_count(disk);
    for (uint32_t i = 0; i < overdue; i++)
        disk_health_note(disk, KVD_ETIMEOUT);
    if (disk->health.tripped)
        return;
    if (overdue > 0)
        syncs_expire(disk);
    disk_kills_expire(disk);
    if (disk->state != DISK_OPENING)
        owed_pay(disk);
}

static void tick(struct timer *timer)
{
    struct disk *disk = CONTAINER_OF(timer, struct disk, health.timer);
    if (disk->health.tripped) {
        probe_start(disk);
        return;
    }
    watch(disk);
    if (!disk->health.tripped)
        timer_start(timer, max_u64(disk->health.timeout_ms / WATCHES_A_TIMEOUT, WATCH_LEAST_MS));
}

int disk_health_init(struct disk *disk, const struct disk_config *config)
{
    struct health *health = &disk->health;
    health->timeout_ms = config->timeout_ms ? config->timeout_ms : TIMEOUT_MS;
    health->answered = true;
    list_init(&health->owed);
    timer_init(&health->timer, disk->loop, tick);
    health->require_fs = strdup(config->require_fs ? config->require_fs : "");
    return health->require_fs ? 0 : -ENOMEM;
}

void disk_health_start(struct disk *disk)
{
    timer_start(&disk->health.timer, 0);
}

void disk_health_stop(struct disk *disk)
{
    timer_stop(&disk->health.timer);
}

void disk_health_fini(struct disk *disk)
{
    struct list *at;
    while ((at = list_pop_front(&disk->health.owed)))
        owed_free(CONTAINER_OF(at, struct owed, link));
    free(disk->health.require_fs);
}
