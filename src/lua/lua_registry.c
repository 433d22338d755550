/* The registry as Lua sees it: providers are whatever the host registered, and come back as the very same value. */
#include "lua/lua_host.h"

#include <string.h>

struct lua_registry *registry_check(lua_State *L, int index)
{
    struct lua_registry *r = luaL_testudata(L, index, REGISTRY_TYPE);
    if (!r) {
        luaL_error(L, "expected a registry made by deputy.registry(), got a %s", luaL_typename(L, index));
        return NULL;
    }
    if (!r->registry)
        luaL_error(L, "this registry is closed");
    return r;
}

static struct lua_registry *check_self(lua_State *L)
{
    struct lua_registry *r = self_check(L, REGISTRY_TYPE, "registry");
    if (!r->registry)
        luaL_error(L, "this registry is closed");
    return r;
}

static const char *check_name(lua_State *L, int index, const char *method, const char *what)
{
    size_t len;
    if (lua_type(L, index) != LUA_TSTRING)
        luaL_error(L, "registry:%s: expected %s, a string, got a %s", method, what, luaL_typename(L, index));
    const char *name = lua_tolstring(L, index, &len);
    if (strlen(name) != len)
        luaL_error(L, "registry:%s: %s holds a NUL byte", method, what);
    return name;
}

static int check_code(lua_State *L, int code, const deputy_error *error)
{
    return code == DEPUTY_OK ? 0 : luaL_error(L, "%s", error->message);
}

/* ---- providers --------------------------------------------------------------------------------------------------- */

static void check_function(lua_State *L, const char *name, int required)
{
    int type = lua_getfield(L, 2, name);
    bool callable = type == LUA_TFUNCTION || luaL_getmetafield(L, -1, "__call") != LUA_TNIL;
    if (!callable && (required || type != LUA_TNIL))
        luaL_error(L, "registry:register: %s: expected a function, got a %s", name, lua_typename(L, type));
    lua_settop(L, 2);
}

/* The name of the provider at index 2, which is left on top. */
static const char *read_provider(lua_State *L, deputy_provider **real)
{
    const struct lua_provider *made = provider_test(L, 2);
    if (made && !made->provider)
        luaL_error(L, "registry:register: this provider is closed");
    *real = made ? made->provider : NULL;
    if (!made && !lua_istable(L, 2))
        luaL_error(L,
                   "registry:register: expected a provider, { name =, complete =, list_models =, is_available = } or "
                   "one made by deputy.openai or deputy.echo, got a %s",
                   luaL_typename(L, 2));
    if (!made) {
        check_function(L, "complete", 1);
        check_function(L, "list_models", 0);
        check_function(L, "is_available", 0);
    }
    lua_getfield(L, 2, "name");
    return check_name(L, 3, "register", "the provider's name");
}

static int add_provider(lua_State *L)
{
    struct lua_registry *r = check_self(L);
    deputy_provider *real, *proxy;
    deputy_error error = {0};
    lua_settop(L, 2);
    const char *name = read_provider(L, &real);
    lua_Integer id = ++r->last;
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, id); /* the last that may raise */
    int code = proxy_new(name, id, real, &proxy, &error);
    if (code == DEPUTY_OK) {
        code = registry_add(r->registry, proxy, &error);
        if (code != DEPUTY_OK)
            deputy_provider_unref(proxy);
    }
    if (code != DEPUTY_OK) {
        lua_pushnil(L);
        lua_rawseti(L, -2, id);
    }
    return check_code(L, code, &error);
}

static int remove_provider(lua_State *L)
{
    struct lua_registry *r = check_self(L);
    const char *name = check_name(L, 2, "unregister", "the provider's name");
    deputy_error error = {0};
    const deputy_provider *proxy = registry_find(r->registry, name);
    lua_Integer id = proxy ? proxy_id(proxy) : 0;
    int code = registry_remove(r->registry, name, &error);
    if (code == DEPUTY_OK) {
        lua_getiuservalue(L, 1, 1);
        lua_pushnil(L);
        lua_rawseti(L, -2, id);
    }
    return check_code(L, code, &error);
}

/* ---- walks: what each step pushes may raise, and the walk owns memory, so that each step is protected ------------ */

struct walk {
    lua_State *L;
    int list; /* index of the array to fill */
    const char *llm, *name;
    lua_Integer id;
};

static int step(struct walk *w, lua_CFunction add)
{
    lua_pushcfunction(w->L, add);
    lua_pushvalue(w->L, w->list);
    lua_pushlightuserdata(w->L, w);
    lua_getiuservalue(w->L, 1, 1);
    return lua_pcall(w->L, 3, 0, 0);
}

static int finish_walk(lua_State *L, int code)
{
    if (code == DEPUTY_ENOMEM)
        return luaL_error(L, "out of memory for a list");
    return code == LUA_OK ? 1 : lua_error(L);
}

static int add_entry(lua_State *L)
{
    const struct walk *w = lua_touserdata(L, 2);
    lua_createtable(L, 0, 2);
    lua_pushstring(L, w->llm);
    lua_setfield(L, -2, "llm");
    lua_pushstring(L, w->name);
    lua_setfield(L, -2, "provider");
    lua_rawseti(L, 1, (lua_Integer)lua_rawlen(L, 1) + 1);
    return 0;
}

static int each_failover(void *user, const char *llm, const char *provider)
{
    struct walk *w = user;
    w->llm = llm;
    w->name = provider;
    return step(w, add_entry);
}

static int add_value(lua_State *L)
{
    const struct walk *w = lua_touserdata(L, 2);
    lua_rawgeti(L, 3, w->id);
    lua_rawseti(L, 1, (lua_Integer)lua_rawlen(L, 1) + 1);
    return 0;
}

static int each_provider(void *user, deputy_provider *provider)
{
    struct walk *w = user;
    w->id = proxy_id(provider);
    return step(w, add_value);
}

static int list_failovers(lua_State *L)
{
    const struct lua_registry *r = check_self(L);
    lua_settop(L, 1);
    lua_newtable(L);
    return finish_walk(L, registry_each_failover(r->registry, each_failover, &(struct walk){.L = L, .list = 2}));
}

static int list_providers(lua_State *L)
{
    const struct lua_registry *r = check_self(L);
    lua_settop(L, 1);
    lua_newtable(L);
    return finish_walk(L, registry_each_provider(r->registry, each_provider, &(struct walk){.L = L, .list = 2}));
}

/* ---- the failover map -------------------------------------------------------------------------------------------- */

static int register_failover(lua_State *L)
{
    struct lua_registry *r = check_self(L);
    const char *llm = check_name(L, 2, "register_failover", "the LLM's name");
    const char *name = check_name(L, 3, "register_failover", "the provider's name");
    deputy_error error = {0};
    return check_code(L, registry_map(r->registry, llm, name, &error), &error);
}

static int failover_for(lua_State *L)
{
    const struct lua_registry *r = check_self(L);
    const char *llm = check_name(L, 2, "failover_for", "the LLM's name");
    deputy_provider *const *list;
    if (registry_candidates(r->registry, llm, &list) == 0) {
        lua_pushnil(L);
        return 1;
    }
    lua_getiuservalue(L, 1, 1);
    lua_rawgeti(L, -1, proxy_id(list[0]));
    return 1;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int close_registry(lua_State *L)
{
    struct lua_registry *r = luaL_checkudata(L, 1, REGISTRY_TYPE);
    registry_unref(r->registry);
    r->registry = NULL;
    return 0;
}

int registry_make(lua_State *L)
{
    struct lua_registry *r = lua_newuserdatauv(L, sizeof(*r), 1);
    memset(r, 0, sizeof(*r));
    luaL_setmetatable(L, REGISTRY_TYPE);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    r->registry = registry_new();
    return r->registry ? 1 : luaL_error(L, "out of memory for a registry");
}

void registry_type(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"register", add_provider},
        {"unregister", remove_provider},
        {"register_failover", register_failover},
        {"failover_for", failover_for},
        {"list_failovers", list_failovers},
        {"providers", list_providers},
        {NULL, NULL},
    };
    luaL_newmetatable(L, REGISTRY_TYPE);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, close_registry);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__gc");
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
}
