#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "proto/frame.h"

static const uint8_t example[FRAME_PREFIX_BYTES] = {0x95, 0xcc, 0x11, 0xcc, 0x02, 0xcf, 1,    2, 3, 4, 5, 6, 7, 8,
                                                    0xce, 9,    10,   11,   12,   0xcf, 0x21, 2, 3, 4, 5, 6, 7, 8};

Test(frame, encodes_each_field_at_its_place)
{
    struct frame frame = {.op = OP_GET, .code = CODE_NOT_FOUND, .id = 0x0102030405060708, .meta_len = 0x090a0b0c};
    frame.body_len = 0x2102030405060708;
    uint8_t out[FRAME_PREFIX_BYTES];
    memset(out, 0xee, sizeof out);
    frame_encode(out, &frame);
    cr_assert_arr_eq(out, example, sizeof out);
}

Test(frame, decodes_what_it_encodes)
{
    struct frame frame = {0};
    cr_assert_eq(frame_decode(example, &frame), 0);
    cr_assert_eq(frame.op, OP_GET);
    cr_assert_eq(frame.code, CODE_NOT_FOUND);
    cr_assert_eq(frame.id, 0x0102030405060708);
    cr_assert_eq(frame.meta_len, 0x090a0b0c);
    cr_assert_eq(frame.body_len, 0x2102030405060708);
}

static bool is_mark(size_t i)
{
    return i == 0 || i == 1 || i == 3 || i == 5 || i == 14 || i == 19;
}

/* Every other value of every type byte is refused, whatever it means in msgpack; every value of all other bytes is taken. */
Test(frame, refuses_every_other_type_byte)
{
    for (size_t i = 0; i < FRAME_PREFIX_BYTES; i++) {
        for (unsigned value = 0; value < 256; value++) {
            uint8_t bytes[FRAME_PREFIX_BYTES];
            memcpy(bytes, example, sizeof bytes);
            bytes[i] = (uint8_t)value;
            struct frame frame = {.op = 0x77, .id = 7};
            bool good = !is_mark(i) || value == example[i];
            cr_assert_eq(frame_decode(bytes, &frame), good ? 0 : KVD_EPROTO, "byte %zu = %02x", i, value);
            if (!good)
                cr_assert(frame.op == 0x77 && frame.id == 7, "an out-parameter was written on failure");
        }
    }
}

Test(frame, names)
{
    cr_assert_str_eq(op_name(OP_HELLO), "HELLO");
    cr_assert_str_eq(op_name(OP_REMOVE_PREFIX), "REMOVE_PREFIX");
    cr_assert_str_eq(op_name(OP_WATCH), "WATCH");
    cr_assert_null(op_name(0));
    cr_assert_null(op_name(0x04));
    cr_assert_null(op_name(0xff));
    cr_assert_str_eq(code_name(CODE_OK), "OK");
    cr_assert_str_eq(code_name(CODE_INTERNAL), "INTERNAL");
    cr_assert_null(code_name(3));
    cr_assert_null(code_name(27));
    cr_assert_null(code_name(0xff));
}
