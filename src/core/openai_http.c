#include "core/openai_http.h"

#include "base/buffer.h"
#include "base/error.h"
#include "net/json_span.h"
#include "net/url.h"

#include <stdlib.h>
#include <string.h>

enum { MODELS_MAX = 10000, LIST_MAX = 1 << 20 };

void openai_refuse(struct deputy_call *call, const char *code, const char *message)
{
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_REFUSED, 0, code, "%s", message);
    deputy_reply_fail(call, &failure);
}

/* ---- a request --------------------------------------------------------------------------------------------------- */

static const char MEMBER[] = "\"model\":";
enum { MEMBER_LEN = sizeof(MEMBER) - 1 };

char *openai_member(const char *model)
{
    size_t size = strlen(model) * 6 + 3;
    char *member = malloc(MEMBER_LEN + size + 1);
    if (!member)
        return NULL;
    memcpy(member, MEMBER, MEMBER_LEN);
    if (json_quote(model, member + MEMBER_LEN, size) < 0) {
        free(member);
        return NULL;
    }
    strcat(member, ",");
    return member;
}

/* A body that leaves the name to the path, as a control plane's own endpoint allows: it goes in front of the rest. */
static void put_in(const char *member, const char *text, size_t len, struct http_span body[3])
{
    size_t at = (size_t)((const char *)memchr(text, '{', len) - text) + 1;
    bool empty = text[at + strspn(text + at, " \t\r\n")] == '}'; /* an object: it ends within len */
    body[0] = (struct http_span){text, at};
    body[1] = (struct http_span){member, strlen(member) - (empty ? 1 : 0)};
    body[2] = (struct http_span){text + at, len - at};
}

/* Cuts the body around its model's name. */
static int set_model(const char *member, const deputy_request *request, struct http_span body[3], deputy_error *error)
{
    const char *text = request->body;
    struct json_member model = {.name = "model"};
    int code = json_span_find(text, request->body_len, &model, 1, NULL);
    if (code == DEPUTY_OK && model.count == 0) {
        put_in(member, text, request->body_len, body);
        return DEPUTY_OK;
    }
    if (code == DEPUTY_OK && model.count == 1 && model.kind == JSON_STRING) {
        body[0] = (struct http_span){text, model.start};
        body[1] = (struct http_span){member + MEMBER_LEN, strlen(member) - MEMBER_LEN - 1};
        body[2] = (struct http_span){text + model.end, request->body_len - model.end};
        return DEPUTY_OK;
    }
    if (code == DEPUTY_EINVAL)
        error_set(error, code, "expected the request's body to be a JSON object: the model's name cannot be replaced");
    else if (code != DEPUTY_OK)
        error_set(error, code, "the request's body cannot be read: %s", deputy_strerror(code));
    else if (model.count > 1)
        error_set(error, DEPUTY_EINVAL, "the request's body has %u members named \"model\", expected one", model.count);
    else
        error_set(error, DEPUTY_EINVAL, "expected a string \"model\" in the request's body, got another type");
    return code == DEPUTY_OK ? DEPUTY_EINVAL : code;
}

int openai_request(const char *base, const char *member, const deputy_request *request, struct upstream_request *up,
                   char **url, deputy_error *error)
{
    *url = NULL;
    up->method = "POST";
    up->headers = request->headers;
    up->n_headers = request->n_headers;
    up->body[0] = (struct http_span){request->body, request->body_len};
    int code = member ? set_model(member, request, up->body, error) : DEPUTY_OK;
    if (code == DEPUTY_OK)
        code = url_expand(base, "/{endpoint}", NULL, request->endpoint, url, error);
    up->url = *url;
    return code;
}

/* ---- the list of its models -------------------------------------------------------------------------------------- */

struct query {
    deputy_call *call;
    struct http_transfer *transfer;
    bool models, too_large;
    struct buffer body;
};

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct query *q = user;
    if (!q->models)
        return DEPUTY_ECANCELED; /* the status has said it all */
    int code = buffer_append(&q->body, bytes, len);
    q->too_large = code == DEPUTY_ELIMIT;
    return code;
}

/* Where the ids are gathered, each with its NUL, before the first of them is handed on. */
struct gather {
    const char *text;
    struct buffer ids;
    size_t n;
    int code;
};

static void gather_model(void *user, enum json_kind kind, size_t start, size_t end)
{
    struct gather *g = user;
    char id[OPENAI_MODEL_MAX + 1];
    struct json_member member = {.name = "id"};
    if (g->code != DEPUTY_OK)
        return;
    if (kind != JSON_OBJECT || json_span_find(g->text + start, end - start, &member, 1, NULL) != DEPUTY_OK ||
        member.kind != JSON_STRING) {
        g->code = DEPUTY_EINVAL;
        return;
    }
    if (++g->n > MODELS_MAX) {
        g->code = DEPUTY_ELIMIT;
        return;
    }
    long len = json_span_string(g->text + start, member.start, member.end, id, sizeof(id));
    g->code = len < 0 ? DEPUTY_ELIMIT : buffer_append(&g->ids, id, (size_t)len + 1);
}

static int read_models(const char *text, size_t len, struct gather *gather)
{
    struct json_member data = {.name = "data"};
    int code = json_span_find(text, len, &data, 1, NULL);
    if (code != DEPUTY_OK)
        return code;
    if (data.kind != JSON_ARRAY)
        return DEPUTY_EINVAL;
    gather->text = text + data.start;
    code = json_span_each(gather->text, data.end - data.start, gather_model, gather);
    return code == DEPUTY_OK ? gather->code : code;
}

static void hand_on(deputy_call *call, const struct buffer *ids)
{
    const char *id = buffer_bytes(ids), *end = id + buffer_len(ids);
    for (; id < end; id += strlen(id) + 1)
        if (deputy_reply_model(call, id) != DEPUTY_OK)
            return;
    deputy_reply_end(call);
}

static void answer_models(struct query *q, const char *name)
{
    struct gather gather = {0};
    deputy_failure failure;
    buffer_init(&gather.ids, LIST_MAX);
    int code = read_models(buffer_bytes(&q->body), buffer_len(&q->body), &gather);
    if (code == DEPUTY_OK) {
        hand_on(q->call, &gather.ids);
    } else {
        if (code == DEPUTY_ELIMIT)
            failure_set(&failure, DEPUTY_FAILURE_LIMIT, 0, "models",
                        "%s: its list of models is over a limit (%d models, %d bytes for an id)", name, MODELS_MAX,
                        OPENAI_MODEL_MAX);
        else
            failure_set(&failure, DEPUTY_FAILURE_MALFORMED, 0, "models",
                        "%s: expected {\"data\":[{\"id\":\"...\"}]} as its list of models, got something else", name);
        deputy_reply_fail(q->call, &failure);
    }
    buffer_free(&gather.ids);
}

static void on_end(void *user, const struct http_result *result)
{
    struct query *q = user;
    const char *name = deputy_provider_name(q->call->provider);
    bool good = result->status >= 200 && result->status <= 299;
    /* a server that answers is there, whatever becomes of the body nobody reads */
    bool answered = result->end == HTTP_COMPLETE || (result->status && result->end == HTTP_STOPPED);
    deputy_failure failure;
    deputy_call_set_data(q->call, NULL);
    if (q->too_large) {
        failure_set(&failure, DEPUTY_FAILURE_LIMIT, 0, "too_large", "%s: its list of models is over %d bytes", name,
                    LIST_MAX);
        deputy_reply_fail(q->call, &failure);
    } else if (!answered || (q->models && result->end != HTTP_COMPLETE)) {
        upstream_failure(&failure, result, name);
        deputy_reply_fail(q->call, &failure);
    } else if (!good) {
        failure_set(&failure, DEPUTY_FAILURE_STATUS, result->status, "models",
                    "%s: asked for its models, it answered with status %d", name, result->status);
        deputy_reply_fail(q->call, &failure);
    } else if (q->models) {
        answer_models(q, name);
    } else {
        deputy_reply_end(q->call);
    }
    buffer_free(&q->body);
    free(q);
}

int openai_query(struct deputy_call *call, const char *base, const char *bearer, const char *ca_file)
{
    const deputy_options *o = &call->engine->options;
    deputy_error error = {0};
    char *url = NULL;
    struct query *q = calloc(1, sizeof(*q));
    if (!q)
        return DEPUTY_ENOMEM;
    q->call = call;
    q->models = call->purpose == CALL_MODELS;
    buffer_init(&q->body, LIST_MAX);
    int code = url_expand(base, "/models", NULL, NULL, &url, &error);
    if (code == DEPUTY_OK) {
        struct http_request http = {
            .method = "GET",
            .url = url,
            .bearer = bearer,
            .ca_file = ca_file,
            .connect_ms = o->timeouts.connect_ms,
            .max_header_bytes = o->limits.max_header_bytes,
            .user = q,
            .on_bytes = on_bytes,
            .on_end = on_end,
        };
        code = http_start(call->engine->loop, &http, &q->transfer, &error);
    }
    free(url);
    if (code == DEPUTY_OK) {
        deputy_call_set_data(call, q);
    } else {
        free(q);
        openai_refuse(call, "request", error.message);
    }
    return DEPUTY_OK;
}

void openai_query_cancel(struct deputy_call *call)
{
    struct query *q = deputy_call_data(call);
    if (!q)
        return;
    http_cancel(q->transfer);
    buffer_free(&q->body);
    free(q);
}
