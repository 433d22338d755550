/* lua/lua_pattern.h - string.find, match, gmatch and gsub of Lua 5.4 for scripts that are not trusted: the same
 * patterns, but each step of a match counts against the run's budget (policy_charge), so that no pattern runs longer
 * than a loop may. */
#ifndef LUA_PATTERN_H
#define LUA_PATTERN_H

#include <lauxlib.h>

/* Sets the four in the table on top of the stack. May raise. */
void lua_pattern_add(lua_State *L);

#endif
