/* objects_kill.c - kills of objects that are files: of a key, and walks through all folders for a prefix or all. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "tier/object_file.h"
#include "tier/objects_inner.h"

enum { SWEEP_STEP = 64 };

/* ---- on the job ---- */

static bool kill_reaches(const struct batch *batch, const struct target *target, const struct record *record)
{
    bool named = target->kind == KILL_PREFIX ? span_starts_with(record->key, target->name) : span_equal(record->key, target->name);
    bool ours = record->node == batch->node;
    return (named || target->kind == KILL_ALL) && (ours ? record->version <= target->version : target->whoever);
}

/* Is what cannot be opened and judged unlinked all the same? What is no record is of no use to anybody. What is not there may be: where
 * other hosts have replaced a file, this one may go by its old name for a while, and say that it is not there; an unlink asks those who
 * know. */
static bool goes_unseen(const struct target *target, int err)
{
    return err == KVD_ESHORT || err == KVD_ECORRUPT || (err == -ENOENT && target->whoever);
}

/* 0 also when there is no such file; but a prefix cannot say of what is not seen (-ENOENT, KVD_ESHORT, KVD_ECORRUPT) whether it reaches it.
 * Of a newer format (KVD_EFORMAT) only who knows it can say. */
static int kill_file(struct batch *batch, struct op *op, const char *name)
{
    struct object_file file;
    char *path = objects_path_below(batch->folder, name, name);
    if (!path)
        return -ENOMEM;
    bool dead = true;
    int err = object_file_open(batch->loop, path, &file);
    if (!err) {
        dead = kill_reaches(batch, &op->target, &file.record);
        object_file_close(batch->loop, &file);
    } else if (op->target.kind != KILL_PREFIX && goes_unseen(&op->target, err)) {
        err = 0;
    }
    if (!err && dead) {
        err = fs_unlink(batch->loop, path);
        op->changed |= err != -ENOENT; /* also when it failed: it may have been done, and the next kill finds nothing and believes it */
        op->unlinked += !err;
    }
    free(path);
    return err == -ENOENT && op->target.kind != KILL_PREFIX ? 0 : err;
}

void objects_kill_work(struct batch *batch, struct op *op)
{
    op->err = kill_file(batch, op, op->name.hex);
}

static void sweep_spares(struct op *op, const struct object_name *name, int err)
{
    if (op->damaged++ == 0) {
        op->spared_err = err;
        memcpy(op->spared, name->hex, sizeof op->spared);
    }
}

static bool is_listed(const struct names *names, const struct object_name *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->at[i].hex, name->hex) == 0)
            return true;
    return false;
}

/* What was listed and not found is gone if it is not listed now. Otherwise it is there, and this host goes by an old name of it. */
static int sweep_list_again(struct batch *batch, struct op *op)
{
    struct names missed = op->names;
    op->names = (struct names){0};
    int err = objects_names_list(batch, op);
    for (size_t i = 0; !err && i < missed.missing; i++)
        if (is_listed(&op->names, &missed.at[i]))
            sweep_spares(op, &missed.at[i], -ENOENT);
    op->names.next = op->names.count;
    free(missed.at);
    return err;
}

/* One file that cannot be judged does not keep the rest. */
void objects_sweep_work(struct batch *batch, struct op *op)
{
    struct names *names = &op->names;
    int err = names->listed ? 0 : objects_names_list(batch, op);
    for (unsigned i = 0; !err && i < SWEEP_STEP && names->next < names->count; i++) {
        const struct object_name *name = &names->at[names->next++];
        err = kill_file(batch, op, name->hex);
        if (is_no_record(err))
            sweep_spares(op, name, err);
        else if (err == -ENOENT)
            names->at[names->missing++] = *name;
        else
            continue;
        err = 0;
    }
    if (!err && names->missing > 0 && names->next == names->count)
        err = sweep_list_again(batch, op);
    op->err = err;
}

/* ---- the end ---- */

/* NULL: it was given up before. */
static void kill_ended(struct objects *objects, struct disk_kill *kill, int err)
{
    struct disk *disk = objects->disk;
    if (!kill)
        return;
    list_remove(&kill->link);
    objects->dying_bytes -= kill->bytes;
    if (!err && kill->unlinked > 0)
        disk_space_freed(disk, kill->bytes);
    disk->figures.kill_batches++;
    if (err && err != KVD_EOFF)
        log_error(disk->log, "remove_failed", "dir=\"%s\" error=\"%s\"", objects->folder, error_text(err));
    disk_kill_ended(disk, kill, is_no_record(err) || err == -ENOENT ? -EIO : err);
}

void objects_kill_ended(struct objects *objects, struct op *op)
{
    struct disk_kill *kill = op->kill;
    int err = op->err;
    if (kill)
        kill->unlinked = op->unlinked;
    objects_op_free(objects, op);
    kill_ended(objects, kill, err);
}

/* It may have been one that the kill names, and be read another time: then it would be back. */
static void sweep_tell_spared(struct objects *objects, const struct op *op)
{
    struct disk *disk = objects->disk;
    disk->figures.kills_spared += op->damaged;
    log_warn(disk->log, "remove_spared", "file=%s/%.2s/%s files=%" PRIu64 " error=\"%s\" what=\"it may be one of them\"",
             objects->own->below, op->spared, op->spared, op->damaged, error_text(op->spared_err));
}

void objects_sweep_ended(struct objects *objects, struct op *op)
{
    struct sweep *sweep = op->sweep;
    struct disk_kill *kill = sweep->kill;
    if (kill)
        kill->unlinked += op->unlinked;
    if (op->damaged > 0)
        sweep_tell_spared(objects, op);
    if (!sweep->err)
        sweep->err = op->err ? op->err : op->spared_err;
    int err = sweep->err;
    objects_op_free(objects, op);
    if (--sweep->left > 0)
        return;
    list_remove(&sweep->link);
    free(sweep);
    kill_ended(objects, kill, err);
}

/* ---- the beginning ---- */

/* `name`: room for the copy. */
static void target_take(struct target *target, const struct disk_kill *kill, uint8_t *name)
{
    bytes_copy(name, kill->name.at, kill->name.len);
    *target = (struct target){kill->kind, kill->version, kill->whoever, span_of(name, kill->name.len)};
}

static int kill_key(struct objects *objects, struct disk_kill *kill)
{
    struct op *op = objects_op_new(objects, OP_KILL, kill->name.len);
    if (!op)
        return -ENOMEM;
    op->kill = kill;
    target_take(&op->target, kill, op->key);
    op->name = object_name_of(kill->name);
    objects_op_queue(objects, op, object_name_fan(&op->name));
    return 0;
}

static int kill_many(struct objects *objects, struct disk_kill *kill)
{
    struct op *ops[OBJECT_FANS];
    struct sweep *sweep = calloc(1, sizeof *sweep + kill->name.len);
    unsigned made = 0;
    while (sweep && made < OBJECT_FANS && (ops[made] = objects_op_new(objects, OP_SWEEP, 0)) != NULL)
        made++;
    if (made < OBJECT_FANS) {
        while (made > 0)
            objects_op_free(objects, ops[--made]);
        free(sweep);
        return -ENOMEM;
    }
    sweep->kill = kill;
    sweep->left = OBJECT_FANS;
    target_take(&sweep->target, kill, sweep->name);
    list_push_back(&objects->sweeps, &sweep->link);
    for (unsigned i = 0; i < OBJECT_FANS; i++) {
        ops[i]->target = sweep->target;
        ops[i]->sweep = sweep;
        objects_op_queue(objects, ops[i], i);
    }
    return 0;
}

int objects_kill(struct objects *objects, struct disk_kill *kill)
{
    int err = kill->kind == KILL_KEY ? kill_key(objects, kill) : kill_many(objects, kill);
    if (err)
        return err;
    list_push_back(&objects->kills, &kill->link);
    objects->dying_bytes += kill->bytes;
    return 0;
}

void objects_kills_raise(struct objects *objects, uint64_t version)
{
    for (struct list *at = objects->kills.next; at != &objects->kills; at = at->next) {
        struct disk_kill *kill = CONTAINER_OF(at, struct disk_kill, link);
        kill->version = version;
        disk_kill_note(objects->disk, kill);
    }
    for (unsigned i = 0; i < OBJECT_FANS; i++)
        for (struct list *at = objects->fans[i].ops.next; at != &objects->fans[i].ops; at = at->next)
            CONTAINER_OF(at, struct op, link)->target.version = version;
}

/* ---- giving up ---- */

static void kills_forget(struct list *ops)
{
    for (struct list *at = ops->next; at != ops; at = at->next)
        CONTAINER_OF(at, struct op, link)->kill = NULL;
}

void objects_kills_give_up(struct objects *objects, int err)
{
    struct list ended;
    bool any = !list_empty(&objects->kills);
    list_init(&ended);
    for (unsigned i = 0; i < OBJECT_FANS; i++)
        kills_forget(&objects->fans[i].ops);
    for (unsigned i = 0; i < BATCHES; i++)
        if (objects->batches[i].fan && objects->batches[i].fan->busy)
            kills_forget(&objects->batches[i].ops);
    for (struct list *at = objects->sweeps.next; at != &objects->sweeps; at = at->next)
        CONTAINER_OF(at, struct sweep, link)->kill = NULL;
    objects_queued_drop(objects, op_is_kill, err);
    list_move_all(&ended, &objects->kills);
    for (struct list *at; (at = list_pop_front(&ended)) != NULL;) {
        struct disk_kill *kill = CONTAINER_OF(at, struct disk_kill, link);
        objects->dying_bytes -= kill->bytes;
        disk_kill_ended(objects->disk, kill, err);
    }
    if (any) /* the pump itself gives up again and again until what hangs has ended */
        disk_post(objects->disk);
}

bool objects_kills_late(const struct objects *objects)
{
    struct list *first = list_first(&objects->kills);
    if (!first)
        return false;
    uint64_t since_ms = max_u64(objects->moved_ms, CONTAINER_OF(first, struct disk_kill, link)->since_ms);
    return loop_now_ms(objects->disk->loop) - since_ms >= objects->disk->health.timeout_ms;
}
