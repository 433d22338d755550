/* A managed server as the provider of an engine: who waits and for how long, who is served, who is turned away, and
 * that nothing is started or sent for whom the central has not allowed. The central is an HTTP server of this process;
 * what the model servers got stands in their log. */
#include "managed_fixture.h"

#include "loopback.h"

/* ---- the central
 * ------------------------------------------------------------------------------------------------------ */

static struct {
    atomic_int probe_status, primary_status, probes, primaries;
    atomic_int hold_from; /* probes from this number on are not answered before it is 0 */
} central_does;

static void serve_central(struct server *s, int fd)
{
    char request[8192], reply[256];
    while (read_request(s, fd, request, sizeof(request))) {
        if (strncmp(request, "HEAD ", 5) == 0) {
            int number = atomic_fetch_add(&central_does.probes, 1) + 1;
            while (atomic_load(&central_does.hold_from) && number >= atomic_load(&central_does.hold_from))
                nap_ms(1);
            int status = atomic_load(&central_does.probe_status);
            snprintf(reply, sizeof(reply), "HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n", status);
        } else {
            atomic_fetch_add(&central_does.primaries, 1);
            snprintf(reply, sizeof(reply),
                     "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n"
                     "{\"error\":{\"message\":\"central\"}}",
                     atomic_load(&central_does.primary_status));
        }
        send_text(fd, reply);
    }
}

static struct server central;

/* ---- the host
 * --------------------------------------------------------------------------------------------------------- */

static const char stand_in[] = "local M = {}\n"
                               "function M.should_failover() return true end\n"
                               "function M.verdict(p) return p.status == 204 and 'allowed' or 'forbidden' end\n"
                               "function M.route(run)\n"
                               "  local reply, failure = run:primary()\n"
                               "  if reply then return reply end\n"
                               "  if M.verdict(run:probe()) ~= 'allowed' then return nil, failure end\n"
                               "  local answer = run:complete(run:failover())\n"
                               "  if answer then return answer end\n"
                               "  return nil, failure\n"
                               "end\n"
                               "return M\n";

struct ended {
    int n;
    deputy_result result;
    deputy_failure failure;
    int status;
    bool failover;
    uint64_t at_ms;
    size_t len;
    char body[512];
};

static void on_head(void *user, int status, const deputy_header *headers, size_t n)
{
    (void)headers, (void)n;
    ((struct ended *)user)->status = status;
}

static int on_bytes(void *user, const void *bytes, size_t len)
{
    struct ended *e = user;
    size_t room = sizeof(e->body) - 1 - e->len;
    memcpy(e->body + e->len, bytes, len < room ? len : room);
    e->len += len < room ? len : room;
    return DEPUTY_OK;
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct ended *e = user;
    e->n++;
    e->at_ms = now_ms();
    e->result = outcome->result;
    e->failover = outcome->failover;
    if (outcome->failure)
        e->failure = *outcome->failure;
}

static void allow(void *user, const char *llm, const char *token, deputy_probe_answer *answer)
{
    (void)user, (void)llm, (void)token;
    answer->kind = DEPUTY_PROBE_OK;
    answer->status = 204;
}

static int be_down(void *self, deputy_call *call, const deputy_request *request)
{
    static const deputy_failure down = {.kind = DEPUTY_FAILURE_CONNECT, .retry_after_ms = -1};
    (void)self, (void)request;
    return deputy_reply_fail(call, &down);
}

static const deputy_provider_vtable down_vtable = {
    .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(down_vtable), .complete = be_down};

static deputy_engine *engine_of(deputy_managed *m, uint32_t permit_ms, bool in_memory)
{
    deputy_options o = DEPUTY_INIT(deputy_options);
    deputy_engine *engine;
    deputy_provider *provider;
    o.central_url = in_memory ? NULL : central.url;
    o.probe = in_memory ? allow : NULL;
    o.bearer_token = "tok-alice";
    o.permit_ms = permit_ms;
    o.verify = DEPUTY_VERIFY_OFF;
    o.limits.policy_ms = 10000; /* under valgrind too */
    assert_int_equal(deputy_engine_new(&o, &engine, NULL), DEPUTY_OK);
    assert_int_equal(deputy_load_policy_text(engine, "stand_in", stand_in, sizeof(stand_in) - 1, NULL), DEPUTY_OK);
    assert_int_equal(deputy_managed_provider(m, &provider, NULL), DEPUTY_OK);
    assert_int_equal(deputy_register(engine, provider, NULL), DEPUTY_OK);
    assert_int_equal(deputy_register_failover(engine, "claude", "tiny", NULL), DEPUTY_OK);
    return engine;
}

static deputy_engine *engine_for(deputy_managed *m, uint32_t permit_ms)
{
    return engine_of(m, permit_ms, false);
}

static deputy_run_id start(deputy_engine *engine, struct ended *ended, uint32_t total_ms, deputy_provider *primary)
{
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    deputy_run_id id;
    memset(ended, 0, sizeof(*ended));
    request.llm = "claude";
    request.body = "{\"model\":\"claude\",\"messages\":[]}";
    request.body_len = strlen(request.body);
    request.total_ms = total_ms;
    request.primary = primary;
    request.primary_only = primary && deputy_provider_self(primary);
    sink.user = ended;
    sink.on_head = on_head;
    sink.on_bytes = on_bytes;
    sink.on_end = on_end;
    assert_int_equal(deputy_start(engine, &request, &sink, &id, NULL), DEPUTY_OK);
    return id;
}

static void turn(deputy_engine *engine)
{
    int ms = deputy_timeout(engine);
    struct pollfd p = {.fd = deputy_fd(engine), .events = POLLIN};
    poll(&p, 1, ms < 0 || ms > 5 ? 5 : ms);
    deputy_pump(engine);
}

#define TURN_UNTIL(engine, condition)                                                                                  \
    do {                                                                                                               \
        uint64_t begun_ = now_ms();                                                                                    \
        while (!(condition) && now_ms() - begun_ < PATIENCE_MS)                                                        \
            turn(engine);                                                                                              \
        assert_true(condition);                                                                                        \
    } while (0)

static void expect_served(const struct ended *e)
{
    assert_int_equal(e->result, DEPUTY_RESULT_OK);
    assert_int_equal(e->status, 200);
    assert_true(e->failover);
    assert_non_null(strstr(e->body, "hello from"));
}

static void expect_primary_error(const struct ended *e)
{
    assert_int_equal(e->result, DEPUTY_RESULT_FAILED);
    assert_int_equal(e->status, 503);
    assert_false(e->failover);
    assert_non_null(strstr(e->body, "central"));
}

static void run_once(deputy_engine *engine, struct ended *e)
{
    start(engine, e, 0, NULL);
    TURN_UNTIL(engine, e->n == 1);
}

static void finish(deputy_engine *engine, deputy_managed *m)
{
    deputy_engine_free(engine);
    end_all(m);
}

/* ---- served
 * ------------------------------------------------------------------------------------------------------------ */

static void a_caller_waits_until_it_is_ready(void **state)
{
    deputy_managed_options o = options_of("--slow", "200", NULL);
    struct ended e;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    assert_int_equal(state_of(m), DEPUTY_MANAGED_STOPPED);
    run_once(engine, &e);
    expect_served(&e);
    assert_int_equal(status_of(m).starts, 1);
    assert_int_equal(status_of(m).active, 0);
    run_once(engine, &e);
    expect_served(&e);
    assert_int_equal(status_of(m).starts, 1);
    finish(engine, m);
}

static void a_thousand_callers_at_once_start_it_once(void **state)
{
    enum { CALLERS = 1000 };
    static struct ended ended[CALLERS];
    static char words[16];
    deputy_managed_options o = options_of("--slow", "300", NULL);
    deputy_provider *down;
    size_t n = 0;
    (void)state;
    o.max_concurrent = 32;
    o.max_queued = CALLERS;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_of(m, 60000, true);
    assert_int_equal(deputy_provider_new("down", &down_vtable, NULL, &down, NULL), DEPUTY_OK);
    for (int i = 0; i < CALLERS; i++)
        start(engine, &ended[i], 0, down);
    TURN_UNTIL(engine, status_of(m).queued == CALLERS || status_of(m).state == DEPUTY_MANAGED_READY);
    TURN_UNTIL(engine, deputy_in_flight(engine) == 0);
    for (int i = 0; i < CALLERS; i++)
        n += ended[i].result == DEPUTY_RESULT_OK && ended[i].failover;
    snprintf(words, sizeof(words), "%zu", n);
    assert_string_equal(words, "1000");
    assert_int_equal(status_of(m).starts, 1);
    assert_int_equal(noted("start", NULL, 0), 1);
    assert_int_equal(noted("post", NULL, 0), CALLERS);
    assert_int_equal(status_of(m).active + status_of(m).queued, 0);
    deputy_provider_unref(down);
    finish(engine, m);
}

static void no_more_at_once_than_it_may_serve(void **state)
{
    struct ended ended[6];
    deputy_managed_options o = options_of("--slow-post", "30", NULL);
    uint32_t most = 0;
    (void)state;
    o.max_concurrent = 2;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    for (int i = 0; i < 6; i++)
        start(engine, &ended[i], 0, NULL);
    for (uint64_t begun = now_ms(); deputy_in_flight(engine) > 0 && now_ms() - begun < PATIENCE_MS;) {
        turn(engine);
        uint32_t active = status_of(m).active;
        most = active > most ? active : most;
    }
    for (int i = 0; i < 6; i++)
        expect_served(&ended[i]);
    assert_int_equal(most, 2);
    finish(engine, m);
}

/* ---- turned away
 * -------------------------------------------------------------------------------------------------------- */

static void nothing_is_started_for_whom_the_central_forbids(void **state)
{
    deputy_managed_options o = options_of(NULL);
    struct ended e;
    (void)state;
    central_does.probe_status = 403;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    run_once(engine, &e);
    expect_primary_error(&e);
    nap_for(50);
    assert_int_equal(status_of(m).starts, 0);
    assert_int_equal(state_of(m), DEPUTY_MANAGED_STOPPED);
    finish(engine, m);
}

static void the_queue_is_bounded(void **state)
{
    struct ended ended[4];
    deputy_managed_options o = options_of("--slow", "200", NULL);
    deputy_provider *provider;
    int refused = 0;
    (void)state;
    o.max_queued = 2;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    assert_int_equal(deputy_managed_provider(m, &provider, NULL), DEPUTY_OK);
    for (int i = 0; i < 4; i++)
        start(engine, &ended[i], 0, provider);
    TURN_UNTIL(engine, deputy_in_flight(engine) == 0);
    for (int i = 0; i < 4; i++)
        if (ended[i].result != DEPUTY_RESULT_OK) {
            refused++;
            assert_string_equal(ended[i].failure.code, "queue_full");
            assert_int_equal(ended[i].failure.status, 503);
        }
    assert_int_equal(refused, 2);
    deputy_provider_unref(provider);
    finish(engine, m);
}

static void a_caller_waits_within_its_own_deadline(void **state)
{
    struct ended quick, patient;
    deputy_managed_options o = options_of("--slow", "700", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    uint64_t begun = now_ms();
    start(engine, &quick, 200, NULL);
    start(engine, &patient, 0, NULL);
    TURN_UNTIL(engine, deputy_in_flight(engine) == 0);
    expect_primary_error(&quick);
    assert_in_range(quick.at_ms - begun, 190, 650);
    expect_served(&patient);
    assert_int_equal(noted("post", NULL, 0), 1);
    finish(engine, m);
}

/* The first token has its own limit, which counts from when something is asked, not from when it is waited for. */
static void loading_is_not_a_slow_first_byte(void **state)
{
    struct ended e;
    deputy_options eo = DEPUTY_INIT(deputy_options);
    deputy_managed_options o = options_of("--slow", "600", NULL);
    deputy_provider *provider;
    deputy_engine *engine;
    (void)state;
    deputy_managed *m = make(&o);
    eo.timeouts.first_byte_ms = 200;
    eo.probe_path = NULL;
    eo.central_url = central.url;
    eo.bearer_token = "t";
    assert_int_equal(deputy_engine_new(&eo, &engine, NULL), DEPUTY_OK);
    assert_int_equal(deputy_managed_provider(m, &provider, NULL), DEPUTY_OK);
    start(engine, &e, 0, provider);
    TURN_UNTIL(engine, e.n == 1);
    assert_int_equal(e.result, DEPUTY_RESULT_OK);
    deputy_provider_unref(provider);
    finish(engine, m);
}

static void who_leaves_leaves_the_queue(void **state)
{
    struct ended e;
    deputy_managed_options o = options_of("--never", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    deputy_run_id run = start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).queued == 1);
    deputy_cancel(engine, run);
    TURN_UNTIL(engine, e.n == 1);
    assert_int_equal(e.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(status_of(m).queued, 0);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).queued == 1);
    finish(engine, m); /* with one that waits */
    assert_int_equal(e.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(noted("post", NULL, 0), 0);
}

static void who_waits_is_told_why_it_failed(void **state)
{
    struct ended e;
    deputy_managed_options o = options_of("--exit", "7", NULL);
    deputy_provider *provider;
    (void)state;
    o.restarts = 2;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    assert_int_equal(deputy_managed_provider(m, &provider, NULL), DEPUTY_OK);
    for (int i = 0; i < 2; i++) { /* waiting for it, and when it has failed already */
        start(engine, &e, 0, provider);
        TURN_UNTIL(engine, e.n == 1);
        assert_string_equal(e.failure.code, "not_running");
        assert_non_null(strstr(e.failure.message, "exit status 7"));
        assert_non_null(strstr(e.failure.message, "told to end at once"));
    }
    assert_int_equal(status_of(m).starts, 2);
    bool available = true;
    deputy_error error = {0};
    assert_int_equal(deputy_is_available(engine, "tiny", 0, &available, &error), DEPUTY_OK);
    assert_false(available);
    deputy_provider_unref(provider);
    finish(engine, m);
}

static void those_who_wait_are_turned_away_by_a_stop(void **state)
{
    struct ended e;
    deputy_managed_options o = options_of("--never", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).queued == 1 && status_of(m).pid > 0);
    deputy_managed_stop(m, NULL);
    TURN_UNTIL(engine, e.n == 1);
    expect_primary_error(&e);
    REACHES(m, STOPPED);
    assert_int_equal(status_of(m).starts, 1);
    finish(engine, m);
}

/* ---- the permit
 * ----------------------------------------------------------------------------------------------------------- */

static void a_permit_that_grew_old_is_asked_for_again(void **state)
{
    struct ended e;
    deputy_managed_options o = options_of("--slow", "700", NULL);
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 400);
    run_once(engine, &e);
    expect_served(&e);
    assert_int_equal(central_does.probes, 2);
    assert_int_equal(noted("post", NULL, 0), 1);
    finish(engine, m);
}

static void revoked_while_the_model_loads(void **state)
{
    enum { CALLERS = 20 };
    static struct ended ended[CALLERS];
    char loaded[80];
    snprintf(loaded, sizeof(loaded), "%s.loaded", log_file);
    deputy_managed_options o = options_of("--until", loaded, NULL);
    (void)state;
    o.max_concurrent = 4;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 500);
    for (int i = 0; i < CALLERS; i++)
        start(engine, &ended[i], 0, NULL);
    TURN_UNTIL(engine, status_of(m).queued == CALLERS);
    nap_for(550); /* longer than a permit lives */
    atomic_store(&central_does.probe_status, 403);
    fclose(fopen(loaded, "w"));
    TURN_UNTIL(engine, deputy_in_flight(engine) == 0);
    unlink(loaded);
    for (int i = 0; i < CALLERS; i++)
        expect_primary_error(&ended[i]);
    assert_int_equal(status_of(m).starts, 1);
    assert_int_equal(noted("post", NULL, 0), 0);
    assert_int_equal(status_of(m).active + status_of(m).queued, 0);
    finish(engine, m);
}

/* With few places and a short permit, each of them grows old in the queue: it keeps the place that it waited for. */
static void a_place_outlives_a_stale_permit(void **state)
{
    enum { CALLERS = 4 };
    static struct ended ended[CALLERS];
    deputy_managed_options o = options_of("--slow-post", "350", NULL);
    (void)state;
    o.max_concurrent = 1;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 300);
    for (int i = 0; i < CALLERS; i++)
        start(engine, &ended[i], 0, NULL);
    TURN_UNTIL(engine, deputy_in_flight(engine) == 0);
    for (int i = 0; i < CALLERS; i++)
        expect_served(&ended[i]);
    assert_true(central_does.probes <= 2 * CALLERS);
    finish(engine, m);
}

static void cancelled_while_the_permit_is_asked_for_again(void **state)
{
    struct ended e;
    deputy_managed_options o = options_of("--slow", "600", NULL);
    (void)state;
    o.max_concurrent = 1;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 300);
    atomic_store(&central_does.hold_from, 2);
    deputy_run_id run = start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, central_does.probes == 2);
    assert_int_equal(status_of(m).active, 1); /* it keeps its place meanwhile */
    deputy_cancel(engine, run);
    TURN_UNTIL(engine, e.n == 1);
    assert_int_equal(e.result, DEPUTY_RESULT_CANCELLED);
    assert_int_equal(status_of(m).active, 0);
    atomic_store(&central_does.hold_from, 0);
    run_once(engine, &e);
    expect_served(&e);
    assert_int_equal(noted("post", NULL, 0), 1);
    finish(engine, m);
}

/* ---- beforehand
 * ------------------------------------------------------------------------------------------------------------- */

static void prewarmed_by_a_failed_primary(void **state)
{
    deputy_managed_options o = options_of(NULL);
    struct ended e;
    (void)state;
    o.prewarm = DEPUTY_PREWARM_ON_FAILURE;
    central_does.probe_status = 403;
    central_does.primary_status = 400; /* the central's word on the request is no outage */
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    run_once(engine, &e);
    nap_for(50);
    assert_int_equal(status_of(m).starts, 0);
    central_does.primary_status = 503;
    run_once(engine, &e);
    expect_primary_error(&e);
    REACHES(m, READY);
    assert_int_equal(noted("post", NULL, 0), 0);
    finish(engine, m);
}

static void asked_whether_it_is_there_it_is_not_started(void **state)
{
    deputy_managed_options o = options_of(NULL);
    bool available = false;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    assert_int_equal(deputy_is_available(engine, "tiny", 0, &available, NULL), DEPUTY_OK);
    assert_true(available);
    assert_int_equal(status_of(m).starts, 0);
    finish(engine, m);
}

static void count_model(void *user, const char *model)
{
    int *n = user;
    *n += strcmp(model, "a-model") == 0;
}

static void its_models_are_known_when_it_runs(void **state)
{
    deputy_managed_options o = options_of(NULL);
    int n = 0;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    assert_int_equal(deputy_list_models(engine, "tiny", 0, count_model, &n, NULL), DEPUTY_OK);
    assert_int_equal(n, 0);
    deputy_managed_start(m, NULL);
    REACHES(m, READY);
    assert_int_equal(deputy_list_models(engine, "tiny", 0, count_model, &n, NULL), DEPUTY_OK);
    assert_int_equal(n, 1);
    finish(engine, m);
}

/* ---- when it ends
 * ------------------------------------------------------------------------------------------------------------ */

static void a_crash_while_it_serves_is_told_in_words(void **state)
{
    deputy_managed_options o = options_of("--crash-at", "post", NULL);
    deputy_provider *provider;
    struct ended e;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 0);
    assert_int_equal(deputy_managed_provider(m, &provider, NULL), DEPUTY_OK);
    start(engine, &e, 0, provider);
    TURN_UNTIL(engine, e.n == 1);
    assert_int_equal(e.failure.kind, DEPUTY_FAILURE_CONNECT);
    assert_string_equal(e.failure.code, "crashed");
    assert_non_null(strstr(e.failure.message, "signal 11 (SIGSEGV)"));
    assert_non_null(strstr(e.failure.message, "about to crash"));
    assert_int_equal(status_of(m).crashes, 1);
    run_once(engine, &e); /* and through the gate: the primary's error, and another start */
    expect_primary_error(&e);
    assert_int_equal(status_of(m).starts, 2);
    deputy_provider_unref(provider);
    finish(engine, m);
}

static void a_run_under_way_is_not_cut_by_a_stop(void **state)
{
    deputy_managed_options o = options_of("--slow-post", "300", NULL);
    struct ended e, late;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).active == 1 && noted("post", NULL, 0) == 1);
    deputy_managed_stop(m, NULL);
    TURN_UNTIL(engine, state_of(m) == DEPUTY_MANAGED_DRAINING);
    start(engine, &late, 0, NULL); /* comes after the stop: for it, it is started again */
    TURN_UNTIL(engine, e.n == 1 && late.n == 1);
    expect_served(&e);
    expect_served(&late);
    assert_int_equal(status_of(m).starts, 2);
    finish(engine, m);
}

static void a_start_ends_the_draining(void **state)
{
    deputy_managed_options o = options_of("--slow-post", "300", NULL);
    struct ended e;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).active == 1 && noted("post", NULL, 0) == 1);
    deputy_managed_stop(m, NULL);
    TURN_UNTIL(engine, state_of(m) == DEPUTY_MANAGED_DRAINING);
    deputy_managed_start(m, NULL);
    TURN_UNTIL(engine, state_of(m) == DEPUTY_MANAGED_READY);
    TURN_UNTIL(engine, e.n == 1);
    expect_served(&e);
    assert_int_equal(status_of(m).starts, 1);
    finish(engine, m);
}

/* Whoever orders both wants another process that runs, whichever order came first. */
static void a_start_does_not_undo_a_restart(void **state)
{
    deputy_managed_options o = options_of("--slow-post", "300", NULL);
    struct ended e;
    (void)state;
    o.idle_ms = 200;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).active == 1 && noted("post", NULL, 0) == 1);
    deputy_managed_restart(m, NULL);
    TURN_UNTIL(engine, state_of(m) == DEPUTY_MANAGED_DRAINING);
    deputy_managed_start(m, NULL);
    nap_for(50);
    assert_int_equal(state_of(m), DEPUTY_MANAGED_DRAINING);
    TURN_UNTIL(engine, e.n == 1);
    expect_served(&e);
    EVENTUALLY(status_of(m).starts == 2);
    REACHES(m, READY);
    REACHES(m, STOPPED); /* it is idle: no restart is left over */
    nap_for(100);
    assert_int_equal(state_of(m), DEPUTY_MANAGED_STOPPED);
    assert_int_equal(status_of(m).starts, 2);
    finish(engine, m);
}

/* The one that is being exchanged or stopped may well be the one that is sick. */
static void a_crash_in_the_drain_does_not_undo_an_order(void **state)
{
    deputy_managed_options o = options_of("--slow-post", "20000", NULL);
    struct ended e;
    (void)state;
    o.restarts = 1;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).active == 1 && noted("post", NULL, 0) == 1);
    deputy_managed_restart(m, NULL);
    TURN_UNTIL(engine, state_of(m) == DEPUTY_MANAGED_DRAINING);
    kill((pid_t)status_of(m).pid, SIGKILL);
    TURN_UNTIL(engine, e.n == 1);
    expect_primary_error(&e);
    REACHES(m, READY);
    assert_int_equal(status_of(m).starts, 2);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).active == 1 && noted("post", NULL, 0) == 2);
    deputy_managed_stop(m, NULL);
    TURN_UNTIL(engine, state_of(m) == DEPUTY_MANAGED_DRAINING);
    kill((pid_t)status_of(m).pid, SIGKILL);
    TURN_UNTIL(engine, e.n == 1);
    REACHES(m, STOPPED); /* whoever comes now starts it again */
    assert_int_equal(status_of(m).crashes, 2);
    finish(engine, m);
}

/* Requests arrive just when it is about to stop for being idle: none is lost, whatever comes first. */
static void a_request_in_the_moment_of_an_idle_stop(void **state)
{
    deputy_managed_options o = options_of(NULL);
    struct ended e;
    (void)state;
    o.idle_ms = 20;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    for (int i = 0; i < 40; i++) {
        run_once(engine, &e);
        expect_served(&e);
        nap_for(14 + i % 8);
    }
    assert_in_range(status_of(m).starts, 2, 40);
    assert_int_equal(status_of(m).crashes, 0);
    finish(engine, m);
}

static int listen_at(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

/* Nothing tells the caller's engine what happens between the place that it is given and its next turn. */
static void a_place_at_a_server_that_has_died_meanwhile_is_none(void **state)
{
    deputy_managed_options o = options_of("--slow", "200", NULL);
    struct ended e;
    struct server other = {0};
    char byte;
    (void)state;
    assert_true(server_listen(&other, 1));
    o.port = (uint16_t)other.port;
    close(other.fd);
    o.restarts = 1;
    o.api_key = "key-of-the-server";
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).queued == 1);
    EVENTUALLY(status_of(m).active == 1);
    kill((pid_t)status_of(m).pid, SIGKILL);
    REACHES(m, FAILED);
    int fd = listen_at(o.port);
    TURN_UNTIL(engine, e.n == 1);
    expect_primary_error(&e);
    int stranger = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (stranger >= 0)
        assert_true(recv(stranger, &byte, 1, MSG_PEEK) <= 0);
    assert_int_equal(stranger, -1);
    close(fd);
    finish(engine, m);
}

static void a_place_lost_before_it_was_used_is_waited_for_again(void **state)
{
    deputy_managed_options o = options_of("--slow", "200", NULL);
    struct ended e;
    (void)state;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    start(engine, &e, 0, NULL);
    TURN_UNTIL(engine, status_of(m).queued == 1);
    EVENTUALLY(status_of(m).active == 1);
    kill((pid_t)status_of(m).pid, SIGKILL);
    REACHES(m, STOPPED);
    TURN_UNTIL(engine, e.n == 1);
    expect_served(&e);
    assert_int_equal(status_of(m).starts, 2);
    assert_int_equal(status_of(m).active, 0);
    finish(engine, m);
}

/* What an earlier start has served does not count for one that never came to a process. */
static void the_port_is_taken_after_a_good_run(void **state)
{
    deputy_managed_options o = options_of(NULL);
    struct ended e;
    struct server other = {0};
    (void)state;
    assert_true(server_listen(&other, 1));
    o.port = (uint16_t)other.port;
    close(other.fd);
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    run_once(engine, &e);
    expect_served(&e);
    deputy_managed_stop(m, NULL);
    REACHES(m, STOPPED);
    int fd = listen_at(o.port);
    run_once(engine, &e);
    expect_primary_error(&e);
    REACHES(m, FAILED);
    close(fd);
    finish(engine, m);
}

static void deaf_while_it_serves(void **state)
{
    deputy_managed_options o = options_of("--hang-at", "post", NULL);
    struct ended e;
    (void)state;
    o.health_ms = 30;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    run_once(engine, &e);
    expect_primary_error(&e);
    assert_int_equal(status_of(m).crashes, 1);
    assert_non_null(strstr(status_of(m).problem, "no longer answers"));
    finish(engine, m);
}

/* A server that computes answers nobody else meanwhile: that is no reason to end it under its caller. */
static void busy_while_it_serves(void **state)
{
    deputy_managed_options o = options_of("--slow-post", "500", NULL);
    struct ended e;
    (void)state;
    o.health_ms = 50;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    run_once(engine, &e);
    expect_served(&e);
    assert_int_equal(status_of(m).crashes, 0);
    finish(engine, m);
}

/* What counts are failures in a row: one that has served well in between is started again. */
static void it_crashes_now_and_then(void **state)
{
    deputy_managed_options o = options_of(NULL);
    struct ended e;
    (void)state;
    o.restarts = 2;
    o.backoff_ms = 1;
    deputy_managed *m = make(&o);
    deputy_engine *engine = engine_for(m, 60000);
    for (unsigned i = 1; i <= 4; i++) {
        run_once(engine, &e);
        expect_served(&e);
        kill((pid_t)status_of(m).pid, SIGKILL);
        EVENTUALLY(status_of(m).crashes == i && status_of(m).state != DEPUTY_MANAGED_STOPPING);
        assert_int_not_equal(state_of(m), DEPUTY_MANAGED_FAILED);
    }
    finish(engine, m);
}

/* ---- several engines
 * ---------------------------------------------------------------------------------------------------------- */

static void *serve_ten(void *user)
{
    static atomic_int served;
    struct ended ended[10];
    int *total = malloc(sizeof(*total));
    deputy_engine *engine = engine_for(user, 60000);
    for (int i = 0; i < 10; i++)
        start(engine, &ended[i], 0, NULL);
    for (uint64_t begun = now_ms(); deputy_in_flight(engine) > 0 && now_ms() - begun < PATIENCE_MS;)
        turn(engine);
    for (int i = 0; i < 10; i++)
        atomic_fetch_add(&served, ended[i].result == DEPUTY_RESULT_OK && ended[i].failover);
    deputy_engine_free(engine);
    *total = atomic_load(&served);
    return total;
}

static void engines_of_several_threads_share_one(void **state)
{
    deputy_managed_options o = options_of("--slow", "100", NULL);
    pthread_t threads[4];
    int most = 0;
    (void)state;
    o.max_concurrent = 3;
    deputy_managed *m = make(&o);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, serve_ten, m);
    for (int i = 0; i < 4; i++) {
        int *total;
        pthread_join(threads[i], (void **)&total);
        most = *total > most ? *total : most;
        free(total);
    }
    assert_int_equal(most, 40);
    assert_int_equal(status_of(m).starts, 1);
    end_all(m);
}

static int begin(void **state)
{
    central_does.probe_status = 204;
    central_does.primary_status = 503;
    central_does.probes = central_does.primaries = central_does.hold_from = 0;
    return begin_test(state);
}

static int begin_all(void **state)
{
    (void)state;
    return server_start(&central, serve_central, NULL) ? 0 : -1;
}

static int stop_all(void **state)
{
    (void)state;
    server_stop(&central);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_caller_waits_until_it_is_ready),
        TEST(a_thousand_callers_at_once_start_it_once),
        TEST(no_more_at_once_than_it_may_serve),
        TEST(engines_of_several_threads_share_one),
        TEST(nothing_is_started_for_whom_the_central_forbids),
        TEST(the_queue_is_bounded),
        TEST(a_caller_waits_within_its_own_deadline),
        TEST(loading_is_not_a_slow_first_byte),
        TEST(who_leaves_leaves_the_queue),
        TEST(who_waits_is_told_why_it_failed),
        TEST(those_who_wait_are_turned_away_by_a_stop),
        TEST(a_permit_that_grew_old_is_asked_for_again),
        TEST(revoked_while_the_model_loads),
        TEST(a_place_outlives_a_stale_permit),
        TEST(cancelled_while_the_permit_is_asked_for_again),
        TEST(prewarmed_by_a_failed_primary),
        TEST(asked_whether_it_is_there_it_is_not_started),
        TEST(its_models_are_known_when_it_runs),
        TEST(a_crash_while_it_serves_is_told_in_words),
        TEST(a_run_under_way_is_not_cut_by_a_stop),
        TEST(a_start_ends_the_draining),
        TEST(a_start_does_not_undo_a_restart),
        TEST(a_crash_in_the_drain_does_not_undo_an_order),
        TEST(a_request_in_the_moment_of_an_idle_stop),
        TEST(a_place_at_a_server_that_has_died_meanwhile_is_none),
        TEST(a_place_lost_before_it_was_used_is_waited_for_again),
        TEST(the_port_is_taken_after_a_good_run),
        TEST(deaf_while_it_serves),
        TEST(busy_while_it_serves),
        TEST(it_crashes_now_and_then),
    };
    if (getenv("ONLY_TEST"))
        cmocka_set_test_filter(getenv("ONLY_TEST"));
    return cmocka_run_group_tests_name("managed provider", tests, begin_all, stop_all);
}
