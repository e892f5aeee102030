/* Room on disk: a whole segment goes, the one that is missed least. Ahead of need, between two watermarks: what is worth keeping in it is
 * written on first (rewrite.c). Where a write waits already it goes at once.
 *
 * Order: the remove log says that it is dead; then the table forgets what it has there, in steps; then the file goes. A crash in between
 * loses cached objects and revives none (invariant I5). */
#include "store/store_impl.h"

#include <stdlib.h>

enum {
    HIGH_PERCENT = 95,
    LOW_PERCENT = 90,
    SEGMENTS_AT_LEAST = 4, /* a tier of fewer gives up only what a write waits for */
    LEAVING_AT_ONCE = 2,
    LOOKS = 64, /* at segments, to choose one */
    TICK_MS = 1000,
    REST_MS = 1000,       /* after a failure */
    HELD_REST_MS = 10000, /* for one that is full of what is held */
    LOW_CHECKS = 3,       /* of the file system's room, before anything is given back, and between two segments; */
    LOW_CHECKS_MORE = 6,  /* up to so many more, by chance */
};

/* ---- one that goes ---- */

static void forget_step(struct shelf *shelf)
{
    struct store *store = shelf->store;
    uint64_t begun_us = step_begin();
    struct list *at = NULL;
    for (unsigned n = 0; n < STEP_KEYS && (at = list_first(&shelf->place.objects)) != NULL; n++) {
        struct entry *entry = CONTAINER_OF(at, struct entry, in_place);
        if (entry->blob) {
            entry_set_place(store, entry, NULL, 0, 0);
            changed(store, entry_key(entry), entry->version);
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

void reclaim_step(struct task *task)
{
    struct shelf *shelf = CONTAINER_OF(task, struct shelf, step);
    if (shelf->killed)
        forget_step(shelf);
    else
        rewrite_step(shelf);
}

static void doom_done(struct disk_kill *kill, int err)
{
    struct shelf *shelf = CONTAINER_OF(kill, struct shelf, kill);
    struct store *store = shelf->store;
    shelf->killed = err == 0;
    if (shelf->killed) {
        bound_dead(store, shelf);
        task_post(&shelf->step);
        return;
    }
    shelf->doomed = false;
    store->giving_up--;
    store->doom_failed = true;
    store->reclaim.leaving_bytes -= shelf->leaving_bytes;
    shelf->leaving_bytes = 0;
    store->reclaim.rests_until_ms = now_ms(store) + REST_MS;
}

static bool give_up(struct store *store, struct shelf *shelf)
{
    shelf->kill = (struct disk_kill){.kind = KILL_SEGMENT};
    if (disk_segment_kill_start(store->disk, &shelf->kill, shelf->segment, doom_done) != 0)
        return false;
    shelf->doomed = true;
    store->giving_up++;
    shelf->leaving_bytes = segment_bytes(shelf->segment);
    store->reclaim.leaving_bytes += shelf->leaving_bytes;
    return true;
}

static bool can_go(const struct segment *segment)
{
    return segment_sealed(segment) && !segment_busy(segment);
}

static bool is_settled(const struct shelf *shelf)
{
    return !shelf->doomed && !shelf->moving && shelf->moves == 0;
}

void reclaim_if_empty(struct store *store, struct shelf *shelf)
{
    if (shelf->place.count == 0 && is_settled(shelf) && !store->closing && store->recovered && can_go(shelf->segment))
        give_up(store, shelf);
}

void reclaim_emptied(struct shelf *shelf)
{
    struct store *store = shelf->store;
    bool held = shelf->place.held_disk_only > 0;
    if (!held && can_go(shelf->segment) && give_up(store, shelf))
        return;
    store->figures.reclaims_left += held;
    shelf->rests_until_ms = now_ms(store) + (held ? HELD_REST_MS : REST_MS);
    disk_ask_again(store->disk);
    reclaim_check(store);
}

/* ---- which one ---- */

/* By the room that it wastes, and by how long ago what it holds was used, on average: what wastes no room goes when it is old, what is
 * mostly dead goes young. */
static uint64_t score(const struct store *store, const struct shelf *shelf)
{
    const struct place *place = &shelf->place;
    if (place->count == 0 || shelf->overflows)
        return shelf->overflows ? UINT64_MAX : UINT64_MAX - 1;
    uint64_t bytes = max_u64(segment_bytes(shelf->segment), BLOCK_BYTES);
    uint64_t live = min_u64(1000, place->blocks * BLOCK_BYTES * 1000 / bytes); /* of a thousand */
    uint64_t idle_ms = table_ms_since((uint32_t)(place->used_ticks / place->count), now_ms(store));
    return (idle_ms + 1) * 1000 * (1125 - live) / (1000 + live);
}

/* What is held on disk alone is not lost: such a segment goes only if that can be written on first. */
static bool may_go(const struct store *store, const struct shelf *shelf, bool at_once)
{
    const struct place *place = &shelf->place;
    if (!is_settled(shelf) || place->held_disk_only == 0)
        return is_settled(shelf);
    return !at_once && place->held_bytes <= store->reclaim.budget_bytes && place->held_bytes <= segment_bytes(shelf->segment) / 2;
}

static struct segment *next_round(const struct store *store, struct segment *after)
{
    struct segment *next = disk_segment_next(store->disk, after);
    return next ? next : disk_segment_next(store->disk, NULL);
}

/* The best of the next 64 or, if none of those may go, the first one that may. */
static struct shelf *choose(struct store *store, bool at_once)
{
    struct shelf *best = NULL;
    uint64_t best_score = 0;
    struct segment *first = next_round(store, store->reclaim.hand);
    struct segment *at = first;
    for (unsigned looks = 0; at && (looks < LOOKS || !best); looks++) {
        struct shelf *shelf = can_go(at) ? shelf_of(store, at) : NULL;
        bool rests = shelf && !at_once && shelf->rests_until_ms > now_ms(store);
        if (shelf && !rests && may_go(store, shelf, at_once) && score(store, shelf) > best_score) {
            best = shelf;
            best_score = score(store, shelf);
        }
        store->reclaim.hand = at;
        at = next_round(store, at);
        if (at == first)
            break;
    }
    return best;
}

/* ---- when ---- */

/* Before all is known, one that seems to hold nothing may not have been read. After a failure it is none, once: who waits is told, and the
 * next one tries again. */
bool reclaim_full(struct store *store)
{
    if (store->giving_up > 0)
        return true;
    bool failed = store->doom_failed;
    store->doom_failed = false;
    if (failed || !store->recovered)
        return false;
    struct shelf *moving = store->reclaim.moving;
    if (moving) {
        rewrite_hurry(moving);
        return true;
    }
    struct shelf *shelf = choose(store, true);
    return shelf && give_up(store, shelf);
}

/* Room for one more segment is kept, or a write would have to wait for it. */
struct reclaim_marks reclaim_marks(const struct store *store)
{
    uint64_t limit = disk_usable_bytes(store->disk);
    uint64_t segment = store->config.disk.segment_bytes;
    if (limit == 0 || segment > limit / SEGMENTS_AT_LEAST)
        return (struct reclaim_marks){UINT64_MAX, UINT64_MAX};
    uint64_t high = min_u64(limit / 100 * HIGH_PERCENT, limit - segment);
    return (struct reclaim_marks){high, min_u64(limit / 100 * LOW_PERCENT, high)};
}

/* Are more bytes taken than are to be, without those that are leaving? */
static bool is_over(struct store *store)
{
    struct reclaim *reclaim = &store->reclaim;
    uint64_t used = disk_used_bytes(store->disk);
    uint64_t staying = used - min_u64(used, reclaim->leaving_bytes);
    uint64_t usable = disk_usable_bytes(store->disk);
    struct reclaim_marks marks = reclaim_marks(store);
    reclaim->running = staying > (reclaim->running ? marks.low_bytes : marks.high_bytes);
    return reclaim->running || (usable > 0 && staying > usable);
}

void reclaim_check(struct store *store)
{
    struct reclaim *reclaim = &store->reclaim;
    if (disk_has_objects(store->disk))
        return; /* reclaim_objects.c sees to those */
    if (store->closing || !store->recovered || disk_state(store->disk) != DISK_ON || reclaim->moving ||
        reclaim->rests_until_ms > now_ms(store))
        return;
    bool near = bound_is_near(store);
    if (store->giving_up >= LEAVING_AT_ONCE || (!is_over(store) && !near))
        return;
    struct shelf *shelf = choose(store, false);
    if (shelf)
        rewrite_start(shelf);
    else
        reclaim->rests_until_ms = now_ms(store) + REST_MS;
}

static uint64_t patience(struct store *store)
{
    uint64_t chance = 0;
    (void)loop_random(store->loop, &chance, sizeof chance);
    return LOW_CHECKS + chance % LOW_CHECKS_MORE;
}

/* Others fill the file system. Writing has stopped by itself; if that does not help for a while, segments are given back one by one, with
 * patience between them that differs from one of us to the other: twenty who purge at once would all have purged too much. */
static void give_back(struct store *store)
{
    struct reclaim *reclaim = &store->reclaim;
    uint32_t checks = disk_low_checks(store->disk);
    if (checks == 0 || reclaim->low_until == 0)
        reclaim->low_until = checks + patience(store);
    if (checks < reclaim->low_until || reclaim->leaving_bytes > 0 || disk_used_bytes(store->disk) <= store->config.disk_min_bytes)
        return;
    reclaim->low_until = checks + patience(store);
    if (disk_has_objects(store->disk)) {
        reclaim_objects_give_back(store);
        return;
    }
    struct shelf *shelf = choose(store, true);
    bool enough = shelf && disk_used_bytes(store->disk) >= store->config.disk_min_bytes + segment_bytes(shelf->segment);
    if (enough && give_up(store, shelf))
        store->figures.given_back_segments++;
}

static void tick(struct timer *timer)
{
    struct store *store = CONTAINER_OF(timer, struct store, reclaim.timer);
    rewrite_tick(store);
    reclaim_check(store);
    if (store->recovered && disk_state(store->disk) == DISK_ON)
        give_back(store);
    timer_start(timer, TICK_MS);
}

static void retry(struct timer *timer)
{
    struct store *store = CONTAINER_OF(timer, struct store, reclaim.retry);
    if (store->reclaim.moving)
        task_post(&store->reclaim.moving->step);
}

void reclaim_setup(struct store *store)
{
    store->reclaim.budget_most = store->config.disk.segment_bytes * store->config.rewrite_percent / 100;
    store->reclaim.budget_bytes = store->reclaim.budget_most;
    timer_init(&store->reclaim.timer, store->loop, tick);
    timer_init(&store->reclaim.retry, store->loop, retry);
    timer_start(&store->reclaim.timer, TICK_MS);
}

void reclaim_stop(struct store *store)
{
    timer_stop(&store->reclaim.timer);
    timer_stop(&store->reclaim.retry);
}
