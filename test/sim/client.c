/* client.c - clients: real frames over connections that may end at any byte. What they ask and are told goes into the history. */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/check.h"
#include "proto/frame.h"
#include "proto/msg.h"
#include "sim.h"

enum { CLIENTS_MOST = 7, PATIENCE_US = 180 * SECOND, LITTLE_PATIENCE_US = 60 * SECOND, LEASES_MOST = 8 };

struct request {
    struct list link; /* client->requests */
    uint64_t id, begin_us, begin;
    enum action action;
    uint8_t op;
    unsigned count, hits;
    uint8_t keys[SIM_KEYS];
    size_t calls[SIM_KEYS]; /* in the history */
    size_t seen;            /* of a put: what PRESENT says */
    bool done[SIM_KEYS];
    uint64_t offset, length, lease_ms;
    bool body_checksum;
};

struct client {
    unsigned number;
    struct wire *wire;
    bool connected;
    uint32_t wire_number, life;
    struct list requests;
    unsigned pending;
    uint64_t next_id;
    uint64_t heard_us; /* last byte received */
    uint64_t left;     /* requests to be made */
    bool reads_all;
    struct event *event;
    uint8_t *in;
    size_t in_len, in_room;
    uint64_t leases[LEASES_MOST];
    unsigned lease_count;
};

static struct client clients[CLIENTS_MOST];
static unsigned client_count;

static void act(void *arg);

/* ---- keys ---- */

static const char *const key_names[SIM_KEYS] = {"a", "a/1", "a/2", "a/22", "b/1", "b/2", "a-long-one", "c"};

struct span sim_key(unsigned key)
{
    static uint8_t long_key[1000];
    if (key != 6)
        return span_text(key_names[key]);
    memset(long_key, 'a', sizeof long_key);
    long_key[999] = 'z';
    return span_of(long_key, sizeof long_key);
}

int sim_key_index(struct span key)
{
    for (unsigned i = 0; i < SIM_KEYS; i++)
        if (span_equal(sim_key(i), key))
            return (int)i;
    return -1;
}

static unsigned some_key(void)
{
    return (unsigned)chance_below(sim->scenario.keys);
}

/* ---- requests ---- */

static struct request *request_new(struct client *client, enum action action, uint8_t op)
{
    struct request *request = sim_alloc(sizeof *request);
    request->id = ++client->next_id;
    request->action = action;
    request->op = op;
    request->begin_us = sim->now_us;
    request->begin = ++sim->stamp;
    request->seen = SIZE_MAX;
    list_push_back(&client->requests, &request->link);
    client->pending++;
    return request;
}

static void request_free(struct client *client, struct request *request)
{
    list_remove(&request->link);
    client->pending--;
    sim_free(request);
}

static size_t begin_call(struct client *client, enum call_kind kind, unsigned key)
{
    size_t index = history_begin(&sim->history, kind, key);
    struct call *call = &sim->history.calls[index];
    call->wire = client->wire_number;
    call->life = client->life;
    call->recovered =
        sim->host->life && sim->host->life->number == client->life && sim->host->life->open && sim->host->life->server.store->recovered;
    return index;
}

static void add_key(struct client *client, struct request *request, enum call_kind kind, unsigned key)
{
    request->keys[request->count] = (uint8_t)key;
    request->calls[request->count++] = begin_call(client, kind, key);
}

/* That a prefix names, or all. */
static void add_many(struct client *client, struct request *request, unsigned key)
{
    add_key(client, request, CALL_REMOVE, key);
    sim->history.calls[request->calls[request->count - 1]].many = true;
}

/* Some keys, each once, in any order. */
static void add_keys(struct client *client, struct request *request, enum call_kind kind)
{
    unsigned count = (unsigned)chance_between(1, SIM_KEYS);
    unsigned from = (unsigned)chance_below(SIM_KEYS);
    unsigned step = (unsigned)(chance_below(SIM_KEYS / 2) * 2 + 1);
    for (unsigned i = 0; i < count; i++)
        add_key(client, request, kind, (from + i * step) % SIM_KEYS);
}

static void send_frame(struct client *client, const struct request *request, const void *msg, const uint8_t *body, uint64_t body_len,
                       uint64_t at_most)
{
    struct buffer meta;
    buffer_init(&meta);
    CHECK(msg_encode(msg_request(request->op), msg, &meta) == 0 && !meta.failed);
    struct frame frame = {.op = request->op, .id = request->id, .meta_len = (uint32_t)meta.len, .body_len = body_len};
    uint64_t len = FRAME_PREFIX_BYTES + meta.len + body_len;
    uint8_t *bytes = sim_alloc(len);
    frame_encode(bytes, &frame);
    memcpy(bytes + FRAME_PREFIX_BYTES, meta.at, meta.len);
    if (body_len > 0)
        memcpy(bytes + FRAME_PREFIX_BYTES + meta.len, body, body_len);
    wire_send(client->wire, bytes, min_u64(len, at_most));
    sim_free(bytes);
    buffer_fini(&meta);
    note("request", client->number, request->op, request->id);
}

/* Some requests have a deadline. */
static void set_timeout(uint32_t *has, uint64_t *timeout_ms)
{
    if (!chance_one_in(25))
        return;
    *has |= 1u << F_TIMEOUT;
    *timeout_ms = chance_delay(200);
}

static struct spans keys_of(const struct request *request, struct span *room)
{
    for (unsigned i = 0; i < request->count; i++)
        room[i] = sim_key(request->keys[i]);
    return (struct spans){room, request->count};
}

/* ---- what clients do ---- */

static uint64_t choose_size(void)
{
    uint64_t largest = sim->scenario.largest;
    switch (chance_below(sim->scenario.bulky ? 16 : 8)) {
    case 0:
        return chance_below(3);
    case 1:
        return chance_below(min_u64(200, largest));
    case 2:
    case 3:
        return chance_below(min_u64(5000, largest));
    case 4:
        return min_u64(largest, 4096 * chance_between(1, 16) + chance_below(3) - 1);
    case 5:
        return chance_below(largest);
    default:
        return sim->scenario.bulky ? largest - chance_below(largest / 2) : chance_below(min_u64(70000, largest));
    }
}

static uint64_t choose_ttl_ms(void)
{
    return chance_one_in(3) ? chance_between(1, 100) : chance_between(1, chance_one_in(2) ? 5000 : 60 * 1000);
}

static void put_key(struct client *client, enum action action, unsigned key)
{
    struct request *request = request_new(client, action, OP_PUT);
    add_key(client, request, CALL_PUT, key);
    struct call *put = &sim->history.calls[request->calls[0]];
    put->size = choose_size();
    put->identity = chance() >> 8 << 20;
    put->ack_disk = chance_percent(sim->scenario.ack_disk);
    put->replace = chance_percent(sim->scenario.replace);
    if (chance_percent(sim->scenario.mortal))
        put->ttl_ms = choose_ttl_ms();
    struct call said = *put;
    request->seen = begin_call(client, CALL_SEEN, key);
    sim->history.calls[request->seen].ack_disk = said.ack_disk;
    sim->history.calls[request->seen].of_put = true;
    uint8_t *body = sim_alloc(said.size + 1);
    value_fill(said.identity, 0, body, said.size);
    struct msg_put msg = {.has = 1u << F_PUT_KEY, .key = sim_key(key), .replace = said.replace};
    msg.has |= said.replace ? 1u << F_PUT_REPLACE : 0;
    msg.ack = span_text(said.ack_disk ? "disk" : "memory");
    msg.has |= 1u << F_PUT_ACK;
    if (chance_one_in(2)) {
        msg.has |= 1u << F_PUT_CHECKSUM;
        msg.checksum = XXH3_64bits(body, said.size);
    }
    if (said.ttl_ms > 0) {
        msg.has |= 1u << F_PUT_TTL;
        msg.ttl_ms = said.ttl_ms;
        sim->figures.mortal++;
    }
    if (chance_one_in(12)) {
        msg.has |= 1u << F_PUT_PIN;
        msg.pin = true;
    }
    set_timeout(&msg.has, &msg.timeout_ms);
    if (said.ttl_ms > 0)
        say("  it ends after %llu ms", (unsigned long long)said.ttl_ms);
    say("client %u put key %u call %zu size %llu ack %s%s", client->number, key, request->calls[0], (unsigned long long)said.size,
        said.ack_disk ? "disk" : "memory", said.replace ? " replace" : "");
    uint64_t at_most = action == ACT_CUT_PUT ? chance_below(FRAME_PREFIX_BYTES + 4 + said.size) : UINT64_MAX;
    send_frame(client, request, &msg, body, said.size, at_most);
    sim_free(body);
    sim->figures.puts++;
}

static void do_put(struct client *client, enum action action)
{
    put_key(client, action, some_key());
}

static void do_get(struct client *client, enum action action, unsigned key)
{
    struct request *request = request_new(client, action, OP_GET);
    add_key(client, request, CALL_READ, key);
    request->length = UINT64_MAX;
    struct msg_get msg = {.has = 1u << F_GET_KEY, .key = sim_key(key)};
    if (action == ACT_RANGE) {
        msg.has |= 1u << F_GET_OFFSET | 1u << F_GET_LENGTH;
        msg.offset = request->offset = chance_delay(sim->scenario.largest);
        msg.length = request->length = chance_one_in(4) ? UINT64_MAX : chance_delay(sim->scenario.largest);
    }
    if (chance_one_in(4)) {
        msg.has |= 1u << F_GET_BODY_CHECKSUM;
        msg.body_checksum = request->body_checksum = true;
    }
    if (!client->reads_all)
        set_timeout(&msg.has, &msg.timeout_ms);
    say("client %u get key %u call %zu", client->number, key, request->calls[0]);
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_mget(struct client *client)
{
    struct span room[SIM_KEYS];
    struct request *request = request_new(client, ACT_MGET, OP_MGET);
    add_keys(client, request, CALL_READ);
    request->length = UINT64_MAX;
    struct msg_mget msg = {.has = 1u << F_MGET_KEYS, .keys = keys_of(request, room)};
    set_timeout(&msg.has, &msg.timeout_ms);
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_look(struct client *client, enum action action)
{
    struct span room[SIM_KEYS];
    struct request *request = request_new(client, action, action == ACT_EXISTS || chance_one_in(4) ? OP_EXISTS : OP_MATCH);
    add_keys(client, request, CALL_SEEN);
    struct msg_look msg = {.has = 1u << F_LOOK_KEYS, .keys = keys_of(request, room)};
    if (action == ACT_LEASE) {
        msg.has |= 1u << F_LOOK_LEASE;
        msg.lease_ms = chance_one_in(4) ? 0 : chance_between(1, chance_one_in(2) ? 200 : 20000);
        request->lease_ms = msg.lease_ms ? msg.lease_ms : 10000;
    }
    if (request->op == OP_MATCH && chance_one_in(2)) {
        msg.has |= 1u << F_LOOK_WARM;
        msg.warm = true;
    }
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_release(struct client *client)
{
    struct span room[SIM_KEYS];
    if (client->lease_count == 0)
        return;
    struct request *request = request_new(client, ACT_RELEASE, OP_RELEASE);
    uint64_t lease = client->leases[--client->lease_count];
    struct msg_release msg = {.has = 1u << F_RELEASE_LEASE, .lease = lease};
    if (chance_one_in(4)) {
        for (unsigned i = 0; i < SIM_KEYS; i += 1 + (unsigned)chance_below(3))
            request->keys[request->count++] = (uint8_t)i;
        msg.has |= 1u << F_RELEASE_KEYS;
        msg.keys = keys_of(request, room);
    }
    for (size_t i = 0; i < sim->history.lease_count; i++)
        if (sim->history.leases[i].lease == lease)
            sim->history.leases[i].released = ++sim->stamp;
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
    request->count = 0;
}

static void do_remove(struct client *client)
{
    struct span room[SIM_KEYS];
    struct request *request = request_new(client, ACT_REMOVE, OP_REMOVE);
    if (chance_one_in(2))
        add_key(client, request, CALL_REMOVE, some_key());
    else
        add_keys(client, request, CALL_REMOVE);
    struct msg_remove msg = {.has = 1u << F_REMOVE_KEYS, .keys = keys_of(request, room)};
    set_timeout(&msg.has, &msg.timeout_ms);
    say("client %u remove call %zu and %u more", client->number, request->calls[0], request->count - 1);
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
    sim->figures.removes++;
}

static void do_remove_prefix(struct client *client)
{
    static const char *const prefixes[] = {"a", "a/", "a/2", "b/", "b/1", "zz"};
    struct request *request = request_new(client, ACT_REMOVE_PREFIX, OP_REMOVE_PREFIX);
    struct span prefix = span_text(prefixes[chance_below(6)]);
    for (unsigned i = 0; i < SIM_KEYS; i++)
        if (span_starts_with(sim_key(i), prefix))
            add_many(client, request, i);
    struct msg_remove_prefix msg = {.has = 1u << F_REMOVE_PREFIX, .prefix = prefix};
    set_timeout(&msg.has, &msg.timeout_ms);
    say("client %u remove prefix %s", client->number, (const char *)prefix.at);
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
    sim->figures.removes++;
}

static void do_plain(struct client *client, enum action action)
{
    struct request *request = request_new(client, action, action == ACT_REMOVE_ALL ? OP_REMOVE_ALL : OP_INFO);
    struct msg_plain msg = {0};
    for (unsigned i = 0; i < SIM_KEYS && action == ACT_REMOVE_ALL; i++)
        add_many(client, request, i);
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_pin(struct client *client)
{
    struct span room[SIM_KEYS];
    struct request *request = request_new(client, ACT_PIN, OP_PIN);
    for (unsigned i = 0; i < SIM_KEYS; i++)
        if (chance_one_in(3))
            request->keys[request->count++] = (uint8_t)i;
    struct msg_pin msg = {.has = 1u << F_PIN_KEYS | 1u << F_PIN_PINNED, .keys = keys_of(request, room), .pinned = chance_one_in(3)};
    request->count = 0;
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_stat(struct client *client)
{
    struct request *request = request_new(client, ACT_STAT, OP_STAT);
    add_key(client, request, CALL_SEEN, some_key());
    struct msg_stat msg = {.has = 1u << F_STAT_KEY, .key = sim_key(request->keys[0])};
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_scan(struct client *client)
{
    struct request *request = request_new(client, ACT_SCAN, OP_SCAN);
    for (unsigned i = 0; i < SIM_KEYS; i++)
        add_key(client, request, CALL_SEEN, i);
    struct msg_scan msg = {0};
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
}

static void do_admin(struct client *client, enum action action)
{
    static const char *const actions[ACTIONS] = {
        [ACT_SYNC] = "sync",         [ACT_SEAL] = "seal",   [ACT_EVICT] = "evict",       [ACT_SCRUB] = "scrub",
        [ACT_SEGMENTS] = "segments", [ACT_DRAIN] = "drain", [ACT_TEARDOWN] = "teardown",
    };
    bool rare = action == ACT_DRAIN || action == ACT_TEARDOWN;
    if (rare && !chance_one_in(6))
        return;
    struct request *request = request_new(client, action, OP_ADMIN);
    struct msg_admin msg = {.has = 1u << F_ADMIN_ACTION, .action = span_text(actions[action])};
    for (unsigned i = 0; i < SIM_KEYS && action == ACT_TEARDOWN; i++)
        add_many(client, request, i);
    if (action == ACT_EVICT && chance_one_in(2)) {
        msg.has |= 1u << F_ADMIN_BYTES;
        msg.bytes = chance_delay(4 * MIB);
    } else if (action == ACT_SCRUB) {
        msg.has |= 1u << F_ADMIN_RATE | 1u << F_ADMIN_WAIT;
        msg.rate = chance_between(MIB, 1000 * MIB);
        msg.wait = chance_one_in(2);
        sim->figures.scrubs++;
    } else if (action == ACT_TEARDOWN) {
        msg.has |= 1u << F_ADMIN_NODE;
        msg.node = span_text(node_name(sim->host));
        sim->figures.teardowns++;
    } else if (action == ACT_DRAIN) {
        sim->figures.drains++;
    } else if (action == ACT_SEGMENTS && chance_one_in(2)) {
        msg.has |= 1u << F_ADMIN_LIMIT;
        msg.limit = chance_between(1, 4);
    }
    if (action != ACT_TEARDOWN)
        set_timeout(&msg.has, &msg.timeout_ms);
    say("client %u admin %s", client->number, actions[action]);
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
    if (rare)
        life_ends_soon();
}

static void do_config(struct client *client)
{
    struct request *request = request_new(client, ACT_CONFIG, OP_CONFIG);
    struct buffer set;
    buffer_init(&set);
    pack_map(&set, 2);
    pack_text(&set, "persist");
    pack_text(&set, policy_any());
    pack_text(&set, "when-behind");
    pack_text(&set, chance_one_in(2) ? "shed" : "wait");
    struct msg_config msg = {.has = 1u << F_CONFIG_SET, .set = span_of(set.at, set.len)};
    send_frame(client, request, &msg, NULL, 0, UINT64_MAX);
    buffer_fini(&set);
    if (sim->host->life)
        sim->host->life->policy_changed = true;
}

/* ---- answers ---- */

static void end_call(struct client *client, size_t call, enum call_kind kind, enum call_state state)
{
    (void)client;
    sim->history.calls[call].kind = (uint8_t)kind;
    history_end(&sim->history, call, state);
}

static enum call_state state_of(uint8_t code)
{
    bool unsure = code == CODE_IO_ERROR || code == CODE_TIMEOUT || code == CODE_INTERNAL;
    return code == CODE_OK ? CALL_DONE : unsure ? CALL_UNSURE : CALL_VOID;
}

static void on_disk(struct call *put)
{
    put->ack_disk = true;
    if (put->on_disk_us == 0)
        put->on_disk_us = sim->now_us;
}

static void got_put(struct client *client, struct request *request, const struct frame *frame, const struct msg_put_reply *reply)
{
    struct call *put = &sim->history.calls[request->calls[0]];
    if (frame->code == CODE_PRESENT) {
        sim->history.calls[request->seen].version = reply->version;
        end_call(client, request->seen, CALL_SEEN, CALL_DONE);
        end_call(client, request->calls[0], CALL_PUT, CALL_VOID);
        return;
    }
    if (frame->code == CODE_OK) {
        put->version = reply->version;
        history_alias(&sim->history, reply->version, request->calls[0]);
        sim->figures.acked_disk += put->ack_disk;
        if (put->ack_disk)
            on_disk(put);
    }
    end_call(client, request->calls[0], CALL_PUT, state_of(frame->code));
}

static void check_body(const struct request *request, const struct msg_get_reply *reply, const uint8_t *body, uint64_t len)
{
    uint64_t from = min_u64(request->offset, reply->size);
    uint64_t expected = min_u64(request->length, reply->size - from);
    if (len != expected)
        sim_fail("a get of %llu bytes brought %llu", (unsigned long long)expected, (unsigned long long)len);
    if (len == reply->size && XXH3_64bits(body, len) != reply->checksum)
        sim_fail("a value is not what its checksum says");
    if (request->body_checksum && XXH3_64bits(body, len) != reply->body_checksum)
        sim_fail("a body is not what its body_checksum says");
}

static void got_value(struct client *client, struct request *request, unsigned i, const struct frame *frame,
                      const struct msg_get_reply *reply, const uint8_t *body)
{
    size_t index = request->calls[i];
    struct call *call = &sim->history.calls[index];
    request->done[i] = true;
    if (frame->code == CODE_NOT_FOUND) {
        sim->figures.misses++;
        bool plain = !MSG_HAS(reply, F_GETR_REASON);
        say("client %u call %zu: a miss%s%.*s", client->number, index, plain ? "" : ", ", (int)reply->reason.len,
            (const char *)reply->reason.at);
        end_call(client, index, plain ? CALL_MISS : CALL_READ, plain ? CALL_DONE : CALL_VOID);
        return;
    }
    if (frame->code != CODE_OK) {
        end_call(client, index, CALL_READ, CALL_VOID);
        return;
    }
    sim->figures.hits++;
    check_body(request, reply, body, frame->body_len);
    bool ambiguous;
    call->version = reply->version;
    int64_t value = history_identify(&sim->history, request->keys[i], reply->version, reply->size, min_u64(request->offset, reply->size),
                                     body, frame->body_len, &ambiguous);
    for (size_t j = 0; value == NO_VALUE && j < sim->history.count; j++)
        if (sim->history.calls[j].kind == CALL_PUT && sim->history.calls[j].key == request->keys[i])
            say("candidate: call %zu size %llu version %llu state %u%s", j, (unsigned long long)sim->history.calls[j].size,
                (unsigned long long)sim->history.calls[j].version, sim->history.calls[j].state,
                value_is(sim->history.calls[j].identity, min_u64(request->offset, reply->size), body, frame->body_len) ? ", these bytes"
                                                                                                                       : "");
    if (value == NO_VALUE)
        sim_fail("key %u: bytes that no put wrote: call %zu size %llu offset %llu length %llu version %llu from %.*s", request->keys[i],
                 index, (unsigned long long)reply->size, (unsigned long long)request->offset, (unsigned long long)frame->body_len,
                 (unsigned long long)reply->version, (int)reply->tier.len, (const char *)reply->tier.at);
    say("client %u call %zu: the value of call %lld from %.*s", client->number, index, (long long)value, (int)reply->tier.len,
        (const char *)reply->tier.at);
    call = &sim->history.calls[index];
    call->value = ambiguous ? NO_VALUE : value;
    end_call(client, index, ambiguous ? CALL_SEEN : CALL_READ, CALL_DONE);
}

/* False: more frames will come. */
static bool got_mget(struct client *client, struct request *request, const struct frame *frame, const struct msg_get_reply *reply,
                     const uint8_t *body)
{
    if (MSG_HAS(reply, F_GETR_INDEX)) {
        if (reply->index >= request->count || request->done[reply->index])
            sim_fail("an MGET answers index %llu, which was not asked or was answered", (unsigned long long)reply->index);
        request->hits += frame->code == CODE_OK;
        got_value(client, request, (unsigned)reply->index, frame, reply, body);
        return false;
    }
    for (unsigned i = 0; i < request->count; i++) {
        if (request->done[i])
            continue;
        if (frame->code == CODE_OK)
            sim_fail("an MGET has ended without an answer for each key");
        end_call(client, request->calls[i], CALL_READ, CALL_VOID);
    }
    if (frame->code == CODE_OK && reply->hits != request->hits)
        sim_fail("an MGET counts its hits wrong");
    return true;
}

static void got_lease(struct client *client, const struct request *request, uint64_t lease, uint32_t keys)
{
    if (lease == 0 || keys == 0)
        return;
    sim->figures.leases++;
    struct lease_grant *grant = history_lease(&sim->history);
    *grant = (struct lease_grant){
        .begin = request->begin,
        .end = ++sim->stamp,
        .until_us = request->begin_us + request->lease_ms * MS - 2 * MS,
        .released = UINT64_MAX,
        .lease = lease,
        .life = client->life,
        .wire = client->wire_number,
        .keys = keys,
        .faults = sim->fault_count,
    };
    if (client->lease_count < LEASES_MOST)
        client->leases[client->lease_count++] = lease;
}

static void got_presence(struct client *client, const struct request *request, unsigned i, bool present, bool plain)
{
    bool miss = !present && plain;
    end_call(client, request->calls[i], miss ? CALL_MISS : CALL_SEEN, present || miss ? CALL_DONE : CALL_VOID);
}

static void got_exists(struct client *client, const struct request *request, const struct msg_exists_reply *reply)
{
    uint32_t keys = 0;
    uint64_t count = 0;
    if (reply->present.len != request->count)
        sim_fail("EXISTS does not answer each key");
    for (unsigned i = 0; i < request->count; i++) {
        bool present = reply->present.at[i] != 0;
        got_presence(client, request, i, present, request->lease_ms == 0);
        keys |= present ? 1u << request->keys[i] : 0;
        count += present;
    }
    if (count != reply->count)
        sim_fail("EXISTS counts wrong");
    got_lease(client, request, reply->lease, keys);
}

static void got_match(struct client *client, const struct request *request, const struct msg_match_reply *reply)
{
    uint32_t keys = 0;
    if (reply->count > request->count || reply->memory > reply->count)
        sim_fail("MATCH counts wrong");
    for (unsigned i = 0; i < request->count; i++) {
        bool present = i < reply->count;
        got_presence(client, request, i, present, request->lease_ms == 0 && i == reply->count);
        keys |= present ? 1u << request->keys[i] : 0;
    }
    got_lease(client, request, reply->lease, keys);
}

/* A teardown that is refused because the tier is off has removed nothing; one that the disk did not take has. */
static enum call_state removed_state(const struct request *request, const struct frame *frame, const struct msg_failure_reply *failure)
{
    if (frame->code != CODE_IO_ERROR)
        return state_of(frame->code);
    bool here = request->action != ACT_TEARDOWN || span_starts_with(failure->message, span_text("removed here"));
    return here ? CALL_HERE : CALL_VOID;
}

static void got_removed(struct client *client, const struct request *request, const struct frame *frame,
                        const struct msg_failure_reply *failure)
{
    enum call_state state = removed_state(request, frame, failure);
    for (unsigned i = 0; i < request->count; i++)
        end_call(client, request->calls[i], CALL_REMOVE, state);
}

static void got_stat(struct client *client, const struct request *request, const struct frame *frame, const struct msg_stat_reply *reply)
{
    struct call *call = &sim->history.calls[request->calls[0]];
    if (frame->code == CODE_OK)
        call->version = reply->version;
    if (frame->code == CODE_OK || frame->code == CODE_NOT_FOUND)
        got_presence(client, request, 0, frame->code == CODE_OK, true);
}

static bool scan_names(const struct msg_scan_reply *reply, unsigned key)
{
    const uint8_t *at = reply->objects.at;
    struct span name = sim_key(key);
    for (size_t i = 0; i + name.len <= reply->objects.len; i++) {
        bool ends = i + name.len == reply->objects.len || at[i + name.len] == 0xa4; /* "size" follows */
        bool begins = i >= 2 && (at[i - 1] == name.len || at[i - 2] == 0xc5 || at[i - 1] == (name.len & 0xff));
        if (begins && ends && memcmp(at + i, name.at, name.len) == 0)
            return true;
    }
    return false;
}

static void got_scan(struct client *client, const struct request *request, const struct msg_scan_reply *reply)
{
    for (unsigned i = 0; i < request->count; i++)
        got_presence(client, request, i, scan_names(reply, request->keys[i]), reply->cursor.len == 0);
}

/* What was put before is on disk now, if it was to be written at all. */
static void got_synced(struct client *client, const struct request *request, const struct frame *frame)
{
    struct life *life = sim->host->life;
    if (frame->code != CODE_OK || !life || !life->open || life->number != client->life || life->policy_changed)
        return;
    const struct store_figures *figures = &life->server.store->figures;
    uint64_t unwritten = figures->unwritten_off + figures->unwritten_full + figures->unwritten_error + figures->unwritten_memory +
                         figures->unwritten_closing;
    if (unwritten > 0 || !writes_all(&sim->scenario))
        return;
    for (size_t i = 0; i < sim->history.count; i++) {
        struct call *call = &sim->history.calls[i];
        if (call->kind == CALL_PUT && call->state == CALL_DONE && call->life == client->life && call->end < request->begin)
            on_disk(call);
    }
}

static void refused(struct client *client, const struct request *request, const struct frame *frame)
{
    for (unsigned i = 0; i < request->count; i++)
        if (!request->done[i])
            end_call(client, request->calls[i], (enum call_kind)sim->history.calls[request->calls[i]].kind, state_of(frame->code));
}

/* Returns true when the request is over. */
static bool answered(struct client *client, struct request *request, const struct frame *frame, struct span meta, const uint8_t *body)
{
    union {
        struct msg_put_reply put;
        struct msg_get_reply get;
        struct msg_exists_reply exists;
        struct msg_match_reply match;
        struct msg_stat_reply stat;
        struct msg_scan_reply scan;
        struct msg_removed_reply removed;
        struct msg_config_reply config;
        struct msg_failure_reply failure;
        uint8_t room[512];
    } reply;
    const char *why = "";
    struct arena arena;
    arena_init(&arena);
    bool gets = request->op == OP_GET || request->op == OP_MGET;
    bool failed = frame->code >= CODE_NOT_FOUND && !gets;
    const struct schema *schema = failed ? &msg_failure : msg_reply(request->op);
    if (request->op != OP_INFO && msg_decode(schema, meta, 4096, &arena, &reply, &why) != 0)
        sim_fail("a reply to op %u code %u that cannot be read: %s", request->op, frame->code, why);
    bool over = true;
    if (request->op == OP_PUT)
        got_put(client, request, frame, &reply.put);
    else if (request->op == OP_GET)
        got_value(client, request, 0, frame, &reply.get, body);
    else if (request->op == OP_MGET)
        over = got_mget(client, request, frame, &reply.get, body);
    else if (request->op == OP_REMOVE || request->op == OP_REMOVE_PREFIX || request->op == OP_REMOVE_ALL)
        got_removed(client, request, frame, &reply.failure);
    else if (request->op == OP_STAT)
        got_stat(client, request, frame, &reply.stat);
    else if (request->action == ACT_TEARDOWN)
        got_removed(client, request, frame, &reply.failure);
    else if (request->action == ACT_SYNC || request->action == ACT_SEAL)
        got_synced(client, request, frame);
    else if (failed)
        refused(client, request, frame);
    else if (request->op == OP_EXISTS)
        got_exists(client, request, &reply.exists);
    else if (request->op == OP_MATCH)
        got_match(client, request, &reply.match);
    else if (request->op == OP_SCAN)
        got_scan(client, request, &reply.scan);
    arena_fini(&arena);
    return over;
}

static void take_frame(struct client *client, const struct frame *frame, const uint8_t *at)
{
    struct list *link = client->requests.next;
    while (link != &client->requests && CONTAINER_OF(link, struct request, link)->id != frame->id)
        link = link->next;
    if (link == &client->requests)
        sim_fail("a reply with op %u and id %llu that nobody waits for", frame->op, (unsigned long long)frame->id);
    struct request *request = CONTAINER_OF(link, struct request, link);
    note("reply", client->number, (uint64_t)frame->op << 8 | frame->code, frame->id);
    if (request->op != frame->op)
        sim_fail("a reply with another op");
    bool wrong =
        frame->code == CODE_BAD_REQUEST || frame->code == CODE_UNSUPPORTED || frame->code == CODE_INTERNAL || frame->code == CODE_CORRUPT;
    /* msgpack-c takes what it has no memory for as ill-formed. */
    bool heap = sim->figures.heap > 0 && (frame->code == CODE_INTERNAL || (frame->code == CODE_BAD_REQUEST && frame->op == OP_CONFIG));
    if (wrong && !heap)
        sim_fail("op %u is answered with code %u: %.*s", frame->op, frame->code, (int)min_u64(frame->meta_len, 200), (const char *)at);
    if (answered(client, request, frame, span_of(at, frame->meta_len), at + frame->meta_len))
        request_free(client, request);
}

static void received(void *owner, const uint8_t *at, size_t len)
{
    struct client *client = owner;
    if (client->in_len + len > client->in_room) {
        client->in_room = 2 * (client->in_len + len);
        client->in = sim_grow(client->in, client->in_room);
    }
    client->heard_us = sim->now_us;
    memcpy(client->in + client->in_len, at, len);
    client->in_len += len;
    size_t used = 0;
    while (client->in_len - used >= FRAME_PREFIX_BYTES) {
        struct frame frame;
        if (frame_decode(client->in + used, &frame) != 0)
            sim_fail("the server sent what is no frame");
        uint64_t whole = FRAME_PREFIX_BYTES + frame.meta_len + frame.body_len;
        if (client->in_len - used < whole)
            break;
        take_frame(client, &frame, client->in + used + FRAME_PREFIX_BYTES);
        used += whole;
    }
    memmove(client->in, client->in + used, client->in_len - used);
    client->in_len -= used;
}

/* ---- connections ---- */

static void forget_all(struct client *client)
{
    for (struct list *at; (at = list_first(&client->requests)) != NULL;)
        request_free(client, CONTAINER_OF(at, struct request, link));
    client->connected = false;
    client->wire = NULL;
    client->in_len = 0;
    client->lease_count = 0;
    history_wire_ended(client->wire_number);
}

static void opened(void *owner)
{
    struct client *client = owner;
    client->connected = true;
    client->wire_number = wire_id(client->wire);
    client->life = wire_life(client->wire);
}

static void ended(void *owner)
{
    forget_all(owner);
}

static const struct wire_events wire_events = {.opened = opened, .received = received, .ended = ended};

static void hang_up(struct client *client)
{
    bool reset = chance_one_in(2);
    struct wire *wire = client->wire;
    forget_all(client);
    wire_close(wire, reset);
}

/* ---- what next ---- */

static void cut_put(struct client *client)
{
    size_t call = sim->history.count;
    do_put(client, ACT_CUT_PUT);
    history_end(&sim->history, call, CALL_VOID); /* P2: it was never whole */
    hang_up(client);
}

static enum action choose_action(void)
{
    uint64_t at = chance_below(sim->scenario.weight_sum);
    for (unsigned i = 0; i < ACTIONS; i++) {
        if (at < sim->scenario.weights[i])
            return (enum action)i;
        at -= sim->scenario.weights[i];
    }
    return ACT_GET;
}

static void do_action(struct client *client, enum action action)
{
    switch (action) {
    case ACT_PUT:
        do_put(client, action);
        break;
    case ACT_RANGE:
        do_get(client, action, some_key());
        break;
    case ACT_MGET:
        do_mget(client);
        break;
    case ACT_EXISTS:
    case ACT_MATCH:
    case ACT_LEASE:
        do_look(client, action);
        break;
    case ACT_RELEASE:
        do_release(client);
        break;
    case ACT_REMOVE:
        do_remove(client);
        break;
    case ACT_REMOVE_PREFIX:
        do_remove_prefix(client);
        break;
    case ACT_REMOVE_ALL:
    case ACT_INFO:
        do_plain(client, action);
        break;
    case ACT_PIN:
        do_pin(client);
        break;
    case ACT_STAT:
        do_stat(client);
        break;
    case ACT_SCAN:
        do_scan(client);
        break;
    case ACT_SYNC:
    case ACT_SEAL:
    case ACT_EVICT:
    case ACT_SCRUB:
    case ACT_SEGMENTS:
    case ACT_DRAIN:
    case ACT_TEARDOWN:
        do_admin(client, action);
        break;
    case ACT_CONFIG:
        do_config(client);
        break;
    case ACT_HANG_UP:
        hang_up(client);
        break;
    case ACT_CUT_PUT:
        cut_put(client);
        break;
    case ACT_GET:
    default:
        do_get(client, ACT_GET, some_key());
    }
}

/* What waits for the disk by its nature; and what has to be logged first, and all behind it, until the tier has opened. */
static bool waits_for_disk(const struct request *request)
{
    bool put = request->op == OP_PUT && sim->history.calls[request->calls[0]].ack_disk;
    return put || request->op == OP_ADMIN || sim->scenario.slow_network || sim->host->life->opened_us == 0;
}

/* Progress: nobody waits for ever, and for a disk that hangs only who asked for it. */
static void check_patience(const struct client *client)
{
    if (!sim->host->life)
        return;
    for (struct list *at = client->requests.next; at != &client->requests; at = at->next) {
        const struct request *request = CONTAINER_OF(at, struct request, link);
        uint64_t since_us = max_u64(max_u64(request->begin_us, client->heard_us), sim->host->life->opened_us);
        uint64_t until_us =
            waits_for_disk(request) ? max_u64(since_us, sim->host->hang_until_us) + PATIENCE_US : since_us + LITTLE_PATIENCE_US;
        if (sim->now_us > until_us)
            sim_fail("op %u of client %u was not answered for %llu s", request->op, client->number,
                     (unsigned long long)((sim->now_us - since_us) / SECOND));
    }
}

static void act_once(struct client *client)
{
    if (!client->wire) {
        client->wire = wire_connect(&wire_events, client);
        return;
    }
    if (!client->connected || client->left == 0 || client->pending >= sim->scenario.pipeline)
        return;
    sim->figures.ops++;
    client->left--;
    unsigned key = (unsigned)(client->left % SIM_KEYS);
    if (client->reads_all && client->left / SIM_KEYS == 1)
        put_key(client, ACT_PUT, key);
    else if (client->reads_all)
        do_get(client, ACT_GET, key);
    else
        do_action(client, choose_action());
}

static uint64_t think_us(const struct client *client)
{
    if (!client->wire)
        return chance_delay(20 * MS);
    if (client->left == 0 || client->pending >= sim->scenario.pipeline)
        return chance_delay(10 * MS) + 100;
    return chance_one_in(sim->scenario.leisurely ? 6 : 100) ? chance_delay(3 * SECOND)
           : chance_one_in(4)                               ? chance_delay(10 * MS)
                                                            : chance_delay(300);
}

static void act(void *arg)
{
    struct client *client = arg;
    client->event = NULL;
    check_patience(client);
    unsigned times = chance_one_in(4) ? (unsigned)chance_between(1, 4) : 1;
    while (times-- > 0 && (client->left > 0 || !client->wire))
        act_once(client);
    if (client->left == 0 && client->pending == 0) {
        if (client->wire)
            hang_up(client);
        return;
    }
    client->event = event_add(think_us(client), false, act, client);
}

static void client_start(unsigned host, uint64_t left, bool reads_all)
{
    sim->host = &sim->hosts[host];
    struct client *client = &clients[client_count];
    *client = (struct client){.number = client_count++, .left = left, .reads_all = reads_all};
    list_init(&client->requests);
    client->event = event_add(chance_delay(10 * MS), false, act, client);
}

void clients_start(void)
{
    client_count = 0;
    for (unsigned i = 0; i < sim->scenario.clients; i++)
        client_start(i % sim->host_count, sim->scenario.ops / sim->scenario.clients, false);
}

bool clients_done(void)
{
    for (unsigned i = 0; i < client_count; i++)
        if (clients[i].left > 0 || clients[i].pending > 0)
            return false;
    return true;
}

void clients_read_all(void)
{
    for (unsigned i = 0; i < sim->host_count; i++)
        client_start(i, sim->options->crash_at > 0 ? 3 * SIM_KEYS : SIM_KEYS, true);
}

void clients_stop(void)
{
    for (unsigned i = 0; i < client_count; i++)
        clients[i].left = clients[i].reads_all ? clients[i].left : 0;
}

void clients_free(void)
{
    for (unsigned i = 0; i < client_count; i++) {
        forget_all(&clients[i]);
        sim_free(clients[i].in);
    }
    client_count = 0;
}
