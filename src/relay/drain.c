#include "relay/drain.h"

enum { CUT_MS = 50 };

void drain_begin(struct drain *drain, struct http1_server *server, uint64_t now, uint32_t allowed_ms)
{
    *drain = (struct drain){.begun = true, .deadline = now + allowed_ms};
    http1_drain(server);
}

bool drain_is_over(struct drain *drain, const struct http1_server *server, struct relays *relays, uint64_t now,
                   bool hurry)
{
    if (http1_stats(server)->connections == 0 && relays->n == 0)
        return true;
    if (drain->cutting)
        return now >= drain->deadline;
    if (now < drain->deadline && !hurry)
        return false;
    drain->cutting = true; /* streams still get the event that says so */
    drain->deadline = now + CUT_MS;
    relays_cancel(relays);
    return false;
}
