#include "cluster/files.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/fs.h"

enum { RING_BYTES = VIEW_RING_SLOTS * VIEW_BYTES, PATH_BYTES = 2048, FIRST_TRIES = 4096 };

struct files_op *files_new(const struct cluster_files *files, enum files_what what, files_fn fn, void *owner)
{
    struct files_op *op = calloc(1, sizeof *op);
    if (!op)
        return NULL;
    op->files = *files;
    op->what = what;
    op->fn = fn;
    op->owner = owner;
    op->started_us = loop_boot_us(files->home);
    return op;
}

void files_free(struct files_op *op)
{
    free(op);
}

/* ---- in the job ---- */

static struct loop *counts(const struct files_op *op)
{
    return op->files.store_loop;
}

static struct span cluster_of(const struct files_op *op)
{
    return span_text(op->files.cluster);
}

__attribute__((format(printf, 3, 4))) static void path_of(const struct files_op *op, char out[PATH_BYTES], const char *format, ...)
{
    int n = snprintf(out, PATH_BYTES, "%s/%s/", op->files.dir, op->files.cluster);
    va_list args;
    va_start(args, format);
    if (n > 0 && n < PATH_BYTES)
        vsnprintf(out + n, (size_t)(PATH_BYTES - n), format, args);
    va_end(args);
}

static void ring_path(const struct files_op *op, char out[PATH_BYTES])
{
    path_of(op, out, "views/ring");
}

static void view_path(const struct files_op *op, char out[PATH_BYTES])
{
    path_of(op, out, "views/%llu", (unsigned long long)op->number);
}

/* 0, KVD_ESHORT or -errno. `len` is a multiple of a block, `at` aligned to one. */
static int read_at(const struct files_op *op, const char *path, uint8_t *at, uint64_t len, uint64_t offset)
{
    struct file file;
    int err = fs_open(counts(op), &file, path, FS_READ_ONLY | FS_DIRECT);
    if (err)
        return err;
    int64_t got = fs_read(counts(op), &file, at, len, offset);
    (void)fs_close(counts(op), &file);
    return got < 0 ? (int)got : (uint64_t)got < len ? KVD_ESHORT : 0;
}

static int write_at(const struct files_op *op, const char *path, const uint8_t *at, uint64_t offset)
{
    struct file file;
    int err = fs_open(counts(op), &file, path, FS_DIRECT);
    if (err)
        return err;
    err = fs_write(counts(op), &file, at, BLOCK_BYTES, offset);
    if (!err)
        err = fs_sync(counts(op), &file);
    int close_err = fs_close(counts(op), &file);
    return err ? err : close_err;
}

/* A mark of what this host's lock on the folder covers: this boot of the machine, this mount. */
static int host_mark(struct files_op *op)
{
    char path[PATH_BYTES];
    path_of(op, path, "%s", op->files.id);
    uint8_t mark[BOOT_MARK_BYTES + 8];
    struct fs_dir_info info;
    int err = loop_boot_mark(mark);
    if (!err)
        err = fs_dir_info(counts(op), path, &info);
    if (err)
        return err;
    put_le64(mark + BOOT_MARK_BYTES, info.device);
    XXH128_hash_t hash = XXH3_128bits(mark, sizeof mark);
    put_le64(op->host, hash.low64);
    put_le64(op->host + 8, hash.high64);
    return 0;
}

/* Write a file whole, and give it its name if nobody has: 0, -EEXIST (it is somebody's), or another errno: it may have the name or not.
 * Until then it has one that no other host's process uses, whose file would be linked else. */
static int publish(struct files_op *op, const char *path, const uint8_t *at, uint64_t len)
{
    char temp[PATH_BYTES + 80];
    int err = bytes_are_zero(op->host, sizeof op->host) ? host_mark(op) : 0;
    if (err)
        return err;
    snprintf(temp, sizeof temp, "%s.%s-%016llx.tmp", path, op->files.id, (unsigned long long)get_le64(op->host));
    (void)fs_unlink(counts(op), temp);
    struct file file;
    err = fs_open(counts(op), &file, temp, FS_CREATE);
    if (err)
        return err == -EEXIST ? -EAGAIN : err;
    err = fs_write(counts(op), &file, at, len, 0);
    if (!err)
        err = fs_sync(counts(op), &file);
    int close_err = fs_close(counts(op), &file);
    if (!err)
        err = close_err;
    if (!err)
        err = fs_link(counts(op), temp, path);
    (void)fs_unlink(counts(op), temp);
    return err;
}

static int sync_folder(const struct files_op *op, const char *name)
{
    char path[PATH_BYTES];
    path_of(op, path, "%s", name);
    return fs_sync_dir(counts(op), path);
}

/* Other errors are a parser's: the bytes are there, and tell of nobody. */
static bool could_not_read(int err)
{
    return err < 0 && err != KVD_ECORRUPT && err != KVD_EFORMAT;
}

static void read_alive(struct files_op *op, uint8_t *block, const char *id)
{
    char path[PATH_BYTES];
    path_of(op, path, "%s/alive", id);
    op->err = read_at(op, path, block, ALIVE_BYTES, 0);
    if (!op->err)
        op->err = alive_parse(block, ALIVE_BYTES, cluster_of(op), &op->alive);
    op->alive_there = op->err == 0;
}

/* It is read first: a later start of this id ends this one. */
static void write_alive(struct files_op *op, uint8_t *block)
{
    struct alive mine = op->alive;
    read_alive(op, block, op->files.id);
    bool later = op->alive_there && incarnation_before(mine.name.incarnation, op->alive.name.incarnation);
    op->alive_result = later ? ALIVE_REPLACED : ALIVE_FAILED;
    if (later || could_not_read(op->err) || op->err == KVD_EFORMAT) /* which may be a later start's, of a newer kvd */
        return;
    char path[PATH_BYTES];
    path_of(op, path, "%s/alive", op->files.id);
    alive_build(block, cluster_of(op), &mine);
    op->err = write_at(op, path, block, 0);
    op->alive_result = op->err ? ALIVE_FAILED : ALIVE_WRITTEN;
}

static int sync_starts(const struct files_op *op)
{
    char folder[NODE_ID_MAX + 16];
    snprintf(folder, sizeof folder, "%s/starts", op->files.id);
    return sync_folder(op, folder);
}

/* A start's name, with who has it. Returns 0, -EEXIST or another errno. */
static int claim(struct files_op *op, uint8_t *block, uint64_t start)
{
    struct alive who = op->alive;
    char path[PATH_BYTES];
    who.name.incarnation.start = start;
    who.former_dead = op->former_dead;
    alive_build(block, cluster_of(op), &who);
    path_of(op, path, "%s/starts/%llu", op->files.id, (unsigned long long)start);
    int err = publish(op, path, block, ALIVE_BYTES);
    return err ? err : sync_starts(op);
}

/* 0 or what a read or a parser says. */
static int read_claim(const struct files_op *op, uint8_t *block, uint64_t start, struct alive *out)
{
    char path[PATH_BYTES];
    path_of(op, path, "%s/starts/%llu", op->files.id, (unsigned long long)start);
    int err = read_at(op, path, block, ALIVE_BYTES, 0);
    return err ? err : alive_parse(block, ALIVE_BYTES, cluster_of(op), out);
}

/* The name that is taken may be this process's: it tried before, was told that it had failed, and had it all the same. */
static int claim_again(struct files_op *op, uint8_t *block)
{
    struct alive before;
    struct incarnation mine = {op->number, op->alive.name.incarnation.random};
    int err = read_claim(op, block, op->number, &before);
    if (err == -ENOENT || err == KVD_ESHORT)
        return -EAGAIN; /* it was looked up before it was made */
    if (could_not_read(err))
        return err;
    return !err && mine.random != 0 && incarnation_equal(before.name.incarnation, mine) ? sync_starts(op) : -EEXIST;
}

static void claim_next(struct files_op *op, uint8_t *block)
{
    op->err = claim(op, block, op->number);
    if (op->err == -EEXIST)
        op->err = claim_again(op, block);
    op->claimed = !op->err ? CLAIMED : op->err == -EEXIST ? CLAIM_TAKEN : CLAIM_FAILED;
}

/* Claims that were made and left: who made them is dead if he was on this host. */
static void claim_first(struct files_op *op, uint8_t *block)
{
    for (unsigned i = 0; i < FIRST_TRIES; i++, op->number++) {
        op->err = claim(op, block, op->number);
        if (op->err != -EEXIST)
            return;
        struct alive before;
        if (read_claim(op, block, op->number, &before) != 0 || memcmp(before.host, op->host, sizeof op->host) != 0)
            op->former_dead = false;
    }
}

static void make_ring(struct files_op *op)
{
    char path[PATH_BYTES];
    ring_path(op, path);
    uint8_t *zeros = aligned_alloc(BLOCK_BYTES, RING_BYTES);
    op->err = zeros ? read_at(op, path, zeros, BLOCK_BYTES, 0) : -ENOMEM;
    if (op->err == -ENOENT) {
        memset(zeros, 0, RING_BYTES);
        op->err = publish(op, path, zeros, RING_BYTES);
        op->err = op->err == -EEXIST ? 0 : op->err;
    }
    free(zeros);
}

static void make_alive(struct files_op *op, uint8_t *block)
{
    read_alive(op, block, op->files.id);
    if (op->err != -ENOENT)
        return;
    char path[PATH_BYTES];
    path_of(op, path, "%s/alive", op->files.id);
    memset(block, 0, ALIVE_BYTES);
    op->err = publish(op, path, block, ALIVE_BYTES);
    op->err = op->err == -EEXIST ? 0 : op->err;
}

static void begin(struct files_op *op, uint8_t *block)
{
    char path[PATH_BYTES];
    path_of(op, path, "views");
    op->err = fs_make_dirs(counts(op), path);
    path_of(op, path, "%s/starts", op->files.id);
    if (!op->err)
        op->err = fs_make_dirs(counts(op), path);
    if (!op->err)
        op->err = host_mark(op);
    if (!op->err)
        make_ring(op);
    if (!op->err)
        make_alive(op, block);
    if (op->err == ALIVE_EMPTY || op->err == KVD_ECORRUPT)
        op->err = 0;
}

/* ---- views ---- */

static uint64_t slot_at(const struct files_op *op)
{
    return op->number % VIEW_RING_SLOTS * VIEW_BYTES;
}

static void read_ring(struct files_op *op)
{
    char path[PATH_BYTES];
    ring_path(op, path);
    uint8_t *ring = aligned_alloc(BLOCK_BYTES, RING_BYTES);
    op->err = ring ? read_at(op, path, ring, RING_BYTES, 0) : -ENOMEM;
    op->found = op->err ? FOUND_ERROR : FOUND_NOTHING;
    for (size_t i = 0; i < VIEW_RING_SLOTS && !op->err; i++) {
        struct view view;
        if (view_parse(ring + i * VIEW_BYTES, VIEW_BYTES, cluster_of(op), &view) == 0 && view.number > op->view.number) {
            op->view = view;
            op->found = FOUND_VIEW;
        }
    }
    free(ring);
}

static enum member_found found_of(int err)
{
    switch (err) {
    case 0:
        return FOUND_VIEW;
    case VIEW_EMPTY:
        return FOUND_NOTHING;
    case KVD_ECORRUPT:
    case KVD_EFORMAT:
        return FOUND_GARBLED;
    default:
        return FOUND_ERROR;
    }
}

static void read_one(struct files_op *op, uint8_t *block, const char *path, uint64_t offset)
{
    op->err = read_at(op, path, block, VIEW_BYTES, offset);
    if (!op->err)
        op->err = view_parse(block, VIEW_BYTES, cluster_of(op), &op->view);
    op->found = found_of(op->err);
}

static void read_slot(struct files_op *op, uint8_t *block)
{
    char path[PATH_BYTES];
    ring_path(op, path);
    read_one(op, block, path, slot_at(op));
}

static void read_view(struct files_op *op, uint8_t *block)
{
    char path[PATH_BYTES];
    view_path(op, path);
    read_one(op, block, path, 0);
    if (op->err == -ENOENT)
        op->found = FOUND_NOTHING;
}

static void link_view(struct files_op *op, uint8_t *block)
{
    char path[PATH_BYTES];
    view_path(op, path);
    op->err = view_build(block, cluster_of(op), &op->view);
    if (!op->err)
        op->err = publish(op, path, block, VIEW_BYTES);
    if (!op->err)
        op->err = sync_folder(op, "views");
    op->linked = !op->err ? LINKED : op->err == -EEXIST ? LINK_TAKEN : LINK_UNKNOWN;
}

static void write_slot(struct files_op *op, uint8_t *block)
{
    char path[PATH_BYTES];
    ring_path(op, path);
    op->err = view_build(block, cluster_of(op), &op->view);
    if (!op->err)
        op->err = write_at(op, path, block, slot_at(op));
}

/* ---- one of these ---- */

static void act(struct files_op *op, uint8_t *block)
{
    switch (op->act) {
    case MEMBER_READ_RING:
        read_ring(op);
        break;
    case MEMBER_READ_SLOT:
        read_slot(op, block);
        break;
    case MEMBER_LINK:
        link_view(op, block);
        break;
    case MEMBER_READ_VIEW:
        read_view(op, block);
        break;
    case MEMBER_WRITE_SLOT:
        write_slot(op, block);
        break;
    case MEMBER_WRITE_ALIVE:
        write_alive(op, block);
        break;
    case MEMBER_READ_ALIVE:
        read_alive(op, block, op->id);
        break;
    case MEMBER_CLAIM:
        claim_next(op, block);
        break;
    case MEMBER_SEND:
        break;
    }
}

static void work(struct job *job)
{
    struct files_op *op = CONTAINER_OF(job, struct files_op, job);
    uint8_t *block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
    if (!block) {
        op->err = -ENOMEM;
        op->found = FOUND_ERROR;
        op->linked = LINK_UNKNOWN;
        op->alive_result = ALIVE_FAILED;
        op->claimed = CLAIM_FAILED;
        return;
    }
    if (op->what == FILES_BEGIN)
        begin(op, block);
    else if (op->what == FILES_FIRST)
        claim_first(op, block);
    else
        act(op, block);
    free(block);
}

/* ---- there and back ---- */

static void is_back(struct task *task)
{
    struct files_op *op = CONTAINER_OF(task, struct files_op, back);
    op->fn(op);
}

static void done(struct job *job)
{
    struct files_op *op = CONTAINER_OF(job, struct files_op, job);
    task_init(&op->back, op->files.home, is_back);
    loop_post(&op->back);
}

void files_start(struct files_op *op)
{
    loop_lock(op->files.store_loop);
    job_start(op->files.store_loop, &op->job, work, done);
    loop_unlock(op->files.store_loop);
}
