#include "test/bench/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/check.h"

int conn_open(struct conn *conn, uint16_t port, size_t ahead_most, size_t out_room)
{
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    const int on = 1, send_bytes = CONN_SEND_BYTES;

    conn->ahead_most = ahead_most;
    conn->at = conn->end = conn->out_at = conn->out_count = 0;
    conn->out_room = out_room;
    conn->out = calloc(out_room, sizeof *conn->out);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!conn->out || conn->fd < 0 || connect(conn->fd, (const struct sockaddr *)&where, sizeof where) < 0 ||
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(conn->fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes) < 0)
        return conn->out ? -errno : -ENOMEM;
    return 0;
}

void conn_close(struct conn *conn)
{
    if (conn->fd >= 0)
        close(conn->fd);
    free(conn->out);
}

void conn_out(struct conn *conn, const void *at, size_t len)
{
    if (conn_sent(conn))
        conn->out_at = conn->out_count = 0;
    CHECK(conn->out_count < conn->out_room);
    conn->out[conn->out_count++] = (struct iovec){(void *)(uintptr_t)at, len}; /* an iovec has no const; sending does not write */
}

static void out_advance(struct conn *conn, size_t sent)
{
    while (!conn_sent(conn) && sent >= conn->out[conn->out_at].iov_len)
        sent -= conn->out[conn->out_at++].iov_len;
    if (conn_sent(conn))
        return;
    conn->out[conn->out_at].iov_base = (char *)conn->out[conn->out_at].iov_base + sent;
    conn->out[conn->out_at].iov_len -= sent;
}

int conn_send_some(struct conn *conn)
{
    while (!conn_sent(conn)) {
        const size_t pieces = conn->out_count - conn->out_at;
        const struct msghdr message = {.msg_iov = conn->out + conn->out_at, .msg_iovlen = pieces < IOV_MAX ? pieces : IOV_MAX};
        const ssize_t sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -errno;
        out_advance(conn, (size_t)sent);
    }
    return 0;
}

int conn_wait(struct conn *conn)
{
    if (conn->at < conn->end)
        return 1;
    struct pollfd watch = {.fd = conn->fd, .events = (short)(conn_sent(conn) ? POLLIN : POLLIN | POLLOUT)};
    while (poll(&watch, 1, -1) < 0)
        if (errno != EINTR)
            return -errno;
    return (watch.revents & (POLLIN | POLLERR | POLLHUP)) != 0;
}

static bool read_on(struct conn *conn)
{
    if (conn->at > 0) {
        memmove(conn->ahead, conn->ahead + conn->at, conn->end - conn->at);
        conn->end -= conn->at;
        conn->at = 0;
    }
    const ssize_t got = conn->end < conn->ahead_most ? recv(conn->fd, conn->ahead + conn->end, conn->ahead_most - conn->end, 0) : 0;
    conn->end += got > 0 ? (size_t)got : 0;
    return got > 0;
}

uint8_t *conn_peek(struct conn *conn, size_t count)
{
    while (conn->end - conn->at < count)
        if (!read_on(conn))
            return NULL;
    return conn->ahead + conn->at;
}

void conn_skip(struct conn *conn, size_t count)
{
    CHECK(conn->end - conn->at >= count);
    conn->at += count;
}

char *conn_line(struct conn *conn)
{
    for (;;) {
        char *at = (char *)conn->ahead + conn->at;
        char *end = memchr(at, '\n', conn->end - conn->at);
        if (end && end > at) {
            conn->at += (size_t)(end + 1 - at);
            end[-1] = '\0';
            return at;
        }
        if (end || !read_on(conn))
            return NULL;
    }
}

int conn_take(struct conn *conn, uint8_t *to, uint64_t size)
{
    uint64_t have = min_u64(size, conn->end - conn->at);
    memcpy(to, conn->ahead + conn->at, have);
    conn->at += have;
    while (have < size) {
        /* All that was read ahead is used: its room takes what follows the value. */
        struct iovec parts[2] = {{to + have, size - have}, {conn->ahead, conn->ahead_most}};
        const ssize_t got = readv(conn->fd, parts, 2);
        if (got <= 0)
            return got < 0 ? -errno : -ECONNRESET;
        const uint64_t of_value = min_u64((uint64_t)got, size - have);
        have += of_value;
        conn->at = 0;
        conn->end = (size_t)got - of_value;
    }
    return 0;
}
