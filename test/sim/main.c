/* main.c - seeds by the thousand, over all cores; or one, step by step. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

enum { WORKERS_MOST = 64, FAILURES_MOST = 1000 };
/* A spin is found by what it costs a processor; a machine that stands still, or is busy with others, is no finding for a long time. */
enum { CPU_SECONDS_A_SEED = 120, SECONDS_A_SEED = 3600 };

struct failure {
    uint64_t seed;
    char why[600];
};

/* Shared by the workers. */
struct results {
    struct figures figures[WORKERS_MOST];
    uint64_t current[WORKERS_MOST]; /* the seed that is running */
    uint64_t passed[WORKERS_MOST];
    uint64_t twice[WORKERS_MOST];
    struct failure failures[WORKERS_MOST][FAILURES_MOST];
    uint32_t failure_count[WORKERS_MOST];
};

struct command {
    struct options options;
    uint64_t from, to;
    unsigned jobs;
    uint64_t twice; /* every so many seeds: run again and compare the hash */
    bool timed;
    time_t until; /* timed: no seed begins later; 0: go on until an interrupt */
    bool one, self_test, until_found, sweep;
};

static int usage(void)
{
    fprintf(stderr, "usage: sim --seeds FROM-TO | --seed N [--trace]\n"
                    "  --mode kill|power   crashes of this kind alone\n"
                    "  --ops N             requests a seed\n"
                    "  --two-hosts         in every seed, not in some\n"
                    "  --crash-sweep       with --seeds: a crash after every change of the disk that a fixed workload makes\n"
                    "  --crash-at K --crash-kind kill|power-lost|power-kept|power-torn   with --seed: one of these\n"
                    "  --jobs N            processes (all cores)\n"
                    "  --seconds N         with --seeds: go on from FROM for so long; 0: until an interrupt\n"
                    "  --twice N           run every Nth seed twice and compare (16; 0: none)\n"
                    "  --plant NAME        break the server on purpose (also: KVD_PLANT=NAME in the environment):");
    for (int i = 1; i < PLANT_COUNT; i++)
        fprintf(stderr, " %s", plant_name((enum plant)i));
    fprintf(stderr, "\n  --must-fail         stop at the first seed that finds something; it is an error if none does\n");
    return 2;
}

static void add(struct figures *sum, const struct figures *one)
{
    uint64_t *to = (uint64_t *)(void *)sum;
    const uint64_t *from = (const uint64_t *)(const void *)one;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

static bool run_one(const struct command *command, struct sim *run, uint64_t seed, char *why, size_t why_len)
{
    uint64_t before = heap_live();
    bool good = seed_run(run, &command->options, seed);
    snprintf(why, why_len, "%s", run->why);
    if (good && heap_live() != before) {
        snprintf(why, why_len, "the simulator itself leaks: %lld blocks", (long long)(heap_live() - before));
        return false;
    }
    return good;
}

static volatile sig_atomic_t interrupted;

static void interrupt(int signum)
{
    (void)signum;
    interrupted = 1;
}

static bool time_is_up(const struct command *command)
{
    return interrupted || (command->until != 0 && time(NULL) >= command->until);
}

static void limits_set(unsigned cpu_seconds, unsigned seconds)
{
    struct itimerval cpu = {.it_value.tv_sec = cpu_seconds};
    (void)setitimer(ITIMER_PROF, &cpu, NULL);
    alarm(seconds);
}

static void work(const struct command *command, struct results *results, unsigned worker, uint64_t seed)
{
    static struct sim run;
    char why[600];
    for (; seed < command->to && !time_is_up(command); seed += command->jobs) {
        results->current[worker] = seed;
        limits_set(CPU_SECONDS_A_SEED, SECONDS_A_SEED);
        bool good = run_one(command, &run, seed, why, sizeof why);
        add(&results->figures[worker], &run.figures);
        if (good && command->twice > 0 && seed % command->twice == 0) {
            uint64_t hash = run.hash;
            good = run_one(command, &run, seed, why, sizeof why) && run.hash == hash;
            results->twice[worker]++;
            if (!good && why[0] == '\0')
                snprintf(why, sizeof why, "two runs of the seed differ");
        }
        if (good) {
            results->passed[worker]++;
        } else if (results->failure_count[worker] < FAILURES_MOST) {
            struct failure *failure = &results->failures[worker][results->failure_count[worker]++];
            failure->seed = seed;
            snprintf(failure->why, sizeof failure->why, "%s", why);
            if (command->until_found)
                break;
        }
    }
    limits_set(0, 0);
}

/* A worker that dies takes its seed with it; another goes on behind it. */
static void died(struct results *results, unsigned worker, int status)
{
    struct failure *failure = &results->failures[worker][results->failure_count[worker]++ % FAILURES_MOST];
    failure->seed = results->current[worker];
    if (WTERMSIG(status) == SIGPROF)
        snprintf(failure->why, sizeof failure->why, "it took a processor longer than %d s", CPU_SECONDS_A_SEED);
    else if (WTERMSIG(status) == SIGALRM)
        snprintf(failure->why, sizeof failure->why, "it took longer than %d s", SECONDS_A_SEED);
    else
        snprintf(failure->why, sizeof failure->why, "the process died (signal %d)", WTERMSIG(status));
}

static pid_t start(const struct command *command, struct results *results, unsigned worker, uint64_t seed)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        work(command, results, worker, seed);
        _exit(0);
    }
    return pid;
}

static void run_all(const struct command *command, struct results *results)
{
    pid_t pids[WORKERS_MOST] = {0};
    for (unsigned i = 0; i < command->jobs; i++)
        pids[i] = start(command, results, i, command->from + i);
    for (unsigned running = command->jobs; running > 0;) {
        int status;
        pid_t pid = wait(&status);
        if (pid < 0)
            continue; /* interrupted: so are they */
        for (unsigned i = 0; i < command->jobs; i++) {
            if (pids[i] != pid)
                continue;
            running--;
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                continue;
            if (WIFEXITED(status))
                status = SIGABRT; /* a sanitizer's exit */
            died(results, i, status);
            if (results->current[i] + command->jobs < command->to && !command->until_found) {
                pids[i] = start(command, results, i, results->current[i] + command->jobs);
                running++;
            }
        }
    }
}

static void print_figures(const struct figures *sum)
{
    static const char *const names[DISK_OPS] = {"open",   "close",  "read",     "write",    "sync", "truncate", "size",
                                                "unlink", "rename", "sync_dir", "make_dir", "info", "list",     "lock"};
    printf("requests %llu (hits %llu, misses %llu, puts %llu, acknowledged on disk %llu, removes %llu, leases %llu, with an end %llu)\n",
           (unsigned long long)sum->ops, (unsigned long long)sum->hits, (unsigned long long)sum->misses, (unsigned long long)sum->puts,
           (unsigned long long)sum->acked_disk, (unsigned long long)sum->removes, (unsigned long long)sum->leases,
           (unsigned long long)sum->mortal);
    printf("lives %llu: power cuts %llu, kills %llu, orderly stops %llu, given up %llu; connections reset %llu, wall clock set %llu\n",
           (unsigned long long)sum->lives, (unsigned long long)sum->crashes_power, (unsigned long long)sum->crashes_kill,
           (unsigned long long)sum->stops, (unsigned long long)sum->exits, (unsigned long long)sum->resets, (unsigned long long)sum->jumps);
    printf(
        "evicted %llu, promoted %llu, segments reclaimed %llu, objects written on %llu, dropped %llu; events %llu, disk operations %llu\n",
        (unsigned long long)sum->evicted, (unsigned long long)sum->promoted, (unsigned long long)sum->reclaimed,
        (unsigned long long)sum->rewritten, (unsigned long long)sum->dropped, (unsigned long long)sum->events,
        (unsigned long long)sum->disk_ops);
    printf(
        "faults: short %llu, torn %llu, flipped %llu, gone under a read %llu, mounts gone %llu, out of memory %llu, slow %llu, hung %llu",
        (unsigned long long)sum->shorts, (unsigned long long)sum->torn, (unsigned long long)sum->flips, (unsigned long long)sum->going,
        (unsigned long long)sum->vanished, (unsigned long long)sum->heap, (unsigned long long)sum->slow, (unsigned long long)sum->hung);
    for (int i = 0; i < DISK_OPS; i++)
        if (sum->faults[i] > 0)
            printf(", %s %llu", names[i], (unsigned long long)sum->faults[i]);
    printf("\n");
    printf("sent without a copy: %llu bytes, which were the same until the kernel let them go\n", (unsigned long long)sum->lent_bytes);
    if (sum->two_hosts > 0)
        printf("two hosts in %llu: names that were old %llu, that were not known yet %llu, reads of files that were gone %llu; objects "
               "found of "
               "the other %llu, found removed by it %llu\n",
               (unsigned long long)sum->two_hosts, (unsigned long long)sum->stale_names, (unsigned long long)sum->stale_missing,
               (unsigned long long)sum->late_reads, (unsigned long long)sum->probes_found, (unsigned long long)sum->elsewhere);
}

static int report(const struct command *command, const struct results *results)
{
    uint64_t passed = 0, failed = 0, twice = 0;
    struct figures sum = {0};
    for (unsigned i = 0; i < command->jobs; i++) {
        passed += results->passed[i];
        failed += results->failure_count[i];
        twice += results->twice[i];
        add(&sum, &results->figures[i]);
        for (uint32_t j = 0; j < results->failure_count[i] && j < FAILURES_MOST; j++) {
            const struct failure *failure = &results->failures[i][j];
            printf("seed %llu: %s\n", (unsigned long long)failure->seed, failure->why);
            if (!command->until_found)
                printf("    again, step by step: build/sim --seed %llu --trace%s%s%s\n", (unsigned long long)failure->seed,
                       command->options.two_hosts ? " --two-hosts" : "",
                       command->options.mode == 'k'   ? " --mode kill"
                       : command->options.mode == 'p' ? " --mode power"
                                                      : "",
                       command->options.plant ? " --plant ..." : "");
        }
    }
    if (!command->until_found)
        print_figures(&sum);
    printf("%llu passed, %llu failed (%llu run twice, alike)\n", (unsigned long long)passed, (unsigned long long)failed,
           (unsigned long long)twice);
    return command->until_found ? (failed > 0 ? 0 : 1) : failed > 0;
}

static int run_single(const struct command *command)
{
    static struct sim run;
    char why[600];
    bool good = run_one(command, &run, command->from, why, sizeof why);
    printf("seed %llu: %s%s\n", (unsigned long long)command->from, good ? "passed" : "FAILED: ", good ? "" : why);
    print_figures(&run.figures);
    printf("trace hash %016llx\n", (unsigned long long)run.hash);
    return !good;
}

static bool parse_seeds(struct command *command, const char *text)
{
    char *end;
    command->from = strtoull(text, &end, 10);
    if (*end != '-')
        return false;
    command->to = strtoull(end + 1, &end, 10) + 1;
    return *end == '\0' && command->to > command->from;
}

static bool parse_plant(struct command *command, const char *name)
{
    for (int i = 1; i < PLANT_COUNT; i++)
        if (strcmp(plant_name((enum plant)i), name) == 0)
            command->options.plant = (enum plant)i;
    return command->options.plant != PLANT_NONE;
}

static bool parse_crash_kind(struct command *command, const char *name)
{
    for (int i = 0; i < CRASH_KINDS; i++) {
        command->options.crash_kind = (enum crash_kind)i;
        if (strcmp(crash_kind_name(command->options.crash_kind), name) == 0)
            return true;
    }
    return false;
}

static bool parse(struct command *command, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--trace") == 0) {
            command->options.trace = true;
            continue;
        }
        if (strcmp(name, "--two-hosts") == 0) {
            command->options.two_hosts = true;
            continue;
        }
        if (strcmp(name, "--must-fail") == 0) {
            command->until_found = true;
            continue;
        }
        if (strcmp(name, "--crash-sweep") == 0) {
            command->sweep = true;
            continue;
        }
        if (strcmp(name, "--self-test") == 0) {
            command->self_test = true;
            continue;
        }
        const char *value = ++i < argc ? argv[i] : "";
        if (strcmp(name, "--seed") == 0) {
            command->one = true;
            command->from = strtoull(value, NULL, 10);
            command->to = command->from + 1;
        } else if (strcmp(name, "--seeds") == 0) {
            if (!parse_seeds(command, value))
                return false;
        } else if (strcmp(name, "--mode") == 0) {
            command->options.mode = value[0];
        } else if (strcmp(name, "--crash-at") == 0) {
            command->options.crash_at = strtoull(value, NULL, 10);
        } else if (strcmp(name, "--crash-kind") == 0) {
            if (!parse_crash_kind(command, value))
                return false;
        } else if (strcmp(name, "--ops") == 0) {
            command->options.ops = (unsigned)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--jobs") == 0) {
            command->jobs = (unsigned)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--seconds") == 0) {
            uint64_t seconds = strtoull(value, NULL, 10);
            command->timed = true;
            command->until = seconds ? time(NULL) + (time_t)seconds : 0;
        } else if (strcmp(name, "--twice") == 0) {
            command->twice = strtoull(value, NULL, 10);
        } else if (strcmp(name, "--plant") != 0 || !parse_plant(command, value)) {
            return false;
        }
    }
    return command->self_test || command->to > command->from;
}

int main(int argc, char **argv)
{
    struct command command = {.jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN), .twice = 16};
    const char *plant = getenv("KVD_PLANT");
    if (plant && plant[0] && !parse_plant(&command, plant)) {
        fprintf(stderr, "sim: KVD_PLANT=%s is not among the planted bugs\n", plant);
        return usage();
    }
    if (!parse(&command, argc, argv))
        return usage();
    if (command.self_test)
        return history_self_test();
    if (command.one && !command.sweep)
        return run_single(&command);
    if (command.jobs < 1 || command.jobs > WORKERS_MOST)
        command.jobs = 1;
    if (command.sweep)
        return sweep_run(&command.options, command.from, command.to, command.jobs, command.until_found);
    struct results *results = mmap(NULL, sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (results == MAP_FAILED)
        return 2;
    if (command.timed)
        command.to = UINT64_MAX;
    signal(SIGINT, interrupt);
    run_all(&command, results);
    return report(&command, results);
}
