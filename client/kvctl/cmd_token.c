/* token: make one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "auth/token.h"
#include "base/error.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

enum { RANDOM_BYTES = 32 };

/* Up to 256 bytes come whole, or not at all. */
static int make_text(char text[2 * RANDOM_BYTES + 1])
{
    uint8_t bytes[RANDOM_BYTES];
    ssize_t got;
    do
        got = getrandom(bytes, sizeof bytes, 0);
    while (got < 0 && errno == EINTR);
    if (got != RANDOM_BYTES)
        return got < 0 ? -errno : -EIO;
    for (size_t i = 0; i < RANDOM_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    mac_wipe(bytes, sizeof bytes);
    return 0;
}

static int print_token(const struct ctl *ctl, const char *name, const char *rights, const char *text)
{
    struct output output;
    if (!ctl->json) {
        printf("%s %s %s\n", name, rights, text);
        return output_flush();
    }
    output_begin(&output, true);
    output_text(&output, "name", name);
    output_text(&output, "rights", rights);
    output_text(&output, "token", text);
    return output_end(&output);
}

int cmd_token(struct ctl *ctl)
{
    const char *name = ctl->args->operands[0], *rights = ctl->args->operands[1];
    char text[2 * RANDOM_BYTES + 1];
    unsigned sum;
    if (!token_name_good(span_text(name)))
        return ctl_usage(ctl, "a name is 1 to %d letters, digits, '.', '_' and '-'", TOKEN_NAME_BYTES);
    if (!rights_read(span_text(rights), &sum))
        return ctl_usage(ctl, "rights are read, write, admin, with commas between");
    int err = make_text(text);
    if (err)
        return ctl_say(ctl, EXIT_REFUSED, "no random bytes: %s", error_text(err));
    int code = print_token(ctl, name, rights, text);
    mac_wipe(text, sizeof text);
    return code;
}
