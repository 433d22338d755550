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

/* Sends it and answers the call from what comes. DEPUTY_OK, or a code with the call not answered. */
int upstream_send(struct deputy_call *call, const struct upstream_request *request, deputy_error *error);

/* What an exchange that did not end well means for a call; name is the provider's. */
void upstream_failure(deputy_failure *failure, const struct http_result *result, const char *name);

/* For the vtable. */
void upstream_cancel(void *self, struct deputy_call *call);
void upstream_resume(void *self, struct deputy_call *call);

#endif
