#include <inttypes.h>
#include <msgpack.h>
#include <stdio.h>

#include "client/kvd_impl.h"
#include "proto/meta.h"

enum { FIGURE_BYTES = 1024 };

/* As a C string, cut where it does not fit. */
static void text_cut(char *out, size_t out_len, struct span text)
{
    snprintf(out, out_len, "%.*s", (int)min_u64(text.len, out_len - 1), text.len ? (const char *)text.at : "");
}

static int bad_reply(struct kvd *kvd)
{
    return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply with a field of the wrong type");
}

/* ---- stat ---- */

static int replica_take(struct kvd *kvd, struct span item, struct kvd_replica *out)
{
    struct msg_replica replica;
    int err = call_decode(kvd, &msg_replica_part, item, &replica);
    if (err)
        return err;
    out->disk = span_equal(replica.type, span_text("disk"));
    out->complete = span_equal(replica.state, span_text("complete"));
    out->offset = replica.offset;
    text_cut(out->node, sizeof out->node, replica.node);
    text_cut(out->file, sizeof out->file, replica.file);
    return 0;
}

/* Those beyond KVD_MAX_REPLICAS are left out. */
static int replicas_take(struct kvd *kvd, struct span array, struct kvd_stat *out)
{
    struct meta_walk walk;
    if (meta_array(array, &walk))
        return bad_reply(kvd);
    while (walk.left > 0 && out->replica_count < KVD_MAX_REPLICAS) {
        struct span item;
        if (meta_next_item(&walk, &item))
            return bad_reply(kvd);
        int err = replica_take(kvd, item, &out->replicas[out->replica_count]);
        if (err)
            return err;
        out->replica_count++;
    }
    return 0;
}

int kvd_stat(struct kvd *kvd, struct kvd_key key, struct kvd_stat *out)
{
    if (!call_key_good(key))
        return wire_fail(kvd, KVD_ERR_USAGE, "a key is 1 to 1,024 bytes");
    int result = call_begin(kvd);
    if (result)
        return result;
    struct msg_stat request = {.has = 1u << F_STAT_KEY, .key = span_of(key.at, key.len)};
    struct msg_stat_reply reply;
    struct call call = {.op = OP_STAT, .outcome = CODE_NOT_FOUND, .msg = &request, .reply = &reply};
    result = call_run(kvd, &call);
    if (result)
        return result;
    struct kvd_stat stat = {.size = reply.size, .version = reply.version, .checksum = reply.checksum, .age_ms = reply.age_ms};
    stat.idle_ms = reply.idle_ms;
    stat.hits = reply.hits;
    stat.pinned = reply.pinned;
    stat.leased = reply.leased;
    stat.ends = MSG_HAS(&reply, F_STATR_TTL);
    stat.ttl_ms = reply.ttl_ms;
    if (MSG_HAS(&reply, F_STATR_REPLICAS))
        result = replicas_take(kvd, reply.replicas, &stat);
    if (!result)
        *out = stat;
    return result;
}

/* ---- scan ---- */

/* Returns 0, 1 when fn has had enough, or a negative result. */
static int objects_tell(struct kvd *kvd, struct span array, kvd_scan_fn fn, void *arg)
{
    struct meta_walk walk;
    if (meta_array(array, &walk))
        return bad_reply(kvd);
    while (walk.left > 0) {
        struct span item;
        struct msg_object object;
        if (meta_next_item(&walk, &item))
            return bad_reply(kvd);
        int err = call_decode(kvd, &msg_object_part, item, &object);
        if (err)
            return err;
        struct kvd_scanned told = {{object.key.at, object.key.len}, object.size, object.memory, object.disk};
        if (!fn(arg, &told))
            return 1;
    }
    return 0;
}

/* One page. Each is a call of its own as to the deadline: how many pages there are, and how long fn takes, is not the server's to answer
 * for. Returns 0, 1 when it was the last, or a negative result. `cursor` is replaced. */
static int scan_page(struct kvd *kvd, struct kvd_key prefix, struct buffer *cursor, kvd_scan_fn fn, void *arg)
{
    int result = call_begin(kvd);
    if (result)
        return result;
    struct msg_scan request = {.has = 1u << F_SCAN_LIMIT, .prefix = span_of(prefix.at, prefix.len), .limit = 1000};
    request.cursor = span_of(cursor->at, cursor->len);
    request.has |= (cursor->len > 0 ? 1u << F_SCAN_CURSOR : 0) | (prefix.len > 0 ? 1u << F_SCAN_PREFIX : 0);
    struct msg_scan_reply reply;
    struct call call = {.op = OP_SCAN, .msg = &request, .reply = &reply};
    result = call_run(kvd, &call);
    if (result)
        return result;
    bool stuck = reply.cursor.len > 0 && span_equal(reply.cursor, request.cursor);
    bool last = reply.cursor.len == 0;
    cursor->len = 0;
    pack_raw(cursor, reply.cursor);
    if (cursor->failed)
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a cursor");
    result = objects_tell(kvd, reply.objects, fn, arg);
    if (result == 0 && stuck)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a scan that does not move on");
    return result == 0 && last ? 1 : result;
}

int kvd_scan(struct kvd *kvd, struct kvd_key prefix, kvd_scan_fn fn, void *arg)
{
    if (prefix.len > KEY_MAX_BYTES || (prefix.len > 0 && !prefix.at))
        return wire_fail(kvd, KVD_ERR_USAGE, "a prefix is at most 1,024 bytes");
    struct buffer cursor;
    buffer_init(&cursor);
    int result = 0;
    while (result == 0)
        result = scan_page(kvd, prefix, &cursor, fn, arg);
    buffer_fini(&cursor);
    return result < 0 ? result : KVD_OK;
}

/* ---- info ---- */

struct info_sink {
    kvd_info_fn fn;
    void *arg;
    char section[TEXT_BYTES];
};

static struct span str_span(const msgpack_object *object)
{
    return span_of(object->via.str.ptr, object->via.str.size);
}

/* What is neither a number nor a text is left out: later versions may have more kinds. */
static void figure_tell(const struct info_sink *sink, const msgpack_object_kv *figure)
{
    char name[TEXT_BYTES];
    char text[FIGURE_BYTES];
    text_cut(name, sizeof name, str_span(&figure->key));
    switch (figure->val.type) {
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        sink->fn(sink->arg, sink->section, name, figure->val.via.u64, NULL);
        return;
    case MSGPACK_OBJECT_STR:
        text_cut(text, sizeof text, str_span(&figure->val));
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        snprintf(text, sizeof text, "%s", figure->val.via.boolean ? "yes" : "no");
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        snprintf(text, sizeof text, "%" PRId64, figure->val.via.i64);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        snprintf(text, sizeof text, "%g", figure->val.via.f64);
        break;
    default:
        return;
    }
    sink->fn(sink->arg, sink->section, name, 0, text);
}

static void section_tell(struct info_sink *sink, const msgpack_object_kv *section)
{
    if (section->key.type != MSGPACK_OBJECT_STR || section->val.type != MSGPACK_OBJECT_MAP)
        return;
    text_cut(sink->section, sizeof sink->section, str_span(&section->key));
    const msgpack_object_map *figures = &section->val.via.map;
    for (uint32_t i = 0; i < figures->size; i++)
        if (figures->ptr[i].key.type == MSGPACK_OBJECT_STR)
            figure_tell(sink, &figures->ptr[i]);
}

int kvd_info(struct kvd *kvd, const char *section, kvd_info_fn fn, void *arg)
{
    int result = call_begin(kvd);
    if (result)
        return result;
    struct msg_info request = {.has = section ? 1u << F_INFO_SECTION : 0, .section = section ? span_text(section) : (struct span){NULL, 0}};
    struct msg_empty reply;
    struct call call = {.op = OP_INFO, .msg = &request, .reply = &reply};
    result = call_run(kvd, &call);
    if (result || call.meta.len == 0)
        return result;
    /* call_run() has seen that meta is one bounded map: msgpack-c can take it. */
    msgpack_unpacked whole;
    msgpack_unpacked_init(&whole);
    if (msgpack_unpack_next(&whole, (const char *)call.meta.at, call.meta.len, NULL) != MSGPACK_UNPACK_SUCCESS)
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a reply");
    struct info_sink sink = {.fn = fn, .arg = arg};
    for (uint32_t i = 0; i < whole.data.via.map.size; i++)
        section_tell(&sink, &whole.data.via.map.ptr[i]);
    msgpack_unpacked_destroy(&whole);
    return KVD_OK;
}
