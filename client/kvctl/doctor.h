/* doctor.h - what trying a directory out brought to light, and what kvd will make of it.
 *
 * Trying goes on in a process of its own, for a file system may hang; so the report is plain memory that two processes can share: no
 * pointers in it.
 *
 * Not its: how it is printed (cmd_doctor.c).
 */
#ifndef KVD_CLIENT_DOCTOR_H
#define KVD_CLIENT_DOCTOR_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* In the order in which they are tried. */
enum doctor_check {
    DOCTOR_FOLDER,
    DOCTOR_CREATE,
    DOCTOR_FULL_SIZE,
    DOCTOR_DIRECT_OPEN,
    DOCTOR_DIRECT_WRITE,
    DOCTOR_DIRECT_READ,
    DOCTOR_SYNC,
    DOCTOR_BUFFERED,
    DOCTOR_RENAME,
    DOCTOR_REPLACE,
    DOCTOR_SYNC_FOLDER,
    DOCTOR_LIST,
    DOCTOR_LOCK,
    DOCTOR_UNLINK,
    DOCTOR_FALLOCATE,
    DOCTOR_TMPFILE,
    DOCTOR_NOREPLACE,
    DOCTOR_RING,
    DOCTOR_RING_WRITES,
    DOCTOR_RING_READS,
    DOCTOR_BANDWIDTH,
    DOCTOR_OTHER,
    DOCTOR_CLEAN_UP,
    DOCTOR_CHECKS,
};

enum doctor_outcome {
    DOCTOR_NOT_TRIED,
    DOCTOR_OK,
    DOCTOR_ABSENT, /* the file system does not have it, and kvd does not need it */
    DOCTOR_FAILED,
};

enum { DOCTOR_TEXT_BYTES = 160, DOCTOR_NAME_BYTES = 256, DOCTOR_FULL_BYTES = 256 << 20, DOCTOR_IO_BYTES = 1 << 20, DOCTOR_DEPTH = 16 };

struct doctor_result {
    enum doctor_outcome outcome;
    int err;                      /* of a failure; 0: the text says it */
    uint64_t us;                  /* that it took */
    char text[DOCTOR_TEXT_BYTES]; /* more about it, or nothing */
};

/* What another path to the same directory sees late. */
enum doctor_sight { DOCTOR_NEW_NAME, DOCTOR_NEW_SIZE, DOCTOR_GONE, DOCTOR_REPLACED, DOCTOR_SIGHTS };

struct doctor_report {
    atomic_bool stop;           /* asked for by the parent */
    atomic_int current;         /* enum doctor_check, or DOCTOR_CHECKS when all is done */
    char folder[PATH_MAX + 64]; /* the temporary folder; empty when there is none */
    /* the mount */
    char type[DOCTOR_NAME_BYTES], source[DOCTOR_NAME_BYTES], point[DOCTOR_NAME_BYTES];
    bool fuse, on_root, others_can_write;
    uint64_t free_bytes, total_bytes, free_files;
    bool space_sane;
    /* what was tried */
    struct doctor_result results[DOCTOR_CHECKS];
    bool direct;
    uint64_t truncated_blocks_bytes; /* st_blocks of a file of DOCTOR_FULL_BYTES with nothing in it */
    uint64_t written_blocks_bytes;   /* and with DOCTOR_IO_BYTES written */
    uint64_t write_submit_us[2];     /* DOCTOR_DEPTH growing writes: time in io_uring_submit, plain and with IOSQE_ASYNC */
    uint64_t write_total_us[2];
    uint64_t read_submit_us[2];
    uint64_t read_total_us[2];
    uint64_t bytes_per_second;       /* reads at DOCTOR_DEPTH, 1 MiB each */
    uint64_t seen_ms[DOCTOR_SIGHTS]; /* UINT64_MAX: not within the time */
};

/* Name in output and JSON. */
const char *doctor_check_name(enum doctor_check check);
const char *doctor_sight_name(enum doctor_sight sight);

enum doctor_level { DOCTOR_GOOD, DOCTOR_WARNING, DOCTOR_BAD };

/* Say in words what kvd will make of it, one call for each thing. `waited_ms`: how long was waited for the other path; 0: none was
 * given. Returns the worst level. Pure. */
typedef void (*doctor_say_fn)(void *arg, enum doctor_level level, const char *text);
enum doctor_level doctor_judge(const struct doctor_report *report, uint64_t waited_ms, doctor_say_fn fn, void *arg);

/* Look at the mount and its space: 0 or -errno. */
int doctor_look(const char *directory, struct doctor_report *report);

/* Try everything out below `directory`, and what `other` (NULL for none), another path to it, sees of it within `wait_ms`. `began` is
 * told of each check when it begins. Leaves nothing behind, unless DOCTOR_CLEAN_UP says so. */
typedef void (*doctor_began_fn)(void *arg);
void doctor_try(const char *directory, const char *other, uint64_t wait_ms, struct doctor_report *report, doctor_began_fn began, void *arg);

/* Unlink what is in a folder of ours, and the folder: 0 or -errno. */
int doctor_clean_up(const char *folder);

/* For the parts of doctor_try(). */

uint64_t doctor_now_us(void);
/* 0 or -errno; the text is for the reader. */
int doctor_text(struct doctor_result *result, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* io_uring on files `path` (DOCTOR_DEPTH MiB; made by the writes): each returns 0 or -errno and fills in what it measured. `memory` is
 * DOCTOR_DEPTH MiB, aligned. -ENOSYS, -EPERM: io_uring is refused. */
int doctor_ring_open(struct doctor_result *result);
int doctor_ring_writes(struct doctor_report *report, const char *folder, void *memory);
int doctor_ring_reads(struct doctor_report *report, const char *folder, void *memory);
int doctor_ring_bandwidth(struct doctor_report *report, const char *folder, void *memory);

/* How long until `other` sees what happens in `folder`, which is the same folder. */
int doctor_watch(struct doctor_report *report, const char *folder, const char *other, uint64_t wait_ms);

#endif
