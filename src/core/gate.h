/* core/gate.h - the check that a local provider is handed a run only on a permit.
 *
 * A permit is what a clean 2xx probe leaves behind. It is good for one dispatch, of the run, the LLM and the caller
 * that were probed, and for permit_us. The script can be stricter than the gate, never looser. */
#ifndef CORE_GATE_H
#define CORE_GATE_H

#include "deputy.h"

/* Whose probe it was, and whose dispatch it is to be: a run, and its LLM and caller as one number. */
struct claim {
    deputy_run_id run;
    uint64_t subject; /* 0 claims nothing */
};

/* All zero: no permit. */
struct permit {
    deputy_run_id run;
    uint64_t granted_us;
    uint64_t subject;
};

/* Microseconds of a clock that goes on while the machine sleeps: a permit grows old then too. All times below are its.
 */
uint64_t gate_now_us(void);

/* Without a token it claims nothing. */
struct claim gate_claim(deputy_run_id run, const char *llm, const char *token);

/* What C makes of a probe: ALLOWED only for a well-formed 2xx whose type is not HTML. */
deputy_verdict gate_verdict(const deputy_probe_answer *answer);

/* The stricter of two verdicts. */
deputy_verdict gate_stricter(deputy_verdict a, deputy_verdict b);

/* After each probe: leaves a permit when the verdict is ALLOWED and takes away any earlier one when it is not.
 * started_us is when the probe was sent: the central's word is never younger than that. */
void gate_grant(struct permit *permit, const struct claim *claim, const deputy_probe_answer *answer,
                uint64_t started_us);

/* Is it good for this claim at this time? */
bool gate_holds(const struct permit *permit, const struct claim *claim, uint64_t permit_us, uint64_t now_us);

/* The same, and uses it up: on DEPUTY_OK *spent is the permit, now this dispatch's own, and *permit is none. Otherwise
 * DEPUTY_ESTALE (there is one, but it is too old) or DEPUTY_EINVAL (there is none for this claim). */
int gate_spend(struct permit *permit, const struct claim *claim, uint64_t permit_us, uint64_t now_us,
               struct permit *spent);

#endif
