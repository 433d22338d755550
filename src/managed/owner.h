/* managed/owner.h - the one thread that owns all model servers of a process: its loop, on which their supervisors are
 * started and watched and their health paths looked at. It lives while there is something to own. */
#ifndef MANAGED_OWNER_H
#define MANAGED_OWNER_H

#include "managed/managed.h"
#include "net/loop.h"

struct owner {
    struct loop *loop;
    uv_async_t async;
    struct deputy_managed *list;     /* the thread's */
    struct deputy_managed *incoming; /* guarded by the lock in owner.c */
    unsigned handles;                /* open on the loop, besides async */
    char bytes[64 << 10];            /* where output is read into */
};

/* Hands a new one over, with the thread if there is none yet. DEPUTY_OK, DEPUTY_ENOMEM, DEPUTY_EIO. */
int owner_adopt(struct deputy_managed *managed);

/* Sees to it that drive_step is called for all. Any thread, while something is owned. */
void owner_wake(struct owner *owner);

/* Whether the thread lives: for tests that count what is left. */
bool owner_is_there(void);

#endif
