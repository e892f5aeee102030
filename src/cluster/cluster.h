/* cluster.h - this node's part in a cluster: drives the member, its files and its ways to others.
 *
 * Owns:    the member, its timer, file operations under way, connections to others.
 * Borrows: loops, log and names, which outlive it.
 * Not its: connections that others open to this node (the roof hands their beats in), keys.
 * Thread:  the home loop's, but cluster_info().
 */
#ifndef KVD_CLUSTER_CLUSTER_H
#define KVD_CLUSTER_CLUSTER_H

#include "cluster/arrivals.h"
#include "cluster/member.h"
#include "loop/loop.h"

struct cluster;

struct cluster_options {
    const char *dir, *cluster, *id, *address;
    struct span token;
    uint64_t lease_ms, suspect_ms, dead_after_ms, peer_timeout_ms;
};

/* This node cannot be, or be any longer: another process has its id. Not inside a call. */
typedef void (*cluster_over_fn)(void *arg);

/* Returns 0 or -ENOMEM. Nothing happens before cluster_begin(). */
int cluster_new(struct cluster **out, struct loop *home, struct loop *store_loop, const struct log *log,
                const struct cluster_options *options, cluster_over_fn over, void *arg);
/* The folder's lock is this process's. `ceiling`: no version above it was ever given there. Once. */
void cluster_begin(struct cluster *cluster, uint64_t ceiling);
/* Leave in order, let go of all; then `task` is posted to the home loop. Once. */
void cluster_end(struct cluster *cluster, struct task *task);
void cluster_free(struct cluster *cluster);

/* What is to be known to take a connection of another node, and to prove to it that this is one: the token, and names. */
struct span cluster_token(const struct cluster *cluster);
/* Another node has proved itself on a connection. False: it has a newer one. What comes on those before it is heard no more. */
bool cluster_arrive(struct cluster *cluster, const struct arrival *arrival);
/* A beat of another node, on that connection, from its id as it has proved. `view` of the answer lives until the next call. */
enum cluster_heard {
    HEARD,
    HEARD_BUSY, /* there is no answer now */
    HEARD_OLD,  /* the connection is not its newest: nothing is made of it */
};
enum cluster_heard cluster_hear(struct cluster *cluster, const struct arrival *arrival, const struct beat *beat, struct beat *answer);

/* An operator says that this node is gone for good, and will not write `alive` again as the start that it was. */
enum member_forgot cluster_forget(struct cluster *cluster, const char *id);

/* ---- figures, as of the last time that anything changed ---- */

struct cluster_peer_info {
    char id[NODE_ID_MAX + 1];
    char address[NODE_ADDRESS_MAX + 1];
    uint64_t start;
    bool member, near, acting, self;
    uint64_t acknowledged;
    uint64_t round_trip_us, answered, failures, late, slow, sent_bytes, received_bytes;
};
struct cluster_info {
    const char *state; /* static */
    uint64_t start, view, acknowledged, effective, floor, members;
    uint64_t lease_left_ms;
    uint64_t renewals_by_file, renewals_by_promise, views_published, left_out, file_failures;
    uint32_t count;
    struct cluster_peer_info peers[MEMBER_PEERS_MAX + 1];
};
/* Any thread. */
void cluster_info(struct cluster *cluster, struct cluster_info *out);

#endif
