#include "client/kvctl/content.h"

#include <string.h>

#include "base/bytes.h"
#include "base/check.h"

enum { STRIDE_BYTES = 4096 };

#define STEP 0x9e3779b97f4a7c15u

static uint64_t content_word(uint64_t seed, uint64_t index)
{
    uint64_t z = seed + index * STEP;
    z ^= z >> 32;
    z *= 0xd6e8feb86659fd93;
    return z ^ z >> 29;
}

uint64_t content_seed(uint64_t block_bytes, uint64_t id)
{
    return content_word(content_word(0x6b7664, block_bytes), id);
}

uint64_t content_from(uint64_t seed, uint64_t offset)
{
    CHECK(offset % 8 == 0);
    return seed + offset / 8 * STEP;
}

/* `offset` is a multiple of 8. */
static void fill_at(uint8_t *out, size_t len, uint64_t seed, uint64_t offset)
{
    uint64_t index = offset / 8;
    for (; len >= 8; len -= 8, out += 8, index++) {
        const uint64_t word = content_word(seed, index);
        memcpy(out, &word, 8);
    }
    const uint64_t last = content_word(seed, index);
    memcpy(out, &last, len);
}

void content_fill(void *out, size_t len, uint64_t seed)
{
    fill_at(out, len, seed, 0);
}

static uint64_t count_differences(const uint8_t *a, const uint8_t *b, size_t len, size_t *first)
{
    uint64_t count = 0;
    for (size_t i = len; i-- > 0;) {
        if (a[i] != b[i]) {
            *first = i;
            count++;
        }
    }
    return count;
}

uint64_t content_check(const void *bytes, size_t len, uint64_t seed, uint64_t *offset)
{
    const uint8_t *at = bytes;
    uint8_t right[STRIDE_BYTES];
    uint64_t wrong = 0;

    for (size_t done = 0; done < len;) {
        const size_t step = (size_t)min_u64(len - done, STRIDE_BYTES);
        size_t first = 0;
        fill_at(right, step, seed, done);
        if (memcmp(at + done, right, step) != 0) {
            const uint64_t differ = count_differences(at + done, right, step, &first);
            if (wrong == 0)
                *offset = done + first;
            wrong += differ;
        }
        done += step;
    }
    return wrong;
}
