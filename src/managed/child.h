/* managed/child.h - one start of a model server: its supervisor, what that tells, and the output. The owner's thread.
 */
#ifndef MANAGED_CHILD_H
#define MANAGED_CHILD_H

#include "managed/owner.h"

struct child;

/* Starts the supervisor, which starts the server. DEPUTY_OK, or a code with error and nothing to undo. What follows is
 * told to drive_started, drive_ended and, last, drive_gone (drive.h), never from inside this call. */
int child_start(struct deputy_managed *managed, uint16_t port, struct child **child, deputy_error *error);

/* SIGTERM to the family; SIGKILL when the grace is over. */
void child_stop(struct child *child);

/* Kills the supervisor, and then whoever of the family can still be found. */
void child_kill(struct child *child);

#endif
