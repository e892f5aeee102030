#include "client/kvd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sum.h"
#include "base/text.h"
#include "client/kvd_impl.h"

enum { DEFAULT_TIMEOUT_MS = 30000, DEFAULT_CONNECT_MS = 5000 };
#define DEFAULT_INFLIGHT_BYTES (64 * MIB)
#define MAX_TIMEOUT_MS ((uint64_t)1 << 40) /* so that no sum of times overflows */

static const char default_address[] = "127.0.0.1:7950";

const char *kvd_strerror(int result)
{
    static const char *const texts[] = {
        "ok",
        "an argument makes no sense",
        "cannot reach the server",
        "timed out",
        "no valid reply",
        "bytes differ from their checksum",
        "the server has no room now",
        "too large",
        "can never fit",
        "denied",
        "unsupported",
        "bad request",
        "the server is shutting down",
        "the server's disk failed",
        "a fault of the server",
        "the buffer is too small",
        "out of memory",
    };
    if (result == KVD_PRESENT)
        return "present";
    if (result == KVD_MISS)
        return "not found";
    if (result > 0 || result < KVD_ERR_MEMORY)
        return "unknown result";
    return texts[-result];
}

/* ---- connect, close ---- */

static bool text_copy(char out[TEXT_BYTES], const char *text)
{
    size_t len = strlen(text);
    if (len >= TEXT_BYTES)
        return false;
    memcpy(out, text, len + 1);
    return true;
}

static uint64_t time_or(uint64_t ms, uint64_t fallback)
{
    return ms ? min_u64(ms, MAX_TIMEOUT_MS) : fallback;
}

static int options_take(struct kvd *kvd, const struct kvd_options *options)
{
    const char *address = options->address ? options->address : getenv("KVD_SERVER");
    if (!address || !*address)
        address = default_address;
    if (!text_split_address(address, kvd->host, sizeof kvd->host, &kvd->port))
        return wire_fail(kvd, KVD_ERR_USAGE, "the address must be HOST:PORT");
    if (!text_copy(kvd->client, options->client ? options->client : "libkvd"))
        return wire_fail(kvd, KVD_ERR_USAGE, "the client's name is too long");
    const char *token_file = options->token_file ? options->token_file : getenv("KVD_TOKEN_FILE");
    if (token_file && *token_file && !(kvd->token_file = strdup(token_file)))
        return wire_fail(kvd, KVD_ERR_MEMORY, kvd_strerror(KVD_ERR_MEMORY));
    kvd->timeout_ms = time_or(options->timeout_ms, DEFAULT_TIMEOUT_MS);
    kvd->connect_ms = time_or(options->connect_ms, DEFAULT_CONNECT_MS);
    kvd->inflight_bytes = options->inflight_bytes ? options->inflight_bytes : DEFAULT_INFLIGHT_BYTES;
    return 0;
}

int kvd_connect(struct kvd **out, const struct kvd_options *options, char *message, size_t message_len)
{
    static const struct kvd_options defaults;
    struct kvd *kvd = calloc(1, sizeof *kvd);
    int result = KVD_ERR_MEMORY;
    if (!kvd)
        goto fail;
    kvd->fd = -1;
    kvd->next_id = 1;
    buffer_init(&kvd->sender.head);
    arena_init(&kvd->arena);
    result = options_take(kvd, options ? options : &defaults);
    if (!result)
        result = call_begin(kvd);
    if (result)
        goto fail;
    *out = kvd;
    return KVD_OK;

fail:
    if (message && message_len > 0)
        snprintf(message, message_len, "%s", kvd && *kvd->message ? kvd->message : kvd_strerror(result));
    kvd_close(kvd);
    return result;
}

void kvd_close(struct kvd *kvd)
{
    if (!kvd)
        return;
    wire_close(kvd);
    buffer_fini(&kvd->sender.head);
    arena_fini(&kvd->arena);
    free(kvd->reader.meta);
    free(kvd->token_file);
    free(kvd);
}

const char *kvd_message(const struct kvd *kvd)
{
    return kvd->message;
}

const struct kvd_server *kvd_server(const struct kvd *kvd)
{
    return &kvd->server;
}

static struct span key_span(struct kvd_key key)
{
    return span_of(key.at, key.len);
}

static int bad_key(struct kvd *kvd)
{
    return wire_fail(kvd, KVD_ERR_USAGE, "a key is 1 to 1,024 bytes");
}

/* A call with one request and one reply. */
static int call_once(struct kvd *kvd, struct call *call)
{
    int result = call_begin(kvd);
    return result ? result : call_run(kvd, call);
}

int kvd_ping(struct kvd *kvd)
{
    struct msg_plain request = {0};
    struct msg_empty reply;
    struct call call = {.op = OP_PING, .msg = &request, .reply = &reply};
    return call_once(kvd, &call);
}

/* ---- put ---- */

int kvd_put(struct kvd *kvd, struct kvd_key key, const void *value, size_t len, unsigned flags, uint64_t *version)
{
    return kvd_put_for(kvd, key, value, len, flags, 0, version);
}

int kvd_put_for(struct kvd *kvd, struct kvd_key key, const void *value, size_t len, unsigned flags, uint64_t ttl_ms, uint64_t *version)
{
    struct kvd_item item = {.key = key, .value = value, .len = len, .ttl_ms = ttl_ms};
    if (!call_key_good(key))
        return bad_key(kvd);
    int result = kvd_mput(kvd, &item, 1, flags);
    if (result == KVD_OK)
        result = item.result;
    if (result >= 0 && version)
        *version = item.version;
    return result;
}

/* ---- get ---- */

/* One GET. `at` is where the bytes go; `alloc`: from malloc() instead, once the size is known. */
struct get {
    uint8_t *at;
    uint64_t capacity;
    bool alloc;
    bool range;
    uint64_t offset;
    bool small; /* the value is larger than `capacity`: its bytes were dropped */
    uint64_t body_len;
};

static int get_place(struct kvd *kvd, struct get *get, uint64_t body_len)
{
    if (!get->alloc)
        return 0;
    free(get->at);
    get->at = malloc(body_len ? (size_t)body_len : 1);
    return get->at ? 0 : wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a value");
}

static int get_land(struct kvd *kvd, struct call *call, uint64_t body_len, uint8_t **body)
{
    struct get *get = call->land_arg;
    const struct msg_get_reply *got = call->reply;
    int err = call_got_check(kvd, got);
    if (err)
        return err;
    uint64_t rest = got->size - min_u64(got->size, get->offset);
    uint64_t wanted = get->alloc ? rest : min_u64(rest, get->capacity);
    get->small = !get->range && !get->alloc && got->size > get->capacity;
    get->body_len = body_len;
    if (body_len != wanted)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a value of another length than asked for");
    if (get->small)
        return 0;
    err = get_place(kvd, get, body_len);
    *body = get->at;
    return err;
}

static int get_judge(struct kvd *kvd, const struct get *get, const struct msg_get_reply *got)
{
    if (get->small)
        return wire_fail(kvd, KVD_ERR_BUFFER, kvd_strerror(KVD_ERR_BUFFER));
    if (get->range && !MSG_HAS(got, F_GETR_BODY_CHECKSUM))
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "body_checksum was asked for and is not there");
    uint64_t wanted = get->range ? got->body_checksum : got->checksum;
    if (sum_of(get->at, (size_t)get->body_len) != wanted)
        return wire_fail(kvd, KVD_ERR_CORRUPT, kvd_strerror(KVD_ERR_CORRUPT));
    return KVD_OK;
}

static int get_run(struct kvd *kvd, struct kvd_key key, struct get *get, struct msg_get_reply *got)
{
    struct msg_get request = {.has = 1u << F_GET_KEY, .key = key_span(key), .offset = get->offset, .body_checksum = true};
    request.length = get->capacity;
    if (get->range)
        request.has |= 1u << F_GET_OFFSET | 1u << F_GET_BODY_CHECKSUM;
    if (!get->alloc)
        request.has |= 1u << F_GET_LENGTH; /* what does not fit need not come */
    struct call call = {.op = OP_GET, .outcome = CODE_NOT_FOUND, .with_timeout = true, .msg = &request, .reply = got};
    call.land = get_land;
    call.land_arg = get;
    if (!call_key_good(key))
        return bad_key(kvd);
    int result = call_once(kvd, &call);
    return result == KVD_OK ? get_judge(kvd, get, got) : result;
}

int kvd_get(struct kvd *kvd, struct kvd_key key, void *buffer, size_t capacity, size_t *len, char *tier)
{
    struct get get = {.at = buffer, .capacity = capacity};
    struct msg_get_reply got = {0};
    int result = get_run(kvd, key, &get, &got);
    if (result == KVD_OK || result == KVD_ERR_BUFFER)
        *len = (size_t)got.size;
    if (result == KVD_OK && tier)
        *tier = call_tier(got.tier);
    return result;
}

int kvd_get_range(struct kvd *kvd, struct kvd_key key, uint64_t offset, uint64_t length, void *buffer, size_t *len)
{
    struct get get = {.at = buffer, .capacity = length, .range = true, .offset = offset};
    struct msg_get_reply got = {0};
    int result = get_run(kvd, key, &get, &got);
    if (result == KVD_OK)
        *len = (size_t)get.body_len;
    return result;
}

int kvd_get_alloc(struct kvd *kvd, struct kvd_key key, void **value, size_t *len, char *tier)
{
    struct get get = {.alloc = true};
    struct msg_get_reply got = {0};
    int result = get_run(kvd, key, &get, &got);
    if (result != KVD_OK) {
        free(get.at);
        return result;
    }
    *value = get.at;
    *len = (size_t)got.size;
    if (tier)
        *tier = call_tier(got.tier);
    return KVD_OK;
}

/* ---- calls with many keys ---- */

/* The keys as spans, from malloc(); NULL when there is no memory. An ill-formed one is left empty, which no server has. */
static struct span *spans_new(const struct kvd_key *keys, size_t count)
{
    struct span *spans = malloc((count ? count : 1) * sizeof *spans);
    for (size_t i = 0; spans && i < count; i++)
        spans[i] = call_key_good(keys[i]) ? key_span(keys[i]) : span_of(NULL, 0);
    return spans;
}

/* What is done with one batch of keys: `spans` has the keys from `first` on. Returns a result. */
typedef int (*batch_fn)(struct kvd *kvd, void *arg, struct spans spans, size_t first);

static bool keys_good(const struct kvd_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!call_key_good(keys[i]))
            return false;
    return count == 0 || keys;
}

/* Any number of keys, in as many requests as it takes, one after the other. */
static int batches_run(struct kvd *kvd, const struct kvd_key *keys, size_t count, batch_fn fn, void *arg)
{
    int result = call_begin(kvd);
    if (result)
        return result;
    struct span *spans = spans_new(keys, count);
    if (!spans)
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for keys");
    for (size_t first = 0; result == KVD_OK && first < count;) {
        size_t fit = call_keys_fit(kvd, spans + first, count - first);
        result = fn(kvd, arg, (struct spans){spans + first, (uint32_t)fit}, first);
        first += fit;
    }
    free(spans);
    return result;
}

static int exists_batch(struct kvd *kvd, void *arg, struct spans spans, size_t first)
{
    uint8_t *present = arg;
    struct msg_look request = {.has = 1u << F_LOOK_KEYS, .keys = spans};
    struct msg_exists_reply reply;
    struct call call = {.op = OP_EXISTS, .msg = &request, .reply = &reply};
    int result = call_run(kvd, &call);
    if (result)
        return result;
    if (reply.present.len != spans.count)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "answers for another number of keys");
    memcpy(present + first, reply.present.at, reply.present.len);
    return KVD_OK;
}

int kvd_exists(struct kvd *kvd, const struct kvd_key *keys, size_t count, uint8_t *present)
{
    if (count > 0 && !keys)
        return bad_key(kvd);
    return batches_run(kvd, keys, count, exists_batch, present);
}

static int remove_batch(struct kvd *kvd, void *arg, struct spans spans, size_t first)
{
    (void)first;
    uint64_t *removed = arg;
    struct msg_remove request = {.has = 1u << F_REMOVE_KEYS, .keys = spans};
    struct msg_removed_reply reply;
    struct call call = {.op = OP_REMOVE, .msg = &request, .reply = &reply};
    int result = call_run(kvd, &call);
    if (result == KVD_OK)
        *removed += reply.removed;
    return result;
}

static int count_out(int result, uint64_t count, uint64_t *out)
{
    if (result == KVD_OK && out)
        *out = count;
    return result;
}

int kvd_remove(struct kvd *kvd, const struct kvd_key *keys, size_t count, uint64_t *removed)
{
    uint64_t sum = 0;
    if (!keys_good(keys, count))
        return bad_key(kvd);
    int result = batches_run(kvd, keys, count, remove_batch, &sum);
    return count_out(result, sum, removed);
}

struct pin {
    bool pinned;
    uint64_t changed;
};

static int pin_batch(struct kvd *kvd, void *arg, struct spans spans, size_t first)
{
    (void)first;
    struct pin *pin = arg;
    struct msg_pin request = {.has = 1u << F_PIN_KEYS | 1u << F_PIN_PINNED, .keys = spans, .pinned = pin->pinned};
    struct msg_pin_reply reply;
    struct call call = {.op = OP_PIN, .msg = &request, .reply = &reply};
    int result = call_run(kvd, &call);
    if (result == KVD_OK)
        pin->changed += reply.changed;
    return result;
}

int kvd_pin(struct kvd *kvd, const struct kvd_key *keys, size_t count, bool pinned, uint64_t *changed)
{
    struct pin pin = {.pinned = pinned};
    if (!keys_good(keys, count))
        return bad_key(kvd);
    int result = batches_run(kvd, keys, count, pin_batch, &pin);
    return count_out(result, pin.changed, changed);
}

/* ---- match and release ---- */

struct match {
    size_t count;
    unsigned flags;
    uint64_t lease_ms;
    struct kvd_matched matched;
};

static int match_batch(struct kvd *kvd, void *arg, struct spans spans, size_t first)
{
    struct match *match = arg;
    (void)first;
    if (spans.count < match->count)
        return wire_fail(kvd, KVD_ERR_USAGE, "more keys than fit in one request");
    struct msg_look request = {.has = 1u << F_LOOK_KEYS, .keys = spans, .lease_ms = match->lease_ms, .warm = true};
    if (match->flags & KVD_MATCH_LEASE)
        request.has |= 1u << F_LOOK_LEASE;
    if (match->flags & KVD_MATCH_WARM)
        request.has |= 1u << F_LOOK_WARM;
    struct msg_match_reply reply;
    struct call call = {.op = OP_MATCH, .msg = &request, .reply = &reply};
    int result = call_run(kvd, &call);
    if (result)
        return result;
    if (reply.count > spans.count || reply.memory > reply.count)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a match of more than was asked for");
    match->matched = (struct kvd_matched){(size_t)reply.count, (size_t)reply.memory, reply.lease};
    return KVD_OK;
}

int kvd_match(struct kvd *kvd, const struct kvd_key *keys, size_t count, unsigned flags, uint64_t lease_ms, struct kvd_matched *out)
{
    if (!keys_good(keys, count))
        return bad_key(kvd);
    struct match match = {.count = count, .flags = flags, .lease_ms = lease_ms};
    int result = batches_run(kvd, keys, count, match_batch, &match);
    if (result == KVD_OK)
        *out = match.matched;
    return result;
}

int kvd_release(struct kvd *kvd, uint64_t lease)
{
    struct msg_release request = {.has = 1u << F_RELEASE_LEASE, .lease = lease};
    struct msg_empty reply;
    struct call call = {.op = OP_RELEASE, .msg = &request, .reply = &reply};
    return call_once(kvd, &call);
}

/* ---- remove many ---- */

int kvd_remove_prefix(struct kvd *kvd, struct kvd_key prefix, uint64_t *removed)
{
    if (!call_key_good(prefix))
        return wire_fail(kvd, KVD_ERR_USAGE, "a prefix is 1 to 1,024 bytes");
    struct msg_remove_prefix request = {.has = 1u << F_REMOVE_PREFIX, .prefix = key_span(prefix)};
    struct msg_removed_reply reply = {0};
    struct call call = {.op = OP_REMOVE_PREFIX, .msg = &request, .reply = &reply};
    int result = call_once(kvd, &call);
    return count_out(result, reply.removed, removed);
}

int kvd_remove_all(struct kvd *kvd, uint64_t *removed)
{
    struct msg_plain request = {0};
    struct msg_removed_reply reply = {0};
    struct call call = {.op = OP_REMOVE_ALL, .msg = &request, .reply = &reply};
    int result = call_once(kvd, &call);
    return count_out(result, reply.removed, removed);
}
