/* pool.h - the memory pool: one mapping that holds all values, handed out as blobs.
 *
 * A blob is the bytes of one value (or part of one): a list of extents of whole 4 KiB blocks, each at most 1 MiB, taken one by one as
 * bytes arrive, immutable once filled, and reference-counted, so that a remove never pulls bytes from under a reply.
 *
 * The pool never moves or merges what is live. Free room is kept by a buddy scheme inside each MiB; a request for an
 * extent takes the largest power-of-two run that it needs and that there is, down to one block: so as long as free_bytes
 * covers a value rounded up to 4 KiB, it fits, however mixed the sizes were (invariant: no failure by fragmentation).
 * Taking and giving back an extent is O(log of extent size), not of the pool's.
 *
 * Owns:    its book-keeping. Borrows: the mapping.
 * Not its: keys, eviction, who waits for room.
 * Thread:  the loop's (bytes inside a blob: the kernel's and whoever fills it).
 */
#ifndef KVD_TIER_POOL_H
#define KVD_TIER_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/bytes.h"

struct pool;
struct blob;

enum { POOL_EXTENT_BYTES = 1 << 20, POOL_CHUNK_BYTES = 256 * 1024 };

/* `base` is 4 KiB aligned, `bytes` a multiple of 4 KiB, at least 1 MiB and at most 16 TiB; both stay the caller's and outlive the
 * pool. Returns 0 or -ENOMEM. */
int pool_new(struct pool **out, void *base, uint64_t bytes);
/* Every blob must have been freed. */
void pool_free(struct pool *pool);

uint64_t pool_size(const struct pool *pool);
uint64_t pool_used(const struct pool *pool);  /* bytes in extents that are taken */
uint64_t pool_blobs(const struct pool *pool); /* blobs that live */

/* A blob for a value of `size` bytes, one reference, no room yet. NULL when the heap is out. */
struct blob *blob_new(struct pool *pool, uint64_t size);
struct blob *blob_ref(struct blob *blob);
/* The last one gives the room back. */
void blob_unref(struct blob *blob);

uint64_t blob_size(const struct blob *blob);
/* Bytes of room taken so far: a multiple of 4 KiB. */
uint64_t blob_room(const struct blob *blob);
/* Room that all of `size` takes: size rounded up to 4 KiB. */
uint64_t blob_room_needed(const struct blob *blob);

/* Take one more extent: at most what is still needed, at most 1 MiB. Returns 0, KVD_EBUSY (the pool has no free block), or
 * -ENOMEM. Must not be called when the room suffices. */
int blob_grow(struct blob *blob);
/* Take all the room that is needed, or none of it. Returns as blob_grow(); 0 at once when there is nothing to take. */
int blob_grow_all(struct blob *blob);

/* The contiguous bytes at `offset` < blob_room(): *len is how many of them follow in this extent (room included). */
uint8_t *blob_at(const struct blob *blob, uint64_t offset, size_t *len);

/* Describe bytes [offset, offset + len), which must lie within the room, as at most `max` vectors; neighbouring extents that touch are
 * joined. Returns how many vectors it takes; when that is more than max, only the first max are written. */
unsigned blob_iov(const struct blob *blob, uint64_t offset, uint64_t len, struct iovec *iov, unsigned max);

/* XXH3-64 (seed 0) of bytes [offset, offset + len), which must lie within the room. */
uint64_t blob_range_sum(const struct blob *blob, uint64_t offset, uint64_t len);

/* Zero what lies between the end of the value and the end of its last block (records on disk are padded with zeros). */
void blob_zero_tail(const struct blob *blob);

/* XXH3-64 (seed 0) of each 256 KiB of the value; the caller sets them while filling. NULL when the value is at most one
 * chunk (its sum is the value's own checksum) or nobody made them. */
uint64_t *blob_sums(const struct blob *blob);
uint32_t blob_chunks(const struct blob *blob); /* 0 for an empty value */
/* Make the array; 0 or -ENOMEM. A no-op for at most one chunk. */
int blob_sums_make(struct blob *blob);

#endif
