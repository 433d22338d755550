#include "gateway/worker.h"

#include "gateway/callers.h"
#include "gateway/forward.h"
#include "gateway/routes.h"
#include "relay/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

enum { REPORT_MS = 1000 };

/* ---- setups -------------------------------------------------------------------------------------------------------
 */

struct setup *setup_new(const struct gateway_host *host, void *loaded, const struct gateway_settings *settings)
{
    struct setup *setup = calloc(1, sizeof(*setup));
    if (!setup) {
        host->unload(loaded);
        return NULL;
    }
    atomic_init(&setup->references, 1);
    setup->host = host;
    setup->loaded = loaded;
    setup->settings = *settings;
    return setup;
}

struct setup *setup_ref(struct setup *setup)
{
    atomic_fetch_add(&setup->references, 1);
    return setup;
}

void setup_unref(struct setup *setup)
{
    if (!setup || atomic_fetch_sub(&setup->references, 1) > 1)
        return;
    setup->host->unload(setup->loaded);
    free(setup);
}

/* ---- stations -----------------------------------------------------------------------------------------------------
 */

static void on_log(void *user, deputy_log_level level, const char *text)
{
    struct station *station = user;
    struct log *log = &station->worker->log;
    char name[64];
    snprintf(name, sizeof(name), "%08x-%u.%u", (unsigned)station->worker->gateway->boot, station->worker->number,
             station->number);
    if (!log_begin(log, level, text))
        return;
    log_text(log, "engine", name);
    log_end(log);
}

static int add_counter(void *user, const char *name, double value)
{
    struct script_counters *c = user;
    size_t i = 0;
    while (i < c->n && strcmp(c->list[i].name, name) != 0)
        i++;
    if (i == METRICS_COUNTERS)
        return 0;
    if (i == c->n) {
        snprintf(c->list[i].name, sizeof(c->list[i].name), "%s", name);
        c->list[i].value = 0;
        c->n++;
    }
    c->list[i].value += value;
    return 0;
}

static void free_station(struct station *station)
{
    if (station->engine)
        deputy_list_counters(station->engine, add_counter, &station->worker->gone);
    deputy_engine_free(station->engine);
    setup_unref(station->setup);
    free(station);
}

static void retire(struct station *station)
{
    station->next = station->worker->retired;
    station->worker->retired = station;
    if (station->runs == 0)
        uv_stop(&station->worker->loop);
}

void station_leave(struct station *station)
{
    station->runs--;
    if (station->runs == 0 && station != station->worker->current)
        uv_stop(&station->worker->loop);
}

bool worker_renew(struct worker *w, struct setup *setup, char *problem, size_t problem_size)
{
    deputy_error error = {0, ""};
    struct station *station = calloc(1, sizeof(*station));
    if (!station) {
        snprintf(problem, problem_size, "out of memory for an engine");
        return false;
    }
    station->worker = w;
    station->setup = setup_ref(setup);
    station->number = ++w->n_stations;
    if (setup->host->make_engine(setup->loaded, &w->loop, on_log, station, &station->engine, &error) != DEPUTY_OK) {
        snprintf(problem, problem_size, "%s", error.message);
        retire(station);
        return false;
    }
    if (w->current)
        retire(w->current);
    w->current = station;
    if (w->server)
        http1_bound(w->server, setup->settings.max_body_bytes, setup->settings.max_buffered_bytes,
                    setup->settings.max_connections);
    w->log.json = setup->settings.log_json;
    w->log.level = setup->settings.log_level;
    return true;
}

/* Not from a callback of the loop: freeing an engine turns it. After the last one what an old and a new configuration
 * took side by side goes back to the system, instead of the heap staying as large as it was at its largest. */
static void free_retired(struct worker *w, bool all)
{
    struct station **at = &w->retired;
    bool any = false;
    while (*at) {
        struct station *station = *at;
        if (station->runs > 0 && !all) {
            at = &station->next;
            continue;
        }
        *at = station->next;
        free_station(station);
        any = true;
        at = &w->retired; /* runs that ended meanwhile may have set others free */
    }
    if (any && !w->retired)
        memory_trim();
}

/* ---- what it says about itself -------------------------------------------------------------------------------------
 */

/* Each reload makes a new engine, and a counter must not fall. */
static void add_up_counters(const struct worker *w, struct script_counters *counters)
{
    *counters = w->gone;
    for (const struct station *s = w->retired; s; s = s->next)
        if (s->engine)
            deputy_list_counters(s->engine, add_counter, counters);
    deputy_list_counters(w->current->engine, add_counter, counters);
}

struct breaker_search {
    const deputy_engine *engine;
    struct worker_report *report;
    bool with_stand_in;
};

static int add_breaker(void *user, const char *topic, const char *name, const char *word, int64_t left_ms)
{
    const struct breaker_search *search = user;
    struct worker_report *report = search->report;
    struct timespec now;
    if (strcmp(topic, "breaker") != 0 || (deputy_failover_for(search->engine, name) != NULL) != search->with_stand_in)
        return 0;
    if (report->n_breakers == METRICS_BREAKERS)
        return 1;
    struct breaker_report *b = &report->breakers[report->n_breakers++];
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(b->llm, sizeof(b->llm), "%s", name);
    b->half_open = left_ms == 0 || strcmp(word, "open") != 0;
    b->until = left_ms > 0 ? (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + left_ms : 0;
    return 0;
}

/* Those that matter come first: the others' names are made up by callers, as many as they like. */
static void find_breakers(const deputy_engine *engine, struct worker_report *report)
{
    struct breaker_search search = {engine, report, true};
    deputy_list_states(engine, add_breaker, &search);
    search.with_stand_in = false;
    deputy_list_states(engine, add_breaker, &search);
}

void worker_report(struct worker *w)
{
    const struct http1_stats *s = http1_stats(w->server);
    struct worker_report report = {
        .connections = s->connections,
        .accepted = s->accepted,
        .refused = s->refused,
        .requests = s->requests,
        .bytes_in = s->bytes_in,
        .bytes_out = s->bytes_out,
    };
    memcpy(report.refused_by, s->refused_by, sizeof(report.refused_by));
    add_up_counters(w, &report.counters);
    find_breakers(w->current->engine, &report);
    metrics_worker(w->gateway->metrics, w->number, &report);
}

static void on_report(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    if (w->server && w->gateway->n_workers > 1) /* whoever is asked for the metrics knows the others by their reports */
        worker_report(w);
    memory_settle();
}

static void on_prepare(uv_prepare_t *prepare)
{
    log_flush(&((struct worker *)prepare->data)->log);
}

/* ---- draining ------------------------------------------------------------------------------------------------------
 */

static void on_closed(void *user)
{
    struct worker *w = user;
    w->state = WORKER_CLOSED;
    uv_stop(&w->loop);
}

static void close_server(struct worker *w)
{
    w->state = WORKER_CLOSING;
    uv_timer_stop(&w->tick);
    worker_report(w);
    http1_close(w->server, on_closed, w);
    w->server = NULL;
}

/* The first worker stays until the others are through: it hears the signals. */
static bool may_go(const struct worker *w)
{
    return w->number > 0 || atomic_load(&w->gateway->open_workers) <= 1;
}

static void on_tick(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    bool hurry = atomic_load(&w->gateway->hurry);
    if (drain_is_over(&w->drain, w->server, &w->relays, uv_now(&w->loop), hurry) && may_go(w))
        close_server(w);
}

static void start_drain(struct worker *w)
{
    w->state = WORKER_DRAINING;
    drain_begin(&w->drain, w->server, uv_now(&w->loop), w->current->setup->settings.drain_ms);
    uv_timer_start(&w->tick, on_tick, DRAIN_TICK_MS, DRAIN_TICK_MS);
}

static void take_setup(struct worker *w)
{
    struct gateway *g = w->gateway;
    char problem[512];
    pthread_mutex_lock(&g->lock);
    struct setup *setup = g->setup ? setup_ref(g->setup) : NULL;
    pthread_mutex_unlock(&g->lock);
    if (setup && setup != w->current->setup && !worker_renew(w, setup, problem, sizeof(problem)))
        log_say(&w->log, DEPUTY_LOG_ERROR,
                "this worker could not take the new configuration and goes on with the old one", "problem", problem);
    setup_unref(setup);
}

static void on_async(uv_async_t *async)
{
    struct worker *w = async->data;
    if (w->state != WORKER_SERVING)
        return;
    if (atomic_load(&w->gateway->draining))
        start_drain(w);
    else
        take_setup(w);
}

void worker_wake(struct worker *w)
{
    pthread_mutex_lock(&w->gateway->lock);
    if (w->handles_open)
        uv_async_send(&w->async);
    pthread_mutex_unlock(&w->gateway->lock);
}

/* ---- life ----------------------------------------------------------------------------------------------------------
 */

static bool open_loop(struct worker *w)
{
    if (uv_loop_init(&w->loop) != 0)
        return false;
    if (uv_async_init(&w->loop, &w->async, on_async) != 0) {
        uv_loop_close(&w->loop);
        return false;
    }
    uv_timer_init(&w->loop, &w->tick);
    uv_timer_init(&w->loop, &w->report);
    uv_prepare_init(&w->loop, &w->prepare);
    survey_init(&w->survey, w);
    w->async.data = w->tick.data = w->report.data = w->prepare.data = w;
    pthread_mutex_lock(&w->gateway->lock);
    w->handles_open = true;
    pthread_mutex_unlock(&w->gateway->lock);
    uv_prepare_start(&w->prepare, on_prepare);
    uv_timer_start(&w->report, on_report, REPORT_MS, REPORT_MS);
    return true;
}

/* The first one listens alone, so that nobody else's port is shared by mistake: of two processes that start at once one
 * is refused. Only then may the other workers join. */
static bool let_others_join(struct worker *w)
{
    int on = 1, fd = http1_fd(w->server);
    if (strncmp(http1_address(w->server), "unix:", 5) == 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0)
        return true;
    snprintf(w->problem, sizeof(w->problem), "cannot share %s among workers: %s", http1_address(w->server),
             strerror(errno));
    return false;
}

bool worker_open(struct worker *w, struct gateway *g, unsigned number, const char *address, int fd)
{
    const struct gateway_settings *s = &g->setup->settings;
    struct http1_limits limits = {
        .max_body_bytes = s->max_body_bytes,
        .max_connections = s->max_connections,
        .connections = &g->connections,
        .max_buffered_bytes = s->max_buffered_bytes,
        .buffered = &g->buffered,
    };
    struct http1_handler handler = {
        .user = w,
        .on_request = routes_request,
        .on_head = routes_head,
        .on_gone = routes_gone,
        .on_room = relay_room,
    };
    w->gateway = g;
    w->number = number;
    w->relays.host = &forward_host;
    if (getrandom(&w->relays.random, sizeof(w->relays.random), GRND_NONBLOCK) != (ssize_t)sizeof(w->relays.random))
        w->relays.random = ((uint64_t)g->boot << 32) + number;
    log_init(&w->log, s->log_json, s->log_level);
    if (!open_loop(w)) {
        snprintf(w->problem, sizeof(w->problem), "cannot make an event loop: out of descriptors or memory");
        return false;
    }
    atomic_fetch_add(&g->open_workers, 1);
    if (!worker_renew(w, g->setup, w->problem, sizeof(w->problem)))
        return false;
    if (http1_listen(&w->loop, address, number > 0, fd, &limits, &handler, &w->server, w->problem,
                     sizeof(w->problem)) != 0)
        return false;
    return number > 0 || g->n_workers == 1 || let_others_join(w);
}

void worker_serve(struct worker *w)
{
    while (w->state != WORKER_CLOSED) {
        uv_run(&w->loop, UV_RUN_DEFAULT);
        free_retired(w, false);
    }
}

void worker_close(struct worker *w)
{
    if (!w->handles_open)
        return;
    if (w->server)
        close_server(w);
    survey_close(&w->survey);
    if (w->current)
        retire(w->current);
    w->current = NULL;
    free_retired(w, true); /* what is in flight ends here, cancelled */
    pthread_mutex_lock(&w->gateway->lock);
    w->handles_open = false;
    pthread_mutex_unlock(&w->gateway->lock);
    uv_close((uv_handle_t *)&w->async, NULL);
    uv_close((uv_handle_t *)&w->tick, NULL);
    uv_close((uv_handle_t *)&w->report, NULL);
    uv_close((uv_handle_t *)&w->prepare, NULL);
    while (uv_loop_alive(&w->loop)) /* uv_stop may have been asked for meanwhile */
        uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_loop_close(&w->loop);
    survey_free(&w->survey);
    log_free(&w->log);
    atomic_fetch_sub(&w->gateway->open_workers, 1);
}
