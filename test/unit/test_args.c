#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "client/kvctl/args.h"

enum { MAX_ARGS = 16 };

struct parsed {
    struct args args;
    const char *room[MAX_ARGS];
    char why[ARGS_WHY_BYTES];
};

/* `line` is a NULL-ended argv without its first. */
static int parse(struct parsed *parsed, const char *const *line)
{
    char *argv[MAX_ARGS] = {(char *)(uintptr_t) "kvctl"};
    int argc = 1;

    for (; line[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)line[argc - 1];
    *parsed = (struct parsed){.why = ""};
    return args_parse(&parsed->args, argc, argv, parsed->room, parsed->why);
}

#define PARSE(parsed, ...) parse(parsed, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

Test(args, options_before_and_after_the_command)
{
    struct parsed p;

    cr_assert_eq(PARSE(&p, "--server", "h:1", "put", "--json", "key", "-", "--timeout=5s"), 0);
    cr_assert_str_eq(p.args.command, "put");
    cr_assert_eq(p.args.count, 2);
    cr_assert_str_eq(p.args.operands[0], "key");
    cr_assert_str_eq(p.args.operands[1], "-");
    cr_assert_str_eq(p.args.values[OPT_SERVER], "h:1");
    cr_assert_str_eq(p.args.values[OPT_TIMEOUT], "5s");
    cr_assert(args_has(&p.args, OPT_JSON));
    cr_assert_not(args_has(&p.args, OPT_PIN));
}

Test(args, letters)
{
    struct parsed p;

    cr_assert_eq(PARSE(&p, "get", "-oFILE", "-c", "3", "-l"), 0);
    cr_assert_str_eq(p.args.values[OPT_OUTPUT], "FILE");
    cr_assert_str_eq(p.args.values[OPT_COUNT], "3");
    cr_assert(args_has(&p.args, OPT_LONG));
}

Test(args, after_two_dashes_all_are_operands)
{
    struct parsed p;

    cr_assert_eq(PARSE(&p, "rm", "--", "--all", "-x"), 0);
    cr_assert_eq(p.args.count, 2);
    cr_assert_str_eq(p.args.operands[0], "--all");
    cr_assert_not(args_has(&p.args, OPT_ALL));
}

Test(args, the_last_of_equal_options_counts_and_a_value_may_look_like_an_option)
{
    struct parsed p;

    cr_assert_eq(PARSE(&p, "ls", "--prefix", "a", "--prefix", "-b"), 0);
    cr_assert_str_eq(p.args.values[OPT_PREFIX], "-b");
}

Test(args, nothing_is_no_command)
{
    struct parsed p;

    cr_assert_eq(PARSE(&p), 0);
    cr_assert_null(p.args.command);
}

Test(args, what_makes_no_sense_is_refused)
{
    struct parsed p;

    cr_assert_eq(PARSE(&p, "--nope"), KVD_EUSAGE);
    cr_assert_eq(PARSE(&p, "--pre", "x"), KVD_EUSAGE, "no abbreviations");
    cr_assert_eq(PARSE(&p, "-z"), KVD_EUSAGE);
    cr_assert_eq(PARSE(&p, "ls", "--prefix"), KVD_EUSAGE);
    cr_assert_eq(PARSE(&p, "--json=yes"), KVD_EUSAGE);
    cr_assert_eq(PARSE(&p, "-lx"), KVD_EUSAGE);
    cr_assert_eq(PARSE(&p, "--=x"), KVD_EUSAGE);
    cr_assert_neq(p.why[0], '\0');
}
