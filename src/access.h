/* access.h - who may do what: the server's tokens, and what each connection has shown.
 *
 * Owns:    the set of tokens that counts now, the job that reads the file again.
 * Borrows: the log, the path, the loops.
 * Not its: frames and replies, which op takes which right (handlers.c).
 * Thread:  any, but where said otherwise. A grant is its session's.
 */
#ifndef KVD_ACCESS_H
#define KVD_ACCESS_H

#include <stdatomic.h>

#include "auth/token.h"
#include "loop/loop.h"

struct access {
    const struct log *log;
    const char *path;
    struct loop *store_loop; /* where jobs run */
    bool needs_token;
    struct mutex *lock;
    struct tokens *tokens;       /* under lock; NULL: none are asked for */
    _Atomic uint64_t generation; /* of the set; grows with each */
    _Atomic uint64_t reads, failed_reads;
    /* under the store loop's lock */
    struct job job;
    bool reading, again, ending;
    struct task *ended;
    /* the job's */
    struct tokens *before, *next;
    int err;
    char why[TOKEN_WHY_BYTES];
};

/* Read and judge the file at `path`. Blocking: at start, or in a job. Returns 0 with *out, the caller's reference; KVD_EUSAGE with a line
 * in `why` (without the path); -ENOMEM. */
int access_read(const char *path, const struct tokens *before, struct tokens **out, char why[TOKEN_WHY_BYTES]);
/* Likewise a file of one token (token_read_one()). Wipe it after use. */
int access_read_one(const char *path, struct token *out, char why[TOKEN_WHY_BYTES]);

/* `tokens` NULL: none are asked for; else a reference is taken. Returns 0 or -ENOMEM. */
int access_init(struct access *access, const struct log *log, const char *path, struct tokens *tokens, struct loop *store_loop);
void access_fini(struct access *access);
/* Read the file again, soon; what comes of it is in the log. With tokens alone. The first loop. */
void access_reload(struct access *access);
/* No more of that. False: the file is just being read; `task` is posted to the first loop at its end. The first loop, once. */
bool access_end(struct access *access, struct task *task);
/* How many there are. */
unsigned access_tokens(struct access *access);

/* What a connection may do. */
struct grant {
    unsigned rights; /* a sum of enum right; 0: it has shown no token yet */
    uint64_t token_id;
    uint64_t generation;
    uint8_t nonce[NONCE_BYTES];
    bool has_nonce; /* HELLO gave it out, and no AUTH has used it */
    unsigned failures;
};
void grant_init(struct grant *grant, const struct access *access);
/* A nonce for its next AUTH; the one before is void. */
void grant_challenge(struct grant *grant, const uint8_t nonce[NONCE_BYTES]);
/* AUTH: `name` NULL: it gave none. Uses the nonce up. Returns 0 with the rights set; KVD_EDENIED (they are as they were, the failure is
 * counted) or -ENOMEM. Copies the token's name for the log. */
int grant_authenticate(struct grant *grant, struct access *access, const struct span *name, struct span mac,
                       char token_name[TOKEN_NAME_BYTES + 1]);
/* False: the token that it has shown is no longer among those that count, or not with these rights. */
bool grant_stands(struct grant *grant, struct access *access);

#endif
