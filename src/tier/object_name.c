#include "tier/object_name.h"

#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

#include "base/check.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* `count` lower-case hex digits. */
static bool is_hex(const char *text, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (hex_digit(text[i]) < 0)
            return false;
    return true;
}

struct object_name object_name_of(struct span key)
{
    struct object_name name;
    XXH128_hash_t hash = XXH3_128bits(key.at, key.len);
    (void)snprintf(name.hex, sizeof name.hex, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
    return name;
}

unsigned object_name_fan(const struct object_name *name)
{
    CHECK(is_hex(name->hex, 2));
    return (unsigned)hex_digit(name->hex[0]) << 4 | (unsigned)hex_digit(name->hex[1]);
}

bool object_name_parse(const char *text, struct object_name *out)
{
    if (strlen(text) != OBJECT_HEX || !is_hex(text, OBJECT_HEX))
        return false;
    memcpy(out->hex, text, OBJECT_HEX + 1);
    return true;
}

void object_temp_name(const struct object_name *name, uint64_t node, char out[OBJECT_TEMP_CHARS + 1])
{
    (void)snprintf(out, OBJECT_TEMP_CHARS + 1, "%s.%016" PRIx64 ".tmp", name->hex, node);
}

bool object_temp_parse(const char *text, uint64_t *node)
{
    if (strlen(text) != OBJECT_TEMP_CHARS || !is_hex(text, OBJECT_HEX) || text[OBJECT_HEX] != '.' || !is_hex(text + OBJECT_HEX + 1, 16) ||
        strcmp(text + OBJECT_HEX + 17, ".tmp") != 0)
        return false;
    uint64_t value = 0;
    for (unsigned i = 0; i < 16; i++)
        value = value << 4 | (uint64_t)hex_digit(text[OBJECT_HEX + 1 + i]);
    *node = value;
    return true;
}
