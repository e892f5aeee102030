/* inspect_impl.h - what the judges of each kind of file share. See inspect.h. */
#ifndef KVD_CLIENT_INSPECT_IMPL_H
#define KVD_CLIENT_INSPECT_IMPL_H

#include "client/kvctl/inspect.h"
#include "tier/record.h"

enum { INSPECT_BUFFER_BYTES = RECORD_HEADER_MAX_BYTES, INSPECT_TEXT_BYTES = 400 };

struct inspect {
    const struct inspect_source *source;
    const struct inspect_events *events;
    void *arg;
    bool verify;
    uint64_t now_ms;
    uint8_t *header; /* three buffers of INSPECT_BUFFER_BYTES */
    uint8_t *chunk;
    uint8_t *window;
    uint64_t found, found_bytes, expired; /* records that kvd would find */
    uint64_t problems;
};

void inspect_wrong(struct inspect *inspect, uint64_t offset, const char *format, ...) __attribute__((format(printf, 3, 4)));
void inspect_note(struct inspect *inspect, uint64_t offset, const char *format, ...) __attribute__((format(printf, 3, 4)));
void inspect_text(struct inspect *inspect, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
void inspect_figure(struct inspect *inspect, const char *name, enum inspect_unit unit, uint64_t value);
/* A name off the disk as a text; what is not printable becomes '?'. */
void inspect_name(struct inspect *inspect, const char *name, struct span value);
void inspect_id(struct inspect *inspect, const uint8_t id[DISK_ID_BYTES]);

/* All of it: 0, KVD_ESHORT, or -errno. */
int inspect_read(const struct inspect *inspect, void *buf, uint64_t len, uint64_t offset);

/* Where the first byte that is not zero lies in [offset, end); `end` when there is none, or when reading failed (then *err). */
uint64_t inspect_not_zero(const struct inspect *inspect, uint64_t offset, uint64_t end, int *err);

/* The header at `offset`, into inspect->header, for a record that must end at `end` at the latest. 0: `record` points into that buffer;
 * KVD_ECORRUPT: *why says what it is instead, static; or -errno. */
int inspect_record_read(struct inspect *inspect, uint64_t offset, uint64_t end, struct record *record, struct record_shape *shape,
                        const char **why);

/* Judge the value and what lies around it; the header is in inspect->header. Says what is wrong. 0, KVD_ECORRUPT (the value is not what
 * was written), or -errno. Without `verify` it says 0. */
int inspect_value(struct inspect *inspect, uint64_t offset, const struct record *record, const struct record_shape *shape);

/* Tell of it, and count it when kvd would find it. */
void inspect_tell(struct inspect *inspect, uint64_t offset, const struct record *record, const struct record_shape *shape,
                  enum inspect_state state);

/* The sequence in a name like PREFIX<16 hex digits>SUFFIX. */
bool inspect_sequence(const char *name, const char *prefix, const char *suffix, uint64_t *sequence);

/* The kinds; inspect->header holds the first block, zeros after the file's end. 0 or -ENOMEM. */
int inspect_segment(struct inspect *inspect);
int inspect_object(struct inspect *inspect);
int inspect_remove_log(struct inspect *inspect);
int inspect_node_file(struct inspect *inspect);

#endif
