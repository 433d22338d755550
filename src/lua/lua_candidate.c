#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

static const char key;

static int index_candidate(lua_State *L)
{
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(name, "name") == 0)
        lua_pushstring(L, lua_touserdata(L, 1));
    else
        lua_pushnil(L);
    return 1;
}

static int candidate_tostring(lua_State *L)
{
    lua_pushstring(L, lua_touserdata(L, 1));
    return 1;
}

void lua_candidate_open(lua_State *L)
{
    type_register(L, &key, "deputy.candidate", index_candidate, candidate_tostring, NULL);
}

void lua_candidate_push(lua_State *L, const char *name)
{
    size_t size = strlen(name) + 1;
    memcpy(type_push(L, &key, size), name, size);
}

const char *lua_candidate_name(lua_State *L, int index)
{
    if (lua_type(L, index) == LUA_TSTRING)
        return lua_tostring(L, index);
    return type_test(L, index, &key);
}
