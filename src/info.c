/* INFO: sections of figures. docs/protocol.md lists them. */
#include <stdio.h>
#include <string.h>

#include "cluster/cluster.h"
#include "session.h"

/* A section is packed behind its own count, so figures are gathered first. */
struct figures {
    struct buffer rows;
    uint32_t count;
};

static void number(struct figures *figures, const char *name, uint64_t value)
{
    pack_text(&figures->rows, name);
    pack_u64(&figures->rows, value);
    figures->count++;
}

static void text(struct figures *figures, const char *name, const char *value)
{
    pack_text(&figures->rows, name);
    pack_text(&figures->rows, value);
    figures->count++;
}

struct sources {
    struct server_loop *here;
    const struct server *server;
    struct config settings;
    struct server_figures figures;
    struct conns_figures conns;
    struct store_info store;
};

static const char *state_name(const struct server_loop *here)
{
    static const char *const names[] = {"starting", "serving", "draining"};
    return here->state == SERVER_SERVING && here->server->no_puts ? "draining" : names[here->state];
}

static void server_section(struct figures *out, const struct sources *from)
{
    const struct server *server = from->server;
    text(out, "version", KVD_VERSION);
    text(out, "node", server->config->node);
    text(out, "state", state_name(from->here));
    number(out, "uptime_ms", loop_now_ms(from->here->loop) - server->started_ms);
    number(out, "rss_bytes", loop_rss_bytes());
    number(out, "cpu_ms", loop_cpu_ms());
    number(out, "longest_step_us", from->store.longest_step.us);
    text(out, "longest_step", from->store.longest_step.what ? from->store.longest_step.what : "");
    number(out, "connections", figure(&from->figures.connections));
    number(out, "connections_total", figure(&from->figures.accepted));
    number(out, "requests_total", figure(&from->figures.requests));
    number(out, "refused_total", figure(&from->figures.refused));
    number(out, "busy_total", figure(&from->figures.busy));
    number(out, "bad_frames_total", figure(&from->figures.bad_frames));
    number(out, "cut_slow_readers_total", figure(&from->figures.cut_slow_readers));
    number(out, "cut_slow_senders_total", figure(&from->figures.cut_slow_senders));
    number(out, "reply_bytes", figure(&server->reply_bytes));
    number(out, "reply_limit_bytes", server_reply_limit(server));
    number(out, "request_bytes", figure(&server->request_bytes));
    number(out, "request_limit_bytes", server->config->request_memory);
    number(out, "received_bytes_total", figure(&from->figures.received_bytes));
    number(out, "sent_bytes_total", figure(&from->figures.sent_bytes));
    number(out, "zero_copy_sends_total", from->conns.zero_copy_sends);
    number(out, "zero_copy_bytes_total", from->conns.zero_copy_bytes);
    number(out, "zero_copy_copied_total", from->conns.zero_copy_copied);
    number(out, "zero_copy_fallbacks_total", from->conns.zero_copy_fallbacks);
    number(out, "zero_copy_lent_bytes", from->conns.zero_copy_lent_bytes);
}

/* Names of tokens are nobody's affair here. */
static void auth_section(struct figures *out, const struct sources *from)
{
    struct access *access = &from->here->server->access;
    text(out, "required", access->needs_token ? "yes" : "no");
    number(out, "tokens", access_tokens(access));
    number(out, "successes_total", figure(&from->figures.auths));
    number(out, "failures_total", figure(&from->figures.failed_auths));
    number(out, "denied_total", figure(&from->figures.denied));
    number(out, "cut_strangers_total", figure(&from->figures.cut_strangers));
    number(out, "cut_token_gone_total", figure(&from->figures.cut_token_gone));
    number(out, "file_reads_total", figure(&access->reads));
    number(out, "file_failures_total", figure(&access->failed_reads));
}

static void objects_section(struct figures *out, const struct sources *from)
{
    const struct store_info *store = &from->store;
    const struct store_figures *figures = &store->figures;
    number(out, "objects", store->table.objects);
    number(out, "table_bytes", store->table.heap_bytes);
    number(out, "table_limit_bytes", from->server->config->index_memory);
    number(out, "table_most_moved", store->table.most_moved);
    number(out, "table_busy_total", figures->index_busy);
    number(out, "mortal", store->table.mortal);
    number(out, "pinned", store->table.pinned);
    number(out, "leased", store->table.leased);
    number(out, "leases", store->leases);
    number(out, "lease_holds", store->lease_holds);
    number(out, "puts_total", figures->puts);
    number(out, "puts_present_total", figures->puts_present);
    number(out, "puts_replaced_total", figures->puts_replaced);
    number(out, "puts_corrupt_total", figures->puts_corrupt);
    number(out, "put_bytes_total", figures->put_bytes);
    number(out, "gets_total", figures->gets);
    number(out, "hits_memory_total", figures->hits_memory);
    number(out, "hits_disk_total", figures->hits_disk);
    number(out, "misses_total", figures->misses);
    number(out, "get_bytes_total", figures->get_bytes);
    number(out, "get_disk_bytes_total", figures->get_disk_bytes);
    number(out, "loads_shared_total", figures->loads_shared);
    number(out, "exists_keys_total", figures->exists_keys);
    number(out, "match_keys_total", figures->match_keys);
    number(out, "match_hits_total", figures->match_hits);
    number(out, "removed_total", figures->removed);
    number(out, "expired_total", figures->expired);
    number(out, "found_total", figures->found);
}

static void memory_section(struct figures *out, const struct sources *from)
{
    const struct store_info *store = &from->store;
    number(out, "limit_bytes", store->memory_limit_bytes);
    number(out, "used_bytes", store->memory_used_bytes);
    text(out, "huge_pages", store->backing.huge_pages);
    number(out, "huge_bytes", store->backing.huge_bytes);
    number(out, "touched_bytes", store->backing.touched_bytes);
    number(out, "objects", store->table.in_memory);
    number(out, "object_bytes", store->table.memory_bytes);
    number(out, "writing_objects", store->table.writing);
    number(out, "held_memory_only_bytes", store->held_memory_only_bytes);
    number(out, "inflight_bytes", store->inflight_bytes);
    number(out, "inflight_limit_bytes", store->inflight_limit_bytes);
    number(out, "evicted_total", store->figures.evicted);
    number(out, "promoted_total", store->figures.promoted);
    number(out, "waits_total", store->figures.waits);
    number(out, "waits_expired_total", store->figures.waits_expired);
    number(out, "given_up_total", store->figures.puts_given_up);
}

/* 0: there is none, nothing is given up ahead of need. */
static uint64_t mark(uint64_t bytes)
{
    return bytes == UINT64_MAX ? 0 : bytes;
}

static void disk_section(struct figures *out, const struct sources *from)
{
    const struct store_info *store = &from->store;
    const struct disk_figures *disk = &store->disk;
    text(out, "state", store->disk_state);
    text(out, "off_reason", store->disk_off_reason);
    text(out, "trouble", store->disk_trouble);
    text(out, "dir", from->server->config->dir);
    text(out, "persist", from->settings.persist);
    text(out, "when_behind", from->settings.when_behind);
    number(out, "limit_bytes", disk->limit_bytes);
    number(out, "used_bytes", disk->used_bytes);
    number(out, "objects", store->table.on_disk);
    number(out, "object_bytes", store->table.disk_bytes);
    number(out, "segments", disk->segments);
    number(out, "foreign_files", disk->foreign_files);
    number(out, "newer_segments", disk->newer_segments);
    number(out, "unreadable_segments", disk->unreadable_segments);
    number(out, "damaged_segments", disk->damaged_segments);
    number(out, "queued_bytes", disk->queued_bytes);
    number(out, "queued_records", disk->queued_records);
    number(out, "queue_limit_bytes", store->queue_limit_bytes);
    number(out, "drain_bytes_per_s", disk->drain_bytes_per_s);
    number(out, "writes_total", disk->writes);
    number(out, "written_bytes_total", disk->written_bytes);
    number(out, "written_value_bytes_total", store->figures.written_value_bytes);
    number(out, "write_errors_total", disk->write_errors);
    number(out, "write_retries_total", disk->write_retries);
    number(out, "index_writes_total", disk->index_writes);
    number(out, "reads_total", disk->reads);
    number(out, "read_bytes_total", disk->read_bytes);
    number(out, "read_errors_total", disk->read_errors);
    number(out, "read_short_total", disk->read_short);
    number(out, "read_corrupt_total", disk->read_corrupt);
    number(out, "syncs_total", disk->syncs);
    number(out, "sync_errors_total", disk->sync_errors);
    number(out, "kills_total", disk->kills);
    number(out, "kill_batches_total", disk->kill_batches);
    number(out, "remove_log_bytes", disk->log_bytes);
    number(out, "remove_log_compactions_total", disk->log_compactions);
    number(out, "free_bytes", disk->free_bytes);
    number(out, "free_least_bytes", disk->free_least_bytes);
    number(out, "reclaim_high_bytes", mark(store->reclaim_high_bytes));
    number(out, "reclaim_low_bytes", mark(store->reclaim_low_bytes));
    number(out, "reclaimed_segments_total", store->figures.reclaimed_segments);
    number(out, "reclaimed_objects_total", store->figures.reclaimed_objects);
    number(out, "probes_total", store->figures.probes);
    number(out, "probes_found_total", store->figures.probes_found);
    number(out, "given_back_segments_total", store->figures.given_back_segments);
    number(out, "reclaims_left_total", store->figures.reclaims_left);
    number(out, "rewritten_objects_total", store->figures.rewritten_objects);
    number(out, "rewritten_bytes_total", store->figures.rewritten_bytes);
    number(out, "rewrite_failures_total", store->figures.rewrite_failures);
    number(out, "rewrite_budget_bytes", store->rewrite_budget_bytes);
    number(out, "recovery_ms", disk->recovery_ms);
    number(out, "recovered_records", disk->recovered_records);
    number(out, "recovered_killed", disk->recovered_killed);
    number(out, "recovered_expired", store->figures.recovered_expired);
    number(out, "recovered_walked", disk->recovered_walked);
    number(out, "recovered_beyond_index", store->figures.recovered_beyond_index);
    number(out, "torn_tails", disk->torn_tails);
    number(out, "bad_indexes", disk->bad_indexes);
    number(out, "trips_total", disk->trips);
    number(out, "trip_probes_total", disk->probes);
    number(out, "kills_owed", disk->kills_owed);
    number(out, "kills_forgotten_total", disk->kills_forgotten);
    number(out, "kills_spared_total", disk->kills_spared);
}

/* P6: what was forgotten, and what was not written though the policy says so, by reason. */
static void dropped_section(struct figures *out, const struct sources *from)
{
    const struct store_figures *figures = &from->store.figures;
    number(out, "evicted_total", figures->dropped_evicted);
    number(out, "untouched_total", figures->dropped_untouched);
    number(out, "shed_total", figures->dropped_shed);
    number(out, "reclaimed_total", figures->dropped_reclaimed);
    number(out, "corrupt_total", figures->dropped_corrupt);
    number(out, "short_total", figures->dropped_short);
    number(out, "elsewhere_total", figures->dropped_elsewhere);
    number(out, "index_total", figures->dropped_index);
    number(out, "versions_total", figures->dropped_versions);
    number(out, "unwritten_collision_total", figures->unwritten_collision);
    number(out, "unwritten_off_total", figures->unwritten_off);
    number(out, "unwritten_full_total", figures->unwritten_full);
    number(out, "unwritten_error_total", figures->unwritten_error);
    number(out, "unwritten_memory_total", figures->unwritten_memory);
    number(out, "unwritten_closing_total", figures->unwritten_closing);
    number(out, "unwritten_shed_total", figures->unwritten_shed);
    number(out, "read_errors_total", figures->read_errors);
    number(out, "read_timeouts_total", figures->read_timeouts);
}

static void scrub_section(struct figures *out, const struct sources *from)
{
    const struct store_scrubbed *scrub = &from->store.scrub;
    text(out, "state", scrub->running ? "running" : scrub->stopped ? "stopped" : "idle");
    number(out, "run", scrub->run);
    number(out, "records", scrub->records);
    number(out, "bytes", scrub->bytes);
    number(out, "of_records", scrub->of_records);
    number(out, "of_bytes", scrub->of_bytes);
    number(out, "bad", scrub->bad);
    number(out, "unreadable", scrub->unreadable);
    number(out, "bytes_per_s", scrub->bytes_per_s);
    number(out, "took_ms", scrub->ms);
}

static void files_section(struct figures *out, const struct sources *from)
{
    text(out, "io", loop_io_kind(from->server->store_loop));
    number(out, "reads_total", from->store.files.reads);
    number(out, "writes_total", from->store.files.writes);
    number(out, "syncs_total", from->store.files.syncs);
    number(out, "other_total", from->store.files.other);
    number(out, "read_bytes_total", from->store.files.read_bytes);
    number(out, "written_bytes_total", from->store.files.written_bytes);
    number(out, "in_flight", from->store.files.in_flight);
    number(out, "waiting", from->store.files.waiting);
    number(out, "reads_in_flight", from->store.files.reads_in_flight);
    number(out, "reads_in_flight_bytes", from->store.files.reads_in_flight_bytes);
    number(out, "reads_waiting", from->store.files.reads_waiting);
    number(out, "reads_first_total", from->store.files.reads_first);
    number(out, "fixed_bytes", from->store.files.fixed_bytes);
    number(out, "fixed_slices", from->store.files.fixed_slices);
    number(out, "fixed_reads_total", from->store.files.fixed_reads);
    number(out, "fixed_writes_total", from->store.files.fixed_writes);
}

/* How many connections each loop has, in their order. */
static void connections_text(char *out, size_t out_len, const struct server *server)
{
    size_t len = 0;
    for (unsigned i = 0; i < server->loop_count && len < out_len; i++)
        len += (size_t)snprintf(out + len, out_len - len, "%s%llu", i ? " " : "",
                                (unsigned long long)figure(&server->loops[i].figures.connections));
}

static void loops_section(struct figures *out, const struct sources *from)
{
    const struct loop_holds *holds = &from->store.holds;
    char connections[LOOPS_MOST * 8];
    connections_text(connections, sizeof connections, from->server);
    number(out, "loops", from->server->loop_count);
    text(out, "connections", connections);
    number(out, "lock_taken_total", holds->taken);
    number(out, "lock_holds_sampled_total", holds->sampled);
    number(out, "lock_hold_longest_us", holds->longest_us);
    for (unsigned i = 0; i + 1 < LOOP_HOLDS; i++) {
        char name[32];
        snprintf(name, sizeof name, "lock_holds_below_%u_us", 1u << i);
        number(out, name, holds->counts[i]);
    }
    number(out, "lock_holds_longer", holds->counts[LOOP_HOLDS - 1]);
}

static void ops_section(struct figures *out, const struct sources *from)
{
    uint64_t unknown = 0;
    for (unsigned op = 0; op < 256; op++) {
        const char *name = op_name((uint8_t)op);
        if (name)
            number(out, name, figure(&from->figures.ops[op]));
        else
            unknown += figure(&from->figures.ops[op]);
    }
    number(out, "unknown", unknown);
}

static const char *node_state(const struct cluster_peer_info *node)
{
    if (!node->near)
        return "silent";
    return node->acting ? "acting" : "fenced";
}

static void node_row(struct figures *out, const struct cluster_peer_info *node)
{
    char name[NODE_ID_MAX + 8], value[NODE_ADDRESS_MAX + 384];
    snprintf(name, sizeof name, "node.%s", node->id);
    int len = snprintf(value, sizeof value, "%s%s %s start=%llu addr=%s", node->self ? "self " : "", node->member ? "member" : "outside",
                       node_state(node), (unsigned long long)node->start, node->address);
    if (!node->self)
        snprintf(
            value + len, sizeof value - (size_t)len,
            " acknowledged=%llu round_trip_us=%llu answered=%llu failures=%llu late=%llu slow=%llu sent_bytes=%llu received_bytes=%llu",
            (unsigned long long)node->acknowledged, (unsigned long long)node->round_trip_us, (unsigned long long)node->answered,
            (unsigned long long)node->failures, (unsigned long long)node->late, (unsigned long long)node->slow,
            (unsigned long long)node->sent_bytes, (unsigned long long)node->received_bytes);
    text(out, name, value);
}

static void cluster_section(struct figures *out, const struct sources *from)
{
    struct cluster_info info;
    if (!from->server->cluster) {
        text(out, "state", "alone");
        return;
    }
    cluster_info(from->server->cluster, &info);
    text(out, "state", info.state);
    number(out, "start", info.start);
    number(out, "view", info.view);
    number(out, "acknowledged", info.acknowledged);
    number(out, "effective", info.effective);
    number(out, "members", info.members);
    number(out, "floor", info.floor);
    number(out, "lease_left_ms", info.lease_left_ms);
    number(out, "renewals_by_file_total", info.renewals_by_file);
    number(out, "renewals_by_promise_total", info.renewals_by_promise);
    number(out, "views_published_total", info.views_published);
    number(out, "left_out_total", info.left_out);
    number(out, "file_failures_total", info.file_failures);
    number(out, "denied_joins_total", figure(&from->figures.denied_joins));
    for (uint32_t i = 0; i < info.count; i++)
        node_row(out, &info.peers[i]);
}

static const struct {
    const char *name;
    void (*fill)(struct figures *out, const struct sources *from);
} sections[] = {
    {"server", server_section}, {"auth", auth_section},       {"objects", objects_section}, {"memory", memory_section},
    {"disk", disk_section},     {"dropped", dropped_section}, {"scrub", scrub_section},     {"files", files_section},
    {"loops", loops_section},   {"ops", ops_section},         {"cluster", cluster_section},
};
enum { SECTION_COUNT = sizeof sections / sizeof sections[0] };

static void pack_section(struct buffer *out, size_t index, const struct sources *from)
{
    struct figures figures = {0};
    buffer_init(&figures.rows);
    sections[index].fill(&figures, from);
    pack_text(out, sections[index].name);
    pack_map(out, figures.count);
    pack_raw(out, span_of(figures.rows.at, figures.rows.len));
    out->failed |= figures.rows.failed;
    buffer_fini(&figures.rows);
}

static void conns_sum(const struct server *server, struct conns_figures *sum)
{
    for (unsigned i = 0; i < server->loop_count; i++) {
        struct conns_figures more;
        conns_figures(server->loops[i].loop, &more);
        sum->zero_copy_sends += more.zero_copy_sends;
        sum->zero_copy_bytes += more.zero_copy_bytes;
        sum->zero_copy_copied += more.zero_copy_copied;
        sum->zero_copy_fallbacks += more.zero_copy_fallbacks;
        sum->zero_copy_lent_bytes += more.zero_copy_lent_bytes;
    }
}

bool info_pack(struct server_loop *here, struct buffer *out, struct span section)
{
    struct sources from = {.here = here, .server = here->server};
    store_info(here->server->store, &from.store);
    server_settings(here->server, &from.settings);
    server_figures_sum(here, &from.figures);
    conns_sum(here->server, &from.conns);
    uint32_t count = 0;
    for (size_t i = 0; i < SECTION_COUNT; i++)
        count += section.len == 0 || span_equal(section, span_text(sections[i].name));
    if (count == 0)
        return false;
    pack_map(out, count);
    for (size_t i = 0; i < SECTION_COUNT; i++)
        if (section.len == 0 || span_equal(section, span_text(sections[i].name)))
            pack_section(out, i, &from);
    return true;
}
