/* lua/lua_type.h - the userdata types of a policy's Lua state: made once, told apart by the address of a key. */
#ifndef LUA_TYPE_H
#define LUA_TYPE_H

#include <lauxlib.h>

/* Registers a type: name is what scripts see in messages, index is its __index (called with the object and a key),
 * methods (may be NULL) are what index finds as its first upvalue. May raise. */
static inline void type_register(lua_State *L, const void *key, const char *name, lua_CFunction index,
                                 lua_CFunction tostring, const luaL_Reg *methods)
{
    lua_createtable(L, 0, 4);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_newtable(L);
    if (methods)
        luaL_setfuncs(L, methods, 0);
    lua_pushcclosure(L, index, 1);
    lua_setfield(L, -2, "__index");
    if (tostring) {
        lua_pushcfunction(L, tostring);
        lua_setfield(L, -2, "__tostring");
    }
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

/* A new object, its metatable set. May raise. */
static inline void *type_push(lua_State *L, const void *key, size_t size)
{
    void *object = lua_newuserdatauv(L, size, 0);
    lua_rawgetp(L, LUA_REGISTRYINDEX, key);
    lua_setmetatable(L, -2);
    return object;
}

/* The object at index if it is of this type, else NULL. */
static inline void *type_test(lua_State *L, int index, const void *key)
{
    void *object = lua_touserdata(L, index);
    if (!object || lua_islightuserdata(L, index) || !lua_getmetatable(L, index))
        return NULL;
    lua_rawgetp(L, LUA_REGISTRYINDEX, key);
    int same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same ? object : NULL;
}

#endif
