#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

static const char key;

static int index_failure(lua_State *L)
{
    const deputy_failure *f = lua_touserdata(L, 1);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(name, "kind") == 0)
        lua_pushstring(L, deputy_failure_name(f->kind));
    else if (strcmp(name, "status") == 0 && f->status)
        lua_pushinteger(L, f->status);
    else if (strcmp(name, "code") == 0 && f->code[0])
        lua_pushstring(L, f->code);
    else if (strcmp(name, "message") == 0)
        lua_pushstring(L, f->message);
    else if (strcmp(name, "retry_after") == 0 && f->retry_after_ms >= 0)
        lua_pushnumber(L, (lua_Number)f->retry_after_ms / 1000);
    else
        lua_pushnil(L);
    return 1;
}

static int failure_tostring(lua_State *L)
{
    const deputy_failure *f = lua_touserdata(L, 1);
    lua_pushfstring(L, "%s: %s", deputy_failure_name(f->kind), f->message);
    return 1;
}

void lua_failure_open(lua_State *L)
{
    type_register(L, &key, "deputy.failure", index_failure, failure_tostring, NULL);
}

void lua_failure_push(lua_State *L, const deputy_failure *failure)
{
    deputy_failure *f = type_push(L, &key, sizeof(*f));
    *f = *failure;
}
