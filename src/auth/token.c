#include "auth/token.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/text.h"

enum { FIELDS_MOST = 3, OTHERS_MODE = 077 };

struct tokens {
    _Atomic unsigned refs;
    unsigned count;
    uint64_t next_id;
    unsigned lines[TOKENS_MOST]; /* where each stands in its file */
    struct token all[TOKENS_MOST];
};

/* ---- names and rights ---- */

static const char *const right_names[RIGHT_COUNT] = {"read", "write", "admin"};

bool token_name_good(struct span name)
{
    return text_is_name(name, TOKEN_NAME_BYTES);
}

static unsigned right_of(struct span name)
{
    for (unsigned i = 0; i < RIGHT_COUNT; i++)
        if (span_equal(name, span_text(right_names[i])))
            return 1u << i;
    return 0;
}

bool rights_read(struct span text, unsigned *rights)
{
    unsigned sum = 0;
    for (size_t at = 0; at <= text.len;) {
        size_t len = 0;
        while (at + len < text.len && text.at[at + len] != ',')
            len++;
        unsigned right = len > 0 ? right_of(span_of(text.at + at, len)) : 0;
        if (right == 0 || (sum & right) != 0)
            return false;
        sum |= right;
        at += len + 1;
    }
    *rights = sum;
    return true;
}

unsigned rights_texts(unsigned rights, struct span out[RIGHT_COUNT])
{
    unsigned count = 0;
    for (unsigned i = 0; i < RIGHT_COUNT; i++)
        if (rights & 1u << i)
            out[count++] = span_text(right_names[i]);
    return count;
}

bool token_file_is_private(uint32_t mode, uint32_t owner, uint32_t reader)
{
    return (mode & OTHERS_MODE) == 0 && (owner == reader || owner == 0);
}

/* ---- a file's lines ---- */

struct lines {
    struct span left;
    unsigned number; /* of the one that was read last */
    char *why;
};

struct fields {
    struct span at[FIELDS_MOST];
    unsigned count;
};

static int refuse(const struct lines *lines, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int refuse(const struct lines *lines, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = lines->number ? snprintf(lines->why, TOKEN_WHY_BYTES, "line %u: ", lines->number) : 0;
    vsnprintf(lines->why + len, (size_t)(TOKEN_WHY_BYTES - len), format, args);
    va_end(args);
    return KVD_EUSAGE;
}

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

/* A line without its end. */
static struct span next_line(struct lines *lines)
{
    const uint8_t *end = memchr(lines->left.at, '\n', lines->left.len);
    size_t len = end ? (size_t)(end - lines->left.at) : lines->left.len;
    struct span line = span_of(lines->left.at, len);
    size_t used = len + (end != NULL);
    lines->left = span_of(lines->left.at + used, lines->left.len - used);
    lines->number++;
    if (line.len > 0 && line.at[line.len - 1] == '\r')
        line.len--;
    return line;
}

static int split(const struct lines *lines, struct span line, struct fields *fields)
{
    fields->count = 0;
    for (size_t at = 0; at < line.len;) {
        size_t len = 0;
        while (at + len < line.len && !is_blank(line.at[at + len])) {
            if (line.at[at + len] < 0x21 || line.at[at + len] > 0x7e)
                return refuse(lines, "a byte that is no printable ASCII");
            len++;
        }
        if (len > 0 && fields->count == FIELDS_MOST)
            return refuse(lines, "more than NAME RIGHTS TOKEN");
        if (len > 0)
            fields->at[fields->count++] = span_of(line.at + at, len);
        at += len + 1;
    }
    return 0;
}

/* The next line that means something. Returns 1, 0 at the end, or KVD_EUSAGE. */
static int next_fields(struct lines *lines, struct fields *fields)
{
    while (lines->left.len > 0) {
        struct span line = next_line(lines);
        if (line.len > TOKEN_LINE_BYTES)
            return refuse(lines, "longer than %d bytes", TOKEN_LINE_BYTES);
        if (line.len > 0 && line.at[0] == '#')
            continue;
        if (split(lines, line, fields) != 0)
            return KVD_EUSAGE;
        if (fields->count > 0)
            return 1;
    }
    return 0;
}

static int take_token(const struct lines *lines, struct token *token, struct span bytes)
{
    if (bytes.len < TOKEN_LEAST_BYTES)
        return refuse(lines, "the token is shorter than %d bytes", TOKEN_LEAST_BYTES);
    if (bytes.len > TOKEN_MOST_BYTES)
        return refuse(lines, "the token is longer than %d bytes", TOKEN_MOST_BYTES);
    memcpy(token->bytes, bytes.at, bytes.len);
    token->len = (uint8_t)bytes.len;
    return 0;
}

static int take_name(const struct lines *lines, struct token *token, struct span name)
{
    if (!token_name_good(name))
        return refuse(lines, "the name is not 1 to %d letters, digits, '.', '_' and '-'", TOKEN_NAME_BYTES);
    memcpy(token->name, name.at, name.len);
    token->name[name.len] = '\0';
    return 0;
}

/* `NAME RIGHTS TOKEN`, into zeroed memory. */
static int take_line(const struct lines *lines, struct token *token, const struct fields *fields)
{
    if (fields->count != FIELDS_MOST)
        return refuse(lines, "not NAME RIGHTS TOKEN");
    if (take_name(lines, token, fields->at[0]) != 0)
        return KVD_EUSAGE;
    if (!rights_read(fields->at[1], &token->rights))
        return refuse(lines, "the rights are not read, write, admin, with commas between");
    return take_token(lines, token, fields->at[2]);
}

static struct span bytes_of(const struct token *token)
{
    return span_of(token->bytes, token->len);
}

static int check_unique(const struct lines *lines, const struct tokens *tokens, const struct token *token)
{
    for (unsigned i = 0; i < tokens->count; i++) {
        if (strcmp(tokens->all[i].name, token->name) == 0)
            return refuse(lines, "the name stands in line %u, too", tokens->lines[i]);
        if (span_equal(bytes_of(&tokens->all[i]), bytes_of(token)))
            return refuse(lines, "the token stands in line %u, too", tokens->lines[i]);
    }
    return 0;
}

static uint64_t id_of(struct tokens *tokens, const struct tokens *before, const struct token *token)
{
    for (unsigned i = 0; before && i < before->count; i++) {
        const struct token *old = &before->all[i];
        if (strcmp(old->name, token->name) == 0 && old->rights == token->rights && span_equal(bytes_of(old), bytes_of(token)))
            return old->id;
    }
    return tokens->next_id++;
}

static int read_all(struct tokens *tokens, struct lines *lines, const struct tokens *before)
{
    struct fields fields;
    int more;
    while ((more = next_fields(lines, &fields)) > 0) {
        if (tokens->count == TOKENS_MOST)
            return refuse(lines, "more than %d tokens", TOKENS_MOST);
        struct token *token = &tokens->all[tokens->count];
        if (take_line(lines, token, &fields) != 0 || check_unique(lines, tokens, token) != 0)
            return KVD_EUSAGE;
        token->id = id_of(tokens, before, token);
        tokens->lines[tokens->count++] = lines->number;
    }
    if (more < 0)
        return more;
    lines->number = 0;
    return tokens->count > 0 ? 0 : refuse(lines, "there is no token in it");
}

int tokens_read(struct tokens **out, struct span text, const struct tokens *before, char why[TOKEN_WHY_BYTES])
{
    struct lines lines = {.left = text, .why = why};
    struct tokens *tokens = calloc(1, sizeof *tokens);
    if (!tokens)
        return -ENOMEM;
    atomic_init(&tokens->refs, 1);
    tokens->next_id = before ? before->next_id : 1;
    int err = read_all(tokens, &lines, before);
    if (err)
        tokens_unref(tokens);
    else
        *out = tokens;
    return err;
}

int token_read_one(struct token *out, struct span text, char why[TOKEN_WHY_BYTES])
{
    struct lines lines = {.left = text, .why = why};
    struct fields fields = {.count = 0}, beyond;
    memset(out, 0, sizeof *out);
    int more = next_fields(&lines, &fields);
    if (more == 0)
        return refuse(&(struct lines){.why = why}, "there is no token in it");
    if (more < 0)
        return more;
    int err = fields.count == FIELDS_MOST ? take_line(&lines, out, &fields) : take_token(&lines, out, fields.at[fields.count == 2]);
    if (err == 0 && fields.count == 2)
        err = take_name(&lines, out, fields.at[0]);
    if (err == 0 && (more = next_fields(&lines, &beyond)) != 0)
        err = more < 0 ? more : refuse(&lines, "a second token");
    if (err)
        mac_wipe(out, sizeof *out);
    return err;
}

/* ---- a set ---- */

struct tokens *tokens_ref(struct tokens *tokens)
{
    atomic_fetch_add_explicit(&tokens->refs, 1, memory_order_relaxed);
    return tokens;
}

void tokens_unref(struct tokens *tokens)
{
    if (!tokens || atomic_fetch_sub_explicit(&tokens->refs, 1, memory_order_acq_rel) > 1)
        return;
    mac_wipe(tokens, sizeof *tokens);
    free(tokens);
}

unsigned tokens_count(const struct tokens *tokens)
{
    return tokens->count;
}

bool tokens_have(const struct tokens *tokens, uint64_t id)
{
    for (unsigned i = 0; i < tokens->count; i++)
        if (tokens->all[i].id == id)
            return true;
    return false;
}

int tokens_find(const struct tokens *tokens, const struct span *name, struct span mac, const uint8_t nonce[NONCE_BYTES], bool valid,
                const struct token **out)
{
    uint8_t shown[MAC_BYTES] = {0}, wanted[MAC_BYTES];
    unsigned found = TOKENS_MOST;
    valid &= mac.len == MAC_BYTES;
    bytes_copy(shown, mac.at, min_u64(mac.len, MAC_BYTES));
    for (unsigned i = 0; i < tokens->count; i++) {
        const struct token *token = &tokens->all[i];
        if (mac_of(wanted, bytes_of(token), MAC_CLIENT, span_of(nonce, NONCE_BYTES)) != 0)
            return -ENOMEM;
        bool right_name = !name || span_equal(*name, span_text(token->name));
        bool right_mac = mac_equal(wanted, shown);
        if (right_mac && right_name && valid)
            found = i;
    }
    mac_wipe(wanted, sizeof wanted);
    if (found == TOKENS_MOST)
        return KVD_EDENIED;
    *out = &tokens->all[found];
    return 0;
}
