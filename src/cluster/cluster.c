#include "cluster/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "cluster/beat.h"
#include "cluster/files.h"
#include "cluster/peer.h"

enum {
    WATCH_LOOKS = 6, /* a quarter of a lease time apart: a lease time and a half */
    LEAVE_MS = 1500, /* so long others may take to hear that this node leaves */
};

/* To another node. */
struct way {
    struct cluster *cluster;
    struct peer peer;
    struct peer_call beat;
    bool beating; /* `beat` is under way */
    bool denied;  /* the last time */
};

enum stage { STAGE_IDLE, STAGE_BEGIN, STAGE_WATCH, STAGE_FIRST, STAGE_RUN };

struct cluster {
    struct loop *home;
    const struct log *log;
    struct cluster_options options;
    struct cluster_files files;
    struct peer_self self;
    cluster_over_fn over;
    void *arg;
    struct task over_task;
    enum stage stage;
    bool ending;
    struct task *ended;
    uint64_t ceiling;
    uint64_t until_ms; /* of the leaving */
    struct timer tick;
    unsigned ops; /* under way */
    unsigned looks;
    uint8_t host[16];
    struct alive before; /* of the start before, as it was first read */
    bool before_there;
    uint64_t claim_random, claimed_number;
    uint64_t file_failures;
    struct member member;
    bool said_acting;
    enum member_phase said_phase;
    uint64_t said_effective, said_view;
    int said_err; /* of the start; 0: none */
    struct way *ways[MEMBER_PEERS_MAX];
    struct arrivals arrivals;
    struct arena arena;
    struct view heard_view; /* of a beat's answer */
    struct mutex *info_lock;
    struct cluster_info info;
};

static uint64_t now_us(const struct cluster *c)
{
    return loop_boot_us(c->home);
}

static void drive(struct cluster *c);

/* ---- figures ---- */

static struct way *way_to(const struct cluster *c, const char *id)
{
    for (size_t i = 0; i < MEMBER_PEERS_MAX; i++)
        if (c->ways[i] && strcmp(c->ways[i]->peer.id, id) == 0)
            return c->ways[i];
    return NULL;
}

static const char *state_of(const struct cluster *c)
{
    static const char *const phases[] = {[MEMBER_LOOKING] = "looking",
                                         [MEMBER_OUTSIDE] = "outside",
                                         [MEMBER_INSIDE] = "fenced",
                                         [MEMBER_LEFT] = "left",
                                         [MEMBER_REPLACED] = "replaced"};
    if (c->stage != STAGE_RUN)
        return "starting";
    return member_may_act(&c->member, now_us(c)) ? "acting" : phases[c->member.phase];
}

static void add_peer(const struct cluster *c, struct cluster_info *info, const struct node_name *name, const struct peer_state *state)
{
    const struct way *way = way_to(c, name->id);
    struct cluster_peer_info *out = &info->peers[info->count++];
    *out = (struct cluster_peer_info){.start = name->incarnation.start};
    memcpy(out->id, name->id, sizeof out->id);
    memcpy(out->address, name->address, sizeof out->address);
    out->member = view_has(&c->member.known, name->id, name->incarnation);
    out->self = !state;
    out->near = !state || (state->heard && c->member.now_us - state->heard_us < c->member.options.suspect_us);
    out->acting = state ? state->acting && out->near : member_may_act(&c->member, now_us(c));
    out->acknowledged = state ? state->acknowledged : c->member.acknowledged;
    if (!way)
        return;
    const struct peer *peer = &way->peer;
    out->round_trip_us = peer->round_trip_us;
    out->answered = peer->answered;
    out->failures = peer->failures;
    out->late = peer->late;
    out->slow = peer->slow;
    out->sent_bytes = peer_sent_bytes(peer);
    out->received_bytes = peer_received_bytes(peer);
}

static void tell_figures(struct cluster *c)
{
    const struct member *m = &c->member;
    mutex_lock(c->info_lock);
    struct cluster_info *info = &c->info;
    *info = (struct cluster_info){.state = state_of(c), .file_failures = c->file_failures};
    if (c->stage == STAGE_RUN) {
        info->start = m->options.name.incarnation.start;
        info->view = m->known.number;
        info->acknowledged = m->acknowledged;
        info->effective = m->effective;
        info->floor = m->known.floor;
        info->members = m->known.count;
        info->lease_left_ms = member_lease_left_us(m, now_us(c)) / 1000;
        info->renewals_by_file = m->renewals_by_file;
        info->renewals_by_promise = m->renewals_by_promise;
        info->views_published = m->views_published;
        info->left_out = m->left_out;
        add_peer(c, info, &m->options.name, NULL);
        for (uint32_t i = 0; i < m->peer_count; i++)
            add_peer(c, info, &m->peers[i].name, &m->peers[i]);
    }
    mutex_unlock(c->info_lock);
}

void cluster_info(struct cluster *c, struct cluster_info *out)
{
    mutex_lock(c->info_lock);
    *out = c->info;
    mutex_unlock(c->info_lock);
}

/* ---- the end ---- */

static void is_over(struct task *task)
{
    struct cluster *c = CONTAINER_OF(task, struct cluster, over_task);
    c->over(c->arg);
}

static bool all_told(const struct cluster *c)
{
    for (size_t i = 0; i < MEMBER_PEERS_MAX; i++)
        if (c->ways[i] && c->ways[i]->beating)
            return false;
    return c->ops == 0;
}

/* Whoever is waited for has heard, or had his time: let go. */
static void check_end(struct cluster *c)
{
    if (!c->ending || !c->ended || (!all_told(c) && loop_now_ms(c->home) < c->until_ms))
        return;
    bool open = c->ops > 0;
    for (size_t i = 0; i < MEMBER_PEERS_MAX; i++) {
        if (!c->ways[i])
            continue;
        peer_close(&c->ways[i]->peer);
        open |= !peer_is_quiet(&c->ways[i]->peer);
    }
    if (open)
        return;
    timer_stop(&c->tick);
    task_post(c->ended);
    c->ended = NULL;
}

/* ---- news ---- */

static void say_news(struct cluster *c)
{
    const struct member *m = &c->member;
    bool acting = member_may_act(m, now_us(c));
    if (m->known.number != c->said_view)
        log_info(c->log, "view_known", "view=%llu members=%u member=%s", (unsigned long long)m->known.number, m->known.count,
                 m->phase == MEMBER_INSIDE ? "yes" : "no");
    if (m->in_effective && m->effective != c->said_effective)
        log_info(c->log, "view_effective", "view=%llu", (unsigned long long)m->effective);
    if (acting != c->said_acting)
        log_write(c->log, acting || m->phase == MEMBER_LEFT ? LOG_INFO : LOG_WARN, acting ? "lease_begins" : "fenced",
                  "view=%llu start=%llu", (unsigned long long)m->known.number, (unsigned long long)m->options.name.incarnation.start);
    if (m->phase == MEMBER_REPLACED && c->said_phase != MEMBER_REPLACED) {
        log_error(c->log, "node_replaced", "node=%s err=\"another process runs as this node\"", c->options.id);
        task_post(&c->over_task);
    }
    c->said_acting = acting;
    c->said_view = m->known.number;
    c->said_effective = m->in_effective ? m->effective : c->said_effective;
    c->said_phase = m->phase;
}

/* ---- ways to others ---- */

/* False: it is no beat. */
static bool read_beat(struct cluster *c, const char *id, struct span meta, struct beat *beat)
{
    struct msg_beat msg;
    const char *why;
    return msg_decode(msg_reply(OP_BEAT), meta, 0, &c->arena, &msg, &why) == 0 &&
           beat_from_msg(&msg, span_text(c->options.cluster), id, &c->heard_view, beat) == 0;
}

static void beat_ended(struct peer_call *call, int err, enum code code, struct span meta)
{
    struct way *way = CONTAINER_OF(call, struct way, beat);
    struct cluster *c = way->cluster;
    const struct peer *peer = &way->peer;
    struct beat answer;
    bool answered = err == 0 && code == CODE_OK && read_beat(c, peer->id, meta, &answer);
    bool denied = err == KVD_EDENIED || (err == 0 && code == CODE_DENIED);
    way->beating = false;
    if (answered)
        member_hear(&c->member, now_us(c), &answer);
    if (denied && !way->denied)
        log_warn(c->log, "peer_denied", "node=%s addr=%s err=\"it has another token, or is another node\"", peer->id, peer->address);
    way->denied = denied;
    member_sent(&c->member, now_us(c), peer->id, answered ? SENT_ANSWERED : err == -ECONNREFUSED ? SENT_REFUSED : SENT_LOST);
    if (err != KVD_ECLOSING)
        drive(c);
}

static void way_quiet(struct peer *peer)
{
    check_end(peer->owner);
}

/* One that leads to nobody who is a member makes room. NULL: heap, or all are in use. */
static struct way *way_make(struct cluster *c, const char *id)
{
    size_t at = MEMBER_PEERS_MAX;
    for (size_t i = 0; i < MEMBER_PEERS_MAX && at == MEMBER_PEERS_MAX; i++) {
        const struct way *way = c->ways[i];
        if (!way || (peer_is_quiet(&way->peer) && !view_member(&c->member.known, way->peer.id)))
            at = i;
    }
    if (at == MEMBER_PEERS_MAX)
        return NULL;
    if (c->ways[at])
        peer_fini(&c->ways[at]->peer);
    else
        c->ways[at] = malloc(sizeof *c->ways[at]);
    struct way *way = c->ways[at];
    if (!way)
        return NULL;
    way->cluster = c;
    way->beating = false;
    way->denied = false;
    peer_init(&way->peer, &c->self, id, way_quiet, c);
    return way;
}

/* Connections to those who are in no view any more. */
static void close_idle_ways(struct cluster *c)
{
    for (size_t i = 0; i < MEMBER_PEERS_MAX; i++) {
        struct way *way = c->ways[i];
        if (way && way->peer.phase == PEER_READY && way->peer.call_count == 0 && !view_member(&c->member.known, way->peer.id))
            peer_close(&way->peer);
    }
}

static void send_to(struct cluster *c, const struct member_action *action)
{
    struct way *way = way_to(c, action->to->id);
    if (!way)
        way = way_make(c, action->to->id);
    if (way && !way->beating) {
        struct msg_beat msg;
        uint8_t view_bytes[VIEW_BYTES];
        beat_to_msg(&action->beat, span_text(c->options.cluster), view_bytes, &msg);
        c->self.incarnation = action->beat.from.incarnation;
        peer_reach(&way->peer, action->to->address);
        /* A lost one must not be waited for until its sender is suspected. */
        uint64_t timeout_ms = min_u64(c->options.peer_timeout_ms, c->options.suspect_ms / 2);
        way->beating = peer_call_start(&way->peer, &way->beat, OP_BEAT, &msg, timeout_ms, beat_ended) == 0;
        if (way->beating)
            return;
    }
    member_sent(&c->member, now_us(c), action->to->id, SENT_LOST);
}

/* ---- files ---- */

static void tell_member(struct cluster *c, const struct files_op *op)
{
    struct member *m = &c->member;
    const struct view *view = op->found == FOUND_VIEW ? &op->view : NULL;
    uint64_t now = now_us(c);
    if (op->err < 0 && op->err != -EEXIST && op->err != -ENOENT) {
        c->file_failures++;
        log_debug(c->log, "cluster_file", "act=%d view=%llu err=\"%s\"", (int)op->act, (unsigned long long)op->number, error_text(op->err));
    }
    switch (op->act) {
    case MEMBER_READ_RING:
        member_ring_read(m, now, op->found, view);
        break;
    case MEMBER_READ_SLOT:
        member_slot_read(m, now, op->started_us, op->found, view);
        break;
    case MEMBER_READ_VIEW:
        member_view_read(m, now, op->found, view);
        break;
    case MEMBER_LINK:
        member_linked(m, now, op->linked);
        break;
    case MEMBER_WRITE_SLOT:
        member_slot_written(m, now, op->err == 0);
        break;
    case MEMBER_WRITE_ALIVE:
        member_alive_written(m, now, op->started_us, op->alive_result);
        break;
    case MEMBER_READ_ALIVE:
        member_alive_read(m, now, op->started_us, op->id, op->alive_there ? &op->alive : NULL);
        break;
    case MEMBER_CLAIM:
        member_claimed(m, now, op->claimed, c->claim_random, c->ceiling);
        break;
    case MEMBER_SEND:
        break;
    }
}

static void file_ended(struct files_op *op)
{
    struct cluster *c = op->owner;
    c->ops--;
    tell_member(c, op);
    files_free(op);
    drive(c);
}

/* It was not even begun: the heap is out. It is tried again as what failed. */
static void file_failed(struct cluster *c, const struct member_action *action)
{
    struct files_op failed = {.act = action->act,
                              .number = action->number,
                              .err = -ENOMEM,
                              .found = FOUND_ERROR,
                              .linked = LINK_UNKNOWN,
                              .alive_result = ALIVE_FAILED,
                              .claimed = CLAIM_FAILED};
    if (action->to)
        memcpy(failed.id, action->to->id, sizeof failed.id);
    tell_member(c, &failed);
}

static void claim_next(struct cluster *c, struct files_op *op)
{
    if (c->claimed_number != op->number && loop_random(c->home, &c->claim_random, sizeof c->claim_random) == 0)
        c->claimed_number = op->number;
    op->alive = (struct alive){.name = c->member.options.name};
    op->alive.name.incarnation.random = c->claim_random;
    memcpy(op->alive.host, c->host, sizeof c->host);
    op->former_dead = c->member.options.former_dead;
}

static void file_start(struct cluster *c, const struct member_action *action)
{
    struct files_op *op = files_new(&c->files, FILES_ACT, file_ended, c);
    if (!op) {
        file_failed(c, action);
        return;
    }
    op->act = action->act;
    op->number = action->number;
    if (action->view)
        op->view = *action->view;
    op->alive = action->alive;
    if (action->act == MEMBER_READ_ALIVE)
        memcpy(op->id, action->to->id, sizeof op->id);
    if (action->act == MEMBER_CLAIM)
        claim_next(c, op);
    c->ops++;
    files_start(op);
}

static void drive(struct cluster *c)
{
    struct member_action action;
    if (c->ending && !c->ended)
        return;
    while (member_next(&c->member, &action)) {
        if (action.act == MEMBER_SEND)
            send_to(c, &action);
        else
            file_start(c, &action);
    }
    say_news(c);
    close_idle_ways(c);
    tell_figures(c);
    check_end(c);
}

/* ---- the start ---- */

static void run(struct cluster *c, uint64_t start, bool former_dead)
{
    uint64_t random = 0;
    (void)loop_random(c->home, &random, sizeof random);
    struct member_options options = {
        .name = {.incarnation = {start, random}},
        .former_dead = former_dead,
        .ceiling = c->ceiling,
        .lease_us = c->options.lease_ms * 1000,
        .suspect_us = c->options.suspect_ms * 1000,
        .dead_after_us = c->options.dead_after_ms * 1000,
    };
    snprintf(options.name.id, sizeof options.name.id, "%s", c->options.id);
    snprintf(options.name.address, sizeof options.name.address, "%s", c->options.address);
    memcpy(options.host, c->host, sizeof options.host);
    c->stage = STAGE_RUN;
    log_info(c->log, "node_start", "node=%s start=%llu addr=%s former_dead=%s", c->options.id, (unsigned long long)start,
             c->options.address, former_dead ? "yes" : "no");
    member_init(&c->member, &options, now_us(c));
    timer_start(&c->tick, member_tick_us(&c->member) / 1000);
    drive(c);
}

static void look_again(struct cluster *c)
{
    timer_start(&c->tick, c->options.lease_ms / 4);
}

/* It may stay so for days: each error is said once. */
static void start_failed(struct cluster *c, int err)
{
    if (err != c->said_err)
        log_error(c->log, "cluster_start", "err=\"%s\" retried=yes", error_text(err));
    c->said_err = err;
    look_again(c);
}

static void first_claimed(struct files_op *op)
{
    struct cluster *c = op->owner;
    uint64_t start = op->number;
    bool former_dead = op->former_dead;
    int err = op->err;
    c->ops--;
    files_free(op);
    if (c->ending) {
        check_end(c);
    } else if (err) {
        c->stage = STAGE_IDLE;
        start_failed(c, err);
    } else {
        run(c, start, former_dead);
    }
}

static void claim_first(struct cluster *c)
{
    struct files_op *op = files_new(&c->files, FILES_FIRST, first_claimed, c);
    if (!op) {
        look_again(c);
        return;
    }
    c->stage = STAGE_FIRST;
    const struct alive *before = &c->before;
    bool dead = c->before_there && (before->left || memcmp(before->host, c->host, sizeof c->host) == 0);
    op->former_dead = !c->before_there || (dead && before->former_dead);
    op->number = c->before_there ? before->name.incarnation.start + 1 : 1;
    memcpy(op->host, c->host, sizeof op->host);
    snprintf(op->alive.name.id, sizeof op->alive.name.id, "%s", c->options.id);
    snprintf(op->alive.name.address, sizeof op->alive.name.address, "%s", c->options.address);
    memcpy(op->alive.host, c->host, sizeof op->alive.host);
    c->ops++;
    files_start(op);
}

static bool changed(const struct alive *a, const struct alive *b)
{
    return a->count != b->count || !incarnation_equal(a->name.incarnation, b->name.incarnation);
}

static void looked(struct files_op *op)
{
    struct cluster *c = op->owner;
    c->ops--;
    int err = op->err;
    struct alive now = op->alive;
    bool there = op->alive_there;
    bool first = c->looks == 0;
    memcpy(c->host, op->host, sizeof c->host);
    files_free(op);
    if (c->ending) {
        check_end(c);
        return;
    }
    if (err) {
        start_failed(c, err);
        return;
    }
    c->said_err = 0;
    if (!first && there && (!c->before_there || changed(&c->before, &now))) {
        log_error(c->log, "node_in_use", "node=%s addr=%s err=\"another process runs as this node\"", c->options.id, now.name.address);
        c->stage = STAGE_WATCH;
        task_post(&c->over_task);
        return;
    }
    c->before = now;
    c->before_there = there;
    c->looks++;
    bool elsewhere = there && !now.left && memcmp(now.host, c->host, sizeof c->host) != 0;
    if (elsewhere && c->looks <= WATCH_LOOKS)
        look_again(c);
    else
        claim_first(c);
}

static void look(struct cluster *c)
{
    struct files_op *op = files_new(&c->files, FILES_BEGIN, looked, c);
    if (!op) {
        look_again(c);
        return;
    }
    c->stage = STAGE_BEGIN;
    c->ops++;
    files_start(op);
}

static void ticked(struct timer *timer)
{
    struct cluster *c = CONTAINER_OF(timer, struct cluster, tick);
    if (c->stage != STAGE_RUN) {
        if (c->ending)
            check_end(c);
        else
            look(c);
        return;
    }
    timer_start(&c->tick, member_tick_us(&c->member) / 1000);
    member_tick(&c->member, now_us(c));
    drive(c);
}

int cluster_new(struct cluster **out, struct loop *home, struct loop *store_loop, const struct log *log,
                const struct cluster_options *options, cluster_over_fn over, void *arg)
{
    struct cluster *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->info_lock = mutex_new();
    if (!c->info_lock) {
        free(c);
        return -ENOMEM;
    }
    c->home = home;
    c->log = log;
    c->options = *options;
    c->files =
        (struct cluster_files){.home = home, .store_loop = store_loop, .dir = options->dir, .cluster = options->cluster, .id = options->id};
    c->self = (struct peer_self){.loop = home, .cluster = options->cluster, .id = options->id, .token = options->token};
    c->over = over;
    c->arg = arg;
    c->info.state = "starting";
    arena_init(&c->arena);
    task_init(&c->over_task, home, is_over);
    timer_init(&c->tick, home, ticked);
    *out = c;
    return 0;
}

void cluster_begin(struct cluster *c, uint64_t ceiling)
{
    CHECK(c->stage == STAGE_IDLE);
    c->ceiling = ceiling;
    look(c);
}

void cluster_end(struct cluster *c, struct task *task)
{
    c->ending = true;
    c->ended = task;
    c->until_ms = loop_now_ms(c->home) + LEAVE_MS;
    if (c->stage != STAGE_RUN) {
        check_end(c);
        return;
    }
    member_leave(&c->member, now_us(c));
    drive(c);
}

void cluster_free(struct cluster *c)
{
    if (!c)
        return;
    CHECK(c->ops == 0);
    timer_stop(&c->tick);
    task_cancel(&c->over_task);
    for (size_t i = 0; i < MEMBER_PEERS_MAX; i++) {
        if (c->ways[i])
            peer_fini(&c->ways[i]->peer);
        free(c->ways[i]);
    }
    arena_fini(&c->arena);
    mutex_free(c->info_lock);
    free(c);
}

struct span cluster_token(const struct cluster *c)
{
    return c->options.token;
}

bool cluster_arrive(struct cluster *c, const struct arrival *arrival)
{
    return arrivals_take(&c->arrivals, arrival);
}

enum cluster_heard cluster_hear(struct cluster *c, const struct arrival *arrival, const struct beat *beat, struct beat *answer)
{
    if (!arrivals_hear(&c->arrivals, arrival))
        return HEARD_OLD;
    if (c->stage != STAGE_RUN || (c->ending && !c->ended))
        return HEARD_BUSY;
    member_hear(&c->member, now_us(c), beat);
    bool answers = member_answer(&c->member, now_us(c), beat->from.id, answer);
    drive(c);
    return answers ? HEARD : HEARD_BUSY;
}

enum member_forgot cluster_forget(struct cluster *c, const char *id)
{
    if (c->stage != STAGE_RUN || c->ending)
        return FORGOT_NOBODY;
    enum member_forgot forgot = member_forget(&c->member, now_us(c), id);
    if (forgot == FORGOT)
        log_warn(c->log, "node_forgotten", "node=%s", id);
    drive(c);
    return forgot;
}
