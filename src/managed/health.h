/* managed/health.h - looks at a model server's health path, and what they mean: it is ready, or deaf. The owner's
 * thread. */
#ifndef MANAGED_HEALTH_H
#define MANAGED_HEALTH_H

#include "managed/owner.h"

/* A server was started: the first look comes soon, and each makes the next one come. */
void health_begin(struct deputy_managed *managed);

/* Looks now, for TIMER_LOOK, unless a look is under way. */
void health_look(struct deputy_managed *managed);

/* Nothing follows any more from the look that is under way. */
void health_stop(struct deputy_managed *managed);

#endif
