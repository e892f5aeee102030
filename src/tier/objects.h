/* objects.h - the disk tier's other way: each object a file of its own. For disk*.c only; disk.h says what it is for.
 *
 * The files are spread over 256 folders, and one job at a time works on a folder, on a batch of what waits there in the order in which it
 * was asked: so writes, kills and walks of one key follow each other, and share an fsync of the folder. Reads and look-ups by key
 * (probes) are jobs beside those.
 *
 * Owns:    what waits for each folder, and the two segments that stand for the files.
 * Borrows: the disk, writes, kills, reads, probes until their fn.
 * Thread:  the loop's.
 */
#ifndef KVD_TIER_OBJECTS_H
#define KVD_TIER_OBJECTS_H

#include "tier/disk.h"

struct objects;

/* 0 or -ENOMEM. The disk's names are set. */
int objects_new(struct objects **out, struct disk *disk);
/* Nothing may be under way. Harmless for NULL. */
void objects_free(struct objects *objects);

/* "<dir>/<cluster>/objects"; the same as long as it lives. */
const char *objects_folder(const struct objects *objects);

/* Those that are empty go. Blocking; nothing may be under way. */
void objects_folders_remove(const struct objects *objects);

/* Look through all folders and announce what this node wrote; disk_recovery_over() in the end. A folder that could not be looked through is
 * tried again, within a bound; then it counts as unreadable. */
void objects_scan_start(struct objects *objects);
/* The disk is closing and nothing is under way. */
void objects_scan_stop(struct objects *objects);
/* Start what can be started: writes of the disk's queue, batches. */
void objects_pump(struct objects *objects);
/* Is nothing queued or under way? Walks that nobody waits for end early once the disk is closing. */
bool objects_idle(const struct objects *objects);

/* Queue a kill of a key, a prefix or all. 0 or -ENOMEM. */
int objects_kill(struct objects *objects, struct disk_kill *kill);
/* End every kill with `err`; those that are under way may get there yet. */
void objects_kills_give_up(struct objects *objects, int err);
/* Has nothing got any further for the tier's timeout, though the oldest has waited that long? */
bool objects_kills_late(const struct objects *objects);
/* The tier goes off, perhaps for a while: end everything that no job is at, likewise. */
void objects_give_up(struct objects *objects, int err);
void objects_kills_raise(struct objects *objects, uint64_t version);

/* 0 or -ENOMEM. */
int objects_read(struct objects *objects, struct disk_read *read, disk_read_fn fn);

/* Bytes of this node's files: known, being written, being unlinked. */
uint64_t objects_used_bytes(const struct objects *objects);

#endif
