#include "test/support/scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

static void fresh_path(char *path, size_t len)
{
    const char *tmp = getenv("TMPDIR");
    int n = snprintf(path, len, "%s/kvd-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    CHECK(n > 0 && (size_t)n < len);
}

void scratch_folder(char *path, size_t len)
{
    fresh_path(path, len);
    CHECK(mkdtemp(path));
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void scratch_remove(const char *path)
{
    CHECK(nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

int scratch_file(char *path, size_t len)
{
    fresh_path(path, len);
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    return fd;
}
