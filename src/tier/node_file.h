/* node_file.h - the file `node`: whose folder this is, and how far its versions may have gone. Blocking; for jobs and tests.
 *
 * Two copies in two blocks; replaced as a whole by a temporary name. It is the folder's marker, too.
 * Thread: any; one at a time.
 */
#ifndef KVD_TIER_NODE_FILE_H
#define KVD_TIER_NODE_FILE_H

#include <stdint.h>

#include "loop/fs.h"
#include "tier/node_state.h"

/* As node_file_parse(), or -errno (-ENOENT: there is none). */
int node_file_load(struct loop *loop, const char *folder, const char *node, const char *cluster, struct node_state *out);
/* Durably, whole or not at all. 0 or -errno. */
int node_file_store(struct loop *loop, const char *folder, const char *node, const char *cluster, const struct node_state *state);

#endif
