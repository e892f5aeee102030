/* kvctl replay: the requests of a trace against a server, each block's bytes made from its id. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "client/kvctl/content.h"
#include "client/kvctl/crew.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"
#include "client/kvctl/trace.h"

enum {
    MAX_CONNECTIONS = 256,
    KEY_BYTES = 48,       /* "replay/268435456/9007199254740992" and some */
    LEASE_MS = 60000,     /* the longest there is: reading and writing hundreds of blocks takes its time */
    MAX_WRONG_LINES = 10, /* then they are only counted */
};

#define DEFAULT_BLOCK_BYTES (256 * KIB)
#define MAX_BLOCK_BYTES (256 * MIB)
#define SLICE_BYTES (64 * MIB)  /* of blocks in memory for one connection at most, unless one block is larger */
#define BUFFERS_BYTES (1 * GIB) /* and for all connections together, likewise */
#define MAX_SPEED 1e6
#define MAX_WAIT_NS 1e18 /* some 30 years */

struct counts {
    uint64_t requests, references;
    uint64_t hits_memory, hits_disk, hits_peer;
    uint64_t puts, present;
    uint64_t missed; /* matched, and then not there: put again */
    uint64_t wrong, wrong_bytes;
    uint64_t busy, refused; /* blocks given up; what succeeds at a later try is not among them */
    int refusal;            /* the first */
    uint64_t bytes_read, bytes_written;
};

struct latencies {
    struct histogram match, first_byte, get, put; /* ns */
};

struct replay {
    struct ctl *ctl;
    uint64_t block_bytes, slice_blocks, connections;
    uint64_t max_requests;
    uint64_t total; /* requests that there are to do; 0: not known */
    double speed;   /* 0: as fast as it goes */
    bool verify, tty;
    uint64_t started_ns;
    struct crew crew;
    struct worker **workers;

    /* For progress; relaxed. */
    _Atomic uint64_t done, referenced, hit, bytes;
    _Atomic uint64_t wrong_lines;

    pthread_mutex_t lock; /* of what follows */
    struct trace trace;
    uint64_t taken;
    int code; /* the first exit code that is not 0 */
};

/* One thread's own. */
struct worker {
    struct replay *replay;
    struct kvd *kvd;
    uint8_t *buffer; /* slice_blocks of block_bytes */
    struct trace_request request;
    char key_texts[TRACE_MAX_IDS][KEY_BYTES];
    struct kvd_key keys[TRACE_MAX_IDS];
    struct kvd_item items[TRACE_MAX_IDS];
    uint32_t to_put[TRACE_MAX_IDS]; /* indices of keys */
    size_t to_put_count;
    struct counts counts;
    struct latencies latencies;
};

static void replay_stop(struct replay *replay, int code)
{
    pthread_mutex_lock(&replay->lock);
    if (replay->code == 0)
        replay->code = code;
    pthread_mutex_unlock(&replay->lock);
    crew_stop(&replay->crew);
}

/* ---- one request ---- */

static void make_keys(struct worker *worker)
{
    const uint64_t block_bytes = worker->replay->block_bytes;

    for (size_t i = 0; i < worker->request.count; i++) {
        const int len = snprintf(worker->key_texts[i], KEY_BYTES, "replay/%" PRIu64 "/%" PRIu64, block_bytes, worker->request.ids[i]);
        worker->keys[i] = (struct kvd_key){worker->key_texts[i], (size_t)len};
    }
}

static uint64_t seed_of(const struct worker *worker, size_t index)
{
    return content_seed(worker->replay->block_bytes, worker->request.ids[index]);
}

static void say_wrong(struct worker *worker, size_t index, const char *how, uint64_t offset)
{
    struct replay *replay = worker->replay;

    if (atomic_fetch_add(&replay->wrong_lines, 1) < MAX_WRONG_LINES)
        ctl_say(replay->ctl, EXIT_REFUSED, "wrong: %s: %s at offset %" PRIu64, worker->key_texts[index], how, offset);
}

/* Whether the bytes that came are the block's; they are compared only on --verify. */
static bool is_right(struct worker *worker, size_t index, const struct kvd_item *item)
{
    const uint64_t len = worker->replay->block_bytes;
    uint64_t offset = 0, wrong_bytes = 0;

    if (item->len != len) {
        say_wrong(worker, index, "another length, ends", item->len);
        return false;
    }
    if (worker->replay->verify)
        wrong_bytes = content_check(item->buffer, item->len, seed_of(worker, index), &offset);
    if (wrong_bytes == 0)
        return true;
    worker->counts.wrong_bytes += wrong_bytes;
    say_wrong(worker, index, "a wrong byte", offset);
    return false;
}

static void count_hit(struct worker *worker, size_t index, const struct kvd_item *item)
{
    struct counts *counts = &worker->counts;
    uint64_t *tier = item->tier == 'm' ? &counts->hits_memory : item->tier == 'd' ? &counts->hits_disk : &counts->hits_peer;

    ++*tier;
    counts->bytes_read += item->len;
    if (!is_right(worker, index, item))
        counts->wrong++;
}

/* A block that could not be read or written, for a reason of its own. */
static void count_failed(struct worker *worker, size_t index, int result)
{
    if (result == KVD_ERR_BUSY) {
        worker->counts.busy++;
    } else if (result == KVD_ERR_CORRUPT || result == KVD_ERR_BUFFER) {
        worker->counts.wrong++;
        say_wrong(worker, index, kvd_strerror(result), 0);
    } else if (worker->counts.refused++ == 0) {
        worker->counts.refusal = result;
    }
}

static void judge_get(struct worker *worker, size_t index, const struct kvd_item *item)
{
    if (item->result == KVD_OK) {
        count_hit(worker, index, item);
    } else if (item->result == KVD_MISS) {
        worker->counts.missed++;
        worker->to_put[worker->to_put_count++] = (uint32_t)index;
    } else {
        count_failed(worker, index, item->result);
    }
}

static void judge_put(struct worker *worker, size_t index, const struct kvd_item *item)
{
    if (item->result == KVD_OK) {
        worker->counts.puts++;
        worker->counts.bytes_written += item->len;
    } else if (item->result == KVD_PRESENT) {
        worker->counts.present++;
    } else {
        count_failed(worker, index, item->result);
    }
}

/* Blocks [from, from + count) of the request. Returns KVD_OK or the error that ended the call; adds to *took_ns. */
static int get_slice(struct worker *worker, size_t from, size_t count, uint64_t *first_byte_us, uint64_t *took_ns)
{
    const size_t block_bytes = (size_t)worker->replay->block_bytes;

    for (size_t i = 0; i < count; i++)
        worker->items[i] =
            (struct kvd_item){.key = worker->keys[from + i], .buffer = worker->buffer + i * block_bytes, .capacity = block_bytes};
    const uint64_t start_ns = crew_now_ns();
    const int result = kvd_mget(worker->kvd, worker->items, count, first_byte_us);
    *took_ns += crew_now_ns() - start_ns;
    for (size_t i = 0; i < count && result == KVD_OK; i++)
        judge_get(worker, from + i, &worker->items[i]);
    return result;
}

/* Read the first `count` blocks; those that are gone are added to what is to be put. */
static int get_blocks(struct worker *worker, size_t count)
{
    const size_t step = (size_t)worker->replay->slice_blocks;
    uint64_t first_byte_us = 0, took_ns = 0;

    for (size_t from = 0; from < count && !crew_stopped(&worker->replay->crew); from += step) {
        uint64_t slice_first_us = 0;
        const uint64_t before_us = took_ns / 1000;
        const int result = get_slice(worker, from, (size_t)min_u64(step, count - from), &slice_first_us, &took_ns);
        if (result < 0)
            return result;
        if (first_byte_us == 0 && slice_first_us > 0)
            first_byte_us = before_us + slice_first_us;
    }
    if (first_byte_us > 0)
        histogram_add(&worker->latencies.first_byte, first_byte_us * 1000);
    if (count > 0)
        histogram_add(&worker->latencies.get, took_ns);
    return KVD_OK;
}

static int put_slice(struct worker *worker, const uint32_t *indices, size_t count, uint64_t *took_ns)
{
    const size_t block_bytes = (size_t)worker->replay->block_bytes;

    for (size_t i = 0; i < count; i++) {
        uint8_t *value = worker->buffer + i * block_bytes;
        content_fill(value, block_bytes, seed_of(worker, indices[i]));
        worker->items[i] = (struct kvd_item){.key = worker->keys[indices[i]], .value = value, .len = block_bytes};
    }
    const uint64_t start_ns = crew_now_ns();
    const int result = kvd_mput(worker->kvd, worker->items, count, 0);
    *took_ns += crew_now_ns() - start_ns;
    for (size_t i = 0; i < count && result == KVD_OK; i++)
        judge_put(worker, indices[i], &worker->items[i]);
    return result;
}

static int put_blocks(struct worker *worker)
{
    const size_t step = (size_t)worker->replay->slice_blocks, count = worker->to_put_count;
    uint64_t took_ns = 0;

    for (size_t from = 0; from < count && !crew_stopped(&worker->replay->crew); from += step) {
        const int result = put_slice(worker, worker->to_put + from, (size_t)min_u64(step, count - from), &took_ns);
        if (result < 0)
            return result;
    }
    if (count > 0)
        histogram_add(&worker->latencies.put, took_ns);
    return KVD_OK;
}

/* Match, get what is there, put the rest, release. */
static int do_blocks(struct worker *worker)
{
    const size_t count = worker->request.count;
    struct kvd_matched matched = {0};

    make_keys(worker);
    worker->to_put_count = 0;
    const uint64_t start_ns = crew_now_ns();
    int result = kvd_match(worker->kvd, worker->keys, count, KVD_MATCH_LEASE, LEASE_MS, &matched);
    if (result < 0)
        return result;
    histogram_add(&worker->latencies.match, crew_now_ns() - start_ns);
    matched.count = (size_t)min_u64(matched.count, count);
    result = get_blocks(worker, matched.count);
    for (size_t i = matched.count; i < count; i++)
        worker->to_put[worker->to_put_count++] = (uint32_t)i;
    if (result >= 0)
        result = put_blocks(worker);
    if (result >= 0 && matched.lease)
        result = kvd_release(worker->kvd, matched.lease);
    return result;
}

static uint64_t hits_of(const struct counts *counts)
{
    return counts->hits_memory + counts->hits_disk + counts->hits_peer;
}

static void add_progress(struct replay *replay, const struct counts *before, const struct counts *now)
{
    const uint64_t bytes_before = before->bytes_read + before->bytes_written;

    atomic_fetch_add_explicit(&replay->done, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&replay->referenced, now->references - before->references, memory_order_relaxed);
    atomic_fetch_add_explicit(&replay->hit, hits_of(now) - hits_of(before), memory_order_relaxed);
    atomic_fetch_add_explicit(&replay->bytes, now->bytes_read + now->bytes_written - bytes_before, memory_order_relaxed);
}

/* False when the replay is to stop. */
static bool do_request(struct worker *worker)
{
    const struct counts before = worker->counts;

    worker->counts.references += worker->request.count;
    const int result = worker->request.count > 0 ? do_blocks(worker) : KVD_OK;
    if (result < 0) {
        replay_stop(worker->replay, ctl_failed(worker->replay->ctl, worker->kvd, result, "stopped early"));
        return false;
    }
    worker->counts.requests++;
    add_progress(worker->replay, &before, &worker->counts);
    return true;
}

/* ---- one thread ---- */

static int bad_trace(const struct replay *replay, int err)
{
    const char *path = replay->ctl->args->operands[0];

    if (err == KVD_EPROTO)
        return ctl_say(replay->ctl, EXIT_USAGE, "%s:%" PRIu64 ": %s", path, replay->trace.line, replay->trace.why);
    return ctl_say(replay->ctl, EXIT_USAGE, "%s: %s", path, error_text(err));
}

/* The next request in the order of the trace; false at its end, or when it cannot be read on. */
static bool take_request(struct worker *worker)
{
    struct replay *replay = worker->replay;
    int result = TRACE_END, code = 0;

    pthread_mutex_lock(&replay->lock);
    if (replay->taken < replay->max_requests)
        result = trace_next(&replay->trace, &worker->request);
    replay->taken += result == TRACE_REQUEST;
    if (result < 0)
        code = bad_trace(replay, result);
    pthread_mutex_unlock(&replay->lock);
    if (code)
        replay_stop(replay, code);
    return result == TRACE_REQUEST;
}

static bool wait_for_start(struct worker *worker)
{
    struct replay *replay = worker->replay;

    if (replay->speed == 0)
        return !crew_stopped(&replay->crew);
    const double after_ns = worker->request.timestamp_ms * 1e6 / replay->speed;
    return crew_wait_until(&replay->crew, replay->started_ns + (uint64_t)(after_ns < MAX_WAIT_NS ? after_ns : MAX_WAIT_NS));
}

static void worker_main(void *arg, unsigned index)
{
    struct replay *replay = arg;
    struct worker *worker = replay->workers[index];

    while (!crew_stopped(&replay->crew) && take_request(worker) && wait_for_start(worker)) {
        if (!do_request(worker))
            return;
    }
}

static void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    kvd_close(worker->kvd);
    free(worker->buffer);
    free(worker);
}

/* NULL after a line on stderr, with *code set. */
static struct worker *worker_new(struct replay *replay, int *code)
{
    struct worker *worker = calloc(1, sizeof *worker);

    if (worker)
        worker->buffer = malloc((size_t)(replay->slice_blocks * replay->block_bytes)); /* touched as far as requests need it */
    if (!worker || !worker->buffer) {
        *code = ctl_say(replay->ctl, EXIT_REFUSED, "out of memory");
        goto fail;
    }
    worker->replay = replay;
    *code = ctl_connect_another(replay->ctl, &worker->kvd);
    if (*code)
        goto fail;
    return worker;

fail:
    worker_free(worker);
    return NULL;
}

/* ---- the whole ---- */

static int check_size(const struct replay *replay)
{
    const uint64_t limit = kvd_server(replay->workers[0]->kvd)->value_bytes;

    if (replay->block_bytes <= limit)
        return 0;
    return ctl_say(replay->ctl, EXIT_REFUSED, "--block-size %" PRIu64 ": this server takes values of at most %" PRIu64 " bytes",
                   replay->block_bytes, limit);
}

/* Connections are made before the clock starts, and so that one that fails is said once. */
static int workers_open(struct replay *replay)
{
    int code = 0;

    replay->workers = calloc(replay->connections, sizeof(struct worker *));
    if (!replay->workers)
        return ctl_say(replay->ctl, EXIT_REFUSED, "out of memory");
    for (uint64_t i = 0; i < replay->connections && code == 0; i++)
        replay->workers[i] = worker_new(replay, &code);
    return code ? code : check_size(replay);
}

static void workers_close(struct replay *replay)
{
    for (uint64_t i = 0; replay->workers && i < replay->connections; i++)
        worker_free(replay->workers[i]);
    free(replay->workers);
}

static void print_progress(void *arg)
{
    struct replay *replay = arg;
    const uint64_t done = atomic_load_explicit(&replay->done, memory_order_relaxed);
    const double referenced = (double)atomic_load_explicit(&replay->referenced, memory_order_relaxed);
    const double hit = (double)atomic_load_explicit(&replay->hit, memory_order_relaxed);
    const double bytes = (double)atomic_load_explicit(&replay->bytes, memory_order_relaxed);
    const double seconds = (double)(crew_now_ns() - replay->started_ns) / 1e9;
    char of[32] = "";

    if (replay->total > 0)
        snprintf(of, sizeof of, " of %" PRIu64, replay->total);
    fprintf(stderr, "\r%" PRIu64 "%s requests, %.1f %% hits, %.0f MB/s\033[K", done, of, referenced > 0 ? 100 * hit / referenced : 0,
            bytes / 1e6 / seconds);
}

static void add_counts(struct counts *to, const struct counts *from)
{
    to->requests += from->requests;
    to->references += from->references;
    to->hits_memory += from->hits_memory;
    to->hits_disk += from->hits_disk;
    to->hits_peer += from->hits_peer;
    to->puts += from->puts;
    to->present += from->present;
    to->missed += from->missed;
    to->wrong += from->wrong;
    to->wrong_bytes += from->wrong_bytes;
    to->busy += from->busy;
    to->refusal = to->refused ? to->refusal : from->refusal;
    to->refused += from->refused;
    to->bytes_read += from->bytes_read;
    to->bytes_written += from->bytes_written;
}

/* All into the first one's. */
static const struct worker *sum_up(const struct replay *replay)
{
    struct worker *sum = replay->workers[0];

    for (uint64_t i = 1; i < replay->connections; i++) {
        const struct worker *worker = replay->workers[i];
        add_counts(&sum->counts, &worker->counts);
        histogram_merge(&sum->latencies.match, &worker->latencies.match);
        histogram_merge(&sum->latencies.first_byte, &worker->latencies.first_byte);
        histogram_merge(&sum->latencies.get, &worker->latencies.get);
        histogram_merge(&sum->latencies.put, &worker->latencies.put);
    }
    return sum;
}

static void print_counts(struct output *output, const struct counts *counts)
{
    output_count(output, "requests", counts->requests);
    output_count(output, "references", counts->references);
    output_count(output, "hits", hits_of(counts));
    output_count(output, "hits_memory", counts->hits_memory);
    output_count(output, "hits_disk", counts->hits_disk);
    output_count(output, "hits_peer", counts->hits_peer);
    output_real(output, "hit_ratio", counts->references ? (double)hits_of(counts) / (double)counts->references : 0);
    output_count(output, "puts", counts->puts);
    output_count(output, "present", counts->present);
    output_count(output, "missed_after_match", counts->missed);
    output_count(output, "wrong", counts->wrong);
    output_count(output, "wrong_bytes", counts->wrong_bytes);
    output_count(output, "busy", counts->busy);
    output_count(output, "refused", counts->refused);
    output_bytes(output, "bytes_read", counts->bytes_read);
    output_bytes(output, "bytes_written", counts->bytes_written);
}

static int print_results(const struct replay *replay, double seconds)
{
    const struct worker *sum = sum_up(replay);
    const struct counts *counts = &sum->counts;
    struct output output;

    output_begin(&output, replay->ctl->json);
    print_counts(&output, counts);
    output_real(&output, "seconds", seconds);
    output_rate(&output, "read_bytes_per_second", (double)counts->bytes_read / seconds);
    output_rate(&output, "written_bytes_per_second", (double)counts->bytes_written / seconds);
    output_latency(&output, "match_us", &sum->latencies.match);
    output_latency(&output, "first_byte_us", &sum->latencies.first_byte);
    output_latency(&output, "get_us", &sum->latencies.get);
    output_latency(&output, "put_us", &sum->latencies.put);
    int code = output_end(&output);
    if (counts->wrong > 0)
        code = ctl_say(replay->ctl, EXIT_REFUSED, "%" PRIu64 " wrong blocks", counts->wrong);
    if (counts->busy + counts->refused > 0)
        code = ctl_say(replay->ctl, EXIT_REFUSED, "%" PRIu64 " blocks were refused, the first: %s", counts->busy + counts->refused,
                       kvd_strerror(counts->refused ? counts->refusal : KVD_ERR_BUSY));
    return code;
}

static int replay_run(struct replay *replay)
{
    replay->started_ns = crew_now_ns();
    replay->ctl->results = true;
    const int ended = crew_run(&replay->crew, (unsigned)replay->connections, worker_main, replay->tty ? print_progress : NULL, replay);
    const double seconds = (double)(crew_now_ns() - replay->started_ns) / 1e9;
    if (replay->tty)
        fputc('\n', stderr);
    if (ended < 0)
        return ctl_say(replay->ctl, EXIT_REFUSED, "cannot start a thread: %s", error_text(ended));

    const int code = print_results(replay, seconds);
    if (ended > 0)
        return EXIT_SIGNAL + ended;
    return replay->code ? replay->code : code;
}

/* Look through the whole trace first, if it can be read twice: a bad line is better found before the load than in the middle of it. */
static int look_through(struct replay *replay)
{
    int result = TRACE_REQUEST;

    if (!trace_rewind(&replay->trace))
        return 0;
    struct trace_request *request = malloc(sizeof *request);
    if (!request)
        return ctl_say(replay->ctl, EXIT_REFUSED, "out of memory");
    while (replay->total < replay->max_requests && result == TRACE_REQUEST) {
        result = trace_next(&replay->trace, request);
        replay->total += result == TRACE_REQUEST;
    }
    free(request);
    if (result < 0)
        return bad_trace(replay, result);
    trace_rewind(&replay->trace);
    return 0;
}

static int replay_trace(struct replay *replay)
{
    int code = look_through(replay);
    if (code == 0)
        code = workers_open(replay);
    if (code == 0)
        code = replay_run(replay);
    workers_close(replay);
    return code;
}

static int replay_options(struct replay *replay)
{
    const struct ctl *ctl = replay->ctl;
    const char *speed = ctl->args->values[OPT_SPEED];

    int code = ctl_size(ctl, OPT_BLOCK_SIZE, DEFAULT_BLOCK_BYTES, 1, MAX_BLOCK_BYTES, &replay->block_bytes);
    if (code == 0)
        code = ctl_number(ctl, OPT_REQUESTS, UINT64_MAX, 1, UINT64_MAX, &replay->max_requests);
    if (code == 0)
        code = ctl_number(ctl, OPT_CONNECTIONS, 1, 1, MAX_CONNECTIONS, &replay->connections);
    if (code == 0 && speed && strcmp(speed, "max") != 0)
        code = ctl_real(ctl, OPT_SPEED, 0, MAX_SPEED, &replay->speed);
    if (code)
        return code;
    const uint64_t bytes = min_u64(SLICE_BYTES, BUFFERS_BYTES / replay->connections);
    replay->slice_blocks = min_u64(max_u64(bytes / replay->block_bytes, 1), TRACE_MAX_IDS);
    return 0;
}

int cmd_replay(struct ctl *ctl)
{
    struct replay replay = {.ctl = ctl, .verify = args_has(ctl->args, OPT_VERIFY), .tty = isatty(STDERR_FILENO)};

    int code = replay_options(&replay);
    if (code)
        return code;
    const int err = trace_open(&replay.trace, ctl->args->operands[0]);
    if (err)
        return ctl_say(ctl, EXIT_USAGE, "%s: %s", ctl->args->operands[0], error_text(err));
    crew_init(&replay.crew);
    pthread_mutex_init(&replay.lock, NULL);
    code = replay_trace(&replay);
    pthread_mutex_destroy(&replay.lock);
    crew_fini(&replay.crew);
    trace_close(&replay.trace);
    return code;
}
