/* Listeners and connections, against peers that are plain blocking sockets on threads of their own. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "loop/conn.h"
#include "loop/loop.h"
#include "test/support/quiet.h"

enum { MIB = 1 << 20 };

/* Tests that do not care how bytes leave are run both ways. */
static bool zero_copy;
#define BOTH_WAYS(name, ...)           \
    static void name(void);            \
    Test(conn, name, __VA_ARGS__)      \
    {                                  \
        name();                        \
    }                                  \
    Test(zero_copy, name, __VA_ARGS__) \
    {                                  \
        zero_copy = true;              \
        name();                        \
    }                                  \
    static void name(void)

/* The byte at `at` of every stream in here. */
static unsigned char stream_byte(uint64_t at)
{
    return (unsigned char)((at * 2654435761u) >> 13);
}

static void stream_fill(unsigned char *bytes, size_t len, uint64_t at)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = stream_byte(at + i);
}

static bool stream_is(const unsigned char *bytes, size_t len, uint64_t at)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != stream_byte(at + i))
            return false;
    return true;
}

/* ---- the peer ---- */

static int peer_connect(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Close with a reset. */
static void peer_reset(int fd)
{
    struct linger linger = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

struct peer {
    int fd;
    uint64_t bytes; /* to send, or what was received */
    bool right;     /* the bytes received were the stream's */
    pthread_t thread;
};

static void *peer_send_main(void *arg)
{
    struct peer *peer = arg;
    unsigned char bytes[30011];
    uint64_t at = 0;
    while (at < peer->bytes) {
        size_t len = peer->bytes - at < sizeof bytes ? (size_t)(peer->bytes - at) : sizeof bytes;
        stream_fill(bytes, len, at);
        ssize_t put = send(peer->fd, bytes, len, MSG_NOSIGNAL);
        if (put <= 0)
            break;
        at += (uint64_t)put;
    }
    shutdown(peer->fd, SHUT_WR);
    return NULL;
}

static void *peer_receive_main(void *arg)
{
    struct peer *peer = arg;
    unsigned char bytes[50021];
    ssize_t got;
    peer->right = true;
    while ((got = recv(peer->fd, bytes, sizeof bytes, 0)) > 0) {
        if (!stream_is(bytes, (size_t)got, peer->bytes))
            peer->right = false;
        peer->bytes += (uint64_t)got;
    }
    if (got < 0)
        peer->right = false;
    return NULL;
}

static void peer_begin(struct peer *peer, void *(*main_fn)(void *), int fd, uint64_t bytes)
{
    peer->fd = fd;
    peer->bytes = bytes;
    cr_assert_eq(pthread_create(&peer->thread, NULL, main_fn, peer), 0);
}

static void peer_join(struct peer *peer)
{
    cr_assert_eq(pthread_join(peer->thread, NULL), 0);
}

/* ---- a host: a loop, a listener, and what came of its connections ---- */

enum { GUESTS = 4 };

struct guest {
    struct host *host;
    struct conn *conn;
    unsigned char *room;
    size_t room_len;
    uint64_t limit; /* room says 0 once so many bytes have come */
    uint64_t received;
    unsigned rooms;
    bool wrong;
    bool has_ended;
    int ended;
    bool closing;
    bool closed;
    unsigned after_close; /* callbacks that should not have been */
    unsigned sends_open;
    bool busy; /* inside a call of ours, in which no callback may run */
    void (*on_received)(struct guest *guest, size_t len);
    void (*on_room)(struct guest *guest);
    void (*on_ended)(struct guest *guest);
    void (*on_closed)(struct guest *guest);
};

struct host {
    struct loop *loop;
    struct listener *listener;
    uint16_t port;
    struct guest guests[GUESTS];
    unsigned accepted;
    unsigned gone;
    void (*on_accept)(struct guest *guest);
    struct timer timer;
};

static void stop_on_timer(struct timer *timer)
{
    loop_stop(timer->loop);
}

static void guest_room(void *owner, void **base, size_t *len)
{
    struct guest *guest = owner;
    guest->rooms++;
    guest->after_close += guest->closing || guest->busy;
    if (guest->on_room)
        guest->on_room(guest);
    *base = guest->room;
    *len = guest->received < guest->limit ? guest->room_len : 0;
    if (*len > guest->limit - guest->received)
        *len = (size_t)(guest->limit - guest->received);
}

static void guest_received(void *owner, size_t len)
{
    struct guest *guest = owner;
    guest->after_close += guest->closing || guest->busy;
    if (!stream_is(guest->room, len, guest->received))
        guest->wrong = true;
    guest->received += len;
    if (guest->on_received)
        guest->on_received(guest, len);
}

static void guest_ended(void *owner, int err)
{
    struct guest *guest = owner;
    guest->after_close += guest->closing || guest->busy || guest->has_ended;
    guest->has_ended = true;
    guest->ended = err;
    if (guest->on_ended)
        guest->on_ended(guest);
}

static const struct conn_events guest_events = {.room = guest_room, .received = guest_received, .ended = guest_ended};

static void guest_closed(void *owner)
{
    struct guest *guest = owner;
    guest->after_close += guest->closed || guest->busy || guest->sends_open > 0;
    guest->closed = true;
    guest->host->gone++;
    free(guest->room);
    guest->room = NULL;
    if (guest->on_closed)
        guest->on_closed(guest);
    else if (guest->host->gone == guest->host->accepted)
        loop_stop(guest->host->loop);
}

static void guest_close(struct guest *guest)
{
    guest->busy = true;
    conn_close(guest->conn, guest_closed, guest);
    guest->closing = true;
    guest->busy = false;
}

static void host_accepted(void *arg, struct conn *conn)
{
    struct host *host = arg;
    cr_assert_lt(host->accepted, GUESTS);
    struct guest *guest = &host->guests[host->accepted++];
    *guest = (struct guest){.host = host, .conn = conn, .room_len = 65521, .limit = UINT64_MAX};
    guest->room = malloc(guest->room_len);
    if (host->on_accept)
        host->on_accept(guest);
    conn_start(conn, &guest_events, guest);
}

static void host_init(struct host *host, void (*on_accept)(struct guest *guest))
{
    struct loop_options options = {.job_threads = 1, .forbid_ring = true, .io_threads = 1, .zero_copy_sends = zero_copy};
    *host = (struct host){.on_accept = on_accept};
    cr_assert_eq(loop_new(&host->loop, &options, &quiet), 0);
    cr_assert_eq(listener_open(&host->listener, host->loop, "127.0.0.1", 0, 100, host_accepted, host), 0);
    host->port = listener_port(host->listener);
    cr_assert_gt(host->port, 0);
    timer_init(&host->timer, host->loop, stop_on_timer);
}

static void host_fini(struct host *host)
{
    if (host->listener)
        listener_close(host->listener);
    for (unsigned i = 0; i < host->accepted; i++) {
        cr_assert(host->guests[i].closed);
        cr_assert_eq(host->guests[i].after_close, 0);
        cr_assert(!host->guests[i].wrong);
    }
    loop_free(host->loop);
}

/* Let the loop run for a while in which little may happen: it must sleep meanwhile. */
static void host_rest(struct host *host, uint64_t ms)
{
    uint64_t before_ms = loop_cpu_ms();
    timer_start(&host->timer, ms);
    loop_run(host->loop);
    cr_assert_lt(loop_cpu_ms() - before_ms, ms / 2, "the loop was busy");
}

/* Close all that is open, and run until they have gone. */
static void host_close_all(struct host *host)
{
    bool any = false;
    for (unsigned i = 0; i < host->accepted; i++) {
        any = any || !host->guests[i].closed;
        if (!host->guests[i].closing)
            guest_close(&host->guests[i]);
    }
    if (any)
        loop_run(host->loop);
}

/* ---- echo ---- */

struct echo {
    struct conn_send send;
    struct iovec iov[7];
    struct guest *guest;
    unsigned char bytes[];
};

static void echo_maybe_finish(struct guest *guest)
{
    if (guest->has_ended && guest->sends_open == 0 && !guest->closing)
        guest_close(guest);
}

static void echo_sent(struct conn_send *send, int err)
{
    struct echo *echo = CONTAINER_OF(send, struct echo, send);
    struct guest *guest = echo->guest;
    cr_assert_eq(err, 0);
    free(echo);
    guest->sends_open--;
    if (guest->sends_open < 10)
        conn_resume(guest->conn);
    echo_maybe_finish(guest);
}

/* Cut into odd pieces, empty ones among them. */
static void echo_received(struct guest *guest, size_t len)
{
    struct echo *echo = malloc(sizeof *echo + len);
    echo->guest = guest;
    memcpy(echo->bytes, guest->room, len);
    size_t at = 0;
    for (unsigned i = 0; i < 7; i++) {
        size_t part = i == 6 ? len - at : i % 2 ? 0 : (len - at) / (i + 3);
        echo->iov[i] = (struct iovec){echo->bytes + at, part};
        at += part;
    }
    echo->send = (struct conn_send){.iov = echo->iov, .iov_count = 7};
    guest->sends_open++;
    guest->busy = true;
    conn_send(guest->conn, &echo->send, echo_sent);
    guest->busy = false;
}

/* At most ten at a time: then no room until some have gone. */
static void echo_room(struct guest *guest)
{
    guest->limit = guest->sends_open < 10 ? UINT64_MAX : guest->received;
}

static void echo_accept(struct guest *guest)
{
    guest->on_received = echo_received;
    guest->on_room = echo_room;
    guest->on_ended = echo_maybe_finish;
}

static void odd_room(struct guest *guest)
{
    guest->room_len = guest->received % 3 == 0 ? 28 : guest->received % 3 == 1 ? 65521 : 4099;
    echo_room(guest);
}

static void odd_accept(struct guest *guest)
{
    echo_accept(guest);
    guest->on_room = odd_room;
}

static void run_echo(void (*on_accept)(struct guest *guest), uint64_t bytes)
{
    enum { PEERS = 3 };
    struct host host;
    struct peer senders[PEERS];
    struct peer receivers[PEERS];
    host_init(&host, on_accept);
    for (unsigned i = 0; i < PEERS; i++) {
        int fd = peer_connect(host.port);
        cr_assert_geq(fd, 0);
        peer_begin(&senders[i], peer_send_main, fd, bytes);
        peer_begin(&receivers[i], peer_receive_main, fd, 0);
    }
    while (host.gone < PEERS)
        loop_run(host.loop);
    for (unsigned i = 0; i < PEERS; i++) {
        peer_join(&senders[i]);
        peer_join(&receivers[i]);
        close(senders[i].fd);
        cr_assert(receivers[i].right);
        cr_assert_eq(receivers[i].bytes, bytes);
        cr_assert_eq(host.guests[i].received, bytes);
        cr_assert_eq(host.guests[i].ended, 0);
    }
    host_fini(&host);
}

BOTH_WAYS(echo_of_much, .timeout = 60)
{
    run_echo(echo_accept, 24 * MIB + 13);
}

Test(conn, echo_in_rooms_of_odd_sizes, .timeout = 60)
{
    run_echo(odd_accept, 3 * MIB + 7);
}

/* ---- sends ---- */

struct parcel {
    struct conn_send send;
    struct iovec iov;
    struct guest *guest;
    unsigned number;
    int err;
    unsigned ran;
};

static unsigned parcels_ran;

static void parcel_done(struct conn_send *send, int err)
{
    struct parcel *parcel = CONTAINER_OF(send, struct parcel, send);
    cr_assert(!parcel->guest->busy, "fn ran inside a call");
    cr_assert(!parcel->guest->closed, "fn ran after the closed fn");
    cr_assert_eq(parcel->number, parcels_ran, "out of order");
    parcels_ran++;
    parcel->ran++;
    parcel->err = err;
    parcel->guest->sends_open--;
    if (parcel->guest->sends_open == 0 && !parcel->guest->closing)
        loop_stop(parcel->guest->host->loop);
}

static void parcel_send(struct parcel *parcel, struct guest *guest, void *base, size_t len)
{
    parcel->guest = guest;
    parcel->iov = (struct iovec){base, len};
    parcel->send = (struct conn_send){.iov = &parcel->iov, .iov_count = 1};
    guest->sends_open++;
    guest->busy = true;
    conn_send(guest->conn, &parcel->send, parcel_done);
    guest->busy = false;
}

static void accept_and_stop(struct guest *guest)
{
    loop_stop(guest->host->loop);
}

/* One guest, just accepted; returns the peer's socket. */
static int host_with_one(struct host *host)
{
    parcels_ran = 0;
    host_init(host, accept_and_stop);
    int fd = peer_connect(host->port);
    cr_assert_geq(fd, 0);
    loop_run(host->loop);
    cr_assert_eq(host->accepted, 1);
    return fd;
}

BOTH_WAYS(many_small_sends_leave_in_order, .timeout = 20)
{
    enum { COUNT = 5000, LEN = 37 };
    struct host host;
    struct peer reader;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    struct parcel *parcels = calloc(COUNT, sizeof *parcels);
    unsigned char *bytes = malloc(COUNT * LEN);
    stream_fill(bytes, COUNT * LEN, 0);
    size_t at = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        size_t len = i % 5 == 0 ? 0 : LEN;
        parcels[i].number = i;
        parcel_send(&parcels[i], guest, bytes + at, len);
        at += len;
    }
    cr_assert_eq(conn_unsent_bytes(guest->conn), at);
    peer_begin(&reader, peer_receive_main, fd, 0);
    loop_run(host.loop);
    for (unsigned i = 0; i < COUNT; i++)
        cr_assert(parcels[i].ran == 1 && parcels[i].err == 0);
    cr_assert_eq(conn_unsent_bytes(guest->conn), 0);
    cr_assert_eq(conn_sent_bytes(guest->conn), at);
    host_close_all(&host);
    peer_join(&reader);
    close(fd);
    cr_assert(reader.right);
    cr_assert_eq(reader.bytes, at);
    free(parcels);
    free(bytes);
    host_fini(&host);
}

BOTH_WAYS(a_peer_that_reads_late_costs_nothing_meanwhile, .timeout = 60)
{
    enum { LEN = 40 * MIB };
    struct host host;
    struct peer reader;
    struct parcel parcel = {0};
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    unsigned char *bytes = malloc(LEN);
    stream_fill(bytes, LEN, 0);
    parcel_send(&parcel, guest, bytes, LEN);
    timer_start(&host.timer, 100); /* until the socket is full */
    loop_run(host.loop);
    host_rest(&host, 200);
    cr_assert_eq(parcel.ran, 0);
    uint64_t unsent = conn_unsent_bytes(guest->conn);
    cr_assert_gt(unsent, 0);
    cr_assert_eq(unsent + conn_sent_bytes(guest->conn), LEN);
    cr_assert_leq(conn_sent_bytes(guest->conn), MIB, "more is on its way within this host than caches hold");
    peer_begin(&reader, peer_receive_main, fd, 0);
    loop_run(host.loop);
    cr_assert_eq(parcel.ran, 1);
    cr_assert_eq(parcel.err, 0);
    cr_assert_eq(conn_unsent_bytes(guest->conn), 0);
    host_close_all(&host);
    peer_join(&reader);
    close(fd);
    cr_assert(reader.right);
    cr_assert_eq(reader.bytes, LEN);
    free(bytes);
    host_fini(&host);
}

BOTH_WAYS(a_reset_ends_sends_even_when_nothing_is_read, .timeout = 20)
{
    enum { LEN = 40 * MIB };
    struct host host;
    struct parcel parcels[2] = {{.number = 0}, {.number = 1}};
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    unsigned char *bytes = calloc(1, LEN);
    guest->limit = 0;
    parcel_send(&parcels[0], guest, bytes, LEN);
    parcel_send(&parcels[1], guest, bytes, 5);
    (void)!send(fd, "x", 1, 0); /* so that room is asked */
    timer_start(&host.timer, 50);
    loop_run(host.loop);
    cr_assert_gt(guest->rooms, 0);
    peer_reset(fd);
    loop_run(host.loop);
    cr_assert(parcels[0].err == -ECONNRESET || parcels[0].err == -EPIPE, "%d", parcels[0].err);
    cr_assert_eq(parcels[1].err, parcels[0].err);
    cr_assert_eq(conn_unsent_bytes(guest->conn), 0);
    struct parcel late = {.number = 2};
    parcel_send(&late, guest, bytes, 5);
    loop_run(host.loop);
    cr_assert_eq(late.err, parcels[0].err);
    host_rest(&host, 100);
    host_close_all(&host);
    free(bytes);
    host_fini(&host);
}

Test(conn, a_reset_is_seen_by_reading, .timeout = 20)
{
    struct host host;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    guest->on_ended = accept_and_stop;
    peer_reset(fd);
    loop_run(host.loop);
    cr_assert_eq(guest->ended, -ECONNRESET);
    host_rest(&host, 100);
    host_close_all(&host);
    host_fini(&host);
}

/* ---- fairness ---- */

struct meter {
    struct task task;
    struct guest *guest;
    uint64_t sent;
    uint64_t received;
    uint64_t most_sent;
    uint64_t most_received;
};

static void on_meter(struct task *task)
{
    struct meter *meter = CONTAINER_OF(task, struct meter, task);
    uint64_t sent = conn_sent_bytes(meter->guest->conn);
    uint64_t received = conn_received_bytes(meter->guest->conn);
    if (sent - meter->sent > meter->most_sent)
        meter->most_sent = sent - meter->sent;
    if (received - meter->received > meter->most_received)
        meter->most_received = received - meter->received;
    meter->sent = sent;
    meter->received = received;
    task_post(task);
}

BOTH_WAYS(one_turn_moves_about_a_mebibyte_each_way, .timeout = 30)
{
    enum { LEN = 40 * MIB };
    struct host host;
    struct peer reader;
    struct peer sender;
    struct parcel parcel = {0};
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    struct meter meter = {.guest = guest};
    unsigned char *bytes = malloc(LEN);
    stream_fill(bytes, LEN, 0);
    free(guest->room);
    guest->room_len = 8 * MIB;
    guest->room = malloc(guest->room_len);
    task_init(&meter.task, host.loop, on_meter);
    task_post(&meter.task);
    parcel_send(&parcel, guest, bytes, LEN);
    peer_begin(&reader, peer_receive_main, fd, 0);
    peer_begin(&sender, peer_send_main, fd, LEN);
    guest->on_ended = accept_and_stop;
    while (parcel.ran == 0 || !guest->has_ended)
        loop_run(host.loop);
    task_cancel(&meter.task);
    cr_assert_eq(guest->received, LEN);
    cr_assert_gt(meter.most_sent, 0);
    cr_assert_leq(meter.most_sent, 2 * MIB);
    cr_assert_leq(meter.most_received, MIB);
    host_close_all(&host);
    peer_join(&sender);
    peer_join(&reader);
    close(fd);
    cr_assert(reader.right);
    free(bytes);
    host_fini(&host);
}

/* ---- pausing ---- */

static void stop_at_limit(struct guest *guest, size_t len)
{
    (void)len;
    if (guest->received == guest->limit)
        loop_stop(guest->host->loop);
}

Test(conn, paused_resumed_and_what_came_before_the_end_is_not_lost, .timeout = 30)
{
    struct host host;
    struct peer sender;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    guest->limit = 100001;
    guest->on_received = stop_at_limit;
    guest->on_ended = accept_and_stop;
    peer_begin(&sender, peer_send_main, fd, 200002);
    loop_run(host.loop);
    cr_assert_eq(guest->received, 100001);
    peer_join(&sender);
    close(fd); /* all of it is in the socket: hung up, and unread */
    timer_start(&host.timer, 20);
    loop_run(host.loop);
    unsigned rooms = guest->rooms;
    host_rest(&host, 200);
    cr_assert_eq(guest->rooms, rooms, "room was asked while paused");
    guest->limit = 150000;
    conn_resume(guest->conn);
    conn_resume(guest->conn);
    loop_run(host.loop);
    cr_assert_eq(guest->received, 150000);
    cr_assert(!guest->has_ended);
    guest->limit = UINT64_MAX;
    conn_resume(guest->conn);
    timer_start(&host.timer, 20); /* paused only when room is asked again */
    loop_run(host.loop);
    conn_resume(guest->conn);
    if (!guest->has_ended)
        loop_run(host.loop);
    cr_assert_eq(guest->received, 200002);
    cr_assert_eq(conn_received_bytes(guest->conn), 200002);
    cr_assert_eq(guest->ended, 0);
    timer_stop(&host.timer);
    host_rest(&host, 100);
    host_close_all(&host);
    host_fini(&host);
}

Test(conn, a_reset_while_paused_does_not_keep_the_loop_busy, .timeout = 20)
{
    struct host host;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    guest->limit = 0;
    guest->on_room = accept_and_stop;
    guest->on_ended = accept_and_stop;
    cr_assert_eq(send(fd, "\0", 1, 0), 1); /* stream_byte(0) */
    loop_run(host.loop);
    peer_reset(fd);
    host_rest(&host, 200);
    cr_assert(!guest->has_ended);
    guest->limit = UINT64_MAX;
    guest->on_room = NULL;
    conn_resume(guest->conn);
    loop_run(host.loop);
    cr_assert_eq(guest->ended, -ECONNRESET);
    host_close_all(&host);
    host_fini(&host);
}

/* Room says 0 and in the same breath asks to be asked again. */
static void resume_inside_room(struct guest *guest)
{
    if (guest->rooms % 3 != 0) {
        guest->limit = guest->received;
        conn_resume(guest->conn);
    } else {
        guest->limit = UINT64_MAX;
    }
}

Test(conn, resumed_from_inside_room, .timeout = 20)
{
    struct host host;
    struct peer sender;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    guest->on_room = resume_inside_room;
    guest->limit = 0;
    guest->on_ended = accept_and_stop;
    peer_begin(&sender, peer_send_main, fd, MIB);
    loop_run(host.loop);
    cr_assert_eq(guest->received, MIB);
    peer_join(&sender);
    close(fd);
    host_close_all(&host);
    host_fini(&host);
}

/* ---- closing ---- */

static void close_in_room(struct guest *guest)
{
    guest_close(guest);
}

static void close_in_received(struct guest *guest, size_t len)
{
    (void)len;
    guest_close(guest);
}

static void run_close_case(void (*room)(struct guest *), void (*received)(struct guest *, size_t), void (*ended)(struct guest *))
{
    enum { LEN = 40 * MIB };
    struct host host;
    struct peer sender;
    struct parcel parcels[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    unsigned char *bytes = calloc(1, LEN);
    guest->on_room = room;
    guest->on_received = received;
    guest->on_ended = ended;
    for (unsigned i = 0; i < 3; i++)
        parcel_send(&parcels[i], guest, bytes, LEN);
    peer_begin(&sender, peer_send_main, fd, 3 * MIB);
    loop_run(host.loop);
    cr_assert(guest->closed);
    for (unsigned i = 0; i < 3; i++)
        cr_assert(parcels[i].ran == 1 && parcels[i].err == -ECANCELED);
    peer_join(&sender);
    close(fd);
    free(bytes);
    host_fini(&host);
}

BOTH_WAYS(closed_from_inside_room, .timeout = 20)
{
    run_close_case(close_in_room, NULL, NULL);
}

BOTH_WAYS(closed_from_inside_received, .timeout = 20)
{
    run_close_case(NULL, close_in_received, NULL);
}

BOTH_WAYS(closed_from_inside_ended, .timeout = 20)
{
    run_close_case(NULL, NULL, close_in_room);
}

struct closer {
    struct parcel first;
    struct parcel second;
    struct parcel third;
};

static void close_in_sent(struct conn_send *send, int err)
{
    struct closer *closer = CONTAINER_OF(send, struct closer, first.send);
    struct guest *guest = closer->first.guest;
    cr_assert_eq(err, 0);
    cr_assert(!guest->busy);
    parcels_ran++;
    guest->sends_open--;
    guest_close(guest);
    parcel_send(&closer->third, guest, "late", 4);
}

BOTH_WAYS(closed_from_inside_a_sends_fn_and_sent_on_after_that, .timeout = 20)
{
    enum { LEN = 40 * MIB };
    struct host host;
    struct closer closer = {.second.number = 1, .third.number = 2};
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    unsigned char *bytes = calloc(1, LEN);
    closer.first.guest = guest;
    closer.first.iov = (struct iovec){bytes, 10};
    closer.first.send = (struct conn_send){.iov = &closer.first.iov, .iov_count = 1};
    guest->sends_open++;
    conn_send(guest->conn, &closer.first.send, close_in_sent);
    parcel_send(&closer.second, guest, bytes, LEN);
    loop_run(host.loop);
    cr_assert(guest->closed);
    cr_assert_eq(closer.second.err, -ECANCELED);
    cr_assert_eq(closer.third.err, -ECANCELED);
    cr_assert_eq(closer.third.ran, 1);
    close(fd);
    free(bytes);
    host_fini(&host);
}

static void close_unstarted(void *arg, struct conn *conn)
{
    struct host *host = arg;
    host->guests[0] = (struct guest){.host = host, .conn = conn};
    host->accepted = 1;
    guest_close(&host->guests[0]);
}

Test(conn, closed_without_having_been_started, .timeout = 20)
{
    struct host host;
    char byte;
    host_init(&host, NULL);
    listener_close(host.listener);
    cr_assert_eq(listener_open(&host.listener, host.loop, "127.0.0.1", 0, 100, close_unstarted, &host), 0);
    int fd = peer_connect(listener_port(host.listener));
    cr_assert_geq(fd, 0);
    loop_run(host.loop);
    cr_assert_eq(recv(fd, &byte, 1, 0), 0);
    close(fd);
    host_fini(&host);
}

BOTH_WAYS(shut_down_once_all_has_left_and_still_receiving, .timeout = 30)
{
    enum { LEN = 20 * MIB };
    struct host host;
    struct peer reader;
    struct parcel parcel = {.number = 1};
    struct parcel late = {.number = 0}; /* refused at once, while the other is still leaving */
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    unsigned char *bytes = malloc(LEN);
    stream_fill(bytes, LEN, 0);
    guest->on_ended = accept_and_stop;
    parcel_send(&parcel, guest, bytes, LEN);
    conn_shutdown(guest->conn);
    parcel_send(&late, guest, bytes, 4);
    peer_begin(&reader, peer_receive_main, fd, 0);
    while (late.ran == 0 || parcel.ran == 0)
        loop_run(host.loop);
    peer_join(&reader); /* it has seen the end */
    cr_assert(reader.right);
    cr_assert_eq(reader.bytes, LEN);
    cr_assert_eq(parcel.err, 0);
    cr_assert_eq(late.err, -EPIPE);
    cr_assert(!guest->has_ended);
    cr_assert_eq(send(fd, bytes, 1000, 0), 1000);
    shutdown(fd, SHUT_WR);
    loop_run(host.loop);
    cr_assert_eq(guest->received, 1000);
    cr_assert_eq(guest->ended, 0);
    host_rest(&host, 100);
    host_close_all(&host);
    close(fd);
    free(bytes);
    host_fini(&host);
}

/* ---- sends that are not copied ---- */

static bool notices_withheld;
static unsigned every_nth_enobufs; /* 0: none */
static size_t call_most = SIZE_MAX;
static bool zero_copy_unknown;
static unsigned zero_copy_calls, enobufs_count, error_queue_looks;

ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len);

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    struct iovec first = msg->msg_iov[0];
    struct msghdr less = *msg;
    if (!(flags & MSG_ZEROCOPY))
        return __real_sendmsg(fd, msg, flags);
    zero_copy_calls++;
    if (every_nth_enobufs > 0 && zero_copy_calls % every_nth_enobufs == 0) {
        enobufs_count++;
        errno = ENOBUFS;
        return -1;
    }
    if (call_most == SIZE_MAX)
        return __real_sendmsg(fd, msg, flags);
    first.iov_len = first.iov_len < call_most ? first.iov_len : call_most;
    less.msg_iov = &first;
    less.msg_iovlen = 1;
    return __real_sendmsg(fd, &less, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    error_queue_looks += (flags & MSG_ERRQUEUE) != 0;
    if (!notices_withheld || !(flags & MSG_ERRQUEUE))
        return __real_recvmsg(fd, msg, flags);
    errno = EAGAIN;
    return -1;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    if (!zero_copy_unknown || level != SOL_SOCKET || name != SO_ZEROCOPY)
        return __real_setsockopt(fd, level, name, value, len);
    errno = ENOPROTOOPT;
    return -1;
}

/* The same as host_rest(), also where others keep the processor busy: an error queue that is looked at in each turn. */
static void rest_withheld(struct host *host, uint64_t ms)
{
    unsigned before = error_queue_looks;
    host_rest(host, ms);
    cr_assert_leq(error_queue_looks - before, ms, "the loop was busy");
}

/* Sends of these sizes, all under way at once. */
struct batch {
    struct parcel parcels[64];
    unsigned char *bytes;
    unsigned count;
    size_t len, large_len;
};

static void batch_send(struct batch *batch, struct guest *guest, const size_t *sizes, unsigned count)
{
    *batch = (struct batch){.count = count};
    for (unsigned i = 0; i < count; i++) {
        batch->len += sizes[i];
        batch->large_len += sizes[i] >= 64 * 1024 ? sizes[i] : 0;
    }
    batch->bytes = malloc(batch->len);
    stream_fill(batch->bytes, batch->len, 0);
    size_t at = 0;
    for (unsigned i = 0; i < count; i++) {
        batch->parcels[i].number = i;
        parcel_send(&batch->parcels[i], guest, batch->bytes + at, sizes[i]);
        at += sizes[i];
    }
}

static unsigned batch_ran(const struct batch *batch)
{
    unsigned ran = 0;
    for (unsigned i = 0; i < batch->count; i++)
        ran += batch->parcels[i].ran;
    return ran;
}

static void batch_check(const struct batch *batch, int err)
{
    for (unsigned i = 0; i < batch->count; i++) {
        cr_assert_eq(batch->parcels[i].ran, 1);
        cr_assert_eq(batch->parcels[i].err, err, "%d", batch->parcels[i].err);
    }
}

/* The peer takes all of it. */
static void run_batch(const size_t *sizes, unsigned count, struct conns_figures *figures, struct batch *batch)
{
    struct host host;
    struct peer reader;
    zero_copy = true;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    batch_send(batch, guest, sizes, count);
    peer_begin(&reader, peer_receive_main, fd, 0);
    loop_run(host.loop);
    batch_check(batch, 0);
    cr_assert_eq(conn_unsent_bytes(guest->conn), 0);
    cr_assert_eq(conn_sent_bytes(guest->conn), batch->len);
    conns_figures(host.loop, figures);
    cr_assert_eq(figures->zero_copy_lent_bytes, 0);
    host_rest(&host, 100);
    host_close_all(&host);
    peer_join(&reader);
    close(fd);
    cr_assert(reader.right);
    cr_assert_eq(reader.bytes, batch->len);
    free(batch->bytes);
    host_fini(&host);
}

static const size_t mixed_sizes[] = {100, 64 * 1024, 64 * 1024 - 1, 3 * MIB, 5, 0, MIB, 70000, 70000, 20 * MIB + 1, 4000, MIB};
enum { MIXED = sizeof mixed_sizes / sizeof mixed_sizes[0] };

Test(zero_copy, large_sends_are_lent_and_small_ones_copied_in_order, .timeout = 30)
{
    struct conns_figures figures;
    struct batch batch;
    run_batch(mixed_sizes, MIXED, &figures, &batch);
    cr_assert_leq(figures.zero_copy_sends, zero_copy_calls, "some took nothing");
    cr_assert_leq(figures.zero_copy_bytes, batch.large_len);
    cr_assert_gt(figures.zero_copy_bytes, batch.large_len / 2, "ends of less than 64 KiB are copied");
    cr_assert_eq(figures.zero_copy_copied, figures.zero_copy_sends, "over loopback the kernel copies all the same");
    cr_assert_eq(figures.zero_copy_fallbacks, 0);
}

Test(zero_copy, without_memory_for_a_notice_it_is_a_copy, .timeout = 30)
{
    struct conns_figures figures;
    struct batch batch;
    every_nth_enobufs = 3;
    run_batch(mixed_sizes, MIXED, &figures, &batch);
    cr_assert_gt(enobufs_count, 3);
    cr_assert_gt(figures.zero_copy_sends, 0);
    cr_assert_leq(figures.zero_copy_sends + enobufs_count, zero_copy_calls);
    cr_assert_gt(figures.zero_copy_fallbacks, 0);
    cr_assert_leq(figures.zero_copy_fallbacks, enobufs_count);
}

Test(zero_copy, without_any_memory_for_notices_all_are_copies, .timeout = 30)
{
    struct conns_figures figures;
    struct batch batch;
    every_nth_enobufs = 1;
    run_batch(mixed_sizes, MIXED, &figures, &batch);
    cr_assert_eq(figures.zero_copy_sends, 0);
    cr_assert_gt(figures.zero_copy_fallbacks, 0);
}

Test(zero_copy, where_the_kernel_does_not_know_it_all_are_copies, .timeout = 30)
{
    struct conns_figures figures;
    struct batch batch;
    zero_copy_unknown = true;
    run_batch(mixed_sizes, MIXED, &figures, &batch);
    cr_assert_eq(zero_copy_calls, 0);
    cr_assert_eq(figures.zero_copy_sends + figures.zero_copy_fallbacks, 0);
}

/* Until the peer has read all that has been sent. */
static void run_until_read(struct host *host, int fd, size_t len)
{
    unsigned char *bytes = malloc(len);
    size_t at = 0;
    while (at < len) {
        timer_start(&host->timer, 1);
        loop_run(host->loop);
        ssize_t got = recv(fd, bytes + at, len - at, MSG_DONTWAIT);
        at += got > 0 ? (size_t)got : 0;
    }
    cr_assert(stream_is(bytes, len, 0));
    free(bytes);
}

Test(zero_copy, nothing_is_given_back_before_the_kernel_says_so, .timeout = 30)
{
    static const size_t sizes[] = {10, 200000, 20, 300000, 30};
    struct host host;
    struct batch batch;
    zero_copy = notices_withheld = true;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    batch_send(&batch, guest, sizes, 5);
    run_until_read(&host, fd, batch.len);
    cr_assert_eq(batch_ran(&batch), 1, "all but the first lie behind bytes that are lent");
    struct conns_figures figures;
    conns_figures(host.loop, &figures);
    uint64_t lent = figures.zero_copy_lent_bytes;
    cr_assert_gt(lent, 0);
    cr_assert_eq(conn_unsent_bytes(guest->conn), lent);
    cr_assert_eq(conn_sent_bytes(guest->conn) + lent, batch.len);
    timer_start(&host.timer, 100);
    loop_run(host.loop);
    cr_assert_eq(batch_ran(&batch), 1);
    notices_withheld = false;
    loop_run(host.loop);
    batch_check(&batch, 0);
    cr_assert_eq(conn_unsent_bytes(guest->conn), 0);
    host_rest(&host, 50);
    host_close_all(&host);
    close(fd);
    free(batch.bytes);
    host_fini(&host);
}

Test(zero_copy, an_urgent_byte_while_nothing_is_read_does_not_keep_the_loop_busy, .timeout = 30)
{
    static const size_t sizes[] = {200000};
    struct host host;
    struct batch batch;
    zero_copy = notices_withheld = true;
    int fd = host_with_one(&host);
    struct guest *guest = &host.guests[0];
    guest->limit = 0;
    batch_send(&batch, guest, sizes, 1);
    cr_assert_eq(send(fd, "x", 1, 0), 1);
    cr_assert_eq(send(fd, "!", 1, MSG_OOB), 1);
    run_until_read(&host, fd, batch.len);
    rest_withheld(&host, 300);
    cr_assert_eq(batch_ran(&batch), 0);
    notices_withheld = false;
    loop_run(host.loop);
    batch_check(&batch, 0);
    host_rest(&host, 100);
    host_close_all(&host);
    close(fd);
    free(batch.bytes);
    host_fini(&host);
}

Test(zero_copy, more_calls_than_can_be_remembered_are_copies, .timeout = 60)
{
    enum { LEN = 40 * MIB, CALL = 64 * 1024, CALLS = 256 };
    static const size_t sizes[] = {LEN};
    struct host host;
    struct batch batch;
    zero_copy = notices_withheld = true;
    call_most = CALL;
    int fd = host_with_one(&host);
    batch_send(&batch, &host.guests[0], sizes, 1);
    run_until_read(&host, fd, LEN);
    struct conns_figures figures;
    conns_figures(host.loop, &figures);
    cr_assert_eq(figures.zero_copy_sends, CALLS);
    cr_assert_gt(figures.zero_copy_fallbacks, 0);
    cr_assert_eq(figures.zero_copy_lent_bytes, figures.zero_copy_bytes);
    cr_assert_eq(batch_ran(&batch), 0);
    notices_withheld = false;
    loop_run(host.loop);
    batch_check(&batch, 0);
    host_close_all(&host);
    close(fd);
    free(batch.bytes);
    host_fini(&host);
}

/* The peer reads nothing; the socket is full. */
static int host_with_a_full_socket(struct host *host, struct batch *batch)
{
    static const size_t sizes[] = {10, 200000, 20 * MIB, 30, 20 * MIB};
    zero_copy = notices_withheld = true;
    int fd = host_with_one(host);
    batch_send(batch, &host->guests[0], sizes, 5);
    timer_start(&host->timer, 100);
    loop_run(host->loop);
    cr_assert_eq(batch_ran(batch), 1);
    struct conns_figures figures;
    conns_figures(host->loop, &figures);
    cr_assert_gt(figures.zero_copy_lent_bytes, 0);
    return fd;
}

Test(zero_copy, closed_only_when_the_kernel_has_let_go, .timeout = 30)
{
    struct host host;
    struct batch batch;
    int fd = host_with_a_full_socket(&host, &batch);
    struct guest *guest = &host.guests[0];
    guest_close(guest);
    rest_withheld(&host, 200);
    cr_assert(!guest->closed);
    cr_assert_eq(batch_ran(&batch), 1);
    unsigned char *bytes = malloc(batch.len);
    ssize_t got;
    size_t len = 0;
    while ((got = recv(fd, bytes + len, batch.len - len, 0)) > 0)
        len += (size_t)got;
    cr_assert_eq(errno, ECONNRESET, "the kernel has forgotten what it had not sent");
    cr_assert_lt(len, batch.len);
    cr_assert(stream_is(bytes, len, 0));
    notices_withheld = false;
    loop_run(host.loop);
    cr_assert(guest->closed);
    cr_assert_eq(batch.parcels[0].err, 0);
    for (unsigned i = 1; i < batch.count; i++)
        cr_assert(batch.parcels[i].ran == 1 && batch.parcels[i].err == -ECANCELED);
    struct conns_figures figures;
    conns_figures(host.loop, &figures);
    cr_assert_eq(figures.zero_copy_lent_bytes, 0);
    close(fd);
    free(bytes);
    free(batch.bytes);
    host_fini(&host);
}

/* Its seat is free when it is gone, not before. */
Test(zero_copy, closed_at_once_where_the_kernel_lets_go_at_once, .timeout = 30)
{
    struct host host;
    struct batch batch;
    int fd = host_with_a_full_socket(&host, &batch);
    notices_withheld = false;
    guest_close(&host.guests[0]);
    loop_run(host.loop);
    cr_assert(host.guests[0].closed);
    cr_assert_eq(batch_ran(&batch), batch.count);
    close(fd);
    free(batch.bytes);
    host_fini(&host);
}

static void run_reset(void (*end)(int fd))
{
    struct host host;
    struct batch batch;
    int fd = host_with_a_full_socket(&host, &batch);
    struct guest *guest = &host.guests[0];
    guest->on_ended = accept_and_stop;
    end(fd);
    loop_run(host.loop);
    cr_assert(guest->has_ended);
    rest_withheld(&host, 200);
    cr_assert_eq(batch_ran(&batch), 1);
    cr_assert_gt(conn_unsent_bytes(guest->conn), 0);
    notices_withheld = false;
    loop_run(host.loop);
    cr_assert_eq(batch.parcels[0].err, 0);
    for (unsigned i = 1; i < batch.count; i++)
        cr_assert(batch.parcels[i].ran == 1);
    cr_assert(batch.parcels[4].err == -EPIPE || batch.parcels[4].err == -ECONNRESET, "%d", batch.parcels[4].err);
    cr_assert_eq(conn_unsent_bytes(guest->conn), 0);
    host_rest(&host, 100);
    host_close_all(&host);
    free(batch.bytes);
    host_fini(&host);
}

Test(zero_copy, a_reset_in_the_midst, .timeout = 30)
{
    run_reset(peer_reset);
}

static void peer_close(int fd)
{
    close(fd);
}

Test(zero_copy, a_peer_that_reads_nothing_and_closes, .timeout = 30)
{
    run_reset(peer_close);
}

Test(zero_copy, off_means_off, .timeout = 30)
{
    static const size_t sizes[] = {4 * MIB};
    struct host host;
    struct peer reader;
    struct batch batch;
    struct conns_figures figures;
    int fd = host_with_one(&host);
    batch_send(&batch, &host.guests[0], sizes, 1);
    peer_begin(&reader, peer_receive_main, fd, 0);
    loop_run(host.loop);
    batch_check(&batch, 0);
    conns_figures(host.loop, &figures);
    cr_assert_eq(zero_copy_calls, 0);
    cr_assert_eq(figures.zero_copy_sends + figures.zero_copy_bytes + figures.zero_copy_fallbacks, 0);
    host_close_all(&host);
    peer_join(&reader);
    close(fd);
    free(batch.bytes);
    host_fini(&host);
}

/* ---- listeners ---- */

Test(listener, taken_ports_and_bad_hosts, .timeout = 20)
{
    struct host host;
    struct listener *other = NULL;
    host_init(&host, NULL);
    cr_assert_eq(listener_open(&other, host.loop, "127.0.0.1", host.port, 1, host_accepted, &host), -EADDRINUSE);
    cr_assert_eq(listener_open(&other, host.loop, "192.0.2.1", 0, 1, host_accepted, &host), -EADDRNOTAVAIL);
    cr_assert_eq(listener_open(&other, host.loop, "not a host", 0, 1, host_accepted, &host), KVD_EUSAGE);
    cr_assert_null(other);
    host_fini(&host);
}

Test(listener, the_port_is_free_at_once_even_with_a_connection_left, .timeout = 20)
{
    struct host host;
    int fd = host_with_one(&host);
    uint16_t port = host.port;
    listener_close(host.listener);
    cr_assert_eq(peer_connect(port), -1);
    cr_assert_eq(listener_open(&host.listener, host.loop, "127.0.0.1", port, 100, host_accepted, &host), 0);
    int second = peer_connect(port);
    cr_assert_geq(second, 0);
    loop_run(host.loop);
    cr_assert_eq(host.accepted, 2);
    host_close_all(&host);
    close(fd);
    close(second);
    host_fini(&host);
}

static void accept_quietly(struct guest *guest)
{
    (void)guest;
}

static void on_closed_nothing(struct guest *guest)
{
    loop_stop(guest->host->loop);
}

Test(listener, no_more_than_max_conns, .timeout = 20)
{
    struct host host;
    int fds[3];
    host_init(&host, accept_quietly);
    listener_close(host.listener);
    cr_assert_eq(listener_open(&host.listener, host.loop, "127.0.0.1", 0, 2, host_accepted, &host), 0);
    for (unsigned i = 0; i < 3; i++) {
        fds[i] = peer_connect(listener_port(host.listener));
        cr_assert_geq(fds[i], 0);
    }
    host_rest(&host, 100);
    cr_assert_eq(host.accepted, 2);
    host.on_accept = accept_and_stop;
    host.guests[0].on_closed = accept_quietly;
    guest_close(&host.guests[0]);
    loop_run(host.loop);
    cr_assert_eq(host.accepted, 3);
    cr_assert(host.guests[0].closed);
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
    host.guests[1].on_closed = on_closed_nothing;
    host_close_all(&host);
    while (host.gone < 3)
        loop_run(host.loop);
    host_fini(&host);
}

Test(listener, out_of_descriptors_it_rests_and_goes_on_later, .timeout = 20)
{
    struct host host;
    struct rlimit limit;
    host_init(&host, accept_and_stop);
    timer_start(&host.timer, 10); /* whatever libuv opens late */
    loop_run(host.loop);
    int fd = peer_connect(host.port);
    cr_assert_geq(fd, 0);
    int next = dup(fd);
    cr_assert_geq(next, 0);
    close(next);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit low = {.rlim_cur = (rlim_t)next, .rlim_max = limit.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    host_rest(&host, 250);
    cr_assert_eq(host.accepted, 0);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    loop_run(host.loop);
    cr_assert_eq(host.accepted, 1);
    host_close_all(&host);
    close(fd);
    host_fini(&host);
}

Test(listener, loopback_addresses)
{
    cr_assert(address_is_loopback("127.0.0.1"));
    cr_assert(address_is_loopback("127.9.8.7"));
    cr_assert(address_is_loopback("::1"));
    struct addrinfo *known = NULL;
    if (getaddrinfo("localhost", NULL, NULL, &known) == 0) { /* not where there is no hosts file */
        cr_assert(address_is_loopback("localhost"));
        freeaddrinfo(known);
    }
    cr_assert(!address_is_loopback("0.0.0.0"));
    cr_assert(!address_is_loopback("::"));
    cr_assert(!address_is_loopback("192.0.2.1"));
    cr_assert(!address_is_loopback("2001:db8::1"));
    cr_assert(!address_is_loopback("not a host"));
    cr_assert(!address_is_loopback(""));
}

Test(listener, numeric_addresses)
{
    cr_assert(address_is_numeric("192.0.2.1"));
    cr_assert(address_is_numeric("2001:db8::1"));
    cr_assert(!address_is_numeric("localhost"));
    cr_assert(!address_is_numeric("192.0.2.1 "));
    cr_assert(!address_is_numeric("192.0.2.1 x"));
}
