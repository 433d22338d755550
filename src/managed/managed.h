/* managed/managed.h - one model server and whoever wants it. Two sides meet here: the callers, on threads of their own,
 * under `lock`; and the owner's thread, which alone changes the state. */
#ifndef MANAGED_MANAGED_H
#define MANAGED_MANAGED_H

#include "managed/lease.h"
#include "managed/ring.h"
#include "managed/settings.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

struct child;
struct http_transfer;
struct owner;

enum managed_order { ORDER_START = 1, ORDER_STOP = 2, ORDER_RESTART = 4, ORDER_PREWARM = 8 };

enum managed_timer {
    TIMER_LAUNCH,  /* the pause before another start is over */
    TIMER_LATE,    /* the state has taken too long */
    TIMER_LOOK,    /* time to look at the health path */
    TIMER_IDLE,    /* time to see whether it is idle */
    TIMER_SUSPECT, /* those whose exchange broke have waited long enough */
    TIMERS
};

struct deputy_managed {
    struct deputy_managed *prev, *next; /* the owner's */
    struct owner *owner;
    struct settings settings;
    char **secrets;
    deputy_log_fn on_log;
    void *log_user;
    pthread_mutex_t log_lock; /* held while on_log runs, so that the last unref can wait for that */
    pthread_t logger;         /* the thread that on_log runs on, while logging */
    atomic_uint refs;
    atomic_bool logging;
    bool silent; /* under log_lock */

    bool served;  /* under lock, from here to `output`: this child has ended a run well */
    bool ill;     /* the last run that ended at it did not end well */
    bool closing; /* the last reference is gone */
    unsigned orders;
    deputy_managed_state state;
    pthread_mutex_t lock;
    uint64_t generation; /* of the child, from 1 */
    struct lease *waiting, *suspects;
    uint32_t n_waiting, active;
    uint64_t last_use_us, started_us, ready_us, failed_us;
    uint64_t starts, crashes, stops;
    pid_t pid, supervisor;
    uint16_t port;
    char last_exit[128], problem[256];
    struct ring output;

    /* the owner's thread alone */
    struct child *child;
    uv_timer_t timers[TIMERS];
    struct http_transfer *look;
    uint64_t ready_at;   /* when it got ready; 0: it did not */
    char look_says[160]; /* what the last bad look found */
    uint32_t look_ms;    /* the pause before the next look while it starts */
    uint32_t bad_looks;
    uint32_t strikes; /* starts in a row that failed */
    unsigned open_timers;
    bool kept;     /* started again when it ends by itself, though nobody waits */
    bool again;    /* a restart was ordered */
    bool hopeless; /* trying again would be the same */
    bool last_try; /* this start is the one that a failed server gets after a while */
    bool told;     /* to stop or restart: callers do not revive it while it drains */
    bool given_up; /* closing was seen */
};

/* The last lines of output, without secrets, in one line: at most size - 1 bytes, "" when there are none. Any thread.
 */
void managed_last_lines(struct deputy_managed *managed, char *text, size_t size);

/* The status but for the memory, without a look at /proc. Any thread. */
void managed_words(struct deputy_managed *managed, deputy_managed_status *status);

/* It has FAILED, and it is too early to try again. Under lock. */
bool managed_has_given_up(const struct deputy_managed *managed);

void managed_log(struct deputy_managed *managed, deputy_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* When the owner has no more of it, or never had. */
void managed_free(struct deputy_managed *managed);

/* Notes an order and tells the owner's thread. Any thread. */
void managed_order(struct deputy_managed *managed, enum managed_order order);

#endif
