/* The small files beside the segments: a remove log, and the node file. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "client/kvctl/inspect_impl.h"
#include "tier/log_frame.h"
#include "tier/node_state.h"

enum { LOG_MAX_BYTES = 64 << 20 }; /* kvd reads no longer one */

/* ---- a remove log ---- */

struct removes {
    struct inspect *inspect;
    struct log_reader reader;
    uint64_t frames, entries;
    uint64_t min_version, max_version;
};

static const char *kind_name(enum kill_kind kind)
{
    static const char *const NAMES[] = {"key", "prefix", "all", "segment"};
    return NAMES[kind - KILL_KEY];
}

static bool head_judge(struct removes *removes, struct log_head *head)
{
    struct inspect *inspect = removes->inspect;
    uint64_t sequence = 0;

    const int err = log_head_parse(removes->reader.at, removes->reader.len, head);
    if (err) {
        inspect_wrong(inspect, 0, err == KVD_EFORMAT ? "a remove log of a newer format" : "both headers are damaged");
        return false;
    }
    inspect_figure(inspect, "sequence", INSPECT_COUNT, head->sequence);
    inspect_id(inspect, head->id);
    for (size_t copy = 0; copy < 2; copy++) {
        const size_t at = copy * LOG_HEAD_BYTES;
        if (removes->reader.len < at + LOG_HEAD_BYTES || !log_head_copy_is_good(removes->reader.at + at))
            inspect_wrong(inspect, at, "one of the two headers is damaged; the other is good");
    }
    if (!inspect_sequence(inspect->source->name, "removes-", ".log", &sequence)) {
        inspect_note(inspect, 0, "the file's name is not that of a remove log: kvd would take no notice of it");
        return true;
    }
    if (sequence != head->sequence)
        inspect_wrong(inspect, 8, "the header has sequence %016" PRIx64 ", the name another", head->sequence);
    return sequence == head->sequence;
}

/* Both copies should be good; one is enough. */
static void copies_judge(struct removes *removes, size_t first, uint32_t bytes)
{
    for (size_t copy = 0; copy < 2; copy++) {
        const size_t at = first + copy * bytes;
        if (log_frame_at(&removes->reader, at, removes->reader.number - 1) != bytes)
            inspect_wrong(removes->inspect, at, "one copy of frame %" PRIu64 " is %s; the other is good", removes->reader.number - 1,
                          copy == 1 && at + bytes > removes->reader.len ? "cut off" : "damaged");
    }
}

/* False when it makes no sense. */
static bool entries_tell(struct removes *removes, const struct log_copy *copy, size_t first)
{
    struct log_entries entries = log_entries(&removes->reader, copy);
    struct log_entry entry;
    int next;

    while ((next = log_entries_next(&entries, &entry)) == LOG_ENTRY) {
        const struct inspect_kill kill = {kind_name(entry.kind), entry.name, entry.version, first};
        removes->entries++;
        if (entry.kind != KILL_SEGMENT) {
            removes->min_version = min_u64(removes->min_version, entry.version);
            removes->max_version = max_u64(removes->max_version, entry.version);
        }
        removes->inspect->events->kill(removes->inspect->arg, &kill);
    }
    if (next < 0)
        inspect_wrong(removes->inspect, first, "a frame whose sum is right and whose entries make no sense");
    return next == LOG_END;
}

/* Returns what kvd makes of it. */
static const char *frames_judge(struct removes *removes)
{
    struct log_copy copy;
    int next;

    for (;;) {
        const size_t first = removes->reader.pos;
        next = log_reader_next(&removes->reader, &copy);
        if (next != LOG_FRAME)
            break;
        removes->frames++;
        copies_judge(removes, first, copy.bytes);
        if (!entries_tell(removes, &copy, first))
            return "kvd keeps its disk tier off: it is not known what else is dead";
    }
    if (next < 0) {
        inspect_wrong(removes->inspect, removes->reader.pos, "frame %" PRIu64 " is lost, and later ones are there", removes->reader.number);
        return "kvd keeps its disk tier off: it is not known what else is dead";
    }
    if (next == LOG_TORN)
        inspect_wrong(removes->inspect, removes->reader.pos, "the tail is torn here: what follows was never acknowledged");
    return "kvd reads it";
}

static void removes_judge(struct removes *removes)
{
    struct inspect *inspect = removes->inspect;
    struct log_head head;
    const char *start = "kvd keeps its disk tier off: it is not known what is dead";

    if (head_judge(removes, &head)) {
        removes->reader.id = head.id;
        start = frames_judge(removes);
        inspect_figure(inspect, "frames", INSPECT_COUNT, removes->frames);
        inspect_figure(inspect, "removals", INSPECT_COUNT, removes->entries);
        if (removes->max_version > 0) {
            inspect_figure(inspect, "min_version", INSPECT_COUNT, removes->min_version);
            inspect_figure(inspect, "max_version", INSPECT_COUNT, removes->max_version);
        }
    }
    inspect_text(inspect, "at_start", "%s", start);
}

int inspect_remove_log(struct inspect *inspect)
{
    const uint64_t bytes = inspect->source->bytes;
    struct removes removes = {.inspect = inspect, .min_version = UINT64_MAX};

    inspect_text(inspect, "kind", "remove log");
    inspect_figure(inspect, "file_bytes", INSPECT_BYTES, bytes);
    if (bytes > LOG_MAX_BYTES) {
        inspect_wrong(inspect, LOG_MAX_BYTES, "longer than any remove log is");
        inspect_text(inspect, "at_start", "kvd keeps its disk tier off: it is not known what is dead");
        return 0;
    }
    uint8_t *at = malloc(bytes + 1);
    if (!at)
        return -ENOMEM;
    const int err = inspect_read(inspect, at, bytes, 0);
    removes.reader = log_reader(at, bytes, NULL);
    if (err)
        inspect_wrong(inspect, 0, "it cannot be read: %s", error_text(err));
    else
        removes_judge(&removes);
    free(at);
    return 0;
}

/* ---- the node file ---- */

static void node_tell(struct inspect *inspect, const struct node_state *state, struct span node, struct span cluster)
{
    inspect_name(inspect, "node", node);
    inspect_name(inspect, "cluster", cluster);
    inspect_figure(inspect, "generation", INSPECT_COUNT, state->generation);
    inspect_figure(inspect, "ceiling", INSPECT_COUNT, state->ceiling);
}

int inspect_node_file(struct inspect *inspect)
{
    struct node_state states[2];
    struct span nodes[2], clusters[2];
    int errs[2];

    inspect_text(inspect, "kind", "node file");
    inspect_figure(inspect, "file_bytes", INSPECT_BYTES, inspect->source->bytes);
    for (unsigned copy = 0; copy < 2; copy++) {
        errs[copy] = node_copy_parse(inspect->header + (size_t)copy * BLOCK_BYTES, &states[copy], &nodes[copy], &clusters[copy]);
        if (errs[copy])
            inspect_wrong(inspect, (uint64_t)copy * BLOCK_BYTES,
                          errs[copy] == KVD_EFORMAT ? "a copy of a newer format" : "a copy that is damaged");
    }
    if (inspect->source->bytes > NODE_FILE_BYTES)
        inspect_wrong(inspect, NODE_FILE_BYTES, "the file goes on after its two copies");
    if (errs[0] && errs[1]) {
        inspect_text(inspect, "at_start", "kvd keeps its disk tier off: it is not known how far versions had gone");
        return 0;
    }
    if (!errs[0] && !errs[1] && (states[0].generation != states[1].generation || states[0].ceiling != states[1].ceiling))
        inspect_note(inspect, BLOCK_BYTES, "the copies differ, as a crash between their writing leaves them: the later one counts");
    const unsigned best = errs[0] || (!errs[1] && states[1].generation > states[0].generation) ? 1 : 0;
    node_tell(inspect, &states[best], nodes[best], clusters[best]);
    inspect_text(inspect, "at_start", "kvd reads it: no version above the ceiling was ever given");
    return 0;
}
