/* segment_image.h - a small segment in memory, built by the tier's own pure modules, for those that look at its bytes.
 *
 *     block 0 header · 1 to 4 slots · 5 "small" · 6 to 8 "large" · 9 index · 10 "last" · 11 final index
 */
#ifndef KVD_TEST_SEGMENT_IMAGE_H
#define KVD_TEST_SEGMENT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum {
    IMAGE_FULL_BYTES = 16 * BLOCK_BYTES,
    IMAGE_SEALED_BYTES = 12 * BLOCK_BYTES,
    IMAGE_SEQUENCE = 5,
    IMAGE_SMALL_AT = 5 * BLOCK_BYTES,
    IMAGE_LARGE_AT = 6 * BLOCK_BYTES,
    IMAGE_INDEX_AT = 9 * BLOCK_BYTES,
    IMAGE_LAST_AT = 10 * BLOCK_BYTES,
    IMAGE_FINAL_AT = 11 * BLOCK_BYTES,
};
#define IMAGE_NAME "0000000000000005.seg"

/* Fill IMAGE_FULL_BYTES. Sealed, it is IMAGE_SEALED_BYTES long; else its last record is in no index, and zeros follow. */
void segment_image(uint8_t *out, bool sealed);

/* Make the sums of its headers, slots and indexes right again, whatever they now say. */
void segment_image_sum(uint8_t *at);

#endif
