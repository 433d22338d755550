#include "lua_main.h"

#include "central/modules.h"
#include "lua_dir.h"

#include <lauxlib.h>
#include <limits.h>
#include <lua-cjson.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct program {
    const struct luaL_Reg *lent;
    const char *dir, *module;
    int argc;
    char **argv;
    int status;
};

/* ---- what is lent ------------------------------------------------------------------------------------------------ */

static int is_terminal(lua_State *L)
{
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

static int mode(lua_State *L)
{
    struct stat st;
    if (stat(luaL_checkstring(L, 1), &st) != 0)
        return 0;
    lua_pushinteger(L, st.st_mode & 0777);
    return 1;
}

static int set_mode(lua_State *L)
{
    lua_pushboolean(L, chmod(luaL_checkstring(L, 1), (mode_t)luaL_checkinteger(L, 2)) == 0);
    return 1;
}

static int sleep_for(lua_State *L)
{
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds >= 0 && seconds <= 3600, 1, "from 0 to 3600 seconds");
    struct timespec time = {.tv_sec = (time_t)seconds};
    time.tv_nsec = (long)((seconds - (lua_Number)time.tv_sec) * 1e9);
    nanosleep(&time, NULL);
    return 0;
}

/* nil when it was removed. (PWD is what the shell last knew: whoever started this may have gone elsewhere.) */
static int folder(lua_State *L)
{
    char path[PATH_MAX];
    lua_pushstring(L, getcwd(path, sizeof(path)));
    return 1;
}

static const struct luaL_Reg common[] = {
    {"is_terminal", is_terminal}, {"mode", mode},     {"set_mode", set_mode},
    {"sleep", sleep_for},         {"folder", folder}, {NULL, NULL},
};

/* ---- the state -----------------------------------------------------------------------------------------------------
 */

static void open_libraries(lua_State *L, const char *dir)
{
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_cjson);
    lua_setfield(L, -2, "cjson");
    lua_pop(L, 1);
    modules_find_in(L, dir);
}

static int run(lua_State *L)
{
    struct program *program = lua_touserdata(L, 1);
    open_libraries(L, program->dir);
    lua_getglobal(L, "require");
    lua_pushstring(L, program->module);
    lua_call(L, 1, 1);
    lua_createtable(L, program->argc, 0);
    for (int i = 1; i < program->argc; i++) {
        lua_pushstring(L, program->argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_newtable(L);
    luaL_setfuncs(L, common, 0);
    if (program->lent)
        luaL_setfuncs(L, program->lent, 0);
    lua_call(L, 2, 1);
    program->status = (int)luaL_checkinteger(L, -1);
    return 0;
}

/* A library that is not installed is no mistake of the program: its name is enough. */
static int explain(lua_State *L)
{
    const char *text = luaL_tolstring(L, 1, NULL), *name = strstr(text, "module '");
    if (name && strstr(name, "' not found:")) {
        lua_pushlstring(L, name, strcspn(name + 8, "'") + 9);
        lua_pushfstring(L,
                        "the Lua %s is not installed: it is in one of Debian's packages lua-argparse, lua-luv, "
                        "lua-socket, lua-sec, lua-luaossl, lua-dbi-sqlite3 and lua-dbi-postgresql",
                        lua_tostring(L, -1));
        return 1;
    }
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

int lua_main(const struct command *command, const char *module, int argc, char **argv, const struct luaL_Reg *lent)
{
    char dir[4096];
    int status = lua_dir_find(command, dir, sizeof(dir));
    if (status != STATUS_OK)
        return status;
    lua_State *L = luaL_newstate();
    if (!L)
        return complain(command, "out of memory");
    struct program program = {.lent = lent, .dir = dir, .module = module, .argc = argc, .argv = argv};
    lua_pushcfunction(L, explain);
    lua_pushcfunction(L, run);
    lua_pushlightuserdata(L, &program);
    status = lua_pcall(L, 1, 0, 1) == LUA_OK ? program.status : complain(command, "%s", lua_tostring(L, -1));
    lua_close(L);
    return status;
}
