#include "core/query.h"

#include "base/error.h"

#include <stdlib.h>
#include <utlist.h>

struct query {
    struct query *prev, *next; /* the engine's */
    struct deputy_call *call;
    struct timer *timer;
    struct question question;
    bool sent, over;
};

static void wake(deputy_engine *engine)
{
    engine->queries_due = true;
    engine_nudge(engine);
}

static void settled(struct deputy_call *call)
{
    ((struct query *)call->user)->over = true;
    wake(call->engine);
}

static void take_model(struct deputy_call *call, const char *model)
{
    const struct question *q = &((struct query *)call->user)->question;
    if (!q->each)
        return;
    call->engine->depth++;
    q->each(q->user, model);
    call->engine->depth--;
}

static void on_late(void *user)
{
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_TIMEOUT, 0, "total", "did not answer in time");
    call_fail(user, &failure);
}

static void free_query(struct query *q)
{
    timer_drop(q->timer);
    call_free(q->call);
    free(q);
}

static struct query *new_query(deputy_engine *engine, deputy_provider *provider, const struct question *question)
{
    static const struct call_owner owner = {.settled = settled, .model = take_model};
    uint32_t ms = question->timeout_ms ? question->timeout_ms : engine->options.timeouts.connect_ms;
    struct query *q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    q->question = *question;
    q->question.provider = NULL; /* the caller's; the call has a reference */
    q->call = call_new(engine, provider, question->purpose, &owner, q);
    q->timer = q->call ? timer_start(engine->timers, ms, on_late, q->call) : NULL;
    if (!q->timer) {
        free_query(q);
        return NULL;
    }
    return q;
}

int query_start(deputy_engine *engine, const struct question *question, deputy_error *error)
{
    const char *name = question->provider ? question->provider : "";
    if (engine->closing)
        return error_set(error, DEPUTY_ECANCELED, "the engine is being freed");
    if (engine->n_queries == QUERIES_MAX)
        return error_set(error, DEPUTY_ELIMIT, "%d questions to providers are under way, which is the limit",
                         QUERIES_MAX);
    deputy_provider *provider = registry_find(engine->registry, name);
    if (!provider)
        return error_set(error, DEPUTY_ENOTFOUND, "provider '%s' is not registered", name);
    struct query *q = new_query(engine, provider, question);
    if (!q)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while asking '%s'", name);
    DL_APPEND(engine->queries, q);
    engine->n_queries++;
    wake(engine);
    return DEPUTY_OK;
}

/* The callback comes last: it may ask anew. */
static void finish(deputy_engine *engine, struct query *q, int code, const char *why)
{
    const struct question question = q->question;
    DL_DELETE(engine->queries, q);
    engine->n_queries--;
    engine->depth++;
    question.on_answer(question.user, code, why);
    engine->depth--;
    free_query(q);
}

void queries_step(deputy_engine *engine)
{
    struct query *q, *next;
    engine->queries_due = false;
    DL_FOREACH_SAFE (engine->queries, q, next) {
        if (!q->sent && !q->over) {
            q->sent = true;
            call_send(q->call, loop_now_us());
        }
        if (!q->over)
            continue;
        bool yes = q->call->state == CALL_GOOD;
        finish(engine, q, yes ? DEPUTY_OK : DEPUTY_EFAILED, yes ? "" : q->call->failure.message);
    }
}

void queries_end(deputy_engine *engine)
{
    struct query *q;
    while ((q = engine->queries) != NULL) {
        call_stop(q->call);
        finish(engine, q, DEPUTY_ECANCELED, "the engine is being freed");
    }
}

int deputy_ask_available(deputy_engine *engine, const char *provider, uint32_t timeout_ms, deputy_answer_fn on_answer,
                         void *user, deputy_error *error)
{
    const struct question question = {provider, CALL_AVAILABLE, timeout_ms, NULL, on_answer, user};
    int code = engine_enter(engine, false, error);
    if (code == DEPUTY_OK && !on_answer)
        code = error_set(error, DEPUTY_EINVAL, "expected a function to answer to, got NULL");
    return code == DEPUTY_OK ? query_start(engine, &question, error) : code;
}

int deputy_ask_models(deputy_engine *engine, const char *provider, uint32_t timeout_ms, deputy_model_fn each,
                      deputy_answer_fn on_answer, void *user, deputy_error *error)
{
    const struct question question = {provider, CALL_MODELS, timeout_ms, each, on_answer, user};
    int code = engine_enter(engine, false, error);
    if (code == DEPUTY_OK && !on_answer)
        code = error_set(error, DEPUTY_EINVAL, "expected a function to answer to, got NULL");
    return code == DEPUTY_OK ? query_start(engine, &question, error) : code;
}
