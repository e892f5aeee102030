/* view.h - a view: who is a member, and its bytes as they lie in the ring and under views/<n>; and which member a key belongs to.
 *
 * Pure functions; any thread. Bytes that are parsed may be anything. docs/cluster.md has what a view means, docs/disk-format.md its bytes.
 */
#ifndef KVD_CLUSTER_VIEW_H
#define KVD_CLUSTER_VIEW_H

#include "base/bytes.h"

enum {
    VIEW_BYTES = BLOCK_BYTES,
    VIEW_RING_SLOTS = 256,
    VIEW_MEMBERS_MAX = 48,
    NODE_ID_MAX = 64, /* of an id, and of a cluster's name */
    NODE_ADDRESS_MAX = 127,
};

/* Versions of a view: each begins at least this far above the one before, and gives fewer than this. */
#define VIEW_FLOOR_STEP ((uint64_t)1 << 40)
/* A floor above it is refused: room for 2^22 views, as is a number. */
#define VIEW_FLOOR_MAX ((uint64_t)1 << 62)
#define VIEW_NUMBER_MAX ((uint64_t)1 << 62)

/* One start of a node. Each number of an id is claimed once, by link(): so of two incarnations the later one is known. */
struct incarnation {
    uint64_t start;  /* from 1 */
    uint64_t random; /* so that an id whose folder was removed does not come back as what it was */
};

static inline bool incarnation_equal(struct incarnation a, struct incarnation b)
{
    return a.start == b.start && a.random == b.random;
}

/* Did `a` begin before `b`, or is it to be taken so? */
static inline bool incarnation_before(struct incarnation a, struct incarnation b)
{
    return a.start != b.start ? a.start < b.start : a.random < b.random;
}

/* Who, and where he is found. Texts end in 0. */
struct node_name {
    char id[NODE_ID_MAX + 1];
    char address[NODE_ADDRESS_MAX + 1]; /* HOST:PORT */
    struct incarnation incarnation;
};

struct view {
    uint64_t number;   /* from 1 */
    uint64_t previous; /* number - 1 */
    uint64_t floor;    /* the least version that may be given in it */
    char proposer[NODE_ID_MAX + 1];
    uint32_t count;                             /* 1 to VIEW_MEMBERS_MAX */
    struct node_name members[VIEW_MEMBERS_MAX]; /* ids rise */
};

/* A name that may stand in a view: text_is_name() of NODE_ID_MAX, not beginning with '.': it is a folder's, too. */
bool node_id_is_good(struct span id);
/* 1 to NODE_ADDRESS_MAX printable characters without a space. */
bool node_address_is_good(struct span address);

/* Write all of `out`. 0, or KVD_ETOOLARGE: the names of so many do not fit. `view` must be as above. */
int view_build(uint8_t out[VIEW_BYTES], struct span cluster, const struct view *view);
enum { VIEW_EMPTY = 1 };
/* 0; VIEW_EMPTY: VIEW_BYTES zeros, a slot never written; KVD_EFORMAT: a newer format, or another cluster's; KVD_ECORRUPT. */
int view_parse(const uint8_t *at, size_t len, struct span cluster, struct view *out);

/* The member with this id, or NULL. */
const struct node_name *view_member(const struct view *view, const char *id);
/* Is this very start of the id a member? */
bool view_has(const struct view *view, const char *id, struct incarnation incarnation);
/* Add or replace by id, keeping the order. False when it is full. */
bool view_put(struct view *view, const struct node_name *name);
void view_drop(struct view *view, const char *id);

/* ---- where a key is ---- */

/* A key's hash, and an id's; what a member weighs for a key. The highest weight owns it, the next ones are its replicas' order. */
uint64_t view_key_hash(struct span key);
uint64_t view_id_hash(const char *id);
static inline uint64_t view_weight(uint64_t key_hash, uint64_t id_hash)
{
    /* One multiplication of 64 by 64 bits, folded, and a finisher: all bits of both count. */
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)(key_hash ^ UINT64_C(0x9e3779b97f4a7c15)) * (id_hash | 1);
    uint64_t mix = (uint64_t)product ^ (uint64_t)(product >> 64) ^ id_hash;
    mix ^= mix >> 32;
    mix *= UINT64_C(0xd6e8feb86659fd93);
    return mix ^ mix >> 32;
}

/* What look-ups need of a view: the hashes of its ids. */
struct view_order {
    uint32_t count;
    uint64_t id_hashes[VIEW_MEMBERS_MAX];
};
void view_order_init(struct view_order *order, const struct view *view);
/* The index in the view's members of the key's owner. */
uint32_t view_owner(const struct view_order *order, uint64_t key_hash);
/* The first `want` members in the key's order, the owner first. Returns how many there are: `want`, or fewer. */
uint32_t view_nodes(const struct view_order *order, uint64_t key_hash, uint32_t want, uint32_t *out);

#endif
