/* token.h - tokens as a file has them, each with a name and rights, and who has shown which.
 *
 * Owns:    sets of tokens, whose memory is wiped before it is given back.
 * Not its: files (their text comes in), connections, nonces, which op takes which right.
 * Thread:  any. A set does not change once it is made; its references are counted.
 *
 * A file has a token a line: `NAME RIGHTS TOKEN`, separated by spaces or tabs. RIGHTS is `read`, `write`, `admin`, with commas between.
 * Empty lines, and those that begin with `#`, mean nothing. No text of a file ever gets into `why`.
 */
#ifndef KVD_AUTH_TOKEN_H
#define KVD_AUTH_TOKEN_H

#include "auth/mac.h"
#include "base/bytes.h"

enum {
    TOKEN_LEAST_BYTES = 16,
    TOKEN_MOST_BYTES = 128,
    TOKEN_NAME_BYTES = 64,
    TOKEN_LINE_BYTES = 256,
    TOKENS_MOST = 64,            /* in a file: all are tried for whoever shows one */
    TOKEN_FILE_BYTES = 64 << 10, /* of a file, comments too */
    TOKEN_WHY_BYTES = 160,
};

enum right { RIGHT_READ = 1, RIGHT_WRITE = 2, RIGHT_ADMIN = 4, RIGHTS_ALL = 7 };
enum { RIGHT_COUNT = 3 };

struct token {
    uint64_t id;     /* stays, from file to file, as long as name, rights and token do; never used again; 0: of no set */
    unsigned rights; /* a sum of enum right */
    char name[TOKEN_NAME_BYTES + 1];
    uint8_t len;
    uint8_t bytes[TOKEN_MOST_BYTES];
};

struct tokens;

/* Read a file of the server's: 1 to TOKENS_MOST tokens, no two of one name, no two the same. `before`: the set that it follows, or NULL.
 * Returns 0; KVD_EUSAGE with a line in `why` that names the file's line; -ENOMEM. */
int tokens_read(struct tokens **out, struct span text, const struct tokens *before, char why[TOKEN_WHY_BYTES]);
struct tokens *tokens_ref(struct tokens *tokens);
void tokens_unref(struct tokens *tokens); /* or NULL */
unsigned tokens_count(const struct tokens *tokens);
/* Is the token with that id, so with the same name, rights and bytes, among these? */
bool tokens_have(const struct tokens *tokens, uint64_t id);

/* Whose token was `mac` made with, by mac_of() with MAC_CLIENT? `name` NULL: all are tried. It takes as long, and the same way, whatever
 * is wrong. `valid` false: it fails in any case, likewise. Returns 0 with *out, borrowed from the set; KVD_EDENIED; -ENOMEM. */
int tokens_find(const struct tokens *tokens, const struct span *name, struct span mac, const uint8_t nonce[NONCE_BYTES], bool valid,
                const struct token **out);

/* Read a file that has one token: a line as above, or without its rights (`NAME TOKEN`), or the token alone; then name[0] is '\0'. Wipe it
 * after use. Returns 0, or KVD_EUSAGE as above. */
int token_read_one(struct token *out, struct span text, char why[TOKEN_WHY_BYTES]);

/* Letters, digits, '.', '_' and '-'; 1 to TOKEN_NAME_BYTES of them. */
bool token_name_good(struct span name);
/* "read,admin". False, and *rights untouched, when it is not that. */
bool rights_read(struct span text, unsigned *rights);
/* The names of the rights, static texts. Returns how many. */
unsigned rights_texts(unsigned rights, struct span out[RIGHT_COUNT]);

/* May a file of that mode (st_mode) and owner hold a token for `reader`? Its owner alone may have any right to it: the reader or root. */
bool token_file_is_private(uint32_t mode, uint32_t owner, uint32_t reader);
#define TOKEN_FILE_NOT_PRIVATE "must be this user's or root's, and nobody else may read or write it (chmod 600)"

#endif
