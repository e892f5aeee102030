#include "sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct sim *sim;

struct event {
    uint64_t at_us, order;
    event_fn fn;
    void *arg;
    size_t place;
    struct host *host;
    bool server;
    struct event *next_spare;
};

/* ---- chance ---- */

uint64_t chance(void)
{
    uint64_t z = sim->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t chance_below(uint64_t n)
{
    return n ? chance() % n : 0;
}

uint64_t chance_between(uint64_t low, uint64_t high)
{
    return low + chance_below(high - low + 1);
}

bool chance_percent(unsigned percent)
{
    return chance_below(100) < percent;
}

bool chance_one_in(uint64_t n)
{
    return chance_below(n) == 0;
}

uint64_t chance_delay(uint64_t most)
{
    uint64_t shift = chance_below(8);
    return chance_below((most >> shift) + 1);
}

/* ---- events: a binary heap by time, then by order ---- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void place(struct event *event, size_t at)
{
    sim->events[at] = event;
    event->place = at;
}

static void sift_up(struct event *event, size_t at)
{
    while (at > 0 && before(event, sim->events[(at - 1) / 2])) {
        place(sim->events[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    place(event, at);
}

static void sift_down(struct event *event, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= sim->event_count)
            break;
        if (child + 1 < sim->event_count && before(sim->events[child + 1], sim->events[child]))
            child++;
        if (!before(sim->events[child], event))
            break;
        place(sim->events[child], at);
        at = child;
    }
    place(event, at);
}

static void event_remove(struct event *event)
{
    size_t at = event->place;
    struct event *last = sim->events[--sim->event_count];
    if (last != event) {
        sift_up(last, at);
        sift_down(last, last->place);
    }
}

static void event_spare(struct event *event)
{
    event->next_spare = sim->spare;
    sim->spare = event;
}

struct event *event_add(uint64_t delay_us, bool server, event_fn fn, void *arg)
{
    struct event *event = sim->spare;
    if (event)
        sim->spare = event->next_spare;
    else
        event = sim_alloc(sizeof *event);
    if (sim->event_count == sim->event_room) {
        sim->event_room = sim->event_room ? 2 * sim->event_room : 64;
        sim->events = sim_grow(sim->events, sim->event_room * sizeof(struct event *));
    }
    *event =
        (struct event){.at_us = sim->now_us + delay_us, .order = ++sim->order, .fn = fn, .arg = arg, .host = sim->host, .server = server};
    sift_up(event, sim->event_count++);
    return event;
}

void event_cancel(struct event *event)
{
    event_remove(event);
    event_spare(event);
}

void server_events_drop(void)
{
    size_t kept = 0;
    size_t count = sim->event_count;
    for (size_t i = 0; i < count; i++) {
        if (sim->events[i]->server && sim->events[i]->host == sim->host)
            event_spare(sim->events[i]);
        else
            sim->events[kept++] = sim->events[i];
    }
    sim->event_count = 0;
    for (size_t i = 0; i < kept; i++) {
        struct event *event = sim->events[i];
        sift_up(event, sim->event_count++);
    }
}

void events_free(void)
{
    while (sim->event_count > 0)
        event_cancel(sim->events[0]);
    for (struct event *next; sim->spare; sim->spare = next) {
        next = sim->spare->next_spare;
        sim_free(sim->spare);
    }
    sim_free(sim->events);
}

static void run(struct event *event)
{
    event_fn fn = event->fn;
    void *arg = event->arg;
    bool server = event->server;
    sim->now_us = event->at_us;
    sim->host = event->host;
    sim->figures.events++;
    event_remove(event);
    event_spare(event);
    if (!server) {
        fn(arg);
        return;
    }
    sim->in_server = true;
    loop_entered(sim->host->life->loop);
    fn(arg);
    if (sim->host->life->loop)
        loop_settle(sim->host->life->loop);
    sim->in_server = false;
}

enum escape sim_step(bool *idle)
{
    *idle = sim->event_count == 0;
    if (*idle)
        return ESCAPE_NONE;
    int got = setjmp(sim->out);
    if (got == ESCAPE_NONE) {
        run(sim->events[0]);
        return ESCAPE_NONE;
    }
    sim->in_server = false;
    if (got != ESCAPE_FAIL)
        server_events_drop();
    return (enum escape)got;
}

enum escape sim_call(event_fn fn, void *arg)
{
    int got = setjmp(sim->out);
    if (got == ESCAPE_NONE) {
        sim->in_server = true;
        fn(arg);
    }
    sim->in_server = false;
    return (enum escape)got;
}

/* ---- the wall clock ---- */

uint64_t sim_wall_ms(void)
{
    return (uint64_t)((int64_t)1700000000000 + sim->host->wall_now_ms) + sim->now_us / MS;
}

void sim_wall_set(int64_t ahead_ms)
{
    int64_t *most = &sim->wall_ahead_ms[sim->lives % SIM_LIVES];
    if (ahead_ms != sim->host->wall_now_ms) {
        sim->jumps++;
        sim->figures.jumps++;
        note("wall", (uint64_t)ahead_ms, 0, 0);
    }
    sim->host->wall_now_ms = ahead_ms;
    *most = ahead_ms > *most ? ahead_ms : *most;
}

/* ---- trace ---- */

void note(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t words[5] = {sim->now_us, a, b, c, 0};
    for (const char *at = what; *at; at++)
        words[4] = words[4] * 31 + (uint8_t)*at;
    for (int i = 0; i < 5; i++) {
        sim->hash = (sim->hash ^ words[i]) * 0x9fb21c651e98df25u;
        sim->hash ^= sim->hash >> 29;
    }
    if (sim->options->trace)
        printf("%12.6f %8llu  %-16s %llu %llu %llu\n", (double)sim->now_us / 1e6, (unsigned long long)sim->stamp, what,
               (unsigned long long)a, (unsigned long long)b, (unsigned long long)c);
}

void say(const char *format, ...)
{
    if (!sim->options->trace)
        return;
    va_list args;
    va_start(args, format);
    printf("%12.6f %8llu  ", (double)sim->now_us / 1e6, (unsigned long long)sim->stamp);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

/* ---- ways out ---- */

_Noreturn void sim_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!sim->failed)
        vsnprintf(sim->why, sizeof sim->why, format, args);
    va_end(args);
    sim->failed = true;
    sim_escape(ESCAPE_FAIL);
}

void sim_crash_point(void)
{
    struct life *life = sim->host->life;
    if (!life)
        return;
    life->steps++;
    if (life->crash_step != 0 && life->steps >= life->crash_step)
        sim_escape(ESCAPE_CRASH);
}

void sim_disk_changed(void)
{
    sim_crash_point();
    if (!sim->host->life || sim->host->life->number != 1 || sim->options->crash_at == 0)
        return;
    if (++sim->changes == sim->options->crash_at)
        sim_escape(ESCAPE_CRASH);
}
