/* core/registry.h - the providers by name, and the failover map: which of them may stand in for which LLM. Both are
 * hashes: what a run looks up costs the same with ten entries and with ten thousand. One thread; reference-counted,
 * since several routers of one Lua state share a registry. */
#ifndef CORE_REGISTRY_H
#define CORE_REGISTRY_H

#include "core/provider.h"

struct registry;

struct registry *registry_new(void); /* one reference; NULL when out of memory */
struct registry *registry_ref(struct registry *registry);
void registry_unref(struct registry *registry); /* NULL is allowed */

/* Takes over the caller's reference on DEPUTY_OK; DEPUTY_EEXIST when the name is taken; DEPUTY_ENOMEM. */
int registry_add(struct registry *registry, deputy_provider *provider, deputy_error *error);

/* Drops the provider and every entry of the failover map that points at it. DEPUTY_ENOTFOUND. */
int registry_remove(struct registry *registry, const char *name, deputy_error *error);

/* Borrowed, or NULL. */
deputy_provider *registry_find(const struct registry *registry, const char *name);

/* Lets a registered provider stand in for llm, after those that already may. DEPUTY_ENOTFOUND ("not registered"),
 * DEPUTY_EINVAL, DEPUTY_ENOMEM. */
int registry_map(struct registry *registry, const char *llm, const char *provider, deputy_error *error);

/* The providers that may stand in for llm, in order; borrowed until the registry changes. Their number is returned. */
size_t registry_candidates(const struct registry *registry, const char *llm, deputy_provider *const **list);

/* Sorted walks; each answers 0 to go on, anything else ends the walk and is returned. DEPUTY_ENOMEM. */
int registry_each_failover(const struct registry *registry, deputy_failover_fn each, void *user);
int registry_each_provider(const struct registry *registry, deputy_provider_fn each, void *user);

#endif
