#include "central/central.h"

#include "lua_dir.h"
#include "lua_main.h"

#include <lauxlib.h>
#include <string.h>

/* The string stays where it is in the table, which outlives the call. */
static const char *get_string(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    const char *value = lua_tostring(L, -1);
    lua_pop(L, 1);
    return value;
}

static size_t get_size(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    lua_Integer value = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    return (size_t)value;
}

static uint32_t get_number(lua_State *L, const char *name)
{
    return (uint32_t)get_size(L, name);
}

static deputy_log_level level_of(const char *word)
{
    return strcmp(word, "error") == 0  ? DEPUTY_LOG_ERROR
           : strcmp(word, "warn") == 0 ? DEPUTY_LOG_WARN
           : strcmp(word, "info") == 0 ? DEPUTY_LOG_INFO
                                       : DEPUTY_LOG_DEBUG;
}

/* serve(settings): one flat table, see lua/central/admin_serve.lua. The exit code, when the server has ended. */
static int serve(lua_State *L)
{
    char lua_dir[4096];
    luaL_checktype(L, 1, LUA_TTABLE);
    int status = lua_dir_find(&central_command, lua_dir, sizeof(lua_dir));
    if (status == STATUS_OK) {
        struct central_settings settings = {
            .listen = get_string(L, "listen"),
            .db = get_string(L, "db"),
            .lua_dir = lua_dir,
            .log_json = strcmp(get_string(L, "logFormat"), "json") == 0,
            .log_level = level_of(get_string(L, "logLevel")),
            .max_body_bytes = get_number(L, "maxBodyBytes"),
            .max_buffered_bytes = get_size(L, "maxBufferedBytes"),
            .max_connections = get_number(L, "maxConnections"),
            .max_in_flight = get_number(L, "maxInFlight"),
            .drain_ms = get_number(L, "drainMs"),
            .timeouts = {.connect_ms = get_number(L, "connectMs"),
                         .first_byte_ms = get_number(L, "firstByteMs"),
                         .idle_ms = get_number(L, "idleMs"),
                         .total_ms = get_number(L, "totalMs")},
            .ca_file = get_string(L, "caFile"),
        };
        status = central_run(&settings) == 0 ? STATUS_OK : STATUS_FAILED;
    }
    lua_pushinteger(L, status);
    return 1;
}

static int run(int argc, char **argv)
{
    static const struct luaL_Reg lent[] = {{"serve", serve}, {NULL, NULL}};
    return lua_main(&central_command, "central.admin", argc, argv, lent);
}

const struct command central_command = {
    .name = "central",
    .summary = "the control plane: serve it; administer LLMs, users, permissions",
    .main = run,
};
