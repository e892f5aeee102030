#include "cluster/rules.h"

uint64_t rule_wait_us(uint64_t lease_us)
{
    /* 1.125 / 1.05, the shortest that it can be, is more than 1 / 0.95, the longest that a lease can. */
    return lease_us + (lease_us + 7) / 8;
}

uint64_t rule_lease_end(uint64_t asked_us, uint64_t granted_us, uint64_t lease_us)
{
    (void)granted_us;
    return asked_us + lease_us;
}

bool rule_may_promise(uint64_t known, uint64_t attempted, uint64_t asked)
{
    return max_u64(known, attempted) <= asked;
}

void rivals_reset(struct rivals *rivals, const struct view *view)
{
    rivals->count = 0;
    rivals->too_many = false;
    rivals_add(rivals, view);
}

static bool has(const struct rivals *rivals, const char *id)
{
    for (uint32_t i = 0; i < rivals->count; i++)
        if (strcmp(rivals->ids[i], id) == 0)
            return true;
    return false;
}

void rivals_add(struct rivals *rivals, const struct view *view)
{
    for (uint32_t i = 0; i < view->count; i++) {
        const char *id = view->members[i].id;
        if (has(rivals, id))
            continue;
        if (rivals->count == RIVALS_MAX) {
            rivals->too_many = true;
            return;
        }
        memcpy(rivals->ids[rivals->count], id, NODE_ID_MAX + 1);
        rivals->hashes[rivals->count++] = view_id_hash(id);
    }
}

bool rivals_owner(const struct rivals *rivals, const char *id, uint64_t key_hash)
{
    if (rivals->too_many)
        return false;
    uint64_t mine = view_weight(key_hash, view_id_hash(id));
    for (uint32_t i = 0; i < rivals->count; i++) {
        uint64_t weight = view_weight(key_hash, rivals->hashes[i]);
        if (weight < mine)
            continue;
        /* Of equal weights the first id has it, as in view_owner(). */
        int order = strcmp(rivals->ids[i], id);
        if (order != 0 && (weight > mine || order < 0))
            return false;
    }
    return true;
}
