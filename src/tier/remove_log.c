#include "tier/remove_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum {
    HEAD_FORMAT = 4,
    HEAD_SEQUENCE = 8,
    HEAD_ID = 16,
    HEAD_SUM = 32,
};

enum {
    FRAME_FORMAT = 4,
    FRAME_ID = 8,
    FRAME_NUMBER = 24,
    FRAME_PAYLOAD = 32,
    FRAME_COUNT = 36,
    FRAME_PAYLOAD_SUM = 40,
    FRAME_SUM = 48,
};

enum {
    ENTRY_KIND = 0,
    ENTRY_LEN = 2,
    ENTRY_VERSION = 4,
};

static const uint8_t head_magic[4] = {'K', 'V', 'D', 'L'};
static const uint8_t frame_magic[4] = {'K', 'V', 'D', 'F'};

/* ---- frames ---- */

int log_frame_init(struct log_frame *frame)
{
    uint8_t *at = malloc(2 * (LOG_FRAME_HEAD_BYTES + LOG_PAYLOAD_MAX_BYTES));
    if (!at)
        return -ENOMEM;
    frame->at = at;
    log_frame_clear(frame);
    return 0;
}

void log_frame_fini(struct log_frame *frame)
{
    free(frame->at);
    frame->at = NULL;
}

void log_frame_clear(struct log_frame *frame)
{
    frame->len = LOG_FRAME_HEAD_BYTES;
    frame->count = 0;
}

bool log_frame_add(struct log_frame *frame, enum kill_kind kind, struct span name, uint64_t version)
{
    CHECK(name.len <= UINT16_MAX);
    if (frame->len + LOG_ENTRY_HEAD_BYTES + name.len > LOG_FRAME_HEAD_BYTES + LOG_PAYLOAD_MAX_BYTES)
        return false;
    uint8_t *at = frame->at + frame->len;
    at[ENTRY_KIND] = (uint8_t)kind;
    at[ENTRY_KIND + 1] = 0;
    put_le16(at + ENTRY_LEN, (uint16_t)name.len);
    put_le64(at + ENTRY_VERSION, version);
    if (name.len > 0)
        memcpy(at + LOG_ENTRY_HEAD_BYTES, name.at, name.len);
    frame->len += LOG_ENTRY_HEAD_BYTES + (uint32_t)name.len;
    frame->count++;
    return true;
}

uint32_t log_frame_finish(struct log_frame *frame, const uint8_t id[DISK_ID_BYTES], uint64_t number)
{
    uint8_t *at = frame->at;
    uint32_t payload = frame->len - LOG_FRAME_HEAD_BYTES;
    memset(at, 0, LOG_FRAME_HEAD_BYTES);
    memcpy(at, frame_magic, sizeof frame_magic);
    put_le16(at + FRAME_FORMAT, DISK_FORMAT);
    memcpy(at + FRAME_ID, id, DISK_ID_BYTES);
    put_le64(at + FRAME_NUMBER, number);
    put_le32(at + FRAME_PAYLOAD, payload);
    put_le32(at + FRAME_COUNT, frame->count);
    put_le64(at + FRAME_PAYLOAD_SUM, XXH3_64bits(at + LOG_FRAME_HEAD_BYTES, payload));
    put_le64(at + FRAME_SUM, XXH3_64bits(at, FRAME_SUM));
    memcpy(at + frame->len, at, frame->len);
    return 2 * frame->len;
}

/* ---- reading ---- */

void log_head_build(uint8_t out[LOG_FRAMES_AT], const uint8_t id[DISK_ID_BYTES], uint64_t sequence)
{
    memset(out, 0, LOG_FRAMES_AT);
    memcpy(out, head_magic, sizeof head_magic);
    put_le16(out + HEAD_FORMAT, DISK_FORMAT);
    put_le64(out + HEAD_SEQUENCE, sequence);
    memcpy(out + HEAD_ID, id, DISK_ID_BYTES);
    put_le64(out + HEAD_SUM, XXH3_64bits(out, HEAD_SUM));
    memcpy(out + LOG_HEAD_BYTES, out, LOG_HEAD_BYTES);
}

/* Both copies that claim to be newer make it newer: one alone is a flipped byte. */
static int head_read(const uint8_t *at, size_t len, uint64_t sequence, uint8_t *id)
{
    unsigned newer = 0;
    for (size_t copy = 0; copy < 2; copy++) {
        const uint8_t *head = at + copy * LOG_HEAD_BYTES;
        if (len < (copy + 1) * LOG_HEAD_BYTES || memcmp(head, head_magic, sizeof head_magic) != 0)
            continue;
        newer += get_le16(head + HEAD_FORMAT) > DISK_FORMAT;
        if (get_le16(head + HEAD_FORMAT) != DISK_FORMAT || get_le64(head + HEAD_SUM) != XXH3_64bits(head, HEAD_SUM))
            continue;
        if (get_le64(head + HEAD_SEQUENCE) != sequence)
            return KVD_ECORRUPT;
        memcpy(id, head + HEAD_ID, DISK_ID_BYTES);
        return 0;
    }
    return newer == 2 ? KVD_EFORMAT : KVD_ECORRUPT;
}

/* A file, where its reader is, and what the next frame must be. */
struct log_reader {
    const uint8_t *at;
    size_t len;
    size_t pos;
    uint64_t number;
    const uint8_t *id;
};

/* Length of one copy of a frame that is whole at `pos` and has number `least` or a higher one; 0 when there is none. */
static uint32_t frame_at(const struct log_reader *reader, size_t pos, uint64_t least)
{
    if (pos > reader->len || reader->len - pos < LOG_FRAME_HEAD_BYTES)
        return 0;
    const uint8_t *at = reader->at + pos;
    bool ours = memcmp(at, frame_magic, sizeof frame_magic) == 0 && get_le16(at + FRAME_FORMAT) == DISK_FORMAT &&
                memcmp(at + FRAME_ID, reader->id, DISK_ID_BYTES) == 0 && get_le64(at + FRAME_NUMBER) >= least &&
                get_le64(at + FRAME_SUM) == XXH3_64bits(at, FRAME_SUM);
    uint32_t payload = ours ? get_le32(at + FRAME_PAYLOAD) : 0;
    if (!ours || payload > LOG_PAYLOAD_MAX_BYTES || payload > reader->len - pos - LOG_FRAME_HEAD_BYTES)
        return 0;
    if (get_le64(at + FRAME_PAYLOAD_SUM) != XXH3_64bits(at + LOG_FRAME_HEAD_BYTES, payload))
        return 0;
    return LOG_FRAME_HEAD_BYTES + payload;
}

static uint64_t frame_number(const struct log_reader *reader, size_t pos)
{
    return get_le64(reader->at + pos + FRAME_NUMBER);
}

/* Search for a whole frame from `pos` on; the log's random id keeps a key from forging one. True: *found and *copy_bytes are set. */
static bool frame_search(const struct log_reader *reader, size_t pos, uint64_t least, size_t *found, uint32_t *copy_bytes)
{
    while (pos < reader->len) {
        const uint8_t *hit = memmem(reader->at + pos, reader->len - pos, frame_magic, sizeof frame_magic);
        if (!hit)
            return false;
        size_t at = (size_t)(hit - reader->at);
        uint32_t bytes = frame_at(reader, at, least);
        if (bytes > 0) {
            *found = at;
            *copy_bytes = bytes;
            return true;
        }
        pos = at + 1;
    }
    return false;
}

enum frame_next { FRAME_NONE, FRAME_ONE };

/* Find the next frame by either copy. FRAME_ONE: *copy is where a good copy of *copy_bytes lies, and the reader stands after both;
 * FRAME_NONE: the end, or a torn tail (then *torn); or KVD_ECORRUPT: a frame is lost before one that is there. */
static int frame_next(struct log_reader *reader, size_t *copy, uint32_t *copy_bytes, bool *torn)
{
    if (reader->pos >= reader->len)
        return FRAME_NONE;
    size_t at = reader->pos;
    uint32_t bytes = frame_at(reader, at, reader->number);
    bool there = bytes > 0 || frame_search(reader, at + 1, reader->number, &at, &bytes);
    if (!there) {
        *torn = true;
        return FRAME_NONE;
    }
    bool second = at != reader->pos;
    if (frame_number(reader, at) != reader->number || (second && at - reader->pos != bytes))
        return KVD_ECORRUPT;
    *copy = at;
    *copy_bytes = bytes;
    reader->pos += 2 * (size_t)bytes;
    reader->number++;
    return FRAME_ONE;
}

static bool entry_is_sane(enum kill_kind kind, size_t len)
{
    switch (kind) {
    case KILL_KEY:
    case KILL_PREFIX:
        return len > 0;
    case KILL_ALL:
        return len == 0;
    case KILL_SEGMENT:
        return len == DISK_ID_BYTES;
    }
    return false;
}

static void summary_add(struct log_summary *summary, enum kill_kind kind, uint64_t version)
{
    summary->entries++;
    if (kind == KILL_SEGMENT) {
        summary->segment_entries++;
        return;
    }
    summary->min_version = min_u64(summary->min_version, version);
    summary->max_version = max_u64(summary->max_version, version);
}

/* Entries of one good copy. What a sum covers and yet makes no sense is no torn tail: entries would be lost. */
static int frame_read(const uint8_t *at, uint32_t copy_bytes, struct kill_map *map, struct log_summary *summary)
{
    uint32_t count = get_le32(at + FRAME_COUNT);
    const uint8_t *end = at + copy_bytes;
    at += LOG_FRAME_HEAD_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        if (end - at < LOG_ENTRY_HEAD_BYTES)
            return KVD_ECORRUPT;
        enum kill_kind kind = (enum kill_kind)at[ENTRY_KIND];
        size_t len = get_le16(at + ENTRY_LEN);
        uint64_t version = get_le64(at + ENTRY_VERSION);
        if ((size_t)(end - at) < LOG_ENTRY_HEAD_BYTES + len || !entry_is_sane(kind, len))
            return KVD_ECORRUPT;
        int err = kill_map_add(map, kind, span_of(at + LOG_ENTRY_HEAD_BYTES, len), version);
        if (err)
            return err;
        summary_add(summary, kind, version);
        at += LOG_ENTRY_HEAD_BYTES + len;
    }
    return at == end ? 0 : KVD_ECORRUPT;
}

int log_image_read(const uint8_t *at, size_t len, uint64_t sequence, struct kill_map *map, struct log_summary *out)
{
    struct log_summary summary = {.min_version = UINT64_MAX};
    int err = head_read(at, len, sequence, summary.id);
    if (err)
        return err;
    struct log_reader reader = {.at = at, .len = len, .pos = LOG_FRAMES_AT, .id = summary.id};
    size_t copy = 0;
    uint32_t copy_bytes = 0;
    int next;
    while ((next = frame_next(&reader, &copy, &copy_bytes, &summary.torn)) == FRAME_ONE) {
        err = frame_read(at + copy, copy_bytes, map, &summary);
        if (err)
            return err;
    }
    if (next < 0)
        return next;
    *out = summary;
    return 0;
}

/* ---- files ---- */

char *remove_log_path(const char *folder, uint64_t sequence)
{
    char *path;
    return asprintf(&path, "%s/removes-%016" PRIx64 ".log", folder, sequence) < 0 ? NULL : path;
}

static int file_load(struct loop *loop, const char *path, uint8_t **out, uint64_t *len)
{
    struct file file;
    int err = fs_open(loop, &file, path, FS_READ_ONLY);
    if (err)
        return err;
    int64_t size = fs_size(loop, &file);
    uint8_t *at = NULL;
    err = size < 0 ? (int)size : size > LOG_FILE_MAX_BYTES ? KVD_ECORRUPT : 0;
    if (!err)
        at = malloc((size_t)size + 1);
    if (!err && !at)
        err = -ENOMEM;
    int64_t got = err ? err : fs_read(loop, &file, at, (uint64_t)size, 0);
    if (got < 0)
        err = (int)got;
    else if (got < size)
        err = KVD_ESHORT; /* not a torn tail: what is missing may have been acknowledged */
    (void)fs_close(loop, &file);
    if (err) {
        free(at);
        return err;
    }
    *out = at;
    *len = (uint64_t)got;
    return 0;
}

int remove_log_load(struct loop *loop, const char *folder, uint64_t sequence, struct kill_map *map, struct log_summary *out,
                    uint64_t *bytes)
{
    char *path = remove_log_path(folder, sequence);
    if (!path)
        return -ENOMEM;
    uint8_t *at;
    uint64_t len;
    int err = file_load(loop, path, &at, &len);
    free(path);
    if (err)
        return err;
    err = log_image_read(at, len, sequence, map, out);
    if (!err)
        *bytes = len;
    free(at);
    return err;
}

/* Write under a temporary name, so that a log never has a torn header, and leave the file open. `fill` writes what follows the
 * headers and adds to *len. */
typedef int (*log_fill_fn)(void *arg, struct loop *loop, const struct file *file, uint64_t *len);

static int log_write_temp(struct loop *loop, const char *temp, uint64_t sequence, const uint8_t *id, struct file *file, log_fill_fn fill,
                          void *arg, uint64_t *bytes)
{
    int err = fs_unlink(loop, temp);
    if (err && err != -ENOENT)
        return err;
    err = fs_open(loop, file, temp, FS_CREATE);
    if (err)
        return err;
    uint8_t head[LOG_FRAMES_AT];
    log_head_build(head, id, sequence);
    uint64_t len = sizeof head;
    err = fs_write(loop, file, head, sizeof head, 0);
    if (!err && fill)
        err = fill(arg, loop, file, &len);
    if (!err)
        err = fs_sync(loop, file);
    if (err) {
        (void)fs_close(loop, file);
        (void)fs_unlink(loop, temp);
        return err;
    }
    *bytes = len;
    return 0;
}

static int log_write_whole(struct loop *loop, const char *folder, uint64_t sequence, struct file *file, uint8_t *id, log_fill_fn fill,
                           void *arg, uint64_t *bytes)
{
    char *path = remove_log_path(folder, sequence);
    char *temp = NULL;
    int err = -ENOMEM;
    if (!path || asprintf(&temp, "%s.tmp", path) < 0) {
        temp = NULL;
        goto out;
    }
    err = loop_random(loop, id, DISK_ID_BYTES);
    if (!err)
        err = log_write_temp(loop, temp, sequence, id, file, fill, arg, bytes);
    if (err)
        goto out;
    err = fs_rename(loop, temp, path);
    if (!err)
        err = fs_sync_dir(loop, folder);
    if (err)
        (void)fs_close(loop, file);
out:
    free(temp);
    free(path);
    return err;
}

int remove_log_create(struct loop *loop, const char *folder, uint64_t sequence, struct file *file, uint8_t id[DISK_ID_BYTES])
{
    uint64_t bytes;
    return log_write_whole(loop, folder, sequence, file, id, NULL, NULL, &bytes);
}

/* ---- compaction ---- */

struct compaction {
    const struct log_needs *needs;
    const struct kill_map *map;
    struct loop *loop;
    const struct file *file;
    uint64_t *len;
    struct log_frame frame;
    uint64_t number;
    struct log_summary summary;
    int err;
};

static bool entry_is_needed(const struct compaction *compaction, enum kill_kind kind, struct span name, uint64_t version)
{
    const struct log_needs *needs = compaction->needs;
    if (kind != KILL_SEGMENT)
        return version >= needs->min_version;
    if (needs->keep_all_segments)
        return true;
    for (size_t i = 0; i < needs->segment_count; i++)
        if (memcmp(needs->segments[i], name.at, DISK_ID_BYTES) == 0)
            return true;
    return false;
}

static int compaction_flush(struct compaction *compaction)
{
    if (compaction->frame.count == 0)
        return 0;
    uint32_t bytes = log_frame_finish(&compaction->frame, compaction->summary.id, compaction->number++);
    int err = fs_write(compaction->loop, compaction->file, compaction->frame.at, bytes, *compaction->len);
    *compaction->len += bytes;
    log_frame_clear(&compaction->frame);
    return err;
}

static bool compaction_entry(void *arg, enum kill_kind kind, struct span name, uint64_t version)
{
    struct compaction *compaction = arg;
    if (!entry_is_needed(compaction, kind, name, version))
        return true;
    summary_add(&compaction->summary, kind, version);
    if (!compaction->file || log_frame_add(&compaction->frame, kind, name, version))
        return true;
    compaction->err = compaction_flush(compaction);
    return !compaction->err && log_frame_add(&compaction->frame, kind, name, version);
}

/* Without a file it only counts. */
static int compaction_run(struct compaction *compaction)
{
    compaction->summary.entries = compaction->summary.segment_entries = compaction->summary.max_version = 0;
    compaction->summary.min_version = UINT64_MAX;
    kill_map_walk(compaction->map, compaction_entry, compaction);
    return compaction->err || !compaction->file ? compaction->err : compaction_flush(compaction);
}

static int compaction_fill(void *arg, struct loop *loop, const struct file *file, uint64_t *len)
{
    struct compaction *compaction = arg;
    compaction->loop = loop;
    compaction->file = file;
    compaction->len = len;
    return compaction_run(compaction);
}

static int compaction_write(struct loop *loop, const char *folder, uint64_t sequence, struct compaction *compaction, uint64_t *bytes)
{
    int err = log_frame_init(&compaction->frame);
    if (err)
        return err;
    struct file file;
    err = log_write_whole(loop, folder, sequence, &file, compaction->summary.id, compaction_fill, compaction, bytes);
    if (!err)
        (void)fs_close(loop, &file);
    log_frame_fini(&compaction->frame);
    return err;
}

/* A log that could not be unlinked says twice what is dead: harmless. */
static void logs_unlink(struct loop *loop, const char *folder, const uint64_t *sequences, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *path = remove_log_path(folder, sequences[i]);
        if (path)
            (void)fs_unlink(loop, path);
        free(path);
    }
    (void)fs_sync_dir(loop, folder);
}

int remove_log_compact(struct loop *loop, const char *folder, const uint64_t *sequences, size_t count, const struct log_needs *needs,
                       struct log_summary *out, uint64_t *bytes)
{
    CHECK(count > 0);
    uint64_t seed;
    struct kill_map *map = NULL;
    int err = loop_random(loop, &seed, sizeof seed);
    if (!err)
        err = kill_map_new(&map, seed);
    for (size_t i = 0; i < count && !err; i++) {
        struct log_summary summary;
        uint64_t old_bytes;
        err = remove_log_load(loop, folder, sequences[i], map, &summary, &old_bytes);
    }
    struct compaction compaction = {.needs = needs, .map = map};
    uint64_t new_bytes = 0;
    if (!err)
        err = compaction_run(&compaction);
    bool empty = compaction.summary.entries == 0;
    if (!err && !empty)
        err = compaction_write(loop, folder, sequences[count - 1], &compaction, &new_bytes);
    if (!err) {
        logs_unlink(loop, folder, sequences, empty ? count : count - 1);
        *out = compaction.summary;
        *bytes = new_bytes;
    }
    kill_map_free(map);
    return err;
}
