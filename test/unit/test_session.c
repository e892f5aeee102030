/* Deadlines of one client's connection, tick by tick, over a connection that does as it is told. */
#include <criterion/criterion.h>

#include "session.h"
#include "test/support/quiet.h"

enum { TICK_MS = 100, TIMEOUT_MS = 1000, MANY_TICKS = 100 * TIMEOUT_MS / TICK_MS };

static struct peer {
    uint64_t sent, unsent;
} peer;

uint64_t __wrap_conn_sent_bytes(const struct conn *conn);
uint64_t __wrap_conn_unsent_bytes(const struct conn *conn);
uint64_t __wrap_conn_received_bytes(const struct conn *conn);
void __wrap_conn_close(struct conn *conn, conn_closed_fn fn, void *owner);
void __wrap_store_owner_end(struct store *store, struct lease_owner *owner);
void __wrap_task_cancel(struct task *task);
void __wrap_conn_peer_text(const struct conn *conn, char out[CONN_PEER_BYTES]);

uint64_t __wrap_conn_sent_bytes(const struct conn *conn)
{
    (void)conn;
    return peer.sent;
}

uint64_t __wrap_conn_unsent_bytes(const struct conn *conn)
{
    (void)conn;
    return peer.unsent;
}

uint64_t __wrap_conn_received_bytes(const struct conn *conn)
{
    (void)conn;
    return 0;
}

void __wrap_conn_close(struct conn *conn, conn_closed_fn fn, void *owner)
{
    (void)conn;
    (void)fn;
    (void)owner;
}

void __wrap_store_owner_end(struct store *store, struct lease_owner *owner)
{
    (void)store;
    (void)owner;
}

void __wrap_task_cancel(struct task *task)
{
    (void)task;
}

void __wrap_conn_peer_text(const struct conn *conn, char out[CONN_PEER_BYTES])
{
    (void)conn;
    out[0] = '\0';
}

/* A peer that has `queued` bytes before it all the time, and takes `taken` of them from tick to tick: after how many ticks is it cut off?
 * 0: it is not. */
static unsigned cut_after(uint64_t queued, uint64_t taken)
{
    const struct config config = {.memory = GIB};
    struct log log = quiet;
    struct server server = {.config = &config, .log = &log, .send_timeout_ms = TIMEOUT_MS, .frame_timeout_ms = TIMEOUT_MS};
    struct server_loop here = {.server = &server};
    struct session session = {.server = &server, .here = &here};
    list_init(&session.requests);
    store_wait_init(&session.wait);
    peer = (struct peer){.unsent = queued};
    unsigned ticks = 0;
    for (uint64_t now = 0; !session.closed && ticks < MANY_TICKS; now += TICK_MS, ticks++) {
        session_tick(&session, now);
        peer.sent += taken;
    }
    cr_assert_eq(figure(&here.figures.cut_slow_readers), session.closed);
    return session.closed ? ticks : 0;
}

Test(session, who_takes_all_in_time_is_not_cut_off_however_little_it_is_and_though_there_is_always_more)
{
    cr_assert_eq(cut_after(1000, 1000), 0);
    cr_assert_eq(cut_after(1000, 150), 0);
    cr_assert_eq(cut_after(1, 1), 0);
}

Test(session, who_takes_a_mib_in_time_is_not_cut_off_however_much_there_is)
{
    cr_assert_eq(cut_after(64 * MIB, MIB), 0);
    cr_assert_eq(cut_after(64 * MIB, MIB / 8), 0);
}

Test(session, who_takes_a_little_of_much_or_nothing_is_cut_off)
{
    const unsigned in_time = TIMEOUT_MS / TICK_MS + 1;
    cr_assert_eq(cut_after(64 * MIB, 0), in_time);
    cr_assert_eq(cut_after(64 * MIB, 1000), in_time);
    cr_assert_eq(cut_after(1, 0), in_time);
}

Test(session, to_whom_nothing_is_owed_nothing_happens)
{
    cr_assert_eq(cut_after(0, 0), 0);
}
