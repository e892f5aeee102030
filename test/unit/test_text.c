#include <criterion/criterion.h>

#include "base/text.h"

#include "base/bytes.h"

typedef bool (*number_fn)(const char *text, uint64_t *value);

struct good {
    const char *text;
    uint64_t value;
};

static void expect_good(number_fn fn, const struct good *good, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0;
        cr_expect(fn(good[i].text, &value), "\"%s\" was refused", good[i].text);
        cr_expect_eq(value, good[i].value, "\"%s\" is %llu", good[i].text, (unsigned long long)value);
    }
}

static void expect_bad(number_fn fn, const char *const *bad, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 42;
        cr_expect_not(fn(bad[i], &value), "\"%s\" was taken", bad[i]);
        cr_expect_eq(value, 42, "\"%s\" touched the value", bad[i]);
    }
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

Test(text, names)
{
    static const char *const good[] = {"a", "Z", "0", "9", "a.B_c-9", ".a", "12345678"};
    static const char *const bad[] = {"", "a b", "a/b", "a:b", "a@b", "[", "`", "{", "\xc3\xa9", "123456789"};
    for (size_t i = 0; i < COUNT(good); i++)
        cr_expect(text_is_name(span_text(good[i]), 8), "\"%s\" was refused", good[i]);
    for (size_t i = 0; i < COUNT(bad); i++)
        cr_expect_not(text_is_name(span_text(bad[i]), 8), "\"%s\" was taken", bad[i]);
    cr_expect_not(text_is_name(span_of("a\0b", 3), 8));
}

Test(text, sizes)
{
    static const struct good good[] = {
        {"0", 0},
        {"4096", 4096},
        {"007", 7},
        {"5b", 5},
        {"512m", 512 * MIB},
        {"4g", 4 * GIB},
        {"4G", 4 * GIB},
        {"1.5t", 3 * TIB / 2},
        {"64KiB", 64 * KIB},
        {"64kb", 64 * KIB},
        {"64Kib", 64 * KIB},
        {"0.1k", 102},
        {"0.25g", 256 * MIB},
        {"1.0", 1},
        {"18446744073709551615", UINT64_MAX},
        {"16777215t", 16777215 * TIB},
        {"16777215.5t", 16777215 * TIB + TIB / 2},
        {"9007199254740993.0", 9007199254740993},
        {"1.00000000000000000000000000000000000k", 1024},
    };
    static const char *const bad[] = {
        "",
        " 1",
        "1 ",
        "-1",
        "+1",
        "x",
        "1x",
        "1.",
        ".5",
        "1..5",
        "1.5.2",
        "0x10",
        "inf",
        "nan",
        "1e3",
        "k",
        "5bb",
        "5bib",
        "5ib",
        "1kbb",
        "1kk",
        "1kibb",
        "1 k",
        "18446744073709551616",
        "1p",
        "16777216t",
        "16777215.9999999999999999t",
        "99999999999999999999g",
        "18446744073709551615.5",
    };
    expect_good(text_to_size, good, COUNT(good));
    expect_bad(text_to_size, bad, COUNT(bad));
}

Test(text, durations)
{
    static const struct good good[] = {
        {"0", 0}, {"250ms", 250}, {"5s", 5000}, {"1.5s", 1500}, {"2m", 120000}, {"1h", 3600000}, {"0.5h", 1800000},
    };
    static const char *const bad[] = {"", "s", "5", "250", "00", "0.0", "5 s", "-5s", "5d", "5S", "5msx", "18446744073709551615s", "1.s"};
    expect_good(text_to_duration, good, COUNT(good));
    expect_bad(text_to_duration, bad, COUNT(bad));
}

Test(text, whole_numbers)
{
    static const struct good good[] = {{"0", 0}, {"12", 12}, {"18446744073709551615", UINT64_MAX}};
    static const char *const bad[] = {"", "-1", "+1", "1.0", "1k", " 1", "1 ", "0x1", "18446744073709551616", "184467440737095516150"};
    expect_good(text_to_u64, good, COUNT(good));
    expect_bad(text_to_u64, bad, COUNT(bad));
}

Test(text, booleans)
{
    static const char *const yes[] = {"yes", "true", "on", "1", "TRUE", "On"};
    static const char *const no[] = {"no", "false", "off", "0", "No", "OFF"};
    static const char *const bad[] = {"", "y", "n", "2", "yess", " yes", "enabled"};
    for (size_t i = 0; i < COUNT(yes); i++) {
        bool value = false;
        cr_expect(text_to_bool(yes[i], &value) && value, "%s", yes[i]);
    }
    for (size_t i = 0; i < COUNT(no); i++) {
        bool value = true;
        cr_expect(text_to_bool(no[i], &value) && !value, "%s", no[i]);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        bool value = true;
        cr_expect(!text_to_bool(bad[i], &value) && value, "%s", bad[i]);
    }
}

Test(text, sizes_for_people)
{
    static const struct good good[] = {
        {"0 B", 0},
        {"1023 B", 1023},
        {"1 KiB", 1024},
        {"64 KiB", 64 * KIB},
        {"1.50 MiB", 3 * MIB / 2},
        {"11.21 GiB", 12036646830},
        {"1023.99 KiB", MIB - 10},
        {"1.00 MiB", MIB - 1},
        {"16 EiB", UINT64_MAX},
    };
    char out[32];
    for (size_t i = 0; i < COUNT(good); i++)
        cr_expect_str_eq(text_from_size(out, sizeof out, good[i].value), good[i].text);
}

Test(text, exact_sizes_come_back)
{
    static const struct good good[] = {
        {"0", 0},
        {"100", 100},
        {"1k", 1024},
        {"1536m", 1536 * MIB},
        {"4g", 4 * GIB},
        {"3t", 3 * TIB},
        {"2048t", 2048 * TIB},
        {"1025", KIB + 1},
        {"18446744073709551615", UINT64_MAX},
    };
    char out[32];
    for (size_t i = 0; i < COUNT(good); i++)
        cr_expect_str_eq(text_exact_size(out, sizeof out, good[i].value), good[i].text);
    expect_good(text_to_size, good, COUNT(good));
}

Test(text, addresses)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } good[] = {
        {"127.0.0.1:7950", "127.0.0.1", 7950},
        {"localhost:0", "localhost", 0},
        {"[::1]:65535", "::1", 65535},
        {"h:1", "h", 1},
    };
    static const char *const bad[] = {
        "",       ":80",   "host",    "host:",   "host:x", "host:-1", "host:65536",     "host:80 ",
        "::1:80", "[]:80", "[::1:80", "[::1]80", "[::1]",  "[::1]:",  "eleven-long:80",
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        char host[11];
        uint16_t port = 1;
        cr_expect(text_split_address(good[i].text, host, sizeof host, &port), "%s", good[i].text);
        cr_expect_str_eq(host, good[i].host);
        cr_expect_eq(port, good[i].port);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        char host[11] = "untouched";
        uint16_t port = 42;
        cr_expect_not(text_split_address(bad[i], host, sizeof host, &port), "%s", bad[i]);
        cr_expect_str_eq(host, "untouched");
        cr_expect_eq(port, 42);
    }
}
