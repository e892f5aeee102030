/* kvctl.h - what the families of commands share: exit codes, typed options, keys, the connection, errors. */
#ifndef KVD_CLIENT_KVCTL_H
#define KVD_CLIENT_KVCTL_H

#include <stdint.h>

#include "client/kvctl/args.h"
#include "client/kvd.h"

enum {
    EXIT_DONE = 0,
    EXIT_MISS = 1,
    EXIT_USAGE = 2,       /* also a file that was named and cannot be read */
    EXIT_REFUSED = 3,     /* by the server; also wrong bytes, and output that could not be written */
    EXIT_UNREACHABLE = 4, /* no connection, or no answer in time */
    EXIT_SIGNAL = 128,    /* and the signal's number */
};

struct command;

struct ctl {
    const struct args *args;
    const struct command *command;
    bool json;
    bool results; /* JSON of what was done has begun, or comes in any case: an error is said on stderr alone */
    uint64_t timeout_ms;
    struct kvd *kvd; /* NULL until ctl_connect(); closed by main */
};

/* A row of the table of subcommands. */
struct command {
    const char *name;
    const char *operands; /* for its usage line */
    const char *summary;
    const char *details; /* NULL for none */
    uint64_t options;    /* OPT_BIT()s beyond the common ones */
    size_t min_operands, max_operands;
    int (*run)(struct ctl *ctl); /* returns an exit code */
};

/* Say `kvctl NAME: ...` in one line on stderr; with --json also an object {"error", "exit"}, see struct ctl. Returns EXIT_USAGE, with a
 * hint at --help. */
int ctl_usage(const struct ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same without the hint; returns `exit_code`. */
int ctl_say(const struct ctl *ctl, int exit_code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Say that a call on `kvd` failed with `result` (negative), and what the handle knows of it. `what` is a key or a few words, or NULL.
 * Returns its exit code. Any thread. */
int ctl_failed(const struct ctl *ctl, const struct kvd *kvd, int result, const char *what);

/* The exit code of a negative result of libkvd. */
int ctl_exit_code(int result);

/* Connect ctl->kvd, or another handle for a thread of its own. 0, or an exit code after a line on stderr. */
int ctl_connect(struct ctl *ctl);
int ctl_connect_another(const struct ctl *ctl, struct kvd **out);

/* The value of an option within [min, max], or `fallback` when it was not given. 0, or EXIT_USAGE after a line on stderr. */
int ctl_number(const struct ctl *ctl, enum option_id id, uint64_t fallback, uint64_t min, uint64_t max, uint64_t *out);
int ctl_size(const struct ctl *ctl, enum option_id id, uint64_t fallback, uint64_t min, uint64_t max, uint64_t *out);
int ctl_duration(const struct ctl *ctl, enum option_id id, uint64_t fallback_ms, uint64_t max_ms, uint64_t *out);
int ctl_real(const struct ctl *ctl, enum option_id id, double fallback, double max, double *out); /* above 0 */

/* Operands as keys. */
struct ctl_keys {
    struct kvd_key *keys;
    size_t count;
    uint8_t *room;
};
/* 0, or an exit code after a line on stderr; else free it with ctl_keys_free(). The keys borrow the operands. */
int ctl_keys_parse(const struct ctl *ctl, const char *const *texts, size_t count, struct ctl_keys *out);
void ctl_keys_free(struct ctl_keys *keys);

/* The commands; each returns an exit code. */
int cmd_put(struct ctl *ctl);
int cmd_get(struct ctl *ctl);
int cmd_rm(struct ctl *ctl);
int cmd_pin(struct ctl *ctl);
int cmd_sync(struct ctl *ctl);
int cmd_seal(struct ctl *ctl);
int cmd_evict(struct ctl *ctl);
int cmd_verify(struct ctl *ctl);
int cmd_drain(struct ctl *ctl);
int cmd_teardown(struct ctl *ctl);
int cmd_segments(struct ctl *ctl);
int cmd_exists(struct ctl *ctl);
int cmd_match(struct ctl *ctl);
int cmd_ls(struct ctl *ctl);
int cmd_stat(struct ctl *ctl);
int cmd_info(struct ctl *ctl);
int cmd_node(struct ctl *ctl);
int cmd_config(struct ctl *ctl);
int cmd_ping(struct ctl *ctl);
int cmd_replay(struct ctl *ctl);
int cmd_bench(struct ctl *ctl);
int cmd_inspect(struct ctl *ctl);
int cmd_doctor(struct ctl *ctl);
int cmd_locate(struct ctl *ctl);
int cmd_token(struct ctl *ctl);

#endif
