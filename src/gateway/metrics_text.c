/* As Prometheus reads it. */
#include "gateway/metrics_data.h"

#include <stdio.h>

static void head(struct draft *to, const char *name, const char *type, const char *help)
{
    draft_print(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Backslash, quote and line break are escaped; what is not UTF-8 becomes "?". */
void metrics_label(struct draft *to, const char *name, const char *value)
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

/* labels: without braces, not empty. */
static void buckets(struct draft *to, const char *name, const char *labels, const double bounds[METRICS_BOUNDS],
                    const struct histogram *h)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < METRICS_BOUNDS && bounds[i] > 0; i++) {
        sum += h->counts[i];
        draft_print(to, "%s_bucket{%s,le=\"%g\"} %llu\n", name, labels, bounds[i], (unsigned long long)sum);
    }
    sum = 0;
    for (size_t i = 0; i <= METRICS_BOUNDS; i++)
        sum += h->counts[i];
    draft_print(to, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, (unsigned long long)sum);
    draft_print(to, "%s_sum{%s} %.6f\n", name, labels, h->sum);
    draft_print(to, "%s_count{%s} %llu\n", name, labels, (unsigned long long)sum);
}

/* ---- runs ------------------------------------------------------------------------------------------------------- */

static void write_requests(const struct metrics *m, struct draft *to)
{
    head(to, "deputy_requests_total", "counter",
         "Runs that are over, by LLM, outcome and who answered (via empty: the primary).");
    for (size_t i = 0; i < m->n_llms; i++)
        for (size_t v = 0; v < m->llms[i].n_vias; v++)
            for (size_t r = 0; r < METRICS_RESULTS; r++) {
                const struct via *via = &m->llms[i].vias[v];
                if (via->outcomes[r] == 0)
                    continue;
                draft_word(to, "deputy_requests_total{");
                metrics_label(to, "llm", m->llms[i].name);
                draft_print(to, ",outcome=\"%s\",", metrics_outcomes[r]);
                metrics_label(to, "via", via->name);
                draft_print(to, "} %llu\n", (unsigned long long)via->outcomes[r]);
            }
}

struct writing {
    const struct metrics *metrics;
    struct draft *to;
    const char *name;
};

static void write_series(void *user, const struct series_key *key, const struct histogram *h)
{
    const struct writing *w = user;
    const struct metrics *m = w->metrics;
    struct draft labels = DRAFT(8 << 10);
    draft_print(&labels, "gen_ai_operation_name=\"%s\",", metrics_operations[key->operation]);
    metrics_label(&labels, "gen_ai_provider_name", m->providers[key->provider].name);
    draft_word(&labels, ",");
    metrics_label(&labels, "gen_ai_request_model", m->llms[key->llm].name);
    if (key->error > 0)
        draft_print(&labels, ",error_type=\"%s\"", m->errors[key->error]);
    if (labels.failed)
        w->to->failed = true;
    else
        buckets(w->to, w->name, labels.text, metrics_bounds[key->timing], h);
    draft_free(&labels);
}

static void write_timing(const struct metrics *m, enum timing timing, const char *name, const char *help,
                         struct draft *to)
{
    struct writing writing = {m, to, name};
    head(to, name, "histogram", help);
    metrics_each_series(m, timing, write_series, &writing);
}

static void write_histograms(const struct metrics *m, struct draft *to)
{
    char labels[32];
    head(to, "deputy_leg_duration_seconds", "histogram",
         "How long each call to an upstream took, until it was decided.");
    for (int i = 0; i < METRICS_LEGS; i++) {
        snprintf(labels, sizeof(labels), "leg=\"%s\"", deputy_leg_name((deputy_leg)i));
        buckets(to, "deputy_leg_duration_seconds", labels, metrics_leg_bounds, &m->legs[i]);
    }
    write_timing(m, TIMING_REQUEST, "gen_ai_server_request_duration_seconds",
                 "How long runs took, by who answered (central, or a local provider).", to);
    write_timing(m, TIMING_FIRST, "gen_ai_server_time_to_first_token_seconds",
                 "Streams: until the first bytes went out.", to);
    write_timing(m, TIMING_CALL, "gen_ai_client_operation_duration_seconds",
                 "How long calls to the central and to local providers took, until they were decided.", to);
}

/* ---- breakers --------------------------------------------------------------------------------------------------- */

static void write_breaker(const struct metrics *m, size_t llm, unsigned worker, struct draft *to)
{
    static const char *const states[] = {"closed", "half_open", "open"};
    const struct breaker_report *b = metrics_breaker(m, worker, m->llms[llm].name);
    size_t now = !b ? 0 : b->half_open ? 1 : 2;
    for (size_t i = 0; i < 3; i++) {
        draft_word(to, "deputy_breaker_state{");
        metrics_label(to, "llm", m->llms[llm].name);
        draft_print(to, ",state=\"%s\",worker=\"%u\"} %d\n", states[i], worker, i == now);
    }
}

static void write_breakers(const struct metrics *m, struct draft *to)
{
    head(to, "deputy_breaker_state", "gauge",
         "1 for the state in which the breaker of this LLM is. Each worker has breakers of its own.");
    for (size_t i = 1; i < m->n_llms; i++)
        for (unsigned w = 0; w < m->workers; w++)
            write_breaker(m, i, w, to);
    head(to, "deputy_breaker_until_timestamp_seconds", "gauge",
         "When a breaker that is open lets a run try again, in seconds since 1970.");
    for (size_t i = 1; i < m->n_llms; i++)
        for (unsigned w = 0; w < m->workers; w++) {
            const struct breaker_report *b = metrics_breaker(m, w, m->llms[i].name);
            if (!b || b->half_open || !b->until)
                continue;
            draft_word(to, "deputy_breaker_until_timestamp_seconds{");
            metrics_label(to, "llm", m->llms[i].name);
            draft_print(to, ",worker=\"%u\"} %.3f\n", w, (double)b->until / 1000);
        }
}

/* ---- what workers say ------------------------------------------------------------------------------------------- */

static void add_up(const struct metrics *m, struct worker_report *sum)
{
    for (unsigned w = 0; w < m->workers; w++) {
        const struct worker_report *r = &m->reports[w];
        sum->connections += r->connections;
        sum->accepted += r->accepted;
        sum->requests += r->requests;
        sum->bytes_in += r->bytes_in;
        sum->bytes_out += r->bytes_out;
        for (size_t i = 0; i < HTTP1_REASONS; i++)
            sum->refused_by[i] += r->refused_by[i];
    }
}

static void write_refused(const struct worker_report *sum, struct draft *to)
{
    const char *reason;
    int status;
    head(to, "deputy_http_refused_total", "counter",
         "Requests and connections that the HTTP server itself refused, by status and reason.");
    for (size_t i = 0; (reason = http1_reason(i, &status)) != NULL; i++)
        if (status > 0)
            draft_print(to, "deputy_http_refused_total{reason=\"%s\",status=\"%d\"} %llu\n", reason, status,
                        (unsigned long long)sum->refused_by[i]);
}

static void write_script_counters(const struct metrics *m, struct draft *to)
{
    head(to, "deputy_script_count_total", "counter", "What the policy's script counts by itself, for each worker.");
    for (unsigned w = 0; w < m->workers; w++)
        for (size_t i = 0; i < m->reports[w].counters.n; i++) {
            draft_word(to, "deputy_script_count_total{");
            metrics_label(to, "name", m->reports[w].counters.list[i].name);
            draft_print(to, ",worker=\"%u\"} %.17g\n", w, m->reports[w].counters.list[i].value);
        }
}

static void write_workers(const struct metrics *m, struct draft *to)
{
    struct worker_report sum = {0};
    add_up(m, &sum);
    gauge(to, "deputy_connections", "Connections of callers that are open.", sum.connections);
    counter(to, "deputy_connections_accepted_total", "Connections of callers.", sum.accepted);
    write_refused(&sum, to);
    counter(to, "deputy_http_requests_total", "Requests of all kinds.", sum.requests);
    counter(to, "deputy_http_received_bytes_total", "Bytes from callers.", sum.bytes_in);
    counter(to, "deputy_http_sent_bytes_total", "Bytes to callers.", sum.bytes_out);
    write_script_counters(m, to);
    gauge(to, "deputy_workers", "Worker threads.", m->workers);
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

static void write_all(const struct metrics *m, struct draft *to)
{
    write_requests(m, to);
    head(to, "deputy_probe_verdicts_total", "counter", "What the gate made of probes.");
    for (int i = 0; i < METRICS_VERDICTS; i++)
        draft_print(to, "deputy_probe_verdicts_total{verdict=\"%s\"} %llu\n", deputy_verdict_name((deputy_verdict)i),
                    (unsigned long long)m->verdicts[i]);
    counter(to, "deputy_failovers_total", "Runs that a local provider answered.", m->failovers);
    write_histograms(m, to);
    write_breakers(m, to);
    gauge(to, "deputy_runs_in_flight", "Runs that are not over.", m->in_flight);
    gauge(to, "deputy_streams_open", "Streams that are going out.", m->streams);
    head(to, "deputy_refused_total", "counter", "Requests that did not become a run, by status.");
    for (size_t i = 0; i < METRICS_STATUSES && m->refused[i].status; i++)
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
    head(to, "deputy_build_info", "gauge", "The version.");
    draft_print(to, "deputy_build_info{version=\"%s\"} 1\n", deputy_version());
    gauge(to, "process_start_time_seconds", "When the process was started, in seconds since 1970.",
          (int64_t)m->started);
}

void metrics_write(struct metrics *m, struct draft *to)
{
    pthread_mutex_lock(&m->lock);
    write_all(m, to);
    pthread_mutex_unlock(&m->lock);
}
