/* fake_disk.h - the disk tier (src/tier/disk.h) with nothing but a script behind it: the test says when and how each write, read, kill
 * and sync ends, in which order, and when segments and records are announced.
 *
 * It defines the functions of src/tier/disk*.c, so the linker takes none of those. To be included by one file of a test program.
 * It remembers what a disk could hold: records that may be there, that are, that are synced; kills that are durable. A test can so ask
 * at any moment what a restart could bring back. Contracts of disk.h that bind the caller are asserted.
 */
#ifndef KVD_TEST_FAKE_DISK_H
#define KVD_TEST_FAKE_DISK_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/error.h"
#include "tier/disk.h"

enum { FAKE_QUEUED = 1, FAKE_RUNNING };

struct segment {
    struct list link;
    uint64_t number;
    char path[32];
    uint8_t id[DISK_ID_BYTES];
    void *user;
    uint32_t blocks;
    bool ended, sync_failed, killing, killed, dead;
    unsigned reads, writes, syncs;
};

/* MAYBE: its write is under way or has failed; nobody knows. */
enum fake_state { RECORD_MAYBE, RECORD_WRITTEN, RECORD_SYNCED };

struct fake_record {
    struct list link;
    struct segment *segment;
    uint32_t block, blocks;
    enum fake_state state;
    uint64_t version, size, checksum, expires_ms;
    uint8_t *bytes;
    size_t key_len;
    uint8_t key[64];
};

/* A kill that is durable. */
struct fake_dead {
    struct list link;
    enum kill_kind kind;
    uint64_t version;
    size_t name_len;
    uint8_t name[64];
};

struct disk {
    struct loop *loop;
    struct disk_events events;
    void *arg;
    void (*told)(void); /* the test's: after each answer */
    enum disk_state state;
    bool jumped, closing, abandon, erased;
    bool objects;                /* the test's: it is said that objects are files */
    bool probes;                 /* likewise: all that is written is one that can be looked at */
    struct segment *own_objects; /* likewise: those that this node has written */
    disk_closed_fn closed_fn;
    void *closed_arg;
    uint64_t version;
    uint64_t segments_made;
    struct segment *open;
    struct list segments;
    struct list records;
    struct list dead;
    struct list noted; /* kills that were asked for in this process, whatever became of them: what they name is not announced */
    /* under way */
    struct list queue, running, kills, syncs, reads;
    struct disk_probe *probe;    /* one at a time */
    struct disk_kill_page *page; /* likewise */
    uint64_t queued_bytes, drain_rate;
    unsigned kills_started, writes_started, late_reads;
    uint64_t used_bytes; /* the test's */
    uint64_t limit_bytes;
    unsigned asked_again;
    uint32_t low_checks; /* likewise */
    uint64_t timeout_ms; /* likewise */
    bool moves;          /* likewise: no write stands still */
};

/* The one that was made last. */
static struct disk *fake_disk;
/* What the next one finds: see fake_crash(). */
static struct disk *fake_media;

/* ---- what a test says ---- */

static inline unsigned fake_count(const struct list *head)
{
    unsigned n = 0;
    for (const struct list *at = head->next; at != head; at = at->next)
        n++;
    return n;
}

static inline struct list *fake_at(struct list *head, unsigned index)
{
    struct list *at = head->next;
    for (; index > 0 && at != head; index--)
        at = at->next;
    cr_assert(at != head, "nothing of that kind is under way");
    return at;
}

static inline struct disk_write *fake_write_at(struct list *head, unsigned index)
{
    return CONTAINER_OF(fake_at(head, index), struct disk_write, link);
}

static inline struct segment *fake_segment_new(struct disk *disk)
{
    struct segment *segment = calloc(1, sizeof *segment);
    cr_assert_not_null(segment);
    segment->number = ++disk->segments_made;
    segment->blocks = 1;
    memset(segment->id, (int)segment->number, sizeof segment->id);
    snprintf(segment->path, sizeof segment->path, "kvd/fake/%04llu.seg", (unsigned long long)segment->number);
    list_push_back(&disk->segments, &segment->link);
    return segment;
}

static inline void fake_seal(struct disk *disk)
{
    if (disk->open)
        disk->open->ended = true;
    disk->open = NULL;
}

static inline struct fake_record *fake_record_new(struct disk *disk, struct segment *segment, struct span key, uint64_t version,
                                                  uint64_t size, uint64_t checksum)
{
    struct fake_record *record = calloc(1, sizeof *record);
    cr_assert(record && key.len <= sizeof record->key);
    record->segment = segment;
    record->block = segment->blocks;
    record->blocks = 1 + (uint32_t)((size + BLOCK_BYTES - 1) / BLOCK_BYTES);
    segment->blocks += record->blocks;
    record->version = version;
    record->size = size;
    record->checksum = checksum;
    record->key_len = key.len;
    memcpy(record->key, key.at, key.len);
    record->bytes = malloc(size + 1);
    cr_assert_not_null(record->bytes);
    list_push_back(&disk->records, &record->link);
    return record;
}

static inline void fake_record_free(struct fake_record *record)
{
    list_remove(&record->link);
    free(record->bytes);
    free(record);
}

/* Copy out of, or into, a blob. */
static inline void fake_blob_copy(struct blob *blob, uint64_t len, uint8_t *bytes, bool out)
{
    for (uint64_t at = 0; at < len;) {
        size_t run;
        uint8_t *here = blob_at(blob, at, &run);
        run = min_u64(run, len - at);
        memcpy(out ? bytes + at : here, out ? here : bytes + at, run);
        at += run;
    }
}

/* What disk.h asks of a write: bytes that are what the checksum says, chunk sums, a zeroed tail. */
static inline void fake_write_judge(const struct disk_write *write, const uint8_t *bytes)
{
    uint64_t size = blob_size(write->blob);
    cr_assert_eq(XXH3_64bits(bytes, size), write->checksum, "the checksum is not that of the bytes");
    if (blob_chunks(write->blob) > 1)
        cr_assert_not_null(blob_sums(write->blob), "a write of more than one chunk has no sums");
    for (uint32_t i = 0; blob_chunks(write->blob) > 1 && i < blob_chunks(write->blob); i++) {
        uint64_t at = (uint64_t)i * POOL_CHUNK_BYTES;
        cr_assert_eq(blob_sums(write->blob)[i], XXH3_64bits(bytes + at, min_u64(POOL_CHUNK_BYTES, size - at)), "a chunk's sum is wrong");
    }
    if (size % BLOCK_BYTES != 0) {
        size_t run;
        const uint8_t *tail = blob_at(write->blob, size, &run);
        for (size_t i = 0; i < BLOCK_BYTES - size % BLOCK_BYTES; i++)
            cr_assert_eq(tail[i], 0, "the tail is not zeroed");
    }
}

/* Put a write on its way: from here on a record of it may be there. */
static inline struct fake_record *fake_write_run(struct disk *disk, struct disk_write *write)
{
    if (!disk->open)
        disk->open = fake_segment_new(disk);
    list_remove(&write->link);
    list_push_back(&disk->running, &write->link);
    write->state = FAKE_RUNNING;
    write->attempts++;
    write->segment = disk->open;
    write->segment->writes++;
    struct fake_record *record = fake_record_new(disk, disk->open, write->key, write->version, blob_size(write->blob), write->checksum);
    record->expires_ms = write->expires_ms;
    fake_blob_copy(write->blob, record->size, record->bytes, true);
    fake_write_judge(write, record->bytes);
    write->where = (struct disk_where){disk->open, record->block, record->blocks};
    return record;
}

/* The store gives answers to a desk: who waits is told at once, so that a test can look. */
static inline void fake_told(struct disk *disk)
{
    if (disk->told)
        disk->told();
}

static inline struct fake_record *fake_record_at(struct disk *disk, const struct disk_where *where)
{
    for (struct list *at = disk->records.next; at != &disk->records; at = at->next) {
        struct fake_record *record = CONTAINER_OF(at, struct fake_record, link);
        if (record->segment == where->segment && record->block == where->block)
            return record;
    }
    cr_assert(false, "a read of what was never written");
    return NULL;
}

static inline void fake_write_end(struct disk *disk, struct disk_write *write, int err)
{
    list_remove(&write->link);
    if (write->state == FAKE_RUNNING) {
        struct fake_record *record = fake_record_at(disk, &write->where);
        cr_assert(err == 0 || record->state == RECORD_MAYBE);
        if (err == 0)
            record->state = RECORD_WRITTEN;
        write->segment->writes--;
    }
    disk->queued_bytes -= write->bytes;
    disk_write_fn fn = write->fn;
    fn(write, err);
    fake_told(disk);
}

/* The first try failed; it is queued for another segment. */
static inline void fake_write_again(struct disk *disk, struct disk_write *write)
{
    write->segment->writes--;
    fake_seal(disk);
    list_remove(&write->link);
    list_push_front(&disk->queue, &write->link);
    write->state = FAKE_QUEUED;
}

/* Run and end everything that waits to be written. */
static inline void fake_write_all(struct disk *disk)
{
    while (!list_empty(&disk->queue))
        fake_write_run(disk, fake_write_at(&disk->queue, 0));
    while (!list_empty(&disk->running))
        fake_write_end(disk, fake_write_at(&disk->running, 0), 0);
}

static inline void fake_dead_add(struct list *to, const struct disk_kill *kill)
{
    struct fake_dead *dead = calloc(1, sizeof *dead);
    cr_assert(dead && kill->name.len <= sizeof dead->name);
    dead->kind = kill->kind;
    dead->version = kill->version;
    dead->name_len = kill->name.len;
    if (kill->name.len > 0)
        memcpy(dead->name, kill->name.at, kill->name.len);
    list_push_back(to, &dead->link);
}

static inline void fake_kill_end(struct disk *disk, int err)
{
    struct disk_kill *kill = CONTAINER_OF(fake_at(&disk->kills, 0), struct disk_kill, link);
    list_remove(&kill->link);
    if (kill->segment)
        kill->segment->killing = false;
    if (err == 0) {
        fake_dead_add(&disk->dead, kill);
        if (kill->segment)
            kill->segment->killing = kill->segment->killed = true;
    }
    disk_kill_fn fn = kill->fn;
    fn(kill, err);
    fake_told(disk);
}

static inline void fake_kill_all(struct disk *disk)
{
    while (!list_empty(&disk->kills))
        fake_kill_end(disk, 0);
}

static inline void fake_sync_end(struct disk *disk, unsigned index, int err)
{
    struct disk_sync *sync = CONTAINER_OF(fake_at(&disk->syncs, index), struct disk_sync, link);
    list_remove(&sync->link);
    if (sync->segment && sync->segment->sync_failed)
        err = -EIO; /* once it failed, nobody is told that it is well */
    for (struct list *at = disk->records.next; err == 0 && at != &disk->records; at = at->next) {
        struct fake_record *record = CONTAINER_OF(at, struct fake_record, link);
        if (record->state == RECORD_WRITTEN && (!sync->segment || record->segment == sync->segment))
            record->state = RECORD_SYNCED;
    }
    struct segment *segment = sync->segment;
    if (segment) {
        segment->syncs--;
        segment->sync_failed |= err != 0;
        if (err && disk->open == segment)
            fake_seal(disk);
    }
    disk_sync_fn fn = sync->fn;
    fn(sync, err);
    fake_told(disk);
}

static inline void fake_sync_all(struct disk *disk)
{
    while (!list_empty(&disk->syncs))
        fake_sync_end(disk, 0, 0);
}

/* As the real one does: who writes the value on does not take them. */
static inline void fake_sums_keep(const struct disk_read *read)
{
    if (read->length < read->size || blob_sums(read->blob) || blob_chunks(read->blob) <= 1)
        return;
    cr_assert_eq(blob_sums_make(read->blob), 0);
    for (uint64_t at = 0; at < read->length; at += POOL_CHUNK_BYTES)
        blob_sums(read->blob)[at / POOL_CHUNK_BYTES] = blob_range_sum(read->blob, at, min_u64(POOL_CHUNK_BYTES, read->length - at));
}

static inline void fake_read_end(struct disk *disk, unsigned index, int err)
{
    struct disk_read *read = CONTAINER_OF(fake_at(&disk->reads, index), struct disk_read, link);
    list_remove(&read->link);
    struct fake_record *record = fake_record_at(disk, &read->where);
    cr_assert(record->state != RECORD_MAYBE && record->version == read->version && record->checksum == read->checksum);
    if (err == 0) {
        fake_blob_copy(read->blob, read->length, record->bytes + read->offset, false);
        fake_sums_keep(read);
    }
    read->where.segment->reads--;
    disk_read_fn fn = read->fn;
    fn(read, err);
    fake_told(disk);
}

static inline void fake_read_all(struct disk *disk)
{
    while (!list_empty(&disk->reads))
        fake_read_end(disk, 0, 0);
}

/* Files that were unlinked go, once nobody reads them. */
static inline void fake_reap(struct disk *disk)
{
    for (struct list *at = disk->segments.next, *next; at != &disk->segments; at = next) {
        next = at->next;
        struct segment *segment = CONTAINER_OF(at, struct segment, link);
        if (!segment->dead || segment->reads > 0)
            continue;
        list_remove(at);
        disk->events.gone(disk->arg, segment);
        for (struct list *in = disk->records.next, *after; in != &disk->records; in = after) {
            after = in->next;
            if (CONTAINER_OF(in, struct fake_record, link)->segment == segment)
                fake_record_free(CONTAINER_OF(in, struct fake_record, link));
        }
        free(segment);
    }
}

static inline void fake_opened(struct disk *disk, int err, uint64_t version)
{
    disk->state = err ? DISK_OFF : DISK_RECOVERING;
    disk->jumped = version > disk->version;
    disk->version = max_u64(disk->version, version);
    /* Kills that waited are to reach everything from before this process. */
    for (struct list *at = disk->kills.next; disk->jumped && at != &disk->kills; at = at->next)
        CONTAINER_OF(at, struct disk_kill, link)->version = disk->version;
    for (struct list *at = disk->noted.next; disk->jumped && at != &disk->noted; at = at->next)
        CONTAINER_OF(at, struct fake_dead, link)->version = disk->version;
    while (err && !list_empty(&disk->queue))
        fake_write_end(disk, fake_write_at(&disk->queue, 0), KVD_EOFF);
    while (err && !list_empty(&disk->kills))
        fake_kill_end(disk, KVD_EOFF);
    disk->events.opened(disk->arg, err);
    fake_told(disk);
}

static inline bool fake_kill_covers(enum kill_kind kind, struct span name, uint64_t version, const struct fake_record *record)
{
    struct span key = span_of(record->key, record->key_len);
    switch (kind) {
    case KILL_KEY:
        return record->version <= version && span_equal(name, key);
    case KILL_PREFIX:
        return record->version <= version && span_starts_with(key, name);
    case KILL_ALL:
        return record->version <= version;
    case KILL_SEGMENT:
        return false; /* segment->killed says so */
    }
    return false;
}

static inline bool fake_covered(const struct list *head, const struct fake_record *record)
{
    for (struct list *at = head->next; at != head; at = at->next) {
        const struct fake_dead *dead = CONTAINER_OF(at, struct fake_dead, link);
        if (fake_kill_covers(dead->kind, span_of(dead->name, dead->name_len), dead->version, record))
            return true;
    }
    return false;
}

static inline bool fake_is_dead(const struct disk *disk, const struct fake_record *record)
{
    return record->segment->killed || fake_covered(&disk->dead, record);
}

/* Dead by what is durable, or by what may be durable at any moment. */
static inline bool fake_may_be_dead(const struct disk *disk, const struct fake_record *record)
{
    if (fake_is_dead(disk, record) || record->segment->killing)
        return true;
    for (struct list *at = disk->kills.next; at != &disk->kills; at = at->next) {
        const struct disk_kill *kill = CONTAINER_OF(at, const struct disk_kill, link);
        if (fake_kill_covers(kill->kind, kill->name, kill->version, record))
            return true;
    }
    return false;
}

/* Announce a record, as at start, unless a kill reaches it. */
static inline void fake_found(struct disk *disk, const struct fake_record *record)
{
    if (fake_may_be_dead(disk, record) || fake_covered(&disk->noted, record))
        return;
    struct disk_found found = {
        .key = span_of(record->key, record->key_len),
        .version = record->version,
        .size = record->size,
        .checksum = record->checksum,
        .expires_ms = record->expires_ms,
        .where = {record->segment, record->block, record->blocks},
    };
    disk->events.found(disk->arg, &found);
}

/* A record that lies there from before. */
static inline struct fake_record *fake_old_record(struct disk *disk, struct segment *segment, const char *key, uint64_t version,
                                                  const void *bytes, uint64_t size)
{
    struct fake_record *record = fake_record_new(disk, segment, span_text(key), version, size, XXH3_64bits(bytes, size));
    record->state = RECORD_SYNCED;
    memcpy(record->bytes, bytes, size);
    return record;
}

static inline void fake_recovered(struct disk *disk)
{
    disk->state = DISK_ON;
    disk->events.recovered(disk->arg);
    fake_told(disk);
}

/* Could a restart show a record of this key with a version up to `version`? */
static inline bool fake_may_rise(const struct disk *disk, struct span key, uint64_t version)
{
    for (struct list *at = disk->records.next; at != &disk->records; at = at->next) {
        const struct fake_record *record = CONTAINER_OF(at, const struct fake_record, link);
        if (record->version <= version && span_equal(key, span_of(record->key, record->key_len)) && !fake_is_dead(disk, record))
            return true;
    }
    return false;
}

/* Is a record of this key with these bytes there that would survive a power cut? */
static inline bool fake_is_safe(const struct disk *disk, struct span key, uint64_t checksum)
{
    for (struct list *at = disk->records.next; at != &disk->records; at = at->next) {
        const struct fake_record *record = CONTAINER_OF(at, const struct fake_record, link);
        if (record->state == RECORD_SYNCED && record->checksum == checksum && span_equal(key, span_of(record->key, record->key_len)) &&
            !fake_may_be_dead(disk, record))
            return true;
    }
    return false;
}

/* End everything one way or the other, then say that it is closed. */
static inline void fake_close_end(struct disk *disk)
{
    cr_assert(disk->closing);
    while (!list_empty(&disk->queue))
        fake_write_end(disk, fake_write_at(&disk->queue, 0), KVD_ECLOSING);
    while (!list_empty(&disk->running))
        fake_write_end(disk, fake_write_at(&disk->running, 0), 0);
    fake_sync_all(disk);
    fake_kill_all(disk);
    fake_read_all(disk);
    disk->state = DISK_OFF;
    disk->closed_fn(disk->closed_arg);
    fake_told(disk);
}

static inline struct disk *fake_disk_new(void)
{
    struct disk *disk = calloc(1, sizeof *disk);
    cr_assert_not_null(disk);
    disk->version = 1000;
    struct list *heads[] = {&disk->segments, &disk->records, &disk->dead,  &disk->noted, &disk->queue,
                            &disk->running,  &disk->kills,   &disk->syncs, &disk->reads};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        list_init(heads[i]);
    return disk;
}

/* Remember what is on the disk at this moment: what is synced, and of the rest what `coin` leaves; likewise of the kills, in their order.
 * The next disk_new() finds it. */
static inline void fake_crash(struct disk *disk, bool (*coin)(void))
{
    struct disk *media = fake_disk_new();
    media->version = disk->version + 1000;
    media->segments_made = disk->segments_made;
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next) {
        const struct segment *segment = CONTAINER_OF(at, struct segment, link);
        struct segment *copy = calloc(1, sizeof *copy);
        cr_assert_not_null(copy);
        copy->number = segment->number;
        memcpy(copy->path, segment->path, sizeof copy->path);
        copy->blocks = segment->blocks;
        copy->ended = true;
        copy->killed = segment->killed;
        list_push_back(&media->segments, &copy->link);
    }
    for (struct list *at = disk->dead.next; at != &disk->dead; at = at->next) {
        const struct fake_dead *dead = CONTAINER_OF(at, struct fake_dead, link);
        struct disk_kill kill = {.kind = dead->kind, .name = span_of(dead->name, dead->name_len), .version = dead->version};
        fake_dead_add(&media->dead, &kill);
    }
    for (struct list *at = disk->kills.next; at != &disk->kills && coin(); at = at->next) {
        const struct disk_kill *kill = CONTAINER_OF(at, struct disk_kill, link);
        fake_dead_add(&media->dead, kill);
        for (struct list *in = media->segments.next; kill->segment && in != &media->segments; in = in->next)
            if (CONTAINER_OF(in, struct segment, link)->number == kill->segment->number)
                CONTAINER_OF(in, struct segment, link)->killed = true;
    }
    for (struct list *at = disk->records.next; at != &disk->records; at = at->next) {
        const struct fake_record *record = CONTAINER_OF(at, struct fake_record, link);
        if (record->state != RECORD_SYNCED && !coin())
            continue;
        struct list *in = media->segments.next;
        while (CONTAINER_OF(in, struct segment, link)->number != record->segment->number)
            in = in->next;
        struct fake_record *copy = calloc(1, sizeof *copy);
        cr_assert_not_null(copy);
        *copy = *record;
        copy->segment = CONTAINER_OF(in, struct segment, link);
        copy->state = RECORD_SYNCED;
        copy->bytes = malloc(record->size + 1);
        cr_assert_not_null(copy->bytes);
        memcpy(copy->bytes, record->bytes, record->size);
        list_push_back(&media->records, &copy->link);
    }
    fake_media = media;
}

/* ---- disk.h ---- */

int disk_new(struct disk **out, struct loop *loop, const struct log *log, const struct disk_config *config,
             const struct disk_events *events, void *arg)
{
    (void)log;
    struct disk *disk = fake_media ? fake_media : fake_disk_new();
    fake_media = NULL;
    disk->loop = loop;
    disk->events = *events;
    disk->arg = arg;
    disk->timeout_ms = 5000;
    disk->state = config->dir ? DISK_OPENING : DISK_OFF;
    disk->limit_bytes = config->limit_bytes;
    fake_disk = disk;
    *out = disk;
    return 0;
}

void disk_close(struct disk *disk, bool abandon, disk_closed_fn fn, void *arg)
{
    cr_assert_not(disk->closing, "closed twice");
    disk->closing = true;
    disk->abandon = abandon;
    disk->closed_fn = fn;
    disk->closed_arg = arg;
}

void disk_erase(struct disk *disk)
{
    disk->erased = true;
}

int disk_erase_err(const struct disk *disk)
{
    (void)disk;
    return 0;
}

void disk_free(struct disk *disk)
{
    struct list *at;
    list_move_all(&disk->dead, &disk->noted);
    while ((at = list_first(&disk->records)) != NULL)
        fake_record_free(CONTAINER_OF(at, struct fake_record, link));
    while ((at = list_pop_front(&disk->dead)) != NULL)
        free(CONTAINER_OF(at, struct fake_dead, link));
    while ((at = list_pop_front(&disk->segments)) != NULL)
        free(CONTAINER_OF(at, struct segment, link));
    free(disk);
}

enum disk_state disk_state(const struct disk *disk)
{
    return disk->state;
}

const char *disk_state_name(const struct disk *disk)
{
    static const char *const names[] = {"opening", "recovering", "on", "off", "tripped"};
    return names[disk->state];
}

const char *disk_off_reason(const struct disk *disk)
{
    (void)disk;
    return "";
}

const char *disk_trouble(const struct disk *disk)
{
    (void)disk;
    return "";
}

uint32_t disk_low_checks(const struct disk *disk)
{
    return disk->low_checks;
}

uint64_t disk_used_bytes(const struct disk *disk)
{
    return disk->used_bytes;
}

uint64_t disk_usable_bytes(const struct disk *disk)
{
    return disk->limit_bytes;
}

uint64_t disk_next_version(struct disk *disk)
{
    return ++disk->version;
}

bool disk_versions_jumped(const struct disk *disk)
{
    return disk->jumped;
}

static inline int fake_versions_known(const struct disk *disk)
{
    return disk->state == DISK_OFF ? KVD_EOFF : disk->state == DISK_OPENING ? KVD_EBUSY : 0;
}

int disk_give_version(struct disk *disk, uint64_t *version)
{
    int err = fake_versions_known(disk);
    if (!err)
        *version = disk_next_version(disk);
    return err;
}

int disk_raise_version(struct disk *disk, uint64_t floor)
{
    int err = floor > DISK_VERSION_MOST ? KVD_EUSAGE : fake_versions_known(disk);
    if (!err)
        disk->version = max_u64(disk->version, floor);
    return err;
}

enum disk_synced disk_synced(const struct disk_where *where)
{
    if (where->segment->sync_failed)
        return DISK_UNSURE;
    return fake_record_at(fake_disk, where)->state == RECORD_SYNCED ? DISK_SYNCED : DISK_NOT_SYNCED;
}

const uint8_t *segment_id(const struct segment *segment)
{
    return segment->id;
}

static inline int fake_allowed(const struct disk *disk)
{
    if (disk->state == DISK_OFF || disk->state == DISK_TRIPPED)
        return KVD_EOFF;
    return disk->closing ? KVD_ECLOSING : 0;
}

int disk_write_start(struct disk *disk, struct disk_write *write, disk_write_fn fn)
{
    int err = fake_allowed(disk);
    if (err)
        return err;
    write->fn = fn;
    write->state = FAKE_QUEUED;
    write->attempts = 0;
    write->bytes = BLOCK_BYTES + round_up(blob_size(write->blob), BLOCK_BYTES);
    disk->queued_bytes += write->bytes;
    disk->writes_started++;
    if (write->first)
        list_push_front(&disk->queue, &write->link);
    else
        list_push_back(&disk->queue, &write->link);
    return 0;
}

uint64_t disk_write_moved_ms(const struct disk *disk, const struct disk_write *write)
{
    (void)write;
    return disk->moves ? loop_now_ms(disk->loop) : 0;
}

uint64_t disk_timeout_ms(const struct disk *disk)
{
    return disk->timeout_ms;
}

bool disk_write_cancel(struct disk *disk, struct disk_write *write)
{
    if (write->state != FAKE_QUEUED || write->attempts > 0)
        return false;
    list_remove(&write->link);
    disk->queued_bytes -= write->bytes;
    return true;
}

uint64_t disk_queued_bytes(const struct disk *disk)
{
    return disk->queued_bytes;
}

uint64_t disk_drain_rate(const struct disk *disk)
{
    return disk->drain_rate;
}

int disk_sync_start(struct disk *disk, struct disk_sync *sync, const struct disk_where *where, disk_sync_fn fn)
{
    int err = fake_allowed(disk);
    if (err)
        return err;
    cr_assert(!where->segment->killing && !where->segment->dead, "a sync of what is being given up");
    cr_assert(fake_record_at(disk, where)->state != RECORD_MAYBE);
    sync->fn = fn;
    sync->segment = where->segment;
    sync->segment->syncs++;
    list_push_back(&disk->syncs, &sync->link);
    return 0;
}

int disk_sync_all_start(struct disk *disk, struct disk_sync *sync, disk_sync_fn fn)
{
    int err = fake_allowed(disk);
    if (err)
        return err;
    sync->fn = fn;
    sync->segment = NULL;
    list_push_back(&disk->syncs, &sync->link);
    return 0;
}

int disk_seal_start(struct disk *disk, struct disk_sync *sync, disk_sync_fn fn)
{
    fake_seal(disk);
    return disk_sync_all_start(disk, sync, fn);
}

static inline int fake_kill_queue(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn)
{
    int err = fake_allowed(disk);
    if (err)
        return err;
    cr_assert(kill->version <= disk->version);
    kill->fn = fn;
    list_push_back(&disk->kills, &kill->link);
    fake_dead_add(&disk->noted, kill);
    disk->kills_started++;
    return 0;
}

int disk_kill_start(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn)
{
    cr_assert(kill->kind != KILL_SEGMENT);
    kill->segment = NULL;
    return fake_kill_queue(disk, kill, fn);
}

void disk_kill_missed(struct disk *disk, const struct disk_kill *kill)
{
    fake_dead_add(&disk->noted, kill);
}

/* The test ends it: with kills of its own, or an error. */
int disk_kill_page_start(struct disk *disk, struct disk_kill_page *page, disk_kill_page_fn fn)
{
    int err = fake_allowed(disk);
    if (err)
        return err;
    cr_assert(page->limit > 0 && !disk->page);
    page->fn = fn;
    disk->page = page;
    return 0;
}

bool disk_kill_pending(const struct disk *disk, struct span key)
{
    for (struct list *at = disk->kills.next; at != &disk->kills; at = at->next) {
        const struct disk_kill *kill = CONTAINER_OF(at, const struct disk_kill, link);
        if (kill->kind == KILL_ALL || (kill->kind == KILL_PREFIX && span_starts_with(key, kill->name)) ||
            (kill->kind == KILL_KEY && span_equal(key, kill->name)))
            return true;
    }
    return false;
}

int disk_read_start(struct disk *disk, struct disk_read *read, disk_read_fn fn)
{
    int err = fake_allowed(disk);
    if (err)
        return KVD_EOFF;
    bool known = false;
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next)
        known |= at == &read->where.segment->link;
    cr_assert(known && !read->where.segment->dead, "a read of a file that is gone");
    cr_assert(blob_size(read->blob) == read->length && blob_room(read->blob) >= blob_room_needed(read->blob));
    cr_assert(read->offset % POOL_CHUNK_BYTES == 0 && read->offset + read->length <= read->size);
    cr_assert(read->length % POOL_CHUNK_BYTES == 0 || read->offset + read->length == read->size);
    read->fn = fn;
    read->where.segment->reads++;
    list_push_back(&disk->reads, &read->link);
    return 0;
}

void disk_read_is_late(struct disk *disk, struct disk_read *read)
{
    (void)read;
    disk->late_reads++;
}

void *segment_user(const struct segment *segment)
{
    return segment->user;
}

void segment_set_user(struct segment *segment, void *user)
{
    segment->user = user;
}

const char *segment_path(const struct segment *segment)
{
    return segment->path;
}

uint64_t segment_sequence(const struct segment *segment)
{
    return segment->number;
}

uint64_t segment_created_ms(const struct segment *segment)
{
    (void)segment;
    return 0;
}

const char *segment_state_name(const struct segment *segment)
{
    return segment->ended ? "sealed" : "open";
}

bool segment_sealed(const struct segment *segment)
{
    return segment->ended && segment->writes == 0;
}

uint64_t segment_bytes(const struct segment *segment)
{
    return (uint64_t)segment->blocks * BLOCK_BYTES;
}

struct segment *disk_segment_next(const struct disk *disk, const struct segment *after)
{
    struct list *next = after ? after->link.next : disk->segments.next;
    return next == &disk->segments ? NULL : CONTAINER_OF(next, struct segment, link);
}

bool segment_busy(const struct segment *segment)
{
    return !segment_sealed(segment) || segment->syncs > 0 || segment->killing || segment->dead;
}

int disk_segment_kill_start(struct disk *disk, struct disk_kill *kill, struct segment *segment, disk_kill_fn fn)
{
    cr_assert(!segment_busy(segment));
    kill->kind = KILL_SEGMENT;
    kill->name = span_of(&segment->number, sizeof segment->number);
    kill->segment = segment;
    int err = fake_kill_queue(disk, kill, fn);
    segment->killing = err == 0;
    return err;
}

void disk_ask_again(struct disk *disk)
{
    disk->asked_again++;
}

void disk_segment_unlink(struct disk *disk, struct segment *segment)
{
    (void)disk;
    cr_assert(segment->killed && !segment->dead, "unlinked before its kill was durable");
    segment->dead = true;
}

bool disk_has_objects(const struct disk *disk)
{
    return disk->objects;
}

struct segment *disk_own_objects(const struct disk *disk)
{
    return disk->own_objects;
}

struct segment *disk_others_objects(const struct disk *disk)
{
    (void)disk;
    return NULL;
}

bool segment_is_objects(const struct segment *segment)
{
    (void)segment;
    return fake_disk->probes;
}

void disk_object_count(struct disk *disk, const struct segment *segment, size_t key_len, uint64_t size, bool here)
{
    (void)disk, (void)segment, (void)key_len, (void)size, (void)here;
}

uint64_t disk_object_bytes(size_t key_len, uint64_t size)
{
    return key_len + size;
}

int disk_probe_start(struct disk *disk, struct disk_probe *probe, disk_probe_fn fn)
{
    if (!disk->probes || disk->probe)
        return KVD_EOFF;
    probe->fn = fn;
    disk->probe = probe;
    return 0;
}

/* What the look at a file says: err, or that there is this version of the key. */
static inline void fake_probe_end(struct disk *disk, int err, uint64_t version, struct segment *segment)
{
    struct disk_probe *probe = disk->probe;
    disk->probe = NULL;
    probe->found = (struct disk_found){.key = probe->key, .version = version, .size = 1, .where = {.segment = segment, .block = 77}};
    disk_probe_fn fn = probe->fn;
    fn(probe, err);
    fake_told(disk);
}

const char *disk_file_of(struct disk *disk, const struct disk_where *where, struct span key)
{
    (void)disk, (void)key;
    return segment_path(where->segment);
}

void disk_get_figures(const struct disk *disk, struct disk_figures *out)
{
    *out =
        (struct disk_figures){.used_bytes = disk->used_bytes, .queued_bytes = disk->queued_bytes, .segments = fake_count(&disk->segments)};
}

#endif
