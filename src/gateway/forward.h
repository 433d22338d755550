/* gateway/forward.h - one request on its way through the engine and back. */
#ifndef GATEWAY_FORWARD_H
#define GATEWAY_FORWARD_H

#include "gateway/callers.h"
#include "gateway/worker.h"

/* Answers with a run of this endpoint (what follows /v1/), or with an error. */
void forward_request(struct worker *worker, struct http1_exchange *exchange, const char *endpoint,
                     enum dialect dialect);

/* The list of what the central shows to this caller. */
void forward_models(struct worker *worker, struct http1_exchange *exchange);

/* For http1_handler; user is the worker. */
void forward_gone(void *user, struct http1_exchange *exchange);
void forward_room(void *user, struct http1_exchange *exchange);

/* Asks every run to end. */
void forwards_cancel(struct worker *worker);

/* Headers for pages of an allowed origin, at most CORS_HEADERS; how many. */
enum { CORS_HEADERS = 3 };
size_t cors_headers(const struct http1_exchange *exchange, struct http1_header *headers);

#endif
