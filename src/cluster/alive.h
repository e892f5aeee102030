/* alive.h - the bytes of <id>/alive: that a node is there, rewritten in place again and again. Pure functions; any thread. Bytes that are
 * parsed may be anything. docs/disk-format.md has it byte by byte.
 */
#ifndef KVD_CLUSTER_ALIVE_H
#define KVD_CLUSTER_ALIVE_H

#include "cluster/view.h"

enum { ALIVE_BYTES = BLOCK_BYTES };

struct alive {
    struct node_name name;
    uint64_t count;        /* of writes by this incarnation, from 1 */
    uint64_t acknowledged; /* the newest view that it has, or 0 */
    bool left;             /* it has stopped acting for good */
    bool former_dead;      /* no earlier start of this id acts, or will */
    uint8_t host[16];      /* whose locks are told apart: the machine, as it was last booted */
};

void alive_build(uint8_t out[ALIVE_BYTES], struct span cluster, const struct alive *alive);
enum { ALIVE_EMPTY = 1 };
/* 0; ALIVE_EMPTY: ALIVE_BYTES zeros; KVD_EFORMAT: a newer format, or another cluster's; KVD_ECORRUPT. */
int alive_parse(const uint8_t *at, size_t len, struct span cluster, struct alive *out);

#endif
