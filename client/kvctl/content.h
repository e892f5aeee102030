/* content.h - bytes made from a number, so that what comes back can be checked without keeping it.
 *
 * Every 8 bytes depend on the seed and on their place, so bytes that are moved, swapped or another block's are found.
 * Pure functions; any thread. Several GB/s.
 */
#ifndef KVD_CLIENT_CONTENT_H
#define KVD_CLIENT_CONTENT_H

#include <stddef.h>
#include <stdint.h>

/* The seed of block `id` of blocks of `block_bytes`: blocks of other sizes have other bytes. */
uint64_t content_seed(uint64_t block_bytes, uint64_t id);

/* Write the first `len` bytes of `seed`'s content. */
void content_fill(void *out, size_t len, uint64_t seed);

/* The seed whose content is what `seed`'s is from `offset` on, a multiple of 8. */
uint64_t content_from(uint64_t seed, uint64_t offset);

/* Compare `bytes` with the first `len` bytes of `seed`'s content. Returns how many differ, and sets *offset to the first of
 * them when that is not 0. */
uint64_t content_check(const void *bytes, size_t len, uint64_t seed, uint64_t *offset);

#endif
