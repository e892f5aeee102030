#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/text.h"
#include "cluster/cluster.h"
#include "proto/settings.h"
#include "session.h"

enum { TICK_MS = 100, MAX_VALUE_SHARE = 4, HURRY_MS = 5000 };

/* ---- connections ---- */

static void say_when_alone(struct task *task);

static void tick(struct timer *timer)
{
    struct server_loop *here = CONTAINER_OF(timer, struct server_loop, tick);
    uint64_t now = loop_now_ms(here->loop);
    for (struct list *at = here->sessions.next; at != &here->sessions; at = at->next)
        session_tick(CONTAINER_OF(at, struct session, link), now);
    timer_start(&here->tick, TICK_MS);
}

static void refused(void *owner)
{
    struct server_loop *here = owner;
    here->refused_count--;
    server_check_end(here);
}

static void accepted(void *arg, struct conn *conn)
{
    struct server_loop *here = arg;
    struct session *session = session_open(here, conn);
    if (!session) {
        here->refused_count++;
        conn_close(conn, refused, here);
    } else if (here->state != SERVER_STARTING) {
        session_begin(session);
    }
}

bool server_take_request_bytes(struct server *server, uint64_t bytes)
{
    uint64_t taken = figure(&server->request_bytes);
    do {
        if (taken + bytes > server->config->request_memory)
            return false;
    } while (
        !atomic_compare_exchange_weak_explicit(&server->request_bytes, &taken, taken + bytes, memory_order_relaxed, memory_order_relaxed));
    return true;
}

void server_give_request_bytes(struct server *server, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&server->request_bytes, bytes, memory_order_relaxed);
}

uint64_t server_reply_limit(const struct server *server)
{
    return server->config->memory / OUT_LIMIT_SHARE;
}

static void figures_add(struct server_figures *sum, const struct server_figures *more)
{
    figure_add(&sum->connections, figure(&more->connections));
    figure_add(&sum->accepted, figure(&more->accepted));
    figure_add(&sum->requests, figure(&more->requests));
    figure_add(&sum->refused, figure(&more->refused));
    figure_add(&sum->busy, figure(&more->busy));
    figure_add(&sum->cut_slow_senders, figure(&more->cut_slow_senders));
    figure_add(&sum->cut_slow_readers, figure(&more->cut_slow_readers));
    figure_add(&sum->bad_frames, figure(&more->bad_frames));
    figure_add(&sum->auths, figure(&more->auths));
    figure_add(&sum->failed_auths, figure(&more->failed_auths));
    figure_add(&sum->denied, figure(&more->denied));
    figure_add(&sum->cut_strangers, figure(&more->cut_strangers));
    figure_add(&sum->cut_token_gone, figure(&more->cut_token_gone));
    figure_add(&sum->denied_joins, figure(&more->denied_joins));
    figure_add(&sum->received_bytes, figure(&more->received_bytes));
    figure_add(&sum->sent_bytes, figure(&more->sent_bytes));
    for (unsigned op = 0; op < 256; op++)
        figure_add(&sum->ops[op], figure(&more->ops[op]));
}

void server_figures_sum(struct server_loop *here, struct server_figures *out)
{
    const struct server *server = here->server;
    for (struct list *at = here->sessions.next; at != &here->sessions; at = at->next) {
        struct session *session = CONTAINER_OF(at, struct session, link);
        if (!session->closed)
            session_count_bytes(session);
    }
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < server->loop_count; i++)
        figures_add(out, &server->loops[i].figures);
}

/* ---- news: from the first loop to all of them, in the order in which they are told ---- */

static void tell_loop(struct server_loop *there, struct task *news, task_fn fn)
{
    task_init(news, there->loop, fn);
    if (there == there->server->loops)
        fn(news);
    else
        loop_post(news);
}

static void loop_serves(struct task *task)
{
    struct server_loop *here = CONTAINER_OF(task, struct server_loop, serve);
    here->state = SERVER_SERVING;
    for (struct list *at = here->sessions.next; at != &here->sessions; at = at->next)
        session_begin(CONTAINER_OF(at, struct session, link));
}

static void loop_drains(struct task *task)
{
    struct server_loop *here = CONTAINER_OF(task, struct server_loop, drain);
    bool serving = here->state == SERVER_SERVING;
    here->state = SERVER_DRAINING;
    for (struct list *at = here->sessions.next; at != &here->sessions; at = at->next) {
        struct session *session = CONTAINER_OF(at, struct session, link);
        if (serving)
            session_close_if_idle(session);
        else
            session_close(session);
    }
    server_check_end(here);
}

static void loop_hangs_up(struct task *task)
{
    struct server_loop *here = CONTAINER_OF(task, struct server_loop, hang_up);
    for (struct list *at = here->sessions.next; at != &here->sessions; at = at->next)
        session_close(CONTAINER_OF(at, struct session, link));
}

/* ---- start ---- */

/* Others find this node at its door, so that has to be open; and its folder has to be its own. */
static void begin_cluster(struct server *server)
{
    if (!server->cluster || server->cluster_begun || !server->folder_held || server->state != SERVER_SERVING)
        return;
    server->cluster_begun = true;
    cluster_begin(server->cluster, store_newest_version(server->store));
}

static void serve(struct server *server)
{
    if (server->state != SERVER_STARTING)
        return;
    timer_stop(&server->start_timer);
    server->state = SERVER_SERVING;
    snprintf(server->port_text, sizeof server->port_text, "%u\n", (unsigned)listener_port(server->listener));
    if (server->config->port_file[0] != '\0') {
        int err = loop_write_small_file(server->config->port_file, server->port_text);
        if (err)
            log_error(server->log, "port_file", "path=\"%s\" err=\"%s\"", server->config->port_file, error_text(err));
    }
    const char *colon = strrchr(server->config->listen, ':');
    log_info(server->log, "listening", "addr=%.*s:%u", (int)(colon - server->config->listen), server->config->listen,
             (unsigned)listener_port(server->listener));
    for (unsigned i = 0; i < server->loop_count; i++)
        tell_loop(&server->loops[i], &server->loops[i].serve, loop_serves);
    begin_cluster(server);
}

static void waited_enough(struct timer *timer)
{
    struct server *server = CONTAINER_OF(timer, struct server, start_timer);
    log_warn(server->log, "serving_early", "why=\"what is on disk is not known yet\"");
    serve(server);
}

/* An unusable directory is the operator's to mend before anybody is served; a damaged one costs the disk tier alone. */
static void opened(void *arg, int err)
{
    struct server *server = arg;
    if (err == 0) {
        server->folder_held = true;
        begin_cluster(server);
        return;
    }
    bool damaged = err <= KVD_EPROTO;
    if (damaged || server->state != SERVER_STARTING) {
        log_error(server->log, "disk_off", "dir=\"%s\" err=\"%s\"", server->config->dir, error_text(err));
        serve(server);
        return;
    }
    struct store_info info;
    store_info(server->store, &info);
    const char *reason = info.disk_off_reason[0] ? info.disk_off_reason : error_text(err);
    const char *text = err == -EWOULDBLOCK ? "another kvd is running on it" : reason;
    log_error(server->log, "cannot_use_dir", "dir=\"%s\" node=%s err=\"%s\"", server->config->dir, server->config->node, text);
    server->exit_status = 1;
    server_stop(server);
}

static void recovered(void *arg)
{
    serve(arg);
}

static const struct store_events store_events = {.opened = opened, .recovered = recovered};

/* Each segment keeps a file open, and so does each connection: some are kept back for the disk tier. */
static uint64_t connections_allowed(const struct server *server)
{
    uint64_t files = loop_raise_file_limit();
    uint64_t segments = server->config->segment_size > 0 ? server->config->disk / server->config->segment_size : 0;
    uint64_t kept_back = min_u64(files / 2, 64 + segments);
    uint64_t most = min_u64(server->config->max_connections, files - kept_back);
    if (most < server->config->max_connections)
        log_warn(server->log, "fewer_connections", "max_connections=%llu open_files=%llu", (unsigned long long)most,
                 (unsigned long long)files);
    return most;
}

static int open_listener(struct server *server)
{
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    CHECK(text_split_address(server->config->listen, host, sizeof host, &port));
    uint64_t most = connections_allowed(server);
    int err = listener_open(&server->listener, server->loops[0].loop, host, port, (unsigned)most, accepted, &server->loops[0]);
    if (err)
        log_error(server->log, "cannot_listen", "addr=%s err=\"%s\"", server->config->listen, error_text(err));
    else if (server->loop_count > 1)
        listener_spread(server->listener, server->places, server->loop_count);
    return err;
}

static enum persist persist_of(const struct config *config)
{
    static const char *const names[] = {[PERSIST_WRITE_THROUGH] = "write-through",
                                        [PERSIST_ON_EVICT] = "on-evict",
                                        [PERSIST_SECOND_TOUCH] = "second-touch",
                                        [PERSIST_NONE] = "none"};
    unsigned persist = 0;
    while (strcmp(names[persist], config->persist) != 0)
        persist++;
    return (enum persist)persist;
}

static enum when_behind when_behind_of(const struct config *config)
{
    return strcmp(config->when_behind, "shed") == 0 ? BEHIND_SHED : BEHIND_WAIT;
}

static int open_store(struct server *server)
{
    const struct config *config = server->config;
    struct store_config store = {
        .memory_bytes = config->memory / BLOCK_BYTES * BLOCK_BYTES,
        .inflight_bytes = config->inflight,
        .queue_bytes = config->write_queue,
        .read_timeout_ms = config->disk_timeout,
        .index_bytes = config->index_memory,
        .rewrite_percent = config->rewrite_share,
        .disk_min_bytes = config->disk_min ? config->disk_min : config->disk / 4,
        .persist = persist_of(config),
        .when_behind = when_behind_of(config),
        .prefault = strcmp(config->prefault, "yes") == 0,
        .probe = config->probe,
        .disk =
            {
                .dir = config->dir,
                .cluster = config->cluster,
                .node = config->node,
                .limit_bytes = config->disk,
                .segment_bytes = config->segment_size,
                .read_split_bytes = config->read_split,
                .free_min_percent = config->disk_free_min,
                .unlink_delay_ms = config->unlink_delay,
                .timeout_ms = config->disk_timeout,
                .require_fs = config->require_fs,
            },
    };
    int err = store_new(&server->store, server->store_loop, server->loops[0].loop, server->log, &store, &store_events, server);
    if (err)
        log_error(server->log, "cannot_start", "memory=%llu err=\"%s\"", (unsigned long long)config->memory, error_text(err));
    return err;
}

static void here_open(struct server_loop *here, struct server *server, struct loop *loop)
{
    here->server = server;
    here->loop = loop;
    list_init(&here->sessions);
    buffer_init(&here->out);
    arena_init(&here->arena);
    timer_init(&here->tick, loop, tick);
    task_init(&here->end, loop, say_when_alone);
}

static int make_loops(struct server *server, struct loop *const *loops, unsigned count)
{
    server->loops = calloc(count, sizeof *server->loops);
    server->places = calloc(count, sizeof *server->places);
    server->live_lock = mutex_new();
    if (!server->loops || !server->places || !server->live_lock)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        here_open(&server->loops[i], server, loops[i]);
        server->places[i] = (struct listener_place){.loop = loops[i], .arg = &server->loops[i]};
    }
    server->loop_count = count;
    return 0;
}

static void free_loops(struct server *server)
{
    for (unsigned i = 0; i < server->loop_count; i++) {
        struct server_loop *here = &server->loops[i];
        CHECK(list_empty(&here->sessions));
        timer_stop(&here->tick);
        arena_fini(&here->arena);
        buffer_fini(&here->out);
    }
    free(server->loops);
    free(server->places);
    mutex_free(server->live_lock);
}

static void log_start(struct server *server)
{
    const struct config *config = server->config;
    log_info(server->log, "starting", "version=%s node=%s dir=\"%s\" memory=%llu disk=%llu persist=%s io=%s loops=%u", KVD_VERSION,
             config->node, config->dir, (unsigned long long)config->memory, (unsigned long long)config->disk, config->persist,
             loop_io_kind(server->store_loop), server->loop_count);
    if (server->access.needs_token)
        log_info(server->log, "tokens_read", "path=\"%s\" tokens=%u", config->token_file, access_tokens(&server->access));
    uint64_t host_memory = loop_host_memory_bytes();
    if (host_memory > 0 && config->memory > host_memory)
        log_warn(server->log, "more_memory_than_there_is", "memory=%llu host=%llu", (unsigned long long)config->memory,
                 (unsigned long long)host_memory);
}

static void live_settings(struct server *server)
{
    atomic_store(&server->send_timeout_ms, server->live.send_timeout);
    atomic_store(&server->frame_timeout_ms, server->live.frame_timeout);
}

int server_open(struct server *server, struct loop *const *loops, unsigned loop_count, struct loop *store_loop, struct log *log,
                const struct config *config, struct tokens *tokens)
{
    CHECK(loop_count >= 1 && loop_count <= LOOPS_MOST);
    memset(server, 0, sizeof *server);
    server->store_loop = store_loop;
    server->log = log;
    server->config = config;
    server->live = *config;
    live_settings(server);
    server->started_ms = loop_now_ms(loops[0]);
    server->value_limit = min_u64(config->max_value, config->memory / MAX_VALUE_SHARE);
    int err = make_loops(server, loops, loop_count);
    if (err)
        goto fail_loops;
    err = access_init(&server->access, log, config->token_file, tokens, store_loop);
    if (err)
        goto fail_loops;
    err = open_listener(server);
    if (err)
        goto fail_access;
    err = open_store(server);
    if (err)
        goto fail_listener;
    log_start(server);
    timer_init(&server->start_timer, loops[0], waited_enough);
    timer_start(&server->start_timer, config->wait_for_index);
    for (unsigned i = 0; i < loop_count; i++) {
        store_desk_init(&server->loops[i].desk, server->store, loops[i]);
        timer_start(&server->loops[i].tick, TICK_MS);
    }
    return 0;

fail_listener:
    listener_close(server->listener);
fail_access:
    access_fini(&server->access);
fail_loops:
    free_loops(server);
    return err;
}

static unsigned long long connections(const struct server *server)
{
    unsigned long long sum = 0;
    for (unsigned i = 0; i < server->loop_count; i++)
        sum += figure(&server->loops[i].figures.connections);
    return sum;
}

/* ---- the end: no new clients, then what is under way, then the store ---- */

/* P6: what ends with the process, and is on no disk, is said. */
static void log_stopped(struct server *server)
{
    struct store_info info;
    store_info(server->store, &info);
    uint64_t memory_only = info.table.objects - info.table.on_disk;
    enum persist persist = store_persist(server->store);
    bool lost = memory_only > 0 && (persist == PERSIST_WRITE_THROUGH || persist == PERSIST_ON_EVICT);
    log_write(server->log, lost ? LOG_WARN : LOG_INFO, "stopped", "node=%s objects=%llu not_on_disk=%llu", server->config->node,
              (unsigned long long)info.table.objects, (unsigned long long)memory_only);
}

static void store_closed(void *arg)
{
    struct server *server = arg;
    timer_stop(&server->drain_timer);
    if (server->exit_status == 0)
        log_stopped(server);
    if (server->hurried)
        server->exit_status = 1;
    if (server->tearing_down && store_erase_err(server->store) != 0)
        server->exit_status = 1; /* the log says why */
    for (unsigned i = server->loop_count; i-- > 0;)
        loop_stop(server->loops[i].loop);
    if (server->store_loop != server->loops[0].loop)
        loop_stop(server->store_loop);
}

static void close_store(struct task *task)
{
    struct server *server = CONTAINER_OF(task, struct server, closing);
    server->stop_asked = true;
    store_close(server->store, server->tearing_down, store_closed, server);
}

static void close_when_alone(struct server *server)
{
    if (!server->all_alone || !server->cluster_gone)
        return;
    task_init(&server->closing, server->loops[0].loop, close_store);
    if (access_end(&server->access, &server->closing))
        close_store(&server->closing);
}

static void cluster_has_ended(struct task *task)
{
    struct server *server = CONTAINER_OF(task, struct server, cluster_ended);
    server->cluster_gone = true;
    close_when_alone(server);
}

/* On the first loop: nobody of another one asks for anything any more. */
static void loop_is_alone(struct task *task)
{
    struct server *server = CONTAINER_OF(task, struct server_loop, alone)->server;
    if (++server->alone_count < server->loop_count)
        return;
    server->all_alone = true;
    close_when_alone(server);
}

/* A request that outlives its session (a prefix remove on its walk) needs the store. No connection comes after the news of the end: those
 * that were accepted before were sent here before. */
static void say_when_alone(struct task *task)
{
    struct server_loop *here = CONTAINER_OF(task, struct server_loop, end);
    if (!list_empty(&here->sessions) || here->refused_count > 0 || here->request_count > 0 || here->is_alone)
        return;
    here->is_alone = true;
    task_init(&here->alone, here->server->loops[0].loop, loop_is_alone);
    if (here == here->server->loops)
        loop_is_alone(&here->alone);
    else
        loop_post(&here->alone);
}

void server_check_end(struct server_loop *here)
{
    if (here->state == SERVER_DRAINING)
        task_post(&here->end);
}

/* What is written is closed in order, if the disk lets it: the hottest objects, for they came first. */
static void give_up_writing(struct server *server)
{
    log_error(server->log, "drain_timeout", "lost=\"what was not written yet\"");
    server->hurried = true;
    timer_start(&server->drain_timer, min_u64(server->config->drain_timeout, HURRY_MS));
    store_close_hurry(server->store);
}

static void give_up_waiting(struct timer *timer)
{
    struct server *server = CONTAINER_OF(timer, struct server, drain_timer);
    if (server->stop_asked && !server->hurried) {
        give_up_writing(server);
        return;
    }
    if (server->stop_asked || server->drain_over) {
        log_error(server->log, "drain_timeout", "lost=\"what was not written yet\"");
        loop_exit_now(1);
    }
    server->drain_over = true;
    log_warn(server->log, "drain_timeout", "connections=%llu", connections(server));
    for (unsigned i = 0; i < server->loop_count; i++)
        tell_loop(&server->loops[i], &server->loops[i].hang_up, loop_hangs_up);
    timer_start(&server->drain_timer, server->config->drain_timeout);
}

void server_stop(struct server *server)
{
    if (server->state == SERVER_DRAINING) {
        log_warn(server->log, "stopping_at_once", "lost=\"what was not written yet\"");
        loop_exit_now(1);
    }
    bool serving = server->state == SERVER_SERVING;
    server->state = SERVER_DRAINING;
    timer_stop(&server->start_timer);
    timer_init(&server->drain_timer, server->loops[0].loop, give_up_waiting);
    store_quiet(server->store);
    listener_close(server->listener);
    if (serving && server->config->port_file[0] != '\0')
        (void)loop_remove_small_file(server->config->port_file, server->port_text);
    if (server->exit_status == 0)
        log_info(server->log, "stopping", "connections=%llu", connections(server));
    timer_start(&server->drain_timer, server->config->drain_timeout);
    server->cluster_gone = !server->cluster;
    task_init(&server->cluster_ended, server->loops[0].loop, cluster_has_ended);
    if (server->cluster)
        cluster_end(server->cluster, &server->cluster_ended);
    for (unsigned i = 0; i < server->loop_count; i++)
        tell_loop(&server->loops[i], &server->loops[i].drain, loop_drains);
}

/* Another process has this node's name. */
static void node_is_over(void *arg)
{
    struct server *server = arg;
    server->exit_status = 1;
    if (server->state != SERVER_DRAINING)
        server_stop(server);
}

int server_join_cluster(struct server *server, const struct token *token)
{
    const struct config *config = server->config;
    server->cluster_token = *token;
    struct cluster_options options = {
        .dir = config->dir,
        .cluster = config->cluster,
        .id = config->node,
        .address = config->advertise,
        .token = span_of(server->cluster_token.bytes, token->len),
        .lease_ms = config->lease_time,
        .suspect_ms = config->suspect,
        .dead_after_ms = config->dead_after,
        .peer_timeout_ms = config->peer_timeout,
    };
    return cluster_new(&server->cluster, server->loops[0].loop, server->store_loop, server->log, &options, node_is_over, server);
}

void server_hang_up(struct server *server)
{
    if (server->access.needs_token)
        access_reload(&server->access);
    else
        server_stop(server);
}

/* Unless a signal came first: a second stop would be one that waits for nothing. */
static void stop_task(struct task *task)
{
    struct server *server = CONTAINER_OF(task, struct server, stop);
    if (server->state != SERVER_DRAINING)
        server_stop(server);
}

void server_tear_down(struct server *server)
{
    log_warn(server->log, "tearing_down", "node=%s dir=\"%s\"", server->config->node, server->config->dir);
    store_erase(server->store);
    task_init(&server->stop, server->loops[0].loop, stop_task);
    loop_post(&server->stop);
}

void server_fini(struct server *server)
{
    cluster_free(server->cluster);
    mac_wipe(&server->cluster_token, sizeof server->cluster_token);
    store_free(server->store);
    access_fini(&server->access);
    free_loops(server);
}

/* ---- CONFIG set ---- */

struct setting {
    struct config *config;
    char *why;
    size_t why_len;
};

static int set_one(void *arg, const char *name, const char *value)
{
    struct setting *setting = arg;
    const struct config_key *key = config_find(name);
    if (!key || !key->live) {
        snprintf(setting->why, setting->why_len, key ? "%s needs a restart" : "unknown key \"%s\"", name);
        return key ? KVD_EUNSUPPORTED : KVD_EUSAGE;
    }
    return config_set(setting->config, key, value, setting->why, setting->why_len);
}

/* With live_lock held. */
static int configure(struct server *server, struct span set, char *why, size_t why_len)
{
    struct config next = server->live;
    struct setting setting = {.config = &next, .why = why, .why_len = why_len};
    snprintf(why, why_len, "set is a map of names with a text, number or bool each");
    int err = settings_each(set, set_one, &setting);
    if (err)
        return err;
    server->live = next;
    live_settings(server);
    server->log->level = config_log_level(&next);
    store_set_persist(server->store, persist_of(&next));
    store_set_when_behind(server->store, when_behind_of(&next));
    log_info(server->log, "configured", "persist=%s when_behind=%s log_level=%s", next.persist, next.when_behind, next.log_level);
    return 0;
}

int server_configure(struct server *server, struct span set, char *why, size_t why_len)
{
    mutex_lock(server->live_lock);
    int err = configure(server, set, why, why_len);
    mutex_unlock(server->live_lock);
    return err;
}

void server_settings(struct server *server, struct config *out)
{
    mutex_lock(server->live_lock);
    *out = server->live;
    mutex_unlock(server->live_lock);
}
