/* The token: read from its file for each connection, used once, wiped. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "auth/token.h"
#include "base/error.h"
#include "client/kvd_impl.h"

static int fail_file(struct kvd *kvd, const char *why)
{
    snprintf(kvd->message, sizeof kvd->message, "token file %.80s: %.140s", kvd->token_file, why);
    return KVD_ERR_USAGE;
}

/* Returns the bytes, -EFBIG when there are more, or -errno. */
static ssize_t read_all(int fd, uint8_t *bytes, size_t room)
{
    size_t used = 0;
    while (used < room) {
        ssize_t got = read(fd, bytes + used, room - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : (ssize_t)used;
        used += (size_t)got;
    }
    return -EFBIG;
}

static int file_take(struct kvd *kvd, int fd, uint8_t *bytes, struct token *token)
{
    char why[TOKEN_WHY_BYTES];
    struct stat info;
    if (fstat(fd, &info) != 0)
        return fail_file(kvd, error_text(-errno));
    if (!S_ISREG(info.st_mode))
        return fail_file(kvd, "not an ordinary file");
    if (!token_file_is_private(info.st_mode, info.st_uid, geteuid()))
        return fail_file(kvd, TOKEN_FILE_NOT_PRIVATE);
    ssize_t len = read_all(fd, bytes, TOKEN_FILE_BYTES);
    if (len < 0)
        return fail_file(kvd, error_text((int)len));
    return token_read_one(token, span_of(bytes, (size_t)len), why) == 0 ? 0 : fail_file(kvd, why);
}

static int token_take(struct kvd *kvd, struct token *token)
{
    int fd = open(kvd->token_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fail_file(kvd, error_text(-errno));
    uint8_t *bytes = malloc(TOKEN_FILE_BYTES);
    int result = bytes ? file_take(kvd, fd, bytes, token) : wire_fail(kvd, KVD_ERR_MEMORY, kvd_strerror(KVD_ERR_MEMORY));
    if (bytes)
        mac_wipe(bytes, TOKEN_FILE_BYTES);
    free(bytes);
    close(fd);
    return result;
}

static int auth_say(struct kvd *kvd, const struct token *token, const uint8_t mac[MAC_BYTES])
{
    struct msg_auth request = {.has = 1u << F_AUTH_MAC, .mac = span_of(mac, MAC_BYTES), .name = span_text(token->name)};
    request.has |= token->name[0] != '\0' ? 1u << F_AUTH_NAME : 0;
    struct msg_auth_reply reply = {0};
    struct call call = {.op = OP_AUTH, .msg = &request, .reply = &reply};
    int result = call_run(kvd, &call);
    if (result == KVD_ERR_DENIED)
        snprintf(kvd->message, sizeof kvd->message, "the server does not take the token of %.180s", kvd->token_file);
    return result;
}

int auth_show(struct kvd *kvd, struct span nonce)
{
    struct token token = {.len = 0};
    uint8_t mac[MAC_BYTES];
    if (!kvd->token_file)
        return wire_fail(kvd, KVD_ERR_DENIED, "the server asks for a token, and no token file is named (KVD_TOKEN_FILE)");
    if (nonce.len != NONCE_BYTES)
        return wire_fail(kvd, KVD_ERR_PROTOCOL, "the server asks for a token without a nonce");
    int result = token_take(kvd, &token);
    if (result)
        return result;
    if (mac_of(mac, span_of(token.bytes, token.len), MAC_CLIENT, nonce) != 0)
        result = wire_fail(kvd, KVD_ERR_MEMORY, kvd_strerror(KVD_ERR_MEMORY));
    else
        result = auth_say(kvd, &token, mac);
    mac_wipe(&token, sizeof token);
    return result;
}
