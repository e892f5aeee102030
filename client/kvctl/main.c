/* kvctl: the table of subcommands, their help, and the options that all have. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

#ifndef KVD_VERSION
#define KVD_VERSION "unknown"
#endif

enum { DEFAULT_TIMEOUT_MS = 30000, MAX_TIMEOUT_MS = 24 * 3600 * 1000, ANY = 1 << 20 };

#define COMMON_OPTIONS \
    (OPT_BIT(OPT_SERVER) | OPT_BIT(OPT_TOKEN_FILE) | OPT_BIT(OPT_JSON) | OPT_BIT(OPT_TIMEOUT) | OPT_BIT(OPT_HELP) | OPT_BIT(OPT_VERSION))
#define NO_SERVER ((uint64_t)1 << 63) /* the command asks none */

static const struct command COMMANDS[] = {
    {"ping", "", "is the server there, and how fast does it answer", "Pings of -c N follow each other without a pause.", OPT_BIT(OPT_COUNT),
     0, 0, cmd_ping},
    {"info", "[SECTION]", "the server's figures", NULL, 0, 0, 1, cmd_info},
    {"node", "ls | forget NODE", "the nodes of the cluster, as this one sees them",
     "INFO, section cluster, has more: docs/protocol.md. `forget` says that NODE is gone for good, where nobody can know: when no\n"
     "member of the newest view is left. If it is not gone it may go on serving what others remove. Refused while it lives.",
     0, 1, 2, cmd_node},
    {"config", "[NAME... | NAME=VALUE...]", "the server's settings: print them, or change some while it runs",
     "Without a NAME all are printed. docs/configuration.md says what each is, and which can be changed. A change holds until the\n"
     "server ends; all of them are made, or none. Exits with 3 when one is unknown or cannot be changed.",
     0, 0, ANY, cmd_config},
    {"put", "KEY FILE|-", "store a file, or standard input",
     "Without --replace a key that is there keeps its value: \"present\", which is a success.",
     OPT_BIT(OPT_REPLACE) | OPT_BIT(OPT_ACK_DISK) | OPT_BIT(OPT_PIN) | OPT_BIT(OPT_TTL), 2, 2, cmd_put},
    {"get", "KEY", "read a value",
     "To standard output, or with -o FILE to a file, which appears whole or not at all. --json tells about the\n"
     "value, and needs -o FILE with a FILE that is not -.",
     OPT_BIT(OPT_OUTPUT) | OPT_BIT(OPT_OFFSET) | OPT_BIT(OPT_LENGTH), 1, 1, cmd_get},
    {"exists", "KEY...", "which keys are there, and in which tiers", "Exits with 1 if any is missing.", 0, 1, ANY, cmd_exists},
    {"match", "KEY...", "how many of the keys, from the first on without a gap, are there",
     "Holds nothing, unless --lease asks for it: a lease ends with its connection, so kvctl then stays until it has run\n"
     "out, or until it is interrupted. Exits with 1 if not even the first key is there.",
     OPT_BIT(OPT_LEASE) | OPT_BIT(OPT_WARM), 1, ANY, cmd_match},
    {"rm", "KEY... | --prefix PREFIX | --all", "remove", "Exits with 1 if none of the keys given was there.",
     OPT_BIT(OPT_PREFIX) | OPT_BIT(OPT_ALL), 0, ANY, cmd_rm},
    {"ls", "", "list keys", "In no order. One that comes or goes meanwhile may be missed, or be listed twice.",
     OPT_BIT(OPT_PREFIX) | OPT_BIT(OPT_LIMIT) | OPT_BIT(OPT_LONG), 0, 0, cmd_ls},
    {"stat", "KEY", "all that the server knows of a key", NULL, 0, 1, 1, cmd_stat},
    {"pin", "KEY...", "pin keys, so that they are not evicted", "Exits with 1 if any of them is not there.", OPT_BIT(OPT_OFF), 1, ANY,
     cmd_pin},
    {"sync", "", "wait until all is on disk that the persist policy would ever put there", NULL, 0, 0, 0, cmd_sync},
    {"seal", "", "sync, and end the file that is open for writing", NULL, 0, 0, 0, cmd_seal},
    {"evict", "[SIZE]", "have objects leave memory",
     "The least recently used first, until they are SIZE; without SIZE all that can. What is on disk goes, what the persist policy\n"
     "puts there is written first; what would be lost stays, and so does what is leased or pinned.",
     0, 0, 1, cmd_evict},
    {"verify", "", "read everything on disk and judge it",
     "The server reads in the background, --rate at most, and drops what is bad; kvctl follows it to its end. A run that is under\n"
     "way is joined. Exits with 1 if something was bad, or could not be read. An interrupt leaves the server reading;\n"
     "--stop ends the run, and whoever follows it exits with 3.",
     OPT_BIT(OPT_RATE) | OPT_BIT(OPT_STOP), 0, 0, cmd_verify},
    {"segments", "", "the files on disk, with what is live in them", "The oldest first.", 0, 0, 0, cmd_segments},
    {"drain", "", "refuse puts, and write what belongs on disk",
     "Puts are refused until the server is started anew; all else goes on. Exits with 1 if objects are on no disk all the same, as\n"
     "those are under persist none that no put asked to have there.",
     0, 0, 0, cmd_drain},
    {"teardown", "--yes-delete NODE", "remove everything, delete the node's files, end the server",
     "NODE must be the name of the server's node. Files that are not kvd's stay, and the folder then too; the server's log\n"
     "names them.",
     OPT_BIT(OPT_YES_DELETE), 0, 0, cmd_teardown},
    {"replay", "TRACE", "replay a trace of requests and measure",
     "TRACE has Mooncake's format: a JSON object a line with `timestamp` (ms) and `hash_ids`. For each request: match its\n"
     "blocks with a lease, read those that are there, put the rest, release. Hits are block references that were matched and\n"
     "read. Latencies: of each match, of a request's first byte, of all its reads and of all its puts together.\n"
     "With several connections each takes the next request in the order of the trace. With --speed X a request begins at\n"
     "timestamp / X, or later if no connection is free.\n"
     "A wrong byte, a refused block: said, counted, exit 3. An interrupt prints what there is so far and exits with 130.\n"
     "The blocks stay: kvctl rm --prefix replay/",
     OPT_BIT(OPT_BLOCK_SIZE) | OPT_BIT(OPT_REQUESTS) | OPT_BIT(OPT_CONNECTIONS) | OPT_BIT(OPT_SPEED) | OPT_BIT(OPT_VERIFY), 1, 1,
     cmd_replay},
    {"bench", "", "put load on the server and measure",
     "put replaces values; get reads keys at random that were put before; exists asks for them; mixed is nine calls of get to one\n"
     "of put. A call has --depth keys, and latencies are those of calls. Runs for --seconds, or until --count keys\n"
     "were done. The values stay: kvctl rm --prefix bench/",
     OPT_BIT(OPT_OP) | OPT_BIT(OPT_SIZE) | OPT_BIT(OPT_CONNECTIONS) | OPT_BIT(OPT_DEPTH) | OPT_BIT(OPT_SECONDS) | OPT_BIT(OPT_COUNT) |
         OPT_BIT(OPT_KEYS) | OPT_BIT(OPT_VERIFY),
     0, 0, cmd_bench},
    {"inspect", "FILE", "judge a file of the disk tier, without a server",
     "FILE is a segment, a remove log, a node file, or an object with a file of its own. Prints what is in it and what is wrong\n"
     "with it, where, and what kvd would make of it at start. Whether another file says that a record is dead is not looked at.\n"
     "States: indexed (an index names it), walked (found by reading), damaged, void (stepped over), unnamed (not served).\n"
     "Exits with 0 when nothing is wrong, 1 when something is, 2 when it is no file of kvd's or cannot be read.",
     OPT_BIT(OPT_KEYS_ONLY) | OPT_BIT(OPT_NO_VERIFY) | NO_SERVER, 1, 1, cmd_inspect},
    {"doctor", "DIR", "try a directory out: what will kvd make of it",
     "Does there what kvd does, in a folder of its own that is removed, with up to 64 MiB of data: creates, writes, reads, renames,\n"
     "unlinks, locks, goes through io_uring; and says in words what that means. No operation is waited for longer than --timeout.\n"
     "Exits with 0 when kvd can use it, 1 when it cannot or something fails, 2 when it cannot be tried.",
     OPT_BIT(OPT_OTHER) | OPT_BIT(OPT_WAIT) | NO_SERVER, 1, 1, cmd_doctor},
    {"locate", "KEY...", "the file that an object has",
     "Where kvd runs with --segment-size 0, each object is a file named by its key's hash (XXH3-128). No server is asked: the\n"
     "path is printed whether the file is there or not.",
     OPT_BIT(OPT_DIR) | OPT_BIT(OPT_CLUSTER) | NO_SERVER, 1, ANY, cmd_locate},
    {"token", "NAME RIGHTS", "make a token",
     "Prints a line for kvd's --token-file, which serves as the client's token file as well: NAME, RIGHTS (read, write, admin, with\n"
     "commas between) and 32 random bytes in hex. No server is asked. Redirect it with umask 077: a file that others may read is\n"
     "refused.",
     NO_SERVER, 2, 2, cmd_token},
};

_Static_assert(OPTION_COUNT < 63, "an option more than there are bits");

enum { COMMAND_COUNT = sizeof COMMANDS / sizeof COMMANDS[0] };

static const char NOTES[] =
    "\n"
    "KEY is text, or hex: and bytes in hex. Keys print as text when they are printable ASCII and do not begin with\n"
    "\"hex:\", else as hex:...\n"
    "Sizes: 4096, 256k, 1m, 4g. Durations: 250ms, 30s, 2m. Options may stand before or after the command.\n"
    "--json prints one JSON value on standard output; where there are no results, {\"error\": TEXT, \"exit\": N}.\n"
    "Exit: 0 done; 1 a miss, or what the command's own help says; 2 usage, or a file that cannot be read; 3 refused\n"
    "by the server, or output that could not be written; 4 the server cannot be reached, or gave no answer in time.\n";

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(COMMANDS[i].name, name) == 0)
            return &COMMANDS[i];
    }
    return NULL;
}

static void print_options(uint64_t options)
{
    for (unsigned id = 0; id < OPTION_COUNT; id++) {
        const struct option_spec *spec = option_spec(id);
        char left[40];
        if ((options & OPT_BIT(id)) == 0)
            continue;
        const char letter[] = {'-', spec->letter, ',', ' ', '\0'};
        snprintf(left, sizeof left, "%s--%s%s%s", spec->letter ? letter : "", spec->name, spec->value ? " " : "",
                 spec->value ? spec->value : "");
        printf("  %-24s %s\n", left, spec->help);
    }
}

static int help_all(void)
{
    puts("usage: kvctl COMMAND [OPTION...] [ARGUMENT...]\n\nLook inside kvd, a server of KV-cache blocks.\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        printf("  %-8s %s\n", COMMANDS[i].name, COMMANDS[i].summary);
    printf("  %-8s %s\n\n", "help", "this, or with a COMMAND more about it");
    print_options(COMMON_OPTIONS);
    fputs(NOTES, stdout);
    return output_flush();
}

static int help_command(const struct command *command)
{
    printf("usage: kvctl %s%s%s [OPTION...]\n\n%s\n", command->name, command->operands[0] ? " " : "", command->operands, command->summary);
    if (command->details)
        printf("%s\n", command->details);
    putchar('\n');
    print_options((command->options | COMMON_OPTIONS) &
                  ~(command->options & NO_SERVER ? OPT_BIT(OPT_SERVER) | OPT_BIT(OPT_TOKEN_FILE) : 0));
    fputs(NOTES, stdout);
    return output_flush();
}

static int help(const struct ctl *ctl, const char *name)
{
    if (!name)
        return help_all();
    const struct command *command = find_command(name);
    return command ? help_command(command) : ctl_usage(ctl, "no command '%.60s'", name);
}

static int print_version(void)
{
    puts("kvctl " KVD_VERSION);
    return output_flush();
}

static int check_usage(const struct ctl *ctl)
{
    const struct args *args = ctl->args;
    const uint64_t foreign = args->given & ~(ctl->command->options | COMMON_OPTIONS);

    if (foreign)
        return ctl_usage(ctl, "takes no option --%s", option_spec((enum option_id)__builtin_ctzll(foreign))->name);
    if (args->count < ctl->command->min_operands)
        return ctl_usage(ctl, "needs %s", ctl->command->operands);
    if (args->count > ctl->command->max_operands)
        return ctl_usage(ctl, "'%.60s' is one argument too many", args->operands[ctl->command->max_operands]);
    return 0;
}

static int dispatch(struct ctl *ctl)
{
    const struct args *args = ctl->args;

    if (args_has(args, OPT_VERSION))
        return print_version();
    if (!args->command && !args_has(args, OPT_HELP))
        return ctl_usage(ctl, "no command");
    if (!args->command || strcmp(args->command, "help") == 0)
        return help(ctl, args->count > 0 ? args->operands[0] : NULL);
    if (args_has(args, OPT_HELP))
        return help(ctl, args->command);
    ctl->command = find_command(args->command);
    if (!ctl->command)
        return ctl_usage(ctl, "no command '%.60s'", args->command);

    int code = check_usage(ctl);
    if (code == 0)
        code = ctl_duration(ctl, OPT_TIMEOUT, DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, &ctl->timeout_ms);
    if (code == 0)
        code = ctl->command->run(ctl);
    return code;
}

int main(int argc, char **argv)
{
    struct args args;
    struct ctl ctl = {.args = &args};
    char why[ARGS_WHY_BYTES];
    const char **room = calloc((size_t)argc + 1, sizeof *room);

    if (!room)
        return ctl_say(&ctl, EXIT_REFUSED, "out of memory");
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a write error with a message, not a silent death */
    int code = EXIT_USAGE;
    if (args_parse(&args, argc, argv, room, why) == 0) {
        ctl.json = args_has(&args, OPT_JSON);
        code = dispatch(&ctl);
    } else {
        for (int i = 1; i < argc; i++)
            ctl.json |= strcmp(argv[i], "--json") == 0;
        ctl_usage(&ctl, "%s", why);
    }
    kvd_close(ctl.kvd);
    free(room);
    return code;
}
