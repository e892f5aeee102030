#include "base/sum.h"

#define XXH_STATIC_LINKING_ONLY /* the state's size */
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#define XXH_DISPATCH_DISABLE_REPLACE
#include <xxh_x86dispatch.h> /* functions that look at the CPU */
/* The library's static archive may be without them, as Debian's is: then these are null. */
#pragma weak XXH3_64bits_dispatch
#pragma weak XXH3_64bits_update_dispatch
#define WIDEST(function) (function##_dispatch ? function##_dispatch : (function))
#else
#include <xxhash.h>
#define WIDEST(function) function
#endif

_Static_assert(sizeof(struct sum) == sizeof(XXH3_state_t) && _Alignof(struct sum) >= _Alignof(XXH3_state_t), "the library's state");

static XXH3_state_t *state_of(struct sum *sum)
{
    return (XXH3_state_t *)(void *)sum;
}

uint64_t sum_of(const void *bytes, size_t len)
{
    return WIDEST(XXH3_64bits)(bytes, len);
}

void sum_init(struct sum *sum)
{
    XXH3_INITSTATE(state_of(sum));
    (void)XXH3_64bits_reset(state_of(sum));
}

void sum_add(struct sum *sum, const void *bytes, size_t len)
{
    (void)WIDEST(XXH3_64bits_update)(state_of(sum), bytes, len);
}

uint64_t sum_value(const struct sum *sum)
{
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)sum);
}
