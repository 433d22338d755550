#include "core/run.h"

#include <stdlib.h>
#include <string.h>

size_t trace_begin(struct run *run, deputy_leg leg, int attempt, const char *provider, uint64_t now_us)
{
    if (run->n_trace == run->trace_size) {
        size_t size = run->trace_size * 2 > RUN_TRACE_MAX ? RUN_TRACE_MAX : run->trace_size * 2;
        bool inside = run->trace == run->first_trace;
        deputy_trace *grown =
            size > run->trace_size ? realloc(inside ? NULL : run->trace, size * sizeof(*grown)) : NULL;
        if (!grown)
            return RUN_TRACE_MAX;
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

void trace_end_at(struct run *run, size_t at, int status, const char *kind, deputy_verdict verdict, uint64_t now_us)
{
    if (at >= run->n_trace)
        return;
    deputy_trace *t = &run->trace[at];
    t->end_us = now_us - run->start_us;
    t->status = status;
    t->kind = kind;
    t->verdict = verdict;
}

void trace_end(struct run *run, size_t at, int status, const char *kind, deputy_verdict verdict)
{
    trace_end_at(run, at, status, kind, verdict, run->budget.now_us = loop_now_us());
}

void run_note(struct run *run, const char *kind)
{
    uint64_t now = run->budget.now_us = loop_now_us(); /* how long the run took is never less */
    size_t at = trace_begin(run, DEPUTY_LEG_POLICY, 1, NULL, now);
    trace_end_at(run, at, 0, kind, DEPUTY_UNREACHABLE, now);
}
