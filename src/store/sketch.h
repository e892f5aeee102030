/* sketch.h - a compact memory of keys that are in the table no more: "was this one here before?"
 *
 * Two generations of a filter of bits (Bloom's, each key within one line of the cache): keys are noted in the younger one; when that has
 * taken as many as it can tell apart, the older one is emptied and takes its place. So what was noted last is remembered for certain, at
 * least `sketch_keys()` of it; what was noted more than twice as many keys ago is forgotten; and fewer than one key in a hundred that was
 * never noted is taken for one that was.
 *
 * Owns:    its bits. Not its: keys (only their hashes), policy.
 * Thread:  the loop's. No call looks at more than 1 MiB.
 */
#ifndef KVD_STORE_SKETCH_H
#define KVD_STORE_SKETCH_H

#include <stdbool.h>
#include <stdint.h>

struct sketch;

/* `bytes` of each generation: rounded down to a power of two, at least 4 KiB and at most 1 MiB. 0 or -ENOMEM. */
int sketch_new(struct sketch **out, uint64_t bytes);
void sketch_free(struct sketch *sketch);

/* `hash` is a good one of the key, 64 bits, the same each time. */
void sketch_note(struct sketch *sketch, uint64_t hash);
bool sketch_knows(const struct sketch *sketch, uint64_t hash);
/* How many keys a generation takes. */
uint64_t sketch_keys(const struct sketch *sketch);

#endif
