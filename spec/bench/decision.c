/* The whole decision in memory: the primary fails, the probe allows, the local provider answers, all of them functions of
 * this process. Against it, a bare coroutine: create, resume, yield, resume in the same Lua. */
#include "deputy/provider.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 100, BATCHES = 2001 };

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int fails(void *self, deputy_call *call, const deputy_request *request)
{
    static const deputy_failure down = {.kind = DEPUTY_FAILURE_CONNECT, .retry_after_ms = -1};
    (void)self;
    (void)request;
    return deputy_reply_fail(call, &down);
}

static unsigned long answers;

static int answer(void *self, deputy_call *call, const deputy_request *request)
{
    (void)self;
    (void)request;
    answers++;
    return deputy_reply_end(call);
}

static void allows(void *user, const char *llm, const char *token, deputy_probe_answer *out)
{
    (void)user;
    (void)llm;
    (void)token;
    out->kind = DEPUTY_PROBE_OK;
    out->status = 204;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, BATCHES, sizeof(*v), by_value);
    return v[BATCHES / 2];
}

static void must(int code, const deputy_error *error)
{
    if (code == DEPUTY_OK)
        return;
    fprintf(stderr, "decision: %s\n", error->message);
    exit(1);
}

static double bare(lua_State *L)
{
    double began = now_us();
    for (int i = 0; i < BATCH; i++)
        lua_getglobal(L, "bare"), lua_call(L, 0, 0);
    return (now_us() - began) / BATCH;
}

int main(int argc, char **argv)
{
    static const deputy_provider_vtable failing = {
        .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(failing), .complete = fails};
    static const deputy_provider_vtable answering = {
        .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(answering), .complete = answer};
    deputy_error error = {0};
    deputy_options options = {.size = sizeof(options), .bearer_token = "token", .probe = allows};
    options.verify = DEPUTY_VERIFY_OFF;
    options.policy_settings = "{\"retries\":0,\"breaker\":false}"; /* so that each run asks the primary, once */
    deputy_engine *engine;
    deputy_provider *primary, *local;
    double ours[BATCHES], theirs[BATCHES];

    must(deputy_engine_new(&options, &engine, &error), &error);
    must(deputy_load_policy(engine, argc > 1 ? argv[1] : "lua/router.lua", &error), &error);
    must(deputy_provider_new("down", &failing, NULL, &primary, &error), &error);
    must(deputy_provider_new("local", &answering, NULL, &local, &error), &error);
    must(deputy_register(engine, local, &error), &error);
    must(deputy_register_failover(engine, "claude", "local", &error), &error);

    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    if (luaL_dostring(L, "function bare() local co = coroutine.create(function() coroutine.yield() end) "
                         "coroutine.resume(co) coroutine.resume(co) end"))
        return 1;

    deputy_request request = {.size = sizeof(request), .llm = "claude", .primary = primary, .stream = DEPUTY_STREAM_NO};
    for (int b = 0; b < BATCHES; b++) {
        double began = now_us();
        for (int i = 0; i < BATCH; i++) {
            deputy_reply reply = {.size = sizeof(reply)};
            must(deputy_run(engine, &request, &reply, &error), &error);
            if (!reply.outcome.failover)
                return 1;
            deputy_reply_clear(&reply);
        }
        ours[b] = (now_us() - began) / BATCH;
        theirs[b] = bare(L);
    }
    double whole = median(ours), coroutine = median(theirs);
    printf("decision: %.2f us at the median; bare coroutine %.2f us; ratio %.1f (%lu answers)\n", whole, coroutine,
           whole / coroutine, answers);
    lua_close(L);
    deputy_provider_unref(primary);
    deputy_engine_free(engine);
    return 0;
}
