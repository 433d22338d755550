#include "managed/drive.h"

#include "managed/child.h"
#include "managed/health.h"
#include "managed/launch.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    DRAIN_MS = 30000,
    STOP_MARGIN_MS = 5000, /* over the grace: then the supervisor does not do what it is for */
    BACKOFF_MAX_MS = 60000,
    SUSPECT_MS = 500,
    PROVEN_US = 60000000
};

static void stop_timer(struct deputy_managed *m, enum managed_timer timer)
{
    uv_timer_stop(&m->timers[timer]);
}

/* ---- what went wrong --------------------------------------------------------------------------------------------- */

/* A start that has shown that it can serve begins the count anew. */
void drive_failed(struct deputy_managed *m, const char *format, ...)
{
    char text[sizeof(m->problem)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    pthread_mutex_lock(&m->lock);
    bool proven = m->ready_at && (m->served || loop_now_us() - m->ready_at >= PROVEN_US);
    m->strikes = proven ? 1 : m->strikes + 1;
    m->last_try = m->last_try && !proven;
    m->crashes++;
    snprintf(m->problem, sizeof(m->problem), "%s", text);
    pthread_mutex_unlock(&m->lock);
    managed_log(m, DEPUTY_LOG_WARN, "%s", text);
}

/* ---- actions ----------------------------------------------------------------------------------------------------- */

static void launch_after_pause(struct deputy_managed *m)
{
    uint64_t ms = m->strikes > 0 ? m->settings.backoff_ms : 0;
    for (uint32_t i = 1; i < m->strikes && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    if (ms > BACKOFF_MAX_MS)
        ms = BACKOFF_MAX_MS;
    if (ms > 0)
        drive_timer(m, TIMER_LAUNCH, ms);
    else
        launch_now(m);
}

static void begin_to_serve(struct deputy_managed *m)
{
    stop_timer(m, TIMER_LATE);
    if (!m->ready_at) {
        uint64_t now = m->ready_at = loop_now_us();
        pthread_mutex_lock(&m->lock);
        m->last_use_us = now;
        m->ready_us = now - m->started_us;
        m->problem[0] = '\0';
        pthread_mutex_unlock(&m->lock);
        managed_log(m, DEPUTY_LOG_INFO, "ready after %.1f s, process %ld, port %u", (double)m->ready_us / 1e6,
                    (long)m->pid, (unsigned)m->port);
        drive_timer(m, TIMER_LOOK, m->settings.health_ms);
    }
    if (m->settings.idle_ms != UINT32_MAX)
        drive_timer(m, TIMER_IDLE, m->settings.idle_ms);
    lease_serve(m);
}

static void end_family(struct deputy_managed *m)
{
    for (int i = 0; i < TIMERS; i++)
        stop_timer(m, (enum managed_timer)i);
    health_stop(m);
    lease_clear(m);
    if (!m->child) {
        drive_gone(m);
        return;
    }
    child_stop(m->child);
    drive_timer(m, TIMER_LATE, (uint64_t)m->settings.stop_grace_ms + STOP_MARGIN_MS);
}

static void act(struct deputy_managed *m, enum life_action action)
{
    switch (action) {
    case LIFE_LAUNCH:
        launch_after_pause(m);
        break;
    case LIFE_SERVE:
        begin_to_serve(m);
        break;
    case LIFE_REFUSE:
        lease_deny(m, NULL);
        break;
    case LIFE_DRAIN:
        stop_timer(m, TIMER_IDLE);
        drive_timer(m, TIMER_LATE, DRAIN_MS);
        break;
    case LIFE_END:
        end_family(m);
        break;
    case LIFE_KILL:
        managed_log(m, DEPUTY_LOG_ERROR, "the supervisor did not end the family in time: it is killed");
        child_kill(m->child);
        drive_timer(m, TIMER_LATE, STOP_MARGIN_MS);
        break;
    case LIFE_NEVER:
    case LIFE_NOTHING:
        break;
    }
}

static bool is_a_stop(deputy_managed_state before, enum life_event event)
{
    return event == LIFE_DRAINED || event == LIFE_STOP || event == LIFE_RESTART ||
           (event == LIFE_LATE && before == DEPUTY_MANAGED_DRAINING);
}

void drive_fire(struct deputy_managed *m, enum life_event event)
{
    deputy_managed_state before = m->state;
    struct life_step step = life_step(before, event);
    if (step.action == LIFE_NEVER) {
        managed_log(m, DEPUTY_LOG_ERROR, "a mistake in the program: %s while %s", life_event_name(event),
                    deputy_managed_state_name(before));
        return;
    }
    pthread_mutex_lock(&m->lock);
    m->state = step.to;
    if (step.to == DEPUTY_MANAGED_FAILED && before != step.to)
        m->failed_us = loop_now_us();
    if (step.to == DEPUTY_MANAGED_STOPPING && step.action == LIFE_END && is_a_stop(before, event))
        m->stops++;
    pthread_mutex_unlock(&m->lock);
    if (step.to != before)
        managed_log(m, DEPUTY_LOG_DEBUG, "%s, was %s (%s)", deputy_managed_state_name(step.to),
                    deputy_managed_state_name(before), life_event_name(event));
    act(m, step.action);
}

/* ---- what the child does ----------------------------------------------------------------------------------------- */

/* Between what one process wrote and the next. */
static void mark_start(struct ring *output, pid_t pid)
{
    char mark[64], last = '\n';
    if (ring_copy(output, &last, 1) == 0)
        return;
    int len = snprintf(mark, sizeof(mark), "%s-- started, process %ld --\n", last == '\n' ? "" : "\n", (long)pid);
    ring_add(output, mark, (size_t)len);
}

void drive_started(struct deputy_managed *m, pid_t pid)
{
    pthread_mutex_lock(&m->lock);
    m->pid = pid;
    mark_start(&m->output, pid);
    pthread_mutex_unlock(&m->lock);
    managed_log(m, DEPUTY_LOG_INFO, "started as process %ld, port %u", (long)pid, (unsigned)m->port);
}

static const char *while_words(deputy_managed_state state)
{
    return state == DEPUTY_MANAGED_STARTING ? "before it was ready" : "while it was serving";
}

void drive_ended(struct deputy_managed *m, const char *how, bool hopeless)
{
    deputy_managed_state state = m->state;
    pthread_mutex_lock(&m->lock);
    m->pid = 0;
    snprintf(m->last_exit, sizeof(m->last_exit), "%s", how);
    pthread_mutex_unlock(&m->lock);
    m->hopeless = m->hopeless || hopeless;
    if (state == DEPUTY_MANAGED_STOPPING)
        managed_log(m, DEPUTY_LOG_INFO, "ended: %s", how);
    else if (hopeless || strncmp(how, "could not", 9) == 0)
        drive_failed(m, "%s", how);
    else
        drive_failed(m, "ended %s: %s", while_words(state), how);
    drive_fire(m, LIFE_DIED);
}

/* One that was told to end has not failed, however it ended. */
static enum life_event end_of_family(struct deputy_managed *m)
{
    bool too_often = m->settings.restarts != UINT32_MAX && m->strikes >= m->settings.restarts;
    bool failed = !m->told && (m->hopeless || (m->last_try && m->strikes > 0) || too_often);
    pthread_mutex_lock(&m->lock);
    bool wanted = !m->closing && (m->waiting || m->again || m->kept);
    pthread_mutex_unlock(&m->lock);
    return failed ? LIFE_HOPELESS : wanted ? LIFE_AGAIN : LIFE_GONE;
}

void drive_gone(struct deputy_managed *m)
{
    m->child = NULL;
    stop_timer(m, TIMER_LATE);
    m->ready_at = 0;
    pthread_mutex_lock(&m->lock);
    m->pid = m->supervisor = 0;
    m->port = 0;
    m->started_us = 0;
    pthread_mutex_unlock(&m->lock);
    enum life_event event = end_of_family(m);
    m->again = m->told = m->last_try = false;
    drive_fire(m, event);
}

void drive_output(struct deputy_managed *m, const char *bytes, size_t len)
{
    pthread_mutex_lock(&m->lock);
    ring_add(&m->output, bytes, len);
    pthread_mutex_unlock(&m->lock);
}

void drive_clear_suspects(struct deputy_managed *m)
{
    stop_timer(m, TIMER_SUSPECT);
    lease_clear(m);
}

/* ---- timers ------------------------------------------------------------------------------------------------------ */

static void on_late(struct deputy_managed *m)
{
    if (m->state == DEPUTY_MANAGED_STARTING)
        drive_failed(m, "not ready after %.1f s: GET %.60s: %.120s", (double)m->settings.ready_ms / 1e3,
                     m->settings.health_path, m->look_says);
    drive_fire(m, LIFE_LATE);
}

static void on_idle(struct deputy_managed *m)
{
    uint64_t limit = m->settings.idle_ms, now = loop_now_us();
    pthread_mutex_lock(&m->lock);
    uint64_t since = (now - m->last_use_us) / 1000;
    bool used = m->active > 0 || m->waiting;
    pthread_mutex_unlock(&m->lock);
    if (used || since < limit) {
        drive_timer(m, TIMER_IDLE, used ? limit : limit - since);
        return;
    }
    m->kept = false;
    m->strikes = 0; /* it has done well until now */
    drive_fire(m, LIFE_IDLE);
}

static void on_timer(uv_timer_t *timer)
{
    struct deputy_managed *m = timer->data;
    switch ((enum managed_timer)(timer - m->timers)) {
    case TIMER_LAUNCH:
        launch_now(m);
        break;
    case TIMER_LATE:
        on_late(m);
        break;
    case TIMER_LOOK:
        health_look(m);
        break;
    case TIMER_IDLE:
        on_idle(m);
        break;
    case TIMER_SUSPECT:
    case TIMERS:
        lease_clear(m);
        break;
    }
}

void drive_timer(struct deputy_managed *m, enum managed_timer timer, uint64_t ms)
{
    uv_update_time(loop_uv(m->owner->loop));
    uv_timer_start(&m->timers[timer], on_timer, ms, 0);
}

/* ---- what the callers want --------------------------------------------------------------------------------------- */

static void stop_by_order(struct deputy_managed *m)
{
    lease_deny(m, "it was told to stop");
    m->kept = m->again = m->hopeless = false;
    m->told = m->state != DEPUTY_MANAGED_STOPPED && m->state != DEPUTY_MANAGED_FAILED;
    m->strikes = 0;
    drive_fire(m, LIFE_STOP);
}

static void obey(struct deputy_managed *m, unsigned orders)
{
    if (orders & ORDER_STOP)
        stop_by_order(m);
    if (orders & (ORDER_START | ORDER_RESTART)) {
        m->hopeless = false;
        m->strikes = 0;
    }
    if (orders & ORDER_RESTART) {
        m->again = m->state != DEPUTY_MANAGED_STOPPED && m->state != DEPUTY_MANAGED_FAILED;
        m->told = m->state == DEPUTY_MANAGED_READY || m->state == DEPUTY_MANAGED_DRAINING;
        drive_fire(m, LIFE_RESTART);
    }
    if (orders & ORDER_START) {
        m->kept = true;
        if (m->state != DEPUTY_MANAGED_DRAINING || !m->again) { /* else the restart brings it back */
            m->told = false;
            drive_fire(m, LIFE_START);
        }
    }
    if ((orders & ORDER_PREWARM) && m->state == DEPUTY_MANAGED_STOPPED)
        drive_fire(m, LIFE_START);
}

static void look_at_suspects(struct deputy_managed *m)
{
    if (uv_is_active((uv_handle_t *)&m->timers[TIMER_SUSPECT]))
        return;
    drive_timer(m, TIMER_SUSPECT, SUSPECT_MS);
    drive_timer(m, TIMER_LOOK, 0);
}

/* One try, at once: when it fails like those before, it has FAILED again. */
static void retry(struct deputy_managed *m)
{
    m->hopeless = false;
    m->strikes = 0;
    m->last_try = true;
    drive_fire(m, LIFE_RETRY);
}

bool drive_step(struct deputy_managed *m)
{
    pthread_mutex_lock(&m->lock);
    unsigned orders = m->orders;
    bool given_up = managed_has_given_up(m);
    bool waiting = m->waiting != NULL, active = m->active > 0, closing = m->closing, suspects = m->suspects != NULL;
    m->orders = 0;
    pthread_mutex_unlock(&m->lock);
    if (closing && !m->given_up) {
        m->given_up = true;
        orders = ORDER_STOP;
    }
    obey(m, orders);
    if (m->state == DEPUTY_MANAGED_DRAINING && (waiting || active) && !m->told)
        drive_fire(m, LIFE_CALLER);
    else if (m->state == DEPUTY_MANAGED_DRAINING && !active)
        drive_fire(m, LIFE_DRAINED);
    else if (waiting && m->state == DEPUTY_MANAGED_FAILED && !given_up)
        retry(m);
    else if (waiting && (m->state == DEPUTY_MANAGED_STOPPED || m->state == DEPUTY_MANAGED_FAILED))
        drive_fire(m, LIFE_CALLER);
    if (suspects && (m->state == DEPUTY_MANAGED_READY || m->state == DEPUTY_MANAGED_DRAINING))
        look_at_suspects(m);
    return !closing || m->child || (m->state != DEPUTY_MANAGED_STOPPED && m->state != DEPUTY_MANAGED_FAILED);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void drive_begin(struct deputy_managed *m)
{
    for (int i = 0; i < TIMERS; i++) {
        uv_timer_init(loop_uv(m->owner->loop), &m->timers[i]);
        m->timers[i].data = m;
    }
    m->open_timers = TIMERS;
    m->owner->handles += TIMERS;
    if (m->settings.prewarm == DEPUTY_PREWARM_AT_START)
        managed_order(m, ORDER_START);
}

static void on_closed(uv_handle_t *handle)
{
    struct deputy_managed *m = handle->data;
    m->owner->handles--;
    if (--m->open_timers == 0)
        managed_free(m);
}

void drive_end(struct deputy_managed *m)
{
    for (int i = 0; i < TIMERS; i++)
        uv_close((uv_handle_t *)&m->timers[i], on_closed);
}
