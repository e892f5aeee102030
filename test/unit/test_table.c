#include <criterion/criterion.h>

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "meta/table.h"

static uint64_t next_random(uint64_t *state)
{
    uint64_t n = *state += 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

static struct table *table_make(void)
{
    uint8_t secret[TABLE_SECRET_BYTES];
    uint64_t state = 5;
    for (size_t i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)next_random(&state);
    struct table *table;
    cr_assert_eq(table_new(&table, secret), 0);
    return table;
}

/* The table never looks into a blob: any address does. */
static struct blob *some_blob(void)
{
    static char place;
    return (struct blob *)(void *)&place;
}

static struct span number_key(char out[32], uint64_t number)
{
    snprintf(out, 32, "key-%llu", (unsigned long long)number);
    return span_text(out);
}

static struct entry *find_number(const struct table *table, uint64_t number)
{
    char text[32];
    struct span key = number_key(text, number);
    return table_find(table, key, table_hash(table, key));
}

static struct entry *add_number(struct table *table, uint64_t number)
{
    char text[32];
    struct span key = number_key(text, number);
    return table_add(table, key, table_hash(table, key));
}

static uint64_t entry_number(const struct entry *entry)
{
    char text[32] = "";
    memcpy(text, entry->key, entry->key_len);
    return strtoull(text + 4, NULL, 10);
}

static void clear_and_drop(struct table *table, struct entry *entry)
{
    entry->blob = NULL;
    table_set_place(table, entry, NULL, 0, 0);
    table_drop(table, entry);
}

Test(table, an_entry_starts_with_nothing)
{
    struct table *table = table_make();
    cr_assert_null(find_number(table, 1));
    struct entry *entry = add_number(table, 1);
    cr_assert_not_null(entry);
    cr_assert_eq(find_number(table, 1), entry);
    cr_assert(span_equal(entry_key(entry), span_text("key-1")));
    cr_assert(!entry->blob && !entry->place && !entry->work && !entry->size && !entry->version && !entry->flags && !entry->hits);
    cr_assert(list_empty(&entry->in_place) && list_empty(&entry->by_use));
    table_drop(table, entry);
    cr_assert_null(find_number(table, 1));
    table_free(table);
}

Test(table, keys_of_every_length)
{
    struct table *table = table_make();
    uint8_t bytes[KEY_MAX_BYTES] = {0};
    struct table_sums empty, sums;
    table_sums(table, &empty);
    for (size_t len = 1; len <= KEY_MAX_BYTES; len++) {
        struct span key = span_of(bytes, len);
        cr_assert_null(table_find(table, key, table_hash(table, key)));
        cr_assert_not_null(table_add(table, key, table_hash(table, key)));
    }
    for (size_t len = 1; len <= KEY_MAX_BYTES; len++) {
        struct span key = span_of(bytes, len);
        struct entry *entry = table_find(table, key, table_hash(table, key));
        cr_assert(entry && entry->key_len == len);
        table_drop(table, entry);
    }
    table_sums(table, &sums);
    cr_assert_eq(sums.objects, 0);
    cr_assert_eq(sums.heap_bytes, empty.heap_bytes);
    table_free(table);
}

/* ---- keys whose hashes are chosen ---- */

/* Without a secret XXH3-64 of 32 bytes is a one to one function of 32 * P + low half * high half (of each 16 bytes, halves folded): so the
 * high half of the first 16 makes any hash, and that of the second, whose low half is 0, tells keys of equal hashes apart. */
static uint64_t inverse(uint64_t odd)
{
    uint64_t result = odd;
    for (int i = 0; i < 6; i++)
        result *= 2 - odd * result;
    return result;
}

static struct span chosen_key(uint64_t words[4], uint64_t hash, uint64_t number)
{
    const uint64_t prime = 0x9E3779B185EBCA87u;
    hash ^= hash >> 32;
    hash *= inverse(0x165667919E3779F9u);
    hash ^= hash >> 37;
    words[0] = 1;
    words[1] = hash - 32 * prime;
    words[2] = 0;
    words[3] = number;
    return span_of(words, 32);
}

static struct table *table_without_secret(void)
{
    static const uint8_t none[TABLE_SECRET_BYTES];
    struct table *table;
    cr_assert_eq(table_new(&table, none), 0);
    return table;
}

static struct entry *add_chosen(struct table *table, uint64_t hash, uint64_t number)
{
    uint64_t words[4];
    struct span key = chosen_key(words, hash, number);
    cr_assert_eq(table_hash(table, key), hash);
    return table_add(table, key, hash);
}

static struct entry *find_chosen(const struct table *table, uint64_t hash, uint64_t number)
{
    uint64_t words[4];
    return table_find(table, chosen_key(words, hash, number), hash);
}

Test(table, equal_hashes_are_told_apart)
{
    struct table *table = table_without_secret();
    struct entry *entries[30];
    for (uint64_t i = 0; i < 30; i++)
        cr_assert_not_null(entries[i] = add_chosen(table, 77, i));
    for (uint64_t i = 0; i < 30; i++)
        cr_assert_eq(find_chosen(table, 77, i), entries[i]);
    cr_assert_null(find_chosen(table, 77, 30));
    cr_assert_null(find_chosen(table, 76, 1));
    cr_assert_null(find_chosen(table, UINT64_C(77) << 40 | 77, 1), "the same bucket and the same 16 bits");
    for (uint64_t i = 0; i < 30; i += 3)
        table_drop(table, entries[i]);
    for (uint64_t i = 0; i < 30; i++)
        cr_assert_eq(find_chosen(table, 77, i), i % 3 ? entries[i] : NULL);
    table_free(table);
}

Test(table, a_bucket_has_a_bound)
{
    struct table *table = table_without_secret();
    struct table_sums before, after;
    table_sums(table, &before);
    for (uint64_t i = 0; i < TABLE_BUCKET_MOST; i++)
        cr_assert_not_null(add_chosen(table, 5, i));
    cr_assert_null(add_chosen(table, 5, TABLE_BUCKET_MOST));
    cr_assert_not_null(add_chosen(table, UINT64_C(1) << 63, 0));
    table_drop(table, find_chosen(table, 5, 7));
    cr_assert_not_null(add_chosen(table, 5, TABLE_BUCKET_MOST));
    for (uint64_t i = 0; i <= TABLE_BUCKET_MOST; i++)
        if (i != 7)
            table_drop(table, find_chosen(table, 5, i));
    table_drop(table, find_chosen(table, UINT64_C(1) << 63, 0));
    table_sums(table, &after);
    cr_assert_eq(after.heap_bytes, before.heap_bytes, "its lines have been given back");
    table_free(table);
}

/* Hashes come in clumps, so that buckets overflow, and are split while they do; what is there is known beside the table. */
Test(table, crowded_buckets_lose_nothing_as_they_grow_shrink_and_split)
{
    enum { CLUMPS = 64, EACH = 24, STEPS = 60000 };
    struct table *table = table_without_secret();
    static struct entry *there[CLUMPS * EACH];
    uint64_t state = 3, filler = 0;
    for (uint32_t step = 0; step < STEPS; step++) {
        uint64_t i = next_random(&state) % (CLUMPS * EACH);
        uint64_t hash = (i / EACH) << 58 | (i % EACH / 2) << 48 | i % 7; /* the same bucket until there are some thousand of them */
        cr_assert_eq(find_chosen(table, hash, i), there[i]);
        if (there[i])
            table_drop(table, there[i]);
        there[i] = there[i] ? NULL : add_chosen(table, hash, i);
        if (step % 2)
            cr_assert_not_null(add_number(table, filler++));
    }
    for (uint64_t i = 0; i < CLUMPS * EACH; i++)
        cr_assert_eq(find_chosen(table, (i / EACH) << 58 | (i % EACH / 2) << 48 | i % 7, i), there[i]);
    for (uint64_t i = 0; i < filler; i++)
        cr_assert_eq(entry_number(find_number(table, i)), i);
    table_free(table);
}

Test(table, grows_and_finds_everything_all_along)
{
    enum { KEYS = 200000 };
    struct table *table = table_make();
    uint64_t state = 11;
    struct table_sums sums;
    for (uint64_t i = 0; i < KEYS; i++) {
        cr_assert_not_null(add_number(table, i));
        uint64_t old = next_random(&state) % (i + 1);
        struct entry *entry = find_number(table, old);
        cr_assert(entry && entry_number(entry) == old);
        cr_assert_null(find_number(table, i + 1));
    }
    table_sums(table, &sums);
    cr_assert_eq(sums.objects, KEYS);
    for (uint64_t i = 0; i < KEYS; i += 2)
        table_drop(table, find_number(table, i));
    for (uint64_t i = 0; i < KEYS; i++)
        cr_assert_eq(find_number(table, i) != NULL, i % 2 == 1);
    table_free(table);
}

/* All that malloc has handed out; 0 under a sanitizer, whose malloc does not tell. */
static uint64_t heap_in_use(void)
{
    struct mallinfo2 heap = mallinfo2();
    return heap.uordblks + heap.hblkhd;
}

/* Beside the key, at a million objects and all the way there, on average over keys of all lengths (malloc's steps are of 16 bytes): buckets
 * are split a few at a time, so that no addition moves many places, and the table never has two of its sizes at once. */
Test(table, an_object_takes_128_bytes_beside_its_key_also_while_the_table_grows)
{
    enum { OBJECTS = 1000000, SHORTEST = 41, LENGTHS = 16, EVERY = 10000, MANY = 200000 };
    uint64_t empty = heap_in_use(), state = 8, key_bytes = 0;
    double most = 0, most_of_many = 0, last = 0;
    struct table *table = table_make();
    struct table_sums sums;
    for (uint64_t i = 1; i <= OBJECTS; i++) {
        uint64_t words[(SHORTEST + LENGTHS) / 8] = {i};
        for (size_t word = 1; word < sizeof words / sizeof words[0]; word++)
            words[word] = next_random(&state);
        struct span key = span_of(words, SHORTEST + i % LENGTHS);
        cr_assert_not_null(table_add(table, key, table_hash(table, key)));
        key_bytes += key.len;
        if (i % EVERY != 0)
            continue;
        table_sums(table, &sums);
        last = (double)(sums.heap_bytes - key_bytes) / (double)i;
        most = last > most ? last : most;
        most_of_many = i >= MANY && last > most_of_many ? last : most_of_many;
        uint64_t really = heap_in_use() - empty;
        if (really > 0)
            cr_assert(really < sums.heap_bytes / 100 * 102 && really > sums.heap_bytes / 100 * 98, "%llu, and counted %llu",
                      (unsigned long long)really, (unsigned long long)sums.heap_bytes);
    }
    printf("bytes an object beside its key: %.1f, from %d on at most %.1f, from %d on %.1f; places moved by one addition: at most %llu\n",
           last, MANY, most_of_many, EVERY, most, (unsigned long long)sums.most_moved);
    cr_assert_leq(most_of_many, 128);
    cr_assert_leq(most, 160);
    cr_assert_leq(sums.most_moved, (uint64_t)TABLE_MOST_MOVED);
    table_free(table);
}

/* ---- scanning ---- */

enum { SCANNED = 30000 };

struct scan {
    struct table *table;
    uint8_t seen[SCANNED];
    uint64_t last_hash;
    uint32_t calls;
    uint32_t drop_every;
    struct span prefix;
};

static void scan_note(void *arg, struct entry *entry)
{
    struct scan *scan = arg;
    uint64_t hash = table_hash(scan->table, entry_key(entry));
    cr_assert_geq(hash, scan->last_hash);
    cr_assert(span_starts_with(entry_key(entry), scan->prefix));
    scan->last_hash = hash;
    scan->calls++;
    uint64_t number = entry_number(entry);
    scan->seen[number] = 1;
    if (scan->drop_every && number % scan->drop_every == 0)
        table_drop(scan->table, entry);
}

/* Numbers that are 0 modulo 3 stay; others come and go between the calls. */
Test(table, a_scan_sees_all_that_stays_while_the_table_grows)
{
    struct table *table = table_make();
    struct scan *scan = calloc(1, sizeof *scan);
    uint64_t state = 21, cursor = 0;
    uint32_t rounds = 0;
    scan->table = table;
    for (uint64_t i = 0; i < SCANNED / 3; i++)
        add_number(table, i * 3);
    do {
        uint32_t before = scan->calls;
        uint32_t limit = (uint32_t)(next_random(&state) % 50 + 1), steps = (uint32_t)(next_random(&state) % 200 + 1);
        cursor = table_scan(table, cursor, span_of(NULL, 0), limit, steps, scan_note, scan);
        cr_assert_leq(scan->calls - before, min_u64(limit, steps));
        cr_assert(cursor == 0 || cursor > scan->last_hash || scan->calls == 0);
        for (int change = 0; change < 40; change++) {
            uint64_t number = next_random(&state) % (SCANNED / 3) * 3 + 1 + next_random(&state) % 2;
            struct entry *entry = find_number(table, number);
            if (!entry)
                add_number(table, number);
            else if (next_random(&state) % 4 == 0)
                table_drop(table, entry);
        }
        rounds++;
    } while (cursor != 0);
    cr_expect_gt(rounds, 100);
    for (uint64_t i = 0; i < SCANNED / 3; i++)
        cr_assert(scan->seen[i * 3], "%llu was not seen", (unsigned long long)i * 3);
    free(scan);
    table_free(table);
}

Test(table, a_scan_may_drop_what_it_is_given)
{
    struct table *table = table_make();
    struct scan *scan = calloc(1, sizeof *scan);
    scan->table = table;
    scan->drop_every = 2;
    for (uint64_t i = 0; i < SCANNED; i++)
        add_number(table, i);
    uint64_t cursor = 0;
    do
        cursor = table_scan(table, cursor, span_of(NULL, 0), 64, 64, scan_note, scan);
    while (cursor != 0);
    cr_assert_eq(scan->calls, SCANNED);
    for (uint64_t i = 0; i < SCANNED; i++) {
        cr_assert(scan->seen[i]);
        cr_assert_eq(find_number(table, i) != NULL, i % 2 == 1);
    }
    free(scan);
    table_free(table);
}

Test(table, a_scan_honours_prefix_limit_and_steps)
{
    struct table *table = table_make();
    struct scan *scan = calloc(1, sizeof *scan);
    scan->table = table;
    scan->prefix = span_text("key-12");
    for (uint64_t i = 0; i < SCANNED; i++)
        add_number(table, i);
    uint64_t cursor = 0;
    uint32_t expected = 0, calls = 0;
    do {
        uint32_t before = scan->calls;
        cursor = table_scan(table, cursor, scan->prefix, 7, 1000, scan_note, scan);
        cr_assert_leq(scan->calls - before, 7);
        cr_assert_leq(++calls, SCANNED);
    } while (cursor != 0);
    for (uint64_t i = 0; i < SCANNED; i++) {
        char text[32];
        bool matches = span_starts_with(number_key(text, i), scan->prefix);
        expected += matches;
        cr_assert_eq(scan->seen[i], matches);
    }
    cr_assert_eq(scan->calls, expected);
    free(scan);
    table_free(table);
}

/* What does not match is looked at as well, and no call looks at more than it may, but for the rest of a bucket. */
Test(table, a_scan_that_finds_nothing_is_bounded_too)
{
    enum { STEPS = 100 };
    struct table *table = table_make();
    struct scan *scan = calloc(1, sizeof *scan);
    scan->table = table;
    scan->prefix = span_text("nothing");
    for (uint64_t i = 0; i < SCANNED; i++)
        add_number(table, i);
    uint64_t cursor = 0;
    uint32_t calls = 0;
    do {
        cursor = table_scan(table, cursor, scan->prefix, 64, STEPS, scan_note, scan);
        calls++;
    } while (cursor != 0);
    cr_assert_eq(scan->calls, 0);
    cr_assert_geq(calls, SCANNED / STEPS, "%u", calls);
    free(scan);
    table_free(table);
}

/* With a step at a time the end is still reached, and nothing comes twice. */
Test(table, the_smallest_scans_get_on)
{
    struct table *table = table_make();
    struct scan *scan = calloc(1, sizeof *scan);
    scan->table = table;
    for (uint64_t i = 0; i < 5000; i++)
        add_number(table, i);
    uint64_t cursor = 0;
    uint32_t calls = 0;
    do {
        cursor = table_scan(table, cursor, span_of(NULL, 0), 1, 1, scan_note, scan);
        cr_assert_leq(++calls, 20000);
    } while (cursor != 0);
    cr_assert_eq(scan->calls, 5000);
    free(scan);
    table_free(table);
}

static void scan_count(void *arg, struct entry *entry)
{
    (void)entry;
    ++*(uint32_t *)arg;
}

Test(table, equal_hashes_and_the_ends_of_the_hashes_are_scanned)
{
    static const uint64_t hashes[] = {0, 0, 77, 77, 77, 78, UINT64_MAX - 1, UINT64_MAX, UINT64_MAX};
    struct table *table = table_without_secret();
    for (size_t i = 0; i < sizeof hashes / sizeof hashes[0]; i++)
        add_chosen(table, hashes[i], i);
    static const uint32_t expected[] = {2, 3, 1, 1, 2};
    uint64_t cursor = 0;
    for (size_t i = 0; i < 5; i++) {
        uint32_t count = 0;
        cursor = table_scan(table, cursor, span_of(NULL, 0), 1, 100000, scan_count, &count);
        cr_assert_eq(count, expected[i]);
    }
    cr_assert_eq(cursor, 0);
    table_free(table);
}

/* ---- use and sums, against a model that counts by looking at everything ---- */

enum { MODELLED = 200, PLACES = 4 };
enum model_list { ON_NONE, ON_WRITING, ON_HELD, ON_DIRTY, ON_WRITTEN, ON_CLEAN, MODEL_LISTS };

struct model {
    struct table *table;
    struct place places[PLACES];
    struct entry *entries[MODELLED];
    int64_t order[MODELLED]; /* in its list */
    bool writing[MODELLED], idle[MODELLED];
    enum model_list lists[MODELLED];
    uint32_t hits[MODELLED];
    int64_t clock;
};

static enum model_list model_list_of(const struct model *model, uint64_t i)
{
    const struct entry *entry = model->entries[i];
    if (!entry->blob)
        return ON_NONE;
    if (entry->flags & ENTRY_WRITING)
        return ON_WRITING;
    if (entry->flags & (ENTRY_PINNED | ENTRY_LEASED))
        return ON_HELD;
    if (!entry->place)
        return ON_DIRTY;
    return model->idle[i] ? ON_WRITTEN : ON_CLEAN;
}

/* Which entry is at this end of a list? MODELLED: it is empty. */
static uint64_t model_end(const struct model *model, enum model_list list, bool first)
{
    uint64_t best = MODELLED;
    for (uint64_t i = 0; i < MODELLED; i++)
        if (model->entries[i] && model->lists[i] == list)
            if (best == MODELLED || (model->order[i] < model->order[best]) == first)
                best = i;
    return best;
}

static struct entry *model_entry(const struct model *model, uint64_t i)
{
    return i < MODELLED ? model->entries[i] : NULL;
}

static bool model_goes_first(const struct model *model, uint64_t i)
{
    uint64_t first = model_end(model, ON_DIRTY, true), last = model_end(model, ON_DIRTY, false);
    if (first == MODELLED)
        return false;
    uint32_t used = model->entries[i]->used_tick;
    return (int64_t)used - model->entries[first]->used_tick <= (int64_t)model->entries[last]->used_tick - used;
}

static void model_after_settle(struct model *model, uint64_t i)
{
    struct entry *entry = model->entries[i];
    enum model_list was = model->lists[i];
    bool begins = entry->flags & ENTRY_WRITING && !model->writing[i] && !entry->place;
    model->writing[i] = entry->flags & ENTRY_WRITING;
    bool held = entry->flags & (ENTRY_PINNED | ENTRY_LEASED);
    model->idle[i] = (model->idle[i] || begins) && entry->blob && !held && (entry->place || entry->flags & ENTRY_WRITING);
    enum model_list list = model_list_of(model, i);
    if (list == was)
        return;
    model->lists[i] = ON_NONE;
    bool again = list == ON_DIRTY && was != ON_NONE && was != ON_HELD;
    int64_t at = ++model->clock;
    model->order[i] = again && model_goes_first(model, i) ? -at : at;
    model->lists[i] = list;
}

static void expect_victim(const struct model *model, unsigned of)
{
    static const enum model_list lists[] = {ON_WRITTEN, ON_CLEAN, ON_DIRTY};
    static const unsigned kinds[] = {VICTIM_WRITTEN, VICTIM_CLEAN, VICTIM_DIRTY};
    const struct entry *is = table_victim(model->table, of);
    bool any = false, among = false;
    for (unsigned n = 0; n < 3; n++) {
        const struct entry *first = of & kinds[n] ? model_entry(model, model_end(model, lists[n], true)) : NULL;
        any |= first != NULL;
        among |= first && first == is;
        cr_assert(!first || (is && is->used_tick <= first->used_tick), "a colder one is there");
    }
    cr_assert_eq(any, is != NULL);
    cr_assert_eq(among, is != NULL, "not at the end of a list");
}

static void model_check(const struct model *model)
{
    struct table_sums is, want = {0};
    uint64_t held = 0, count[PLACES] = {0}, bytes[PLACES] = {0}, held_disk[PLACES] = {0}, on_lists = 0, ahead = 0;
    for (uint64_t i = 0; i < MODELLED; i++) {
        const struct entry *entry = model->entries[i];
        if (!entry)
            continue;
        bool leased = entry->flags & ENTRY_LEASED, is_held = leased || entry->flags & ENTRY_PINNED;
        want.objects++;
        want.in_memory += entry->blob != NULL;
        want.memory_bytes += entry->blob ? entry->size : 0;
        want.on_disk += entry->place != NULL;
        want.disk_bytes += entry->place ? entry->size : 0;
        want.pinned += (entry->flags & ENTRY_PINNED) != 0;
        want.writing += (entry->flags & ENTRY_WRITING) != 0;
        want.leased += leased;
        ahead += model->lists[i] == ON_WRITING || model->lists[i] == ON_WRITTEN ? entry->size : 0;
        held += is_held && entry->blob && !entry->place ? entry->size : 0;
        for (size_t place = 0; place < PLACES; place++) {
            bool here = entry->place == &model->places[place];
            count[place] += here;
            bytes[place] += here ? entry->size : 0;
            held_disk[place] += here && is_held && !entry->blob;
        }
    }
    table_sums(model->table, &is);
    want.heap_bytes = is.heap_bytes;
    cr_assert(memcmp(&is, &want, sizeof is) == 0);
    cr_assert_eq(table_held_memory_only_bytes(model->table), held);
    for (size_t place = 0; place < PLACES; place++) {
        const struct place *at = &model->places[place];
        cr_assert(at->count == count[place] && at->bytes == bytes[place] && at->held_disk_only == held_disk[place]);
        for (const struct list *item = at->objects.next; item != &at->objects; item = item->next)
            on_lists++;
    }
    cr_assert_eq(on_lists, want.on_disk);
    cr_assert_eq(table_ahead_bytes(model->table), ahead);
    for (unsigned of = VICTIM_DIRTY; of <= VICTIM_ANY; of++)
        expect_victim(model, of);
    cr_assert_eq(table_hottest_dirty(model->table), model_entry(model, model_end(model, ON_DIRTY, false)));
}

static void model_change(struct model *model, uint64_t *state, uint64_t i)
{
    struct entry *entry = model->entries[i];
    uint64_t place = next_random(state) % (PLACES + 1);
    switch (next_random(state) % 8) {
    case 0:
        entry->blob = entry->blob ? NULL : some_blob();
        table_settle(model->table, entry);
        break;
    case 1:
        entry->flags ^= ENTRY_PINNED;
        table_settle(model->table, entry);
        break;
    case 2:
        entry->flags ^= ENTRY_WRITING;
        table_settle(model->table, entry);
        break;
    case 3:
        entry->flags ^= ENTRY_LEASED;
        table_settle(model->table, entry);
        break;
    case 4:
        table_set_place(model->table, entry, place < PLACES ? &model->places[place] : NULL, (uint32_t)place, 3);
        break;
    case 5:
        table_settle(model->table, entry); /* nothing changed */
        break;
    default:
        model->order[i] = ++model->clock;
        model->idle[i] = false;
        table_use(model->table, entry, (uint64_t)model->clock * 10);
        cr_assert_eq(entry->hits, ++model->hits[i]);
        cr_assert_eq(entry->used_tick, table_tick((uint64_t)model->clock * 10));
        model->lists[i] = model_list_of(model, i);
        break;
    }
    model_after_settle(model, i);
}

static void model_drop(struct model *model, uint64_t i)
{
    model->entries[i]->flags &= (uint16_t)~ENTRY_LEASED;
    clear_and_drop(model->table, model->entries[i]); /* pinned or not, writing or not */
    model->entries[i] = NULL;
    model->lists[i] = ON_NONE;
    model->hits[i] = 0;
    model->writing[i] = model->idle[i] = false;
}

static struct model *model_new(void)
{
    struct model *model = calloc(1, sizeof *model);
    cr_assert_not_null(model);
    model->table = table_make();
    for (size_t i = 0; i < PLACES; i++)
        place_init(&model->places[i]);
    return model;
}

static void model_free(struct model *model)
{
    for (uint64_t i = 0; i < MODELLED; i++)
        if (model->entries[i])
            model_drop(model, i);
    model_check(model);
    table_free(model->table);
    free(model);
}

Test(table, sums_and_victims_are_the_model_s)
{
    struct model *model = model_new();
    uint64_t state = 31;
    for (uint32_t step = 0; step < 30000; step++) {
        uint64_t i = next_random(&state) % MODELLED;
        if (!model->entries[i]) {
            model->entries[i] = add_number(model->table, i);
            entry_set_size(model->entries[i], next_random(&state) % 100000);
        } else if (next_random(&state) % 50 == 0) {
            model_drop(model, i);
        } else {
            model_change(model, &state, i);
        }
        if (step % 3 == 0)
            model_check(model);
    }
    model_free(model);
}

Test(table, a_desperate_victim_is_held_and_on_disk)
{
    struct model *model = model_new();
    struct table *table = model->table;
    for (uint64_t i = 0; i < 100; i++) {
        model->entries[i] = add_number(table, i);
        model->entries[i]->blob = some_blob();
        model->entries[i]->flags |= ENTRY_PINNED;
        table_settle(table, model->entries[i]);
    }
    cr_assert_null(table_victim(table, VICTIM_ANY));
    cr_assert_null(table_held_victim(table));
    table_set_place(table, model->entries[64], &model->places[0], 0, 1);
    cr_assert_null(table_held_victim(table)); /* 64 looks end one short of it */
    table_set_place(table, model->entries[63], &model->places[0], 0, 1);
    cr_assert_eq(table_held_victim(table), model->entries[63]);
    table_set_place(table, model->entries[20], &model->places[0], 0, 1);
    cr_assert_eq(table_held_victim(table), model->entries[20]);
    model->entries[20]->flags |= ENTRY_WRITING;
    table_settle(table, model->entries[20]);
    cr_assert_eq(table_held_victim(table), model->entries[63]);
    model->entries[99]->flags &= (uint16_t)~ENTRY_PINNED;
    table_settle(table, model->entries[99]);
    cr_assert_eq(table_victim(table, VICTIM_ANY), model->entries[99]);
    for (uint64_t i = 0; i < 100; i++)
        model->lists[i] = model_list_of(model, i);
    model_free(model);
}

/* A writer that walks from the coldest end meets each dirty entry once: what it wrote is out of its way, and the next to leave. */
Test(table, what_is_written_while_cold_leaves_in_the_order_of_use)
{
    enum { COUNT = 10 };
    struct table *table = table_make();
    struct place place;
    struct entry *entries[COUNT];
    place_init(&place);
    for (uint64_t i = 0; i < COUNT; i++) {
        entries[i] = add_number(table, i);
        entries[i]->size = 100;
        entries[i]->blob = some_blob();
        table_settle(table, entries[i]);
        table_use(table, entries[i], i * 100);
    }
    for (unsigned n = 0; n < 5; n++) {
        cr_assert_eq(table_victim(table, VICTIM_DIRTY), entries[n]);
        entries[n]->flags |= ENTRY_WRITING | ENTRY_TOUCHED | ENTRY_SHED | ENTRY_UNWRITABLE;
        table_settle(table, entries[n]);
    }
    cr_assert_eq(table_ahead_bytes(table), 500);
    table_use(table, entries[2], 5000); /* while it is written: it is no cold one any more */
    for (unsigned n = 0; n < 5; n++) {
        entries[n]->flags &= (uint16_t)~ENTRY_WRITING;
        if (n != 3) /* its write fails */
            table_set_place(table, entries[n], &place, n, 1);
        else
            table_settle(table, entries[n]);
    }
    cr_assert_eq(table_ahead_bytes(table), 300);
    cr_assert_eq(entries[3]->flags & (ENTRY_TOUCHED | ENTRY_SHED | ENTRY_UNWRITABLE), ENTRY_TOUCHED | ENTRY_SHED | ENTRY_UNWRITABLE);
    static const unsigned leave[] = {0, 1, 3, 4, 5, 6, 7, 8, 9, 2};
    for (unsigned n = 0; n < COUNT; n++) {
        struct entry *victim = table_victim(table, VICTIM_ANY);
        cr_assert_eq(victim, entries[leave[n]], "%u. to leave", n);
        clear_and_drop(table, victim);
    }
    cr_assert_eq(table_ahead_bytes(table), 0);
    table_free(table);
}

Test(table, dropping_what_has_a_replica_is_a_bug, .signal = SIGABRT)
{
    struct table *table = table_make();
    struct entry *entry = add_number(table, 1);
    entry->blob = some_blob();
    table_settle(table, entry);
    table_drop(table, entry);
}
