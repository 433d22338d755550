#include "deputy/provider.h"

#include "base/error.h"
#include "core/openai_http.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>

struct openai {
    char *url;
    char *model; /* as a JSON string, quotes included; NULL: the request's own stays */
    char *api_key;
    char *ca_file;
};

static int complete(void *user, deputy_call *call, const deputy_request *request)
{
    const struct openai *self = user;
    deputy_error error = {0};
    struct upstream_request up = {.bearer = self->api_key, .ca_file = self->ca_file};
    char *url;
    if (openai_request(self->url, self->model, request, &up, &url, &error) != DEPUTY_OK ||
        upstream_send(call, &up, &error) != DEPUTY_OK)
        openai_refuse(call, "request", error.message);
    free(url);
    return DEPUTY_OK;
}

static int query(void *user, deputy_call *call)
{
    const struct openai *self = user;
    return openai_query(call, self->url, self->api_key, self->ca_file);
}

static void cancel(void *self, deputy_call *call)
{
    if (call->purpose == CALL_PRIMARY || call->purpose == CALL_LOCAL)
        upstream_cancel(self, call);
    else
        openai_query_cancel(call);
}

static void destroy(void *user)
{
    struct openai *self = user;
    free(self->url);
    free(self->model);
    free(self->api_key);
    free(self->ca_file);
    free(self);
}

static const deputy_provider_vtable vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(vtable),
    .complete = complete,
    .list_models = query,
    .is_available = query,
    .cancel = cancel,
    .resume = upstream_resume,
    .destroy = destroy,
};

static int check(const deputy_openai_options *options, deputy_error *error)
{
    if (!options || options->size != sizeof(*options))
        return error_set(error, options ? DEPUTY_EABI : DEPUTY_EINVAL,
                         "deputy_openai_options: expected a size of %zu, got %zu: use DEPUTY_INIT and build against "
                         "this engine's deputy/provider.h",
                         sizeof(*options), options ? options->size : 0);
    int code = url_base_check("url of an openai provider", options->url, error);
    if (code == DEPUTY_OK && options->api_key)
        code = url_token_check(options->api_key, error);
    if (code == DEPUTY_OK && options->model && (!options->model[0] || strlen(options->model) > OPENAI_MODEL_MAX))
        code = error_set(error, DEPUTY_EINVAL, "model of an openai provider: expected 1 to %d bytes, got %zu",
                         OPENAI_MODEL_MAX, strlen(options->model));
    return code;
}

static bool copy(const deputy_openai_options *options, struct openai *self)
{
    self->url = strdup(options->url);
    self->model = options->model ? openai_member(options->model) : NULL;
    self->api_key = options->api_key ? strdup(options->api_key) : NULL;
    self->ca_file = options->ca_file ? strdup(options->ca_file) : NULL;
    return self->url && !self->model == !options->model && !self->api_key == !options->api_key &&
           !self->ca_file == !options->ca_file;
}

int deputy_openai_new(const deputy_openai_options *options, deputy_provider **provider, deputy_error *error)
{
    *provider = NULL;
    int code = check(options, error);
    if (code != DEPUTY_OK)
        return code;
    struct openai *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a provider");
    if (!copy(options, self)) {
        destroy(self);
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a provider");
    }
    code = deputy_provider_new(options->name, &vtable, self, provider, error);
    if (code != DEPUTY_OK)
        destroy(self);
    return code;
}
