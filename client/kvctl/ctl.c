#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/text.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

enum { LINE_BYTES = 2560 };

/* For a program that reads what it prints, where no results come any more. */
static void say_json(const char *text, int exit_code)
{
    struct output output;

    output_begin(&output, true);
    output_text(&output, "error", text);
    output_count(&output, "exit", (uint64_t)exit_code);
    output_end(&output);
}

/* One write for the line, so that lines of several threads stay whole; what a peer may have put into it stays harmless. */
static void say(const struct ctl *ctl, int exit_code, const char *text, const char *hint)
{
    char line[LINE_BYTES];
    const char *name = ctl->command ? ctl->command->name : NULL;

    snprintf(line, sizeof line, "kvctl%s%s: %s%s", name ? " " : "", name ? name : "", text, hint);
    for (char *c = line; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    }
    fprintf(stderr, "%s\n", line);
    if (ctl->json && !ctl->results)
        say_json(text, exit_code);
}

int ctl_usage(const struct ctl *ctl, const char *format, ...)
{
    char text[LINE_BYTES];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    say(ctl, EXIT_USAGE, text, ctl->command ? " (see --help)" : " (see kvctl help)");
    return EXIT_USAGE;
}

int ctl_say(const struct ctl *ctl, int exit_code, const char *format, ...)
{
    char text[LINE_BYTES];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    say(ctl, exit_code, text, "");
    return exit_code;
}

int ctl_exit_code(int result)
{
    switch (result) {
    case KVD_ERR_USAGE:
        return EXIT_USAGE;
    case KVD_ERR_NETWORK:
    case KVD_ERR_TIMEOUT:
        return EXIT_UNREACHABLE;
    default:
        return EXIT_REFUSED;
    }
}

int ctl_failed(const struct ctl *ctl, const struct kvd *kvd, int result, const char *what)
{
    const char *more = kvd_message(kvd);
    const char *text = kvd_strerror(result);
    const bool same = more[0] == '\0' || strcmp(more, text) == 0;

    return ctl_say(ctl, ctl_exit_code(result), "%s%s%s%s%s%s", what ? what : "", what ? ": " : "", text, same ? "" : " (", same ? "" : more,
                   same ? "" : ")");
}

int ctl_connect_another(const struct ctl *ctl, struct kvd **out)
{
    const char *address = ctl->args->values[OPT_SERVER];
    const struct kvd_options options = {
        .address = address,
        .timeout_ms = ctl->timeout_ms,
        .connect_ms = min_u64(ctl->timeout_ms, 5000),
        .client = "kvctl",
        .token_file = ctl->args->values[OPT_TOKEN_FILE],
    };
    char message[256] = "";

    const int result = kvd_connect(out, &options, message, sizeof message);
    if (result == KVD_OK)
        return 0;
    const char *from = address ? address : getenv("KVD_SERVER");
    return ctl_say(ctl, ctl_exit_code(result), "cannot connect to %s: %s", from ? from : "127.0.0.1:7950",
                   message[0] != '\0' ? message : kvd_strerror(result));
}

int ctl_connect(struct ctl *ctl)
{
    return ctl_connect_another(ctl, &ctl->kvd);
}

static int bad_option(const struct ctl *ctl, enum option_id id, const char *expected)
{
    return ctl_usage(ctl, "--%s %.80s: expected %s", option_spec(id)->name, ctl->args->values[id], expected);
}

int ctl_number(const struct ctl *ctl, enum option_id id, uint64_t fallback, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *text = ctl->args->values[id];
    uint64_t value = fallback;
    char expected[80];

    snprintf(expected, sizeof expected, "a whole number from %" PRIu64 " to %" PRIu64, min, max);
    if (text && (!text_to_u64(text, &value) || value < min || value > max))
        return bad_option(ctl, id, expected);
    *out = value;
    return 0;
}

int ctl_size(const struct ctl *ctl, enum option_id id, uint64_t fallback, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *text = ctl->args->values[id];
    uint64_t value = fallback;
    char expected[80], low[32], high[32];

    snprintf(expected, sizeof expected, "a size from %s to %s, like 256k or 1m", text_exact_size(low, sizeof low, min),
             text_exact_size(high, sizeof high, max));
    if (text && (!text_to_size(text, &value) || value < min || value > max))
        return bad_option(ctl, id, expected);
    *out = value;
    return 0;
}

int ctl_duration(const struct ctl *ctl, enum option_id id, uint64_t fallback_ms, uint64_t max_ms, uint64_t *out)
{
    const char *text = ctl->args->values[id];
    uint64_t value = fallback_ms;
    char expected[80];

    snprintf(expected, sizeof expected, "a time from 1ms to %" PRIu64 "s, like 500ms or 10s", max_ms / 1000);
    if (text && (!text_to_duration(text, &value) || value == 0 || value > max_ms))
        return bad_option(ctl, id, expected);
    *out = value;
    return 0;
}

int ctl_real(const struct ctl *ctl, enum option_id id, double fallback, double max, double *out)
{
    const char *text = ctl->args->values[id];
    double value = fallback;
    char *end = NULL;
    char expected[80];

    if (text) {
        value = strtod(text, &end);
        snprintf(expected, sizeof expected, "a number above 0, up to %.0f", max);
        if (end == text || *end != '\0' || !isfinite(value) || value <= 0 || value > max)
            return bad_option(ctl, id, expected);
    }
    *out = value;
    return 0;
}

/* Texts of the command line are bounded by the kernel, and so are these. */
static int keys_alloc(struct ctl_keys *out, const char *const *texts, size_t count)
{
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++)
        bytes += strlen(texts[i]);
    *out = (struct ctl_keys){.keys = calloc(count ? count : 1, sizeof *out->keys), .room = malloc(bytes)};
    if (out->keys && out->room)
        return 0;
    ctl_keys_free(out);
    return -ENOMEM;
}

int ctl_keys_parse(const struct ctl *ctl, const char *const *texts, size_t count, struct ctl_keys *out)
{
    struct ctl_keys got;

    if (keys_alloc(&got, texts, count) != 0)
        return ctl_say(ctl, EXIT_REFUSED, "out of memory");
    uint8_t *room = got.room;
    for (; got.count < count; got.count++) {
        const char *text = texts[got.count];
        if (!output_key_parse(text, room, &got.keys[got.count])) {
            ctl_keys_free(&got);
            return ctl_usage(ctl, "key '%.80s' is not 1 to 1,024 bytes of text, or hex: and their bytes in hex", text);
        }
        room += strlen(text);
    }
    *out = got;
    return 0;
}

void ctl_keys_free(struct ctl_keys *keys)
{
    free(keys->keys);
    free(keys->room);
}
