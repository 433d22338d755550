#include "gateway/metrics_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* uthash exits when memory runs out unless it is told not to; it then leaves the element out and says so here. */
#define HASH_NONFATAL_OOM            1
#define uthash_nonfatal_oom(element) ((element)->left_out = true)
#include <uthash.h>

struct series {
    struct series_key key;
    struct histogram histogram;
    bool left_out;
    UT_hash_handle hh;
};

const double metrics_leg_bounds[METRICS_BOUNDS] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                   1,     2.5,   5,    10,    30,   60,  120,  300};
/* As the conventions advise. */
const double metrics_bounds[TIMINGS][METRICS_BOUNDS] = {
    [TIMING_REQUEST] = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92},
    [TIMING_CALL] = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92},
    [TIMING_FIRST] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10},
};
const char *const metrics_outcomes[METRICS_RESULTS] = {"ok", "failed", "cut", "cancelled"};
const char *const metrics_operations[METRICS_OPERATIONS] = {"chat", "text_completion", "embeddings", "_OTHER"};

static const char central[] = "central", other[] = "_other";

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

/* ---- life ------------------------------------------------------------------------------------------------------- */

static struct llm *add_llm(struct metrics *m, const char *name)
{
    struct llm *llm = &m->llms[m->n_llms];
    llm->vias = calloc(METRICS_VIAS_MAX, sizeof(*llm->vias));
    if (!llm->vias)
        return NULL;
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
    m->n_providers = m->n_errors = 1;
    copy(m->providers[0].name, METRICS_NAME_SIZE, central);
    m->reports = calloc(workers, sizeof(*m->reports));
    if (!m->reports || !add_llm(m, other)) {
        metrics_free(m);
        return NULL;
    }
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    struct series *s = m->series, *next;
    HASH_CLEAR(hh, m->series); /* the table alone: what was in it is still linked */
    for (; s; s = next) {
        next = s->hh.next;
        free(s);
    }
    for (size_t i = 0; i < m->n_llms; i++)
        free(m->llms[i].vias);
    free(m->reports);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- names, as indices ------------------------------------------------------------------------------------------ */

static struct llm *find_llm(struct metrics *m, const struct run_report *r)
{
    for (size_t i = 0; i < m->n_llms; i++)
        if (strcmp(m->llms[i].name, r->llm) == 0)
            return &m->llms[i];
    size_t room = r->known ? METRICS_LLMS_MAX : r->outcome->result == DEPUTY_RESULT_OK ? METRICS_LLMS_OTHERS : 0;
    struct llm *added = m->n_llms <= room ? add_llm(m, r->llm) : NULL;
    return added ? added : &m->llms[0];
}

/* Two series of one name would make all of the text useless, and providers may have any name: one that is called
 * "_other" shares the place of those for which there is no room. */
static struct via *find_via(struct llm *llm, const char *name)
{
    for (size_t i = 0; i < llm->n_vias; i++)
        if (strcmp(llm->vias[i].name, name) == 0)
            return &llm->vias[i];
    if (llm->n_vias >= METRICS_VIAS_MAX - 1 && strcmp(name, other) != 0)
        return find_via(llm, other);
    copy(llm->vias[llm->n_vias].name, METRICS_NAME_SIZE, name);
    return &llm->vias[llm->n_vias++];
}

static const char *name_of_provider(const char *name)
{
    return strcmp(name, central) == 0 ? "central (local)" : name;
}

static size_t find_name(struct metrics *m, const char *name)
{
    for (size_t i = 1; i < m->n_providers; i++)
        if (strcmp(m->providers[i].name, name) == 0)
            return i;
    if (m->n_providers >= METRICS_PROVIDERS_MAX - 1 && strcmp(name, other) != 0)
        return find_name(m, other);
    copy(m->providers[m->n_providers].name, METRICS_NAME_SIZE, name);
    return m->n_providers++;
}

/* NULL is the central. */
static size_t find_provider(struct metrics *m, const char *name)
{
    return name ? find_name(m, name_of_provider(name)) : 0;
}

static size_t find_error(struct metrics *m, const char *kind, int status)
{
    char word[24];
    if (strcmp(kind, "ok") == 0)
        return 0;
    if (strcmp(kind, "status") == 0)
        snprintf(word, sizeof(word), "%d", status);
    else
        copy(word, sizeof(word), kind);
    for (size_t i = 1; i < m->n_errors; i++)
        if (strcmp(m->errors[i], word) == 0)
            return i;
    size_t at = m->n_errors < METRICS_ERRORS_MAX ? m->n_errors++ : METRICS_ERRORS_MAX - 1;
    copy(m->errors[at], sizeof(m->errors[at]), at + 1 < METRICS_ERRORS_MAX ? word : "_OTHER");
    return at;
}

static uint16_t operation_of(const char *endpoint)
{
    static const struct {
        const char *endpoint;
        uint16_t operation;
    } known[] = {{"chat/completions", 0}, {"responses", 0}, {"messages", 0}, {"completions", 1}, {"embeddings", 2}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i].endpoint, endpoint) == 0)
            return known[i].operation;
    return METRICS_OPERATIONS - 1;
}

/* ---- counting --------------------------------------------------------------------------------------------------- */

static void observe(struct histogram *h, const double bounds[METRICS_BOUNDS], double seconds)
{
    size_t i = 0;
    while (i < METRICS_BOUNDS && bounds[i] > 0 && seconds > bounds[i])
        i++;
    h->counts[i]++;
    h->sum += seconds;
}

static struct series *add_series(struct metrics *m, const struct series_key *key)
{
    struct series *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->key = *key;
    HASH_ADD(hh, m->series, key, sizeof(s->key), s);
    if (!s->left_out)
        return s;
    free(s);
    return NULL;
}

/* When there is no room for more, LLMs become "_other", of which there are few. */
static void observe_series(struct metrics *m, struct series_key key, double seconds)
{
    struct series *s;
    HASH_FIND(hh, m->series, &key, sizeof(key), s);
    if (!s && HASH_COUNT(m->series) >= METRICS_SERIES_MAX && key.llm != 0) {
        key.llm = 0;
        HASH_FIND(hh, m->series, &key, sizeof(key), s);
    }
    if (!s && HASH_COUNT(m->series) < 2 * METRICS_SERIES_MAX)
        s = add_series(m, &key);
    if (s)
        observe(&s->histogram, metrics_bounds[key.timing], seconds);
}

void metrics_each_series(const struct metrics *m, enum timing timing, series_fn each, void *user)
{
    for (const struct series *s = m->series; s; s = s->hh.next)
        if (s->key.timing == timing)
            each(user, &s->key, &s->histogram);
}

static double seconds_of(const deputy_trace *t)
{
    return t->end_us > t->start_us ? (double)(t->end_us - t->start_us) / 1e6 : 0;
}

static void see_call(struct metrics *m, struct llm *llm, const deputy_trace *t, struct series_key key, int64_t at)
{
    bool is_local = t->leg == DEPUTY_LEG_LOCAL, ok = strcmp(t->kind, "ok") == 0;
    key.timing = TIMING_CALL;
    key.provider = (uint16_t)find_provider(m, is_local ? t->provider : NULL);
    key.error = (uint16_t)find_error(m, t->kind, t->status);
    observe_series(m, key, seconds_of(t));
    m->providers[key.provider].answered += ok;
    m->providers[key.provider].failed += !ok;
    if (is_local) {
        llm->local_at = at;
        copy(llm->local_kind, sizeof(llm->local_kind), t->kind);
        copy(llm->local_name, sizeof(llm->local_name), t->provider);
    } else {
        llm->primary_at = at;
        llm->primary_status = t->status;
        copy(llm->primary_kind, sizeof(llm->primary_kind), t->kind);
    }
}

static void see_leg(struct metrics *m, struct llm *llm, const deputy_trace *t, const struct series_key *key, int64_t at)
{
    if (t->leg == DEPUTY_LEG_POLICY) {
        m->policy_errors += strcmp(t->kind, "script_failed") == 0;
        m->gate_refusals += strcmp(t->kind, "gate_refused") == 0;
        return;
    }
    observe(&m->legs[t->leg], metrics_leg_bounds, seconds_of(t));
    if (t->leg == DEPUTY_LEG_PROBE)
        m->verdicts[t->verdict]++;
    else
        see_call(m, llm, t, *key, at);
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
    k->outcome = metrics_outcomes[o->result];
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
        copy(k->legs[i].provider, METRICS_NAME_SIZE, o->trace[i].provider);
    }
}

void metrics_run_begun(struct metrics *m)
{
    pthread_mutex_lock(&m->lock);
    m->in_flight++;
    pthread_mutex_unlock(&m->lock);
}

static void see_run(struct metrics *m, const struct run_report *r, int64_t at)
{
    const deputy_outcome *o = r->outcome;
    struct llm *llm = find_llm(m, r);
    struct series_key key = {
        .timing = TIMING_REQUEST,
        .operation = operation_of(r->endpoint),
        .provider = (uint16_t)find_provider(m, o->via),
        .llm = (uint16_t)(llm - m->llms),
        .error = (uint16_t)find_error(m, o->failure ? deputy_failure_name(o->failure->kind) : "ok", o->status),
    };
    find_via(llm, o->via ? o->via : "")->outcomes[o->result]++;
    m->failovers += o->failover;
    observe_series(m, key, (double)o->us / 1e6);
    if (r->streamed && r->first_us > 0) {
        key.timing = TIMING_FIRST;
        key.error = 0;
        observe_series(m, key, (double)r->first_us / 1e6);
    }
    for (size_t i = 0; i < o->n_trace; i++)
        see_leg(m, llm, &o->trace[i], &key, at);
    keep(m, r, at);
}

void metrics_run_over(struct metrics *m, const struct run_report *r)
{
    int64_t at = now_ms();
    pthread_mutex_lock(&m->lock);
    m->in_flight--;
    if (strcmp(r->endpoint, "models") != 0)
        see_run(m, r, at);
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
    for (size_t i = 0; i < METRICS_STATUSES; i++) {
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

void metrics_provider(struct metrics *m, const char *name, uint64_t *answered, uint64_t *failed)
{
    *answered = *failed = 0;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 1; i < m->n_providers; i++) {
        if (strcmp(m->providers[i].name, name_of_provider(name)) != 0)
            continue;
        *answered = m->providers[i].answered;
        *failed = m->providers[i].failed;
    }
    pthread_mutex_unlock(&m->lock);
}

const struct breaker_report *metrics_breaker(const struct metrics *m, unsigned worker, const char *llm)
{
    const struct worker_report *r = &m->reports[worker];
    for (size_t i = 0; i < r->n_breakers; i++)
        if (strcmp(r->breakers[i].llm, llm) == 0)
            return &r->breakers[i];
    return NULL;
}
