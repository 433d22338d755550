/* relay/errors.h - errors of our own, in the shape that the caller's library understands. */
#ifndef RELAY_ERRORS_H
#define RELAY_ERRORS_H

#include "relay/draft.h"

#include "deputy.h"
#include "http1/server.h"

/* Whose words an endpoint speaks. */
enum dialect { DIALECT_OPENAI, DIALECT_RESPONSES, DIALECT_MESSAGES };

/* Why a request is not answered as it was meant. status 0: there is none. */
struct problem {
    int status;
    const char *code;           /* static */
    const char *header, *value; /* one more field for the reply, static; or NULL */
    char message[512];
};

/* Fills it; always answers false, for `return problem_set(...)`. */
bool problem_set(struct problem *problem, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Whose failure it was. */
enum culprit { CULPRIT_PRIMARY, CULPRIT_LOCAL, CULPRIT_UPSTREAM };

/* Are its words ours? An upstream's own may repeat what it was asked: they are for no log. */
bool failure_is_ours(deputy_failure_kind kind);

/* The one table for failures without a status of their own. begun: the caller has the head of a reply. */
void problem_from_failure(struct problem *problem, const deputy_failure *failure, enum culprit culprit, bool begun);

/* The reply, with these headers too. The exchange is gone. */
void problem_reply(struct http1_exchange *exchange, enum dialect dialect, const struct problem *problem,
                   const struct http1_header *headers, size_t n_headers);

/* What ends a stream that cannot be finished: an event of its own, as the dialect spells it. */
void problem_event(struct draft *to, enum dialect dialect, const struct problem *problem);

#endif
