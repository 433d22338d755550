/* The engine as a C host sees it: in-process providers that answer when the test says so, and a sink that writes down
 * everything. */
#include "deputy/provider.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include <cmocka.h>

#define TOKEN "tok-secret-271828"

static void nap_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* ---- a provider ------------------------------------------------------------------------------------------------- */

enum conduct { KEEP, JSON, FAIL, DECLINE, SILENT };

/* What it does when asked, and what it was asked. The calls it keeps are the test's to answer. */
struct actor {
    enum conduct conduct;
    int asked, cancelled, resumed, destroyed;
    deputy_call *call; /* the newest one that is kept */
    deputy_call *kept[1100];
    char token[64], headers[256], llm[64];
    const void *body;
    const char *answer;
    deputy_failure failure;
};

static int actor_complete(void *self, deputy_call *call, const deputy_request *request)
{
    struct actor *a = self;
    if (a->asked < 1100)
        a->kept[a->asked] = call;
    a->asked++;
    a->call = NULL;
    a->body = request->body;
    snprintf(a->token, sizeof(a->token), "%s", request->bearer_token ? request->bearer_token : "(none)");
    snprintf(a->llm, sizeof(a->llm), "%s", request->llm);
    a->headers[0] = '\0';
    for (size_t i = 0; i < request->n_headers; i++) {
        size_t at = strlen(a->headers);
        snprintf(a->headers + at, sizeof(a->headers) - at, "%s=%s;", request->headers[i].name,
                 request->headers[i].value);
    }
    switch (a->conduct) {
    case KEEP:
        a->call = call;
        return DEPUTY_OK;
    case JSON:
        return deputy_reply_json(call, a->answer, strlen(a->answer));
    case FAIL:
        return deputy_reply_fail(call, &a->failure);
    case DECLINE:
        return DEPUTY_EINVAL;
    case SILENT:
        return deputy_reply_end(call);
    }
    return DEPUTY_EINVAL;
}

static void actor_cancel(void *self, deputy_call *call)
{
    struct actor *a = self;
    a->cancelled++;
    if (a->call == call)
        a->call = NULL;
}

static void actor_resume(void *self, deputy_call *call)
{
    (void)call;
    ((struct actor *)self)->resumed++;
}

static void actor_destroy(void *self)
{
    ((struct actor *)self)->destroyed++;
}

static const deputy_provider_vtable actor_vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(actor_vtable),
    .complete = actor_complete,
    .cancel = actor_cancel,
    .resume = actor_resume,
    .destroy = actor_destroy,
};

static deputy_provider *provider_of(const char *name, const deputy_provider_vtable *vtable, void *self)
{
    deputy_provider *provider;
    assert_int_equal(deputy_provider_new(name, vtable, self, &provider, NULL), DEPUTY_OK);
    return provider;
}

/* ---- a host ----------------------------------------------------------------------------------------------------- */

struct seen {
    struct host *host;
    int heads, ends, offers;
    int status;
    char head[256];
    char *bytes;
    size_t len;
    int pause_every; /* > 0: every n-th offer is refused once */
    int answer;      /* what on_bytes answers otherwise */
    bool paused, resume_inside;
    deputy_outcome outcome;
    deputy_failure failure;
    deputy_trace trace[64];
    char via[64];
    char legs[512]; /* "primary:ok probe:ok ..." */
    void (*in_head)(struct seen *);
    void (*in_bytes)(struct seen *);
    void (*in_end)(struct seen *);
    deputy_run_id run;
};

struct host {
    deputy_engine *engine;
    struct actor primary, local, other;
    deputy_provider *primary_provider;
    int probes, probe_at;
    int probe_status[16]; /* in turn; the last one again and again */
    char log[8192];
    struct seen seen;
};

static void probe_fn(void *user, const char *llm, const char *token, deputy_probe_answer *answer)
{
    struct host *h = user;
    assert_string_equal(token, TOKEN);
    assert_non_null(llm);
    int status = h->probe_status[h->probe_at];
    if (h->probe_at < 15 && h->probe_status[h->probe_at + 1])
        h->probe_at++;
    h->probes++;
    answer->kind = status > 0 ? DEPUTY_PROBE_OK : DEPUTY_PROBE_TIMEOUT;
    answer->status = status > 0 ? status : 200;
}

static void log_fn(void *user, deputy_log_level level, const char *text)
{
    struct host *h = user;
    size_t at = strlen(h->log);
    (void)level;
    assert_null(strchr(text, '\n'));
    snprintf(h->log + at, sizeof(h->log) - at, "%s\n", text);
}

static const char default_policy[] = "local M = {}\n"
                                     "function M.should_failover() return true end\n"
                                     "function M.verdict(p)\n"
                                     "  return p.status == 204 and 'allowed' or p.status == 403 and 'forbidden' or ''\n"
                                     "end\n"
                                     "function M.route(run)\n"
                                     "  local reply, failure = run:primary()\n"
                                     "  if reply then return reply end\n"
                                     "  for _, candidate in ipairs(run:candidates()) do\n"
                                     "    if M.verdict(run:probe()) ~= 'allowed' then return nil, failure end\n"
                                     "    local answer = run:complete(candidate)\n"
                                     "    if answer then return answer end\n"
                                     "  end\n"
                                     "  return nil, failure\n"
                                     "end\n"
                                     "return M\n";

static void load(struct host *h, const char *text)
{
    deputy_error error = {0};
    if (deputy_load_policy_text(h->engine, "test", text, strlen(text), &error) != DEPUTY_OK)
        fail_msg("%s", error.message);
}

/* A policy whose route is this. */
static void load_route(struct host *h, const char *route)
{
    char text[4096];
    snprintf(text, sizeof(text), "return { should_failover = print, verdict = print, route = function(run)\n%s\nend }",
             route);
    load(h, text);
}

static deputy_options options_for(struct host *h)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    o.bearer_token = TOKEN;
    o.probe = probe_fn;
    o.probe_user = h;
    o.on_log = log_fn;
    o.log_user = h;
    o.verify = DEPUTY_VERIFY_OFF;
    return o;
}

static struct host *host_new(const deputy_options *options)
{
    struct host *h = calloc(1, sizeof(*h));
    assert_non_null(h);
    deputy_options o = options_for(h);
    if (options) {
        o.timeouts = options->timeouts;
        o.limits = options->limits;
        o.permit_ms = options->permit_ms;
        o.loop = options->loop;
        o.gate = options->gate;
    }
    assert_int_equal(deputy_engine_new(&o, &h->engine, NULL), DEPUTY_OK);
    load(h, default_policy);
    h->primary_provider = provider_of("the primary", &actor_vtable, &h->primary);
    assert_int_equal(deputy_register(h->engine, provider_of("local", &actor_vtable, &h->local), NULL), DEPUTY_OK);
    assert_int_equal(deputy_register(h->engine, provider_of("other", &actor_vtable, &h->other), NULL), DEPUTY_OK);
    assert_int_equal(deputy_register_failover(h->engine, "claude", "local", NULL), DEPUTY_OK);
    assert_int_equal(deputy_register_failover(h->engine, "claude", "other", NULL), DEPUTY_OK);
    h->primary.answer = "{\"from\":\"primary\"}";
    h->local.answer = "{\"from\":\"local\"}";
    h->other.answer = "{\"from\":\"other\"}";
    h->primary.failure = h->local.failure = h->other.failure = (deputy_failure){
        .kind = DEPUTY_FAILURE_CONNECT, .code = "refused", .message = "nobody there", .retry_after_ms = -1};
    h->probe_status[0] = 204;
    h->seen.host = h;
    return h;
}

static void host_free(struct host *h)
{
    deputy_engine_free(h->engine);
    deputy_provider_unref(h->primary_provider);
    assert_int_equal(h->primary.destroyed, 1);
    assert_int_equal(h->local.destroyed, 1);
    assert_null(strstr(h->log, TOKEN));
    free(h->seen.bytes);
    free(h);
}

/* ---- a sink ----------------------------------------------------------------------------------------------------- */

static void on_head(void *user, int status, const deputy_header *headers, size_t n)
{
    struct seen *s = user;
    assert_int_equal(s->heads++, 0);
    assert_int_equal(s->len, 0);
    assert_int_equal(s->ends, 0);
    s->status = status;
    for (size_t i = 0; i < n; i++) {
        size_t at = strlen(s->head);
        snprintf(s->head + at, sizeof(s->head) - at, "%s=%s;", headers[i].name, headers[i].value);
    }
    if (s->in_head)
        s->in_head(s);
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct seen *s = user;
    assert_int_equal(s->heads, 1);
    assert_int_equal(s->ends, 0);
    assert_false(s->paused);
    assert_true(len > 0);
    if (s->in_bytes)
        s->in_bytes(s);
    if (s->pause_every && ++s->offers % s->pause_every == 0) {
        s->paused = !s->resume_inside;
        if (s->resume_inside)
            deputy_resume(s->host->engine, s->run);
        return DEPUTY_PAUSE;
    }
    if (s->answer != DEPUTY_OK)
        return s->answer;
    s->bytes = realloc(s->bytes, s->len + len + 1);
    assert_non_null(s->bytes);
    memcpy(s->bytes + s->len, bytes, len);
    s->len += len;
    s->bytes[s->len] = '\0';
    return DEPUTY_OK;
}

static void on_end(void *user, const deputy_outcome *o)
{
    struct seen *s = user;
    uint64_t last = 0;
    assert_int_equal(s->ends++, 0);
    s->outcome = *o;
    assert_int_equal(o->size, sizeof(*o));
    assert_int_equal(o->failure == NULL, o->result == DEPUTY_RESULT_OK);
    if (o->failure)
        s->failure = *o->failure;
    if (o->via)
        snprintf(s->via, sizeof(s->via), "%s", o->via);
    assert_true(o->n_trace <= 64);
    for (size_t i = 0; i < o->n_trace; i++) {
        const deputy_trace *t = &o->trace[i];
        size_t at = strlen(s->legs);
        s->trace[i] = *t;
        assert_true(t->start_us >= last); /* in order, and nothing is left open */
        assert_true(t->end_us >= t->start_us && t->end_us <= o->us);
        assert_int_equal(t->provider != NULL, t->leg == DEPUTY_LEG_LOCAL);
        last = t->start_us;
        snprintf(s->legs + at, sizeof(s->legs) - at, "%s%s:%s", i ? " " : "", deputy_leg_name(t->leg), t->kind);
    }
    if (s->in_end)
        s->in_end(s);
}

static deputy_sink sink_for(struct seen *s)
{
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    sink.user = s;
    sink.on_head = on_head;
    sink.on_bytes = on_bytes;
    sink.on_end = on_end;
    return sink;
}

static deputy_request request_for(struct host *h)
{
    static const char body[] = "{\"model\":\"claude\"}";
    deputy_request r = DEPUTY_INIT(deputy_request);
    r.llm = "claude";
    r.body = body;
    r.body_len = sizeof(body) - 1;
    r.primary = h->primary_provider;
    return r;
}

static void start_with(struct host *h, const deputy_request *request, struct seen *s)
{
    deputy_sink sink = sink_for(s);
    deputy_error error = {0};
    s->host = h;
    if (deputy_start(h->engine, request, &sink, &s->run, &error) != DEPUTY_OK)
        fail_msg("%s", error.message);
    assert_int_equal(s->ends, 0); /* never from inside start */
    assert_int_equal(s->heads, 0);
}

static void start(struct host *h)
{
    deputy_request request = request_for(h);
    start_with(h, &request, &h->seen);
}

static void start_stream(struct host *h, bool whole)
{
    deputy_request request = request_for(h);
    request.stream = DEPUTY_STREAM_YES;
    request.whole = whole;
    start_with(h, &request, &h->seen);
}

static void turn(struct host *h)
{
    int ms = deputy_timeout(h->engine);
    struct pollfd p = {.fd = deputy_fd(h->engine), .events = POLLIN};
    poll(&p, 1, ms < 0 || ms > 5 ? 5 : ms);
    assert_int_equal(deputy_pump(h->engine), DEPUTY_OK);
}

/* Turns until this is so; five seconds at most, however slow the machine is. */
#define TURN_UNTIL(h, condition)                                                                                       \
    for (time_t begun_at = time(NULL); !(condition) && time(NULL) - begun_at < 6;)                                     \
    turn(h)

static void turns(struct host *h, int n)
{
    while (n-- > 0)
        turn(h);
}

static void finish(struct host *h)
{
    TURN_UNTIL(h, h->seen.ends);
    assert_int_equal(h->seen.ends, 1);
    turns(h, 2);
    assert_int_equal(deputy_in_flight(h->engine), 0);
}

static void until_asked(struct host *h, const struct actor *a, int n)
{
    TURN_UNTIL(h, a->asked >= n);
    assert_int_equal(a->asked, n);
}

static void expect(const struct seen *s, deputy_result result, int status, const char *bytes, const char *legs)
{
    assert_int_equal(s->outcome.result, result);
    assert_int_equal(s->status, status);
    assert_int_equal(s->outcome.status, status);
    assert_string_equal(s->bytes ? s->bytes : "", bytes);
    assert_string_equal(s->legs, legs);
}

static deputy_failure failure_of(deputy_failure_kind kind, int status)
{
    return (deputy_failure){.kind = kind, .status = status, .retry_after_ms = -1};
}

static const deputy_header sse_type = {"Content-Type", "text/event-stream"};
#define EVENT(text)                                                                                                    \
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"},\"finish_reason\":null}]}\n\n"
#define ROLE "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\n\n"
#define STOP "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define DONE "data: [DONE]\n\n"

static int bytes_to(deputy_call *call, const char *text)
{
    return deputy_reply_bytes(call, text, strlen(text));
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

static void a_reply_at_once(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = JSON;
    start(h);
    assert_int_equal(h->primary.asked, 0); /* nothing runs inside start */
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"from\":\"primary\"}", "primary:ok");
    assert_string_equal(h->seen.head, "content-type=application/json;");
    assert_false(h->seen.outcome.failover);
    assert_false(h->seen.outcome.probed);
    assert_int_equal(h->probes, 0);
    assert_string_equal(h->primary.token, TOKEN);
    host_free(h);
}

static void a_reply_later_in_chunks(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    start(h);
    until_asked(h, &h->primary, 1);
    deputy_call *call = h->primary.call;
    assert_int_equal(deputy_reply_head(call, 201, &(deputy_header){"X-A", "b"}, 1), DEPUTY_OK);
    assert_int_equal(bytes_to(call, "{\"a\""), DEPUTY_OK);
    turns(h, 3);
    assert_int_equal(h->seen.heads, 0); /* a plain reply is accepted whole */
    assert_int_equal(bytes_to(call, ":1}"), DEPUTY_OK);
    assert_int_equal(deputy_reply_end(call), DEPUTY_OK);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 201, "{\"a\":1}", "primary:ok");
    assert_string_equal(h->seen.head, "X-A=b;");
    assert_int_equal(h->primary.cancelled, 0);
    host_free(h);
}

static void a_value_without_a_head(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = SILENT;
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 0, "", "primary:ok");
    assert_int_equal(h->seen.heads, 0);
    host_free(h);
}

static void a_failure_and_a_stand_in(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = FAIL;
    h->local.conduct = JSON;
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"from\":\"local\"}", "primary:connect probe:ok local:ok");
    assert_true(h->seen.outcome.failover);
    assert_string_equal(h->seen.via, "local");
    assert_true(h->seen.outcome.probed);
    assert_int_equal(h->seen.outcome.verdict, DEPUTY_ALLOWED);
    assert_int_equal(h->seen.trace[1].verdict, DEPUTY_ALLOWED);
    assert_int_equal(h->seen.trace[1].status, 204);
    assert_string_equal(h->local.token, "(none)");
    host_free(h);
}

static void a_chain_probes_for_each(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = h->local.conduct = FAIL;
    h->other.conduct = JSON;
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"from\":\"other\"}",
           "primary:connect probe:ok local:connect probe:ok local:ok");
    assert_int_equal(h->probes, 2);
    host_free(h);

    h = host_new(NULL);
    h->primary.conduct = h->local.conduct = FAIL;
    h->probe_status[1] = 403;
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_FAILED, 0, "", "primary:connect probe:ok local:connect probe:ok");
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_CONNECT);
    assert_string_equal(h->seen.failure.message, "nobody there");
    assert_int_equal(h->seen.outcome.verdict, DEPUTY_FORBIDDEN);
    assert_int_equal(h->other.asked, 0);
    host_free(h);
}

static void the_primarys_error_as_it_came(void **state)
{
    static const deputy_header headers[] = {
        {"X-One", "1"}, {"content-type", "application/octet-stream"}, {"X-One", "2"}};
    static const char body[] = "\0\1\xff not json";
    struct host *h = host_new(NULL);
    (void)state;
    h->local.conduct = h->other.conduct = FAIL;
    start(h);
    until_asked(h, &h->primary, 1);
    deputy_call *call = h->primary.call;
    deputy_reply_head(call, 503, headers, 3);
    deputy_reply_bytes(call, body, sizeof(body));
    deputy_reply_end(call);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.status, 503);
    assert_int_equal(h->seen.len, sizeof(body));
    assert_memory_equal(h->seen.bytes, body, sizeof(body));
    assert_string_equal(h->seen.head, "X-One=1;content-type=application/octet-stream;X-One=2;");
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_STATUS);
    assert_int_equal(h->seen.failure.status, 503);
    assert_false(h->seen.outcome.failover);
    assert_null(h->seen.outcome.via);
    host_free(h);
}

static void a_provider_that_declines(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = DECLINE;
    h->local.conduct = h->other.conduct = DECLINE;
    start(h);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_REFUSED);
    assert_int_equal(h->primary.cancelled + h->local.cancelled, 0);
    host_free(h);
}

static void a_provider_that_misbehaves(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    start(h);
    until_asked(h, &h->primary, 1);
    deputy_call *call = h->primary.call;
    assert_int_equal(bytes_to(call, "too early"), DEPUTY_EINVAL);
    assert_int_equal(deputy_reply_model(call, "m"), DEPUTY_EINVAL);
    assert_int_equal(deputy_reply_head(call, 199, NULL, 0), DEPUTY_EINVAL);
    assert_int_equal(deputy_reply_head(call, 1000, NULL, 0), DEPUTY_EINVAL);
    assert_int_equal(deputy_reply_head(call, 200, NULL, 0), DEPUTY_OK);
    assert_int_equal(deputy_reply_head(call, 200, NULL, 0), DEPUTY_EINVAL);
    assert_int_equal(deputy_reply_bytes(call, "", 0), DEPUTY_OK);
    assert_int_equal(bytes_to(call, "{}"), DEPUTY_OK);
    assert_int_equal(deputy_call_admit(call), DEPUTY_OK);
    assert_ptr_equal(deputy_call_engine(call), h->engine);
    assert_null(deputy_call_data(call));
    assert_int_equal(deputy_reply_end(call), DEPUTY_OK);
    assert_int_equal(deputy_reply_end(call), DEPUTY_ECANCELED); /* before the loop turns it is still there */
    assert_int_equal(deputy_reply_fail(call, NULL), DEPUTY_ECANCELED);
    assert_int_equal(bytes_to(call, "x"), DEPUTY_ECANCELED);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{}", "primary:ok");
    host_free(h);
}

static void a_failure_that_says_nothing(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->probe_status[0] = 403;
    start(h);
    until_asked(h, &h->primary, 1);
    deputy_reply_fail(h->primary.call, NULL);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_FAILED, 0, "", "primary:error probe:ok");
    assert_true(h->seen.failure.message[0] != '\0');
    host_free(h);
}

static void a_failure_that_is_too_long(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->probe_status[0] = 403;
    h->primary.conduct = FAIL;
    memset(h->primary.failure.code, 'c', sizeof(h->primary.failure.code));
    memset(h->primary.failure.message, 'm', sizeof(h->primary.failure.message));
    load_route(h, "local _, failure = run:primary() run:log('warn', failure.message) return nil, failure");
    start(h);
    finish(h);
    assert_int_equal(strnlen(h->seen.failure.code, 100), sizeof(h->seen.failure.code) - 1);
    assert_int_equal(strnlen(h->seen.failure.message, 500), sizeof(h->seen.failure.message) - 1);
    host_free(h);
}

/* ---- streams, pause and resume ------------------------------------------------------------------------------------
 */

static deputy_call *begin_stream(struct host *h, struct actor *a, bool whole)
{
    start_stream(h, whole);
    until_asked(h, a, 1);
    assert_int_equal(deputy_reply_head(a->call, 200, &sse_type, 1), DEPUTY_OK);
    return a->call;
}

/* A permit each, wherever they were asked for: a hedge or a chain may ask for all of them at first. */
static void two_answers_are_two_permits(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = h->local.conduct = FAIL;
    h->other.conduct = JSON;
    load_route(h, "local _, failure = run:primary()\n"
                  "run:probe() run:probe()\n"
                  "for _, candidate in ipairs(run:candidates()) do\n"
                  "  local answer = run:complete(candidate)\n"
                  "  if answer then return answer end\n"
                  "end\n"
                  "return nil, failure");
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, h->other.answer,
           "primary:connect probe:ok probe:ok local:connect local:ok");
    host_free(h);
}

/* How long a script waits for a leg says nothing about a reply that it has taken. */
static void a_legs_own_limit_ends_with_its_reply(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    load_route(h, "return run:primary{ timeout_ms = 200 }");
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("a"));
    TURN_UNTIL(h, h->seen.heads > 0);
    nap_ms(250);
    turns(h, 5);
    assert_int_equal(h->seen.ends, 0);
    assert_int_equal(bytes_to(call, EVENT("b") STOP DONE), DEPUTY_OK);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, EVENT("a") EVENT("b") STOP DONE, "primary:ok");
    host_free(h);
}

static void a_stream_flows_from_its_first_output(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, ": hello\n\n" ROLE);
    turns(h, 3);
    assert_int_equal(h->seen.heads, 0);
    bytes_to(call, EVENT("a"));
    turns(h, 3);
    assert_int_equal(h->seen.heads, 1);
    assert_string_equal(h->seen.bytes, ": hello\n\n" ROLE EVENT("a"));
    bytes_to(call, EVENT("b"));
    assert_string_equal(h->seen.bytes, ": hello\n\n" ROLE EVENT("a") EVENT("b")); /* at once, byte for byte */
    bytes_to(call, STOP DONE);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, ": hello\n\n" ROLE EVENT("a") EVENT("b") STOP DONE, "primary:ok");
    host_free(h);
}

static void a_stream_cut_after_output(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("a"));
    turns(h, 3);
    deputy_failure cut = failure_of(DEPUTY_FAILURE_CUT, 0);
    deputy_reply_fail(call, &cut);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_CUT, 200, EVENT("a"), "primary:ok");
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_CUT);
    assert_int_equal(h->local.asked, 0);
    host_free(h);
}

static void a_stream_cut_before_output(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->local.conduct = FAIL;
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, ROLE);
    deputy_failure cut = failure_of(DEPUTY_FAILURE_CUT, 0);
    deputy_reply_fail(call, &cut);
    until_asked(h, &h->other, 1);
    call = h->other.call;
    deputy_reply_head(call, 200, &sse_type, 1);
    bytes_to(call, EVENT("b") STOP DONE);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, EVENT("b") STOP DONE,
           "primary:cut probe:ok local:connect probe:ok local:ok");
    assert_string_equal(h->seen.via, "other");
    host_free(h);
}

static void a_whole_stream_cut_after_output(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->local.conduct = FAIL;
    h->other.conduct = FAIL;
    deputy_call *call = begin_stream(h, &h->primary, true);
    bytes_to(call, EVENT("a"));
    turns(h, 3);
    assert_int_equal(h->seen.heads, 0);
    deputy_reply_end(call); /* a clean end of the connection, but the model was not done */
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.heads, 0);
    assert_int_equal(h->local.asked, 1);
    host_free(h);
}

/* What it had under way goes with it: nobody will take the answer, and the primary may be long about its own. */
static void a_script_that_fails_beside_a_stand_in(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    load_route(h, "return run:first{\n"
                  "  function() run:probe() return run:complete('local') end,\n"
                  "  function() run:sleep(1) error('oops') end }");
    start(h);
    until_asked(h, &h->primary, 1);
    assert_int_equal(h->local.asked, 1);
    assert_int_equal(h->local.cancelled, 1);
    deputy_reply_fail(h->primary.call, &h->primary.failure);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_FAILED, 0, "", "probe:ok local:cancelled policy:script_failed primary:connect");
    host_free(h);
}

static void offer(struct host *h, deputy_call *call, const char *bytes, size_t len)
{
    int resumed = h->primary.resumed;
    while (deputy_reply_bytes(call, bytes, len) == DEPUTY_PAUSE) {
        if (h->seen.paused) {
            turns(h, 2);
            assert_int_equal(h->primary.resumed, resumed); /* not before somebody asks for it */
            h->seen.paused = false;
            deputy_resume(h->engine, h->seen.run);
        }
        for (int i = 0; i < 200 && h->primary.resumed == resumed; i++)
            turn(h);
        assert_int_equal(h->primary.resumed, ++resumed);
    }
}

static void pause_and_resume_lose_no_byte(void **state)
{
    struct host *h = host_new(NULL);
    char sent[20000] = "", chunk[64];
    (void)state;
    deputy_call *call = begin_stream(h, &h->primary, false);
    h->seen.pause_every = 3;
    offer(h, call, EVENT("first"), strlen(EVENT("first")));
    strcat(sent, EVENT("first"));
    for (int i = 0; i < 200; i++) {
        int n = snprintf(chunk, sizeof(chunk), ": %0*d\n\n", i % 40 + 1, i);
        offer(h, call, chunk, (size_t)n);
        strcat(sent, chunk);
    }
    offer(h, call, STOP DONE, strlen(STOP DONE));
    strcat(sent, STOP DONE);
    deputy_reply_end(call);
    for (int i = 0; i < 1000 && !h->seen.ends; i++) {
        if (h->seen.paused) {
            h->seen.paused = false;
            deputy_resume(h->engine, h->seen.run);
        }
        turn(h);
    }
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_OK);
    assert_string_equal(h->seen.bytes, sent);
    host_free(h);
}

/* A provider need not wait for its resume to send more: nothing of it reaches a reader that has paused, and nothing
 * overtakes what that reader has not taken yet. */
static void a_provider_that_sends_on_while_the_reader_pauses(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->seen.pause_every = 1;
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("a"));
    TURN_UNTIL(h, h->seen.paused);
    h->seen.paused = false;
    h->seen.pause_every = 0;
    deputy_resume(h->engine, h->seen.run);
    assert_int_equal(bytes_to(call, EVENT("b")), DEPUTY_PAUSE); /* "a" goes first */
    TURN_UNTIL(h, h->primary.resumed > 0);
    assert_int_equal(bytes_to(call, EVENT("b")), DEPUTY_OK);
    h->seen.offers = 0;
    h->seen.pause_every = 1;
    for (int i = 0; i < 3; i++)
        assert_int_equal(bytes_to(call, EVENT("c")), DEPUTY_PAUSE);
    h->seen.paused = false;
    h->seen.pause_every = 0;
    deputy_resume(h->engine, h->seen.run);
    TURN_UNTIL(h, h->primary.resumed > 1);
    assert_int_equal(bytes_to(call, EVENT("c") STOP DONE), DEPUTY_OK);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, EVENT("a") EVENT("b") EVENT("c") STOP DONE, "primary:ok");
    host_free(h);
}

static void a_paused_plain_reply(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = JSON;
    h->seen.pause_every = 1;
    start(h);
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 50 && !h->seen.paused; k++)
            turn(h);
        assert_true(h->seen.paused);
        turns(h, 3);
        assert_int_equal(h->seen.ends, 0);
        h->seen.paused = false;
        deputy_resume(h->engine, h->seen.run);
        deputy_resume(h->engine, h->seen.run);
        deputy_resume(h->engine, 12345);
    }
    h->seen.pause_every = 0;
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"from\":\"primary\"}", "primary:ok");
    host_free(h);
}

/* The reader's buffer was full and has room again before it has said so. */
static void a_resume_before_the_pause_is_said(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 3000}};
    struct host *h = host_new(&o);
    (void)state;
    h->seen.resume_inside = true;
    h->seen.pause_every = 2;
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("a"));
    turns(h, 3);
    assert_int_equal(bytes_to(call, EVENT("b")), DEPUTY_PAUSE);
    TURN_UNTIL(h, h->primary.resumed > 0);
    assert_int_equal(bytes_to(call, EVENT("b")), DEPUTY_OK);
    assert_int_equal(bytes_to(call, STOP DONE), DEPUTY_PAUSE);
    TURN_UNTIL(h, h->primary.resumed > 1);
    assert_int_equal(bytes_to(call, STOP DONE), DEPUTY_OK);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, EVENT("a") EVENT("b") STOP DONE, "primary:ok");
    host_free(h);

    h = host_new(&o);
    h->seen.resume_inside = true;
    h->primary.conduct = JSON;
    h->seen.pause_every = 2;
    h->seen.offers = 1; /* the first one is refused */
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"from\":\"primary\"}", "primary:ok");
    host_free(h);
}

/* A reader that is slow is not a model that is silent; but the run's own deadline still counts. */
static void a_pause_longer_than_the_idle_time(void **state)
{
    deputy_options o = {.timeouts = {.idle_ms = 200, .first_token_ms = 500}};
    struct host *h = host_new(&o);
    (void)state;
    deputy_call *call = begin_stream(h, &h->primary, false);
    h->seen.pause_every = 2;
    bytes_to(call, EVENT("a"));
    turns(h, 3);
    assert_int_equal(bytes_to(call, EVENT("b")), DEPUTY_PAUSE);
    nap_ms(300);
    turns(h, 10);
    assert_int_equal(h->seen.ends, 0);
    h->seen.pause_every = 0;
    h->seen.paused = false;
    deputy_resume(h->engine, h->seen.run);
    turns(h, 3);
    assert_int_equal(bytes_to(call, EVENT("b") STOP DONE), DEPUTY_OK);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, EVENT("a") EVENT("b") STOP DONE, "primary:ok");
    host_free(h);
}

/* ---- timeouts and the deadline --------------------------------------------------------------------------------------
 */

static void each_wait_of_a_leg(void **state)
{
    deputy_options o = {.timeouts = {.first_byte_ms = 30, .first_token_ms = 45, .idle_ms = 25}};
    static const struct {
        bool stream, head, output;
        const char *code;
    } cases[] = {
        {false, false, false, "first_byte"}, {false, true, false, "idle"}, {true, false, false, "first_token"},
        {true, true, false, "first_token"},  {true, true, true, "idle"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host *h = host_new(&o);
        h->probe_status[0] = 403;
        if (cases[i].stream)
            start_stream(h, false);
        else
            start(h);
        until_asked(h, &h->primary, 1);
        if (cases[i].head)
            deputy_reply_head(h->primary.call, 200, cases[i].stream ? &sse_type : NULL, cases[i].stream);
        if (cases[i].head)
            bytes_to(h->primary.call, cases[i].output ? EVENT("a") : ROLE);
        finish(h);
        assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_TIMEOUT);
        assert_string_equal(h->seen.failure.code, cases[i].code);
        assert_int_equal(h->seen.outcome.result, cases[i].output ? DEPUTY_RESULT_CUT : DEPUTY_RESULT_FAILED);
        assert_int_equal(h->primary.cancelled, 1);
        assert_true(h->seen.outcome.us >= 24000 && h->seen.outcome.us < 400000);
        host_free(h);
    }
}

static void one_deadline_over_all(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 40}};
    (void)state;
    for (int leg = 0; leg < 3; leg++) { /* which one hangs: the primary, a local one, the script's own pause */
        struct host *h = host_new(&o);
        h->primary.conduct = leg == 0 ? KEEP : FAIL;
        h->local.conduct = leg == 1 ? KEEP : FAIL;
        if (leg == 2)
            load_route(h, "local _, failure = run:primary() run:sleep(10000) return nil, failure");
        start(h);
        finish(h);
        assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
        /* the primary's own error when there is one */
        assert_int_equal(h->seen.failure.kind, leg == 0 ? DEPUTY_FAILURE_DEADLINE : DEPUTY_FAILURE_CONNECT);
        assert_true(h->seen.outcome.us >= 39000 && h->seen.outcome.us < 500000);
        assert_int_equal(h->primary.cancelled + h->local.cancelled, leg < 2);
        host_free(h);
    }
}

static void a_request_may_only_shorten_it(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 40}};
    (void)state;
    for (uint32_t ms = 20; ms < 20000; ms *= 100) {
        struct host *h = host_new(&o);
        deputy_request request = request_for(h);
        request.total_ms = ms;
        start_with(h, &request, &h->seen);
        finish(h);
        assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_DEADLINE);
        assert_true(h->seen.outcome.us < 500000);
        host_free(h);
    }
}

/* The model is done: whether the connection ends, and how, is nothing that a caller waits for. */
static void a_stream_that_is_done_and_does_not_end(void **state)
{
    for (int whole = 0; whole < 2; whole++) {
        struct host *h = host_new(NULL);
        (void)state;
        deputy_call *call = begin_stream(h, &h->primary, whole == 1);
        bytes_to(call, EVENT("a") STOP DONE);
        finish(h);
        expect(&h->seen, DEPUTY_RESULT_OK, 200, EVENT("a") STOP DONE, "primary:ok");
        assert_int_equal(h->primary.cancelled, 1);
        host_free(h);
    }
}

/* What comes while the script still thinks about a stream is held up to the bound; then its upstream has to wait. */
static void a_stream_that_goes_on_while_the_script_thinks(void **state)
{
    deputy_options o = {.limits = {.max_hold_bytes = 300}};
    struct host *h = host_new(&o);
    char sent[2000] = EVENT("a");
    int code = DEPUTY_OK;
    (void)state;
    load_route(h, "local reply = run:primary() run:sleep(100) return reply");
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("a"));
    turns(h, 3);
    for (int i = 0; i < 9 && (code = bytes_to(call, EVENT("b"))) == DEPUTY_OK; i++)
        strcat(sent, EVENT("b"));
    assert_int_equal(code, DEPUTY_PAUSE);
    assert_true(strlen(sent) <= 300);
    TURN_UNTIL(h, h->primary.resumed > 0);
    assert_int_equal(bytes_to(call, EVENT("c") STOP DONE), DEPUTY_OK);
    strcat(sent, EVENT("c") STOP DONE);
    deputy_reply_end(call);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, sent, "primary:ok");
    host_free(h);
}

/* The script sits on a reply whose bytes still come: what is there of it is not a whole reply. */
static void the_deadline_finds_half_a_stream(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 50}};
    struct host *h = host_new(&o);
    (void)state;
    load_route(h, "local reply = run:primary() run:sleep(10000) return reply");
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("half"));
    finish(h);
    assert_int_not_equal(h->seen.outcome.result, DEPUTY_RESULT_OK);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_DEADLINE);
    assert_int_equal(h->primary.cancelled, 1);
    host_free(h);
}

static void a_reply_that_is_cut_while_the_script_thinks(void **state)
{
    static const char *const routes[] = {
        "local reply = run:primary() run:sleep(100) return reply",
        "run:primary() run:probe() local reply = run:complete(run:failover()) run:sleep(100) return reply",
    };
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct host *h = host_new(NULL);
        struct actor *a = i == 0 ? &h->primary : &h->local;
        deputy_failure cut = failure_of(DEPUTY_FAILURE_CUT, 0);
        if (i == 1)
            h->primary.conduct = FAIL;
        load_route(h, routes[i]);
        deputy_call *call = begin_stream(h, a, false);
        bytes_to(call, EVENT("half"));
        turns(h, 3); /* the script has it */
        assert_int_equal(deputy_reply_fail(call, &cut), DEPUTY_OK);
        finish(h);
        expect(&h->seen, DEPUTY_RESULT_FAILED, 0, "", i == 0 ? "primary:ok" : "primary:connect probe:ok local:ok");
        assert_int_equal(h->seen.failure.kind, i == 0 ? DEPUTY_FAILURE_CUT : DEPUTY_FAILURE_CONNECT);
        host_free(h);
    }
}

static void the_deadline_finds_a_whole_reply(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 50}};
    struct host *h = host_new(&o);
    (void)state;
    load_route(h, "local reply = run:primary() run:sleep(10000) return reply");
    h->primary.conduct = JSON;
    start(h);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_OK);
    assert_string_equal(h->seen.bytes, "{\"from\":\"primary\"}");
    host_free(h);
}

static void the_deadline_cuts_a_stream_that_flows(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 50}};
    struct host *h = host_new(&o);
    (void)state;
    deputy_call *call = begin_stream(h, &h->primary, false);
    bytes_to(call, EVENT("half"));
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CUT);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_DEADLINE);
    assert_string_equal(h->seen.bytes, EVENT("half"));
    host_free(h);
}

static void the_deadline_with_a_reader_that_never_reads(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 30}};
    struct host *h = host_new(&o);
    (void)state;
    h->primary.conduct = JSON;
    h->seen.pause_every = 1;
    start(h);
    for (int i = 0; i < 1000 && !h->seen.ends; i++) {
        h->seen.paused = false;
        turn(h);
    }
    assert_int_equal(h->seen.ends, 1);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CUT);
    host_free(h);
}

static void the_deadline_with_a_reader_that_only_asks(void **state)
{
    deputy_options o = {.timeouts = {.total_ms = 30}};
    struct host *h = host_new(&o);
    (void)state;
    h->primary.conduct = JSON;
    h->seen.pause_every = 1;
    start(h);
    for (int i = 0; i < 400 && !h->seen.ends; i++) {
        if (h->seen.paused) {
            h->seen.paused = false;
            deputy_resume(h->engine, h->seen.run);
        }
        nap_ms(5);
        deputy_pump(h->engine);
    }
    assert_int_equal(h->seen.ends, 1);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CUT);
    host_free(h);
}

/* ---- cancelling ---------------------------------------------------------------------------------------------------
 */

static void cancel_it(struct seen *s)
{
    deputy_cancel(s->host->engine, s->run);
}

static void expect_cancelled(struct host *h)
{
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_CANCELLED);
    assert_false(h->seen.outcome.failover);
    deputy_cancel(h->engine, h->seen.run);
    turns(h, 2);
    host_free(h);
}

static void cancelled_before_it_begins(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    start(h);
    cancel_it(&h->seen);
    finish(h);
    assert_true(h->primary.asked <= 1);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    host_free(h);
}

static void cancelled_during_the_primary(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    start(h);
    until_asked(h, &h->primary, 1);
    cancel_it(&h->seen);
    finish(h);
    assert_int_equal(h->primary.cancelled, 1);
    assert_string_equal(h->seen.legs, "primary:cancelled");
    assert_int_equal(h->local.asked, 0);
    expect_cancelled(h);
}

static void cancelled_during_the_local_call(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = FAIL;
    start(h);
    until_asked(h, &h->local, 1);
    cancel_it(&h->seen);
    cancel_it(&h->seen);
    finish(h);
    assert_int_equal(h->local.cancelled, 1);
    assert_string_equal(h->seen.legs, "primary:connect probe:ok local:cancelled");
    expect_cancelled(h);
}

static void cancelled_during_a_pause_of_the_script(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    load_route(h, "run:sleep(10000)");
    start(h);
    turns(h, 3);
    cancel_it(&h->seen);
    finish(h);
    assert_int_equal(h->primary.asked, 0);
    expect_cancelled(h);
}

static void cancelled_in_each_callback(void **state)
{
    (void)state;
    for (int where = 0; where < 3; where++) {
        struct host *h = host_new(NULL);
        h->seen.in_head = where == 0 ? cancel_it : NULL;
        h->seen.in_bytes = where == 1 ? cancel_it : NULL;
        h->seen.in_end = where == 2 ? cancel_it : NULL;
        deputy_call *call = begin_stream(h, &h->primary, false);
        bytes_to(call, EVENT("a"));
        turns(h, 3);
        if (where == 2) {
            bytes_to(call, STOP DONE);
            deputy_reply_end(call);
            finish(h);
            assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_OK);
            host_free(h);
            continue;
        }
        finish(h);
        assert_int_equal(h->primary.cancelled, 1);
        expect_cancelled(h);
    }
}

static void cancelled_by_what_on_bytes_answers(void **state)
{
    static const int codes[] = {DEPUTY_EIO, DEPUTY_ECANCELED, 7, -1000};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct host *h = host_new(NULL);
        h->primary.conduct = i % 2 ? JSON : KEEP;
        h->seen.answer = codes[i];
        if (i % 2) {
            start(h);
        } else {
            deputy_call *call = begin_stream(h, &h->primary, false);
            bytes_to(call, EVENT("a"));
        }
        expect_cancelled(h);
    }
}

static void cancelled_while_paused(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = JSON;
    h->seen.pause_every = 1;
    start(h);
    for (int k = 0; k < 50 && !h->seen.paused; k++)
        turn(h);
    cancel_it(&h->seen);
    expect_cancelled(h);
}

/* ---- many at once -------------------------------------------------------------------------------------------------
 */

static void a_thousand_runs_at_once(void **state)
{
    enum { N = 1000 };
    struct host *h = host_new(NULL);
    struct seen *all = calloc(N, sizeof(*all));
    deputy_request request = request_for(h);
    (void)state;
    assert_non_null(all);
    for (int i = 0; i < N; i++)
        start_with(h, &request, &all[i]);
    assert_int_equal(deputy_in_flight(h->engine), N);
    until_asked(h, &h->primary, N);
    for (int i = N - 1; i >= 0; i--) {
        if (i % 10 == 3) {
            deputy_cancel(h->engine, all[i].run);
        } else if (i % 10 == 5) {
            h->local.conduct = JSON;
            deputy_reply_fail(h->primary.kept[i], NULL);
        } else {
            deputy_reply_json(h->primary.kept[i], "{}", 2);
        }
    }
    TURN_UNTIL(h, deputy_in_flight(h->engine) == 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(all[i].ends, 1);
        assert_int_equal(all[i].outcome.result, i % 10 == 3 ? DEPUTY_RESULT_CANCELLED : DEPUTY_RESULT_OK);
        assert_int_equal(all[i].outcome.failover, i % 10 == 5);
        assert_string_equal(all[i].bytes ? all[i].bytes : "", i % 10 == 3   ? ""
                                                              : i % 10 == 5 ? "{\"from\":\"local\"}"
                                                                            : "{}");
        free(all[i].bytes);
    }
    assert_int_equal(h->primary.cancelled, N / 10);
    free(all);
    host_free(h);
}

static void one_bad_run_among_good_ones(void **state)
{
    deputy_options o = {.limits = {.policy_instructions = 100000, .policy_run_bytes = 1 << 20}};
    struct host *h = host_new(&o);
    struct seen all[8] = {{0}};
    (void)state;
    load(h, "local M = { should_failover = print, verdict = print }\n"
            "function M.route(run)\n"
            "  local reply = run:primary()\n"
            "  if run.id == 3 then while true do end end\n"
            "  if run.id == 5 then error('on purpose') end\n"
            "  if run.id == 7 then local t = {} while true do t[#t + 1] = {} end end\n"
            "  run:probe()\n"
            "  return run:complete(run:failover())\n"
            "end\n"
            "return M");
    h->local.conduct = JSON;
    deputy_request request = request_for(h);
    for (int i = 0; i < 8; i++)
        start_with(h, &request, &all[i]);
    until_asked(h, &h->primary, 8);
    for (int i = 0; i < 8; i++)
        deputy_reply_fail(h->primary.kept[i], NULL);
    TURN_UNTIL(h, deputy_in_flight(h->engine) == 0);
    for (int i = 0; i < 8; i++) {
        bool bad = all[i].run == 3 || all[i].run == 5 || all[i].run == 7;
        assert_int_equal(all[i].ends, 1);
        assert_int_equal(all[i].outcome.result, bad ? DEPUTY_RESULT_FAILED : DEPUTY_RESULT_OK);
        assert_int_equal(all[i].outcome.failover, !bad);
        free(all[i].bytes);
    }
    assert_int_equal(h->local.asked, 5);
    host_free(h);
}

static void a_limit_on_runs(void **state)
{
    deputy_options o = {.limits = {.max_runs = 2}};
    struct host *h = host_new(&o);
    struct seen more = {0};
    deputy_request request = request_for(h);
    deputy_sink sink = sink_for(&more);
    deputy_error error = {0};
    deputy_run_id id = 77;
    (void)state;
    start(h);
    struct seen second = {0};
    start_with(h, &request, &second);
    assert_int_equal(deputy_start(h->engine, &request, &sink, &id, &error), DEPUTY_ELIMIT);
    assert_int_equal(id, 0);
    assert_non_null(strstr(error.message, "2 runs"));
    deputy_cancel(h->engine, second.run);
    turns(h, 3);
    assert_int_equal(deputy_start(h->engine, &request, &sink, &id, &error), DEPUTY_OK);
    assert_true(id > second.run);
    deputy_engine_free(h->engine);
    assert_int_equal(h->seen.ends + more.ends + second.ends, 3);
    h->engine = NULL;
    host_free(h);
}

/* ---- from inside callbacks, from other threads ----------------------------------------------------------------------
 */

static void try_everything(struct seen *s)
{
    struct host *h = s->host;
    deputy_request request = request_for(h);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    deputy_verdict verdict;
    deputy_error error = {0};
    bool available;
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_EBUSY);
    assert_non_null(strstr(error.message, "deputy_start"));
    deputy_reply_clear(&reply);
    assert_int_equal(deputy_check_auth(h->engine, "claude", NULL, &verdict, NULL, NULL), DEPUTY_EBUSY);
    assert_int_equal(verdict, DEPUTY_UNREACHABLE);
    assert_int_equal(deputy_is_available(h->engine, "local", 10, &available, NULL), DEPUTY_EBUSY);
    assert_int_equal(deputy_list_models(h->engine, "local", 10, NULL, NULL, NULL), DEPUTY_EBUSY);
    assert_int_equal(deputy_pump(h->engine), DEPUTY_EBUSY);
    deputy_engine_free(h->engine); /* does nothing but log */
    assert_non_null(strstr(h->log, "nothing was freed"));
    h->log[0] = '\0';
    deputy_resume(h->engine, s->run);
    deputy_wakeup(h->engine);
}

static struct seen started_inside;

static void start_another(struct seen *s)
{
    deputy_request request = request_for(s->host);
    try_everything(s);
    start_with(s->host, &request, &started_inside);
}

static void from_inside_callbacks(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    memset(&started_inside, 0, sizeof(started_inside));
    h->primary.conduct = JSON;
    h->seen.in_head = h->seen.in_bytes = try_everything;
    h->seen.in_end = start_another;
    start(h);
    TURN_UNTIL(h, started_inside.ends);
    assert_int_equal(h->seen.ends, 1);
    assert_int_equal(started_inside.ends, 1);
    assert_int_equal(started_inside.outcome.result, DEPUTY_RESULT_OK);
    free(started_inside.bytes);
    host_free(h);
}

static void *on_another_thread(void *user)
{
    struct host *h = user;
    deputy_request request = request_for(h);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    deputy_sink sink = sink_for(&h->seen);
    deputy_error error = {0};
    deputy_verdict verdict;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_ETHREAD);
    assert_non_null(strstr(error.message, "thread"));
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_ETHREAD);
    assert_int_equal(deputy_check_auth(h->engine, "claude", NULL, &verdict, NULL, NULL), DEPUTY_ETHREAD);
    assert_int_equal(deputy_pump(h->engine), DEPUTY_ETHREAD);
    assert_int_equal(deputy_unregister(h->engine, "local", NULL), DEPUTY_ETHREAD);
    assert_int_equal(deputy_register_failover(h->engine, "x", "local", NULL), DEPUTY_ETHREAD);
    assert_int_equal(deputy_load_policy_text(h->engine, "x", "", 0, NULL), DEPUTY_ETHREAD);
    deputy_resume(h->engine, 1);
    nap_ms(5);
    deputy_wakeup(h->engine);
    deputy_cancel(h->engine, h->seen.run);
    return NULL;
}

static void from_another_thread(void **state)
{
    struct host *h = host_new(NULL);
    pthread_t thread;
    (void)state;
    start(h);
    until_asked(h, &h->primary, 1);
    assert_int_equal(pthread_create(&thread, NULL, on_another_thread, h), 0);
    finish(h);
    pthread_join(thread, NULL);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    host_free(h);
}

static void *wake_up(void *user)
{
    struct host *h = user;
    nap_ms(20);
    deputy_wakeup(h->engine);
    return NULL;
}

static void a_wakeup_makes_the_fd_readable(void **state)
{
    struct host *h = host_new(NULL);
    pthread_t thread;
    (void)state;
    turns(h, 2);
    assert_true(deputy_timeout(h->engine) != 0); /* an idle engine waits */
    assert_int_equal(pthread_create(&thread, NULL, wake_up, h), 0);
    struct pollfd p = {.fd = deputy_fd(h->engine), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 2000), 1);
    assert_int_equal(deputy_pump(h->engine), DEPUTY_OK);
    assert_int_equal(poll(&p, 1, 0), 0);
    pthread_join(thread, NULL);
    host_free(h);
}

/* ---- waiting calls ------------------------------------------------------------------------------------------------
 */

static void run_waits_for_the_reply(void **state)
{
    struct host *h = host_new(NULL);
    deputy_request request = request_for(h);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    deputy_error error = {0};
    (void)state;
    h->primary.conduct = FAIL;
    h->local.conduct = JSON;
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_OK);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.body, "{\"from\":\"local\"}");
    assert_string_equal(reply.headers[0].value, "application/json");
    assert_string_equal(reply.outcome.via, "local");
    assert_int_equal(reply.outcome.n_trace, 3);
    assert_string_equal(reply.outcome.trace[2].provider, "local");
    deputy_reply_clear(&reply);
    assert_null(reply.body);

    h->local.conduct = h->other.conduct = FAIL;
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_EFAILED);
    assert_int_equal(reply.status, 0);
    assert_int_equal(reply.outcome.failure->kind, DEPUTY_FAILURE_CONNECT);
    assert_string_equal(error.message, "nobody there");
    deputy_reply_clear(&reply);
    deputy_reply_clear(&reply);
    deputy_reply_clear(NULL);

    reply.size = 3;
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_EABI);
    assert_int_equal(deputy_run(h->engine, &request, NULL, &error), DEPUTY_EABI);
    host_free(h);
}

static void a_reply_over_the_limit(void **state)
{
    deputy_options o = {.limits = {.max_reply_bytes = 8}};
    struct host *h = host_new(&o);
    deputy_request request = request_for(h);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    (void)state;
    h->primary.conduct = JSON;
    h->probe_status[0] = 403;
    assert_int_equal(deputy_run(h->engine, &request, &reply, NULL), DEPUTY_EFAILED);
    assert_int_equal(reply.outcome.failure->kind, DEPUTY_FAILURE_LIMIT);
    assert_null(reply.body);
    deputy_reply_clear(&reply);
    host_free(h);
}

/* It has a bound of its own, smaller than that of an answer. */
static void an_errors_body_over_the_limit(void **state)
{
    deputy_options o = {.limits = {.max_reply_bytes = 1000, .max_error_bytes = 8}};
    static const char *const bodies[] = {"12345678", "123456789"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct host *h = host_new(&o);
        h->probe_status[0] = 403;
        start(h);
        until_asked(h, &h->primary, 1);
        assert_int_equal(deputy_reply_head(h->primary.call, 500, NULL, 0), DEPUTY_OK);
        assert_int_equal(bytes_to(h->primary.call, bodies[i]), i == 0 ? DEPUTY_OK : DEPUTY_ECANCELED);
        if (i == 0)
            deputy_reply_end(h->primary.call);
        finish(h);
        assert_int_equal(h->seen.outcome.result, i == 0 ? DEPUTY_RESULT_FAILED : DEPUTY_RESULT_CUT);
        assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_STATUS);
        assert_int_equal(h->seen.failure.status, 500);
        assert_string_equal(h->seen.bytes ? h->seen.bytes : "", i == 0 ? bodies[0] : "");
        host_free(h);
    }
}

struct models {
    int n;
    char names[128];
};

static int list_two(void *self, deputy_call *call)
{
    (void)self;
    deputy_reply_model(call, "one");
    deputy_reply_model(call, "two");
    return deputy_reply_end(call);
}

static int say_no(void *self, deputy_call *call)
{
    deputy_failure no = {.kind = DEPUTY_FAILURE_CONNECT, .message = "not today", .retry_after_ms = -1};
    (void)self;
    return deputy_reply_fail(call, &no);
}

static int say_nothing(void *self, deputy_call *call)
{
    (void)self, (void)call;
    return DEPUTY_OK;
}

static void take_model(void *user, const char *model)
{
    struct models *m = user;
    m->n++;
    strcat(m->names, model);
}

static void asking_a_provider(void **state)
{
    static const deputy_provider_vtable lister = {.abi = DEPUTY_PROVIDER_ABI,
                                                  .size = sizeof(lister),
                                                  .complete = actor_complete,
                                                  .list_models = list_two,
                                                  .is_available = say_no};
    static const deputy_provider_vtable mute = {.abi = DEPUTY_PROVIDER_ABI,
                                                .size = sizeof(mute),
                                                .complete = actor_complete,
                                                .list_models = say_nothing,
                                                .is_available = say_nothing};
    struct host *h = host_new(NULL);
    struct models models = {0};
    deputy_error error = {0};
    bool available = true;
    (void)state;
    deputy_register(h->engine, provider_of("lister", &lister, &h->other), NULL);
    deputy_register(h->engine, provider_of("mute", &mute, &h->other), NULL);
    assert_int_equal(deputy_list_models(h->engine, "lister", 100, take_model, &models, &error), DEPUTY_OK);
    assert_string_equal(models.names, "onetwo");
    assert_int_equal(deputy_is_available(h->engine, "lister", 100, &available, &error), DEPUTY_OK);
    assert_false(available);
    assert_string_equal(error.message, "not today");
    assert_int_equal(deputy_is_available(h->engine, "local", 100, &available, &error),
                     DEPUTY_OK); /* no function: always */
    assert_true(available);
    assert_int_equal(deputy_list_models(h->engine, "local", 100, take_model, &models, &error), DEPUTY_OK);
    assert_int_equal(models.n, 2);
    assert_int_equal(deputy_is_available(h->engine, "mute", 20, &available, &error), DEPUTY_OK);
    assert_false(available);
    assert_int_equal(deputy_list_models(h->engine, "mute", 20, take_model, &models, &error), DEPUTY_EFAILED);
    assert_int_equal(deputy_list_models(h->engine, "ghost", 20, take_model, &models, &error), DEPUTY_ENOTFOUND);
    assert_int_equal(deputy_is_available(h->engine, NULL, 20, &available, &error), DEPUTY_ENOTFOUND);
    host_free(h);
}

static void check_auth_waits_for_a_verdict(void **state)
{
    struct host *h = host_new(NULL);
    deputy_verdict verdict = DEPUTY_ALLOWED;
    deputy_probe_answer answer;
    (void)state;
    assert_int_equal(deputy_check_auth(h->engine, "claude", NULL, &verdict, &answer, NULL), DEPUTY_OK);
    assert_int_equal(verdict, DEPUTY_ALLOWED);
    assert_int_equal(answer.status, 204);
    h->probe_status[0] = -1; /* a timed-out transfer that carries 200 */
    assert_int_equal(deputy_check_auth(h->engine, "claude", NULL, &verdict, &answer, NULL), DEPUTY_OK);
    assert_int_equal(verdict, DEPUTY_UNREACHABLE);
    assert_int_equal(deputy_check_auth(h->engine, "..", NULL, &verdict, &answer, NULL), DEPUTY_EINVAL);
    assert_int_equal(verdict, DEPUTY_UNREACHABLE);
    assert_int_equal(deputy_check_auth(h->engine, "claude", "a b", &verdict, NULL, NULL), DEPUTY_EINVAL);
    assert_int_equal(h->primary.asked, 0);
    host_free(h);
}

static void without_a_policy(void **state)
{
    struct host h = {.probe_status = {204}};
    deputy_options o = options_for(&h);
    deputy_verdict verdict;
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    (void)state;
    assert_int_equal(deputy_engine_new(&o, &h.engine, NULL), DEPUTY_OK);
    assert_int_equal(deputy_check_auth(h.engine, "claude", NULL, &verdict, NULL, NULL), DEPUTY_OK);
    assert_int_equal(verdict, DEPUTY_ALLOWED);
    h.primary.conduct = JSON;
    h.primary.answer = "{}";
    h.primary_provider = provider_of("p", &actor_vtable, &h.primary);
    deputy_request request = request_for(&h);
    assert_int_equal(deputy_run(h.engine, &request, &reply, NULL), DEPUTY_OK);
    deputy_reply_clear(&reply);
    request.primary = NULL; /* and without a central there is nobody to ask */
    assert_int_equal(deputy_run(h.engine, &request, &reply, NULL), DEPUTY_EFAILED);
    assert_string_equal(reply.outcome.failure->code, "no_central");
    deputy_reply_clear(&reply);
    deputy_engine_free(h.engine);
    deputy_provider_unref(h.primary_provider);
}

/* ---- what is refused, in words --------------------------------------------------------------------------------------
 */

/* SIZE_MAX and the like stand for "no limit" with many hosts. */
static void limits_as_large_as_they_go(void **state)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    (void)state;
    memset(&o.limits, 0xff, sizeof(o.limits));
    memset(&o.timeouts, 0xff, sizeof(o.timeouts));
    o.permit_ms = UINT32_MAX;
    struct host *h = host_new(&o);
    load_route(h, "local t = {} for i = 1, 1000 do t[i] = {} end\n"
                  "run:primary() run:probe() return run:complete(run:failover())");
    h->primary.conduct = FAIL;
    h->local.conduct = JSON;
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"from\":\"local\"}", "primary:connect probe:ok local:ok");
    host_free(h);
}

static void what_does_not_fit_is_refused(void **state)
{
    struct host *h = host_new(NULL);
    deputy_error error = {0};
    deputy_engine *engine = (deputy_engine *)1;
    deputy_provider *provider = (deputy_provider *)1;
    deputy_request request = request_for(h);
    deputy_sink sink = sink_for(&h->seen);
    (void)state;
    deputy_options o = options_for(h);
    o.size--;
    assert_int_equal(deputy_engine_new(&o, &engine, &error), DEPUTY_EABI);
    assert_non_null(strstr(error.message, "DEPUTY_INIT"));
    assert_null(engine);
    assert_int_equal(deputy_engine_new(NULL, &engine, &error), DEPUTY_EINVAL);
    static const char *const paths[] = {"/health", "", "/{LLM}", "/{llm}/{endpoint}", "/{llm}/..", "/{llm} x"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        o = options_for(h);
        o.probe_path = paths[i]; /* its answer would be about no LLM, or about each */
        assert_int_equal(deputy_engine_new(&o, &engine, &error), DEPUTY_EINVAL);
        assert_non_null(strstr(error.message, "probe_path"));
    }
    deputy_route route = {"*", "/v1/{model}"};
    o = options_for(h);
    o.inference = &route;
    o.n_inference = 1;
    assert_int_equal(deputy_engine_new(&o, &engine, &error), DEPUTY_EINVAL);
    assert_non_null(strstr(error.message, "inference: path: expected {llm} or {endpoint}"));

    deputy_provider_vtable v = actor_vtable;
    v.abi++;
    assert_int_equal(deputy_provider_new("p", &v, NULL, &provider, &error), DEPUTY_EABI);
    assert_non_null(strstr(error.message, "ABI 2"));
    assert_null(provider);
    v = actor_vtable;
    v.size = offsetof(deputy_provider_vtable, primary_failed); /* as the first release had it */
    v.destroy = NULL;
    assert_int_equal(deputy_provider_new("p", &v, NULL, &provider, &error), DEPUTY_OK);
    deputy_provider_unref(provider);
    v.size--;
    assert_int_equal(deputy_provider_new("p", &v, NULL, &provider, &error), DEPUTY_EABI);
    v = actor_vtable;
    v.complete = NULL;
    assert_int_equal(deputy_provider_new("p", &v, NULL, &provider, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_provider_new("p", NULL, NULL, &provider, &error), DEPUTY_EABI);
    assert_int_equal(deputy_provider_new("", &actor_vtable, NULL, &provider, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_provider_new("a\nb", &actor_vtable, NULL, &provider, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_provider_new(NULL, &actor_vtable, NULL, &provider, &error), DEPUTY_EINVAL);

    request.size = 1;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_EABI);
    request = request_for(h);
    sink.size++;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_EABI);
    sink = sink_for(&h->seen);
    sink.on_end = NULL;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_start(h->engine, NULL, &sink, NULL, &error), DEPUTY_EABI);
    sink = sink_for(&h->seen);
    assert_int_equal(deputy_start(NULL, &request, &sink, NULL, &error), DEPUTY_EINVAL);
    request.body = NULL;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_EINVAL);
    request.body_len = (size_t)1 << 40;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_ELIMIT);
    request = request_for(h);
    request.bearer_token = TOKEN "\r\nX: y";
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_EINVAL);
    assert_null(strstr(error.message, TOKEN));
    request = request_for(h);
    request.llm = NULL;
    assert_int_equal(deputy_start(h->engine, &request, &sink, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_register(h->engine, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_in_flight(h->engine), 0);
    deputy_engine_free(NULL);
    host_free(h);
}

static void null_is_an_error_like_others(void **state)
{
    struct host *h = host_new(NULL);
    deputy_error error = {0};
    deputy_request request = request_for(h);
    deputy_options o = options_for(h);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    deputy_header headers[] = {{"X-One", NULL}, {NULL, "1"}};
    bool yes;
    char *report;
    (void)state;
    request.n_headers = 1;
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_EINVAL);
    assert_non_null(strstr(error.message, "headers is NULL"));
    for (int i = 0; i < 2; i++) {
        request.headers = &headers[i];
        assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_EINVAL);
    }
    request.n_headers = SIZE_MAX;
    assert_int_equal(deputy_run(h->engine, &request, &reply, &error), DEPUTY_ELIMIT);
    assert_int_equal(deputy_check_auth(h->engine, "claude", NULL, NULL, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_is_available(h->engine, "local", 0, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_engine_new(&o, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_provider_new("p", &actor_vtable, NULL, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_load_policy(h->engine, NULL, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_load_policy_text(h->engine, NULL, "", 0, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_load_policy_text(h->engine, "p", NULL, 1, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_verify_policy(NULL, NULL, &report, &yes, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_verify_policy(NULL, "p", NULL, &yes, &error), DEPUTY_EINVAL);
    assert_int_equal(deputy_verify_policy(NULL, "p", &report, NULL, &error), DEPUTY_EINVAL);
    assert_null(deputy_failover_for(h->engine, NULL));
    host_free(h);
}

static void what_a_stand_in_gets_to_see(void **state)
{
    static const deputy_header headers[] = {
        {"Authorization", "Bearer " TOKEN},
        {"authorization", "x"},
        {"Cookie", "c"},
        {"X-Api-Key", "k"},
        {"Proxy-Authorization", "p"},
        {"Host", "h"},
        {"Content-Length", "9"},
        {"X-Deputy-Key", "k"},
        {"Transfer-Encoding", "chunked"},
        {"Connection", "close"},
        {"X-Mine", "yes"},
        {"Expect", "100-continue"},
        {"X-Forwarded-Authorization", "Bearer " TOKEN},
        {"X-Auth-Token", TOKEN},
        {"X-Pairs", "a=" TOKEN "; b=1"},
        {"X-Longer", TOKEN "8"},
    };
    struct host *h = host_new(NULL);
    deputy_request request = request_for(h);
    (void)state;
    h->primary.conduct = FAIL;
    h->local.conduct = JSON;
    request.headers = headers;
    request.n_headers = sizeof(headers) / sizeof(headers[0]);
    start_with(h, &request, &h->seen);
    finish(h);
    assert_string_equal(h->local.headers, "X-Mine=yes;X-Longer=" TOKEN "8;content-type=application/json;");
    assert_string_equal(h->primary.headers, h->local.headers);
    assert_string_equal(h->local.token, "(none)");
    assert_ptr_equal(h->local.body, request.body); /* borrowed, not copied */
    host_free(h);
}

static void fail_with_body(struct host *h, const char *body)
{
    static const deputy_header type = {"content-type", "application/json"};
    start(h);
    until_asked(h, &h->primary, 1);
    deputy_reply_head(h->primary.call, 400, &type, 1);
    deputy_reply_bytes(h->primary.call, body, strlen(body));
    deputy_reply_end(h->primary.call);
    h->probe_status[0] = 403;
    finish(h);
    assert_string_equal(h->seen.bytes, body);
}

/* What logs and scripts get to read, as against what the caller gets. */
static void the_words_of_an_error(void **state)
{
    static const struct {
        const char *body, *code, *message;
    } cases[] = {
        {"{\"error\":{\"code\":\"short\",\"message\":\"a \\u001b[31m word\"}}", "short", "a  [31m word"},
        {"{\"error\":{\"code\":\"a\\u0000b\",\"message\":\"m\"}}", "", "m"},
        {"{\"error\":{\"code\":\"0123456789012345678901234567890123456789012345678\",\"message\":\"m\"}}", "", "m"},
        {"{\"error\":{\"code\":\"" TOKEN "\",\"message\":\"wrong key " TOKEN "\"}}", "",
         "(not shown: it holds the caller's token)"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host *h = host_new(NULL);
        fail_with_body(h, cases[i].body);
        assert_string_equal(h->seen.failure.code, cases[i].code);
        assert_string_equal(h->seen.failure.message, cases[i].message);
        host_free(h);
    }
}

/* ---- the registry while runs are under way
 * ---------------------------------------------------------------------------- */

static void unregistered_while_it_answers(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = FAIL;
    start(h);
    until_asked(h, &h->local, 1);
    assert_int_equal(deputy_unregister(h->engine, "local", NULL), DEPUTY_OK);
    assert_int_equal(h->local.destroyed, 0);
    assert_string_equal(deputy_failover_for(h->engine, "claude"), "other");
    deputy_reply_json(h->local.call, "{}", 2);
    finish(h);
    assert_string_equal(h->seen.via, "local");
    assert_int_equal(h->local.destroyed, 1);
    host_free(h);
}

static void reloaded_while_it_runs(void **state)
{
    struct host *h = host_new(NULL);
    struct seen after = {0};
    deputy_request request = request_for(h);
    (void)state;
    h->local.conduct = JSON;
    start(h);
    until_asked(h, &h->primary, 1);
    load_route(h, "return run:primary()"); /* this one never fails over */
    start_with(h, &request, &after);
    until_asked(h, &h->primary, 2);
    deputy_reply_fail(h->primary.kept[0], NULL);
    deputy_reply_fail(h->primary.kept[1], NULL);
    TURN_UNTIL(h, after.ends);
    finish(h);
    assert_true(h->seen.outcome.failover);
    assert_false(after.outcome.failover);
    assert_int_equal(after.outcome.result, DEPUTY_RESULT_FAILED);
    host_free(h);
}

static void freed_while_runs_are_under_way(void **state)
{
    (void)state;
    for (int at = 0; at < 3; at++) {
        struct host *h = host_new(NULL);
        h->primary.conduct = at < 2 ? KEEP : FAIL;
        start(h);
        if (at == 1)
            until_asked(h, &h->primary, 1);
        if (at == 2)
            until_asked(h, &h->local, 1);
        deputy_engine_free(h->engine);
        assert_int_equal(h->seen.ends, 1);
        assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
        h->engine = NULL;
        host_free(h);
    }
}

static void start_in_vain(struct seen *s)
{
    deputy_request request = request_for(s->host);
    deputy_sink sink = sink_for(&started_inside);
    assert_int_equal(deputy_start(s->host->engine, &request, &sink, NULL, NULL), DEPUTY_EBUSY);
}

static void no_run_starts_while_it_is_freed(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->seen.in_end = start_in_vain;
    start(h);
    turns(h, 2);
    deputy_engine_free(h->engine);
    assert_int_equal(h->seen.ends, 1);
    h->engine = NULL;
    host_free(h);
}

static void progress_says_what_it_does(void **state)
{
    struct host *h = host_new(NULL);
    deputy_trace leg = {.attempt = 99};
    (void)state;
    h->primary.conduct = FAIL;
    start(h);
    assert_int_equal(deputy_progress(h->engine, h->seen.run, &leg), DEPUTY_ENOTFOUND);
    assert_int_equal(leg.attempt, 99);
    until_asked(h, &h->local, 1);
    assert_int_equal(deputy_progress(h->engine, h->seen.run, &leg), DEPUTY_OK);
    assert_int_equal(leg.leg, DEPUTY_LEG_LOCAL);
    assert_string_equal(leg.provider, "local");
    assert_int_equal(leg.end_us, 0);
    deputy_reply_json(h->local.call, "{}", 2);
    finish(h);
    assert_int_equal(deputy_progress(h->engine, h->seen.run, &leg), DEPUTY_ENOTFOUND);
    host_free(h);
}

/* ---- permits that grow old ------------------------------------------------------------------------------------------
 */

static void an_old_permit_is_renewed(void **state)
{
    deputy_options o = {.permit_ms = 20};
    struct host *h = host_new(&o);
    (void)state;
    h->primary.conduct = FAIL;
    start(h);
    until_asked(h, &h->local, 1);
    assert_int_equal(deputy_call_admit(h->local.call), DEPUTY_OK);
    nap_ms(30);
    assert_int_equal(deputy_call_admit(h->local.call), DEPUTY_ESTALE);
    until_asked(h, &h->local, 2); /* the central still allows it */
    assert_int_equal(h->probes, 2);
    assert_int_equal(deputy_call_admit(h->local.call), DEPUTY_OK);
    deputy_reply_json(h->local.call, "{}", 2);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{}", "primary:connect probe:ok local:ok probe:ok");
    assert_int_equal(h->local.cancelled, 0);
    host_free(h);
}

/* The leg has its permit, but nothing was sent yet when the central says no. */
static void a_newer_no_reaches_a_leg_that_waits(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = FAIL;
    h->probe_status[1] = 403;
    load_route(h, "local _, failure = run:primary()\n"
                  "local answer = run:first{\n"
                  "  function() run:probe() return run:complete(run:failover()) end,\n"
                  "  function() run:sleep(5) run:probe() end,\n"
                  "}\n"
                  "return answer, failure");
    start(h);
    until_asked(h, &h->local, 1);
    for (int i = 0; i < 1000 && h->probes < 2; i++)
        turn(h);
    assert_int_equal(deputy_call_admit(h->local.call), DEPUTY_ESTALE);
    finish(h);
    assert_int_equal(h->local.asked, 1);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_CONNECT);
    host_free(h);
}

static void admit_while_cancelled(void *self, deputy_call *call)
{
    (void)self;
    nap_ms(30);
    assert_int_equal(deputy_call_admit(call), DEPUTY_ECANCELED);
}

static void a_leg_that_is_over_is_not_sent_again(void **state)
{
    static deputy_provider_vtable vtable;
    deputy_options o = {.permit_ms = 20};
    struct host *h = host_new(&o);
    (void)state;
    vtable = actor_vtable;
    vtable.cancel = admit_while_cancelled;
    deputy_register(h->engine, provider_of("late", &vtable, &h->other), NULL);
    deputy_register_failover(h->engine, "haiku", "late", NULL);
    h->primary.conduct = FAIL;
    load_route(h, "local _, failure = run:primary()\n"
                  "run:first{\n"
                  "  function() run:probe() return run:complete(run:failover()) end,\n"
                  "  function() return run:sleep(5) end,\n"
                  "}\n"
                  "run:sleep(20)\n"
                  "return nil, failure");
    deputy_request request = request_for(h);
    request.llm = "haiku";
    start_with(h, &request, &h->seen);
    finish(h);
    assert_int_equal(h->other.asked, 1);
    assert_int_equal(h->probes, 1);
    host_free(h);
}

static void a_script_that_sleeps_and_sleeps(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = JSON;
    load_route(h, "for i = 1, 200 do run:sleep(0) end return run:primary()");
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, h->primary.answer, "primary:ok");
    free(h->seen.bytes);
    h->seen = (struct seen){.host = h};
    load_route(h, "local function nap() return run:sleep(1000) end\n"
                  "for i = 1, 50 do run:first{ function() return true end, nap } end\n"
                  "for i = 1, 50 do run:first{ nap, function() return true end } end");
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, h->primary.answer, "policy:script_failed primary:ok");
    assert_non_null(strstr(h->log, "too many pauses"));
    host_free(h);
}

static void one_first_inside_another(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->primary.conduct = FAIL;
    h->local.conduct = JSON;
    load_route(h, "local _, failure = run:primary()\n"
                  "local answer = run:first{ function()\n"
                  "  run:first{ function() return run:sleep(2) end }\n"
                  "  run:probe()\n"
                  "  return run:complete(run:failover())\n"
                  "end }\n"
                  "return answer, failure");
    start(h);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, h->local.answer, "primary:connect probe:ok local:ok");
    host_free(h);
}

/* What a hedge gave up says nothing of the central: it is asked anew. */
static void a_script_that_fails_after_its_hedge(void **state)
{
    struct host *h = host_new(NULL);
    (void)state;
    h->local.conduct = JSON;
    load_route(h, "run:first{ function() return run:primary() end, function()\n"
                  "  run:probe()\n"
                  "  return run:complete(run:failover())\n"
                  "end }\n"
                  "error('x')");
    start(h);
    until_asked(h, &h->primary, 2);
    assert_int_equal(h->primary.cancelled, 1);
    assert_int_equal(deputy_reply_json(h->primary.call, "{\"n\":2}", 7), DEPUTY_OK);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{\"n\":2}",
           "primary:cancelled probe:ok local:ok policy:script_failed primary:ok");
    assert_false(h->seen.outcome.failover);
    host_free(h);
}

static void a_renewal_that_never_helps_ends(void **state)
{
    deputy_options o = {.permit_ms = 1};
    struct host *h = host_new(&o);
    (void)state;
    h->primary.conduct = FAIL;
    h->other.conduct = FAIL;
    start(h);
    until_asked(h, &h->local, 1);
    for (int i = 1; i < 100 && !h->seen.ends; i++) {
        deputy_call *call = h->local.call;
        h->local.call = NULL;
        nap_ms(3);
        if (call)
            deputy_call_admit(call);
        turns(h, 2);
    }
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_CONNECT);
    assert_true(h->probes <= 32);
    host_free(h);
}

static void a_renewal_that_is_refused(void **state)
{
    deputy_options o = {.permit_ms = 20};
    struct host *h = host_new(&o);
    (void)state;
    h->primary.conduct = FAIL;
    h->probe_status[1] = 403;
    start(h);
    until_asked(h, &h->local, 1);
    nap_ms(30);
    assert_int_equal(deputy_call_admit(h->local.call), DEPUTY_ESTALE);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.outcome.verdict, DEPUTY_FORBIDDEN);
    assert_int_equal(h->local.asked, 1);
    assert_int_equal(h->other.asked, 0);
    assert_int_equal(h->local.cancelled, 0); /* the call was gone when it was told so */
    host_free(h);
}

/* Two permits; while the first one's dispatch waits, the central says no: the second is worth nothing any more. */
static void a_newer_no_takes_every_older_yes(void **state)
{
    deputy_options o = {.permit_ms = 60};
    struct host *h = host_new(&o);
    (void)state;
    load_route(h, "local _, failure = run:primary()\n"
                  "run:probe() run:sleep(40) run:probe()\n"
                  "local names = run:candidates()\n"
                  "local answer = run:complete(names[1]) or run:complete(names[2])\n"
                  "return answer, failure");
    h->primary.conduct = FAIL;
    h->other.conduct = JSON;
    h->probe_status[1] = 204;
    h->probe_status[2] = 403;
    start(h);
    until_asked(h, &h->local, 1);
    for (int i = 0; i < 100 && h->local.call; i++) { /* whichever permit it got: as soon as that is old */
        if (deputy_call_admit(h->local.call) != DEPUTY_OK)
            break;
        nap_ms(2);
    }
    finish(h);
    assert_int_equal(h->other.asked, 0);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    host_free(h);
}

static void the_gate_left_to_the_policy(void **state)
{
    deputy_options o = {.gate = DEPUTY_GATE_POLICY, .permit_ms = 1};
    struct host *h = host_new(&o);
    (void)state;
    load_route(h, "run:primary() return run:complete(run:failover())");
    h->primary.conduct = FAIL;
    start(h);
    until_asked(h, &h->local, 1);
    nap_ms(5);
    assert_int_equal(deputy_call_admit(h->local.call), DEPUTY_OK);
    deputy_reply_json(h->local.call, "{}", 2);
    finish(h);
    assert_int_equal(h->probes, 0);
    assert_true(h->seen.outcome.failover);
    host_free(h);
}

/* ---- providers that block
 * --------------------------------------------------------------------------------------------- */

enum deed { AT_ONCE, CHUNKS, FLOOD, NEVER, FAILING, DECLINING, LONG, UNTIL_CANCELLED, AFTER_END, HEADLESS };

struct blocker {
    _Atomic(enum deed) deed;
    atomic_int asked, running, cancelled, refused, posted;
    atomic_bool stop;
};

static int block_complete(void *self, deputy_call *call, const deputy_request *request)
{
    struct blocker *b = self;
    char chunk[1000];
    int code = DEPUTY_OK;
    deputy_failure failure = failure_of(DEPUTY_FAILURE_CONNECT, 0);
    atomic_fetch_add(&b->asked, 1);
    atomic_fetch_add(&b->running, 1);
    switch (atomic_load(&b->deed)) {
    case AT_ONCE:
        code = deputy_reply_json(call, request->body, request->body_len);
        break;
    case CHUNKS:
        deputy_reply_head(call, 200, &sse_type, 1);
        for (int i = 0; i < 20 && code == DEPUTY_OK; i++) {
            code = deputy_reply_bytes(call, EVENT("x"), strlen(EVENT("x")));
            nap_ms(1);
        }
        if (code == DEPUTY_OK)
            code = deputy_reply_bytes(call, STOP DONE, strlen(STOP DONE));
        if (code == DEPUTY_OK)
            code = deputy_reply_end(call);
        break;
    case FLOOD:
        memset(chunk, ':', sizeof(chunk));
        deputy_reply_head(call, 200, &sse_type, 1);
        code = deputy_reply_bytes(call, EVENT("x"), strlen(EVENT("x")));
        for (; atomic_load(&b->posted) < 2000 && code == DEPUTY_OK; atomic_fetch_add(&b->posted, 1))
            code = deputy_reply_bytes(call, chunk, sizeof(chunk));
        break;
    case NEVER:
        break;
    case FAILING:
        code = deputy_reply_fail(call, &failure);
        break;
    case DECLINING:
        code = DEPUTY_EINVAL;
        break;
    case LONG: /* more than the queue to the loop holds */
        memset(chunk, ' ', sizeof(chunk));
        deputy_reply_head(call, 200, &(deputy_header){"content-type", "application/json"}, 1);
        for (int i = 0; i < 2000 && code == DEPUTY_OK; i++)
            code = deputy_reply_bytes(call, chunk, sizeof(chunk));
        if (code == DEPUTY_OK)
            code = deputy_reply_bytes(call, "{}", 2);
        if (code == DEPUTY_OK)
            code = deputy_reply_end(call);
        break;
    case UNTIL_CANCELLED:
        while (!atomic_load(&b->stop))
            nap_ms(1);
        if (deputy_reply_json(call, "{}", 2) == DEPUTY_ECANCELED)
            atomic_fetch_add(&b->refused, 1);
        break;
    case HEADLESS:
        deputy_reply_bytes(call, "{}", 2);
        deputy_reply_end(call);
        break;
    case AFTER_END:
        deputy_reply_json(call, "{}", 2);
        if (deputy_reply_bytes(call, "x", 1) == DEPUTY_ECANCELED && deputy_reply_end(call) == DEPUTY_ECANCELED)
            atomic_fetch_add(&b->refused, 1);
        break;
    }
    atomic_fetch_sub(&b->running, 1);
    return code;
}

static void block_cancel(void *self, deputy_call *call)
{
    struct blocker *b = self;
    (void)call;
    atomic_fetch_add(&b->cancelled, 1);
    atomic_store(&b->stop, true);
}

static int block_models(void *self, deputy_call *call)
{
    (void)self;
    nap_ms(2);
    assert_int_equal(deputy_reply_model(call, NULL), DEPUTY_EINVAL);
    deputy_reply_model(call, "slow");
    return deputy_reply_end(call);
}

static const deputy_provider_vtable blocking_vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(blocking_vtable),
    .flags = DEPUTY_PROVIDER_BLOCKS,
    .complete = block_complete,
    .cancel = block_cancel,
    .list_models = block_models,
};

static void start_blocking(struct host *h, struct blocker *b, enum deed deed, bool stream)
{
    deputy_request request = request_for(h);
    deputy_provider *provider = provider_of("blocking", &blocking_vtable, b);
    atomic_store(&b->deed, deed);
    request.primary = provider;
    request.stream = stream ? DEPUTY_STREAM_YES : DEPUTY_STREAM_NO;
    h->probe_status[0] = 403;
    start_with(h, &request, &h->seen);
    deputy_provider_unref(provider);
}

static void a_provider_that_blocks(void **state)
{
    static const struct {
        enum deed deed;
        bool stream;
        deputy_result result;
        deputy_failure_kind kind;
        size_t len;
    } cases[] = {
        {AT_ONCE, false, DEPUTY_RESULT_OK, 0, 18},
        {CHUNKS, true, DEPUTY_RESULT_OK, 0, 20 * sizeof(EVENT("x")) - 20 + sizeof(STOP DONE) - 1},
        {NEVER, false, DEPUTY_RESULT_FAILED, DEPUTY_FAILURE_ERROR, 0},
        {FAILING, false, DEPUTY_RESULT_FAILED, DEPUTY_FAILURE_CONNECT, 0},
        {DECLINING, false, DEPUTY_RESULT_FAILED, DEPUTY_FAILURE_ERROR, 0},
        {LONG, false, DEPUTY_RESULT_OK, 0, 2000002},
        {AFTER_END, false, DEPUTY_RESULT_OK, 0, 2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host *h = host_new(NULL);
        struct blocker b = {0};
        start_blocking(h, &b, cases[i].deed, cases[i].stream);
        finish(h);
        assert_int_equal(h->seen.outcome.result, cases[i].result);
        assert_int_equal(h->seen.len, cases[i].len);
        assert_int_equal(h->seen.failure.kind, cases[i].kind);
        assert_int_equal(atomic_load(&b.cancelled), 0);
        assert_int_equal(atomic_load(&b.refused), cases[i].deed == AFTER_END);
        deputy_engine_free(h->engine);
        h->engine = NULL;
        assert_int_equal(atomic_load(&b.running), 0);
        host_free(h);
    }
}

static void a_blocking_provider_without_a_head(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    (void)state;
    start_blocking(h, &b, HEADLESS, false);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_non_null(strstr(h->seen.failure.message, "a body before the head"));
    host_free(h);
}

static void a_blocking_provider_with_a_slow_reader(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    (void)state;
    h->seen.pause_every = 2;
    start_blocking(h, &b, CHUNKS, true);
    for (int i = 0; i < 2000 && !h->seen.ends; i++) {
        if (h->seen.paused) {
            h->seen.paused = false;
            deputy_resume(h->engine, h->seen.run);
        }
        turn(h);
    }
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_OK);
    assert_int_equal(h->seen.len, 20 * (sizeof(EVENT("x")) - 1) + sizeof(STOP DONE) - 1);
    host_free(h);
}

/* Its thread has said all and gone, with what it had on its stack. */
static void a_blocking_provider_that_has_ended_is_not_cancelled(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    (void)state;
    h->seen.pause_every = 1;
    start_blocking(h, &b, CHUNKS, true);
    TURN_UNTIL(h, atomic_load(&b.asked) == 1 && atomic_load(&b.running) == 0);
    assert_true(h->seen.paused);
    deputy_cancel(h->engine, h->seen.run);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(atomic_load(&b.cancelled), 0);
    host_free(h);
}

/* A thread that has more than its reader takes waits, too. */
static void a_blocking_provider_with_a_reader_that_never_reads(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    (void)state;
    h->seen.pause_every = 1;
    start_blocking(h, &b, FLOOD, true);
    TURN_UNTIL(h, h->seen.paused && atomic_load(&b.posted) > 0);
    nap_ms(200);
    turns(h, 5);
    assert_in_range(atomic_load(&b.posted), 1, 600); /* of 1000 bytes, a quarter MiB waiting and some on the way */
    deputy_cancel(h->engine, h->seen.run);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    host_free(h);
}

static void until_running(struct host *h, struct blocker *b)
{
    TURN_UNTIL(h, atomic_load(&b->running));
    assert_int_equal(atomic_load(&b->running), 1);
}

static void a_blocking_provider_is_cancelled(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    (void)state;
    start_blocking(h, &b, UNTIL_CANCELLED, false);
    until_running(h, &b);
    deputy_cancel(h->engine, h->seen.run);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(atomic_load(&b.cancelled), 1);
    deputy_engine_free(h->engine); /* waits for its thread */
    h->engine = NULL;
    assert_int_equal(atomic_load(&b.refused), 1);
    host_free(h);
}

static void freed_while_a_provider_blocks(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    (void)state;
    start_blocking(h, &b, UNTIL_CANCELLED, false);
    until_running(h, &b);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    assert_int_equal(h->seen.ends, 1);
    assert_int_equal(atomic_load(&b.running), 0);
    host_free(h);
}

/* Waits before it asks to send, on its thread, and keeps what it needs with the call. */
struct loader {
    int waits_ms[2], then_ms;
    int withdrawn;
    atomic_int asked, cancelled, codes[2];
    atomic_bool lost_data, release;
};

static int load_complete(void *self, deputy_call *call, const deputy_request *request)
{
    struct loader *l = self;
    (void)request;
    deputy_call_set_data(call, l);
    int n = atomic_fetch_add(&l->asked, 1) > 0;
    nap_ms(l->waits_ms[n]);
    int code = deputy_call_admit(call);
    atomic_store(&l->codes[n], code);
    for (int i = 0; i < l->then_ms && !atomic_load(&l->release); i++)
        nap_ms(1);
    atomic_store(&l->lost_data, deputy_call_data(call) != l);
    return code == DEPUTY_OK ? deputy_reply_json(call, "{}", 2) : DEPUTY_OK;
}

static void load_cancel(void *self, deputy_call *call)
{
    struct loader *l = self;
    assert_ptr_equal(deputy_call_data(call), l);
    atomic_fetch_add(&l->cancelled, 1);
    atomic_store(&l->release, true);
}

static void load_withdrawn(void *self, deputy_call *call)
{
    struct loader *l = self;
    assert_ptr_equal(deputy_call_data(call), l);
    l->withdrawn++;
}

static const deputy_provider_vtable loader_vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(loader_vtable),
    .flags = DEPUTY_PROVIDER_BLOCKS | DEPUTY_PROVIDER_WAITS,
    .complete = load_complete,
    .cancel = load_cancel,
    .withdrawn = load_withdrawn,
};

static void start_loader(struct host *h, struct loader *l)
{
    deputy_request request = request_for(h);
    request.llm = "haiku";
    h->primary.conduct = FAIL;
    deputy_register(h->engine, provider_of("loader", &loader_vtable, l), NULL);
    deputy_register_failover(h->engine, "haiku", "loader", NULL);
    start_with(h, &request, &h->seen);
}

static void a_blocking_provider_that_waits(void **state)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    struct loader slow = {.waits_ms = {150}}, deaf = {.then_ms = 5000};
    (void)state;
    o.timeouts = (deputy_timeouts){.first_byte_ms = 60, .total_ms = 3000};
    struct host *h = host_new(&o);
    start_loader(h, &slow); /* before it sends, no timeout of a leg counts */
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{}", "primary:connect probe:ok local:ok");
    host_free(h);

    h = host_new(&o);
    start_loader(h, &deaf); /* after it, they do */
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_FAILED, 0, "", "primary:connect probe:ok local:timeout");
    assert_true(h->seen.outcome.us < 2000000);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    assert_int_equal(atomic_load(&deaf.cancelled), 1);
    assert_false(atomic_load(&deaf.lost_data));
    host_free(h);
}

static void an_old_permit_of_a_blocking_provider_is_renewed(void **state)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    struct loader twice = {.waits_ms = {300}}, denied = {.waits_ms = {300}}, gone = {.waits_ms = {300}};
    (void)state;
    o.permit_ms = 200; /* a busy machine begins a thread within that */
    struct host *h = host_new(&o);
    start_loader(h, &twice);
    finish(h);
    expect(&h->seen, DEPUTY_RESULT_OK, 200, "{}", "primary:connect probe:ok local:ok probe:ok");
    assert_int_equal(atomic_load(&twice.codes[0]), DEPUTY_ESTALE);
    assert_int_equal(atomic_load(&twice.codes[1]), DEPUTY_OK);
    host_free(h);

    h = host_new(&o);
    h->probe_status[1] = 403;
    start_loader(h, &denied);
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_int_equal(h->seen.outcome.verdict, DEPUTY_FORBIDDEN);
    assert_int_equal(atomic_load(&denied.asked), 1);
    host_free(h);

    h = host_new(&o);
    start_loader(h, &gone);
    TURN_UNTIL(h, atomic_load(&gone.asked));
    deputy_cancel(h->engine, h->seen.run);
    finish(h);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    assert_int_equal(atomic_load(&gone.codes[0]), DEPUTY_ECANCELED);
    host_free(h);
}

static void cancelled_before_an_old_permit_is_heard_of(void **state)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    struct loader l = {.waits_ms = {300}};
    (void)state;
    o.permit_ms = 200;
    struct host *h = host_new(&o);
    atomic_store(&l.codes[0], 1);
    start_loader(h, &l);
    TURN_UNTIL(h, atomic_load(&l.asked));
    while (atomic_load(&l.codes[0]) == 1) /* the loop stands still */
        nap_ms(1);
    deputy_cancel(h->engine, h->seen.run);
    finish(h);
    assert_int_equal(atomic_load(&l.codes[0]), DEPUTY_ESTALE);
    assert_int_equal(l.withdrawn, 1);
    assert_int_equal(atomic_load(&l.cancelled), 0);
    host_free(h);
}

static const deputy_provider_vtable forgetful_vtable = {
    .abi = DEPUTY_PROVIDER_ABI,
    .size = sizeof(forgetful_vtable),
    .flags = DEPUTY_PROVIDER_WAITS,
    .complete = actor_complete,
    .cancel = actor_cancel,
    .destroy = actor_destroy,
};

static void a_waiting_provider_that_never_asks_to_send(void **state)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    struct actor a = {0};
    (void)state;
    o.timeouts = (deputy_timeouts){.first_token_ms = 60, .idle_ms = 60, .total_ms = 3000};
    struct host *h = host_new(&o);
    deputy_request request = request_for(h);
    request.stream = DEPUTY_STREAM_YES;
    request.primary = provider_of("forgetful", &forgetful_vtable, &a);
    h->probe_status[0] = 403;
    start_with(h, &request, &h->seen);
    deputy_provider_unref(request.primary);
    until_asked(h, &a, 1);
    nap_ms(100);
    turns(h, 2);
    assert_int_equal(deputy_reply_head(a.call, 200, &sse_type, 1), DEPUTY_OK); /* what answers has begun */
    bytes_to(a.call, EVENT("a"));
    finish(h);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CUT);
    assert_string_equal(h->seen.failure.code, "idle");
    assert_true(h->seen.outcome.us < 2000000);
    host_free(h);
}

static void cancelled_while_it_waits_for_a_thread(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker busy[4] = {{0}}, b = {0};
    struct seen seen[4] = {{0}};
    (void)state;
    for (int i = 0; i < 4; i++) {
        deputy_request request = request_for(h);
        request.primary = provider_of("busy", &blocking_vtable, &busy[i]);
        atomic_store(&busy[i].deed, UNTIL_CANCELLED);
        start_with(h, &request, &seen[i]);
        deputy_provider_unref(request.primary);
        until_running(h, &busy[i]);
    }
    start_blocking(h, &b, AT_ONCE, false);
    turns(h, 3);
    deputy_cancel(h->engine, h->seen.run);
    TURN_UNTIL(h, h->seen.ends);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(atomic_load(&b.asked), 0);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    host_free(h);
}

static void denied_while_it_waits_for_a_thread(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker busy[4] = {{0}}, b = {0};
    struct seen seen[4] = {{0}};
    (void)state;
    for (int i = 0; i < 4; i++) {
        deputy_request request = request_for(h);
        request.primary = provider_of("busy", &blocking_vtable, &busy[i]);
        atomic_store(&busy[i].deed, UNTIL_CANCELLED);
        start_with(h, &request, &seen[i]);
        deputy_provider_unref(request.primary);
        until_running(h, &busy[i]);
    }
    deputy_register(h->engine, provider_of("blocking", &blocking_vtable, &b), NULL);
    deputy_register_failover(h->engine, "haiku", "blocking", NULL);
    atomic_store(&b.deed, AT_ONCE);
    h->primary.conduct = FAIL;
    h->probe_status[1] = 403;
    load_route(h, "local _, failure = run:primary()\n"
                  "local answer = run:first{\n"
                  "  function() run:probe() return run:complete(run:failover()) end,\n"
                  "  function() run:sleep(5) run:probe() run:sleep(2000) end,\n"
                  "}\n"
                  "return answer, failure");
    deputy_request request = request_for(h);
    request.llm = "haiku";
    request.total_ms = 500;
    start_with(h, &request, &h->seen);
    for (int i = 0; i < 1000 && h->probes < 2; i++)
        turn(h);
    for (int i = 0; i < 4; i++)
        deputy_cancel(h->engine, seen[i].run);
    TURN_UNTIL(h, h->seen.ends);
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_FAILED);
    assert_false(h->seen.outcome.failover);
    assert_int_equal(h->seen.failure.kind, DEPUTY_FAILURE_CONNECT);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    host_free(h);
}

static void asking_a_provider_that_blocks(void **state)
{
    struct host *h = host_new(NULL);
    struct blocker b = {0};
    struct models models = {0};
    bool available = false;
    (void)state;
    deputy_register(h->engine, provider_of("blocking", &blocking_vtable, &b), NULL);
    assert_int_equal(deputy_list_models(h->engine, "blocking", 1000, take_model, &models, NULL), DEPUTY_OK);
    assert_string_equal(models.names, "slow");
    assert_int_equal(deputy_is_available(h->engine, "blocking", 1000, &available, NULL), DEPUTY_OK);
    assert_true(available);
    host_free(h);
}

/* ---- a loop that is lent
 * ------------------------------------------------------------------------------------------------ */

static void on_the_hosts_own_loop(void **state)
{
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    deputy_options o = {.loop = &loop};
    struct host *h = host_new(&o);
    deputy_request request = request_for(h);
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    uv_run(&loop, UV_RUN_DEFAULT); /* an idle engine does not keep it alive */
    assert_int_equal(deputy_run(h->engine, &request, &reply, NULL), DEPUTY_EBUSY);
    assert_int_equal(deputy_pump(h->engine), DEPUTY_EBUSY);
    h->primary.conduct = FAIL;
    h->local.conduct = JSON;
    start_with(h, &request, &h->seen);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(h->seen.ends, 1);
    assert_string_equal(h->seen.via, "local");

    struct seen slow = {0};
    h->local.conduct = h->other.conduct = FAIL;
    load_route(h, "local _, failure = run:primary() run:sleep(20) return nil, failure");
    start_with(h, &request, &slow);
    uv_run(&loop, UV_RUN_DEFAULT); /* a run that waits does */
    assert_int_equal(slow.ends, 1);
    assert_true(slow.outcome.us >= 19000);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    assert_int_equal(uv_loop_close(&loop), 0); /* nothing of ours is left on it */
    host_free(h);
}

static void stop_and_free(uv_timer_t *timer)
{
    struct host *h = timer->data;
    if (!h->engine) /* it goes on */
        return;
    uv_stop(timer->loop);
    deputy_engine_free(h->engine);
    h->engine = NULL;
    uv_timer_start(timer, stop_and_free, 50, 0);
}

/* How a host on libuv ends: in the callback of a signal. */
static void freed_by_a_loop_that_stops(void **state)
{
    uv_loop_t loop;
    uv_timer_t timer;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    deputy_options o = {.loop = &loop};
    struct host *h = host_new(&o);
    start(h);
    assert_int_equal(uv_timer_init(&loop, &timer), 0);
    timer.data = h;
    uv_timer_start(&timer, stop_and_free, 5, 0);
    assert_int_not_equal(uv_run(&loop, UV_RUN_DEFAULT), 0); /* stopped: the timer is still there */
    assert_int_equal(h->seen.outcome.result, DEPUTY_RESULT_CANCELLED);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    host_free(h);
}

static void words(void **state)
{
    (void)state;
    assert_string_equal(deputy_version(), DEPUTY_VERSION);
    assert_string_equal(deputy_strerror(DEPUTY_OK), "done");
    assert_non_null(deputy_strerror(12345));
    assert_non_null(deputy_verdict_name((deputy_verdict)99));
    assert_non_null(deputy_failure_name((deputy_failure_kind)99));
    assert_non_null(deputy_probe_kind_name((deputy_probe_kind)99));
    assert_non_null(deputy_leg_name((deputy_leg)99));
    assert_string_equal(deputy_verdict_name((deputy_verdict)0), "unreachable");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_at_once),
        cmocka_unit_test(a_reply_later_in_chunks),
        cmocka_unit_test(a_value_without_a_head),
        cmocka_unit_test(a_failure_and_a_stand_in),
        cmocka_unit_test(a_chain_probes_for_each),
        cmocka_unit_test(two_answers_are_two_permits),
        cmocka_unit_test(a_legs_own_limit_ends_with_its_reply),
        cmocka_unit_test(the_primarys_error_as_it_came),
        cmocka_unit_test(a_provider_that_declines),
        cmocka_unit_test(a_provider_that_misbehaves),
        cmocka_unit_test(a_failure_that_says_nothing),
        cmocka_unit_test(a_failure_that_is_too_long),
        cmocka_unit_test(a_stream_flows_from_its_first_output),
        cmocka_unit_test(a_stream_cut_after_output),
        cmocka_unit_test(a_stream_cut_before_output),
        cmocka_unit_test(a_whole_stream_cut_after_output),
        cmocka_unit_test(pause_and_resume_lose_no_byte),
        cmocka_unit_test(a_provider_that_sends_on_while_the_reader_pauses),
        cmocka_unit_test(a_paused_plain_reply),
        cmocka_unit_test(a_script_that_fails_beside_a_stand_in),
        cmocka_unit_test(a_resume_before_the_pause_is_said),
        cmocka_unit_test(a_pause_longer_than_the_idle_time),
        cmocka_unit_test(each_wait_of_a_leg),
        cmocka_unit_test(one_deadline_over_all),
        cmocka_unit_test(a_request_may_only_shorten_it),
        cmocka_unit_test(a_stream_that_is_done_and_does_not_end),
        cmocka_unit_test(a_stream_that_goes_on_while_the_script_thinks),
        cmocka_unit_test(the_deadline_finds_half_a_stream),
        cmocka_unit_test(a_reply_that_is_cut_while_the_script_thinks),
        cmocka_unit_test(the_deadline_finds_a_whole_reply),
        cmocka_unit_test(the_deadline_cuts_a_stream_that_flows),
        cmocka_unit_test(the_deadline_with_a_reader_that_never_reads),
        cmocka_unit_test(the_deadline_with_a_reader_that_only_asks),
        cmocka_unit_test(cancelled_before_it_begins),
        cmocka_unit_test(cancelled_during_the_primary),
        cmocka_unit_test(cancelled_during_the_local_call),
        cmocka_unit_test(cancelled_during_a_pause_of_the_script),
        cmocka_unit_test(cancelled_in_each_callback),
        cmocka_unit_test(cancelled_by_what_on_bytes_answers),
        cmocka_unit_test(cancelled_while_paused),
        cmocka_unit_test(a_thousand_runs_at_once),
        cmocka_unit_test(one_bad_run_among_good_ones),
        cmocka_unit_test(a_limit_on_runs),
        cmocka_unit_test(from_inside_callbacks),
        cmocka_unit_test(from_another_thread),
        cmocka_unit_test(a_wakeup_makes_the_fd_readable),
        cmocka_unit_test(run_waits_for_the_reply),
        cmocka_unit_test(a_reply_over_the_limit),
        cmocka_unit_test(an_errors_body_over_the_limit),
        cmocka_unit_test(asking_a_provider),
        cmocka_unit_test(check_auth_waits_for_a_verdict),
        cmocka_unit_test(without_a_policy),
        cmocka_unit_test(limits_as_large_as_they_go),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(null_is_an_error_like_others),
        cmocka_unit_test(what_a_stand_in_gets_to_see),
        cmocka_unit_test(the_words_of_an_error),
        cmocka_unit_test(unregistered_while_it_answers),
        cmocka_unit_test(reloaded_while_it_runs),
        cmocka_unit_test(freed_while_runs_are_under_way),
        cmocka_unit_test(no_run_starts_while_it_is_freed),
        cmocka_unit_test(progress_says_what_it_does),
        cmocka_unit_test(an_old_permit_is_renewed),
        cmocka_unit_test(one_first_inside_another),
        cmocka_unit_test(a_script_that_fails_after_its_hedge),
        cmocka_unit_test(a_script_that_sleeps_and_sleeps),
        cmocka_unit_test(a_leg_that_is_over_is_not_sent_again),
        cmocka_unit_test(a_newer_no_reaches_a_leg_that_waits),
        cmocka_unit_test(a_renewal_that_never_helps_ends),
        cmocka_unit_test(a_renewal_that_is_refused),
        cmocka_unit_test(a_newer_no_takes_every_older_yes),
        cmocka_unit_test(the_gate_left_to_the_policy),
        cmocka_unit_test(a_provider_that_blocks),
        cmocka_unit_test(a_blocking_provider_without_a_head),
        cmocka_unit_test(a_blocking_provider_with_a_slow_reader),
        cmocka_unit_test(a_blocking_provider_that_has_ended_is_not_cancelled),
        cmocka_unit_test(a_blocking_provider_with_a_reader_that_never_reads),
        cmocka_unit_test(a_blocking_provider_is_cancelled),
        cmocka_unit_test(freed_while_a_provider_blocks),
        cmocka_unit_test(a_blocking_provider_that_waits),
        cmocka_unit_test(an_old_permit_of_a_blocking_provider_is_renewed),
        cmocka_unit_test(cancelled_before_an_old_permit_is_heard_of),
        cmocka_unit_test(a_waiting_provider_that_never_asks_to_send),
        cmocka_unit_test(cancelled_while_it_waits_for_a_thread),
        cmocka_unit_test(denied_while_it_waits_for_a_thread),
        cmocka_unit_test(asking_a_provider_that_blocks),
        cmocka_unit_test(on_the_hosts_own_loop),
        cmocka_unit_test(freed_by_a_loop_that_stops),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
