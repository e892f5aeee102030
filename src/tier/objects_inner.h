/* objects_inner.h - what the files of the tier of objects share: struct objects. For objects*.c only.
 *
 * objects.c has what waits for each folder, and the jobs that work through it; objects_write.c, objects_kill.c and objects_scan.c know what
 * is done for one that waits, on the job (..._work: memory of the op's own, and no other) and when it has ended; objects_read.c reads and
 * looks files up, beside the folders' jobs.
 */
#ifndef KVD_TIER_OBJECTS_INNER_H
#define KVD_TIER_OBJECTS_INNER_H

#include "base/error.h"
#include "tier/disk_inner.h"
#include "tier/object_name.h"

enum {
    BATCHES = 8, /* jobs under way that change folders */
    BATCH_OPS = 32,
    BATCH_BYTES = 8 << 20,
};

enum op_kind { OP_WRITE, OP_KILL, OP_SWEEP, OP_SCAN };

/* The names in a folder, as far as they are objects'. */
struct names {
    struct object_name *at;
    size_t count, room, next;
    size_t missing; /* of a sweep: so many at the front were listed, and could not be found */
    bool listed;
};

/* What a kill names: a copy, for who asked may have given it up while a job is at it. */
struct target {
    enum kill_kind kind;
    uint64_t version;
    bool whoever;
    struct span name;
};

/* A kill of a prefix or of all: a walk through each folder. */
struct sweep {
    struct list link;       /* objects->sweeps */
    struct disk_kill *kill; /* NULL: given up */
    struct target target;
    unsigned left;
    int err;
    uint8_t name[];
};

struct seen;

/* What waits for a folder, or is in a batch. */
struct op {
    struct list link;
    enum op_kind kind;
    unsigned fan;
    struct object_name name;  /* of a write and a kill of a key */
    struct disk_write *write; /* the job reads what the caller leaves unchanged */
    struct disk_kill *kill;   /* of a key, not for the job; NULL: given up */
    struct sweep *sweep;
    struct target target; /* of a kill; what a sweep's points to is the sweep's */
    struct names names;
    /* what the job says */
    int err;
    bool changed; /* something in the folder: it is told when that is synced */
    bool shown;   /* of a write: the file got its name */
    bool collided, retried;
    int unread_err;              /* of a scan: why a file's header could not be read that may be another time */
    int spared_err;              /* of a sweep: why a file that it may have to reach was left, */
    char spared[OBJECT_HEX + 1]; /* the first of those */
    uint32_t id;
    uint64_t unlinked, damaged, foreign;
    struct seen *seen; /* of a scan: what it has found */
    unsigned seen_count;
    uint8_t key[]; /* that a kill names */
};

struct fan {
    struct list link; /* objects->ready, while something waits and no batch runs */
    struct list ops;
    bool busy;
    bool dirty; /* something was unlinked or renamed, perhaps by a process before this one, and is not known to be synced */
};

/* A job that works through some of what waits for a folder. */
struct batch {
    struct job job;
    struct list link;        /* objects->free_batches */
    struct objects *objects; /* for `done` */
    struct fan *fan;
    struct loop *loop;
    const char *folder; /* objects_folder() */
    char hex[3];        /* the folder below it */
    struct disk_place place;
    uint64_t node;
    struct list ops;
    uint64_t bytes;
    bool dirty; /* of the fan */
    int sync_err;
    bool synced;
};

struct objects {
    struct disk *disk;
    char *folder;
    struct segment *own, *others;
    struct fan fans[OBJECT_FANS];
    struct list ready;
    struct list sweeps;
    struct list kills; /* struct disk_kill, as they were asked for */
    struct batch batches[BATCHES];
    struct list free_batches;
    unsigned batches_running;
    uint64_t moved_ms; /* when one ended last */
    uint64_t ops;      /* queued or in a batch */
    uint64_t writes;
    uint64_t writing_bytes; /* of them */
    uint64_t live_bytes;    /* of this node's files that the owner knows */
    uint64_t dying_bytes;   /* of those that kills are under way for */
    /* the start */
    bool unscanned[OBJECT_FANS];
    unsigned scan_next, scanning, scan_rounds;
    struct timer scan_timer; /* the next round */
    char *file_text;         /* disk_file_of() */
};

/* ---- objects.c ---- */

/* The mount may go and leave a bare folder: there a new file would fill the wrong disk, and no file would mean nothing. */
void objects_place_of(const struct objects *objects, struct disk_place *place);
/* "<objects>/<2 hex>/<name>", on the heap; NULL when that is out. Any thread. */
char *objects_path_below(const char *objects_folder, const char *hex, const char *name);
/* "<objects>/<2 hex>", likewise. */
char *objects_folder_below(const char *objects_folder, const char *hex);

/* With so many bytes behind it for a name; NULL: the heap is out. It is queued, or freed. */
struct op *objects_op_new(struct objects *objects, enum op_kind kind, size_t name_len);
void objects_op_free(struct objects *objects, struct op *op);
void objects_op_queue(struct objects *objects, struct op *op, unsigned fan);
/* End what waits for a folder, as far as it is of that kind. */
void objects_queued_drop(struct objects *objects, bool (*kind)(const struct op *op), int err);

static inline bool op_is_kill(const struct op *op)
{
    return op->kind == OP_KILL || op->kind == OP_SWEEP;
}

/* Of object_file_open(): there is a file, and what it is cannot be said. */
static inline bool is_no_record(int err)
{
    return err == KVD_ESHORT || err == KVD_ECORRUPT || err == KVD_EFORMAT;
}

/* ---- objects_write.c ---- */
void objects_write_work(struct batch *batch, struct op *op);
void objects_write_ended(struct objects *objects, struct op *op);
/* From the disk's queue to the folders. */
void objects_writes_admit(struct objects *objects);

/* ---- objects_kill.c ---- */
/* Of a key; a step of a walk through a folder. */
void objects_kill_work(struct batch *batch, struct op *op);
void objects_sweep_work(struct batch *batch, struct op *op);
void objects_kill_ended(struct objects *objects, struct op *op);
void objects_sweep_ended(struct objects *objects, struct op *op);

/* ---- objects_scan.c ---- */
/* On the job: the names in the batch's folder, into op->names. A folder that is not there holds nothing. 0, -ENOMEM, -errno. */
int objects_names_list(struct batch *batch, struct op *op);
void objects_scan_work(struct batch *batch, struct op *op);
/* Announce what this step has found. */
void objects_scan_tell(struct objects *objects, struct op *op);
void objects_scan_ended(struct objects *objects, struct op *op);
void objects_scan_again(struct timer *timer);

#endif
