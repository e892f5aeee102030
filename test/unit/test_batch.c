/* Records of many keys in one bin. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "proto/batch.h"

enum { ROOM = 4096 };

static const struct batch_object two_replicas = {
    .version = 0x0102030405060708,
    .size = 17,
    .checksum = 0x1112131415161718,
    .end_ms = 1700000000000,
    .pinned = true,
    .count = 3,
    .replicas = {{.node = 0, .memory = true},
                 {.node = 2, .memory = true, .disk = true, .place = {7, 8, 9}},
                 {.node = BATCH_FOLDERS, .disk = true, .place = {BATCH_SEQUENCE_MAX, UINT32_MAX - 1, 1}}},
};

static const uint8_t object_bytes[] = {
    1, 2, 3,    4,    5,    6,    7,    8, 0, 0, 0, 0,    0,    0,    0,    17,   0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
    0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0, 1, 3, 0, 1,    2,    3,    0,    0,    0,    0,    0,    0,    0,    7,    0,    0,
    0, 8, 0,    0,    0,    9,    128,  2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0,    0,    0,    1};

static bool object_equal(const struct batch_object *a, const struct batch_object *b)
{
    bool same = a->version == b->version && a->size == b->size && a->checksum == b->checksum && a->end_ms == b->end_ms &&
                a->pinned == b->pinned && a->leased == b->leased && a->replace == b->replace && a->count == b->count;
    for (unsigned i = 0; same && i < a->count; i++) {
        const struct batch_replica *x = &a->replicas[i], *y = &b->replicas[i];
        same = x->node == y->node && x->memory == y->memory && x->disk == y->disk && x->place.sequence == y->place.sequence &&
               x->place.block == y->place.block && x->place.blocks == y->place.blocks;
    }
    return same;
}

/* Of a copy that ends where the bytes end. */
static int count(enum batch_kind kind, const uint8_t *at, size_t len)
{
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, at, len);
    uint8_t *tail = realloc(copy, len ? len : 1);
    int got = batch_count(kind, span_of(tail, len));
    free(tail);
    return got;
}

Test(batch, an_object_there_and_back)
{
    uint8_t bytes[ROOM];
    struct batch batch = {.at = bytes, .room = sizeof bytes};
    struct batch_object none = {0}, back;
    cr_assert(batch_put_object(&batch, &two_replicas) && batch_put_object(&batch, &none));
    cr_assert_eq(batch.len, sizeof object_bytes + BATCH_OBJECT_BYTES);
    cr_assert_arr_eq(bytes, object_bytes, sizeof object_bytes);
    struct span left = span_of(bytes, batch.len);
    cr_assert_eq(batch_count(BATCH_OBJECT, left), 2);
    batch_take_object(&left, &back);
    cr_assert(object_equal(&back, &two_replicas));
    batch_take_object(&left, &back);
    cr_assert(object_equal(&back, &none) && left.len == 0);
}

Test(batch, the_longest_object)
{
    uint8_t bytes[BATCH_OBJECT_MOST];
    struct batch batch = {.at = bytes, .room = sizeof bytes};
    struct batch_object most = {.version = UINT64_MAX, .size = BATCH_SIZE_MAX, .leased = true, .replace = true}, back;
    for (; most.count < BATCH_REPLICAS_MAX; most.count++)
        most.replicas[most.count] = (struct batch_replica){.node = most.count, .disk = true, .place = {1, 0, UINT32_MAX}};
    cr_assert(batch_put_object(&batch, &most) && batch.len == sizeof bytes);
    struct span left = span_of(bytes, batch.len);
    cr_assert_eq(batch_count(BATCH_OBJECT, left), 1);
    batch_take_object(&left, &back);
    cr_assert(object_equal(&back, &most));
    uint8_t more[BATCH_OBJECT_MOST + BATCH_REPLICA_BYTES];
    memcpy(more, bytes, sizeof bytes);
    more[BATCH_OBJECT_BYTES - 1]++;
    more[sizeof bytes] = BATCH_REPLICAS_MAX;
    more[sizeof bytes + 1] = 1;
    cr_assert_eq(count(BATCH_OBJECT, more, sizeof more), KVD_EPROTO, "a replica too many");
}

Test(batch, whatever_is_cut_off_or_has_something_behind_it_is_none)
{
    uint8_t more[sizeof object_bytes + 1] = {0};
    memcpy(more, object_bytes, sizeof object_bytes);
    for (size_t len = 1; len < sizeof object_bytes; len++)
        cr_assert_eq(count(BATCH_OBJECT, object_bytes, len), KVD_EPROTO, "%zu", len);
    cr_assert_eq(count(BATCH_OBJECT, object_bytes, 0), 0);
    cr_assert_eq(count(BATCH_OBJECT, object_bytes, sizeof object_bytes), 1);
    cr_assert_eq(count(BATCH_OBJECT, more, sizeof more), KVD_EPROTO);
}

/* One byte of the object is another: is it still one? */
static int count_with(size_t at, uint8_t byte)
{
    uint8_t bytes[sizeof object_bytes];
    memcpy(bytes, object_bytes, sizeof bytes);
    bytes[at] = byte;
    return count(BATCH_OBJECT, bytes, sizeof bytes);
}

Test(batch, what_no_object_can_be)
{
    cr_assert_eq(count_with(11, 0x10), KVD_EPROTO, "a size of 2^36");
    cr_assert_eq(count_with(11, 0x0f), 1);
    cr_assert_eq(count_with(32, 8), KVD_EPROTO, "a flag that nobody knows");
    cr_assert_eq(count_with(33, 2), KVD_EPROTO, "fewer replicas than there are");
    cr_assert_eq(count_with(33, 4), KVD_EPROTO, "more");
    cr_assert_eq(count_with(33, 255), KVD_EPROTO);
    cr_assert_eq(count_with(35, 0), KVD_EPROTO, "a replica that is nowhere");
    cr_assert_eq(count_with(35, 4), KVD_EPROTO, "or where nobody knows");
    cr_assert_eq(count_with(36, 0), KVD_EPROTO, "a node twice");
    cr_assert_eq(count_with(34, 3), KVD_EPROTO, "nodes that do not rise");
    cr_assert_eq(count_with(45, 0), KVD_EPROTO, "segment 0");
    cr_assert_eq(count_with(40, 1), KVD_EPROTO, "a segment that cannot be");
    cr_assert_eq(count_with(53, 0), KVD_EPROTO, "no blocks");
    cr_assert_eq(count_with(71, 2), KVD_EPROTO, "blocks beyond the last there can be");
}

Test(batch, a_holding_there_and_back)
{
    uint8_t bytes[ROOM];
    struct batch batch = {.at = bytes, .room = sizeof bytes};
    const struct batch_holding some[] = {{0},
                                         {.version = 5, .memory = true},
                                         {.version = 6, .disk = true, .place = {1, 2, 3}},
                                         {.version = 7, .memory = true, .disk = true, .place = {4, 5, 6}}};
    for (size_t i = 0; i < 4; i++)
        cr_assert(batch_put_holding(&batch, &some[i]));
    struct span left = span_of(bytes, batch.len);
    cr_assert(batch.len == 4 * (size_t)BATCH_HOLDING_BYTES && batch_count(BATCH_HOLDING, left) == 4);
    for (size_t i = 0; i < 4; i++) {
        struct batch_holding back;
        batch_take_holding(&left, &back);
        cr_assert(back.version == some[i].version && back.memory == some[i].memory && back.disk == some[i].disk);
        cr_assert(back.place.sequence == some[i].place.sequence && back.place.block == some[i].place.block &&
                  back.place.blocks == some[i].place.blocks);
    }
}

Test(batch, what_no_holding_can_be)
{
    uint8_t bytes[BATCH_HOLDING_BYTES] = {0};
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), 1);
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes - 1), KVD_EPROTO);
    bytes[7] = 1;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), KVD_EPROTO, "a version, and nothing of it");
    bytes[8] = 4;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), KVD_EPROTO, "it is where nobody knows");
    bytes[8] = 1;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), 1);
    bytes[24] = 1;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), KVD_EPROTO, "a place, and not on disk");
    bytes[8] = 3;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), KVD_EPROTO, "in no segment");
    bytes[16] = 1;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), 1);
    bytes[8] = 4;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), KVD_EPROTO);
    bytes[8] = 3;
    bytes[7] = 0;
    cr_assert_eq(count(BATCH_HOLDING, bytes, sizeof bytes), KVD_EPROTO, "something, and no version");
}

Test(batch, answers_and_versions)
{
    static const uint8_t wanted[] = {1, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0};
    uint8_t bytes[ROOM];
    struct batch batch = {.at = bytes, .room = sizeof bytes};
    cr_assert(batch_put_answer(&batch, &(struct batch_answer){CODE_PRESENT, 256}));
    cr_assert(batch_put_answer(&batch, &(struct batch_answer){CODE_NOT_FOUND, 0}));
    cr_assert_eq(batch.len, sizeof wanted);
    cr_assert_arr_eq(bytes, wanted, sizeof wanted);
    struct span left = span_of(bytes, batch.len);
    struct batch_answer answer;
    cr_assert_eq(batch_count(BATCH_ANSWER, left), 2);
    batch_take_answer(&left, &answer);
    cr_assert(answer.code == CODE_PRESENT && answer.version == 256 && left.len == BATCH_ANSWER_BYTES);
    bytes[0] = 99;
    cr_assert_eq(count(BATCH_ANSWER, bytes, batch.len), KVD_EPROTO, "a code that nobody knows");
    cr_assert_eq(count(BATCH_ANSWER, wanted, sizeof wanted - 1), KVD_EPROTO);
    batch.len = 0;
    cr_assert(batch_put_version(&batch, 258) && batch_put_version(&batch, 3));
    left = span_of(bytes, batch.len);
    uint64_t version;
    cr_assert_eq(batch_count(BATCH_VERSION, left), 2);
    batch_take_version(&left, &version);
    cr_assert(version == 258 && left.len == BATCH_VERSION_BYTES);
    cr_assert_eq(count(BATCH_VERSION, bytes, 15), KVD_EPROTO);
}

Test(batch, kills)
{
    static const uint8_t wanted[] = {1, 0, 0, 0, 0, 0, 0,   0, 9, 0, 2, 'a', 'b', 2, 0, 0, 0, 0,
                                     0, 0, 0, 8, 0, 1, 'a', 3, 0, 0, 0, 0,   0,   0, 0, 7, 0, 0};
    uint8_t bytes[ROOM];
    struct batch batch = {.at = bytes, .room = sizeof bytes};
    cr_assert(batch_put_kill(&batch, &(struct batch_kill){BATCH_KILL_KEY, 9, span_text("ab")}));
    cr_assert(batch_put_kill(&batch, &(struct batch_kill){BATCH_KILL_PREFIX, 8, span_text("a")}));
    cr_assert(batch_put_kill(&batch, &(struct batch_kill){.kind = BATCH_KILL_ALL, .version = 7}));
    cr_assert_eq(batch.len, sizeof wanted);
    cr_assert_arr_eq(bytes, wanted, sizeof wanted);
    struct span left = span_of(bytes, batch.len);
    struct batch_kill kill;
    cr_assert_eq(batch_count(BATCH_KILL, left), 3);
    batch_take_kill(&left, &kill);
    cr_assert(kill.kind == BATCH_KILL_KEY && kill.version == 9 && span_equal(kill.name, span_text("ab")));
    for (size_t len = 1; len < sizeof wanted; len++)
        cr_assert_eq(count(BATCH_KILL, wanted, len) < 0, len != 13 && len != 25, "%zu", len);
    bytes[0] = 4;
    cr_assert_eq(count(BATCH_KILL, bytes, 13), KVD_EPROTO, "of a segment, or of what nobody knows");
    bytes[0] = 3;
    cr_assert_eq(count(BATCH_KILL, bytes, 13), KVD_EPROTO, "of all, with a name");
    bytes[0] = 0;
    cr_assert_eq(count(BATCH_KILL, bytes, 13), KVD_EPROTO);
    bytes[13] = 1;
    bytes[24 - 1] = 0;
    cr_assert_eq(count(BATCH_KILL, bytes + 13, 11), KVD_EPROTO, "of a key without a name");
}

Test(batch, a_name_that_is_too_long)
{
    uint8_t bytes[BATCH_KILL_BYTES + BATCH_NAME_MAX + 1] = {2, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0};
    cr_assert_eq(count(BATCH_KILL, bytes, sizeof bytes - 1), 1);
    bytes[10] = 1;
    cr_assert_eq(count(BATCH_KILL, bytes, sizeof bytes), KVD_EPROTO);
}

Test(batch, what_does_not_fit_is_not_begun)
{
    uint8_t bytes[sizeof object_bytes] = {0};
    struct batch batch = {.at = bytes, .room = sizeof bytes - 1};
    cr_assert_not(batch_put_object(&batch, &two_replicas));
    cr_assert(batch.len == 0 && bytes_are_zero(bytes, sizeof bytes));
    batch.room = BATCH_KILL_BYTES + 1;
    cr_assert_not(batch_put_kill(&batch, &(struct batch_kill){BATCH_KILL_KEY, 9, span_text("ab")}));
    batch.room = BATCH_ANSWER_BYTES - 1;
    cr_assert_not(batch_put_answer(&batch, &(struct batch_answer){CODE_OK, 1}));
    batch.room = BATCH_VERSION_BYTES - 1;
    cr_assert_not(batch_put_version(&batch, 1));
    batch.room = BATCH_HOLDING_BYTES - 1;
    cr_assert_not(batch_put_holding(&batch, &(struct batch_holding){0}));
    cr_assert_eq(batch.len, 0);
}
