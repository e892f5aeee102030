/* Reads, writes and syncs: each test runs with the ring and with threads. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop/file.h"
#include "loop/fs.h"
#include "test/support/scratch.h"

struct lab {
    struct loop *loop;
    char dir[256];
    char path[300];
    struct file file;
    char logged[512];
};

static void lab_sink(void *arg, const char *line, size_t len)
{
    struct lab *lab = arg;
    if (len < sizeof lab->logged)
        memcpy(lab->logged, line, len);
}

struct lab_log {
    struct lab lab;
    struct log log;
};

static struct lab *lab_open(struct loop_options options, unsigned flags)
{
    struct lab_log *both = calloc(1, sizeof *both);
    struct lab *lab = &both->lab;
    both->log = (struct log){.level = LOG_INFO, .sink = lab_sink, .arg = lab};
    scratch_folder(lab->dir, sizeof lab->dir);
    snprintf(lab->path, sizeof lab->path, "%s/file", lab->dir);
    cr_assert_eq(loop_new(&lab->loop, &options, &both->log), 0);
    int err = fs_open(lab->loop, &lab->file, lab->path, FS_CREATE | flags);
    /* Held open, and gone from the folder whatever becomes of the test. */
    unlink(lab->path);
    rmdir(lab->dir);
    cr_assert_eq(err, 0);
    return lab;
}

static void lab_close(struct lab *lab)
{
    struct file_counts counts;
    loop_file_counts(lab->loop, &counts);
    cr_assert_eq(counts.in_flight, 0);
    cr_assert_eq(counts.waiting, 0);
    cr_assert_eq(fs_close(lab->loop, &lab->file), 0);
    cr_assert_eq(lab->file.fd, -1);
    rmdir(lab->dir); /* on FUSE not before */
    loop_free(lab->loop);
    free(CONTAINER_OF(lab, struct lab_log, lab));
}

static void stop_loop(struct file_op *op)
{
    loop_stop(op->loop);
}

typedef void (*start_fn)(struct loop *loop, struct file_op *op, file_op_fn fn);

static int64_t run_op(struct lab *lab, start_fn start, const struct iovec *iov, unsigned count, uint64_t offset)
{
    struct file_op op = {.file = &lab->file, .iov = iov, .iov_count = count, .offset = offset, .result = 77};
    start(lab->loop, &op, stop_loop);
    loop_run(lab->loop);
    return op.result;
}

static void fill(unsigned char *bytes, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1103515245u + 12345u;
        bytes[i] = (unsigned char)(seed >> 16);
    }
}

#define BOTH(name)                             \
    static void body_##name(bool forbid_ring); \
    Test(ring, name, .timeout = 30)            \
    {                                          \
        body_##name(false);                    \
    }                                          \
    Test(threads, name, .timeout = 30)         \
    {                                          \
        body_##name(true);                     \
    }                                          \
    static void body_##name(bool forbid_ring)

BOTH(kind_is_said)
{
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring}, 0);
    cr_assert_str_eq(loop_io_kind(lab->loop), forbid_ring ? "threads" : "io_uring");
    cr_assert_str_eq(lab->logged, "");
    lab_close(lab);
}

BOTH(write_sync_and_read_back_in_odd_pieces)
{
    enum { LEN = 1 << 20 };
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring}, 0);
    unsigned char *out = malloc(LEN);
    unsigned char *in = calloc(1, LEN);
    fill(out, LEN, 1);
    struct iovec put[3] = {{out, 1}, {out + 1, 70000}, {out + 70001, LEN - 70001}};
    struct iovec get[2] = {{in, 333333}, {in + 333333, LEN - 333333}};
    cr_assert_eq(run_op(lab, file_write_start, put, 3, 4097), LEN);
    cr_assert_eq(run_op(lab, file_sync_start, NULL, 0, 0), 0);
    cr_assert_eq(run_op(lab, file_read_start, get, 2, 4097), LEN);
    cr_assert_eq(memcmp(in, out, LEN), 0);
    struct file_counts counts;
    loop_file_counts(lab->loop, &counts);
    cr_assert_eq(counts.reads, 1);
    cr_assert_eq(counts.writes, 1);
    cr_assert_eq(counts.syncs, 1);
    cr_assert_eq(counts.other, 1); /* fs_open */
    cr_assert_eq(counts.read_bytes, LEN);
    cr_assert_eq(counts.written_bytes, LEN);
    free(out);
    free(in);
    lab_close(lab);
}

BOTH(end_of_file_and_errors)
{
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring}, 0);
    unsigned char bytes[100];
    struct iovec iov = {bytes, sizeof bytes};
    fill(bytes, sizeof bytes, 3);
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), 100);
    cr_assert_eq(run_op(lab, file_read_start, &iov, 1, 60), 40, "a short read is handed on");
    cr_assert_eq(run_op(lab, file_read_start, &iov, 1, 100), 0);
    cr_assert_eq(run_op(lab, file_read_start, &iov, 1, 1 << 20), 0);
    cr_assert_eq(run_op(lab, file_read_start, &iov, 0, 0), 0);
    int fd = lab->file.fd;
    lab->file.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), -EBADF);
    close(lab->file.fd);
    lab->file.fd = fd;
    iov.iov_base = (void *)8; /* the kernel's answer, not a signal */
    iov.iov_len = 0;
    cr_assert_eq(run_op(lab, file_read_start, &iov, 1, 0), 0);
    struct file_counts counts;
    loop_file_counts(lab->loop, &counts);
    cr_assert_eq(counts.read_bytes, 40);
    cr_assert_eq(counts.written_bytes, 100);
    lab_close(lab);
}

/* ---- reads go before writes ---- */

enum { RUSH_OPS = 400 };

struct rush {
    struct lab *lab;
    unsigned char *bytes;
    struct iovec iov;
    struct rush_op {
        struct file_op op;
        struct rush *rush;
    } ops[RUSH_OPS];
    unsigned left, writes_ended; /* of them, while reads waited */
    unsigned depth;
    bool writes_seen; /* under way, while reads waited */
};

/* While reads wait, writes have a fifth of the places, and that they do have. */
static void rush_look(struct file_op *op)
{
    struct rush *rush = CONTAINER_OF(op, struct rush_op, op)->rush;
    struct file_counts counts;
    loop_file_counts(rush->lab->loop, &counts);
    uint64_t writes = counts.in_flight - counts.reads_in_flight;
    unsigned most = rush->depth >= 5 ? rush->depth / 5 : 1;
    if (counts.reads_waiting > 0) {
        cr_assert_leq(writes, most, "%llu of %u", (unsigned long long)writes, rush->depth);
        rush->writes_seen |= writes > 0 || op->kind == FILE_WRITE;
        rush->writes_ended += op->kind == FILE_WRITE;
    }
    cr_assert_geq(op->result, 1);
    if (--rush->left == 0)
        loop_stop(rush->lab->loop);
}

static void rush_run(bool forbid_ring, unsigned depth)
{
    struct rush *rush = calloc(1, sizeof *rush);
    rush->depth = depth;
    rush->lab = lab_open((struct loop_options){.forbid_ring = forbid_ring, .io_depth = depth}, 0);
    rush->bytes = calloc(1, 1 << 16);
    rush->iov = (struct iovec){rush->bytes, 1 << 16};
    cr_assert_eq(run_op(rush->lab, file_write_start, &rush->iov, 1, 0), 1 << 16);
    rush->left = RUSH_OPS;
    for (unsigned i = 0; i < RUSH_OPS; i++) {
        struct rush_op *op = &rush->ops[i];
        *op = (struct rush_op){.rush = rush, .op = {.file = &rush->lab->file, .iov = &rush->iov, .iov_count = 1}};
        (i < RUSH_OPS / 2 ? file_write_start : file_read_start)(rush->lab->loop, &op->op, rush_look);
    }
    loop_run(rush->lab->loop);
    struct file_counts counts;
    loop_file_counts(rush->lab->loop, &counts);
    cr_assert_gt(counts.reads_first, 0);
    cr_assert(rush->writes_seen, "writes starve");
    if (depth == 1) /* one after the other */
        cr_assert(rush->writes_ended >= RUSH_OPS / 2 / 5 && rush->writes_ended <= RUSH_OPS / 2 / 4, "%u", rush->writes_ended);
    lab_close(rush->lab);
    free(rush->bytes);
    free(rush);
}

BOTH(reads_that_wait_have_four_fifths_of_the_places)
{
    rush_run(forbid_ring, 10);
    rush_run(forbid_ring, 64);
}

BOTH(reads_go_first_where_there_are_hardly_any_places)
{
    rush_run(forbid_ring, 1);
    rush_run(forbid_ring, 3);
}

/* ---- bytes in flight ---- */

enum { HEAVY_OPS = 24, HEAVY_BYTES = 1 << 20 };

struct heavy {
    struct file_op ops[HEAVY_OPS];
    struct iovec iov;
    uint64_t most_bytes;
    unsigned left;
};

static void heavy_read(struct file_op *op)
{
    struct heavy *heavy = CONTAINER_OF(op, struct heavy, ops[op->offset]);
    struct file_counts counts;
    loop_file_counts(op->loop, &counts);
    cr_assert_eq(counts.reads_in_flight_bytes, counts.reads_in_flight * HEAVY_BYTES);
    uint64_t bytes = counts.reads_in_flight_bytes + HEAVY_BYTES; /* this one was, too */
    if (bytes > heavy->most_bytes)
        heavy->most_bytes = bytes;
    cr_assert_geq(op->result, 1);
    if (--heavy->left == 0)
        loop_stop(op->loop);
}

/* Returns the most bytes of reads that were in flight. */
static uint64_t heavy_run(bool forbid_ring, uint64_t io_bytes, bool punt)
{
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring, .io_bytes = io_bytes}, 0);
    struct heavy *heavy = calloc(1, sizeof *heavy);
    heavy->iov = (struct iovec){calloc(1, HEAVY_BYTES), HEAVY_BYTES};
    cr_assert_eq(run_op(lab, file_write_start, &heavy->iov, 1, 0), HEAVY_BYTES);
    lab->file.punt = punt;
    heavy->left = HEAVY_OPS;
    for (unsigned i = 0; i < HEAVY_OPS; i++) {
        heavy->ops[i] = (struct file_op){.file = &lab->file, .iov = &heavy->iov, .iov_count = 1, .offset = i};
        file_read_start(lab->loop, &heavy->ops[i], heavy_read);
    }
    loop_run(lab->loop);
    uint64_t most = heavy->most_bytes;
    free(heavy->iov.iov_base);
    free(heavy);
    lab_close(lab);
    return most;
}

BOTH(reads_wait_once_enough_bytes_are_in_flight)
{
    cr_assert_eq(heavy_run(forbid_ring, 3 * HEAVY_BYTES, false), 3 * HEAVY_BYTES);
    cr_assert_eq(heavy_run(forbid_ring, 1, false), HEAVY_BYTES, "one of any size may go");
    cr_assert_eq(heavy_run(forbid_ring, 0, false), 8 * HEAVY_BYTES);
    cr_assert_eq(heavy_run(forbid_ring, 0, true), HEAVY_OPS * HEAVY_BYTES, "on FUSE up to 32 MiB");
}

struct hung {
    struct file_op first, next;
    uint64_t in_flight; /* the other one, when the one of the two that came first had come */
    unsigned left;
};

static void hung_end(struct file_op *op, struct hung *hung)
{
    struct file_counts counts;
    loop_file_counts(op->loop, &counts);
    hung->in_flight += counts.reads_in_flight;
    file_read_hangs(op); /* too late: harmless */
    if (--hung->left > 0)
        return;
    cr_assert_eq(counts.reads_in_flight_bytes, 0);
    loop_stop(op->loop);
}

static void hung_first(struct file_op *op)
{
    hung_end(op, CONTAINER_OF(op, struct hung, first));
}

static void hung_next(struct file_op *op)
{
    hung_end(op, CONTAINER_OF(op, struct hung, next));
}

BOTH(a_read_that_hangs_does_not_keep_others_waiting)
{
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring, .io_bytes = 1}, 0);
    struct iovec iov = {calloc(1, HEAVY_BYTES), HEAVY_BYTES};
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), HEAVY_BYTES);
    for (unsigned hangs = 0; hangs < 2; hangs++) {
        struct hung hung = {.left = 2};
        hung.first = hung.next = (struct file_op){.file = &lab->file, .iov = &iov, .iov_count = 1};
        file_read_start(lab->loop, &hung.first, hung_first);
        file_read_start(lab->loop, &hung.next, hung_next);
        if (hangs)
            file_read_hangs(&hung.first);
        loop_run(lab->loop);
        cr_assert_eq(hung.in_flight, hangs, "the other one waits, but not for one that hangs");
    }
    free(iov.iov_base);
    lab_close(lab);
}

/* ---- many at once ---- */

enum { PIECES = 200, PIECE = 8192, DEPTH = 5 };

struct piece {
    struct file_op op;
    struct iovec iov;
    struct crowd *crowd;
    unsigned char bytes[PIECE];
    unsigned finished;
};

struct crowd {
    struct lab *lab;
    struct piece *pieces;
    struct task watch;
    unsigned finished;
    uint64_t most_in_flight;
    bool reading;
    bool starting;
};

static void crowd_look(struct crowd *crowd)
{
    struct file_counts counts;
    loop_file_counts(crowd->lab->loop, &counts);
    cr_assert_leq(counts.in_flight, DEPTH);
    cr_assert_leq(counts.in_flight + counts.waiting + crowd->finished, PIECES);
    if (counts.in_flight > crowd->most_in_flight)
        crowd->most_in_flight = counts.in_flight;
}

static void crowd_watch(struct task *task)
{
    struct crowd *crowd = CONTAINER_OF(task, struct crowd, watch);
    crowd_look(crowd);
    if (crowd->finished < PIECES)
        task_post(task);
}

static void piece_done(struct file_op *op)
{
    struct piece *piece = CONTAINER_OF(op, struct piece, op);
    struct crowd *crowd = piece->crowd;
    cr_assert(!crowd->starting, "a callback ran inside the starting call");
    cr_assert_eq(op->result, PIECE);
    piece->finished++;
    crowd->finished++;
    crowd_look(crowd);
    if (crowd->finished == PIECES)
        loop_stop(op->loop);
}

static void crowd_run(struct crowd *crowd, start_fn start)
{
    crowd->finished = 0;
    crowd->starting = true;
    task_post(&crowd->watch);
    for (unsigned i = 0; i < PIECES; i++) {
        struct piece *piece = &crowd->pieces[i];
        piece->crowd = crowd;
        piece->finished = 0;
        piece->iov = (struct iovec){piece->bytes, PIECE};
        piece->op = (struct file_op){.file = &crowd->lab->file, .iov = &piece->iov, .iov_count = 1, .offset = (uint64_t)i * PIECE};
        start(crowd->lab->loop, &piece->op, piece_done);
    }
    crowd->starting = false;
    loop_run(crowd->lab->loop);
    task_cancel(&crowd->watch);
    for (unsigned i = 0; i < PIECES; i++)
        cr_assert_eq(crowd->pieces[i].finished, 1);
}

static void crowd_case(struct loop_options options, bool punt, unsigned flags)
{
    struct crowd crowd = {.lab = lab_open(options, flags)};
    crowd.lab->file.punt = punt;
    cr_assert_eq(posix_memalign((void **)&crowd.pieces, 4096, PIECES * sizeof *crowd.pieces), 0);
    task_init(&crowd.watch, crowd.lab->loop, crowd_watch);
    for (unsigned i = 0; i < PIECES; i++)
        fill(crowd.pieces[i].bytes, PIECE, i);
    crowd_run(&crowd, file_write_start);
    for (unsigned i = 0; i < PIECES; i++)
        memset(crowd.pieces[i].bytes, 0, PIECE);
    crowd_run(&crowd, file_read_start);
    unsigned char wanted[PIECE];
    for (unsigned i = 0; i < PIECES; i++) {
        fill(wanted, PIECE, i);
        cr_assert_eq(memcmp(crowd.pieces[i].bytes, wanted, PIECE), 0);
    }
    free(crowd.pieces);
    lab_close(crowd.lab);
}

BOTH(more_operations_than_depth)
{
    crowd_case((struct loop_options){.forbid_ring = forbid_ring, .io_depth = DEPTH, .io_threads = 3}, false, 0);
}

BOTH(the_same_by_workers_as_on_fuse)
{
    crowd_case((struct loop_options){.forbid_ring = forbid_ring, .io_depth = DEPTH, .io_threads = 3}, true, 0);
}

/* ---- a chain: each starts the next from its callback, in the same memory ---- */

struct chain {
    struct file_op op;
    struct file *file;
    struct iovec iov;
    unsigned char byte;
    unsigned left;
};

static void chain_next(struct file_op *op)
{
    struct chain *chain = CONTAINER_OF(op, struct chain, op);
    cr_assert_geq(op->result, 0);
    if (chain->left-- == 0) {
        loop_stop(op->loop);
        return;
    }
    chain->op.offset++;
    if (chain->left % 3 == 0)
        file_sync_start(op->loop, op, chain_next);
    else
        file_write_start(op->loop, op, chain_next);
}

BOTH(operations_started_from_callbacks)
{
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring}, 0);
    struct chain chain = {.left = 30, .byte = 9};
    chain.iov = (struct iovec){&chain.byte, 1};
    chain.op = (struct file_op){.file = &lab->file, .iov = &chain.iov, .iov_count = 1};
    file_write_start(lab->loop, &chain.op, chain_next);
    loop_run(lab->loop);
    cr_assert_gt(fs_size(lab->loop, &lab->file), 20);
    lab_close(lab);
}

BOTH(direct_reads_and_writes)
{
    enum { LEN = 64 << 10 };
    struct lab *lab = lab_open((struct loop_options){.forbid_ring = forbid_ring}, FS_DIRECT);
    void *out = NULL;
    void *in = NULL;
    cr_assert_eq(posix_memalign(&out, 4096, LEN) | posix_memalign(&in, 4096, LEN), 0);
    fill(out, LEN, 5);
    struct iovec put = {out, LEN};
    struct iovec get = {in, LEN};
    cr_assert_eq(run_op(lab, file_write_start, &put, 1, 4096), LEN);
    cr_assert_eq(run_op(lab, file_read_start, &get, 1, 4096), LEN);
    cr_assert_eq(memcmp(in, out, LEN), 0);
    free(out);
    free(in);
    lab_close(lab);
}

/* ---- a kernel that refuses ---- */

static void forbid_call(unsigned call, unsigned err)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

Test(refused, threads_take_over_and_the_log_says_so, .timeout = 20)
{
    forbid_call(__NR_io_uring_setup, EPERM);
    struct lab *lab = lab_open((struct loop_options){0}, 0);
    cr_assert_str_eq(loop_io_kind(lab->loop), "threads");
    cr_assert(strstr(lab->logged, "level=warn event=io_uring_refused err=\""), "%s", lab->logged);
    unsigned char byte = 1;
    struct iovec iov = {&byte, 1};
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), 1);
    lab_close(lab);
}

/* ---- a kernel that asks for another try ---- */

static int refusals;   /* of submissions still to come */
static int injections; /* of results of operations still to come */
static int injected;

/* Turn what is about to be submitted into operations that do nothing and have this result. */
static void inject(struct io_uring *uring)
{
    for (unsigned at = *uring->sq.khead; at != uring->sq.sqe_tail && injections > 0; at++, injections--) {
        struct io_uring_sqe *sqe = &uring->sq.sqes[at & *uring->sq.kring_mask];
        uint64_t user_data = sqe->user_data;
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = IORING_OP_NOP;
        sqe->rw_flags = 1; /* IORING_NOP_INJECT_RESULT */
        sqe->len = (unsigned)injected;
        sqe->user_data = user_data;
    }
}

/* In front of liburing's own. */
int io_uring_submit(struct io_uring *uring)
{
    if (refusals > 0) {
        refusals--;
        return -EBUSY;
    }
    inject(uring);
    int (*real)(struct io_uring *) = (int (*)(struct io_uring *))dlsym(RTLD_NEXT, "io_uring_submit");
    return real(uring);
}

Test(ring, what_the_kernel_does_not_take_is_submitted_later, .timeout = 20)
{
    struct lab *lab = lab_open((struct loop_options){0}, 0);
    unsigned char byte = 1;
    struct iovec iov = {&byte, 1};
    refusals = 3;
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), 1);
    cr_assert_eq(refusals, 0, "not the library's function that was called");
    cr_assert(strstr(lab->logged, "event=io_uring_submit_failed"));
    lab_close(lab);
}

static int64_t run_injected(int result, int times)
{
    struct lab *lab = lab_open((struct loop_options){0}, 0);
    unsigned char byte = 1;
    struct iovec iov = {&byte, 1};
    injected = result;
    injections = times;
    int64_t got = run_op(lab, file_write_start, &iov, 1, 0);
    lab_close(lab);
    return got;
}

Test(ring, again_is_tried_again, .timeout = 20)
{
    cr_assert_eq(run_injected(-EAGAIN, 5), 1);
    cr_assert_eq(injections, 0);
    cr_assert_eq(run_injected(-EINTR, 5), 1);
    cr_assert_eq(injections, 0);
}

Test(ring, but_not_for_ever, .timeout = 20)
{
    cr_assert_eq(run_injected(-EAGAIN, 1000000), -EAGAIN);
}

Test(ring, other_errors_are_handed_on_at_once, .timeout = 20)
{
    cr_assert_eq(run_injected(-EIO, 1), -EIO);
    cr_assert_eq(run_injected(-ENOSPC, 1), -ENOSPC);
    cr_assert_eq(injections, 0);
}

/* ---- fixed memory ---- */

enum { SLICE = 1 << 20, SLICES = 4, TAIL = 4096, BEYOND = SLICE, HEAD = 4096 };

/* Slices of 1 MiB, which anybody may lock some of, a last one of a page, and more memory on either side that is never fixed. */
struct fixed_lab {
    struct lab *lab;
    unsigned char *before, *base;
    unsigned char *wanted; /* what the file holds: SLICE + HEAD bytes */
};

static const uint64_t fixed_length = (uint64_t)SLICES * SLICE + TAIL;

static struct fixed_lab fixed_open(struct loop_options options, unsigned slices)
{
    struct fixed_lab fixed = {.lab = lab_open(options, 0), .wanted = malloc(SLICE + HEAD)};
    fixed.before = mmap(NULL, BEYOND + fixed_length + BEYOND, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(fixed.before, MAP_FAILED);
    fixed.base = fixed.before + BEYOND;
    fill(fixed.wanted, SLICE + HEAD, 11);
    struct iovec iov = {fixed.wanted, SLICE + HEAD};
    cr_assert_eq(run_op(fixed.lab, file_write_start, &iov, 1, 0), SLICE + HEAD);
    cr_assert_eq(file_memory_begin(fixed.lab->loop, fixed.base, fixed_length, SLICE), 0);
    for (unsigned i = 0; i < slices; i++)
        cr_assert_eq(file_memory_next(fixed.lab->loop), 0);
    return fixed;
}

static void fixed_close(struct fixed_lab *fixed)
{
    file_memory_end(fixed->lab->loop);
    munmap(fixed->before, BEYOND + fixed_length + BEYOND);
    free(fixed->wanted);
    lab_close(fixed->lab);
}

static struct file_counts counts_of(const struct lab *lab)
{
    struct file_counts counts;
    loop_file_counts(lab->loop, &counts);
    return counts;
}

/* Read `len` bytes of the file to `at`; was that by fixed memory? */
static bool reads_fixed(struct fixed_lab *fixed, unsigned char *at, size_t len)
{
    uint64_t before = counts_of(fixed->lab).fixed_reads;
    memset(at, 0, len);
    struct iovec iov = {at, len};
    cr_assert_eq(run_op(fixed->lab, file_read_start, &iov, 1, 3), (int64_t)len);
    cr_assert_eq(memcmp(at, fixed->wanted + 3, len), 0);
    return counts_of(fixed->lab).fixed_reads > before;
}

Test(fixed, what_lies_in_one_slice_goes_by_it, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, 3);
    cr_assert_eq(counts_of(fixed.lab).fixed_bytes, 3 * SLICE);
    cr_assert_eq(counts_of(fixed.lab).fixed_slices, 3);
    for (unsigned i = 0; i < SLICES; i++) {
        unsigned char *slice = fixed.base + (size_t)i * SLICE;
        cr_assert_eq(reads_fixed(&fixed, slice, SLICE), i < 3);
        cr_assert_eq(reads_fixed(&fixed, slice + 5, 1000), i < 3);
        cr_assert_eq(reads_fixed(&fixed, slice + SLICE - 7, 7), i < 3);
        cr_assert_not(reads_fixed(&fixed, slice + SLICE - 7, 8), "across a border");
        cr_assert_not(reads_fixed(&fixed, slice - 1, 2), "across a border");
    }
    cr_assert_not(reads_fixed(&fixed, fixed.base - SLICE, SLICE));
    cr_assert_eq(file_memory_next(fixed.lab->loop), 0);
    cr_assert(reads_fixed(&fixed, fixed.base + 3 * (size_t)SLICE, SLICE));
    fixed_close(&fixed);
}

Test(fixed, the_last_slice_ends_where_the_memory_does, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, SLICES + 1);
    unsigned char *tail = fixed.base + (size_t)SLICES * SLICE;
    cr_assert_eq(counts_of(fixed.lab).fixed_bytes, fixed_length);
    cr_assert(reads_fixed(&fixed, tail, TAIL));
    cr_assert_not(reads_fixed(&fixed, tail, TAIL + 1));
    cr_assert_not(reads_fixed(&fixed, tail + TAIL, 1));
    cr_assert_eq(file_memory_next(fixed.lab->loop), -ENOBUFS, "there is no more");
    cr_assert_eq(counts_of(fixed.lab).fixed_bytes, fixed_length);
    fixed_close(&fixed);
}

Test(fixed, memory_that_was_given_back_is_used_as_any_other, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, SLICES);
    file_memory_end(fixed.lab->loop);
    cr_assert_eq(counts_of(fixed.lab).fixed_bytes, 0);
    /* Other pages at the same place: those that were fixed would be written in vain. */
    cr_assert_eq(mmap(fixed.base, SLICE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), fixed.base);
    cr_assert_not(reads_fixed(&fixed, fixed.base, SLICE));
    cr_assert_eq(file_memory_begin(fixed.lab->loop, fixed.base, SLICE, SLICE), 0);
    cr_assert_eq(file_memory_next(fixed.lab->loop), 0);
    cr_assert(reads_fixed(&fixed, fixed.base, SLICE));
    fixed_close(&fixed);
}

/* What a vector of ordinary memory and one of fixed memory are moved by, from or to `offset`. */
static int64_t run_divided(struct fixed_lab *fixed, start_fn start, unsigned char *head, size_t rest, uint64_t offset, bool *divided)
{
    struct file_counts before = counts_of(fixed->lab);
    struct iovec iov[2] = {{head, HEAD}, {fixed->base, rest}};
    int64_t result = run_op(fixed->lab, start, iov, 2, offset);
    struct file_counts after = counts_of(fixed->lab);
    *divided = after.fixed_reads + after.fixed_writes > before.fixed_reads + before.fixed_writes;
    return result;
}

Test(fixed, a_large_vector_behind_a_small_one_goes_for_itself, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, 1);
    unsigned char head[HEAD];
    bool divided;
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 0, &divided), HEAD + SLICE);
    cr_assert_not(divided, "its pages may be large");
    file_memory_pages_are_small(fixed.lab->loop);
    for (unsigned writes = 0; writes < 2; writes++) {
        if (writes) {
            memset(head, 77, HEAD);
            memset(fixed.base, 78, SLICE);
            cr_assert_eq(run_divided(&fixed, file_write_start, head, SLICE, 0, &divided), HEAD + SLICE);
            cr_assert(divided);
            memset(fixed.wanted, 77, HEAD);
            memset(fixed.wanted + HEAD, 78, SLICE);
        }
        memset(head, 0, HEAD);
        memset(fixed.base, 0, SLICE);
        cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 0, &divided), HEAD + SLICE);
        cr_assert(divided);
        cr_assert_eq(memcmp(head, fixed.wanted, HEAD), 0);
        cr_assert_eq(memcmp(fixed.base, fixed.wanted + HEAD, SLICE), 0);
    }
    cr_assert_eq(counts_of(fixed.lab).read_bytes, 3 * (SLICE + HEAD));
    cr_assert_eq(run_divided(&fixed, file_read_start, head, 8192, 0, &divided), HEAD + 8192);
    cr_assert_not(divided, "not worth it");
    fixed.lab->file.punt = true;
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 0, &divided), HEAD + SLICE);
    cr_assert_not(divided, "two requests of a FUSE file system instead of one");
    fixed_close(&fixed);
}

Test(fixed, the_parts_end_as_the_whole_would, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, 1);
    unsigned char head[HEAD];
    bool divided;
    file_memory_pages_are_small(fixed.lab->loop);
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 100, &divided), SLICE + HEAD - 100, "the end within the second");
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, SLICE, &divided), HEAD, "the end between them");
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, SLICE + 1, &divided), HEAD - 1, "the end within the first");
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, SLICE + HEAD, &divided), 0);
    cr_assert(divided);
    int fd = fixed.lab->file.fd;
    fixed.lab->file.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    cr_assert_eq(run_divided(&fixed, file_write_start, head, SLICE, 0, &divided), -EBADF);
    close(fixed.lab->file.fd);
    fixed.lab->file.fd = fd;
    injected = -EAGAIN;
    for (int times = 1; times <= 5; times++) {
        injections = times;
        cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 0, &divided), HEAD + SLICE, "%d", times);
        cr_assert_eq(injections, 0);
    }
    injections = 2;
    injected = -EIO;
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 0, &divided), -EIO);
    injections = 1; /* the second part is submitted first */
    cr_assert_eq(run_divided(&fixed, file_read_start, head, SLICE, 0, &divided), HEAD, "as far as it came");
    fixed_close(&fixed);
}

enum { CROWD = 40 };

struct divided {
    struct file_op op;
    struct iovec iov[2];
    unsigned char head[HEAD];
    unsigned *left;
};

static void divided_read(struct file_op *op)
{
    struct divided *divided = CONTAINER_OF(op, struct divided, op);
    cr_assert_eq(op->result, HEAD + SLICE);
    if (--*divided->left == 0)
        loop_stop(op->loop);
}

/* The ring has room for both parts of as many as may be in flight. */
Test(fixed, more_divided_operations_than_depth, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){.io_depth = 16, .io_bytes = UINT64_MAX}, SLICES);
    struct divided *all = calloc(CROWD, sizeof *all);
    unsigned left = CROWD;
    file_memory_pages_are_small(fixed.lab->loop);
    for (unsigned i = 0; i < CROWD; i++) {
        struct divided *one = &all[i];
        one->left = &left;
        one->iov[0] = (struct iovec){one->head, HEAD};
        one->iov[1] = (struct iovec){fixed.base + (size_t)(i % SLICES) * SLICE, SLICE};
        one->op = (struct file_op){.file = &fixed.lab->file, .iov = one->iov, .iov_count = 2};
        file_read_start(fixed.lab->loop, &one->op, divided_read);
    }
    loop_run(fixed.lab->loop);
    cr_assert_eq(counts_of(fixed.lab).fixed_reads, CROWD);
    for (unsigned i = 0; i < CROWD; i++)
        cr_assert_eq(memcmp(all[i].head, fixed.wanted, HEAD), 0);
    for (unsigned i = 0; i < SLICES; i++)
        cr_assert_eq(memcmp(fixed.base + (size_t)i * SLICE, fixed.wanted + HEAD, SLICE), 0);
    free(all);
    fixed_close(&fixed);
}

struct late {
    struct file_op op, next;
    int into;
    unsigned left;
};

static void late_end(struct file_op *op, struct late *late)
{
    if (--late->left == 0)
        loop_stop(op->loop);
}

static void late_read(struct file_op *op)
{
    struct late *late = CONTAINER_OF(op, struct late, op);
    cr_assert_eq(late->left, 1, "before there was anything to read");
    late_end(op, late);
}

static void next_read(struct file_op *op)
{
    struct late *late = CONTAINER_OF(op, struct late, next);
    file_read_hangs(&late->op);
    cr_assert_eq(write(late->into, "late", 4), 4);
    late_end(op, late);
}

/* A pipe with nothing in it stands for the hung mount. */
Test(fixed, a_read_that_is_late_still_comes, .timeout = 20)
{
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, 1);
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    struct file pipe = {.fd = ends[0]};
    struct iovec iov = {fixed.base, 4}, next = {fixed.base + 4096, SLICE - 4096};
    struct late late = {.into = ends[1], .left = 2};
    late.op = (struct file_op){.file = &pipe, .iov = &iov, .iov_count = 1};
    late.next = (struct file_op){.file = &fixed.lab->file, .iov = &next, .iov_count = 1};
    file_read_start(fixed.lab->loop, &late.op, late_read);
    file_read_start(fixed.lab->loop, &late.next, next_read);
    loop_run(fixed.lab->loop);
    cr_assert_eq(counts_of(fixed.lab).fixed_reads, 2);
    cr_assert_eq(late.op.result, 4);
    cr_assert_eq(memcmp(fixed.base, "late", 4), 0);
    cr_assert_eq(memcmp(fixed.base + 4096, fixed.wanted, SLICE - 4096), 0);
    close(ends[0]);
    close(ends[1]);
    fixed_close(&fixed);
}

Test(fixed, not_where_it_is_forbidden_or_there_is_no_ring, .timeout = 20)
{
    struct loop_options both[2] = {{.forbid_ring = true}, {.forbid_fixed = true}};
    for (unsigned i = 0; i < 2; i++) {
        struct lab *lab = lab_open(both[i], 0);
        char page[16];
        cr_assert_eq(file_memory_begin(lab->loop, page, sizeof page, SLICE), -EOPNOTSUPP);
        cr_assert_eq(file_memory_next(lab->loop), -ENOBUFS);
        file_memory_end(lab->loop);
        cr_assert_eq(counts_of(lab).fixed_bytes, 0);
        lab_close(lab);
    }
}

Test(fixed, a_kernel_that_refuses_is_said_once, .timeout = 20)
{
    forbid_call(__NR_io_uring_register, EINVAL);
    struct lab *lab = lab_open((struct loop_options){0}, 0);
    unsigned char byte = 1;
    struct iovec iov = {&byte, 1};
    cr_assert_eq(file_memory_begin(lab->loop, &byte, 1, SLICE), -EINVAL);
    cr_assert(strstr(lab->logged, "level=info event=fixed_buffers_ended fixed=0 of=1 memlock="), "%s", lab->logged);
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), 1);
    cr_assert_eq(counts_of(lab).fixed_writes, 0);
    lab_close(lab);
}

/* From now on as one who may not lock what he likes. */
static void lock_at_most(uint64_t bytes)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (geteuid() == 0) /* it is counted for each user */
        cr_assert_eq(setreuid(100000u + (unsigned)getpid(), (uid_t)-1), 0);
    cr_assert_eq(syscall(SYS_capget, &head, data), 0);
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    cr_assert_eq(syscall(SYS_capset, &head, data), 0);
    struct rlimit most = {bytes, bytes};
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &most), 0);
}

Test(fixed, the_limit_of_locked_memory_holds, .timeout = 20)
{
    lock_at_most(3 * SLICE + SLICE / 2);
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, 0);
    unsigned slices = 0;
    int err;
    while ((err = file_memory_next(fixed.lab->loop)) == 0)
        slices++;
    cr_assert_eq(err, -ENOMEM);
    cr_assert(slices >= 1 && slices <= 3, "%u", slices); /* what else this user has locked counts as well */
    cr_assert_eq(counts_of(fixed.lab).fixed_slices, slices);
    cr_assert(strstr(fixed.lab->logged, "event=fixed_buffers_ended"), "%s", fixed.lab->logged);
    cr_assert(reads_fixed(&fixed, fixed.base, SLICE));
    cr_assert_not(reads_fixed(&fixed, fixed.base + (size_t)slices * SLICE, SLICE));
    fixed_close(&fixed);
}

/* With no such limit at all a kernel may refuse the ring itself: then there are threads. */
Test(fixed, nothing_where_less_than_a_slice_may_be_locked, .timeout = 20)
{
    lock_at_most(SLICE / 2);
    struct fixed_lab fixed = fixed_open((struct loop_options){0}, 0);
    cr_assert_eq(file_memory_next(fixed.lab->loop), -ENOMEM);
    cr_assert(strstr(fixed.lab->logged, "fixed=0 of=4198400 memlock=524288"), "%s", fixed.lab->logged);
    cr_assert_not(reads_fixed(&fixed, fixed.base, SLICE));
    fixed_close(&fixed);
}

struct turns {
    struct file_op ops[8];
    struct task task;
    unsigned ended, by_next_turn;
};
static struct turns turns;

static void next_turn(struct task *task)
{
    (void)task;
    turns.by_next_turn = turns.ended;
}

static void one_of_many_read(struct file_op *op)
{
    cr_assert_eq(op->result, 1 << 20);
    if (turns.ended++ == 0)
        task_post(&turns.task);
    if (turns.ended == 8)
        loop_stop(op->loop);
}

Test(ring, others_have_their_turn_between_large_reads, .timeout = 20)
{
    enum { LEN = 1 << 20 };
    struct lab *lab = lab_open((struct loop_options){0}, 0);
    unsigned char *bytes = calloc(1, LEN);
    struct iovec iov = {bytes, LEN};
    cr_assert_eq(run_op(lab, file_write_start, &iov, 1, 0), LEN);
    task_init(&turns.task, lab->loop, next_turn);
    for (unsigned i = 0; i < 8; i++) {
        turns.ops[i] = (struct file_op){.file = &lab->file, .iov = &iov, .iov_count = 1};
        file_read_start(lab->loop, &turns.ops[i], one_of_many_read);
    }
    loop_run(lab->loop);
    cr_assert_eq(turns.by_next_turn, 1);
    free(bytes);
    lab_close(lab);
}

Test(ring, many_loops_in_one_process, .timeout = 20)
{
    struct lab *labs[8];
    unsigned char byte = 1;
    struct iovec iov = {&byte, 1};
    for (unsigned i = 0; i < 8; i++)
        labs[i] = lab_open((struct loop_options){.io_depth = 1 + i}, 0);
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(run_op(labs[i], file_write_start, &iov, 1, i), 1);
    for (unsigned i = 0; i < 8; i++)
        lab_close(labs[i]);
}
