/* Blocking calls on files and folders. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop/fs.h"
#include "test/support/quiet.h"
#include "test/support/scratch.h"

struct place {
    struct loop *loop;
    char dir[256];
    char path[2][320];
};

static struct place *place_open(void)
{
    struct place *place = calloc(1, sizeof *place);
    struct loop_options options = {.forbid_ring = true, .io_threads = 1, .job_threads = 1};
    cr_assert_eq(loop_new(&place->loop, &options, &quiet), 0);
    scratch_folder(place->dir, sizeof place->dir);
    return place;
}

static void place_close(struct place *place)
{
    scratch_remove(place->dir);
    loop_free(place->loop);
    free(place);
}

/* Two may be in use at a time. */
static const char *in(struct place *place, unsigned which, const char *name)
{
    snprintf(place->path[which], sizeof place->path[which], "%s/%s", place->dir, name);
    return place->path[which];
}

/* An assertion that removes the folder before it fails. */
#define EXPECT(place, cond)                                      \
    do {                                                         \
        if (!(cond)) {                                           \
            int saved_errno = errno;                             \
            place_close(place);                                  \
            cr_assert_fail("%s (errno %d)", #cond, saved_errno); \
        }                                                        \
    } while (0)

Test(fs, create_write_read_size_truncate, .timeout = 10)
{
    struct place *p = place_open();
    struct file file;
    struct stat st;
    char bytes[16] = "";
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE) == 0);
    EXPECT(p, !file.direct && !file.punt);
    EXPECT(p, fstat(file.fd, &st) == 0 && (st.st_mode & 07777) == 0600);
    EXPECT(p, (fcntl(file.fd, F_GETFL) & O_NONBLOCK) == 0);
    EXPECT(p, (fcntl(file.fd, F_GETFD) & FD_CLOEXEC) != 0);
    EXPECT(p, fs_write(p->loop, &file, "hello world", 11, 5) == 0);
    EXPECT(p, fs_sync(p->loop, &file) == 0);
    EXPECT(p, fs_size(p->loop, &file) == 16);
    EXPECT(p, fs_read(p->loop, &file, bytes, 5, 5) == 5 && memcmp(bytes, "hello", 5) == 0);
    EXPECT(p, fs_read(p->loop, &file, bytes, 16, 11) == 5 && memcmp(bytes, "world", 5) == 0);
    EXPECT(p, fs_read(p->loop, &file, bytes, 16, 16) == 0);
    EXPECT(p, fs_truncate(p->loop, &file, 7) == 0);
    EXPECT(p, fs_size(p->loop, &file) == 7);
    EXPECT(p, fs_close(p->loop, &file) == 0 && file.fd == -1);
    struct file_counts counts;
    loop_file_counts(p->loop, &counts);
    EXPECT(p, counts.other == 10);
    place_close(p);
}

Test(fs, names_that_are_there_or_are_not_and_read_only, .timeout = 10)
{
    struct place *p = place_open();
    struct file file = {.fd = -7};
    char byte;
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), 0) == -ENOENT && file.fd == -7);
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE) == 0);
    EXPECT(p, fs_write(p->loop, &file, "x", 1, 0) == 0);
    EXPECT(p, fs_close(p->loop, &file) == 0);
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE) == -EEXIST);
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE | FS_DIRECT) == -EEXIST);
    EXPECT(p, access(in(p, 0, "a"), F_OK) == 0);
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_READ_ONLY) == 0);
    EXPECT(p, (fcntl(file.fd, F_GETFL) & O_NONBLOCK) == 0);
    EXPECT(p, fs_read(p->loop, &file, &byte, 1, 0) == 1 && byte == 'x');
    EXPECT(p, fs_write(p->loop, &file, "y", 1, 0) == -EBADF);
    EXPECT(p, fs_close(p->loop, &file) == 0);
    place_close(p);
}

Test(fs, only_regular_files_and_no_links, .timeout = 10)
{
    struct place *p = place_open();
    struct file file = {.fd = -7};
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path, "socket"); /* relative: a path has little room there */
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    EXPECT(p, chdir(p->dir) == 0 && sock >= 0 && bind(sock, (struct sockaddr *)&name, sizeof name) == 0);
    close(sock);
    EXPECT(p, mkfifo(in(p, 0, "fifo"), 0600) == 0);
    EXPECT(p, mkdir(in(p, 0, "folder"), 0700) == 0);
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE) == 0 && fs_close(p->loop, &file) == 0);
    EXPECT(p, symlink(in(p, 0, "a"), in(p, 1, "link")) == 0);
    EXPECT(p, symlink(in(p, 0, "folder"), in(p, 1, "link2")) == 0);
    file.fd = -7;
    for (unsigned flags = 0; flags < 8; flags++) {
        if (flags & FS_CREATE)
            continue;
        EXPECT(p, fs_open(p->loop, &file, in(p, 0, "fifo"), flags) == -EINVAL);
        EXPECT(p, fs_open(p->loop, &file, in(p, 0, "folder"), flags) == -EINVAL);
        EXPECT(p, fs_open(p->loop, &file, in(p, 0, "socket"), flags) == -EINVAL);
        EXPECT(p, fs_open(p->loop, &file, in(p, 0, "link"), flags) == -ELOOP);
    }
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "link"), FS_CREATE) == -EEXIST);
    EXPECT(p, file.fd == -7);
    EXPECT(p, fs_sync_dir(p->loop, in(p, 0, "link2")) == -ELOOP);
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "link2")) == -ELOOP);
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "link2/deep")) == 0);
    EXPECT(p, access(in(p, 0, "folder/deep"), F_OK) == 0);
    place_close(p);
}

Test(fs, direct_files_end_where_they_end, .timeout = 10)
{
    enum { LEN = 12288 };
    struct place *p = place_open();
    struct file file;
    void *out = NULL;
    void *back = NULL;
    EXPECT(p, posix_memalign(&out, 4096, LEN) == 0 && posix_memalign(&back, 4096, LEN) == 0);
    memset(out, 3, LEN);
    memset(back, 0, LEN);
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE | FS_DIRECT) == 0);
    EXPECT(p, ((fcntl(file.fd, F_GETFL) & O_DIRECT) != 0) == file.direct);
    EXPECT(p, (fcntl(file.fd, F_GETFL) & O_NONBLOCK) == 0);
    EXPECT(p, fs_write(p->loop, &file, out, LEN, 0) == 0);
    EXPECT(p, fs_truncate(p->loop, &file, 5000) == 0);
    EXPECT(p, fs_read(p->loop, &file, back, LEN, 0) == 5000);
    EXPECT(p, memcmp(out, back, 5000) == 0 && ((char *)back)[5000] == 0);
    EXPECT(p, fs_close(p->loop, &file) == 0);
    EXPECT(p, fs_open(p->loop, &file, "/proc/self/status", FS_DIRECT | FS_READ_ONLY) == 0);
    EXPECT(p, !file.direct);
    EXPECT(p, fs_close(p->loop, &file) == 0);
    free(out);
    free(back);
    place_close(p);
}

Test(fs, rename_unlink_and_folders, .timeout = 10)
{
    struct place *p = place_open();
    struct file file;
    struct stat st;
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "a"), FS_CREATE) == 0 && fs_close(p->loop, &file) == 0);
    EXPECT(p, fs_link(p->loop, in(p, 0, "a"), in(p, 1, "taken")) == 0);
    EXPECT(p, fs_link(p->loop, in(p, 0, "a"), in(p, 1, "taken")) == -EEXIST);
    EXPECT(p, fs_link(p->loop, in(p, 0, "none"), in(p, 1, "other")) == -ENOENT);
    EXPECT(p, fs_unlink(p->loop, in(p, 1, "taken")) == 0);
    EXPECT(p, fs_rename(p->loop, in(p, 0, "a"), in(p, 1, "b")) == 0);
    EXPECT(p, fs_rename(p->loop, in(p, 0, "a"), in(p, 1, "b")) == -ENOENT);
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "x/y//z/")) == 0);
    EXPECT(p, stat(in(p, 0, "x/y/z"), &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 0777) == 0700);
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "x/y/z")) == 0);
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "b/c")) == -ENOTDIR);
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "b")) == -ENOTDIR);
    EXPECT(p, fs_make_dirs(p->loop, "") == -ENOENT);
    EXPECT(p, fs_make_dirs(p->loop, "/") == 0);
    EXPECT(p, fs_sync_dir(p->loop, in(p, 0, "x")) == 0);
    EXPECT(p, fs_sync_dir(p->loop, in(p, 0, "b")) == -ENOTDIR);
    EXPECT(p, fs_sync_dir(p->loop, in(p, 0, "none")) == -ENOENT);
    EXPECT(p, fs_remove_dir(p->loop, in(p, 0, "x/y")) == -ENOTEMPTY);
    EXPECT(p, fs_remove_dir(p->loop, in(p, 0, "x/y/z")) == 0);
    EXPECT(p, fs_unlink(p->loop, in(p, 0, "b")) == 0);
    EXPECT(p, fs_unlink(p->loop, in(p, 0, "b")) == -ENOENT);
    EXPECT(p, chdir(p->dir) == 0 && fs_make_dirs(p->loop, "relative/path") == 0);
    EXPECT(p, access(in(p, 0, "relative/path"), F_OK) == 0 && chdir("/") == 0);
    char *endless = calloc(1, 6000);
    memset(endless, 'a', 5000);
    EXPECT(p, fs_make_dirs(p->loop, endless) == -ENAMETOOLONG);
    free(endless);
    place_close(p);
}

struct listing {
    unsigned regular;
    unsigned other;
    uint64_t bytes;
    unsigned stop_after;
};

static bool on_entry(void *arg, const char *name, bool regular, uint64_t size)
{
    struct listing *listing = arg;
    cr_assert_neq(name[0], '.');
    listing->regular += regular;
    listing->other += !regular;
    if (regular)
        listing->bytes += size;
    return listing->regular + listing->other != listing->stop_after;
}

Test(fs, list, .timeout = 10)
{
    struct place *p = place_open();
    struct file file;
    struct listing all = {0};
    struct listing two = {.stop_after = 2};
    for (unsigned i = 0; i < 3; i++) {
        const char *names[] = {"a", "b", "c"};
        EXPECT(p, fs_open(p->loop, &file, in(p, 0, names[i]), FS_CREATE) == 0);
        EXPECT(p, fs_truncate(p->loop, &file, 100 * (i + 1)) == 0 && fs_close(p->loop, &file) == 0);
    }
    EXPECT(p, fs_make_dirs(p->loop, in(p, 0, "folder")) == 0);
    EXPECT(p, symlink(in(p, 0, "a"), in(p, 1, "link")) == 0);
    EXPECT(p, fs_list(p->loop, p->dir, on_entry, &all) == 0);
    EXPECT(p, all.regular == 3 && all.other == 2 && all.bytes == 600);
    EXPECT(p, fs_list(p->loop, p->dir, on_entry, &two) == 0);
    EXPECT(p, two.regular + two.other == 2);
    EXPECT(p, fs_list(p->loop, in(p, 0, "none"), on_entry, &two) == -ENOENT);
    EXPECT(p, fs_list(p->loop, in(p, 0, "a"), on_entry, &two) == -ENOTDIR);
    place_close(p);
}

Test(fs, dir_info, .timeout = 10)
{
    struct place *p = place_open();
    struct fs_dir_info info;
    struct stat st;
    EXPECT(p, fs_dir_info(p->loop, p->dir, &info) == 0);
    EXPECT(p, stat(p->dir, &st) == 0 && info.device == st.st_dev);
    EXPECT(p, !info.others_can_write && info.total_bytes >= info.free_bytes && info.total_bytes > 0);
    EXPECT(p, info.type[0] != '\0'); /* "unknown" in a chroot, whose own mount is out of its sight */
    EXPECT(p, chmod(p->dir, 0770) == 0 && fs_dir_info(p->loop, p->dir, &info) == 0 && info.others_can_write);
    EXPECT(p, chmod(p->dir, 0702) == 0 && fs_dir_info(p->loop, p->dir, &info) == 0 && info.others_can_write);
    EXPECT(p, chmod(p->dir, 01777) == 0 && fs_dir_info(p->loop, p->dir, &info) == 0 && !info.others_can_write);
    EXPECT(p, fs_dir_info(p->loop, "/proc", &info) == 0 && strcmp(info.type, "proc") == 0);
    EXPECT(p, fs_dir_info(p->loop, in(p, 0, "none"), &info) == -ENOENT);
    place_close(p);
}

/* A child that holds the lock until it is killed. */
static pid_t lock_in_child(const char *path)
{
    int pipes[2];
    char byte = 0;
    cr_assert_eq(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(path, O_RDWR);
        byte = fd >= 0 && flock(fd, LOCK_EX) == 0 ? 'y' : 'n';
        (void)!write(pipes[1], &byte, 1);
        for (;;)
            pause();
    }
    close(pipes[1]);
    cr_assert_eq(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    cr_assert_eq(byte, 'y');
    return pid;
}

Test(fs, a_lock_holds_between_processes_and_ends_with_them, .timeout = 10)
{
    struct place *p = place_open();
    struct file file;
    struct file other;
    EXPECT(p, fs_open(p->loop, &file, in(p, 0, "lock"), FS_CREATE) == 0);
    pid_t pid = lock_in_child(in(p, 0, "lock"));
    int held = fs_lock(p->loop, &file);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    EXPECT(p, held == -EWOULDBLOCK);
    EXPECT(p, fs_lock(p->loop, &file) == 0);
    EXPECT(p, fs_open(p->loop, &other, in(p, 0, "lock"), 0) == 0);
    EXPECT(p, fs_lock(p->loop, &other) == -EWOULDBLOCK);
    EXPECT(p, fs_close(p->loop, &file) == 0);
    EXPECT(p, fs_lock(p->loop, &other) == 0);
    EXPECT(p, fs_close(p->loop, &other) == 0);
    place_close(p);
}

Test(fs, a_full_device_is_an_error_and_not_a_short_write, .timeout = 10)
{
    struct place *p = place_open();
    struct file full = {.fd = open("/dev/full", O_RDWR | O_CLOEXEC)};
    EXPECT(p, full.fd >= 0);
    EXPECT(p, fs_write(p->loop, &full, "x", 1, 0) == -ENOSPC);
    EXPECT(p, fs_close(p->loop, &full) == 0);
    place_close(p);
}
