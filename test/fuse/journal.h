/* journal.h - changes of the backing, and how to lose those that were not synced.
 *
 * Every change is made at once, and remembered until an fsync of the file (bytes, length) or of the folder (names) makes it durable. A
 * power cut takes all that is remembered back, newest first, and then does a part of it again, by chance: of a write any of its 4 KiB
 * blocks; of names and lengths the first few, in order, as file systems with a log keep them, or any. After a failed fsync the bytes that
 * it was to make durable stay in doubt for ever, as Linux has it.
 *
 * An fdatasync makes bytes durable, but not a length: what was written beyond the last length that was synced stays in doubt.
 *
 * Unlinked files go to the spare folder, beside the backing, until they cannot come back; and for as long as late deletion wants them.
 * There, too, the lengths are kept that other mounts of the backing are to see of files that grow.
 *
 * Thread:  between journal_lock() and journal_unlock(), all but journal_new().
 */
#ifndef KVD_TEST_FUSE_JOURNAL_H
#define KVD_TEST_FUSE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "test/fuse/inode.h"

struct journal;

/* What becomes of the bytes of a file that was unlinked. */
enum gone_mode { GONE_KEEP, GONE_ZERO, GONE_SHORT };

/* `spare_fd`: the folder for what was unlinked. With `off` everything counts as durable at once. */
struct journal *journal_new(struct inodes *inodes, int spare_fd, bool off);
void journal_lock(struct journal *journal);
void journal_unlock(struct journal *journal);

/* These make the change. Descriptors are open for reading and writing. They return what pwrite() does, or 0, or -errno. */
ssize_t journal_write(struct journal *journal, struct inode *inode, int fd, const void *buf, size_t len, off_t offset);
int journal_truncate(struct journal *journal, struct inode *inode, int fd, off_t len);
int journal_unlink(struct journal *journal, struct inode *dir, const char *name, struct inode *inode);
/* `replaced` is what is at the new name, or NULL. */
int journal_rename(struct journal *journal, struct inode *dir, const char *name, struct inode *to_dir, const char *to_name,
                   struct inode *inode, struct inode *replaced);
/* Remember a name that was made just now: a file, a folder, a link. */
void journal_named(struct journal *journal, struct inode *dir, const char *name, struct inode *inode);

/* What is durable from now on; with `data_only` as an fdatasync does it. */
void journal_sync(struct journal *journal, struct inode *inode, bool data_only);
void journal_sync_failed(struct journal *journal, struct inode *inode);
void journal_sync_dir(struct journal *journal, struct inode *dir);
void journal_sync_all(struct journal *journal);
size_t journal_length(const struct journal *journal);

struct power_cut {
    uint64_t seed;
    double keep;    /* the share of what was not synced that is there nevertheless; 0: none of it, 1: all */
    bool any_names; /* names and lengths survive one by one, not in order */
    size_t lost, kept;
};
void journal_power_cut(struct journal *journal, struct power_cut *cut);
/* As if there had been none. The lock must have been held in between. */
void journal_resume(struct journal *journal);

/* Other mounts see the length that `inode` had before it grew by writing, until it is published: by this, or `publish_ms` later. */
void journal_publish(struct journal *journal, struct inode *inode);
void journal_set_publish(struct journal *journal, unsigned publish_ms);
void journal_publish_due(struct journal *journal);
/* What another mount has not published yet is cut off `length`. */
off_t journal_known_length(const struct journal *journal, const struct inode *inode, off_t length);

/* From now on the bytes of unlinked files go `delay_ms` later (0: at journal_reap()) even where they are open: to zeros, or the file
 * ends early. */
void journal_set_gone(struct journal *journal, enum gone_mode mode, unsigned delay_ms);
/* Do so to those that are due, or to all. Returns how many. */
unsigned journal_reap(struct journal *journal, bool all);
/* Empty the spare folder of what this process put there. */
void journal_fini(struct journal *journal);

#endif
