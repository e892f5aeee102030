/* lease.h - who asked that what they were told is there stays there, and until when.
 *
 * A lease holds entries of the table; a held entry is not evicted. It ends by release, by time, or with its owner (the
 * connection that took it). An entry that goes (remove, replace, expiry) is taken out of every lease by lease_forget().
 *
 * Owns:    leases and holds, and the flag LEASED of entries. Borrows: entries and the table, to settle them.
 * Thread:  the loop's. Bounds: `max_holds` over all leases.
 */
#ifndef KVD_META_LEASE_H
#define KVD_META_LEASE_H

#include "meta/table.h"

struct leases;

/* The caller's, one a connection; init it, and end it when the connection ends. */
struct lease_owner {
    struct list leases;
};
void lease_owner_init(struct lease_owner *owner);

/* `secret` makes ids hard to guess. There are never more leases than `max_holds` either. 0 or -ENOMEM. */
int leases_new(struct leases **out, struct table *table, uint64_t max_holds, uint64_t secret);
/* Ends what is still open: its owners and entries must still be there. */
void leases_free(struct leases *leases);

/* Open an empty lease that ends at `until_ms` (monotonic). *id is not 0. 0, KVD_EBUSY (no holds or leases left), or -ENOMEM. */
int lease_open(struct leases *leases, struct lease_owner *owner, uint64_t until_ms, uint64_t *id);
/* Add an entry (twice is harmless). 0, KVD_EBUSY (no holds left, or the lease has ended), -ENOMEM. Settles the entry. */
int lease_add(struct leases *leases, uint64_t id, struct entry *entry);

/* Release all of it, or only these entries' keys are released by lease_release_entry(). Unknown ids are fine. */
void lease_release(struct leases *leases, uint64_t id);
void lease_release_entry(struct leases *leases, uint64_t id, struct entry *entry);
/* The connection ended. */
void lease_owner_end(struct leases *leases, struct lease_owner *owner);
/* The entry goes: take it out of every lease. Settles it. */
void lease_forget(struct leases *leases, struct entry *entry);
/* End what has run out by `now_ms`, at most `max` (not 0) holds and leases; returns the next time at which one ends (UINT64_MAX: none), or
 * now_ms when there is more to do. */
uint64_t lease_expire(struct leases *leases, uint64_t now_ms, uint32_t max);

uint64_t leases_count(const struct leases *leases);
uint64_t leases_holds(const struct leases *leases);

#endif
