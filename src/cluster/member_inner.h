/* member_inner.h - what the files of `member` share: member.c (what is heard and known), member_change.c (which view comes next),
 * member_next.c (what is to be done). Not for others.
 */
#ifndef KVD_CLUSTER_MEMBER_INNER_H
#define KVD_CLUSTER_MEMBER_INNER_H

#include "cluster/member.h"

/* How often files are looked at, and peers spoken to. */
static inline uint64_t file_pause_us(const struct member *m)
{
    return m->options.lease_us / 4;
}

static inline uint64_t beat_pause_us(const struct member *m)
{
    return m->options.suspect_us / 4;
}

static inline bool is_me(const struct member *m, const char *id)
{
    return strcmp(m->options.name.id, id) == 0;
}

static inline bool is_over(const struct member *m)
{
    return m->phase == MEMBER_LEFT || m->phase == MEMBER_REPLACED;
}

/* The file system said a moment ago that there is no newer view. */
static inline bool is_sure(const struct member *m)
{
    return m->absent_us > 0 && m->now_us < rule_lease_end(m->absent_us, m->now_us, m->options.lease_us);
}

struct peer_state *peer_find(struct member *m, const char *id);
const struct peer_state *peer_look(const struct member *m, const char *id);
/* If the latest start that was heard of is this very one; else NULL. */
const struct peer_state *peer_start(const struct member *m, const struct node_name *who);

/* Has this id spoken within the time that it is suspected after? */
bool peer_is_near(const struct member *m, const struct peer_state *peer);

/* A view is published and durable in the ring: take it as the newest, acknowledge it, or be left out by it. */
void member_know(struct member *m, const struct view *view);
/* All of `known` have acknowledged it, and whoever is not in it is fenced. */
void member_effective(struct member *m);
/* Tell all members soon. */
void beat_all(struct member *m);

/* Is this start of a node past acting, for certain? */
bool member_is_dead(const struct member *m, const struct node_name *who);
/* Look whether another view is wanted, and begin to publish it. */
void member_consider(struct member *m);
/* Should this node be asking to be taken in? */
bool member_wants_in(const struct member *m);

void beat_fill(struct member *m, struct peer_state *peer, struct beat *out);

#endif
