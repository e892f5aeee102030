/* The table of settings, and the two ways into it: flags and a file's text. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "config.h"

static struct config config;
static char why[256];

static void begin(void)
{
    memset(why, 0, sizeof why);
    config_init(&config, "host1", "/var/lib/kvd");
}

static int set(const char *name, const char *value)
{
    const struct config_key *key = config_find(name);
    cr_assert_not_null(key, "%s", name);
    return config_set(&config, key, value, why, sizeof why);
}

static const char *get(const char *name)
{
    static char out[CONFIG_TEXT_BYTES];
    return config_get(&config, config_find(name), out, sizeof out);
}

/* Refused, with a line for people that has `text` in it; nothing is changed. */
static void expect_refused(const char *name, const char *value, const char *text)
{
    struct config before = config;
    cr_assert_eq(set(name, value), KVD_EUSAGE, "%s = %s", name, value);
    cr_assert_not_null(strstr(why, text), "\"%s\" says nothing of \"%s\"", why, text);
    cr_assert_not_null(strstr(why, name), "\"%s\" does not name the key", why);
    cr_assert_null(strchr(why, '\n'));
    cr_assert_eq(memcmp(&before, &config, sizeof config), 0);
}

Test(config, every_default_is_taken_by_the_table_itself)
{
    begin();
    cr_assert_gt(config_key_count, 15);
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        char text[CONFIG_TEXT_BYTES];
        cr_assert_eq(config_find(key->name), key, "%s is there twice", key->name);
        cr_assert(key->help && key->help[0], "%s", key->name);
        cr_assert_lt(key->at, sizeof config);
        cr_assert_eq(key->room > 0, key->type == CONFIG_TEXT, "%s", key->name);
        bool unnamed = key->type == CONFIG_TEXT && key->min > 0; /* empty until somebody names one */
        if (key->fallback)
            cr_assert_eq(set(key->name, key->fallback) == 0, !unnamed, "%s", why);
        config_get(&config, key, text, sizeof text);
        cr_assert_eq(set(key->name, text) == 0, !unnamed, "what %s is cannot be set: %s", key->name, why);
    }
    cr_assert_eq(config_check(&config, why, sizeof why), 0, "%s", why);
}

Test(config, the_defaults_are_those_of_the_documentation)
{
    begin();
    static const char *const expected[][2] = {
        {"listen", "127.0.0.1:7950"},
        {"no-auth-anywhere", "no"},
        {"dir", "/var/lib/kvd"},
        {"cluster", "kvd"},
        {"node", "host1"},
        {"memory", "4g"},
        {"disk", "64g"},
        {"persist", "write-through"},
        {"when-behind", "wait"},
        {"segment-size", "256m"},
        {"write-queue", "256m"},
        {"inflight", "512m"},
        {"max-value", "256m"},
        {"read-split", "1m"},
        {"io-depth", "64"},
        {"wait-for-index", "5000ms"},
        {"log-level", "info"},
        {"port-file", ""},
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        cr_assert_str_eq(get(expected[i][0]), expected[i][1], "%s", expected[i][0]);
}

Test(config, a_key_fills_its_own_place_and_no_other)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        static const char *const values[] = {
            [CONFIG_TEXT] = "x", [CONFIG_SIZE] = "17m", [CONFIG_DURATION] = "777ms", [CONFIG_NUMBER] = "37", [CONFIG_FLAG] = "yes"};
        const char *value = key->values ? strrchr(key->values, '|') + 1 : values[key->type];
        begin();
        struct config before = config;
        cr_assert_eq(set(key->name, value), 0, "%s", why);
        cr_assert_str_eq(get(key->name), value);
        size_t bytes = key->type == CONFIG_TEXT ? key->room : key->type == CONFIG_FLAG ? sizeof(bool) : sizeof(uint64_t);
        memcpy((char *)&config + key->at, (const char *)&before + key->at, bytes);
        cr_assert_eq(memcmp(&before, &config, sizeof config), 0, "%s changes something else", key->name);
    }
}

Test(config, sizes_are_what_people_write)
{
    begin();
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"512m", 512 * MIB},   {"4g", 4 * GIB},     {"1t", TIB},     {"4194304", 4 * MIB},
                 {"1.5G", 3 * GIB / 2}, {"64MiB", 64 * MIB}, {"8Gb", 8 * GIB}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        cr_assert_eq(set("memory", sizes[i].text), 0, "%s", why);
        cr_assert_eq(config.memory, sizes[i].bytes, "%s", sizes[i].text);
    }
    static const char *const bad[] = {"", "x", "4gg", "-4g", "4 g", "4g ", "0x1000000", "1e9", "99999999999t", "4.g", "inf"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_refused("memory", bad[i], "size");
}

Test(config, bounds_are_said)
{
    begin();
    expect_refused("memory", "1m", "at least 4m");
    expect_refused("memory", "17t", "at most 16t");
    expect_refused("segment-size", "2g", "at most 1g");
    expect_refused("io-depth", "0", "at least 1");
    expect_refused("io-depth", "5000", "at most");
    expect_refused("send-timeout", "99ms", "at least");
    cr_assert_eq(set("memory", "4m"), 0);
    cr_assert_eq(set("memory", "16t"), 0);
    cr_assert_eq(set("io-depth", "4096"), 0);
    cr_assert_eq(config.io_depth, 4096);
}

Test(config, times_numbers_and_flags)
{
    begin();
    cr_assert_eq(set("wait-for-index", "250ms"), 0);
    cr_assert_eq(config.wait_for_index, 250);
    cr_assert_eq(set("wait-for-index", "2m"), 0);
    cr_assert_eq(config.wait_for_index, 120000);
    cr_assert_eq(set("wait-for-index", "0"), 0);
    cr_assert_eq(config.wait_for_index, 0);
    expect_refused("wait-for-index", "5 s", "time");
    expect_refused("wait-for-index", "soon", "time");
    expect_refused("io-depth", "1k", "number");
    expect_refused("io-depth", "-1", "number");
    expect_refused("io-depth", "18446744073709551616", "number");
    static const char *const yes[] = {"yes", "true", "on", "1"};
    static const char *const no[] = {"no", "false", "off", "0"};
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(set("no-auth-anywhere", yes[i]), 0);
        cr_assert(config.no_auth_anywhere);
        cr_assert_eq(set("no-auth-anywhere", no[i]), 0);
        cr_assert(!config.no_auth_anywhere);
    }
    expect_refused("no-auth-anywhere", "maybe", "yes or no");
    expect_refused("no-auth-anywhere", "", "yes or no");
    expect_refused("token-file", "", "token-file must not be empty");
}

Test(config, texts_are_one_of_the_values_and_fit)
{
    begin();
    cr_assert_eq(set("persist", "none"), 0);
    cr_assert_str_eq(config.persist, "none");
    static const char *const bad[] = {"", "write", "write-through|none", "non", "nonee", "None", "|", "through"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_refused("persist", bad[i], "write-through|on-evict|second-touch|none");
    char fits[65], longer[66];
    memset(fits, 'n', 64);
    fits[64] = '\0';
    memset(longer, 'n', 65);
    longer[65] = '\0';
    cr_assert_eq(set("node", fits), 0);
    cr_assert_str_eq(config.node, fits);
    expect_refused("node", longer, "longer than 64 bytes");
    char huge[2 * CONFIG_TEXT_BYTES];
    memset(huge, 'd', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    expect_refused("dir", huge, "longer");
    expect_refused("persist", huge, "must be one of"); /* and the line for people stays short */
    expect_refused("memory", huge, "size");
    cr_assert_lt(strlen(why), sizeof why - 1);
}

Test(config, names_that_are_too_long_are_cut_at_the_start_only)
{
    char name[300];
    memset(name, 'h', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    config_init(&config, name, "/d");
    cr_assert_eq(strlen(config.node), 64);
}

Test(config, the_log_level_is_known_by_name)
{
    begin();
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(set("log-level", names[i]), 0);
        cr_assert_eq((int)config_log_level(&config), i);
    }
}

/* ---- the file ---- */

static void expect_read(const char *text)
{
    begin();
    cr_assert_eq(config_read(&config, text, why, sizeof why), 0, "%s", why);
}

static void expect_unreadable(const char *text, const char *line, const char *what)
{
    begin();
    cr_assert_eq(config_read(&config, text, why, sizeof why), KVD_EUSAGE, "%s", text);
    cr_assert_not_null(strstr(why, line), "\"%s\" does not say \"%s\"", why, line);
    cr_assert_not_null(strstr(why, what), "\"%s\" does not say \"%s\"", why, what);
}

Test(config, a_file_is_read_with_and_without_a_section)
{
    expect_read("");
    expect_read("memory = 8g\npersist=none\n");
    cr_assert(config.memory == 8 * GIB && strcmp(config.persist, "none") == 0);
    expect_read("# a comment\n; another\n\n[kvd]\nmemory = 8g ; why\r\nlisten = 0.0.0.0:1\nno-auth-anywhere = yes\n");
    cr_assert(config.memory == 8 * GIB && config.no_auth_anywhere);
    cr_assert_str_eq(config.listen, "0.0.0.0:1");
    expect_read("dir = /with spaces/and=equals");
    cr_assert_str_eq(config.dir, "/with spaces/and=equals");
    expect_read("memory = 5g\nmemory = 6g\n"); /* the last one counts */
    cr_assert_eq(config.memory, 6 * GIB);
}

Test(config, a_bad_line_is_named)
{
    expect_unreadable("memory = 8g\nmemry = 8g\n", "line 2", "memry");
    expect_unreadable("\n\n[other]\nmemory = 8g\n", "line 4", "[other]");
    expect_unreadable("[kvd]\nmemory = lots\n", "line 2", "lots");
    expect_unreadable("# one\nmemory 8g\n", "line 2", "key = value");
    expect_unreadable("[kvd\n", "line 1", "key = value");
    expect_unreadable("memory = 1m", "line 1", "at least 4m");
    expect_unreadable("memory =\n", "line 1", "memory");
    expect_unreadable("check-config = yes\n", "line 1", "check-config");
    expect_unreadable("memory = 8g # why\n", "line 1", "comment");
    expect_unreadable("memory = 8g\n  5g\n", "line 2", "space");
}

Test(config, the_first_bad_line_is_the_one_that_is_explained)
{
    expect_unreadable("memory = lots\nmemry = 8g\n", "line 1", "lots");
    expect_unreadable("memory 8g\nmemry = 8g\n", "line 1", "key = value");
}

Test(config, a_line_that_is_too_long_is_refused_and_not_cut)
{
    char text[600] = "dir = /";
    memset(text + 7, 'd', 300);
    strcpy(text + 307, "\nmemory = 8g\n");
    expect_unreadable(text, "line 1", "longer");
}

/* ---- flags ---- */

static struct config_command command;

static int flags_of(struct config *into, int argc, const char *const *argv)
{
    char copies[8][300], *args[9] = {0};
    cr_assert_leq(argc, 8);
    for (int i = 0; i < argc; i++) {
        snprintf(copies[i], sizeof copies[i], "%s", argv[i]);
        args[i] = copies[i];
    }
    return config_flags(into, &command, argc, args, why, sizeof why);
}

#define FLAGS(into, ...) \
    flags_of(into, (int)(sizeof((const char *[]){"kvd", __VA_ARGS__}) / sizeof(char *)), (const char *[]){"kvd", __VA_ARGS__})

Test(config, flags_come_in_both_forms)
{
    begin();
    cr_assert_eq(FLAGS(&config, "--memory", "8g", "--persist=none", "--no-auth-anywhere", "--dir=/a=b"), 0, "%s", why);
    cr_assert(config.memory == 8 * GIB && config.no_auth_anywhere && strcmp(config.persist, "none") == 0);
    cr_assert_str_eq(config.dir, "/a=b");
    cr_assert_eq(FLAGS(&config, "--no-auth-anywhere=no"), 0);
    cr_assert(!config.no_auth_anywhere);
    cr_assert_eq(FLAGS(&config, "--port-file="), 0);
    cr_assert_str_eq(config.port_file, "");
    cr_assert_eq(flags_of(&config, 1, (const char *[]){"kvd"}), 0);
}

Test(config, the_first_pass_looks_for_the_command_and_the_file_alone)
{
    begin();
    cr_assert_eq(FLAGS(NULL, "--memory", "lots", "--config", "/etc/kvd.conf", "--check-config"), 0);
    cr_assert_str_eq(command.file, "/etc/kvd.conf");
    cr_assert(command.check && !command.help && !command.version && !command.page);
    cr_assert_eq(FLAGS(NULL, "--config=/x"), 0);
    cr_assert_str_eq(command.file, "/x");
    cr_assert_eq(FLAGS(NULL, "--help"), 0);
    cr_assert(command.help && !command.check && command.file[0] == '\0');
    cr_assert_eq(FLAGS(NULL, "-h", "--version"), 0);
    cr_assert(command.help && command.version);
}

Test(config, flags_win_over_the_file)
{
    begin();
    cr_assert_eq(config_read(&config, "memory = 8g\ndisk = 100g\n", why, sizeof why), 0);
    cr_assert_eq(FLAGS(&config, "--memory=5g", "--config", "f"), 0);
    cr_assert(config.memory == 5 * GIB && config.disk == 100 * GIB);
}

static void expect_bad_flags(int err, const char *text)
{
    cr_assert_eq(err, KVD_EUSAGE);
    cr_assert_not_null(strstr(why, text), "\"%s\" says nothing of \"%s\"", why, text);
}

Test(config, wrong_flags_are_refused_with_a_reason)
{
    begin();
    expect_bad_flags(FLAGS(&config, "--memry=8g"), "--memry=8g");
    expect_bad_flags(FLAGS(&config, "memory=8g"), "unexpected argument");
    expect_bad_flags(FLAGS(&config, "--memory=8g", "extra"), "extra");
    expect_bad_flags(FLAGS(&config, "-m"), "-m");
    expect_bad_flags(FLAGS(&config, "--"), "--");
    expect_bad_flags(FLAGS(&config, "--=5"), "--=5");
    expect_bad_flags(FLAGS(&config, "--memory"), "needs a value");
    expect_bad_flags(FLAGS(NULL, "--config"), "needs a value");
    expect_bad_flags(FLAGS(&config, "--memory=lots"), "lots");
    expect_bad_flags(FLAGS(&config, "--no-auth-anywhere=perhaps"), "yes or no");
    expect_bad_flags(FLAGS(&config, "--help=yes"), "--help=yes");
    expect_bad_flags(FLAGS(&config, "--a-flag-with-a-name-that-is-much-longer-than-any-name-of-a-flag-that-there-is"), "unknown flag");
}

/* ---- together ---- */

static void expect_bad(const char *name, const char *value, const char *text)
{
    begin();
    cr_assert_eq(set(name, value), 0, "%s", why);
    cr_assert_eq(config_check(&config, why, sizeof why), KVD_EUSAGE, "%s = %s", name, value);
    cr_assert_not_null(strstr(why, text), "\"%s\" says nothing of \"%s\"", why, text);
}

Test(config, what_makes_no_sense_together_is_found)
{
    expect_bad("listen", "7950", "listen");
    expect_bad("listen", "host:", "listen");
    expect_bad("listen", "host:65536", "listen");
    expect_bad("listen", "", "listen");
    expect_bad("dir", "", "dir");
    expect_bad("cluster", "", "cluster");
    expect_bad("cluster", "a/b", "cluster");
    expect_bad("cluster", "..", "cluster");
    expect_bad("node", ".hidden", "node");
    expect_bad("node", "a b", "node");
    expect_bad("node", "n\xc3\xb6", "node");
    expect_bad("disk", "512m", "segment-size");
    expect_bad("segment-size", "1023k", "0 or at least 1m");
    expect_bad("probe", "yes", "segment-size 0");
    expect_bad("read-split", "300k", "read-split");
    begin();
    cr_assert_eq(set("peers", "auto") + set("advertise", "127.0.0.1:1") + set("cluster-token-file", "token"), 0);
    cr_assert_eq(config_check(&config, why, sizeof why), 0, "%s", why);
    cr_assert_eq(set("segment-size", "0"), 0);
    cr_assert_eq(config_check(&config, why, sizeof why), KVD_EUSAGE);
    cr_assert_not_null(strstr(why, "segment-size"), "%s", why);
    begin();
    cr_assert_eq(set("listen", "[::1]:0") + set("disk", "1g") + set("node", "Node-1_a.b"), 0);
    cr_assert_eq(config_check(&config, why, sizeof why), 0, "%s", why);
}
