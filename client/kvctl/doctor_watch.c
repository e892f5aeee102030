/* What another path to the same folder (another host's mount) sees, and how late: its caches are filled first, then all is changed at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "client/kvctl/doctor.h"

enum { PATH_BYTES = PATH_MAX + 128, POLL_MS = 20, SHOW_MS = 5000, OLD_BYTES = 4096, NEW_BYTES = 8192 };

static const char *const FILES[DOCTOR_SIGHTS] = {"watch-new", "watch-size", "watch-gone", "watch-replaced"};

static const char *path_in(char out[PATH_BYTES], const char *folder, const char *name)
{
    snprintf(out, PATH_BYTES, "%s/%s", folder, name);
    return out;
}

static int put(const char *folder, const char *name, size_t bytes, char filling)
{
    char path[PATH_BYTES], data[NEW_BYTES];

    memset(data, filling, sizeof data);
    const int fd = open(path_in(path, folder, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    const ssize_t done = write(fd, data, bytes);
    int err = done < 0 ? -errno : (size_t)done == bytes ? 0 : -EIO;
    if (!err && fsync(fd) != 0)
        err = -errno;
    close(fd);
    return err;
}

static char first_byte(const char *path)
{
    char byte = 0;

    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (read(fd, &byte, 1) != 1)
        byte = 0;
    close(fd);
    return byte;
}

static bool is_seen(const char *other, enum doctor_sight sight)
{
    char path[PATH_BYTES];
    struct stat st;

    path_in(path, other, FILES[sight]);
    switch (sight) {
    case DOCTOR_NEW_NAME:
        return stat(path, &st) == 0;
    case DOCTOR_NEW_SIZE:
        return stat(path, &st) == 0 && st.st_size == NEW_BYTES;
    case DOCTOR_GONE:
        return stat(path, &st) != 0 && errno == ENOENT;
    default:
        return first_byte(path) == 'n';
    }
}

static void nap(void)
{
    const struct timespec time = {.tv_nsec = POLL_MS * 1000000L};
    nanosleep(&time, NULL);
}

/* The folder itself has never been looked up there, so no cache hides it. */
static bool same_folder(struct doctor_report *report, const char *other)
{
    const uint64_t end = doctor_now_us() + (uint64_t)SHOW_MS * 1000;
    struct stat st;

    while (stat(other, &st) != 0) {
        if (doctor_now_us() > end || atomic_load(&report->stop))
            return false;
        nap();
    }
    return true;
}

/* Files as they are before, and looked at from there, so that whoever caches does. */
static int prepare(struct doctor_report *report, const char *folder, const char *other)
{
    int err = 0;

    for (unsigned i = DOCTOR_NEW_SIZE; i < DOCTOR_SIGHTS && !err; i++)
        err = put(folder, FILES[i], OLD_BYTES, 'o');
    if (err)
        return err;
    if (!same_folder(report, other))
        return doctor_text(&report->results[DOCTOR_OTHER], -ENOENT, "it does not show the same directory");
    for (unsigned i = 0; i < DOCTOR_SIGHTS; i++) {
        char path[PATH_BYTES];
        (void)first_byte(path_in(path, other, FILES[i]));
        (void)is_seen(other, (enum doctor_sight)i);
    }
    return 0;
}

static int change(const char *folder)
{
    char from[PATH_BYTES], to[PATH_BYTES];

    int err = put(folder, FILES[DOCTOR_NEW_NAME], OLD_BYTES, 'n');
    if (!err)
        err = put(folder, FILES[DOCTOR_NEW_SIZE], NEW_BYTES, 'n');
    if (!err)
        err = put(folder, "watch-next", OLD_BYTES, 'n');
    if (!err && (unlink(path_in(from, folder, FILES[DOCTOR_GONE])) != 0 ||
                 rename(path_in(from, folder, "watch-next"), path_in(to, folder, FILES[DOCTOR_REPLACED])) != 0))
        err = -errno;
    return err;
}

/* True when everything is seen. */
static bool look(struct doctor_report *report, const char *other, uint64_t started_us)
{
    bool all = true;

    for (unsigned i = 0; i < DOCTOR_SIGHTS; i++) {
        if (report->seen_ms[i] == UINT64_MAX && is_seen(other, (enum doctor_sight)i))
            report->seen_ms[i] = (doctor_now_us() - started_us) / 1000;
        all = all && report->seen_ms[i] != UINT64_MAX;
    }
    return all;
}

int doctor_watch(struct doctor_report *report, const char *folder, const char *other, uint64_t wait_ms)
{
    for (unsigned i = 0; i < DOCTOR_SIGHTS; i++)
        report->seen_ms[i] = UINT64_MAX;
    int err = prepare(report, folder, other);
    if (!err)
        err = change(folder);
    if (err)
        return err;
    const uint64_t started = doctor_now_us();
    while (!look(report, other, started) && !atomic_load(&report->stop) && doctor_now_us() - started < wait_ms * 1000)
        nap();
    return 0;
}
