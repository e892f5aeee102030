/* locate: where a key's object lies if each has a file of its own. Computed here: no server is asked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/kvctl/kvctl.h"
#include "client/kvctl/output.h"
#include "tier/object_name.h"

static char *path_of(const struct args *args, struct kvd_key key)
{
    const char *dir = args_has(args, OPT_DIR) ? args->values[OPT_DIR] : "";
    const char *cluster = args_has(args, OPT_CLUSTER) ? args->values[OPT_CLUSTER] : "kvd";
    size_t dir_len = strlen(dir);
    const char *slash = dir_len > 0 && dir[dir_len - 1] != '/' ? "/" : "";
    struct object_name name = object_name_of(span_of(key.at, key.len));
    char *path;
    return asprintf(&path, "%s%s%s/" OBJECTS_FOLDER "/%.2s/%s", dir, slash, cluster, name.hex, name.hex) < 0 ? NULL : path;
}

static int print_paths(const struct ctl *ctl, const struct ctl_keys *keys)
{
    struct output output;
    output_begin(&output, ctl->json);
    cJSON *list = ctl->json ? json_array(output.root, "objects") : NULL;
    for (size_t i = 0; i < keys->count; i++) {
        char *path = path_of(ctl->args, keys->keys[i]);
        if (!path) {
            output_drop(&output);
            return ctl_say(ctl, EXIT_REFUSED, "out of memory");
        }
        if (list) {
            cJSON *item = json_object();
            json_append(list, item);
            json_key(item, "key", keys->keys[i]);
            json_text(item, "file", path);
        } else {
            puts(path);
        }
        free(path);
    }
    return output_end(&output);
}

int cmd_locate(struct ctl *ctl)
{
    struct ctl_keys keys;
    int code = ctl_keys_parse(ctl, ctl->args->operands, ctl->args->count, &keys);
    if (code)
        return code;
    code = print_paths(ctl, &keys);
    ctl_keys_free(&keys);
    return code;
}
