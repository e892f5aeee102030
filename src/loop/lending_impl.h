/* lending_impl.h - bytes of one connection that the kernel reads where they lie (MSG_ZEROCOPY), until it says that it is done with them.
 *
 * The kernel numbers the calls of a socket that carried the flag and took something, from 0 on and modulo 2^32. Which of them are over it
 * says in the socket's error queue, in ranges that may come in any order; here they end in the order of the calls.
 *
 * Owns:    the numbers, and which calls are not over.
 * Not its: the socket, the bytes, whose they are, when to look.
 * Thread:  the connection's loop's.
 */
#ifndef KVD_LOOP_LENDING_IMPL_H
#define KVD_LOOP_LENDING_IMPL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    LENDING_LEAST_BYTES = 64 * 1024, /* of a send, and of a call: what is smaller is cheaper to copy */
    LENDING_CALLS = 256,             /* not over at most; further ones copy */
};

/* Of all connections of a loop. Written by its thread, read by any. */
struct lending_figures {
    _Atomic uint64_t sends, bytes;
    _Atomic uint64_t copied;    /* of these sends: the kernel says that it did copy */
    _Atomic uint64_t fallbacks; /* that were copied though they were large enough */
    _Atomic uint64_t lent_bytes;
};

struct lending {
    struct lending_figures *figures;
    uint32_t first;      /* the oldest call that is not over */
    uint32_t next;       /* the number of the next call */
    uint64_t lent_bytes; /* of the calls from `first` on */
    uint32_t call_bytes[LENDING_CALLS];
    bool over[LENDING_CALLS];
};

/* Let calls on this socket lend; `figures` outlives it. Returns 0; -ENOMEM; or another -errno where the kernel does not have it. */
int lending_new(struct lending **out, int fd, struct lending_figures *figures);
/* Or NULL. What is lent goes out of the figures. */
void lending_free(struct lending *lending);

bool lending_is_full(const struct lending *lending);
/* A call with the flag took so many bytes (> 0). Returns its number. */
uint32_t lending_begin(struct lending *lending, uint32_t bytes);
/* One that was large enough has copied. */
void lending_fell_back(struct lending *lending);
/* The kernel says so of these. Numbers of calls that are over already, or were never made, are passed over. */
void lending_end(struct lending *lending, uint32_t from, uint32_t to);
/* Are this call and all before it? For one that was made at most 2^31 calls ago. */
bool lending_is_over(const struct lending *lending, uint32_t call);

/* Take what the kernel has said since. Returns whether any call is over by it that was not, out of order or not. */
bool lending_hear(struct lending *lending, int fd);

#endif
