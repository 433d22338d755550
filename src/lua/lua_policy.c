/* Loading a policy: the libraries a script may use, and the two public functions that load one. */
#include "base/error.h"
#include "core/engine.h"
#include "lua/lua_globals.h"
#include "lua/lua_sandbox.h"
#include "lua/lua_values.h"
#include "lua/lua_verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCRIPT_MAX = 1 << 20 };

/* ---- what a script may call ---------------------------------------------------------------------------------------
 */

static int open_all(lua_State *L)
{
    const char *settings = lua_tostring(L, 1);
    lua_sandbox_push(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    /* errors look there for names of functions, and a script could make that search long */
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_failure_open(L);
    lua_probe_open(L);
    lua_reply_open(L);
    lua_candidate_open(L);
    lua_run_open(L);
    lua_globals_add(L, settings); /* what comes on top of the sandbox's libraries */
    return 0;
}

/* ---- public -------------------------------------------------------------------------------------------------------
 */

int deputy_load_policy_text(deputy_engine *engine, const char *name, const char *text, size_t len, deputy_error *error)
{
    static const struct policy_bindings bindings = {
        .open = open_all, .route = lua_run_route, .verdict = lua_run_verdict};
    struct policy *policy;
    int code = engine_enter(engine, false, error);
    if (code != DEPUTY_OK)
        return code;
    if (!name || (!text && len > 0))
        return error_set(error, DEPUTY_EINVAL, "expected a policy's name and its text, got NULL");
    if (len > SCRIPT_MAX)
        return error_set(error, DEPUTY_ELIMIT, "%s: a policy has at most %d bytes, this one has %zu", name, SCRIPT_MAX,
                         len);
    code = policy_load(name, text, len, &engine->options.limits, engine->options.policy_settings, &bindings, engine,
                       &policy, error);
    if (code == DEPUTY_OK && (code = lua_verify_at_load(engine, name, text, len, error)) != DEPUTY_OK)
        policy_unref(policy);
    if (code != DEPUTY_OK)
        return code;
    policy_unref(engine->policy); /* runs in flight hold their own reference */
    engine->policy = policy;
    return DEPUTY_OK;
}

int lua_policy_read(const char *path, char **text, size_t *len, deputy_error *error)
{
    *text = NULL;
    *len = 0;
    if (!path)
        return error_set(error, DEPUTY_EINVAL, "expected the path of a policy, got NULL");
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(error, DEPUTY_EIO, "cannot read the policy %s: no such file, or not readable", path);
    int code = DEPUTY_OK;
    char *buffer = malloc(SCRIPT_MAX + 1);
    if (!buffer)
        code = error_set(error, DEPUTY_ENOMEM, "out of memory while reading %s", path);
    else
        *len = fread(buffer, 1, SCRIPT_MAX + 1, file);
    if (code == DEPUTY_OK && ferror(file))
        code = error_set(error, DEPUTY_EIO, "cannot read the policy %s: it is a directory or unreadable", path);
    else if (*len > SCRIPT_MAX)
        code = error_set(error, DEPUTY_ELIMIT, "%s: a policy has at most %d bytes", path, SCRIPT_MAX);
    fclose(file);
    if (code != DEPUTY_OK)
        free(buffer);
    else
        *text = buffer;
    return code;
}

int deputy_load_policy(deputy_engine *engine, const char *path, deputy_error *error)
{
    char *text;
    size_t len;
    int code = lua_policy_read(path, &text, &len, error);
    if (code != DEPUTY_OK)
        return code;
    code = deputy_load_policy_text(engine, path, text, len, error);
    free(text);
    return code;
}
