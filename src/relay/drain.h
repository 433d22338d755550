/* relay/drain.h - how a server that is asked to end does so: replies under way have some time, then streams are cut
 * with the event that says so. */
#ifndef RELAY_DRAIN_H
#define RELAY_DRAIN_H

#include "relay/relay.h"

#include "http1/server.h"

#include <stdbool.h>
#include <stdint.h>

enum { DRAIN_TICK_MS = 10 };

/* Zeroed: nobody has asked. Times are the loop's, in milliseconds. */
struct drain {
    bool begun, cutting;
    uint64_t deadline;
};

/* No more connections from here on. */
void drain_begin(struct drain *drain, struct http1_server *server, uint64_t now, uint32_t allowed_ms);

/* To be asked every DRAIN_TICK_MS; hurry: do not wait any longer. True: close the server. */
bool drain_is_over(struct drain *drain, const struct http1_server *server, struct relays *relays, uint64_t now,
                   bool hurry);

#endif
