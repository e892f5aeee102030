/* mput and mget: a queue of items that wait, and replies that take items off those under way, in any order. */
#include <stdlib.h>

#include "base/check.h"
#include "base/sum.h"
#include "client/kvd_impl.h"

enum { MAX_UNDER_WAY = 4096 }; /* puts, however small */

enum state { WAITING, UNDER_WAY, ANSWERED };

/* One MGET that is under way: which items its keys are. */
struct mget {
    uint64_t id;
    uint64_t bytes;
    uint32_t count;
    size_t *items; /* NO_ITEM where the key has its answer; another MGET may already ask for that item again */
};
#define NO_ITEM SIZE_MAX
enum { MAX_MGETS = 4 };

struct batch {
    struct kvd_item *items;
    size_t count;
    unsigned flags;
    uint8_t *state; /* enum state of each item */
    size_t *queue;  /* a ring of those that wait, of room for all */
    size_t queue_at;
    size_t queue_len;
    size_t answered;
    size_t under_way;
    uint64_t window; /* bytes under way at most, but for one item alone */
    uint64_t bytes_under_way;
    uint64_t not_before_us; /* after BUSY, nothing is sent before */
    uint64_t base_id;       /* puts: the id of item 0 */
    struct mget mgets[MAX_MGETS];
    size_t landing; /* gets: the item whose frame is coming; NO_ITEM when it is a last one */
    struct msg_get_reply got;
};

/* ---- the queue ---- */

static void queue_push(struct batch *batch, size_t item)
{
    CHECK(batch->queue_len < batch->count);
    batch->queue[(batch->queue_at + batch->queue_len++) % batch->count] = item;
    batch->state[item] = WAITING;
}

static size_t queue_first(const struct batch *batch)
{
    return batch->queue[batch->queue_at];
}

static size_t queue_pop(struct batch *batch)
{
    size_t item = queue_first(batch);
    batch->queue_at = (batch->queue_at + 1) % batch->count;
    batch->queue_len--;
    batch->state[item] = UNDER_WAY;
    batch->under_way++;
    return item;
}

/* What need not be sent, because the answer is known: an error, else 0. It is that item's own, and the others go their way. */
static int item_refuse(struct kvd *kvd, const struct kvd_item *item, bool put)
{
    if (!call_key_good(item->key))
        return wire_fail(kvd, KVD_ERR_USAGE, "a key is 1 to 1,024 bytes");
    if (put && item->len > BODY_MAX_BYTES)
        return wire_fail(kvd, KVD_ERR_TOO_LARGE, "a value of more than 1 GiB");
    return 0;
}

static int batch_init(struct kvd *kvd, struct batch *batch, struct kvd_item *items, size_t count, bool put)
{
    *batch = (struct batch){.items = items, .count = count, .landing = NO_ITEM};
    batch->window = min_u64(kvd->inflight_bytes, kvd->server.inflight_bytes);
    batch->state = malloc(count);
    batch->queue = malloc(count * sizeof *batch->queue);
    if (!batch->state || !batch->queue)
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a batch");
    for (size_t i = 0; i < count; i++) {
        int refused = item_refuse(kvd, &items[i], put);
        if (!refused) {
            queue_push(batch, i);
            continue;
        }
        items[i].result = refused;
        batch->state[i] = ANSWERED;
        batch->answered++;
    }
    return 0;
}

static void batch_fini(struct batch *batch)
{
    for (size_t i = 0; i < MAX_MGETS; i++)
        free(batch->mgets[i].items);
    free(batch->state);
    free(batch->queue);
}

/* An item that is under way has its answer. Returns 1 when it was the last, else 0. */
static int item_answer(struct batch *batch, size_t item, int result)
{
    CHECK(batch->state[item] == UNDER_WAY);
    batch->state[item] = ANSWERED;
    batch->items[item].result = result;
    batch->under_way--;
    batch->answered++;
    return batch->answered == batch->count;
}

/* The server was busy: the item waits again, if there is time. Returns as item_answer(). */
static int item_busy(struct kvd *kvd, struct batch *batch, size_t item, const struct msg_failure_reply *failure)
{
    uint64_t at = call_retry_at(kvd, failure);
    if (at == UINT64_MAX)
        return item_answer(batch, item, KVD_ERR_BUSY);
    batch->not_before_us = max_u64(batch->not_before_us, at);
    batch->under_way--;
    queue_push(batch, item);
    return 0;
}

/* May more be sent now? If not, but at a known time, that is *wake_us. */
static bool may_send(const struct batch *batch, uint64_t *wake_us)
{
    if (batch->queue_len == 0)
        return false;
    if (wire_now_us() >= batch->not_before_us)
        return true;
    *wake_us = batch->not_before_us;
    return false;
}

static bool window_has_room(const struct batch *batch, uint64_t bytes)
{
    return batch->under_way == 0 || (batch->bytes_under_way <= batch->window && bytes <= batch->window - batch->bytes_under_way);
}

static int all_fail(struct kvd_item *items, size_t count, int result)
{
    for (size_t i = 0; i < count; i++)
        items[i].result = result;
    return result;
}

/* What both begin with. Returns 0 or the call's error. */
static int batch_begin(struct kvd *kvd, struct kvd_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        items[i].version = 0;
        items[i].tier = 0;
    }
    int result = call_begin(kvd);
    return result ? all_fail(items, count, result) : 0;
}

static int batch_run(struct kvd *kvd, struct batch *batch, const struct exchange *exchange)
{
    int err = batch->answered < batch->count ? wire_exchange(kvd, exchange) : 0;
    /* Those without an answer get the error that ended the call. */
    for (size_t i = 0; err && i < batch->count; i++)
        if (batch->state[i] != ANSWERED)
            batch->items[i].result = err;
    return err;
}

/* ---- mput ---- */

static int put_send(struct kvd *kvd, struct batch *batch, size_t index)
{
    const struct kvd_item *item = &batch->items[index];
    struct msg_put put = {
        .has = 1u << F_TIMEOUT | 1u << F_PUT_KEY, .timeout_ms = call_left_ms(kvd), .key = span_of(item->key.at, item->key.len)};
    put.replace = true;
    put.pin = true;
    put.ack = span_text("disk");
    if (batch->flags & KVD_PUT_REPLACE)
        put.has |= 1u << F_PUT_REPLACE;
    if (batch->flags & KVD_PUT_PIN)
        put.has |= 1u << F_PUT_PIN;
    if (batch->flags & KVD_PUT_ACK_DISK)
        put.has |= 1u << F_PUT_ACK;
    if (item->ttl_ms > 0) {
        put.has |= 1u << F_PUT_TTL;
        put.ttl_ms = item->ttl_ms;
    }
    if (!(batch->flags & KVD_PUT_NO_CHECKSUM)) {
        put.has |= 1u << F_PUT_CHECKSUM;
        put.checksum = sum_of(item->value, item->len);
    }
    return wire_request(kvd, OP_PUT, batch->base_id + index, &put, span_of(item->value, item->len));
}

static int mput_next(struct kvd *kvd, void *arg, uint64_t *wake_us)
{
    struct batch *batch = arg;
    if (!may_send(batch, wake_us) || batch->under_way >= MAX_UNDER_WAY)
        return 0;
    uint64_t bytes = batch->items[queue_first(batch)].len;
    if (!window_has_room(batch, bytes))
        return 0;
    size_t index = queue_pop(batch);
    batch->bytes_under_way += bytes;
    int err = put_send(kvd, batch, index);
    return err ? err : 1;
}

static int mput_head(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta, uint8_t **body)
{
    (void)meta;
    (void)body;
    struct batch *batch = arg;
    uint64_t index = frame->id - batch->base_id;
    if (frame->op != OP_PUT || index >= batch->count || batch->state[index] != UNDER_WAY || frame->code == CODE_NOT_FOUND)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply to another request");
    return frame->body_len == 0 ? 0 : wire_fail(kvd, KVD_ERR_PROTOCOL, "a body where there is none");
}

static int mput_done(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta)
{
    struct batch *batch = arg;
    size_t index = (size_t)(frame->id - batch->base_id);
    batch->bytes_under_way -= batch->items[index].len;
    if (frame->code == CODE_OK || frame->code == CODE_PRESENT) {
        struct msg_put_reply reply;
        int err = call_decode(kvd, msg_reply(OP_PUT), meta, &reply);
        if (err)
            return err;
        batch->items[index].version = reply.version;
        return item_answer(batch, index, call_result(frame->code));
    }
    struct msg_failure_reply failure;
    int result = call_refused(kvd, frame->code, meta, &failure);
    if (result == KVD_ERR_PROTOCOL || result == KVD_ERR_MEMORY)
        return result;
    return result == KVD_ERR_BUSY ? item_busy(kvd, batch, index, &failure) : item_answer(batch, index, result);
}

int kvd_mput(struct kvd *kvd, struct kvd_item *items, size_t count, unsigned flags)
{
    int result = batch_begin(kvd, items, count);
    if (result || count == 0)
        return result;
    struct batch batch;
    result = batch_init(kvd, &batch, items, count, true);
    if (result) {
        batch_fini(&batch);
        return all_fail(items, count, result);
    }
    batch.flags = flags;
    batch.base_id = kvd->next_id;
    kvd->next_id += count;
    const struct exchange exchange = {.arg = &batch, .next = mput_next, .head = mput_head, .done = mput_done};
    result = batch_run(kvd, &batch, &exchange);
    batch_fini(&batch);
    return result;
}

/* ---- mget ---- */

static struct mget *mget_find(struct batch *batch, uint64_t id)
{
    for (size_t i = 0; i < MAX_MGETS; i++)
        if (batch->mgets[i].items && batch->mgets[i].id == id)
            return &batch->mgets[i];
    return NULL;
}

static struct mget *mget_free_slot(struct batch *batch)
{
    for (size_t i = 0; i < MAX_MGETS; i++)
        if (!batch->mgets[i].items)
            return &batch->mgets[i];
    return NULL;
}

/* How many from the front of the queue go into one MGET: at most half the window, so that two can overlap; one at least. */
static uint32_t mget_measure(const struct kvd *kvd, const struct batch *batch, uint64_t *bytes)
{
    uint64_t meta_room = kvd->server.meta_bytes - 2 * KIB;
    uint32_t count = 0;
    *bytes = 0;
    while (count < batch->queue_len && count < kvd->server.batch_keys) {
        const struct kvd_item *item = &batch->items[batch->queue[(batch->queue_at + count) % batch->count]];
        uint64_t meta = item->key.len + 5;
        bool fits = meta <= meta_room && item->capacity <= batch->window / 2 && *bytes <= batch->window / 2 - item->capacity;
        if (count > 0 && !fits)
            break;
        meta_room -= min_u64(meta, meta_room);
        *bytes += item->capacity;
        count++;
    }
    return count;
}

static int mget_send(struct kvd *kvd, struct batch *batch, struct mget *mget)
{
    struct span *keys = malloc(mget->count * sizeof *keys);
    mget->items = malloc(mget->count * sizeof *mget->items);
    if (!keys || !mget->items) {
        free(keys);
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a batch");
    }
    for (uint32_t i = 0; i < mget->count; i++) {
        size_t item = queue_pop(batch);
        mget->items[i] = item;
        keys[i] = span_of(batch->items[item].key.at, batch->items[item].key.len);
    }
    mget->id = kvd->next_id++;
    batch->bytes_under_way += mget->bytes;
    struct msg_mget request = {.has = 1u << F_TIMEOUT | 1u << F_MGET_KEYS, .timeout_ms = call_left_ms(kvd), .keys = {keys, mget->count}};
    int err = wire_request(kvd, OP_MGET, mget->id, &request, (struct span){NULL, 0});
    free(keys);
    return err;
}

static int mget_next(struct kvd *kvd, void *arg, uint64_t *wake_us)
{
    struct batch *batch = arg;
    struct mget *mget = mget_free_slot(batch);
    if (!mget || !may_send(batch, wake_us))
        return 0;
    struct mget next = {0};
    next.count = mget_measure(kvd, batch, &next.bytes);
    if (!window_has_room(batch, next.bytes))
        return 0;
    *mget = next;
    int err = mget_send(kvd, batch, mget);
    return err ? err : 1;
}

/* An item's own frame: where does its value go? */
static int item_head(struct kvd *kvd, struct batch *batch, const struct mget *mget, const struct frame *frame, uint8_t **body)
{
    const struct msg_get_reply *got = &batch->got;
    if (got->index >= mget->count || mget->items[got->index] == NO_ITEM || frame->code == CODE_PRESENT)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply for a key that was not asked for");
    batch->landing = mget->items[got->index];
    struct kvd_item *item = &batch->items[batch->landing];
    if (frame->code != CODE_OK)
        return frame->body_len == 0 ? 0 : wire_fail(kvd, KVD_ERR_PROTOCOL, "a body where there is none");
    int err = call_got_check(kvd, got);
    if (err)
        return err;
    if (frame->body_len != got->size)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a value of another length than it says");
    if (got->size <= item->capacity)
        *body = item->buffer;
    return 0;
}

static int mget_head(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta, uint8_t **body)
{
    struct batch *batch = arg;
    const struct mget *mget = frame->op == OP_MGET ? mget_find(batch, frame->id) : NULL;
    if (!mget)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply to another request");
    int err = call_decode(kvd, msg_reply(OP_MGET), meta, &batch->got);
    if (err)
        return err;
    if (MSG_HAS(&batch->got, F_GETR_INDEX))
        return item_head(kvd, batch, mget, frame, body);
    batch->landing = NO_ITEM;
    return frame->body_len == 0 ? 0 : wire_fail(kvd, KVD_ERR_PROTOCOL, "a body where there is none");
}

/* The value of an OK frame is there. */
static int value_judge(struct kvd_item *item, const struct msg_get_reply *got)
{
    item->len = (size_t)got->size;
    item->version = got->version;
    item->tier = call_tier(got->tier);
    if (got->size > item->capacity)
        return KVD_ERR_BUFFER;
    return sum_of(item->buffer, item->len) == got->checksum ? KVD_OK : KVD_ERR_CORRUPT;
}

static struct msg_failure_reply failure_of(const struct msg_get_reply *got)
{
    struct msg_failure_reply failure = {.message = got->message, .retry_after_ms = got->retry_after_ms, .reason = got->reason};
    if (MSG_HAS(got, F_GETR_RETRY))
        failure.has = 1u << F_FAIL_RETRY;
    return failure;
}

static void item_done(struct kvd *kvd, struct batch *batch, struct mget *mget, uint8_t code)
{
    struct kvd_item *item = &batch->items[batch->landing];
    int result = call_result(code);
    item->len = 0;
    mget->items[batch->got.index] = NO_ITEM;
    if (code == CODE_OK) {
        result = value_judge(item, &batch->got);
        if (result)
            wire_fail(kvd, result, kvd_strerror(result));
        item_answer(batch, batch->landing, result);
        return;
    }
    struct msg_failure_reply failure = failure_of(&batch->got);
    wire_fail_span(kvd, result, result == KVD_MISS ? failure.reason : failure.message);
    if (result == KVD_ERR_BUSY)
        item_busy(kvd, batch, batch->landing, &failure);
    else
        item_answer(batch, batch->landing, result);
}

static bool mgets_open(const struct batch *batch)
{
    for (size_t i = 0; i < MAX_MGETS; i++)
        if (batch->mgets[i].items)
            return true;
    return false;
}

/* The last frame: keys that had none of their own have its code. */
static int mget_last(struct kvd *kvd, struct batch *batch, struct mget *mget, uint8_t code)
{
    struct msg_failure_reply failure = failure_of(&batch->got);
    int result = call_result(code);
    for (uint32_t i = 0; i < mget->count; i++) {
        size_t item = mget->items[i];
        if (item == NO_ITEM)
            continue;
        if (code < CODE_BAD_REQUEST)
            return wire_fail(kvd, KVD_ERR_PROTOCOL, "keys without an answer");
        wire_fail_span(kvd, result, failure.message);
        if (result == KVD_ERR_BUSY)
            item_busy(kvd, batch, item, &failure);
        else
            item_answer(batch, item, result);
    }
    batch->bytes_under_way -= mget->bytes;
    free(mget->items);
    *mget = (struct mget){0};
    return batch->answered == batch->count && !mgets_open(batch);
}

static int mget_done(struct kvd *kvd, void *arg, const struct frame *frame, struct span meta)
{
    (void)meta;
    struct batch *batch = arg;
    struct mget *mget = mget_find(batch, frame->id);
    if (batch->landing == NO_ITEM)
        return mget_last(kvd, batch, mget, frame->code);
    item_done(kvd, batch, mget, frame->code);
    return 0; /* the last frame is still to come */
}

int kvd_mget(struct kvd *kvd, struct kvd_item *items, size_t count, uint64_t *first_byte_us)
{
    if (first_byte_us)
        *first_byte_us = 0;
    uint64_t start_us = wire_now_us();
    int result = batch_begin(kvd, items, count);
    if (result || count == 0)
        return result;
    struct batch batch;
    result = batch_init(kvd, &batch, items, count, false);
    if (result) {
        batch_fini(&batch);
        return all_fail(items, count, result);
    }
    const struct exchange exchange = {.arg = &batch, .next = mget_next, .head = mget_head, .done = mget_done};
    result = batch_run(kvd, &batch, &exchange);
    if (first_byte_us && kvd->reader.first_body_us > 0)
        *first_byte_us = max_u64(kvd->reader.first_body_us - start_us, 1);
    batch_fini(&batch);
    return result;
}
