/* heap.c - malloc of everything that is linked here: what the server takes while it runs is known, so that a crash can throw it away and
 * an orderly end can be asked what is left. By -Wl,--wrap. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

void *__real_malloc(size_t size);
void __real_free(void *at);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *at, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
void __wrap_free(void *at);
char *__wrap_strdup(const char *text);
int __wrap_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3), nonnull(2)));

/* Lies right before what is handed out. */
struct head {
    struct list link;
    void *start;
    size_t size;
    const void *caller;
    uint64_t magic;
};

enum { HEAD_BYTES = 48 };
_Static_assert(sizeof(struct head) == HEAD_BYTES, "blocks stay aligned to 16");
static const uint64_t magic_alive = 0x6b7664616c697665u;
static uint64_t live;

uint64_t heap_live(void)
{
    return live;
}

static struct head *head_of(void *at)
{
    struct head *head = (struct head *)(void *)((char *)at - HEAD_BYTES);
    if (head->magic != magic_alive) {
        fprintf(stderr, "sim: free of what malloc did not give, or twice\n");
        abort();
    }
    return head;
}

static void *take(size_t align, size_t size, const void *caller)
{
    char *start = __real_malloc(size + HEAD_BYTES + align);
    if (!start)
        abort();
    uintptr_t place = ((uintptr_t)start + HEAD_BYTES + align - 1) / align * align;
    struct head *head = (struct head *)(place - HEAD_BYTES);
    *head = (struct head){.start = start, .size = size, .caller = caller, .magic = magic_alive};
    list_init(&head->link);
    live++;
    if (sim && sim->in_server) {
        list_push_back(&sim->host->heap, &head->link);
        sim->host->heap_blocks++;
    }
    return (void *)place;
}

static void give(void *at)
{
    if (!at)
        return;
    struct head *head = head_of(at);
    if (sim && !list_empty(&head->link))
        sim->host->heap_blocks--;
    list_remove(&head->link);
    live--;
    head->magic = 0;
    __real_free(head->start);
}

/* Is this the one that fails? */
static bool fails(void)
{
    if (!sim || !sim->in_server || sim->sturdy || !sim->host->life)
        return false;
    bool yes = sim->heap_per_mille > 0 && chance_below(1000) < sim->heap_per_mille;
    if (sim->heap_kth > 1)
        sim->heap_kth--;
    else if (sim->heap_kth == 1 && sim->heap_burst > 0 && sim->heap_burst--)
        yes = true;
    if (yes) {
        sim->figures.heap++;
        sim->fault_count++;
        note("heap.fails", 0, 0, 0);
    }
    return yes;
}

void *__wrap_malloc(size_t size)
{
    if (fails())
        return NULL;
    void *at = take(16, size, __builtin_return_address(0));
    /* Nobody may rely on what is in fresh memory. */
    memset(at, 0xa5, size < 256 ? size : 256);
    return at;
}

void *__wrap_calloc(size_t count, size_t size)
{
    if (fails())
        return NULL;
    void *at = take(16, count * size, __builtin_return_address(0));
    return memset(at, 0, count * size);
}

void *__wrap_realloc(void *at, size_t size)
{
    if (fails())
        return NULL;
    void *fresh = take(16, size, __builtin_return_address(0));
    if (at) {
        size_t old = head_of(at)->size;
        memcpy(fresh, at, old < size ? old : size);
        give(at);
    }
    return fresh;
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    if (fails())
        return NULL;
    return take(align < 16 ? 16 : align, size, __builtin_return_address(0));
}

void __wrap_free(void *at)
{
    give(at);
}

char *__wrap_strdup(const char *text)
{
    if (fails())
        return NULL;
    size_t len = strlen(text) + 1;
    return memcpy(take(16, len, __builtin_return_address(0)), text, len);
}

int __wrap_asprintf(char **out, const char *format, ...)
{
    if (fails())
        return -1;
    va_list args;
    va_start(args, format);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    *out = take(16, (size_t)len + 1, __builtin_return_address(0));
    va_start(args, format);
    vsnprintf(*out, (size_t)len + 1, format, args);
    va_end(args);
    return len;
}

uint64_t heap_drop(void)
{
    uint64_t dropped = 0;
    for (struct list *at; (at = list_first(&sim->host->heap)) != NULL; dropped++)
        give((char *)CONTAINER_OF(at, struct head, link) + HEAD_BYTES);
    return dropped;
}

uint64_t heap_blocks(uint64_t *bytes, const void **caller)
{
    *bytes = 0;
    for (struct list *at = sim->host->heap.next; at != &sim->host->heap; at = at->next) {
        *bytes += CONTAINER_OF(at, struct head, link)->size;
        *caller = CONTAINER_OF(at, struct head, link)->caller;
    }
    return sim->host->heap_blocks;
}

void *seam_alloc(size_t align, size_t bytes)
{
    void *at = take(align, bytes, __builtin_return_address(0));
    return memset(at, 0, bytes);
}

/* ---- the simulator's own ---- */

void *sim_alloc(size_t bytes)
{
    bool in_server = sim && sim->in_server;
    if (sim)
        sim->in_server = false;
    void *at = __wrap_calloc(1, bytes);
    if (sim)
        sim->in_server = in_server;
    return at;
}

void *sim_grow(void *at, size_t bytes)
{
    bool in_server = sim && sim->in_server;
    if (sim)
        sim->in_server = false;
    void *fresh = __wrap_realloc(at, bytes);
    if (sim)
        sim->in_server = in_server;
    return fresh;
}

void sim_free(void *at)
{
    give(at);
}
