/* A file system that others fill, and files that go slowly. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "test/support/disk_rig.h"
#include "tier/disk_inner.h"

static bool was_asked(void *arg)
{
    const struct rig *rig = arg;
    return rig_figures(rig).free_bytes > 0;
}

static void say(struct rig *rig, const char *type, uint64_t free_percent)
{
    struct fs_dir_info info = {.total_bytes = 1000 * MIB, .free_bytes = free_percent * 10 * MIB};
    snprintf(info.type, sizeof info.type, "%s", type);
    disk_space_note(rig->disk, &info);
}

Test(disk_space, a_file_system_with_too_little_room_is_written_to_no_more, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    rig_until(&rig, was_asked, &rig);
    rig_settle(&rig);
    cr_assert_eq(rig_put(&rig, "before", 5000), 0);
    say(&rig, "ext4", 2);
    cr_assert_eq(disk_low_checks(rig.disk), 0);
    say(&rig, "ext4", 1);
    cr_assert_eq(disk_low_checks(rig.disk), 1);
    cr_assert(strstr(disk_trouble(rig.disk), "nothing is written"));
    cr_assert_eq(rig_put(&rig, "during", 5000), KVD_EFULL, "though the open segment has room");
    cr_assert_eq(rig.full_calls, 0, "nothing is given up at once");
    cr_assert_eq(rig_get(&rig, "before"), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "before"), 0);
    say(&rig, "ext4", 1);
    cr_assert_eq(disk_low_checks(rig.disk), 2);
    say(&rig, "ext4", 2);
    cr_assert_eq(disk_low_checks(rig.disk), 0);
    cr_assert_str_eq(disk_trouble(rig.disk), "");
    cr_assert_eq(rig_put(&rig, "after", 5000), 0);
    cr_assert_eq(rig_logged(&rig, "space_low") + rig_logged(&rig, "space_back"), 2);
    rig_fini(&rig);
}

Test(disk_space, on_3fs_a_tenth_is_left_and_what_is_configured_counts)
{
    struct fs_dir_info info = {.total_bytes = 1000};
    snprintf(info.type, sizeof info.type, "fuse.hf3fs");
    cr_assert_eq(disk_space_least(0, &info), 100);
    cr_assert_eq(disk_space_least(3, &info), 30);
    snprintf(info.type, sizeof info.type, "xfs");
    cr_assert_eq(disk_space_least(0, &info), 20);
}

/* What remove logs take is taken from what segments may, up to a quarter. */
Test(disk_space, the_logs_share_the_limit, .timeout = 60)
{
    enum { NAME_BYTES = 1000, KILLS = 600 };
    struct rig rig;
    rig_init(&rig);
    rig.limit_bytes = 4 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    char name[NAME_BYTES + 1];
    memset(name, 'n', NAME_BYTES);
    name[NAME_BYTES] = '\0';
    uint64_t before = disk_usable_bytes(rig.disk), logged = rig_figures(&rig).log_bytes;
    cr_assert_eq(rig_kill(&rig, KILL_KEY, name), 0);
    cr_assert_eq(before - disk_usable_bytes(rig.disk), rig_figures(&rig).log_bytes - logged);
    cr_assert_gt(before, disk_usable_bytes(rig.disk));
    for (unsigned i = 0; i < KILLS; i++)
        cr_assert_eq(rig_kill(&rig, KILL_KEY, name), 0);
    cr_assert_eq(disk_usable_bytes(rig.disk), rig.limit_bytes / 4 * 3, "and no more than a quarter");
    rig_fini(&rig);
}

static bool is_gone(void *arg)
{
    const struct rig *rig = arg;
    return rig->gone_calls > 0;
}

static void put_segment(struct rig *rig, const char *key)
{
    cr_assert_eq(rig_put(rig, key, 5000), 0);
    cr_assert_eq(rig_seal(rig), 0);
}

struct killing {
    struct disk_kill kill;
    bool done;
};

static void killed(struct disk_kill *kill, int err)
{
    cr_assert_eq(err, 0);
    CONTAINER_OF(kill, struct killing, kill)->done = true;
}

static bool is_killed(void *arg)
{
    return ((struct killing *)arg)->done;
}

/* Dead for good, and not unlinked yet. */
static void kill_segment(struct rig *rig, struct segment *segment)
{
    struct killing killing = {0};
    cr_assert_eq(disk_segment_kill_start(rig->disk, &killing.kill, segment, killed), 0);
    rig_until(rig, is_killed, &killing);
}

/* As what is above does with a segment that holds `key` alone. */
static void give_up(struct rig *rig, struct segment *segment, const char *key)
{
    kill_segment(rig, segment);
    rig_forget(rig, key);
    disk_segment_unlink(rig->disk, segment);
}

static void rig_with_two(struct rig *rig)
{
    rig_init(rig);
    rig->unlink_delay_ms = 3600 * 1000;
    cr_assert_eq(rig_open(rig), 0);
    put_segment(rig, "a");
    put_segment(rig, "b");
}

Test(disk_space, a_file_stays_for_the_delay_and_counts_as_used, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    rig.unlink_delay_ms = 300;
    cr_assert_eq(rig_open(&rig), 0);
    put_segment(&rig, "a");
    uint64_t used = rig_figures(&rig).used_bytes;
    uint64_t begun_ms = loop_now_ms(rig.loop);
    give_up(&rig, disk_segment_next(rig.disk, NULL), "a");
    rig_turns(&rig, 20);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 1);
    cr_assert_eq(rig_figures(&rig).used_bytes, used);
    rig_until(&rig, is_gone, &rig);
    cr_assert_geq(loop_now_ms(rig.loop) - begun_ms, 290);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 0);
    cr_assert_eq(rig_figures(&rig).used_bytes, 0);
    rig_fini(&rig);
}

Test(disk_space, the_end_does_not_wait_for_the_delay_and_the_next_start_unlinks, .timeout = 60)
{
    struct rig rig;
    rig_with_two(&rig);
    give_up(&rig, disk_segment_next(rig.disk, NULL), "a");
    rig_turns(&rig, 20);
    rig_close(&rig);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 2);
    cr_assert_eq(rig_open(&rig), 0);
    rig_settle(&rig);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 1);
    cr_assert_eq(rig.object_count, 1);
    cr_assert_eq(rig_get(&rig, "b"), 0);
    rig_fini(&rig);
}

/* As a start does with one that was given up before, while another's delay has begun. */
Test(disk_space, the_end_waits_for_what_goes_at_once_and_not_for_the_delay_of_another, .timeout = 60)
{
    struct rig rig;
    rig_with_two(&rig);
    struct segment *late = disk_segment_next(rig.disk, NULL);
    struct segment *at_once = disk_segment_next(rig.disk, late);
    kill_segment(&rig, at_once);
    give_up(&rig, late, "a");
    rig_forget(&rig, "b");
    segment_die(at_once, true);
    rig_close(&rig);
    cr_assert_eq(rig_file_count(&rig, ".seg"), 1);
    rig_fini(&rig);
}

Test(disk_space, files_go_a_few_at_a_time, .timeout = 60)
{
    enum { FILES = 20 };
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    for (unsigned i = 0; i < FILES; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        put_segment(&rig, key);
    }
    struct segment *segments[FILES], *at = NULL;
    for (unsigned i = 0; i < FILES; i++)
        segments[i] = at = disk_segment_next(rig.disk, at);
    for (unsigned i = 0; i < FILES; i++) {
        char key[32];
        snprintf(key, sizeof key, "key-%u", i);
        kill_segment(&rig, segments[i]);
        rig_forget(&rig, key);
    }
    for (unsigned i = 0; i < FILES; i++)
        disk_segment_unlink(rig.disk, segments[i]);
    while (rig.gone_calls < FILES) {
        rig_turns(&rig, 1);
        cr_assert_leq(rig.disk->unlinks, UNLINKS_AT_ONCE);
        cr_assert_eq(rig.disk->unlinking, FILES - (unsigned)rig.gone_calls);
    }
    cr_assert_eq(rig_file_count(&rig, ".seg"), 0);
    rig_fini(&rig);
}
