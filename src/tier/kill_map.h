/* kill_map.h - what is dead, by key, by prefix, altogether, and by segment: the sum of remove log entries.
 *
 * Of each name only the highest dead version is kept. Owns copies of the names. Pure but for the heap; one thread at a time.
 */
#ifndef KVD_TIER_KILL_MAP_H
#define KVD_TIER_KILL_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "tier/disk.h"

struct kill_map;

/* `seed` is random, so that clients cannot choose keys that collide. 0 or -ENOMEM. */
int kill_map_new(struct kill_map **out, uint64_t seed);
/* Harmless for NULL. */
void kill_map_free(struct kill_map *map);

/* `name`: the key; the prefix; nothing; the segment's id (DISK_ID_BYTES). 0, or -ENOMEM: then nothing changed. */
int kill_map_add(struct kill_map *map, enum kill_kind kind, struct span name, uint64_t version);

/* Is `version` of this key dead? */
bool kill_map_dead(const struct kill_map *map, struct span key, uint64_t version);
bool kill_map_segment_dead(const struct kill_map *map, const uint8_t *id);

/* Every entry once; false from `fn` ends the walk. */
typedef bool (*kill_map_fn)(void *arg, enum kill_kind kind, struct span name, uint64_t version);
void kill_map_walk(const struct kill_map *map, kill_map_fn fn, void *arg);

/* The highest version in it that is dead; 0 when there is none. */
uint64_t kill_map_max_version(const struct kill_map *map);
uint64_t kill_map_count(const struct kill_map *map);

#endif
