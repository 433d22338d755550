/* gateway/routes.h - what is served: method and path, as they came. */
#ifndef GATEWAY_ROUTES_H
#define GATEWAY_ROUTES_H

#include "http1/server.h"
#include "relay/errors.h"

/* For http1_handler; user is the worker. */
int routes_head(void *user, struct http1_exchange *exchange);
void routes_request(void *user, struct http1_exchange *exchange);
void routes_gone(void *user, struct http1_exchange *exchange);

#endif
