#include "access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"

/* ---- the file ---- */

static int refuse(char why[TOKEN_WHY_BYTES], const char *text)
{
    snprintf(why, TOKEN_WHY_BYTES, "%s", text);
    return KVD_EUSAGE;
}

static void file_forget(char *bytes)
{
    mac_wipe(bytes, TOKEN_FILE_BYTES);
    free(bytes);
}

/* What the file says, in *bytes, which are for file_forget(). 0, KVD_EUSAGE with a line in `why`, or -ENOMEM. */
static int file_read(const char *path, char **bytes, struct span *text, char why[TOKEN_WHY_BYTES])
{
    struct file_rights rights;
    char *room = malloc(TOKEN_FILE_BYTES);
    if (!room)
        return -ENOMEM;
    int64_t len = loop_read_secret_file(path, room, TOKEN_FILE_BYTES, &rights);
    int err = 0;
    if (len < 0)
        err = refuse(why, len == -EFBIG ? "longer than 64 KiB" : len == -EINVAL ? "not an ordinary file" : error_text((int)len));
    else if (!token_file_is_private(rights.mode, rights.owner, rights.reader))
        err = refuse(why, TOKEN_FILE_NOT_PRIVATE);
    if (err) {
        file_forget(room);
        return err;
    }
    *bytes = room;
    *text = span_of(room, (size_t)len);
    return 0;
}

int access_read(const char *path, const struct tokens *before, struct tokens **out, char why[TOKEN_WHY_BYTES])
{
    char *bytes;
    struct span text;
    int err = file_read(path, &bytes, &text, why);
    if (err)
        return err;
    err = tokens_read(out, text, before, why);
    file_forget(bytes);
    return err;
}

int access_read_one(const char *path, struct token *out, char why[TOKEN_WHY_BYTES])
{
    char *bytes;
    struct span text;
    int err = file_read(path, &bytes, &text, why);
    if (err)
        return err;
    err = token_read_one(out, text, why);
    file_forget(bytes);
    return err;
}

static struct tokens *tokens_now(struct access *access)
{
    mutex_lock(access->lock);
    struct tokens *tokens = access->tokens ? tokens_ref(access->tokens) : NULL;
    mutex_unlock(access->lock);
    return tokens;
}

/* ---- reading it again ---- */

static void reload_work(struct job *job)
{
    struct access *access = CONTAINER_OF(job, struct access, job);
    access->err = access_read(access->path, access->before, &access->next, access->why);
}

static void take_next(struct access *access)
{
    mutex_lock(access->lock);
    struct tokens *old = access->tokens;
    access->tokens = access->next;
    atomic_fetch_add(&access->generation, 1);
    mutex_unlock(access->lock);
    log_info(access->log, "tokens_read", "path=\"%s\" tokens=%u", access->path, tokens_count(access->next));
    tokens_unref(old);
}

static void reload_begin(struct access *access);

/* Whoever has shown a token that is gone is cut by its own loop, which sees that the generation is another. */
static void reload_done(struct job *job)
{
    struct access *access = CONTAINER_OF(job, struct access, job);
    tokens_unref(access->before);
    access->reading = false;
    if (access->err == 0) {
        atomic_fetch_add(&access->reads, 1);
        take_next(access);
    } else {
        atomic_fetch_add(&access->failed_reads, 1);
        log_error(access->log, "tokens_kept", "path=\"%s\" err=\"%s\" note=\"the tokens that were read before still count\"", access->path,
                  access->err == KVD_EUSAGE ? access->why : error_text(access->err));
    }
    if (access->ending)
        loop_post(access->ended);
    else if (access->again)
        reload_begin(access);
}

static void reload_begin(struct access *access)
{
    access->reading = true;
    access->again = false;
    access->before = tokens_now(access);
    job_start(access->store_loop, &access->job, reload_work, reload_done);
}

void access_reload(struct access *access)
{
    CHECK(access->needs_token);
    loop_lock(access->store_loop);
    if (access->reading)
        access->again = true;
    else if (!access->ending)
        reload_begin(access);
    loop_unlock(access->store_loop);
}

bool access_end(struct access *access, struct task *task)
{
    loop_lock(access->store_loop);
    bool reading = access->reading;
    access->ending = true;
    access->ended = task;
    loop_unlock(access->store_loop);
    return !reading;
}

int access_init(struct access *access, const struct log *log, const char *path, struct tokens *tokens, struct loop *store_loop)
{
    *access = (struct access){.log = log, .path = path, .needs_token = tokens, .store_loop = store_loop, .lock = mutex_new()};
    if (!access->lock)
        return -ENOMEM;
    access->tokens = tokens ? tokens_ref(tokens) : NULL;
    return 0;
}

void access_fini(struct access *access)
{
    tokens_unref(access->tokens);
    mutex_free(access->lock);
}

unsigned access_tokens(struct access *access)
{
    struct tokens *tokens = tokens_now(access);
    unsigned count = tokens ? tokens_count(tokens) : 0;
    tokens_unref(tokens);
    return count;
}

/* ---- one connection ---- */

void grant_init(struct grant *grant, const struct access *access)
{
    *grant = (struct grant){.rights = access->needs_token ? 0 : RIGHTS_ALL};
}

void grant_challenge(struct grant *grant, const uint8_t nonce[NONCE_BYTES])
{
    memcpy(grant->nonce, nonce, NONCE_BYTES);
    grant->has_nonce = true;
}

int grant_authenticate(struct grant *grant, struct access *access, const struct span *name, struct span mac,
                       char token_name[TOKEN_NAME_BYTES + 1])
{
    uint64_t generation = atomic_load(&access->generation); /* before the set: one that is newer than this is judged once more */
    struct tokens *tokens = tokens_now(access);
    const struct token *token = NULL;
    bool has_nonce = grant->has_nonce;
    grant->has_nonce = false;
    int err = tokens_find(tokens, name, mac, grant->nonce, has_nonce, &token);
    if (err == 0) {
        grant->rights = token->rights;
        grant->token_id = token->id;
        grant->generation = generation;
        memcpy(token_name, token->name, sizeof token->name);
    }
    grant->failures += err == KVD_EDENIED;
    tokens_unref(tokens);
    return err;
}

bool grant_stands(struct grant *grant, struct access *access)
{
    uint64_t generation = atomic_load_explicit(&access->generation, memory_order_acquire);
    if (grant->rights == 0 || generation == grant->generation)
        return true;
    struct tokens *tokens = tokens_now(access);
    bool stands = tokens_have(tokens, grant->token_id);
    tokens_unref(tokens);
    if (stands)
        grant->generation = generation;
    return stands;
}
