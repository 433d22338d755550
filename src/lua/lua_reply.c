#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

struct reply {
    deputy_run_id run;
    size_t size;
    unsigned number;
    int status;
    bool stream;
    char content_type[];
};

static int index_reply(lua_State *L)
{
    const struct reply *r = lua_touserdata(L, 1);
    const char *name = type_field(L);
    if (strcmp(name, "status") == 0 && r->status)
        lua_pushinteger(L, r->status);
    else if (strcmp(name, "content_type") == 0 && r->content_type[0])
        lua_pushstring(L, r->content_type);
    else if (strcmp(name, "stream") == 0)
        lua_pushboolean(L, r->stream);
    else if (strcmp(name, "size") == 0)
        lua_pushinteger(L, (lua_Integer)r->size);
    else
        lua_pushnil(L);
    return 1;
}

void lua_reply_open(lua_State *L)
{
    type_register(L, POLICY_TYPE_REPLY, "deputy.reply", index_reply, NULL, NULL);
}

void lua_reply_push(lua_State *L, deputy_run_id run, const struct deputy_call *call)
{
    size_t type = strlen(call->content_type) + 1;
    struct reply *r = type_push(L, POLICY_TYPE_REPLY, sizeof(*r) + type);
    r->run = run;
    r->number = call->number;
    r->status = call->status;
    r->stream = call->is_stream;
    r->size = buffer_len(&call->held);
    memcpy(r->content_type, call->content_type, type);
}

unsigned lua_reply_number(lua_State *L, int index, deputy_run_id run)
{
    const struct reply *r = type_test(L, index, POLICY_TYPE_REPLY);
    return r && r->run == run ? r->number : 0;
}
