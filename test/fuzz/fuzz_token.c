/* Any bytes as a file of tokens: a set within the bounds, or a reason; read again after itself, every id stays. */
#include <string.h>

#include "auth/token.h"
#include "base/check.h"
#include "base/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(struct tokens *tokens, struct span text)
{
    char why[TOKEN_WHY_BYTES];
    struct tokens *again;
    CHECK(tokens_read(&again, text, tokens, why) == 0);
    CHECK(tokens_count(again) == tokens_count(tokens));
    for (uint64_t id = 0; id <= tokens_count(tokens) + 1; id++)
        CHECK(tokens_have(tokens, id) == (id >= 1 && id <= tokens_count(tokens)) && tokens_have(again, id) == tokens_have(tokens, id));
    tokens_unref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[TOKEN_WHY_BYTES] = "";
    struct tokens *tokens = NULL;
    struct token one;
    int err = tokens_read(&tokens, span_of(data, size), NULL, why);
    CHECK(err == (why[0] ? KVD_EUSAGE : 0) && memchr(why, '\0', sizeof why));
    if (err == 0) {
        CHECK(tokens_count(tokens) >= 1 && tokens_count(tokens) <= TOKENS_MOST);
        check_again(tokens, span_of(data, size));
        tokens_unref(tokens);
    }
    why[0] = '\0';
    err = token_read_one(&one, span_of(data, size), why);
    CHECK(err == (why[0] ? KVD_EUSAGE : 0));
    CHECK(err != 0 || (one.len >= TOKEN_LEAST_BYTES && one.len <= TOKEN_MOST_BYTES && memchr(one.name, '\0', sizeof one.name)));
    return 0;
}
