#include "gateway/metrics.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BOUNDS = 16, RESULTS = 4, LEGS = 3, VERDICTS = 3, ENDPOINTS = 6, STATUSES = 12, NAME_SIZE = DEPUTY_NAME_SIZE };

static const double bounds[BOUNDS] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};
static const char *const outcomes[RESULTS] = {"ok", "failed", "cut", "cancelled"};
static const struct {
    const char *endpoint, *operation; /* gen_ai.operation.name */
} operations[ENDPOINTS] = {
    {"chat/completions", "chat"}, {"completions", "text_completion"},
    {"embeddings", "embeddings"}, {"responses", "chat"},
    {"messages", "chat"},         {"", "other"},
};

struct histogram {
    uint64_t counts[BOUNDS + 1];
    double sum;
};

struct via {
    char name[NAME_SIZE]; /* "": the primary */
    uint64_t outcomes[RESULTS];
};

struct llm {
    char name[NAME_SIZE];
    size_t n_vias;
    struct via *vias;   /* METRICS_VIAS_MAX */
    int64_t primary_at; /* ms since 1970; 0: never asked */
    int primary_status;
    char primary_kind[24], local_kind[24], local_name[NAME_SIZE];
    int64_t local_at;
    unsigned char *passed_over; /* by worker: its last run asked the stand-in first */
};

struct kept_leg {
    deputy_trace trace;
    char kind[24], provider[NAME_SIZE];
};

struct kept_run {
    char name[64], llm[NAME_SIZE], via[NAME_SIZE], endpoint[32], failure[24];
    const char *outcome, *verdict;
    int status;
    bool streamed;
    int64_t at; /* ms since 1970 */
    uint64_t us, first_us;
    size_t n_legs;
    struct kept_leg legs[METRICS_LEGS_KEPT];
};

struct metrics {
    pthread_mutex_t lock;
    unsigned workers;
    time_t started;
    size_t n_llms;
    struct llm llms[METRICS_LLMS_MAX + 1]; /* the first one stands for all others */
    struct histogram legs[LEGS], duration[ENDPOINTS], first[ENDPOINTS];
    uint64_t verdicts[VERDICTS], failovers, policy_errors, gate_refusals, reloads[2];
    struct {
        int status;
        uint64_t n;
    } refused[STATUSES];
    int64_t in_flight, streams;
    bool reload_failed;
    char reload_problem[512];
    struct worker_report *reports;
    size_t n_runs, newest;
    struct kept_run runs[METRICS_RUNS_KEPT];
};

static void copy(char *to, size_t size, const char *from)
{
    size_t n = from ? strlen(from) : 0;
    if (n >= size)
        n = size - 1;
    if (n > 0)
        memcpy(to, from, n);
    to[n] = '\0';
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static struct llm *add_llm(struct metrics *m, const char *name)
{
    struct llm *llm = &m->llms[m->n_llms];
    llm->vias = calloc(METRICS_VIAS_MAX, sizeof(*llm->vias));
    llm->passed_over = calloc(m->workers, 1);
    if (!llm->vias || !llm->passed_over) {
        free(llm->vias);
        free(llm->passed_over);
        llm->vias = NULL;
        llm->passed_over = NULL;
        return NULL;
    }
    copy(llm->name, sizeof(llm->name), name);
    llm->n_vias = 1;
    m->n_llms++;
    return llm;
}

struct metrics *metrics_new(unsigned workers)
{
    struct metrics *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->workers = workers;
    m->started = time(NULL);
    m->reports = calloc(workers, sizeof(*m->reports));
    if (!m->reports || !add_llm(m, "_other")) {
        metrics_free(m);
        return NULL;
    }
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_llms; i++) {
        free(m->llms[i].vias);
        free(m->llms[i].passed_over);
    }
    free(m->reports);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- counting ------------------------------------------------------------------------------------------------------
 */

static void observe(struct histogram *h, double seconds)
{
    size_t i = 0;
    while (i < BOUNDS && seconds > bounds[i])
        i++;
    h->counts[i]++;
    h->sum += seconds;
}

static struct llm *find_llm(struct metrics *m, const struct run_report *r)
{
    for (size_t i = 1; i < m->n_llms; i++)
        if (strcmp(m->llms[i].name, r->llm) == 0)
            return &m->llms[i];
    bool proven = r->known || (r->outcome->result == DEPUTY_RESULT_OK && strcmp(r->endpoint, "models") != 0);
    struct llm *added = proven && m->n_llms <= METRICS_LLMS_MAX ? add_llm(m, r->llm) : NULL;
    return added ? added : &m->llms[0];
}

static struct via *find_via(struct llm *llm, const char *name)
{
    for (size_t i = 0; i < llm->n_vias; i++)
        if (strcmp(llm->vias[i].name, name ? name : "") == 0)
            return &llm->vias[i];
    size_t at = llm->n_vias < METRICS_VIAS_MAX ? llm->n_vias++ : METRICS_VIAS_MAX - 1;
    copy(llm->vias[at].name, NAME_SIZE, at + 1 < METRICS_VIAS_MAX ? name : "_other");
    return &llm->vias[at];
}

static size_t operation_of(const char *endpoint)
{
    size_t i = 0;
    while (i < ENDPOINTS - 1 && strcmp(operations[i].endpoint, endpoint) != 0)
        i++;
    return i;
}

static void see_leg(struct metrics *m, struct llm *llm, const deputy_trace *t, int64_t at)
{
    if (t->leg == DEPUTY_LEG_POLICY) {
        m->policy_errors += strcmp(t->kind, "script_failed") == 0;
        m->gate_refusals += strcmp(t->kind, "gate_refused") == 0;
        return;
    }
    observe(&m->legs[t->leg], t->end_us > t->start_us ? (double)(t->end_us - t->start_us) / 1e6 : 0);
    if (t->leg == DEPUTY_LEG_PROBE) {
        m->verdicts[t->verdict]++;
    } else if (t->leg == DEPUTY_LEG_PRIMARY) {
        llm->primary_at = at;
        llm->primary_status = t->status;
        copy(llm->primary_kind, sizeof(llm->primary_kind), t->kind);
    } else {
        llm->local_at = at;
        copy(llm->local_kind, sizeof(llm->local_kind), t->kind);
        copy(llm->local_name, sizeof(llm->local_name), t->provider);
    }
}

/* A breaker is the script's, which is seen only by what it does: an open one does not begin with the primary. */
static void see_order(struct llm *llm, unsigned worker, const deputy_outcome *o)
{
    for (size_t i = 0; i < o->n_trace; i++) {
        if (o->trace[i].leg == DEPUTY_LEG_POLICY)
            continue;
        llm->passed_over[worker] = o->trace[i].leg != DEPUTY_LEG_PRIMARY;
        return;
    }
}

static void keep(struct metrics *m, const struct run_report *r, int64_t at)
{
    const deputy_outcome *o = r->outcome;
    m->newest = (m->newest + 1) % METRICS_RUNS_KEPT;
    m->n_runs += m->n_runs < METRICS_RUNS_KEPT;
    struct kept_run *k = &m->runs[m->newest];
    copy(k->name, sizeof(k->name), r->name);
    copy(k->llm, sizeof(k->llm), r->llm);
    copy(k->endpoint, sizeof(k->endpoint), r->endpoint);
    copy(k->via, sizeof(k->via), o->via);
    copy(k->failure, sizeof(k->failure), o->failure ? deputy_failure_name(o->failure->kind) : "");
    k->outcome = outcomes[o->result];
    k->verdict = o->probed ? deputy_verdict_name(o->verdict) : NULL;
    k->status = o->status;
    k->streamed = r->streamed;
    k->at = at;
    k->us = o->us;
    k->first_us = r->first_us;
    k->n_legs = o->n_trace < METRICS_LEGS_KEPT ? o->n_trace : METRICS_LEGS_KEPT;
    for (size_t i = 0; i < k->n_legs; i++) {
        k->legs[i].trace = o->trace[i];
        copy(k->legs[i].kind, sizeof(k->legs[i].kind), o->trace[i].kind);
        copy(k->legs[i].provider, NAME_SIZE, o->trace[i].provider);
    }
}

void metrics_run_begun(struct metrics *m)
{
    pthread_mutex_lock(&m->lock);
    m->in_flight++;
    pthread_mutex_unlock(&m->lock);
}

void metrics_run_over(struct metrics *m, const struct run_report *r)
{
    const deputy_outcome *o = r->outcome;
    int64_t at = now_ms();
    size_t operation = operation_of(r->endpoint);
    pthread_mutex_lock(&m->lock);
    m->in_flight--;
    if (strcmp(r->endpoint, "models") != 0) {
        struct llm *llm = find_llm(m, r);
        find_via(llm, o->via)->outcomes[o->result]++;
        m->failovers += o->failover;
        for (size_t i = 0; i < o->n_trace; i++)
            see_leg(m, llm, &o->trace[i], at);
        see_order(llm, r->worker, o);
        observe(&m->duration[operation], (double)o->us / 1e6);
        if (r->streamed && r->first_us > 0)
            observe(&m->first[operation], (double)r->first_us / 1e6);
        keep(m, r, at);
    }
    pthread_mutex_unlock(&m->lock);
}

void metrics_stream(struct metrics *m, int change)
{
    pthread_mutex_lock(&m->lock);
    m->streams += change;
    pthread_mutex_unlock(&m->lock);
}

void metrics_refused(struct metrics *m, int status)
{
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < STATUSES; i++) {
        if (m->refused[i].status != status && m->refused[i].status != 0)
            continue;
        m->refused[i].status = status;
        m->refused[i].n++;
        break;
    }
    pthread_mutex_unlock(&m->lock);
}

void metrics_reloaded(struct metrics *m, bool ok, const char *problem)
{
    pthread_mutex_lock(&m->lock);
    m->reloads[ok]++;
    m->reload_failed = !ok;
    copy(m->reload_problem, sizeof(m->reload_problem), ok ? "" : problem);
    pthread_mutex_unlock(&m->lock);
}

bool metrics_last_reload_ok(struct metrics *m)
{
    pthread_mutex_lock(&m->lock);
    bool ok = !m->reload_failed;
    pthread_mutex_unlock(&m->lock);
    return ok;
}

void metrics_worker(struct metrics *m, unsigned worker, const struct worker_report *report)
{
    pthread_mutex_lock(&m->lock);
    m->reports[worker] = *report;
    pthread_mutex_unlock(&m->lock);
}

/* ---- Prometheus ----------------------------------------------------------------------------------------------------
 */

static void head(struct draft *to, const char *name, const char *type, const char *help)
{
    draft_print(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Backslash, quote and line break are escaped; what is not UTF-8 becomes "?". */
static void label(struct draft *to, const char *name, const char *value)
{
    draft_print(to, "%s=\"", name);
    while (*value) {
        size_t n = utf8_length(value);
        if (*value == '\n')
            draft_word(to, "\\n");
        else if (*value == '"' || *value == '\\')
            draft_print(to, "\\%c", *value);
        else if (n == 0)
            draft_word(to, "?");
        else
            draft_add(to, value, n);
        value += n ? n : 1;
    }
    draft_word(to, "\"");
}

static void counter(struct draft *to, const char *name, const char *help, uint64_t value)
{
    head(to, name, "counter", help);
    draft_print(to, "%s %llu\n", name, (unsigned long long)value);
}

static void gauge(struct draft *to, const char *name, const char *help, int64_t value)
{
    head(to, name, "gauge", help);
    draft_print(to, "%s %lld\n", name, (long long)value);
}

static void buckets(struct draft *to, const char *name, const char *label_name, const char *value,
                    const struct histogram *h)
{
    uint64_t sum = 0;
    for (size_t i = 0; i <= BOUNDS; i++) {
        sum += h->counts[i];
        draft_print(to, "%s_bucket{%s=\"%s\",le=\"", name, label_name, value);
        if (i < BOUNDS)
            draft_print(to, "%g\"} %llu\n", bounds[i], (unsigned long long)sum);
        else
            draft_print(to, "+Inf\"} %llu\n", (unsigned long long)sum);
    }
    draft_print(to, "%s_sum{%s=\"%s\"} %.6f\n", name, label_name, value, h->sum);
    draft_print(to, "%s_count{%s=\"%s\"} %llu\n", name, label_name, value, (unsigned long long)sum);
}

static void write_requests(const struct metrics *m, struct draft *to)
{
    head(to, "deputy_requests_total", "counter",
         "Runs that are over, by LLM, outcome and who answered (via empty: the primary).");
    for (size_t i = 0; i < m->n_llms; i++)
        for (size_t v = 0; v < m->llms[i].n_vias; v++)
            for (size_t r = 0; r < RESULTS; r++) {
                const struct via *via = &m->llms[i].vias[v];
                if (via->outcomes[r] == 0)
                    continue;
                draft_word(to, "deputy_requests_total{");
                label(to, "llm", m->llms[i].name);
                draft_print(to, ",outcome=\"%s\",", outcomes[r]);
                label(to, "via", via->name);
                draft_print(to, "} %llu\n", (unsigned long long)via->outcomes[r]);
            }
}

static void write_breakers(const struct metrics *m, struct draft *to)
{
    head(to, "deputy_breaker_open", "gauge",
         "1 while the last run for this LLM asked the stand-in first. Each worker has breakers of its own.");
    for (size_t i = 1; i < m->n_llms; i++)
        for (unsigned w = 0; w < m->workers; w++) {
            draft_word(to, "deputy_breaker_open{");
            label(to, "llm", m->llms[i].name);
            draft_print(to, ",worker=\"%u\"} %d\n", w, (int)m->llms[i].passed_over[w]);
        }
}

static void write_histograms(const struct metrics *m, struct draft *to)
{
    head(to, "deputy_leg_duration_seconds", "histogram",
         "How long each call to an upstream took, until it was decided.");
    for (int i = 0; i < LEGS; i++)
        buckets(to, "deputy_leg_duration_seconds", "leg", deputy_leg_name((deputy_leg)i), &m->legs[i]);
    head(to, "gen_ai_server_request_duration_seconds", "histogram", "How long runs took, by operation.");
    for (size_t i = 0; i < ENDPOINTS - 1; i++)
        if (i == 0 || m->duration[i].sum > 0)
            buckets(to, "gen_ai_server_request_duration_seconds", "deputy_endpoint", operations[i].endpoint,
                    &m->duration[i]);
    head(to, "gen_ai_server_time_to_first_token_seconds", "histogram", "Streams: until the first bytes went out.");
    for (size_t i = 0; i < ENDPOINTS - 1; i++)
        if (i == 0 || m->first[i].sum > 0)
            buckets(to, "gen_ai_server_time_to_first_token_seconds", "deputy_endpoint", operations[i].endpoint,
                    &m->first[i]);
}

static void write_workers(const struct metrics *m, struct draft *to)
{
    struct worker_report sum = {0};
    for (unsigned w = 0; w < m->workers; w++) {
        const struct worker_report *r = &m->reports[w];
        sum.connections += r->connections;
        sum.accepted += r->accepted;
        sum.refused += r->refused;
        sum.requests += r->requests;
        sum.bytes_in += r->bytes_in;
        sum.bytes_out += r->bytes_out;
    }
    gauge(to, "deputy_connections", "Connections of callers that are open.", sum.connections);
    counter(to, "deputy_connections_accepted_total", "Connections of callers.", sum.accepted);
    counter(to, "deputy_http_refused_total", "Requests and connections that the HTTP server itself refused.",
            sum.refused);
    counter(to, "deputy_http_requests_total", "Requests of all kinds.", sum.requests);
    counter(to, "deputy_http_received_bytes_total", "Bytes from callers.", sum.bytes_in);
    counter(to, "deputy_http_sent_bytes_total", "Bytes to callers.", sum.bytes_out);
    head(to, "deputy_script_count", "gauge", "What the policy's script counts by itself, for each worker.");
    for (unsigned w = 0; w < m->workers; w++)
        for (size_t i = 0; i < m->reports[w].n_counters; i++) {
            draft_word(to, "deputy_script_count{");
            label(to, "name", m->reports[w].counters[i].name);
            draft_print(to, ",worker=\"%u\"} %.17g\n", w, m->reports[w].counters[i].value);
        }
}

void metrics_write(struct metrics *m, struct draft *to)
{
    pthread_mutex_lock(&m->lock);
    write_requests(m, to);
    head(to, "deputy_probe_verdicts_total", "counter", "What the gate made of probes.");
    for (int i = 0; i < VERDICTS; i++)
        draft_print(to, "deputy_probe_verdicts_total{verdict=\"%s\"} %llu\n", deputy_verdict_name((deputy_verdict)i),
                    (unsigned long long)m->verdicts[i]);
    counter(to, "deputy_failovers_total", "Runs that a local provider answered.", m->failovers);
    write_histograms(m, to);
    write_breakers(m, to);
    gauge(to, "deputy_runs_in_flight", "Runs that are not over.", m->in_flight);
    gauge(to, "deputy_streams_open", "Streams that are going out.", m->streams);
    head(to, "deputy_refused_total", "counter", "Requests that did not become a run, by status.");
    for (size_t i = 0; i < STATUSES && m->refused[i].status; i++)
        draft_print(to, "deputy_refused_total{status=\"%d\"} %llu\n", m->refused[i].status,
                    (unsigned long long)m->refused[i].n);
    counter(to, "deputy_policy_errors_total", "Runs in which the script failed, so that the primary's answer counted.",
            m->policy_errors);
    counter(to, "deputy_gate_refusals_total", "Times that the gate withheld a local provider from a script.",
            m->gate_refusals);
    head(to, "deputy_reloads_total", "counter", "Reloads of configuration and policy.");
    draft_print(to, "deputy_reloads_total{result=\"ok\"} %llu\ndeputy_reloads_total{result=\"failed\"} %llu\n",
                (unsigned long long)m->reloads[true], (unsigned long long)m->reloads[false]);
    write_workers(m, to);
    gauge(to, "deputy_workers", "Worker threads.", m->workers);
    head(to, "deputy_build_info", "gauge", "The version.");
    draft_print(to, "deputy_build_info{version=\"%s\"} 1\n", deputy_version());
    gauge(to, "process_start_time_seconds", "When the process was started, in seconds since 1970.",
          (int64_t)m->started);
    pthread_mutex_unlock(&m->lock);
}

/* ---- for the page ---------------------------------------------------------------------------------------------------
 */

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

static void write_llm(const struct metrics *m, const struct llm *llm, struct draft *to)
{
    unsigned open = 0;
    for (unsigned w = 0; w < m->workers; w++)
        open += llm->passed_over[w];
    draft_word(to, "{");
    member(to, "name", llm->name);
    member(to, "primaryKind", llm->primary_kind);
    member(to, "localKind", llm->local_kind);
    member(to, "localName", llm->local_name);
    draft_print(to, "\"primaryStatus\":%d,\"primaryAt\":%lld,\"localAt\":%lld,\"breakersOpen\":%u}",
                llm->primary_status, (long long)llm->primary_at, (long long)llm->local_at, open);
}

void metrics_write_json(struct metrics *m, struct draft *to)
{
    pthread_mutex_lock(&m->lock);
    draft_print(
        to, "\"started\":%lld,\"inFlight\":%lld,\"streams\":%lld,\"workers\":%u,\"reloads\":%llu,\"reloadProblem\":",
        (long long)m->started * 1000, (long long)m->in_flight, (long long)m->streams, m->workers,
        (unsigned long long)m->reloads[true]);
    draft_json(to, m->reload_failed ? m->reload_problem : NULL);
    draft_word(to, ",\"seen\":[");
    for (size_t i = 1; i < m->n_llms; i++) {
        draft_word(to, i > 1 ? "," : "");
        write_llm(m, &m->llms[i], to);
    }
    draft_word(to, "],\"runs\":[");
    for (size_t i = 0; i < m->n_runs; i++) {
        draft_word(to, i > 0 ? "," : "");
        write_kept_run(&m->runs[(m->newest + METRICS_RUNS_KEPT - i) % METRICS_RUNS_KEPT], to);
    }
    draft_word(to, "]");
    pthread_mutex_unlock(&m->lock);
}
