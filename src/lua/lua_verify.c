/* Verifying a policy: lua/deputy/verify.lua, from within the library, in a trusted Lua state of its own. The script
 * under test gets an environment made by the sandbox, and simulated runs; it never meets an engine. */
#include "lua/lua_verify.h"

#include "base/error.h"
#include "lua/lua_globals.h"
#include "lua/lua_sandbox.h"
#include "net/loop.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOOK_EVERY = 10000, SCRIPT_MS = 500, SCRIPT_BYTES = 8 << 20, MARGIN_MS = 500 };

static const size_t memory_max = (size_t)256 << 20;
static const char job_key;

struct job {
    const char *name, *text, *settings, *format;
    size_t len;
    unsigned depth;
    deputy_gate gate;
    uint32_t permit_ms;
    uint64_t until_us, timeout_ms;
    /* what comes out */
    bool fail_closed;
    char *report;
    char first[320]; /* the first finding, or why it was ended early */
    bool found;
};

static struct job *job_of(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &job_key);
    struct job *job = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return job;
}

/* Set far enough behind verify's own time limit that only a script that runs away is ended here. */
static void on_count(lua_State *L, lua_Debug *record)
{
    (void)record;
    if (loop_now_us() > job_of(L)->until_us) {
        lua_pushliteral(L, "the script could not be verified in the time allowed"); /* where is of no interest */
        lua_error(L);
    }
}

/* The same clock as on_count's: on a busy machine the processor's is late, and the report would be lost. */
static int push_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)loop_now_us() / 1e6);
    return 1;
}

/* resume(instructions, co, ...): as coroutine.resume, for the script's code, with the limits that a run has. Gives how
 * many instructions are left, then what ran out (or nil), then what coroutine.resume gives. */
static int resume_script(lua_State *L)
{
    struct budget budget = {
        .instructions = (uint64_t)luaL_checkinteger(L, 1),
        .compute_us = (uint64_t)SCRIPT_MS * 1000,
        .max_bytes = SCRIPT_BYTES,
    };
    lua_State *co = lua_tothread(L, 2);
    int n = lua_gettop(L) - 2;
    luaL_argexpected(L, co, 2, "coroutine");
    if (!lua_checkstack(co, n))
        return luaL_error(L, "too many arguments to resume");
    lua_xmove(L, co, n);
    int status = policy_resume_limited(L, co, &budget, n, &n);
    bool went_well = (status == LUA_OK || status == LUA_YIELD) && !budget.killed;
    n = went_well ? n : 1;
    luaL_checkstack(L, n + 3, "too many results to resume");
    lua_pushinteger(L, (lua_Integer)budget.instructions);
    lua_pushstring(L, budget.killed);
    lua_pushboolean(L, went_well);
    if (budget.killed)
        lua_pushstring(L, budget.killed);
    else
        lua_xmove(co, L, n);
    return n + 3;
}

static int push_environment(lua_State *L)
{
    lua_sandbox_push(L);
    lua_globals_add(L, job_of(L)->settings);
    return 1;
}

static void keep_finding(lua_State *L, struct job *job)
{
    int report = lua_gettop(L);
    if (lua_getfield(L, report, "findings") == LUA_TTABLE && lua_rawgeti(L, -1, 1) == LUA_TTABLE &&
        lua_getfield(L, -1, "message") == LUA_TSTRING)
        job->found = true;
    else
        lua_getfield(L, report, "stopped");
    if (lua_type(L, -1) == LUA_TSTRING)
        snprintf(job->first, sizeof(job->first), "%s%s", job->found ? "" : "it was ended early, ", lua_tostring(L, -1));
}

static int verify_protected(lua_State *L)
{
    struct job *job = lua_touserdata(L, 1);
    lua_pushlightuserdata(L, job);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &job_key);
    luaL_openlibs(L);
    lua_pushglobaltable(L);
    lua_globals_push_require(L);
    lua_pushvalue(L, -1);
    lua_setglobal(L, "require");
    lua_pushliteral(L, "deputy.verify");
    lua_call(L, 1, 1);
    int module = lua_gettop(L);
    lua_getfield(L, module, "run");
    lua_newtable(L);
    lua_pushstring(L, job->name);
    lua_setfield(L, -2, "name");
    lua_pushlstring(L, job->text, job->len);
    lua_setfield(L, -2, "text");
    lua_pushstring(L, job->gate == DEPUTY_GATE_POLICY ? "policy" : "probe");
    lua_setfield(L, -2, "gate");
    lua_pushinteger(L, (lua_Integer)job->depth);
    lua_setfield(L, -2, "depth");
    lua_pushinteger(L, (lua_Integer)job->permit_ms);
    lua_setfield(L, -2, "permit_ms");
    lua_pushnumber(L, (lua_Number)job->timeout_ms / 1000);
    lua_setfield(L, -2, "timeout_s");
    lua_pushcfunction(L, push_now);
    lua_setfield(L, -2, "clock");
    lua_pushcfunction(L, push_environment);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "environment");
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "settings");
    lua_setfield(L, -3, "settings");
    lua_pop(L, 1);
    lua_pushcfunction(L, resume_script);
    lua_setfield(L, -2, "resume");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "fail_closed");
    job->fail_closed = lua_isboolean(L, -1) && lua_toboolean(L, -1);
    lua_pop(L, 1);
    int report = lua_gettop(L);
    keep_finding(L, job);
    lua_settop(L, report);
    if (!job->format)
        return 0;
    lua_getfield(L, module, "format");
    lua_pushvalue(L, report);
    lua_pushstring(L, job->format);
    lua_call(L, 2, 1);
    job->report = strdup(luaL_checkstring(L, -1));
    return 0;
}

static int do_job(struct job *job, deputy_error *error)
{
    struct policy *state = policy_bare(memory_max);
    if (!state)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while verifying %s", job->name);
    lua_State *L = policy_state(state);
    job->until_us = loop_now_us() + (job->timeout_ms + MARGIN_MS) * 1000;
    lua_sethook(L, on_count, LUA_MASKCOUNT, HOOK_EVERY);
    lua_pushcfunction(L, verify_protected);
    lua_pushlightuserdata(L, job);
    int status = lua_pcall(L, 1, 0, 0), code = DEPUTY_OK;
    if (status != LUA_OK) {
        const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error that is not a string";
        job->fail_closed = false;
        code = error_set(error, status == LUA_ERRMEM ? DEPUTY_ENOMEM : DEPUTY_EPOLICY, "cannot verify %s: %s",
                         job->name, text);
    }
    lua_sethook(L, NULL, 0, 0);
    policy_unref(state);
    if (code == DEPUTY_OK && job->format && !job->report)
        code = error_set(error, DEPUTY_ENOMEM, "out of memory for the report on %s", job->name);
    return code;
}

int lua_verify_at_load(const struct deputy_engine *engine, const char *name, const char *text, size_t len,
                       deputy_error *error)
{
    const deputy_options *o = &engine->options;
    struct job job = {
        .name = name,
        .text = text,
        .len = len,
        .settings = o->policy_settings,
        .gate = o->gate,
        .permit_ms = o->permit_ms,
        .depth = 1,
        .timeout_ms = 2500,
    };
    if (o->verify == DEPUTY_VERIFY_OFF)
        return DEPUTY_OK;
    int code = do_job(&job, error);
    if (code == DEPUTY_OK && job.fail_closed)
        return DEPUTY_OK;
    if (code == DEPUTY_OK)
        code = error_set(error, DEPUTY_EPOLICY,
                         "the policy %s is not %sfail-closed: %s (deputy verify tells more; switch: policy.verify)",
                         name, job.found ? "" : "known to be ", job.first);
    if (o->verify != DEPUTY_VERIFY_WARN)
        return code;
    engine_log(engine, DEPUTY_LOG_WARN, "%s", error ? error->message : "the policy is not fail-closed");
    return DEPUTY_OK;
}

int deputy_verify_policy(const deputy_verify_options *options, const char *path, char **report, bool *fail_closed,
                         deputy_error *error)
{
    static const deputy_verify_options defaults = {.size = sizeof(defaults)};
    const deputy_verify_options *o = options ? options : &defaults;
    char *text;
    size_t len;
    if (!report || !fail_closed)
        return error_set(error, DEPUTY_EINVAL, "expected places for the report and the finding, got NULL");
    *report = NULL;
    *fail_closed = false;
    if (o->size != sizeof(*o))
        return error_set(error, DEPUTY_EABI,
                         "deputy_verify_options: expected a size of %zu, got %zu: use "
                         "DEPUTY_INIT(deputy_verify_options)",
                         sizeof(*o), o->size);
    const char *format = o->format ? o->format : "text";
    if (strcmp(format, "text") != 0 && strcmp(format, "brief") != 0 && strcmp(format, "json") != 0 &&
        strcmp(format, "markdown") != 0)
        return error_set(error, DEPUTY_EINVAL,
                         "format: expected \"text\", \"brief\", \"json\" or \"markdown\", got \"%s\"", format);
    if (o->depth > 6)
        return error_set(error, DEPUTY_EINVAL, "depth: expected 1 to 6 requests in a row, got %u", o->depth);
    int code = lua_policy_read(path, &text, &len, error);
    if (code != DEPUTY_OK)
        return code;
    struct job job = {
        .name = path,
        .text = text,
        .len = len,
        .settings = o->policy_settings ? o->policy_settings : "{}",
        .gate = o->gate,
        .permit_ms = o->permit_ms ? o->permit_ms : 5000,
        .depth = o->depth ? o->depth : 3,
        .timeout_ms = o->timeout_ms ? o->timeout_ms : 60000,
        .format = format,
    };
    code = do_job(&job, error);
    free(text);
    *report = job.report;
    *fail_closed = code == DEPUTY_OK && job.fail_closed;
    return code;
}
