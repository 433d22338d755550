#include "core/registry.h"

#include "base/error.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>

/* uthash exits when memory runs out unless it is told not to; it then leaves the element out and says so here. */
#define HASH_NONFATAL_OOM             1
#define uthash_nonfatal_oom(element)  ((element)->left_out = true)
#define HASH_FUNCTION(key, len, hash) HASH_OAT(key, len, hash) /* names are short */
#include <uthash.h>

struct entry {
    deputy_provider *provider;
    bool left_out;
    UT_hash_handle hh;
};

/* What a run reads of it lies together: with many LLMs each line of memory costs it a wait. */
struct failover {
    UT_hash_handle hh;
    deputy_provider *only;  /* the list while it has one entry */
    deputy_provider **list; /* borrowed: an entry outlives every mention of its provider here */
    unsigned n;
    bool left_out;
    char llm[];
};

struct registry {
    unsigned refs;
    struct entry *providers;
    struct failover *failovers;
};

struct registry *registry_new(void)
{
    struct registry *r = calloc(1, sizeof(*r));
    if (r)
        r->refs = 1;
    return r;
}

struct registry *registry_ref(struct registry *registry)
{
    registry->refs++;
    return registry;
}

static void drop_failover(struct registry *r, struct failover *f)
{
    HASH_DEL(r->failovers, f);
    if (f->list != &f->only)
        free(f->list);
    free(f);
}

void registry_unref(struct registry *registry)
{
    struct failover *f, *next_failover;
    struct entry *e, *next_entry;
    if (!registry || --registry->refs > 0)
        return;
    HASH_ITER (hh, registry->failovers, f, next_failover)
        drop_failover(registry, f);
    HASH_ITER (hh, registry->providers, e, next_entry) {
        HASH_DEL(registry->providers, e); /* NOLINT(clang-analyzer-unix.Malloc): it takes the table for the element */
        deputy_provider_unref(e->provider);
        free(e);
    }
    free(registry);
}

static struct entry *find_entry(const struct registry *r, const char *name)
{
    struct entry *e = NULL;
    HASH_FIND_STR(r->providers, name, e);
    return e;
}

int registry_add(struct registry *registry, deputy_provider *provider, deputy_error *error)
{
    if (find_entry(registry, provider->name))
        return error_set(error, DEPUTY_EEXIST,
                         "a provider named '%s' is already registered: unregister it first or choose another name",
                         provider->name);
    struct entry *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while registering '%s'", provider->name);
    e->provider = provider;
    HASH_ADD_KEYPTR(hh, registry->providers, provider->name, strlen(provider->name), e);
    if (e->left_out) {
        free(e);
        return error_set(error, DEPUTY_ENOMEM, "out of memory while registering '%s'", provider->name);
    }
    return DEPUTY_OK;
}

static void forget(struct failover *f, const deputy_provider *provider)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < f->n; i++)
        if (f->list[i] != provider)
            f->list[kept++] = f->list[i];
    f->n = kept;
}

int registry_remove(struct registry *registry, const char *name, deputy_error *error)
{
    struct failover *f, *next;
    struct entry *e = find_entry(registry, name);
    if (!e)
        return error_set(error, DEPUTY_ENOTFOUND, "provider '%s' is not registered", name);
    HASH_ITER (hh, registry->failovers, f, next) {
        forget(f, e->provider);
        if (f->n == 0)
            drop_failover(registry, f);
    }
    HASH_DEL(registry->providers, e);
    deputy_provider_unref(e->provider);
    free(e);
    return DEPUTY_OK;
}

deputy_provider *registry_find(const struct registry *registry, const char *name)
{
    const struct entry *e = find_entry(registry, name);
    return e ? e->provider : NULL;
}

static struct failover *find_failover(const struct registry *r, const char *llm)
{
    struct failover *f = NULL;
    HASH_FIND_STR(r->failovers, llm, f);
    return f;
}

static struct failover *add_failover(struct registry *r, const char *llm)
{
    size_t len = strlen(llm);
    struct failover *f = calloc(1, sizeof(*f) + len + 1);
    if (!f)
        return NULL;
    memcpy(f->llm, llm, len + 1);
    f->list = &f->only;
    HASH_ADD_KEYPTR(hh, r->failovers, f->llm, len, f);
    if (f->left_out) {
        free(f);
        return NULL;
    }
    return f;
}

/* For one more. A new entry has its room. */
static bool make_room(struct failover *f)
{
    bool is_inside = f->list == &f->only;
    if (f->n == 0)
        return true;
    deputy_provider **list = realloc(is_inside ? NULL : f->list, (f->n + 1) * sizeof(deputy_provider *));
    if (!list)
        return false;
    if (is_inside)
        list[0] = f->only;
    f->list = list;
    return true;
}

int registry_map(struct registry *registry, const char *llm, const char *provider, deputy_error *error)
{
    int code = url_name_check("LLM name", llm, error);
    if (code != DEPUTY_OK)
        return code;
    const struct entry *e = provider ? find_entry(registry, provider) : NULL;
    if (!e)
        return error_set(error, DEPUTY_ENOTFOUND,
                         "provider '%s' is not registered: register it before it can stand in for '%s'",
                         provider ? provider : "", llm);
    struct failover *f = find_failover(registry, llm);
    for (size_t i = 0; f && i < f->n; i++)
        if (f->list[i] == e->provider)
            return DEPUTY_OK;
    if (!f)
        f = add_failover(registry, llm);
    if (!f || !make_room(f))
        return error_set(error, DEPUTY_ENOMEM, "out of memory while mapping '%s' to '%s'", llm, provider);
    f->list[f->n++] = e->provider;
    return DEPUTY_OK;
}

size_t registry_candidates(const struct registry *registry, const char *llm, deputy_provider *const **list)
{
    const struct failover *f = find_failover(registry, llm);
    *list = f ? f->list : NULL;
    return f ? f->n : 0;
}

static int by_llm(const void *a, const void *b)
{
    return strcmp((*(struct failover *const *)a)->llm, (*(struct failover *const *)b)->llm);
}

int registry_each_failover(const struct registry *registry, deputy_failover_fn each, void *user)
{
    size_t n = HASH_COUNT(registry->failovers), i = 0;
    struct failover **sorted, *f, *next;
    int answer = 0;
    if (n == 0)
        return 0;
    if (!(sorted = malloc(n * sizeof(struct failover *))))
        return DEPUTY_ENOMEM;
    HASH_ITER (hh, registry->failovers, f, next)
        sorted[i++] = f;
    qsort(sorted, n, sizeof(struct failover *), by_llm);
    for (i = 0; i < n && answer == 0; i++)
        for (size_t k = 0; k < sorted[i]->n && answer == 0; k++)
            answer = each(user, sorted[i]->llm, sorted[i]->list[k]->name);
    free(sorted);
    return answer;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(deputy_provider *const *)a)->name, (*(deputy_provider *const *)b)->name);
}

int registry_each_provider(const struct registry *registry, deputy_provider_fn each, void *user)
{
    size_t n = HASH_COUNT(registry->providers), i = 0;
    deputy_provider **sorted;
    struct entry *e, *next;
    int answer = 0;
    if (n == 0)
        return 0;
    if (!(sorted = malloc(n * sizeof(deputy_provider *))))
        return DEPUTY_ENOMEM;
    HASH_ITER (hh, registry->providers, e, next)
        sorted[i++] = e->provider;
    qsort(sorted, n, sizeof(deputy_provider *), by_name);
    for (i = 0; i < n && answer == 0; i++)
        answer = each(user, sorted[i]);
    free(sorted);
    return answer;
}
