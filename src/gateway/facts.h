/* gateway/facts.h - what is known of the local providers, for the page, the control socket and the metrics. */
#ifndef GATEWAY_FACTS_H
#define GATEWAY_FACTS_H

#include "gateway/worker.h"

/* For whose eyes: URLs and what servers say about themselves are for those who operate this gateway. */
enum facts_for { FACTS_FOR_CALLERS, FACTS_FOR_OPERATORS, FACTS_WITH_OUTPUT };

/* The members "failovers", "providers" and "counts" of an object, as the first worker's engine or this one has them. */
void facts_write_json(struct worker *worker, enum facts_for whom, struct draft *to);

/* Metrics of providers that the host starts and stops; nothing when there is none. */
void facts_write_metrics(struct worker *worker, struct draft *to);

#endif
