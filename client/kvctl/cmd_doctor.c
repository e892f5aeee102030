/* The command that tries a directory out: a child does it, for a file system may hang; the parent waits within bounds, and prints. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "client/kvctl/doctor.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"

enum { DEFAULT_WAIT_MS = 60000, MAX_WAIT_MS = 3600 * 1000, CLEAN_UP_MS = 2000 };

struct visit {
    const struct ctl *ctl;
    const char *directory, *other;
    uint64_t wait_ms;
    struct doctor_report *report; /* shared with the child */
    int signals;                  /* a descriptor */
    bool stuck;
    struct output output;
    cJSON *list; /* of verdicts */
};

/* ---- the child, and waiting for it ---- */

static void began(void *arg)
{
    const int *pipe = arg;
    (void)!write(*pipe, "", 1);
}

/* Who reads what we print waits for the end of all that could print. */
static void let_go_of_output(void)
{
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
}

static void child_try(const struct visit *visit, int pipe)
{
    let_go_of_output();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    doctor_try(visit->directory, visit->other, visit->wait_ms, visit->report, began, &pipe);
    _exit(0);
}

static uint64_t patience_ms(const struct visit *visit)
{
    const bool watching = atomic_load(&visit->report->current) == DOCTOR_OTHER;
    return visit->ctl->timeout_ms + (watching ? visit->wait_ms : 0);
}

/* Until the child has gone, which closes its end. False: it is stuck in one operation. */
static bool await(struct visit *visit, int pipe)
{
    for (;;) {
        char steps[64];
        struct signalfd_siginfo info;
        struct pollfd fds[] = {{.fd = pipe, .events = POLLIN}, {.fd = visit->signals, .events = POLLIN}};
        const int ready = poll(fds, 2, (int)min_u64(patience_ms(visit), INT32_MAX));
        if (ready < 0 && errno != EINTR)
            return false;
        if (ready == 0)
            return false;
        if (fds[1].revents != 0 && read(visit->signals, &info, sizeof info) > 0)
            atomic_store(&visit->report->stop, true);
        if (ready > 0 && fds[0].revents != 0 && read(pipe, steps, sizeof steps) == 0)
            return true;
    }
}

/* True when it has ended with 0. */
static bool ends_well_within(pid_t child, uint64_t ms)
{
    const uint64_t end = doctor_now_us() + ms * 1000;
    int status = -1;

    while (waitpid(child, &status, WNOHANG) == 0) {
        if (doctor_now_us() > end)
            return false;
        usleep(10000);
    }
    return status == 0;
}

/* A child that hangs in the kernel may not even die: it is left to it. */
static void give_up(struct visit *visit, pid_t child)
{
    visit->stuck = true;
    kill(child, SIGKILL);
    (void)ends_well_within(child, CLEAN_UP_MS);
}

/* By another child, which may hang as well. */
static void clean_up_after(const struct visit *visit)
{
    struct doctor_report *report = visit->report;

    if (report->folder[0] == '\0')
        return;
    const pid_t child = fork();
    if (child == 0) {
        let_go_of_output();
        _exit(doctor_clean_up(report->folder) == 0 ? 0 : 1);
    }
    if (child > 0 && ends_well_within(child, CLEAN_UP_MS)) {
        report->folder[0] = '\0';
        return;
    }
    report->results[DOCTOR_CLEAN_UP].outcome = DOCTOR_FAILED;
    if (child > 0)
        kill(child, SIGKILL);
}

static int visit_try(struct visit *visit)
{
    int pipes[2];

    if (pipe(pipes) != 0)
        return -errno;
    const pid_t child = fork();
    if (child == 0) {
        close(pipes[0]);
        child_try(visit, pipes[1]);
    }
    const int err = child < 0 ? -errno : 0;
    close(pipes[1]);
    if (!err && !await(visit, pipes[0]))
        give_up(visit, child);
    else if (!err)
        (void)waitpid(child, NULL, 0);
    close(pipes[0]);
    if (visit->stuck || (!err && atomic_load(&visit->report->current) != DOCTOR_CHECKS))
        clean_up_after(visit);
    return err;
}

/* ---- printing ---- */

static const char *outcome_text(enum doctor_outcome outcome)
{
    static const char *const TEXTS[] = {"not tried", "ok", "absent", "FAILED"};
    return TEXTS[outcome];
}

static const char *result_text(const struct doctor_result *result)
{
    return result->err ? error_text(result->err) : result->text;
}

static void print_mount(struct visit *visit)
{
    const struct doctor_report *report = visit->report;

    output_text(&visit->output, "directory", visit->directory);
    output_text(&visit->output, "mount_type", report->type);
    output_text(&visit->output, "mount_source", report->source);
    output_text(&visit->output, "mount_point", report->point);
    output_flag(&visit->output, "fuse", report->fuse);
    output_bytes(&visit->output, "free_bytes", report->free_bytes);
    output_bytes(&visit->output, "total_bytes", report->total_bytes);
}

static void print_results(struct visit *visit)
{
    cJSON *list = visit->ctl->json ? json_array(visit->output.root, "checks") : NULL;

    if (!list)
        printf("\n%-16s %-10s %10s\n", "operation", "result", "ms");
    for (unsigned i = 0; i < DOCTOR_CHECKS; i++) {
        const struct doctor_result *result = &visit->report->results[i];
        const char *name = doctor_check_name((enum doctor_check)i);
        if (!list) {
            printf("%-16s %-10s %10.2f  %s\n", name, outcome_text(result->outcome), (double)result->us / 1e3, result_text(result));
            continue;
        }
        cJSON *item = json_object();
        json_append(list, item);
        json_text(item, "name", name);
        json_text(item, "result", result->outcome == DOCTOR_FAILED ? "failed" : outcome_text(result->outcome));
        json_count(item, "us", result->us);
        json_text(item, "text", result_text(result));
    }
}

static void print_figures(struct visit *visit)
{
    const struct doctor_report *report = visit->report;
    struct output *output = &visit->output;

    if (report->results[DOCTOR_RING_READS].outcome == DOCTOR_OK && visit->ctl->json) {
        output_count(output, "read_submit_us", report->read_submit_us[0]);
        output_count(output, "read_submit_async_us", report->read_submit_us[1]);
        output_count(output, "write_submit_us", report->write_submit_us[0]);
        output_count(output, "write_submit_async_us", report->write_submit_us[1]);
        output_count(output, "read_bytes_per_second", report->bytes_per_second);
    }
    if (report->results[DOCTOR_OTHER].outcome != DOCTOR_OK)
        return;
    if (!visit->ctl->json)
        putchar('\n');
    for (unsigned i = 0; i < DOCTOR_SIGHTS; i++) {
        char name[40], text[40];
        snprintf(name, sizeof name, "seen_%s_ms", doctor_sight_name((enum doctor_sight)i));
        snprintf(text, sizeof text, "not within %" PRIu64, visit->wait_ms);
        if (report->seen_ms[i] == UINT64_MAX)
            output_text(output, name, text);
        else
            output_count(output, name, report->seen_ms[i]);
    }
}

static void print_verdict(void *arg, enum doctor_level level, const char *text)
{
    static const char *const LEVELS[] = {"good", "warning", "bad"};
    struct visit *visit = arg;

    if (!visit->ctl->json) {
        printf("%-8s %s\n", LEVELS[level], text);
        return;
    }
    cJSON *item = json_object();
    json_append(visit->list, item);
    json_text(item, "level", LEVELS[level]);
    json_text(item, "text", text);
}

static void print_stuck(struct visit *visit)
{
    char text[200];
    const int check = atomic_load(&visit->report->current);

    snprintf(text, sizeof text, "%s did not come back within %.1f s: kvd would carry on with its memory, and try again",
             check >= 0 && check < DOCTOR_CHECKS ? doctor_check_name((enum doctor_check)check) : "the directory",
             (double)visit->ctl->timeout_ms / 1e3);
    print_verdict(visit, DOCTOR_BAD, text);
}

/* The worst that can be said of it. */
static int print_all(struct visit *visit)
{
    output_begin(&visit->output, visit->ctl->json);
    print_mount(visit);
    print_results(visit);
    print_figures(visit);
    if (visit->ctl->json)
        visit->list = json_array(visit->output.root, "verdict");
    else
        puts("\nwhat kvd will make of it");
    if (visit->stuck)
        print_stuck(visit);
    const enum doctor_level worst = doctor_judge(visit->report, visit->wait_ms, print_verdict, visit);
    const bool interrupted = atomic_load(&visit->report->stop);
    const bool fit = worst != DOCTOR_BAD && !visit->stuck && !interrupted;
    if (interrupted)
        print_verdict(visit, DOCTOR_WARNING, "interrupted: not everything was tried");
    if (visit->ctl->json)
        output_flag(&visit->output, "fit", fit);
    const int code = output_end(&visit->output);
    return code == 0 && !fit ? EXIT_MISS : code;
}

/* ---- the command ---- */

static int open_signals(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC);
}

static int visit_run(struct visit *visit)
{
    visit->signals = open_signals();
    if (visit->signals < 0)
        return ctl_say(visit->ctl, EXIT_USAGE, "signals: %s", error_text(-errno));
    const int err = visit_try(visit);
    close(visit->signals);
    return err ? ctl_say(visit->ctl, EXIT_USAGE, "cannot start a process: %s", error_text(err)) : print_all(visit);
}

int cmd_doctor(struct ctl *ctl)
{
    struct visit visit = {.ctl = ctl, .directory = ctl->args->operands[0], .other = ctl->args->values[OPT_OTHER]};

    int code = ctl_duration(ctl, OPT_WAIT, DEFAULT_WAIT_MS, MAX_WAIT_MS, &visit.wait_ms);
    if (code)
        return code;
    if (strlen(visit.directory) >= PATH_MAX)
        return ctl_usage(ctl, "the path is too long");
    visit.report = mmap(NULL, sizeof *visit.report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (visit.report == MAP_FAILED)
        return ctl_say(ctl, EXIT_REFUSED, "out of memory");
    const int err = doctor_look(visit.directory, visit.report);
    code = err ? ctl_say(ctl, EXIT_USAGE, "%s: %s", visit.directory, error_text(err)) : visit_run(&visit);
    munmap(visit.report, sizeof *visit.report);
    return code;
}
