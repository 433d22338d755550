#include "core/run.h"

#include "base/error.h"
#include "core/ask.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

enum { LATE_GRACE_MS = 1000 };

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
    if (!run->timer) { /* nothing may wait without a deadline: it is over now, with what is known */
        run->late = run->graced = run->forced = true;
        run_wake(run);
    }
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void stop_leg(struct run *run, struct deputy_call *call)
{
    bool open = call->live || call->stale;
    call_withdraw(call);
    if (open && call->state == CALL_OPEN)
        trace_end(run, call->trace, call->status, "cancelled", DEPUTY_UNREACHABLE);
    call_stop(call);
}

static void stop_legs(struct run *run, const struct deputy_call *but)
{
    struct deputy_call *call;
    LL_FOREACH (run->calls, call)
        if (call != but)
            stop_leg(run, call);
    ask_stop(run);
}

static void stop_stand_ins(struct run *run)
{
    struct deputy_call *call;
    LL_FOREACH (run->calls, call)
        if (call->purpose == CALL_LOCAL)
            stop_leg(run, call);
    ask_stop(run);
}

void run_drop_open(struct run *run, const struct deputy_call *but)
{
    struct deputy_call *call;
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_CANCELLED, 0, "hedge", "another leg was faster");
    LL_FOREACH (run->calls, call) {
        if (call == but || (call->state != CALL_OPEN && !call->live))
            continue;
        call_withdraw(call);
        call->dropped = true;
        call_fail(call, &failure);
    }
    ask_stop(run);
}

static void on_nap_over(void *user)
{
    struct nap *nap = user;
    nap->over = true;
    run_wake(nap->run);
}

struct nap *run_nap(struct run *run, uint64_t ms)
{
    struct nap *nap;
    unsigned n = 0;
    LL_FOREACH (run->naps, nap)
        n++;
    nap = n < RUN_LEGS_MAX ? calloc(1, sizeof(*nap)) : NULL;
    if (!nap)
        return NULL;
    nap->run = run;
    nap->timer = timer_start(run->engine->timers, ms, on_nap_over, nap);
    if (!nap->timer) {
        free(nap);
        return NULL;
    }
    LL_PREPEND(run->naps, nap);
    return nap;
}

void run_wake_from(struct nap *nap)
{
    LL_DELETE(nap->run->naps, nap);
    timer_drop(nap->timer);
    free(nap);
}

deputy_verdict run_verdict(const struct run *run)
{
    return gate_verdict(&run->last_answer); /* none yet: zeroed, which allows nothing */
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
    struct nap *nap, *next_nap;
    struct deputy_call *call, *next;
    deputy_engine *engine = run->engine;
    if (run->queued)
        DL_DELETE(engine->ready, run);
    LL_FOREACH_SAFE (run->calls, call, next)
        call_free(call);
    ask_free(run);
    LL_FOREACH_SAFE (run->naps, nap, next_nap) {
        timer_drop(nap->timer);
        free(nap);
    }
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
        .us = run_now(run) - run->start_us,
    };
    engine_drop_run(engine, run);
    engine->depth++;
    run->sink.on_end(run->sink.user, &outcome);
    engine->depth--;
    free_run(run);
}

int run_offer(struct run *run, const void *bytes, size_t len)
{
    if (!run->sink.on_bytes)
        return DEPUTY_OK;
    run->resumed = false;
    run->engine->depth++;
    int code = run->sink.on_bytes(run->sink.user, bytes, len);
    run->engine->depth--;
    run->budget.now_us = 0;
    run->sink_paused = code == DEPUTY_PAUSE && !run->resumed;
    if (code == DEPUTY_PAUSE && run->resumed)
        run_wake(run);
    else if (code != DEPUTY_OK && code != DEPUTY_PAUSE)
        run_cancel(run);
    return code;
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
            run->budget.now_us = 0;
        }
    }
    if (run->sink_paused)
        return;
    while (buffer_len(&call->held) > 0) {
        int code = run_offer(run, buffer_bytes(&call->held), buffer_len(&call->held));
        if (code == DEPUTY_PAUSE)
            watch_deadline(run);
        if (code != DEPUTY_OK)
            return;
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
        if (call->purpose == CALL_PRIMARY && call->state == CALL_GOOD && !call->dropped)
            return call;
    return NULL;
}

/* The newest attempt that has a word of its own: not one that a hedge gave up. */
static struct deputy_call *last_primary(const struct run *run)
{
    struct deputy_call *call;
    LL_FOREACH (run->calls, call)
        if (call->purpose == CALL_PRIMARY && !call->dropped)
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
    stop_stand_ins(run);
    struct deputy_call *last = last_primary(run);
    if (!last)
        last = run_primary(run, 0, &run->failure);
    if (!last) {
        finish(run, DEPUTY_RESULT_FAILED);
        return;
    }
    if (last->state == CALL_GOOD)
        accept_reply(run, last);
    else if (last->state == CALL_BAD)
        deliver_failure(run, last);
    else
        watch_deadline(run);
}

struct deputy_call *run_find_call(const struct run *run, unsigned number)
{
    struct deputy_call *call;
    LL_FOREACH (run->calls, call)
        if (call->number == number)
            return call;
    return NULL;
}

void run_choose(struct run *run, enum run_choice choice, struct deputy_call *call)
{
    run->choice = choice;
    run->chosen = choice == CHOICE_REPLY ? call : NULL;
}

static void decide(struct run *run)
{
    struct deputy_call *chosen = run->chosen, *last = last_primary(run);
    run->chosen = NULL;
    if (run->check)
        finish(run, DEPUTY_RESULT_OK);
    else if (run->choice == CHOICE_REPLY && chosen && chosen->state == CALL_GOOD)
        accept_reply(run, chosen);
    else if (run->choice == CHOICE_FAILURE && last && last->state == CALL_BAD)
        deliver_failure(run, last);
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
    run->engine->resumed = run;
    enum policy_result result = policy_resume(run->policy, &run->thread, &run->budget, message, sizeof(message));
    run->engine->resumed = NULL;
    switch (result) {
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
        run->script_verdict = DEPUTY_ALLOWED; /* no script, so the gate's verdict stands */
        if (run->check)
            ask_central(run, NULL, 0);
        watch_deadline(run);
        run_wake(run);
        return;
    }
    policy_budget(&run->engine->options.limits, &run->budget);
    run->budget.deadline_us = run->start_us + run->total_us;
    if (policy_start(run->policy, run->check, run, &run->thread) != DEPUTY_OK)
        script_failed(run, "out of memory for a coroutine");
    else
        resume(run);
}

/* Once: a reader that takes nothing, however often it says it would, gets no more. */
static void grant_grace(struct run *run)
{
    if (!run->graced)
        timer_again(run->timer, LATE_GRACE_MS);
    run->graced = true;
}

/* The deadline has passed: the best that is known already, never a new call. */
static void end_late(struct run *run)
{
    struct deputy_call *good = good_primary(run);
    struct deputy_call *call;
    bool begun = run->state == RUN_FLOWING, is_whole = good && !good->live;
    if (begun && !run->forced && run->chosen && !run->chosen->live) {
        grant_grace(run); /* all has come; the reader gets a moment to take it */
        flow(run);
        return;
    }
    stop_legs(run, run->chosen);
    stop_script(run, false);
    if (!begun && !run->check && is_whole) {
        grant_grace(run);
        accept_reply(run, good);
        return;
    }
    LL_FOREACH (run->calls, call)
        if (!begun && call->purpose == CALL_PRIMARY && call->state == CALL_BAD && !call->dropped)
            break;
    if (!begun && call) {
        grant_grace(run);
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
    run->budget.now_us = 0;
    if (run->cancelled) {
        failure_set(&run->failure, DEPUTY_FAILURE_CANCELLED, 0, "cancelled", "the run was cancelled");
        finish(run, DEPUTY_RESULT_CANCELLED);
        return;
    }
    if (run->late) {
        end_late(run);
        return;
    }
    ask_renewals(run);
    switch (run->state) {
    case RUN_QUEUED:
        begin(run);
        return;
    case RUN_SCRIPT:
        if (run->thread.co && run->waiting)
            resume(run);
        else if (!run->thread.co && !(run->askings && run->askings->pending))
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
