/* lua/lua_type.h - the userdata types of a policy's Lua state: each metatable is made once and kept in a slot. */
#ifndef LUA_TYPE_H
#define LUA_TYPE_H

#include "core/policy.h"

#include <lauxlib.h>
#include <stdbool.h>

/* Registers a type: name is what scripts see in messages, index is its __index (called with the object and a key),
 * methods (may be NULL) are what index finds as its first upvalue; each of them can use type_self. May raise. */
static inline void type_register(lua_State *L, enum policy_slot type, const char *name, lua_CFunction index,
                                 lua_CFunction tostring, const luaL_Reg *methods)
{
    lua_createtable(L, 0, 4);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_newtable(L);
    if (methods) {
        lua_pushvalue(L, -2);
        luaL_setfuncs(L, methods, 1);
    }
    lua_pushcclosure(L, index, 1);
    lua_setfield(L, -2, "__index");
    if (tostring) {
        lua_pushcfunction(L, tostring);
        lua_setfield(L, -2, "__tostring");
    }
    policy_keep(L, type);
}

/* A new object, its metatable set. May raise. */
static inline void *type_push(lua_State *L, enum policy_slot type, size_t size)
{
    void *object = lua_newuserdatauv(L, size, 0);
    policy_push(L, type);
    lua_setmetatable(L, -2);
    return object;
}

/* The object at index if it is of this type, else NULL. */
static inline void *type_test(lua_State *L, int index, enum policy_slot type)
{
    void *object = lua_touserdata(L, index);
    if (!object || lua_islightuserdata(L, index) || !lua_getmetatable(L, index))
        return NULL;
    policy_push(L, type);
    bool same = lua_topointer(L, -1) == lua_topointer(L, -2);
    lua_pop(L, 2);
    return same ? object : NULL;
}

/* The same for argument 1 of a method, without a look into the registry. */
static inline void *type_self(lua_State *L)
{
    void *object = lua_touserdata(L, 1);
    if (!object || !lua_getmetatable(L, 1))
        return NULL;
    bool same = lua_topointer(L, -1) == lua_topointer(L, lua_upvalueindex(1));
    lua_pop(L, 1);
    return same ? object : NULL;
}

/* The key that an __index was asked for; "" when it is not a string, which no field is called. */
static inline const char *type_field(lua_State *L)
{
    const char *name = lua_tostring(L, 2);
    return name ? name : "";
}

#endif
