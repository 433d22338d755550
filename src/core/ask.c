#include "core/ask.h"

#include "base/error.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* Those of legs that still wait for their first byte too: they ask again. A worker's thread may be reading its call's.
 */
static void take_all_permits(struct run *run)
{
    struct deputy_call *call;
    memset(run->permits, 0, sizeof(run->permits));
    LL_FOREACH (run->calls, call)
        if (call->worker)
            worker_revoke(call);
        else
            memset(&call->permit, 0, sizeof(call->permit));
}

static void take_permit(struct asking *a)
{
    struct run *run = a->run;
    if (a->other)
        return;
    if (a->number >= run->last_number) { /* the newest question, whatever came last */
        run->last_number = a->number;
        run->last_answer = a->answer;
    }
    if (gate_verdict(&a->answer) != DEPUTY_ALLOWED) { /* a newer no takes every older yes with it */
        if (a->number > run->denied)
            run->denied = a->number;
        take_all_permits(run);
    }
    if (a->renews || a->number <= run->denied)
        return;
    struct permit *slot = &run->permits[0];
    for (size_t i = 1; i < RUN_PERMITS_MAX; i++)
        if (run->permits[i].granted_us < slot->granted_us)
            slot = &run->permits[i];
    gate_grant(slot, &run->claim, &a->answer, a->asked_us);
}

static void answered(struct asking *a, const deputy_probe_answer *answer, uint64_t now_us)
{
    a->probe = NULL;
    a->pending = false;
    a->answer = *answer;
    trace_end_at(a->run, a->trace, answer->status, deputy_probe_kind_name(answer->kind), gate_verdict(answer), now_us);
    take_permit(a);
}

static void on_answer(void *user, const deputy_probe_answer *answer)
{
    struct asking *a = user;
    answered(a, answer, loop_now_us());
    run_wake(a->run);
}

static void send_probe(struct asking *a, uint32_t timeout_ms)
{
    struct run *run = a->run;
    const deputy_options *o = &run->engine->options;
    const char *llm = a->other ? a->llm : run->llm;
    deputy_probe_answer answer = {.kind = DEPUTY_PROBE_NO_TOKEN};
    if (!run->token) {
        answered(a, &answer, a->start_us);
    } else if (o->probe) {
        run->engine->depth++;
        o->probe(o->probe_user, llm, run->token, &answer);
        run->engine->depth--;
        uint64_t now = run->budget.now_us = loop_now_us();
        answer.us = now - a->start_us;
        run->budget.compute_us += answer.us; /* the host's time is not the script's */
        answer.content_type[sizeof(answer.content_type) - 1] = '\0';
        answered(a, &answer, now);
    } else if (!o->central_url) {
        answer.kind = DEPUTY_PROBE_CONNECT;
        answered(a, &answer, a->start_us);
    } else {
        struct probe_request request = {
            .central_url = o->central_url,
            .path = o->probe_path,
            .get = o->probe_get,
            .llm = llm,
            .token = run->token,
            .ca_file = o->ca_file,
            .connect_ms = o->timeouts.connect_ms,
            .timeout_ms = timeout_ms && timeout_ms < o->timeouts.probe_ms ? timeout_ms : o->timeouts.probe_ms,
            .max_header_bytes = o->limits.max_header_bytes,
            .user = a,
            .on_answer = on_answer,
        };
        if (probe_start(run->engine->loop, &request, &a->probe, &answer) != DEPUTY_OK || !a->probe)
            answered(a, &answer, a->start_us);
    }
}

static struct asking *ask(struct run *run, const char *llm, uint32_t timeout_ms, struct deputy_call *renews)
{
    bool other = llm && strcmp(llm, run->llm) != 0;
    size_t size = other ? strlen(llm) + 1 : 0;
    struct asking *a = run->probes < RUN_LEGS_MAX ? malloc(sizeof(*a) + size) : NULL;
    if (!a)
        return NULL;
    memset(a, 0, sizeof(*a));
    if (other)
        memcpy(a->llm, llm, size);
    a->run = run;
    a->renews = renews;
    a->other = other;
    a->pending = true;
    a->asked_us = gate_now_us();
    a->start_us = run_now(run);
    a->number = ++run->probes;
    a->trace = trace_begin(run, DEPUTY_LEG_PROBE, a->number, NULL, a->start_us);
    LL_PREPEND(run->askings, a);
    send_probe(a, timeout_ms);
    return a;
}

struct asking *ask_central(struct run *run, const char *llm, uint32_t timeout_ms)
{
    struct asking *a = ask(run, llm, timeout_ms, NULL);
    if (!a)
        memset(run->permits, 0, sizeof(run->permits));
    return a;
}

int ask_spend(struct run *run, struct permit *spent)
{
    uint64_t now_us = gate_now_us(), permit_us = (uint64_t)run->engine->options.permit_ms * 1000;
    int code = DEPUTY_EINVAL;
    for (size_t i = 0; i < RUN_PERMITS_MAX; i++) {
        int this_code = gate_spend(&run->permits[i], &run->claim, permit_us, now_us, spent);
        if (this_code == DEPUTY_OK)
            return DEPUTY_OK;
        if (this_code == DEPUTY_ESTALE)
            code = DEPUTY_ESTALE;
    }
    return code;
}

static void refuse(struct deputy_call *call, const char *why)
{
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_REFUSED, 0, "gate", "'%s' was not ready while its permit was fresh, and %s",
                call->provider->name, why);
    call_withdraw(call);
    call_fail(call, &failure);
}

static void renew(struct asking *a)
{
    struct run *run = a->run;
    struct deputy_call *call = a->renews;
    struct permit fresh = {0};
    uint64_t now = gate_now_us();
    a->renews = NULL;
    if (a->number > run->denied)
        gate_grant(&fresh, &run->claim, &a->answer, a->asked_us);
    if (gate_spend(&fresh, &run->claim, (uint64_t)run->engine->options.permit_ms * 1000, now, &call->permit) ==
        DEPUTY_OK)
        call_send_again(call);
    else
        refuse(call, "the central no longer allows it");
}

static bool is_being_renewed(const struct run *run, const struct deputy_call *call)
{
    const struct asking *a;
    LL_FOREACH (run->askings, a)
        if (a->renews == call)
            return true;
    return false;
}

/* Not while a worker's thread still has the call: it can be sent again only when that has come back. */
void ask_renewals(struct run *run)
{
    struct asking *a;
    struct deputy_call *call;
    LL_FOREACH (run->calls, call)
        if (call->stale && !call->worker && !is_being_renewed(run, call) && !ask(run, NULL, 0, call))
            refuse(call, "the central could not be asked again");
    LL_FOREACH (run->askings, a)
        if (a->renews && !a->pending)
            renew(a);
}

void ask_stop(struct run *run)
{
    struct asking *a;
    LL_FOREACH (run->askings, a) {
        a->renews = NULL;
        if (!a->pending)
            continue;
        probe_cancel(a->probe);
        a->probe = NULL;
        a->pending = false;
        trace_end(run, a->trace, 0, "cancelled", DEPUTY_UNREACHABLE);
    }
}

void ask_free(struct run *run)
{
    struct asking *a, *next;
    LL_FOREACH_SAFE (run->askings, a, next)
        free(a);
    run->askings = NULL;
}
