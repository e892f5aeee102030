/* The commands for who runs a server: sync, seal, evict, verify, drain, teardown, segments. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "client/kvctl/crew.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

/* ---- settings that matter ---- */

struct asked {
    const char *value;
    bool equal;
};

static void setting_seen(void *arg, const struct kvd_setting *setting)
{
    struct asked *asked = arg;
    asked->equal = strcmp(setting->value, asked->value) == 0;
}

/* False also when the server does not say. */
static bool setting_is(struct ctl *ctl, const char *name, const char *value)
{
    struct asked asked = {.value = value};
    return kvd_config(ctl->kvd, &name, 1, setting_seen, &asked) == KVD_OK && asked.equal;
}

/* No error: a line beside the results. */
static void no_segments_say(struct ctl *ctl)
{
    if (setting_is(ctl, "segment-size", "0"))
        fprintf(stderr, "kvctl %s: each object is a file of its own here (segment-size 0): there are no segments\n", ctl->command->name);
}

/* ---- sync, seal ---- */

static int timed(struct ctl *ctl, int (*call)(struct kvd *kvd), const char *done)
{
    struct output output;

    const int code = ctl_connect(ctl);
    if (code)
        return code;
    const uint64_t start_ns = crew_now_ns();
    const int result = call(ctl->kvd);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_flag(&output, done, true);
    output_real(&output, "seconds", (double)(crew_now_ns() - start_ns) / 1e9);
    return output_end(&output);
}

int cmd_sync(struct ctl *ctl)
{
    return timed(ctl, kvd_sync, "synced");
}

int cmd_seal(struct ctl *ctl)
{
    const int code = timed(ctl, kvd_seal, "sealed");
    if (code == 0)
        no_segments_say(ctl);
    return code;
}

/* ---- evict ---- */

int cmd_evict(struct ctl *ctl)
{
    const char *size = ctl->args->count > 0 ? ctl->args->operands[0] : NULL;
    struct output output;
    uint64_t bytes = UINT64_MAX, objects = 0, given = 0;

    if (size && !text_to_size(size, &bytes))
        return ctl_usage(ctl, "'%.60s': expected a size, like 256m or 4g", size);
    const int code = ctl_connect(ctl);
    if (code)
        return code;
    const int result = kvd_evict(ctl->kvd, bytes, &objects, &given);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_count(&output, "objects", objects);
    output_bytes(&output, "bytes", given);
    return output_end(&output);
}

/* ---- verify ---- */

struct scrubbed {
    bool running, stopped;
    uint64_t run, records, bytes, of_records, of_bytes, bad, unreadable, took_ms;
};

static void scrub_figure(void *arg, const char *section, const char *name, uint64_t number, const char *text)
{
    struct scrubbed *scrubbed = arg;
    const struct {
        const char *name;
        uint64_t *to;
    } rows[] = {
        {"run", &scrubbed->run},         {"records", &scrubbed->records},
        {"bytes", &scrubbed->bytes},     {"of_bytes", &scrubbed->of_bytes},
        {"bad", &scrubbed->bad},         {"of_records", &scrubbed->of_records},
        {"took_ms", &scrubbed->took_ms}, {"unreadable", &scrubbed->unreadable},
    };
    (void)section;
    if (text && strcmp(name, "state") == 0) {
        scrubbed->running = strcmp(text, "running") == 0;
        scrubbed->stopped = strcmp(text, "stopped") == 0;
    }
    if (text)
        return;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(name, rows[i].name) == 0)
            *rows[i].to = number;
}

static void progress_say(const struct scrubbed *now)
{
    const uint64_t of = now->of_bytes ? now->of_bytes : 1;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%3.0f %%  %" PRIu64 " records, %" PRIu64 " bad ",
                100.0 * (double)(now->bytes < of ? now->bytes : of) / (double)of, now->records, now->bad);
}

/* Until the run is over. KVD_OK, or a negative result. */
static int verify_follow(struct ctl *ctl, uint64_t run, struct scrubbed *out)
{
    static const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    for (;;) {
        *out = (struct scrubbed){.running = false};
        const int result = kvd_info(ctl->kvd, "scrub", scrub_figure, out);
        if (result < 0)
            return result;
        progress_say(out);
        if (!out->running || out->run != run)
            break;
        nanosleep(&pause, NULL);
    }
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    return KVD_OK;
}

static int verify_report(const struct ctl *ctl, const struct scrubbed *done)
{
    struct output output;

    output_begin(&output, ctl->json);
    output_count(&output, "records", done->records);
    output_bytes(&output, "bytes", done->bytes);
    output_count(&output, "bad", done->bad);
    output_count(&output, "unreadable", done->unreadable);
    output_real(&output, "seconds", (double)done->took_ms / 1e3);
    const int code = output_end(&output);
    return code == 0 && done->bad + done->unreadable > 0 ? EXIT_MISS : code;
}

static int verify_stop(struct ctl *ctl)
{
    struct output output;
    uint64_t run = 0;

    if (args_has(ctl->args, OPT_RATE))
        return ctl_usage(ctl, "--stop takes no --rate");
    const int code = ctl_connect(ctl);
    if (code)
        return code;
    const int result = kvd_scrub_stop(ctl->kvd, &run);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    if (run == 0)
        return ctl_say(ctl, EXIT_MISS, "none is under way");
    output_begin(&output, ctl->json);
    output_flag(&output, "stopped", true);
    return output_end(&output);
}

int cmd_verify(struct ctl *ctl)
{
    struct scrubbed done;
    uint64_t rate = 0, run = 0;

    if (args_has(ctl->args, OPT_STOP))
        return verify_stop(ctl);
    int code = ctl_size(ctl, OPT_RATE, 0, 1, INT64_MAX, &rate);
    if (code == 0)
        code = ctl_connect(ctl);
    if (code)
        return code;
    int result = kvd_scrub(ctl->kvd, rate, &run);
    if (result >= 0)
        result = verify_follow(ctl, run, &done);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    if (done.run != run)
        return ctl_say(ctl, EXIT_REFUSED, "somebody else's run has begun since: what this one found is in the server's log");
    if (done.stopped)
        return ctl_say(ctl, EXIT_REFUSED, "it ended after %" PRIu64 " of %" PRIu64 " records: somebody stopped it, or the disk is off",
                       done.records, done.of_records);
    return verify_report(ctl, &done);
}

/* ---- segments ---- */

struct table {
    bool json;
    cJSON *list;
    uint64_t count, bytes, live_bytes, live_objects;
};

static const char *age_text(char out[32], uint64_t ms)
{
    const uint64_t s = ms / 1000;
    if (s < 120)
        snprintf(out, 32, "%" PRIu64 "s", s);
    else if (s < 7200)
        snprintf(out, 32, "%" PRIu64 "m", s / 60);
    else
        snprintf(out, 32, "%" PRIu64 "h", s / 3600);
    return out;
}

static void segment_json(cJSON *list, const struct kvd_segment *segment)
{
    cJSON *item = json_object();
    json_append(list, item);
    json_text(item, "file", segment->file);
    json_text(item, "state", segment->state);
    json_count(item, "bytes", segment->bytes);
    json_count(item, "live_bytes", segment->live_bytes);
    json_count(item, "live_objects", segment->live_objects);
    json_count(item, "held_objects", segment->held_objects);
    json_count(item, "age_ms", segment->age_ms);
    if (segment->was_read)
        json_count(item, "idle_ms", segment->idle_ms);
}

static void segment_row(const struct kvd_segment *segment)
{
    char size[32], live[32], age[32], idle[32];
    char file[256];
    const double share = segment->bytes ? 100.0 * (double)segment->live_bytes / (double)segment->bytes : 0;
    snprintf(file, sizeof file, "%s", segment->file);
    for (char *c = file; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    printf("%-40s %-10.10s %9s %9s %5.1f %%  %9" PRIu64 " %7s %7s\n", file, segment->state,
           text_from_size(size, sizeof size, segment->bytes), text_from_size(live, sizeof live, segment->live_bytes), share,
           segment->live_objects, age_text(age, segment->age_ms), segment->was_read ? age_text(idle, segment->idle_ms) : "-");
}

static void segment_take(void *arg, const struct kvd_segment *segment)
{
    struct table *table = arg;
    if (table->json)
        segment_json(table->list, segment);
    else if (table->count == 0)
        printf("%-40s %-10s %9s %9s %7s  %9s %7s %7s\n", "file", "state", "bytes", "live", "share", "objects", "age", "read");
    if (!table->json)
        segment_row(segment);
    table->count++;
    table->bytes += segment->bytes;
    table->live_bytes += segment->live_bytes;
    table->live_objects += segment->live_objects;
}

int cmd_segments(struct ctl *ctl)
{
    struct output output;
    struct table table = {.json = ctl->json};

    const int code = ctl_connect(ctl);
    if (code)
        return code;
    output_begin(&output, ctl->json);
    if (ctl->json)
        table.list = json_array(output.root, "segments");
    const int result = kvd_segments(ctl->kvd, segment_take, &table);
    if (result < 0) {
        output_drop(&output);
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    }
    if (!ctl->json && table.count > 0)
        putchar('\n');
    if (table.count == 0)
        no_segments_say(ctl);
    output_count(&output, "files", table.count);
    output_bytes(&output, "bytes", table.bytes);
    output_bytes(&output, "live_bytes", table.live_bytes);
    output_count(&output, "live_objects", table.live_objects);
    return output_end(&output);
}

/* ---- drain, teardown ---- */

int cmd_drain(struct ctl *ctl)
{
    struct output output;
    uint64_t unwritten = 0;

    int code = ctl_connect(ctl);
    if (code)
        return code;
    const int result = kvd_drain(ctl->kvd, &unwritten);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_flag(&output, "drained", true);
    output_count(&output, "unwritten", unwritten);
    code = output_end(&output);
    if (code || unwritten == 0)
        return code;
    fprintf(stderr, "kvctl drain: %" PRIu64 " objects are in memory alone%s\n", unwritten,
            setting_is(ctl, "persist", "none") ? ": nothing is written under persist none but what a put asks for"
                                               : ": what could not be written is counted in `kvctl info dropped`");
    return EXIT_MISS;
}

int cmd_teardown(struct ctl *ctl)
{
    const char *node = ctl->args->values[OPT_YES_DELETE];
    struct output output;
    uint64_t removed = 0;

    if (!node)
        return ctl_usage(ctl, "deletes everything that the server has: say --yes-delete and its node's name");
    const int code = ctl_connect(ctl);
    if (code)
        return code;
    if (strcmp(node, kvd_server(ctl->kvd)->node) != 0)
        return ctl_usage(ctl, "that server's node is not named '%.60s'", node);
    const int result = kvd_teardown(ctl->kvd, node, &removed);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_flag(&output, "torn_down", true);
    output_count(&output, "removed", removed);
    return output_end(&output);
}
