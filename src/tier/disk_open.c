/* disk_open.c - the start: lock the folder, read its node file and remove logs, then its segments one after the other. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

/* ---- names ---- */

bool disk_name_parse(const char *name, const char *prefix, const char *suffix, uint64_t *sequence)
{
    size_t prefix_len = strlen(prefix);
    if (strncmp(name, prefix, prefix_len) != 0 || strlen(name) < prefix_len + 16 || strcmp(name + prefix_len + 16, suffix) != 0)
        return false;
    uint64_t value = 0;
    for (const char *at = name + prefix_len; at < name + prefix_len + 16; at++) {
        if (*at >= '0' && *at <= '9')
            value = value << 4 | (uint64_t)(*at - '0');
        else if (*at >= 'a' && *at <= 'f')
            value = value << 4 | (uint64_t)(*at - 'a' + 10);
        else
            return false;
    }
    *sequence = value;
    return true;
}

/* One folder's name, no way out of it. */
static bool name_is_plain(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/') && strlen(name) <= LAYOUT_NAME_MAX;
}

/* ---- the opening job ---- */

enum { TEMP_NAMES_MAX = 64, FOREIGN_LOGGED = 8, TEMP_NAME_BYTES = 48 };

struct opening {
    struct job job;
    struct disk *disk; /* for `done` */
    struct loop *loop;
    const struct log *log;
    const char *dir, *cluster, *node, *folder;
    const char *require_fs;
    uint64_t start_version, first_version;
    /* what came of it */
    int err;
    char reason[160];
    struct file lock;
    bool locked;
    uint64_t device;
    struct fs_dir_info info; /* of the folder */
    struct node_state state;
    bool node_found;
    struct found_file *files;
    size_t file_count, file_room;
    uint64_t foreign;
    uint64_t *logs; /* sequences */
    size_t log_count, log_room;
    char temps[TEMP_NAMES_MAX][TEMP_NAME_BYTES];
    size_t temp_count;
    struct closed_logs closed_logs;
    struct kill_map *dead;
    struct file log_file;
    uint8_t log_id[DISK_ID_BYTES];
    uint64_t log_sequence;
    const char *objects; /* where they are, if each is a file; or NULL */
    bool objects_marked; /* this node's objects are files */
};

static int opening_fail(struct opening *opening, int err, const char *what)
{
    opening->err = err;
    (void)snprintf(opening->reason, sizeof opening->reason, "%s: %s", what, error_text(err));
    return err;
}

static int folder_check(struct opening *opening, const char *path)
{
    struct fs_dir_info info;
    int err = fs_dir_info(opening->loop, path, &info);
    if (err)
        return opening_fail(opening, err, path);
    if (info.others_can_write) {
        log_error(opening->log, "folder_open_to_others", "path=\"%s\" error=\"others can write here\"", path);
        opening->err = -EACCES;
        (void)snprintf(opening->reason, sizeof opening->reason, "others can write the folder (chmod go-w mends it): %s", path);
        return opening->err;
    }
    opening->device = info.device;
    opening->info = info;
    return 0;
}

/* Of the directory, or of the nearest folder above it that is there. */
static int nearest_info(const struct opening *opening, struct fs_dir_info *info)
{
    char *path = strdup(opening->dir);
    if (!path)
        return -ENOMEM;
    int err = fs_dir_info(opening->loop, path, info);
    for (char *slash; err == -ENOENT && (slash = strrchr(path, '/')) != NULL;) {
        *slash = '\0';
        err = fs_dir_info(opening->loop, slash == path ? "/" : path, info);
    }
    if (err == -ENOENT)
        err = fs_dir_info(opening->loop, ".", info);
    free(path);
    return err;
}

/* Before a folder is made: with the mount away, it would be on the disk below. */
static int fs_check(struct opening *opening)
{
    struct fs_dir_info info;
    if (opening->require_fs[0] == '\0')
        return 0;
    int err = nearest_info(opening, &info);
    if (err)
        return opening_fail(opening, err, opening->dir);
    if (strcmp(opening->require_fs, info.type) == 0)
        return 0;
    opening->err = -ENODEV;
    (void)snprintf(opening->reason, sizeof opening->reason, "the directory is on %s, and require-fs says %.64s", info.type,
                   opening->require_fs);
    return opening->err;
}

/* Before anything is made there. */
static int folder_check_first(struct opening *opening, const char *path)
{
    int err = folder_check(opening, path);
    if (err == -ENOENT)
        opening->err = 0;
    return err == -ENOENT ? 0 : err;
}

/* What a process made, and was killed before it had synced the folder, is there, and a power cut may still take it: what is found is to
 * be built upon. In a folder that may not be read we have made nothing. */
static int folder_settle(struct opening *opening, const char *path)
{
    int err = folder_check(opening, path);
    if (err)
        return err;
    err = fs_sync_dir(opening->loop, path);
    return err && err != -EACCES ? opening_fail(opening, err, path) : 0;
}

static int objects_folder_make(struct opening *opening)
{
    int err = fs_make_dirs(opening->loop, opening->objects);
    return err ? opening_fail(opening, err, opening->objects) : folder_settle(opening, opening->objects);
}

static int folders_make(struct opening *opening)
{
    if (!name_is_plain(opening->cluster) || !name_is_plain(opening->node))
        return opening_fail(opening, -EINVAL, "cluster and node must be plain names");
    char *cluster_folder;
    if (asprintf(&cluster_folder, "%s/%s", opening->dir, opening->cluster) < 0)
        return opening_fail(opening, -ENOMEM, "opening");
    int err = folder_check_first(opening, opening->dir);
    if (!err)
        err = folder_check_first(opening, cluster_folder);
    if (!err) {
        err = fs_make_dirs(opening->loop, opening->folder);
        if (err)
            (void)opening_fail(opening, err, opening->folder);
    }
    if (!err)
        err = folder_settle(opening, opening->dir);
    if (!err)
        err = folder_settle(opening, cluster_folder);
    free(cluster_folder);
    if (!err && opening->objects)
        err = objects_folder_make(opening);
    return err ? err : folder_settle(opening, opening->folder);
}

/* Opened as segments are, so that the log can say at start how they will be. */
static int folder_lock(struct opening *opening)
{
    char *path;
    if (asprintf(&path, "%s/lock", opening->folder) < 0)
        return opening_fail(opening, -ENOMEM, "opening");
    int err = fs_open(opening->loop, &opening->lock, path, FS_DIRECT);
    if (err == -ENOENT)
        err = fs_open(opening->loop, &opening->lock, path, FS_CREATE | FS_DIRECT);
    if (err == -EEXIST)
        err = fs_open(opening->loop, &opening->lock, path, FS_DIRECT);
    free(path);
    if (err)
        return opening_fail(opening, err, "the lock file");
    opening->locked = true;
    err = fs_lock(opening->loop, &opening->lock);
    return err ? opening_fail(opening, err, "another process holds the folder") : 0;
}

/* Make room for one more in an array that doubles. 0 or -ENOMEM. */
static int array_reserve(void **at, size_t count, size_t *room, size_t item_bytes)
{
    if (count < *room)
        return 0;
    size_t more = *room ? 2 * *room : 16;
    void *grown = realloc(*at, more * item_bytes);
    if (!grown)
        return -ENOMEM;
    *at = grown;
    *room = more;
    return 0;
}

static bool segment_seen(struct opening *opening, uint64_t sequence, uint64_t size)
{
    void *at = opening->files;
    if (array_reserve(&at, opening->file_count, &opening->file_room, sizeof *opening->files)) {
        opening->err = -ENOMEM;
        return false;
    }
    opening->files = at;
    opening->files[opening->file_count++] = (struct found_file){sequence, size};
    return true;
}

static bool log_seen(struct opening *opening, uint64_t sequence)
{
    void *at = opening->logs;
    if (array_reserve(&at, opening->log_count, &opening->log_room, sizeof *opening->logs)) {
        opening->err = -ENOMEM;
        return false;
    }
    opening->logs = at;
    opening->logs[opening->log_count++] = sequence;
    return true;
}

bool disk_name_is_temp(const char *name)
{
    uint64_t sequence;
    return strcmp(name, "node.tmp") == 0 || strcmp(name, "probe.tmp") == 0 || disk_name_parse(name, "removes-", ".log.tmp", &sequence);
}

/* Not this tier's, but kvd's: the lock, and what says who is a member (docs/cluster.md). */
static bool name_is_others(const char *name)
{
    return strcmp(name, "lock") == 0 || strcmp(name, "alive") == 0 || strcmp(name, "starts") == 0 || strncmp(name, "alive.", 6) == 0;
}

static bool entry_seen(void *arg, const char *name, bool regular, uint64_t size)
{
    struct opening *opening = arg;
    uint64_t sequence;
    if (regular && disk_name_parse(name, "", ".seg", &sequence))
        return segment_seen(opening, sequence, size);
    if (regular && disk_name_parse(name, "removes-", ".log", &sequence))
        return log_seen(opening, sequence);
    if (regular && strcmp(name, "node") == 0)
        opening->node_found = true;
    else if (regular && strcmp(name, OBJECTS_MARK) == 0)
        opening->objects_marked = true;
    else if (regular && disk_name_is_temp(name) && opening->temp_count < TEMP_NAMES_MAX)
        (void)snprintf(opening->temps[opening->temp_count++], TEMP_NAME_BYTES, "%s", name);
    else if (!name_is_others(name) && ++opening->foreign <= FOREIGN_LOGGED)
        log_warn(opening->log, "foreign_file", "file=\"%s/%s\" what=\"left alone\"", opening->folder, name);
    return true;
}

static int files_compare(const void *a, const void *b)
{
    const struct found_file *left = a;
    const struct found_file *right = b;
    return left->sequence < right->sequence ? -1 : left->sequence > right->sequence;
}

static int sequences_compare(const void *a, const void *b)
{
    const uint64_t *left = a;
    const uint64_t *right = b;
    return *left < *right ? -1 : *left > *right;
}

static int folder_list(struct opening *opening)
{
    int err = fs_list(opening->loop, opening->folder, entry_seen, opening);
    if (!err)
        err = opening->err;
    if (err)
        return opening_fail(opening, err, "listing the folder");
    if (opening->file_count > 0)
        qsort(opening->files, opening->file_count, sizeof *opening->files, files_compare);
    if (opening->log_count > 0)
        qsort(opening->logs, opening->log_count, sizeof *opening->logs, sequences_compare);
    return 0;
}

/* A folder with files and no node file is one that lost it: how far versions went is not known. */
static int node_read(struct opening *opening)
{
    int err = node_file_load(opening->loop, opening->folder, opening->node, opening->cluster, &opening->state);
    if (err == -ENOENT && !opening->node_found && opening->file_count == 0 && opening->log_count == 0)
        return 0;
    if (err == -ENOENT)
        err = KVD_ECORRUPT;
    if (err == KVD_EFORMAT)
        return opening_fail(opening, err, "the node file is of a newer format or of another node");
    return err ? opening_fail(opening, err, "the node file") : 0;
}

/* A node keeps its objects one way or the other: what was removed the one way would be there again the other. */
static int way_check(struct opening *opening)
{
    if (opening->objects && opening->file_count > 0)
        return opening_fail(opening, -EINVAL, "this node has segments: segment-size must not be 0, or its folder be removed first");
    if (!opening->objects && opening->objects_marked)
        return opening_fail(opening, -EINVAL,
                            "this node has a file for each object: segment-size must be 0, or its folder be removed first");
    return 0;
}

static int way_mark(struct opening *opening)
{
    char *path;
    if (!opening->objects || opening->objects_marked)
        return 0;
    if (asprintf(&path, "%s/" OBJECTS_MARK, opening->folder) < 0)
        return opening_fail(opening, -ENOMEM, "opening");
    struct file file;
    int err = fs_open(opening->loop, &file, path, FS_CREATE);
    free(path);
    if (!err)
        err = fs_close(opening->loop, &file);
    if (!err)
        err = fs_sync_dir(opening->loop, opening->folder);
    return err ? opening_fail(opening, err, "marking the folder") : 0;
}

static void temps_remove(struct opening *opening)
{
    for (size_t i = 0; i < opening->temp_count; i++) {
        char *path;
        if (asprintf(&path, "%s/%s", opening->folder, opening->temps[i]) < 0)
            continue;
        (void)fs_unlink(opening->loop, path);
        free(path);
    }
}

static int log_read(struct opening *opening, uint64_t sequence)
{
    struct closed_log closed = {.sequence = sequence, .fresh = true};
    int err = remove_log_load(opening->loop, opening->folder, sequence, opening->dead, &closed.summary, &closed.bytes);
    if (!err)
        err = closed_logs_add(&opening->closed_logs, &closed);
    if (!err && closed.summary.torn)
        log_info(opening->log, "torn_tail", "file=removes-%016" PRIx64 ".log what=\"an entry that was never acknowledged\"", sequence);
    if (!err)
        return 0;
    char what[64];
    (void)snprintf(what, sizeof what, "remove log removes-%016" PRIx64 ".log", sequence);
    return opening_fail(opening, err, what);
}

static int logs_read(struct opening *opening)
{
    uint64_t seed;
    int err = loop_random(opening->loop, &seed, sizeof seed);
    if (!err)
        err = kill_map_new(&opening->dead, seed);
    if (err)
        return opening_fail(opening, err, "opening");
    for (size_t i = 0; i < opening->log_count && !err; i++)
        err = log_read(opening, opening->logs[i]);
    return err;
}

/* What is safe to write from now on: versions up to a new ceiling, kills into a log of our own. */
static int folder_begin(struct opening *opening)
{
    uint64_t base = max_u64(opening->start_version, opening->state.ceiling);
    struct node_state next = {
        .generation = opening->state.generation + 1,
        .ceiling = max_u64(base, kill_map_max_version(opening->dead)) + VERSION_STEP,
    };
    int err = node_file_store(opening->loop, opening->folder, opening->node, opening->cluster, &next);
    if (err)
        return opening_fail(opening, err, "writing the node file");
    uint64_t last = opening->log_count > 0 ? opening->logs[opening->log_count - 1] : 0;
    opening->log_sequence = last + 1;
    err = remove_log_create(opening->loop, opening->folder, opening->log_sequence, &opening->log_file, opening->log_id);
    if (err == -ENOSPC || err == -EDQUOT)
        opening->log_file.fd = -1; /* what is there is served; the first kill tries again */
    else if (err)
        return opening_fail(opening, err, "making a remove log");
    /* What is handed on: versions given before end at `base`. */
    opening->state = next;
    opening->start_version = max_u64(base, kill_map_max_version(opening->dead));
    return 0;
}

static void opening_work(struct job *job)
{
    struct opening *opening = CONTAINER_OF(job, struct opening, job);
    int err = fs_check(opening);
    if (!err)
        err = folders_make(opening);
    if (!err)
        err = folder_lock(opening);
    if (!err)
        err = folder_list(opening);
    if (!err)
        err = way_check(opening);
    if (!err)
        err = node_read(opening);
    if (!err)
        err = logs_read(opening);
    if (!err)
        err = way_mark(opening);
    if (!err) {
        temps_remove(opening);
        err = folder_begin(opening);
    }
    if (err && opening->locked)
        (void)fs_close(opening->loop, &opening->lock);
}

static void opening_free(struct opening *opening)
{
    free(opening->files);
    free(opening->logs);
    free(opening->closed_logs.at);
    kill_map_free(opening->dead);
    free(opening);
}

/* The newest are read first: where the table has not room for all, it is the oldest that are left. */
static void files_turn(struct found_file *files, size_t count)
{
    for (size_t i = 0; i < count / 2; i++) {
        struct found_file file = files[i];
        files[i] = files[count - 1 - i];
        files[count - 1 - i] = file;
    }
}

static void opening_take(struct disk *disk, struct opening *opening)
{
    disk->lock = opening->lock;
    disk->device = opening->device;
    disk->generation = opening->state.generation;
    disk->ceiling = opening->state.ceiling;
    bool given = disk->version > opening->first_version;
    disk->jumped = opening->start_version > disk->version || (given && opening->start_version > opening->first_version);
    disk->version = max_u64(disk->version, opening->start_version);
    if (disk->jumped)
        disk_kills_raise(disk);
    disk->figures.foreign_files = opening->foreign;
    disk->found_files = opening->files;
    disk->found_count = opening->file_count;
    disk->closed_logs = opening->closed_logs;
    disk->dead_log = opening->dead;
    disk->next_log_sequence = opening->log_sequence + 1;
    disk->next_sequence = 1;
    for (size_t i = 0; i < opening->file_count; i++) {
        disk->used_bytes += opening->files[i].bytes;
        disk->next_sequence = opening->files[i].sequence + 1;
    }
    if (opening->log_file.fd >= 0)
        disk_log_begin(disk, &opening->log_file, opening->log_id, opening->log_sequence);
    files_turn(disk->found_files, disk->found_count);
    opening->files = NULL;
    opening->closed_logs.at = NULL;
    opening->dead = NULL;
}

static void opening_failed(struct disk *disk, const struct opening *opening)
{
    disk->state = DISK_OFF;
    disk_health_stop(disk);
    (void)snprintf(disk->off_reason, sizeof disk->off_reason, "%s", opening->reason);
    log_error(disk->log, "disk_off", "dir=\"%s\" reason=\"%s\"", disk->folder, disk->off_reason);
    disk_writes_fail(disk, KVD_EOFF);
    disk_kills_fail(disk, KVD_EOFF);
    if (disk->objects)
        objects_give_up(disk->objects, KVD_EOFF);
}

static void opening_done(struct job *job)
{
    struct opening *opening = CONTAINER_OF(job, struct opening, job);
    struct disk *disk = opening->disk;
    int err = opening->err;
    disk_job_ended(disk);
    if (err) {
        opening_failed(disk, opening);
    } else {
        opening_take(disk, opening);
        disk->state = DISK_RECOVERING;
        disk_health_start(disk);
        disk_space_start(disk);
        log_info(disk->log, "disk_dir", "fs=%s direct=%s async=%s free_bytes=%" PRIu64 " total_bytes=%" PRIu64, opening->info.type,
                 opening->lock.direct ? "yes" : "no", opening->lock.punt ? "yes" : "no", opening->info.free_bytes,
                 opening->info.total_bytes);
        log_info(disk->log, "disk_opened",
                 "dir=\"%s\" segments=%zu logs=%zu used_bytes=%" PRIu64 " limit_bytes=%" PRIu64 " segment_bytes=%" PRIu64, disk->folder,
                 disk->found_count, disk->closed_logs.count, disk->used_bytes, disk->limit_bytes, disk->segment_bytes);
    }
    opening_free(opening);
    disk_post(disk);
    disk->events.opened(disk->arg, err);
    if (!err && !disk->closing)
        disk_recovery_start(disk);
}

int disk_open_start(struct disk *disk)
{
    struct opening *opening = calloc(1, sizeof *opening);
    if (!opening)
        return -ENOMEM;
    opening->disk = disk;
    opening->loop = disk->loop;
    opening->log = disk->log;
    opening->dir = disk->dir;
    opening->cluster = disk->cluster;
    opening->node = disk->node;
    opening->folder = disk->folder;
    opening->require_fs = disk->health.require_fs;
    opening->objects = disk->objects ? objects_folder(disk->objects) : NULL;
    opening->start_version = opening->first_version = disk->version;
    disk_job_start(disk, &opening->job, opening_work, opening_done);
    disk_health_start(disk); /* it may hang */
    return 0;
}

/* ---- segments, one after the other ---- */

static void run_next(struct recover_run *run);

static void run_end(struct recover_run *run)
{
    recovery_fini(&run->recovery);
    run->segment = NULL;
    run->busy = run->announcing = false;
}

void disk_recovery_over(struct disk *disk)
{
    struct disk_figures *figures = &disk->figures;
    disk->state = DISK_ON;
    kill_map_free(disk->dead_log);
    kill_map_free(disk->dead_live);
    disk->dead_log = disk->dead_live = NULL;
    free(disk->found_files);
    disk->found_files = NULL;
    figures->recovery_ms = loop_now_ms(disk->loop) - disk->started_ms;
    log_info(disk->log, "recovered",
             "segments=%zu records=%" PRIu64 " killed=%" PRIu64 " walked=%" PRIu64 " torn_tails=%" PRIu64 " bad_indexes=%" PRIu64
             " unreadable=%" PRIu64 " newer=%" PRIu64 " ms=%" PRIu64,
             disk->found_count, figures->recovered_records, figures->recovered_killed, figures->recovered_walked, figures->torn_tails,
             figures->bad_indexes, figures->unreadable_segments, figures->newer_segments, figures->recovery_ms);
    disk->compact_due = true;
    disk_post(disk);
    disk->events.recovered(disk->arg);
}

bool disk_recovery_busy(const struct disk *disk)
{
    for (size_t i = 0; i < RECOVERERS; i++)
        if (disk->runs[i].busy)
            return true;
    return false;
}

/* A run that has nothing more to do looks whether all is done. */
static void run_continue(struct recover_run *run)
{
    struct disk *disk = run->disk;
    run_next(run);
    if (!disk_recovery_busy(disk) && disk->found_next == disk->found_count && !disk->closing)
        disk_recovery_over(disk);
}

static void run_work(struct job *job)
{
    recovery_step(CONTAINER_OF(job, struct recovery, job));
}

static void run_leave_alone(struct recover_run *run)
{
    struct disk *disk = run->disk;
    struct segment *segment = run->segment;
    bool newer = run->recovery.outcome == RECOVERY_NEWER;
    uint64_t *counter = newer ? &disk->figures.newer_segments : &disk->figures.unreadable_segments;
    ++*counter;
    log_warn(disk->log, newer ? "segment_newer" : "segment_unreadable", "file=%s bytes=%" PRIu64 " error=\"%s\" what=\"left alone\"",
             segment->below, segment->accounted, error_text(run->recovery.err));
    segment->min_version = 0;
    list_push_back(&disk->stuck, &segment->link);
    run_end(run);
    run_continue(run);
}

static void run_log(const struct recover_run *run)
{
    const struct recovery *recovery = &run->recovery;
    struct disk *disk = run->disk;
    disk->figures.recovered_walked += recovery->walked;
    disk->figures.torn_tails += recovery->torn > 0;
    disk->figures.bad_indexes += recovery->bad_indexes;
    if (recovery->torn > 0)
        log_warn(disk->log, "torn_tail", "file=%s walked=%" PRIu64 " void=%" PRIu64, run->segment->below, recovery->walked, recovery->torn);
    if (recovery->bad_indexes > 0)
        log_warn(disk->log, "index_bad", "file=%s indexes=%" PRIu64, run->segment->below, recovery->bad_indexes);
    disk->figures.damaged_segments += recovery->err || recovery->lost;
    if (recovery->err || recovery->lost)
        log_warn(disk->log, "segment_damaged", "file=%s error=\"%s\"", run->segment->below, error_text(recovery->err));
}

static void run_sealed(struct recover_run *run)
{
    struct disk *disk = run->disk;
    struct segment *segment = run->segment;
    const struct recovery *recovery = &run->recovery;
    bool empty = recovery->records == 0 && !recovery->lost;
    run_log(run);
    segment->length = recovery->length;
    segment->records = (uint32_t)recovery->records;
    disk->used_bytes = disk->used_bytes - segment->accounted + segment->length;
    segment->accounted = segment->length;
    if (recovery->lost)
        segment->min_version = 0;
    /* What was walked and could not be synced may not be on stable storage. */
    segment->sync_failed = recovery->err || (recovery->read_failed && recovery->walked > 0);
    segment->state = SEGMENT_SEALED;
    disk_late_syncs_end(disk, segment, segment->sync_failed ? -EIO : 0);
    run_end(run);
    disk_post(disk);
    if (empty)
        disk_segment_unlink(disk, segment);
    run_continue(run);
}

/* Its kill was durable, its end was not. */
static void run_unlink(struct recover_run *run)
{
    struct disk *disk = run->disk;
    struct segment *segment = run->segment;
    log_info(disk->log, "segment_dead", "file=%s what=\"given up before the restart: unlinked\"", segment->below);
    list_push_back(&disk->stuck, &segment->link);
    segment_die(segment, true);
    run_end(run);
    run_continue(run);
}

/* It is read when the tier has come back. */
static void run_put_back(struct recover_run *run)
{
    struct disk *disk = run->disk;
    disk->found_files[--disk->found_next] = (struct found_file){run->segment->head.sequence, run->segment->accounted};
    segment_free(run->segment);
    run_end(run);
}

/* Making it failed, and so did taking it away. */
static void run_leave_out(struct recover_run *run)
{
    struct disk *disk = run->disk;
    log_info(disk->log, "segment_empty", "file=%s what=\"never begun: unlinked\"", run->segment->below);
    disk->used_bytes -= run->segment->accounted;
    segment_free(run->segment);
    run_end(run);
    run_continue(run);
}

static void run_take(struct recover_run *run)
{
    run->segment->file = run->recovery.file;
    run->segment->head = run->recovery.head;
    run->segment->state = SEGMENT_RECOVERING;
}

static void run_stepped(struct job *job)
{
    struct recovery *recovery = CONTAINER_OF(job, struct recovery, job);
    struct recover_run *run = CONTAINER_OF(recovery, struct recover_run, recovery);
    struct disk *disk = run->disk;
    bool first = recovery->opened && run->segment->file.fd < 0;
    disk_job_ended(disk);
    disk_health_note(disk, recovery->outcome == RECOVERY_UNREADABLE ? recovery->err : recovery->read_failed ? -EIO : 0);
    if (recovery->outcome == RECOVERY_UNREADABLE && recovery->err > KVD_EPROTO && disk->health.tripped) {
        run_put_back(run);
        return;
    }
    if (recovery->outcome == RECOVERY_EMPTY) {
        run_leave_out(run);
        return;
    }
    if (recovery->outcome == RECOVERY_NEWER || recovery->outcome == RECOVERY_UNREADABLE) {
        run_leave_alone(run);
        return;
    }
    if (first) {
        run_take(run);
        if (kill_map_segment_dead(disk->dead_log, run->segment->head.id)) {
            run_unlink(run);
            return;
        }
        disk_segment_insert(disk, run->segment);
    }
    run->announcing = true;
    run->found = recovery->found;
    task_post(&disk->announce);
}

/* As one that cannot be read; but it stands in no list. */
static void found_leave_alone(struct disk *disk, const struct found_file *found)
{
    disk->found_unread++;
    disk->figures.unreadable_segments++;
    log_warn(disk->log, "segment_unreadable", "file=%s/%016" PRIx64 ".seg bytes=%" PRIu64 " error=\"%s\" what=\"left alone\"",
             disk->folder + strlen(disk->dir) + 1, found->sequence, found->bytes, error_text(-ENOMEM));
}

static void run_next(struct recover_run *run)
{
    struct disk *disk = run->disk;
    while (!disk->closing && !disk->health.tripped && disk->found_next < disk->found_count) {
        const struct found_file *found = &disk->found_files[disk->found_next++];
        struct segment *segment = segment_new(disk, found->sequence, 0);
        if (!segment) {
            found_leave_alone(disk, found);
            continue;
        }
        segment->accounted = found->bytes;
        run->segment = segment;
        run->busy = true;
        recovery_init(&run->recovery, disk->loop, segment->path, disk->node, disk->cluster, found->sequence);
        disk_job_start(disk, &run->recovery.job, run_work, run_stepped);
        return;
    }
}

/* ---- announcing ---- */

static bool entry_is_dead(const struct disk *disk, const struct index_entry *entry)
{
    return kill_map_dead(disk->dead_log, entry->key, entry->version) || kill_map_dead(disk->dead_live, entry->key, entry->version);
}

/* What an index says is believed as far as it can be true; the bytes are judged when they are read. */
static bool entry_is_sane(const struct recover_run *run, const struct index_entry *entry)
{
    return entry->block >= layout_first_block(run->recovery.head.slots) && entry->version <= run->disk->version &&
           ((uint64_t)entry->block + entry->blocks) * BLOCK_BYTES <= run->recovery.length;
}

static void run_announce(struct recover_run *run, const struct index_entry *entry)
{
    struct disk *disk = run->disk;
    struct segment *segment = run->segment;
    if (!entry_is_sane(run, entry)) {
        run->recovery.lost = true;
        return;
    }
    segment->min_version = min_u64(segment->min_version, entry->version);
    if (entry_is_dead(disk, entry)) {
        disk->figures.recovered_killed++;
        return;
    }
    disk->figures.recovered_records++;
    struct disk_found found = {
        .key = entry->key,
        .version = entry->version,
        .size = entry->size,
        .checksum = entry->checksum,
        .expires_ms = entry->expires_ms,
        .where = {segment, entry->block, entry->blocks},
    };
    disk->events.found(disk->arg, &found);
}

/* All that this step found is told: on to the next. */
static void run_step(struct recover_run *run)
{
    run->announcing = false;
    if (run->found.at != run->found.end)
        run->recovery.lost = true;
    if (run->recovery.outcome == RECOVERY_DONE)
        run_sealed(run);
    else
        disk_job_start(run->disk, &run->recovery.job, run_work, run_stepped);
}

void disk_announce(struct task *task)
{
    struct disk *disk = CONTAINER_OF(task, struct disk, announce);
    uint64_t begun_us = loop_cpu_us();
    unsigned left = FOUND_A_TURN;
    for (size_t i = 0; i < RECOVERERS && !disk->closing; i++) {
        struct recover_run *run = &disk->runs[i];
        struct index_entry entry;
        if (!run->announcing)
            continue;
        while (left > 0 && index_next(&run->found, &entry)) {
            left--;
            run_announce(run, &entry);
        }
        if (left > 0)
            run_step(run);
        else
            task_post(&disk->announce);
    }
    disk->figures.longest_announce_us = max_u64(disk->figures.longest_announce_us, loop_cpu_us() - begun_us);
    disk_post(disk);
}

void disk_recovery_start(struct disk *disk)
{
    if (disk->objects) {
        objects_scan_start(disk->objects);
        return;
    }
    for (size_t i = 0; i < RECOVERERS; i++) {
        disk->runs[i].disk = disk;
        run_next(&disk->runs[i]);
    }
    if (!disk_recovery_busy(disk))
        disk_recovery_over(disk);
}

void disk_recovery_resume(struct disk *disk)
{
    if (disk->objects)
        return; /* their scans wait in the queue */
    for (size_t i = 0; i < RECOVERERS && disk->state == DISK_RECOVERING; i++)
        if (!disk->runs[i].busy)
            run_continue(&disk->runs[i]);
}

void disk_recovery_stop(struct disk *disk)
{
    if (disk->objects)
        objects_scan_stop(disk->objects);
    for (size_t i = 0; i < RECOVERERS; i++)
        if (disk->runs[i].announcing)
            run_end(&disk->runs[i]);
    disk_late_syncs_end(disk, NULL, KVD_ECLOSING);
}
