/* Any bytes as records of any kind: what is counted is taken, record by record to the end, and put again as it was. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "proto/batch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool copy_one(enum batch_kind kind, struct span *bytes, struct batch *out)
{
    struct batch_object object;
    struct batch_holding holding;
    struct batch_answer answer;
    struct batch_kill kill;
    uint64_t version;
    switch (kind) {
    case BATCH_OBJECT:
        batch_take_object(bytes, &object);
        return batch_put_object(out, &object);
    case BATCH_HOLDING:
        batch_take_holding(bytes, &holding);
        return batch_put_holding(out, &holding);
    case BATCH_ANSWER:
        batch_take_answer(bytes, &answer);
        return batch_put_answer(out, &answer);
    case BATCH_VERSION:
        batch_take_version(bytes, &version);
        return batch_put_version(out, version);
    case BATCH_KILL:
        batch_take_kill(bytes, &kill);
        return batch_put_kill(out, &kill);
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum batch_kind kind = (enum batch_kind)(data[0] % (BATCH_KILL + 1));
    struct span bytes = span_of(data + 1, size - 1), left = bytes;
    int count = batch_count(kind, bytes);
    if (count < 0)
        return 0;
    struct batch out = {.at = malloc(size), .room = bytes.len};
    CHECK(out.at);
    for (int i = 0; i < count; i++)
        CHECK(copy_one(kind, &left, &out));
    CHECK(left.len == 0 && span_equal(bytes, span_of(out.at, out.len)));
    free(out.at);
    return 0;
}
