/* managed/launch.h - one start of a model server, as far as its supervisor. The owner's thread. */
#ifndef MANAGED_LAUNCH_H
#define MANAGED_LAUNCH_H

#include "managed/owner.h"

/* Finds a port and starts the supervisor; when that does not work the server has DIED. */
void launch_now(struct deputy_managed *managed);

#endif
