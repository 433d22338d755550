#include "central/infer.h"

#include "deputy/provider.h"
#include "relay/request.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_KEPT = 200, USER_KEPT = 200, ENDPOINT_KEPT = 64, TRACE_ID_SIZE = 33 };

struct inference {
    struct relay relay;
    struct central *central;
    deputy_provider *provider;
    struct secret *secret; /* its key */
    struct problem kept;   /* what is made of a reply that stays here; code NULL: none does */
    char id[REQUEST_ID_SIZE], path[PATH_KEPT], user[USER_KEPT], llm[DEPUTY_NAME_SIZE], endpoint[ENDPOINT_KEPT];
};

static struct inference *inference_of(struct relay *relay)
{
    return (struct inference *)((char *)relay - offsetof(struct inference, relay));
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

static size_t own_headers(struct relay *relay, const char *via, struct http1_header headers[RELAY_OWN_HEADERS])
{
    (void)via;
    headers[0] = (struct http1_header){"x-deputy-run", inference_of(relay)->id};
    return 1;
}

/* To the caller it would look like a verdict on the caller; and a redirect would lead his token to another host. */
static bool keeps(struct relay *relay, int status, const char *type)
{
    struct inference *f = inference_of(relay);
    (void)type;
    if (status == 401 || status == 403 || status == 407)
        problem_set(&f->kept, 502, "upstream_rejected_key",
                    "the upstream of '%s' did not accept the central's key: its administrator has to look at it",
                    f->llm);
    else if (status >= 300 && status < 400)
        problem_set(&f->kept, 502, "upstream_redirected",
                    "the upstream of '%s' answers from another address: its administrator has to look at its URL",
                    f->llm);
    return f->kept.code != NULL;
}

static int keep(struct relay *relay, const void *bytes, size_t len)
{
    (void)relay;
    (void)bytes;
    (void)len;
    return DEPUTY_OK;
}

static void explain(struct relay *relay, const deputy_outcome *o, const deputy_failure *failure,
                    struct problem *problem)
{
    if (!relay->head_sent && o->result == DEPUTY_RESULT_CANCELLED) {
        problem_set(problem, 503, "shutting_down", "the central is shutting down: ask again");
        return;
    }
    if (failure->kind == DEPUTY_FAILURE_REFUSED) {
        problem_set(problem, 400, "invalid_request", "%s", failure->message);
        return;
    }
    problem_from_failure(problem, failure, CULPRIT_UPSTREAM, relay->head_sent);
}

static void answer_kept(struct relay *relay, const deputy_outcome *o)
{
    struct http1_header headers[RELAY_OWN_HEADERS];
    (void)o;
    problem_reply(relay->exchange, relay->dialect, &inference_of(relay)->kept, headers,
                  own_headers(relay, NULL, headers));
}

static void streaming(struct relay *relay, int change)
{
    inference_of(relay)->central->counts.streams += (unsigned)change;
}

/* ---- what is remembered ------------------------------------------------------------------------------------------ */

static void over(struct relay *relay, const deputy_outcome *o)
{
    static const char *const words[] = {"ok", "failed", "cut", "cancelled"};
    static const deputy_failure none = {.kind = DEPUTY_FAILURE_ERROR};
    struct inference *f = inference_of(relay);
    struct problem problem = {.status = o->status};
    char trace_id[TRACE_ID_SIZE];
    if (f->kept.code)
        problem = f->kept;
    else if (!relay->head_sent || o->result == DEPUTY_RESULT_CUT)
        explain(relay, o, o->failure ? o->failure : &none, &problem);
    snprintf(trace_id, sizeof(trace_id), "%.32s", relay->traceparent + 3);
    f->central->counts.runs_cut += o->result == DEPUTY_RESULT_CUT;
    f->central->counts.runs_cancelled += o->result == DEPUTY_RESULT_CANCELLED;
    struct visit visit = {
        .method = "POST",
        .path = f->path,
        .path_len = strlen(f->path),
        .id = f->id,
        .user = f->user[0] ? f->user : NULL,
        .llm = f->llm,
        .code = problem.code,
        .outcome = words[o->result],
        .failure = o->failure && failure_is_ours(o->failure->kind) ? o->failure->message : NULL,
        .trace_id = trace_id,
        .status = !relay->exchange   ? 0
                  : relay->head_sent ? o->status
                                     : problem.status,
        .us = o->us,
        .first_us = relay->first_us,
        .is_run = true,
    };
    central_note(f->central, &visit);
}

static void release(struct relay *relay)
{
    struct inference *f = inference_of(relay);
    f->central->counts.in_flight--;
    deputy_provider_unref(f->provider);
    secret_unref(f->secret);
    free(f);
}

static const char *secret(struct relay *relay)
{
    const struct inference *f = inference_of(relay);
    return f->secret ? f->secret->text : NULL;
}

const struct relay_host infer_host = {
    .own_headers = own_headers,
    .keeps = keeps,
    .keep = keep,
    .answer_kept = answer_kept,
    .explain = explain,
    .streaming = streaming,
    .over = over,
    .release = release,
    .secret = secret,
};

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static void refuse(struct inference *f, const struct problem *problem)
{
    struct http1_header headers[RELAY_OWN_HEADERS];
    struct visit visit = {
        .method = "POST",
        .path = f->path,
        .path_len = strlen(f->path),
        .id = f->id,
        .user = f->user[0] ? f->user : NULL,
        .llm = f->llm,
        .code = problem->code,
        .status = problem->status,
        .is_run = true,
    };
    central_note(f->central, &visit);
    relay_refuse(&f->relay, problem, headers, own_headers(&f->relay, NULL, headers));
}

static struct inference *new_inference(struct central *c, struct http1_exchange *exchange, const char *id,
                                       const struct app_reply *reply)
{
    struct inference *f = calloc(1, sizeof(*f));
    size_t len;
    const char *path = request_path(http1_target(exchange), &len);
    if (!f)
        return NULL;
    f->central = c;
    snprintf(f->id, sizeof(f->id), "%s", id);
    snprintf(f->path, sizeof(f->path), "%.*s", (int)(len < PATH_KEPT ? len : PATH_KEPT), path);
    snprintf(f->user, sizeof(f->user), "%s", reply->user ? reply->user : "");
    snprintf(f->llm, sizeof(f->llm), "%s", reply->forward.name);
    snprintf(f->endpoint, sizeof(f->endpoint), "%s", reply->endpoint);
    c->counts.in_flight++;
    relay_begin(&f->relay, &c->relays, c->engine, exchange, reply->dialect);
    return f;
}

static bool start(struct inference *f, const struct app_forward *forward, struct problem *problem)
{
    deputy_request request = DEPUTY_INIT(deputy_request);
    if (!request_sends_json(f->relay.exchange, problem))
        return false;
    f->provider = upstreams_get(&f->central->upstreams, forward, &f->secret, problem);
    if (!f->provider)
        return false;
    relay_take_body(&f->relay, &request);
    request.llm = f->llm;
    request.endpoint = f->endpoint;
    request.primary = f->provider;
    request.primary_only = true;
    return relay_start(&f->relay, &request, problem);
}

void infer_start(struct central *c, struct http1_exchange *exchange, const char *id, const struct app_reply *reply)
{
    struct problem problem = {0};
    struct inference *f = new_inference(c, exchange, id, reply);
    if (!f) {
        problem_set(&problem, 503, "out_of_memory", "out of memory: try again soon");
        problem_reply(exchange, reply->dialect, &problem, NULL, 0);
        return;
    }
    if (c->counts.in_flight > c->settings.max_in_flight) {
        problem_set(&problem, 503, "too_many_requests_in_flight",
                    "%u requests are in flight, which is the limit: try again soon", c->settings.max_in_flight);
        problem.header = "retry-after";
        problem.value = "1";
        refuse(f, &problem);
    } else if (!start(f, &reply->forward, &problem)) {
        refuse(f, &problem);
    }
}
