#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/conn_impl.h"
#include "loop/loop_impl.h"

enum {
    TURN_BYTES = 1 << 20, /* of one conn, each way */
    TURN_READS = 16,
    GATHER_COUNT = IOV_MAX,
    /* Of a peer on this host. What is on its way is memory that two cores hand to each other: with the kernel's own choice, which grows to
     * megabytes, it leaves their caches before it is read, and a stream moves a third less. Over a network the kernel chooses. */
    HERE_SEND_BYTES = 256 * 1024,
    NOTICE_MS = 10,             /* the error queue is looked at so often where polling for it does not help */
    NOTICE_LATE_MS = 10 * 1000, /* said of a connection that ends, and whose bytes the kernel still reads */
};

struct conn {
    uv_poll_t poll;
    struct loop *loop;
    struct seat *seat;
    const struct conn_events *events;
    void *owner;
    conn_closed_fn closed;
    void *closed_owner;
    struct list dirty;       /* to be flushed before the next poll */
    struct list queued;      /* sends with bytes that the kernel has not taken */
    struct list lent;        /* sends that are through, but the kernel reads bytes of them, or of one before them */
    struct list finished;    /* sends whose fn is to run */
    struct task task;        /* runs those, and asks `room` after conn_resume() */
    struct lending *lending; /* NULL: every send is copied */
    struct timer notices;    /* look at the error queue again */
    uint64_t closing_ms;     /* since when */
    uint64_t unsent_bytes;   /* not taken */
    uint64_t sent_bytes;     /* taken */
    uint64_t received_bytes;
    int fd;
    int send_err; /* what later sends get */
    int polled;   /* libuv's event bits asked for */
    bool ended;
    bool paused;  /* room said 0 */
    bool resumed; /* conn_resume() was called since */
    bool blocked; /* the socket took less than it was offered */
    bool resting; /* the error queue is not polled for: there was an event, and nothing in it */
    bool shutdown_wanted;
    bool closing;
    bool late; /* NOTICE_LATE_MS have passed */
};

static void conn_on_poll(uv_poll_t *handle, int status, int events);
static void conn_on_task(struct task *task);
static void conn_on_notices(struct timer *timer);

/* ---- polling ---- */

static uint64_t conn_lent_bytes(const struct conn *conn)
{
    return conn->lending ? conn->lending->lent_bytes : 0;
}

/* An error queue is told of whatever is asked for; but something has to be. */
static int conn_wanted(const struct conn *conn)
{
    int wanted = 0;
    if (conn_lent_bytes(conn) > 0 && !conn->resting)
        wanted |= UV_PRIORITIZED;
    if (conn->events && !conn->ended && !conn->paused)
        wanted |= UV_READABLE;
    if (conn->blocked)
        wanted |= UV_WRITABLE;
    return wanted;
}

static void conn_poll_set(struct conn *conn, int wanted)
{
    if (wanted == conn->polled)
        return;
    if (wanted)
        CHECK(uv_poll_start(&conn->poll, wanted, conn_on_poll) == 0);
    else
        uv_poll_stop(&conn->poll);
    conn->polled = wanted;
}

/* Events that are asked for and no longer wanted are left until one comes (conn_on_poll), because each change costs two
 * system calls, and most are soon wanted again. */
static void conn_poll_more(struct conn *conn)
{
    int wanted = conn_wanted(conn);
    if (wanted & ~conn->polled)
        conn_poll_set(conn, wanted);
}

/* ---- receiving ---- */

static void conn_end(struct conn *conn, int err)
{
    conn->ended = true;
    conn->events->ended(conn->owner, err);
}

/* Returns how many bytes have come, 0 when that is all for this turn. The owner may have closed the conn. */
static size_t conn_read_once(struct conn *conn, size_t budget)
{
    void *base = NULL;
    size_t len = 0;
    conn->paused = true; /* before the call: the owner may resume from inside it */
    conn->events->room(conn->owner, &base, &len);
    if (conn->closing || len == 0)
        return 0;
    conn->paused = false;
    if (len > budget)
        len = budget;
    ssize_t got;
    do
        got = read(conn->fd, base, len);
    while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (got <= 0) {
        conn_end(conn, got < 0 ? -errno : 0);
        return 0;
    }
    conn->received_bytes += (uint64_t)got;
    conn->events->received(conn->owner, (size_t)got);
    return (size_t)got == len ? len : 0;
}

static void conn_read(struct conn *conn)
{
    size_t budget = TURN_BYTES;
    for (unsigned i = 0; i < TURN_READS && budget > 0; i++) {
        size_t got = conn_read_once(conn, budget);
        if (conn->closing || got == 0)
            return;
        budget -= got;
    }
}

void conn_start(struct conn *conn, const struct conn_events *events, void *owner)
{
    CHECK(!conn->events && !conn->closing);
    conn->events = events;
    conn->owner = owner;
    conn_poll_more(conn);
}

void conn_resume(struct conn *conn)
{
    if (!conn->paused || conn->ended || conn->closing)
        return;
    conn->resumed = true;
    task_post(&conn->task);
}

/* ---- sending ---- */

static bool send_is_lent(const struct conn *conn, const struct conn_send *send)
{
    return send->lent && !lending_is_over(conn->lending, send->last_call);
}

/* Its fn runs from the conn's task, when the kernel is done with its bytes and with those before them. */
static void send_finish(struct conn *conn, struct conn_send *send, int err)
{
    CHECK(!send->done);
    send->done = true;
    send->err = err;
    list_remove(&send->link);
    bool waits = !list_empty(&conn->lent) || send_is_lent(conn, send);
    list_push_back(waits ? &conn->lent : &conn->finished, &send->link);
}

/* Sends that the kernel has let go. Returns whether it has said anything new. */
static bool conn_hear(struct conn *conn)
{
    if (!lending_hear(conn->lending, conn->fd))
        return false;
    struct list *link;
    while ((link = list_first(&conn->lent)) && !send_is_lent(conn, CONTAINER_OF(link, struct conn_send, link))) {
        list_remove(link);
        list_push_back(&conn->finished, link);
    }
    if (!list_empty(&conn->finished) && !conn->closing)
        task_post(&conn->task);
    return true;
}

static void conn_fail_sends(struct conn *conn, int err)
{
    struct list *link;
    while ((link = list_first(&conn->queued)))
        send_finish(conn, CONTAINER_OF(link, struct conn_send, link), err);
    conn->unsent_bytes = 0;
}

/* Pass over `taken` bytes, which were copied or lent, and over whatever is empty behind them. */
static void conn_consume(struct conn *conn, size_t taken, bool lent)
{
    struct list *link;
    uint32_t call = lent ? lending_begin(conn->lending, (uint32_t)taken) : 0;
    conn->unsent_bytes -= taken;
    conn->sent_bytes += taken;
    while ((link = list_first(&conn->queued))) {
        struct conn_send *send = CONTAINER_OF(link, struct conn_send, link);
        if (lent && taken > 0) {
            send->lent = true;
            send->last_call = call;
        }
        for (; send->iov_count > 0; send->iov++, send->iov_count--) {
            size_t part = taken < send->iov->iov_len ? taken : send->iov->iov_len;
            send->iov->iov_base = (char *)send->iov->iov_base + part;
            send->iov->iov_len -= part;
            taken -= part;
            if (send->iov->iov_len > 0)
                return;
        }
        send_finish(conn, send, 0);
    }
    CHECK(taken == 0);
}

/* Fill `iov` from the front of the queue with at most `budget` bytes, of sends that are all large or all are not. Returns how many
 * entries, the bytes in *bytes, and whether they are worth lending. */
static size_t conn_gather(struct conn *conn, struct iovec *iov, size_t budget, size_t *bytes, bool *lend)
{
    bool large = CONTAINER_OF(conn->queued.next, struct conn_send, link)->large;
    size_t count = 0;
    *bytes = 0;
    for (struct list *link = conn->queued.next; link != &conn->queued; link = link->next) {
        const struct conn_send *send = CONTAINER_OF(link, struct conn_send, link);
        if (send->large != large)
            break;
        for (unsigned i = 0; i < send->iov_count && count < GATHER_COUNT && *bytes < budget; i++) {
            if (send->iov[i].iov_len == 0)
                continue;
            iov[count] = send->iov[i];
            if (iov[count].iov_len > budget - *bytes)
                iov[count].iov_len = budget - *bytes;
            *bytes += iov[count].iov_len;
            count++;
        }
        if (count == GATHER_COUNT || *bytes == budget)
            break;
    }
    *lend = large && *bytes >= LENDING_LEAST_BYTES;
    return count;
}

static ssize_t conn_sendmsg(const struct conn *conn, const struct msghdr *msg, int flags)
{
    ssize_t taken;
    do
        taken = sendmsg(conn->fd, msg, MSG_NOSIGNAL | flags);
    while (taken < 0 && errno == EINTR);
    return taken;
}

/* One system call, or two where the kernel has no memory for another notice. Returns how many bytes went, 0 when it is over for now. */
static size_t conn_send_once(struct conn *conn, size_t budget)
{
    struct iovec iov[GATHER_COUNT];
    size_t bytes;
    bool lend;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = conn_gather(conn, iov, budget, &bytes, &lend)};
    bool copy = !lend || lending_is_full(conn->lending);
    ssize_t taken = copy ? 0 : conn_sendmsg(conn, &msg, MSG_ZEROCOPY);
    if (taken < 0 && errno == ENOBUFS)
        copy = true;
    if (copy)
        taken = conn_sendmsg(conn, &msg, 0);
    if (taken < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        conn->send_err = -errno;
        conn_fail_sends(conn, conn->send_err);
        return 0;
    }
    if (taken > 0 && lend && copy)
        lending_fell_back(conn->lending);
    if (taken > 0)
        conn_consume(conn, (size_t)taken, !copy);
    conn->blocked = taken < 0 || (size_t)taken < bytes;
    return conn->blocked ? 0 : (size_t)taken;
}

static void conn_try_shutdown(struct conn *conn)
{
    if (!conn->shutdown_wanted || conn->send_err || !list_empty(&conn->queued))
        return;
    (void)shutdown(conn->fd, SHUT_WR);
    conn->send_err = -EPIPE;
}

static void conn_make_dirty(struct conn *conn)
{
    if (list_empty(&conn->dirty))
        list_push_back(&conn->loop->dirty_conns, &conn->dirty);
}

/* No callback runs in here: fns of sends are left to the task. */
static void conn_flush(struct conn *conn)
{
    size_t budget = TURN_BYTES;
    conn->blocked = false;
    conn_consume(conn, 0, false);
    while (budget > 0 && !list_empty(&conn->queued)) {
        size_t taken = conn_send_once(conn, budget);
        if (taken == 0)
            break;
        budget -= taken;
    }
    conn_try_shutdown(conn);
    if (!list_empty(&conn->finished))
        task_post(&conn->task);
    if (!list_empty(&conn->queued) && !conn->blocked) {
        conn_make_dirty(conn);
        loop_wake(conn->loop);
    }
    conn_poll_more(conn);
}

void conns_flush(struct loop *loop)
{
    struct list now;
    list_init(&now);
    list_move_all(&now, &loop->dirty_conns);
    struct list *link;
    while ((link = list_pop_front(&now))) {
        struct conn *conn = CONTAINER_OF(link, struct conn, dirty);
        if (!conn->blocked)
            conn_flush(conn);
    }
}

void conn_send(struct conn *conn, struct conn_send *send, conn_send_fn fn)
{
    send->fn = fn;
    send->done = false;
    send->lent = false;
    send->err = 0;
    list_push_back(&conn->queued, &send->link);
    if (conn->closing || conn->send_err || conn->shutdown_wanted) {
        int err = conn->closing ? -ECANCELED : conn->send_err ? conn->send_err : -EPIPE;
        send_finish(conn, send, err);
        if (!conn->closing)
            task_post(&conn->task);
        return;
    }
    uint64_t bytes = 0;
    for (unsigned i = 0; i < send->iov_count; i++)
        bytes += send->iov[i].iov_len;
    send->large = conn->lending && bytes >= LENDING_LEAST_BYTES;
    conn->unsent_bytes += bytes;
    conn_make_dirty(conn);
}

void conn_shutdown(struct conn *conn)
{
    conn->shutdown_wanted = true;
    if (!conn->closing)
        conn_make_dirty(conn);
}

/* ---- events ---- */

/* What was an event of the error queue, and had nothing in it, may be one the next moment again: an error of the socket while nothing is
 * read, or the peer's urgent byte. */
static void conn_on_notice(struct conn *conn, bool told)
{
    if (conn_hear(conn) || !told)
        return;
    conn->resting = true;
    timer_start(&conn->notices, NOTICE_MS);
}

/* libuv stops the handle when it sees an error, which may be no more than a notice. Reading or sending will say which one it is, and
 * whichever is not wanted now is not asked for again, so that an error that nobody takes up cannot keep the loop turning. */
static void conn_on_poll(uv_poll_t *handle, int status, int events)
{
    struct conn *conn = handle->data;
    if (conn_lent_bytes(conn) > 0)
        conn_on_notice(conn, status < 0 || (events & UV_PRIORITIZED));
    if (status < 0) {
        conn->polled = 0;
        events = UV_READABLE | UV_WRITABLE;
    }
    int wanted = conn_wanted(conn);
    if ((events & UV_WRITABLE) && (wanted & UV_WRITABLE))
        conn_flush(conn);
    if ((events & UV_READABLE) && (wanted & UV_READABLE))
        conn_read(conn);
    /* A stream that went on will soon be blocked again: room is asked for until it comes unwanted. */
    if (!conn->closing)
        conn_poll_set(conn, conn_wanted(conn) | (wanted & UV_WRITABLE));
}

/* Once it is closed, what is left is the close callback's. */
static void conn_run_finished(struct conn *conn, bool closed)
{
    struct list now;
    struct list *link;
    list_init(&now);
    list_move_all(&now, &conn->finished);
    while (conn->closing == closed && (link = list_pop_front(&now))) {
        struct conn_send *send = CONTAINER_OF(link, struct conn_send, link);
        send->fn(send, send->err);
    }
    list_move_all(&now, &conn->finished);
    list_move_all(&conn->finished, &now);
}

static void conn_on_task(struct task *task)
{
    struct conn *conn = CONTAINER_OF(task, struct conn, task);
    conn_run_finished(conn, false);
    if (conn->closing || !conn->resumed)
        return;
    conn->resumed = false;
    if (!conn->ended)
        conn_read(conn);
    if (!conn->closing)
        conn_poll_more(conn);
}

/* ---- life ---- */

/* Both ends of a connection within one host have the same address. */
static bool peer_is_here(int fd)
{
    struct sockaddr_storage mine = {0}, theirs = {0};
    socklen_t len = sizeof mine, their_len = sizeof theirs;
    if (getsockname(fd, (struct sockaddr *)&mine, &len) < 0 || getpeername(fd, (struct sockaddr *)&theirs, &their_len) < 0)
        return false;
    if (mine.ss_family == AF_INET)
        return ((const struct sockaddr_in *)&mine)->sin_addr.s_addr == ((const struct sockaddr_in *)&theirs)->sin_addr.s_addr;
    return mine.ss_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)&mine)->sin6_addr, &((const struct sockaddr_in6 *)&theirs)->sin6_addr);
}

/* Where this fails, replies wait a little longer. */
static void socket_tune(int fd)
{
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (peer_is_here(fd))
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){HERE_SEND_BYTES}, sizeof(int));
}

/* Where this fails, its sends are copied. */
static void conn_lend(struct conn *conn)
{
    struct loop *loop = conn->loop;
    int err = lending_new(&conn->lending, conn->fd, &loop->lending);
    if (err && !loop->zero_copy_refused)
        log_warn(loop->log, "zero_copy_refused", "err=\"%s\"", error_text(err));
    loop->zero_copy_refused |= err != 0;
}

int conn_new(struct conn **out, struct loop *loop, struct seat *seat, int fd)
{
    struct conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return -ENOMEM;
    int err = uv_poll_init(&loop->uv, &conn->poll, fd);
    if (err) {
        free(conn);
        return err;
    }
    socket_tune(fd);
    conn->poll.data = conn;
    conn->loop = loop;
    conn->seat = seat;
    conn->fd = fd;
    list_init(&conn->dirty);
    list_init(&conn->queued);
    list_init(&conn->lent);
    list_init(&conn->finished);
    task_init(&conn->task, loop, conn_on_task);
    timer_init(&conn->notices, loop, conn_on_notices);
    if (loop->zero_copy_sends)
        conn_lend(conn);
    loop->open_conns++;
    *out = conn;
    return 0;
}

int conn_connect(struct conn **out, struct loop *loop, const char *host, uint16_t port)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(host, service, &hints, &address) != 0)
        return KVD_EUSAGE;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err = fd < 0 ? -errno : 0;
    if (!err && connect(fd, address->ai_addr, address->ai_addrlen) < 0 && errno != EINPROGRESS)
        err = -errno;
    freeaddrinfo(address);
    if (!err)
        err = conn_new(out, loop, NULL, fd);
    if (err && fd >= 0)
        close(fd);
    return err;
}

static void conn_on_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    while (!list_empty(&conn->finished))
        conn_run_finished(conn, true);
    conn_closed_fn closed = conn->closed;
    void *owner = conn->closed_owner;
    conn->loop->open_conns--;
    if (conn->seat)
        seat_leave(conn->seat);
    lending_free(conn->lending);
    free(conn);
    closed(owner);
}

/* Memory that the kernel reads is never given back, however late it is: it would send what by then is somebody else's. So the connection
 * stays, with its descriptor and its seat. */
static void conn_close_when_let_go(struct conn *conn)
{
    if (conn_lent_bytes(conn) == 0) {
        timer_stop(&conn->notices);
        uv_close((uv_handle_t *)&conn->poll, conn_on_closed);
        close(conn->fd);
        conn->fd = -1;
        return;
    }
    conn_poll_set(conn, 0); /* it is hung up, and would say so all the time */
    timer_start(&conn->notices, NOTICE_MS);
    if (conn->late || loop_now_ms(conn->loop) - conn->closing_ms < NOTICE_LATE_MS)
        return;
    conn->late = true;
    log_warn(conn->loop->log, "kernel_keeps_bytes", "lent_bytes=%llu since_ms=%d", (unsigned long long)conn_lent_bytes(conn),
             NOTICE_LATE_MS);
}

static void conn_on_notices(struct timer *timer)
{
    struct conn *conn = CONTAINER_OF(timer, struct conn, notices);
    conn->resting = false;
    (void)conn_hear(conn);
    if (conn->closing)
        conn_close_when_let_go(conn);
    else
        conn_poll_more(conn);
}

/* After a plain close the kernel would go on sending, and send again what is lost, from where the bytes lie: it is to forget them. */
static void conn_take_back(struct conn *conn)
{
    (void)conn_hear(conn);
    if (conn_lent_bytes(conn) == 0)
        return;
    for (struct list *link = conn->lent.next; link != &conn->lent; link = link->next) {
        struct conn_send *send = CONTAINER_OF(link, struct conn_send, link);
        send->err = send->err ? send->err : -ECANCELED;
    }
    (void)connect(conn->fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
    (void)conn_hear(conn);
}

void conn_close(struct conn *conn, conn_closed_fn fn, void *owner)
{
    CHECK(!conn->closing);
    conn->closing = true;
    conn->closed = fn;
    conn->closed_owner = owner;
    conn->closing_ms = loop_now_ms(conn->loop);
    if (conn->lending)
        conn_take_back(conn);
    conn_fail_sends(conn, -ECANCELED);
    list_remove(&conn->dirty);
    task_cancel(&conn->task);
    conn_close_when_let_go(conn);
}

uint64_t conn_unsent_bytes(const struct conn *conn)
{
    return conn->unsent_bytes + conn_lent_bytes(conn);
}

uint64_t conn_sent_bytes(const struct conn *conn)
{
    return conn->sent_bytes - conn_lent_bytes(conn);
}

void conns_figures(const struct loop *loop, struct conns_figures *out)
{
    const struct lending_figures *figures = &loop->lending;
    *out = (struct conns_figures){
        .zero_copy_sends = atomic_load_explicit(&figures->sends, memory_order_relaxed),
        .zero_copy_bytes = atomic_load_explicit(&figures->bytes, memory_order_relaxed),
        .zero_copy_copied = atomic_load_explicit(&figures->copied, memory_order_relaxed),
        .zero_copy_fallbacks = atomic_load_explicit(&figures->fallbacks, memory_order_relaxed),
        .zero_copy_lent_bytes = atomic_load_explicit(&figures->lent_bytes, memory_order_relaxed),
    };
}

uint64_t conn_received_bytes(const struct conn *conn)
{
    return conn->received_bytes;
}

void conn_peer_text(const struct conn *conn, char out[CONN_PEER_BYTES])
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } peer = {0};
    socklen_t len = sizeof peer;
    char host[INET6_ADDRSTRLEN];
    bool v6 = getpeername(conn->fd, &peer.any, &len) == 0 && peer.any.sa_family == AF_INET6;
    const void *address = v6 ? (const void *)&peer.v6.sin6_addr : &peer.v4.sin_addr;
    if (peer.any.sa_family == AF_UNSPEC || !inet_ntop(peer.any.sa_family, address, host, sizeof host))
        snprintf(out, CONN_PEER_BYTES, "unknown");
    else
        snprintf(out, CONN_PEER_BYTES, v6 ? "[%s]:%u" : "%s:%u", host, (unsigned)ntohs(v6 ? peer.v6.sin6_port : peer.v4.sin_port));
}
