#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "test/support/quiet.h"
#include "test/support/scratch.h"
#include "tier/remove_log.h"

/* ---- the map ---- */

static struct kill_map *map_new(void)
{
    struct kill_map *map;
    cr_assert_eq(kill_map_new(&map, 17), 0);
    return map;
}

Test(kill_map, kinds)
{
    struct kill_map *map = map_new();
    cr_assert_eq(kill_map_add(map, KILL_KEY, span_text("a"), 10), 0);
    cr_assert_eq(kill_map_add(map, KILL_KEY, span_text("a"), 5), 0);
    cr_assert_eq(kill_map_add(map, KILL_PREFIX, span_text("pre/"), 20), 0);
    cr_assert_eq(kill_map_add(map, KILL_PREFIX, span_text("pre/x"), 30), 0);
    cr_assert(kill_map_dead(map, span_text("a"), 10));
    cr_assert_not(kill_map_dead(map, span_text("a"), 11));
    cr_assert_not(kill_map_dead(map, span_text("b"), 1));
    cr_assert(kill_map_dead(map, span_text("pre/"), 20));
    cr_assert(kill_map_dead(map, span_text("pre/y"), 20));
    cr_assert_not(kill_map_dead(map, span_text("pre/y"), 21));
    cr_assert(kill_map_dead(map, span_text("pre/xy"), 30));
    cr_assert_not(kill_map_dead(map, span_text("pre"), 1));
    cr_assert_eq(kill_map_max_version(map), 30);
    cr_assert_eq(kill_map_add(map, KILL_ALL, (struct span){0}, 15), 0);
    cr_assert(kill_map_dead(map, span_text("b"), 15));
    cr_assert_not(kill_map_dead(map, span_text("b"), 16));
    static const uint8_t id[DISK_ID_BYTES] = {9};
    cr_assert_not(kill_map_segment_dead(map, id));
    cr_assert_eq(kill_map_add(map, KILL_SEGMENT, span_of(id, sizeof id), 0), 0);
    cr_assert(kill_map_segment_dead(map, id));
    cr_assert_eq(kill_map_count(map), 5);
    kill_map_free(map);
}

Test(kill_map, many)
{
    struct kill_map *map = map_new();
    char key[32];
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(kill_map_add(map, KILL_KEY, span_text(key), i), 0);
    }
    for (unsigned i = 1; i < 20000; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert(kill_map_dead(map, span_text(key), i));
        cr_assert_not(kill_map_dead(map, span_text(key), i + 1));
    }
    kill_map_free(map);
}

/* ---- images ---- */

struct image {
    uint8_t *at;
    size_t len;
    size_t frame_at[16];
    unsigned frames;
};

static const uint8_t log_id[DISK_ID_BYTES] = {0xa1, 0xb2, 0xc3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
enum { SEQUENCE = 3 };

static void image_add(struct image *image, const struct log_frame *frame, uint32_t bytes)
{
    image->frame_at[image->frames++] = image->len;
    memcpy(image->at + image->len, frame->at, bytes);
    image->len += bytes;
}

/* Three frames: a key; a prefix, all and a segment; another key. */
static struct image image_make(void)
{
    struct image image = {.at = calloc(1, 8192)};
    struct log_frame frame;
    cr_assert_eq(log_frame_init(&frame), 0);
    log_head_build(image.at, log_id, SEQUENCE);
    image.len = LOG_FRAMES_AT;
    cr_assert(log_frame_add(&frame, KILL_KEY, span_text("first"), 100));
    image_add(&image, &frame, log_frame_finish(&frame, log_id, 0));
    log_frame_clear(&frame);
    cr_assert(log_frame_add(&frame, KILL_PREFIX, span_text("pre/"), 200));
    cr_assert(log_frame_add(&frame, KILL_ALL, (struct span){0}, 50));
    cr_assert(log_frame_add(&frame, KILL_SEGMENT, span_of(log_id, sizeof log_id), 0));
    image_add(&image, &frame, log_frame_finish(&frame, log_id, 1));
    log_frame_clear(&frame);
    cr_assert(log_frame_add(&frame, KILL_KEY, span_text("last"), 300));
    image_add(&image, &frame, log_frame_finish(&frame, log_id, 2));
    log_frame_fini(&frame);
    return image;
}

static int image_read(const struct image *image, struct kill_map **map, struct log_summary *summary)
{
    *map = map_new();
    return log_image_read(image->at, image->len, SEQUENCE, *map, summary);
}

static void check_whole(const struct kill_map *map)
{
    cr_assert(kill_map_dead(map, span_text("first"), 100));
    cr_assert(kill_map_dead(map, span_text("pre/x"), 200));
    cr_assert(kill_map_dead(map, span_text("whatever"), 50));
    cr_assert(kill_map_segment_dead(map, log_id));
    cr_assert(kill_map_dead(map, span_text("last"), 300));
    cr_assert_eq(kill_map_count(map), 5);
}

Test(remove_log, there_and_back)
{
    struct image image = image_make();
    struct kill_map *map;
    struct log_summary summary;
    cr_assert_eq(image_read(&image, &map, &summary), 0);
    check_whole(map);
    cr_assert_eq(summary.entries, 5);
    cr_assert_eq(summary.segment_entries, 1);
    cr_assert_eq(summary.min_version, 50);
    cr_assert_eq(summary.max_version, 300);
    cr_assert_not(summary.torn);
    kill_map_free(map);
    free(image.at);
}

Test(remove_log, any_flipped_byte_hurts_nothing)
{
    struct image image = image_make();
    for (size_t i = 0; i < image.len; i++)
        for (unsigned bit = 0; bit < 8; bit += 3) {
            struct kill_map *map;
            struct log_summary summary;
            image.at[i] ^= (uint8_t)(1 << bit);
            cr_assert_eq(image_read(&image, &map, &summary), 0, "byte %zu", i);
            check_whole(map);
            kill_map_free(map);
            image.at[i] ^= (uint8_t)(1 << bit);
        }
    free(image.at);
}

Test(remove_log, a_cut_anywhere_loses_only_what_follows)
{
    struct image image = image_make();
    size_t whole = image.len;
    for (image.len = LOG_HEAD_BYTES; image.len < whole; image.len++) {
        struct kill_map *map;
        struct log_summary summary;
        cr_assert_eq(image_read(&image, &map, &summary), 0, "cut at %zu", image.len);
        for (unsigned f = 0; f < image.frames; f++) {
            size_t copy = ((f + 1 < image.frames ? image.frame_at[f + 1] : whole) - image.frame_at[f]) / 2;
            bool there = image.len >= image.frame_at[f] + copy;
            bool dead = f == 0   ? kill_map_dead(map, span_text("first"), 100)
                        : f == 1 ? kill_map_segment_dead(map, log_id)
                                 : kill_map_dead(map, span_text("last"), 300);
            cr_assert_eq(dead, there, "frame %u cut at %zu", f, image.len);
        }
        kill_map_free(map);
    }
    free(image.at);
}

Test(remove_log, both_copies_of_a_frame_before_another_one)
{
    struct image image = image_make();
    size_t copy = (image.frame_at[2] - image.frame_at[1]) / 2;
    image.at[image.frame_at[1] + 60] ^= 1;
    image.at[image.frame_at[1] + copy + 60] ^= 1;
    struct kill_map *map;
    struct log_summary summary;
    cr_assert_eq(image_read(&image, &map, &summary), KVD_ECORRUPT);
    kill_map_free(map);
    /* Their lengths gone, too. */
    memset(image.at + image.frame_at[1], 0, LOG_FRAME_HEAD_BYTES);
    memset(image.at + image.frame_at[1] + copy, 0, LOG_FRAME_HEAD_BYTES);
    cr_assert_eq(image_read(&image, &map, &summary), KVD_ECORRUPT);
    kill_map_free(map);
    free(image.at);
}

Test(remove_log, both_copies_of_the_last_frame_are_a_torn_tail)
{
    struct image image = image_make();
    size_t copy = (image.len - image.frame_at[2]) / 2;
    image.at[image.frame_at[2] + 60] ^= 1;
    image.at[image.frame_at[2] + copy + 60] ^= 1;
    struct kill_map *map;
    struct log_summary summary;
    cr_assert_eq(image_read(&image, &map, &summary), 0);
    cr_assert(summary.torn);
    cr_assert(kill_map_segment_dead(map, log_id));
    cr_assert_not(kill_map_dead(map, span_text("last"), 300));
    kill_map_free(map);
    free(image.at);
}

Test(remove_log, headers)
{
    struct image image = image_make();
    struct kill_map *map = map_new();
    struct log_summary summary;
    cr_assert_eq(log_image_read(image.at, image.len, SEQUENCE + 1, map, &summary), KVD_ECORRUPT, "another log's name");
    cr_assert_eq(log_image_read(image.at, 0, SEQUENCE, map, &summary), KVD_ECORRUPT, "empty");
    put_le16(image.at + 4, 2);
    cr_assert_eq(log_image_read(image.at, image.len, SEQUENCE, map, &summary), 0, "one copy may be off");
    put_le16(image.at + LOG_HEAD_BYTES + 4, 2);
    cr_assert_eq(log_image_read(image.at, image.len, SEQUENCE, map, &summary), KVD_EFORMAT, "a newer format");
    image.at[0] = image.at[LOG_HEAD_BYTES] = 'x';
    cr_assert_eq(log_image_read(image.at, image.len, SEQUENCE, map, &summary), KVD_ECORRUPT);
    kill_map_free(map);
    free(image.at);
}

Test(remove_log, a_key_cannot_forge_a_frame)
{
    /* A key that holds a whole frame of another log is not taken for one when its own frame is damaged. */
    struct image image = {.at = calloc(1, 65536)};
    struct log_frame inner, outer;
    cr_assert_eq(log_frame_init(&inner), 0);
    cr_assert_eq(log_frame_init(&outer), 0);
    uint8_t other[DISK_ID_BYTES] = {1};
    cr_assert(log_frame_add(&inner, KILL_ALL, (struct span){0}, UINT64_MAX));
    uint32_t inner_bytes = log_frame_finish(&inner, other, 1);
    log_head_build(image.at, log_id, SEQUENCE);
    image.len = LOG_FRAMES_AT;
    cr_assert(log_frame_add(&outer, KILL_KEY, span_of(inner.at, inner_bytes), 1));
    image_add(&image, &outer, log_frame_finish(&outer, log_id, 0));
    image.at[image.frame_at[0] + 8] ^= 1;
    image.at[image.frame_at[0] + (image.len - image.frame_at[0]) / 2 + 8] ^= 1;
    struct kill_map *map;
    struct log_summary summary;
    cr_assert_eq(image_read(&image, &map, &summary), 0);
    cr_assert(summary.torn);
    cr_assert_eq(kill_map_count(map), 0);
    kill_map_free(map);
    log_frame_fini(&inner);
    log_frame_fini(&outer);
    free(image.at);
}

Test(remove_log, a_frame_is_bounded)
{
    struct log_frame frame;
    cr_assert_eq(log_frame_init(&frame), 0);
    char key[1000];
    memset(key, 'k', sizeof key);
    unsigned count = 0;
    while (log_frame_add(&frame, KILL_KEY, span_of(key, sizeof key), 1))
        count++;
    cr_assert_eq(count, LOG_PAYLOAD_MAX_BYTES / (LOG_ENTRY_HEAD_BYTES + sizeof key));
    cr_assert_leq(log_frame_finish(&frame, log_id, 0), 2 * (LOG_FRAME_HEAD_BYTES + LOG_PAYLOAD_MAX_BYTES));
    log_frame_fini(&frame);
}

/* ---- files ---- */

struct folder {
    char path[200];
    struct loop *loop;
};

static void folder_init(struct folder *folder)
{
    scratch_folder(folder->path, sizeof folder->path);
    struct loop_options options = {0};
    cr_assert_eq(loop_new(&folder->loop, &options, &quiet), 0);
}

static void folder_fini(struct folder *folder)
{
    loop_free(folder->loop);
    scratch_remove(folder->path);
}

static void log_fill(struct folder *folder, uint64_t sequence, unsigned from, unsigned to)
{
    struct file file;
    uint8_t id[DISK_ID_BYTES];
    cr_assert_eq(remove_log_create(folder->loop, folder->path, sequence, &file, id), 0);
    struct log_frame frame;
    cr_assert_eq(log_frame_init(&frame), 0);
    uint64_t at = LOG_FRAMES_AT;
    for (unsigned i = from; i < to; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        log_frame_clear(&frame);
        cr_assert(log_frame_add(&frame, KILL_KEY, span_text(key), i));
        uint32_t bytes = log_frame_finish(&frame, id, i - from);
        cr_assert_eq(fs_write(folder->loop, &file, frame.at, bytes, at), 0);
        at += bytes;
    }
    log_frame_fini(&frame);
    fs_close(folder->loop, &file);
}

static bool log_there(const struct folder *folder, uint64_t sequence)
{
    char *path = remove_log_path(folder->path, sequence);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

Test(remove_log, compaction_keeps_what_is_needed)
{
    struct folder folder;
    folder_init(&folder);
    log_fill(&folder, 1, 100, 200);
    log_fill(&folder, 2, 150, 250);
    log_fill(&folder, 4, 10, 20);
    static const uint64_t sequences[] = {1, 2, 4};
    struct log_needs needs = {.min_version = 160};
    struct log_summary summary;
    uint64_t bytes;
    cr_assert_eq(remove_log_compact(folder.loop, folder.path, sequences, 3, &needs, &summary, &bytes), 0);
    cr_assert_eq(summary.entries, 90);
    cr_assert_eq(summary.min_version, 160);
    cr_assert_eq(summary.max_version, 249);
    cr_assert_not(log_there(&folder, 1));
    cr_assert_not(log_there(&folder, 2));
    cr_assert(log_there(&folder, 4));
    struct kill_map *map = map_new();
    uint64_t read_bytes;
    cr_assert_eq(remove_log_load(folder.loop, folder.path, 4, map, &summary, &read_bytes), 0);
    cr_assert_eq(read_bytes, bytes);
    for (unsigned i = 10; i < 250; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(kill_map_dead(map, span_text(key), i), i >= 160, "%u", i);
    }
    kill_map_free(map);
    needs.min_version = 250;
    cr_assert_eq(remove_log_compact(folder.loop, folder.path, sequences + 2, 1, &needs, &summary, &bytes), 0);
    cr_assert_eq(bytes, 0);
    cr_assert_not(log_there(&folder, 4));
    folder_fini(&folder);
}

Test(remove_log, compaction_of_a_damaged_log_changes_nothing)
{
    struct folder folder;
    folder_init(&folder);
    log_fill(&folder, 1, 100, 200);
    char *path = remove_log_path(folder.path, 1);
    FILE *file = fopen(path, "r+b");
    cr_assert(file && fseek(file, LOG_FRAMES_AT, SEEK_SET) == 0);
    char zeros[400] = {0};
    cr_assert_eq(fwrite(zeros, 1, sizeof zeros, file), sizeof zeros);
    fclose(file);
    static const uint64_t sequences[] = {1};
    struct log_needs needs = {0};
    struct log_summary summary;
    uint64_t bytes;
    cr_assert_eq(remove_log_compact(folder.loop, folder.path, sequences, 1, &needs, &summary, &bytes), KVD_ECORRUPT);
    cr_assert(log_there(&folder, 1));
    free(path);
    folder_fini(&folder);
}

Test(remove_log, compaction_and_segments)
{
    struct folder folder;
    folder_init(&folder);
    struct file file;
    uint8_t id[DISK_ID_BYTES];
    uint8_t segments[2][DISK_ID_BYTES] = {{1}, {2}};
    cr_assert_eq(remove_log_create(folder.loop, folder.path, 1, &file, id), 0);
    struct log_frame frame;
    cr_assert_eq(log_frame_init(&frame), 0);
    cr_assert(log_frame_add(&frame, KILL_SEGMENT, span_of(segments[0], DISK_ID_BYTES), 0));
    cr_assert(log_frame_add(&frame, KILL_SEGMENT, span_of(segments[1], DISK_ID_BYTES), 0));
    uint32_t len = log_frame_finish(&frame, id, 0);
    cr_assert_eq(fs_write(folder.loop, &file, frame.at, len, LOG_FRAMES_AT), 0);
    fs_close(folder.loop, &file);
    log_frame_fini(&frame);
    static const uint64_t sequences[] = {1};
    struct log_needs needs = {.keep_all_segments = true};
    struct log_summary summary;
    uint64_t bytes;
    cr_assert_eq(remove_log_compact(folder.loop, folder.path, sequences, 1, &needs, &summary, &bytes), 0);
    cr_assert_eq(summary.segment_entries, 2);
    needs = (struct log_needs){.segments = &segments[1], .segment_count = 1};
    cr_assert_eq(remove_log_compact(folder.loop, folder.path, sequences, 1, &needs, &summary, &bytes), 0);
    cr_assert_eq(summary.segment_entries, 1);
    struct kill_map *map = map_new();
    cr_assert_eq(remove_log_load(folder.loop, folder.path, 1, map, &summary, &bytes), 0);
    cr_assert_not(kill_map_segment_dead(map, segments[0]));
    cr_assert(kill_map_segment_dead(map, segments[1]));
    kill_map_free(map);
    folder_fini(&folder);
}
