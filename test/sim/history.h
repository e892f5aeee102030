/* history.h - what every client was told, and whether it can be true.
 *
 * Calls are recorded with the moment each began and ended (stamps that grow), the key, and which value was put or seen. history_judge()
 * then looks at each key by itself, by zones, and at what may not be missing.
 */
#ifndef KVD_TEST_SIM_HISTORY_H
#define KVD_TEST_SIM_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum call_kind {
    CALL_PUT,
    CALL_READ,   /* these bytes were seen */
    CALL_SEEN,   /* something was there, of which `version` is known or 0 */
    CALL_MISS,   /* nothing was there, and no trouble was given as the reason */
    CALL_REMOVE, /* of this key, by whatever op */
};
enum call_state {
    CALL_OPEN,   /* not answered: it may have taken effect, or will */
    CALL_DONE,   /* it has */
    CALL_VOID,   /* it has not */
    CALL_UNSURE, /* answered, but it may or may not have */
    CALL_HERE    /* a remove: has, in this process; may come back after a restart */
};

enum { NO_VALUE = -1 };

struct call {
    uint64_t begin, end; /* stamps; end UINT64_MAX while open */
    uint64_t begin_us, end_us;
    uint64_t version; /* 0: unknown */
    int64_t value;    /* index of the CALL_PUT that wrote it, or NO_VALUE */
    uint64_t size;
    uint64_t identity;      /* puts: what the bytes are made from */
    uint64_t ttl_ms;        /* puts; 0: it does not end */
    uint64_t wall_begin_ms; /* the server's clock was not behind this when it began (0: there is none) */
    uint64_t wall_end_ms;   /* and not ahead of this when it ended */
    uint32_t jumps;         /* of the wall clock before it began; UINT32_MAX: and there was one until it ended */
    uint64_t faults;        /* disk faults so far, at its begin; of a miss: at its end */
    uint64_t faults_end;
    uint32_t life, wire;
    uint8_t kind, state, key, host;
    bool ack_disk, replace, recovered;
    bool many;           /* a remove: of a prefix or of all */
    bool of_put;         /* CALL_SEEN: a put said PRESENT */
    uint64_t on_disk_us; /* of a put: when somebody was told that it is on disk; 0: never */
    uint64_t tight_end;  /* no later than this did it take effect: a later call of its connection and key was answered */
};

enum drop_kind {
    DROP_COUNTED, /* evicted or reclaimed, and counted */
    DROP_EARLY,   /* put before the version ceiling was known, and counted: leases or not */
    DROP_BAD,     /* the disk's bytes were bad; counted */
    DROP_UNPLACED /* no longer on disk, or about to be */
};
struct drop {
    uint64_t stamp;
    uint8_t key, host;
    uint8_t kind;
};

struct lease_grant {
    uint64_t begin, end, until_us;
    uint64_t released; /* UINT64_MAX: not */
    uint64_t lease;
    uint32_t life, wire;
    uint32_t keys; /* bits */
    uint64_t faults;
};

/* A life and how it ended: may what was only in memory be missing afterwards? */
struct life_end {
    uint64_t stamp;
    bool kept_all; /* an orderly stop, and all that was acknowledged is on disk */
};

/* Each version is one value's, as long as nobody tears its node down; a value may get another version when it has to be written again. */
struct alias {
    uint64_t version;
    size_t put;
    bool early; /* given before the directory had opened: no ceiling keeps another life from giving it again */
};

enum { HISTORY_HOSTS = 2 };

struct history {
    unsigned hosts;
    uint64_t begun_anew[HISTORY_HOSTS]; /* when its node was torn down last, and what it knew of versions went with it; 0: never */
    bool apart;                         /* they do not see each other's objects */
    uint64_t names_us, missing_us;      /* so long does a host remember a name, and that there was none */
    uint64_t slow_us;                   /* and so long may it wait for its disk */
    bool lied; /* the disk has said that something is written, or read, which was not so: then all of it may be missing */
    struct alias *aliases;
    size_t alias_count, alias_room;
    struct call *calls;
    size_t count, room;
    struct drop *drops;
    size_t drop_count, drop_room;
    struct lease_grant *leases;
    size_t lease_count, lease_room;
    struct life_end *ends;
    size_t end_count, end_room;
};

void history_init(struct history *history);
void history_fini(struct history *history);

size_t history_begin(struct history *history, enum call_kind kind, unsigned key);
void history_end(struct history *history, size_t index, enum call_state state);
void history_drop(struct history *history, unsigned key, enum drop_kind kind);
struct lease_grant *history_lease(struct history *history);
/* Lives are numbered from 1 on. */
void history_life_end(struct history *history, uint32_t life, bool kept_all);

/* Version `version` is what this put wrote. */
void history_alias(struct history *history, uint64_t version, size_t put);
/* Which put of this key wrote these bytes? NO_VALUE when none did. `version` 0: unknown. */
int64_t history_identify(struct history *history, unsigned key, uint64_t version, uint64_t size, uint64_t offset, const uint8_t *at,
                         uint64_t len, bool *ambiguous);
/* The bytes of a value. */
void value_fill(uint64_t identity, uint64_t offset, uint8_t *at, uint64_t len);
bool value_is(uint64_t identity, uint64_t offset, const uint8_t *at, uint64_t len);

/* True, or false with what is wrong in `why`. */
bool history_judge(const struct history *history, char *why, size_t why_len);
/* The judge judged: histories made by hand. Returns 0. */
int history_self_test(void);

#endif
