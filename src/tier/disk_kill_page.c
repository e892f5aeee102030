/* disk_kill_page.c - what the remove logs say, page by page: for whoever else must know what is dead (docs/cluster.md).
 *
 * A page is read by a job out of one log, up to where that is durable. No compaction runs meanwhile, and none begins: between two pages it
 * may have merged logs, under the name of the last of them, so what was not read yet is never before the cursor.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/disk_inner.h"

struct reading {
    struct job job;
    struct disk *disk; /* for `done` */
    struct disk_kill_page *page;
    struct loop *loop;
    const char *folder;
    uint64_t bytes; /* of the log, up to where it is read */
    /* what came of it */
    struct disk_kill_cursor cursor;
    uint32_t limit;
    struct log_entry *kills;
    uint32_t count;
    uint8_t *names; /* behind them */
    size_t names_len;
    bool log_ended;
    int err;
};

static void reading_free(struct reading *reading)
{
    free(reading->kills);
    free(reading);
}

/* ---- the job ---- */

/* False: there is no place for it. */
static bool kill_take(struct reading *reading, const struct log_entry *entry)
{
    if (entry->kind == KILL_SEGMENT)
        return true;
    if (reading->count == reading->limit || reading->names_len + entry->name.len > KILL_PAGE_NAMES_BYTES)
        return false;
    uint8_t *name = reading->names + reading->names_len;
    bytes_copy(name, entry->name.at, entry->name.len);
    reading->names_len += entry->name.len;
    reading->kills[reading->count++] = (struct log_entry){entry->kind, span_of(name, entry->name.len), entry->version};
    return true;
}

enum { TAKEN = 0, PAGE_FULL = 1 };

/* The entries of a frame from the cursor's on. */
static int frame_take(struct reading *reading, const struct log_reader *reader, const struct log_copy *copy)
{
    struct log_entries entries = log_entries(reader, copy);
    struct log_entry entry;
    int next;
    for (uint64_t n = 0; (next = log_entries_next(&entries, &entry)) == LOG_ENTRY; n++) {
        if (n < reading->cursor.entry)
            continue;
        if (!kill_take(reading, &entry))
            return PAGE_FULL;
        reading->cursor.entry = n + 1;
    }
    return next < 0 ? next : TAKEN;
}

/* Frame by frame; the cursor moves behind each that is taken. */
static int window_take(struct reading *reading, const uint8_t *at, size_t len, const uint8_t *id)
{
    uint64_t from = reading->cursor.offset;
    struct log_reader reader = {.at = at, .len = len, .number = reading->cursor.frame, .id = id};
    struct log_copy copy;
    int next;
    while ((next = log_reader_next(&reader, &copy)) == LOG_FRAME) {
        int taken = frame_take(reading, &reader, &copy);
        if (taken != TAKEN)
            return taken;
        reading->cursor.offset = from + reader.pos;
        reading->cursor.frame = reader.number;
        reading->cursor.entry = 0;
    }
    if (next < 0)
        return next;
    if (next == LOG_TORN && from + len == reading->bytes)
        reading->cursor.offset = reading->bytes; /* what follows was never acknowledged */
    return next == LOG_TORN && reading->cursor.offset == from ? KVD_ECORRUPT : TAKEN;
}

static int log_take(struct reading *reading, const struct file *file, uint8_t *window)
{
    struct disk_kill_cursor *cursor = &reading->cursor;
    struct log_head head;
    int64_t got = fs_read(reading->loop, file, window, LOG_FRAMES_AT, 0);
    int err = got < 0 ? (int)got : log_head_parse(window, (size_t)got, &head);
    if (!err && head.sequence != cursor->log)
        err = KVD_ECORRUPT;
    if (err)
        return err;
    if (cursor->id != get_le64(head.id)) /* another of this name: what of it was read under another cannot be told */
        *cursor = (struct disk_kill_cursor){.log = cursor->log, .id = get_le64(head.id), .offset = LOG_FRAMES_AT};
    while (cursor->offset < reading->bytes) {
        size_t len = min_u64(KILL_PAGE_WINDOW_BYTES, reading->bytes - cursor->offset);
        got = fs_read(reading->loop, file, window, len, cursor->offset);
        if (got < (int64_t)len)
            return got < 0 ? (int)got : KVD_ESHORT;
        err = window_take(reading, window, len, head.id);
        if (err)
            return err == PAGE_FULL ? 0 : err;
    }
    reading->log_ended = true;
    return 0;
}

static void reading_work(struct job *job)
{
    struct reading *reading = CONTAINER_OF(job, struct reading, job);
    struct file file;
    char *path = remove_log_path(reading->folder, reading->cursor.log);
    uint8_t *window = malloc(KILL_PAGE_WINDOW_BYTES);
    reading->err = path && window ? fs_open(reading->loop, &file, path, FS_READ_ONLY) : -ENOMEM;
    if (!reading->err) {
        reading->err = log_take(reading, &file, window);
        (void)fs_close(reading->loop, &file);
    }
    free(window);
    free(path);
}

/* ---- on the loop ---- */

/* The first log whose number is not below this one; 0: there is none. */
static uint64_t log_from(const struct disk *disk, uint64_t sequence, uint64_t *bytes)
{
    for (size_t i = 0; i < disk->closed_logs.count; i++) {
        const struct closed_log *log = &disk->closed_logs.at[i];
        *bytes = log->bytes;
        if (log->sequence >= sequence)
            return log->sequence;
    }
    *bytes = disk->log_length;
    return disk->log_open && disk->log_sequence >= sequence ? disk->log_sequence : 0;
}

static void reading_done(struct job *job);

static void reading_start(struct disk *disk, struct reading *reading)
{
    reading->log_ended = false;
    disk->pages_reading++;
    disk_job_start(disk, &reading->job, reading_work, reading_done);
}

/* On to the next log, if this one is at its end and there is one. */
static bool log_next(const struct disk *disk, struct reading *reading)
{
    uint64_t bytes;
    bool ended = reading->log_ended && log_from(disk, reading->cursor.log, &bytes) == reading->cursor.log && bytes == reading->bytes;
    uint64_t next = ended ? log_from(disk, reading->cursor.log + 1, &bytes) : 0;
    if (next == 0)
        return false;
    reading->cursor = (struct disk_kill_cursor){.log = next};
    reading->bytes = bytes;
    return true;
}

/* Behind the last entry the cursor stays where it is: what is logged next follows. */
static void reading_done(struct job *job)
{
    struct reading *reading = CONTAINER_OF(job, struct reading, job);
    struct disk *disk = reading->disk;
    struct disk_kill_page *page = reading->page;
    disk->pages_reading--;
    disk_job_ended(disk);
    disk_health_note(disk, reading->err);
    if (!reading->err && log_next(disk, reading) && reading->count < reading->limit) {
        reading_start(disk, reading);
        return;
    }
    if (!reading->err) {
        page->cursor = reading->cursor;
        page->kills = page->memory = reading->kills;
        reading->kills = NULL;
        page->count = reading->count;
        page->at_end = reading->log_ended && reading->cursor.offset >= reading->bytes;
    }
    int err = reading->err;
    reading_free(reading);
    disk_kill_page_fn fn = page->fn;
    fn(page, err);
}

static int page_begin(struct disk *disk, struct disk_kill_page *page)
{
    struct reading *reading = calloc(1, sizeof *reading);
    if (!reading)
        return -ENOMEM;
    *reading = (struct reading){.disk = disk, .page = page, .loop = disk->loop, .folder = disk->folder};
    reading->cursor = page->cursor;
    reading->limit = page->limit < KILL_PAGE_MOST ? page->limit : KILL_PAGE_MOST;
    reading->kills = malloc(reading->limit * sizeof *reading->kills + KILL_PAGE_NAMES_BYTES);
    reading->names = (uint8_t *)(reading->kills + reading->limit);
    uint64_t log = log_from(disk, page->cursor.log, &reading->bytes);
    if (!reading->kills || log == 0) {
        reading_free(reading);
        return log == 0 ? KVD_ECORRUPT : -ENOMEM; /* a cursor of another folder */
    }
    if (log != page->cursor.log)
        reading->cursor = (struct disk_kill_cursor){.log = log};
    reading_start(disk, reading);
    return 0;
}

void disk_kill_pages_pump(struct disk *disk)
{
    int why = disk->closing ? KVD_ECLOSING : disk->health.tripped ? KVD_EOFF : 0;
    if (!why && disk->compacting)
        return;
    struct list now;
    list_init(&now);
    list_move_all(&now, &disk->kill_pages);
    for (struct list *at; (at = list_pop_front(&now)) != NULL;) {
        struct disk_kill_page *page = CONTAINER_OF(at, struct disk_kill_page, link);
        int err = why ? why : page_begin(disk, page);
        disk_kill_page_fn fn = page->fn;
        if (err)
            fn(page, err);
    }
}

int disk_kill_page_start(struct disk *disk, struct disk_kill_page *page, disk_kill_page_fn fn)
{
    CHECK(page->limit > 0);
    if (disk->state == DISK_OFF || disk->state == DISK_OPENING || disk->health.tripped || disk->objects)
        return KVD_EOFF;
    if (disk->closing)
        return KVD_ECLOSING;
    page->fn = fn;
    list_init(&page->link);
    list_push_back(&disk->kill_pages, &page->link);
    disk_post(disk);
    return 0;
}
