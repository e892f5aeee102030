#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "cluster/directory.h"

enum { KEYS = 600, IDS = 4 };

static uint64_t next_random(uint64_t *state)
{
    uint64_t n = *state += 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

static const char *const ids[IDS] = {"a", "b", "c", "d"};

static void rivals_of(struct rivals *out, unsigned mask)
{
    struct view view = {.number = 1};
    for (unsigned i = 0; i < IDS; i++) {
        struct node_name name = {.incarnation = {1, 1}};
        snprintf(name.id, sizeof name.id, "%s", ids[i]);
        if (mask >> i & 1)
            view_put(&view, &name);
    }
    rivals_reset(out, &view);
}

static struct span number_key(char out[32], unsigned number)
{
    return span_of(out, (size_t)snprintf(out, 32, "%u/key-%u", number % 8, number));
}

/* ---- a model beside it ---- */

struct model_object {
    bool there;
    struct object_facts facts;
    uint64_t sequence[IDS]; /* of a replica on disk */
    bool memory[IDS], disk[IDS];
};

struct model {
    struct directory *directory;
    struct model_object objects[KEYS];
    int node[IDS];
    bool disk_only[IDS]; /* it is gone, but for what it has on disk */
    uint64_t start[IDS];
    unsigned base;
    uint64_t random, version;
};

static uint64_t below(struct model *m, uint64_t n)
{
    return next_random(&m->random) % n;
}

static bool has_any(const struct model_object *object)
{
    for (unsigned i = 0; i < IDS; i++)
        if (object->memory[i] || object->disk[i])
            return true;
    return false;
}

static struct listing *find(const struct model *m, unsigned number)
{
    char text[32];
    struct span key = number_key(text, number);
    uint64_t hash = directory_hash(m->directory, key);
    directory_prefetch(m->directory, hash);
    directory_prefetch_listing(m->directory, hash);
    return directory_find(m->directory, key, hash);
}

static struct replica some_replica(struct model *m, unsigned id)
{
    unsigned kinds = m->disk_only[id] ? 2 : 1 + (unsigned)below(m, 3);
    struct replica replica = {.node = (unsigned)m->node[id] & 255, .memory = kinds & 1, .disk = kinds >> 1 & 1};
    if (replica.disk) {
        replica.sequence = below(m, 1000) & 1023;
        replica.block = (uint32_t)below(m, 1 << 20);
        replica.blocks = 3;
    }
    return replica;
}

static void model_replica(struct model_object *object, unsigned id, const struct replica *replica)
{
    object->memory[id] = replica->memory;
    object->disk[id] = replica->disk;
    object->sequence[id] = replica->sequence;
}

static void check_one(const struct model *m, unsigned number)
{
    const struct model_object *object = &m->objects[number];
    struct listing *listing = find(m, number);
    cr_assert_eq(listing != NULL, object->there, "key %u", number);
    if (!listing)
        return;
    char text[32];
    cr_assert(span_equal(listing_key(listing), number_key(text, number)));
    cr_assert_eq(listing->version, object->facts.version);
    cr_assert_eq(listing->size, object->facts.size);
    cr_assert_eq(listing->checksum, object->facts.checksum);
    unsigned count = 0;
    for (unsigned i = 0; i < IDS; i++) {
        struct replica *replica = listing_replica(listing, (unsigned)m->node[i]);
        cr_assert_eq(replica != NULL, object->memory[i] || object->disk[i], "key %u, node %s", number, ids[i]);
        if (!replica)
            continue;
        count++;
        cr_assert_eq(replica->memory, object->memory[i]);
        cr_assert_eq(replica->disk, object->disk[i]);
        cr_assert_eq(replica->sequence, object->disk[i] ? object->sequence[i] : 0);
    }
    cr_assert_eq(listing->count, count);
}

static void change_one(struct model *m)
{
    unsigned number = (unsigned)below(m, KEYS), id = (unsigned)below(m, IDS);
    struct model_object *object = &m->objects[number];
    struct listing *listing = find(m, number);
    cr_assert_eq(listing != NULL, object->there);
    struct replica replica = some_replica(m, id);
    if (!listing) {
        char text[32];
        struct span key = number_key(text, number);
        *object = (struct model_object){.there = true, .facts = {++m->version, below(m, UINT64_C(1) << 36), m->version * 3, 0}};
        cr_assert(directory_add(m->directory, key, directory_hash(m->directory, key), &object->facts, &replica));
        model_replica(object, id, &replica);
    } else if (below(m, 3) > 0) {
        listing = directory_put_replica(m->directory, listing, &replica);
        cr_assert(listing);
        model_replica(object, id, &replica);
    } else if (below(m, 4) > 0) {
        model_replica(object, id, &(struct replica){0});
        object->there = has_any(object);
        cr_assert_eq(directory_drop_replica(m->directory, listing, (unsigned)m->node[id]), !object->there);
    } else {
        directory_drop(m->directory, listing);
        object->there = false;
    }
}

static void forget_range(struct model *m)
{
    char text[32];
    struct span prefix = span_of(text, (size_t)snprintf(text, sizeof text, "%u/", (unsigned)below(m, 8)));
    if (below(m, 8) == 0)
        prefix.len = 0;
    uint64_t version = m->version - min_u64(m->version, below(m, 200));
    if (directory_forget_range(m->directory, prefix, version) == KVD_EBUSY)
        return;
    for (unsigned i = 0; i < KEYS; i++) {
        struct model_object *object = &m->objects[i];
        char key[32];
        if (object->facts.version <= version && span_starts_with(number_key(key, i), prefix))
            object->there = false;
    }
}

static void lose_node(struct model *m)
{
    unsigned id = (unsigned)below(m, IDS);
    bool all = m->disk_only[id] || below(m, 2);
    if (all)
        directory_node_gone(m->directory, (unsigned)m->node[id]);
    else
        directory_memory_gone(m->directory, (unsigned)m->node[id]);
    for (unsigned i = 0; i < KEYS; i++) {
        struct model_object *object = &m->objects[i];
        object->memory[id] = false;
        if (all)
            object->disk[id] = false;
        object->there = object->there && has_any(object);
    }
    m->disk_only[id] = !all;
    if (!all)
        return;
    m->node[id] = directory_node(m->directory, ids[id], (struct incarnation){++m->start[id], 7});
    cr_assert_geq(m->node[id], 0);
}

struct seen {
    bool keys[KEYS];
    uint64_t count;
};

static void see(void *arg, const struct listing *listing)
{
    struct seen *seen = arg;
    char text[64] = {0};
    memcpy(text, listing_key(listing).at, listing->key_len);
    unsigned group, number;
    cr_assert_eq(sscanf(text, "%u/key-%u", &group, &number), 2);
    seen->keys[number] = true;
    seen->count++;
}

static bool steps(struct model *m, uint32_t count)
{
    struct rivals base;
    rivals_of(&base, m->base);
    return directory_step(m->directory, &base, "a", count);
}

/* A key that "a" does not own against the base goes; the model learns of it when the steps are done. */
static void base_grows(struct model *m)
{
    m->base |= 1u << below(m, IDS);
    directory_base_grew(m->directory);
    while (!steps(m, 64))
        continue;
    struct rivals base;
    rivals_of(&base, m->base);
    for (unsigned i = 0; i < KEYS; i++) {
        char text[32];
        if (!rivals_owner(&base, "a", view_key_hash(number_key(text, i))))
            m->objects[i].there = false;
    }
    m->base = 1;
}

static void check_all(struct model *m)
{
    for (unsigned i = 0; i < KEYS; i++)
        check_one(m, i);
    struct seen seen = {0};
    uint64_t cursor = 0;
    do
        cursor = directory_scan(m->directory, cursor, 1 + (uint32_t)below(m, 50), see, &seen);
    while (cursor > 0);
    uint64_t there = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        cr_assert_eq(seen.keys[i], m->objects[i].there);
        there += m->objects[i].there;
    }
    struct directory_sums sums;
    directory_sums(m->directory, &sums);
    cr_assert_eq(sums.listings, there);
    cr_assert_eq(seen.count, there);
}

static void run_model(uint64_t seed)
{
    struct model *m = calloc(1, sizeof *m);
    m->random = seed;
    m->base = 1;
    cr_assert_eq(directory_new(&m->directory, seed, 64 * MIB), 0);
    for (unsigned i = 0; i < IDS; i++) {
        m->start[i] = 1;
        m->node[i] = directory_node(m->directory, ids[i], (struct incarnation){1, 7});
        cr_assert_eq(directory_node(m->directory, ids[i], (struct incarnation){1, 7}), m->node[i]);
    }
    for (unsigned i = 0; i < 20000; i++) {
        change_one(m);
        if (below(m, 150) == 0)
            forget_range(m);
        if (below(m, 200) == 0)
            lose_node(m);
        if (below(m, 400) == 0)
            base_grows(m);
        if (below(m, 4) == 0)
            (void)steps(m, (uint32_t)below(m, 40));
        if (below(m, 2000) == 0)
            check_all(m);
    }
    check_all(m);
    directory_free(m->directory);
    free(m);
}

Test(directory, is_as_its_model)
{
    for (uint64_t seed = 1; seed <= 10; seed++)
        run_model(seed);
}

static struct listing *add(struct directory *directory, unsigned number, int node)
{
    char text[32];
    struct span key = number_key(text, number);
    return directory_add(directory, key, directory_hash(directory, key), &(struct object_facts){number + 1, 1, 1, 0},
                         &(struct replica){.node = (unsigned)node & 255, .memory = 1});
}

/* No addition moves more than a few, and a listing costs what the header says. */
Test(directory, grows_without_a_pause)
{
    enum { MANY = 200000 };
    struct directory *directory;
    cr_assert_eq(directory_new(&directory, 5, GIB), 0);
    int a = directory_node(directory, "a", (struct incarnation){1, 1}), b = directory_node(directory, "b", (struct incarnation){1, 1});
    struct directory_sums sums, before;
    directory_sums(directory, &before);
    uint64_t key_bytes = 0;
    for (unsigned i = 0; i < MANY; i++) {
        struct listing *listing = add(directory, i, a);
        cr_assert(listing);
        key_bytes += listing->key_len;
        cr_assert(directory_put_replica(directory, listing, &(struct replica){.node = (unsigned)b & 255, .disk = 1, .blocks = 1}));
        if (i % 1000 == 999) {
            directory_sums(directory, &sums);
            cr_assert(i < 10000 || (sums.heap_bytes - before.heap_bytes - key_bytes) / sums.listings <= 128);
        }
    }
    cr_assert_leq(sums.most_moved, 40);
    cr_assert_eq(sums.replicas, 2 * MANY);
    directory_free(directory);
}

Test(directory, is_bounded_in_bytes)
{
    struct directory *directory;
    cr_assert_eq(directory_new(&directory, 5, 256 * KIB), 0);
    int a = directory_node(directory, "a", (struct incarnation){1, 1}), b = directory_node(directory, "b", (struct incarnation){1, 1});
    unsigned n = 0;
    while (add(directory, n, a))
        n++;
    struct directory_sums sums;
    directory_sums(directory, &sums);
    cr_assert(n > 1000 && sums.heap_bytes <= 256 * KIB + sizeof(void *) * 1024 * 2);
    char text[32];
    struct span key = number_key(text, 5);
    struct listing *listing = directory_find(directory, key, directory_hash(directory, key));
    cr_assert_null(directory_put_replica(directory, listing, &(struct replica){.node = (unsigned)b & 255, .disk = 1}));
    cr_assert_eq(directory_find(directory, key, directory_hash(directory, key)), listing);
    directory_drop(directory, listing);
    cr_assert(add(directory, 5, a));
    directory_free(directory);
}

Test(directory, has_room_for_so_many_nodes_and_ranges)
{
    struct directory *directory;
    cr_assert_eq(directory_new(&directory, 5, MIB), 0);
    for (uint64_t i = 0; i < DIRECTORY_NODES_MAX; i++)
        cr_assert_eq(directory_node(directory, "a", (struct incarnation){i + 1, 1}), (int)i);
    cr_assert_eq(directory_node(directory, "b", (struct incarnation){1, 1}), KVD_EBUSY);
    directory_node_gone(directory, 7);
    cr_assert_eq(directory_node(directory, "b", (struct incarnation){1, 1}), KVD_EBUSY);
    for (unsigned i = 0; i < DIRECTORY_RANGES_MAX; i++) {
        char text[32];
        cr_assert_eq(directory_forget_range(directory, number_key(text, i), 1), 0);
        cr_assert_eq(directory_forget_range(directory, number_key(text, i), 2), 0);
    }
    cr_assert_eq(directory_forget_range(directory, span_text("x"), 1), KVD_EBUSY);
    struct rivals base;
    rivals_of(&base, 1);
    while (!directory_step(directory, &base, "a", 100))
        continue;
    cr_assert_eq(directory_node(directory, "b", (struct incarnation){1, 1}), 7);
    cr_assert_str_eq(directory_node_id(directory, 7), "b");
    cr_assert_eq(directory_forget_range(directory, span_text("x"), 1), 0);
    directory_free(directory);
}
