#include <stdio.h>

#include "client/kvd_impl.h"
#include "proto/meta.h"

static int admin_run(struct kvd *kvd, struct msg_admin *request, const char *action, struct msg_admin_reply *reply)
{
    int result = call_begin(kvd);
    if (result)
        return result;
    request->has |= 1u << F_ADMIN_ACTION;
    request->action = span_text(action);
    struct call call = {.op = OP_ADMIN, .msg = request, .reply = reply};
    return call_run(kvd, &call);
}

/* Of those with no arguments, and no answer but that it is done. */
static int admin_plain(struct kvd *kvd, const char *action)
{
    struct msg_admin request = {.has = 0};
    struct msg_admin_reply reply = {.has = 0};
    return admin_run(kvd, &request, action, &reply);
}

static int number_out(int result, uint64_t value, uint64_t *out)
{
    if (result == KVD_OK && out)
        *out = value;
    return result;
}

int kvd_sync(struct kvd *kvd)
{
    return admin_plain(kvd, "sync");
}

int kvd_seal(struct kvd *kvd)
{
    return admin_plain(kvd, "seal");
}

int kvd_evict(struct kvd *kvd, uint64_t bytes, uint64_t *objects, uint64_t *given)
{
    struct msg_admin request = {.has = 1u << F_ADMIN_BYTES, .bytes = bytes};
    struct msg_admin_reply reply = {.has = 0};
    int result = admin_run(kvd, &request, "evict", &reply);
    (void)number_out(result, reply.objects, objects);
    return number_out(result, reply.bytes, given);
}

int kvd_scrub(struct kvd *kvd, uint64_t bytes_per_s, uint64_t *run)
{
    struct msg_admin request = {.has = bytes_per_s > 0 ? 1u << F_ADMIN_RATE : 0, .rate = bytes_per_s};
    struct msg_admin_reply reply = {.has = 0};
    int result = admin_run(kvd, &request, "scrub", &reply);
    return number_out(result, reply.run, run);
}

int kvd_scrub_stop(struct kvd *kvd, uint64_t *run)
{
    struct msg_admin request = {.has = 1u << F_ADMIN_STOP, .stop = true};
    struct msg_admin_reply reply = {.has = 0};
    int result = admin_run(kvd, &request, "scrub", &reply);
    return number_out(result, reply.run, run);
}

int kvd_drain(struct kvd *kvd, uint64_t *unwritten)
{
    struct msg_admin request = {.has = 0};
    struct msg_admin_reply reply = {.has = 0};
    int result = admin_run(kvd, &request, "drain", &reply);
    return number_out(result, reply.unwritten, unwritten);
}

int kvd_teardown(struct kvd *kvd, const char *node, uint64_t *removed)
{
    if (!node)
        return wire_fail(kvd, KVD_ERR_USAGE, "a node's name is needed");
    struct msg_admin request = {.has = 1u << F_ADMIN_NODE, .node = span_text(node)};
    struct msg_admin_reply reply = {.has = 0};
    int result = admin_run(kvd, &request, "teardown", &reply);
    return number_out(result, reply.removed, removed);
}

int kvd_forget(struct kvd *kvd, const char *node)
{
    if (!node)
        return wire_fail(kvd, KVD_ERR_USAGE, "a node's name is needed");
    struct msg_admin request = {.has = 1u << F_ADMIN_NODE, .node = span_text(node)};
    struct msg_admin_reply reply = {.has = 0};
    return admin_run(kvd, &request, "forget", &reply);
}

/* ---- segments ---- */

static int segment_tell(struct kvd *kvd, struct span item, kvd_segment_fn fn, void *arg)
{
    char file[TEXT_BYTES], state[TEXT_BYTES];
    struct msg_segment row;
    int err = call_decode(kvd, &msg_segment_part, item, &row);
    if (err)
        return err;
    snprintf(file, sizeof file, "%.*s", (int)min_u64(row.file.len, sizeof file - 1), (const char *)row.file.at);
    snprintf(state, sizeof state, "%.*s", (int)min_u64(row.state.len, sizeof state - 1), (const char *)row.state.at);
    struct kvd_segment segment = {
        .file = file,
        .state = state,
        .bytes = row.bytes,
        .live_objects = row.live_objects,
        .live_bytes = row.live_bytes,
        .held_objects = row.held_objects,
        .age_ms = row.age_ms,
        .was_read = MSG_HAS(&row, F_SEGMENT_IDLE),
        .idle_ms = row.idle_ms,
    };
    fn(arg, &segment);
    return 0;
}

/* 0, or a negative result. *cursor is where to go on from; 0: that was all. */
static int segments_page(struct kvd *kvd, uint64_t *cursor, kvd_segment_fn fn, void *arg)
{
    struct msg_admin request = {.has = 1u << F_ADMIN_CURSOR, .cursor = *cursor};
    struct msg_admin_reply reply = {.has = 0};
    struct meta_walk walk;
    int result = admin_run(kvd, &request, "segments", &reply);
    if (result)
        return result;
    if ((reply.cursor != 0 && reply.cursor <= *cursor) || meta_array(reply.segments, &walk))
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a list of segments that makes no sense");
    *cursor = reply.cursor;
    while (walk.left > 0 && result == 0) {
        struct span item;
        if (meta_next_item(&walk, &item))
            return wire_fail(kvd, KVD_ERR_PROTOCOL, "a list of segments that makes no sense");
        result = segment_tell(kvd, item, fn, arg);
    }
    return result;
}

int kvd_segments(struct kvd *kvd, kvd_segment_fn fn, void *arg)
{
    uint64_t cursor = 0;
    int result;
    do
        result = segments_page(kvd, &cursor, fn, arg);
    while (result == KVD_OK && cursor != 0);
    return result;
}
