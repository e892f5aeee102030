#include "loop/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "loop/loop_impl.h"

enum { ALIGN_BYTES = 4096, FUSE_MAGIC = 0x65735546, CHUNK_BYTES = 1 << 30 };

static void fs_count(struct loop *loop)
{
    atomic_fetch_add_explicit(&loop->fs_calls, 1, memory_order_relaxed);
}

static int err_of(int rc)
{
    return rc < 0 ? -errno : 0;
}

/* ---- files ---- */

static int open_retry(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

/* O_NONBLOCK, so that a fifo cannot hang us; it is taken off again, because a ring would obey it. */
static int open_existing(const char *path, int flags)
{
    int fd = open_retry(path, flags | O_NONBLOCK);
    if (fd < 0)
        return fd;
    int now = fcntl(fd, F_GETFL);
    if (now >= 0 && fcntl(fd, F_SETFL, now & ~O_NONBLOCK) == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

/* A created file is opened a second time for O_DIRECT: a file system that refuses it would have created the name first. */
static int open_as(const char *path, unsigned flags, bool *direct)
{
    int mode = flags & FS_READ_ONLY ? O_RDONLY : O_RDWR;
    int plain = -1;
    if (flags & FS_CREATE) {
        plain = open_retry(path, mode | O_CREAT | O_EXCL);
        if (plain < 0 || !(flags & FS_DIRECT))
            return plain;
    }
    if (flags & FS_DIRECT) {
        int fd = open_existing(path, mode | O_DIRECT);
        if (fd != -EINVAL) {
            *direct = fd >= 0;
            if (plain >= 0)
                close(plain);
            if (plain >= 0 && fd < 0)
                (void)unlink(path);
            return fd;
        }
    }
    return plain >= 0 ? plain : open_existing(path, mode);
}

/* Returns 0 for a regular file. */
static int judge_file(int fd, bool *punt)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return -errno;
    *punt = fs.f_type == FUSE_MAGIC;
    return 0;
}

int fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags)
{
    fs_count(loop);
    bool direct = false;
    bool punt = false;
    int fd = open_as(path, flags, &direct);
    if (fd == -ENXIO || fd == -EISDIR)
        return -EINVAL; /* a socket, a fifo or a folder */
    if (fd < 0)
        return fd;
    int err = judge_file(fd, &punt);
    if (err) {
        close(fd);
        return err;
    }
    *file = (struct file){.fd = fd, .direct = direct, .punt = punt};
    return 0;
}

/* EINTR too means closed on Linux. */
int fs_close(struct loop *loop, struct file *file)
{
    fs_count(loop);
    int rc = close(file->fd);
    file->fd = -1;
    return rc < 0 && errno != EINTR ? -errno : 0;
}

static size_t chunk(uint64_t len)
{
    return len < CHUNK_BYTES ? (size_t)len : (size_t)CHUNK_BYTES;
}

int64_t fs_read(struct loop *loop, const struct file *file, void *buf, uint64_t len, uint64_t offset)
{
    fs_count(loop);
    uint64_t done = 0;
    while (done < len) {
        ssize_t got = pread(file->fd, (char *)buf + done, chunk(len - done), (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        done += (uint64_t)got;
        /* Direct reads end unaligned only where the file does, and could not go on from there. */
        if (got == 0 || (file->direct && got % ALIGN_BYTES != 0))
            break;
    }
    return (int64_t)done;
}

int fs_write(struct loop *loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset)
{
    fs_count(loop);
    uint64_t done = 0;
    while (done < len) {
        ssize_t put = pwrite(file->fd, (const char *)buf + done, chunk(len - done), (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        if (file->direct && (uint64_t)put < len - done)
            put -= put % ALIGN_BYTES;
        if (put == 0)
            return -EIO;
        done += (uint64_t)put;
    }
    return 0;
}

static int sync_retry(int fd)
{
    int rc;
    do
        rc = fsync(fd);
    while (rc < 0 && errno == EINTR);
    return err_of(rc);
}

int fs_sync(struct loop *loop, const struct file *file)
{
    fs_count(loop);
    return sync_retry(file->fd);
}

int fs_truncate(struct loop *loop, const struct file *file, uint64_t len)
{
    fs_count(loop);
    int rc;
    do
        rc = ftruncate(file->fd, (off_t)len);
    while (rc < 0 && errno == EINTR);
    return err_of(rc);
}

int64_t fs_size(struct loop *loop, const struct file *file)
{
    fs_count(loop);
    struct stat st;
    return fstat(file->fd, &st) < 0 ? -errno : st.st_size;
}

int fs_lock(struct loop *loop, const struct file *file)
{
    fs_count(loop);
    int rc;
    do
        rc = flock(file->fd, LOCK_EX | LOCK_NB);
    while (rc < 0 && errno == EINTR);
    return err_of(rc);
}

/* ---- names ---- */

int fs_unlink(struct loop *loop, const char *path)
{
    fs_count(loop);
    return err_of(unlink(path));
}

int fs_rename(struct loop *loop, const char *from, const char *to)
{
    fs_count(loop);
    return err_of(rename(from, to));
}

int fs_link(struct loop *loop, const char *from, const char *to)
{
    fs_count(loop);
    return err_of(link(from, to));
}

int fs_remove_dir(struct loop *loop, const char *path)
{
    fs_count(loop);
    return err_of(rmdir(path));
}

/* ---- folders ---- */

/* With O_DIRECTORY the kernel says ENOTDIR for a symbolic link as well. */
static int open_dir(const char *path)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY);
    struct stat st;
    if (fd == -ENOTDIR && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        return -ELOOP;
    return fd;
}

static int sync_dir(const char *path)
{
    int fd = open_dir(path);
    if (fd < 0)
        return fd;
    int err = sync_retry(fd);
    close(fd);
    return err == -EINVAL ? 0 : err;
}

int fs_sync_dir(struct loop *loop, const char *path)
{
    fs_count(loop);
    return sync_dir(path);
}

/* Sync the folder that holds `path`, which has no trailing slash. */
static int sync_parent(const char *path)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        return sync_dir(".");
    if (slash == path)
        return sync_dir("/");
    /* With the slash, so that a parent that is a symbolic link is followed, as making the folder did. */
    snprintf(parent, sizeof parent, "%.*s/", (int)(slash - path), path);
    return sync_dir(parent);
}

/* Symbolic links on the way are followed; in the last place they are not. */
static int make_dir(const char *path, bool last)
{
    struct stat st;
    if (mkdir(path, 0700) == 0)
        return sync_parent(path);
    int err = -errno;
    if ((last ? lstat(path, &st) : stat(path, &st)) < 0)
        return err;
    if (S_ISLNK(st.st_mode))
        return -ELOOP;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int fs_make_dirs(struct loop *loop, const char *path)
{
    fs_count(loop);
    char part[PATH_MAX];
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (len == 0)
        return -ENOENT;
    if (len >= sizeof part)
        return -ENAMETOOLONG;
    memcpy(part, path, len);
    part[len] = '\0';
    for (size_t i = 1; i < len; i++) {
        if (part[i] != '/' || part[i - 1] == '/')
            continue;
        part[i] = '\0';
        int err = make_dir(part, false);
        if (err)
            return err;
        part[i] = '/';
    }
    return make_dir(part, true);
}

/* The id by which mountinfo knows the mount that `fd` is on, or -1. Exact where mounts lie over one another, which
 * comparing paths is not. */
static int mount_id(int fd)
{
    char path[64];
    char line[256];
    int id = -1;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *info = fopen(path, "re");
    if (!info)
        return -1;
    while (id < 0 && fgets(line, sizeof line, info))
        if (sscanf(line, "mnt_id: %d", &id) != 1)
            id = -1;
    fclose(info);
    return id;
}

/* "36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw": blanks inside fields are escaped there. */
static void mount_type(int fd, char *out, size_t out_len)
{
    int id = mount_id(fd);
    snprintf(out, out_len, "unknown");
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (!mounts)
        return;
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, mounts) > 0) {
        const char *rest = strstr(line, " - ");
        if (!rest || atoi(line) != id)
            continue;
        rest += 3;
        snprintf(out, out_len, "%.*s", (int)strcspn(rest, " \n"), rest);
        break;
    }
    free(line);
    fclose(mounts);
}

static int dir_info(int fd, struct fs_dir_info *out)
{
    struct stat st;
    struct statvfs fs;
    if (fstat(fd, &st) < 0 || fstatvfs(fd, &fs) < 0)
        return -errno;
    *out = (struct fs_dir_info){
        .device = st.st_dev,
        .others_can_write = (st.st_mode & (S_IWGRP | S_IWOTH)) && !(st.st_mode & S_ISVTX),
        .free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize,
        .total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize,
    };
    mount_type(fd, out->type, sizeof out->type);
    return 0;
}

int fs_dir_info(struct loop *loop, const char *path, struct fs_dir_info *out)
{
    fs_count(loop);
    int fd = open_dir(path);
    if (fd < 0)
        return fd;
    int err = dir_info(fd, out);
    close(fd);
    return err;
}

/* Returns 0 to go on, 1 to stop, or -errno. A name that has gone meanwhile is passed over. */
static int list_entry(DIR *dir, const char *name, fs_list_fn fn, void *arg)
{
    struct stat st;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return 0;
    if (fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    return fn(arg, name, S_ISREG(st.st_mode), (uint64_t)st.st_size) ? 0 : 1;
}

int fs_list(struct loop *loop, const char *path, fs_list_fn fn, void *arg)
{
    fs_count(loop);
    int fd = open_dir(path);
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int err = -errno;
        close(fd);
        return err;
    }
    int next = 0;
    while (next == 0) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            next = -errno;
            break;
        }
        next = list_entry(dir, entry->d_name, fn, arg);
    }
    closedir(dir);
    return next < 0 ? next : 0;
}
