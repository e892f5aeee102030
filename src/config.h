/* config.h - every setting of kvd, from flags and from a file, by one table.
 *
 * The table makes the parser, --help, CONFIG and the page docs/configuration.md. A flag is `--name value` or `--name=value`; the file has
 * `name = value` lines (inih; a section header [kvd] is allowed). Flags win over the file.
 *
 * Owns:    nothing. No I/O: the file's text comes in.
 * Thread:  the main one.
 */
#ifndef KVD_CONFIG_H
#define KVD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "cluster/view.h"

enum { CONFIG_TEXT_BYTES = 1024 };

struct config {
    char listen[CONFIG_TEXT_BYTES];
    char dir[CONFIG_TEXT_BYTES];
    char cluster[NODE_ID_MAX + 1];
    char node[NODE_ID_MAX + 1];
    char persist[16];
    char when_behind[16];
    char io[16];
    char prefault[8];
    char fixed_buffers[8];
    char zero_copy_sends[8];
    char log_level[16];
    char port_file[CONFIG_TEXT_BYTES];
    char token_file[CONFIG_TEXT_BYTES];
    char peers[16];
    char advertise[NODE_ADDRESS_MAX + 1];
    char cluster_token_file[CONFIG_TEXT_BYTES];
    uint64_t lease_time, suspect, dead_after, peer_timeout;
    uint64_t memory, disk, segment_size, write_queue, inflight, request_memory, read_split, max_value;
    uint64_t wait_for_index, drain_timeout, send_timeout, frame_timeout;
    uint64_t loops, io_depth, io_bytes, max_connections, disk_timeout, rewrite_share, index_memory, disk_free_min, disk_min, unlink_delay;
    char require_fs[32];
    bool no_auth_anywhere, probe;
};

enum config_type { CONFIG_TEXT, CONFIG_SIZE, CONFIG_DURATION, CONFIG_NUMBER, CONFIG_FLAG };

struct config_key {
    const char *name;
    enum config_type type;
    size_t at;   /* offsetof in struct config */
    size_t room; /* bytes there, for texts */
    const char *fallback;
    uint64_t min, max;  /* of a text, min 1: whoever names it must not leave it empty */
    const char *values; /* "a|b": what a text may be; NULL: anything */
    bool live;          /* CONFIG may set it while kvd runs */
    const char *help;
};
extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* All defaults. `host_name` is the default of `node`, `state_dir` that of `dir`. */
void config_init(struct config *config, const char *host_name, const char *state_dir);

const struct config_key *config_find(const char *name);

/* Set one key. Returns 0, or KVD_EUSAGE with a line for people in `why`. */
int config_set(struct config *config, const struct config_key *key, const char *value, char *why, size_t why_len);

/* Read the text of a file. `why` names the line. Returns as config_set(). */
int config_read(struct config *config, const char *text, char *why, size_t why_len);

/* What flags say besides keys. */
struct config_command {
    bool help, version, check;
    bool page;                    /* print docs/configuration.md */
    char file[CONFIG_TEXT_BYTES]; /* --config */
};
/* First pass: the command and the file's name; second pass (config not NULL): the keys too. Returns as config_set(). */
int config_flags(struct config *config, struct config_command *command, int argc, char **argv, char *why, size_t why_len);

/* Do the values make sense together? Returns as config_set(). */
int config_check(const struct config *config, char *why, size_t why_len);

/* Write a key's value as config_set() reads it. Returns `out`. */
char *config_get(const struct config *config, const struct config_key *key, char *out, size_t out_len);

enum log_level config_log_level(const struct config *config);

#endif
