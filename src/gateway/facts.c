#include "gateway/facts.h"

#include "deputy/provider.h"

#include <stdlib.h>
#include <string.h>

struct listing {
    struct worker *worker;
    struct draft *to;
    enum facts_for whom;
    bool any;
    const char *provider; /* whose LLMs are listed */
};

static void comma(struct listing *l)
{
    if (l->any)
        draft_word(l->to, ",");
    l->any = true;
}

static void member(struct draft *to, const char *name, const char *value)
{
    draft_print(to, ",\"%s\":", name);
    draft_json(to, value && value[0] ? value : NULL);
}

/* What the host knows; false: nothing. facts->output is the caller's. */
static bool describe(const struct worker *w, const char *provider, bool with_output, struct gateway_provider *facts)
{
    const struct gateway_host *host = w->gateway->host;
    memset(facts, 0, sizeof(*facts));
    return host->describe &&
           host->describe(host->user, w->current->setup->loaded, provider, with_output, facts) == DEPUTY_OK;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

static int add_failover(void *user, const char *llm, const char *provider)
{
    struct listing *l = user;
    comma(l);
    draft_word(l->to, "{\"llm\":");
    draft_json(l->to, llm);
    draft_word(l->to, ",\"provider\":");
    draft_json(l->to, provider);
    draft_word(l->to, "}");
    return 0;
}

static int add_llm(void *user, const char *llm, const char *provider)
{
    struct listing *l = user;
    if (strcmp(provider, l->provider) != 0)
        return 0;
    comma(l);
    draft_json(l->to, llm);
    return 0;
}

static int add_count(void *user, const char *name, double value)
{
    struct listing *l = user;
    comma(l);
    draft_json(l->to, name);
    draft_print(l->to, ":%.17g", value);
    return 0;
}

static void write_models(const struct finding *f, struct draft *to)
{
    draft_word(to, ",\"models\":[");
    for (size_t at = 0; f && f->available && at < f->n_models; at += strlen(f->models + at) + 1) {
        draft_word(to, at > 0 ? "," : "");
        draft_json(to, f->models + at);
    }
    draft_word(to, "]");
}

/* available is null while nobody knows. */
static void write_finding(const struct finding *f, enum facts_for whom, struct draft *to)
{
    const char *why = f && f->too_many ? "it names more models than are kept" : f ? f->why : NULL;
    draft_print(to, ",\"available\":%s", !f ? "null" : f->available ? "true" : "false");
    if (f)
        draft_print(to, ",\"askedAt\":%lld", (long long)f->at);
    if (whom == FACTS_FOR_CALLERS)
        return;
    member(to, "error", why);
    write_models(f, to);
}

static void write_managed(const struct gateway_provider *p, enum facts_for whom, struct draft *to)
{
    draft_print(to, ",\"managed\":%s", p->managed ? "true" : "false");
    if (!p->managed)
        return;
    member(to, "state", p->state);
    draft_print(to, ",\"since\":%lld,\"starts\":%llu,\"crashes\":%llu,\"readySeconds\":%.3f", (long long)p->since,
                (unsigned long long)p->starts, (unsigned long long)p->crashes, p->ready_seconds);
    draft_print(to, ",\"stops\":%llu,\"uptimeMs\":%llu,\"active\":%u,\"queued\":%u", (unsigned long long)p->stops,
                (unsigned long long)p->uptime_ms, (unsigned)p->active, (unsigned)p->queued);
    member(to, "lastExit", p->last_exit);
    if (whom == FACTS_FOR_CALLERS)
        return;
    draft_print(to, ",\"pid\":%lld,\"port\":%u,\"memoryBytes\":%llu,\"gpuBytes\":", (long long)p->pid,
                (unsigned)p->port, (unsigned long long)p->memory_bytes);
    if (p->gpu_bytes < 0)
        draft_word(to, "null");
    else
        draft_print(to, "%lld", (long long)p->gpu_bytes);
    member(to, "problem", p->problem);
    if (whom == FACTS_WITH_OUTPUT)
        member(to, "output", p->output);
}

static void write_provider(struct listing *l, const char *name)
{
    struct gateway_provider p;
    struct draft *to = l->to;
    uint64_t answered, failed;
    struct listing llms = {.to = to, .provider = name};
    describe(l->worker, name, l->whom == FACTS_WITH_OUTPUT, &p);
    metrics_provider(l->worker->gateway->metrics, name, &answered, &failed);
    draft_word(to, "{\"name\":");
    draft_json(to, name);
    member(to, "type", p.type);
    if (l->whom != FACTS_FOR_CALLERS) {
        member(to, "url", p.url);
        member(to, "model", p.model);
    }
    draft_word(to, ",\"failoverFor\":[");
    deputy_list_failovers(l->worker->current->engine, add_llm, &llms);
    draft_print(to, "],\"answered\":%llu,\"failed\":%llu", (unsigned long long)answered, (unsigned long long)failed);
    write_finding(survey_find(&l->worker->survey, name), l->whom, to);
    write_managed(&p, l->whom, to);
    draft_word(to, "}");
    free(p.output);
}

static int add_provider(void *user, deputy_provider *provider)
{
    comma(user);
    write_provider(user, deputy_provider_name(provider));
    return 0;
}

void facts_write_json(struct worker *w, enum facts_for whom, struct draft *to)
{
    const deputy_engine *engine = w->current->engine;
    struct listing failovers = {.to = to}, counts = {.to = to}, providers = {.worker = w, .to = to, .whom = whom};
    draft_word(to, "\"failovers\":[");
    deputy_list_failovers(engine, add_failover, &failovers);
    draft_word(to, "],\"providers\":[");
    deputy_list_providers(engine, add_provider, &providers);
    draft_word(to, "],\"counts\":{");
    deputy_list_counters(engine, add_count, &counts);
    draft_word(to, "}");
}

/* ---- Prometheus ------------------------------------------------------------------------------------------------- */

enum measure { STATE, STARTS, CRASHES, READY, MEMORY, MEASURES };

static const struct {
    const char *name, *type, *help;
} measures[MEASURES] = {
    [STATE] = {"deputy_provider_state", "gauge", "1 for the state in which a provider is that deputy starts itself."},
    [STARTS] = {"deputy_provider_starts_total", "counter", "How often it was started."},
    [CRASHES] = {"deputy_provider_crashes_total", "counter", "How often it ended without being asked to."},
    [READY] = {"deputy_provider_start_duration_seconds", "gauge", "How long its last start took until it was ready."},
    [MEMORY] = {"deputy_provider_memory_bytes", "gauge", "Memory of its processes."},
};

struct measuring {
    struct worker *worker;
    struct draft *to;
    enum measure measure;
    bool any;
};

static void write_value(const struct measuring *m, const struct gateway_provider *p)
{
    switch (m->measure) {
    case STARTS:
        draft_print(m->to, "} %llu\n", (unsigned long long)p->starts);
        break;
    case CRASHES:
        draft_print(m->to, "} %llu\n", (unsigned long long)p->crashes);
        break;
    case READY:
        draft_print(m->to, "} %.3f\n", p->ready_seconds);
        break;
    case MEMORY:
        draft_print(m->to, "} %llu\n", (unsigned long long)p->memory_bytes);
        break;
    case STATE:
    case MEASURES:
        break;
    }
}

static void write_states(const struct measuring *m, const char *provider, const struct gateway_provider *p)
{
    static const char *const states[] = {"stopped", "starting", "ready", "draining", "stopping", "failed"};
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        draft_word(m->to, "deputy_provider_state{");
        metrics_label(m->to, "provider", provider);
        draft_print(m->to, ",state=\"%s\"} %d\n", states[i], strcmp(states[i], p->state) == 0);
    }
}

static int measure(void *user, deputy_provider *provider)
{
    struct measuring *m = user;
    struct gateway_provider p;
    const char *name = deputy_provider_name(provider);
    if (!describe(m->worker, name, false, &p) || !p.managed)
        return 0;
    if (!m->any)
        draft_print(m->to, "# HELP %s %s\n# TYPE %s %s\n", measures[m->measure].name, measures[m->measure].help,
                    measures[m->measure].name, measures[m->measure].type);
    m->any = true;
    if (m->measure == STATE) {
        write_states(m, name, &p);
        return 0;
    }
    draft_print(m->to, "%s{", measures[m->measure].name);
    metrics_label(m->to, "provider", name);
    write_value(m, &p);
    return 0;
}

void facts_write_metrics(struct worker *w, struct draft *to)
{
    for (enum measure each = 0; each < MEASURES; each++) {
        struct measuring measuring = {.worker = w, .to = to, .measure = each};
        deputy_list_providers(w->current->engine, measure, &measuring);
    }
}
