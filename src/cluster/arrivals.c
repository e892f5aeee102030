#include "cluster/arrivals.h"

#include <string.h>

static bool same_start(const struct arrival *a, const struct arrival *b)
{
    return strcmp(a->id, b->id) == 0 && incarnation_equal(a->incarnation, b->incarnation);
}

/* Where this start is, or the place that it may have. */
static size_t place_of(const struct arrivals *arrivals, const struct arrival *arrival)
{
    size_t oldest = 0;
    for (size_t i = 0; i < ARRIVALS_MAX; i++) {
        if (arrivals->at[i].newest.connection > 0 && same_start(&arrivals->at[i].newest, arrival))
            return i;
        if (arrivals->at[i].heard < arrivals->at[oldest].heard)
            oldest = i;
    }
    return oldest;
}

bool arrivals_take(struct arrivals *arrivals, const struct arrival *arrival)
{
    size_t at = place_of(arrivals, arrival);
    const struct arrival *before = &arrivals->at[at].newest;
    if (before->connection >= arrival->connection && same_start(before, arrival))
        return false;
    arrivals->at[at].newest = *arrival;
    arrivals->at[at].heard = ++arrivals->clock;
    return true;
}

bool arrivals_hear(struct arrivals *arrivals, const struct arrival *arrival)
{
    size_t at = place_of(arrivals, arrival);
    const struct arrival *newest = &arrivals->at[at].newest;
    if (newest->connection != arrival->connection || !same_start(newest, arrival))
        return false;
    arrivals->at[at].heard = ++arrivals->clock;
    return true;
}
