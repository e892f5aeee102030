#include "client/kvctl/output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "client/kvctl/kvctl.h"

enum { NAME_WIDTH = 26, KEY_BYTES = 1024, TEXT_BYTES = 1024 };

static const char HEX[] = "hex:";

static void *must(void *got)
{
    if (!got) {
        fputs("kvctl: out of memory\n", stderr);
        exit(EXIT_REFUSED);
    }
    return got;
}

static bool is_printable(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x7f;
}

static bool key_is_text(const uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!is_printable(at[i]))
            return false;
    }
    return len < strlen(HEX) || memcmp(at, HEX, strlen(HEX)) != 0;
}

const char *output_key_text(char out[OUTPUT_KEY_BYTES], struct kvd_key key)
{
    const uint8_t *at = key.at;
    const size_t len = key.len < KEY_BYTES ? key.len : KEY_BYTES;

    if (len == 0 || key_is_text(at, len)) {
        snprintf(out, OUTPUT_KEY_BYTES, "%.*s", (int)len, len ? (const char *)at : "");
        return out;
    }
    char *end = stpcpy(out, HEX);
    for (size_t i = 0; i < len; i++, end += 2)
        snprintf(end, 3, "%02x", at[i]);
    return out;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool hex_parse(const char *text, uint8_t *out, size_t *len)
{
    size_t n = 0;

    for (; text[0] != '\0'; text += 2, n++) {
        const int high = nibble(text[0]);
        const int low = high < 0 ? -1 : nibble(text[1]);
        if (low < 0)
            return false;
        out[n] = (uint8_t)(high << 4 | low);
    }
    *len = n;
    return true;
}

bool output_key_parse(const char *text, void *room, struct kvd_key *key)
{
    struct kvd_key got = {text, strlen(text)};

    if (strncmp(text, HEX, strlen(HEX)) == 0) {
        got.at = room;
        if (!hex_parse(text + strlen(HEX), room, &got.len))
            return false;
    }
    if (got.len < 1 || got.len > KEY_BYTES)
        return false;
    *key = got;
    return true;
}

static const char *clean(char out[TEXT_BYTES], const char *text)
{
    snprintf(out, TEXT_BYTES, "%s", text);
    for (char *c = out; *c != '\0'; c++) {
        if (!is_printable((uint8_t)*c))
            *c = '?';
    }
    return out;
}

cJSON *json_object(void)
{
    return must(cJSON_CreateObject());
}

void json_add(cJSON *object, const char *name, cJSON *take_item)
{
    must(take_item);
    if (!cJSON_AddItemToObject(object, name, take_item))
        must(NULL);
}

void json_append(cJSON *array, cJSON *take_item)
{
    must(take_item);
    if (!cJSON_AddItemToArray(array, take_item))
        must(NULL);
}

cJSON *json_array(cJSON *object, const char *name)
{
    cJSON *array = must(cJSON_CreateArray());
    json_add(object, name, array);
    return array;
}

void json_count(cJSON *object, const char *name, uint64_t value)
{
    /* cJSON's numbers are doubles: a version or a size beyond 2^53 would come out wrong. */
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, value);
    json_add(object, name, cJSON_CreateRaw(text));
}

void json_flag(cJSON *object, const char *name, bool value)
{
    json_add(object, name, cJSON_CreateBool(value));
}

void json_text(cJSON *object, const char *name, const char *text)
{
    char cleaned[TEXT_BYTES];
    json_add(object, name, cJSON_CreateString(clean(cleaned, text)));
}

void json_key(cJSON *object, const char *name, struct kvd_key key)
{
    char text[OUTPUT_KEY_BYTES];
    json_add(object, name, cJSON_CreateString(output_key_text(text, key)));
}

char *json_line(const cJSON *item)
{
    return must(cJSON_PrintUnformatted(item));
}

void output_begin(struct output *output, bool json)
{
    *output = (struct output){.json = json, .root = json ? json_object() : NULL};
}

static void row(const char *name, const char *text)
{
    char label[TEXT_BYTES];
    clean(label, name);
    for (char *c = label; *c != '\0'; c++) {
        if (*c == '_')
            *c = ' ';
    }
    printf("%-*s %s\n", NAME_WIDTH, label, text);
}

void output_text(struct output *output, const char *name, const char *text)
{
    char cleaned[TEXT_BYTES];
    if (output->json)
        json_text(output->root, name, text);
    else
        row(name, clean(cleaned, text));
}

void output_key(struct output *output, const char *name, struct kvd_key key)
{
    char text[OUTPUT_KEY_BYTES];
    if (output->json)
        json_key(output->root, name, key);
    else
        row(name, output_key_text(text, key));
}

void output_flag(struct output *output, const char *name, bool value)
{
    if (output->json)
        json_flag(output->root, name, value);
    else
        row(name, value ? "yes" : "no");
}

void output_count(struct output *output, const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, value);
    if (output->json)
        json_count(output->root, name, value);
    else
        row(name, text);
}

void output_bytes(struct output *output, const char *name, uint64_t value)
{
    char text[32];
    if (output->json)
        json_count(output->root, name, value);
    else
        row(name, text_from_size(text, sizeof text, value));
}

void output_rate(struct output *output, const char *name, double bytes_per_second)
{
    char text[48];
    snprintf(text, sizeof text, "%.1f MB/s", bytes_per_second / 1e6);
    if (output->json)
        json_add(output->root, name, cJSON_CreateNumber(bytes_per_second));
    else
        row(name, text);
}

void output_real(struct output *output, const char *name, double value)
{
    char text[48];
    snprintf(text, sizeof text, "%.3f", value);
    if (output->json)
        json_add(output->root, name, cJSON_CreateNumber(value));
    else
        row(name, text);
}

void output_heading(const char *text, bool first)
{
    char cleaned[TEXT_BYTES];
    printf("%s[%s]\n", first ? "" : "\n", clean(cleaned, text));
}

struct percentile {
    const char *name;
    unsigned per_mille;
};

static const struct percentile PERCENTILES[] = {{"p50", 500}, {"p90", 900}, {"p99", 990}, {"p999", 999}, {"max", 1000}};

enum { PERCENTILE_COUNT = sizeof PERCENTILES / sizeof PERCENTILES[0] };

static double microseconds_at(const struct histogram *nanoseconds, unsigned per_mille)
{
    return (double)histogram_at(nanoseconds, per_mille) / 1e3;
}

static void latency_json(cJSON *root, const char *name, const struct histogram *nanoseconds)
{
    cJSON *object = json_object();
    for (size_t i = 0; i < PERCENTILE_COUNT; i++)
        json_add(object, PERCENTILES[i].name, cJSON_CreateNumber(microseconds_at(nanoseconds, PERCENTILES[i].per_mille)));
    json_count(object, "count", nanoseconds->count);
    json_add(root, name, object);
}

static void latency_head(void)
{
    printf("\n%-*s", NAME_WIDTH, "latency in us");
    for (size_t i = 0; i < PERCENTILE_COUNT; i++)
        printf(" %11s", PERCENTILES[i].name);
    printf(" %9s\n", "count");
}

void output_latency(struct output *output, const char *name, const struct histogram *nanoseconds)
{
    if (output->json) {
        latency_json(output->root, name, nanoseconds);
        return;
    }
    if (nanoseconds->count == 0)
        return;
    if (!output->latency_head)
        latency_head();
    output->latency_head = true;
    printf("%-*.*s", NAME_WIDTH, (int)(strlen(name) - strlen("_us")), name);
    for (size_t i = 0; i < PERCENTILE_COUNT; i++)
        printf(" %11.1f", microseconds_at(nanoseconds, PERCENTILES[i].per_mille));
    printf(" %9" PRIu64 "\n", nanoseconds->count);
}

int output_flush(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "kvctl: cannot write to standard output: %s\n", strerror(errno ? errno : EIO));
    return EXIT_REFUSED;
}

void output_drop(struct output *output)
{
    cJSON_Delete(output->root);
    output->root = NULL;
}

int output_end(struct output *output)
{
    if (output->json) {
        char *text = must(cJSON_Print(output->root));
        puts(text);
        free(text);
        cJSON_Delete(output->root);
    }
    return output_flush();
}
