/* segment.h - one append-only file of the disk tier.
 *
 * Owns:    the open file, the write position, its indexes and slots, who waits for a sync of it.
 * Borrows: the disk (figures, log, loop), which must outlive it.
 * Not its: which records are written when, what is live.
 * Thread:  the loop's.
 *
 * Its life: CREATING (a job) → OPEN → ENDING (no more appends; what is in flight finishes) → SEALING (a job) → SEALED → DEAD
 * (given up; reads finish) → UNLINKING (a job) → gone. One that was found at start: RECOVERING → SEALED.
 */
#ifndef KVD_TIER_SEGMENT_H
#define KVD_TIER_SEGMENT_H

#include "loop/file.h"
#include "tier/disk.h"
#include "tier/index.h"
#include "tier/layout.h"

enum segment_state {
    SEGMENT_CREATING,
    SEGMENT_RECOVERING,
    SEGMENT_OPEN,
    SEGMENT_ENDING,
    SEGMENT_SEALING,
    SEGMENT_SEALED,
    SEGMENT_DEAD,
    SEGMENT_UNLINKING,
};

/* A record or an index on its way; in the segment's list, in the order of offsets, until it is written. */
struct append {
    struct list link;
    uint64_t offset;
    uint64_t bytes;
};

enum checkpoint_state { CHECKPOINT_NONE, CHECKPOINT_WAITING, CHECKPOINT_WRITING, CHECKPOINT_SLOT };

/* An index between two stretches of records, on its way. */
struct checkpoint {
    enum checkpoint_state state;
    struct append append;
    struct index_buffer index;
    struct index_head head;
    struct file_op op;
    struct iovec iov;
    uint64_t done_bytes;
};

/* The end of a segment: a job with memory of its own. */
struct seal {
    struct job job;
    struct segment *segment; /* for `done` */
    struct loop *loop;
    struct file file;
    struct index_buffer late; /* a checkpoint that was not written yet; at NULL when there is none */
    struct index_head late_head;
    struct index_buffer last;
    struct index_head last_head;
    uint8_t *block; /* one, aligned */
    bool doubtful;  /* a sync has failed: no index may vouch for what is there; a restart walks and verifies it */
    int err;
};

/* What a segment needs only as long as it is appended to. */
struct appender {
    struct segment *segment;
    struct list appends;
    struct index_buffer index; /* of the records since from_block */
    uint32_t from_block;
    uint32_t next_ordinal;
    uint64_t next_sequence;
    uint32_t good;          /* records that were written */
    uint32_t in_flight;     /* operations on the ring */
    uint64_t completed_end; /* the furthest end of a completed record */
    uint64_t broken_at;     /* the first void record */
    uint64_t durable;       /* all before it is synced */
    struct list waiters;    /* struct disk_sync */
    struct file_op sync_op;
    uint64_t sync_upto;
    bool syncing;
    uint64_t sync_since_ms;
    struct checkpoint checkpoint;
    uint8_t *block; /* one, aligned: a slot on its way */
    struct seal seal;
};

struct segment {
    struct list link; /* disk->segments, by sequence */
    struct disk *disk;
    enum segment_state state;
    struct file file;
    struct layout_head head; /* without names */
    char *path;              /* whole */
    const char *below;       /* the same, below the tier's directory */
    uint64_t length;         /* where the next append goes; the file's when sealed */
    uint64_t accounted;      /* of used_bytes */
    uint64_t min_version;    /* no record here is older; 0: unknown */
    uint32_t reads;          /* under way */
    bool failed;             /* takes no more */
    bool sync_failed;        /* what it holds may not be on stable storage */
    bool killing;            /* its kill is under way, or done */
    bool shown;              /* the owner may know of it */
    bool objects;            /* it is none, but stands for objects' files: see objects.h */
    bool reopened;           /* on a mount that has returned, and not looked at again yet */
    uint32_t records;        /* that it holds, once it is sealed */
    struct appender *appender;
    struct list dead_link; /* disk->dead */
    uint64_t unlink_at_ms;
    struct job job; /* of its unlinking */
    int job_err;
    void *user;
};

/* NULL when the heap is out. State CREATING, no file. */
struct segment *segment_new(struct disk *disk, uint64_t sequence, uint64_t full_bytes);
/* The file is closed. */
void segment_free(struct segment *segment);
/* Make it ready for appending. 0 or -ENOMEM. */
int segment_add_appender(struct segment *segment);

/* Full size that a segment must have for a record of this size to fit alone. */
uint64_t segment_bytes_for(size_t key_len, uint64_t record_bytes);
/* Is there room for one more record, and for the indexes after it? */
bool segment_fits(const struct segment *segment, size_t key_len, uint64_t record_bytes);
/* So much was written since the last index that one must get there before more is. */
bool segment_stalled(const struct segment *segment);

/* Give a record its place and its line in the index; entry->block is set. 0 or -ENOMEM. segment_appended() must follow. */
int segment_append(struct segment *segment, struct append *append, struct index_entry *entry);
/* The record is written, or (err) void: then the segment takes no more. */
void segment_appended(struct segment *segment, struct append *append, int err);

/* No more appends; it will be sealed. Harmless when it is ending already. */
void segment_end(struct segment *segment);
/* Do what can be done next: indexes, syncs, the end. */
void segment_tick(struct segment *segment);
/* Wait until all before `upto` is on stable storage: the sync gets on the disk's list of ripe ones. */
void segment_wait(struct segment *segment, struct disk_sync *sync, uint64_t upto);

/* Who waits for a sync of it is told `err`. */
void segment_waiters_fail(struct segment *segment, int err);

/* It is given up: it goes once no read is under way and its delay is over (`at_once`: it was given up in an earlier life), a few at a
 * time. Till then it counts as used. */
void segment_die(struct segment *segment, bool at_once);
void segments_unlink_init(struct disk *disk, uint64_t delay_ms);
/* Unlink those that may go now. */
void segments_unlink_pump(struct disk *disk);
/* The end: those whose time has not come stay for the next start, which unlinks what the log says is dead. */
void segments_unlink_leave(struct disk *disk);

#endif
