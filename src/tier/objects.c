#include "tier/objects.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "tier/object_file.h"
#include "tier/objects_inner.h"

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
    timer_init(&objects->scan_timer, disk->loop, objects_scan_again);
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

/* ---- names ---- */

void objects_place_of(const struct objects *objects, struct disk_place *place)
{
    disk_place_of(objects->disk, place);
    place->folder = objects->folder;
}

char *objects_path_below(const char *objects_folder, const char *hex, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%.2s/%s", objects_folder, hex, name) < 0 ? NULL : path;
}

char *objects_folder_below(const char *objects_folder, const char *hex)
{
    char *path;
    return asprintf(&path, "%s/%.2s", objects_folder, hex) < 0 ? NULL : path;
}

/* ---- a batch, on the job ---- */

static void op_work(struct batch *batch, struct op *op)
{
    switch (op->kind) {
    case OP_WRITE:
        objects_write_work(batch, op);
        break;
    case OP_KILL:
        objects_kill_work(batch, op);
        break;
    case OP_SWEEP:
        objects_sweep_work(batch, op);
        break;
    case OP_SCAN:
        objects_scan_work(batch, op);
        break;
    }
}

/* One fsync of the folder for all. Also when nothing was changed now, but what a kill did not find may have gone a moment ago, and what a
 * scan found may have come: by a process that was killed before it had synced it. */
static void batch_sync(struct batch *batch, bool changed, bool looks)
{
    if (!changed && !(looks && batch->dirty))
        return;
    char *folder = objects_folder_below(batch->folder, batch->hex);
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
        kills |= op_is_kill(op);
        scans |= op->kind == OP_SCAN;
    }
    batch_sync(batch, changed, kills || scans);
    /* That there was no file says something only as long as the mount is there. */
    int place_err = kills || scans ? disk_place_check(&batch->place, NULL) : 0;
    for (struct list *at = batch->ops.next; at != &batch->ops; at = at->next) {
        struct op *op = CONTAINER_OF(at, struct op, link);
        bool looks = op_is_kill(op) || op->kind == OP_SCAN;
        if (!op->err && (op->changed || looks))
            op->err = batch->sync_err;
        if (!op->err && looks)
            op->err = place_err;
        op->changed = false;
    }
}

/* ---- what waits ---- */

struct op *objects_op_new(struct objects *objects, enum op_kind kind, size_t name_len)
{
    struct op *op = calloc(1, sizeof *op + name_len);
    if (!op)
        return NULL;
    op->kind = kind;
    list_init(&op->link);
    objects->ops++;
    return op;
}

void objects_op_free(struct objects *objects, struct op *op)
{
    objects->ops--;
    free(op->names.at);
    free(op->seen);
    free(op);
}

static void fan_ready(struct objects *objects, struct fan *fan)
{
    if (!fan->busy && !list_empty(&fan->ops) && list_empty(&fan->link))
        list_push_back(&objects->ready, &fan->link);
    disk_post(objects->disk);
}

void objects_op_queue(struct objects *objects, struct op *op, unsigned fan)
{
    op->fan = fan;
    list_push_back(&objects->fans[fan].ops, &op->link);
    fan_ready(objects, &objects->fans[fan]);
}

static void op_end(struct objects *objects, struct op *op)
{
    switch (op->kind) {
    case OP_WRITE:
        objects_write_ended(objects, op);
        break;
    case OP_KILL:
        objects_kill_ended(objects, op);
        break;
    case OP_SWEEP:
        objects_sweep_ended(objects, op);
        break;
    case OP_SCAN:
        objects_scan_ended(objects, op);
        break;
    }
}

void objects_queued_drop(struct objects *objects, bool (*kind)(const struct op *op), int err)
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

static bool is_kill_or_write(const struct op *op)
{
    return op_is_kill(op) || op->kind == OP_WRITE;
}

static bool is_any(const struct op *op)
{
    return op != NULL;
}

/* What a start has begun to look through goes on when the folder is back. */
void objects_give_up(struct objects *objects, int err)
{
    objects_kills_give_up(objects, err);
    objects_queued_drop(objects, objects->disk->closing ? is_any : is_kill_or_write, err);
}

/* ---- a batch ---- */

static bool walk_goes_on(const struct op *op)
{
    return (op->kind == OP_SWEEP || op->kind == OP_SCAN) && !op->err && op->names.next < op->names.count;
}

/* Nobody waits for a scan once the disk is closing, nor for a sweep that was given up. */
static bool walk_is_wanted(const struct objects *objects, const struct op *op)
{
    return op->kind == OP_SWEEP ? op->sweep->kill != NULL : !objects->disk->closing;
}

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
        if (op->kind == OP_SCAN && !op->err)
            objects_scan_tell(objects, op);
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
    objects_place_of(objects, &batch->place);
    (void)snprintf(batch->hex, sizeof batch->hex, "%02x", (unsigned)(fan - objects->fans) & 0xff);
    list_init(&batch->link);
    list_init(&batch->ops);
    batch_gather(batch, fan);
    fan->busy = true;
    objects->batches_running++;
    disk_job_start(disk, &batch->job, batch_work, batch_done);
}

void objects_pump(struct objects *objects)
{
    objects_writes_admit(objects);
    while (!list_empty(&objects->free_batches) && !list_empty(&objects->ready))
        batch_start(objects, CONTAINER_OF(list_pop_front(&objects->ready), struct fan, link));
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
