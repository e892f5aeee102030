/* rules.h - which operation of faultfs goes wrong, and how. The language is described in faultfs.c.
 *
 * Owns:    the rules, their counters and those of the operations, and the threads that hang.
 * Not its: files. It says what is to happen; faultfs.c does it.
 * Thread:  any.
 */
#ifndef KVD_TEST_FUSE_RULES_H
#define KVD_TEST_FUSE_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum op {
    OP_LOOKUP,
    OP_GETATTR,
    OP_SETATTR,
    OP_TRUNCATE,
    OP_CREATE,
    OP_OPEN,
    OP_READ,
    OP_WRITE,
    OP_FLUSH,
    OP_FSYNC,
    OP_RELEASE,
    OP_UNLINK,
    OP_RENAME,
    OP_LINK,
    OP_MKDIR,
    OP_RMDIR,
    OP_OPENDIR,
    OP_READDIR,
    OP_FSYNCDIR,
    OP_STATFS,
    OP_COUNT
};

/* What is to happen to one operation. Fractions are of its length, and negative when nothing is said. */
struct verdict {
    int err;       /* errno to answer with, or 0 */
    bool anyway;   /* do the operation before answering with err */
    bool late;     /* a write: say that all is well, write nothing, and answer the next fsync of that file with err */
    bool lost;     /* a write: say that all is well and write nothing */
    bool flip;     /* one bit of the data is another */
    double part;   /* a read or write does this much and says so */
    double torn;   /* a write does this much and says all */
    double zero;   /* a read: this much at its end is zeros */
    uint64_t dice; /* for whoever needs chance */
};

struct rules;

struct rules *rules_new(uint64_t seed);

/* Count one operation on `path` (from the root, without a leading slash) and say what is to happen to it. Returns after the delay that the
 * rules ask for; where they ask to hang or to step, after rules_release() or rules_next(); where they ask for the process to vanish, never.
 */
void rules_ask(struct rules *rules, enum op op, const char *path, struct verdict *out);

/* Add a rule. Returns its id (above 0), or 0 with a sentence in `why`. */
unsigned rules_add(struct rules *rules, char *text, const char **why);
/* Returns false when there is no such rule. */
bool rules_remove(struct rules *rules, unsigned id);
void rules_clear(struct rules *rules);
/* Drop the rules that hang, and let go of what hangs. */
void rules_release(struct rules *rules);
/* Let the operation go on that has waited longest for this. Returns false when none does. */
bool rules_next(struct rules *rules);

/* "seen=12 fired=1". Returns false when there is no such rule. */
bool rules_show(struct rules *rules, unsigned id, FILE *out);
/* "lookup=3 ... hung=0" */
void rules_show_counters(struct rules *rules, FILE *out);
void rules_reset_counters(struct rules *rules);

/* "64m" to bytes. Returns false for what is no size. */
bool parse_size(const char *text, uint64_t *out);

/* The next number of a sequence; `state` is any number at first. */
uint64_t dice_roll(uint64_t *state);
/* True in `p` of all cases. */
bool dice_says(uint64_t *state, double p);

#endif
