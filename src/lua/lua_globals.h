/* lua/lua_globals.h - what a policy script finds besides Lua's own libraries: now, time, random, count, log, print,
 * require, JSON and settings. */
#ifndef LUA_GLOBALS_H
#define LUA_GLOBALS_H

#include <lauxlib.h>

/* Adds them to the table on top of the stack. settings is a JSON object's text. May raise. */
void lua_globals_add(lua_State *L, const char *settings);

/* Pushes a require for modules deputy.*, which come from the library itself: each is loaded once, and sees the table on
 * top of the stack as its globals. May raise. */
void lua_globals_push_require(lua_State *L);

#endif
