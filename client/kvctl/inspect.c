#include "client/kvctl/inspect.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "client/kvctl/inspect_impl.h"
#include "tier/layout.h"
#include "tier/object_name.h"

const char *inspect_state_name(enum inspect_state state)
{
    static const char *const NAMES[] = {"indexed", "walked", "alone", "damaged", "void", "unnamed"};
    return NAMES[state];
}

/* ---- telling ---- */

static void remark(struct inspect *inspect, bool harmless, uint64_t offset, const char *format, va_list list)
{
    char text[INSPECT_TEXT_BYTES];

    vsnprintf(text, sizeof text, format, list);
    inspect->events->remark(inspect->arg, harmless, offset, text);
}

void inspect_wrong(struct inspect *inspect, uint64_t offset, const char *format, ...)
{
    va_list list;

    inspect->problems++;
    va_start(list, format);
    remark(inspect, false, offset, format, list);
    va_end(list);
}

void inspect_note(struct inspect *inspect, uint64_t offset, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    remark(inspect, true, offset, format, list);
    va_end(list);
}

void inspect_text(struct inspect *inspect, const char *name, const char *format, ...)
{
    char text[INSPECT_TEXT_BYTES];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    inspect->events->text(inspect->arg, name, text);
}

void inspect_figure(struct inspect *inspect, const char *name, enum inspect_unit unit, uint64_t value)
{
    inspect->events->figure(inspect->arg, name, unit, value);
}

void inspect_name(struct inspect *inspect, const char *name, struct span value)
{
    char text[LAYOUT_NAME_MAX + 1];
    size_t len = 0;

    for (; len < value.len && len < LAYOUT_NAME_MAX; len++)
        text[len] = value.at[len] >= 0x20 && value.at[len] < 0x7f ? (char)value.at[len] : '?';
    text[len] = '\0';
    inspect->events->text(inspect->arg, name, text);
}

void inspect_id(struct inspect *inspect, const uint8_t id[DISK_ID_BYTES])
{
    char text[2 * DISK_ID_BYTES + 1];

    for (size_t i = 0; i < DISK_ID_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", id[i]);
    inspect->events->text(inspect->arg, "id", text);
}

bool inspect_sequence(const char *name, const char *prefix, const char *suffix, uint64_t *sequence)
{
    const size_t prefix_len = strlen(prefix);
    uint64_t value = 0;

    if (strncmp(name, prefix, prefix_len) != 0 || strlen(name) < prefix_len + 16 || strcmp(name + prefix_len + 16, suffix) != 0)
        return false;
    for (const char *c = name + prefix_len; c < name + prefix_len + 16; c++) {
        const bool letter = *c >= 'a' && *c <= 'f';
        if (!letter && (*c < '0' || *c > '9'))
            return false;
        value = value << 4 | (uint64_t)(letter ? *c - 'a' + 10 : *c - '0');
    }
    *sequence = value;
    return true;
}

/* ---- reading ---- */

int inspect_read(const struct inspect *inspect, void *buf, uint64_t len, uint64_t offset)
{
    const int64_t got = inspect->source->read(inspect->source->arg, buf, len, offset);
    if (got < 0)
        return (int)got;
    return (uint64_t)got < len ? KVD_ESHORT : 0;
}

uint64_t inspect_not_zero(const struct inspect *inspect, uint64_t offset, uint64_t end, int *err)
{
    *err = 0;
    for (uint64_t len = 0; offset < end; offset += len) {
        len = min_u64(INSPECT_BUFFER_BYTES, end - offset);
        *err = inspect_read(inspect, inspect->chunk, len, offset);
        if (*err)
            return end;
        if (bytes_are_zero(inspect->chunk, len))
            continue;
        for (uint64_t i = 0; i < len; i++)
            if (inspect->chunk[i] != 0)
                return offset + i;
    }
    return end;
}

/* ---- records ---- */

static const char *no_record(const uint8_t *block)
{
    if (bytes_are_zero(block, BLOCK_BYTES))
        return "nothing but zeros where a record was due";
    if (memcmp(block, "KVDR", 4) != 0)
        return "no record where one was due";
    if (get_le16(block + 4) > DISK_FORMAT)
        return "a record of a newer format";
    return "a record's header whose lengths make no sense";
}

int inspect_record_read(struct inspect *inspect, uint64_t offset, uint64_t end, struct record *record, struct record_shape *shape,
                        const char **why)
{
    if (end - offset < BLOCK_BYTES) {
        *why = "the file ends where a record was due";
        return KVD_ECORRUPT;
    }
    int err = inspect_read(inspect, inspect->header, BLOCK_BYTES, offset);
    if (err)
        return err;
    const uint32_t header_bytes = record_peek(inspect->header, BLOCK_BYTES);
    *why = no_record(inspect->header);
    if (header_bytes == 0)
        return KVD_ECORRUPT;
    const uint64_t whole = round_up(header_bytes, BLOCK_BYTES);
    *why = "a record that goes on beyond the end";
    if (whole > end - offset)
        return KVD_ECORRUPT;
    if (whole > BLOCK_BYTES)
        err = inspect_read(inspect, inspect->header + BLOCK_BYTES, whole - BLOCK_BYTES, offset + BLOCK_BYTES);
    if (err)
        return err;
    if (record_parse(inspect->header, whole, record)) {
        *why = "a record's header whose sum is wrong";
        return KVD_ECORRUPT;
    }
    *shape = record_shape(record->key.len, record->size);
    return (uint64_t)shape->blocks * BLOCK_BYTES > end - offset ? KVD_ECORRUPT : 0;
}

static bool padding_is_zero(const struct inspect *inspect, const struct record *record, const struct record_shape *shape)
{
    const uint64_t from = shape->header_bytes + (shape->shared ? record->size : 0);
    return bytes_are_zero(inspect->header + from, (uint64_t)shape->header_blocks * BLOCK_BYTES - from);
}

/* Chunk after chunk through one buffer, the whole sum growing with them. */
static int chunks_judge(struct inspect *inspect, uint64_t at, const struct record *record, const struct record_shape *shape,
                        XXH3_state_t *whole)
{
    int result = 0;

    for (uint32_t i = 0; i < shape->chunks; i++) {
        const uint64_t from = (uint64_t)i * RECORD_CHUNK_BYTES;
        const uint64_t len = min_u64(RECORD_CHUNK_BYTES, record->size - from);
        const int err = inspect_read(inspect, inspect->chunk, round_up(len, BLOCK_BYTES), at + from);
        if (err) {
            inspect_wrong(inspect, at + from, "the value cannot be read: %s", error_text(err));
            return err;
        }
        (void)XXH3_64bits_update(whole, inspect->chunk, len);
        if (XXH3_64bits(inspect->chunk, len) != record_sum(record, i)) {
            inspect_wrong(inspect, at + from, "chunk %" PRIu32 " of %" PRIu32 " of a value is not what was written", i + 1, shape->chunks);
            result = KVD_ECORRUPT;
        }
        if (!bytes_are_zero(inspect->chunk + len, round_up(len, BLOCK_BYTES) - len))
            inspect_wrong(inspect, at + from + len, "bytes after a value that are not zero; kvd does not look at them");
    }
    return result;
}

static int value_judge(struct inspect *inspect, uint64_t offset, const struct record *record, const struct record_shape *shape)
{
    XXH3_state_t *whole = XXH3_createState();
    int err = 0;

    if (!whole)
        return -ENOMEM;
    (void)XXH3_64bits_reset(whole);
    if (shape->shared) {
        const uint8_t *value = inspect->header + shape->header_bytes;
        (void)XXH3_64bits_update(whole, value, record->size);
        if (shape->chunks == 1 && record_sum(record, 0) != record->checksum)
            inspect_wrong(inspect, offset, "a record whose value's sum and chunk's sum differ");
    } else {
        err = chunks_judge(inspect, offset + (uint64_t)shape->header_blocks * BLOCK_BYTES, record, shape, whole);
    }
    if (!err && XXH3_64bits_digest(whole) != record->checksum) {
        inspect_wrong(inspect, offset, "a value whose sum is wrong");
        err = KVD_ECORRUPT;
    }
    (void)XXH3_freeState(whole);
    return err;
}

int inspect_value(struct inspect *inspect, uint64_t offset, const struct record *record, const struct record_shape *shape)
{
    if (!inspect->verify)
        return 0;
    if (!padding_is_zero(inspect, record, shape))
        inspect_wrong(inspect, offset + shape->header_bytes, "padding that is not zero; kvd does not look at it");
    return value_judge(inspect, offset, record, shape);
}

void inspect_tell(struct inspect *inspect, uint64_t offset, const struct record *record, const struct record_shape *shape,
                  enum inspect_state state)
{
    const struct inspect_record told = {
        .key = record->key,
        .version = record->version,
        .size = record->size,
        .checksum = record->checksum,
        .expires_ms = record->expires_ms,
        .offset = offset,
        .bytes = (uint64_t)shape->blocks * BLOCK_BYTES,
        .state = state,
    };

    if (state <= INSPECT_DAMAGED) {
        inspect->found++;
        inspect->found_bytes += told.bytes;
        inspect->expired += told.expires_ms != 0 && told.expires_ms <= inspect->now_ms;
    }
    inspect->events->record(inspect->arg, &told);
}

/* ---- an object in a file of its own ---- */

static void object_name_judge(struct inspect *inspect, struct span key)
{
    struct object_name said, right;

    if (!object_name_parse(inspect->source->name, &said)) {
        inspect_note(inspect, 0, "the file's name is not that of an object: kvd would take no notice of it");
        return;
    }
    right = object_name_of(key);
    if (memcmp(said.hex, right.hex, OBJECT_HEX) != 0)
        inspect_wrong(inspect, 0, "the name is not that of its key, which is %s: kvd does not serve it", right.hex);
}

int inspect_object(struct inspect *inspect)
{
    const uint64_t bytes = inspect->source->bytes;
    struct record record;
    struct record_shape shape;
    const char *why = "";

    inspect_text(inspect, "kind", "object");
    inspect_figure(inspect, "file_bytes", INSPECT_BYTES, bytes);
    const int err = inspect_record_read(inspect, 0, bytes, &record, &shape, &why);
    if (err) {
        inspect_wrong(inspect, 0, "%s", err == KVD_ECORRUPT ? why : error_text(err));
        inspect_text(inspect, "at_start", "kvd leaves it alone");
        return 0;
    }
    object_name_judge(inspect, record.key);
    if (bytes != (uint64_t)shape.blocks * BLOCK_BYTES)
        inspect_wrong(inspect, (uint64_t)shape.blocks * BLOCK_BYTES, "the file goes on after its record");
    const int value = inspect_value(inspect, 0, &record, &shape);
    if (value == -ENOMEM)
        return value;
    inspect_tell(inspect, 0, &record, &shape, value ? INSPECT_DAMAGED : INSPECT_ALONE);
    inspect_text(inspect, "at_start", value ? "kvd finds it, and drops it when it is read" : "kvd finds it");
    return 0;
}

/* ---- which kind ---- */

typedef int (*judge_fn)(struct inspect *inspect);

/* Under any other name, by the magic; a remove log's second header is as good as its first, and so is a node file's second block. */
static judge_fn judge_of(const uint8_t *at, const uint8_t *second)
{
    if (memcmp(at, "KVDS", 4) == 0)
        return inspect_segment;
    if (memcmp(at, "KVDR", 4) == 0)
        return inspect_object;
    if (memcmp(at, "KVDL", 4) == 0 || memcmp(at + 40, "KVDL", 4) == 0)
        return inspect_remove_log;
    if (memcmp(at, "KVDN", 4) == 0 || memcmp(second, "KVDN", 4) == 0)
        return inspect_node_file;
    return NULL;
}

/* As kvd does, by the name: a file whose first bytes are damaged is told so, too. */
static judge_fn judge_by_name(const char *name)
{
    uint64_t sequence = 0;
    struct object_name object;

    if (object_name_parse(name, &object))
        return inspect_object;
    if (inspect_sequence(name, "", ".seg", &sequence))
        return inspect_segment;
    if (inspect_sequence(name, "removes-", ".log", &sequence))
        return inspect_remove_log;
    return strcmp(name, "node") == 0 ? inspect_node_file : NULL;
}

static int run(struct inspect *inspect)
{
    const struct inspect_source *source = inspect->source;

    memset(inspect->header, 0, 2 * BLOCK_BYTES);
    const int64_t got = source->read(source->arg, inspect->header, 2 * BLOCK_BYTES, 0);
    if (got < 0)
        return (int)got;
    judge_fn judge = judge_by_name(source->name);
    if (!judge)
        judge = judge_of(inspect->header, inspect->header + BLOCK_BYTES);
    return judge ? judge(inspect) : KVD_EFORMAT;
}

int inspect_run(const struct inspect_source *source, bool verify, uint64_t now_ms, const struct inspect_events *events, void *arg)
{
    struct inspect inspect = {.source = source, .events = events, .arg = arg, .verify = verify, .now_ms = now_ms};
    uint8_t *buffers = malloc(3 * (size_t)INSPECT_BUFFER_BYTES);

    if (!buffers)
        return -ENOMEM;
    inspect.header = buffers;
    inspect.chunk = buffers + INSPECT_BUFFER_BYTES;
    inspect.window = buffers + 2 * (size_t)INSPECT_BUFFER_BYTES;
    const int err = run(&inspect);
    free(buffers);
    return err;
}
