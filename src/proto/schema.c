/* The tables of every message: a field's name on the wire is its member's. */
#include "proto/msg.h"

#define FIELD(message, member, kind)                                                  \
    {                                                                                 \
        .name = #member, .type = FIELD_##kind, .at = offsetof(struct message, member) \
    }
#define NEEDED(message, member, kind)                                                                   \
    {                                                                                                   \
        .name = #member, .type = FIELD_##kind, .at = offsetof(struct message, member), .required = true \
    }
#define TIMEOUT_FIELD(message) [F_TIMEOUT] = FIELD(message, timeout_ms, U64)
#define SCHEMA(title, message, table)                                                                           \
    {                                                                                                           \
        .name = title, .fields = table, .count = sizeof table / sizeof table[0], .size = sizeof(struct message) \
    }

static const struct schema empty_schema = {.name = "empty", .size = sizeof(struct msg_empty)};

static const struct field plain_fields[] = {TIMEOUT_FIELD(msg_plain)};
static const struct schema plain_schema = SCHEMA("plain", msg_plain, plain_fields);

static const struct field failure_fields[] = {
    [F_FAIL_MESSAGE] = FIELD(msg_failure_reply, message, STR),
    [F_FAIL_RETRY] = FIELD(msg_failure_reply, retry_after_ms, U64),
    [F_FAIL_REASON] = FIELD(msg_failure_reply, reason, STR),
};
const struct schema msg_failure = SCHEMA("failure", msg_failure_reply, failure_fields);

static const struct field hello_fields[] = {
    TIMEOUT_FIELD(msg_hello),
    [F_HELLO_VERSIONS] = NEEDED(msg_hello, versions, U64S),
    [F_HELLO_CLIENT] = FIELD(msg_hello, client, STR),
};
static const struct schema hello_schema = SCHEMA("HELLO", msg_hello, hello_fields);

static const struct field hello_reply_fields[] = {
    [F_HELLOR_VERSION] = NEEDED(msg_hello_reply, version, U64),
    [F_HELLOR_SERVER] = FIELD(msg_hello_reply, server, STR),
    [F_HELLOR_NODE] = FIELD(msg_hello_reply, node, STR),
    [F_HELLOR_FEATURES] = FIELD(msg_hello_reply, features, STRS),
    [F_HELLOR_LIMITS] = FIELD(msg_hello_reply, limits, RAW),
    [F_HELLOR_NONCE] = FIELD(msg_hello_reply, nonce, BIN),
    [F_HELLOR_AUTHENTICATED] = FIELD(msg_hello_reply, authenticated, BOOL),
};
static const struct schema hello_reply_schema = SCHEMA("HELLO reply", msg_hello_reply, hello_reply_fields);

static const struct field limits_fields[] = {
    [F_LIMITS_KEY] = FIELD(msg_limits, key_bytes, U64),           [F_LIMITS_VALUE] = FIELD(msg_limits, value_bytes, U64),
    [F_LIMITS_BATCH] = FIELD(msg_limits, batch_keys, U64),        [F_LIMITS_META] = FIELD(msg_limits, meta_bytes, U64),
    [F_LIMITS_INFLIGHT] = FIELD(msg_limits, inflight_bytes, U64),
};
const struct schema msg_limits_part = SCHEMA("limits", msg_limits, limits_fields);

static const struct field auth_fields[] = {
    TIMEOUT_FIELD(msg_auth),
    [F_AUTH_NAME] = FIELD(msg_auth, name, STR),
    [F_AUTH_MAC] = NEEDED(msg_auth, mac, BIN),
};
static const struct schema auth_schema = SCHEMA("AUTH", msg_auth, auth_fields);

static const struct field auth_reply_fields[] = {[F_AUTHR_RIGHTS] = NEEDED(msg_auth_reply, rights, STRS)};
static const struct schema auth_reply_schema = SCHEMA("AUTH reply", msg_auth_reply, auth_reply_fields);

static const struct field put_fields[] = {
    TIMEOUT_FIELD(msg_put),
    [F_PUT_KEY] = NEEDED(msg_put, key, BIN),
    [F_PUT_REPLACE] = FIELD(msg_put, replace, BOOL),
    [F_PUT_ACK] = FIELD(msg_put, ack, STR),
    [F_PUT_PIN] = FIELD(msg_put, pin, BOOL),
    [F_PUT_TTL] = FIELD(msg_put, ttl_ms, U64),
    [F_PUT_CHECKSUM] = FIELD(msg_put, checksum, U64),
    [F_PUT_PARENT] = FIELD(msg_put, parent, BIN),
    [F_PUT_COST] = FIELD(msg_put, cost_us, U64),
};
static const struct schema put_schema = SCHEMA("PUT", msg_put, put_fields);

static const struct field put_reply_fields[] = {[F_PUTR_VERSION] = NEEDED(msg_put_reply, version, U64)};
static const struct schema put_reply_schema = SCHEMA("PUT reply", msg_put_reply, put_reply_fields);

static const struct field get_fields[] = {
    TIMEOUT_FIELD(msg_get),
    [F_GET_KEY] = NEEDED(msg_get, key, BIN),
    [F_GET_OFFSET] = FIELD(msg_get, offset, U64),
    [F_GET_LENGTH] = FIELD(msg_get, length, U64),
    [F_GET_BODY_CHECKSUM] = FIELD(msg_get, body_checksum, BOOL),
};
static const struct schema get_schema = SCHEMA("GET", msg_get, get_fields);

static const struct field get_reply_fields[] = {
    [F_GETR_SIZE] = FIELD(msg_get_reply, size, U64),
    [F_GETR_VERSION] = FIELD(msg_get_reply, version, U64),
    [F_GETR_TIER] = FIELD(msg_get_reply, tier, STR),
    [F_GETR_CHECKSUM] = FIELD(msg_get_reply, checksum, U64),
    [F_GETR_BODY_CHECKSUM] = FIELD(msg_get_reply, body_checksum, U64),
    [F_GETR_INDEX] = FIELD(msg_get_reply, index, U64),
    [F_GETR_HITS] = FIELD(msg_get_reply, hits, U64),
    [F_GETR_REASON] = FIELD(msg_get_reply, reason, STR),
    [F_GETR_MESSAGE] = FIELD(msg_get_reply, message, STR),
    [F_GETR_RETRY] = FIELD(msg_get_reply, retry_after_ms, U64),
};
static const struct schema get_reply_schema = SCHEMA("GET reply", msg_get_reply, get_reply_fields);

static const struct field mget_fields[] = {
    TIMEOUT_FIELD(msg_mget),
    [F_MGET_KEYS] = NEEDED(msg_mget, keys, KEYS),
    [F_MGET_OFFSET] = FIELD(msg_mget, offset, U64),
    [F_MGET_LENGTH] = FIELD(msg_mget, length, U64),
};
static const struct schema mget_schema = SCHEMA("MGET", msg_mget, mget_fields);

static const struct field exists_fields[] = {
    TIMEOUT_FIELD(msg_look),
    [F_LOOK_KEYS] = NEEDED(msg_look, keys, KEYS),
    [F_LOOK_LEASE] = FIELD(msg_look, lease_ms, U64),
};
static const struct schema exists_schema = SCHEMA("EXISTS", msg_look, exists_fields);

static const struct field exists_reply_fields[] = {
    [F_EXISTSR_PRESENT] = NEEDED(msg_exists_reply, present, BIN),
    [F_EXISTSR_COUNT] = NEEDED(msg_exists_reply, count, U64),
    [F_EXISTSR_LEASE] = FIELD(msg_exists_reply, lease, U64),
};
static const struct schema exists_reply_schema = SCHEMA("EXISTS reply", msg_exists_reply, exists_reply_fields);

static const struct field match_fields[] = {
    TIMEOUT_FIELD(msg_look),
    [F_LOOK_KEYS] = NEEDED(msg_look, keys, KEYS),
    [F_LOOK_LEASE] = FIELD(msg_look, lease_ms, U64),
    [F_LOOK_WARM] = FIELD(msg_look, warm, BOOL),
};
static const struct schema match_schema = SCHEMA("MATCH", msg_look, match_fields);

static const struct field match_reply_fields[] = {
    [F_MATCHR_COUNT] = NEEDED(msg_match_reply, count, U64),
    [F_MATCHR_MEMORY] = NEEDED(msg_match_reply, memory, U64),
    [F_MATCHR_LEASE] = FIELD(msg_match_reply, lease, U64),
};
static const struct schema match_reply_schema = SCHEMA("MATCH reply", msg_match_reply, match_reply_fields);

static const struct field release_fields[] = {
    TIMEOUT_FIELD(msg_release),
    [F_RELEASE_LEASE] = NEEDED(msg_release, lease, U64),
    [F_RELEASE_KEYS] = FIELD(msg_release, keys, KEYS),
};
static const struct schema release_schema = SCHEMA("RELEASE", msg_release, release_fields);

static const struct field remove_fields[] = {
    TIMEOUT_FIELD(msg_remove),
    [F_REMOVE_KEYS] = NEEDED(msg_remove, keys, KEYS),
};
static const struct schema remove_schema = SCHEMA("REMOVE", msg_remove, remove_fields);

static const struct field remove_prefix_fields[] = {
    TIMEOUT_FIELD(msg_remove_prefix),
    [F_REMOVE_PREFIX] = NEEDED(msg_remove_prefix, prefix, BIN),
};
static const struct schema remove_prefix_schema = SCHEMA("REMOVE_PREFIX", msg_remove_prefix, remove_prefix_fields);

static const struct field removed_reply_fields[] = {[F_REMOVER_REMOVED] = NEEDED(msg_removed_reply, removed, U64)};
static const struct schema removed_reply_schema = SCHEMA("REMOVE reply", msg_removed_reply, removed_reply_fields);

static const struct field pin_fields[] = {
    TIMEOUT_FIELD(msg_pin),
    [F_PIN_KEYS] = NEEDED(msg_pin, keys, KEYS),
    [F_PIN_PINNED] = NEEDED(msg_pin, pinned, BOOL),
};
static const struct schema pin_schema = SCHEMA("PIN", msg_pin, pin_fields);

static const struct field pin_reply_fields[] = {[F_PINR_CHANGED] = NEEDED(msg_pin_reply, changed, U64)};
static const struct schema pin_reply_schema = SCHEMA("PIN reply", msg_pin_reply, pin_reply_fields);

static const struct field stat_fields[] = {
    TIMEOUT_FIELD(msg_stat),
    [F_STAT_KEY] = NEEDED(msg_stat, key, BIN),
};
static const struct schema stat_schema = SCHEMA("STAT", msg_stat, stat_fields);

static const struct field stat_reply_fields[] = {
    [F_STATR_SIZE] = NEEDED(msg_stat_reply, size, U64),         [F_STATR_VERSION] = NEEDED(msg_stat_reply, version, U64),
    [F_STATR_CHECKSUM] = NEEDED(msg_stat_reply, checksum, U64), [F_STATR_AGE] = FIELD(msg_stat_reply, age_ms, U64),
    [F_STATR_IDLE] = FIELD(msg_stat_reply, idle_ms, U64),       [F_STATR_HITS] = FIELD(msg_stat_reply, hits, U64),
    [F_STATR_PINNED] = FIELD(msg_stat_reply, pinned, BOOL),     [F_STATR_LEASED] = FIELD(msg_stat_reply, leased, BOOL),
    [F_STATR_REPLICAS] = FIELD(msg_stat_reply, replicas, RAW),  [F_STATR_TTL] = FIELD(msg_stat_reply, ttl_ms, U64),
};
static const struct schema stat_reply_schema = SCHEMA("STAT reply", msg_stat_reply, stat_reply_fields);

static const struct field replica_fields[] = {
    [F_REPLICA_TYPE] = NEEDED(msg_replica, type, STR),    [F_REPLICA_STATE] = NEEDED(msg_replica, state, STR),
    [F_REPLICA_NODE] = FIELD(msg_replica, node, STR),     [F_REPLICA_FILE] = FIELD(msg_replica, file, STR),
    [F_REPLICA_OFFSET] = FIELD(msg_replica, offset, U64),
};
const struct schema msg_replica_part = SCHEMA("replica", msg_replica, replica_fields);

static const struct field scan_fields[] = {
    TIMEOUT_FIELD(msg_scan),
    [F_SCAN_CURSOR] = FIELD(msg_scan, cursor, BIN),
    [F_SCAN_PREFIX] = FIELD(msg_scan, prefix, BIN),
    [F_SCAN_LIMIT] = FIELD(msg_scan, limit, U64),
};
static const struct schema scan_schema = SCHEMA("SCAN", msg_scan, scan_fields);

static const struct field scan_reply_fields[] = {
    [F_SCANR_CURSOR] = NEEDED(msg_scan_reply, cursor, BIN),
    [F_SCANR_OBJECTS] = NEEDED(msg_scan_reply, objects, RAW),
};
static const struct schema scan_reply_schema = SCHEMA("SCAN reply", msg_scan_reply, scan_reply_fields);

static const struct field object_fields[] = {
    [F_OBJECT_KEY] = NEEDED(msg_object, key, BIN),
    [F_OBJECT_SIZE] = NEEDED(msg_object, size, U64),
    [F_OBJECT_MEMORY] = NEEDED(msg_object, memory, BOOL),
    [F_OBJECT_DISK] = NEEDED(msg_object, disk, BOOL),
};
const struct schema msg_object_part = SCHEMA("object", msg_object, object_fields);

static const struct field info_fields[] = {
    TIMEOUT_FIELD(msg_info),
    [F_INFO_SECTION] = FIELD(msg_info, section, STR),
};
static const struct schema info_schema = SCHEMA("INFO", msg_info, info_fields);

static const struct field config_fields[] = {
    TIMEOUT_FIELD(msg_config),
    [F_CONFIG_GET] = FIELD(msg_config, get, STRS),
    [F_CONFIG_SET] = FIELD(msg_config, set, RAW),
};
static const struct schema config_schema = SCHEMA("CONFIG", msg_config, config_fields);

static const struct field config_reply_fields[] = {[F_CONFIGR_VALUES] = NEEDED(msg_config_reply, values, RAW)};
static const struct schema config_reply_schema = SCHEMA("CONFIG reply", msg_config_reply, config_reply_fields);

static const struct field admin_fields[] = {
    TIMEOUT_FIELD(msg_admin),
    [F_ADMIN_ACTION] = NEEDED(msg_admin, action, STR),
    [F_ADMIN_BYTES] = FIELD(msg_admin, bytes, U64),
    [F_ADMIN_RATE] = FIELD(msg_admin, rate, U64),
    [F_ADMIN_WAIT] = FIELD(msg_admin, wait, BOOL),
    [F_ADMIN_NODE] = FIELD(msg_admin, node, STR),
    [F_ADMIN_CURSOR] = FIELD(msg_admin, cursor, U64),
    [F_ADMIN_LIMIT] = FIELD(msg_admin, limit, U64),
    [F_ADMIN_STOP] = FIELD(msg_admin, stop, BOOL),
};
static const struct schema admin_schema = SCHEMA("ADMIN", msg_admin, admin_fields);

static const struct field admin_reply_fields[] = {
    [F_ADMINR_OBJECTS] = FIELD(msg_admin_reply, objects, U64),
    [F_ADMINR_BYTES] = FIELD(msg_admin_reply, bytes, U64),
    [F_ADMINR_RUN] = FIELD(msg_admin_reply, run, U64),
    [F_ADMINR_RECORDS] = FIELD(msg_admin_reply, records, U64),
    [F_ADMINR_BAD] = FIELD(msg_admin_reply, bad, U64),
    [F_ADMINR_UNREADABLE] = FIELD(msg_admin_reply, unreadable, U64),
    [F_ADMINR_UNWRITTEN] = FIELD(msg_admin_reply, unwritten, U64),
    [F_ADMINR_REMOVED] = FIELD(msg_admin_reply, removed, U64),

    [F_ADMINR_CURSOR] = FIELD(msg_admin_reply, cursor, U64),
    [F_ADMINR_SEGMENTS] = FIELD(msg_admin_reply, segments, RAW),
};
static const struct schema admin_reply_schema = SCHEMA("ADMIN reply", msg_admin_reply, admin_reply_fields);

static const struct field segment_fields[] = {
    [F_SEGMENT_FILE] = NEEDED(msg_segment, file, STR),        [F_SEGMENT_STATE] = NEEDED(msg_segment, state, STR),
    [F_SEGMENT_BYTES] = FIELD(msg_segment, bytes, U64),       [F_SEGMENT_LIVE_BYTES] = FIELD(msg_segment, live_bytes, U64),
    [F_SEGMENT_LIVE] = FIELD(msg_segment, live_objects, U64), [F_SEGMENT_HELD] = FIELD(msg_segment, held_objects, U64),
    [F_SEGMENT_AGE] = FIELD(msg_segment, age_ms, U64),        [F_SEGMENT_IDLE] = FIELD(msg_segment, idle_ms, U64),
};
const struct schema msg_segment_part = SCHEMA("segment", msg_segment, segment_fields);

static const struct field join_fields[] = {
    TIMEOUT_FIELD(msg_join),
    [F_JOIN_CLUSTER] = NEEDED(msg_join, cluster, STR),
    [F_JOIN_FROM] = NEEDED(msg_join, from, STR),
    [F_JOIN_TO] = NEEDED(msg_join, to, STR),
    [F_JOIN_NONCE] = NEEDED(msg_join, nonce, BIN),
    [F_JOIN_MAC] = NEEDED(msg_join, mac, BIN),
    [F_JOIN_START] = NEEDED(msg_join, start, U64),
    [F_JOIN_RANDOM] = NEEDED(msg_join, random, U64),
    [F_JOIN_CONNECTION] = NEEDED(msg_join, connection, U64),
};
static const struct schema join_schema = SCHEMA("JOIN", msg_join, join_fields);

static const struct field join_reply_fields[] = {[F_JOINR_MAC] = NEEDED(msg_join_reply, mac, BIN)};
static const struct schema join_reply_schema = SCHEMA("JOIN reply", msg_join_reply, join_reply_fields);

static const struct field beat_fields[] = {
    TIMEOUT_FIELD(msg_beat),
    [F_BEAT_START] = NEEDED(msg_beat, start, U64),
    [F_BEAT_RANDOM] = NEEDED(msg_beat, random, U64),
    [F_BEAT_ADDRESS] = NEEDED(msg_beat, address, STR),
    [F_BEAT_KNOWN] = NEEDED(msg_beat, known, U64),
    [F_BEAT_ACKNOWLEDGED] = NEEDED(msg_beat, acknowledged, U64),
    [F_BEAT_EFFECTIVE] = NEEDED(msg_beat, effective, U64),
    [F_BEAT_ASKED] = NEEDED(msg_beat, asked_us, U64),
    [F_BEAT_PROMISED] = FIELD(msg_beat, promised_us, U64),
    [F_BEAT_PROMISED_VIEW] = FIELD(msg_beat, promised_view, U64),
    [F_BEAT_CEILING] = FIELD(msg_beat, ceiling, U64),
    [F_BEAT_ACTING] = FIELD(msg_beat, acting, BOOL),
    [F_BEAT_WANTS_IN] = FIELD(msg_beat, wants_in, BOOL),
    [F_BEAT_LEFT] = FIELD(msg_beat, left, BOOL),
    [F_BEAT_FORMER_DEAD] = FIELD(msg_beat, former_dead, BOOL),
    [F_BEAT_VIEW] = FIELD(msg_beat, view, BIN),
};
static const struct schema beat_schema = SCHEMA("BEAT", msg_beat, beat_fields);

#define VIEW_FIELD(message) TIMEOUT_FIELD(message), [F_VIEW] = NEEDED(message, view, U64)

static const struct field lookup_fields[] = {
    VIEW_FIELD(msg_lookup),
    [F_LOOKUP_KEYS] = NEEDED(msg_lookup, keys, KEYS),
    [F_LOOKUP_LEASE] = FIELD(msg_lookup, lease_ms, U64),
    [F_LOOKUP_TOUCH] = FIELD(msg_lookup, touch, BOOL),
};
static const struct schema lookup_schema = SCHEMA("LOOKUP", msg_lookup, lookup_fields);

static const struct field lookup_reply_fields[] = {
    [F_LOOKUPR_VIEW] = NEEDED(msg_lookup_reply, view, U64),
    [F_LOOKUPR_OBJECTS] = NEEDED(msg_lookup_reply, objects, BIN),
    [F_LOOKUPR_FOLDERS] = FIELD(msg_lookup_reply, folders, STRS),
};
static const struct schema lookup_reply_schema = SCHEMA("LOOKUP reply", msg_lookup_reply, lookup_reply_fields);

static const struct field commit_fields[] = {
    VIEW_FIELD(msg_commit),
    [F_COMMIT_KEYS] = NEEDED(msg_commit, keys, KEYS),
    [F_COMMIT_OBJECTS] = NEEDED(msg_commit, objects, BIN),
};
static const struct schema commit_schema = SCHEMA("COMMIT", msg_commit, commit_fields);

static const struct field answers_fields[] = {
    [F_ANSWERS_VIEW] = NEEDED(msg_answers, view, U64),
    [F_ANSWERS_ANSWERS] = NEEDED(msg_answers, answers, BIN),
};
static const struct schema answers_schema = SCHEMA("answers", msg_answers, answers_fields);

static const struct field forget_fields[] = {
    VIEW_FIELD(msg_forget),
    [F_FORGET_KEYS] = NEEDED(msg_forget, keys, KEYS),
};
static const struct schema forget_schema = SCHEMA("FORGET", msg_forget, forget_fields);

static const struct field versions_fields[] = {
    VIEW_FIELD(msg_versions),
    [F_VERSIONS_KEYS] = NEEDED(msg_versions, keys, KEYS),
    [F_VERSIONS_VERSIONS] = NEEDED(msg_versions, versions, BIN),
};
static const struct schema versions_schema = SCHEMA("versions", msg_versions, versions_fields);

static const struct field came_fields[] = {[F_CAME_VIEW] = NEEDED(msg_came, view, U64)};
static const struct schema came_schema = SCHEMA("KILL reply", msg_came, came_fields);

static const struct field report_fields[] = {
    VIEW_FIELD(msg_report),
    [F_REPORT_CONNECTION] = NEEDED(msg_report, connection, U64),
    [F_REPORT_KEYS] = NEEDED(msg_report, keys, KEYS),
    [F_REPORT_HOLDINGS] = NEEDED(msg_report, holdings, BIN),
};
static const struct schema report_schema = SCHEMA("REPLICA", msg_report, report_fields);

static const struct field gather_fields[] = {
    VIEW_FIELD(msg_gather),
    [F_GATHER_KIND] = NEEDED(msg_gather, kind, STR),
    [F_GATHER_BASE] = NEEDED(msg_gather, base, STRS),
    [F_GATHER_FOLDER] = FIELD(msg_gather, folder, STR),
    [F_GATHER_CURSOR] = FIELD(msg_gather, cursor, BIN),
};
static const struct schema gather_schema = SCHEMA("GATHER", msg_gather, gather_fields);

static const struct field gather_reply_fields[] = {
    [F_GATHERR_VIEW] = NEEDED(msg_gather_reply, view, U64),      [F_GATHERR_KEYS] = FIELD(msg_gather_reply, keys, KEYS),
    [F_GATHERR_OBJECTS] = FIELD(msg_gather_reply, objects, BIN), [F_GATHERR_KILLS] = FIELD(msg_gather_reply, kills, BIN),
    [F_GATHERR_CURSOR] = NEEDED(msg_gather_reply, cursor, BIN),
};
static const struct schema gather_reply_schema = SCHEMA("GATHER reply", msg_gather_reply, gather_reply_fields);

struct pair {
    const struct schema *request;
    const struct schema *reply;
};

static const struct pair pairs[] = {
    [OP_HELLO] = {&hello_schema, &hello_reply_schema},
    [OP_AUTH] = {&auth_schema, &auth_reply_schema},
    [OP_PING] = {&plain_schema, &empty_schema},
    [OP_PUT] = {&put_schema, &put_reply_schema},
    [OP_GET] = {&get_schema, &get_reply_schema},
    [OP_MGET] = {&mget_schema, &get_reply_schema},
    [OP_EXISTS] = {&exists_schema, &exists_reply_schema},
    [OP_MATCH] = {&match_schema, &match_reply_schema},
    [OP_RELEASE] = {&release_schema, &empty_schema},
    [OP_REMOVE] = {&remove_schema, &removed_reply_schema},
    [OP_REMOVE_PREFIX] = {&remove_prefix_schema, &removed_reply_schema},
    [OP_REMOVE_ALL] = {&plain_schema, &removed_reply_schema},
    [OP_PIN] = {&pin_schema, &pin_reply_schema},
    [OP_STAT] = {&stat_schema, &stat_reply_schema},
    [OP_SCAN] = {&scan_schema, &scan_reply_schema},
    [OP_INFO] = {&info_schema, &empty_schema},
    [OP_CONFIG] = {&config_schema, &config_reply_schema},
    [OP_ADMIN] = {&admin_schema, &admin_reply_schema},
    [OP_WATCH] = {&plain_schema, &empty_schema},
    [OP_JOIN] = {&join_schema, &join_reply_schema},
    [OP_BEAT] = {&beat_schema, &beat_schema},
    [OP_LOOKUP] = {&lookup_schema, &lookup_reply_schema},
    [OP_COMMIT] = {&commit_schema, &answers_schema},
    [OP_FORGET] = {&forget_schema, &answers_schema},
    [OP_KILL] = {&versions_schema, &came_schema},
    [OP_REPLICA] = {&report_schema, &answers_schema},
    [OP_DROP] = {&versions_schema, &answers_schema},
    [OP_GATHER] = {&gather_schema, &gather_reply_schema},
};

enum { PAIR_COUNT = sizeof pairs / sizeof pairs[0] };

const struct schema *msg_request(uint8_t op)
{
    return op < PAIR_COUNT ? pairs[op].request : NULL;
}

const struct schema *msg_reply(uint8_t op)
{
    return op < PAIR_COUNT ? pairs[op].reply : NULL;
}
