/* A beat on the wire, and back. */
#include <criterion/criterion.h>

#include "base/error.h"
#include "cluster/beat.h"

#define CLUSTER span_text("test")

static struct beat some_beat(const struct view *view)
{
    return (struct beat){.from = {.id = "a", .address = "10.0.0.1:7950", .incarnation = {3, 4}},
                         .known = 9,
                         .acknowledged = 8,
                         .effective = 7,
                         .asked_us = 6,
                         .promised_us = 5,
                         .promised_view = 4,
                         .ceiling = 3,
                         .acting = true,
                         .left = true,
                         .view = view};
}

static struct view some_view(uint64_t number)
{
    struct node_name name = {.id = "a", .address = "10.0.0.1:7950", .incarnation = {3, 4}};
    struct view view = {.number = number, .previous = number - 1, .proposer = "a"};
    cr_assert(view_put(&view, &name));
    return view;
}

Test(beat, a_beat_there_and_back)
{
    struct view view = some_view(9), read;
    struct beat beat = some_beat(&view), back;
    struct msg_beat msg;
    uint8_t bytes[VIEW_BYTES];
    beat_to_msg(&beat, CLUSTER, bytes, &msg);
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), 0);
    cr_assert(back.known == 9 && back.acknowledged == 8 && back.effective == 7 && back.asked_us == 6 && back.promised_us == 5);
    cr_assert(back.promised_view == 4 && back.ceiling == 3 && back.acting && back.left && !back.wants_in && !back.former_dead);
    cr_assert(back.view == &read && read.number == 9 && incarnation_equal(back.from.incarnation, beat.from.incarnation));
    cr_assert_str_eq(back.from.address, beat.from.address);
}

Test(beat, what_is_no_beat)
{
    struct view view = some_view(8), read;
    struct beat beat = some_beat(&view), back;
    struct msg_beat msg;
    uint8_t bytes[VIEW_BYTES];
    beat_to_msg(&beat, CLUSTER, bytes, &msg);
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), KVD_EPROTO, "a view that is not the one it knows");
    msg.known = 8;
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), 0);
    cr_assert_eq(beat_from_msg(&msg, span_text("other"), "a", &read, &back), KVD_EPROTO);
    msg.start = 0;
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), KVD_EPROTO);
    msg.start = 1;
    msg.address = span_text("");
    cr_assert_eq(beat_from_msg(&msg, CLUSTER, "a", &read, &back), KVD_EPROTO);
}
