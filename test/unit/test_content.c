#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/kvctl/content.h"

/* Around the steps of 8 and 4,096 bytes that the code takes. */
static const size_t LENGTHS[] = {0, 1, 7, 8, 9, 4095, 4096, 4097, 4104, 12289};

Test(content, what_was_filled_is_right)
{
    uint8_t *bytes = malloc(16384);
    uint64_t offset = 77;

    cr_assert_not_null(bytes);
    for (size_t i = 0; i < sizeof LENGTHS / sizeof LENGTHS[0]; i++) {
        bytes[LENGTHS[i]] = 0xa5;
        content_fill(bytes, LENGTHS[i], 42);
        cr_assert_eq(bytes[LENGTHS[i]], 0xa5, "written beyond %zu", LENGTHS[i]);
        cr_assert_eq(content_check(bytes, LENGTHS[i], 42, &offset), 0);
    }
    cr_assert_eq(offset, 77, "set only when something is wrong");
    free(bytes);
}

Test(content, each_wrong_byte_is_found)
{
    enum { LEN = 4100 };
    uint8_t bytes[LEN];
    uint64_t offset = 0;

    content_fill(bytes, LEN, 42);
    for (size_t i = 0; i < LEN; i++) {
        bytes[i] ^= 0x10;
        cr_assert_eq(content_check(bytes, LEN, 42, &offset), 1);
        cr_assert_eq(offset, i);
        bytes[i] ^= 0x10;
    }
    bytes[4099] ^= 1;
    bytes[4094] ^= 1;
    cr_assert_eq(content_check(bytes, LEN, 42, &offset), 2);
    cr_assert_eq(offset, 4094, "the first of them");
}

Test(content, moved_bytes_and_other_seeds_are_found)
{
    uint8_t bytes[4096 * 2 + 8];
    uint64_t offset = 0;

    content_fill(bytes, sizeof bytes, 42);
    cr_assert_gt(content_check(bytes + 8, 4096, 42, &offset), 4000, "moved by a word");
    cr_assert_gt(content_check(bytes + 4096, 4096, 42, &offset), 4000, "moved by a page");
    cr_assert_gt(content_check(bytes, 4096, 43, &offset), 4000, "another seed");
}

Test(content, a_piece_of_content_is_that_of_a_seed_of_its_own)
{
    uint8_t bytes[4096 * 3];
    uint64_t offset = 0;

    content_fill(bytes, sizeof bytes, 42);
    for (size_t at = 0; at <= 8192; at += 4088)
        cr_assert_eq(content_check(bytes + at, 4096, content_from(42, at), &offset), 0, "from %zu on", at);
    cr_assert_gt(content_check(bytes, 4096, content_from(42, 8), &offset), 4000);
}

Test(content, seeds_differ_by_id_and_by_size)
{
    for (uint64_t id = 0; id < 1000; id++) {
        cr_assert_neq(content_seed(65536, id), content_seed(65536, id + 1));
        cr_assert_neq(content_seed(65536, id), content_seed(262144, id));
    }
}
