/* The whole decision in memory: the primary fails, the probe allows, the local provider answers, all of them functions
 * of this process. Against it, a bare coroutine: create, resume, yield, resume in the same Lua. Both in small batches
 * that take turns, so that what else the machine does falls on both; the best of three medians. */
#include "figures.h"

#include <lauxlib.h>
#include <lualib.h>

enum { BATCH = 100, BATCHES = 1001, TRIES = 3 };

static double bare(lua_State *L)
{
    double began = now_us();
    for (int i = 0; i < BATCH; i++)
        lua_getglobal(L, "bare"), lua_call(L, 0, 0);
    return (now_us() - began) / BATCH;
}

static double decide(deputy_engine *engine, const deputy_request *request)
{
    deputy_error error = {0};
    double began = now_us();
    for (int i = 0; i < BATCH; i++) {
        deputy_reply reply = DEPUTY_INIT(deputy_reply);
        must(deputy_run(engine, request, &reply, &error), &error);
        if (!reply.outcome.failover)
            exit(1);
        deputy_reply_clear(&reply);
    }
    return (now_us() - began) / BATCH;
}

int main(void)
{
    static const deputy_provider_vtable failing = FIGURES_VTABLE(figures_fail),
                                        answering = FIGURES_VTABLE(figures_answer);
    static double ours[BATCHES], theirs[BATCHES];
    double best = 0, best_ratio = 0, best_bare = 0;
    deputy_error error = {0};
    deputy_engine *engine = figures_engine(NULL);
    deputy_provider *primary = figures_provider("down", &failing, NULL);
    must(deputy_register(engine, figures_provider("local", &answering, NULL), &error), &error);
    must(deputy_register_failover(engine, "claude", "local", &error), &error);
    deputy_request request = DEPUTY_INIT(deputy_request);
    request.llm = "claude";
    request.primary = primary;
    request.stream = DEPUTY_STREAM_NO;

    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    if (luaL_dostring(L, "function bare() local co = coroutine.create(function() coroutine.yield() end) "
                         "coroutine.resume(co) coroutine.resume(co) end"))
        return 1;
    for (int t = 0; t < TRIES; t++) {
        for (int b = 0; b < BATCHES; b++) {
            ours[b] = decide(engine, &request);
            theirs[b] = bare(L);
        }
        double whole = median(ours, BATCHES), coroutine = median(theirs, BATCHES);
        if (t == 0 || whole / coroutine < best_ratio) {
            best = whole;
            best_bare = coroutine;
            best_ratio = whole / coroutine;
        }
    }
    figure("whole decision in memory, median", best, "us", 10);
    figure("  a bare coroutine in the same Lua, median", best_bare, "us", 0);
    figure("  the decision in bare coroutines", best_ratio, "x", 4);
    lua_close(L);
    deputy_provider_unref(primary);
    deputy_engine_free(engine);
    return figures_over;
}
