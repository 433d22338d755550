/* How the engine calls back into the Lua that waits for it: a run's primary, and the providers of a registry. Values
 * stay on the stack of the waiting Lua; what the engine keeps of one is its index, so that a result or an error comes
 * back as the very same value, nil and false included. */
#include "base/error.h"
#include "core/call.h"
#include "lua/lua_host.h"

#include <stdlib.h>
#include <string.h>

struct proxy {
    lua_Integer id;
    deputy_provider *real;
};

static struct frame *frame_of(const deputy_call *call)
{
    const struct lua_router *router = deputy_call_engine(call)->options.log_user;
    return router->frame;
}

int frame_value(const struct deputy_call *call)
{
    return (int)(intptr_t)call->data;
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static deputy_failure_kind kind_named(const char *name)
{
    static const char *const names[] = {
#define X(name, text) [DEPUTY_FAILURE_##name] = (text),
        DEPUTY_FAILURES(X)
#undef X
    };
    for (int i = DEPUTY_FAILURE_ERROR; i < (int)(sizeof(names) / sizeof(names[0])); i++)
        if (strcmp(names[i], name) == 0)
            return (deputy_failure_kind)i;
    return DEPUTY_FAILURE_NONE;
}

/* Pushes a field; NULL when it is not a string. */
static const char *text_field(lua_State *L, const char *name)
{
    return lua_getfield(L, 1, name) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
}

/* Argument 1 is an error value with fields. */
static int read_fields(lua_State *L)
{
    deputy_failure *failure = lua_touserdata(L, 2);
    const char *kind_name = text_field(L, "kind"), *code = text_field(L, "code"), *message = text_field(L, "message");
    deputy_failure_kind kind = kind_name ? kind_named(kind_name) : DEPUTY_FAILURE_NONE;
    int whole;
    lua_getfield(L, 1, "status");
    lua_Integer status = lua_tointegerx(L, -1, &whole);
    if (lua_type(L, -1) != LUA_TNUMBER || !whole || status < 100 || status > 999)
        status = 0;
    if (kind == DEPUTY_FAILURE_NONE)
        kind = status ? DEPUTY_FAILURE_STATUS : DEPUTY_FAILURE_ERROR;
    if (code || message)
        failure_set(failure, kind, 0, code, "%s", message ? message : failure->message);
    failure->kind = kind;
    failure->status = (int)status;
    if (lua_getfield(L, 1, "retry_after") == LUA_TNUMBER) {
        lua_Number seconds = lua_tonumber(L, -1);
        if (seconds >= 0 && seconds < 1e9)
            failure->retry_after_ms = (int64_t)(seconds * 1000);
    }
    return 0;
}

static bool is_yield(const char *text)
{
    return strcmp(text, "attempt to yield across a C-call boundary") == 0 ||
           strcmp(text, "attempt to yield from outside a coroutine") == 0;
}

/* The error value on top of L's stack as a failure; the value stays. */
static void describe(lua_State *L, const char *name, deputy_failure *failure)
{
    int type = lua_type(L, -1);
    *failure = (deputy_failure){
        .kind = DEPUTY_FAILURE_ERROR, .retry_after_ms = -1, .message = "an error was raised that has no message"};
    if (type == LUA_TSTRING) {
        const char *text = lua_tostring(L, -1);
        if (is_yield(text)) /* misuse is no reason for a failover */
            failure_set(failure, DEPUTY_FAILURE_REFUSED, 0, "yield", "%s tried to yield across router:run", name);
        else
            failure_set(failure, DEPUTY_FAILURE_ERROR, 0, "", "%s", text);
    } else if (type == LUA_TTABLE || type == LUA_TUSERDATA) {
        lua_pushcfunction(L, read_fields);
        lua_pushvalue(L, -2);
        lua_pushlightuserdata(L, failure);
        if (lua_pcall(L, 2, 0, 0) != LUA_OK)
            lua_pop(L, 1);
    }
}

static void fail(deputy_call *call, struct frame *frame)
{
    deputy_failure failure;
    describe(frame->L, call->provider->name, &failure);
    deputy_reply_fail(call, &failure);
}

static void refuse(deputy_call *call, const char *code, const char *text)
{
    deputy_failure failure;
    failure_set(&failure, DEPUTY_FAILURE_REFUSED, 0, code, "%s: %s", call->provider->name, text);
    deputy_reply_fail(call, &failure);
}

/* Calls the function under the arguments on top; the value it leaves there is the answer. */
static int answer_with(deputy_call *call, struct frame *frame, int arguments)
{
    int status = lua_pcall(frame->L, arguments, 1, 0);
    deputy_call_set_data(call, (void *)(intptr_t)lua_gettop(frame->L));
    if (status == LUA_OK)
        deputy_reply_end(call);
    else
        fail(call, frame);
    return DEPUTY_OK;
}

/* ---- a run's primary --------------------------------------------------------------------------------------------- */

static int complete_primary(void *self, deputy_call *call, const deputy_request *request)
{
    struct frame *frame = frame_of(call);
    (void)self;
    (void)request;
    lua_pushvalue(frame->L, frame->primary);
    return answer_with(call, frame, 0);
}

int primary_new(struct lua_router *router, deputy_provider **primary, deputy_error *error)
{
    static const deputy_provider_vtable vtable = {
        .abi = DEPUTY_PROVIDER_ABI, .size = sizeof(vtable), .complete = complete_primary};
    return deputy_provider_new("primary", &vtable, router, primary, error);
}

/* ---- a registered provider: router:run --------------------------------------------------------------------------- */

/* Arguments: the provider, what it is to complete. nil and something else is a failure. */
static int call_complete(lua_State *L)
{
    if (lua_getfield(L, 1, "complete") == LUA_TNIL)
        return luaL_error(L, "the provider has no complete function any more");
    lua_insert(L, 1);
    lua_call(L, 2, 2);
    if (lua_isnil(L, -2) && !lua_isnil(L, -1))
        return lua_error(L);
    lua_pop(L, 1);
    return 1;
}

static int complete_run(const struct proxy *proxy, deputy_call *call, struct frame *frame)
{
    lua_State *L = frame->L;
    if (!lua_isnil(L, frame->substitute)) {
        lua_pushvalue(L, frame->substitute);
        lua_rawgeti(L, frame->values, proxy->id);
        return answer_with(call, frame, 1);
    }
    if (proxy->real) {
        refuse(call, "no_substitute",
               "a provider made in C stands in only through a substitute function: "
               "router:run(llm, primary, substitute)");
        return DEPUTY_OK;
    }
    lua_pushcfunction(L, call_complete);
    lua_rawgeti(L, frame->values, proxy->id);
    lua_pushvalue(L, frame->llm);
    return answer_with(call, frame, 2);
}

/* ---- a registered provider: router:complete ---------------------------------------------------------------------- */

enum { HEADERS_MAX = 60, SLICE = 16 << 10 };

/* A reply's body that the reader does not take yet. The string is on the frame's stack. */
struct rest {
    const char *at;
    size_t len;
};

static void push_request(lua_State *L, const deputy_request *request)
{
    lua_createtable(L, 0, 5);
    lua_pushstring(L, request->llm);
    lua_setfield(L, -2, "llm");
    lua_pushstring(L, request->endpoint);
    lua_setfield(L, -2, "endpoint");
    lua_pushlstring(L, request->body_len ? request->body : "", request->body_len);
    lua_setfield(L, -2, "body");
    lua_pushboolean(L, request->stream == DEPUTY_STREAM_YES);
    lua_setfield(L, -2, "stream");
    lua_createtable(L, 0, (int)request->n_headers);
    for (size_t i = 0; i < request->n_headers; i++) {
        lua_pushstring(L, request->headers[i].value);
        lua_setfield(L, -2, request->headers[i].name);
    }
    lua_setfield(L, -2, "headers");
}

struct question {
    deputy_call *call;
    const deputy_request *request;
};

/* What the provider answered is at index 2: a JSON string, a reply { status =, headers =, body = }, or a table that
 * becomes JSON. Sends the head and leaves the body on top. */
static void read_answer(lua_State *L, deputy_call *call)
{
    deputy_header headers[HEADERS_MAX] = {{"content-type", "application/json"}};
    size_t n = 1;
    lua_Integer status = 200;
    if (lua_istable(L, 2) && lua_getfield(L, 2, "body") == LUA_TSTRING) {
        if (lua_getfield(L, 2, "headers") == LUA_TTABLE)
            n = headers_read(L, lua_gettop(L), headers, HEADERS_MAX);
        if (lua_getfield(L, 2, "status") != LUA_TNIL)
            status = luaL_checkinteger(L, -1);
        if (status < 200 || status > 999)
            luaL_error(L, "complete answered with status %I; expected 200 to 999", status);
        lua_pushvalue(L, 3);
    } else if (lua_istable(L, 2)) {
        json_encode(L, 2);
    } else if (lua_type(L, 2) == LUA_TSTRING) {
        lua_pushvalue(L, 2);
    } else {
        luaL_error(L, "complete returned a %s; expected a JSON string, a table, or nil and a failure",
                   luaL_typename(L, 2));
    }
    if (deputy_reply_head(call, (int)status, headers, n) != DEPUTY_OK)
        luaL_error(L, "the reply's head was not taken");
}

/* Arguments: the provider, a question. */
static int ask(lua_State *L)
{
    const struct question *q = lua_touserdata(L, 2);
    lua_settop(L, 1);
    if (lua_getfield(L, 1, "complete") == LUA_TNIL)
        return luaL_error(L, "the provider has no complete function any more");
    lua_pushvalue(L, 1);
    push_request(L, q->request);
    lua_call(L, 2, 2);
    if (lua_isnil(L, 2) && !lua_isnil(L, 3))
        return lua_error(L);
    lua_settop(L, 2);
    read_answer(L, q->call);
    return 1;
}

static void send_rest(deputy_call *call, const char *at, size_t len)
{
    struct rest *rest = deputy_call_data(call);
    int code = DEPUTY_OK;
    while (len > 0 && code == DEPUTY_OK) {
        size_t n = len < SLICE ? len : SLICE;
        code = deputy_reply_bytes(call, at, n);
        at += code == DEPUTY_OK ? n : 0;
        len -= code == DEPUTY_OK ? n : 0;
    }
    if (code == DEPUTY_PAUSE && !rest)
        rest = malloc(sizeof(*rest));
    if (code == DEPUTY_PAUSE && rest) {
        *rest = (struct rest){at, len};
        deputy_call_set_data(call, rest);
        return;
    }
    deputy_call_set_data(call, NULL);
    free(rest);
    if (code == DEPUTY_OK)
        deputy_reply_end(call);
    else if (code == DEPUTY_PAUSE)
        deputy_reply_fail(call, NULL);
}

static int complete_http(const struct proxy *proxy, deputy_call *call, const deputy_request *request,
                         struct frame *frame)
{
    lua_State *L = frame->L;
    struct question question = {call, request};
    size_t len;
    lua_pushcfunction(L, ask);
    lua_rawgeti(L, frame->values, proxy->id);
    lua_pushlightuserdata(L, &question);
    if (lua_pcall(frame->L, 2, 1, 0) != LUA_OK) {
        fail(call, frame);
        return DEPUTY_OK;
    }
    const char *body = lua_tolstring(L, -1, &len);
    send_rest(call, body, len);
    return DEPUTY_OK;
}

/* ---- the vtables ------------------------------------------------------------------------------------------------- */

static int complete(void *self, deputy_call *call, const deputy_request *request)
{
    const struct proxy *proxy = self;
    struct frame *frame = frame_of(call);
    if (frame->mode == FRAME_HTTP && proxy->real)
        return proxy->real->vtable->complete(proxy->real->self, call, request);
    lua_rawgeti(frame->L, frame->values, proxy->id);
    bool gone = lua_isnil(frame->L, -1);
    lua_pop(frame->L, 1);
    if (gone) {
        refuse(call, "not_registered", "it was unregistered meanwhile");
        return DEPUTY_OK;
    }
    return frame->mode == FRAME_HTTP ? complete_http(proxy, call, request, frame) : complete_run(proxy, call, frame);
}

static void cancel(void *self, deputy_call *call)
{
    const struct proxy *proxy = self;
    if (!proxy->real)
        free(deputy_call_data(call));
    else if (proxy->real->vtable->cancel)
        proxy->real->vtable->cancel(proxy->real->self, call);
}

static void resume(void *self, deputy_call *call)
{
    const struct proxy *proxy = self;
    const struct rest *rest = deputy_call_data(call);
    if (!proxy->real && rest)
        send_rest(call, rest->at, rest->len);
    else if (proxy->real && proxy->real->vtable->resume)
        proxy->real->vtable->resume(proxy->real->self, call);
}

static void destroy(void *self)
{
    struct proxy *proxy = self;
    deputy_provider_unref(proxy->real);
    free(proxy);
}

int proxy_new(const char *name, lua_Integer id, deputy_provider *real, deputy_provider **provider, deputy_error *error)
{
    static const deputy_provider_vtable vtable = {
        .abi = DEPUTY_PROVIDER_ABI,
        .size = sizeof(vtable),
        .complete = complete,
        .cancel = cancel,
        .resume = resume,
        .destroy = destroy,
    };
    struct proxy *proxy = calloc(1, sizeof(*proxy));
    *provider = NULL;
    if (!proxy)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while registering '%s'", name);
    proxy->id = id;
    int code = deputy_provider_new(name, &vtable, proxy, provider, error);
    if (code != DEPUTY_OK)
        free(proxy);
    else
        proxy->real = real ? deputy_provider_ref(real) : NULL;
    return code;
}

lua_Integer proxy_id(const deputy_provider *proxy)
{
    return ((const struct proxy *)proxy->self)->id;
}
