/* output.h - what a command prints: rows of `name value` for people, or one JSON object, from the same calls.
 *
 * Owns:    the JSON object until output_end().
 * Not its: exit codes of the commands; a write error alone is its own.
 * Thread:  one.
 * When memory runs out while JSON is built, the process says so and exits with EXIT_REFUSED.
 */
#ifndef KVD_CLIENT_OUTPUT_H
#define KVD_CLIENT_OUTPUT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/kvctl/histogram.h"
#include "client/kvd.h"

enum { OUTPUT_KEY_BYTES = 4 + 2 * 1024 + 1 };

/* A key as text: itself when it has only printable ASCII and does not begin with "hex:", else "hex:" and its bytes in hex; cut
 * after 1,024 bytes. Returns `out`. */
const char *output_key_text(char out[OUTPUT_KEY_BYTES], struct kvd_key key);

/* The other way round. `room` (at least half of the text's bytes) holds the bytes of a key given as hex and is borrowed by *key. False
 * for bad hex, or a key that is not 1 to 1,024 bytes. */
bool output_key_parse(const char *text, void *room, struct kvd_key *key);

struct output {
    bool json;
    bool latency_head; /* the heading of the percentiles has been printed */
    cJSON *root;       /* with `json` */
};

void output_begin(struct output *output, bool json);

/* One row. In rows `_` prints as a blank and sizes as people write them. Texts may be the server's: bytes that are not printable
 * ASCII become '?'. */
void output_count(struct output *output, const char *name, uint64_t value);
void output_bytes(struct output *output, const char *name, uint64_t value);
void output_rate(struct output *output, const char *name, double bytes_per_second);
void output_real(struct output *output, const char *name, double value);
void output_flag(struct output *output, const char *name, bool value);
void output_text(struct output *output, const char *name, const char *text);
void output_key(struct output *output, const char *name, struct kvd_key key);
/* Nanoseconds were counted; microseconds are printed. In JSON {p50, p90, p99, p999, max, count}; no row when nothing was counted. */
void output_latency(struct output *output, const char *name, const struct histogram *nanoseconds);

/* A heading above rows (not in JSON), with a blank line before all but the first. */
void output_heading(const char *text, bool first);

/* Give up: print no JSON. */
void output_drop(struct output *output);

/* Print what is JSON, and make sure that all has left. Returns 0, or EXIT_REFUSED after a line to stderr. */
int output_end(struct output *output);

/* For lists printed while they come: as output_end() for what was printed so far. */
int output_flush(void);

/* Parts of JSON. Whole numbers are exact up to 2^64; texts as in rows. */
cJSON *json_object(void);
cJSON *json_array(cJSON *object, const char *name);
void json_append(cJSON *array, cJSON *take_item);
void json_add(cJSON *object, const char *name, cJSON *take_item);
void json_count(cJSON *object, const char *name, uint64_t value);
void json_flag(cJSON *object, const char *name, bool value);
void json_text(cJSON *object, const char *name, const char *text);
void json_key(cJSON *object, const char *name, struct kvd_key key);

/* The text without line breaks; free() it. */
char *json_line(const cJSON *item);

#endif
