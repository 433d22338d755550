/* core/upstream.h - a provider's call answered by one HTTP exchange. */
#ifndef CORE_UPSTREAM_H
#define CORE_UPSTREAM_H

#include "core/call.h"
#include "net/http.h"

struct upstream_request {
    const char *method; /* "POST", "GET" */
    const char *url;    /* copied */
    const char *bearer; /* NULL: none; copied */
    const char *ca_file;
    const deputy_header *headers; /* further ones; copied */
    size_t n_headers;
    struct http_span body[3]; /* borrowed until the call ends */
};

/* Sends it and answers the call from what comes. DEPUTY_OK, or a code with the call not answered. The call's data is
 * taken for it; upstream_cancel and upstream_resume are for the vtable then. */
int upstream_send(struct deputy_call *call, const struct upstream_request *request, deputy_error *error);

/* The same for a provider that keeps the call's data for itself. over is called once, when the exchange is over and
 * before the call is answered, unless upstream_stop came first; maybe inside libcurl. result is NULL when the call
 * wants no more (its permit is stale, or it took no more bytes), else how it ended: then true says that the provider
 * answers the call itself. *out is gone when over returns. */
struct upstream;
typedef bool (*upstream_over_fn)(void *user, const struct http_result *result);
int upstream_start(struct deputy_call *call, const struct upstream_request *request, upstream_over_fn over, void *user,
                   struct upstream **out, deputy_error *error);
void upstream_stop(struct upstream *up);
void upstream_go_on(struct upstream *up); /* after DEPUTY_PAUSE */

/* What an exchange that did not end well means for a call; name is the provider's. */
void upstream_failure(deputy_failure *failure, const struct http_result *result, const char *name);

/* For the vtable. */
void upstream_cancel(void *self, struct deputy_call *call);
void upstream_resume(void *self, struct deputy_call *call);

#endif
