#include "core/central.h"

#include "base/error.h"
#include "core/upstream.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>

static const char *path_for(const deputy_options *o, const char *endpoint)
{
    const char *rest = NULL;
    for (size_t i = 0; i < o->n_inference; i++) {
        if (strcmp(o->inference[i].endpoint, endpoint) == 0)
            return o->inference[i].path;
        if (strcmp(o->inference[i].endpoint, "*") == 0)
            rest = o->inference[i].path;
    }
    return rest;
}

static int complete(void *self, deputy_call *call, const deputy_request *request)
{
    deputy_engine *engine = self;
    const deputy_options *o = &engine->options;
    const char *path = path_for(o, request->endpoint);
    deputy_error error = {0};
    char *url = NULL;
    int code = path ? url_expand(o->central_url, path, request->llm, request->endpoint, &url, &error)
                    : error_set(&error, DEPUTY_EINVAL,
                                "the central has no path for the endpoint '%s': add it, or \"*\", to central.inference",
                                request->endpoint);
    if (code == DEPUTY_OK) {
        struct upstream_request up = {
            .method = request->method,
            .url = url,
            .bearer = request->bearer_token,
            .ca_file = o->ca_file,
            .headers = request->headers,
            .n_headers = request->n_headers,
            .body = {{request->body, request->body_len}},
        };
        code = upstream_send(call, &up, &error);
        free(url);
    }
    if (code != DEPUTY_OK) {
        deputy_failure failure;
        failure_set(&failure, DEPUTY_FAILURE_REFUSED, 0, "request", "%s", error.message);
        deputy_reply_fail(call, &failure);
    }
    return DEPUTY_OK;
}

static const deputy_provider_vtable vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(vtable),
    .complete = complete,
    .cancel = upstream_cancel,
    .resume = upstream_resume,
};

int central_new(deputy_engine *engine, deputy_provider **provider, deputy_error *error)
{
    return deputy_provider_new("central", &vtable, engine, provider, error);
}
