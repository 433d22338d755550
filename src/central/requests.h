/* central/requests.h - requests: a few paths are C's own, inference is looked at before its body comes, and all else is
 * Lua's to decide. */
#ifndef CENTRAL_REQUESTS_H
#define CENTRAL_REQUESTS_H

#include "http1/server.h"

/* For http1_handler; user is the struct central. */
int requests_head(void *user, struct http1_exchange *exchange);
void requests_decide(void *user, struct http1_exchange *exchange);

#endif
