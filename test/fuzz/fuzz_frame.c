/* Any 28 bytes: what is a prefix encodes to the same bytes again. */
#include <string.h>

#include "base/check.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < FRAME_PREFIX_BYTES)
        return 0;
    struct frame frame;
    if (frame_decode(data, &frame))
        return 0;
    uint8_t again[FRAME_PREFIX_BYTES];
    frame_encode(again, &frame);
    CHECK(memcmp(again, data, sizeof again) == 0);
    const char *op = op_name(frame.op);
    const char *code = code_name(frame.code);
    CHECK((!op || *op) && (!code || *code));
    return 0;
}
