#include "managed/life.h"

enum { SAME = LIFE_STATES };

struct cell {
    unsigned char to, action;
};

/* clang-format off */
#define stopped  {DEPUTY_MANAGED_STOPPED, LIFE_NOTHING}
#define starting {DEPUTY_MANAGED_STARTING, LIFE_LAUNCH}
#define ready    {DEPUTY_MANAGED_READY, LIFE_SERVE}
#define draining {DEPUTY_MANAGED_DRAINING, LIFE_DRAIN}
#define stopping {DEPUTY_MANAGED_STOPPING, LIFE_END}
#define failed   {DEPUTY_MANAGED_FAILED, LIFE_REFUSE}
#define kill     {SAME, LIFE_KILL}
#define stay     {SAME, LIFE_NOTHING}
#define never    {SAME, LIFE_NEVER}

/* What a cell names is the state that follows, and with it what entering that state takes. */
static const struct cell table[LIFE_EVENTS_N][LIFE_STATES] = {
    /* in:             stopped   starting  ready     draining  stopping  failed */
    [LIFE_CALLER]   = {starting, stay,     stay,     ready,    stay,     failed},
    [LIFE_RETRY]    = {never,    never,    never,    never,    never,    starting},
    [LIFE_START]    = {starting, stay,     stay,     ready,    stay,     starting},
    [LIFE_HEALTHY]  = {never,    ready,    stay,     stay,     never,    never},
    [LIFE_DEAF]     = {never,    never,    stopping, stopping, never,    never},
    [LIFE_LATE]     = {never,    stopping, never,    stopping, kill,     never},
    [LIFE_IDLE]     = {never,    never,    draining, never,    never,    never},
    [LIFE_STOP]     = {stay,     stopping, draining, stay,     stay,     stopped},
    [LIFE_RESTART]  = {starting, stopping, draining, stay,     stay,     starting},
    [LIFE_DRAINED]  = {never,    never,    never,    stopping, never,    never},
    [LIFE_DIED]     = {never,    stopping, stopping, stopping, stay,     never},
    [LIFE_GONE]     = {never,    never,    never,    never,    stopped,  never},
    [LIFE_AGAIN]    = {never,    never,    never,    never,    starting, never},
    [LIFE_HOPELESS] = {never,    never,    never,    never,    failed,   never},
};
/* clang-format on */

struct life_step life_step(deputy_managed_state state, enum life_event event)
{
    const struct cell *cell = &table[event][state];
    deputy_managed_state to = cell->to == SAME ? state : (deputy_managed_state)cell->to;
    return (struct life_step){to, (enum life_action)cell->action};
}

const char *life_event_name(enum life_event event)
{
    static const char *const names[] = {
#define X(name) #name,
        LIFE_EVENTS(X)
#undef X
    };
    return names[event];
}
