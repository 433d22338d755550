/* gateway/survey.h - which local providers are available, as the engine of one worker sees it. They are asked when
 * somebody wants to know, not more than once in a second; whoever asks waits for the answers, but not for long. */
#ifndef GATEWAY_SURVEY_H
#define GATEWAY_SURVEY_H

#include "deputy.h"
#include "http1/server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct worker;
struct waiting;

/* What a provider said. */
struct finding {
    char name[DEPUTY_NAME_SIZE];
    bool known, available, too_many;
    char why[256];   /* why it is not available */
    char *models;    /* each ended by NUL; NULL: none named */
    size_t n_models; /* bytes of all of them */
    int64_t at;      /* when that was, in ms since 1970 */
    uint64_t named;  /* when it named its models, in ms of the loop; 0: never */
};

/* Zeroed at first, but for survey_init. */
struct survey {
    uv_timer_t timer;
    struct worker *worker;
    struct finding *findings; /* in the order of their names */
    size_t n;
    unsigned round, station;
    size_t open;    /* providers of this round that have not answered */
    uint64_t begun; /* in ms of the loop; 0: never */
    struct waiting *waiting;
};

void survey_init(struct survey *survey, struct worker *worker);

/* Calls answer with the exchange once what is known is fresh, or patience_ms later; maybe at once. Not at all when the
 * caller leaves before (survey_forget). */
typedef void (*survey_answer)(struct worker *worker, struct http1_exchange *exchange);
void survey_ask(struct survey *survey, uint32_t patience_ms, struct http1_exchange *exchange, survey_answer answer);

/* The caller has left. False: this exchange waits for nothing here. */
bool survey_forget(struct survey *survey, const struct http1_exchange *exchange);

/* What is known of a provider, or NULL. */
const struct finding *survey_find(const struct survey *survey, const char *provider);

/* Closes the timer; nobody is answered any more. When the servers are closed, while the engine lives. */
void survey_close(struct survey *survey);
void survey_free(struct survey *survey);

#endif
