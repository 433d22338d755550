#include "managed/launch.h"

#include "managed/child.h"
#include "managed/drive.h"
#include "managed/health.h"
#include "managed/port.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { WAIT_MS = 50 };

/* It never came to a process: the same events, all at once. */
static void fail_start(struct deputy_managed *m, const char *why)
{
    pthread_mutex_lock(&m->lock);
    snprintf(m->last_exit, sizeof(m->last_exit), "could not start: %.100s", why);
    pthread_mutex_unlock(&m->lock);
    drive_failed(m, "could not start: %s", why);
    drive_fire(m, LIFE_DIED);
}

static bool is_used_by_another(const struct deputy_managed *m, uint16_t port)
{
    for (const struct deputy_managed *other = m->owner->list; other; other = other->next)
        if (other != m && other->port == port)
            return true;
    return false;
}

/* 0: there is none, and why says it. */
static uint16_t choose_port(const struct deputy_managed *m, char *why, size_t size)
{
    uint16_t port = m->settings.port;
    int code = port ? port_check(port) : 0;
    if (code == EADDRINUSE)
        snprintf(why, size, "port %u of 127.0.0.1 is taken by another process: end that, or set another port",
                 (unsigned)port);
    else if (code)
        snprintf(why, size, "port %u of 127.0.0.1 cannot be had: %.80s", (unsigned)port, strerror(code));
    if (port)
        return code ? 0 : port;
    for (int i = 0; i < 16 && (port == 0 || is_used_by_another(m, port)); i++)
        port = port_pick();
    if (port == 0)
        snprintf(why, size, "no free port was found on 127.0.0.1: %.80s", strerror(errno));
    return port;
}

/* A reload makes the new one before the old one has ended: they share a port, or a GPU. */
static bool is_in_the_way(const struct deputy_managed *m, const struct deputy_managed *other)
{
    if (other == m || !other->child)
        return false;
    bool named = strcmp(other->settings.name, m->settings.name) == 0;
    bool there = m->settings.port && other->port == m->settings.port;
    return other->given_up ? named || there : named && there;
}

static bool waits_for_another(struct deputy_managed *m)
{
    const struct deputy_managed *other = m->owner->list;
    while (other && !is_in_the_way(m, other))
        other = other->next;
    if (!other)
        return false;
    snprintf(m->look_says, sizeof(m->look_says), "the server of an earlier configuration has not ended yet");
    if (!uv_is_active((uv_handle_t *)&m->timers[TIMER_LATE]))
        drive_timer(m, TIMER_LATE, m->settings.ready_ms);
    drive_timer(m, TIMER_LAUNCH, WAIT_MS);
    return true;
}

void launch_now(struct deputy_managed *m)
{
    char why[160];
    deputy_error error = {0};
    if (waits_for_another(m))
        return;
    uint16_t port = choose_port(m, why, sizeof(why));
    if (port == 0) {
        fail_start(m, why);
        return;
    }
    pthread_mutex_lock(&m->lock);
    m->port = port;
    m->generation++;
    m->active = 0;
    m->starts++;
    m->started_us = loop_now_us();
    m->served = m->ill = false;
    pthread_mutex_unlock(&m->lock);
    m->ready_at = 0;
    snprintf(m->look_says, sizeof(m->look_says), "nothing yet");
    if (child_start(m, port, &m->child, &error) != DEPUTY_OK) {
        fail_start(m, error.message);
        return;
    }
    drive_timer(m, TIMER_LATE, m->settings.ready_ms);
    health_begin(m);
}
