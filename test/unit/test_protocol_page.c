/* The bytes on docs/protocol.md, both ways: decoded, they are the messages below; the messages, encoded, are they. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "auth/mac.h"
#include "base/bytes.h"
#include "base/error.h"
#include "proto/batch.h"
#include "proto/meta.h"
#include "proto/msg.h"

#define SPAN(text)                                \
    {                                             \
        (const uint8_t *)(text), sizeof(text) - 1 \
    }
#define HAS(bit) (1u << (bit))

enum { VERSION = 1048577, MAX_MSG_BYTES = 512, MAX_EXAMPLE_BYTES = 4096 };

static const char value[] = "kvd stores blocks";
static const uint64_t value_sum = 0x16a3b539f96d8ab0;
static const uint64_t range_sum = 0xe8f4a6a41013b251;
static const uint8_t nonce[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                  16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

/* What a client with this token answers to that nonce. */
static const char auth_token[] = "not-a-secret-but-long-enough";
static const uint8_t auth_mac[32] = {0x67, 0x64, 0x70, 0x1f, 0xab, 0x20, 0x84, 0xfa, 0x26, 0x61, 0x31, 0x91, 0xce, 0xee, 0xf2, 0x49,
                                     0xb4, 0x7e, 0x86, 0x99, 0x4b, 0xc5, 0xb7, 0xcc, 0x37, 0xf6, 0x0b, 0xd1, 0x4c, 0x68, 0x52, 0xcb};

static struct span block_1[] = {SPAN("block-1")};
static struct span two_keys[] = {SPAN("block-1"), SPAN("block-2")};
static struct span three_keys[] = {SPAN("block-1"), SPAN("block-2"), SPAN("\x00\xff")};
static struct span features[] = {SPAN("lease"), SPAN("pin")};
static struct span rights[] = {SPAN("read"), SPAN("write")};
static struct span config_names[] = {SPAN("memory")};
static uint64_t versions[] = {1};

/* ---- what is inside RAW fields ---- */

static const struct msg_limits limits = {
    .has = 31, .key_bytes = 1024, .value_bytes = 268435456, .batch_keys = 4096, .meta_bytes = 4259840, .inflight_bytes = 536870912};
static const struct msg_replica replicas[] = {
    {.has = 7, .type = SPAN("memory"), .state = SPAN("complete"), .node = SPAN("node-a")},
    {.has = 31,
     .type = SPAN("disk"),
     .state = SPAN("complete"),
     .node = SPAN("node-a"),
     .file = SPAN("default/node-a/0000000000000001.seg"),
     .offset = 8192},
};
static const struct msg_object object = {.has = 15, .key = SPAN("block-1"), .size = 17, .memory = true};

static const struct msg_segment segment = {
    .has = 255,
    .file = SPAN("default/node-a/0000000000000001.seg"),
    .state = SPAN("sealed"),
    .bytes = 16617472,
    .live_bytes = 16200000,
    .live_objects = 54,
    .age_ms = 61000,
    .idle_ms = 250,
};

static void raw_limits(struct buffer *raw)
{
    msg_encode(&msg_limits_part, &limits, raw);
}

static void raw_replicas(struct buffer *raw)
{
    pack_array(raw, 2);
    msg_encode(&msg_replica_part, &replicas[0], raw);
    msg_encode(&msg_replica_part, &replicas[1], raw);
}

static void raw_objects(struct buffer *raw)
{
    pack_array(raw, 1);
    msg_encode(&msg_object_part, &object, raw);
}

static void raw_segments(struct buffer *raw)
{
    pack_array(raw, 1);
    msg_encode(&msg_segment_part, &segment, raw);
}

static void raw_values(struct buffer *raw)
{
    pack_map(raw, 1);
    pack_text(raw, "memory");
    pack_text(raw, "4g");
}

static void raw_info(struct buffer *raw)
{
    pack_map(raw, 1);
    pack_text(raw, "server");
    pack_map(raw, 2);
    pack_text(raw, "version");
    pack_text(raw, "0.1.0");
    pack_text(raw, "uptime_ms");
    pack_u64(raw, 61000);
}

/* ---- records of many keys, between nodes ---- */

static const uint8_t looked_up[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x11, 0x16, 0xa3, 0xb5, 0x39, 0xf9, 0x6d,
    0x8a, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x00, 0x01, 0x02, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x07, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x02, 0x80, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
static const uint8_t committed[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                                    0x00, 0x00, 0x00, 0x11, 0x16, 0xa3, 0xb5, 0x39, 0xf9, 0x6d, 0x8a, 0xb0,
                                    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x01, 0x00, 0x01};
static const uint8_t answer_ok[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01};
static const uint8_t answers_two[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01,
                                      0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
static const uint8_t answer_no[] = {0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01};
static const uint8_t one_version[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01};
static const uint8_t holdings[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x07,
                                   0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                                   0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
static const uint8_t gathered[] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
                                   0x00, 0x00, 0x11, 0x16, 0xa3, 0xb5, 0x39, 0xf9, 0x6d, 0x8a, 0xb0, 0x00, 0x00,
                                   0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, 0x01, 0x01, 0x02, 0x03, 0x00, 0x00, 0x00,
                                   0x00, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x02};
static const uint8_t kills[] = {0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x07, 0x62, 0x6c, 0x6f, 0x63, 0x6b,
                                0x2d, 0x31, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x06, 0x62, 0x6c, 0x6f,
                                0x63, 0x6b, 0x2d, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00};
static struct span folders[] = {SPAN("node-x")};
static struct span base[] = {SPAN("node-a")};

/* ---- every example of the page ---- */

struct example {
    const char *name; /* as in its marker; begins with the op's name */
    uint8_t op;
    uint8_t code;
    uint64_t id;
    const void *msg;              /* of the op's schema, or of msg_failure from code 16 up */
    void (*raw)(struct buffer *); /* packs the one RAW field; the whole meta where msg is NULL */
    const char *body;
};

#define FAILURE(text) (&(const struct msg_failure_reply){.has = HAS(F_FAIL_MESSAGE), .message = SPAN(text)})
#define KEYS(array)                               \
    {                                             \
        (array), sizeof(array) / sizeof(array)[0] \
    }
#define BYTES(array)           \
    {                          \
        (array), sizeof(array) \
    }
#define ANSWERS(bytes) \
    (&(const struct msg_answers){.has = HAS(F_ANSWERS_VIEW) | HAS(F_ANSWERS_ANSWERS), .view = 9, .answers = BYTES(bytes)})
#define VERSIONS                                                                                        \
    (&(const struct msg_versions){.has = HAS(F_VIEW) | HAS(F_VERSIONS_KEYS) | HAS(F_VERSIONS_VERSIONS), \
                                  .view = 9,                                                            \
                                  .keys = KEYS(block_1),                                                \
                                  .versions = BYTES(one_version)})
#define NO_FIELDS (&(const struct msg_plain){.has = 0})
#define NO_REPLY_FIELDS (&(const struct msg_empty){.has = 0})
#define REMOVED(n) (&(const struct msg_removed_reply){.has = HAS(F_REMOVER_REMOVED), .removed = (n)})
#define GOT (HAS(F_GETR_SIZE) | HAS(F_GETR_VERSION) | HAS(F_GETR_TIER) | HAS(F_GETR_CHECKSUM))

static const struct msg_beat a_beat = {
    .has = HAS(F_BEAT_START) | HAS(F_BEAT_RANDOM) | HAS(F_BEAT_ADDRESS) | HAS(F_BEAT_KNOWN) | HAS(F_BEAT_ACKNOWLEDGED) |
           HAS(F_BEAT_EFFECTIVE) | HAS(F_BEAT_ASKED) | HAS(F_BEAT_ACTING),
    .start = 3,
    .random = 77,
    .address = SPAN("10.0.0.1:7950"),
    .known = 9,
    .acknowledged = 9,
    .effective = 8,
    .asked_us = 1000000,
    .acting = true,
};

static const struct example examples[] = {
    {"HELLO request", OP_HELLO, 0, 1,
     &(const struct msg_hello){.has = HAS(F_HELLO_VERSIONS) | HAS(F_HELLO_CLIENT), .versions = {versions, 1}, .client = SPAN("example")},
     NULL, ""},
    {"HELLO reply", OP_HELLO, 0, 1,
     &(const struct msg_hello_reply){.has = 127,
                                     .version = 1,
                                     .server = SPAN("kvd 0.1.0"),
                                     .node = SPAN("node-a"),
                                     .features = KEYS(features),
                                     .nonce = {nonce, sizeof nonce},
                                     .authenticated = true},
     raw_limits, ""},
    {"AUTH request", OP_AUTH, 0, 2,
     &(const struct msg_auth){.has = HAS(F_AUTH_NAME) | HAS(F_AUTH_MAC), .name = SPAN("trainer"), .mac = {auth_mac, sizeof auth_mac}}, NULL,
     ""},
    {"AUTH reply DENIED", OP_AUTH, CODE_DENIED, 2, FAILURE("authentication failed"), NULL, ""},
    {"AUTH reply UNSUPPORTED", OP_AUTH, CODE_UNSUPPORTED, 2, FAILURE("this server has no tokens"), NULL, ""},
    {"AUTH reply", OP_AUTH, 0, 2, &(const struct msg_auth_reply){.has = HAS(F_AUTHR_RIGHTS), .rights = KEYS(rights)}, NULL, ""},
    {"PING request", OP_PING, 0, 3, NO_FIELDS, NULL, "are you there?"},
    {"PING reply", OP_PING, 0, 3, NO_REPLY_FIELDS, NULL, "are you there?"},
    {"PUT request", OP_PUT, 0, 4,
     &(const struct msg_put){.has = HAS(F_TIMEOUT) | HAS(F_PUT_KEY) | HAS(F_PUT_REPLACE) | HAS(F_PUT_ACK) | HAS(F_PUT_CHECKSUM),
                             .timeout_ms = 5000,
                             .key = SPAN("block-1"),
                             .ack = SPAN("memory"),
                             .checksum = 0x16a3b539f96d8ab0},
     NULL, value},
    {"PUT reply", OP_PUT, 0, 4, &(const struct msg_put_reply){.has = 1, .version = VERSION}, NULL, ""},
    {"PUT reply PRESENT", OP_PUT, CODE_PRESENT, 4, &(const struct msg_put_reply){.has = 1, .version = VERSION}, NULL, ""},
    {"PUT reply BUSY", OP_PUT, CODE_BUSY, 4,
     &(const struct msg_failure_reply){
         .has = HAS(F_FAIL_MESSAGE) | HAS(F_FAIL_RETRY), .message = SPAN("no room now"), .retry_after_ms = 20},
     NULL, ""},
    {"GET request", OP_GET, 0, 5, &(const struct msg_get){.has = HAS(F_GET_KEY), .key = SPAN("block-1")}, NULL, ""},
    {"GET reply", OP_GET, 0, 5,
     &(const struct msg_get_reply){.has = GOT, .size = 17, .version = VERSION, .tier = SPAN("memory"), .checksum = 0x16a3b539f96d8ab0},
     NULL, value},
    {"GET reply NOT_FOUND", OP_GET, CODE_NOT_FOUND, 5, &(const struct msg_get_reply){.has = 0}, NULL, ""},
    {"GET request range", OP_GET, 0, 6,
     &(const struct msg_get){.has = HAS(F_GET_KEY) | HAS(F_GET_OFFSET) | HAS(F_GET_LENGTH) | HAS(F_GET_BODY_CHECKSUM),
                             .key = SPAN("block-1"),
                             .offset = 4,
                             .length = 6,
                             .body_checksum = true},
     NULL, ""},
    {"GET reply range", OP_GET, 0, 6,
     &(const struct msg_get_reply){.has = GOT | HAS(F_GETR_BODY_CHECKSUM),
                                   .size = 17,
                                   .version = VERSION,
                                   .tier = SPAN("disk"),
                                   .checksum = 0x16a3b539f96d8ab0,
                                   .body_checksum = 0xe8f4a6a41013b251},
     NULL, "stores"},
    {"MGET request", OP_MGET, 0, 7, &(const struct msg_mget){.has = HAS(F_MGET_KEYS), .keys = KEYS(two_keys)}, NULL, ""},
    {"MGET reply", OP_MGET, 0, 7,
     &(const struct msg_get_reply){.has = GOT | HAS(F_GETR_INDEX),
                                   .size = 17,
                                   .version = VERSION,
                                   .tier = SPAN("memory"),
                                   .checksum = 0x16a3b539f96d8ab0,
                                   .index = 0},
     NULL, value},
    {"MGET reply NOT_FOUND", OP_MGET, CODE_NOT_FOUND, 7, &(const struct msg_get_reply){.has = HAS(F_GETR_INDEX), .index = 1}, NULL, ""},
    {"MGET reply last", OP_MGET, 0, 7, &(const struct msg_get_reply){.has = HAS(F_GETR_HITS), .hits = 1}, NULL, ""},
    {"EXISTS request", OP_EXISTS, 0, 8, &(const struct msg_look){.has = HAS(F_LOOK_KEYS) | HAS(F_LOOK_LEASE), .keys = KEYS(three_keys)},
     NULL, ""},
    {"EXISTS reply", OP_EXISTS, 0, 8, &(const struct msg_exists_reply){.has = 7, .present = SPAN("\x03\x00\x02"), .count = 2, .lease = 77},
     NULL, ""},
    {"MATCH request", OP_MATCH, 0, 9,
     &(const struct msg_look){
         .has = HAS(F_LOOK_KEYS) | HAS(F_LOOK_LEASE) | HAS(F_LOOK_WARM), .keys = KEYS(two_keys), .lease_ms = 2000, .warm = true},
     NULL, ""},
    {"MATCH reply", OP_MATCH, 0, 9, &(const struct msg_match_reply){.has = 7, .count = 1, .memory = 1, .lease = 78}, NULL, ""},
    {"RELEASE request", OP_RELEASE, 0, 10,
     &(const struct msg_release){.has = HAS(F_RELEASE_LEASE) | HAS(F_RELEASE_KEYS), .lease = 77, .keys = KEYS(block_1)}, NULL, ""},
    {"RELEASE reply", OP_RELEASE, 0, 10, NO_REPLY_FIELDS, NULL, ""},
    {"REMOVE request", OP_REMOVE, 0, 11, &(const struct msg_remove){.has = HAS(F_REMOVE_KEYS), .keys = KEYS(two_keys)}, NULL, ""},
    {"REMOVE reply", OP_REMOVE, 0, 11, REMOVED(1), NULL, ""},
    {"REMOVE_PREFIX request", OP_REMOVE_PREFIX, 0, 12,
     &(const struct msg_remove_prefix){.has = HAS(F_REMOVE_PREFIX), .prefix = SPAN("block-")}, NULL, ""},
    {"REMOVE_PREFIX reply", OP_REMOVE_PREFIX, 0, 12, REMOVED(12000), NULL, ""},
    {"REMOVE_ALL request", OP_REMOVE_ALL, 0, 13, NO_FIELDS, NULL, ""},
    {"REMOVE_ALL reply", OP_REMOVE_ALL, 0, 13, REMOVED(0), NULL, ""},
    {"PIN request", OP_PIN, 0, 14,
     &(const struct msg_pin){.has = HAS(F_PIN_KEYS) | HAS(F_PIN_PINNED), .keys = KEYS(block_1), .pinned = true}, NULL, ""},
    {"PIN reply", OP_PIN, 0, 14, &(const struct msg_pin_reply){.has = 1, .changed = 1}, NULL, ""},
    {"STAT request", OP_STAT, 0, 15, &(const struct msg_stat){.has = HAS(F_STAT_KEY), .key = SPAN("block-1")}, NULL, ""},
    {"STAT reply", OP_STAT, 0, 15,
     &(const struct msg_stat_reply){.has = 511,
                                    .size = 17,
                                    .version = VERSION,
                                    .checksum = 0x16a3b539f96d8ab0,
                                    .age_ms = 61000,
                                    .idle_ms = 250,
                                    .hits = 3,
                                    .leased = true},
     raw_replicas, ""},
    {"SCAN request", OP_SCAN, 0, 16,
     &(const struct msg_scan){.has = HAS(F_SCAN_CURSOR) | HAS(F_SCAN_PREFIX) | HAS(F_SCAN_LIMIT), .prefix = SPAN("block-"), .limit = 100},
     NULL, ""},
    {"SCAN reply", OP_SCAN, 0, 16, &(const struct msg_scan_reply){.has = 3, .cursor = SPAN("\x00\x2a")}, raw_objects, ""},
    {"INFO request", OP_INFO, 0, 17, &(const struct msg_info){.has = HAS(F_INFO_SECTION), .section = SPAN("server")}, NULL, ""},
    {"INFO reply", OP_INFO, 0, 17, NULL, raw_info, ""},
    {"CONFIG request", OP_CONFIG, 0, 18, &(const struct msg_config){.has = HAS(F_CONFIG_GET), .get = KEYS(config_names)}, NULL, ""},
    {"CONFIG reply", OP_CONFIG, 0, 18, &(const struct msg_config_reply){.has = 1}, raw_values, ""},
    {"ADMIN request", OP_ADMIN, 0, 19, &(const struct msg_admin){.has = HAS(F_ADMIN_ACTION), .action = SPAN("sync")}, NULL, ""},
    {"ADMIN reply", OP_ADMIN, 0, 19, &(const struct msg_admin_reply){.has = 0}, NULL, ""},
    {"ADMIN request evict", OP_ADMIN, 0, 19,
     &(const struct msg_admin){.has = HAS(F_ADMIN_ACTION) | HAS(F_ADMIN_BYTES), .action = SPAN("evict"), .bytes = MIB}, NULL, ""},
    {"ADMIN reply evict", OP_ADMIN, 0, 19,
     &(const struct msg_admin_reply){.has = HAS(F_ADMINR_OBJECTS) | HAS(F_ADMINR_BYTES), .objects = 4, .bytes = MIB}, NULL, ""},
    {"ADMIN request scrub", OP_ADMIN, 0, 19,
     &(const struct msg_admin){.has = HAS(F_ADMIN_ACTION) | HAS(F_ADMIN_RATE) | HAS(F_ADMIN_WAIT),
                               .action = SPAN("scrub"),
                               .rate = 100 * MIB,
                               .wait = true},
     NULL, ""},
    {"ADMIN reply scrub", OP_ADMIN, 0, 19,
     &(const struct msg_admin_reply){.has = HAS(F_ADMINR_BYTES) | HAS(F_ADMINR_RUN) | HAS(F_ADMINR_RECORDS) | HAS(F_ADMINR_BAD) |
                                            HAS(F_ADMINR_UNREADABLE),
                                     .bytes = 90000000,
                                     .run = 1,
                                     .records = 300,
                                     .bad = 1},
     NULL, ""},
    {"ADMIN request drain", OP_ADMIN, 0, 19, &(const struct msg_admin){.has = HAS(F_ADMIN_ACTION), .action = SPAN("drain")}, NULL, ""},
    {"ADMIN reply drain", OP_ADMIN, 0, 19, &(const struct msg_admin_reply){.has = HAS(F_ADMINR_UNWRITTEN)}, NULL, ""},
    {"ADMIN request teardown", OP_ADMIN, 0, 19,
     &(const struct msg_admin){.has = HAS(F_ADMIN_ACTION) | HAS(F_ADMIN_NODE), .action = SPAN("teardown"), .node = SPAN("node-a")}, NULL,
     ""},
    {"ADMIN reply teardown", OP_ADMIN, 0, 19, &(const struct msg_admin_reply){.has = HAS(F_ADMINR_REMOVED), .removed = 300}, NULL, ""},
    {"ADMIN request segments", OP_ADMIN, 0, 19,
     &(const struct msg_admin){.has = HAS(F_ADMIN_ACTION) | HAS(F_ADMIN_CURSOR) | HAS(F_ADMIN_LIMIT),
                               .action = SPAN("segments"),
                               .limit = 100},
     NULL, ""},
    {"ADMIN reply segments", OP_ADMIN, 0, 19, &(const struct msg_admin_reply){.has = HAS(F_ADMINR_CURSOR) | HAS(F_ADMINR_SEGMENTS)},
     raw_segments, ""},
    {"JOIN request", OP_JOIN, 0, 21,
     &(const struct msg_join){.has = HAS(F_JOIN_CLUSTER) | HAS(F_JOIN_FROM) | HAS(F_JOIN_TO) | HAS(F_JOIN_NONCE) | HAS(F_JOIN_MAC) |
                                     HAS(F_JOIN_START) | HAS(F_JOIN_RANDOM) | HAS(F_JOIN_CONNECTION),
                              .cluster = SPAN("default"),
                              .from = SPAN("node-a"),
                              .to = SPAN("node-b"),
                              .nonce = {nonce, sizeof nonce},
                              .mac = {auth_mac, sizeof auth_mac},
                              .start = 3,
                              .random = 77,
                              .connection = 12},
     NULL, ""},
    {"JOIN reply", OP_JOIN, 0, 21, &(const struct msg_join_reply){.has = HAS(F_JOINR_MAC), .mac = {auth_mac, sizeof auth_mac}}, NULL, ""},
    {"BEAT request", OP_BEAT, 0, 22, &a_beat, NULL, ""},
    {"BEAT reply", OP_BEAT, 0, 22, &a_beat, NULL, ""},
    {"LOOKUP request", OP_LOOKUP, 0, 23,
     &(const struct msg_lookup){.has = HAS(F_VIEW) | HAS(F_LOOKUP_KEYS) | HAS(F_LOOKUP_LEASE) | HAS(F_LOOKUP_TOUCH),
                                .view = 9,
                                .keys = KEYS(two_keys),
                                .lease_ms = 2000,
                                .touch = true},
     NULL, ""},
    {"LOOKUP reply", OP_LOOKUP, 0, 23,
     &(const struct msg_lookup_reply){.has = 7, .view = 9, .objects = BYTES(looked_up), .folders = KEYS(folders)}, NULL, ""},
    {"COMMIT request", OP_COMMIT, 0, 24,
     &(const struct msg_commit){
         .has = HAS(F_VIEW) | HAS(F_COMMIT_KEYS) | HAS(F_COMMIT_OBJECTS), .view = 9, .keys = KEYS(block_1), .objects = BYTES(committed)},
     NULL, ""},
    {"COMMIT reply", OP_COMMIT, 0, 24, ANSWERS(answer_ok), NULL, ""},
    {"FORGET request", OP_FORGET, 0, 25,
     &(const struct msg_forget){.has = HAS(F_VIEW) | HAS(F_FORGET_KEYS), .view = 9, .keys = KEYS(two_keys)}, NULL, ""},
    {"FORGET reply", OP_FORGET, 0, 25, ANSWERS(answers_two), NULL, ""},
    {"KILL request", OP_KILL, 0, 26, VERSIONS, NULL, ""},
    {"KILL reply", OP_KILL, 0, 26, &(const struct msg_came){.has = 1, .view = 9}, NULL, ""},
    {"REPLICA request", OP_REPLICA, 0, 27,
     &(const struct msg_report){.has = HAS(F_VIEW) | HAS(F_REPORT_CONNECTION) | HAS(F_REPORT_KEYS) | HAS(F_REPORT_HOLDINGS),
                                .view = 9,
                                .connection = 12,
                                .keys = KEYS(two_keys),
                                .holdings = BYTES(holdings)},
     NULL, ""},
    {"REPLICA reply", OP_REPLICA, 0, 27, ANSWERS(answers_two), NULL, ""},
    {"DROP request", OP_DROP, 0, 28, VERSIONS, NULL, ""},
    {"DROP reply", OP_DROP, 0, 28, ANSWERS(answer_no), NULL, ""},
    {"GATHER request", OP_GATHER, 0, 29,
     &(const struct msg_gather){.has = HAS(F_VIEW) | HAS(F_GATHER_KIND) | HAS(F_GATHER_BASE) | HAS(F_GATHER_FOLDER) | HAS(F_GATHER_CURSOR),
                                .view = 9,
                                .kind = SPAN("holdings"),
                                .base = KEYS(base),
                                .folder = SPAN("node-x"),
                                .cursor = SPAN("\x00\x2a")},
     NULL, ""},
    {"GATHER reply", OP_GATHER, 0, 29,
     &(const struct msg_gather_reply){.has = HAS(F_GATHERR_VIEW) | HAS(F_GATHERR_KEYS) | HAS(F_GATHERR_OBJECTS) | HAS(F_GATHERR_CURSOR),
                                      .view = 9,
                                      .keys = KEYS(block_1),
                                      .objects = BYTES(gathered),
                                      .cursor = SPAN("\x00\x2b")},
     NULL, ""},
    {"GATHER request kills", OP_GATHER, 0, 30,
     &(const struct msg_gather){.has = HAS(F_VIEW) | HAS(F_GATHER_KIND) | HAS(F_GATHER_BASE), .view = 9, .kind = SPAN("kills")}, NULL, ""},
    {"GATHER reply kills", OP_GATHER, 0, 30,
     &(const struct msg_gather_reply){
         .has = HAS(F_GATHERR_VIEW) | HAS(F_GATHERR_KILLS) | HAS(F_GATHERR_CURSOR), .view = 9, .kills = BYTES(kills)},
     NULL, ""},
    {"WATCH request", OP_WATCH, 0, 20, NO_FIELDS, NULL, ""},
    {"WATCH reply UNSUPPORTED", OP_WATCH, CODE_UNSUPPORTED, 20, FAILURE("WATCH is not in this version"), NULL, ""},
};

enum { EXAMPLES = sizeof examples / sizeof examples[0] };

/* ---- reading the page ---- */

static char *page_read(void)
{
    const char *root = getenv("KVD_SOURCE_DIR");
    char path[4096];
    snprintf(path, sizeof path, "%s%sdocs/protocol.md", root ? root : "", root ? "/" : "");
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s: run the tests from the root of the repository, or set KVD_SOURCE_DIR", path);
    size_t cap = 1 << 20;
    char *text = malloc(cap);
    size_t len = fread(text, 1, cap - 1, file);
    cr_assert_lt(len, cap - 1, "the page is over 1 MiB");
    text[len] = 0;
    fclose(file);
    return text;
}

static unsigned nibble(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : tolower(c) - 'a' + 10);
}

/* The hex digits from `text` to the closing fence; '#' begins a comment that goes to the end of its line. */
static size_t hex_read(const char *text, const char *name, uint8_t out[MAX_EXAMPLE_BYTES])
{
    size_t len = 0;
    while (strncmp(text, "```", 3) != 0) {
        cr_assert(*text, "%s: the hex block has no end", name);
        if (*text == '#') {
            text += strcspn(text, "\n");
        } else if (isxdigit((unsigned char)text[0])) {
            cr_assert(isxdigit((unsigned char)text[1]) && len < MAX_EXAMPLE_BYTES, "%s: half a byte, or too many", name);
            out[len++] = (uint8_t)(nibble(text[0]) << 4 | nibble(text[1]));
            text += 2;
        } else {
            cr_assert(isspace((unsigned char)*text), "%s: '%c' is no hex", name, *text);
            text++;
        }
    }
    return len;
}

#define MARK "<!-- hex: "

/* The bytes of the example of that name; 0 when the page has none. */
static size_t example_read(const char *page, const char *name, uint8_t out[MAX_EXAMPLE_BYTES])
{
    char mark[128];
    snprintf(mark, sizeof mark, MARK "%s -->\n```hex\n", name);
    const char *at = strstr(page, mark);
    if (!at)
        return 0;
    cr_assert_null(strstr(at + 1, mark), "%s: twice on the page", name);
    return hex_read(at + strlen(mark), name, out);
}

/* ---- both ways ---- */

static bool is_reply(const struct example *example)
{
    return strstr(example->name, " reply") != NULL;
}

static const struct schema *schema_of(const struct example *example)
{
    if (example->code >= CODE_BAD_REQUEST)
        return &msg_failure;
    return is_reply(example) ? msg_reply(example->op) : msg_request(example->op);
}

/* The message with its RAW field, if it has one, pointing to `raw`. */
static void message_fill(const struct example *example, struct buffer *raw, uint8_t out[MAX_MSG_BYTES])
{
    const struct schema *schema = schema_of(example);
    cr_assert(schema->size <= MAX_MSG_BYTES);
    memset(out, 0, MAX_MSG_BYTES);
    if (example->msg)
        memcpy(out, example->msg, schema->size);
    for (uint32_t i = 0; i < schema->count && raw->len > 0; i++) {
        if (schema->fields[i].type == FIELD_RAW) {
            struct span span = span_of(raw->at, raw->len);
            memcpy(out + schema->fields[i].at, &span, sizeof span);
        }
    }
}

static bool spans_equal(const struct spans *a, const struct spans *b)
{
    bool same = a->count == b->count;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = span_equal(a->at[i], b->at[i]);
    return same;
}

static bool field_equal(enum field_type type, const void *x, const void *y)
{
    const struct u64s *a = x;
    const struct u64s *b = y;
    switch (type) {
    case FIELD_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case FIELD_U64:
        return *(const uint64_t *)x == *(const uint64_t *)y;
    case FIELD_STR:
    case FIELD_BIN:
    case FIELD_RAW:
        return span_equal(*(const struct span *)x, *(const struct span *)y);
    case FIELD_KEYS:
    case FIELD_STRS:
        return spans_equal(x, y);
    case FIELD_U64S:
        return a->count == b->count && memcmp(a->at, b->at, a->count * sizeof *a->at) == 0;
    }
    return false;
}

static void check_decoded(const struct example *example, struct span meta, const uint8_t *wanted)
{
    const struct schema *schema = schema_of(example);
    _Alignas(8) uint8_t got[MAX_MSG_BYTES];
    struct arena arena;
    arena_init(&arena);
    const char *why = "";
    cr_assert_eq(msg_decode(schema, meta, 4096, &arena, got, &why), 0, "%s: %s", example->name, why);
    cr_assert_eq(memcmp(got, wanted, sizeof(uint32_t)), 0, "%s: other fields are there", example->name);
    for (uint32_t i = 0; i < schema->count; i++) {
        const struct field *field = &schema->fields[i];
        cr_assert(field_equal(field->type, got + field->at, wanted + field->at), "%s: %s differs", example->name, field->name);
    }
    arena_fini(&arena);
}

static void check_encoded(const struct example *example, struct span meta, const uint8_t *wanted, const struct buffer *raw)
{
    struct buffer out;
    buffer_init(&out);
    if (example->msg)
        cr_assert_eq(msg_encode(schema_of(example), wanted, &out), 0);
    else
        pack_raw(&out, span_of(raw->at, raw->len));
    bool none = meta.len == 0 && out.len == 1 && out.at[0] == 0x80; /* meta_len 0 means an empty map */
    cr_assert(none || span_equal(meta, span_of(out.at, out.len)), "%s: the message encodes to other bytes", example->name);
    buffer_fini(&out);
}

static void check_prefix(const struct example *example, const uint8_t *bytes, size_t len, struct frame *frame)
{
    cr_assert_geq(len, (size_t)FRAME_PREFIX_BYTES, "%s: is not on the page", example->name);
    cr_assert_eq(frame_decode(bytes, frame), 0, "%s: the prefix is broken", example->name);
    cr_assert_eq(frame->op, example->op, "%s: op", example->name);
    cr_assert_eq(frame->code, example->code, "%s: code", example->name);
    cr_assert_eq(frame->id, example->id, "%s: id", example->name);
    cr_assert_eq(FRAME_PREFIX_BYTES + frame->meta_len + frame->body_len, len, "%s: lengths", example->name);
    uint8_t again[FRAME_PREFIX_BYTES];
    frame_encode(again, frame);
    cr_assert_arr_eq(again, bytes, sizeof again, "%s: prefix", example->name);
}

Test(protocol_page, every_example_both_ways)
{
    char *page = page_read();
    for (size_t i = 0; i < EXAMPLES; i++) {
        const struct example *example = &examples[i];
        uint8_t bytes[MAX_EXAMPLE_BYTES];
        size_t len = example_read(page, example->name, bytes);
        struct frame frame;
        check_prefix(example, bytes, len, &frame);
        struct buffer raw;
        buffer_init(&raw);
        if (example->raw)
            example->raw(&raw);
        _Alignas(8) uint8_t wanted[MAX_MSG_BYTES];
        message_fill(example, &raw, wanted);
        struct span meta = span_of(bytes + FRAME_PREFIX_BYTES, frame.meta_len);
        check_decoded(example, meta, wanted);
        check_encoded(example, meta, wanted, &raw);
        struct span body = span_of(bytes + FRAME_PREFIX_BYTES + frame.meta_len, (size_t)frame.body_len);
        cr_assert(span_equal(body, span_text(example->body)), "%s: body", example->name);
        buffer_fini(&raw);
    }
    free(page);
}

static bool has_example(const char *op, const char *kind)
{
    char start[64];
    snprintf(start, sizeof start, "%s %s", op, kind);
    for (size_t i = 0; i < EXAMPLES; i++)
        if (strncmp(examples[i].name, start, strlen(start)) == 0)
            return true;
    return false;
}

/* All that are listed here are on the page, by the test above; so an op without an example fails here. */
Test(protocol_page, every_op_has_a_request_and_a_reply)
{
    unsigned ops = 0;
    for (unsigned op = 0; op < 256; op++) {
        const char *name = op_name((uint8_t)op);
        if (!name)
            continue;
        ops++;
        cr_assert(has_example(name, "request"), "%s has no request", name);
        cr_assert(has_example(name, "reply"), "%s has no reply", name);
    }
    cr_assert_eq(ops, 28);
}

Test(protocol_page, nothing_on_the_page_is_left_unchecked)
{
    char *page = page_read();
    size_t marks = 0;
    for (const char *at = page; (at = strstr(at, MARK)); at++)
        marks++;
    size_t fences = 0;
    for (const char *at = page; (at = strstr(at, "```hex")); at++)
        fences++;
    cr_assert_eq(marks, EXAMPLES);
    cr_assert_eq(fences, EXAMPLES);
    free(page);
}

/* The records in the examples are what the page says of them. */
Test(protocol_page, records)
{
    struct span bytes = span_of(looked_up, sizeof looked_up);
    struct batch_object found;
    cr_assert_eq(batch_count(BATCH_OBJECT, bytes), 2);
    batch_take_object(&bytes, &found);
    cr_assert(found.version == VERSION && found.size == 17 && found.checksum == value_sum && found.leased && !found.pinned &&
              found.count == 3);
    cr_assert(found.replicas[1].node == 2 && found.replicas[1].memory && found.replicas[1].place.sequence == 7);
    cr_assert(found.replicas[2].node == BATCH_FOLDERS && !found.replicas[2].memory && found.replicas[2].place.blocks == 2);
    batch_take_object(&bytes, &found);
    cr_assert(found.version == 0 && found.count == 0);
    cr_assert_eq(batch_count(BATCH_OBJECT, span_of(committed, sizeof committed)), 1);
    cr_assert_eq(batch_count(BATCH_OBJECT, span_of(gathered, sizeof gathered)), 1);
    cr_assert_eq(batch_count(BATCH_ANSWER, span_of(answer_ok, sizeof answer_ok)), 1);
    cr_assert_eq(batch_count(BATCH_ANSWER, span_of(answers_two, sizeof answers_two)), 2);
    cr_assert_eq(batch_count(BATCH_ANSWER, span_of(answer_no, sizeof answer_no)), 1);
    cr_assert_eq(batch_count(BATCH_VERSION, span_of(one_version, sizeof one_version)), 1);
    cr_assert_eq(batch_count(BATCH_HOLDING, span_of(holdings, sizeof holdings)), 2);
    cr_assert_eq(batch_count(BATCH_KILL, span_of(kills, sizeof kills)), 3);
}

/* The parts inside RAW fields, decoded from the page. */
Test(protocol_page, nested_maps)
{
    char *page = page_read();
    uint8_t bytes[MAX_EXAMPLE_BYTES];
    struct arena arena;
    arena_init(&arena);
    const char *why;
    size_t len = example_read(page, "STAT reply", bytes);
    struct msg_stat_reply stat;
    cr_assert_eq(msg_decode(msg_reply(OP_STAT), span_of(bytes + FRAME_PREFIX_BYTES, len - FRAME_PREFIX_BYTES), 10, &arena, &stat, &why), 0);
    struct meta_walk walk;
    cr_assert_eq(meta_array(stat.replicas, &walk), 0);
    cr_assert_eq(walk.left, 2);
    for (size_t i = 0; i < 2; i++) {
        struct span item;
        struct msg_replica replica;
        cr_assert_eq(meta_next_item(&walk, &item), 0);
        cr_assert_eq(msg_decode(&msg_replica_part, item, 10, &arena, &replica, &why), 0);
        cr_assert_eq(replica.has, replicas[i].has);
        cr_assert(span_equal(replica.type, replicas[i].type));
        cr_assert(span_equal(replica.file, replicas[i].file));
        cr_assert_eq(replica.offset, replicas[i].offset);
    }
    arena_fini(&arena);
    free(page);
}

Test(protocol_page, sums_are_those_of_the_bytes)
{
    cr_assert_eq(XXH3_64bits(value, sizeof value - 1), value_sum);
    cr_assert_eq(XXH3_64bits(value + 4, 6), range_sum);
}

Test(protocol_page, the_mac_is_that_of_the_token_and_the_nonce)
{
    uint8_t mac[MAC_BYTES];
    cr_assert_eq(mac_of(mac, span_text(auth_token), MAC_CLIENT, span_of(nonce, NONCE_BYTES)), 0);
    cr_assert_arr_eq(mac, auth_mac, MAC_BYTES);
    char *page = page_read();
    cr_assert_not_null(strstr(page, auth_token), "the page does not say which token");
    free(page);
}

static size_t names_on_page(const char *page, const char *(*name_of)(uint8_t), const char *format)
{
    size_t found = 0;
    for (unsigned i = 0; i < 256; i++) {
        char row[128];
        const char *name = name_of((uint8_t)i);
        if (!name)
            continue;
        snprintf(row, sizeof row, format, i, name);
        cr_assert_not_null(strstr(page, row), "the page has no row '%s'", row);
        found++;
    }
    return found;
}

Test(protocol_page, lists_every_op_and_code)
{
    char *page = page_read();
    cr_assert_eq(names_on_page(page, op_name, "| 0x%02x | [%s]"), 28);
    cr_assert_eq(names_on_page(page, code_name, "| %u | %s |"), 14);
    free(page);
}
