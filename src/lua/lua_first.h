/* lua/lua_first.h - run:first{...}, a hedge. */
#ifndef LUA_FIRST_H
#define LUA_FIRST_H

#include "core/run.h"

#include <lauxlib.h>

/* The body of run:first: the run at 1, a table of functions at 2. Waits by yielding; may raise. */
int lua_first(lua_State *L, struct run *run);

#endif
