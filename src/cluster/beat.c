#include "cluster/beat.h"

#include <stdio.h>

#include "base/error.h"

void beat_to_msg(const struct beat *beat, struct span cluster, uint8_t view_bytes[VIEW_BYTES], struct msg_beat *msg)
{
    *msg = (struct msg_beat){
        .has = (1u << F_BEAT_VIEW) - (1u << F_BEAT_START),
        .start = beat->from.incarnation.start,
        .random = beat->from.incarnation.random,
        .address = span_text(beat->from.address),
        .known = beat->known,
        .acknowledged = beat->acknowledged,
        .effective = beat->effective,
        .asked_us = beat->asked_us,
        .promised_us = beat->promised_us,
        .promised_view = beat->promised_view,
        .ceiling = beat->ceiling,
        .acting = beat->acting,
        .wants_in = beat->wants_in,
        .left = beat->left,
        .former_dead = beat->former_dead,
    };
    if (beat->view && view_build(view_bytes, cluster, beat->view) == 0) {
        msg->has |= 1u << F_BEAT_VIEW;
        msg->view = span_of(view_bytes, VIEW_BYTES);
    }
}

int beat_from_msg(const struct msg_beat *msg, struct span cluster, const char *id, struct view *view, struct beat *beat)
{
    if (msg->start == 0 || !node_address_is_good(msg->address))
        return KVD_EPROTO;
    bool has_view = MSG_HAS(msg, F_BEAT_VIEW);
    if (has_view && (view_parse(msg->view.at, msg->view.len, cluster, view) != 0 || view->number != msg->known))
        return KVD_EPROTO;
    *beat = (struct beat){
        .from = {.incarnation = {msg->start, msg->random}},
        .known = msg->known,
        .acknowledged = msg->acknowledged,
        .effective = msg->effective,
        .asked_us = msg->asked_us,
        .promised_us = msg->promised_us,
        .promised_view = msg->promised_view,
        .ceiling = msg->ceiling,
        .acting = msg->acting,
        .wants_in = msg->wants_in,
        .left = msg->left,
        .former_dead = msg->former_dead,
        .view = has_view ? view : NULL,
    };
    snprintf(beat->from.id, sizeof beat->from.id, "%s", id);
    memcpy(beat->from.address, msg->address.at, msg->address.len);
    return 0;
}
