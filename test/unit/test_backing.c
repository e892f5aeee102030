/* The memory under the pool: touched slice by slice by jobs, until somebody stops it or the host has no more. */
#include <criterion/criterion.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "loop/file.h"
#include "tier/backing.h"

enum { BYTES = 5 * (BACKING_SLICE_BYTES / 2) };

static void keep(void *arg, const char *line, size_t len)
{
    (void)len;
    snprintf(arg, 256, "%s", line);
}

struct rig {
    struct loop *loop;
    struct backing *backing;
    struct timer timer;
    unsigned stopped;
    char said[256];
    struct log log;
};

static void rig_init(struct rig *rig, uint64_t bytes)
{
    *rig = (struct rig){.log = {.level = LOG_WARN, .sink = keep, .arg = rig->said}};
    struct loop_options options = {.job_threads = 2};
    cr_assert_eq(loop_new(&rig->loop, &options, &rig->log), 0);
    cr_assert_eq(backing_new(&rig->backing, rig->loop, &rig->log, bytes), 0);
}

static void rig_fini(struct rig *rig)
{
    backing_free(rig->backing);
    loop_free(rig->loop);
}

static void stopped(void *arg)
{
    struct rig *rig = arg;
    rig->stopped++;
    loop_stop(rig->loop);
}

static struct backing_figures figures(const struct rig *rig)
{
    struct backing_figures now;
    backing_get_figures(rig->backing, &now);
    return now;
}

/* Until all is touched and counted; it may be that no huge page is to be had. */
static void look(struct timer *timer)
{
    struct rig *rig = CONTAINER_OF(timer, struct rig, timer);
    if (figures(rig).touched_bytes == BYTES && (figures(rig).huge_bytes > 0 || strcmp(figures(rig).huge_pages, "transparent") != 0))
        backing_stop(rig->backing, stopped, rig);
    else
        timer_start(timer, 1);
}

Test(backing, is_touched_to_its_end)
{
    struct rig rig;
    rig_init(&rig, BYTES);
    cr_assert_eq(figures(&rig).touched_bytes, 0);
    uint64_t before = loop_rss_bytes();
    backing_touch_start(rig.backing);
    memset(backing_base(rig.backing), 9, MIB);
    timer_init(&rig.timer, rig.loop, look);
    timer_start(&rig.timer, 1);
    loop_run(rig.loop);
    cr_assert_eq(rig.stopped, 1);
    if (strcmp(figures(&rig).huge_pages, "explicit") != 0)
        cr_assert_geq(loop_rss_bytes(), before + BYTES * 9ull / 10);
    const unsigned char *bytes = backing_base(rig.backing);
    cr_assert_eq(bytes[0] + bytes[MIB - 1] + bytes[MIB], 18, "what was written meanwhile stays");
    cr_assert_str_eq(rig.said, "");
    rig_fini(&rig);
}

Test(backing, stops_after_the_slice_that_is_under_way)
{
    struct rig rig;
    rig_init(&rig, BYTES);
    backing_touch_start(rig.backing);
    backing_stop(rig.backing, stopped, &rig);
    cr_assert_eq(rig.stopped, 0, "never inside the call");
    loop_run(rig.loop);
    cr_assert_eq(rig.stopped, 1);
    cr_assert_leq(figures(&rig).touched_bytes, (uint64_t)BACKING_SLICE_BYTES);
    rig_fini(&rig);
}

Test(backing, that_nobody_touches_stops_as_well)
{
    struct rig rig;
    rig_init(&rig, BYTES);
    backing_stop(rig.backing, stopped, &rig);
    cr_assert_eq(rig.stopped, 0);
    loop_run(rig.loop);
    cr_assert_eq(rig.stopped, 1);
    cr_assert_eq(figures(&rig).touched_bytes, 0);
    rig_fini(&rig);
}

static uint64_t fixed_bytes(const struct rig *rig)
{
    struct file_counts counts;
    loop_file_counts(rig->loop, &counts);
    return counts.fixed_bytes;
}

static bool may_lock(uint64_t bytes)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    struct rlimit most;
    cr_assert_eq(syscall(SYS_capget, &head, data), 0);
    cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &most), 0);
    return most.rlim_cur > bytes || data[0].effective >> CAP_IPC_LOCK & 1;
}

static void look_for_fixed(struct timer *timer)
{
    struct rig *rig = CONTAINER_OF(timer, struct rig, timer);
    if (fixed_bytes(rig) == BYTES)
        backing_stop(rig->backing, stopped, rig);
    else
        timer_start(timer, 1);
}

/* In pages of 4 KiB. Twice on one loop: the first one's memory is forgotten when it goes. */
Test(backing, what_was_touched_is_fixed)
{
    if (!may_lock(BYTES))
        cr_skip_test("the limit of locked memory is small");
    cr_assert_eq(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
    struct rig rig;
    rig_init(&rig, BYTES);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(fixed_bytes(&rig), 0);
        rig.stopped = 0;
        backing_touch_start(rig.backing);
        timer_init(&rig.timer, rig.loop, look_for_fixed);
        timer_start(&rig.timer, 1);
        loop_run(rig.loop);
        cr_assert_eq(rig.stopped, 1);
        cr_assert_eq(fixed_bytes(&rig), BYTES);
        backing_free(rig.backing);
        cr_assert_eq(backing_new(&rig.backing, rig.loop, &rig.log, BYTES), 0);
    }
    cr_assert_eq(fixed_bytes(&rig), 0);
    rig_fini(&rig);
}

static void look_for_words(struct timer *timer)
{
    struct rig *rig = CONTAINER_OF(timer, struct rig, timer);
    if (rig->said[0] != '\0')
        backing_stop(rig->backing, stopped, rig);
    else
        timer_start(timer, 1);
}

/* A hole stands for what the kernel has no page for. */
Test(backing, says_where_the_kernel_gave_no_more)
{
    struct rig rig;
    rig_init(&rig, BYTES);
    cr_assert_eq(munmap((uint8_t *)backing_base(rig.backing) + BACKING_SLICE_BYTES, 2 * MIB), 0);
    backing_touch_start(rig.backing);
    timer_init(&rig.timer, rig.loop, look_for_words);
    timer_start(&rig.timer, 1);
    loop_run(rig.loop);
    cr_assert_eq(figures(&rig).touched_bytes, (uint64_t)BACKING_SLICE_BYTES);
    cr_assert(strstr(rig.said, "event=prefault_ended"), "%s", rig.said);
    cr_assert(strstr(rig.said, "touched=67108864 of=167772160"), "%s", rig.said);
    rig_fini(&rig);
}
