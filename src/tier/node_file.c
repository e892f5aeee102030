#include "tier/node_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/error.h"
#include "tier/layout.h"

enum {
    AT_FORMAT = 4,
    AT_GENERATION = 8,
    AT_CEILING = 16,
    AT_NODE_LEN = 24,
    AT_CLUSTER_LEN = 26,
    AT_NAMES = 32,
    AT_SUM = BLOCK_BYTES - 8,
};

static const uint8_t magic[4] = {'K', 'V', 'D', 'N'};

void node_file_build(uint8_t out[NODE_FILE_BYTES], struct span node, struct span cluster, const struct node_state *state)
{
    memset(out, 0, NODE_FILE_BYTES);
    memcpy(out, magic, sizeof magic);
    put_le16(out + AT_FORMAT, DISK_FORMAT);
    put_le64(out + AT_GENERATION, state->generation);
    put_le64(out + AT_CEILING, state->ceiling);
    put_le16(out + AT_NODE_LEN, (uint16_t)node.len);
    put_le16(out + AT_CLUSTER_LEN, (uint16_t)cluster.len);
    memcpy(out + AT_NAMES, node.at, node.len);
    memcpy(out + AT_NAMES + node.len, cluster.at, cluster.len);
    put_le64(out + AT_SUM, XXH3_64bits(out, AT_SUM));
    memcpy(out + BLOCK_BYTES, out, BLOCK_BYTES);
}

static int copy_parse(const uint8_t *at, struct span node, struct span cluster, struct node_state *out)
{
    if (memcmp(at, magic, sizeof magic) != 0)
        return KVD_ECORRUPT;
    if (get_le64(at + AT_SUM) != XXH3_64bits(at, AT_SUM))
        return KVD_ECORRUPT;
    if (get_le16(at + AT_FORMAT) != DISK_FORMAT)
        return KVD_EFORMAT;
    size_t node_len = get_le16(at + AT_NODE_LEN);
    size_t cluster_len = get_le16(at + AT_CLUSTER_LEN);
    if (node_len > LAYOUT_NAME_MAX || cluster_len > LAYOUT_NAME_MAX)
        return KVD_ECORRUPT;
    if (!span_equal(span_of(at + AT_NAMES, node_len), node) || !span_equal(span_of(at + AT_NAMES + node_len, cluster_len), cluster))
        return KVD_EFORMAT;
    out->generation = get_le64(at + AT_GENERATION);
    out->ceiling = get_le64(at + AT_CEILING);
    return 0;
}

int node_file_parse(const uint8_t *at, size_t len, struct span node, struct span cluster, struct node_state *out)
{
    struct node_state best = {0};
    int err = KVD_ECORRUPT;
    for (size_t copy = 0; copy < 2 && len >= (copy + 1) * BLOCK_BYTES; copy++) {
        struct node_state state;
        int copy_err = copy_parse(at + copy * BLOCK_BYTES, node, cluster, &state);
        if (!copy_err && (err || state.generation > best.generation))
            best = state;
        if (!copy_err || (err && copy_err == KVD_EFORMAT))
            err = copy_err;
    }
    if (!err)
        *out = best;
    return err;
}

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
