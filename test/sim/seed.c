/* seed.c - one run: what is chosen by the seed, the lives of the server, what must hold after each. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "sim.h"

enum phase { PHASE_WORK, PHASE_SETTLE, PHASE_READ, PHASE_STOP, PHASE_OVER };
enum { EVENTS_MOST = 20 * 1000 * 1000, HOURS_MOST = 4 };

static bool sweeping(void)
{
    return sim->options->crash_at > 0;
}

/* ---- the scenario ---- */

static void weights_choose(struct scenario *scenario)
{
    static const unsigned usual[ACTIONS] = {
        [ACT_PUT] = 30,       [ACT_GET] = 25,   [ACT_RANGE] = 5,   [ACT_MGET] = 8,     [ACT_EXISTS] = 5,
        [ACT_MATCH] = 3,      [ACT_LEASE] = 6,  [ACT_RELEASE] = 3, [ACT_REMOVE] = 10,  [ACT_REMOVE_PREFIX] = 2,
        [ACT_REMOVE_ALL] = 1, [ACT_PIN] = 3,    [ACT_STAT] = 3,    [ACT_SCAN] = 2,     [ACT_SYNC] = 1,
        [ACT_SEAL] = 1,       [ACT_EVICT] = 2,  [ACT_SCRUB] = 1,   [ACT_SEGMENTS] = 1, [ACT_DRAIN] = 1,
        [ACT_TEARDOWN] = 1,   [ACT_CONFIG] = 1, [ACT_INFO] = 1,    [ACT_HANG_UP] = 1,  [ACT_CUT_PUT] = 1,
    };
    scenario->weight_sum = 0;
    for (unsigned i = 0; i < ACTIONS; i++) {
        scenario->weights[i] = usual[i] * 4;
        if (i > ACT_GET && chance_one_in(3))
            scenario->weights[i] = chance_one_in(2) ? 0 : usual[i] * 16;
        scenario->weight_sum += scenario->weights[i];
    }
}

const char *policy_any(void)
{
    static const char *const policies[] = {"write-through", "on-evict", "second-touch", "none"};
    return policies[chance_below(4)];
}

bool writes_all(const struct scenario *scenario)
{
    return strcmp(scenario->persist, "write-through") == 0 || strcmp(scenario->persist, "on-evict") == 0;
}

static void scenario_choose(struct scenario *scenario)
{
    static const unsigned largest[] = {100, 5000, 70000, 70000, 300000, 300000, 1 << 20};
    *scenario = (struct scenario){
        .memory = chance_between(4, 8) * MIB,
        .segment = MIB << chance_below(3),
        .disk = chance_between(4, chance_one_in(2) ? 8 : 40) * MIB,
        .persist = chance_one_in(2) ? "write-through" : policy_any(),
        .when_behind = chance_one_in(3) ? "shed" : "wait",
        .calm = chance_one_in(2),
        .shorts = chance_one_in(2),
        .slow_network = chance_one_in(4),
        .clients = (unsigned)chance_between(1, 5),
        .ops = (unsigned)chance_between(40, chance_one_in(4) ? 600 : 200),
        .keys = chance_one_in(4) ? (unsigned)chance_between(1, 3) : SIM_KEYS,
        .pipeline = (unsigned)chance_between(1, chance_one_in(2) ? 2 : 16),
        .lives = chance_one_in(6) ? 0 : (unsigned)chance_between(1, 6),
        .orderly = chance_one_in(3) ? 0 : (unsigned)chance_below(60),
        .power = sim->options->mode == 'p'   ? 100
                 : sim->options->mode == 'k' ? 0
                 : chance_one_in(2)          ? 50
                 : chance_one_in(2)          ? 0
                                             : 100,
        .largest = largest[chance_below(7)],
        .ack_disk = chance_one_in(3) ? 0 : (unsigned)chance_below(101),
        .replace = chance_one_in(3) ? 0 : (unsigned)chance_below(101),
        .mortal = chance_one_in(2) ? 0 : (unsigned)chance_below(101),
        .clock_jumps = chance_one_in(5),
    };
    scenario->bulky = chance_one_in(6);
    if (scenario->bulky) {
        scenario->memory = 4 * MIB;
        scenario->largest = 1 << 20;
        scenario->ops = scenario->ops < 200 ? scenario->ops : 200;
        if (chance_one_in(2)) { /* nor does the disk */
            scenario->disk = 4 * MIB + chance_below(3 * MIB);
            scenario->segment = MIB << chance_below(2);
        }
    }
    if (chance_one_in(6)) { /* next to no memory */
        scenario->memory = MIB << chance_below(3);
        scenario->largest = (unsigned)min_u64(scenario->largest, scenario->memory / 4);
        scenario->bulky = true;
    }
    scenario->churning = chance_one_in(6);
    if (scenario->churning) { /* segments come and go, and much of what they hold is in use */
        scenario->memory = 4 * MIB;
        scenario->segment = MIB;
        scenario->disk = chance_between(4, 8) * MIB + chance_below(MIB);
        scenario->bulky = true;
        scenario->largest = 300000;
        scenario->ops = 400 + (unsigned)chance_below(800);
        scenario->lives = (unsigned)chance_below(4);
        scenario->clients = (unsigned)chance_between(2, 5);
        scenario->persist = "write-through";
        scenario->keys = SIM_KEYS;
        scenario->replace = (unsigned)chance_between(40, 100);
    }
    if (sim->options->ops > 0)
        scenario->ops = sim->options->ops;
    weights_choose(scenario);
    if (scenario->churning) {
        scenario->weight_sum -= scenario->weights[ACT_REMOVE_ALL] + scenario->weights[ACT_REMOVE_PREFIX] + scenario->weights[ACT_CONFIG];
        scenario->weights[ACT_REMOVE_ALL] = scenario->weights[ACT_REMOVE_PREFIX] = scenario->weights[ACT_CONFIG] = 0;
    }
    if (scenario->bulky && chance_one_in(2)) {
        scenario->weight_sum += 100 - scenario->weights[ACT_LEASE];
        scenario->weights[ACT_LEASE] = 100;
    }
}

/* A disk that does what it should and is too small, values that do not fit memory either, and what changes files: the same for every k of
 * a seed. */
static void scenario_sweep(struct scenario *scenario)
{
    static const unsigned often[ACTIONS] = {
        [ACT_PUT] = 40,          [ACT_GET] = 8,        [ACT_EXISTS] = 3, [ACT_LEASE] = 2, [ACT_REMOVE] = 16,
        [ACT_REMOVE_PREFIX] = 2, [ACT_REMOVE_ALL] = 1, [ACT_SYNC] = 2,   [ACT_SEAL] = 2,  [ACT_PIN] = 1,
    };
    *scenario = (struct scenario){
        .memory = 4 * MIB,
        .segment = sim->seed % 3 == 0 ? 0 : MIB,
        .disk = 4 * MIB + 512 * KIB,
        .persist = chance_one_in(2) ? "write-through" : "on-evict",
        .when_behind = "wait",
        .calm = true,
        .shorts = chance_one_in(2),
        .clients = 2,
        .ops = 120,
        .keys = 4,
        .pipeline = (unsigned)chance_between(1, 4),
        .power = sim->options->crash_kind == CRASH_KILL ? 0 : 100,
        .largest = 300000,
        .bulky = true,
        .ack_disk = 50,
        .replace = 40,
        .mortal = 20,
    };
    for (unsigned i = 0; i < ACTIONS; i++)
        scenario->weight_sum += scenario->weights[i] = often[i];
}

/* Segments, or a file for each object; alone, or two nodes in one directory, which with files see each other's. */
static void way_choose(struct scenario *scenario)
{
    scenario->hosts = 1;
    scenario->small_index = !sweeping() && chance_one_in(12);
    scenario->zero_copy = sim->seed % 4 == 1;
    if (sim->seed % 8 == 3)
        scenario->segment = 0;
    if (sweeping())
        return;
    bool two = sim->options->two_hosts;
    if (two && sim->seed % 4 != 0)
        scenario->segment = 0;
    scenario->probe = two ? scenario->segment == 0 : sim->seed % 16 == 3;
    two |= scenario->probe ? sim->seed / 16 % 4 != 0 : sim->seed % 32 == 13;
    if (!two)
        return;
    scenario->hosts = 2;
    scenario->leisurely = chance_one_in(3);
    if (!chance_one_in(4)) {
        scenario->names_us = chance_one_in(3) ? 30 * SECOND : MS + chance_delay(5 * SECOND);
        scenario->missing_us = scenario->names_us / 6;
        scenario->chunks_us = chance_one_in(3) ? 0 : chance_one_in(2) ? chance_delay(10 * SECOND) : 300 * SECOND;
    }
    scenario->clients = scenario->clients < 2 ? 2 : scenario->clients;
    if (!scenario->probe)
        return;
    if (chance_one_in(4))
        scenario->persist = "write-through"; /* so that there is something to find */
    scenario->weight_sum -= scenario->weights[ACT_TEARDOWN];
    scenario->weights[ACT_TEARDOWN] = 0; /* removes what is the node's own, and the judge knows no such remove */
}

/* ---- lives ---- */

static void log_line(void *arg, const char *line, size_t len)
{
    (void)arg;
    say("    %.*s", (int)len, line);
}

const char *node_name(const struct host *host)
{
    return host->number == 0 ? "sim" : "sim2";
}

/* Room for some of the keys beside what an empty table takes. */
static uint64_t index_memory_small(void)
{
    struct table *table;
    uint8_t secret[TABLE_SECRET_BYTES] = {0};
    CHECK(table_new(&table, secret) == 0);
    uint64_t empty = table_heap_bytes(table);
    table_free(table);
    return empty + chance_between(300, 3000);
}

static void configure(struct life *life)
{
    const struct scenario *scenario = &sim->scenario;
    struct config *config = &life->config;
    config_init(config, node_name(sim->host), "/disk");
    config->memory = scenario->memory;
    config->disk = scenario->disk;
    config->segment_size = scenario->segment;
    config->loops = 1 + sim->seed % SIM_LOOPS;
    config->probe = scenario->probe;
    config->write_queue = chance_between(1, 4) * MIB;
    config->inflight = chance_between(1, 4) * MIB;
    config->read_split = 256 * KIB << chance_below(3);
    config->rewrite_share = scenario->churning ? chance_between(20, 90) : 20;
    if (scenario->small_index)
        config->index_memory = index_memory_small();
    config->unlink_delay = chance_one_in(8) ? chance_below(3000) : 0;
    config->disk_min = chance_one_in(2) ? MIB : 0;
    config->io_depth = chance_one_in(4) ? chance_between(1, 4) : 64;
    config->disk_timeout = chance_one_in(2) ? 5000 : chance_between(200, 2000);
    snprintf(config->require_fs, sizeof config->require_fs, "%s", disk_type_required());
    config->wait_for_index = chance_one_in(4) ? chance_below(50) : 5000;
    strcpy(config->persist, scenario->persist);
    strcpy(config->when_behind, scenario->when_behind);
    strcpy(config->log_level, sim->options->trace ? "debug" : "error");
    life->log = (struct log){.level = config_log_level(config), .sink = log_line};
}

static void crash_now(void *arg)
{
    if (sim->host->life && sim->host->life->number == (uint32_t)(uintptr_t)arg)
        sim_escape(ESCAPE_CRASH);
}

static void stop_now(void *arg)
{
    struct life *life = sim->host->life;
    if (life->number != (uint32_t)(uintptr_t)arg || life->stopping || life->server.state == SERVER_DRAINING)
        return;
    note("stop", life->number, 0, 0);
    life->stopping = true;
    sim->figures.stops++;
    server_stop(&life->server);
}

static void stop_soon(uint64_t delay_us)
{
    event_add(delay_us, true, stop_now, (void *)(uintptr_t)sim->host->life->number);
}

void life_ends_soon(void)
{
    if (!sim->host->life)
        return;
    if (chance_one_in(2))
        stop_soon(chance_delay(500 * MS));
    else
        event_add(chance_delay(500 * MS), false, crash_now, (void *)(uintptr_t)sim->host->life->number);
}

/* How this life is to end, if it is to end before the work is done. */
static void end_choose(struct life *life)
{
    if (sim->lives_left == 0 || sim->phase != PHASE_WORK)
        return;
    sim->lives_left--;
    uint64_t when_us = chance_delay(2 * SECOND);
    if (chance_percent(sim->scenario.orderly)) {
        stop_soon(when_us);
        if (chance_one_in(4)) /* and a crash in the midst of it */
            event_add(when_us + chance_delay(20 * MS), false, crash_now, (void *)(uintptr_t)life->number);
    } else if (chance_one_in(2)) {
        life->crash_step = 1 + chance_delay(chance_one_in(3) ? 60 : 3000);
    } else {
        event_add(when_us, false, crash_now, (void *)(uintptr_t)life->number);
    }
}

/* Up to an hour off, either way; or a little. */
static int64_t wall_choose(void)
{
    int64_t most = chance_one_in(2) ? 3600 * 1000 : 5000;
    return (int64_t)chance_below(2 * (uint64_t)most) - most;
}

/* Of one host. */
static void wall_jumps(void *arg)
{
    (void)arg;
    if (sim->host->life)
        sim_wall_set(chance_one_in(3) ? 0 : wall_choose());
    event_add(chance_delay(4 * SECOND) + MS, false, wall_jumps, NULL);
}

static void life_opens(void *arg)
{
    struct life *life = arg;
    uint64_t faults = sim->figures.heap;
    if (server_open(&life->server, life->loops, (unsigned)life->config.loops, life->store_loop, &life->log, &life->config, NULL) != 0) {
        if (faults == sim->figures.heap)
            sim_fail("server_open() failed");
        sim_escape(ESCAPE_EXIT);
    }
    life->open = true;
}

/* As main() makes them: the store lives on the only one, or on one more. */
static void loops_make(struct life *life)
{
    struct loop_options options = {
        .io_depth = (unsigned)life->config.io_depth, .locked = life->config.loops > 1, .zero_copy_sends = sim->scenario.zero_copy};
    sim->in_server = true;
    loop_new(&life->store_loop, &options, &life->log);
    options.locked = false;
    for (unsigned i = 0; i < life->config.loops; i++) {
        if (life->config.loops == 1)
            life->loops[i] = life->store_loop;
        else
            loop_new(&life->loops[i], &options, &life->log);
        if (i > 0)
            loop_joins(life->loops[i], life->loops[0]);
    }
    if (life->config.loops > 1)
        loop_joins(life->store_loop, life->loops[0]);
    life->loop = life->loops[0];
    sim->in_server = false;
}

static void loops_free(struct life *life)
{
    if (life->config.loops > 1)
        loop_free(life->store_loop);
    for (unsigned i = (unsigned)life->config.loops; i-- > 0;)
        loop_free(life->loops[i]);
    life->loop = NULL;
}

void life_start(void *arg)
{
    (void)arg;
    struct life *life = sim_alloc(sizeof *life);
    sim->host->life = life;
    life->number = ++sim->lives;
    life->faults = sim->fault_count;
    life->began_us = sim->now_us;
    sim->wall_ahead_ms[life->number % SIM_LIVES] = INT64_MIN;
    sim_wall_set(chance_one_in(3) ? wall_choose() : 0);
    sim->host->drops_counted = sim->host->drops_early = sim->host->drops_bad = 0;
    sim->figures.lives++;
    configure(life);
    loops_make(life);
    note("life", life->number, 0, 0);
    event_add(0, true, life_opens, life); /* before any end: who stops it has seen it begin */
    end_choose(life);
}

static bool any_life(void)
{
    bool any = false;
    for (unsigned i = 0; i < sim->host_count; i++)
        any |= sim->hosts[i].life != NULL;
    return any;
}

/* A node that was torn down, as far as its own file, begins anew. */
static void note_torn_down(const struct life *life)
{
    char path[64];
    snprintf(path, sizeof path, "/disk/kvd/%s/node", node_name(sim->host));
    if (life->server.tearing_down && !vfs_find(&sim->vfs, path))
        sim->history.begun_anew[sim->host->number] = ++sim->stamp;
}

static void life_next(bool kept_all)
{
    note_torn_down(sim->host->life);
    history_life_end(&sim->history, sim->host->life->number, kept_all);
    server_events_drop();
    wires_crash();
    routines_drop();
    sim_free(sim->host->life);
    sim->host->life = NULL;
    if (sim->phase < PHASE_STOP)
        event_add(chance_delay(2 * SECOND), false, life_start, NULL);
    else if (!any_life())
        sim->phase = PHASE_OVER;
}

static void figures_take(const struct life *life)
{
    if (!life->open)
        return;
    const struct store_figures *figures = &life->server.store->figures;
    sim->figures.evicted += figures->evicted;
    sim->figures.promoted += figures->promoted;
    sim->figures.reclaimed += figures->reclaimed_segments;
    sim->figures.beyond_index += figures->recovered_beyond_index;
    sim->figures.elsewhere += figures->dropped_elsewhere;
    sim->figures.probes_found += figures->probes_found;
    sim->figures.rewritten += figures->rewritten_objects;
    sim->figures.dropped += sim->host->drops_counted + sim->host->drops_early + sim->host->drops_bad;
}

static enum cut cut_choose(void)
{
    static const enum cut cuts[CRASH_KINDS] = {CUT_TEARS, CUT_LOSES, CUT_KEEPS, CUT_TEARS};
    enum cut cut = (enum cut)min_u64(chance_below(5), CUT_TEARS);
    return sweeping() ? cuts[sim->options->crash_kind] : cut;
}

static void life_crash(enum escape escape)
{
    bool power = escape == ESCAPE_CRASH && chance_percent(sim->scenario.power);
    note("crash", escape, power, sim->host->life->steps);
    if (escape == ESCAPE_EXIT)
        sim->figures.exits++;
    else if (power)
        sim->figures.crashes_power++;
    else
        sim->figures.crashes_kill++;
    figures_take(sim->host->life);
    files_crash(power);
    if (power)
        sight_forget_all(&sim->host->sight);
    vfs_crash(&sim->vfs, power, cut_choose());
    heap_drop();
    if (sweeping())
        clients_stop();
    life_next(false);
}

static uint64_t unwritten(const struct store_figures *figures)
{
    return figures->unwritten_off + figures->unwritten_full + figures->unwritten_error + figures->unwritten_memory +
           figures->unwritten_closing;
}

/* The loop has stopped: the process returns from main. */
static void life_fini(void *arg)
{
    struct life *life = arg;
    struct store_info info;
    store_info(life->server.store, &info);
    figures_take(life);
    server_fini(&life->server);
    loops_free(life);
}

static bool trouble(void)
{
    return sim->fault_count > 0 || sim->host->hang_until_us > 0 || sim->figures.hung > 0;
}

/* What was wrong with the disk was over before this life began, or before it began to drain what it could open. */
static bool drained_well(void)
{
    const struct life *life = sim->host->life;
    uint64_t since_us = max_u64(sim->settled_us, sim->host->hung_until_us);
    if (sim->phase == PHASE_WORK || !life)
        return false;
    return life->began_us > since_us || (life->drains_us > since_us && disk_state(life->server.store->disk) != DISK_OFF);
}

static bool life_end(bool *kept_all)
{
    struct life *life = sim->host->life;
    const struct store_figures figures = life->server.store->figures;
    *kept_all = writes_all(&sim->scenario) && !life->policy_changed && life->faults == sim->fault_count && unwritten(&figures) == 0 &&
                life->server.exit_status == 0 && disk_state(life->server.store->disk) != DISK_OFF; /* the mount was gone when it began */
    if (life->server.exit_status != 0 && (!trouble() || drained_well())) {
        snprintf(sim->why, sizeof sim->why, "the server gave up by itself, and the disk had no fault");
        return false;
    }
    if (sim_call(life_fini, life) != ESCAPE_NONE)
        return false;
    uint64_t bytes;
    const void *caller = NULL;
    uint64_t blocks = heap_blocks(&bytes, &caller);
    if (blocks > 0)
        snprintf(sim->why, sizeof sim->why, "%llu blocks of %llu bytes are left after an orderly stop, the last from %p",
                 (unsigned long long)blocks, (unsigned long long)bytes, caller);
    else if (files_open() > 0)
        snprintf(sim->why, sizeof sim->why, "%u files are left open after an orderly stop", files_open());
    note("ended", life->number, *kept_all, 0);
    return blocks == 0 && files_open() == 0;
}

/* ---- what must hold all the time ---- */

/* P6, as docs/protocol.md has it: what was put or found is there, or counted where it went. */
static bool adds_up(struct life *life)
{
    const struct store *store = life->server.store;
    const struct store_figures *f = &store->figures;
    struct table_sums sums;
    table_sums(store->table, &sums);
    uint64_t gone = f->removed + f->puts_replaced + f->expired + f->dropped_evicted + f->dropped_untouched + f->dropped_shed +
                    f->dropped_reclaimed + f->dropped_index + f->dropped_corrupt + f->dropped_short + f->dropped_elsewhere +
                    f->dropped_versions;
    if (f->puts + f->found == sums.objects + gone)
        return true;
    snprintf(sim->why, sizeof sim->why, "%llu objects were put or found, and %llu are there or counted as gone",
             (unsigned long long)(f->puts + f->found), (unsigned long long)(sums.objects + gone));
    return false;
}

static bool life_watch(struct life *life)
{
    if (!life->open)
        return true;
    drops_look();
    if (!adds_up(life))
        return false;
    if (life->server.state == SERVER_DRAINING) {
        if (life->drains_us == 0)
            life->drains_us = sim->now_us;
        return true;
    }
    struct disk_figures figures;
    const struct disk *disk = life->server.store->disk;
    disk_get_figures(disk, &figures);
    if (sim->fault_count == 0 && figures.read_corrupt + figures.read_short > 0) {
        snprintf(sim->why, sizeof sim->why, "%llu reads of wrong bytes and %llu short ones, and the disk had no fault",
                 (unsigned long long)figures.read_corrupt, (unsigned long long)figures.read_short);
        return false;
    }
    enum disk_state state = disk_state(disk);
    if (state != DISK_OPENING && life->opened_us == 0)
        life->opened_us = sim->now_us;
    if (state == DISK_OFF && !trouble()) {
        snprintf(sim->why, sizeof sim->why, "the disk tier is off (%s), and the disk had no fault", disk_off_reason(disk));
        return false;
    }
    if (state != DISK_ON)
        return true;
    uint64_t files = trouble() || sim->scenario.probe ? 0 : vfs_value_bytes(&sim->vfs, node_name(sim->host));
    bool within = figures.used_bytes <= figures.limit_bytes && files <= figures.limit_bytes;
    if (life->within && !within) {
        snprintf(sim->why, sizeof sim->why, "used %llu, in files %llu, over the limit of %llu", (unsigned long long)figures.used_bytes,
                 (unsigned long long)files, (unsigned long long)figures.limit_bytes);
        return false;
    }
    life->within |= within;
    if (pool_used(life->server.store->pool) > sim->scenario.memory || life->server.store->inflight > sim->scenario.memory) {
        snprintf(sim->why, sizeof sim->why, "more memory is used than there is");
        return false;
    }
    return true;
}

/* ---- the course of a run ---- */

static void write_back(void *arg)
{
    (void)arg;
    if (!sweeping())
        vfs_write_back(&sim->vfs);
    event_add(chance_delay(2 * SECOND) + MS, false, write_back, NULL);
}

static void settle_end(void)
{
    if (chance_one_in(3))
        event_add(chance_delay(10 * MS), false, crash_now, (void *)(uintptr_t)sim->host->life->number);
    else if (chance_one_in(2))
        stop_soon(chance_delay(10 * MS));
}

static void work_ends(void)
{
    sim->phase = PHASE_SETTLE;
    note("settle", 0, 0, 0);
    sim->settled_us = sim->now_us;
    for (unsigned i = 0; i < sim->host_count; i++) {
        sim->host = &sim->hosts[i];
        faults_end();
        if (sim->host->life && sim->host->life->open && !sim->host->life->stopping)
            settle_end();
    }
    sim->lives_left = (unsigned)sim->lives;
}

static bool is_open(const struct host *host)
{
    return host->life && host->life->open;
}

/* It serves, with its disk or without; nothing comes any more. */
static bool is_settled(const struct host *host)
{
    if (!is_open(host) || host->life->server.state != SERVER_SERVING)
        return false;
    enum disk_state disk = disk_state(host->life->server.store->disk);
    return disk == DISK_OFF || (host->life->server.store->recovered && disk != DISK_TRIPPED);
}

static bool all(bool (*is)(const struct host *host))
{
    unsigned count = 0;
    for (unsigned i = 0; i < sim->host_count; i++)
        count += is(&sim->hosts[i]);
    return count == sim->host_count;
}

static void phase_next(void)
{
    struct host *host = sim->host;
    if (sim->phase == PHASE_WORK && clients_done()) {
        work_ends();
    } else if (sim->phase == PHASE_SETTLE && all(is_settled) && (sim->lives > sim->lives_left || chance_one_in(200))) {
        sim->phase = PHASE_READ;
        note("read", 0, 0, 0);
        clients_read_all();
    } else if (sim->phase == PHASE_READ && all(is_open) && clients_done()) {
        sim->phase = PHASE_STOP;
        for (unsigned i = 0; i < sim->host_count; i++) {
            sim->host = &sim->hosts[i];
            stop_soon(chance_delay(10 * MS));
        }
    }
    sim->host = host;
}

/* The disk has had no fault for so long, and what hung has ended: a tier that was tripped has come back. */
enum { COMES_BACK_US = 120 * SECOND };

static bool still_tripped(void)
{
    const struct life *life = sim->host->life;
    uint64_t since_us = max_u64(max_u64(sim->settled_us, sim->host->hung_until_us), life ? life->began_us : 0);
    bool late = sim->phase == PHASE_SETTLE && sim->now_us > since_us + COMES_BACK_US;
    return late && life && life->open && disk_state(life->server.store->disk) == DISK_TRIPPED;
}

static bool step(void)
{
    bool idle;
    enum escape escape = sim_step(&idle);
    if (escape == ESCAPE_FAIL)
        return false;
    if (escape == ESCAPE_EXIT && (!trouble() || drained_well())) {
        snprintf(sim->why, sizeof sim->why, "the drain timeout passed, and the disk had no fault%s", trouble() ? " any more" : "");
        return false;
    }
    bool kept_all;
    if (escape != ESCAPE_NONE) {
        life_crash(escape);
    } else if (sim->host->life && sim->host->life->loop && loop_has_stopped(sim->host->life->loop)) {
        if (!life_end(&kept_all))
            return false;
        life_next(kept_all);
    } else if (sim->host->life && !life_watch(sim->host->life)) {
        return false;
    }
    phase_next();
    if (still_tripped()) {
        snprintf(sim->why, sizeof sim->why, "the disk tier stays off: %s", disk_trouble(sim->host->life->server.store->disk));
        return false;
    }
    if (idle || sim->figures.events > EVENTS_MOST || sim->now_us > (uint64_t)HOURS_MOST * 3600 * SECOND) {
        snprintf(sim->why, sizeof sim->why, "nothing goes on: %llu events, %llu s, phase %d", (unsigned long long)sim->figures.events,
                 (unsigned long long)(sim->now_us / SECOND), sim->phase);
        return false;
    }
    return true;
}

static void host_init(unsigned number)
{
    struct host *host = sim->host = &sim->hosts[number];
    host->number = number;
    list_init(&host->heap);
    list_init(&host->flights);
    list_init(&host->routines);
    sight_init(&host->sight, &sim->vfs, number, sim->scenario.names_us, sim->scenario.missing_us);
    faults_choose();
    event_add(0, false, life_start, NULL);
    if (sim->scenario.clock_jumps)
        event_add(chance_delay(4 * SECOND), false, wall_jumps, NULL);
}

static void host_fini(struct host *host)
{
    sim->host = host;
    heap_drop();
    server_events_drop();
    routines_drop();
    sight_forget_all(&host->sight);
    for (struct list *at; (at = list_first(&host->flights)) != NULL;)
        list_remove(at);
    sim_free(host->life);
}

static void run_fini(void)
{
    sim->in_server = false;
    clients_free();
    wires_free();
    for (unsigned i = 0; i < sim->host_count; i++)
        host_fini(&sim->hosts[i]);
    vfs_fini(&sim->vfs);
    history_fini(&sim->history);
    events_free();
}

bool seed_run(struct sim *run, const struct options *options, uint64_t seed)
{
    *run = (struct sim){.options = options, .seed = seed, .random = seed};
    sim = run;
    run->random = chance(); /* or a seed's numbers would be those of the one before, but for the first */
    sim->host = &sim->hosts[0];
    list_init(&sim->wires);
    history_init(&sim->history);
    if (sweeping())
        scenario_sweep(&sim->scenario);
    else
        scenario_choose(&sim->scenario);
    way_choose(&sim->scenario);
    sim->lives_left = sim->scenario.lives;
    sim->host_count = sim->scenario.hosts;
    sim->history.hosts = sim->scenario.hosts;
    sim->history.apart = !sim->scenario.probe;
    sim->history.names_us = sim->scenario.names_us;
    sim->history.missing_us = sim->scenario.missing_us;
    sim->history.slow_us = sim->scenario.calm ? 0 : 6 * SECOND;
    bool tight = !sim->scenario.calm && chance_one_in(8);
    vfs_init(&sim->vfs, tight ? sim->host_count * sim->scenario.disk - chance_below(2 * MIB) : GIB);
    sim->vfs.shared = sim->host_count > 1;
    (void)vfs_create(&sim->vfs, "/disk", true);
    vfs_sync_dir(&sim->vfs, "");
    for (unsigned i = 0; i < sim->host_count; i++)
        host_init(i);
    if (!sim->scenario.calm && chance_one_in(6)) {
        sim->heap_kth = 1 + chance_delay(20000);
        sim->heap_burst = chance_one_in(2) ? 1 : chance_between(1, 30);
        sim->heap_per_mille = chance_one_in(4) ? (unsigned)chance_between(1, 10) : 0;
    }
    clients_start();
    event_add(SECOND, false, write_back, NULL);
    sim->figures.seeds = 1;
    sim->figures.two_hosts = sim->host_count > 1;
    bool good = true;
    while (good && sim->phase != PHASE_OVER)
        good = step();
    sim->history.lied = sim->figures.torn + sim->figures.flips + sim->figures.going + sim->figures.beyond_index > 0;
    if (good)
        good = history_judge(&sim->history, sim->why, sizeof sim->why);
    run_fini();
    sim = NULL;
    return good;
}
