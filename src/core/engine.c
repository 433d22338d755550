#include "core/engine.h"

#include "base/error.h"
#include "core/central.h"
#include "core/query.h"
#include "core/run.h"
#include "core/worker.h"
#include "net/url.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct cancel {
    struct cancel *prev, *next;
    deputy_run_id run;
};

/* ---- options ---------------------------------------------------------------------------------------------------- */

static const deputy_route default_routes[] = {
    {"chat/completions", "/api/v1/llms/{llm}/infer"},
    {"*", "/v1/{endpoint}"},
};

#define DEFAULT(field, value)                                                                                          \
    do {                                                                                                               \
        if (!(field))                                                                                                  \
            (field) = (value);                                                                                         \
    } while (0)

static void fill_defaults(deputy_options *o)
{
    DEFAULT(o->permit_ms, 5000);
    DEFAULT(o->timeouts.connect_ms, 2000);
    DEFAULT(o->timeouts.first_byte_ms, 300000);
    DEFAULT(o->timeouts.first_token_ms, 30000);
    DEFAULT(o->timeouts.idle_ms, 30000);
    DEFAULT(o->timeouts.total_ms, 600000);
    DEFAULT(o->timeouts.probe_ms, 2000);
    DEFAULT(o->limits.max_runs, 4096);
    DEFAULT(o->limits.max_body_bytes, (size_t)32 << 20);
    DEFAULT(o->limits.max_reply_bytes, (size_t)64 << 20);
    DEFAULT(o->limits.max_error_bytes, (size_t)1 << 20);
    DEFAULT(o->limits.max_hold_bytes, (size_t)256 << 10);
    DEFAULT(o->limits.max_header_bytes, (size_t)64 << 10);
    DEFAULT(o->limits.policy_instructions, 10000000);
    DEFAULT(o->limits.policy_run_bytes, (size_t)8 << 20);
    DEFAULT(o->limits.policy_bytes, (size_t)64 << 20);
    DEFAULT(o->limits.policy_ms, 200);
}

static int copy_string(const char **field, const char *fallback)
{
    const char *from = *field ? *field : fallback;
    *field = NULL;
    if (!from)
        return DEPUTY_OK;
    *field = strdup(from);
    return *field ? DEPUTY_OK : DEPUTY_ENOMEM;
}

static void free_options(deputy_options *o)
{
    free((char *)o->central_url);
    free((char *)o->bearer_token);
    free((char *)o->ca_file);
    free((char *)o->probe_path);
    free((char *)o->policy_settings);
    for (size_t i = 0; o->inference && i < o->n_inference; i++) {
        free((char *)o->inference[i].endpoint);
        free((char *)o->inference[i].path);
    }
    free((deputy_route *)o->inference);
}

static int copy_routes(deputy_options *o)
{
    const deputy_route *from = o->n_inference ? o->inference : default_routes;
    size_t n = o->n_inference ? o->n_inference : sizeof(default_routes) / sizeof(default_routes[0]);
    deputy_route *routes = calloc(n, sizeof(*routes));
    o->inference = routes;
    o->n_inference = n;
    if (!routes)
        return DEPUTY_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        routes[i] = (deputy_route){from[i].endpoint, from[i].path};
        if (copy_string(&routes[i].endpoint, "*") != DEPUTY_OK) {
            routes[i].path = NULL;
            return DEPUTY_ENOMEM;
        }
        if (copy_string(&routes[i].path, "/v1/{endpoint}") != DEPUTY_OK)
            return DEPUTY_ENOMEM;
    }
    return DEPUTY_OK;
}

/* Takes over every string; what was not copied yet is NULL, so that free_options may follow at any point. */
static int copy_options(deputy_options *o)
{
    const char **fields[] = {&o->central_url, &o->bearer_token, &o->ca_file, &o->probe_path, &o->policy_settings};
    const char *fallbacks[] = {NULL, NULL, NULL, "/api/v1/llms/{llm}", "{}"};
    int code = DEPUTY_OK;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (code == DEPUTY_OK)
            code = copy_string(fields[i], fallbacks[i]);
        else
            *fields[i] = NULL;
    }
    if (code != DEPUTY_OK) {
        o->inference = NULL;
        return code;
    }
    return copy_routes(o);
}

static int check_path(const char *what, const char *path, const char *endpoint, deputy_error *error)
{
    deputy_error why = {0};
    char *url;
    int code = url_expand("http://central", path, "llm", endpoint, &url, &why);
    free(url);
    return code == DEPUTY_OK ? code : error_set(error, code, "%s: %s", what, why.message);
}

/* A probe of a path that names no LLM would ask something else, and its yes would open every LLM. */
static int check_paths(const deputy_options *o, deputy_error *error)
{
    int code = DEPUTY_OK;
    if (o->probe_path && !strstr(o->probe_path, "{llm}"))
        return error_set(error, DEPUTY_EINVAL, "probe_path: expected {llm} in it, got \"%.128s\"", o->probe_path);
    if (o->probe_path)
        code = check_path("probe_path", o->probe_path, NULL, error);
    for (size_t i = 0; code == DEPUTY_OK && o->inference && i < o->n_inference; i++)
        if (o->inference[i].path)
            code = check_path("inference", o->inference[i].path, "endpoint", error);
    return code;
}

static int check_options(const deputy_options *options, deputy_error *error)
{
    int code = DEPUTY_OK;
    if (!options || options->size != sizeof(*options))
        return error_set(error, options ? DEPUTY_EABI : DEPUTY_EINVAL,
                         "deputy_options: expected a size of %zu, got %zu: use DEPUTY_INIT(deputy_options) and build "
                         "against this engine's deputy.h",
                         sizeof(*options), options ? options->size : 0);
    if (options->central_url)
        code = url_base_check("central_url", options->central_url, error);
    if (code == DEPUTY_OK && options->bearer_token)
        code = url_token_check(options->bearer_token, error);
    if (code == DEPUTY_OK && options->gate != DEPUTY_GATE_PROBE && options->gate != DEPUTY_GATE_POLICY)
        code = error_set(error, DEPUTY_EINVAL, "gate: expected DEPUTY_GATE_PROBE or DEPUTY_GATE_POLICY, got %d",
                         (int)options->gate);
    if (code == DEPUTY_OK && options->n_inference && !options->inference)
        code = error_set(error, DEPUTY_EINVAL, "inference: n_inference is %zu but there are no routes",
                         options->n_inference);
    return code == DEPUTY_OK ? check_paths(options, error) : code;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void on_idle(uv_idle_t *idle)
{
    engine_drain(idle->data);
}

static void on_check(uv_check_t *check)
{
    engine_drain(check->data);
}

static void take_cancels(deputy_engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    struct cancel *list = engine->cancels, *c, *next;
    engine->cancels = NULL;
    pthread_mutex_unlock(&engine->lock);
    DL_FOREACH_SAFE (list, c, next) {
        struct run *run = engine_find_run(engine, c->run);
        if (run)
            run_cancel(run);
        free(c);
    }
}

void engine_post(deputy_engine *engine, struct engine_post *post)
{
    pthread_mutex_lock(&engine->lock);
    if (!post->posted)
        DL_APPEND(engine->posts, post);
    post->posted = true;
    pthread_mutex_unlock(&engine->lock);
    uv_async_send(&engine->async);
}

static void unlink_post(deputy_engine *engine, struct engine_post *post)
{
    DL_DELETE(engine->posts, post);
    post->posted = false;
}

void engine_post_drop(deputy_engine *engine, struct engine_post *post)
{
    pthread_mutex_lock(&engine->lock);
    if (post->posted)
        unlink_post(engine, post);
    pthread_mutex_unlock(&engine->lock);
}

/* One by one: what runs may take back what comes after it. */
static void take_posts(deputy_engine *engine)
{
    for (;;) {
        pthread_mutex_lock(&engine->lock);
        struct engine_post *post = engine->posts;
        if (post)
            unlink_post(engine, post);
        pthread_mutex_unlock(&engine->lock);
        if (!post)
            return;
        post->run(post);
    }
}

static void on_async(uv_async_t *async)
{
    deputy_engine *engine = async->data;
    struct deputy_call *call, *next;
    take_cancels(engine);
    take_posts(engine);
    LL_FOREACH_SAFE2 (engine->working, call, next, next_working)
        worker_deliver(call);
}

static void on_handle_closed(uv_handle_t *handle)
{
    ((deputy_engine *)handle->data)->handles--;
}

static int open_handles(deputy_engine *engine)
{
    uv_loop_t *uv = loop_uv(engine->loop);
    if (uv_async_init(uv, &engine->async, on_async) != 0)
        return DEPUTY_EIO;
    uv_idle_init(uv, &engine->idle);
    uv_check_init(uv, &engine->check);
    engine->async.data = engine->idle.data = engine->check.data = engine;
    engine->handles = 3;
    uv_check_start(&engine->check, on_check);
    /* an engine without runs must not keep the host's loop alive */
    uv_unref((uv_handle_t *)&engine->check);
    if (loop_is_lent(engine->loop))
        uv_unref((uv_handle_t *)&engine->async);
    return DEPUTY_OK;
}

int engine_new(const deputy_options *options, struct registry *registry, deputy_engine **engine, deputy_error *error)
{
    *engine = NULL;
    int code = check_options(options, error);
    if (code != DEPUTY_OK)
        return code;
    deputy_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(error, DEPUTY_ENOMEM, "out of memory for an engine");
    e->run_pool.size = sizeof(struct run) + RUN_STRINGS;
    e->call_pool.size = sizeof(struct deputy_call);
    e->owner = pthread_self();
    e->options = *options;
    pthread_mutex_init(&e->lock, NULL);
    fill_defaults(&e->options);
    code = copy_options(&e->options);
    if (code == DEPUTY_OK && !(e->registry = registry ? registry_ref(registry) : registry_new()))
        code = DEPUTY_ENOMEM;
    if (code == DEPUTY_OK)
        code = loop_new(options->loop, &e->loop);
    if (code == DEPUTY_OK)
        code = timer_pool_new(loop_uv(e->loop), &e->timers);
    if (code == DEPUTY_OK)
        code = open_handles(e);
    if (code == DEPUTY_OK && e->options.central_url)
        code = central_new(e, &e->central, error);
    if (code != DEPUTY_OK) {
        deputy_engine_free(e);
        return error_set(error, code, "cannot make an engine: %s", deputy_strerror(code));
    }
    *engine = e;
    return DEPUTY_OK;
}

int deputy_engine_new(const deputy_options *options, deputy_engine **engine, deputy_error *error)
{
    if (!engine)
        return error_set(error, DEPUTY_EINVAL, "expected a place for the engine, got NULL");
    return engine_new(options, NULL, engine, error);
}

static void end_all_runs(deputy_engine *engine)
{
    struct run *run, *next;
    engine->closing = true;
    DL_FOREACH_SAFE2 (engine->runs, run, next, newer)
        run_cancel(run);
    engine_drain(engine);
    queries_end(engine);
    while (engine->working) /* threads that have not come back */
        engine_turn(engine);
}

static void close_handles(deputy_engine *engine)
{
    if (engine->handles > 0) {
        uv_close((uv_handle_t *)&engine->async, on_handle_closed);
        uv_close((uv_handle_t *)&engine->idle, on_handle_closed);
        uv_close((uv_handle_t *)&engine->check, on_handle_closed);
    }
    timer_pool_close(engine->timers);
    while (engine->handles > 0 || !timer_pool_closed(engine->timers))
        uv_run(loop_uv(engine->loop), UV_RUN_NOWAIT);
}

void deputy_engine_free(deputy_engine *engine)
{
    struct cancel *c, *next;
    if (!engine)
        return;
    if (engine->depth > 0) {
        engine_log(engine, DEPUTY_LOG_ERROR,
                   "deputy_engine_free was called from inside a callback of the same engine: nothing was freed");
        return;
    }
    uv_loop_t *lent = engine->options.loop;
    bool stopping = lent && lent->stop_flag != 0; /* a uv_run inside uv_run takes that for its own */
    if (engine->loop) {
        if (engine->handles > 0)
            end_all_runs(engine);
        close_handles(engine);
    }
    deputy_provider_unref(engine->central);
    policy_unref(engine->policy);
    registry_unref(engine->registry);
    timer_pool_free(engine->timers);
    loop_free(engine->loop);
    if (stopping)
        uv_stop(lent);
    DL_FOREACH_SAFE (engine->cancels, c, next)
        free(c);
    pthread_mutex_destroy(&engine->lock);
    pool_empty(&engine->run_pool);
    pool_empty(&engine->call_pool);
    free_options(&engine->options);
    free(engine->counters.list);
    free(engine);
}

/* ---- the runs in flight ----------------------------------------------------------------------------------------- */

void engine_add_run(deputy_engine *engine, struct run *run)
{
    DL_APPEND2(engine->runs, run, older, newer);
    DL_APPEND2(engine->by_number[run->id % RUN_BUCKETS], run, same_before, same_next);
    engine->n_runs++;
}

void engine_drop_run(deputy_engine *engine, struct run *run)
{
    DL_DELETE2(engine->runs, run, older, newer);
    DL_DELETE2(engine->by_number[run->id % RUN_BUCKETS], run, same_before, same_next);
    engine->n_runs--;
}

struct run *engine_find_run(const deputy_engine *engine, deputy_run_id id)
{
    struct run *run;
    DL_FOREACH2 (engine->by_number[id % RUN_BUCKETS], run, same_next)
        if (run->id == id)
            return run;
    return NULL;
}

/* ---- turning ---------------------------------------------------------------------------------------------------- */

void engine_drain(deputy_engine *engine)
{
    /* what a step puts on the queue is done in the next round, so that no run can keep the loop to itself */
    struct run *batch = engine->ready, *run;
    engine->ready = NULL;
    while ((run = batch) != NULL) {
        DL_DELETE(batch, run);
        run->queued = false;
        run_step(run);
    }
    if (engine->queries_due)
        queries_step(engine);
    if (engine->handles > 0 && !engine->ready && !engine->queries_due)
        uv_idle_stop(&engine->idle);
}

void engine_nudge(deputy_engine *engine)
{
    if (engine->handles > 0 && !uv_is_active((uv_handle_t *)&engine->idle))
        uv_idle_start(&engine->idle, on_idle);
}

void engine_turn(deputy_engine *engine)
{
    uv_run(loop_uv(engine->loop), UV_RUN_ONCE);
}

int engine_enter(const deputy_engine *engine, bool blocking, deputy_error *error)
{
    if (!engine)
        return error_set(error, DEPUTY_EINVAL, "expected an engine, got NULL");
    if (!pthread_equal(engine->owner, pthread_self()))
        return error_set(error, DEPUTY_ETHREAD,
                         "called from a thread that does not own the engine: make one engine per thread");
    if (blocking && engine->depth > 0)
        return error_set(error, DEPUTY_EBUSY,
                         "a blocking call from inside a callback of the same engine: use deputy_start");
    if (blocking && loop_is_lent(engine->loop))
        return error_set(error, DEPUTY_EBUSY, "a blocking call on a loop that the host lent: use deputy_start");
    return DEPUTY_OK;
}

int deputy_fd(const deputy_engine *engine)
{
    return uv_backend_fd(loop_uv(engine->loop));
}

int deputy_timeout(const deputy_engine *engine)
{
    uv_loop_t *uv = loop_uv(engine->loop);
    uv_update_time(uv); /* else the time the host spent elsewhere is waited for twice */
    return engine->ready ? 0 : uv_backend_timeout(uv);
}

int deputy_pump(deputy_engine *engine)
{
    int code = engine_enter(engine, true, NULL);
    if (code == DEPUTY_OK)
        uv_run(loop_uv(engine->loop), UV_RUN_NOWAIT);
    return code;
}

size_t deputy_in_flight(const deputy_engine *engine)
{
    return engine->n_runs;
}

void deputy_wakeup(deputy_engine *engine)
{
    uv_async_send(&engine->async);
}

void deputy_cancel(deputy_engine *engine, deputy_run_id run)
{
    struct cancel *c = malloc(sizeof(*c));
    if (!c) { /* from another thread nothing better can be done without memory: the run goes on to its deadline */
        struct run *here = pthread_equal(engine->owner, pthread_self()) ? engine_find_run(engine, run) : NULL;
        if (here)
            run_cancel(here);
        return;
    }
    c->run = run;
    pthread_mutex_lock(&engine->lock);
    DL_APPEND(engine->cancels, c);
    pthread_mutex_unlock(&engine->lock);
    uv_async_send(&engine->async);
}

void engine_log(const deputy_engine *engine, deputy_log_level level, const char *format, ...)
{
    char text[1024];
    va_list args;
    if (!engine->options.on_log)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
    engine->options.on_log(engine->options.log_user, level, text);
}

/* ---- registry --------------------------------------------------------------------------------------------------- */

int deputy_register(deputy_engine *engine, deputy_provider *provider, deputy_error *error)
{
    int code = engine_enter(engine, false, error);
    if (code == DEPUTY_OK && !provider)
        code = error_set(error, DEPUTY_EINVAL, "expected a provider, got NULL");
    return code == DEPUTY_OK ? registry_add(engine->registry, provider, error) : code;
}

int deputy_unregister(deputy_engine *engine, const char *name, deputy_error *error)
{
    int code = engine_enter(engine, false, error);
    return code == DEPUTY_OK ? registry_remove(engine->registry, name ? name : "", error) : code;
}

int deputy_register_failover(deputy_engine *engine, const char *llm, const char *provider, deputy_error *error)
{
    int code = engine_enter(engine, false, error);
    return code == DEPUTY_OK ? registry_map(engine->registry, llm, provider, error) : code;
}

const char *deputy_failover_for(const deputy_engine *engine, const char *llm)
{
    deputy_provider *const *list;
    return llm && registry_candidates(engine->registry, llm, &list) > 0 ? list[0]->name : NULL;
}

int deputy_list_failovers(const deputy_engine *engine, deputy_failover_fn each, void *user)
{
    return registry_each_failover(engine->registry, each, user);
}

int deputy_list_providers(const deputy_engine *engine, deputy_provider_fn each, void *user)
{
    return registry_each_provider(engine->registry, each, user);
}
