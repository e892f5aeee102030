#include "test/fuse/inode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void inodes_init(struct inodes *inodes)
{
    memset(inodes, 0, sizeof *inodes);
    pthread_mutex_init(&inodes->lock, NULL);
}

static struct inode **bucket_of(struct inodes *inodes, dev_t dev, ino_t ino)
{
    return &inodes->buckets[(ino ^ dev) % INODE_BUCKETS];
}

static struct inode *inode_new(const struct stat *st, int fd)
{
    struct inode *inode = calloc(1, sizeof *inode);
    if (!inode)
        return NULL;
    inode->dev = st->st_dev;
    inode->ino = st->st_ino;
    inode->fd = fd;
    return inode;
}

/* With the lock held. */
static void path_set(struct inode *inode, const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return;
    free(inode->path);
    inode->path = copy;
}

struct inode *inode_get(struct inodes *inodes, int take_fd, const char *path)
{
    struct stat st;
    if (fstat(take_fd, &st) < 0) {
        close(take_fd);
        return NULL;
    }
    pthread_mutex_lock(&inodes->lock);
    struct inode **bucket = bucket_of(inodes, st.st_dev, st.st_ino);
    struct inode *inode = *bucket;
    while (inode && (inode->dev != st.st_dev || inode->ino != st.st_ino))
        inode = inode->next;
    bool known = inode;
    if (!inode && (inode = inode_new(&st, take_fd))) {
        inode->next = *bucket;
        *bucket = inode;
    }
    if (inode) {
        inode->refs++;
        path_set(inode, path);
    }
    pthread_mutex_unlock(&inodes->lock);
    if (known || !inode)
        close(take_fd);
    return inode;
}

void inode_ref(struct inodes *inodes, struct inode *inode)
{
    pthread_mutex_lock(&inodes->lock);
    inode->refs++;
    pthread_mutex_unlock(&inodes->lock);
}

void inode_unref(struct inodes *inodes, struct inode *inode, uint64_t refs)
{
    if (!inode)
        return;
    pthread_mutex_lock(&inodes->lock);
    inode->refs -= refs;
    bool gone = inode->refs == 0;
    if (gone) {
        struct inode **at = bucket_of(inodes, inode->dev, inode->ino);
        while (*at != inode)
            at = &(*at)->next;
        *at = inode->next;
    }
    pthread_mutex_unlock(&inodes->lock);
    if (!gone)
        return;
    close(inode->fd);
    free(inode->path);
    free(inode->buffer);
    free(inode);
}

int inode_open(const struct inode *inode, int flags)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", inode->fd);
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

void inode_path(struct inodes *inodes, const struct inode *inode, const char *child, char out[INODE_PATH_BYTES])
{
    pthread_mutex_lock(&inodes->lock);
    const char *own = inode->path ? inode->path : "";
    (void)snprintf(out, INODE_PATH_BYTES, "%s%s%s", own, child && *own ? "/" : "", child ? child : "");
    pthread_mutex_unlock(&inodes->lock);
}

void inode_set_path(struct inodes *inodes, struct inode *inode, const char *path)
{
    pthread_mutex_lock(&inodes->lock);
    path_set(inode, path);
    pthread_mutex_unlock(&inodes->lock);
}
