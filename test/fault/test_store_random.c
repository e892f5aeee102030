/* The store against a model: puts, gets, removes, leases and pins on a few keys, while the disk ends its work in any order, fails, gives
 * segments up, and the process dies and starts again. After each step: what must never come back cannot, what was said to be on disk is
 * there, who holds a lease has it, and the figures add up. Seeded: a failure says its seed and step. */
#include "test/support/store_bench.h"

enum { KEYS = 6, OPS = 24, STEPS = 3000, NAME_BYTES = 4 };

static const char names[KEYS][NAME_BYTES] = {"a0", "a1", "a2", "b0", "b1", "b2"};

struct key_model {
    uint64_t floor;       /* versions up to this one are not to be seen by whoever asks now */
    uint64_t floor_crash; /* nor by whoever asks after a restart */
    unsigned wishes;      /* replaces and removes under way, which may take effect at any moment */
    unsigned wishes_many; /* removes of many among them: dead on disk before they are gone from the table */
    bool leased;
    uint64_t leased_checksum, leased_version, leased_lost;
    uint64_t lost; /* how often its bytes were found wrong, or dropped for the sake of versions */
};

/* All values that were ever put, by number. */
struct value {
    unsigned key;
    uint64_t size, checksum;
    bool replace;
};

enum op_kind { OP_FREE, OP_PUT, OP_GET, OP_REMOVE, OP_REMOVE_MANY, OP_SYNC };

struct op {
    enum op_kind kind;
    unsigned key; /* KEYS: all */
    uint64_t number, version, lost;
    bool committed;
    struct put put;
    struct get get;
    struct removing removing;
    struct store_sync sync;
};

static struct {
    uint64_t seed, state, step;
    struct key_model keys[KEYS];
    struct value *values;
    uint64_t value_count, value_room;
    struct op ops[OPS];
    uint64_t lease;
    uint64_t found_added;
    bool crashed;
    bool safe_reads; /* wrong bytes are not to be found any more */
    struct fake_record *announce[4096];
    unsigned announce_count;
} model;

static uint64_t random_below(uint64_t below)
{
    model.state += 0x9e3779b97f4a7c15u;
    return mix(model.state) % below;
}

static bool random_coin(void)
{
    return random_below(2) == 0;
}

static bool one_in(uint64_t n)
{
    return random_below(n) == 0;
}

#define expect(cond, what) \
    cr_assert(cond, "%s (seed %llu, step %llu)", what, (unsigned long long)model.seed, (unsigned long long)model.step)

static bool key_in(unsigned key, unsigned of)
{
    return of == KEYS || key == of;
}

static bool prefix_in(unsigned key, const char *prefix)
{
    return strncmp(names[key], prefix, strlen(prefix)) == 0;
}

static struct op *op_new(enum op_kind kind, unsigned key)
{
    for (unsigned i = 0; i < OPS; i++)
        if (model.ops[i].kind == OP_FREE) {
            struct op *op = &model.ops[i];
            memset(op, 0, sizeof *op);
            op->kind = kind;
            op->key = key;
            return op;
        }
    return NULL;
}

static void raise(uint64_t *floor, uint64_t version)
{
    *floor = max_u64(*floor, version);
}

/* ---- puts ---- */

static uint64_t value_new(unsigned key, uint64_t size, bool replace)
{
    if (model.value_count == model.value_room) {
        model.value_room = model.value_room ? 2 * model.value_room : 256;
        model.values = realloc(model.values, model.value_room * sizeof *model.values);
        cr_assert_not_null(model.values);
    }
    uint8_t *bytes = malloc(size + 1);
    cr_assert_not_null(bytes);
    value_fill(model.value_count, 0, bytes, size);
    model.values[model.value_count] = (struct value){key, size, XXH3_64bits(bytes, size), replace};
    free(bytes);
    return model.value_count++;
}

/* "On disk": synced, and nothing that is not somebody's wish makes it dead. */
static void expect_on_disk(const struct op *op)
{
    struct store_stat stat;
    const struct key_model *key = &model.keys[op->key];
    if (store_stat(bench.store, span_text(names[op->key]), &stat) != STORE_OK) {
        expect(key->floor >= op->put.put.version || key->wishes > 0 || key->lost > op->lost, "said to be on disk and is not even there");
        return;
    }
    bool other = stat.checksum != model.values[op->number].checksum || stat.size < 8; /* tiny values are not told apart */
    if (key->wishes_many > 0 || key->floor >= op->put.put.version || (other && stat.version > op->put.put.version))
        return; /* superseded */
    bool safe = false;
    for (struct list *at = bench.disk->records.next; at != &bench.disk->records; at = at->next) {
        const struct fake_record *record = CONTAINER_OF(at, struct fake_record, link);
        bool same = record->state == RECORD_SYNCED && record->checksum == stat.checksum &&
                    strncmp((const char *)record->key, names[op->key], 2) == 0;
        safe |= same && (key->wishes > 0 ? !fake_is_dead(bench.disk, record) : !fake_may_be_dead(bench.disk, record));
    }
    expect(safe, "said to be on disk and may be gone after a restart");
}

static void put_done(struct op *op, int outcome)
{
    struct key_model *key = &model.keys[op->key];
    key->wishes -= op->put.put.replace;
    op->kind = OP_FREE;
    if (model.crashed)
        return;
    if (outcome == STORE_OK && op->put.put.replace) {
        raise(&key->floor, op->put.put.version - 1);
        raise(&key->floor_crash, op->put.put.version - 1);
    }
    if (outcome >= 0 && op->put.put.ack_disk)
        expect_on_disk(op);
}

static void put_called(struct store_put *store_put, int outcome)
{
    struct op *op = CONTAINER_OF(store_put, struct op, put.put);
    expect(op->kind == OP_PUT && op->committed, "answered twice, or too early");
    put_done(op, outcome);
}

static void put_end(struct op *op)
{
    op->committed = true;
    int outcome = store_put_commit(&op->put.put, put_called);
    if (outcome != STORE_PENDING)
        put_done(op, outcome);
}

static void step_put(void)
{
    static const uint64_t sizes[] = {0, 1, 100, 4096, 5000, 9000, 20000, 70000, 300000, 1200000};
    struct op *op = op_new(OP_PUT, (unsigned)random_below(KEYS));
    if (!op)
        return;
    bool replace = one_in(3);
    uint64_t size = sizes[random_below(one_in(8) ? 10 : 7)];
    op->number = value_new(op->key, size, replace);
    op->lost = model.keys[op->key].lost;
    unsigned flags = (replace ? REPLACE : 0) | (one_in(3) ? ACK_DISK : 0) | (one_in(10) ? PIN : 0);
    model.keys[op->key].wishes += replace;
    int outcome = put_begin(&op->put, names[op->key], flags, op->number, size);
    if (outcome == STORE_PRESENT) {
        op->committed = true;
        outcome = store_put_present(&op->put.put, put_called);
        if (outcome != STORE_PENDING)
            put_done(op, outcome);
    } else if (outcome == STORE_OK && one_in(4)) {
        (void)put_feed(&op->put, size / 2); /* the rest comes later */
    } else if (outcome == STORE_OK && put_feed(&op->put, size) == 0) {
        put_end(op);
    } else {
        store_put_abort(&op->put.put);
        put_done(op, KVD_EBUSY);
    }
}

static struct op *random_op(enum op_kind kind)
{
    unsigned from = (unsigned)random_below(OPS);
    for (unsigned i = 0; i < OPS; i++)
        if (model.ops[(from + i) % OPS].kind == kind)
            return &model.ops[(from + i) % OPS];
    return NULL;
}

static void step_put_goes_on(void)
{
    struct op *op = random_op(OP_PUT);
    if (!op || op->committed)
        return;
    if (one_in(3) || put_feed(&op->put, op->put.put.size) != 0) {
        store_put_abort(&op->put.put);
        put_done(op, KVD_EBUSY);
        return;
    }
    put_end(op);
}

/* ---- gets ---- */

static void get_done(struct op *op, int outcome)
{
    struct store_get *get = &op->get.get;
    op->kind = OP_FREE;
    if (outcome != STORE_OK)
        return;
    expect(get->version > op->version, "a value that was removed or replaced came back");
    uint64_t number = 0;
    while (number < model.value_count && (model.values[number].checksum != get->checksum || model.values[number].size != get->size ||
                                          (get->size > 0 && model.values[number].key != op->key)))
        number++;
    expect(number < model.value_count, "nobody put this");
    expect(get->blob_length == get->size - get->offset || get->length != UINT64_MAX, "it is cut");
    size_t run;
    for (uint64_t at = 0; at < get->blob_length; at += run) {
        const uint8_t *here = blob_at(get->blob, get->blob_offset + at, &run);
        run = min_u64(run, get->blob_length - at);
        expect(value_is(number, get->offset + at, here, run), "wrong bytes");
    }
    if (get->blob)
        store_unref(bench.store, get->blob);
}

static void get_called(struct store_get *store_get, int outcome)
{
    struct op *op = CONTAINER_OF(store_get, struct op, get.get);
    expect(op->kind == OP_GET, "answered twice");
    get_done(op, outcome);
}

static void step_get(void)
{
    struct op *op = op_new(OP_GET, (unsigned)random_below(KEYS));
    if (!op)
        return;
    op->version = model.keys[op->key].floor;
    op->get.get.key = span_text(names[op->key]);
    op->get.get.length = UINT64_MAX;
    if (one_in(4)) {
        op->get.get.offset = random_below(400000);
        op->get.get.length = random_below(100000);
    }
    int outcome = store_get_start(&bench.store->home, &op->get.get, get_called);
    if (outcome != STORE_PENDING)
        get_done(op, outcome);
}

static void step_get_cancel(void)
{
    struct op *op = random_op(OP_GET);
    if (!op)
        return;
    store_get_cancel(&op->get.get);
    op->kind = OP_FREE;
}

/* ---- removes ---- */

static void remove_done(struct op *op, int outcome)
{
    bool many = op->kind == OP_REMOVE_MANY;
    op->kind = OP_FREE;
    for (unsigned i = 0; i < KEYS; i++) {
        if (many ? !(op->key == KEYS || prefix_in(i, "a")) : !key_in(i, op->key))
            continue;
        model.keys[i].wishes--;
        model.keys[i].wishes_many -= many;
        if (model.crashed)
            continue;
        raise(&model.keys[i].floor, op->version);
        if (outcome == STORE_OK)
            raise(&model.keys[i].floor_crash, op->version);
    }
}

static void remove_called(struct store_remove *store_remove, int outcome)
{
    struct op *op = CONTAINER_OF(store_remove, struct op, removing.remove);
    expect(op->kind == OP_REMOVE || op->kind == OP_REMOVE_MANY, "answered twice");
    remove_done(op, outcome);
}

static void step_remove(void)
{
    struct op *op = op_new(OP_REMOVE, (unsigned)random_below(KEYS));
    if (!op)
        return;
    struct span key = span_text(names[op->key]);
    op->version = bench.disk->version;
    model.keys[op->key].wishes++;
    int outcome = store_remove_start(&bench.store->home, &op->removing.remove, &key, 1, remove_called);
    raise(&model.keys[op->key].floor, op->version);
    if (outcome != STORE_PENDING)
        remove_done(op, outcome);
}

static void step_remove_many(void)
{
    bool all = one_in(2);
    struct op *op = op_new(OP_REMOVE_MANY, all ? KEYS : 0);
    if (!op)
        return;
    op->version = bench.disk->version;
    for (unsigned i = 0; i < KEYS; i++) {
        model.keys[i].wishes += all || prefix_in(i, "a");
        model.keys[i].wishes_many += all || prefix_in(i, "a");
    }
    int outcome = store_remove_many_start(&bench.store->home, &op->removing.remove, all ? KILL_ALL : KILL_PREFIX,
                                          all ? span_of(NULL, 0) : span_text("a"), remove_called);
    expect(outcome == STORE_PENDING, "removal of many is answered at once");
}

/* ---- leases, pins, syncs ---- */

static void step_lease(void)
{
    struct span keys[KEYS];
    unsigned count = 0;
    unsigned first = (unsigned)random_below(KEYS);
    for (unsigned i = first; i < KEYS; i++)
        keys[count++] = span_text(names[i]);
    struct store_matched matched;
    store_match(bench.store, keys, count, 3600 * 1000, one_in(2), &bench.owner, &matched);
    for (unsigned i = 0; i < matched.count; i++) {
        struct key_model *key = &model.keys[first + i];
        key->leased = true;
        key->leased_checksum = stat_of(names[first + i]).checksum;
        key->leased_version = stat_of(names[first + i]).version;
        key->leased_lost = key->lost;
    }
}

static void step_release(void)
{
    store_owner_end(bench.store, &bench.owner);
    for (unsigned i = 0; i < KEYS; i++)
        model.keys[i].leased = false;
}

static void step_pin(void)
{
    (void)pin(names[random_below(KEYS)], one_in(3));
}

static void sync_called(struct store_sync *sync, int err)
{
    (void)err;
    struct op *op = CONTAINER_OF(sync, struct op, sync);
    expect(op->kind == OP_SYNC, "answered twice");
    op->kind = OP_FREE;
}

static void step_sync(void)
{
    struct op *op = op_new(OP_SYNC, 0);
    if (op && store_sync_start(&bench.store->home, &op->sync, one_in(3), sync_called) != STORE_PENDING)
        op->kind = OP_FREE;
}

/* ---- the disk ---- */

static struct disk_write *random_write(struct list *head)
{
    unsigned count = fake_count(head);
    return count > 0 ? fake_write_at(head, (unsigned)random_below(count)) : NULL;
}

static bool disk_is_on(void)
{
    return bench.disk->state == DISK_ON || bench.disk->state == DISK_RECOVERING;
}

static void step_write(void)
{
    struct disk_write *queued = list_empty(&bench.disk->queue) ? NULL : fake_write_at(&bench.disk->queue, 0);
    if (!queued || !disk_is_on())
        return;
    if (one_in(30))
        fake_write_end(bench.disk, queued, KVD_EFULL);
    else
        fake_write_run(bench.disk, queued);
}

static void step_written(void)
{
    struct disk_write *write = random_write(&bench.disk->running);
    if (!write)
        return;
    uint64_t what = random_below(20);
    if (what == 0 && write->attempts < 2)
        fake_write_again(bench.disk, write);
    else
        fake_write_end(bench.disk, write, what < 3 ? -EIO : 0);
}

static void step_kill(void)
{
    if (disk_is_on() && !list_empty(&bench.disk->kills))
        fake_kill_end(bench.disk, one_in(8) ? -EIO : 0);
}

static void step_synced(void)
{
    unsigned count = fake_count(&bench.disk->syncs);
    if (count > 0)
        fake_sync_end(bench.disk, (unsigned)random_below(count), one_in(8) ? -EIO : 0);
}

static void step_read(void)
{
    static const int outcomes[] = {-EIO, KVD_ECORRUPT, KVD_ESHORT};
    unsigned count = fake_count(&bench.disk->reads);
    if (count == 0)
        return;
    unsigned index = (unsigned)random_below(count);
    int err = one_in(5) ? outcomes[random_below(model.safe_reads ? 1 : 3)] : 0;
    const struct disk_read *read = CONTAINER_OF(fake_at(&bench.disk->reads, index), struct disk_read, link);
    for (unsigned i = 0; i < KEYS; i++)
        if (err && err != -EIO && span_equal(read->key, span_text(names[i])))
            model.keys[i].lost++;
    fake_read_end(bench.disk, index, err);
}

static void step_room(void)
{
    if (bench.disk->state == DISK_ON)
        (void)bench.disk->events.full(bench.disk->arg);
}

static void step_seal(void)
{
    fake_seal(bench.disk);
}

static void step_reap(void)
{
    fake_reap(bench.disk);
}

static void step_turn(void)
{
    turns(1 + (unsigned)random_below(3));
}

static void step_persist(void)
{
    static const enum persist policies[] = {PERSIST_WRITE_THROUGH, PERSIST_ON_EVICT, PERSIST_SECOND_TOUCH, PERSIST_NONE};
    store_set_persist(bench.store, policies[random_below(4)]);
    store_set_when_behind(bench.store, random_coin() ? BEHIND_SHED : BEHIND_WAIT);
}

/* What must leave memory for others to come. */
static void step_squeeze(void)
{
    struct blob *blob = blob_new(bench.store->pool, 512 * 1024 + random_below(2 * MIB));
    cr_assert_not_null(blob);
    (void)evict_for(bench.store, blob, true);
    store_unref(bench.store, blob);
}

/* ---- death and start ---- */

static void gather_announcements(void)
{
    model.announce_count = 0;
    for (struct list *at = bench.disk->records.next; at != &bench.disk->records; at = at->next) {
        cr_assert_lt(model.announce_count, 4096);
        model.announce[model.announce_count++] = CONTAINER_OF(at, struct fake_record, link);
    }
}

/* One thing more of the start: open, a record, the end. */
static void step_start(void)
{
    if (bench.disk->state == DISK_OPENING) {
        gather_announcements();
        fake_opened(bench.disk, 0, 0);
    } else if (bench.disk->state == DISK_RECOVERING && model.announce_count > 0) {
        unsigned index = (unsigned)random_below(model.announce_count);
        struct fake_record *record = model.announce[index];
        model.announce[index] = model.announce[--model.announce_count];
        uint64_t before = info().table.objects;
        fake_found(bench.disk, record);
        model.found_added += info().table.objects - before;
    } else if (bench.disk->state == DISK_RECOVERING) {
        fake_recovered(bench.disk);
    }
}

static void abort_bodies(void)
{
    for (unsigned i = 0; i < OPS; i++)
        if (model.ops[i].kind == OP_PUT && !model.ops[i].committed) {
            store_put_abort(&model.ops[i].put.put);
            put_done(&model.ops[i], KVD_EBUSY);
        }
}

static void die_and_start(void)
{
    fake_crash(bench.disk, random_coin);
    abort_bodies();
    model.crashed = true;
    bench_close();
    model.crashed = false;
    for (unsigned i = 0; i < OPS; i++)
        expect(model.ops[i].kind == OP_FREE, "something was never answered");
    for (unsigned i = 0; i < KEYS; i++) {
        struct key_model *key = &model.keys[i];
        expect(key->wishes == 0, "something was never answered");
        *key = (struct key_model){.floor = key->floor_crash, .floor_crash = key->floor_crash, .lost = key->lost};
    }
    model.found_added = 0;
    struct store_config config = bench_config();
    bench_begin(&config);
}

/* ---- what always holds ---- */

static void check_key(unsigned index)
{
    struct key_model *key = &model.keys[index];
    struct span span = span_text(names[index]);
    expect(!fake_may_rise(bench.disk, span, key->floor_crash), "a restart could bring back what is gone for good");
    struct store_stat stat;
    bool there = store_stat(bench.store, span, &stat) == STORE_OK;
    expect(!there || stat.version > key->floor, "what was removed or replaced is still there");
    if (key->leased && !(there && stat.checksum == key->leased_checksum)) {
        bool wished = there ? stat.version > key->leased_version : key->floor >= key->leased_version || key->wishes_many > 0;
        expect(wished || key->lost > key->leased_lost, "a leased object is gone");
        key->leased = false;
    }
    if (!there)
        return;
    for (uint64_t i = 0; i < model.value_count; i++) {
        const struct value *value = &model.values[i];
        if (value->key != index || value->checksum != stat.checksum || value->size < 8 || !value->replace)
            continue;
        for (struct list *at = bench.disk->records.next; at != &bench.disk->records; at = at->next) {
            const struct fake_record *record = CONTAINER_OF(at, struct fake_record, link);
            bool older = record->version < stat.version && record->checksum != stat.checksum;
            if (older && span_equal(span, span_of(record->key, record->key_len)))
                expect(fake_is_dead(bench.disk, record), "a replace is shown before the old value's death is durable");
        }
    }
}

static void check_all(void)
{
    for (unsigned i = 0; i < KEYS; i++)
        check_key(i);
    struct store_info now = info();
    const struct store_figures *f = &now.figures;
    uint64_t gone = f->removed + f->puts_replaced + f->dropped_evicted + f->dropped_untouched + f->dropped_shed + f->dropped_reclaimed +
                    f->dropped_corrupt + f->dropped_short + f->dropped_versions + f->expired;
    expect(f->found == model.found_added, "what was found is miscounted");
    expect(f->puts + f->found == now.table.objects + gone, "the figures do not add up");
    expect(f->reclaimed_segments > 0 || now.held_memory_only_bytes <= now.memory_limit_bytes / 2, "too much is held in memory alone");
    expect(now.table.objects <= KEYS, "there are more objects than keys");
}

static void step(void)
{
    static const struct {
        void (*fn)(void);
        unsigned weight;
    } steps[] = {
        {step_put, 14},  {step_put_goes_on, 4}, {step_get, 10},    {step_get_cancel, 1}, {step_remove, 5}, {step_remove_many, 1},
        {step_lease, 3}, {step_release, 2},     {step_pin, 2},     {step_sync, 1},       {step_write, 10}, {step_written, 10},
        {step_kill, 12}, {step_synced, 8},      {step_read, 8},    {step_room, 2},       {step_seal, 2},   {step_reap, 2},
        {step_turn, 12}, {step_persist, 1},     {step_squeeze, 4}, {step_start, 6},
    };
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        sum += steps[i].weight;
    uint64_t pick = random_below(sum);
    size_t i = 0;
    for (; pick >= steps[i].weight; i++)
        pick -= steps[i].weight;
    steps[i].fn();
}

static void run(uint64_t seed)
{
    memset(&model, 0, sizeof model);
    model.seed = seed;
    model.state = seed * 7919;
    model.safe_reads = seed % 3 == 0;
    struct store_config config = bench_config();
    bench_begin(&config);
    for (; model.step < STEPS; model.step++) {
        step();
        check_all();
        if (one_in(500))
            die_and_start();
    }
    while (bench.disk->state != DISK_ON)
        step_start();
    abort_bodies();
    settle();
    model.crashed = true; /* the bench's own removal is not in the model */
    fake_read_all(bench.disk);
    settle();
    expect_nothing_leaks();
    for (unsigned i = 0; i < OPS; i++)
        expect(model.ops[i].kind == OP_FREE, "something was never answered");
    bench_close();
    free(model.values);
}

Test(store_random, whatever_the_disk_does_the_promises_hold, .timeout = 120)
{
    const char *only = getenv("SEED");
    for (uint64_t seed = 1; seed <= 12; seed++)
        if (!only || strtoull(only, NULL, 10) == seed)
            run(seed);
    if (only && strtoull(only, NULL, 10) > 12)
        run(strtoull(only, NULL, 10));
}
