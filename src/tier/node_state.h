/* node_state.h - the bytes of the file `node`: two copies of one block. Pure functions; any thread. Bytes that are parsed may be anything.
 * docs/disk-format.md has it byte by byte.
 */
#ifndef KVD_TIER_NODE_STATE_H
#define KVD_TIER_NODE_STATE_H

#include "tier/record.h"

enum { NODE_FILE_BYTES = 2 * BLOCK_BYTES };

struct node_state {
    uint64_t generation;
    uint64_t ceiling; /* no version above it was ever given */
};

/* Write both copies / take the valid copy with the higher generation. Parsing returns 0, KVD_ECORRUPT (no copy is good), or
 * KVD_EFORMAT (a newer format, or the file of another node). */
void node_file_build(uint8_t out[NODE_FILE_BYTES], struct span node, struct span cluster, const struct node_state *state);
int node_file_parse(const uint8_t *at, size_t len, struct span node, struct span cluster, struct node_state *out);

/* Judge one copy, a block, whosever it is: 0, KVD_ECORRUPT, or KVD_EFORMAT (a newer one). Names point into `at`. */
int node_copy_parse(const uint8_t *at, struct node_state *out, struct span *node, struct span *cluster);

#endif
