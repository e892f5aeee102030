#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "client/kvctl/inspect.h"
#include "test/support/segment_image.h"
#include "tier/layout.h"
#include "tier/log_frame.h"
#include "tier/node_state.h"

enum { TEXT_BYTES = 400, MAX_TOLD = 16 };

/* A file in memory, and what was told of it. */
struct file {
    const uint8_t *at;
    size_t len;
    const char *name;
    uint64_t fail_at; /* reading this byte fails with EIO */
    uint64_t records, kills, wrong, notes;
    uint64_t states[INSPECT_UNNAMED + 1];
    uint64_t first_offset; /* of what is wrong */
    char first[TEXT_BYTES];
    char start[TEXT_BYTES];
    char keys[MAX_TOLD][16];
};

static int64_t file_read(void *arg, void *buf, uint64_t len, uint64_t offset)
{
    const struct file *file = arg;
    if (file->fail_at && offset <= file->fail_at && file->fail_at < offset + len)
        return -EIO;
    if (offset >= file->len)
        return 0;
    uint64_t got = min_u64(len, file->len - offset);
    memcpy(buf, file->at + offset, got);
    return (int64_t)got;
}

static void text(void *arg, const char *name, const char *value)
{
    struct file *file = arg;
    if (strcmp(name, "at_start") == 0)
        snprintf(file->start, sizeof file->start, "%s", value);
}

static void figure(void *arg, const char *name, enum inspect_unit unit, uint64_t value)
{
    (void)arg;
    (void)name;
    (void)unit;
    (void)value;
}

static void record(void *arg, const struct inspect_record *record)
{
    struct file *file = arg;
    if (file->records < MAX_TOLD)
        snprintf(file->keys[file->records], sizeof file->keys[0], "%.*s", (int)record->key.len, (const char *)record->key.at);
    file->records++;
    file->states[record->state]++;
}

static void killed(void *arg, const struct inspect_kill *kill)
{
    struct file *file = arg;
    cr_assert(strcmp(kill->kind, "all") == 0 || kill->name.len > 0);
    file->kills++;
}

static void remark(void *arg, bool harmless, uint64_t offset, const char *text)
{
    struct file *file = arg;
    file->notes += harmless;
    if (!harmless && file->wrong++ == 0) {
        file->first_offset = offset;
        snprintf(file->first, sizeof file->first, "%s", text);
    }
}

static int judge(struct file *file, const uint8_t *at, size_t len, const char *name, bool verify)
{
    static const struct inspect_events events = {text, figure, record, killed, remark};
    uint64_t fail_at = file->fail_at;
    *file = (struct file){.at = at, .len = len, .name = name, .fail_at = fail_at};
    const struct inspect_source source = {file_read, file, len, name};
    return inspect_run(&source, verify, 1000, &events, file);
}

static size_t image_bytes(bool sealed)
{
    return sealed ? IMAGE_SEALED_BYTES : IMAGE_FULL_BYTES;
}

static uint8_t image[IMAGE_FULL_BYTES];

static struct file good(bool sealed)
{
    struct file file = {0};
    segment_image(image, sealed);
    cr_assert_eq(judge(&file, image, image_bytes(sealed), IMAGE_NAME, true), 0);
    return file;
}

Test(inspect, a_sealed_segment)
{
    struct file file = good(true);
    cr_assert_eq(file.wrong, 0, "%s", file.first);
    cr_assert_eq(file.notes, 0);
    cr_assert_eq(file.states[INSPECT_INDEXED], 3);
    cr_assert_str_eq(file.keys[0], "small");
    cr_assert_str_eq(file.keys[1], "large");
    cr_assert_str_eq(file.keys[2], "last");
    cr_assert(strstr(file.start, "finds 3 records by its indexes and 0 by walking"), "%s", file.start);
}

Test(inspect, an_open_segment)
{
    struct file file = good(false);
    cr_assert_eq(file.wrong, 0, "%s", file.first);
    cr_assert_eq(file.states[INSPECT_INDEXED], 2);
    cr_assert_eq(file.states[INSPECT_WALKED], 1);
    cr_assert(strstr(file.start, "finds 2 records by its indexes, walks on from 40960 and finds 1 more"), "%s", file.start);
    cr_assert(strstr(file.start, "last index at 45056"), "%s", file.start);
}

/* There is no byte that may change without a word, and what is said of it lies no further on than it. */
static void flip_every_byte(bool sealed)
{
    struct file file = {0};
    segment_image(image, sealed);
    for (size_t at = 0; at < image_bytes(sealed); at++) {
        image[at] ^= 0x40;
        int err = judge(&file, image, image_bytes(sealed), IMAGE_NAME, true);
        cr_assert(err == 0, "byte %zu: %d", at, err);
        cr_assert_gt(file.wrong, 0, "byte %zu was changed and nothing is said", at);
        cr_assert_leq(file.first_offset, at, "byte %zu was changed, and offset %llu named: %s", at, (unsigned long long)file.first_offset,
                      file.first);
        image[at] ^= 0x40;
    }
}

Test(inspect, every_byte_of_a_sealed_segment_counts, .timeout = 120)
{
    flip_every_byte(true);
}

Test(inspect, every_byte_of_an_open_segment_counts, .timeout = 120)
{
    flip_every_byte(false);
}

Test(inspect, cut_off_anywhere, .timeout = 120)
{
    struct file file = {0};
    segment_image(image, true);
    for (size_t len = 0; len < IMAGE_SEALED_BYTES; len++) {
        cr_assert_eq(judge(&file, image, len, IMAGE_NAME, true), 0);
        cr_assert_gt(file.wrong, 0, "length %zu", len);
    }
}

/* With sums that are right, what is said is judged all the same. */
Test(inspect, any_byte_with_right_sums, .timeout = 120)
{
    struct file file = {0};
    for (size_t at = 0; at < IMAGE_SEALED_BYTES; at++) {
        for (unsigned value = 0x3f; value <= 0xff; value += 0xc0) {
            segment_image(image, true);
            image[at] = (uint8_t)value;
            segment_image_sum(image);
            cr_assert_eq(judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, false), 0);
        }
    }
}

Test(inspect, a_reading_that_fails_anywhere, .timeout = 120)
{
    struct file file = {0};
    segment_image(image, false);
    for (size_t at = 2 * BLOCK_BYTES; at < IMAGE_FULL_BYTES; at += 512) {
        file.fail_at = at;
        cr_assert_eq(judge(&file, image, IMAGE_FULL_BYTES, IMAGE_NAME, true), 0);
        cr_assert_gt(file.wrong, 0, "byte %zu", at);
    }
    file.fail_at = 100;
    cr_assert_eq(judge(&file, image, IMAGE_FULL_BYTES, IMAGE_NAME, true), -EIO);
}

Test(inspect, what_becomes_of_a_record)
{
    struct file file = good(true);
    image[IMAGE_LARGE_AT + BLOCK_BYTES + 100] ^= 1;
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.states[INSPECT_DAMAGED], 1);
    cr_assert_eq(file.states[INSPECT_INDEXED], 2);
    cr_assert_eq(file.first_offset, IMAGE_LARGE_AT + BLOCK_BYTES);
    cr_assert(strstr(file.first, "chunk 1 of 1"), "%s", file.first);
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, false);
    cr_assert_eq(file.wrong, 0, "values are not read then");

    segment_image(image, true);
    image[IMAGE_LARGE_AT + 20] ^= 1;
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.first_offset, IMAGE_LARGE_AT);
    cr_assert(strstr(file.first, "header whose sum is wrong"), "%s", file.first);
    cr_assert_eq(file.states[INSPECT_INDEXED], 2, "those after it are found by the index");
}

Test(inspect, without_its_index_a_stretch_is_walked)
{
    struct file file = good(true);
    image[IMAGE_INDEX_AT + 80] ^= 1;
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.wrong, 1);
    cr_assert_eq(file.first_offset, IMAGE_INDEX_AT);
    cr_assert(strstr(file.first, "the sum of its entries is wrong"), "%s", file.first);
    cr_assert_eq(file.states[INSPECT_WALKED], 2);
    cr_assert_eq(file.states[INSPECT_INDEXED], 1);

    image[IMAGE_INDEX_AT + 10] ^= 1; /* it cannot say how long it is any more: its slot does */
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.wrong, 1, "%s", file.first);
    cr_assert_eq(file.states[INSPECT_WALKED], 2);

    image[IMAGE_SMALL_AT + 300] ^= 1; /* padding: still found */
    image[IMAGE_LARGE_AT + BLOCK_BYTES] ^= 1;
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.states[INSPECT_WALKED], 1);
    cr_assert_eq(file.states[INSPECT_VOID], 1);

    image[IMAGE_LARGE_AT] ^= 1;
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.states[INSPECT_WALKED], 1);
    cr_assert_eq(file.states[INSPECT_VOID], 0);
    cr_assert(strstr(file.start, "is not found"), "%s", file.start);
}

Test(inspect, a_torn_tail)
{
    struct file file = good(false);
    image[IMAGE_LAST_AT + 60] ^= 1;
    judge(&file, image, IMAGE_FULL_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.first_offset, IMAGE_LAST_AT);
    cr_assert(strstr(file.first, "the tail is torn here"), "%s", file.first);
    cr_assert(strstr(file.start, "last index at 40960 and cuts it there"), "%s", file.start);

    segment_image(image, false);
    image[IMAGE_LAST_AT + 32] ^= 1; /* its sequence number */
    segment_image_sum(image);
    judge(&file, image, IMAGE_FULL_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.first_offset, IMAGE_LAST_AT);
    cr_assert(strstr(file.first, "out of its turn"), "%s", file.first);

    segment_image(image, false);
    image[IMAGE_FULL_BYTES - 1] = 1;
    judge(&file, image, IMAGE_FULL_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.first_offset, IMAGE_FULL_BYTES - 1);
}

Test(inspect, a_record_that_its_index_does_not_name)
{
    struct file file = {0};
    segment_image(image, true);
    /* The entry of "small" goes: "large" moves up. */
    uint8_t *entries = image + IMAGE_INDEX_AT + 72;
    memmove(entries, entries + 42 + 5, 42 + 5);
    memset(entries + 42 + 5, 0, 42 + 5);
    put_le64(image + IMAGE_INDEX_AT + 32, 42 + 5);
    put_le32(image + IMAGE_INDEX_AT + 12, 1);
    put_le32(image + BLOCK_BYTES + 12, 1);
    segment_image_sum(image);
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.wrong, 0, "%s", file.first);
    cr_assert_eq(file.states[INSPECT_UNNAMED], 1);
    cr_assert_eq(file.states[INSPECT_INDEXED], 2);
    memset(image + IMAGE_SMALL_AT, 0x55, BLOCK_BYTES);
    judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
    cr_assert_eq(file.wrong, 0, "a write that failed may leave anything");
    cr_assert_eq(file.notes, 1);
}

Test(inspect, an_entry_that_says_something_else)
{
    static const struct {
        size_t at;
        const char *said;
    } changes[] = {{8, "another version"}, {16, "another size"}, {24, "another size or sum"}, {32, "expires"}, {42, "another key"}};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct file file = {0};
        segment_image(image, true);
        image[IMAGE_INDEX_AT + 72 + changes[i].at] ^= 1;
        segment_image_sum(image);
        judge(&file, image, IMAGE_SEALED_BYTES, IMAGE_NAME, true);
        cr_assert_eq(file.first_offset, IMAGE_SMALL_AT);
        cr_assert(strstr(file.first, changes[i].said), "%zu: %s", i, file.first);
        cr_assert_eq(file.states[INSPECT_DAMAGED], 1);
    }
}

Test(inspect, names)
{
    struct file file = {0};
    segment_image(image, true);
    judge(&file, image, IMAGE_SEALED_BYTES, "0000000000000006.seg", true);
    cr_assert_gt(file.wrong, 0);
    cr_assert_str_eq(file.start, "kvd leaves it alone");
    judge(&file, image, IMAGE_SEALED_BYTES, "copy-of-it", true);
    cr_assert_eq(file.wrong, 0);
    cr_assert_eq(file.notes, 1);
}

Test(inspect, what_is_none_of_ours)
{
    struct file file = {0};
    cr_assert_eq(judge(&file, (const uint8_t *)"#!/bin/sh", 9, "x.sh", true), KVD_EFORMAT);
    cr_assert_eq(judge(&file, image, 0, "x", true), KVD_EFORMAT);
    cr_assert_eq(judge(&file, image, 0, IMAGE_NAME, true), 0, "told by its name");
    cr_assert_gt(file.wrong, 0);
}

/* ---- an object's own file ---- */

Test(inspect, chunks_are_named)
{
    enum { SIZE = 600 * 1024 };
    uint64_t sums[3];
    uint8_t *at = calloc(1, SIZE + 2 * BLOCK_BYTES);
    uint8_t *value = at + BLOCK_BYTES;
    memset(value, 7, SIZE);
    for (size_t i = 0; i < 3; i++)
        sums[i] = XXH3_64bits(value + i * RECORD_CHUNK_BYTES, i < 2 ? RECORD_CHUNK_BYTES : SIZE - 2 * RECORD_CHUNK_BYTES);
    struct record record = {.version = 3, .size = SIZE, .checksum = XXH3_64bits(value, SIZE), .key = span_text("k")};
    record_build(at, &record, sums);
    struct file file = {0};
    cr_assert_eq(judge(&file, at, BLOCK_BYTES + SIZE, "anything", true), 0);
    cr_assert_eq(file.wrong, 0, "%s", file.first);
    cr_assert_eq(file.notes, 1, "its name is none");
    cr_assert_eq(file.states[INSPECT_ALONE], 1);
    value[RECORD_CHUNK_BYTES + 5] ^= 1;
    judge(&file, at, BLOCK_BYTES + SIZE, "anything", true);
    cr_assert_eq(file.first_offset, BLOCK_BYTES + RECORD_CHUNK_BYTES);
    cr_assert(strstr(file.first, "chunk 2 of 3"), "%s", file.first);
    cr_assert_eq(file.states[INSPECT_DAMAGED], 1);
    value[RECORD_CHUNK_BYTES + 5] ^= 1;
    record.checksum ^= 1;
    record_build(at, &record, sums);
    judge(&file, at, BLOCK_BYTES + SIZE, "anything", true);
    cr_assert(strstr(file.first, "value whose sum is wrong"), "%s", file.first);
    record.checksum ^= 1;
    record_build(at, &record, sums);
    judge(&file, at, SIZE, "anything", true);
    cr_assert_gt(file.wrong, 0, "it ends early");
    judge(&file, at, SIZE + 2 * BLOCK_BYTES, "anything", true);
    cr_assert_gt(file.wrong, 0, "it goes on");
    free(at);
}

/* ---- remove logs ---- */

static size_t log_make(uint8_t *out)
{
    static const uint8_t id[DISK_ID_BYTES] = {1, 4, 1, 4, 2, 1, 3, 5};
    struct log_frame frame;
    size_t len = LOG_FRAMES_AT;
    cr_assert_eq(log_frame_init(&frame), 0);
    log_head_build(out, id, 7);
    for (uint64_t number = 0; number < 3; number++) {
        log_frame_clear(&frame);
        cr_assert(log_frame_add(&frame, KILL_KEY, span_text("key"), number + 10));
        cr_assert(log_frame_add(&frame, number == 1 ? KILL_ALL : KILL_PREFIX, span_text(number == 1 ? "" : "p/"), number + 10));
        uint32_t bytes = log_frame_finish(&frame, id, number);
        memcpy(out + len, frame.at, bytes);
        len += bytes;
    }
    log_frame_fini(&frame);
    return len;
}

Test(inspect, a_remove_log)
{
    static uint8_t log[4096];
    struct file file = {0};
    size_t len = log_make(log);
    cr_assert_eq(judge(&file, log, len, "removes-0000000000000007.log", true), 0);
    cr_assert_eq(file.wrong, 0, "%s", file.first);
    cr_assert_eq(file.kills, 6);
    cr_assert_str_eq(file.start, "kvd reads it");
    for (size_t at = 0; at < len; at++) {
        log[at] ^= 0x10;
        cr_assert_eq(judge(&file, log, len, "removes-0000000000000007.log", true), 0);
        cr_assert_gt(file.wrong, 0, "byte %zu", at);
        cr_assert_leq(file.first_offset, at);
        cr_assert_eq(file.kills, 6, "one damaged byte is survived");
        log[at] ^= 0x10;
    }
    for (size_t cut = 0; cut < len; cut++) {
        cr_assert_eq(judge(&file, log, cut, "removes-0000000000000007.log", true), 0);
        bool whole = cut == LOG_FRAMES_AT || cut == LOG_FRAMES_AT + 170 || cut == LOG_FRAMES_AT + 170 + 166;
        cr_assert(file.wrong > 0 || whole, "length %zu", cut);
    }
    judge(&file, log, len, "removes-0000000000000008.log", true);
    cr_assert_gt(file.wrong, 0);
    log[LOG_FRAMES_AT + 60] ^= 1; /* both copies of the first frame */
    log[LOG_FRAMES_AT + (len - LOG_FRAMES_AT) / 6 + 60] ^= 1;
    judge(&file, log, len, "removes-0000000000000007.log", true);
    cr_assert(strstr(file.start, "keeps its disk tier off"), "%s", file.start);
}

/* ---- the node file ---- */

Test(inspect, a_node_file)
{
    static uint8_t at[NODE_FILE_BYTES];
    struct file file = {0};
    struct node_state state = {.generation = 4, .ceiling = 1000};
    node_file_build(at, span_text("n1"), span_text("kvd"), &state);
    cr_assert_eq(judge(&file, at, sizeof at, "node", true), 0);
    cr_assert_eq(file.wrong, 0);
    for (size_t i = 0; i < sizeof at; i++) {
        at[i] ^= 2;
        judge(&file, at, sizeof at, "node", true);
        cr_assert_eq(file.wrong, 1, "byte %zu", i);
        cr_assert(strstr(file.start, "kvd reads it"));
        at[i] ^= 2;
    }
    at[50] ^= 1;
    at[BLOCK_BYTES + 50] ^= 1;
    judge(&file, at, sizeof at, "node", true);
    cr_assert(strstr(file.start, "keeps its disk tier off"));
}
