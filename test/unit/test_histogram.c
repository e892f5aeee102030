#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/kvctl/histogram.h"

static const unsigned PER_MILLES[] = {1, 100, 500, 900, 990, 999, 1000};

enum { PER_MILLE_COUNT = sizeof PER_MILLES / sizeof PER_MILLES[0] };

static struct histogram *histogram_new(void)
{
    struct histogram *histogram = malloc(sizeof *histogram);
    cr_assert_not_null(histogram);
    histogram_init(histogram);
    return histogram;
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The histogram's answer is at most 1 % above the exact one by nearest rank, and never below. */
static void check_percentiles(uint64_t *values, size_t count)
{
    struct histogram *histogram = histogram_new();

    for (size_t i = 0; i < count; i++)
        histogram_add(histogram, values[i]);
    qsort(values, count, sizeof *values, compare);
    for (size_t i = 0; i < PER_MILLE_COUNT; i++) {
        const size_t rank = (count * PER_MILLES[i] + 999) / 1000;
        const uint64_t exact = values[rank - 1], got = histogram_at(histogram, PER_MILLES[i]);
        cr_assert_geq(got, exact, "%u of 1,000: %lu < %lu", PER_MILLES[i], got, exact);
        cr_assert_leq(got - exact, exact / 100, "%u of 1,000: %lu, exactly %lu", PER_MILLES[i], got, exact);
    }
    cr_assert_eq(histogram_at(histogram, 1000), values[count - 1]);
    cr_assert_eq(histogram->count, count);
    free(histogram);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 11 ^ *state << 20;
}

Test(histogram, empty_is_zero)
{
    struct histogram *histogram = histogram_new();
    cr_assert_eq(histogram_at(histogram, 500), 0);
    cr_assert_eq(histogram_at(histogram, 1000), 0);
    free(histogram);
}

Test(histogram, one_value_is_every_percentile)
{
    const uint64_t values[] = {0, 1, 255, 256, 257, 12345678, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct histogram *histogram = histogram_new();
        histogram_add(histogram, values[i]);
        for (size_t j = 0; j < PER_MILLE_COUNT; j++)
            cr_assert_eq(histogram_at(histogram, PER_MILLES[j]), values[i]);
        free(histogram);
    }
}

Test(histogram, small_values_are_exact)
{
    struct histogram *histogram = histogram_new();
    for (uint64_t v = 0; v < 250; v++)
        histogram_add(histogram, v);
    cr_assert_eq(histogram_at(histogram, 500), 124);
    cr_assert_eq(histogram_at(histogram, 900), 224);
    free(histogram);
}

/* p99.9 of 1,000 is the 999th: an outlier alone must not show in it. */
Test(histogram, ranks_are_exact)
{
    struct histogram *histogram = histogram_new();
    for (int i = 0; i < 999; i++)
        histogram_add(histogram, 10);
    histogram_add(histogram, 1000000);
    cr_assert_eq(histogram_at(histogram, 999), 10);
    cr_assert_eq(histogram_at(histogram, 1000), 1000000);
    free(histogram);
}

Test(histogram, percentiles_of_many_shapes)
{
    enum { COUNT = 20000 };
    uint64_t *values = malloc(COUNT * sizeof *values);
    uint64_t state = 1;

    cr_assert_not_null(values);
    for (unsigned bits = 1; bits <= 64; bits++) { /* even, up to 2^bits */
        for (size_t i = 0; i < COUNT; i++)
            values[i] = next_random(&state) >> (64 - bits);
        check_percentiles(values, COUNT);
    }
    for (size_t i = 0; i < COUNT; i++) /* as latencies are: a long tail over all magnitudes */
        values[i] = next_random(&state) >> (next_random(&state) % 64);
    check_percentiles(values, COUNT);
    for (size_t i = 0; i < COUNT; i++) /* on and beside the borders of buckets */
        values[i] = ((uint64_t)1 << (i % 64)) + next_random(&state) % 3 - 1;
    check_percentiles(values, COUNT);
    for (size_t count = 1; count < 40; count++) { /* ranks that are not whole */
        for (size_t i = 0; i < count; i++)
            values[i] = next_random(&state) >> 40;
        check_percentiles(values, count);
    }
    free(values);
}

Test(histogram, merged_is_as_added_together)
{
    struct histogram *all = histogram_new(), *a = histogram_new(), *b = histogram_new();
    uint64_t state = 7;

    for (int i = 0; i < 5000; i++) {
        const uint64_t value = next_random(&state) >> (i % 50);
        histogram_add(all, value);
        histogram_add(i % 3 ? a : b, value);
    }
    histogram_merge(a, b);
    cr_assert_eq(memcmp(a, all, sizeof *a), 0);
    free(all);
    free(a);
    free(b);
}
