#include "central/watchdog.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <uv.h>

#define TICK_NS UINT64_C(250000000)

struct watchdog {
    uv_thread_t thread;
    uv_mutex_t mutex; /* over what follows */
    uv_cond_t wake;
    int fd;
    bool stops;
    _Atomic uint64_t since; /* nanoseconds; 0: no call is under way */
    bool runs;              /* the loop's own */
};

struct watchdog *watchdog_new(void)
{
    struct watchdog *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->fd = -1;
    if (uv_mutex_init(&w->mutex) != 0) {
        free(w);
        return NULL;
    }
    if (uv_cond_init(&w->wake) != 0) {
        uv_mutex_destroy(&w->mutex);
        free(w);
        return NULL;
    }
    return w;
}

static void look_on(void *user)
{
    struct watchdog *w = user;
    uv_mutex_lock(&w->mutex);
    while (!w->stops) {
        uv_cond_timedwait(&w->wake, &w->mutex, TICK_NS);
        uint64_t since = atomic_load(&w->since), now = uv_hrtime();
        if (w->fd < 0 || since == 0 || now < since || now - since < WATCHDOG_MS * UINT64_C(1000000))
            continue;
        shutdown(w->fd, SHUT_RDWR);
        w->fd = -1;
    }
    uv_mutex_unlock(&w->mutex);
}

void watchdog_watch(struct watchdog *w, int fd)
{
    uv_mutex_lock(&w->mutex);
    w->fd = fd;
    uv_mutex_unlock(&w->mutex);
    if (fd >= 0 && !w->runs)
        w->runs = uv_thread_create(&w->thread, look_on, w) == 0;
}

void watchdog_begin(struct watchdog *w)
{
    if (w->runs)
        atomic_store(&w->since, uv_hrtime());
}

void watchdog_end(struct watchdog *w)
{
    if (w->runs)
        atomic_store(&w->since, 0);
}

void watchdog_free(struct watchdog *w)
{
    if (!w)
        return;
    uv_mutex_lock(&w->mutex);
    w->stops = true;
    uv_cond_signal(&w->wake);
    uv_mutex_unlock(&w->mutex);
    if (w->runs)
        uv_thread_join(&w->thread);
    uv_cond_destroy(&w->wake);
    uv_mutex_destroy(&w->mutex);
    free(w);
}
