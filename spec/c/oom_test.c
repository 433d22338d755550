/* Every allocation fails in its turn: once, and from then on. Whatever is missing, nothing crashes, every block is
 * given back, no run hangs, and no local provider is asked without a clean 2xx probe of that very run.
 *
 * Three allocators are made to fail, each by itself: ours (with the policy's Lua, whose allocator is ours, yajl's
 * arenas and uthash), libcurl's and libuv's. Left out, because nobody can survive them or reach them from here:
 *   - libuv's uv__realloc in maybe_resize, which aborts (each new file descriptor may call it)
 *   - lua-cjson's strbuf, which exits; and it loses one when Lua has no memory for what is being decoded
 *   - OpenSSL's and libc's own (getaddrinfo, fopen, threads)
 *   - libcurl's global initialisation, which happens once in a process.
 *
 * OOM_STRIDE=1 tries every number; the default takes every 23rd of what is a long row (all of the first 64), and while
 * a script is verified, which takes its time, only each that is half as far again as the last. */
#include "failing_malloc.h"

#include "../support/loopback.h"
#include "deputy/provider.h"

#include <curl/curl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <time.h>
#include <uv.h>

#include <cmocka.h>

enum { PATIENCE_S = 60, ALL_UP_TO = 64, BEYOND = 16, NUMBER_MAX = 10000000 };

/* ---- the other two allocators ---------------------------------------------------------------------------------------
 */

struct allocator {
    long count, fail_at, live;
    bool fail_on;
};
static struct allocator of_curl, of_uv;

static bool fails(struct allocator *a)
{
    a->count++;
    return a->fail_at > 0 && (a->count == a->fail_at || (a->fail_on && a->count > a->fail_at));
}

static void *counted(struct allocator *a, void *block)
{
    a->live += block != NULL;
    return block;
}

static void *curl_malloc_(size_t size)
{
    return fails(&of_curl) ? NULL : counted(&of_curl, __real_malloc(size));
}

static void *curl_calloc_(size_t n, size_t size)
{
    return fails(&of_curl) ? NULL : counted(&of_curl, __real_calloc(n, size));
}

static void *curl_realloc_(void *old, size_t size)
{
    if (fails(&of_curl))
        return NULL;
    return old ? __real_realloc(old, size) : counted(&of_curl, __real_realloc(NULL, size));
}

static char *curl_strdup_(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = curl_malloc_(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

static void curl_free_(void *block)
{
    of_curl.live -= block != NULL;
    __real_free(block);
}

static void *uv_malloc_(size_t size)
{
    return fails(&of_uv) ? NULL : counted(&of_uv, __real_malloc(size));
}

static void *uv_calloc_(size_t n, size_t size)
{
    return fails(&of_uv) ? NULL : counted(&of_uv, __real_calloc(n, size));
}

static void *uv_realloc_(void *old, size_t size)
{
    return old ? __real_realloc(old, size) : counted(&of_uv, __real_realloc(NULL, size));
}

static void uv_free_(void *block)
{
    of_uv.live -= block != NULL;
    __real_free(block);
}

const char *__lsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void)
{
    return "leak:strbuf_new\n";
}

/* ---- which one fails, and at what -----------------------------------------------------------------------------------
 */

enum whose { OURS, CURLS, UVS };
static const char *const whose_names[] = {"ours", "libcurl's", "libuv's"};

static struct {
    enum whose whose;
    long number;
    bool on;
} plan;

static void arm(void)
{
    fail_allocation(plan.whose == OURS ? plan.number : 0, plan.on);
    of_curl.count = of_uv.count = 0;
    of_curl.fail_at = plan.whose == CURLS ? plan.number : 0;
    of_uv.fail_at = plan.whose == UVS ? plan.number : 0;
    of_curl.fail_on = of_uv.fail_on = plan.on;
}

/* How many allocations there were since arm. */
static long disarm(void)
{
    long count = plan.whose == OURS ? allocations : plan.whose == CURLS ? of_curl.count : of_uv.count;
    fail_allocation(0, false);
    of_curl.fail_at = of_uv.fail_at = 0;
    return count;
}

static void on_alarm(int signal)
{
    static char text[128];
    (void)signal;
    int len = snprintf(text, sizeof(text), "# a run hangs: allocation %ld of %s fails%s\n", plan.number,
                       whose_names[plan.whose], plan.on ? ", and all after it" : "");
    (void)!write(2, text, (size_t)len);
    abort();
}

/* ---- providers and the control plane, in memory
 * ----------------------------------------------------------------------- */

static int probe_status;
static int tickets; /* clean 2xx answers of the run at hand that no dispatch has used yet */
static unsigned long dispatches, wrong;
static char wrongs[256]; /* what, for the message */

static void is_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void is_wrong(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (wrong++ == 0)
        vsnprintf(wrongs, sizeof(wrongs), format, args);
    va_end(args);
}

static void probe(void *user, const char *llm, const char *token, deputy_probe_answer *out)
{
    (void)user, (void)llm, (void)token;
    out->kind = DEPUTY_PROBE_OK;
    out->status = probe_status;
    if (probe_status >= 200 && probe_status <= 299)
        tickets++;
}

static void dispatched(void)
{
    dispatches++;
    if (tickets-- <= 0)
        is_wrong("dispatched without a clean 2xx of this run");
}

static int is_down(void *self, deputy_call *call, const deputy_request *request)
{
    static const deputy_failure down = {.kind = DEPUTY_FAILURE_CONNECT, .retry_after_ms = -1, .message = "it is down"};
    (void)self, (void)request;
    return deputy_reply_fail(call, &down);
}

static const char answer[] = "{\"id\":\"1\",\"choices\":[{\"message\":{\"content\":\"hello\"}}]}";

static int complete(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self, (void)request;
    dispatched();
    return deputy_reply_json(call, answer, sizeof(answer) - 1);
}

static int stream(void *self, deputy_call *call, const deputy_request *request)
{
    static const deputy_header type = {"content-type", "text/event-stream"};
    static const char *const events[] = {"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
                                         "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
                                         "data: [DONE]\n\n"};
    (void)self, (void)request;
    dispatched();
    int code = deputy_reply_head(call, 200, &type, 1);
    for (size_t i = 0; i < 3 && code == DEPUTY_OK; i++)
        code = deputy_reply_bytes(call, events[i], strlen(events[i]));
    return code == DEPUTY_OK ? deputy_reply_end(call) : code;
}

static const deputy_provider_vtable down = {.abi = DEPUTY_PROVIDER_ABI, .size = sizeof(down), .complete = is_down};
static const deputy_provider_vtable whole = {.abi = DEPUTY_PROVIDER_ABI, .size = sizeof(whole), .complete = complete};
static const deputy_provider_vtable streams = {.abi = DEPUTY_PROVIDER_ABI, .size = sizeof(streams), .complete = stream};
static const deputy_provider_vtable blocks = {
    .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(blocks), .flags = DEPUTY_PROVIDER_BLOCKS, .complete = complete};

static unsigned run_number; /* of the runs over sockets, all of them */
static const char body[] = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
static const char stream_body[] = "{\"model\":\"m\",\"stream\":true,\"messages\":[]}";
static char *router;
static size_t router_len;

/* Uses what the default policy does not. */
static const char busy_script[] =
    "local M = {}\n"
    "function M.should_failover() return true end\n"
    "function M.verdict(probe) return probe.status == 204 and 'allowed' or 'forbidden' end\n"
    "function M.route(run)\n"
    "  local reply, failure = run:primary({ timeout_ms = 500 })\n"
    "  if reply then return reply end\n"
    "  pcall(run.log, run, 'info', 'it failed: ' .. tostring(failure.message))\n"
    "  run:sleep(0)\n"
    "  local words = {}\n"
    "  for i = 1, 20 do words[i] = ('x'):rep(i * 10) .. run.llm end\n"
    "  if M.verdict(run:probe({ timeout_ms = 500 })) ~= 'allowed' then return nil, failure end\n"
    "  for _, candidate in ipairs(run:candidates()) do\n"
    "    local answer = run:complete(candidate)\n"
    "    if answer then return answer end\n"
    "  end\n"
    "  return nil, failure\n"
    "end\n"
    "return M\n";

/* ---- scenarios
 * ------------------------------------------------------------------------------------------------------- */

static deputy_options options_of(char *url, size_t size, const struct loopback *l)
{
    deputy_options o = {
        .size = sizeof(o), .bearer_token = "token", .policy_settings = "{\"retries\":0}", .verify = DEPUTY_VERIFY_OFF};
    o.timeouts = (deputy_timeouts){.connect_ms = 1000,
                                   .first_byte_ms = 1000,
                                   .first_token_ms = 1000,
                                   .idle_ms = 1000,
                                   .total_ms = 3000,
                                   .probe_ms = 1000};
    if (l) {
        snprintf(url, size, "http://127.0.0.1:%d", l->port);
        o.central_url = url;
    } else {
        o.probe = probe;
    }
    return o;
}

static void give(deputy_engine *engine, const char *name, const deputy_provider_vtable *vtable, const char *llm)
{
    deputy_provider *provider;
    if (deputy_provider_new(name, vtable, NULL, &provider, NULL) != DEPUTY_OK)
        return;
    if (deputy_register(engine, provider, NULL) != DEPUTY_OK) {
        deputy_provider_unref(provider);
        return;
    }
    deputy_register_failover(engine, llm, name, NULL);
}

static void run_one(deputy_engine *engine, const char *llm, deputy_provider *primary, const char *text)
{
    deputy_reply reply = DEPUTY_INIT(deputy_reply);
    deputy_error error = {0};
    static const deputy_header fields[] = {{"x-one", "1"}, {"content-type", "application/json"}};
    deputy_request request = {.size = sizeof(request),
                              .llm = llm,
                              .primary = primary,
                              .body = text,
                              .body_len = strlen(text),
                              .headers = fields,
                              .n_headers = 2};
    tickets = 0;
    int code = deputy_run(engine, &request, &reply, &error);
    if (code == DEPUTY_OK && reply.outcome.failover && reply.outcome.verdict != DEPUTY_ALLOWED)
        is_wrong("%s: a stand-in answered, the verdict is %s", llm, deputy_verdict_name(reply.outcome.verdict));
    if (code != DEPUTY_OK && !error.message[0])
        is_wrong("%s: code %d without a word", llm, code);
    deputy_reply_clear(&reply);
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    (void)outcome;
    ++*(int *)user;
}

static void start_and_cancel(deputy_engine *engine, deputy_provider *primary)
{
    int ended = 0;
    deputy_run_id id;
    deputy_sink sink = {.size = sizeof(sink), .user = &ended, .on_end = on_end};
    deputy_request request = {.size = sizeof(request), .llm = "m", .primary = primary};
    tickets = 0;
    if (deputy_start(engine, &request, &sink, &id, NULL) != DEPUTY_OK)
        return;
    deputy_cancel(engine, id);
    while (ended == 0)
        deputy_pump(engine);
    if (ended != 1)
        is_wrong("on_end was called %d times", ended);
}

static int count_entry(void *user, const char *llm, const char *provider)
{
    (void)llm, (void)provider;
    ++*(int *)user;
    return 0;
}

static void life_in_memory(const struct loopback *l)
{
    char url[64];
    (void)l;
    deputy_options options = options_of(url, sizeof(url), NULL);
    deputy_provider *primary = NULL, *echo = NULL;
    deputy_engine *engine;
    deputy_error error = {0};
    deputy_verdict verdict;
    int entries = 0;
    if (deputy_engine_new(&options, &engine, &error) != DEPUTY_OK) {
        if (engine || !error.message[0])
            is_wrong("no engine: '%s'", error.message);
        return;
    }
    deputy_load_policy_text(engine, "router.lua", router, router_len, &error);
    deputy_provider_new("down", &down, NULL, &primary, NULL);
    give(engine, "whole", &whole, "m");
    give(engine, "streams", &streams, "s");
    give(engine, "blocks", &blocks, "b");
    if (deputy_echo_new("echo", &echo, NULL) == DEPUTY_OK && deputy_register(engine, echo, NULL) != DEPUTY_OK)
        deputy_provider_unref(echo);
    deputy_register_failover(engine, "e", "echo", NULL);
    if (primary) {
        run_one(engine, "m", primary, body);
        run_one(engine, "s", primary, stream_body);
        run_one(engine, "b", primary, body);
        start_and_cancel(engine, primary);
    }
    deputy_check_auth(engine, "m", NULL, &verdict, NULL, NULL);
    if (verdict == DEPUTY_ALLOWED && probe_status != 204)
        is_wrong("allowed, but the probe said %d", probe_status);
    deputy_load_policy_text(engine, "busy.lua", busy_script, sizeof(busy_script) - 1, &error);
    if (primary) {
        run_one(engine, "m", primary, body);
        run_one(engine, "s", primary, stream_body);
        tickets = 1; /* echo counts nothing */
        run_one(engine, "e", primary, body);
    }
    deputy_list_failovers(engine, count_entry, &entries);
    deputy_unregister(engine, "whole", NULL);
    deputy_engine_free(engine);
    deputy_provider_unref(primary);
}

/* The same over sockets; the engine, its policy and its providers are made before the first allocation fails when it is
 * ours: life_in_memory tries these. */
static void life_on_loopback(const struct loopback *l)
{
    char url[64], local[80];
    deputy_options options = options_of(url, sizeof(url), l);
    deputy_openai_options openai = DEPUTY_INIT(deputy_openai_options);
    deputy_provider *provider;
    deputy_engine *engine = NULL;
    deputy_verdict verdict;
    bool available;
    snprintf(local, sizeof(local), "%s/v1", url);
    openai.name = "local";
    openai.url = local;
    openai.model = "small";
    openai.api_key = "key";
    if (plan.whose == OURS)
        fail_allocation(0, false);
    if (deputy_engine_new(&options, &engine, NULL) != DEPUTY_OK)
        return;
    deputy_load_policy_text(engine, "router.lua", router, router_len, NULL);
    if (plan.whose == OURS)
        arm();
    if (deputy_openai_new(&openai, &provider, NULL) == DEPUTY_OK &&
        deputy_register(engine, provider, NULL) != DEPUTY_OK)
        deputy_provider_unref(provider);
    for (int i = 0; i < 2; i++) {
        char llm[16], text[128];
        run_number++;
        snprintf(llm, sizeof(llm), "r%u", run_number);
        snprintf(text, sizeof(text), "{\"model\":\"m\",\"user\":\"%s\",\"messages\":[]}", llm);
        deputy_register_failover(engine, llm, "local", NULL);
        run_one(engine, llm, NULL, text);
    }
    deputy_check_auth(engine, "m", NULL, &verdict, NULL, NULL);
    if (verdict == DEPUTY_ALLOWED && l->state->probe_status != 204)
        is_wrong("allowed, but the probe said %d", l->state->probe_status);
    deputy_is_available(engine, "local", 500, &available, NULL);
    deputy_engine_free(engine);
}

/* A script that is not fail-closed is never taken, with or without memory. */
static void life_of_verify(const struct loopback *l)
{
    static const char open_script[] = "return { should_failover = function() return true end,\n"
                                      "verdict = function() return 'allowed' end,\n"
                                      "route = function(run) return run:complete(run:failover()) end }\n";
    char url[64];
    (void)l;
    deputy_options options = options_of(url, sizeof(url), NULL);
    deputy_engine *engine;
    options.verify = DEPUTY_VERIFY_REFUSE;
    options.gate = DEPUTY_GATE_POLICY;
    if (deputy_engine_new(&options, &engine, NULL) != DEPUTY_OK)
        return;
    if (deputy_load_policy_text(engine, "open.lua", open_script, sizeof(open_script) - 1, NULL) == DEPUTY_OK)
        is_wrong("a script that is not fail-closed was taken");
    deputy_engine_free(engine);
}

/* ---- every number ---------------------------------------------------------------------------------------------------
 */

static long stride(void)
{
    const char *text = getenv("OOM_STRIDE");
    long n = text ? strtol(text, NULL, 10) : 23;
    return n > 0 ? n : 1;
}

static long next_number(long number, long step)
{
    if (step == 0)
        return number + number / 2 + 1;
    return number + (number < ALL_UP_TO ? 1 : step);
}

static void try_all(enum whose whose, bool on, void (*life)(const struct loopback *), const struct loopback *l)
{
    long tried = 0, step = life == life_of_verify && stride() > 1 ? 0 : stride();
    wrong = 0;
    struct timespec begin, end;
    plan.whose = whose;
    plan.on = on;
    plan.number = 0; /* once without any, to warm what stays for good */
    arm();
    life(l);
    long row = disarm();
    for (plan.number = 1; plan.number < NUMBER_MAX; plan.number = next_number(plan.number, step)) {
        long ours = live_blocks, curls = of_curl.live, uvs = of_uv.live;
        alarm(PATIENCE_S);
        clock_gettime(CLOCK_MONOTONIC, &begin);
        arm();
        life(l);
        long count = disarm();
        clock_gettime(CLOCK_MONOTONIC, &end);
        alarm(0);
        tried++;
        double took = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
        if (took > 0.5 && getenv("OOM_VERBOSE"))
            print_message("# allocation %ld of %s: %.1f s\n", plan.number, whose_names[whose], took);
        if (live_blocks != ours || of_curl.live != curls || of_uv.live != uvs)
            fail_msg("allocation %ld of %s fails%s: blocks not given back: ours %ld, libcurl's %ld, libuv's %ld",
                     plan.number, whose_names[whose], on ? ", and all after it" : "", live_blocks - ours,
                     of_curl.live - curls, of_uv.live - uvs);
        if (wrong > 0)
            fail_msg("allocation %ld of %s fails%s: %s", plan.number, whose_names[whose],
                     on ? ", and all after it" : "", wrongs);
        /* how many an exchange takes depends a little on how its bytes arrive */
        if (count < plan.number && plan.number > row + BEYOND)
            break;
    }
    print_message("# %ld of %ld allocations, %lu dispatches so far\n", tried, row, dispatches);
    assert_true(plan.number < NUMBER_MAX);
}

static void in_memory(enum whose whose)
{
    for (int on = 0; on < 2; on++) {
        probe_status = 204;
        try_all(whose, on, life_in_memory, NULL);
        assert_true(dispatches > 0);
        unsigned long before = dispatches;
        probe_status = 403;
        try_all(whose, on, life_in_memory, NULL);
        assert_int_equal(dispatches, before);
    }
}

static void on_loopback(enum whose whose)
{
    struct loopback l = loopback_start(503, 204, 200);
    l.state->padding = 40000; /* more than libcurl reads at once: it must know how large its buffer is */
    run_number = 0;
    try_all(whose, false, life_on_loopback, &l);
    try_all(whose, true, life_on_loopback, &l);
    assert_true(l.state->locals > 0);
    l.state->probe_status = 403;
    try_all(whose, false, life_on_loopback, &l);
    try_all(whose, true, life_on_loopback, &l);
    assert_true(run_number < LOOPBACK_NUMBERS);
    usleep(100000); /* what was sent last may not have been read yet */
    for (unsigned i = 0; i <= run_number; i++)
        if (l.state->locals_of[i] > l.state->allowed_of[i])
            fail_msg("run %u of those with failing allocations of %s: %d dispatches, %d clean 2xx", i,
                     whose_names[whose], l.state->locals_of[i], l.state->allowed_of[i]);
    loopback_stop(&l);
}

static void ours_in_memory(void **state)
{
    (void)state;
    in_memory(OURS);
}

static void ours_on_loopback(void **state)
{
    (void)state;
    on_loopback(OURS);
}

static void libcurls_on_loopback(void **state)
{
    (void)state;
    on_loopback(CURLS);
}

static void ours_while_verifying(void **state)
{
    (void)state;
    probe_status = 204;
    try_all(OURS, false, life_of_verify, NULL);
    try_all(OURS, true, life_of_verify, NULL);
}

static void libuvs(void **state)
{
    (void)state;
    in_memory(UVS);
    on_loopback(UVS);
}

static bool read_router(void)
{
    FILE *file = fopen("lua/router.lua", "rb");
    router = __real_malloc(1 << 20);
    if (!file || !router)
        return false;
    router_len = fread(router, 1, 1 << 20, file);
    fclose(file);
    return router_len > 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ours_in_memory),       cmocka_unit_test(ours_on_loopback),
        cmocka_unit_test(libcurls_on_loopback), cmocka_unit_test(libuvs),
        cmocka_unit_test(ours_while_verifying),
    };
    signal(SIGALRM, on_alarm);
    if (!read_router() || uv_replace_allocator(uv_malloc_, uv_realloc_, uv_calloc_, uv_free_) != 0 ||
        curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_malloc_, curl_free_, curl_realloc_, curl_strdup_,
                             curl_calloc_) != CURLE_OK) {
        fprintf(stderr, "oom_test: cannot be set up; run it from the top of the tree\n");
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    curl_global_cleanup();
    __real_free(router);
    return failed;
}
