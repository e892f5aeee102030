#include "client/kvctl/doctor.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"

enum { TEXT_BYTES = 400, FREE_MIN_3FS = 10, FREE_MIN = 2 };
#define FS_3FS "fuse.hf3fs"

const char *doctor_check_name(enum doctor_check check)
{
    static const char *const NAMES[DOCTOR_CHECKS] = {
        "make_folder", "create",   "full_size",    "direct_open", "direct_write", "direct_read", "fsync",     "buffered_write",
        "rename",      "replace",  "fsync_folder", "list",        "flock",        "unlink",      "fallocate", "tmpfile",
        "noreplace",   "io_uring", "ring_writes",  "ring_reads",  "bandwidth",    "other_path",  "clean_up"};
    return NAMES[check];
}

const char *doctor_sight_name(enum doctor_sight sight)
{
    static const char *const NAMES[DOCTOR_SIGHTS] = {"new_name", "new_size", "unlink", "replace"};
    return NAMES[sight];
}

uint64_t doctor_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

int doctor_text(struct doctor_result *result, int err, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vsnprintf(result->text, sizeof result->text, format, list);
    va_end(list);
    return err;
}

/* ---- what kvd makes of it ---- */

struct judging {
    const struct doctor_report *report;
    doctor_say_fn say;
    void *arg;
    enum doctor_level worst;
};

__attribute__((format(printf, 3, 4))) static void say(struct judging *judging, enum doctor_level level, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    judging->say(judging->arg, level, text);
    if (level > judging->worst)
        judging->worst = level;
}

static enum doctor_outcome outcome(const struct judging *judging, enum doctor_check check)
{
    return judging->report->results[check].outcome;
}

static void judge_mount(struct judging *judging)
{
    const struct doctor_report *report = judging->report;

    if (strcmp(report->type, FS_3FS) == 0)
        say(judging, DOCTOR_GOOD, "a 3FS mount; with --require-fs %s kvd refuses to write here once it is gone", FS_3FS);
    else
        say(judging, DOCTOR_GOOD, "%s: not a 3FS mount; --require-fs %s would refuse it", report->type, FS_3FS);
    if (report->on_root)
        say(judging, DOCTOR_WARNING, "on the root file system of the machine: what kvd fills, the system lacks");
    if (strcmp(report->type, "tmpfs") == 0 || strcmp(report->type, "ramfs") == 0)
        say(judging, DOCTOR_WARNING, "%s lives in memory: nothing outlives a restart of the machine", report->type);
    if (report->others_can_write)
        say(judging, DOCTOR_BAD, "others can write here: kvd refuses such a directory (chmod go-w)");
}

static void judge_space(struct judging *judging)
{
    const struct doctor_report *report = judging->report;
    const unsigned percent = strcmp(report->type, FS_3FS) == 0 ? FREE_MIN_3FS : FREE_MIN;
    char free_text[32], total_text[32];

    text_from_size(free_text, sizeof free_text, report->free_bytes);
    text_from_size(total_text, sizeof total_text, report->total_bytes);
    if (!report->space_sane)
        say(judging, DOCTOR_WARNING, "what the file system says of its space makes no sense: %s free of %s", free_text, total_text);
    else if (report->free_bytes < report->total_bytes / 100 * percent)
        say(judging, DOCTOR_BAD, "%s free of %s is below --disk-free-min (%u %% here): kvd would not write", free_text, total_text,
            percent);
    else
        say(judging, DOCTOR_GOOD, "%s free of %s: kvd writes as long as %u %% stay free", free_text, total_text, percent);
    if (report->space_sane && report->free_bytes < DOCTOR_FULL_BYTES)
        say(judging, DOCTOR_BAD, "not even one segment of 256 MiB fits");
}

/* Without these there is no disk tier. */
static void judge_needs(struct judging *judging)
{
    static const struct {
        enum doctor_check check;
        const char *what;
    } NEEDS[] = {
        {DOCTOR_FOLDER, "no folder can be made: kvd does not start"},
        {DOCTOR_CREATE, "files cannot be created with O_EXCL: kvd makes no segment"},
        {DOCTOR_FULL_SIZE, "a file cannot be set to its full size: kvd makes no segment"},
        {DOCTOR_DIRECT_WRITE, "writing fails: nothing reaches the disk"},
        {DOCTOR_DIRECT_READ, "what was written does not come back: kvd serves nothing from here"},
        {DOCTOR_SYNC, "fsync fails: kvd counts nothing as durable"},
        {DOCTOR_BUFFERED, "small files cannot be written: kvd keeps no remove log, and so no disk tier"},
        {DOCTOR_RENAME, "files cannot be renamed: kvd keeps no node file, and so no disk tier"},
        {DOCTOR_REPLACE, "a rename does not replace: remove logs cannot be compacted"},
        {DOCTOR_SYNC_FOLDER, "the folder cannot be synced: kvd keeps no disk tier"},
        {DOCTOR_LIST, "the folder cannot be listed: kvd does not find what it stored"},
        {DOCTOR_LOCK, "flock does not hold: two kvds could take one folder, and kvd does not start where it fails"},
        {DOCTOR_UNLINK, "files cannot be unlinked: kvd could not give room back"},
    };

    for (size_t i = 0; i < sizeof NEEDS / sizeof NEEDS[0]; i++) {
        const struct doctor_result *result = &judging->report->results[NEEDS[i].check];
        if (result->outcome == DOCTOR_FAILED)
            say(judging, DOCTOR_BAD, "%s (%s)", NEEDS[i].what, result->err ? error_text(result->err) : result->text);
    }
}

static void judge_files(struct judging *judging)
{
    const struct doctor_report *report = judging->report;

    if (outcome(judging, DOCTOR_DIRECT_OPEN) == DOCTOR_OK)
        say(judging, DOCTOR_GOOD, "O_DIRECT is taken: values do not pass through the page cache");
    else if (outcome(judging, DOCTOR_DIRECT_OPEN) == DOCTOR_ABSENT)
        say(judging, DOCTOR_WARNING, "no O_DIRECT: kvd reads and writes through the page cache, which takes memory beyond --memory");
    if (outcome(judging, DOCTOR_SYNC_FOLDER) == DOCTOR_ABSENT)
        say(judging, DOCTOR_WARNING, "a folder cannot be synced here: names may be lost in a power cut, and kvd counts it as done");
    if (outcome(judging, DOCTOR_FULL_SIZE) == DOCTOR_OK && report->truncated_blocks_bytes >= DOCTOR_FULL_BYTES)
        say(judging, DOCTOR_GOOD, "st_blocks follows the length: du counts an open segment in full (kvd does, too)");
    if (outcome(judging, DOCTOR_SYNC) == DOCTOR_OK && report->written_blocks_bytes == 0)
        say(judging, DOCTOR_WARNING, "st_blocks stays 0 for a file with data: du shows nothing of what kvd keeps");
}

static void judge_ring(struct judging *judging)
{
    const struct doctor_report *report = judging->report;

    if (outcome(judging, DOCTOR_RING) == DOCTOR_FAILED) {
        say(judging, DOCTOR_WARNING, "io_uring is refused (%s): kvd reads and writes with a few threads",
            error_text(report->results[DOCTOR_RING].err));
        return;
    }
    if (report->fuse)
        say(judging, DOCTOR_GOOD, "FUSE: reads and writes go with IOSQE_ASYNC, since submitting alone can block");
    if (outcome(judging, DOCTOR_RING_READS) == DOCTOR_OK)
        say(judging, DOCTOR_GOOD,
            "submitting %d reads takes %" PRIu64 " us, with IOSQE_ASYNC %" PRIu64 " us: kvd's loop stands still so long", DOCTOR_DEPTH,
            report->read_submit_us[0], report->read_submit_us[1]);
    if (outcome(judging, DOCTOR_RING_WRITES) == DOCTOR_FAILED || outcome(judging, DOCTOR_RING_READS) == DOCTOR_FAILED)
        say(judging, DOCTOR_BAD, "reading or writing through io_uring fails here: start kvd with --io threads");
    if (outcome(judging, DOCTOR_BANDWIDTH) == DOCTOR_OK)
        say(judging, DOCTOR_GOOD, "reads at depth %d: %.0f MB/s%s", DOCTOR_DEPTH, (double)report->bytes_per_second / 1e6,
            report->direct ? "" : ", out of the page cache");
}

static void judge_sight(struct judging *judging, uint64_t waited_ms)
{
    const struct doctor_report *report = judging->report;
    uint64_t latest = 0;

    if (outcome(judging, DOCTOR_OTHER) == DOCTOR_FAILED) {
        const struct doctor_result *result = &report->results[DOCTOR_OTHER];
        say(judging, DOCTOR_BAD, "the other path is of no use: %s", result->err ? error_text(result->err) : result->text);
        return;
    }
    if (outcome(judging, DOCTOR_OTHER) != DOCTOR_OK)
        return;
    for (unsigned i = 0; i < DOCTOR_SIGHTS; i++)
        latest = max_u64(latest, report->seen_ms[i]);
    if (latest == UINT64_MAX)
        say(judging, DOCTOR_WARNING,
            "the other path did not see everything within %.1f s: kvds that share objects would serve old ones longer",
            (double)waited_ms / 1e3);
    else
        say(judging, DOCTOR_GOOD, "the other path sees every change within %.1f s: so old may be what kvds that share objects find",
            (double)latest / 1e3);
}

enum doctor_level doctor_judge(const struct doctor_report *report, uint64_t waited_ms, doctor_say_fn fn, void *arg)
{
    struct judging judging = {.report = report, .say = fn, .arg = arg};

    judge_mount(&judging);
    judge_space(&judging);
    judge_needs(&judging);
    judge_files(&judging);
    judge_ring(&judging);
    judge_sight(&judging, waited_ms);
    if (judging.report->results[DOCTOR_CLEAN_UP].outcome == DOCTOR_FAILED)
        say(&judging, DOCTOR_BAD, "left behind, for it could not be removed: %s", report->folder);
    return judging.worst;
}
