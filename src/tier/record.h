/* record.h - the header before each value on disk: its shape, its bytes, its judgement.
 *
 * A record is a header in as many 4 KiB blocks as it needs, then the value from the next block on; a value that fits into
 * what the header leaves of its last block lies right there. docs/disk-format.md has it byte by byte.
 *
 * Not its: files, segments, who reads. Pure functions; any thread. Bytes given to record_peek and record_parse may be anything.
 */
#ifndef KVD_TIER_RECORD_H
#define KVD_TIER_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum {
    DISK_FORMAT = 1,
    DISK_ID_BYTES = 16,
    RECORD_FIXED_BYTES = 88,
    RECORD_CHUNK_BYTES = 256 * 1024,
    RECORD_KEY_MAX = 1024,
    RECORD_HEADER_MAX_BYTES = 256 * 1024, /* no header is longer: what a reader must be able to hold */
};
#define RECORD_VALUE_MAX (7 * GIB)

struct record {
    uint8_t segment_id[DISK_ID_BYTES];
    uint64_t sequence; /* in its segment, from 0 on */
    uint64_t version;
    uint64_t node; /* XXH3-64 of the node's name */
    uint64_t expires_ms;
    uint64_t size;
    uint64_t checksum; /* XXH3-64 of the whole value */
    struct span key;
    const uint8_t *sums; /* where the chunks' sums lie, after record_parse; record_sum() reads them */
};

struct record_shape {
    uint32_t chunks;
    uint32_t header_bytes; /* a multiple of 8 */
    uint32_t header_blocks;
    uint32_t blocks; /* header and value */
    bool shared;     /* the value begins at header_bytes, in the header's last block */
};

/* key_len is 1 to RECORD_KEY_MAX, size at most RECORD_VALUE_MAX. */
struct record_shape record_shape(size_t key_len, uint64_t size);

/* Write the header and the zeros after it: shape.header_blocks whole blocks. `sums` has one for each chunk; NULL for a value of at
 * most one chunk. record->sums is not looked at. A shared value is for the caller to copy to out + header_bytes. */
void record_build(uint8_t *out, const struct record *record, const uint64_t *sums);

/* How long the header is that begins with these (at least RECORD_FIXED_BYTES) bytes, or 0 when none of this format does. Says nothing
 * of whether it is whole. */
uint32_t record_peek(const uint8_t *at, size_t len);

/* Does a header of a format that is not this one begin here? */
bool record_is_newer(const uint8_t *at, size_t len);

/* Judge a header by its checksum and its lengths. 0, or KVD_ECORRUPT. Spans point into `at`. */
int record_parse(const uint8_t *at, size_t len, struct record *out);

/* The sum of chunk `i` of a parsed record. */
uint64_t record_sum(const struct record *record, uint32_t i);

#endif
