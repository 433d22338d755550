#include "core/provider.h"

#include "base/error.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>

int deputy_provider_new(const char *name, const deputy_provider_vtable *vtable, void *self, deputy_provider **provider,
                        deputy_error *error)
{
    if (!provider)
        return error_set(error, DEPUTY_EINVAL, "expected a place for the provider, got NULL");
    *provider = NULL;
    int code = url_name_check("provider name", name, error);
    if (code != DEPUTY_OK)
        return code;
    if (!vtable || vtable->abi != DEPUTY_PROVIDER_ABI)
        return error_set(
            error, DEPUTY_EABI,
            "provider '%s' was built for provider ABI %u, this engine has ABI %u: build it again with this "
            "engine's deputy/provider.h",
            name, vtable ? vtable->abi : 0, DEPUTY_PROVIDER_ABI);
    if (vtable->size < PROVIDER_SIZE_MIN)
        return error_set(error, DEPUTY_EABI,
                         "provider '%s' has a vtable of %u bytes, expected at least %zu: set its size to "
                         "sizeof(deputy_provider_vtable)",
                         name, vtable->size, PROVIDER_SIZE_MIN);
    if (!vtable->complete)
        return error_set(error, DEPUTY_EINVAL, "provider '%s' has no complete function", name);
    size_t len = strlen(name) + 1;
    deputy_provider *p = malloc(sizeof(*p) + len);
    if (!p)
        return error_set(error, DEPUTY_ENOMEM, "out of memory for provider '%s'", name);
    atomic_init(&p->refs, 1);
    p->vtable = vtable;
    p->self = self;
    memcpy(p->name, name, len);
    *provider = p;
    return DEPUTY_OK;
}

const char *deputy_provider_name(const deputy_provider *provider)
{
    return provider->name;
}

void *deputy_provider_self(const deputy_provider *provider)
{
    return provider->self;
}

deputy_provider *deputy_provider_ref(deputy_provider *provider)
{
    atomic_fetch_add_explicit(&provider->refs, 1, memory_order_relaxed);
    return provider;
}

void deputy_provider_unref(deputy_provider *provider)
{
    if (!provider || atomic_fetch_sub_explicit(&provider->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (provider->vtable->destroy)
        provider->vtable->destroy(provider->self);
    free(provider);
}
