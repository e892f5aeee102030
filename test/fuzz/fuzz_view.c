/* Whatever bytes lie in the ring, under views/ or in an alive file, or come from a peer as a view. Nothing crashes, and what is accepted is
 * in bounds, and written again as it was.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/check.h"
#include "cluster/alive.h"
#include "cluster/view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_view(const uint8_t *at, size_t len, struct span cluster)
{
    struct view view;
    if (view_parse(at, len, cluster, &view) != 0)
        return;
    uint8_t again[VIEW_BYTES];
    CHECK(view.count >= 1 && view.count <= VIEW_MEMBERS_MAX);
    for (uint32_t i = 0; i < view.count; i++) {
        CHECK(node_id_is_good(span_text(view.members[i].id)) && node_address_is_good(span_text(view.members[i].address)));
        CHECK(view_member(&view, view.members[i].id) == &view.members[i]);
    }
    CHECK(view_build(again, cluster, &view) == 0);
    struct view_order order;
    view_order_init(&order, &view);
    CHECK(view_owner(&order, get_le64(at)) < view.count);
}

static void try_alive(const uint8_t *at, size_t len, struct span cluster)
{
    struct alive alive;
    if (alive_parse(at, len, cluster, &alive) != 0)
        return;
    CHECK(node_id_is_good(span_text(alive.name.id)) && node_address_is_good(span_text(alive.name.address)));
    uint8_t again[ALIVE_BYTES];
    alive_build(again, cluster, &alive);
    CHECK(alive_parse(again, sizeof again, cluster, &alive) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char cluster[] = "kvd";
    try_view(data, size, span_text(cluster));
    try_alive(data, size, span_text(cluster));
    /* The sum would stop nearly everything: with magic, format, sum and cluster right, the rest is what it is. */
    uint8_t *block = calloc(1, VIEW_BYTES);
    CHECK(block);
    memcpy(block, data, size < VIEW_BYTES ? size : VIEW_BYTES);
    memcpy(block, "KVDV\1\0", 6);
    block[32] = 3;
    memcpy(block + 40, cluster, 3);
    put_le64(block + VIEW_BYTES - 8, XXH3_64bits(block, VIEW_BYTES - 8));
    try_view(block, VIEW_BYTES, span_text(cluster));
    memcpy(block, "KVDA\1\0", 6);
    block[56] = 3;
    memcpy(block + 64, cluster, 3);
    put_le64(block + VIEW_BYTES - 8, XXH3_64bits(block, VIEW_BYTES - 8));
    try_alive(block, VIEW_BYTES, span_text(cluster));
    free(block);
    return 0;
}
