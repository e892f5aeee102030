/* sight.h - a shared file system as one host sees it, as on 3FS: a name that was looked up is not asked for again for a while, nor one that
 * was not there, nor another host's length. Its own changes a host sees at once; bytes, and names that are to be made, agree everywhere.
 *
 * Owns:    what the host remembers.
 * Borrows: the vfs; inodes, which it keeps as long as it remembers their name.
 */
#ifndef KVD_TEST_SIM_SIGHT_H
#define KVD_TEST_SIM_SIGHT_H

#include "vfs.h"

struct sight {
    struct vfs *vfs;
    struct list names;
    unsigned host;
    uint64_t names_us, missing_us; /* 0: it asks each time */
};

void sight_init(struct sight *sight, struct vfs *vfs, unsigned host, uint64_t names_us, uint64_t missing_us);
/* It is mounted anew: everything is forgotten. */
void sight_forget_all(struct sight *sight);

/* What is there, as far as this host knows. NULL: nothing. *stale (may be NULL): and something else is true. */
struct inode *sight_find(struct sight *sight, const char *path, bool *stale);
/* This host has made the name. */
void sight_made(struct sight *sight, const char *path, struct inode *inode);
/* It has removed it, or has been told that it is not so. */
void sight_forget(struct sight *sight, const char *path);
/* The length of a file. */
uint64_t sight_size(const struct sight *sight, struct inode *inode);

#endif
