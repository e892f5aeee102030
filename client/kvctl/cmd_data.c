/* The commands that change or move data: put, get, rm, pin. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "client/kvctl/kvctl.h"
#include "client/kvctl/local.h"
#include "client/kvctl/output.h"

#define MAX_TTL_MS ((uint64_t)3650 * 24 * 3600 * 1000)

/* ---- put ---- */

static unsigned put_flags(const struct args *args)
{
    return (args_has(args, OPT_REPLACE) ? (unsigned)KVD_PUT_REPLACE : 0) | (args_has(args, OPT_ACK_DISK) ? (unsigned)KVD_PUT_ACK_DISK : 0) |
           (args_has(args, OPT_PIN) ? (unsigned)KVD_PUT_PIN : 0);
}

static int put_say(const struct ctl *ctl, struct kvd_key key, int result, size_t len, uint64_t version)
{
    struct output output;
    output_begin(&output, ctl->json);
    output_key(&output, "key", key);
    output_text(&output, "result", result == KVD_PRESENT ? "present" : "stored");
    output_bytes(&output, "bytes", len);
    output_count(&output, "version", version);
    return output_end(&output);
}

static int put_read_failed(const struct ctl *ctl, const char *path, int err, uint64_t limit)
{
    char size[32];
    if (err == KVD_ETOOLARGE)
        return ctl_say(ctl, EXIT_REFUSED, "%s: too large: this server takes values of at most %s", path,
                       text_from_size(size, sizeof size, limit));
    return ctl_say(ctl, EXIT_USAGE, "%s: %s", path, error_text(err));
}

static int put_file(struct ctl *ctl, struct kvd_key key, const char *path, uint64_t ttl_ms)
{
    void *value = NULL;
    size_t len = 0;
    uint64_t version = 0;

    /* Connected first: the server's limit bounds what is read. */
    int code = ctl_connect(ctl);
    if (code)
        return code;
    const uint64_t limit = min_u64(kvd_server(ctl->kvd)->value_bytes, TIB);
    const int err = local_read(path, (size_t)limit, &value, &len);
    if (err)
        return put_read_failed(ctl, path, err, limit);
    const int result = kvd_put_for(ctl->kvd, key, value, len, put_flags(ctl->args), ttl_ms, &version);
    code = result < 0 ? ctl_failed(ctl, ctl->kvd, result, ctl->args->operands[0]) : put_say(ctl, key, result, len, version);
    free(value);
    return code;
}

int cmd_put(struct ctl *ctl)
{
    struct ctl_keys keys;
    uint64_t ttl_ms = 0;

    int code = ctl_duration(ctl, OPT_TTL, 0, MAX_TTL_MS, &ttl_ms);
    if (code == 0)
        code = ctl_keys_parse(ctl, ctl->args->operands, 1, &keys);
    if (code)
        return code;
    code = put_file(ctl, keys.keys[0], ctl->args->operands[1], ttl_ms);
    ctl_keys_free(&keys);
    return code;
}

/* ---- get ---- */

struct value {
    void *bytes;
    size_t len;
    char tier;     /* 0: not known */
    uint64_t size; /* of the whole of it, for a range */
};

/* Room for a range is taken by the value's size, so that it is bounded by what is there. */
static int get_range(struct kvd *kvd, struct kvd_key key, uint64_t offset, uint64_t length, struct value *out)
{
    struct kvd_stat stat;

    int result = kvd_stat(kvd, key, &stat);
    if (result != KVD_OK)
        return result;
    const uint64_t most = min_u64(length, stat.size - min_u64(offset, stat.size));
    out->size = stat.size;
    void *bytes = malloc(most ? (size_t)most : 1);
    if (!bytes)
        return KVD_ERR_MEMORY;
    result = kvd_get_range(kvd, key, offset, most, bytes, &out->len);
    if (result == KVD_OK)
        out->bytes = bytes;
    else
        free(bytes);
    return result;
}

static const char *tier_name(char tier)
{
    return tier == 'm' ? "memory" : tier == 'd' ? "disk" : "peer";
}

static int get_to_file(const struct ctl *ctl, struct kvd_key key, const struct value *value, const char *path)
{
    struct output output;

    const int err = local_write(path, value->bytes, value->len);
    if (err)
        return ctl_say(ctl, EXIT_REFUSED, "%s: %s", path, error_text(err));
    if (!ctl->json)
        return EXIT_DONE;
    output_begin(&output, true);
    output_key(&output, "key", key);
    output_bytes(&output, "bytes", value->len);
    if (value->tier)
        output_text(&output, "tier", tier_name(value->tier));
    output_text(&output, "file", path);
    return output_end(&output);
}

static int get_value(struct ctl *ctl, struct kvd_key key, uint64_t offset, uint64_t length)
{
    struct value value = {0};
    const bool whole = !args_has(ctl->args, OPT_OFFSET) && !args_has(ctl->args, OPT_LENGTH);
    const char *path = ctl->args->values[OPT_OUTPUT];

    int code = ctl_connect(ctl);
    if (code)
        return code;
    const int result =
        whole ? kvd_get_alloc(ctl->kvd, key, &value.bytes, &value.len, &value.tier) : get_range(ctl->kvd, key, offset, length, &value);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, ctl->args->operands[0]);
    if (result == KVD_MISS)
        return ctl_say(ctl, EXIT_MISS, "%s: not there", ctl->args->operands[0]);
    if (!whole && offset > value.size)
        fprintf(stderr, "kvctl get: %s has %" PRIu64 " bytes: nothing from %" PRIu64 " on\n", ctl->args->operands[0], value.size, offset);
    if (path && strcmp(path, "-") != 0) {
        code = get_to_file(ctl, key, &value, path);
    } else {
        fwrite(value.bytes, 1, value.len, stdout);
        code = output_flush();
    }
    free(value.bytes);
    return code;
}

int cmd_get(struct ctl *ctl)
{
    const char *path = ctl->args->values[OPT_OUTPUT];
    uint64_t offset = 0, length = 0;
    struct ctl_keys keys;

    if (ctl->json && (!path || strcmp(path, "-") == 0))
        return ctl_usage(ctl, "--json needs -o FILE: the value itself goes to standard output");
    int code = ctl_size(ctl, OPT_OFFSET, 0, 0, INT64_MAX, &offset);
    if (code == 0)
        code = ctl_size(ctl, OPT_LENGTH, INT64_MAX, 0, INT64_MAX, &length);
    if (code == 0)
        code = ctl_keys_parse(ctl, ctl->args->operands, 1, &keys);
    if (code)
        return code;
    code = get_value(ctl, keys.keys[0], offset, length);
    ctl_keys_free(&keys);
    return code;
}

/* ---- rm ---- */

static int rm_usage(const struct ctl *ctl)
{
    const bool prefix = args_has(ctl->args, OPT_PREFIX), all = args_has(ctl->args, OPT_ALL);
    const int ways = (ctl->args->count > 0) + prefix + all;

    if (ways != 1)
        return ctl_usage(ctl, "needs either keys, or --prefix, or --all");
    if (prefix && ctl->args->values[OPT_PREFIX][0] == '\0')
        return ctl_usage(ctl, "an empty prefix is every key: say --all");
    return 0;
}

static int rm_call(struct ctl *ctl, const struct ctl_keys *keys, uint64_t *removed)
{
    if (args_has(ctl->args, OPT_ALL))
        return kvd_remove_all(ctl->kvd, removed);
    if (args_has(ctl->args, OPT_PREFIX))
        return kvd_remove_prefix(ctl->kvd, keys->keys[0], removed);
    return kvd_remove(ctl->kvd, keys->keys, keys->count, removed);
}

static int rm_keys(struct ctl *ctl, const struct ctl_keys *keys)
{
    struct output output;
    uint64_t removed = 0;

    int code = ctl_connect(ctl);
    if (code)
        return code;
    const int result = rm_call(ctl, keys, &removed);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_count(&output, "removed", removed);
    code = output_end(&output);
    return code == 0 && removed == 0 && ctl->args->count > 0 ? EXIT_MISS : code;
}

int cmd_rm(struct ctl *ctl)
{
    struct ctl_keys keys;
    const bool prefix = args_has(ctl->args, OPT_PREFIX);

    int code = rm_usage(ctl);
    if (code == 0)
        code = ctl_keys_parse(ctl, prefix ? &ctl->args->values[OPT_PREFIX] : ctl->args->operands, prefix ? 1 : ctl->args->count, &keys);
    if (code)
        return code;
    code = rm_keys(ctl, &keys);
    ctl_keys_free(&keys);
    return code;
}

/* ---- pin ---- */

/* What was pinned before and what is not there both leave `changed` below the number of keys; only the latter is a miss. */
static int pin_missing(struct ctl *ctl, const struct ctl_keys *keys, uint64_t *missing)
{
    uint8_t *present = calloc(keys->count, 1);
    if (!present)
        return KVD_ERR_MEMORY;
    const int result = kvd_exists(ctl->kvd, keys->keys, keys->count, present);
    *missing = 0;
    for (size_t i = 0; i < keys->count; i++)
        *missing += present[i] == 0;
    free(present);
    return result;
}

static int pin_keys(struct ctl *ctl, const struct ctl_keys *keys)
{
    struct output output;
    uint64_t changed = 0, missing = 0;

    int code = ctl_connect(ctl);
    if (code)
        return code;
    int result = kvd_pin(ctl->kvd, keys->keys, keys->count, !args_has(ctl->args, OPT_OFF), &changed);
    if (result >= 0 && changed < keys->count)
        result = pin_missing(ctl, keys, &missing);
    if (result < 0)
        return ctl_failed(ctl, ctl->kvd, result, NULL);
    output_begin(&output, ctl->json);
    output_count(&output, "changed", changed);
    output_count(&output, "missing", missing);
    code = output_end(&output);
    return code == 0 && missing > 0 ? EXIT_MISS : code;
}

int cmd_pin(struct ctl *ctl)
{
    struct ctl_keys keys;

    int code = ctl_keys_parse(ctl, ctl->args->operands, ctl->args->count, &keys);
    if (code)
        return code;
    code = pin_keys(ctl, &keys);
    ctl_keys_free(&keys);
    return code;
}
