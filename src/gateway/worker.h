/* gateway/worker.h - one thread of the gateway: a loop, an http1 server, and the engine of the configuration in force.
 *
 * A reload puts a new engine in place; the old one finishes its runs and is freed between two turns of the loop, where
 * no callback stands on the stack. */
#ifndef GATEWAY_WORKER_H
#define GATEWAY_WORKER_H

#include "gateway/gateway.h"
#include "gateway/metrics.h"
#include "gateway/survey.h"
#include "http1/server.h"
#include "relay/drain.h"
#include "relay/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

/* A configuration that was read, shared by the engines that were made from it. */
struct setup {
    atomic_uint references;
    const struct gateway_host *host;
    void *loaded;
    struct gateway_settings settings;
};

/* Takes over loaded; NULL when out of memory (then loaded is unloaded). */
struct setup *setup_new(const struct gateway_host *host, void *loaded, const struct gateway_settings *settings);
struct setup *setup_ref(struct setup *setup);
void setup_unref(struct setup *setup); /* NULL is allowed */

/* What all workers share. */
struct gateway {
    const struct gateway_host *host;
    unsigned n_workers;
    struct worker *workers;
    struct metrics *metrics;
    uint32_t boot; /* makes names of runs differ from those of another process */
    atomic_uint connections, in_flight;
    atomic_size_t buffered; /* bytes of callers' bodies */
    atomic_bool draining, hurry;
    atomic_uint open_workers;
    pthread_mutex_t lock;
    struct setup *setup; /* in force; under lock */
};

/* An engine of one worker, and the setup it was made from. */
struct station {
    struct station *next; /* among the retired */
    struct worker *worker;
    struct setup *setup;
    deputy_engine *engine;
    unsigned number;
    size_t runs;
};

enum worker_state { WORKER_SERVING, WORKER_DRAINING, WORKER_CLOSING, WORKER_CLOSED };

struct worker {
    struct gateway *gateway;
    unsigned number;
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t async;
    uv_timer_t tick; /* while draining */
    uv_timer_t report;
    uv_prepare_t prepare;
    bool handles_open;
    struct http1_server *server;
    struct station *current, *retired;
    struct relays relays;
    unsigned n_stations;
    struct script_counters gone; /* of engines that are freed */
    struct survey survey;
    struct log log;
    enum worker_state state;
    struct drain drain;
    char problem[512]; /* why it could not start */
};

/* Makes loop, engine and server, on the calling thread, which must be the one that turns it. address and fd as in
 * http1_listen; fd is taken. False: problem says why; worker_close in every case. */
bool worker_open(struct worker *worker, struct gateway *gateway, unsigned number, const char *address, int fd);

/* Serves until it has drained. */
void worker_serve(struct worker *worker);
void worker_close(struct worker *worker);

/* Puts an engine of this setup in force. False: the old one stays, problem says why. The worker's own thread. */
bool worker_renew(struct worker *worker, struct setup *setup, char *problem, size_t problem_size);

/* Tells a worker to look at what changed in the gateway: setup, draining, hurry. Any thread. */
void worker_wake(struct worker *worker);

/* A run of the station is over; the station may be free to go. */
void station_leave(struct station *station);

/* Brings what the metrics say about this worker up to date. */
void worker_report(struct worker *worker);

#endif
