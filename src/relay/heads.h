/* relay/heads.h - which header fields go from one side to the other (RFC 9110 section 7.6.1). */
#ifndef RELAY_HEADS_H
#define RELAY_HEADS_H

#include "deputy.h"
#include "http1/server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A traceparent and its NUL (W3C Trace Context, version 00). */
enum { TRACEPARENT_SIZE = 56, HEADS_UP_MAX = 56 };

/* The caller's fields that are for the upstream, at most HEADS_UP_MAX, into headers. A valid traceparent is kept, else
 * one is made; it is copied to traceparent. Credentials and what belongs to this hop stay here. random is the state of
 * a generator whose numbers need not be secret. -1: there are too many. */
int heads_up(const struct http1_exchange *exchange, uint64_t *random, deputy_header headers[HEADS_UP_MAX],
             char traceparent[TRACEPARENT_SIZE]);

/* Is this field of an upstream's reply meant for the caller? headers: all of the reply's. */
bool heads_is_end_to_end(const char *name, const deputy_header *headers, size_t n);

/* A Content-Length's value, or -1. */
int64_t heads_length(const char *value);

#endif
