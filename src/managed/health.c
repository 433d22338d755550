#include "managed/health.h"

#include "managed/drive.h"
#include "managed/listener.h"
#include "net/http.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum {
    FIRST_MS = 10,
    PAUSE_MAX_MS = 250,
    START_MS = 2000, /* how long a look may take */
    READY_MS = 5000,
    AFTER_BAD_MS = 1000, /* before another look */
    SUSPECT_MS = 50,
    DEAF_AFTER = 3,
    STRANGER_AFTER = 3,  /* a server that forks while it is looked at may be missed once */
    DEAF_BUSY_AFTER = 12 /* a server that computes may have no time for a look */
};

/* ---- what it means ----------------------------------------------------------------------------------------------- */

static bool is_deaf(struct deputy_managed *m, bool refused)
{
    pthread_mutex_lock(&m->lock);
    bool busy = m->active > 0 && !m->ill && !m->suspects && !refused;
    pthread_mutex_unlock(&m->lock);
    return m->bad_looks >= (busy ? DEAF_BUSY_AFTER : DEAF_AFTER);
}

static bool has_suspects(struct deputy_managed *m)
{
    pthread_mutex_lock(&m->lock);
    bool has = m->suspects != NULL;
    pthread_mutex_unlock(&m->lock);
    return has;
}

static void looked_while_starting(struct deputy_managed *m, bool good)
{
    if (good) {
        drive_fire(m, LIFE_HEALTHY);
        return;
    }
    if (m->bad_looks >= STRANGER_AFTER) {
        drive_failed(m, "%s", m->look_says);
        drive_fire(m, LIFE_LATE);
        return;
    }
    m->look_ms = m->look_ms * 2 < PAUSE_MAX_MS ? m->look_ms * 2 : PAUSE_MAX_MS;
    drive_timer(m, TIMER_LOOK, m->look_ms);
}

/* A look takes two descriptors at a time. Without them every server seems to be deaf. */
static bool can_look(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    close(ends[0]);
    close(ends[1]);
    return true;
}

static void looked_while_ready(struct deputy_managed *m, bool good, bool refused)
{
    uint32_t pause = m->settings.health_ms;
    if (!good && !can_look()) {
        drive_timer(m, TIMER_LOOK, pause < AFTER_BAD_MS ? pause : AFTER_BAD_MS);
        return;
    }
    m->bad_looks = good ? 0 : m->bad_looks + 1;
    if (good) {
        drive_clear_suspects(m);
    } else if (is_deaf(m, refused)) {
        drive_failed(m, "no longer answers GET %.60s: %.120s", m->settings.health_path, m->look_says);
        drive_fire(m, LIFE_DEAF);
        return;
    } else {
        uint32_t sooner = has_suspects(m) ? SUSPECT_MS : AFTER_BAD_MS;
        pause = pause < sooner ? pause : sooner;
    }
    drive_timer(m, TIMER_LOOK, pause);
}

static void looked(struct deputy_managed *m, bool good, bool refused, const char *says)
{
    if (!good)
        snprintf(m->look_says, sizeof(m->look_says), "%s", says);
    if (m->state == DEPUTY_MANAGED_STARTING)
        looked_while_starting(m, good);
    else
        looked_while_ready(m, good, refused);
}

/* ---- who is looked at -------------------------------------------------------------------------------------------- */

/* A prompt and a key are only for the server that was started: whoever else got hold of its port would answer well,
 * too. True when it is the server that listens. */
static bool is_itself(struct deputy_managed *m)
{
    char says[sizeof(m->look_says)];
    enum listener who = m->settings.any_listener ? LISTENER_OURS : listener_at(m->port, m->supervisor);
    if (m->state == DEPUTY_MANAGED_STARTING)
        m->bad_looks = who == LISTENER_STRANGER ? m->bad_looks + 1 : 0;
    if (who == LISTENER_OURS)
        return true;
    if (who == LISTENER_NONE)
        snprintf(says, sizeof(says), "nobody listens on port %u", (unsigned)m->port);
    else if (who == LISTENER_STRANGER)
        snprintf(says, sizeof(says), "another process listens on its port %u of 127.0.0.1", (unsigned)m->port);
    else
        snprintf(says, sizeof(says), "/proc does not say who listens on port %u", (unsigned)m->port);
    looked(m, false, true, says);
    return false;
}

/* ---- the look ---------------------------------------------------------------------------------------------------- */

static void on_end(void *user, const struct http_result *result)
{
    struct deputy_managed *m = user;
    char says[sizeof(m->look_says)];
    bool answered = result->status && (result->end == HTTP_COMPLETE || result->end == HTTP_STOPPED);
    m->look = NULL;
    if (answered)
        snprintf(says, sizeof(says), "status %d", result->status);
    else
        snprintf(says, sizeof(says), "%.*s", (int)sizeof(says) - 1, result->message);
    bool good = answered && result->status >= 200 && result->status <= 299;
    if (!good || is_itself(m)) /* it may have lost the port while it was asked */
        looked(m, good, result->end == HTTP_CONNECT, says);
}

/* The status has said it all. */
static int on_bytes(void *user, const void *bytes, size_t len)
{
    (void)user, (void)bytes, (void)len;
    return DEPUTY_ECANCELED;
}

void health_begin(struct deputy_managed *m)
{
    m->bad_looks = 0;
    m->look_ms = FIRST_MS;
    drive_timer(m, TIMER_LOOK, m->look_ms);
}

void health_look(struct deputy_managed *m)
{
    char url[1024];
    uint32_t ms = m->settings.health_ms < READY_MS ? m->settings.health_ms : READY_MS;
    if (m->state == DEPUTY_MANAGED_STARTING)
        ms = START_MS;
    if (m->look || !is_itself(m))
        return;
    snprintf(url, sizeof(url), "http://127.0.0.1:%u%s", (unsigned)m->port, m->settings.health_path);
    struct http_request request = {
        .method = "GET",
        .url = url,
        .bearer = m->settings.api_key,
        .connect_ms = ms,
        .total_ms = ms,
        .fresh = true,
        .user = m,
        .on_bytes = on_bytes,
        .on_end = on_end,
    };
    if (http_start(m->owner->loop, &request, &m->look, NULL) != DEPUTY_OK)
        looked(m, false, false, "out of memory");
}

void health_stop(struct deputy_managed *m)
{
    http_cancel(m->look);
    m->look = NULL;
}
