/* What the page shows of the past. */
#include "gateway/metrics_data.h"

static void member(struct draft *to, const char *name, const char *value)
{
    draft_print(to, "\"%s\":", name);
    draft_json(to, value && value[0] ? value : NULL);
    draft_word(to, ",");
}

static void write_kept_run(const struct kept_run *k, struct draft *to)
{
    draft_word(to, "{");
    member(to, "run", k->name);
    member(to, "llm", k->llm);
    member(to, "endpoint", k->endpoint);
    member(to, "outcome", k->outcome);
    member(to, "via", k->via);
    member(to, "verdict", k->verdict);
    member(to, "failure", k->failure);
    draft_print(to, "\"status\":%d,\"stream\":%s,\"at\":%lld,\"us\":%llu,\"firstUs\":%llu,\"legs\":[", k->status,
                k->streamed ? "true" : "false", (long long)k->at, (unsigned long long)k->us,
                (unsigned long long)k->first_us);
    for (size_t i = 0; i < k->n_legs; i++) {
        const deputy_trace *t = &k->legs[i].trace;
        draft_print(to, "%s{\"leg\":\"%s\",\"attempt\":%d,\"status\":%d,\"start\":%llu,\"end\":%llu,", i ? "," : "",
                    deputy_leg_name(t->leg), t->attempt, t->status, (unsigned long long)t->start_us,
                    (unsigned long long)t->end_us);
        member(to, "kind", k->legs[i].kind);
        member(to, "provider", k->legs[i].provider);
        draft_word(to, "\"verdict\":");
        draft_json(to, t->leg == DEPUTY_LEG_PROBE ? deputy_verdict_name(t->verdict) : NULL);
        draft_word(to, "}");
    }
    draft_word(to, "]}");
}

static void write_llm(const struct llm *llm, struct draft *to)
{
    draft_word(to, "{");
    member(to, "name", llm->name);
    member(to, "primaryKind", llm->primary_kind);
    member(to, "localKind", llm->local_kind);
    member(to, "localName", llm->local_name);
    draft_print(to, "\"primaryStatus\":%d,\"primaryAt\":%lld,\"localAt\":%lld}", llm->primary_status,
                (long long)llm->primary_at, (long long)llm->local_at);
}

static void write_breakers(const struct metrics *m, struct draft *to)
{
    bool any = false;
    for (unsigned w = 0; w < m->workers; w++)
        for (size_t i = 0; i < m->reports[w].n_breakers; i++) {
            const struct breaker_report *b = &m->reports[w].breakers[i];
            draft_word(to, any ? ",{" : "{");
            member(to, "llm", b->llm);
            member(to, "state", b->half_open ? "half_open" : "open");
            draft_print(to, "\"worker\":%u,\"until\":%lld}", w, (long long)b->until);
            any = true;
        }
}

/* What is wrong names files and addresses, which are the operator's business alone. */
static void write_reload_problem(const struct metrics *m, bool for_operators, struct draft *to)
{
    draft_json(to, !m->reload_failed ? NULL : for_operators ? m->reload_problem : "the log says why");
}

static void write_summary(const struct metrics *m, bool for_operators, struct draft *to)
{
    draft_print(to,
                "\"started\":%lld,\"inFlight\":%lld,\"streams\":%lld,\"workers\":%u,\"reloads\":%llu,"
                "\"reloadsFailed\":%llu,\"reloadProblem\":",
                (long long)m->started * 1000, (long long)m->in_flight, (long long)m->streams, m->workers,
                (unsigned long long)m->reloads[true], (unsigned long long)m->reloads[false]);
    write_reload_problem(m, for_operators, to);
    draft_word(to, ",\"breakers\":[");
    write_breakers(m, to);
    draft_word(to, "]");
}

void metrics_write_summary(struct metrics *m, struct draft *to)
{
    pthread_mutex_lock(&m->lock);
    write_summary(m, true, to);
    pthread_mutex_unlock(&m->lock);
}

void metrics_write_json(struct metrics *m, bool for_operators, struct draft *to)
{
    pthread_mutex_lock(&m->lock);
    write_summary(m, for_operators, to);
    draft_word(to, ",\"seen\":[");
    for (size_t i = 1; i < m->n_llms; i++) {
        draft_word(to, i > 1 ? "," : "");
        write_llm(&m->llms[i], to);
    }
    draft_word(to, "],\"runs\":[");
    for (size_t i = 0; i < m->n_runs; i++) {
        draft_word(to, i > 0 ? "," : "");
        write_kept_run(&m->runs[(m->newest + METRICS_RUNS_KEPT - i) % METRICS_RUNS_KEPT], to);
    }
    draft_word(to, "]");
    pthread_mutex_unlock(&m->lock);
}
