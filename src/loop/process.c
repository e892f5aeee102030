#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "loop/loop.h"

int loop_random(struct loop *loop, void *bytes, size_t len)
{
    (void)loop;
    size_t done = 0;
    while (done < len) {
        ssize_t got = getrandom((char *)bytes + done, len - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        done += (size_t)got;
    }
    return 0;
}

/* Nothing can be done about a log that cannot be written. */
static void stderr_sink(void *arg, const char *line, size_t len)
{
    (void)arg;
    struct timespec now;
    struct tm utc;
    char stamp[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(stamp, sizeof stamp, "ts=%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(stamp + used, sizeof stamp - used, ".%03ldZ ", now.tv_nsec / 1000000);
    struct iovec parts[3] = {
        {.iov_base = stamp, .iov_len = used},
        {.iov_base = (void *)(uintptr_t)line, .iov_len = len},
        {.iov_base = (char[]){'\n'}, .iov_len = 1},
    };
    ssize_t written = writev(STDERR_FILENO, parts, 3);
    (void)written;
}

void loop_log_to_stderr(struct log *log, enum log_level level)
{
    *log = (struct log){.level = level, .sink = stderr_sink};
}

int loop_host_name(char *out, size_t out_len)
{
    char name[HOST_NAME_MAX + 1];
    if (gethostname(name, sizeof name) < 0)
        return -errno;
    name[HOST_NAME_MAX] = '\0';
    snprintf(out, out_len, "%s", name);
    return 0;
}

int loop_boot_mark(uint8_t out[BOOT_MARK_BYTES])
{
    char text[BOOT_MARK_BYTES + 8];
    int64_t len = loop_read_small_file("/proc/sys/kernel/random/boot_id", text, sizeof text);
    if (len < BOOT_MARK_BYTES)
        return len < 0 ? (int)len : -ENODATA;
    memcpy(out, text, BOOT_MARK_BYTES);
    return 0;
}

uint64_t loop_raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

uint64_t loop_host_memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

uint64_t loop_rss_bytes(void)
{
    unsigned long total;
    unsigned long resident = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (!statm)
        return 0;
    if (fscanf(statm, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(statm);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The number that follows `name` (on a line of its own, or at the start) in a small file of the kernel's; UINT64_MAX: there is none. */
static uint64_t figure_of(const char *path, const char *name)
{
    unsigned long long value;
    char line[256];
    uint64_t figure = UINT64_MAX;
    FILE *file = fopen(path, "re");
    if (!file)
        return UINT64_MAX;
    while (figure == UINT64_MAX && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), "%llu", &value) == 1)
            figure = value;
    fclose(file);
    return figure;
}

/* What the control group of this process may have; UINT64_MAX: no bound is known. */
static uint64_t group_limit_bytes(void)
{
    char group[256] = "", path[sizeof group + 64];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return UINT64_MAX;
    while (fgets(group, sizeof group, file) && strncmp(group, "0::/", 4) != 0)
        group[0] = '\0';
    fclose(file);
    group[strcspn(group, "\n")] = '\0';
    if (group[0] == '\0')
        return UINT64_MAX;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group + 3);
    return figure_of(path, "");
}

uint64_t loop_available_memory_bytes(void)
{
    uint64_t free_kib = figure_of("/proc/meminfo", "MemAvailable:");
    uint64_t free_bytes = free_kib == UINT64_MAX ? UINT64_MAX : free_kib * 1024;
    uint64_t limit = group_limit_bytes(), used = loop_rss_bytes();
    uint64_t left = limit == UINT64_MAX ? UINT64_MAX : limit > used ? limit - used : 0;
    return left < free_bytes ? left : free_bytes;
}

static uint64_t ms_of(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_usec / 1000;
}

uint64_t loop_cpu_ms(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) < 0)
        return 0;
    return ms_of(usage.ru_utime) + ms_of(usage.ru_stime);
}

uint64_t loop_cpu_us(void)
{
    struct timespec used;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) < 0)
        return 0;
    return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

static int write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t put = write(fd, text, len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        text += put;
        len -= (size_t)put;
    }
    return 0;
}

int loop_write_small_file(const char *path, const char *text)
{
    char temporary[PATH_MAX];
    int len = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (len < 0 || (size_t)len >= sizeof temporary)
        return -ENAMETOOLONG;
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, text, strlen(text));
    if (close(fd) < 0 && !err)
        err = -errno;
    if (!err && rename(temporary, path) < 0)
        err = -errno;
    if (err)
        (void)unlink(temporary);
    return err;
}

static int64_t read_all(int fd, char *text, size_t len)
{
    size_t used = 0;
    while (used <= len) {
        char beyond;
        ssize_t got = used < len ? read(fd, text + used, len - used) : read(fd, &beyond, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : (int64_t)used;
        used += (size_t)got;
    }
    return -EFBIG;
}

int64_t loop_read_secret_file(const char *path, char *text, size_t len, struct file_rights *rights)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    int64_t got = fstat(fd, &info) < 0 ? -errno : S_ISREG(info.st_mode) ? read_all(fd, text, len) : -EINVAL;
    close(fd);
    if (got >= 0)
        *rights = (struct file_rights){.mode = info.st_mode, .owner = info.st_uid, .reader = geteuid()};
    return got;
}

int64_t loop_read_small_file(const char *path, char *text, size_t len)
{
    struct file_rights rights;
    return loop_read_secret_file(path, text, len, &rights);
}

enum { SMALL_TEXT_BYTES = 64 };

int loop_remove_small_file(const char *path, const char *text)
{
    char now[SMALL_TEXT_BYTES];
    int64_t len = loop_read_small_file(path, now, sizeof now);
    if (len < 0)
        return (int)len;
    if ((size_t)len != strlen(text) || memcmp(now, text, (size_t)len) != 0)
        return -ENOENT;
    return unlink(path) < 0 ? -errno : 0;
}
