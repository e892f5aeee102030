/* mac.h - HMAC-SHA256, compared in constant time, and memory that is wiped: all that kvd takes from OpenSSL.
 *
 * Owns:    nothing.
 * Not its: whose key it is, where the nonce comes from.
 * Thread:  any.
 */
#ifndef KVD_AUTH_MAC_H
#define KVD_AUTH_MAC_H

#include <stdbool.h>

#include "base/bytes.h"

enum {
    MAC_BYTES = 32,
    NONCE_BYTES = 32,
    MAC_CONTEXT_BYTES = 32,
    MAC_CHALLENGE_BYTES = 256, /* a nonce, or more where both sides prove something */
};

/* What the one who is asked for a token proves with; each use of a token has a text of its own, so that no answer serves for another. */
#define MAC_CLIENT "kvd-auth-1"

/* HMAC-SHA256(key, context and challenge), where these have at most MAC_CONTEXT_BYTES and MAC_CHALLENGE_BYTES. Returns 0 or -ENOMEM. */
int mac_of(uint8_t out[MAC_BYTES], struct span key, const char *context, struct span challenge);

/* In a time that does not tell where they differ. */
bool mac_equal(const uint8_t a[MAC_BYTES], const uint8_t b[MAC_BYTES]);

/* Overwrite what was secret; the compiler does not leave it out. */
void mac_wipe(void *at, size_t len);

#endif
