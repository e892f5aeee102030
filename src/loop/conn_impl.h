/* conn_impl.h - what connections and listeners know of each other. */
#ifndef KVD_LOOP_CONN_IMPL_H
#define KVD_LOOP_CONN_IMPL_H

#include "loop/conn.h"

/* Wrap an accepted socket, which is non-blocking. Returns 0; or -errno, and then `fd` is still the caller's. */
int conn_new(struct conn **out, struct loop *loop, struct listener *listener, int fd);

/* The connection's memory is about to go: one more may be accepted. The listener may be gone afterwards. */
void listener_conn_gone(struct listener *listener);

#endif
