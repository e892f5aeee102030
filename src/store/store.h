/* store.h - the one door over both tiers: put, get, remove, look up, evict, persist, promote.
 *
 * Owns:    the pool, the replica table, the leases, the disk tier, and every decision about what is kept where.
 * Borrows: the loop, the log, requests in the caller's memory.
 * Not its: sockets, frames, msgpack, statuses.
 * Thread:  any: it is a monitor. Its functions take the lock of its loop, hold it for work in memory only, and let go of it between
 *          batches; what is asked of two loops at once takes effect in some order. A request is one loop's: it is begun, cancelled and
 *          answered there. Callbacks come from that loop, without the lock, never inside the starting call, exactly once, as the last
 *          thing done.
 *
 * A store of a cluster (store_config.in_cluster) is a holder alone: which versions a key has, and which of them are dead, is said by the
 * key's owner, wherever that is. What such a store does otherwise is in a section of its own below.
 *
 * Many calls can be answered at once or later. They return STORE_PENDING when `fn` will run, and anything else when it
 * will not.
 */
#ifndef KVD_STORE_STORE_H
#define KVD_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/list.h"
#include "base/log.h"
#include "loop/file.h"
#include "loop/loop.h"
#include "meta/lease.h"
#include "tier/backing.h"
#include "tier/disk.h"
#include "tier/pool.h"

struct store;

/* Ordinary outcomes; errors are negative. */
enum store_outcome { STORE_OK = 0, STORE_PRESENT = 1, STORE_MISS = 2, STORE_PENDING = 3 };

/* What is written to disk. A touch of a key is a put that stores it, a put that finds it there (or replaces it), a get, a look-up with a
 * lease. What a put asks for (ack_disk) goes to disk under every policy. */
enum persist {
    /* every object, as soon as it is put */
    PERSIST_WRITE_THROUGH,
    /* what memory gives up, before it goes: ahead of need, so that a put finds room */
    PERSIST_ON_EVICT,
    /* an object whose key is touched a second time, while it is in the table or after it was dropped (a sketch remembers the keys that were
     * dropped last); what memory gives up before that is dropped */
    PERSIST_SECOND_TOUCH,
    /* nothing else */
    PERSIST_NONE
};

/* When the disk is behind (the queue is full; memory has nothing to give up but what the policy would write first): the put waits, then
 * gets BUSY; or it goes through, and the write is skipped, or the coldest object dropped, and counted. */
enum when_behind { BEHIND_WAIT, BEHIND_SHED };

struct store_config {
    uint64_t memory_bytes;    /* a multiple of 4 KiB, at least 1 MiB */
    uint64_t inflight_bytes;  /* room of bodies under way and disk reads; at most half the pool counts */
    uint64_t queue_bytes;     /* records waiting to be written; at most half the pool counts */
    uint64_t read_timeout_ms; /* nobody waits longer for a read that has begun; 0: for ever */
    enum persist persist;
    enum when_behind when_behind;
    bool in_cluster;          /* with segments only, and without probe */
    bool prefault;            /* touch the pool's memory ahead of use, in the background */
    bool probe;               /* where each object is a file: look for those of other hosts, and whether they are still there */
    uint64_t disk_min_bytes;  /* what the disk tier keeps when the file system is too full */
    uint64_t index_bytes;     /* what the replica table may take; 0: no bound */
    uint64_t rewrite_percent; /* of what is written: how much may be written on before its segment is given up */
    struct disk_config disk;
};

struct store_desk;

/* From the loop of the desk that store_new() is given. */
struct store_events {
    /* The disk tier is open, or has failed to (err as disk_events.opened). Once. */
    void (*opened)(void *arg, int err);
    /* All that is on disk is known. Once, after opened(0). */
    void (*recovered)(void *arg);
    /* In a cluster only: store_changes() has something to tell. One at a time is on its way. */
    void (*changed)(void *arg);
};

/* Where one loop stands at the store: what is asked here is answered on its loop. One a loop, the caller's memory until store_free(). */
struct store_desk {
    struct store *store;
    struct loop *loop;
    /* under the store's lock */
    struct list answers;
    bool called;
    uint64_t room_seen; /* store->room_changes, as of the last try of a put of this loop to get room */
    struct task task;
};
void store_desk_init(struct store_desk *desk, struct store *store, struct loop *loop);

/* Part of each request that is answered later. The store's. */
struct store_answer {
    struct list link;
    struct store_desk *desk;
    void (*tell)(struct store_answer *answer);
    int outcome;
};

/* `loop` is what the store and its disk live on: timers, files, jobs. One with a lock, where several loops use the store. `home` is where
 * events are told (and may be the same). Returns 0, -ENOMEM or another errno. */
int store_new(struct store **out, struct loop *loop, struct loop *home, const struct log *log, const struct store_config *config,
              const struct store_events *events, void *arg);
/* Write what is queued, and what the policy would have on disk and is not, and close the disk tier, then fn. With `abandon`, what is queued
 * is dropped (and counted). */
typedef void (*store_closed_fn)(void *arg);
void store_close(struct store *store, bool abandon, store_closed_fn fn, void *arg);
/* Time is over: what store_close() has not begun to write is dropped (and counted), what it has written is closed in order. Harmless at any
 * other time. */
void store_close_hurry(struct store *store);
/* After fn of store_close(), when no request is under way and no blob is referenced outside. */
void store_free(struct store *store);

/* From now on. What is in memory and on no disk stays there until the new policy writes it; every write under way goes on. */
void store_set_persist(struct store *store, enum persist persist);
void store_set_when_behind(struct store *store, enum when_behind when_behind);
enum persist store_persist(struct store *store);

/* ---- waiting for room ---- */

struct store_wait;
/* err: 0 try again; KVD_EBUSY: the time is over. */
typedef void (*store_wait_fn)(struct store_wait *wait, int err);
struct store_wait {
    /* the caller's */
    uint64_t bytes;              /* of the value that waits */
    const struct store_put *put; /* it has begun, and has not all its room: the slowest others may be given up for it; or NULL */
    /* the store's */
    struct store_answer answer;
    struct store *store;
    struct list link;
    uint64_t until_ms;
    bool last_try; /* the time is over, but room has come free as it passed */
    store_wait_fn fn;
};
/* Behind a try of the same loop that has just failed for want of room (KVD_EBUSY): what came free since counts. */
void store_wait_start(struct store_desk *desk, struct store_wait *wait, uint64_t for_ms, store_wait_fn fn);
/* Harmless when it is not waiting; fn will not run. It must have been set up by store_wait_init(). */
void store_wait_init(struct store_wait *wait);
void store_wait_stop(struct store_wait *wait);
/* How long a client that is told BUSY should stay away, in ms: until the disk, at the rate measured of late, has made room for these
 * `bytes` behind those of the clients who were told before. 5 s at most. */
uint64_t store_retry_after_ms(struct store *store, uint64_t bytes);

/* ---- put ---- */

struct store_put;
/* outcome: STORE_OK, STORE_PRESENT; KVD_EBUSY (the bound of what may be pinned in memory, or the object is just going: try again);
 * KVD_EOFF, KVD_EFULL, KVD_ETOOLARGE, -errno: what was asked of the disk failed; the value may be there or not. */
typedef void (*store_put_fn)(struct store_put *put, int outcome);
struct store_put {
    /* the caller's, before store_put_begin() */
    struct span key; /* stays until the end */
    uint64_t size;
    bool replace, ack_disk, pin;
    uint64_t ttl_ms;     /* how long it lives from the moment it is shown; 0, or more than 2^48: until it is given up */
    uint64_t expires_ms; /* in a cluster, in the place of that, until store_put_show(): when it ends, by the wall clock; 0: never */
    bool has_checksum;
    uint64_t checksum; /* what the value's must be, if has_checksum */
    /* set with STORE_OK and STORE_PRESENT */
    uint64_t version;
    bool unseen; /* set with STORE_PENDING: the value is not shown yet */
    bool shown;  /* in a cluster, set by store_put_show(): it is; false: it was overtaken, or failed */
    /* the store's */
    struct store_answer answer;
    struct store *store;
    struct blob *blob;
    void *hashing;
    uint64_t received;
    uint64_t counted;      /* in the store's sum of room under way */
    struct list filling;   /* store->filling, from room to room */
    uint64_t room_ms;      /* since when it has its last room */
    uint64_t giving_bytes; /* of room, since it was given up; 0: it was not */
    store_put_fn fn;
    int outcome;
    bool retried;
    struct list link;
    struct list sealed;    /* a slot of the store's, while it is */
    uint64_t dead_version; /* the highest that was forgotten of its key meanwhile */
    void *waits_for;       /* a write; */
    struct list late_link; /* while it does */
    uint64_t since_ms;     /* when that write was seen to move last */
    struct disk_kill kill;
    struct disk_sync sync;
};

/* Begin. STORE_OK: receive; STORE_PRESENT: the key is there and stays: skip the body, then call store_put_present();
 * KVD_EBUSY: the queue to disk is full, or the table: wait and call again; KVD_ETOOLARGE: can never fit; -ENOMEM. */
int store_put_begin(struct store_desk *desk, struct store_put *put);
/* Where the next bytes of the body go: *len >= 1 bytes at *base, at most what is missing. 0, KVD_EBUSY (wait, call again), -ENOMEM. */
int store_put_room(struct store_put *put, void **base, size_t *len);
/* `len` bytes have come there. */
void store_put_received(struct store_put *put, size_t len);
/* Others wait for room, and this one was the slowest of those that have some: give it up, and say that we are busy. */
bool store_put_given_up(const struct store_put *put);
/* All of it has come. STORE_OK, STORE_PRESENT, STORE_PENDING, KVD_ECORRUPT (not the checksum that was announced; nothing happened), or an
 * error of store_put_fn. However it ends, the put holds nothing afterwards. */
int store_put_commit(struct store_put *put, store_put_fn fn);
/* As store_put_commit() for a put that store_put_begin() found PRESENT; the object may be gone by now: STORE_PRESENT all the same, but
 * KVD_EBUSY where it was to be on disk. */
int store_put_present(struct store_put *put, store_put_fn fn);
/* Give up before commit; nothing stays. Harmless after the end. */
void store_put_abort(struct store_put *put);

/* ---- get ---- */

struct store_get;
/* outcome: STORE_OK; STORE_MISS (with `reason`); KVD_EBUSY: no room to read it into. */
typedef void (*store_get_fn)(struct store_get *get, int outcome);
struct store_get {
    /* the caller's */
    struct span key; /* needed for the call only */
    uint64_t offset; /* past the end: an empty range */
    uint64_t length; /* UINT64_MAX: the rest */
    bool quiet;      /* do not note the use: store_touch() will */
    uint64_t wanted; /* in a cluster: this version; any other that is here is a miss with reason "version". 0: whatever is here */
    /* set with STORE_OK */
    struct blob *blob;                 /* a reference for the caller: store_unref() */
    uint64_t blob_offset, blob_length; /* the bytes asked for, in it */
    uint64_t size, version, checksum;
    bool from_disk;
    /* set with STORE_MISS: static text, or NULL for an ordinary miss */
    const char *reason;
    bool awaited;           /* set with STORE_MISS, in a cluster: a put of the key is sealed and not shown yet */
    uint64_t pending_bytes; /* set with STORE_PENDING: the size of the value, if it is known */
    /* the store's */
    struct store_answer answer;
    struct store *store;
    store_get_fn fn;
    struct list link;
    void *load;
    uint64_t asked; /* the offset */
    bool looked_again;
};
/* STORE_OK, STORE_MISS, STORE_PENDING, or an error. */
int store_get_start(struct store_desk *desk, struct store_get *get, store_get_fn fn);
/* Give up a pending get: fn will not run. */
void store_get_cancel(struct store_get *get);
/* Drop a reference that a get handed out. */
void store_unref(struct store *store, struct blob *blob);
struct blob;
/* Note the use of a batch: last to first, so that a prefix outlives its tail. */
void store_touch(struct store *store, const struct span *keys, uint32_t count);

/* ---- look-ups: answered at once, never by the file system ---- */

enum { IN_MEMORY = 1, ON_DISK = 2 };
/* present[i] as on the wire; ill-formed keys are absent. With a lease (lease_ms > 0), only what could be leased is present.
 * *lease is 0 when none was asked for or nothing could be leased. Returns how many are present. */
uint32_t store_exists(struct store *store, const struct span *keys, uint32_t count, uint64_t lease_ms, struct lease_owner *owner,
                      uint8_t *present, uint64_t *lease);
struct store_matched {
    uint32_t count, memory;
    uint64_t lease;
};
void store_match(struct store *store, const struct span *keys, uint32_t count, uint64_t lease_ms, bool warm, struct lease_owner *owner,
                 struct store_matched *out);
/* keys NULL: all of the lease. */
void store_release(struct store *store, uint64_t lease, const struct span *keys, uint32_t count);
void store_owner_end(struct store *store, struct lease_owner *owner);
/* Returns how many changed; beyond the bound of what may be held in memory only, none more. */
uint32_t store_pin(struct store *store, const struct span *keys, uint32_t count, bool pinned);

enum { STORE_FILE_BYTES = 1536 }; /* node's folder and a name in it */

struct store_stat {
    uint64_t size, version, checksum, age_ms, idle_ms, hits;
    bool pinned, leased;
    bool mortal;
    uint64_t ttl_ms; /* left, if it is mortal */
    bool memory, disk, disk_writing;
    char file[STORE_FILE_BYTES];
    uint64_t offset;
};
/* STORE_OK or STORE_MISS. */
int store_stat(struct store *store, struct span key, struct store_stat *out);

struct store_scanned {
    struct span key;
    uint64_t size;
    bool memory, disk;
};
/* Without the store's lock; the key is borrowed for the call. */
typedef void (*store_scan_fn)(void *arg, const struct store_scanned *object);
/* As table_scan(). */
uint64_t store_scan(struct store *store, uint64_t cursor, struct span prefix, uint32_t limit, store_scan_fn fn, void *arg);

/* ---- remove ---- */

struct store_remove;
/* outcome: STORE_OK, or an error: gone from this process, but the disk could not take the record of it. */
typedef void (*store_remove_fn)(struct store_remove *remove, int outcome);
struct store_remove {
    /* set before STORE_OK and before fn */
    uint64_t removed;
    /* the store's */
    struct store_answer answer;
    struct store *store;
    store_remove_fn fn;
    uint32_t kills;
    bool own; /* other nodes' objects stay */
    int err;
    struct span prefix;
    uint64_t version;
    uint64_t cursor;
    struct list link;
    bool paused;
    struct task step;
};
/* Objects are gone for everybody when this returns; STORE_OK at once when no disk need know. Keys are borrowed for the call. */
int store_remove_start(struct store_desk *desk, struct store_remove *remove, const struct span *keys, uint32_t count, store_remove_fn fn);
/* Objects put before this call are gone when fn runs; always STORE_PENDING or an error. `prefix` (KILL_PREFIX, borrowed until fn). */
int store_remove_many_start(struct store_desk *desk, struct store_remove *remove, enum kill_kind kind, struct span prefix,
                            store_remove_fn fn);
/* As a remove of all, but what other nodes have stored in a directory that is shared stays; and, unless it fails, it is the end: from now
 * on puts are KVD_ECLOSING, those whose bodies are under way too. */
int store_forget_start(struct store_desk *desk, struct store_remove *remove, store_remove_fn fn);

/* ---- in a cluster ----
 *
 * store_put_begin() never says STORE_PRESENT; in the place of store_put_commit() come store_put_seal() and store_put_show() or
 * store_put_abort(). store_put_present(), store_remove_start() and store_remove_many_start() are not for it. Records that a start finds are
 * holdings, nothing more. What this node has given up by itself, and might find again after a restart, it buries in its own log. */

/* All of the body has come: judge it. STORE_OK: it is whole, and nobody sees it; put->size and put->checksum say what it is. KVD_ECORRUPT,
 * KVD_EBUSY (pinned, and too much is held in memory alone), KVD_ECLOSING: the put holds nothing afterwards. */
int store_put_seal(struct store_put *put);
/* Show what is sealed as this version, unless a newer one (or this one) is here, or it was forgotten meanwhile: then it is dropped in
 * silence, STORE_OK, not shown. No log is written. STORE_OK, STORE_PENDING (ack_disk), or an error: of what was asked of the disk as
 * store_put_fn has it; KVD_EBUSY (the disk tier is not open yet), KVD_EUSAGE (2^62 and more), -ENOMEM, KVD_ECLOSING. put->shown says
 * whether it is shown. The put holds nothing afterwards but, while it is pending, its place among those who wait. */
int store_put_show(struct store_put *put, uint64_t version, store_put_fn fn);

/* What is here of keys[i] with versions[i] or one below is gone from every tier of this process; so is a sealed put of it that is to be
 * shown as such a version. Reads under way end as for a remove, writes under way are for nothing. No log is written. Keys are borrowed for
 * the call. */
void store_forget_versions(struct store *store, const struct span *keys, const uint64_t *versions, uint32_t count);

struct store_kill;
/* outcome: STORE_OK: no restart takes `version` or one below for alive, of what the kill names, whoever's folder it is in; or an error. */
typedef void (*store_kill_fn)(struct store_kill *kill, int outcome);
struct store_kill {
    /* the store's */
    struct store_answer answer;
    store_kill_fn fn;
    struct disk_kill kill;
};
/* Write into this node's remove log that `version` of what `name` says (borrowed until fn), and all before it, are dead, whatever is here
 * of it. Versions that this node gives from now on are above. STORE_PENDING; KVD_EBUSY (not open yet), KVD_EOFF, KVD_ECLOSING, KVD_EUSAGE:
 * fn will not run. What has failed (KVD_EOFF while it is tripped included) the disk tier tries again as long as the process lives, within a
 * bound. fn's errors: KVD_EOFF, KVD_ETIMEOUT, -errno. */
int store_log_kill(struct store_desk *desk, struct store_kill *kill, enum kill_kind kind, struct span name, uint64_t version,
                   store_kill_fn fn);

/* The next version that this node gives: above all that it gave or has seen, and below its durable ceiling, so that no restart gives it
 * again. 0; KVD_EBUSY: the ceiling is not known yet, or on its way up; KVD_EOFF: there is none. */
int store_next_version(struct store *store, uint64_t *version);
/* Those that follow are above `floor`. 0, KVD_EBUSY (not open yet), KVD_EOFF, KVD_EUSAGE (2^62 and more): nothing happened. */
int store_raise_version(struct store *store, uint64_t floor);

/* All that this node has of a key. */
struct store_holding {
    struct span key;
    uint64_t version; /* of what is here; where nothing is, of what went last */
    uint64_t size, checksum;
    uint64_t expires_ms; /* wall clock; 0: never */
    bool in_memory, on_disk;
    bool synced; /* on disk, and it would survive a power cut */
    bool sealed; /* a put of the key is sealed and not shown yet */
    bool unsure; /* nothing is here as far as is known, but a record may be: what could not be read, or is not buried yet */
    /* where it is on disk */
    uint64_t sequence;
    uint8_t segment_id[DISK_ID_BYTES];
    uint32_t block, blocks;
};
/* As it is now; out->key is `key`. Where nothing is here the version is 0. */
void store_holds(struct store *store, struct span key, struct store_holding *out);
/* Without the store's lock; the key is borrowed for the call. */
typedef void (*store_holding_fn)(void *arg, const struct store_holding *holding);
/* Tell of up to `limit` keys whose replicas here have changed by themselves since they were told last: left memory, on disk and synced
 * (250 ms and an fsync after it was written, or sooner), moved, gone (reclaimed, expired, wrong, in memory alone and given up). Not
 * of what a call has done. Each is told once, as it is now; one that is gone when no record of it can come back, or as unsure. Returns how
 * many; 0: there are no more. *lost: there were more than can be noted (65,536, or 8 MiB of keys): all is to be told anew, by store_walk().
 */
uint32_t store_changes(struct store *store, uint32_t limit, bool *lost, store_holding_fn fn, void *arg);
/* Tell of all that is here, some 64 of them at most in a call. Returns the cursor to go on from (0: the start, and the end). What is there
 * throughout is told at least once. What is on disk and not synced yet is told again as a change when it is. */
uint64_t store_walk(struct store *store, uint64_t cursor, uint32_t limit, store_holding_fn fn, void *arg);

struct store_kills;
/* outcome: STORE_OK, or an error as disk_kill_page_fn's. */
typedef void (*store_kills_fn)(struct store_kills *kills, int outcome);
struct store_kills {
    /* the caller's: page.cursor and page.limit; set before fn(STORE_OK): all of page. Of page.memory the store sees to itself: the kills
     * are gone when fn returns */
    struct disk_kill_page page;
    /* the store's */
    struct store_answer answer;
    store_kills_fn fn;
};
/* A page of what this node's remove log says: see disk_kill_page_start(). Every kill whose fn has said STORE_OK before this call is there
 * until page.at_end, those too that only bury what this node had. STORE_PENDING, KVD_EOFF, KVD_ECLOSING. */
int store_kills_start(struct store_desk *desk, struct store_kills *kills, store_kills_fn fn);

/* ---- sync, seal ---- */

struct store_sync;
typedef void (*store_sync_fn)(struct store_sync *sync, int err);
struct store_sync {
    /* set before fn: writes that failed while we waited */
    uint64_t failed;
    /* the store's */
    struct store_answer answer;
    struct store *store;
    store_sync_fn fn;
    struct list link;
    uint64_t upto;
    uint64_t cursor;
    uint64_t hot_left;
    bool seal, walking;
    uint64_t since_ms; /* when the writes that it waits for were seen to move last */
    struct task step;
    struct disk_sync sync;
};
/* Write what the policy could still write and is not on disk, the most recently used first; fn(0) when all of it that was put before is on
 * disk and synced, but for `failed` of them; with `seal` the open segment is ended too.
 * fn(KVD_ETIMEOUT): writes have stood still for --disk-timeout (the sync of a close goes on waiting).
 * STORE_PENDING, or KVD_EOFF / KVD_ECLOSING. */
int store_sync_start(struct store_desk *desk, struct store_sync *sync, bool seal, store_sync_fn fn);

/* ---- memory given up on purpose ---- */

struct store_evict;
typedef void (*store_evict_fn)(struct store_evict *evict);
struct store_evict {
    /* set before fn: what left memory */
    uint64_t objects, bytes;
    /* the store's */
    struct store_answer answer;
    struct store *store;
    store_evict_fn fn;
    uint64_t target;
    uint64_t failures;
    uint64_t since_ms; /* when the writes that it waits for were seen to move last */
    struct list link;
    struct task step;
};
/* Have objects leave memory, the least recently used first, until they are `bytes` (UINT64_MAX: all that can): those that are on disk; then
 * those that the policy puts there, when they are written. Nothing is lost, and what is leased or pinned stays. fn runs when it is so, when
 * nobody else can go, or when writes have stood still for --disk-timeout. */
void store_evict_start(struct store_desk *desk, struct store_evict *evict, uint64_t bytes, store_evict_fn fn);
/* Give it up: fn will not run. What left has left. */
void store_evict_stop(struct store_evict *evict);

/* ---- reading all that is on disk ---- */

struct store_scrub;
/* err: 0: all of it was read; -ECANCELED: it was stopped; KVD_ECLOSING, KVD_EOFF: it was broken off. */
typedef void (*store_scrub_fn)(struct store_scrub *scrub, int err);
struct store_scrub {
    /* the store's */
    struct store_answer answer;
    struct list link;
    store_scrub_fn fn;
};
struct store_scrubbed {
    bool running;
    bool stopped;                  /* it has ended, and not because all was read */
    uint64_t run;                  /* which one this is, from 1; 0: there was none */
    uint64_t bytes_per_s;          /* it was asked for */
    uint64_t records, bytes;       /* read */
    uint64_t of_records, of_bytes; /* that were on disk at its beginning */
    uint64_t bad;                  /* of the records: their bytes were wrong, or their file ended early; they are dropped */
    uint64_t unreadable;           /* of the records: the device failed; they stay */
    uint64_t ms;                   /* how long it took, or has taken */
};
/* Read every record that is on disk, a little at a time and `bytes_per_s` at most, judge it, and drop what is bad. One at a time: when one
 * is running, this joins it (and its rate counts). `scrub` NULL: nobody waits; otherwise fn runs at its end. *run is set. 0 or KVD_EOFF. */
int store_scrub_start(struct store_desk *desk, struct store_scrub *scrub, uint64_t bytes_per_s, uint64_t *run, store_scrub_fn fn);
/* End the one that is running. Its number; 0: none is. */
uint64_t store_scrub_stop(struct store *store);
/* Wait no longer: fn will not run; it goes on. */
void store_scrub_leave(struct store_scrub *scrub);

/* ---- segments ---- */

struct store_segment {
    const char *file, *state; /* borrowed for the call */
    uint64_t sequence;
    uint64_t bytes;                    /* as they count in the disk's figure */
    uint64_t live_objects, live_bytes; /* of their values */
    uint64_t held;                     /* of the objects: leased or pinned, and not in memory */
    uint64_t age_ms;
    bool was_read;    /* since start */
    uint64_t idle_ms; /* since the last read of it, if it was read */
};
/* Without the store's lock. */
typedef void (*store_segment_fn)(void *arg, const struct store_segment *segment);
/* Up to `limit` of them in the order of their numbers, those after `cursor` (0: the first). Returns the cursor to go on from, 0 at the end.
 */
uint64_t store_segments(struct store *store, uint64_t cursor, uint32_t limit, store_segment_fn fn, void *arg);

/* A version that is as high as any that this node has given, or higher. */
uint64_t store_newest_version(struct store *store);

/* ---- the end ---- */

/* What goes on in the background, and somebody waits for, ends now: a scrub. */
void store_quiet(struct store *store);
/* The store_close() that follows deletes the node's folder: what in it is kvd's own. */
void store_erase(struct store *store);
/* After fn of store_close(): 0, or why some of it is still there. */
int store_erase_err(struct store *store);

/* ---- figures ---- */

struct store_figures {
    uint64_t puts, puts_present, puts_replaced, puts_corrupt, put_bytes;
    uint64_t gets, hits_memory, hits_disk, misses, get_bytes, get_disk_bytes;
    uint64_t exists_keys, match_keys, match_hits;
    uint64_t removed;
    uint64_t expired;           /* their time was over */
    uint64_t recovered_expired; /* records found at start whose time was over */
    uint64_t evicted;           /* left memory, stay on disk */
    uint64_t promoted;          /* came back to memory */
    uint64_t loads_shared;      /* gets that joined a read under way */
    uint64_t reclaimed_segments;
    uint64_t found;                              /* objects that recovery brought into the table */
    uint64_t written_value_bytes;                /* of values, in writes that succeeded */
    uint64_t reclaimed_objects;                  /* files of their own that were given up */
    uint64_t probes, probes_found;               /* files looked at by key; that were another host's, or not known yet */
    uint64_t rewritten_objects, rewritten_bytes; /* written on before their segment was given up */
    uint64_t rewrite_failures;                   /* that could not be read, written or synced */
    uint64_t given_back_segments;                /* of reclaimed_segments: because the file system was too full */
    uint64_t reclaims_left;                      /* segments that could not be emptied of what is held there */
    uint64_t recovered_beyond_index;             /* found at start, and the table was at its bound */
    /* objects that are gone without having been removed, by reason */
    uint64_t dropped_evicted;   /* memory gave it up and it was on no disk: by the policy, or because its write failed */
    uint64_t dropped_untouched; /* the same, and nobody had touched it a second time (PERSIST_SECOND_TOUCH) */
    uint64_t dropped_shed;      /* the same, because the disk was behind (BEHIND_SHED) */
    uint64_t dropped_reclaimed; /* its segment was given up and it was not in memory */
    uint64_t dropped_corrupt;   /* its bytes on disk were wrong */
    uint64_t dropped_short;     /* its file ended early */
    uint64_t dropped_index;     /* in memory alone, and the table was at its bound */
    uint64_t dropped_elsewhere; /* its own file was gone when it was read: by another host, or by a replace that waits for its end */
    uint64_t dropped_versions;  /* put before the version ceiling was known */
    /* objects that stayed in memory only although the policy says disk, by reason */
    uint64_t unwritten_collision; /* another key's file has its name */
    uint64_t unwritten_off, unwritten_full, unwritten_error, unwritten_memory, unwritten_closing, unwritten_shed;
    uint64_t read_errors;   /* gets answered with a miss because the device failed; the replica stays */
    uint64_t read_timeouts; /* of them, those whose read had not ended by its deadline */
    uint64_t waits, waits_expired;
    uint64_t puts_given_up; /* slow ones, for others who waited for their room */
    uint64_t index_busy;    /* puts that the table had no room for, each time that they were tried */
};

/* A step of background work, in CPU time. */
struct step {
    const char *what; /* NULL: there was none yet */
    uint64_t us;
};

enum { STORE_REASON_BYTES = 512 };

struct store_info {
    struct store_figures figures;
    struct step longest_step;
    struct table_sums table;
    struct disk_figures disk;
    struct backing_figures backing;
    const char *disk_state;
    char disk_off_reason[STORE_REASON_BYTES], disk_trouble[STORE_REASON_BYTES];
    struct file_counts files;
    struct loop_holds holds; /* of the lock; nothing where there is one loop */
    uint64_t memory_limit_bytes, memory_used_bytes, memory_blobs;
    uint64_t held_memory_only_bytes;
    uint64_t inflight_bytes, inflight_limit_bytes;
    uint64_t queue_limit_bytes;
    uint64_t leases, lease_holds;
    struct store_scrubbed scrub;
    uint64_t reclaim_high_bytes, reclaim_low_bytes, rewrite_budget_bytes;
};
void store_info(struct store *store, struct store_info *out);

#endif
