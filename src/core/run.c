#include "core/run.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

enum { LATE_GRACE_MS = 1000 };

static const char *const json_endpoints[] = {"chat/completions", "completions", "embeddings", "responses", "messages"};

/* ---- trace ------------------------------------------------------------------------------------------------------ */

enum { NO_TRACE = RUN_TRACE_MAX };

static size_t trace_begin(struct run *run, deputy_leg leg, int attempt, const char *provider, uint64_t now_us)
{
    if (run->n_trace == run->trace_size) {
        size_t size = run->trace_size * 2 > RUN_TRACE_MAX ? RUN_TRACE_MAX : run->trace_size * 2;
        bool inside = run->trace == run->first_trace;
        deputy_trace *grown = size > run->trace_size ? realloc(inside ? NULL : run->trace, size * sizeof(*grown)) : NULL;
        if (!grown)
            return NO_TRACE;
        if (inside)
            memcpy(grown, run->trace, run->n_trace * sizeof(*grown));
        run->trace = grown;
        run->trace_size = size;
    }
    deputy_trace *t = &run->trace[run->n_trace];
    *t = (deputy_trace){
        .leg = leg, .attempt = attempt, .start_us = now_us - run->start_us, .kind = "", .provider = provider};
    return run->n_trace++;
}

static void trace_end_at(struct run *run, size_t at, int status, const char *kind, deputy_verdict verdict, uint64_t now_us)
{
    if (at >= run->n_trace)
        return;
    deputy_trace *t = &run->trace[at];
    t->end_us = now_us - run->start_us;
    t->status = status;
    t->kind = kind;
    t->verdict = verdict;
}

static void trace_end(struct run *run, size_t at, int status, const char *kind, deputy_verdict verdict)
{
    trace_end_at(run, at, status, kind, verdict, loop_now_us());
}

void run_note(struct run *run, const char *kind)
{
    uint64_t now = loop_now_us();
    size_t at = trace_begin(run, DEPUTY_LEG_POLICY, 1, NULL, now);
    trace_end_at(run, at, 0, kind, DEPUTY_UNREACHABLE, now);
}

/* ---- the queue -------------------------------------------------------------------------------------------------- */

void run_wake(struct run *run)
{
    if (run->queued)
        return;
    run->queued = true;
    DL_APPEND(run->engine->ready, run);
    engine_nudge(run->engine);
}

void run_cancel(struct run *run)
{
    run->cancelled = true;
    run_wake(run);
}

static void on_deadline(void *user)
{
    struct run *run = user;
    run->forced = run->late;
    run->late = true;
    run_wake(run);
}

/* Only a run that waits needs a timer; one that is decided at once never does. */
static void watch_deadline(struct run *run)
{
    uint64_t spent = loop_now_us() - run->start_us;
    uint64_t left = spent < run->total_us ? run->total_us - spent : 0;
    if (run->timer)
        return;
    run->timer = timer_start(run->engine->timers, left / 1000 + 1, on_deadline, run);
    if (!run->timer)
        run_cancel(run); /* nothing may wait without a deadline */
}

/* ---- legs ------------------------------------------------------------------------------------------------------- */

static void on_settled(struct deputy_call *call)
{
    struct run *run = call->user;
    if (!call->stale)
        trace_end(run, call->trace, call->status, call->state == CALL_GOOD ? "ok" : deputy_failure_name(call->failure.kind),
                  DEPUTY_UNREACHABLE);
    run_wake(run);
}

static int on_bytes(struct deputy_call *call, const void *bytes, size_t len)
{
    struct run *run = call->user;
    if (run->sink_paused || buffer_len(&call->held) > 0 || !run->head_sent)
        return DEPUTY_PAUSE; /* what came earlier goes first */
    if (!run->sink.on_bytes)
        return DEPUTY_OK;
    run->engine->depth++;
    int code = run->sink.on_bytes(run->sink.user, bytes, len);
    run->engine->depth--;
    if (code == DEPUTY_PAUSE)
        run->sink_paused = true;
    else if (code != DEPUTY_OK)
        run_cancel(run);
    return code;
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
        failure_set(failure, DEPUTY_FAILURE_LIMIT, 0, "too_many_legs", "a run may call upstreams %d times", RUN_LEGS_MAX);
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
    };
    LL_PREPEND(run->calls, call);
    return call;
}

struct deputy_call *run_primary(struct run *run, deputy_failure *failure)
{
    if (!run->primary) {
        failure_set(failure, DEPUTY_FAILURE_CONNECT, 0, "no_central",
                    "there is no primary to call: set central_url, or give the request a primary");
        return NULL;
    }
    struct deputy_call *call = new_leg(run, run->primary, CALL_PRIMARY, failure);
    if (!call)
        return NULL;
    uint64_t now = loop_now_us();
    call->attempt = ++run->primaries;
    call->request.bearer_token = run->token;
    call->trace = trace_begin(run, DEPUTY_LEG_PRIMARY, call->attempt, NULL, now);
    run->last_primary = call;
    call_send(call, now);
    return call;
}

struct deputy_call *run_complete(struct run *run, deputy_provider *provider, deputy_failure *failure)
{
    const deputy_options *o = &run->engine->options;
    struct permit spent = {0};
    uint64_t now = loop_now_us();
    if (o->gate == DEPUTY_GATE_PROBE) {
        int code = gate_spend(&run->permit, &run->claim, (uint64_t)o->permit_ms * 1000, now, &spent);
        if (code != DEPUTY_OK) {
            failure_set(failure, DEPUTY_FAILURE_REFUSED, 0, "gate",
                        "the gate withheld '%s': %s (switch: policy.gate)", provider->name,
                        code == DEPUTY_ESTALE ? "the permit is too old" : "no unspent clean 2xx probe of this run");
            run_note(run, "gate_refused");
            engine_log(run->engine, DEPUTY_LOG_WARN,
                       "run %llu: the script would use '%s' for '%s', the gate withheld it: %s; only \"gate\": \"policy\" "
                       "leaves that to the script",
                       (unsigned long long)run->id, provider->name, run->llm,
                       code == DEPUTY_ESTALE ? "the permit is too old" : "no unspent clean 2xx probe of this run");
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
    call_send(call, now);
    return call;
}

/* ---- asking the central ----------------------------------------------------------------------------------------- */

static void answered(struct asking *a, const deputy_probe_answer *answer, uint64_t now_us)
{
    struct run *run = a->run;
    a->probe = NULL;
    a->pending = false;
    a->answer = *answer;
    trace_end_at(run, a->trace, answer->status, deputy_probe_kind_name(answer->kind), gate_verdict(answer), now_us);
    /* only the script's own probe may leave a permit behind; a renewal's goes to its call alone */
    if (a == &run->script_probe)
        gate_grant(&run->permit, &run->claim, answer, a->start_us);
}

static void on_answer(void *user, const deputy_probe_answer *answer)
{
    struct asking *a = user;
    answered(a, answer, loop_now_us());
    run_wake(a->run);
}

static void ask_central(struct run *run, struct asking *a)
{
    const deputy_options *o = &run->engine->options;
    deputy_probe_answer answer = {.kind = DEPUTY_PROBE_NO_TOKEN};
    memset(a, 0, sizeof(*a));
    a->run = run;
    a->pending = true;
    a->start_us = loop_now_us();
    a->trace = trace_begin(run, DEPUTY_LEG_PROBE, ++run->probes, NULL, a->start_us);
    if (a == &run->script_probe)
        memset(&run->permit, 0, sizeof(run->permit));
    if (!run->token) {
        answered(a, &answer, a->start_us);
    } else if (o->probe) {
        run->engine->depth++;
        o->probe(o->probe_user, run->llm, run->token, &answer);
        run->engine->depth--;
        uint64_t now = loop_now_us();
        answer.us = now - a->start_us;
        answer.content_type[sizeof(answer.content_type) - 1] = '\0';
        answered(a, &answer, now);
    } else if (!o->central_url) {
        answer.kind = DEPUTY_PROBE_CONNECT;
        answered(a, &answer, a->start_us);
    } else {
        struct probe_request request = {
            .central_url = o->central_url,
            .path = o->probe_path,
            .llm = run->llm,
            .token = run->token,
            .ca_file = o->ca_file,
            .connect_ms = o->timeouts.connect_ms,
            .timeout_ms = o->timeouts.probe_ms,
            .max_header_bytes = o->limits.max_header_bytes,
            .user = a,
            .on_answer = on_answer,
        };
        if (probe_start(run->engine->loop, &request, &a->probe, &answer) != DEPUTY_OK || !a->probe)
            answered(a, &answer, a->start_us);
    }
}

void run_probe(struct run *run)
{
    if (run->script_probe.pending)
        return;
    if (run->probes >= RUN_LEGS_MAX) {
        memset(&run->permit, 0, sizeof(run->permit));
        memset(&run->script_probe.answer, 0, sizeof(run->script_probe.answer));
        run->script_probe.answer.kind = DEPUTY_PROBE_LIMIT;
        return;
    }
    ask_central(run, &run->script_probe);
}

deputy_verdict run_verdict(const struct run *run)
{
    const struct asking *last = run->renewal.run ? &run->renewal : &run->script_probe;
    return last->run && !last->pending ? gate_verdict(&last->answer) : DEPUTY_UNREACHABLE;
}

/* A call's permit grew old before its first byte: ask the central again, on the engine's own account. */
static void renew(struct run *run)
{
    const deputy_options *o = &run->engine->options;
    struct deputy_call *call;
    if (run->renewal.pending)
        return;
    if (run->renewing) {
        struct permit fresh = {0};
        call = run->renewing;
        run->renewing = NULL;
        gate_grant(&fresh, &run->claim, &run->renewal.answer, run->renewal.start_us);
        if (gate_spend(&fresh, &run->claim, (uint64_t)o->permit_ms * 1000, loop_now_us(), &call->permit) == DEPUTY_OK) {
            call_send_again(call);
        } else {
            deputy_failure failure;
            failure_set(&failure, DEPUTY_FAILURE_REFUSED, 0, "gate",
                        "'%s' was not ready in time, and the central no longer allows '%s'", call->provider->name,
                        run->llm);
            call->stale = false;
            call_fail(call, &failure);
        }
    }
    LL_FOREACH (run->calls, call)
        if (call->stale)
            break;
    if (!call)
        return;
    if (run->probes >= RUN_LEGS_MAX) {
        deputy_failure failure;
        failure_set(&failure, DEPUTY_FAILURE_LIMIT, 0, "too_many_probes", "a run may ask the central %d times",
                    RUN_LEGS_MAX);
        call->stale = false;
        call_fail(call, &failure);
        return;
    }
    run->renewing = call;
    ask_central(run, &run->renewal);
    if (!run->renewal.pending)
        run_wake(run);
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void stop_legs(struct run *run, const struct deputy_call *but)
{
    struct deputy_call *call;
    struct asking *asking[] = {&run->script_probe, &run->renewal};
    LL_FOREACH (run->calls, call) {
        bool open = call->live || call->stale;
        if (call == but)
            continue;
        call->stale = false;
        if (open && call->state == CALL_OPEN)
            trace_end(run, call->trace, call->status, "cancelled", DEPUTY_UNREACHABLE);
        call_stop(call);
    }
    run->renewing = NULL;
    for (size_t i = 0; i < 2; i++) {
        if (!asking[i]->probe)
            continue;
        probe_cancel(asking[i]->probe);
        asking[i]->probe = NULL;
        asking[i]->pending = false;
        trace_end(run, asking[i]->trace, 0, "cancelled", DEPUTY_UNREACHABLE);
    }
}

static void stop_script(struct run *run, bool done)
{
    if (run->handle)
        *(void **)run->handle = NULL; /* the script may keep its object; it leads nowhere now */
    run->handle = NULL;
    if (run->policy)
        policy_stop(run->policy, &run->thread, done);
}

static void free_run(struct run *run)
{
    struct deputy_call *call, *next;
    deputy_engine *engine = run->engine;
    if (run->queued)
        DL_DELETE(engine->ready, run);
    LL_FOREACH_SAFE (run->calls, call, next)
        call_free(call);
    timer_drop(run->timer);
    policy_unref(run->policy);
    deputy_provider_unref(run->primary);
    header_list_free(&run->headers);
    if (run->trace != run->first_trace)
        free(run->trace);
    free(run->more_strings);
    pool_give(&engine->run_pool, run);
}

static void finish(struct run *run, deputy_result result)
{
    deputy_engine *engine = run->engine;
    const struct deputy_call *from = run->chosen;
    bool local = from && from->purpose == CALL_LOCAL && result != DEPUTY_RESULT_CANCELLED;
    run->state = RUN_OVER;
    stop_legs(run, NULL);
    stop_script(run, false);
    deputy_outcome outcome = {
        .size = sizeof(outcome),
        .run = run->id,
        .result = result,
        .status = run->head_sent && from ? from->status : 0,
        .failover = local,
        .via = local ? from->provider->name : NULL,
        .probed = run->probes > 0,
        .verdict = run->check ? gate_stricter(run_verdict(run), run->script_verdict) : run_verdict(run),
        .failure = result == DEPUTY_RESULT_OK ? NULL : &run->failure,
        .trace = run->trace,
        .n_trace = run->n_trace,
        .us = loop_now_us() - run->start_us,
    };
    HASH_DEL(engine->runs, run);
    engine->depth++;
    run->sink.on_end(run->sink.user, &outcome);
    engine->depth--;
    free_run(run);
}

/* Hands on what is held, then lets the rest flow. */
static void flow(struct run *run)
{
    struct deputy_call *call = run->chosen;
    if (!run->head_sent && call->has_head) {
        run->head_sent = true;
        if (run->sink.on_head) {
            run->engine->depth++;
            run->sink.on_head(run->sink.user, call->status, call->head.list, call->head.n);
            run->engine->depth--;
        }
    }
    if (run->sink_paused)
        return;
    while (buffer_len(&call->held) > 0) {
        int code = DEPUTY_OK;
        if (run->sink.on_bytes) {
            run->engine->depth++;
            code = run->sink.on_bytes(run->sink.user, buffer_bytes(&call->held), buffer_len(&call->held));
            run->engine->depth--;
        }
        if (code == DEPUTY_PAUSE) {
            run->sink_paused = true;
            watch_deadline(run);
            return;
        }
        if (code != DEPUTY_OK) {
            run_cancel(run);
            return;
        }
        buffer_consume(&call->held, buffer_len(&call->held));
    }
    if (call->live) {
        call_resume(call);
        watch_deadline(run);
        return;
    }
    if (call->state == CALL_GOOD && call->failure.kind != DEPUTY_FAILURE_NONE) {
        run->failure = call->failure;
        finish(run, DEPUTY_RESULT_CUT);
    } else if (run->failure.kind != DEPUTY_FAILURE_NONE) {
        finish(run, call->truncated ? DEPUTY_RESULT_CUT : DEPUTY_RESULT_FAILED);
    } else {
        finish(run, DEPUTY_RESULT_OK);
    }
}

static void accept_reply(struct run *run, struct deputy_call *call)
{
    run->state = RUN_FLOWING;
    run->chosen = call;
    stop_legs(run, call);
    call_accept(call);
    flow(run);
}

/* The primary's error, as C kept it: its own bytes where it has some. */
static void deliver_failure(struct run *run, struct deputy_call *call)
{
    deputy_failure_kind kind = call->failure.kind;
    run->state = RUN_FLOWING;
    run->failure = call->failure;
    stop_legs(run, NULL);
    if (call->has_head && (kind == DEPUTY_FAILURE_STATUS || kind == DEPUTY_FAILURE_IN_BAND)) {
        run->chosen = call;
        flow(run);
    } else {
        finish(run, DEPUTY_RESULT_FAILED);
    }
}

static struct deputy_call *good_primary(const struct run *run)
{
    struct deputy_call *call;
    LL_FOREACH (run->calls, call)
        if (call->purpose == CALL_PRIMARY && call->state == CALL_GOOD)
            return call;
    return NULL;
}

/* No word of the script counts any more: the primary's reply, else its last failure, else ask it once. */
static void fall_back(struct run *run)
{
    struct deputy_call *good = good_primary(run);
    run->state = RUN_FALLBACK;
    if (run->check) {
        finish(run, DEPUTY_RESULT_OK);
        return;
    }
    if (good) {
        accept_reply(run, good);
        return;
    }
    if (!run->last_primary && !run_primary(run, &run->failure)) {
        finish(run, DEPUTY_RESULT_FAILED);
        return;
    }
    struct deputy_call *last = run->last_primary;
    if (last->state == CALL_GOOD)
        accept_reply(run, last);
    else if (last->state == CALL_BAD)
        deliver_failure(run, last);
    else
        watch_deadline(run);
}

void run_choose(struct run *run, enum run_choice choice, struct deputy_call *call)
{
    run->choice = choice;
    run->chosen = choice == CHOICE_REPLY ? call : NULL;
}

static void decide(struct run *run)
{
    struct deputy_call *chosen = run->chosen;
    run->chosen = NULL;
    if (run->check)
        finish(run, DEPUTY_RESULT_OK);
    else if (run->choice == CHOICE_REPLY && chosen && chosen->state == CALL_GOOD)
        accept_reply(run, chosen);
    else if (run->choice == CHOICE_FAILURE && run->last_primary && run->last_primary->state == CALL_BAD)
        deliver_failure(run, run->last_primary);
    else
        fall_back(run);
}

/* ---- the script ------------------------------------------------------------------------------------------------- */

static void script_failed(struct run *run, const char *message)
{
    run_note(run, "script_failed");
    engine_log(run->engine, DEPUTY_LOG_ERROR, "run %llu: the policy %s failed, so the primary's own answer counts: %s",
               (unsigned long long)run->id, policy_name(run->policy), message);
    stop_script(run, false);
    run->script_verdict = DEPUTY_UNREACHABLE;
    run->chosen = NULL;
    fall_back(run);
}

static void resume(struct run *run)
{
    char message[400];
    run->waiting = run->waits = false;
    switch (policy_resume(run->policy, &run->thread, &run->budget, message, sizeof(message))) {
    case POLICY_YIELDED:
        if (!run->waits) {
            script_failed(run, "it yielded by itself: only run's own functions may wait");
            return;
        }
        run->waiting = true;
        watch_deadline(run);
        return;
    case POLICY_RETURNED:
        stop_script(run, true);
        decide(run);
        return;
    case POLICY_FAILED:
        script_failed(run, message);
        return;
    }
}

static void begin(struct run *run)
{
    run->state = RUN_SCRIPT;
    if (!run->policy) {
        if (run->check) {
            run_probe(run);
            run->script_verdict = DEPUTY_ALLOWED; /* no script, so the gate's verdict stands */
            run->waiting = run->script_probe.pending;
            watch_deadline(run);
        }
        if (!run->waiting)
            fall_back(run);
        return;
    }
    policy_budget(&run->engine->options.limits, &run->budget);
    if (policy_start(run->policy, run->check, run, &run->thread) != DEPUTY_OK)
        script_failed(run, "out of memory for a coroutine");
    else
        resume(run);
}

/* The deadline has passed: the best that is known already, never a new call. */
static void end_late(struct run *run)
{
    struct deputy_call *good = good_primary(run);
    struct deputy_call *call;
    bool begun = run->state == RUN_FLOWING;
    if (begun && !run->forced && run->chosen && !run->chosen->live) {
        timer_again(run->timer, LATE_GRACE_MS); /* all has come; the reader gets a moment to take it */
        flow(run);
        return;
    }
    stop_legs(run, run->chosen);
    stop_script(run, false);
    if (!begun && !run->check && good && !good->live) {
        timer_again(run->timer, LATE_GRACE_MS);
        accept_reply(run, good);
        return;
    }
    LL_FOREACH (run->calls, call)
        if (!begun && call->purpose == CALL_PRIMARY && call->state == CALL_BAD)
            break;
    if (!begun && call) {
        timer_again(run->timer, LATE_GRACE_MS);
        deliver_failure(run, call);
        return;
    }
    failure_set(&run->failure, DEPUTY_FAILURE_DEADLINE, 0, "total", "the run's deadline of %llu ms passed",
                (unsigned long long)(run->total_us / 1000));
    run->script_verdict = DEPUTY_UNREACHABLE;
    finish(run, run->head_sent ? DEPUTY_RESULT_CUT : DEPUTY_RESULT_FAILED);
}

void run_step(struct run *run)
{
    if (run->cancelled) {
        failure_set(&run->failure, DEPUTY_FAILURE_CANCELLED, 0, "cancelled", "the run was cancelled");
        finish(run, DEPUTY_RESULT_CANCELLED);
        return;
    }
    if (run->late) {
        end_late(run);
        return;
    }
    renew(run);
    switch (run->state) {
    case RUN_QUEUED:
        begin(run);
        return;
    case RUN_SCRIPT:
        if (run->thread.co && run->waiting)
            resume(run);
        else if (!run->thread.co && !run->script_probe.pending)
            fall_back(run);
        return;
    case RUN_FALLBACK:
        fall_back(run);
        return;
    case RUN_FLOWING:
        flow(run);
        return;
    case RUN_OVER:
        return;
    }
}
