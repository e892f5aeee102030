/* sum.h - the sum of values: XXH3-64 (seed 0), by the widest instructions that this machine has.
 *
 * A plain call of the library uses the narrowest that any such machine has (on x86-64, SSE2: 20 GB/s where AVX-512 does 90); so does a
 * program that links the library's static archive where that has no others.
 * Thread: any.
 */
#ifndef KVD_BASE_SUM_H
#define KVD_BASE_SUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum of bytes that come in pieces; the caller's memory. */
struct sum {
    _Alignas(64) uint8_t state[576];
};

uint64_t sum_of(const void *bytes, size_t len);

void sum_init(struct sum *sum);
void sum_add(struct sum *sum, const void *bytes, size_t len);
/* Of all that was added since sum_init(). */
uint64_t sum_value(const struct sum *sum);

#endif
