/* gateway/control.h - the control socket: one for the process, on the first worker's loop, open to its owner alone.
 *
 *   GET  /status                              who runs here, since when, with which configuration
 *   GET  /providers[?output]                  the local providers, breakers, counters, runs in flight
 *   POST /reload                              answers when it is over
 *   POST /providers/NAME/start|stop|restart   NAME percent-encoded; answers when it is under way
 *
 * JSON both ways; an error is {"error":{"message":...}}. */
#ifndef GATEWAY_CONTROL_H
#define GATEWAY_CONTROL_H

#include "gateway/gateway.h"

#include <stdbool.h>

struct chief;
struct http1_server;

/* Zeroed at first: none. */
struct control {
    struct http1_server *server, *old; /* old: drained, after a reload */
    char address[256];
};

/* Listens as these settings say. False: it cannot, and may not go without; one line is on stderr. */
bool control_open(struct chief *chief, const struct gateway_settings *settings);

/* Says in the log why there is none, when there is none. */
void control_explain(struct chief *chief);

/* Moves to where these settings want it; if that cannot be, it stays and the log says why. */
void control_renew(struct chief *chief, const struct gateway_settings *settings);

/* Takes the file away. The loop is turned after it. */
void control_close(struct chief *chief);

#endif
