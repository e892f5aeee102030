/* HMAC-SHA256 against what another implementation says (Python's hmac), and RFC 4231's keys longer than a block. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "auth/mac.h"

static void expect_mac(struct span key, const char *context, uint8_t first, const char *hex)
{
    uint8_t nonce[NONCE_BYTES], mac[MAC_BYTES];
    char got[2 * MAC_BYTES + 1];
    for (unsigned i = 0; i < NONCE_BYTES; i++)
        nonce[i] = (uint8_t)(first + i);
    cr_assert_eq(mac_of(mac, key, context, span_of(nonce, sizeof nonce)), 0);
    for (unsigned i = 0; i < MAC_BYTES; i++)
        snprintf(got + (size_t)2 * i, 3, "%02x", mac[i]);
    cr_assert_str_eq(got, hex);
}

Test(mac, is_hmac_sha256_of_context_and_nonce)
{
    uint8_t key[131];
    memset(key, 0xaa, sizeof key);
    expect_mac(span_text("not-a-secret-but-long-enough"), MAC_CLIENT, 0,
               "6764701fab2084fa26613191ceeef249b47e86994bc5b7cc37f60bd14c6852cb");
    expect_mac(span_text("not-a-secret-but-long-enough"), MAC_CLIENT, 1,
               "da47057b1562242c2d58aba238f273752eea9d1f1bcd46e12f908cfbe5683d86");
    expect_mac(span_text("not-a-secret-but-long-enouGh"), MAC_CLIENT, 0,
               "03ccd69dda6dbde585bf13b28dd452290bad6f1b0e14ffd3c6f7e123a917a98e");
    expect_mac(span_text("not-a-secret-but-long-enough"), "kvd-auth-2", 0,
               "9f1cbc0a1e8a0b0a0e35d131cd9118f13f50f38cf47fc3bd312f72b1d7f24421");
    expect_mac(span_of(key, 64), MAC_CLIENT, 224, "971729ffc3bdba8a1a169608a2649a4a3e78fa3264a217a1f377a444a02f0c2f");
    expect_mac(span_of(key, 65), MAC_CLIENT, 224, "27570abe1b4b591a8fcf71bb81794a785ea95d0dbc33e352e2243a82c5af6d9e");
    expect_mac(span_of(key, sizeof key), "", 7, "cbd3d7e41391f30fde56dc4c56df49cab76a9b4d6963b8c9aed39b53d1cd360e");
}

Test(mac, differs_in_any_bit)
{
    uint8_t a[MAC_BYTES] = {1, 2, 3}, b[MAC_BYTES] = {1, 2, 3};
    cr_assert(mac_equal(a, b));
    for (unsigned bit = 0; bit < 8 * MAC_BYTES; bit++) {
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_not(mac_equal(a, b), "bit %u", bit);
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

Test(mac, wipes)
{
    char secret[64];
    memset(secret, 'x', sizeof secret);
    mac_wipe(secret, sizeof secret - 1);
    for (size_t i = 0; i < sizeof secret - 1; i++)
        cr_assert_eq(secret[i], 0);
    cr_assert_eq(secret[sizeof secret - 1], 'x');
}
