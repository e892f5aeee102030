/* conn.h - one connection of the driver: bytes out of places where they lie, bytes in to where they belong, with as few calls as it gets.
 *
 * Owns:    the socket, what was read ahead.
 * Borrows: what was handed to conn_out() until conn_sent().
 * Not its: what the bytes mean.
 * Thread:  one.
 */
#ifndef KVD_BENCH_CONN_H
#define KVD_BENCH_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { CONN_AHEAD_BYTES = 65536, CONN_AHEAD_BEHIND_VALUES = 512 };
enum { CONN_SEND_BYTES = 256 << 10 }; /* on its way at most, as libkvd has it within a host: more would leave the caches unread */

struct conn {
    int fd;
    size_t ahead_most; /* read ahead so much at most: little where values follow, which would be copied */
    size_t at, end;    /* of what is in `ahead` */
    struct iovec *out; /* to be sent: [out_at, out_count) */
    size_t out_at, out_count, out_room;
    uint8_t ahead[CONN_AHEAD_BYTES];
};

/* Connect to a port of the loopback. `out_room`: how many pieces conn_out() may be given. Returns 0 or a negative errno. */
int conn_open(struct conn *conn, uint16_t port, size_t ahead_most, size_t out_room);
void conn_close(struct conn *conn);

/* Add to what is to be sent. */
void conn_out(struct conn *conn, const void *at, size_t len);

static inline bool conn_sent(const struct conn *conn)
{
    return conn->out_at == conn->out_count;
}

/* Send until all is sent, or the socket is full. Returns 0 or a negative errno. */
int conn_send_some(struct conn *conn);

/* Wait until there is something to read, or room to send. Returns 1 when there is something to read, 0, or a negative errno. */
int conn_wait(struct conn *conn);

/* Have `count` bytes there to look at, valid until the next call; NULL when the peer went, or more than `ahead_most` are asked for. */
uint8_t *conn_peek(struct conn *conn, size_t count);
void conn_skip(struct conn *conn, size_t count);

/* A line without its CR LF, valid until the next call, and skipped; NULL when the peer went, or it is no line. */
char *conn_line(struct conn *conn);

/* Take `size` bytes to `to`; what comes behind them is read along. Returns 0 or a negative errno. */
int conn_take(struct conn *conn, uint8_t *to, uint64_t size);

#endif
