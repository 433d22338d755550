#include "central/requests.h"

#include "central/infer.h"
#include "central/server.h"
#include "relay/heads.h"
#include "relay/request.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_TOKEN = 8192, MAX_METRICS = 1 << 20, MAX_WHY = 400 };

/* A request that is being decided. */
struct asking {
    struct central *central;
    struct http1_exchange *exchange;
    const char *path;
    size_t path_len;
    enum dialect dialect;
    bool is_inference;
    uint64_t start_us;
    struct app_request request;
    char id[REQUEST_ID_SIZE];
    char model[DEPUTY_NAME_SIZE];
    char bearer[MAX_TOKEN + sizeof("Bearer ")];
};

/* ---- words of a path --------------------------------------------------------------------------------------------- */

static bool is(const struct asking *a, const char *path)
{
    return strlen(path) == a->path_len && memcmp(path, a->path, a->path_len) == 0;
}

static bool starts_with(const struct asking *a, const char *start)
{
    size_t n = strlen(start);
    return n <= a->path_len && memcmp(start, a->path, n) == 0;
}

static bool ends_with(const struct asking *a, const char *end)
{
    size_t n = strlen(end);
    return n <= a->path_len && memcmp(end, a->path + a->path_len - n, n) == 0;
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

/* Before the reply: what it says lives as long as the exchange. */
static void note(const struct asking *a, int status, const struct app_reply *reply, const char *code)
{
    struct visit visit = {
        .method = a->request.method,
        .path = a->path,
        .path_len = a->path_len,
        .id = a->id,
        .user = reply ? reply->user : NULL,
        .route = reply ? reply->route : NULL,
        .llm = reply ? reply->llm : NULL,
        .code = code,
        .status = status,
        .us = relay_clock_us() - a->start_us,
    };
    central_note(a->central, &visit);
}

static void refuse(const struct asking *a, const struct problem *problem)
{
    note(a, problem->status, NULL, problem->code);
    problem_reply(a->exchange, a->dialect, problem, NULL, 0);
}

static void answer_text(const struct asking *a, int status, const char *type, const char *text)
{
    const struct http1_header headers[] = {{"content-type", type}, {"cache-control", "no-store"}};
    note(a, status, NULL, NULL);
    http1_reply(a->exchange, status, headers, 2, text, strlen(text));
}

/* HEAD: Lua has derived it from GET, its Content-Length too. */
static void send_head(const struct asking *a, const struct app_reply *reply)
{
    int64_t length = (int64_t)reply->body_len;
    for (size_t i = 0; i < reply->n_headers; i++)
        if (strcasecmp(reply->headers[i].name, "content-length") == 0)
            length = heads_length(reply->headers[i].value);
    http1_head(a->exchange, reply->status, reply->headers, reply->n_headers, length >= 0 ? length : 0);
    http1_end(a->exchange);
}

static void send_reply(const struct asking *a, const struct app_reply *reply)
{
    note(a, reply->status, reply, reply->code);
    if (strcmp(a->request.method, "HEAD") == 0)
        send_head(a, reply);
    else
        http1_reply(a->exchange, reply->status, reply->headers, reply->n_headers, reply->body, reply->body_len);
}

static void answer_failed(const struct asking *a)
{
    struct problem problem;
    a->central->counts.lua_errors++;
    problem_set(&problem, 500, "internal_error", "the central could not decide this: its log says why, under %s",
                a->id);
    refuse(a, &problem);
}

/* ---- paths of our own -------------------------------------------------------------------------------------------- */

static void answer_ready(const struct asking *a)
{
    char why[MAX_WHY], text[MAX_WHY + 32];
    if (a->central->drain.begun) {
        answer_text(a, 503, "text/plain; charset=utf-8", "not ready: draining, this central is about to end\n");
    } else if (!app_ready(a->central->app, why, sizeof(why))) {
        if (log_begin(&a->central->log, DEPUTY_LOG_WARN, "not ready")) {
            log_text(&a->central->log, "problem", why);
            log_end(&a->central->log);
        }
        snprintf(text, sizeof(text), "not ready: the database cannot be asked: the log says why\n");
        answer_text(a, 503, "text/plain; charset=utf-8", text);
    } else {
        answer_text(a, 200, "text/plain; charset=utf-8", "ready\n");
    }
}

static void answer_metrics(const struct asking *a)
{
    struct central *c = a->central;
    struct draft text = DRAFT(MAX_METRICS);
    struct problem problem;
    if (!http1_is_local(a->exchange)) {
        problem_set(&problem, 403, "local_only", "/metrics is for callers on the central's own machine");
        refuse(a, &problem);
        return;
    }
    counts_write(&c->counts, http1_stats(c->server), app_bytes(c->app), &text);
    if (text.failed)
        answer_text(a, 500, "text/plain; charset=utf-8", "out of memory\n");
    else
        answer_text(a, 200, "text/plain; version=0.0.4; charset=utf-8", text.text);
    draft_free(&text);
}

/* They need no token, and tell nothing about LLMs and users. */
static bool answer_own(const struct asking *a)
{
    bool health = is(a, "/healthz"), ready = is(a, "/readyz"), metrics = is(a, "/metrics");
    struct problem problem;
    if (!health && !ready && !metrics)
        return false;
    if (strcmp(a->request.method, "GET") != 0 && strcmp(a->request.method, "HEAD") != 0) {
        problem_set(&problem, 405, "method_not_allowed", "%.*s is for GET and HEAD", (int)a->path_len, a->path);
        problem.header = "allow";
        problem.value = "GET, HEAD";
        refuse(a, &problem);
    } else if (health) {
        answer_text(a, 200, "text/plain; charset=utf-8", "ok\n");
    } else if (ready) {
        answer_ready(a);
    } else {
        answer_metrics(a);
    }
    return true;
}

/* ---- what is asked ----------------------------------------------------------------------------------------------- */

static void write_id(struct central *c, char id[REQUEST_ID_SIZE])
{
    snprintf(id, REQUEST_ID_SIZE, "%08x-%llu", (unsigned)c->boot, (unsigned long long)++c->n_requests);
}

/* Anthropic's libraries send their key in a field of its own. */
static bool take_key(struct asking *a, const char *key, struct problem *problem)
{
    if (strlen(key) > MAX_TOKEN)
        return problem_set(problem, 401, "invalid_credentials", "the x-api-key header is longer than %d bytes",
                           MAX_TOKEN);
    snprintf(a->bearer, sizeof(a->bearer), "Bearer %s", key);
    a->request.authorization = a->bearer;
    return true;
}

static bool read_fields(struct asking *a, struct problem *problem)
{
    size_t n;
    const struct http1_header *headers = http1_headers(a->exchange, &n);
    const char *key = NULL;
    for (size_t i = 0; i < n; i++) {
        const char *name = headers[i].name;
        const char **place = (*name | 0x20) == 'a' && strcasecmp(name, "authorization") == 0 ? &a->request.authorization
                             : (*name | 0x20) == 'c' && strcasecmp(name, "content-type") == 0 ? &a->request.content_type
                             : (*name | 0x20) == 'x' && strcasecmp(name, "x-api-key") == 0    ? &key
                                                                                              : NULL;
        if (place && *place)
            return problem_set(problem, 400, "duplicate_header", "the %s header was sent twice", name);
        if (place)
            *place = headers[i].value;
    }
    return !key || a->request.authorization || take_key(a, key, problem);
}

/* False: it has been answered. */
static bool begin(struct asking *a, struct central *c, struct http1_exchange *exchange)
{
    struct problem problem;
    a->central = c;
    a->exchange = exchange;
    a->path = request_path(http1_target(exchange), &a->path_len);
    a->start_us = relay_clock_us();
    a->request = (struct app_request){
        .exchange = exchange,
        .method = http1_method(exchange),
        .target = a->path, /* and the query: RFC 9112, 3.2.2 lets any client send the host too */
        .id = a->id,
    };
    a->dialect = is(a, "/v1/messages") ? DIALECT_MESSAGES : is(a, "/v1/responses") ? DIALECT_RESPONSES : DIALECT_OPENAI;
    a->is_inference = strcmp(a->request.method, "POST") == 0 &&
                      (starts_with(a, "/v1/") || (starts_with(a, "/api/v1/llms/") && ends_with(a, "/infer")));
    a->bearer[0] = '\0';
    write_id(c, a->id);
    if (request_agrees_with_host(exchange, &problem) && read_fields(a, &problem))
        return true;
    refuse(a, &problem);
    return false;
}

static void end(struct asking *a)
{
    if (a->bearer[0])
        explicit_bzero(a->bearer, sizeof(a->bearer));
    app_forget(a->central->app);
}

/* ---- deciding ---------------------------------------------------------------------------------------------------- */

static void ask_lua(struct asking *a, struct app_reply *reply)
{
    app_handle(a->central->app, &a->request, reply);
    counts_decision(&a->central->counts, relay_clock_us() - a->start_us);
}

/* Before the body is read: may this caller do that at all? False: it has been answered. */
static bool ask_early(struct asking *a)
{
    struct app_reply reply;
    app_authorize(a->central->app, &a->request, &reply);
    if (!reply.failed && reply.status == 0)
        return true;
    if (reply.failed)
        answer_failed(a);
    else
        send_reply(a, &reply);
    return false;
}

static void decide(struct asking *a)
{
    struct app_reply reply;
    ask_lua(a, &reply);
    if (reply.failed)
        answer_failed(a);
    else if (reply.status != 0)
        send_reply(a, &reply);
    else if (a->is_inference)
        infer_start(a->central, a->exchange, a->id, &reply);
    else
        answer_failed(a);
}

static bool fits(const struct asking *a, size_t len, struct problem *problem)
{
    return a->is_inference || len <= MAX_ADMIN_BODY ||
           problem_set(problem, 413, "body_too_large", "a body here may have %d bytes", ADMIN_BODY);
}

static void decide_inference(struct asking *a)
{
    deputy_error error = {0, ""};
    struct problem problem;
    size_t len;
    const void *body = http1_body(a->exchange, &len);
    int code = deputy_read_body(body, len, a->model, NULL, &error);
    if (code == DEPUTY_OK || (code == DEPUTY_ENOTFOUND && ends_with(a, "/infer"))) { /* there the path names the LLM */
        a->request.model = code == DEPUTY_OK ? a->model : NULL;
        decide(a);
    } else if (ask_early(a)) { /* only those who may come are told what is wrong with their body */
        problem_set(&problem, 400, "invalid_request", "%s", error.message);
        refuse(a, &problem);
    }
}

static void decide_other(struct asking *a)
{
    struct problem problem;
    bool is_look = strcmp(a->request.method, "GET") == 0 || strcmp(a->request.method, "HEAD") == 0;
    if (!is_look)
        a->request.body = http1_body(a->exchange, &a->request.body_len);
    if (fits(a, a->request.body_len, &problem))
        decide(a);
    else
        refuse(a, &problem);
}

int requests_head(void *user, struct http1_exchange *exchange)
{
    struct asking a;
    struct problem problem;
    const char *length;
    if (!request_is_long(exchange) || !begin(&a, user, exchange))
        return 0;
    length = http1_header(exchange, "content-length");
    int64_t bytes = heads_length(length);
    if (!a.is_inference && http1_header(exchange, "transfer-encoding")) {
        problem_set(&problem, 411, "length_required", "expected a Content-Length: a body here may have %d bytes",
                    ADMIN_BODY);
        refuse(&a, &problem);
    } else if (!fits(&a, bytes > 0 ? (size_t)bytes : 0, &problem))
        refuse(&a, &problem);
    else if (a.is_inference)
        ask_early(&a);
    end(&a);
    return 0;
}

void requests_decide(void *user, struct http1_exchange *exchange)
{
    struct asking a;
    if (!begin(&a, user, exchange))
        return;
    if (a.is_inference)
        decide_inference(&a);
    else if (!answer_own(&a))
        decide_other(&a);
    end(&a);
}
