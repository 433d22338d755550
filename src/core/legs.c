/* The legs of a run that go to a provider: the primary, and the local ones behind the gate. */
#include "base/error.h"
#include "core/ask.h"
#include "core/run.h"

#include <string.h>
#include <utlist.h>

static const char *const json_endpoints[] = {"chat/completions", "completions", "embeddings", "responses", "messages"};

static void end_trace(struct run *run, const struct deputy_call *call, uint64_t now_us)
{
    trace_end_at(run, call->trace, call->status,
                 call->state == CALL_GOOD ? "ok" : deputy_failure_name(call->failure.kind), DEPUTY_UNREACHABLE, now_us);
}

/* Whoever may stand in can get ready while the central is asked. */
static void tell_stand_ins(struct run *run, const struct deputy_call *call)
{
    deputy_provider *const *list;
    size_t n = registry_candidates(run->engine->registry, run->llm, &list);
    for (size_t i = 0; i < n; i++) {
        const deputy_provider_vtable *v = list[i]->vtable;
        if (!PROVIDER_HAS(v, primary_failed))
            continue;
        run->engine->depth++;
        v->primary_failed(list[i]->self, &call->failure);
        run->engine->depth--;
    }
}

static void on_settled(struct deputy_call *call)
{
    struct run *run = call->user;
    if (call->purpose == CALL_PRIMARY && call->state == CALL_BAD)
        tell_stand_ins(run, call);
    if (!call->stale && call != run->sending)
        end_trace(run, call, loop_now_us());
    run_wake(run);
}

static int on_bytes(struct deputy_call *call, const void *bytes, size_t len)
{
    struct run *run = call->user;
    if (run->sink_paused || buffer_len(&call->held) > 0 || !run->head_sent)
        return DEPUTY_PAUSE; /* what came earlier goes first */
    return run_offer(run, bytes, len);
}

static void on_ended(struct deputy_call *call)
{
    run_wake(call->user);
}

static const struct call_owner owner = {.settled = on_settled, .bytes = on_bytes, .ended = on_ended};

static struct deputy_call *new_leg(struct run *run, deputy_provider *provider, enum call_purpose purpose,
                                   deputy_failure *failure)
{
    if (run->n_calls >= RUN_LEGS_MAX) {
        failure_set(failure, DEPUTY_FAILURE_LIMIT, 0, "too_many_legs", "a run may call upstreams %d times",
                    RUN_LEGS_MAX);
        return NULL;
    }
    struct deputy_call *call = call_new(run->engine, provider, purpose, &owner, run);
    if (!call) {
        failure_set(failure, DEPUTY_FAILURE_ERROR, 0, "memory", "out of memory for a call");
        return NULL;
    }
    call->number = ++run->n_calls;
    call->wants_stream = run->stream;
    call->whole = run->whole;
    for (size_t i = 0; i < sizeof(json_endpoints) / sizeof(json_endpoints[0]); i++)
        call->json = call->json || strcmp(run->endpoint, json_endpoints[i]) == 0;
    call->request = (deputy_request){
        .size = sizeof(deputy_request),
        .llm = run->llm,
        .endpoint = run->endpoint,
        .body = run->body,
        .body_len = run->body_len,
        .headers = run->headers.list,
        .n_headers = run->headers.n,
        .stream = run->stream ? DEPUTY_STREAM_YES : DEPUTY_STREAM_NO,
        .whole = run->whole,
        .method = run->is_get ? "GET" : "POST",
    };
    LL_PREPEND(run->calls, call);
    return call;
}

static void send_leg(struct run *run, struct deputy_call *call, uint64_t now_us)
{
    run->sending = call;
    call_send(call, now_us);
    run->sending = NULL;
    run->budget.now_us = 0;
    run->budget.compute_us += run_now(run) - now_us; /* the provider's time is not the script's */
    if (call->state != CALL_OPEN && !call->stale)
        end_trace(run, call, run_now(run));
}

struct deputy_call *run_primary(struct run *run, uint32_t timeout_ms, deputy_failure *failure)
{
    if (!run->primary) {
        failure_set(failure, DEPUTY_FAILURE_CONNECT, 0, "no_central",
                    "there is no primary to call: set central_url, or give the request a primary");
        return NULL;
    }
    struct deputy_call *call = new_leg(run, run->primary, CALL_PRIMARY, failure);
    if (!call)
        return NULL;
    uint64_t now = run_now(run);
    call->attempt = ++run->primaries;
    call->request.bearer_token = run->token;
    call->trace = trace_begin(run, DEPUTY_LEG_PRIMARY, call->attempt, NULL, now);
    call->limit_ms = timeout_ms;
    send_leg(run, call, now);
    return call;
}

struct deputy_call *run_complete(struct run *run, deputy_provider *provider, uint32_t timeout_ms,
                                 deputy_failure *failure)
{
    const deputy_options *o = &run->engine->options;
    struct permit spent = {0};
    uint64_t now = loop_now_us();
    if (o->gate == DEPUTY_GATE_PROBE) {
        int code = ask_spend(run, &spent);
        if (code != DEPUTY_OK) {
            const char *why =
                code == DEPUTY_ESTALE ? "the permit is too old" : "no unspent clean 2xx probe of this run";
            failure_set(failure, DEPUTY_FAILURE_REFUSED, 0, "gate", "the gate withheld '%s': %s (switch: policy.gate)",
                        provider->name, why);
            run_note(run, "gate_refused");
            engine_log(
                run->engine, DEPUTY_LOG_WARN,
                "run %llu: the script would use '%s' for '%s', the gate withheld it: %s; only \"gate\": \"policy\" "
                "leaves that to the script",
                (unsigned long long)run->id, provider->name, run->llm, why);
            return NULL;
        }
    }
    struct deputy_call *call = new_leg(run, provider, CALL_LOCAL, failure);
    if (!call)
        return NULL;
    call->attempt = ++run->locals;
    call->permit = spent;
    call->claim = run->claim;
    call->trace = trace_begin(run, DEPUTY_LEG_LOCAL, call->attempt, provider->name, now);
    call->limit_ms = timeout_ms;
    send_leg(run, call, now);
    return call;
}
