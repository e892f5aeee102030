#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/conn_impl.h"
#include "loop/loop_impl.h"

enum { BACKLOG = 511, TURN_ACCEPTS = 64, RETRY_MS = 100 };

/* Freed when it is closed and its last connection has gone. */
struct listener {
    uv_poll_t poll;
    struct loop *loop;
    listener_fn fn;
    struct listener_place own; /* where there are no others */
    struct listener_place *places;
    unsigned place_count;
    struct timer retry; /* active while descriptors or memory have run out */
    unsigned conns;
    unsigned max_conns;
    int fd;
    uint16_t port;
    bool polling;
    bool starved; /* since the last connection that was taken; said so once */
    bool closing;
    bool closed; /* libuv has let go of it */
};

/* From accept until the connection's memory goes, and the listener knows. */
struct seat {
    struct task task; /* on its way to the connection's loop, or back */
    struct listener *listener;
    struct listener_place *place;
    int fd;
};

static int resolve(const char *host, uint16_t port, int flags, struct addrinfo **out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    return getaddrinfo(host, service, &hints, out) == 0 ? 0 : KVD_EUSAGE;
}

static int bind_one(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) < 0 || bind(fd, address->ai_addr, address->ai_addrlen) < 0 ||
        listen(fd, BACKLOG) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* The next address is tried only where this host does not have the one before: a port that is taken on one address is
 * not to be found free on another. */
static int bind_first(const struct addrinfo *addresses)
{
    int fd = KVD_EUSAGE;
    for (const struct addrinfo *address = addresses; address; address = address->ai_next) {
        fd = bind_one(address);
        if (fd != -EADDRNOTAVAIL && fd != -EAFNOSUPPORT)
            break;
    }
    return fd;
}

static int bound_port(int fd, uint16_t *port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t len = sizeof address;
    if (getsockname(fd, &address.any, &len) < 0)
        return -errno;
    *port = ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
    return 0;
}

static void listener_on_poll(uv_poll_t *handle, int status, int events);

static void listener_poll(struct listener *listener, bool on)
{
    if (on == listener->polling)
        return;
    if (on)
        CHECK(uv_poll_start(&listener->poll, UV_READABLE, listener_on_poll) == 0);
    else
        uv_poll_stop(&listener->poll);
    listener->polling = on;
}

/* Poll only while a connection could be taken: the backlog would keep the loop turning. */
static void listener_poll_update(struct listener *listener)
{
    if (!listener->closing)
        listener_poll(listener, listener->conns < listener->max_conns && !listener->retry.active);
}

static void listener_on_retry(struct timer *timer)
{
    listener_poll_update(CONTAINER_OF(timer, struct listener, retry));
}

/* Descriptors or memory have run out. */
static void listener_rest(struct listener *listener, int err)
{
    if (!listener->starved)
        log_warn(listener->loop->log, "accept_failed", "err=\"%s\" retry_after_ms=%d", error_text(err), RETRY_MS);
    listener->starved = true;
    timer_start(&listener->retry, RETRY_MS);
}

static struct listener_place *place_choose(const struct listener *listener)
{
    struct listener_place *fewest = listener->places;
    for (unsigned i = 1; i < listener->place_count; i++)
        if (listener->places[i].conns < fewest->conns)
            fewest = &listener->places[i];
    return fewest;
}

static void listener_free_if_done(struct listener *listener)
{
    if (listener->closed && listener->conns == 0)
        free(listener);
}

/* The listener may be gone afterwards. */
static void seat_gone(struct seat *seat)
{
    struct listener *listener = seat->listener;
    seat->place->conns--;
    listener->conns--;
    free(seat);
    listener_poll_update(listener);
    listener_free_if_done(listener);
}

static void seat_on_gone(struct task *task)
{
    seat_gone(CONTAINER_OF(task, struct seat, task));
}

void seat_leave(struct seat *seat)
{
    struct loop *home = seat->listener->loop;
    if (seat->place->loop == home) {
        seat_gone(seat);
        return;
    }
    task_init(&seat->task, home, seat_on_gone);
    loop_post(&seat->task);
}

static int seat_take(struct seat *seat)
{
    const struct listener *listener = seat->listener;
    struct conn *conn;
    int err = conn_new(&conn, seat->place->loop, seat, seat->fd);
    if (err == 0)
        listener->fn(seat->place->arg, conn);
    return err;
}

/* On the other loop. Who cannot be taken there is hung up on: it is too late to leave it in the backlog. */
static void seat_on_arrival(struct task *task)
{
    struct seat *seat = CONTAINER_OF(task, struct seat, task);
    int err = seat_take(seat);
    if (err == 0)
        return;
    log_warn(seat->place->loop->log, "accept_failed", "err=\"%s\"", error_text(err));
    close(seat->fd);
    seat_leave(seat);
}

static struct seat *seat_new(struct listener *listener, int fd)
{
    struct seat *seat = malloc(sizeof *seat);
    if (!seat)
        return NULL;
    *seat = (struct seat){.listener = listener, .place = place_choose(listener), .fd = fd};
    seat->place->conns++;
    listener->conns++;
    return seat;
}

/* Returns 0, -EAGAIN when none waits, or why it must rest. */
static int listener_accept(struct listener *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return errno == EINTR || errno == ECONNABORTED || errno == EPROTO ? 0 : -errno;
    struct seat *seat = seat_new(listener, fd);
    int err = -ENOMEM;
    if (seat && seat->place->loop != listener->loop) {
        task_init(&seat->task, seat->place->loop, seat_on_arrival);
        loop_post(&seat->task);
        err = 0;
    } else if (seat) {
        err = seat_take(seat);
    }
    if (err) {
        close(fd);
        if (seat)
            seat_gone(seat);
        return err == -EAGAIN ? -ENOMEM : err;
    }
    listener->starved = false;
    return 0;
}

static void listener_on_poll(uv_poll_t *handle, int status, int events)
{
    struct listener *listener = handle->data;
    (void)events;
    if (status < 0)
        listener->polling = false; /* libuv has stopped it */
    int err = 0;
    for (unsigned i = 0; i < TURN_ACCEPTS && err == 0 && !listener->closing && listener->conns < listener->max_conns; i++)
        err = listener_accept(listener);
    if (listener->closing)
        return;
    if (err && err != -EAGAIN)
        listener_rest(listener, err);
    listener_poll_update(listener);
}

int listener_open(struct listener **out, struct loop *loop, const char *host, uint16_t port, unsigned max_conns, listener_fn fn, void *arg)
{
    struct addrinfo *addresses;
    int err = resolve(host, port, 0, &addresses);
    if (err)
        return err;
    int fd = bind_first(addresses);
    freeaddrinfo(addresses);
    if (fd < 0)
        return fd;
    struct listener *listener = calloc(1, sizeof *listener);
    err = -ENOMEM;
    if (!listener)
        goto fail_fd;
    err = bound_port(fd, &listener->port);
    if (err)
        goto fail_listener;
    err = uv_poll_init(&loop->uv, &listener->poll, fd);
    if (err)
        goto fail_listener;
    listener->poll.data = listener;
    listener->loop = loop;
    listener->fn = fn;
    listener->own = (struct listener_place){.loop = loop, .arg = arg};
    listener_spread(listener, &listener->own, 1);
    listener->max_conns = max_conns;
    listener->fd = fd;
    timer_init(&listener->retry, loop, listener_on_retry);
    loop->open_listeners++;
    listener_poll_update(listener);
    *out = listener;
    return 0;

fail_listener:
    free(listener);
fail_fd:
    close(fd);
    return err;
}

void listener_spread(struct listener *listener, struct listener_place *places, unsigned count)
{
    CHECK(count >= 1 && listener->conns == 0);
    listener->places = places;
    listener->place_count = count;
}

uint16_t listener_port(const struct listener *listener)
{
    return listener->port;
}

static void listener_on_closed(uv_handle_t *handle)
{
    struct listener *listener = handle->data;
    listener->closed = true;
    listener_free_if_done(listener);
}

/* shutdown() frees the port even where a child process or a ring still holds the socket. */
void listener_close(struct listener *listener)
{
    CHECK(!listener->closing);
    listener->closing = true;
    listener->loop->open_listeners--;
    timer_stop(&listener->retry);
    uv_close((uv_handle_t *)&listener->poll, listener_on_closed);
    (void)shutdown(listener->fd, SHUT_RDWR);
    close(listener->fd);
    listener->fd = -1;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)address;
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    if (address->sa_family != AF_INET6)
        return false;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
}

bool address_is_loopback(const char *host)
{
    struct addrinfo *addresses;
    if (resolve(host, 0, 0, &addresses) != 0)
        return false;
    bool loopback = true;
    for (const struct addrinfo *address = addresses; address && loopback; address = address->ai_next)
        loopback = is_loopback(address->ai_addr);
    freeaddrinfo(addresses);
    return loopback;
}

bool address_is_numeric(const char *host)
{
    struct addrinfo *addresses;
    if (resolve(host, 0, AI_NUMERICHOST, &addresses) != 0)
        return false;
    freeaddrinfo(addresses);
    return true;
}
