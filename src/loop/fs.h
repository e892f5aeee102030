/* fs.h - blocking file system calls. For jobs (loop.h), and for the roof before the loop runs; never from the loop.
 *
 * Paths are absolute or relative to the working directory; symbolic links in the last place are refused (-ELOOP).
 * New folders have mode 0700, new files 0600. Every function returns 0 (or what is said) or -errno.
 * Thread: any; a `struct file` by one thread at a time. `loop` is where calls are counted (file.h), atomically.
 */
#ifndef KVD_LOOP_FS_H
#define KVD_LOOP_FS_H

#include "loop/file.h"

/* Flags of fs_open. A file is opened for reading and writing unless FS_READ_ONLY. */
enum {
    FS_CREATE = 1, /* O_CREAT | O_EXCL: -EEXIST when the name is there */
    FS_DIRECT = 2, /* O_DIRECT where the file system takes it, else without; file->direct says which */
    FS_READ_ONLY = 4,
};
/* Only regular files: -EINVAL for others. Sets file->punt on FUSE. */
int fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags);
int fs_close(struct loop *loop, struct file *file);

/* Read until `len` bytes or the end of the file. Returns bytes or -errno. */
int64_t fs_read(struct loop *loop, const struct file *file, void *buf, uint64_t len, uint64_t offset);
/* Write all of it, or fail: 0 or -errno (-EIO for a write that stays short). */
int fs_write(struct loop *loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset);
int fs_sync(struct loop *loop, const struct file *file);
int fs_truncate(struct loop *loop, const struct file *file, uint64_t len);
int64_t fs_size(struct loop *loop, const struct file *file);

int fs_unlink(struct loop *loop, const char *path);
int fs_rename(struct loop *loop, const char *from, const char *to);
/* Give the file another name: -EEXIST when that is taken, also where another host has just taken it. */
int fs_link(struct loop *loop, const char *from, const char *to);
/* fsync of a folder. A file system that cannot (EINVAL) counts as done. */
int fs_sync_dir(struct loop *loop, const char *path);

/* Make `path` and what is missing above it (0700), syncing each parent that got a new entry. -ENOTDIR when a file is in the way. */
int fs_make_dirs(struct loop *loop, const char *path);
int fs_remove_dir(struct loop *loop, const char *path);

struct fs_dir_info {
    uint64_t device;       /* st_dev */
    bool others_can_write; /* writable by group or others, and no sticky bit */
    uint64_t free_bytes;   /* to us */
    uint64_t total_bytes;
    char type[32]; /* of the mount as /proc/self/mountinfo has it: "ext4", "fuse.hf3fs" */
};
int fs_dir_info(struct loop *loop, const char *path, struct fs_dir_info *out);

/* Call fn for each entry of the folder but . and ..; names are borrowed. Stops when fn returns false. */
typedef bool (*fs_list_fn)(void *arg, const char *name, bool regular, uint64_t size);
int fs_list(struct loop *loop, const char *path, fs_list_fn fn, void *arg);

/* Take the file's lock for this process until it is closed (flock, which also holds between processes of one host on
 * FUSE mounts without locks of their own). 0, -EWOULDBLOCK when another process holds it. */
int fs_lock(struct loop *loop, const struct file *file);

#endif
