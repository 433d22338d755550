/* core/ask.h - a run's questions to the central, and the permits that their answers leave behind. */
#ifndef CORE_ASK_H
#define CORE_ASK_H

#include "core/run.h"

/* One question. Belongs to the run; stays until the run ends, so that a script may wait for it at leisure. */
struct asking {
    struct asking *next;
    struct run *run;
    struct probe *probe;        /* under way, or NULL */
    struct deputy_call *renews; /* the engine's own question, for a call whose permit grew old; NULL: the script's */
    bool pending;
    bool other; /* about another LLM than the run's: leaves no permit */
    int number; /* within the run, from 1 */
    uint64_t start_us;
    uint64_t asked_us; /* the same on the gate's clock */
    size_t trace;
    deputy_probe_answer answer; /* counts when pending is false */
    char llm[];
};

/* Asks for the script. llm NULL: the run's own; timeout_ms 0: the configured one, which it can only shorten. The answer
 * may be there at once. NULL when out of memory or over the limit: then every permit is gone too. */
struct asking *ask_central(struct run *run, const char *llm, uint32_t timeout_ms);

/* Takes a permit for one dispatch: as gate_spend. */
int ask_spend(struct run *run, struct permit *spent);

/* Asks again for calls whose permit grew old, and sends or fails those whose answer has come. */
void ask_renewals(struct run *run);

/* Ends the questions under way. */
void ask_stop(struct run *run);
void ask_free(struct run *run);

#endif
