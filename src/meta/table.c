#include "meta/table.h"

#include <errno.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/check.h"

enum {
    PAGE_BITS = 12,
    PAGE_BUCKETS = 1 << PAGE_BITS,
    MAX_BITS = 40,
    SPLITS_PER_ADD = 2,
    DESPERATE_LOOKS = 64,
};

enum use_list { USE_WRITING, USE_HELD, USE_DIRTY, USE_WRITTEN, USE_CLEAN, USE_LISTS, USE_NONE = USE_LISTS };
enum { STORE_FLAGS = ENTRY_PINNED | ENTRY_WRITING | ENTRY_TOUCHED | ENTRY_UNWRITABLE | ENTRY_SHED | ENTRY_STRAY };

/* Chains are in the order of hashes. */
struct bucket_page {
    struct entry *buckets[PAGE_BUCKETS];
};

/* Linear hashing by the high bits of the hash: a hash in one of the first `split` of the 2^bits buckets is in bucket hash >> (63 - bits) of
 * `next_pages`, any other in bucket hash >> (64 - bits) of `pages`. Splitting a bucket cuts its chain in two, so everything stays in the
 * order of hashes. The buckets come in pages so that old ones can be given back one by one: neither a pause nor both sizes at once. */
struct table {
    uint8_t secret[TABLE_SECRET_BYTES];
    unsigned bits;
    uint64_t split;
    struct bucket_page **pages;
    struct bucket_page **next_pages; /* NULL before the first split of a round */
    struct list uses[USE_LISTS];     /* least recently used first */
    uint64_t use_bytes[USE_LISTS];   /* of the values on them */
    uint64_t held_memory_only_bytes;
    struct table_sums sums;
};

_Static_assert(TABLE_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "XXH3 refuses short secrets");
/* With malloc's 8 bytes, rounding to 16 (8 on average) and one bucket: 160 at most. */
_Static_assert(offsetof(struct entry, key) + 8 + 8 + sizeof(struct entry *) <= 160, "an object costs too much");

void place_init(struct place *place)
{
    list_init(&place->objects);
    place->count = 0;
    place->bytes = 0;
    place->blocks = 0;
    place->used_ticks = 0;
    place->held_disk_only = 0;
    place->held_bytes = 0;
}

struct entry *place_next(struct place *place)
{
    struct list *first = list_pop_front(&place->objects);
    if (!first)
        return NULL;
    list_push_back(&place->objects, first);
    return CONTAINER_OF(first, struct entry, in_place);
}

/* What malloc takes for `bytes`, as glibc does it. */
static uint64_t heap_size(size_t bytes)
{
    return max_u64(32, round_up(bytes + 8, 16));
}

static size_t entry_size(size_t key_len, bool mortal)
{
    return (mortal ? sizeof(struct expiry) : 0) + offsetof(struct entry, key) + key_len;
}

static void entry_free(struct entry *entry)
{
    struct expiry *expiry = entry_expiry(entry);
    if (expiry)
        list_remove(&expiry->link);
    free(expiry ? (void *)expiry : entry);
}

static struct bucket_page **directory_new(unsigned bits)
{
    return calloc((size_t)1 << (bits - PAGE_BITS), sizeof(struct bucket_page *));
}

static uint64_t directory_size(unsigned bits)
{
    return heap_size(((size_t)1 << (bits - PAGE_BITS)) * sizeof(struct bucket_page *));
}

int table_new(struct table **out, const uint8_t secret[TABLE_SECRET_BYTES])
{
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return -ENOMEM;
    table->bits = PAGE_BITS;
    table->pages = directory_new(table->bits);
    if (!table->pages)
        goto fail_table;
    table->pages[0] = calloc(1, sizeof *table->pages[0]);
    if (!table->pages[0])
        goto fail_pages;
    memcpy(table->secret, secret, TABLE_SECRET_BYTES);
    for (unsigned i = 0; i < USE_LISTS; i++)
        list_init(&table->uses[i]);
    table->sums.heap_bytes = heap_size(sizeof *table) + directory_size(table->bits) + heap_size(sizeof *table->pages[0]);
    *out = table;
    return 0;

fail_pages:
    free(table->pages);
fail_table:
    free(table);
    return -ENOMEM;
}

static void entry_check_unused(const struct entry *entry)
{
    CHECK(!entry->blob && !entry->place && !entry->work && list_empty(&entry->holds));
}

static void directory_free(struct bucket_page **pages, unsigned bits)
{
    for (size_t page = 0; pages && page < (size_t)1 << (bits - PAGE_BITS); page++) {
        for (size_t i = 0; pages[page] && i < PAGE_BUCKETS; i++) {
            for (struct entry *entry = pages[page]->buckets[i], *next; entry; entry = next) {
                next = entry->chain;
                entry_check_unused(entry);
                entry_free(entry);
            }
        }
        free(pages[page]);
    }
    free(pages);
}

void table_free(struct table *table)
{
    if (!table)
        return;
    directory_free(table->pages, table->bits);
    directory_free(table->next_pages, table->bits + 1);
    free(table);
}

uint64_t table_hash(const struct table *table, struct span key)
{
    return XXH3_64bits_withSecret(key.at, key.len, table->secret, TABLE_SECRET_BYTES);
}

static struct entry **bucket_at(struct bucket_page *const *pages, uint64_t index)
{
    return &pages[index >> PAGE_BITS]->buckets[index & (PAGE_BUCKETS - 1)];
}

static struct entry **bucket_of(const struct table *table, uint64_t hash)
{
    uint64_t index = hash >> (64 - table->bits);
    if (index >= table->split)
        return bucket_at(table->pages, index);
    return bucket_at(table->next_pages, hash >> (63 - table->bits));
}

/* The last hash that belongs to the bucket of `hash`. */
static uint64_t bucket_last_hash(const struct table *table, uint64_t hash)
{
    unsigned bits = hash >> (64 - table->bits) < table->split ? table->bits + 1 : table->bits;
    return hash | UINT64_MAX >> bits;
}

void table_prefetch(const struct table *table, uint64_t hash)
{
    __builtin_prefetch(bucket_of(table, hash));
}

struct entry *table_find(const struct table *table, struct span key, uint64_t hash)
{
    struct entry *entry = *bucket_of(table, hash);
    while (entry && entry->hash < hash)
        entry = entry->chain;
    for (; entry && entry->hash == hash; entry = entry->chain)
        if (span_equal(entry_key(entry), key))
            return entry;
    return NULL;
}

/* Make sure that the two buckets that the next one to be split becomes are there. */
static bool split_prepare(struct table *table)
{
    if (!table->next_pages) {
        if (table->bits == MAX_BITS)
            return false;
        table->next_pages = directory_new(table->bits + 1);
        if (!table->next_pages)
            return false;
        table->sums.heap_bytes += directory_size(table->bits + 1);
    }
    struct bucket_page **page = &table->next_pages[2 * table->split >> PAGE_BITS];
    if (!*page) {
        *page = calloc(1, sizeof **page);
        if (!*page)
            return false;
        table->sums.heap_bytes += heap_size(sizeof **page);
    }
    return true;
}

/* Give back what the buckets below `split` lay in; after the last one the round is over. */
static void split_clean_up(struct table *table)
{
    if (table->split % PAGE_BUCKETS != 0)
        return;
    struct bucket_page **page = &table->pages[(table->split >> PAGE_BITS) - 1];
    table->sums.heap_bytes -= heap_size(sizeof **page);
    free(*page);
    *page = NULL;
    if (table->split >> table->bits == 0)
        return;
    table->sums.heap_bytes -= directory_size(table->bits);
    free(table->pages);
    table->pages = table->next_pages;
    table->next_pages = NULL;
    table->bits++;
    table->split = 0;
}

/* False when the heap is out: the chains then grow longer, until it has room again. */
static bool split_one(struct table *table)
{
    if (!split_prepare(table))
        return false;
    struct entry **from = bucket_at(table->pages, table->split);
    struct entry **to = bucket_at(table->next_pages, 2 * table->split);
    uint64_t middle = (2 * table->split + 1) << (63 - table->bits);
    struct entry **cut = from;
    while (*cut && (*cut)->hash < middle)
        cut = &(*cut)->chain;
    to[1] = *cut;
    *cut = NULL;
    to[0] = *from;
    *from = NULL;
    table->split++;
    split_clean_up(table);
    return true;
}

/* Keep as many buckets as objects; two splits for an addition make up for what an empty heap delayed. */
static void table_grow(struct table *table)
{
    for (unsigned i = 0; i < SPLITS_PER_ADD; i++)
        if (((uint64_t)1 << table->bits) + table->split >= table->sums.objects || !split_one(table))
            return;
}

static struct entry *entry_new(struct span key, bool mortal)
{
    void *memory = calloc(1, entry_size(key.len, mortal));
    if (!memory || !mortal)
        return memory;
    struct expiry *expiry = memory;
    list_init(&expiry->link);
    struct entry *entry = expiry_entry(expiry);
    entry->mortal = 1;
    return entry;
}

static struct entry *add(struct table *table, struct span key, uint64_t hash, bool mortal)
{
    CHECK(key.len >= 1 && key.len <= KEY_MAX_BYTES);
    struct entry *entry = entry_new(key, mortal);
    if (!entry)
        return NULL;
    entry->hash = hash;
    entry->key_len = key.len & 0x7fff;
    memcpy(entry->key, key.at, key.len);
    list_init(&entry->by_use);
    list_init(&entry->in_place);
    list_init(&entry->holds);
    struct entry **at = bucket_of(table, hash);
    while (*at && (*at)->hash < hash)
        at = &(*at)->chain;
    entry->chain = *at;
    *at = entry;
    table->sums.objects++;
    table->sums.mortal += mortal;
    table->sums.heap_bytes += heap_size(entry_size(key.len, mortal));
    table_grow(table);
    return entry;
}

struct entry *table_add(struct table *table, struct span key, uint64_t hash)
{
    return add(table, key, hash, false);
}

struct entry *table_add_mortal(struct table *table, struct span key, uint64_t hash)
{
    return add(table, key, hash, true);
}

void table_drop(struct table *table, struct entry *entry)
{
    entry_check_unused(entry);
    entry->flags &= (uint16_t) ~(ENTRY_PINNED | ENTRY_WRITING);
    table_settle(table, entry);
    struct entry **at = bucket_of(table, entry->hash);
    while (*at && *at != entry)
        at = &(*at)->chain;
    CHECK(*at == entry);
    *at = entry->chain;
    table->sums.objects--;
    table->sums.mortal -= entry->mortal;
    table->sums.heap_bytes -= heap_size(entry_size(entry->key_len, entry->mortal));
    entry_free(entry);
}

/* Bring `figure` from what was counted to what is due. */
static void recount(uint64_t *figure, uint64_t amount, bool was, bool is)
{
    if (was && !is) {
        CHECK(*figure >= amount);
        *figure -= amount;
    } else if (!was && is) {
        *figure += amount;
    }
}

/* IDLE begins with the write of a dirty entry and ends with a use, a lease or pin, or the loss of what was written. */
static bool idle_due(const struct entry *entry, bool held)
{
    if (!entry->blob || held)
        return false;
    if (entry->flags & ENTRY_WRITING && !(entry->flags & ENTRY_COUNTED_WRITING) && !entry->place)
        return true;
    return entry->flags & ENTRY_IDLE && (entry->place || entry->flags & ENTRY_WRITING);
}

/* The flags as they must be: the store's as they are, the table's by what the entry is now. */
static uint16_t flags_due(const struct entry *entry)
{
    bool leased = !list_empty(&entry->holds);
    bool held = leased || entry->flags & ENTRY_PINNED;
    unsigned due = entry->flags & (STORE_FLAGS | ENTRY_REREAD);
    if (entry->blob)
        due |= ENTRY_LISTED;
    if (held && entry->blob && !entry->place)
        due |= ENTRY_HELD;
    if (held && entry->place && !entry->blob)
        due |= ENTRY_HELD_DISK;
    if (idle_due(entry, held))
        due |= ENTRY_IDLE;
    if (entry->flags & ENTRY_PINNED)
        due |= ENTRY_COUNTED_PINNED;
    if (entry->flags & ENTRY_WRITING)
        due |= ENTRY_COUNTED_WRITING;
    if (leased)
        due |= ENTRY_COUNTED_LEASED;
    if (entry->place)
        due |= ENTRY_COUNTED_PLACED;
    return (uint16_t)due;
}

static enum use_list use_list_of(unsigned flags)
{
    if (!(flags & ENTRY_LISTED))
        return USE_NONE;
    if (flags & ENTRY_COUNTED_WRITING)
        return USE_WRITING;
    if (flags & (ENTRY_COUNTED_PINNED | ENTRY_COUNTED_LEASED))
        return USE_HELD;
    if (!(flags & ENTRY_COUNTED_PLACED))
        return USE_DIRTY;
    return flags & ENTRY_IDLE ? USE_WRITTEN : USE_CLEAN;
}

static struct entry *by_use(struct list *item)
{
    return item ? CONTAINER_OF(item, struct entry, by_use) : NULL;
}

/* How much later `a` was used than `b`, in ticks. */
static int32_t used_later(const struct entry *a, const struct entry *b)
{
    return (int32_t)(a->used_tick - b->used_tick);
}

static bool nearer_to_the_coldest(const struct list *uses, const struct entry *entry)
{
    const struct entry *first = by_use(list_first(uses)), *last = by_use(list_last(uses));
    return first && used_later(entry, first) <= used_later(last, entry);
}

static void use_leave(struct table *table, struct entry *entry, enum use_list from)
{
    if (from == USE_NONE)
        return;
    list_remove(&entry->by_use);
    CHECK(table->use_bytes[from] >= entry->size);
    table->use_bytes[from] -= entry->size;
}

static void use_join(struct table *table, struct entry *entry, enum use_list from, enum use_list to)
{
    if (to == USE_NONE)
        return;
    bool again = to == USE_DIRTY && (from == USE_WRITING || from == USE_WRITTEN || from == USE_CLEAN);
    if (again && nearer_to_the_coldest(&table->uses[to], entry))
        list_push_front(&table->uses[to], &entry->by_use);
    else
        list_push_back(&table->uses[to], &entry->by_use);
    table->use_bytes[to] += entry->size;
}

void table_settle(struct table *table, struct entry *entry)
{
    unsigned was = entry->flags, due = flags_due(entry);
    entry->flags = (uint16_t)due;
    struct table_sums *sums = &table->sums;
    recount(&sums->in_memory, 1, was & ENTRY_LISTED, due & ENTRY_LISTED);
    recount(&sums->memory_bytes, entry->size, was & ENTRY_LISTED, due & ENTRY_LISTED);
    recount(&sums->pinned, 1, was & ENTRY_COUNTED_PINNED, due & ENTRY_COUNTED_PINNED);
    recount(&sums->leased, 1, was & ENTRY_COUNTED_LEASED, due & ENTRY_COUNTED_LEASED);
    recount(&sums->writing, 1, was & ENTRY_COUNTED_WRITING, due & ENTRY_COUNTED_WRITING);
    recount(&table->held_memory_only_bytes, entry->size, was & ENTRY_HELD, due & ENTRY_HELD);
    if (entry->place) {
        recount(&entry->place->held_disk_only, 1, was & ENTRY_HELD_DISK, due & ENTRY_HELD_DISK);
        recount(&entry->place->held_bytes, entry->size, was & ENTRY_HELD_DISK, due & ENTRY_HELD_DISK);
    }
    enum use_list from = use_list_of(was), to = use_list_of(due);
    if (from == to)
        return;
    use_leave(table, entry, from);
    use_join(table, entry, from, to);
}

static void place_leave(struct table *table, struct entry *entry)
{
    struct place *place = entry->place;
    recount(&place->held_disk_only, 1, entry->flags & ENTRY_HELD_DISK, false);
    recount(&place->held_bytes, entry->size, entry->flags & ENTRY_HELD_DISK, false);
    entry->flags &= (uint16_t)~ENTRY_HELD_DISK;
    list_remove(&entry->in_place);
    recount(&place->count, 1, true, false);
    recount(&place->bytes, entry->size, true, false);
    recount(&place->blocks, entry->blocks, true, false);
    recount(&place->used_ticks, entry->used_tick, true, false);
    recount(&table->sums.on_disk, 1, true, false);
    recount(&table->sums.disk_bytes, entry->size, true, false);
}

void table_set_place(struct table *table, struct entry *entry, struct place *place, uint32_t block, uint32_t blocks)
{
    if (entry->place)
        place_leave(table, entry);
    entry->place = place;
    entry->block = block;
    entry->blocks = blocks;
    if (place) {
        list_push_back(&place->objects, &entry->in_place);
        place->count++;
        place->bytes += entry->size;
        place->blocks += blocks;
        place->used_ticks += entry->used_tick;
        entry->flags &= (uint16_t)~ENTRY_REREAD;
        table->sums.on_disk++;
        table->sums.disk_bytes += entry->size;
    }
    table_settle(table, entry);
}

void table_use(struct table *table, struct entry *entry, uint64_t now_ms)
{
    uint32_t tick = table_tick(now_ms);
    if (entry->place)
        entry->place->used_ticks += (uint64_t)tick - entry->used_tick;
    entry->used_tick = tick;
    entry->flags |= ENTRY_REREAD;
    if (entry->hits < UINT16_MAX)
        entry->hits++;
    enum use_list use = use_list_of(entry->flags);
    entry->flags &= (uint16_t)~ENTRY_IDLE;
    use_leave(table, entry, use);
    use_join(table, entry, use, use_list_of(entry->flags));
}

struct entry *table_victim(const struct table *table, unsigned of)
{
    static const struct {
        unsigned of;
        enum use_list use;
    } lists[] = {{VICTIM_WRITTEN, USE_WRITTEN}, {VICTIM_CLEAN, USE_CLEAN}, {VICTIM_DIRTY, USE_DIRTY}};
    struct entry *victim = NULL;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct entry *first = of & lists[i].of ? by_use(list_first(&table->uses[lists[i].use])) : NULL;
        if (first && (!victim || used_later(first, victim) < 0))
            victim = first;
    }
    return victim;
}

struct entry *table_held_victim(const struct table *table)
{
    const struct list *head = &table->uses[USE_HELD];
    struct list *at = head->next;
    for (unsigned looks = 0; at != head && looks < DESPERATE_LOOKS; at = at->next, looks++)
        if (by_use(at)->place)
            return by_use(at);
    return NULL;
}

struct entry *table_hottest_dirty(const struct table *table)
{
    return by_use(list_last(&table->uses[USE_DIRTY]));
}

uint64_t table_ahead_bytes(const struct table *table)
{
    return table->use_bytes[USE_WRITING] + table->use_bytes[USE_WRITTEN];
}

uint64_t table_held_memory_only_bytes(const struct table *table)
{
    return table->held_memory_only_bytes;
}

uint64_t table_heap_bytes(const struct table *table)
{
    return table->sums.heap_bytes;
}

void table_sums(const struct table *table, struct table_sums *out)
{
    *out = table->sums;
}

/* Equal hashes go out together, or the cursor, which is a hash, could not tell which of them were seen. A call gets over at least one
 * entry or one bucket, so that the walk ends whatever its limits are. */
uint64_t table_scan(struct table *table, uint64_t cursor, struct span prefix, uint32_t limit, uint32_t steps, table_scan_fn fn, void *arg)
{
    CHECK(limit > 0 && steps > 0);
    uint32_t called = 0;
    for (uint32_t step = 0; step < steps && called < limit; step++) {
        uint64_t last = bucket_last_hash(table, cursor);
        struct entry *entry = *bucket_of(table, cursor);
        while (entry && entry->hash < cursor)
            entry = entry->chain;
        while (entry) {
            if (entry->hash != cursor && (step >= steps || called >= limit))
                return entry->hash;
            struct entry *next = entry->chain;
            cursor = entry->hash;
            step++;
            if (span_starts_with(entry_key(entry), prefix)) {
                called++;
                fn(arg, entry);
            }
            entry = next;
        }
        if (last == UINT64_MAX)
            return 0;
        cursor = last + 1;
    }
    return cursor;
}
