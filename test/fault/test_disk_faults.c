/* The k-th file operation fails, for k = 1, 2, ... until nothing fires, in each of several ways. After that the promises are checked, on
 * what a kill -9 would have left and on what a close left: what was killed stays dead, what was synced is there, no byte is ever wrong, and
 * the tier opens again.
 *
 * The functions of the seam are replaced by the linker: -Wl,--wrap=fs_open and so on for each function wrapped here.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/fs.h"
#include "test/support/disk_rig.h"
#include "tier/disk_inner.h"

#define REAL __attribute__((weak))

/* ---- the faults ---- */

enum fault_mode {
    FAULT_NOT_DONE, /* says EIO, nothing happened */
    FAULT_DONE,     /* says EIO, and yet it happened */
    FAULT_SHORT,    /* reads and writes move no more than fault_moves; others say EIO */
    FAULT_NO_SPACE, /* from the k-th on, whatever takes room says ENOSPC */
    FAULT_DEAD,     /* from the k-th on, all say EIO */
    FAULT_MODES,
};

static atomic_uint fault_count;
static unsigned fault_at; /* 0: none */
static enum fault_mode fault_mode;
static uint64_t fault_moves = BLOCK_BYTES;
static atomic_bool fault_fired;

static bool fails_behind_short; /* the operation after one that fell short says EIO */

static void fault_arm(unsigned k, enum fault_mode mode)
{
    fails_behind_short = false;
    fault_mode = mode;
    fault_at = k;
    atomic_store(&fault_fired, false);
    atomic_store(&fault_count, 0);
}

static bool fault_now(bool takes_room)
{
    unsigned k = fault_at ? atomic_fetch_add(&fault_count, 1) + 1 : 0;
    bool from_here_on = fault_mode == FAULT_DEAD || fault_mode == FAULT_NO_SPACE;
    if (fails_behind_short && k == fault_at + 1) {
        fault_mode = FAULT_NOT_DONE;
        return true;
    }
    bool fires = k > 0 && (k == fault_at || (from_here_on && k > fault_at)) && (fault_mode != FAULT_NO_SPACE || takes_room);
    if (fires)
        atomic_store(&fault_fired, true);
    return fires;
}

static int fault_errno(void)
{
    return fault_mode == FAULT_NO_SPACE ? -ENOSPC : -EIO;
}

/* ---- the order of things ---- */

enum event_kind { EVENT_WRITE, EVENT_SYNC, EVENT_READ };

/* What went to files of one name's sort, in the order of `began` and `ended`. */
struct event {
    enum event_kind kind;
    bool direct; /* to a segment */
    uint64_t offset, len;
    char magic[4];
    unsigned began, ended;
};

enum { EVENTS = 4096 };
static struct event *events; /* NULL: nobody looks */
static atomic_uint event_count, event_clock;

static struct event *event_begin(enum event_kind kind, const struct file *file, const void *at, uint64_t len, uint64_t offset)
{
    unsigned i = events ? atomic_fetch_add(&event_count, 1) : EVENTS;
    if (i >= EVENTS)
        return NULL;
    events[i] = (struct event){.kind = kind, .direct = file->direct, .offset = offset, .len = len};
    if (at && len >= 4)
        memcpy(events[i].magic, at, 4);
    events[i].began = atomic_fetch_add(&event_clock, 1) + 1;
    return &events[i];
}

static void event_end(struct event *event)
{
    if (event)
        event->ended = atomic_fetch_add(&event_clock, 1) + 1;
}

/* ---- the heap ---- */

static atomic_bool heap_out; /* for calloc() on this thread */
static pthread_t heap_out_for;

void *__real_calloc(size_t count, size_t size) REAL;
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    bool out = atomic_load(&heap_out) && pthread_equal(heap_out_for, pthread_self());
    return out ? NULL : __real_calloc(count, size);
}

/* ---- blocking functions ---- */

/* A function with an int result, its parameters, its arguments, and whether it takes room. */
#define WRAP(name, params, args, takes_room) \
    int __real_##name params REAL;           \
    int __wrap_##name params;                \
    int __wrap_##name params                 \
    {                                        \
        if (!fault_now(takes_room))          \
            return __real_##name args;       \
        if (fault_mode == FAULT_DONE)        \
            (void)__real_##name args;        \
        return fault_errno();                \
    }

WRAP(fs_truncate, (struct loop * loop, const struct file *file, uint64_t len), (loop, file, len), true)
WRAP(fs_unlink, (struct loop * loop, const char *path), (loop, path), false)
WRAP(fs_rename, (struct loop * loop, const char *from, const char *to), (loop, from, to), false)
WRAP(fs_make_dirs, (struct loop * loop, const char *path), (loop, path), true)

enum name_place { IN_DIR = 1, IN_CLUSTER = 2, IN_NODE = 4, IN_OBJECTS = 8, IN_FAN = 16 };

static atomic_uint names_synced;       /* bits of these: since names_watch() */
static atomic_uint names_first;        /* the same as of the first write that followed; UINT_MAX: none yet */
static atomic_uint name_syncs_failing; /* so many more in IN_FAN say EIO */

static void names_watch(void)
{
    atomic_store(&names_synced, 0);
    atomic_store(&names_first, UINT_MAX);
}

static unsigned name_place(const char *path)
{
    const char *last = strrchr(path, '/');
    if (last && strcmp(last, "/test") == 0)
        return IN_CLUSTER;
    if (last && strcmp(last, "/node1") == 0)
        return IN_NODE;
    if (last && strcmp(last, "/objects") == 0)
        return IN_OBJECTS;
    return strstr(path, "/objects/") ? IN_FAN : IN_DIR;
}

int __real_fs_sync_dir(struct loop *loop, const char *path) REAL;
int __wrap_fs_sync_dir(struct loop *loop, const char *path);
int __wrap_fs_sync_dir(struct loop *loop, const char *path)
{
    bool fires = fault_now(false);
    if (fires && fault_mode != FAULT_DONE)
        return fault_errno();
    if (name_place(path) == IN_FAN && access(path, F_OK) == 0 && atomic_load(&name_syncs_failing) > 0) {
        atomic_fetch_sub(&name_syncs_failing, 1);
        return -EIO;
    }
    int err = __real_fs_sync_dir(loop, path);
    if (!err)
        atomic_fetch_or(&names_synced, name_place(path));
    return fires ? fault_errno() : err;
}

static uint64_t device_shift; /* the folder seems to be on another file system by so much, where the lock is not ours yet */

static uint64_t free_shown_bytes; /* 0: what there is */

int __real_fs_dir_info(struct loop *loop, const char *path, struct fs_dir_info *out) REAL;
int __wrap_fs_dir_info(struct loop *loop, const char *path, struct fs_dir_info *out);
int __wrap_fs_dir_info(struct loop *loop, const char *path, struct fs_dir_info *out)
{
    if (fault_now(false))
        return fault_errno();
    int err = __real_fs_dir_info(loop, path, out);
    if (err)
        return err;
    out->device += device_shift;
    if (free_shown_bytes > 0)
        out->free_bytes = out->total_bytes = free_shown_bytes;
    return 0;
}

static pthread_mutex_t opening_held = PTHREAD_MUTEX_INITIALIZER; /* while the test has it, opening hangs */

int __real_fs_lock(struct loop *loop, const struct file *file) REAL;
int __wrap_fs_lock(struct loop *loop, const struct file *file);
int __wrap_fs_lock(struct loop *loop, const struct file *file)
{
    pthread_mutex_lock(&opening_held);
    pthread_mutex_unlock(&opening_held);
    if (fault_now(false))
        return fault_errno();
    return device_shift ? 0 : __real_fs_lock(loop, file);
}

static atomic_uint lists_failing; /* so many more of those below say EIO */

/* Most of the folders that objects' files are spread over are not there: that is no operation worth failing. */
int __real_fs_list(struct loop *loop, const char *path, fs_list_fn fn, void *arg) REAL;
int __wrap_fs_list(struct loop *loop, const char *path, fs_list_fn fn, void *arg);
int __wrap_fs_list(struct loop *loop, const char *path, fs_list_fn fn, void *arg)
{
    bool there = access(path, F_OK) == 0;
    bool fires = there && fault_now(false);
    if (there && strstr(path, "/objects/") && atomic_load(&lists_failing) > 0) {
        atomic_fetch_sub(&lists_failing, 1);
        return -EIO;
    }
    if (fires && fault_mode != FAULT_DONE)
        return fault_errno();
    int err = __real_fs_list(loop, path, fn, arg);
    return fires ? fault_errno() : err;
}

int __real_fs_write(struct loop *loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset) REAL;
int __wrap_fs_write(struct loop *loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset);
int __wrap_fs_write(struct loop *loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset)
{
    unsigned none = UINT_MAX;
    atomic_compare_exchange_strong(&names_first, &none, atomic_load(&names_synced));
    bool fires = fault_now(true);
    if (fires && fault_mode != FAULT_DONE)
        return fault_errno();
    struct event *event = event_begin(EVENT_WRITE, file, buf, len, offset);
    int err = __real_fs_write(loop, file, buf, len, offset);
    event_end(event);
    return fires ? fault_errno() : err;
}

/* How many remove logs jobs have read, and how many of these they synced after that. */
static atomic_uint logs_read, logs_synced;
static _Atomic ino_t log_unsynced; /* the last one that was read; 0: it is synced */

static ino_t inode_of(const struct file *file)
{
    struct stat info;
    return fstat(file->fd, &info) == 0 ? info.st_ino : 0;
}

static void log_seen(const struct file *file, const void *at, int64_t len)
{
    if (len < 4 || memcmp(at, "KVDL", 4) != 0)
        return;
    atomic_fetch_add(&logs_read, 1);
    atomic_store(&log_unsynced, inode_of(file));
}

int __real_fs_sync(struct loop *loop, const struct file *file) REAL;
int __wrap_fs_sync(struct loop *loop, const struct file *file);
int __wrap_fs_sync(struct loop *loop, const struct file *file)
{
    bool fires = fault_now(false);
    if (fires && fault_mode != FAULT_DONE)
        return fault_errno();
    struct event *event = event_begin(EVENT_SYNC, file, NULL, 0, 0);
    int err = __real_fs_sync(loop, file);
    event_end(event);
    ino_t inode = inode_of(file);
    if (!err && !fires && inode > 0 && atomic_compare_exchange_strong(&log_unsynced, &inode, 0))
        atomic_fetch_add(&logs_synced, 1);
    return fires ? fault_errno() : err;
}

static atomic_bool names_are_old; /* objects' files seem not to be there, as where another host has replaced them */

/* An open that says EIO leaves no file open, whatever it did. */
int __real_fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags) REAL;
int __wrap_fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags);
int __wrap_fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags)
{
    if (atomic_load(&names_are_old) && !(flags & FS_CREATE) && strstr(path, "/objects/"))
        return -ENOENT;
    if (!fault_now((flags & FS_CREATE) != 0))
        return __real_fs_open(loop, file, path, flags);
    struct file opened;
    if (fault_mode == FAULT_DONE && __real_fs_open(loop, &opened, path, flags) == 0)
        (void)fs_close(loop, &opened);
    return fault_errno();
}

/* Of the reads of files that jobs make, this one finds nothing there; 0: none. */
static unsigned short_read_at;
static atomic_uint reads_seen;

int64_t __real_fs_read(struct loop *loop, const struct file *file, void *buf, uint64_t len, uint64_t offset) REAL;
int64_t __wrap_fs_read(struct loop *loop, const struct file *file, void *buf, uint64_t len, uint64_t offset);
int64_t __wrap_fs_read(struct loop *loop, const struct file *file, void *buf, uint64_t len, uint64_t offset)
{
    if (short_read_at > 0 && atomic_fetch_add(&reads_seen, 1) + 1 == short_read_at)
        return 0;
    int64_t got = fault_now(false) ? fault_errno() : __real_fs_read(loop, file, buf, len, offset);
    log_seen(file, buf, got);
    return got;
}

int64_t __real_fs_size(struct loop *loop, const struct file *file) REAL;
int64_t __wrap_fs_size(struct loop *loop, const struct file *file);
int64_t __wrap_fs_size(struct loop *loop, const struct file *file)
{
    return fault_now(false) ? fault_errno() : __real_fs_size(loop, file);
}

/* ---- operations of the loop ---- */

typedef void (*start_fn)(struct loop *loop, struct file_op *op, file_op_fn fn);
void __real_file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn) REAL;
void __real_file_write_start(struct loop *loop, struct file_op *op, file_op_fn fn) REAL;
void __real_file_sync_start(struct loop *loop, struct file_op *op, file_op_fn fn) REAL;
void __wrap_file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn);
void __wrap_file_write_start(struct loop *loop, struct file_op *op, file_op_fn fn);
void __wrap_file_sync_start(struct loop *loop, struct file_op *op, file_op_fn fn);

/* Stands in for an operation that is to fail, to move less, to be watched or to be held back. */
struct stand_in {
    struct event *event;
    struct task task;
    struct file_op mine;
    struct iovec *iov;
    struct file_op *op;
    file_op_fn fn;
};

static void stand_in_end(struct stand_in *stand_in, int64_t result)
{
    struct file_op *op = stand_in->op;
    file_op_fn fn = stand_in->fn;
    free(stand_in->iov);
    free(stand_in);
    op->result = result;
    fn(op);
}

static void stand_in_fails(struct task *task)
{
    stand_in_end(CONTAINER_OF(task, struct stand_in, task), fault_errno());
}

static void stand_in_did(struct file_op *mine)
{
    struct stand_in *stand_in = CONTAINER_OF(mine, struct stand_in, mine);
    uint64_t part = mine->result > 0 && stand_in->iov ? fault_moves % BLOCK_BYTES : 0;
    stand_in_end(stand_in, stand_in->iov ? mine->result + (int64_t)part : fault_errno());
}

/* No more than fault_moves of it; of a block's part it is only said that it was moved. */
static void stand_in_cut(struct stand_in *stand_in)
{
    const struct file_op *op = stand_in->op;
    stand_in->iov = malloc(op->iov_count * sizeof *stand_in->iov);
    CHECK(stand_in->iov);
    stand_in->mine.iov = stand_in->iov;
    stand_in->mine.iov_count = 0;
    uint64_t left = fault_moves & -(uint64_t)BLOCK_BYTES;
    for (unsigned i = 0; i < op->iov_count && left > 0; i++) {
        stand_in->iov[i] = op->iov[i];
        stand_in->iov[i].iov_len = min_u64(stand_in->iov[i].iov_len, left);
        left -= stand_in->iov[i].iov_len;
        stand_in->mine.iov_count++;
    }
}

static void start_faulty(struct loop *loop, struct file_op *op, file_op_fn fn, start_fn real, bool moves)
{
    struct stand_in *stand_in = calloc(1, sizeof *stand_in);
    CHECK(stand_in);
    stand_in->op = op;
    stand_in->fn = fn;
    if (fault_mode == FAULT_DONE || (fault_mode == FAULT_SHORT && moves)) {
        stand_in->mine.file = op->file;
        stand_in->mine.iov = op->iov;
        stand_in->mine.iov_count = op->iov_count;
        stand_in->mine.offset = op->offset;
        if (fault_mode == FAULT_SHORT)
            stand_in_cut(stand_in);
        real(loop, &stand_in->mine, stand_in_did);
        return;
    }
    task_init(&stand_in->task, loop, stand_in_fails);
    task_post(&stand_in->task);
}

/* ---- watching and holding ---- */

static struct stand_in *held; /* what waits for release() */
static start_fn held_real;
static bool hold_next_write;
static unsigned hold_read_at; /* the so-manieth from now on; 0: none */

static void watched(struct file_op *mine)
{
    struct stand_in *stand_in = CONTAINER_OF(mine, struct stand_in, mine);
    event_end(stand_in->event);
    stand_in_end(stand_in, mine->result);
}

static void start_watched(struct loop *loop, struct file_op *op, file_op_fn fn, start_fn real, enum event_kind kind)
{
    struct stand_in *stand_in = calloc(1, sizeof *stand_in);
    CHECK(stand_in);
    uint64_t len = 0;
    for (unsigned i = 0; i < op->iov_count && kind == EVENT_WRITE; i++)
        len += op->iov[i].iov_len;
    stand_in->event = event_begin(kind, op->file, len ? op->iov[0].iov_base : NULL, len, op->offset);
    stand_in->op = op;
    stand_in->fn = fn;
    stand_in->mine.file = op->file;
    stand_in->mine.iov = op->iov;
    stand_in->mine.iov_count = op->iov_count;
    stand_in->mine.offset = op->offset;
    stand_in->mine.loop = op->loop = loop;
    bool hold = kind == EVENT_READ ? hold_read_at == 1 : kind == EVENT_WRITE && hold_next_write;
    if (kind == EVENT_READ)
        hold_read_at--;
    if (hold) {
        hold_next_write = false;
        held = stand_in;
        held_real = real;
        return;
    }
    real(loop, &stand_in->mine, watched);
}

static void release(struct loop *loop)
{
    struct stand_in *stand_in = held;
    held = NULL;
    held_real(loop, &stand_in->mine, watched);
}

void __wrap_file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    if (fault_now(false))
        start_faulty(loop, op, fn, __real_file_read_start, true);
    else if (hold_read_at > 0)
        start_watched(loop, op, fn, __real_file_read_start, EVENT_READ);
    else
        __real_file_read_start(loop, op, fn);
}

void __wrap_file_write_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    if (fault_now(true))
        start_faulty(loop, op, fn, __real_file_write_start, true);
    else if (events)
        start_watched(loop, op, fn, __real_file_write_start, EVENT_WRITE);
    else
        __real_file_write_start(loop, op, fn);
}

void __wrap_file_sync_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    if (fault_now(false))
        start_faulty(loop, op, fn, __real_file_sync_start, false);
    else if (events)
        start_watched(loop, op, fn, __real_file_sync_start, EVENT_SYNC);
    else
        __real_file_sync_start(loop, op, fn);
}

/* ---- what is promised ---- */

enum { KEYS = 12 };

struct promise {
    uint64_t version; /* of the newest put that was tried */
    bool dead;        /* an acknowledged kill names it, and no put came after */
    bool synced;      /* a sync of its newest version was acknowledged, and nothing took it away since */
};

struct world {
    struct rig rig;
    struct promise promises[KEYS];
};

static const char *key_of(unsigned i)
{
    static const char *const keys[KEYS] = {"k0", "k1", "k2", "k3", "k4", "k5", "p/6", "p/7", "k8", "k9", "k10", "k11"};
    return keys[i];
}

static void do_kill(struct world *world, unsigned i)
{
    world->promises[i].synced = false;
    /* One that failed may have taken effect. */
    int err = rig_kill(&world->rig, KILL_KEY, key_of(i));
    rig_forget(&world->rig, key_of(i));
    world->promises[i].dead = world->promises[i].dead || err == 0;
}

static void do_put(struct world *world, unsigned i, uint64_t size)
{
    struct promise *promise = &world->promises[i];
    /* As the store does it: what may be on disk is dead before the new value is shown. */
    if (promise->version > 0)
        do_kill(world, i);
    int err = rig_put(&world->rig, key_of(i), size);
    cr_assert_leq(err, 0);
    promise->version = disk_next_version(world->rig.disk);
    promise->dead = promise->synced = false;
}

static void do_sync(struct world *world, unsigned i)
{
    if (rig_object(&world->rig, key_of(i)) && rig_sync(&world->rig, key_of(i)) == 0)
        world->promises[i].synced = true;
}

static void do_kill_prefix(struct world *world)
{
    int err = rig_kill(&world->rig, KILL_PREFIX, "p/");
    for (unsigned i = 6; i <= 7; i++) {
        world->promises[i].synced = false;
        rig_forget(&world->rig, key_of(i));
        world->promises[i].dead = world->promises[i].dead || err == 0;
    }
}

static void do_give_up(struct world *world)
{
    struct segment *segment = disk_segment_next(world->rig.disk, NULL);
    while (segment && segment_busy(segment))
        segment = disk_segment_next(world->rig.disk, segment);
    if (!segment)
        return;
    for (unsigned i = 0; i < KEYS; i++) {
        const struct rig_object *object = rig_object(&world->rig, key_of(i));
        if (object && object->where.segment == segment)
            world->promises[i].synced = false;
    }
    (void)rig_give_up(&world->rig, segment);
}

static void do_read_all(struct world *world)
{
    for (unsigned i = 0; i < KEYS; i++)
        cr_assert_neq(rig_get(&world->rig, key_of(i)), 1, "wrong bytes of %s", key_of(i));
}

/* A bit of everything. */
static void life(struct world *world)
{
    for (unsigned i = 0; i < 4; i++)
        do_put(world, i, 3000 + i * 90000);
    do_sync(world, 1);
    do_put(world, 2, 100);
    do_sync(world, 2);
    (void)rig_seal(&world->rig);
    do_read_all(world);
    do_kill(world, 3);
    do_put(world, 6, 5000);
    do_put(world, 7, 0);
    do_put(world, 8, 600000);
    do_sync(world, 8);
    do_kill_prefix(world);
    do_put(world, 6, 50);
    (void)rig_sync_all(&world->rig);
    do_put(world, 9, 700000);
    do_sync(world, 9);
    do_put(world, 3, 12);
    do_give_up(world);
    do_put(world, 10, 4096);
    do_sync(world, 10);
    do_put(world, 11, 1);
    do_sync(world, 11);
    do_kill(world, 9);
    rig_settle(&world->rig);
    do_read_all(world);
}

static void check_promises(const struct world *world, struct rig *rig, const char *when, unsigned k)
{
    cr_assert_eq(rig_open(rig), 0, "%s, k %u, mode %d: %s", when, k, fault_mode, disk_off_reason(rig->disk));
    for (unsigned i = 0; i < KEYS; i++) {
        const struct promise *promise = &world->promises[i];
        int err = rig_get(rig, key_of(i));
        cr_assert_neq(err, 1, "%s, k %u, mode %d: wrong bytes of %s", when, k, fault_mode, key_of(i));
        if (promise->dead)
            cr_assert_eq(err, -ENOENT, "%s, k %u, mode %d: %s came back", when, k, fault_mode, key_of(i));
        if (promise->synced)
            cr_assert_eq(err, 0, "%s, k %u, mode %d: %s is lost: %d", when, k, fault_mode, key_of(i), err);
    }
    struct disk_figures figures = rig_figures(rig);
    cr_assert_leq(figures.used_bytes, rig->limit_bytes);
    rig_settle(rig);
    rig_close(rig);
}

/* One life with a fault at the k-th operation. False when it did not fire. */
static bool try_fault(unsigned k, enum fault_mode mode, bool from_start, bool objects)
{
    struct world *world = calloc(1, sizeof *world);
    struct rig copy;
    struct rig *rig = &world->rig;
    rig_init(rig);
    if (objects)
        rig->segment_bytes = 0;
    if (!from_start) {
        cr_assert_eq(rig_open(rig), 0);
        do_put(world, 4, 70000);
        do_put(world, 5, 10);
        do_kill(world, 5);
        rig_close(rig);
        world->promises[4].synced = true;
    }
    fault_arm(k, mode);
    int err = rig_open(rig);
    if (!err) {
        do_read_all(world);
        life(world);
    }
    fault_at = 0;
    rig_init_copy(&copy, rig);
    check_promises(world, &copy, "killed", k);
    rig_fini(&copy);
    fault_at = k;
    rig_close(rig);
    fault_at = 0;
    bool fired = atomic_load(&fault_fired);
    check_promises(world, rig, "closed", k);
    check_promises(world, rig, "closed again", k);
    rig_fini(rig);
    free(world);
    return fired;
}

static void try_all(enum fault_mode mode, bool objects)
{
    cr_assert(__real_fs_open && __real_file_sync_start, "this test must be linked with --wrap for the functions it replaces");
    /* Where each object is a file there are many more operations, and each mode tries others: KVD_FAULT_STEP=1 tries them all. */
    const char *wanted = getenv("KVD_FAULT_STEP");
    unsigned step = objects ? (wanted ? (unsigned)atoi(wanted) : 16) : 1;
    for (unsigned from_start = 0; from_start < 2; from_start++) {
        unsigned k = 1 + (step > 1 ? 4 * (unsigned)mode % step : 0);
        while (try_fault(k, mode, from_start, objects))
            k += step;
        cr_assert_gt(k, 40, "only %u operations", k);
    }
}

Test(disk_faults, says_no_and_did_not, .timeout = 280)
{
    try_all(FAULT_NOT_DONE, false);
}

Test(disk_faults, says_no_and_did, .timeout = 280)
{
    try_all(FAULT_DONE, false);
}

Test(disk_faults, falls_short, .timeout = 280)
{
    try_all(FAULT_SHORT, false);
}

Test(disk_faults, runs_out_of_space, .timeout = 280)
{
    try_all(FAULT_NO_SPACE, false);
}

Test(disk_faults, dies, .timeout = 280)
{
    try_all(FAULT_DEAD, false);
}

/* The same where each object is a file. */
Test(object_faults, says_no_and_did_not, .timeout = 280)
{
    try_all(FAULT_NOT_DONE, true);
}

Test(object_faults, says_no_and_did, .timeout = 280)
{
    try_all(FAULT_DONE, true);
}

Test(object_faults, runs_out_of_space, .timeout = 280)
{
    try_all(FAULT_NO_SPACE, true);
}

Test(object_faults, dies, .timeout = 280)
{
    try_all(FAULT_DEAD, true);
}

/* ---- order ---- */

static bool synced_between(unsigned after, unsigned before)
{
    for (unsigned i = 0; i < atomic_load(&event_count); i++)
        if (events[i].kind == EVENT_SYNC && events[i].direct && events[i].began > after && events[i].ended && events[i].ended < before)
            return true;
    return false;
}

/* What an index names is written and synced before it is begun; a slot comes after its index; a final one after a sync of it. */
static void check_index(const struct event *index)
{
    unsigned last = 0;
    for (unsigned i = 0; i < atomic_load(&event_count); i++) {
        const struct event *event = &events[i];
        if (event->kind != EVENT_WRITE || !event->direct || event->offset >= index->offset || memcmp(event->magic, "KVDC", 4) == 0)
            continue;
        cr_assert(event->ended && event->ended < index->began, "a record before an index was still under way");
        if (memcmp(event->magic, "KVDI", 4) != 0)
            last = event->ended > last ? event->ended : last;
    }
    cr_assert(synced_between(last, index->began), "an index was written before what it names was synced");
}

static unsigned check_order(void)
{
    unsigned indexes = 0;
    unsigned slots = 0;
    for (unsigned i = 0; i < atomic_load(&event_count); i++) {
        if (events[i].kind == EVENT_WRITE && memcmp(events[i].magic, "KVDI", 4) == 0) {
            check_index(&events[i]);
            indexes++;
        }
        if (events[i].kind == EVENT_WRITE && memcmp(events[i].magic, "KVDC", 4) == 0) {
            slots++;
            unsigned ended = 0;
            for (unsigned j = 0; j < i; j++)
                if (memcmp(events[j].magic, "KVDI", 4) == 0)
                    ended = events[j].ended;
            cr_assert(ended > 0 && ended < events[i].began, "a slot was written before its index");
        }
    }
    cr_assert_eq(indexes, slots);
    return indexes;
}

Test(disk_order, indexes_come_after_what_they_name, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    rig.limit_bytes = 256 << 20;
    rig.segment_bytes = 64 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    events = calloc(EVENTS, sizeof *events);
    struct rig_write *writes[45];
    for (unsigned i = 0; i < 45; i++) {
        writes[i] = rig_write_start(&rig, "k", disk_next_version(rig.disk), 1 << 20);
        if (i % 16 == 15)
            rig_settle(&rig);
    }
    rig_settle(&rig);
    for (unsigned i = 0; i < 45; i++) {
        cr_assert(writes[i]->done && writes[i]->err == 0);
        rig_write_free(writes[i]);
    }
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(check_order(), 3);
    free(events);
    events = NULL;
    rig_fini(&rig);
}

/* A segment's file has holes until it is written: what is on its way there is no room for the next one. */
Test(disk_order, a_segment_is_not_made_in_room_that_is_promised, .timeout = 60)
{
    enum { WRITES = 6 };
    struct rig rig;
    rig_init(&rig);
    rig.segment_bytes = 4 << 20;
    free_shown_bytes = 6 << 20; /* a segment and what is kept free, and less than what is on its way */
    cr_assert_eq(rig_open(&rig), 0);
    struct rig_write *writes[WRITES];
    for (unsigned i = 0; i < WRITES; i++)
        writes[i] = rig_write_start(&rig, "k", disk_next_version(rig.disk), 1 << 20);
    rig_settle(&rig);
    for (unsigned i = 0; i < WRITES; i++) {
        cr_assert(writes[i]->done);
        rig_write_free(writes[i]);
    }
    cr_assert_gt(rig.full_calls, 0, "another is to make room");
    free_shown_bytes = 0;
    rig_fini(&rig);
}

struct flagged_sync {
    struct disk_sync sync;
    bool done;
    int err;
};

static void flagged(struct disk_sync *sync, int err)
{
    struct flagged_sync *mine = CONTAINER_OF(sync, struct flagged_sync, sync);
    mine->done = true;
    mine->err = err;
}

static bool is_done(void *arg)
{
    return *(bool *)arg;
}

static bool is_held(void *arg)
{
    (void)arg;
    return held != NULL;
}

/* Appends complete in any order; what is behind one that has not is not durable, for a restart would not get that far. */
Test(disk_order, a_sync_waits_for_what_lies_before, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "zero", 10), 0);
    events = calloc(EVENTS, sizeof *events);
    hold_next_write = true;
    struct rig_write *first = rig_write_start(&rig, "first", disk_next_version(rig.disk), 5000);
    rig_until(&rig, is_held, NULL);
    struct rig_write *second = rig_write_start(&rig, "second", disk_next_version(rig.disk), 5000);
    rig_until(&rig, is_done, &second->done); /* it would go with others, but not wait for ever */
    cr_assert(held && !first->done);
    struct flagged_sync before = {0}, behind = {0};
    struct disk_where zero = rig_object(&rig, "zero")->where;
    cr_assert_eq(disk_sync_start(rig.disk, &behind.sync, &second->write.where, flagged), 0);
    cr_assert_eq(disk_sync_start(rig.disk, &before.sync, &zero, flagged), 0);
    rig_until(&rig, is_done, &before.done);
    cr_assert_eq(before.err, 0);
    rig_turns(&rig, 200);
    cr_assert_not(behind.done);
    release(rig.loop);
    rig_until(&rig, is_done, &behind.done);
    cr_assert_eq(behind.err, 0);
    cr_assert(first->done);
    cr_assert(synced_between(events[0].ended, atomic_load(&event_clock) + 1));
    rig_write_free(first);
    rig_write_free(second);
    rig_fini(&rig);
    free(events);
    events = NULL;
}

/* What gives up room waits for the copies out of it to end, and they wait for that room when they are tried again: once is enough. */
Test(disk_order, a_copy_is_tried_once, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "before", 10), 0);
    rig_settle(&rig);
    struct rig_write *copy = rig_write_start(&rig, "copy", disk_next_version(rig.disk), 5000);
    copy->write.first = true;
    fault_arm(1, FAULT_NOT_DONE);
    rig_until(&rig, is_done, &copy->done);
    cr_assert(atomic_load(&fault_fired));
    fault_at = 0;
    cr_assert_eq(copy->err, -EIO);
    cr_assert_eq(copy->write.attempts, 1);
    rig_write_free(copy);
    cr_assert_eq(rig_put(&rig, "after", 10), 0);
    rig_fini(&rig);
}

/* ---- one piece of a large read ---- */

enum { PIECES = 6, LARGE_BYTES = (5 << 20) + 3 };

static void rig_with_a_large_one(struct rig *rig)
{
    rig_init(rig);
    cr_assert_eq(rig_open(rig), 0);
    cr_assert_eq(rig_put(rig, "small", 100), 0);
    cr_assert_eq(rig_put(rig, "large", LARGE_BYTES), 0);
    cr_assert_eq(rig_seal(rig), 0);
    struct file_counts before, after;
    loop_file_counts(rig->loop, &before);
    cr_assert_eq(rig_get(rig, "large"), 0);
    loop_file_counts(rig->loop, &after);
    cr_assert_eq(after.reads - before.reads, PIECES);
}

/* What was read before is not in memory that is read into again. */
static void spoil_free_memory(struct rig *rig)
{
    struct blob *blob = blob_new(rig->pool, LARGE_BYTES);
    cr_assert_eq(blob_grow_all(blob), 0);
    for (uint64_t at = 0; at < LARGE_BYTES;) {
        size_t run;
        uint8_t *to = blob_at(blob, at, &run);
        memset(to, 0xee, run);
        at += run;
    }
    blob_unref(blob);
}

/* The others' bytes have come, and are not given out. */
Test(disk_pieces, one_that_fails_fails_all, .timeout = 60)
{
    struct rig rig;
    rig_with_a_large_one(&rig);
    for (unsigned k = 1; k <= PIECES; k++) {
        fault_arm(k, FAULT_NOT_DONE);
        cr_assert_eq(rig_get(&rig, "large"), -EIO, "piece %u", k);
        fault_arm(0, 0);
        cr_assert_eq(rig_get(&rig, "large"), 0);
    }
    struct disk_figures figures = rig_figures(&rig);
    cr_assert_eq(figures.read_errors, PIECES);
    cr_assert_eq(figures.read_short + figures.read_corrupt, 0);
    cr_assert_eq(disk_state(rig.disk), DISK_ON, "none was behind another");
    rig_fini(&rig);
}

Test(disk_pieces, one_that_falls_short_goes_on_where_it_stopped, .timeout = 60)
{
    struct rig rig;
    rig_with_a_large_one(&rig);
    static const uint64_t moves[] = {BLOCK_BYTES, 3 * BLOCK_BYTES, MIB - BLOCK_BYTES, MIB / 2 + 100};
    for (unsigned k = 1; k < PIECES; k++)
        for (unsigned i = 0; i < sizeof moves / sizeof moves[0]; i++) {
            fault_moves = moves[i];
            spoil_free_memory(&rig);
            fault_arm(k, FAULT_SHORT);
            cr_assert_eq(rig_get(&rig, "large"), 0, "piece %u", k);
            fault_arm(0, 0);
        }
    fault_moves = BLOCK_BYTES;
    rig_fini(&rig);
}

/* As where a file that another host has deleted ends early. */
Test(disk_pieces, one_that_finds_nothing_is_short_and_not_corrupt, .timeout = 60)
{
    struct rig rig;
    rig_with_a_large_one(&rig);
    fault_moves = 0;
    for (unsigned k = 1; k <= PIECES; k++) {
        spoil_free_memory(&rig);
        fault_arm(k, FAULT_SHORT);
        cr_assert_eq(rig_get(&rig, "large"), KVD_ESHORT, "piece %u", k);
        fault_arm(0, 0);
    }
    fault_moves = BLOCK_BYTES;
    cr_assert_eq(rig_get(&rig, "large"), 0);
    cr_assert_eq(rig_figures(&rig).read_short, PIECES);
    cr_assert_eq(rig_figures(&rig).read_errors + rig_figures(&rig).read_corrupt, 0);
    rig_fini(&rig);
}

static bool pieces_have_come(void *arg)
{
    const struct rig_read *mine = arg;
    return mine->read.pieces_left == 1;
}

/* The read does not end without it, however long nobody has waited for it; others do, and what it brings in the end is right. */
Test(disk_pieces, one_that_hangs_holds_up_its_own_read_alone, .timeout = 60)
{
    struct rig rig;
    rig_with_a_large_one(&rig);
    for (unsigned k = 1; k <= PIECES; k++) {
        struct rig_read mine;
        hold_read_at = k;
        rig_read_start(&rig, &mine, "large", 0, LARGE_BYTES);
        hold_read_at = 0;
        cr_assert(held);
        rig_until(&rig, pieces_have_come, &mine);
        disk_read_is_late(rig.disk, &mine.read);
        cr_assert_eq(rig_get(&rig, "small"), 0);
        cr_assert_not(mine.done);
        release(rig.loop);
        cr_assert_eq(rig_read_end(&mine), 0, "piece %u", k);
    }
    cr_assert_eq(rig_logged(&rig, "read_late"), PIECES);
    rig_fini(&rig);
}

/* ---- records that go together ---- */

enum { TOGETHER = 8, TOGETHER_BYTES = 10000, TOGETHER_BLOCKS = 4 };

static void write_together(struct rig *rig, struct rig_write *writes[TOGETHER])
{
    for (unsigned i = 0; i < TOGETHER; i++)
        writes[i] = rig_write_start(rig, key_of(i), disk_next_version(rig->disk), TOGETHER_BYTES);
    for (unsigned i = 0; i < TOGETHER; i++)
        rig_until(rig, is_done, &writes[i]->done);
}

/* What of it the disk has is what was put, and a restart finds it. */
static void check_together(struct rig *rig, struct rig_write *writes[TOGETHER])
{
    struct rig copy;
    rig_init_copy(&copy, rig);
    cr_assert_eq(rig_open(&copy), 0);
    for (unsigned i = 0; i < TOGETHER; i++) {
        cr_assert_eq(writes[i]->err, 0);
        const struct rig_object *object = rig_object(&copy, key_of(i));
        cr_assert(object && object->version == writes[i]->write.version, "%s is found", key_of(i));
        cr_assert_eq(rig_get(&copy, key_of(i)), 0);
        rig_write_free(writes[i]);
    }
    rig_fini(&copy);
}

Test(disk_runs, one_that_falls_short_within_a_record_goes_on_there, .timeout = 60)
{
    struct rig rig;
    struct rig_write *writes[TOGETHER];
    rig_init(&rig);
    rig.segment_bytes = 16 << 20; /* one is enough for all */
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "first", 10), 0);
    for (unsigned blocks = 1; blocks < TOGETHER * TOGETHER_BLOCKS; blocks += 3) {
        fault_moves = (uint64_t)blocks * BLOCK_BYTES + 100; /* and the rest of a block counts for nothing */
        struct file_counts before, after;
        loop_file_counts(rig.loop, &before);
        fault_arm(1, FAULT_SHORT);
        write_together(&rig, writes);
        fault_arm(0, 0);
        loop_file_counts(rig.loop, &after);
        cr_assert_leq(after.writes - before.writes, 2);
        check_together(&rig, writes);
    }
    cr_assert_eq(rig_figures(&rig).write_errors, 0);
    fault_moves = BLOCK_BYTES;
    rig_fini(&rig);
}

/* It is one failure of the device, however many records it voids. */
Test(disk_runs, one_that_fails_is_written_again_in_another_segment, .timeout = 60)
{
    static const enum fault_mode modes[] = {FAULT_NOT_DONE, FAULT_DONE};
    for (unsigned i = 0; i < 2; i++) {
        struct rig rig;
        struct rig_write *writes[TOGETHER];
        rig_init(&rig);
        cr_assert_eq(rig_open(&rig), 0);
        cr_assert_eq(rig_put(&rig, "first", 10), 0);
        const struct segment *segment = rig_object(&rig, "first")->where.segment;
        fault_arm(1, modes[i]);
        write_together(&rig, writes);
        fault_arm(0, 0);
        struct disk_figures figures = rig_figures(&rig);
        cr_assert_eq(figures.write_errors, 1);
        cr_assert_eq(figures.write_retries, TOGETHER);
        cr_assert_eq(disk_state(rig.disk), DISK_ON);
        for (unsigned k = 0; k < TOGETHER; k++) {
            cr_assert_neq(writes[k]->write.where.segment, segment);
            cr_assert(k == 0 || writes[k]->write.where.block > writes[k - 1]->write.where.block, "in their order");
        }
        rig_settle(&rig);
        check_together(&rig, writes);
        rig_fini(&rig);
    }
}

/* What came before the failure is there. */
Test(disk_runs, one_that_fails_after_a_part_keeps_that_part, .timeout = 60)
{
    struct rig rig;
    struct rig_write *writes[TOGETHER];
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "first", 10), 0);
    const struct segment *segment = rig_object(&rig, "first")->where.segment;
    fault_moves = (3 * TOGETHER_BLOCKS + 1) * BLOCK_BYTES;
    fault_arm(1, FAULT_SHORT);
    fails_behind_short = true;
    write_together(&rig, writes);
    fault_arm(0, 0);
    fault_moves = BLOCK_BYTES;
    for (unsigned i = 0; i < TOGETHER; i++)
        cr_assert_eq(writes[i]->write.where.segment == segment, i < 3);
    cr_assert_eq(rig_figures(&rig).write_retries, TOGETHER - 3);
    rig_settle(&rig);
    check_together(&rig, writes);
    rig_fini(&rig);
}

/* No other of its size would fit beside it. */
Test(disk_runs, a_large_record_waits_for_no_other, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    rig.segment_bytes = 16 << 20;
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "before", 10), 0);
    events = calloc(EVENTS, sizeof *events);
    hold_next_write = true;
    struct rig_write *first = rig_write_start(&rig, "first", disk_next_version(rig.disk), 5000);
    rig_until(&rig, is_held, NULL);
    struct rig_write *large = rig_write_start(&rig, "large", disk_next_version(rig.disk), WRITE_RUN_BYTES / 2);
    rig_turns(&rig, 2);
    cr_assert(large->write.since_ms > 0 && !rig.disk->run_timer.active);
    release(rig.loop);
    rig_until(&rig, is_done, &first->done);
    rig_until(&rig, is_done, &large->done);
    rig_write_free(first);
    rig_write_free(large);
    rig_fini(&rig);
    free(events);
    events = NULL;
}

/* A kill is acknowledged when it is written and synced, not before. */
Test(disk_order, a_kill_waits_for_its_frame, .timeout = 60)
{
    struct rig rig, copy;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "k", 10), 0);
    rig_settle(&rig);
    events = calloc(EVENTS, sizeof *events);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "k"), 0);
    cr_assert_geq(atomic_load(&event_count), 2);
    cr_assert_eq(memcmp(events[0].magic, "KVDF", 4), 0);
    cr_assert_eq(events[1].kind, EVENT_SYNC);
    cr_assert(events[0].ended && events[0].ended < events[1].began && events[1].ended);
    free(events);
    events = NULL;
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert_not(rig_object(&copy, "k"));
    rig_fini(&copy);
    rig_fini(&rig);
}

/* ---- the breaker ---- */

static bool is_tripped(void *arg)
{
    const struct rig *rig = arg;
    return disk_state(rig->disk) == DISK_TRIPPED;
}

static bool is_on(void *arg)
{
    const struct rig *rig = arg;
    return disk_state(rig->disk) == DISK_ON;
}

static bool nothing_is_owed(void *arg)
{
    return rig_figures(arg).kills_owed == 0;
}

struct kept_kill {
    struct disk_kill kill;
    bool done;
    int err;
};

static void kept_ended(struct disk_kill *kill, int err)
{
    struct kept_kill *mine = CONTAINER_OF(kill, struct kept_kill, kill);
    mine->done = true;
    mine->err = err;
}

static int kept_start(struct rig *rig, struct kept_kill *mine, const char *key)
{
    *mine = (struct kept_kill){.kill = {.kind = KILL_KEY, .name = span_text(key), .keep = true}};
    mine->kill.version = disk_next_version(rig->disk);
    return disk_kill_start(rig->disk, &mine->kill, kept_ended);
}

/* What a restart would find: of the keys "0", "1", ... those whose bit is set. */
static unsigned found_after(const struct rig *rig, unsigned keys)
{
    struct rig copy;
    unsigned found = 0;
    rig_init_copy(&copy, rig);
    cr_assert_eq(rig_open(&copy), 0);
    for (unsigned i = 0; i < keys; i++) {
        char key[12];
        snprintf(key, sizeof key, "%u", i);
        cr_assert(!rig_object(&copy, key) || rig_get(&copy, key) == 0);
        found |= rig_object(&copy, key) ? 1u << i : 0;
    }
    rig_fini(&copy);
    return found;
}

/* What a file's header says is not known when it cannot be read: the file may be one that was to go, and be read another time. */
static bool prefix_kill_reads_short(unsigned k)
{
    struct rig rig, copy;
    rig_init(&rig);
    rig.segment_bytes = 0;
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "p/1", 10000), 0);
    cr_assert_eq(rig_put(&rig, "q", 10), 0);
    cr_assert_eq(rig_put(&rig, "p/2", 10), 0);
    struct kept_kill kept = {.kill = {.kind = KILL_PREFIX, .name = span_text("p/"), .keep = true}};
    kept.kill.version = disk_next_version(rig.disk);
    atomic_store(&reads_seen, 0);
    short_read_at = k;
    cr_assert_eq(disk_kill_start(rig.disk, &kept.kill, kept_ended), 0);
    rig_until(&rig, is_done, &kept.done);
    bool fired = atomic_load(&reads_seen) >= k;
    short_read_at = 0;
    cr_assert_eq(kept.err, fired ? -EIO : 0, "the %u. read fell short, and the kill says %d", k, kept.err);
    cr_assert_eq(rig_logged(&rig, "remove_spared"), fired);
    cr_assert_eq(rig_figures(&rig).kills_spared, fired);
    rig_until(&rig, nothing_is_owed, &rig);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert(!rig_object(&copy, "p/1") && !rig_object(&copy, "p/2"), "read %u: what was removed came back", k);
    cr_assert_eq(rig_get(&copy, "q"), 0);
    rig_fini(&copy);
    rig_fini(&rig);
    return fired;
}

Test(object_faults, a_prefix_kill_does_not_spare_what_it_cannot_read, .timeout = 60)
{
    unsigned k = 1;
    while (prefix_kill_reads_short(k))
        k++;
    cr_assert_eq(k, 4, "one read for each file");
}

static int kill_one(struct rig *rig, enum kill_kind kind, const char *name, bool whoever)
{
    struct kept_kill kept = {.kill = {.kind = kind, .name = span_text(name), .keep = true, .whoever = whoever}};
    kept.kill.version = disk_next_version(rig->disk);
    cr_assert_eq(disk_kill_start(rig->disk, &kept.kill, kept_ended), 0);
    rig_until(rig, is_done, &kept.done);
    return kept.err;
}

/* This host goes by a name that another host's file has taken: that it finds nothing there does not mean that nothing is there. */
Test(object_faults, a_remove_reaches_what_lies_behind_an_old_name, .timeout = 60)
{
    struct rig rig, copy;
    rig_init(&rig);
    rig.segment_bytes = 0;
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "a", 10), 0);
    cr_assert_eq(rig_put(&rig, "p/1", 10), 0);
    atomic_store(&names_are_old, true);
    cr_assert_eq(kill_one(&rig, KILL_KEY, "a", false), 0);
    cr_assert_eq(kill_one(&rig, KILL_KEY, "none", true), 0);
    rig_init_copy(&copy, &rig);
    atomic_store(&names_are_old, false);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert(rig_object(&copy, "a"), "what is given up takes another host's file with it");
    rig_fini(&copy);
    atomic_store(&names_are_old, true);
    cr_assert_eq(kill_one(&rig, KILL_KEY, "a", true), 0);
    cr_assert_eq(kill_one(&rig, KILL_PREFIX, "p/", true), -EIO, "what may be one of them is there");
    atomic_store(&names_are_old, false);
    rig_until(&rig, nothing_is_owed, &rig);
    rig_init_copy(&copy, &rig);
    cr_assert_eq(rig_open(&copy), 0);
    cr_assert(!rig_object(&copy, "a") && !rig_object(&copy, "p/1"));
    rig_fini(&copy);
    rig_fini(&rig);
}

static void rig_with_three(struct rig *rig, uint64_t timeout_ms)
{
    rig_init(rig);
    cr_assert_eq(rig_open(rig), 0);
    cr_assert_eq(rig_put(rig, "0", 10000), 0);
    cr_assert_eq(rig_put(rig, "1", 10000), 0);
    cr_assert_eq(rig_seal(rig), 0);
    cr_assert_eq(rig_put(rig, "2", 10000), 0);
    cr_assert_eq(rig_sync_all(rig), 0);
    if (timeout_ms > 0)
        rig->disk->health.timeout_ms = timeout_ms; /* not before: a busy machine may take longer */
}

Test(disk_health, five_failures_in_a_row_trip_it_and_a_probe_brings_it_back, .timeout = 60)
{
    struct rig rig;
    rig_with_three(&rig, 0);
    for (unsigned i = 0; i < 4; i++) {
        fault_arm(1, FAULT_DEAD);
        cr_assert_eq(rig_get(&rig, "0"), -EIO);
    }
    fault_arm(0, 0);
    cr_assert_eq(rig_get(&rig, "0"), 0, "one that works begins the count anew");
    fault_arm(1, FAULT_DEAD);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_eq(disk_state(rig.disk), DISK_ON);
        cr_assert_eq(rig_get(&rig, "0"), -EIO);
    }
    cr_assert_eq(disk_state(rig.disk), DISK_TRIPPED);
    cr_assert_str_eq(disk_trouble(rig.disk), error_text(-EIO));
    unsigned ops = atomic_load(&fault_count);
    cr_assert_eq(rig_get(&rig, "0"), KVD_EOFF);
    cr_assert_eq(rig_put(&rig, "3", 10), KVD_EOFF);
    cr_assert_eq(rig_sync_all(&rig), KVD_EOFF);
    struct kept_kill kept;
    cr_assert_eq(kept_start(&rig, &kept, "1"), KVD_EOFF);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "2"), KVD_EOFF);
    cr_assert_eq(rig_figures(&rig).kills_owed, 1, "the one that is to be kept");
    cr_assert_leq(atomic_load(&fault_count) - ops, 1, "it starts nothing but the end of the open segment");
    fault_arm(0, 0);
    rig_until(&rig, is_on, &rig);
    rig_until(&rig, nothing_is_owed, &rig);
    cr_assert_eq(rig_get(&rig, "0"), 0);
    cr_assert_eq(rig_put(&rig, "3", 10), 0);
    cr_assert_eq(rig_logged(&rig, "disk_tripped"), 1);
    cr_assert_eq(rig_logged(&rig, "disk_back"), 1);
    rig_settle(&rig);
    cr_assert_eq(found_after(&rig, 4), 1u | 1u << 2 | 1u << 3);
    cr_assert_eq(rig_file_count(&rig, "probe.tmp"), 0);
    rig_fini(&rig);
}

/* A full disk has answered. */
Test(disk_health, a_full_disk_does_not_trip_it, .timeout = 60)
{
    struct rig rig;
    rig_with_three(&rig, 0);
    fault_arm(1, FAULT_NO_SPACE);
    for (unsigned i = 0; i < 8; i++)
        cr_assert_lt(rig_put(&rig, "3", 10), 0);
    fault_arm(0, 0);
    cr_assert_eq(disk_state(rig.disk), DISK_ON);
    cr_assert_eq(rig_get(&rig, "0"), 0);
    rig_fini(&rig);
}

/* Another mount lies there: nothing is made on it until it has shown to be the same folder, and then every file is opened anew. */
Test(disk_health, a_folder_that_moved_is_opened_anew, .timeout = 60)
{
    struct rig rig;
    rig_with_three(&rig, 0);
    unsigned files = rig_file_count(&rig, "");
    device_shift = 1;
    cr_assert_eq(rig_seal(&rig), 0);
    cr_assert_eq(rig_put(&rig, "3", 10), -ENODEV);
    cr_assert(is_tripped(&rig));
    cr_assert_eq(rig_file_count(&rig, ""), files);
    struct kept_kill kept;
    cr_assert_eq(kept_start(&rig, &kept, "1"), KVD_EOFF);
    char first[400], second[400];
    cr_assert(rig_file(&rig, ".seg", 0, first, sizeof first));
    cr_assert(rig_file(&rig, ".seg", 1, second, sizeof second));
    size_t len;
    uint8_t *bytes = rig_file_load(first, &len);
    rig_file_store(second, bytes, len); /* what lies there is another segment */
    free(bytes);
    rig_until(&rig, is_on, &rig);
    rig_until(&rig, nothing_is_owed, &rig);
    cr_assert_eq(rig_get(&rig, "0"), 0);
    cr_assert_eq(rig_get(&rig, "2"), -EIO, "its file did not come back");
    cr_assert_eq(rig_put(&rig, "3", 10), 0);
    cr_assert_eq(rig_logged(&rig, "segment_unreadable"), 1);
    cr_assert_eq(rig_file_count(&rig, "2.log"), 1, "the log of before is dead");
    rig_settle(&rig);
    device_shift = 0;
    cr_assert_eq(found_after(&rig, 4), 1u | 1u << 3);
    rig_fini(&rig);
}

/* Its node file says that somebody else has been there. */
Test(disk_health, a_folder_that_another_used_is_not_taken_back, .timeout = 60)
{
    struct rig rig;
    rig_with_three(&rig, 0);
    fault_arm(1, FAULT_DEAD);
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(rig_get(&rig, "0"), -EIO);
    fault_arm(0, 0);
    struct node_state state;
    char folder[400];
    snprintf(folder, sizeof folder, "%s/test/node1", rig.dir);
    cr_assert_eq(node_file_load(rig.loop, folder, "node1", "test", &state), 0);
    struct node_state theirs = {state.generation + 1, state.ceiling + 7};
    cr_assert_eq(node_file_store(rig.loop, folder, "node1", "test", &theirs), 0);
    uint64_t probes = rig_figures(&rig).probes;
    while (rig_figures(&rig).probes < probes + 2)
        rig_turns(&rig, 100);
    cr_assert_eq(disk_state(rig.disk), DISK_TRIPPED);
    cr_assert(strstr(disk_trouble(rig.disk), "another process"));
    cr_assert_eq(node_file_store(rig.loop, folder, "node1", "test", &state), 0);
    rig_until(&rig, is_on, &rig);
    rig_fini(&rig);
}

/* Nobody waits longer for the log than the tier's patience; what was answered with an error is on its way all the same. */
Test(disk_health, kills_do_not_wait_for_a_log_that_hangs, .timeout = 60)
{
    struct rig rig;
    rig_with_three(&rig, 200);
    events = calloc(EVENTS, sizeof *events);
    hold_next_write = true;
    struct kept_kill first, second, third;
    uint64_t began_ms = loop_now_ms(rig.loop);
    cr_assert_eq(kept_start(&rig, &first, "0"), 0);
    rig_turns(&rig, 3);
    cr_assert(held);
    cr_assert_eq(kept_start(&rig, &second, "1"), 0);
    rig_until(&rig, is_done, &first.done);
    cr_assert_geq(loop_now_ms(rig.loop) - began_ms, 200);
    rig_turns(&rig, 3);
    cr_assert(second.done && first.err == KVD_ETIMEOUT && second.err == KVD_ETIMEOUT);
    cr_assert_eq(disk_state(rig.disk), DISK_ON, "one thing that hangs is no trip yet");
    cr_assert_eq(kept_start(&rig, &third, "2"), 0);
    rig_until(&rig, is_done, &third.done);
    cr_assert_eq(third.err, KVD_ETIMEOUT);
    cr_assert_eq(found_after(&rig, 3), 7);
    release(rig.loop);
    rig_until(&rig, nothing_is_owed, &rig);
    rig_settle(&rig);
    cr_assert_eq(found_after(&rig, 3), 0);
    free(events);
    events = NULL;
    rig_fini(&rig);
}

static bool has_recovered(void *arg)
{
    return ((const struct rig *)arg)->recovered > 0;
}

/* A tier over "0" and "1" whose versions are above those of the clock. */
static void rig_ahead_of_the_clock(struct rig *rig, bool objects)
{
    char folder[400];
    rig_init(rig);
    rig->segment_bytes = objects ? 0 : rig->segment_bytes;
    cr_assert_eq(rig_open(rig), 0);
    rig_close(rig);
    struct node_state state;
    snprintf(folder, sizeof folder, "%s/test/node1", rig->dir);
    cr_assert_eq(node_file_load(rig->loop, folder, "node1", "test", &state), 0);
    state.ceiling += (uint64_t)1 << 40;
    cr_assert_eq(node_file_store(rig->loop, folder, "node1", "test", &state), 0);
    cr_assert_eq(rig_open(rig), 0);
    cr_assert_eq(rig_put(rig, "0", 10000), 0);
    cr_assert_eq(rig_put(rig, "1", 10000), 0);
    rig_close(rig);
}

static void rig_with_one_file(struct rig *rig)
{
    rig_init(rig);
    rig->segment_bytes = 0;
    cr_assert_eq(rig_open(rig), 0);
    cr_assert_eq(rig_put(rig, "0", 10000), 0);
    rig_close(rig);
}

/* A process that was killed may not have synced the names that it made, and a power cut takes them still. */
Test(disk_order, a_start_syncs_the_names_that_it_finds_before_it_builds_upon_them, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    rig_close(&rig);
    names_watch();
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(atomic_load(&names_first), IN_DIR | IN_CLUSTER | IN_NODE);
    rig_fini(&rig);
}

/* Nor its last entries in the log, which the start answers by: what they kill is gone. */
Test(disk_order, a_start_syncs_the_remove_log_that_it_reads, .timeout = 60)
{
    struct rig rig;
    rig_init(&rig);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig_put(&rig, "0", 10), 0);
    cr_assert_eq(rig_kill(&rig, KILL_KEY, "0"), 0);
    rig_close_abandon(&rig);
    atomic_store(&logs_read, 0);
    atomic_store(&logs_synced, 0);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_not(rig_object(&rig, "0"));
    cr_assert_eq(atomic_load(&logs_read), 1);
    cr_assert_eq(atomic_load(&logs_synced), 1);
    rig_fini(&rig);
}

Test(object_faults, what_a_start_finds_is_told_when_its_name_is_synced, .timeout = 60)
{
    struct rig rig;
    rig_with_one_file(&rig);
    names_watch();
    atomic_store(&name_syncs_failing, 2);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(atomic_load(&names_first), IN_DIR | IN_CLUSTER | IN_NODE | IN_OBJECTS);
    cr_assert_eq(rig_logged(&rig, "folder_unread"), 2);
    cr_assert_eq(rig.found_calls, 1);
    cr_assert(atomic_load(&names_synced) & IN_FAN);
    cr_assert_eq(rig_get(&rig, "0"), 0);
    rig_fini(&rig);
}

Test(object_faults, a_folder_that_could_not_be_looked_through_is_tried_again, .timeout = 60)
{
    struct rig rig;
    rig_with_one_file(&rig);
    atomic_store(&lists_failing, 2);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(atomic_load(&lists_failing), 0);
    cr_assert_eq(rig_logged(&rig, "folder_unread"), 2);
    cr_assert_eq(rig_figures(&rig).unreadable_segments, 0);
    cr_assert_eq(rig.found_calls, 1);
    cr_assert_eq(rig_get(&rig, "0"), 0);
    rig_fini(&rig);
}

Test(object_faults, a_start_ends_without_a_folder_that_cannot_be_looked_through, .timeout = 60)
{
    struct rig rig;
    rig_with_one_file(&rig);
    atomic_store(&lists_failing, 1000);
    cr_assert_eq(rig_open(&rig), 0);
    cr_assert_eq(rig.recovered, 1);
    cr_assert_eq(rig_figures(&rig).unreadable_segments, 1);
    cr_assert_eq(rig.found_calls, 0);
    atomic_store(&lists_failing, 0);
    rig_fini(&rig);
}

/* The loop's heap is out as the start begins, and stays so if `throughout`. */
static void start_without_heap(bool throughout)
{
    struct rig rig;
    rig_with_one_file(&rig);
    pthread_mutex_lock(&opening_held);
    rig_open_start(&rig);
    heap_out_for = pthread_self();
    atomic_store(&heap_out, true);
    pthread_mutex_unlock(&opening_held);
    while (rig.opened == 0)
        rig_turns(&rig, 1);
    atomic_store(&heap_out, throughout);
    while (rig.recovered == 0)
        rig_turns(&rig, 1);
    atomic_store(&heap_out, false);
    cr_assert_eq(rig_figures(&rig).unreadable_segments, throughout ? 256 : 0);
    cr_assert_eq(rig.found_calls, throughout ? 0 : 1);
    rig_fini(&rig);
}

Test(object_faults, a_start_that_begins_without_heap_ends_well, .timeout = 60)
{
    start_without_heap(false);
}

Test(object_faults, a_start_without_heap_ends, .timeout = 60)
{
    start_without_heap(true);
}

static void kill_while_opening_hangs(bool objects)
{
    struct rig rig;
    rig_ahead_of_the_clock(&rig, objects);
    rig.timeout_ms = 100;
    pthread_mutex_lock(&opening_held);
    rig_open_start(&rig);
    struct kept_kill kept;
    cr_assert_eq(kept_start(&rig, &kept, "0"), 0);
    rig_until(&rig, is_done, &kept.done);
    cr_assert_eq(kept.err, KVD_ETIMEOUT);
    cr_assert_eq(disk_state(rig.disk), DISK_OPENING);
    cr_assert_eq(rig_figures(&rig).kills_owed, 1);
    pthread_mutex_unlock(&opening_held);
    rig_until(&rig, has_recovered, &rig);
    cr_assert(!rig_object(&rig, "0") && rig_object(&rig, "1"), "what was answered with an error is gone all the same");
    rig_until(&rig, nothing_is_owed, &rig);
    rig_settle(&rig);
    cr_assert_eq(found_after(&rig, 2), 2);
    rig_fini(&rig);
}

Test(disk_health, kills_do_not_wait_for_a_log_that_does_not_open, .timeout = 60)
{
    kill_while_opening_hangs(false);
}

Test(disk_health, kills_do_not_wait_for_a_folder_of_objects_that_does_not_open, .timeout = 60)
{
    kill_while_opening_hangs(true);
}

/* What the tier says when it is on; with so little patience it may trip again on a busy machine. */
static int patiently(struct rig *rig, int (*what)(struct rig *rig))
{
    int err = KVD_EOFF;
    for (unsigned tries = 0; tries < 50 && (err == KVD_EOFF || err == -EIO); tries++) {
        rig_until(rig, is_on, rig);
        err = what(rig);
    }
    return err;
}

static int get_0(struct rig *rig)
{
    return rig_get(rig, "0");
}

static int get_2(struct rig *rig)
{
    return rig_get(rig, "2");
}

static int put_3(struct rig *rig)
{
    int err = rig_put(rig, "3", 10000);
    return err ? err : rig_sync(rig, "3");
}

/* One round: it trips, the k-th operation from there on fails, it comes back all the same. True when something failed. */
static bool come_back_once(unsigned k, enum fault_mode mode, uint64_t shift)
{
    struct rig rig;
    rig_with_three(&rig, 50);
    fault_arm(1, FAULT_DEAD);
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(rig_get(&rig, "0"), -EIO);
    struct kept_kill kept;
    cr_assert_eq(kept_start(&rig, &kept, "1"), KVD_EOFF);
    fault_arm(k, mode);
    device_shift = shift;
    rig_until(&rig, is_on, &rig);
    rig_until(&rig, nothing_is_owed, &rig);
    bool fired = atomic_load(&fault_fired);
    fault_arm(0, 0);
    cr_assert_eq(patiently(&rig, get_0), 0);
    cr_assert_eq(patiently(&rig, get_2), 0);
    cr_assert_eq(patiently(&rig, put_3), 0);
    rig_until(&rig, nothing_is_owed, &rig);
    rig_settle(&rig);
    device_shift = 0;
    unsigned found = found_after(&rig, 4);
    cr_assert_eq(found, 1u | 1u << 2 | 1u << 3, "k %u mode %u shift %u: %x", k, (unsigned)mode, (unsigned)shift, found);
    rig_fini(&rig);
    return fired;
}

Test(disk_health, the_kth_operation_fails_as_it_comes_back, .timeout = 280)
{
    for (enum fault_mode mode = FAULT_NOT_DONE; mode <= FAULT_DONE; mode++)
        for (uint64_t shift = 0; shift < 2; shift++)
            for (unsigned k = 1; come_back_once(k, mode, shift); k++)
                cr_assert_lt(k, 200);
}
