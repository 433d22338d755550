/* The calls that wait: each starts something, turns the engine's own loop until it is over, and answers. */
#include "base/buffer.h"
#include "base/error.h"
#include "core/query.h"
#include "core/run.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* ---- deputy_run ------------------------------------------------------------------------------------------------- */

struct waiter {
    deputy_reply *reply;
    struct buffer body;
    struct header_list headers;
    struct run *run;
    deputy_probe_answer *answer;
    bool over, out_of_memory, too_large;
};

static void take_head(void *user, int status, const deputy_header *headers, size_t n)
{
    struct waiter *w = user;
    w->reply->status = status;
    if (header_list_copy(&w->headers, headers, n) != DEPUTY_OK)
        w->out_of_memory = true;
}

static int take_bytes(void *user, const void *bytes, size_t len)
{
    struct waiter *w = user;
    int code = buffer_append(&w->body, bytes, len);
    w->out_of_memory = w->out_of_memory || code == DEPUTY_ENOMEM;
    w->too_large = w->too_large || code == DEPUTY_ELIMIT;
    return w->out_of_memory || w->too_large ? DEPUTY_ECANCELED : DEPUTY_OK;
}

/* The outcome's strings and arrays die with the run: one block keeps them for the reply. */
static int keep_outcome(struct waiter *w, const deputy_outcome *from)
{
    deputy_outcome *to = &w->reply->outcome;
    size_t size = sizeof(deputy_failure) + from->n_trace * sizeof(deputy_trace) + 1;
    for (size_t i = 0; i < from->n_trace; i++)
        size += from->trace[i].provider ? strlen(from->trace[i].provider) + 1 : 0;
    size += from->via ? strlen(from->via) + 1 : 0;
    *to = *from;
    to->failure = NULL;
    to->trace = NULL;
    to->via = NULL;
    to->n_trace = 0;
    char *block = malloc(size);
    if (!block)
        return DEPUTY_ENOMEM;
    deputy_trace *trace = (deputy_trace *)block;
    deputy_failure *failure = (deputy_failure *)(trace + from->n_trace);
    char *at = (char *)(failure + 1);
    for (size_t i = 0; i < from->n_trace; i++) {
        trace[i] = from->trace[i];
        if (trace[i].provider) {
            size_t n = strlen(trace[i].provider) + 1;
            trace[i].provider = memcpy(at, trace[i].provider, n);
            at += n;
        }
    }
    if (from->via)
        to->via = memcpy(at, from->via, strlen(from->via) + 1);
    if (from->failure) {
        *failure = *from->failure;
        to->failure = failure;
    }
    to->trace = trace;
    to->n_trace = from->n_trace;
    return DEPUTY_OK;
}

static void take_end(void *user, const deputy_outcome *outcome)
{
    struct waiter *w = user;
    if (keep_outcome(w, outcome) != DEPUTY_OK)
        w->out_of_memory = true;
    if (w->answer && w->run)
        *w->answer = w->run->last_answer;
    w->over = true;
}

static void wait_for(deputy_engine *engine, const bool *over)
{
    for (;;) {
        while (!*over && engine->ready)
            engine_drain(engine);
        if (*over)
            return;
        engine_turn(engine);
    }
}

int deputy_run(deputy_engine *engine, const deputy_request *request, deputy_reply *reply, deputy_error *error)
{
    struct waiter w = {.reply = reply};
    struct run *run;
    if (!reply || reply->size != sizeof(*reply))
        return error_set(error, DEPUTY_EABI,
                         "expected a deputy_reply made by DEPUTY_INIT against this engine's deputy.h");
    memset(reply, 0, sizeof(*reply));
    reply->size = sizeof(*reply);
    int code = engine_enter(engine, true, error);
    if (code != DEPUTY_OK)
        return code;
    const deputy_sink sink = {
        .size = sizeof(sink), .user = &w, .on_head = take_head, .on_bytes = take_bytes, .on_end = take_end};
    buffer_init(&w.body, engine->options.limits.max_reply_bytes);
    code = run_new(engine, request, &sink, false, &run, error);
    if (code != DEPUTY_OK)
        return code;
    wait_for(engine, &w.over);
    reply->headers = w.headers.list;
    reply->n_headers = w.headers.n;
    if (buffer_len(&w.body) > 0) {
        reply->body = buffer_take(&w.body, &reply->body_len);
        w.out_of_memory = w.out_of_memory || !reply->body;
    }
    buffer_free(&w.body);
    if (w.out_of_memory)
        return error_set(error, DEPUTY_ENOMEM, "out of memory for the reply");
    if (w.too_large)
        return error_set(error, DEPUTY_ELIMIT, "the reply is over %zu bytes (limit: maxReplyBytes)",
                         engine->options.limits.max_reply_bytes);
    const deputy_outcome *o = &reply->outcome;
    if (o->result == DEPUTY_RESULT_OK)
        return DEPUTY_OK;
    code = o->result == DEPUTY_RESULT_CANCELLED ? DEPUTY_ECANCELED : DEPUTY_EFAILED;
    return error_set(error, code, "%s",
                     o->failure && o->failure->message[0] ? o->failure->message : deputy_strerror(code));
}

void deputy_reply_clear(deputy_reply *reply)
{
    if (!reply)
        return;
    free(reply->headers);
    free(reply->body);
    free((deputy_trace *)reply->outcome.trace); /* the block of keep_outcome begins with the trace */
    memset(reply, 0, sizeof(*reply));
    reply->size = sizeof(*reply);
}

int deputy_check_auth(deputy_engine *engine, const char *llm, const char *bearer_token, deputy_verdict *verdict,
                      deputy_probe_answer *answer, deputy_error *error)
{
    deputy_reply reply = {.size = sizeof(reply)};
    deputy_probe_answer none = {.kind = DEPUTY_PROBE_NO_TOKEN};
    struct waiter w = {.reply = &reply, .answer = answer ? answer : &none};
    if (!verdict)
        return error_set(error, DEPUTY_EINVAL, "expected a place for the verdict, got NULL");
    *verdict = DEPUTY_UNREACHABLE;
    *w.answer = none;
    int code = engine_enter(engine, true, error);
    if (code != DEPUTY_OK)
        return code;
    const deputy_sink sink = {.size = sizeof(sink), .user = &w, .on_end = take_end};
    const deputy_request request = {.size = sizeof(request), .llm = llm, .bearer_token = bearer_token};
    code = run_new(engine, &request, &sink, true, &w.run, error);
    if (code != DEPUTY_OK)
        return code;
    wait_for(engine, &w.over);
    if (reply.outcome.result == DEPUTY_RESULT_OK)
        *verdict = reply.outcome.verdict;
    deputy_reply_clear(&reply);
    return DEPUTY_OK;
}

/* ---- asking a provider outside any run ------------------------------------------------------------------------------
 */

struct told {
    bool over;
    int code;
    deputy_error *why;
    deputy_model_fn each;
    void *user;
};

static void on_answer(void *user, int code, const char *why)
{
    struct told *told = user;
    told->over = true;
    told->code = code;
    error_set(told->why, code, "%s", why);
}

static void on_model(void *user, const char *model)
{
    struct told *told = user;
    if (told->each)
        told->each(told->user, model);
}

/* DEPUTY_OK when there is an answer: told.code says which. */
static int ask_provider(deputy_engine *engine, const char *name, enum call_purpose purpose, uint32_t timeout_ms,
                        struct told *told, deputy_error *error)
{
    const struct question question = {name, purpose, timeout_ms, on_model, on_answer, told};
    told->why = error;
    int code = engine_enter(engine, true, error);
    if (code == DEPUTY_OK)
        code = query_start(engine, &question, error);
    if (code == DEPUTY_OK)
        wait_for(engine, &told->over);
    return code;
}

int deputy_is_available(deputy_engine *engine, const char *provider, uint32_t timeout_ms, bool *available,
                        deputy_error *error)
{
    struct told told = {0};
    if (!available)
        return error_set(error, DEPUTY_EINVAL, "expected a place for the answer, got NULL");
    *available = false;
    int code = ask_provider(engine, provider, CALL_AVAILABLE, timeout_ms, &told, error);
    *available = code == DEPUTY_OK && told.code == DEPUTY_OK;
    if (code == DEPUTY_OK && error)
        error->code = DEPUTY_OK; /* its message says why not */
    return code;
}

int deputy_list_models(deputy_engine *engine, const char *provider, uint32_t timeout_ms, deputy_model_fn each,
                       void *user, deputy_error *error)
{
    struct told told = {.each = each, .user = user};
    int code = ask_provider(engine, provider, CALL_MODELS, timeout_ms, &told, error);
    return code == DEPUTY_OK ? told.code : code;
}
