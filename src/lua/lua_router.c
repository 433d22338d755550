/* A router: an engine whose primaries, substitutes and Lua providers run in the Lua that calls it, while it waits. */
#include "base/error.h"
#include "lua/lua_host.h"
#include "net/url.h"

#include <dlfcn.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char what[] = "deputy.router";

/* ---- frames ------------------------------------------------------------------------------------------------------ */

static struct lua_router *check_self(lua_State *L)
{
    struct lua_router *r = self_check(L, ROUTER_TYPE, "router");
    if (!r->engine)
        luaL_error(L, "this router is closed");
    return r;
}

/* For what waits: one at a time. */
static struct lua_router *check_idle(lua_State *L, const char *method)
{
    struct lua_router *r = check_self(L);
    if (r->frame)
        luaL_error(L,
                   "router:%s: not from inside a callback of the same router: it is waiting for that callback "
                   "(make a second router, or return first)",
                   method);
    return r;
}

static void enter(struct lua_router *router, struct frame *frame)
{
    frame->outer = router->frame;
    router->frame = frame;
}

static void leave(struct lua_router *router)
{
    router->frame = router->frame->outer;
}

/* Pushes the registry's table of providers; its index. */
static int push_values(lua_State *L)
{
    lua_getiuservalue(L, 1, ROUTER_REGISTRY);
    lua_getiuservalue(L, -1, 1);
    return lua_gettop(L);
}

static int misuse(lua_State *L, const char *method, const deputy_error *error)
{
    return luaL_error(L, "router:%s: %s", method, error->message);
}

/* ---- what the engine asks of the host ---------------------------------------------------------------------------- */

struct log_line {
    deputy_log_level level;
    const char *text;
};

/* Arguments: the function, a line. */
static int call_log(lua_State *L)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    const struct log_line *line = lua_touserdata(L, 2);
    lua_settop(L, 1);
    lua_pushstring(L, levels[line->level]);
    lua_pushstring(L, line->text);
    lua_call(L, 2, 0);
    return 0;
}

static void on_log(void *user, deputy_log_level level, const char *text)
{
    struct lua_router *router = user;
    struct frame *frame = router->frame;
    struct log_line line = {level, text};
    if (!frame)
        return;
    lua_pushcfunction(frame->L, call_log);
    lua_getiuservalue(frame->L, frame->self, ROUTER_ON_LOG);
    lua_pushlightuserdata(frame->L, &line);
    if (lua_pcall(frame->L, 2, 0, 0) != LUA_OK)
        lua_pop(frame->L, 1); /* whom should a log that fails tell? */
}

struct probe_question {
    const char *llm, *token;
    deputy_probe_answer *answer;
};

static deputy_probe_kind probe_kind_named(const char *name)
{
    static const char *const names[] = {
#define X(name, text) [DEPUTY_PROBE_##name] = (text),
        DEPUTY_PROBE_KINDS(X)
#undef X
    };
    for (int i = 0; i < (int)(sizeof(names) / sizeof(names[0])); i++)
        if (i != DEPUTY_PROBE_OK && strcmp(names[i], name) == 0)
            return (deputy_probe_kind)i;
    return DEPUTY_PROBE_CONNECT;
}

/* Arguments: the function, a question. It returns a status, or nil and the kind of what went wrong. */
static int call_probe(lua_State *L)
{
    const struct probe_question *q = lua_touserdata(L, 2);
    int whole;
    lua_settop(L, 1);
    lua_pushstring(L, q->llm);
    lua_pushstring(L, q->token);
    lua_call(L, 2, 2);
    lua_Integer status = lua_tointegerx(L, 1, &whole);
    if (lua_type(L, 1) == LUA_TNUMBER && whole && status >= 0 && status <= 999) {
        q->answer->kind = DEPUTY_PROBE_OK;
        q->answer->status = (int)status;
    } else if (lua_isnil(L, 1)) {
        q->answer->kind = probe_kind_named(luaL_optstring(L, 2, "connect"));
    } else {
        luaL_error(L, "probe: expected a status from 0 to 999, or nil and a kind, got a %s", luaL_typename(L, 1));
    }
    return 0;
}

static void on_probe(void *user, const char *llm, const char *token, deputy_probe_answer *answer)
{
    struct lua_router *router = user;
    struct frame *frame = router->frame;
    struct probe_question q = {llm, token, answer};
    memset(answer, 0, sizeof(*answer));
    answer->kind = DEPUTY_PROBE_CONNECT;
    if (!frame)
        return;
    lua_State *L = frame->L;
    lua_pushcfunction(L, call_probe);
    lua_getiuservalue(L, frame->self, ROUTER_PROBE);
    lua_pushlightuserdata(L, &q);
    if (lua_pcall(frame->L, 2, 0, 0) == LUA_OK)
        return;
    memset(answer, 0, sizeof(*answer));
    answer->kind = DEPUTY_PROBE_PROTOCOL;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "it raised an error that is not a string";
    engine_log(router->engine, DEPUTY_LOG_ERROR, "the host's probe function failed, which allows nothing: %.400s",
               text);
    lua_pop(L, 1);
}

/* ---- router:run -------------------------------------------------------------------------------------------------- */

/* How a run ended, kept for when Lua may be touched again. */
struct finished {
    struct run *run;
    bool over, failover;
    deputy_result result;
    int value; /* on the stack; 0: none */
    deputy_failure failure;
    char via[URL_NAME_MAX + 1];
    size_t n_trace, used;
    deputy_trace trace[RUN_TRACE_MAX];
    char names[RUN_LEGS_MAX * (URL_NAME_MAX + 1)];
};

/* The value behind the outcome: of the reply that was chosen, or of the failure that counts. */
static int find_value(const struct run *run, deputy_result result)
{
    const struct deputy_call *call = run->chosen;
    if (result == DEPUTY_RESULT_OK)
        return call ? frame_value(call) : 0;
    if (result == DEPUTY_RESULT_CANCELLED)
        return 0;
    for (call = run->calls; call; call = call->next)
        if (call->purpose == CALL_PRIMARY && call->state == CALL_BAD)
            return frame_value(call);
    return 0;
}

static void copy_trace(struct finished *f, const deputy_outcome *outcome)
{
    f->n_trace = outcome->n_trace;
    f->used = 0;
    for (size_t i = 0; i < outcome->n_trace; i++) {
        f->trace[i] = outcome->trace[i];
        if (!f->trace[i].provider)
            continue;
        size_t len = strlen(f->trace[i].provider) + 1;
        f->trace[i].provider =
            f->used + len <= sizeof(f->names) ? memcpy(f->names + f->used, outcome->trace[i].provider, len) : NULL;
        f->used += len;
    }
}

static void on_end(void *user, const deputy_outcome *outcome)
{
    struct finished *f = user;
    f->over = true;
    f->result = outcome->result;
    f->failover = outcome->failover;
    f->value = find_value(f->run, outcome->result);
    f->via[0] = '\0';
    if (outcome->via)
        memcpy(f->via, outcome->via, strlen(outcome->via) + 1);
    if (outcome->failure && f->value == 0)
        f->failure = *outcome->failure;
    if (outcome->result == DEPUTY_RESULT_OK)
        copy_trace(f, outcome);
}

static void wait_for(deputy_engine *engine, const bool *over)
{
    while (!*over) {
        if (engine->ready)
            engine_drain(engine);
        else
            engine_turn(engine);
    }
}

static void check_function(lua_State *L, int index, const char *name)
{
    if (lua_isfunction(L, index))
        return;
    if (luaL_getmetafield(L, index, "__call") == LUA_TNIL)
        luaL_error(L, "router:run: %s: expected a function, got a %s", name, luaL_typename(L, index));
    lua_pop(L, 1);
}

static const char *check_llm(lua_State *L, int index, const char *method)
{
    size_t len;
    if (lua_type(L, index) != LUA_TSTRING)
        luaL_error(L, "router:%s: expected the LLM's name, a string, got a %s", method, luaL_typename(L, index));
    const char *llm = lua_tolstring(L, index, &len);
    return strlen(llm) == len ? llm : NULL;
}

static int push_result(lua_State *L, const struct finished *f)
{
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, f->value);
    lua_setfield(L, -2, "result");
    lua_pushboolean(L, f->failover);
    lua_setfield(L, -2, "failover");
    if (f->failover) {
        lua_pushstring(L, f->via);
        lua_setfield(L, -2, "via");
    }
    trace_attach(L, f->trace, f->n_trace);
    return 1;
}

static int run(lua_State *L)
{
    struct lua_router *router = check_idle(L, "run");
    struct finished f;
    deputy_error error;
    const char *llm = check_llm(L, 2, "run");
    if (!llm)
        luaL_error(L, "router:run: the LLM's name holds a NUL byte");
    lua_settop(L, 4);
    check_function(L, 3, "primary");
    if (!lua_isnil(L, 4))
        check_function(L, 4, "substitute");
    luaL_checkstack(L, RUN_LEGS_MAX + LUA_MINSTACK, "router:run");
    struct frame frame = {.L = L, .mode = FRAME_RUN, .self = 1, .llm = 2, .primary = 3, .substitute = 4};
    frame.values = push_values(L);
    const deputy_request request = {
        .size = sizeof(request), .llm = llm, .stream = DEPUTY_STREAM_NO, .primary = router->primary};
    const deputy_sink sink = {.size = sizeof(sink), .user = &f, .on_end = on_end};
    int code = engine_enter(router->engine, true, &error);
    f.over = false;
    if (code == DEPUTY_OK)
        code = run_new(router->engine, &request, &sink, false, &f.run, &error);
    if (code != DEPUTY_OK)
        return misuse(L, "run", &error);
    enter(router, &frame);
    wait_for(router->engine, &f.over);
    leave(router);
    if (f.result == DEPUTY_RESULT_OK && f.value)
        return push_result(L, &f);
    if (f.value)
        lua_pushvalue(L, f.value);
    else
        failure_push(L, &f.failure);
    return lua_error(L);
}

/* ---- router:complete --------------------------------------------------------------------------------------------- */

static void push_outcome(lua_State *L, const deputy_reply *reply)
{
    const deputy_outcome *o = &reply->outcome;
    reply_push(L, reply);
    lua_pushboolean(L, o->failover);
    lua_setfield(L, -2, "failover");
    lua_pushstring(L, o->via); /* nil when NULL */
    lua_setfield(L, -2, "via");
    trace_attach(L, o->trace, o->n_trace);
}

/* What the caller could not have known before is an answer, all else a mistake of his. */
static bool is_expected(int code)
{
    return code == DEPUTY_EFAILED || code == DEPUTY_ECANCELED || code == DEPUTY_ELIMIT;
}

static int push_failed(lua_State *L, deputy_reply *reply, int code, const deputy_error *error)
{
    deputy_failure failure;
    failure_set(&failure, code == DEPUTY_ELIMIT ? DEPUTY_FAILURE_LIMIT : DEPUTY_FAILURE_ERROR, 0, "", "%s",
                error->message);
    lua_pushnil(L);
    failure_push(L, code != DEPUTY_ELIMIT && reply->outcome.failure ? reply->outcome.failure : &failure);
    if (code == DEPUTY_EFAILED && reply->status && reply->outcome.result == DEPUTY_RESULT_FAILED)
        push_outcome(L, reply);
    else
        lua_pushnil(L);
    deputy_reply_clear(reply);
    return 3;
}

static int complete(lua_State *L)
{
    static const char *const known[] = {"llm",   "endpoint", "body",         "stream", "headers",
                                        "whole", "total_ms", "bearer_token", NULL};
    struct lua_router *router = check_idle(L, "complete");
    deputy_request request;
    deputy_error error;
    lua_settop(L, 2);
    if (!lua_istable(L, 2))
        luaL_error(L, "router:complete: expected { llm =, body =, endpoint =, stream =, headers = }, got a %s",
                   luaL_typename(L, 2));
    request_read(L, 2, "router:complete", known, &request);
    if (!request.llm)
        luaL_error(L, "router:complete: llm: expected the LLM's name, got nothing");
    deputy_reply *reply = reply_box(L);
    luaL_checkstack(L, RUN_LEGS_MAX + LUA_MINSTACK, "router:complete");
    struct frame frame = {.L = L, .mode = FRAME_HTTP, .self = 1, .values = push_values(L)};
    enter(router, &frame);
    int code = deputy_run(router->engine, &request, reply, &error);
    leave(router);
    if (code != DEPUTY_OK)
        return is_expected(code) ? push_failed(L, reply, code, &error) : misuse(L, "complete", &error);
    push_outcome(L, reply);
    deputy_reply_clear(reply);
    return 1;
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

/* What cannot be asked is not allowed: a name or token that no request can carry is unreachable. */
static int check_auth(lua_State *L)
{
    struct lua_router *router = check_idle(L, "check_auth");
    const char *llm = check_llm(L, 2, "check_auth");
    size_t len = 0;
    lua_settop(L, 3);
    if (!lua_isnil(L, 3) && lua_type(L, 3) != LUA_TSTRING)
        luaL_error(L, "router:check_auth: expected a token, a string, got a %s", luaL_typename(L, 3));
    const char *token = lua_tolstring(L, 3, &len);
    deputy_verdict verdict = DEPUTY_UNREACHABLE;
    deputy_error error;
    int code = DEPUTY_EINVAL;
    if (llm && (!token || strlen(token) == len)) {
        struct frame frame = {.L = L, .mode = FRAME_SETUP, .self = 1};
        luaL_checkstack(L, LUA_MINSTACK, "router:check_auth");
        enter(router, &frame);
        code = deputy_check_auth(router->engine, llm, token, &verdict, NULL, &error);
        leave(router);
    }
    if (code != DEPUTY_OK && code != DEPUTY_EINVAL)
        return misuse(L, "check_auth", &error);
    lua_pushstring(L, deputy_verdict_name(code == DEPUTY_OK ? verdict : DEPUTY_UNREACHABLE));
    return 1;
}

static int load_policy(lua_State *L, struct lua_router *router, int self, const char *path, deputy_error *error)
{
    struct frame frame = {.L = L, .mode = FRAME_SETUP, .self = self};
    luaL_checkstack(L, LUA_MINSTACK, "load_policy");
    enter(router, &frame);
    int code = deputy_load_policy(router->engine, path, error);
    leave(router);
    return code;
}

static int reload_policy(lua_State *L)
{
    struct lua_router *router = check_self(L);
    deputy_error error;
    deputy_failure failure;
    size_t len;
    if (lua_type(L, 2) != LUA_TSTRING)
        luaL_error(L, "router:load_policy: expected a path, a string, got a %s", luaL_typename(L, 2));
    const char *path = lua_tolstring(L, 2, &len);
    if (strlen(path) != len)
        luaL_error(L, "router:load_policy: the path holds a NUL byte");
    int code = load_policy(L, router, 1, path, &error);
    if (code == DEPUTY_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    failure_set(&failure, DEPUTY_FAILURE_ERROR, 0, "policy", "%s", error.message);
    lua_pushnil(L);
    failure_push(L, &failure);
    return 2;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

struct number {
    const char *name;
    size_t offset;
    size_t size;
};

#define NUMBER(type, field) .name = #field, .offset = offsetof(type, field), .size = sizeof(((type *)0)->field)

static const struct number timeouts[] = {
    {NUMBER(deputy_timeouts, connect_ms)},     {NUMBER(deputy_timeouts, first_byte_ms)},
    {NUMBER(deputy_timeouts, first_token_ms)}, {NUMBER(deputy_timeouts, idle_ms)},
    {NUMBER(deputy_timeouts, total_ms)},       {NUMBER(deputy_timeouts, probe_ms)},
};

static const struct number limits[] = {
    {NUMBER(deputy_limits, max_runs)},
    {NUMBER(deputy_limits, max_body_bytes)},
    {NUMBER(deputy_limits, max_reply_bytes)},
    {NUMBER(deputy_limits, max_error_bytes)},
    {NUMBER(deputy_limits, max_hold_bytes)},
    {NUMBER(deputy_limits, max_header_bytes)},
    {NUMBER(deputy_limits, policy_instructions)},
    {NUMBER(deputy_limits, policy_run_bytes)},
    {NUMBER(deputy_limits, policy_bytes)},
    {NUMBER(deputy_limits, policy_ms)},
};

enum { NUMBERS_MAX = 16 };

static void read_numbers(lua_State *L, int index, const char *name, const struct number *numbers, size_t n, void *to)
{
    const char *names[NUMBERS_MAX + 1] = {0};
    char where[64];
    if (!option_push(L, index, what, name, LUA_TTABLE))
        return;
    int table = lua_gettop(L);
    snprintf(where, sizeof(where), "%s: %s", what, name);
    for (size_t i = 0; i < n; i++)
        names[i] = numbers[i].name;
    options_check(L, table, where, names);
    for (size_t i = 0; i < n; i++) {
        char *field = (char *)to + numbers[i].offset;
        uint64_t wide = (uint64_t)option_number(L, table, where, names[i],
                                                numbers[i].size == sizeof(uint32_t) ? UINT32_MAX : INT64_MAX);
        uint32_t narrow = (uint32_t)wide;
        if (numbers[i].size == sizeof(narrow))
            memcpy(field, &narrow, sizeof(narrow));
        else
            memcpy(field, &wide, sizeof(wide));
    }
    lua_pop(L, 1);
}

/* { ["chat/completions"] = "/path", ["*"] = "/path" }; the array stays on the stack. */
static void read_routes(lua_State *L, int index, deputy_options *options)
{
    size_t n = 0;
    if (!option_push(L, index, what, "inference", LUA_TTABLE))
        return;
    int table = lua_gettop(L);
    lua_pushnil(L);
    for (; lua_next(L, table); n++) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s: inference: expected { endpoint = path } with strings", what);
        lua_pop(L, 1);
    }
    if (n == 0)
        return;
    deputy_route *routes = lua_newuserdatauv(L, n * sizeof(*routes), 0);
    options->inference = routes;
    lua_pushnil(L);
    for (; options->n_inference < n && lua_next(L, table); options->n_inference++) {
        routes[options->n_inference].endpoint = lua_tostring(L, -2);
        routes[options->n_inference].path = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
}

static void read_settings(lua_State *L, int index, deputy_options *options)
{
    if (!option_push(L, index, what, "settings", LUA_TTABLE))
        return;
    json_encode(L, -1);
    options->policy_settings = lua_tostring(L, -1);
    if (options->policy_settings[0] != '{')
        luaL_error(L, "%s: settings: expected a table of names, got an array", what);
}

static void read_gate(lua_State *L, int index, deputy_options *options)
{
    const char *gate = option_string(L, index, what, "gate");
    if (gate && strcmp(gate, "policy") == 0)
        options->gate = DEPUTY_GATE_POLICY;
    else if (gate && strcmp(gate, "probe") != 0)
        luaL_error(L, "%s: gate: expected \"probe\" or \"policy\", got \"%s\"", what, gate);
}

static void read_probe_method(lua_State *L, int index, deputy_options *options)
{
    const char *method = option_string(L, index, what, "probe_method");
    if (method && strcmp(method, "GET") == 0)
        options->probe_get = true;
    else if (method && strcmp(method, "HEAD") != 0)
        luaL_error(L, "%s: probe_method: expected \"HEAD\" or \"GET\", got \"%s\"", what, method);
}

static void read_verify(lua_State *L, int index, deputy_options *options)
{
    const char *verify = option_string(L, index, what, "verify");
    if (verify && strcmp(verify, "warn") == 0)
        options->verify = DEPUTY_VERIFY_WARN;
    else if (verify && strcmp(verify, "off") == 0)
        options->verify = DEPUTY_VERIFY_OFF;
    else if (verify && strcmp(verify, "refuse") != 0)
        luaL_error(L, "%s: verify: expected \"refuse\", \"warn\" or \"off\", got \"%s\"", what, verify);
}

/* Keeps a function as a user value of the router at index self. */
static bool keep_function(lua_State *L, int index, const char *name, int self, int value)
{
    if (!option_push(L, index, what, name, LUA_TFUNCTION))
        return false;
    lua_setiuservalue(L, self, value);
    return true;
}

static void read_options(lua_State *L, int index, int self, struct lua_router *router, deputy_options *options)
{
    static const char *const known[] = {
        "central_url", "bearer_token", "policy", "ca_file", "probe_path", "inference", "settings",     "gate",
        "permit_ms",   "timeouts",     "limits", "on_log",  "probe",      "verify",    "probe_method", NULL};
    options_check(L, index, what, known);
    options->central_url = option_string(L, index, what, "central_url");
    options->bearer_token = option_string(L, index, what, "bearer_token");
    options->ca_file = option_string(L, index, what, "ca_file");
    options->probe_path = option_string(L, index, what, "probe_path");
    options->permit_ms = (uint32_t)option_number(L, index, what, "permit_ms", UINT32_MAX);
    read_gate(L, index, options);
    read_verify(L, index, options);
    read_probe_method(L, index, options);
    read_numbers(L, index, "timeouts", timeouts, sizeof(timeouts) / sizeof(timeouts[0]), &options->timeouts);
    read_numbers(L, index, "limits", limits, sizeof(limits) / sizeof(limits[0]), &options->limits);
    read_routes(L, index, options);
    read_settings(L, index, options);
    options->log_user = options->probe_user = router;
    if (keep_function(L, index, "on_log", self, ROUTER_ON_LOG))
        options->on_log = on_log;
    if (keep_function(L, index, "probe", self, ROUTER_PROBE))
        options->probe = on_probe;
}

/* ---- the policy that came with the module ------------------------------------------------------------------------ */

static bool try_path(char *out, const char *dir, size_t len, const char *rest)
{
    int n = snprintf(out, PATH_MAX, "%.*s%s", (int)len, dir, rest);
    return n > 0 && n < PATH_MAX && access(out, R_OK) == 0;
}

/* Where DEPUTY_LUA says; else beside the module in a build tree; else in the share folder it was installed with,
 * wherever that was moved to; else where it was meant to be. */
static bool find_policy(char out[PATH_MAX])
{
    Dl_info info;
    char module[PATH_MAX];
    const char *given = getenv("DEPUTY_LUA");
    if (given && *given)
        return try_path(out, given, strlen(given), "/router.lua");
    if (dladdr((const void *)what, &info) && info.dli_fname && realpath(info.dli_fname, module)) {
        const char *slash = strrchr(module, '/');
        size_t len = slash ? (size_t)(slash - module) : 0;
        if (try_path(out, module, len, "/../lua/router.lua") ||
            try_path(out, module, len, "/../../../share/deputy/lua/router.lua"))
            return true;
    }
    return try_path(out, "", 0, DEPUTY_DATADIR "/lua/router.lua");
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static int close_router(lua_State *L)
{
    struct lua_router *r = luaL_checkudata(L, 1, ROUTER_TYPE);
    if (r->frame)
        return luaL_error(L, "a router cannot be closed from inside a callback of its own");
    deputy_engine_free(r->engine);
    deputy_provider_unref(r->primary);
    r->engine = NULL;
    r->primary = NULL;
    return 0;
}

int router_make(lua_State *L)
{
    deputy_options options = DEPUTY_INIT(deputy_options);
    deputy_error error;
    char found[PATH_MAX];
    struct lua_registry *registry = registry_check(L, 1);
    lua_settop(L, 2);
    if (lua_isnil(L, 2)) {
        lua_newtable(L);
        lua_replace(L, 2);
    }
    if (!lua_istable(L, 2))
        luaL_error(L, "%s: expected a table of options as the second argument, got a %s", what, luaL_typename(L, 2));
    struct lua_router *router = lua_newuserdatauv(L, sizeof(*router), ROUTER_USER_VALUES);
    memset(router, 0, sizeof(*router));
    luaL_setmetatable(L, ROUTER_TYPE);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, 3, ROUTER_REGISTRY);
    read_options(L, 2, 3, router, &options);
    const char *policy = option_string(L, 2, what, "policy");
    if (!policy && !find_policy(found))
        luaL_error(L,
                   "%s: the policy that comes with this module was not found: give policy = \"path/to/router.lua\", or "
                   "name its folder in DEPUTY_LUA",
                   what);
    int code = primary_new(router, &router->primary, &error);
    if (code == DEPUTY_OK)
        code = engine_new(&options, registry->registry, &router->engine, &error);
    if (code == DEPUTY_OK)
        code = load_policy(L, router, 3, policy ? policy : found, &error);
    if (code != DEPUTY_OK)
        return luaL_error(L, "%s: %s", what, error.message);
    lua_settop(L, 3);
    return 1;
}

void router_type(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"run", run}, {"complete", complete}, {"check_auth", check_auth}, {"load_policy", reload_policy}, {NULL, NULL}};
    luaL_newmetatable(L, ROUTER_TYPE);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, close_router);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__gc");
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
}
