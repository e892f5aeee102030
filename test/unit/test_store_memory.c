/* What of --memory holds values, where sizes mix and everybody who comes makes somebody leave. */
#include <math.h>

#include "test/support/store_bench.h"

enum { POOL_MIB = 512, ROUNDS = 10, LEAST_PERCENT = 88, PIECES_AT_MOST = 3 };

/* Log-uniform from 4 KiB to 16 MiB. */
static uint64_t mixed_size(uint64_t number)
{
    double exponent = (double)(mix(number) >> 11) / (double)(UINT64_C(1) << 53) * 12;
    return (uint64_t)(4096 * exp2(exponent));
}

/* As a connection would: room as it comes, and no byte of it is looked at here. */
static void put_without_bytes(uint64_t number, uint64_t size)
{
    char key[32];
    snprintf(key, sizeof key, "steady-%llu", (unsigned long long)number);
    struct put put;
    cr_assert_eq(put_begin(&put, key, 0, number, size), STORE_OK);
    while (put.put.received < size) {
        void *base;
        size_t room;
        cr_assert_eq(store_put_room(&put.put, &base, &room), 0);
        store_put_received(&put.put, min_u64(room, size - put.put.received));
    }
    cr_assert_eq(put_commit(&put), STORE_OK);
}

struct pieces {
    uint64_t vectors, bytes;
};

static void count_pieces(void *arg, struct entry *entry)
{
    struct pieces *pieces = arg;
    if (!entry->blob)
        return;
    struct iovec iov;
    pieces->vectors += blob_iov(entry->blob, 0, entry->size, &iov, 1);
    pieces->bytes += entry->size;
}

/* Ten times the pool goes through it. Values are its live bytes; what is not is the watermarks', and the last block's of each. Who reads
 * them from a disk, or sends them, has few pieces to deal with: sizes that mix do not crumble it. */
Test(store_memory, is_full_of_values_in_the_steady_state)
{
    struct store_config config = bench_config();
    config.memory_bytes = (uint64_t)POOL_MIB * MIB;
    config.inflight_bytes = config.memory_bytes / 2;
    config.persist = PERSIST_NONE;
    bench_begin_on(&config);
    uint64_t total = 0, samples = 0;
    double live = 0, least = 1;
    for (uint64_t number = 0; total < config.memory_bytes * ROUNDS; number++) {
        uint64_t size = mixed_size(number);
        put_without_bytes(number, size);
        turns(4); /* what is evicted in the background is evicted between two puts */
        total += size;
        if (total < 2 * config.memory_bytes)
            continue;
        double now = (double)info().table.memory_bytes / (double)config.memory_bytes;
        live += now;
        least = now < least ? now : least;
        samples++;
    }
    struct pieces pieces = {0};
    table_scan(bench.store->table, 0, span_of(NULL, 0), UINT32_MAX, UINT32_MAX, count_pieces, &pieces);
    double each_mib = (double)pieces.vectors / ((double)pieces.bytes / MIB);
    printf("live: %.2f %% of the pool on average, %.2f %% at least; %llu puts; %.2f pieces a MiB\n", 100 * live / (double)samples,
           100 * least, (unsigned long long)samples, each_mib);
    cr_assert_geq(live / (double)samples * 100, LEAST_PERCENT);
    cr_assert_leq(each_mib, PIECES_AT_MOST);
    bench_end();
}
