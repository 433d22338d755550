#include "core/run.h"

int deputy_progress(const deputy_engine *engine, deputy_run_id id, deputy_trace *leg)
{
    struct run *run = NULL;
    if (!engine || !leg)
        return DEPUTY_EINVAL;
    HASH_FIND(hh, engine->runs, &id, sizeof(id), run);
    if (!run || run->n_trace == 0)
        return DEPUTY_ENOTFOUND;
    const deputy_trace *found = &run->trace[run->n_trace - 1];
    for (size_t i = run->n_trace; i-- > 0;) {
        if (run->trace[i].end_us == 0) {
            found = &run->trace[i];
            break;
        }
    }
    *leg = *found;
    return DEPUTY_OK;
}
