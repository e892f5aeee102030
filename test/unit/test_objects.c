/* The disk tier where each object is a file of its own. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "test/support/disk_rig.h"
#include "tier/object_file.h"
#include "tier/object_name.h"

static void objects_rig(struct rig *rig)
{
    rig_init(rig);
    rig->segment_bytes = 0;
}

/* Another node over the same directory; its own folder stays empty. */
static void second_rig(struct rig *rig, const struct rig *first)
{
    objects_rig(rig);
    rig->node = "node2";
    snprintf(rig->dir, sizeof rig->dir, "%s", first->dir);
}

static void path_of(const struct rig *rig, const char *key, char *out, size_t len)
{
    struct object_name name;
    name = object_name_of(span_text(key));
    snprintf(out, len, "%s/test/objects/%.2s/%s", rig->dir, name.hex, name.hex);
}

static bool is_there(const struct rig *rig, const char *key)
{
    char path[500];
    path_of(rig, key, path, sizeof path);
    return access(path, F_OK) == 0;
}

/* Files in the objects' folders whose name has this length. */
static unsigned count_names(const struct rig *rig, size_t name_len)
{
    char path[400];
    unsigned count = 0;
    for (unsigned fan = 0; fan < 256; fan++) {
        snprintf(path, sizeof path, "%s/test/objects/%02x", rig->dir, fan);
        DIR *dir = opendir(path);
        for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
            count += strlen(entry->d_name) == name_len;
        if (dir)
            closedir(dir);
    }
    return count;
}

static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 65536, 262144, 262145, (5 << 20) + 3};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static const char *size_key(unsigned i)
{
    static const char *const keys[] = {"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"};
    return keys[i];
}

static void check_sizes(struct rig *rig)
{
    for (unsigned i = 0; i < SIZES; i++)
        cr_assert_eq(rig_get(rig, size_key(i)), 0, "size %lu", (unsigned long)sizes[i]);
}

Test(objects, sizes_through_kill_and_close)
{
    struct rig rig, copy;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    for (unsigned i = 0; i < SIZES; i++)
        cr_assert_eq(rig_put(&rig, size_key(i), sizes[i]), 0);
    check_sizes(&rig);
    rig_init_copy(&copy, &rig); /* each was durable when its write ended */
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_eq(copy.found_calls, SIZES);
    check_sizes(&copy);
    rig_fini(&copy);
    rig_reopen(&rig);
    check_sizes(&rig);
    cr_assert_eq(count_names(&rig, OBJECT_HEX), SIZES);
    cr_assert_eq(count_names(&rig, OBJECT_TEMP_CHARS), 0);
    rig_fini(&rig);
}

Test(objects, a_range_does_not_read_the_rest)
{
    struct rig rig;
    char path[500];
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 4 << 20), 0);
    path_of(&rig, "k", path, sizeof path);
    rig_file_flip(path, 4096 + (3 << 20), 1); /* in the last MiB */
    cr_assert_eq(rig_get_range(&rig, "k", 0, 256 << 10), 0);
    cr_assert_eq(rig_get_range(&rig, "k", 1 << 20, 512 << 10), 0);
    cr_assert_eq(rig_get_range(&rig, "k", 3 << 20, 256 << 10), KVD_ECORRUPT);
    cr_assert_eq(rig_get(&rig, "k"), KVD_ECORRUPT);
    rig_fini(&rig);
}

Test(objects, kills_unlink_and_stay)
{
    struct rig rig, copy;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "a", 10), 0);
    cr_assert_eq(rig_put(&rig, "p/1", 10000), 0);
    cr_assert_eq(rig_put(&rig, "p/2", 10), 0);
    cr_assert_eq(rig_put(&rig, "q", 10), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "a"), 0);
    cr_assert_not(is_there(&rig, "a"));
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "never"), 0);
    cr_assert_eq(rig_kill(&rig, KILL_PREFIX, "p/"), 0);
    cr_assert_eq(count_names(&rig, OBJECT_HEX), 1);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_eq(copy.found_calls, 1);
    cr_assert_eq(rig_kill(&copy, KILL_ALL, ""), 0);
    cr_assert_eq(count_names(&copy, OBJECT_HEX), 0);
    rig_fini(&copy);
    rig_fini(&rig);
}

struct waited {
    struct disk_kill kill;
    struct disk_probe probe;
    bool done;
    int err;
};

static void waited_kill(struct disk_kill *kill, int err)
{
    struct waited *waited = CONTAINER_OF(kill, struct waited, kill);
    waited->done = true;
    waited->err = err;
}

static void waited_probe(struct disk_probe *probe, int err)
{
    struct waited *waited = CONTAINER_OF(probe, struct waited, probe);
    waited->done = true;
    waited->err = err;
}

static bool is_done(void *arg)
{
    return ((struct waited *)arg)->done;
}

static int kill_version(struct rig *rig, const char *key, uint64_t version, bool whoever)
{
    struct waited waited = {.kill = {.kind = KILL_KEY, .name = span_text(key), .version = version, .whoever = whoever}};
    cr_assert_eq(disk_kill_start(rig->disk, &waited.kill, waited_kill), 0);
    rig_until(rig, is_done, &waited);
    return waited.err ? waited.err : (int)waited.kill.unlinked;
}

static int probe(struct rig *rig, const char *key, struct disk_found *found)
{
    struct waited waited = {.probe = {.key = span_text(key), .known = true}};
    cr_assert_eq(disk_probe_start(rig->disk, &waited.probe, waited_probe), 0);
    rig_until(rig, is_done, &waited);
    if (!waited.err)
        *found = waited.probe.found;
    return waited.err;
}

Test(objects, kills_reach_by_version_and_by_whose_it_is)
{
    struct rig rig, other;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    uint64_t before = disk_next_version(rig.disk);
    cr_assert_eq(rig_put(&rig, "k", 100), 0);
    cr_assert_eq(kill_version(&rig, "k", before, true), 0);
    cr_assert(is_there(&rig, "k"), "a kill reached a newer version");
    second_rig(&other, &rig);
    cr_assert_eq(rig_open(&other), 0);
    cr_assert_eq(kill_version(&other, "k", UINT64_MAX, false), 0);
    cr_assert(is_there(&rig, "k"), "a node gave up another's file");
    cr_assert_eq(kill_version(&other, "k", 1, true), 1);
    cr_assert_not(is_there(&rig, "k"));
    cr_assert_eq(rig_get(&rig, "k"), KVD_ESTALE);
    rig_fini(&other);
    rig_fini(&rig);
}

Test(objects, another_node_finds_them_by_the_key_alone)
{
    struct rig rig, other;
    struct disk_found found;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    second_rig(&other, &rig);
    cr_assert_eq(rig_open(&other), 0);
    cr_assert_eq(probe(&other, "k", &found), -ENOENT);
    cr_assert_eq(rig_put(&rig, "k", 300000), 0);
    const struct rig_object *mine = rig_object(&rig, "k");
    cr_assert_eq(probe(&other, "k", &found), 0);
    cr_assert(found.version == mine->version && found.size == 300000 && found.checksum == mine->checksum);
    cr_assert(segment_is_objects(found.where.segment) && found.where.segment != disk_own_objects(other.disk));
    cr_assert_gt(disk_next_version(other.disk), mine->version, "what it gives now is not above what it has seen");
    /* Replaced: what was found before is no longer what is there. */
    struct disk_found old = found;
    cr_assert_eq(rig_put(&rig, "k", 300000), 0);
    cr_assert_eq(probe(&other, "k", &found), 0);
    cr_assert(found.where.block != old.where.block && found.version > old.version);
    rig_fini(&other);
    /* What a node did not write it does not announce. */
    second_rig(&other, &rig);
    cr_assert_eq(rig_open(&other), 0);
    cr_assert_eq(other.found_calls, 0);
    rig_fini(&other);
    rig_fini(&rig);
}

/* Another key's file under the name that this key's would have. */
static void plant(const struct rig *rig, const char *from, const char *to)
{
    char path[500], target[500], command[1700];
    path_of(rig, from, path, sizeof path);
    path_of(rig, to, target, sizeof target);
    snprintf(command, sizeof command, "mkdir -m 700 -p \"$(dirname '%s')\" && cp '%s' '%s'", target, path, target);
    cr_assert_eq(system(command), 0);
}

Test(objects, a_key_whose_hash_another_has_is_not_written)
{
    struct rig rig;
    struct disk_found found;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "first", 5000), 0);
    plant(&rig, "first", "second");
    cr_assert_eq(rig_put(&rig, "second", 100), -EEXIST);
    cr_assert_eq(rig_logged(&rig, "name_taken"), 1);
    cr_assert_eq(probe(&rig, "second", &found), KVD_ESTALE);
    cr_assert_eq(kill_version(&rig, "second", UINT64_MAX, true), 0);
    cr_assert(is_there(&rig, "second"), "a kill of one key took another's file");
    cr_assert_eq(rig_get(&rig, "first"), 0);
    rig_fini(&rig);
}

Test(objects, what_is_no_record_makes_way)
{
    struct rig rig;
    char path[500];
    struct disk_found found;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 5000), 0);
    path_of(&rig, "k", path, sizeof path);
    rig_file_flip(path, 60, 1);
    cr_assert_eq(rig_get(&rig, "k"), KVD_ECORRUPT);
    cr_assert_eq(probe(&rig, "k", &found), KVD_ESTALE);
    cr_assert_eq(rig_put(&rig, "k", 5000), 0);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    cr_assert_eq(truncate(path, 100), 0);
    cr_assert_eq(rig_get(&rig, "k"), KVD_ESHORT);
    cr_assert_eq(kill_version(&rig, "k", rig_object(&rig, "k")->version, false), 1);
    cr_assert_not(is_there(&rig, "k"));
    /* A newer format is left to those who know it. */
    cr_assert_eq(rig_put(&rig, "n", 5000), 0);
    path_of(&rig, "n", path, sizeof path);
    rig_file_flip(path, 4, 2);
    cr_assert_lt(kill_version(&rig, "n", UINT64_MAX, true), 0);
    cr_assert_lt(rig_put(&rig, "n", 10), 0);
    cr_assert(is_there(&rig, "n"));
    rig_fini(&rig);
}

static void make_file(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    cr_assert_geq(fd, 0);
    close(fd);
}

Test(objects, what_was_cut_off_goes_at_start_and_only_ones_own)
{
    struct rig rig;
    struct object_name name;
    char path[500], temp[OBJECT_TEMP_CHARS + 1];
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_close(&rig);
    name = object_name_of(span_text("k"));
    object_temp_name(&name, XXH3_64bits("node1", 5), temp);
    snprintf(path, sizeof path, "%s/test/objects/%.2s/%s", rig.dir, name.hex, temp);
    make_file(path);
    object_temp_name(&name, XXH3_64bits("node2", 5), temp);
    snprintf(path, sizeof path, "%s/test/objects/%.2s/%s", rig.dir, name.hex, temp);
    make_file(path);
    snprintf(path, sizeof path, "%s/test/objects/%.2s/README", rig.dir, name.hex);
    make_file(path);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(count_names(&rig, OBJECT_TEMP_CHARS), 1);
    cr_assert_eq(rig_figures(&rig).foreign_files, 1);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_fini(&rig);
}

/* A removed object of the one kind must not come back by a start in the other. */
Test(objects, a_node_stays_with_its_kind)
{
    struct rig rig;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    rig_close(&rig);
    rig.segment_bytes = MIB;
    cr_assert_eq(rig_open(&rig), -EINVAL);
    rig_fini(&rig);
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_close(&rig);
    rig.segment_bytes = 0;
    cr_assert_eq(rig_open(&rig), -EINVAL);
    rig_fini(&rig);
}

/* Kills and writes that wait for the folder to open end when it does not. */
Test(objects, nothing_waits_for_a_tier_that_stays_off)
{
    struct rig rig;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    rig_close(&rig);
    char path[500];
    cr_assert(rig_file(&rig, "node", 0, path, sizeof path));
    cr_assert_eq(truncate(path, 10), 0);
    rig_open_start(&rig);
    struct waited one = {.kill = {.kind = KILL_KEY, .name = span_text("k"), .version = 1}};
    struct waited all = {.kill = {.kind = KILL_ALL, .version = 1}};
    cr_assert_eq(disk_kill_start(rig.disk, &one.kill, waited_kill), 0);
    cr_assert_eq(disk_kill_start(rig.disk, &all.kill, waited_kill), 0);
    rig_until(&rig, is_done, &one);
    rig_until(&rig, is_done, &all);
    cr_assert_eq(one.err, KVD_EOFF);
    cr_assert_eq(all.err, KVD_EOFF);
    rig_fini(&rig);
}

static bool is_on(void *arg)
{
    return strcmp(disk_state_name(((struct rig *)arg)->disk), "on") == 0;
}

static bool is_opened(void *arg)
{
    return ((struct rig *)arg)->opened > 0;
}

/* A remove while the start has not come to the files. */
Test(objects, what_could_not_be_killed_for_want_of_heap_is_not_found_and_is_owed)
{
    enum { FILES = 100 };
    struct rig rig;
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    for (int i = 0; i < FILES; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        cr_assert_eq(rig_put(&rig, key, 10), 0);
    }
    struct disk_kill kill = {.kind = KILL_PREFIX, .name = span_text("k"), .version = disk_next_version(rig.disk), .keep = true};
    rig_close(&rig);
    rig_open_start(&rig);
    rig_until(&rig, is_opened, &rig);
    rig_turns(&rig, 1); /* what is owed has been looked at, and will not be soon */
    int found = rig.found_calls;
    cr_assert_lt(found, FILES);
    disk_kill_missed(rig.disk, &kill);
    cr_assert_eq(rig_figures(&rig).kills_owed, 1);
    rig_until(&rig, is_on, &rig);
    cr_assert_eq(rig.found_calls, found);
    rig_fini(&rig);
}

static void put_aside(const struct rig *rig, char *folder, char *aside, size_t len)
{
    snprintf(folder, len, "%s/test/objects", rig->dir);
    snprintf(aside, len, "%s/aside", rig->dir);
    cr_assert_eq(rename(folder, aside), 0);
}

/* The mount went and left a bare folder: no file means nothing, and nothing is made there. What then counts as trouble passes. */
Test(objects, a_folder_that_is_not_the_one_says_nothing)
{
    struct rig rig;
    char folder[400], aside[400];
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10000), 0);
    put_aside(&rig, folder, aside, sizeof folder);
    cr_assert_eq(rig_get(&rig, "k"), -ENODEV);
    cr_assert_eq(rig_put(&rig, "new", 10), KVD_EOFF);
    rig_until(&rig, is_on, &rig);
    cr_assert_eq(rig_put(&rig, "new", 10), -ENODEV);
    rig_until(&rig, is_on, &rig);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "k"), -ENODEV);
    cr_assert_neq(access(folder, F_OK), 0, "a folder was made where the mount is gone");
    cr_assert_eq(rename(aside, folder), 0);
    rig_until(&rig, is_on, &rig);
    cr_assert_eq(rig_get(&rig, "k"), 0);
    rig_fini(&rig);
}

static bool was_opened(void *arg)
{
    const struct rig *rig = arg;
    return rig->opened > 0;
}

static bool has_tripped_or_recovered(void *arg)
{
    const struct rig *rig = arg;
    return rig->recovered > 0 || disk_state(rig->disk) == DISK_TRIPPED;
}

static bool has_recovered(void *arg)
{
    const struct rig *rig = arg;
    return rig->recovered > 0;
}

/* A key whose folder is the last that a start looks through. */
static void last_key(char *out, size_t len)
{
    struct object_name name = {0};
    for (unsigned i = 0; strncmp(name.hex, "ff", 2) != 0; i++) {
        snprintf(out, len, "k%u", i);
        name = object_name_of(span_text(out));
    }
}

/* The mount goes while a start looks through the folders: that nothing is there any more says nothing. */
Test(objects, a_start_whose_folder_goes_has_not_seen_all)
{
    struct rig rig;
    char key[20], folder[400], aside[400];
    objects_rig(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    last_key(key, sizeof key);
    cr_assert_eq(rig_put(&rig, key, 10000), 0);
    rig_close(&rig);
    rig_open_start(&rig);
    rig_until(&rig, was_opened, &rig);
    put_aside(&rig, folder, aside, sizeof folder);
    rig_until(&rig, has_tripped_or_recovered, &rig);
    cr_assert_eq(disk_state(rig.disk), DISK_TRIPPED, "a folder that is gone was taken for one without objects");
    cr_assert_eq(rig.recovered, 0);
    cr_assert_eq(rename(aside, folder), 0);
    rig_until(&rig, has_recovered, &rig);
    cr_assert_eq(rig_figures(&rig).unreadable_segments, 0, "what could not be looked through is looked through again");
    cr_assert_eq(rig.found_calls, 1);
    cr_assert_eq(rig_get(&rig, key), 0);
    rig_fini(&rig);
}
