/* store_impl.h - what the files of this room share. Nobody else includes it. */
#ifndef KVD_STORE_STORE_IMPL_H
#define KVD_STORE_STORE_IMPL_H

#include "meta/expiry.h"
#include "store/sketch.h"
#include "store/store.h"

enum {
    STEP_KEYS = 64,        /* no step of eviction, reclaim or a prefix remove touches more objects */
    STEP_BYTES = 1 << 20,  /* or gives back more bytes */
    LOAD_WAIT_MS = 5000,   /* a read that finds no room for this long is answered BUSY */
    WAIT_TICK_MS = 20,     /* how often deadlines of waiters are looked at */
    SLOW_PUT_MS = 1000,    /* a put that fills an extent in this time is not given up for others who wait for room */
    DEAD_SLOTS = 256,      /* see store->dead */
    PROBING_SLOTS = 64,    /* see store->probings */
    MISSED_SLOTS = 1024,   /* see store->missed */
    CLOCK_SLACK_MS = 2000, /* the wall clock may be set back by so much, and what has expired stays gone without the remove log */
    CHANGE_SLOTS = 4096,   /* see struct changes */
    SEALED_SLOTS = 256,
    RANGE_ALONE_BYTES = 1 << 20 /* a range of a larger object is read by itself and not promoted */
};

/* What entry->work points to. */
enum work_kind { WORK_WRITE, WORK_LOAD };
struct work {
    enum work_kind kind;
};

/* One segment as the store sees it. */
struct shelf {
    struct place place;
    struct store *store;
    struct segment *segment;
    bool doomed;    /* being given up: takes no leases */
    bool killed;    /* and that is durable */
    bool overflows; /* it has records that the table had no room for */
    struct disk_kill kill;
    struct task step;
    struct list link;       /* store->shelves */
    uint64_t leaving_bytes; /* of it, in store->leaving_bytes */
    /* Before it is given up: what is worth keeping there is written on (rewrite.c). */
    bool moving;
    bool hurried;            /* a write waits for the room: no more than what has begun */
    uint32_t rounds;         /* through its objects */
    uint64_t left;           /* objects to be looked at in this one */
    uint32_t moves;          /* reads and writes under way, */
    uint64_t moving_bytes;   /* and the values' bytes of them */
    struct list writings;    /* of them */
    uint64_t stalled_ms;     /* since when there has been no room to read into; 0: there was */
    uint64_t rests_until_ms; /* it could not be emptied: left alone till then */
    uint64_t read_ms;        /* when something there was last read; 0: not since start */
};

/* A write of an object to disk. Lives from persist_start() until the tier's answer. */
struct writing {
    struct work work;
    struct store *store;
    struct entry *entry; /* NULL once the object was removed or replaced */
    struct list waiters; /* struct store_put: ack_disk */
    struct list link;    /* store->writings, in the order of `number` */
    uint64_t number;
    int lost;         /* what the waiters are told if the object went though nobody wanted that */
    struct task late; /* ends a write that was cancelled */
    struct disk_write write;
    /* A copy of what is on a segment that is to go, which the table follows when it is synced: NULL for any other write. */
    struct shelf *from;
    uint32_t from_block;
    struct list move_link; /* from->writings */
    bool passing;          /* it was read for this alone: it need not stay in memory */
    uint16_t hits;         /* that it had then */
    struct disk_sync sync;
    uint8_t key[];
};

/* A read of an object (or of a range of it) from disk. Lives until the tier's answer, or until the wait for room ends. */
struct load {
    struct work work;
    struct store *store;
    struct entry *entry; /* NULL once the object was removed or replaced, and for ranges read alone */
    struct blob *blob;
    struct list waiters; /* struct store_get */
    struct list link;    /* store->starved while it has no room; store->reading until its deadline */
    uint64_t since_ms;   /* it waits for room; it is being read */
    uint64_t counted;
    bool late;          /* its deadline has passed: who waited was answered, and its room is the kernel's until the tier's answer */
    struct shelf *from; /* it is read to be written on; or NULL */
    struct disk_read read;
    uint8_t key[];
};

/* There was no file for a key of this hash. */
struct missed {
    uint64_t hash;
    uint64_t until_ms;
};

/* All that is on disk, record by record and piece by piece. */
struct scrub {
    struct store_scrubbed figures;
    uint64_t began_ms;
    uint64_t due_us; /* not before */
    uint64_t cursor; /* in the table */
    bool at_end;     /* there are no records after this one */
    struct list waiters;
    struct timer timer;
    struct task step;
    struct blob *blob; /* of the piece that is being read; else NULL */
    uint64_t counted;
    struct disk_read read; /* of the record that is being looked at: its length is 0 and its key is empty when there is none */
    uint8_t key[KEY_MAX_BYTES];
};

/* Who goes next from the disk, and when. */
struct reclaim {
    bool running;           /* on the way from the high to the low one */
    bool index_near;        /* likewise, the table towards its bound */
    uint64_t leaving_bytes; /* of segments that are given up and not gone yet */
    struct shelf *moving;   /* the one that is being emptied */
    struct segment *hand;   /* the last one that was looked at; NULL: none */
    struct timer timer, retry;
    uint64_t rests_until_ms; /* after a failure */
    uint64_t low_until;      /* which check of a file system that is too full gives the next one back; 0: not chosen yet */
    /* What may be rewritten now, in bytes: a share of what is written, or a little now and then where nothing is. */
    uint64_t budget_bytes, budget_most;
    bool earned; /* since the last tick */
};

/* In a cluster: what has changed by itself and was not told yet (changes.c), and puts that wait for their version (holder.c). */
struct changes {
    struct store *store;
    struct list slots[CHANGE_SLOTS]; /* the keys that are noted, by hash */
    uint64_t count, bytes;           /* of them, their keys' */
    struct list ready;               /* those that are to be told */
    struct list written;             /* those that have a record that is not known to be synced, in the order of time */
    bool lost;                       /* there were too many: none is noted until that was told */
    bool stopped;
    bool event_on_its_way;
    struct store_answer event;
    bool syncing;
    struct disk_sync sync;
    struct timer sync_timer;
    struct task synced_task;
    struct list sealed[SEALED_SLOTS]; /* struct store_put, by hash of the key */
};

/* All of it under the loop's lock, but for what never changes: loop, log, pool's place and size. */
struct store {
    struct loop *loop;
    const struct log *log;
    struct store_config config;
    struct store_events events;
    void *events_arg;
    struct store_desk home;
    struct store_answer opened, all_known, closed; /* events */

    struct backing *backing;
    struct pool *pool;
    struct table *table;
    struct leases *leases;
    struct disk *disk;

    struct sketch *dropped;  /* keys of objects that were dropped lately */
    struct changes *changes; /* NULL: it is of no cluster */

    uint64_t high_bytes, low_bytes; /* watermarks of the pool */
    uint64_t ahead_from_bytes;      /* from here on PERSIST_ON_EVICT writes ahead */
    uint64_t margin_bytes;          /* so much it keeps written */
    uint64_t inflight, inflight_limit;
    uint64_t queue_limit;
    uint64_t pinning; /* bytes of pinned puts that wait for their kill: they count as held */

    struct list filling;   /* struct store_put that have room; the one whose last extent is the oldest is the slowest, and comes first */
    uint64_t giving_bytes; /* room of puts that were given up, and still have it */
    struct list waits;     /* struct store_wait */
    uint64_t wait_bytes;   /* that they wait for */
    uint64_t waits_told;   /* of them, by now: they have their answer, and have not tried for room yet */
    struct list starved;   /* struct load */
    struct list reading;   /* struct load: the deadlines that come, in order */
    struct timer read_timer;
    uint64_t late_bytes; /* of inflight, what is late: it bounds reads, not bodies */
    struct timer wait_timer;
    struct task room_task;  /* room may have come free: try waiters again */
    uint64_t room_changes;  /* how often it may have */
    struct task evict_task; /* on the way from the high to the low watermark */
    struct task ahead_task; /* writing ahead of eviction */
    uint64_t promised_ms;   /* what the disk drains until then is for clients who were told to come back ... */
    uint64_t promised_rate; /* ... at this rate, in bytes a second */
    struct timer lease_timer;

    struct expiry_wheel wheel; /* of the objects that end, by clock_now_ms() */
    struct timer expire_timer; /* runs while there are any */
    struct task expire_task;
    uint64_t clock_offset_ms; /* of that clock to the monotonic one */

    struct list writings;
    uint64_t writing_number; /* of the last one started */
    uint64_t write_failures;
    struct list syncs;    /* struct store_sync that wait for writings */
    struct list durables; /* struct store_put that wait for a write; a first one that is not due keeps the others waiting for a look */
    struct timer durable_timer;

    struct list evictions; /* struct store_evict */
    struct list removals;  /* struct store_remove of many, whose walks are not over */
    bool forgetting;       /* a remove of what this node has stored is under way, or done: what was put now would stay behind */
    struct scrub scrub;

    struct list shelves;
    unsigned giving_up; /* segments on their way out, until their files may go */
    bool doom_failed;   /* the last one that was to go could not */
    struct reclaim reclaim;
    unsigned overflowing; /* segments with records that the table had no room for, and that are not dead yet */
    bool recovered;
    uint64_t doubt;     /* records up to this version may be on disk though the table knows nothing of them; 0: there are none */
    bool ended_on_disk; /* a record may be there whose object has had its end: a restart would show it were the wall clock set back */
    /* By hash of the key: the highest version that went while a record of it may have been on disk. */
    uint64_t dead[DEAD_SLOTS];
    uint64_t many_dead; /* the highest version that a remove of many was to kill and could not; 0: all could */
    /* objects that are files: looks at files that are under way, by hash and in the order of time; keys without one, of late */
    struct list probings[PROBING_SLOTS];
    struct list probings_in_time;
    unsigned probing_count;
    struct missed missed[MISSED_SLOTS];
    unsigned dying_objects; /* being given up */
    bool reclaiming;        /* on the way from the high to the low watermark */
    uint64_t objects_goal;  /* bytes to get down to; UINT64_MAX: none */
    struct task objects_task;
    bool closing;
    struct store_sync last_sync; /* of store_close() */
    store_closed_fn closed_fn;
    void *closed_arg;

    struct store_figures figures;
    struct step longest_step;
};

static inline void store_lock(struct store *store)
{
    loop_lock(store->loop);
}

static inline void store_unlock(struct store *store)
{
    loop_unlock(store->loop);
}

/* In the midst of a long batch: others have their turn. What was found in the table must be found again. */
static inline void store_let_others(struct store *store)
{
    loop_let_others(store->loop);
}

/* desk.c */
void answer_init(struct store_answer *answer, struct store_desk *desk, void (*tell)(struct store_answer *answer));
/* The request is over: `tell` runs on its loop. It may be gone once the lock is let go. */
void answer_give(struct store_answer *answer, int outcome);
/* On the request's loop: it is cancelled. True: it was over, and `tell` has not run and will not. */
bool answer_take_back(struct store_answer *answer);

/* Around each step of background work: `what` is static. */
static inline uint64_t step_begin(void)
{
    return loop_cpu_us();
}

static inline void step_end(struct store *store, const char *what, uint64_t begun_us)
{
    uint64_t took_us = loop_cpu_us() - begun_us;
    if (took_us >= store->longest_step.us)
        store->longest_step = (struct step){.what = what, .us = took_us};
}

static inline uint64_t now_ms(const struct store *store)
{
    return loop_now_ms(store->loop);
}

/* Or at least is on its way. Otherwise every write ends with KVD_EOFF at once. */
static inline bool disk_works(const struct store *store)
{
    enum disk_state state = disk_state(store->disk);
    return state != DISK_OFF && state != DISK_TRIPPED;
}

static inline bool entry_held(const struct entry *entry)
{
    return entry->flags & (ENTRY_PINNED | ENTRY_LEASED);
}

/* May an object of this size and kind be held in memory alone without going over half the pool? */
bool store_may_hold(const struct store *store, const struct entry *entry);
bool store_may_hold_more(const struct store *store, uint64_t bytes);

/* Drop a reference. */
void unref(struct store *store, struct blob *blob);

/* put.c: it holds nothing afterwards */
void put_abort(struct store_put *put);
/* Its body has come: the sum of that. Without the lock. */
uint64_t put_finish(struct store_put *put);
/* Its sum is this: STORE_OK, or KVD_ECORRUPT: not what was announced, and it is given up. */
int put_judge(struct store_put *put, uint64_t checksum);
/* STORE_OK; KVD_EBUSY, KVD_ECLOSING: it may not be shown now, and is given up. */
int put_admit(struct store_put *put);
/* It no longer counts as under way. */
void put_settle_room(struct store_put *put);
/* From here on everybody sees the object, which ends at this moment of the store's clock (0: never). `old` is what the key had, or NULL. As
 * store_put_commit(). */
int put_enter(struct store_put *put, struct entry *old, uint64_t version, uint64_t end_ms);

/* holder.c */
/* Harmless for one that is not sealed. */
void put_unseal(struct store_put *put);
bool put_is_sealed(const struct store *store, struct span key);

/* changes.c; a store of no cluster notes nothing. */
int changes_new(struct store *store);
void changes_stop(struct store *store);
void changes_free(struct store *store);
/* What is here of the key has changed, and nobody asked for it. `version` is what it was about. */
void changed(struct store *store, struct span key, uint64_t version);
/* It has a new place on disk: that is to be told when it is synced. */
void changed_on_disk(struct store *store, const struct entry *entry);

/* load.c: note the use of a batch */
void touch(struct store *store, const struct span *keys, uint32_t count);

/* give.c: somebody's write has ended */
void evictions_check(struct store *store);

/* scrub.c */
void scrub_setup(struct store *store);
void scrub_stop(struct store *store);
void scrub_look(const struct store *store, struct store_scrubbed *out);

/* expire.c */
void expire_setup(struct store *store);
void expire_stop(struct store *store);
/* The clock by which objects end: the wall's, but it never goes back. Where the wall clock was set back, it goes on from where it was. */
uint64_t clock_now_ms(struct store *store);
/* By how much the wall clock is behind it: 0, but where it was set back. */
uint64_t clock_behind_ms(struct store *store);
/* Let the (mortal) entry end at this moment of that clock; 0: never. */
void expire_at(struct store *store, struct entry *entry, uint64_t at_ms);
/* The same moment for a record, by the wall clock as it is now. 0: never. */
uint64_t expire_wall_ms(struct store *store, struct entry *entry);
bool entry_expired(struct store *store, struct entry *entry);
/* Its time is over: it leaves every tier, whoever holds it. */
void entry_expire(struct store *store, struct entry *entry);
/* The object of that key, if there is one and it has not ended: the one way by which a request finds it. */
struct entry *store_find(struct store *store, struct span key);
struct entry *store_find_hashed(struct store *store, struct span key, uint64_t hash);

/* evict.c */
/* Set or clear (NULL) the disk replica, and have the tier count it where it is a file. */
void entry_set_place(struct store *store, struct entry *entry, struct shelf *shelf, uint32_t block, uint32_t blocks);
/* Where it is a file of this node's: what that takes, also while it is being unlinked (disk_kill.bytes). Else 0. */
uint64_t entry_file_bytes(const struct store *store, const struct entry *entry);
int evict_for(struct store *store, struct blob *blob, bool whole); /* blob_grow() or blob_grow_all() with evictions to help */
/* Memory may have become too full, or too little of it clean. */
void evict_check(struct store *store);
void entry_forget_memory(struct store *store, struct entry *entry);
void entry_forget_disk(struct store *store, struct entry *entry);
/* Every replica, lease, pin and work of the object goes; the entry stays, for a new value. */
void entry_strip(struct store *store, struct entry *entry);
/* Take the object out of the table for good: every replica, lease and work it has. */
void entry_forget(struct store *store, struct entry *entry);
/* The same of one that nobody wants to go: it is told, once no record of it can come back. */
void entry_leave(struct store *store, struct entry *entry);
/* And counted in one of store->figures, its key remembered. */
void entry_drop(struct store *store, struct entry *entry, uint64_t *reason);
/* Room may have come free. */
void room_changed(struct store *store);
void wait_setup(struct store *store);

/* policy.c */
/* Is this object, which is in memory, to be on disk sooner or later? */
bool policy_wants(const struct store *store, const struct entry *entry);
/* Must it be written before memory gives it up? */
bool policy_writes_first(const struct store *store, const struct entry *entry);
/* Does a value of this size find the write queue full? A single one larger than the queue may pass when nothing is queued. */
bool policy_queue_full(const struct store *store, uint64_t size);
/* Does a put wait while the queue is full? */
bool policy_waits(const struct store *store, bool ack_disk);
/* A put has shown it, and has not asked for the disk. */
void policy_shown(struct store *store, struct entry *entry);
/* Its key was asked for or put again. */
void policy_touched(struct store *store, struct entry *entry);
/* Memory gives it up and it is on no disk. `shed`: it would have been written, but the disk is behind. */
void policy_drop(struct store *store, struct entry *entry, bool shed);

/* persist.c */
/* As store_sync_start(), for whoever holds the lock. */
int sync_start(struct store_desk *desk, struct store_sync *sync, bool seal, store_sync_fn fn);
/* Queue the object for disk. 0, or why not (counted). */
int persist_start(struct store *store, struct entry *entry);
/* Has nothing happened for --disk-timeout, to who waits since *since_ms or, last, to what is waited for? */
static inline bool waits_in_vain(const struct store *store, uint64_t *since_ms, uint64_t moved_ms)
{
    *since_ms = max_u64(*since_ms, moved_ms);
    return now_ms(store) - *since_ms >= disk_timeout_ms(store->disk);
}
/* End what has waited for --disk-timeout for writes that stand still. */
void syncs_expire(struct store *store);
void evictions_expire(struct store *store);
/* When the oldest write moved last (disk_write_moved_ms()); now, if there is none. */
uint64_t persist_moved_ms(const struct store *store);
bool persist_queue_has_room(const struct store *store);
/* The object goes or is replaced: its write, if any, is for nothing. True when a record of it may be on disk all the same. */
bool persist_detach(struct store *store, struct entry *entry);
/* The object has a new disk replica: where the write says. 0 or -ENOMEM. */
int persist_shelve(struct store *store, struct writing *writing);
/* Queue a copy of an object that is in memory and on disk: the table follows it when it is synced, if nothing has changed. 0 or an error.
 */
int persist_copy_start(struct store *store, struct entry *entry);
/* True when no write of the object is under way, a queued one taken back if it must; otherwise nothing has changed. */
bool persist_withdraw(struct store *store, struct entry *entry);
/* The object is about to go though nobody asked for it: who waits for its write is told `err`. */
void persist_lose(struct entry *entry, int err);
struct shelf *shelf_of(struct store *store, struct segment *segment);
/* This version is gone from the table, and a record of it may be on disk. */
/* A new version for an object of which a record with the old one may be on disk, and is to be dead. */
void entry_renew(struct store *store, struct entry *entry);
void note_dead(struct store *store, struct span key, uint64_t version);
/* Has a version of this key (or of another whose hash is like it) gone that is newer than this one? */
bool died_since(const struct store *store, struct span key, uint64_t version);
/* Have the remove log say that this version is dead, without anybody waiting. What stays in memory needs a new version: a record
 * of the old one would be dead on arrival. Then changed(). */
void bury(struct store *store, struct span key, uint64_t version, uint64_t bytes);
/* A record of this version may be on disk that the table does not know, and the object stays. */
void entry_is_stray(struct store *store, struct entry *entry);
/* Something may be on disk that the table does not know of (a kill or a sync failed): from now on every remove and replace is logged. */
void in_doubt(struct store *store);

/* probe.c */
void probe_setup(struct store *store);
/* A get is about to be answered by what the table says (`entry`, or NULL). Must it look at the file first? STORE_PENDING: it waits in
 * `get->link`, and goes on by get_go_on(). KVD_EBUSY, KVD_EOFF: it should, and cannot. STORE_MISS: it need not. */
int probe_first(struct store *store, struct store_get *get, struct span key, struct entry *entry);
/* The file that it was read from was not what the table says: is there another one? STORE_PENDING or STORE_MISS. */
int probe_again(struct store *store, struct store_get *get, struct span key);
/* The table is believed for now; have a look at the file, if that was not done of late. */
void probe_aside(struct store *store, const struct entry *entry);
/* The key was put or removed; all keys that begin so were. What is being looked for has come before that. */
void probe_overtake(struct store *store, struct span key);
void probe_overtake_many(struct store *store, struct span prefix);
void probe_expire(struct store *store);
/* Its file is gone or another's, by another host's doing. The entry may go with it. */
void object_lost(struct store *store, struct entry *entry);

/* load.c */
/* Answer by the entry, or with a miss if it is NULL. As store_get_start(). */
int get_go_on(struct store_get *get, struct entry *entry);
int load_start(struct store *store, struct entry *entry, struct store_get *get);
void load_detach(struct entry *entry);
/* The bytes on disk are not what was written (err: KVD_ECORRUPT, KVD_ESHORT): that replica goes, and must not come back by a restart. */
void replica_drop(struct store *store, const struct disk_read *read, int err);
/* The file goes: what has not begun to be read there is a miss. */
void load_abandon(struct store *store, const struct segment *segment);
void load_free_starved(struct store *store);
void load_retry_starved(struct store *store);
void load_expire_starved(struct store *store);
/* The first of the reads under way is at its deadline. */
void load_deadline(struct timer *timer);

/* durable.c */
/* Have fn run when the object is on stable storage. STORE_PENDING or an error. */
int durable_start(struct store *store, struct store_put *put, struct entry *entry, int outcome);
/* See to it that those who wait for writes are told when these stand still. */
void durable_watch(struct store *store);
void durable_setup(struct store *store);
void durable_stop(struct store *store);
void durable_written(struct store *store, struct writing *writing, int err);

/* Read the object to write it on. STORE_PENDING, or KVD_EBUSY (no room now) or another error. */
int load_move_start(struct store *store, struct entry *entry);

/* reclaim.c */
void reclaim_setup(struct store *store);
void reclaim_stop(struct store *store);
/* A write waits for room on disk. False: nothing can be given up. */
bool reclaim_full(struct store *store);
/* Where giving up ahead of need begins and ends, in bytes used; both UINT64_MAX: only what a write waits for is given up. */
struct reclaim_marks {
    uint64_t high_bytes, low_bytes;
};
struct reclaim_marks reclaim_marks(const struct store *store);
/* Give back ahead of need, if it is time. */
void reclaim_check(struct store *store);
void reclaim_step(struct task *task); /* of a shelf */
void reclaim_if_empty(struct store *store, struct shelf *shelf);
/* What was worth keeping there has been written on, or was not to be. */
void reclaim_emptied(struct shelf *shelf);

/* bound.c */
/* Is the table so near its bound that segments are to go? */
bool bound_is_near(struct store *store);
bool bound_is_reached(const struct store *store);
/* Has the table room for one more object? Makes some if it can. */
bool bound_admits(struct store *store);
/* Has it for one that was found there? If not, that is counted, and the segment is to go. */
bool bound_takes_found(struct store *store, const struct disk_found *found);
/* The segment is dead for good. */
void bound_dead(struct store *store, struct shelf *shelf);

/* rewrite.c */
/* Write on what is worth keeping of this one; then reclaim_emptied(). */
void rewrite_start(struct shelf *shelf);
/* No more than what has begun: what only waits is taken back. */
void rewrite_hurry(struct shelf *shelf);
void rewrite_step(struct shelf *shelf);
/* The object was read to be written on. True: its write has begun, and will end with rewrite_ended(). */
bool rewrite_read(struct store *store, struct entry *entry, struct blob *blob);
/* The copy is on stable storage, or not (err). The entry is still there. */
void rewrite_written(struct writing *writing, int err);
void rewrite_ended(struct shelf *from, uint64_t bytes);
/* So much was written that was new. */
void rewrite_earn(struct store *store, uint64_t bytes);
/* A second has passed. */
void rewrite_tick(struct store *store);

/* reclaim_objects.c */
void reclaim_objects_setup(struct store *store);
bool reclaim_objects_full(struct store *store);
void reclaim_objects_check(struct store *store);
/* The file system is too full: some of them go, down to disk-min. */
void reclaim_objects_give_back(struct store *store);

/* recover.c */
bool found_expired(const struct store *store, const struct disk_found *found);
/* An entry for a key that has none. NULL when the heap is out. */
struct entry *entry_of_found(struct store *store, const struct disk_found *found);
extern const struct disk_events store_disk_events;

#endif
