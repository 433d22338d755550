#include "gateway/gateway.h"

#include "gateway/chief.h"
#include "relay/address.h"
#include "relay/memory.h"
#include "relay/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { END_TICK_MS = 20 };

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

static void say(const char *text)
{
    fprintf(stderr, "deputy serve: %s\n", text);
}

bool chief_may_listen(const char *listen, const struct gateway_settings *settings, char *problem, size_t size)
{
    if (address_is_local(listen) || settings->api_keys.n > 0)
        return true;
    snprintf(problem, size,
             "%s can be reached from other machines, and nobody would need a key: set gateway.apiKeys, or listen on "
             "127.0.0.1 or a Unix socket",
             listen);
    return false;
}

/* ---- signals
 * ----------------------------------------------------------------------------------------------------------- */

static void stop(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    if (chief->stops++ == 0) {
        notify_stopping();
        chief->late_ns = uv_hrtime() + chief_worker(chief)->current->setup->settings.drain_ms * UINT64_C(1000000);
        log_say(&chief_worker(chief)->log, DEPUTY_LOG_INFO, "draining", NULL, NULL);
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
        reload_ask(chief, NULL, NULL);
    else
        stop(chief);
}

static void listen_to_signals(struct chief *chief)
{
    uv_loop_t *loop = &chief_worker(chief)->loop;
    sigset_t hangup;
    uv_signal_init(loop, &chief->term);
    uv_signal_init(loop, &chief->interrupt);
    uv_signal_init(loop, &chief->hangup);
    chief->term.data = chief->interrupt.data = chief->hangup.data = chief;
    uv_signal_start(&chief->term, on_signal, SIGTERM);
    uv_signal_start(&chief->interrupt, on_signal, SIGINT);
    uv_signal_start(&chief->hangup, on_signal, SIGHUP);
    sigemptyset(&hangup); /* one may be waiting since before we could hear it */
    sigaddset(&hangup, SIGHUP);
    pthread_sigmask(SIG_UNBLOCK, &hangup, &chief->mask);
}

static void stop_listening(struct chief *chief)
{
    pthread_sigmask(SIG_SETMASK, &chief->mask, NULL);
    uv_close((uv_handle_t *)&chief->term, NULL);
    uv_close((uv_handle_t *)&chief->interrupt, NULL);
    uv_close((uv_handle_t *)&chief->hangup, NULL);
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

static bool open_first(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    const struct gateway_settings *s = &g->setup->settings;
    char problem[512];
    if (!chief_may_listen(s->listen, s, problem, sizeof(problem))) {
        say(problem);
        return false;
    }
    if (worker_open(&g->workers[0], g, 0, s->listen, -1))
        return control_open(chief, s);
    say(g->workers[0].problem);
    return false;
}

/* Within what is left of the drain: whoever starts the next gateway needs the ports and the memory that these have, and
 * in a container nothing outlives this process. */
static void let_host_end(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    if (!g->host->end)
        return;
    while (!g->host->end(g->host->user) && uv_hrtime() < chief->late_ns && !atomic_load(&g->hurry)) {
        uv_run(&chief_worker(chief)->loop, UV_RUN_NOWAIT); /* hears signals and the control socket */
        uv_sleep(END_TICK_MS);
    }
}

static bool serve(struct chief *chief)
{
    struct gateway *g = &chief->gateway;
    struct worker *w = chief_worker(chief);
    char address[256];
    unsigned started = 1;
    snprintf(address, sizeof(address), "%s", http1_address(w->server));
    while (started < g->n_workers && start_worker(g, started, address))
        started++;
    bool ok = started == g->n_workers;
    g->n_workers = started;
    listen_to_signals(chief);
    if (ok) {
        reload_open(chief);
        log_say(&w->log, DEPUTY_LOG_INFO, "listening", "address", address);
        control_explain(chief);
        if (g->setup->settings.warning)
            log_say(&w->log, DEPUTY_LOG_WARN, g->setup->settings.warning, NULL, NULL);
        notify_ready();
    } else {
        stop(chief);
    }
    worker_serve(w);
    for (unsigned i = 1; i < started; i++)
        pthread_join(g->workers[i].thread, NULL);
    let_host_end(chief);
    stop_listening(chief);
    reload_close(chief);
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
    memory_begin();
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
    reload_init(chief, settings->script);
    if (!g->workers || !g->metrics || !g->setup) {
        say("out of memory");
    } else if (open_first(chief)) {
        status = serve(chief) ? 0 : 1;
    }
    control_close(chief);
    if (g->workers)
        worker_close(&g->workers[0]);
    setup_unref(g->setup);
    metrics_free(g->metrics);
    free(g->workers);
    pthread_mutex_destroy(&g->lock);
    free(chief);
    return status;
}
