/* gateway/callers.h - who asks: where from, with which credentials. Anything unclear is refused. */
#ifndef GATEWAY_CALLERS_H
#define GATEWAY_CALLERS_H

#include "gateway/gateway.h"
#include "http1/server.h"
#include "relay/errors.h"

enum { CALLER_TOKEN_SIZE = 8193 };

struct caller {
    bool has_token;                /* of the central; without one central.bearerToken serves */
    char token[CALLER_TOKEN_SIZE]; /* wipe it after use: caller_wipe */
};

/* The Host header names us (DNS rebinding), and a page that asks is one that may. False: problem is filled. */
bool caller_may_come(const struct gateway_settings *settings, const struct http1_exchange *exchange,
                     struct problem *problem);

/* For requests that become runs. False: problem is filled. */
bool caller_identify(const struct gateway_settings *settings, const struct http1_exchange *exchange,
                     struct caller *caller, struct problem *problem);

/* For what tells about the gateway itself: callers of this machine, and those with a key. */
bool caller_may_look(const struct gateway_settings *settings, const struct http1_exchange *exchange,
                     struct problem *problem);

void caller_wipe(struct caller *caller);

#endif
