/* kvd.h - libkvd, the C client of kvd. Blocking calls; batches are pipelined underneath.
 *
 * A `struct kvd` is one connection and belongs to one thread at a time; use one for each thread. Calls never raise signals.
 *
 * Results: every call returns KVD_OK (0), a positive outcome (KVD_PRESENT, KVD_MISS), or a negative error of
 * `enum kvd_error`. kvd_message() tells more about the last error of a handle. After KVD_ERR_NETWORK, KVD_ERR_TIMEOUT
 * and KVD_ERR_PROTOCOL the connection is closed: a later call connects (and authenticates) again by itself, once, to the same server. (A
 * late reply
 * can therefore never be written into a buffer of yours.)
 *
 * Deadlines are the client's own, in ms, for the whole call. BUSY is retried after the server's `retry_after_ms` within
 * the deadline; then KVD_ERR_BUSY is returned.
 *
 * Keys are 1 to 1,024 bytes of any kind. Among many, an ill-formed one is KVD_ERR_USAGE in its own item of kvd_mput() and kvd_mget(),
 * and absent to kvd_exists(), while the others go their way; every other call refuses it before anything is done. Values read are
 * checked against the server's XXH3-64 checksum.
 */
#ifndef KVD_H
#define KVD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVD_API __attribute__((visibility("default")))

enum kvd_error {
    KVD_OK = 0,
    KVD_PRESENT = 1, /* a put found the key; nothing changed: a success */
    KVD_MISS = 2,    /* the key is not there: an answer, not an error */

    KVD_ERR_USAGE = -1,    /* an argument makes no sense (a key of 0 or 1,025 bytes, no address ...) */
    KVD_ERR_NETWORK = -2,  /* cannot reach the server, or it went away */
    KVD_ERR_TIMEOUT = -3,  /* the deadline passed, here or at the server; a put or a remove may have taken effect */
    KVD_ERR_PROTOCOL = -4, /* what came is no valid reply */
    KVD_ERR_CORRUPT = -5,  /* bytes are not those of their checksum (on a put: refused by the server, nothing stored) */
    KVD_ERR_BUSY = -6,     /* the server had no room up to the deadline */
    KVD_ERR_TOO_LARGE = -7,
    KVD_ERR_NO_SPACE = -8,
    KVD_ERR_DENIED = -9, /* the token, or one at all, is missing, or does not have the right */
    KVD_ERR_UNSUPPORTED = -10,
    KVD_ERR_BAD_REQUEST = -11,
    KVD_ERR_CLOSING = -12,  /* the server is shutting down */
    KVD_ERR_IO = -13,       /* the server's disk; a remove or a put with ack disk may have taken effect */
    KVD_ERR_INTERNAL = -14, /* the server's own fault */
    KVD_ERR_BUFFER = -15,   /* your buffer is smaller than the value; *len says what it takes */
    KVD_ERR_MEMORY = -16,   /* this process is out of memory */
};

/* A short text for a result; static storage. Any thread. */
KVD_API const char *kvd_strerror(int result);

struct kvd;

struct kvd_options {
    const char *address;     /* "HOST:PORT"; NULL: $KVD_SERVER, else "127.0.0.1:7950" */
    uint64_t timeout_ms;     /* for each call; 0: 30,000 */
    uint64_t connect_ms;     /* for connecting; 0: 5,000 */
    uint64_t inflight_bytes; /* bytes of pipelined puts and gets under way at most; 0: 64 MiB */
    const char *client;      /* name told to the server; NULL: "libkvd" */
    /* Where the token is that a server asks for; NULL: $KVD_TOKEN_FILE, else none. One line, `NAME RIGHTS TOKEN` as in the server's file,
     * `NAME TOKEN` or `TOKEN`; this user's or root's, and nobody else's to read. It is read at each connection to a server that asks. */
    const char *token_file;
};

/* Connect, say HELLO, and show the token where one is asked for. *out is set on success only; free it with kvd_close(). `message`, if not
 * NULL, gets up to message_len bytes of text on failure. KVD_OK, KVD_ERR_USAGE (also: the token file is not as it should be), _NETWORK,
 * _TIMEOUT, _PROTOCOL, _DENIED (no token, or not one of the server's), _MEMORY. */
KVD_API int kvd_connect(struct kvd **out, const struct kvd_options *options, char *message, size_t message_len);
KVD_API void kvd_close(struct kvd *kvd); /* NULL is allowed */

/* About the last call that failed: the server's message or the reason; "" if none. Valid until the next call. */
KVD_API const char *kvd_message(const struct kvd *kvd);

/* What the server said of itself in HELLO; valid until kvd_close(). */
struct kvd_server {
    const char *server; /* e.g. "kvd 0.1.0" */
    const char *node;
    uint64_t key_bytes, value_bytes, batch_keys, meta_bytes, inflight_bytes;
};
KVD_API const struct kvd_server *kvd_server(const struct kvd *kvd);

struct kvd_key {
    const void *at;
    size_t len;
};

KVD_API int kvd_ping(struct kvd *kvd);

/* ---- put ---- */

enum {
    KVD_PUT_REPLACE = 1,  /* replace what is there */
    KVD_PUT_ACK_DISK = 2, /* answer when it would survive a power cut */
    KVD_PUT_PIN = 4,
    KVD_PUT_NO_CHECKSUM = 8, /* do not send a checksum along (one pass over the value saved) */
};

/* Store value[0..len). KVD_OK (*version is set), KVD_PRESENT (*version that of what is there), or an error.
 * `version` may be NULL. */
KVD_API int kvd_put(struct kvd *kvd, struct kvd_key key, const void *value, size_t len, unsigned flags, uint64_t *version);
/* The same for a value that ends: `ttl_ms` after it was stored nobody is shown it any more. 0: it has no end. A put that finds the key
 * PRESENT does not change when that ends. */
KVD_API int kvd_put_for(struct kvd *kvd, struct kvd_key key, const void *value, size_t len, unsigned flags, uint64_t ttl_ms,
                        uint64_t *version);

struct kvd_item {
    struct kvd_key key;
    const void *value; /* puts: the bytes */
    void *buffer;      /* gets: where they go, `capacity` bytes; must not overlap another item's */
    size_t capacity;
    size_t len;       /* puts: of value. gets: set to the bytes read, or with KVD_ERR_BUFFER to those it takes */
    int result;       /* set: KVD_OK, KVD_PRESENT, KVD_MISS or an error, for this item alone */
    uint64_t version; /* set with KVD_OK and KVD_PRESENT */
    uint64_t ttl_ms;  /* puts: as kvd_put_for(); 0: no end */
    char tier;        /* gets, set on a hit: 'm' memory, 'd' disk, 'p' peer */
};

/* Put all items, pipelined, each with its own answer; BUSY ones are retried by themselves. Returns KVD_OK when every
 * item has an answer (look at each: KVD_ERR_USAGE for an ill-formed key, KVD_ERR_TOO_LARGE for a value over 1 GiB, else what the server
 * said), or the error that ended the call: items without an answer have it too.
 * One key twice is two puts, in the order of the items: the second is KVD_PRESENT, or replaces the first with KVD_PUT_REPLACE. Only where
 * the server is BUSY for the first of them may it come behind the second; so put a key twice only where either value will do. */
KVD_API int kvd_mput(struct kvd *kvd, struct kvd_item *items, size_t count, unsigned flags);

/* ---- get ---- */

/* Read into buffer[0..capacity); *len is set to the value's size. KVD_OK, KVD_MISS, KVD_ERR_BUFFER (nothing is read), or
 * an error. `tier` may be NULL. */
KVD_API int kvd_get(struct kvd *kvd, struct kvd_key key, void *buffer, size_t capacity, size_t *len, char *tier);

/* Bytes [offset, offset + length) of the value, shortened at its end; *len is how many came. */
KVD_API int kvd_get_range(struct kvd *kvd, struct kvd_key key, uint64_t offset, uint64_t length, void *buffer, size_t *len);

/* Read into memory from malloc(), the caller's to free(); *value is not NULL even for an empty value. */
KVD_API int kvd_get_alloc(struct kvd *kvd, struct kvd_key key, void **value, size_t *len, char *tier);

/* Read all items (MGET underneath). *first_byte_us, if not NULL, is set to the time from the call to the first byte of a
 * value, 0 when none came. Returns as kvd_mput(). */
KVD_API int kvd_mget(struct kvd *kvd, struct kvd_item *items, size_t count, uint64_t *first_byte_us);

/* ---- look-ups ---- */

enum { KVD_IN_MEMORY = 1, KVD_ON_DISK = 2, KVD_ON_PEER = 4 };

/* present[i] is 0 or a sum of the bits above. KVD_OK or an error; any count (split underneath). */
KVD_API int kvd_exists(struct kvd *kvd, const struct kvd_key *keys, size_t count, uint8_t *present);

enum { KVD_MATCH_LEASE = 1, KVD_MATCH_WARM = 2 };
struct kvd_matched {
    size_t count;   /* keys there, from the first on without a gap */
    size_t memory;  /* of those, in memory */
    uint64_t lease; /* with KVD_MATCH_LEASE: release it; 0 when none was taken */
};
/* Longest prefix of `keys` that is there; at most `batch_keys` of the server (KVD_ERR_USAGE beyond). With KVD_MATCH_LEASE they
 * stay until kvd_release() or `lease_ms` (0: 10 s) have passed or this connection ends. */
KVD_API int kvd_match(struct kvd *kvd, const struct kvd_key *keys, size_t count, unsigned flags, uint64_t lease_ms,
                      struct kvd_matched *out);
KVD_API int kvd_release(struct kvd *kvd, uint64_t lease);

/* ---- remove, pin ---- */

/* *removed, if not NULL: how many were there. KVD_OK or an error (KVD_ERR_IO: gone from the process, may come back after a restart). */
KVD_API int kvd_remove(struct kvd *kvd, const struct kvd_key *keys, size_t count, uint64_t *removed);
KVD_API int kvd_remove_prefix(struct kvd *kvd, struct kvd_key prefix, uint64_t *removed);
KVD_API int kvd_remove_all(struct kvd *kvd, uint64_t *removed);
KVD_API int kvd_pin(struct kvd *kvd, const struct kvd_key *keys, size_t count, bool pinned, uint64_t *changed);

/* ---- looking inside ---- */

struct kvd_replica {
    bool disk;     /* else memory */
    bool complete; /* else being written */
    char node[65];
    char file[256]; /* disk, complete: the segment's path below the server's directory; else "" */
    uint64_t offset;
};
enum { KVD_MAX_REPLICAS = 16 };
struct kvd_stat {
    uint64_t size, version, checksum, age_ms, idle_ms, hits;
    bool pinned, leased;
    bool ends;       /* it was put with a time to live: */
    uint64_t ttl_ms; /* so much is left */
    unsigned replica_count;
    struct kvd_replica replicas[KVD_MAX_REPLICAS];
};
/* KVD_OK, KVD_MISS or an error. */
KVD_API int kvd_stat(struct kvd *kvd, struct kvd_key key, struct kvd_stat *out);

/* Call fn for every object whose key begins with `prefix` (len 0: all), until it returns false. What is there throughout comes at
 * least once. The key is borrowed for the call; fn must not use the handle. */
struct kvd_scanned {
    struct kvd_key key;
    uint64_t size;
    bool memory, disk;
};
typedef bool (*kvd_scan_fn)(void *arg, const struct kvd_scanned *object);
KVD_API int kvd_scan(struct kvd *kvd, struct kvd_key prefix, kvd_scan_fn fn, void *arg);

/* Call fn for every figure of INFO, in the server's order; `section` NULL: all sections. Exactly one of number (text NULL) and text. */
typedef void (*kvd_info_fn)(void *arg, const char *section, const char *name, uint64_t number, const char *text);
KVD_API int kvd_info(struct kvd *kvd, const char *section, kvd_info_fn fn, void *arg);

/* ---- running it ---- */

/* A setting of the server, named as in its configuration file; the value as it is written there. Borrowed for the call. */
struct kvd_setting {
    const char *name, *value;
};
typedef void (*kvd_setting_fn)(void *arg, const struct kvd_setting *setting);
/* Call fn for the settings named, as they now are, or for all (count 0). KVD_ERR_BAD_REQUEST: a name is unknown. */
KVD_API int kvd_config(struct kvd *kvd, const char *const *names, size_t count, kvd_setting_fn fn, void *arg);
/* Change settings, all or none, and call fn for all settings as they now are. KVD_ERR_UNSUPPORTED: one needs a restart. */
KVD_API int kvd_configure(struct kvd *kvd, const struct kvd_setting *settings, size_t count, kvd_setting_fn fn, void *arg);

/* Everything that was acknowledged before is written to disk and synced when this returns KVD_OK. */
KVD_API int kvd_sync(struct kvd *kvd);
/* The same, and the file that is open for writing is ended: what follows goes to a new one. */
KVD_API int kvd_seal(struct kvd *kvd);

/* Have objects leave the server's memory, the least recently used first, until they are `bytes` (UINT64_MAX: all that can go without being
 * lost): what is on disk goes, what the policy puts there is written first. *objects and *given, if not NULL: what went. */
KVD_API int kvd_evict(struct kvd *kvd, uint64_t bytes, uint64_t *objects, uint64_t *given);

/* Start reading all that is on disk and judging it, `bytes_per_s` (0: 200 MiB) at most; one that is under way is joined. *run: its number;
 * section `scrub` of kvd_info() tells how far it is. */
KVD_API int kvd_scrub(struct kvd *kvd, uint64_t bytes_per_s, uint64_t *run);
/* End the one that is under way. *run: its number, 0 when there was none. */
KVD_API int kvd_scrub_stop(struct kvd *kvd, uint64_t *run);

/* No more puts from now on (KVD_ERR_CLOSING), until the server is started anew; what the policy would have on disk is written.
 * *unwritten, if not NULL: objects that are on no disk all the same. The server goes on answering all else. */
KVD_API int kvd_drain(struct kvd *kvd, uint64_t *unwritten);

/* Remove everything, delete the files of the server's node, end the server. `node` must be its name. *removed, if not NULL: objects. */
KVD_API int kvd_teardown(struct kvd *kvd, const char *node, uint64_t *removed);

/* Of a cluster: this node, another than the one asked, is gone for good, and its place need not be kept. KVD_ERR_BAD_REQUEST: nothing is
 * known of it, or it has given a sign of life within the last lease time. */
KVD_API int kvd_forget(struct kvd *kvd, const char *node);

struct kvd_segment {
    const char *file; /* its path below the server's directory; borrowed for the call, as is state */
    const char *state;
    uint64_t bytes;                    /* as they count against --disk */
    uint64_t live_objects, live_bytes; /* of their values */
    uint64_t held_objects;             /* of them: leased or pinned, and not in memory */
    uint64_t age_ms;
    bool was_read;    /* since the server's start */
    uint64_t idle_ms; /* since then */
};
/* Call fn for every segment of the server's disk tier, the oldest first. fn must not use the handle. */
typedef void (*kvd_segment_fn)(void *arg, const struct kvd_segment *segment);
KVD_API int kvd_segments(struct kvd *kvd, kvd_segment_fn fn, void *arg);

#ifdef __cplusplus
}
#endif

#endif
