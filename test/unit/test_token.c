/* Files of tokens: what is taken, what is refused and how that is said, and who is found by what he shows. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/token.h"
#include "base/error.h"

#define A16 "aaaaaaaaaaaaaaaa"
#define B16 "bbbbbbbbbbbbbbbb"
#define C16 "cccccccccccccccc"

static const uint8_t nonce[NONCE_BYTES] = {7};

static struct tokens *read_good(const char *text, const struct tokens *before)
{
    char why[TOKEN_WHY_BYTES] = "";
    struct tokens *tokens = NULL;
    cr_assert_eq(tokens_read(&tokens, span_text(text), before, why), 0, "%s", why);
    cr_assert_eq(why[0], '\0');
    return tokens;
}

static void expect_refused(struct span text, const char *wanted)
{
    char why[TOKEN_WHY_BYTES] = "";
    struct tokens *tokens = NULL;
    cr_assert_eq(tokens_read(&tokens, text, NULL, why), KVD_EUSAGE, "%.*s", (int)text.len, (const char *)text.at);
    cr_assert_null(tokens);
    cr_assert_str_eq(why, wanted);
}

/* The mac that a client with this token makes. */
static const struct token *show(const struct tokens *tokens, const char *name, const char *token, bool valid)
{
    uint8_t mac[MAC_BYTES];
    struct span name_span = span_text(name ? name : "");
    const struct token *found = NULL;
    cr_assert_eq(mac_of(mac, span_text(token), MAC_CLIENT, span_of(nonce, NONCE_BYTES)), 0);
    int err = tokens_find(tokens, name ? &name_span : NULL, span_of(mac, sizeof mac), nonce, valid, &found);
    cr_assert_eq(err, found ? 0 : KVD_EDENIED);
    return found;
}

static void expect_shown(const struct tokens *tokens, const char *name, const char *token, const char *found_name, unsigned rights)
{
    const struct token *found = show(tokens, name, token, true);
    cr_assert_not_null(found);
    cr_assert_str_eq(found->name, found_name);
    cr_assert_eq(found->rights, rights);
    cr_assert(tokens_have(tokens, found->id));
}

Test(token, a_file_with_all_that_may_stand_in_it)
{
    struct tokens *tokens =
        read_good("# trainers\n\n\ttrainer  read,write\t" A16 "  \r\n#" B16 "\nops admin " B16 "\n \t\nall read,write,admin " C16, NULL);
    cr_assert_eq(tokens_count(tokens), 3);
    expect_shown(tokens, NULL, A16, "trainer", RIGHT_READ | RIGHT_WRITE);
    expect_shown(tokens, "ops", B16, "ops", RIGHT_ADMIN);
    expect_shown(tokens, NULL, C16, "all", RIGHTS_ALL);
    tokens_unref(tokens);
}

Test(token, what_is_refused_is_said_by_its_line_alone)
{
    static const struct {
        const char *text, *why;
    } rows[] = {
        {"", "there is no token in it"},
        {"# nothing\n\n \n", "there is no token in it"},
        {A16 "\n", "line 1: not NAME RIGHTS TOKEN"},
        {"a " A16 "\n", "line 1: not NAME RIGHTS TOKEN"},
        {"\n\na read " A16 " # mine\n", "line 3: more than NAME RIGHTS TOKEN"},
        {"a/b read " A16 "\n", "line 1: the name is not 1 to 64 letters, digits, '.', '_' and '-'"},
        {"a reads " A16 "\n", "line 1: the rights are not read, write, admin, with commas between"},
        {"a read, " A16 "\n", "line 1: the rights are not read, write, admin, with commas between"},
        {"a ,read " A16 "\n", "line 1: the rights are not read, write, admin, with commas between"},
        {"a read,,write " A16 "\n", "line 1: the rights are not read, write, admin, with commas between"},
        {"a read,read " A16 "\n", "line 1: the rights are not read, write, admin, with commas between"},
        {"a READ " A16 "\n", "line 1: the rights are not read, write, admin, with commas between"},
        {"a read aaaaaaaaaaaaaaa\n", "line 1: the token is shorter than 16 bytes"},
        {"a read " A16 "\n#\na write " B16 "\n", "line 3: the name stands in line 1, too"},
        {"a read " A16 "\nb read " A16 "\n", "line 2: the token stands in line 1, too"},
        {"a read aaaaaaaa\x01" A16 "\n", "line 1: a byte that is no printable ASCII"},
        {"a read \xc3\xa4" A16 "\n", "line 1: a byte that is no printable ASCII"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect_refused(span_text(rows[i].text), rows[i].why);
    expect_refused(span_of("a read " A16 "\0" A16, 7 + 16 + 1 + 16), "line 1: a byte that is no printable ASCII");
}

Test(token, bounds_of_names_tokens_lines_and_how_many)
{
    char text[16384], token[TOKEN_MOST_BYTES + 2], name[TOKEN_NAME_BYTES + 2];
    memset(token, 't', sizeof token);
    memset(name, 'n', sizeof name);
    snprintf(text, sizeof text, "%.*s read %.*s\n", TOKEN_NAME_BYTES, name, TOKEN_MOST_BYTES, token);
    tokens_unref(read_good(text, NULL));
    snprintf(text, sizeof text, "%.*s read %.*s\n", TOKEN_NAME_BYTES + 1, name, TOKEN_LEAST_BYTES, token);
    expect_refused(span_text(text), "line 1: the name is not 1 to 64 letters, digits, '.', '_' and '-'");
    snprintf(text, sizeof text, "n read %.*s\n", TOKEN_MOST_BYTES + 1, token);
    expect_refused(span_text(text), "line 1: the token is longer than 128 bytes");
    snprintf(text, sizeof text, "#%*s\n", TOKEN_LINE_BYTES, "");
    expect_refused(span_text(text), "line 1: longer than 256 bytes");

    size_t len = 0;
    for (unsigned i = 0; i < TOKENS_MOST; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "n%u read token-number-%06u\n", i, i);
    struct tokens *tokens = read_good(text, NULL);
    cr_assert_eq(tokens_count(tokens), TOKENS_MOST);
    expect_shown(tokens, NULL, "token-number-000000", "n0", RIGHT_READ);
    expect_shown(tokens, NULL, "token-number-000063", "n63", RIGHT_READ);
    tokens_unref(tokens);
    snprintf(text + len, sizeof text - len, "more read token-number-more\n");
    expect_refused(span_text(text), "line 65: more than 64 tokens");
}

Test(token, nothing_of_a_file_gets_into_why)
{
    /* Every prefix and every line of it with one byte more or less: what is said holds no eight bytes of a token. */
    static const char text[] = "one read,write 0123456789abcdefXYZ\ntwo admin fedcba9876543210XYZ\n";
    char cut[sizeof text], why[TOKEN_WHY_BYTES];
    for (size_t without = 0; without + 1 < sizeof text; without++) {
        for (size_t len = 0; len + 1 < sizeof text; len++) {
            struct tokens *tokens = NULL;
            memcpy(cut, text, len);
            cut[len] = '\0';
            if (without < len)
                memmove(cut + without, cut + without + 1, len - without);
            why[0] = '\0';
            if (tokens_read(&tokens, span_text(cut), NULL, why) == 0)
                tokens_unref(tokens);
            cr_assert(!strstr(why, "01234567") && !strstr(why, "fedcba98"), "%s", why);
        }
    }
}

Test(token, who_shows_what_is_wrong_is_denied)
{
    struct tokens *tokens = read_good("one read " A16 "\ntwo write " B16 "\n", NULL);
    cr_assert_null(show(tokens, NULL, C16, true), "a token that is none of them");
    cr_assert_null(show(tokens, "two", A16, true), "another one's");
    cr_assert_null(show(tokens, "three", A16, true), "a name that is none of them");
    cr_assert_null(show(tokens, "", A16, true));
    cr_assert_null(show(tokens, "on", A16, true));
    cr_assert_null(show(tokens, "one", A16, false), "the nonce is not valid");
    cr_assert_null(show(tokens, "one", A16 "a", true));

    uint8_t mac[MAC_BYTES + 1] = {0}, other_nonce[NONCE_BYTES] = {8};
    const struct token *found = NULL;
    cr_assert_eq(mac_of(mac, span_text(A16), MAC_CLIENT, span_of(nonce, NONCE_BYTES)), 0);
    cr_assert_eq(tokens_find(tokens, NULL, span_of(mac, MAC_BYTES), other_nonce, true, &found), KVD_EDENIED);
    for (size_t len = 0; len <= sizeof mac; len++)
        cr_assert_eq(tokens_find(tokens, NULL, span_of(mac, len), nonce, true, &found), len == MAC_BYTES ? 0 : KVD_EDENIED, "%zu", len);
    cr_assert_eq(mac_of(mac, span_text(A16), "kvd-auth-2", span_of(nonce, NONCE_BYTES)), 0);
    cr_assert_eq(tokens_find(tokens, NULL, span_of(mac, MAC_BYTES), nonce, true, &found), KVD_EDENIED);
    tokens_unref(tokens);
}

Test(token, an_id_lasts_as_long_as_its_line)
{
    struct tokens *first = read_good("one read " A16 "\ntwo write " B16 "\nthree read " C16 "\n", NULL);
    uint64_t one = show(first, NULL, A16, true)->id, two = show(first, NULL, B16, true)->id, three = show(first, NULL, C16, true)->id;
    /* `one` is the same on another line, `two` has other rights, `three` another token. */
    struct tokens *second = read_good("# new\nthree read dddddddddddddddd\ntwo read " B16 "\n\none  read  " A16 "\n", first);
    cr_assert_eq(show(second, NULL, A16, true)->id, one);
    cr_assert(tokens_have(second, one) && !tokens_have(second, two) && !tokens_have(second, three));
    struct tokens *third = read_good("two write " B16 "\nten read " A16 "\n", second);
    cr_assert(!tokens_have(third, one) && !tokens_have(third, two) && !tokens_have(third, three), "an id came back");
    tokens_unref(tokens_ref(third));
    tokens_unref(first);
    tokens_unref(second);
    tokens_unref(third);
    tokens_unref(NULL);
}

static int read_one(struct token *token, const char *text, char *why)
{
    why[0] = '\0';
    return token_read_one(token, span_text(text), why);
}

Test(token, a_file_with_one)
{
    struct token token;
    char why[TOKEN_WHY_BYTES];
    cr_assert_eq(read_one(&token, "# mine\n" A16 "\n", why), 0, "%s", why);
    cr_assert(token.name[0] == '\0' && token.len == 16 && memcmp(token.bytes, A16, 16) == 0);
    cr_assert_eq(read_one(&token, "trainer " A16, why), 0, "%s", why);
    cr_assert_str_eq(token.name, "trainer");
    cr_assert_eq(read_one(&token, "trainer read,write " B16 "\n\n", why), 0, "%s", why);
    cr_assert(strcmp(token.name, "trainer") == 0 && token.rights == 3 && memcmp(token.bytes, B16, 16) == 0);

    static const struct {
        const char *text, *why;
    } rows[] = {
        {"", "there is no token in it"},
        {"#\n", "there is no token in it"},
        {"short\n", "line 1: the token is shorter than 16 bytes"},
        {"a/ " A16, "line 1: the name is not 1 to 64 letters, digits, '.', '_' and '-'"},
        {"a all " A16, "line 1: the rights are not read, write, admin, with commas between"},
        {A16 "\n" B16 "\n", "line 2: a second token"},
        {A16 "\n\n\x7f", "line 3: a byte that is no printable ASCII"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(read_one(&token, rows[i].text, why), KVD_EUSAGE);
        cr_assert_str_eq(why, rows[i].why);
        cr_assert_eq(token.bytes[0], 0, "it is left behind");
    }
}

Test(token, rights_have_names)
{
    struct span texts[RIGHT_COUNT];
    unsigned rights = 0;
    cr_assert(rights_read(span_text("admin,read"), &rights));
    cr_assert_eq(rights, RIGHT_READ | RIGHT_ADMIN);
    cr_assert_eq(rights_texts(rights, texts), 2);
    cr_assert(span_equal(texts[0], span_text("read")) && span_equal(texts[1], span_text("admin")));
    cr_assert_eq(rights_texts(RIGHTS_ALL, texts), 3);
    cr_assert_eq(rights_texts(0, texts), 0);
    cr_assert_not(rights_read(span_text(""), &rights));
    cr_assert_eq(rights, RIGHT_READ | RIGHT_ADMIN, "untouched");
}

Test(token, a_file_is_private_when_nobody_else_may_read_it)
{
    cr_assert(token_file_is_private(0100600, 1000, 1000) && token_file_is_private(0100400, 0, 1000) &&
              token_file_is_private(0100000, 0, 0));
    cr_assert_not(token_file_is_private(0100600, 1001, 1000));
    cr_assert_not(token_file_is_private(0100600, 1001, 0), "another user's, who may change it");
    for (unsigned bit = 1; bit <= 040; bit <<= 1)
        cr_assert_not(token_file_is_private(0100600 | bit, 1000, 1000), "%o", bit);
}
