/* Before a segment is given up, what is worth keeping there is written on to the open one: what is leased, pinned, or has been used since
 * it came there. In bounded steps, and within a budget: a share of what is written otherwise.
 *
 * The table follows a copy when that is on stable storage, and only if the object is still the same and still at its old place (invariant
 * I3). Till the old segment is dead there are two records of one version; a remove or a replace kills both, for kills go by version. An
 * object of which there was ever a second record is a stray: it is buried when it is dropped. */
#include "store/store_impl.h"

#include "base/check.h"
#include "base/error.h"

enum {
    MOVING_BYTES = 4 << 20, /* under way at most, but for a single larger object */
    ROUNDS = 3,             /* through the objects of a segment, for those that were leased meanwhile */
    RETRY_MS = 20,
    STALLED_MOST_MS = 2000, /* without room to read into: then what is left is not written on */
    TICKS_TO_FULL = 60,     /* where nothing is written, the budget comes back within so many */
};

/* ---- the budget ---- */

static void budget_add(struct reclaim *reclaim, uint64_t bytes)
{
    reclaim->budget_bytes = min_u64(reclaim->budget_most, reclaim->budget_bytes + bytes);
}

void rewrite_earn(struct store *store, uint64_t bytes)
{
    budget_add(&store->reclaim, bytes * store->config.rewrite_percent / 100);
    store->reclaim.earned = true;
}

void rewrite_tick(struct store *store)
{
    if (!store->reclaim.earned)
        budget_add(&store->reclaim, store->reclaim.budget_most / TICKS_TO_FULL);
    store->reclaim.earned = false;
}

/* ---- one object ---- */

static bool worth_keeping(const struct entry *entry)
{
    return entry_held(entry) || entry->flags & ENTRY_REREAD;
}

/* What nobody holds leaves enough for what somebody does. */
static bool affordable(const struct shelf *shelf, const struct entry *entry, uint64_t bytes)
{
    uint64_t kept = entry_held(entry) ? 0 : shelf->place.held_bytes;
    return bytes + kept <= shelf->store->reclaim.budget_bytes;
}

/* KVD_EBUSY: no room to read it into now. 0: its move has begun, or it is not to be. */
static int move(struct shelf *shelf, struct entry *entry)
{
    struct store *store = shelf->store;
    uint64_t bytes = (uint64_t)entry->blocks * BLOCK_BYTES;
    if (entry->work || !worth_keeping(entry) || !affordable(shelf, entry, bytes))
        return 0;
    int err = entry->blob ? persist_copy_start(store, entry) : load_move_start(store, entry);
    if (err == KVD_EBUSY)
        return err;
    if (err < 0) {
        store->figures.rewrite_failures++;
        return 0;
    }
    store->reclaim.budget_bytes -= bytes;
    shelf->moves++;
    shelf->moving_bytes += entry->size;
    return 0;
}

bool rewrite_read(struct store *store, struct entry *entry, struct blob *blob)
{
    const struct shelf *from = CONTAINER_OF(entry->place, struct shelf, place);
    bool passing = !entry->blob;
    if (store->closing || from->hurried)
        return false;
    if (passing) {
        blob_zero_tail(blob);
        entry->blob = blob_ref(blob);
        table_settle(store->table, entry);
    }
    if (persist_copy_start(store, entry) != 0) {
        store->figures.rewrite_failures++;
        if (passing)
            entry_forget_memory(store, entry);
        changed(store, entry_key(entry), entry->version);
        return false;
    }
    struct writing *writing = CONTAINER_OF((struct work *)entry->work, struct writing, work);
    writing->passing = passing;
    writing->hits = entry->hits;
    return true;
}

static bool still_there(const struct writing *writing)
{
    const struct entry *entry = writing->entry;
    if (entry->version != writing->write.version)
        return false;
    return !entry->place || (entry->place == &writing->from->place && entry->block == writing->from_block);
}

void rewrite_written(struct writing *writing, int err)
{
    struct store *store = writing->store;
    struct entry *entry = writing->entry;
    if (writing->write.attempts > 0)
        entry->flags |= ENTRY_STRAY;
    if (err == 0 && still_there(writing))
        err = persist_shelve(store, writing);
    table_settle(store->table, entry);
    if (writing->passing && entry->place && entry->hits == writing->hits) {
        entry_forget_memory(store, entry);
        changed(store, entry_key(entry), entry->version);
    }
    if (err) {
        store->figures.rewrite_failures++;
        return;
    }
    store->figures.rewritten_objects++;
    store->figures.rewritten_bytes += writing->write.bytes;
}

/* ---- one segment ---- */

static void round_begin(struct shelf *shelf)
{
    shelf->rounds++;
    shelf->left = shelf->place.count;
    task_post(&shelf->step);
}

void rewrite_start(struct shelf *shelf)
{
    struct store *store = shelf->store;
    CHECK(!store->reclaim.moving && !shelf->moving && shelf->moves == 0);
    store->reclaim.moving = shelf;
    shelf->moving = true;
    shelf->hurried = false;
    shelf->rounds = 0;
    shelf->stalled_ms = 0;
    round_begin(shelf);
}

void rewrite_hurry(struct shelf *shelf)
{
    shelf->hurried = true;
    for (struct list *at = shelf->writings.next, *next; at != &shelf->writings; at = next) {
        next = at->next;
        struct writing *writing = CONTAINER_OF(at, struct writing, move_link);
        if (writing->entry)
            (void)persist_withdraw(shelf->store, writing->entry);
    }
    task_post(&shelf->step);
}

void rewrite_ended(struct shelf *from, uint64_t bytes)
{
    CHECK(from->moves > 0 && from->moving_bytes >= bytes);
    from->moves--;
    from->moving_bytes -= bytes;
    task_post(&from->step);
}

/* There is no room to read into: try again in a while, but not for ever. */
static void stalled(struct shelf *shelf)
{
    struct store *store = shelf->store;
    if (shelf->stalled_ms == 0)
        shelf->stalled_ms = now_ms(store);
    if (now_ms(store) - shelf->stalled_ms < STALLED_MOST_MS)
        timer_start(&store->reclaim.retry, RETRY_MS);
    else
        shelf->left = 0;
}

static void step(struct shelf *shelf)
{
    uint64_t bytes = 0;
    for (unsigned n = 0; n < STEP_KEYS && bytes < STEP_BYTES && shelf->left > 0 && shelf->moving_bytes < MOVING_BYTES; n++) {
        struct entry *entry = place_next(&shelf->place);
        uint64_t before = shelf->moving_bytes;
        if (entry && move(shelf, entry) == KVD_EBUSY) {
            stalled(shelf);
            return;
        }
        bytes += shelf->moving_bytes - before;
        shelf->left = entry ? shelf->left - 1 : 0;
        if (shelf->moving_bytes > before)
            shelf->stalled_ms = 0;
    }
    if (shelf->left > 0 && shelf->moving_bytes < MOVING_BYTES)
        task_post(&shelf->step);
}

void rewrite_step(struct shelf *shelf)
{
    struct store *store = shelf->store;
    if (!shelf->moving || store->closing)
        return;
    if (shelf->hurried)
        shelf->left = 0;
    uint64_t begun_us = step_begin();
    step(shelf);
    step_end(store, "rewrite", begun_us);
    if (shelf->left > 0 || shelf->moves > 0)
        return;
    if (shelf->place.held_disk_only > 0 && shelf->rounds < ROUNDS && !shelf->hurried) {
        round_begin(shelf);
        return;
    }
    shelf->moving = false;
    store->reclaim.moving = NULL;
    reclaim_emptied(shelf);
}
