/* disk_space.c - the room that the file system has left, which others use too: asked for every few seconds by a job, and before each new
 * segment. Below the least, nothing more is written (what is queued ends with KVD_EFULL); whether anything is given back is decided above.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "tier/disk_inner.h"

enum {
    CHECK_MS = 3000,
    JITTER_MS = 2000, /* twenty of us on one mount do not ask at the same moment */
    PERCENT_3FS = 10, /* a few full targets make all of it fail */
    PERCENT_OTHER = 2,
};

uint64_t disk_space_least(uint64_t percent, const struct fs_dir_info *info)
{
    if (percent == 0)
        percent = strcmp(info->type, "fuse.hf3fs") == 0 ? PERCENT_3FS : PERCENT_OTHER;
    return info->total_bytes / 100 * percent;
}

void disk_space_note(struct disk *disk, const struct fs_dir_info *info)
{
    struct space *space = &disk->space;
    uint64_t least = disk_space_least(space->percent, info);
    bool low = info->free_bytes < least;
    space->free_bytes = info->free_bytes;
    space->least_bytes = least;
    space->low_checks = low ? space->low_checks + 1 : 0;
    if (low == space->low)
        return;
    space->low = low;
    (void)snprintf(space->trouble, sizeof space->trouble,
                   "the file system has %" PRIu64 " bytes free, and %" PRIu64 " are to be left: nothing is written", info->free_bytes,
                   least);
    if (low)
        log_error(disk->log, "space_low", "dir=\"%s\" free_bytes=%" PRIu64 " least_bytes=%" PRIu64, disk->folder, info->free_bytes, least);
    else
        log_info(disk->log, "space_back", "dir=\"%s\" free_bytes=%" PRIu64 " least_bytes=%" PRIu64, disk->folder, info->free_bytes, least);
    disk_post(disk);
}

struct space_check {
    struct job job;
    struct disk *disk; /* for `done` */
    struct disk_place place;
    struct fs_dir_info info;
    int err;
};

static void check_work(struct job *job)
{
    struct space_check *check = CONTAINER_OF(job, struct space_check, job);
    check->err = disk_place_check(&check->place, &check->info);
}

static void check_later(struct disk *disk)
{
    uint64_t jitter = 0;
    (void)loop_random(disk->loop, &jitter, sizeof jitter);
    if (!disk->closing)
        timer_start(&disk->space.timer, CHECK_MS + jitter % JITTER_MS);
}

static void check_done(struct job *job)
{
    struct space_check *check = CONTAINER_OF(job, struct space_check, job);
    struct disk *disk = check->disk;
    disk_look_ended(disk);
    if (check->err)
        disk_health_note(disk, check->err);
    else
        disk_space_note(disk, &check->info);
    free(check);
    check_later(disk);
}

static void tick(struct timer *timer)
{
    struct disk *disk = CONTAINER_OF(timer, struct disk, space.timer);
    struct space_check *check = disk->health.tripped ? NULL : calloc(1, sizeof *check);
    if (!check) {
        check_later(disk);
        return;
    }
    check->disk = disk;
    disk_place_of(disk, &check->place);
    disk_job_start(disk, &check->job, check_work, check_done);
}

void disk_space_init(struct disk *disk, const struct disk_config *config)
{
    disk->space.percent = config->free_min_percent;
    timer_init(&disk->space.timer, disk->loop, tick);
}

void disk_space_start(struct disk *disk)
{
    if (!disk->closing)
        timer_start(&disk->space.timer, 0);
}

void disk_space_stop(struct disk *disk)
{
    timer_stop(&disk->space.timer);
}

uint32_t disk_low_checks(const struct disk *disk)
{
    return disk->space.low_checks;
}
