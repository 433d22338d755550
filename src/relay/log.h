/* relay/log.h - structured lines on stderr, as logfmt or JSON. A line is built field by field; lines of one turn of a
 * worker's loop go out in one write. No body and no token ever stands in one. */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include "relay/draft.h"

#include "deputy.h"

#include <stdint.h>

/* One thread's. */
struct log {
    struct draft lines;
    size_t begun; /* where the line that is being built starts */
    int64_t lost; /* lines that found no room */
    bool json;
    deputy_log_level level;
};

void log_init(struct log *log, bool json, deputy_log_level level);

/* False when nobody wants to hear of that; then nothing else of the line may be called. Writes time, level and msg. */
bool log_begin(struct log *log, deputy_log_level level, const char *message);
void log_text(struct log *log, const char *name, const char *value); /* NULL: the field is left out */
void log_number(struct log *log, const char *name, int64_t value);
void log_bool(struct log *log, const char *name, bool value);
/* The trace of a run: an array of objects, or leg:attempt:status:kind:start+took with commas between. */
void log_legs(struct log *log, const deputy_trace *trace, size_t n);
void log_end(struct log *log);

/* A line with one text field, at once. */
void log_say(struct log *log, deputy_log_level level, const char *message, const char *name, const char *value);

/* Writes what waits, as far as stderr takes it at once. The rest, a MiB at most, waits for the next time; what finds no
 * room is counted, and the count is told. */
void log_flush(struct log *log);
void log_free(struct log *log);

#endif
