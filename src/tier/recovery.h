/* recovery.h - read one segment at start: what is in it, and an end to what was cut off.
 *
 * A segment is read by its indexes. Where there is none that is good (the stretch that was being written, or one whose index is
 * damaged) records are walked by their lengths, each header judged and each value read and verified. After a walk of the last stretch
 * the segment gets its last index and is cut to its length: so it is sealed afterwards.
 *
 * It goes in steps, each a piece of blocking work for a job; between two, on the loop, the caller takes the entries that were found.
 *
 * Owns:    its buffers; the file until it is taken (`file`).
 * Not its: what is dead, who is told.
 * Thread:  one at a time.
 */
#ifndef KVD_TIER_RECOVERY_H
#define KVD_TIER_RECOVERY_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/fs.h"
#include "tier/index.h"
#include "tier/layout.h"

enum recovery_outcome {
    RECOVERY_MORE,       /* call recovery_step() again */
    RECOVERY_DONE,       /* sealed: `length` long */
    RECOVERY_NEWER,      /* of a newer format: left alone */
    RECOVERY_EMPTY,      /* no byte long: it was never begun, and is unlinked by now */
    RECOVERY_UNREADABLE, /* no segment of ours, or it cannot be read (err): left alone */
};

struct recovery_skip {
    uint32_t block, blocks;
};

struct recovery {
    struct job job; /* for the caller */
    /* set by recovery_init() */
    struct loop *loop;
    const char *path;
    const char *node, *cluster;
    uint64_t sequence;
    /* set by steps */
    enum recovery_outcome outcome;
    int err; /* UNREADABLE: why; DONE: why its end could not be written */
    struct file file;
    bool opened;               /* `file` is open; head is valid */
    struct layout_head head;   /* without names */
    uint64_t length;           /* of the file */
    struct index_cursor found; /* entries of this step; valid until the next */
    bool lost;                 /* there may be records in it that were not found and are not gone */
    uint64_t walked, torn, bad_indexes, records;
    /* its own */
    struct layout_slot *slots; /* good ones, by block */
    uint32_t slot_count, slot_next;
    uint32_t next_ordinal;       /* of a slot that was never written; head.slots when there is none */
    struct recovery_skip *skips; /* indexes that are damaged, by slots that are good */
    uint32_t skip_count;
    struct index_buffer index; /* that was read, not announced yet; count is not used */
    struct index_head index_head;
    bool index_held, final, read_failed;
    uint32_t pos;   /* the next block */
    int64_t expect; /* sequence of the next record; -1: unknown */
    bool walking;
    bool tail; /* what follows the last index is being walked, or was */
    uint32_t walk_from, walk_end, good_end;
    struct index_buffer walk; /* what was found by walking this stretch */
    uint8_t *header, *chunk;  /* aligned, 256 KiB each */
};

/* Strings are borrowed. */
void recovery_init(struct recovery *recovery, struct loop *loop, const char *path, const char *node, const char *cluster,
                   uint64_t sequence);
/* Blocking. */
void recovery_step(struct recovery *recovery);
/* Free the buffers; the file stays as it is. */
void recovery_fini(struct recovery *recovery);

#endif
