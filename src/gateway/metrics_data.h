/* gateway/metrics_data.h - what metrics.c counts, and metrics_text.c and metrics_json.c write. Everything under the
 * lock. */
#ifndef GATEWAY_METRICS_DATA_H
#define GATEWAY_METRICS_DATA_H

#include "gateway/metrics.h"

#include <pthread.h>
#include <time.h>

enum {
    METRICS_BOUNDS = 16,
    METRICS_RESULTS = 4,
    METRICS_LEGS = 3,
    METRICS_VERDICTS = 3,
    METRICS_OPERATIONS = 4,
    METRICS_STATUSES = 12,
    METRICS_PROVIDERS_MAX = 32,
    METRICS_ERRORS_MAX = 48,
    METRICS_NAME_SIZE = DEPUTY_NAME_SIZE
};

struct histogram {
    uint64_t counts[METRICS_BOUNDS + 1];
    double sum;
};

/* Histograms by OpenTelemetry's conventions for gen_ai. */
enum timing { TIMING_REQUEST, TIMING_FIRST, TIMING_CALL, TIMINGS };

/* What tells one histogram of a timing from another; all members are indices. */
struct series_key {
    uint16_t timing, operation, provider, llm, error, unused[3];
};

struct series;

struct via {
    char name[METRICS_NAME_SIZE]; /* "": the primary */
    uint64_t outcomes[METRICS_RESULTS];
};

struct llm {
    char name[METRICS_NAME_SIZE];
    size_t n_vias;
    struct via *vias;   /* METRICS_VIAS_MAX */
    int64_t primary_at; /* ms since 1970; 0: never asked */
    int primary_status;
    char primary_kind[24], local_kind[24], local_name[METRICS_NAME_SIZE];
    int64_t local_at;
};

struct kept_leg {
    deputy_trace trace;
    char kind[24], provider[METRICS_NAME_SIZE];
};

struct kept_run {
    char name[64], llm[METRICS_NAME_SIZE], via[METRICS_NAME_SIZE], endpoint[32], failure[24];
    const char *outcome, *verdict;
    int status;
    bool streamed;
    int64_t at; /* ms since 1970 */
    uint64_t us, first_us;
    size_t n_legs;
    struct kept_leg legs[METRICS_LEGS_KEPT];
};

/* Whom a call goes to: the first one is the central, the last one stands for all that found no room. */
struct called {
    char name[METRICS_NAME_SIZE];
    uint64_t answered, failed;
};

struct metrics {
    pthread_mutex_t lock;
    unsigned workers;
    time_t started;
    size_t n_llms;
    struct llm llms[METRICS_LLMS_MAX + 1]; /* the first one stands for all others */
    size_t n_providers, n_errors;
    struct called providers[METRICS_PROVIDERS_MAX];
    char errors[METRICS_ERRORS_MAX][24]; /* the first one: none */
    struct series *series;
    struct histogram legs[METRICS_LEGS];
    uint64_t verdicts[METRICS_VERDICTS], failovers, policy_errors, gate_refusals, reloads[2];
    struct {
        int status;
        uint64_t n;
    } refused[METRICS_STATUSES];
    int64_t in_flight, streams;
    bool reload_failed;
    char reload_problem[512];
    struct worker_report *reports;
    size_t n_runs, newest;
    struct kept_run runs[METRICS_RUNS_KEPT];
};

extern const char *const metrics_outcomes[METRICS_RESULTS];
extern const char *const metrics_operations[METRICS_OPERATIONS]; /* gen_ai.operation.name */
extern const double metrics_bounds[TIMINGS][METRICS_BOUNDS];     /* 0 ends them early */
extern const double metrics_leg_bounds[METRICS_BOUNDS];

/* Each series of this timing, in the order in which they came up. */
typedef void (*series_fn)(void *user, const struct series_key *key, const struct histogram *histogram);
void metrics_each_series(const struct metrics *metrics, enum timing timing, series_fn each, void *user);

/* The breaker of this LLM in this worker; NULL: closed. */
const struct breaker_report *metrics_breaker(const struct metrics *metrics, unsigned worker, const char *llm);

#endif
