/* index.h - the list of a stretch of records that is written into a segment after it: built, judged, walked.
 *
 * Pure but for the heap; any thread. Bytes that are parsed may be anything. docs/disk-format.md has it byte by byte.
 */
#ifndef KVD_TIER_INDEX_H
#define KVD_TIER_INDEX_H

#include "tier/record.h"

enum { INDEX_HEAD_BYTES = 72, INDEX_ENTRY_BYTES = 42 };

struct index_entry {
    struct span key;
    uint64_t version;
    uint64_t size;
    uint64_t checksum;
    uint64_t expires_ms;
    uint32_t block;
    uint32_t blocks;
};

/* An index being built, in memory that can be written as it is. */
struct index_buffer {
    uint8_t *at; /* 4 KiB aligned; NULL before index_init() */
    size_t len;  /* the header's place included */
    size_t room; /* whole blocks */
    uint32_t count;
};

struct index_head {
    uint8_t segment_id[DISK_ID_BYTES];
    uint64_t next_sequence; /* of the first record after it */
    uint64_t payload_bytes; /* of entries; set by index_finish() */
    uint64_t payload_sum;   /* likewise */
    uint32_t ordinal;
    uint32_t count; /* set by index_finish() */
    uint32_t from_block;
    uint32_t block; /* its own; it names every record of blocks [from_block, block) */
    bool final;
};

/* 0 or -ENOMEM. */
int index_init(struct index_buffer *buffer);
void index_fini(struct index_buffer *buffer);
/* 0 or -ENOMEM. The key is copied. */
int index_add(struct index_buffer *buffer, const struct index_entry *entry);
/* Take out the record at `block`, if it is there. */
void index_drop(struct index_buffer *buffer, uint32_t block);
/* Bytes that it takes on disk (whole blocks), with another entry of a key of `key_len` (0: without). */
uint64_t index_bytes(const struct index_buffer *buffer, size_t key_len);
/* Write the header, zero the padding; the buffer can be written then: index_bytes(buffer, 0) bytes. */
void index_finish(struct index_buffer *buffer, const struct index_head *head);

/* Judge the header alone. 0 or KVD_ECORRUPT. */
int index_parse_head(const uint8_t *at, size_t len, struct index_head *out);
/* Judge all of it. 0 or KVD_ECORRUPT. */
int index_parse(const uint8_t *at, size_t len, struct index_head *out);
/* Whole blocks that an index with this header takes. */
uint64_t index_head_blocks(const struct index_head *head);

/* Walk entries; begin with what index_entries() gives. False at the end, or at the first entry that makes no sense. */
struct index_cursor {
    const uint8_t *at;
    const uint8_t *end;
};
struct index_cursor index_entries(const uint8_t *at, const struct index_head *head);
bool index_next(struct index_cursor *cursor, struct index_entry *out);

#endif
