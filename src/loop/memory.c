#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "loop/loop.h"

enum { HUGE_BYTES = 2 << 20, HUGE_SHIFT = 21, PAGE_BYTES = 4096, LINE_BYTES = 512 };

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

/* Those that somebody has set aside. The kernel reserves all of them here and now, or refuses. */
static bool reserve_explicit(struct memory *memory, uint64_t bytes)
{
    const int huge_2m = MAP_HUGETLB | (int)((unsigned)HUGE_SHIFT << MAP_HUGE_SHIFT);
    uint64_t want = round_up(bytes, HUGE_BYTES);
    void *mapped = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | huge_2m, -1, 0);
    if (mapped == MAP_FAILED)
        return false;
    *memory = (struct memory){.base = mapped, .mapped_bytes = want, .pages = MEMORY_EXPLICIT};
    return true;
}

/* madvise() accepts the wish also where the host has turned them off. */
static enum memory_pages transparent_pages(int advised)
{
    char text[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    bool known = file && fgets(text, sizeof text, file);
    if (file)
        fclose(file);
    return advised == 0 && !(known && strstr(text, "[never]")) ? MEMORY_TRANSPARENT : MEMORY_SMALL;
}

/* Reserve more than is wanted and cut off what lies before the first huge page and behind the end. */
static int reserve_ordinary(struct memory *memory, uint64_t bytes)
{
    uint64_t want = round_up(bytes, PAGE_BYTES);
    uint64_t take = want + HUGE_BYTES;
    void *mapped = mmap(NULL, take, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return -errno;
    uintptr_t start = (uintptr_t)mapped;
    uintptr_t aligned = round_up(start, HUGE_BYTES);
    unmap(start, aligned - start);
    unmap(aligned + want, start + take - (aligned + want));
    *memory = (struct memory){.base = (void *)aligned, .mapped_bytes = want};
    memory->pages = transparent_pages(madvise(memory->base, want, MADV_HUGEPAGE));
    return 0;
}

int memory_reserve(struct memory *memory, uint64_t bytes)
{
    if (bytes == 0 || bytes > PTRDIFF_MAX - 2 * (uint64_t)HUGE_BYTES)
        return -ENOMEM;
    int err = reserve_explicit(memory, bytes) ? 0 : reserve_ordinary(memory, bytes);
    if (err == 0)
        (void)madvise(memory->base, memory->mapped_bytes, MADV_DONTDUMP);
    return err;
}

void memory_release(struct memory *memory)
{
    unmap((uintptr_t)memory->base, memory->mapped_bytes);
    *memory = (struct memory){.base = NULL};
}

int memory_touch(void *at, uint64_t bytes)
{
    return madvise(at, bytes, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

/* The kernel tells it of each mapping; ours may be several, or one that is joined with a neighbour. */
uint64_t memory_huge_bytes(const struct memory *memory)
{
    if (memory->pages == MEMORY_EXPLICIT)
        return memory->mapped_bytes;
    FILE *smaps = fopen("/proc/self/smaps", "re");
    if (!smaps)
        return 0;
    uint64_t first = (uintptr_t)memory->base, end = first + memory->mapped_bytes, huge_bytes = 0;
    bool ours = false;
    char line[LINE_BYTES];
    while (fgets(line, sizeof line, smaps)) {
        uint64_t from, to, kib;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
            ours = from < end && to > first;
        else if (ours && sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
            huge_bytes += kib * 1024;
    }
    fclose(smaps);
    return huge_bytes < memory->mapped_bytes ? huge_bytes : memory->mapped_bytes;
}
