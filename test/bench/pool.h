/* pool.h - a mapping as large as a server's pool, from random places of which values are sent, and into which the bare pair receives.
 *
 * Where a value lies follows from its number and size alone, and so do its bytes: any process with a pool of the same size can judge them.
 * Thread: any, once it is there.
 */
#ifndef KVD_BENCH_POOL_H
#define KVD_BENCH_POOL_H

#include <stdint.h>

struct pool {
    uint8_t *at;
    uint64_t bytes;
};

/* Map and write all of it, in huge pages where there are any. Returns 0 or -ENOMEM. It stays until the process ends. */
int pool_init(struct pool *pool, uint64_t bytes);

/* The place of value `number` of `size` bytes, which are at most the pool's. */
uint8_t *pool_place(const struct pool *pool, uint64_t number, uint64_t size);

/* A mixed-up number. */
uint64_t pool_mix(uint64_t number);

#endif
