/* cli/progress.h - one line on a terminal that says what a run is doing. Where stderr is no terminal it stays silent.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "deputy.h"

struct progress {
    bool on;    /* there is a terminal to write to */
    bool shown; /* the line is there now */
};

void progress_init(struct progress *progress);

/* "primary claude 1.2 s": the leg, whom it asks, and since when. now_us counts from the run's start, as leg's times do.
 */
void progress_show(struct progress *progress, const deputy_trace *leg, const char *llm, uint64_t now_us);

/* "starting qwen 12.3 s: Loading weights": a provider whose server is not there yet, and what it wrote last (may be
 * "").
 */
void progress_show_server(struct progress *progress, const char *state, const char *provider, uint64_t ms,
                          const char *last_line);

/* Takes the line away, before anything else is written to the terminal. */
void progress_clear(struct progress *progress);

#endif
