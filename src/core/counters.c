/* The counters that a script keeps: few, and never gone while the engine lives. */
#include "base/error.h"
#include "core/engine.h"

#include <stdlib.h>
#include <string.h>

int engine_count(deputy_engine *engine, const char *name, double n)
{
    struct counters *c = &engine->counters;
    for (size_t i = 0; i < c->n; i++) {
        if (strcmp(c->list[i].name, name) == 0) {
            c->list[i].value += n;
            return DEPUTY_OK;
        }
    }
    if (c->n == COUNTERS_MAX || strlen(name) > COUNTER_NAME_MAX)
        return DEPUTY_ELIMIT;
    struct counter *list = realloc(c->list, (c->n + 1) * sizeof(*list));
    if (!list)
        return DEPUTY_ENOMEM;
    c->list = list;
    strcpy(list[c->n].name, name);
    list[c->n].value = n;
    c->n++;
    return DEPUTY_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct counter *)a)->name, ((const struct counter *)b)->name);
}

int deputy_list_counters(const deputy_engine *engine, deputy_counter_fn each, void *user)
{
    const struct counters *c = &engine->counters;
    int answer = 0;
    if (c->n > 0)
        qsort(c->list, c->n, sizeof(*c->list), by_name);
    for (size_t i = 0; i < c->n && answer == 0; i++)
        answer = each(user, c->list[i].name, c->list[i].value);
    return answer;
}
