#include "meta/lease.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"

enum { MIN_BUCKET_BITS = 6, MAX_BUCKET_BITS = 20, MIN_HEAP = 16 };

/* An entry that somebody holds. */
struct held {
    struct held *chain; /* among those that hash alike */
    struct entry *entry;
    struct list holds;
};

struct hold {
    struct list in_held;
    struct list in_lease;
    struct hold *chain; /* among the holds whose lease and entry hash alike */
    struct held *held;
    struct lease *lease;
};

struct lease {
    struct lease *chain;
    struct list in_owner;
    struct list holds;
    uint64_t id;
    uint64_t until_ms;
    size_t heap_index;
};

/* All hash arrays are of one size, chosen once by `max_holds`: there is no growing, hence no pause. */
struct leases {
    struct table *table;
    uint64_t secret;
    uint64_t opened;
    uint64_t max_holds;
    uint64_t holds;
    unsigned bucket_bits;
    struct lease **by_id;
    struct hold **by_pair;
    struct held **by_entry;
    struct lease **heap; /* the next to run out first */
    size_t count;
    size_t heap_capacity;
};

void lease_owner_init(struct lease_owner *owner)
{
    list_init(&owner->leases);
}

/* The finalizer of splitmix64: one to one, so different numbers stay different. */
static uint64_t mix(uint64_t n)
{
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

/* The secret goes in twice, since the mixing can be undone: an id alone does not tell the next. */
static uint64_t next_id(struct leases *leases)
{
    uint64_t id = 0;
    while (id == 0)
        id = mix(mix(leases->opened++ ^ leases->secret) ^ mix(~leases->secret));
    return id;
}

static struct lease **lease_bucket(const struct leases *leases, uint64_t id)
{
    return &leases->by_id[mix(id) >> (64 - leases->bucket_bits)];
}

static struct hold **hold_bucket(const struct leases *leases, const struct lease *lease, const struct entry *entry)
{
    return &leases->by_pair[mix(lease->id ^ (uint64_t)(uintptr_t)entry) >> (64 - leases->bucket_bits)];
}

static struct held **held_bucket(const struct leases *leases, const struct entry *entry)
{
    return &leases->by_entry[mix((uintptr_t)entry) >> (64 - leases->bucket_bits)];
}

static struct held *held_find(const struct leases *leases, const struct entry *entry)
{
    struct held *held = *held_bucket(leases, entry);
    while (held && held->entry != entry)
        held = held->chain;
    return held;
}

static struct lease *lease_find(const struct leases *leases, uint64_t id)
{
    struct lease *lease = *lease_bucket(leases, id);
    while (lease && lease->id != id)
        lease = lease->chain;
    return lease;
}

static struct hold *hold_find(const struct leases *leases, const struct lease *lease, const struct entry *entry)
{
    struct hold *hold = *hold_bucket(leases, lease, entry);
    while (hold && (hold->lease != lease || hold->held->entry != entry))
        hold = hold->chain;
    return hold;
}

/* ---- the heap ---- */

static void heap_put(struct leases *leases, size_t index, struct lease *lease)
{
    leases->heap[index] = lease;
    lease->heap_index = index;
}

static void heap_rise(struct leases *leases, size_t index, struct lease *lease)
{
    while (index > 0 && leases->heap[(index - 1) / 2]->until_ms > lease->until_ms) {
        heap_put(leases, index, leases->heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    heap_put(leases, index, lease);
}

static void heap_sink(struct leases *leases, size_t index, struct lease *lease)
{
    for (;;) {
        size_t child = 2 * index + 1;
        if (child + 1 < leases->count && leases->heap[child + 1]->until_ms < leases->heap[child]->until_ms)
            child++;
        if (child >= leases->count || leases->heap[child]->until_ms >= lease->until_ms)
            break;
        heap_put(leases, index, leases->heap[child]);
        index = child;
    }
    heap_put(leases, index, lease);
}

static int heap_reserve(struct leases *leases)
{
    if (leases->count < leases->heap_capacity)
        return 0;
    size_t capacity = leases->heap_capacity ? 2 * leases->heap_capacity : MIN_HEAP;
    struct lease **heap = realloc(leases->heap, capacity * sizeof *heap); /* NOLINT(bugprone-sizeof-expression): pointers are meant */
    if (!heap)
        return -ENOMEM;
    leases->heap = heap;
    leases->heap_capacity = capacity;
    return 0;
}

static void heap_take_out(struct leases *leases, struct lease *lease)
{
    size_t index = lease->heap_index;
    CHECK(index < leases->count && leases->heap[index] == lease);
    struct lease *last = leases->heap[--leases->count];
    leases->heap[leases->count] = NULL;
    if (index == leases->count)
        return;
    if (last->until_ms < lease->until_ms)
        heap_rise(leases, index, last);
    else
        heap_sink(leases, index, last);
}

/* ---- holds and leases ---- */

/* NULL when the heap is out. */
static struct held *held_new(struct leases *leases, struct entry *entry)
{
    struct held *held = malloc(sizeof *held);
    if (!held)
        return NULL;
    struct held **bucket = held_bucket(leases, entry);
    *held = (struct held){.chain = *bucket, .entry = entry};
    list_init(&held->holds);
    *bucket = held;
    entry->flags |= ENTRY_LEASED;
    return held;
}

/* Nobody holds it any more. */
static void held_end(struct leases *leases, struct held *held)
{
    struct entry *entry = held->entry;
    struct held **at = held_bucket(leases, entry);
    while (*at && *at != held)
        at = &(*at)->chain;
    CHECK(*at == held && list_empty(&held->holds));
    *at = held->chain;
    free(held);
    entry->flags &= (uint16_t)~ENTRY_LEASED;
    table_settle(leases->table, entry);
}

static void hold_end(struct leases *leases, struct hold *hold)
{
    struct held *held = hold->held;
    struct hold **at = hold_bucket(leases, hold->lease, held->entry);
    while (*at && *at != hold)
        at = &(*at)->chain;
    CHECK(*at == hold && leases->holds > 0);
    *at = hold->chain;
    leases->holds--;
    list_remove(&hold->in_held);
    list_remove(&hold->in_lease);
    free(hold);
    if (list_empty(&held->holds))
        held_end(leases, held);
}

/* End at most `max` of the lease's holds; returns how many. */
static uint32_t lease_end_holds(struct leases *leases, struct lease *lease, uint32_t max)
{
    uint32_t ended = 0;
    for (struct list *at = lease->holds.next, *next; at != &lease->holds && ended < max; at = next, ended++) {
        next = at->next;
        hold_end(leases, CONTAINER_OF(at, struct hold, in_lease));
    }
    return ended;
}

/* It must hold nothing any more. */
static void lease_close(struct leases *leases, struct lease *lease)
{
    CHECK(list_empty(&lease->holds));
    struct lease **at = lease_bucket(leases, lease->id);
    while (*at && *at != lease)
        at = &(*at)->chain;
    CHECK(*at == lease);
    *at = lease->chain;
    heap_take_out(leases, lease);
    list_remove(&lease->in_owner);
    free(lease);
}

static void lease_end(struct leases *leases, struct lease *lease)
{
    lease_end_holds(leases, lease, UINT32_MAX);
    lease_close(leases, lease);
}

int leases_new(struct leases **out, struct table *table, uint64_t max_holds, uint64_t secret)
{
    struct leases *leases = calloc(1, sizeof *leases);
    if (!leases)
        return -ENOMEM;
    leases->table = table;
    leases->secret = secret;
    leases->max_holds = max_holds;
    leases->bucket_bits = MIN_BUCKET_BITS;
    while (leases->bucket_bits < MAX_BUCKET_BITS && (uint64_t)2 << leases->bucket_bits < max_holds)
        leases->bucket_bits++;
    size_t buckets = (size_t)1 << leases->bucket_bits;
    leases->by_id = calloc(buckets, sizeof(struct lease *));
    if (!leases->by_id)
        goto fail_leases;
    leases->by_pair = calloc(buckets, sizeof(struct hold *));
    if (!leases->by_pair)
        goto fail_by_id;
    leases->by_entry = calloc(buckets, sizeof(struct held *));
    if (!leases->by_entry)
        goto fail_by_pair;
    *out = leases;
    return 0;

fail_by_pair:
    free(leases->by_pair);
fail_by_id:
    free(leases->by_id);
fail_leases:
    free(leases);
    return -ENOMEM;
}

void leases_free(struct leases *leases)
{
    if (!leases)
        return;
    while (leases->count > 0)
        lease_end(leases, leases->heap[leases->count - 1]);
    CHECK(leases->holds == 0);
    free(leases->heap);
    free(leases->by_entry);
    free(leases->by_pair);
    free(leases->by_id);
    free(leases);
}

int lease_open(struct leases *leases, struct lease_owner *owner, uint64_t until_ms, uint64_t *id)
{
    if (leases->holds >= leases->max_holds || leases->count >= leases->max_holds)
        return KVD_EBUSY;
    int err = heap_reserve(leases);
    if (err)
        return err;
    struct lease *lease = malloc(sizeof *lease);
    if (!lease)
        return -ENOMEM;
    lease->id = next_id(leases);
    lease->until_ms = until_ms;
    list_init(&lease->holds);
    list_push_back(&owner->leases, &lease->in_owner);
    struct lease **bucket = lease_bucket(leases, lease->id);
    lease->chain = *bucket;
    *bucket = lease;
    heap_rise(leases, leases->count++, lease);
    *id = lease->id;
    return 0;
}

int lease_add(struct leases *leases, uint64_t id, struct entry *entry)
{
    struct lease *lease = lease_find(leases, id);
    if (!lease)
        return KVD_EBUSY;
    if (hold_find(leases, lease, entry))
        return 0;
    if (leases->holds >= leases->max_holds)
        return KVD_EBUSY;
    struct hold *hold = malloc(sizeof *hold);
    if (!hold)
        return -ENOMEM;
    struct held *held = entry->flags & ENTRY_LEASED ? held_find(leases, entry) : held_new(leases, entry);
    if (!held) {
        free(hold);
        return -ENOMEM;
    }
    hold->held = held;
    hold->lease = lease;
    struct hold **bucket = hold_bucket(leases, lease, entry);
    hold->chain = *bucket;
    *bucket = hold;
    list_push_back(&lease->holds, &hold->in_lease);
    list_push_back(&held->holds, &hold->in_held);
    leases->holds++;
    table_settle(leases->table, entry);
    return 0;
}

void lease_release(struct leases *leases, uint64_t id)
{
    struct lease *lease = lease_find(leases, id);
    if (lease)
        lease_end(leases, lease);
}

void lease_release_entry(struct leases *leases, uint64_t id, struct entry *entry)
{
    struct lease *lease = lease_find(leases, id);
    struct hold *hold = lease ? hold_find(leases, lease, entry) : NULL;
    if (hold)
        hold_end(leases, hold);
}

void lease_owner_end(struct leases *leases, struct lease_owner *owner)
{
    for (struct list *at = owner->leases.next, *next; at != &owner->leases; at = next) {
        next = at->next;
        lease_end(leases, CONTAINER_OF(at, struct lease, in_owner));
    }
}

void lease_forget(struct leases *leases, struct entry *entry)
{
    while (entry->flags & ENTRY_LEASED)
        hold_end(leases, CONTAINER_OF(list_first(&held_find(leases, entry)->holds), struct hold, in_held));
    table_settle(leases->table, entry);
}

/* Closing a lease counts like a hold, so that a crowd of empty ones is no long call either. */
uint64_t lease_expire(struct leases *leases, uint64_t now_ms, uint32_t max)
{
    CHECK(max > 0);
    uint32_t left = max;
    while (leases->count > 0 && leases->heap[0]->until_ms <= now_ms) {
        struct lease *lease = leases->heap[0];
        left -= lease_end_holds(leases, lease, left);
        if (left == 0)
            return now_ms;
        lease_close(leases, lease);
        left--;
    }
    return leases->count > 0 ? leases->heap[0]->until_ms : UINT64_MAX;
}

uint64_t leases_count(const struct leases *leases)
{
    return leases->count;
}

uint64_t leases_holds(const struct leases *leases)
{
    return leases->holds;
}
