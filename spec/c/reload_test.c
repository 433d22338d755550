/* A policy is loaded anew again and again while runs are on their way: each run ends, on the script that it began with,
 * and nothing is left behind. */
#include "deputy/provider.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { RUNS_PER_RELOAD = 3, KEPT = 60, QUEUE = 256, FLAT_KIB = 3072 };

/* Of no version: what is new is only the word that it logs. Whatever runs, verify has looked at. */
static const char script[] = "local VERSION = %d\n"
                             "local M, served = {}, 0\n"
                             "function M.should_failover(failure) return failure.kind == 'connect' end\n"
                             "function M.verdict(probe)\n"
                             "  return probe.kind == 'ok' and probe.status == 204 and 'allowed' or 'unreachable'\n"
                             "end\n"
                             "function M.route(run)\n"
                             "  run:log('info', 'begins ' .. VERSION)\n"
                             "  local reply, failure = run:primary()\n"
                             "  run:log('info', 'goes on ' .. VERSION)\n"
                             "  if reply or not M.should_failover(failure) then return reply, failure end\n"
                             "  local provider = run:failover()\n"
                             "  if not provider or M.verdict(run:probe()) ~= 'allowed' then return nil, failure end\n"
                             "  local answer = run:complete(provider)\n"
                             "  run:log('info', 'goes on ' .. VERSION)\n"
                             "  if answer then return answer end\n"
                             "  return nil, failure\n"
                             "end\n"
                             "return M\n";

/* Calls that wait for an answer; the oldest gets it first. */
struct actor {
    deputy_call *calls[QUEUE];
    size_t n;
    unsigned asked;
};

struct run {
    deputy_run_id id;
    int version; /* of the script that it began with; 0: has not begun */
    int ends;
    bool cancelled, fails;
    struct world *world;
    struct run *next;
};

struct world {
    deputy_engine *engine;
    deputy_provider *primary_provider;
    struct actor primary, local;
    struct run *runs; /* that have not ended */
    int version;      /* of the script that new runs get */
    int started, ended, failed_over, warnings;
    char warning[600];
};

/* ---- providers that take their time ------------------------------------------------------------------------------ */

static int complete(void *self, deputy_call *call, const deputy_request *request)
{
    struct actor *a = self;
    (void)request;
    assert_true(a->n < QUEUE);
    a->calls[a->n++] = call;
    a->asked++;
    return DEPUTY_OK;
}

static void forget(void *self, deputy_call *call)
{
    struct actor *a = self;
    for (size_t i = 0; i < a->n; i++) {
        if (a->calls[i] != call)
            continue;
        memmove(&a->calls[i], &a->calls[i + 1], (--a->n - i) * sizeof(a->calls[0]));
        return;
    }
}

static void answer_oldest(struct actor *a, bool well)
{
    static const deputy_failure refused = {
        .kind = DEPUTY_FAILURE_CONNECT, .code = "refused", .message = "nobody there", .retry_after_ms = -1};
    static const char body[] = "{\"choices\":[]}";
    deputy_call *call = a->calls[0];
    forget(a, call);
    int code = well ? deputy_reply_json(call, body, sizeof(body) - 1) : deputy_reply_fail(call, &refused);
    assert_int_equal(code, DEPUTY_OK);
}

static const deputy_provider_vtable vtable = {
    .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(vtable), .complete = complete, .cancel = forget};

static deputy_provider *provider_of(const char *name, struct actor *actor)
{
    deputy_provider *provider;
    assert_int_equal(deputy_provider_new(name, &vtable, actor, &provider, NULL), DEPUTY_OK);
    return provider;
}

/* ---- the host -----------------------------------------------------------------------------------------------------
 */

static void probe(void *user, const char *llm, const char *token, deputy_probe_answer *answer)
{
    (void)user;
    (void)llm;
    (void)token;
    answer->kind = DEPUTY_PROBE_OK;
    answer->status = 204;
}

/* A run says which script it is on each time it has waited. */
static void on_log(void *user, deputy_log_level level, const char *text)
{
    struct world *w = user;
    unsigned long long id;
    int version;
    if (level <= DEPUTY_LOG_WARN) {
        w->warnings++;
        snprintf(w->warning, sizeof(w->warning), "%s", text);
    }
    if (sscanf(text, "run %llu: begins %d", &id, &version) == 2) {
        for (struct run *r = w->runs; r; r = r->next)
            if (r->id == id)
                r->version = version;
    } else if (sscanf(text, "run %llu: goes on %d", &id, &version) == 2) {
        for (struct run *r = w->runs; r; r = r->next)
            if (r->id == id)
                assert_int_equal(r->version, version);
    }
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct run *r = user;
    struct world *w = r->world;
    assert_int_equal(r->ends++, 0);
    if (!r->cancelled)
        assert_int_equal(outcome->result, DEPUTY_RESULT_OK);
    else
        assert_true(outcome->result == DEPUTY_RESULT_CANCELLED || outcome->result == DEPUTY_RESULT_OK);
    w->failed_over += outcome->failover;
    w->ended++;
    for (struct run **at = &w->runs; *at; at = &(*at)->next) {
        if (*at != r)
            continue;
        *at = r->next;
        free(r);
        return;
    }
    fail_msg("a run ended that was not on its way");
}

static struct run *start(struct world *w)
{
    struct run *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_sink sink = DEPUTY_INIT(deputy_sink);
    deputy_error error = {0};
    request.llm = "claude";
    request.body = "{}";
    request.body_len = 2;
    request.primary = w->primary_provider;
    sink.user = r;
    sink.on_end = on_end;
    r->world = w;
    r->next = w->runs;
    w->runs = r;
    if (deputy_start(w->engine, &request, &sink, &r->id, &error) != DEPUTY_OK)
        fail_msg("%s", error.message);
    w->started++;
    return r;
}

static void turn(struct world *w)
{
    struct pollfd p = {.fd = deputy_fd(w->engine), .events = POLLIN};
    int ms = deputy_timeout(w->engine);
    poll(&p, 1, ms < 0 || ms > 1 ? 1 : ms);
    assert_int_equal(deputy_pump(w->engine), DEPUTY_OK);
}

static int load(struct world *w, const char *name, const char *text, deputy_error *error)
{
    *error = (deputy_error){0};
    return deputy_load_policy_text(w->engine, name, text, strlen(text), error);
}

static void load_version(struct world *w, int version)
{
    char text[2048];
    deputy_error error;
    snprintf(text, sizeof(text), script, version);
    if (load(w, "router.lua", text, &error) != DEPUTY_OK)
        fail_msg("%s", error.message);
    w->version = version;
}

static struct world *world_new(deputy_verify verify)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    deputy_options o = DEPUTY_INIT(deputy_options);
    o.bearer_token = "tok";
    o.probe = probe;
    o.on_log = on_log;
    o.log_user = w;
    o.verify = verify;
    assert_int_equal(deputy_engine_new(&o, &w->engine, NULL), DEPUTY_OK);
    w->primary_provider = provider_of("the primary", &w->primary);
    assert_int_equal(deputy_register(w->engine, provider_of("local", &w->local), NULL), DEPUTY_OK);
    assert_int_equal(deputy_register_failover(w->engine, "claude", "local", NULL), DEPUTY_OK);
    return w;
}

static void world_free(struct world *w)
{
    deputy_engine_free(w->engine);
    deputy_provider_unref(w->primary_provider);
    assert_null(w->runs);
    free(w);
}

/* ---- what a bad script is told ----------------------------------------------------------------------------------- */

static const struct {
    const char *text, *says[3];
} bad[] = {
    {"local M = {}\nfunction M.route(run)\n  return run:primary(\nend\nreturn M\n",
     {"bad.lua:4:", "unexpected symbol"}},
    {"local M = {}\nerror('not today')\n", {"bad.lua:2: not today"}},
    {"return 5\n",
     {"bad.lua: expected the script to return a table with route, should_failover and verdict", "number"}},
    {"return { route = function(run) return run:primary() end }\n", {"bad.lua: expected", "should_failover"}},
    {"\033Lua", {"bad.lua", "attempt to load a binary chunk"}},
    {"local M = { should_failover = function() return true end }\n"
     "function M.verdict(probe) return (probe.status or 500) < 400 and 'allowed' or 'unreachable' end\n"
     "function M.route(run) return run:primary() end\nreturn M\n",
     {"bad.lua is not fail-closed", "verdict allows what is not a clean 2xx", "policy.verify"}},
    {"local M = { should_failover = function() return true end, verdict = function() return 'unreachable' end }\n"
     "function M.route(run)\n  return run:primary().status.x\nend\nreturn M\n",
     {"bad.lua is not fail-closed", "bad.lua:3: attempt to index"}},
    {"while true do end\n", {"bad.lua: the script"}}, /* last: it takes its time */
};
enum { N_BAD = sizeof(bad) / sizeof(bad[0]), N_NOT_LOADED = 5 /* whether they are verified or not */ };

static void load_bad(struct world *w, size_t i)
{
    deputy_error error;
    assert_int_equal(load(w, "bad.lua", bad[i].text, &error), DEPUTY_EPOLICY);
    assert_int_equal(error.code, DEPUTY_EPOLICY);
    for (size_t j = 0; j < 3 && bad[i].says[j]; j++)
        if (!strstr(error.message, bad[i].says[j]))
            fail_msg("expected '%s' in: %s", bad[i].says[j], error.message);
}

/* The script that a run which begins now is on. */
static void expect_version(struct world *w, int version)
{
    struct run *r = start(w);
    for (int i = 0; i < 200 && r->version == 0; i++)
        turn(w);
    assert_int_equal(r->version, version);
    r->cancelled = true;
    deputy_cancel(w->engine, r->id);
}

static void settle(struct world *w)
{
    for (int i = 0; i < 20000 && w->runs; i++) {
        while (w->primary.n > 0)
            answer_oldest(&w->primary, w->primary.n % 2 == 0);
        while (w->local.n > 0)
            answer_oldest(&w->local, true);
        turn(w);
    }
    assert_int_equal(w->started, w->ended);
    assert_int_equal(deputy_in_flight(w->engine), 0);
}

static void test_bad_script_changes_nothing(void **state)
{
    (void)state;
    struct world *w = world_new(DEPUTY_VERIFY_REFUSE);
    deputy_error error = {0};
    load_version(w, 1);
    for (size_t i = 0; i < N_BAD; i++) {
        load_bad(w, i);
        expect_version(w, 1);
    }
    assert_int_equal(deputy_load_policy(w->engine, "/nowhere/router.lua", &error), DEPUTY_EIO);
    assert_non_null(strstr(error.message, "/nowhere/router.lua"));
    expect_version(w, 1);
    load_version(w, 2);
    expect_version(w, 2);
    settle(w);
    world_free(w);
}

/* ---- again and again --------------------------------------------------------------------------------------------- */

static long resident_kib(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &pages, &resident), 2);
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static bool is_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload && strstr(preload, "vgpreload");
}

/* A sanitizer keeps what was freed for a while; what is lost it finds itself. */
static bool memory_can_be_measured(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#else
    return !is_valgrind();
#endif
}

/* Returns by how much the process has grown since a fifth of the reloads. */
static long reload_under_load(deputy_verify verify, int reloads)
{
    struct world *w = world_new(verify);
    long before = 0;
    load_version(w, 1);
    for (int i = 2; i <= reloads + 1; i++) {
        for (int j = 0; j < RUNS_PER_RELOAD; j++) {
            struct run *r = start(w);
            r->cancelled = (i * RUNS_PER_RELOAD + j) % 17 == 0;
        }
        turn(w);
        load_version(w, i);
        if (i % 50 == 0) {
            load_bad(w, (size_t)i / 50 % N_NOT_LOADED);
            expect_version(w, i);
        }
        /* each has seen some twenty scripts come by the time it ends */
        for (; w->primary.n > KEPT; turn(w))
            answer_oldest(&w->primary, w->primary.asked % 3 == 0);
        for (; w->local.n > KEPT / 2; turn(w))
            answer_oldest(&w->local, true);
        for (struct run *r = w->runs, *next; r; r = next) {
            next = r->next;
            if (r->cancelled && i % 5 == 0)
                deputy_cancel(w->engine, r->id);
        }
        if (i == reloads / 5)
            before = resident_kib();
    }
    long grown = resident_kib() - before;
    assert_true(deputy_in_flight(w->engine) >= KEPT);
    settle(w);
    assert_true(w->started >= reloads * RUNS_PER_RELOAD);
    assert_true(w->failed_over > reloads / 2);
    if (w->warnings > 0)
        fail_msg("%d warnings, the last: %s", w->warnings, w->warning);
    world_free(w);
    return grown;
}

static void test_a_thousand_reloads_under_load(void **state)
{
    (void)state;
    long grown = reload_under_load(DEPUTY_VERIFY_OFF, 1000);
    if (memory_can_be_measured() && grown > FLAT_KIB)
        fail_msg("%ld KiB more after 1000 reloads than after 200", grown);
}

static void test_verified_reloads_under_load(void **state)
{
    (void)state;
    if (is_valgrind())
        skip(); /* verify has a time limit, which is not made for that */
    long grown = reload_under_load(DEPUTY_VERIFY_REFUSE, 100);
    if (memory_can_be_measured() && grown > FLAT_KIB)
        fail_msg("%ld KiB more after 100 reloads than after 20", grown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_script_changes_nothing),
        cmocka_unit_test(test_a_thousand_reloads_under_load),
        cmocka_unit_test(test_verified_reloads_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
