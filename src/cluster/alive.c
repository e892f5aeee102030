#include "cluster/alive.h"

#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"

enum {
    ALIVE_FORMAT = 1,
    AT_FORMAT = 4,
    AT_FLAGS = 6,
    AT_START = 8,
    AT_RANDOM = 16,
    AT_COUNT = 24,
    AT_ACKNOWLEDGED = 32,
    AT_HOST = 40,
    AT_CLUSTER_LEN = 56,
    AT_ID_LEN = 57,
    AT_ADDRESS_LEN = 58,
    AT_NAMES = 64, /* cluster, id, address */
    AT_SUM = ALIVE_BYTES - 8,
    FLAG_LEFT = 1,
    FLAG_FORMER_DEAD = 2,
};

static const uint8_t magic[4] = {'K', 'V', 'D', 'A'};

void alive_build(uint8_t out[ALIVE_BYTES], struct span cluster, const struct alive *alive)
{
    struct span id = span_text(alive->name.id), address = span_text(alive->name.address);
    CHECK(cluster.len <= NODE_ID_MAX && id.len <= NODE_ID_MAX && address.len <= NODE_ADDRESS_MAX);
    memset(out, 0, ALIVE_BYTES);
    memcpy(out, magic, sizeof magic);
    put_le16(out + AT_FORMAT, ALIVE_FORMAT);
    out[AT_FLAGS] = (uint8_t)((alive->left ? FLAG_LEFT : 0) | (alive->former_dead ? FLAG_FORMER_DEAD : 0));
    put_le64(out + AT_START, alive->name.incarnation.start);
    put_le64(out + AT_RANDOM, alive->name.incarnation.random);
    put_le64(out + AT_COUNT, alive->count);
    put_le64(out + AT_ACKNOWLEDGED, alive->acknowledged);
    memcpy(out + AT_HOST, alive->host, sizeof alive->host);
    out[AT_CLUSTER_LEN] = (uint8_t)cluster.len;
    out[AT_ID_LEN] = (uint8_t)id.len;
    out[AT_ADDRESS_LEN] = (uint8_t)address.len;
    bytes_copy(out + AT_NAMES, cluster.at, cluster.len);
    bytes_copy(out + AT_NAMES + cluster.len, id.at, id.len);
    bytes_copy(out + AT_NAMES + cluster.len + id.len, address.at, address.len);
    put_le64(out + AT_SUM, XXH3_64bits(out, AT_SUM));
}

int alive_parse(const uint8_t *at, size_t len, struct span cluster, struct alive *out)
{
    if (len != ALIVE_BYTES)
        return KVD_ECORRUPT;
    if (bytes_are_zero(at, ALIVE_BYTES))
        return ALIVE_EMPTY;
    if (memcmp(at, magic, sizeof magic) != 0 || get_le64(at + AT_SUM) != XXH3_64bits(at, AT_SUM))
        return KVD_ECORRUPT;
    if (get_le16(at + AT_FORMAT) != ALIVE_FORMAT)
        return KVD_EFORMAT;
    size_t cluster_len = at[AT_CLUSTER_LEN];
    struct span id = span_of(at + AT_NAMES + cluster_len, at[AT_ID_LEN]);
    struct span address = span_of(id.at + id.len, at[AT_ADDRESS_LEN]);
    /* Three lengths of a byte each end before the sum, whatever they are. */
    if (!node_id_is_good(id) || !node_address_is_good(address) || get_le64(at + AT_START) == 0)
        return KVD_ECORRUPT;
    if (!span_equal(span_of(at + AT_NAMES, cluster_len), cluster))
        return KVD_EFORMAT;
    struct alive alive = {
        .name = {.incarnation = {get_le64(at + AT_START), get_le64(at + AT_RANDOM)}},
        .count = get_le64(at + AT_COUNT),
        .acknowledged = get_le64(at + AT_ACKNOWLEDGED),
        .left = at[AT_FLAGS] & FLAG_LEFT,
        .former_dead = at[AT_FLAGS] & FLAG_FORMER_DEAD,
    };
    memcpy(alive.host, at + AT_HOST, sizeof alive.host);
    memcpy(alive.name.id, id.at, id.len);
    memcpy(alive.name.address, address.at, address.len);
    *out = alive;
    return 0;
}
