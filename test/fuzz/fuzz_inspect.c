/* kvctl inspect over files of any bytes: as they come, and a good segment with bytes of it changed and its sums made right again. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "client/kvctl/inspect.h"
#include "test/support/segment_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
    const uint8_t *at;
    size_t len;
    uint64_t told;
};

static int64_t memory_read(void *arg, void *buf, uint64_t len, uint64_t offset)
{
    const struct memory *memory = arg;
    if (offset >= memory->len)
        return 0;
    uint64_t got = min_u64(len, memory->len - offset);
    memcpy(buf, memory->at + offset, got);
    return (int64_t)got;
}

static void text(void *arg, const char *name, const char *value)
{
    struct memory *memory = arg;
    memory->told += strlen(name) + strlen(value);
}

static void figure(void *arg, const char *name, enum inspect_unit unit, uint64_t value)
{
    struct memory *memory = arg;
    memory->told += strlen(name) + (uint64_t)unit + (value > 0);
}

static void record(void *arg, const struct inspect_record *record)
{
    struct memory *memory = arg;
    CHECK(record->key.len > 0 && inspect_state_name(record->state));
    memory->told += record->key.at[0] + record->key.at[record->key.len - 1];
}

static void killed(void *arg, const struct inspect_kill *kill)
{
    struct memory *memory = arg;
    CHECK(kill->offset < memory->len);
    memory->told += kill->name.len > 0 ? kill->name.at[kill->name.len - 1] : 0;
}

static void remark(void *arg, bool harmless, uint64_t offset, const char *text)
{
    struct memory *memory = arg;
    memory->told += strlen(text) + (harmless ? 1 : offset & 1);
}

static void look(const uint8_t *at, size_t len, const char *name, bool verify)
{
    static const struct inspect_events events = {text, figure, record, killed, remark};
    struct memory memory = {.at = at, .len = len};
    const struct inspect_source source = {memory_read, &memory, len, name};
    int err = inspect_run(&source, verify, 1000, &events, &memory);
    CHECK(err == 0 || err == KVD_EFORMAT || err == -12);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {IMAGE_NAME, "removes-0000000000000001.log", "node", "0123456789abcdef0123456789abcdef", "x"};
    look(data, size, names[size > 0 ? data[size - 1] % 5 : 0], true);
    if (size < 4)
        return 0;
    uint8_t *at = malloc(IMAGE_FULL_BYTES);
    CHECK(at);
    segment_image(at, data[0] & 1);
    for (size_t i = 1; i + 2 < size; i += 3)
        at[(size_t)(data[i] | data[i + 1] << 8) % IMAGE_FULL_BYTES] = data[i + 2];
    if (data[0] & 2)
        segment_image_sum(at);
    look(at, data[0] & 1 ? (size_t)IMAGE_SEALED_BYTES : (size_t)IMAGE_FULL_BYTES, IMAGE_NAME, data[0] & 4);
    free(at);
    return 0;
}
