/* The provider that leads to a managed server: waits for a place at it, then is an OpenAI call to a port of this
 * machine. */
#include "managed/managed.h"

#include "base/error.h"
#include "core/openai_http.h"
#include "managed/lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { URL_BYTES = 640, SILENT_US = 10000000 };

struct managed_provider {
    deputy_managed *managed;
    char *model; /* quoted for JSON; NULL: the request's own stays */
};

/* One call on its way, kept as the call's data. */
struct job {
    struct lease lease;
    struct engine_post post;
    const struct managed_provider *self;
    struct deputy_call *call;
    struct upstream *up;    /* NULL: nothing is under way */
    deputy_failure failure; /* while it is looked whether the server has died */
    bool explaining;
};

static void run_job(struct engine_post *post);

static void on_settled(struct lease *lease)
{
    struct job *job = (struct job *)lease;
    engine_post(job->call->engine, &job->post);
}

static struct job *new_job(const struct managed_provider *self, struct deputy_call *call)
{
    struct job *job = calloc(1, sizeof(*job));
    if (!job)
        return NULL;
    job->self = self;
    job->call = call;
    job->lease.settled = on_settled;
    job->post.run = run_job;
    deputy_call_set_data(call, job);
    return job;
}

static void end_job(struct job *job, enum lease_end end)
{
    lease_return(&job->lease, end);
    engine_post_drop(job->call->engine, &job->post); /* nothing posts it any more */
    free(job);
}

/* ---- what went wrong --------------------------------------------------------------------------------------------- */

/* The call is answered when the job is gone: whoever answers may cancel or ask again at once. */
static void fail(struct job *job, enum lease_end end, const deputy_failure *failure)
{
    struct deputy_call *call = job->call;
    deputy_call_set_data(call, NULL);
    end_job(job, end);
    deputy_reply_fail(call, failure);
}

static void turn_away(struct job *job, int code, const char *why)
{
    const char *name = deputy_provider_name(job->call->provider);
    char lines[128];
    deputy_failure failure;
    managed_last_lines(job->self->managed, lines, code == DEPUTY_EFAILED ? sizeof(lines) : 1);
    if (code == DEPUTY_ELIMIT)
        failure_set(&failure, DEPUTY_FAILURE_LIMIT, 503, "queue_full", "%s: %s", name, why);
    else
        failure_set(&failure, DEPUTY_FAILURE_CONNECT, 0, "not_running", "%s: %.*s%s%s", name, 120, why,
                    lines[0] ? "; its last output: " : "", lines);
    fail(job, LEASE_UNUSED, &failure);
}

/* It is known now whether the server has died. */
static void explain(struct job *job)
{
    deputy_failure failure = job->failure;
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    char lines[96];
    bool died = !lease_holds(&job->lease);
    if (died) {
        managed_words(job->self->managed, &status);
        managed_last_lines(job->self->managed, lines, sizeof(lines));
        failure_set(&failure, job->failure.kind, 0, "crashed", "%s: %.100s%s%s",
                    deputy_provider_name(job->call->provider), status.problem[0] ? status.problem : "it was stopped",
                    lines[0] ? "; its last output: " : "", lines);
    }
    fail(job, LEASE_ILL, &failure);
}

/* ---- the exchange ------------------------------------------------------------------------------------------------ */

static bool is_broken(enum http_end end)
{
    return end == HTTP_CONNECT || end == HTTP_CUT || end == HTTP_PROTOCOL;
}

/* Maybe inside libcurl, but then without a result. A stale permit leaves the job its place: complete comes again, or
 * withdrawn. */
static bool on_over(void *user, const struct http_result *result)
{
    struct job *job = user;
    struct deputy_call *call = job->call;
    job->up = NULL;
    if (!result && call->stale)
        return false;
    if (!result || !is_broken(result->end)) {
        deputy_call_set_data(call, NULL);
        end_job(job, !result ? LEASE_UNUSED : result->end == HTTP_COMPLETE ? LEASE_WELL : LEASE_ILL);
        return false;
    }
    upstream_failure(&job->failure, result, deputy_provider_name(call->provider));
    job->explaining = true;
    lease_suspect(&job->lease);
    return true;
}

static void send_request(struct job *job)
{
    const struct settings *s = &job->self->managed->settings;
    deputy_error error = {0};
    char base[URL_BYTES];
    char *url;
    struct upstream_request up = {.bearer = s->api_key};
    snprintf(base, sizeof(base), "http://127.0.0.1:%u%s", (unsigned)job->lease.port, s->base_path);
    int code = openai_request(base, job->self->model, &job->call->request, &up, &url, &error);
    if (code == DEPUTY_OK)
        code = upstream_start(job->call, &up, on_over, job, &job->up, &error);
    free(url);
    if (code == DEPUTY_OK)
        return;
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_REFUSED, 0, "request", "%s", error.message);
    fail(job, LEASE_UNUSED, &failure);
}

static void take_place(struct job *job)
{
    deputy_error error = {0};
    int code = lease_take(job->self->managed, &job->lease, &error);
    if (code == DEPUTY_OK)
        send_request(job);
    else if (code != DEPUTY_PAUSE)
        turn_away(job, code, error.message);
}

/* The server that a place was given at may have died before this thread had its turn, and its port be another's. */
static void run_job(struct engine_post *post)
{
    struct job *job = (struct job *)((char *)post - offsetof(struct job, post));
    if (job->explaining) {
        explain(job);
    } else if (lease_state(&job->lease) == LEASE_DENIED) {
        turn_away(job, DEPUTY_EFAILED, job->lease.why);
    } else if (lease_holds(&job->lease)) {
        send_request(job);
    } else {
        lease_return(&job->lease, LEASE_UNUSED);
        take_place(job);
    }
}

/* ---- the vtable -------------------------------------------------------------------------------------------------- */

static int complete(void *user, deputy_call *call, const deputy_request *request)
{
    struct job *job = deputy_call_data(call);
    (void)request;                         /* lives as long as the call: core/call.h */
    if (job && lease_holds(&job->lease)) { /* its permit was renewed, and it kept its place */
        send_request(job);
        return DEPUTY_OK;
    }
    if (job)
        lease_return(&job->lease, LEASE_UNUSED);
    else
        job = new_job(user, call);
    if (!job)
        return DEPUTY_ENOMEM;
    take_place(job);
    return DEPUTY_OK;
}

static void withdrawn(void *user, deputy_call *call)
{
    struct job *job = deputy_call_data(call);
    (void)user;
    if (job)
        end_job(job, LEASE_UNUSED);
}

/* A server that said nothing for so long may be deaf. */
static void cancel(void *user, deputy_call *call)
{
    struct job *job = deputy_call_data(call);
    (void)user;
    if (call->purpose == CALL_MODELS || call->purpose == CALL_AVAILABLE) {
        openai_query_cancel(call);
        return;
    }
    if (!job)
        return;
    bool silent = job->up && !call->has_head && loop_now_us() - call->sent_us > SILENT_US;
    if (job->up)
        upstream_stop(job->up);
    end_job(job, silent ? LEASE_ILL : LEASE_UNUSED);
}

static void resume(void *user, deputy_call *call)
{
    struct job *job = deputy_call_data(call);
    (void)user;
    if (job && job->up)
        upstream_go_on(job->up);
}

static int list_models(void *user, deputy_call *call)
{
    const struct managed_provider *self = user;
    const struct settings *s = &self->managed->settings;
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    char base[URL_BYTES];
    managed_words(self->managed, &status);
    if (s->model) {
        deputy_reply_model(call, s->model);
        deputy_reply_end(call);
    } else if (status.state == DEPUTY_MANAGED_READY) {
        snprintf(base, sizeof(base), "http://127.0.0.1:%u%s", (unsigned)status.port, s->base_path);
        return openai_query(call, base, s->api_key, NULL);
    } else {
        deputy_reply_end(call); /* nobody knows before it runs */
    }
    return DEPUTY_OK;
}

static int is_available(void *user, deputy_call *call)
{
    const struct managed_provider *self = user;
    deputy_managed_status status = DEPUTY_INIT(deputy_managed_status);
    deputy_failure failure;
    pthread_mutex_lock(&self->managed->lock);
    bool given_up = managed_has_given_up(self->managed);
    pthread_mutex_unlock(&self->managed->lock);
    managed_words(self->managed, &status);
    if (!given_up) {
        deputy_reply_end(call);
        return DEPUTY_OK;
    }
    failure_set(&failure, DEPUTY_FAILURE_CONNECT, 0, "not_running", "%s: it has failed: %s",
                deputy_provider_name(call->provider), status.problem);
    deputy_reply_fail(call, &failure);
    return DEPUTY_OK;
}

/* What a server of this machine could mend: the central's word on the request or the caller is none of it. */
static bool is_an_outage(const deputy_failure *failure)
{
    switch (failure->kind) {
    case DEPUTY_FAILURE_STATUS:
        return failure->status >= 500 || failure->status == 408 || failure->status == 425 || failure->status == 429;
    case DEPUTY_FAILURE_LIMIT:
    case DEPUTY_FAILURE_CANCELLED:
    case DEPUTY_FAILURE_DEADLINE:
    case DEPUTY_FAILURE_REFUSED:
        return false;
    default:
        return true;
    }
}

static void primary_failed(void *user, const deputy_failure *failure)
{
    struct managed_provider *self = user;
    if (self->managed->settings.prewarm == DEPUTY_PREWARM_ON_FAILURE && is_an_outage(failure))
        managed_order(self->managed, ORDER_PREWARM);
}

static void destroy(void *user)
{
    struct managed_provider *self = user;
    deputy_managed_unref(self->managed);
    free(self->model);
    free(self);
}

static const deputy_provider_vtable vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(vtable),
    .flags = DEPUTY_PROVIDER_WAITS,
    .complete = complete,
    .list_models = list_models,
    .is_available = is_available,
    .cancel = cancel,
    .resume = resume,
    .destroy = destroy,
    .primary_failed = primary_failed,
    .withdrawn = withdrawn,
};

int deputy_managed_provider(deputy_managed *managed, deputy_provider **provider, deputy_error *error)
{
    *provider = NULL;
    const struct settings *s = &managed->settings;
    struct managed_provider *self = calloc(1, sizeof(*self));
    if (self && s->model)
        self->model = openai_member(s->model);
    if (!self || (s->model && !self->model)) {
        free(self);
        return error_set(error, DEPUTY_ENOMEM, "out of memory for a provider");
    }
    self->managed = deputy_managed_ref(managed);
    int code = deputy_provider_new(s->name, &vtable, self, provider, error);
    if (code != DEPUTY_OK)
        destroy(self);
    return code;
}
