/* core/central.h - the primary: the central's inference proxy, as a provider like any other. */
#ifndef CORE_CENTRAL_H
#define CORE_CENTRAL_H

#include "core/engine.h"

/* A provider that sends a run's request to the central as it came, with the caller's own token. */
int central_new(deputy_engine *engine, deputy_provider **provider, deputy_error *error);

#endif
