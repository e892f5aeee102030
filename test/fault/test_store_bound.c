/* The bound of the table: who goes when it is near, who when it is reached, and what a start does with more than fits. */
#include "test/support/store_bench.h"

enum { SMALL = 3000, SEGMENT = 1 << 20 };

static void begin(void)
{
    struct store_config config = bench_config();
    config.disk.limit_bytes = 64 * SEGMENT;
    config.disk.segment_bytes = SEGMENT;
    bench_begin(&config);
}

static void begin_on(void)
{
    begin();
    fake_opened(bench.disk, 0, 0);
    fake_recovered(bench.disk);
}

static uint64_t heap(void)
{
    return info().table.heap_bytes;
}

/* The table may take what it takes now. */
static void bound_here(void)
{
    bench.store->config.index_bytes = heap();
}

static void bound_nowhere(void)
{
    bench.store->config.index_bytes = 0;
}

static unsigned kills(void)
{
    return fake_count(&bench.disk->kills);
}

Test(store_bound, near_it_segments_go_as_if_the_disk_were_full)
{
    begin_on();
    char key[32];
    for (unsigned i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "n%u", i);
        put_on_disk(key, i, SMALL);
        fake_seal(bench.disk);
    }
    bench.store->config.index_bytes = 2 * heap();
    reclaim_check(bench.store);
    settle();
    cr_assert_eq(kills(), 0);
    bench.store->config.index_bytes = heap() + 100;
    reclaim_check(bench.store);
    settle();
    cr_assert_eq(kills(), 1);
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(where_is("n0"), 0);
    bound_nowhere();
    fake_reap(bench.disk);
    settle();
    bench_end();
}

Test(store_bound, at_it_what_is_in_memory_alone_goes_the_coldest_first)
{
    begin_on();
    store_set_persist(bench.store, PERSIST_NONE);
    char key[32];
    for (unsigned i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "n%u", i);
        put_ok(key, i, SMALL);
    }
    cr_assert(pin("n0", true));
    bound_here();
    put_ok("a newer one", 77, SMALL);
    cr_assert(where_is("n0") && !where_is("n1") && where_is("n2") && where_is("a newer one"));
    cr_assert_eq(info().figures.dropped_index, 1);
    cr_assert_eq(heap(), bench.store->config.index_bytes + 16, "one that is a little larger");
    bound_nowhere();
    bench_end();
}

Test(store_bound, where_nobody_can_go_puts_of_new_keys_are_busy_until_a_segment_is_gone)
{
    begin_on();
    put_on_disk("a", 1, SMALL);
    fake_seal(bench.disk);
    put_on_disk("b", 2, SMALL);
    bound_here();
    struct put put;
    cr_assert_eq(put_begin(&put, "new", 0, 3, SMALL), KVD_EBUSY);
    cr_assert_eq(info().figures.index_busy, 1);
    settle();
    cr_assert_eq(kills(), 1, "room is being made");
    cr_assert_eq(put_go(&put, "b", REPLACE, 4, SMALL), STORE_PENDING, "that takes none");
    fake_kill_all(bench.disk);
    settle();
    cr_assert_eq(where_is("a"), 0);
    put_ok("new", 3, SMALL);
    bound_nowhere();
    bench_end();
}

/* v2 is not taken; then v1 of the same key is found, and must not be shown in its place. */
Test(store_bound, what_is_found_beyond_it_is_left_and_its_segments_go)
{
    begin();
    struct segment *one = fake_segment_new(bench.disk), *two = fake_segment_new(bench.disk), *three = fake_segment_new(bench.disk);
    one->ended = two->ended = three->ended = true;
    uint8_t bytes[100];
    value_fill(1, 0, bytes, sizeof bytes);
    fake_opened(bench.disk, 0, 5000);
    fake_found(bench.disk, fake_old_record(bench.disk, one, "taken", 10, bytes, sizeof bytes));
    bound_here();
    fake_found(bench.disk, fake_old_record(bench.disk, two, "left", 20, bytes, sizeof bytes));
    bound_nowhere();
    fake_found(bench.disk, fake_old_record(bench.disk, three, "left", 10, bytes, sizeof bytes));
    cr_assert_eq(where_is("left"), 0, "an older one is shown");
    fake_found(bench.disk, fake_old_record(bench.disk, three, "taken", 30, bytes, sizeof bytes));
    cr_assert_eq(stat_of("taken").version, 30, "what takes no more room is taken");
    fake_recovered(bench.disk);
    settle();
    cr_assert_eq(info().figures.recovered_beyond_index, 2);
    cr_assert(two->killing || three->killing);
    /* Until they are dead, nothing is shown over what may be there. */
    struct put put;
    store_set_persist(bench.store, PERSIST_NONE);
    cr_assert_eq(put_go(&put, "left", 0, 2, SMALL), STORE_PENDING);
    while (kills() > 0) {
        fake_kill_all(bench.disk);
        settle();
        fake_reap(bench.disk);
        settle();
    }
    cr_assert_eq(put.outcome, STORE_OK);
    cr_assert_not(fake_may_rise(bench.disk, span_text("left"), 20));
    cr_assert_eq(bench.store->overflowing, 0);
    cr_assert_eq(put_go(&put, "other", 0, 3, SMALL), STORE_OK);
    bench_end();
}
