#include "lua/lua_globals.h"

#include "core/engine.h"
#include "core/gate.h"
#include "lua/lua_embedded.h"
#include "lua/lua_sandbox.h"

#include <string.h>
#include <time.h>

/* ---- clocks, chance, counters -------------------------------------------------------------------------------------
 */

/* The gate's clock: a script that remembers a yes for a while must not remember it over a sleep of the machine. */
static int script_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)gate_now_us() / 1e6);
    return 1;
}

static int script_time(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)time(NULL));
    return 1;
}

/* math.random is seeded by Lua itself at random, once for each state. */
static int script_random(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_call(L, 0, 1);
    return 1;
}

static bool is_word(const char *text, size_t max)
{
    return strlen(text) >= 1 && strlen(text) <= max && strspn(text, COUNTER_NAME_BYTES) == strlen(text);
}

static int script_count(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    lua_Number n = luaL_optnumber(L, 2, 1);
    luaL_argcheck(L, is_word(name, COUNTER_NAME_MAX), 1, "expected a counter's name: 1 to 64 of a-z, 0-9 and _");
    luaL_argcheck(L, n >= 0 && n <= 1e15, 2, "a counter only grows");
    if (engine_count(policy_host(L), name, n) != DEPUTY_OK)
        return luaL_error(L, "count: no room for another counter (at most %d)", COUNTERS_MAX);
    return 0;
}

static int script_state(lua_State *L)
{
    const char *topic = luaL_checkstring(L, 1), *name = luaL_checkstring(L, 2), *word = luaL_optstring(L, 3, NULL);
    lua_Number seconds = luaL_optnumber(L, 4, 0);
    bool ends = !lua_isnoneornil(L, 4);
    luaL_argcheck(L, is_word(topic, STATE_WORD_MAX), 1, "expected a topic: 1 to 32 of a-z, 0-9 and _");
    luaL_argcheck(L, strlen(name) >= 1 && strlen(name) <= STATE_NAME_MAX, 2, "expected a name of 1 to 128 bytes");
    luaL_argcheck(L, !word || is_word(word, STATE_WORD_MAX), 3, "expected a word: 1 to 32 of a-z, 0-9 and _");
    luaL_argcheck(L, seconds >= 0 && seconds <= 1e9, 4, "expected how many seconds that lasts: 0 or more");
    uint64_t until = ends ? loop_now_us() + (uint64_t)(seconds * 1e6) : 0;
    lua_pushboolean(L, states_set(policy_states_here(L), topic, name, word, until));
    return 1;
}

/* ---- words --------------------------------------------------------------------------------------------------------
 */

static int script_log(lua_State *L)
{
    static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
    int level = luaL_checkoption(L, 1, "info", levels);
    engine_log(policy_host(L), (deputy_log_level)level, "policy: %.400s", luaL_checkstring(L, 2));
    return 0;
}

static int script_print(lua_State *L)
{
    engine_log(policy_host(L), DEPUTY_LOG_INFO, "policy: %.400s", luaL_tolstring(L, 1, NULL));
    return 0;
}

/* ---- require ------------------------------------------------------------------------------------------------------
 */

/* Upvalues: the modules loaded so far, and the globals that they see. */
static int script_require(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    if (lua_getfield(L, lua_upvalueindex(1), name) != LUA_TNIL)
        return 1;
    for (const struct embedded *e = lua_embedded; e->name; e++) {
        if (strcmp(e->name, name) != 0)
            continue;
        const char *chunk = lua_pushfstring(L, "=%s", name);
        if (luaL_loadbufferx(L, e->text, e->len, chunk, "t") != LUA_OK)
            return lua_error(L);
        lua_pushvalue(L, lua_upvalueindex(2));
        lua_setupvalue(L, -2, 1);
        lua_call(L, 0, 1);
        lua_pushvalue(L, -1);
        lua_setfield(L, lua_upvalueindex(1), name);
        return 1;
    }
    return luaL_error(
        L, "require: a policy can only require what comes with deputy (deputy.retry, deputy.breaker, ...), not '%s'",
        name);
}

void lua_globals_push_require(lua_State *L)
{
    lua_newtable(L);
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, script_require, 2);
}

/* ---- JSON and settings --------------------------------------------------------------------------------------------
 */

static void add_json(lua_State *L, const char *settings)
{
    lua_sandbox_push_json(L);
    lua_getfield(L, -1, "decode");
    lua_pushstring(L, settings);
    lua_call(L, 1, 1);
    if (!lua_istable(L, -1))
        luaL_error(L, "settings: expected a JSON object, got %s", luaL_typename(L, -1));
    lua_setfield(L, -3, "settings");
    lua_setfield(L, -2, "JSON");
}

void lua_globals_add(lua_State *L, const char *settings)
{
    static const luaL_Reg functions[] = {
        {"now", script_now},
        {"time", script_time},
        {"count", script_count},
        {"state", script_state},
        {"log", script_log},
        {"print", script_print},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
    lua_getfield(L, -1, "math");
    lua_getfield(L, -1, "random");
    lua_pushcclosure(L, script_random, 1);
    lua_setfield(L, -3, "random");
    lua_pop(L, 1);
    lua_globals_push_require(L);
    lua_setfield(L, -2, "require");
    add_json(L, settings);
}
