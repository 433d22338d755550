/* Requests, replies and traces as Lua tables. */
#include "lua/lua_host.h"

#include <lua-cjson.h>
#include <string.h>

enum { REQUEST_HEADERS_MAX = 60 };

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static const char encode_key;

void json_encode(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &encode_key) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_pushcfunction(L, luaopen_cjson);
        lua_call(L, 0, 1);
        lua_getfield(L, -1, "encode");
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &encode_key);
        lua_remove(L, -2);
    }
    lua_pushvalue(L, index);
    lua_call(L, 1, 1);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static const char *check_header(lua_State *L, int index)
{
    size_t len;
    if (lua_type(L, index) != LUA_TSTRING)
        luaL_error(L, "headers: expected { name = value } with strings, got a %s", luaL_typename(L, index));
    const char *text = lua_tolstring(L, index, &len);
    if (strlen(text) != len)
        luaL_error(L, "headers: a name or value holds a NUL byte");
    return text;
}

size_t headers_read(lua_State *L, int index, deputy_header *headers, size_t max)
{
    size_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        if (n == max)
            luaL_error(L, "headers: at most %d of them", (int)max);
        headers[n].name = check_header(L, -2);
        headers[n++].value = check_header(L, -1);
        lua_pop(L, 1);
    }
    return n;
}

static bool read_flag(lua_State *L, int index, const char *what, const char *name, bool *flag)
{
    if (!option_push(L, index, what, name, LUA_TBOOLEAN))
        return false;
    *flag = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return true;
}

static void read_body(lua_State *L, int index, const char *what, deputy_request *request)
{
    lua_pushliteral(L, "body");
    if (lua_rawget(L, index) == LUA_TTABLE)
        json_encode(L, -1);
    else if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "%s: body: expected a string or a table, got a %s", what, luaL_typename(L, -1));
    request->body = lua_tolstring(L, -1, &request->body_len);
}

void request_read(lua_State *L, int index, const char *what, const char *const *known, deputy_request *request)
{
    bool flag;
    options_check(L, index, what, known);
    *request = DEPUTY_INIT(deputy_request);
    request->llm = option_string(L, index, what, "llm");
    request->endpoint = option_string(L, index, what, "endpoint");
    request->bearer_token = option_string(L, index, what, "bearer_token");
    request->total_ms = (uint32_t)option_number(L, index, what, "total_ms", UINT32_MAX);
    if (read_flag(L, index, what, "stream", &flag))
        request->stream = flag ? DEPUTY_STREAM_YES : DEPUTY_STREAM_NO;
    read_flag(L, index, what, "whole", &request->whole);
    if (option_push(L, index, what, "headers", LUA_TTABLE)) {
        deputy_header *headers = lua_newuserdatauv(L, REQUEST_HEADERS_MAX * sizeof(*headers), 0);
        request->n_headers = headers_read(L, lua_gettop(L) - 1, headers, REQUEST_HEADERS_MAX);
        request->headers = headers;
    }
    read_body(L, index, what, request);
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

static int clear_box(lua_State *L)
{
    deputy_reply_clear(lua_touserdata(L, 1));
    return 0;
}

deputy_reply *reply_box(lua_State *L)
{
    deputy_reply *reply = lua_newuserdatauv(L, sizeof(*reply), 0);
    *reply = DEPUTY_INIT(deputy_reply);
    if (luaL_newmetatable(L, "deputy.reply_box")) {
        lua_pushcfunction(L, clear_box);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return reply;
}

/* Fields by lower-case name; those that came more than once are joined (RFC 9110 section 5.2). */
static void push_headers(lua_State *L, const deputy_header *headers, size_t n)
{
    lua_createtable(L, 0, (int)n);
    for (size_t i = 0; i < n; i++) {
        luaL_Buffer name;
        luaL_buffinit(L, &name);
        for (const char *c = headers[i].name; *c; c++)
            luaL_addchar(&name, (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c));
        luaL_pushresult(&name);
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) == LUA_TSTRING)
            lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), headers[i].value);
        else
            lua_pushstring(L, headers[i].value);
        lua_remove(L, -2);
        lua_rawset(L, -3);
    }
}

void reply_push(lua_State *L, const deputy_reply *reply)
{
    lua_createtable(L, 0, 6);
    lua_pushinteger(L, reply->status);
    lua_setfield(L, -2, "status");
    push_headers(L, reply->headers, reply->n_headers);
    lua_setfield(L, -2, "headers");
    lua_pushlstring(L, reply->body ? reply->body : "", reply->body_len);
    lua_setfield(L, -2, "body");
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

static const char failure_key;

static int failure_tostring(lua_State *L)
{
    lua_getfield(L, 1, "kind");
    lua_getfield(L, 1, "message");
    lua_pushfstring(L, "%s: %s", luaL_tolstring(L, 2, NULL), luaL_tolstring(L, 3, NULL));
    return 1;
}

void failure_type(lua_State *L)
{
    lua_createtable(L, 0, 2);
    lua_pushliteral(L, "deputy.failure");
    lua_setfield(L, -2, "__name");
    lua_pushcfunction(L, failure_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &failure_key);
}

void failure_push(lua_State *L, const deputy_failure *failure)
{
    lua_createtable(L, 0, 5);
    lua_pushstring(L, deputy_failure_name(failure->kind));
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, failure->message);
    lua_setfield(L, -2, "message");
    if (failure->status) {
        lua_pushinteger(L, failure->status);
        lua_setfield(L, -2, "status");
    }
    if (failure->code[0]) {
        lua_pushstring(L, failure->code);
        lua_setfield(L, -2, "code");
    }
    if (failure->retry_after_ms >= 0) {
        lua_pushnumber(L, (lua_Number)failure->retry_after_ms / 1000);
        lua_setfield(L, -2, "retry_after");
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &failure_key);
    lua_setmetatable(L, -2);
}

/* ---- traces ------------------------------------------------------------------------------------------------------ */

/* A copy with the names of providers behind it; its user value is the table once it was asked for. */
struct trace {
    size_t n;
    deputy_trace legs[];
};

static void set_integer(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static void push_leg(lua_State *L, const deputy_trace *leg)
{
    lua_createtable(L, 0, 7);
    lua_pushstring(L, deputy_leg_name(leg->leg));
    lua_setfield(L, -2, "leg");
    set_integer(L, "attempt", (uint64_t)leg->attempt);
    set_integer(L, "start_us", leg->start_us);
    set_integer(L, "end_us", leg->end_us);
    lua_pushstring(L, leg->kind);
    lua_setfield(L, -2, "kind");
    if (leg->status)
        set_integer(L, "status", (uint64_t)leg->status);
    if (leg->provider) {
        lua_pushstring(L, leg->provider);
        lua_setfield(L, -2, "provider");
    }
    if (leg->leg == DEPUTY_LEG_PROBE) {
        lua_pushstring(L, deputy_verdict_name(leg->verdict));
        lua_setfield(L, -2, "verdict");
    }
}

static int index_trace(lua_State *L)
{
    const struct trace *trace = lua_touserdata(L, 1);
    if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "trace") != 0)
        return 0;
    if (lua_getiuservalue(L, 1, 1) == LUA_TTABLE)
        return 1;
    lua_createtable(L, (int)trace->n, 0);
    for (size_t i = 0; i < trace->n; i++) {
        push_leg(L, &trace->legs[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, 1);
    return 1;
}

static const char trace_key;

void trace_type(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, index_trace);
    lua_setfield(L, -2, "__index");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &trace_key);
}

/* A metatable of its own for each result, whose __index is the trace: nothing shows in pairs, and a run whose trace
 * nobody reads pays for one copy. */
void trace_attach(lua_State *L, const deputy_trace *legs, size_t n)
{
    size_t size = sizeof(struct trace) + n * sizeof(*legs);
    for (size_t i = 0; i < n; i++)
        size += legs[i].provider ? strlen(legs[i].provider) + 1 : 0;
    lua_createtable(L, 0, 1);
    struct trace *trace = lua_newuserdatauv(L, size, 1);
    char *at = (char *)(trace->legs + n);
    trace->n = n;
    for (size_t i = 0; i < n; i++) {
        trace->legs[i] = legs[i];
        if (!legs[i].provider)
            continue;
        size_t len = strlen(legs[i].provider) + 1;
        trace->legs[i].provider = memcpy(at, legs[i].provider, len);
        at += len;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &trace_key);
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
}
