/* directory.h - an owner's replica table: from key to version, size, sum, end, who holds it, and which nodes have its bytes.
 *
 * Owns:    listings, the names of the nodes that they speak of, and what is being forgotten.
 * Not its: I/O, clocks (times are whatever the caller compares them with), which keys it should have, what a replica is worth.
 * Thread:  one at a time.
 *
 * Memory, beside the key: 64 bytes for a listing with one replica, 16 for each more, 8 of malloc and as much of its rounding, and 8 to 16
 * of buckets. Bounded in bytes, keys included. It grows by splitting a few buckets with each addition: no call is O(n). Buckets are in the
 * order of hashes, so that a hash is a cursor, however it grows.
 *
 * Forgetting much at once takes effect at once (directory_find() does not give what is to go) and is carried out by directory_step().
 */
#ifndef KVD_CLUSTER_DIRECTORY_H
#define KVD_CLUSTER_DIRECTORY_H

#include "cluster/rules.h"

enum {
    DIRECTORY_NODES_MAX = 255,
    DIRECTORY_RANGES_MAX = 32, /* prefixes that are being forgotten */
    LISTING_KEY_MAX = 1024,
    LISTING_REPLICAS_MAX = 31,
};

/* What one node has of an object: in memory, on disk, or both. */
struct replica {
    uint64_t sequence : 40; /* of the segment in the node's folder; this and the next two only where it is on disk */
    uint64_t node : 8;      /* directory_node() */
    uint64_t memory : 1;
    uint64_t disk : 1;
    uint32_t block, blocks;
};

struct listing {
    struct listing *next; /* the directory's */
    uint64_t version;
    uint64_t checksum;
    uint64_t end_ms;          /* 0: never */
    uint64_t leased_until_ms; /* the caller's, as is `pinned`; 0 at first */
    uint64_t size : 36;
    uint64_t key_len : 11;
    uint64_t count : 5; /* of replicas, one at least */
    uint64_t room : 5;
    uint64_t pinned : 1;
    struct replica replicas[]; /* `room`; the key follows */
};

static inline struct span listing_key(const struct listing *listing)
{
    return span_of(&listing->replicas[listing->room], listing->key_len);
}

/* What a listing begins with. */
struct object_facts {
    uint64_t version, size, checksum, end_ms;
};

struct directory;

/* `seed` is random, so that clients cannot choose keys that collide. 0 or -ENOMEM. */
int directory_new(struct directory **out, uint64_t seed, uint64_t max_bytes);
/* Harmless for NULL. */
void directory_free(struct directory *directory);

/* ---- nodes ---- */

/* The index of a start of a node; of a new one it is made. KVD_EBUSY: as many are known as can be. */
int directory_node(struct directory *directory, const char *id, struct incarnation incarnation);
/* An index that is in use. */
const char *directory_node_id(const struct directory *directory, unsigned node);
struct incarnation directory_node_incarnation(const struct directory *directory, unsigned node);
/* What it had in memory is gone; or all that it had: then the index means another node once the steps are done. */
void directory_memory_gone(struct directory *directory, unsigned node);
void directory_node_gone(struct directory *directory, unsigned node);

/* ---- listings: a pointer to one is good until the next call that may change the directory ---- */

uint64_t directory_hash(const struct directory *directory, struct span key);
/* For batches: start fetching the bucket of `hash` into the cache; and, once that is there, its first listing. */
void directory_prefetch(const struct directory *directory, uint64_t hash);
void directory_prefetch_listing(const struct directory *directory, uint64_t hash);
/* NULL: it is not there. What it has of nodes that are gone is taken off first. */
struct listing *directory_find(struct directory *directory, struct span key, uint64_t hash);
/* Add a key that is not there (directory_find() said so), with its first replica. NULL: there is no room. */
struct listing *directory_add(struct directory *directory, struct span key, uint64_t hash, const struct object_facts *facts,
                              const struct replica *first);
/* Say what a node has, in memory or on disk, whatever it had before. Returns the listing, which may have moved; NULL when there is no
 * room: nothing changed. */
struct listing *directory_put_replica(struct directory *directory, struct listing *listing, const struct replica *replica);
/* The node's, or NULL. */
struct replica *listing_replica(struct listing *listing, unsigned node);
/* The node has nothing any more. True: that was the last replica, and the listing is gone. */
bool directory_drop_replica(struct directory *directory, struct listing *listing, unsigned node);
void directory_drop(struct directory *directory, struct listing *listing);

/* ---- much at once ---- */

/* Forget what begins with `prefix` and has no version above. 0; KVD_EBUSY: too many such are being carried out; -ENOMEM. */
int directory_forget_range(struct directory *directory, struct span prefix, uint64_t version);
/* The base grew: each listing is to be looked at once more. */
void directory_base_grew(struct directory *directory);
/* Go on with what is being forgotten, over `steps` buckets and listings or a bucket more: what was forgotten by range, replicas of nodes
 * that are gone, keys that `id` does not own against `base`. True: there is no more to do. */
bool directory_step(struct directory *directory, const struct rivals *base, const char *id, uint32_t steps);

/* Walk from `cursor` (0: the start) over `steps` buckets and listings, or as many more as a bucket has. Returns the cursor to go on from, 0
 * at the end. What is there throughout is seen. `fn` must not change the directory. */
typedef void (*directory_scan_fn)(void *arg, const struct listing *listing);
uint64_t directory_scan(const struct directory *directory, uint64_t cursor, uint32_t steps, directory_scan_fn fn, void *arg);

struct directory_sums {
    uint64_t listings, replicas;
    uint64_t heap_bytes; /* keys included, malloc's overhead estimated */
    uint64_t most_moved; /* listings that one addition has moved, at most */
};
void directory_sums(const struct directory *directory, struct directory_sums *out);

#endif
