#include "central/central.h"

#include "central/infer.h"
#include "central/requests.h"
#include "central/server.h"
#include "relay/address.h"
#include "relay/memory.h"
#include "relay/notify.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { SECOND_MS = 1000, PROBLEM_SIZE = 512 };

static void say(const char *text)
{
    fprintf(stderr, "deputy central serve: %s\n", text);
}

/* ---- the log ----------------------------------------------------------------------------------------------------- */

static deputy_log_level level_of(const struct visit *v)
{
    bool is_look = strcmp(v->method, "GET") == 0 || strcmp(v->method, "HEAD") == 0;
    if (v->status >= 500 || (v->outcome && strcmp(v->outcome, "cut") == 0))
        return DEPUTY_LOG_WARN;
    return is_look && v->status < 400 ? DEPUTY_LOG_DEBUG : DEPUTY_LOG_INFO;
}

void central_note(struct central *c, const struct visit *v)
{
    struct log *log = &c->log;
    char path[256];
    if (v->status > 0 && v->status < COUNTS_STATUSES)
        c->counts.replies[counts_method(v->method)][v->status]++;
    if (!log_begin(log, level_of(v), v->is_run ? "run" : "request"))
        return;
    snprintf(path, sizeof(path), "%.*s", (int)(v->path_len < sizeof(path) ? v->path_len : sizeof(path)), v->path);
    log_text(log, "request", v->id);
    log_text(log, "method", v->method);
    log_text(log, "route", v->route ? v->route : path);
    log_number(log, "status", v->status);
    log_text(log, "user", v->user);
    log_text(log, "llm", v->llm);
    log_text(log, "code", v->code);
    log_text(log, "outcome", v->outcome);
    log_text(log, "failure", v->failure);
    log_number(log, "us", (int64_t)v->us);
    if (v->first_us > 0)
        log_number(log, "first_us", (int64_t)v->first_us);
    log_text(log, "trace_id", v->trace_id);
    log_end(log);
}

static void on_engine_log(void *user, deputy_log_level level, const char *text)
{
    struct log *log = user;
    if (log_begin(log, level, text))
        log_end(log);
}

/* ---- the loop's turns -------------------------------------------------------------------------------------------- */

static void on_prepare(uv_prepare_t *prepare)
{
    log_flush(&((struct central *)prepare->data)->log);
}

static void on_second(uv_timer_t *timer)
{
    app_tick(((struct central *)timer->data)->app);
    memory_settle();
}

static void on_closed(void *user)
{
    uv_stop(&((struct central *)user)->loop);
}

static void on_drain(uv_timer_t *timer)
{
    struct central *c = timer->data;
    if (!drain_is_over(&c->drain, c->server, &c->relays, uv_now(&c->loop), c->stops > 1))
        return;
    uv_timer_stop(&c->tick);
    http1_close(c->server, on_closed, c);
    c->server = NULL;
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static void stop(struct central *c)
{
    if (c->stops++ > 0) /* whoever asks twice does not want to wait */
        return;
    notify_stopping();
    log_say(&c->log, DEPUTY_LOG_INFO, "draining", NULL, NULL);
    drain_begin(&c->drain, c->server, uv_now(&c->loop), c->settings.drain_ms);
    uv_timer_start(&c->tick, on_drain, DRAIN_TICK_MS, DRAIN_TICK_MS);
}

/* Opening it would make an empty one, whose answer to everybody is that it knows no such token. */
static bool has_database(const struct central *c, char *problem, size_t size)
{
    static const char scheme[] = "sqlite:";
    const char *db = c->settings.db;
    size_t len = sizeof(scheme) - 1;
    if (strncmp(db, scheme, len) != 0 || access(db + len, F_OK) == 0)
        return true;
    snprintf(problem, size, "there is no database %s", db + len);
    return false;
}

static void reload(struct central *c)
{
    char problem[PROBLEM_SIZE];
    struct app *app = NULL;
    notify_reloading();
    if (has_database(c, problem, sizeof(problem)))
        app = app_open(c->settings.lua_dir, c->settings.db, &c->log, problem, sizeof(problem));
    if (app) {
        app_close(c->app);
        c->app = app;
        upstreams_clear(&c->upstreams);
        log_say(&c->log, DEPUTY_LOG_INFO, "reloaded", NULL, NULL);
    } else {
        log_say(&c->log, DEPUTY_LOG_ERROR, "the reload changed nothing", "problem", problem);
    }
    notify_ready();
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct central *c = handle->data;
    if (number != SIGHUP)
        stop(c);
    else if (c->stops == 0)
        reload(c);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static bool open_loop(struct central *c)
{
    if (uv_loop_init(&c->loop) != 0)
        return false;
    uv_signal_init(&c->loop, &c->term);
    uv_signal_init(&c->loop, &c->interrupt);
    uv_signal_init(&c->loop, &c->hangup);
    uv_timer_init(&c->loop, &c->second);
    uv_timer_init(&c->loop, &c->tick);
    uv_prepare_init(&c->loop, &c->prepare);
    c->term.data = c->interrupt.data = c->hangup.data = c->second.data = c->tick.data = c->prepare.data = c;
    return true;
}

static void close_loop(struct central *c)
{
    uv_close((uv_handle_t *)&c->term, NULL);
    uv_close((uv_handle_t *)&c->interrupt, NULL);
    uv_close((uv_handle_t *)&c->hangup, NULL);
    uv_close((uv_handle_t *)&c->second, NULL);
    uv_close((uv_handle_t *)&c->tick, NULL);
    uv_close((uv_handle_t *)&c->prepare, NULL);
    while (uv_loop_alive(&c->loop)) /* uv_stop may have been asked for meanwhile */
        uv_run(&c->loop, UV_RUN_DEFAULT);
    uv_loop_close(&c->loop);
}

static void start_handles(struct central *c)
{
    uv_signal_start(&c->term, on_signal, SIGTERM);
    uv_signal_start(&c->interrupt, on_signal, SIGINT);
    uv_signal_start(&c->hangup, on_signal, SIGHUP);
    uv_timer_start(&c->second, on_second, SECOND_MS, SECOND_MS);
    uv_prepare_start(&c->prepare, on_prepare);
}

static bool open_engine(struct central *c, char *problem, size_t size)
{
    deputy_options options = DEPUTY_INIT(deputy_options);
    deputy_error error = {0, ""};
    options.timeouts = c->settings.timeouts;
    options.limits.max_body_bytes = c->settings.max_body_bytes;
    options.limits.max_runs = c->settings.max_in_flight;
    options.loop = &c->loop;
    options.on_log = on_engine_log;
    options.log_user = &c->log;
    if (deputy_engine_new(&options, &c->engine, &error) == DEPUTY_OK)
        return true;
    snprintf(problem, size, "%s", error.message);
    return false;
}

static bool open_server(struct central *c, char *problem, size_t size)
{
    struct http1_limits limits = {
        .max_body_bytes = c->settings.max_body_bytes,
        .max_buffered_bytes = c->settings.max_buffered_bytes,
        .max_connections = c->settings.max_connections,
    };
    struct http1_handler handler = {
        .user = c,
        .on_request = requests_decide,
        .on_head = requests_head,
        .on_gone = relay_gone,
        .on_room = relay_room,
    };
    return http1_listen(&c->loop, c->settings.listen, false, -1, &limits, &handler, &c->server, problem, size) == 0;
}

static bool open_all(struct central *c, char *problem, size_t size)
{
    c->app = app_open(c->settings.lua_dir, c->settings.db, &c->log, problem, size);
    return c->app && open_engine(c, problem, size) && open_server(c, problem, size);
}

static void serve(struct central *c)
{
    start_handles(c);
    if (!address_is_local(http1_address(c->server)))
        log_say(
            &c->log, DEPUTY_LOG_WARN,
            "other machines can reach this address, and there is no TLS: tokens cross the network in clear unless a "
            "proxy that ends TLS stands before it",
            "address", http1_address(c->server));
    log_say(&c->log, DEPUTY_LOG_INFO, "listening", "address", http1_address(c->server));
    notify_ready();
    uv_run(&c->loop, UV_RUN_DEFAULT);
    log_say(&c->log, DEPUTY_LOG_INFO, "ended", NULL, NULL);
}

static void close_all(struct central *c)
{
    if (c->server) {
        http1_close(c->server, on_closed, c);
        c->server = NULL;
        uv_run(&c->loop, UV_RUN_DEFAULT);
    }
    deputy_engine_free(c->engine);
    upstreams_clear(&c->upstreams);
    app_close(c->app);
    close_loop(c);
}

static void fill_in(struct central *c, const struct central_settings *settings)
{
    struct central_settings *s = &c->settings;
    *s = *settings;
    s->max_body_bytes = s->max_body_bytes ? s->max_body_bytes : 32 << 20;
    s->max_connections = s->max_connections ? s->max_connections : 1024;
    s->max_in_flight = s->max_in_flight ? s->max_in_flight : 512;
    s->drain_ms = s->drain_ms ? s->drain_ms : 30000;
    if (getrandom(&c->boot, sizeof(c->boot), GRND_NONBLOCK) != (ssize_t)sizeof(c->boot))
        c->boot = (uint32_t)getpid();
    if (getrandom(&c->relays.random, sizeof(c->relays.random), GRND_NONBLOCK) != (ssize_t)sizeof(c->relays.random))
        c->relays.random = c->boot;
    c->relays.host = &infer_host;
    c->upstreams.log = &c->log;
    c->upstreams.ca_file = s->ca_file;
    log_init(&c->log, s->log_json, s->log_level);
}

int central_run(const struct central_settings *settings)
{
    struct central *c = calloc(1, sizeof(*c));
    char problem[PROBLEM_SIZE] = "";
    if (!c) {
        say("out of memory");
        return 1;
    }
    fill_in(c, settings);
    if (!open_loop(c)) {
        say("cannot make an event loop: out of descriptors or memory");
        free(c);
        return 1;
    }
    memory_begin();
    bool ok = open_all(c, problem, sizeof(problem));
    if (ok)
        serve(c);
    close_all(c);
    if (!ok) {
        draft_clear(&c->log.lines); /* they say the same */
        say(problem);
    }
    log_free(&c->log);
    free(c);
    return ok ? 0 : 1;
}
