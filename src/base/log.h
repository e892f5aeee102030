/* log.h - one line an event, `key=value`, to a sink that the roof chose.
 *
 * Owns:    nothing. `struct log` is the caller's and lives as long as whoever was given it.
 * Not its: where lines go and what time it is; the sink adds `ts=`.
 * Thread:  any; the sink writes each line whole.
 */
#ifndef KVD_BASE_LOG_H
#define KVD_BASE_LOG_H

#include <stddef.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Gets one line without its newline; not called for lines above `log.level`. Any thread. */
typedef void (*log_sink_fn)(void *arg, const char *line, size_t len);

struct log {
    _Atomic enum log_level level;
    log_sink_fn sink;
    void *arg;
};

/* Write `level=... event=EVENT` and the formatted rest (itself `key=value ...`; NULL for none). Quote texts that may hold
 * blanks with \"%s\". At most 1 KiB a line; what is longer is cut. Control bytes become '?'. */
void log_write(const struct log *log, enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define log_error(log, event, ...) log_write(log, LOG_ERROR, event, __VA_ARGS__)
#define log_warn(log, event, ...) log_write(log, LOG_WARN, event, __VA_ARGS__)
#define log_info(log, event, ...) log_write(log, LOG_INFO, event, __VA_ARGS__)
#define log_debug(log, event, ...) log_write(log, LOG_DEBUG, event, __VA_ARGS__)

#endif
