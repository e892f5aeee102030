/* histogram.h - a log-linear histogram: fixed memory, any 64-bit value, percentiles at most 1 % too high.
 *
 * Values below 256 have a bucket each; from there on every power of two is cut into 128 buckets of equal width.
 * Owns:    nothing beyond itself (about 58 KiB: keep it on the heap).
 * Not its: units, and what is measured.
 * Thread:  one at a time; give each thread its own and merge them.
 */
#ifndef KVD_CLIENT_HISTOGRAM_H
#define KVD_CLIENT_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_SUB_BITS = 7, /* buckets in each power of two, as a power of two: 1 / 128 is the error */
    HISTOGRAM_BUCKETS = (2 + 63 - HISTOGRAM_SUB_BITS) << HISTOGRAM_SUB_BITS,
};

struct histogram {
    uint64_t count;
    uint64_t max; /* exact */
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Make it empty. */
void histogram_init(struct histogram *histogram);

/* Count one value. */
void histogram_add(struct histogram *histogram, uint64_t value);

/* Add all that `from` counted. */
void histogram_merge(struct histogram *histogram, const struct histogram *from);

/* The value that at least `per_mille` of 1,000 values do not exceed (nearest rank; 500 is the median, 999 is p99.9, 1,000 the
 * exact maximum): never below the true one and never above the maximum. 0 when nothing was counted. */
uint64_t histogram_at(const struct histogram *histogram, unsigned per_mille);

#endif
