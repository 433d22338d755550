#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

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
    type_register(L, POLICY_TYPE_CANDIDATE, "deputy.candidate", index_candidate, candidate_tostring, NULL);
    lua_createtable(L, 0, 1);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    policy_keep(L, POLICY_CANDIDATES);
}

/* One object for each name, as long as a script holds it or the collector has not come by. */
void lua_candidate_push(lua_State *L, const char *name)
{
    size_t size = strlen(name) + 1;
    policy_push(L, POLICY_CANDIDATES);
    lua_pushstring(L, name);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL) {
        lua_pop(L, 1);
        memcpy(type_push(L, POLICY_TYPE_CANDIDATE, size), name, size);
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, -5);
    }
    lua_replace(L, -3);
    lua_pop(L, 1);
}

const char *lua_candidate_name(lua_State *L, int index)
{
    size_t len;
    if (lua_type(L, index) == LUA_TSTRING) {
        const char *name = lua_tolstring(L, index, &len);
        return strlen(name) == len ? name : ""; /* with a NUL in it, it is nobody's */
    }
    return type_test(L, index, POLICY_TYPE_CANDIDATE);
}
