/* managed/health.h - one look at a model server's health path. The owner's thread. */
#ifndef MANAGED_HEALTH_H
#define MANAGED_HEALTH_H

#include "managed/owner.h"

/* Asks; drive_looked follows, at the latest after ms; from inside this call only when memory is out. One at a time. */
void health_look(struct deputy_managed *managed, uint32_t ms);

/* Nothing follows any more. */
void health_stop(struct deputy_managed *managed);

#endif
