#include "client/kvctl/histogram.h"

#include <string.h>

#include "base/bytes.h"
#include "base/check.h"

enum { SUB_BUCKETS = 1 << HISTOGRAM_SUB_BITS };

/* How many low bits of `value` its bucket does not tell apart. */
static unsigned bucket_shift(uint64_t value)
{
    const unsigned bits = value == 0 ? 0 : 64 - (unsigned)__builtin_clzll(value);
    return bits > HISTOGRAM_SUB_BITS + 1 ? bits - (HISTOGRAM_SUB_BITS + 1) : 0;
}

static size_t bucket_of(uint64_t value)
{
    const unsigned shift = bucket_shift(value);
    return (size_t)shift * SUB_BUCKETS + (size_t)(value >> shift);
}

/* The largest value of a bucket. */
static uint64_t bucket_top(size_t bucket)
{
    if (bucket < (size_t)2 * SUB_BUCKETS)
        return bucket;
    const unsigned shift = (unsigned)(bucket / SUB_BUCKETS) - 1;
    const uint64_t first = (uint64_t)(bucket - (size_t)shift * SUB_BUCKETS) << shift;
    return first + (((uint64_t)1 << shift) - 1);
}

void histogram_init(struct histogram *histogram)
{
    memset(histogram, 0, sizeof *histogram);
}

void histogram_add(struct histogram *histogram, uint64_t value)
{
    histogram->buckets[bucket_of(value)]++;
    histogram->count++;
    histogram->max = max_u64(histogram->max, value);
}

void histogram_merge(struct histogram *histogram, const struct histogram *from)
{
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        histogram->buckets[i] += from->buckets[i];
    histogram->count += from->count;
    histogram->max = max_u64(histogram->max, from->max);
}

uint64_t histogram_at(const struct histogram *histogram, unsigned per_mille)
{
    CHECK(per_mille <= 1000);
    /* In whole numbers: 0.999 * 1000 is a little more than 999 in floating point. Rank 0 is rank 1. */
    const uint64_t rank = max_u64((histogram->count * per_mille + 999) / 1000, 1);
    uint64_t seen = 0;

    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank)
            return min_u64(bucket_top(i), histogram->max);
    }
    return 0;
}
