#include "auth/mac.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/check.h"

int mac_of(uint8_t out[MAC_BYTES], struct span key, const char *context, struct span challenge)
{
    uint8_t text[MAC_CONTEXT_BYTES + MAC_CHALLENGE_BYTES];
    struct span first = span_text(context);
    unsigned len = 0;
    CHECK(first.len <= MAC_CONTEXT_BYTES && challenge.len <= MAC_CHALLENGE_BYTES && key.len <= INT32_MAX);
    bytes_copy(text, first.at, first.len);
    bytes_copy(text + first.len, challenge.at, challenge.len);
    if (!HMAC(EVP_sha256(), key.at, (int)key.len, text, first.len + challenge.len, out, &len))
        return -ENOMEM;
    CHECK(len == MAC_BYTES);
    return 0;
}

bool mac_equal(const uint8_t a[MAC_BYTES], const uint8_t b[MAC_BYTES])
{
    return CRYPTO_memcmp(a, b, MAC_BYTES) == 0;
}

void mac_wipe(void *at, size_t len)
{
    OPENSSL_cleanse(at, len);
}
