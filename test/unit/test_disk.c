#include <criterion/criterion.h>
#include <stdio.h>

#include "base/error.h"
#include "test/support/disk_rig.h"

static const uint64_t sizes[] = {0, 1, 100, 4095, 4096, 4097, 65536, 262143, 262144, 262145, 1 << 20, (5 << 20) + 3};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static const char *size_key(unsigned i)
{
    static const char *const keys[] = {"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11"};
    return keys[i];
}

static void put_sizes(struct rig *rig)
{
    for (unsigned i = 0; i < SIZES; i++)
        cr_assert_eq(rig_put(rig, size_key(i), sizes[i]), 0, "size %lu", (unsigned long)sizes[i]);
}

static void check_sizes(struct rig *rig)
{
    for (unsigned i = 0; i < SIZES; i++) {
        cr_assert(rig_object(rig, size_key(i)), "size %lu is not known", (unsigned long)sizes[i]);
        cr_assert_eq(rig_object(rig, size_key(i))->size, sizes[i]);
        cr_assert_eq(rig_get(rig, size_key(i)), 0, "size %lu", (unsigned long)sizes[i]);
    }
}

Test(disk, sizes_through_close)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    put_sizes(&rig);
    check_sizes(&rig);
    rig_reopen(&rig);
    check_sizes(&rig);
    cr_assert_eq(rig_figures(&rig).recovered_walked, 0);
    rig_fini(&rig);
}

Test(disk, sizes_through_kill)
{
    struct rig rig, copy;
    rig_init(&rig);
    rig.segment_bytes = 32 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    put_sizes(&rig);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    check_sizes(&copy);
    cr_assert_eq(rig_figures(&copy).recovered_walked, SIZES);
    rig_reopen(&copy);
    check_sizes(&copy);
    cr_assert_eq(rig_figures(&copy).recovered_walked, 0);
    rig_fini(&copy);
    rig_fini(&rig);
}
