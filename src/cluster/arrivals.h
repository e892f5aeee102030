/* arrivals.h - which connection from each other node is its newest: what comes on an older one is not acted on.
 *
 * A start of a node numbers its connections, and they rise. One that it has given up may still have messages on their way, which would
 * be heard after those of the next.
 *
 * Owns:    nothing but its own memory.
 * Not its: connections, what is sent over them, which start of a node counts (member.h).
 * Thread:  one at a time.
 */
#ifndef KVD_CLUSTER_ARRIVALS_H
#define KVD_CLUSTER_ARRIVALS_H

#include "cluster/view.h"

enum { ARRIVALS_MAX = 2 * VIEW_MEMBERS_MAX }; /* starts of nodes that are remembered; beyond it the one not heard for longest goes */

/* A connection of a start of a node, as its JOIN has said. */
struct arrival {
    char id[NODE_ID_MAX + 1];
    struct incarnation incarnation;
    uint64_t connection; /* from 1 */
};

struct arrivals {
    struct {
        struct arrival newest; /* connection 0: none */
        uint64_t heard;
    } at[ARRIVALS_MAX];
    uint64_t clock; /* counts what is heard */
};

/* All zeroes is an empty one. False: it is not newer than one that came before. */
bool arrivals_take(struct arrivals *arrivals, const struct arrival *arrival);
/* May what comes on it be acted on? False, too, for one that was forgotten for others. */
bool arrivals_hear(struct arrivals *arrivals, const struct arrival *arrival);

#endif
