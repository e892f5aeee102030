/* sim_file.c - src/loop/file.h and fs.h on disks in memory, with every fault that the seed asks for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "loop/file.h"
#include "loop/fs.h"
#include "sim.h"

enum { FILES = 512, FD_BASE = 3, RULES = 4 };

/* From one moment to another (or for ever) some operations fail, now and then or always, or at the k-th alone. */
struct rule {
    uint64_t from_us, to_us;
    uint32_t kinds; /* bits of enum disk_op */
    unsigned percent;
    uint64_t kth; /* 0: by percent */
    int err;
};

struct open_file {
    struct inode *inode;
    bool direct, read_only;
    bool locks;
    uint32_t mount; /* under which it was opened */
};

/* An operation under way. */
struct flight {
    struct list link;
    struct file_op *op;
    struct event *event;
    uint64_t upto; /* a sync covers changes up to this */
};

/* What a host has of the file system: its mount, and what goes wrong there. */
struct mount {
    struct rule rules[RULES];
    unsigned rule_count;
    bool shorts, direct, punt;
    unsigned torn_per_mille, flip_per_mille;
    uint64_t going_from_us, going_to_us; /* some segments are on their way out, as on 3FS when another host has unlinked them */
    uint64_t going_mark;
    uint64_t slow_from_us, slow_to_us, hang_from_us;
    uint64_t vanish_from_us, vanish_to_us; /* the mount is gone */
    bool bare;                             /* and a folder of the root disk is where it was */
    bool gone;
    uint64_t gone_us; /* since when */
    uint32_t number;  /* how many there were before: files of an older one are dead */
    uint64_t latency_us;
    struct open_file files[FILES];
};

/* All of it is one seed's: made anew by faults_choose(). */
static struct mount mounts[HOSTS_MOST];

static struct mount *here(void)
{
    return &mounts[sim->host->number];
}

/* ---- what goes wrong ---- */

static uint32_t bit(enum disk_op op)
{
    return 1u << op;
}

static void rule_add(void)
{
    static const int errors[] = {-EIO, -EIO, -EIO, -ENOSPC, -EROFS, -ENOTCONN};
    struct rule *rule = &here()->rules[here()->rule_count++];
    rule->from_us = chance_below(3 * SECOND);
    rule->to_us = rule->from_us + chance_delay(5 * SECOND);
    rule->err = errors[chance_below(6)];
    rule->kinds = chance_one_in(3) ? UINT32_MAX & ~bit(DISK_CLOSE) : (uint32_t)chance() & ~bit(DISK_CLOSE);
    if (chance_one_in(3))
        rule->kinds = chance_one_in(2) ? bit(DISK_SYNC) : bit(DISK_WRITE) | bit(DISK_SYNC);
    if (rule->err == -ENOSPC)
        rule->kinds &= bit(DISK_WRITE) | bit(DISK_OPEN) | bit(DISK_MAKE_DIR) | bit(DISK_RENAME);
    if (rule->err == -EROFS)
        rule->kinds &= ~(bit(DISK_READ) | bit(DISK_SIZE) | bit(DISK_LIST) | bit(DISK_INFO) | bit(DISK_LOCK));
    if (chance_one_in(3)) {
        rule->kth = 1 + chance_below(400);
        rule->from_us = 0;
        rule->to_us = UINT64_MAX;
    } else {
        rule->percent = chance_one_in(3) ? 100 : (unsigned)chance_between(1, 40);
    }
}

void faults_choose(void)
{
    *here() = (struct mount){0};
    here()->direct = !chance_one_in(4);
    here()->punt = chance_one_in(3);
    here()->latency_us = 1 + chance_delay(20 * MS);
    here()->shorts = sim->scenario.shorts;
    if (sim->scenario.calm)
        return;
    unsigned rules = chance_one_in(2) ? (unsigned)chance_below(RULES + 1) : 0;
    for (unsigned i = 0; i < rules; i++)
        rule_add();
    if (chance_one_in(6))
        here()->torn_per_mille = (unsigned)chance_between(1, 100);
    if (chance_one_in(6))
        here()->flip_per_mille = (unsigned)chance_between(1, 100);
    if (chance_one_in(4)) {
        here()->going_from_us = chance_below(SECOND);
        here()->going_to_us = here()->going_from_us + chance_below(10 * SECOND);
        here()->going_mark = chance_below(2);
    }
    if (chance_one_in(6)) {
        here()->punt = true;
        here()->bare = chance_one_in(2);
        here()->vanish_from_us = chance_below(2 * SECOND);
        here()->vanish_to_us = here()->vanish_from_us + chance_delay(30 * SECOND);
    }
    if (chance_one_in(4)) {
        here()->slow_from_us = chance_below(3 * SECOND);
        here()->slow_to_us = here()->slow_from_us + chance_delay(10 * SECOND);
    }
    if (chance_one_in(8)) {
        here()->hang_from_us = 1 + chance_below(3 * SECOND);
        sim->host->hang_until_us = here()->hang_from_us + (chance_one_in(4) ? chance_delay(300 * SECOND) : chance_delay(20 * SECOND));
    }
}

void faults_end(void)
{
    here()->rule_count = 0;
    here()->shorts = false;
    here()->torn_per_mille = here()->flip_per_mille = 0;
    here()->slow_to_us = here()->going_to_us = 0;
    here()->vanish_to_us = 0;
    sim->heap_kth = sim->heap_burst = 0;
    sim->heap_per_mille = 0;
    sim->host->hang_until_us = 0;
    sim->vfs.capacity_pages = UINT64_MAX / 2;
}

static bool hung(void)
{
    return here()->hang_from_us != 0 && sim->now_us >= here()->hang_from_us && sim->now_us < sim->host->hang_until_us;
}

static uint64_t latency(void)
{
    uint64_t us = chance_delay(here()->latency_us);
    if (sim->now_us >= here()->slow_from_us && sim->now_us < here()->slow_to_us) {
        sim->figures.slow++;
        us = us * 20 + chance_delay(2 * SECOND);
        sim->fault_count += us > sim->host->life->config.disk_timeout * MS; /* as for what hangs */
    }
    if (hung()) {
        sim->figures.hung++;
        us += sim->host->hang_until_us - sim->now_us;
        sim->fault_count += sim->host->hung_until_us == 0; /* what goes on without the disk may be undone */
        sim->host->hung_until_us = sim->host->hang_until_us;
    }
    return us;
}

static void fault_count(enum disk_op op)
{
    sim->figures.faults[op]++;
    sim->fault_count++;
}

/* Is the mount there? When it goes, so does what its daemon had not written; who had a lock has none. */
static bool mount_gone(void)
{
    bool gone = here()->vanish_from_us > 0 && sim->now_us >= here()->vanish_from_us && sim->now_us < here()->vanish_to_us;
    if (gone == here()->gone)
        return gone;
    here()->gone = gone;
    note(gone ? "mount.gone" : "mount.back", here()->bare, here()->number, 0);
    if (gone) {
        sim->fault_count++;
        sim->figures.vanished++;
        here()->number++;
        here()->gone_us = sim->now_us;
        for (int i = 0; i < FILES; i++)
            if (here()->files[i].inode && here()->files[i].locks)
                here()->files[i].inode->locked = false;
        vfs_unmount(&sim->vfs);
        sight_forget_all(&sim->host->sight);
    }
    return gone;
}

/* Of an operation on something that is open, or on a path. */
static int mount_fails(const struct open_file *open, const char *path)
{
    bool gone = mount_gone();
    if (open)
        return open->mount != here()->number ? -ENOTCONN : 0;
    if (!gone)
        return 0;
    if (!here()->bare)
        return -ENOTCONN;
    return strcmp(path, "/disk") == 0 ? 0 : -ENOENT;
}

/* Counts the operation; 0, or how it fails. */
static int begin(enum disk_op op, uint64_t a, uint64_t b)
{
    static const char *const names[DISK_OPS] = {"d.open",   "d.close",  "d.read",     "d.write",    "d.sync", "d.truncate", "d.size",
                                                "d.unlink", "d.rename", "d.sync_dir", "d.make_dir", "d.info", "d.list",     "d.lock"};
    sim->figures.disk_ops++;
    note(names[op], a, b, sim->host->life->steps);
    sim_crash_point();
    for (unsigned i = 0; i < here()->rule_count; i++) {
        struct rule *rule = &here()->rules[i];
        if (!(rule->kinds & bit(op)) || sim->now_us < rule->from_us || sim->now_us >= rule->to_us)
            continue;
        if (rule->kth > 0 ? --rule->kth > 0 : !chance_percent(rule->percent))
            continue;
        if (rule->kth == 0 && rule->percent == 0)
            rule->kinds = 0;
        fault_count(op);
        note("fault", (uint64_t)op, (uint64_t)-rule->err, i);
        return rule->err;
    }
    return 0;
}

static struct open_file *open_file(const struct file *file)
{
    CHECK(file->fd >= FD_BASE && file->fd < FD_BASE + FILES);
    struct open_file *open = &here()->files[file->fd - FD_BASE];
    if (!open->inode)
        sim_fail("use of a file that is closed");
    return open;
}

static void check_aligned(const struct file *file, const struct iovec *iov, unsigned count, uint64_t offset)
{
    if (!file->direct)
        return;
    for (unsigned i = 0; i < count; i++)
        if ((uintptr_t)iov[i].iov_base % BLOCK_BYTES || iov[i].iov_len % BLOCK_BYTES)
            sim_fail("a direct operation on memory or a length that is not aligned");
    if (offset % BLOCK_BYTES)
        sim_fail("a direct operation at an offset that is not aligned");
}

/* ---- bytes ---- */

static uint64_t iov_bytes(const struct iovec *iov, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* Of what was asked for, how much is done. The kernel stops early at the end of a sector of some page, not within the first one. */
static uint64_t shorten(uint64_t offset, uint64_t bytes)
{
    bool blocks = offset % BLOCK_BYTES == 0 && bytes % BLOCK_BYTES == 0;
    if (!here()->shorts || bytes < 2 || (blocks && bytes == BLOCK_BYTES) || !chance_one_in(6))
        return bytes;
    sim->figures.shorts++;
    return blocks ? BLOCK_BYTES + chance_below((bytes - BLOCK_BYTES) / 512) * 512 : 1 + chance_below(bytes - 1);
}

/* Some of what is said to be written is not. */
static void write_some(struct inode *inode, uint64_t offset, const uint8_t *at, uint64_t len)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t part = min_u64(512 - (offset + done) % 512, len - done);
        if (chance_one_in(2))
            (void)vfs_write(&sim->vfs, inode, offset + done, at + done, part);
        done += part;
    }
}

/* Only what is written by the loop can be torn without a word: records and their indexes, which have sums. */
static int64_t write_iov(struct inode *inode, const struct iovec *iov, unsigned count, uint64_t offset, uint64_t bytes)
{
    uint64_t done = 0;
    bool records = !sim->routine && offset % BLOCK_BYTES == 0 && bytes % BLOCK_BYTES == 0;
    bool torn = here()->torn_per_mille > 0 && records && chance_below(1000) < here()->torn_per_mille;
    if (torn) {
        sim->figures.torn++;
        fault_count(DISK_WRITE);
    }
    for (unsigned i = 0; i < count && done < bytes; i++) {
        uint64_t part = min_u64(iov[i].iov_len, bytes - done);
        if (torn) {
            write_some(inode, offset + done, iov[i].iov_base, part);
        } else if (!vfs_write(&sim->vfs, inode, offset + done, iov[i].iov_base, part)) {
            fault_count(DISK_WRITE);
            return done > 0 ? (int64_t)done : -ENOSPC;
        }
        done += part;
    }
    return (int64_t)done;
}

/* A late read of a file whose chunks go: it ends early, or has zeros where bytes were. */
static uint64_t read_going(uint8_t *at, uint64_t got)
{
    fault_count(DISK_READ);
    sim->figures.going++;
    if (chance_one_in(2))
        return chance_below(got / 512) * 512;
    uint64_t from = chance_below(got / 512) * 512;
    memset(at + from, 0, chance_one_in(2) ? got - from : min_u64(512, got - from));
    return got;
}

static bool is_going(const struct inode *inode)
{
    return inode->values && inode->number % 2 == here()->going_mark && sim->now_us >= here()->going_from_us &&
           sim->now_us < here()->going_to_us && chance_one_in(2);
}

/* Another host's, without a name: its chunks go some time after that. */
static bool is_gone(const struct inode *inode)
{
    if (!sim->vfs.shared || inode->gone_us == 0 || sim->now_us < inode->gone_us + sim->scenario.chunks_us)
        return false;
    sim->figures.late_reads++;
    return true;
}

static int64_t read_iov(struct inode *inode, const struct iovec *iov, unsigned count, uint64_t offset, uint64_t bytes)
{
    uint64_t done = 0;
    bool going = is_going(inode) || is_gone(inode);
    uint64_t size = sight_size(&sim->host->sight, inode);
    bytes = min_u64(bytes, size > offset ? size - offset : 0);
    for (unsigned i = 0; i < count && done < bytes; i++) {
        uint64_t part = min_u64(iov[i].iov_len, bytes - done);
        uint64_t got = vfs_read(inode, offset + done, iov[i].iov_base, part);
        if (got > 0 && going)
            got = read_going(iov[i].iov_base, got);
        if (got > 0 && here()->flip_per_mille > 0 && chance_below(1000) < here()->flip_per_mille) {
            sim->figures.flips++;
            fault_count(DISK_READ);
            ((uint8_t *)iov[i].iov_base)[chance_below(got)] ^= (uint8_t)(1u << chance_below(8));
        }
        done += got;
        if (got < part)
            break;
    }
    return (int64_t)done;
}

static void sync_inode(struct inode *inode, uint64_t upto, int err)
{
    if (err)
        vfs_sync_failed(&sim->vfs, inode, upto);
    else if (!planted(PLANT_SYNC_LIES))
        vfs_sync(&sim->vfs, inode, upto);
}

/* ---- file.h: what does not block ---- */

static int64_t flight_run(const struct flight *flight)
{
    static const enum disk_op kinds[] = {[FILE_READ] = DISK_READ, [FILE_WRITE] = DISK_WRITE, [FILE_SYNC] = DISK_SYNC};
    struct file_op *op = flight->op;
    const struct open_file *open = open_file(op->file);
    struct inode *inode = open->inode;
    uint64_t bytes = op->kind == FILE_SYNC ? 0 : iov_bytes(op->iov, op->iov_count);
    int err = begin(kinds[op->kind], inode->number, op->kind == FILE_SYNC ? flight->upto : op->offset);
    if (mount_fails(open, NULL))
        return -ENOTCONN;
    if (op->kind == FILE_SYNC) {
        sync_inode(inode, flight->upto, err);
        return err;
    }
    check_aligned(op->file, op->iov, op->iov_count, op->offset);
    if (op->kind == FILE_READ)
        return err ? err : read_iov(inode, op->iov, op->iov_count, op->offset, shorten(op->offset, bytes));
    if (err && chance_one_in(2))
        (void)write_iov(inode, op->iov, op->iov_count, op->offset, chance_below(bytes + 1));
    return err ? err : write_iov(inode, op->iov, op->iov_count, op->offset, shorten(op->offset, bytes));
}

static void flight_lands(void *arg)
{
    struct flight *flight = arg;
    struct file_op *op = flight->op;
    struct loop_parts *parts = loop_parts(op->loop);
    int64_t result = flight_run(flight);
    list_remove(&flight->link);
    sim_free(flight);
    if (op->kind == FILE_READ)
        sim_crash_point();
    else
        sim_disk_changed();
    parts->files_in_flight--;
    if (result > 0 && op->kind == FILE_READ)
        parts->read_bytes += (uint64_t)result;
    if (result > 0 && op->kind == FILE_WRITE)
        parts->written_bytes += (uint64_t)result;
    op->result = result;
    struct loop *loop = op->loop;
    loop_lock(loop);
    op->fn(op);
    loop_unlock(loop);
}

void files_turn(struct loop *loop)
{
    struct loop_parts *parts = loop_parts(loop);
    while (files_waiting(loop)) {
        struct file_op *op = CONTAINER_OF(list_pop_front(&parts->files_waiting), struct file_op, link);
        struct flight *flight = sim_alloc(sizeof *flight);
        flight->op = op;
        flight->upto = sim->vfs.change;
        flight->event = event_add(latency(), true, flight_lands, flight);
        list_push_back(&sim->host->flights, &flight->link);
        parts->files_in_flight++;
    }
}

bool files_waiting(const struct loop *loop)
{
    const struct loop_parts *parts = loop_parts((struct loop *)(uintptr_t)loop);
    return !list_empty(&parts->files_waiting) && parts->files_in_flight < parts->files_depth;
}

void files_crash(bool power)
{
    for (struct list *at; (at = list_pop_front(&sim->host->flights)) != NULL;) {
        struct flight *flight = CONTAINER_OF(at, struct flight, link);
        struct file_op *op = flight->op;
        if (op->kind == FILE_WRITE && chance_one_in(2)) {
            struct inode *inode = open_file(op->file)->inode;
            uint64_t bytes = iov_bytes(op->iov, op->iov_count);
            (void)write_iov(inode, op->iov, op->iov_count, op->offset, power || chance_one_in(2) ? bytes : chance_below(bytes + 1));
        }
        sim_free(flight);
    }
    for (int i = 0; i < FILES; i++) {
        struct open_file *open = &here()->files[i];
        if (!open->inode)
            continue;
        open->inode->opens--; /* vfs_crash() looks for those that nobody knows any more */
        if (open->locks)
            open->inode->locked = false;
        *open = (struct open_file){0};
    }
}

unsigned files_open(void)
{
    unsigned open = 0;
    for (int i = 0; i < FILES; i++)
        open += here()->files[i].inode != NULL;
    return open;
}

static void start(struct loop *loop, struct file_op *op, enum file_op_kind kind, file_op_fn fn)
{
    (void)open_file(op->file);
    CHECK(loop_is_mine(loop));
    CHECK(op->iov_count <= 1024 || kind == FILE_SYNC);
    op->kind = kind;
    op->fn = fn;
    op->loop = loop;
    op->result = 0;
    list_push_back(&loop_parts(loop)->files_waiting, &op->link);
}

void file_read_hangs(struct file_op *op)
{
    (void)op;
}

void file_read_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop_parts(loop)->reads++;
    start(loop, op, FILE_READ, fn);
}

void file_write_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop_parts(loop)->writes++;
    start(loop, op, FILE_WRITE, fn);
}

void file_sync_start(struct loop *loop, struct file_op *op, file_op_fn fn)
{
    loop_parts(loop)->syncs++;
    start(loop, op, FILE_SYNC, fn);
}

void loop_file_counts(const struct loop *loop, struct file_counts *out)
{
    const struct loop_parts *parts = loop_parts((struct loop *)(uintptr_t)loop);
    *out = (struct file_counts){
        .reads = parts->reads,
        .writes = parts->writes,
        .syncs = parts->syncs,
        .other = parts->other,
        .read_bytes = parts->read_bytes,
        .written_bytes = parts->written_bytes,
        .in_flight = parts->files_in_flight,
    };
}

/* There are no pages here. */
int file_memory_begin(struct loop *loop, void *base, uint64_t bytes, uint64_t slice_bytes)
{
    (void)loop, (void)base, (void)bytes, (void)slice_bytes;
    return -EOPNOTSUPP;
}

int file_memory_next(struct loop *loop)
{
    (void)loop;
    return -ENOBUFS;
}

void file_memory_pages_are_small(struct loop *loop)
{
    (void)loop;
}

void file_memory_end(struct loop *loop)
{
    (void)loop;
}

/* ---- fs.h: what blocks ---- */

static int call(struct loop *loop, enum disk_op op, const struct open_file *open, uint64_t number)
{
    loop_parts(loop)->other++;
    routine_pause(latency());
    int err = begin(op, open->inode->number, number);
    int gone = mount_fails(open, NULL);
    return gone ? gone : err;
}

static uint64_t path_number(const char *path)
{
    uint64_t number = 0;
    for (; *path; path++)
        number = number * 31 + (uint8_t)*path;
    return number % 100000;
}

static int call_path(struct loop *loop, enum disk_op op, const char *path, uint64_t number)
{
    loop_parts(loop)->other++;
    routine_pause(latency());
    int err = begin(op, path_number(path), number);
    int gone = mount_fails(NULL, path);
    return gone ? gone : err;
}

static int open_as(struct file *file, struct inode *inode, unsigned flags)
{
    for (int i = 0; i < FILES; i++) {
        if (here()->files[i].inode)
            continue;
        bool direct = (flags & FS_DIRECT) && here()->direct;
        here()->files[i] =
            (struct open_file){.inode = inode, .direct = direct, .read_only = (flags & FS_READ_ONLY) != 0, .mount = here()->number};
        inode->opens++;
        *file = (struct file){.fd = FD_BASE + i, .direct = direct, .punt = here()->punt};
        return 0;
    }
    sim_fail("more than %d files are open", FILES);
}

int fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags)
{
    say("  open %s flags %u", path, flags);
    int err = call_path(loop, DISK_OPEN, path, flags);
    bool stale;
    struct inode *inode = err ? NULL : sight_find(&sim->host->sight, path, &stale);
    if (err) {
        /* The name may be there all the same. */
        if ((flags & FS_CREATE) && err != -ENOSPC && err != -EROFS && !here()->gone && chance_one_in(4))
            (void)vfs_create(&sim->vfs, path, false);
        return err;
    }
    if (flags & FS_CREATE) {
        if (inode || (inode = vfs_create(&sim->vfs, path, false)) == NULL)
            return -EEXIST;
        sight_made(&sim->host->sight, path, inode);
    } else if (!inode || (stale && chance_one_in(4))) {
        return -ENOENT; /* the daemon may have forgotten an inode that the kernel remembers */
    }
    if (inode->folder)
        return -EINVAL;
    err = open_as(file, inode, flags);
    if (flags & FS_CREATE)
        sim_disk_changed();
    else
        sim_crash_point();
    return err;
}

int fs_close(struct loop *loop, struct file *file)
{
    struct open_file *open = open_file(file);
    int err = call(loop, DISK_CLOSE, open, 0);
    open->inode->opens--;
    if (!open->read_only)
        vfs_publish(open->inode);
    if (open->locks)
        open->inode->locked = false;
    vfs_put(&sim->vfs, open->inode);
    open->inode = NULL;
    file->fd = -1;
    return err;
}

int64_t fs_read(struct loop *loop, const struct file *file, void *buf, uint64_t len, uint64_t offset)
{
    struct inode *inode = open_file(file)->inode;
    int err = call(loop, DISK_READ, open_file(file), offset);
    struct iovec iov = {buf, len};
    check_aligned(file, &iov, 1, offset);
    return err ? err : read_iov(inode, &iov, 1, offset, len);
}

int fs_write(struct loop *loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset)
{
    struct open_file *open = open_file(file);
    int err = call(loop, DISK_WRITE, open, offset);
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    check_aligned(file, &iov, 1, offset);
    CHECK(!open->read_only);
    if (err) {
        if (open->mount == here()->number && chance_one_in(2))
            (void)write_iov(open->inode, &iov, 1, offset, chance_below(len + 1));
        return err;
    }
    int64_t done = write_iov(open->inode, &iov, 1, offset, len);
    sim_disk_changed();
    return done < 0 ? (int)done : (uint64_t)done < len ? -ENOSPC : 0;
}

int fs_sync(struct loop *loop, const struct file *file)
{
    struct inode *inode = open_file(file)->inode;
    uint64_t upto = sim->vfs.change;
    int err = call(loop, DISK_SYNC, open_file(file), upto);
    if (open_file(file)->mount != here()->number)
        return -ENOTCONN;
    sync_inode(inode, upto, err);
    sim_disk_changed();
    return err;
}

int fs_truncate(struct loop *loop, const struct file *file, uint64_t len)
{
    struct inode *inode = open_file(file)->inode;
    int err = call(loop, DISK_TRUNCATE, open_file(file), len);
    if (!err || (open_file(file)->mount == here()->number && chance_one_in(4)))
        vfs_truncate(&sim->vfs, inode, len);
    sim_disk_changed();
    return err;
}

int64_t fs_size(struct loop *loop, const struct file *file)
{
    struct inode *inode = open_file(file)->inode;
    int err = call(loop, DISK_SIZE, open_file(file), 0);
    return err ? err : (int64_t)sight_size(&sim->host->sight, inode);
}

int fs_lock(struct loop *loop, const struct file *file)
{
    struct inode *inode = open_file(file)->inode;
    int err = call(loop, DISK_LOCK, open_file(file), 0);
    if (!err && inode->locked)
        return -EWOULDBLOCK;
    if (!err)
        open_file(file)->locks = inode->locked = true;
    return err;
}

int fs_unlink(struct loop *loop, const char *path)
{
    say("  unlink %s", path);
    int err = call_path(loop, DISK_UNLINK, path, 0);
    if (err) {
        if (err == -EIO && chance_one_in(4))
            (void)vfs_unlink(&sim->vfs, path);
        return err;
    }
    if (!sight_find(&sim->host->sight, path, NULL))
        return -ENOENT;
    bool there = vfs_unlink(&sim->vfs, path);
    sight_forget(&sim->host->sight, path);
    sim_disk_changed();
    return there ? 0 : -ENOENT;
}

int fs_rename(struct loop *loop, const char *from, const char *to)
{
    say("  rename %s to %s", from, to);
    int err = call_path(loop, DISK_RENAME, from, path_number(to));
    if (err) {
        if (err == -EIO && chance_one_in(4))
            (void)vfs_rename(&sim->vfs, from, to);
        return err;
    }
    if (!sight_find(&sim->host->sight, from, NULL))
        return -ENOENT;
    bool there = vfs_rename(&sim->vfs, from, to);
    sight_forget(&sim->host->sight, from);
    sight_forget(&sim->host->sight, to);
    if (there)
        sight_made(&sim->host->sight, to, vfs_find(&sim->vfs, to));
    sim_disk_changed();
    return there ? 0 : -ENOENT;
}

/* Of many hosts alone, which the simulator does not have yet. */
int fs_link(struct loop *loop, const char *from, const char *to)
{
    (void)loop;
    (void)from;
    (void)to;
    return -EOPNOTSUPP;
}

int fs_sync_dir(struct loop *loop, const char *path)
{
    int err = call_path(loop, DISK_SYNC_DIR, path, 0);
    if (!err && !planted(PLANT_SYNC_LIES))
        vfs_sync_dir(&sim->vfs, path);
    sim_disk_changed();
    return err;
}

int fs_make_dirs(struct loop *loop, const char *path)
{
    int err = call_path(loop, DISK_MAKE_DIR, path, 0);
    if (here()->gone && here()->bare && sim->now_us > here()->gone_us + 2 * SECOND) /* before, it may have looked first and then done it */
        sim_fail("a folder is made on the root disk, where the mount was");
    if (err)
        return err;
    char part[256];
    for (size_t i = 1; i <= strlen(path); i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (vfs_create(&sim->vfs, part, true))
            vfs_sync_dir(&sim->vfs, "");
    }
    return 0;
}

int fs_remove_dir(struct loop *loop, const char *path)
{
    int err = call_path(loop, DISK_UNLINK, path, 0);
    return err ? err : vfs_remove_folder(&sim->vfs, path);
}

int fs_dir_info(struct loop *loop, const char *path, struct fs_dir_info *out)
{
    int err = call_path(loop, DISK_INFO, path, 0);
    const struct inode *inode = vfs_find(&sim->vfs, path);
    if (!err && here()->gone) {
        *out = (struct fs_dir_info){.device = 1, .free_bytes = GIB, .total_bytes = GIB, .type = "ext4"};
        return 0;
    }
    if (err || !inode)
        return err ? err : -ENOENT;
    *out = (struct fs_dir_info){
        .device = 7 + here()->number,
        .free_bytes = (sim->vfs.capacity_pages - sim->vfs.pages) * BLOCK_BYTES,
        .total_bytes = sim->vfs.capacity_pages * BLOCK_BYTES,
    };
    snprintf(out->type, sizeof out->type, "%s", here()->punt ? "fuse.hf3fs" : "ext4");
    return 0;
}

enum { LISTED_MOST = 400 };

struct listing {
    char names[LISTED_MOST][64];
    struct inode *inodes[LISTED_MOST];
    size_t count;
};

static void list_one(void *arg, const char *path, const char *name, struct inode *inode)
{
    (void)path;
    struct listing *listing = arg;
    CHECK(listing->count < LISTED_MOST);
    snprintf(listing->names[listing->count], 64, "%s", name);
    listing->inodes[listing->count++] = inode;
}

int fs_list(struct loop *loop, const char *path, fs_list_fn fn, void *arg)
{
    int err = call_path(loop, DISK_LIST, path, 0);
    if (err)
        return err;
    struct listing listing = {.count = 0};
    vfs_list(&sim->vfs, path, list_one, &listing);
    size_t from = chance_below(listing.count);
    for (size_t i = 0; i < listing.count; i++) {
        size_t at = (from + i) % listing.count;
        if (!fn(arg, listing.names[at], !listing.inodes[at]->folder, sight_size(&sim->host->sight, listing.inodes[at])))
            break;
    }
    return 0;
}

/* What a careful operator asks for where a mount may go. */
const char *disk_type_required(void)
{
    return here()->vanish_from_us > 0 ? "fuse.hf3fs" : "";
}
