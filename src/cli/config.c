#include "config.h"

#include "lua_dir.h"
#include "options.h"

#include <errno.h>
#include <lauxlib.h>
#include <lua-cjson.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char minimal[] =
    "A minimal one:\n"
    "  {\n"
    "    \"central\": { \"url\": \"https://central.example\", \"bearerTokenFile\": \"token\" }\n"
    "  }\n";

/* ---- finding files ---------------------------------------------------------------------------------------------- */

static int no_config(const struct command *command, FILE *problems, const char *tried, const char *tried_too)
{
    if (problems != stderr && problems != stdout) {
        fprintf(problems, "there is no configuration: tried %s\n", tried);
        return STATUS_FAILED;
    }
    if (tried_too[0])
        complain(command, "there is no configuration: tried %s and %s; name one with -c FILE", tried, tried_too);
    else
        complain(command, "there is no configuration: tried %s", tried);
    fputs(minimal, stderr);
    return STATUS_FAILED;
}

/* The usual place for one's own; "" when there is none. */
static void name_own_config(char *out, size_t size)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    out[0] = '\0';
    if (xdg && xdg[0] == '/')
        snprintf(out, size, "%s/deputy/deputy.json", xdg);
    else if (home && home[0])
        snprintf(out, size, "%s/.config/deputy/deputy.json", home);
}

bool config_exists(const struct options *options)
{
    char own[4096];
    if (options->config || access("deputy.json", F_OK) == 0)
        return true;
    name_own_config(own, sizeof(own));
    return own[0] && access(own, F_OK) == 0;
}

static int find_config(const struct options *options, FILE *problems, struct config *config)
{
    char second[sizeof(config->file)];
    const char *first = options->config ? options->config : "deputy.json";
    if (snprintf(config->file, sizeof(config->file), "%s", first) >= (int)sizeof(config->file))
        return complain(options->command, "the configuration's name is longer than %zu bytes",
                        sizeof(config->file) - 1);
    if (access(first, F_OK) == 0 || errno != ENOENT)
        return STATUS_OK; /* what else is wrong with it is found when it is read */
    if (options->config)
        return no_config(options->command, problems, first, "");
    name_own_config(second, sizeof(second));
    if (!second[0] || access(second, F_OK) != 0)
        return no_config(options->command, problems, first, second);
    memcpy(config->file, second, sizeof(second));
    return STATUS_OK;
}

/* ---- from Lua (all of it in one protected call) -------------------------------------------------------------------
 */

/* The string stays where it is in the settings, so the pointer does too. */
static const char *get_string(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    const char *value = lua_tostring(L, -1);
    lua_pop(L, 1);
    return value;
}

static size_t get_size(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    lua_Integer value = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    return (size_t)value;
}

static uint32_t get_number(lua_State *L, int table, const char *name)
{
    return (uint32_t)get_size(L, table, name);
}

/* Zeroed memory that lives as long as the state. */
static void *keep(lua_State *L, size_t n, size_t size)
{
    void *memory = lua_newuserdatauv(L, n * size + 1, 0);
    memset(memory, 0, n * size + 1);
    luaL_ref(L, LUA_REGISTRYINDEX);
    return memory;
}

static void take_routes(lua_State *L, int central, deputy_options *o)
{
    size_t n = 0;
    lua_getfield(L, central, "inference");
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        n++;
    deputy_route *routes = keep(L, n, sizeof(*routes));
    o->inference = routes;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        routes[o->n_inference++] = (deputy_route){lua_tostring(L, -2), lua_tostring(L, -1)};
    lua_pop(L, 1);
}

/* Seconds or minutes, which may have a fraction; false: never. */
static uint32_t get_duration(lua_State *L, int table, const char *name, lua_Number unit_ms)
{
    uint32_t ms = UINT32_MAX;
    if (lua_getfield(L, table, name) == LUA_TNUMBER) {
        lua_Number exact = lua_tonumber(L, -1) * unit_ms;
        ms = exact < 1 ? 1 : (uint32_t)exact;
    }
    lua_pop(L, 1);
    return ms;
}

/* Ended by NULL. */
static const char *const *get_strings(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    size_t n = (size_t)lua_rawlen(L, -1);
    const char **strings = keep(L, n + 1, sizeof(*strings));
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        strings[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return strings;
}

static deputy_prewarm prewarm_of(const char *word)
{
    return strcmp(word, "at-start") == 0     ? DEPUTY_PREWARM_AT_START
           : strcmp(word, "on-failure") == 0 ? DEPUTY_PREWARM_ON_FAILURE
                                             : DEPUTY_PREWARM_ON_DEMAND;
}

/* What presets.lua made of the provider. */
static void take_launch(lua_State *L, int provider, struct managed_config *managed)
{
    deputy_managed_options *o = &managed->options;
    int launch = lua_gettop(L);
    o->command = get_strings(L, launch, "command");
    o->env = get_strings(L, launch, "env");
    o->model = get_string(L, launch, "model");
    o->health_path = get_string(L, launch, "health_path");
    o->base_path = get_string(L, launch, "base_path");
    lua_getfield(L, launch, "wants_key");
    managed->wants_key = lua_toboolean(L, -1);
    lua_getfield(L, provider, "port");
    o->port = (uint16_t)lua_tointeger(L, -1);
    lua_getfield(L, provider, "restart");
    o->restarts = get_number(L, lua_gettop(L), "attempts");
    o->backoff_ms = get_number(L, lua_gettop(L), "backoffMs");
    o->retry_ms = get_duration(L, lua_gettop(L), "retrySeconds", 1000);
    const char *listener = get_string(L, provider, "listener");
    o->any_listener = listener && strcmp(listener, "any") == 0;
    lua_pop(L, 3);
}

static void take_managed(lua_State *L, int provider, struct provider_config *p)
{
    if (lua_getfield(L, provider, "launch") != LUA_TTABLE) {
        lua_pop(L, 1);
        return;
    }
    struct managed_config *managed = keep(L, 1, sizeof(*managed));
    deputy_managed_options *o = &managed->options;
    *o = DEPUTY_INIT(deputy_managed_options);
    o->name = p->name;
    o->cwd = get_string(L, provider, "cwd");
    o->api_key = p->api_key;
    o->ready_ms = get_duration(L, provider, "readySeconds", 1000);
    o->idle_ms = get_duration(L, provider, "idleTimeoutMinutes", 60000);
    o->stop_grace_ms = get_duration(L, provider, "stopGraceSeconds", 1000);
    o->max_concurrent = get_number(L, provider, "maxConcurrent");
    o->max_queued = get_number(L, provider, "maxQueued");
    o->prewarm = prewarm_of(get_string(L, provider, "prewarm"));
    take_launch(L, provider, managed);
    p->managed = managed;
    lua_pop(L, 1);
}

static void take_provider(lua_State *L, struct provider_config *p)
{
    int at = lua_gettop(L);
    p->name = get_string(L, at, "name");
    p->type = get_string(L, at, "type");
    p->url = get_string(L, at, "url");
    p->model = get_string(L, at, "model");
    p->api_key = get_string(L, at, "apiKey");
    p->ca_file = get_string(L, at, "caFile");
    take_managed(L, at, p);
    if (lua_getfield(L, at, "failoverFor") == LUA_TTABLE) {
        p->n_llms = (size_t)lua_rawlen(L, -1);
        p->llms = keep(L, p->n_llms, sizeof(*p->llms));
        for (size_t i = 0; i < p->n_llms; i++) {
            lua_rawgeti(L, -1, (lua_Integer)i + 1);
            p->llms[i] = lua_tostring(L, -1);
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}

static void take_providers(lua_State *L, struct config *config)
{
    lua_getfield(L, 1, "providers");
    config->n_providers = (size_t)lua_rawlen(L, -1);
    config->providers = keep(L, config->n_providers, sizeof(*config->providers));
    for (size_t i = 0; i < config->n_providers; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        take_provider(L, &config->providers[i]);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static struct gateway_list get_list(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    size_t n = (size_t)lua_rawlen(L, -1);
    const char **items = keep(L, n, sizeof(*items));
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        items[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return (struct gateway_list){items, n};
}

static deputy_log_level level_of(const char *word)
{
    return strcmp(word, "error") == 0  ? DEPUTY_LOG_ERROR
           : strcmp(word, "warn") == 0 ? DEPUTY_LOG_WARN
           : strcmp(word, "info") == 0 ? DEPUTY_LOG_INFO
                                       : DEPUTY_LOG_DEBUG;
}

static bool is_default_control(const char *control)
{
    char usual[4200];
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (!control || !runtime)
        return false;
    int n = snprintf(usual, sizeof(usual), "unix:%s/deputy.sock", runtime);
    return n > 0 && (size_t)n < sizeof(usual) && strcmp(control, usual) == 0;
}

static void take_gateway(lua_State *L, struct config *config)
{
    lua_getfield(L, 1, "gateway");
    lua_getfield(L, 1, "log");
    int log = lua_gettop(L), gateway = log - 1;
    config->gateway = (struct gateway_settings){
        .listen = get_string(L, gateway, "listen"),
        .workers = get_number(L, gateway, "workers"),
        .api_keys = get_list(L, gateway, "apiKeys"),
        .allowed_hosts = get_list(L, gateway, "allowedHosts"),
        .allowed_origins = get_list(L, gateway, "allowedOrigins"),
        .max_body_bytes = get_number(L, gateway, "maxBodyBytes"),
        .max_buffered_bytes = get_size(L, gateway, "maxBufferedBytes"),
        .max_connections = get_number(L, gateway, "maxConnections"),
        .max_in_flight = get_number(L, gateway, "maxInFlight"),
        .whole = strcmp(get_string(L, gateway, "streaming"), "whole") == 0,
        .drain_ms = get_number(L, gateway, "drainMs"),
        .log_json = strcmp(get_string(L, log, "format"), "json") == 0,
        .log_level = level_of(get_string(L, log, "level")),
        .script = config->script,
        .config_file = realpath(config->file, config->full_file) ? config->full_file : config->file,
        .control = get_string(L, gateway, "control"),
    };
    config->gateway.control_is_default = is_default_control(config->gateway.control);
    config->max_reply_bytes = get_number(L, gateway, "maxReplyBytes");
    lua_pop(L, 2);
}

static void take_settings(lua_State *L, struct config *config)
{
    deputy_options *o = &config->options;
    lua_getfield(L, 1, "central");
    lua_getfield(L, 1, "policy");
    lua_getfield(L, 1, "timeouts");
    o->central_url = get_string(L, 2, "url");
    o->bearer_token = get_string(L, 2, "bearerToken");
    o->ca_file = get_string(L, 2, "caFile");
    o->probe_path = get_string(L, 2, "probe");
    o->probe_get = strcmp(get_string(L, 2, "probeMethod"), "GET") == 0;
    take_routes(L, 2, o);
    o->policy_settings = get_string(L, 3, "settingsText");
    o->gate = strcmp(get_string(L, 3, "gate"), "policy") == 0 ? DEPUTY_GATE_POLICY : DEPUTY_GATE_PROBE;
    const char *verify = get_string(L, 3, "verify");
    o->verify = strcmp(verify, "off") == 0    ? DEPUTY_VERIFY_OFF
                : strcmp(verify, "warn") == 0 ? DEPUTY_VERIFY_WARN
                                              : DEPUTY_VERIFY_REFUSE;
    o->permit_ms = get_number(L, 3, "permitMs");
    o->timeouts = (deputy_timeouts){
        .connect_ms = get_number(L, 4, "connectMs"),
        .first_byte_ms = get_number(L, 4, "firstByteMs"),
        .first_token_ms = get_number(L, 4, "firstTokenMs"),
        .idle_ms = get_number(L, 4, "idleMs"),
        .total_ms = get_number(L, 4, "totalMs"),
        .probe_ms = get_number(L, 4, "probeMs"),
    };
    const char *script = get_string(L, 3, "script");
    int n = script ? snprintf(config->script, sizeof(config->script), "%s", script)
                   : snprintf(config->script, sizeof(config->script), "%s/router.lua", config->lua_dir);
    if (n < 0 || (size_t)n >= sizeof(config->script))
        luaL_error(L, "the path of the policy's script is longer than %d bytes", (int)sizeof(config->script) - 1);
    take_providers(L, config);
    take_gateway(L, config);
}

/* mode(path): its permission bits, or nil. */
static int mode_of(lua_State *L)
{
    struct stat st;
    if (stat(luaL_checkstring(L, 1), &st) != 0)
        return 0;
    lua_pushinteger(L, st.st_mode & 0777);
    return 1;
}

struct reading {
    struct config *config;
    FILE *problems, *warnings;
    bool ok;
};

/* Arguments: the module, an array of problems. */
static void print_problems(lua_State *L, int module, int problems, const char *file, FILE *out)
{
    for (lua_Integer i = 1; lua_rawgeti(L, problems, i) == LUA_TTABLE; i++) {
        lua_getfield(L, module, "format");
        lua_insert(L, -2);
        lua_pushstring(L, file);
        lua_call(L, 2, 1);
        fprintf(out, "%s\n", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void load_module(lua_State *L, const char *dir)
{
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_cjson);
    lua_setfield(L, -2, "cjson");
    lua_getglobal(L, "package");
    lua_pushfstring(L, "%s/?.lua", dir); /* nothing else: what is in LUA_PATH is not ours */
    lua_setfield(L, -2, "path");
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "cpath");
    lua_getglobal(L, "require");
    lua_pushliteral(L, "deputy.config");
    lua_call(L, 1, 1);
}

static int read_config(lua_State *L)
{
    struct reading *reading = lua_touserdata(L, 1);
    struct config *config = reading->config;
    load_module(L, config->lua_dir);
    int module = lua_gettop(L);
    lua_getfield(L, module, "load");
    lua_pushstring(L, config->file);
    lua_newtable(L);
    lua_pushcfunction(L, mode_of);
    lua_setfield(L, -2, "mode");
    char here[4096];
    if (getcwd(here, sizeof(here))) {
        lua_pushstring(L, here);
        lua_setfield(L, -2, "here");
    }
    lua_call(L, 2, 2);
    int settings = lua_gettop(L) - 1;
    reading->ok = lua_istable(L, settings);
    FILE *out = reading->ok ? reading->warnings : reading->problems;
    if (out)
        print_problems(L, module, settings + 1, config->file, out);
    if (!reading->ok)
        return 0;
    lua_pushvalue(L, settings);
    luaL_ref(L, LUA_REGISTRYINDEX); /* the strings in it are used until the state is closed */
    lua_settop(L, settings);
    lua_replace(L, 1);
    lua_settop(L, 1);
    take_settings(L, config);
    return 0;
}

int config_default_script(const struct options *options, char *out, size_t size)
{
    char dir[4096];
    int status = lua_dir_find(options->command, dir, sizeof(dir));
    if (status == STATUS_OK && snprintf(out, size, "%s/router.lua", dir) >= (int)size)
        status = complain(options->command, "the path of the default policy is longer than %zu bytes", size - 1);
    return status;
}

int config_load(const struct options *options, FILE *problems, FILE *warnings, struct config *config)
{
    memset(config, 0, sizeof(*config));
    config->options = DEPUTY_INIT(deputy_options);
    int status = lua_dir_find(options->command, config->lua_dir, sizeof(config->lua_dir));
    if (status == STATUS_OK)
        status = find_config(options, problems, config);
    if (status != STATUS_OK)
        return status;
    struct reading reading = {.config = config, .problems = problems, .warnings = warnings};
    config->L = luaL_newstate();
    if (!config->L)
        return complain(options->command, "out of memory");
    lua_pushcfunction(config->L, read_config);
    lua_pushlightuserdata(config->L, &reading);
    if (lua_pcall(config->L, 1, 0, 0) != LUA_OK)
        return complain(options->command, "%s: %s", config->file, lua_tostring(config->L, -1));
    return reading.ok ? STATUS_OK : STATUS_FAILED;
}

void config_free(struct config *config)
{
    if (config->L)
        lua_close(config->L);
    config->L = NULL;
    free(config->policy_text);
    config->policy_text = NULL;
}
