#include "errand.h"

#include "base/list.h"

static void is_back(struct task *task)
{
    struct errand *errand = CONTAINER_OF(task, struct errand, task);
    errand->back(errand);
}

static void is_there(struct task *task)
{
    struct errand *errand = CONTAINER_OF(task, struct errand, task);
    errand->there(errand);
    task_init(task, errand->here, is_back);
    loop_post(task);
}

void errand_start(struct errand *errand, struct loop *here, struct loop *elsewhere, errand_fn there, errand_fn back)
{
    *errand = (struct errand){.here = here, .there = there, .back = back};
    if (here == elsewhere) {
        there(errand);
        back(errand);
        return;
    }
    task_init(&errand->task, elsewhere, is_there);
    loop_post(&errand->task);
}
