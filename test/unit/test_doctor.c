#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "client/kvctl/doctor.h"

struct words {
    unsigned count[DOCTOR_BAD + 1];
    char all[4096];
    enum doctor_level worst;
};

static void hear(void *arg, enum doctor_level level, const char *text)
{
    struct words *words = arg;
    size_t len = strlen(words->all);
    words->count[level]++;
    snprintf(words->all + len, sizeof words->all - len, "%s\n", text);
}

static struct words judge(const struct doctor_report *report)
{
    struct words words = {0};
    words.worst = doctor_judge(report, 1000, hear, &words);
    return words;
}

/* A report in which everything went well. */
static void all_well(struct doctor_report *report)
{
    memset(report, 0, sizeof *report);
    strcpy(report->type, "ext4");
    report->total_bytes = 100 * GIB;
    report->free_bytes = 50 * GIB;
    report->space_sane = true;
    report->direct = true;
    report->written_blocks_bytes = MIB;
    for (unsigned i = 0; i < DOCTOR_CHECKS; i++)
        report->results[i].outcome = i == DOCTOR_OTHER ? DOCTOR_NOT_TRIED : DOCTOR_OK;
}

#define HAS(words, text) cr_assert(strstr((words).all, text), "no \"%s\" in:\n%s", text, (words).all)

Test(doctor, all_is_well)
{
    static struct doctor_report report;
    all_well(&report);
    struct words words = judge(&report);
    cr_assert_eq(words.worst, DOCTOR_GOOD);
    HAS(words, "not a 3FS mount");
    cr_assert_not(strstr(words.all, "FUSE"));
}

Test(doctor, how_much_must_stay_free)
{
    static struct doctor_report report;
    all_well(&report);
    report.free_bytes = 2 * GIB + GIB / 2;
    cr_assert_eq(judge(&report).worst, DOCTOR_GOOD, "2 %% are enough here");
    strcpy(report.type, "fuse.hf3fs");
    struct words words = judge(&report);
    cr_assert_eq(words.worst, DOCTOR_BAD, "10 %% on 3FS");
    HAS(words, "below --disk-free-min (10 % here): kvd would not write");
    HAS(words, "a 3FS mount");
    report.space_sane = false;
    HAS(judge(&report), "makes no sense");
}

Test(doctor, where_it_is)
{
    static struct doctor_report report;
    all_well(&report);
    report.on_root = true;
    struct words words = judge(&report);
    cr_assert_eq(words.worst, DOCTOR_WARNING);
    HAS(words, "on the root file system of the machine");
    report.fuse = true;
    HAS(judge(&report), "FUSE: reads and writes go with IOSQE_ASYNC");
    report.others_can_write = true;
    cr_assert_eq(judge(&report).worst, DOCTOR_BAD);
}

/* Whatever fails has a word of its own, but for what may be absent. */
Test(doctor, every_failure_is_said)
{
    static struct doctor_report report;
    for (unsigned i = 0; i < DOCTOR_CHECKS; i++) {
        all_well(&report);
        unsigned before = judge(&report).count[DOCTOR_BAD] + judge(&report).count[DOCTOR_WARNING];
        report.results[i].outcome = DOCTOR_FAILED;
        report.results[i].err = -EIO;
        struct words words = judge(&report);
        bool may_be_absent =
            i == DOCTOR_DIRECT_OPEN || i == DOCTOR_FALLOCATE || i == DOCTOR_TMPFILE || i == DOCTOR_NOREPLACE || i == DOCTOR_BANDWIDTH;
        cr_assert(may_be_absent || words.count[DOCTOR_BAD] + words.count[DOCTOR_WARNING] > before, "%s",
                  doctor_check_name((enum doctor_check)i));
    }
    all_well(&report);
    report.results[DOCTOR_DIRECT_OPEN].outcome = DOCTOR_ABSENT;
    HAS(judge(&report), "no O_DIRECT");
    report.results[DOCTOR_SYNC_FOLDER].outcome = DOCTOR_ABSENT;
    HAS(judge(&report), "a folder cannot be synced here");
}

Test(doctor, what_another_path_sees)
{
    static struct doctor_report report;
    all_well(&report);
    report.results[DOCTOR_OTHER].outcome = DOCTOR_OK;
    report.seen_ms[DOCTOR_GONE] = 2500;
    HAS(judge(&report), "sees every change within 2.5 s");
    report.seen_ms[DOCTOR_REPLACED] = UINT64_MAX;
    struct words words = judge(&report);
    HAS(words, "did not see everything within 1.0 s");
    cr_assert_eq(words.worst, DOCTOR_WARNING);
}
