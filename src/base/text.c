#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FRACTION_ONE ((uint64_t)1000000000000000000)

/* A decimal number, its fraction in units of 10^-18: integers, so that what can be said exactly is exact. */
struct number {
    uint64_t whole;
    uint64_t fraction;
    bool has_fraction;
};

/* Read a number; *rest is what follows. Signs, blanks, hex and "inf" are refused. Digits beyond the 18th of a fraction are dropped. */
static bool leading_number(const char *text, struct number *number, const char **rest)
{
    const char *at = text;
    if (!isdigit((unsigned char)*at))
        return false;
    uint64_t whole = 0;
    for (; isdigit((unsigned char)*at); at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        if (whole > (UINT64_MAX - digit) / 10)
            return false;
        whole = whole * 10 + digit;
    }
    *number = (struct number){.whole = whole, .has_fraction = *at == '.'};
    if (number->has_fraction) {
        at++;
        if (!isdigit((unsigned char)*at))
            return false;
        uint64_t place = FRACTION_ONE;
        for (; isdigit((unsigned char)*at); at++) {
            place /= 10;
            number->fraction += (uint64_t)(*at - '0') * place;
        }
    }
    *rest = at;
    return true;
}

/* The number times `unit`, rounded to the nearest. */
static bool scale(const struct number *number, uint64_t unit, uint64_t *out)
{
    unsigned __int128 parts = (unsigned __int128)number->fraction * unit;
    unsigned __int128 product = (unsigned __int128)number->whole * unit + (parts + FRACTION_ONE / 2) / FRACTION_ONE;
    if (product > UINT64_MAX)
        return false;
    *out = (uint64_t)product;
    return true;
}

bool text_to_size(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *suffix;
        uint64_t unit;
    } units[] = {{"", 1}, {"b", 1}, {"k", KIB}, {"m", MIB}, {"g", GIB}, {"t", TIB}};
    struct number number;
    const char *rest;
    if (!leading_number(text, &number, &rest))
        return false;
    size_t len = strlen(rest);
    char unit[4] = "";
    if (len >= sizeof unit)
        return false;
    for (size_t i = 0; i < len; i++)
        unit[i] = (char)tolower((unsigned char)rest[i]);
    if (unit[0] != 'b' && (strcmp(unit + (len > 0), "b") == 0 || strcmp(unit + (len > 0), "ib") == 0))
        unit[1] = '\0';
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(unit, units[i].suffix) == 0)
            return scale(&number, units[i].unit, bytes);
    return false;
}

bool text_to_duration(const char *text, uint64_t *ms)
{
    static const struct {
        const char *suffix;
        uint64_t unit;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    struct number number;
    const char *rest;
    if (!leading_number(text, &number, &rest))
        return false;
    if (strcmp(text, "0") == 0) {
        *ms = 0;
        return true;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(rest, units[i].suffix) == 0)
            return scale(&number, units[i].unit, ms);
    return false;
}

bool text_to_u64(const char *text, uint64_t *value)
{
    struct number number;
    const char *rest;
    if (!leading_number(text, &number, &rest) || number.has_fraction || *rest != '\0')
        return false;
    *value = number.whole;
    return true;
}

bool text_to_bool(const char *text, bool *value)
{
    static const char *const yes[] = {"yes", "true", "on", "1"};
    static const char *const no[] = {"no", "false", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        if (strcasecmp(text, yes[i]) == 0) {
            *value = true;
            return true;
        }
        if (strcasecmp(text, no[i]) == 0) {
            *value = false;
            return true;
        }
    }
    return false;
}

char *text_from_size(char *out, size_t out_len, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    double value = (double)bytes;
    /* What would round to "1024.00" is said in the next unit. */
    while (value >= 1023.995 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    if (value == floor(value))
        snprintf(out, out_len, "%.0f %s", value, units[unit]);
    else
        snprintf(out, out_len, "%.2f %s", value, units[unit]);
    return out;
}

char *text_exact_size(char *out, size_t out_len, uint64_t bytes)
{
    static const char units[] = {'\0', 'k', 'm', 'g', 't'};
    size_t unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < sizeof units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, out_len, "%llu%.1s", (unsigned long long)bytes, unit ? &units[unit] : "");
    return out;
}

bool text_split_address(const char *text, char *host, size_t host_len, uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text)
        return false;
    const char *from = text;
    size_t len = (size_t)(colon - text);
    if (from[0] == '[') {
        if (len < 3 || from[len - 1] != ']')
            return false;
        from++;
        len -= 2;
    } else if (memchr(from, ':', len)) {
        return false;
    }
    uint64_t number;
    if (len >= host_len || !text_to_u64(colon + 1, &number) || number > UINT16_MAX)
        return false;
    memcpy(host, from, len);
    host[len] = '\0';
    *port = (uint16_t)number;
    return true;
}

static bool in_name(uint8_t byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '.' || byte == '_' ||
           byte == '-';
}

bool text_is_name(struct span text, size_t most)
{
    if (text.len < 1 || text.len > most)
        return false;
    for (size_t i = 0; i < text.len; i++)
        if (!in_name(text.at[i]))
            return false;
    return true;
}
