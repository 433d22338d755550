/* Loading a policy: the libraries a script may use, and the two public functions that load one. */
#include "base/error.h"
#include "core/engine.h"
#include "lua/lua_globals.h"
#include "lua/lua_values.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCRIPT_MAX = 1 << 20 };

/* ---- what a script may call --------------------------------------------------------------------------------------- */

static int safe_setmetatable(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (lua_istable(L, 2)) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(L, "a policy may not set __gc: a finalizer runs outside every budget");
        lua_pop(L, 1);
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static int safe_load(lua_State *L)
{
    lua_settop(L, 4);
    bool has_env = !lua_isnil(L, 4);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_pushliteral(L, "t"); /* bytecode is not checked by Lua and can do anything */
    if (has_env)
        lua_pushvalue(L, 4);
    lua_call(L, has_env ? 4 : 3, LUA_MULTRET);
    return lua_gettop(L) - 4;
}

/* The run's own coroutine is the engine's to resume: a script never gets hold of it. */
static int safe_running(lua_State *L)
{
    if (L == policy_running(L)) {
        lua_pushnil(L);
        lua_pushboolean(L, 1);
        return 2;
    }
    lua_pushthread(L);
    lua_pushboolean(L, 0);
    return 2;
}

static void wrap(lua_State *L, const char *library, const char *name, lua_CFunction with)
{
    lua_getglobal(L, library);
    lua_getfield(L, -1, name);
    lua_pushcclosure(L, with, 1);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

static void remove_fields(lua_State *L, const char *library, const char *const *names)
{
    lua_getglobal(L, library);
    for (; *names; names++) {
        lua_pushnil(L);
        lua_setfield(L, -2, *names);
    }
    lua_pop(L, 1);
}

static void open_libraries(lua_State *L)
{
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},          {LUA_STRLIBNAME, luaopen_string}, {LUA_TABLIBNAME, luaopen_table},
        {LUA_MATHLIBNAME, luaopen_math},    {LUA_UTF8LIBNAME, luaopen_utf8},  {LUA_COLIBNAME, luaopen_coroutine},
        {LUA_OSLIBNAME, luaopen_os},
    };
    static const char *const no_base[] = {"dofile", "loadfile", "collectgarbage", "warn", NULL};
    static const char *const no_string[] = {"dump", NULL};
    static const char *const no_os[] = {"execute", "exit", "getenv", "remove", "rename", "setlocale", "tmpname", NULL};
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    remove_fields(L, LUA_GNAME, no_base);
    remove_fields(L, LUA_STRLIBNAME, no_string);
    remove_fields(L, LUA_OSLIBNAME, no_os);
    wrap(L, LUA_GNAME, "setmetatable", safe_setmetatable);
    wrap(L, LUA_GNAME, "load", safe_load);
    wrap(L, LUA_COLIBNAME, "running", safe_running);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
}

static int open_all(lua_State *L)
{
    const char *settings = lua_tostring(L, 1);
    open_libraries(L);
    lua_failure_open(L);
    lua_probe_open(L);
    lua_reply_open(L);
    lua_candidate_open(L);
    lua_run_open(L);
    lua_pushglobaltable(L);
    lua_globals_add(L, settings);
    return 0;
}

/* ---- public ------------------------------------------------------------------------------------------------------- */

int deputy_load_policy_text(deputy_engine *engine, const char *name, const char *text, size_t len, deputy_error *error)
{
    static const struct policy_bindings bindings = {.open = open_all, .route = lua_run_route, .verdict = lua_run_verdict};
    struct policy *policy;
    int code = engine_enter(engine, false, error);
    if (code != DEPUTY_OK)
        return code;
    if (len > SCRIPT_MAX)
        return error_set(error, DEPUTY_ELIMIT, "%s: a policy has at most %d bytes, this one has %zu", name, SCRIPT_MAX, len);
    code = policy_load(name, text, len, &engine->options.limits, engine->options.policy_settings, &bindings, engine,
                       &policy, error);
    if (code != DEPUTY_OK)
        return code;
    policy_unref(engine->policy); /* runs in flight hold their own reference */
    engine->policy = policy;
    return DEPUTY_OK;
}

int deputy_load_policy(deputy_engine *engine, const char *path, deputy_error *error)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(error, DEPUTY_EIO, "cannot read the policy %s: no such file, or not readable", path);
    char *text = malloc(SCRIPT_MAX + 1);
    size_t len = text ? fread(text, 1, SCRIPT_MAX + 1, file) : 0;
    int code = !text ? error_set(error, DEPUTY_ENOMEM, "out of memory while reading %s", path)
               : ferror(file)
                   ? error_set(error, DEPUTY_EIO, "cannot read the policy %s: it is a directory or unreadable", path)
                   : deputy_load_policy_text(engine, path, text, len, error);
    free(text);
    fclose(file);
    return code;
}
