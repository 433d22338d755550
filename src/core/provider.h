/* core/provider.h - a provider as the engine holds it. */
#ifndef CORE_PROVIDER_H
#define CORE_PROVIDER_H

#include "deputy/provider.h"

#include <stdatomic.h>

struct deputy_provider {
    atomic_uint refs; /* engines of several threads may share a provider */
    const deputy_provider_vtable *vtable;
    void *self;
    char name[]; /* ended by NUL */
};

#endif
