/* drive.c - one client for kvd, redis-server and memcached alike, so that what differs between two figures is the server.
 *
 *     drive [--pool SIZE]        {} when it is ready, then a job a line of standard input, a line of JSON for each
 *
 * A job: kvd|redis|redis-pipelined|memcached put|get|exists|match port=N [size=SIZE] [connections=N] [depth=N] [batch=N] [keys=N] [first=N]
 *        [seconds=S] [once] [may-miss] [check=N]
 *
 * A thread for each connection keeps `depth` requests under way. Values are sent from random places of a mapping as large as a pool
 * (pool.h), and all of a connection are received into one buffer. put and get take keys `first` to `first` + `keys` - 1 at random, or with
 * `once` each of them once, until none is left (or `seconds` are over); exists and match ask for `batch` keys in a request, and their
 * requests are ready before the clock runs. An answer of a wrong length, an error or (without `may-miss`) a miss fails the job. What the
 * bytes are is not looked at while the clock runs: `check` values (64) are read again afterwards and compared. The first tenth of the time
 * does not count.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/text.h"
#include "client/kvctl/crew.h"
#include "client/kvctl/histogram.h"
#include "test/bench/conn.h"
#include "test/bench/pool.h"
#include "test/bench/talk.h"

enum { MAX_DEPTH = 4096, MAX_BATCH = 4096, MAX_CONNECTIONS = 256, MAX_WORDS = 32, READY = 16, LINE_BYTES = 1024, LEAST_OPS = 2 };
enum { LARGE_BYTES = 256 << 10 }; /* from here on a request is sent as soon as there is room for it; below, half a window at once */

#define CHECKED_BYTES (128 * MIB) /* read again at most */

struct job {
    const struct talk *talk;
    const struct pool *pool;
    enum ask ask;
    uint64_t port, size, connections, depth, batch, keys, first, check;
    double seconds;
    bool once, may_miss;
    struct crew crew;
    struct worker **workers;
    uint64_t begun_ns, counted_from_ns, end_ns;
    _Atomic uint64_t taken; /* of `once` */
};

struct slot {
    uint64_t number;
    uint64_t begun_ns;
    char head[TALK_HEAD_BYTES];
};

struct worker {
    struct job *job;
    struct conn conn;
    uint64_t random;
    uint8_t *value;
    struct slot *slots;
    uint64_t *unused; /* a stack of slots: unused[0 .. unused_count) */
    uint64_t unused_count;
    uint64_t *order; /* a ring of slots, for answers that come in order */
    uint64_t order_at, under_way;
    bool ended;      /* nothing more to ask */
    bool over;       /* what is still under way is not waited for */
    uint64_t *again; /* a stack of numbers that were refused as BUSY, and are asked again at not_before_ns */
    uint64_t again_count, not_before_ns;
    struct buffer ready[READY];
    struct arena arena;
    uint64_t ops, misses, busy, disk; /* that count */
    uint64_t first_done_ns, last_done_ns;
    struct histogram latencies;
    char why[TALK_WHY_BYTES]; /* "": nothing failed */
};

/* ---- which keys ---- */

static void make_key(const struct job *job, uint64_t number, char key[TALK_KEY_BYTES + 1])
{
    (void)snprintf(key, TALK_KEY_BYTES + 1, "bench/%010" PRIu64 "/%031" PRIu64, job->size % 10000000000, number);
}

/* Each of the keys once, in an order that jumps. */
static uint64_t scattered(const struct job *job, uint64_t ticket)
{
    uint64_t stride = job->keys * 618 / 1000 | 1;
    for (;; stride += 2) { /* until it and the number of keys have no divisor in common */
        uint64_t a = job->keys, b = stride;
        while (b != 0) {
            const uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return ticket * stride % job->keys;
    }
}

/* A slow one goes on until it has answered often enough for a rate. */
static bool time_is_over(const struct worker *worker, uint64_t now_ns)
{
    return now_ns >= worker->job->end_ns && (worker->job->once || worker->ops >= LEAST_OPS);
}

static bool pick(struct worker *worker, uint64_t now_ns, uint64_t *number)
{
    struct job *job = worker->job;
    if (worker->again_count > 0) {
        *number = worker->again[--worker->again_count];
        return true;
    }
    if (time_is_over(worker, now_ns) || crew_stopped(&job->crew))
        return false;
    if (!job->once) {
        *number = job->first + pool_mix(worker->random++) % job->keys;
        return true;
    }
    const uint64_t ticket = atomic_fetch_add(&job->taken, 1);
    *number = job->first + (job->ask == ASK_PUT ? ticket : scattered(job, ticket));
    return ticket < job->keys;
}

/* ---- one request ---- */

static bool is_look(const struct job *job)
{
    return job->ask == ASK_EXISTS || job->ask == ASK_MATCH;
}

static void ask(struct worker *worker, uint64_t number, uint64_t now_ns)
{
    const struct job *job = worker->job;
    const uint64_t at = worker->unused[--worker->unused_count];
    struct slot *slot = &worker->slots[at];
    char key[TALK_KEY_BYTES + 1];

    *slot = (struct slot){.number = number, .begun_ns = now_ns};
    worker->order[(worker->order_at + worker->under_way++) % job->depth] = at;
    if (is_look(job)) {
        const struct buffer *ready = &worker->ready[number % READY];
        conn_out(&worker->conn, ready->at, ready->len);
        return;
    }
    make_key(job, number, key);
    conn_out(&worker->conn, slot->head, job->talk->head(job->ask, at, key, job->size, slot->head));
    if (job->ask != ASK_PUT)
        return;
    conn_out(&worker->conn, pool_place(job->pool, number, job->size), job->size);
    if (job->talk->tail[0])
        conn_out(&worker->conn, job->talk->tail, strlen(job->talk->tail));
}

/* Ask as much as the window has room for. */
static void top_up(struct worker *worker)
{
    const struct job *job = worker->job;
    const uint64_t least = !is_look(job) && job->size >= LARGE_BYTES ? 1 : (job->depth + 1) / 2;
    uint64_t number = 0;

    if (worker->unused_count < least || worker->ended)
        return;
    const uint64_t now_ns = crew_now_ns();
    while (worker->unused_count > 0) {
        if (worker->again_count > 0 && now_ns < worker->not_before_ns)
            return;
        if (!pick(worker, now_ns, &number)) {
            worker->ended = true;
            return;
        }
        ask(worker, number, now_ns);
    }
}

/* ---- one answer ---- */

static enum outcome read_answer(struct worker *worker, struct answer *answer)
{
    const struct job *job = worker->job;
    if (!is_look(job))
        return (job->ask == ASK_PUT ? job->talk->put_answer : job->talk->get_answer)(&worker->conn, answer);
    const uint64_t answers = job->talk->answers_each_key ? job->batch : 1;
    enum outcome outcome = ANSWER_OK;
    for (uint64_t i = 0; i < answers && outcome == ANSWER_OK; i++)
        outcome = job->talk->look_answer(&worker->conn, job->ask, job->batch / answers, &worker->arena, answer);
    return outcome;
}

/* Take `slot` out of the order; answers that say whose they are may come in any. */
static bool order_remove(struct worker *worker, uint64_t slot)
{
    const uint64_t depth = worker->job->depth;
    uint64_t i = 0;
    while (i < worker->under_way && worker->order[(worker->order_at + i) % depth] != slot)
        i++;
    if (i == worker->under_way)
        return false;
    for (; i > 0; i--)
        worker->order[(worker->order_at + i) % depth] = worker->order[(worker->order_at + i - 1) % depth];
    worker->order_at = (worker->order_at + 1) % depth;
    worker->under_way--;
    worker->unused[worker->unused_count++] = slot;
    return true;
}

static void count(struct worker *worker, const struct slot *slot, const struct answer *answer, enum outcome outcome)
{
    const struct job *job = worker->job;
    const uint64_t now_ns = crew_now_ns();
    worker->over = !job->once && time_is_over(worker, now_ns);
    if (worker->over || (!job->once && now_ns < job->counted_from_ns))
        return;
    if (worker->ops == 0)
        worker->first_done_ns = now_ns;
    worker->last_done_ns = now_ns;
    worker->ops++;
    worker->misses += outcome == ANSWER_MISS;
    worker->disk += answer->from_disk;
    histogram_add(&worker->latencies, now_ns - slot->begun_ns);
}

static bool failed(struct worker *worker, const char *why)
{
    if (!worker->why[0])
        (void)snprintf(worker->why, sizeof worker->why, "%s", why);
    crew_stop(&worker->job->crew);
    return false;
}

static bool take_answer(struct worker *worker)
{
    struct job *job = worker->job;
    struct answer answer = {.slot = worker->order[worker->order_at], .size = job->size, .value = worker->value};
    const enum outcome outcome = read_answer(worker, &answer);

    if (outcome == ANSWER_FAILED)
        return failed(worker, answer.why);
    if (!order_remove(worker, answer.slot))
        return failed(worker, "an answer to nothing that was asked");
    const struct slot *slot = &worker->slots[answer.slot];
    if (outcome == ANSWER_MISS && !job->may_miss)
        return failed(worker, "a miss, where all keys are there");
    if (outcome == ANSWER_BUSY) {
        worker->busy++;
        worker->ended = false;
        worker->again[worker->again_count++] = slot->number;
        worker->not_before_ns = crew_now_ns() + max_u64(answer.retry_ms, 1) * 1000000;
        return true;
    }
    count(worker, slot, &answer, outcome);
    return true;
}

/* ---- a worker ---- */

static bool send_out(struct worker *worker)
{
    while (!conn_sent(&worker->conn)) {
        int err = conn_send_some(&worker->conn);
        if (err == 0 && !conn_sent(&worker->conn))
            err = conn_wait(&worker->conn);
        if (err < 0)
            return failed(worker, strerror(-err));
        /* Answers to puts are short: they may be read whole while a value is on its way. */
        if (err == 1 && worker->job->ask == ASK_PUT && worker->under_way > 0 && !take_answer(worker))
            return false;
    }
    return true;
}

static void work(void *arg, unsigned index)
{
    struct worker *worker = ((struct job *)arg)->workers[index];
    for (;;) {
        top_up(worker);
        if (!send_out(worker) || worker->over)
            return;
        if (worker->under_way > 0) {
            if (!take_answer(worker) || worker->over)
                return;
        } else if (worker->again_count > 0) {
            (void)crew_wait_until(&worker->job->crew, worker->not_before_ns);
            if (crew_stopped(&worker->job->crew))
                return;
        } else if (worker->ended) {
            return;
        }
    }
}

static void make_ready(struct worker *worker)
{
    struct job *job = worker->job;
    static char texts[MAX_BATCH][TALK_KEY_BYTES + 1];
    static struct span keys[MAX_BATCH];

    for (unsigned i = 0; i < READY; i++) {
        buffer_init(&worker->ready[i]);
        for (uint64_t k = 0; k < job->batch; k++) {
            make_key(job, job->first + pool_mix(worker->random++) % job->keys, texts[k]);
            keys[k] = span_of(texts[k], TALK_KEY_BYTES);
        }
        job->talk->look(job->ask, keys, (uint32_t)job->batch, &worker->ready[i]);
    }
}

static struct worker *worker_new(struct job *job, unsigned index)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    worker->job = job;
    worker->conn.fd = -1;
    worker->random = (uint64_t)index << 40 ^ crew_now_ns();
    worker->value = malloc(job->size + 1);
    worker->slots = calloc(job->depth, sizeof *worker->slots);
    worker->unused = calloc(job->depth, sizeof *worker->unused);
    worker->order = calloc(job->depth, sizeof *worker->order);
    worker->again = calloc(job->depth, sizeof *worker->again);
    worker->unused_count = job->depth;
    for (uint64_t i = 0; worker->unused && i < job->depth; i++)
        worker->unused[i] = i;
    arena_init(&worker->arena);
    if (!worker->value || !worker->slots || !worker->unused || !worker->order || !worker->again) {
        (void)failed(worker, "out of memory");
        return worker;
    }
    memset(worker->value, 0, job->size);
    const int err =
        conn_open(&worker->conn, (uint16_t)job->port, job->ask == ASK_GET ? CONN_AHEAD_BEHIND_VALUES : CONN_AHEAD_BYTES, 3 * job->depth);
    if (err)
        (void)failed(worker, strerror(-err));
    else if (is_look(job))
        make_ready(worker);
    return worker;
}

static void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    conn_close(&worker->conn);
    for (unsigned i = 0; i < READY; i++)
        buffer_fini(&worker->ready[i]);
    arena_fini(&worker->arena);
    free(worker->again);
    free(worker->order);
    free(worker->unused);
    free(worker->slots);
    free(worker->value);
    free(worker);
}

/* ---- afterwards: are the bytes right? ---- */

static bool check_one(struct worker *worker, uint64_t number)
{
    struct job *job = worker->job;
    struct answer answer = {.size = job->size, .value = worker->value};
    struct slot *slot = &worker->slots[0];
    char key[TALK_KEY_BYTES + 1];

    make_key(job, number, key);
    conn_out(&worker->conn, slot->head, job->talk->head(ASK_GET, 0, key, job->size, slot->head));
    int err = 0;
    while (err >= 0 && !conn_sent(&worker->conn)) {
        err = conn_send_some(&worker->conn);
        if (err == 0 && !conn_sent(&worker->conn))
            err = conn_wait(&worker->conn);
    }
    const enum outcome outcome = err < 0 ? ANSWER_FAILED : job->talk->get_answer(&worker->conn, &answer);
    if (outcome == ANSWER_FAILED)
        return failed(worker, err < 0 ? strerror(-err) : answer.why);
    if (outcome == ANSWER_MISS)
        return job->may_miss || failed(worker, "a miss, where all keys are there");
    return memcmp(worker->value, pool_place(job->pool, number, job->size), job->size) == 0 || failed(worker, "wrong bytes");
}

static void check(struct job *job)
{
    struct worker *worker = job->workers[0];
    conn_close(&worker->conn); /* answers may be under way on it */
    const int err = conn_open(&worker->conn, (uint16_t)job->port, CONN_AHEAD_BEHIND_VALUES, 3);
    if (err) {
        (void)failed(worker, strerror(-err));
        return;
    }
    const uint64_t most = min_u64(job->check, min_u64(job->keys, max_u64(CHECKED_BYTES / job->size, 1)));
    for (uint64_t i = 0; i < most; i++)
        if (!check_one(worker, job->first + pool_mix(worker->random++) % job->keys))
            return;
}

/* ---- a job ---- */

static bool take_word(struct job *job, const char *word)
{
    static const struct {
        const char *name;
        size_t at;
        uint64_t least, most;
    } NUMBERS[] = {
        {"port=", offsetof(struct job, port), 1, 65535},
        {"size=", offsetof(struct job, size), 1, GIB},
        {"connections=", offsetof(struct job, connections), 1, MAX_CONNECTIONS},
        {"depth=", offsetof(struct job, depth), 1, MAX_DEPTH},
        {"batch=", offsetof(struct job, batch), 1, MAX_BATCH},
        {"keys=", offsetof(struct job, keys), 1, (uint64_t)1 << 40},
        {"first=", offsetof(struct job, first), 0, (uint64_t)1 << 40},
        {"check=", offsetof(struct job, check), 0, (uint64_t)1 << 40},
    };
    if (strncmp(word, "seconds=", 8) == 0)
        return (job->seconds = atof(word + 8)) > 0;
    if (strcmp(word, "once") == 0)
        return job->once = true;
    if (strcmp(word, "may-miss") == 0)
        return job->may_miss = true;
    for (size_t i = 0; i < sizeof NUMBERS / sizeof NUMBERS[0]; i++) {
        const size_t len = strlen(NUMBERS[i].name);
        uint64_t value = 0;
        if (strncmp(word, NUMBERS[i].name, len) != 0)
            continue;
        if (!text_to_size(word + len, &value) || value < NUMBERS[i].least || value > NUMBERS[i].most)
            return false;
        memcpy((char *)job + NUMBERS[i].at, &value, sizeof value);
        return true;
    }
    return false;
}

static bool parse(struct job *job, char *line)
{
    static const char *const ASKS[] = {"put", "get", "exists", "match"};
    char *rest = NULL;
    const char *who = strtok_r(line, " \n", &rest), *what = strtok_r(NULL, " \n", &rest);
    unsigned at = 0;

    job->talk = who ? talk_find(who) : NULL;
    while (what && at < 4 && strcmp(ASKS[at], what) != 0)
        at++;
    if (!job->talk || !what || at == 4)
        return false;
    job->ask = (enum ask)at;
    for (const char *word = strtok_r(NULL, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
        if (!take_word(job, word))
            return false;
    if (job->seconds <= 0)
        job->seconds = job->once ? 3600 : 1;
    return job->port > 0 && job->size <= job->pool->bytes;
}

/* Each connection by itself: from its first answer that counts to its last. With `once`: all of it, from the start on. */
static double rate_of(const struct job *job, const struct worker *worker)
{
    if (job->once || worker->ops < LEAST_OPS || worker->last_done_ns == worker->first_done_ns)
        return (double)worker->ops * 1e9 / (double)max_u64(worker->last_done_ns - (job->once ? job->begun_ns : job->counted_from_ns), 1);
    return (double)(worker->ops - 1) * 1e9 / (double)(worker->last_done_ns - worker->first_done_ns);
}

static void report(const struct job *job)
{
    struct histogram *sum = job->workers[0] ? &job->workers[0]->latencies : NULL;
    uint64_t ops = 0, misses = 0, busy = 0, disk = 0, last_ns = job->begun_ns;
    double rate = 0;

    for (uint64_t i = 0; i < job->connections; i++) {
        const struct worker *worker = job->workers[i];
        if (!worker || worker->why[0]) {
            printf("{\"error\": \"%s %s\"}\n", job->talk->name, worker ? worker->why : "out of memory");
            return;
        }
        if (i > 0)
            histogram_merge(sum, &worker->latencies);
        ops += worker->ops;
        misses += worker->misses;
        busy += worker->busy;
        disk += worker->disk;
        rate += rate_of(job, worker);
        last_ns = max_u64(last_ns, worker->last_done_ns);
    }
    if (job->once) /* those who ended early do not go on */
        rate = (double)ops * 1e9 / (double)max_u64(last_ns - job->begun_ns, 1);
    if (ops == 0) {
        printf("{\"error\": \"%s answered nothing in time\"}\n", job->talk->name);
        return;
    }
    rate *= (double)(ops - misses) / (double)ops;
    printf("{\"ops\": %" PRIu64 ", \"misses\": %" PRIu64 ", \"busy\": %" PRIu64 ", \"disk\": %" PRIu64 ", \"seconds\": %.4f, "
           "\"ops_per_second\": %.1f, \"bytes_per_second\": %.0f, \"keys_per_second\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f}\n",
           ops, misses, busy, disk, (double)(last_ns - job->begun_ns) / 1e9, rate, is_look(job) ? 0.0 : rate * (double)job->size,
           is_look(job) ? rate * (double)job->batch : rate, (double)histogram_at(sum, 500) / 1e3, (double)histogram_at(sum, 990) / 1e3,
           (double)histogram_at(sum, 999) / 1e3);
}

static void job_run(const struct pool *pool, char *line)
{
    struct job job = {.pool = pool, .size = MIB, .connections = 1, .depth = 1, .batch = 1, .keys = 64, .check = 64};

    if (!parse(&job, line)) {
        printf("{\"error\": \"no job\"}\n");
        return;
    }
    crew_init(&job.crew);
    job.workers = calloc(job.connections, sizeof(struct worker *));
    for (unsigned i = 0; job.workers && i < job.connections; i++)
        job.workers[i] = worker_new(&job, i);
    job.begun_ns = crew_now_ns();
    job.counted_from_ns = job.begun_ns + (uint64_t)(job.seconds * 1e8);
    job.end_ns = job.begun_ns + (uint64_t)(job.seconds * 1e9);
    if (job.workers && !crew_stopped(&job.crew)) {
        const int ended = crew_run(&job.crew, (unsigned)job.connections, work, NULL, &job);
        if (ended == 0 && !is_look(&job) && !crew_stopped(&job.crew))
            check(&job);
        else if (ended > 0)
            exit(128 + ended);
    }
    if (job.workers)
        report(&job);
    for (unsigned i = 0; job.workers && i < job.connections; i++)
        worker_free(job.workers[i]);
    free(job.workers);
    crew_fini(&job.crew);
}

int main(int argc, char **argv)
{
    static char line[LINE_BYTES];
    uint64_t bytes = GIB;
    struct pool pool;

    for (int i = 1; i < argc; i += 2) {
        if (i + 1 >= argc || strcmp(argv[i], "--pool") != 0 || !text_to_size(argv[i + 1], &bytes)) {
            fprintf(stderr, "usage: drive [--pool SIZE] <jobs\n");
            return 2;
        }
    }
    if (pool_init(&pool, bytes) != 0) {
        fprintf(stderr, "drive: no memory for a pool\n");
        return 1;
    }
    printf("{}\n");
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        job_run(&pool, line);
        (void)fflush(stdout);
    }
    return 0;
}
