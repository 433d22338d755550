/* cli/lua_main.h - a subcommand that is a program in Lua. */
#ifndef CLI_LUA_MAIN_H
#define CLI_LUA_MAIN_H

#include "options.h"

struct luaL_Reg;

/* Runs one of the Lua modules that came with this program, say "central.contract", in a plain state of its own, with
 * Lua's and the system's libraries; what LUA_PATH and the working directory offer is left alone. The module is a
 * function: it gets the arguments (argv[1] to argv[argc - 1], as an array), and a table of what the host lends it:
 * is_terminal(fd), mode(path) (permission bits, or nil), set_mode(path, bits), sleep(seconds), folder(), and
 * what lent (ends with a NULL name; may be NULL) adds. It returns the exit code. What it raises is said on stderr, and
 * STATUS_FAILED. */
int lua_main(const struct command *command, const char *module, int argc, char **argv, const struct luaL_Reg *lent);

#endif
