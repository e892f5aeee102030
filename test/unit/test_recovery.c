/* What a start makes of segments that were cut off, damaged or forged: never a wrong byte, never a crash, and no more lost than must be. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"
#include "test/support/disk_rig.h"
#include "tier/index.h"
#include "tier/layout.h"

static const uint64_t sizes[] = {10, 0, 5000, 3000, 70000, 300000, 1, 12288};
enum { RECORDS = sizeof sizes / sizeof sizes[0] };

static const char *key_of(unsigned i)
{
    static const char *const keys[] = {"r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7"};
    return keys[i];
}

static void put_records(struct rig *rig)
{
    for (unsigned i = 0; i < RECORDS; i++)
        cr_assert_eq(rig_put(rig, key_of(i), sizes[i]), 0);
}

/* Wrong bytes are never an answer. Returns how many can be read. */
static unsigned readable(struct rig *rig)
{
    unsigned count = 0;
    for (unsigned i = 0; i < RECORDS; i++) {
        int err = rig_get(rig, key_of(i));
        cr_assert_neq(err, 1, "wrong bytes of %s", key_of(i));
        cr_assert(err == 0 || err == -ENOENT || err == KVD_ECORRUPT || err == KVD_ESHORT, "%s: %d", key_of(i), err);
        if (err == 0)
            cr_assert_eq(rig_object(rig, key_of(i))->size, sizes[i]);
        count += err == 0;
    }
    return count;
}

/* ---- torn tails ---- */

enum damage { DAMAGE_ZEROS, DAMAGE_CUT, DAMAGE_GARBAGE, DAMAGES };

static void damage_from(const char *path, uint64_t at, enum damage damage)
{
    if (damage == DAMAGE_CUT) {
        CHECK(truncate(path, (off_t)at) == 0);
        return;
    }
    size_t len;
    uint8_t *bytes = rig_file_load(path, &len);
    for (uint64_t i = at; i < len; i++)
        bytes[i] = damage == DAMAGE_ZEROS ? 0 : (uint8_t)(i * 131 + 7);
    rig_file_store(path, bytes, len);
    free(bytes);
}

/* Where records begin and end, as the first rig knows them. */
struct extent {
    uint64_t from, to;
};

static void check_torn(const struct rig *rig, const struct extent *extents, uint64_t at, enum damage damage)
{
    struct rig copy;
    char path[700];
    rig_init_copy(&copy, rig);
    cr_assert(rig_file(&copy, ".seg", 0, path, sizeof path));
    damage_from(path, at, damage);
    for (unsigned restart = 0; restart < 2; restart++) {
        cr_assert_eq(rig_open(&copy), 0);
        for (unsigned i = 0; i < RECORDS; i++) {
            /* Bytes after the value's end, up to the next block, are padding: nobody misses them. */
            bool whole = extents[i].to <= at;
            int err = rig_get(&copy, key_of(i));
            if (whole)
                cr_assert_eq(err, 0, "%s, cut at %lu, damage %d: %d", key_of(i), (unsigned long)at, damage, err);
            else
                cr_assert(err == -ENOENT || err == 0, "%s, cut at %lu, damage %d: %d", key_of(i), (unsigned long)at, damage, err);
        }
        if (restart == 1)
            cr_assert_eq(rig_figures(&copy).recovered_walked, 0, "it got its index");
        cr_assert_eq(rig_put(&copy, "new", 777), 0);
        rig_close(&copy);
    }
    rig_fini(&copy);
}

Test(recovery, a_tail_torn_at_any_block, .timeout = 240)
{
    struct rig rig;
    struct extent extents[RECORDS];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_records(&rig);
    uint64_t end = 0;
    for (unsigned i = 0; i < RECORDS; i++) {
        const struct disk_where *where = &rig_object(&rig, key_of(i))->where;
        extents[i] = (struct extent){(uint64_t)where->block * 4096, ((uint64_t)where->block + where->blocks) * 4096};
        end = extents[i].to;
    }
    /* Every boundary of a block near a record's ends, some in between, and the middle of blocks. */
    for (uint64_t at = extents[0].from; at <= end; at += 4096) {
        bool near = false;
        for (unsigned i = 0; i < RECORDS; i++)
            near |= at + 4096 >= extents[i].from && at <= extents[i].from + 4096;
        if (!near && (at / 4096) % 16 != 0)
            continue;
        check_torn(&rig, extents, at, (enum damage)((at / 4096) % DAMAGES));
        check_torn(&rig, extents, at + 50 + (at / 4096) % 3000, (enum damage)((at / 4096 + 1) % DAMAGES));
    }
    rig_fini(&rig);
}

Test(recovery, a_hole_before_a_whole_record)
{
    /* Appends complete in any order: what follows a hole is dropped, and does not come back when the hole is filled. */
    struct rig rig, copy;
    char path[700];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_records(&rig);
    struct disk_where where = rig_object(&rig, key_of(2))->where;
    rig_init_copy(&copy, &rig);
    cr_assert(rig_file(&copy, ".seg", 0, path, sizeof path));
    size_t len;
    uint8_t *bytes = rig_file_load(path, &len);
    memset(bytes + (size_t)where.block * 4096, 0, (size_t)where.blocks * 4096);
    rig_file_store(path, bytes, len);
    free(bytes);
    for (unsigned restart = 0; restart < 3; restart++) {
        cr_assert_eq(rig_open(&copy), 0);
        cr_assert_eq(copy.object_count, 2);
        cr_assert_eq(readable(&copy), 2);
        rig_close(&copy);
    }
    rig_fini(&copy);
    rig_fini(&rig);
}

static uint8_t *block_load(const char *path, uint64_t block)
{
    uint8_t *at = malloc(4096);
    FILE *file = fopen(path, "rb");
    CHECK(at && file && fseek(file, (long)block * 4096, SEEK_SET) == 0 && fread(at, 1, 4096, file) == 4096);
    fclose(file);
    return at;
}

static void block_store(const char *path, uint64_t block, const uint8_t *at)
{
    FILE *file = fopen(path, "r+b");
    CHECK(file && fseek(file, (long)block * 4096, SEEK_SET) == 0 && fwrite(at, 1, 4096, file) == 4096);
    CHECK(fclose(file) == 0);
}

Test(recovery, a_filled_hole_brings_nothing_back)
{
    /* Power goes after recovery wrote its index over a hole of its size, and before the file was cut: what followed the hole was dropped
     * once, so kills of it may be forgotten. */
    static const uint8_t zeros[4096];
    struct rig rig, first, second;
    char path[700];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_records(&rig);
    uint64_t hole = rig_object(&rig, key_of(1))->where.block;
    rig_init_copy(&first, &rig);
    rig_init_copy(&second, &rig);
    cr_assert(rig_file(&first, ".seg", 0, path, sizeof path));
    block_store(path, hole, zeros);
    cr_assert_eq(rig_open(&first), 0);
    cr_assert_eq(first.object_count, 1);
    uint8_t *index = block_load(path, hole);
    struct index_head head;
    cr_assert_eq(index_parse(index, 4096, &head), 0);
    cr_assert(rig_file(&second, ".seg", 0, path, sizeof path));
    block_store(path, hole, index);
    free(index);
    cr_assert_eq(rig_open(&second), 0);
    cr_assert_eq(second.object_count, 1);
    cr_assert_eq(rig_get(&second, key_of(0)), 0);
    rig_fini(&first);
    rig_fini(&second);
    rig_fini(&rig);
}

/* ---- flipped bytes ---- */

static void check_flip(const struct rig *rig, uint64_t at, unsigned at_least)
{
    struct rig copy;
    char path[700];
    rig_init_copy(&copy, rig);
    cr_assert(rig_file(&copy, ".seg", 0, path, sizeof path));
    rig_file_flip(path, at, (uint8_t)(1 << at % 8));
    for (unsigned restart = 0; restart < 2; restart++) {
        cr_assert_eq(rig_open(&copy), 0, "byte %lu", (unsigned long)at);
        cr_assert_geq(readable(&copy), at_least, "byte %lu", (unsigned long)at);
        rig_close(&copy);
    }
    rig_fini(&copy);
}

Test(recovery, a_flipped_byte_in_a_sealed_segment, .timeout = 240)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_records(&rig);
    cr_assert_eq(rig_seal(&rig), 0);
    uint64_t bytes = rig_files_bytes(&rig, ".seg");
    /* The header: the segment is left alone. A slot or the index: nothing is lost. A record: that one at most. */
    for (uint64_t at = 0; at < 120; at += 7)
        check_flip(&rig, at, 0);
    for (uint64_t at = 4096; at < 4096 + 60; at += 5)
        check_flip(&rig, at, RECORDS);
    for (uint64_t at = bytes - 4096; at < bytes - 4096 + 72 + 8 * 44; at += 9)
        check_flip(&rig, at, RECORDS);
    for (unsigned i = 0; i < RECORDS; i++) {
        uint64_t from = (uint64_t)rig_object(&rig, key_of(i))->where.block * 4096;
        uint64_t len = (uint64_t)rig_object(&rig, key_of(i))->where.blocks * 4096;
        for (uint64_t at = 0; at < 130; at += 11)
            check_flip(&rig, from + at, RECORDS - 1);
        for (uint64_t at = 130; at < len; at += len / 5 + 13)
            check_flip(&rig, from + at, RECORDS - 1);
    }
    rig_fini(&rig);
}

Test(recovery, a_flipped_byte_in_an_open_segment, .timeout = 240)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_records(&rig);
    /* A header that is damaged ends the walk; a value that is damaged loses itself. */
    for (unsigned i = 0; i < RECORDS; i++) {
        uint64_t from = (uint64_t)rig_object(&rig, key_of(i))->where.block * 4096;
        uint64_t len = (uint64_t)rig_object(&rig, key_of(i))->where.blocks * 4096;
        uint32_t header_bytes = record_shape(2, sizes[i]).header_bytes;
        for (uint64_t at = 0; at < header_bytes; at += 13)
            check_flip(&rig, from + at, i);
        for (uint64_t at = header_bytes; at < len; at += len / 4 + 17)
            check_flip(&rig, from + at, RECORDS - 1);
    }
    rig_fini(&rig);
}

/* ---- indexes of a longer segment ---- */

enum { LONG_RECORDS = 42 };

static void put_long(struct rig *rig)
{
    char key[32];
    rig->limit_bytes = 256 << 20;
    rig->segment_bytes = 64 << 20;
    cr_assert_eq(rig_open(rig), 0);
    for (unsigned i = 0; i < LONG_RECORDS; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(rig_put(rig, key, 1 << 20), 0);
    }
    rig_settle(rig);
}

static uint64_t index_block(const char *path, uint32_t ordinal)
{
    uint8_t *block = malloc(4096);
    FILE *file = fopen(path, "rb");
    struct layout_head head;
    struct layout_slot slot;
    CHECK(block && file && fread(block, 1, 4096, file) == 4096 && layout_head_parse(block, &head) == 0);
    CHECK(fseek(file, 4096 * (1 + (long)ordinal), SEEK_SET) == 0 && fread(block, 1, 4096, file) == 4096);
    CHECK(layout_slot_parse(block, head.id, ordinal, &slot) == 0);
    fclose(file);
    free(block);
    return slot.block;
}

static void check_long(struct rig *rig, uint64_t walked)
{
    char key[32];
    cr_assert_eq(rig_open(rig), 0);
    cr_assert_eq(rig->object_count, LONG_RECORDS);
    cr_assert_eq(rig_figures(rig).recovered_walked, walked, "walked %lu", (unsigned long)rig_figures(rig).recovered_walked);
    for (unsigned i = 0; i < LONG_RECORDS; i += 5) {
        snprintf(key, sizeof key, "key-%u", i);
        cr_assert_eq(rig_get(rig, key), 0);
    }
    rig_close(rig);
}

static void check_long_damage(const struct rig *rig, bool slot, bool index_head, bool index_payload, uint32_t ordinal, uint64_t walked,
                              uint64_t walked_again)
{
    struct rig copy;
    char path[700];
    rig_init_copy(&copy, rig);
    cr_assert(rig_file(&copy, ".seg", 0, path, sizeof path));
    uint64_t at = index_block(path, ordinal) * 4096;
    if (slot)
        rig_file_flip(path, 4096 * (1 + (uint64_t)ordinal) + 33, 1);
    if (index_head)
        rig_file_flip(path, at + 20, 1);
    if (index_payload)
        rig_file_flip(path, at + 100, 1);
    check_long(&copy, walked);
    check_long(&copy, walked_again);
    rig_fini(&copy);
}

Test(recovery, a_damaged_index_of_a_sealed_segment, .timeout = 240)
{
    struct rig rig;
    rig_init(&rig);
    put_long(&rig);
    cr_assert_eq(rig_seal(&rig), 0);
    check_long_damage(&rig, false, false, false, 0, 0, 0);
    check_long_damage(&rig, true, false, false, 0, 16, 16);
    check_long_damage(&rig, false, true, false, 0, 16, 16);
    check_long_damage(&rig, true, true, true, 0, 16, 16);
    check_long_damage(&rig, false, false, true, 1, 16, 16);
    /* The last one is made again. */
    check_long_damage(&rig, true, false, false, 2, 10, 0);
    check_long_damage(&rig, false, true, false, 2, 10, 0);
    check_long_damage(&rig, true, true, true, 2, 10, 0);
    rig_fini(&rig);
}

Test(recovery, a_damaged_index_of_an_open_segment, .timeout = 240)
{
    struct rig rig;
    rig_init(&rig);
    put_long(&rig);
    check_long_damage(&rig, false, false, false, 0, 10, 0);
    check_long_damage(&rig, true, false, false, 0, 26, 16);
    check_long_damage(&rig, false, false, true, 1, 26, 0);
    check_long_damage(&rig, true, false, false, 1, 26, 0);
    check_long_damage(&rig, false, true, true, 1, 26, 0);
    rig_fini(&rig);
}

/* ---- forged records ---- */

static void write_ended(struct disk_write *write, int err)
{
    (void)write;
    CHECK(err == 0);
}

/* A value that is nothing but whole records of this very segment, each right where a walker that searched would look. */
static struct blob *forged_blob(struct rig *rig, const char *segment_path, uint64_t size, uint64_t first_sequence)
{
    struct layout_head head;
    size_t len;
    uint8_t *file = rig_file_load(segment_path, &len);
    CHECK(layout_head_parse(file, &head) == 0);
    struct blob *blob = blob_new(rig->pool, size);
    CHECK(blob_grow_all(blob) == 0 && blob_sums_make(blob) == 0);
    for (uint64_t at = 0; at < size; at += 4096) {
        size_t run;
        struct record record = {.sequence = first_sequence + at / 4096 % 3, .version = 1, .size = 0, .key = span_text("forged")};
        record.checksum = XXH3_64bits("", 0);
        memcpy(record.segment_id, head.id, DISK_ID_BYTES);
        record_build(blob_at(blob, at, &run), &record, NULL);
    }
    uint64_t *sums = blob_sums(blob);
    for (uint64_t i = 0; sums && i < blob_chunks(blob); i++) {
        size_t run;
        sums[i] = XXH3_64bits(blob_at(blob, i * POOL_CHUNK_BYTES, &run), POOL_CHUNK_BYTES);
    }
    free(file);
    return blob;
}

static void check_forged(const struct rig *rig, uint64_t flip_at, bool expect_carrier)
{
    struct rig copy;
    char path[700];
    rig_init_copy(&copy, rig);
    cr_assert(rig_file(&copy, ".seg", 0, path, sizeof path));
    if (flip_at)
        rig_file_flip(path, flip_at, 1);
    for (unsigned restart = 0; restart < 2; restart++) {
        cr_assert_eq(rig_open(&copy), 0);
        cr_assert_not(rig_object(&copy, "forged"));
        cr_assert_eq(rig_object(&copy, "carrier") != NULL, expect_carrier);
        cr_assert_eq(rig_get(&copy, "before"), 0);
        rig_close(&copy);
    }
    rig_fini(&copy);
}

Test(recovery, records_forged_inside_a_value, .timeout = 60)
{
    struct rig rig;
    char path[700];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "before", 5000), 0);
    cr_assert(rig_file(&rig, ".seg", 0, path, sizeof path));
    const uint64_t size = 2 * POOL_CHUNK_BYTES;
    struct blob *blob = forged_blob(&rig, path, size, 1);
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    for (uint64_t at = 0; at < size; at += 4096) {
        size_t run;
        XXH3_64bits_update(state, blob_at(blob, at, &run), 4096);
    }
    struct disk_write write = {
        .key = span_text("carrier"), .version = disk_next_version(rig.disk), .checksum = XXH3_64bits_digest(state), .blob = blob};
    XXH3_freeState(state);
    cr_assert_eq(disk_write_start(rig.disk, &write, write_ended), 0);
    rig_settle(&rig);
    cr_assert_eq(rig_put(&rig, "after", 5000), 0);
    uint64_t carrier = (uint64_t)write.where.block * 4096;
    check_forged(&rig, 0, true);
    check_forged(&rig, carrier + 4096 + 100000, false); /* its value */
    check_forged(&rig, carrier + 20, false);            /* its header */
    check_forged(&rig, carrier, false);
    blob_unref(blob);
    rig_fini(&rig);
}

Test(recovery, a_record_of_another_segment_is_none_of_ours)
{
    /* Blocks of one segment copied into another: their id gives them away. */
    struct rig rig, copy;
    char from[700], to[700];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "first", 5000), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(rig_put(&rig, "second", 5000), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "nothing"), 0);
    rig_init_copy(&copy, &rig);
    cr_assert(rig_file(&copy, ".seg", 0, from, sizeof from) && rig_file(&copy, ".seg", 1, to, sizeof to));
    size_t from_len, to_len;
    uint8_t *from_bytes = rig_file_load(from, &from_len);
    uint8_t *to_bytes = rig_file_load(to, &to_len);
    uint64_t block = rig_object(&rig, "first")->where.block;
    memcpy(to_bytes + block * 4096, from_bytes + block * 4096, 3 * 4096);
    rig_file_store(to, to_bytes, to_len);
    cr_assert_eq(unlink(from), 0);
    free(from_bytes);
    free(to_bytes);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_eq(copy.object_count, 0);
    rig_fini(&copy);
    rig_fini(&rig);
}

/* ---- the process itself is killed ---- */

#include <signal.h>
#include <sys/wait.h>

static _Noreturn void child_run(struct rig *rig, int out)
{
    if (rig_open(rig) != 0)
        _exit(2);
    for (unsigned i = 0; i < 100000; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        if (rig_put(rig, key, 3000 + i * 37) != 0 || (i % 3 == 0 && rig_kill(rig, KILL_KEY, key) != 0))
            _exit(3);
        if (write(out, &i, sizeof i) != sizeof i)
            _exit(4);
    }
    _exit(5);
}

Test(recovery, kill_9_at_any_moment, .timeout = 120)
{
    for (unsigned round = 0; round < 8; round++) {
        struct rig rig;
        int ends[2];
        rig_init(&rig);
        rig.limit_bytes = 512 << 20;
        cr_assert_eq(pipe(ends), 0);
        pid_t child = fork();
        if (child == 0)
            child_run(&rig, ends[1]);
        close(ends[1]);
        unsigned last = 0;
        for (unsigned i = 0; i < 20 + 13 * round; i++)
            cr_assert_eq(read(ends[0], &last, sizeof last), sizeof last);
        kill(child, SIGKILL);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        close(ends[0]);
        cr_assert_eq(rig_open(&rig), 0);
        for (unsigned i = 0; i <= last; i++) {
            char key[32];
            snprintf(key, sizeof key, "key-%u", i);
            cr_assert_eq(rig_get(&rig, key), i % 3 == 0 ? -ENOENT : 0, "%s", key);
        }
        rig_fini(&rig);
    }
}
