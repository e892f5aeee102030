#include "tier/index.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum {
    AT_FORMAT = 4,
    AT_FLAGS = 6,
    AT_ORDINAL = 8,
    AT_COUNT = 12,
    AT_SEGMENT_ID = 16,
    AT_PAYLOAD_BYTES = 32,
    AT_FROM = 40,
    AT_BLOCK = 44,
    AT_NEXT_SEQUENCE = 48,
    AT_PAYLOAD_SUM = 56,
    AT_HEAD_SUM = 64,
    FLAG_FINAL = 1,
};

enum {
    ENTRY_BLOCK = 0,
    ENTRY_BLOCKS = 4,
    ENTRY_VERSION = 8,
    ENTRY_SIZE = 16,
    ENTRY_CHECKSUM = 24,
    ENTRY_EXPIRES = 32,
    ENTRY_KEY_LEN = 40,
};

static const uint8_t magic[4] = {'K', 'V', 'D', 'I'};

int index_init(struct index_buffer *buffer)
{
    uint8_t *at = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
    if (!at)
        return -ENOMEM;
    memset(at, 0, INDEX_HEAD_BYTES);
    *buffer = (struct index_buffer){.at = at, .len = INDEX_HEAD_BYTES, .room = BLOCK_BYTES};
    return 0;
}

void index_fini(struct index_buffer *buffer)
{
    free(buffer->at);
    *buffer = (struct index_buffer){0};
}

static int buffer_reserve(struct index_buffer *buffer, size_t more)
{
    if (buffer->len + more <= buffer->room)
        return 0;
    size_t room = round_up(max_u64(buffer->room * 2, buffer->len + more), BLOCK_BYTES);
    uint8_t *at = aligned_alloc(BLOCK_BYTES, room);
    if (!at)
        return -ENOMEM;
    memcpy(at, buffer->at, buffer->len);
    free(buffer->at);
    buffer->at = at;
    buffer->room = room;
    return 0;
}

int index_add(struct index_buffer *buffer, const struct index_entry *entry)
{
    CHECK(entry->key.len > 0 && entry->key.len <= RECORD_KEY_MAX);
    int err = buffer_reserve(buffer, INDEX_ENTRY_BYTES + entry->key.len);
    if (err)
        return err;
    uint8_t *at = buffer->at + buffer->len;
    put_le32(at + ENTRY_BLOCK, entry->block);
    put_le32(at + ENTRY_BLOCKS, entry->blocks);
    put_le64(at + ENTRY_VERSION, entry->version);
    put_le64(at + ENTRY_SIZE, entry->size);
    put_le64(at + ENTRY_CHECKSUM, entry->checksum);
    put_le64(at + ENTRY_EXPIRES, entry->expires_ms);
    put_le16(at + ENTRY_KEY_LEN, (uint16_t)entry->key.len);
    memcpy(at + INDEX_ENTRY_BYTES, entry->key.at, entry->key.len);
    buffer->len += INDEX_ENTRY_BYTES + entry->key.len;
    buffer->count++;
    return 0;
}

void index_drop(struct index_buffer *buffer, uint32_t block)
{
    size_t at = INDEX_HEAD_BYTES;
    while (at < buffer->len) {
        size_t entry_bytes = INDEX_ENTRY_BYTES + (size_t)get_le16(buffer->at + at + ENTRY_KEY_LEN);
        if (get_le32(buffer->at + at + ENTRY_BLOCK) == block) {
            memmove(buffer->at + at, buffer->at + at + entry_bytes, buffer->len - at - entry_bytes);
            buffer->len -= entry_bytes;
            buffer->count--;
            return;
        }
        at += entry_bytes;
    }
}

uint64_t index_bytes(const struct index_buffer *buffer, size_t key_len)
{
    return round_up(buffer->len + (key_len ? INDEX_ENTRY_BYTES + key_len : 0), BLOCK_BYTES);
}

void index_finish(struct index_buffer *buffer, const struct index_head *head)
{
    uint8_t *at = buffer->at;
    size_t payload_bytes = buffer->len - INDEX_HEAD_BYTES;
    memset(at, 0, INDEX_HEAD_BYTES);
    memcpy(at, magic, sizeof magic);
    put_le16(at + AT_FORMAT, DISK_FORMAT);
    put_le16(at + AT_FLAGS, head->final ? FLAG_FINAL : 0);
    put_le32(at + AT_ORDINAL, head->ordinal);
    put_le32(at + AT_COUNT, buffer->count);
    memcpy(at + AT_SEGMENT_ID, head->segment_id, DISK_ID_BYTES);
    put_le64(at + AT_PAYLOAD_BYTES, payload_bytes);
    put_le32(at + AT_FROM, head->from_block);
    put_le32(at + AT_BLOCK, head->block);
    put_le64(at + AT_NEXT_SEQUENCE, head->next_sequence);
    put_le64(at + AT_PAYLOAD_SUM, XXH3_64bits(at + INDEX_HEAD_BYTES, payload_bytes));
    put_le64(at + AT_HEAD_SUM, XXH3_64bits(at, AT_HEAD_SUM));
    memset(at + buffer->len, 0, index_bytes(buffer, 0) - buffer->len);
}

int index_parse_head(const uint8_t *at, size_t len, struct index_head *out)
{
    bool ours = len >= INDEX_HEAD_BYTES && memcmp(at, magic, sizeof magic) == 0 && get_le16(at + AT_FORMAT) == DISK_FORMAT &&
                get_le64(at + AT_HEAD_SUM) == XXH3_64bits(at, AT_HEAD_SUM);
    if (!ours || get_le64(at + AT_PAYLOAD_BYTES) > UINT32_MAX || get_le32(at + AT_FROM) > get_le32(at + AT_BLOCK))
        return KVD_ECORRUPT;
    out->final = (get_le16(at + AT_FLAGS) & FLAG_FINAL) != 0;
    out->ordinal = get_le32(at + AT_ORDINAL);
    out->count = get_le32(at + AT_COUNT);
    memcpy(out->segment_id, at + AT_SEGMENT_ID, DISK_ID_BYTES);
    out->payload_bytes = get_le64(at + AT_PAYLOAD_BYTES);
    out->payload_sum = get_le64(at + AT_PAYLOAD_SUM);
    out->from_block = get_le32(at + AT_FROM);
    out->block = get_le32(at + AT_BLOCK);
    out->next_sequence = get_le64(at + AT_NEXT_SEQUENCE);
    return 0;
}

int index_parse(const uint8_t *at, size_t len, struct index_head *out)
{
    struct index_head head;
    int err = index_parse_head(at, len, &head);
    if (err)
        return err;
    if (head.payload_bytes > len - INDEX_HEAD_BYTES)
        return KVD_ECORRUPT;
    if (head.payload_sum != XXH3_64bits(at + INDEX_HEAD_BYTES, head.payload_bytes))
        return KVD_ECORRUPT;
    *out = head;
    return 0;
}

uint64_t index_head_blocks(const struct index_head *head)
{
    return round_up(INDEX_HEAD_BYTES + head->payload_bytes, BLOCK_BYTES) / BLOCK_BYTES;
}

struct index_cursor index_entries(const uint8_t *at, const struct index_head *head)
{
    return (struct index_cursor){at + INDEX_HEAD_BYTES, at + INDEX_HEAD_BYTES + head->payload_bytes};
}

bool index_next(struct index_cursor *cursor, struct index_entry *out)
{
    const uint8_t *at = cursor->at;
    size_t left = (size_t)(cursor->end - at);
    if (left < INDEX_ENTRY_BYTES)
        return false;
    size_t key_len = get_le16(at + ENTRY_KEY_LEN);
    uint64_t size = get_le64(at + ENTRY_SIZE);
    if (key_len == 0 || key_len > RECORD_KEY_MAX || key_len > left - INDEX_ENTRY_BYTES || size > RECORD_VALUE_MAX)
        return false;
    out->block = get_le32(at + ENTRY_BLOCK);
    out->blocks = get_le32(at + ENTRY_BLOCKS);
    if (out->blocks != record_shape(key_len, size).blocks)
        return false;
    out->version = get_le64(at + ENTRY_VERSION);
    out->size = size;
    out->checksum = get_le64(at + ENTRY_CHECKSUM);
    out->expires_ms = get_le64(at + ENTRY_EXPIRES);
    out->key = span_of(at + INDEX_ENTRY_BYTES, key_len);
    cursor->at = at + INDEX_ENTRY_BYTES + key_len;
    return true;
}
