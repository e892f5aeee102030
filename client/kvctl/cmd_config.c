/* The command that prints and changes the server's settings. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

struct changes {
    struct kvd_setting *settings; /* names are the operands, cut at the sign */
    size_t count;
    char *room;
    struct output output;
};

static void print_setting(void *arg, const struct kvd_setting *setting)
{
    output_text(arg, setting->name, setting->value);
}

/* The server answers with all of them: only those that were set are printed. */
static void print_change(void *arg, const struct kvd_setting *setting)
{
    struct changes *changes = arg;

    for (size_t i = 0; i < changes->count; i++) {
        if (strcmp(changes->settings[i].name, setting->name) == 0)
            output_text(&changes->output, setting->name, setting->value);
    }
}

struct known {
    const char *name; /* that is looked for, up to its sign if it has one */
    size_t len;
    bool found;
    char text[2048];
    size_t text_len;
};

static void known_name(void *arg, const struct kvd_setting *setting)
{
    struct known *known = arg;
    known->found |= strlen(setting->name) == known->len && strncmp(setting->name, known->name, known->len) == 0;
    const int len =
        snprintf(known->text + known->text_len, sizeof known->text - known->text_len, "%s%s", known->text_len ? ", " : "", setting->name);
    known->text_len = min_u64(known->text_len + (size_t)len, sizeof known->text - 1);
}

/* Something was refused: a name that the server does not have? Then say which it has. */
static int refused(struct ctl *ctl, int result)
{
    char said[256];

    if (result != KVD_ERR_BAD_REQUEST)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    snprintf(said, sizeof said, "%s", kvd_message(ctl->kvd));
    for (size_t i = 0; i < ctl->args->count; i++) {
        struct known known = {.name = ctl->args->operands[i], .len = strcspn(ctl->args->operands[i], "=")};
        if (kvd_config(ctl->kvd, NULL, 0, known_name, &known) == KVD_OK && !known.found)
            return ctl_say(ctl, EXIT_REFUSED, "no setting '%.*s'; there are %s", (int)min_u64(known.len, 60), known.name, known.text);
    }
    return ctl_say(ctl, ctl_exit_code(result), "%s (%s)", kvd_strerror(result), said);
}

static int finish(struct ctl *ctl, struct output *output, int result)
{
    if (result == KVD_OK)
        return output_end(output);
    output_drop(output);
    return refused(ctl, result);
}

static int print_all(struct ctl *ctl)
{
    struct output output;

    const int code = ctl_connect(ctl);
    if (code)
        return code;
    output_begin(&output, ctl->json);
    return finish(ctl, &output, kvd_config(ctl->kvd, ctl->args->operands, ctl->args->count, print_setting, &output));
}

static int change(struct ctl *ctl, struct changes *changes)
{
    const int code = ctl_connect(ctl);
    if (code)
        return code;
    output_begin(&changes->output, ctl->json);
    return finish(ctl, &changes->output, kvd_configure(ctl->kvd, changes->settings, changes->count, print_change, changes));
}

/* 0, or EXIT_USAGE: one without a sign among them. */
static int take_changes(struct ctl *ctl, struct changes *changes)
{
    char *at = changes->room;

    for (size_t i = 0; i < ctl->args->count; i++) {
        const char *sign = strchr(ctl->args->operands[i], '=');
        if (!sign)
            return ctl_usage(ctl, "'%.60s': either names to print, or NAME=VALUE to change", ctl->args->operands[i]);
        changes->settings[changes->count++] = (struct kvd_setting){at, sign + 1};
        at = mempcpy(at, ctl->args->operands[i], (size_t)(sign - ctl->args->operands[i]));
        *at++ = '\0';
    }
    return 0;
}

static int change_all(struct ctl *ctl)
{
    struct changes changes = {.count = 0};
    size_t bytes = 0;

    for (size_t i = 0; i < ctl->args->count; i++)
        bytes += strlen(ctl->args->operands[i]) + 1;
    changes.settings = calloc(ctl->args->count, sizeof *changes.settings);
    changes.room = malloc(bytes);
    int code = changes.settings && changes.room ? take_changes(ctl, &changes) : ctl_say(ctl, EXIT_REFUSED, "out of memory");
    if (code == 0)
        code = change(ctl, &changes);
    free(changes.settings);
    free(changes.room);
    return code;
}

int cmd_config(struct ctl *ctl)
{
    for (size_t i = 0; i < ctl->args->count; i++) {
        if (strchr(ctl->args->operands[i], '='))
            return change_all(ctl);
    }
    return print_all(ctl);
}
