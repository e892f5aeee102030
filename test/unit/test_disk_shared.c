/* What the disk tier does besides for a node of a cluster: pages of what its log says, versions that others get, what is synced. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "test/support/disk_rig.h"

/* ---- pages ---- */

struct seen {
    struct disk_kill_page page;
    struct rig *rig;
    bool done;
    int err;
    unsigned pages;
    unsigned count;
    struct {
        enum kill_kind kind;
        char name[16];
        uint64_t version;
    } at[32];
    uint64_t highest[64]; /* of keys that are "k<number>" */
};

static void page_read(struct disk_kill_page *page, int err)
{
    struct seen *seen = CONTAINER_OF(page, struct seen, page);
    seen->done = true;
    seen->err = err;
    for (uint32_t i = 0; !err && i < page->count; i++) {
        const struct log_entry *kill = &page->kills[i];
        unsigned number;
        char name[16];
        snprintf(name, sizeof name, "%.*s", (int)min_u64(kill->name.len, 15), kill->name.len ? (const char *)kill->name.at : "");
        if (seen->count < 32) {
            seen->at[seen->count].kind = kill->kind;
            seen->at[seen->count].version = kill->version;
            memcpy(seen->at[seen->count].name, name, sizeof name);
        }
        seen->count++;
        if (kill->kind == KILL_KEY && sscanf(name, "k%u", &number) == 1 && number < 64)
            seen->highest[number] = max_u64(seen->highest[number], kill->version);
    }
    if (!err)
        free(page->memory);
    loop_stop(seen->rig->loop);
}

static bool is_done(void *arg)
{
    return *(const bool *)arg;
}

static int read_page(struct seen *seen)
{
    seen->done = false;
    int err = disk_kill_page_start(seen->rig->disk, &seen->page, page_read);
    if (err)
        return err;
    rig_until(seen->rig, is_done, &seen->done);
    seen->pages++;
    return seen->err;
}

/* From where it is to the end. */
static void read_all(struct seen *seen, uint32_t limit)
{
    seen->page.limit = limit;
    do {
        cr_assert_lt(seen->pages, 10000);
        cr_assert_eq(read_page(seen), 0);
        cr_assert(seen->page.count <= limit);
    } while (!seen->page.at_end);
}

static void kill_key(struct rig *rig, unsigned number)
{
    char key[16];
    snprintf(key, sizeof key, "k%u", number);
    cr_assert_eq(rig_kill(rig, KILL_KEY, key), 0);
}

Test(disk_shared, every_kill_that_is_logged_is_on_a_page)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "a", 100), 0);
    cr_assert_eq(rig_seal(&rig), 0);
    kill_key(&rig, 1);
    cr_assert_eq(rig_kill(&rig, KILL_PREFIX, "pre"), 0);
    cr_assert_eq(rig_give_up(&rig, disk_segment_next(rig.disk, NULL)), 0); /* that is this folder's own matter */
    cr_assert_eq(rig_kill(&rig, KILL_ALL, NULL), 0);
    uint64_t upto = disk_next_version(rig.disk);
    kill_key(&rig, 2);
    for (uint32_t limit = 1; limit < 6; limit++) {
        struct seen seen = {.rig = &rig};
        read_all(&seen, limit);
        cr_assert_eq(seen.count, 4, "%u with %u a page", seen.count, limit);
        cr_assert(seen.at[0].kind == KILL_KEY && strcmp(seen.at[0].name, "k1") == 0);
        cr_assert(seen.at[1].kind == KILL_PREFIX && strcmp(seen.at[1].name, "pre") == 0);
        cr_assert(seen.at[2].kind == KILL_ALL && seen.at[2].name[0] == '\0' && seen.at[2].version < upto);
        cr_assert(seen.at[3].kind == KILL_KEY && strcmp(seen.at[3].name, "k2") == 0 && seen.at[3].version > upto);
    }
    rig_fini(&rig);
}

Test(disk_shared, what_is_logged_later_follows_the_same_cursor)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    struct seen seen = {.rig = &rig};
    read_all(&seen, 10);
    cr_assert_eq(seen.count, 0);
    for (unsigned i = 0; i < 10; i++) {
        kill_key(&rig, i);
        read_all(&seen, 10);
        cr_assert_eq(seen.count, i + 1);
    }
    rig_reopen(&rig); /* a log of its own */
    kill_key(&rig, 10);
    read_all(&seen, 10);
    cr_assert_geq(seen.count, 11);
    for (unsigned i = 0; i <= 10; i++)
        cr_assert_gt(seen.highest[i], 0);
    rig_fini(&rig);
}

struct load {
    struct disk_kill kill;
    char name[1024];
    bool done;
};

static void load_done(struct disk_kill *kill, int err)
{
    cr_assert_eq(err, 0);
    CONTAINER_OF(kill, struct load, kill)->done = true;
}

/* Kills of long names that fill more than one log. */
static void kill_load(struct rig *rig)
{
    enum { LOADS = 4500 };
    struct load *loads = calloc(LOADS, sizeof *loads);
    cr_assert_not_null(loads);
    for (unsigned i = 0; i < LOADS; i++) {
        memset(loads[i].name, 'n', 1000);
        loads[i].kill = (struct disk_kill){.kind = KILL_KEY, .name = span_of(loads[i].name, 1000), .version = disk_next_version(rig->disk)};
        cr_assert_eq(disk_kill_start(rig->disk, &loads[i].kill, load_done), 0);
    }
    rig_until(rig, is_done, &loads[LOADS - 1].done);
    free(loads);
}

/* The cursor stands in a log that is closed, and then merged with those before it. */
Test(disk_shared, a_cursor_outlives_the_merging_of_logs, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    rig.keep_kills = true;
    cr_assert_eq(rig_open(&rig), 0);
    for (unsigned round = 0; round < 3; round++) {
        struct seen seen = {.rig = &rig};
        uint64_t compactions = rig_figures(&rig).log_compactions;
        for (unsigned i = 0; i < 20; i++) {
            kill_key(&rig, 20 * round + i);
            if (i == 10)
                read_all(&seen, 3);
        }
        kill_load(&rig);
        rig_settle(&rig);
        cr_assert_gt(rig_figures(&rig).log_compactions, compactions);
        read_all(&seen, 100);
        for (unsigned i = 0; i < 20 * (round + 1); i++)
            cr_assert_gt(seen.highest[i], 0, "k%u is not told in round %u", i, round);
        rig_reopen(&rig);
        rig_settle(&rig);
    }
    rig_fini(&rig);
}

Test(disk_shared, a_log_that_cannot_be_read_is_no_page)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    kill_key(&rig, 1);
    struct seen seen = {.rig = &rig, .page.limit = 10};
    cr_assert_eq(read_page(&seen), 0);
    char path[600];
    cr_assert(rig_file(&rig, ".log", 0, path, sizeof path));
    for (uint64_t at = 80; at < 220; at += 8)
        rig_file_flip(path, at, 255);
    struct seen again = {.rig = &rig, .page.limit = 10};
    kill_key(&rig, 2);
    cr_assert_eq(read_page(&again), KVD_ECORRUPT);
    rig_file_flip(path, 8, 255);
    rig_file_flip(path, 48, 255);
    cr_assert_lt(read_page(&again), 0);
    rig_fini(&rig);
}

Test(disk_shared, kills_stay_in_a_log_that_speaks_for_other_folders)
{
    for (unsigned keep = 0; keep < 2; keep++) {
        struct rig rig;
        rig_init(&rig);
        rig.keep_kills = keep;
        cr_assert_eq(rig_open(&rig), 0);
        kill_key(&rig, 1); /* of what was never here */
        for (unsigned i = 0; i < 3; i++) {
            rig_reopen(&rig);
            rig_settle(&rig);
        }
        cr_assert_gt(rig_figures(&rig).log_compactions, 0);
        struct seen seen = {.rig = &rig};
        read_all(&seen, 10);
        cr_assert_eq(seen.highest[1] > 0, keep);
        rig_fini(&rig);
    }
}

/* ---- versions ---- */

static bool gives(void *arg)
{
    uint64_t version;
    return disk_give_version(((struct rig *)arg)->disk, &version) == 0;
}

static uint64_t given(struct rig *rig)
{
    uint64_t version;
    rig_until(rig, gives, rig);
    cr_assert_eq(disk_give_version(rig->disk, &version), 0);
    return version;
}

Test(disk_shared, no_version_is_given_before_the_ceiling_is_known_or_above_it)
{
    struct rig rig;
    rig_init(&rig);
    rig_open_start(&rig);
    uint64_t version = 7;
    cr_assert_eq(disk_give_version(rig.disk, &version), KVD_EBUSY);
    cr_assert_eq(disk_raise_version(rig.disk, 1000), KVD_EBUSY);
    cr_assert_eq(version, 7);
    rig_fini(&rig);
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    uint64_t last = given(&rig);
    for (unsigned i = 0; i < 3000000; i++) {
        int err = disk_give_version(rig.disk, &version);
        cr_assert(err == KVD_EBUSY || (err == 0 && version > last));
        if (err)
            break;
        last = version;
        cr_assert_neq(i, 2999999, "the loop never turns, and yet the ceiling is not reached");
    }
    struct rig copy;
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_gt(given(&copy), last, "after kill -9");
    rig_fini(&copy);
    cr_assert_gt(given(&rig), last);
    rig_fini(&rig);
}

Test(disk_shared, a_floor_is_below_all_that_follow_it)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    uint64_t floor = given(&rig) + ((uint64_t)1 << 40);
    cr_assert_eq(disk_raise_version(rig.disk, floor), 0);
    uint64_t version;
    cr_assert_eq(disk_give_version(rig.disk, &version), KVD_EBUSY); /* not before that is durable */
    cr_assert_gt(given(&rig), floor);
    cr_assert_eq(disk_raise_version(rig.disk, 5), 0);
    cr_assert_gt(given(&rig), floor);
    cr_assert_eq(disk_raise_version(rig.disk, UINT64_MAX), KVD_EUSAGE);
    rig_reopen(&rig);
    cr_assert_gt(given(&rig), floor);
    rig_fini(&rig);
}

/* ---- what is synced ---- */

Test(disk_shared, a_record_is_synced_when_a_sync_has_followed)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "a", 100), 0);
    struct disk_where where = rig_object(&rig, "a")->where;
    cr_assert_eq(disk_synced(&where), DISK_NOT_SYNCED);
    cr_assert_eq(rig_sync(&rig, "a"), 0);
    cr_assert_eq(disk_synced(&where), DISK_SYNCED);
    cr_assert_eq(rig_put(&rig, "b", 100), 0);
    struct disk_where later = rig_object(&rig, "b")->where;
    cr_assert_eq(later.segment, where.segment);
    cr_assert_eq(disk_synced(&later), DISK_NOT_SYNCED);
    cr_assert_eq(disk_synced(&where), DISK_SYNCED);
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(disk_synced(&later), DISK_SYNCED);
    cr_assert_neq(memcmp(segment_id(where.segment), (const uint8_t[DISK_ID_BYTES]){0}, DISK_ID_BYTES), 0);
    rig_reopen(&rig);
    where = rig_object(&rig, "a")->where;
    cr_assert_eq(disk_synced(&where), DISK_SYNCED);
    rig_fini(&rig);
}
