/* node_file.h - the file `node`: whose folder this is, and how far its versions may have gone. Blocking; for jobs and tests.
 *
 * Two copies in two blocks; replaced as a whole by a temporary name. It is the folder's marker, too.
 * Thread: any; one at a time.
 */
#ifndef KVD_TIER_NODE_FILE_H
#define KVD_TIER_NODE_FILE_H

#include <stdint.h>

#include "loop/fs.h"
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

/* As node_file_parse(), or -errno (-ENOENT: there is none). */
int node_file_load(struct loop *loop, const char *folder, const char *node, const char *cluster, struct node_state *out);
/* Durably, whole or not at all. 0 or -errno. */
int node_file_store(struct loop *loop, const char *folder, const char *node, const char *cluster, const struct node_state *state);

#endif
