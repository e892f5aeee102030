/* settings.h - the map that CONFIG's `set` carries. Pure; any thread. */
#ifndef KVD_PROTO_SETTINGS_H
#define KVD_PROTO_SETTINGS_H

#include "base/bytes.h"

enum { SETTING_NAME_BYTES = 64, SETTING_VALUE_BYTES = 1024 };

/* Returns 0 to go on. */
typedef int (*setting_fn)(void *arg, const char *name, const char *value);

/* Call fn for each pair of the map, values as text ("yes" and "no" for booleans). `map` has passed meta_check(). Returns 0; what fn
 * returned, if that is not 0; KVD_EPROTO when it is no map, or a name is no str, or a value no str, bool or unsigned, or one is too long;
 * -ENOMEM. */
int settings_each(struct span map, setting_fn fn, void *arg);

#endif
