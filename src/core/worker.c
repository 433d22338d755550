#include "core/worker.h"

#include "base/error.h"
#include "core/reply.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

enum { ROOM = 256 << 10 }; /* what is posted and not delivered */

enum post_kind { POST_ADMITTED, POST_HEAD, POST_BYTES, POST_MODEL, POST_END, POST_FAIL, POST_STALE };

struct post {
    struct post *prev, *next;
    enum post_kind kind;
    int status;
    struct header_list headers;
    bool has_failure;
    deputy_failure failure;
    size_t len;
    char bytes[];
};

struct worker {
    uv_work_t work;
    struct deputy_call *call;
    pthread_mutex_t lock;
    pthread_cond_t room;
    struct post *posts;
    size_t posted;
    bool given_up, revoked, ended, stale; /* under the lock, like what stands above; the others are the loop's alone */
    int code;
    bool returned, abandoned;
    deputy_request request; /* its own copy: pointers into what follows */
    struct header_list headers;
    char *body;
    char *strings;
};

static void free_worker(struct worker *w)
{
    struct post *p, *next;
    DL_FOREACH_SAFE (w->posts, p, next) {
        header_list_free(&p->headers);
        free(p);
    }
    header_list_free(&w->headers);
    free(w->body);
    free(w->strings);
    pthread_cond_destroy(&w->room);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

/* ---- the worker's thread ------------------------------------------------------------------------------------------
 */

/* Many small pieces take more room than their bytes. */
static size_t cost_of(const struct post *p)
{
    return sizeof(*p) + p->len;
}

static int post(struct deputy_call *call, struct post *p)
{
    struct worker *w = call->worker;
    int code = DEPUTY_OK;
    pthread_mutex_lock(&w->lock);
    while (!w->given_up && w->posted > 0 && w->posted + cost_of(p) > ROOM)
        pthread_cond_wait(&w->room, &w->lock);
    if (w->given_up || w->ended) {
        code = DEPUTY_ECANCELED;
    } else {
        w->ended = p->kind >= POST_END;
        w->stale = p->kind == POST_STALE;
        w->posted += cost_of(p);
        DL_APPEND(w->posts, p);
    }
    pthread_mutex_unlock(&w->lock);
    if (code == DEPUTY_OK) {
        uv_async_send(&call->engine->async);
    } else {
        header_list_free(&p->headers);
        free(p);
    }
    return code;
}

static struct post *new_post(enum post_kind kind, const void *bytes, size_t len)
{
    struct post *p = calloc(1, sizeof(*p) + len + 1);
    if (!p)
        return NULL;
    p->kind = kind;
    p->len = len;
    if (len)
        memcpy(p->bytes, bytes, len);
    return p;
}

int worker_post_head(struct deputy_call *call, int status, const deputy_header *headers, size_t n_headers)
{
    struct post *p = new_post(POST_HEAD, NULL, 0);
    if (!p || header_list_copy(&p->headers, headers, n_headers) != DEPUTY_OK) {
        free(p);
        return DEPUTY_ENOMEM;
    }
    p->status = status;
    return post(call, p);
}

int worker_post_bytes(struct deputy_call *call, const void *bytes, size_t len)
{
    const char *at = bytes;
    while (len > 0) { /* in pieces, so that one large reply keeps to the bound too */
        size_t n = len < ROOM / 2 ? len : ROOM / 2;
        struct post *p = new_post(POST_BYTES, at, n);
        int code = p ? post(call, p) : DEPUTY_ENOMEM;
        if (code != DEPUTY_OK)
            return code;
        at += n;
        len -= n;
    }
    return DEPUTY_OK;
}

int worker_post_model(struct deputy_call *call, const char *model)
{
    struct post *p = new_post(POST_MODEL, model, strlen(model));
    return p ? post(call, p) : DEPUTY_ENOMEM;
}

int worker_post_end(struct deputy_call *call, const deputy_failure *failure, bool failed)
{
    struct post *p = new_post(failed ? POST_FAIL : POST_END, NULL, 0);
    if (!p)
        return DEPUTY_ENOMEM;
    p->has_failure = failure != NULL;
    if (failure)
        p->failure = *failure;
    return post(call, p);
}

static bool may_send(struct deputy_call *call, bool revoked)
{
    const deputy_options *o = &call->engine->options;
    if (call->purpose != CALL_LOCAL || o->gate == DEPUTY_GATE_POLICY)
        return true;
    return !revoked && gate_holds(&call->permit, &call->claim, (uint64_t)o->permit_ms * 1000, gate_now_us());
}

int worker_admit(struct deputy_call *call)
{
    struct worker *w = call->worker;
    pthread_mutex_lock(&w->lock);
    bool over = w->given_up || w->ended, revoked = w->revoked;
    pthread_mutex_unlock(&w->lock);
    if (over)
        return DEPUTY_ECANCELED;
    bool may = may_send(call, revoked);
    struct post *p = new_post(may ? POST_ADMITTED : POST_STALE, NULL, 0);
    int code = p ? post(call, p) : DEPUTY_ENOMEM;
    return code != DEPUTY_OK || may ? code : DEPUTY_ESTALE;
}

static void work(uv_work_t *work)
{
    struct worker *w = work->data;
    struct deputy_call *call = w->call;
    const deputy_provider_vtable *v = call->provider->vtable;
    void *self = call->provider->self;
    pthread_mutex_lock(&w->lock);
    bool given_up = w->given_up, revoked = w->revoked;
    pthread_mutex_unlock(&w->lock);
    if (given_up)
        return;
    switch (call->purpose) {
    case CALL_MODELS:
        w->code = v->list_models ? v->list_models(self, call) : deputy_reply_end(call);
        return;
    case CALL_AVAILABLE:
        w->code = v->is_available ? v->is_available(self, call) : deputy_reply_end(call);
        return;
    case CALL_LOCAL: /* it may have waited long for a thread */
        if (!may_send(call, revoked)) {
            struct post *p = new_post(POST_STALE, NULL, 0);
            w->code = p ? post(call, p) : DEPUTY_ENOMEM;
            return;
        }
        break;
    case CALL_PRIMARY:
        break;
    }
    w->code = v->complete(self, call, &w->request);
}

/* ---- the loop's thread --------------------------------------------------------------------------------------------
 */

/* On its own thread the provider was told that they are taken. */
static int take_bytes(struct deputy_call *call, const struct post *p)
{
    int code = reply_take_bytes(call, p->bytes, p->len);
    deputy_failure failure;
    if (code != DEPUTY_EINVAL)
        return code;
    failure_set(&failure, DEPUTY_FAILURE_ERROR, 0, "provider", "provider '%s' sent a body before the head of its reply",
                call->provider->name);
    call_fail(call, &failure);
    return code;
}

static bool take(struct deputy_call *call, struct post *p)
{
    switch (p->kind) {
    case POST_ADMITTED:
        call_sends(call);
        return true;
    case POST_HEAD:
        if (reply_take_head(call, p->status, p->headers.list, p->headers.n) != DEPUTY_OK && call->live)
            call_fail(call, NULL);
        return true;
    case POST_BYTES:
        return take_bytes(call, p) != DEPUTY_PAUSE;
    case POST_MODEL:
        reply_take_model(call, p->bytes);
        return true;
    case POST_END:
        if (call->live)
            reply_take_end(call);
        return true;
    case POST_FAIL:
        if (call->live)
            reply_take_fail(call, p->has_failure ? &p->failure : NULL);
        return true;
    case POST_STALE:
        if (call->live) {
            call->stale = true;
            call->live = false;
        }
        return true;
    }
    return true;
}

static void wait_over(struct deputy_call *call);

void worker_deliver(struct deputy_call *call)
{
    struct worker *w = call->worker;
    while (!call->paused && !w->abandoned) {
        pthread_mutex_lock(&w->lock);
        struct post *p = w->posts;
        pthread_mutex_unlock(&w->lock);
        if (!p || !take(call, p))
            break;
        pthread_mutex_lock(&w->lock);
        DL_DELETE(w->posts, p);
        w->posted -= cost_of(p);
        pthread_cond_signal(&w->room);
        pthread_mutex_unlock(&w->lock);
        header_list_free(&p->headers);
        free(p);
    }
    wait_over(call);
}

/* The thread has come back and all it said was delivered: the call stands on its own again. */
static void wait_over(struct deputy_call *call)
{
    struct worker *w = call->worker;
    if (!w->returned || (w->posts && !w->abandoned))
        return;
    bool abandoned = w->abandoned, silent = !w->ended;
    int code = w->code;
    LL_DELETE2(call->engine->working, call, next_working);
    call->worker = NULL;
    free_worker(w);
    if (abandoned) {
        call_free(call);
    } else if (call->stale) {
        if (!PROVIDER_HAS(call->provider->vtable, withdrawn))
            deputy_call_set_data(call, NULL);
        call->owner->settled(call);
    } else if (call->live && silent) {
        deputy_failure failure;
        failure_set(&failure, DEPUTY_FAILURE_ERROR, 0, "provider", "provider '%s' returned without an answer: %s",
                    call->provider->name, deputy_strerror(code));
        call->live = false;
        reply_take_fail(call, &failure);
    }
}

static void after_work(uv_work_t *work, int status)
{
    struct worker *w = work->data;
    (void)status;
    w->returned = true;
    worker_deliver(w->call);
}

static char *copy_into(char **at, const char *s)
{
    if (!s)
        return NULL;
    size_t n = strlen(s) + 1;
    char *to = memcpy(*at, s, n);
    *at += n;
    return to;
}

static int copy_request(struct worker *w, const deputy_request *from)
{
    size_t need = 1;
    const char *strings[] = {from->llm, from->endpoint, from->bearer_token};
    for (size_t i = 0; i < 3; i++)
        need += strings[i] ? strlen(strings[i]) + 1 : 0;
    w->strings = malloc(need);
    w->body = malloc(from->body_len + 1);
    if (!w->strings || !w->body || header_list_copy(&w->headers, from->headers, from->n_headers) != DEPUTY_OK)
        return DEPUTY_ENOMEM;
    char *at = w->strings;
    w->request = *from;
    w->request.llm = copy_into(&at, from->llm);
    w->request.endpoint = copy_into(&at, from->endpoint);
    w->request.bearer_token = copy_into(&at, from->bearer_token);
    if (from->body_len)
        memcpy(w->body, from->body, from->body_len);
    w->body[from->body_len] = '\0';
    w->request.body = w->body;
    w->request.headers = w->headers.list;
    w->request.n_headers = w->headers.n;
    return DEPUTY_OK;
}

int worker_start(struct deputy_call *call)
{
    struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return DEPUTY_ENOMEM;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->room, NULL);
    w->call = call;
    w->work.data = w;
    int code = copy_request(w, &call->request);
    if (code == DEPUTY_OK) {
        call->worker = w;
        if (uv_queue_work(loop_uv(call->engine->loop), &w->work, work, after_work) != 0)
            code = DEPUTY_EIO;
    }
    if (code != DEPUTY_OK) {
        call->worker = NULL;
        free_worker(w);
        return code;
    }
    LL_PREPEND2(call->engine->working, call, next_working);
    return DEPUTY_OK;
}

enum worker_word worker_give_up(struct deputy_call *call)
{
    struct worker *w = call->worker;
    pthread_mutex_lock(&w->lock);
    w->given_up = true;
    enum worker_word word = w->stale ? WORKER_STALE : w->ended || w->returned ? WORKER_ENDED : WORKER_AT_IT;
    pthread_cond_broadcast(&w->room);
    pthread_mutex_unlock(&w->lock);
    return word;
}

void worker_revoke(struct deputy_call *call)
{
    struct worker *w = call->worker;
    pthread_mutex_lock(&w->lock);
    w->revoked = true;
    pthread_mutex_unlock(&w->lock);
}

void worker_abandon(struct deputy_call *call)
{
    struct worker *w = call->worker;
    worker_give_up(call);
    w->abandoned = true;
    if (w->returned)
        wait_over(call);
    else
        uv_cancel((uv_req_t *)&w->work); /* when it has not begun; after_work comes in any case */
}
