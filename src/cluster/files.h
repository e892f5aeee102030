/* files.h - what a node of a cluster reads and writes in the shared directory, one job for each.
 *
 * Owns:    nothing between jobs: each opens what it needs and closes it again.
 * Borrows: names and loops, which outlive it.
 * Not its: when, why, and what it means (cluster.c, member.h).
 * Thread:  the home loop's. Jobs run on threads of the store loop, which is not waited for.
 */
#ifndef KVD_CLUSTER_FILES_H
#define KVD_CLUSTER_FILES_H

#include "cluster/member.h"
#include "loop/loop.h"

struct cluster_files {
    struct loop *home;       /* where callbacks run: one without a lock */
    struct loop *store_loop; /* whose jobs */
    const char *dir, *cluster, *id;
};

enum files_what {
    FILES_BEGIN, /* make what is missing; read `alive` of this node */
    FILES_FIRST, /* claim a start at or after `number`, whichever is free: `number`, `former_dead` */
    FILES_ACT,   /* what the member asks for: `action` */
};

struct files_op;
typedef void (*files_fn)(struct files_op *op);
/* Heap memory from files_new(), until its fn has called files_free(). */
struct files_op {
    struct job job;
    struct task back;
    struct cluster_files files;
    files_fn fn;
    void *owner;
    enum files_what what;
    uint8_t host[16]; /* a mark of what this host's lock on the folder covers; zeros: not known yet */
    uint64_t started_us;
    /* asked */
    enum member_act act;
    uint64_t number;
    char id[NODE_ID_MAX + 1]; /* whose alive */
    struct view view;
    struct alive alive; /* to write, or to put into a claim; read */
    bool former_dead;
    /* came of it */
    int err; /* 0 or -errno, or of a parser */
    enum member_found found;
    enum member_linked linked;
    enum member_alive_result alive_result;
    enum member_claimed claimed;
    bool alive_there;
};

/* NULL: the heap is out. */
struct files_op *files_new(const struct cluster_files *files, enum files_what what, files_fn fn, void *owner);
void files_free(struct files_op *op);
/* `fn` runs once, on the home loop. */
void files_start(struct files_op *op);

#endif
