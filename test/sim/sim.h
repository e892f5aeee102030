/* sim.h - the simulator: the unmodified server over a seam of our own, in virtual time, by one seed.
 *
 * What is here: chance, the clock and its events, the trace, how a server's life begins and is cut off. The seam itself is in sim_loop.c,
 * sim_file.c and sim_conn.c (they implement src/loop's headers); disks are in vfs.c, clients in client.c, the judge in history.c.
 *
 * One seed gives one run: everything random comes from chance(), in the order of events, and every event goes into the trace's hash.
 * Nothing here may depend on addresses, the real clock, or what ran before.
 *
 * There is one simulation at a time in a process: `sim`. The seam's functions have no other way to find it (malloc least of all).
 */
#ifndef KVD_TEST_SIM_H
#define KVD_TEST_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/list.h"
#include "history.h"
#include "server.h"
#include "sight.h"
#include "store/store_impl.h"
#include "vfs.h"

enum { SIM_LOOPS = 3, SIM_KEYS = 8, SIM_LIVES = 64, HOSTS_MOST = HISTORY_HOSTS, MS = 1000, SECOND = 1000 * 1000 };

enum plant {
    PLANT_NONE,
    PLANT_SYNC_LIES,      /* fsync says yes and does nothing */
    PLANT_KILL_AT_ONCE,   /* a remove is acknowledged before its log entry is durable */
    PLANT_DETACH_FORGETS, /* a remove does not see that a write is under way */
    PLANT_LEASE_IGNORED,  /* a lease holds nothing */
    PLANT_NO_CHECKSUM,    /* bytes off the disk are not judged: a torn write of full length passes */
    PLANT_NO_LENGTH,      /* nor is their length: a read that ends early passes */
    PLANT_NO_VERSION,     /* a write that ends gives its replica to whatever has the key by now */
    PLANT_REUSE,          /* the buffer of a read that is late is given back at once */
    PLANT_ACK_EARLY,      /* ack: disk is answered before the fsync */
    PLANT_KILL_UNSEEN,    /* a put does not see that an older kill is not durable yet */
    PLANT_LOST_REPLY,     /* a request is never answered */
    PLANT_LEAK,           /* a reference to a blob is kept */
    PLANT_NO_RECHECK,     /* what is in memory is served without a look at its file: with two hosts, for ever */
    PLANT_KILL_OWN,       /* a remove leaves the files of other hosts alone */
    PLANT_ORDER,          /* a segment is unlinked before the log says that it is dead */
    PLANT_LENT,           /* a send is over when the kernel has its bytes, though it reads them where they lie */
    PLANT_COUNT
};
const char *plant_name(enum plant plant);

/* ---- one run ---- */

struct event;
typedef void (*event_fn)(void *arg);

enum escape { ESCAPE_NONE, ESCAPE_CRASH, ESCAPE_EXIT, ESCAPE_FAIL };

/* How a sweep ends the first life. */
enum crash_kind { CRASH_KILL, CRASH_UNSYNCED_LOST, CRASH_UNSYNCED_KEPT, CRASH_TORN, CRASH_KINDS };

struct figures {
    uint64_t seeds, events, ops, hits, misses, puts, acked_disk, removes;
    uint64_t lives, crashes_power, crashes_kill, stops, exits;
    uint64_t disk_ops, faults[DISK_OPS], shorts, torn, flips, going, vanished, hung, slow, heap;
    uint64_t leases, mortal, jumps, drains, teardowns, scrubs, evicted, promoted, reclaimed, rewritten, dropped, resets;
    uint64_t beyond_index, two_hosts, elsewhere, probes_found, stale_names, stale_missing, late_reads;
    uint64_t lent_bytes;
};

/* What a client may do next. */
enum action {
    ACT_PUT,
    ACT_GET,
    ACT_RANGE,
    ACT_MGET,
    ACT_EXISTS,
    ACT_MATCH,
    ACT_LEASE,
    ACT_RELEASE,
    ACT_REMOVE,
    ACT_REMOVE_PREFIX,
    ACT_REMOVE_ALL,
    ACT_PIN,
    ACT_STAT,
    ACT_SCAN,
    ACT_SYNC,
    ACT_SEAL,
    ACT_EVICT,
    ACT_SCRUB,
    ACT_SEGMENTS,
    ACT_DRAIN,
    ACT_TEARDOWN,
    ACT_CONFIG,
    ACT_INFO,
    ACT_HANG_UP,
    ACT_CUT_PUT, /* hangs up in the middle of a put */
    ACTIONS
};

/* What the seed made of this run. */
struct scenario {
    uint64_t memory, disk, segment;
    const char *persist, *when_behind;
    bool calm; /* the disk does what it should */
    bool shorts;
    bool slow_network;
    bool zero_copy; /* the kernel does not copy what is sent */
    unsigned clients, ops, pipeline, lives;
    unsigned orderly; /* percent of lives that are ended in an orderly way */
    unsigned power;   /* percent of crashes that are power cuts */
    unsigned keys;    /* that single requests are about; batches are about all */
    unsigned largest; /* of values */
    bool bulky;       /* most are nearly that large, so that memory does not hold them all */
    bool churning;    /* the disk is small for what is put */
    unsigned weights[ACTIONS];
    unsigned weight_sum;
    unsigned ack_disk, replace, mortal; /* percent of puts */
    bool clock_jumps;                   /* the wall clock is set while the server runs */
    bool small_index;                   /* the table does not hold all keys */
    unsigned hosts;                     /* 1 or 2, over one file system */
    bool probe;
    uint64_t names_us, missing_us; /* so long does a host remember a name, and that there was none */
    uint64_t chunks_us;            /* so long does a file that was unlinked keep its bytes */
    bool leisurely;                /* clients take their time */
};

/* One process of the server, from its start to its end or its crash. */
struct life {
    struct server server;
    struct config config;
    struct log log;
    struct loop *loop; /* the first of: */
    struct loop *loops[SIM_LOOPS], *store_loop;
    uint32_t number;
    bool open;     /* server_open() has succeeded */
    bool stopping; /* server_stop() was called by us */
    bool within;   /* its files have fit the limit once: from then on they must */
    bool policy_changed;
    uint64_t faults;              /* disk faults before it */
    uint64_t began_us, opened_us; /* opened: the disk tier; 0: not yet */
    uint64_t drains_us;           /* since when it drains; 0: it does not */
    uint64_t crash_step;          /* 0: none */
    uint64_t steps;
};

struct options {
    enum plant plant;
    int mode; /* 0 both, 'k', 'p' */
    bool trace;
    unsigned ops;      /* 0: by seed */
    bool two_hosts;    /* in every seed */
    uint64_t crash_at; /* sweep.c: right after this change of the disk in the first life; 0: no sweep */
    enum crash_kind crash_kind;
};

/* A machine on which a server runs, one life after the other. */
struct host {
    unsigned number;
    struct life *life; /* NULL while no server runs */
    struct listener *listener;
    struct list heap; /* what the server has allocated */
    uint64_t heap_blocks;
    struct list flights; /* file operations under way */
    struct list routines;
    struct sight sight;                             /* of the disk */
    int64_t wall_now_ms;                            /* how far its wall clock is ahead */
    uint64_t hang_until_us;                         /* its disk */
    uint64_t hung_until_us;                         /* and what hung there before */
    uint64_t drops_counted, drops_early, drops_bad; /* of this life, as far as we have seen */
};

struct sim {
    const struct options *options;
    uint64_t seed;
    uint64_t random;
    uint64_t now_us;
    uint64_t stamp; /* grows with each thing that the judge has to order */
    struct event **events;
    size_t event_count, event_room;
    uint64_t order;
    struct event *spare;
    uint64_t hash;
    struct scenario scenario;

    jmp_buf out;
    bool in_server;
    struct routine *routine; /* whose stack we are on */
    enum escape pending;
    bool failed;
    char why[600];

    struct host hosts[HOSTS_MOST];
    unsigned host_count;
    struct host *host; /* whose event it is: what it adds is the same host's */
    uint32_t lives;
    unsigned lives_left;              /* to be cut off */
    int64_t wall_ahead_ms[SIM_LIVES]; /* of each life, by its number: how far its wall clock has been ahead, at most */
    uint32_t jumps;                   /* of the wall clock, between lives and within them */
    int phase;
    uint64_t heap_kth, heap_burst; /* from the k-th allocation on so many fail; 0: none */
    unsigned heap_per_mille;       /* and these */
    bool sturdy;                   /* no allocation fails now */
    uint64_t settled_us;           /* when faults ended */
    struct vfs vfs;
    struct list wires;
    uint32_t wire_number;
    uint32_t plant_turn;
    uint64_t changes;     /* of the disk in the first life of a sweep */
    uint64_t fault_count; /* disk faults so far: those after which things may be missing */
    struct history history;
    struct figures figures;
};
extern struct sim *sim;

/* ---- chance ---- */

uint64_t chance(void);
uint64_t chance_below(uint64_t n); /* 0 to n - 1; 0 when n is 0 */
uint64_t chance_between(uint64_t low, uint64_t high);
bool chance_percent(unsigned percent);
bool chance_one_in(uint64_t n);
/* Often small, now and then up to `most`. */
uint64_t chance_delay(uint64_t most);

/* ---- time ---- */

/* Run fn(arg) after `delay_us`, for the host that adds it. Server's events vanish with its life. The event is gone once it has run. */
struct event *event_add(uint64_t delay_us, bool server, event_fn fn, void *arg);
void event_cancel(struct event *event);
/* Of this host. */
void server_events_drop(void);
void events_free(void);
/* Run the next one. ESCAPE_NONE when all is well; *idle when there is none. */
enum escape sim_step(bool *idle);
/* Call the server once, now. */
enum escape sim_call(event_fn fn, void *arg);

/* This host's wall clock, in ms. */
uint64_t sim_wall_ms(void);
/* Set it: `ahead_ms` from where it was when the run began. */
void sim_wall_set(int64_t ahead_ms);

/* ---- trace ---- */

/* One line of the trace; `what` is static, the numbers go into the hash. */
void note(const char *what, uint64_t a, uint64_t b, uint64_t c);
/* Text that is only printed. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- ways out ---- */

/* The promise that was broken. Does not return. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void sim_escape(enum escape escape);
/* Something has happened to a disk: the place for a crash. */
void sim_crash_point(void);
/* What is on it is another than before (written, synced, made, renamed, unlinked, cut): where a sweep crashes. */
void sim_disk_changed(void);

/* ---- lives; seed.c ---- */

void life_start(void *arg);
/* This life is to end soon, in one way or the other. */
void life_ends_soon(void);
/* Run one seed. Returns true, or false with sim->why. */
bool seed_run(struct sim *run, const struct options *options, uint64_t seed);

/* sweep.c: a crash after every change of the disk. Returns an exit status. */
int sweep_run(const struct options *options, uint64_t from, uint64_t to, unsigned jobs, bool must_fail);
const char *crash_kind_name(enum crash_kind kind);

/* heap.c: everything this host's server allocated is given back at once. Returns the number of blocks. */
uint64_t heap_drop(void);
uint64_t heap_blocks(uint64_t *bytes, const void **caller);
/* Memory of the simulator's own. Never fails. */
/* Blocks that are in use, the server's and ours. */
uint64_t heap_live(void);
void *sim_alloc(size_t bytes);
/* The server's memory, but of the seam's own needs: never fails. */
void *seam_alloc(size_t align, size_t bytes);
void *sim_grow(void *at, size_t bytes);
void sim_free(void *at);

/* ---- sim_loop.c ---- */

struct loop;
bool loop_has_stopped(const struct loop *loop);
/* After anything ran on the loop: see to it that a turn comes. */
void loop_settle(struct loop *loop);
void loop_entered(struct loop *loop);
/* Both are of one process: what is said above of one is so of all of them. */
void loop_joins(struct loop *loop, struct loop *other);
/* The lock of one of its process: nothing may run on a connection meanwhile. */
bool loop_is_held(struct loop *loop);
/* Blocking calls of a job take time: others go on meanwhile. */
void routine_pause(uint64_t delay_us);
void routines_drop(void);
unsigned files_open(void);
/* The connection has ended, and its leases with it. */
void history_wire_ended(uint32_t wire);
/* From a turn. */
void conns_turn(struct loop *loop);
bool conns_dirty(const struct loop *loop);
void files_turn(struct loop *loop);
bool files_waiting(const struct loop *loop);
unsigned loop_open_conns(const struct loop *loop);

struct loop_parts {
    struct list dirty_conns;
    bool zero_copy_sends;
    unsigned open_conns, open_listeners;
    struct list files_waiting;
    unsigned files_depth, files_in_flight;
    uint64_t reads, writes, syncs, other, read_bytes, written_bytes;
};
struct loop_parts *loop_parts(struct loop *loop);

/* ---- sim_file.c ---- */

void faults_choose(void);
void faults_end(void);
const char *disk_type_required(void);
/* This host's process is gone: what was on its way may have arrived. */
void files_crash(bool power);

/* ---- sim_conn.c: the client's end ---- */

struct wire;
struct wire_events {
    void (*opened)(void *owner);
    void (*received)(void *owner, const uint8_t *at, size_t len);
    void (*ended)(void *owner); /* once; also when it was refused. The wire is gone afterwards */
};
struct wire *wire_connect(const struct wire_events *events, void *owner);
void wire_send(struct wire *wire, const void *at, size_t len);
/* Nothing more is called; with `reset` what is on its way is lost. */
void wire_close(struct wire *wire, bool reset);
void wires_crash(void);
void wires_free(void);
uint32_t wire_life(const struct wire *wire);
uint32_t wire_id(const struct wire *wire);

/* ---- client.c ---- */

/* seed.c. Any persist policy; does this one have everything on disk in the end? */
const char *policy_any(void);
bool writes_all(const struct scenario *scenario);

/* The name of the node that runs there. */
const char *node_name(const struct host *host);

struct client;
void clients_start(void);
bool clients_done(void);
void clients_free(void);
/* They ask for nothing more. */
void clients_stop(void);
/* At the end: one on each host that reads every key (in a sweep: and puts it, and reads it again); clients_done() then tells of it. */
void clients_read_all(void);
struct span sim_key(unsigned key);
/* -1 when it is none of ours. */
int sim_key_index(struct span key);

/* ---- plant.c ---- */
bool planted(enum plant plant);
/* What the store says it has dropped. */
void drops_look(void);

#endif
