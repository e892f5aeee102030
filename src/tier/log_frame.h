/* log_frame.h - the bytes of a remove log: its headers, and frames of entries, each frame written twice.
 *
 * Pure but for the heap; any thread. Bytes that are parsed may be anything. docs/disk-format.md has it byte by byte.
 */
#ifndef KVD_TIER_LOG_FRAME_H
#define KVD_TIER_LOG_FRAME_H

#include "tier/record.h"

enum {
    LOG_HEAD_BYTES = 40,
    LOG_FRAMES_AT = 2 * LOG_HEAD_BYTES, /* the header is there twice */
    LOG_FRAME_HEAD_BYTES = 56,
    LOG_ENTRY_HEAD_BYTES = 12,
    LOG_PAYLOAD_MAX_BYTES = 256 * 1024,
};

enum kill_kind { KILL_KEY = 1, KILL_PREFIX = 2, KILL_ALL = 3, KILL_SEGMENT = 4 };

/* ---- building ---- */

struct log_frame {
    uint8_t *at; /* room for the longest frame, twice */
    uint32_t len;
    uint32_t count;
};

/* 0 or -ENOMEM. */
int log_frame_init(struct log_frame *frame);
void log_frame_fini(struct log_frame *frame);
/* Begin anew. */
void log_frame_clear(struct log_frame *frame);
/* False when it is full. */
bool log_frame_add(struct log_frame *frame, enum kill_kind kind, struct span name, uint64_t version);
/* Header, sums, second copy. Returns the bytes to write from frame->at. */
uint32_t log_frame_finish(struct log_frame *frame, const uint8_t id[DISK_ID_BYTES], uint64_t number);

/* The two headers of a file. */
void log_head_build(uint8_t out[LOG_FRAMES_AT], const uint8_t id[DISK_ID_BYTES], uint64_t sequence);

/* ---- reading ---- */

struct log_head {
    uint8_t id[DISK_ID_BYTES];
    uint64_t sequence; /* as in the file's name */
};
/* Judge one copy of LOG_HEAD_BYTES. */
bool log_head_copy_is_good(const uint8_t *head);
/* Judge both: 0 when one is good, KVD_EFORMAT (both are of a newer format), KVD_ECORRUPT. */
int log_head_parse(const uint8_t *at, size_t len, struct log_head *out);

/* A whole file, where its reader is, and which frame must be next. */
struct log_reader {
    const uint8_t *at;
    size_t len;
    size_t pos;
    uint64_t number;
    const uint8_t *id;
};
/* Both are borrowed. */
static inline struct log_reader log_reader(const uint8_t *at, size_t len, const uint8_t id[DISK_ID_BYTES])
{
    return (struct log_reader){.at = at, .len = len, .pos = LOG_FRAMES_AT, .id = id};
}

/* Bytes of one copy of a frame that is whole at `pos` and has number `least` or a higher one; 0 when there is none. */
uint32_t log_frame_at(const struct log_reader *reader, size_t pos, uint64_t least);

/* A good copy of a frame. */
struct log_copy {
    size_t offset;
    uint32_t bytes;
};
enum { LOG_END, LOG_FRAME, LOG_ENTRY = LOG_FRAME, LOG_TORN };
/* Find the next frame by either copy. LOG_FRAME: the reader stands after both; LOG_END; LOG_TORN: what follows was cut off and never
 * acknowledged; or KVD_ECORRUPT: a frame is lost before one that is there. */
int log_reader_next(struct log_reader *reader, struct log_copy *out);

struct log_entry {
    enum kill_kind kind;
    struct span name; /* the key; the prefix; nothing; the segment's id */
    uint64_t version;
};
struct log_entries {
    const uint8_t *at, *end;
    uint32_t left;
};
struct log_entries log_entries(const struct log_reader *reader, const struct log_copy *copy);
/* LOG_ENTRY, LOG_END, or KVD_ECORRUPT: entries that make no sense. */
int log_entries_next(struct log_entries *entries, struct log_entry *out);

#endif
