/* central/counts.h - what has happened since the start, as Prometheus text. No name of a caller or an LLM stands in it.
 */
#ifndef CENTRAL_COUNTS_H
#define CENTRAL_COUNTS_H

#include "relay/draft.h"

#include "http1/server.h"

#include <stddef.h>
#include <stdint.h>

enum { COUNTS_STATUSES = 600, COUNTS_BUCKETS = 10 };

enum counts_method { COUNTS_GET, COUNTS_HEAD, COUNTS_POST, COUNTS_PUT, COUNTS_DELETE, COUNTS_OTHER, COUNTS_METHODS };

/* Zeroed at first. */
struct counts {
    uint64_t replies[COUNTS_METHODS][COUNTS_STATUSES];
    uint64_t decisions[COUNTS_BUCKETS + 1], decisions_us;
    uint64_t lua_errors, runs_cut, runs_cancelled;
    unsigned in_flight, streams;
};

enum counts_method counts_method(const char *method);
void counts_decision(struct counts *counts, uint64_t us);
void counts_write(const struct counts *counts, const struct http1_stats *stats, size_t lua_bytes, struct draft *to);

#endif
