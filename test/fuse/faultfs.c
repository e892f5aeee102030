/* faultfs - a file system for tests: a folder seen as 3FS's FUSE mount would show it, with faults to order.
 *
 *     faultfs [-o OPTION,...] BACKING MOUNTPOINT
 *
 * It stays in the foreground. Commands come on standard input, one a line, and each is answered by one line that begins with `ok` or
 * `error`; the first line, unasked, is `ok mounted`. At the end of the input, and at SIGTERM, it unmounts and ends. With
 * -o control=PATH they come over a Unix socket instead. test/integration/faultfs.py is the way to use it.
 *
 * As 3FS: type fuse.hf3fs; max_background 32, max_read and max_write 1 MiB; attributes and names cached for 30 s, missing names for 5 s,
 * and nothing invalidates them (a second mount of the same backing is a second host); a stale name opens a removed file; O_DIRECT of
 * any alignment; no fallocate, O_TMPFILE, xattr, RENAME_NOREPLACE or other renameat2 flag; locks hold within one mount; st_blocks is
 * the length; readdir is loaded at opendir; statfs says what was so up to 5 s ago; with `gone`, an unlinked file's bytes go later,
 * wherever it is open; a length that grew by writing is seen on other mounts after fsync, close or truncate, or 30 s later, and
 * fdatasync neither shows it nor makes it durable; with `buffered`, writes without O_DIRECT are acknowledged from a buffer of 1 MiB a
 * file, whose errors show at fsync or close, and which the end of the process loses.
 * Not as 3FS: bytes and names are not durable before an fsync of their file or folder, as on a local disk: the stricter of the two.
 *
 * Options: attr_timeout=S entry_timeout=S negative_timeout=S statfs_timeout=S publish_timeout=S seed=N control=PATH buffered nojournal
 * debug
 *
 * Commands
 *     add RULE...            ok id=1         what goes wrong from now on
 *     rule ID                ok seen=9 fired=1
 *     del ID, clear
 *     release                                drop the rules that hang or step, and let what hangs go on
 *     next                                   let the operation go on that has waited longest for a rule that steps
 *     counters, reset        ok lookup=1 ... write=7 ... hung=0
 *     cap SIZE|off                           ENOSPC when the files take so much; a short write first
 *     erofs on|off                           every change is refused
 *     gone keep|zero|short [DELAY_MS]        bytes of unlinked files go after the delay, or (0) at `reap`
 *     reap                   ok files=1
 *     journal                ok length=3     changes that are not durable
 *     settle                                 all are
 *     hold [seed=N] [keep=F] ok lost=4 kept=2    nothing moves, and the backing is as after a power cut, or (keep=1) a kill ...
 *     resume                                 ... until this, which restores it
 *     powercut [seed=N] [keep=F] [names=any] ok lost=4 kept=2    and the process ends, leaving a dead mount
 *     vanish                                 the process ends, leaving a dead mount: ENOTCONN
 *     bare                                   it unmounts lazily and ends: the bare folder shows
 *
 * A RULE is of words: op=KIND,... (lookup getattr setattr truncate create open read write flush fsync release unlink rename link
 * mkdir rmdir opendir readdir fsyncdir statfs; `names` for all that make or remove one, `change` for all that change something or make
 * it durable, `any`), name=GLOB (of the file's name, or with a slash in it of its path), nth=N (the first one that it concerns, counted
 * from the time the rule was added), count=N (how many from there on; all), p=F (chance); and of what happens: err=EIO, or with `anyway`
 * after it was done; short=F, zero=F, flip (reads; short and flip also writes), torn=F (a write does so much and says all), lost (it does
 * nothing and says all), late (so, and the next fsync or close of that file says err), delay=200ms, hang, step (hang until it is its
 * turn), vanish. F is from 0 to 1. With `buffered`, an err of a write without O_DIRECT is late. A failed fsync makes nothing durable, and
 * later ones do not make up for it.
 */
#define FUSE_USE_VERSION 312

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "test/fuse/inode.h"
#include "test/fuse/journal.h"
#include "test/fuse/rules.h"

enum { IO_MAX_BYTES = 1 << 20, BACKGROUND_MAX = 32, THREADS_MAX = 512, BLOCK_BYTES = 4096, LINE_BYTES = 1024 };

struct faultfs {
    struct rules *rules;
    struct journal *journal;
    struct inodes inodes;
    struct inode *root;
    struct fuse_session *session;
    char *backing;
    uint64_t cap_bytes; /* UINT64_MAX: none; under the journal's lock, as the next two */
    bool read_only;
    bool dead; /* the power is cut */
    bool held; /* the commands' thread has the journal's lock */
    atomic_flag ending;
    struct statvfs statfs; /* under the journal's lock, as the next */
    uint64_t statfs_ms;    /* when it was true; 0: never */
    /* options */
    double attr_timeout, entry_timeout, negative_timeout, statfs_timeout, publish_timeout;
    int buffered;
    char *control;
    unsigned seed;
    int nojournal;
};

/* A folder as it was when it was opened. */
struct listing {
    size_t count, room;
    struct listed {
        char name[NAME_MAX + 1];
        struct stat st;
    } * at;
};

static struct faultfs *fs_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static struct inode *node_of(fuse_req_t req, fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? fs_of(req)->root : (struct inode *)(uintptr_t)ino;
}

/* Ask the rules about `child` of `inode`, or itself. Returns true when the answer was an error, which has been sent. */
static bool refused(fuse_req_t req, enum op op, const struct inode *inode, const char *child, struct verdict *verdict)
{
    char path[INODE_PATH_BYTES];
    inode_path(&fs_of(req)->inodes, inode, child, path);
    rules_ask(fs_of(req)->rules, op, path, verdict);
    if (!verdict->err || verdict->anyway || verdict->late)
        return false;
    fuse_reply_err(req, verdict->err);
    return true;
}

static void reply(fuse_req_t req, const struct verdict *verdict, int err)
{
    fuse_reply_err(req, verdict->anyway && verdict->err ? verdict->err : -err);
}

/* Take the lock for a change. Returns false, without it, when none is possible; that has been said. */
static bool change_begin(fuse_req_t req)
{
    struct faultfs *fs = fs_of(req);
    journal_lock(fs->journal);
    if (!fs->read_only && !fs->dead)
        return true;
    int err = fs->dead ? ENOTCONN : EROFS;
    journal_unlock(fs->journal);
    fuse_reply_err(req, err);
    return false;
}

static void change_end(fuse_req_t req)
{
    journal_unlock(fs_of(req)->journal);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- room, and what is held back ---- */

static uint64_t used_bytes(const struct faultfs *fs)
{
    char *roots[] = {fs->backing, NULL};
    uint64_t used = 0;
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!tree)
        return 0;
    for (const FTSENT *entry = fts_read(tree); entry; entry = fts_read(tree))
        if (entry->fts_info == FTS_F)
            used += (uint64_t)entry->fts_statp->st_blocks * 512;
    fts_close(tree);
    return used;
}

/* How much of a write there is room for. What is written over has its room already. */
static size_t room_for(const struct faultfs *fs, int fd, size_t len, off_t offset)
{
    if (fs->cap_bytes == UINT64_MAX || lseek(fd, offset, SEEK_HOLE) >= offset + (off_t)len)
        return len;
    uint64_t used = used_bytes(fs);
    uint64_t left = used < fs->cap_bytes ? (fs->cap_bytes - used) / BLOCK_BYTES * BLOCK_BYTES : 0;
    return left < len ? (size_t)left : len;
}

static ssize_t write_out(struct faultfs *fs, struct inode *inode, int fd, const uint8_t *bytes, size_t len, off_t offset)
{
    size_t room = room_for(fs, fd, len, offset);
    if (room == 0 && len > 0)
        return -ENOSPC;
    return journal_write(fs->journal, inode, fd, bytes, room, offset);
}

/* What was held back is written. That it failed shows at the next fsync or close. Under the journal's lock. */
static void buffer_drain(struct faultfs *fs, struct inode *inode)
{
    struct buffer *buffer = inode->buffer;
    if (!buffer)
        return;
    inode->buffer = NULL;
    int fd = inode_open(inode, O_RDWR);
    ssize_t done = fd < 0 ? fd : fs->read_only ? -EROFS : write_out(fs, inode, fd, buffer->bytes, buffer->len, buffer->offset);
    if (done < (ssize_t)buffer->len)
        inode->late_err = done < 0 ? (int)-done : ENOSPC;
    if (fd >= 0)
        close(fd);
    free(buffer);
}

/* Hold a write back, behind what it follows. Returns its length or -errno. Under the journal's lock. */
static ssize_t buffer_add(struct faultfs *fs, struct inode *inode, const uint8_t *bytes, size_t len, off_t offset)
{
    struct buffer *buffer = inode->buffer;
    if (buffer && (offset != buffer->offset + (off_t)buffer->len || buffer->len + len > BUFFER_BYTES))
        buffer_drain(fs, inode);
    if (!inode->buffer) {
        inode->buffer = malloc(sizeof *inode->buffer);
        if (!inode->buffer)
            return -ENOMEM;
        inode->buffer->offset = offset;
        inode->buffer->len = 0;
    }
    buffer = inode->buffer;
    memcpy(buffer->bytes + buffer->len, bytes, len);
    buffer->len += len;
    return (ssize_t)len;
}

/* ---- attributes and names ---- */

static int attributes_of(struct faultfs *fs, struct inode *inode, struct stat *out)
{
    journal_lock(fs->journal);
    buffer_drain(fs, inode);
    int err = fstatat(inode->fd, "", out, AT_EMPTY_PATH) < 0 ? -errno : 0;
    if (!err && S_ISREG(out->st_mode))
        out->st_size = journal_known_length(fs->journal, inode, out->st_size);
    journal_unlock(fs->journal);
    if (err)
        return err;
    if (!S_ISDIR(out->st_mode))
        out->st_nlink -= inode->trashed < out->st_nlink ? inode->trashed : out->st_nlink;
    if (S_ISREG(out->st_mode))
        out->st_blocks = (out->st_size + 511) / 512;
    return 0;
}

/* The inode of a name, with a reference more. */
static int find(struct faultfs *fs, const struct inode *dir, const char *name, struct inode **out)
{
    char path[INODE_PATH_BYTES];
    int fd = openat(dir->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    inode_path(&fs->inodes, dir, name, path);
    *out = inode_get(&fs->inodes, fd, path);
    return *out ? 0 : -ENOMEM;
}

static void entry_of(struct faultfs *fs, struct inode *inode, struct fuse_entry_param *out)
{
    *out = (struct fuse_entry_param){.attr_timeout = fs->attr_timeout, .entry_timeout = fs->entry_timeout};
    out->ino = (fuse_ino_t)(uintptr_t)inode;
    (void)attributes_of(fs, inode, &out->attr);
}

/* The kernel has a reference more, if it heard of it. */
static void reply_entry(fuse_req_t req, struct inode *inode)
{
    struct faultfs *fs = fs_of(req);
    struct fuse_entry_param entry;
    entry_of(fs, inode, &entry);
    if (fuse_reply_entry(req, &entry) < 0)
        inode_unref(&fs->inodes, inode, 1);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct faultfs *fs = fs_of(req);
    struct inode *dir = node_of(req, parent), *inode;
    struct verdict verdict;
    if (refused(req, OP_LOOKUP, dir, name, &verdict))
        return;
    journal_lock(fs->journal);
    int err = find(fs, dir, name, &inode);
    journal_unlock(fs->journal);
    struct fuse_entry_param none = {.entry_timeout = fs->negative_timeout};
    if (err == -ENOENT)
        fuse_reply_entry(req, &none);
    else if (err)
        fuse_reply_err(req, -err);
    else
        reply_entry(req, inode);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    if (ino != FUSE_ROOT_ID)
        inode_unref(&fs_of(req)->inodes, node_of(req, ino), count);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *at)
{
    for (size_t i = 0; i < count; i++)
        if (at[i].ino != FUSE_ROOT_ID)
            inode_unref(&fs_of(req)->inodes, node_of(req, at[i].ino), at[i].nlookup);
    fuse_reply_none(req);
}

static void reply_attributes(fuse_req_t req, struct inode *inode)
{
    struct stat st;
    int err = attributes_of(fs_of(req), inode, &st);
    if (err)
        fuse_reply_err(req, -err);
    else
        fuse_reply_attr(req, &st, fs_of(req)->attr_timeout);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct verdict verdict;
    if (!refused(req, OP_GETATTR, node_of(req, ino), NULL, &verdict))
        reply_attributes(req, node_of(req, ino));
}

static int set_length(struct faultfs *fs, struct inode *inode, off_t length)
{
    int fd = inode_open(inode, O_RDWR);
    if (fd < 0)
        return fd;
    buffer_drain(fs, inode);
    int err = journal_truncate(fs->journal, inode, fd, length);
    close(fd);
    return err;
}

static int set_times(const char *path, const struct stat *attr, int what)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    if (what & FUSE_SET_ATTR_ATIME_NOW)
        times[0].tv_nsec = UTIME_NOW;
    else if (what & FUSE_SET_ATTR_ATIME)
        times[0] = attr->st_atim;
    if (what & FUSE_SET_ATTR_MTIME_NOW)
        times[1].tv_nsec = UTIME_NOW;
    else if (what & FUSE_SET_ATTR_MTIME)
        times[1] = attr->st_mtim;
    return utimensat(AT_FDCWD, path, times, 0) < 0 ? -errno : 0;
}

static int set_others(const struct inode *inode, const struct stat *attr, int what)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", inode->fd);
    uid_t uid = what & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
    gid_t gid = what & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;
    if ((what & FUSE_SET_ATTR_MODE) && chmod(path, attr->st_mode) < 0)
        return -errno;
    if ((what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) && chown(path, uid, gid) < 0)
        return -errno;
    if (what & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW))
        return set_times(path, attr, what);
    return 0;
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what, struct fuse_file_info *fi)
{
    (void)fi;
    struct inode *inode = node_of(req, ino);
    struct verdict verdict;
    bool truncates = what & FUSE_SET_ATTR_SIZE;
    if (refused(req, truncates ? OP_TRUNCATE : OP_SETATTR, inode, NULL, &verdict) || !change_begin(req))
        return;
    int err = truncates ? set_length(fs_of(req), inode, attr->st_size) : 0;
    if (!err)
        err = set_others(inode, attr, what);
    change_end(req);
    if (err || (verdict.err && verdict.anyway))
        reply(req, &verdict, err);
    else
        reply_attributes(req, inode);
}

/* ---- making and removing names ---- */

/* A name that was made: remember it, say what it is. `err` is of making it. */
static void made(fuse_req_t req, struct inode *dir, const char *name, const struct verdict *verdict, int err)
{
    struct faultfs *fs = fs_of(req);
    struct inode *inode = NULL;
    if (!err)
        err = find(fs, dir, name, &inode);
    if (!err)
        journal_named(fs->journal, dir, name, inode);
    change_end(req);
    if (!err && !(verdict->err && verdict->anyway)) {
        reply_entry(req, inode);
        return;
    }
    inode_unref(&fs->inodes, inode, 1);
    reply(req, verdict, err);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct inode *dir = node_of(req, parent);
    struct verdict verdict;
    if (refused(req, OP_MKDIR, dir, name, &verdict) || !change_begin(req))
        return;
    int err = mkdirat(dir->fd, name, mode) < 0 ? -errno : 0;
    made(req, dir, name, &verdict, err);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *name)
{
    struct inode *dir = node_of(req, new_parent);
    struct verdict verdict;
    char path[64];
    if (refused(req, OP_LINK, dir, name, &verdict) || !change_begin(req))
        return;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", node_of(req, ino)->fd);
    int err = linkat(AT_FDCWD, path, dir->fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
    made(req, dir, name, &verdict, err);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct inode *dir = node_of(req, parent);
    struct verdict verdict;
    if (refused(req, OP_LINK, dir, name, &verdict) || !change_begin(req))
        return;
    int err = symlinkat(target, dir->fd, name) < 0 ? -errno : 0;
    made(req, dir, name, &verdict, err);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[PATH_MAX];
    ssize_t len = readlinkat(node_of(req, ino)->fd, "", target, sizeof target - 1);
    if (len < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    target[len] = '\0';
    fuse_reply_readlink(req, target);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct faultfs *fs = fs_of(req);
    struct inode *dir = node_of(req, parent), *inode;
    struct verdict verdict;
    if (refused(req, OP_UNLINK, dir, name, &verdict) || !change_begin(req))
        return;
    int err = find(fs, dir, name, &inode);
    if (!err) {
        err = journal_unlink(fs->journal, dir, name, inode);
        inode_unref(&fs->inodes, inode, 1);
    }
    change_end(req);
    reply(req, &verdict, err);
}

/* At once durable, and with it what happened to the names below: nobody depends on the contrary. */
static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct faultfs *fs = fs_of(req);
    struct inode *dir = node_of(req, parent), *inode;
    struct verdict verdict;
    if (refused(req, OP_RMDIR, dir, name, &verdict) || !change_begin(req))
        return;
    int err = find(fs, dir, name, &inode);
    if (!err) {
        err = unlinkat(dir->fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
        if (!err) {
            journal_sync_dir(fs->journal, inode);
            journal_sync_dir(fs->journal, dir);
        }
        inode_unref(&fs->inodes, inode, 1);
    }
    change_end(req);
    reply(req, &verdict, err);
}

static int rename_in(struct faultfs *fs, struct inode *dir, const char *name, struct inode *to_dir, const char *to_name)
{
    struct inode *inode, *replaced = NULL;
    char path[INODE_PATH_BYTES];
    int err = find(fs, dir, name, &inode);
    if (err)
        return err;
    (void)find(fs, to_dir, to_name, &replaced);
    err = journal_rename(fs->journal, dir, name, to_dir, to_name, inode, replaced);
    if (!err) {
        inode_path(&fs->inodes, to_dir, to_name, path);
        inode_set_path(&fs->inodes, inode, path);
    }
    inode_unref(&fs->inodes, replaced, 1);
    inode_unref(&fs->inodes, inode, 1);
    return err;
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
    struct inode *dir = node_of(req, parent);
    struct verdict verdict;
    if (refused(req, OP_RENAME, dir, name, &verdict))
        return;
    if (flags) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (!change_begin(req))
        return;
    int err = rename_in(fs_of(req), dir, name, node_of(req, new_parent), new_name);
    change_end(req);
    reply(req, &verdict, err);
}

/* ---- opening ---- */

static int flags_for(int flags)
{
    return (flags & O_ACCMODE) == O_RDONLY ? O_RDONLY : O_RDWR;
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct inode *inode = node_of(req, ino);
    struct verdict verdict;
    if (refused(req, OP_OPEN, inode, NULL, &verdict))
        return;
    bool writes = flags_for(fi->flags) == O_RDWR;
    if (writes && !change_begin(req))
        return;
    int fd = inode_open(inode, flags_for(fi->flags));
    if (writes)
        change_end(req);
    if (fd < 0) {
        fuse_reply_err(req, -fd);
        return;
    }
    fi->fh = (uint64_t)fd;
    fi->direct_io = (fi->flags & O_DIRECT) != 0;
    if (fuse_reply_open(req, fi) < 0)
        close(fd);
}

/* Make the file. `fresh` says whether it was not there before. Returns a descriptor or -errno. */
static int create_in(const struct inode *dir, const char *name, mode_t mode, int flags, bool *fresh)
{
    int fd = openat(dir->fd, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, mode);
    *fresh = fd >= 0;
    if (fd < 0 && errno == EEXIST && !(flags & O_EXCL))
        fd = openat(dir->fd, name, flags_for(flags) | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void created(fuse_req_t req, struct inode *inode, struct fuse_file_info *fi, int fd)
{
    struct faultfs *fs = fs_of(req);
    struct fuse_entry_param entry;
    entry_of(fs, inode, &entry);
    fi->fh = (uint64_t)fd;
    fi->direct_io = (fi->flags & O_DIRECT) != 0;
    if (fuse_reply_create(req, &entry, fi) < 0) {
        close(fd);
        inode_unref(&fs->inodes, inode, 1);
    }
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct faultfs *fs = fs_of(req);
    struct inode *dir = node_of(req, parent), *inode = NULL;
    struct verdict verdict;
    bool fresh;
    if (refused(req, OP_CREATE, dir, name, &verdict) || !change_begin(req))
        return;
    int fd = create_in(dir, name, mode, fi->flags, &fresh);
    int err = fd < 0 ? fd : find(fs, dir, name, &inode);
    if (!err && fresh)
        journal_named(fs->journal, dir, name, inode);
    change_end(req);
    if (!err && !(verdict.err && verdict.anyway)) {
        created(req, inode, fi, fd);
        return;
    }
    if (fd >= 0)
        close(fd);
    inode_unref(&fs->inodes, inode, 1);
    reply(req, &verdict, err);
}

/* What was to be written later and was not is lost, and said once. */
static int late_error(struct faultfs *fs, struct inode *inode)
{
    buffer_drain(fs, inode);
    int err = -inode->late_err;
    inode->late_err = 0;
    return err;
}

static void do_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct faultfs *fs = fs_of(req);
    struct inode *inode = node_of(req, ino);
    struct verdict verdict;
    if (refused(req, OP_FLUSH, inode, NULL, &verdict))
        return;
    journal_lock(fs->journal);
    int err = late_error(fs, inode);
    if (err)
        journal_sync_failed(fs->journal, inode);
    else
        journal_publish(fs->journal, inode);
    journal_unlock(fs->journal);
    reply(req, &verdict, err);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct verdict verdict;
    close((int)fi->fh);
    if (!refused(req, OP_RELEASE, node_of(req, ino), NULL, &verdict))
        reply(req, &verdict, 0);
}

/* ---- bytes ---- */

static size_t share(size_t len, double part)
{
    return part < 0 ? len : (size_t)((double)len * part);
}

static void flip_bit(uint8_t *bytes, size_t len, uint64_t dice)
{
    if (len > 0)
        bytes[dice % len] ^= (uint8_t)(1U << (dice >> 40) % 8);
}

/* As far as this host knows the file to go. Returns what pread() does. */
static ssize_t read_in(struct faultfs *fs, struct inode *inode, int fd, uint8_t *bytes, size_t size, off_t offset)
{
    journal_lock(fs->journal);
    buffer_drain(fs, inode);
    off_t end = journal_known_length(fs->journal, inode, offset + (off_t)size);
    ssize_t got = end <= offset ? 0 : pread(fd, bytes, (size_t)(end - offset), offset);
    int err = errno;
    journal_unlock(fs->journal);
    errno = err;
    return got;
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct verdict verdict;
    if (refused(req, OP_READ, node_of(req, ino), NULL, &verdict))
        return;
    uint8_t *bytes = malloc(size ? size : 1);
    ssize_t got = bytes ? read_in(fs_of(req), node_of(req, ino), (int)fi->fh, bytes, size, offset) : -1;
    if (got < 0 || (verdict.err && verdict.anyway)) {
        reply(req, &verdict, got < 0 ? -errno : 0);
    } else {
        size_t len = share((size_t)got, verdict.part);
        size_t zeros = verdict.zero < 0 ? 0 : share(len, verdict.zero);
        memset(bytes + len - zeros, 0, zeros);
        if (verdict.flip)
            flip_bit(bytes, len, verdict.dice);
        fuse_reply_buf(req, (const char *)bytes, len);
    }
    free(bytes);
}

static void reply_write(fuse_req_t req, const struct verdict *verdict, ssize_t done, size_t asked)
{
    if (done < 0 || (verdict->err && verdict->anyway))
        reply(req, verdict, done < 0 ? (int)done : 0);
    else
        fuse_reply_write(req, verdict->torn >= 0 ? asked : (size_t)done);
}

static char *flipped_copy(const char *bytes, size_t len, uint64_t dice)
{
    char *copy = malloc(len ? len : 1);
    if (copy) {
        memcpy(copy, bytes, len);
        flip_bit((uint8_t *)copy, len, dice);
    }
    return copy;
}

/* What a buffer takes cannot fail yet. */
static void write_asked(fuse_req_t req, const struct inode *inode, bool buffered, struct verdict *verdict)
{
    char path[INODE_PATH_BYTES];
    inode_path(&fs_of(req)->inodes, inode, NULL, path);
    rules_ask(fs_of(req)->rules, OP_WRITE, path, verdict);
    verdict->late |= buffered && verdict->err;
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct faultfs *fs = fs_of(req);
    struct inode *inode = node_of(req, ino);
    struct verdict verdict;
    bool buffered = fs->buffered && !(fi->flags & O_DIRECT);
    write_asked(req, inode, buffered, &verdict);
    if (verdict.err && !verdict.anyway && !verdict.late) {
        fuse_reply_err(req, verdict.err);
        return;
    }
    if (!change_begin(req))
        return;
    char *copy = verdict.flip ? flipped_copy(bytes, size, verdict.dice) : NULL;
    const uint8_t *from = (const uint8_t *)(copy ? copy : bytes);
    size_t len = share(share(size, verdict.part), verdict.torn);
    ssize_t done = (ssize_t)size;
    if (!buffered)
        buffer_drain(fs, inode);
    if (verdict.late)
        inode->late_err = verdict.err ? verdict.err : EIO;
    else if (!verdict.lost)
        done = buffered ? buffer_add(fs, inode, from, len, offset) : write_out(fs, inode, (int)fi->fh, from, len, offset);
    change_end(req);
    if (verdict.late)
        verdict.err = 0;
    reply_write(req, &verdict, done, size);
    free(copy);
}

/* An fsync that fails has made nothing durable, and the next one does not make up for it. */
static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)fi;
    struct faultfs *fs = fs_of(req);
    struct inode *inode = node_of(req, ino);
    struct verdict verdict;
    char path[INODE_PATH_BYTES];
    inode_path(&fs->inodes, inode, NULL, path);
    rules_ask(fs->rules, OP_FSYNC, path, &verdict);
    journal_lock(fs->journal);
    int err = late_error(fs, inode);
    if (fs->dead)
        err = -ENOTCONN;
    if (verdict.err && !verdict.anyway)
        err = -verdict.err;
    if (err)
        journal_sync_failed(fs->journal, inode);
    else
        journal_sync(fs->journal, inode, datasync);
    if (!err && !datasync)
        journal_publish(fs->journal, inode);
    journal_unlock(fs->journal);
    reply(req, &verdict, err);
}

/* ---- folders ---- */

static int listing_add(struct listing *listing, const struct dirent *entry)
{
    if (listing->count == listing->room) {
        size_t room = listing->room ? listing->room * 2 : 64;
        struct listed *more = reallocarray(listing->at, room, sizeof *more);
        if (!more)
            return -ENOMEM;
        listing->at = more;
        listing->room = room;
    }
    struct listed *listed = &listing->at[listing->count++];
    memset(&listed->st, 0, sizeof listed->st);
    listed->st.st_ino = entry->d_ino;
    listed->st.st_mode = (mode_t)entry->d_type << 12;
    (void)snprintf(listed->name, sizeof listed->name, "%s", entry->d_name);
    return 0;
}

static void listing_free(struct listing *listing)
{
    if (listing)
        free(listing->at);
    free(listing);
}

static int listing_load(const struct inode *inode, struct listing *listing)
{
    int err = 0;
    int fd = inode_open(inode, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    for (const struct dirent *entry = readdir(dir); entry && !err; entry = readdir(dir))
        err = listing_add(listing, entry);
    closedir(dir);
    return err;
}

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct verdict verdict;
    if (refused(req, OP_OPENDIR, node_of(req, ino), NULL, &verdict))
        return;
    struct listing *listing = calloc(1, sizeof *listing);
    journal_lock(fs_of(req)->journal);
    int err = listing ? listing_load(node_of(req, ino), listing) : -ENOMEM;
    journal_unlock(fs_of(req)->journal);
    fi->fh = (uint64_t)(uintptr_t)listing;
    if (err)
        fuse_reply_err(req, -err);
    if (err || fuse_reply_open(req, fi) < 0)
        listing_free(listing);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    const struct listing *listing = (const struct listing *)(uintptr_t)fi->fh;
    struct verdict verdict;
    if (refused(req, OP_READDIR, node_of(req, ino), NULL, &verdict))
        return;
    char *bytes = malloc(size);
    size_t used = 0;
    for (size_t i = (size_t)offset; bytes && i < listing->count; i++) {
        size_t len = fuse_add_direntry(req, bytes + used, size - used, listing->at[i].name, &listing->at[i].st, (off_t)i + 1);
        if (len > size - used)
            break;
        used += len;
    }
    fuse_reply_buf(req, bytes, used);
    free(bytes);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    listing_free((struct listing *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

static void do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync;
    (void)fi;
    struct faultfs *fs = fs_of(req);
    struct verdict verdict;
    if (refused(req, OP_FSYNCDIR, node_of(req, ino), NULL, &verdict))
        return;
    journal_lock(fs->journal);
    int err = fs->dead ? -ENOTCONN : 0;
    if (!err)
        journal_sync_dir(fs->journal, node_of(req, ino));
    journal_unlock(fs->journal);
    reply(req, &verdict, err);
}

/* Under the journal's lock. */
static int room_look(struct faultfs *fs)
{
    struct statvfs *st = &fs->statfs;
    if (statvfs(fs->backing, st) < 0)
        return -errno;
    fs->statfs_ms = now_ms();
    if (fs->cap_bytes != UINT64_MAX) {
        uint64_t used = used_bytes(fs);
        st->f_bsize = st->f_frsize = BLOCK_BYTES;
        st->f_blocks = fs->cap_bytes / BLOCK_BYTES;
        st->f_bfree = st->f_bavail = used < fs->cap_bytes ? (fs->cap_bytes - used) / BLOCK_BYTES : 0;
    }
    return 0;
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct faultfs *fs = fs_of(req);
    struct verdict verdict;
    if (refused(req, OP_STATFS, node_of(req, ino), NULL, &verdict))
        return;
    journal_lock(fs->journal);
    bool fresh = fs->statfs_ms && (double)(now_ms() - fs->statfs_ms) < fs->statfs_timeout * 1000;
    int err = fresh ? 0 : room_look(fs);
    struct statvfs st = fs->statfs;
    journal_unlock(fs->journal);
    if (err)
        fuse_reply_err(req, -err);
    else
        fuse_reply_statfs(req, &st);
}

static void do_init(void *arg, struct fuse_conn_info *conn)
{
    (void)arg;
    conn->max_background = BACKGROUND_MAX;
    conn->congestion_threshold = BACKGROUND_MAX * 3 / 4;
    conn->max_read = IO_MAX_BYTES;
    conn->max_write = IO_MAX_BYTES;
    conn->want &= ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_READDIRPLUS | FUSE_CAP_WRITEBACK_CACHE);
}

/* What is not here (fallocate, xattr, locks, O_TMPFILE) the kernel refuses, or does within this mount. */
static const struct fuse_lowlevel_ops operations = {
    .init = do_init,
    .lookup = do_lookup,
    .forget = do_forget,
    .forget_multi = do_forget_multi,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .mkdir = do_mkdir,
    .unlink = do_unlink,
    .rmdir = do_rmdir,
    .rename = do_rename,
    .link = do_link,
    .symlink = do_symlink,
    .readlink = do_readlink,
    .open = do_open,
    .create = do_create,
    .read = do_read,
    .write = do_write,
    .flush = do_flush,
    .release = do_release,
    .fsync = do_fsync,
    .opendir = do_opendir,
    .readdir = do_readdir,
    .releasedir = do_releasedir,
    .fsyncdir = do_fsyncdir,
    .statfs = do_statfs,
};

/* ---- commands ---- */

/* Whoever comes first ends the process: an unmount ends the session's loop, too. */
static void end(struct faultfs *fs)
{
    while (atomic_flag_test_and_set(&fs->ending))
        pause();
    fuse_session_unmount(fs->session);
    if (fs->held)
        journal_resume(fs->journal);
    else
        journal_lock(fs->journal);
    journal_fini(fs->journal);
    _exit(0);
}

static void say_end(struct faultfs *fs, FILE *out, bool unmount)
{
    while (atomic_flag_test_and_set(&fs->ending))
        pause();
    if (unmount)
        fuse_session_unmount(fs->session);
    fprintf(out, "ok\n");
    fflush(out);
    _exit(0);
}

static void command_add(struct faultfs *fs, char *args, FILE *out)
{
    const char *why;
    unsigned id = rules_add(fs->rules, args, &why);
    if (id)
        fprintf(out, "ok id=%u", id);
    else
        fprintf(out, "error %s", why);
}

static void command_rule(struct faultfs *fs, char *args, FILE *out)
{
    fprintf(out, "ok ");
    if (!rules_show(fs->rules, (unsigned)strtoul(args, NULL, 10), out))
        fprintf(out, "gone=1");
}

static void command_del(struct faultfs *fs, char *args, FILE *out)
{
    fprintf(out, rules_remove(fs->rules, (unsigned)strtoul(args, NULL, 10)) ? "ok" : "error no such rule");
}

static void command_clear(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    rules_clear(fs->rules);
    fprintf(out, "ok");
}

static void command_release(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    rules_release(fs->rules);
    fprintf(out, "ok");
}

static void command_next(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    fprintf(out, rules_next(fs->rules) ? "ok" : "error nothing waits");
}

static void command_counters(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    fprintf(out, "ok ");
    rules_show_counters(fs->rules, out);
}

static void command_reset(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    rules_reset_counters(fs->rules);
    fprintf(out, "ok");
}

static void command_cap(struct faultfs *fs, char *args, FILE *out)
{
    uint64_t bytes = UINT64_MAX;
    if (strcmp(args, "off") != 0 && !parse_size(args, &bytes)) {
        fprintf(out, "error no size: %s", args);
        return;
    }
    journal_lock(fs->journal);
    fs->cap_bytes = bytes;
    fs->statfs_ms = 0;
    journal_unlock(fs->journal);
    fprintf(out, "ok");
}

static void command_erofs(struct faultfs *fs, char *args, FILE *out)
{
    journal_lock(fs->journal);
    fs->read_only = strcmp(args, "off") != 0;
    journal_unlock(fs->journal);
    fprintf(out, "ok");
}

static void command_gone(struct faultfs *fs, char *args, FILE *out)
{
    char mode[16] = "";
    unsigned delay_ms = 0;
    int words = sscanf(args, "%15s %u", mode, &delay_ms);
    enum gone_mode gone = strcmp(mode, "zero") == 0 ? GONE_ZERO : strcmp(mode, "short") == 0 ? GONE_SHORT : GONE_KEEP;
    if (words < 1 || (gone == GONE_KEEP && strcmp(mode, "keep") != 0)) {
        fprintf(out, "error keep, zero or short");
        return;
    }
    journal_lock(fs->journal);
    journal_set_gone(fs->journal, gone, delay_ms);
    journal_unlock(fs->journal);
    fprintf(out, "ok");
}

static void command_reap(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    journal_lock(fs->journal);
    unsigned files = journal_reap(fs->journal, true);
    journal_unlock(fs->journal);
    fprintf(out, "ok files=%u", files);
}

static void command_journal(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    journal_lock(fs->journal);
    fprintf(out, "ok length=%zu", journal_length(fs->journal));
    journal_unlock(fs->journal);
}

static void command_settle(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    journal_lock(fs->journal);
    journal_sync_all(fs->journal);
    journal_unlock(fs->journal);
    fprintf(out, "ok");
}

static struct power_cut parse_cut(char *args)
{
    struct power_cut cut = {.keep = 0.5};
    char *rest;
    for (char *word = strtok_r(args, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        if (strncmp(word, "seed=", 5) == 0)
            cut.seed = strtoull(word + 5, NULL, 10);
        else if (strncmp(word, "keep=", 5) == 0)
            cut.keep = strtod(word + 5, NULL);
        else if (strcmp(word, "names=any") == 0)
            cut.any_names = true;
    }
    return cut;
}

static void command_hold(struct faultfs *fs, char *args, FILE *out)
{
    struct power_cut cut = parse_cut(args);
    journal_lock(fs->journal);
    fs->held = true;
    if (cut.keep < 1)
        journal_power_cut(fs->journal, &cut);
    fprintf(out, "ok lost=%zu kept=%zu", cut.lost, cut.kept);
}

static void command_resume(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    if (!fs->held) {
        fprintf(out, "error nothing is held");
        return;
    }
    journal_resume(fs->journal);
    fs->held = false;
    journal_unlock(fs->journal);
    fprintf(out, "ok");
}

static void command_powercut(struct faultfs *fs, char *args, FILE *out)
{
    struct power_cut cut = parse_cut(args);
    journal_lock(fs->journal);
    fs->dead = true;
    journal_power_cut(fs->journal, &cut);
    journal_fini(fs->journal);
    fprintf(out, "ok lost=%zu kept=%zu\n", cut.lost, cut.kept);
    fflush(out);
    _exit(0);
}

static void command_vanish(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    say_end(fs, out, false);
}

static void command_bare(struct faultfs *fs, char *args, FILE *out)
{
    (void)args;
    say_end(fs, out, true);
}

typedef void (*command_fn)(struct faultfs *fs, char *args, FILE *out);

static const struct {
    const char *name;
    command_fn fn;
} commands[] = {
    {"add", command_add},           {"rule", command_rule},         {"del", command_del},       {"clear", command_clear},
    {"release", command_release},   {"counters", command_counters}, {"reset", command_reset},   {"cap", command_cap},
    {"erofs", command_erofs},       {"gone", command_gone},         {"reap", command_reap},     {"journal", command_journal},
    {"settle", command_settle},     {"hold", command_hold},         {"resume", command_resume}, {"next", command_next},
    {"powercut", command_powercut}, {"vanish", command_vanish},     {"bare", command_bare},
};

static void obey(struct faultfs *fs, char *line, FILE *out)
{
    char *args = strchrnul(line, ' ');
    if (*args)
        *args++ = '\0';
    if (fs->held && strcmp(line, "resume") != 0) {
        fprintf(out, "error all is held: resume comes first");
        return;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(line, commands[i].name) == 0) {
            commands[i].fn(fs, args, out);
            return;
        }
    }
    fprintf(out, "error no such command: %s", line);
}

static void serve(struct faultfs *fs, FILE *in, FILE *out)
{
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = '\0';
        obey(fs, line, out);
        fprintf(out, "\n");
        fflush(out);
    }
}

static void *serve_standard_input(void *arg)
{
    struct faultfs *fs = arg;
    serve(fs, stdin, stdout);
    end(fs);
    return NULL;
}

/* One client after the other. */
static void *serve_socket(void *arg)
{
    struct faultfs *fs = arg;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    (void)snprintf(name.sun_path, sizeof name.sun_path, "%s", fs->control);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)unlink(name.sun_path);
    if (bind(listener, (struct sockaddr *)&name, sizeof name) < 0 || listen(listener, 8) < 0) {
        perror(name.sun_path);
        end(fs);
    }
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        FILE *client = fd < 0 ? NULL : fdopen(fd, "r+");
        if (!client)
            continue;
        serve(fs, client, client);
        fclose(client);
    }
    return NULL;
}

static void *reap_now_and_then(void *arg)
{
    struct faultfs *fs = arg;
    for (;;) {
        usleep(20 * 1000);
        journal_lock(fs->journal);
        (void)journal_reap(fs->journal, false);
        journal_publish_due(fs->journal);
        journal_unlock(fs->journal);
    }
    return NULL;
}

static void *wait_for_signals(void *arg)
{
    sigset_t set;
    int signum;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    (void)sigwait(&set, &signum);
    end(arg);
    return NULL;
}

/* ---- starting ---- */

#define OPTION(text, field)                      \
    {                                            \
        text, offsetof(struct faultfs, field), 1 \
    }
#define LAST_OPTION \
    {               \
        NULL, 0, 0  \
    }

static const struct fuse_opt options[] = {
    OPTION("attr_timeout=%lf", attr_timeout),
    OPTION("entry_timeout=%lf", entry_timeout),
    OPTION("negative_timeout=%lf", negative_timeout),
    OPTION("statfs_timeout=%lf", statfs_timeout),
    OPTION("publish_timeout=%lf", publish_timeout),
    OPTION("buffered", buffered),
    OPTION("control=%s", control),
    OPTION("seed=%u", seed),
    OPTION("nojournal", nojournal),
    LAST_OPTION,
};

static int take_place(void *data, const char *arg, int key, struct fuse_args *out)
{
    (void)out;
    struct faultfs *fs = data;
    if (key != FUSE_OPT_KEY_NONOPT || fs->backing)
        return 1;
    fs->backing = realpath(arg, NULL);
    return fs->backing ? 0 : -1;
}

static int backing_open(struct faultfs *fs, int *out_spare)
{
    char spare[PATH_MAX];
    int fd = open(fs->backing, O_PATH | O_DIRECTORY | O_CLOEXEC);
    fs->root = fd < 0 ? NULL : inode_get(&fs->inodes, fd, "");
    int len = snprintf(spare, sizeof spare, "%s.spare", fs->backing);
    if (!fs->root || len >= (int)sizeof spare || (mkdir(spare, 0700) < 0 && errno != EEXIST))
        return -1;
    *out_spare = open(spare, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *out_spare < 0 ? -1 : 0;
}

static void use_all_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int thread_start(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    int err = pthread_create(&thread, NULL, fn, arg);
    return err ? -1 : pthread_detach(thread);
}

static void signals_block(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

static int threads_start(struct faultfs *fs)
{
    if (thread_start(wait_for_signals, fs) || thread_start(reap_now_and_then, fs))
        return -1;
    return thread_start(fs->control ? serve_socket : serve_standard_input, fs);
}

/* Any number of threads may hang: each takes one of the session's. */
static int session_run(struct faultfs *fs)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (!config)
        return 1;
    fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
    fuse_loop_cfg_set_idle_threads(config, THREADS_MAX);
    printf("ok mounted\n");
    fflush(stdout);
    int rc = threads_start(fs) ? 1 : fuse_session_loop_mt(fs->session, config);
    fuse_loop_cfg_destroy(config);
    return rc;
}

static int session_open(struct faultfs *fs, struct fuse_args *args, const char *point)
{
    if (fuse_opt_add_arg(args, "-osubtype=hf3fs,fsname=faultfs,max_read=1048576,default_permissions"))
        return -1;
    if (geteuid() == 0 && fuse_opt_add_arg(args, "-oallow_other"))
        return -1;
    fs->session = fuse_session_new(args, &operations, sizeof operations, fs);
    return fs->session ? fuse_session_mount(fs->session, point) : -1;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: faultfs [-o OPTION,...] BACKING MOUNTPOINT\n");
        return 2;
    }
    static struct faultfs fs = {.ending = ATOMIC_FLAG_INIT,
                                .cap_bytes = UINT64_MAX,
                                .attr_timeout = 30,
                                .entry_timeout = 30,
                                .negative_timeout = 5,
                                .statfs_timeout = 5,
                                .publish_timeout = 30};
    struct fuse_args args = FUSE_ARGS_INIT(argc - 1, argv);
    int spare_fd;
    inodes_init(&fs.inodes);
    umask(0);
    use_all_descriptors();
    signals_block();
    if (fuse_opt_parse(&args, &fs, options, take_place) || !fs.backing || backing_open(&fs, &spare_fd)) {
        perror("faultfs: backing");
        return 1;
    }
    fs.rules = rules_new(fs.seed);
    fs.journal = journal_new(&fs.inodes, spare_fd, fs.nojournal);
    if (fs.journal)
        journal_set_publish(fs.journal, (unsigned)(fs.publish_timeout * 1000));
    if (!fs.rules || !fs.journal || session_open(&fs, &args, argv[argc - 1]))
        return 1;
    int rc = session_run(&fs);
    end(&fs);
    return rc;
}
