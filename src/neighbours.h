/* neighbours.h - other nodes of the cluster at this one's door: their JOIN and BEAT.
 *
 * Owns:    nothing; what a connection has proved is its session's.
 * Not its: what a beat means (src/cluster), this node's own ways to others.
 * Thread:  the session's loop.
 */
#ifndef KVD_NEIGHBOURS_H
#define KVD_NEIGHBOURS_H

#include "session.h"

void handle_join(struct session *session, const struct frame *frame, const struct msg_join *msg);
void handle_beat(struct session *session, const struct frame *frame, const struct msg_beat *msg);

#endif
