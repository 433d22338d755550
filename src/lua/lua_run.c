/* The run as a script sees it: straight-line functions, each of which waits by yielding to the host. */
#include "core/ask.h"
#include "core/run.h"
#include "lua/lua_first.h"
#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

/* Cleared by the core when the run is over. */
struct handle {
    struct run *run;
};

static struct run *check_run(lua_State *L)
{
    const deputy_engine *engine = policy_host(L);
    struct run *run = engine->resumed;
    if (run && run->handle && run->handle == lua_touserdata(L, 1)) /* nearly always, so no look at its type */
        return run;
    const struct handle *h = type_self(L);
    if (!h)
        luaL_error(L, "expected a run as the first argument: call its functions with a colon, as in run:primary()");
    if (!h->run)
        luaL_error(L, "this run is over: a script may not use it later");
    return h->run;
}

/* A function that waits yields to the host; from anywhere else the yield would go astray. */
static struct run *check_waiting_run(lua_State *L, const char *name)
{
    struct run *run = check_run(L);
    if (L != (run->branch ? run->branch : run->thread.co))
        luaL_error(L, "run:%s() was called inside another coroutine: only the run's own may wait", name);
    if (!lua_isyieldable(L))
        luaL_error(L, "run:%s() cannot wait here: a C function such as table.sort or string.gsub is on the stack",
                   name);
    return run;
}

static int wait(lua_State *L, struct run *run, lua_KContext context, lua_KFunction again)
{
    run->waits = true;
    return lua_yieldk(L, 0, context, again);
}

/* The optional table of a leg: timeout_ms, a whole number from 1. */
static uint32_t timeout_of(lua_State *L, int index)
{
    if (lua_isnoneornil(L, index))
        return 0;
    luaL_checktype(L, index, LUA_TTABLE);
    if (lua_getfield(L, index, "timeout_ms") == LUA_TNIL) {
        lua_pop(L, 1);
        return 0;
    }
    lua_Integer ms = luaL_checkinteger(L, -1);
    luaL_argcheck(L, ms >= 1 && ms <= UINT32_MAX, index, "timeout_ms: expected 1 or more milliseconds");
    lua_pop(L, 1);
    return (uint32_t)ms;
}

/* ---- legs ------------------------------------------------------------------------------------------------------- */

static int leg_result(lua_State *L, int status, lua_KContext context)
{
    struct deputy_call *call = (struct deputy_call *)context;
    struct run *run = call->user;
    (void)status;
    switch (call->state) {
    case CALL_OPEN:
        return wait(L, run, context, leg_result);
    case CALL_GOOD:
        lua_reply_push(L, run->id, call);
        return 1;
    case CALL_BAD:
        break;
    }
    lua_pushnil(L);
    lua_failure_push(L, &call->failure);
    return 2;
}

static int leg(lua_State *L, struct deputy_call *call, const deputy_failure *failure)
{
    if (call)
        return leg_result(L, LUA_OK, (lua_KContext)call);
    lua_pushnil(L);
    lua_failure_push(L, failure);
    return 2;
}

static int run_primary_(lua_State *L)
{
    struct run *run = check_waiting_run(L, "primary");
    deputy_failure failure;
    return leg(L, run_primary(run, timeout_of(L, 2), &failure), &failure);
}

static deputy_provider *find_candidate(const struct run *run, const char *name)
{
    deputy_provider *const *list;
    size_t n = registry_candidates(run->engine->registry, run->llm, &list);
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i]->name, name) == 0)
            return list[i];
    return NULL;
}

static int run_complete_(lua_State *L)
{
    struct run *run = check_waiting_run(L, "complete");
    const char *name = lua_candidate_name(L, 2);
    deputy_failure failure = {.kind = DEPUTY_FAILURE_REFUSED, .retry_after_ms = -1};
    if (!name)
        return luaL_error(L, "run:complete(provider): expected what run:failover() or run:candidates() gave, got %s",
                          luaL_typename(L, 2));
    deputy_provider *provider = find_candidate(run, name);
    if (!provider) {
        strcpy(failure.code, "not_registered");
        strcpy(failure.message, "this provider may not stand in for this LLM (it is not registered for it)");
        return leg(L, NULL, &failure);
    }
    return leg(L, run_complete(run, provider, timeout_of(L, 3), &failure), &failure);
}

static int probe_result(lua_State *L, int status, lua_KContext context)
{
    struct asking *asking = (struct asking *)context;
    (void)status;
    if (asking->pending)
        return wait(L, asking->run, context, probe_result);
    lua_probe_push(L, &asking->answer);
    return 1;
}

static int run_probe(lua_State *L)
{
    static const deputy_probe_answer over_limit = {.kind = DEPUTY_PROBE_LIMIT};
    struct run *run = check_waiting_run(L, "probe");
    const char *llm = NULL;
    uint32_t timeout_ms = timeout_of(L, 2);
    if (lua_istable(L, 2) && lua_getfield(L, 2, "llm") != LUA_TNIL)
        llm = luaL_checkstring(L, -1);
    struct asking *asking = ask_central(run, llm, timeout_ms);
    if (asking)
        return probe_result(L, LUA_OK, (lua_KContext)asking);
    lua_probe_push(L, &over_limit);
    return 1;
}

static int nap_result(lua_State *L, int status, lua_KContext context)
{
    struct nap *nap = (struct nap *)context;
    (void)status;
    if (!nap->over)
        return wait(L, nap->run, context, nap_result);
    run_wake_from(nap);
    lua_pushboolean(L, 1);
    return 1;
}

static int run_sleep(lua_State *L)
{
    struct run *run = check_waiting_run(L, "sleep");
    lua_Number ms = luaL_checknumber(L, 2);
    if (!(ms >= 0 && ms <= 86400000))
        return luaL_error(L, "run:sleep(ms): expected 0 to 86400000 milliseconds, got %f", ms);
    struct nap *nap = run_nap(run, (uint64_t)ms);
    if (!nap)
        return luaL_error(L, "run:sleep(ms): too many pauses at once, or out of memory");
    return nap_result(L, LUA_OK, (lua_KContext)nap);
}

/* ---- what does not wait ----------------------------------------------------------------------------------------- */

static int run_failover(lua_State *L)
{
    const struct run *run = check_run(L);
    deputy_provider *const *list;
    if (registry_candidates(run->engine->registry, run->llm, &list) == 0)
        return 0;
    lua_candidate_push(L, list[0]->name);
    return 1;
}

static int run_candidates(lua_State *L)
{
    const struct run *run = check_run(L);
    deputy_provider *const *list;
    size_t n = registry_candidates(run->engine->registry, run->llm, &list);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_candidate_push(L, list[i]->name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int run_log(lua_State *L)
{
    static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
    const struct run *run = check_run(L);
    int level = luaL_checkoption(L, 2, "info", levels);
    engine_log(run->engine, (deputy_log_level)level, "run %llu: %.400s", (unsigned long long)run->id,
               luaL_checkstring(L, 3));
    return 0;
}

static int run_first(lua_State *L)
{
    return lua_first(L, check_waiting_run(L, "first"));
}

static int index_run(lua_State *L)
{
    const struct handle *h = lua_touserdata(L, 1);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    const char *name = type_field(L);
    char caller[RUN_CALLER_SIZE];
    if (!h->run)
        lua_pushnil(L);
    else if (strcmp(name, "llm") == 0)
        lua_pushstring(L, h->run->llm);
    else if (strcmp(name, "endpoint") == 0)
        lua_pushstring(L, h->run->endpoint);
    else if (strcmp(name, "stream") == 0)
        lua_pushboolean(L, h->run->stream);
    else if (strcmp(name, "id") == 0)
        lua_pushinteger(L, (lua_Integer)h->run->id);
    else if (strcmp(name, "caller") == 0 && run_caller(h->run, caller))
        lua_pushstring(L, caller);
    else if (strcmp(name, "deadline") == 0) /* on the clock that the script sees */
        lua_pushnumber(L, (lua_Number)(h->run->start_us + h->run->total_us + gate_now_us() - loop_now_us()) / 1e6);
    else if (strcmp(name, "gate") == 0)
        lua_pushstring(L, h->run->engine->options.gate == DEPUTY_GATE_POLICY ? "policy" : "probe");
    else if (strcmp(name, "attempt") == 0)
        lua_pushinteger(L, h->run->primaries);
    else
        lua_pushnil(L);
    return 1;
}

void lua_run_open(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"primary", run_primary_}, {"failover", run_failover},  {"candidates", run_candidates},
        {"probe", run_probe},      {"complete", run_complete_}, {"log", run_log},
        {"sleep", run_sleep},      {"first", run_first},        {NULL, NULL},
    };
    type_register(L, POLICY_TYPE_RUN, "deputy.run", index_run, NULL, methods);
}

/* ---- the bodies of coroutines -------------------------------------------------------------------------------------
 */

static int route_done(lua_State *L, int status, lua_KContext context)
{
    struct run *run = (struct run *)context;
    (void)status;
    unsigned number = lua_reply_number(L, -2, run->id);
    if (number) {
        run_choose(run, CHOICE_REPLY, run_find_call(run, number));
    } else if (!lua_toboolean(L, -2)) {
        run_choose(run, CHOICE_FAILURE, NULL);
    } else {
        run_choose(run, CHOICE_NONE, NULL);
        run_note(run, "nonsense");
        engine_log(run->engine, DEPUTY_LOG_ERROR,
                   "run %llu: route returned %s; expected a reply of this run, or nil and a failure",
                   (unsigned long long)run->id, luaL_typename(L, -2));
    }
    return 0;
}

int lua_run_route(lua_State *L)
{
    struct run *run = lua_touserdata(L, 1);
    struct handle *handle = type_push(L, POLICY_TYPE_RUN, sizeof(*handle));
    handle->run = run;
    run->handle = handle;
    policy_push(L, POLICY_ROUTE);
    lua_pushvalue(L, 2);
    lua_callk(L, 1, 2, (lua_KContext)run, route_done);
    return route_done(L, LUA_OK, (lua_KContext)run);
}

static int verdict_done(lua_State *L, int status, lua_KContext context)
{
    struct run *run = (struct run *)context;
    size_t len = 0;
    const char *word = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : "";
    (void)status;
    if (strlen(word) != len)
        word = "";
    if (strcmp(word, "allowed") == 0)
        run->script_verdict = DEPUTY_ALLOWED;
    else if (strcmp(word, "forbidden") == 0)
        run->script_verdict = DEPUTY_FORBIDDEN;
    else
        run->script_verdict = DEPUTY_UNREACHABLE;
    return 0;
}

static int verdict_probed(lua_State *L, int status, lua_KContext context)
{
    struct asking *asking = (struct asking *)context;
    (void)status;
    if (asking->pending)
        return wait(L, asking->run, context, verdict_probed);
    policy_push(L, POLICY_VERDICT);
    lua_probe_push(L, &asking->answer);
    lua_callk(L, 1, 1, (lua_KContext)asking->run, verdict_done);
    return verdict_done(L, LUA_OK, (lua_KContext)asking->run);
}

int lua_run_verdict(lua_State *L)
{
    struct asking *asking = ask_central(lua_touserdata(L, 1), NULL, 0);
    if (!asking)
        return luaL_error(L, "out of memory for a probe");
    return verdict_probed(L, LUA_OK, (lua_KContext)asking);
}
