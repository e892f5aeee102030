#include <errno.h>

#include "base/check.h"
#include "base/error.h"
#include "client/kvd_impl.h"
#include "proto/meta.h"

enum { RETRY_DEFAULT_MS = 20, RETRY_MAX_MS = 60000 };

int call_result(uint8_t code)
{
    switch (code) {
    case CODE_OK:
        return KVD_OK;
    case CODE_PRESENT:
        return KVD_PRESENT;
    case CODE_NOT_FOUND:
        return KVD_MISS;
    case CODE_BAD_REQUEST:
        return KVD_ERR_BAD_REQUEST;
    case CODE_UNSUPPORTED:
        return KVD_ERR_UNSUPPORTED;
    case CODE_TOO_LARGE:
        return KVD_ERR_TOO_LARGE;
    case CODE_NO_SPACE:
        return KVD_ERR_NO_SPACE;
    case CODE_BUSY:
        return KVD_ERR_BUSY;
    case CODE_DENIED:
        return KVD_ERR_DENIED;
    case CODE_CORRUPT:
        return KVD_ERR_CORRUPT;
    case CODE_IO_ERROR:
        return KVD_ERR_IO;
    case CODE_TIMEOUT:
        return KVD_ERR_TIMEOUT;
    case CODE_CLOSING:
        return KVD_ERR_CLOSING;
    default:
        return KVD_ERR_INTERNAL;
    }
}

uint64_t call_retry_at(const struct kvd *kvd, const struct msg_failure_reply *failure)
{
    uint64_t wait_ms = MSG_HAS(failure, F_FAIL_RETRY) ? min_u64(failure->retry_after_ms, RETRY_MAX_MS) : RETRY_DEFAULT_MS;
    uint64_t now = wire_now_us();
    /* So that clients told the same do not all come back at the same moment. The clock's last digits are random enough. */
    uint64_t wait_us = max_u64(wait_ms, 1) * 1000;
    uint64_t at = now + wait_us + now * 7919 % (wait_us / 4 + 1);
    return at < kvd->deadline_us ? at : UINT64_MAX;
}

uint64_t call_left_ms(const struct kvd *kvd)
{
    uint64_t now = wire_now_us();
    return now + 1000 < kvd->deadline_us ? (kvd->deadline_us - now) / 1000 : 1;
}

int call_decode(struct kvd *kvd, const struct schema *schema, struct span meta, void *out)
{
    const char *why = "";
    int err = msg_decode(schema, meta, BATCH_MAX_KEYS, &kvd->arena, out, &why);
    if (!err)
        return 0;
    wire_fail(kvd, KVD_ERR_PROTOCOL, why);
    return err == -ENOMEM ? KVD_ERR_MEMORY : KVD_ERR_PROTOCOL;
}

int call_refused(struct kvd *kvd, uint8_t code, struct span meta, struct msg_failure_reply *out)
{
    int result = call_decode(kvd, &msg_failure, meta, out);
    return result ? result : wire_fail_span(kvd, call_result(code), MSG_HAS(out, F_FAIL_MESSAGE) ? out->message : out->reason);
}

/* ---- one call ---- */

static int call_next(struct kvd *kvd, void *arg, uint64_t *wake_us)
{
    struct call *call = arg;
    if (call->sent)
        return 0;
    if (wire_now_us() < call->not_before_us) {
        *wake_us = call->not_before_us;
        return 0;
    }
    if (call->with_timeout) {
        struct msg_plain head;
        memcpy(&head, call->msg, sizeof head);
        head.has |= 1u << F_TIMEOUT;
        head.timeout_ms = call_left_ms(kvd);
        memcpy(call->msg, &head, sizeof head);
    }
    int err = wire_request(kvd, call->op, call->id, call->msg, call->body);
    call->sent = true;
    return err ? err : 1;
}

static bool code_expected(const struct call *call, uint8_t code)
{
    return code == CODE_OK || code >= CODE_BAD_REQUEST || (code == call->outcome && code != 0);
}

static int call_head(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta, uint8_t **body)
{
    struct call *call = arg;
    if (frame->op != call->op || frame->id != call->id || !call->sent || !code_expected(call, frame->code))
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply to another request");
    if (frame->code == CODE_OK || frame->code == CODE_PRESENT) {
        int err = call_decode(kvd, msg_reply(call->op), meta, call->reply);
        if (err)
            return err;
    }
    if (frame->code == CODE_OK && call->land)
        return call->land(kvd, call, frame->body_len, body);
    return frame->body_len == 0 ? 0 : wire_fail(kvd, KVD_ERR_PROTOCOL, "a body where there is none");
}

static int call_done(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta)
{
    struct call *call = arg;
    call->meta = meta;
    call->result = call_result(frame->code);
    kvd->message[0] = 0;
    if (frame->code == CODE_OK || frame->code == CODE_PRESENT)
        return 1;
    struct msg_failure_reply failure;
    int result = call_refused(kvd, frame->code, meta, &failure);
    if (result == KVD_ERR_PROTOCOL || result == KVD_ERR_MEMORY)
        return result;
    if (result != KVD_ERR_BUSY)
        return 1;
    call->not_before_us = call_retry_at(kvd, &failure);
    call->sent = false;
    return call->not_before_us == UINT64_MAX ? 1 : 0;
}

int call_run(struct kvd *kvd, struct call *call)
{
    const struct exchange exchange = {.arg = call, .next = call_next, .head = call_head, .done = call_done};
    call->id = kvd->next_id++;
    int err = wire_exchange(kvd, &exchange);
    return err ? err : call->result;
}

/* ---- HELLO ---- */

static uint64_t limit_or(uint64_t value, uint64_t fallback)
{
    return value > 0 ? value : fallback;
}

static void text_keep(char out[TEXT_BYTES], struct span text)
{
    size_t len = min_u64(text.len, TEXT_BYTES - 1);
    if (len > 0)
        memcpy(out, text.at, len);
    out[len] = 0;
}

/* Whatever it says, the limits that are kept make sense. */
static int server_keep(struct kvd *kvd, const struct msg_hello_reply *hello)
{
    struct msg_limits limits = {0};
    if (MSG_HAS(hello, F_HELLOR_LIMITS)) {
        int err = call_decode(kvd, &msg_limits_part, hello->limits, &limits);
        if (err)
            return err;
    }
    struct kvd_server *server = &kvd->server;
    server->key_bytes = limit_or(limits.key_bytes, KEY_MAX_BYTES);
    server->value_bytes = limit_or(limits.value_bytes, VALUE_MAX_BYTES);
    server->batch_keys = min_u64(limit_or(limits.batch_keys, BATCH_DEFAULT_KEYS), BATCH_MAX_KEYS);
    server->meta_bytes = max_u64(limit_or(limits.meta_bytes, 4 * MIB), 8 * KIB);
    server->inflight_bytes = limit_or(limits.inflight_bytes, UINT64_MAX);
    text_keep(kvd->server_text, hello->server);
    text_keep(kvd->node_text, hello->node);
    server->server = kvd->server_text;
    server->node = kvd->node_text;
    return 0;
}

static int hello_say(struct kvd *kvd)
{
    uint64_t versions[] = {1};
    struct msg_hello request = {.has = 1u << F_HELLO_VERSIONS | 1u << F_HELLO_CLIENT};
    request.versions = (struct u64s){versions, 1};
    request.client = span_text(kvd->client);
    struct msg_hello_reply reply = {0};
    struct call call = {.op = OP_HELLO, .msg = &request, .reply = &reply};
    int result = call_run(kvd, &call);
    if (result)
        return result;
    if (reply.version != 1)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "the server speaks another version");
    result = server_keep(kvd, &reply);
    bool asked = MSG_HAS(&reply, F_HELLOR_AUTHENTICATED) && !reply.authenticated;
    return result == 0 && asked ? auth_show(kvd, reply.nonce) : result;
}

int call_begin(struct kvd *kvd)
{
    kvd->message[0] = 0;
    uint64_t now = wire_now_us();
    uint64_t deadline = now + kvd->timeout_ms * 1000;
    kvd->deadline_us = deadline;
    if (wire_alive(kvd))
        return 0;
    kvd->deadline_us = min_u64(deadline, now + kvd->connect_ms * 1000);
    int result = wire_open(kvd, kvd->deadline_us);
    if (!result)
        result = hello_say(kvd);
    if (result)
        wire_close(kvd);
    kvd->deadline_us = deadline;
    return result;
}

/* ---- what several calls share ---- */

bool call_key_good(struct kvd_key key)
{
    return key.at && key.len >= 1 && key.len <= KEY_MAX_BYTES;
}

size_t call_keys_fit(const struct kvd *kvd, const struct span *keys, size_t count)
{
    uint64_t room = kvd->server.meta_bytes - 2 * KIB; /* one key always fits */
    size_t fit = 0;
    while (fit < count && fit < kvd->server.batch_keys && keys[fit].len + 5 <= room) {
        room -= keys[fit].len + 5;
        fit++;
    }
    CHECK(fit > 0 || count == 0);
    return fit;
}

int call_got_check(struct kvd *kvd, const struct msg_get_reply *got)
{
    uint32_t needed = 1u << F_GETR_SIZE | 1u << F_GETR_VERSION | 1u << F_GETR_TIER | 1u << F_GETR_CHECKSUM;
    if ((got->has & needed) != needed || got->size > VALUE_MAX_BYTES)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a get's reply lacks size, version, tier or checksum");
    return 0;
}

char call_tier(struct span tier)
{
    return tier.len > 0 ? (char)tier.at[0] : '?';
}
