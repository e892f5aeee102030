/* disk_rig.h - a disk tier on real files in a folder of its own, and the little store above it that tests need.
 *
 * A value's bytes are made from its key and version, so that whatever is read can be checked. Everything waits by running the loop
 * until a condition holds; a watchdog of 60 s aborts the test otherwise.
 */
#ifndef KVD_TEST_DISK_RIG_H
#define KVD_TEST_DISK_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tier/disk.h"

enum { RIG_KEY_MAX = 1024, RIG_LOG_LINES = 4096 };

/* What the tests' store knows of one key: its highest version. */
struct rig_object {
    uint8_t key[RIG_KEY_MAX];
    size_t key_len;
    uint64_t version;
    uint64_t size;
    uint64_t checksum;
    struct disk_where where;
};

struct rig {
    char root[256]; /* a temporary folder */
    char dir[300];  /* the tier's, below it */
    struct loop *loop;
    struct log log;
    char *log_text;
    size_t log_len;
    struct memory memory;
    struct pool *pool;
    struct disk *disk;
    uint64_t limit_bytes, segment_bytes, read_split_bytes, unlink_delay_ms, timeout_ms;
    bool forbid_ring, keep_kills;
    const char *node;  /* NULL: "node1" */
    bool give_up;      /* on `full`: give up the oldest sealed segment */
    bool unlink_later; /* keep a segment whose kill is durable until rig_unlink() */
    /* seen */
    int opened; /* calls */
    int open_err;
    int recovered, full_calls, found_calls, gone_calls;
    struct disk_kill give_up_kill;
    struct segment *giving_up, *to_unlink;
    struct rig_object *objects;
    size_t object_count, object_room;
};

/* A fresh folder and an unopened tier: limit 64 MiB, segments of 1 MiB. */
void rig_init(struct rig *rig);
/* Another rig over a copy of this one's files as they are now: what a kill -9 at this moment would leave. */
void rig_init_copy(struct rig *rig, const struct rig *from);
void rig_fini(struct rig *rig);

/* Open, wait for opened(), and, if it went well, for recovered(), or until the tier has tripped. Returns what opened() said. */
int rig_open(struct rig *rig);
/* Begin only. */
void rig_open_start(struct rig *rig);
void rig_close(struct rig *rig);
void rig_close_abandon(struct rig *rig);
void rig_reopen(struct rig *rig);

/* Run the loop until cond(arg). */
void rig_until(struct rig *rig, bool (*cond)(void *arg), void *arg);
/* Run a few turns: enough for what is queued to begin, not to end. */
void rig_turns(struct rig *rig, unsigned turns);
/* Until nothing is queued, written, sealed, compacted any more. */
void rig_settle(struct rig *rig);

/* ---- values ---- */
struct blob *rig_blob(struct rig *rig, const char *key, uint64_t version, uint64_t size);
uint64_t rig_checksum(const char *key, uint64_t version, uint64_t size);
bool rig_blob_is(const struct blob *blob, const char *key, uint64_t version, uint64_t offset);

/* ---- one operation, waited for ---- */
struct rig_write {
    struct disk_write write;
    struct rig *rig;
    char *key;
    bool done;
    int err;
};
/* Start; free with rig_write_free() when done. */
struct rig_write *rig_write_start(struct rig *rig, const char *key, uint64_t version, uint64_t size);
void rig_write_free(struct rig_write *write);
/* Write a new version and note the object; returns the error. */
int rig_put(struct rig *rig, const char *key, uint64_t size);
struct rig_read {
    struct disk_read read;
    struct rig *rig;
    const char *key;
    bool done;
    int err;
};
/* Start to read [offset, offset + length) of what is known of the key, which must be something. */
void rig_read_start(struct rig *rig, struct rig_read *read, const char *key, uint64_t offset, uint64_t length);
/* Wait for its end: 0, or the error; 1 when the tier said 0 and the bytes are wrong. */
int rig_read_end(struct rig_read *read);
/* Read [offset, offset + length) of what is known of the key and check the bytes: 0, -ENOENT when it is not known, or the error; 1 when the
 * tier said 0 and the bytes are wrong. */
int rig_get_range(struct rig *rig, const char *key, uint64_t offset, uint64_t length);
int rig_get(struct rig *rig, const char *key);
int rig_kill(struct rig *rig, enum kill_kind kind, const char *name);
int rig_sync_all(struct rig *rig);
int rig_sync(struct rig *rig, const char *key);
int rig_seal(struct rig *rig);
/* Kill a segment, forget what is there, unlink it, wait until it is gone. */
int rig_give_up(struct rig *rig, struct segment *segment);
void rig_unlink(struct rig *rig);

struct rig_object *rig_object(struct rig *rig, const char *key);
void rig_forget(struct rig *rig, const char *key);
struct disk_figures rig_figures(const struct rig *rig);
/* How often the log says event=NAME. */
unsigned rig_logged(const struct rig *rig, const char *event);

/* ---- files ---- */
/* The n-th (from 0, by name) file of the node's folder whose name ends so; false when there is none. */
bool rig_file(const struct rig *rig, const char *suffix, unsigned n, char *path, size_t path_len);
unsigned rig_file_count(const struct rig *rig, const char *suffix);
/* Read or replace a whole file. */
uint8_t *rig_file_load(const char *path, size_t *len);
void rig_file_store(const char *path, const uint8_t *at, size_t len);
void rig_file_flip(const char *path, uint64_t offset, uint8_t mask);
uint64_t rig_files_bytes(const struct rig *rig, const char *suffix);

#endif
