/* gateway/forward.h - requests that become runs of the engine in force. */
#ifndef GATEWAY_FORWARD_H
#define GATEWAY_FORWARD_H

#include "gateway/callers.h"
#include "gateway/worker.h"
#include "relay/relay.h"

/* What is the gateway's own about a relay: headers, metrics, the log, the list of models. */
extern const struct relay_host forward_host;

/* Answers with a run of this endpoint (what follows /v1/), or with an error. */
void forward_request(struct worker *worker, struct http1_exchange *exchange, const char *endpoint,
                     enum dialect dialect);

/* The list of what the central shows to this caller. */
void forward_models(struct worker *worker, struct http1_exchange *exchange);

/* Headers for pages of an allowed origin, at most CORS_HEADERS; how many. */
enum { CORS_HEADERS = 3 };
size_t cors_headers(const struct http1_exchange *exchange, struct http1_header *headers);

#endif
