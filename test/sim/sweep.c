/* sweep.c - a crash right after each change of the disk: for k = 1, 2, ... until a fixed workload ends without a k-th change; then a
 * restart, and the judge. A kill, and three kinds of power cut: what was not synced is lost, is kept, or survives in parts. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim.h"

enum { SWEEP_WORKERS_MOST = 16, SWEEP_FAILURES_MOST = 200, SECONDS_A_CRASH = 60 };

static const char *const kinds[CRASH_KINDS] = {
    [CRASH_KILL] = "kill",
    [CRASH_UNSYNCED_LOST] = "power-lost",
    [CRASH_UNSYNCED_KEPT] = "power-kept",
    [CRASH_TORN] = "power-torn",
};

const char *crash_kind_name(enum crash_kind kind)
{
    return kinds[kind];
}

struct sweep_failure {
    uint64_t seed, k;
    enum crash_kind kind;
    char why[600];
};

/* One worker's, shared with the parent. */
struct share {
    uint64_t tried[CRASH_KINDS], longest;
    uint64_t reclaimed, removes, acked_disk;
    struct sweep_failure now; /* what is being tried */
    uint64_t failure_count;
    struct sweep_failure failures[SWEEP_FAILURES_MOST];
};

static void share_fail(struct share *share, const char *why)
{
    struct sweep_failure *failure = &share->failures[share->failure_count++ % SWEEP_FAILURES_MOST];
    *failure = share->now;
    snprintf(failure->why, sizeof failure->why, "%s", why);
}

/* True when the workload had a k-th change. */
static bool try_k(const struct options *options, struct share *share)
{
    static struct sim run;
    struct options with = *options;
    with.crash_at = share->now.k;
    with.crash_kind = share->now.kind;
    alarm(SECONDS_A_CRASH);
    if (!seed_run(&run, &with, share->now.seed))
        share_fail(share, run.why);
    alarm(0);
    bool reached = run.changes >= with.crash_at;
    share->tried[with.crash_kind] += reached;
    share->longest = max_u64(share->longest, reached ? with.crash_at : 0);
    share->reclaimed += run.figures.reclaimed;
    share->removes += run.figures.removes;
    share->acked_disk += run.figures.acked_disk;
    return reached;
}

static void sweep_work(const struct options *options, struct share *share, uint64_t from, uint64_t to, unsigned worker, unsigned jobs,
                       bool must_fail)
{
    for (uint64_t task = worker; task < (to - from) * CRASH_KINDS; task += jobs) {
        share->now = (struct sweep_failure){.seed = from + task / CRASH_KINDS, .k = 1, .kind = (enum crash_kind)(task % CRASH_KINDS)};
        while (try_k(options, share) && !(must_fail && share->failure_count > 0))
            share->now.k++;
    }
}

static int sweep_report(const struct share *shares, unsigned jobs, uint64_t seeds, bool must_fail)
{
    struct share sum = {0};
    for (unsigned i = 0; i < jobs; i++) {
        const struct share *share = &shares[i];
        for (int kind = 0; kind < CRASH_KINDS; kind++)
            sum.tried[kind] += share->tried[kind];
        sum.longest = max_u64(sum.longest, share->longest);
        sum.failure_count += share->failure_count;
        sum.reclaimed += share->reclaimed;
        sum.removes += share->removes;
        sum.acked_disk += share->acked_disk;
        for (uint64_t j = 0; j < share->failure_count && j < (must_fail ? 1 : SWEEP_FAILURES_MOST); j++) {
            const struct sweep_failure *failure = &share->failures[j];
            printf("seed %llu, %s after change %llu: %s\n", (unsigned long long)failure->seed, kinds[failure->kind],
                   (unsigned long long)failure->k, failure->why);
            printf("    again, step by step: build/sim --seed %llu --crash-at %llu --crash-kind %s --trace\n",
                   (unsigned long long)failure->seed, (unsigned long long)failure->k, kinds[failure->kind]);
        }
    }
    printf("crashes after each change of the disk: %llu workloads of up to %llu changes", (unsigned long long)seeds,
           (unsigned long long)sum.longest);
    for (int kind = 0; kind < CRASH_KINDS; kind++)
        printf(", %s %llu", kinds[kind], (unsigned long long)sum.tried[kind]);
    printf("; %llu failed\n", (unsigned long long)sum.failure_count);
    printf("in them: acknowledged on disk %llu, removes %llu, segments reclaimed %llu\n", (unsigned long long)sum.acked_disk,
           (unsigned long long)sum.removes, (unsigned long long)sum.reclaimed);
    return must_fail ? sum.failure_count == 0 : sum.failure_count > 0;
}

int sweep_run(const struct options *options, uint64_t from, uint64_t to, unsigned jobs, bool must_fail)
{
    jobs = (unsigned)min_u64(jobs, SWEEP_WORKERS_MOST);
    struct share *shares = mmap(NULL, jobs * sizeof *shares, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shares == MAP_FAILED)
        return 2;
    pid_t pids[SWEEP_WORKERS_MOST];
    fflush(NULL);
    for (unsigned i = 0; i < jobs; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            sweep_work(options, &shares[i], from, to, i, jobs, must_fail);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < jobs; i++) {
        int status = 0;
        if (pids[i] < 0 || waitpid(pids[i], &status, 0) != pids[i] || status != 0)
            share_fail(&shares[i], "the process died; nothing after this was tried");
    }
    return sweep_report(shares, jobs, to - from, must_fail);
}
