#include "core/upstream.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct upstream {
    struct deputy_call *call; /* NULL once the call is over for us */
    struct http_transfer *transfer;
    upstream_over_fn over;
    void *user;
    bool has_head;
};

/* The exchange goes on until libcurl can be told; nobody hears of it any more. */
static void let_go(struct upstream *up)
{
    up->call = NULL;
    up->over(up->user, NULL);
}

static bool before_send(void *user)
{
    struct upstream *up = user;
    if (!up->call)
        return false;
    if (deputy_call_admit(up->call) == DEPUTY_OK)
        return true;
    let_go(up);
    return false;
}

static void on_head(void *user, int status, const deputy_header *headers, size_t n_headers)
{
    struct upstream *up = user;
    struct deputy_call *call = up->call;
    if (!call)
        return;
    up->has_head = true;
    int code = deputy_reply_head(call, status, headers, n_headers);
    if (code == DEPUTY_OK)
        return;
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_ERROR, 0, "memory", "the head of the reply could not be kept: %s",
                deputy_strerror(code));
    let_go(up);
    deputy_reply_fail(call, &failure);
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct upstream *up = user;
    if (!up->call)
        return DEPUTY_ECANCELED;
    int code = deputy_reply_bytes(up->call, bytes, len);
    if (code != DEPUTY_OK && code != DEPUTY_PAUSE && up->call)
        let_go(up);
    return code;
}

void upstream_failure(deputy_failure *failure, const struct http_result *result, const char *name)
{
    static const struct {
        deputy_failure_kind kind;
        const char *code;
    } kinds[] = {
        [HTTP_TIMEOUT] = {DEPUTY_FAILURE_TIMEOUT, "total"},
        [HTTP_DNS] = {DEPUTY_FAILURE_DNS, "dns"},
        [HTTP_CONNECT] = {DEPUTY_FAILURE_CONNECT, "connect"},
        [HTTP_TLS] = {DEPUTY_FAILURE_TLS, "tls"},
        [HTTP_PROTOCOL] = {DEPUTY_FAILURE_MALFORMED, "not_http"},
        [HTTP_CUT] = {DEPUTY_FAILURE_CUT, "cut"},
        [HTTP_LIMIT] = {DEPUTY_FAILURE_LIMIT, "head_too_large"},
        [HTTP_NO_MEMORY] = {DEPUTY_FAILURE_ERROR, "memory"},
        [HTTP_STOPPED] = {DEPUTY_FAILURE_CANCELLED, "stopped"},
        [HTTP_WITHHELD] = {DEPUTY_FAILURE_REFUSED, "withheld"},
    };
    const char *code = kinds[result->end].code;
    if (result->end == HTTP_TIMEOUT && result->connecting)
        code = "connect";
    failure_set(failure, kinds[result->end].kind, 0, code, "%s: %s", name, result->message);
}

static void on_end(void *user, const struct http_result *result)
{
    struct upstream *up = user;
    struct deputy_call *call = up->call;
    if (call && !up->over(up->user, result)) {
        deputy_failure failure;
        if (result->end == HTTP_COMPLETE) {
            deputy_reply_end(call);
        } else {
            upstream_failure(&failure, result, deputy_provider_name(call->provider));
            deputy_reply_fail(call, &failure);
        }
    }
    free(up);
}

/* The caller's own token is known to the call anyway. */
static bool keep_key(struct deputy_call *call, const char *key)
{
    free(call->key);
    call->key = NULL;
    if (!key || key == call->request.bearer_token)
        return true;
    call->key = strdup(key);
    return call->key != NULL;
}

int upstream_start(struct deputy_call *call, const struct upstream_request *request, upstream_over_fn over, void *user,
                   struct upstream **out, deputy_error *error)
{
    const deputy_options *o = &call->engine->options;
    struct upstream *up = keep_key(call, request->bearer) ? calloc(1, sizeof(*up)) : NULL;
    if (!up)
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a request to %s", call->provider->name);
    up->call = call;
    up->over = over;
    up->user = user;
    struct http_request http = {
        .method = request->method,
        .url = request->url,
        .headers = request->headers,
        .n_headers = request->n_headers,
        .bearer = request->bearer,
        .body = {request->body[0], request->body[1], request->body[2]},
        .ca_file = request->ca_file,
        .connect_ms = o->timeouts.connect_ms,
        .max_header_bytes = o->limits.max_header_bytes,
        .anew = call->attempt > 1, /* where one kept connection was dead, the others may be */
        .user = up,
        .before_send = before_send,
        .on_head = on_head,
        .on_bytes = on_bytes,
        .on_end = on_end,
    };
    int code = http_start(call->engine->loop, &http, &up->transfer, error);
    if (code == DEPUTY_OK)
        *out = up;
    else
        free(up);
    return code;
}

void upstream_stop(struct upstream *up)
{
    up->call = NULL;
    http_cancel(up->transfer);
    free(up);
}

void upstream_go_on(struct upstream *up)
{
    http_resume(up->transfer);
}

/* ---- for a provider that is nothing but this --------------------------------------------------------------------- */

/* A cancel that follows must not find what is about to be freed. */
static bool forget(void *user, const struct http_result *result)
{
    (void)result;
    deputy_call_set_data(user, NULL);
    return false;
}

int upstream_send(struct deputy_call *call, const struct upstream_request *request, deputy_error *error)
{
    struct upstream *up = NULL;
    int code = upstream_start(call, request, forget, call, &up, error);
    if (code == DEPUTY_OK)
        deputy_call_set_data(call, up);
    return code;
}

void upstream_cancel(void *self, struct deputy_call *call)
{
    (void)self;
    if (deputy_call_data(call))
        upstream_stop(deputy_call_data(call));
}

void upstream_resume(void *self, struct deputy_call *call)
{
    (void)self;
    if (deputy_call_data(call))
        upstream_go_on(deputy_call_data(call));
}
