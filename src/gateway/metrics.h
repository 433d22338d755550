/* gateway/metrics.h - what has happened since the start, for the whole process: as Prometheus text, and as JSON for the
 * page. Any thread; a lock inside.
 *
 * Names follow Prometheus' conventions (base units, _total), and OpenTelemetry's gen_ai ones where they have a word for
 * it. LLM names come from callers, so that they are bounded: a name counts by itself when it has a stand-in or has been
 * answered once, up to METRICS_LLMS_MAX of them; all others are one. */
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include "relay/draft.h"

#include "deputy.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    METRICS_LLMS_MAX = 128,
    METRICS_VIAS_MAX = 16,
    METRICS_RUNS_KEPT = 64,
    METRICS_LEGS_KEPT = 12,
    METRICS_COUNTERS = 64
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

/* What one worker says about itself from time to time. */
struct worker_report {
    unsigned connections;
    uint64_t accepted, refused, requests, bytes_in, bytes_out;
    size_t n_counters; /* of its script */
    struct {
        char name[65];
        double value;
    } counters[METRICS_COUNTERS];
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

/* Members of the page's object: "runs" (newest first), "llms" (what was seen of each), "inFlight", "reload". */
void metrics_write_json(struct metrics *metrics, struct draft *to);

/* The problem of the last reload, or "" when it went well; for /readyz. */
bool metrics_last_reload_ok(struct metrics *metrics);

#endif
