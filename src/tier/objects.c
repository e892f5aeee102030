#include "tier/objects.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"
#include "tier/object_file.h"
#include "tier/object_name.h"

enum {
    BATCHES = 8, /* jobs under way that change folders */
    BATCH_OPS = 32,
    BATCH_BYTES = 8 << 20,
    WRITES_ADMITTED = 256,
    SCANNERS = 4, /* folders that are looked through at once */
    SCAN_STEP = FOUND_A_TURN / SCANNERS,
    SWEEP_STEP = 64,
    SCAN_ROUNDS = 4,     /* through the folders that could not be looked through before: then a start is done without them */
    SCAN_PAUSE_MS = 500, /* before the second; each is twice as long as the one before */
};

/* A version that is further ahead of the clock than this is no version of ours, nor of a node whose clock is about right. */
#define VERSION_AHEAD_MAX ((uint64_t)1 << 43)

enum op_kind { OP_WRITE, OP_KILL, OP_SWEEP, OP_SCAN };

/* The names in a folder, as far as they are objects'. */
struct names {
    struct object_name *at;
    size_t count, room, next;
    bool listed;
};

/* What a kill names: a copy, for who asked may have given it up while a job is at it. */
struct target {
    enum kill_kind kind;
    uint64_t version;
    bool whoever;
    struct span name;
};

/* A kill of a prefix or of all: a walk through each folder. */
struct sweep {
    struct list link;       /* objects->sweeps */
    struct disk_kill *kill; /* NULL: given up */
    struct target target;
    unsigned left;
    int err;
    uint8_t name[];
};

/* One of this node's files, seen by a scan. */
struct seen {
    struct disk_found found;
    uint8_t key[RECORD_KEY_MAX];
};

/* What waits for a folder, or is in a batch. */
struct op {
    struct list link;
    enum op_kind kind;
    unsigned fan;
    struct object_name name;  /* of a write and a kill of a key */
    struct disk_write *write; /* the job reads what the caller leaves unchanged */
    struct disk_kill *kill;   /* of a key, not for the job; NULL: given up */
    struct sweep *sweep;
    struct target target; /* of a kill; what a sweep's points to is the sweep's */
    struct names names;
    /* what the job says */
    int err;
    bool changed; /* something in the folder: it is told when that is synced */
    bool shown;   /* of a write: the file got its name */
    bool collided, retried;
    int unread_err;              /* of a scan: why a file's header could not be read that may be another time */
    int spared_err;              /* of a sweep: why a file that it may have to reach was left, */
    char spared[OBJECT_HEX + 1]; /* the first of those */
    uint32_t id;
    uint64_t unlinked, damaged, foreign;
    struct seen *seen; /* SCAN_STEP of them */
    unsigned seen_count;
    uint8_t key[]; /* that a kill names */
};

struct fan {
    struct list link; /* objects->ready, while something waits and no batch runs */
    struct list ops;
    bool busy;
    bool dirty; /* something was unlinked or renamed, perhaps by a process before this one, and is not known to be synced */
};

/* A job that works through some of what waits for a folder. */
struct batch {
    struct job job;
    struct list link;        /* objects->free_batches */
    struct objects *objects; /* for `done` */
    struct fan *fan;
    struct loop *loop;
    const char *folder; /* objects_folder() */
    char hex[3];        /* the folder below it */
    struct disk_place place;
    uint64_t node;
    struct list ops;
    uint64_t bytes;
    bool dirty; /* of the fan */
    int sync_err;
    bool synced;
};

struct objects {
    struct disk *disk;
    char *folder;
    struct segment *own, *others;
    struct fan fans[OBJECT_FANS];
    struct list ready;
    struct list sweeps;
    struct list kills; /* struct disk_kill, as they were asked for */
    struct batch batches[BATCHES];
    struct list free_batches;
    unsigned batches_running;
    uint64_t moved_ms; /* when one ended last */
    uint64_t ops;      /* queued or in a batch */
    uint64_t writes;
    uint64_t writing_bytes; /* of them */
    uint64_t live_bytes;    /* of this node's files that the owner knows */
    uint64_t dying_bytes;   /* of those that kills are under way for */
    /* the start */
    bool unscanned[OBJECT_FANS];
    unsigned scan_next, scanning, scan_rounds;
    struct timer scan_timer; /* the next round */
    char *file_text;         /* disk_file_of() */
};

static void scan_again(struct timer *timer);

/* ---- life ---- */

static struct segment *stand_in_new(struct disk *disk, const char *folder)
{
    struct segment *segment = segment_new(disk, 0, 0);
    if (!segment)
        return NULL;
    free(segment->path);
    segment->path = strdup(folder);
    if (!segment->path) {
        free(segment);
        return NULL;
    }
    segment->below = segment->path + strlen(disk->dir) + 1;
    segment->state = SEGMENT_SEALED;
    segment->killing = true; /* never given up */
    segment->objects = true;
    return segment;
}

static int objects_fill(struct objects *objects, struct disk *disk)
{
    if (asprintf(&objects->folder, "%s/%s/" OBJECTS_FOLDER, disk->dir, disk->cluster) < 0) {
        objects->folder = NULL;
        return -ENOMEM;
    }
    objects->own = stand_in_new(disk, objects->folder);
    objects->others = stand_in_new(disk, objects->folder);
    objects->file_text = malloc(strlen(objects->folder) + OBJECT_HEX + 8);
    return objects->own && objects->others && objects->file_text ? 0 : -ENOMEM;
}

int objects_new(struct objects **out, struct disk *disk)
{
    struct objects *objects = calloc(1, sizeof *objects);
    if (!objects)
        return -ENOMEM;
    objects->disk = disk;
    list_init(&objects->ready);
    list_init(&objects->sweeps);
    list_init(&objects->kills);
    list_init(&objects->free_batches);
    timer_init(&objects->scan_timer, disk->loop, scan_again);
    for (unsigned i = 0; i < BATCHES; i++)
        list_push_back(&objects->free_batches, &objects->batches[i].link);
    for (unsigned i = 0; i < OBJECT_FANS; i++) {
        list_init(&objects->fans[i].link);
        list_init(&objects->fans[i].ops);
        objects->fans[i].dirty = true;
    }
    int err = objects_fill(objects, disk);
    if (err) {
        objects_free(objects);
        return err;
    }
    *out = objects;
    return 0;
}

void objects_free(struct objects *objects)
{
    if (!objects)
        return;
    CHECK(objects->ops == 0 && objects->batches_running == 0);
    segment_free(objects->own);
    segment_free(objects->others);
    free(objects->file_text);
    free(objects->folder);
    free(objects);
}

const char *objects_folder(const struct objects *objects)
{
    return objects->folder;
}

void objects_folders_remove(const struct objects *objects)
{
    for (unsigned fan = 0; fan < OBJECT_FANS; fan++) {
        char *path;
        if (asprintf(&path, "%s/%02x", objects->folder, fan) < 0)
            return;
        (void)fs_remove_dir(objects->disk->loop, path);
        free(path);
    }
    (void)fs_remove_dir(objects->disk->loop, objects->folder);
}

bool objects_idle(const struct objects *objects)
{
    return objects->ops == 0 && objects->batches_running == 0;
}

uint64_t objects_used_bytes(const struct objects *objects)
{
    return objects->live_bytes + objects->dying_bytes + objects->writing_bytes;
}

/* The mount may go and leave a bare folder: there a new file would fill the wrong disk, and no file would mean nothing. */
static void place_of(const struct objects *objects, struct disk_place *place)
{
    disk_place_of(objects->disk, place);
    place->folder = objects->folder;
}

/* ---- in jobs: names ---- */

/* "<objects>/<2 hex>/<name>", on the heap; NULL when that is out. */
static char *path_below(const char *objects_folder, const char *hex, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%.2s/%s", objects_folder, hex, name) < 0 ? NULL : path;
}

/* "<objects>/<2 hex>", likewise. */
static char *folder_below(const char *objects_folder, const char *hex)
{
    char *path;
    return asprintf(&path, "%s/%.2s", objects_folder, hex) < 0 ? NULL : path;
}

/* ---- in jobs: one write ---- */

/* Whose is the name? 0 when it is free, or its file is this key's or nobody's. */
static int write_check_name(struct batch *batch, struct op *op, const char *path)
{
    struct object_file file;
    int err = object_file_open(batch->loop, path, &file);
    if (err)
        return err == -ENOENT || err == KVD_ESHORT || err == KVD_ECORRUPT ? 0 : err;
    op->collided = !span_equal(file.record.key, op->write->key);
    object_file_close(batch->loop, &file);
    return op->collided ? -EEXIST : 0;
}

static int write_temp(struct batch *batch, struct op *op, const char *temp)
{
    const struct disk_write *write = op->write;
    struct record record = {
        .version = write->version,
        .node = batch->node,
        .expires_ms = write->expires_ms,
        .size = blob_size(write->blob),
        .checksum = write->checksum,
        .key = write->key,
    };
    int err = loop_random(batch->loop, record.segment_id, sizeof record.segment_id);
    if (err)
        return err;
    op->id = get_le32(record.segment_id);
    return object_file_write(batch->loop, temp, &record, write->blob);
}

/* The file gets its name; the folder is synced later. */
static int write_try(struct batch *batch, struct op *op, const char *folder, const char *temp, const char *path)
{
    int err = write_temp(batch, op, temp);
    if (err == -ENOENT) {
        err = fs_make_dirs(batch->loop, folder);
        if (!err)
            err = write_temp(batch, op, temp);
    } else if (err == -EEXIST) { /* left by a try that failed */
        err = fs_unlink(batch->loop, temp);
        if (!err)
            err = write_temp(batch, op, temp);
    }
    if (err)
        return err;
    op->shown = op->changed = true;
    return fs_rename(batch->loop, temp, path);
}

static bool no_space(int err)
{
    return err == -ENOSPC || err == -EDQUOT;
}

static int write_twice(struct batch *batch, struct op *op, const char *folder, const char *temp, const char *path)
{
    int err = write_try(batch, op, folder, temp, path);
    op->retried = err && !no_space(err);
    if (op->retried)
        err = write_try(batch, op, folder, temp, path);
    if (err)
        (void)fs_unlink(batch->loop, temp);
    return err;
}

static void write_work(struct batch *batch, struct op *op)
{
    char temp_name[OBJECT_TEMP_CHARS + 1];
    object_temp_name(&op->name, batch->node, temp_name);
    char *folder = folder_below(batch->folder, op->name.hex);
    char *temp = path_below(batch->folder, op->name.hex, temp_name);
    char *path = path_below(batch->folder, op->name.hex, op->name.hex);
    int err = folder && temp && path ? disk_place_check(&batch->place, NULL) : -ENOMEM;
    if (!err)
        err = write_check_name(batch, op, path);
    if (!err)
        err = write_twice(batch, op, folder, temp, path);
    op->err = err <= KVD_EPROTO ? -EIO : err; /* a write does not end with what is said of values */
    free(folder);
    free(temp);
    free(path);
}

/* ---- in jobs: kills ---- */

static bool kill_reaches(const struct batch *batch, const struct target *target, const struct record *record)
{
    bool named = target->kind == KILL_PREFIX ? span_starts_with(record->key, target->name) : span_equal(record->key, target->name);
    bool ours = record->node == batch->node;
    return (named || target->kind == KILL_ALL) && (ours ? record->version <= target->version : target->whoever);
}

/* 0 also when there is no such file. What is no record has no key to tell whether a prefix reaches it, and may have one when it is read
 * another time: KVD_ESHORT, KVD_ECORRUPT. By its name, or with all, it goes: it is of no use to anybody. Of a newer format (KVD_EFORMAT)
 * only who knows it can say. */
static int kill_file(struct batch *batch, struct op *op, const char *name)
{
    struct object_file file;
    char *path = path_below(batch->folder, name, name);
    if (!path)
        return -ENOMEM;
    bool dead = true;
    int err = object_file_open(batch->loop, path, &file);
    if (!err) {
        dead = kill_reaches(batch, &op->target, &file.record);
        object_file_close(batch->loop, &file);
    } else if (op->target.kind != KILL_PREFIX && (err == KVD_ESHORT || err == KVD_ECORRUPT)) {
        err = 0;
    }
    if (!err && dead) {
        err = fs_unlink(batch->loop, path);
        op->changed = true; /* also when it failed: it may have been done, and the next kill finds nothing and believes it */
        op->unlinked += !err;
    }
    free(path);
    return err == -ENOENT ? 0 : err;
}

static int names_add(struct names *names, const struct object_name *name)
{
    if (names->count == names->room) {
        size_t room = names->room ? 2 * names->room : 64;
        struct object_name *at = realloc(names->at, room * sizeof *at);
        if (!at)
            return -ENOMEM;
        names->at = at;
        names->room = room;
    }
    names->at[names->count++] = *name;
    return 0;
}

/* ---- in jobs: walks ---- */

struct listing {
    struct batch *batch;
    struct op *op;
    int err;
};

/* What this node was writing when it was cut off goes; everything else that is no object's file is left alone. */
static bool name_seen(void *arg, const char *text, bool regular, uint64_t size)
{
    struct listing *listing = arg;
    struct batch *batch = listing->batch;
    struct object_name name;
    uint64_t node;
    (void)size;
    if (regular && object_name_parse(text, &name)) {
        listing->err = names_add(&listing->op->names, &name);
    } else if (regular && listing->op->kind == OP_SCAN && object_temp_parse(text, &node) && node == batch->node) {
        char *path = path_below(batch->folder, batch->hex, text);
        if (path)
            (void)fs_unlink(batch->loop, path);
        free(path);
    } else if (listing->op->kind == OP_SCAN && !object_temp_parse(text, &node)) {
        listing->op->foreign++;
    }
    return listing->err == 0;
}

/* A folder that is not there holds nothing. */
static int names_list(struct batch *batch, struct op *op)
{
    struct listing listing = {.batch = batch, .op = op};
    char *folder = folder_below(batch->folder, batch->hex);
    if (!folder)
        return -ENOMEM;
    int err = fs_list(batch->loop, folder, name_seen, &listing);
    free(folder);
    op->names.listed = true;
    return err && err != -ENOENT ? err : listing.err;
}

static bool is_no_record(int err)
{
    return err == KVD_ESHORT || err == KVD_ECORRUPT || err == KVD_EFORMAT;
}

static void sweep_spares(struct op *op, const struct object_name *name, int err)
{
    if (op->damaged++ == 0) {
        op->spared_err = err;
        memcpy(op->spared, name->hex, sizeof op->spared);
    }
}

/* One file that cannot be judged does not keep the rest. */
static void sweep_work(struct batch *batch, struct op *op)
{
    int err = op->names.listed ? 0 : names_list(batch, op);
    for (unsigned i = 0; !err && i < SWEEP_STEP && op->names.next < op->names.count; i++) {
        const struct object_name *name = &op->names.at[op->names.next++];
        err = kill_file(batch, op, name->hex);
        if (!is_no_record(err))
            continue;
        sweep_spares(op, name, err);
        err = 0;
    }
    op->err = err;
}

static int scan_file(struct batch *batch, struct op *op, const struct object_name *name)
{
    struct object_file file;
    struct object_name of_key;
    char *path = path_below(batch->folder, name->hex, name->hex);
    if (!path)
        return -ENOMEM;
    int err = object_file_open(batch->loop, path, &file);
    free(path);
    if (err)
        return err;
    const struct record *record = &file.record;
    of_key = object_name_of(record->key);
    if (strcmp(of_key.hex, name->hex) == 0 && record->node == batch->node) {
        struct seen *seen = &op->seen[op->seen_count++];
        memcpy(seen->key, record->key.at, record->key.len);
        seen->found = (struct disk_found){
            .key = span_of(seen->key, record->key.len),
            .version = record->version,
            .size = record->size,
            .checksum = record->checksum,
            .expires_ms = record->expires_ms,
            .where.block = get_le32(record->segment_id),
        };
    }
    object_file_close(batch->loop, &file);
    return 0;
}

/* What is no record is left alone. A folder of which something could not be read is looked through once more. */
static void scan_work(struct batch *batch, struct op *op)
{
    if (!op->seen)
        op->seen = malloc(SCAN_STEP * sizeof *op->seen);
    int err = op->seen ? 0 : -ENOMEM;
    if (!err && !op->names.listed)
        err = names_list(batch, op);
    op->seen_count = 0;
    for (unsigned i = 0; !err && i < SCAN_STEP && op->names.next < op->names.count; i++) {
        int file_err = scan_file(batch, op, &op->names.at[op->names.next++]);
        op->damaged += is_no_record(file_err);
        if (file_err && file_err != -ENOENT && !is_no_record(file_err))
            op->unread_err = file_err;
    }
    op->err = err;
}

/* ---- a batch ---- */

static void op_work(struct batch *batch, struct op *op)
{
    switch (op->kind) {
    case OP_WRITE:
        write_work(batch, op);
        break;
    case OP_KILL:
        op->err = kill_file(batch, op, op->name.hex);
        break;
    case OP_SWEEP:
        sweep_work(batch, op);
        break;
    case OP_SCAN:
        scan_work(batch, op);
        break;
    }
}

static bool is_kill(const struct op *op)
{
    return op->kind == OP_KILL || op->kind == OP_SWEEP;
}

/* One fsync of the folder for all. Also when nothing was changed now, but what a kill did not find may have gone a moment ago. */
static void batch_sync(struct batch *batch, bool changed, bool kills)
{
    if (!changed && !(kills && batch->dirty))
        return;
    char *folder = folder_below(batch->folder, batch->hex);
    batch->synced = true;
    batch->sync_err = folder ? fs_sync_dir(batch->loop, folder) : -ENOMEM;
    if (batch->sync_err == -ENOENT && !changed)
        batch->sync_err = 0; /* there is no such folder: nothing was ever there */
    free(folder);
}

static void batch_work(struct job *job)
{
    struct batch *batch = CONTAINER_OF(job, struct batch, job);
    bool changed = false;
    bool kills = false;
    bool scans = false;
    for (struct list *at = batch->ops.next; at != &batch->ops; at = at->next) {
        struct op *op = CONTAINER_OF(at, struct op, link);
        op_work(batch, op);
        changed |= op->changed;
        kills |= is_kill(op);
        scans |= op->kind == OP_SCAN;
    }
    batch_sync(batch, changed, kills);
    /* That there was no file says something only as long as the mount is there. */
    int place_err = kills || scans ? disk_place_check(&batch->place, NULL) : 0;
    for (struct list *at = batch->ops.next; at != &batch->ops; at = at->next) {
        struct op *op = CONTAINER_OF(at, struct op, link);
        if (!op->err && (op->changed || is_kill(op)))
            op->err = batch->sync_err;
        if (!op->err && (is_kill(op) || op->kind == OP_SCAN))
            op->err = place_err;
        op->changed = false;
    }
}

static void op_end(struct objects *objects, struct op *op);

static bool walk_goes_on(const struct op *op)
{
    return (op->kind == OP_SWEEP || op->kind == OP_SCAN) && !op->err && op->names.next < op->names.count;
}

/* Nobody waits for a scan once the disk is closing, nor for a sweep that was given up. */
static bool walk_is_wanted(const struct objects *objects, const struct op *op)
{
    return op->kind == OP_SWEEP ? op->sweep->kill != NULL : !objects->disk->closing;
}

static void fan_ready(struct objects *objects, struct fan *fan)
{
    if (!fan->busy && !list_empty(&fan->ops) && list_empty(&fan->link))
        list_push_back(&objects->ready, &fan->link);
    disk_post(objects->disk);
}

static void scan_tell(struct objects *objects, struct op *op);

static void batch_done(struct job *job)
{
    struct batch *batch = CONTAINER_OF(job, struct batch, job);
    struct objects *objects = batch->objects;
    struct fan *fan = batch->fan;
    struct list ended;
    list_init(&ended);
    list_move_all(&ended, &batch->ops);
    if (batch->synced)
        fan->dirty = batch->sync_err != 0;
    objects->disk->figures.syncs += batch->synced;
    objects->disk->figures.sync_errors += batch->synced && batch->sync_err;
    objects->batches_running--;
    objects->moved_ms = loop_now_ms(objects->disk->loop);
    list_push_back(&objects->free_batches, &batch->link);
    fan->busy = false;
    disk_job_ended(objects->disk);
    for (struct list *at; (at = list_pop_front(&ended)) != NULL;) {
        struct op *op = CONTAINER_OF(at, struct op, link);
        disk_health_note(objects->disk, op->collided ? 0 : op->err);
        if (op->kind == OP_SCAN)
            scan_tell(objects, op);
        if (walk_goes_on(op) && walk_is_wanted(objects, op))
            list_push_front(&fan->ops, &op->link);
        else
            op_end(objects, op);
    }
    fan_ready(objects, fan);
}

/* A walk has a batch to itself. */
static void batch_gather(struct batch *batch, struct fan *fan)
{
    unsigned count = 0;
    for (struct list *at; (at = list_first(&fan->ops)) != NULL && count < BATCH_OPS && batch->bytes < BATCH_BYTES; count++) {
        struct op *op = CONTAINER_OF(at, struct op, link);
        bool walk = op->kind == OP_SWEEP || op->kind == OP_SCAN;
        if (walk && count > 0)
            return;
        list_remove(at);
        list_push_back(&batch->ops, at);
        batch->bytes += op->write ? op->write->bytes : 0;
        if (walk)
            return;
    }
}

static void batch_start(struct objects *objects, struct fan *fan)
{
    struct disk *disk = objects->disk;
    struct batch *batch = CONTAINER_OF(list_pop_front(&objects->free_batches), struct batch, link);
    *batch = (struct batch){
        .objects = objects,
        .fan = fan,
        .loop = disk->loop,
        .folder = objects->folder,
        .node = disk->node_hash,
        .dirty = fan->dirty,
    };
    place_of(objects, &batch->place);
    (void)snprintf(batch->hex, sizeof batch->hex, "%02x", (unsigned)(fan - objects->fans) & 0xff);
    list_init(&batch->link);
    list_init(&batch->ops);
    batch_gather(batch, fan);
    fan->busy = true;
    objects->batches_running++;
    disk_job_start(disk, &batch->job, batch_work, batch_done);
}

/* ---- the ends ---- */

static void op_free(struct objects *objects, struct op *op)
{
    objects->ops--;
    free(op->names.at);
    free(op->seen);
    free(op);
}

static void write_failed(struct objects *objects, const struct op *op)
{
    struct disk *disk = objects->disk;
    disk->figures.write_errors += !op->collided;
    if (op->err == KVD_EOFF)
        return;
    log_warn(disk->log, op->collided ? "name_taken" : "write_failed", "file=" OBJECTS_FOLDER "/%.2s/%s error=\"%s\"", op->name.hex,
             op->name.hex, op->collided ? "another key has this hash: not written" : error_text(op->err));
    if (!no_space(op->err))
        return;
    disk->create_err = op->err;
    disk->create_retry_ms = loop_now_ms(disk->loop) + CREATE_RETRY_MS;
}

static void write_op_end(struct objects *objects, struct op *op)
{
    struct disk *disk = objects->disk;
    struct disk_write *write = op->write;
    int err = op->err;
    objects->writes--;
    objects->writing_bytes -= write->bytes;
    disk->in_flight_bytes -= write->bytes;
    disk->figures.write_retries += op->retried;
    write->attempts = op->shown;
    write->where = (struct disk_where){.segment = objects->own, .block = op->id};
    if (err) {
        write_failed(objects, op);
    } else if (disk->create_err) {
        log_info(disk->log, "written_again", "after=\"%s\"", error_text(disk->create_err));
        disk->create_err = 0;
        disk->freed_in_trouble = 0;
        disk->trouble_said = false;
    }
    op_free(objects, op);
    disk_write_ended(disk, write, no_space(err) ? KVD_EFULL : err);
}

/* NULL: it was given up before. */
static void key_kill_end(struct objects *objects, struct disk_kill *kill, int err)
{
    struct disk *disk = objects->disk;
    if (!kill)
        return;
    list_remove(&kill->link);
    objects->dying_bytes -= kill->bytes;
    if (!err && kill->unlinked > 0)
        disk_space_freed(disk, kill->bytes);
    disk->figures.kill_batches++;
    if (err && err != KVD_EOFF)
        log_error(disk->log, "remove_failed", "dir=\"%s\" error=\"%s\"", objects->folder, error_text(err));
    disk_kill_ended(disk, kill, is_no_record(err) ? -EIO : err);
}

/* It may have been one that the kill names, and be read another time: then it would be back. */
static void sweep_tell_spared(struct objects *objects, const struct op *op)
{
    struct disk *disk = objects->disk;
    disk->figures.kills_spared += op->damaged;
    log_warn(disk->log, "remove_spared", "file=%s/%.2s/%s files=%" PRIu64 " error=\"%s\" what=\"it may be one of them\"",
             objects->own->below, op->spared, op->spared, op->damaged, error_text(op->spared_err));
}

static void sweep_op_end(struct objects *objects, struct op *op)
{
    struct sweep *sweep = op->sweep;
    struct disk_kill *kill = sweep->kill;
    if (kill)
        kill->unlinked += op->unlinked;
    if (op->damaged > 0)
        sweep_tell_spared(objects, op);
    if (!sweep->err)
        sweep->err = op->err ? op->err : op->spared_err;
    int err = sweep->err;
    op_free(objects, op);
    if (--sweep->left > 0)
        return;
    list_remove(&sweep->link);
    free(sweep);
    key_kill_end(objects, kill, err);
}

static void scan_op_end(struct objects *objects, struct op *op);

static void op_end(struct objects *objects, struct op *op)
{
    struct disk_kill *kill = op->kill;
    int err = op->err;
    switch (op->kind) {
    case OP_WRITE:
        write_op_end(objects, op);
        break;
    case OP_KILL:
        if (kill)
            kill->unlinked = op->unlinked;
        op_free(objects, op);
        key_kill_end(objects, kill, err);
        break;
    case OP_SWEEP:
        sweep_op_end(objects, op);
        break;
    case OP_SCAN:
        scan_op_end(objects, op);
        break;
    }
}

/* ---- queueing ---- */

static struct op *op_new(struct objects *objects, enum op_kind kind, size_t name_len)
{
    struct op *op = calloc(1, sizeof *op + name_len);
    if (!op)
        return NULL;
    op->kind = kind;
    list_init(&op->link);
    objects->ops++;
    return op;
}

static void op_queue(struct objects *objects, struct op *op, unsigned fan)
{
    op->fan = fan;
    list_push_back(&objects->fans[fan].ops, &op->link);
    fan_ready(objects, &objects->fans[fan]);
}

/* `name`: room for the copy. */
static void target_take(struct target *target, const struct disk_kill *kill, uint8_t *name)
{
    bytes_copy(name, kill->name.at, kill->name.len);
    *target = (struct target){kill->kind, kill->version, kill->whoever, span_of(name, kill->name.len)};
}

static int kill_key(struct objects *objects, struct disk_kill *kill)
{
    struct op *op = op_new(objects, OP_KILL, kill->name.len);
    if (!op)
        return -ENOMEM;
    op->kill = kill;
    target_take(&op->target, kill, op->key);
    op->name = object_name_of(kill->name);
    op_queue(objects, op, object_name_fan(&op->name));
    return 0;
}

static int kill_many(struct objects *objects, struct disk_kill *kill)
{
    struct op *ops[OBJECT_FANS];
    struct sweep *sweep = calloc(1, sizeof *sweep + kill->name.len);
    unsigned made = 0;
    while (sweep && made < OBJECT_FANS && (ops[made] = op_new(objects, OP_SWEEP, 0)) != NULL)
        made++;
    if (made < OBJECT_FANS) {
        while (made > 0)
            op_free(objects, ops[--made]);
        free(sweep);
        return -ENOMEM;
    }
    sweep->kill = kill;
    sweep->left = OBJECT_FANS;
    target_take(&sweep->target, kill, sweep->name);
    list_push_back(&objects->sweeps, &sweep->link);
    for (unsigned i = 0; i < OBJECT_FANS; i++) {
        ops[i]->target = sweep->target;
        ops[i]->sweep = sweep;
        op_queue(objects, ops[i], i);
    }
    return 0;
}

int objects_kill(struct objects *objects, struct disk_kill *kill)
{
    int err = kill->kind == KILL_KEY ? kill_key(objects, kill) : kill_many(objects, kill);
    if (err)
        return err;
    list_push_back(&objects->kills, &kill->link);
    objects->dying_bytes += kill->bytes;
    return 0;
}

void objects_kills_raise(struct objects *objects, uint64_t version)
{
    for (struct list *at = objects->kills.next; at != &objects->kills; at = at->next) {
        struct disk_kill *kill = CONTAINER_OF(at, struct disk_kill, link);
        kill->version = version;
        disk_kill_note(objects->disk, kill);
    }
    for (unsigned i = 0; i < OBJECT_FANS; i++)
        for (struct list *at = objects->fans[i].ops.next; at != &objects->fans[i].ops; at = at->next)
            CONTAINER_OF(at, struct op, link)->target.version = version;
}

/* ---- giving up ---- */

static void kills_forget(struct list *ops)
{
    for (struct list *at = ops->next; at != ops; at = at->next)
        CONTAINER_OF(at, struct op, link)->kill = NULL;
}

static bool is_kill_or_write(const struct op *op)
{
    return is_kill(op) || op->kind == OP_WRITE;
}

static bool is_any(const struct op *op)
{
    return op != NULL;
}

/* End what waits for a folder, as far as it is of that kind. */
static void queued_drop(struct objects *objects, bool (*kind)(const struct op *op), int err)
{
    struct list dropped;
    list_init(&dropped);
    for (unsigned i = 0; i < OBJECT_FANS; i++) {
        struct fan *fan = &objects->fans[i];
        for (struct list *at = fan->ops.next, *next; at != &fan->ops; at = next) {
            next = at->next;
            if (!kind(CONTAINER_OF(at, struct op, link)))
                continue;
            list_remove(at);
            list_push_back(&dropped, at);
        }
        if (list_empty(&fan->ops))
            list_remove(&fan->link);
    }
    for (struct list *at; (at = list_pop_front(&dropped)) != NULL;) {
        struct op *op = CONTAINER_OF(at, struct op, link);
        op->err = err;
        op_end(objects, op);
    }
}

void objects_kills_give_up(struct objects *objects, int err)
{
    struct list ended;
    list_init(&ended);
    for (unsigned i = 0; i < OBJECT_FANS; i++)
        kills_forget(&objects->fans[i].ops);
    for (unsigned i = 0; i < BATCHES; i++)
        if (objects->batches[i].fan && objects->batches[i].fan->busy)
            kills_forget(&objects->batches[i].ops);
    for (struct list *at = objects->sweeps.next; at != &objects->sweeps; at = at->next)
        CONTAINER_OF(at, struct sweep, link)->kill = NULL;
    queued_drop(objects, is_kill, err);
    list_move_all(&ended, &objects->kills);
    for (struct list *at; (at = list_pop_front(&ended)) != NULL;) {
        struct disk_kill *kill = CONTAINER_OF(at, struct disk_kill, link);
        objects->dying_bytes -= kill->bytes;
        disk_kill_ended(objects->disk, kill, err);
    }
    disk_post(objects->disk);
}

bool objects_kills_late(const struct objects *objects)
{
    struct list *first = list_first(&objects->kills);
    if (!first)
        return false;
    uint64_t since_ms = max_u64(objects->moved_ms, CONTAINER_OF(first, struct disk_kill, link)->since_ms);
    return loop_now_ms(objects->disk->loop) - since_ms >= objects->disk->health.timeout_ms;
}

/* What a start has begun to look through goes on when the folder is back. */
void objects_give_up(struct objects *objects, int err)
{
    objects_kills_give_up(objects, err);
    queued_drop(objects, objects->disk->closing ? is_any : is_kill_or_write, err);
}

/* ---- the pump ---- */

static bool fits(const struct objects *objects, uint64_t bytes)
{
    return objects_used_bytes(objects) + bytes <= disk_usable_bytes(objects->disk);
}

/* Nothing fits, or the file system is full. Ask above for objects to give up. */
static void room_ask(struct objects *objects)
{
    struct disk *disk = objects->disk;
    if (objects->dying_bytes > 0 || (disk->state == DISK_RECOVERING && !disk->closing))
        return; /* there will be some */
    if (disk->closing || disk->freed_in_trouble >= BATCH_BYTES || !disk->events.full(disk->arg)) {
        if (disk->create_err && !disk->trouble_said)
            log_error(disk->log, "cannot_write", "dir=\"%s\" error=\"%s\"", objects->folder, error_text(disk->create_err));
        disk->trouble_said |= disk->create_err != 0;
        disk_writes_fail(disk, KVD_EFULL);
    }
}

static bool may_begin(struct objects *objects, struct disk_write *write)
{
    struct disk *disk = objects->disk;
    if (objects->writes >= WRITES_ADMITTED || (disk->in_flight_bytes > 0 && disk->in_flight_bytes + write->bytes > WRITE_IN_FLIGHT_BYTES))
        return false;
    if (!disk_version_allowed(disk, write->version))
        return false;
    if (disk->space.low) { /* disk_space.c says why */
        disk_writes_fail(disk, KVD_EFULL);
        return false;
    }
    bool rests = disk->create_err && loop_now_ms(disk->loop) < disk->create_retry_ms;
    if (!rests && fits(objects, write->bytes))
        return true;
    room_ask(objects);
    return false;
}

static int write_begin(struct objects *objects, struct disk_write *write)
{
    struct op *op = op_new(objects, OP_WRITE, 0);
    if (!op)
        return -ENOMEM;
    op->write = write;
    op->name = object_name_of(write->key);
    objects->writes++;
    objects->writing_bytes += write->bytes;
    objects->disk->in_flight_bytes += write->bytes;
    op_queue(objects, op, object_name_fan(&op->name));
    return 0;
}

static void writes_admit(struct objects *objects)
{
    struct disk *disk = objects->disk;
    while (!list_empty(&disk->queue)) {
        struct disk_write *write = CONTAINER_OF(list_first(&disk->queue), struct disk_write, link);
        int err = blob_size(write->blob) > RECORD_VALUE_MAX || write->bytes > disk_usable_bytes(disk) ? KVD_ETOOLARGE : 0;
        if (!err && !may_begin(objects, write))
            return;
        list_remove(&write->link);
        write->state = 0;
        if (!err)
            err = write_begin(objects, write);
        if (err)
            disk_write_ended(disk, write, err);
    }
}

void objects_pump(struct objects *objects)
{
    writes_admit(objects);
    while (!list_empty(&objects->free_batches) && !list_empty(&objects->ready))
        batch_start(objects, CONTAINER_OF(list_pop_front(&objects->ready), struct fan, link));
}

/* ---- what is there at start ---- */

static void scan_next(struct objects *objects)
{
    while (!objects->disk->closing && objects->scanning < SCANNERS && objects->scan_next < OBJECT_FANS) {
        unsigned fan = objects->scan_next++;
        struct op *op = objects->unscanned[fan] ? op_new(objects, OP_SCAN, 0) : NULL;
        if (!op)
            continue;
        objects->scanning++;
        op_queue(objects, op, fan);
    }
}

static unsigned unscanned_count(const struct objects *objects)
{
    unsigned count = 0;
    for (unsigned fan = 0; fan < OBJECT_FANS; fan++)
        count += objects->unscanned[fan];
    return count;
}

/* Where the heap or the device failed, it may not the next time. What a start does without leaves the owner in doubt. */
static void scan_round_end(struct objects *objects)
{
    struct disk *disk = objects->disk;
    unsigned left = unscanned_count(objects);
    if (left > 0 && ++objects->scan_rounds < SCAN_ROUNDS) {
        timer_start(&objects->scan_timer, (uint64_t)SCAN_PAUSE_MS << (objects->scan_rounds - 1));
        return;
    }
    disk->figures.unreadable_segments += left;
    if (left > 0)
        log_warn(disk->log, "objects_unreadable", "dir=\"%s\" folders=%u what=\"left alone\"", objects->folder, left);
    disk_recovery_over(disk);
}

static void scan_round(struct objects *objects)
{
    objects->scan_next = 0;
    scan_next(objects);
    if (objects->scanning == 0 && !objects->disk->closing)
        scan_round_end(objects);
}

static void scan_again(struct timer *timer)
{
    scan_round(CONTAINER_OF(timer, struct objects, scan_timer));
}

/* A version above all that this node ever gave cannot be its own. */
static bool found_is_sane(const struct disk *disk, const struct disk_found *found)
{
    return found->version <= disk->version;
}

static void scan_tell(struct objects *objects, struct op *op)
{
    struct disk *disk = objects->disk;
    for (unsigned i = 0; i < op->seen_count && !disk->closing; i++) {
        struct disk_found *found = &op->seen[i].found;
        if (!found_is_sane(disk, found)) {
            op->damaged++;
        } else if (kill_map_dead(disk->dead_live, found->key, found->version)) {
            disk->figures.recovered_killed++;
        } else {
            disk->figures.recovered_records++;
            found->where.segment = objects->own;
            disk->events.found(disk->arg, found);
        }
    }
    op->seen_count = 0;
}

static void scan_op_end(struct objects *objects, struct op *op)
{
    struct disk *disk = objects->disk;
    int err = op->err ? op->err : op->unread_err;
    if (err) {
        log_warn(disk->log, "folder_unread", "dir=\"%s/%02x\" error=\"%s\"", objects->folder, op->fan, error_text(err));
    } else {
        objects->unscanned[op->fan] = false;
        disk->figures.foreign_files += op->foreign;
        disk->figures.damaged_segments += op->damaged > 0;
        if (op->damaged > 0)
            log_warn(disk->log, "objects_damaged", "dir=\"%s/%02x\" files=%" PRIu64 " what=\"left alone\"", objects->folder, op->fan,
                     op->damaged);
    }
    op_free(objects, op);
    objects->scanning--;
    scan_next(objects);
    if (objects->scanning == 0 && !disk->closing)
        scan_round_end(objects);
}

void objects_scan_start(struct objects *objects)
{
    for (unsigned fan = 0; fan < OBJECT_FANS; fan++)
        objects->unscanned[fan] = true;
    scan_round(objects);
}

void objects_scan_stop(struct objects *objects)
{
    timer_stop(&objects->scan_timer);
}

/* ---- reading ---- */

struct object_read {
    struct job job;
    struct objects *objects; /* for `done` */
    struct loop *loop;
    struct disk_read *read;
    struct disk_place place;
    uint64_t piece_bytes;
    char *path;
    int err;
};

static bool read_is_of(const struct disk_read *read, const struct record *record)
{
    return span_equal(record->key, read->key) && get_le32(record->segment_id) == read->where.block && record->version == read->version &&
           record->size == read->size && record->checksum == read->checksum;
}

static int read_work(const struct object_read *mine)
{
    struct disk_read *read = mine->read;
    struct object_file file;
    int err = object_file_open(mine->loop, mine->path, &file);
    if (err == -ENOENT)
        return disk_place_check(&mine->place, NULL) ? -ENODEV : KVD_ESTALE;
    if (err)
        return err;
    err = KVD_ESTALE;
    if (read_is_of(read, &file.record))
        err = object_file_read(mine->loop, &file, read->offset, read->blob, mine->piece_bytes);
    object_file_close(mine->loop, &file);
    return err;
}

static void read_job(struct job *job)
{
    struct object_read *mine = CONTAINER_OF(job, struct object_read, job);
    mine->err = read_work(mine);
}

static void read_done(struct job *job)
{
    struct object_read *mine = CONTAINER_OF(job, struct object_read, job);
    struct disk *disk = mine->objects->disk;
    struct disk_read *read = mine->read;
    int err = mine->err;
    disk_job_ended(disk);
    disk->reads--;
    disk_read_note(disk, read, err);
    disk_health_note(disk, err == KVD_ECORRUPT || err == KVD_ESHORT || err == KVD_ESTALE ? 0 : err);
    if (err)
        log_warn(disk->log, "read_failed", "file=%s error=\"%s\"", mine->path + strlen(disk->dir) + 1, error_text(err));
    free(mine->path);
    free(mine);
    disk_read_fn fn = read->fn;
    fn(read, err);
}

int objects_read(struct objects *objects, struct disk_read *read, disk_read_fn fn)
{
    struct disk *disk = objects->disk;
    struct object_name name = object_name_of(read->key);
    struct object_read *mine = calloc(1, sizeof *mine);
    if (mine)
        mine->path = path_below(objects->folder, name.hex, name.hex);
    if (!mine || !mine->path) {
        free(mine);
        return -ENOMEM;
    }
    mine->objects = objects;
    mine->loop = disk->loop;
    mine->read = read;
    place_of(objects, &mine->place);
    mine->piece_bytes = disk->read_split_bytes;
    read->fn = fn;
    disk->reads++;
    disk_job_start(disk, &mine->job, read_job, read_done);
    return 0;
}

/* ---- looking a file up by its key ---- */

static void probe_work(struct job *job)
{
    struct disk_probe *probe = CONTAINER_OF(job, struct disk_probe, job);
    struct object_file file;
    struct disk_place place;
    place_of(probe->disk->objects, &place);
    int err = object_file_open(probe->loop, probe->path, &file);
    if (err == -ENOENT && probe->known && disk_place_check(&place, NULL) != 0)
        err = -ENODEV;
    if (err) {
        probe->err = err == KVD_ESHORT || err == KVD_ECORRUPT || err == KVD_EFORMAT ? KVD_ESTALE : err;
        return;
    }
    const struct record *record = &file.record;
    probe->err = span_equal(record->key, probe->key) ? 0 : KVD_ESTALE;
    probe->node = record->node;
    probe->found = (struct disk_found){
        .key = probe->key,
        .version = record->version,
        .size = record->size,
        .checksum = record->checksum,
        .expires_ms = record->expires_ms,
        .where.block = get_le32(record->segment_id),
    };
    object_file_close(probe->loop, &file);
}

/* What this node gives from now on is above what it has seen of others: their versions and ours stay in order, as far as they meet. */
static bool version_learn(struct disk *disk, uint64_t version)
{
    if (version > max_u64(disk->version, loop_wall_ms(disk->loop) << 16) + VERSION_AHEAD_MAX)
        return false;
    disk->version = max_u64(disk->version, version);
    return true;
}

static void probe_done(struct job *job)
{
    struct disk_probe *probe = CONTAINER_OF(job, struct disk_probe, job);
    struct disk *disk = probe->disk;
    struct objects *objects = disk->objects;
    int err = probe->err;
    free(probe->path);
    probe->found.where.segment = probe->node == disk->node_hash ? objects->own : objects->others;
    if (!err && !version_learn(disk, probe->found.version))
        err = KVD_ESTALE;
    disk_health_note(disk, err == -ENOENT || err == KVD_ESTALE ? 0 : err);
    disk->reads--;
    disk_job_ended(disk);
    disk_probe_fn fn = probe->fn;
    fn(probe, err);
}

int disk_probe_start(struct disk *disk, struct disk_probe *probe, disk_probe_fn fn)
{
    struct objects *objects = disk->objects;
    bool open = (disk->state == DISK_RECOVERING || disk->state == DISK_ON) && !disk->health.tripped;
    if (!objects || !open || disk->closing)
        return KVD_EOFF;
    struct object_name name = object_name_of(probe->key);
    probe->path = path_below(objects->folder, name.hex, name.hex);
    if (!probe->path)
        return -ENOMEM;
    probe->fn = fn;
    probe->disk = disk;
    probe->loop = disk->loop;
    disk->reads++;
    disk_job_start(disk, &probe->job, probe_work, probe_done);
    return 0;
}

/* ---- what the owner asks ---- */

bool disk_has_objects(const struct disk *disk)
{
    return disk->objects != NULL;
}

struct segment *disk_own_objects(const struct disk *disk)
{
    return disk->objects ? disk->objects->own : NULL;
}

struct segment *disk_others_objects(const struct disk *disk)
{
    return disk->objects ? disk->objects->others : NULL;
}

uint64_t disk_object_bytes(size_t key_len, uint64_t size)
{
    return object_file_bytes(key_len, size);
}

bool segment_is_objects(const struct segment *segment)
{
    return segment->objects;
}

void disk_object_count(struct disk *disk, const struct segment *segment, size_t key_len, uint64_t size, bool here)
{
    if (!disk->objects || segment != disk->objects->own)
        return;
    uint64_t bytes = object_file_bytes(key_len, size);
    disk->objects->live_bytes += here ? bytes : 0 - bytes;
}

const char *disk_file_of(struct disk *disk, const struct disk_where *where, struct span key)
{
    if (!where->segment->objects)
        return segment_path(where->segment);
    struct object_name name = object_name_of(key);
    char *out = disk->objects->file_text;
    (void)sprintf(out, "%s/%.2s/%s", where->segment->below, name.hex, name.hex);
    return out;
}
