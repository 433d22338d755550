/* Spans stand inside the text, hold what they say and can be read again; strings survive decoding and quoting. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "deputy.h"
#include "net/json_span.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void demand(int truth)
{
    if (!truth) {
        abort();
    }
}

/* The value alone must be a value of the same kind. */
static void read_again(const char *text, size_t start, size_t end, enum json_kind kind)
{
    struct json_member m = {.name = "v"};
    size_t len = end - start;
    char *wrapped = malloc(len + 6);

    demand(wrapped != NULL);
    memcpy(wrapped, "{\"v\":", 5);
    memcpy(wrapped + 5, text + start, len);
    wrapped[5 + len] = '}';
    demand(json_span_find(wrapped, len + 6, &m, 1, NULL) == DEPUTY_OK);
    demand(m.kind == kind && m.count == 1 && m.start == 5 && m.end == 5 + len);
    free(wrapped);
}

static void check_string(const char *text, size_t start, size_t end)
{
    char decoded[256], quoted[1600], again[256];
    long n = json_span_string(text, start, end, decoded, sizeof(decoded)), q;

    if (n < 0) {
        return;
    }
    demand((size_t)n == strlen(decoded));
    q = json_quote(decoded, quoted, sizeof(quoted));
    demand(q >= 2);
    demand(json_span_string(quoted, 0, (size_t)q, again, sizeof(again)) == n && strcmp(decoded, again) == 0);
}

struct array {
    const char *text;
    size_t len, at;
};

static void check_element(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct array *array = user;

    demand(array->at < start && start < end && end < array->len);
    array->at = end;
    if (end - start < 64) {
        read_again(array->text, start, end, kind);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct json_member m[] = {{.name = "model"}, {.name = "a"}, {.name = ""}, {.name = "\xC3\xA9"}};
    const char *text = (const char *)data;
    char out[64];
    size_t offset = SIZE_MAX;
    int code = json_span_find(text, len, m, 4, &offset);

    demand(code == DEPUTY_OK || code == DEPUTY_EINVAL || code == DEPUTY_ELIMIT);
    demand(code == DEPUTY_OK ? offset == SIZE_MAX : offset <= len);
    for (size_t i = 0; code == DEPUTY_OK && i < 4; i++) {
        demand((m[i].kind == JSON_ABSENT) == (m[i].count == 0));
        if (m[i].count == 0) {
            continue;
        }
        demand(m[i].start < m[i].end && m[i].end < len);
        read_again(text, m[i].start, m[i].end, m[i].kind);
        if (m[i].kind == JSON_STRING) {
            check_string(text, m[i].start, m[i].end);
        }
        if (m[i].kind == JSON_ARRAY) {
            struct array array = {text + m[i].start, m[i].end - m[i].start, 0};

            demand(json_span_each(array.text, array.len, check_element, &array) == DEPUTY_OK);
        }
    }
    if (len > 0) {
        json_span_string(text, 0, len, out, sizeof(out));
    }
    return 0;
}
