/* pair.c - the bound: a sender and a receiver over loopback that do nothing else.
 *
 *     pair [--pool SIZE]        a line of output when it is ready, then a job a line of standard input, bytes a second of each a line of
 *                               output
 *
 * A job: get|put|asked [size=SIZE] [connections=N] [seconds=S] [send-buffer=SIZE] (else the kernel's choice). `get`: the server sends
 * messages from random places of a mapping as large as a pool (pool.h), the client receives all of a connection into one buffer of the
 * message's size. `asked`: the same, one message at a time on one connection, each when a byte has asked for it; what comes out are the
 * percentiles of the time from the byte to the message's end. `put`: the client sends from random places of such a mapping, the server
 * receives into random places of its own. Server and client are two processes of one thread each. Nothing is parsed, checked or answered:
 * what comes out is what the socket gives on this machine in this minute. The first tenth of the time does not count.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/text.h"
#include "client/kvctl/histogram.h"
#include "test/bench/pool.h"

enum { MAX_CONNECTIONS = 256, WARM_UP_PERCENT = 10, TURN_BYTES = 1 << 20, LINE_BYTES = 256, SERVER_SECONDS = 3600 };

struct plan { /* what the client sends first on each connection */
    bool put, asked;
    uint64_t size, connections;
    uint64_t send_buffer; /* 0: as the kernel has it */
    double seconds;
};

struct stream {
    int fd;
    uint8_t *at;     /* of the message under way */
    uint64_t left;   /* of it */
    uint64_t number; /* of the next */
};

struct side {
    const struct plan *plan;
    const struct pool *pool; /* NULL: all messages go to `buffer` */
    uint8_t *buffer;
    bool sending;
    struct stream streams[MAX_CONNECTIONS];
};

static void die(const char *what)
{
    fprintf(stderr, "pair: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* One turn of one connection: at most TURN_BYTES where there are others, so that all get theirs. Returns the bytes moved; -1 at the end. */
static int64_t turn(struct side *side, struct stream *stream)
{
    const uint64_t size = side->plan->size;
    const int flags = MSG_NOSIGNAL | (side->plan->connections > 1 ? MSG_DONTWAIT : 0);
    int64_t moved = 0;
    while (moved < TURN_BYTES) {
        if (stream->left == 0) {
            stream->at = side->pool ? pool_place(side->pool, stream->number++, size) : side->buffer;
            stream->left = size;
        }
        const ssize_t n =
            side->sending ? send(stream->fd, stream->at, stream->left, flags) : recv(stream->fd, stream->at, stream->left, flags);
        if (n < 0 && errno == EAGAIN)
            return moved;
        if (n <= 0)
            return -1;
        stream->at += n;
        stream->left -= (uint64_t)n;
        moved += n;
    }
    return moved;
}

static void wait_for_any(struct pollfd *polls, uint64_t count)
{
    if (count > 1 && poll(polls, (nfds_t)count, 100) < 0 && errno != EINTR)
        die("poll");
}

/* Move bytes until `seconds` are over, or the other side has gone. Returns bytes a second, without the first tenth. */
static double run(struct side *side, double seconds)
{
    const uint64_t connections = side->plan->connections;
    struct pollfd polls[MAX_CONNECTIONS];
    for (uint64_t i = 0; i < connections; i++)
        polls[i] = (struct pollfd){.fd = side->streams[i].fd, .events = side->sending ? POLLOUT : POLLIN};
    const double begun = now_s(), end = begun + seconds;
    double counted_from = begun + seconds * WARM_UP_PERCENT / 100, now = begun;
    uint64_t bytes = 0;
    bool counting = false;
    while (now < end) {
        if (!counting && now >= counted_from) {
            counting = true;
            counted_from = now;
            bytes = 0;
        }
        wait_for_any(polls, connections);
        for (uint64_t i = 0; i < connections; i++) {
            const int64_t moved = connections == 1 || polls[i].revents ? turn(side, &side->streams[i]) : 0;
            if (moved < 0)
                return 0;
            bytes += (uint64_t)moved;
        }
        now = now_s();
    }
    return (double)bytes / (now - counted_from);
}

static uint64_t now_ns(void)
{
    return (uint64_t)(now_s() * 1e9);
}

/* One message. False: the other side has gone. */
static bool move_one(struct side *side)
{
    int64_t moved;
    side->streams[0].left = 0;
    for (uint64_t bytes = 0; bytes < side->plan->size; bytes += (uint64_t)moved) {
        moved = turn(side, &side->streams[0]);
        if (moved < 0)
            return false;
    }
    return true;
}

static void run_asked_for(struct side *side)
{
    char byte;
    while (recv(side->streams[0].fd, &byte, 1, 0) == 1 && move_one(side))
        ;
}

/* As with run(), the first tenth does not count. */
static void run_asking(struct side *side, double seconds, struct histogram *latencies)
{
    const uint64_t begun = now_ns(), end = begun + (uint64_t)(seconds * 1e9);
    const uint64_t counted_from = begun + (end - begun) * WARM_UP_PERCENT / 100;
    histogram_init(latencies);
    for (uint64_t asked = begun; asked < end || latencies->count == 0; asked = now_ns()) {
        if (send(side->streams[0].fd, "", 1, MSG_NOSIGNAL) != 1 || !move_one(side))
            die("asking");
        if (asked >= counted_from)
            histogram_add(latencies, now_ns() - asked);
    }
}

static void tune(int fd, const struct plan *plan)
{
    const int on = 1, send_buffer = (int)plan->send_buffer;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (send_buffer > 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
}

static void hang_up(struct side *side)
{
    for (uint64_t i = 0; i < side->plan->connections; i++)
        close(side->streams[i].fd);
}

/* ---- server ---- */

static int accept_one(int listener, struct plan *plan)
{
    const int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        die("accept");
    if (recv(fd, plan, sizeof *plan, MSG_WAITALL) != sizeof *plan)
        die("recv");
    tune(fd, plan);
    return fd;
}

static void serve(const struct pool *pool, int listener)
{
    for (;;) {
        static struct side side;
        struct plan plan;
        side.streams[0] = (struct stream){.fd = accept_one(listener, &plan)};
        for (uint64_t i = 1; i < plan.connections; i++)
            side.streams[i] = (struct stream){.fd = accept_one(listener, &plan), .number = i << 40};
        side.plan = &plan;
        side.pool = pool;
        side.sending = !plan.put;
        if (plan.asked)
            run_asked_for(&side);
        else
            (void)run(&side, SERVER_SECONDS); /* until the client goes */
        hang_up(&side);
    }
}

/* ---- client ---- */

static struct histogram latencies;

static double ask(const struct plan *plan, const struct pool *pool, const struct sockaddr_in *where)
{
    static struct side side;
    side =
        (struct side){.plan = plan, .pool = plan->put ? pool : NULL, .buffer = plan->put ? NULL : malloc(plan->size), .sending = plan->put};
    for (uint64_t i = 0; i < plan->connections; i++) {
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        side.streams[i] = (struct stream){.fd = fd, .number = i << 40};
        if (fd < 0 || connect(fd, (const struct sockaddr *)where, sizeof *where) < 0)
            die("connect");
        tune(fd, plan);
        if (send(fd, plan, sizeof *plan, MSG_NOSIGNAL) != sizeof *plan)
            die("send");
    }
    double rate = 0;
    if (plan->asked)
        run_asking(&side, plan->seconds, &latencies);
    else
        rate = run(&side, plan->seconds);
    hang_up(&side);
    free(side.buffer);
    return rate;
}

static bool take_word(struct plan *plan, const char *word)
{
    if (strncmp(word, "size=", 5) == 0)
        return text_to_size(word + 5, &plan->size) && plan->size > 0;
    if (strncmp(word, "send-buffer=", 12) == 0)
        return text_to_size(word + 12, &plan->send_buffer) && plan->send_buffer <= GIB;
    if (strncmp(word, "connections=", 12) == 0)
        return text_to_u64(word + 12, &plan->connections) && plan->connections >= 1 && plan->connections <= MAX_CONNECTIONS;
    return strncmp(word, "seconds=", 8) == 0 && (plan->seconds = atof(word + 8)) > 0;
}

static bool parse(struct plan *plan, char *line)
{
    char *rest = NULL;
    const char *what = strtok_r(line, " \n", &rest);
    *plan = (struct plan){.size = MIB, .connections = 1, .seconds = 1};
    if (!what || (strcmp(what, "get") != 0 && strcmp(what, "put") != 0 && strcmp(what, "asked") != 0))
        return false;
    plan->put = strcmp(what, "put") == 0;
    plan->asked = strcmp(what, "asked") == 0;
    for (const char *word = strtok_r(NULL, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
        if (!take_word(plan, word))
            return false;
    return !plan->asked || plan->connections == 1;
}

static void answer(const struct plan *plan, double rate)
{
    if (plan->asked)
        printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}\n", (double)histogram_at(&latencies, 500) / 1e3,
               (double)histogram_at(&latencies, 990) / 1e3, (double)histogram_at(&latencies, 999) / 1e3);
    else
        printf("%.0f\n", rate);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof where;
    static char line[LINE_BYTES];
    uint64_t bytes = GIB;
    struct plan plan;
    struct pool pool;

    if (argc != 1 && (argc != 3 || strcmp(argv[1], "--pool") != 0 || !text_to_size(argv[2], &bytes))) {
        fprintf(stderr, "usage: pair [--pool SIZE] <jobs\n");
        return 2;
    }
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&where, sizeof where) < 0 || listen(listener, MAX_CONNECTIONS) < 0 ||
        getsockname(listener, (struct sockaddr *)&where, &len) < 0)
        die("listen");
    const pid_t server = fork(); /* before the pool: each side writes its own */
    if (server < 0)
        die("fork");
    if (server == 0)
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pool_init(&pool, bytes) != 0)
        die("the pool");
    if (server == 0)
        serve(&pool, listener);
    const struct plan hello = {.size = min_u64(bytes, TURN_BYTES), .connections = 1, .seconds = 1e-9};
    (void)ask(&hello, &pool, &where); /* the other side's pool is there, too */
    printf("0\n");
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!parse(&plan, line))
            die("no job");
        if (plan.size > bytes)
            die("no job");
        answer(&plan, ask(&plan, &pool, &where));
    }
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
    return 0;
}
