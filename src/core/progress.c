#include "core/run.h"

int deputy_progress(const deputy_engine *engine, deputy_run_id id, deputy_trace *leg)
{
    if (!engine || !leg)
        return DEPUTY_EINVAL;
    const struct run *run = engine_find_run(engine, id);
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

const char *deputy_via(const deputy_engine *engine, deputy_run_id id)
{
    const struct run *run = engine ? engine_find_run(engine, id) : NULL;
    const struct deputy_call *from = run && run->head_sent ? run->chosen : NULL;
    return from && from->purpose == CALL_LOCAL ? from->provider->name : NULL;
}
