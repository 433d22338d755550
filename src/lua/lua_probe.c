#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

static const char key;

static int index_answer(lua_State *L)
{
    const deputy_probe_answer *a = lua_touserdata(L, 1);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(name, "status") == 0 && a->kind == DEPUTY_PROBE_OK)
        lua_pushinteger(L, a->status);
    else if (strcmp(name, "kind") == 0)
        lua_pushstring(L, deputy_probe_kind_name(a->kind));
    else if (strcmp(name, "content_type") == 0 && a->content_type[0])
        lua_pushstring(L, a->content_type);
    else if (strcmp(name, "us") == 0)
        lua_pushinteger(L, (lua_Integer)a->us);
    else
        lua_pushnil(L);
    return 1;
}

void lua_probe_open(lua_State *L)
{
    type_register(L, &key, "deputy.probe", index_answer, NULL, NULL);
}

void lua_probe_push(lua_State *L, const deputy_probe_answer *answer)
{
    deputy_probe_answer *a = type_push(L, &key, sizeof(*a));
    *a = *answer;
}
