#include "config.h"

#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"

#define AT(field) offsetof(struct config, field)
#define TEXT(field) AT(field), sizeof(((struct config *)0)->field)
#define ANY 0, UINT64_MAX, NULL, false

const struct config_key config_keys[] = {
    {"listen", CONFIG_TEXT, TEXT(listen), "127.0.0.1:7950", ANY, "HOST:PORT to serve on; port 0 takes any free one"},
    {"token-file", CONFIG_TEXT, TEXT(token_file), "", 1, UINT64_MAX, NULL, false,
     "serve only who shows a token of this file (docs/operations.md); SIGHUP has it read again"},
    {"no-auth-anywhere", CONFIG_FLAG, AT(no_auth_anywhere), 0, "no", ANY,
     "listen beyond loopback without tokens, though anybody who connects may read and write"},
    {"dir", CONFIG_TEXT, TEXT(dir), NULL, ANY, "directory of the disk tier, on a 3FS mount or any file system"},
    {"cluster", CONFIG_TEXT, TEXT(cluster), "kvd", ANY, "first folder below the directory"},
    {"node", CONFIG_TEXT, TEXT(node), NULL, ANY, "this node's name and folder; by default the host's name"},
    {"peers", CONFIG_TEXT, TEXT(peers), "", ANY,
     "auto: be a member of the cluster of all nodes in this directory (docs/cluster.md has what that gives so far); without it this "
     "node is alone"},
    {"advertise", CONFIG_TEXT, TEXT(advertise), "", ANY,
     "with peers: HOST:PORT, a numeric address, at which the other nodes reach this one"},
    {"cluster-token-file", CONFIG_TEXT, TEXT(cluster_token_file), "", ANY,
     "with peers: a file with the token that the nodes of a cluster prove to each other that they have"},
    {"lease-time", CONFIG_DURATION, AT(lease_time), 0, "4s", 200, 60000, NULL, false,
     "with peers: how long a node acts without being confirmed; the same on all nodes"},
    {"suspect", CONFIG_DURATION, AT(suspect), 0, "3s", 200, 60000, NULL, false,
     "with peers: a node that has not answered for so long is left out of the next view"},
    {"dead-after", CONFIG_DURATION, AT(dead_after), 0, "10m", 400, 86400000, NULL, false,
     "with peers: how long a node may act while the directory does not answer; the same on all nodes"},
    {"peer-timeout", CONFIG_DURATION, AT(peer_timeout), 0, "1s", 50, 60000, NULL, false,
     "with peers: how long this node waits for another's answer to one message"},
    {"memory", CONFIG_SIZE, AT(memory), 0, "4g", 4 * MIB, 16 * TIB, NULL, false,
     "size of the memory pool, which holds all values in memory"},
    {"prefault", CONFIG_TEXT, TEXT(prefault), "yes", 0, UINT64_MAX, "yes|no", false,
     "touch all of memory in the background at start, so that the first puts do not pay for its pages; no: it is taken as it is used"},
    {"fixed-buffers", CONFIG_TEXT, TEXT(fixed_buffers), "auto", 0, UINT64_MAX, "auto|off", false,
     "auto: memory that prefault has touched, and that lies in pages of 4 KiB, is fixed, for io_uring to read and write without looking up "
     "its pages each time, as far as "
     "the limit of locked memory lets it"},
    {"disk", CONFIG_SIZE, AT(disk), 0, "64g", 4 * MIB, UINT64_MAX, NULL, false, "bytes that kvd's files may take"},
    {"persist", CONFIG_TEXT, TEXT(persist), "write-through", 0, UINT64_MAX, "write-through|on-evict|second-touch|none", true,
     "what is written to disk, and when: docs/architecture.md"},
    {"when-behind", CONFIG_TEXT, TEXT(when_behind), "wait", 0, UINT64_MAX, "wait|shed", true,
     "when the disk is behind: puts wait and are then BUSY, or go through, and what is not written is counted"},
    {"segment-size", CONFIG_SIZE, AT(segment_size), 0, "256m", 0, GIB, NULL, false,
     "full size of a segment file, at least 1m; 0: a file for each object"},
    {"probe", CONFIG_FLAG, AT(probe), 0, "no", ANY, "with segment-size 0: serve what other hosts have stored in the same directory"},
    {"rewrite-share", CONFIG_NUMBER, AT(rewrite_share), 0, "20", 0, 90, NULL, false,
     "percent of what is written: how much may be written on of what is in use before its segment is given up"},
    {"disk-free-min", CONFIG_NUMBER, AT(disk_free_min), 0, "0", 0, 90, NULL, false,
     "percent of the file system to leave free: below it nothing is written, later segments are given back; 0: 10 on fuse.hf3fs, 2 "
     "elsewhere"},
    {"disk-min", CONFIG_SIZE, AT(disk_min), 0, "0", ANY,
     "bytes that are kept of our own when the file system is too full; 0: a quarter of disk"},
    {"unlink-delay", CONFIG_DURATION, AT(unlink_delay), 0, "0s", ANY,
     "how long the file of a segment that was given up stays, for others who read it; it counts as used"},
    {"index-memory", CONFIG_SIZE, AT(index_memory), 0, "1g", MIB, UINT64_MAX, NULL, false,
     "bytes that the table of all objects may take (some 130 and the key for each); at the bound objects leave the disk to make room"},
    {"write-queue", CONFIG_SIZE, AT(write_queue), 0, "256m", MIB, UINT64_MAX, NULL, false,
     "bytes that may wait to be written; at most half of memory counts"},
    {"inflight", CONFIG_SIZE, AT(inflight), 0, "512m", MIB, UINT64_MAX, NULL, false,
     "bytes of bodies and disk reads under way; at most half of memory counts"},
    {"request-memory", CONFIG_SIZE, AT(request_memory), 0, "256m", 16 * MIB, UINT64_MAX, NULL, false,
     "bytes that large metas and the keys of unanswered requests may take, of all connections; beyond it such requests are BUSY"},
    {"max-value", CONFIG_SIZE, AT(max_value), 0, "256m", 4 * KIB, GIB, NULL, false, "largest value; at most a quarter of memory counts"},
    {"read-split", CONFIG_SIZE, AT(read_split), 0, "1m", 256 * KIB, 64 * MIB, NULL, false,
     "large disk reads are split into pieces of this size"},
    {"disk-timeout", CONFIG_DURATION, AT(disk_timeout), 0, "5s", 10, 3600000, NULL, false,
     "a disk operation that takes longer has failed, as far as anybody waits for it"},
    {"require-fs", CONFIG_TEXT, TEXT(require_fs), "", ANY,
     "type of file system that the directory must be on, e.g. fuse.hf3fs; nothing is written to another"},
    {"io-depth", CONFIG_NUMBER, AT(io_depth), 0, "64", 1, 4096, NULL, false, "file operations in flight at most"},
    {"io-bytes", CONFIG_SIZE, AT(io_bytes), 0, "0", ANY,
     "further disk reads wait while so many bytes are being read; 0: 32m on FUSE, 8m elsewhere"},
    {"io", CONFIG_TEXT, TEXT(io), "auto", 0, UINT64_MAX, "auto|threads", false,
     "how files are read and written; auto: io_uring where it is allowed"},
    {"wait-for-index", CONFIG_DURATION, AT(wait_for_index), 0, "5s", ANY,
     "how long serving may wait at start until it is known what is on disk"},
    {"drain-timeout", CONFIG_DURATION, AT(drain_timeout), 0, "30s", ANY, "how long the end may take until what is not written is dropped"},
    {"loops", CONFIG_NUMBER, AT(loops), 0, "1", 1, 64, NULL, false,
     "threads that serve connections; with more than one, the disk has another one"},
    {"send-timeout", CONFIG_DURATION, AT(send_timeout), 0, "30s", 100, UINT64_MAX, NULL, true,
     "a client that takes less than 1 MiB of its replies, and not all, in this time is cut off"},
    {"zero-copy-sends", CONFIG_TEXT, TEXT(zero_copy_sends), "off", 0, UINT64_MAX, "off|on", false,
     "on: replies of 64 KiB and more are not copied to the socket, but read by the kernel where they lie; for a network card, and no use "
     "over "
     "loopback"},
    {"frame-timeout", CONFIG_DURATION, AT(frame_timeout), 0, "30s", 100, UINT64_MAX, NULL, true,
     "a client that sends less than 1 MiB of a frame, and not all that is left of it, in this time is cut off"},
    {"max-connections", CONFIG_NUMBER, AT(max_connections), 0, "10000", 1, 1000000, NULL, false, "connections at once; more wait"},
    {"log-level", CONFIG_TEXT, TEXT(log_level), "info", 0, UINT64_MAX, "error|warn|info|debug", true, "what is logged"},
    {"port-file", CONFIG_TEXT, TEXT(port_file), "", ANY, "write the port to this file once it is served; removed at the end"},
};
const size_t config_key_count = sizeof config_keys / sizeof config_keys[0];

static int fail(char *why, size_t why_len, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(char *why, size_t why_len, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, why_len, format, args);
    va_end(args);
    return KVD_EUSAGE;
}

static void *slot(struct config *config, const struct config_key *key)
{
    return (char *)config + key->at;
}

void config_init(struct config *config, const char *host_name, const char *state_dir)
{
    memset(config, 0, sizeof *config);
    char why[CONFIG_TEXT_BYTES];
    for (size_t i = 0; i < config_key_count; i++)
        if (config_keys[i].fallback && config_keys[i].fallback[0] != '\0')
            (void)config_set(config, &config_keys[i], config_keys[i].fallback, why, sizeof why);
    snprintf(config->node, sizeof config->node, "%.*s", (int)sizeof config->node - 1, host_name);
    snprintf(config->dir, sizeof config->dir, "%.*s", (int)sizeof config->dir - 1, state_dir);
}

const struct config_key *config_find(const char *name)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}

static bool among(const char *values, const char *value)
{
    size_t len = strlen(value);
    if (strchr(value, '|'))
        return false;
    for (const char *at = values; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, value, len) == 0 && (at[len] == '\0' || at[len] == '|'))
            return true;
    }
    return false;
}

static int set_text(struct config *config, const struct config_key *key, const char *value, char *why, size_t why_len)
{
    if (key->values && !among(key->values, value))
        return fail(why, why_len, "%s must be one of %s, not \"%.100s\"", key->name, key->values, value);
    if (strlen(value) < key->min)
        return fail(why, why_len, "%s must not be empty", key->name);
    if (strlen(value) >= key->room)
        return fail(why, why_len, "%s is longer than %zu bytes", key->name, key->room - 1);
    strcpy(slot(config, key), value);
    return 0;
}

static int set_number(struct config *config, const struct config_key *key, const char *value, char *why, size_t why_len)
{
    static const char *const examples[] = {
        [CONFIG_SIZE] = "a size such as 512m or 4g", [CONFIG_DURATION] = "a time such as 250ms or 5s", [CONFIG_NUMBER] = "a number"};
    uint64_t number;
    bool ok = key->type == CONFIG_SIZE       ? text_to_size(value, &number)
              : key->type == CONFIG_DURATION ? text_to_duration(value, &number)
                                             : text_to_u64(value, &number);
    if (!ok)
        return fail(why, why_len, "%s must be %s, not \"%.100s\"", key->name, examples[key->type], value);
    char low[32], high[32];
    if (number < key->min)
        return fail(why, why_len, "%s must be at least %s", key->name, text_exact_size(low, sizeof low, key->min));
    if (number > key->max)
        return fail(why, why_len, "%s must be at most %s", key->name, text_exact_size(high, sizeof high, key->max));
    *(uint64_t *)slot(config, key) = number;
    return 0;
}

int config_set(struct config *config, const struct config_key *key, const char *value, char *why, size_t why_len)
{
    if (key->type == CONFIG_TEXT)
        return set_text(config, key, value, why, why_len);
    if (key->type != CONFIG_FLAG)
        return set_number(config, key, value, why, why_len);
    if (!text_to_bool(value, slot(config, key)))
        return fail(why, why_len, "%s must be yes or no, not \"%.100s\"", key->name, value);
    return 0;
}

struct reading {
    struct config *config;
    char *why;
    size_t why_len;
    bool failed;
};

/* ` #` behind a value: meant as a comment, and inih would take it for a part of the value. */
static bool has_note(const char *value)
{
    return value && (strstr(value, " #") || strstr(value, "\t#"));
}

/* inih goes on behind a line that was refused, and names the first one. */
static int read_line(void *arg, const char *section, const char *name, const char *value)
{
    struct reading *reading = arg;
    if (reading->failed)
        return 0;
    if (section[0] != '\0' && strcmp(section, "kvd") != 0) {
        fail(reading->why, reading->why_len, "unknown section [%.60s]", section);
        reading->failed = true;
        return 0;
    }
    const struct config_key *key = config_find(name);
    if (!key) {
        fail(reading->why, reading->why_len, "unknown key \"%.60s\"", name);
        reading->failed = true;
        return 0;
    }
    if (has_note(value)) {
        fail(reading->why, reading->why_len, "a comment behind a value begins with \" ;\"");
        reading->failed = true;
        return 0;
    }
    if (config_set(reading->config, key, value ? value : "yes", reading->why, reading->why_len) != 0) {
        reading->failed = true;
        return 0;
    }
    return 1;
}

/* inih would cut a longer line in two, take an indented one for another value of the key before it, and not tell a line that is none from
 * one behind it that was refused. */
static int check_lines(const char *text, char *why, size_t why_len)
{
    enum { LINE_BYTES = 198 };
    unsigned line = 1;
    for (const char *at = text; *at != '\0'; line++) {
        size_t len = strcspn(at, "\n");
        size_t indent = strspn(at, " \t\r");
        if (len > LINE_BYTES)
            return fail(why, why_len, "line %u: longer than %d bytes", line, LINE_BYTES);
        if (indent > 0 && indent < len && at[indent] != '#' && at[indent] != ';')
            return fail(why, why_len, "line %u: begins with a space", line);
        if (indent < len && !strchr("#;[", at[indent]) && !memchr(at, '=', len) && !memchr(at, ':', len))
            return fail(why, why_len, "line %u: not a `key = value` line", line);
        at += len;
        at += *at == '\n';
    }
    return 0;
}

int config_read(struct config *config, const char *text, char *why, size_t why_len)
{
    if (check_lines(text, why, why_len) != 0)
        return KVD_EUSAGE;
    char detail[CONFIG_TEXT_BYTES] = "not a `key = value` line";
    struct reading reading = {.config = config, .why = detail, .why_len = sizeof detail};
    int line = ini_parse_string(text, read_line, &reading);
    if (line == 0)
        return 0;
    if (line < 0)
        return fail(why, why_len, "cannot be read");
    return fail(why, why_len, "line %d: %s", line, detail);
}

/* `--name=value`, `--name value`, and for yes-or-no keys `--name`. */
static int read_flag(struct config *config, struct config_command *command, int *at, int argc, char **argv, char *why, size_t why_len)
{
    const char *arg = argv[*at];
    if (strcmp(arg, "-h") == 0)
        arg = "--help";
    if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0')
        return fail(why, why_len, "unexpected argument \"%.100s\"", arg);
    char name[64];
    const char *equals = strchr(arg, '=');
    size_t len = equals ? (size_t)(equals - arg - 2) : strlen(arg + 2);
    if (len >= sizeof name)
        return fail(why, why_len, "unknown flag \"%.100s\"", arg);
    memcpy(name, arg + 2, len);
    name[len] = '\0';
    bool *switches[] = {&command->help, &command->version, &command->check, &command->page};
    static const char *const switch_names[] = {"help", "version", "check-config", "config-page"};
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++)
        if (strcmp(name, switch_names[i]) == 0 && !equals) {
            *switches[i] = true;
            return 0;
        }
    const struct config_key *key = config_find(name);
    bool is_file = strcmp(name, "config") == 0;
    if (!key && !is_file)
        return fail(why, why_len, "unknown flag \"%.100s\"", arg);
    const char *value = equals ? equals + 1 : NULL;
    if (!value && key && key->type == CONFIG_FLAG)
        value = "yes";
    else if (!value && *at + 1 < argc)
        value = argv[++*at];
    if (!value)
        return fail(why, why_len, "--%s needs a value", name);
    if (!is_file)
        return config ? config_set(config, key, value, why, why_len) : 0;
    if (strlen(value) >= sizeof command->file)
        return fail(why, why_len, "the name after --config is too long");
    strcpy(command->file, value);
    return 0;
}

int config_flags(struct config *config, struct config_command *command, int argc, char **argv, char *why, size_t why_len)
{
    memset(command, 0, sizeof *command);
    for (int at = 1; at < argc; at++) {
        int err = read_flag(config, command, &at, argc, argv, why, why_len);
        if (err)
            return err;
    }
    return 0;
}

static int check_peers(const struct config *config, char *why, size_t why_len)
{
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (strcmp(config->peers, "auto") != 0)
        return fail(why, why_len, "peers must be auto, not \"%.16s\"", config->peers);
    if (!text_split_address(config->advertise, host, sizeof host, &port) || port == 0)
        return fail(why, why_len, "peers needs advertise HOST:PORT, not \"%.100s\"", config->advertise);
    if (config->cluster_token_file[0] == '\0')
        return fail(why, why_len, "peers needs cluster-token-file");
    if (config->segment_size == 0)
        return fail(why, why_len, "peers needs segments: segment-size must not be 0");
    if (config->dead_after < 2 * config->lease_time)
        return fail(why, why_len, "dead-after must be at least twice lease-time");
    return 0;
}

int config_check(const struct config *config, char *why, size_t why_len)
{
    char host[CONFIG_TEXT_BYTES], a[32], b[32];
    uint16_t port;
    if (!text_split_address(config->listen, host, sizeof host, &port))
        return fail(why, why_len, "listen must be HOST:PORT, not \"%.100s\"", config->listen);
    if (config->dir[0] == '\0')
        return fail(why, why_len, "dir must not be empty");
    if (!node_id_is_good(span_text(config->cluster)))
        return fail(why, why_len, "cluster must be letters, digits, '.', '_' and '-', not \"%.64s\"", config->cluster);
    if (!node_id_is_good(span_text(config->node)))
        return fail(why, why_len, "node must be letters, digits, '.', '_' and '-', not \"%.64s\"", config->node);
    if (config->segment_size > 0 && config->segment_size < MIB)
        return fail(why, why_len, "segment-size must be 0 or at least 1m");
    if (config->probe && config->segment_size > 0)
        return fail(why, why_len, "probe needs segment-size 0: what is in segments is not found by its key");
    if (config->segment_size > config->disk / 4)
        return fail(why, why_len, "disk %s holds fewer than four segments: segment-size %s must be at most a quarter of it",
                    text_exact_size(a, sizeof a, config->disk), text_exact_size(b, sizeof b, config->segment_size));
    if (config->read_split % (256 * KIB) != 0)
        return fail(why, why_len, "read-split must be a multiple of 256k");
    if (config->peers[0] == '\0' && (config->advertise[0] != '\0' || config->cluster_token_file[0] != '\0'))
        return fail(why, why_len, "advertise and cluster-token-file go with peers");
    if (config->peers[0] != '\0' && check_peers(config, why, why_len) != 0)
        return KVD_EUSAGE;
    if (config->token_file[0] != '\0' && config->no_auth_anywhere)
        return fail(why, why_len, "token-file and no-auth-anywhere contradict each other: with tokens kvd listens anywhere as it is");
    return 0;
}

char *config_get(const struct config *config, const struct config_key *key, char *out, size_t out_len)
{
    const void *at = (const char *)config + key->at;
    switch (key->type) {
    case CONFIG_TEXT:
        snprintf(out, out_len, "%s", (const char *)at);
        break;
    case CONFIG_SIZE:
        text_exact_size(out, out_len, *(const uint64_t *)at);
        break;
    case CONFIG_DURATION:
        snprintf(out, out_len, "%llums", *(const unsigned long long *)at);
        break;
    case CONFIG_NUMBER:
        snprintf(out, out_len, "%llu", *(const unsigned long long *)at);
        break;
    case CONFIG_FLAG:
        snprintf(out, out_len, "%s", *(const bool *)at ? "yes" : "no");
        break;
    }
    return out;
}

enum log_level config_log_level(const struct config *config)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (strcmp(names[i], config->log_level) == 0)
            return (enum log_level)i;
    return LOG_INFO;
}
