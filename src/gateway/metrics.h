/* gateway/metrics.h - what has happened since the start, for the whole process: as Prometheus text, and as JSON for the
 * page. Any thread; a lock inside.
 *
 * Names follow Prometheus' conventions (base units, _total), and OpenTelemetry's semantic conventions for gen_ai where
 * they have a word for it: gen_ai.server.request.duration, gen_ai.server.time_to_first_token and
 * gen_ai.client.operation.duration, with gen_ai.operation.name, gen_ai.provider.name, gen_ai.request.model and
 * error.type as labels. LLM names come from callers, so that they are bounded: a name counts by itself when it has a
 * stand-in, up to METRICS_LLMS_MAX in all, or was answered once, up to METRICS_LLMS_OTHERS; the rest is one. */
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include "relay/draft.h"

#include "deputy.h"
#include "http1/server.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    METRICS_LLMS_MAX = 128,
    METRICS_LLMS_OTHERS = 64, /* without a stand-in: a central may answer any name */
    METRICS_VIAS_MAX = 16,
    METRICS_SERIES_MAX = 1024,
    METRICS_RUNS_KEPT = 64,
    METRICS_LEGS_KEPT = 12,
    METRICS_COUNTERS = 64,
    METRICS_BREAKERS = 128
};

struct metrics;

/* One run that is over. Strings are copied. */
struct run_report {
    const char *name; /* as in x-deputy-run */
    const char *llm, *endpoint;
    unsigned worker;
    bool known; /* the LLM has a stand-in */
    bool streamed;
    uint64_t first_us; /* until the first bytes of the reply, or 0 */
    const deputy_outcome *outcome;
};

/* A breaker that is not closed. One whose time is over lets the next run try: it is half open. */
struct breaker_report {
    char llm[DEPUTY_NAME_SIZE];
    bool half_open;
    int64_t until; /* ms since 1970, or 0 */
};

/* What a script counts. */
struct script_counters {
    size_t n;
    struct {
        char name[65];
        double value;
    } list[METRICS_COUNTERS];
};

/* What one worker says about itself from time to time. */
struct worker_report {
    unsigned connections;
    uint64_t accepted, refused, requests, bytes_in, bytes_out;
    uint64_t refused_by[HTTP1_REASONS];
    struct script_counters counters;
    size_t n_breakers;
    struct breaker_report breakers[METRICS_BREAKERS];
};

/* NULL when out of memory. */
struct metrics *metrics_new(unsigned workers);
void metrics_free(struct metrics *metrics);

void metrics_run_begun(struct metrics *metrics);
void metrics_run_over(struct metrics *metrics, const struct run_report *report);
void metrics_stream(struct metrics *metrics, int change);  /* streams open: +1, -1 */
void metrics_refused(struct metrics *metrics, int status); /* a request that never became a run */
void metrics_reloaded(struct metrics *metrics, bool ok, const char *problem);
void metrics_worker(struct metrics *metrics, unsigned worker, const struct worker_report *report);

/* The text exposition format, version 0.0.4. */
void metrics_write(struct metrics *metrics, struct draft *to);

/* A label: its name, and its value escaped as that format wants it. */
void metrics_label(struct draft *to, const char *name, const char *value);

/* The members of the page's object that come before "seen". */
void metrics_write_summary(struct metrics *metrics, struct draft *to);

/* Members of the page's object: "started", "inFlight", "streams", "workers", "reloads", "reloadsFailed",
 * "reloadProblem", "breakers" (those that are not closed), "seen" (what was seen of each LLM), "runs" (newest first).
 * What went wrong in a reload is for operators. */
void metrics_write_json(struct metrics *metrics, bool for_operators, struct draft *to);

/* How often a local provider was asked by a run: with and without success. */
void metrics_provider(struct metrics *metrics, const char *name, uint64_t *answered, uint64_t *failed);

/* Did the last reload go well? For /readyz. */
bool metrics_last_reload_ok(struct metrics *metrics);

#endif
