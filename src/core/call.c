#include "core/call.h"

#include "base/error.h"
#include "core/reply.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

/* ---- headers ---------------------------------------------------------------------------------------------------- */

void header_list_borrow(struct header_list *to, deputy_header *headers, size_t n)
{
    to->list = headers;
    to->n = n;
    to->borrowed = true;
}

int header_list_copy(struct header_list *to, const deputy_header *headers, size_t n)
{
    size_t bytes = n * sizeof(deputy_header);
    to->list = NULL;
    to->n = 0;
    to->borrowed = false;
    if (n == 0)
        return DEPUTY_OK;
    for (size_t i = 0; i < n; i++)
        bytes += strlen(headers[i].name) + strlen(headers[i].value) + 2;
    deputy_header *list = malloc(bytes);
    if (!list)
        return DEPUTY_ENOMEM;
    char *p = (char *)(list + n);
    for (size_t i = 0; i < n; i++) {
        size_t name = strlen(headers[i].name) + 1, value = strlen(headers[i].value) + 1;
        list[i].name = memcpy(p, headers[i].name, name);
        list[i].value = memcpy(p + name, headers[i].value, value);
        p += name + value;
    }
    to->list = list;
    to->n = n;
    return DEPUTY_OK;
}

void header_list_free(struct header_list *list)
{
    if (!list->borrowed)
        free(list->list);
    list->list = NULL;
    list->n = 0;
}

const char *header_find(const deputy_header *headers, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if ((*headers[i].name | 0x20) == (*name | 0x20) && strcasecmp(headers[i].name, name) == 0)
            return headers[i].value;
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

struct deputy_call *call_new(deputy_engine *engine, deputy_provider *provider, enum call_purpose purpose,
                             const struct call_owner *owner, void *user)
{
    struct deputy_call *call = pool_take(&engine->call_pool, sizeof(*call));
    if (!call)
        return NULL;
    call->engine = engine;
    call->provider = deputy_provider_ref(provider);
    call->purpose = purpose;
    call->owner = owner;
    call->user = user;
    call->failure.retry_after_ms = -1;
    return call;
}

void call_free(struct deputy_call *call)
{
    if (!call)
        return;
    call_stop(call);
    timer_drop(call->timer);
    call->timer = NULL;
    if (call->worker) { /* its thread still holds the call */
        worker_abandon(call);
        return;
    }
    header_list_free(&call->head);
    buffer_free(&call->held);
    sse_free(&call->sse);
    free(call->key);
    deputy_provider_unref(call->provider);
    pool_give(&call->engine->call_pool, call);
}

void call_settle(struct deputy_call *call, enum call_state state)
{
    bool was_open = call->state == CALL_OPEN;
    call->state = state;
    if (was_open)
        call->owner->settled(call);
}

/* ---- deadlines of a leg ----------------------------------------------------------------------------------------- */

static uint32_t first_ms(const struct deputy_call *call)
{
    const deputy_timeouts *t = &call->engine->options.timeouts;
    return call->wants_stream ? t->first_token_ms : t->first_byte_ms;
}

/* Still waiting for what counts as the first sign: the head of a plain reply, the first output of a stream. */
static bool before_first(const struct deputy_call *call)
{
    return call->state == CALL_OPEN && (call->is_stream ? !call->sse.output : !call->has_head);
}

/* When the silence so far becomes a failure: microseconds from now, 0 when it is one. code names the timeout. */
static uint64_t left_us(const struct deputy_call *call, uint64_t now, uint64_t *limit, const char **code)
{
    bool first = before_first(call);
    bool reader_is_slow = call->flowing && (call->paused || buffer_len(&call->held) > 0);
    uint64_t since = call->waits || reader_is_slow ? now : first ? call->sent_us : call->last_us;
    *limit = (first ? first_ms(call) : call->engine->options.timeouts.idle_ms) * (uint64_t)1000;
    *code = !first ? "idle" : call->wants_stream ? "first_token" : "first_byte";
    uint64_t whole = call->limit_ms * (uint64_t)1000;
    if (whole && !call->flowing && call->start_us + whole < since + *limit) {
        since = call->start_us;
        *limit = whole;
        *code = "total";
    }
    return since + *limit > now ? since + *limit - now : 0;
}

static void on_timer(void *user)
{
    struct deputy_call *call = user;
    const char *code;
    uint64_t limit, left, now;
    call->looks_at_us = 0;
    if (call->lingering) {
        call_stop(call);
        reply_take_end(call);
        return;
    }
    if (!call->live)
        return;
    now = loop_now_us();
    left = left_us(call, now, &limit, &code);
    if (left > 0) {
        call->looks_at_us = now + left;
        timer_again(call->timer, left / 1000 + 1);
        return;
    }
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_TIMEOUT, 0, code, "%s: nothing came for %u ms (timeout: %s)",
                call->provider->name, (unsigned)(limit / 1000), code);
    call_fail(call, &failure);
}

static int arm(struct deputy_call *call, uint64_t ms)
{
    if (call->timer)
        timer_again(call->timer, ms);
    else
        call->timer = timer_start(call->engine->timers, ms, on_timer, call);
    return call->timer ? DEPUTY_OK : DEPUTY_ENOMEM;
}

/* A leg of a run that is under way has a timer that looks at it when its silence would be too long. */
static int watch(struct deputy_call *call)
{
    const char *code;
    uint64_t limit, now = loop_now_us(), ms = left_us(call, now, &limit, &code) / 1000 + 1;
    /* One that comes too early looks again, so only an earlier one is worth the work. */
    if (call->timer && call->looks_at_us && call->looks_at_us <= now + ms * 1000)
        return DEPUTY_OK;
    call->looks_at_us = now + ms * 1000;
    return arm(call, ms);
}

void call_rewatch(struct deputy_call *call)
{
    if (call->timer && call->live && !call->lingering)
        watch(call);
}

void call_linger(struct deputy_call *call, uint64_t ms)
{
    if (call->lingering)
        return;
    call->lingering = true;
    call->looks_at_us = 0;
    arm(call, ms); /* without memory for a timer the leg's own deadline ends it */
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

static int ask(struct deputy_call *call)
{
    const deputy_provider_vtable *v = call->provider->vtable;
    void *self = call->provider->self;
    if (v->flags & DEPUTY_PROVIDER_BLOCKS)
        return worker_start(call);
    switch (call->purpose) {
    case CALL_MODELS:
        return v->list_models ? v->list_models(self, call) : reply_take_end(call);
    case CALL_AVAILABLE:
        return v->is_available ? v->is_available(self, call) : reply_take_end(call);
    case CALL_PRIMARY:
    case CALL_LOCAL:
        break;
    }
    return v->complete(self, call, &call->request);
}

void call_send(struct deputy_call *call, uint64_t now_us)
{
    call->live = true;
    call->start_us = call->last_us = call->sent_us = now_us;
    call->waits = (call->provider->vtable->flags & DEPUTY_PROVIDER_WAITS) != 0;
    call->engine->depth++;
    int code = ask(call);
    call->engine->depth--;
    if (code != DEPUTY_OK && call->live) {
        deputy_failure failure;
        failure_set(&failure, code == DEPUTY_EINVAL ? DEPUTY_FAILURE_REFUSED : DEPUTY_FAILURE_ERROR, 0, "provider",
                    "provider '%s' did not take the request: %s", call->provider->name, deputy_strerror(code));
        call->live = false; /* it said no: there is nothing to cancel */
        reply_take_fail(call, &failure);
        return;
    }
    if (call->live && !call->lingering && (call->purpose == CALL_PRIMARY || call->purpose == CALL_LOCAL) &&
        watch(call) != DEPUTY_OK) {
        deputy_failure failure;
        failure_set(&failure, DEPUTY_FAILURE_ERROR, 0, "memory", "out of memory for a timer");
        call_fail(call, &failure);
    }
}

void call_send_again(struct deputy_call *call)
{
    uint64_t start_us = call->start_us;
    call->stale = false;
    call_send(call, loop_now_us());
    call->start_us = start_us; /* what bounds the whole leg goes on */
    call_rewatch(call);
}

void call_withdraw(struct deputy_call *call)
{
    const deputy_provider_vtable *v = call->provider->vtable;
    if (!call->stale)
        return;
    call->stale = false;
    if (PROVIDER_HAS(v, withdrawn)) {
        call->engine->depth++;
        v->withdrawn(call->provider->self, call);
        call->engine->depth--;
    }
    call->data = NULL;
}

void call_accept(struct deputy_call *call)
{
    call->flowing = true;
}

void call_resume(struct deputy_call *call)
{
    const deputy_provider_vtable *v = call->provider->vtable;
    if (!call->paused)
        return;
    call->paused = false;
    call->last_us = loop_now_us();
    if (call->worker) {
        worker_deliver(call);
    } else if (call->live && v->resume) {
        call->engine->depth++;
        v->resume(call->provider->self, call);
        call->engine->depth--;
    }
}

void call_stop(struct deputy_call *call)
{
    const deputy_provider_vtable *v = call->provider->vtable;
    if (!call->live)
        return;
    call->live = false;
    enum worker_word word = call->worker ? worker_give_up(call) : WORKER_AT_IT;
    if (word == WORKER_STALE) {
        call->stale = true;
        call_withdraw(call);
    } else if (word == WORKER_AT_IT && v->cancel) {
        call->engine->depth++;
        v->cancel(call->provider->self, call);
        call->engine->depth--;
    }
    if (!call->worker) /* its thread may still look */
        call->data = NULL;
}

void call_fail(struct deputy_call *call, const deputy_failure *failure)
{
    call_stop(call);
    reply_take_fail(call, failure);
}

/* ---- for providers ---------------------------------------------------------------------------------------------- */

void call_sends(struct deputy_call *call)
{
    if (call->waits)
        call->sent_us = loop_now_us();
    call->waits = false;
}

static int begin_to_send(struct deputy_call *call)
{
    call_sends(call);
    return DEPUTY_OK;
}

int deputy_call_admit(deputy_call *call)
{
    const deputy_options *o = &call->engine->options;
    if (call->worker)
        return worker_admit(call);
    if (!call->live)
        return DEPUTY_ECANCELED;
    if (call->purpose != CALL_LOCAL || o->gate == DEPUTY_GATE_POLICY)
        return begin_to_send(call);
    if (gate_holds(&call->permit, &call->claim, (uint64_t)o->permit_ms * 1000, gate_now_us()))
        return begin_to_send(call);
    call->stale = true;
    call->live = false;
    if (!PROVIDER_HAS(call->provider->vtable, withdrawn))
        call->data = NULL;
    call->owner->settled(call);
    return DEPUTY_ESTALE;
}

void deputy_call_set_data(deputy_call *call, void *data)
{
    call->data = data;
}

void *deputy_call_data(const deputy_call *call)
{
    return call->data;
}

deputy_engine *deputy_call_engine(const deputy_call *call)
{
    return call->engine;
}
