#include "core/run.h"

#include "base/error.h"
#include "net/json_span.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Fields that carry the caller's credentials or frame this hop's message (RFC 9110 section 7.6.1, RFC 9112). */
static bool is_private(const char *name)
{
    static const char *const names[] = {
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "api-key",
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "content-length",
        "accept-encoding",
        "proxy-connection",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if ((*name | 0x20) == *names[i] && strcasecmp(name, names[i]) == 0)
            return true;
    return strncasecmp(name, "x-deputy-", 9) == 0;
}

/* The token under another name ("x-forwarded-authorization", ...) is still the caller's, and these fields go to local
 * providers too. Only as a word of its own: short tokens are part of many words. */
static bool carries(const char *value, const char *token)
{
    static const char in_tokens[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/";
    size_t len = token ? strlen(token) : 0;
    for (const char *at = value; len > 0 && (at = strstr(at, token)) != NULL; at++)
        if ((at == value || !strchr(in_tokens, at[-1])) && strspn(at + len, in_tokens) == 0)
            return true;
    return false;
}

static int copy_headers(struct run *run, const deputy_request *request)
{
    static deputy_header json = {"content-type", "application/json"};
    deputy_header passed[64];
    size_t n = 0;
    bool typed = false;
    for (size_t i = 0; i < request->n_headers && n < 63; i++) {
        const deputy_header *h = &request->headers[i];
        if (is_private(h->name) || carries(h->value, run->token))
            continue;
        typed = typed || strcasecmp(h->name, "content-type") == 0;
        passed[n++] = *h;
    }
    if (n == 0) {
        header_list_borrow(&run->headers, &json, 1);
        return DEPUTY_OK;
    }
    if (!typed)
        passed[n++] = json;
    return header_list_copy(&run->headers, passed, n);
}

static int check_request(const deputy_engine *engine, const deputy_request *r, const deputy_sink *sink,
                         deputy_error *error)
{
    if (!r || r->size != sizeof(*r) || !sink || sink->size != sizeof(*sink))
        return error_set(error, DEPUTY_EABI,
                         "expected a deputy_request and a deputy_sink made by DEPUTY_INIT against this "
                         "engine's deputy.h");
    if (!sink->on_end)
        return error_set(error, DEPUTY_EINVAL, "a sink needs on_end: it is how the end of a run is learned");
    if (engine->closing)
        return error_set(error, DEPUTY_EBUSY, "the engine is being freed");
    int code = url_name_check("llm", r->llm, error);
    if (code != DEPUTY_OK)
        return code;
    if (r->bearer_token && url_token_check(r->bearer_token, error) != DEPUTY_OK)
        return DEPUTY_EINVAL;
    if (r->body_len > engine->options.limits.max_body_bytes)
        return error_set(error, DEPUTY_ELIMIT, "the body has %zu bytes, the limit is %zu (limit: maxBodyBytes)",
                         r->body_len, engine->options.limits.max_body_bytes);
    if (r->body_len > 0 && !r->body)
        return error_set(error, DEPUTY_EINVAL, "body is NULL but body_len is %zu", r->body_len);
    if (r->method && strcmp(r->method, "POST") != 0 && strcmp(r->method, "GET") != 0)
        return error_set(error, DEPUTY_EINVAL, "method: expected \"POST\" or \"GET\", got \"%s\"", r->method);
    if (r->n_headers > 60)
        return error_set(error, DEPUTY_ELIMIT, "a request passes on at most 60 headers, got %zu", r->n_headers);
    if (r->n_headers > 0 && !r->headers)
        return error_set(error, DEPUTY_EINVAL, "headers is NULL but n_headers is %zu", r->n_headers);
    for (size_t i = 0; i < r->n_headers; i++)
        if (!r->headers[i].name || !r->headers[i].value)
            return error_set(error, DEPUTY_EINVAL, "header number %zu has no name or no value", i + 1);
    if (engine->n_runs >= engine->options.limits.max_runs)
        return error_set(error, DEPUTY_ELIMIT, "%u runs are in flight, which is the limit (limit: maxInFlight)",
                         engine->options.limits.max_runs);
    return DEPUTY_OK;
}

static bool body_wants_stream(const deputy_request *r)
{
    struct json_member stream = {.name = "stream"};
    if (r->stream != DEPUTY_STREAM_AUTO)
        return r->stream == DEPUTY_STREAM_YES;
    return r->body_len > 0 && json_span_find(r->body, r->body_len, &stream, 1, NULL) == DEPUTY_OK &&
           stream.kind == JSON_BOOLEAN && stream.truth;
}

static void keep(const char **field, char **at, const char *text, size_t size)
{
    if (!text)
        return;
    *field = memcpy(*at, text, size);
    *at += size;
}

int run_new(deputy_engine *engine, const deputy_request *request, const deputy_sink *sink, bool check, struct run **out,
            deputy_error *error)
{
    const deputy_options *o = &engine->options;
    int code = check_request(engine, request, sink, error);
    *out = NULL;
    if (code != DEPUTY_OK)
        return code;
    const char *endpoint = request->endpoint ? request->endpoint : "chat/completions";
    const char *token = request->bearer_token ? request->bearer_token : o->bearer_token;
    size_t llm_size = strlen(request->llm) + 1, endpoint_size = strlen(endpoint) + 1;
    size_t token_size = token ? strlen(token) + 1 : 0;
    if (endpoint_size > 256)
        return error_set(error, DEPUTY_EINVAL, "endpoint: expected at most 255 bytes, got %zu", endpoint_size - 1);
    size_t strings = llm_size + endpoint_size + token_size;
    struct run *run = pool_take(&engine->run_pool, sizeof(*run));
    if (run && strings > RUN_STRINGS)
        run->more_strings = malloc(strings);
    if (!run || (strings > RUN_STRINGS && !run->more_strings)) {
        pool_give(&engine->run_pool, run);
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a run");
    }
    char *at = run->more_strings ? run->more_strings : run->strings;
    run->engine = engine;
    run->id = engine->last_run + 1;
    run->start_us = loop_now_us();
    run->trace = run->first_trace;
    run->trace_size = sizeof(run->first_trace) / sizeof(run->first_trace[0]);
    run->check = check;
    keep(&run->llm, &at, request->llm, llm_size);
    keep(&run->endpoint, &at, endpoint, endpoint_size);
    keep(&run->token, &at, token, token_size);
    run->claim = gate_claim(run->id, run->llm, run->token);
    run->body = request->body;
    run->body_len = request->body_len;
    run->stream = body_wants_stream(request);
    run->whole = request->whole;
    run->is_get = request->method && strcmp(request->method, "GET") == 0;
    run->sink = *sink;
    run->total_us = (uint64_t)o->timeouts.total_ms * 1000;
    if (request->total_ms && request->total_ms < o->timeouts.total_ms)
        run->total_us = (uint64_t)request->total_ms * 1000;
    if (copy_headers(run, request) != DEPUTY_OK) {
        free(run->more_strings);
        pool_give(&engine->run_pool, run);
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a run's headers");
    }
    engine_add_run(engine, run);
    engine->last_run = run->id;
    deputy_provider *primary = request->primary ? request->primary : engine->central;
    run->primary = primary ? deputy_provider_ref(primary) : NULL;
    run->policy = engine->policy && !request->primary_only ? policy_ref(engine->policy) : NULL;
    run_wake(run);
    *out = run;
    return DEPUTY_OK;
}

int deputy_start(deputy_engine *engine, const deputy_request *request, const deputy_sink *sink, deputy_run_id *id,
                 deputy_error *error)
{
    struct run *run = NULL;
    int code = engine_enter(engine, false, error);
    if (id)
        *id = 0;
    if (code == DEPUTY_OK)
        code = run_new(engine, request, sink, false, &run, error);
    if (run && id)
        *id = run->id;
    return code;
}

void deputy_resume(deputy_engine *engine, deputy_run_id id)
{
    if (engine_enter(engine, false, NULL) != DEPUTY_OK)
        return;
    struct run *run = engine_find_run(engine, id);
    if (!run)
        return;
    run->resumed = true;
    if (!run->sink_paused)
        return;
    run->sink_paused = false;
    run_wake(run);
}
