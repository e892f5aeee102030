/* Who is a member, tried in a small world of its own: 1 to 7 nodes, one file system, a virtual clock, all by a seed.
 *
 * Messages are late or lost, nodes are cut from each other and from the file system, the file system stalls for all, names are stale,
 * writes come late, processes are stopped, killed, started again with a new incarnation, on another host, too; clocks run 5 % fast or slow.
 * The judge looks at all nodes at once: what no node could know.
 *
 * KVD_MEMBER_SEEDS=FROM-TO tries others; KVD_MEMBER_TRACE=1 tells what happens.
 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/member.h"

enum {
    IDS = 7,
    PROCESSES = 2 * IDS, /* of each id one on its own host, and one on another */
    KEYS = 32,
    VIEWS = 4096,
    STARTS = 1024,
    TASKS_MAX = 1 << 14,
    MS = 1000,
    SECOND = 1000 * MS,
    LEASE = SECOND,
    SUSPECT = 750 * MS,
    DEAD_AFTER = 8 * SECOND,
    NAME_STALE = 5 * SECOND,
};

/* ---- planted bugs ---- */

enum bug { PLANT_NONE, PLANT_NO_WAIT, PLANT_NO_DRIFT, PLANT_LEASE_FROM_END, PLANT_PROMISE_BROKEN, PLANT_KEEPS };
static enum bug planted;

uint64_t __real_rule_wait_us(uint64_t lease_us);
uint64_t __wrap_rule_wait_us(uint64_t lease_us);
uint64_t __wrap_rule_wait_us(uint64_t lease_us)
{
    if (planted == PLANT_NO_WAIT && lease_us == LEASE)
        return 0;
    if (planted == PLANT_NO_DRIFT && lease_us == LEASE)
        return lease_us;
    return __real_rule_wait_us(lease_us);
}

uint64_t __real_rule_lease_end(uint64_t asked_us, uint64_t granted_us, uint64_t lease_us);
uint64_t __wrap_rule_lease_end(uint64_t asked_us, uint64_t granted_us, uint64_t lease_us);
uint64_t __wrap_rule_lease_end(uint64_t asked_us, uint64_t granted_us, uint64_t lease_us)
{
    return __real_rule_lease_end(planted == PLANT_LEASE_FROM_END ? granted_us : asked_us, granted_us, lease_us);
}

bool __real_rule_may_promise(uint64_t known, uint64_t attempted, uint64_t asked);
bool __wrap_rule_may_promise(uint64_t known, uint64_t attempted, uint64_t asked);
bool __wrap_rule_may_promise(uint64_t known, uint64_t attempted, uint64_t asked)
{
    return planted == PLANT_PROMISE_BROKEN || __real_rule_may_promise(known, attempted, asked);
}

void __real_rivals_add(struct rivals *rivals, const struct view *view);
void __wrap_rivals_add(struct rivals *rivals, const struct view *view);
void __wrap_rivals_add(struct rivals *rivals, const struct view *view)
{
    if (planted != PLANT_KEEPS)
        __real_rivals_add(rivals, view);
}

/* ---- the world ---- */

enum task_kind { TASK_TICK, TASK_APPLY, TASK_DONE, TASK_REQUEST, TASK_ANSWER, TASK_SENT, TASK_FAULT };

struct message {
    struct beat beat; /* its view by number alone */
    uint64_t view_number;
    int to;
    char to_id[NODE_ID_MAX + 1];
};

struct file_task {
    enum member_act act;
    uint64_t number, started_us; /* by the node's clock */
    uint64_t started_real_us;
    struct alive alive; /* to write, or read */
    char id[NODE_ID_MAX + 1];
    enum member_found found;
    enum member_linked linked;
    uint64_t found_number;
    bool failed; /* as the node is told */
    bool no_report;
    bool applied; /* and the node does not know yet */
    enum member_alive_result alive_result;
    enum member_claimed claimed;
};

struct task {
    uint64_t at_us, order;
    enum task_kind kind;
    int who, life;
    struct message *message;
    struct file_task *file;
    enum member_sent sent;
};

struct process {
    bool up, stopped;
    int life, id, host;
    struct member *member;
    double rate;
    uint64_t clock_base_us, clock_real_us;
    uint64_t stopped_until_us;
    uint64_t ceiling;
    struct view link_view;
    uint64_t told; /* what the judge saw last */
};

struct ack {
    int id;
    struct incarnation incarnation;
    uint64_t view;
};

struct world {
    uint64_t now_us, order, random;
    struct task heap[TASKS_MAX];
    size_t tasks;
    int ids;
    struct process processes[PROCESSES];

    struct view *names[VIEWS]; /* views/<n> */
    uint64_t name_made_us[VIEWS];
    uint64_t slots[VIEW_RING_SLOTS];
    bool garbled[VIEW_RING_SLOTS];
    struct alive alive[IDS];
    bool alive_there[IDS];
    struct claim {
        int by; /* the process's place, and so the host, and 1 */
        bool former_dead;
    } claims[IDS][STARTS];
    uint64_t newest;

    bool cut[PROCESSES][PROCESSES], fs_cut[PROCESSES], stalled, faults;
    int loss_percent, slow_percent;
    struct ack *acks;
    size_t ack_count, ack_room;
    uint64_t keys[KEYS];
    uint64_t shared_views; /* effective */
    bool trace;
    char wrong[256];
};

static uint64_t next_random(struct world *w)
{
    w->random += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = w->random;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t below(struct world *w, uint64_t n)
{
    return next_random(w) % n;
}

static bool chance(struct world *w, unsigned percent)
{
    return below(w, 100) < percent;
}

__attribute__((format(printf, 2, 3))) static void wrong(struct world *w, const char *format, ...)
{
    if (w->wrong[0])
        return;
    int n = snprintf(w->wrong, sizeof w->wrong, "%.3f s: ", (double)w->now_us / SECOND);
    va_list args;
    va_start(args, format);
    vsnprintf(w->wrong + n, sizeof w->wrong - (size_t)n, format, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void tell(const struct world *w, const char *format, ...)
{
    if (!w->trace)
        return;
    printf("%9.3f  ", (double)w->now_us / SECOND);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

/* ---- tasks, soonest first ---- */

static bool sooner(const struct task *a, const struct task *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void task_add(struct world *w, struct task task, uint64_t after_us)
{
    cr_assert(w->tasks < TASKS_MAX);
    task.at_us = w->now_us + after_us;
    task.order = w->order++;
    size_t i = w->tasks++;
    for (; i > 0 && sooner(&task, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = task;
}

static struct task task_take(struct world *w)
{
    struct task first = w->heap[0], last = w->heap[--w->tasks];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->tasks)
            break;
        if (child + 1 < w->tasks && sooner(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!sooner(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return first;
}

/* ---- clocks ---- */

static uint64_t clock_us(const struct world *w, const struct process *p)
{
    return p->clock_base_us + (uint64_t)((double)(w->now_us - p->clock_real_us) * p->rate);
}

static void clock_drifts(struct world *w, struct process *p)
{
    p->clock_base_us = clock_us(w, p);
    p->clock_real_us = w->now_us;
    static const double rates[] = {0.95, 1.05, 1.0, 0.97, 1.03};
    p->rate = rates[below(w, 5)];
}

/* ---- the judge ---- */

static bool acts(const struct world *w, const struct process *p)
{
    return p->up && member_may_act(p->member, clock_us(w, p));
}

static void judge_owners(struct world *w)
{
    int owner_of[KEYS];
    memset(owner_of, -1, sizeof owner_of);
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *p = &w->processes[i];
        if (!acts(w, p))
            continue;
        for (int k = 0; k < KEYS; k++) {
            if (!member_serves(p->member, clock_us(w, p), w->keys[k]))
                continue;
            if (owner_of[k] >= 0)
                wrong(w, "C4: processes %d (effective %lu) and %d (effective %lu) both serve a key", owner_of[k],
                      (unsigned long)w->processes[owner_of[k]].member->effective, i, (unsigned long)p->member->effective);
            owner_of[k] = i;
        }
    }
}

static bool was_acknowledged(const struct world *w, const struct node_name *name, uint64_t view)
{
    for (size_t i = w->ack_count; i-- > 0;)
        if (w->acks[i].view == view && w->acks[i].id == name->id[1] - '0' && incarnation_equal(w->acks[i].incarnation, name->incarnation))
            return true;
    return false;
}

static void judge_effective(struct world *w, const struct process *p)
{
    const struct view *view = &p->member->known;
    for (uint32_t i = 0; i < view->count; i++)
        if (!was_acknowledged(w, &view->members[i], view->number))
            wrong(w, "C3: view %lu is effective, %s has not acknowledged it", (unsigned long)view->number, view->members[i].id);
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *other = &w->processes[i];
        const struct node_name *name = other->member ? &other->member->options.name : NULL;
        if (acts(w, other) && other->member->effective < view->number && !view_has(view, name->id, name->incarnation))
            wrong(w, "C2: view %lu is effective without process %d, which acts for view %lu", (unsigned long)view->number, i,
                  (unsigned long)other->member->effective);
    }
}

static void judge_known(struct world *w, const struct process *p)
{
    const struct view *known = &p->member->known;
    if (known->number == 0)
        return;
    uint8_t a[VIEW_BYTES], b[VIEW_BYTES];
    cr_assert_eq(view_build(a, span_text("sim"), known), 0);
    cr_assert_eq(view_build(b, span_text("sim"), w->names[known->number]), 0);
    if (memcmp(a, b, VIEW_BYTES) != 0)
        wrong(w, "C1: process %d knows another view %lu", p->id, (unsigned long)known->number);
}

/* After each thing that happened to a process: is what it is now allowed beside what all others are? */
static void judge(struct world *w, struct process *p)
{
    const struct member *m = p->member;
    uint64_t told = m->known.number << 32 ^ m->acknowledged << 16 ^ m->effective << 4 ^ (uint64_t)m->phase << 1 ^ acts(w, p);
    if (told == p->told)
        return;
    if (m->acknowledged > 0 && !was_acknowledged(w, &m->options.name, m->acknowledged)) {
        if (w->ack_count == w->ack_room) {
            w->ack_room = w->ack_room ? 2 * w->ack_room : 256;
            w->acks = realloc(w->acks, w->ack_room * sizeof w->acks[0]);
            cr_assert(w->acks);
        }
        w->acks[w->ack_count++] = (struct ack){p->id, m->options.name.incarnation, m->acknowledged};
    }
    tell(w, "process %d (n%d start %lu): phase %d knows %lu acknowledged %lu effective %lu%s %s", (int)(p - w->processes), p->id,
         (unsigned long)m->options.name.incarnation.start, m->phase, (unsigned long)m->known.number, (unsigned long)m->acknowledged,
         (unsigned long)m->effective, m->in_effective ? "" : " (not in it)", acts(w, p) ? "ACTS" : "fenced");
    judge_known(w, p);
    if (m->in_effective && m->effective == m->known.number && m->phase == MEMBER_INSIDE) {
        judge_effective(w, p);
        w->shared_views = max_u64(w->shared_views, m->effective);
    }
    judge_owners(w);
    p->told = told;
}

static void judge_published(struct world *w, const struct view *view)
{
    const struct view *before = view->number > 1 ? w->names[view->number - 1] : NULL;
    if (view->number > 1 && !before)
        wrong(w, "view %lu is published before the one before it", (unsigned long)view->number);
    if (before && view->floor < before->floor + VIEW_FLOOR_STEP)
        wrong(w, "C5: the floor of view %lu does not grow enough", (unsigned long)view->number);
    for (uint32_t i = 0; i < view->count; i++) {
        const struct node_name *name = &view->members[i];
        if (before && view_has(before, name->id, name->incarnation))
            continue;
        for (int k = 0; k < PROCESSES; k++) {
            const struct process *p = &w->processes[k];
            if (p->up && p->id == name->id[1] - '0' && incarnation_equal(p->member->options.name.incarnation, name->incarnation) &&
                view->floor <= p->ceiling)
                wrong(w, "C5: the floor of view %lu is not above the ceiling of %s", (unsigned long)view->number, name->id);
        }
    }
}

/* ---- the file system ---- */

static bool fs_answers(const struct world *w, const struct process *p)
{
    return !w->stalled && !w->fs_cut[p->host];
}

static uint64_t file_delay(struct world *w)
{
    if (w->faults && chance(w, (unsigned)w->slow_percent))
        return below(w, 2 * SECOND);
    return 1 * MS + below(w, 8 * MS);
}

static void file_apply(struct world *w, struct process *p, struct file_task *file);

/* Who publishes a view is cut off from all with somebody whom it leaves out, after it has written and before he knows. */
static void cut_off_publisher(struct world *w, int who, struct file_task *file)
{
    struct process *p = &w->processes[who];
    int other = -1;
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *q = &w->processes[i];
        const struct node_name *name = q->member ? &q->member->options.name : NULL;
        if (i != who && acts(w, q) && !view_has(&p->member->try_view, name->id, name->incarnation))
            other = i;
    }
    if (other < 0 || !fs_answers(w, p))
        return;
    file_apply(w, p, file);
    file->applied = true;
    for (int i = 0; i < PROCESSES; i++)
        w->cut[i][who] = w->cut[who][i] = w->cut[i][other] = w->cut[other][i] = true;
    w->cut[who][other] = w->cut[other][who] = false;
    w->fs_cut[who] = w->fs_cut[other] = true;
    tell(w, "%d, who publishes, is cut off with %d", who, other);
}

static void file_start(struct world *w, int who, const struct member_action *action)
{
    struct process *p = &w->processes[who];
    struct file_task *file = calloc(1, sizeof *file);
    cr_assert(file);
    *file = (struct file_task){.act = action->act, .number = action->number, .alive = action->alive};
    file->started_us = clock_us(w, p);
    file->started_real_us = w->now_us;
    if (action->act == MEMBER_READ_ALIVE)
        memcpy(file->id, action->to->id, sizeof file->id);
    if (action->act == MEMBER_LINK)
        p->link_view = *action->view;
    if (action->act == MEMBER_WRITE_SLOT) {
        uint8_t a[VIEW_BYTES], b[VIEW_BYTES];
        cr_assert_eq(view_build(a, span_text("sim"), action->view), 0);
        if (!w->names[action->number] || view_build(b, span_text("sim"), w->names[action->number]) || memcmp(a, b, VIEW_BYTES) != 0)
            wrong(w, "C1: process %d writes a slot %lu that was not published", who, (unsigned long)action->number);
    }
    if (w->faults && (action->act == MEMBER_LINK || action->act == MEMBER_WRITE_SLOT) && chance(w, 10))
        cut_off_publisher(w, who, file);
    task_add(w, (struct task){.kind = TASK_APPLY, .who = who, .life = p->life, .file = file}, file_delay(w));
}

static void read_slot(const struct world *w, uint64_t number, struct file_task *file)
{
    size_t slot = number % VIEW_RING_SLOTS;
    file->found_number = w->slots[slot];
    file->found = w->garbled[slot] ? FOUND_GARBLED : w->slots[slot] ? FOUND_VIEW : FOUND_NOTHING;
}

static void link_apply(struct world *w, const struct process *p, struct file_task *file)
{
    cr_assert(file->number < VIEWS);
    if (w->names[file->number]) {
        file->linked = LINK_TAKEN;
        return;
    }
    struct view *view = malloc(sizeof *view);
    cr_assert(view);
    *view = p->link_view;
    judge_published(w, view);
    w->names[file->number] = view;
    w->name_made_us[file->number] = w->now_us;
    w->newest = max_u64(w->newest, file->number);
    file->linked = LINKED;
    if (w->trace) {
        char members[256] = "";
        for (uint32_t i = 0; i < view->count; i++)
            snprintf(members + strlen(members), sizeof members - strlen(members), " %s.%lu", view->members[i].id,
                     (unsigned long)view->members[i].incarnation.start);
        tell(w, "view %lu by %s:%s", (unsigned long)view->number, view->proposer, members);
    }
}

static void alive_apply(struct world *w, const struct process *p, struct file_task *file)
{
    /* It is read before it is written. */
    bool later = incarnation_before(file->alive.name.incarnation, w->alive[p->id].name.incarnation);
    file->alive_result = w->alive_there[p->id] && later ? ALIVE_REPLACED : ALIVE_WRITTEN;
    if (file->alive_result == ALIVE_REPLACED)
        return;
    w->alive[p->id] = file->alive;
    w->alive_there[p->id] = true;
}

static void claim_apply(struct world *w, int who, struct file_task *file)
{
    cr_assert(file->number < STARTS);
    struct claim *claim = &w->claims[w->processes[who].id][file->number];
    file->claimed = claim->by && claim->by != who + 1 ? CLAIM_TAKEN : CLAIMED;
    if (!claim->by)
        *claim = (struct claim){who + 1, w->processes[who].member->options.former_dead};
}

/* The moment at which it takes effect. */
static void file_apply(struct world *w, struct process *p, struct file_task *file)
{
    int id = file->id[0] ? file->id[1] - '0' : 0;
    switch (file->act) {
    case MEMBER_READ_RING:
        file->found = FOUND_NOTHING;
        for (size_t i = 0; i < VIEW_RING_SLOTS; i++)
            if (!w->garbled[i] && w->slots[i] > file->found_number)
                file->found_number = w->slots[i];
        file->found = file->found_number ? FOUND_VIEW : FOUND_NOTHING;
        break;
    case MEMBER_READ_SLOT:
        read_slot(w, file->number, file);
        break;
    case MEMBER_READ_VIEW:
        file->found = FOUND_NOTHING;
        file->found_number = file->number;
        if (w->names[file->number] && (w->now_us - w->name_made_us[file->number] > NAME_STALE || chance(w, 50)))
            file->found = FOUND_VIEW;
        break;
    case MEMBER_LINK:
        link_apply(w, p, file);
        break;
    case MEMBER_WRITE_SLOT:
        w->slots[file->number % VIEW_RING_SLOTS] = file->number;
        w->garbled[file->number % VIEW_RING_SLOTS] = false;
        break;
    case MEMBER_WRITE_ALIVE:
        alive_apply(w, p, file);
        break;
    case MEMBER_READ_ALIVE:
        file->failed = !w->alive_there[id];
        file->alive = w->alive[id];
        break;
    case MEMBER_CLAIM:
        claim_apply(w, (int)(p - w->processes), file);
        break;
    case MEMBER_SEND:
        cr_assert(false, "no file operation");
    }
}

static bool writes(const struct file_task *file)
{
    return file->act == MEMBER_LINK || file->act == MEMBER_WRITE_SLOT || file->act == MEMBER_WRITE_ALIVE;
}

/* What was on its way when its process was killed may take effect, now or later; a slot may be cut short. */
static void orphan_apply(struct world *w, struct task *task)
{
    struct process *p = &w->processes[task->who];
    struct file_task *file = task->file;
    if (!file->applied && writes(file) && !(file->act == MEMBER_LINK && p->life != task->life) && chance(w, 50)) {
        if (!file->no_report && chance(w, 50)) {
            file->no_report = true;
            task_add(w, *task, below(w, 20 * SECOND));
            return;
        }
        if (file->act == MEMBER_WRITE_SLOT && !w->slots[file->number % VIEW_RING_SLOTS] && chance(w, 30))
            w->garbled[file->number % VIEW_RING_SLOTS] = true;
        else
            file_apply(w, p, file);
    }
    free(file);
}

static void file_report(struct world *w, struct process *p, const struct file_task *file)
{
    struct member *m = p->member;
    uint64_t now_us = clock_us(w, p);
    const struct view *view = file->found == FOUND_VIEW ? w->names[file->found_number] : NULL;
    enum member_found found = file->failed ? FOUND_ERROR : file->found;
    view = file->failed ? NULL : view;
    switch (file->act) {
    case MEMBER_READ_RING:
        member_ring_read(m, now_us, found, view);
        break;
    case MEMBER_READ_SLOT:
        member_slot_read(m, now_us, file->started_us, found, view);
        break;
    case MEMBER_READ_VIEW:
        member_view_read(m, now_us, found, view);
        break;
    case MEMBER_LINK:
        member_linked(m, now_us, file->failed ? LINK_UNKNOWN : file->linked);
        break;
    case MEMBER_WRITE_SLOT:
        member_slot_written(m, now_us, !file->failed);
        break;
    case MEMBER_WRITE_ALIVE:
        member_alive_written(m, now_us, file->started_us, file->failed ? ALIVE_FAILED : file->alive_result);
        break;
    case MEMBER_READ_ALIVE:
        member_alive_read(m, now_us, file->started_us, file->id, file->failed ? NULL : &file->alive);
        break;
    case MEMBER_CLAIM:
        /* One that failed and has taken effect: its name says whose it is. */
        member_claimed(m, now_us, file->failed ? CLAIM_FAILED : file->claimed, next_random(w), p->ceiling += below(w, 1000));
        break;
    case MEMBER_SEND:
        cr_assert(false, "no file operation");
    }
}

/* ---- messages ---- */

static uint64_t message_delay(struct world *w)
{
    if (w->faults && chance(w, (unsigned)w->slow_percent))
        return below(w, SECOND);
    return 100 + below(w, 5 * MS);
}

static bool is_cut(struct world *w, int a, int b)
{
    return w->cut[a][b] || (w->faults && chance(w, (unsigned)w->loss_percent));
}

static void send_to(struct world *w, int who, const struct member_action *action)
{
    struct process *p = &w->processes[who];
    struct message *message = calloc(1, sizeof *message);
    cr_assert(message);
    message->beat = action->beat;
    message->view_number = action->beat.view ? action->beat.view->number : 0;
    message->to = atoi(strchr(action->to->address, ':') + 1);
    memcpy(message->to_id, action->to->id, sizeof message->to_id);
    task_add(w, (struct task){.kind = TASK_REQUEST, .who = who, .life = p->life, .message = message}, message_delay(w));
}

static const struct beat *beat_of(const struct world *w, struct message *message)
{
    message->beat.view = message->view_number ? w->names[message->view_number] : NULL;
    return &message->beat;
}

/* ---- processes ---- */

static void drive(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    struct member_action action;
    while (member_next(p->member, &action)) {
        if (action.act == MEMBER_SEND) {
            send_to(w, who, &action);
        } else {
            file_start(w, who, &action);
        }
    }
    judge(w, p);
}

/* Claim the next start. Those before it are dead if they were on this host, whose lock tells, or if one of them knew. */
static uint64_t claim_start(struct world *w, int who, bool *former_dead)
{
    const struct process *p = &w->processes[who];
    const struct alive *alive = &w->alive[p->id];
    uint64_t start = w->alive_there[p->id] ? alive->name.incarnation.start + 1 : 1;
    bool dead = start == 1 || (alive->former_dead && w->claims[p->id][start - 1].by == who + 1);
    for (; w->claims[p->id][start].by; start++)
        dead = dead && w->claims[p->id][start].by == who + 1;
    w->claims[p->id][start] = (struct claim){who + 1, dead};
    *former_dead = dead;
    return start;
}

static void process_start(struct world *w, int who)
{
    struct process *p = &w->processes[who];
    const struct alive *before = w->alive_there[p->id] ? &w->alive[p->id] : NULL;
    p->up = true;
    p->stopped = false;
    p->life++;
    p->clock_base_us = below(w, 1000) * SECOND;
    p->clock_real_us = w->now_us;
    p->rate = 1;
    clock_drifts(w, p);
    if (!p->member)
        p->member = malloc(sizeof *p->member);
    cr_assert(p->member);
    if (before)
        p->ceiling += below(w, UINT64_C(1) << 45);
    struct member_options options = {
        .ceiling = p->ceiling,
        .lease_us = LEASE,
        .suspect_us = SUSPECT,
        .dead_after_us = DEAD_AFTER,
    };
    options.name.incarnation = (struct incarnation){claim_start(w, who, &options.former_dead), next_random(w)};
    snprintf(options.name.id, sizeof options.name.id, "n%d", p->id);
    snprintf(options.name.address, sizeof options.name.address, "sim:%d", who);
    member_init(p->member, &options, clock_us(w, p));
    tell(w, "process %d (n%d start %lu) begins%s", who, p->id, (unsigned long)options.name.incarnation.start,
         options.former_dead ? ", those before it are dead" : "");
    task_add(w, (struct task){.kind = TASK_TICK, .who = who, .life = p->life}, 0);
}

static void process_kill(struct world *w, int who)
{
    tell(w, "process %d is killed", who);
    w->processes[who].up = false;
    w->processes[who].life++;
}

/* The process that the other place of its id holds. */
static struct process *twin_of(struct world *w, int who)
{
    return &w->processes[who < IDS ? who + IDS : who - IDS];
}

/* May a process of this id start at this place: does nobody renew, as far as one can see? */
static void maybe_start(struct world *w, int who)
{
    struct process *p = &w->processes[who], *twin = twin_of(w, who);
    if (p->up || !fs_answers(w, p))
        return;
    if (twin->up && acts(w, twin))
        return;
    if (twin->up && fs_answers(w, twin) && !twin->stopped)
        return;
    process_start(w, who);
}

/* ---- faults ---- */

static void heal(struct world *w)
{
    memset(w->cut, 0, sizeof w->cut);
    memset(w->fs_cut, 0, sizeof w->fs_cut);
    w->stalled = false;
}

static void cut_in_two(struct world *w)
{
    uint64_t side = next_random(w);
    for (int a = 0; a < PROCESSES; a++)
        for (int b = 0; b < PROCESSES; b++)
            w->cut[a][b] = (side >> a & 1) != (side >> b & 1);
    tell(w, "the net falls in two");
}

static void one_fault(struct world *w)
{
    int who = (int)below(w, (uint64_t)w->ids);
    if (chance(w, 10))
        who += IDS;
    struct process *p = &w->processes[who];
    switch (below(w, 14)) {
    case 0:
        cut_in_two(w);
        break;
    case 1:
        w->fs_cut[who] = !w->fs_cut[who];
        tell(w, "host %d and the file system: %s", who, w->fs_cut[who] ? "cut" : "joined");
        break;
    case 2:
        w->stalled = !w->stalled && chance(w, 50);
        tell(w, "the file system %s", w->stalled ? "stalls" : "answers");
        break;
    case 3:
    case 4:
        if (p->up)
            process_kill(w, who);
        break;
    case 5:
    case 6:
    case 7:
        maybe_start(w, who);
        break;
    case 8:
        if (p->up && !p->stopped) {
            p->stopped = true;
            p->stopped_until_us = w->now_us + below(w, chance(w, 20) ? 12 * SECOND : 3 * SECOND);
            tell(w, "process %d stops until %.3f", who, (double)p->stopped_until_us / SECOND);
        }
        break;
    case 9: {
        int other = (int)below(w, (uint64_t)w->ids);
        w->cut[who][other] = !w->cut[who][other];
        if (chance(w, 70))
            w->cut[other][who] = w->cut[who][other];
        tell(w, "%d to %d: %s", who, other, w->cut[who][other] ? "cut" : "joined");
        break;
    }
    case 10:
        if (p->up && !p->stopped) {
            tell(w, "process %d leaves", who);
            member_leave(p->member, clock_us(w, p));
            drive(w, who);
        }
        break;
    case 11:
        if (p->up)
            clock_drifts(w, p);
        break;
    case 12:
        heal(w);
        tell(w, "all is joined");
        break;
    default:
        w->loss_percent = chance(w, 50) ? 0 : (int)below(w, 30);
        w->slow_percent = chance(w, 50) ? 0 : (int)below(w, 20);
    }
}

/* ---- one run ---- */

static void do_request(struct world *w, struct task *task)
{
    struct message *message = task->message;
    int who = task->who, to_who = message->to;
    struct process *to = &w->processes[to_who];
    struct task end = *task;
    end.kind = TASK_SENT;
    end.sent = SENT_LOST;
    if (is_cut(w, who, to_who)) {
        task_add(w, end, SECOND);
        return;
    }
    if (!to->up) {
        end.sent = SENT_REFUSED;
        task_add(w, end, message_delay(w));
        return;
    }
    struct beat answer;
    member_hear(to->member, clock_us(w, to), beat_of(w, message));
    bool answers = member_answer(to->member, clock_us(w, to), message->beat.from.id, &answer);
    if (answers && !is_cut(w, to_who, who)) {
        message->beat = answer;
        message->view_number = answer.view ? answer.view->number : 0;
        end.kind = TASK_ANSWER;
        task_add(w, end, message_delay(w));
    } else {
        task_add(w, end, SECOND);
    }
    drive(w, to_who);
}

static void file_done(struct world *w, struct task *task)
{
    struct process *p = &w->processes[task->who];
    file_report(w, p, task->file);
    free(task->file);
    drive(w, task->who);
}

static void do_apply(struct world *w, struct task *task)
{
    struct process *p = &w->processes[task->who];
    if (!p->up || p->life != task->life) {
        orphan_apply(w, task);
        return;
    }
    if (!fs_answers(w, p)) {
        /* It hangs; or fails after a while, and may take effect all the same. */
        if (w->now_us - task->file->started_real_us > SECOND && chance(w, 5)) {
            task->file->failed = true;
            if (!task->file->applied && writes(task->file) && chance(w, 50))
                file_apply(w, p, task->file);
            struct task done = *task;
            done.kind = TASK_DONE;
            task_add(w, done, MS);
            return;
        }
        task_add(w, *task, 50 * MS + below(w, 50 * MS));
        return;
    }
    if (!task->file->applied)
        file_apply(w, p, task->file);
    struct task done = *task;
    done.kind = TASK_DONE;
    if (w->faults && chance(w, 2))
        task->file->failed = true;
    task_add(w, done, file_delay(w));
}

static void drop(struct task *task)
{
    free(task->message);
    free(task->file);
}

static void do_task(struct world *w, struct task *task)
{
    if (task->kind == TASK_FAULT) {
        one_fault(w);
        return;
    }
    struct process *p = &w->processes[task->who];
    if (task->kind == TASK_APPLY) {
        do_apply(w, task);
        return;
    }
    struct process *at = task->kind == TASK_REQUEST ? &w->processes[task->message->to] : p;
    if (p->life != task->life && task->kind != TASK_REQUEST) {
        drop(task);
        return;
    }
    if (at->up && at->stopped) {
        if (w->now_us < at->stopped_until_us) {
            task_add(w, *task, at->stopped_until_us - w->now_us);
            return;
        }
        at->stopped = false;
    }
    switch (task->kind) {
    case TASK_TICK:
        member_tick(p->member, clock_us(w, p));
        drive(w, task->who);
        task_add(w, *task, member_tick_us(p->member));
        break;
    case TASK_REQUEST:
        do_request(w, task);
        break;
    case TASK_ANSWER:
        member_hear(p->member, clock_us(w, p), beat_of(w, task->message));
        member_sent(p->member, clock_us(w, p), task->message->to_id, SENT_ANSWERED);
        free(task->message);
        drive(w, task->who);
        break;
    case TASK_SENT:
        member_sent(p->member, clock_us(w, p), task->message->to_id, task->sent);
        free(task->message);
        drive(w, task->who);
        break;
    case TASK_DONE:
        file_done(w, task);
        break;
    case TASK_APPLY:
    case TASK_FAULT:
        break;
    }
}

static void run_until(struct world *w, uint64_t end_us)
{
    while (w->tasks > 0 && w->heap[0].at_us <= end_us && !w->wrong[0]) {
        struct task task = task_take(w);
        w->now_us = task.at_us;
        do_task(w, &task);
    }
    if (w->now_us < end_us)
        w->now_us = end_us;
}

/* All who are up are in one view, and act for it. */
static bool is_settled(const struct world *w)
{
    uint32_t up = 0;
    const struct member *first = NULL;
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *p = &w->processes[i];
        if (!p->up)
            continue;
        up++;
        if (!first)
            first = p->member;
        if (!acts(w, p) || p->member->effective != first->known.number || p->member->known.number != first->known.number)
            return false;
    }
    return !first || first->known.count == up;
}

static void faults_end(struct world *w)
{
    w->faults = false;
    heal(w);
    tell(w, "faults end");
    for (int i = 0; i < PROCESSES; i++) {
        struct process *p = &w->processes[i];
        p->stopped = false;
        if (p->up && (p->member->phase == MEMBER_LEFT || p->member->phase == MEMBER_REPLACED))
            process_kill(w, i);
    }
    for (int i = 0; i < IDS; i++) {
        struct process *p = &w->processes[i], *twin = &w->processes[i + IDS];
        if (i < w->ids && !p->up && !twin->up && chance(w, 70))
            maybe_start(w, i);
    }
}

/* Those that find out that another start of theirs is about end; where both do, nobody is left, and somebody starts one. */
static void reap(struct world *w)
{
    for (int i = 0; i < PROCESSES; i++) {
        struct process *p = &w->processes[i];
        if (p->up && p->member->phase == MEMBER_REPLACED)
            process_kill(w, i);
    }
}

static const char *world_run(struct world *w, uint64_t seed, char *out, size_t len)
{
    w->random = seed;
    w->ids = 1 + (int)below(w, IDS);
    w->faults = true;
    w->now_us = SECOND;
    for (int k = 0; k < KEYS; k++)
        w->keys[k] = next_random(w);
    for (int i = 0; i < PROCESSES; i++) {
        w->processes[i].id = i % IDS;
        w->processes[i].host = i;
        w->processes[i].ceiling = below(w, 4) ? 0 : below(w, UINT64_C(1) << 50);
        if (i < w->ids && chance(w, 80))
            process_start(w, i);
    }
    uint64_t end_us = 40 * SECOND, at_us = SECOND;
    uint64_t calm = 50 * MS + below(w, 3 * SECOND);
    while ((at_us += below(w, 2 * calm)) < end_us)
        task_add(w, (struct task){.kind = TASK_FAULT}, at_us - w->now_us);
    run_until(w, end_us);
    faults_end(w);
    uint64_t limit_us = w->now_us + 3 * DEAD_AFTER + 30 * SECOND;
    while (!w->wrong[0] && w->now_us < limit_us) {
        run_until(w, w->now_us + SECOND);
        reap(w);
        if (is_settled(w))
            break;
    }
    for (int i = 0; i < PROCESSES && w->trace; i++) {
        const struct process *p = &w->processes[i];
        if (p->up)
            tell(w, "process %d (n%d start %lu): phase %d, knows %lu, sure %d, alive %d, anew %d, slot busy %d, file busy %d, try %d", i,
                 p->id, (unsigned long)p->member->options.name.incarnation.start, p->member->phase, (unsigned long)p->member->known.number,
                 p->member->absent_us > 0, p->member->alive_once, p->member->start_anew, p->member->slot.busy, p->member->file.busy,
                 p->member->try);
    }
    if (!w->wrong[0] && !is_settled(w))
        wrong(w, "not settled, long after the faults ended");
    if (w->wrong[0])
        snprintf(out, len, "seed %lu: %s", (unsigned long)seed, w->wrong);
    return w->wrong[0] ? out : NULL;
}

struct totals {
    uint64_t views, effective;
};

static const char *run_seed(uint64_t seed, struct totals *totals, char *out, size_t len)
{
    struct world *w = calloc(1, sizeof *w);
    cr_assert(w);
    w->trace = getenv("KVD_MEMBER_TRACE") != NULL;
    const char *result = world_run(w, seed, out, len);
    totals->views += w->newest;
    totals->effective += w->shared_views;
    for (size_t i = 0; i < w->tasks; i++)
        drop(&w->heap[i]);
    for (size_t i = 0; i < VIEWS; i++)
        free(w->names[i]);
    for (int i = 0; i < PROCESSES; i++)
        free(w->processes[i].member);
    free(w->acks);
    free(w);
    return result;
}

static void run_seeds(uint64_t from, uint64_t to)
{
    struct totals totals = {0};
    char text[320];
    unsigned failed = 0;
    for (uint64_t seed = from; seed <= to; seed++) {
        const char *result = run_seed(seed, &totals, text, sizeof text);
        if (result && failed++ < 10)
            fprintf(stderr, "%s\n", result);
    }
    if (getenv("KVD_MEMBER_SEEDS"))
        fprintf(stderr, "%lu views published\n", (unsigned long)totals.views);
    cr_assert_eq(failed, 0, "%u seeds failed", failed);
    cr_assert_gt(totals.views, to - from);
}

Test(member, seeds, .timeout = 3600)
{
    uint64_t from = 1, to = 300;
    const char *wanted = getenv("KVD_MEMBER_SEEDS");
    if (wanted && sscanf(wanted, "%lu-%lu", &from, &to) == 1)
        to = from;
    run_seeds(from, to);
}

/* Found by this seed: it was taken in and left out for ever, 333 times. */
Test(member, who_dies_right_after_it_was_taken_in_is_not_taken_in_again, .timeout = 600)
{
    run_seeds(33658, 33658);
}

/* The judge finds what breaks the rules. */
static void must_fail(enum bug which)
{
    planted = which;
    char text[320];
    struct totals totals = {0};
    for (uint64_t seed = 1; seed <= 3000; seed++)
        if (run_seed(seed, &totals, text, sizeof text) && !strstr(text, "not settled")) {
            planted = PLANT_NONE;
            if (getenv("KVD_MEMBER_SEEDS"))
                fprintf(stderr, "plant %d: %s\n", which, text);
            return;
        }
    cr_assert(false, "plant %d was not found", which);
}

Test(member, no_wait, .timeout = 600)
{
    must_fail(PLANT_NO_WAIT);
}

Test(member, no_room_for_drift, .timeout = 600)
{
    must_fail(PLANT_NO_DRIFT);
}

Test(member, lease_from_the_end_of_the_read, .timeout = 600)
{
    must_fail(PLANT_LEASE_FROM_END);
}

Test(member, promise_broken, .timeout = 600)
{
    must_fail(PLANT_PROMISE_BROKEN);
}

Test(member, acknowledges_without_giving_up, .timeout = 600)
{
    must_fail(PLANT_KEEPS);
}
