/* remove_log.h - the files that say what is dead: read, made, compacted. Their bytes are log_frame.h's.
 *
 * Everything with a loop is blocking, for jobs and tests.
 *
 * Not its: when to append, what an entry means, who waits.
 * Thread:  any; a thing by one thread at a time.
 */
#ifndef KVD_TIER_REMOVE_LOG_H
#define KVD_TIER_REMOVE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/fs.h"
#include "tier/kill_map.h"
#include "tier/log_frame.h"

enum { LOG_FILE_MAX_BYTES = 64 << 20 }; /* no log is longer; a longer one is not read */

/* ---- reading ---- */

struct log_summary {
    uint8_t id[DISK_ID_BYTES];
    uint64_t entries;
    uint64_t min_version, max_version; /* of entries that have one; UINT64_MAX and 0 when none has */
    uint64_t segment_entries;
    bool torn; /* the last frame was cut off */
};
/* Add every entry of a whole file to `map`. 0; KVD_ECORRUPT: entries are lost; KVD_EFORMAT: a newer format; -ENOMEM. */
int log_image_read(const uint8_t *at, size_t len, uint64_t sequence, struct kill_map *map, struct log_summary *out);

/* ---- files ---- */

/* "<folder>/removes-<sequence>.log", on the heap; NULL when that is out. */
char *remove_log_path(const char *folder, uint64_t sequence);

/* Read a closed log, and sync what was read: as log_image_read(), or -errno. *bytes is the file's length. */
int remove_log_load(struct loop *loop, const char *folder, uint64_t sequence, struct kill_map *map, struct log_summary *out,
                    uint64_t *bytes);

/* Make a log, durably, and leave it open for appending at LOG_FRAMES_AT. 0 or -errno. */
int remove_log_create(struct loop *loop, const char *folder, uint64_t sequence, struct file *file, uint8_t id[DISK_ID_BYTES]);

/* What an entry must still kill to be kept. */
struct log_needs {
    uint64_t min_version;                     /* no file holds a version below it */
    const uint8_t (*segments)[DISK_ID_BYTES]; /* the files that are there */
    size_t segment_count;
    bool keep_all_segments; /* a file is there whose id is not known */
};
/* Replace the closed logs `sequences` (ascending) by one, under the last one's name, with the entries that are needed; by none when none
 * is. *bytes: of the new file, 0 when there is none; *out tells of it. 0, or an error: then the files hold what they held. */
int remove_log_compact(struct loop *loop, const char *folder, const uint64_t *sequences, size_t count, const struct log_needs *needs,
                       struct log_summary *out, uint64_t *bytes);

#endif
