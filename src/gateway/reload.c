#include "gateway/reload.h"

#include "gateway/chief.h"
#include "relay/notify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

enum { SETTLE_MS = 200 };

static const char draining[] = "draining: this gateway is about to end";

struct reload_waiter {
    struct reload_waiter *prev, *next;
    struct http1_exchange *exchange;
    reload_told told;
};

static struct log *log_of(struct chief *chief)
{
    return &chief_worker(chief)->log;
}

/* ---- the script's file ------------------------------------------------------------------------------------------ */

static void look_at_script(struct reload *r)
{
    if (stat(r->script, &r->seen) != 0)
        memset(&r->seen, 0, sizeof(r->seen));
}

static bool script_changed(const struct reload *r)
{
    struct stat now;
    if (stat(r->script, &now) != 0) /* between two states of an editor that replaces it */
        return false;
    return now.st_ino != r->seen.st_ino || now.st_size != r->seen.st_size ||
           now.st_mtim.tv_sec != r->seen.st_mtim.tv_sec || now.st_mtim.tv_nsec != r->seen.st_mtim.tv_nsec;
}

static void on_settled(uv_timer_t *timer)
{
    struct chief *chief = timer->data;
    if (script_changed(&chief->reload))
        reload_ask(chief, NULL, NULL);
}

/* Editors write in several steps: what counts is how the file is when it has been quiet for a while. */
static void on_change(uv_fs_event_t *watch, const char *name, int events, int status)
{
    struct chief *chief = watch->data;
    (void)name;
    (void)events;
    if (status == 0)
        uv_timer_start(&chief->reload.settle, on_settled, SETTLE_MS, 0);
}

/* The folder, since a file that is replaced is no longer the one that was watched. */
static void watch_script(struct reload *r)
{
    char folder[sizeof(r->script)];
    const char *slash = strrchr(r->script, '/');
    int n = slash ? snprintf(folder, sizeof(folder), "%.*s", (int)(slash - r->script), r->script)
                  : snprintf(folder, sizeof(folder), ".");
    if (r->watching)
        uv_fs_event_stop(&r->watch);
    r->watching = n >= 0 && (size_t)n < sizeof(folder) &&
                  uv_fs_event_start(&r->watch, on_change, folder[0] ? folder : "/", 0) == 0;
}

/* ---- off the loop ----------------------------------------------------------------------------------------------- */

static void *work(void *user)
{
    struct chief *chief = user;
    struct reload *r = &chief->reload;
    const struct gateway_host *host = chief->gateway.host;
    r->loaded = host->load(host->user, &r->settings, r->problem, sizeof(r->problem));
    uv_async_send(&r->worked);
    return NULL;
}

/* A thread for this one time: glibc keeps some memory back for each thread, and those of a pool would each fill up to
 * the size of a configuration. */
static bool start_work(struct chief *chief)
{
    return pthread_create(&chief->reload.thread, NULL, work, chief) == 0;
}

/* ---- on the loop again ------------------------------------------------------------------------------------------ */

/* What cannot change while we run stays as it was. */
static void keep_what_must_stay(struct chief *chief, struct gateway_settings *settings)
{
    static const char words[] = "changes with a restart alone: it stays as it was";
    if (strcmp(settings->listen, chief->listen) != 0)
        log_say(log_of(chief), DEPUTY_LOG_WARN, words, "key", "gateway.listen");
    if (settings->workers != chief->gateway.n_workers)
        log_say(log_of(chief), DEPUTY_LOG_WARN, words, "key", "gateway.workers");
    settings->listen = chief->listen;
}

static void put_in_force(struct chief *chief, struct setup *setup)
{
    struct gateway *g = &chief->gateway;
    struct reload *r = &chief->reload;
    pthread_mutex_lock(&g->lock);
    struct setup *old = g->setup;
    g->setup = setup;
    pthread_mutex_unlock(&g->lock);
    setup_unref(old);
    for (unsigned i = 1; i < g->n_workers; i++)
        worker_wake(&g->workers[i]);
    snprintf(r->script, sizeof(r->script), "%s", setup->settings.script);
    watch_script(r);
}

static bool apply(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    struct reload *r = &chief->reload;
    void *loaded = r->loaded;
    r->loaded = NULL;
    if (!loaded)
        return false;
    if (!chief_may_listen(chief->listen, &r->settings, r->problem, sizeof(r->problem))) {
        g->host->unload(loaded);
        return false;
    }
    keep_what_must_stay(chief, &r->settings);
    struct setup *setup = setup_new(g->host, loaded, &r->settings);
    if (!setup) {
        snprintf(r->problem, sizeof(r->problem), "out of memory");
        return false;
    }
    if (!worker_renew(chief_worker(chief), setup, r->problem, sizeof(r->problem))) {
        setup_unref(setup);
        return false;
    }
    put_in_force(chief, setup);
    return true;
}

static void tell(struct chief *chief, struct reload_waiter **list, bool ok, const char *problem)
{
    struct reload_waiter *w;
    while ((w = *list) != NULL) {
        DL_DELETE(*list, w);
        w->told(chief, w->exchange, ok, problem);
        free(w);
    }
}

static void give_up(struct chief *chief)
{
    struct reload *r = &chief->reload;
    if (r->loaded)
        chief->gateway.host->unload(r->loaded);
    r->loaded = NULL;
    tell(chief, &r->waiting, false, draining);
    tell(chief, &r->waiting_for_next, false, draining);
}

static void begin(struct chief *chief);

static void finish(struct chief *chief)
{
    struct reload *r = &chief->reload;
    r->busy = false;
    if (atomic_load(&chief->gateway.draining)) {
        give_up(chief);
        return;
    }
    bool ok = apply(chief);
    metrics_reloaded(chief->gateway.metrics, ok, r->problem);
    if (ok)
        log_say(log_of(chief), DEPUTY_LOG_INFO, "reloaded", "policy", r->script);
    else
        log_say(log_of(chief), DEPUTY_LOG_ERROR, "the reload changed nothing", "problem", r->problem);
    if (ok) {
        const struct gateway_settings *s = &chief->gateway.setup->settings;
        if (s->warning)
            log_say(log_of(chief), DEPUTY_LOG_WARN, s->warning, NULL, NULL);
        control_renew(chief, s);
    }
    notify_ready();
    tell(chief, &r->waiting, ok, r->problem);
    if (r->again)
        begin(chief);
}

static void on_worked(uv_async_t *worked)
{
    struct chief *chief = worked->data;
    if (!chief->reload.busy)
        return;
    pthread_join(chief->reload.thread, NULL);
    finish(chief);
}

static void begin(struct chief *chief)
{
    struct reload *r = &chief->reload;
    r->busy = true;
    r->again = false;
    DL_CONCAT(r->waiting, r->waiting_for_next);
    r->waiting_for_next = NULL;
    r->loaded = NULL;
    r->problem[0] = '\0';
    memset(&r->settings, 0, sizeof(r->settings));
    look_at_script(r); /* before it is read: a change meanwhile is seen as one */
    notify_reloading();
    if (!start_work(chief)) {
        snprintf(r->problem, sizeof(r->problem), "no thread for it");
        finish(chief);
    }
}

/* ---- for the others --------------------------------------------------------------------------------------------- */

void reload_init(struct chief *chief, const char *script)
{
    snprintf(chief->reload.script, sizeof(chief->reload.script), "%s", script);
    look_at_script(&chief->reload);
}

void reload_open(struct chief *chief)
{
    struct reload *r = &chief->reload;
    uv_fs_event_init(&chief_worker(chief)->loop, &r->watch);
    uv_timer_init(&chief_worker(chief)->loop, &r->settle);
    uv_async_init(&chief_worker(chief)->loop, &r->worked, on_worked);
    r->watch.data = r->settle.data = r->worked.data = chief;
    r->open = true;
    watch_script(r);
}

void reload_close(struct chief *chief)
{
    struct reload *r = &chief->reload;
    if (!r->open)
        return;
    if (r->busy)
        pthread_join(r->thread, NULL);
    r->busy = r->open = false;
    give_up(chief);
    uv_close((uv_handle_t *)&r->watch, NULL);
    uv_close((uv_handle_t *)&r->settle, NULL);
    uv_close((uv_handle_t *)&r->worked, NULL);
}

void reload_ask(struct chief *chief, struct http1_exchange *exchange, reload_told told)
{
    struct reload *r = &chief->reload;
    struct reload_waiter *w = told ? malloc(sizeof(*w)) : NULL;
    if (atomic_load(&chief->gateway.draining) || (told && !w)) {
        if (told)
            told(chief, exchange, false, w ? draining : "out of memory");
        free(w);
        return;
    }
    if (w) {
        *w = (struct reload_waiter){.exchange = exchange, .told = told};
        DL_APPEND(r->waiting_for_next, w);
    }
    r->again = true;
    if (!r->busy)
        begin(chief);
}

static bool forget(struct reload_waiter **list, const struct http1_exchange *exchange)
{
    struct reload_waiter *w;
    DL_FOREACH (*list, w) {
        if (w->exchange != exchange)
            continue;
        DL_DELETE(*list, w);
        free(w);
        return true;
    }
    return false;
}

bool reload_forget(struct chief *chief, const struct http1_exchange *exchange)
{
    return forget(&chief->reload.waiting, exchange) || forget(&chief->reload.waiting_for_next, exchange);
}
