/* Reading all that is on disk, to find what is bad before somebody needs it. One record at a time, in pieces of 1 MiB, not faster than was
 * asked for, and never while a get waits for room. Nothing comes to memory by it. */
#include "store/store_impl.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

enum {
    PIECE_BYTES = 1 << 20, /* a multiple of a chunk */
    LOOKED_AT = 1024,      /* places of the table, a step */
    BEHIND_US = 100000,    /* it makes up for no more than so much time */
    NO_ROOM_MS = 20,       /* then it tries again */
    RECORD_COST_BYTES = 4096
};
_Static_assert(PIECE_BYTES % POOL_CHUNK_BYTES == 0, "pieces are judged by the sums of their chunks");

static void piece_read(struct disk_read *read, int err);

static struct scrub *scrub_of(struct store *store)
{
    return &store->scrub;
}

static bool has_record(const struct scrub *scrub)
{
    return scrub->read.key.len > 0;
}

static void record_end(struct scrub *scrub)
{
    scrub->read.key.len = 0;
}

static void scrub_end(struct store *store, int err)
{
    struct scrub *scrub = scrub_of(store);
    struct store_scrubbed *figures = &scrub->figures;
    figures->running = false;
    figures->stopped = err != 0;
    figures->ms = now_ms(store) - scrub->began_ms;
    record_end(scrub);
    timer_stop(&scrub->timer);
    task_cancel(&scrub->step);
    log_write(store->log, figures->bad + figures->unreadable > 0 ? LOG_WARN : LOG_INFO, "scrubbed",
              "records=%llu bytes=%llu bad=%llu unreadable=%llu whole=%s ms=%llu", (unsigned long long)figures->records,
              (unsigned long long)figures->bytes, (unsigned long long)figures->bad, (unsigned long long)figures->unreadable,
              err ? "no" : "yes", (unsigned long long)figures->ms);
    struct list waiters;
    list_init(&waiters);
    list_move_all(&waiters, &scrub->waiters);
    for (struct list *at; (at = list_pop_front(&waiters)) != NULL;) {
        struct store_scrub *wait = CONTAINER_OF(at, struct store_scrub, link);
        answer_give(&wait->answer, err);
    }
}

/* ---- which record ---- */

static void take_record(void *arg, struct entry *entry)
{
    struct scrub *scrub = arg;
    if (!entry->place || has_record(scrub))
        return;
    memcpy(scrub->key, entry->key, entry->key_len);
    scrub->read = (struct disk_read){
        .where = {CONTAINER_OF(entry->place, struct shelf, place)->segment, entry->block, entry->blocks},
        .key = span_of(scrub->key, entry->key_len),
        .version = entry->version,
        .size = entry->size,
        .checksum = entry->checksum,
    };
}

static void find_record(struct store *store)
{
    struct scrub *scrub = scrub_of(store);
    for (unsigned n = 0; n < STEP_KEYS && !has_record(scrub) && !scrub->at_end; n++) {
        scrub->cursor = table_scan(store->table, scrub->cursor, span_of(NULL, 0), 1, LOOKED_AT / STEP_KEYS, take_record, scrub);
        scrub->at_end = scrub->cursor == 0;
    }
}

/* Between two pieces it may have gone, and its segment too. */
static bool record_is_there(const struct store *store, const struct disk_read *read)
{
    const struct entry *entry = table_find(store->table, read->key, table_hash(store->table, read->key));
    return entry && entry->place && entry->version == read->version && entry->block == read->where.block &&
           CONTAINER_OF(entry->place, struct shelf, place)->segment == read->where.segment;
}

/* ---- one piece ---- */

/* Room as a get takes it; who waits for room already comes first. */
static int take_room(struct store *store)
{
    struct scrub *scrub = scrub_of(store);
    scrub->blob = blob_new(store->pool, scrub->read.length);
    if (!scrub->blob)
        return -ENOMEM;
    uint64_t need = blob_room_needed(scrub->blob);
    bool waited_for = !list_empty(&store->starved) || !list_empty(&store->waits) || store->waits_told > 0;
    bool fits = !waited_for && store->inflight + need <= store->inflight_limit;
    int err = fits ? evict_for(store, scrub->blob, true) : KVD_EBUSY;
    if (!err) {
        scrub->counted = need;
        store->inflight += need;
    }
    return err;
}

static void give_room(struct store *store)
{
    struct scrub *scrub = scrub_of(store);
    store->inflight -= scrub->counted;
    scrub->counted = 0;
    if (scrub->blob)
        blob_unref(scrub->blob);
    scrub->blob = NULL;
    room_changed(store);
}

/* 0: it is being read. */
static int piece_start(struct store *store)
{
    struct scrub *scrub = scrub_of(store);
    scrub->read.length = min_u64(PIECE_BYTES, scrub->read.size - scrub->read.offset);
    int err = take_room(store);
    scrub->read.blob = scrub->blob;
    if (!err)
        err = disk_read_start(store->disk, &scrub->read, piece_read);
    if (err)
        give_room(store);
    return err;
}

static void count_record(struct store *store, int err)
{
    struct store_scrubbed *figures = &scrub_of(store)->figures;
    figures->records++;
    if (err == KVD_ECORRUPT || err == KVD_ESHORT) {
        figures->bad++;
        replica_drop(store, &scrub_of(store)->read, err);
    } else if (err == KVD_ESTALE) {
        replica_drop(store, &scrub_of(store)->read, err); /* another host has removed or replaced it: nothing is bad */
    } else if (err) {
        figures->unreadable++;
    }
    record_end(scrub_of(store));
}

/* So much was read: when may the next be? */
static void pay(struct store *store, uint64_t bytes)
{
    struct scrub *scrub = scrub_of(store);
    uint64_t now = loop_now_us(store->loop);
    uint64_t from = max_u64(scrub->due_us, now - min_u64(now, BEHIND_US));
    scrub->due_us = from + (bytes + RECORD_COST_BYTES) * 1000000 / scrub->figures.bytes_per_s;
}

static void piece_read(struct disk_read *read, int err)
{
    struct store *store = CONTAINER_OF(read, struct store, scrub.read);
    struct scrub *scrub = scrub_of(store);
    give_room(store);
    if (!scrub->figures.running)
        return; /* it was broken off */
    pay(store, read->length);
    scrub->figures.bytes += err ? 0 : read->length;
    read->offset += read->length;
    if (err || read->offset >= read->size)
        count_record(store, err);
    task_post(&scrub->step);
}

/* ---- step by step ---- */

static void scrub_step(struct task *task)
{
    struct store *store = CONTAINER_OF(task, struct store, scrub.step);
    struct scrub *scrub = scrub_of(store);
    uint64_t now = loop_now_us(store->loop);
    if (scrub->due_us > now + 1000) {
        timer_start(&scrub->timer, (scrub->due_us - now) / 1000);
        return;
    }
    uint64_t begun_us = step_begin();
    if (has_record(scrub) && !record_is_there(store, &scrub->read))
        record_end(scrub);
    if (!has_record(scrub))
        find_record(store);
    int err = has_record(scrub) ? piece_start(store) : 0;
    step_end(store, "scrub", begun_us);
    if (!has_record(scrub) && scrub->at_end)
        scrub_end(store, 0);
    else if (!has_record(scrub))
        task_post(&scrub->step);
    else if (err == KVD_EBUSY || err == -ENOMEM)
        timer_start(&scrub->timer, NO_ROOM_MS);
    else if (err)
        scrub_end(store, err);
}

static void scrub_tick(struct timer *timer)
{
    task_post(&CONTAINER_OF(timer, struct store, scrub.timer)->scrub.step);
}

void scrub_setup(struct store *store)
{
    list_init(&store->scrub.waiters);
    timer_init(&store->scrub.timer, store->loop, scrub_tick);
    task_init(&store->scrub.step, store->loop, scrub_step);
}

void scrub_stop(struct store *store)
{
    if (store->scrub.figures.running)
        scrub_end(store, KVD_ECLOSING);
}

static void scrub_begin(struct store *store)
{
    struct scrub *scrub = scrub_of(store);
    struct table_sums sums;
    table_sums(store->table, &sums);
    scrub->figures =
        (struct store_scrubbed){.running = true, .run = scrub->figures.run + 1, .of_records = sums.on_disk, .of_bytes = sums.disk_bytes};
    scrub->began_ms = now_ms(store);
    scrub->due_us = 0;
    scrub->cursor = 0;
    scrub->at_end = false;
    record_end(scrub);
    task_post(&scrub->step);
}

/* What is still to be waited for is what it is at the new rate: whoever joins a slow run is not kept by its rate. */
static void change_rate(struct store *store, uint64_t bytes_per_s)
{
    struct scrub *scrub = scrub_of(store);
    uint64_t now = loop_now_us(store->loop);
    if (scrub->due_us > now)
        scrub->due_us = now + (scrub->due_us - now) * scrub->figures.bytes_per_s / bytes_per_s;
    scrub->figures.bytes_per_s = bytes_per_s;
    if (scrub->blob)
        return; /* the piece that is being read goes on by itself */
    timer_stop(&scrub->timer);
    task_post(&scrub->step);
}

static void scrub_tell(struct store_answer *answer)
{
    struct store_scrub *scrub = CONTAINER_OF(answer, struct store_scrub, answer);
    scrub->fn(scrub, answer->outcome);
}

static int scrub_join(struct store *store, struct store_scrub *scrub, uint64_t bytes_per_s, uint64_t *run)
{
    struct scrub *mine = scrub_of(store);
    if (disk_state(store->disk) == DISK_OFF)
        return KVD_EOFF;
    if (!mine->figures.running && (store->closing || mine->blob))
        return KVD_ECLOSING; /* the last one's read has not ended */
    if (!mine->figures.running)
        scrub_begin(store);
    change_rate(store, bytes_per_s);
    *run = mine->figures.run;
    if (scrub)
        list_push_back(&mine->waiters, &scrub->link);
    return 0;
}

int store_scrub_start(struct store_desk *desk, struct store_scrub *scrub, uint64_t bytes_per_s, uint64_t *run, store_scrub_fn fn)
{
    CHECK(bytes_per_s > 0);
    if (scrub) {
        scrub->fn = fn;
        list_init(&scrub->link);
        answer_init(&scrub->answer, desk, scrub_tell);
    }
    store_lock(desk->store);
    int err = scrub_join(desk->store, scrub, bytes_per_s, run);
    store_unlock(desk->store);
    return err;
}

uint64_t store_scrub_stop(struct store *store)
{
    const struct store_scrubbed *figures = &scrub_of(store)->figures;
    store_lock(store);
    uint64_t run = figures->running ? figures->run : 0;
    if (run > 0)
        scrub_end(store, -ECANCELED);
    store_unlock(store);
    return run;
}

void store_scrub_leave(struct store_scrub *scrub)
{
    struct store *store = scrub->answer.desk->store;
    store_lock(store);
    list_remove(&scrub->link);
    (void)answer_take_back(&scrub->answer);
    store_unlock(store);
}

void scrub_look(const struct store *store, struct store_scrubbed *out)
{
    *out = store->scrub.figures;
    if (out->running)
        out->ms = now_ms(store) - store->scrub.began_ms;
}
