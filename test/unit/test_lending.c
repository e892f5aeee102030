/* Which calls are over: numbers that wrap, ranges in any order, and no more calls than there is room for. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/lending_impl.h"

struct room {
    struct lending_figures figures;
    struct lending *lending;
    int fd;
};

/* Its first call has this number. */
static void room_init(struct room *room, uint32_t number)
{
    *room = (struct room){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    cr_assert_geq(room->fd, 0);
    cr_assert_eq(lending_new(&room->lending, room->fd, &room->figures), 0);
    room->lending->first = room->lending->next = number;
}

static void room_fini(struct room *room)
{
    lending_free(room->lending);
    cr_assert_eq(room->figures.lent_bytes, 0);
    close(room->fd);
}

/* Ten calls, of 1 to 10 bytes. */
static void lend_ten(struct room *room, uint32_t first)
{
    for (uint32_t i = 0; i < 10; i++)
        cr_assert_eq(lending_begin(room->lending, i + 1), first + i);
    cr_assert_eq(room->lending->lent_bytes, 55);
    cr_assert_eq(room->figures.lent_bytes, 55);
}

static void run_any_order(uint32_t first)
{
    struct room room;
    room_init(&room, first);
    struct lending *lending = room.lending;
    lend_ten(&room, first);
    cr_assert(!lending_is_over(lending, first));
    lending_end(lending, first + 3, first + 4);
    cr_assert_eq(lending->lent_bytes, 55, "the first one is not over");
    cr_assert(!lending_is_over(lending, first + 3), "nor are all before it");
    lending_end(lending, first, first + 1);
    cr_assert_eq(lending->lent_bytes, 52);
    cr_assert(lending_is_over(lending, first + 1));
    cr_assert(!lending_is_over(lending, first + 2));
    lending_end(lending, first + 2, first + 2);
    cr_assert(lending_is_over(lending, first + 4));
    cr_assert(!lending_is_over(lending, first + 5));
    cr_assert_eq(lending->lent_bytes, 40);
    lending_end(lending, first, first + 5); /* old ones among them */
    cr_assert_eq(lending->lent_bytes, 34);
    lending_end(lending, first + 6, first + 100); /* and some that were never made */
    cr_assert_eq(lending->lent_bytes, 0);
    cr_assert(lending_is_over(lending, first + 9));
    cr_assert_eq(lending_begin(lending, 7), first + 10, "those do not count in advance");
    cr_assert(!lending_is_over(lending, first + 10));
    lending_end(lending, first + 3, first + 4);
    cr_assert(!lending_is_over(lending, first + 10));
    cr_assert_eq(room.figures.sends, 11);
    cr_assert_eq(room.figures.bytes, 62);
    room_fini(&room);
}

Test(lending, ranges_in_any_order)
{
    run_any_order(0);
}

Test(lending, numbers_wrap)
{
    for (uint32_t before = 1; before <= 11; before++)
        run_any_order(0 - before);
}

Test(lending, no_more_calls_than_there_is_room_for)
{
    struct room room;
    room_init(&room, UINT32_MAX - 100);
    struct lending *lending = room.lending;
    for (unsigned i = 0; i < LENDING_CALLS; i++) {
        cr_assert(!lending_is_full(lending));
        (void)lending_begin(lending, 1);
    }
    cr_assert(lending_is_full(lending));
    lending_end(lending, UINT32_MAX - 99, UINT32_MAX);
    cr_assert(lending_is_full(lending), "the oldest is not over");
    lending_end(lending, UINT32_MAX - 100, UINT32_MAX - 100);
    cr_assert(!lending_is_full(lending));
    cr_assert_eq(lending->lent_bytes, LENDING_CALLS - 101);
    lending_fell_back(lending);
    cr_assert_eq(room.figures.fallbacks, 1);
    room_fini(&room);
}

Test(lending, an_empty_error_queue_says_nothing)
{
    struct room room;
    room_init(&room, 0);
    cr_assert(!lending_hear(room.lending, room.fd));
    (void)lending_begin(room.lending, 1);
    cr_assert(!lending_hear(room.lending, room.fd));
    room_fini(&room);
}

Test(lending, a_socket_that_has_it_not_says_so)
{
    struct lending_figures figures = {0};
    struct lending *lending = NULL;
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    cr_assert_eq(lending_new(&lending, fds[0], &figures), -ENOTSOCK);
    cr_assert_null(lending);
    close(fds[0]);
    close(fds[1]);
}
