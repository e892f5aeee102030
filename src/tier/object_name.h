/* object_name.h - the name that an object's own file has: made of the key alone, so that any host finds it.
 *
 * <dir>/<cluster>/objects/<first 2 hex>/<32 hex>: the XXH3-128 (seed 0) of the key, written as the number it is. While it is being
 * written it lies beside that under a name that carries the node.
 *
 * Pure functions; any thread.
 */
#ifndef KVD_TIER_OBJECT_NAME_H
#define KVD_TIER_OBJECT_NAME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

#define OBJECTS_FOLDER "objects"

enum {
    OBJECT_FANS = 256, /* folders that the files are spread over */
    OBJECT_HEX = 32,
    OBJECT_TEMP_CHARS = OBJECT_HEX + 1 + 16 + 4, /* "<32 hex>.<16 hex>.tmp" */
};

struct object_name {
    char hex[OBJECT_HEX + 1]; /* the first two are the folder's name, too */
};

struct object_name object_name_of(struct span key);
/* Which folder: 0 to 255. */
unsigned object_name_fan(const struct object_name *name);
/* Is it the name of an object's file? Then *out is set. */
bool object_name_parse(const char *text, struct object_name *out);

/* The name under which `node` (XXH3-64 of its name) writes it. */
void object_temp_name(const struct object_name *name, uint64_t node, char out[OBJECT_TEMP_CHARS + 1]);
/* Is it such a name, of any node? Then *node is set. */
bool object_temp_parse(const char *text, uint64_t *node);

#endif
