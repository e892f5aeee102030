/* The wheel of ends, against the times that were asked for. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "meta/expiry.h"

enum { MANY = 4000 };

static uint64_t next_random(uint64_t *state)
{
    uint64_t n = *state += 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

/* Take all that is due; who has not ended goes back. How many have ended. */
static unsigned sweep(struct expiry_wheel *wheel, uint64_t now_ms)
{
    unsigned ended = 0;
    for (struct expiry *at; (at = expiry_take(wheel)) != NULL;) {
        if (at->at_ms > now_ms) {
            expiry_add(wheel, at);
            continue;
        }
        cr_assert_leq(now_ms - at->at_ms, 2 * EXPIRY_TICK_MS, "%llu ms late", (unsigned long long)(now_ms - at->at_ms));
        at->at_ms = 0;
        ended++;
    }
    return ended;
}

static void move(struct expiry_wheel *wheel, uint64_t now_ms)
{
    while (!expiry_advance(wheel, now_ms, 7))
        ;
}

Test(expiry, each_ends_within_a_tick_and_none_before_its_time)
{
    enum { STEP_MS = 200 };
    static struct expiry all[MANY];
    uint64_t state = 7, now = 123456789;
    struct expiry_wheel wheel;
    expiry_wheel_init(&wheel, now);
    uint64_t last = 0;
    for (unsigned i = 0; i < MANY; i++) {
        /* A few ms, minutes, an hour. */
        uint64_t span = next_random(&state) % (i % 3 == 0 ? 1000 : i % 3 == 1 ? 300000 : 3600000);
        list_init(&all[i].link);
        all[i].at_ms = now + span;
        last = all[i].at_ms > last ? all[i].at_ms : last;
        expiry_add(&wheel, &all[i]);
    }
    unsigned ended = 0;
    while (now < last + EXPIRY_TICK_MS) {
        now += STEP_MS;
        move(&wheel, now);
        ended += sweep(&wheel, now);
        for (unsigned i = 0; i < MANY && now % 100 == 89; i++) {
            cr_assert(all[i].at_ms == 0 || all[i].at_ms + 2 * EXPIRY_TICK_MS > now, "one is overdue");
        }
    }
    cr_assert_eq(ended, MANY);
}

Test(expiry, the_far_future_is_looked_at_again)
{
    const uint64_t year = (uint64_t)365 * 24 * 3600 * 1000;
    struct expiry_wheel wheel;
    struct expiry far = {.at_ms = year}, never = {.at_ms = UINT64_MAX};
    list_init(&far.link);
    list_init(&never.link);
    expiry_wheel_init(&wheel, 0);
    expiry_add(&wheel, &far);
    expiry_add(&wheel, &never);
    uint64_t now = 0;
    unsigned looks = 0;
    while (far.at_ms != 0) {
        now += EXPIRY_TICK_MS * 4096;
        cr_assert_lt(now, year + EXPIRY_TICK_MS * 8192);
        while (!expiry_advance(&wheel, now, UINT32_MAX))
            ;
        for (struct expiry *at; (at = expiry_take(&wheel)) != NULL; looks++) {
            if (at->at_ms <= now)
                at->at_ms = 0;
            else
                expiry_add(&wheel, at);
        }
    }
    cr_assert_geq(now, year);
    cr_assert_lt(looks, 100, "%u looks", looks);
    cr_assert_eq(never.at_ms, UINT64_MAX);
}

Test(expiry, one_that_is_taken_off_is_not_seen_again)
{
    struct expiry_wheel wheel;
    struct expiry one = {.at_ms = 5000}, other = {.at_ms = 5000};
    list_init(&one.link);
    list_init(&other.link);
    expiry_wheel_init(&wheel, 4000);
    expiry_add(&wheel, &one);
    expiry_add(&wheel, &other);
    list_remove(&one.link);
    move(&wheel, 6000);
    cr_assert_eq(expiry_take(&wheel), &other);
    cr_assert_null(expiry_take(&wheel));
}
