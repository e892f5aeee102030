/* inode.h - the backing's files that the kernel or the journal knows, by device and number.
 *
 * Owns:    a descriptor (O_PATH) of each, so that it can be opened when its name is gone: a stale name opens a removed file, as on 3FS.
 * Not its: what is in them.
 * Thread:  any, but for what is said at the fields.
 */
#ifndef KVD_TEST_FUSE_INODE_H
#define KVD_TEST_FUSE_INODE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { INODE_BUCKETS = 4096, INODE_PATH_BYTES = 4096 };

struct inode {
    struct inode *next; /* of its bucket */
    dev_t dev;
    ino_t ino;
    int fd;
    uint64_t refs;
    char *path;       /* the last name it was known by, from the root; under the table's lock */
    unsigned trashed; /* links of it that are in the spare folder; under the journal's lock */
    int late_err;     /* what the next fsync or close is to say; under the journal's lock, as the next three */
    struct buffer *buffer;
    bool unpublished; /* its length has grown, and other hosts do not know */
    uint64_t publish_ms;
};

/* Bytes that were acknowledged and are not in the backing yet. */
enum { BUFFER_BYTES = 1 << 20 };
struct buffer {
    off_t offset;
    size_t len;
    uint8_t bytes[BUFFER_BYTES];
};

struct inodes {
    pthread_mutex_t lock;
    struct inode *buckets[INODE_BUCKETS];
};

void inodes_init(struct inodes *inodes);

/* The inode that `fd` (O_PATH) is of, with a reference more; `path` is its name from now on. Takes `fd`. NULL: out of memory, or errno. */
struct inode *inode_get(struct inodes *inodes, int take_fd, const char *path);
void inode_ref(struct inodes *inodes, struct inode *inode);
void inode_unref(struct inodes *inodes, struct inode *inode, uint64_t refs);
/* Open the file itself, whether it has a name or not. Returns a descriptor or -errno. */
int inode_open(const struct inode *inode, int flags);

/* The path of `inode`, or of `child` in it. */
void inode_path(struct inodes *inodes, const struct inode *inode, const char *child, char out[INODE_PATH_BYTES]);
void inode_set_path(struct inodes *inodes, struct inode *inode, const char *path);

#endif
