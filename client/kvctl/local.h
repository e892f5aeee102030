/* local.h - the user's files: read one whole within a bound, write one whole or not at all.
 *
 * Owns:    nothing between calls.
 * Not its: keys and servers.
 * Thread:  any, but local_write() blocks signals of the calling thread while it writes.
 */
#ifndef KVD_CLIENT_LOCAL_H
#define KVD_CLIENT_LOCAL_H

#include <stddef.h>

/* Read `path`, or standard input for "-", to its end. *bytes is the caller's to free(), and not NULL for an empty file. Returns 0,
 * KVD_ETOOLARGE when there are more than `limit` bytes (at most limit + 1 have been read), -ENOMEM, or -errno. */
int local_read(const char *path, size_t limit, void **bytes, size_t *len);

/* Write to `path`: an ordinary file, or one that is not there yet, through a temporary name in its folder and a rename; anything else (a
 * device, a pipe) directly. Returns 0 or -errno: then an ordinary file is as it was. */
int local_write(const char *path, const void *bytes, size_t len);

#endif
