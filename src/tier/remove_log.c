#include "tier/remove_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"

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
static int frame_read(const struct log_reader *reader, const struct log_copy *copy, struct kill_map *map, struct log_summary *summary)
{
    struct log_entries entries = log_entries(reader, copy);
    struct log_entry entry;
    int next;
    while ((next = log_entries_next(&entries, &entry)) == LOG_ENTRY) {
        int err = kill_map_add(map, entry.kind, entry.name, entry.version);
        if (err)
            return err;
        summary_add(summary, entry.kind, entry.version);
    }
    return next < 0 ? next : 0;
}

int log_image_read(const uint8_t *at, size_t len, uint64_t sequence, struct kill_map *map, struct log_summary *out)
{
    struct log_summary summary = {.min_version = UINT64_MAX};
    struct log_head head;
    int err = log_head_parse(at, len, &head);
    if (!err && head.sequence != sequence)
        err = KVD_ECORRUPT;
    if (err)
        return err;
    memcpy(summary.id, head.id, DISK_ID_BYTES);
    struct log_reader reader = log_reader(at, len, summary.id);
    struct log_copy copy;
    int next;
    while ((next = log_reader_next(&reader, &copy)) == LOG_FRAME) {
        err = frame_read(&reader, &copy, map, &summary);
        if (err)
            return err;
    }
    if (next < 0)
        return next;
    summary.torn = next == LOG_TORN;
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
    else
        err = fs_sync(loop, &file); /* a killed process may have left entries that a power cut takes: what they kill is answered as gone */
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
