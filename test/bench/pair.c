/* pair.c - the bound: a sender and a receiver over loopback that do nothing else.
 *
 *     pair get|put --size BYTES [--connections N] [--seconds S] [--pool BYTES]
 *
 * `get`: the server sends messages from random places of a mapping as large as the pool (4 KiB aligned, touched beforehand), the client
 * receives all of them into one buffer of the message's size. `put`: the client sends from one buffer, the server receives into random
 * places of the mapping. Server and client are two processes of one thread each, as kvd and kvctl are. Nothing is parsed, checked or
 * answered: what comes out is what the socket gives on this machine in this minute. Prints bytes a second.
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
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/text.h"

enum { MAX_CONNECTIONS = 256, PLACE_BYTES = 4096, WARM_UP_PERCENT = 10, TURN_BYTES = 1 << 20 };

struct plan {
    bool put;
    uint64_t size, connections, pool;
    double seconds;
};

struct stream {
    int fd;
    uint8_t *at;     /* of the message under way */
    uint64_t left;   /* of it */
    uint64_t random; /* xorshift */
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

static uint8_t *mapping(uint64_t bytes)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        die("mmap");
    (void)madvise(at, bytes, MADV_HUGEPAGE);
    memset(at, 1, bytes);
    return at;
}

/* Where the next message lies: anywhere in the pool, or at its only place. */
static void next_message(struct stream *stream, uint8_t *pool, uint64_t pool_bytes, uint64_t size)
{
    stream->random ^= stream->random << 13;
    stream->random ^= stream->random >> 7;
    stream->random ^= stream->random << 17;
    uint64_t places = (pool_bytes - size) / PLACE_BYTES + 1;
    stream->at = pool + stream->random % places * PLACE_BYTES;
    stream->left = size;
}

/* One turn of one connection: at most TURN_BYTES, so that all get theirs. Returns the bytes moved; -1 at the end. */
static int64_t turn(struct stream *stream, bool sending, uint8_t *pool, uint64_t pool_bytes, uint64_t size)
{
    int64_t moved = 0;
    while (moved < TURN_BYTES) {
        if (stream->left == 0)
            next_message(stream, pool, pool_bytes, size);
        ssize_t n = sending ? send(stream->fd, stream->at, stream->left, MSG_DONTWAIT | MSG_NOSIGNAL)
                            : recv(stream->fd, stream->at, stream->left, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return moved;
        if (n <= 0)
            return -1;
        stream->at += n;
        stream->left -= (uint64_t)n;
        moved += n;
    }
    return moved;
}

/* Move bytes until `seconds` are over, or the other side has gone. Returns bytes a second, without the first tenth. */
static double run(const struct plan *plan, struct stream *streams, bool sending, uint8_t *pool, uint64_t pool_bytes)
{
    struct pollfd polls[MAX_CONNECTIONS];
    for (uint64_t i = 0; i < plan->connections; i++)
        polls[i] = (struct pollfd){.fd = streams[i].fd, .events = sending ? POLLOUT : POLLIN};
    double begun = now_s(), end = begun + plan->seconds, counted_from = begun + plan->seconds * WARM_UP_PERCENT / 100;
    uint64_t bytes = 0;
    bool counting = false;
    for (double now = begun; now < end; now = now_s()) {
        if (!counting && now >= counted_from) {
            counting = true;
            counted_from = now;
            bytes = 0;
        }
        if (poll(polls, (nfds_t)plan->connections, 100) < 0)
            die("poll");
        for (uint64_t i = 0; i < plan->connections; i++) {
            int64_t moved = polls[i].revents ? turn(&streams[i], sending, pool, pool_bytes, plan->size) : 0;
            if (moved < 0)
                return 0;
            bytes += (uint64_t)moved;
        }
    }
    return (double)bytes / (now_s() - counted_from);
}

static void tune(int fd)
{
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void serve(const struct plan *plan, int listener)
{
    struct stream streams[MAX_CONNECTIONS] = {0};
    uint8_t *pool = mapping(plan->pool);
    for (uint64_t i = 0; i < plan->connections; i++) {
        streams[i] = (struct stream){.fd = accept(listener, NULL, NULL), .random = 88172645463325252u + i};
        if (streams[i].fd < 0)
            die("accept");
        tune(streams[i].fd);
        if (send(streams[i].fd, "", 1, MSG_NOSIGNAL) != 1) /* its pool is there */
            die("send");
    }
    struct plan longer = *plan;
    longer.seconds += 60; /* until the client goes */
    (void)run(&longer, streams, !plan->put, pool, plan->pool);
}

static double ask(const struct plan *plan, const struct sockaddr_in *where)
{
    struct stream streams[MAX_CONNECTIONS] = {0};
    uint8_t *buffer = mapping(round_up(plan->size, PLACE_BYTES));
    for (uint64_t i = 0; i < plan->connections; i++) {
        streams[i] = (struct stream){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .random = 1 + i};
        if (streams[i].fd < 0 || connect(streams[i].fd, (const struct sockaddr *)where, sizeof *where) < 0)
            die("connect");
        tune(streams[i].fd);
        if (recv(streams[i].fd, buffer, 1, 0) != 1)
            die("recv");
    }
    return run(plan, streams, plan->put, buffer, plan->size);
}

static int usage(void)
{
    fprintf(stderr, "usage: pair get|put --size SIZE [--connections N] [--seconds S] [--pool SIZE]\n");
    return 2;
}

static bool parse(struct plan *plan, int argc, char **argv)
{
    *plan = (struct plan){.connections = 1, .seconds = 3, .pool = GIB};
    if (argc < 2 || (strcmp(argv[1], "get") != 0 && strcmp(argv[1], "put") != 0))
        return false;
    plan->put = strcmp(argv[1], "put") == 0;
    for (int i = 2; i + 1 < argc; i += 2) {
        bool ok = strcmp(argv[i], "--size") == 0          ? text_to_size(argv[i + 1], &plan->size)
                  : strcmp(argv[i], "--connections") == 0 ? text_to_u64(argv[i + 1], &plan->connections)
                  : strcmp(argv[i], "--pool") == 0        ? text_to_size(argv[i + 1], &plan->pool)
                                                          : false;
        if (strcmp(argv[i], "--seconds") == 0)
            ok = (plan->seconds = atof(argv[i + 1])) > 0;
        if (!ok)
            return false;
    }
    return argc % 2 == 0 && plan->size > 0 && plan->pool >= plan->size && plan->connections >= 1 && plan->connections <= MAX_CONNECTIONS;
}

int main(int argc, char **argv)
{
    struct plan plan;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof where;
    if (!parse(&plan, argc, argv))
        return usage();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&where, sizeof where) < 0 || listen(listener, MAX_CONNECTIONS) < 0 ||
        getsockname(listener, (struct sockaddr *)&where, &len) < 0)
        die("listen");
    pid_t server = fork();
    if (server < 0)
        die("fork");
    if (server == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(&plan, listener);
        _exit(0);
    }
    double rate = ask(&plan, &where);
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
    printf("%.0f\n", rate);
    return rate > 0 ? 0 : 1;
}
