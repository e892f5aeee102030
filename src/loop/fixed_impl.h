/* fixed_impl.h - memory that the ring knows: the pages of each slice are looked up and held once, and not for each operation.
 *
 * Owns:    which slices of one mapping the kernel holds. Borrows: the ring, and the mapping.
 * Not its: operations.
 * Thread:  fixed_begin() and fixed_end(): the loop's; fixed_next(): one at a time, any; the others: any.
 */
#ifndef KVD_LOOP_FIXED_IMPL_H
#define KVD_LOOP_FIXED_IMPL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct io_uring;

struct fixed {
    struct io_uring *uring; /* NULL: there is none, or nothing is to be fixed */
    uint8_t *base;          /* NULL: between fixed_end() and fixed_begin() */
    uint64_t bytes, slice_bytes;
    bool small_pages;
    _Atomic uint32_t slices; /* that are fixed, from the start on; the last one may be shorter */
};

/* What file.h says of file_memory_begin(), _next() and _end(). */
int fixed_begin(struct fixed *fixed, void *base, uint64_t bytes, uint64_t slice_bytes);
int fixed_next(struct fixed *fixed);
void fixed_end(struct fixed *fixed);
uint64_t fixed_bytes(const struct fixed *fixed);

/* The slice that holds all of [at, at + len), by its number in the ring; -1 where none does. */
int fixed_slice(const struct fixed *fixed, const void *at, uint64_t len);

#endif
