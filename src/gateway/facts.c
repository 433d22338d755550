#include "gateway/facts.h"

#include "deputy/provider.h"

#include <stdlib.h>
#include <string.h>

enum { LAST_LINES = 5, LAST_BYTES = 2048 };

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

/* Its end: some lines, and not many bytes of one. */
static const char *last_lines(const char *output)
{
    size_t len = output ? strlen(output) : 0, begin = len;
    for (int lines = 0; begin > 0 && len - begin < LAST_BYTES; begin--)
        if (output[begin - 1] == '\n' && begin < len && ++lines == LAST_LINES)
            break;
    while (begin < len && ((unsigned char)output[begin] & 0xc0) == 0x80)
        begin++; /* not in the middle of a character */
    return output ? output + begin : NULL;
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
    else
        member(to, "lastLines", last_lines(p->output));
}

static void write_provider(struct listing *l, const char *name)
{
    struct gateway_provider p;
    struct draft *to = l->to;
    uint64_t answered, failed;
    struct listing llms = {.to = to, .provider = name};
    describe(l->worker, name, l->whom != FACTS_FOR_CALLERS, &p);
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

enum measure { STATE, STARTS, CRASHES, STOPS, READY, ACTIVE, QUEUED, MEMORY, GPU, MEASURES };

static const struct {
    const char *name, *type, *help;
} measures[MEASURES] = {
    [STATE] = {"deputy_provider_state", "gauge", "1 for the state in which a provider is that deputy starts itself."},
    [STARTS] = {"deputy_provider_starts_total", "counter", "How often it was started."},
    [CRASHES] = {"deputy_provider_crashes_total", "counter", "How often it ended without being asked to."},
    [STOPS] = {"deputy_provider_stops_total", "counter", "How often it was stopped: idle, or by an operator."},
    [READY] = {"deputy_provider_start_duration_seconds", "gauge", "How long its last start took until it was ready."},
    [ACTIVE] = {"deputy_provider_active", "gauge", "Runs that it serves."},
    [QUEUED] = {"deputy_provider_queued", "gauge", "Callers that wait for it."},
    [MEMORY] = {"deputy_provider_memory_bytes", "gauge", "Memory of its processes."},
    [GPU] = {"deputy_provider_gpu_memory_bytes", "gauge", "What it has of the GPUs' memory, where that is known."},
};

/* All of them, looked at once: the memory of processes takes a while to add up. */
struct measured {
    struct worker *worker;
    size_t n, size;
    struct {
        const char *name;
        struct gateway_provider facts;
    } * each;
};

static int look_at(void *user, deputy_provider *provider)
{
    struct measured *all = user;
    struct gateway_provider facts;
    const char *name = deputy_provider_name(provider);
    if (!describe(all->worker, name, false, &facts) || !facts.managed)
        return 0;
    if (all->n == all->size) {
        size_t size = all->size * 2 + 8;
        void *grown = realloc(all->each, size * sizeof(all->each[0]));
        if (!grown)
            return 1;
        all->each = grown;
        all->size = size;
    }
    all->each[all->n].name = name;
    all->each[all->n++].facts = facts;
    return 0;
}

/* False: not known. */
static bool value_of(enum measure measure, const struct gateway_provider *p, double *value)
{
    const double values[MEASURES] = {
        [STARTS] = (double)p->starts,       [CRASHES] = (double)p->crashes, [STOPS] = (double)p->stops,
        [READY] = p->ready_seconds,         [ACTIVE] = p->active,           [QUEUED] = p->queued,
        [MEMORY] = (double)p->memory_bytes, [GPU] = (double)p->gpu_bytes,
    };
    *value = values[measure];
    return measure != GPU || p->gpu_bytes >= 0;
}

static void write_states(struct draft *to, const char *provider, const struct gateway_provider *p)
{
    static const char *const states[] = {"stopped", "starting", "ready", "draining", "stopping", "failed"};
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        draft_word(to, "deputy_provider_state{");
        metrics_label(to, "provider", provider);
        draft_print(to, ",state=\"%s\"} %d\n", states[i], strcmp(states[i], p->state) == 0);
    }
}

static void write_measure(const struct measured *all, enum measure measure, struct draft *to)
{
    double value;
    draft_print(to, "# HELP %s %s\n# TYPE %s %s\n", measures[measure].name, measures[measure].help,
                measures[measure].name, measures[measure].type);
    for (size_t i = 0; i < all->n; i++) {
        if (measure == STATE) {
            write_states(to, all->each[i].name, &all->each[i].facts);
        } else if (value_of(measure, &all->each[i].facts, &value)) {
            draft_print(to, "%s{", measures[measure].name);
            metrics_label(to, "provider", all->each[i].name);
            draft_print(to, "} %.17g\n", value);
        }
    }
}

void facts_write_metrics(struct worker *w, struct draft *to)
{
    struct measured all = {.worker = w};
    deputy_list_providers(w->current->engine, look_at, &all);
    for (enum measure each = 0; all.n > 0 && each < MEASURES; each++)
        write_measure(&all, each, to);
    free(all.each);
}
