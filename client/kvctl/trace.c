#include "client/kvctl/trace.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define EXACT_LIMIT 9007199254740992.0 /* 2^53 */

__attribute__((format(printf, 2, 3))) static int bad(char *why, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(why, TRACE_WHY_BYTES, format, list);
    va_end(list);
    return KVD_EPROTO;
}

static bool whole_number(const cJSON *item, uint64_t *out)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= EXACT_LIMIT))
        return false;
    *out = (uint64_t)item->valuedouble;
    return (double)*out == item->valuedouble;
}

static int parse_ids(const cJSON *ids, struct trace_request *out, char *why)
{
    const cJSON *id = NULL;
    size_t count = 0;

    cJSON_ArrayForEach(id, ids)
    {
        if (count == TRACE_MAX_IDS)
            return bad(why, "a request of more than %d blocks (hash_ids) is not taken", TRACE_MAX_IDS);
        if (!whole_number(id, &out->ids[count]))
            return bad(why, "hash_ids[%zu] is not a whole number from 0 to 2^53", count);
        count++;
    }
    out->count = count;
    return 0;
}

static int parse_object(const cJSON *object, struct trace_request *out, char *why)
{
    const cJSON *timestamp = cJSON_GetObjectItemCaseSensitive(object, "timestamp");
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(object, "hash_ids");

    if (!cJSON_IsObject(object))
        return bad(why, "the line is not a JSON object");
    if (!cJSON_IsNumber(timestamp) || !(timestamp->valuedouble >= 0 && timestamp->valuedouble <= EXACT_LIMIT))
        return bad(why, "\"timestamp\" is not a number of milliseconds from 0 to 2^53");
    if (!cJSON_IsArray(ids))
        return bad(why, "\"hash_ids\" is not an array");
    out->timestamp_ms = timestamp->valuedouble;
    return parse_ids(ids, out, why);
}

int trace_parse(const char *line, size_t len, struct trace_request *out, char *why)
{
    const char *end = NULL;

    if (len > TRACE_MAX_LINE)
        return bad(why, "the line is longer than %d bytes", TRACE_MAX_LINE);
    if (memchr(line, '\0', len))
        return bad(why, "the line has a NUL byte in it");
    cJSON *root = cJSON_ParseWithLengthOpts(line, len, &end, false);
    if (!root)
        return bad(why, "no JSON from byte %zu on", end ? (size_t)(end - line) : 0);
    while (end < line + len && strchr(" \t\r", *end))
        end++;
    const int err = end < line + len ? bad(why, "more after the object, at byte %zu", (size_t)(end - line)) : parse_object(root, out, why);
    cJSON_Delete(root);
    return err;
}

static int trace_init(struct trace *trace, FILE *file)
{
    char *buffer = malloc(TRACE_MAX_LINE + 1);
    if (!buffer) {
        fclose(file);
        return -ENOMEM;
    }
    *trace = (struct trace){.file = file, .buffer = buffer};
    return 0;
}

int trace_open(struct trace *trace, const char *path)
{
    FILE *file = fopen(path, "re");
    return file ? trace_init(trace, file) : -errno;
}

int trace_open_memory(struct trace *trace, const void *bytes, size_t len)
{
    /* An empty buffer is an error to fmemopen(), and reading alone never writes through the pointer. */
    FILE *file = len == 0 ? fopen("/dev/null", "re") : fmemopen((void *)(uintptr_t)bytes, len, "r");
    return file ? trace_init(trace, file) : -errno;
}

/* Read up to the next newline, or as many bytes as tell that the line is too long. False at the end of the file. */
static bool read_line(struct trace *trace, size_t *len)
{
    size_t n = 0;
    int c = getc_unlocked(trace->file);

    if (c == EOF)
        return false;
    for (; c != EOF && c != '\n'; c = getc_unlocked(trace->file)) {
        trace->buffer[n++] = (char)c;
        if (n > TRACE_MAX_LINE)
            break;
    }
    trace->line++;
    *len = n;
    return true;
}

static bool is_blank(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    }
    return true;
}

int trace_next(struct trace *trace, struct trace_request *out)
{
    size_t len = 0;

    do {
        errno = 0;
        if (!read_line(trace, &len))
            return ferror(trace->file) ? -(errno ? errno : EIO) : TRACE_END;
    } while (is_blank(trace->buffer, len));
    return trace_parse(trace->buffer, len, out, trace->why);
}

bool trace_rewind(struct trace *trace)
{
    if (fseek(trace->file, 0, SEEK_SET) != 0)
        return false;
    clearerr(trace->file);
    trace->line = 0;
    return true;
}

void trace_close(struct trace *trace)
{
    fclose(trace->file);
    free(trace->buffer);
}
