#include "tier/kill_map.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "tier/record.h"

struct dead {
    struct dead *chain;
    uint64_t hash;
    uint64_t version;
    size_t len;
    uint8_t name[];
};

/* Names of one sort: all keys, all prefixes of one length, or all segments. */
struct dead_set {
    size_t name_len; /* of prefixes */
    struct dead **buckets;
    uint64_t bucket_count; /* a power of two */
    uint64_t count;
};

struct kill_map {
    uint64_t seed;
    uint64_t all_version;
    uint64_t max_version;
    struct dead_set keys;
    struct dead_set segments;
    struct dead_set *prefixes;
    size_t prefix_count;
};

enum { FIRST_BUCKETS = 64 };

static int set_init(struct dead_set *set, size_t name_len)
{
    struct dead **buckets = calloc(FIRST_BUCKETS, sizeof(struct dead *));
    if (!buckets)
        return -ENOMEM;
    *set = (struct dead_set){.name_len = name_len, .buckets = buckets, .bucket_count = FIRST_BUCKETS};
    return 0;
}

static void set_fini(struct dead_set *set)
{
    for (uint64_t i = 0; i < set->bucket_count; i++) {
        struct dead *next;
        for (struct dead *dead = set->buckets[i]; dead; dead = next) {
            next = dead->chain;
            free(dead);
        }
    }
    free(set->buckets);
}

static struct dead *set_find(const struct dead_set *set, struct span name, uint64_t hash)
{
    struct dead *dead = set->buckets[hash & (set->bucket_count - 1)];
    while (dead && !(dead->hash == hash && span_equal(span_of(dead->name, dead->len), name)))
        dead = dead->chain;
    return dead;
}

/* A set that cannot grow goes on with longer chains. */
static void set_grow(struct dead_set *set)
{
    uint64_t bucket_count = set->bucket_count * 2;
    struct dead **buckets = calloc(bucket_count, sizeof(struct dead *));
    if (!buckets)
        return;
    for (uint64_t i = 0; i < set->bucket_count; i++) {
        struct dead *next;
        for (struct dead *dead = set->buckets[i]; dead; dead = next) {
            next = dead->chain;
            struct dead **bucket = &buckets[dead->hash & (bucket_count - 1)];
            dead->chain = *bucket;
            *bucket = dead;
        }
    }
    free(set->buckets);
    set->buckets = buckets;
    set->bucket_count = bucket_count;
}

static int set_add(struct dead_set *set, struct span name, uint64_t hash, uint64_t version)
{
    struct dead *dead = set_find(set, name, hash);
    if (dead) {
        dead->version = max_u64(dead->version, version);
        return 0;
    }
    dead = malloc(sizeof *dead + name.len);
    if (!dead)
        return -ENOMEM;
    if (set->count >= set->bucket_count)
        set_grow(set);
    struct dead **bucket = &set->buckets[hash & (set->bucket_count - 1)];
    *dead = (struct dead){.chain = *bucket, .hash = hash, .version = version, .len = name.len};
    memcpy(dead->name, name.at, name.len);
    *bucket = dead;
    set->count++;
    return 0;
}

static bool set_walk(const struct dead_set *set, enum kill_kind kind, kill_map_fn fn, void *arg)
{
    for (uint64_t i = 0; i < set->bucket_count; i++)
        for (const struct dead *dead = set->buckets[i]; dead; dead = dead->chain)
            if (!fn(arg, kind, span_of(dead->name, dead->len), dead->version))
                return false;
    return true;
}

static uint64_t name_hash(const struct kill_map *map, struct span name)
{
    return XXH3_64bits_withSeed(name.at, name.len, map->seed);
}

int kill_map_new(struct kill_map **out, uint64_t seed)
{
    struct kill_map *map = calloc(1, sizeof *map);
    if (!map)
        return -ENOMEM;
    map->seed = seed;
    if (set_init(&map->keys, 0))
        goto fail_keys;
    if (set_init(&map->segments, DISK_ID_BYTES))
        goto fail_segments;
    *out = map;
    return 0;
fail_segments:
    set_fini(&map->keys);
fail_keys:
    free(map);
    return -ENOMEM;
}

void kill_map_free(struct kill_map *map)
{
    if (!map)
        return;
    set_fini(&map->keys);
    set_fini(&map->segments);
    for (size_t i = 0; i < map->prefix_count; i++)
        set_fini(&map->prefixes[i]);
    free(map->prefixes);
    free(map);
}

/* Prefixes are grouped by length, so that a key asks once for each length there is. NULL when the heap is out. */
static struct dead_set *prefix_set(struct kill_map *map, size_t name_len)
{
    for (size_t i = 0; i < map->prefix_count; i++)
        if (map->prefixes[i].name_len == name_len)
            return &map->prefixes[i];
    struct dead_set *prefixes = realloc(map->prefixes, (map->prefix_count + 1) * sizeof *prefixes);
    if (!prefixes)
        return NULL;
    map->prefixes = prefixes;
    if (set_init(&prefixes[map->prefix_count], name_len))
        return NULL;
    return &prefixes[map->prefix_count++];
}

static int map_add_name(struct kill_map *map, enum kill_kind kind, struct span name, uint64_t version)
{
    struct dead_set *set = kind == KILL_KEY ? &map->keys : kind == KILL_SEGMENT ? &map->segments : prefix_set(map, name.len);
    return set ? set_add(set, name, name_hash(map, name), version) : -ENOMEM;
}

int kill_map_add(struct kill_map *map, enum kill_kind kind, struct span name, uint64_t version)
{
    if (kind == KILL_ALL)
        map->all_version = max_u64(map->all_version, version);
    else if (map_add_name(map, kind, name, version))
        return -ENOMEM;
    map->max_version = max_u64(map->max_version, version);
    return 0;
}

bool kill_map_dead(const struct kill_map *map, struct span key, uint64_t version)
{
    if (version <= map->all_version)
        return true;
    const struct dead *dead = set_find(&map->keys, key, name_hash(map, key));
    if (dead && version <= dead->version)
        return true;
    for (size_t i = 0; i < map->prefix_count; i++) {
        const struct dead_set *set = &map->prefixes[i];
        if (set->name_len > key.len)
            continue;
        struct span prefix = span_of(key.at, set->name_len);
        dead = set_find(set, prefix, name_hash(map, prefix));
        if (dead && version <= dead->version)
            return true;
    }
    return false;
}

bool kill_map_segment_dead(const struct kill_map *map, const uint8_t *id)
{
    struct span name = span_of(id, DISK_ID_BYTES);
    return set_find(&map->segments, name, name_hash(map, name)) != NULL;
}

void kill_map_walk(const struct kill_map *map, kill_map_fn fn, void *arg)
{
    if (map->all_version > 0 && !fn(arg, KILL_ALL, (struct span){0}, map->all_version))
        return;
    if (!set_walk(&map->keys, KILL_KEY, fn, arg) || !set_walk(&map->segments, KILL_SEGMENT, fn, arg))
        return;
    for (size_t i = 0; i < map->prefix_count; i++)
        if (!set_walk(&map->prefixes[i], KILL_PREFIX, fn, arg))
            return;
}

uint64_t kill_map_max_version(const struct kill_map *map)
{
    return map->max_version;
}

uint64_t kill_map_count(const struct kill_map *map)
{
    uint64_t count = map->keys.count + map->segments.count + (map->all_version > 0);
    for (size_t i = 0; i < map->prefix_count; i++)
        count += map->prefixes[i].count;
    return count;
}
