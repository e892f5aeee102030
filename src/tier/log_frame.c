#include "tier/log_frame.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum {
    HEAD_FORMAT = 4,
    HEAD_SEQUENCE = 8,
    HEAD_ID = 16,
    HEAD_SUM = 32,
};

enum {
    FRAME_FORMAT = 4,
    FRAME_ID = 8,
    FRAME_NUMBER = 24,
    FRAME_PAYLOAD = 32,
    FRAME_COUNT = 36,
    FRAME_PAYLOAD_SUM = 40,
    FRAME_SUM = 48,
};

enum {
    ENTRY_KIND = 0,
    ENTRY_LEN = 2,
    ENTRY_VERSION = 4,
};

static const uint8_t head_magic[4] = {'K', 'V', 'D', 'L'};
static const uint8_t frame_magic[4] = {'K', 'V', 'D', 'F'};

int log_frame_init(struct log_frame *frame)
{
    uint8_t *at = malloc(2 * (LOG_FRAME_HEAD_BYTES + LOG_PAYLOAD_MAX_BYTES));
    if (!at)
        return -ENOMEM;
    frame->at = at;
    log_frame_clear(frame);
    return 0;
}

void log_frame_fini(struct log_frame *frame)
{
    free(frame->at);
    frame->at = NULL;
}

void log_frame_clear(struct log_frame *frame)
{
    frame->len = LOG_FRAME_HEAD_BYTES;
    frame->count = 0;
}

bool log_frame_add(struct log_frame *frame, enum kill_kind kind, struct span name, uint64_t version)
{
    CHECK(name.len <= UINT16_MAX);
    if (frame->len + LOG_ENTRY_HEAD_BYTES + name.len > LOG_FRAME_HEAD_BYTES + LOG_PAYLOAD_MAX_BYTES)
        return false;
    uint8_t *at = frame->at + frame->len;
    at[ENTRY_KIND] = (uint8_t)kind;
    at[ENTRY_KIND + 1] = 0;
    put_le16(at + ENTRY_LEN, (uint16_t)name.len);
    put_le64(at + ENTRY_VERSION, version);
    if (name.len > 0)
        memcpy(at + LOG_ENTRY_HEAD_BYTES, name.at, name.len);
    frame->len += LOG_ENTRY_HEAD_BYTES + (uint32_t)name.len;
    frame->count++;
    return true;
}

uint32_t log_frame_finish(struct log_frame *frame, const uint8_t id[DISK_ID_BYTES], uint64_t number)
{
    uint8_t *at = frame->at;
    uint32_t payload = frame->len - LOG_FRAME_HEAD_BYTES;
    memset(at, 0, LOG_FRAME_HEAD_BYTES);
    memcpy(at, frame_magic, sizeof frame_magic);
    put_le16(at + FRAME_FORMAT, DISK_FORMAT);
    memcpy(at + FRAME_ID, id, DISK_ID_BYTES);
    put_le64(at + FRAME_NUMBER, number);
    put_le32(at + FRAME_PAYLOAD, payload);
    put_le32(at + FRAME_COUNT, frame->count);
    put_le64(at + FRAME_PAYLOAD_SUM, XXH3_64bits(at + LOG_FRAME_HEAD_BYTES, payload));
    put_le64(at + FRAME_SUM, XXH3_64bits(at, FRAME_SUM));
    memcpy(at + frame->len, at, frame->len);
    return 2 * frame->len;
}

/* ---- reading ---- */

void log_head_build(uint8_t out[LOG_FRAMES_AT], const uint8_t id[DISK_ID_BYTES], uint64_t sequence)
{
    memset(out, 0, LOG_FRAMES_AT);
    memcpy(out, head_magic, sizeof head_magic);
    put_le16(out + HEAD_FORMAT, DISK_FORMAT);
    put_le64(out + HEAD_SEQUENCE, sequence);
    memcpy(out + HEAD_ID, id, DISK_ID_BYTES);
    put_le64(out + HEAD_SUM, XXH3_64bits(out, HEAD_SUM));
    memcpy(out + LOG_HEAD_BYTES, out, LOG_HEAD_BYTES);
}

bool log_head_copy_is_good(const uint8_t *head)
{
    return memcmp(head, head_magic, sizeof head_magic) == 0 && get_le16(head + HEAD_FORMAT) == DISK_FORMAT &&
           get_le64(head + HEAD_SUM) == XXH3_64bits(head, HEAD_SUM);
}

/* Both copies that claim to be newer make it newer: one alone is a flipped byte. */
int log_head_parse(const uint8_t *at, size_t len, struct log_head *out)
{
    unsigned newer = 0;
    for (size_t copy = 0; copy < 2; copy++) {
        const uint8_t *head = at + copy * LOG_HEAD_BYTES;
        if (len < (copy + 1) * LOG_HEAD_BYTES || memcmp(head, head_magic, sizeof head_magic) != 0)
            continue;
        newer += get_le16(head + HEAD_FORMAT) > DISK_FORMAT;
        if (!log_head_copy_is_good(head))
            continue;
        memcpy(out->id, head + HEAD_ID, DISK_ID_BYTES);
        out->sequence = get_le64(head + HEAD_SEQUENCE);
        return 0;
    }
    return newer == 2 ? KVD_EFORMAT : KVD_ECORRUPT;
}

uint32_t log_frame_at(const struct log_reader *reader, size_t pos, uint64_t least)
{
    if (pos > reader->len || reader->len - pos < LOG_FRAME_HEAD_BYTES)
        return 0;
    const uint8_t *at = reader->at + pos;
    bool ours = memcmp(at, frame_magic, sizeof frame_magic) == 0 && get_le16(at + FRAME_FORMAT) == DISK_FORMAT &&
                memcmp(at + FRAME_ID, reader->id, DISK_ID_BYTES) == 0 && get_le64(at + FRAME_NUMBER) >= least &&
                get_le64(at + FRAME_SUM) == XXH3_64bits(at, FRAME_SUM);
    uint32_t payload = ours ? get_le32(at + FRAME_PAYLOAD) : 0;
    if (!ours || payload > LOG_PAYLOAD_MAX_BYTES || payload > reader->len - pos - LOG_FRAME_HEAD_BYTES)
        return 0;
    if (get_le64(at + FRAME_PAYLOAD_SUM) != XXH3_64bits(at + LOG_FRAME_HEAD_BYTES, payload))
        return 0;
    return LOG_FRAME_HEAD_BYTES + payload;
}

static uint64_t frame_number(const struct log_reader *reader, size_t pos)
{
    return get_le64(reader->at + pos + FRAME_NUMBER);
}

/* Search for a whole frame from `pos` on; the log's random id keeps a key from forging one. True: *found and *copy_bytes are set. */
static bool frame_search(const struct log_reader *reader, size_t pos, uint64_t least, size_t *found, uint32_t *copy_bytes)
{
    while (pos < reader->len) {
        const uint8_t *hit = memmem(reader->at + pos, reader->len - pos, frame_magic, sizeof frame_magic);
        if (!hit)
            return false;
        size_t at = (size_t)(hit - reader->at);
        uint32_t bytes = log_frame_at(reader, at, least);
        if (bytes > 0) {
            *found = at;
            *copy_bytes = bytes;
            return true;
        }
        pos = at + 1;
    }
    return false;
}

int log_reader_next(struct log_reader *reader, struct log_copy *out)
{
    if (reader->pos >= reader->len)
        return LOG_END;
    size_t at = reader->pos;
    uint32_t bytes = log_frame_at(reader, at, reader->number);
    bool there = bytes > 0 || frame_search(reader, at + 1, reader->number, &at, &bytes);
    if (!there)
        return LOG_TORN;
    bool second = at != reader->pos;
    if (frame_number(reader, at) != reader->number || (second && at - reader->pos != bytes))
        return KVD_ECORRUPT;
    *out = (struct log_copy){.offset = at, .bytes = bytes};
    reader->pos += 2 * (size_t)bytes;
    reader->number++;
    return LOG_FRAME;
}

static bool entry_is_sane(enum kill_kind kind, size_t len)
{
    switch (kind) {
    case KILL_KEY:
    case KILL_PREFIX:
        return len > 0;
    case KILL_ALL:
        return len == 0;
    case KILL_SEGMENT:
        return len == DISK_ID_BYTES;
    }
    return false;
}

struct log_entries log_entries(const struct log_reader *reader, const struct log_copy *copy)
{
    const uint8_t *at = reader->at + copy->offset;
    return (struct log_entries){at + LOG_FRAME_HEAD_BYTES, at + copy->bytes, get_le32(at + FRAME_COUNT)};
}

int log_entries_next(struct log_entries *entries, struct log_entry *out)
{
    const uint8_t *at = entries->at;
    if (entries->left == 0)
        return at == entries->end ? LOG_END : KVD_ECORRUPT;
    if (entries->end - at < LOG_ENTRY_HEAD_BYTES)
        return KVD_ECORRUPT;
    enum kill_kind kind = (enum kill_kind)at[ENTRY_KIND];
    size_t len = get_le16(at + ENTRY_LEN);
    if ((size_t)(entries->end - at) < LOG_ENTRY_HEAD_BYTES + len || !entry_is_sane(kind, len))
        return KVD_ECORRUPT;
    *out = (struct log_entry){kind, span_of(at + LOG_ENTRY_HEAD_BYTES, len), get_le64(at + ENTRY_VERSION)};
    entries->at = at + LOG_ENTRY_HEAD_BYTES + len;
    entries->left--;
    return LOG_ENTRY;
}
