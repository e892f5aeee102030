#include "cluster/directory.h"

#include <errno.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum { PAGE_BITS = 10, PAGE_BUCKETS = 1 << PAGE_BITS, MAX_BITS = 40, SPLITS_PER_ADD = 2 };

struct bucket_page {
    struct listing *buckets[PAGE_BUCKETS];
};

/* A start of a node. `round`: the one after which nothing speaks of what is gone. */
struct node_slot {
    char id[NODE_ID_MAX + 1];
    struct incarnation incarnation;
    bool used, memory_gone, all_gone;
    uint64_t round;
};

struct range {
    uint8_t *prefix;
    size_t prefix_len;
    uint64_t version;
    uint64_t round;
};

/* Linear hashing by the high bits of the hash, as in meta/table.c: of the 2^bits buckets those below `split` are two each already, in
 * `next_pages`. */
struct directory {
    uint64_t seed;
    uint64_t max_bytes;
    unsigned bits;
    uint64_t split;
    struct bucket_page **pages;
    struct bucket_page **next_pages; /* NULL before the first split of a round */
    struct directory_sums sums;

    /* A round looks at every listing once. What is asked for while one runs is done by the next. */
    uint64_t round_wanted, round_begun;
    bool running;
    uint64_t cursor;

    uint32_t nodes_gone; /* in part or whole, not yet done with */
    struct node_slot nodes[DIRECTORY_NODES_MAX];
    uint32_t range_count;
    struct range ranges[DIRECTORY_RANGES_MAX];
};

_Static_assert(sizeof(struct replica) == 16 && sizeof(struct listing) + sizeof(struct replica) == 64, "a listing costs too much");

/* What malloc takes for `bytes`, as glibc does it. */
static uint64_t heap_size(size_t bytes)
{
    return max_u64(32, round_up(bytes + 8, 16));
}

static size_t listing_size(size_t room, size_t key_len)
{
    return sizeof(struct listing) + room * sizeof(struct replica) + key_len;
}

static struct bucket_page **level_new(unsigned bits)
{
    return calloc((size_t)1 << (bits - PAGE_BITS), sizeof(struct bucket_page *));
}

static uint64_t level_size(unsigned bits)
{
    return heap_size(((size_t)1 << (bits - PAGE_BITS)) * sizeof(struct bucket_page *));
}

int directory_new(struct directory **out, uint64_t seed, uint64_t max_bytes)
{
    struct directory *directory = calloc(1, sizeof *directory);
    if (!directory)
        return -ENOMEM;
    directory->seed = seed;
    directory->max_bytes = max_bytes;
    directory->bits = PAGE_BITS;
    directory->pages = level_new(PAGE_BITS);
    if (!directory->pages)
        goto fail_directory;
    directory->pages[0] = calloc(1, sizeof *directory->pages[0]);
    if (!directory->pages[0])
        goto fail_pages;
    directory->sums.heap_bytes = heap_size(sizeof *directory) + level_size(PAGE_BITS) + heap_size(sizeof *directory->pages[0]);
    *out = directory;
    return 0;
fail_pages:
    free(directory->pages);
fail_directory:
    free(directory);
    return -ENOMEM;
}

static void level_free(struct bucket_page **pages, unsigned bits)
{
    for (size_t page = 0; pages && page < (size_t)1 << (bits - PAGE_BITS); page++) {
        for (size_t i = 0; pages[page] && i < PAGE_BUCKETS; i++) {
            for (struct listing *at = pages[page]->buckets[i], *next; at; at = next) {
                next = at->next;
                free(at);
            }
        }
        free(pages[page]);
    }
    free(pages);
}

void directory_free(struct directory *directory)
{
    if (!directory)
        return;
    level_free(directory->pages, directory->bits);
    level_free(directory->next_pages, directory->bits + 1);
    for (uint32_t i = 0; i < directory->range_count; i++)
        free(directory->ranges[i].prefix);
    free(directory);
}

/* ---- buckets ---- */

uint64_t directory_hash(const struct directory *directory, struct span key)
{
    return XXH3_64bits_withSeed(key.at, key.len, directory->seed);
}

static struct listing **bucket_at(struct bucket_page *const *pages, uint64_t index)
{
    return &pages[index >> PAGE_BITS]->buckets[index & (PAGE_BUCKETS - 1)];
}

static struct listing **bucket_of(const struct directory *directory, uint64_t hash)
{
    uint64_t index = hash >> (64 - directory->bits);
    if (index >= directory->split)
        return bucket_at(directory->pages, index);
    return bucket_at(directory->next_pages, hash >> (63 - directory->bits));
}

/* The last hash that belongs to the bucket of `hash`. */
static uint64_t bucket_last_hash(const struct directory *directory, uint64_t hash)
{
    unsigned bits = hash >> (64 - directory->bits) < directory->split ? directory->bits + 1 : directory->bits;
    return hash | UINT64_MAX >> bits;
}

void directory_prefetch(const struct directory *directory, uint64_t hash)
{
    __builtin_prefetch(bucket_of(directory, hash));
}

void directory_prefetch_listing(const struct directory *directory, uint64_t hash)
{
    const struct listing *first = *bucket_of(directory, hash);
    if (first)
        __builtin_prefetch(first);
}

/* Make sure that the two buckets that the next one to be split becomes are there. */
static bool split_prepare(struct directory *directory)
{
    if (!directory->next_pages) {
        if (directory->bits == MAX_BITS)
            return false;
        directory->next_pages = level_new(directory->bits + 1);
        if (!directory->next_pages)
            return false;
        directory->sums.heap_bytes += level_size(directory->bits + 1);
    }
    struct bucket_page **page = &directory->next_pages[2 * directory->split >> PAGE_BITS];
    if (!*page) {
        *page = calloc(1, sizeof **page);
        if (!*page)
            return false;
        directory->sums.heap_bytes += heap_size(sizeof **page);
    }
    return true;
}

/* Give back what the buckets below `split` lay in; after the last one the level is done. */
static void split_clean_up(struct directory *directory)
{
    if (directory->split % PAGE_BUCKETS != 0)
        return;
    struct bucket_page **page = &directory->pages[(directory->split >> PAGE_BITS) - 1];
    directory->sums.heap_bytes -= heap_size(sizeof **page);
    free(*page);
    *page = NULL;
    if (directory->split >> directory->bits == 0)
        return;
    directory->sums.heap_bytes -= level_size(directory->bits);
    free(directory->pages);
    directory->pages = directory->next_pages;
    directory->next_pages = NULL;
    directory->bits++;
    directory->split = 0;
}

/* Returns how many listings were moved; -ENOMEM: the buckets then grow fuller, until the heap has room again. */
static int split_one(struct directory *directory)
{
    if (!split_prepare(directory))
        return -ENOMEM;
    struct listing **from = bucket_at(directory->pages, directory->split);
    struct listing **to = bucket_at(directory->next_pages, 2 * directory->split);
    int moved = 0;
    for (struct listing *at; (at = *from) != NULL; moved++) {
        *from = at->next;
        struct listing **bucket = &to[directory_hash(directory, listing_key(at)) >> (63 - directory->bits) & 1];
        at->next = *bucket;
        *bucket = at;
    }
    directory->split++;
    split_clean_up(directory);
    return moved;
}

/* Two splits for an addition make up for what an empty heap delayed. */
static void grow(struct directory *directory)
{
    uint64_t moved = 0;
    for (unsigned i = 0; i < SPLITS_PER_ADD; i++) {
        uint64_t buckets = ((uint64_t)1 << directory->bits) + directory->split;
        int more = buckets < directory->sums.listings ? split_one(directory) : -ENOMEM;
        if (more < 0)
            break;
        moved += (unsigned)more;
    }
    directory->sums.most_moved = max_u64(directory->sums.most_moved, moved);
}

/* ---- nodes ---- */

int directory_node(struct directory *directory, const char *id, struct incarnation incarnation)
{
    int empty = KVD_EBUSY;
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++) {
        struct node_slot *slot = &directory->nodes[i];
        if (!slot->used) {
            empty = empty < 0 ? i : empty;
            continue;
        }
        if (!slot->all_gone && incarnation_equal(slot->incarnation, incarnation) && strcmp(slot->id, id) == 0)
            return i;
    }
    if (empty >= 0) {
        struct node_slot *slot = &directory->nodes[empty];
        *slot = (struct node_slot){.used = true, .incarnation = incarnation};
        size_t len = strlen(id);
        CHECK(len <= NODE_ID_MAX);
        memcpy(slot->id, id, len + 1);
    }
    return empty;
}

static const struct node_slot *used_node(const struct directory *directory, unsigned node)
{
    CHECK(node < DIRECTORY_NODES_MAX && directory->nodes[node].used);
    return &directory->nodes[node];
}

const char *directory_node_id(const struct directory *directory, unsigned node)
{
    return used_node(directory, node)->id;
}

struct incarnation directory_node_incarnation(const struct directory *directory, unsigned node)
{
    return used_node(directory, node)->incarnation;
}

static uint64_t want_round(struct directory *directory)
{
    directory->round_wanted = directory->round_begun + 1;
    return directory->round_wanted;
}

static void slot_gone(struct directory *directory, struct node_slot *slot)
{
    if (slot->round == 0)
        directory->nodes_gone++;
    slot->round = want_round(directory);
}

void directory_memory_gone(struct directory *directory, unsigned node)
{
    CHECK(node < DIRECTORY_NODES_MAX && directory->nodes[node].used);
    struct node_slot *slot = &directory->nodes[node];
    if (slot->memory_gone)
        return;
    slot->memory_gone = true;
    slot_gone(directory, slot);
}

void directory_node_gone(struct directory *directory, unsigned node)
{
    CHECK(node < DIRECTORY_NODES_MAX && directory->nodes[node].used);
    struct node_slot *slot = &directory->nodes[node];
    if (slot->all_gone)
        return;
    slot->memory_gone = slot->all_gone = true;
    slot_gone(directory, slot);
}

/* ---- listings ---- */

static void unlink_listing(struct directory *directory, struct listing **at)
{
    struct listing *listing = *at;
    *at = listing->next;
    directory->sums.listings--;
    directory->sums.replicas -= listing->count;
    directory->sums.heap_bytes -= heap_size(listing_size(listing->room, listing->key_len));
    free(listing);
}

/* Where the pointer to this listing is. */
static struct listing **place_of(struct directory *directory, const struct listing *listing)
{
    struct listing **at = bucket_of(directory, directory_hash(directory, listing_key(listing)));
    while (*at != listing) {
        CHECK(*at);
        at = &(*at)->next;
    }
    return at;
}

static bool in_a_range(const struct directory *directory, const struct listing *listing)
{
    for (uint32_t i = 0; i < directory->range_count; i++) {
        const struct range *range = &directory->ranges[i];
        if (listing->version <= range->version && span_starts_with(listing_key(listing), span_of(range->prefix, range->prefix_len)))
            return true;
    }
    return false;
}

static void take_off(struct directory *directory, struct listing *listing, unsigned i)
{
    listing->count--;
    listing->replicas[i] = listing->replicas[listing->count];
    directory->sums.replicas--;
}

/* Take off what nodes that are gone had. */
static void clean_replicas(struct directory *directory, struct listing *listing)
{
    for (unsigned i = 0; directory->nodes_gone > 0 && i < listing->count;) {
        struct replica *replica = &listing->replicas[i];
        const struct node_slot *slot = used_node(directory, replica->node);
        if (slot->memory_gone)
            replica->memory = 0;
        if (slot->all_gone || !(replica->memory || replica->disk))
            take_off(directory, listing, i);
        else
            i++;
    }
}

/* Is it to be forgotten? */
static bool is_stale(struct directory *directory, struct listing *listing)
{
    clean_replicas(directory, listing);
    return listing->count == 0 || in_a_range(directory, listing);
}

struct listing *directory_find(struct directory *directory, struct span key, uint64_t hash)
{
    struct listing **at = bucket_of(directory, hash);
    while (*at && !span_equal(listing_key(*at), key))
        at = &(*at)->next;
    if (*at && is_stale(directory, *at)) {
        unlink_listing(directory, at);
        return NULL;
    }
    return *at;
}

/* Room for a listing, within the bound. NULL: there is none. */
static struct listing *listing_new(struct directory *directory, size_t room, size_t key_len)
{
    size_t bytes = listing_size(room, key_len);
    if (directory->sums.heap_bytes + heap_size(bytes) > directory->max_bytes)
        return NULL;
    struct listing *listing = malloc(bytes);
    if (!listing)
        return NULL;
    directory->sums.heap_bytes += heap_size(bytes);
    *listing = (struct listing){.key_len = key_len & (2 * LISTING_KEY_MAX - 1), .room = room & LISTING_REPLICAS_MAX};
    return listing;
}

static uint8_t *key_of(struct listing *listing)
{
    return (uint8_t *)&listing->replicas[listing->room];
}

struct listing *directory_add(struct directory *directory, struct span key, uint64_t hash, const struct object_facts *facts,
                              const struct replica *first)
{
    CHECK(key.len >= 1 && key.len <= LISTING_KEY_MAX && (first->memory || first->disk) && used_node(directory, first->node));
    struct listing *listing = listing_new(directory, 1, key.len);
    if (!listing)
        return NULL;
    listing->version = facts->version;
    listing->size = facts->size & (((uint64_t)1 << 36) - 1);
    CHECK(listing->size == facts->size);
    listing->checksum = facts->checksum;
    listing->end_ms = facts->end_ms;
    listing->count = 1;
    listing->replicas[0] = *first;
    memcpy(key_of(listing), key.at, key.len);
    struct listing **bucket = bucket_of(directory, hash);
    listing->next = *bucket;
    *bucket = listing;
    directory->sums.listings++;
    directory->sums.replicas++;
    grow(directory);
    return listing;
}

struct replica *listing_replica(struct listing *listing, unsigned node)
{
    for (unsigned i = 0; i < listing->count; i++)
        if (listing->replicas[i].node == node)
            return &listing->replicas[i];
    return NULL;
}

/* The same with room for one more replica, in the same place. NULL: there is no room. */
static struct listing *listing_widen(struct directory *directory, struct listing *listing)
{
    if (listing->room == LISTING_REPLICAS_MAX)
        return NULL;
    struct listing *wider = listing_new(directory, listing->room + 1U, listing->key_len);
    if (!wider)
        return NULL;
    unsigned room = wider->room;
    struct listing **at = place_of(directory, listing);
    memcpy(wider, listing, listing_size(listing->count, 0));
    wider->room = room & LISTING_REPLICAS_MAX;
    memcpy(key_of(wider), key_of(listing), listing->key_len);
    *at = wider;
    directory->sums.heap_bytes -= heap_size(listing_size(listing->room, listing->key_len));
    free(listing);
    return wider;
}

struct listing *directory_put_replica(struct directory *directory, struct listing *listing, const struct replica *replica)
{
    CHECK((replica->memory || replica->disk) && used_node(directory, replica->node));
    struct replica *there = listing_replica(listing, replica->node);
    if (there) {
        *there = *replica;
        return listing;
    }
    if (listing->count == listing->room) {
        listing = listing_widen(directory, listing);
        if (!listing)
            return NULL;
    }
    listing->replicas[listing->count++] = *replica;
    directory->sums.replicas++;
    return listing;
}

bool directory_drop_replica(struct directory *directory, struct listing *listing, unsigned node)
{
    for (unsigned i = 0; i < listing->count; i++) {
        if (listing->replicas[i].node != node)
            continue;
        take_off(directory, listing, i);
        break;
    }
    if (listing->count > 0)
        return false;
    directory_drop(directory, listing);
    return true;
}

void directory_drop(struct directory *directory, struct listing *listing)
{
    unlink_listing(directory, place_of(directory, listing));
}

/* ---- much at once ---- */

int directory_forget_range(struct directory *directory, struct span prefix, uint64_t version)
{
    CHECK(prefix.len <= LISTING_KEY_MAX);
    for (uint32_t i = 0; i < directory->range_count; i++) {
        struct range *range = &directory->ranges[i];
        if (!span_equal(span_of(range->prefix, range->prefix_len), prefix))
            continue;
        range->version = max_u64(range->version, version);
        range->round = want_round(directory);
        return 0;
    }
    if (directory->range_count == DIRECTORY_RANGES_MAX)
        return KVD_EBUSY;
    uint8_t *copy = malloc(prefix.len + 1);
    if (!copy)
        return -ENOMEM;
    bytes_copy(copy, prefix.at, prefix.len);
    struct range *range = &directory->ranges[directory->range_count++];
    *range = (struct range){.prefix = copy, .prefix_len = prefix.len, .version = version, .round = want_round(directory)};
    return 0;
}

void directory_base_grew(struct directory *directory)
{
    (void)want_round(directory);
}

/* Every listing has been looked at since this round began. */
static void round_done(struct directory *directory)
{
    directory->running = false;
    for (int i = 0; i < DIRECTORY_NODES_MAX; i++) {
        struct node_slot *slot = &directory->nodes[i];
        if (slot->round == 0 || slot->round > directory->round_begun)
            continue;
        directory->nodes_gone--;
        slot->round = 0;
        if (slot->all_gone)
            *slot = (struct node_slot){0};
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < directory->range_count; i++) {
        if (directory->ranges[i].round > directory->round_begun)
            directory->ranges[kept++] = directory->ranges[i];
        else
            free(directory->ranges[i].prefix);
    }
    directory->range_count = kept;
}

/* Returns how many listings it looked at. */
static uint32_t clean_bucket(struct directory *directory, struct listing **at, const struct rivals *base, const char *id)
{
    uint32_t looked = 0;
    for (; *at; looked++) {
        if (is_stale(directory, *at) || !rivals_owner(base, id, view_key_hash(listing_key(*at))))
            unlink_listing(directory, at);
        else
            at = &(*at)->next;
    }
    return looked;
}

bool directory_step(struct directory *directory, const struct rivals *base, const char *id, uint32_t steps)
{
    for (uint32_t step = 0; step < steps; step++) {
        if (!directory->running) {
            if (directory->round_wanted <= directory->round_begun)
                return true;
            directory->round_begun++;
            directory->running = true;
            directory->cursor = 0;
        }
        step += clean_bucket(directory, bucket_of(directory, directory->cursor), base, id);
        uint64_t last = bucket_last_hash(directory, directory->cursor);
        if (last == UINT64_MAX)
            round_done(directory);
        else
            directory->cursor = last + 1;
    }
    return !directory->running && directory->round_wanted <= directory->round_begun;
}

uint64_t directory_scan(const struct directory *directory, uint64_t cursor, uint32_t steps, directory_scan_fn fn, void *arg)
{
    for (uint32_t step = 0; step < steps; step++) {
        for (const struct listing *at = *bucket_of(directory, cursor); at; at = at->next, step++)
            fn(arg, at);
        uint64_t last = bucket_last_hash(directory, cursor);
        if (last == UINT64_MAX)
            return 0;
        cursor = last + 1;
    }
    return cursor;
}

void directory_sums(const struct directory *directory, struct directory_sums *out)
{
    *out = directory->sums;
}
