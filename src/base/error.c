#include "base/error.h"

#include <stddef.h>
#include <string.h>

static const char *const own_texts[] = {
    "not a valid frame",
    "bytes are not what was written",
    "file ends early",
    "no room now",
    "too large",
    "disk tier is off",
    "disk tier is full",
    "closing",
    "unknown format",
    "timed out",
    "unsupported",
    "denied",
    "refused",
    "bad usage",
    "another host was there",
};

const char *error_text(int err)
{
    if (err >= 0)
        return "ok";
    if (err > -5001)
        return strerrordesc_np(-err) ? strerrordesc_np(-err) : "unknown error";
    size_t index = (size_t)(-5001 - err);
    return index < sizeof own_texts / sizeof own_texts[0] ? own_texts[index] : "unknown error";
}
