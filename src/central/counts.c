#include "central/counts.h"

#include <string.h>

static const unsigned bounds_us[COUNTS_BUCKETS] = {25, 50, 100, 250, 500, 1000, 2500, 10000, 100000, 1000000};
static const char *const methods[COUNTS_METHODS] = {"GET", "HEAD", "POST", "PUT", "DELETE", "other"};

enum counts_method counts_method(const char *method)
{
    int at = 0;
    while (at < COUNTS_OTHER && strcmp(methods[at], method) != 0)
        at++;
    return (enum counts_method)at;
}

void counts_decision(struct counts *counts, uint64_t us)
{
    int at = 0;
    while (at < COUNTS_BUCKETS && us > bounds_us[at])
        at++;
    counts->decisions[at]++;
    counts->decisions_us += us;
}

static void begin(struct draft *to, const char *name, const char *type, const char *help)
{
    draft_print(to, "# HELP deputy_central_%s %s\n# TYPE deputy_central_%s %s\n", name, help, name, type);
}

static void add(struct draft *to, const char *name, const char *type, const char *help, uint64_t value)
{
    begin(to, name, type, help);
    draft_print(to, "deputy_central_%s %llu\n", name, (unsigned long long)value);
}

static void write_replies(const struct counts *counts, struct draft *to)
{
    begin(to, "replies_total", "counter", "Requests answered, by method and status.");
    for (int method = 0; method < COUNTS_METHODS; method++)
        for (int status = 0; status < COUNTS_STATUSES; status++)
            if (counts->replies[method][status] > 0)
                draft_print(to, "deputy_central_replies_total{method=\"%s\",status=\"%d\"} %llu\n", methods[method],
                            status, (unsigned long long)counts->replies[method][status]);
}

static void write_decisions(const struct counts *counts, struct draft *to)
{
    uint64_t sum = 0;
    begin(to, "decision_seconds", "histogram", "How long Lua and the database took to decide a request.");
    for (int at = 0; at < COUNTS_BUCKETS; at++) {
        sum += counts->decisions[at];
        draft_print(to, "deputy_central_decision_seconds_bucket{le=\"%g\"} %llu\n", bounds_us[at] / 1e6,
                    (unsigned long long)sum);
    }
    sum += counts->decisions[COUNTS_BUCKETS];
    draft_print(to, "deputy_central_decision_seconds_bucket{le=\"+Inf\"} %llu\n", (unsigned long long)sum);
    draft_print(to, "deputy_central_decision_seconds_sum %.6f\n", (double)counts->decisions_us / 1e6);
    draft_print(to, "deputy_central_decision_seconds_count %llu\n", (unsigned long long)sum);
}

void counts_write(const struct counts *counts, const struct http1_stats *stats, size_t lua_bytes, struct draft *to)
{
    write_replies(counts, to);
    write_decisions(counts, to);
    add(to, "lua_errors_total", "counter", "Decisions that ended in an error of the Lua code.", counts->lua_errors);
    add(to, "runs_cut_total", "counter", "Replies of upstreams that were begun and could not be finished.",
        counts->runs_cut);
    add(to, "runs_cancelled_total", "counter", "Inference requests whose caller left.", counts->runs_cancelled);
    add(to, "runs_in_flight", "gauge", "Inference requests under way.", counts->in_flight);
    add(to, "streams", "gauge", "Streams open.", counts->streams);
    add(to, "connections", "gauge", "Connections open.", stats->connections);
    add(to, "connections_total", "counter", "Connections accepted.", stats->accepted);
    add(to, "connections_refused_total", "counter", "Connections and requests refused before they were understood.",
        stats->refused);
    add(to, "received_bytes_total", "counter", "Bytes read from callers.", stats->bytes_in);
    add(to, "sent_bytes_total", "counter", "Bytes written to callers.", stats->bytes_out);
    add(to, "lua_bytes", "gauge", "Memory of the Lua state.", lua_bytes);
}
