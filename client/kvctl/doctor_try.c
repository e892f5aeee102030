/* A directory tried out as kvd would use it: in a folder of its own, one operation after the other. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "client/kvctl/doctor.h"

enum { FUSE_MAGIC = 0x65735546, SMALL_BYTES = 10000, PATH_BYTES = PATH_MAX + 96 };

/* ---- the mount ---- */

/* The id by which mountinfo knows the mount that `fd` is on; -1 when it is not told. */
static int mount_id(int fd)
{
    char path[64], line[256];
    int id = -1;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *info = fopen(path, "re");
    if (!info)
        return -1;
    while (id < 0 && fgets(line, sizeof line, info)) {
        if (sscanf(line, "mnt_id: %d", &id) != 1)
            id = -1;
    }
    fclose(info);
    return id;
}

/* "36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw" */
static void mount_line(const char *line, struct doctor_report *report)
{
    const char *rest = strstr(line, " - ");

    if (sscanf(line, "%*s %*s %*s %*s %255s", report->point) != 1)
        report->point[0] = '\0';
    if (!rest || sscanf(rest + 3, "%255s %255s", report->type, report->source) < 1)
        return;
}

static void mount_look(int fd, struct doctor_report *report)
{
    const int id = mount_id(fd);
    char *line = NULL;
    size_t size = 0;
    FILE *mounts = fopen("/proc/self/mountinfo", "re");

    snprintf(report->type, sizeof report->type, "unknown");
    if (!mounts)
        return;
    while (getline(&line, &size, mounts) > 0) {
        if (strtol(line, NULL, 10) == id)
            mount_line(line, report);
    }
    free(line);
    fclose(mounts);
}

static int look(int fd, struct doctor_report *report)
{
    struct stat st, root;
    struct statvfs space;
    struct statfs fs;

    if (fstat(fd, &st) != 0 || fstatvfs(fd, &space) != 0 || fstatfs(fd, &fs) != 0)
        return -errno;
    report->fuse = fs.f_type == FUSE_MAGIC;
    report->on_root = stat("/", &root) == 0 && root.st_dev == st.st_dev;
    report->others_can_write = (st.st_mode & (S_IWGRP | S_IWOTH)) && !(st.st_mode & S_ISVTX);
    report->free_bytes = (uint64_t)space.f_bavail * space.f_frsize;
    report->total_bytes = (uint64_t)space.f_blocks * space.f_frsize;
    report->free_files = space.f_favail;
    report->space_sane = report->total_bytes > 0 && space.f_bavail <= space.f_blocks && space.f_bfree <= space.f_blocks;
    mount_look(fd, report);
    return 0;
}

int doctor_look(const char *directory, struct doctor_report *report)
{
    const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const int err = look(fd, report);
    close(fd);
    return err;
}

/* ---- the steps; each returns 0 or -errno, and DOCTOR_ABSENT's errno for what need not be there ---- */

struct trying {
    struct doctor_report *report;
    struct doctor_result *result; /* of the step under way */
    const char *directory, *other;
    uint64_t wait_ms;
    char first[PATH_BYTES], second[PATH_BYTES];
    uint8_t *memory; /* DOCTOR_DEPTH MiB, aligned */
};

static int err_of(int rc)
{
    return rc < 0 ? -errno : 0;
}

static const char *path_of(char out[PATH_BYTES], const struct trying *trying, const char *name)
{
    snprintf(out, PATH_BYTES, "%s/%s", trying->report->folder, name);
    return out;
}

static int make_folder(struct trying *trying)
{
    char *folder = trying->report->folder;

    snprintf(folder, sizeof trying->report->folder, "%s/.kvctl-doctor-XXXXXX", trying->directory);
    if (mkdtemp(folder))
        return 0;
    folder[0] = '\0';
    return -errno;
}

static int create(struct trying *trying)
{
    const int fd = open(trying->first, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    const int again = open(trying->first, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (again < 0)
        return errno == EEXIST ? 0 : -errno;
    close(again);
    return doctor_text(trying->result, -EIO, "O_EXCL let a name be created twice");
}

static int full_size(struct trying *trying)
{
    struct stat st = {0};

    int err = err_of(truncate(trying->first, DOCTOR_FULL_BYTES));
    if (!err)
        err = err_of(stat(trying->first, &st));
    if (err)
        return err;
    trying->report->truncated_blocks_bytes = (uint64_t)st.st_blocks * 512;
    if (st.st_size != DOCTOR_FULL_BYTES)
        return doctor_text(trying->result, -EIO, "the length is %lld after a truncate to %d", (long long)st.st_size, DOCTOR_FULL_BYTES);
    return doctor_text(trying->result, 0, "256 MiB with nothing in it take %" PRIu64 " KiB", trying->report->truncated_blocks_bytes / KIB);
}

static int open_direct(const struct trying *trying)
{
    const int fd = open(trying->first, O_RDWR | O_CLOEXEC | (trying->report->direct ? O_DIRECT : 0));
    return fd < 0 ? -errno : fd;
}

static int direct_open(struct trying *trying)
{
    trying->report->direct = true;
    const int fd = open_direct(trying);
    if (fd >= 0)
        close(fd);
    trying->report->direct = fd >= 0;
    return fd < 0 ? fd : 0;
}

static void fill(uint8_t *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)(i * 131 + (i >> 9) + seed);
}

static int direct_write(struct trying *trying)
{
    fill(trying->memory, DOCTOR_IO_BYTES, 1);
    const int fd = open_direct(trying);
    if (fd < 0)
        return fd;
    const ssize_t put = pwrite(fd, trying->memory, DOCTOR_IO_BYTES, DOCTOR_IO_BYTES);
    const int err = put < 0 ? -errno : 0;
    close(fd);
    return err || put == DOCTOR_IO_BYTES ? err : doctor_text(trying->result, -EIO, "a write of 1 MiB wrote %zd bytes", put);
}

static int direct_read(struct trying *trying)
{
    uint8_t *back = trying->memory + DOCTOR_IO_BYTES;

    memset(back, 0, DOCTOR_IO_BYTES);
    const int fd = open_direct(trying);
    if (fd < 0)
        return fd;
    const ssize_t got = pread(fd, back, DOCTOR_IO_BYTES, DOCTOR_IO_BYTES);
    const int err = got < 0 ? -errno : 0;
    close(fd);
    if (err)
        return err;
    if (got != DOCTOR_IO_BYTES || memcmp(trying->memory, back, DOCTOR_IO_BYTES) != 0)
        return doctor_text(trying->result, -EIO, "%s", got == DOCTOR_IO_BYTES ? "other bytes came back" : "a read came back short");
    return 0;
}

static int sync_file(struct trying *trying)
{
    struct stat st = {0};

    const int fd = open(trying->first, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = err_of(fsync(fd));
    if (!err)
        err = err_of(fstat(fd, &st));
    trying->report->written_blocks_bytes = (uint64_t)st.st_blocks * 512;
    close(fd);
    return err;
}

/* A small file, written through the page cache, synced, and read by another descriptor. */
static int write_small(const char *path, const uint8_t *bytes, size_t len)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    const ssize_t put = write(fd, bytes, len);
    int err = put < 0 ? -errno : (size_t)put == len ? 0 : -EIO;
    if (!err)
        err = err_of(fsync(fd));
    return close(fd) < 0 && !err ? -errno : err;
}

static int small_is(struct trying *trying, const char *path, const uint8_t *bytes, size_t len)
{
    uint8_t back[SMALL_BYTES + 1];

    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const ssize_t got = read(fd, back, sizeof back);
    const int err = got < 0 ? -errno : 0;
    close(fd);
    if (!err && ((size_t)got != len || memcmp(back, bytes, len) != 0))
        return doctor_text(trying->result, -EIO, "other bytes came back");
    return err;
}

static int buffered(struct trying *trying)
{
    fill(trying->memory, SMALL_BYTES, 2);
    const int err = write_small(trying->second, trying->memory, SMALL_BYTES);
    return err ? err : small_is(trying, trying->second, trying->memory, SMALL_BYTES);
}

static int rename_file(struct trying *trying)
{
    char path[PATH_BYTES];
    struct stat st;

    int err = err_of(rename(trying->second, path_of(path, trying, "renamed")));
    if (!err)
        err = small_is(trying, path, trying->memory, SMALL_BYTES);
    if (!err && stat(trying->second, &st) == 0)
        err = doctor_text(trying->result, -EIO, "the old name is there as well");
    return err;
}

static int replace(struct trying *trying)
{
    char path[PATH_BYTES];

    fill(trying->memory, SMALL_BYTES / 2, 3);
    int err = write_small(trying->second, trying->memory, SMALL_BYTES / 2);
    if (!err)
        err = err_of(rename(trying->second, path_of(path, trying, "renamed")));
    return err ? err : small_is(trying, path, trying->memory, SMALL_BYTES / 2);
}

static int sync_folder(struct trying *trying)
{
    const int fd = open(trying->report->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const int err = err_of(fsync(fd));
    close(fd);
    return err;
}

static int list(struct trying *trying)
{
    unsigned found = 0;
    const struct dirent *entry;

    DIR *dir = opendir(trying->report->folder);
    if (!dir)
        return -errno;
    errno = 0;
    while ((entry = readdir(dir)) != NULL)
        found += strcmp(entry->d_name, "segment") == 0 || strcmp(entry->d_name, "renamed") == 0;
    const int err = -errno;
    closedir(dir);
    if (!err && found != 2)
        return doctor_text(trying->result, -EIO, "it shows %u of 2 files", found);
    return err;
}

static int lock(struct trying *trying)
{
    const int one = open(trying->first, O_RDWR | O_CLOEXEC);
    const int two = open(trying->first, O_RDWR | O_CLOEXEC);
    int err = one < 0 || two < 0 ? -errno : err_of(flock(one, LOCK_EX | LOCK_NB));

    if (!err && flock(two, LOCK_EX | LOCK_NB) == 0)
        err = doctor_text(trying->result, -EIO, "it was given twice");
    if (one >= 0)
        close(one);
    if (two >= 0)
        close(two);
    return err;
}

/* What a reader that has the file open still sees of it is no failure either way: 3FS deletes late, and does not track readers. */
static int unlink_file(struct trying *trying)
{
    struct stat st;
    const int fd = open_direct(trying);
    if (fd < 0)
        return fd;
    int err = err_of(unlink(trying->first));
    if (!err && stat(trying->first, &st) == 0)
        err = doctor_text(trying->result, -EIO, "the name is still there");
    if (!err) {
        const ssize_t got = pread(fd, trying->memory, DOCTOR_IO_BYTES, DOCTOR_IO_BYTES);
        doctor_text(trying->result, 0, "who has it open can%s read it", got == DOCTOR_IO_BYTES ? " still" : "not");
    }
    close(fd);
    return err;
}

static int try_fallocate(struct trying *trying)
{
    const int fd = open(trying->second, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    const int err = err_of(fallocate(fd, 0, 0, 65536));
    close(fd);
    return err;
}

static int try_tmpfile(struct trying *trying)
{
    const int fd = open(trying->report->folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int try_noreplace(struct trying *trying)
{
    char path[PATH_BYTES];

    /* To a name that is free: where it is taken, the kernel refuses by itself. */
    const int err = write_small(trying->second, trying->memory, 1);
    return err ? err : err_of(renameat2(AT_FDCWD, trying->second, AT_FDCWD, path_of(path, trying, "free"), RENAME_NOREPLACE));
}

static int ring_open(struct trying *trying)
{
    return doctor_ring_open(trying->result);
}

static int ring_writes(struct trying *trying)
{
    return doctor_ring_writes(trying->report, trying->report->folder, trying->memory);
}

static int ring_reads(struct trying *trying)
{
    return doctor_ring_reads(trying->report, trying->report->folder, trying->memory);
}

static int bandwidth(struct trying *trying)
{
    return doctor_ring_bandwidth(trying->report, trying->report->folder, trying->memory);
}

static int watch(struct trying *trying)
{
    const char *name = strrchr(trying->report->folder, '/');
    char other[PATH_BYTES];

    snprintf(other, sizeof other, "%s%s", trying->other, name);
    return doctor_watch(trying->report, trying->report->folder, other, trying->wait_ms);
}

/* ---- all of them ---- */

int doctor_clean_up(const char *folder)
{
    char path[PATH_BYTES];
    const struct dirent *entry;
    int err = 0;

    DIR *dir = opendir(folder);
    if (!dir)
        return -errno;
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (unlink(path) != 0 && errno != ENOENT)
            err = -errno;
    }
    closedir(dir);
    return rmdir(folder) == 0 ? 0 : err ? err : -errno;
}

static int clean_up(struct trying *trying)
{
    const int err = doctor_clean_up(trying->report->folder);
    if (!err)
        trying->report->folder[0] = '\0';
    return err;
}

#define NEEDS(check) ((uint32_t)1 << (check))

struct step {
    enum doctor_check check;
    int (*run)(struct trying *trying);
    uint32_t needs; /* NEEDS() of those that must have gone well */
    bool optional;  /* a failure means that it is not there */
};

static const struct step STEPS[] = {
    {DOCTOR_FOLDER, make_folder, 0, false},
    {DOCTOR_CREATE, create, NEEDS(DOCTOR_FOLDER), false},
    {DOCTOR_FULL_SIZE, full_size, NEEDS(DOCTOR_CREATE), false},
    {DOCTOR_DIRECT_OPEN, direct_open, NEEDS(DOCTOR_CREATE), true},
    {DOCTOR_DIRECT_WRITE, direct_write, NEEDS(DOCTOR_CREATE), false},
    {DOCTOR_DIRECT_READ, direct_read, NEEDS(DOCTOR_DIRECT_WRITE), false},
    {DOCTOR_SYNC, sync_file, NEEDS(DOCTOR_DIRECT_WRITE), false},
    {DOCTOR_BUFFERED, buffered, NEEDS(DOCTOR_FOLDER), false},
    {DOCTOR_RENAME, rename_file, NEEDS(DOCTOR_BUFFERED), false},
    {DOCTOR_REPLACE, replace, NEEDS(DOCTOR_RENAME), false},
    {DOCTOR_SYNC_FOLDER, sync_folder, NEEDS(DOCTOR_FOLDER), false},
    {DOCTOR_LIST, list, NEEDS(DOCTOR_REPLACE) | NEEDS(DOCTOR_CREATE), false},
    {DOCTOR_LOCK, lock, NEEDS(DOCTOR_CREATE), false},
    {DOCTOR_UNLINK, unlink_file, NEEDS(DOCTOR_CREATE), false},
    {DOCTOR_FALLOCATE, try_fallocate, NEEDS(DOCTOR_FOLDER), true},
    {DOCTOR_TMPFILE, try_tmpfile, NEEDS(DOCTOR_FOLDER), true},
    {DOCTOR_NOREPLACE, try_noreplace, NEEDS(DOCTOR_REPLACE), true},
    {DOCTOR_RING, ring_open, 0, false},
    {DOCTOR_RING_WRITES, ring_writes, NEEDS(DOCTOR_RING) | NEEDS(DOCTOR_DIRECT_WRITE), false},
    {DOCTOR_RING_READS, ring_reads, NEEDS(DOCTOR_RING_WRITES), false},
    {DOCTOR_BANDWIDTH, bandwidth, NEEDS(DOCTOR_RING_WRITES), false},
    {DOCTOR_OTHER, watch, NEEDS(DOCTOR_REPLACE), false},
    {DOCTOR_CLEAN_UP, clean_up, NEEDS(DOCTOR_FOLDER), false},
};

static bool is_due(const struct trying *trying, const struct step *step)
{
    if (step->check == DOCTOR_OTHER && !trying->other)
        return false;
    if (atomic_load(&trying->report->stop) && step->check != DOCTOR_CLEAN_UP)
        return false;
    for (unsigned check = 0; check < DOCTOR_CHECKS; check++) {
        if ((step->needs & NEEDS(check)) && trying->report->results[check].outcome != DOCTOR_OK)
            return false;
    }
    return true;
}

static enum doctor_outcome outcome_of(const struct step *step, int err)
{
    if (err == 0)
        return DOCTOR_OK;
    return step->optional || (step->check == DOCTOR_SYNC_FOLDER && err == -EINVAL) ? DOCTOR_ABSENT : DOCTOR_FAILED;
}

static void step_run(struct trying *trying, const struct step *step)
{
    struct doctor_result *result = &trying->report->results[step->check];
    const uint64_t started = doctor_now_us();

    trying->result = result;
    const int err = step->run(trying);
    result->us = doctor_now_us() - started;
    result->err = result->text[0] != '\0' ? 0 : err;
    result->outcome = outcome_of(step, err);
    if (step->check == DOCTOR_FOLDER && err == 0) {
        path_of(trying->first, trying, "segment");
        path_of(trying->second, trying, "small");
    }
}

void doctor_try(const char *directory, const char *other, uint64_t wait_ms, struct doctor_report *report, doctor_began_fn began, void *arg)
{
    struct trying trying = {.report = report, .directory = directory, .other = other, .wait_ms = wait_ms};

    trying.memory = aligned_alloc(BLOCK_BYTES, (size_t)DOCTOR_DEPTH * DOCTOR_IO_BYTES);
    if (!trying.memory) {
        report->results[DOCTOR_FOLDER] = (struct doctor_result){.outcome = DOCTOR_FAILED, .err = -ENOMEM};
        return;
    }
    memset(trying.memory, 7, (size_t)DOCTOR_DEPTH * DOCTOR_IO_BYTES); /* faults are not to be measured */
    for (size_t i = 0; i < sizeof STEPS / sizeof STEPS[0]; i++) {
        if (!is_due(&trying, &STEPS[i]))
            continue;
        atomic_store(&report->current, (int)STEPS[i].check);
        began(arg);
        step_run(&trying, &STEPS[i]);
    }
    atomic_store(&report->current, DOCTOR_CHECKS);
    free(trying.memory);
}
