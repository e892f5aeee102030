#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "level=fatal event=check_failed at=%s:%d what=\"%s\"\n", file, line, what);
    abort();
}
