#include "store/sketch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum {
    LEAST_BYTES = 4096,
    MOST_BYTES = 1 << 20,
    LINE_WORDS = 8, /* 64 bytes: one line of the cache */
    BITS_A_KEY = 16,
    PROBES = 4,
    PROBE_BITS = 9, /* names one of the 512 bits of a line */
};

struct generation {
    uint64_t *lines;
    uint64_t keys;
};

struct sketch {
    struct generation young, old;
    uint64_t bytes; /* of each */
};

int sketch_new(struct sketch **out, uint64_t bytes)
{
    struct sketch *sketch = calloc(1, sizeof *sketch);
    if (!sketch)
        return -ENOMEM;
    sketch->bytes = LEAST_BYTES;
    while (sketch->bytes * 2 <= bytes && sketch->bytes < MOST_BYTES)
        sketch->bytes *= 2;
    sketch->young.lines = calloc(1, sketch->bytes);
    sketch->old.lines = calloc(1, sketch->bytes);
    if (!sketch->young.lines || !sketch->old.lines) {
        sketch_free(sketch);
        return -ENOMEM;
    }
    *out = sketch;
    return 0;
}

void sketch_free(struct sketch *sketch)
{
    if (!sketch)
        return;
    free(sketch->young.lines);
    free(sketch->old.lines);
    free(sketch);
}

uint64_t sketch_keys(const struct sketch *sketch)
{
    return sketch->bytes * 8 / BITS_A_KEY;
}

/* The low bits of the hash choose the line, the high ones the bits in it. */
static uint64_t *line_of(const struct sketch *sketch, const struct generation *in, uint64_t hash)
{
    uint64_t lines = sketch->bytes / (LINE_WORDS * sizeof(uint64_t));
    return in->lines + (hash & (lines - 1)) * LINE_WORDS;
}

static void bits_of(uint64_t hash, uint64_t bits[LINE_WORDS])
{
    memset(bits, 0, LINE_WORDS * sizeof *bits);
    for (unsigned i = 0; i < PROBES; i++) {
        uint64_t bit = hash >> (64 - (i + 1) * PROBE_BITS) & ((1 << PROBE_BITS) - 1);
        bits[bit / 64] |= (uint64_t)1 << bit % 64;
    }
}

static bool holds(const struct sketch *sketch, const struct generation *in, uint64_t hash)
{
    uint64_t bits[LINE_WORDS];
    const uint64_t *line = line_of(sketch, in, hash);
    bits_of(hash, bits);
    for (unsigned i = 0; i < LINE_WORDS; i++)
        if ((line[i] & bits[i]) != bits[i])
            return false;
    return true;
}

void sketch_note(struct sketch *sketch, uint64_t hash)
{
    if (holds(sketch, &sketch->young, hash))
        return;
    if (sketch->young.keys == sketch_keys(sketch)) {
        struct generation emptied = sketch->old;
        sketch->old = sketch->young;
        sketch->young = emptied;
        memset(sketch->young.lines, 0, sketch->bytes);
        sketch->young.keys = 0;
    }
    uint64_t bits[LINE_WORDS];
    uint64_t *line = line_of(sketch, &sketch->young, hash);
    bits_of(hash, bits);
    for (unsigned i = 0; i < LINE_WORDS; i++)
        line[i] |= bits[i];
    sketch->young.keys++;
}

bool sketch_knows(const struct sketch *sketch, uint64_t hash)
{
    return holds(sketch, &sketch->young, hash) || holds(sketch, &sketch->old, hash);
}
