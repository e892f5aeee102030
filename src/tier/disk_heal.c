/* disk_heal.c - segments that ended badly because their mount was gone: read again as a restart would read them, one after the other,
 * once it has returned. What is found whole, to the last record, and could be synced, is on stable storage as after a restart, and vouched
 * for again.
 */
#include <inttypes.h>

#include "tier/disk_inner.h"

static void heal_work(struct job *job)
{
    struct heal *heal = CONTAINER_OF(CONTAINER_OF(job, struct recovery, job), struct heal, recovery);
    recovery_step(&heal->recovery);
    if (heal->recovery.outcome != RECOVERY_MORE && heal->recovery.opened)
        (void)fs_close(heal->recovery.loop, &heal->recovery.file);
}

static bool is_whole(const struct heal *heal)
{
    const struct recovery *recovery = &heal->recovery;
    return recovery->outcome == RECOVERY_DONE && !recovery->err && !recovery->lost && !recovery->read_failed &&
           recovery->records == heal->segment->records;
}

static void heal_end(struct heal *heal)
{
    struct segment *segment = heal->segment;
    struct disk *disk = segment->disk;
    bool whole = is_whole(heal);
    segment->state = SEGMENT_SEALED;
    segment->sync_failed = !whole;
    if (heal->recovery.outcome == RECOVERY_DONE) {
        disk->used_bytes = disk->used_bytes - segment->accounted + heal->recovery.length;
        segment->accounted = segment->length = heal->recovery.length;
    }
    log_info(disk->log, "segment_healed", "file=%s records=%" PRIu32 " whole=%s", segment->below, segment->records, whole ? "yes" : "no");
    recovery_fini(&heal->recovery);
    heal->segment = NULL;
    disk_post(disk);
}

static void healed(struct job *job)
{
    struct heal *heal = CONTAINER_OF(CONTAINER_OF(job, struct recovery, job), struct heal, recovery);
    struct disk *disk = heal->segment->disk;
    disk_job_ended(disk);
    if (heal->recovery.outcome == RECOVERY_MORE)
        disk_job_start(disk, &heal->recovery.job, heal_work, healed);
    else
        heal_end(heal);
}

void disk_heal_pump(struct disk *disk)
{
    struct heal *heal = &disk->heal;
    for (struct list *at = disk->segments.next; at != &disk->segments && heal->due && !heal->segment && !disk->closing; at = at->next) {
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (!segment->reopened || !segment->sync_failed || segment_busy(segment))
            continue;
        segment->reopened = false;
        segment->state = SEGMENT_RECOVERING;
        heal->segment = segment;
        recovery_init(&heal->recovery, disk->loop, segment->path, disk->node, disk->cluster, segment->head.sequence);
        disk_job_start(disk, &heal->recovery.job, heal_work, healed);
    }
    heal->due = heal->segment != NULL;
}
