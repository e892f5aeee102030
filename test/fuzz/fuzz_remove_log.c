/* Remove logs of any bytes, and of good frames with any bytes between and instead of them: nothing crashes; a log that is whole but for one
 * flipped byte reads as a whole. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "tier/remove_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEQUENCE = 9 };
static const uint8_t id[DISK_ID_BYTES] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};

static uint64_t read_count(const uint8_t *at, size_t len, int *err)
{
    struct kill_map *map;
    struct log_summary summary;
    CHECK(kill_map_new(&map, 5) == 0);
    *err = log_image_read(at, len, SEQUENCE, map, &summary);
    CHECK(*err == 0 || *err == KVD_ECORRUPT || *err == KVD_EFORMAT || *err == -12);
    uint64_t count = kill_map_count(map);
    kill_map_free(map);
    return count;
}

/* Frames whose keys are pieces of the input. */
static uint8_t *log_make(const uint8_t *data, size_t size, size_t *len, uint64_t *keys)
{
    struct log_frame frame;
    uint8_t *at = calloc(1, 65536);
    CHECK(at && log_frame_init(&frame) == 0);
    log_head_build(at, id, SEQUENCE);
    *len = LOG_FRAMES_AT;
    for (*keys = 0; *keys < 4 && size > *keys * 8 + 8; ++*keys) {
        uint8_t key[16] = {(uint8_t)*keys};
        memcpy(key + 1, data + *keys * 8, 8);
        log_frame_clear(&frame);
        CHECK(log_frame_add(&frame, KILL_KEY, span_of(key, sizeof key), *keys));
        uint32_t bytes = log_frame_finish(&frame, id, *keys);
        memcpy(at + *len, frame.at, bytes);
        *len += bytes;
    }
    log_frame_fini(&frame);
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int err;
    (void)read_count(data, size, &err);
    if (size < 4)
        return 0;
    size_t len;
    uint64_t keys;
    uint8_t *at = log_make(data, size, &len, &keys);
    size_t flip = (size_t)(data[0] | data[1] << 8) % len;
    at[flip] ^= (uint8_t)(data[2] | 1);
    CHECK(read_count(at, len, &err) == keys && err == 0);
    /* And then anything may happen to it. */
    size_t from = (size_t)(data[3] * 7) % len;
    size_t run = size < len - from ? size : len - from;
    memcpy(at + from, data, run);
    (void)read_count(at, len, &err);
    free(at);
    return 0;
}
