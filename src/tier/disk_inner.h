/* disk_inner.h - what the files of the disk tier share: struct disk. For disk*.c and segment.c only.
 *
 * Every change posts the pump, a task that runs once a turn and does whatever can be done next: kills, writes, syncs, seals,
 * compaction, closing. So nothing but the pump and completions ever calls out to the owner.
 */
#ifndef KVD_TIER_DISK_INNER_H
#define KVD_TIER_DISK_INNER_H

#include "loop/fs.h"
#include "tier/disk.h"
#include "tier/kill_map.h"
#include "tier/node_file.h"
#include "tier/objects.h"
#include "tier/recovery.h"
#include "tier/remove_log.h"
#include "tier/segment.h"

enum {
    WRITE_SLOTS = 256,
    WRITE_RUNS = 32,
    WRITE_RUN_IOVS = 256,
    WRITE_RUN_BYTES = 1 << 20, /* of small records that go by one operation; a larger one goes alone */
    WRITE_RUN_WAIT_MS = 10,    /* no record waits longer for others to go with */
    WRITE_PIECE_BYTES = 8 << 20,
    WRITE_IN_FLIGHT_BYTES = 8 << 20, /* then further records wait: as with reads (loop/file.h), what is queued together ends together */
    FUSE_WRITE_IN_FLIGHT_BYTES = 32 << 20,
    WRITE_ATTEMPTS = 2,
    VERSION_STEP = 1 << 20, /* how far ahead the ceiling is kept; raised at half of it */
    LOG_ROTATE_BYTES = 4 << 20,
    COMPACT_GROUP_BYTES = 16 << 20,    /* of closed logs that are merged at a time */
    KILL_PAGE_WINDOW_BYTES = 1 << 20,  /* of a log that is read at a time: a frame fits, both copies */
    KILL_PAGE_MOST = 4096,             /* kills on a page, */
    KILL_PAGE_NAMES_BYTES = 256 << 10, /* and bytes of their names */
    PENDING_FILTER = 4096,
    FOUND_A_TURN = 64,
    RECOVERERS = 4, /* segments that are read at a time at start */
    SEGMENT_MIN_BYTES = 256 << 10,
    OTHER_FILES_BYTES = 64 << 10, /* node file, lock, folders, a probe's file */
    SPACE_KEPT_FREE = 1 << 20,    /* of the file system: for the remove log, without which nothing can be given up */
    CREATE_RETRY_MS = 1000,
    UNLINKS_AT_ONCE = 2, /* a large deletion is work for a distributed file system, and other jobs need threads */
    TIMEOUT_MS = 5000,
    TRIP_FAILURES = 5, /* in a row */
    PROBE_MS = 2000,   /* between probes, or as long as anything may take, if that is less; doubled up to the most when the tier trips again
                          before anything has worked */
    PROBE_MOST_MS = 16000,
    REOPENS_MOST = 3, /* probes that fail for segments that cannot be opened; then the tier comes back without them */
    WATCHES_A_TIMEOUT = 4,
    WATCH_LEAST_MS = 20,
    OWED_MOST = 1 << 16,
    OWED_BYTES = 8 << 20, /* of names */
    OWED_A_TURN = 64,
    OWED_PAUSE_MS = 1000, /* after one that failed again; doubled up to the most as long as none works */
    OWED_PAUSE_MOST_MS = 64000,
};

/* A record on its way to the disk. */
struct write_slot {
    struct list link; /* disk->free_slots, or its run's */
    struct disk_write *write;
    struct append append;
    uint8_t *header;     /* aligned; the slot's own block, or `own_header` */
    uint8_t *own_header; /* for a header that is longer; or NULL */
    uint64_t header_bytes;
};

/* Records that lie one behind the other in a segment: one operation at a time moves them. Each is written, or void, by itself: what an
 * operation has moved counts as far as it got, and when one fails, all that was not moved yet is void. */
struct write_run {
    struct list link; /* disk->free_runs */
    struct disk *disk;
    struct segment *segment; /* NULL: free */
    struct list slots;       /* whose records are not written yet, by their offsets */
    uint64_t at, end;        /* in the file: what is not moved yet */
    uint64_t since_ms;       /* its operation has been under way */
    struct file_op op;
    struct iovec iov[WRITE_RUN_IOVS];
};

/* A closed log. */
struct closed_log {
    uint64_t sequence;
    uint64_t bytes;
    struct log_summary summary;
    bool fresh; /* was not compacted yet */
};

struct closed_logs {
    struct closed_log *at; /* ascending */
    size_t count, room;
};

/* One of the segments that are being read at start. */
struct recover_run {
    struct disk *disk;
    struct recovery recovery;
    struct segment *segment;
    struct index_cursor found; /* what is to be announced */
    bool busy;                 /* a job is under way, or something is to be announced */
    bool announcing;
};

/* See disk_health.c. */
struct health {
    bool tripped;
    bool fail_due; /* those who wait are to be told */
    bool answered; /* something has worked since the tier opened or came back */
    uint32_t failures;
    uint32_t reopens_failed;
    uint64_t timeout_ms, pause_ms;
    uint64_t since_ms; /* tripped */
    uint64_t jobs_moved_ms;
    char reason[160];
    char *require_fs;
    struct timer timer; /* the next probe, or the next look at what hangs */
    struct list owed;
    uint32_t owed_count;
    uint64_t owed_bytes;
    uint64_t owed_pause_ms, owed_due_ms; /* not tried before */
};

/* See disk_heal.c. */
struct heal {
    struct recovery recovery;
    struct segment *segment; /* that is being read; NULL: none */
    bool due;
};

/* See disk_space.c. */
struct space {
    uint64_t percent;
    uint64_t free_bytes, least_bytes; /* when it was last asked */
    bool low;
    uint32_t low_checks; /* in a row */
    struct timer timer;
    char trouble[160];
};

struct found_file {
    uint64_t sequence;
    uint64_t bytes;
};

struct disk {
    struct loop *loop;
    const struct log *log;
    char *dir, *cluster, *node;
    char *folder;
    uint64_t node_hash;
    uint64_t limit_bytes;
    uint64_t segment_bytes;
    uint64_t read_split_bytes;
    struct disk_events events;
    void *arg;

    enum disk_state state;
    char off_reason[160];
    struct health health;
    struct heal heal;
    struct space space;
    struct task pump;
    struct disk_figures figures;
    uint32_t jobs; /* under way */
    uint64_t device;
    struct file lock;

    bool closing, abandon, closed;
    bool erase; /* the folder goes with it */
    int erase_err;
    disk_closed_fn closed_fn;
    void *closed_arg;
    struct job close_job;
    bool files_closing; /* it has begun: every file is its own */

    /* versions */
    uint64_t version;
    uint64_t ceiling; /* durable */
    uint64_t generation;
    struct node_state raise_tried; /* that may be in the node file though writing it failed */
    bool jumped, raising;
    int raise_err; /* of a try that failed; kills that wait are to get it */

    /* segments */
    struct list segments; /* by sequence */
    struct list stuck;    /* left alone: unreadable, newer, not unlinked */
    struct segment *open;
    struct segment *creating;
    uint64_t used_bytes;
    uint64_t next_sequence;
    uint32_t sealing;   /* segments ENDING or SEALING */
    uint32_t unlinking; /* DEAD or UNLINKING */
    struct list dead;   /* segments that are to be unlinked, in the order in which it is time for them */
    uint32_t unlinks;   /* jobs under way */
    uint64_t unlink_delay_ms;
    struct timer unlink_timer;
    uint32_t segment_kills;
    uint32_t reads;

    bool keeps_objects;
    struct objects *objects; /* in the place of segments; or NULL */

    /* writes */
    struct list queue;
    struct list free_slots, free_runs;
    struct write_slot *slots;
    struct write_run *write_runs;
    uint8_t *slot_headers; /* a block each */
    uint32_t runs_used;
    uint64_t in_flight_bytes;
    struct timer run_timer;  /* active while small records wait for others to go with */
    bool run_overdue;        /* they have waited long enough */
    uint64_t queue_moved_ms; /* when a write was taken from the queue last */
    bool waiting_for_room;
    int create_err;            /* of the last try to make a segment; 0: it worked */
    uint64_t create_retry_ms;  /* not tried again before */
    bool trouble_said;         /* in the log, until segments can be made again */
    uint64_t freed_in_trouble; /* bytes of segments that went since one could be made: others may fill the file system, and not all is given
                                  up */
    uint64_t drain_since_us, drain_bytes, drain_rate; /* a window of what was written: its begin */
    uint64_t drain_last_us, drain_stream_us;          /* the last record's end; that of the first of those close behind each other */

    /* syncs that are ready to be called back */
    struct list ripe;
    struct list late_syncs; /* of records found by walking a segment that has not got its end yet */

    /* kills */
    struct list kills;         /* queued, in order */
    struct list kills_running; /* in the frame that is being written */
    uint32_t kills_pending_keys[PENDING_FILTER];
    uint64_t kills_pending_ranges;
    struct log_frame frame;
    struct iovec frame_iov;
    uint64_t frame_done_bytes;
    struct file_op frame_op;
    bool frame_running, frame_failed;
    bool log_hung; /* what is under way with the log takes too long: nobody waits for it */
    uint64_t frame_since_ms;
    struct file log_file;
    bool log_open;
    uint64_t log_sequence;
    uint8_t log_id[DISK_ID_BYTES];
    uint64_t log_length;
    uint64_t log_frames;
    struct log_summary log_summary;
    uint64_t next_log_sequence;
    bool rotating; /* a new log is being made */
    struct closed_logs closed_logs;
    bool compact_due, compacting;
    bool keep_kills;
    struct list kill_pages; /* struct disk_kill_page: that wait for a compaction to end */
    uint32_t pages_reading; /* till they have ended, none begins */

    /* start */
    struct kill_map *dead_log;  /* what the remove log said; until recovery has ended */
    struct kill_map *dead_live; /* what was killed since */
    struct found_file *found_files;
    size_t found_count, found_next;
    size_t found_unread; /* there was no heap to read them: what they hold is unknown for as long as the process lives */
    struct recover_run runs[RECOVERERS];
    struct task announce;
    uint64_t started_ms;
};

/* ---- disk.c ---- */
void disk_post(struct disk *disk);
/* A job of the disk's: closing waits for it. */
void disk_job_start(struct disk *disk, struct job *job, job_fn work, job_fn done);
void disk_job_ended(struct disk *disk);
/* The same of a job that only looked at names: that says nothing of jobs that hang in a file. */
void disk_look_ended(struct disk *disk);
/* May this version be written? Otherwise raises the ceiling. */
bool disk_version_allowed(struct disk *disk, uint64_t version);
void disk_raise_maybe(struct disk *disk);

/* ---- disk_health.c ---- */

/* Where the folder is, for jobs; borrowed from the disk, which outlives them. */
struct disk_place {
    struct loop *loop;
    const char *folder, *node, *cluster, *require_fs;
    uint64_t device;
};
void disk_place_of(const struct disk *disk, struct disk_place *place);
/* The mount may have gone and left a bare folder: a new file there would fill the wrong disk. 0, -ENODEV: it is not the folder that was
 * opened, or -errno. `out` may be NULL. Blocking, for jobs. */
int disk_place_check(const struct disk_place *place, struct fs_dir_info *out);
/* And our node file must be there. */
int disk_place_check_marker(const struct disk_place *place, struct fs_dir_info *info);

/* 0 or -ENOMEM. */
int disk_health_init(struct disk *disk, const struct disk_config *config);
/* The tier begins to open, or has opened: watch over it. */
void disk_health_start(struct disk *disk);
void disk_health_stop(struct disk *disk);
void disk_health_fini(struct disk *disk);
void disk_health_pump(struct disk *disk);
/* Something has worked (0) or failed. Harmless before the tier has opened. */
void disk_health_note(struct disk *disk, int err);
/* This kill has failed: if it is to be kept, try again later. */
void disk_owe(struct disk *disk, const struct disk_kill *kill);
/* Those that are to be tried again were to kill all that is on disk: see disk_kills_raise(). */
void disk_owed_raise(struct disk *disk);

/* ---- disk_heal.c ---- */
void disk_heal_pump(struct disk *disk);

/* ---- disk_space.c ---- */
void disk_space_init(struct disk *disk, const struct disk_config *config);
void disk_space_start(struct disk *disk);
void disk_space_stop(struct disk *disk);
/* This is how much room there is now. */
void disk_space_note(struct disk *disk, const struct fs_dir_info *info);
/* Bytes of the file system that are to be left free, by percent (0: by its type). Any thread. */
uint64_t disk_space_least(uint64_t percent, const struct fs_dir_info *info);

/* ---- disk_run.c ---- */
/* 0 or -ENOMEM. */
int disk_runs_init(struct disk *disk);
void disk_runs_fini(struct disk *disk);
/* Is there a place for one more record on its way? */
bool disk_run_has_slot(const struct disk *disk);
/* An empty one, for records of this segment; NULL when all are under way. disk_run_go() must follow in the same turn. */
struct write_run *disk_run_begin(struct disk *disk, struct segment *segment);
/* Would the next record of `segment` lie right behind the others, and go well with them? */
bool disk_run_takes(const struct write_run *run, const struct segment *segment, const struct disk_write *write);
/* Give the record its place in the segment, which has room for it. 0 or -ENOMEM. */
int disk_run_add(struct write_run *run, struct disk_write *write);
/* Off with it. disk_write_done() follows for each record, from the loop. Harmless for an empty one. */
void disk_run_go(struct write_run *run);

/* ---- disk_write.c ---- */
void disk_writes_init(struct disk *disk);
void disk_writes_stop(struct disk *disk);
void disk_writes_pump(struct disk *disk);
/* From its run: the record is in its place, or (err) is not. */
void disk_write_done(struct disk *disk, struct disk_write *write, int err);
void disk_writes_fail(struct disk *disk, int err);
/* Not too many bytes of records are under way. */
bool disk_write_may_begin(const struct disk *disk);
/* A write that was taken off the queue has ended: figures, then its fn. */
void disk_write_ended(struct disk *disk, struct disk_write *write, int err);
/* The file system has more room than a moment ago. */
void disk_space_freed(struct disk *disk, uint64_t bytes);
/* The oldest version among records that are queued or under way; UINT64_MAX when there is none. */
uint64_t disk_writes_min_version(const struct disk *disk);

/* ---- disk_kill.c ---- */
void disk_kills_pump(struct disk *disk);
void disk_kills_fail(struct disk *disk, int err);
/* Those in the frame that is being written, too: it may get there yet. */
void disk_kills_give_up(struct disk *disk, int err);
/* Do so if the oldest has waited too long. */
void disk_kills_expire(struct disk *disk);
/* A kill that was taken off its queue has ended: figures, then its fn. */
void disk_kill_ended(struct disk *disk, struct disk_kill *kill, int err);
/* What is queued or owed was to kill all that is on disk, but its versions were taken from too low a clock. */
void disk_kills_raise(struct disk *disk);
/* What is found from now on must not show what this kill names. */
void disk_kill_note(struct disk *disk, const struct disk_kill *kill);
void disk_compact_pump(struct disk *disk);
/* Remember a closed log. 0 or -ENOMEM. */
int closed_logs_add(struct closed_logs *logs, const struct closed_log *closed);
/* The log that was just made is the one that is appended to. */
void disk_log_begin(struct disk *disk, const struct file *file, const uint8_t id[DISK_ID_BYTES], uint64_t sequence);

/* ---- disk_kill_page.c ---- */
/* Go on with those that wait; or end them. */
void disk_kill_pages_pump(struct disk *disk);

/* ---- disk_read.c ---- */
/* Nobody waits for this read any more: it is not to hold up others. True: all its bytes have come. */
bool disk_read_let_go(struct disk_read *read);
/* A read has ended: figures. */
void disk_read_note(struct disk *disk, const struct disk_read *read, int err);
/* ---- disk_erase.c ---- */
/* On a job thread, when all but the lock is closed. */
void disk_erase_work(struct disk *disk);

/* ---- disk_open.c ---- */
/* The file in the folder of a node whose objects are files. */
#define OBJECTS_MARK "objects"
/* Exactly 16 lower-case hex digits between `prefix` and `suffix`. */
bool disk_name_parse(const char *name, const char *prefix, const char *suffix, uint64_t *sequence);
/* Left by a crash in the middle of something, or about to be renamed. */
bool disk_name_is_temp(const char *name);
int disk_open_start(struct disk *disk);
void disk_recovery_start(struct disk *disk);
bool disk_recovery_busy(const struct disk *disk);
/* The tier has come back: go on with what was not read yet. */
void disk_recovery_resume(struct disk *disk);
/* All that is on disk was announced. */
void disk_recovery_over(struct disk *disk);

/* Stop announcing; what was opened is closed with the rest. */
void disk_recovery_stop(struct disk *disk);
void disk_announce(struct task *task);
/* End the syncs that wait for this segment's end (NULL: for any's). */
void disk_late_syncs_end(struct disk *disk, const struct segment *segment, int err);

/* Segments: insert by sequence; take out, say so to the owner, free. */
void disk_segment_insert(struct disk *disk, struct segment *segment);
void disk_segment_gone(struct disk *disk, struct segment *segment);

#endif
