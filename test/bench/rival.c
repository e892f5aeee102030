/* rival.c - a client of redis-server and memcached as good as `kvctl bench` is: a thread for each connection, a call pipelines `depth`
 * requests in one vectored write, values are received into one buffer, and latencies are those of calls.
 *
 *     rival redis|memcached put|get|exists --port N [--size SIZE] [--connections N] [--depth N] [--keys N] [--seconds S] [--variadic]
 *
 * put stores keys in turn, get reads keys at random that were put before, exists asks for `depth` keys of 48 bytes (pipelined, or in one
 * EXISTS with --variadic; redis only). Prints JSON: ops, bytes_per_second, ops_per_second, misses, and p50, p99, p999 of the calls in us.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/text.h"
#include "client/kvctl/crew.h"
#include "client/kvctl/histogram.h"

enum { KEY_BYTES = 64, HEAD_BYTES = 128, LINE_BYTES = 512, MAX_DEPTH = 4096, MAX_CONNECTIONS = 256 };
enum op { OP_PUT, OP_GET, OP_EXISTS };

struct plan {
    bool memcached, variadic;
    enum op op;
    uint64_t port, size, connections, depth, keys;
    double seconds;
    struct crew crew;
    struct worker *workers;
};

struct worker {
    struct plan *plan;
    int fd;
    uint64_t random, next;
    uint64_t ops, misses;
    bool failed;
    uint8_t *value;                        /* sent, or received into */
    char (*heads)[HEAD_BYTES + KEY_BYTES]; /* of the requests of one call */
    struct iovec *iov;
    char line[LINE_BYTES]; /* received, not looked at yet */
    size_t line_at, line_end;
    struct histogram latencies;
};

/* ---- bytes ---- */

static bool send_all(struct worker *worker, struct iovec *iov, size_t count)
{
    while (count > 0) {
        ssize_t sent = writev(worker->fd, iov, (int)(count < IOV_MAX ? count : IOV_MAX));
        if (sent < 0)
            return false;
        while (count > 0 && (size_t)sent >= iov->iov_len) {
            sent -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count > 0) {
            iov->iov_base = (char *)iov->iov_base + sent;
            iov->iov_len -= (size_t)sent;
        }
    }
    return true;
}

static bool fill_line(struct worker *worker)
{
    if (worker->line_at > 0) {
        memmove(worker->line, worker->line + worker->line_at, worker->line_end - worker->line_at);
        worker->line_end -= worker->line_at;
        worker->line_at = 0;
    }
    ssize_t n = worker->line_end < LINE_BYTES ? recv(worker->fd, worker->line + worker->line_end, LINE_BYTES - worker->line_end, 0) : 0;
    worker->line_end += n > 0 ? (size_t)n : 0;
    return n > 0;
}

/* A line without its CR LF, valid until the next call. */
static char *read_line(struct worker *worker)
{
    for (;;) {
        char *at = worker->line + worker->line_at;
        char *end = memchr(at, '\n', worker->line_end - worker->line_at);
        if (end) {
            worker->line_at = (size_t)(end + 1 - worker->line);
            end[-1] = '\0';
            return at;
        }
        if (!fill_line(worker))
            return NULL;
    }
}

/* A value and the CR LF behind it. What has come with the line is copied, the rest goes where it belongs. */
static bool read_value(struct worker *worker, uint64_t size)
{
    uint64_t have = min_u64(size, worker->line_end - worker->line_at);
    memcpy(worker->value, worker->line + worker->line_at, have);
    worker->line_at += have;
    while (have < size) {
        ssize_t n = recv(worker->fd, worker->value + have, size - have, 0);
        if (n <= 0)
            return false;
        have += (uint64_t)n;
    }
    while (worker->line_end - worker->line_at < 2)
        if (!fill_line(worker))
            return false;
    worker->line_at += 2;
    return true;
}

/* ---- calls ---- */

static int make_key(char *out, const struct plan *plan, uint64_t number)
{
    return snprintf(out, KEY_BYTES, "bench/%010" PRIu64 "/%031" PRIu64, plan->size, number);
}

static uint64_t pick(struct worker *worker)
{
    if (worker->plan->op == OP_PUT)
        return worker->next++ % worker->plan->keys;
    worker->random ^= worker->random << 13;
    worker->random ^= worker->random >> 7;
    worker->random ^= worker->random << 17;
    return worker->random % worker->plan->keys;
}

static int request_head(const struct plan *plan, char *out, const char *key, int key_len)
{
    size_t room = HEAD_BYTES + KEY_BYTES;
    if (plan->memcached)
        return plan->op == OP_PUT ? snprintf(out, room, "ms %s %" PRIu64 "\r\n", key, plan->size) : snprintf(out, room, "mg %s v\r\n", key);
    if (plan->op == OP_PUT)
        return snprintf(out, room, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%" PRIu64 "\r\n", key_len, key, plan->size);
    if (plan->op == OP_GET)
        return snprintf(out, room, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", key_len, key);
    if (plan->variadic)
        return snprintf(out, room, "$%d\r\n%s\r\n", key_len, key);
    return snprintf(out, room, "*2\r\n$6\r\nEXISTS\r\n$%d\r\n%s\r\n", key_len, key);
}

static bool send_call(struct worker *worker)
{
    const struct plan *plan = worker->plan;
    static char crlf[] = "\r\n";
    char key[KEY_BYTES], start[HEAD_BYTES];
    size_t count = 0;
    if (plan->variadic)
        worker->iov[count++] =
            (struct iovec){start, (size_t)snprintf(start, sizeof start, "*%" PRIu64 "\r\n$6\r\nEXISTS\r\n", plan->depth + 1)};
    for (uint64_t i = 0; i < plan->depth; i++) {
        int key_len = make_key(key, plan, pick(worker));
        worker->iov[count++] = (struct iovec){worker->heads[i], (size_t)request_head(plan, worker->heads[i], key, key_len)};
        if (plan->op != OP_PUT)
            continue;
        worker->iov[count++] = (struct iovec){worker->value, plan->size};
        worker->iov[count++] = (struct iovec){crlf, 2};
    }
    return send_all(worker, worker->iov, count);
}

static bool read_reply(struct worker *worker)
{
    const struct plan *plan = worker->plan;
    const char *line = read_line(worker);
    if (!line)
        return false;
    if (plan->op == OP_PUT)
        return strcmp(line, plan->memcached ? "HD" : "+OK") == 0;
    if (plan->op == OP_EXISTS) {
        worker->misses += plan->variadic ? plan->depth - strtoull(line + 1, NULL, 10) : line[1] == '0';
        return line[0] == ':';
    }
    bool missed = strcmp(line, plan->memcached ? "EN" : "$-1") == 0;
    worker->misses += missed;
    if (missed)
        return true;
    uint64_t size = strtoull(line + (plan->memcached ? 3 : 1), NULL, 10);
    return size == plan->size && read_value(worker, size);
}

static bool call(struct worker *worker)
{
    uint64_t replies = worker->plan->variadic ? 1 : worker->plan->depth;
    uint64_t begun_ns = crew_now_ns();
    bool ok = send_call(worker);
    while (ok && replies-- > 0)
        ok = read_reply(worker);
    histogram_add(&worker->latencies, crew_now_ns() - begun_ns);
    worker->ops += worker->plan->depth;
    return ok;
}

static void work(void *arg, unsigned index)
{
    struct plan *plan = arg;
    struct worker *worker = &plan->workers[index];
    uint64_t end_ns = crew_now_ns() + (uint64_t)(plan->seconds * 1e9);
    while (!worker->failed && !crew_stopped(&plan->crew) && crew_now_ns() < end_ns)
        worker->failed = !call(worker);
}

/* ---- the whole ---- */

static bool worker_init(struct worker *worker, struct plan *plan, unsigned index)
{
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)plan->port)};
    int on = 1;
    worker->plan = plan;
    worker->random = 88172645463325252u + index * 77;
    worker->next = plan->keys / plan->connections * index;
    worker->value = malloc(plan->size + 1);
    worker->heads = malloc(plan->depth * sizeof *worker->heads);
    worker->iov = calloc(3 * plan->depth + 1, sizeof *worker->iov);
    worker->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    histogram_init(&worker->latencies);
    if (!worker->value || !worker->heads || !worker->iov || worker->fd < 0 ||
        connect(worker->fd, (struct sockaddr *)&where, sizeof where) < 0)
        return false;
    memset(worker->value, 7, plan->size);
    return setsockopt(worker->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0;
}

static bool parse(struct plan *plan, int argc, char **argv)
{
    *plan = (struct plan){.size = MIB, .connections = 1, .depth = 1, .keys = 64, .seconds = 3};
    if (argc < 3)
        return false;
    plan->memcached = strcmp(argv[1], "memcached") == 0;
    plan->op = strcmp(argv[2], "put") == 0 ? OP_PUT : strcmp(argv[2], "get") == 0 ? OP_GET : OP_EXISTS;
    for (int i = 3; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool ok = strcmp(argv[i], "--port") == 0          ? text_to_u64(value, &plan->port)
                  : strcmp(argv[i], "--size") == 0        ? text_to_size(value, &plan->size)
                  : strcmp(argv[i], "--connections") == 0 ? text_to_u64(value, &plan->connections)
                  : strcmp(argv[i], "--depth") == 0       ? text_to_u64(value, &plan->depth)
                  : strcmp(argv[i], "--keys") == 0        ? text_to_u64(value, &plan->keys)
                  : strcmp(argv[i], "--seconds") == 0     ? (plan->seconds = atof(value)) > 0
                                                          : (plan->variadic = strcmp(argv[i], "--variadic") == 0);
        if (!ok)
            return false;
        i += strcmp(argv[i], "--variadic") != 0;
    }
    bool exists = plan->op == OP_EXISTS;
    return plan->port > 0 && plan->port < 65536 && plan->depth >= 1 && plan->depth <= MAX_DEPTH && plan->keys >= 1 &&
           plan->connections >= 1 && plan->connections <= MAX_CONNECTIONS && !(exists && plan->memcached) && (exists || !plan->variadic);
}

static int report(const struct plan *plan, double seconds)
{
    static struct histogram sum;
    uint64_t ops = 0, misses = 0;
    bool failed = false;
    for (uint64_t i = 0; i < plan->connections; i++) {
        histogram_merge(&sum, &plan->workers[i].latencies);
        ops += plan->workers[i].ops;
        misses += plan->workers[i].misses;
        failed |= plan->workers[i].failed;
    }
    uint64_t bytes = plan->op == OP_EXISTS ? 0 : (ops - misses) * plan->size;
    printf("{\"ops\": %" PRIu64 ", \"misses\": %" PRIu64 ", \"ops_per_second\": %.1f, \"bytes_per_second\": %.0f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f}\n",
           ops, misses, (double)ops / seconds, (double)bytes / seconds, (double)histogram_at(&sum, 500) / 1e3,
           (double)histogram_at(&sum, 990) / 1e3, (double)histogram_at(&sum, 999) / 1e3);
    return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    static struct plan plan;
    if (!parse(&plan, argc, argv)) {
        fprintf(stderr, "usage: rival redis|memcached put|get|exists --port N [--size SIZE] [--connections N] [--depth N] [--keys N] "
                        "[--seconds S] [--variadic]\n");
        return 2;
    }
    crew_init(&plan.crew);
    plan.workers = calloc(plan.connections, sizeof *plan.workers);
    for (unsigned i = 0; plan.workers && i < plan.connections; i++) {
        if (!worker_init(&plan.workers[i], &plan, i)) {
            fprintf(stderr, "rival: cannot connect to port %" PRIu64 ": %s\n", plan.port, strerror(errno));
            return 1;
        }
    }
    uint64_t begun_ns = crew_now_ns();
    if (!plan.workers || crew_run(&plan.crew, (unsigned)plan.connections, work, NULL, &plan) != 0)
        return 1;
    return report(&plan, (double)(crew_now_ns() - begun_ns) / 1e9);
}
