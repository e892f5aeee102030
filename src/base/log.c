#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

enum { LINE_BYTES = 1024 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_write(const struct log *log, enum log_level level, const char *event, const char *format, ...)
{
    if (level > log->level)
        return;
    char line[LINE_BYTES];
    int head = snprintf(line, sizeof line, "level=%s event=%s ", level_names[level], event);
    size_t len = (size_t)head;
    if (format) {
        va_list args;
        va_start(args, format);
        int tail = vsnprintf(line + len, sizeof line - len, format, args);
        va_end(args);
        len += tail > 0 ? (size_t)tail : 0;
    }
    if (len >= sizeof line)
        len = sizeof line - 1;
    while (len > 0 && line[len - 1] == ' ')
        len--;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    log->sink(log->arg, line, len);
}
