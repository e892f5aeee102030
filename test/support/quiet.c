#include "test/support/quiet.h"

static void no_sink(void *arg, const char *line, size_t len)
{
    (void)arg;
    (void)line;
    (void)len;
}

const struct log quiet = {.level = LOG_ERROR, .sink = no_sink};
