/* cli/lua_dir.h - where the Lua files are that came with this program. */
#ifndef CLI_LUA_DIR_H
#define CLI_LUA_DIR_H

#include <stddef.h>

struct command;

/* The folder that holds deputy/config.lua: what DEPUTY_LUA names; else ../lua or ../share/deputy/lua beside the
 * program; else the share folder it was built for. STATUS_OK; otherwise everything is said on stderr. */
int lua_dir_find(const struct command *command, char *out, size_t size);

#endif
