/* The commands that look inside: exists, match, ls, stat, info, ping. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "client/kvctl/crew.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

enum { MAX_LEASE_MS = 60000, MAX_PINGS = 1000000 };

static const char *tiers_text(bool memory, bool disk, bool peer)
{
    static const char *const TEXTS[] = {"missing", "memory", "disk", "memory,disk", "peer", "memory,peer", "disk,peer", "memory,disk,peer"};
    return TEXTS[(memory ? 1 : 0) + (disk ? 2 : 0) + (peer ? 4 : 0)];
}

/* ---- exists ---- */

static void exists_json(const struct ctl_keys *keys, const uint8_t *present, uint64_t missing, cJSON *root)
{
    cJSON *list = json_array(root, "keys");

    for (size_t i = 0; i < keys->count; i++) {
        cJSON *item = json_object();
        json_append(list, item);
        json_key(item, "key", keys->keys[i]);
        json_flag(item, "memory", present[i] & KVD_IN_MEMORY);
        json_flag(item, "disk", present[i] & KVD_ON_DISK);
        json_flag(item, "peer", present[i] & KVD_ON_PEER);
    }
    json_count(root, "present", keys->count - missing);
    json_count(root, "missing", missing);
}

static void exists_table(const struct ctl_keys *keys, const uint8_t *present)
{
    char text[OUTPUT_KEY_BYTES];

    for (size_t i = 0; i < keys->count; i++)
        printf("%-16s  %s\n", tiers_text(present[i] & KVD_IN_MEMORY, present[i] & KVD_ON_DISK, present[i] & KVD_ON_PEER),
               output_key_text(text, keys->keys[i]));
}

static int exists_say(const struct ctl *ctl, const struct ctl_keys *keys, const uint8_t *present)
{
    struct output output;
    uint64_t missing = 0;

    for (size_t i = 0; i < keys->count; i++)
        missing += present[i] == 0;
    output_begin(&output, ctl->json);
    if (ctl->json)
        exists_json(keys, present, missing, output.root);
    else
        exists_table(keys, present);
    const int code = output_end(&output);
    return code == 0 && missing > 0 ? EXIT_MISS : code;
}

int cmd_exists(struct ctl *ctl)
{
    struct ctl_keys keys;

    int code = ctl_keys_parse(ctl, ctl->args->operands, ctl->args->count, &keys);
    if (code)
        return code;
    uint8_t *present = calloc(keys.count, 1);
    code = present ? ctl_connect(ctl) : ctl_say(ctl, EXIT_REFUSED, "out of memory");
    if (present && code == 0) {
        const int result = kvd_exists(ctl->kvd, keys.keys, keys.count, present);
        code = result < 0 ? ctl_failed(ctl, ctl->kvd, result, NULL) : exists_say(ctl, &keys, present);
    }
    free(present);
    ctl_keys_free(&keys);
    return code;
}

/* ---- match ---- */

/* Stay for the lease's time, or until a signal asks to let go. */
static void hold_lease(uint64_t lease_ms, const sigset_t *signals)
{
    const struct timespec time = {.tv_sec = (time_t)(lease_ms / 1000), .tv_nsec = (long)(lease_ms % 1000) * 1000000};
    sigtimedwait(signals, NULL, &time);
}

static int match_say(const struct ctl *ctl, const struct ctl_keys *keys, const struct kvd_matched *matched)
{
    struct output output;

    output_begin(&output, ctl->json);
    output_count(&output, "count", matched->count);
    output_count(&output, "memory", matched->memory);
    output_count(&output, "of", keys->count);
    if (matched->lease)
        output_count(&output, "lease", matched->lease);
    return output_end(&output);
}

static int match_keys(struct ctl *ctl, const struct ctl_keys *keys, uint64_t lease_ms)
{
    const bool lease = args_has(ctl->args, OPT_LEASE);
    const unsigned flags = (lease ? (unsigned)KVD_MATCH_LEASE : 0) | (args_has(ctl->args, OPT_WARM) ? (unsigned)KVD_MATCH_WARM : 0);
    struct kvd_matched matched;
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    int code = ctl_connect(ctl);
    if (code)
        return code;
    if (lease)
        pthread_sigmask(SIG_BLOCK, &signals, NULL);
    const int result = kvd_match(ctl->kvd, keys->keys, keys->count, flags, lease_ms, &matched);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    code = match_say(ctl, keys, &matched);
    if (code == 0 && matched.lease) {
        hold_lease(lease_ms, &signals);
        kvd_release(ctl->kvd, matched.lease); /* the end of the connection would do it too */
    }
    return code == 0 && matched.count == 0 ? EXIT_MISS : code;
}

int cmd_match(struct ctl *ctl)
{
    struct ctl_keys keys;
    uint64_t lease_ms = 0;

    int code = ctl_duration(ctl, OPT_LEASE, 0, MAX_LEASE_MS, &lease_ms);
    if (code == 0)
        code = ctl_keys_parse(ctl, ctl->args->operands, ctl->args->count, &keys);
    if (code)
        return code;
    code = match_keys(ctl, &keys, lease_ms);
    ctl_keys_free(&keys);
    return code;
}

/* ---- ls ---- */

struct listing {
    bool json, details;
    uint64_t limit;
    uint64_t count;
};

static void ls_json(const struct kvd_scanned *object, bool first)
{
    cJSON *item = json_object();

    json_key(item, "key", object->key);
    json_count(item, "size", object->size);
    json_flag(item, "memory", object->memory);
    json_flag(item, "disk", object->disk);
    char *line = json_line(item);
    printf("%s\n%s", first ? "" : ",", line);
    free(line);
    cJSON_Delete(item);
}

/* Printed while it comes: a store has more keys than should be held here. */
static bool ls_object(void *arg, const struct kvd_scanned *object)
{
    struct listing *listing = arg;
    char text[OUTPUT_KEY_BYTES];

    if (listing->count >= listing->limit)
        return false;
    if (listing->json)
        ls_json(object, listing->count == 0);
    else if (listing->details)
        printf("%12" PRIu64 "  %-11s  %s\n", object->size, tiers_text(object->memory, object->disk, false),
               output_key_text(text, object->key));
    else
        puts(output_key_text(text, object->key));
    listing->count++;
    return listing->count < listing->limit && !ferror(stdout);
}

static int ls_prefix(struct ctl *ctl, struct kvd_key prefix, uint64_t limit)
{
    struct listing listing = {.json = ctl->json, .details = args_has(ctl->args, OPT_LONG), .limit = limit};

    int code = ctl_connect(ctl);
    if (code)
        return code;
    ctl->results = true;
    if (ctl->json)
        putchar('[');
    const int result = kvd_scan(ctl->kvd, prefix, ls_object, &listing);
    if (ctl->json)
        puts(listing.count ? "\n]" : "]");
    code = output_flush();
    return result < 0 ? ctl_failed(ctl, ctl->kvd, result, NULL) : code;
}

int cmd_ls(struct ctl *ctl)
{
    const char *const *prefix = &ctl->args->values[OPT_PREFIX];
    const bool some = *prefix && (*prefix)[0] != '\0';
    struct ctl_keys keys;
    uint64_t limit = 0;

    int code = ctl_number(ctl, OPT_LIMIT, UINT64_MAX, 1, UINT64_MAX, &limit);
    if (code == 0)
        code = ctl_keys_parse(ctl, prefix, some ? 1 : 0, &keys);
    if (code)
        return code;
    code = ls_prefix(ctl, some ? keys.keys[0] : (struct kvd_key){"", 0}, limit);
    ctl_keys_free(&keys);
    return code;
}

/* ---- stat ---- */

static void stat_replica(struct output *output, const struct kvd_replica *replica, cJSON *list)
{
    const char *type = replica->disk ? "disk" : "memory";
    const char *state = replica->complete ? "complete" : "writing";
    char text[512];

    if (output->json) {
        cJSON *item = json_object();
        json_append(list, item);
        json_text(item, "type", type);
        json_text(item, "state", state);
        json_text(item, "node", replica->node);
        if (replica->disk) {
            json_text(item, "file", replica->file);
            json_count(item, "offset", replica->offset);
        }
        return;
    }
    const int n = snprintf(text, sizeof text, "%s %s on %s", type, state, replica->node);
    if (replica->disk && replica->complete)
        snprintf(text + n, sizeof text - (size_t)n, ", %s at %" PRIu64, replica->file, replica->offset);
    output_text(output, "replica", text);
}

static int stat_say(const struct ctl *ctl, struct kvd_key key, const struct kvd_stat *stat)
{
    struct output output;
    char checksum[24];

    snprintf(checksum, sizeof checksum, "%016" PRIx64, stat->checksum);
    output_begin(&output, ctl->json);
    output_key(&output, "key", key);
    output_count(&output, "size", stat->size);
    output_count(&output, "version", stat->version);
    output_text(&output, "checksum", checksum);
    output_count(&output, "age_ms", stat->age_ms);
    output_count(&output, "idle_ms", stat->idle_ms);
    output_count(&output, "hits", stat->hits);
    output_flag(&output, "pinned", stat->pinned);
    output_flag(&output, "leased", stat->leased);
    if (stat->ends)
        output_count(&output, "ttl_ms", stat->ttl_ms);
    cJSON *list = ctl->json ? json_array(output.root, "replicas") : NULL;
    for (unsigned i = 0; i < stat->replica_count && i < KVD_MAX_REPLICAS; i++)
        stat_replica(&output, &stat->replicas[i], list);
    return output_end(&output);
}

int cmd_stat(struct ctl *ctl)
{
    struct ctl_keys keys;
    struct kvd_stat stat;

    int code = ctl_keys_parse(ctl, ctl->args->operands, 1, &keys);
    if (code)
        return code;
    code = ctl_connect(ctl);
    if (code == 0) {
        const int result = kvd_stat(ctl->kvd, keys.keys[0], &stat);
        if (result < 0)
            code = ctl_failed(ctl, ctl->kvd, result, ctl->args->operands[0]);
        else if (result == KVD_MISS)
            code = ctl_say(ctl, EXIT_MISS, "%s: not there", ctl->args->operands[0]);
        else
            code = stat_say(ctl, keys.keys[0], &stat);
    }
    ctl_keys_free(&keys);
    return code;
}

/* ---- info ---- */

struct figures {
    struct output output;
    char section[64]; /* the one that was printed last */
    uint64_t count;
};

static void info_json(cJSON *root, const char *section, const char *name, uint64_t number, const char *text)
{
    cJSON *object = cJSON_GetObjectItemCaseSensitive(root, section);

    if (!object) {
        object = json_object();
        json_add(root, section, object);
    }
    if (text)
        json_text(object, name, text);
    else
        json_count(object, name, number);
}

static void info_figure(void *arg, const char *section, const char *name, uint64_t number, const char *text)
{
    struct figures *figures = arg;
    struct output *output = &figures->output;

    figures->count++;
    if (output->json) {
        info_json(output->root, section, name, number, text);
        return;
    }
    if (strncmp(figures->section, section, sizeof figures->section - 1) != 0) {
        snprintf(figures->section, sizeof figures->section, "%s", section);
        output_heading(section, figures->count == 1);
    }
    if (text)
        output_text(output, name, text);
    else
        output_count(output, name, number);
}

struct names {
    char text[512];
    size_t len;
    char last[64];
};

static void section_name(void *arg, const char *section, const char *name, uint64_t number, const char *text)
{
    struct names *names = arg;

    (void)name, (void)number, (void)text;
    if (strncmp(names->last, section, sizeof names->last - 1) == 0)
        return;
    snprintf(names->last, sizeof names->last, "%s", section);
    const int len = snprintf(names->text + names->len, sizeof names->text - names->len, "%s%s", names->len ? ", " : "", section);
    names->len = min_u64(names->len + (size_t)len, sizeof names->text - 1);
}

/* There is none of that name: say which there are. */
static int no_section(struct ctl *ctl, const char *section, int exit_code)
{
    struct names names = {.text = ""};

    (void)kvd_info(ctl->kvd, NULL, section_name, &names);
    return ctl_say(ctl, exit_code, "no section '%.60s'; there are %s", section, names.text);
}

int cmd_info(struct ctl *ctl)
{
    const char *section = ctl->args->count > 0 ? ctl->args->operands[0] : NULL;
    struct figures figures = {.section = ""};

    int code = ctl_connect(ctl);
    if (code)
        return code;
    output_begin(&figures.output, ctl->json);
    const int result = kvd_info(ctl->kvd, section, info_figure, &figures);
    if (result < 0) {
        output_drop(&figures.output);
        return section && result == KVD_ERR_BAD_REQUEST ? no_section(ctl, section, EXIT_REFUSED) : ctl_failed(ctl, ctl->kvd, result, NULL);
    }
    return output_end(&figures.output);
}

/* ---- node ---- */

static void node_figure(void *arg, const char *section, const char *name, uint64_t number, const char *text)
{
    struct figures *figures = arg;
    static const char PREFIX[] = "node.";

    (void)section, (void)number;
    if (!text || strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
        return;
    figures->count++;
    if (figures->output.json)
        json_text(figures->output.root, name + sizeof PREFIX - 1, text);
    else
        output_text(&figures->output, name + sizeof PREFIX - 1, text);
}

static int node_list(struct ctl *ctl)
{
    struct figures figures = {.section = ""};

    output_begin(&figures.output, ctl->json);
    const int result = kvd_info(ctl->kvd, "cluster", node_figure, &figures);
    if (result < 0 || figures.count == 0)
        output_drop(&figures.output);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    return figures.count > 0 ? output_end(&figures.output) : ctl_say(ctl, EXIT_REFUSED, "this node has no peers");
}

static int node_forget(struct ctl *ctl, const char *node)
{
    struct output output;

    const int result = kvd_forget(ctl->kvd, node);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_flag(&output, "forgotten", true);
    return output_end(&output);
}

int cmd_node(struct ctl *ctl)
{
    const char *what = ctl->args->operands[0];
    const bool forgets = strcmp(what, "forget") == 0;

    if (!forgets && strcmp(what, "ls") != 0)
        return ctl_say(ctl, EXIT_USAGE, "node takes ls or forget, not '%.60s'", what);
    if (ctl->args->count != (forgets ? 2u : 1u))
        return ctl_say(ctl, EXIT_USAGE, forgets ? "node forget takes the name of one node" : "node ls takes no more");
    const int code = ctl_connect(ctl);
    if (code)
        return code;
    return forgets ? node_forget(ctl, ctl->args->operands[1]) : node_list(ctl);
}

/* ---- ping ---- */

static int ping_times(struct ctl *ctl, uint64_t count, struct histogram *histogram)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t start_ns = crew_now_ns();
        const int result = kvd_ping(ctl->kvd);
        const uint64_t took_ns = crew_now_ns() - start_ns;
        if (result < 0)
            return ctl_failed(ctl, ctl->kvd, result, NULL);
        histogram_add(histogram, took_ns);
        if (!ctl->json)
            printf("pong %.1f us\n", (double)took_ns / 1e3);
    }
    return 0;
}

int cmd_ping(struct ctl *ctl)
{
    struct output output;
    uint64_t count = 0;

    int code = ctl_number(ctl, OPT_COUNT, 1, 1, MAX_PINGS, &count);
    if (code == 0)
        code = ctl_connect(ctl);
    if (code)
        return code;
    struct histogram *histogram = calloc(1, sizeof *histogram);
    if (!histogram)
        return ctl_say(ctl, EXIT_REFUSED, "out of memory");
    code = ping_times(ctl, count, histogram);
    if (code == 0 && !ctl->json && count == 1) {
        code = output_flush();
    } else if (code == 0) {
        output_begin(&output, ctl->json);
        if (ctl->json) {
            output_text(&output, "server", kvd_server(ctl->kvd)->server);
            output_text(&output, "node", kvd_server(ctl->kvd)->node);
        }
        output_latency(&output, "ping_us", histogram);
        code = output_end(&output);
    }
    free(histogram);
    return code;
}
