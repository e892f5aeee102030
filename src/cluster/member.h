/* member.h - who is a member: what one node knows of the views, how long it may act, and what it does about it (docs/cluster.md).
 *
 * Owns:    the newest view known, the lease, what it has heard of each other node.
 * Not its: files, sockets, clocks, keys' values. Whoever drives it passes the time in, does what member_next() says, and tells how it went.
 * Thread:  one at a time. No function waits, calls back, or uses the heap.
 *
 * Times are microseconds of one clock that never goes back and runs on while the machine sleeps (CLOCK_BOOTTIME). Names and views that are
 * passed in are copied. Whatever a peer or a file says may be anything that their parsers let through.
 */
#ifndef KVD_CLUSTER_MEMBER_H
#define KVD_CLUSTER_MEMBER_H

#include "cluster/alive.h"
#include "cluster/rules.h"

enum {
    MEMBER_PEERS_MAX = VIEW_MEMBERS_MAX + 16, /* nodes heard of at once, those that want in among them */
};

struct member_options {
    struct node_name name;
    uint8_t host[16]; /* for `alive` */
    bool former_dead; /* no earlier start of this id acts, or will: this host's lock on its folder says so */
    uint64_t ceiling; /* no version above it was ever given in this node's folder */
    uint64_t lease_us;
    uint64_t suspect_us;
    uint64_t dead_after_us;
};

enum member_phase {
    MEMBER_LOOKING,  /* the ring was not read yet */
    MEMBER_OUTSIDE,  /* in no view, or not in the newest */
    MEMBER_INSIDE,   /* in the newest view that it knows */
    MEMBER_LEFT,     /* for good: it was told to leave */
    MEMBER_REPLACED, /* for good: a later start of its id is about */
};

/* What one node says to another, again and again, as a request and as its answer. */
struct beat {
    struct node_name from;
    uint64_t known, acknowledged, effective; /* numbers of views, 0: none */
    uint64_t asked_us;                       /* by the clock of who sends: promise that there is no view after `known` */
    uint64_t promised_us, promised_view;     /* the last `asked_us` of who receives, if it is promised; else 0 */
    uint64_t ceiling;                        /* of who wants in */
    bool acting, wants_in, left, former_dead;
    const struct view *view; /* `known`, when who receives it had an older one; else NULL */
};

enum member_act {
    MEMBER_READ_RING,  /* all slots: the newest view there */
    MEMBER_READ_SLOT,  /* that of view `number` */
    MEMBER_LINK,       /* write `view` to a file, sync it, link() it as views/<number> */
    MEMBER_READ_VIEW,  /* views/<number>, by its name */
    MEMBER_WRITE_SLOT, /* `view`, in place, and sync */
    MEMBER_WRITE_ALIVE,
    MEMBER_READ_ALIVE, /* of `to` */
    MEMBER_SEND,       /* `beat` to `to`; its answer, or that it was refused, is to be told */
    MEMBER_CLAIM,      /* link() the name of start `number` of this node: nobody else can have it then */
};

/* Of each kind but MEMBER_SEND and MEMBER_READ_ALIVE one is under way at a time, until its end is told; of those two one for each node. */
struct member_action {
    enum member_act act;
    uint64_t number;
    const struct view *view;    /* lives until the next call */
    const struct node_name *to; /* likewise */
    struct alive alive;
    struct beat beat;
};

/* All that this node knows of another id. */
struct peer_state {
    struct node_name name; /* its latest start that was heard of */
    bool heard;
    uint64_t heard_us;   /* or since when somebody should have been */
    uint64_t refused_us; /* since when connections are refused, or 0 */
    uint64_t known, acknowledged, effective;
    uint64_t asked_us, asked_view;
    uint64_t promised_us, promised_view;
    uint64_t ceiling;
    uint64_t idle_us; /* since when it says that it does not act, while this node does; or 0 */
    bool acting, wants_in, left, former_dead, forgotten;
    uint64_t next_send_us;
    bool sending, send_again, reading_alive;
    uint64_t next_alive_us;
    /* The alive file: what was read last, and since when it says the same. */
    bool alive_seen;
    struct incarnation alive_incarnation;
    uint64_t alive_count, alive_since_us, alive_last_us;
    bool alive_left, alive_former_dead;
};

/* One kind of file operation. */
struct member_op {
    bool busy;
    uint64_t next_us;
};

enum member_try { TRY_NONE, TRY_LINK, TRY_READ, TRY_WRITE };

struct member {
    struct member_options options;
    enum member_phase phase;
    uint64_t now_us;

    struct view known; /* number 0: none */
    uint64_t known_us;
    uint64_t attempted; /* the highest number that this node has begun to publish */
    uint64_t acknowledged;
    uint64_t effective; /* the newest view that is, as far as it knows */
    bool in_effective;  /* this very start is in it */
    struct rivals rivals;
    bool waiting; /* somebody who is not in `known` may act until out_us + rule_wait_us() */
    uint64_t out_us;

    uint64_t lease_end_us;
    uint64_t absent_us; /* start of the last read that found no newer view */
    uint64_t alive_us;  /* start of the last `alive` that was written, or 0 */
    uint64_t alive_started_us, alive_count;
    uint64_t first_alive_us; /* when this process had written it for the first time */
    bool alive_once;         /* since this incarnation began */
    bool garbled;            /* the next slot is neither empty nor a view */

    struct member_op scan, slot, alive, file, claim;
    uint64_t slot_asked;
    enum member_try try;
    struct view try_view; /* its number is the view's that is being published */

    uint64_t reason_us; /* since when another view is wanted, or 0 */
    bool start_anew;    /* this start is over; the next one is being claimed */
    uint64_t next_start;
    uint32_t send_turn;
    uint32_t peer_count;
    struct peer_state peers[MEMBER_PEERS_MAX];

    uint64_t renewals_by_file, renewals_by_promise, views_published, left_out;
};

void member_init(struct member *member, const struct member_options *options, uint64_t now_us);

/* To be called at least every member_tick_us(), and after anything was told; then member_next() until it says false. */
uint64_t member_tick_us(const struct member *member);
void member_tick(struct member *member, uint64_t now_us);
/* What is to be done now: true and *out, or false. */
bool member_next(struct member *member, struct member_action *out);

/* ---- how it went ---- */

enum member_found {
    FOUND_VIEW,    /* and it is durable there, for a slot */
    FOUND_NOTHING, /* an empty slot, a ring of those, no such name */
    FOUND_GARBLED, /* something that is no view of this cluster */
    FOUND_ERROR,   /* it could not be read */
};
/* `started_us`: before the first byte was asked for. `view`: the newest of the ring (garbled slots are skipped); what lay in the slot,
 * whichever number; what the file says. NULL unless FOUND_VIEW. */
void member_ring_read(struct member *member, uint64_t now_us, enum member_found found, const struct view *view);
void member_slot_read(struct member *member, uint64_t now_us, uint64_t started_us, enum member_found found, const struct view *view);
void member_view_read(struct member *member, uint64_t now_us, enum member_found found, const struct view *view);

enum member_linked { LINKED, LINK_TAKEN, LINK_UNKNOWN };
void member_linked(struct member *member, uint64_t now_us, enum member_linked linked);
/* `durable`: written and synced. */
void member_slot_written(struct member *member, uint64_t now_us, bool durable);

enum member_alive_result { ALIVE_WRITTEN, ALIVE_FAILED, ALIVE_REPLACED /* a later start of the id has it */ };
void member_alive_written(struct member *member, uint64_t now_us, uint64_t started_us, enum member_alive_result result);
/* NULL: it could not be read, or makes no sense. */
void member_alive_read(struct member *member, uint64_t now_us, uint64_t started_us, const char *id, const struct alive *alive);

/* CLAIM_TAKEN: by another process. `random`: of the new incarnation; `ceiling`: of the folder now. */
enum member_claimed { CLAIMED, CLAIM_TAKEN, CLAIM_FAILED /* and is to be tried again */ };
void member_claimed(struct member *member, uint64_t now_us, enum member_claimed claimed, uint64_t random, uint64_t ceiling);

/* ---- what others say ---- */

/* A beat, or the answer to one. */
void member_hear(struct member *member, uint64_t now_us, const struct beat *beat);
/* What to answer a beat of `id`, when it was heard. False when this node has no room to remember it, or is no longer about. */
bool member_answer(struct member *member, uint64_t now_us, const char *id, struct beat *out);
/* A beat to `id` has its answer (which was heard), or none and will not. */
enum member_sent { SENT_ANSWERED, SENT_LOST, SENT_REFUSED /* nobody listens there */ };
void member_sent(struct member *member, uint64_t now_us, const char *id, enum member_sent sent);

/* ---- what is asked of it ---- */

/* Stop acting for good. Peers are told, and `alive` says so. */
void member_leave(struct member *member, uint64_t now_us);
/* Somebody who knows says that this id does not act and will not, in the start that was heard of last. */
enum member_forgot {
    FORGOT,
    FORGOT_NOBODY, /* nothing is known of such an id */
    FORGOT_LIVES,  /* no: it was heard, or its `alive` changed, or has not been looked at for a lease time yet */
};
enum member_forgot member_forget(struct member *member, uint64_t now_us, const char *id);

/* ---- what it is ---- */

/* Does it have a lease now? */
bool member_may_act(const struct member *member, uint64_t now_us);
/* Does it own this key now (C4)? */
bool member_serves(const struct member *member, uint64_t now_us, uint64_t key_hash);
/* How long the lease still runs, 0: fenced. */
uint64_t member_lease_left_us(const struct member *member, uint64_t now_us);

#endif
