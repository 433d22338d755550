#include "core/reply.h"

#include "base/error.h"
#include "core/worker.h"
#include "net/json_span.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { EVENT_MAX = 64 << 10, ERROR_BODY_PARSED = 64 << 10, LINGER_ERROR_MS = 250, LINGER_DONE_MS = 50 };

static bool is_2xx(const struct deputy_call *call)
{
    return call->status >= 200 && call->status <= 299;
}

/* ---- the head --------------------------------------------------------------------------------------------------- */

static void copy_type(char *to, size_t size, const char *from)
{
    size_t n = strcspn(from, "; \t");
    if (n >= size)
        n = size - 1;
    for (size_t i = 0; i < n; i++)
        to[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i]);
    to[n] = '\0';
}

/* Retry-After: delay-seconds or an HTTP-date (RFC 9110 section 10.2.3), in milliseconds; -1 when it is neither. */
static int64_t retry_after(const char *value)
{
    char *end;
    if (!value)
        return -1;
    if (*value >= '0' && *value <= '9') {
        unsigned long long s = strtoull(value, &end, 10);
        return *end == '\0' && s < 1000000000ull ? (int64_t)s * 1000 : -1;
    }
    time_t at = curl_getdate(value, NULL), now = time(NULL);
    if (at == (time_t)-1)
        return -1;
    return at > now ? (int64_t)(at - now) * 1000 : 0;
}

static size_t hold_limit(const struct deputy_call *call)
{
    const deputy_limits *l = &call->engine->options.limits;
    if (!is_2xx(call))
        return l->max_error_bytes;
    return call->is_stream && !call->whole ? l->max_hold_bytes : l->max_reply_bytes;
}

int reply_take_head(struct deputy_call *call, int status, const deputy_header *headers, size_t n_headers)
{
    if (!call->live)
        return DEPUTY_ECANCELED;
    if (call->has_head || status < 200 || status > 999)
        return DEPUTY_EINVAL;
    const char *type = header_find(headers, n_headers, "content-type");
    call_sends(call); /* if not before */
    call->status = status;
    call->has_head = true;
    call->last_us = loop_now_us();
    if (type)
        copy_type(call->content_type, sizeof(call->content_type), type);
    call->failure.retry_after_ms = retry_after(header_find(headers, n_headers, "retry-after"));
    call->is_stream = is_2xx(call) && call->wants_stream && strcmp(call->content_type, "text/event-stream") == 0;
    if (call->is_stream)
        sse_init(&call->sse, EVENT_MAX);
    buffer_init(&call->held, hold_limit(call));
    if (!call->is_stream)
        call_rewatch(call);
    return header_list_copy(&call->head, headers, n_headers);
}

/* ---- what it turns out to be ------------------------------------------------------------------------------------ */

static bool holds(const char *text, const char *secret)
{
    return secret && secret[0] && strstr(text, secret);
}

/* An upstream may repeat the token or the key in its error; the caller gets that as it came, but logs and scripts read
 * this. */
static void set_words(struct deputy_call *call, deputy_failure_kind kind, const char *code, const char *message)
{
    const char *token = call->request.bearer_token;
    int64_t wait = call->failure.retry_after_ms;
    if (holds(code, token) || holds(code, call->key))
        code = "";
    if (holds(message, token))
        message = "(not shown: it holds the caller's token)";
    else if (holds(message, call->key))
        message = "(not shown: it holds the provider's key)";
    failure_set(&call->failure, kind, call->status, code, "%s", message);
    call->failure.retry_after_ms = wait;
}

static void failed(struct deputy_call *call, deputy_failure_kind kind, const char *code, const char *text)
{
    char message[sizeof(call->failure.message)];
    snprintf(message, sizeof(message), "%s: %s", call->provider->name, text);
    set_words(call, kind, code, message);
}

/* The member as text, or "" when it is none that fits. */
static const char *read_word(const char *text, const struct json_member *m, char *out, size_t size)
{
    if (m->kind != JSON_STRING || json_span_string(text, m->start, m->end, out, size) < 0)
        out[0] = '\0';
    return out;
}

/* Reads code and message out of an OpenAI- or Anthropic-style error object. */
static void read_error(struct deputy_call *call, const char *text, size_t len)
{
    struct json_member in[] = {{.name = "code"}, {.name = "type"}, {.name = "message"}};
    char code[sizeof(call->failure.code)], message[sizeof(call->failure.message)];
    if (json_span_find(text, len, in, 3, NULL) != DEPUTY_OK)
        return;
    read_word(text, in[0].kind == JSON_STRING ? &in[0] : &in[1], code, sizeof(code));
    read_word(text, &in[2], message, sizeof(message));
    set_words(call, call->failure.kind, code[0] ? code : call->failure.code,
              message[0] ? message : call->failure.message);
}

static void fail_with_status(struct deputy_call *call)
{
    char text[64];
    const char *bytes = buffer_bytes(&call->held);
    size_t len = buffer_len(&call->held);
    struct json_member error = {.name = "error"};
    snprintf(text, sizeof(text), "answered with status %d", call->status);
    failed(call, DEPUTY_FAILURE_STATUS, "", text);
    if (len > 0 && len <= ERROR_BODY_PARSED && json_span_find(bytes, len, &error, 1, NULL) == DEPUTY_OK &&
        error.kind == JSON_OBJECT)
        read_error(call, bytes + error.start, error.end - error.start);
}

/* A plain 2xx, complete. True when it is what was asked for; otherwise the failure is filled. */
static bool judge_plain(struct deputy_call *call)
{
    const char *bytes = buffer_bytes(&call->held);
    size_t len = buffer_len(&call->held);
    struct json_member error = {.name = "error"};
    if (len == 0) {
        failed(call, DEPUTY_FAILURE_MALFORMED, "empty", "the reply has no body");
        return false;
    }
    if (strcmp(call->content_type, "text/html") == 0 || strcmp(call->content_type, "application/xhtml+xml") == 0) {
        failed(call, DEPUTY_FAILURE_MALFORMED, "html", "expected JSON, got an HTML page");
        return false;
    }
    if (!call->json && !call->wants_stream)
        return true;
    int code = json_span_find(bytes, len, &error, 1, NULL);
    if (code == DEPUTY_ENOMEM) {
        failed(call, DEPUTY_FAILURE_ERROR, "memory", "out of memory while reading the reply");
        return false;
    }
    if (code == DEPUTY_OK && error.kind != JSON_ABSENT && error.kind != JSON_NULL) {
        failed(call, DEPUTY_FAILURE_IN_BAND, "", "the reply is an error object");
        if (error.kind == JSON_OBJECT)
            read_error(call, bytes + error.start, error.end - error.start);
        return false;
    }
    if (call->wants_stream) {
        failed(call, DEPUTY_FAILURE_MALFORMED, "not_a_stream", "expected text/event-stream, got something else");
        return false;
    }
    if (code != DEPUTY_OK)
        failed(call, DEPUTY_FAILURE_MALFORMED, "not_json", "expected a JSON object, got something else");
    return code == DEPUTY_OK;
}

/* The stream has ended, or will say nothing more that matters. True when it was whole. */
static bool judge_stream(struct deputy_call *call)
{
    if (call->sse.error) {
        failed(call, DEPUTY_FAILURE_IN_BAND, call->sse.code, "an error came inside the stream");
        if (call->sse.status)
            call->failure.status = call->sse.status;
        return false;
    }
    if (call->sse.finished || (call->sse.output && (call->sse.done || !call->json)))
        return true;
    if (call->sse.output || (buffer_len(&call->held) > 0 && !call->sse.done))
        failed(call, DEPUTY_FAILURE_CUT, "cut", "the stream ended before the model was done");
    else
        failed(call, DEPUTY_FAILURE_MALFORMED, "empty", "the stream is empty");
    return false;
}

static void end_flow(struct deputy_call *call)
{
    call->live = false;
    call->owner->ended(call);
}

int reply_take_end(struct deputy_call *call)
{
    bool good;
    call->live = false;
    if (call->state == CALL_BAD)
        return DEPUTY_ECANCELED;
    if (call->purpose == CALL_MODELS || call->purpose == CALL_AVAILABLE || !call->has_head) {
        call_settle(call, CALL_GOOD);
        return DEPUTY_OK;
    }
    if (!is_2xx(call)) {
        fail_with_status(call);
        call_settle(call, CALL_BAD);
        return DEPUTY_OK;
    }
    good = call->is_stream ? judge_stream(call) : judge_plain(call);
    if (call->flowing)
        end_flow(call);
    else
        call_settle(call, good ? CALL_GOOD : CALL_BAD);
    return DEPUTY_OK;
}

int reply_take_fail(struct deputy_call *call, const deputy_failure *failure)
{
    call->live = false;
    if (call->state == CALL_BAD)
        return DEPUTY_ECANCELED;
    if (call->has_head && !is_2xx(call)) { /* the status is the word that counts; its body is not whole */
        fail_with_status(call);
        call->truncated = true;
        call_settle(call, CALL_BAD);
        return DEPUTY_OK;
    }
    if (call->is_stream && call->sse.done && !call->sse.error) /* how the connection ends no longer matters */
        return reply_take_end(call);
    int64_t wait = call->failure.retry_after_ms;
    if (failure) {
        call->failure = *failure;
        call->failure.code[sizeof(call->failure.code) - 1] = '\0'; /* strncpy leaves it out */
        call->failure.message[sizeof(call->failure.message) - 1] = '\0';
    } else {
        failed(call, DEPUTY_FAILURE_ERROR, "provider", "failed without saying why");
    }
    if (!failure || call->failure.retry_after_ms == 0)
        call->failure.retry_after_ms = wait;
    bool says_nothing = call->failure.kind == DEPUTY_FAILURE_STATUS && call->failure.status == 0;
    if (call->failure.kind == DEPUTY_FAILURE_NONE || says_nothing) /* a status that is none is no word to scripts */
        call->failure.kind = DEPUTY_FAILURE_ERROR;
    if (call->flowing)
        end_flow(call);
    else
        call_settle(call, CALL_BAD);
    return DEPUTY_OK;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static void fail_now(struct deputy_call *call, deputy_failure_kind kind, const char *code, const char *text)
{
    deputy_failure failure;
    failure_set(&failure, kind, call->status, code, "%s: %s", call->provider->name, text);
    reply_take_fail(call, &failure);
}

/* After the bytes are safe: what do they mean for the stream? */
static int look_at_events(struct deputy_call *call, const char *bytes, size_t len)
{
    bool had_error = call->sse.error, had_done = call->sse.done, had_output = call->sse.output;
    if (sse_feed(&call->sse, bytes, len, NULL) != DEPUTY_OK) {
        fail_now(call, DEPUTY_FAILURE_ERROR, "memory", "out of memory while reading the stream");
        return DEPUTY_ECANCELED;
    }
    if (call->sse.error && !had_error)
        call_linger(call, LINGER_ERROR_MS);
    else if (call->sse.done && !had_done)
        call_linger(call, LINGER_DONE_MS);
    if (call->sse.output && !had_output)
        call_rewatch(call);
    if (call->state == CALL_OPEN && call->sse.output && !call->sse.error && !call->whole)
        call_settle(call, CALL_GOOD);
    return DEPUTY_OK;
}

static int hold(struct deputy_call *call, const void *bytes, size_t len)
{
    int code = buffer_append(&call->held, bytes, len);
    if (code == DEPUTY_OK)
        return DEPUTY_OK;
    if (code == DEPUTY_ENOMEM) {
        fail_now(call, DEPUTY_FAILURE_ERROR, "memory", "out of memory for the reply");
        return DEPUTY_ECANCELED;
    }
    if (call->state == CALL_GOOD) { /* the script has not decided yet: let the upstream wait */
        call->paused = true;
        return DEPUTY_PAUSE;
    }
    fail_now(call, DEPUTY_FAILURE_LIMIT, "too_large",
             call->is_stream && !call->whole ? "the stream sent too much before its first output (limit: maxHoldBytes)"
             : is_2xx(call)                  ? "the reply is over the limit (limit: maxReplyBytes)"
                                             : "the error's body is over the limit (limit: maxErrorBytes)");
    return DEPUTY_ECANCELED;
}

int reply_take_bytes(struct deputy_call *call, const void *bytes, size_t len)
{
    if (!call->live)
        return DEPUTY_ECANCELED;
    if (!call->has_head)
        return DEPUTY_EINVAL;
    if (len == 0)
        return DEPUTY_OK;
    call->last_us = loop_now_us();
    if (!call->flowing) {
        int code = hold(call, bytes, len);
        if (code != DEPUTY_OK)
            return code;
    } else {
        int code = call->owner->bytes(call, bytes, len);
        if (code == DEPUTY_PAUSE)
            call->paused = true;
        if (code != DEPUTY_OK)
            return code;
    }
    return call->is_stream ? look_at_events(call, bytes, len) : DEPUTY_OK;
}

int reply_take_model(struct deputy_call *call, const char *model)
{
    if (!call->live)
        return DEPUTY_ECANCELED;
    if (call->purpose != CALL_MODELS || !call->owner->model)
        return DEPUTY_EINVAL;
    call->owner->model(call, model);
    return DEPUTY_OK;
}

/* ---- public: from the loop's thread at once, from a worker's through its queue ------------------------------------
 */

int deputy_reply_head(deputy_call *call, int status, const deputy_header *headers, size_t n_headers)
{
    return call->worker ? worker_post_head(call, status, headers, n_headers)
                        : reply_take_head(call, status, headers, n_headers);
}

int deputy_reply_bytes(deputy_call *call, const void *bytes, size_t len)
{
    return call->worker ? worker_post_bytes(call, bytes, len) : reply_take_bytes(call, bytes, len);
}

int deputy_reply_model(deputy_call *call, const char *model)
{
    if (!model)
        return DEPUTY_EINVAL;
    return call->worker ? worker_post_model(call, model) : reply_take_model(call, model);
}

int deputy_reply_end(deputy_call *call)
{
    if (call->worker)
        return worker_post_end(call, NULL, false);
    return call->live ? reply_take_end(call) : DEPUTY_ECANCELED;
}

int deputy_reply_fail(deputy_call *call, const deputy_failure *failure)
{
    if (call->worker)
        return worker_post_end(call, failure, true);
    return call->live ? reply_take_fail(call, failure) : DEPUTY_ECANCELED;
}

int deputy_reply_json(deputy_call *call, const void *body, size_t len)
{
    static const deputy_header type = {"content-type", "application/json"};
    int code = deputy_reply_head(call, 200, &type, 1);
    if (code == DEPUTY_OK)
        code = deputy_reply_bytes(call, body, len);
    return code == DEPUTY_OK ? deputy_reply_end(call) : code;
}
