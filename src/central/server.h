/* central/server.h - what the parts of the control plane share. One thread's. */
#ifndef CENTRAL_SERVER_H
#define CENTRAL_SERVER_H

#include "central/app.h"
#include "central/central.h"
#include "central/counts.h"
#include "central/upstreams.h"
#include "relay/drain.h"
#include "relay/log.h"
#include "relay/relay.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum { REQUEST_ID_SIZE = 32 };

struct central {
    struct central_settings settings; /* defaults filled in */
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t second, tick;
    uv_prepare_t prepare;
    struct http1_server *server;
    deputy_engine *engine;
    struct app *app;
    struct upstreams upstreams;
    struct relays relays;
    struct drain drain;
    struct log log;
    struct counts counts;
    uint32_t boot; /* makes ids of requests differ from those of another process */
    uint64_t n_requests;
    unsigned stops;
};

/* One request, as it stands in the log. Everything may be NULL or 0 but method, path, id and status. */
struct visit {
    const char *method, *path, *id, *user, *route, *llm, *code, *outcome, *failure, *trace_id;
    size_t path_len;
    int status; /* 0: nobody was there any more to be told */
    uint64_t us, first_us;
    bool is_run;
};

/* Counts it, and writes its line; the probes that allow are worth one at debug level alone. */
void central_note(struct central *central, const struct visit *visit);

#endif
