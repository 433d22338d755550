/* cli/ask_report.h - how `deputy ask` says how a run ended. */
#ifndef CLI_ASK_REPORT_H
#define CLI_ASK_REPORT_H

#include "host.h"
#include "text.h"

struct ask_end {
    const struct host *host;
    const deputy_outcome *outcome;
    const char *llm;
    const struct text *reply; /* its bytes, as they came */
    bool has_stand_in;
};

/* The one object of --json on stdout. False without memory. */
bool report_json(const struct ask_end *end);

/* Why there is no answer, on stderr: the primary's error, and why nobody stood in. */
void report_failure(const struct ask_end *end);

/* Who answered, on stderr. */
void report_stand_in(const struct ask_end *end);

#endif
