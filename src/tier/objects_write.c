/* objects_write.c - an object to a file of its own: under a name of its own, synced, renamed; what is admitted, and what to do when there
 * is no room. */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "tier/object_file.h"
#include "tier/objects_inner.h"

enum { WRITES_ADMITTED = 256 };

/* ---- on the job ---- */

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

void objects_write_work(struct batch *batch, struct op *op)
{
    char temp_name[OBJECT_TEMP_CHARS + 1];
    object_temp_name(&op->name, batch->node, temp_name);
    char *folder = objects_folder_below(batch->folder, op->name.hex);
    char *temp = objects_path_below(batch->folder, op->name.hex, temp_name);
    char *path = objects_path_below(batch->folder, op->name.hex, op->name.hex);
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

/* ---- the end ---- */

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

void objects_write_ended(struct objects *objects, struct op *op)
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
    objects_op_free(objects, op);
    disk_write_ended(disk, write, no_space(err) ? KVD_EFULL : err);
}

/* ---- the beginning ---- */

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
    if (objects->writes >= WRITES_ADMITTED || !disk_write_may_begin(disk))
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
    struct op *op = objects_op_new(objects, OP_WRITE, 0);
    if (!op)
        return -ENOMEM;
    op->write = write;
    op->name = object_name_of(write->key);
    objects->writes++;
    objects->writing_bytes += write->bytes;
    objects->disk->in_flight_bytes += write->bytes;
    objects_op_queue(objects, op, object_name_fan(&op->name));
    return 0;
}

void objects_writes_admit(struct objects *objects)
{
    struct disk *disk = objects->disk;
    while (!list_empty(&disk->queue)) {
        struct disk_write *write = CONTAINER_OF(list_first(&disk->queue), struct disk_write, link);
        int err = blob_size(write->blob) > RECORD_VALUE_MAX || write->bytes > disk_usable_bytes(disk) ? KVD_ETOOLARGE : 0;
        if (!err && !may_begin(objects, write))
            return;
        list_remove(&write->link);
        write->state = 0;
        write->since_ms = disk->queue_moved_ms = loop_now_ms(disk->loop);
        if (!err)
            err = write_begin(objects, write);
        if (err)
            disk_write_ended(disk, write, err);
    }
}
