/* objects_scan.c - what a start finds: every folder of objects is looked through, and what this node wrote is announced. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "tier/object_file.h"
#include "tier/objects_inner.h"

enum {
    SCANNERS = 4, /* folders that are looked through at once */
    SCAN_STEP = FOUND_A_TURN / SCANNERS,
    SCAN_ROUNDS = 4,     /* through the folders that could not be looked through before: then a start is done without them */
    SCAN_PAUSE_MS = 500, /* before the second; each is twice as long as the one before */
};

/* One of this node's files, seen by a scan. */
struct seen {
    struct disk_found found;
    uint8_t key[RECORD_KEY_MAX];
};

/* ---- on the job: names ---- */

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
        char *path = objects_path_below(batch->folder, batch->hex, text);
        if (path)
            (void)fs_unlink(batch->loop, path);
        free(path);
    } else if (listing->op->kind == OP_SCAN && !object_temp_parse(text, &node)) {
        listing->op->foreign++;
    }
    return listing->err == 0;
}

/* A folder that is not there holds nothing. */
int objects_names_list(struct batch *batch, struct op *op)
{
    struct listing listing = {.batch = batch, .op = op};
    char *folder = objects_folder_below(batch->folder, batch->hex);
    if (!folder)
        return -ENOMEM;
    int err = fs_list(batch->loop, folder, name_seen, &listing);
    free(folder);
    op->names.listed = true;
    return err && err != -ENOENT ? err : listing.err;
}

/* ---- on the job: files ---- */

static int scan_file(struct batch *batch, struct op *op, const struct object_name *name)
{
    struct object_file file;
    struct object_name of_key;
    char *path = objects_path_below(batch->folder, name->hex, name->hex);
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
void objects_scan_work(struct batch *batch, struct op *op)
{
    if (!op->seen)
        op->seen = malloc(SCAN_STEP * sizeof *op->seen);
    int err = op->seen ? 0 : -ENOMEM;
    if (!err && !op->names.listed)
        err = objects_names_list(batch, op);
    op->seen_count = 0;
    for (unsigned i = 0; !err && i < SCAN_STEP && op->names.next < op->names.count; i++) {
        int file_err = scan_file(batch, op, &op->names.at[op->names.next++]);
        op->damaged += is_no_record(file_err);
        if (file_err && file_err != -ENOENT && !is_no_record(file_err))
            op->unread_err = file_err;
    }
    op->err = err;
}

/* ---- rounds ---- */

static void scan_next(struct objects *objects)
{
    while (!objects->disk->closing && objects->scanning < SCANNERS && objects->scan_next < OBJECT_FANS) {
        unsigned fan = objects->scan_next++;
        struct op *op = objects->unscanned[fan] ? objects_op_new(objects, OP_SCAN, 0) : NULL;
        if (!op)
            continue;
        objects->scanning++;
        objects_op_queue(objects, op, fan);
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

void objects_scan_again(struct timer *timer)
{
    scan_round(CONTAINER_OF(timer, struct objects, scan_timer));
}

/* ---- what was found ---- */

/* A version above all that this node ever gave cannot be its own. */
static bool found_is_sane(const struct disk *disk, const struct disk_found *found)
{
    return found->version <= disk->version;
}

void objects_scan_tell(struct objects *objects, struct op *op)
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

void objects_scan_ended(struct objects *objects, struct op *op)
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
    objects_op_free(objects, op);
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
