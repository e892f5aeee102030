#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "loop/loop.h"

enum { HUGE_BYTES = 2 << 20, PAGE_BYTES = 4096 };

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* munmap of whole pages of our own mapping fails only for a bug, or where the process has too many mappings. */
static void unmap(uintptr_t base, uint64_t bytes)
{
    if (bytes > 0)
        (void)munmap((void *)base, bytes);
}

/* Reserve more than is wanted and cut off what lies before the first huge page and behind the end. */
int memory_reserve(void **base, uint64_t bytes)
{
    if (bytes == 0 || bytes > PTRDIFF_MAX - 2 * (uint64_t)HUGE_BYTES)
        return -ENOMEM;
    uint64_t want = round_up(bytes, PAGE_BYTES);
    uint64_t take = want + HUGE_BYTES;
    void *mapped = mmap(NULL, take, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return -errno;
    uintptr_t start = (uintptr_t)mapped;
    uintptr_t aligned = round_up(start, HUGE_BYTES);
    unmap(start, aligned - start);
    unmap(aligned + want, start + take - (aligned + want));
    (void)madvise((void *)aligned, want, MADV_HUGEPAGE);
    (void)madvise((void *)aligned, want, MADV_DONTDUMP);
    *base = (void *)aligned;
    return 0;
}

void memory_release(void *base, uint64_t bytes)
{
    unmap((uintptr_t)base, round_up(bytes, PAGE_BYTES));
}

/* Locked pages cannot be given back; they are cleared. */
void memory_forget(void *base, uint64_t bytes)
{
    CHECK((uintptr_t)base % PAGE_BYTES == 0 && bytes % PAGE_BYTES == 0);
    if (madvise(base, bytes, MADV_DONTNEED) < 0)
        memset(base, 0, bytes);
}
