#include "gateway/forward.h"

#include "gateway/models.h"
#include "relay/request.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 4 << 20, MAX_MARKED = 8 << 20, NAME_TEXT = 64 };

struct forward {
    struct relay relay;
    struct worker *worker;
    struct station *station;
    const char *endpoint; /* static */
    bool is_list;
    struct draft list; /* a reply that is looked at before it goes out */
    char name[NAME_TEXT];
    char llm[DEPUTY_NAME_SIZE];
};

static struct forward *forward_of(struct relay *relay)
{
    return (struct forward *)((char *)relay - offsetof(struct forward, relay));
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

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

static size_t own_headers(struct relay *relay, const char *via, struct http1_header headers[RELAY_OWN_HEADERS])
{
    size_t n = cors_headers(relay->exchange, headers);
    headers[n++] = (struct http1_header){"x-deputy-run", forward_of(relay)->name};
    headers[n++] = (struct http1_header){"x-deputy-failover", via ? "true" : "false"};
    if (via)
        headers[n++] = (struct http1_header){"x-deputy-via", via};
    return n;
}

static bool keeps(struct relay *relay, int status, const char *type)
{
    (void)type;
    return forward_of(relay)->is_list && status == 200;
}

static int keep(struct relay *relay, const void *bytes, size_t len)
{
    struct draft *list = &forward_of(relay)->list;
    draft_add(list, bytes, len);
    return list->failed ? DEPUTY_ELIMIT : DEPUTY_OK;
}

static void reply_with_list(struct relay *relay, const deputy_outcome *o)
{
    struct forward *f = forward_of(relay);
    struct http1_header headers[RELAY_OWN_HEADERS + 1];
    struct draft marked = DRAFT(MAX_MARKED);
    bool ok = f->list.len > 0 && models_mark(relay->engine, f->list.text, f->list.len, &marked);
    size_t n = own_headers(relay, NULL, headers);
    (void)o;
    headers[n++] = (struct http1_header){"content-type", "application/json"};
    http1_reply(relay->exchange, 200, headers, n, ok ? marked.text : f->list.text, ok ? marked.len : f->list.len);
    draft_free(&marked);
}

static void explain(struct relay *relay, const deputy_outcome *o, const deputy_failure *failure,
                    struct problem *problem)
{
    bool local = relay->head_sent && o->failover;
    problem_from_failure(problem, failure, local ? CULPRIT_LOCAL : CULPRIT_PRIMARY, relay->head_sent);
    if (forward_of(relay)->list.failed) /* we cancelled it */
        problem_set(problem, 502, "primary_too_large", "the central's list of models is over %d bytes", MAX_LIST);
    else if (!relay->head_sent && o->result == DEPUTY_RESULT_CANCELLED)
        problem_set(problem, 503, "shutting_down", "the gateway is shutting down: ask again");
}

static void streaming(struct relay *relay, int change)
{
    metrics_stream(forward_of(relay)->worker->gateway->metrics, change);
}

/* ---- what is remembered ----------------------------------------------------------------------------------------- */

static void write_log(struct forward *f, const deputy_outcome *o)
{
    static const char *const words[] = {"ok", "failed", "cut", "cancelled"};
    struct log *log = &f->worker->log;
    char trace_id[33];
    bool is_trouble = o->result == DEPUTY_RESULT_FAILED || o->result == DEPUTY_RESULT_CUT;
    if (!log_begin(log, is_trouble ? DEPUTY_LOG_WARN : DEPUTY_LOG_INFO, "run"))
        return;
    snprintf(trace_id, sizeof(trace_id), "%.32s", f->relay.traceparent + 3);
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
    if (o->failure && failure_is_ours(o->failure->kind))
        log_text(log, "problem", o->failure->message);
    log_number(log, "us", (int64_t)o->us);
    if (f->relay.first_us > 0)
        log_number(log, "first_us", (int64_t)f->relay.first_us);
    log_legs(log, o->trace, o->n_trace);
    log_text(log, "trace_id", trace_id);
    log_end(log);
}

static void over(struct relay *relay, const deputy_outcome *o)
{
    struct forward *f = forward_of(relay);
    struct run_report report = {
        .name = f->name,
        .llm = f->llm,
        .endpoint = f->endpoint,
        .worker = f->worker->number,
        .known = deputy_failover_for(relay->engine, f->llm) != NULL,
        .streamed = relay->is_events,
        .first_us = relay->first_us,
        .outcome = o,
    };
    metrics_run_over(f->worker->gateway->metrics, &report);
    write_log(f, o);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void release(struct relay *relay)
{
    struct forward *f = forward_of(relay);
    atomic_fetch_sub(&f->worker->gateway->in_flight, 1);
    station_leave(f->station);
    draft_free(&f->list);
    free(f);
}

const struct relay_host forward_host = {
    .own_headers = own_headers,
    .keeps = keeps,
    .keep = keep,
    .answer_kept = reply_with_list,
    .explain = explain,
    .streaming = streaming,
    .over = over,
    .release = release,
};

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
    f->endpoint = endpoint;
    f->list = DRAFT(MAX_LIST);
    f->station->runs++;
    relay_begin(&f->relay, &w->relays, w->current->engine, exchange, dialect);
    return f;
}

static void give_up(struct forward *f, const struct problem *problem)
{
    struct http1_header cors[CORS_HEADERS];
    metrics_refused(f->worker->gateway->metrics, problem->status);
    relay_refuse(&f->relay, problem, cors, cors_headers(f->relay.exchange, cors));
}

static void start(struct forward *f, deputy_request *request, const struct caller *caller)
{
    struct problem problem;
    request->llm = f->is_list ? "models" : f->llm;
    request->endpoint = f->endpoint;
    request->bearer_token = caller->has_token ? caller->token : NULL;
    if (!relay_start(&f->relay, request, &problem)) {
        give_up(f, &problem);
        return;
    }
    snprintf(f->name, sizeof(f->name), "%08x-%u.%u-%llu", (unsigned)f->worker->gateway->boot, f->worker->number,
             f->station->number, (unsigned long long)f->relay.run);
    metrics_run_begun(f->worker->gateway->metrics);
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

/* "whole" and "live" in x-deputy-streaming have the last word. */
static bool wants_whole(const struct forward *f, bool *whole, struct problem *problem)
{
    const char *wish = http1_header(f->relay.exchange, "x-deputy-streaming");
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
    relay_take_body(&f->relay, request);
    if (request->body_len > f->station->setup->settings.max_body_bytes) /* it began before a reload */
        return problem_set(problem, 413, "body_too_large", "the body is larger than this gateway takes now");
    if (deputy_read_body(request->body, request->body_len, f->llm, &request->stream, &error) != DEPUTY_OK)
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
    if (!caller_identify(&f->station->setup->settings, exchange, &caller, &problem) ||
        !request_sends_json(exchange, &problem) || !read_request(f, &request, &problem))
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
    if (caller_identify(&f->station->setup->settings, exchange, &caller, &problem))
        start(f, &request, &caller);
    else
        give_up(f, &problem);
    caller_wipe(&caller);
}
