#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL /* as this compiler makes it, not as sum.c picks it */
#include <xxhash.h>

#include "base/bytes.h"
#include "base/sum.h"

enum { MOST_BYTES = 300 * 1024 };

static uint8_t *some_bytes(void)
{
    uint8_t *bytes = malloc(MOST_BYTES);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < MOST_BYTES; i++)
        bytes[i] = (uint8_t)(i * 131 >> 3);
    return bytes;
}

/* As `xxhsum -H3` prints it. */
Test(sum, is_xxh3_64)
{
    cr_assert_eq(sum_of("", 0), 0x2d06800538d394c2);
    cr_assert_eq(sum_of("key", 3), XXH3_64bits("key", 3));
    uint8_t *bytes = some_bytes();
    const size_t lengths[] = {1, 16, 17, 128, 129, 240, 241, 1024, 4096, 65536, 262144, MOST_BYTES};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        cr_assert_eq(sum_of(bytes, lengths[i]), XXH3_64bits(bytes, lengths[i]), "%zu bytes", lengths[i]);
    free(bytes);
}

Test(sum, of_pieces_is_that_of_the_whole)
{
    uint8_t *bytes = some_bytes();
    const size_t steps[] = {1, 7, 64, 255, 256, 257, 1000, 4096, 65536};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct sum sum;
        sum_init(&sum);
        for (size_t at = 0; at < MOST_BYTES; at += steps[i])
            sum_add(&sum, bytes + at, min_u64(steps[i], MOST_BYTES - at));
        cr_assert_eq(sum_value(&sum), XXH3_64bits(bytes, MOST_BYTES), "in steps of %zu", steps[i]);
        cr_assert_eq(sum_value(&sum), sum_value(&sum), "asking changes nothing");
    }
    free(bytes);
}

Test(sum, of_nothing_and_of_nothing_added)
{
    struct sum sum;
    sum_init(&sum);
    cr_assert_eq(sum_value(&sum), sum_of("", 0));
    sum_add(&sum, "", 0);
    sum_add(&sum, "abc", 3);
    cr_assert_eq(sum_value(&sum), sum_of("abc", 3));
    sum_init(&sum);
    cr_assert_eq(sum_value(&sum), sum_of("", 0));
}
