#include "tier/object_file.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

uint64_t object_file_bytes(size_t key_len, uint64_t size)
{
    return (uint64_t)record_shape(key_len, size).blocks * BLOCK_BYTES;
}

/* ---- reading ---- */

/* Read what is missing of the header, in place of the first block. */
static int header_read_rest(struct loop *loop, struct object_file *file, uint32_t header_bytes)
{
    uint64_t whole = round_up(header_bytes, BLOCK_BYTES);
    if (whole == BLOCK_BYTES)
        return 0;
    uint8_t *at = aligned_alloc(BLOCK_BYTES, whole);
    if (!at)
        return -ENOMEM;
    free(file->header);
    file->header = at;
    int64_t got = fs_read(loop, &file->file, at, whole, 0);
    if (got < 0)
        return (int)got;
    return (uint64_t)got < whole ? KVD_ESHORT : 0;
}

static int header_read(struct loop *loop, struct object_file *file)
{
    int64_t got = fs_read(loop, &file->file, file->header, BLOCK_BYTES, 0);
    if (got < 0)
        return (int)got;
    if (got < BLOCK_BYTES)
        return KVD_ESHORT;
    if (record_is_newer(file->header, BLOCK_BYTES))
        return KVD_EFORMAT;
    uint32_t header_bytes = record_peek(file->header, BLOCK_BYTES);
    if (header_bytes == 0)
        return KVD_ECORRUPT;
    int err = header_read_rest(loop, file, header_bytes);
    return err ? err : record_parse(file->header, round_up(header_bytes, BLOCK_BYTES), &file->record);
}

int object_file_open(struct loop *loop, const char *path, struct object_file *out)
{
    struct object_file file = {.header = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES)};
    if (!file.header)
        return -ENOMEM;
    int err = fs_open(loop, &file.file, path, FS_READ_ONLY | FS_DIRECT);
    if (err)
        goto fail_header;
    err = header_read(loop, &file);
    if (err)
        goto fail_file;
    file.shape = record_shape(file.record.key.len, file.record.size);
    *out = file;
    return 0;

fail_file:
    (void)fs_close(loop, &file.file);
fail_header:
    free(file.header);
    return err;
}

void object_file_close(struct loop *loop, struct object_file *file)
{
    (void)fs_close(loop, &file->file);
    free(file->header);
}

static int value_read(struct loop *loop, const struct object_file *file, uint64_t offset, struct blob *blob, uint64_t piece_bytes)
{
    uint64_t from = (uint64_t)file->shape.header_blocks * BLOCK_BYTES + offset;
    uint64_t end = round_up(blob_size(blob), BLOCK_BYTES);
    for (uint64_t at = 0; at < end;) {
        size_t run;
        uint8_t *to = blob_at(blob, at, &run);
        uint64_t len = min_u64(min_u64(run, end - at), piece_bytes);
        int64_t got = fs_read(loop, &file->file, to, len, from + at);
        if (got < 0)
            return (int)got;
        if ((uint64_t)got < len)
            return KVD_ESHORT;
        at += len;
    }
    return 0;
}

static void shared_copy(const struct object_file *file, uint64_t offset, struct blob *blob)
{
    const uint8_t *from = file->header + file->shape.header_bytes + offset;
    for (uint64_t at = 0; at < blob_size(blob);) {
        size_t run;
        uint8_t *to = blob_at(blob, at, &run);
        run = min_u64(run, blob_size(blob) - at);
        memcpy(to, from + at, run);
        at += run;
    }
}

/* Of a whole value the sums stay with it: who writes it again need not take them. */
static int chunks_judge(const struct object_file *file, uint64_t offset, struct blob *blob)
{
    uint64_t *sums = blob_size(blob) == file->record.size ? blob_sums(blob) : NULL;
    for (uint64_t at = 0; at < blob_size(blob); at += RECORD_CHUNK_BYTES) {
        uint64_t len = min_u64(RECORD_CHUNK_BYTES, blob_size(blob) - at);
        uint64_t sum = record_sum(&file->record, (uint32_t)((offset + at) / RECORD_CHUNK_BYTES));
        if (blob_range_sum(blob, at, len) != sum)
            return KVD_ECORRUPT;
        if (sums)
            sums[at / RECORD_CHUNK_BYTES] = sum;
    }
    return 0;
}

int object_file_read(struct loop *loop, const struct object_file *file, uint64_t offset, struct blob *blob, uint64_t piece_bytes)
{
    int err = blob_size(blob) == file->record.size ? blob_sums_make(blob) : 0;
    if (err)
        return err;
    if (file->shape.shared) {
        shared_copy(file, offset, blob);
    } else {
        err = value_read(loop, file, offset, blob, piece_bytes);
        if (err)
            return err;
    }
    return chunks_judge(file, offset, blob);
}

/* ---- writing ---- */

/* The header's blocks, with the value in them if it fits. NULL when the heap is out. */
static uint8_t *header_build(const struct record *record, const struct record_shape *shape, const struct blob *blob)
{
    uint8_t *header = aligned_alloc(BLOCK_BYTES, (size_t)shape->header_blocks * BLOCK_BYTES);
    if (!header)
        return NULL;
    record_build(header, record, shape->chunks > 1 ? blob_sums(blob) : NULL);
    for (uint64_t at = shape->shared ? 0 : record->size; at < record->size;) {
        size_t run;
        const uint8_t *from = blob_at(blob, at, &run);
        run = min_u64(run, record->size - at);
        memcpy(header + shape->header_bytes + at, from, run);
        at += run;
    }
    return header;
}

static int value_write(struct loop *loop, const struct file *file, uint64_t to, const struct blob *blob)
{
    uint64_t end = round_up(blob_size(blob), BLOCK_BYTES);
    for (uint64_t at = 0; at < end;) {
        size_t run;
        const uint8_t *from = blob_at(blob, at, &run);
        run = min_u64(run, end - at);
        int err = fs_write(loop, file, from, run, to + at);
        if (err)
            return err;
        at += run;
    }
    return 0;
}

int object_file_write(struct loop *loop, const char *path, const struct record *record, const struct blob *blob)
{
    struct record_shape shape = record_shape(record->key.len, record->size);
    struct file file;
    uint8_t *header = header_build(record, &shape, blob);
    if (!header)
        return -ENOMEM;
    int err = fs_open(loop, &file, path, FS_CREATE | FS_DIRECT);
    if (err) {
        free(header);
        return err;
    }
    uint64_t header_bytes = (uint64_t)shape.header_blocks * BLOCK_BYTES;
    err = fs_write(loop, &file, header, header_bytes, 0);
    if (!err && !shape.shared)
        err = value_write(loop, &file, header_bytes, blob);
    if (!err)
        err = fs_sync(loop, &file);
    int close_err = fs_close(loop, &file);
    free(header);
    return err ? err : close_err;
}
