#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

struct answer {
    uint64_t us;
    deputy_probe_kind kind;
    int status;
    char content_type[];
};

static int index_answer(lua_State *L)
{
    const struct answer *a = lua_touserdata(L, 1);
    const char *name = type_field(L);
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
    type_register(L, POLICY_TYPE_PROBE, "deputy.probe", index_answer, NULL, NULL);
}

void lua_probe_push(lua_State *L, const deputy_probe_answer *answer)
{
    size_t type = strlen(answer->content_type) + 1;
    struct answer *a = type_push(L, POLICY_TYPE_PROBE, sizeof(*a) + type);
    a->us = answer->us;
    a->kind = answer->kind;
    a->status = answer->status;
    memcpy(a->content_type, answer->content_type, type);
}
