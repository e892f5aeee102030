/* The judge judged: histories made by hand, and what it must say of each. */
#include <stdio.h>

#include "sim.h"

enum { PLAIN = -2 };

struct line {
    uint64_t begin, end; /* end 0: open */
    enum call_kind kind;
    enum call_state state;
    int value; /* line of the put; of a put: PLAIN, it does not replace */
    uint32_t life;
    bool ack_disk;
    uint64_t ttl_ms; /* a stamp is a second here */
    uint8_t host;
};

static bool judge_lines(const struct line *lines, size_t count)
{
    struct history history = {.hosts = 2, .names_us = 30 * SECOND, .missing_us = 5 * SECOND};
    char why[600] = "";
    struct life_end ends[4] = {{.stamp = 100}, {.stamp = 200}, {.stamp = 300}, {.stamp = 400, .kept_all = true}};
    struct drop drop = {.stamp = 150};
    history.calls = sim_alloc(count * sizeof *history.calls);
    history.count = count;
    for (size_t i = 0; i < count; i++) {
        uint64_t end = lines[i].end ? lines[i].end : UINT64_MAX;
        history.calls[i] = (struct call){
            .begin = lines[i].begin,
            .end = end,
            .tight_end = end,
            .begin_us = lines[i].begin * SECOND,
            .end_us = lines[i].end ? lines[i].end * SECOND : UINT64_MAX,
            .wall_begin_ms = lines[i].begin * 1000,
            .wall_end_ms = end == UINT64_MAX ? 0 : end * 1000,
            .ttl_ms = lines[i].ttl_ms,
            .kind = (uint8_t)lines[i].kind,
            .state = (uint8_t)lines[i].state,
            .replace = lines[i].value != PLAIN,
            .value = lines[i].kind == CALL_READ ? lines[i].value : NO_VALUE,
            .version = lines[i].kind == CALL_PUT    ? i + 1
                       : lines[i].kind == CALL_SEEN ? (uint64_t)(lines[i].value + 1)
                                                    : 0,
            .host = lines[i].host,
            .on_disk_us = lines[i].ack_disk ? lines[i].end * SECOND : 0,
            .life = lines[i].life ? lines[i].life : 1,
            .ack_disk = lines[i].ack_disk,
            .recovered = true,
        };
    }
    history.ends = ends;
    history.end_count = 4;
    history.drops = &drop;
    history.drop_count = 1;
    bool good = history_judge(&history, why, sizeof why);
    sim_free(history.calls);
    return good;
}

#define PUT(b, e)                                                      \
    {                                                                  \
        b, e, CALL_PUT, (e) ? CALL_DONE : CALL_OPEN, 0, 0, false, 0, 0 \
    }
#define READ(b, e, v)                                 \
    {                                                 \
        b, e, CALL_READ, CALL_DONE, v, 0, false, 0, 0 \
    }
#define REMOVE(b, e)                                                      \
    {                                                                     \
        b, e, CALL_REMOVE, (e) ? CALL_DONE : CALL_OPEN, 0, 0, false, 0, 0 \
    }
#define MISS(b, e, l)                                 \
    {                                                 \
        b, e, CALL_MISS, CALL_DONE, 0, l, false, 0, 0 \
    }
#define SEEN(b, e)                                     \
    {                                                  \
        b, e, CALL_SEEN, CALL_DONE, -1, 0, false, 0, 0 \
    }

#define ON_DISK(b, e)                               \
    {                                               \
        b, e, CALL_PUT, CALL_DONE, 0, 0, true, 0, 0 \
    }
#define ELSEWHERE(b, e, kind, v)                 \
    {                                            \
        b, e, kind, CALL_DONE, v, 5, false, 0, 1 \
    }

static const struct {
    const char *name;
    bool good;
    size_t count;
    struct line lines[5];
} cases[] = {
    {"put, read", true, 2, {PUT(1, 2), READ(3, 4, 0)}},
    {"read while it is put", true, 2, {PUT(1, 5), READ(3, 4, 0)}},
    {"read before its put", false, 2, {PUT(3, 4), READ(1, 2, 0)}},
    {"read of an unanswered put", true, 2, {PUT(1, 0), READ(3, 4, 0)}},
    {"risen from the dead", false, 4, {PUT(1, 2), READ(3, 4, 0), REMOVE(5, 6), READ(7, 8, 0)}},
    {"removed at the same time", true, 3, {PUT(1, 2), REMOVE(3, 8), READ(5, 6, 0)}},
    {"an unanswered remove", true, 3, {PUT(1, 2), REMOVE(3, 0), READ(5, 6, 0)}},
    {"replaced, and seen again", false, 4, {PUT(1, 2), READ(3, 4, 0), PUT(5, 6), READ(7, 8, 0)}},
    {"two at once", false, 5, {PUT(1, 2), PUT(3, 4), READ(5, 6, 0), READ(5, 7, 1), READ(8, 9, 0)}},
    {"one after the other", true, 4, {PUT(1, 2), READ(3, 4, 0), PUT(5, 6), READ(7, 8, 2)}},
    {"unknown put takes effect late", true, 5, {PUT(1, 0), PUT(3, 4), READ(5, 6, 1), READ(7, 8, 0), READ(9, 10, 0)}},
    {"and then goes back", false, 5, {PUT(1, 0), PUT(3, 4), READ(5, 6, 1), READ(7, 8, 0), READ(9, 10, 1)}},
    {"a put that failed was seen", false, 2, {{1, 2, CALL_PUT, CALL_VOID, 0, 0, false, 0, 0}, READ(3, 4, 0)}},
    {"something seen after a remove", false, 3, {PUT(1, 2), REMOVE(3, 4), SEEN(5, 6)}},
    {"something seen in the midst of a remove", true, 3, {PUT(1, 2), REMOVE(3, 6), SEEN(4, 5)}},
    {"a miss that nobody counted", false, 2, {PUT(1, 2), MISS(3, 4, 1)}},
    {"a miss after a remove", true, 3, {PUT(1, 2), REMOVE(3, 4), MISS(5, 6, 1)}},
    {"a miss after a restart", true, 2, {PUT(1, 2), MISS(103, 104, 2)}},
    {"of what was on disk", false, 2, {{1, 2, CALL_PUT, CALL_DONE, 0, 0, true, 0, 0}, MISS(103, 104, 2)}},
    {"a miss after a drop", true, 2, {PUT(140, 141), MISS(160, 161, 1)}},
    {"after another host's drop", false, 2, {ELSEWHERE(140, 141, CALL_PUT, 0), ELSEWHERE(160, 161, CALL_MISS, 0)}},
    {"seen after its time", false, 2, {{1, 2, CALL_PUT, CALL_DONE, 0, 0, false, 3000, 0}, READ(6, 7, 0)}},
    {"seen in its time", true, 2, {{1, 2, CALL_PUT, CALL_DONE, 0, 0, false, 3000, 0}, READ(5, 7, 0)}},
    {"seen after its time, after a restart",
     false,
     2,
     {{1, 2, CALL_PUT, CALL_DONE, 0, 0, true, 3000, 0}, {106, 107, CALL_READ, CALL_DONE, 0, 2, false, 0, 0}}},
    {"there after its time", false, 2, {{1, 2, CALL_PUT, CALL_DONE, 0, 0, false, 3000, 0}, SEEN(6, 7)}},
    {"a miss after its time", true, 2, {{1, 2, CALL_PUT, CALL_DONE, 0, 0, false, 3000, 0}, MISS(6, 7, 1)}},
    {"a miss before its time", false, 2, {{1, 2, CALL_PUT, CALL_DONE, 0, 0, false, 30000, 0}, MISS(6, 7, 1)}},
    {"removed on one host, and soon seen on another", true, 3, {PUT(1, 2), REMOVE(3, 4), ELSEWHERE(36, 37, CALL_READ, 0)}},
    {"and long after", false, 3, {PUT(1, 2), REMOVE(3, 4), ELSEWHERE(40, 41, CALL_READ, 0)}},
    {"removed on the host that put it, of what was on disk",
     false,
     3,
     {ON_DISK(1, 2), ELSEWHERE(20, 21, CALL_REMOVE, -1), READ(60, 61, 0)}},
    {"removed elsewhere before it was on disk", true, 3, {PUT(1, 2), ELSEWHERE(20, 21, CALL_REMOVE, -1), READ(60, 61, 0)}},
    {"replaced on disk, and seen on another long after",
     false,
     4,
     {ON_DISK(1, 2), ELSEWHERE(20, 21, CALL_READ, 0), ON_DISK(22, 23), ELSEWHERE(61, 62, CALL_READ, 0)}},
    {"another's, removed here and seen again",
     false,
     4,
     {ON_DISK(1, 2), ELSEWHERE(20, 21, CALL_READ, 0), ELSEWHERE(22, 23, CALL_REMOVE, -1), ELSEWHERE(24, 25, CALL_READ, 0)}},
    {"another's came after ours", true, 4, {PUT(1, 2), READ(3, 4, 0), ELSEWHERE(5, 6, CALL_PUT, 0), READ(7, 8, 2)}},
    {"and ours again", false, 5, {PUT(1, 2), READ(3, 4, 0), ELSEWHERE(5, 6, CALL_PUT, 0), READ(7, 8, 2), READ(9, 10, 0)}},
    {"another's, over which a put that does not replace was lost with its life",
     true,
     4,
     {PUT(1, 2), ELSEWHERE(3, 4, CALL_READ, 0), ELSEWHERE(5, 6, CALL_PUT, PLAIN), {7, 8, CALL_READ, CALL_DONE, 0, 6, false, 0, 1}}},
    {"and was not", false, 4, {PUT(1, 2), ELSEWHERE(3, 4, CALL_READ, 0), ELSEWHERE(5, 6, CALL_PUT, PLAIN), ELSEWHERE(7, 8, CALL_READ, 0)}},
    {"and was on disk",
     false,
     4,
     {PUT(1, 2),
      ELSEWHERE(3, 4, CALL_READ, 0),
      {5, 6, CALL_PUT, CALL_DONE, PLAIN, 5, true, 0, 1},
      {7, 8, CALL_READ, CALL_DONE, 0, 6, false, 0, 1}}},
    {"and was written by an orderly stop",
     false,
     4,
     {PUT(1, 2),
      {3, 4, CALL_READ, CALL_DONE, 0, 4, false, 0, 1},
      {5, 6, CALL_PUT, CALL_DONE, PLAIN, 4, false, 0, 1},
      {7, 8, CALL_READ, CALL_DONE, 0, 5, false, 0, 1}}},
    {"and one that replaces",
     false,
     4,
     {PUT(1, 2), ELSEWHERE(3, 4, CALL_READ, 0), ELSEWHERE(5, 6, CALL_PUT, -1), {7, 8, CALL_READ, CALL_DONE, 0, 6, false, 0, 1}}},
    {"gone from this process, yet seen", false, 3, {PUT(1, 2), {3, 4, CALL_REMOVE, CALL_HERE, 0, 0, false, 0, 0}, READ(5, 6, 0)}},
};

int history_self_test(void)
{
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (judge_lines(cases[i].lines, cases[i].count) == cases[i].good)
            continue;
        printf("the judge is wrong about: %s\n", cases[i].name);
        failed++;
    }
    printf("the judge: %zu histories, %d wrong\n", sizeof cases / sizeof cases[0], failed);
    return failed > 0;
}
