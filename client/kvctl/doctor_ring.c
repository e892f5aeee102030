/* io_uring on the directory that is tried out: what submitting costs, and what reads at depth bring. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "client/kvctl/doctor.h"

enum { BANDWIDTH_BYTES = 512 << 20, BANDWIDTH_US = 2000000, PATH_BYTES = PATH_MAX + 96 };

/* DOCTOR_DEPTH operations of DOCTOR_IO_BYTES, submitted together. */
struct round {
    int fd;
    uint8_t *memory;
    bool write, async;
    uint64_t submit_us, total_us; /* set by round_run() */
};

int doctor_ring_open(struct doctor_result *result)
{
    struct io_uring ring;

    const int err = io_uring_queue_init(DOCTOR_DEPTH, &ring, 0);
    if (err < 0)
        return err;
    doctor_text(result, 0, "%u entries", ring.sq.ring_entries);
    io_uring_queue_exit(&ring);
    return 0;
}

static void round_add(struct io_uring *ring, const struct round *round, unsigned i)
{
    uint8_t *at = round->memory + (size_t)i * DOCTOR_IO_BYTES;
    const uint64_t offset = (uint64_t)i * DOCTOR_IO_BYTES;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring); /* the ring has as many as are asked for */

    if (round->write)
        io_uring_prep_write(sqe, round->fd, at, DOCTOR_IO_BYTES, offset);
    else
        io_uring_prep_read(sqe, round->fd, at, DOCTOR_IO_BYTES, offset);
    if (round->async)
        sqe->flags |= IOSQE_ASYNC;
}

/* All that were submitted are waited for, whatever comes of them: the memory is theirs until then. */
static int round_wait(struct io_uring *ring, unsigned count)
{
    int err = 0;

    for (unsigned i = 0; i < count; i++) {
        struct io_uring_cqe *cqe = NULL;
        int waited;
        do
            waited = io_uring_wait_cqe(ring, &cqe);
        while (waited == -EINTR);
        if (waited < 0)
            return waited;
        if (cqe->res < 0)
            err = cqe->res;
        else if (cqe->res != DOCTOR_IO_BYTES && err == 0)
            err = -EIO;
        io_uring_cqe_seen(ring, cqe);
    }
    return err;
}

static int round_run(struct io_uring *ring, struct round *round)
{
    for (unsigned i = 0; i < DOCTOR_DEPTH; i++)
        round_add(ring, round, i);
    const uint64_t started = doctor_now_us();
    const int submitted = io_uring_submit(ring);
    round->submit_us = doctor_now_us() - started;
    if (submitted < 0)
        return submitted;
    const int err = round_wait(ring, (unsigned)submitted);
    round->total_us = doctor_now_us() - started;
    return err ? err : submitted == DOCTOR_DEPTH ? 0 : -EAGAIN;
}

static int round_alone(struct round *round)
{
    struct io_uring ring;

    int err = io_uring_queue_init(DOCTOR_DEPTH, &ring, 0);
    if (err < 0)
        return err;
    err = round_run(&ring, round);
    io_uring_queue_exit(&ring);
    return err;
}

static int open_file(const struct doctor_report *report, const char *folder, bool async, int flags)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%s/ring-%d", folder, async);
    const int fd = open(path, flags | O_RDWR | O_CLOEXEC | (report->direct ? O_DIRECT : 0), 0600);
    return fd < 0 ? -errno : fd;
}

/* Plain, then with IOSQE_ASYNC; a file of its own for each. */
static int both(const struct doctor_report *report, const char *folder, void *memory, bool write, uint64_t submit_us[2],
                uint64_t total_us[2])
{
    for (int async = 0; async < 2; async++) {
        const int fd = open_file(report, folder, async, write ? O_CREAT : 0);
        if (fd < 0)
            return fd;
        struct round round = {.fd = fd, .memory = memory, .write = write, .async = async != 0};
        const int err = round_alone(&round);
        close(fd);
        if (err)
            return err;
        submit_us[async] = round.submit_us;
        total_us[async] = round.total_us;
    }
    return 0;
}

static void both_text(struct doctor_result *result, const uint64_t submit_us[2], const uint64_t total_us[2])
{
    doctor_text(result, 0, "%d of 1 MiB: in submit %" PRIu64 " us of %" PRIu64 " us, with IOSQE_ASYNC %" PRIu64 " us of %" PRIu64 " us",
                DOCTOR_DEPTH, submit_us[0], total_us[0], submit_us[1], total_us[1]);
}

int doctor_ring_writes(struct doctor_report *report, const char *folder, void *memory)
{
    const int err = both(report, folder, memory, true, report->write_submit_us, report->write_total_us);
    if (!err)
        both_text(&report->results[DOCTOR_RING_WRITES], report->write_submit_us, report->write_total_us);
    return err;
}

int doctor_ring_reads(struct doctor_report *report, const char *folder, void *memory)
{
    const int err = both(report, folder, memory, false, report->read_submit_us, report->read_total_us);
    if (!err)
        both_text(&report->results[DOCTOR_RING_READS], report->read_submit_us, report->read_total_us);
    return err;
}

static int rounds_run(struct io_uring *ring, struct round *round, uint64_t *bytes, uint64_t *us)
{
    const uint64_t started = doctor_now_us();
    int err = 0;

    for (*bytes = *us = 0; !err && *bytes < BANDWIDTH_BYTES && *us < BANDWIDTH_US; *us = doctor_now_us() - started) {
        err = round_run(ring, round);
        *bytes += (uint64_t)DOCTOR_DEPTH * DOCTOR_IO_BYTES;
    }
    return err;
}

/* As kvd would: with IOSQE_ASYNC on FUSE. */
int doctor_ring_bandwidth(struct doctor_report *report, const char *folder, void *memory)
{
    struct io_uring ring;
    uint64_t bytes = 0, us = 0;

    const int fd = open_file(report, folder, false, 0);
    if (fd < 0)
        return fd;
    int err = io_uring_queue_init(DOCTOR_DEPTH, &ring, 0);
    if (err == 0) {
        struct round round = {.fd = fd, .memory = memory, .async = report->fuse};
        err = rounds_run(&ring, &round, &bytes, &us);
        io_uring_queue_exit(&ring);
    }
    close(fd);
    if (!err) {
        report->bytes_per_second = bytes * 1000000 / max_u64(us, 1);
        doctor_text(&report->results[DOCTOR_BANDWIDTH], 0, "%.0f MB/s at depth %d", (double)report->bytes_per_second / 1e6, DOCTOR_DEPTH);
    }
    return err;
}
