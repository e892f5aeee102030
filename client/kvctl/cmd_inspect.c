/* The command that looks at a file of the disk tier without a server: opens it, and prints what inspect.h tells, while it comes. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "client/kvctl/inspect.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

enum { MAX_REMARKS = 1000, REMARK_BYTES = 400, TIME_BYTES = 32 };

struct remark {
    bool harmless;
    uint64_t offset;
    char text[REMARK_BYTES];
};

struct printing {
    struct ctl *ctl;
    bool keys_only;
    bool any;         /* JSON: something was printed, so that a comma is due */
    const char *list; /* what the list is called in JSON; NULL: this kind of file has none */
    const char *heading;
    bool list_began;
    bool list_over;
    struct output output;
    struct remark *remarks;
    uint64_t kept, wrong, harmless;
};

/* ---- values ---- */

static const char *time_text(char out[TIME_BYTES], uint64_t ms)
{
    const time_t seconds = (time_t)(ms / 1000);
    struct tm tm;

    if (ms == 0)
        return "never";
    if (!gmtime_r(&seconds, &tm) || strftime(out, TIME_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(out, TIME_BYTES, "%" PRIu64 " ms", ms);
    return out;
}

static struct kvd_key key_of(struct span span)
{
    return (struct kvd_key){span.at, span.len};
}

/* From now on there are results, and what goes wrong is said beside them. */
static void printing_begins(struct printing *printing)
{
    if (printing->ctl->json && !printing->keys_only && !printing->ctl->results)
        putchar('{');
    printing->ctl->results = true;
}

static void json_put(struct printing *printing, const cJSON *item)
{
    char *line = json_line(item);

    printf("%s\n%s", printing->any ? "," : "", line);
    printing->any = true;
    free(line);
}

/* A member of the outermost object. */
static void json_member(struct printing *printing, const char *name, cJSON *take_value)
{
    cJSON *object = json_object();

    printing_begins(printing);
    json_add(object, name, take_value);
    char *line = json_line(object);
    printf("%s\n%.*s", printing->any ? "," : "", (int)strlen(line) - 2, line + 1);
    printing->any = true;
    free(line);
    cJSON_Delete(object);
}

/* ---- what is known of the file ---- */

static void list_begin(struct printing *printing)
{
    if (printing->list_began)
        return;
    printing_begins(printing);
    printing->list_began = true;
    if (!printing->ctl->json)
        printf("\n%s\n", printing->heading);
    else if (printing->keys_only)
        putchar('[');
    else
        printf("%s\n\"%s\":[", printing->any ? "," : "", printing->list);
    printing->any = false;
}

static void list_end(struct printing *printing)
{
    if (!printing->list_began || printing->list_over)
        return;
    printing->list_over = true;
    puts(printing->ctl->json ? "\n]" : "");
    printing->any = true;
}

static void list_choose(struct printing *printing, const char *kind)
{
    if (strcmp(kind, "remove log") == 0) {
        printing->list = "entries";
        printing->heading = "      offset              version  kind     name";
    } else if (strcmp(kind, "node file") != 0) {
        printing->list = "records";
        printing->heading = "      offset         size              version  expires               state    key";
    }
}

static void tell_text(void *arg, const char *name, const char *value)
{
    struct printing *printing = arg;

    if (strcmp(name, "kind") == 0)
        list_choose(printing, value);
    if (printing->keys_only)
        return;
    list_end(printing);
    if (printing->ctl->json)
        json_member(printing, name, cJSON_CreateString(value));
    else
        output_text(&printing->output, name, value);
}

static void tell_figure(void *arg, const char *name, enum inspect_unit unit, uint64_t value)
{
    struct printing *printing = arg;
    char text[TIME_BYTES];

    if (printing->keys_only)
        return;
    list_end(printing);
    if (printing->ctl->json) {
        snprintf(text, sizeof text, "%" PRIu64, value);
        json_member(printing, name, cJSON_CreateRaw(text));
    } else if (unit == INSPECT_BYTES) {
        output_bytes(&printing->output, name, value);
    } else if (unit == INSPECT_COUNT) {
        output_count(&printing->output, name, value);
    } else {
        char label[TIME_BYTES];
        snprintf(label, sizeof label, "%.*s", (int)(strlen(name) - strlen("_ms")), name);
        output_text(&printing->output, label, time_text(text, value));
    }
}

/* ---- records and entries ---- */

static void print_key(struct printing *printing, struct span key)
{
    char text[OUTPUT_KEY_BYTES];

    if (printing->ctl->json)
        list_begin(printing);
    output_key_text(text, key_of(key));
    if (!printing->ctl->json) {
        puts(text);
        return;
    }
    cJSON *item = cJSON_CreateString(text);
    json_put(printing, item);
    cJSON_Delete(item);
}

static void record_json(struct printing *printing, const struct inspect_record *record)
{
    char checksum[24];
    cJSON *item = json_object();

    snprintf(checksum, sizeof checksum, "%016" PRIx64, record->checksum);
    json_key(item, "key", key_of(record->key));
    json_count(item, "size", record->size);
    json_count(item, "version", record->version);
    json_text(item, "checksum", checksum);
    json_count(item, "expires_ms", record->expires_ms);
    json_count(item, "offset", record->offset);
    json_count(item, "bytes", record->bytes);
    json_text(item, "state", inspect_state_name(record->state));
    json_put(printing, item);
    cJSON_Delete(item);
}

static void tell_record(void *arg, const struct inspect_record *record)
{
    struct printing *printing = arg;
    char key[OUTPUT_KEY_BYTES], expires[TIME_BYTES];

    if (printing->keys_only) {
        if (record->state <= INSPECT_ALONE)
            print_key(printing, record->key);
        return;
    }
    list_begin(printing);
    if (printing->ctl->json)
        record_json(printing, record);
    else
        printf("%12" PRIu64 " %12" PRIu64 " %20" PRIu64 "  %-20s  %-7s  %s\n", record->offset, record->size, record->version,
               time_text(expires, record->expires_ms), inspect_state_name(record->state), output_key_text(key, key_of(record->key)));
}

static void tell_kill(void *arg, const struct inspect_kill *kill)
{
    struct printing *printing = arg;
    char name[OUTPUT_KEY_BYTES];

    if (printing->keys_only) {
        if (strcmp(kill->kind, "key") == 0)
            print_key(printing, kill->name);
        return;
    }
    list_begin(printing);
    if (!printing->ctl->json) {
        printf("%12" PRIu64 " %20" PRIu64 "  %-7s  %s\n", kill->offset, kill->version, kill->kind,
               output_key_text(name, key_of(kill->name)));
        return;
    }
    cJSON *item = json_object();
    json_text(item, "kind", kill->kind);
    json_key(item, "name", key_of(kill->name));
    json_count(item, "version", kill->version);
    json_count(item, "offset", kill->offset);
    json_put(printing, item);
    cJSON_Delete(item);
}

/* ---- what is wrong ---- */

static void tell_remark(void *arg, bool harmless, uint64_t offset, const char *text)
{
    struct printing *printing = arg;

    printing->wrong += !harmless;
    printing->harmless += harmless;
    if (printing->kept == MAX_REMARKS)
        return;
    struct remark *remark = &printing->remarks[printing->kept++];
    remark->harmless = harmless;
    remark->offset = offset;
    snprintf(remark->text, sizeof remark->text, "%s", text);
}

static void remarks_json(struct printing *printing, const char *name, bool harmless)
{
    cJSON *list = cJSON_CreateArray();

    for (uint64_t i = 0; i < printing->kept; i++) {
        const struct remark *remark = &printing->remarks[i];
        if (remark->harmless != harmless)
            continue;
        cJSON *item = json_object();
        json_count(item, "offset", remark->offset);
        json_text(item, "text", remark->text);
        json_append(list, item);
    }
    json_member(printing, name, list);
}

static void remarks_rows(const struct printing *printing, const char *heading, bool harmless, FILE *to)
{
    fprintf(to, "%s", heading);
    for (uint64_t i = 0; i < printing->kept; i++) {
        const struct remark *remark = &printing->remarks[i];
        if (remark->harmless == harmless)
            fprintf(to, "  at %" PRIu64 ": %s\n", remark->offset, remark->text);
    }
    if (printing->wrong + printing->harmless > printing->kept && !harmless)
        fprintf(to, "  and more: %" PRIu64 " in all\n", printing->wrong);
}

static int print_end(struct printing *printing)
{
    if (printing->keys_only && printing->ctl->json)
        puts(printing->list_began ? "\n]" : "[]");
    if (printing->keys_only && printing->wrong > 0)
        remarks_rows(printing, "kvctl inspect: the file is damaged\n", false, stderr);
    if (printing->keys_only)
        return output_flush();
    list_end(printing);
    if (printing->ctl->json) {
        if (printing->list && !printing->list_began)
            json_member(printing, printing->list, cJSON_CreateArray());
        json_member(printing, "good", cJSON_CreateBool(printing->wrong == 0));
        remarks_json(printing, "wrong", false);
        remarks_json(printing, "notes", true);
        puts("\n}");
        return output_flush();
    }
    if (printing->harmless > 0)
        remarks_rows(printing, "\nnotes\n", true, stdout);
    if (printing->wrong > 0)
        remarks_rows(printing, "\nwrong\n", false, stdout);
    else
        puts("\nnothing is wrong with it");
    return output_flush();
}

/* ---- the file ---- */

static int64_t read_file(void *arg, void *buf, uint64_t len, uint64_t offset)
{
    const int *fd = arg;
    uint64_t done = 0;

    while (done < len) {
        const ssize_t got = pread(*fd, (uint8_t *)buf + done, len - done, (off_t)(offset + done));
        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == 0)
            break;
        done += got > 0 ? (uint64_t)got : 0;
    }
    return (int64_t)done;
}

static int inspect_fd(struct printing *printing, const char *path, int fd)
{
    static const struct inspect_events EVENTS = {tell_text, tell_figure, tell_record, tell_kill, tell_remark};
    struct ctl *ctl = printing->ctl;
    const char *slash = strrchr(path, '/');
    struct stat st;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return ctl_say(ctl, EXIT_USAGE, "%s: not an ordinary file", path);
    const struct inspect_source source = {read_file, &fd, (uint64_t)st.st_size, slash ? slash + 1 : path};
    const int err = inspect_run(&source, !args_has(ctl->args, OPT_NO_VERIFY), (uint64_t)time(NULL) * 1000, &EVENTS, printing);
    if (err == 0) {
        const int code = print_end(printing);
        return code == 0 && printing->wrong > 0 ? EXIT_MISS : code;
    }
    if (ctl->json && ctl->results)
        puts(printing->keys_only ? "\n]" : "\n}");
    if (err == KVD_EFORMAT)
        return ctl_say(ctl, EXIT_USAGE, "%s: no file of kvd's", path);
    return ctl_say(ctl, EXIT_USAGE, "%s: %s", path, error_text(err));
}

int cmd_inspect(struct ctl *ctl)
{
    const char *path = ctl->args->operands[0];
    struct printing printing = {.ctl = ctl, .keys_only = args_has(ctl->args, OPT_KEYS_ONLY)};
    int code = 0;

    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return ctl_say(ctl, EXIT_USAGE, "%s: %s", path, error_text(-errno));
    printing.remarks = calloc(MAX_REMARKS, sizeof *printing.remarks);
    code = printing.remarks ? inspect_fd(&printing, path, fd) : ctl_say(ctl, EXIT_REFUSED, "out of memory");
    free(printing.remarks);
    close(fd);
    return code;
}
