#include "test/support/disk_rig.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"
#include "loop/loop.h"
#include "test/support/scratch.h"
#include "tier/disk_inner.h"

enum { POOL_BYTES = 64 << 20, WATCHDOG_MS = 60 * 1000 };

/* ---- the log ---- */

static void log_keep(void *arg, const char *line, size_t len)
{
    struct rig *rig = arg;
    enum { LOG_TEXT_BYTES = 1 << 20 };
    if (!rig->log_text)
        rig->log_text = calloc(1, LOG_TEXT_BYTES);
    /* Jobs log too; what is lost by the race or the bound is only looked at by tests that log little. */
    size_t at = __atomic_fetch_add(&rig->log_len, len + 1, __ATOMIC_SEQ_CST);
    if (!rig->log_text || at + len + 2 > LOG_TEXT_BYTES)
        return;
    memcpy(rig->log_text + at, line, len);
    rig->log_text[at + len] = '\n';
}

unsigned rig_logged(const struct rig *rig, const char *event)
{
    char wanted[80];
    snprintf(wanted, sizeof wanted, "event=%s", event);
    unsigned count = 0;
    for (const char *at = rig->log_text; at && (at = strstr(at, wanted)); at += strlen(wanted))
        count += at[strlen(wanted)] == ' ' || at[strlen(wanted)] == '\n';
    return count;
}

/* ---- making ---- */

static void rig_begin(struct rig *rig)
{
    memset(rig, 0, sizeof *rig);
    scratch_folder(rig->root, sizeof rig->root);
    snprintf(rig->dir, sizeof rig->dir, "%s/d", rig->root);
    rig->log = (struct log){LOG_DEBUG, log_keep, rig};
    rig->log_text = calloc(1, 1 << 20);
    rig->limit_bytes = 64 * MIB;
    rig->segment_bytes = MIB;
    rig->read_split_bytes = MIB;
}

static void rig_loop(struct rig *rig)
{
    struct loop_options options = {.forbid_ring = rig->forbid_ring};
    CHECK(loop_new(&rig->loop, &options, &rig->log) == 0);
    CHECK(memory_reserve(&rig->memory, POOL_BYTES) == 0);
    CHECK(pool_new(&rig->pool, rig->memory.base, POOL_BYTES) == 0);
}

void rig_init(struct rig *rig)
{
    rig_begin(rig);
}

void rig_init_copy(struct rig *rig, const struct rig *from)
{
    rig_begin(rig);
    rig->limit_bytes = from->limit_bytes;
    rig->segment_bytes = from->segment_bytes;
    rig->read_split_bytes = from->read_split_bytes;
    rig->forbid_ring = from->forbid_ring;
    char command[1000];
    snprintf(command, sizeof command, "[ ! -d '%s' ] || cp -a --sparse=always '%s' '%s'", from->dir, from->dir, rig->dir);
    CHECK(system(command) == 0);
}

void rig_fini(struct rig *rig)
{
    if (rig->disk)
        rig_close(rig);
    if (rig->loop) {
        CHECK(pool_blobs(rig->pool) == 0);
        pool_free(rig->pool);
        memory_release(&rig->memory);
        loop_free(rig->loop);
    }
    scratch_remove(rig->root);
    free(rig->objects);
    free(rig->log_text);
}

/* ---- running ---- */

struct waiter {
    struct timer tick;
    struct loop *loop;
};

static void tick_stop(struct timer *timer)
{
    loop_stop(CONTAINER_OF(timer, struct waiter, tick)->loop);
}

void rig_until(struct rig *rig, bool (*cond)(void *arg), void *arg)
{
    struct waiter waiter = {.loop = rig->loop};
    timer_init(&waiter.tick, rig->loop, tick_stop);
    uint64_t begun_us = loop_now_us(rig->loop);
    while (!cond(arg)) {
        CHECK(loop_now_us(rig->loop) - begun_us < (uint64_t)WATCHDOG_MS * 1000);
        timer_start(&waiter.tick, 1);
        loop_run(rig->loop);
    }
    timer_stop(&waiter.tick);
}

struct turns {
    struct task task;
    struct loop *loop;
    unsigned left;
};

static void turn(struct task *task)
{
    struct turns *turns = CONTAINER_OF(task, struct turns, task);
    if (--turns->left > 0)
        task_post(task);
    else
        loop_stop(turns->loop);
}

void rig_turns(struct rig *rig, unsigned count)
{
    struct turns turns = {.loop = rig->loop, .left = count};
    task_init(&turns.task, rig->loop, turn);
    task_post(&turns.task);
    while (turns.left > 0)
        loop_run(rig->loop);
}

static bool flag_is_set(void *arg)
{
    return *(bool *)arg;
}

static bool is_settled(void *arg)
{
    const struct disk *disk = ((struct rig *)arg)->disk;
    for (size_t i = 0; i < RECOVERERS; i++)
        if (disk->runs[i].busy)
            return false;
    for (struct list *at = disk->segments.next; at != &disk->segments; at = at->next) {
        const struct appender *appender = CONTAINER_OF(at, struct segment, link)->appender;
        if (appender && (appender->in_flight > 0 || appender->checkpoint.state != CHECKPOINT_NONE))
            return false;
    }
    return disk->jobs == 0 && disk->runs_used == 0 && list_empty(&disk->queue) && list_empty(&disk->kills) && !disk->frame_running &&
           disk->sealing == 0 && disk->reads == 0 && !(disk->compact_due && disk_state(disk) == DISK_ON) &&
           (!disk->objects || objects_idle(disk->objects) || disk_state(disk) == DISK_TRIPPED); /* then scans wait */
}

void rig_settle(struct rig *rig)
{
    do {
        rig_turns(rig, 3);
        rig_until(rig, is_settled, rig);
        rig_turns(rig, 3);
    } while (!is_settled(rig));
}

/* ---- what the tier says ---- */

static void forget_at(struct rig *rig, size_t i)
{
    rig->objects[i] = rig->objects[--rig->object_count];
}

static struct rig_object *object_find(struct rig *rig, const void *key, size_t key_len)
{
    for (size_t i = 0; i < rig->object_count; i++)
        if (rig->objects[i].key_len == key_len && memcmp(rig->objects[i].key, key, key_len) == 0)
            return &rig->objects[i];
    return NULL;
}

static void object_note(struct rig *rig, const struct disk_found *found)
{
    struct rig_object *object = object_find(rig, found->key.at, found->key.len);
    if (object && object->version > found->version)
        return;
    if (!object) {
        if (rig->object_count == rig->object_room) {
            rig->object_room = rig->object_room ? 2 * rig->object_room : 64;
            rig->objects = realloc(rig->objects, rig->object_room * sizeof *rig->objects);
            CHECK(rig->objects);
        }
        object = &rig->objects[rig->object_count++];
        memcpy(object->key, found->key.at, found->key.len);
        object->key_len = found->key.len;
    }
    object->version = found->version;
    object->size = found->size;
    object->checksum = found->checksum;
    object->where = found->where;
}

static void on_opened(void *arg, int err)
{
    struct rig *rig = arg;
    rig->opened++;
    rig->open_err = err;
    loop_stop(rig->loop);
}

static void on_found(void *arg, const struct disk_found *found)
{
    struct rig *rig = arg;
    CHECK(found->key.len > 0 && found->key.len <= RECORD_KEY_MAX);
    rig->found_calls++;
    object_note(rig, found);
}

static void on_recovered(void *arg)
{
    struct rig *rig = arg;
    rig->recovered++;
    loop_stop(rig->loop);
}

static void segment_forget(struct rig *rig, const struct segment *segment)
{
    for (size_t i = rig->object_count; i-- > 0;)
        if (rig->objects[i].where.segment == segment)
            forget_at(rig, i);
}

static void given_up(struct disk_kill *kill, int err)
{
    struct rig *rig = CONTAINER_OF(kill, struct rig, give_up_kill);
    struct segment *segment = rig->giving_up;
    rig->giving_up = NULL;
    loop_stop(rig->loop);
    if (err)
        return;
    segment_forget(rig, segment);
    if (rig->unlink_later)
        rig->to_unlink = segment;
    else
        disk_segment_unlink(rig->disk, segment);
}

static bool on_full(void *arg)
{
    struct rig *rig = arg;
    rig->full_calls++;
    if (rig->giving_up)
        return true;
    struct segment *segment = NULL;
    while (rig->give_up && (segment = disk_segment_next(rig->disk, segment)))
        if (!segment_busy(segment))
            break;
    if (!segment || disk_segment_kill_start(rig->disk, &rig->give_up_kill, segment, given_up))
        return false;
    rig->giving_up = segment;
    return true;
}

static void on_gone(void *arg, struct segment *segment)
{
    struct rig *rig = arg;
    rig->gone_calls++;
    for (size_t i = 0; i < rig->object_count; i++)
        CHECK(rig->objects[i].where.segment != segment);
    loop_stop(rig->loop);
}

/* ---- opening and closing ---- */

void rig_open_start(struct rig *rig)
{
    static const struct disk_events events = {on_opened, on_found, on_recovered, on_full, on_gone};
    if (!rig->loop)
        rig_loop(rig);
    rig->opened = rig->recovered = rig->full_calls = rig->found_calls = rig->gone_calls = 0;
    rig->object_count = 0;
    struct disk_config config = {
        .dir = rig->dir,
        .cluster = "test",
        .node = rig->node ? rig->node : "node1",
        .limit_bytes = rig->limit_bytes,
        .segment_bytes = rig->segment_bytes,
        .read_split_bytes = rig->read_split_bytes,
        .unlink_delay_ms = rig->unlink_delay_ms,
        .keep_kills = rig->keep_kills,
    };
    CHECK(disk_new(&rig->disk, rig->loop, &rig->log, &config, &events, rig) == 0);
}

static bool is_open(void *arg)
{
    const struct rig *rig = arg;
    return rig->opened > 0 && (rig->open_err || rig->recovered > 0 || disk_state(rig->disk) == DISK_TRIPPED);
}

int rig_open(struct rig *rig)
{
    rig_open_start(rig);
    rig_until(rig, is_open, rig);
    CHECK(rig->opened == 1);
    return rig->open_err;
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

static void close_how(struct rig *rig, bool abandon)
{
    bool closed = false;
    disk_close(rig->disk, abandon, on_closed, &closed);
    rig_until(rig, flag_is_set, &closed);
    disk_free(rig->disk);
    rig->disk = NULL;
}

void rig_close(struct rig *rig)
{
    close_how(rig, false);
}

void rig_close_abandon(struct rig *rig)
{
    close_how(rig, true);
}

void rig_reopen(struct rig *rig)
{
    rig_close(rig);
    CHECK(rig_open(rig) == 0);
}

/* ---- values ---- */

static uint64_t value_word(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t value_seed(const char *key, uint64_t version)
{
    return XXH3_64bits_withSeed(key, strlen(key), version);
}

static uint8_t *value_make(const char *key, uint64_t version, uint64_t size)
{
    uint64_t words = size / 8 + 1;
    uint8_t *at = malloc(words * 8);
    CHECK(at);
    uint64_t seed = value_seed(key, version);
    for (uint64_t i = 0; i < words; i++)
        put_le64(at + 8 * i, value_word(seed, i));
    return at;
}

uint64_t rig_checksum(const char *key, uint64_t version, uint64_t size)
{
    uint8_t *at = value_make(key, version, size);
    uint64_t sum = XXH3_64bits(at, size);
    free(at);
    return sum;
}

struct blob *rig_blob(struct rig *rig, const char *key, uint64_t version, uint64_t size)
{
    struct blob *blob = blob_new(rig->pool, size);
    CHECK(blob && blob_grow_all(blob) == 0 && blob_sums_make(blob) == 0);
    uint8_t *at = value_make(key, version, size);
    for (uint64_t done = 0; done < size;) {
        size_t run;
        uint8_t *to = blob_at(blob, done, &run);
        run = min_u64(run, size - done);
        memcpy(to, at + done, run);
        done += run;
    }
    uint64_t *sums = blob_sums(blob);
    for (uint64_t i = 0; sums && i < blob_chunks(blob); i++)
        sums[i] = XXH3_64bits(at + i * POOL_CHUNK_BYTES, min_u64(POOL_CHUNK_BYTES, size - i * POOL_CHUNK_BYTES));
    free(at);
    if (size > 0)
        blob_zero_tail(blob);
    return blob;
}

bool rig_blob_is(const struct blob *blob, const char *key, uint64_t version, uint64_t offset)
{
    uint64_t size = blob_size(blob);
    uint8_t *at = value_make(key, version, offset + size);
    bool same = true;
    for (uint64_t done = 0; done < size && same;) {
        size_t run;
        const uint8_t *bytes = blob_at(blob, done, &run);
        run = min_u64(run, size - done);
        same = memcmp(bytes, at + offset + done, run) == 0;
        done += run;
    }
    free(at);
    return same;
}

/* ---- operations ---- */

static void write_done(struct disk_write *write, int err)
{
    struct rig_write *mine = CONTAINER_OF(write, struct rig_write, write);
    CHECK(!mine->done);
    mine->done = true;
    mine->err = err;
    loop_stop(mine->rig->loop);
}

struct rig_write *rig_write_start(struct rig *rig, const char *key, uint64_t version, uint64_t size)
{
    struct rig_write *mine = calloc(1, sizeof *mine);
    CHECK(mine);
    mine->rig = rig;
    mine->key = strdup(key);
    mine->write.key = span_text(mine->key);
    mine->write.version = version;
    mine->write.checksum = rig_checksum(key, version, size);
    mine->write.blob = rig_blob(rig, key, version, size);
    int err = disk_write_start(rig->disk, &mine->write, write_done);
    if (err) {
        mine->done = true;
        mine->err = err;
    }
    return mine;
}

void rig_write_free(struct rig_write *mine)
{
    blob_unref(mine->write.blob);
    free(mine->key);
    free(mine);
}

int rig_put(struct rig *rig, const char *key, uint64_t size)
{
    uint64_t version = disk_next_version(rig->disk);
    struct rig_write *mine = rig_write_start(rig, key, version, size);
    rig_until(rig, flag_is_set, &mine->done);
    int err = mine->err;
    if (!err) {
        struct disk_found found = {mine->write.key, version, size, mine->write.checksum, 0, mine->write.where};
        object_note(rig, &found);
    }
    rig_write_free(mine);
    return err;
}

static void read_done(struct disk_read *read, int err)
{
    struct rig_read *mine = CONTAINER_OF(read, struct rig_read, read);
    CHECK(!mine->done);
    mine->done = true;
    mine->err = err;
    loop_stop(mine->rig->loop);
}

void rig_read_start(struct rig *rig, struct rig_read *mine, const char *key, uint64_t offset, uint64_t length)
{
    const struct rig_object *object = rig_object(rig, key);
    CHECK(object);
    *mine = (struct rig_read){
        .read = {.where = object->where,
                 .key = span_text(key),
                 .version = object->version,
                 .size = object->size,
                 .checksum = object->checksum,
                 .offset = offset,
                 .length = length,
                 .blob = blob_new(rig->pool, length)},
        .rig = rig,
        .key = key,
    };
    CHECK(mine->read.blob && (length == 0 || blob_grow_all(mine->read.blob) == 0));
    int err = disk_read_start(rig->disk, &mine->read, read_done);
    if (err) {
        mine->done = true;
        mine->err = err;
    }
}

int rig_read_end(struct rig_read *mine)
{
    rig_until(mine->rig, flag_is_set, &mine->done);
    int err = mine->err;
    if (!err && !rig_blob_is(mine->read.blob, mine->key, mine->read.version, mine->read.offset))
        err = 1;
    blob_unref(mine->read.blob);
    return err;
}

int rig_get_range(struct rig *rig, const char *key, uint64_t offset, uint64_t length)
{
    struct rig_read mine;
    if (!rig_object(rig, key))
        return -ENOENT;
    rig_read_start(rig, &mine, key, offset, length);
    return rig_read_end(&mine);
}

int rig_get(struct rig *rig, const char *key)
{
    const struct rig_object *object = rig_object(rig, key);
    return object ? rig_get_range(rig, key, 0, object->size) : -ENOENT;
}

struct mine_kill {
    struct disk_kill kill;
    struct rig *rig;
    bool done;
    int err;
};

static void kill_done(struct disk_kill *kill, int err)
{
    struct mine_kill *mine = CONTAINER_OF(kill, struct mine_kill, kill);
    CHECK(!mine->done);
    mine->done = true;
    mine->err = err;
    loop_stop(mine->rig->loop);
}

int rig_kill(struct rig *rig, enum kill_kind kind, const char *name)
{
    struct mine_kill mine = {.rig = rig};
    mine.kill.kind = kind;
    mine.kill.name = kind == KILL_ALL ? (struct span){0} : span_text(name);
    mine.kill.version = disk_next_version(rig->disk);
    int err = disk_kill_start(rig->disk, &mine.kill, kill_done);
    if (err)
        return err;
    rig_until(rig, flag_is_set, &mine.done);
    return mine.err;
}

struct mine_sync {
    struct disk_sync sync;
    struct rig *rig;
    bool done;
    int err;
};

static void sync_done(struct disk_sync *sync, int err)
{
    struct mine_sync *mine = CONTAINER_OF(sync, struct mine_sync, sync);
    CHECK(!mine->done);
    mine->done = true;
    mine->err = err;
    loop_stop(mine->rig->loop);
}

int rig_sync_all(struct rig *rig)
{
    struct mine_sync mine = {.rig = rig};
    int err = disk_sync_all_start(rig->disk, &mine.sync, sync_done);
    if (err)
        return err;
    rig_until(rig, flag_is_set, &mine.done);
    return mine.err;
}

int rig_sync(struct rig *rig, const char *key)
{
    struct mine_sync mine = {.rig = rig};
    const struct rig_object *object = rig_object(rig, key);
    int err = object ? disk_sync_start(rig->disk, &mine.sync, &object->where, sync_done) : -ENOENT;
    if (err)
        return err;
    rig_until(rig, flag_is_set, &mine.done);
    return mine.err;
}

int rig_seal(struct rig *rig)
{
    struct mine_sync mine = {.rig = rig};
    int err = disk_seal_start(rig->disk, &mine.sync, sync_done);
    if (err)
        return err;
    rig_until(rig, flag_is_set, &mine.done);
    rig_settle(rig);
    return mine.err;
}

void rig_unlink(struct rig *rig)
{
    struct segment *segment = rig->to_unlink;
    CHECK(segment);
    rig->to_unlink = NULL;
    disk_segment_unlink(rig->disk, segment);
}

int rig_give_up(struct rig *rig, struct segment *segment)
{
    struct mine_kill mine = {.rig = rig};
    int err = disk_segment_kill_start(rig->disk, &mine.kill, segment, kill_done);
    if (err)
        return err;
    rig_until(rig, flag_is_set, &mine.done);
    if (mine.err)
        return mine.err;
    segment_forget(rig, segment);
    int gone = rig->gone_calls;
    disk_segment_unlink(rig->disk, segment);
    while (rig->gone_calls == gone)
        rig_turns(rig, 1);
    return 0;
}

struct rig_object *rig_object(struct rig *rig, const char *key)
{
    return object_find(rig, key, strlen(key));
}

void rig_forget(struct rig *rig, const char *key)
{
    const struct rig_object *object = rig_object(rig, key);
    if (object)
        forget_at(rig, (size_t)(object - rig->objects));
}

struct disk_figures rig_figures(const struct rig *rig)
{
    struct disk_figures figures;
    disk_get_figures(rig->disk, &figures);
    return figures;
}

/* ---- files ---- */

static void rig_folder(const struct rig *rig, char *path, size_t path_len)
{
    snprintf(path, path_len, "%s/test/node1", rig->dir);
}

static int names_compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static unsigned names_collect(const struct rig *rig, const char *suffix, char (**out)[256])
{
    char folder[400];
    rig_folder(rig, folder, sizeof folder);
    char(*names)[256] = calloc(1024, sizeof *names);
    CHECK(names);
    unsigned count = 0;
    DIR *at = opendir(folder);
    for (struct dirent *entry; at && count < 1024 && (entry = readdir(at));) {
        size_t len = strlen(entry->d_name);
        if (len >= strlen(suffix) && strcmp(entry->d_name + len - strlen(suffix), suffix) == 0 && entry->d_name[0] != '.')
            snprintf(names[count++], sizeof names[0], "%s", entry->d_name);
    }
    if (at)
        closedir(at);
    qsort(names, count, sizeof names[0], names_compare);
    *out = names;
    return count;
}

bool rig_file(const struct rig *rig, const char *suffix, unsigned n, char *path, size_t path_len)
{
    char(*names)[256];
    char folder[400];
    rig_folder(rig, folder, sizeof folder);
    unsigned count = names_collect(rig, suffix, &names);
    if (n < count)
        snprintf(path, path_len, "%s/%s", folder, names[n]);
    free(names);
    return n < count;
}

unsigned rig_file_count(const struct rig *rig, const char *suffix)
{
    char(*names)[256];
    unsigned count = names_collect(rig, suffix, &names);
    free(names);
    return count;
}

uint64_t rig_files_bytes(const struct rig *rig, const char *suffix)
{
    uint64_t bytes = 0;
    char path[700];
    for (unsigned i = 0; rig_file(rig, suffix, i, path, sizeof path); i++) {
        struct stat st;
        if (stat(path, &st) == 0)
            bytes += (uint64_t)st.st_size;
    }
    return bytes;
}

uint8_t *rig_file_load(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    CHECK(file);
    struct stat st;
    CHECK(fstat(fileno(file), &st) == 0);
    *len = (size_t)st.st_size;
    uint8_t *at = malloc(*len + 1);
    CHECK(at && fread(at, 1, *len, file) == *len);
    fclose(file);
    return at;
}

void rig_file_store(const char *path, const uint8_t *at, size_t len)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(at, 1, len, file) == len);
    CHECK(fclose(file) == 0);
}

void rig_file_flip(const char *path, uint64_t offset, uint8_t mask)
{
    FILE *file = fopen(path, "r+b");
    CHECK(file && fseek(file, (long)offset, SEEK_SET) == 0);
    int byte = fgetc(file);
    CHECK(byte != EOF && fseek(file, (long)offset, SEEK_SET) == 0);
    CHECK(fputc(byte ^ mask, file) != EOF && fclose(file) == 0);
}
