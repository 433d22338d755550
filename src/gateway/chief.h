/* gateway/chief.h - the first worker's thread, with what only it does: signals, reloads, the control socket. */
#ifndef GATEWAY_CHIEF_H
#define GATEWAY_CHIEF_H

#include "gateway/control.h"
#include "gateway/reload.h"
#include "gateway/worker.h"

#include <signal.h>

struct chief {
    struct gateway gateway;
    char listen[256]; /* as it was at the start: it stays */
    uv_signal_t term, interrupt, hangup;
    sigset_t mask; /* the caller's */
    unsigned stops;
    uint64_t late_ns; /* when the drain is to be over, as uv_hrtime says it */
    struct reload reload;
    struct control control;
};

static inline struct worker *chief_worker(struct chief *chief)
{
    return &chief->gateway.workers[0];
}

/* Nobody from elsewhere without a key. False: problem says what to do. */
bool chief_may_listen(const char *listen, const struct gateway_settings *settings, char *problem, size_t size);

#endif
