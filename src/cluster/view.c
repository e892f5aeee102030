#include "cluster/view.h"

#include <xxhash.h>

#include "base/check.h"
#include "base/error.h"
#include "base/text.h"

enum {
    VIEW_FORMAT = 1,
    AT_FORMAT = 4,
    AT_COUNT = 6,
    AT_NUMBER = 8,
    AT_PREVIOUS = 16,
    AT_FLOOR = 24,
    AT_CLUSTER_LEN = 32,
    AT_PROPOSER_LEN = 33,
    AT_NAMES = 40, /* cluster, proposer, members */
    AT_SUM = VIEW_BYTES - 8,
    MEMBER_HEAD_BYTES = 18, /* start, random, length of id, length of address */
};

static const uint8_t magic[4] = {'K', 'V', 'D', 'V'};

bool node_id_is_good(struct span id)
{
    return text_is_name(id, NODE_ID_MAX) && id.at[0] != '.';
}

bool node_address_is_good(struct span address)
{
    if (address.len == 0 || address.len > NODE_ADDRESS_MAX)
        return false;
    for (size_t i = 0; i < address.len; i++)
        if (address.at[i] <= ' ' || address.at[i] > '~')
            return false;
    return true;
}

static size_t bytes_needed(struct span cluster, const struct view *view)
{
    size_t need = AT_NAMES + cluster.len + strlen(view->proposer);
    for (uint32_t i = 0; i < view->count; i++)
        need += MEMBER_HEAD_BYTES + strlen(view->members[i].id) + strlen(view->members[i].address);
    return need;
}

static uint8_t *put_span(uint8_t *at, struct span s)
{
    bytes_copy(at, s.at, s.len);
    return at + s.len;
}

int view_build(uint8_t out[VIEW_BYTES], struct span cluster, const struct view *view)
{
    CHECK(view->count >= 1 && view->count <= VIEW_MEMBERS_MAX && cluster.len <= NODE_ID_MAX && view->number == view->previous + 1);
    if (bytes_needed(cluster, view) > AT_SUM)
        return KVD_ETOOLARGE;
    memset(out, 0, VIEW_BYTES);
    memcpy(out, magic, sizeof magic);
    put_le16(out + AT_FORMAT, VIEW_FORMAT);
    put_le16(out + AT_COUNT, (uint16_t)view->count);
    put_le64(out + AT_NUMBER, view->number);
    put_le64(out + AT_PREVIOUS, view->previous);
    put_le64(out + AT_FLOOR, view->floor);
    out[AT_CLUSTER_LEN] = (uint8_t)cluster.len;
    out[AT_PROPOSER_LEN] = (uint8_t)strlen(view->proposer);
    uint8_t *at = put_span(out + AT_NAMES, cluster);
    at = put_span(at, span_text(view->proposer));
    for (uint32_t i = 0; i < view->count; i++) {
        const struct node_name *member = &view->members[i];
        put_le64(at, member->incarnation.start);
        put_le64(at + 8, member->incarnation.random);
        at[16] = (uint8_t)strlen(member->id);
        at[17] = (uint8_t)strlen(member->address);
        at = put_span(at + MEMBER_HEAD_BYTES, span_text(member->id));
        at = put_span(at, span_text(member->address));
    }
    put_le64(out + AT_SUM, XXH3_64bits(out, AT_SUM));
    return 0;
}

/* What is left to parse. */
struct rest {
    const uint8_t *at;
    size_t len;
};

static bool take(struct rest *rest, size_t len, struct span *out)
{
    if (rest->len < len)
        return false;
    *out = span_of(rest->at, len);
    rest->at += len;
    rest->len -= len;
    return true;
}

/* `to` has room for NODE_ID_MAX or NODE_ADDRESS_MAX bytes and a 0, and was zero. */
static bool take_text(struct rest *rest, size_t len, bool (*is_good)(struct span), char *to)
{
    struct span text;
    if (!take(rest, len, &text) || !is_good(text))
        return false;
    memcpy(to, text.at, text.len);
    return true;
}

static bool take_member(struct rest *rest, struct node_name *out)
{
    struct span head;
    if (!take(rest, MEMBER_HEAD_BYTES, &head))
        return false;
    out->incarnation = (struct incarnation){get_le64(head.at), get_le64(head.at + 8)};
    return out->incarnation.start > 0 && take_text(rest, head.at[16], node_id_is_good, out->id) &&
           take_text(rest, head.at[17], node_address_is_good, out->address);
}

static bool take_members(struct rest *rest, struct view *view)
{
    for (uint32_t i = 0; i < view->count; i++) {
        if (!take_member(rest, &view->members[i]))
            return false;
        if (i > 0 && strcmp(view->members[i - 1].id, view->members[i].id) >= 0)
            return false;
    }
    return true;
}

int view_parse(const uint8_t *at, size_t len, struct span cluster, struct view *out)
{
    if (len != VIEW_BYTES)
        return KVD_ECORRUPT;
    if (bytes_are_zero(at, VIEW_BYTES))
        return VIEW_EMPTY;
    if (memcmp(at, magic, sizeof magic) != 0 || get_le64(at + AT_SUM) != XXH3_64bits(at, AT_SUM))
        return KVD_ECORRUPT;
    if (get_le16(at + AT_FORMAT) != VIEW_FORMAT)
        return KVD_EFORMAT;
    struct view view = {.number = get_le64(at + AT_NUMBER), .previous = get_le64(at + AT_PREVIOUS), .floor = get_le64(at + AT_FLOOR)};
    view.count = get_le16(at + AT_COUNT);
    struct rest rest = {at + AT_NAMES, AT_SUM - AT_NAMES};
    struct span its_cluster;
    if (view.count < 1 || view.count > VIEW_MEMBERS_MAX || view.number == 0 || view.number > VIEW_NUMBER_MAX ||
        view.previous != view.number - 1 || view.floor > VIEW_FLOOR_MAX || !take(&rest, at[AT_CLUSTER_LEN], &its_cluster))
        return KVD_ECORRUPT;
    if (!span_equal(its_cluster, cluster))
        return KVD_EFORMAT;
    if (!take_text(&rest, at[AT_PROPOSER_LEN], node_id_is_good, view.proposer) || !take_members(&rest, &view))
        return KVD_ECORRUPT;
    if (!bytes_are_zero(rest.at, rest.len))
        return KVD_ECORRUPT;
    *out = view;
    return 0;
}

const struct node_name *view_member(const struct view *view, const char *id)
{
    for (uint32_t i = 0; i < view->count; i++)
        if (strcmp(view->members[i].id, id) == 0)
            return &view->members[i];
    return NULL;
}

bool view_has(const struct view *view, const char *id, struct incarnation incarnation)
{
    const struct node_name *member = view_member(view, id);
    return member && incarnation_equal(member->incarnation, incarnation);
}

bool view_put(struct view *view, const struct node_name *name)
{
    uint32_t at = 0;
    while (at < view->count && strcmp(view->members[at].id, name->id) < 0)
        at++;
    bool there = at < view->count && strcmp(view->members[at].id, name->id) == 0;
    if (!there && view->count == VIEW_MEMBERS_MAX)
        return false;
    if (!there) {
        memmove(&view->members[at + 1], &view->members[at], (view->count - at) * sizeof view->members[0]);
        view->count++;
    }
    view->members[at] = *name;
    return true;
}

void view_drop(struct view *view, const char *id)
{
    const struct node_name *member = view_member(view, id);
    if (!member)
        return;
    size_t at = (size_t)(member - view->members);
    memmove(&view->members[at], &view->members[at + 1], (view->count - at - 1) * sizeof view->members[0]);
    view->count--;
}

uint64_t view_key_hash(struct span key)
{
    return XXH3_64bits(key.at, key.len);
}

uint64_t view_id_hash(const char *id)
{
    return XXH3_64bits(id, strlen(id));
}

void view_order_init(struct view_order *order, const struct view *view)
{
    order->count = view->count;
    for (uint32_t i = 0; i < view->count; i++)
        order->id_hashes[i] = view_id_hash(view->members[i].id);
}

uint32_t view_owner(const struct view_order *order, uint64_t key_hash)
{
    CHECK(order->count > 0);
    uint32_t best = 0;
    uint64_t most = view_weight(key_hash, order->id_hashes[0]);
    for (uint32_t i = 1; i < order->count; i++) {
        uint64_t weight = view_weight(key_hash, order->id_hashes[i]);
        if (weight > most) {
            best = i;
            most = weight;
        }
    }
    return best;
}

uint32_t view_nodes(const struct view_order *order, uint64_t key_hash, uint32_t want, uint32_t *out)
{
    uint64_t weights[VIEW_MEMBERS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < order->count; i++) {
        uint64_t weight = view_weight(key_hash, order->id_hashes[i]);
        uint32_t at = count;
        while (at > 0 && weights[at - 1] < weight)
            at--;
        if (at >= want)
            continue;
        if (count < want)
            count++;
        memmove(&weights[at + 1], &weights[at], (count - at - 1) * sizeof weights[0]);
        memmove(&out[at + 1], &out[at], (count - at - 1) * sizeof out[0]);
        weights[at] = weight;
        out[at] = i;
    }
    return count;
}
