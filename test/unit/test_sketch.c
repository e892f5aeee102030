#include <criterion/criterion.h>

#include "base/bytes.h"
#include "store/sketch.h"

static uint64_t hash_of(uint64_t number)
{
    uint64_t n = (number + 1) * 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

Test(sketch, its_size_is_a_power_of_two_within_bounds)
{
    static const uint64_t asked[] = {0, 4096, 8191, 8192, 700000, 1 << 20, UINT64_MAX};
    static const uint64_t keys[] = {2048, 2048, 2048, 4096, 262144, 524288, 524288};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        struct sketch *sketch;
        cr_assert_eq(sketch_new(&sketch, asked[i]), 0);
        cr_assert_eq(sketch_keys(sketch), keys[i]);
        sketch_free(sketch);
    }
    sketch_free(NULL);
}

Test(sketch, what_was_noted_last_is_known_and_what_was_noted_long_ago_is_not)
{
    struct sketch *sketch;
    cr_assert_eq(sketch_new(&sketch, 64 * 1024), 0);
    uint64_t keys = sketch_keys(sketch);
    for (uint64_t i = 0; i < 10 * keys; i++) {
        sketch_note(sketch, hash_of(i));
        sketch_note(sketch, hash_of(i)); /* twice is once */
        cr_assert(sketch_knows(sketch, hash_of(i)));
        if (i >= keys)
            cr_assert(sketch_knows(sketch, hash_of(i - keys + 1)), "forgotten within a generation");
    }
    uint64_t remembered = 0;
    for (uint64_t i = 0; i < 8 * keys; i++)
        remembered += sketch_knows(sketch, hash_of(i));
    cr_assert_lt(remembered, 8 * keys / 100);
    sketch_free(sketch);
}

Test(sketch, few_keys_that_were_never_noted_are_taken_for_known)
{
    struct sketch *sketch;
    cr_assert_eq(sketch_new(&sketch, MIB), 0);
    uint64_t keys = sketch_keys(sketch), wrong = 0;
    for (uint64_t i = 0; i < 2 * keys; i++) /* both generations are full */
        sketch_note(sketch, hash_of(i));
    for (uint64_t i = 0; i < keys; i++)
        wrong += sketch_knows(sketch, hash_of(i + 10 * keys));
    cr_assert_lt(wrong, keys / 100, "%llu of %llu", (unsigned long long)wrong, (unsigned long long)keys);
    sketch_free(sketch);
}
