#include "central/app.h"

#include "central/modules.h"
#include "central/watchdog.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ERROR = 8192, GC_PAUSE = 300 };

struct app {
    lua_State *L;
    struct log *log;
    const char *db;
    struct watchdog *watchdog;
    int traceback, object, request; /* in the registry */
    const struct app_request *current;
};

/* A call into Lua, for the protected function that makes it. */
struct call {
    struct app *app;
    const char *method;
    const struct app_request *request;
    struct app_reply *reply;
    bool may_be_nil;
};

/* ---- what goes in ------------------------------------------------------------------------------------------------ */

static void set_text(lua_State *L, const char *name, const char *value)
{
    if (value)
        lua_pushstring(L, value);
    else
        lua_pushnil(L);
    lua_setfield(L, -2, name);
}

/* Most decisions need neither: they cost more than all the rest of a request. */
static int look_up(lua_State *L)
{
    const struct app *app = lua_touserdata(L, lua_upvalueindex(1));
    const char *key = lua_tostring(L, 2);
    if (!app->current || !key)
        lua_pushnil(L);
    else if (strcmp(key, "id") == 0)
        lua_pushstring(L, app->current->id);
    else if (strcmp(key, "peer") == 0)
        lua_pushstring(L, http1_peer(app->current->exchange));
    else
        lua_pushnil(L);
    return 1;
}

static void fill_request(lua_State *L, const struct app_request *r)
{
    set_text(L, "method", r->method);
    set_text(L, "target", r->target);
    set_text(L, "authorization", r->authorization);
    set_text(L, "content_type", r->content_type);
    set_text(L, "model", r->model);
    if (r->body)
        lua_pushlstring(L, r->body, r->body_len);
    else
        lua_pushnil(L);
    lua_setfield(L, -2, "body");
}

/* ---- what comes out ---------------------------------------------------------------------------------------------- */

/* A string that the table keeps alive, or NULL. */
static const char *get_text(lua_State *L, int at, const char *name, bool must, size_t *len)
{
    const char *text = NULL;
    int type = lua_getfield(L, at, name);
    if (type == LUA_TSTRING)
        text = lua_tolstring(L, -1, len);
    else if (type != LUA_TNIL || must)
        luaL_error(L, "expected a string as %s of a reply, got %s", name, lua_typename(L, type));
    lua_pop(L, 1);
    return text;
}

static void read_headers(lua_State *L, int at, struct app_reply *reply)
{
    int type = lua_getfield(L, at, "headers");
    if (type != LUA_TTABLE && type != LUA_TNIL)
        luaL_error(L, "expected a table as headers of a reply, got %s", lua_typename(L, type));
    lua_pushnil(L);
    while (type == LUA_TTABLE && lua_next(L, -2)) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "expected strings in headers of a reply");
        if (reply->n_headers == APP_HEADERS)
            luaL_error(L, "expected at most %d headers of a reply", APP_HEADERS);
        reply->headers[reply->n_headers++] = (struct http1_header){lua_tostring(L, -2), lua_tostring(L, -1)};
        lua_pop(L, 1);
    }
    lua_settop(L, at);
}

static void read_forward(lua_State *L, int at, struct app_reply *reply)
{
    static const char *const dialects[] = {
        [DIALECT_OPENAI] = "openai", [DIALECT_RESPONSES] = "responses", [DIALECT_MESSAGES] = "messages", NULL};
    struct app_forward *f = &reply->forward;
    reply->endpoint = get_text(L, at, "endpoint", true, NULL);
    const char *dialect = get_text(L, at, "dialect", true, NULL);
    while (dialects[reply->dialect] && strcmp(dialects[reply->dialect], dialect) != 0)
        reply->dialect++;
    if (!dialects[reply->dialect])
        luaL_error(L, "expected openai, responses or messages as dialect of a reply, got %s", dialect);
    lua_getfield(L, at, "forward");
    int from = lua_gettop(L);
    const char *type = get_text(L, from, "type", false, NULL);
    if (type && strcmp(type, "openai") != 0)
        luaL_error(L, "expected openai as type of an upstream, got %s", type);
    f->name = get_text(L, from, "name", true, NULL);
    f->url = get_text(L, from, "url", true, NULL);
    f->model = get_text(L, from, "model", false, NULL);
    f->api_key_env = get_text(L, from, "api_key_env", false, NULL);
    f->api_key_file = get_text(L, from, "api_key_file", false, NULL);
    f->key = get_text(L, from, "key", true, NULL);
    lua_settop(L, at);
}

static void read_reply(lua_State *L, int at, struct app_reply *reply)
{
    int type = lua_type(L, at), whole = 0;
    if (type != LUA_TTABLE)
        luaL_error(L, "expected a table as reply, got %s", lua_typename(L, type));
    reply->user = get_text(L, at, "user", false, NULL);
    reply->route = get_text(L, at, "route", false, NULL);
    type = lua_getfield(L, at, "forward");
    lua_pop(L, 1);
    if (type == LUA_TTABLE) {
        read_forward(L, at, reply);
        return;
    }
    lua_getfield(L, at, "status");
    lua_Integer status = lua_tointegerx(L, -1, &whole);
    lua_pop(L, 1);
    if (!whole || status < 200 || status > 599)
        luaL_error(L, "expected a status from 200 to 599 in a reply");
    reply->body = get_text(L, at, "body", false, &reply->body_len);
    read_headers(L, at, reply);
    reply->status = (int)status;
    if (status < 400)
        return;
    reply->llm = get_text(L, at, "llm", false, NULL);
    reply->code = get_text(L, at, "code", false, NULL);
}

/* ---- calling ----------------------------------------------------------------------------------------------------- */

static int add_traceback(lua_State *L)
{
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

/* Lua's messages go to the log as they come, but for the caller's token. */
static void blot_out(char *text, const char *secret)
{
    size_t len = secret ? strlen(secret) : 0;
    for (char *at = len > 0 ? strstr(text, secret) : NULL; at; at = strstr(at, secret))
        memset(at, '*', len);
}

static void complain(struct app *app, const char *method, const struct app_request *request)
{
    char text[MAX_ERROR];
    const char *bearer = request ? request->authorization : NULL, *token = bearer ? strrchr(bearer, ' ') : NULL;
    snprintf(text, sizeof(text), "%s", lua_tostring(app->L, -1) ? lua_tostring(app->L, -1) : "out of memory");
    blot_out(text, token && token[1] ? token + 1 : bearer);
    if (!log_begin(app->log, DEPUTY_LOG_ERROR, "Lua failed"))
        return;
    log_text(app->log, "in", method);
    log_text(app->log, "request", request ? request->id : NULL);
    log_text(app->log, "problem", text);
    log_end(app->log);
}

/* (call) -> the table that keeps the reply's strings alive */
static int ask(lua_State *L)
{
    const struct call *call = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->app->object);
    lua_getfield(L, -1, call->method);
    lua_insert(L, -2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->app->request);
    fill_request(L, call->request);
    lua_call(L, 2, 1);
    if (lua_isnil(L, -1) && call->may_be_nil)
        return 1;
    read_reply(L, lua_gettop(L), call->reply);
    return 1;
}

static void ask_app(struct app *app, const char *method, bool may_be_nil, const struct app_request *request,
                    struct app_reply *reply)
{
    struct call call = {app, method, request, reply, may_be_nil};
    lua_State *L = app->L;
    memset(reply, 0, offsetof(struct app_reply, headers));
    memset(&reply->n_headers, 0, sizeof(*reply) - offsetof(struct app_reply, n_headers));
    app->current = request;
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, app->traceback);
    lua_pushcfunction(L, ask);
    lua_pushlightuserdata(L, &call);
    watchdog_begin(app->watchdog);
    if (lua_pcall(L, 1, 1, 1) != LUA_OK) {
        memset(reply, 0, sizeof(*reply));
        reply->failed = true;
        complain(app, method, request);
    }
    watchdog_end(app->watchdog);
    app->current = NULL;
}

void app_handle(struct app *app, const struct app_request *request, struct app_reply *reply)
{
    ask_app(app, "handle", false, request, reply);
}

void app_authorize(struct app *app, const struct app_request *request, struct app_reply *reply)
{
    ask_app(app, "authorize", true, request, reply);
}

void app_forget(struct app *app)
{
    lua_settop(app->L, 0);
}

/* (call) -> whatever the method returns, at most two values; a method that is not there returns true */
static int tell(lua_State *L)
{
    const struct call *call = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->app->object);
    if (lua_getfield(L, -1, call->method) == LUA_TNIL) {
        lua_pushboolean(L, true);
        lua_pushnil(L);
        return 2;
    }
    lua_insert(L, -2);
    lua_call(L, 1, 2);
    if (!lua_isnil(L, -1))
        luaL_tolstring(L, -1, NULL);
    else
        lua_pushnil(L);
    lua_replace(L, -2);
    return 2;
}

/* What comes is on the stack: two values. */
static bool tell_app(struct app *app, const char *method)
{
    struct call call = {.app = app, .method = method};
    lua_State *L = app->L;
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, app->traceback);
    lua_pushcfunction(L, tell);
    lua_pushlightuserdata(L, &call);
    watchdog_begin(app->watchdog);
    bool called = lua_pcall(L, 1, 2, 1) == LUA_OK;
    watchdog_end(app->watchdog);
    if (!called)
        complain(app, method, NULL);
    return called;
}

void app_tick(struct app *app)
{
    tell_app(app, "tick");
    app_forget(app);
}

bool app_ready(struct app *app, char *why, size_t size)
{
    bool called = tell_app(app, "ready"), ready = called && lua_toboolean(app->L, -2);
    if (!ready) {
        const char *text = called ? lua_tostring(app->L, -1) : NULL;
        snprintf(why, size, "%s", text ? text : "the log says why");
    }
    app_forget(app);
    return ready;
}

size_t app_bytes(const struct app *app)
{
    return (size_t)lua_gc(app->L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(app->L, LUA_GCCOUNTB);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int say(lua_State *L)
{
    static const char *const words[] = {"error", "warn", "info", "debug", NULL};
    struct app *app = lua_touserdata(L, lua_upvalueindex(1));
    int level = luaL_checkoption(L, 1, "info", words);
    const char *text = luaL_checkstring(L, 2);
    if (log_begin(app->log, (deputy_log_level)level, text))
        log_end(app->log);
    return 0;
}

/* watch(fd): the database's socket; nil: none, before it is closed */
static int watch(lua_State *L)
{
    struct app *app = lua_touserdata(L, lua_upvalueindex(1));
    watchdog_watch(app->watchdog, (int)luaL_optinteger(L, 1, -1));
    return 0;
}

static void make_request(lua_State *L, struct app *app)
{
    lua_createtable(L, 0, 8);
    lua_createtable(L, 0, 1);
    lua_pushlightuserdata(L, app);
    lua_pushcclosure(L, look_up, 1);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    app->request = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* (app, lua_dir) -> the object, or nil and why */
static int open_app(lua_State *L)
{
    struct app *app = lua_touserdata(L, 1);
    const char *lua_dir = lua_touserdata(L, 2);
    lua_pushcfunction(L, add_traceback);
    app->traceback = luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_openlibs(L);
    lua_gc(L, LUA_GCINC, GC_PAUSE, 0, 0); /* what is kept of the database is large, and not to be gone over often */
    modules_find_in(L, lua_dir);
    make_request(L, app);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "central.app");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "new");
    lua_createtable(L, 0, 3);
    set_text(L, "db", app->db);
    lua_pushlightuserdata(L, app);
    lua_pushcclosure(L, say, 1);
    lua_setfield(L, -2, "log");
    lua_pushlightuserdata(L, app);
    lua_pushcclosure(L, watch, 1);
    lua_setfield(L, -2, "watch");
    lua_call(L, 1, 2);
    lua_pushvalue(L, -2);
    app->object = luaL_ref(L, LUA_REGISTRYINDEX);
    return 2;
}

static void first_line(const char *text, char *out, size_t size)
{
    snprintf(out, size, "%.*s", (int)strcspn(text, "\n"), text);
}

struct app *app_open(const char *lua_dir, const char *db, struct log *log, char *problem, size_t size)
{
    struct app *app = calloc(1, sizeof(*app));
    struct watchdog *watchdog = app ? watchdog_new() : NULL;
    lua_State *L = watchdog ? luaL_newstate() : NULL;
    if (!L) {
        watchdog_free(watchdog);
        free(app);
        snprintf(problem, size, "out of memory for a Lua state");
        return NULL;
    }
    app->L = L;
    app->watchdog = watchdog;
    app->log = log;
    app->db = db;
    lua_pushcfunction(L, open_app);
    lua_pushlightuserdata(L, app);
    lua_pushlightuserdata(L, (void *)(uintptr_t)lua_dir);
    bool called = lua_pcall(L, 2, 2, 0) == LUA_OK;
    if (called && !lua_isnil(L, -2))
        return app;
    const char *text = lua_tostring(L, -1);
    first_line(text ? text : "central.app would not start, without saying why", problem, size);
    lua_close(L);
    watchdog_free(watchdog);
    free(app);
    return NULL;
}

void app_close(struct app *app)
{
    if (!app)
        return;
    tell_app(app, "close");
    lua_close(app->L);
    watchdog_free(app->watchdog);
    free(app);
}
