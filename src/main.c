/* main.c - flags, the config file, and the loop's life. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "config.h"
#include "loop/conn.h"
#include "loop/loop.h"
#include "server.h"

enum { CONFIG_FILE_BYTES = 1 << 20, WHY_BYTES = 3 * CONFIG_TEXT_BYTES };
enum { OBJECT_THREADS = 16 }; /* where each object is a file, reads and writes are jobs, too */

static const char *kind_of(const struct config_key *key)
{
    static const char *const kinds[] = {"TEXT", "SIZE", "TIME", "N", ""};
    return key->values ? key->values : kinds[key->type];
}

static void print_help(void)
{
    printf("kvd %s - a server that keeps KV cache blocks in memory and on disk\n\nusage: kvd [--KEY VALUE]...\n\n", KVD_VERSION);
    printf("  %-34s %s\n", "--config FILE", "read `key = value` lines; flags win");
    printf("  %-34s %s\n", "--check-config", "say whether the settings are good, and stop");
    printf("  %-34s %s\n  %-34s %s\n", "--version", "say which version this is", "--help", "say this");
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        bool shown = key->fallback && key->fallback[0];
        char flag[80];
        snprintf(flag, sizeof flag, "--%s %s", key->name, kind_of(key));
        printf("  %-34s", flag);
        if (strlen(flag) > 34)
            printf("\n  %-34s", "");
        printf(" %s%s%s%s\n", key->help, shown ? " (" : "", shown ? key->fallback : "", shown ? ")" : "");
    }
    printf("\nSizes: 512m, 4g, 1t. Times: 250ms, 5s. All of it: docs/configuration.md\n");
}

/* docs/configuration.md, made from the table; `make check` compares. */
static void print_page(void)
{
    printf(
        "# Configuration\n\n"
        "Every setting is a flag (`--memory 8g` or `--memory=8g`) and a line of the file that `--config FILE` names (`memory = 8g`;\n"
        "`#` and `;` begin a comment line, ` ;` a comment behind a value; a `[kvd]` header is allowed; a line does not begin with a\n"
        "space, and has at most 198 bytes). Flags win over the file. `kvd --check-config` says whether all of it makes sense, without\n"
        "touching anything (it reads the token file). Sizes are written `512m`, `4g`, `1t` (units of 1,024), times `250ms`, `5s`, `2m`.\n"
        "*Live* settings can be changed while kvd runs (CONFIG of docs/protocol.md).\n\n"
        "| key | value | default | live | what it is |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        const char *fallback = key->fallback ? key->fallback : strcmp(key->name, "node") == 0 ? "the host's name" : "see below";
        printf("| `%s` | ", key->name);
        for (const char *at = kind_of(key); *at; at++)
            fputs(*at == '|' ? ", " : (char[]){*at, 0}, stdout);
        printf(" | %s | %s | %s |\n", fallback, key->live ? "yes" : "", key->help);
    }
    printf("\nWithout `dir`, files go to `$XDG_STATE_HOME/kvd`, else for a user to `~/.local/state/kvd`, for root to `/var/lib/kvd`;\n"
           "kvd names the directory in its first log line. It makes the folders `<dir>/<cluster>/<node>/` (mode 0700) and keeps to them.\n"
           "A node finds what it stored under its own name only: where the host's name changes at each start (containers), set `node`.\n");
}

static int complain(const char *why)
{
    fprintf(stderr, "kvd: %s\n", why);
    return 2;
}

/* Where files go when nobody says: the place for a service's state, or for a user's. */
static void default_dir(char *out, size_t out_len)
{
    const char *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    if (state && state[0] == '/')
        snprintf(out, out_len, "%s/kvd", state);
    else if (home && home[0] == '/' && strcmp(home, "/root") != 0)
        snprintf(out, out_len, "%s/.local/state/kvd", home);
    else
        snprintf(out, out_len, "/var/lib/kvd");
}

static int read_config_file(struct config *config, const char *path, char *why, size_t why_len)
{
    char detail[CONFIG_TEXT_BYTES];
    char *text = calloc(1, CONFIG_FILE_BYTES + 1);
    int64_t len = text ? loop_read_small_file(path, text, CONFIG_FILE_BYTES) : -ENOMEM;
    int err = KVD_EUSAGE;
    if (len < 0)
        snprintf(why, why_len, "%s: %s", path, error_text((int)len));
    else if (strlen(text) != (size_t)len)
        snprintf(why, why_len, "%s: not a text file", path);
    else if ((err = config_read(config, text, detail, sizeof detail)) != 0)
        snprintf(why, why_len, "%s: %s", path, detail);
    free(text);
    return err;
}

/* P10: beyond loopback only with tokens, or by whoever has said so. */
static int check_reach(const struct config *config, char *why, size_t why_len)
{
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (config->no_auth_anywhere || config->token_file[0] != '\0' || !text_split_address(config->listen, host, sizeof host, &port) ||
        address_is_loopback(host))
        return 0;
    snprintf(
        why, why_len,
        "%s is not a loopback address, and whoever connects could read and write: give it a --token-file, or say --no-auth-anywhere if "
        "that is meant",
        config->listen);
    return KVD_EUSAGE;
}

/* Nodes find each other without asking anybody for a name. */
static int check_advertise(const struct config *config, char *why, size_t why_len)
{
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (config->peers[0] == '\0' || (text_split_address(config->advertise, host, sizeof host, &port) && address_is_numeric(host)))
        return 0;
    snprintf(why, why_len, "advertise must be a numeric address and a port, not \"%s\"", config->advertise);
    return KVD_EUSAGE;
}

static int load_config(struct config *config, struct config_command *command, int argc, char **argv, char *why, size_t why_len)
{
    char host[NODE_ID_MAX + 1] = "kvd", dir[CONFIG_TEXT_BYTES];
    (void)loop_host_name(host, sizeof host);
    default_dir(dir, sizeof dir);
    config_init(config, host, dir);
    int err = command->file[0] != '\0' ? read_config_file(config, command->file, why, why_len) : 0;
    if (err == 0)
        err = config_flags(config, command, argc, argv, why, why_len);
    if (err == 0)
        err = config_check(config, why, why_len);
    if (!err)
        err = check_reach(config, why, why_len);
    return err ? err : check_advertise(config, why, why_len);
}

/* *out is NULL where none are asked for. */
static int read_tokens(const struct config *config, struct tokens **out, char *why, size_t why_len)
{
    char detail[TOKEN_WHY_BYTES] = "out of memory";
    *out = NULL;
    int err = config->token_file[0] != '\0' ? access_read(config->token_file, NULL, out, detail) : 0;
    if (err)
        snprintf(why, why_len, "token-file %s: %s", config->token_file, detail);
    return err;
}

static int read_cluster_token(const struct config *config, struct token *out, char *why, size_t why_len)
{
    char detail[TOKEN_WHY_BYTES] = "out of memory";
    int err = config->peers[0] != '\0' ? access_read_one(config->cluster_token_file, out, detail) : 0;
    if (err)
        snprintf(why, why_len, "cluster-token-file %s: %s", config->cluster_token_file, detail);
    return err;
}

static void signalled(void *arg, enum loop_signal what)
{
    if (what == SIGNAL_HANG_UP)
        server_hang_up(arg);
    else
        server_stop(arg);
}

/* The loops of this process. The store lives on the only one, or on one more, which has a lock. */
struct loops {
    struct loop *all[LOOPS_MOST];
    unsigned count;
    struct loop *store;
};

/* Every loop but the first, which is run by this thread. */
static int start_threads(const struct loops *loops)
{
    int err = loops->count > 1 ? loop_start(loops->store) : 0;
    for (unsigned i = 1; i < loops->count && err == 0; i++)
        err = loop_start(loops->all[i]);
    return err;
}

static void join_threads(const struct loops *loops)
{
    for (unsigned i = 1; i < loops->count; i++)
        loop_join(loops->all[i]);
    if (loops->count > 1)
        loop_join(loops->store);
}

/* Takes the tokens: once the server alone holds a set, one that another follows is wiped. */
static int serve(const struct loops *loops, struct log *log, const struct config *config, struct tokens **tokens,
                 struct token *cluster_token)
{
    struct server *server = malloc(sizeof *server);
    if (!server)
        return complain("out of memory");
    int status = 1;
    int err = server_open(server, loops->all, loops->count, loops->store, log, config, *tokens);
    tokens_unref(*tokens);
    *tokens = NULL;
    if (err == 0) {
        err = config->peers[0] != '\0' ? server_join_cluster(server, cluster_token) : 0;
        mac_wipe(cluster_token, sizeof *cluster_token);
        if (err == 0)
            err = loop_catch_signals(loops->all[0], signalled, server);
        if (err == 0)
            err = start_threads(loops);
        if (err) {
            log_error(log, "cannot_start", "err=\"%s\"", error_text(err));
            loop_exit_now(1);
        }
        loop_run(loops->all[0]);
        join_threads(loops);
        status = server->exit_status;
        server_fini(server);
    }
    free(server);
    return status;
}

static void free_loops(struct loops *loops)
{
    if (loops->store && loops->store != loops->all[0])
        loop_free(loops->store);
    while (loops->count > 0)
        loop_free(loops->all[--loops->count]);
}

static int make_loops(struct loops *loops, const struct config *config, const struct log *log)
{
    struct loop_options files = {
        .io_depth = (unsigned)config->io_depth,
        .io_bytes = config->io_bytes,
        .forbid_ring = strcmp(config->io, "threads") == 0,
        .forbid_fixed = strcmp(config->fixed_buffers, "off") == 0,
        .zero_copy_sends = strcmp(config->zero_copy_sends, "on") == 0,
    };
    if (config->segment_size == 0)
        files.job_threads = OBJECT_THREADS;
    *loops = (struct loops){.count = 0};
    files.locked = config->loops > 1;
    int err = loop_new(&loops->store, &files, log);
    if (err)
        return err;
    if (config->loops == 1)
        loops->all[loops->count++] = loops->store;
    struct loop_options conns = {.conns_only = true, .zero_copy_sends = files.zero_copy_sends};
    while (loops->count < config->loops && err == 0) {
        err = loop_new(&loops->all[loops->count], &conns, log);
        loops->count += err == 0;
    }
    return err;
}

static int run(const struct config *config, struct tokens **tokens, struct token *cluster_token)
{
    struct log log;
    struct loops loops;
    loop_log_to_stderr(&log, config_log_level(config));
    int err = make_loops(&loops, config, &log);
    int status = err ? complain(error_text(err)) : serve(&loops, &log, config, tokens, cluster_token);
    free_loops(&loops);
    return status;
}

int main(int argc, char **argv)
{
    struct config_command command;
    char why[WHY_BYTES];
    if (config_flags(NULL, &command, argc, argv, why, sizeof why) != 0)
        return complain(why);
    if (command.help) {
        print_help();
        return 0;
    }
    if (command.page) {
        print_page();
        return 0;
    }
    if (command.version) {
        printf("kvd %s\n", KVD_VERSION);
        return 0;
    }

    struct config *config = malloc(sizeof *config);
    struct tokens *tokens = NULL;
    struct token cluster_token = {0};
    int status = 0;
    if (!config)
        return complain("out of memory");
    if (load_config(config, &command, argc, argv, why, sizeof why) != 0 || read_tokens(config, &tokens, why, sizeof why) != 0 ||
        read_cluster_token(config, &cluster_token, why, sizeof why) != 0)
        status = complain(why);
    else if (command.check)
        printf("kvd: the settings are good\n");
    else
        status = run(config, &tokens, &cluster_token);
    tokens_unref(tokens);
    free(config);
    return status;
}
