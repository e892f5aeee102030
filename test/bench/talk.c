#include "test/bench/talk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { LINE_AT_MOST = 120 };

__attribute__((format(printf, 2, 3))) static enum outcome fail(struct answer *answer, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(answer->why, sizeof answer->why, format, list);
    va_end(list);
    return ANSWER_FAILED;
}

static enum outcome fail_line(struct answer *answer, const char *line)
{
    return line ? fail(answer, "it answers: %.*s", LINE_AT_MOST, line) : fail(answer, "it closed the connection");
}

static enum outcome take_value(struct conn *conn, struct answer *answer, uint64_t size)
{
    if (size != answer->size)
        return fail(answer, "a value of %" PRIu64 " bytes instead of %" PRIu64, size, answer->size);
    return conn_take(conn, answer->value, size) == 0 ? ANSWER_OK : fail(answer, "it closed the connection within a value");
}

/* ---- kvd ---- */

static size_t kvd_head(enum ask ask, uint64_t slot, const char key[TALK_KEY_BYTES], uint64_t size, char *out)
{
    struct buffer meta;
    const struct span name = span_of(key, TALK_KEY_BYTES);
    const struct msg_put put = {.has = 1u << F_PUT_KEY | 1u << F_PUT_REPLACE, .key = name, .replace = true};
    const struct msg_get get = {.has = 1u << F_GET_KEY, .key = name};
    const uint8_t op = ask == ASK_PUT ? OP_PUT : OP_GET;

    buffer_init(&meta);
    if (msg_encode(msg_request(op), ask == ASK_PUT ? (const void *)&put : &get, &meta) != 0 ||
        FRAME_PREFIX_BYTES + meta.len > TALK_HEAD_BYTES)
        abort();
    const struct frame frame = {.op = op, .id = slot, .meta_len = (uint32_t)meta.len, .body_len = ask == ASK_PUT ? size : 0};
    frame_encode((uint8_t *)out, &frame);
    memcpy(out + FRAME_PREFIX_BYTES, meta.at, meta.len);
    const size_t len = FRAME_PREFIX_BYTES + meta.len;
    buffer_fini(&meta);
    return len;
}

static void kvd_look(enum ask ask, const struct span *keys, uint32_t count, struct buffer *out)
{
    static const uint8_t room[FRAME_PREFIX_BYTES];
    const uint8_t op = ask == ASK_MATCH ? OP_MATCH : OP_EXISTS;
    const struct msg_look look = {.has = 1u << F_LOOK_KEYS, .keys = {(struct span *)(uintptr_t)keys, count}};
    const size_t begin = out->len;

    pack_raw(out, span_of(room, sizeof room));
    if (msg_encode(msg_request(op), &look, out) != 0)
        abort();
    const struct frame frame = {.op = op, .meta_len = (uint32_t)(out->len - begin - FRAME_PREFIX_BYTES)};
    frame_encode(out->at + begin, &frame);
}

/* A reply's prefix and meta; the meta is valid until the next call. */
static bool kvd_reply(struct conn *conn, struct answer *answer, struct frame *frame, struct span *meta)
{
    const uint8_t *at = conn_peek(conn, FRAME_PREFIX_BYTES);
    if (!at || frame_decode(at, frame) != 0) {
        (void)fail(answer, at ? "no frame" : "it closed the connection");
        return false;
    }
    at = conn_peek(conn, FRAME_PREFIX_BYTES + frame->meta_len);
    if (!at) {
        (void)fail(answer, "no meta of %" PRIu32 " bytes", frame->meta_len);
        return false;
    }
    conn_skip(conn, FRAME_PREFIX_BYTES + frame->meta_len);
    *meta = span_of(at + FRAME_PREFIX_BYTES, frame->meta_len);
    answer->slot = frame->id;
    return true;
}

static enum outcome kvd_refused(struct answer *answer, const struct frame *frame, struct span meta)
{
    struct msg_failure_reply failure = {0};
    struct arena arena;
    const char *why = "";

    if (frame->code == CODE_NOT_FOUND)
        return ANSWER_MISS;
    arena_init(&arena);
    const int err = msg_decode(&msg_failure, meta, 0, &arena, &failure, &why);
    answer->retry_ms = failure.retry_after_ms;
    const char *name = code_name(frame->code);
    enum outcome outcome = ANSWER_BUSY;
    if (err != 0 || frame->code != CODE_BUSY)
        outcome = fail(answer, "it answers: %s %.*s", name ? name : "?", (int)min_u64(failure.message.len, LINE_AT_MOST),
                       failure.message.at ? (const char *)failure.message.at : "");
    arena_fini(&arena);
    return outcome;
}

static enum outcome kvd_put_answer(struct conn *conn, struct answer *answer)
{
    struct frame frame;
    struct span meta;
    if (!kvd_reply(conn, answer, &frame, &meta))
        return ANSWER_FAILED;
    return frame.code == CODE_OK ? ANSWER_OK : kvd_refused(answer, &frame, meta);
}

static enum outcome kvd_get_answer(struct conn *conn, struct answer *answer)
{
    static const char DISK[] = "\xa4tier\xa4"
                               "disk"; /* msgpack: the one field that is looked at for each value */
    struct frame frame;
    struct span meta;
    if (!kvd_reply(conn, answer, &frame, &meta))
        return ANSWER_FAILED;
    if (frame.code != CODE_OK)
        return kvd_refused(answer, &frame, meta);
    answer->from_disk = memmem(meta.at, meta.len, DISK, sizeof DISK - 1) != NULL;
    return take_value(conn, answer, frame.body_len);
}

static enum outcome kvd_look_answer(struct conn *conn, enum ask ask, uint64_t count, struct arena *arena, struct answer *answer)
{
    union {
        struct msg_exists_reply exists;
        struct msg_match_reply match;
    } reply;
    const char *why = "";
    const uint64_t slot = answer->slot; /* they are answered in order */
    struct frame frame;
    struct span meta;

    if (!kvd_reply(conn, answer, &frame, &meta))
        return ANSWER_FAILED;
    answer->slot = slot;
    if (frame.code != CODE_OK)
        return kvd_refused(answer, &frame, meta);
    if (msg_decode(msg_reply(frame.op), meta, UINT32_MAX, arena, &reply, &why) != 0)
        return fail(answer, "a reply that is none: %s", why);
    const uint64_t there = ask == ASK_MATCH ? reply.match.count : reply.exists.count;
    return there == count ? ANSWER_OK : ANSWER_MISS;
}

/* ---- redis-server ---- */

static size_t redis_head(enum ask ask, uint64_t slot, const char key[TALK_KEY_BYTES], uint64_t size, char *out)
{
    (void)slot;
    if (ask == ASK_PUT)
        return (size_t)snprintf(out, TALK_HEAD_BYTES, "*3\r\n$3\r\nSET\r\n$%d\r\n%.*s\r\n$%" PRIu64 "\r\n", TALK_KEY_BYTES, TALK_KEY_BYTES,
                                key, size);
    return (size_t)snprintf(out, TALK_HEAD_BYTES, "*2\r\n$3\r\nGET\r\n$%d\r\n%.*s\r\n", TALK_KEY_BYTES, TALK_KEY_BYTES, key);
}

static void add_text(struct buffer *out, const char *text)
{
    pack_raw(out, span_text(text));
}

static void redis_key(struct buffer *out, struct span key)
{
    char head[32];
    (void)snprintf(head, sizeof head, "$%zu\r\n", key.len);
    add_text(out, head);
    pack_raw(out, key);
    add_text(out, "\r\n");
}

static void redis_look(enum ask ask, const struct span *keys, uint32_t count, struct buffer *out)
{
    char head[64];
    (void)ask;
    (void)snprintf(head, sizeof head, "*%" PRIu32 "\r\n$6\r\nEXISTS\r\n", count + 1);
    add_text(out, head);
    for (uint32_t i = 0; i < count; i++)
        redis_key(out, keys[i]);
}

static void redis_look_each(enum ask ask, const struct span *keys, uint32_t count, struct buffer *out)
{
    for (uint32_t i = 0; i < count; i++)
        redis_look(ask, &keys[i], 1, out);
}

static enum outcome redis_put_answer(struct conn *conn, struct answer *answer)
{
    const char *line = conn_line(conn);
    return line && strcmp(line, "+OK") == 0 ? ANSWER_OK : fail_line(answer, line);
}

static bool take_line_end(struct conn *conn)
{
    const uint8_t *at = conn_peek(conn, 2);
    if (!at || at[0] != '\r' || at[1] != '\n')
        return false;
    conn_skip(conn, 2);
    return true;
}

static enum outcome value_and_line_end(struct conn *conn, struct answer *answer, const char *digits)
{
    const enum outcome outcome = take_value(conn, answer, strtoull(digits, NULL, 10));
    return outcome != ANSWER_OK || take_line_end(conn) ? outcome : fail(answer, "no line end behind a value");
}

static enum outcome redis_get_answer(struct conn *conn, struct answer *answer)
{
    const char *line = conn_line(conn);
    if (!line || line[0] != '$')
        return fail_line(answer, line);
    return line[1] == '-' ? ANSWER_MISS : value_and_line_end(conn, answer, line + 1);
}

static enum outcome redis_look_answer(struct conn *conn, enum ask ask, uint64_t count, struct arena *arena, struct answer *answer)
{
    (void)ask;
    (void)arena;
    const char *line = conn_line(conn);
    if (!line || line[0] != ':')
        return fail_line(answer, line);
    return strtoull(line + 1, NULL, 10) == count ? ANSWER_OK : ANSWER_MISS;
}

/* ---- memcached ---- */

static size_t memcached_head(enum ask ask, uint64_t slot, const char key[TALK_KEY_BYTES], uint64_t size, char *out)
{
    (void)slot;
    if (ask == ASK_PUT)
        return (size_t)snprintf(out, TALK_HEAD_BYTES, "ms %.*s %" PRIu64 "\r\n", TALK_KEY_BYTES, key, size);
    return (size_t)snprintf(out, TALK_HEAD_BYTES, "mg %.*s v\r\n", TALK_KEY_BYTES, key);
}

static void memcached_look(enum ask ask, const struct span *keys, uint32_t count, struct buffer *out)
{
    (void)ask;
    for (uint32_t i = 0; i < count; i++) {
        add_text(out, "mg ");
        pack_raw(out, keys[i]);
        add_text(out, "\r\n");
    }
}

static enum outcome memcached_put_answer(struct conn *conn, struct answer *answer)
{
    const char *line = conn_line(conn);
    return line && strcmp(line, "HD") == 0 ? ANSWER_OK : fail_line(answer, line);
}

static enum outcome memcached_get_answer(struct conn *conn, struct answer *answer)
{
    const char *line = conn_line(conn);
    if (line && strcmp(line, "EN") == 0)
        return ANSWER_MISS;
    return line && strncmp(line, "VA ", 3) == 0 ? value_and_line_end(conn, answer, line + 3) : fail_line(answer, line);
}

static enum outcome memcached_look_answer(struct conn *conn, enum ask ask, uint64_t count, struct arena *arena, struct answer *answer)
{
    (void)ask;
    (void)count;
    (void)arena;
    const char *line = conn_line(conn);
    if (line && strncmp(line, "EN", 2) == 0)
        return ANSWER_MISS;
    return line && strncmp(line, "HD", 2) == 0 ? ANSWER_OK : fail_line(answer, line);
}

/* ---- who there is ---- */

const struct talk *talk_find(const char *name)
{
    static const struct talk TALKS[] = {
        {"kvd", false, kvd_head, "", kvd_look, kvd_put_answer, kvd_get_answer, kvd_look_answer},
        {"redis", false, redis_head, "\r\n", redis_look, redis_put_answer, redis_get_answer, redis_look_answer},
        {"redis-pipelined", true, redis_head, "\r\n", redis_look_each, redis_put_answer, redis_get_answer, redis_look_answer},
        {"memcached", true, memcached_head, "\r\n", memcached_look, memcached_put_answer, memcached_get_answer, memcached_look_answer},
    };
    for (size_t i = 0; i < sizeof TALKS / sizeof TALKS[0]; i++)
        if (strcmp(TALKS[i].name, name) == 0)
            return &TALKS[i];
    return NULL;
}
