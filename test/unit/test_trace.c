#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "client/kvctl/trace.h"

static struct trace_request *request_new(void)
{
    struct trace_request *request = calloc(1, sizeof *request);
    cr_assert_not_null(request);
    return request;
}

static int parse(const char *line, struct trace_request *out)
{
    char why[TRACE_WHY_BYTES] = "";
    const int err = trace_parse(line, strlen(line), out, why);
    cr_assert_eq(err == KVD_EPROTO, why[0] != '\0', "a bad line, and no other, has a reason: %s", line);
    return err;
}

/* A line of `count` ids, all the same. */
static char *line_of(size_t count, const char *id)
{
    char *line = malloc(64 + count * (strlen(id) + 1));
    cr_assert_not_null(line);
    char *end = stpcpy(line, "{\"timestamp\": 1, \"hash_ids\": [");
    for (size_t i = 0; i < count; i++)
        end = stpcpy(stpcpy(end, i ? "," : ""), id);
    stpcpy(end, "]}");
    return line;
}

Test(trace, a_line_as_published)
{
    struct trace_request *request = request_new();

    cr_assert_eq(parse("{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, 47, 2353]}", request), 0);
    cr_assert_eq(request->timestamp_ms, 27482);
    cr_assert_eq(request->count, 3);
    cr_assert_eq(request->ids[0], 46);
    cr_assert_eq(request->ids[2], 2353);
    free(request);
}

Test(trace, other_fields_order_and_blanks_do_not_matter)
{
    struct trace_request *request = request_new();

    cr_assert_eq(parse(" { \"hash_ids\":[ ] , \"x\": {\"hash_ids\": [1]}, \"timestamp\":0.5 } \t\r", request), 0);
    cr_assert_eq(request->timestamp_ms, 0.5);
    cr_assert_eq(request->count, 0);
    free(request);
}

Test(trace, ids_up_to_2_53_are_exact)
{
    struct trace_request *request = request_new();

    cr_assert_eq(parse("{\"timestamp\":0,\"hash_ids\":[9007199254740991, 9007199254740992]}", request), 0);
    cr_assert_eq(request->ids[0], 9007199254740991u);
    cr_assert_eq(request->ids[1], 9007199254740992u);
    cr_assert_eq(parse("{\"timestamp\":0,\"hash_ids\":[9007199254740994]}", request), KVD_EPROTO);
    free(request);
}

Test(trace, bad_lines_are_refused)
{
    static const char *const LINES[] = {
        "x",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        "{\"timestamp\":0}",
        "{\"hash_ids\":[1]}",
        "{\"timestamp\":\"0\",\"hash_ids\":[1]}",
        "{\"timestamp\":-1,\"hash_ids\":[1]}",
        "{\"timestamp\":1e300,\"hash_ids\":[1]}",
        "{\"timestamp\":0,\"hash_ids\":1}",
        "{\"timestamp\":0,\"hash_ids\":{}}",
        "{\"timestamp\":0,\"hash_ids\":[-1]}",
        "{\"timestamp\":0,\"hash_ids\":[1.5]}",
        "{\"timestamp\":0,\"hash_ids\":[\"1\"]}",
        "{\"timestamp\":0,\"hash_ids\":[[1]]}",
        "{\"timestamp\":0,\"hash_ids\":[1e99]}",
        "{\"timestamp\":0,\"hash_ids\":[1,]}",
        "{\"timestamp\":0,\"hash_ids\":[1]",
        "{\"timestamp\":0,\"hash_ids\":[1]} x",
        "{\"timestamp\":0,\"hash_ids\":[1]}{\"timestamp\":0,\"hash_ids\":[1]}",
        "{\"Timestamp\":0,\"Hash_ids\":[1]}",
    };
    struct trace_request *request = request_new();

    for (size_t i = 0; i < sizeof LINES / sizeof LINES[0]; i++)
        cr_assert_eq(parse(LINES[i], request), KVD_EPROTO, "%s", LINES[i]);
    free(request);
}

Test(trace, a_nul_byte_is_refused)
{
    static const char LINE[] = "{\"timestamp\":0,\"hash_ids\":[1]}\0rest";
    struct trace_request *request = request_new();
    char why[TRACE_WHY_BYTES];

    cr_assert_eq(trace_parse(LINE, sizeof LINE - 1, request, why), KVD_EPROTO);
    free(request);
}

Test(trace, deep_nesting_is_refused)
{
    enum { DEPTH = 200000 };
    char *line = malloc(DEPTH + 1);
    struct trace_request *request = request_new();

    cr_assert_not_null(line);
    memset(line, '[', DEPTH);
    line[DEPTH] = '\0';
    cr_assert_eq(parse(line, request), KVD_EPROTO);
    free(line);
    free(request);
}

Test(trace, at_most_4096_ids)
{
    struct trace_request *request = request_new();
    char why[TRACE_WHY_BYTES];
    char *most = line_of(TRACE_MAX_IDS, "123"), *more = line_of(TRACE_MAX_IDS + 1, "123");

    cr_assert_eq(parse(most, request), 0);
    cr_assert_eq(request->count, TRACE_MAX_IDS);
    cr_assert_eq(request->ids[TRACE_MAX_IDS - 1], 123);
    cr_assert_eq(trace_parse(more, strlen(more), request, why), KVD_EPROTO);
    cr_assert_not_null(strstr(why, "4096"), "%s", why);
    free(most);
    free(more);
    free(request);
}

Test(trace, a_file_line_by_line)
{
    static const char TEXT[] = "{\"timestamp\":1,\"hash_ids\":[1]}\n"
                               "\r\n"
                               "{\"timestamp\":2,\"hash_ids\":[1,2]}\r\n"
                               "  \n"
                               "{\"timestamp\":3,\"hash_ids\":[]}"; /* no newline at the end */
    struct trace_request *request = request_new();
    struct trace trace;

    cr_assert_eq(trace_open_memory(&trace, TEXT, sizeof TEXT - 1), 0);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(trace_next(&trace, request), TRACE_REQUEST);
        cr_assert_eq(trace.line, 1);
        cr_assert_eq(trace_next(&trace, request), TRACE_REQUEST);
        cr_assert_eq(trace.line, 3);
        cr_assert_eq(request->count, 2);
        cr_assert_eq(trace_next(&trace, request), TRACE_REQUEST);
        cr_assert_eq(request->timestamp_ms, 3);
        cr_assert_eq(trace_next(&trace, request), TRACE_END);
        cr_assert_eq(trace_next(&trace, request), TRACE_END);
        cr_assert(trace_rewind(&trace));
    }
    trace_close(&trace);
    free(request);
}

Test(trace, a_bad_line_tells_its_number)
{
    static const char TEXT[] = "{\"timestamp\":1,\"hash_ids\":[1]}\n\n{\"timestamp\":2,\"hash_ids\":[1,\n";
    struct trace_request *request = request_new();
    struct trace trace;

    cr_assert_eq(trace_open_memory(&trace, TEXT, sizeof TEXT - 1), 0);
    cr_assert_eq(trace_next(&trace, request), TRACE_REQUEST);
    cr_assert_eq(trace_next(&trace, request), KVD_EPROTO);
    cr_assert_eq(trace.line, 3);
    cr_assert_neq(trace.why[0], '\0');
    trace_close(&trace);
    free(request);
}

Test(trace, an_empty_file_has_no_request)
{
    struct trace_request *request = request_new();
    struct trace trace;

    cr_assert_eq(trace_open_memory(&trace, "", 0), 0);
    cr_assert_eq(trace_next(&trace, request), TRACE_END);
    trace_close(&trace);
    free(request);
}

/* A line as long as the bound is read, one byte more is refused, without reading the rest into memory. */
Test(trace, lines_are_bounded)
{
    static const char OBJECT[] = "{\"timestamp\":1,\"hash_ids\":[1]}";
    const size_t len = (size_t)TRACE_MAX_LINE * 3;
    struct trace_request *request = request_new();
    struct trace trace;
    char *text = malloc(len);

    cr_assert_not_null(text);
    memset(text, ' ', len);
    memcpy(text, OBJECT, sizeof OBJECT - 1);
    text[TRACE_MAX_LINE] = '\n';
    memcpy(text + TRACE_MAX_LINE + 1, OBJECT, sizeof OBJECT - 1);
    cr_assert_eq(trace_open_memory(&trace, text, len), 0);
    cr_assert_eq(trace_next(&trace, request), TRACE_REQUEST);
    cr_assert_eq(trace_next(&trace, request), KVD_EPROTO);
    cr_assert_eq(trace.line, 2);
    cr_assert_not_null(strstr(trace.why, "longer"), "%s", trace.why);
    trace_close(&trace);
    free(text);
    free(request);
}

Test(trace, a_file_that_is_not_there)
{
    struct trace trace;
    cr_assert_eq(trace_open(&trace, "/nowhere/at/all.jsonl"), -ENOENT);
}

Test(trace, a_folder_is_a_reading_error)
{
    struct trace_request *request = request_new();
    struct trace trace;

    cr_assert_eq(trace_open(&trace, "/"), 0);
    cr_assert_eq(trace_next(&trace, request), -EISDIR);
    trace_close(&trace);
    free(request);
}
