#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "cluster/alive.h"
#include "cluster/rules.h"
#include "cluster/view.h"

#define CLUSTER span_text("test")

static struct node_name node(unsigned n, uint64_t start)
{
    struct node_name name = {.incarnation = {start, n * 77}};
    snprintf(name.id, sizeof name.id, "node%02u", n);
    snprintf(name.address, sizeof name.address, "host%u:%u", n, 7000 + n);
    return name;
}

static struct view view_of(unsigned count)
{
    struct view view = {.number = 9, .previous = 8, .floor = 5 * VIEW_FLOOR_STEP, .proposer = "node01"};
    for (unsigned n = count; n-- > 0;) {
        struct node_name name = node(n, n + 1);
        cr_assert(view_put(&view, &name));
    }
    return view;
}

static void seal(uint8_t *block)
{
    put_le64(block + VIEW_BYTES - 8, XXH3_64bits(block, VIEW_BYTES - 8));
}

Test(view, there_and_back)
{
    static const unsigned counts[] = {1, 2, 7, VIEW_MEMBERS_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct view view = view_of(counts[i]), back;
        uint8_t block[VIEW_BYTES], again[VIEW_BYTES];
        cr_assert_eq(view_build(block, CLUSTER, &view), 0);
        cr_assert_eq(view_parse(block, sizeof block, CLUSTER, &back), 0);
        cr_assert_eq(back.count, counts[i]);
        cr_assert_eq(back.floor, view.floor);
        cr_assert_str_eq(back.proposer, "node01");
        cr_assert_eq(view_build(again, CLUSTER, &back), 0);
        cr_assert_arr_eq(block, again, sizeof block);
    }
}

Test(view, what_is_no_view)
{
    struct view view = view_of(3), out = {.number = 77};
    uint8_t good[VIEW_BYTES], bad[VIEW_BYTES] = {0};
    cr_assert_eq(view_build(good, CLUSTER, &view), 0);
    cr_assert_eq(view_parse(bad, sizeof bad, CLUSTER, &out), VIEW_EMPTY);
    cr_assert_eq(view_parse(good, sizeof good - 1, CLUSTER, &out), KVD_ECORRUPT);
    cr_assert_eq(view_parse(good, sizeof good, span_text("other"), &out), KVD_EFORMAT);
    for (size_t at = 0; at < VIEW_BYTES; at += 5) {
        memcpy(bad, good, sizeof bad);
        bad[at] ^= 1;
        cr_assert_eq(view_parse(bad, sizeof bad, CLUSTER, &out), KVD_ECORRUPT, "byte %zu", at);
    }
    /* With a sum that is right: format, count, number, previous, floor, lengths of cluster and proposer, first member's start and lengths.
     */
    static const struct {
        size_t at;
        uint8_t value;
        int wanted;
    } edits[] = {{4, 2, KVD_EFORMAT},     {6, 0, KVD_ECORRUPT},    {6, 4, KVD_ECORRUPT},  {6, 49, KVD_ECORRUPT},   {8, 10, KVD_ECORRUPT},
                 {31, 255, KVD_ECORRUPT}, {32, 255, KVD_EFORMAT},  {33, 0, KVD_ECORRUPT}, {33, 65, KVD_ECORRUPT},  {50, 0, KVD_ECORRUPT},
                 {66, 0, KVD_ECORRUPT},   {66, 255, KVD_ECORRUPT}, {67, 0, KVD_ECORRUPT}, {67, 250, KVD_ECORRUPT}, {68, '/', KVD_ECORRUPT},
                 {73, 'z', KVD_ECORRUPT}, {4000, 1, KVD_ECORRUPT}};
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        memcpy(bad, good, sizeof bad);
        bad[edits[i].at] = edits[i].value;
        seal(bad);
        cr_assert_eq(view_parse(bad, sizeof bad, CLUSTER, &out), edits[i].wanted, "edit %zu", i);
    }
    cr_assert_eq(out.number, 77);
    const uint64_t top = VIEW_NUMBER_MAX;
    for (uint64_t more = 0; more < 2; more++) {
        memcpy(bad, good, sizeof bad);
        put_le64(bad + 8, top + more);
        put_le64(bad + 16, top + more - 1);
        seal(bad);
        cr_assert_eq(view_parse(bad, sizeof bad, CLUSTER, &out), more ? KVD_ECORRUPT : 0);
    }
}

Test(view, too_many_names_do_not_fit)
{
    struct view view = view_of(VIEW_MEMBERS_MAX);
    struct node_name more = node(60, 1);
    cr_assert_not(view_put(&view, &more));
    cr_assert(view_put(&view, &view.members[5]));
    for (unsigned i = 0; i < VIEW_MEMBERS_MAX; i++)
        memset(view.members[i].address, 'a', NODE_ADDRESS_MAX);
    uint8_t block[VIEW_BYTES];
    cr_assert_eq(view_build(block, CLUSTER, &view), KVD_ETOOLARGE);
    view_drop(&view, "node03");
    cr_assert_eq(view.count, VIEW_MEMBERS_MAX - 1);
    cr_assert_null(view_member(&view, "node03"));
    cr_assert(view_has(&view, "node04", (struct incarnation){5, 4 * 77}));
    cr_assert_not(view_has(&view, "node04", (struct incarnation){6, 4 * 77}));
}

Test(view, names)
{
    cr_assert(node_id_is_good(span_text("a.B_c-9")));
    static const char *const bad[] = {"", ".a", "a/b", "a b", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_not(node_id_is_good(span_text(bad[i])));
    cr_assert(node_address_is_good(span_text("[::1]:7000")));
    cr_assert_not(node_address_is_good(span_text("a b:1")));
    cr_assert_not(node_address_is_good(span_text("")));
}

/* ---- owners ---- */

Test(view, owners_are_spread_and_move_little)
{
    struct view seven = view_of(7), six = view_of(7);
    view_drop(&six, "node04");
    struct view_order before, after;
    view_order_init(&before, &seven);
    view_order_init(&after, &six);
    unsigned counts[7] = {0}, pairs[7][7] = {{0}};
    for (uint32_t k = 0; k < 70000; k++) {
        uint64_t hash = view_key_hash(span_of(&k, sizeof k));
        uint32_t order[7], owner = view_owner(&before, hash);
        cr_assert_eq(view_nodes(&before, hash, 7, order), 7);
        cr_assert_eq(order[0], owner);
        uint32_t two[2];
        cr_assert_eq(view_nodes(&before, hash, 2, two), 2);
        cr_assert_eq(two[1], order[1]);
        counts[owner]++;
        pairs[owner][order[1]]++;
        /* Who loses nothing keeps all; what was the lost one's goes to the next in its order. */
        const char *then = six.members[view_owner(&after, hash)].id;
        cr_assert_str_eq(then, seven.members[owner == 4 ? order[1] : owner].id);
    }
    for (unsigned a = 0; a < 7; a++) {
        cr_assert(counts[a] > 9500 && counts[a] < 10500, "member %u owns %u of 70000", a, counts[a]);
        for (unsigned b = 0; b < 7; b++)
            cr_assert(a == b || (pairs[a][b] > 1450 && pairs[a][b] < 1900), "%u then %u: %u", a, b, pairs[a][b]);
    }
}

Test(view, rivals_leave_only_what_is_owned_in_all)
{
    struct view one = view_of(3), two = view_of(6);
    view_drop(&two, "node01");
    struct view_order order_one, order_two;
    view_order_init(&order_one, &one);
    view_order_init(&order_two, &two);
    static struct rivals rivals;
    rivals_reset(&rivals, &one);
    rivals_add(&rivals, &two);
    cr_assert_eq(rivals.count, 6);
    for (uint64_t k = 0; k < 1000; k++) {
        uint64_t hash = view_key_hash(span_of(&k, sizeof k));
        bool wanted = strcmp(one.members[view_owner(&order_one, hash)].id, "node00") == 0 &&
                      strcmp(two.members[view_owner(&order_two, hash)].id, "node00") == 0;
        cr_assert_eq(rivals_owner(&rivals, "node00", hash), wanted);
    }
    for (unsigned n = 0; n < RIVALS_MAX + 1; n += 3) {
        struct view more = {0};
        for (unsigned i = 0; i < 3; i++) {
            struct node_name name = node(n + i, 1);
            cr_assert(view_put(&more, &name));
        }
        rivals_add(&rivals, &more);
    }
    cr_assert(rivals.too_many);
    cr_assert_not(rivals_owner(&rivals, "node00", 1));
}

/* 9/8 covers a lease by a clock that is 5 % slow, waited for by one that is 5 % fast. */
Test(rules, the_wait_outlasts_the_lease)
{
    for (uint64_t lease_us = 64; lease_us < 100000000; lease_us = lease_us * 3 + 1)
        cr_assert(rule_wait_us(lease_us) * 95 > lease_us * 105, "%lu", lease_us);
}

/* ---- alive ---- */

Test(alive, there_and_back)
{
    struct alive alive = {.name = node(3, 4), .count = 5, .acknowledged = 6, .left = true, .host = {1, 2, 3}}, out;
    uint8_t block[ALIVE_BYTES], bad[ALIVE_BYTES] = {0};
    alive_build(block, CLUSTER, &alive);
    cr_assert_eq(alive_parse(block, sizeof block, CLUSTER, &out), 0);
    cr_assert(out.left && !out.former_dead && out.count == 5 && out.acknowledged == 6 && out.host[2] == 3);
    cr_assert_str_eq(out.name.id, "node03");
    cr_assert_str_eq(out.name.address, "host3:7003");
    cr_assert_eq(alive_parse(block, sizeof block, span_text("other"), &out), KVD_EFORMAT);
    cr_assert_eq(alive_parse(bad, sizeof bad, CLUSTER, &out), ALIVE_EMPTY);
    cr_assert_eq(alive_parse(block, 100, CLUSTER, &out), KVD_ECORRUPT);
    for (size_t at = 0; at < ALIVE_BYTES; at += 3) {
        memcpy(bad, block, sizeof bad);
        bad[at] ^= 0x40;
        cr_assert_eq(alive_parse(bad, sizeof bad, CLUSTER, &out), KVD_ECORRUPT);
    }
    static const size_t zeroed[] = {8, 57, 58};
    for (size_t i = 0; i < 3; i++) {
        memcpy(bad, block, sizeof bad);
        bad[zeroed[i]] = 0;
        seal(bad);
        cr_assert_eq(alive_parse(bad, sizeof bad, CLUSTER, &out), KVD_ECORRUPT);
    }
}
