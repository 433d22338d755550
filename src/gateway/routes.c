#include "gateway/routes.h"

#include "gateway/callers.h"
#include "gateway/facts.h"
#include "gateway/forward.h"
#include "gateway/page.h"
#include "relay/request.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_METRICS = 16 << 20 };

enum access {
    ACCESS_ALL,  /* anybody who reaches the port: it says next to nothing */
    ACCESS_LOOK, /* this machine, or with a key */
    ACCESS_RUN   /* by the rules for runs */
};

struct route {
    const char *path;
    const char *methods;  /* for Allow */
    const char *endpoint; /* of a run, or NULL */
    enum dialect dialect;
    enum access access;
    void (*answer)(struct worker *worker, struct http1_exchange *exchange); /* when it is no run */
};

/* ---- small answers
 * ---------------------------------------------------------------------------------------------------- */

static void answer_text(struct http1_exchange *exchange, int status, const char *type, const char *text)
{
    const struct http1_header headers[] = {{"content-type", type}, {"cache-control", "no-store"}};
    http1_reply(exchange, status, headers, 2, text, strlen(text));
}

static void answer_health(struct worker *w, struct http1_exchange *exchange)
{
    (void)w;
    answer_text(exchange, 200, "text/plain; charset=utf-8", "ok\n");
}

static void answer_ready(struct worker *w, struct http1_exchange *exchange)
{
    if (w->state != WORKER_SERVING)
        answer_text(exchange, 503, "text/plain; charset=utf-8", "not ready: draining, this gateway is about to end\n");
    else if (!metrics_last_reload_ok(w->gateway->metrics))
        answer_text(exchange, 200, "text/plain; charset=utf-8",
                    "ready: policy loaded, but the last reload failed and changed nothing: the log says why\n");
    else
        answer_text(exchange, 200, "text/plain; charset=utf-8", "ready: policy loaded\n");
}

static void answer_metrics(struct worker *w, struct http1_exchange *exchange)
{
    struct draft text = DRAFT(MAX_METRICS);
    if (w->state == WORKER_SERVING || w->state == WORKER_DRAINING)
        worker_report(w);
    metrics_write(w->gateway->metrics, &text);
    facts_write_metrics(w, &text);
    if (text.failed)
        answer_text(exchange, 500, "text/plain; charset=utf-8", "out of memory\n");
    else
        answer_text(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text.text);
    draft_free(&text);
}

/* ---- the table
 * -------------------------------------------------------------------------------------------------------- */

static const struct route routes[] = {
    {"/v1/chat/completions", "POST, OPTIONS", "chat/completions", DIALECT_OPENAI, ACCESS_RUN, NULL},
    {"/v1/completions", "POST, OPTIONS", "completions", DIALECT_OPENAI, ACCESS_RUN, NULL},
    {"/v1/embeddings", "POST, OPTIONS", "embeddings", DIALECT_OPENAI, ACCESS_RUN, NULL},
    {"/v1/responses", "POST, OPTIONS", "responses", DIALECT_RESPONSES, ACCESS_RUN, NULL},
    {"/v1/messages", "POST, OPTIONS", "messages", DIALECT_MESSAGES, ACCESS_RUN, NULL},
    {"/v1/models", "GET, HEAD, OPTIONS", NULL, DIALECT_OPENAI, ACCESS_RUN, forward_models},
    {"/healthz", "GET, HEAD, OPTIONS", NULL, DIALECT_OPENAI, ACCESS_ALL, answer_health},
    {"/readyz", "GET, HEAD, OPTIONS", NULL, DIALECT_OPENAI, ACCESS_ALL, answer_ready},
    {"/metrics", "GET, HEAD, OPTIONS", NULL, DIALECT_OPENAI, ACCESS_LOOK, answer_metrics},
    {"/", "GET, HEAD, OPTIONS", NULL, DIALECT_OPENAI, ACCESS_LOOK, page_reply},
    {"/page.json", "GET, HEAD, OPTIONS", NULL, DIALECT_OPENAI, ACCESS_LOOK, page_data_reply},
};

static const struct route *find_route(const char *path, size_t len)
{
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
        if (strlen(routes[i].path) == len && memcmp(routes[i].path, path, len) == 0)
            return &routes[i];
    return NULL;
}

static bool allows(const struct route *route, const char *method)
{
    const char *found = strstr(route->methods, method);
    size_t n = strlen(method);
    return found && n > 0 && (found == route->methods || found[-1] == ' ') && (found[n] == ',' || found[n] == '\0');
}

/* ---- deciding
 * --------------------------------------------------------------------------------------------------------- */

static bool may(struct worker *w, const struct http1_exchange *exchange, const struct route *route,
                struct problem *problem)
{
    const struct gateway_settings *settings = &w->current->setup->settings;
    if (!request_agrees_with_host(exchange, problem))
        return false;
    if (route && route->access == ACCESS_ALL)
        return true;
    if (!caller_may_come(settings, exchange, problem))
        return false;
    return !route || route->access != ACCESS_LOOK || caller_may_look(settings, exchange, problem);
}

static const struct route *choose(struct worker *w, const struct http1_exchange *exchange, struct problem *problem)
{
    const char *method = http1_method(exchange);
    size_t len;
    const char *path = request_path(http1_target(exchange), &len);
    const struct route *route = find_route(path, len);
    if (!may(w, exchange, route, problem))
        return NULL;
    if (!route) {
        problem_set(problem, 404, "not_found",
                    "nothing is served at %.*s: there are /v1/chat/completions, /v1/completions, /v1/embeddings, "
                    "/v1/responses, /v1/messages, /v1/models, /healthz, /readyz, /metrics and /",
                    (int)(len < 100 ? len : 100), path);
        return NULL;
    }
    if (!allows(route, method)) {
        problem_set(problem, 405, "method_not_allowed", "%s is not for %.20s: use %s", route->path, method,
                    route->methods);
        problem->header = "allow";
        problem->value = route->methods;
        return NULL;
    }
    return route;
}

static enum dialect dialect_of(const struct http1_exchange *exchange)
{
    size_t len;
    const char *path = request_path(http1_target(exchange), &len);
    const struct route *route = find_route(path, len);
    return route ? route->dialect : DIALECT_OPENAI;
}

static void refuse(struct worker *w, struct http1_exchange *exchange, const struct problem *problem)
{
    struct http1_header cors[CORS_HEADERS];
    size_t n = strcmp(problem->code, "origin_not_allowed") == 0 ? 0 : cors_headers(exchange, cors);
    metrics_refused(w->gateway->metrics, problem->status);
    problem_reply(exchange, dialect_of(exchange), problem, cors, n);
}

/* What may be done here, and what a page of an allowed origin may ask for (Fetch, CORS preflight). */
static void answer_options(const struct route *route, struct http1_exchange *exchange)
{
    struct http1_header headers[CORS_HEADERS + 4];
    const char *wanted = http1_header(exchange, "access-control-request-headers");
    size_t n = cors_headers(exchange, headers);
    if (n > 0 && http1_header(exchange, "access-control-request-method")) {
        headers[n++] = (struct http1_header){"access-control-allow-methods", route->methods};
        headers[n++] = (struct http1_header){"access-control-max-age", "600"};
        if (wanted)
            headers[n++] = (struct http1_header){"access-control-allow-headers", wanted};
    }
    headers[n++] = (struct http1_header){"allow", route->methods};
    http1_reply(exchange, 204, headers, n, NULL, 0);
}

int routes_head(void *user, struct http1_exchange *exchange)
{
    struct worker *w = user;
    struct problem problem;
    struct caller caller; /* not cleared: 8 KiB for nothing, for each request */
    caller.has_token = false;
    if (!request_is_long(exchange))
        return 0;
    const struct route *route = choose(w, exchange, &problem);
    bool ok = route && (!route->endpoint || strcmp(http1_method(exchange), "POST") != 0 ||
                        (caller_identify(&w->current->setup->settings, exchange, &caller, &problem) &&
                         request_sends_json(exchange, &problem)));
    caller_wipe(&caller);
    if (!ok)
        refuse(w, exchange, &problem);
    return 0;
}

void routes_request(void *user, struct http1_exchange *exchange)
{
    struct worker *w = user;
    struct problem problem;
    const struct route *route = choose(w, exchange, &problem);
    if (!route)
        refuse(w, exchange, &problem);
    else if (strcmp(http1_method(exchange), "OPTIONS") == 0)
        answer_options(route, exchange);
    else if (route->endpoint)
        forward_request(w, exchange, route->endpoint, route->dialect);
    else
        route->answer(w, exchange);
}

void routes_gone(void *user, struct http1_exchange *exchange)
{
    struct worker *w = user;
    if (!survey_forget(&w->survey, exchange))
        relay_gone(w, exchange);
}
