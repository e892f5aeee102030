#include <criterion/criterion.h>

#include <signal.h>
#include <stdlib.h>

#include "base/error.h"
#include "meta/lease.h"

enum { ENTRIES = 60 };

static uint64_t next_random(uint64_t *state)
{
    uint64_t n = *state += 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

struct scene {
    struct table *table;
    struct leases *leases;
    struct entry *entries[ENTRIES];
};

/* The table never looks into a blob: any address does. */
static struct blob *some_blob(void)
{
    static char place;
    return (struct blob *)(void *)&place;
}

static void scene_init(struct scene *scene, uint64_t max_holds)
{
    uint8_t secret[TABLE_SECRET_BYTES];
    uint64_t state = 5;
    for (size_t i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)next_random(&state);
    cr_assert_eq(table_new(&scene->table, secret), 0);
    cr_assert_eq(leases_new(&scene->leases, scene->table, max_holds, 99), 0);
    for (uint8_t i = 0; i < ENTRIES; i++) {
        struct span key = span_of(&i, 1);
        struct entry *entry = table_add(scene->table, key, table_hash(scene->table, key));
        entry->size = 1000;
        entry->blob = some_blob();
        table_settle(scene->table, entry);
        scene->entries[i] = entry;
    }
}

static uint64_t scene_leased(const struct scene *scene)
{
    struct table_sums sums;
    table_sums(scene->table, &sums);
    cr_assert_eq(table_held_memory_only_bytes(scene->table), sums.leased * 1000);
    return sums.leased;
}

static void scene_fini(struct scene *scene)
{
    leases_free(scene->leases);
    cr_assert_eq(scene_leased(scene), 0);
    for (size_t i = 0; i < ENTRIES; i++) {
        scene->entries[i]->blob = NULL;
        table_settle(scene->table, scene->entries[i]);
        table_drop(scene->table, scene->entries[i]);
    }
    table_free(scene->table);
}

static uint64_t open_lease(struct scene *scene, struct lease_owner *owner, uint64_t until_ms)
{
    uint64_t id = 0;
    cr_assert_eq(lease_open(scene->leases, owner, until_ms, &id), 0);
    cr_assert_neq(id, 0);
    return id;
}

Test(lease, a_held_entry_is_no_victim)
{
    struct scene scene;
    struct lease_owner owner;
    scene_init(&scene, 1000);
    lease_owner_init(&owner);
    uint64_t id = open_lease(&scene, &owner, 10);
    for (size_t i = 0; i + 1 < ENTRIES; i++)
        cr_assert_eq(lease_add(scene.leases, id, scene.entries[i]), 0);
    cr_assert_eq(scene_leased(&scene), ENTRIES - 1);
    cr_assert_eq(table_victim(scene.table, VICTIM_ANY), scene.entries[ENTRIES - 1]);
    cr_assert_eq(lease_add(scene.leases, id, scene.entries[ENTRIES - 1]), 0);
    cr_assert_null(table_victim(scene.table, VICTIM_ANY));
    cr_assert_eq(lease_add(scene.leases, id, scene.entries[0]), 0); /* twice is harmless */
    cr_assert_eq(leases_holds(scene.leases), ENTRIES);
    lease_release_entry(scene.leases, id, scene.entries[7]);
    lease_release_entry(scene.leases, id, scene.entries[7]);
    lease_release_entry(scene.leases, id + 1, scene.entries[8]);
    cr_assert_eq(table_victim(scene.table, VICTIM_ANY), scene.entries[7]);
    lease_release(scene.leases, id);
    lease_release(scene.leases, id);
    cr_assert_eq(scene_leased(&scene), 0);
    cr_assert_eq(leases_count(scene.leases), 0);
    cr_assert(list_empty(&owner.leases));
    scene_fini(&scene);
}

Test(lease, two_leases_hold_until_the_last_ends)
{
    struct scene scene;
    struct lease_owner first, second;
    scene_init(&scene, 1000);
    lease_owner_init(&first);
    lease_owner_init(&second);
    uint64_t a = open_lease(&scene, &first, 10), b = open_lease(&scene, &second, 20), c = open_lease(&scene, &first, 30);
    cr_assert(a != b && b != c && a != c);
    lease_add(scene.leases, a, scene.entries[0]);
    lease_add(scene.leases, b, scene.entries[0]);
    lease_add(scene.leases, c, scene.entries[1]);
    cr_assert_eq(scene_leased(&scene), 2);
    lease_owner_end(scene.leases, &first);
    cr_assert_eq(scene_leased(&scene), 1);
    cr_assert_eq(leases_count(scene.leases), 1);
    cr_assert_eq(lease_expire(scene.leases, 0, 10), 20);
    lease_release(scene.leases, a); /* gone with its owner: harmless */
    lease_release(scene.leases, b);
    cr_assert_eq(scene_leased(&scene), 0);
    lease_owner_end(scene.leases, &second);
    scene_fini(&scene);
}

Test(lease, an_entry_that_goes_leaves_every_lease)
{
    struct scene scene;
    struct lease_owner owner;
    scene_init(&scene, 1000);
    lease_owner_init(&owner);
    for (uint64_t i = 0; i < 10; i++) {
        uint64_t id = open_lease(&scene, &owner, i);
        lease_add(scene.leases, id, scene.entries[3]);
        lease_add(scene.leases, id, scene.entries[4]);
    }
    lease_forget(scene.leases, scene.entries[3]);
    cr_assert(!(scene.entries[3]->flags & ENTRY_LEASED));
    cr_assert_eq(leases_holds(scene.leases), 10);
    cr_assert_eq(leases_count(scene.leases), 10);
    cr_assert_eq(scene_leased(&scene), 1);
    lease_forget(scene.leases, scene.entries[3]);
    scene_fini(&scene);
}

Test(lease, the_bound_is_kept)
{
    struct scene scene;
    struct lease_owner owner;
    scene_init(&scene, 5);
    lease_owner_init(&owner);
    uint64_t id = open_lease(&scene, &owner, 10), other = 42;
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(lease_add(scene.leases, id, scene.entries[i]), 0);
    cr_assert_eq(lease_add(scene.leases, id, scene.entries[5]), KVD_EBUSY);
    cr_assert_eq(lease_add(scene.leases, id, scene.entries[0]), 0);
    cr_assert_eq(lease_open(scene.leases, &owner, 10, &other), KVD_EBUSY);
    cr_assert_eq(other, 42);
    lease_release(scene.leases, id);
    for (size_t i = 0; i < 5; i++)
        open_lease(&scene, &owner, 10);
    cr_assert_eq(lease_open(scene.leases, &owner, 10, &other), KVD_EBUSY); /* empty ones are bounded too */
    scene_fini(&scene);
    cr_assert(list_empty(&owner.leases));
}

Test(lease, a_long_lease_runs_out_in_steps)
{
    struct scene scene;
    struct lease_owner owner;
    scene_init(&scene, 1000);
    lease_owner_init(&owner);
    uint64_t id = open_lease(&scene, &owner, 100);
    for (size_t i = 0; i < ENTRIES; i++)
        lease_add(scene.leases, id, scene.entries[i]);
    open_lease(&scene, &owner, 300);
    cr_assert_eq(lease_expire(scene.leases, 99, 16), 100);
    cr_assert_eq(leases_holds(scene.leases), ENTRIES);
    uint32_t calls = 1;
    for (uint64_t before = ENTRIES; lease_expire(scene.leases, 100, 16) == 100; calls++) {
        cr_assert_leq(before - leases_holds(scene.leases), 16);
        before = leases_holds(scene.leases);
    }
    cr_assert_eq(calls, ENTRIES / 16 + 1);
    cr_assert_eq(leases_holds(scene.leases), 0);
    cr_assert_eq(lease_expire(scene.leases, 100, 16), 300);
    cr_assert_eq(lease_expire(scene.leases, 300, 16), UINT64_MAX);
    for (int i = 0; i < 40; i++)
        open_lease(&scene, &owner, 5);
    cr_assert_eq(lease_expire(scene.leases, 400, 16), 400); /* empty ones count as well */
    cr_assert_eq(leases_count(scene.leases), 24);
    scene_fini(&scene);
}

/* It may have ended in the midst of a batch. */
Test(lease, a_lease_that_has_ended_takes_no_more)
{
    struct scene scene;
    scene_init(&scene, 1000);
    cr_assert_eq(lease_add(scene.leases, 1, scene.entries[0]), KVD_EBUSY);
    cr_assert_eq(leases_holds(scene.leases), 0);
    scene_fini(&scene);
}

/* ---- against a model: a matrix of who holds what ---- */

enum { LEASES = 40, OWNERS = 5 };

struct model {
    struct scene scene;
    struct lease_owner owners[OWNERS];
    uint64_t now;
    uint64_t ids[LEASES]; /* 0: not open */
    uint64_t until[LEASES];
    size_t owner_of[LEASES];
    bool holds[LEASES][ENTRIES];
};

static void model_end(struct model *model, size_t lease)
{
    model->ids[lease] = 0;
    memset(model->holds[lease], 0, sizeof model->holds[lease]);
}

static void model_expire(struct model *model)
{
    uint64_t next = UINT64_MAX, is;
    model->now += 7;
    for (size_t lease = 0; lease < LEASES; lease++) {
        if (model->ids[lease] && model->until[lease] <= model->now)
            model_end(model, lease);
        if (model->ids[lease])
            next = min_u64(next, model->until[lease]);
    }
    do
        is = lease_expire(model->scene.leases, model->now, 13);
    while (is == model->now);
    cr_assert_eq(is, next);
}

static void model_check(const struct model *model)
{
    uint64_t open = 0, holds = 0, leased = 0;
    for (size_t lease = 0; lease < LEASES; lease++)
        open += model->ids[lease] != 0;
    for (size_t entry = 0; entry < ENTRIES; entry++) {
        bool held = false;
        for (size_t lease = 0; lease < LEASES; lease++) {
            holds += model->holds[lease][entry];
            held |= model->holds[lease][entry];
        }
        cr_assert_eq((model->scene.entries[entry]->flags & ENTRY_LEASED) != 0, held);
        leased += held;
    }
    cr_assert_eq(leases_count(model->scene.leases), open);
    cr_assert_eq(leases_holds(model->scene.leases), holds);
    cr_assert_eq(scene_leased(&model->scene), leased);
}

static void model_step(struct model *model, uint64_t *state)
{
    struct leases *leases = model->scene.leases;
    size_t lease = next_random(state) % LEASES, entry = next_random(state) % ENTRIES, owner = next_random(state) % OWNERS;
    uint64_t what = next_random(state) % 100;
    if (!model->ids[lease]) {
        model->until[lease] = model->now + 1 + next_random(state) % 500;
        model->owner_of[lease] = owner;
        model->ids[lease] = open_lease(&model->scene, &model->owners[owner], model->until[lease]);
    } else if (what < 70) {
        cr_assert_eq(lease_add(leases, model->ids[lease], model->scene.entries[entry]), 0);
        model->holds[lease][entry] = true;
    } else if (what < 85) {
        lease_release_entry(leases, model->ids[lease], model->scene.entries[entry]);
        model->holds[lease][entry] = false;
    } else if (what < 88) {
        lease_release(leases, model->ids[lease]);
        model_end(model, lease);
    } else if (what < 91) {
        lease_forget(leases, model->scene.entries[entry]);
        for (size_t i = 0; i < LEASES; i++)
            model->holds[i][entry] = false;
    } else if (what < 92) {
        lease_owner_end(leases, &model->owners[owner]);
        for (size_t i = 0; i < LEASES; i++)
            if (model->ids[i] && model->owner_of[i] == owner)
                model_end(model, i);
    } else {
        model_expire(model);
    }
}

Test(lease, holds_are_the_model_s)
{
    struct model *model = calloc(1, sizeof *model);
    cr_assert_not_null(model);
    uint64_t state = 41;
    scene_init(&model->scene, LEASES * ENTRIES);
    for (size_t i = 0; i < OWNERS; i++)
        lease_owner_init(&model->owners[i]);
    for (uint32_t step = 0; step < 30000; step++) {
        model_step(model, &state);
        if (step % 10 == 0)
            model_check(model);
    }
    model_check(model);
    scene_fini(&model->scene);
    free(model);
}
