/* vfs.h - file systems in memory that know what is on the disk and what only seems to be.
 *
 * An inode has its content as every reader sees it, and the content that is on stable storage; changes in between are kept, in order,
 * until an fsync (or time) makes them durable, or a power cut decides each one's fate. Names likewise. Pages never change once they are
 * made: a write makes new ones.
 *
 * Not its: faults, time, who asks (sim_file.c).
 */
#ifndef KVD_TEST_SIM_VFS_H
#define KVD_TEST_SIM_VFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"

enum disk_op {
    DISK_OPEN,
    DISK_CLOSE,
    DISK_READ,
    DISK_WRITE,
    DISK_SYNC,
    DISK_TRUNCATE,
    DISK_SIZE,
    DISK_UNLINK,
    DISK_RENAME,
    DISK_SYNC_DIR,
    DISK_MAKE_DIR,
    DISK_INFO,
    DISK_LIST,
    DISK_LOCK,
    DISK_OPS
};

struct page;
struct pages {
    struct page **at;
    uint32_t room;
    uint64_t size; /* of the file */
};

struct inode {
    struct list link;
    uint64_t number;
    struct pages now, durable;
    struct list changes;
    unsigned opens;
    unsigned links;   /* names, now and durable, and changes of names; names that hosts remember */
    uint64_t gone_us; /* when its name went; 0: it has one, or never had */
    bool locked;
    bool folder;
    bool values; /* a segment, or an object's own file */
    /* of a shared one */
    unsigned writer;                           /* the host that changed it last */
    uint64_t published;                        /* the length that others are told: as of an fsync or a close */
    uint64_t known_size[2], known_until_us[2]; /* that a host remembers (sight.c) */
};

struct vfs {
    bool shared; /* by hosts: names are a server's, which loses none; data is each host's until it is synced */
    struct list inodes;
    struct list names;   /* now */
    struct list durable; /* names on stable storage */
    struct list moves;   /* changes of names in between */
    uint64_t next_number;
    uint64_t change; /* of the last one */
    uint64_t pages;  /* that files take now */
    uint64_t capacity_pages;
};

void vfs_init(struct vfs *vfs, uint64_t capacity_bytes);
void vfs_fini(struct vfs *vfs);

struct inode *vfs_find(struct vfs *vfs, const char *path);
/* NULL when it is there already. */
struct inode *vfs_create(struct vfs *vfs, const char *path, bool folder);
bool vfs_unlink(struct vfs *vfs, const char *path);
/* 0, -ENOENT or -ENOTEMPTY. Durable at once, as its making is. */
int vfs_remove_folder(struct vfs *vfs, const char *path);
bool vfs_rename(struct vfs *vfs, const char *from, const char *to);
/* What was done in the folder so far is durable; "": in all. */
void vfs_sync_dir(struct vfs *vfs, const char *path);
typedef void (*vfs_name_fn)(void *arg, const char *path, const char *name, struct inode *inode);
void vfs_list(struct vfs *vfs, const char *path, vfs_name_fn fn, void *arg);
void vfs_put(struct vfs *vfs, struct inode *inode); /* after opens or links were lowered */
/* Somebody knows it without a name. */
void vfs_keep(struct inode *inode);
void vfs_let_go(struct vfs *vfs, struct inode *inode);
/* Its length is what others are told from now on. */
void vfs_publish(struct inode *inode);

uint64_t vfs_read(struct inode *inode, uint64_t offset, void *at, uint64_t len);
/* False: no room; nothing is changed. */
bool vfs_write(struct vfs *vfs, struct inode *inode, uint64_t offset, const void *at, uint64_t len);
void vfs_truncate(struct vfs *vfs, struct inode *inode, uint64_t len);
/* Changes up to number `upto` are durable. */
void vfs_sync(struct vfs *vfs, struct inode *inode, uint64_t upto);
/* An fsync failed: each of them may or may not be durable, and will not be tried again. */
void vfs_sync_failed(struct vfs *vfs, struct inode *inode, uint64_t upto);
/* Time makes some things durable. */
void vfs_write_back(struct vfs *vfs);
/* This host's server has ended, and has closed what it had open. After a power cut what was not durable of what it did survives whole, in
 * parts, or not. */
enum cut { CUT_LOSES, CUT_KEEPS, CUT_EITHER, CUT_TEARS };
void vfs_crash(struct vfs *vfs, bool power, enum cut cut);
/* This host's mount goes: what was not synced may go with it. Files stay open, and inodes with them. */
void vfs_unmount(struct vfs *vfs);
/* Of a node's segments, and of all objects' files. */
uint64_t vfs_value_bytes(struct vfs *vfs, const char *node);

#endif
