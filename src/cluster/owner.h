/* owner.h - what one node says of the keys that it owns: where they are, and which put comes first (docs/cluster.md, "Where a key is").
 *
 * Owns:    the directory; what it is complete for (the base); what is being gathered; commits and removes whose kill is not durable yet.
 * Borrows: the node's counter of versions.
 * Not its: files, sockets, clocks, bytes of objects, who is a member. Whoever drives it passes in the moment, tells it of views, carries
 *          out what owner_next() says, and tells how it went. It never calls back, and nothing in it waits.
 * Thread:  one at a time.
 *
 * Bounds: OWNER_PENDING_MAX kills under way (beyond: OWNER_BUSY), the directory's bytes (OWNER_FULL), kills kept while gathering (beyond,
 * what is older than the view counts as dead).
 */
#ifndef KVD_CLUSTER_OWNER_H
#define KVD_CLUSTER_OWNER_H

#include "cluster/directory.h"
#include "tier/kill_map.h"

enum {
    OWNER_PENDING_MAX = 4096,
    OWNER_BATCH_MAX = 4096, /* keys of one look-up */
    GATHER_PAUSE_MS = 100,  /* before a page is asked for again that did not come */
};

/* The node's versions: `last` was given or is to be passed by, `ceiling` may still be given. Whoever gives one raises `last`. */
struct version_counter {
    uint64_t last, ceiling;
};

struct owner_options {
    char id[NODE_ID_MAX + 1];
    uint64_t seed; /* random */
    uint64_t max_bytes;
    uint64_t kills_max;
    struct version_counter *versions;
};

/* The moment of a call. `acting`: member_may_act() said so, after all that the answer is about. */
struct owner_now {
    uint64_t now_ms;  /* of a clock that never goes back: leases, pauses */
    uint64_t wall_ms; /* ends of objects */
    bool acting;
};

struct owner;

/* 0 or -ENOMEM. It is complete for nothing. */
int owner_new(struct owner **out, const struct owner_options *options);
/* Harmless for NULL. */
void owner_free(struct owner *owner);

/* ---- views, in the order in which `member` has them ---- */

/* This start of the node is another one: it is complete for nothing. */
void owner_begin_anew(struct owner *owner);
/* A view with this node in it was acknowledged: what it takes is not answered from now on. */
void owner_acknowledge(struct owner *owner, const struct view *view);
/* The view acknowledged last is effective. `folders`: of ids that are in no view now, by the last start that wrote there. Returns 0, or
 * KVD_EBUSY: too many nodes are being forgotten; to be told again after some steps. */
struct folder_name {
    char id[NODE_ID_MAX + 1];
    struct incarnation incarnation;
};
int owner_effective(struct owner *owner, const struct view *view, const struct folder_name *folders, uint32_t folder_count);

/* ---- who speaks ---- */

/* May this start of a node be listened to, over this connection of it (they are numbered, and rise)? True: *sender is its index. False: it
 * is in no view that this one knows, or there is a later connection: what it says is not passed on. */
bool owner_hears(struct owner *owner, const char *id, struct incarnation incarnation, uint64_t connection, unsigned *sender);
/* The node with an index, as it is in replicas. */
const char *owner_node_id(const struct owner *owner, unsigned node);
struct incarnation owner_node_incarnation(const struct owner *owner, unsigned node);

/* ---- what is asked ---- */

enum owner_result {
    OWNER_OK,
    OWNER_PRESENT, /* commit: it is there with this version, nothing was changed */
    OWNER_ABSENT,
    OWNER_LOGGING,  /* the answer follows, by owner_logged() */
    OWNER_NOT_MINE, /* another's, or nobody's at the moment: ask who owns it in the newest view */
    OWNER_BUSY,     /* not now: it has not heard all that there is, or the same key is being logged. Nothing has happened, and may later */
    OWNER_FULL,     /* no room for another listing */
    OWNER_FAILED,   /* remove: gone from here, but the log did not take it */
};

struct owner_found {
    enum owner_result result;      /* OWNER_OK, OWNER_ABSENT, OWNER_NOT_MINE, OWNER_BUSY */
    const struct listing *listing; /* OWNER_OK: until the next call */
};
/* `leased_until_ms`: 0, or until when what is there is to be held. At most OWNER_BATCH_MAX keys. */
void owner_look_up(struct owner *owner, const struct owner_now *now, const struct span *keys, uint32_t count, uint64_t leased_until_ms,
                   struct owner_found *out);

struct owner_put {
    struct span key;
    struct object_facts facts; /* but for the version */
    bool replace, pinned;
};

enum { HOLDERS_BYTES = DIRECTORY_NODES_MAX / 8 + 1 };
struct owner_answer {
    enum owner_result result;
    uint64_t ticket;  /* OWNER_LOGGING */
    uint64_t version; /* of the object committed, or PRESENT */
    bool removed;     /* remove: there was something */
    /* Who is to be told that `key` has no version up to `dead_version` any more: a bit for each node. Nobody when `dead_version` is 0. */
    struct span key; /* until the next call */
    uint64_t dead_version;
    uint8_t holders[HOLDERS_BYTES];
};
/* `sender` has the bytes, sealed. OWNER_OK, PRESENT, LOGGING, NOT_MINE, BUSY, FULL. */
void owner_commit(struct owner *owner, const struct owner_now *now, unsigned sender, const struct owner_put *put, struct owner_answer *out);
/* Remove, there or not: a node that was fenced may come back with it. OWNER_LOGGING, NOT_MINE, BUSY. */
void owner_forget(struct owner *owner, const struct owner_now *now, struct span key, struct owner_answer *out);
/* First round of remove_prefix and remove_all: the highest version that may have been given. 0: this node is in another view. One that has
 * acknowledged the next would answer with a version of that, and members of this one would give versions that are not theirs to give. */
uint64_t owner_highest(const struct owner *owner, uint64_t view);
/* Second round of remove_prefix, and of remove_all by an empty one: `version` is the highest that any member of view `view` had given.
 * OWNER_LOGGING; NOT_MINE: this node is in another view; BUSY. Of LOGGING come OK, BUSY, FAILED. */
void owner_forget_range(struct owner *owner, const struct owner_now *now, uint64_t view, struct span prefix, uint64_t version,
                        struct owner_answer *out);
/* A kill is durable, or the log failed. False: no such ticket. Else *out is what is to be answered: OWNER_OK, FULL, FAILED, or BUSY: the
 * lease or the key is lost, or it was removed meanwhile, and nothing was shown. */
bool owner_logged(struct owner *owner, const struct owner_now *now, uint64_t ticket, bool durable, struct owner_answer *out);

/* What `sender` has of a key, altogether: a version, in memory or on disk (whose `node` is not looked at); or nothing, as version 0. */
struct holding {
    uint64_t version;
    struct replica replica;
};
enum report_result {
    REPORT_KEPT,
    REPORT_DEAD,  /* forget it, and bury what is on disk */
    REPORT_LATER, /* say it again */
};
enum report_result owner_report(struct owner *owner, const struct owner_now *now, unsigned sender, struct span key,
                                const struct holding *has);

/* May `sender` drop what it has of this version in memory, on disk, or both? True: it counts as dropped from now on. */
bool owner_drop(struct owner *owner, const struct owner_now *now, unsigned sender, struct span key, uint64_t version, bool memory,
                bool disk);

/* Hold it until then (or longer, if it was), and pin it or not. OWNER_OK, ABSENT, NOT_MINE, BUSY. */
enum owner_result owner_hold(struct owner *owner, const struct owner_now *now, struct span key, uint64_t leased_until_ms);
enum owner_result owner_pin(struct owner *owner, const struct owner_now *now, struct span key, bool pinned);

/* ---- what is to be done ---- */

/* Go on with forgetting, over so many buckets and listings. True: there is no more to do. */
bool owner_step(struct owner *owner, uint32_t steps);

enum gather_what {
    GATHER_KILLS,    /* of its log: keys, and all prefixes and "all" */
    GATHER_HOLDINGS, /* of its table and its folder */
    GATHER_HOLDS,    /* leases and pins that it, as a coordinator, has; folders have none */
};
/* One page that is asked for. `id` is who asks. */
struct gather_ask {
    uint64_t number; /* rises */
    uint64_t view;
    unsigned source; /* the node's index */
    bool folder;     /* of a node that is not there: by its adopter */
    enum gather_what what;
    uint64_t cursor; /* 0: the first page */
    bool all;        /* holdings: of all keys that it owns, not only those that it is not complete for */
    const char *id;
    const struct rivals *members; /* of the view */
    const struct rivals *base;
};
/* Is the key to be in the page? Prefixes and "all" always are. */
bool gather_wants(const struct gather_ask *ask, struct span key);

enum owner_act { OWNER_LOG, OWNER_GATHER };
struct owner_action {
    enum owner_act act;
    /* OWNER_LOG: durably, then owner_logged(). `name` lives until then. */
    uint64_t ticket;
    enum kill_kind kind;
    struct span name;
    uint64_t version;
    struct gather_ask ask; /* its end is to be told, by one of those below */
};
/* What is to be done now: true and *out, or false. */
bool owner_next(struct owner *owner, const struct owner_now *now, struct owner_action *out);

struct gathered_kill {
    enum kill_kind kind;
    struct span name;
    uint64_t version;
};
struct gathered_object {
    struct span key;
    struct object_facts facts;
    struct replica replica; /* `node` is not looked at */
    bool dead;              /* set: who holds it is to forget it, and bury what is on disk */
};
struct gathered_hold {
    struct span key;
    uint64_t leased_until_ms; /* by this node's clock; 0: none */
    bool pinned;
};
/* The page with this number came; `next` is the cursor of the one after it, 0: it was the last. False: it is not waited for any more. */
bool owner_gathered_kills(struct owner *owner, const struct owner_now *now, uint64_t number, const struct gathered_kill *kills,
                          uint32_t count, uint64_t next);
bool owner_gathered_objects(struct owner *owner, const struct owner_now *now, uint64_t number, struct gathered_object *objects,
                            uint32_t count, uint64_t next);
bool owner_gathered_holds(struct owner *owner, const struct owner_now *now, uint64_t number, const struct gathered_hold *holds,
                          uint32_t count, uint64_t next);
enum gather_failure {
    GATHER_NOT_YET,    /* or lost: it is asked for again */
    GATHER_UNREADABLE, /* a log that nobody can read: what is older than the view counts as removed */
};
void owner_gather_failed(struct owner *owner, const struct owner_now *now, uint64_t number, enum gather_failure failure);

/* ---- what it is ---- */

struct owner_figures {
    struct directory_sums directory;
    uint64_t pending;
    uint64_t kills;     /* kept while gathering */
    uint64_t gathering; /* 0: nothing is to be heard; 1: kills; 2: what members hold; 3: what folders hold, and holds */
    uint64_t left_out;  /* objects that were heard of and had no room */
};
void owner_figures(const struct owner *owner, struct owner_figures *out);

#endif
