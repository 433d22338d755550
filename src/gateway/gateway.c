#include "gateway/gateway.h"

#include "gateway/worker.h"
#include "relay/address.h"
#include "relay/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SETTLE_MS = 200 };

/* The first worker's, with what only it does. */
struct chief {
    struct gateway gateway;
    char listen[256]; /* as it was at the start: it stays */
    uv_signal_t term, interrupt, hangup;
    uv_fs_event_t watch;
    uv_timer_t settle;
    bool watching;
    char script[4096];
    struct stat seen; /* the script, as it was loaded */
    unsigned stops;
};

/* A thread that is being started. */
struct start {
    struct worker *worker;
    struct gateway *gateway;
    unsigned number;
    const char *address;
    int fd;
    sem_t done;
    bool ok;
};

static struct worker *first(struct chief *chief)
{
    return &chief->gateway.workers[0];
}

static void say(const char *text)
{
    fprintf(stderr, "deputy serve: %s\n", text);
}

/* ---- reloading
 * --------------------------------------------------------------------------------------------------------- */

static void look_at_script(struct chief *chief)
{
    if (stat(chief->script, &chief->seen) != 0)
        memset(&chief->seen, 0, sizeof(chief->seen));
}

static bool script_changed(const struct chief *chief)
{
    struct stat now;
    if (stat(chief->script, &now) != 0) /* between two states of an editor that replaces it */
        return false;
    return now.st_ino != chief->seen.st_ino || now.st_size != chief->seen.st_size ||
           now.st_mtim.tv_sec != chief->seen.st_mtim.tv_sec || now.st_mtim.tv_nsec != chief->seen.st_mtim.tv_nsec;
}

static void watch_script(struct chief *chief, const char *script);

static bool may_listen(const char *listen, const struct gateway_settings *settings, char *problem, size_t size)
{
    if (address_is_local(listen) || settings->api_keys.n > 0)
        return true;
    snprintf(problem, size,
             "%s can be reached from other machines, and nobody would need a key: set gateway.apiKeys, or listen on "
             "127.0.0.1 or a Unix socket",
             listen);
    return false;
}

/* What cannot change while we run stays as it was. */
static void keep_listening(struct chief *chief, struct gateway_settings *settings)
{
    if (strcmp(settings->listen, chief->listen) != 0 || settings->workers != chief->gateway.n_workers)
        log_say(&first(chief)->log, DEPUTY_LOG_WARN, "gateway.listen and gateway.workers change with a restart alone",
                NULL, NULL);
    settings->listen = chief->listen;
}

static bool try_reload(struct chief *chief, char *problem, size_t size)
{
    struct gateway *g = &chief->gateway;
    struct gateway_settings settings = {0};
    void *loaded = g->host->load(g->host->user, &settings, problem, size);
    if (!loaded)
        return false;
    if (!may_listen(chief->listen, &settings, problem, size)) {
        g->host->unload(loaded);
        return false;
    }
    keep_listening(chief, &settings);
    struct setup *setup = setup_new(g->host, loaded, &settings);
    if (!setup) {
        snprintf(problem, size, "out of memory");
        return false;
    }
    snprintf(chief->script, sizeof(chief->script), "%s", settings.script);
    look_at_script(chief); /* before it is read: a change meanwhile is seen as one */
    if (!worker_renew(first(chief), setup, problem, size)) {
        setup_unref(setup);
        return false;
    }
    pthread_mutex_lock(&g->lock);
    struct setup *old = g->setup;
    g->setup = setup;
    pthread_mutex_unlock(&g->lock);
    setup_unref(old);
    for (unsigned i = 1; i < g->n_workers; i++)
        worker_wake(&g->workers[i]);
    watch_script(chief, settings.script);
    return true;
}

static void reload(struct chief *chief)
{
    char problem[512] = "";
    struct log *log = &first(chief)->log;
    if (atomic_load(&chief->gateway.draining))
        return;
    notify_reloading();
    bool ok = try_reload(chief, problem, sizeof(problem));
    metrics_reloaded(chief->gateway.metrics, ok, problem);
    if (ok)
        log_say(log, DEPUTY_LOG_INFO, "reloaded", "policy", chief->script);
    else
        log_say(log, DEPUTY_LOG_ERROR, "the reload changed nothing", "problem", problem);
    notify_ready();
}

static void on_settled(uv_timer_t *timer)
{
    struct chief *chief = timer->data;
    if (script_changed(chief))
        reload(chief);
}

/* Editors write in several steps: what counts is how the file is when it has been quiet for a while. */
static void on_change(uv_fs_event_t *watch, const char *name, int events, int status)
{
    struct chief *chief = watch->data;
    (void)name;
    (void)events;
    if (status == 0)
        uv_timer_start(&chief->settle, on_settled, SETTLE_MS, 0);
}

/* The folder, since a file that is replaced is no longer the one that was watched. */
static void watch_script(struct chief *chief, const char *script)
{
    char folder[4096];
    const char *slash = strrchr(script, '/');
    int n = slash ? snprintf(folder, sizeof(folder), "%.*s", (int)(slash - script), script)
                  : snprintf(folder, sizeof(folder), ".");
    if (chief->watching)
        uv_fs_event_stop(&chief->watch);
    chief->watching = n >= 0 && (size_t)n < sizeof(folder) &&
                      uv_fs_event_start(&chief->watch, on_change, folder[0] ? folder : "/", 0) == 0;
}

/* ---- signals
 * ----------------------------------------------------------------------------------------------------------- */

static void stop(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    if (chief->stops++ == 0) {
        notify_stopping();
        log_say(&first(chief)->log, DEPUTY_LOG_INFO, "draining", NULL, NULL);
        atomic_store(&g->draining, true);
    } else {
        atomic_store(&g->hurry, true); /* whoever asks twice does not want to wait */
    }
    for (unsigned i = 0; i < g->n_workers; i++)
        worker_wake(&g->workers[i]);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct chief *chief = handle->data;
    if (number == SIGHUP)
        reload(chief);
    else
        stop(chief);
}

static void listen_to_signals(struct chief *chief)
{
    uv_loop_t *loop = &first(chief)->loop;
    uv_signal_init(loop, &chief->term);
    uv_signal_init(loop, &chief->interrupt);
    uv_signal_init(loop, &chief->hangup);
    uv_fs_event_init(loop, &chief->watch);
    uv_timer_init(loop, &chief->settle);
    chief->term.data = chief->interrupt.data = chief->hangup.data = chief->watch.data = chief->settle.data = chief;
    uv_signal_start(&chief->term, on_signal, SIGTERM);
    uv_signal_start(&chief->interrupt, on_signal, SIGINT);
    uv_signal_start(&chief->hangup, on_signal, SIGHUP);
}

static void stop_listening(struct chief *chief)
{
    uv_close((uv_handle_t *)&chief->term, NULL);
    uv_close((uv_handle_t *)&chief->interrupt, NULL);
    uv_close((uv_handle_t *)&chief->hangup, NULL);
    uv_close((uv_handle_t *)&chief->watch, NULL);
    uv_close((uv_handle_t *)&chief->settle, NULL);
}

/* ---- workers
 * ----------------------------------------------------------------------------------------------------------- */

static void *run_worker(void *user)
{
    struct start *start = user;
    struct worker *w = start->worker;
    bool ok = worker_open(w, start->gateway, start->number, start->address, start->fd);
    start->ok = ok;
    sem_post(&start->done); /* start is gone from here on */
    if (ok)
        worker_serve(w);
    worker_close(w);
    return NULL;
}

static bool start_worker(struct gateway *g, unsigned number, const char *address)
{
    struct worker *w = &g->workers[number];
    bool by_socket = strncmp(address, "unix:", 5) == 0;
    struct start start = {.worker = w, .gateway = g, .number = number, .address = address, .fd = -1};
    if (by_socket && (start.fd = fcntl(http1_fd(g->workers[0].server), F_DUPFD_CLOEXEC, 0)) < 0) {
        say("cannot share the listening socket among workers: out of descriptors");
        return false;
    }
    sem_init(&start.done, 0, 0);
    int code = pthread_create(&w->thread, NULL, run_worker, &start);
    if (code == 0) {
        while (sem_wait(&start.done) != 0 && errno == EINTR) {
        }
        if (!start.ok) {
            pthread_join(w->thread, NULL);
            say(w->problem);
        }
    } else {
        if (start.fd >= 0)
            close(start.fd);
        say("cannot start a worker thread");
    }
    sem_destroy(&start.done);
    return code == 0 && start.ok;
}

/* Two processes of one user can share a port by SO_REUSEPORT without knowing: whoever listens already is found this
 * way. */
static bool port_is_free(const char *address)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    const char *colon = strrchr(address, ':');
    char host[256];
    size_t n = colon ? (size_t)(colon - address) : 0;
    bool taken = false;
    int on = 1;
    bool bracketed = n > 2 && address[0] == '[';
    if (strncmp(address, "unix:", 5) == 0 || n == 0 || n >= sizeof(host))
        return true; /* http1 looks at it, and says what is wrong */
    snprintf(host, sizeof(host), "%.*s", (int)(bracketed ? n - 2 : n), address + bracketed);
    if (getaddrinfo(host, colon + 1, &hints, &list) != 0)
        return true;
    for (const struct addrinfo *at = list; at && !taken; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        taken = bind(fd, at->ai_addr, at->ai_addrlen) != 0 && errno == EADDRINUSE;
        close(fd);
    }
    freeaddrinfo(list);
    return !taken;
}

static bool open_first(struct gateway *g)
{
    const struct gateway_settings *s = &g->setup->settings;
    char problem[512];
    if (!may_listen(s->listen, s, problem, sizeof(problem))) {
        say(problem);
        return false;
    }
    if (g->n_workers > 1 && !port_is_free(s->listen)) {
        snprintf(problem, sizeof(problem), "cannot listen on %s: address already in use", s->listen);
        say(problem);
        return false;
    }
    if (worker_open(&g->workers[0], g, 0, s->listen, -1))
        return true;
    say(g->workers[0].problem);
    return false;
}

static bool serve(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    struct worker *w = first(chief);
    char address[256];
    unsigned started = 1;
    snprintf(address, sizeof(address), "%s", http1_address(w->server));
    while (started < g->n_workers && start_worker(g, started, address))
        started++;
    bool ok = started == g->n_workers;
    g->n_workers = started;
    listen_to_signals(chief);
    if (ok) {
        watch_script(chief, chief->script);
        log_say(&w->log, DEPUTY_LOG_INFO, "listening", "address", address);
        notify_ready();
    } else {
        stop(chief);
    }
    worker_serve(w);
    for (unsigned i = 1; i < started; i++)
        pthread_join(g->workers[i].thread, NULL);
    stop_listening(chief);
    if (ok)
        log_say(&w->log, DEPUTY_LOG_INFO, "ended", NULL, NULL);
    return ok;
}

int gateway_run(const struct gateway_host *host, void *loaded, const struct gateway_settings *settings)
{
    struct chief *chief = calloc(1, sizeof(*chief));
    int status = 1;
    if (!chief) {
        host->unload(loaded);
        say("out of memory");
        return 1;
    }
    struct gateway *g = &chief->gateway;
    struct gateway_settings own = *settings;
    snprintf(chief->listen, sizeof(chief->listen), "%s", settings->listen);
    own.listen = chief->listen;
    g->host = host;
    g->n_workers = settings->workers;
    pthread_mutex_init(&g->lock, NULL);
    if (getrandom(&g->boot, sizeof(g->boot), GRND_NONBLOCK) != (ssize_t)sizeof(g->boot))
        g->boot = (uint32_t)getpid();
    g->workers = calloc(settings->workers, sizeof(*g->workers));
    g->metrics = metrics_new(settings->workers);
    g->setup = setup_new(host, loaded, &own);
    snprintf(chief->script, sizeof(chief->script), "%s", settings->script);
    look_at_script(chief);
    if (!g->workers || !g->metrics || !g->setup) {
        say("out of memory");
    } else if (open_first(g)) {
        status = serve(chief) ? 0 : 1;
    }
    if (g->workers)
        worker_close(&g->workers[0]);
    setup_unref(g->setup);
    metrics_free(g->metrics);
    free(g->workers);
    pthread_mutex_destroy(&g->lock);
    free(chief);
    return status;
}
