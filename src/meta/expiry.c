#include "meta/expiry.h"

#include "base/bytes.h"
#include "base/check.h"

enum { SLOT_BITS = 6 };
_Static_assert(1 << SLOT_BITS == EXPIRY_SLOTS, "slots are counted in bits");

static struct list *slot_of(struct expiry_wheel *wheel, unsigned level, uint64_t tick)
{
    return &wheel->slots[level][tick >> (SLOT_BITS * level) & (EXPIRY_SLOTS - 1)];
}

void expiry_wheel_init(struct expiry_wheel *wheel, uint64_t now_ms)
{
    wheel->tick = now_ms / EXPIRY_TICK_MS;
    list_init(&wheel->due);
    for (unsigned level = 0; level < EXPIRY_LEVELS; level++)
        for (unsigned slot = 0; slot < EXPIRY_SLOTS; slot++)
            list_init(&wheel->slots[level][slot]);
}

/* In the first tick that begins when it has ended; or, on a higher level, in the slot whose turn comes before that. */
void expiry_add(struct expiry_wheel *wheel, struct expiry *expiry)
{
    CHECK(expiry->at_ms > 0);
    const uint64_t reach = (uint64_t)1 << (SLOT_BITS * EXPIRY_LEVELS);
    uint64_t tick = max_u64(wheel->tick, expiry->at_ms / EXPIRY_TICK_MS + (expiry->at_ms % EXPIRY_TICK_MS != 0));
    tick = min_u64(tick, wheel->tick + reach - 1);
    unsigned level = 0;
    while ((tick - wheel->tick) >> (SLOT_BITS * (level + 1)) > 0)
        level++;
    list_push_back(slot_of(wheel, level, tick), &expiry->link);
}

bool expiry_advance(struct expiry_wheel *wheel, uint64_t now_ms, uint32_t most)
{
    for (; wheel->tick <= now_ms / EXPIRY_TICK_MS; wheel->tick++) {
        if (most-- == 0)
            return false;
        for (unsigned level = 0; level < EXPIRY_LEVELS; level++) {
            if (wheel->tick & (((uint64_t)1 << (SLOT_BITS * level)) - 1))
                break;
            list_move_all(&wheel->due, slot_of(wheel, level, wheel->tick));
        }
    }
    return true;
}

struct expiry *expiry_take(struct expiry_wheel *wheel)
{
    struct list *at = list_pop_front(&wheel->due);
    return at ? CONTAINER_OF(at, struct expiry, link) : NULL;
}
