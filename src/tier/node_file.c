#include "tier/node_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

int node_file_load(struct loop *loop, const char *folder, const char *node, const char *cluster, struct node_state *out)
{
    char *path;
    if (asprintf(&path, "%s/node", folder) < 0)
        return -ENOMEM;
    struct file file;
    int err = fs_open(loop, &file, path, FS_READ_ONLY);
    free(path);
    if (err)
        return err;
    uint8_t at[NODE_FILE_BYTES];
    int64_t got = fs_read(loop, &file, at, sizeof at, 0);
    (void)fs_close(loop, &file);
    return got < 0 ? (int)got : node_file_parse(at, (size_t)got, span_text(node), span_text(cluster), out);
}

static int temp_write(struct loop *loop, const char *temp, const uint8_t *at)
{
    int err = fs_unlink(loop, temp);
    if (err && err != -ENOENT)
        return err;
    struct file file;
    err = fs_open(loop, &file, temp, FS_CREATE);
    if (err)
        return err;
    err = fs_write(loop, &file, at, NODE_FILE_BYTES, 0);
    if (!err)
        err = fs_sync(loop, &file);
    int close_err = fs_close(loop, &file);
    return err ? err : close_err;
}

/* One copy after the other, so that a crash leaves one of them whole; and no new room is needed, so that a full file system can still be
 * opened. -ENOENT when there is no file yet. */
static int rewrite(struct loop *loop, const char *path, const uint8_t *at)
{
    struct file file = {.fd = -1};
    int err = fs_open(loop, &file, path, 0);
    for (size_t copy = 0; copy < 2 && !err; copy++) {
        err = fs_write(loop, &file, at + copy * BLOCK_BYTES, BLOCK_BYTES, copy * BLOCK_BYTES);
        if (!err)
            err = fs_sync(loop, &file);
    }
    if (file.fd < 0)
        return err;
    int close_err = fs_close(loop, &file);
    return err ? err : close_err;
}

static int create(struct loop *loop, const char *folder, const char *path, const uint8_t *at)
{
    char *temp;
    if (asprintf(&temp, "%s.tmp", path) < 0)
        return -ENOMEM;
    int err = temp_write(loop, temp, at);
    if (!err)
        err = fs_rename(loop, temp, path);
    if (!err)
        err = fs_sync_dir(loop, folder);
    free(temp);
    return err;
}

int node_file_store(struct loop *loop, const char *folder, const char *node, const char *cluster, const struct node_state *state)
{
    char *path;
    uint8_t at[NODE_FILE_BYTES];
    node_file_build(at, span_text(node), span_text(cluster), state);
    if (asprintf(&path, "%s/node", folder) < 0)
        return -ENOMEM;
    int err = rewrite(loop, path, at);
    if (err == -ENOENT)
        err = create(loop, folder, path, at);
    free(path);
    return err;
}
