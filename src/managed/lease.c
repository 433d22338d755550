#include "managed/lease.h"

#include "base/error.h"
#include "managed/managed.h"
#include "managed/owner.h"
#include "net/loop.h"

#include <stdio.h>
#include <utlist.h>

static void hold(struct deputy_managed *m, struct lease *lease)
{
    lease->state = LEASE_HELD;
    lease->generation = m->generation;
    lease->port = m->port;
    m->active++;
}

static void serve(struct deputy_managed *m)
{
    while (m->state == DEPUTY_MANAGED_READY && m->waiting && m->active < m->settings.max_concurrent) {
        struct lease *lease = m->waiting;
        DL_DELETE(m->waiting, lease);
        m->n_waiting--;
        hold(m, lease);
        lease->settled(lease);
    }
}

int lease_take(struct deputy_managed *m, struct lease *lease, deputy_error *error)
{
    int code = DEPUTY_PAUSE;
    pthread_mutex_lock(&m->lock);
    bool ready = m->state == DEPUTY_MANAGED_READY;
    lease->managed = m;
    if (managed_has_given_up(m)) {
        code = error_set(error, DEPUTY_EFAILED, "it has failed: %s", m->problem);
    } else if (ready && !m->waiting && m->active < m->settings.max_concurrent) {
        hold(m, lease);
        code = DEPUTY_OK;
    } else if (m->n_waiting >= m->settings.max_queued) {
        code = error_set(error, DEPUTY_ELIMIT, "%u callers wait for it already", (unsigned)m->n_waiting);
    } else {
        lease->state = LEASE_WAITING;
        DL_APPEND(m->waiting, lease);
        m->n_waiting++;
    }
    pthread_mutex_unlock(&m->lock);
    if (code == DEPUTY_PAUSE && !ready)
        owner_wake(m->owner);
    return code;
}

static void give_place_back(struct deputy_managed *m, const struct lease *lease, enum lease_end end)
{
    if (lease->generation == m->generation) /* runs at one that has died take no place at the next */
        m->active--;
    m->last_use_us = loop_now_us();
    if (end != LEASE_UNUSED && lease->generation == m->generation) {
        m->served = m->served || end == LEASE_WELL;
        m->ill = end == LEASE_ILL;
    }
    serve(m);
}

void lease_return(struct lease *lease, enum lease_end end)
{
    struct deputy_managed *m = lease->managed;
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    if (lease->state == LEASE_WAITING) {
        DL_DELETE(m->waiting, lease);
        m->n_waiting--;
    } else if (lease->state == LEASE_SUSPECT) {
        DL_DELETE(m->suspects, lease);
    }
    if (lease->state == LEASE_HELD || lease->state == LEASE_SUSPECT)
        give_place_back(m, lease, end);
    bool drained = m->state == DEPUTY_MANAGED_DRAINING && m->active == 0;
    lease->state = LEASE_NONE;
    pthread_mutex_unlock(&m->lock);
    if (drained)
        owner_wake(m->owner);
}

bool lease_holds(struct lease *lease)
{
    struct deputy_managed *m = lease->managed;
    pthread_mutex_lock(&m->lock);
    bool runs = m->state == DEPUTY_MANAGED_READY || m->state == DEPUTY_MANAGED_DRAINING;
    bool holds = lease->state == LEASE_HELD && runs && lease->generation == m->generation;
    pthread_mutex_unlock(&m->lock);
    return holds;
}

void lease_suspect(struct lease *lease)
{
    struct deputy_managed *m = lease->managed;
    pthread_mutex_lock(&m->lock);
    bool runs = m->state == DEPUTY_MANAGED_READY || m->state == DEPUTY_MANAGED_DRAINING;
    if (runs && lease->generation == m->generation) {
        lease->state = LEASE_SUSPECT;
        DL_APPEND(m->suspects, lease);
    } else {
        lease->settled(lease); /* it is known already */
    }
    pthread_mutex_unlock(&m->lock);
    owner_wake(m->owner);
}

enum lease_state lease_state(struct lease *lease)
{
    struct deputy_managed *m = lease->managed;
    pthread_mutex_lock(&m->lock);
    enum lease_state state = lease->state;
    pthread_mutex_unlock(&m->lock);
    return state;
}

void lease_serve(struct deputy_managed *m)
{
    pthread_mutex_lock(&m->lock);
    serve(m);
    pthread_mutex_unlock(&m->lock);
}

void lease_deny(struct deputy_managed *m, const char *why)
{
    pthread_mutex_lock(&m->lock);
    while (m->waiting) {
        struct lease *lease = m->waiting;
        DL_DELETE(m->waiting, lease);
        m->n_waiting--;
        lease->state = LEASE_DENIED;
        snprintf(lease->why, sizeof(lease->why), "%s", why ? why : m->problem);
        lease->settled(lease);
    }
    pthread_mutex_unlock(&m->lock);
}

void lease_clear(struct deputy_managed *m)
{
    pthread_mutex_lock(&m->lock);
    while (m->suspects) {
        struct lease *lease = m->suspects;
        DL_DELETE(m->suspects, lease);
        lease->state = LEASE_HELD;
        lease->settled(lease);
    }
    pthread_mutex_unlock(&m->lock);
}
