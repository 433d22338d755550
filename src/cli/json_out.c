#include "json_out.h"

#include "json_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print(void *user, const char *text, size_t len)
{
    (void)user;
    fwrite(text, 1, len, stdout);
}

yajl_gen json_begin(void)
{
    yajl_gen json = yajl_gen_alloc(NULL);
    if (!json)
        return NULL;
    yajl_gen_config(json, yajl_gen_print_callback, print, NULL);
    yajl_gen_config(json, yajl_gen_validate_utf8, 1);
    return json;
}

void json_end(yajl_gen json)
{
    yajl_gen_free(json);
    putchar('\n');
}

void json_text(yajl_gen json, const char *text, size_t len)
{
    if (yajl_gen_string(json, (const unsigned char *)text, len) != yajl_gen_invalid_string)
        return;
    unsigned char *plain = malloc(len);
    if (!plain) {
        yajl_gen_null(json);
        return;
    }
    for (size_t i = 0; i < len; i++)
        plain[i] = (unsigned char)text[i] < 0x80 ? (unsigned char)text[i] : '?';
    yajl_gen_string(json, plain, len);
    free(plain);
}

void json_string(yajl_gen json, const char *text)
{
    if (text)
        json_text(json, text, strlen(text));
    else
        yajl_gen_null(json);
}

void json_key(yajl_gen json, const char *name)
{
    json_string(json, name);
}

void json_value_or_text(yajl_gen json, const char *text, size_t len)
{
    if (len == 0)
        yajl_gen_null(json);
    else if (json_each_string(text, len, NULL, NULL))
        yajl_gen_number(json, text, len); /* the only call that passes bytes on as they stand */
    else
        json_text(json, text, len);
}

static void trace_entry(yajl_gen json, const deputy_trace *t)
{
    yajl_gen_map_open(json);
    json_key(json, "leg");
    json_string(json, deputy_leg_name(t->leg));
    json_key(json, "attempt");
    yajl_gen_integer(json, t->attempt);
    if (t->provider) {
        json_key(json, "provider");
        json_string(json, t->provider);
    }
    json_key(json, "kind");
    json_string(json, t->kind);
    if (t->status) {
        json_key(json, "status");
        yajl_gen_integer(json, t->status);
    }
    if (t->leg == DEPUTY_LEG_PROBE) {
        json_key(json, "verdict");
        json_string(json, deputy_verdict_name(t->verdict));
    }
    json_key(json, "start_us");
    yajl_gen_integer(json, (long long)t->start_us);
    json_key(json, "end_us");
    yajl_gen_integer(json, (long long)t->end_us);
    yajl_gen_map_close(json);
}

void json_trace(yajl_gen json, const deputy_outcome *outcome)
{
    json_key(json, "trace");
    yajl_gen_array_open(json);
    for (size_t i = 0; i < outcome->n_trace; i++)
        trace_entry(json, &outcome->trace[i]);
    yajl_gen_array_close(json);
}
