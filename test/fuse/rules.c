#include "test/fuse/rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RULES_MAX = 64 };

#define OPS_ALL ((1U << OP_COUNT) - 1)
#define OPS_NAMES (1U << OP_CREATE | 1U << OP_UNLINK | 1U << OP_RENAME | 1U << OP_LINK | 1U << OP_MKDIR | 1U << OP_RMDIR)
/* What changes what is on the disk, or makes it durable. */
#define OPS_CHANGE (OPS_NAMES | 1U << OP_TRUNCATE | 1U << OP_WRITE | 1U << OP_FSYNC | 1U << OP_FSYNCDIR)

static const char *const op_names[OP_COUNT] = {
    [OP_LOOKUP] = "lookup",   [OP_GETATTR] = "getattr", [OP_SETATTR] = "setattr", [OP_TRUNCATE] = "truncate", [OP_CREATE] = "create",
    [OP_OPEN] = "open",       [OP_READ] = "read",       [OP_WRITE] = "write",     [OP_FLUSH] = "flush",       [OP_FSYNC] = "fsync",
    [OP_RELEASE] = "release", [OP_UNLINK] = "unlink",   [OP_RENAME] = "rename",   [OP_LINK] = "link",         [OP_MKDIR] = "mkdir",
    [OP_RMDIR] = "rmdir",     [OP_OPENDIR] = "opendir", [OP_READDIR] = "readdir", [OP_FSYNCDIR] = "fsyncdir", [OP_STATFS] = "statfs",
};

static const struct {
    const char *name;
    int err;
} err_names[] = {
    {"EIO", EIO},         {"ENOSPC", ENOSPC}, {"EROFS", EROFS},   {"EDQUOT", EDQUOT},       {"ENOTCONN", ENOTCONN}, {"ENOENT", ENOENT},
    {"EACCES", EACCES},   {"EPERM", EPERM},   {"EEXIST", EEXIST}, {"ETIMEDOUT", ETIMEDOUT}, {"EINTR", EINTR},       {"EAGAIN", EAGAIN},
    {"ENOMEM", ENOMEM},   {"EMFILE", EMFILE}, {"ENFILE", ENFILE}, {"ESTALE", ESTALE},       {"EINVAL", EINVAL},     {"EBUSY", EBUSY},
    {"ENOTDIR", ENOTDIR}, {"ENOSYS", ENOSYS}, {"EFBIG", EFBIG},   {"EREMOTEIO", EREMOTEIO},
};

struct rule {
    unsigned id;
    uint32_t ops;
    char name[128]; /* a glob; empty for all */
    uint64_t nth;   /* the first that it concerns */
    uint64_t count; /* how many from there on */
    double p;
    unsigned delay_ms;
    bool hang, step, vanish;
    struct verdict verdict;
    uint64_t seen, fired;
};

struct rules {
    pthread_mutex_t lock;
    pthread_cond_t released;
    uint64_t epoch;             /* grows with each release */
    uint64_t hung;              /* threads that wait for one */
    uint64_t stepping, stepped; /* threads that have waited for rules_next() or do, and those that need not any more */
    uint64_t counters[OP_COUNT];
    uint64_t dice;
    unsigned last_id;
    unsigned used;
    struct rule at[RULES_MAX];
};

/* splitmix64 */
uint64_t dice_roll(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

bool dice_says(uint64_t *state, double p)
{
    return (double)(dice_roll(state) >> 11) * 0x1p-53 < p;
}

struct rules *rules_new(uint64_t seed)
{
    struct rules *rules = calloc(1, sizeof *rules);
    if (!rules)
        return NULL;
    pthread_mutex_init(&rules->lock, NULL);
    pthread_cond_init(&rules->released, NULL);
    rules->dice = seed;
    return rules;
}

/* ---- the language ---- */

bool parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "kmgt";
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    uint64_t value = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        value <<= 10 * (unit - units + 1);
        end++;
    }
    *out = value;
    return *end == '\0';
}

static bool parse_fraction(const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0) || value > 1)
        return false;
    *out = value;
    return true;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    *out = strtoull(text, &end, 10);
    return end != text && !*end;
}

static bool parse_delay(const char *text, unsigned *out)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    bool seconds = strcmp(end, "s") == 0;
    *out = (unsigned)value * (seconds ? 1000 : 1);
    return end != text && (seconds || strcmp(end, "ms") == 0);
}

static bool parse_err(const char *text, int *out)
{
    for (size_t i = 0; i < sizeof err_names / sizeof *err_names; i++) {
        if (strcmp(text, err_names[i].name) == 0) {
            *out = err_names[i].err;
            return true;
        }
    }
    return false;
}

static uint32_t op_bits(const char *name)
{
    if (strcmp(name, "any") == 0)
        return OPS_ALL;
    if (strcmp(name, "change") == 0)
        return OPS_CHANGE;
    if (strcmp(name, "names") == 0)
        return OPS_NAMES;
    for (int op = 0; op < OP_COUNT; op++)
        if (strcmp(name, op_names[op]) == 0)
            return 1U << op;
    return 0;
}

static bool parse_ops(char *text, uint32_t *out)
{
    char *rest;
    *out = 0;
    for (char *name = strtok_r(text, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        uint32_t bits = op_bits(name);
        if (!bits)
            return false;
        *out |= bits;
    }
    return *out != 0;
}

static bool parse_name(const char *text, char *out, size_t room)
{
    if (strlen(text) >= room)
        return false;
    strcpy(out, text);
    return true;
}

/* A word that says all by being there. */
static bool *flag_of(struct rule *rule, const char *word)
{
    struct verdict *verdict = &rule->verdict;
    if (strcmp(word, "hang") == 0)
        return &rule->hang;
    if (strcmp(word, "step") == 0)
        return &rule->step;
    if (strcmp(word, "vanish") == 0)
        return &rule->vanish;
    if (strcmp(word, "flip") == 0)
        return &verdict->flip;
    if (strcmp(word, "lost") == 0)
        return &verdict->lost;
    if (strcmp(word, "late") == 0)
        return &verdict->late;
    return strcmp(word, "anyway") == 0 ? &verdict->anyway : NULL;
}

static bool parse_pair(struct rule *rule, const char *key, char *value)
{
    struct verdict *verdict = &rule->verdict;
    if (strcmp(key, "op") == 0)
        return parse_ops(value, &rule->ops);
    if (strcmp(key, "name") == 0)
        return parse_name(value, rule->name, sizeof rule->name);
    if (strcmp(key, "nth") == 0)
        return parse_number(value, &rule->nth) && rule->nth > 0;
    if (strcmp(key, "count") == 0)
        return parse_number(value, &rule->count);
    if (strcmp(key, "p") == 0)
        return parse_fraction(value, &rule->p);
    if (strcmp(key, "err") == 0)
        return parse_err(value, &verdict->err);
    if (strcmp(key, "short") == 0)
        return parse_fraction(value, &verdict->part);
    if (strcmp(key, "torn") == 0)
        return parse_fraction(value, &verdict->torn);
    if (strcmp(key, "zero") == 0)
        return parse_fraction(value, &verdict->zero);
    return strcmp(key, "delay") == 0 && parse_delay(value, &rule->delay_ms);
}

static bool parse_word(struct rule *rule, char *word)
{
    char *equals = strchr(word, '=');
    bool *flag = flag_of(rule, word);
    if (flag)
        *flag = true;
    if (flag || !equals)
        return flag;
    *equals = '\0';
    return parse_pair(rule, word, equals + 1);
}

unsigned rules_add(struct rules *rules, char *text, const char **why)
{
    struct rule rule = {.ops = OPS_ALL, .nth = 1, .count = UINT64_MAX, .p = 1, .verdict = {.part = -1, .torn = -1, .zero = -1}};
    char *rest;
    *why = "this word is none of a rule, or its value is none";
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        if (!parse_word(&rule, word))
            return 0;
    pthread_mutex_lock(&rules->lock);
    if (rules->used < RULES_MAX) {
        rule.id = ++rules->last_id;
        rules->at[rules->used++] = rule;
    } else {
        *why = "too many rules";
    }
    pthread_mutex_unlock(&rules->lock);
    return rule.id;
}

/* ---- asking ---- */

/* A glob with a slash is for the whole path, one without for its last part. */
static bool name_matches(const struct rule *rule, const char *path)
{
    if (!rule->name[0])
        return true;
    const char *slash = strchr(rule->name, '/') ? NULL : strrchr(path, '/');
    return fnmatch(rule->name, slash ? slash + 1 : path, 0) == 0;
}

static bool rule_fires(struct rules *rules, struct rule *rule, enum op op, const char *path)
{
    if (!(rule->ops & 1U << op) || !name_matches(rule, path))
        return false;
    uint64_t number = ++rule->seen;
    if (number < rule->nth || number - rule->nth >= rule->count || !dice_says(&rules->dice, rule->p))
        return false;
    rule->fired++;
    return true;
}

/* Later rules have the last word. */
static void verdict_merge(struct verdict *into, const struct verdict *from)
{
    into->err = from->err ? from->err : into->err;
    into->anyway |= from->anyway;
    into->late |= from->late;
    into->lost |= from->lost;
    into->flip |= from->flip;
    into->part = from->part >= 0 ? from->part : into->part;
    into->torn = from->torn >= 0 ? from->torn : into->torn;
    into->zero = from->zero >= 0 ? from->zero : into->zero;
}

static void wait_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

/* With the lock held. */
static void hang(struct rules *rules)
{
    uint64_t epoch = rules->epoch;
    rules->hung++;
    while (rules->epoch == epoch)
        pthread_cond_wait(&rules->released, &rules->lock);
    rules->hung--;
}

/* Likewise; in the order in which they came. Whoever lets them go counts them off. */
static void step(struct rules *rules)
{
    uint64_t number = rules->stepping++;
    rules->hung++;
    while (rules->stepped <= number)
        pthread_cond_wait(&rules->released, &rules->lock);
}

bool rules_next(struct rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    bool waits = rules->stepped < rules->stepping;
    rules->stepped += waits;
    rules->hung -= waits;
    pthread_cond_broadcast(&rules->released);
    pthread_mutex_unlock(&rules->lock);
    return waits;
}

void rules_ask(struct rules *rules, enum op op, const char *path, struct verdict *out)
{
    unsigned delay_ms = 0;
    bool hangs = false, steps = false;
    *out = (struct verdict){.part = -1, .torn = -1, .zero = -1};
    pthread_mutex_lock(&rules->lock);
    rules->counters[op]++;
    for (unsigned i = 0; i < rules->used; i++) {
        struct rule *rule = &rules->at[i];
        if (!rule_fires(rules, rule, op, path))
            continue;
        if (rule->vanish)
            _exit(0);
        verdict_merge(out, &rule->verdict);
        delay_ms += rule->delay_ms;
        hangs |= rule->hang;
        steps |= rule->step;
    }
    out->dice = dice_roll(&rules->dice);
    if (steps)
        step(rules);
    if (hangs)
        hang(rules);
    pthread_mutex_unlock(&rules->lock);
    if (delay_ms)
        wait_ms(delay_ms);
}

/* ---- ruling ---- */

bool rules_remove(struct rules *rules, unsigned id)
{
    pthread_mutex_lock(&rules->lock);
    unsigned before = rules->used, kept = 0;
    for (unsigned i = 0; i < before; i++)
        if (rules->at[i].id != id)
            rules->at[kept++] = rules->at[i];
    rules->used = kept;
    pthread_mutex_unlock(&rules->lock);
    return kept < before;
}

void rules_clear(struct rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    rules->used = 0;
    pthread_mutex_unlock(&rules->lock);
}

void rules_release(struct rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    unsigned kept = 0;
    for (unsigned i = 0; i < rules->used; i++)
        if (!rules->at[i].hang && !rules->at[i].step)
            rules->at[kept++] = rules->at[i];
    rules->used = kept;
    rules->epoch++;
    rules->hung -= rules->stepping - rules->stepped;
    rules->stepped = rules->stepping;
    pthread_cond_broadcast(&rules->released);
    pthread_mutex_unlock(&rules->lock);
}

/* ---- showing ---- */

bool rules_show(struct rules *rules, unsigned id, FILE *out)
{
    bool found = false;
    pthread_mutex_lock(&rules->lock);
    for (unsigned i = 0; i < rules->used && !found; i++) {
        found = rules->at[i].id == id;
        if (found)
            fprintf(out, "seen=%llu fired=%llu", (unsigned long long)rules->at[i].seen, (unsigned long long)rules->at[i].fired);
    }
    pthread_mutex_unlock(&rules->lock);
    return found;
}

void rules_show_counters(struct rules *rules, FILE *out)
{
    pthread_mutex_lock(&rules->lock);
    for (int op = 0; op < OP_COUNT; op++)
        fprintf(out, "%s=%llu ", op_names[op], (unsigned long long)rules->counters[op]);
    fprintf(out, "hung=%llu", (unsigned long long)rules->hung);
    pthread_mutex_unlock(&rules->lock);
}

void rules_reset_counters(struct rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    memset(rules->counters, 0, sizeof rules->counters);
    pthread_mutex_unlock(&rules->lock);
}
