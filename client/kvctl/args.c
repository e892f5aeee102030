#include "client/kvctl/args.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static const struct option_spec OPTIONS[OPTION_COUNT] = {
    [OPT_SERVER] = {"server", 0, "HOST:PORT", "the server (else $KVD_SERVER, else 127.0.0.1:7950)"},
    [OPT_TOKEN_FILE] = {"token-file", 0, "FILE", "the token, where the server asks for one (else $KVD_TOKEN_FILE)"},
    [OPT_JSON] = {"json", 0, NULL, "print JSON"},
    [OPT_TIMEOUT] = {"timeout", 0, "DURATION", "for each call to the server (30s)"},
    [OPT_HELP] = {"help", 'h', NULL, "print this and exit"},
    [OPT_VERSION] = {"version", 0, NULL, "print the version and exit"},
    [OPT_REPLACE] = {"replace", 0, NULL, "replace the value when the key is there"},
    [OPT_ACK_DISK] = {"ack-disk", 0, NULL, "wait until the value would survive a power cut"},
    [OPT_PIN] = {"pin", 0, NULL, "pin it: it is not evicted"},
    [OPT_TTL] = {"ttl", 0, "DURATION", "it ends so long after it was stored: 250ms, 30s, 5m, 2h"},
    [OPT_OUTPUT] = {"output", 'o', "FILE", "write here instead of standard output"},
    [OPT_OFFSET] = {"offset", 0, "BYTES", "begin here (0)"},
    [OPT_LENGTH] = {"length", 0, "BYTES", "that many bytes (the rest)"},
    [OPT_LEASE] = {"lease", 0, "DURATION", "hold what is there for so long, and stay until then; at most 60s"},
    [OPT_WARM] = {"warm", 0, NULL, "start reading what is on disk into memory"},
    [OPT_PREFIX] = {"prefix", 0, "PREFIX", "all keys that begin with PREFIX"},
    [OPT_ALL] = {"all", 0, NULL, "all keys"},
    [OPT_LIMIT] = {"limit", 0, "N", "at most N keys"},
    [OPT_LONG] = {"long", 'l', NULL, "print size and tiers too"},
    [OPT_OFF] = {"off", 0, NULL, "unpin"},
    [OPT_COUNT] = {"count", 'c', "N", "do it N times"},
    [OPT_BLOCK_SIZE] = {"block-size", 0, "SIZE", "bytes of a block (256k)"},
    [OPT_REQUESTS] = {"requests", 0, "N", "only the first N requests of the trace"},
    [OPT_CONNECTIONS] = {"connections", 0, "N", "threads, each with a connection of its own (1)"},
    [OPT_SPEED] = {"speed", 0, "X|max", "1: as in the trace, 2: twice as fast ...; max: one after the other (max)"},
    [OPT_VERIFY] = {"verify", 0, NULL, "compare every byte that comes back"},
    [OPT_OP] = {"op", 0, "OP", "put, get, exists or mixed (mixed)"},
    [OPT_SIZE] = {"size", 0, "SIZE", "bytes of a value (1m)"},
    [OPT_DEPTH] = {"depth", 0, "N", "keys in one call, pipelined underneath (1)"},
    [OPT_SECONDS] = {"seconds", 0, "S", "run for so long (10)"},
    [OPT_KEYS] = {"keys", 0, "N", "how many different keys (64)"},
    [OPT_KEYS_ONLY] = {"keys-only", 0, NULL, "print the keys alone"},
    [OPT_NO_VERIFY] = {"no-verify", 0, NULL, "read headers and indexes, not the values"},
    [OPT_OTHER] = {"other", 0, "DIR", "another path to the same directory: how late does it see what happens"},
    [OPT_WAIT] = {"wait", 0, "DURATION", "how long to wait for that (60s)"},
    [OPT_DIR] = {"dir", 0, "DIR", "kvd's --dir (paths below it)"},
    [OPT_CLUSTER] = {"cluster", 0, "NAME", "kvd's --cluster (kvd)"},
    [OPT_RATE] = {"rate", 0, "SIZE", "read so many bytes a second at most (200m)"},
    [OPT_YES_DELETE] = {"yes-delete", 0, "NODE", "the name of the node whose files are deleted"},
    [OPT_STOP] = {"stop", 0, NULL, "end the run that is under way"},
};

const struct option_spec *option_spec(enum option_id id)
{
    return &OPTIONS[id];
}

__attribute__((format(printf, 2, 3))) static int refuse(char *why, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(why, ARGS_WHY_BYTES, format, list);
    va_end(list);
    return KVD_EUSAGE;
}

/* OPTION_COUNT when there is none of that name. */
static unsigned find_name(const char *name, size_t len)
{
    unsigned id = 0;
    while (id < OPTION_COUNT && (strncmp(OPTIONS[id].name, name, len) != 0 || OPTIONS[id].name[len] != '\0'))
        id++;
    return id;
}

static unsigned find_letter(char letter)
{
    unsigned id = 0;
    while (id < OPTION_COUNT && OPTIONS[id].letter != letter)
        id++;
    return id;
}

/* One option at argv[*at], and its value, which `attached` is or the next of argv. */
static int take_option(struct args *args, unsigned id, const char *attached, int argc, char **argv, int *at, char *why)
{
    const char *text = argv[*at];

    if (id == OPTION_COUNT)
        return refuse(why, "no option %.60s", text);
    if (!OPTIONS[id].value && attached)
        return refuse(why, "option --%s takes no value", OPTIONS[id].name);
    if (OPTIONS[id].value && !attached) {
        if (*at + 1 >= argc)
            return refuse(why, "option %.60s needs %s", text, OPTIONS[id].value);
        attached = argv[++*at];
    }
    args->given |= OPT_BIT(id);
    args->values[id] = attached;
    return 0;
}

static int take_long(struct args *args, int argc, char **argv, int *at, char *why)
{
    const char *name = argv[*at] + 2;
    const char *equals = strchr(name, '=');
    const size_t len = equals ? (size_t)(equals - name) : strlen(name);

    return take_option(args, find_name(name, len), equals ? equals + 1 : NULL, argc, argv, at, why);
}

static int take_short(struct args *args, int argc, char **argv, int *at, char *why)
{
    const char *text = argv[*at];

    return take_option(args, find_letter(text[1]), text[2] ? text + 2 : NULL, argc, argv, at, why);
}

static void take_operand(struct args *args, const char *text)
{
    if (!args->command)
        args->command = text;
    else
        args->operands[args->count++] = text;
}

int args_parse(struct args *args, int argc, char **argv, const char **room, char why[ARGS_WHY_BYTES])
{
    struct args got = {.operands = room};
    bool operands_only = false;
    int err = 0;

    for (int at = 1; at < argc && err == 0; at++) {
        const char *text = argv[at];
        if (operands_only || text[0] != '-' || text[1] == '\0')
            take_operand(&got, text);
        else if (strcmp(text, "--") == 0)
            operands_only = true;
        else
            err = text[1] == '-' ? take_long(&got, argc, argv, &at, why) : take_short(&got, argc, argv, &at, why);
    }
    if (err == 0)
        *args = got;
    return err;
}
