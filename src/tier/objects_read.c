/* objects_read.c - reading an object's own file, and looking one up by its key: jobs beside those of the folders. */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "tier/object_file.h"
#include "tier/objects_inner.h"

/* A version that is further ahead of the clock than this is no version of ours, nor of a node whose clock is about right. */
#define VERSION_AHEAD_MAX ((uint64_t)1 << 43)

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
        mine->path = objects_path_below(objects->folder, name.hex, name.hex);
    if (!mine || !mine->path) {
        free(mine);
        return -ENOMEM;
    }
    mine->objects = objects;
    mine->loop = disk->loop;
    mine->read = read;
    objects_place_of(objects, &mine->place);
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
    objects_place_of(probe->disk->objects, &place);
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
    probe->path = objects_path_below(objects->folder, name.hex, name.hex);
    if (!probe->path)
        return -ENOMEM;
    probe->fn = fn;
    probe->disk = disk;
    probe->loop = disk->loop;
    disk->reads++;
    disk_job_start(disk, &probe->job, probe_work, probe_done);
    return 0;
}
