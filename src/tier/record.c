#include "tier/record.h"

#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum {
    AT_MAGIC = 0,
    AT_FORMAT = 4,
    AT_KEY_LEN = 6,
    AT_HEADER_BYTES = 8,
    AT_FLAGS = 12,
    AT_SEGMENT_ID = 16,
    AT_SEQUENCE = 32,
    AT_SIZE = 40,
    AT_VERSION = 48,
    AT_NODE = 56,
    AT_EXPIRES = 64,
    AT_CODEC = 72,
    AT_CHUNKS = 76,
    AT_CHECKSUM = 80,
};

enum { FLAG_SHARED = 1, CODEC_NONE = 0, SUM_BYTES = 8 };

static const uint8_t magic[4] = {'K', 'V', 'D', 'R'};

struct record_shape record_shape(size_t key_len, uint64_t size)
{
    CHECK(key_len > 0 && key_len <= RECORD_KEY_MAX && size <= RECORD_VALUE_MAX);
    struct record_shape shape;
    shape.chunks = (uint32_t)((size + RECORD_CHUNK_BYTES - 1) / RECORD_CHUNK_BYTES);
    shape.header_bytes = RECORD_FIXED_BYTES + SUM_BYTES * shape.chunks + (uint32_t)round_up(key_len, 8) + SUM_BYTES;
    shape.header_blocks = (shape.header_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    shape.shared = size <= (uint64_t)shape.header_blocks * BLOCK_BYTES - shape.header_bytes;
    shape.blocks = shape.header_blocks + (shape.shared ? 0 : (uint32_t)(round_up(size, BLOCK_BYTES) / BLOCK_BYTES));
    return shape;
}

static void sums_put(uint8_t *at, const struct record *record, const uint64_t *sums, uint32_t chunks)
{
    CHECK(sums || chunks <= 1);
    for (uint32_t i = 0; i < chunks; i++)
        put_le64(at + (size_t)SUM_BYTES * i, sums ? sums[i] : record->checksum);
}

void record_build(uint8_t *out, const struct record *record, const uint64_t *sums)
{
    struct record_shape shape = record_shape(record->key.len, record->size);
    memset(out, 0, (size_t)shape.header_blocks * BLOCK_BYTES);
    memcpy(out + AT_MAGIC, magic, sizeof magic);
    put_le16(out + AT_FORMAT, DISK_FORMAT);
    put_le16(out + AT_KEY_LEN, (uint16_t)record->key.len);
    put_le32(out + AT_HEADER_BYTES, shape.header_bytes);
    put_le32(out + AT_FLAGS, shape.shared ? FLAG_SHARED : 0);
    memcpy(out + AT_SEGMENT_ID, record->segment_id, DISK_ID_BYTES);
    put_le64(out + AT_SEQUENCE, record->sequence);
    put_le64(out + AT_SIZE, record->size);
    put_le64(out + AT_VERSION, record->version);
    put_le64(out + AT_NODE, record->node);
    put_le64(out + AT_EXPIRES, record->expires_ms);
    put_le32(out + AT_CODEC, CODEC_NONE);
    put_le32(out + AT_CHUNKS, shape.chunks);
    put_le64(out + AT_CHECKSUM, record->checksum);
    sums_put(out + RECORD_FIXED_BYTES, record, sums, shape.chunks);
    memcpy(out + RECORD_FIXED_BYTES + (size_t)SUM_BYTES * shape.chunks, record->key.at, record->key.len);
    size_t summed = shape.header_bytes - SUM_BYTES;
    put_le64(out + summed, XXH3_64bits(out, summed));
}

uint32_t record_peek(const uint8_t *at, size_t len)
{
    if (len < RECORD_FIXED_BYTES || memcmp(at + AT_MAGIC, magic, sizeof magic) != 0 || get_le16(at + AT_FORMAT) != DISK_FORMAT)
        return 0;
    size_t key_len = get_le16(at + AT_KEY_LEN);
    uint64_t size = get_le64(at + AT_SIZE);
    if (key_len == 0 || key_len > RECORD_KEY_MAX || size > RECORD_VALUE_MAX)
        return 0;
    struct record_shape shape = record_shape(key_len, size);
    bool fits = get_le32(at + AT_CHUNKS) == shape.chunks && get_le32(at + AT_HEADER_BYTES) == shape.header_bytes &&
                get_le32(at + AT_CODEC) == CODEC_NONE && get_le32(at + AT_FLAGS) == (shape.shared ? FLAG_SHARED : 0);
    return fits ? shape.header_bytes : 0;
}

bool record_is_newer(const uint8_t *at, size_t len)
{
    return len >= RECORD_FIXED_BYTES && memcmp(at + AT_MAGIC, magic, sizeof magic) == 0 && get_le16(at + AT_FORMAT) != DISK_FORMAT;
}

int record_parse(const uint8_t *at, size_t len, struct record *out)
{
    uint32_t header_bytes = record_peek(at, len);
    if (header_bytes == 0 || header_bytes > len)
        return KVD_ECORRUPT;
    size_t summed = header_bytes - SUM_BYTES;
    if (get_le64(at + summed) != XXH3_64bits(at, summed))
        return KVD_ECORRUPT;
    memcpy(out->segment_id, at + AT_SEGMENT_ID, DISK_ID_BYTES);
    out->sequence = get_le64(at + AT_SEQUENCE);
    out->size = get_le64(at + AT_SIZE);
    out->version = get_le64(at + AT_VERSION);
    out->node = get_le64(at + AT_NODE);
    out->expires_ms = get_le64(at + AT_EXPIRES);
    out->checksum = get_le64(at + AT_CHECKSUM);
    out->sums = at + RECORD_FIXED_BYTES;
    out->key = span_of(out->sums + (size_t)SUM_BYTES * get_le32(at + AT_CHUNKS), get_le16(at + AT_KEY_LEN));
    return 0;
}

uint64_t record_sum(const struct record *record, uint32_t i)
{
    return get_le64(record->sums + (size_t)SUM_BYTES * i);
}
