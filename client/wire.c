#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "client/kvd_impl.h"

/* Of a connection within this host: more than that leaves the caches before the server reads it (src/loop/conn.c does the same). */
enum { HERE_SEND_BYTES = 256 * 1024 };

uint64_t wire_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

int wire_fail(struct kvd *kvd, int result, const char *text)
{
    return wire_fail_span(kvd, result, span_text(text));
}

int wire_fail_span(struct kvd *kvd, int result, struct span text)
{
    int len = (int)min_u64(text.len, TEXT_BYTES - 1);
    snprintf(kvd->message, sizeof kvd->message, "%.*s", len, text.len ? (const char *)text.at : "");
    return result;
}

static int fail_errno(struct kvd *kvd, const char *what, int err)
{
    snprintf(kvd->message, sizeof kvd->message, "%s: %s", what, error_text(-err));
    return KVD_ERR_NETWORK;
}

/* ---- waiting ---- */

/* poll(2) until an event of `fd` or `until_us`. Returns the events that came, 0 when the time has passed, or -errno. */
static int poll_until(int fd, short events, uint64_t until_us)
{
    struct pollfd entry = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = wire_now_us();
        uint64_t left_us = until_us > now ? until_us - now : 0;
        int timeout_ms = (int)min_u64((left_us + 999) / 1000, 1000000);
        int count = poll(&entry, 1, timeout_ms);
        if (count > 0)
            return entry.revents;
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count == 0 && wire_now_us() >= until_us)
            return 0;
    }
}

void wire_sleep_until(uint64_t us)
{
    poll_until(-1, 0, us);
}

/* ---- connecting ---- */

/* Is the server on this host? Then both ends have the same address. */
static bool server_is_here(int fd, const struct sockaddr *server)
{
    struct sockaddr_storage mine = {0};
    socklen_t len = sizeof mine;
    if (getsockname(fd, (struct sockaddr *)&mine, &len) != 0 || mine.ss_family != server->sa_family)
        return false;
    if (server->sa_family == AF_INET)
        return ((const struct sockaddr_in *)&mine)->sin_addr.s_addr == ((const struct sockaddr_in *)server)->sin_addr.s_addr;
    return server->sa_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)&mine)->sin6_addr, &((const struct sockaddr_in6 *)server)->sin6_addr);
}

/* Where this fails, it is slower. */
static void socket_tune(int fd, const struct sockaddr *server)
{
    int on = 1, send_bytes = HERE_SEND_BYTES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (server_is_here(fd, server))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
}

static int connect_one(struct kvd *kvd, const struct addrinfo *address, uint64_t deadline_us)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail_errno(kvd, "socket", errno);
    int result = KVD_ERR_TIMEOUT;
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        if (errno != EINPROGRESS) {
            result = fail_errno(kvd, "connect", errno);
            goto fail_close;
        }
        int events = poll_until(fd, POLLOUT, deadline_us);
        if (events == 0) {
            wire_fail(kvd, result, "connect: the time has passed");
            goto fail_close;
        }
        int err = 0;
        socklen_t len = sizeof err;
        if (events < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0) {
            result = fail_errno(kvd, "connect", err ? err : errno);
            goto fail_close;
        }
    }
    socket_tune(fd, address->ai_addr);
    kvd->fd = fd;
    return 0;

fail_close:
    close(fd);
    return result;
}

int wire_open(struct kvd *kvd, uint64_t deadline_us)
{
    char port[8];
    snprintf(port, sizeof port, "%u", kvd->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int err = getaddrinfo(kvd->host, port, &hints, &found);
    if (err)
        return wire_fail(kvd, KVD_ERR_NETWORK, gai_strerror(err));
    int result = KVD_ERR_NETWORK;
    for (struct addrinfo *address = found; address && kvd->fd < 0; address = address->ai_next)
        result = connect_one(kvd, address, deadline_us);
    freeaddrinfo(found);
    return kvd->fd >= 0 ? 0 : result;
}

void wire_close(struct kvd *kvd)
{
    if (kvd->fd >= 0)
        close(kvd->fd);
    kvd->fd = -1;
    struct reader *reader = &kvd->reader;
    reader->phase = AT_PREFIX;
    reader->ahead_at = 0;
    reader->ahead_len = 0;
    reader->body = NULL;
    kvd->sender.active = false;
    kvd->sender.broken = false;
    kvd->sender.body = (struct span){NULL, 0};
}

/* ---- sending ---- */

int wire_request(struct kvd *kvd, uint8_t op, uint64_t id, const void *msg, struct span body)
{
    struct sender *sender = &kvd->sender;
    static const uint8_t room[FRAME_PREFIX_BYTES];
    sender->head.len = 0;
    pack_raw(&sender->head, span_of(room, sizeof room));
    if (msg_encode(msg_request(op), msg, &sender->head)) {
        sender->head.failed = false;
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a request");
    }
    struct frame frame = {.op = op, .id = id, .meta_len = (uint32_t)(sender->head.len - FRAME_PREFIX_BYTES), .body_len = body.len};
    frame_encode(sender->head.at, &frame);
    sender->body = body;
    sender->sent = 0;
    sender->active = true;
    return 0;
}

static void *unconst(const uint8_t *at)
{
    return (void *)(uintptr_t)at; /* an iovec has no const; sending does not write */
}

/* Returns 1 when the request is sent, 0 when the socket is full, or a negative errno. */
static int send_some(int fd, struct sender *sender)
{
    uint64_t total = (uint64_t)sender->head.len + sender->body.len;
    while (sender->sent < total) {
        size_t of_head = (size_t)min_u64(sender->sent, sender->head.len);
        size_t of_body = (size_t)(sender->sent - of_head);
        struct iovec parts[2] = {{sender->head.at + of_head, sender->head.len - of_head}, {NULL, sender->body.len - of_body}};
        if (sender->body.len > 0)
            parts[1].iov_base = unconst(sender->body.at + of_body);
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t count = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return errno == EAGAIN ? 0 : -errno;
        sender->sent += (uint64_t)count;
    }
    sender->active = false;
    return 1;
}

/* Send what there is to send. *full is set when the socket takes no more now. */
static int send_all(struct kvd *kvd, const struct exchange *exchange, bool *full, uint64_t *wake_us)
{
    struct sender *sender = &kvd->sender;
    while (!sender->broken) {
        if (!sender->active) {
            int more = exchange->next(kvd, exchange->arg, wake_us);
            if (more <= 0)
                return more;
        }
        int sent = send_some(kvd->fd, sender);
        if (sent == 0) {
            *full = true;
            return 0;
        }
        if (sent < 0) {
            /* It may have said why before it closed: read on to the end. */
            sender->broken = true;
            sender->active = false;
        }
    }
    return 0;
}

/* ---- receiving ---- */

/* Take up to `len` bytes of what was read ahead, to `to` unless that is NULL. Returns how many. */
static size_t ahead_take(struct reader *reader, uint8_t *to, uint64_t len)
{
    size_t count = (size_t)min_u64(len, reader->ahead_len - reader->ahead_at);
    if (to && count > 0)
        memcpy(to, reader->ahead + reader->ahead_at, count);
    reader->ahead_at += count;
    return count;
}

static int meta_room(struct kvd *kvd, size_t len)
{
    struct reader *reader = &kvd->reader;
    if (len <= reader->meta_cap)
        return 0;
    uint8_t *meta = realloc(reader->meta, len);
    if (!meta)
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a reply");
    reader->meta = meta;
    reader->meta_cap = len;
    return 0;
}

/* A server that could not make out a request answers with op 0 and id 0, and closes. */
static int last_words(struct kvd *kvd, const struct frame *frame, struct span meta)
{
    struct msg_failure_reply failure;
    if (frame->code < CODE_BAD_REQUEST)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply to nothing");
    return call_refused(kvd, frame->code, meta, &failure);
}

/* Each step returns 0 when it is done, 1 when it needs more bytes, or a negative result. */
static int step_prefix(struct kvd *kvd)
{
    struct reader *reader = &kvd->reader;
    if (reader->ahead_len - reader->ahead_at < FRAME_PREFIX_BYTES)
        return 1;
    uint8_t prefix[FRAME_PREFIX_BYTES];
    ahead_take(reader, prefix, sizeof prefix);
    if (frame_decode(prefix, &reader->frame))
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "what came is no frame");
    if (reader->frame.meta_len > META_MAX_BYTES)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply's meta is too long");
    reader->meta_got = 0;
    reader->phase = AT_META;
    return meta_room(kvd, reader->frame.meta_len);
}

static int step_meta(struct kvd *kvd, const struct exchange *exchange)
{
    struct reader *reader = &kvd->reader;
    size_t left = reader->frame.meta_len - reader->meta_got;
    if (left > 0)
        reader->meta_got += ahead_take(reader, reader->meta + reader->meta_got, left);
    if (reader->meta_got < reader->frame.meta_len)
        return 1;
    struct span meta = span_of(reader->meta, reader->frame.meta_len);
    if (reader->frame.op == 0 && reader->frame.id == 0)
        return last_words(kvd, &reader->frame, meta);
    reader->body = NULL;
    reader->body_got = 0;
    reader->phase = AT_BODY;
    return exchange->head(kvd, exchange->arg, &reader->frame, meta, &reader->body);
}

static int step_body(struct kvd *kvd)
{
    struct reader *reader = &kvd->reader;
    reader->body_got +=
        ahead_take(reader, reader->body ? reader->body + reader->body_got : NULL, reader->frame.body_len - reader->body_got);
    if (reader->body && reader->body_got > 0 && reader->first_body_us == 0)
        reader->first_body_us = wire_now_us();
    if (reader->body_got < reader->frame.body_len)
        return 1;
    reader->phase = AT_PREFIX;
    return 0;
}

/* Use what is there. Returns 0 when more bytes are needed, 1 when the exchange is done, or a negative result. */
static int use_all(struct kvd *kvd, const struct exchange *exchange)
{
    struct reader *reader = &kvd->reader;
    int more = 0;
    while (more == 0) {
        if (reader->phase == AT_PREFIX) {
            more = step_prefix(kvd);
        } else if (reader->phase == AT_META) {
            more = step_meta(kvd, exchange);
        } else {
            more = step_body(kvd);
            if (more)
                break;
            int done = exchange->done(kvd, exchange->arg, &reader->frame, span_of(reader->meta, reader->frame.meta_len));
            if (done)
                return done;
        }
    }
    return more < 0 ? more : 0;
}

/* What the next bytes are for, if they have a place of their own. */
static struct iovec place_of(struct reader *reader)
{
    if (reader->phase == AT_META)
        return (struct iovec){reader->meta + reader->meta_got, reader->frame.meta_len - reader->meta_got};
    if (reader->phase == AT_BODY && reader->body)
        return (struct iovec){reader->body + reader->body_got, (size_t)(reader->frame.body_len - reader->body_got)};
    return (struct iovec){NULL, 0};
}

/* One recvmsg: straight into its place, and what comes behind it, ahead. Returns as use_all(). */
static int receive_once(struct kvd *kvd, const struct exchange *exchange, bool *drained)
{
    struct reader *reader = &kvd->reader;
    memmove(reader->ahead, reader->ahead + reader->ahead_at, reader->ahead_len - reader->ahead_at);
    reader->ahead_len -= reader->ahead_at;
    reader->ahead_at = 0;
    struct iovec parts[2] = {place_of(reader), {reader->ahead + reader->ahead_len, READ_AHEAD_BYTES - reader->ahead_len}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t count = recvmsg(kvd->fd, &message, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        *drained = true;
        return 0;
    }
    if (count < 0)
        return fail_errno(kvd, "receive", errno);
    if (count == 0)
        return wire_fail(kvd, KVD_ERR_NETWORK, "the server closed the connection");
    size_t placed = (size_t)min_u64((uint64_t)count, parts[0].iov_len);
    if (reader->phase == AT_META)
        reader->meta_got += placed;
    else
        reader->body_got += placed;
    reader->ahead_len += (size_t)count - placed;
    *drained = (size_t)count < parts[0].iov_len + parts[1].iov_len;
    return use_all(kvd, exchange);
}

/* Not for ever, so that sending gets its turn and the deadline is looked at. */
static int receive_some(struct kvd *kvd, const struct exchange *exchange)
{
    bool drained = false;
    int done = 0;
    for (int i = 0; i < 64 && !drained && done == 0; i++)
        done = receive_once(kvd, exchange, &drained);
    return done;
}

/* ---- an exchange ---- */

/* Wait until there is something to do. Returns 1 when bytes may have come, 0 when it is time to send, or a negative result. */
static int wait_ready(struct kvd *kvd, bool full, uint64_t wake_us)
{
    short events = (short)(full ? POLLIN | POLLOUT : POLLIN);
    int came = poll_until(kvd->fd, events, min_u64(wake_us, kvd->deadline_us));
    if (came < 0)
        return fail_errno(kvd, "poll", -came);
    if (wire_now_us() >= kvd->deadline_us)
        return wire_fail(kvd, KVD_ERR_TIMEOUT, "the time for the call has passed");
    return came & ~POLLOUT ? 1 : 0;
}

/* Returns 1 when all replies are there, 0 when not yet, or a negative result. */
static int exchange_turn(struct kvd *kvd, const struct exchange *exchange, bool done)
{
    bool full = false;
    uint64_t wake_us = UINT64_MAX;
    int result = send_all(kvd, exchange, &full, &wake_us);
    if (result < 0 || (done && !full))
        return result;
    result = wait_ready(kvd, full, wake_us);
    return result > 0 ? receive_some(kvd, exchange) : result;
}

int wire_exchange(struct kvd *kvd, const struct exchange *exchange)
{
    bool done = false;
    kvd->reader.first_body_us = 0;
    /* A reply can come before its request is all sent: the rest must follow, or the next frame would be taken for it. */
    while (!done || kvd->sender.active) {
        int result = exchange_turn(kvd, exchange, done);
        if (result < 0) {
            wire_close(kvd);
            return result;
        }
        done = done || result > 0;
    }
    if (kvd->sender.broken)
        wire_close(kvd);
    return 0;
}

bool wire_alive(struct kvd *kvd)
{
    uint8_t byte;
    if (kvd->fd < 0)
        return false;
    /* Between calls the server has nothing to say: bytes are as bad as the end. */
    bool quiet = kvd->reader.ahead_at == kvd->reader.ahead_len;
    if (quiet && recv(kvd->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN)
        return true;
    wire_close(kvd);
    return false;
}
