#include "lua/lua_type.h"
#include "lua/lua_values.h"

#include <string.h>

/* As large as its words are: one is made for each failed leg. */
struct failure {
    deputy_failure_kind kind;
    int status;
    int64_t retry_after_ms;
    size_t message; /* where it begins in words */
    char words[];   /* code and message, each ended by NUL */
};

static int index_failure(lua_State *L)
{
    const struct failure *f = lua_touserdata(L, 1);
    const char *name = type_field(L);
    if (strcmp(name, "kind") == 0)
        lua_pushstring(L, deputy_failure_name(f->kind));
    else if (strcmp(name, "status") == 0 && f->status)
        lua_pushinteger(L, f->status);
    else if (strcmp(name, "code") == 0 && f->words[0])
        lua_pushstring(L, f->words);
    else if (strcmp(name, "message") == 0)
        lua_pushstring(L, f->words + f->message);
    else if (strcmp(name, "retry_after") == 0 && f->retry_after_ms >= 0)
        lua_pushnumber(L, (lua_Number)f->retry_after_ms / 1000);
    else
        lua_pushnil(L);
    return 1;
}

static int failure_tostring(lua_State *L)
{
    const struct failure *f = lua_touserdata(L, 1);
    lua_pushfstring(L, "%s: %s", deputy_failure_name(f->kind), f->words + f->message);
    return 1;
}

void lua_failure_open(lua_State *L)
{
    type_register(L, POLICY_TYPE_FAILURE, "deputy.failure", index_failure, failure_tostring, NULL);
}

void lua_failure_push(lua_State *L, const deputy_failure *failure)
{
    size_t code = strnlen(failure->code, sizeof(failure->code) - 1);
    size_t message = strnlen(failure->message, sizeof(failure->message) - 1);
    struct failure *f = type_push(L, POLICY_TYPE_FAILURE, sizeof(*f) + code + message + 2);
    f->kind = failure->kind;
    f->status = failure->status;
    f->retry_after_ms = failure->retry_after_ms;
    f->message = code + 1;
    memcpy(f->words, failure->code, code);
    f->words[code] = '\0';
    memcpy(f->words + f->message, failure->message, message);
    f->words[f->message + message] = '\0';
}
