/* lua/lua_sandbox.h - the libraries that a policy script may use. */
#ifndef LUA_SANDBOX_H
#define LUA_SANDBOX_H

#include <lauxlib.h>

/* Pushes a fresh environment (_G is itself): base, string, table, math, utf8, coroutine and os with what is safe of
 * each. In a policy's state it is meant to become the globals (LUA_RIDX_GLOBALS); it works in any other state whose
 * extra space is NULL. The state's string metatable then leads to the new string table. May raise. */
void lua_sandbox_push(lua_State *L);

/* Pushes { encode, decode, null }: lua-cjson with bounds. May raise. */
void lua_sandbox_push_json(lua_State *L);

#endif
