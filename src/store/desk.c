/* Answers to the loops that wait for them. What finishes a request holds the store's lock, and may be on any thread; the callback runs on
 * the loop that asked, without it. */
#include "store/store_impl.h"

#include "base/check.h"

static void desk_run(struct task *task)
{
    struct store_desk *desk = CONTAINER_OF(task, struct store_desk, task);
    struct list now;
    list_init(&now);
    store_lock(desk->store);
    desk->called = false;
    list_move_all(&now, &desk->answers);
    store_unlock(desk->store);
    for (struct list *at; (at = list_pop_front(&now)) != NULL;) { /* what is taken back meanwhile leaves this list, on this thread */
        struct store_answer *answer = CONTAINER_OF(at, struct store_answer, link);
        answer->tell(answer);
    }
}

void store_desk_init(struct store_desk *desk, struct store *store, struct loop *loop)
{
    *desk = (struct store_desk){.store = store, .loop = loop};
    list_init(&desk->answers);
    task_init(&desk->task, loop, desk_run);
}

void answer_init(struct store_answer *answer, struct store_desk *desk, void (*tell)(struct store_answer *answer))
{
    *answer = (struct store_answer){.desk = desk, .tell = tell};
    list_init(&answer->link);
}

void answer_give(struct store_answer *answer, int outcome)
{
    struct store_desk *desk = answer->desk;
    CHECK(loop_is_mine(desk->store->loop) && list_empty(&answer->link));
    answer->outcome = outcome;
    list_push_back(&desk->answers, &answer->link);
    if (desk->called)
        return;
    desk->called = true;
    if (desk->loop == desk->store->loop)
        task_post(&desk->task);
    else
        loop_post(&desk->task);
}

bool answer_take_back(struct store_answer *answer)
{
    bool given = !list_empty(&answer->link);
    CHECK(loop_is_mine(answer->desk->store->loop));
    list_remove(&answer->link);
    return given;
}
