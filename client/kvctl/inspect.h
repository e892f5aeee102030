/* inspect.h - judge one file of the disk tier without a server: what it is, what is in it, what is wrong with it, and what kvd would make
 * of it at start.
 *
 * Owns:    its buffers, some MiB at most however large the file is (a remove log, at most 64 MiB long, is held whole).
 * Borrows: the source and whoever is told, for the call.
 * Not its: how it is printed. It knows of no other file: whether a remove log elsewhere says that a record is dead is not looked at.
 * Thread:  one. What is read may be anything.
 */
#ifndef KVD_CLIENT_INSPECT_H
#define KVD_CLIENT_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* Where the bytes come from. `read` returns how many there were (fewer than asked at the end alone), or -errno. */
struct inspect_source {
    int64_t (*read)(void *arg, void *buf, uint64_t len, uint64_t offset);
    void *arg;
    uint64_t bytes;
    const char *name; /* the file's, without its folder; a segment's says its sequence */
};

enum inspect_state {
    INSPECT_INDEXED, /* an index names it: kvd finds it without reading it */
    INSPECT_WALKED,  /* no good index covers it: kvd reads and verifies it at start, and finds it */
    INSPECT_ALONE,   /* a file of its own */
    INSPECT_DAMAGED, /* an index names it and it is not right: kvd finds it, and drops it when it is read */
    INSPECT_VOID,    /* no index covers it and its value is not right: kvd steps over it */
    INSPECT_UNNAMED, /* the index of its stretch does not name it (its write failed): kvd does not know it */
};
const char *inspect_state_name(enum inspect_state state);

struct inspect_record {
    struct span key; /* borrowed for the call, as all spans here */
    uint64_t version, size, checksum;
    uint64_t expires_ms; /* wall clock; 0: never */
    uint64_t offset;     /* of its header in the file */
    uint64_t bytes;      /* that it takes there */
    enum inspect_state state;
};

/* An entry of a remove log. */
struct inspect_kill {
    const char *kind; /* "key", "prefix", "all", "segment" */
    struct span name;
    uint64_t version;
    uint64_t offset; /* of the frame that holds it */
};

enum inspect_unit { INSPECT_COUNT, INSPECT_BYTES, INSPECT_TIME_MS };

struct inspect_events {
    /* What is known of the file as a whole: first all that its header says, then records, then the sums. */
    void (*text)(void *arg, const char *name, const char *value);
    void (*figure)(void *arg, const char *name, enum inspect_unit unit, uint64_t value);
    void (*record)(void *arg, const struct inspect_record *record);
    void (*kill)(void *arg, const struct inspect_kill *kill);
    /* Something is wrong (or, with `harmless`, worth a word) at `offset`. */
    void (*remark)(void *arg, bool harmless, uint64_t offset, const char *text);
};

/* Judge it. With `verify` values are read as well. `now_ms` tells what has expired. Returns 0: what is wrong was told; KVD_EFORMAT: it
 * is no file of kvd's; -ENOMEM; or -errno when not even its first block can be read. */
int inspect_run(const struct inspect_source *source, bool verify, uint64_t now_ms, const struct inspect_events *events, void *arg);

#endif
