#include "client/kvctl/local.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"

enum { FIRST_READ_BYTES = 1 << 20, TEMP_NAMES = 100 };

static int grow(void **bytes, size_t *capacity, size_t limit)
{
    const size_t wanted = *capacity == 0 ? (size_t)min_u64(FIRST_READ_BYTES, limit + 1) : (size_t)min_u64(*capacity * 2, limit + 1);
    void *more = realloc(*bytes, wanted);
    if (!more)
        return -ENOMEM;
    *bytes = more;
    *capacity = wanted;
    return 0;
}

/* One byte more than the limit is asked for: that it comes tells that there is too much. */
static int read_all(int fd, size_t limit, void **bytes, size_t *len)
{
    void *got = NULL;
    size_t capacity = 0, n = 0;
    int err = 0;

    for (;;) {
        if (n == capacity)
            err = n > limit ? KVD_ETOOLARGE : grow(&got, &capacity, limit);
        if (err)
            break;
        const ssize_t step = read(fd, (uint8_t *)got + n, capacity - n);
        if (step == 0 || (step < 0 && errno != EINTR)) {
            err = step < 0 ? -errno : 0;
            break;
        }
        n += step > 0 ? (size_t)step : 0;
    }
    if (err) {
        free(got);
        return err;
    }
    *bytes = got;
    *len = n;
    return 0;
}

int local_read(const char *path, size_t limit, void **bytes, size_t *len)
{
    struct stat st;
    int err = 0;

    if (strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, limit, bytes, len);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size > limit)
        err = KVD_ETOOLARGE;
    else
        err = read_all(fd, limit, bytes, len);
    close(fd);
    return err;
}

static int write_all(int fd, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    while (len > 0) {
        const ssize_t step = write(fd, at, len);
        if (step < 0 && errno != EINTR)
            return -errno;
        at += step > 0 ? step : 0;
        len -= step > 0 ? (size_t)step : 0;
    }
    return 0;
}

/* Write and close. */
static int write_and_close(int fd, const void *bytes, size_t len)
{
    const int err = write_all(fd, bytes, len);
    const int closed = close(fd) == 0 ? 0 : -errno;
    return err ? err : closed;
}

static int write_directly(const char *path, const void *bytes, size_t len)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : write_and_close(fd, bytes, len);
}

/* A new file in the folder of `path`; its name goes to `temp`. */
static int open_temp(const char *path, mode_t mode, char temp[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    const int folder = slash ? (int)(slash - path) + 1 : 0;
    int fd = -1;

    errno = EEXIST;
    for (int i = 0; i < TEMP_NAMES && fd < 0 && errno == EEXIST; i++) {
        if (snprintf(temp, PATH_MAX, "%.*s.kvctl-%ld-%d", folder, path, (long)getpid(), i) >= PATH_MAX)
            return -ENAMETOOLONG;
        fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    }
    return fd < 0 ? -errno : fd;
}

static int write_renamed(const char *path, mode_t mode, const void *bytes, size_t len)
{
    char temp[PATH_MAX];
    const int fd = open_temp(path, mode, temp);
    if (fd < 0)
        return fd;

    int err = write_and_close(fd, bytes, len);
    if (!err && rename(temp, path) != 0)
        err = -errno;
    if (err)
        unlink(temp);
    return err;
}

int local_write(const char *path, const void *bytes, size_t len)
{
    char real[PATH_MAX];
    struct stat st;
    sigset_t all, before;

    /* A link's target is what is meant, not the link. */
    const char *target = realpath(path, real) ? real : path;
    const bool there = stat(target, &st) == 0;
    if (there && !S_ISREG(st.st_mode))
        return write_directly(target, bytes, len);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* an interrupt leaves no temporary file */
    const int err = write_renamed(target, there ? st.st_mode & 0777 : 0666, bytes, len);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}
