/* meta.h - walking msgpack that came from outside, object by object, without allocating or decoding.
 *
 * Owns:    nothing; every span points into what was given.
 * Not its: what fields mean (msg.h).
 * Thread:  any.
 */
#ifndef KVD_PROTO_META_H
#define KVD_PROTO_META_H

#include <stdint.h>

#include "base/bytes.h"

/* The rest of a map or of an array: `left` pairs or items, which lie in `bytes`. */
struct meta_walk {
    struct span bytes;
    uint32_t left;
};

/* Look into one object. Returns 0; KVD_EPROTO when `object` does not begin with a map, or an array; *walk untouched then. */
int meta_map(struct span object, struct meta_walk *walk);
int meta_array(struct span object, struct meta_walk *walk);

/* The next pair or item, as whole objects, nested at most MSG_MAX_DEPTH deep in themselves. Call it while walk->left > 0.
 * Returns 0, or KVD_EPROTO when it is not all there, is nested deeper, or a pair's key is no str. */
int meta_next_pair(struct meta_walk *walk, struct span *key_text, struct span *value);
int meta_next_item(struct meta_walk *walk, struct span *item);

#endif
