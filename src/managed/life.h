/* managed/life.h - the life of a model server as a table: state x event -> state, action. Pure: whoever turns the table
 * does what the action says. */
#ifndef MANAGED_LIFE_H
#define MANAGED_LIFE_H

#include "deputy/managed.h"

enum { LIFE_STATES = DEPUTY_MANAGED_FAILED + 1 };

/* clang-format off */
#define LIFE_EVENTS(X)                                                                                                 \
    X(CALLER)   /* an allowed caller waits */                                                                          \
    X(RETRY)    /* the same, long after it failed */                                                                   \
    X(START)    /* it is to run: ordered, or wanted beforehand */                                                      \
    X(HEALTHY)  /* the health path answered well */                                                                    \
    X(DEAF)     /* it did not, too often */                                                                            \
    X(LATE)     /* the time that the state may take has passed */                                                      \
    X(IDLE)     /* nobody has used it for long */                                                                      \
    X(STOP)     /* ordered */                                                                                          \
    X(RESTART)  /* ordered */                                                                                          \
    X(DRAINED)  /* the last run has ended */                                                                           \
    X(DIED)     /* the server ended by itself; its family may not be gone yet */                                       \
    X(GONE)     /* the last process of the family is gone, and nobody wants it back */                                 \
    X(AGAIN)    /* the same, but it is wanted */                                                                       \
    X(HOPELESS) /* the same, but it has failed too often */
/* clang-format on */

enum life_event {
#define X(name) LIFE_##name,
    LIFE_EVENTS(X)
#undef X
        LIFE_EVENTS_N
};

enum life_action {
    LIFE_NEVER,   /* cannot happen: a mistake in the program; the state stays */
    LIFE_NOTHING, /* nothing to do */
    LIFE_LAUNCH,  /* start the server, after the pause that its failures have earned */
    LIFE_SERVE,   /* hand out places */
    LIFE_REFUSE,  /* turn away those who wait, with the problem */
    LIFE_DRAIN,   /* hand out no more places, wait for those in use */
    LIFE_END,     /* end the family: SIGTERM, grace, SIGKILL */
    LIFE_KILL     /* the supervisor does not do it: kill them all from here */
};

struct life_step {
    deputy_managed_state to;
    enum life_action action;
};

struct life_step life_step(deputy_managed_state state, enum life_event event);
const char *life_event_name(enum life_event event);

#endif
