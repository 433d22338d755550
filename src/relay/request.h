/* relay/request.h - what every host wants to know of a request before it looks at anything else. */
#ifndef RELAY_REQUEST_H
#define RELAY_REQUEST_H

#include "relay/errors.h"

#include "http1/server.h"

#include <stdbool.h>
#include <stddef.h>

/* The path of a target in origin form, or in absolute form (RFC 9112 section 3.2.2), as it came: nothing decoded, not
 * ended by NUL, without its query. */
const char *request_path(const char *target, size_t *len);

/* The authority of an absolute target counts, not the Host field (RFC 9112 section 3.2.2): where they differ, it is
 * nobody's honest request. False: problem is filled. */
bool request_agrees_with_host(const struct http1_exchange *exchange, struct problem *problem);

/* A JSON body that is not compressed. False: problem is filled. */
bool request_sends_json(const struct http1_exchange *exchange, struct problem *problem);

/* Is the body long, or does it wait for 100-continue? Only then is a refusal at the head worth the connection. */
bool request_is_long(const struct http1_exchange *exchange);

#endif
