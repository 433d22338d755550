#include "relay/relay.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <utlist.h>

enum { SLICE = 65536, REPLY_HEADERS = 160, MAX_EVENT = 4096 };

uint64_t relay_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static const char *find(const deputy_header *headers, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(headers[i].name, name) == 0)
            return headers[i].value;
    return NULL;
}

/* ---- what the caller must not see --------------------------------------------------------------------------------
 */

enum { SHORTEST_SECRET = 8 }; /* less is found by chance */

static const char *secret_of(struct relay *r)
{
    const char *secret = r->relays->host->secret ? r->relays->host->secret(r) : NULL;
    return secret && strlen(secret) >= SHORTEST_SECRET ? secret : NULL;
}

static void blot_out(char *bytes, size_t len, const char *secret)
{
    size_t n = strlen(secret);
    for (char *at = bytes; (at = memmem(at, len - (size_t)(at - bytes), secret, n)); at += n)
        memset(at, '*', n);
}

/* ---- the reply -------------------------------------------------------------------------------------------------- */

static void on_head(void *user, int status, const deputy_header *headers, size_t n_headers)
{
    struct relay *r = user;
    const struct relay_host *host = r->relays->host;
    struct http1_header few[REPLY_HEADERS], *all = few;
    const char *type = find(headers, n_headers, "content-type");
    const char *secret = secret_of(r);
    if (!r->exchange)
        return;
    r->kept = host->keeps(r, status, type);
    if (r->kept)
        return; /* its head goes out with what is made of it */
    if (n_headers + RELAY_OWN_HEADERS > REPLY_HEADERS)
        all = malloc((n_headers + RELAY_OWN_HEADERS) * sizeof(*all));
    if (!all) { /* the reply still has its meaning without them */
        all = few;
        n_headers = REPLY_HEADERS - RELAY_OWN_HEADERS;
    }
    size_t n = host->own_headers(r, deputy_via(r->engine, r->run), all);
    for (size_t i = 0; i < n_headers; i++)
        if (heads_is_end_to_end(headers[i].name, headers, n_headers) && !(secret && strstr(headers[i].value, secret)))
            all[n++] = (struct http1_header){headers[i].name, headers[i].value};
    int64_t length = heads_length(find(headers, n_headers, "content-length"));
    r->is_error = status >= 400;
    r->is_events = type && strncasecmp(type, "text/event-stream", 17) == 0;
    r->head_sent = http1_head(r->exchange, status, all, n, length >= 0 ? length : HTTP1_CHUNKED) == 0;
    if (r->is_events && r->head_sent)
        host->streaming(r, 1);
    if (all != few)
        free(all);
}

/* As much as the caller takes, in pieces, so that one big reply is not copied as a whole for a slow reader. */
static int pass_on(struct relay *r, const char *bytes, size_t len)
{
    while (r->taken < len) {
        size_t n = len - r->taken < SLICE ? len - r->taken : SLICE;
        if (r->slow)
            return DEPUTY_PAUSE;
        r->slow = !http1_write(r->exchange, bytes + r->taken, n);
        if (r->is_events)
            events_feed(&r->events, bytes + r->taken, n);
        r->taken += n;
    }
    r->taken = 0;
    return DEPUTY_OK;
}

/* The body of an error comes in one piece. */
static int pass_error(struct relay *r, const char *bytes, size_t len)
{
    const char *secret = secret_of(r);
    if (!secret || !memmem(bytes, len, secret, strlen(secret)))
        return pass_on(r, bytes, len);
    char *copy = malloc(len);
    if (!copy)
        return DEPUTY_ECANCELED;
    memcpy(copy, bytes, len);
    blot_out(copy, len, secret);
    int code = pass_on(r, copy, len);
    free(copy);
    return code;
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct relay *r = user;
    if (!r->exchange)
        return DEPUTY_ECANCELED;
    if (r->first_us == 0)
        r->first_us = relay_clock_us() - r->start_us;
    if (r->kept)
        return r->relays->host->keep(r, bytes, len);
    if (!r->head_sent)
        return DEPUTY_ECANCELED;
    return r->is_error ? pass_error(r, bytes, len) : pass_on(r, bytes, len);
}

static void explain(struct relay *r, const deputy_outcome *o, struct problem *problem)
{
    static const deputy_failure cut = {.kind = DEPUTY_FAILURE_CUT, .message = "the reply could not be finished"};
    static const deputy_failure none = {.kind = DEPUTY_FAILURE_ERROR, .message = "the model gave no answer"};
    r->relays->host->explain(r, o, o->failure ? o->failure : r->head_sent ? &cut : &none, problem);
}

/* An event that says so, and then an end that no library takes for one. */
static void end_with_event(struct relay *r, const deputy_outcome *o)
{
    struct draft text = DRAFT(MAX_EVENT);
    struct problem problem;
    const char *before = r->is_events ? events_break(&r->events) : NULL;
    if (before) {
        explain(r, o, &problem);
        draft_word(&text, before);
        problem_event(&text, r->dialect, &problem);
        if (!text.failed)
            http1_write(r->exchange, text.text, text.len);
        draft_free(&text);
    }
    http1_abort(r->exchange);
}

static void reply_with_failure(struct relay *r, const deputy_outcome *o)
{
    struct http1_header headers[RELAY_OWN_HEADERS];
    struct problem problem;
    size_t n = r->relays->host->own_headers(r, NULL, headers);
    explain(r, o, &problem);
    problem_reply(r->exchange, r->dialect, &problem, headers, n);
}

static void finish(struct relay *r, const deputy_outcome *o)
{
    bool well = o->result == DEPUTY_RESULT_OK || o->result == DEPUTY_RESULT_FAILED;
    if (r->kept && well)
        r->relays->host->answer_kept(r, o);
    else if (!r->head_sent)
        reply_with_failure(r, o);
    else if (well)
        http1_end(r->exchange);
    else
        end_with_event(r, o);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void release(struct relay *r)
{
    DL_DELETE(r->relays->all, r);
    r->relays->n--;
    free(r->body);
    r->relays->host->release(r);
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct relay *r = user;
    r->relays->host->over(r, outcome);
    if (r->is_events && r->head_sent)
        r->relays->host->streaming(r, -1);
    if (r->exchange)
        finish(r, outcome);
    release(r);
}

void relay_begin(struct relay *r, struct relays *relays, deputy_engine *engine, struct http1_exchange *exchange,
                 enum dialect dialect)
{
    r->relays = relays;
    r->engine = engine;
    r->exchange = exchange;
    r->dialect = dialect;
    r->start_us = relay_clock_us();
    relays->n++;
    DL_APPEND(relays->all, r);
}

void relay_take_body(struct relay *r, deputy_request *request)
{
    r->body = http1_take_body(r->exchange, &request->body_len);
    request->body = r->body;
}

static bool set_start_problem(struct problem *problem, int code, const char *message)
{
    if (code != DEPUTY_ELIMIT && code != DEPUTY_EBUSY && code != DEPUTY_ENOMEM)
        return problem_set(problem, 400, "invalid_request", "%s", message);
    problem_set(problem, 503, "over_capacity", "%s", message);
    problem->header = "retry-after";
    problem->value = "1";
    return false;
}

bool relay_start(struct relay *r, deputy_request *request, struct problem *problem)
{
    deputy_header headers[HEADS_UP_MAX];
    deputy_error error = {0, ""};
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    sink.user = r;
    sink.on_head = on_head;
    sink.on_bytes = on_bytes;
    sink.on_end = on_end;
    int n = heads_up(r->exchange, &r->relays->random, headers, r->traceparent);
    if (n < 0)
        return problem_set(problem, 431, "too_many_headers", "a request may have %d headers to pass on",
                           HEADS_UP_MAX - 1);
    request->headers = headers;
    request->n_headers = (size_t)n;
    int code = deputy_start(r->engine, request, &sink, &r->run, &error);
    if (code != DEPUTY_OK)
        return set_start_problem(problem, code, error.message);
    http1_set_data(r->exchange, r);
    return true;
}

void relay_refuse(struct relay *r, const struct problem *problem, const struct http1_header *headers, size_t n)
{
    problem_reply(r->exchange, r->dialect, problem, headers, n);
    release(r);
}

/* ---- the caller's side ------------------------------------------------------------------------------------------ */

void relay_gone(void *user, struct http1_exchange *exchange)
{
    struct relay *r = http1_data(exchange);
    (void)user;
    if (!r)
        return;
    r->exchange = NULL; /* the rest lives until on_end: the engine still has the body */
    deputy_cancel(r->engine, r->run);
}

void relay_room(void *user, struct http1_exchange *exchange)
{
    struct relay *r = http1_data(exchange);
    (void)user;
    if (!r)
        return;
    r->slow = false;
    deputy_resume(r->engine, r->run);
}

void relays_cancel(struct relays *relays)
{
    struct relay *r;
    DL_FOREACH (relays->all, r)
        deputy_cancel(r->engine, r->run);
}
