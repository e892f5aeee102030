/* text.h - numbers, addresses and names as people write them. Pure functions; any thread. */
#ifndef KVD_BASE_TEXT_H
#define KVD_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* "4096", "512m", "4g", "1.5t", "64KiB": bytes, units of 1,024, any case, with or without "b" or "ib".
 * False, and *bytes untouched, for anything else, an overflow included. */
bool text_to_size(const char *text, uint64_t *bytes);

/* "250ms", "5s", "2m", "1h": milliseconds. Only 0 may go without a unit: who writes 5 may mean anything. False as above. */
bool text_to_duration(const char *text, uint64_t *ms);

/* A whole decimal number. False as above. */
bool text_to_u64(const char *text, uint64_t *value);

/* "yes", "true", "on", "1" and their opposites. False as above. */
bool text_to_bool(const char *text, bool *value);

/* Write `bytes` in the largest unit that stays exact to two decimals: "64 KiB", "11.21 GiB". Returns `out`. */
char *text_from_size(char *out, size_t out_len, uint64_t bytes);

/* Write `bytes` as text_to_size reads it, exactly: "4g", "1536m", "100". Returns `out`. */
char *text_exact_size(char *out, size_t out_len, uint64_t bytes);

/* Split "HOST:PORT" or "[V6]:PORT" into `host` (with brackets gone) and `port`. False when there is no valid port or
 * no host, or the host does not fit. */
bool text_split_address(const char *text, char *host, size_t host_len, uint16_t *port);

/* What nodes, clusters and tokens may be called: 1 to `most` letters (of ASCII), digits, '.', '_' and '-'. */
bool text_is_name(struct span text, size_t most);

#endif
