#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "proto/meta.h"
#include "proto/msg.h"

/* The bytes go into memory of exactly their length, so that an address sanitizer sees a read past their end. */
static int check_bytes(const void *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    if (len > 0)
        memcpy(copy, bytes, len);
    int err = meta_check(span_of(copy, len));
    free(copy);
    return err;
}

#define CHECK_LITERAL(text) check_bytes(text, sizeof(text) - 1)

Test(meta, takes_maps)
{
    cr_assert_eq(check_bytes(NULL, 0), 0);
    cr_assert_eq(CHECK_LITERAL("\x80"), 0);
    cr_assert_eq(CHECK_LITERAL("\xde\x00\x00"), 0);
    cr_assert_eq(CHECK_LITERAL("\xdf\x00\x00\x00\x00"), 0);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\x01"), 0);
    cr_assert_eq(CHECK_LITERAL("\x81\xd9\x01k\xc0"), 0);
    cr_assert_eq(CHECK_LITERAL("\x81\xda\x00\x01k\xc2"), 0);
    cr_assert_eq(CHECK_LITERAL("\x81\xdb\x00\x00\x00\x01k\xc3"), 0);
}

Test(meta, refuses_what_is_no_map)
{
    static const uint8_t others[] = {0x00, 0x7f, 0xc0, 0xc1, 0xc2, 0xc3, 0xff, 0xe0, 0x90, 0xa0};
    for (size_t i = 0; i < sizeof others; i++)
        cr_assert_eq(check_bytes(&others[i], 1), KVD_EPROTO, "%02x", others[i]);
    cr_assert_eq(CHECK_LITERAL("\x91\x80"), KVD_EPROTO);
}

Test(meta, refuses_keys_that_are_no_str)
{
    cr_assert_eq(CHECK_LITERAL("\x81\x01\x01"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xc4\x01k\x01"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xc0\x01"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x82\xa1k\x01\x90\x01"), KVD_EPROTO);
}

/* msgpack-c would ask for 128 GiB at the first of these. */
Test(meta, refuses_counts_and_lengths_beyond_the_bytes_that_are_there)
{
    cr_assert_eq(CHECK_LITERAL("\xdd\xff\xff\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\xdf\xff\xff\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\xdf\x80\x00\x00\x00"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\xde\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\xdd\xff\xff\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\xdf\xff\xff\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\xc6\xff\xff\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\xdb\xff\xff\xff\xff"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\xc9\xff\xff\xff\xff\x01"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xdb\xff\xff\xff\xff"), KVD_EPROTO);
}

Test(meta, refuses_trailing_bytes)
{
    cr_assert_eq(CHECK_LITERAL("\x80\x80"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\x01\xc0"), KVD_EPROTO);
}

/* {"k": [[[...]]]} with `arrays` arrays, so arrays + 1 levels. */
static int check_nested(size_t arrays, uint8_t opener)
{
    size_t len = 3 + arrays + 1;
    uint8_t *bytes = malloc(len);
    memcpy(bytes, "\x81\xa1k", 3);
    memset(bytes + 3, opener, arrays);
    bytes[len - 1] = 0x01;
    int err = meta_check(span_of(bytes, len));
    free(bytes);
    return err;
}

Test(meta, four_levels_and_no_more)
{
    for (size_t arrays = 0; arrays <= 3; arrays++)
        cr_assert_eq(check_nested(arrays, 0x91), 0, "%zu", arrays);
    for (size_t arrays = 4; arrays <= 40; arrays++)
        cr_assert_eq(check_nested(arrays, 0x91), KVD_EPROTO, "%zu", arrays);
    cr_assert_eq(check_nested(1000000, 0x91), KVD_EPROTO);
    cr_assert_eq(check_nested(1000000, 0x81), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\x81\xa1k\x81\xa1k\x81\xa1k\x01"), 0);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\x81\xa1k\x81\xa1k\x81\xa1k\x80"), KVD_EPROTO);
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\x91\x91\x91\x90"), KVD_EPROTO);
}

/* Every type byte that msgpack has, as values, with all of their bytes. */
static const char all_types[] = "\xde\x00\x21"
                                "\xa2"
                                "00\x00"
                                "\xa2"
                                "01\x7f"
                                "\xa2"
                                "02\xff"
                                "\xa2"
                                "03\xe0"
                                "\xa2"
                                "04\xc0"
                                "\xa2"
                                "05\xc2"
                                "\xa2"
                                "06\xc3"
                                "\xa2"
                                "07\xc4\x02xx"
                                "\xa2"
                                "08\xc5\x00\x02xx"
                                "\xa2"
                                "09\xc6\x00\x00\x00\x02xx"
                                "\xa2"
                                "10\xc7\x02\x05xx"
                                "\xa2"
                                "11\xc8\x00\x02\x05xx"
                                "\xa2"
                                "12\xc9\x00\x00\x00\x02\x05xx"
                                "\xa2"
                                "13\xca\x00\x00\x00\x00"
                                "\xa2"
                                "14\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
                                "\xa2"
                                "15\xcc\x01"
                                "\xa2"
                                "16\xcd\x01\x02"
                                "\xa2"
                                "17\xce\x01\x02\x03\x04"
                                "\xa2"
                                "18\xcf\x01\x02\x03\x04\x05\x06\x07\x08"
                                "\xa2"
                                "19\xd0\x01"
                                "\xa2"
                                "20\xd1\x01\x02"
                                "\xa2"
                                "21\xd2\x01\x02\x03\x04"
                                "\xa2"
                                "22\xd3\x01\x02\x03\x04\x05\x06\x07\x08"
                                "\xa2"
                                "23\xd4\x01x"
                                "\xa2"
                                "24\xd5\x01xx"
                                "\xa2"
                                "25\xd6\x01xxxx"
                                "\xa2"
                                "26\xd7\x01xxxxxxxx"
                                "\xa2"
                                "27\xd8\x01xxxxxxxxxxxxxxxx"
                                "\xa2"
                                "28\xa3xxx"
                                "\xa2"
                                "29\x92\x01\x92\x02\x90"
                                "\xa2"
                                "30\xdc\x00\x02\x01\x02"
                                "\xa2"
                                "31\xdd\x00\x00\x00\x01\x80"
                                "\xa2"
                                "32\x82\x01\x02\xc0\x93\x01\x02\x03";

Test(meta, every_type_and_truncated_at_every_length)
{
    cr_assert_eq(CHECK_LITERAL(all_types), 0);
    for (size_t len = 1; len < sizeof all_types - 1; len++)
        cr_assert_eq(check_bytes(all_types, len), KVD_EPROTO, "%zu", len);
}

Test(meta, the_type_that_is_never_used)
{
    cr_assert_eq(CHECK_LITERAL("\x81\xa1k\xc1"), KVD_EPROTO);
}

Test(meta, walks_pairs_and_items)
{
    struct meta_walk walk;
    struct span key;
    struct span value;
    struct span item;
    cr_assert_eq(meta_map(span_text("\x82\xa1"
                                    "a\x92\x01\x02\xa2"
                                    "bc\xc3"),
                          &walk),
                 0);
    cr_assert_eq(walk.left, 2);
    cr_assert_eq(meta_next_pair(&walk, &key, &value), 0);
    cr_assert(span_equal(key, span_text("a")));
    cr_assert_eq(value.len, 3);
    struct meta_walk inner;
    cr_assert_eq(meta_array(value, &inner), 0);
    cr_assert_eq(meta_next_item(&inner, &item), 0);
    cr_assert_eq(meta_next_item(&inner, &item), 0);
    cr_assert_eq(item.at[0], 2);
    cr_assert_eq(inner.left, 0);
    cr_assert_eq(meta_next_pair(&walk, &key, &value), 0);
    cr_assert(span_equal(key, span_text("bc")));
    cr_assert_eq(walk.left, 0);
    cr_assert_eq(meta_array(span_of("\x80", 1), &walk), KVD_EPROTO);
    cr_assert_eq(meta_map(span_of("\x90", 1), &walk), KVD_EPROTO);
    cr_assert_eq(meta_map(span_of(NULL, 0), &walk), KVD_EPROTO);
}
