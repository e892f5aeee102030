/* msg.h - the meta of every op: structs to and from msgpack, by one table of fields a message.
 *
 * Owns:    nothing. Decoded spans point into the meta bytes; arrays of spans lie in the arena.
 * Not its: sockets, keys' fate, limits other than those of form (which the caller passes in).
 * Thread:  any.
 *
 * Every message struct begins with `has`: bit i is set when field i of its schema was there (decoding) or is to be
 * written (encoding); fields that are not there are zero. Unknown keys are ignored.
 */
#ifndef KVD_PROTO_MSG_H
#define KVD_PROTO_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "proto/frame.h"

/* ---- growing bytes to encode into ---- */

struct buffer {
    uint8_t *at;
    size_t len;
    size_t cap;
    bool failed; /* an allocation failed; what follows is dropped */
};
void buffer_init(struct buffer *buffer);
void buffer_fini(struct buffer *buffer);

/* Append msgpack. After the last, look at `failed` once. A map of n is followed by n pairs. */
void pack_map(struct buffer *buffer, uint32_t pairs);
void pack_array(struct buffer *buffer, uint32_t items);
void pack_text(struct buffer *buffer, const char *text); /* str */
void pack_str(struct buffer *buffer, struct span text);
void pack_bin(struct buffer *buffer, struct span bytes);
void pack_u64(struct buffer *buffer, uint64_t value);
void pack_bool(struct buffer *buffer, bool value);
void pack_double(struct buffer *buffer, double value);
void pack_raw(struct buffer *buffer, struct span msgpack); /* one object, already packed */

/* ---- what a field can be ---- */

struct spans {
    struct span *at;
    uint32_t count;
};
struct u64s {
    uint64_t *at;
    uint32_t count;
};

enum field_type {
    FIELD_BOOL, /* bool */
    FIELD_U64,  /* uint64_t */
    FIELD_STR,  /* struct span: msgpack str */
    FIELD_BIN,  /* struct span: msgpack bin, or a str taken as its bytes */
    FIELD_KEYS, /* struct spans: array of bin or str */
    FIELD_STRS, /* struct spans: array of str */
    FIELD_U64S, /* struct u64s: array of unsigned */
    FIELD_RAW,  /* struct span: any one object, as its msgpack bytes */
};

struct field {
    const char *name;
    enum field_type type;
    uint16_t at;   /* offsetof in the message struct */
    bool required; /* decoding without it is KVD_EPROTO */
};

struct schema {
    const char *name;
    const struct field *fields;
    uint32_t count;
    size_t size; /* of the message struct */
};

/* The schema of an op's request or reply; NULL for an op that is unknown. WATCH has empty ones. */
const struct schema *msg_request(uint8_t op);
const struct schema *msg_reply(uint8_t op);
extern const struct schema msg_failure; /* struct msg_failure_reply: the reply's meta for codes from 16 up, and for NOT_FOUND */

/* Of the maps inside RAW fields: struct msg_limits, msg_replica, msg_object, msg_segment. */
extern const struct schema msg_limits_part;
extern const struct schema msg_replica_part;
extern const struct schema msg_object_part;
extern const struct schema msg_segment_part;

#define MSG_HAS(msg, index) (((msg)->has >> (index)) & 1u)

/* ---- decoding ---- */

/* Memory of one decoded message; init once, reset between messages keeps the memory. */
struct arena {
    struct spans keys; /* of the one FIELD_KEYS or FIELD_STRS that a message has; capacity of the array in `cap` */
    uint32_t cap;
    struct u64s numbers;
    uint32_t numbers_cap;
    void *zone; /* msgpack's */
};
void arena_init(struct arena *arena);
void arena_fini(struct arena *arena);

enum { MSG_MAX_DEPTH = 4 };

/* Is `meta` (length 0: an empty map) exactly one msgpack map with str keys, nested at most MSG_MAX_DEPTH deep, whose every
 * count and length is covered by bytes that are there? No allocation; msgpack-c sees only what passes. Returns 0 or KVD_EPROTO. */
int meta_check(struct span meta);

/* Decode. *why, on failure, is a static text for people.
 * Returns 0; KVD_EPROTO (no map, a wrong type, a required field is missing, a field twice); KVD_EUNSUPPORTED (an unknown
 * key begins with '!'); KVD_ETOOLARGE (an array of more than `max_items`); -ENOMEM. `out` is zeroed first. */
int msg_decode(const struct schema *schema, struct span meta, uint32_t max_items, struct arena *arena, void *out, const char **why);

/* Append the map of the fields whose bit in `has` is set. Returns 0 or -ENOMEM. */
int msg_encode(const struct schema *schema, const void *msg, struct buffer *out);

/* ---- the messages, in the order of docs/protocol.md; the enum values are the bits of `has` ---- */

struct msg_empty {
    uint32_t has;
};

/* Every request may also carry `timeout_ms`; it is field 0 of each request schema. */
#define MSG_REQUEST_HEAD \
    uint32_t has;        \
    uint64_t timeout_ms
enum { F_TIMEOUT = 0 };

struct msg_plain { /* PING, REMOVE_ALL, and what else has no fields */
    MSG_REQUEST_HEAD;
};

enum { F_HELLO_VERSIONS = 1, F_HELLO_CLIENT };
struct msg_hello {
    MSG_REQUEST_HEAD;
    struct u64s versions;
    struct span client;
};
enum { F_HELLOR_VERSION, F_HELLOR_SERVER, F_HELLOR_NODE, F_HELLOR_FEATURES, F_HELLOR_LIMITS, F_HELLOR_NONCE, F_HELLOR_AUTHENTICATED };
struct msg_hello_reply {
    uint32_t has;
    uint64_t version;
    struct span server;
    struct span node;
    struct spans features;
    struct span limits; /* RAW: map of u64, struct msg_limits */
    struct span nonce;
    bool authenticated;
};
enum { F_LIMITS_KEY, F_LIMITS_VALUE, F_LIMITS_BATCH, F_LIMITS_META, F_LIMITS_INFLIGHT };
struct msg_limits {
    uint32_t has;
    uint64_t key_bytes;
    uint64_t value_bytes;
    uint64_t batch_keys;
    uint64_t meta_bytes;
    uint64_t inflight_bytes;
};

enum { F_AUTH_NAME = 1, F_AUTH_MAC };
struct msg_auth {
    MSG_REQUEST_HEAD;
    struct span name;
    struct span mac;
};
enum { F_AUTHR_RIGHTS };
struct msg_auth_reply {
    uint32_t has;
    struct spans rights;
};

enum { F_PUT_KEY = 1, F_PUT_REPLACE, F_PUT_ACK, F_PUT_PIN, F_PUT_TTL, F_PUT_CHECKSUM, F_PUT_PARENT, F_PUT_COST };
struct msg_put {
    MSG_REQUEST_HEAD;
    struct span key;
    bool replace;
    struct span ack; /* "memory" or "disk" */
    bool pin;
    uint64_t ttl_ms;
    uint64_t checksum;
    struct span parent;
    uint64_t cost_us;
};
enum { F_PUTR_VERSION };
struct msg_put_reply {
    uint32_t has;
    uint64_t version;
};

enum { F_GET_KEY = 1, F_GET_OFFSET, F_GET_LENGTH, F_GET_BODY_CHECKSUM };
struct msg_get {
    MSG_REQUEST_HEAD;
    struct span key;
    uint64_t offset;
    uint64_t length;
    bool body_checksum;
};
enum {
    F_GETR_SIZE,
    F_GETR_VERSION,
    F_GETR_TIER,
    F_GETR_CHECKSUM,
    F_GETR_BODY_CHECKSUM,
    F_GETR_INDEX,
    F_GETR_HITS,
    F_GETR_REASON,
    F_GETR_MESSAGE,
    F_GETR_RETRY
};
struct msg_get_reply { /* of GET, and each frame of MGET, the last one (only `hits`) too; misses and errors of a key as well */
    uint32_t has;
    uint64_t size;
    uint64_t version;
    struct span tier;
    uint64_t checksum;
    uint64_t body_checksum;
    uint64_t index;
    uint64_t hits;
    struct span reason;
    struct span message;
    uint64_t retry_after_ms;
};

enum { F_MGET_KEYS = 1, F_MGET_OFFSET, F_MGET_LENGTH };
struct msg_mget {
    MSG_REQUEST_HEAD;
    struct spans keys;
    uint64_t offset;
    uint64_t length;
};

enum { F_LOOK_KEYS = 1, F_LOOK_LEASE, F_LOOK_WARM };
struct msg_look { /* EXISTS and MATCH; `warm` is MATCH's alone */
    MSG_REQUEST_HEAD;
    struct spans keys;
    uint64_t lease_ms;
    bool warm;
};
enum { F_EXISTSR_PRESENT, F_EXISTSR_COUNT, F_EXISTSR_LEASE };
struct msg_exists_reply {
    uint32_t has;
    struct span present;
    uint64_t count;
    uint64_t lease;
};
enum { F_MATCHR_COUNT, F_MATCHR_MEMORY, F_MATCHR_LEASE };
struct msg_match_reply {
    uint32_t has;
    uint64_t count;
    uint64_t memory;
    uint64_t lease;
};

enum { F_RELEASE_LEASE = 1, F_RELEASE_KEYS };
struct msg_release {
    MSG_REQUEST_HEAD;
    uint64_t lease;
    struct spans keys;
};

enum { F_REMOVE_KEYS = 1 };
struct msg_remove {
    MSG_REQUEST_HEAD;
    struct spans keys;
};
enum { F_REMOVE_PREFIX = 1 };
struct msg_remove_prefix {
    MSG_REQUEST_HEAD;
    struct span prefix;
};
enum { F_REMOVER_REMOVED };
struct msg_removed_reply { /* of REMOVE, REMOVE_PREFIX, REMOVE_ALL */
    uint32_t has;
    uint64_t removed;
};

enum { F_PIN_KEYS = 1, F_PIN_PINNED };
struct msg_pin {
    MSG_REQUEST_HEAD;
    struct spans keys;
    bool pinned;
};
enum { F_PINR_CHANGED };
struct msg_pin_reply {
    uint32_t has;
    uint64_t changed;
};

enum { F_STAT_KEY = 1 };
struct msg_stat {
    MSG_REQUEST_HEAD;
    struct span key;
};
enum {
    F_STATR_SIZE,
    F_STATR_VERSION,
    F_STATR_CHECKSUM,
    F_STATR_AGE,
    F_STATR_IDLE,
    F_STATR_HITS,
    F_STATR_PINNED,
    F_STATR_LEASED,
    F_STATR_REPLICAS,
    F_STATR_TTL
};
struct msg_stat_reply {
    uint32_t has;
    uint64_t size;
    uint64_t version;
    uint64_t checksum;
    uint64_t age_ms;
    uint64_t idle_ms;
    uint64_t hits;
    bool pinned;
    bool leased;
    struct span replicas; /* RAW: array of struct msg_replica */
    uint64_t ttl_ms;      /* left; only with an object that has an end */
};
enum { F_REPLICA_TYPE, F_REPLICA_STATE, F_REPLICA_NODE, F_REPLICA_FILE, F_REPLICA_OFFSET };
struct msg_replica {
    uint32_t has;
    struct span type;  /* "memory" or "disk" */
    struct span state; /* "writing" or "complete" */
    struct span node;
    struct span file; /* disk alone, as is offset */
    uint64_t offset;
};

enum { F_SCAN_CURSOR = 1, F_SCAN_PREFIX, F_SCAN_LIMIT };
struct msg_scan {
    MSG_REQUEST_HEAD;
    struct span cursor;
    struct span prefix;
    uint64_t limit;
};
enum { F_SCANR_CURSOR, F_SCANR_OBJECTS };
struct msg_scan_reply {
    uint32_t has;
    struct span cursor;
    struct span objects; /* RAW: array of struct msg_object */
};
enum { F_OBJECT_KEY, F_OBJECT_SIZE, F_OBJECT_MEMORY, F_OBJECT_DISK };
struct msg_object {
    uint32_t has;
    struct span key;
    uint64_t size;
    bool memory;
    bool disk;
};

enum { F_INFO_SECTION = 1 };
struct msg_info {
    MSG_REQUEST_HEAD;
    struct span section;
};
/* INFO's reply is itself a map of sections: it is packed with pack_*, and has the schema of no fields. */

enum { F_CONFIG_GET = 1, F_CONFIG_SET };
struct msg_config {
    MSG_REQUEST_HEAD;
    struct spans get;
    struct span set; /* RAW */
};
enum { F_CONFIGR_VALUES };
struct msg_config_reply {
    uint32_t has;
    struct span values; /* RAW: map */
};

enum { F_ADMIN_ACTION = 1, F_ADMIN_BYTES, F_ADMIN_RATE, F_ADMIN_WAIT, F_ADMIN_NODE, F_ADMIN_CURSOR, F_ADMIN_LIMIT, F_ADMIN_STOP };
struct msg_admin {
    MSG_REQUEST_HEAD;
    struct span action;
    uint64_t bytes; /* of evict */
    uint64_t rate;  /* of scrub, as is wait */
    bool wait;
    struct span node; /* of teardown, and of forget */
    uint64_t cursor;  /* of segments, as is limit */
    uint64_t limit;
    bool stop; /* of scrub */
};
/* What the server answers depends on the action; a reply of one has the fields that are its. */
enum {
    F_ADMINR_OBJECTS,
    F_ADMINR_BYTES,
    F_ADMINR_RUN,
    F_ADMINR_RECORDS,
    F_ADMINR_BAD,
    F_ADMINR_UNREADABLE,
    F_ADMINR_UNWRITTEN,
    F_ADMINR_REMOVED,
    F_ADMINR_CURSOR,
    F_ADMINR_SEGMENTS
};
struct msg_admin_reply {
    uint32_t has;
    uint64_t objects; /* of evict, as is bytes */
    uint64_t bytes;
    uint64_t run; /* of scrub, as are records, bad and unreadable, and bytes */
    uint64_t records;
    uint64_t bad;
    uint64_t unreadable;
    uint64_t unwritten;   /* of drain */
    uint64_t removed;     /* of teardown */
    uint64_t cursor;      /* of segments */
    struct span segments; /* RAW: array of struct msg_segment */
};
enum {
    F_SEGMENT_FILE,
    F_SEGMENT_STATE,
    F_SEGMENT_BYTES,
    F_SEGMENT_LIVE_BYTES,
    F_SEGMENT_LIVE,
    F_SEGMENT_HELD,
    F_SEGMENT_AGE,
    F_SEGMENT_IDLE
};
struct msg_segment {
    uint32_t has;
    struct span file;
    struct span state;
    uint64_t bytes;
    uint64_t live_bytes;
    uint64_t live_objects;
    uint64_t held_objects;
    uint64_t age_ms;
    uint64_t idle_ms; /* since the last read; not there when there was none */
};

/* ---- kvd to kvd ---- */

enum { F_JOIN_CLUSTER = 1, F_JOIN_FROM, F_JOIN_TO, F_JOIN_NONCE, F_JOIN_MAC, F_JOIN_START, F_JOIN_RANDOM, F_JOIN_CONNECTION };
struct msg_join {
    MSG_REQUEST_HEAD;
    struct span cluster;
    struct span from; /* ids */
    struct span to;
    struct span nonce;
    struct span mac;
    uint64_t start, random; /* the incarnation of `from` */
    uint64_t connection;    /* its number; they rise */
};
enum { F_JOINR_MAC };
struct msg_join_reply {
    uint32_t has;
    struct span mac;
};

enum {
    F_BEAT_START = 1,
    F_BEAT_RANDOM,
    F_BEAT_ADDRESS,
    F_BEAT_KNOWN,
    F_BEAT_ACKNOWLEDGED,
    F_BEAT_EFFECTIVE,
    F_BEAT_ASKED,
    F_BEAT_PROMISED,
    F_BEAT_PROMISED_VIEW,
    F_BEAT_CEILING,
    F_BEAT_ACTING,
    F_BEAT_WANTS_IN,
    F_BEAT_LEFT,
    F_BEAT_FORMER_DEAD,
    F_BEAT_VIEW
};
struct msg_beat { /* request and reply alike */
    MSG_REQUEST_HEAD;
    uint64_t start, random;
    struct span address;
    uint64_t known, acknowledged, effective;
    uint64_t asked_us, promised_us, promised_view;
    uint64_t ceiling;
    bool acting, wants_in, left, former_dead;
    struct span view; /* as it lies in the ring */
};

/* Of keys that the one who is asked owns, or holds. `view`: by which who asks speaks, and its members' places; in a reply, that of who
 * answers. Records of all keys lie in one bin (batch.h). */
#define MSG_SHARED_HEAD \
    MSG_REQUEST_HEAD;   \
    uint64_t view
enum { F_VIEW = 1 };

enum { F_LOOKUP_KEYS = 2, F_LOOKUP_LEASE, F_LOOKUP_TOUCH };
struct msg_lookup {
    MSG_SHARED_HEAD;
    struct spans keys;
    uint64_t lease_ms;
    bool touch;
};
enum { F_LOOKUPR_VIEW, F_LOOKUPR_OBJECTS, F_LOOKUPR_FOLDERS };
struct msg_lookup_reply {
    uint32_t has;
    uint64_t view;
    struct span objects; /* BATCH_OBJECT */
    struct spans folders;
};

enum { F_COMMIT_KEYS = 2, F_COMMIT_OBJECTS };
struct msg_commit {
    MSG_SHARED_HEAD;
    struct spans keys;
    struct span objects; /* BATCH_OBJECT */
};
enum { F_ANSWERS_VIEW, F_ANSWERS_ANSWERS };
struct msg_answers { /* of COMMIT, FORGET, REPLICA, DROP */
    uint32_t has;
    uint64_t view;
    struct span answers; /* BATCH_ANSWER */
};

enum { F_FORGET_KEYS = 2 };
struct msg_forget {
    MSG_SHARED_HEAD;
    struct spans keys;
};

enum { F_VERSIONS_KEYS = 2, F_VERSIONS_VERSIONS };
struct msg_versions { /* KILL, DROP */
    MSG_SHARED_HEAD;
    struct spans keys;
    struct span versions; /* BATCH_VERSION */
};
enum { F_CAME_VIEW };
struct msg_came { /* of KILL */
    uint32_t has;
    uint64_t view;
};

enum { F_REPORT_CONNECTION = 2, F_REPORT_KEYS, F_REPORT_HOLDINGS };
struct msg_report { /* REPLICA */
    MSG_SHARED_HEAD;
    uint64_t connection; /* for which it was made */
    struct spans keys;
    struct span holdings; /* BATCH_HOLDING */
};

enum { F_GATHER_KIND = 2, F_GATHER_BASE, F_GATHER_FOLDER, F_GATHER_CURSOR };
struct msg_gather {
    MSG_SHARED_HEAD;
    struct span kind; /* "kills" or "holdings" */
    struct spans base;
    struct span folder;
    struct span cursor;
};
enum { F_GATHERR_VIEW, F_GATHERR_KEYS, F_GATHERR_OBJECTS, F_GATHERR_KILLS, F_GATHERR_CURSOR };
struct msg_gather_reply {
    uint32_t has;
    uint64_t view;
    struct spans keys;
    struct span objects; /* BATCH_OBJECT */
    struct span kills;   /* BATCH_KILL */
    struct span cursor;
};

enum { F_FAIL_MESSAGE, F_FAIL_RETRY, F_FAIL_REASON };
struct msg_failure_reply {
    uint32_t has;
    struct span message;
    uint64_t retry_after_ms;
    struct span reason;
};

#endif
