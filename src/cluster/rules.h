/* rules.h - the few rules that the safety of views hangs on, each by itself (docs/cluster.md, C2 to C4). Pure functions; any thread.
 *
 * Times are microseconds of one node's own clock, which may run up to 5 % fast or slow.
 */
#ifndef KVD_CLUSTER_RULES_H
#define KVD_CLUSTER_RULES_H

#include "cluster/view.h"

/* How long to wait until everybody's lease of this length, by whatever clock, has run out. */
uint64_t rule_wait_us(uint64_t lease_us);

/* When a lease ends that was asked for at `asked_us` and granted at `granted_us`: he who grants it may have done so at once. */
uint64_t rule_lease_end(uint64_t asked_us, uint64_t granted_us, uint64_t lease_us);

/* May a node that knows view `known`, and has begun to publish view `attempted`, tell a member of view `asked` that there is none after it?
 */
bool rule_may_promise(uint64_t known, uint64_t attempted, uint64_t asked);

/* Who may own a key instead of this node: the members of the effective view, and of all newer ones that this node has acknowledged. */
enum { RIVALS_MAX = 2 * VIEW_MEMBERS_MAX };
struct rivals {
    uint32_t count;
    bool too_many; /* all keys may be another's */
    char ids[RIVALS_MAX][NODE_ID_MAX + 1];
    uint64_t hashes[RIVALS_MAX];
};
/* A view becomes effective: its members are the rivals, and no others. */
void rivals_reset(struct rivals *rivals, const struct view *view);
/* A view is acknowledged: what it takes is given up. */
void rivals_add(struct rivals *rivals, const struct view *view);
/* Does `id` own the key against all of them? */
bool rivals_owner(const struct rivals *rivals, const char *id, uint64_t key_hash);

#endif
