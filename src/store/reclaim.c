/* Room on disk: a whole segment goes, the oldest first. Order: the remove log says that it is dead; then the table forgets what it
 * has there, in steps; then the file goes. A crash in between loses cached objects and revives none (invariant I5). */
#include "store/store_impl.h"

#include <stdlib.h>

void reclaim_step(struct task *task)
{
    struct shelf *shelf = CONTAINER_OF(task, struct shelf, step);
    struct store *store = shelf->store;
    uint64_t begun_us = step_begin();
    struct list *at = NULL;
    for (unsigned n = 0; n < STEP_KEYS && (at = list_first(&shelf->place.objects)) != NULL; n++) {
        struct entry *entry = CONTAINER_OF(at, struct entry, in_place);
        if (entry->blob) {
            entry_set_place(store, entry, NULL, 0, 0);
            if (entry_held(entry) && !store_may_hold_more(store, 0))
                (void)persist_start(store, entry); /* too much would be held in memory alone: it is written on */
            continue;
        }
        entry_drop(store, entry, &store->figures.dropped_reclaimed);
    }
    step_end(store, "reclaim", begun_us);
    if (!list_empty(&shelf->place.objects)) {
        task_post(&shelf->step);
        return;
    }
    store->figures.reclaimed_segments++;
    store->giving_up--;
    load_abandon(store, shelf->segment);
    disk_segment_unlink(store->disk, shelf->segment);
    room_changed(store);
}

static void doom_done(struct disk_kill *kill, int err)
{
    struct shelf *shelf = CONTAINER_OF(kill, struct shelf, kill);
    if (err == 0) {
        task_post(&shelf->step);
        return;
    }
    shelf->doomed = false;
    shelf->store->giving_up--;
    shelf->store->doom_failed = true;
}

static bool give_up(struct store *store, struct shelf *shelf)
{
    shelf->kill = (struct disk_kill){.kind = KILL_SEGMENT};
    if (disk_segment_kill_start(store->disk, &shelf->kill, shelf->segment, doom_done) != 0)
        return false;
    shelf->doomed = true;
    store->giving_up++;
    return true;
}

static bool can_go(const struct segment *segment)
{
    return segment_sealed(segment) && !segment_busy(segment);
}

void reclaim_if_empty(struct store *store, struct shelf *shelf)
{
    if (shelf->place.count == 0 && !shelf->doomed && !store->closing && store->recovered && can_go(shelf->segment))
        give_up(store, shelf);
}

/* The oldest that holds nothing; else the oldest whose objects nobody holds to the disk alone. Before all is known, one that seems to
 * hold nothing may not have been read. After a failure it is none, once: who waits is told, and the next one tries again. */
bool reclaim_full(struct store *store)
{
    if (store->giving_up > 0)
        return true;
    bool failed = store->doom_failed;
    store->doom_failed = false;
    if (failed || !store->recovered)
        return false;
    struct shelf *oldest = NULL;
    for (struct segment *at = NULL; (at = disk_segment_next(store->disk, at)) != NULL;) {
        struct shelf *shelf = can_go(at) ? shelf_of(store, at) : NULL;
        if (!shelf || shelf->doomed)
            continue;
        if (shelf->place.count == 0)
            return give_up(store, shelf);
        if (!oldest && shelf->place.held_disk_only == 0)
            oldest = shelf;
    }
    return oldest && give_up(store, oldest);
}

/* Files may take more than they should from the start: the limit was lowered, or they were left behind by a crash. */
void reclaim_check(struct store *store)
{
    struct disk_figures figures;
    if (store->closing || !store->recovered)
        return;
    disk_get_figures(store->disk, &figures);
    if (figures.used_bytes > figures.limit_bytes)
        (void)reclaim_full(store);
}
