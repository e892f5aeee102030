/* libkvd against a server that does what each test scripts: one thread, one connection after the other, over loopback. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "auth/mac.h"
#include "base/bytes.h"
#include "client/kvd.h"
#include "proto/meta.h"
#include "proto/msg.h"
#include "test/support/scratch.h"

/* ---- the scripted server ---- */

enum { MAX_BODY = 1 << 20, MAX_META = 1 << 20, MAX_CONNECTIONS = 8 };

struct peer {
    int fd;
    struct arena arena;
    struct frame frame; /* the last request that was read */
    uint8_t *meta;
    uint8_t *body;
    bool good; /* all that came was as the script wanted it */
};

typedef void (*script_fn)(struct peer *peer);

struct fake {
    int listener;
    pthread_t thread;
    script_fn scripts[MAX_CONNECTIONS]; /* of each connection in turn */
    size_t count;
    struct peer peer;
    char address[32];
};

static bool read_all(struct peer *peer, void *to, size_t len)
{
    size_t got = 0;
    while (got < len) {
        ssize_t count = recv(peer->fd, (uint8_t *)to + got, len - got, 0);
        if (count <= 0)
            return false;
        got += (size_t)count;
    }
    return true;
}

static void write_all(struct peer *peer, const void *from, size_t len)
{
    size_t sent = 0;
    while (sent < len) {
        ssize_t count = send(peer->fd, (const uint8_t *)from + sent, len - sent, MSG_NOSIGNAL);
        if (count <= 0)
            return; /* the client is gone: its own result says whether that was right */
        sent += (size_t)count;
    }
}

static void want(struct peer *peer, bool good, const char *what)
{
    if (!good && peer->good) {
        peer->good = false;
        fprintf(stderr, "the scripted server did not get what it wanted: %s\n", what);
    }
}

/* Read a request of that op into `msg`. False when the connection ended. */
static bool take(struct peer *peer, uint8_t op, void *msg)
{
    uint8_t prefix[FRAME_PREFIX_BYTES];
    if (!read_all(peer, prefix, sizeof prefix))
        return false;
    bool framed = frame_decode(prefix, &peer->frame) == 0 && peer->frame.meta_len <= MAX_META && peer->frame.body_len <= MAX_BODY;
    want(peer, framed && peer->frame.op == op && peer->frame.code == 0, "a frame of another op");
    if (!framed || !read_all(peer, peer->meta, peer->frame.meta_len) || !read_all(peer, peer->body, (size_t)peer->frame.body_len))
        return false;
    const char *why = "";
    int err = msg_decode(msg_request(op), span_of(peer->meta, peer->frame.meta_len), 65536, &peer->arena, msg, &why);
    want(peer, err == 0, why);
    return err == 0;
}

static void send_meta(struct peer *peer, uint8_t op, uint8_t code, uint64_t id, struct span meta, struct span body)
{
    struct frame frame = {.op = op, .code = code, .id = id, .meta_len = (uint32_t)meta.len, .body_len = body.len};
    uint8_t prefix[FRAME_PREFIX_BYTES];
    frame_encode(prefix, &frame);
    write_all(peer, prefix, sizeof prefix);
    write_all(peer, meta.at, meta.len);
    write_all(peer, body.at, body.len);
}

static void answer(struct peer *peer, uint8_t code, uint64_t id, const void *msg, struct span body)
{
    struct buffer meta;
    buffer_init(&meta);
    msg_encode(code < CODE_BAD_REQUEST ? msg_reply(peer->frame.op) : &msg_failure, msg, &meta);
    send_meta(peer, peer->frame.op, code, id, span_of(meta.at, meta.len), body);
    buffer_fini(&meta);
}

static const struct span no_body = {NULL, 0};

static void answer_ok(struct peer *peer, const void *msg)
{
    answer(peer, CODE_OK, peer->frame.id, msg, no_body);
}

static void answer_failure(struct peer *peer, uint8_t code, uint64_t id, const char *text, uint64_t retry_ms)
{
    struct msg_failure_reply failure = {.has = 1u << F_FAIL_MESSAGE, .message = span_text(text), .retry_after_ms = retry_ms};
    failure.has |= retry_ms ? 1u << F_FAIL_RETRY : 0;
    answer(peer, code, id, &failure, no_body);
}

static struct msg_get_reply got_of(struct span value)
{
    struct msg_get_reply got = {.has = 1u << F_GETR_SIZE | 1u << F_GETR_VERSION | 1u << F_GETR_TIER | 1u << F_GETR_CHECKSUM};
    got.size = value.len;
    got.version = 5;
    got.tier = span_text("disk");
    got.checksum = XXH3_64bits(value.at, value.len);
    return got;
}

static void answer_value(struct peer *peer, struct span value)
{
    struct msg_get_reply got = got_of(value);
    answer(peer, CODE_OK, peer->frame.id, &got, value);
}

static void hello_with(struct peer *peer, struct msg_limits limits)
{
    struct msg_hello hello;
    if (!take(peer, OP_HELLO, &hello))
        return;
    want(peer, hello.versions.count == 1 && hello.versions.at[0] == 1, "versions");
    struct buffer raw;
    buffer_init(&raw);
    limits.has = 31;
    msg_encode(&msg_limits_part, &limits, &raw);
    struct msg_hello_reply reply = {.has = 1u << F_HELLOR_VERSION | 1u << F_HELLOR_SERVER | 1u << F_HELLOR_NODE | 1u << F_HELLOR_LIMITS};
    reply.version = 1;
    reply.server = span_text("fake 1");
    reply.node = span_text("here");
    reply.limits = span_of(raw.at, raw.len);
    answer_ok(peer, &reply);
    buffer_fini(&raw);
}

static const struct msg_limits plain_limits = {
    .key_bytes = 1024, .value_bytes = MAX_BODY, .batch_keys = 4096, .meta_bytes = MAX_META, .inflight_bytes = 64 << 20};

static void hello(struct peer *peer)
{
    hello_with(peer, plain_limits);
}

/* Read until the client closes. */
static void drain(struct peer *peer)
{
    while (recv(peer->fd, peer->body, MAX_BODY, 0) > 0)
        ;
}

static void *fake_run(void *arg)
{
    struct fake *fake = arg;
    for (size_t i = 0; i < fake->count; i++) {
        fake->peer.fd = accept(fake->listener, NULL, NULL);
        if (fake->peer.fd < 0)
            break;
        fake->scripts[i](&fake->peer);
        close(fake->peer.fd);
    }
    return NULL;
}

static void fake_start_with(struct fake *fake, size_t count, const script_fn *scripts, void *(*run)(void *))
{
    *fake = (struct fake){.count = count, .peer = {.good = true}};
    for (size_t i = 0; i < count; i++)
        fake->scripts[i] = scripts[i];
    arena_init(&fake->peer.arena);
    fake->peer.meta = malloc(MAX_META);
    fake->peer.body = malloc(MAX_BODY);
    fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    cr_assert_eq(bind(fake->listener, (struct sockaddr *)&at, sizeof at), 0);
    cr_assert_eq(listen(fake->listener, 4), 0);
    cr_assert_eq(getsockname(fake->listener, (struct sockaddr *)&at, &len), 0);
    snprintf(fake->address, sizeof fake->address, "127.0.0.1:%u", ntohs(at.sin_port));
    cr_assert_eq(pthread_create(&fake->thread, NULL, run, fake), 0);
}

#define FAKE_START(fake, ...) \
    fake_start_with(fake, sizeof((script_fn[]){__VA_ARGS__}) / sizeof(script_fn), (script_fn[]){__VA_ARGS__}, fake_run)

/* Joins the thread: the handle must be closed before, so that no script waits for ever. */
static void fake_stop(struct fake *fake)
{
    shutdown(fake->listener, SHUT_RDWR);
    pthread_join(fake->thread, NULL);
    close(fake->listener);
    arena_fini(&fake->peer.arena);
    free(fake->peer.meta);
    free(fake->peer.body);
    cr_assert(fake->peer.good, "see stderr");
}

static struct kvd *client(const struct fake *fake, uint64_t timeout_ms)
{
    struct kvd_options options = {.address = fake->address, .timeout_ms = timeout_ms, .client = "test"};
    struct kvd *kvd = NULL;
    char message[128] = "";
    cr_assert_eq(kvd_connect(&kvd, &options, message, sizeof message), KVD_OK, "%s", message);
    return kvd;
}

static struct kvd_key key_of(const char *text)
{
    return (struct kvd_key){text, strlen(text)};
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- connecting ---- */

TestSuite(libkvd, .timeout = 60);

static void only_hello(struct peer *peer)
{
    hello(peer);
    drain(peer);
}

Test(libkvd, connects_and_knows_the_server)
{
    struct fake fake;
    FAKE_START(&fake, only_hello);
    struct kvd *kvd = client(&fake, 1000);
    const struct kvd_server *server = kvd_server(kvd);
    cr_assert_str_eq(server->server, "fake 1");
    cr_assert_str_eq(server->node, "here");
    cr_assert_eq(server->batch_keys, 4096);
    cr_assert_eq(server->value_bytes, (uint64_t)MAX_BODY);
    kvd_close(kvd);
    kvd_close(NULL);
    fake_stop(&fake);
}

static int connect_result(const char *address, uint64_t connect_ms, char message[128])
{
    struct kvd_options options = {.address = address, .connect_ms = connect_ms};
    struct kvd *kvd = NULL;
    int result = kvd_connect(&kvd, &options, message, 128);
    cr_assert_null(kvd, "*out is set on success only");
    return result;
}

static void wants_a_token(struct peer *peer)
{
    struct msg_hello request;
    struct msg_hello_reply reply = {.has = 1u << F_HELLOR_VERSION | 1u << F_HELLOR_AUTHENTICATED, .version = 1};
    if (take(peer, OP_HELLO, &request))
        answer_ok(peer, &reply);
    drain(peer);
}

static void speaks_version_2(struct peer *peer)
{
    struct msg_hello request;
    struct msg_hello_reply reply = {.has = 1u << F_HELLOR_VERSION, .version = 2};
    if (take(peer, OP_HELLO, &request))
        answer_ok(peer, &reply);
    drain(peer);
}

Test(libkvd, connect_fails_clearly)
{
    char message[128] = "";
    cr_assert_eq(connect_result("nowhere", 100, message), KVD_ERR_USAGE);
    cr_assert_eq(connect_result("127.0.0.1:99999", 100, message), KVD_ERR_USAGE);
    struct fake fake;
    FAKE_START(&fake, wants_a_token, speaks_version_2, drain);
    cr_assert_eq(connect_result(fake.address, 1000, message), KVD_ERR_DENIED);
    cr_assert(strstr(message, "token file"), "%s", message);
    cr_assert_eq(connect_result(fake.address, 1000, message), KVD_ERR_PROTOCOL);
    cr_assert_eq(connect_result(fake.address, 100, message), KVD_ERR_TIMEOUT);
    char address[32];
    memcpy(address, fake.address, sizeof address);
    fake_stop(&fake);
    cr_assert_eq(connect_result(address, 1000, message), KVD_ERR_NETWORK);
    cr_assert_neq(*message, 0);
}

/* ---- tokens ---- */

static const uint8_t nonces[2][NONCE_BYTES] = {{1}, {2}};

/* Challenge, and look at what is shown; `token` NULL: whatever it is, it is refused. */
static void challenge(struct peer *peer, const uint8_t *nonce, const char *token, const char *name)
{
    struct msg_hello request;
    struct msg_hello_reply reply = {.has = 1u << F_HELLOR_VERSION | 1u << F_HELLOR_NONCE | 1u << F_HELLOR_AUTHENTICATED, .version = 1};
    struct msg_auth auth;
    uint8_t mac[MAC_BYTES];
    reply.nonce = span_of(nonce, NONCE_BYTES);
    if (!take(peer, OP_HELLO, &request))
        return;
    answer_ok(peer, &reply);
    if (!take(peer, OP_AUTH, &auth))
        return;
    if (!token) {
        answer_failure(peer, CODE_DENIED, peer->frame.id, "no", 0);
        drain(peer);
        return;
    }
    want(peer, mac_of(mac, span_text(token), MAC_CLIENT, span_of(nonce, NONCE_BYTES)) == 0 && span_equal(auth.mac, span_of(mac, MAC_BYTES)),
         "mac");
    want(peer, MSG_HAS(&auth, F_AUTH_NAME) == (name != NULL) && span_equal(auth.name, span_text(name ? name : "")), "name");
    struct span right = span_text("read");
    answer_ok(peer, &(struct msg_auth_reply){.has = 1u << F_AUTHR_RIGHTS, .rights = {&right, 1}});
}

static void one_ping(struct peer *peer)
{
    struct msg_plain ping;
    if (take(peer, OP_PING, &ping))
        answer_ok(peer, &(struct msg_empty){.has = 0});
}

static void first_token(struct peer *peer)
{
    challenge(peer, nonces[0], "the-first-token-there-was", "first");
    one_ping(peer);
}

static void second_token(struct peer *peer)
{
    challenge(peer, nonces[1], "the-second-token-there-was", NULL);
    one_ping(peer);
    drain(peer);
}

static void refuses_tokens(struct peer *peer)
{
    challenge(peer, nonces[0], NULL, NULL);
}

static void bad_nonce(struct peer *peer)
{
    struct msg_hello request;
    struct msg_hello_reply reply = {.has = 1u << F_HELLOR_VERSION | 1u << F_HELLOR_NONCE | 1u << F_HELLOR_AUTHENTICATED, .version = 1};
    reply.nonce = span_of(nonces[0], NONCE_BYTES - 1);
    if (take(peer, OP_HELLO, &request))
        answer_ok(peer, &reply);
    drain(peer);
}

static void write_token(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    cr_assert_not_null(file);
    cr_assert_eq(fputs(text, file) < 0 || fchmod(fileno(file), 0600) != 0 || fclose(file) != 0, false);
}

Test(libkvd, shows_its_token_on_each_connection_as_the_file_then_is)
{
    struct fake fake;
    char path[256], message[256] = "";
    struct kvd *kvd = NULL;
    close(scratch_file(path, sizeof path));
    FAKE_START(&fake, first_token, second_token, refuses_tokens, bad_nonce);
    struct kvd_options options = {.address = fake.address, .timeout_ms = 5000, .token_file = path};
    write_token(path, "first read,write the-first-token-there-was\n");
    cr_assert_eq(kvd_connect(&kvd, &options, message, sizeof message), KVD_OK, "%s", message);
    cr_assert_eq(kvd_ping(kvd), KVD_OK);
    /* The server hangs up; by the next call the operator has put another token there. */
    write_token(path, "the-second-token-there-was\n");
    int result = kvd_ping(kvd);
    if (result == KVD_ERR_NETWORK) /* the end had not come yet */
        result = kvd_ping(kvd);
    cr_assert_eq(result, KVD_OK, "%s", kvd_message(kvd));
    kvd_close(kvd);
    cr_assert_eq(kvd_connect(&kvd, &options, message, sizeof message), KVD_ERR_DENIED);
    cr_assert(strstr(message, "does not take the token"), "%s", message);
    cr_assert_eq(kvd_connect(&kvd, &options, message, sizeof message), KVD_ERR_PROTOCOL);
    fake_stop(&fake);
    unlink(path);
}

/* ---- put ---- */

static void two_puts(struct peer *peer)
{
    hello(peer);
    struct msg_put put;
    struct msg_put_reply reply = {.has = 1, .version = 41};
    if (!take(peer, OP_PUT, &put))
        return;
    uint32_t all = 1u << F_TIMEOUT | 1u << F_PUT_KEY | 1u << F_PUT_REPLACE | 1u << F_PUT_ACK | 1u << F_PUT_PIN | 1u << F_PUT_CHECKSUM;
    want(peer, put.has == all && put.replace && put.pin && span_equal(put.ack, span_text("disk")), "flags");
    want(peer, put.timeout_ms >= 1 && put.timeout_ms <= 2000, "timeout");
    want(peer, span_equal(put.key, span_text("key")) && span_equal(span_of(peer->body, 5), span_text("value")), "key or value");
    want(peer, put.checksum == XXH3_64bits("value", 5), "checksum");
    answer_ok(peer, &reply);
    if (!take(peer, OP_PUT, &put))
        return;
    want(peer, put.has == (1u << F_TIMEOUT | 1u << F_PUT_KEY) && peer->frame.body_len == 0, "nothing but the key");
    answer(peer, CODE_PRESENT, peer->frame.id, &reply, no_body);
    drain(peer);
}

Test(libkvd, put)
{
    struct fake fake;
    FAKE_START(&fake, two_puts);
    struct kvd *kvd = client(&fake, 2000);
    uint64_t version = 0;
    cr_assert_eq(kvd_put(kvd, key_of("key"), "value", 5, KVD_PUT_REPLACE | KVD_PUT_ACK_DISK | KVD_PUT_PIN, &version), KVD_OK);
    cr_assert_eq(version, 41);
    cr_assert_eq(kvd_put(kvd, key_of("key"), NULL, 0, KVD_PUT_NO_CHECKSUM, NULL), KVD_PRESENT);
    kvd_close(kvd);
    fake_stop(&fake);
}

static void busy_then_ok(struct peer *peer)
{
    hello(peer);
    struct msg_put put;
    struct msg_put_reply reply = {.has = 1, .version = 9};
    for (int i = 0; i < 3; i++) {
        if (!take(peer, OP_PUT, &put))
            return;
        want(peer, peer->frame.body_len == 5, "the value comes each time");
        if (i < 2)
            answer_failure(peer, CODE_BUSY, peer->frame.id, "later", 30);
        else
            answer_ok(peer, &reply);
    }
    drain(peer);
}

Test(libkvd, busy_is_asked_again)
{
    struct fake fake;
    FAKE_START(&fake, busy_then_ok);
    struct kvd *kvd = client(&fake, 5000);
    uint64_t start = now_ms();
    cr_assert_eq(kvd_put(kvd, key_of("key"), "value", 5, 0, NULL), KVD_OK);
    cr_assert_geq(now_ms() - start, 59);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* The second time is later than the client has. */
static void busy_for_long(struct peer *peer)
{
    hello(peer);
    struct msg_put put;
    if (!take(peer, OP_PUT, &put))
        return;
    answer_failure(peer, CODE_BUSY, peer->frame.id, "later", 1);
    if (!take(peer, OP_PUT, &put))
        return;
    answer_failure(peer, CODE_BUSY, peer->frame.id, "no room", 60000);
    drain(peer);
}

Test(libkvd, busy_up_to_the_deadline)
{
    struct fake fake;
    FAKE_START(&fake, busy_for_long);
    struct kvd *kvd = client(&fake, 30000);
    cr_assert_eq(kvd_put(kvd, key_of("key"), "value", 5, 0, NULL), KVD_ERR_BUSY);
    cr_assert_str_eq(kvd_message(kvd), "no room");
    kvd_close(kvd);
    fake_stop(&fake);
}

enum { PUTS = 8 };

/* All are read before any is answered, the last first; the fourth is BUSY and comes once more. */
static void puts_backwards(struct peer *peer)
{
    hello(peer);
    struct msg_put put;
    uint64_t ids[PUTS];
    for (int i = 0; i < PUTS; i++) {
        if (!take(peer, OP_PUT, &put))
            return;
        want(peer, put.key.len == 1 && put.key.at[0] == 'a' + i, "in order");
        ids[i] = peer->frame.id;
    }
    for (int i = PUTS - 1; i >= 0; i--) {
        struct msg_put_reply reply = {.has = 1, .version = 100 + (uint64_t)i};
        if (i == 3)
            answer_failure(peer, CODE_BUSY, ids[i], "later", 1);
        else if (i == 5)
            answer_failure(peer, CODE_NO_SPACE, ids[i], "never", 0);
        else
            answer(peer, i == 2 ? CODE_PRESENT : CODE_OK, ids[i], &reply, no_body);
    }
    struct msg_put_reply reply = {.has = 1, .version = 200};
    if (!take(peer, OP_PUT, &put))
        return;
    want(peer, put.key.at[0] == 'd' && peer->frame.body_len == 3, "the one that was BUSY, whole");
    answer_ok(peer, &reply);
    drain(peer);
}

Test(libkvd, mput_takes_answers_in_any_order)
{
    struct fake fake;
    FAKE_START(&fake, puts_backwards);
    struct kvd *kvd = client(&fake, 5000);
    struct kvd_item items[PUTS] = {0};
    static const char keys[] = "abcdefgh";
    for (size_t i = 0; i < PUTS; i++)
        items[i] = (struct kvd_item){.key = {keys + i, 1}, .value = "a value", .len = i};
    cr_assert_eq(kvd_mput(kvd, items, PUTS, 0), KVD_OK);
    for (size_t i = 0; i < PUTS; i++) {
        int wanted = i == 5 ? KVD_ERR_NO_SPACE : i == 2 ? KVD_PRESENT : KVD_OK;
        cr_assert_eq(items[i].result, wanted, "%zu: %d", i, items[i].result);
        cr_assert_eq(items[i].version, i == 5 ? 0 : i == 3 ? 200 : 100 + i);
    }
    kvd_close(kvd);
    fake_stop(&fake);
}

static void two_answers_then_gone(struct peer *peer)
{
    hello(peer);
    struct msg_put put;
    struct msg_put_reply reply = {.has = 1, .version = 1};
    for (int i = 0; i < 2; i++)
        if (take(peer, OP_PUT, &put))
            answer_ok(peer, &reply);
}

Test(libkvd, mput_cut_off)
{
    struct fake fake;
    FAKE_START(&fake, two_answers_then_gone);
    struct kvd *kvd = client(&fake, 5000);
    struct kvd_item items[4];
    for (size_t i = 0; i < 4; i++)
        items[i] = (struct kvd_item){.key = key_of("k"), .value = "v", .len = 1};
    cr_assert_eq(kvd_mput(kvd, items, 4, 0), KVD_ERR_NETWORK);
    cr_assert_eq(items[2].result, KVD_ERR_NETWORK);
    cr_assert_eq(items[3].result, KVD_ERR_NETWORK);
    kvd_close(kvd);
    fake_stop(&fake);
}

enum { FLOOD = 400, FLOOD_VALUE = 65536, FLOOD_MESSAGE = 120000 };

/* Reads a put, writes a long answer, and so on: whoever sends everything before it reads waits for ever. */
static void long_answers(struct peer *peer)
{
    hello(peer);
    char *text = malloc(FLOOD_MESSAGE + 1);
    memset(text, 'x', FLOOD_MESSAGE);
    text[FLOOD_MESSAGE] = 0;
    struct msg_put put;
    for (int i = 0; i < FLOOD && take(peer, OP_PUT, &put); i++)
        answer_failure(peer, CODE_INTERNAL, peer->frame.id, text, 0);
    free(text);
    drain(peer);
}

Test(libkvd, reads_while_it_sends)
{
    struct fake fake;
    FAKE_START(&fake, long_answers);
    struct kvd *kvd = client(&fake, 20000);
    static uint8_t value[FLOOD_VALUE];
    struct kvd_item *items = calloc(FLOOD, sizeof *items);
    for (size_t i = 0; i < FLOOD; i++)
        items[i] = (struct kvd_item){.key = key_of("k"), .value = value, .len = sizeof value};
    cr_assert_eq(kvd_mput(kvd, items, FLOOD, 0), KVD_OK, "%s", kvd_message(kvd));
    for (size_t i = 0; i < FLOOD; i++)
        cr_assert_eq(items[i].result, KVD_ERR_INTERNAL);
    free(items);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* Answers before it has read the body: the rest of it must come all the same, or the next frame is lost. */
static void answers_early(struct peer *peer)
{
    hello(peer);
    uint8_t prefix[FRAME_PREFIX_BYTES];
    struct frame *frame = &peer->frame;
    if (!read_all(peer, prefix, sizeof prefix) || frame_decode(prefix, frame))
        return;
    answer_failure(peer, CODE_TOO_LARGE, frame->id, "too large", 0);
    size_t left = (size_t)frame->body_len;
    if (!read_all(peer, peer->meta, frame->meta_len))
        return;
    while (left > 0) {
        size_t part = left < MAX_BODY ? left : MAX_BODY;
        if (!read_all(peer, peer->body, part))
            return;
        left -= part;
        want(peer, peer->body[part - 1] == 0, "bytes that are no longer the caller's");
    }
    struct msg_plain ping;
    struct msg_empty reply = {0};
    if (take(peer, OP_PING, &ping))
        answer_ok(peer, &reply);
    drain(peer);
}

Test(libkvd, an_answer_before_the_body_is_sent)
{
    struct fake fake;
    FAKE_START(&fake, answers_early);
    struct kvd *kvd = client(&fake, 5000);
    size_t len = 32 << 20;
    uint8_t *value = calloc(1, len);
    cr_assert_eq(kvd_put(kvd, key_of("k"), value, len, 0, NULL), KVD_ERR_TOO_LARGE);
    memset(value, 0xee, len); /* it is the caller's again */
    cr_assert_eq(kvd_ping(kvd), KVD_OK);
    free(value);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* ---- get ---- */

static void three_gets(struct peer *peer)
{
    hello(peer);
    struct msg_get get;
    if (!take(peer, OP_GET, &get))
        return;
    want(peer, get.has == (1u << F_TIMEOUT | 1u << F_GET_KEY | 1u << F_GET_LENGTH) && get.length == 16, "a plain get");
    answer_value(peer, span_text("the value"));
    if (!take(peer, OP_GET, &get))
        return;
    want(peer, !MSG_HAS(&get, F_GET_LENGTH), "all of it");
    answer_value(peer, span_text(""));
    struct msg_get_reply miss = {.has = 1u << F_GETR_REASON, .reason = span_text("a torn tail")};
    if (take(peer, OP_GET, &get))
        answer(peer, CODE_NOT_FOUND, peer->frame.id, &miss, no_body);
    drain(peer);
}

Test(libkvd, get)
{
    struct fake fake;
    FAKE_START(&fake, three_gets);
    struct kvd *kvd = client(&fake, 2000);
    char buffer[16] = "";
    size_t len = 99;
    char tier = 0;
    cr_assert_eq(kvd_get(kvd, key_of("k"), buffer, sizeof buffer, &len, &tier), KVD_OK, "%s", kvd_message(kvd));
    cr_assert_eq(len, 9);
    cr_assert_eq(memcmp(buffer, "the value", 10), 0, "and nothing behind it");
    cr_assert_eq(tier, 'd');
    void *value = NULL;
    cr_assert_eq(kvd_get_alloc(kvd, key_of("k"), &value, &len, NULL), KVD_OK);
    cr_assert_not_null(value);
    cr_assert_eq(len, 0);
    free(value);
    cr_assert_eq(kvd_get(kvd, key_of("k"), buffer, sizeof buffer, &len, &tier), KVD_MISS);
    cr_assert_str_eq(kvd_message(kvd), "a torn tail");
    kvd_close(kvd);
    fake_stop(&fake);
}

static void bad_values(struct peer *peer)
{
    hello(peer);
    struct msg_get get;
    struct msg_get_reply got = got_of(span_text("the value"));
    if (take(peer, OP_GET, &get))
        answer(peer, CODE_OK, peer->frame.id, &got, span_text("tha value"));
    if (take(peer, OP_GET, &get)) {
        want(peer, get.length == 4, "no more than fits");
        answer(peer, CODE_OK, peer->frame.id, &got, span_text("the "));
    }
    got.has |= 1u << F_GETR_BODY_CHECKSUM;
    got.body_checksum = XXH3_64bits("val", 3);
    if (take(peer, OP_GET, &get)) {
        want(peer, get.offset == 4 && get.length == 3 && get.body_checksum, "a range");
        answer(peer, CODE_OK, peer->frame.id, &got, span_text("val"));
    }
    if (take(peer, OP_GET, &get))
        answer(peer, CODE_OK, peer->frame.id, &got, span_text("vax"));
    if (take(peer, OP_GET, &get))
        answer(peer, CODE_OK, peer->frame.id, &got, span_text("ue"));
    drain(peer);
}

Test(libkvd, get_judges_what_comes)
{
    struct fake fake;
    FAKE_START(&fake, bad_values, only_hello);
    struct kvd *kvd = client(&fake, 2000);
    char buffer[16] = "...............";
    size_t len = 99;
    cr_assert_eq(kvd_get(kvd, key_of("k"), buffer, sizeof buffer, &len, NULL), KVD_ERR_CORRUPT);
    cr_assert_eq(len, 99);
    memset(buffer, '.', sizeof buffer);
    cr_assert_eq(kvd_get(kvd, key_of("k"), buffer, 4, &len, NULL), KVD_ERR_BUFFER);
    cr_assert_eq(len, 9);
    cr_assert_eq(buffer[0], '.', "nothing is read");
    cr_assert_eq(kvd_get_range(kvd, key_of("k"), 4, 3, buffer, &len), KVD_OK);
    cr_assert_eq(len, 3);
    cr_assert_eq(memcmp(buffer, "val.", 4), 0);
    cr_assert_eq(kvd_get_range(kvd, key_of("k"), 4, 3, buffer, &len), KVD_ERR_CORRUPT);
    cr_assert_eq(kvd_get_range(kvd, key_of("k"), 7, 10, buffer, &len), KVD_ERR_CORRUPT);
    kvd_close(kvd);
    fake_stop(&fake);
}

static void longer_than_asked_for(struct peer *peer)
{
    hello(peer);
    struct msg_get get;
    struct msg_get_reply got = got_of(span_text("four"));
    if (take(peer, OP_GET, &get))
        answer(peer, CODE_OK, peer->frame.id, &got, span_text("four and many more bytes than the buffer has"));
    drain(peer);
}

Test(libkvd, a_body_longer_than_the_buffer_is_not_written)
{
    struct fake fake;
    FAKE_START(&fake, longer_than_asked_for);
    struct kvd *kvd = client(&fake, 2000);
    char *buffer = malloc(4);
    size_t len = 0;
    cr_assert_eq(kvd_get(kvd, key_of("k"), buffer, 4, &len, NULL), KVD_ERR_PROTOCOL);
    free(buffer);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* ---- mget ---- */

enum { GETS = 6 };

static void answer_item(struct peer *peer, uint64_t index, struct span value, bool flip)
{
    struct msg_get_reply got = got_of(value);
    got.has |= 1u << F_GETR_INDEX;
    got.index = index;
    got.checksum ^= flip;
    answer(peer, CODE_OK, peer->frame.id, &got, value);
}

static void answer_hits(struct peer *peer, uint64_t hits)
{
    struct msg_get_reply last = {.has = 1u << F_GETR_HITS, .hits = hits};
    answer_ok(peer, &last);
}

static void answer_item_code(struct peer *peer, uint8_t code, uint64_t index, uint64_t retry_ms)
{
    struct msg_get_reply got = {
        .has = 1u << F_GETR_INDEX | (retry_ms ? 1u << F_GETR_RETRY : 0), .index = index, .retry_after_ms = retry_ms};
    struct buffer meta;
    buffer_init(&meta);
    msg_encode(msg_reply(OP_MGET), &got, &meta);
    send_meta(peer, OP_MGET, code, peer->frame.id, span_of(meta.at, meta.len), no_body);
    buffer_fini(&meta);
}

static void gets_in_any_order(struct peer *peer)
{
    hello(peer);
    struct msg_mget mget;
    if (!take(peer, OP_MGET, &mget))
        return;
    want(peer, mget.keys.count == GETS && span_equal(mget.keys.at[5], span_text("f")), "all keys");
    answer_item(peer, 5, span_text("five"), false);
    answer_item_code(peer, CODE_NOT_FOUND, 1, 0);
    answer_item_code(peer, CODE_BUSY, 4, 1);
    answer_item(peer, 0, span_text("zero"), false);
    answer_item(peer, 3, span_text("three"), true);
    answer_item(peer, 2, span_text("more than its buffer has"), false);
    answer_hits(peer, 4);
    if (!take(peer, OP_MGET, &mget))
        return;
    want(peer, mget.keys.count == 1 && span_equal(mget.keys.at[0], span_text("e")), "the one that was BUSY");
    answer_item(peer, 0, span_text("four"), false);
    answer_hits(peer, 1);
    struct msg_plain ping;
    struct msg_empty reply = {0};
    if (take(peer, OP_PING, &ping))
        answer_ok(peer, &reply);
    drain(peer);
}

static void gets_of(struct kvd_item *items, char (*buffers)[8], size_t count)
{
    static const char keys[] = "abcdefghijklmnop";
    for (size_t i = 0; i < count; i++) {
        memset(buffers[i], 0, 8);
        items[i] = (struct kvd_item){.key = {keys + i, 1}, .buffer = buffers[i], .capacity = 8};
    }
}

Test(libkvd, mget_takes_answers_in_any_order)
{
    struct fake fake;
    FAKE_START(&fake, gets_in_any_order);
    struct kvd *kvd = client(&fake, 5000);
    struct kvd_item items[GETS];
    char buffers[GETS][8];
    gets_of(items, buffers, GETS);
    uint64_t first_byte_us = 0;
    cr_assert_eq(kvd_mget(kvd, items, GETS, &first_byte_us), KVD_OK, "%s", kvd_message(kvd));
    cr_assert_gt(first_byte_us, 0);
    cr_assert_lt(first_byte_us, 5000000);
    static const int wanted[GETS] = {KVD_OK, KVD_MISS, KVD_ERR_BUFFER, KVD_ERR_CORRUPT, KVD_OK, KVD_OK};
    for (size_t i = 0; i < GETS; i++)
        cr_assert_eq(items[i].result, wanted[i], "%zu: %d", i, items[i].result);
    cr_assert_str_eq(buffers[0], "zero");
    cr_assert_str_eq(buffers[4], "four");
    cr_assert_str_eq(buffers[5], "five");
    cr_assert_eq(buffers[2][0], 0, "nothing is read where it does not fit");
    cr_assert_eq(items[2].len, strlen("more than its buffer has"));
    cr_assert_eq(items[1].len, 0);
    cr_assert_eq(items[0].tier, 'd');
    cr_assert_eq(kvd_ping(kvd), KVD_OK, "on the same connection");
    kvd_close(kvd);
    fake_stop(&fake);
}

/* With two keys a batch, several MGETs are under way; one is BUSY as a whole, one fails as a whole. */
static void small_batches(struct peer *peer)
{
    struct msg_limits limits = plain_limits;
    limits.batch_keys = 2;
    hello_with(peer, limits);
    struct msg_mget mget;
    uint64_t busy = 0;
    for (int i = 0; i < 3; i++) {
        if (!take(peer, OP_MGET, &mget))
            return;
        want(peer, mget.keys.count == 2, "two keys");
        if (i == 0) {
            busy = peer->frame.id;
            answer_item(peer, 1, span_text("b"), false);
        } else if (i == 1) {
            answer_failure(peer, CODE_INTERNAL, peer->frame.id, "broken", 0);
        } else {
            answer_item(peer, 0, span_text("e"), false);
            answer_item(peer, 1, span_text("f"), false);
            answer_hits(peer, 2);
        }
    }
    answer_failure(peer, CODE_BUSY, busy, "later", 1);
    if (!take(peer, OP_MGET, &mget))
        return;
    want(peer, mget.keys.count == 1 && span_equal(mget.keys.at[0], span_text("a")), "the one without an answer");
    answer_item(peer, 0, span_text("a"), false);
    answer_hits(peer, 1);
    drain(peer);
}

Test(libkvd, mget_in_several_batches)
{
    struct fake fake;
    FAKE_START(&fake, small_batches);
    struct kvd *kvd = client(&fake, 5000);
    struct kvd_item items[GETS];
    char buffers[GETS][8];
    gets_of(items, buffers, GETS);
    cr_assert_eq(kvd_mget(kvd, items, GETS, NULL), KVD_OK, "%s", kvd_message(kvd));
    static const int wanted[GETS] = {KVD_OK, KVD_OK, KVD_ERR_INTERNAL, KVD_ERR_INTERNAL, KVD_OK, KVD_OK};
    for (size_t i = 0; i < GETS; i++) {
        cr_assert_eq(items[i].result, wanted[i], "%zu: %d", i, items[i].result);
        if (wanted[i] == KVD_OK)
            cr_assert(buffers[i][0] == 'a' + (int)i && items[i].len == 1);
    }
    kvd_close(kvd);
    fake_stop(&fake);
}

/* All items have their answers before one of the MGETs has its last frame, which belongs to this call all the same. */
static void last_frames_late(struct peer *peer)
{
    struct msg_limits limits = plain_limits;
    limits.batch_keys = 1;
    hello_with(peer, limits);
    struct msg_mget mget;
    if (!take(peer, OP_MGET, &mget))
        return;
    uint64_t first = peer->frame.id;
    if (!take(peer, OP_MGET, &mget))
        return;
    uint64_t second = peer->frame.id;
    answer_item(peer, 0, span_text("b"), false);
    peer->frame.id = first;
    answer_item(peer, 0, span_text("a"), false);
    answer_hits(peer, 1);
    peer->frame.id = second;
    answer_hits(peer, 1);
    struct msg_plain ping;
    struct msg_empty reply = {0};
    if (take(peer, OP_PING, &ping))
        answer_ok(peer, &reply);
    drain(peer);
}

Test(libkvd, mget_waits_for_every_last_frame)
{
    struct fake fake;
    FAKE_START(&fake, last_frames_late);
    struct kvd *kvd = client(&fake, 2000);
    struct kvd_item items[2];
    char buffers[2][8];
    gets_of(items, buffers, 2);
    cr_assert_eq(kvd_mget(kvd, items, 2, NULL), KVD_OK, "%s", kvd_message(kvd));
    cr_assert_str_eq(buffers[0], "a");
    cr_assert_str_eq(buffers[1], "b");
    cr_assert_eq(kvd_ping(kvd), KVD_OK, "%s", kvd_message(kvd));
    kvd_close(kvd);
    fake_stop(&fake);
}

static void one_item_twice(struct peer *peer)
{
    hello(peer);
    struct msg_mget mget;
    if (take(peer, OP_MGET, &mget)) {
        answer_item(peer, 0, span_text("a"), false);
        answer_item(peer, 0, span_text("a"), false);
    }
    drain(peer);
}

static void index_too_high(struct peer *peer)
{
    hello(peer);
    struct msg_mget mget;
    if (take(peer, OP_MGET, &mget))
        answer_item(peer, 2, span_text("a"), false);
    drain(peer);
}

static void last_too_early(struct peer *peer)
{
    hello(peer);
    struct msg_mget mget;
    if (take(peer, OP_MGET, &mget)) {
        answer_item(peer, 0, span_text("a"), false);
        answer_hits(peer, 1);
    }
    drain(peer);
}

Test(libkvd, mget_refuses_answers_that_cannot_be)
{
    struct fake fake;
    FAKE_START(&fake, one_item_twice, index_too_high, last_too_early);
    struct kvd *kvd = client(&fake, 2000);
    for (int i = 0; i < 3; i++) {
        struct kvd_item items[2];
        char buffers[2][8];
        gets_of(items, buffers, 2);
        cr_assert_eq(kvd_mget(kvd, items, 2, NULL), KVD_ERR_PROTOCOL, "%d", i);
        cr_assert_eq(items[1].result, KVD_ERR_PROTOCOL);
    }
    kvd_close(kvd);
    fake_stop(&fake);
}

/* ---- a connection that fails, and the next ---- */

static void answers_pings(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    struct msg_empty reply = {0};
    while (take(peer, OP_PING, &ping))
        answer_ok(peer, &reply);
}

static void garbage(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    if (take(peer, OP_PING, &ping))
        write_all(peer, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    drain(peer);
}

static void half_a_frame(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    if (take(peer, OP_PING, &ping))
        write_all(peer, "\x95\xcc\x03\xcc\x00\xcf\x00", 7);
}

static void silence(struct peer *peer)
{
    hello(peer);
    drain(peer);
}

static void another_id(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    struct msg_empty reply = {0};
    if (take(peer, OP_PING, &ping))
        answer(peer, CODE_OK, peer->frame.id + 1, &reply, no_body);
    drain(peer);
}

static void long_meta(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    if (take(peer, OP_PING, &ping)) {
        struct frame frame = {.op = OP_PING, .id = peer->frame.id, .meta_len = UINT32_MAX, .body_len = UINT64_MAX};
        uint8_t prefix[FRAME_PREFIX_BYTES];
        frame_encode(prefix, &frame);
        write_all(peer, prefix, sizeof prefix);
    }
    drain(peer);
}

static void last_words(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    if (take(peer, OP_PING, &ping)) {
        peer->frame.op = 0;
        answer_failure(peer, CODE_BAD_REQUEST, 0, "that was no prefix", 0);
    }
}

Test(libkvd, connects_again_after_a_failure)
{
    static const struct {
        script_fn script;
        int result;
    } cases[] = {{garbage, KVD_ERR_PROTOCOL},    {half_a_frame, KVD_ERR_NETWORK}, {silence, KVD_ERR_TIMEOUT},
                 {another_id, KVD_ERR_PROTOCOL}, {long_meta, KVD_ERR_PROTOCOL},   {last_words, KVD_ERR_BAD_REQUEST}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake fake;
        FAKE_START(&fake, cases[i].script, answers_pings);
        struct kvd *kvd = client(&fake, 1000);
        uint64_t start = now_ms();
        cr_assert_eq(kvd_ping(kvd), cases[i].result, "case %zu: %s", i, kvd_message(kvd));
        cr_assert_neq(*kvd_message(kvd), 0);
        cr_assert_leq(now_ms() - start, 4000);
        cr_assert_eq(kvd_ping(kvd), KVD_OK, "case %zu: %s", i, kvd_message(kvd));
        cr_assert_str_eq(kvd_message(kvd), "");
        cr_assert_eq(kvd_ping(kvd), KVD_OK);
        kvd_close(kvd);
        fake_stop(&fake);
    }
}

static void one_ping_then_closes(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    struct msg_empty reply = {0};
    if (take(peer, OP_PING, &ping))
        answer_ok(peer, &reply);
}

/* Between two calls the server goes and comes back; that it has gone is seen by its end of the connection being closed. */
Test(libkvd, a_connection_that_ended_between_calls_is_opened_again)
{
    struct fake fake;
    FAKE_START(&fake, one_ping_then_closes, only_hello, answers_pings);
    struct kvd *kvd = client(&fake, 2000);
    cr_assert_eq(kvd_ping(kvd), KVD_OK);
    kvd_close(client(&fake, 2000)); /* served only after the first connection was closed */
    cr_assert_eq(kvd_ping(kvd), KVD_OK, "%s", kvd_message(kvd));
    kvd_close(kvd);
    fake_stop(&fake);
}

static void codes(struct peer *peer)
{
    hello(peer);
    struct msg_plain ping;
    for (uint8_t code = CODE_BAD_REQUEST; code <= CODE_INTERNAL + 1 && take(peer, OP_PING, &ping); code++)
        if (code != CODE_BUSY)
            answer_failure(peer, code, peer->frame.id, "as scripted", 0);
        else
            answer_failure(peer, code, peer->frame.id, "as scripted", 100000);
    drain(peer);
}

Test(libkvd, every_code_has_its_result)
{
    static const int wanted[] = {KVD_ERR_BAD_REQUEST, KVD_ERR_UNSUPPORTED, KVD_ERR_TOO_LARGE, KVD_ERR_NO_SPACE,
                                 KVD_ERR_BUSY,        KVD_ERR_DENIED,      KVD_ERR_CORRUPT,   KVD_ERR_IO,
                                 KVD_ERR_TIMEOUT,     KVD_ERR_CLOSING,     KVD_ERR_INTERNAL,  KVD_ERR_INTERNAL};
    struct fake fake;
    FAKE_START(&fake, codes);
    struct kvd *kvd = client(&fake, 2000);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        cr_assert_eq(kvd_ping(kvd), wanted[i], "%zu", i);
        cr_assert_str_eq(kvd_message(kvd), "as scripted");
        cr_assert_str_neq(kvd_strerror(wanted[i]), "unknown result");
    }
    cr_assert_str_eq(kvd_strerror(-99), "unknown result");
    cr_assert_str_eq(kvd_strerror(7), "unknown result");
    cr_assert_str_eq(kvd_strerror(KVD_MISS), "not found");
    kvd_close(kvd);
    fake_stop(&fake);
}

/* ---- look-ups and the rest ---- */

static void lookups(struct peer *peer)
{
    struct msg_limits limits = plain_limits;
    limits.batch_keys = 3;
    hello_with(peer, limits);
    struct msg_look look;
    struct msg_exists_reply exists = {.has = 3, .present = span_of("\x01\x00\x03", 3), .count = 2};
    if (take(peer, OP_EXISTS, &look))
        answer_ok(peer, &exists);
    exists.present = span_of("\x02\x04", 2);
    if (take(peer, OP_EXISTS, &look)) {
        want(peer, look.keys.count == 2 && span_equal(look.keys.at[1], span_text("e")), "the rest");
        answer_ok(peer, &exists);
    }
    struct msg_match_reply match = {.has = 7, .count = 2, .memory = 1, .lease = 77};
    if (take(peer, OP_MATCH, &look)) {
        want(peer, MSG_HAS(&look, F_LOOK_LEASE) && look.lease_ms == 1234 && look.warm, "a lease, and warm");
        answer_ok(peer, &match);
    }
    struct msg_release release;
    struct msg_empty empty = {0};
    if (take(peer, OP_RELEASE, &release)) {
        want(peer, release.lease == 77, "the lease");
        answer_ok(peer, &empty);
    }
    struct msg_remove remove;
    struct msg_removed_reply removed = {.has = 1, .removed = 2};
    for (int i = 0; i < 2; i++)
        if (take(peer, OP_REMOVE, &remove))
            answer_ok(peer, &removed);
    struct msg_remove_prefix prefix;
    if (take(peer, OP_REMOVE_PREFIX, &prefix))
        answer_ok(peer, &removed);
    struct msg_plain plain;
    if (take(peer, OP_REMOVE_ALL, &plain))
        answer_ok(peer, &removed);
    struct msg_pin pin;
    struct msg_pin_reply pinned = {.has = 1, .changed = 1};
    if (take(peer, OP_PIN, &pin)) {
        want(peer, pin.pinned && pin.keys.count == 1, "a pin");
        answer_ok(peer, &pinned);
    }
    struct msg_admin admin;
    if (take(peer, OP_ADMIN, &admin)) {
        want(peer, span_equal(admin.action, span_text("sync")), "sync");
        answer_ok(peer, &empty);
    }
    drain(peer);
}

Test(libkvd, lookups_and_removes)
{
    struct fake fake;
    FAKE_START(&fake, lookups);
    struct kvd *kvd = client(&fake, 2000);
    struct kvd_key keys[5] = {{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}, {"e", 1}};
    uint8_t present[5];
    cr_assert_eq(kvd_exists(kvd, keys, 5, present), KVD_OK);
    cr_assert_arr_eq(present, "\x01\x00\x03\x02\x04", 5);
    struct kvd_matched matched;
    cr_assert_eq(kvd_match(kvd, keys, 4, 0, 0, &matched), KVD_ERR_USAGE, "more than a batch");
    cr_assert_eq(kvd_match(kvd, keys, 3, KVD_MATCH_LEASE | KVD_MATCH_WARM, 1234, &matched), KVD_OK);
    cr_assert(matched.count == 2 && matched.memory == 1 && matched.lease == 77);
    cr_assert_eq(kvd_release(kvd, matched.lease), KVD_OK);
    uint64_t count = 0;
    cr_assert_eq(kvd_remove(kvd, keys, 5, &count), KVD_OK);
    cr_assert_eq(count, 4);
    cr_assert_eq(kvd_remove_prefix(kvd, key_of("p"), &count), KVD_OK);
    cr_assert_eq(count, 2);
    cr_assert_eq(kvd_remove_all(kvd, NULL), KVD_OK);
    cr_assert_eq(kvd_pin(kvd, keys, 1, true, &count), KVD_OK);
    cr_assert_eq(count, 1);
    cr_assert_eq(kvd_sync(kvd), KVD_OK);
    kvd_close(kvd);
    fake_stop(&fake);
}

Test(libkvd, arguments_that_make_no_sense)
{
    struct fake fake;
    FAKE_START(&fake, only_hello);
    struct kvd *kvd = client(&fake, 2000);
    static char long_key[1025];
    struct kvd_key bad[] = {{"", 0}, {NULL, 0}, {long_key, sizeof long_key}};
    char buffer[8];
    size_t len;
    struct kvd_stat stat;
    struct kvd_matched matched;
    for (size_t i = 0; i < 3; i++) {
        struct kvd_item item = {.key = bad[i], .buffer = buffer, .capacity = sizeof buffer};
        cr_assert_eq(kvd_put(kvd, bad[i], "v", 1, 0, NULL), KVD_ERR_USAGE);
        cr_assert_eq(kvd_get(kvd, bad[i], buffer, sizeof buffer, &len, NULL), KVD_ERR_USAGE);
        cr_assert_eq(kvd_mget(kvd, &item, 1, NULL), KVD_OK, "nothing is sent");
        cr_assert_eq(item.result, KVD_ERR_USAGE);
        item.result = 0;
        cr_assert_eq(kvd_mput(kvd, &item, 1, 0), KVD_OK, "nothing is sent");
        cr_assert_eq(item.result, KVD_ERR_USAGE);
        cr_assert_eq(kvd_remove(kvd, &bad[i], 1, NULL), KVD_ERR_USAGE);
        cr_assert_eq(kvd_pin(kvd, &bad[i], 1, true, NULL), KVD_ERR_USAGE);
        cr_assert_eq(kvd_match(kvd, &bad[i], 1, 0, 0, &matched), KVD_ERR_USAGE);
        cr_assert_eq(kvd_stat(kvd, bad[i], &stat), KVD_ERR_USAGE);
        cr_assert_eq(kvd_remove_prefix(kvd, bad[i], NULL), KVD_ERR_USAGE);
    }
    cr_assert_eq(kvd_mget(kvd, NULL, 0, NULL), KVD_OK);
    cr_assert_eq(kvd_mput(kvd, NULL, 0, 0), KVD_OK);
    cr_assert_eq(kvd_exists(kvd, NULL, 0, NULL), KVD_OK);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* Two puts, one get, and a look-up with empty keys where the ill-formed ones were. */
static void the_good_ones(struct peer *peer)
{
    hello(peer);
    struct msg_put put;
    struct msg_put_reply stored = {.has = 1, .version = 7};
    for (int i = 0; i < 2; i++) {
        if (!take(peer, OP_PUT, &put))
            return;
        want(peer, span_equal(put.key, span_text(i ? "c" : "a")), "the well-formed keys");
        answer_ok(peer, &stored);
    }
    struct msg_mget mget;
    if (!take(peer, OP_MGET, &mget))
        return;
    want(peer, mget.keys.count == 2 && span_equal(mget.keys.at[1], span_text("c")), "the well-formed keys");
    answer_item(peer, 0, span_text("A"), false);
    answer_item(peer, 1, span_text("C"), false);
    answer_hits(peer, 2);
    struct msg_look look;
    struct msg_exists_reply exists = {.has = 3, .present = span_of("\x01\x00\x02\x00", 4), .count = 2};
    if (!take(peer, OP_EXISTS, &look))
        return;
    want(peer, look.keys.count == 4 && look.keys.at[1].len == 0 && look.keys.at[3].len == 0, "nothing for the others");
    answer_ok(peer, &exists);
    drain(peer);
}

Test(libkvd, an_ill_formed_key_is_its_own_affair)
{
    struct fake fake;
    FAKE_START(&fake, the_good_ones);
    struct kvd *kvd = client(&fake, 2000);
    static char long_key[1025];
    struct kvd_key keys[4] = {{"a", 1}, {"", 0}, {"c", 1}, {long_key, sizeof long_key}};
    struct kvd_item items[5];
    char buffers[4][8] = {0};
    for (size_t i = 0; i < 4; i++)
        items[i] = (struct kvd_item){.key = keys[i], .value = "v", .len = 1, .buffer = buffers[i], .capacity = 8};
    items[4] = (struct kvd_item){.key = keys[0], .value = "v", .len = (size_t)GIB + 1};
    cr_assert_eq(kvd_mput(kvd, items, 5, 0), KVD_OK, "%s", kvd_message(kvd));
    cr_assert(items[0].result == KVD_OK && items[2].result == KVD_OK);
    cr_assert(items[1].result == KVD_ERR_USAGE && items[3].result == KVD_ERR_USAGE);
    cr_assert_eq(items[4].result, KVD_ERR_TOO_LARGE, "it would end the connection");
    cr_assert_eq(items[2].version, 7);
    cr_assert_eq(kvd_mget(kvd, items, 4, NULL), KVD_OK, "%s", kvd_message(kvd));
    cr_assert(items[0].result == KVD_OK && items[2].result == KVD_OK);
    cr_assert(items[1].result == KVD_ERR_USAGE && items[3].result == KVD_ERR_USAGE);
    cr_assert(buffers[0][0] == 'A' && buffers[2][0] == 'C' && buffers[1][0] == 0);
    uint8_t present[4];
    cr_assert_eq(kvd_exists(kvd, keys, 4, present), KVD_OK, "%s", kvd_message(kvd));
    cr_assert_arr_eq(present, "\x01\x00\x02\x00", 4);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* ---- looking inside ---- */

static void pack_object(struct buffer *raw, const char *key, uint64_t size)
{
    struct msg_object object = {.has = 15, .key = span_text(key), .size = size, .memory = true};
    msg_encode(&msg_object_part, &object, raw);
}

static void scan_pages(struct peer *peer)
{
    hello(peer);
    struct msg_scan scan;
    struct buffer raw;
    buffer_init(&raw);
    pack_array(&raw, 2);
    pack_object(&raw, "one", 1);
    pack_object(&raw, "two", 2);
    struct msg_scan_reply reply = {.has = 3, .cursor = span_text("next"), .objects = span_of(raw.at, raw.len)};
    if (take(peer, OP_SCAN, &scan)) {
        want(peer, !MSG_HAS(&scan, F_SCAN_CURSOR) && span_equal(scan.prefix, span_text("p")), "from the start");
        answer_ok(peer, &reply);
    }
    raw.len = 0;
    pack_array(&raw, 1);
    pack_object(&raw, "three", 3);
    reply.cursor.len = 0;
    reply.objects = span_of(raw.at, raw.len);
    if (take(peer, OP_SCAN, &scan)) {
        want(peer, span_equal(scan.cursor, span_text("next")), "from the cursor");
        answer_ok(peer, &reply);
    }
    reply.cursor = span_text("stuck");
    for (int i = 0; i < 2; i++)
        if (take(peer, OP_SCAN, &scan))
            answer_ok(peer, &reply);
    buffer_fini(&raw);
    drain(peer);
}

struct seen {
    char text[256];
    uint64_t sum;
};

static bool scanned(void *arg, const struct kvd_scanned *object)
{
    struct seen *seen = arg;
    strncat(seen->text, object->key.at, object->key.len);
    strcat(seen->text, object->memory && !object->disk ? "," : "!");
    seen->sum += object->size;
    return true;
}

Test(libkvd, scan)
{
    struct fake fake;
    FAKE_START(&fake, scan_pages);
    struct kvd *kvd = client(&fake, 2000);
    struct seen seen = {0};
    cr_assert_eq(kvd_scan(kvd, key_of("p"), scanned, &seen), KVD_OK, "%s", kvd_message(kvd));
    cr_assert_str_eq(seen.text, "one,two,three,");
    cr_assert_eq(seen.sum, 6);
    cr_assert_eq(kvd_scan(kvd, (struct kvd_key){NULL, 0}, scanned, &seen), KVD_ERR_PROTOCOL, "a cursor that does not move");
    kvd_close(kvd);
    fake_stop(&fake);
}

static void figures(struct peer *peer)
{
    hello(peer);
    struct msg_info info;
    struct buffer raw;
    buffer_init(&raw);
    pack_map(&raw, 2);
    pack_text(&raw, "server");
    pack_map(&raw, 5);
    pack_text(&raw, "version");
    pack_text(&raw, "1");
    pack_text(&raw, "uptime_ms");
    pack_u64(&raw, 5);
    pack_text(&raw, "io_uring");
    pack_bool(&raw, true);
    pack_text(&raw, "ratio");
    pack_double(&raw, 0.5);
    pack_text(&raw, "list");
    pack_array(&raw, 0);
    pack_text(&raw, "odd");
    pack_u64(&raw, 1);
    if (take(peer, OP_INFO, &info)) {
        want(peer, span_equal(info.section, span_text("server")), "the section");
        send_meta(peer, OP_INFO, 0, peer->frame.id, span_of(raw.at, raw.len), no_body);
    }
    buffer_fini(&raw);
    struct msg_stat stat;
    struct msg_stat_reply reply = {
        .has = 511, .size = 3, .version = 4, .checksum = 5, .age_ms = 6, .idle_ms = 7, .hits = 8, .pinned = true};
    struct msg_replica replica = {.has = 31, .type = span_text("disk"), .state = span_text("complete"), .node = span_text("n")};
    replica.file = span_text("a/file.seg");
    replica.offset = 4096;
    buffer_init(&raw);
    pack_array(&raw, KVD_MAX_REPLICAS + 2);
    for (int i = 0; i < KVD_MAX_REPLICAS + 2; i++)
        msg_encode(&msg_replica_part, &replica, &raw);
    reply.replicas = span_of(raw.at, raw.len);
    if (take(peer, OP_STAT, &stat))
        answer_ok(peer, &reply);
    buffer_fini(&raw);
    if (take(peer, OP_STAT, &stat))
        send_meta(peer, OP_STAT, CODE_NOT_FOUND, peer->frame.id, no_body, no_body);
    drain(peer);
}

static void figure(void *arg, const char *section, const char *name, uint64_t number, const char *text)
{
    struct seen *seen = arg;
    size_t len = strlen(seen->text);
    snprintf(seen->text + len, sizeof seen->text - len, "%s.%s=%s%s", section, name, text ? text : "", text ? " " : "# ");
    seen->sum += number;
}

Test(libkvd, info_and_stat)
{
    struct fake fake;
    FAKE_START(&fake, figures);
    struct kvd *kvd = client(&fake, 2000);
    struct seen seen = {0};
    cr_assert_eq(kvd_info(kvd, "server", figure, &seen), KVD_OK, "%s", kvd_message(kvd));
    cr_assert_str_eq(seen.text, "server.version=1 server.uptime_ms=# server.io_uring=yes server.ratio=0.5 ");
    cr_assert_eq(seen.sum, 5);
    struct kvd_stat stat;
    cr_assert_eq(kvd_stat(kvd, key_of("k"), &stat), KVD_OK, "%s", kvd_message(kvd));
    cr_assert(stat.size == 3 && stat.version == 4 && stat.checksum == 5 && stat.age_ms == 6 && stat.idle_ms == 7 && stat.hits == 8);
    cr_assert(stat.pinned && !stat.leased);
    cr_assert_eq(stat.replica_count, (unsigned)KVD_MAX_REPLICAS);
    cr_assert(stat.replicas[0].disk && stat.replicas[0].complete && stat.replicas[0].offset == 4096);
    cr_assert_str_eq(stat.replicas[15].file, "a/file.seg");
    cr_assert_str_eq(stat.replicas[15].node, "n");
    cr_assert_eq(kvd_stat(kvd, key_of("k"), &stat), KVD_MISS);
    kvd_close(kvd);
    fake_stop(&fake);
}

/* ---- whatever a server sends ---- */

/* A valid reply to a request of that op. */
static size_t reply_make(uint8_t *out, uint8_t op, uint64_t id)
{
    struct span value = span_text("a value");
    struct msg_get_reply got = got_of(value);
    got.has |= op == OP_MGET ? 1u << F_GETR_INDEX : 0;
    struct buffer meta;
    buffer_init(&meta);
    struct msg_object object = {.has = 15, .key = span_text("k"), .size = 1};
    struct buffer raw;
    buffer_init(&raw);
    pack_array(&raw, 1);
    msg_encode(&msg_object_part, &object, &raw);
    struct msg_scan_reply scan = {.has = 3, .objects = span_of(raw.at, raw.len)};
    if (op == OP_SCAN)
        msg_encode(msg_reply(op), &scan, &meta);
    else if (op == OP_INFO)
        pack_raw(&meta, span_text("\x81\xa6server\x82\xa1"
                                  "a\x01\xa1"
                                  "b\xa1"
                                  "c"));
    else
        msg_encode(msg_reply(op), &got, &meta);
    bool has_body = op == OP_GET || op == OP_MGET;
    struct frame frame = {.op = op, .id = id, .meta_len = (uint32_t)meta.len, .body_len = has_body ? value.len : 0};
    frame_encode(out, &frame);
    memcpy(out + FRAME_PREFIX_BYTES, meta.at, meta.len);
    memcpy(out + FRAME_PREFIX_BYTES + meta.len, value.at, (size_t)frame.body_len);
    size_t len = FRAME_PREFIX_BYTES + meta.len + (size_t)frame.body_len;
    buffer_fini(&meta);
    buffer_fini(&raw);
    return len;
}

enum { ROUNDS = 400 };

/* To the one request of each connection, a valid reply in which one to four bytes are wrong; then the end. */
static void *wrong_bytes_run(void *arg)
{
    struct fake *fake = arg;
    struct peer *peer = &fake->peer;
    for (unsigned round = 0; round < ROUNDS; round++) {
        peer->fd = accept(fake->listener, NULL, NULL);
        if (peer->fd < 0)
            break;
        hello(peer);
        uint8_t prefix[FRAME_PREFIX_BYTES];
        if (read_all(peer, prefix, sizeof prefix) && frame_decode(prefix, &peer->frame) == 0) {
            unsigned seed = round;
            uint8_t reply[512];
            size_t len = reply_make(reply, peer->frame.op, peer->frame.id);
            for (unsigned i = 0; i <= round % 4; i++)
                reply[(unsigned)rand_r(&seed) % len] = (uint8_t)rand_r(&seed);
            write_all(peer, reply, len);
            shutdown(peer->fd, SHUT_WR);
            drain(peer);
        }
        close(peer->fd);
    }
    return NULL;
}

static int any_call(struct kvd *kvd, unsigned round)
{
    char buffer[7];
    size_t len;
    void *value;
    struct seen seen = {0};
    struct kvd_item item = {.key = key_of("k"), .buffer = buffer, .capacity = sizeof buffer};
    int result;
    switch (round % 5) {
    case 0:
        return kvd_get(kvd, key_of("k"), buffer, sizeof buffer, &len, NULL);
    case 1:
        return kvd_mget(kvd, &item, 1, NULL);
    case 2:
        return kvd_info(kvd, NULL, figure, &seen);
    case 3:
        return kvd_scan(kvd, key_of("k"), scanned, &seen);
    default:
        result = kvd_get_alloc(kvd, key_of("k"), &value, &len, NULL);
        if (result == KVD_OK)
            free(value);
        return result;
    }
}

/* Nothing to be wrong about but this: it comes back, in time, with no more than a result. */
Test(libkvd, any_bytes_do_no_harm)
{
    struct fake fake;
    fake_start_with(&fake, 0, NULL, wrong_bytes_run);
    unsigned failed = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct kvd *kvd = client(&fake, 2000);
        int result = any_call(kvd, round);
        cr_assert_str_neq(kvd_strerror(result), "unknown result");
        failed += result != KVD_OK;
        kvd_close(kvd);
    }
    cr_assert_gt(failed, (unsigned)ROUNDS / 2);
    fake_stop(&fake);
}
