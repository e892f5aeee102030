#include <criterion/criterion.h>
#include <string.h>

#include "tier/object_name.h"

/* As `xxhsum -H2` prints them. */
Test(object_name, is_xxh3_128_of_the_key)
{
    static const uint8_t zeros[3];
    static uint8_t long_key[1024];
    memset(long_key, 'x', sizeof long_key);
    const struct {
        struct span key;
        const char *hex;
    } known[] = {
        {span_text("a"), "a96faf705af16834e6c632b61e964e1f"},
        {span_text("key"), "a4bdf4e564564cf8bbea0d63a05165e3"},
        {span_text("the quick brown fox"), "2830e9c6299d0ff9ab2ec4cf7e8d85d2"},
        {span_of(zeros, sizeof zeros), "f21da334f2869f1beb5d658bb22f286b"},
        {span_of(long_key, sizeof long_key), "445dcf97d7880d62fc56a7ce85b3164a"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct object_name name;
        name = object_name_of(known[i].key);
        cr_assert_str_eq(name.hex, known[i].hex);
    }
}

Test(object_name, says_its_folder)
{
    struct object_name name;
    name = object_name_of(span_text("a"));
    cr_assert_eq(object_name_fan(&name), 0xa9);
    name = object_name_of(span_text("the quick brown fox"));
    cr_assert_eq(object_name_fan(&name), 0x28);
}

Test(object_name, knows_its_own)
{
    struct object_name name;
    uint64_t node;
    char temp[OBJECT_TEMP_CHARS + 1];
    cr_assert(object_name_parse("a96faf705af16834e6c632b61e964e1f", &name));
    cr_assert_str_eq(name.hex, "a96faf705af16834e6c632b61e964e1f");
    cr_assert_not(object_name_parse("A96faf705af16834e6c632b61e964e1f", &name));
    cr_assert_not(object_name_parse("a96faf705af16834e6c632b61e964e1", &name));
    cr_assert_not(object_name_parse("a96faf705af16834e6c632b61e964e1fa", &name));
    cr_assert_not(object_name_parse("", &name));
    object_temp_name(&name, 0x00c0ffee12345678, temp);
    cr_assert_str_eq(temp, "a96faf705af16834e6c632b61e964e1f.00c0ffee12345678.tmp");
    cr_assert(object_temp_parse(temp, &node));
    cr_assert_eq(node, 0x00c0ffee12345678);
    cr_assert_not(object_name_parse(temp, &name));
    cr_assert_not(object_temp_parse("a96faf705af16834e6c632b61e964e1f.00c0ffee1234567.tmp", &node));
    cr_assert_not(object_temp_parse("a96faf705af16834e6c632b61e964e1f", &node));
}
