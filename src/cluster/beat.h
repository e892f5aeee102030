/* beat.h - a beat (member.h) as it goes over the wire, and back. Pure functions; any thread. */
#ifndef KVD_CLUSTER_BEAT_H
#define KVD_CLUSTER_BEAT_H

#include "cluster/member.h"
#include "proto/msg.h"

/* `view_bytes` has room for a view; `msg` points into it, and into `beat`. */
void beat_to_msg(const struct beat *beat, struct span cluster, uint8_t view_bytes[VIEW_BYTES], struct msg_beat *msg);
/* 0 or KVD_EPROTO. `beat->view` is `view` or NULL. */
int beat_from_msg(const struct msg_beat *msg, struct span cluster, const char *id, struct view *view, struct beat *beat);

#endif
