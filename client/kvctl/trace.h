/* trace.h - request traces in Mooncake's format: one JSON object a line, of which `timestamp` (ms from the start) and `hash_ids`
 * (an id for each block of the request) are used. Lines of blanks are skipped.
 *
 * Owns:    the open file and one line's buffer.
 * Not its: what a request does, and when.
 * Thread:  one at a time.
 */
#ifndef KVD_CLIENT_TRACE_H
#define KVD_CLIENT_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    TRACE_MAX_IDS = 4096, /* in a request: as many keys as a batch has */
    TRACE_MAX_LINE = 1 << 20,
    TRACE_WHY_BYTES = 160,
};

struct trace_request {
    double timestamp_ms;
    size_t count;
    uint64_t ids[TRACE_MAX_IDS]; /* at most 2^53 each: what a JSON number holds exactly */
};

/* Take one line of `len` bytes apart. Returns 0, or KVD_EPROTO: then `why` has a text of at most TRACE_WHY_BYTES. `out` is
 * undefined after an error. */
int trace_parse(const char *line, size_t len, struct trace_request *out, char *why);

struct trace {
    FILE *file;
    uint64_t line; /* of the last request or error, from 1 */
    char *buffer;
    char why[TRACE_WHY_BYTES];
};

/* Open the file. 0, -ENOMEM, or -errno of the opening. Close it with trace_close(). */
int trace_open(struct trace *trace, const char *path);

/* Read from memory instead, which is borrowed until trace_close(). 0 or -ENOMEM. */
int trace_open_memory(struct trace *trace, const void *bytes, size_t len);

enum { TRACE_REQUEST = 0, TRACE_END = 1 };

/* The next request. TRACE_REQUEST, TRACE_END, -errno when reading failed, or as trace_parse() for a bad line: `trace->line` and
 * `trace->why` say which and why. `out` is undefined unless TRACE_REQUEST is returned. */
int trace_next(struct trace *trace, struct trace_request *out);

/* Begin again at the first line. False when the file cannot (a pipe): nothing has changed then. */
bool trace_rewind(struct trace *trace);

void trace_close(struct trace *trace);

#endif
