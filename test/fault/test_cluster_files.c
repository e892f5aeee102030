/* What a node reads and writes in the shared directory, on real files; and the k-th operation of each fails, for k = 1, 2, ... until
 * nothing fires: it says that it did not work, or it did, and what is tried again comes to the same as if nothing had failed.
 *
 * The functions of the seam are replaced by the linker: -Wl,--wrap=fs_open and so on for each function wrapped here.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "cluster/files.h"
#include "loop/fs.h"
#include "test/support/quiet.h"
#include "test/support/scratch.h"

/* ---- the faults ---- */

static unsigned fault_at;  /* 0: none */
static bool fault_happens; /* says EIO, and yet it happened */
static atomic_uint fault_count;

static bool fault_now(void)
{
    return fault_at > 0 && atomic_fetch_add(&fault_count, 1) + 1 == fault_at;
}

/* A function of the seam, its parameters and its arguments. */
#define WRAP(type, name, params, args) \
    type __real_##name params;         \
    type __wrap_##name params;         \
    type __wrap_##name params          \
    {                                  \
        if (!fault_now())              \
            return __real_##name args; \
        if (fault_happens)             \
            (void)__real_##name args;  \
        return -EIO;                   \
    }

WRAP(int64_t, fs_read, (struct loop * loop, const struct file *file, void *buf, uint64_t len, uint64_t offset),
     (loop, file, buf, len, offset))
WRAP(int, fs_write, (struct loop * loop, const struct file *file, const void *buf, uint64_t len, uint64_t offset),
     (loop, file, buf, len, offset))
WRAP(int, fs_sync, (struct loop * loop, const struct file *file), (loop, file))
WRAP(int, fs_sync_dir, (struct loop * loop, const char *path), (loop, path))
WRAP(int, fs_make_dirs, (struct loop * loop, const char *path), (loop, path))

static void (*before_link)(void); /* once */
static bool stops_at_link;        /* the next one does not come to it, as one whose process stands still */
static bool stopped;              /* nor to what it does behind that */

int __real_fs_link(struct loop *loop, const char *from, const char *to);
int __wrap_fs_link(struct loop *loop, const char *from, const char *to);
int __wrap_fs_link(struct loop *loop, const char *from, const char *to)
{
    void (*hook)(void) = before_link;
    before_link = NULL;
    if (hook)
        hook();
    if (stops_at_link) {
        stops_at_link = false;
        stopped = true;
        return -EIO;
    }
    bool fails = fault_now();
    int err = fails && !fault_happens ? -EIO : __real_fs_link(loop, from, to);
    return fails ? -EIO : err;
}

int __real_fs_unlink(struct loop *loop, const char *path);
int __wrap_fs_unlink(struct loop *loop, const char *path);
int __wrap_fs_unlink(struct loop *loop, const char *path)
{
    if (stopped) {
        stopped = false;
        return -EIO;
    }
    bool fails = fault_now();
    int err = fails && !fault_happens ? -EIO : __real_fs_unlink(loop, path);
    return fails ? -EIO : err;
}

/* An open that says EIO leaves no file open, whatever it did. */
int __real_fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags);
int __wrap_fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags);
int __wrap_fs_open(struct loop *loop, struct file *file, const char *path, unsigned flags)
{
    if (!fault_now())
        return __real_fs_open(loop, file, path, flags);
    struct file opened;
    if (fault_happens && __real_fs_open(loop, &opened, path, flags) == 0)
        (void)fs_close(loop, &opened);
    return -EIO;
}

/* ---- a directory, and nodes of it ---- */

struct place {
    struct loop *loop;
    char dir[256];
};

static void place_open(struct place *place)
{
    struct loop_options options = {.forbid_ring = true, .io_threads = 1, .job_threads = 1};
    cr_assert_eq(loop_new(&place->loop, &options, &quiet), 0);
    scratch_folder(place->dir, sizeof place->dir);
}

static void place_close(struct place *place)
{
    loop_free(place->loop);
    scratch_remove(place->dir);
}

static void ended(struct files_op *op)
{
    loop_stop(op->owner);
}

static struct files_op *op_of(const struct place *place, const char *id, enum files_what what)
{
    struct cluster_files files = {.home = place->loop, .store_loop = place->loop, .dir = place->dir, .cluster = "test", .id = id};
    struct files_op *op = files_new(&files, what, ended, place->loop);
    cr_assert(op);
    return op;
}

static void op_run(const struct place *place, struct files_op *op)
{
    files_start(op);
    loop_run(place->loop);
}

/* The k-th operation of it fails, if k is not 0. True: it had so many. */
static bool op_fails(const struct place *place, struct files_op *op, unsigned k)
{
    atomic_store(&fault_count, 0);
    fault_at = k;
    op_run(place, op);
    fault_at = 0;
    return atomic_load(&fault_count) >= k;
}

static int begin(const struct place *place, const char *id)
{
    struct files_op *op = op_of(place, id, FILES_BEGIN);
    op_run(place, op);
    int err = op->err;
    files_free(op);
    return err;
}

static struct files_op *act_of(const struct place *place, const char *id, enum member_act act, uint64_t number)
{
    struct files_op *op = op_of(place, id, FILES_ACT);
    op->act = act;
    op->number = number;
    return op;
}

static struct view view_of(uint64_t number, const char *proposer)
{
    struct view view = {.number = number, .previous = number - 1, .floor = number * VIEW_FLOOR_STEP};
    struct node_name name = {.id = "n1", .address = "10.0.0.1:7950", .incarnation = {1, 2}};
    snprintf(view.proposer, sizeof view.proposer, "%s", proposer);
    cr_assert(view_put(&view, &name));
    return view;
}

static struct files_op *publish_of(const struct place *place, const char *id, enum member_act act, uint64_t number)
{
    struct files_op *op = act_of(place, id, act, number);
    op->view = view_of(number, id);
    return op;
}

static enum member_linked linked(const struct place *place, const char *id, uint64_t number)
{
    struct files_op *op = publish_of(place, id, MEMBER_LINK, number);
    op_run(place, op);
    enum member_linked result = op->linked;
    files_free(op);
    return result;
}

/* Whose view of that number is there; "" where none is. */
static enum member_found find(const struct place *place, enum member_act act, uint64_t number, char proposer[NODE_ID_MAX + 1])
{
    struct files_op *op = act_of(place, "n1", act, number);
    op_run(place, op);
    enum member_found found = op->found;
    memcpy(proposer, op->view.proposer, NODE_ID_MAX + 1);
    files_free(op);
    return found;
}

static struct alive alive_of(const char *id, uint64_t start, uint64_t random)
{
    struct alive alive = {.name = {.address = "10.0.0.1:7950", .incarnation = {start, random}}, .count = 1};
    snprintf(alive.name.id, sizeof alive.name.id, "%s", id);
    return alive;
}

static enum member_alive_result write_alive(const struct place *place, const char *id, uint64_t start, uint64_t random)
{
    struct files_op *op = act_of(place, id, MEMBER_WRITE_ALIVE, 0);
    op->alive = alive_of(id, start, random);
    op_run(place, op);
    enum member_alive_result result = op->alive_result;
    files_free(op);
    return result;
}

/* The start that `alive` of this id tells of; 0: none. */
static uint64_t start_there(const struct place *place, const char *id)
{
    struct files_op *op = act_of(place, "n1", MEMBER_READ_ALIVE, 0);
    snprintf(op->id, sizeof op->id, "%s", id);
    op_run(place, op);
    uint64_t start = op->alive_there ? op->alive.name.incarnation.start : 0;
    files_free(op);
    return start;
}

static struct files_op *claim_of(const struct place *place, const char *id, uint64_t start, uint64_t random)
{
    struct files_op *op = act_of(place, id, MEMBER_CLAIM, start);
    op->alive = alive_of(id, 1, random);
    op->former_dead = true;
    return op;
}

static enum member_claimed claim(const struct place *place, const char *id, uint64_t start, uint64_t random)
{
    struct files_op *op = claim_of(place, id, start, random);
    op_run(place, op);
    enum member_claimed claimed = op->claimed;
    files_free(op);
    return claimed;
}

/* ---- nothing fails ---- */

Test(cluster_files, a_view_has_its_name_once_and_its_slot_for_all_to_see)
{
    struct place place;
    char by[NODE_ID_MAX + 1];
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    cr_assert_eq(begin(&place, "n2"), 0);
    cr_assert_eq(find(&place, MEMBER_READ_RING, 0, by), FOUND_NOTHING);
    cr_assert_eq(find(&place, MEMBER_READ_VIEW, 1, by), FOUND_NOTHING);
    cr_assert_eq(linked(&place, "n1", 1), LINKED);
    cr_assert_eq(linked(&place, "n2", 1), LINK_TAKEN);
    cr_assert_eq(find(&place, MEMBER_READ_VIEW, 1, by), FOUND_VIEW);
    cr_assert_str_eq(by, "n1");
    cr_assert_eq(find(&place, MEMBER_READ_SLOT, 1, by), FOUND_NOTHING);
    for (uint64_t number = 1; number <= 2; number++) {
        struct files_op *op = publish_of(&place, "n1", MEMBER_WRITE_SLOT, number);
        op_run(&place, op);
        cr_assert_eq(op->err, 0);
        files_free(op);
        cr_assert_eq(find(&place, MEMBER_READ_SLOT, number, by), FOUND_VIEW);
    }
    struct files_op *ring = act_of(&place, "n2", MEMBER_READ_RING, 0);
    op_run(&place, ring);
    cr_assert(ring->found == FOUND_VIEW && ring->view.number == 2);
    files_free(ring);
    place_close(&place);
}

Test(cluster_files, a_later_start_ends_an_earlier_one)
{
    struct place place;
    place_open(&place);
    cr_assert_eq(write_alive(&place, "n1", 1, 1), ALIVE_FAILED, "there is no folder yet");
    cr_assert_eq(begin(&place, "n1"), 0);
    cr_assert_eq(start_there(&place, "n1"), 0);
    cr_assert_eq(write_alive(&place, "n1", 2, 1), ALIVE_WRITTEN);
    cr_assert_eq(write_alive(&place, "n1", 3, 1), ALIVE_WRITTEN);
    cr_assert_eq(write_alive(&place, "n1", 2, 1), ALIVE_REPLACED);
    cr_assert_eq(start_there(&place, "n1"), 3);
    place_close(&place);
}

Test(cluster_files, an_alive_of_a_newer_format_is_left_alone)
{
    struct place place;
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    uint8_t newer[ALIVE_BYTES], there[ALIVE_BYTES];
    struct alive alive = alive_of("n1", 1, 1);
    alive_build(newer, span_text("test"), &alive);
    newer[4]++;
    put_le64(newer + ALIVE_BYTES - 8, XXH3_64bits(newer, ALIVE_BYTES - 8));
    char path[300];
    snprintf(path, sizeof path, "%s/test/n1/alive", place.dir);
    FILE *file = fopen(path, "r+");
    cr_assert(file && fwrite(newer, sizeof newer, 1, file) == 1);
    cr_assert_eq(fclose(file), 0);
    cr_assert_eq(write_alive(&place, "n1", 2, 1), ALIVE_FAILED);
    file = fopen(path, "r");
    cr_assert(file && fread(there, sizeof there, 1, file) == 1);
    fclose(file);
    cr_assert_arr_eq(there, newer, sizeof newer);
    cr_assert_eq(begin(&place, "n1"), KVD_EFORMAT);
    place_close(&place);
}

Test(cluster_files, a_start_is_claimed_once)
{
    struct place place;
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    cr_assert_eq(claim(&place, "n1", 2, 11), CLAIMED);
    cr_assert_eq(claim(&place, "n1", 2, 12), CLAIM_TAKEN);
    cr_assert_eq(claim(&place, "n1", 2, 11), CLAIMED, "by whom it was claimed before");
    place_close(&place);
}

/* Those that were claimed and left: on this host nobody of them acts; of another's that is not known. */
Test(cluster_files, the_first_start_is_the_first_that_is_free)
{
    struct place place;
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    for (unsigned host = 1; host <= 2; host++) {
        struct files_op *op = op_of(&place, "n1", FILES_FIRST);
        op->number = 1;
        op->former_dead = true;
        op->host[0] = (uint8_t)host;
        op->alive = alive_of("n1", 1, 0);
        op->alive.host[0] = (uint8_t)host;
        for (unsigned i = 0; i < 2; i++) {
            op->number = 1;
            op_run(&place, op);
            cr_assert_eq(op->err, 0);
            cr_assert_eq(op->number, 2 * (host - 1) + i + 1);
            cr_assert_eq(op->former_dead, host == 1);
        }
        files_free(op);
    }
    place_close(&place);
}

/* ---- two processes of one id, on two hosts ---- */

static struct place twins;

static void the_other_stops_before_its_link(void)
{
    struct place there = {.loop = NULL};
    struct loop_options options = {.forbid_ring = true, .io_threads = 1, .job_threads = 1};
    cr_assert_eq(loop_new(&there.loop, &options, &quiet), 0);
    memcpy(there.dir, twins.dir, sizeof there.dir);
    struct files_op *op = publish_of(&there, "n1", MEMBER_LINK, 1);
    op->host[0] = 2;
    snprintf(op->view.proposer, sizeof op->view.proposer, "other");
    stops_at_link = true;
    op_run(&there, op);
    cr_assert_eq(op->linked, LINK_UNKNOWN);
    files_free(op);
    loop_free(there.loop);
}

/* Each has a file of its own before it has the name. */
Test(cluster_files, what_has_the_name_is_what_was_to_have_it)
{
    char by[NODE_ID_MAX + 1];
    place_open(&twins);
    cr_assert_eq(begin(&twins, "n1"), 0);
    struct files_op *op = publish_of(&twins, "n1", MEMBER_LINK, 1);
    before_link = the_other_stops_before_its_link;
    op_run(&twins, op);
    cr_assert_eq(op->linked, LINKED);
    cr_assert_eq(find(&twins, MEMBER_READ_VIEW, 1, by), FOUND_VIEW);
    cr_assert_str_eq(by, "n1");
    files_free(op);
    place_close(&twins);
}

/* ---- one operation fails ---- */

static bool link_fails(unsigned k)
{
    struct place place;
    char by[NODE_ID_MAX + 1];
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    cr_assert_eq(begin(&place, "n2"), 0);
    struct files_op *op = publish_of(&place, "n1", MEMBER_LINK, 1);
    bool fired = op_fails(&place, op, k);
    cr_assert_neq(op->linked, LINK_TAKEN, "operation %u", k);
    bool there = find(&place, MEMBER_READ_VIEW, 1, by) == FOUND_VIEW;
    cr_assert(there || op->linked == LINK_UNKNOWN, "operation %u", k);
    cr_assert_eq(linked(&place, "n2", 1), there ? LINK_TAKEN : LINKED, "operation %u", k);
    cr_assert_eq(find(&place, MEMBER_READ_VIEW, 1, by), FOUND_VIEW);
    cr_assert_str_eq(by, there ? "n1" : "n2");
    files_free(op);
    place_close(&place);
    return fired;
}

static bool claim_fails(unsigned k)
{
    struct place place;
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    struct files_op *op = claim_of(&place, "n1", 2, 11);
    bool fired = op_fails(&place, op, k);
    cr_assert_neq(op->claimed, CLAIM_TAKEN, "operation %u", k);
    /* What failed is tried again, and is still this process's. */
    cr_assert_eq(claim(&place, "n1", 2, 11), CLAIMED, "operation %u", k);
    cr_assert_eq(claim(&place, "n1", 2, 12), CLAIM_TAKEN);
    files_free(op);
    place_close(&place);
    return fired;
}

static bool alive_fails(unsigned k)
{
    struct place place;
    place_open(&place);
    cr_assert_eq(begin(&place, "n1"), 0);
    cr_assert_eq(write_alive(&place, "n1", 2, 1), ALIVE_WRITTEN);
    struct files_op *op = act_of(&place, "n1", MEMBER_WRITE_ALIVE, 0);
    op->alive = alive_of("n1", 3, 1);
    bool fired = op_fails(&place, op, k);
    cr_assert_eq(op->alive_result, fired ? ALIVE_FAILED : ALIVE_WRITTEN, "operation %u", k);
    cr_assert(fired || start_there(&place, "n1") == 3);
    cr_assert_eq(write_alive(&place, "n1", 3, 1), ALIVE_WRITTEN);
    files_free(op);
    place_close(&place);
    return fired;
}

static bool begin_fails(unsigned k)
{
    struct place place;
    char by[NODE_ID_MAX + 1];
    place_open(&place);
    struct files_op *op = op_of(&place, "n1", FILES_BEGIN);
    bool fired = op_fails(&place, op, k);
    cr_assert_eq(begin(&place, "n1"), 0, "operation %u", k);
    cr_assert_eq(find(&place, MEMBER_READ_RING, 0, by), FOUND_NOTHING);
    cr_assert_eq(write_alive(&place, "n1", 1, 1), ALIVE_WRITTEN);
    files_free(op);
    place_close(&place);
    return fired;
}

static void try_all(bool (*fails)(unsigned k))
{
    for (unsigned happens = 0; happens < 2; happens++) {
        unsigned k = 1;
        fault_happens = happens;
        while (fails(k))
            k++;
        cr_assert_gt(k, 3, "only %u operations", k);
    }
}

Test(cluster_faults, a_view_that_could_not_be_linked)
{
    try_all(link_fails);
}

Test(cluster_faults, a_start_that_could_not_be_claimed)
{
    try_all(claim_fails);
}

Test(cluster_faults, an_alive_that_could_not_be_written)
{
    try_all(alive_fails);
}

Test(cluster_faults, a_directory_that_could_not_be_made)
{
    try_all(begin_fails);
}
