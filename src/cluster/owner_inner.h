/* owner_inner.h - what the files of `owner` share: owner.c (what is asked), owner_gather.c (what it hears when it begins to own). Not for
 * others. */
#ifndef KVD_CLUSTER_OWNER_INNER_H
#define KVD_CLUSTER_OWNER_INNER_H

#include "base/list.h"
#include "cluster/owner.h"

enum {
    PENDING_BUCKETS = 1024,
    SOURCE_LOST_MAX = 128, /* keys of which a node has said that it has less, while a page of it was on its way */
};

enum pending_kind { PENDING_COMMIT, PENDING_FORGET, PENDING_RANGE };

/* A kill on its way into the log, and what follows. */
struct pending {
    struct list link;   /* owner->to_log, or none */
    struct list bucket; /* by key; of ranges, owner->ranges */
    uint64_t ticket;
    enum pending_kind kind;
    uint64_t dead_version;
    unsigned sender;
    struct incarnation incarnation; /* of the sender */
    struct object_facts facts;
    bool pinned;
    bool removed;
    bool void_now; /* nothing is shown when it is durable */
    uint8_t holders[HOLDERS_BYTES];
    struct span name; /* in the memory behind */
};

/* A start of a node, beside what the directory knows of it, under the same index. */
struct source {
    bool known;
    struct incarnation incarnation;
    char id[NODE_ID_MAX + 1];
    uint64_t connection;  /* the latest that was heard over */
    bool listened;        /* a member of the view acknowledged last */
    bool member, folder;  /* sources of this gathering */
    bool heard_as_member; /* all it held of what this node owned, once */
    bool heard_as_folder;
    enum gather_what at;
    bool done; /* with all that there is to ask */
    uint64_t cursor;
    uint64_t asked; /* the number of the page on its way, or 0 */
    bool asked_all;
    uint64_t next_ms;
    uint32_t lost_count; /* more than SOURCE_LOST_MAX: too many */
    uint64_t lost[SOURCE_LOST_MAX];
};

enum owner_phase {
    OWNER_WAITING,  /* for the view acknowledged last to be effective */
    OWNER_STEPPING, /* it is; what is not its own is being forgotten */
    OWNER_KILLS,
    OWNER_MEMBERS,
    OWNER_FOLDERS, /* complete; what folders hold, and who holds what, may be missing */
    OWNER_GATHERED,
};

struct owner {
    struct owner_options options;
    struct directory *directory;
    enum owner_phase phase;
    struct rivals base;
    struct rivals members; /* of the effective view, from OWNER_STEPPING on */
    uint64_t view, acknowledged, floor;
    bool settled;   /* there are no steps to be done */
    bool all_heard; /* what is not in the directory is nowhere */
    bool lossy;     /* but for what was left out, or a kill that the log did not take */
    uint64_t left_out;
    struct kill_map *kills; /* from OWNER_KILLS to OWNER_FOLDERS */
    uint64_t next_number;
    unsigned turn;
    struct source sources[DIRECTORY_NODES_MAX];

    uint64_t next_ticket;
    uint32_t pending_count;
    struct list to_log, ranges;
    struct list pending[PENDING_BUCKETS];
    struct pending *answered; /* its name was lent out */
};

/* Is the directory all there is to know of the key? Not whether the node may act. */
bool owner_complete(const struct owner *owner, uint64_t view_hash);
/* Does it own it in the effective view, having acknowledged no newer one? */
bool owner_in_scope(const struct owner *owner, uint64_t view_hash);
/* The listing, if it has not ended. */
struct listing *owner_find(struct owner *owner, const struct owner_now *now, struct span key, uint64_t hash);
/* Is a version of the key dead by what was gathered? */
bool owner_killed(const struct owner *owner, struct span key, uint64_t version);
/* Keep a kill while there is a gathering. */
void owner_keep_kill(struct owner *owner, enum kill_kind kind, struct span name, uint64_t version);
/* `node` has said that it has less of the key. */
void owner_note_loss(struct owner *owner, unsigned node, uint64_t hash);
/* Take off what other starts of the node's id are listed with. The listing may go: then true. */
bool owner_drop_former(struct owner *owner, struct listing *listing, unsigned node);
bool owner_next_gather(struct owner *owner, const struct owner_now *now, struct owner_action *out);

#endif
