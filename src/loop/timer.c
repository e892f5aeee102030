#include "loop/loop_impl.h"

#include "base/check.h"

/* A pairing heap: `child` is the first child, `sibling` the next one of the same parent, `prev` the sibling before or, of
 * a first child, the parent. */

static struct timer *heap_meld(struct timer *a, struct timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (b->due_ms < a->due_ms) {
        struct timer *swap = a;
        a = b;
        b = swap;
    }
    b->prev = a;
    b->sibling = a->child;
    if (a->child)
        a->child->prev = b;
    a->child = b;
    return a;
}

static struct timer *heap_detach(struct timer *timer)
{
    timer->prev = NULL;
    timer->sibling = NULL;
    return timer;
}

/* Make one heap of a chain of siblings, in pairs from left to right, then those from right to left. */
static struct timer *heap_meld_chain(struct timer *first)
{
    struct timer *pairs = NULL;
    while (first) {
        struct timer *a = first;
        struct timer *b = a->sibling;
        first = b ? b->sibling : NULL;
        struct timer *pair = heap_meld(heap_detach(a), b ? heap_detach(b) : NULL);
        pair->sibling = pairs;
        pairs = pair;
    }
    struct timer *root = NULL;
    while (pairs) {
        struct timer *next = pairs->sibling;
        root = heap_meld(root, heap_detach(pairs));
        pairs = next;
    }
    return root;
}

/* Take the timer out of wherever it is linked; its children, made one heap, get its place. Those that are due have no
 * children, so the same steps serve for the heap and for the chain. */
static void timer_unlink(struct timer *timer)
{
    struct loop *loop = timer->loop;
    struct timer *heir = heap_meld_chain(timer->child);
    struct timer *next = timer->sibling;
    struct timer *prev = timer->prev;
    struct timer *place = heir ? heir : next;
    if (heir) {
        heir->sibling = next;
        heir->prev = prev;
    }
    if (next)
        next->prev = heir ? heir : prev;
    if (loop->timers == timer) {
        loop->timers = place;
    } else if (loop->due_timers == timer) {
        loop->due_timers = place;
    } else {
        CHECK(prev);
        if (prev->child == timer)
            prev->child = place;
        else
            prev->sibling = place;
    }
    timer->child = NULL;
    heap_detach(timer);
}

/* Take all that are due out of the heap first: one that is started again by its own callback waits for the next turn. */
static void timers_take_due(struct loop *loop, uint64_t now_ms)
{
    struct timer *last = NULL;
    CHECK(!loop->due_timers);
    while (loop->timers && loop->timers->due_ms <= now_ms) {
        struct timer *timer = loop->timers;
        timer_unlink(timer);
        timer->prev = last;
        if (last)
            last->sibling = timer;
        else
            loop->due_timers = timer;
        last = timer;
    }
}

static void on_timer(uv_timer_t *handle)
{
    struct loop *loop = handle->data;
    loop_lock(loop);
    loop->armed_ms = UINT64_MAX;
    timers_take_due(loop, loop_now_ms(loop));
    while (loop->due_timers) {
        struct timer *timer = loop->due_timers;
        timer_unlink(timer);
        timer->active = false;
        timer->fn(timer);
    }
    loop_unlock(loop);
}

void timers_init(struct loop *loop)
{
    CHECK(uv_timer_init(&loop->uv, &loop->timer) == 0);
    loop->timer.data = loop;
    loop->armed_ms = UINT64_MAX;
}

void timers_arm(struct loop *loop)
{
    uint64_t due_ms = loop->timers ? loop->timers->due_ms : UINT64_MAX;
    if (due_ms == loop->armed_ms)
        return;
    loop->armed_ms = due_ms;
    if (due_ms == UINT64_MAX) {
        uv_timer_stop(&loop->timer);
        return;
    }
    uint64_t now_ms = uv_now(&loop->uv); /* of a loop with a lock, perhaps behind its own: then it fires too early, and is armed again */
    CHECK(uv_timer_start(&loop->timer, on_timer, due_ms > now_ms ? due_ms - now_ms : 0, 0) == 0);
}

void timer_init(struct timer *timer, struct loop *loop, timer_fn fn)
{
    *timer = (struct timer){.loop = loop, .fn = fn};
}

void timer_start(struct timer *timer, uint64_t after_ms)
{
    CHECK(loop_is_mine(timer->loop));
    timer_stop(timer);
    uint64_t now_ms = loop_now_ms(timer->loop);
    timer->due_ms = after_ms < UINT64_MAX - now_ms ? now_ms + after_ms : UINT64_MAX;
    timer->active = true;
    timer->loop->timers = heap_meld(timer->loop->timers, timer);
    if (timer->due_ms < timer->loop->armed_ms)
        loop_nudge(timer->loop);
}

void timer_stop(struct timer *timer)
{
    CHECK(loop_is_mine(timer->loop));
    if (!timer->active)
        return;
    timer_unlink(timer);
    timer->active = false;
}
