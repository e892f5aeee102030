/* The server's settings. */
#include <stdlib.h>

#include "base/error.h"
#include "client/kvd_impl.h"
#include "proto/settings.h"

enum { SETTINGS_MAX = 1024 };

struct settings_sink {
    kvd_setting_fn fn;
    void *arg;
};

static int setting_tell(void *arg, const char *name, const char *value)
{
    const struct settings_sink *sink = arg;
    const struct kvd_setting setting = {name, value};
    sink->fn(sink->arg, &setting);
    return 0;
}

static int exchange_settings(struct kvd *kvd, struct msg_config *request, kvd_setting_fn fn, void *arg)
{
    int result = call_begin(kvd);
    if (result)
        return result;
    struct msg_config_reply reply;
    struct call call = {.op = OP_CONFIG, .msg = request, .reply = &reply};
    result = call_run(kvd, &call);
    if (result)
        return result;
    struct settings_sink sink = {fn, arg};
    if (settings_each(reply.values, setting_tell, &sink))
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "a reply with settings that make no sense");
    return KVD_OK;
}

int kvd_config(struct kvd *kvd, const char *const *names, size_t count, kvd_setting_fn fn, void *arg)
{
    if (count > SETTINGS_MAX)
        return wire_fail(kvd, KVD_ERR_USAGE, "too many settings");
    struct span *spans = calloc(count ? count : 1, sizeof *spans);
    if (!spans)
        return wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a request");
    for (size_t i = 0; i < count; i++)
        spans[i] = span_text(names[i]);
    struct msg_config request = {.has = count ? 1u << F_CONFIG_GET : 0, .get = {spans, (uint32_t)count}};
    int result = exchange_settings(kvd, &request, fn, arg);
    free(spans);
    return result;
}

int kvd_configure(struct kvd *kvd, const struct kvd_setting *settings, size_t count, kvd_setting_fn fn, void *arg)
{
    if (count == 0 || count > SETTINGS_MAX)
        return wire_fail(kvd, KVD_ERR_USAGE, "no settings, or too many");
    struct buffer map;
    buffer_init(&map);
    pack_map(&map, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        pack_text(&map, settings[i].name);
        pack_text(&map, settings[i].value);
    }
    struct msg_config request = {.has = 1u << F_CONFIG_SET, .set = span_of(map.at, map.len)};
    int result = map.failed ? wire_fail(kvd, KVD_ERR_MEMORY, "no memory for a request") : exchange_settings(kvd, &request, fn, arg);
    buffer_fini(&map);
    return result;
}
