#include "test/bench/pool.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "base/check.h"

enum { PLACE_BYTES = 4096 };

uint64_t pool_mix(uint64_t number)
{
    number += 0x9e3779b97f4a7c15;
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
    number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
    return number ^ (number >> 31);
}

int pool_init(struct pool *pool, uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -ENOMEM;
    (void)madvise(at, bytes, MADV_HUGEPAGE);
    uint64_t *words = at;
    for (uint64_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = pool_mix(i);
    *pool = (struct pool){at, bytes};
    return 0;
}

uint8_t *pool_place(const struct pool *pool, uint64_t number, uint64_t size)
{
    CHECK(size <= pool->bytes);
    const uint64_t places = (pool->bytes - size) / PLACE_BYTES + 1;
    return pool->at + pool_mix(number ^ size << 20) % places * PLACE_BYTES;
}
