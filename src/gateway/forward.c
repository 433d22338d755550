#include "gateway/forward.h"

#include "gateway/events.h"
#include "gateway/heads.h"
#include "gateway/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <utlist.h>

enum { SLICE = 65536, REPLY_HEADERS = 160, MAX_LIST = 4 << 20, MAX_MARKED = 8 << 20, NAME_TEXT = 64, MAX_EVENT = 4096 };

struct forward {
    struct forward *prev, *next; /* among the worker's */
    struct worker *worker;
    struct station *station;
    struct http1_exchange *exchange; /* NULL once the caller has left */
    deputy_run_id run;
    void *body;
    enum dialect dialect;
    const char *endpoint; /* static */
    bool is_list;
    struct draft list; /* a reply that is looked at before it goes out */
    bool head_sent, is_events, slow;
    size_t taken; /* of bytes that come again */
    struct events events;
    uint64_t start_us, first_us;
    char name[NAME_TEXT];
    char llm[DEPUTY_NAME_SIZE];
    char traceparent[TRACEPARENT_SIZE];
};

static uint64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- headers of replies
 * ---------------------------------------------------------------------------------------------- */

size_t cors_headers(const struct http1_exchange *exchange, struct http1_header *headers)
{
    const char *origin = http1_header(exchange, "origin"); /* one that is not listed has been refused */
    if (!origin)
        return 0;
    headers[0] = (struct http1_header){"access-control-allow-origin", origin};
    headers[1] = (struct http1_header){"vary", "origin"};
    headers[2] =
        (struct http1_header){"access-control-expose-headers", "x-deputy-run, x-deputy-failover, x-deputy-via"};
    return CORS_HEADERS;
}

/* Ours, at most 3 + CORS_HEADERS. */
static size_t own_headers(const struct forward *f, const char *via, struct http1_header *headers)
{
    size_t n = cors_headers(f->exchange, headers);
    headers[n++] = (struct http1_header){"x-deputy-run", f->name};
    headers[n++] = (struct http1_header){"x-deputy-failover", via ? "true" : "false"};
    if (via)
        headers[n++] = (struct http1_header){"x-deputy-via", via};
    return n;
}

static const char *find(const deputy_header *headers, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(headers[i].name, name) == 0)
            return headers[i].value;
    return NULL;
}

/* ---- the reply
 * ------------------------------------------------------------------------------------------------------- */

static void on_head(void *user, int status, const deputy_header *headers, size_t n_headers)
{
    struct forward *f = user;
    struct http1_header few[REPLY_HEADERS], *all = few;
    const char *connection = find(headers, n_headers, "connection"), *type = find(headers, n_headers, "content-type");
    if (!f->exchange)
        return;
    if (f->is_list && status == 200)
        return; /* its head goes out with what is made of it */
    f->is_list = false;
    if (n_headers + 3 + CORS_HEADERS > REPLY_HEADERS)
        all = malloc((n_headers + 3 + CORS_HEADERS) * sizeof(*all));
    if (!all) { /* the reply still has its meaning without them */
        all = few;
        n_headers = REPLY_HEADERS - 3 - CORS_HEADERS;
    }
    size_t n = own_headers(f, deputy_via(f->station->engine, f->run), all);
    for (size_t i = 0; i < n_headers; i++)
        if (heads_is_end_to_end(headers[i].name, connection))
            all[n++] = (struct http1_header){headers[i].name, headers[i].value};
    int64_t length = heads_length(find(headers, n_headers, "content-length"));
    f->is_events = type && strncasecmp(type, "text/event-stream", 17) == 0;
    f->head_sent = http1_head(f->exchange, status, all, n, length >= 0 ? length : HTTP1_CHUNKED) == 0;
    if (f->is_events && f->head_sent)
        metrics_stream(f->worker->gateway->metrics, 1);
    if (all != few)
        free(all);
}

/* As much as the caller takes, in pieces, so that one big reply is not copied as a whole for a slow reader. */
static int pass_on(struct forward *f, const char *bytes, size_t len)
{
    while (f->taken < len) {
        size_t n = len - f->taken < SLICE ? len - f->taken : SLICE;
        if (f->slow)
            return DEPUTY_PAUSE;
        f->slow = !http1_write(f->exchange, bytes + f->taken, n);
        if (f->is_events)
            events_feed(&f->events, bytes + f->taken, n);
        f->taken += n;
    }
    f->taken = 0;
    return DEPUTY_OK;
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct forward *f = user;
    if (!f->exchange)
        return DEPUTY_ECANCELED;
    if (f->first_us == 0)
        f->first_us = clock_us() - f->start_us;
    if (f->is_list) {
        draft_add(&f->list, bytes, len);
        return f->list.failed ? DEPUTY_ELIMIT : DEPUTY_OK;
    }
    return f->head_sent ? pass_on(f, bytes, len) : DEPUTY_ECANCELED;
}

static void reply_with_list(struct forward *f)
{
    struct http1_header headers[2 + 3 + CORS_HEADERS];
    struct draft marked = DRAFT(MAX_MARKED);
    bool ok = f->list.len > 0 && models_mark(f->station->engine, f->list.text, f->list.len, &marked);
    size_t n = own_headers(f, NULL, headers);
    headers[n++] = (struct http1_header){"content-type", "application/json"};
    http1_reply(f->exchange, 200, headers, n, ok ? marked.text : f->list.text, ok ? marked.len : f->list.len);
    draft_free(&marked);
}

/* An event that says so, and then an end that no library takes for one. */
static void cut(struct forward *f, const deputy_outcome *o)
{
    static const deputy_failure none = {.kind = DEPUTY_FAILURE_CUT, .message = "the reply could not be finished"};
    struct draft text = DRAFT(MAX_EVENT);
    struct problem problem;
    const char *before = f->is_events ? events_break(&f->events) : NULL;
    if (before) {
        problem_from_failure(&problem, o->failure ? o->failure : &none, o->failover);
        if (o->failure && o->failure->kind == DEPUTY_FAILURE_CUT)
            problem.code = o->failover ? "local_cut" : "primary_cut";
        draft_word(&text, before);
        problem_event(&text, f->dialect, &problem);
        if (!text.failed)
            http1_write(f->exchange, text.text, text.len);
        draft_free(&text);
    }
    http1_abort(f->exchange);
}

static void reply_with_failure(struct forward *f, const deputy_outcome *o)
{
    static const deputy_failure none = {.kind = DEPUTY_FAILURE_ERROR, .message = "the model gave no answer"};
    struct http1_header headers[3 + CORS_HEADERS];
    struct problem problem;
    size_t n = own_headers(f, NULL, headers);
    problem_from_failure(&problem, o->failure ? o->failure : &none, false);
    if (o->result == DEPUTY_RESULT_CANCELLED)
        problem_set(&problem, 503, "shutting_down", "the gateway is shutting down: ask again");
    problem_reply(f->exchange, f->dialect, &problem, headers, n);
}

static void finish(struct forward *f, const deputy_outcome *o)
{
    bool well = o->result == DEPUTY_RESULT_OK || o->result == DEPUTY_RESULT_FAILED;
    if (f->is_list && o->result == DEPUTY_RESULT_OK)
        reply_with_list(f);
    else if (!f->head_sent)
        reply_with_failure(f, o);
    else if (well)
        http1_end(f->exchange);
    else
        cut(f, o);
}

/* ---- what is remembered
 * ----------------------------------------------------------------------------------------------- */

static void write_log(struct forward *f, const deputy_outcome *o)
{
    static const char *const words[] = {"ok", "failed", "cut", "cancelled"};
    struct log *log = &f->worker->log;
    char trace_id[33];
    bool is_trouble = o->result == DEPUTY_RESULT_FAILED || o->result == DEPUTY_RESULT_CUT;
    if (!log_begin(log, is_trouble ? DEPUTY_LOG_WARN : DEPUTY_LOG_INFO, "run"))
        return;
    snprintf(trace_id, sizeof(trace_id), "%.32s", f->traceparent + 3);
    log_text(log, "run", f->name);
    log_text(log, "llm", f->llm);
    log_text(log, "endpoint", f->endpoint);
    log_text(log, "outcome", words[o->result]);
    log_number(log, "status", o->status);
    log_bool(log, "failover", o->failover);
    log_text(log, "via", o->via);
    log_text(log, "verdict", o->probed ? deputy_verdict_name(o->verdict) : NULL);
    if (o->failure) {
        log_text(log, "failure", deputy_failure_name(o->failure->kind));
        log_text(log, "code", o->failure->code[0] ? o->failure->code : NULL);
    }
    log_number(log, "us", (int64_t)o->us);
    if (f->first_us > 0)
        log_number(log, "first_us", (int64_t)f->first_us);
    log_legs(log, o->trace, o->n_trace);
    log_text(log, "trace_id", trace_id);
    log_end(log);
}

static void remember(struct forward *f, const deputy_outcome *o)
{
    struct run_report report = {
        .name = f->name,
        .llm = f->llm,
        .endpoint = f->endpoint,
        .worker = f->worker->number,
        .known = deputy_failover_for(f->station->engine, f->llm) != NULL,
        .streamed = f->is_events,
        .first_us = f->first_us,
        .outcome = o,
    };
    metrics_run_over(f->worker->gateway->metrics, &report);
    if (f->is_events && f->head_sent)
        metrics_stream(f->worker->gateway->metrics, -1);
    write_log(f, o);
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------- */

static void free_forward(struct forward *f)
{
    DL_DELETE(f->worker->forwards, f);
    f->worker->n_forwards--;
    atomic_fetch_sub(&f->worker->gateway->in_flight, 1);
    station_leave(f->station);
    draft_free(&f->list);
    free(f->body);
    free(f);
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct forward *f = user;
    remember(f, outcome);
    if (f->exchange)
        finish(f, outcome);
    free_forward(f);
}

/* NULL, and the caller has been told why. */
static struct forward *new_forward(struct worker *w, struct http1_exchange *exchange, enum dialect dialect,
                                   const char *endpoint)
{
    struct gateway *g = w->gateway;
    struct http1_header cors[CORS_HEADERS];
    struct problem problem;
    unsigned limit = w->current->setup->settings.max_in_flight;
    struct forward *f = NULL;
    if (atomic_fetch_add(&g->in_flight, 1) >= limit)
        problem_set(&problem, 503, "too_many_requests_in_flight",
                    "%u requests are in flight, which is the limit (gateway.maxInFlight): try again soon", limit);
    else if (!(f = calloc(1, sizeof(*f))))
        problem_set(&problem, 503, "out_of_memory", "out of memory: try again soon");
    if (!f) {
        atomic_fetch_sub(&g->in_flight, 1);
        problem.header = "retry-after";
        problem.value = "1";
        metrics_refused(g->metrics, problem.status);
        problem_reply(exchange, dialect, &problem, cors, cors_headers(exchange, cors));
        return NULL;
    }
    f->worker = w;
    f->station = w->current;
    f->exchange = exchange;
    f->dialect = dialect;
    f->endpoint = endpoint;
    f->list = DRAFT(MAX_LIST);
    f->start_us = clock_us();
    f->station->runs++;
    w->n_forwards++;
    DL_APPEND(w->forwards, f);
    return f;
}

static void give_up(struct forward *f, const struct problem *problem)
{
    struct http1_header cors[CORS_HEADERS];
    metrics_refused(f->worker->gateway->metrics, problem->status);
    problem_reply(f->exchange, f->dialect, problem, cors, cors_headers(f->exchange, cors));
    free_forward(f);
}

static void set_start_problem(struct problem *problem, int code, const char *message)
{
    if (code == DEPUTY_ELIMIT || code == DEPUTY_EBUSY || code == DEPUTY_ENOMEM) {
        problem_set(problem, 503, "over_capacity", "%s", message);
        problem->header = "retry-after";
        problem->value = "1";
    } else {
        problem_set(problem, 400, "invalid_request", "%s", message);
    }
}

static void start(struct forward *f, deputy_request *request, const struct caller *caller)
{
    deputy_header headers[HEADS_UP_MAX];
    deputy_error error = {0, ""};
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    struct problem problem;
    sink.user = f;
    sink.on_head = on_head;
    sink.on_bytes = on_bytes;
    sink.on_end = on_end;
    int n = heads_up(f->exchange, &f->worker->random, headers, f->traceparent);
    if (n < 0) {
        problem_set(&problem, 431, "too_many_headers", "a request may have %d headers to pass on", HEADS_UP_MAX - 1);
        give_up(f, &problem);
        return;
    }
    request->llm = f->is_list ? "models" : f->llm;
    request->endpoint = f->endpoint;
    request->bearer_token = caller->has_token ? caller->token : NULL;
    request->headers = headers;
    request->n_headers = (size_t)n;
    int code = deputy_start(f->station->engine, request, &sink, &f->run, &error);
    if (code != DEPUTY_OK) {
        set_start_problem(&problem, code, error.message);
        give_up(f, &problem);
        return;
    }
    snprintf(f->name, sizeof(f->name), "%08x-%u.%u-%llu", (unsigned)f->worker->gateway->boot, f->worker->number,
             f->station->number, (unsigned long long)f->run);
    http1_set_data(f->exchange, f);
    metrics_run_begun(f->worker->gateway->metrics);
}

/* ---- requests
 * --------------------------------------------------------------------------------------------------------- */

/* "whole" and "live" in x-deputy-streaming have the last word. */
static bool wants_whole(const struct forward *f, bool *whole, struct problem *problem)
{
    const char *wish = http1_header(f->exchange, "x-deputy-streaming");
    *whole = wish ? strcmp(wish, "whole") == 0 : f->station->setup->settings.whole;
    if (wish && !*whole && strcmp(wish, "live") != 0)
        return problem_set(problem, 400, "invalid_header", "x-deputy-streaming: expected \"whole\" or \"live\"");
    return true;
}

static bool read_request(struct forward *f, deputy_request *request, struct problem *problem)
{
    deputy_error error = {0, ""};
    if (!wants_whole(f, &request->whole, problem))
        return false;
    f->body = http1_take_body(f->exchange, &request->body_len);
    request->body = f->body;
    if (deputy_read_body(f->body, request->body_len, f->llm, &request->stream, &error) != DEPUTY_OK)
        return problem_set(problem, 400, "invalid_request", "%s", error.message);
    return true;
}

void forward_request(struct worker *w, struct http1_exchange *exchange, const char *endpoint, enum dialect dialect)
{
    struct forward *f = new_forward(w, exchange, dialect, endpoint);
    deputy_request request = DEPUTY_INIT(deputy_request);
    struct caller caller;
    struct problem problem;
    if (!f)
        return;
    if (!caller_identify(&f->station->setup->settings, exchange, dialect, &caller, &problem) ||
        !caller_sends_json(exchange, &problem) || !read_request(f, &request, &problem))
        give_up(f, &problem);
    else
        start(f, &request, &caller);
    caller_wipe(&caller);
}

void forward_models(struct worker *w, struct http1_exchange *exchange)
{
    struct forward *f = new_forward(w, exchange, DIALECT_OPENAI, "models");
    deputy_request request = DEPUTY_INIT(deputy_request);
    struct caller caller;
    struct problem problem;
    if (!f)
        return;
    f->is_list = true;
    request.method = "GET";
    request.primary_only = true;
    request.stream = DEPUTY_STREAM_NO;
    snprintf(f->llm, sizeof(f->llm), "*");
    if (caller_identify(&f->station->setup->settings, exchange, DIALECT_OPENAI, &caller, &problem))
        start(f, &request, &caller);
    else
        give_up(f, &problem);
    caller_wipe(&caller);
}

/* ---- the caller's side
 * ------------------------------------------------------------------------------------------------- */

void forward_gone(void *user, struct http1_exchange *exchange)
{
    struct forward *f = http1_data(exchange);
    (void)user;
    if (!f)
        return;
    f->exchange = NULL; /* the rest lives until on_end: the engine still has the body */
    deputy_cancel(f->station->engine, f->run);
}

void forward_room(void *user, struct http1_exchange *exchange)
{
    struct forward *f = http1_data(exchange);
    (void)user;
    if (!f)
        return;
    f->slow = false;
    deputy_resume(f->station->engine, f->run);
}

void forwards_cancel(struct worker *w)
{
    struct forward *f;
    DL_FOREACH (w->forwards, f)
        deputy_cancel(f->station->engine, f->run);
}
