/* conn_impl.h - what connections and listeners know of each other. */
#ifndef KVD_LOOP_CONN_IMPL_H
#define KVD_LOOP_CONN_IMPL_H

#include "loop/conn.h"

/* What a connection takes of its listener. */
struct seat;

/* Wrap a socket, which is non-blocking, on its own loop; one that was not accepted has no seat (NULL). Returns 0; or -errno, and then `fd`
 * is still the caller's. */
int conn_new(struct conn **out, struct loop *loop, struct seat *seat, int fd);

/* The connection's memory is about to go: one more may be accepted. On the connection's loop. */
void seat_leave(struct seat *seat);

#endif
