/* Providers made in C, as Lua sees them. Each also works by itself, through an engine without a policy that a Lua state
 * makes when it first needs one. */
#include "deputy/provider.h"

#include "base/error.h"
#include "lua/lua_host.h"

#include <string.h>

/* ---- the engine for providers by themselves ---------------------------------------------------------------------- */

struct solo {
    deputy_engine *engine;
};

static const char solo_key;

static int close_solo(lua_State *L)
{
    struct solo *solo = lua_touserdata(L, 1);
    deputy_engine_free(solo->engine);
    solo->engine = NULL;
    return 0;
}

static deputy_engine *solo_engine(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &solo_key) == LUA_TUSERDATA) {
        deputy_engine *engine = ((struct solo *)lua_touserdata(L, -1))->engine;
        lua_pop(L, 1);
        if (!engine)
            luaL_error(L, "this Lua state is being closed");
        return engine;
    }
    lua_pop(L, 1);
    struct solo *solo = lua_newuserdatauv(L, sizeof(*solo), 0);
    solo->engine = NULL;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, close_solo);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    deputy_options options = DEPUTY_INIT(deputy_options);
    deputy_error error = {0};
    if (engine_new(&options, NULL, &solo->engine, &error) != DEPUTY_OK)
        luaL_error(L, "%s", error.message);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &solo_key);
    return solo->engine;
}

/* ---- methods ----------------------------------------------------------------------------------------------------- */

struct lua_provider *provider_test(lua_State *L, int index)
{
    return luaL_testudata(L, index, PROVIDER_TYPE);
}

static deputy_provider *check_self(lua_State *L)
{
    const struct lua_provider *p = self_check(L, PROVIDER_TYPE, "provider");
    if (!p->provider)
        luaL_error(L, "this provider is closed");
    return p->provider;
}

/* provider:complete(body) or provider:complete{ body =, endpoint =, stream =, headers = } */
static int complete(lua_State *L)
{
    static const char *const known[] = {"body", "endpoint", "stream", "headers", "llm", "whole", "total_ms", NULL};
    deputy_provider *provider = check_self(L);
    deputy_request request = DEPUTY_INIT(deputy_request);
    deputy_error error = {0};
    lua_settop(L, 2);
    if (lua_istable(L, 2) && lua_getfield(L, 2, "body") == LUA_TSTRING) {
        request_read(L, 2, "provider:complete", known, &request);
    } else {
        if (lua_istable(L, 2))
            json_encode(L, 2);
        else if (lua_type(L, 2) != LUA_TSTRING)
            luaL_error(L, "provider:complete: expected a body (a string or a table), got a %s", luaL_typename(L, 2));
        else
            lua_pushvalue(L, 2);
        request.body = lua_tolstring(L, -1, &request.body_len);
    }
    request.llm = request.llm ? request.llm : deputy_provider_name(provider);
    request.primary = provider;
    deputy_engine *engine = solo_engine(L);
    deputy_reply *reply = reply_box(L);
    int code = deputy_run(engine, &request, reply, &error);
    if (code == DEPUTY_OK) {
        reply_push(L, reply);
        deputy_reply_clear(reply);
        return 1;
    }
    bool over_limit = code == DEPUTY_ELIMIT;
    if (code != DEPUTY_EFAILED && code != DEPUTY_ECANCELED && !over_limit)
        return luaL_error(L, "%s", error.message);
    deputy_failure limit;
    failure_set(&limit, DEPUTY_FAILURE_LIMIT, 0, "", "%s", error.message);
    lua_pushnil(L);
    failure_push(L, over_limit ? &limit : reply->outcome.failure);
    if (reply->status && !over_limit)
        reply_push(L, reply);
    else
        lua_pushnil(L);
    deputy_reply_clear(reply);
    return 3;
}

/* A query needs a registered provider: it is registered for the moment. Nothing else can run on this engine meanwhile.
 */
static int enlist(deputy_engine *engine, deputy_provider *provider, deputy_error *error)
{
    int code = registry_add(engine->registry, deputy_provider_ref(provider), error);
    if (code != DEPUTY_OK)
        deputy_provider_unref(provider);
    return code;
}

struct names {
    lua_State *L;
    int list;
    int status; /* not LUA_OK: the error value is on top */
    const char *name;
};

static int add_name(lua_State *L)
{
    const struct names *names = lua_touserdata(L, 2);
    lua_pushstring(L, names->name);
    lua_rawseti(L, 1, (lua_Integer)lua_rawlen(L, 1) + 1);
    return 0;
}

static void each_model(void *user, const char *model)
{
    struct names *names = user;
    if (names->status != LUA_OK)
        return;
    names->name = model;
    lua_pushcfunction(names->L, add_name);
    lua_pushvalue(names->L, names->list);
    lua_pushlightuserdata(names->L, names);
    names->status = lua_pcall(names->L, 2, 0, 0);
}

static int list_models(lua_State *L)
{
    deputy_provider *provider = check_self(L);
    deputy_engine *engine = solo_engine(L);
    deputy_error error = {0};
    deputy_failure failure = {.kind = DEPUTY_FAILURE_ERROR, .retry_after_ms = -1};
    lua_settop(L, 1);
    lua_newtable(L);
    struct names names = {.L = L, .list = 2};
    int code = enlist(engine, provider, &error);
    if (code == DEPUTY_OK) {
        code = deputy_list_models(engine, deputy_provider_name(provider), 0, each_model, &names, &error);
        registry_remove(engine->registry, deputy_provider_name(provider), NULL);
    }
    if (names.status != LUA_OK)
        return lua_error(L);
    if (code == DEPUTY_OK)
        return 1;
    if (code != DEPUTY_EFAILED)
        return luaL_error(L, "%s", error.message);
    memcpy(failure.message, error.message, sizeof(failure.message) - 1);
    lua_pushnil(L);
    failure_push(L, &failure);
    return 2;
}

static int is_available(lua_State *L)
{
    deputy_provider *provider = check_self(L);
    deputy_engine *engine = solo_engine(L);
    deputy_error error = {0};
    bool available = false;
    int code = enlist(engine, provider, &error);
    if (code == DEPUTY_OK) {
        code = deputy_is_available(engine, deputy_provider_name(provider), 0, &available, &error);
        registry_remove(engine->registry, deputy_provider_name(provider), NULL);
    }
    if (code != DEPUTY_OK)
        return luaL_error(L, "%s", error.message);
    lua_pushboolean(L, available);
    if (available)
        return 1;
    lua_pushstring(L, error.message);
    return 2;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

static struct lua_provider *push_provider(lua_State *L)
{
    struct lua_provider *p = lua_newuserdatauv(L, sizeof(*p), 0);
    p->provider = NULL;
    luaL_setmetatable(L, PROVIDER_TYPE);
    return p;
}

int provider_openai(lua_State *L)
{
    static const char what[] = "deputy.openai";
    static const char *const known[] = {"name", "url", "model", "api_key", "ca_file", NULL};
    deputy_openai_options options = DEPUTY_INIT(deputy_openai_options);
    deputy_error error = {0};
    if (!lua_istable(L, 1))
        luaL_error(L, "deputy.openai: expected { name =, url =, model =, api_key =, ca_file = }, got a %s",
                   luaL_typename(L, 1));
    options_check(L, 1, what, known);
    options.name = option_string(L, 1, what, "name");
    options.url = option_string(L, 1, what, "url");
    options.model = option_string(L, 1, what, "model");
    options.api_key = option_string(L, 1, what, "api_key");
    options.ca_file = option_string(L, 1, what, "ca_file");
    struct lua_provider *p = push_provider(L);
    if (deputy_openai_new(&options, &p->provider, &error) != DEPUTY_OK)
        luaL_error(L, "deputy.openai: %s", error.message);
    return 1;
}

int provider_echo(lua_State *L)
{
    size_t len;
    deputy_error error = {0};
    if (lua_type(L, 1) != LUA_TSTRING)
        luaL_error(L, "deputy.echo: expected a name, a string, got a %s", luaL_typename(L, 1));
    const char *name = lua_tolstring(L, 1, &len);
    if (strlen(name) != len)
        luaL_error(L, "deputy.echo: the name holds a NUL byte");
    struct lua_provider *p = push_provider(L);
    if (deputy_echo_new(name, &p->provider, &error) != DEPUTY_OK)
        luaL_error(L, "deputy.echo: %s", error.message);
    return 1;
}

/* provider.name is a string, as it is in a provider that is a table; the rest are methods. */
static int index_provider(lua_State *L)
{
    const struct lua_provider *p = luaL_checkudata(L, 1, PROVIDER_TYPE);
    lua_settop(L, 2);
    if (lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "name") == 0 && p->provider)
        lua_pushstring(L, deputy_provider_name(p->provider));
    else
        lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static int close_provider(lua_State *L)
{
    struct lua_provider *p = luaL_checkudata(L, 1, PROVIDER_TYPE);
    deputy_provider_unref(p->provider);
    p->provider = NULL;
    return 0;
}

static int provider_tostring(lua_State *L)
{
    const struct lua_provider *p = luaL_checkudata(L, 1, PROVIDER_TYPE);
    lua_pushfstring(L, "deputy.provider: %s", p->provider ? deputy_provider_name(p->provider) : "closed");
    return 1;
}

void provider_type(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"complete", complete}, {"list_models", list_models}, {"is_available", is_available}, {NULL, NULL}};
    luaL_newmetatable(L, PROVIDER_TYPE);
    luaL_newlib(L, methods);
    lua_pushcclosure(L, index_provider, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, provider_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushcfunction(L, close_provider);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__gc");
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
}
