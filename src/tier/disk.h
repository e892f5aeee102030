/* disk.h - the disk tier: values in append-only segments, and the log of what was removed; or each in a file of its own.
 *
 * With segment_bytes 0 an object is a file <dir>/<cluster>/objects/<2 hex>/<32 hex> that any host finds by the key (object_name.h). A
 * write is durable when it ends, a kill unlinks, and there are no segments but two that stand for all those files: one for what this
 * node wrote, one for what others did. Of a `where` in them `block` tells one file of a key from the next, and `blocks` is the caller's.
 *
 * Knows records (key, version, bytes) and files. Knows nothing of who wants what: which objects are written, which
 * segment goes when it is full, and what a miss means is decided above.
 *
 * Owns:    the node's folder <dir>/<cluster>/<node>/ (its lock, node file, segments, remove log), the version counter.
 * Borrows: the loop, the log, blobs while they are written or filled (the caller holds the references).
 * Thread:  the loop's. All callbacks come from the loop, never inside the call that started them, exactly once.
 *
 * The format on disk is in docs/disk-format.md, byte by byte.
 */
#ifndef KVD_TIER_DISK_H
#define KVD_TIER_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/list.h"
#include "base/log.h"
#include "loop/loop.h"
#include "tier/log_frame.h"
#include "tier/pool.h"

struct disk;
struct segment; /* a file; its address is stable as long as it exists, see disk_events.gone */

struct disk_where {
    struct segment *segment;
    uint32_t block;  /* of the record's header in the file, in 4 KiB */
    uint32_t blocks; /* that the record takes, header and value; nothing to objects that are files */
};

struct disk_config {
    const char *dir; /* strings are copied */
    const char *cluster;
    const char *node;
    uint64_t limit_bytes;      /* all that kvd has in its folder stays at or below it */
    uint64_t segment_bytes;    /* full size of a segment; a larger record gets a segment of its own, as large as it needs. 0: no segments,
                                  each object is a file */
    uint64_t free_min_percent; /* of the file system: with less of it free nothing is written; 0: 10 on fuse.hf3fs, 2 elsewhere */
    uint64_t unlink_delay_ms;  /* the file of a segment that is given up stays for so long */
    uint64_t read_split_bytes; /* reads are split into pieces of this size; a multiple of 256 KiB */
    uint64_t timeout_ms;       /* what takes longer has failed, as far as anybody waits for it; 0: 5 s */
    const char *require_fs;    /* type of file system that the directory must be on, as mountinfo has it; NULL or "": any */
    bool keep_kills; /* the remove log speaks for other folders, too: what it says of keys stays, though no record here is so old */
};

/* A record found at start. Spans are borrowed for the call. */
struct disk_found {
    struct span key;
    uint64_t version;
    uint64_t size;
    uint64_t checksum;
    uint64_t expires_ms; /* wall clock; 0: never */
    struct disk_where where;
};

struct disk_events {
    /* The folder is locked, its node file and remove log are read: writes and kills queued so far begin. err != 0: the tier stays off
     * (KVD_EFORMAT, KVD_ECORRUPT, -EWOULDBLOCK: another process holds it, or -errno); everything queued has failed with KVD_EOFF. Once. */
    void (*opened)(void *arg, int err);
    /* A record on disk that no kill reaches; at most 64 a turn. The highest version of a key is the one that counts: the callee keeps it by
     * version. Segments come in any order. */
    void (*found)(void *arg, const struct disk_found *found);
    /* Every segment is read; `found` comes no more. Once, after opened(0). */
    void (*recovered)(void *arg);
    /* A write waits and no new segment (or the object's file) fits within limit_bytes. The callee has begun to give up a segment
     * (disk_segment_kill_start()) or one is being given up already: true. It has none to give up: false, and every queued write ends with
     * KVD_EFULL. */
    bool (*full)(void *arg);
    /* The segment is unlinked and closed; its address means nothing any more. */
    void (*gone)(void *arg, struct segment *segment);
};

/* Returns 0 or -ENOMEM. Opening goes on in the background (events.opened). With a NULL dir the tier is off from the start, and no event
 * comes. */
int disk_new(struct disk **out, struct loop *loop, const struct log *log, const struct disk_config *config,
             const struct disk_events *events, void *arg);

/* Finish: queued writes are written (or, with `abandon`, fail with KVD_ECLOSING), the open segment is indexed, cut to its length and
 * synced, files are closed, then fn. New requests get KVD_ECLOSING from this call on. The caller calls disk_free() in or after fn. */
typedef void (*disk_closed_fn)(void *arg);
void disk_close(struct disk *disk, bool abandon, disk_closed_fn fn, void *arg);
void disk_free(struct disk *disk);
/* The disk_close() that follows deletes what in the node's folder is kvd's own, and the folder, if nothing else is in it: segments first,
 * then remove logs, the node file and the lock, so that a crash in between leaves what a start can read. What is left is logged. */
void disk_erase(struct disk *disk);
/* When it is closed: 0, or why files that are kvd's own are still there. */
int disk_erase_err(const struct disk *disk);

/* Tripped: the device failed again and again. Reads, writes, kills and syncs end with KVD_EOFF at once; what the tier holds stays known,
 * and it comes back by itself when a probe of the folder works. */
enum disk_state { DISK_OPENING, DISK_RECOVERING, DISK_ON, DISK_OFF, DISK_TRIPPED };
enum disk_state disk_state(const struct disk *disk);
/* "opening", "recovering", "on", "off", "tripped"; why it is off, or "". */
const char *disk_state_name(const struct disk *disk);
const char *disk_off_reason(const struct disk *disk);
/* How often in a row the file system was found to have less room than is to be left free: it is asked every few seconds. 0: it has. */
uint32_t disk_low_checks(const struct disk *disk);
/* What the files take: see disk_figures. Cheap. */
uint64_t disk_used_bytes(const struct disk *disk);
/* What of limit_bytes may be used, in the same sense: remove logs, the node file and folders take theirs beside it. */
uint64_t disk_usable_bytes(const struct disk *disk);
/* Why it is tripped, or why new segments cannot be made at the moment, or "". */
const char *disk_trouble(const struct disk *disk);

/* The next version: larger than any that this node ever gave (its ceiling is kept 2^20 ahead in the node file). Before opened(0)
 * versions come from the wall clock (ms << 16); should the ceiling turn out to be above them, disk_versions_jumped() says so after
 * opened(0), once the counter has gone beyond it. Never fails. */
uint64_t disk_next_version(struct disk *disk);
bool disk_versions_jumped(const struct disk *disk);

/* Where versions are given to other nodes, or come from them. They are below this, so that counting never ends. */
#define DISK_VERSION_MOST ((uint64_t)1 << 62)
/* The next version, if it is below the ceiling that is durable already: no restart gives it again. 0, KVD_EBUSY (the ceiling is not known
 * yet, or on its way up), KVD_EOFF. */
int disk_give_version(struct disk *disk, uint64_t *version);
/* Those that follow are above `floor`, and the ceiling is on its way there. 0; KVD_EBUSY (not open yet) and KVD_EOFF: nothing happened;
 * KVD_EUSAGE: above DISK_VERSION_MOST. */
int disk_raise_version(struct disk *disk, uint64_t floor);

/* ---- writing ---- */

struct disk_write;
/* err: 0: `where` can be read (it is not synced yet, unless it is a file of its own); KVD_EFULL; KVD_EOFF; KVD_ECLOSING; KVD_ETOOLARGE (can
 * never fit limit_bytes); -EEXIST: the file that it would have is another key's; -errno: it failed, and so did a second try in another
 * segment. */
typedef void (*disk_write_fn)(struct disk_write *write, int err);
struct disk_write {
    /* set by the caller, unchanged until fn */
    struct span key;
    uint64_t version;
    uint64_t checksum;
    uint64_t expires_ms;
    bool first;        /* before all that are queued, and tried once: what gives up room may wait for it to end */
    struct blob *blob; /* filled, its tail zeroed, its sums there if it has more than one chunk */
    /* set before fn(0) */
    struct disk_where where;
    /* the tier's */
    disk_write_fn fn;
    struct list link;
    uint8_t state, attempts;
    struct segment *segment;
    uint64_t bytes;
    uint64_t since_ms; /* since when its operation has been under way; 0: queued */
};
/* Queue. Returns 0; KVD_EOFF or KVD_ECLOSING: then fn will not run. While the tier is opening, writes wait. */
int disk_write_start(struct disk *disk, struct disk_write *write, disk_write_fn fn);
/* True: it was still queued, fn will not run, nothing is on disk. False: it is under way, fn will run. */
bool disk_write_cancel(struct disk *disk, struct disk_write *write);
/* When something happened to it last: queued, when a write was taken from the queue; under way, when its operation began. */
uint64_t disk_write_moved_ms(const struct disk *disk, const struct disk_write *write);
/* How long somebody waits for one operation of the device (--disk-timeout). */
uint64_t disk_timeout_ms(const struct disk *disk);
/* Bytes of records that are queued or under way; and how fast they have drained lately, in bytes a second (a moving average; 0: unknown).
 */
uint64_t disk_queued_bytes(const struct disk *disk);
uint64_t disk_drain_rate(const struct disk *disk);

/* ---- durability ---- */

struct disk_sync;
typedef void (*disk_sync_fn)(struct disk_sync *sync, int err);
struct disk_sync {
    disk_sync_fn fn;
    struct list link;
    struct segment *segment;
    uint64_t upto;
    uint64_t at, last; /* of a sync of all: which segments it goes through */
    int err;
};
/* fn(0) when the record at `where` survives a power cut: all before it in its segment are written, and the file is synced since. All who
 * wait share one fsync. fn(-errno): it failed, the caller should write it again. fn(KVD_ETIMEOUT): the device does not answer; nobody
 * knows, and it may get there yet. `where.segment` must not be given up meanwhile (the tier sees to that: segment_busy()). Returns 0,
 * KVD_EOFF or KVD_ECLOSING. */
int disk_sync_start(struct disk *disk, struct disk_sync *sync, const struct disk_where *where, disk_sync_fn fn);
/* fn(0) when every record whose write had completed before this call is synced. */
int disk_sync_all_start(struct disk *disk, struct disk_sync *sync, disk_sync_fn fn);
/* Would the record at `where`, whose write is complete, survive a power cut? UNSURE: it may, but a sync of its file has failed, and
 * no other will tell. */
enum disk_synced { DISK_SYNCED, DISK_NOT_SYNCED, DISK_UNSURE };
enum disk_synced disk_synced(const struct disk_where *where);
/* End the open segment: index, cut, sync. fn(0) at once if there is none. */
int disk_seal_start(struct disk *disk, struct disk_sync *sync, disk_sync_fn fn);

/* ---- what is dead ---- */

struct disk_kill;
/* err 0: it is on stable storage: no restart shows a version up to `version` of what it names. Otherwise -errno, KVD_EOFF, or KVD_ETIMEOUT:
 * nobody knows, and it may get there yet. Where objects are files it reaches what was there, or under way, when it was asked for: a write
 * that began later is there again, whatever its version. */
typedef void (*disk_kill_fn)(struct disk_kill *kill, int err);
struct disk_kill {
    enum kill_kind kind;
    struct span name; /* key or prefix; borrowed until fn */
    uint64_t version; /* this version and all before it are dead */
    bool keep; /* it is gone for good: should the log not take it now (KVD_EOFF of the start included), the tier tries again later, as
                  long as the process lives, within a bound */
    /* Of objects that are files (both unused with segments): what other nodes wrote is dead as well, whatever its version; and what of
     * this node's bytes goes by it (they count as used until it has ended). */
    bool whoever;
    uint64_t bytes;
    /* set before fn: files that were unlinked */
    uint64_t unlinked;
    /* the tier's */
    disk_kill_fn fn;
    struct list link;
    struct segment *segment;
    uint64_t since_ms;
    int err;
};
/* Append to the remove log; entries of one turn and those that come while a sync runs share the next write and fsync. fn runs in the order
 * of the calls. While the tier is opening, kills wait. Returns 0; KVD_EOFF or KVD_ECLOSING: then fn will not run. */
int disk_kill_start(struct disk *disk, struct disk_kill *kill, disk_kill_fn fn);
/* A kill that could not be asked for, because the heap is out: as if it had been, and had failed. Nothing is kept of `kill`. */
void disk_kill_missed(struct disk *disk, const struct disk_kill *kill);
/* Might a kill that is not on stable storage yet name this key (false positives allowed)? Then a new put of it must wait for a kill of its
 * own before it is shown, or a crash could bring the old one back over it. */
bool disk_kill_pending(const struct disk *disk, struct span key);

/* Where one is in what the logs say; all zero: at the beginning. It is good for as long as the folder, from one process to the next: what
 * was merged with other logs meanwhile is told again. */
struct disk_kill_cursor {
    uint64_t log, id, offset, frame, entry;
};
struct disk_kill_page;
typedef void (*disk_kill_page_fn)(struct disk_kill_page *page, int err);
struct disk_kill_page {
    /* set by the caller */
    struct disk_kill_cursor cursor; /* before fn(0): where to go on */
    uint32_t limit;                 /* at least 1 */
    /* set before fn(0) */
    const struct log_entry *kills; /* they, and their names, are in `memory`, */
    void *memory;                  /* which whoever is told frees */
    uint32_t count;
    bool at_end; /* there are no more at the moment */
    /* the tier's */
    disk_kill_page_fn fn;
    struct list link;
};
/* Read what the remove log says of keys, prefixes and all, from `cursor` on: up to `limit` of them, as they were logged, one name perhaps
 * several times. All whose fn(0) has run before this call are there, until at_end. Returns 0, KVD_EOFF, KVD_ECLOSING.
 * fn's err: KVD_ECORRUPT, KVD_ESHORT, -errno: what a log says cannot be read; KVD_EOFF, KVD_ECLOSING. */
int disk_kill_page_start(struct disk *disk, struct disk_kill_page *page, disk_kill_page_fn fn);

/* ---- reading ---- */

struct disk_read;
/* err: 0: the blob holds the bytes, judged by header and sums; KVD_ESHORT, KVD_ECORRUPT: the replica is to be dropped; KVD_ESTALE:
 * likewise, without a kill: the object's file is gone, or another's by now; -errno: the device failed. */
typedef void (*disk_read_fn)(struct disk_read *read, int err);
struct disk_read {
    /* set by the caller, unchanged until fn */
    struct disk_where where;
    struct span key;
    uint64_t version;
    uint64_t size;     /* of the whole value */
    uint64_t checksum; /* of the whole value */
    uint64_t offset;   /* of what is wanted: a multiple of 256 KiB */
    uint64_t length;   /* a multiple of 256 KiB, or up to the end; size for all of it */
    struct blob *blob; /* blob_size() == length, with all its room */
    /* the tier's */
    disk_read_fn fn;
    struct list link;
    void *pieces;
    uint32_t pieces_left;
    int err;
};
/* All that are started in one turn are submitted together; large ones are split. The segment stays readable until fn, even if it
 * is given up meanwhile. Returns 0, KVD_EOFF, -EIO (its file did not come back with the tier), or -ENOMEM: then fn will not run. */
int disk_read_start(struct disk *disk, struct disk_read *read, disk_read_fn fn);
/* The read is under way, and nobody waits for it any more: it took too long. fn comes all the same, and until then the blob is the
 * kernel's. */
void disk_read_is_late(struct disk *disk, struct disk_read *read);

/* ---- segments ---- */

/* A pointer of the caller's for each segment; NULL at first. */
void *segment_user(const struct segment *segment);
void segment_set_user(struct segment *segment, void *user);
/* Path below `dir`, e.g. "kvd/node1/0000000000000007.seg"; valid as long as the segment. */
const char *segment_path(const struct segment *segment);
bool segment_sealed(const struct segment *segment);
uint64_t segment_bytes(const struct segment *segment);
/* The number that it is named by, from 1; its birth, by the wall clock; "open", "sealed" and the like, static. */
uint64_t segment_sequence(const struct segment *segment);
uint64_t segment_created_ms(const struct segment *segment);
/* DISK_ID_BYTES: no other file has them. */
const uint8_t *segment_id(const struct segment *segment);
const char *segment_state_name(const struct segment *segment);

/* Walk the segments, oldest first: NULL gives the first; NULL at the end. */
struct segment *disk_segment_next(const struct disk *disk, const struct segment *after);
/* True while it is open for appending, a sync waits on it, or it is being given up: it cannot be given up now. */
bool segment_busy(const struct segment *segment);

/* What was said of `full` may have changed: ask again, if a write still waits. */
void disk_ask_again(struct disk *disk);
/* Give a sealed segment up: fn(0) when the remove log says durably that it is dead; the caller then forgets what it has there and calls
 * disk_segment_unlink(), after which the file goes once no read is under way (events.gone). Returns as disk_kill_start(). */
int disk_segment_kill_start(struct disk *disk, struct disk_kill *kill, struct segment *segment, disk_kill_fn fn);
void disk_segment_unlink(struct disk *disk, struct segment *segment);

/* ---- objects that are files ---- */

bool disk_has_objects(const struct disk *disk);
/* The one that stands for this node's files, and that for other nodes'; NULL with segments. */
struct segment *disk_own_objects(const struct disk *disk);
struct segment *disk_others_objects(const struct disk *disk);
/* Bytes of the file of such an object. */
uint64_t disk_object_bytes(size_t key_len, uint64_t size);
/* Does this stand for objects' files? Such a segment is always busy, never given up, and lives as long as the tier. */
bool segment_is_objects(const struct segment *segment);

/* The caller knows of one more of this node's files (`here`), or of one less: used_bytes is the sum. Nothing for other segments. */
void disk_object_count(struct disk *disk, const struct segment *segment, size_t key_len, uint64_t size, bool here);

struct disk_probe;
/* err: 0: `found` tells of a whole header of this key; -ENOENT: there is no file; KVD_ESTALE: there is one, but not of this key, or it
 * cannot be right; -errno. */
typedef void (*disk_probe_fn)(struct disk_probe *probe, int err);
struct disk_probe {
    /* the caller's, unchanged until fn */
    struct span key;
    bool known; /* a file was there: when it is not, make sure that the mount still is */
    /* set before fn(0) */
    struct disk_found found;
    /* the tier's */
    disk_probe_fn fn;
    struct disk *disk;
    struct loop *loop;
    char *path;
    uint64_t node;
    int err;
    struct job job;
};
/* Look for the file of a key. Returns 0; KVD_EOFF (also with segments) or -ENOMEM: then fn will not run. */
int disk_probe_start(struct disk *disk, struct disk_probe *probe, disk_probe_fn fn);

/* Path below `dir` of the file that holds the record of this key at `where`; valid until the next call, or as long as the segment. */
const char *disk_file_of(struct disk *disk, const struct disk_where *where, struct span key);

/* ---- figures ---- */

struct disk_figures {
    uint64_t limit_bytes, used_bytes;      /* sealed lengths, full size of open ones, unlinked but not freed */
    uint64_t free_bytes, free_least_bytes; /* of the file system, when it was last asked; 0: not yet */
    uint64_t segments, foreign_files, newer_segments, unreadable_segments;
    uint64_t damaged_segments; /* read in part: they may hold more than was found */
    uint64_t writes, written_bytes, write_errors, write_retries, index_writes;
    uint64_t reads, read_bytes, read_errors, read_short, read_corrupt;
    uint64_t syncs, sync_errors;
    uint64_t kills, kill_batches, log_bytes, log_compactions;
    uint64_t recovered_records, recovered_killed, recovered_walked, torn_tails, bad_indexes;
    uint64_t queued_bytes, queued_records, drain_bytes_per_s;
    uint64_t recovery_ms;
    uint64_t longest_announce_us; /* CPU time of one turn's announcing at start, */
    uint64_t longest_judge_us;    /* and of judging up to 1 MiB of what was read */
    uint64_t trips, probes;
    uint64_t kills_owed, kills_forgotten; /* that failed and are to be tried again; that failed beyond that bound */
    uint64_t kills_spared;                /* files of objects that could not be read, and so not told from what a prefix names */
};
void disk_get_figures(const struct disk *disk, struct disk_figures *out);

#endif
