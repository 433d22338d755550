/* managed/lease.h - places at a model server. A caller has one lease for one run, waits for it, holds it, gives it
 * back. While the server is ready a place is taken and handed on without the owner's thread. */
#ifndef MANAGED_LEASE_H
#define MANAGED_LEASE_H

#include "deputy/managed.h"

enum lease_state {
    LEASE_NONE,
    LEASE_WAITING, /* for readiness, or for a place */
    LEASE_HELD,
    LEASE_SUSPECT, /* held, and its exchange broke: the owner looks whether the server has died */
    LEASE_DENIED   /* turned away */
};

/* Belongs to the caller, and must not move before it is given back. All zero but settled at first. */
struct lease {
    struct lease *prev, *next;
    struct deputy_managed *managed;
    enum lease_state
        state; /* guarded by the managed's lock, as is what follows; stays still once it is HELD or DENIED */
    uint64_t generation;
    uint16_t port;
    char why[256]; /* DENIED: in words */
    /* No longer WAITING, or no longer SUSPECT. On any thread, under a lock: only to post it to where it belongs. */
    void (*settled)(struct lease *lease);
};

/* How a run at the server ended. UNUSED says nothing about the server. */
enum lease_end { LEASE_UNUSED, LEASE_WELL, LEASE_ILL };

/* Asks for a place, and for the server to be started if need be. DEPUTY_OK: it is HELD. DEPUTY_PAUSE: it waits, settled
 * follows. DEPUTY_ELIMIT: too many wait. DEPUTY_EFAILED: the server has failed. error says it in words. */
int lease_take(struct deputy_managed *managed, struct lease *lease, deputy_error *error);

/* Gives it back, or leaves the queue; settled does not come any more. NONE and DENIED are allowed. */
void lease_return(struct lease *lease, enum lease_end end);

/* HELD, and the server that it was given for still runs. */
bool lease_holds(struct lease *lease);

/* The exchange of a HELD lease broke: settled follows when it is known whether the server has died, within a second. */
void lease_suspect(struct lease *lease);

enum lease_state lease_state(struct lease *lease);

/* ---- for the owner ----------------------------------------------------------------------------------------------- */

/* Hands out what places there are. */
void lease_serve(struct deputy_managed *managed);

/* Turns away all that wait. why NULL: for the problem that it has. */
void lease_deny(struct deputy_managed *managed, const char *why);

/* Tells those whose exchange broke that all is known. */
void lease_clear(struct deputy_managed *managed);

#endif
