/* table.h - the replica table: from key to object, where its bytes are, who holds it, who leaves next.
 *
 * Owns:    entries, and their places in every list here.
 * Borrows: `blob` pointers (the store holds a reference for each entry that has one); the table never looks inside.
 * Not its: I/O, loops, clocks (times come in as ms of a monotonic clock), policy beyond "least recently used first".
 * Thread:  the loop's.
 *
 * Memory, beside the key: at most 128 bytes an object on average over all lengths of keys (malloc rounds, so that one length takes 120 and
 * another 135), also while it grows; 24 more for one that can expire. It grows by splitting a few buckets with each addition: no call is
 * ever O(n), but where said so; none moves more than TABLE_MOST_MOVED objects' places, and no object itself ever moves.
 *
 * A bucket is one line of the cache: eight places, each with 16 bits of its object's hash. So what is not there costs one line (some 20 %
 * of the time a second), what is there costs the lines of its entry's end and its key, too.
 */
#ifndef KVD_META_TABLE_H
#define KVD_META_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/list.h"
#include "meta/expiry.h"

struct blob;
struct table;

enum {
    KEY_MAX_BYTES = 1024,
    TABLE_SECRET_BYTES = 192,
    TABLE_BUCKET_MOST = 64, /* objects in one bucket. Five or six are usual: more than this come by equal hashes alone */
    TABLE_MOST_MOVED = 2 * TABLE_BUCKET_MOST
};

/* One file on disk, as far as the table knows it: which objects have their disk replica there. The store's memory; must be
 * empty when it goes. */
struct place {
    struct list objects;     /* entries, by in_place */
    uint64_t count;          /* of them */
    uint64_t bytes;          /* of their values */
    uint64_t blocks;         /* that their records take */
    uint64_t used_ticks;     /* the sum of their used_tick */
    uint64_t held_disk_only; /* of them: leased or pinned, and without a memory replica */
    uint64_t held_bytes;     /* of those, their values */
};
void place_init(struct place *place);
/* The first of its objects, which becomes the last: to go through them in steps. NULL when there is none. */
struct entry *place_next(struct place *place);

enum entry_flags {
    ENTRY_PINNED = 1,
    ENTRY_WRITING = 2,          /* a write to disk is queued or under way: memory keeps the bytes */
    ENTRY_TOUCHED = 4,          /* the store's, and the next two; the table keeps them as they are: its key was asked for or put again */
    ENTRY_UNWRITABLE = 8,       /* its write came to nothing: eviction does not wait for another */
    ENTRY_SHED = 16,            /* its write was skipped, because the queue was full */
    ENTRY_LISTED = 32,          /* the table's, and all that follow: on a use list */
    ENTRY_HELD = 64,            /* counted in held_memory_only_bytes */
    ENTRY_HELD_DISK = 128,      /* counted in its place's held_disk_only */
    ENTRY_IDLE = 256,           /* nobody has used it since its write began */
    ENTRY_COUNTED_PINNED = 512, /* and the next three: what the sums and the use lists were last told */
    ENTRY_COUNTED_LEASED = 1024,
    ENTRY_COUNTED_WRITING = 2048,
    ENTRY_COUNTED_PLACED = 4096,
    ENTRY_REREAD = 8192,  /* used since it came to its place on disk */
    ENTRY_STRAY = 16384,  /* the store's, kept as it is: a record of it may be on disk elsewhere, too */
    ENTRY_LEASED = 32768, /* lease.h's, kept as it is: somebody holds it */
};

/* What a look-up reads comes last, beside the key. */
struct entry {
    struct list by_use; /* the table's */
    struct list in_place;
    uint64_t version;
    uint64_t checksum;
    void *work;     /* the store's: a write, a read into memory, or a replace under way */
    uint32_t block; /* where in the place, in 4 KiB blocks */
    union {
        uint32_t blocks;
        uint32_t checked_tick; /* of an object that is a file of its own: when that was last seen to be there */
    };
    uint32_t put_tick;   /* when it was put (or found at start), in ticks of the loop's clock: table_tick() */
    uint32_t used_tick;  /* last used */
    struct place *place; /* disk replica, complete; or NULL. Set by table_set_place() */
    struct blob *blob;   /* memory replica, complete; or NULL. Set by the store, then table_settle() */
    uint64_t size : 36;  /* set by entry_set_size(); may change only while it has neither replica and that has been settled: the sums count
                            by it */
    uint64_t hits : 16;  /* saturates */
    uint64_t key_len : 11;
    uint64_t mortal : 1; /* a struct expiry lies before it: entry_expiry() */
    uint16_t flags;
    uint8_t key[];
};

/* Of a size no larger than records have. */
static inline void entry_set_size(struct entry *entry, uint64_t size)
{
    entry->size = size & (((uint64_t)1 << 36) - 1);
    CHECK(entry->size == size);
}

/* Ages are kept in 32 bits: 16 ms apart, good for two years. */
enum { ENTRY_TICK_MS = 16 };
static inline uint32_t table_tick(uint64_t now_ms)
{
    return (uint32_t)(now_ms / ENTRY_TICK_MS);
}
/* How long ago `tick` was, in ms. */
static inline uint64_t table_ms_since(uint32_t tick, uint64_t now_ms)
{
    return (uint64_t)(table_tick(now_ms) - tick) * ENTRY_TICK_MS;
}

static inline struct span entry_key(const struct entry *entry)
{
    return span_of(entry->key, entry->key_len);
}

/* When it ends, or NULL if it cannot. at_ms and the place in a wheel are the store's; a dropped entry leaves the wheel by itself. */
static inline struct expiry *entry_expiry(struct entry *entry)
{
    return entry->mortal ? (struct expiry *)(void *)entry - 1 : NULL;
}
static inline struct entry *expiry_entry(struct expiry *expiry)
{
    return (struct entry *)(void *)(expiry + 1);
}

/* `secret` is random (XXH3's secret: hashes cannot be foreseen by clients); copied. 0 or -ENOMEM. */
int table_new(struct table **out, const uint8_t secret[TABLE_SECRET_BYTES]);
/* Frees every entry too; none may have a blob, a place or work any more, nor be leased. */
void table_free(struct table *table);

uint64_t table_hash(const struct table *table, struct span key);
/* NULL when it is not there. `hash` is table_hash(key). */
struct entry *table_find(const struct table *table, struct span key, uint64_t hash);
/* For batches: start fetching into the cache the bucket of `hash`; and, once that is there, what in it may be the entry. */
void table_prefetch(const struct table *table, uint64_t hash);
void table_prefetch_entry(const struct table *table, uint64_t hash);
/* Add a key that is not there, all else zero; `hash` is table_hash(key). NULL when the heap is out, or its bucket full. */
struct entry *table_add(struct table *table, struct span key, uint64_t hash);
/* The same for one that can expire: at_ms is 0, it is in no wheel. */
struct entry *table_add_mortal(struct table *table, struct span key, uint64_t hash);
/* Take it out and free it. It must have no blob, place or work, and not be leased. */
void table_drop(struct table *table, struct entry *entry);

/* Set or clear (NULL) the disk replica, keep the place's figures right, and settle. */
void table_set_place(struct table *table, struct entry *entry, struct place *place, uint32_t block, uint32_t blocks);

/* To be called after any change of blob or flags (PINNED, WRITING, LEASED): puts the entry on the use list where it belongs and keeps the
 * sums right. Lists: WRITING (never a victim), HELD (leased or pinned), and of anything else with a blob: DIRTY (it has no place), WRITTEN
 * (its place came by a write during which and since nobody used it: it was cold then), CLEAN (it has a place, too). An entry without a
 * blob is on none. It joins a list at the most recently used end; only one that is dirty again because its place or its write came to
 * nothing goes to that end of DIRTY which is nearer to when it was last used, in doubt to the coldest. */
void table_settle(struct table *table, struct entry *entry);

/* Note a use: to the most recently used end of its list (WRITTEN becomes CLEAN), hits + 1, used_tick. */
void table_use(struct table *table, struct entry *entry, uint64_t now_ms);

/* Of an object that is a file of its own: it was seen to be there. Its place counts ticks where others have blocks. */
static inline void table_checked(struct entry *entry, uint32_t tick)
{
    entry->place->blocks += (uint64_t)tick - entry->checked_tick;
    entry->checked_tick = tick;
}

enum victims { VICTIM_DIRTY = 1, VICTIM_WRITTEN = 2, VICTIM_CLEAN = 4, VICTIM_SPARED = VICTIM_WRITTEN | VICTIM_CLEAN, VICTIM_ANY = 7 };
/* The least recently used entry (by used_tick, if several lists are asked for) on these lists, or NULL: one with a memory replica that is
 * neither held nor being written. Never looks further than the ends of the lists. */
struct entry *table_victim(const struct table *table, unsigned of);
/* In need: the least recently used *held* entry that has a disk replica, too (looks at 64 at most); or NULL. */
struct entry *table_held_victim(const struct table *table);
/* The most recently used dirty entry, or NULL. */
struct entry *table_hottest_dirty(const struct table *table);
/* Bytes of the values on WRITING and on WRITTEN: what can leave memory without loss, now or soon, and was no use of late. */
uint64_t table_ahead_bytes(const struct table *table);

/* Bytes of held entries that exist only in memory (at most half the pool, says the wire: the store asks before it adds). */
uint64_t table_held_memory_only_bytes(const struct table *table);

/* What the table itself takes, as in its sums. */
uint64_t table_heap_bytes(const struct table *table);

struct table_sums {
    uint64_t objects;
    uint64_t in_memory, on_disk;       /* objects with such a complete replica */
    uint64_t memory_bytes, disk_bytes; /* values' bytes of those */
    uint64_t pinned, leased, writing;
    uint64_t mortal;     /* objects that can expire */
    uint64_t heap_bytes; /* what the table itself takes, keys included, malloc's overhead estimated */
    uint64_t most_moved; /* places of objects that one addition has moved, at most */
};
void table_sums(const struct table *table, struct table_sums *out);

/* Walk in the order of hashes from `cursor` (0: the start): calls fn for at most `limit` entries whose key begins with `prefix`, looking
 * at no more than `steps` buckets and entries. Returns the cursor to go on from, 0 when the end was reached. What is there
 * throughout is seen at least once, however the table grows meanwhile. (More than `limit` only if 64-bit hashes collide.)
 * fn may drop the entry it is given, no other, and must not add. */
typedef void (*table_scan_fn)(void *arg, struct entry *entry);
uint64_t table_scan(struct table *table, uint64_t cursor, struct span prefix, uint32_t limit, uint32_t steps, table_scan_fn fn, void *arg);

#endif
