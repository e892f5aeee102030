/* errand.h - what a request has done on another loop: there and back.
 *
 * Thread: `there` runs on that loop, all else on the request's. Where they are one loop, both run inside errand_start().
 */
#ifndef KVD_ERRAND_H
#define KVD_ERRAND_H

#include "loop/loop.h"

struct errand;
typedef void (*errand_fn)(struct errand *errand);
struct errand {
    struct loop *here;
    errand_fn there, back;
    struct task task;
};

/* Each runs once. Nothing is this errand's after `back`. */
void errand_start(struct errand *errand, struct loop *here, struct loop *elsewhere, errand_fn there, errand_fn back);

#endif
