/* sim_conn.c - src/loop/conn.h over pipes in memory, and the client's end of them. Bytes arrive in slices of any size, at any time. */
#include "loop/conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/sum.h"
#include "sim.h"

enum { TURN_BYTES = 1 << 20, TURN_READS = 16 };

struct queue {
    uint8_t *at;
    size_t head, len, room; /* `len` bytes from `head` on */
};

/* Between a client and the server. Goes when both ends are closed. */
struct wire {
    struct list link; /* sim->wires */
    struct host *host;
    const struct wire_events *events;
    void *owner;
    struct conn *conn;
    uint32_t number, life;
    struct queue up, down;
    size_t arrived; /* of `up` */
    size_t window;  /* `down` holds no more */
    bool fin, reset, client_gone, server_gone, told_open;
    struct event *up_event, *down_event, *write_event;
};

struct listener {
    struct loop *loop;
    listener_fn fn;
    struct listener_place own;
    struct listener_place *places;
    unsigned place_count;
};

/* Bytes that the kernel reads where they lie: they stay the same until it lets them go. */
struct part {
    struct list link; /* conn->parts */
    uint32_t number;
    size_t len;
    const void *at;
    uint64_t sum;
};

struct conn {
    struct wire *wire; /* NULL once closed */
    struct loop *loop;
    const struct conn_events *events;
    void *owner;
    conn_closed_fn closed;
    void *closed_owner;
    struct list dirty, queued, finished;
    struct list lent;  /* sends that are through, and wait for bytes of theirs, or of one before them */
    struct list parts; /* not let go, in their order */
    uint32_t part_number;
    uint64_t lent_bytes;
    struct event *letting_go;
    struct task task;
    struct task arrival; /* on its loop */
    struct listener_place *place;
    listener_fn taken;
    uint64_t unsent_bytes, sent_bytes, received_bytes;
    int send_err;
    bool ended, paused, resumed, blocked, shutdown_wanted, closing;
};

/* ---- bytes ---- */

static void queue_add(struct queue *queue, const void *at, size_t len)
{
    if (queue->head > 0 && queue->head + queue->len + len > queue->room) {
        memmove(queue->at, queue->at + queue->head, queue->len);
        queue->head = 0;
    }
    if (queue->len + len > queue->room) {
        queue->room = 2 * (queue->len + len);
        queue->at = sim_grow(queue->at, queue->room);
    }
    memcpy(queue->at + queue->head + queue->len, at, len);
    queue->len += len;
}

static void queue_skip(struct queue *queue, size_t len)
{
    queue->head += len;
    queue->len -= len;
    if (queue->len == 0)
        queue->head = 0;
}

static uint64_t travel_us(void)
{
    if (sim->scenario.slow_network)
        return chance_one_in(50) ? chance_delay(2 * SECOND) : chance_delay(5 * MS);
    return chance_one_in(500) ? chance_delay(SECOND) : chance_delay(200);
}

static size_t slice(size_t len)
{
    if (len < 2 || chance_one_in(3))
        return len;
    return 1 + chance_below(chance_one_in(2) ? len : min_u64(len, 64));
}

/* ---- the wire ---- */

static void wire_free(struct wire *wire)
{
    if (wire->up_event)
        event_cancel(wire->up_event);
    if (wire->down_event)
        event_cancel(wire->down_event);
    if (wire->write_event)
        event_cancel(wire->write_event);
    list_remove(&wire->link);
    sim_free(wire->up.at);
    sim_free(wire->down.at);
    sim_free(wire);
}

static void wire_free_maybe(struct wire *wire)
{
    if (wire->client_gone && wire->server_gone && !wire->conn)
        wire_free(wire);
}

static void conn_readable(struct conn *conn);
static void conn_flush(struct conn *conn);
static void conn_tasked(struct task *task);

static void up_arrives(void *arg);

static void up_go(struct wire *wire)
{
    bool more = wire->up.len > 0 || wire->fin || wire->reset;
    if (!wire->up_event && wire->conn && more)
        wire->up_event = event_add(travel_us(), true, up_arrives, wire);
}

static void up_arrives(void *arg)
{
    struct wire *wire = arg;
    wire->up_event = NULL;
    if (!wire->conn)
        return;
    wire->arrived += slice(wire->up.len - wire->arrived);
    note("arrive", wire->number, wire->arrived, wire->up.len);
    conn_readable(wire->conn);
}

static void write_again(void *arg)
{
    struct wire *wire = arg;
    wire->write_event = NULL;
    if (wire->conn && wire->conn->blocked)
        conn_flush(wire->conn);
}

static void down_arrives(void *arg);

static void down_go(struct wire *wire)
{
    if (!wire->down_event && !wire->client_gone && (wire->down.len > 0 || wire->server_gone))
        wire->down_event = event_add(travel_us(), false, down_arrives, wire);
}

static void down_arrives(void *arg)
{
    struct wire *wire = arg;
    wire->down_event = NULL;
    if (wire->client_gone)
        return;
    if (wire->down.len == 0) {
        wire->client_gone = wire->fin = true;
        if (wire->conn)
            up_go(wire);
        wire->events->ended(wire->owner);
        wire_free_maybe(wire);
        return;
    }
    uint8_t part[16384];
    size_t len = min_u64(slice(wire->down.len), sizeof part);
    memcpy(part, wire->down.at + wire->down.head, len);
    queue_skip(&wire->down, len);
    note("deliver", wire->number, len, wire->down.len);
    if (wire->conn && wire->conn->blocked && !wire->write_event)
        wire->write_event = event_add(chance_below(100), true, write_again, wire);
    down_go(wire);
    wire->events->received(wire->owner, part, len);
}

static void told_open(void *arg)
{
    struct wire *wire = arg;
    wire->down_event = NULL;
    wire->told_open = true;
    down_go(wire);
    if (!wire->client_gone)
        wire->events->opened(wire->owner);
}

static struct listener_place *place_choose(const struct listener *listener)
{
    struct listener_place *fewest = listener->places;
    for (unsigned i = 1; i < listener->place_count; i++)
        if (listener->places[i].conns < fewest->conns)
            fewest = &listener->places[i];
    fewest->conns++;
    return fewest;
}

static void conn_arrives(struct task *task)
{
    struct conn *conn = CONTAINER_OF(task, struct conn, arrival);
    conn->taken(conn->place->arg, conn);
}

static void accept_one(void *arg)
{
    struct wire *wire = arg;
    struct listener *listener = sim->host->listener;
    wire->up_event = NULL;
    if (!listener || wire->client_gone) {
        wire->server_gone = true;
        down_go(wire);
        wire_free_maybe(wire);
        return;
    }
    struct conn *conn = seam_alloc(16, sizeof *conn);
    conn->wire = wire;
    conn->place = place_choose(listener);
    conn->loop = conn->place->loop;
    list_init(&conn->dirty);
    list_init(&conn->queued);
    list_init(&conn->finished);
    list_init(&conn->lent);
    list_init(&conn->parts);
    task_init(&conn->task, conn->loop, conn_tasked);
    loop_parts(conn->loop)->open_conns++;
    wire->conn = conn;
    wire->life = sim->host->life->number;
    wire->down_event = event_add(travel_us(), false, told_open, wire);
    conn->taken = listener->fn;
    task_init(&conn->arrival, conn->loop, conn_arrives);
    if (conn->loop == listener->loop)
        conn_arrives(&conn->arrival);
    else
        loop_post(&conn->arrival);
}

static void arrive_at_listener(void *arg)
{
    struct wire *wire = arg;
    wire->down_event = NULL;
    if (sim->host->listener && !wire->client_gone) {
        wire->up_event = event_add(0, true, accept_one, wire);
        return;
    }
    wire->server_gone = true;
    down_go(wire);
    wire_free_maybe(wire);
}

struct wire *wire_connect(const struct wire_events *events, void *owner)
{
    struct wire *wire = sim_alloc(sizeof *wire);
    wire->events = events;
    wire->owner = owner;
    wire->host = sim->host;
    wire->number = ++sim->wire_number;
    wire->window = chance_one_in(2) ? chance_between(512, 16384) : chance_between(16384, 1 << 20);
    list_push_back(&sim->wires, &wire->link);
    wire->down_event = event_add(travel_us(), false, arrive_at_listener, wire);
    return wire;
}

void wire_send(struct wire *wire, const void *at, size_t len)
{
    if (wire->client_gone || wire->fin)
        return;
    queue_add(&wire->up, at, len);
    up_go(wire);
}

void wire_close(struct wire *wire, bool reset)
{
    if (wire->client_gone)
        return;
    wire->client_gone = true;
    wire->fin = true;
    wire->reset = reset;
    if (wire->down_event && wire->told_open) {
        event_cancel(wire->down_event);
        wire->down_event = NULL;
    }
    if (reset) {
        wire->up.len = wire->arrived = 0;
        wire->up.head = 0;
        sim->figures.resets++;
    }
    up_go(wire);
    if (wire->conn && wire->conn->blocked && !wire->write_event)
        wire->write_event = event_add(travel_us(), true, write_again, wire);
    wire_free_maybe(wire);
}

uint32_t wire_life(const struct wire *wire)
{
    return wire->life;
}

uint32_t wire_id(const struct wire *wire)
{
    return wire->number;
}

/* This server's ends are gone with its memory. What it had sent may still arrive. */
void wires_crash(void)
{
    sim->host->listener = NULL;
    for (struct list *at = sim->wires.next, *next; at != &sim->wires; at = next) {
        struct wire *wire = CONTAINER_OF(at, struct wire, link);
        next = at->next;
        if (wire->host != sim->host)
            continue;
        bool there = wire->conn || wire->up_event;
        wire->up_event = wire->write_event = NULL;
        wire->conn = NULL;
        if (!there)
            continue; /* on its way to it, or through with it */
        wire->server_gone = true;
        if (chance_one_in(2))
            queue_skip(&wire->down, wire->down.len);
        down_go(wire);
        wire_free_maybe(wire);
    }
}

void wires_free(void)
{
    for (struct list *at; (at = list_first(&sim->wires)) != NULL;)
        wire_free(CONTAINER_OF(at, struct wire, link));
}

/* ---- listeners ---- */

int listener_open(struct listener **out, struct loop *loop, const char *host, uint16_t port, unsigned max_conns, listener_fn fn, void *arg)
{
    (void)host, (void)port, (void)max_conns;
    struct listener *listener = seam_alloc(16, sizeof *listener);
    *listener = (struct listener){.loop = loop, .fn = fn, .own = {.loop = loop, .arg = arg}};
    listener_spread(listener, &listener->own, 1);
    loop_parts(loop)->open_listeners++;
    sim->host->listener = listener;
    *out = listener;
    return 0;
}

/* Of many hosts alone, which the simulator does not have yet. */
int conn_connect(struct conn **out, struct loop *loop, const char *host, uint16_t port)
{
    (void)out;
    (void)loop;
    (void)host;
    (void)port;
    return -ECONNREFUSED;
}

void listener_spread(struct listener *listener, struct listener_place *places, unsigned count)
{
    listener->places = places;
    listener->place_count = count;
}

uint16_t listener_port(const struct listener *listener)
{
    (void)listener;
    return 7950;
}

void listener_close(struct listener *listener)
{
    loop_parts(listener->loop)->open_listeners--;
    sim->host->listener = NULL;
    free(listener);
}

bool address_is_loopback(const char *host)
{
    (void)host;
    return true;
}

bool address_is_numeric(const char *host)
{
    (void)host;
    return true;
}

/* ---- the server's end: receiving ---- */

static void conn_end(struct conn *conn, int err)
{
    conn->ended = true;
    note("conn.ended", conn->wire->number, (uint64_t)-err, 0);
    history_wire_ended(conn->wire->number);
    conn->events->ended(conn->owner, err);
}

static size_t read_once(struct conn *conn, size_t budget)
{
    void *base = NULL;
    size_t len = 0;
    struct wire *wire = conn->wire;
    conn->paused = true;
    conn->events->room(conn->owner, &base, &len);
    if (conn->closing || len == 0)
        return 0;
    conn->paused = false;
    len = min_u64(len, budget);
    if (wire->reset || wire->arrived == 0) {
        if (wire->reset || (wire->fin && wire->up.len == 0))
            conn_end(conn, wire->reset ? -ECONNRESET : 0);
        return 0;
    }
    size_t got = min_u64(len, wire->arrived);
    memcpy(base, wire->up.at + wire->up.head, got);
    queue_skip(&wire->up, got);
    wire->arrived -= got;
    conn->received_bytes += got;
    conn->events->received(conn->owner, got);
    return got == len ? len : 0;
}

static void conn_readable(struct conn *conn)
{
    size_t budget = TURN_BYTES;
    for (unsigned i = 0; i < TURN_READS && budget > 0 && conn->events && !conn->ended && !conn->paused && !conn->closing; i++) {
        size_t got = read_once(conn, budget);
        if (got == 0)
            break;
        budget -= got;
    }
    if (conn->events && !conn->closing && !conn->ended && !conn->paused)
        up_go(conn->wire);
}

void conn_start(struct conn *conn, const struct conn_events *events, void *owner)
{
    CHECK(!conn->events && !conn->closing);
    conn->events = events;
    conn->owner = owner;
    up_go(conn->wire);
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
    struct list *first = conn->parts.next;
    return send->lent && first != &conn->parts && CONTAINER_OF(first, struct part, link)->number <= send->last_call && !planted(PLANT_LENT);
}

static void send_finish(struct conn *conn, struct conn_send *send, int err)
{
    CHECK(!send->done);
    send->done = true;
    send->err = err;
    list_remove(&send->link);
    bool waits = !list_empty(&conn->lent) || send_is_lent(conn, send);
    list_push_back(waits ? &conn->lent : &conn->finished, &send->link);
}

static void lets_go(void *arg);

/* It does when the peer's kernel has them; or, where the network card has them still, at any time after that. */
static void let_go_soon(struct conn *conn)
{
    if (!conn->letting_go && !list_empty(&conn->parts))
        conn->letting_go = event_add(chance_one_in(10) ? chance_delay(SECOND) : chance_delay(10 * MS), true, lets_go, conn);
}

static void part_lend(struct conn *conn, struct conn_send *send, const void *at, size_t len)
{
    struct part *part = seam_alloc(16, sizeof *part);
    *part = (struct part){.number = conn->part_number++, .len = len, .at = at, .sum = sum_of(at, len)};
    list_push_back(&conn->parts, &part->link);
    send->lent = true;
    send->last_call = part->number;
    conn->lent_bytes += len;
    let_go_soon(conn);
}

static void part_let_go(struct conn *conn, struct part *part)
{
    if (sum_of(part->at, part->len) != part->sum)
        sim_fail("%zu bytes were changed while the kernel still read them", part->len);
    conn->lent_bytes -= part->len;
    sim->figures.lent_bytes += part->len;
    free(part);
}

static void conn_closed(void *arg);

static void lets_go(void *arg)
{
    struct conn *conn = arg;
    struct list *at;
    conn->letting_go = NULL;
    for (uint64_t count = 1 + chance_below(8); count > 0 && (at = list_pop_front(&conn->parts)) != NULL; count--)
        part_let_go(conn, CONTAINER_OF(at, struct part, link));
    while ((at = list_first(&conn->lent)) != NULL && !send_is_lent(conn, CONTAINER_OF(at, struct conn_send, link))) {
        list_remove(at);
        list_push_back(&conn->finished, at);
    }
    let_go_soon(conn);
    if (!conn->closing && !list_empty(&conn->finished))
        task_post(&conn->task);
    else if (conn->closing && list_empty(&conn->parts))
        conn_closed(conn);
}

static void fail_sends(struct conn *conn, int err)
{
    for (struct list *at; (at = list_first(&conn->queued)) != NULL;)
        send_finish(conn, CONTAINER_OF(at, struct conn_send, link), err);
    conn->unsent_bytes = 0;
}

static void make_dirty(struct conn *conn)
{
    if (list_empty(&conn->dirty))
        list_push_back(&loop_parts(conn->loop)->dirty_conns, &conn->dirty);
}

/* As much of one send as the wire takes. True: all of it. */
static bool send_some(struct conn *conn, struct conn_send *send)
{
    struct queue *down = &conn->wire->down;
    for (; send->iov_count > 0; send->iov++, send->iov_count--) {
        size_t room = conn->wire->window > down->len ? conn->wire->window - down->len : 0;
        size_t part = min_u64(send->iov->iov_len, room);
        if (part > 0)
            queue_add(down, send->iov->iov_base, part);
        if (part > 0 && send->large)
            part_lend(conn, send, send->iov->iov_base, part);
        send->iov->iov_base = (char *)send->iov->iov_base + part;
        send->iov->iov_len -= part;
        conn->unsent_bytes -= part;
        conn->sent_bytes += part;
        if (send->iov->iov_len > 0)
            return false;
    }
    return true;
}

static void conn_flush(struct conn *conn)
{
    struct wire *wire = conn->wire;
    conn->blocked = false;
    if (wire->client_gone && !conn->send_err && !list_empty(&conn->queued)) {
        conn->send_err = -EPIPE;
        fail_sends(conn, conn->send_err);
    }
    for (struct list *at; (at = list_first(&conn->queued)) != NULL && !conn->blocked;) {
        struct conn_send *send = CONTAINER_OF(at, struct conn_send, link);
        if (send_some(conn, send))
            send_finish(conn, send, 0);
        else
            conn->blocked = true;
    }
    if (conn->shutdown_wanted && !conn->send_err && list_empty(&conn->queued)) {
        conn->send_err = -EPIPE;
        wire->server_gone = true;
    }
    down_go(wire);
    if (!list_empty(&conn->finished))
        task_post(&conn->task);
}

void conns_turn(struct loop *loop)
{
    struct list now;
    list_init(&now);
    list_move_all(&now, &loop_parts(loop)->dirty_conns);
    for (struct list *at; (at = list_pop_front(&now)) != NULL;) {
        struct conn *conn = CONTAINER_OF(at, struct conn, dirty);
        if (!conn->blocked)
            conn_flush(conn);
    }
}

bool conns_dirty(const struct loop *loop)
{
    return !list_empty(&loop_parts((struct loop *)(uintptr_t)loop)->dirty_conns);
}

void conn_send(struct conn *conn, struct conn_send *send, conn_send_fn fn)
{
    CHECK(!loop_is_held(conn->loop));
    send->fn = fn;
    send->done = false;
    send->lent = false;
    send->large = loop_parts(conn->loop)->zero_copy_sends && chance_one_in(2);
    send->err = 0;
    list_push_back(&conn->queued, &send->link);
    if (conn->closing || conn->send_err || conn->shutdown_wanted) {
        int err = conn->closing ? -ECANCELED : conn->send_err ? conn->send_err : -EPIPE;
        send_finish(conn, send, err);
        if (!conn->closing)
            task_post(&conn->task);
        return;
    }
    for (unsigned i = 0; i < send->iov_count; i++)
        conn->unsent_bytes += send->iov[i].iov_len;
    make_dirty(conn);
}

void conn_shutdown(struct conn *conn)
{
    conn->shutdown_wanted = true;
    if (!conn->closing)
        make_dirty(conn);
}

/* ---- events and the end ---- */

static void run_finished(struct conn *conn, bool closed)
{
    struct list now;
    list_init(&now);
    list_move_all(&now, &conn->finished);
    for (struct list *at; conn->closing == closed && (at = list_pop_front(&now)) != NULL;) {
        struct conn_send *send = CONTAINER_OF(at, struct conn_send, link);
        send->fn(send, send->err);
    }
    list_move_all(&now, &conn->finished);
    list_move_all(&conn->finished, &now);
}

static void conn_tasked(struct task *task)
{
    struct conn *conn = CONTAINER_OF(task, struct conn, task);
    run_finished(conn, false);
    if (conn->closing || !conn->resumed)
        return;
    conn->resumed = false;
    conn->paused = false;
    if (!conn->ended)
        conn_readable(conn);
}

static void conn_closed(void *arg)
{
    struct conn *conn = arg;
    while (!list_empty(&conn->finished))
        run_finished(conn, true);
    conn_closed_fn closed = conn->closed;
    void *owner = conn->closed_owner;
    loop_parts(conn->loop)->open_conns--;
    free(conn);
    closed(owner);
}

void conn_close(struct conn *conn, conn_closed_fn fn, void *owner)
{
    CHECK(!conn->closing);
    struct wire *wire = conn->wire;
    conn->closing = true;
    conn->closed = fn;
    conn->closed_owner = owner;
    fail_sends(conn, -ECANCELED);
    bool lent = !list_empty(&conn->parts);
    list_remove(&conn->dirty);
    task_cancel(&conn->task);
    note("conn.close", wire->number, 0, 0);
    history_wire_ended(wire->number);
    conn->wire = NULL;
    wire->conn = NULL;
    wire->server_gone = true;
    /* A socket that is closed with bytes unread resets the connection: what was on its way back may be lost. One with bytes that the kernel
     * still reads is disconnected. */
    if (lent || (wire->up.len > 0 && chance_one_in(2)))
        queue_skip(&wire->down, wire->down.len);
    down_go(wire);
    if (!lent)
        event_add(chance_below(50), true, conn_closed, conn);
    wire_free_maybe(wire);
}

uint64_t conn_unsent_bytes(const struct conn *conn)
{
    return conn->unsent_bytes + conn->lent_bytes;
}

uint64_t conn_sent_bytes(const struct conn *conn)
{
    return conn->sent_bytes - conn->lent_bytes;
}

uint64_t conn_received_bytes(const struct conn *conn)
{
    return conn->received_bytes;
}

void conn_peer_text(const struct conn *conn, char out[CONN_PEER_BYTES])
{
    (void)conn;
    snprintf(out, CONN_PEER_BYTES, "unknown");
}

/* sim->figures has what there is to count. */
void conns_figures(const struct loop *loop, struct conns_figures *out)
{
    (void)loop;
    *out = (struct conns_figures){0};
}
