#include "lua_dir.h"

#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef DEPUTY_DATADIR
#define DEPUTY_DATADIR "/usr/local/share/deputy"
#endif

static bool has_file(const char *dir, const char *name)
{
    char path[4200];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof(path) && access(path, R_OK) == 0;
}

/* The folder of the running program, without a slash at its end. */
static bool program_dir(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0)
        return false;
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash)
        return false;
    *slash = '\0';
    return true;
}

static bool take(const char *base, const char *more, char *out, size_t size)
{
    int n = snprintf(out, size, "%s%s", base, more);
    return n > 0 && (size_t)n < size && has_file(out, "deputy/config.lua");
}

int lua_dir_find(const struct command *command, char *out, size_t size)
{
    char program[4096];
    const char *given = getenv("DEPUTY_LUA");
    if (given && given[0]) {
        if (take(given, "", out, size))
            return STATUS_OK;
        return complain(command, "DEPUTY_LUA is '%s', but there is no deputy/config.lua in it", given);
    }
    bool known = program_dir(program, sizeof(program));
    if (known && (take(program, "/../lua", out, size) || take(program, "/../share/deputy/lua", out, size)))
        return STATUS_OK;
    if (take(DEPUTY_DATADIR, "/lua", out, size))
        return STATUS_OK;
    return complain(command,
                    "cannot find the Lua files that belong to deputy: looked for deputy/config.lua in %s/../lua, "
                    "%s/../share/deputy/lua and %s; install again, or name their folder in DEPUTY_LUA",
                    known ? program : "?", known ? program : "?", DEPUTY_DATADIR "/lua");
}
