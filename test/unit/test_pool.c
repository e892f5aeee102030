#include <criterion/criterion.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <xxhash.h>

#include "base/error.h"
#include "tier/pool.h"

/* The pool never reads or writes what it hands out, so most tests map their bytes without room behind them. */
static void *map(uint64_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert_neq(base, MAP_FAILED);
    return base;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t n = *state += 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

/* Log-uniform from 4 KiB to 16 MiB, any number of bytes. */
static uint64_t random_size(uint64_t *state)
{
    uint64_t top = (uint64_t)4096 << next_random(state) % 12;
    return top + next_random(state) % top + 1;
}

/* ---- the model: who owns each block ---- */

enum { MODEL_BLOCKS = 64 * 256 + 77, MODEL_BLOBS = 4096 }; /* 64 MiB and a short region */

struct model {
    uint8_t *base;
    struct pool *pool;
    struct blob *blobs[MODEL_BLOBS];
    uint32_t count;
    uint64_t used_blocks;
    uint8_t taken[MODEL_BLOCKS];
};

static struct model *model_new(void)
{
    struct model *model = calloc(1, sizeof *model);
    cr_assert_not_null(model);
    uint64_t bytes = (uint64_t)MODEL_BLOCKS * BLOCK_BYTES;
    model->base = map(bytes);
    cr_assert_eq(pool_new(&model->pool, model->base, bytes), 0);
    cr_assert_eq(pool_size(model->pool), bytes);
    return model;
}

static void model_free(struct model *model)
{
    pool_free(model->pool);
    munmap(model->base, (size_t)MODEL_BLOCKS * BLOCK_BYTES);
    free(model);
}

/* Mark every block of the blob, each of which must have been `!taken`. */
static void model_mark(struct model *model, const struct blob *blob, bool taken)
{
    uint64_t room = blob_room(blob);
    cr_assert_eq(room, blob_room_needed(blob));
    for (uint64_t at = 0; at < room;) {
        size_t len;
        const uint8_t *bytes = blob_at(blob, at, &len);
        cr_assert(bytes >= model->base && len > 0 && len <= POOL_EXTENT_BYTES && at + len <= room);
        uint64_t first = (uint64_t)(bytes - model->base) / BLOCK_BYTES;
        cr_assert_eq((uint64_t)(bytes - model->base) % BLOCK_BYTES, 0);
        cr_assert_leq(first + len / BLOCK_BYTES, MODEL_BLOCKS);
        for (uint64_t i = first; i < first + len / BLOCK_BYTES; i++) {
            cr_assert_neq(model->taken[i], taken, "block %llu", (unsigned long long)i);
            model->taken[i] = taken;
        }
        at += len;
    }
    model->used_blocks += taken ? room / BLOCK_BYTES : 0 - room / BLOCK_BYTES;
}

static void model_check_sums(const struct model *model)
{
    cr_assert_eq(pool_used(model->pool), model->used_blocks * BLOCK_BYTES);
    cr_assert_eq(pool_blobs(model->pool), model->count);
}

/* True when it fitted; whether it does is known beforehand. */
static bool model_add(struct model *model, uint64_t size)
{
    struct blob *blob = blob_new(model->pool, size);
    cr_assert_not_null(blob);
    bool fits = blob_room_needed(blob) <= (MODEL_BLOCKS - model->used_blocks) * BLOCK_BYTES && model->count < MODEL_BLOBS;
    if (model->count < MODEL_BLOBS)
        cr_assert_eq(blob_grow_all(blob), fits ? 0 : KVD_EBUSY);
    if (fits) {
        model_mark(model, blob, true);
        model->blobs[model->count++] = blob;
    } else {
        cr_assert_eq(blob_room(blob), 0);
        blob_unref(blob);
    }
    model_check_sums(model);
    return fits;
}

static void model_drop(struct model *model, uint32_t index)
{
    model_mark(model, model->blobs[index], false);
    blob_unref(model->blobs[index]);
    model->blobs[index] = model->blobs[--model->count];
    model_check_sums(model);
}

static void model_drop_all(struct model *model)
{
    while (model->count > 0)
        model_drop(model, model->count - 1);
    cr_assert_eq(pool_used(model->pool), 0);
}

Test(pool, what_fits_the_free_bytes_always_fits)
{
    struct model *model = model_new();
    uint64_t state = 1, fullest = 0, refused = 0;
    for (uint32_t step = 0; step < 20000; step++) {
        if (!model_add(model, random_size(&state))) {
            refused++;
            for (uint64_t drops = next_random(&state) % 4 + 1; drops > 0 && model->count > 0; drops--)
                model_drop(model, (uint32_t)(next_random(&state) % model->count));
        }
        fullest = max_u64(fullest, pool_used(model->pool));
    }
    cr_expect_gt(refused, 1000);
    cr_expect_geq(fullest * 100, pool_size(model->pool) * 97);
    model_drop_all(model);
    model_free(model);
}

Test(pool, every_second_block_free_still_takes_a_large_value)
{
    struct model *model = model_new();
    while (model->count < MODEL_BLOBS)
        model_add(model, 4 * (uint64_t)BLOCK_BYTES);
    for (uint32_t i = 0; i < MODEL_BLOBS / 2; i++)
        model_drop(model, i);
    uint64_t left = pool_size(model->pool) - pool_used(model->pool);
    cr_assert(model_add(model, left));
    cr_assert_eq(pool_used(model->pool), pool_size(model->pool));
    cr_assert_not(model_add(model, 1));
    cr_assert(model_add(model, 0)); /* an empty value takes no room */
    model_drop_all(model);
    model_free(model);
}

Test(pool, freed_neighbours_become_one_run_again)
{
    struct model *model = model_new();
    for (uint32_t i = 0; i < MODEL_BLOBS; i++)
        model_add(model, BLOCK_BYTES);
    for (uint64_t state = 7; model->count > 0;)
        model_drop(model, (uint32_t)(next_random(&state) % model->count));
    struct blob *blob = blob_new(model->pool, (uint64_t)64 * POOL_EXTENT_BYTES);
    cr_assert_eq(blob_grow_all(blob), 0);
    for (uint64_t at = 0; at < blob_room(blob); at += POOL_EXTENT_BYTES) {
        size_t len;
        const uint8_t *bytes = blob_at(blob, at, &len);
        cr_assert_eq(len, POOL_EXTENT_BYTES);
        cr_assert_eq((uint64_t)(bytes - model->base) % POOL_EXTENT_BYTES, 0);
    }
    blob_unref(blob);
    model_free(model);
}

Test(pool, used_room_is_used_again_before_fresh_room)
{
    struct model *model = model_new();
    struct blob *blob = blob_new(model->pool, 100);
    cr_assert_eq(blob_grow(blob), 0);
    size_t len;
    const uint8_t *first = blob_at(blob, 0, &len);
    cr_assert_eq(len, BLOCK_BYTES);
    blob_unref(blob);
    blob = blob_new(model->pool, POOL_EXTENT_BYTES);
    cr_assert_eq(blob_grow(blob), 0);
    cr_assert_eq(blob_at(blob, 0, &len), first);
    blob_unref(blob);
    model_free(model);
}

Test(pool, grows_extent_by_extent)
{
    uint64_t bytes = 4 * MIB;
    void *base = map(bytes);
    struct pool *pool;
    cr_assert_eq(pool_new(&pool, base, bytes), 0);
    struct blob *blob = blob_new(pool, 2 * MIB + 3 * 4096 - 5);
    static const uint64_t rooms[] = {MIB, 2 * MIB, 2 * MIB + 8192, 2 * MIB + 12288};
    cr_assert_eq(blob_size(blob), 2 * MIB + 3 * 4096 - 5);
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(blob_grow(blob), 0);
        cr_assert_eq(blob_room(blob), rooms[i]);
    }
    cr_assert_eq(blob_room(blob), blob_room_needed(blob));
    cr_assert_eq(blob_grow_all(blob), 0); /* nothing to take */
    struct blob *second = blob_new(pool, 2 * MIB);
    cr_assert_eq(blob_grow(second), 0);
    cr_assert_eq(blob_grow_all(second), KVD_EBUSY);
    cr_assert_eq(blob_room(second), MIB); /* what it had, it keeps */
    while (blob_grow(second) == 0)
        ;
    cr_assert_eq(pool_used(pool), bytes);
    blob_unref(blob);
    cr_assert_eq(blob_grow_all(second), 0);
    blob_unref(second);
    pool_free(pool);
    munmap(base, bytes);
}

Test(pool, references_keep_the_bytes)
{
    struct model *model = model_new();
    struct blob *blob = blob_new(model->pool, 5000);
    cr_assert_eq(blob_grow_all(blob), 0);
    cr_assert_eq(blob_ref(blob), blob);
    blob_unref(blob);
    cr_assert_eq(pool_used(model->pool), 8192);
    cr_assert_eq(pool_blobs(model->pool), 1);
    blob_unref(blob);
    cr_assert_eq(pool_used(model->pool), 0);
    cr_assert_eq(pool_blobs(model->pool), 0);
    model_free(model);
}

/* Fill through blob_at(), read through blob_iov() at random ranges. */
Test(pool, vectors_say_the_same_as_single_bytes)
{
    enum { SIZE = 3 * 1024 * 1024 + 4000 };
    uint64_t bytes = 8 * MIB, state = 3;
    void *base = map(bytes);
    struct pool *pool;
    cr_assert_eq(pool_new(&pool, base, bytes), 0);
    struct blob *fillers[300];
    for (size_t i = 0; i < 300; i++) {
        fillers[i] = blob_new(pool, 4096);
        cr_assert_eq(blob_grow_all(fillers[i]), 0);
    }
    struct blob *large = blob_new(pool, bytes - pool_used(pool));
    cr_assert_eq(blob_grow_all(large), 0);
    for (size_t i = 0; i < 300; i += 2)
        blob_unref(fillers[i]);
    blob_unref(large);
    struct blob *last = blob_new(pool, 4 * MIB);
    cr_assert_eq(blob_grow_all(last), 0);
    struct blob *blob = blob_new(pool, SIZE);
    cr_assert_eq(blob_grow_all(blob), 0);
    uint8_t *flat = malloc(SIZE);
    cr_assert_not_null(flat);
    for (uint64_t i = 0; i < SIZE; i++)
        flat[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint64_t at = 0; at < SIZE;) {
        size_t len;
        uint8_t *to = blob_at(blob, at, &len);
        memcpy(to, flat + at, min_u64(len, SIZE - at));
        at += len;
    }
    bool was_cut = false;
    for (int round = 0; round < 300; round++) {
        uint64_t offset = next_random(&state) % SIZE, len = next_random(&state) % (SIZE - offset + 1);
        struct iovec iov[256], few[2] = {{NULL, 0}, {NULL, 0}};
        unsigned count = blob_iov(blob, offset, len, iov, 256);
        cr_assert_leq(count, 256);
        uint64_t at = offset;
        for (unsigned i = 0; i < count; i++) {
            const uint8_t *from = iov[i].iov_base;
            cr_assert(i == 0 || (uint8_t *)iov[i - 1].iov_base + iov[i - 1].iov_len != from);
            for (size_t k = 0; k < iov[i].iov_len; k += 61)
                cr_assert_eq(from[k], flat[at + k]);
            at += iov[i].iov_len;
        }
        cr_assert_eq(at, offset + len);
        cr_assert_eq(blob_range_sum(blob, offset, len), XXH3_64bits(flat + offset, len));
        cr_assert_eq(blob_iov(blob, offset, len, few, 1), count);
        cr_assert_null(few[1].iov_base);
        cr_assert(count == 0 || (few[0].iov_base == iov[0].iov_base && few[0].iov_len == iov[0].iov_len));
        was_cut |= count > 1;
    }
    cr_assert(was_cut);
    cr_assert_eq(blob_iov(blob, SIZE, 0, NULL, 0), 0);
    free(flat);
    blob_unref(blob);
    blob_unref(last);
    for (size_t i = 1; i < 300; i += 2)
        blob_unref(fillers[i]);
    pool_free(pool);
    munmap(base, bytes);
}

Test(pool, the_tail_is_zeroed_and_nothing_else)
{
    static const uint64_t sizes[] = {1, 4095, 4096, 4097, 12288, 70001};
    struct model *model = model_new();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct blob *blob = blob_new(model->pool, sizes[i]);
        cr_assert_eq(blob_grow_all(blob), 0);
        size_t len;
        for (uint64_t at = 0; at < blob_room(blob); at += len) {
            uint8_t *bytes = blob_at(blob, at, &len);
            memset(bytes, 0xee, len);
        }
        blob_zero_tail(blob);
        for (uint64_t at = 0; at < blob_room(blob); at++)
            cr_assert_eq(*blob_at(blob, at, &len), at < sizes[i] ? 0xee : 0);
        blob_unref(blob);
    }
    struct blob *empty = blob_new(model->pool, 0);
    blob_zero_tail(empty);
    blob_unref(empty);
    model_free(model);
}

Test(pool, sums_for_more_than_one_chunk)
{
    static const struct {
        uint64_t size;
        uint32_t chunks;
    } cases[] = {{0, 0}, {1, 1}, {POOL_CHUNK_BYTES, 1}, {POOL_CHUNK_BYTES + 1, 2}, {5 * POOL_CHUNK_BYTES, 5}};
    struct model *model = model_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct blob *blob = blob_new(model->pool, cases[i].size);
        cr_assert_eq(blob_chunks(blob), cases[i].chunks);
        cr_assert_null(blob_sums(blob));
        cr_assert_eq(blob_sums_make(blob), 0);
        cr_assert_eq(blob_sums(blob) != NULL, cases[i].chunks > 1);
        if (cases[i].chunks > 1)
            blob_sums(blob)[cases[i].chunks - 1] = 99;
        cr_assert_eq(blob_sums_make(blob), 0);
        cr_assert(cases[i].chunks <= 1 || blob_sums(blob)[cases[i].chunks - 1] == 99);
        blob_unref(blob);
    }
    model_free(model);
}

Test(pool, a_pool_with_live_blobs_is_not_freed, .signal = SIGABRT)
{
    struct model *model = model_new();
    cr_assert_not_null(blob_new(model->pool, 1));
    pool_free(model->pool);
}

Test(pool, more_room_than_needed_is_a_bug, .signal = SIGABRT)
{
    struct model *model = model_new();
    struct blob *blob = blob_new(model->pool, 1);
    cr_assert_eq(blob_grow(blob), 0);
    blob_grow(blob);
}
