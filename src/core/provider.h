/* core/provider.h - a provider as the engine holds it. */
#ifndef CORE_PROVIDER_H
#define CORE_PROVIDER_H

#include "deputy/provider.h"

#include <stdatomic.h>
#include <stddef.h>

/* The vtable as it was first: no provider has less. */
#define PROVIDER_SIZE_MIN offsetof(deputy_provider_vtable, primary_failed)

/* Whether a vtable reaches as far as this member, which came later, and has it. */
#define PROVIDER_HAS(vtable, member)                                                                                   \
    ((vtable)->size >= offsetof(deputy_provider_vtable, member) + sizeof((vtable)->member) && (vtable)->member)

struct deputy_provider {
    atomic_uint refs; /* engines of several threads may share a provider */
    const deputy_provider_vtable *vtable;
    void *self;
    char name[]; /* ended by NUL */
};

#endif
