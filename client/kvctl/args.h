/* args.h - the command line taken apart: one table of options, before or after the subcommand.
 *
 * Owns:    nothing; texts are borrowed from argv.
 * Not its: which command takes which option, and what they mean.
 * Thread:  any.
 */
#ifndef KVD_CLIENT_ARGS_H
#define KVD_CLIENT_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_id {
    OPT_SERVER,
    OPT_TOKEN_FILE,
    OPT_JSON,
    OPT_TIMEOUT,
    OPT_HELP,
    OPT_VERSION,
    OPT_REPLACE,
    OPT_ACK_DISK,
    OPT_PIN,
    OPT_TTL,
    OPT_OUTPUT,
    OPT_OFFSET,
    OPT_LENGTH,
    OPT_LEASE,
    OPT_WARM,
    OPT_PREFIX,
    OPT_ALL,
    OPT_LIMIT,
    OPT_LONG,
    OPT_OFF,
    OPT_COUNT,
    OPT_BLOCK_SIZE,
    OPT_REQUESTS,
    OPT_CONNECTIONS,
    OPT_SPEED,
    OPT_VERIFY,
    OPT_OP,
    OPT_SIZE,
    OPT_DEPTH,
    OPT_SECONDS,
    OPT_KEYS,
    OPT_KEYS_ONLY,
    OPT_NO_VERIFY,
    OPT_OTHER,
    OPT_WAIT,
    OPT_DIR,
    OPT_CLUSTER,
    OPT_RATE,
    OPT_YES_DELETE,
    OPT_STOP,
    OPTION_COUNT,
};

#define OPT_BIT(id) ((uint64_t)1 << (id))

struct option_spec {
    const char *name;
    char letter;       /* 0: none */
    const char *value; /* what it takes; NULL for a switch */
    const char *help;
};

/* Static storage. */
const struct option_spec *option_spec(enum option_id id);

struct args {
    uint64_t given;                   /* OPT_BIT()s */
    const char *values[OPTION_COUNT]; /* of the options given that take one */
    const char *command;              /* the first operand; NULL for none */
    const char **operands;            /* those after it */
    size_t count;
};

enum { ARGS_WHY_BYTES = 160 };

/* Take argv[1..argc) apart: `--name VALUE`, `--name=VALUE`, `-x VALUE`, `-xVALUE`; `-` is an operand; after `--` all are. The last of
 * equal options counts. `room` holds argc pointers and must outlive `args`. Returns 0, or KVD_EUSAGE and a text in `why`. */
int args_parse(struct args *args, int argc, char **argv, const char **room, char why[ARGS_WHY_BYTES]);

static inline bool args_has(const struct args *args, enum option_id id)
{
    return (args->given & OPT_BIT(id)) != 0;
}

#endif
