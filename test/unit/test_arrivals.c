/* Which connection of a node counts. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "cluster/arrivals.h"

static struct arrival arrival(const char *id, uint64_t start, uint64_t connection)
{
    struct arrival made = {.incarnation = {start, 7}, .connection = connection};
    snprintf(made.id, sizeof made.id, "%s", id);
    return made;
}

Test(arrivals, the_newest_connection_of_a_start_ends_those_before_it)
{
    static struct arrivals arrivals;
    struct arrival first = arrival("b", 1, 3), next = arrival("b", 1, 4);
    cr_assert_not(arrivals_hear(&arrivals, &first), "it has not come yet");
    cr_assert(arrivals_take(&arrivals, &first) && arrivals_hear(&arrivals, &first));
    cr_assert_not(arrivals_take(&arrivals, &first), "it is said twice");
    cr_assert(arrivals_take(&arrivals, &next) && arrivals_hear(&arrivals, &next));
    cr_assert_not(arrivals_hear(&arrivals, &first));
    cr_assert_not(arrivals_take(&arrivals, &first));
    cr_assert(arrivals_hear(&arrivals, &next));
}

Test(arrivals, starts_and_nodes_have_nothing_to_do_with_each_other)
{
    static struct arrivals arrivals;
    struct arrival one = arrival("b", 1, 9), later = arrival("b", 2, 1), other = arrival("bb", 1, 1), stranger = one;
    stranger.incarnation.random++;
    cr_assert(arrivals_take(&arrivals, &one) && arrivals_take(&arrivals, &later) && arrivals_take(&arrivals, &other));
    cr_assert(arrivals_hear(&arrivals, &one) && arrivals_hear(&arrivals, &later) && arrivals_hear(&arrivals, &other));
    cr_assert_not(arrivals_hear(&arrivals, &stranger));
}

Test(arrivals, who_was_not_heard_for_longest_is_forgotten_for_one_more)
{
    static struct arrivals arrivals;
    for (uint64_t i = 0; i < ARRIVALS_MAX; i++) {
        struct arrival one = arrival("b", i + 1, 1);
        cr_assert(arrivals_take(&arrivals, &one));
    }
    struct arrival first = arrival("b", 1, 1), second = arrival("b", 2, 1), one_more = arrival("c", 1, 1);
    cr_assert(arrivals_hear(&arrivals, &first));
    cr_assert(arrivals_take(&arrivals, &one_more));
    cr_assert(arrivals_hear(&arrivals, &first) && arrivals_hear(&arrivals, &one_more));
    cr_assert_not(arrivals_hear(&arrivals, &second), "its messages are refused: it is to connect anew");
    second.connection++;
    cr_assert(arrivals_take(&arrivals, &second) && arrivals_hear(&arrivals, &second));
}
