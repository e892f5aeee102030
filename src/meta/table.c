#include "meta/table.h"

#include <errno.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/check.h"

enum {
    PAGE_BITS = 10,
    PAGE_BUCKETS = 1 << PAGE_BITS,
    MAX_BITS = 40,
    SPLITS_PER_ADD = 2,
    TWO_BUCKETS_USUAL = 11, /* objects in two buckets, on average, at which the next one is split */
    LINE_BYTES = 64,
    LINE_SLOTS = LINE_BYTES / sizeof(uint64_t),
    LAST_SLOT = LINE_SLOTS - 1,
    TAG_SHIFT = 48,
    DESPERATE_LOOKS = 64,
};
#define SLOT_LINK UINT64_C(1)
#define SLOT_TAG (UINT64_MAX << TAG_SHIFT)

enum use_list { USE_WRITING, USE_HELD, USE_DIRTY, USE_WRITTEN, USE_CLEAN, USE_LISTS, USE_NONE = USE_LISTS };
enum { STORE_FLAGS = ENTRY_PINNED | ENTRY_WRITING | ENTRY_TOUCHED | ENTRY_UNWRITABLE | ENTRY_SHED | ENTRY_STRAY | ENTRY_LEASED };

/* Eight slots, filled from the first on. A slot is the place of an entry (48 bits, as addresses are on all machines we know) and, above it,
 * the lowest 16 bits of its hash; 0 is an empty one. Where eight are not enough, the last is the address of another line, marked by
 * SLOT_LINK, which has two entries at least. */
struct line {
    uint64_t slots[LINE_SLOTS];
};

struct bucket_page {
    struct line buckets[PAGE_BUCKETS];
};

/* Linear hashing by the high bits of the hash: a hash in one of the first `split` of the 2^bits buckets is in bucket hash >> (63 - bits) of
 * `next_pages`, any other in bucket hash >> (64 - bits) of `pages`. So buckets are in the order of hashes; within a bucket there is none.
 * The buckets come in pages so that old ones can be given back one by one: neither a pause nor both sizes at once. */
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
_Static_assert(sizeof(struct line) == LINE_BYTES && LINE_SLOTS == 8, "a bucket is a line of the cache");
/* With malloc's 8 and, on average, 7.5 of rounding that makes 113.5; some 14 are an object's share of the buckets. */
_Static_assert(offsetof(struct entry, key) <= 98, "an object costs too much");

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

static struct bucket_page *page_new(void)
{
    struct bucket_page *page = aligned_alloc(LINE_BYTES, sizeof *page);
    return page ? memset(page, 0, sizeof *page) : NULL;
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
    table->pages[0] = page_new();
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
    CHECK(!entry->blob && !entry->place && !entry->work && !(entry->flags & ENTRY_LEASED));
}

static struct entry *slot_entry(uint64_t slot)
{
    return (struct entry *)(uintptr_t)(slot & ~SLOT_TAG);
}

static uint64_t slot_of(const struct entry *entry, uint64_t hash)
{
    CHECK(((uintptr_t)entry & (SLOT_TAG | SLOT_LINK)) == 0);
    return (uintptr_t)entry | hash << TAG_SHIFT;
}

/* The line after this one, or NULL. */
static struct line *line_next(const struct line *line)
{
    uint64_t last = line->slots[LAST_SLOT];
    return last & SLOT_LINK ? (struct line *)(uintptr_t)(last & ~SLOT_LINK) : NULL;
}

/* How many entries it has itself. */
static unsigned line_count(const struct line *line)
{
    unsigned count = 0;
    while (count < LINE_SLOTS && line->slots[count] && !(line->slots[count] & SLOT_LINK))
        count++;
    return count;
}

static void bucket_free(struct line *bucket)
{
    for (struct line *line = bucket, *next; line; line = next) {
        next = line_next(line);
        for (unsigned i = 0; i < line_count(line); i++) {
            entry_check_unused(slot_entry(line->slots[i]));
            entry_free(slot_entry(line->slots[i]));
        }
        if (line != bucket)
            free(line);
    }
}

static void directory_free(struct bucket_page **pages, unsigned bits)
{
    for (size_t page = 0; pages && page < (size_t)1 << (bits - PAGE_BITS); page++) {
        for (size_t i = 0; pages[page] && i < PAGE_BUCKETS; i++)
            bucket_free(&pages[page]->buckets[i]);
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

static struct line *bucket_at(struct bucket_page *const *pages, uint64_t index)
{
    return &pages[index >> PAGE_BITS]->buckets[index & (PAGE_BUCKETS - 1)];
}

static struct line *bucket_of(const struct table *table, uint64_t hash)
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

/* Its end and its key, as far as most keys reach. */
static void entry_prefetch(const struct entry *entry)
{
    __builtin_prefetch(&entry->place);
    __builtin_prefetch((const char *)&entry->place + LINE_BYTES);
}

static bool slot_may_be(uint64_t slot, uint64_t hash)
{
    return (slot & (SLOT_TAG | SLOT_LINK)) == hash << TAG_SHIFT && slot != 0;
}

void table_prefetch_entry(const struct table *table, uint64_t hash)
{
    const struct line *line = bucket_of(table, hash);
    for (unsigned i = 0; i < LINE_SLOTS; i++)
        if (slot_may_be(line->slots[i], hash))
            entry_prefetch(slot_entry(line->slots[i]));
    if (line_next(line))
        __builtin_prefetch(line_next(line));
}

struct entry *table_find(const struct table *table, struct span key, uint64_t hash)
{
    for (const struct line *line = bucket_of(table, hash); line; line = line_next(line)) {
        for (unsigned i = 0; i < LINE_SLOTS && line->slots[i]; i++) {
            if (!slot_may_be(line->slots[i], hash))
                continue;
            struct entry *entry = slot_entry(line->slots[i]);
            if (span_equal(entry_key(entry), key))
                return entry;
        }
    }
    return NULL;
}

/* Put a slot behind the others of the bucket. A line that this takes is the first of `spare` (linked by their last slots), else the heap's;
 * false when that is out. */
static bool bucket_add(struct table *table, struct line *line, uint64_t slot, struct line **spare)
{
    while (line_next(line))
        line = line_next(line);
    unsigned count = line_count(line);
    if (count < LINE_SLOTS) {
        line->slots[count] = slot;
        return true;
    }
    struct line *more = *spare;
    if (more) {
        *spare = line_next(more);
        memset(more, 0, sizeof *more);
    } else {
        more = calloc(1, sizeof *more);
        if (!more)
            return false;
        table->sums.heap_bytes += heap_size(sizeof *more);
    }
    more->slots[0] = line->slots[LAST_SLOT];
    more->slots[1] = slot;
    line->slots[LAST_SLOT] = (uintptr_t)more | SLOT_LINK;
    return true;
}

static void line_free(struct table *table, struct line *line)
{
    table->sums.heap_bytes -= heap_size(sizeof *line);
    free(line);
}

/* LINE_SLOTS: it is not in this line. */
static unsigned line_find(const struct line *line, uint64_t slot)
{
    unsigned i = 0;
    while (i < LINE_SLOTS && line->slots[i] != slot)
        i++;
    return i;
}

/* The last slot takes the place of the one that goes. */
static void bucket_take_out(struct table *table, struct line *bucket, uint64_t slot)
{
    struct line *in = bucket, *before = NULL, *last = bucket;
    unsigned i = line_find(in, slot);
    for (; i == LINE_SLOTS; i = line_find(in, slot)) {
        in = line_next(in);
        CHECK(in);
    }
    for (struct line *next; (next = line_next(last)) != NULL; last = next)
        before = last;
    unsigned count = line_count(last);
    in->slots[i] = last->slots[count - 1];
    last->slots[count - 1] = 0;
    if (before && count == 2) {
        before->slots[LAST_SLOT] = last->slots[0];
        line_free(table, last);
    }
}

static unsigned bucket_count(const struct line *line)
{
    unsigned count = line_count(line);
    while ((line = line_next(line)) != NULL)
        count += line_count(line);
    return count;
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
        *page = page_new();
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

static void line_split(struct table *table, const struct line *line, struct line *to, struct line **spare)
{
    for (unsigned i = 0; i < line_count(line); i++)
        entry_prefetch(slot_entry(line->slots[i]));
    for (unsigned i = 0; i < line_count(line); i++) {
        uint64_t hash = table_hash(table, entry_key(slot_entry(line->slots[i])));
        bool added = bucket_add(table, &to[hash >> (63 - table->bits) & 1], line->slots[i], spare);
        CHECK(added);
    }
}

/* Further lines are used again as soon as they have been read: they are enough, for two buckets take no more of them than one had. Returns
 * how many entries it had; -ENOMEM: the buckets then grow fuller, until the heap has room again. */
static int split_one(struct table *table)
{
    if (!split_prepare(table))
        return -ENOMEM;
    struct line *from = bucket_at(table->pages, table->split);
    struct line *to = bucket_at(table->next_pages, 2 * table->split);
    struct line *spare = NULL;
    int moved = (int)bucket_count(from);
    for (struct line *line = from, *next; line; line = next) {
        next = line_next(line);
        struct line copy = *line;
        memset(line, 0, sizeof *line);
        if (line != from) {
            line->slots[LAST_SLOT] = spare ? (uintptr_t)spare | SLOT_LINK : 0;
            spare = line;
        }
        line_split(table, &copy, to, &spare);
    }
    while (spare) {
        struct line *next = line_next(spare);
        line_free(table, spare);
        spare = next;
    }
    table->split++;
    split_clean_up(table);
    return moved;
}

/* Two splits for an addition make up for what an empty heap delayed. */
static void table_grow(struct table *table)
{
    uint64_t moved = 0;
    for (unsigned i = 0; i < SPLITS_PER_ADD; i++) {
        uint64_t buckets = ((uint64_t)1 << table->bits) + table->split;
        int more = buckets * TWO_BUCKETS_USUAL < table->sums.objects * 2 ? split_one(table) : -ENOMEM;
        if (more < 0)
            break;
        moved += (unsigned)more;
    }
    table->sums.most_moved = max_u64(table->sums.most_moved, moved);
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
    struct line *bucket = bucket_of(table, hash), *none = NULL;
    if (bucket_count(bucket) >= TABLE_BUCKET_MOST)
        return NULL;
    struct entry *entry = entry_new(key, mortal);
    if (!entry)
        return NULL;
    entry->key_len = key.len & (2 * KEY_MAX_BYTES - 1);
    memcpy(entry->key, key.at, key.len);
    list_init(&entry->by_use);
    list_init(&entry->in_place);
    if (!bucket_add(table, bucket, slot_of(entry, hash), &none)) {
        entry_free(entry);
        return NULL;
    }
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
    uint64_t hash = table_hash(table, entry_key(entry));
    bucket_take_out(table, bucket_of(table, hash), slot_of(entry, hash));
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
    bool leased = entry->flags & ENTRY_LEASED;
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

struct scanned {
    uint64_t hash;
    struct entry *entry;
};

/* What of a bucket is at `cursor` or behind it, in the order of hashes. Returns how many. */
static unsigned bucket_sort(const struct table *table, const struct line *bucket, uint64_t cursor, struct scanned out[TABLE_BUCKET_MOST])
{
    for (const struct line *line = bucket; line; line = line_next(line))
        for (unsigned i = 0; i < line_count(line); i++)
            entry_prefetch(slot_entry(line->slots[i]));
    unsigned count = 0;
    for (const struct line *line = bucket; line; line = line_next(line)) {
        for (unsigned i = 0; i < line_count(line); i++) {
            struct entry *entry = slot_entry(line->slots[i]);
            uint64_t hash = table_hash(table, entry_key(entry));
            if (hash < cursor)
                continue;
            unsigned at = count++;
            for (; at > 0 && out[at - 1].hash > hash; at--)
                out[at] = out[at - 1];
            out[at] = (struct scanned){hash, entry};
        }
    }
    return count;
}

/* Equal hashes go out together, or the cursor, which is a hash, could not tell which of them were seen. A call gets over at least one
 * entry or one bucket, so that the walk ends whatever its limits are. */
uint64_t table_scan(struct table *table, uint64_t cursor, struct span prefix, uint32_t limit, uint32_t steps, table_scan_fn fn, void *arg)
{
    CHECK(limit > 0 && steps > 0);
    struct scanned scanned[TABLE_BUCKET_MOST];
    uint32_t called = 0;
    for (uint32_t step = 0; step < steps && called < limit; step++) {
        uint64_t last = bucket_last_hash(table, cursor);
        unsigned count = bucket_sort(table, bucket_of(table, cursor), cursor, scanned);
        for (unsigned i = 0; i < count; i++) {
            if (scanned[i].hash != cursor && (step >= steps || called >= limit))
                return scanned[i].hash;
            cursor = scanned[i].hash;
            step++;
            if (span_starts_with(entry_key(scanned[i].entry), prefix)) {
                called++;
                fn(arg, scanned[i].entry);
            }
        }
        if (last == UINT64_MAX)
            return 0;
        cursor = last + 1;
    }
    return cursor;
}
