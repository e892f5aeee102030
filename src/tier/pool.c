#include "tier/pool.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/sum.h"

enum {
    REGION_BLOCKS = POOL_EXTENT_BYTES / BLOCK_BYTES,
    TOP_ORDER = 8, /* a run of order n is 2^n blocks */
    ORDERS = TOP_ORDER + 1,
    WORD_BITS = 64,
    INLINE_EXTENTS = 3,
};

#define NO_REGION UINT32_MAX

_Static_assert(REGION_BLOCKS == 1 << TOP_ORDER, "a region is one run of the top order");

/* One MiB of the pool. Its runs are the nodes of a binary tree: node 1 is the whole, node n has the halves 2n and 2n + 1, nodes 256 to
 * 511 are single blocks; so a run's buddy is node ^ 1. A set bit is a free run that is part of no larger free run. This costs 136 bytes
 * a MiB, none of them in the pool itself. */
struct region {
    uint64_t free[2 * REGION_BLOCKS / WORD_BITS];
    struct {
        uint32_t prev, next;
    } link[ORDERS]; /* among the regions that have a free run of this order */
};

struct pool {
    uint8_t *base;
    uint64_t blocks;
    uint64_t blocks_used;
    uint64_t blobs;
    uint32_t region_count;
    uint32_t fresh; /* regions from here on have never been touched: what was used before is used again first */
    uint32_t lists[ORDERS];
    struct region *regions;
};

struct extent {
    uint32_t first; /* block of the pool */
    uint32_t end;   /* blocks of the blob up to the end of this extent */
};

struct blob {
    struct pool *pool;
    uint64_t size;
    uint64_t *sums;
    struct extent *extents; /* `few`, or the heap's */
    uint32_t refs;
    uint32_t count;
    uint32_t capacity;
    struct extent few[INLINE_EXTENTS];
};

static unsigned floor_log2(uint32_t n)
{
    return 31u - (unsigned)__builtin_clz(n);
}

/* The lowest free node of `order`, or 0, which is no node. */
static unsigned free_node(const struct region *region, unsigned order)
{
    unsigned from = REGION_BLOCKS >> order;
    if (from < WORD_BITS) {
        uint64_t bits = region->free[0] >> from & (((uint64_t)1 << from) - 1);
        return bits ? from + (unsigned)__builtin_ctzll(bits) : 0;
    }
    for (unsigned word = from / WORD_BITS; word < 2 * from / WORD_BITS; word++)
        if (region->free[word])
            return word * WORD_BITS + (unsigned)__builtin_ctzll(region->free[word]);
    return 0;
}

static bool node_is_free(const struct region *region, unsigned node)
{
    return region->free[node / WORD_BITS] >> node % WORD_BITS & 1;
}

static void region_link(struct pool *pool, uint32_t index, unsigned order)
{
    uint32_t next = pool->lists[order];
    pool->regions[index].link[order].prev = NO_REGION;
    pool->regions[index].link[order].next = next;
    if (next != NO_REGION)
        pool->regions[next].link[order].prev = index;
    pool->lists[order] = index;
}

static void region_unlink(struct pool *pool, uint32_t index, unsigned order)
{
    uint32_t prev = pool->regions[index].link[order].prev;
    uint32_t next = pool->regions[index].link[order].next;
    if (prev == NO_REGION)
        pool->lists[order] = next;
    else
        pool->regions[prev].link[order].next = next;
    if (next != NO_REGION)
        pool->regions[next].link[order].prev = prev;
}

static void node_set_free(struct pool *pool, uint32_t index, unsigned node)
{
    struct region *region = &pool->regions[index];
    unsigned order = TOP_ORDER - floor_log2(node);
    if (free_node(region, order) == 0)
        region_link(pool, index, order);
    region->free[node / WORD_BITS] |= (uint64_t)1 << node % WORD_BITS;
}

static void node_clear_free(struct pool *pool, uint32_t index, unsigned node)
{
    struct region *region = &pool->regions[index];
    unsigned order = TOP_ORDER - floor_log2(node);
    CHECK(node_is_free(region, node));
    region->free[node / WORD_BITS] &= ~((uint64_t)1 << node % WORD_BITS);
    if (free_node(region, order) == 0)
        region_unlink(pool, index, order);
}

/* Bring the next untouched region in. The last one may be short: what lies beyond the pool's end is never marked free, so nothing ever
 * merges with it. */
static void region_open(struct pool *pool)
{
    uint32_t index = pool->fresh++;
    uint32_t blocks = (uint32_t)min_u64(REGION_BLOCKS, pool->blocks - (uint64_t)index * REGION_BLOCKS);
    uint32_t at = 0;
    for (unsigned order = ORDERS; order-- > 0;) {
        if (!(blocks >> order & 1))
            continue;
        node_set_free(pool, index, (REGION_BLOCKS + at) >> order);
        at += 1u << order;
    }
}

/* Take a run of exactly `order`, splitting the smallest larger one if it must. False when there is none. */
static bool run_take(struct pool *pool, unsigned order, uint32_t *block)
{
    unsigned from = order;
    while (from < ORDERS && pool->lists[from] == NO_REGION)
        from++;
    if (from == ORDERS)
        return false;
    uint32_t index = pool->lists[from];
    unsigned node = free_node(&pool->regions[index], from);
    CHECK(node != 0);
    node_clear_free(pool, index, node);
    for (; from > order; from--) {
        node *= 2;
        node_set_free(pool, index, node + 1);
    }
    *block = index * REGION_BLOCKS + (node << order) - REGION_BLOCKS;
    pool->blocks_used += (uint64_t)1 << order;
    return true;
}

/* Take the largest run that is at most `wanted` blocks and that there is. False when not one block is free. */
static bool run_take_some(struct pool *pool, uint64_t wanted, uint32_t *block, uint32_t *blocks)
{
    unsigned order = floor_log2((uint32_t)min_u64(wanted, REGION_BLOCKS));
    while (!run_take(pool, order, block)) {
        if (pool->fresh < pool->region_count)
            region_open(pool);
        else if (order-- == 0)
            return false;
    }
    *blocks = 1u << order;
    return true;
}

static void run_give_back(struct pool *pool, uint32_t block, unsigned order)
{
    uint32_t index = block / REGION_BLOCKS;
    struct region *region = &pool->regions[index];
    unsigned node = (REGION_BLOCKS + block % REGION_BLOCKS) >> order;
    CHECK(index < pool->fresh && !node_is_free(region, node));
    CHECK(pool->blocks_used >= (uint64_t)1 << order);
    pool->blocks_used -= (uint64_t)1 << order;
    while (node > 1 && node_is_free(region, node ^ 1)) {
        node_clear_free(pool, index, node ^ 1);
        node >>= 1;
    }
    node_set_free(pool, index, node);
}

int pool_new(struct pool **out, void *base, uint64_t bytes)
{
    CHECK((uintptr_t)base % BLOCK_BYTES == 0);
    CHECK(bytes % BLOCK_BYTES == 0 && bytes >= MIB && bytes <= 16 * TIB);
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return -ENOMEM;
    pool->base = base;
    pool->blocks = bytes / BLOCK_BYTES;
    pool->region_count = (uint32_t)((pool->blocks + REGION_BLOCKS - 1) / REGION_BLOCKS);
    for (unsigned order = 0; order < ORDERS; order++)
        pool->lists[order] = NO_REGION;
    pool->regions = calloc(pool->region_count, sizeof *pool->regions);
    if (!pool->regions) {
        free(pool);
        return -ENOMEM;
    }
    *out = pool;
    return 0;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    CHECK(pool->blobs == 0 && pool->blocks_used == 0);
    free(pool->regions);
    free(pool);
}

uint64_t pool_size(const struct pool *pool)
{
    return pool->blocks * BLOCK_BYTES;
}

uint64_t pool_used(const struct pool *pool)
{
    return pool->blocks_used * BLOCK_BYTES;
}

uint64_t pool_blobs(const struct pool *pool)
{
    return pool->blobs;
}

struct blob *blob_new(struct pool *pool, uint64_t size)
{
    CHECK(size <= 16 * TIB - BLOCK_BYTES);
    struct blob *blob = malloc(sizeof *blob);
    if (!blob)
        return NULL;
    *blob = (struct blob){.pool = pool, .size = size, .refs = 1, .capacity = INLINE_EXTENTS};
    blob->extents = blob->few;
    pool->blobs++;
    return blob;
}

struct blob *blob_ref(struct blob *blob)
{
    CHECK(blob->refs > 0 && blob->refs < UINT32_MAX);
    blob->refs++;
    return blob;
}

static uint32_t blob_blocks(const struct blob *blob)
{
    return blob->count ? blob->extents[blob->count - 1].end : 0;
}

/* First block of the blob that extent `index` holds. */
static uint32_t extent_start(const struct blob *blob, uint32_t index)
{
    return index ? blob->extents[index - 1].end : 0;
}

/* Give back the extents from the end until `count` are left. */
static void blob_shrink(struct blob *blob, uint32_t count)
{
    while (blob->count > count) {
        uint32_t last = blob->count - 1;
        uint32_t blocks = blob->extents[last].end - extent_start(blob, last);
        run_give_back(blob->pool, blob->extents[last].first, floor_log2(blocks));
        blob->count = last;
    }
}

void blob_unref(struct blob *blob)
{
    CHECK(blob->refs > 0);
    if (--blob->refs > 0)
        return;
    blob_shrink(blob, 0);
    CHECK(blob->pool->blobs > 0);
    blob->pool->blobs--;
    if (blob->extents != blob->few)
        free(blob->extents);
    free(blob->sums);
    free(blob);
}

uint64_t blob_size(const struct blob *blob)
{
    return blob->size;
}

uint64_t blob_room(const struct blob *blob)
{
    return (uint64_t)blob_blocks(blob) * BLOCK_BYTES;
}

uint64_t blob_room_needed(const struct blob *blob)
{
    return round_up(blob->size, BLOCK_BYTES);
}

static int blob_extents_reserve(struct blob *blob)
{
    if (blob->count < blob->capacity)
        return 0;
    uint32_t capacity = blob->capacity == INLINE_EXTENTS ? 8 : 2 * blob->capacity;
    bool inside = blob->extents == blob->few;
    CHECK(capacity > 0);
    struct extent *extents = realloc(inside ? NULL : blob->extents, capacity * sizeof *extents);
    if (!extents)
        return -ENOMEM;
    if (inside)
        memcpy(extents, blob->few, sizeof blob->few);
    blob->extents = extents;
    blob->capacity = capacity;
    return 0;
}

int blob_grow(struct blob *blob)
{
    uint64_t missing = blob_room_needed(blob) - blob_room(blob);
    CHECK(missing > 0);
    int err = blob_extents_reserve(blob);
    if (err)
        return err;
    uint32_t first, blocks;
    if (!run_take_some(blob->pool, missing / BLOCK_BYTES, &first, &blocks))
        return KVD_EBUSY;
    blob->extents[blob->count] = (struct extent){.first = first, .end = blob_blocks(blob) + blocks};
    blob->count++;
    return 0;
}

int blob_grow_all(struct blob *blob)
{
    uint64_t missing = blob_room_needed(blob) - blob_room(blob);
    if (missing > pool_size(blob->pool) - pool_used(blob->pool))
        return KVD_EBUSY;
    uint32_t before = blob->count;
    while (blob_room(blob) < blob_room_needed(blob)) {
        int err = blob_grow(blob);
        CHECK(err != KVD_EBUSY);
        if (err) {
            blob_shrink(blob, before);
            return err;
        }
    }
    return 0;
}

/* The extent that holds `block` of the blob. */
static uint32_t blob_find(const struct blob *blob, uint32_t block)
{
    uint32_t low = 0, high = blob->count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (blob->extents[middle].end > block)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The bytes from `offset` to the end of extent `index`, in which it lies. */
static uint8_t *extent_at(const struct blob *blob, uint32_t index, uint64_t offset, size_t *len)
{
    const struct extent *extent = &blob->extents[index];
    uint64_t start = (uint64_t)extent_start(blob, index) * BLOCK_BYTES;
    *len = (uint64_t)extent->end * BLOCK_BYTES - offset;
    return blob->pool->base + (uint64_t)extent->first * BLOCK_BYTES + (offset - start);
}

uint8_t *blob_at(const struct blob *blob, uint64_t offset, size_t *len)
{
    CHECK(offset < blob_room(blob));
    return extent_at(blob, blob_find(blob, (uint32_t)(offset / BLOCK_BYTES)), offset, len);
}

unsigned blob_iov(const struct blob *blob, uint64_t offset, uint64_t len, struct iovec *iov, unsigned max)
{
    CHECK(offset <= blob_room(blob) && len <= blob_room(blob) - offset);
    if (len == 0)
        return 0;
    unsigned count = 0;
    const uint8_t *touching = NULL;
    for (uint32_t index = blob_find(blob, (uint32_t)(offset / BLOCK_BYTES)); len > 0; index++) {
        size_t here;
        uint8_t *at = extent_at(blob, index, offset, &here);
        here = min_u64(here, len);
        bool joined = at == touching;
        count += !joined;
        if (count <= max)
            iov[count - 1] = joined ? (struct iovec){iov[count - 1].iov_base, iov[count - 1].iov_len + here} : (struct iovec){at, here};
        touching = at + here;
        offset += here;
        len -= here;
    }
    return count;
}

void blob_zero_tail(const struct blob *blob)
{
    CHECK(blob_room(blob) == blob_room_needed(blob));
    size_t tail = blob_room(blob) - blob->size;
    if (tail == 0)
        return;
    size_t len;
    uint8_t *at = blob_at(blob, blob->size, &len);
    CHECK(len == tail);
    memset(at, 0, len);
}

uint64_t *blob_sums(const struct blob *blob)
{
    return blob->sums;
}

uint32_t blob_chunks(const struct blob *blob)
{
    return (uint32_t)((blob->size + POOL_CHUNK_BYTES - 1) / POOL_CHUNK_BYTES);
}

int blob_sums_make(struct blob *blob)
{
    if (blob->sums || blob_chunks(blob) <= 1)
        return 0;
    blob->sums = calloc(blob_chunks(blob), sizeof *blob->sums);
    return blob->sums ? 0 : -ENOMEM;
}

uint64_t blob_range_sum(const struct blob *blob, uint64_t offset, uint64_t len)
{
    size_t run;
    const uint8_t *bytes = len ? blob_at(blob, offset, &run) : NULL;
    if (len == 0 || run >= len)
        return sum_of(bytes, len);
    struct sum sum;
    sum_init(&sum);
    while (len > 0) {
        bytes = blob_at(blob, offset, &run);
        run = min_u64(run, len);
        sum_add(&sum, bytes, run);
        offset += run;
        len -= run;
    }
    return sum_value(&sum);
}
