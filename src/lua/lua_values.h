/* lua/lua_values.h - what a script gets to see: a reply, a failure, a probe's answer, a candidate. Each is a copy, so
 * that a script may keep it for as long as it likes. All functions may raise. */
#ifndef LUA_VALUES_H
#define LUA_VALUES_H

#include "core/call.h"

#include <lauxlib.h>

void lua_failure_open(lua_State *L);
void lua_failure_push(lua_State *L, const deputy_failure *failure);

void lua_probe_open(lua_State *L);
void lua_probe_push(lua_State *L, const deputy_probe_answer *answer);

void lua_reply_open(lua_State *L);
void lua_reply_push(lua_State *L, deputy_run_id run, const struct deputy_call *call);
/* The number of the call that the value at index is the reply of, or 0 when it is none of this run. */
unsigned lua_reply_number(lua_State *L, int index, deputy_run_id run);

void lua_candidate_open(lua_State *L);
void lua_candidate_push(lua_State *L, const char *name);
/* The name of the candidate at index (or the string there), or NULL. */
const char *lua_candidate_name(lua_State *L, int index);

void lua_run_open(lua_State *L);
int lua_run_route(lua_State *L);
int lua_run_verdict(lua_State *L);

#endif
