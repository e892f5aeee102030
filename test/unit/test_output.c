#include <criterion/criterion.h>
#include <string.h>

#include "client/kvctl/output.h"

static void check_there_and_back(const void *at, size_t len, const char *expected)
{
    char text[OUTPUT_KEY_BYTES];
    uint8_t room[OUTPUT_KEY_BYTES];
    struct kvd_key key;

    cr_assert_str_eq(output_key_text(text, (struct kvd_key){at, len}), expected);
    cr_assert(output_key_parse(text, room, &key));
    cr_assert_eq(key.len, len);
    cr_assert_eq(memcmp(key.at, at, len), 0);
}

Test(output, keys_there_and_back)
{
    check_there_and_back("replay/1/2", 10, "replay/1/2");
    check_there_and_back("a b~", 4, "a b~");
    check_there_and_back("\x00", 1, "hex:00");
    check_there_and_back("a\n", 2, "hex:610a");
    check_there_and_back("\xff\x7f", 2, "hex:ff7f");
    check_there_and_back("hex:", 4, "hex:6865783a");
    check_there_and_back("hex", 3, "hex");
}

Test(output, the_longest_keys)
{
    char text[OUTPUT_KEY_BYTES], longest[1026];
    uint8_t bytes[1024], room[OUTPUT_KEY_BYTES];
    struct kvd_key key;

    memset(bytes, 0xab, sizeof bytes);
    cr_assert_eq(strlen(output_key_text(text, (struct kvd_key){bytes, sizeof bytes})), OUTPUT_KEY_BYTES - 1);
    cr_assert(output_key_parse(text, room, &key));
    cr_assert_eq(key.len, 1024);
    memset(longest, 'x', 1025);
    longest[1025] = '\0';
    cr_assert_not(output_key_parse(longest, room, &key));
    longest[1024] = '\0';
    cr_assert(output_key_parse(longest, room, &key));
}

Test(output, bad_keys)
{
    uint8_t room[64];
    struct kvd_key key;

    cr_assert_not(output_key_parse("", room, &key));
    cr_assert_not(output_key_parse("hex:", room, &key));
    cr_assert_not(output_key_parse("hex:0", room, &key));
    cr_assert_not(output_key_parse("hex:0g", room, &key));
    cr_assert_not(output_key_parse("hex:00 ", room, &key));
}
