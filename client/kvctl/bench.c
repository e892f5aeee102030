/* kvctl bench: a simple load, with the same bytes and the same percentiles as a replay. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "client/kvctl/content.h"
#include "client/kvctl/crew.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

enum { MAX_CONNECTIONS = 256, MAX_DEPTH = 4096, KEY_BYTES = 48, MAX_WRONG_LINES = 10, PUT_EVERY = 10 };

#define DEFAULT_VALUE_BYTES (1 * MIB)
#define MAX_VALUE_BYTES (256 * MIB)
#define MAX_BUFFER_BYTES (1 * GIB) /* of all connections together */
#define READY_BYTES (256 * MIB)    /* out of which values are put: what the processor's caches do not hold */
#define READY_SEED 0x6b7662656e6368u
#define MAX_KEYS ((uint64_t)1 << 32)
#define MAX_SECONDS 1e6

enum bench_op { OP_PUT, OP_GET, OP_EXISTS, OP_MIXED };

struct counts {
    uint64_t puts, hits, misses, wrong, busy, refused;
    int refusal; /* the first */
    uint64_t bytes_read, bytes_written;
};

struct latencies {
    struct histogram put, get, exists; /* ns, of a call */
};

struct bench {
    struct ctl *ctl;
    enum bench_op op;
    uint64_t value_bytes, connections, depth, keys;
    uint64_t max_count; /* of keys to do */
    double seconds;
    bool verify;
    uint8_t *ready; /* READY_BYTES and a value more of READY_SEED's content; every value is a piece of it */
    uint64_t deadline_ns;
    struct crew crew;
    struct bench_worker **workers;
    _Atomic uint64_t taken; /* keys */
    _Atomic uint64_t wrong_lines;
    _Atomic int code;
};

struct bench_worker {
    struct bench *bench;
    struct kvd *kvd;
    uint8_t *buffer;             /* depth values */
    uint64_t numbers[MAX_DEPTH]; /* of this call's keys */
    char key_texts[MAX_DEPTH][KEY_BYTES];
    struct kvd_key keys[MAX_DEPTH];
    struct kvd_item items[MAX_DEPTH];
    uint8_t present[MAX_DEPTH];
    struct counts counts;
    struct latencies latencies;
};

static void bench_stop(struct bench *bench, int code)
{
    int none = 0;
    atomic_compare_exchange_strong(&bench->code, &none, code);
    crew_stop(&bench->crew);
}

/* ---- calls ---- */

static void make_key(struct bench_worker *worker, size_t index, uint64_t number)
{
    char *text = worker->key_texts[index];
    const int len = snprintf(text, KEY_BYTES, "bench/%" PRIu64 "/%" PRIu64, worker->bench->value_bytes, number);

    worker->numbers[index] = number;
    worker->keys[index] = (struct kvd_key){text, (size_t)len};
}

/* Where a value lies among what is ready. */
static uint64_t place_of(const struct bench_worker *worker, size_t index)
{
    return content_seed(worker->bench->value_bytes, worker->numbers[index]) % (READY_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
}

static void count_failed(struct counts *counts, int result)
{
    if (result == KVD_ERR_BUSY)
        counts->busy++;
    else if (result == KVD_ERR_CORRUPT || result == KVD_ERR_BUFFER)
        counts->wrong++;
    else if (counts->refused++ == 0)
        counts->refusal = result;
}

static int call_put(struct bench_worker *worker, size_t count, unsigned flags)
{
    const size_t bytes = (size_t)worker->bench->value_bytes;
    struct counts *counts = &worker->counts;

    for (size_t i = 0; i < count; i++)
        worker->items[i] = (struct kvd_item){.key = worker->keys[i], .value = worker->bench->ready + place_of(worker, i), .len = bytes};
    const uint64_t start_ns = crew_now_ns();
    const int result = kvd_mput(worker->kvd, worker->items, count, flags);
    if (result < 0)
        return result;
    histogram_add(&worker->latencies.put, crew_now_ns() - start_ns);
    for (size_t i = 0; i < count; i++) {
        if (worker->items[i].result < 0)
            count_failed(counts, worker->items[i].result);
        else
            counts->puts++;
        counts->bytes_written += worker->items[i].result == KVD_OK ? bytes : 0;
    }
    return KVD_OK;
}

static void check_value(struct bench_worker *worker, size_t index)
{
    const struct kvd_item *item = &worker->items[index];
    struct bench *bench = worker->bench;
    const bool whole = item->len == bench->value_bytes;
    uint64_t offset = item->len;

    if (whole &&
        (!bench->verify || content_check(item->buffer, item->len, content_from(READY_SEED, place_of(worker, index)), &offset) == 0))
        return;
    worker->counts.wrong++;
    if (atomic_fetch_add(&bench->wrong_lines, 1) < MAX_WRONG_LINES)
        ctl_say(bench->ctl, EXIT_REFUSED, "wrong: %s: %s at offset %" PRIu64, worker->key_texts[index],
                whole ? "a wrong byte" : "another length, ends", offset);
}

static int call_get(struct bench_worker *worker, size_t count)
{
    const size_t bytes = (size_t)worker->bench->value_bytes;
    struct counts *counts = &worker->counts;

    for (size_t i = 0; i < count; i++)
        worker->items[i] = (struct kvd_item){.key = worker->keys[i], .buffer = worker->buffer + i * bytes, .capacity = bytes};
    const uint64_t start_ns = crew_now_ns();
    const int result = kvd_mget(worker->kvd, worker->items, count, NULL);
    if (result < 0)
        return result;
    histogram_add(&worker->latencies.get, crew_now_ns() - start_ns);
    for (size_t i = 0; i < count; i++) {
        const struct kvd_item *item = &worker->items[i];
        if (item->result == KVD_OK) {
            counts->hits++;
            counts->bytes_read += item->len;
            check_value(worker, i);
        } else if (item->result == KVD_MISS) {
            counts->misses++;
        } else {
            count_failed(counts, item->result);
        }
    }
    return KVD_OK;
}

static int call_exists(struct bench_worker *worker, size_t count)
{
    const uint64_t start_ns = crew_now_ns();
    const int result = kvd_exists(worker->kvd, worker->keys, count, worker->present);
    if (result < 0)
        return result;
    histogram_add(&worker->latencies.exists, crew_now_ns() - start_ns);
    for (size_t i = 0; i < count; i++) {
        worker->counts.hits += worker->present[i] != 0;
        worker->counts.misses += worker->present[i] == 0;
    }
    return KVD_OK;
}

/* ---- threads ---- */

/* Take up to `depth` of `most` tickets; 0 when there are none left. */
static size_t take_tickets(struct bench *bench, uint64_t most, uint64_t *first)
{
    *first = atomic_fetch_add(&bench->taken, bench->depth);
    return *first < most ? (size_t)min_u64(bench->depth, most - *first) : 0;
}

/* Before the clock starts: all keys are put that reads will ask for. */
static void fill_main(void *arg, unsigned index)
{
    struct bench *bench = arg;
    struct bench_worker *worker = bench->workers[index];
    uint64_t first = 0;

    for (;;) {
        const size_t count = crew_stopped(&bench->crew) ? 0 : take_tickets(bench, bench->keys, &first);
        if (count == 0)
            return;
        for (size_t i = 0; i < count; i++)
            make_key(worker, i, first + i);
        const int result = call_put(worker, count, 0);
        if (result < 0) {
            bench_stop(bench, ctl_failed(bench->ctl, worker->kvd, result, "put"));
            return;
        }
    }
}

static int call(struct bench_worker *worker, uint64_t first, size_t count)
{
    const struct bench *bench = worker->bench;
    const uint64_t turn = first / bench->depth;
    const bool put = bench->op == OP_PUT || (bench->op == OP_MIXED && turn % PUT_EVERY == PUT_EVERY - 1);

    for (size_t i = 0; i < count; i++)
        make_key(worker, i, (put ? first + i : content_seed(first, i)) % bench->keys);
    if (put)
        return call_put(worker, count, KVD_PUT_REPLACE);
    return bench->op == OP_EXISTS ? call_exists(worker, count) : call_get(worker, count);
}

static void load_main(void *arg, unsigned index)
{
    struct bench *bench = arg;
    struct bench_worker *worker = bench->workers[index];
    uint64_t first = 0;

    while (!crew_stopped(&bench->crew) && crew_now_ns() < bench->deadline_ns) {
        const size_t count = take_tickets(bench, bench->max_count, &first);
        if (count == 0)
            return;
        const int result = call(worker, first, count);
        if (result < 0) {
            bench_stop(bench, ctl_failed(bench->ctl, worker->kvd, result, "stopped early"));
            return;
        }
    }
}

static void worker_free(struct bench_worker *worker)
{
    if (!worker)
        return;
    kvd_close(worker->kvd);
    free(worker->buffer);
    free(worker);
}

/* NULL after a line on stderr, with *code set. */
static struct bench_worker *worker_new(struct bench *bench, int *code)
{
    struct bench_worker *worker = calloc(1, sizeof *worker);

    if (worker)
        worker->buffer = malloc((size_t)(bench->depth * bench->value_bytes) + 1);
    if (!worker || !worker->buffer) {
        *code = ctl_say(bench->ctl, EXIT_REFUSED, "out of memory");
        goto fail;
    }
    worker->bench = bench;
    *code = ctl_connect_another(bench->ctl, &worker->kvd);
    if (*code)
        goto fail;
    return worker;

fail:
    worker_free(worker);
    return NULL;
}

/* Before the clock starts: a put's time is the put's alone. */
static int values_make(struct bench *bench)
{
    const size_t bytes = (size_t)(READY_BYTES + bench->value_bytes);
    bench->ready = malloc(bytes);
    if (!bench->ready)
        return ctl_say(bench->ctl, EXIT_REFUSED, "out of memory");
    content_fill(bench->ready, bytes, READY_SEED);
    return 0;
}

static int workers_open(struct bench *bench)
{
    int code = 0;

    bench->workers = calloc(bench->connections, sizeof(struct bench_worker *));
    if (!bench->workers)
        return ctl_say(bench->ctl, EXIT_REFUSED, "out of memory");
    for (uint64_t i = 0; i < bench->connections && code == 0; i++)
        bench->workers[i] = worker_new(bench, &code);
    return code;
}

static void workers_close(struct bench *bench)
{
    for (uint64_t i = 0; bench->workers && i < bench->connections; i++)
        worker_free(bench->workers[i]);
    free(bench->workers);
}

/* ---- the whole ---- */

/* All into the first one's. */
static const struct bench_worker *sum_up(const struct bench *bench)
{
    struct bench_worker *sum = bench->workers[0];

    for (uint64_t i = 1; i < bench->connections; i++) {
        const struct bench_worker *worker = bench->workers[i];
        const struct counts *from = &worker->counts;
        sum->counts.puts += from->puts;
        sum->counts.hits += from->hits;
        sum->counts.misses += from->misses;
        sum->counts.wrong += from->wrong;
        sum->counts.busy += from->busy;
        sum->counts.refusal = sum->counts.refused ? sum->counts.refusal : from->refusal;
        sum->counts.refused += from->refused;
        sum->counts.bytes_read += from->bytes_read;
        sum->counts.bytes_written += from->bytes_written;
        histogram_merge(&sum->latencies.put, &worker->latencies.put);
        histogram_merge(&sum->latencies.get, &worker->latencies.get);
        histogram_merge(&sum->latencies.exists, &worker->latencies.exists);
    }
    return sum;
}

static int print_results(const struct bench *bench, double seconds)
{
    const struct bench_worker *sum = sum_up(bench);
    const struct counts *counts = &sum->counts;
    const uint64_t ops = counts->puts + counts->hits + counts->misses;
    struct output output;

    output_begin(&output, bench->ctl->json);
    output_count(&output, "ops", ops);
    output_count(&output, "puts", counts->puts);
    output_count(&output, "hits", counts->hits);
    output_count(&output, "misses", counts->misses);
    output_count(&output, "wrong", counts->wrong);
    output_count(&output, "busy", counts->busy);
    output_count(&output, "refused", counts->refused);
    output_bytes(&output, "bytes_read", counts->bytes_read);
    output_bytes(&output, "bytes_written", counts->bytes_written);
    output_real(&output, "seconds", seconds);
    output_real(&output, "ops_per_second", (double)ops / seconds);
    output_rate(&output, "bytes_per_second", (double)(counts->bytes_read + counts->bytes_written) / seconds);
    output_latency(&output, "put_us", &sum->latencies.put);
    output_latency(&output, "get_us", &sum->latencies.get);
    output_latency(&output, "exists_us", &sum->latencies.exists);
    const int code = output_end(&output);
    if (counts->wrong + counts->busy + counts->refused > 0)
        return ctl_say(bench->ctl, EXIT_REFUSED, "%" PRIu64 " wrong, %" PRIu64 " busy, %" PRIu64 " refused%s%s", counts->wrong,
                       counts->busy, counts->refused, counts->refused ? ", the first: " : "",
                       counts->refused ? kvd_strerror(counts->refusal) : "");
    return code;
}

static int thread_failed(const struct bench *bench, int err)
{
    return ctl_say(bench->ctl, EXIT_REFUSED, "cannot start a thread: %s", error_text(err));
}

/* What was refused here counts among the results; the rest begins at nought. */
static int bench_fill(struct bench *bench)
{
    const int ended = crew_run(&bench->crew, (unsigned)bench->connections, fill_main, NULL, bench);

    for (uint64_t i = 0; i < bench->connections; i++) {
        struct bench_worker *worker = bench->workers[i];
        worker->counts = (struct counts){.busy = worker->counts.busy, .refused = worker->counts.refused, .refusal = worker->counts.refusal};
        histogram_init(&worker->latencies.put);
    }
    atomic_store(&bench->taken, 0);
    if (ended < 0)
        return thread_failed(bench, ended);
    return ended > 0 ? EXIT_SIGNAL + ended : atomic_load(&bench->code);
}

static int bench_load(struct bench *bench)
{
    const uint64_t start_ns = crew_now_ns();

    bench->ctl->results = true;
    bench->deadline_ns = bench->seconds > 0 ? start_ns + (uint64_t)(bench->seconds * 1e9) : UINT64_MAX;
    const int ended = crew_run(&bench->crew, (unsigned)bench->connections, load_main, NULL, bench);
    if (ended < 0)
        return thread_failed(bench, ended);
    const int code = print_results(bench, (double)(crew_now_ns() - start_ns) / 1e9);
    if (ended > 0)
        return EXIT_SIGNAL + ended;
    return atomic_load(&bench->code) ? atomic_load(&bench->code) : code;
}

static int parse_op(const struct ctl *ctl, enum bench_op *op)
{
    static const char *const NAMES[] = {"put", "get", "exists", "mixed"};
    const char *text = ctl->args->values[OPT_OP];
    unsigned at = OP_PUT;

    if (!text)
        text = "mixed";
    while (at <= OP_MIXED && strcmp(NAMES[at], text) != 0)
        at++;
    if (at > OP_MIXED)
        return ctl_usage(ctl, "--op %.60s: expected put, get, exists or mixed", text);
    *op = (enum bench_op)at;
    return 0;
}

static int bench_length(struct bench *bench)
{
    const struct ctl *ctl = bench->ctl;

    if (args_has(ctl->args, OPT_COUNT) && args_has(ctl->args, OPT_SECONDS))
        return ctl_usage(ctl, "either --seconds or --count");
    const int code = ctl_number(ctl, OPT_COUNT, UINT64_MAX / 2, 1, UINT64_MAX / 2, &bench->max_count);
    if (code || args_has(ctl->args, OPT_COUNT))
        return code;
    return ctl_real(ctl, OPT_SECONDS, 10, MAX_SECONDS, &bench->seconds);
}

static int bench_options(struct bench *bench)
{
    const struct ctl *ctl = bench->ctl;

    int code = parse_op(ctl, &bench->op);
    if (code == 0)
        code = ctl_size(ctl, OPT_SIZE, DEFAULT_VALUE_BYTES, 0, MAX_VALUE_BYTES, &bench->value_bytes);
    if (code == 0)
        code = ctl_number(ctl, OPT_CONNECTIONS, 1, 1, MAX_CONNECTIONS, &bench->connections);
    if (code == 0)
        code = ctl_number(ctl, OPT_DEPTH, 1, 1, MAX_DEPTH, &bench->depth);
    if (code == 0)
        code = ctl_number(ctl, OPT_KEYS, 64, 1, MAX_KEYS, &bench->keys);
    if (code == 0)
        code = bench_length(bench);
    if (code == 0 && bench->value_bytes * bench->depth * bench->connections > MAX_BUFFER_BYTES)
        return ctl_usage(ctl, "--size times --depth times --connections is more than 1 GiB");
    return code;
}

int cmd_bench(struct ctl *ctl)
{
    struct bench bench = {.ctl = ctl, .verify = args_has(ctl->args, OPT_VERIFY)};

    int code = bench_options(&bench);
    if (code)
        return code;
    crew_init(&bench.crew);
    code = values_make(&bench);
    if (code == 0)
        code = workers_open(&bench);
    if (code == 0 && bench.op != OP_PUT)
        code = bench_fill(&bench);
    if (code == 0)
        code = bench_load(&bench);
    workers_close(&bench);
    free(bench.ready);
    crew_fini(&bench.crew);
    return code;
}
