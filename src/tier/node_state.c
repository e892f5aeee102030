#include "tier/node_state.h"

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

int node_copy_parse(const uint8_t *at, struct node_state *out, struct span *node, struct span *cluster)
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
    out->generation = get_le64(at + AT_GENERATION);
    out->ceiling = get_le64(at + AT_CEILING);
    *node = span_of(at + AT_NAMES, node_len);
    *cluster = span_of(at + AT_NAMES + node_len, cluster_len);
    return 0;
}

static int copy_parse(const uint8_t *at, struct span node, struct span cluster, struct node_state *out)
{
    struct span its_node, its_cluster;
    struct node_state state;
    int err = node_copy_parse(at, &state, &its_node, &its_cluster);
    if (!err && (!span_equal(its_node, node) || !span_equal(its_cluster, cluster)))
        err = KVD_EFORMAT;
    if (!err)
        *out = state;
    return err;
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
