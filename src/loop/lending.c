#include "loop/lending_impl.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/errqueue.h> /* needs time.h */

#include "base/check.h"

static void add(_Atomic uint64_t *figure, uint64_t more)
{
    atomic_store_explicit(figure, atomic_load_explicit(figure, memory_order_relaxed) + more, memory_order_relaxed);
}

int lending_new(struct lending **out, int fd, struct lending_figures *figures)
{
    struct lending *lending = calloc(1, sizeof *lending);
    if (!lending)
        return -ENOMEM;
    if (setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)) < 0) {
        int err = -errno;
        free(lending);
        return err;
    }
    lending->figures = figures;
    *out = lending;
    return 0;
}

void lending_free(struct lending *lending)
{
    if (lending)
        add(&lending->figures->lent_bytes, 0 - lending->lent_bytes);
    free(lending);
}

bool lending_is_full(const struct lending *lending)
{
    return lending->next - lending->first == LENDING_CALLS;
}

uint32_t lending_begin(struct lending *lending, uint32_t bytes)
{
    CHECK(!lending_is_full(lending) && bytes > 0);
    uint32_t call = lending->next++;
    lending->call_bytes[call % LENDING_CALLS] = bytes;
    lending->over[call % LENDING_CALLS] = false;
    lending->lent_bytes += bytes;
    add(&lending->figures->sends, 1);
    add(&lending->figures->bytes, bytes);
    add(&lending->figures->lent_bytes, bytes);
    return call;
}

void lending_fell_back(struct lending *lending)
{
    add(&lending->figures->fallbacks, 1);
}

/* Returns whether any of them is news. */
static bool end_range(struct lending *lending, uint32_t from, uint32_t to)
{
    bool news = false;
    for (uint32_t call = lending->first; call != lending->next; call++) {
        bool *over = &lending->over[call % LENDING_CALLS];
        if (call - from > to - from || *over)
            continue;
        *over = true;
        news = true;
    }
    while (lending->first != lending->next && lending->over[lending->first % LENDING_CALLS]) {
        uint32_t bytes = lending->call_bytes[lending->first++ % LENDING_CALLS];
        lending->lent_bytes -= bytes;
        add(&lending->figures->lent_bytes, 0 - (uint64_t)bytes);
    }
    return news;
}

void lending_end(struct lending *lending, uint32_t from, uint32_t to)
{
    (void)end_range(lending, from, to);
}

bool lending_is_over(const struct lending *lending, uint32_t call)
{
    return lending->first - call - 1 < UINT32_MAX / 2;
}

/* One entry of the error queue. Returns false when there is none left. */
static bool hear_one(struct lending *lending, int fd, bool *news)
{
    union {
        char bytes[256];
        struct cmsghdr align;
    } control;
    struct msghdr msg = {.msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do
        got = recvmsg(fd, &msg, MSG_ERRQUEUE);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return false;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&msg); at; at = CMSG_NXTHDR(&msg, at)) {
        bool told =
            (at->cmsg_level == SOL_IP && at->cmsg_type == IP_RECVERR) || (at->cmsg_level == SOL_IPV6 && at->cmsg_type == IPV6_RECVERR);
        const struct sock_extended_err *notice = (const void *)CMSG_DATA(at);
        if (!told || notice->ee_errno != 0 || notice->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
            continue;
        *news |= end_range(lending, notice->ee_info, notice->ee_data);
        if (notice->ee_code & SO_EE_CODE_ZEROCOPY_COPIED)
            add(&lending->figures->copied, (uint64_t)(notice->ee_data - notice->ee_info) + 1);
    }
    return true;
}

/* An entry ends a call at least, but for those that others put there. */
bool lending_hear(struct lending *lending, int fd)
{
    bool news = false;
    for (unsigned i = 0; i < LENDING_CALLS && lending->first != lending->next && hear_one(lending, fd, &news); i++)
        continue;
    return news;
}
