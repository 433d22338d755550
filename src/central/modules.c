#include "central/modules.h"

#include <lauxlib.h>
#include <string.h>

static void set_path(lua_State *L, int package, const char *name, const char *first)
{
    luaL_Buffer path;
    lua_getfield(L, package, name);
    const char *given = lua_tostring(L, -1);
    luaL_buffinit(L, &path);
    luaL_addstring(&path, first);
    for (size_t n; *given; given += n + (given[n] == ';')) {
        n = strcspn(given, ";");
        if (given[0] != '/')
            continue;
        luaL_addchar(&path, ';');
        luaL_addlstring(&path, given, n);
    }
    luaL_pushresult(&path);
    lua_setfield(L, package, name);
    lua_pop(L, 1);
}

void modules_find_in(lua_State *L, const char *dir)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "package");
    lua_pushfstring(L, "%s/?.lua", dir);
    set_path(L, lua_gettop(L) - 1, "path", lua_tostring(L, -1));
    lua_pop(L, 1);
    set_path(L, lua_gettop(L), "cpath", "");
    lua_pop(L, 2);
}
