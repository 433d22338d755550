/* require "deputy": everything of lua/deputy/meta.lua but the part that policies see. */
#include "lua/lua_host.h"

void *self_check(lua_State *L, const char *type, const char *word)
{
    void *self = luaL_testudata(L, 1, type);
    if (!self)
        luaL_error(L, "expected a %s as the first argument, got a %s: call its methods with a colon, as in %s:method()",
                   word, luaL_typename(L, 1), word);
    return self;
}

DEPUTY_API int luaopen_deputy(lua_State *L);

int luaopen_deputy(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"registry", registry_make},
        {"router", router_make},
        {"openai", provider_openai},
        {"echo", provider_echo},
        {NULL, NULL},
    };
    luaL_checkversion(L);
    failure_type(L);
    trace_type(L);
    registry_type(L);
    provider_type(L);
    router_type(L);
    luaL_newlib(L, functions);
    lua_pushliteral(L, DEPUTY_VERSION);
    lua_setfield(L, -2, "version");
    return 1;
}
