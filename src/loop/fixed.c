#include "loop/fixed_impl.h"

#include <errno.h>
#include <liburing.h>

#include "base/bytes.h"
#include "base/check.h"

enum { SLICES_MAX = 1 << 14 }; /* the kernel's own bound */

int fixed_begin(struct fixed *fixed, void *base, uint64_t bytes, uint64_t slice_bytes)
{
    CHECK(!fixed->base && bytes > 0 && slice_bytes > 0 && slice_bytes <= GIB);
    if (!fixed->uring)
        return -EOPNOTSUPP;
    uint64_t slices = min_u64(SLICES_MAX, (bytes + slice_bytes - 1) / slice_bytes);
    int err = io_uring_register_buffers_sparse(fixed->uring, (unsigned)slices);
    if (err)
        return err;
    fixed->base = base;
    fixed->bytes = min_u64(bytes, slices * slice_bytes);
    fixed->slice_bytes = slice_bytes;
    fixed->small_pages = false;
    return 0;
}

/* The kernel holds the ring's lock while it looks the pages up: who submits meanwhile waits. */
int fixed_next(struct fixed *fixed)
{
    uint32_t slice = atomic_load_explicit(&fixed->slices, memory_order_relaxed);
    uint64_t from = slice * fixed->slice_bytes;
    if (!fixed->base || from >= fixed->bytes)
        return -ENOBUFS;
    struct iovec iov = {fixed->base + from, min_u64(fixed->slice_bytes, fixed->bytes - from)};
    uint64_t tag = 0;
    int done = io_uring_register_buffers_update_tag(fixed->uring, slice, &iov, (const __u64 *)&tag, 1);
    if (done < 0)
        return done;
    CHECK(done == 1);
    atomic_store_explicit(&fixed->slices, slice + 1, memory_order_release);
    return 0;
}

void fixed_end(struct fixed *fixed)
{
    if (!fixed->base)
        return;
    atomic_store_explicit(&fixed->slices, 0, memory_order_relaxed);
    fixed->base = NULL;
    /* Older kernels wait for what is under way, and can be interrupted: then the ring lets go of them at its end. */
    (void)io_uring_unregister_buffers(fixed->uring);
}

uint64_t fixed_bytes(const struct fixed *fixed)
{
    return min_u64(fixed->bytes, atomic_load_explicit(&fixed->slices, memory_order_relaxed) * fixed->slice_bytes);
}

int fixed_slice(const struct fixed *fixed, const void *at, uint64_t len)
{
    uint32_t slices = atomic_load_explicit(&fixed->slices, memory_order_acquire);
    if (slices == 0 || (uintptr_t)at < (uintptr_t)fixed->base)
        return -1;
    uint64_t from = (uint64_t)((uintptr_t)at - (uintptr_t)fixed->base);
    uint64_t slice = from / fixed->slice_bytes;
    uint64_t end = min_u64(fixed->bytes, (slice + 1) * fixed->slice_bytes);
    return slice < slices && from < end && len <= end - from ? (int)slice : -1;
}
