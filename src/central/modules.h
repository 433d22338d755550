/* central/modules.h - where the Lua programs that come with deputy find their modules. May raise Lua errors. */
#ifndef CENTRAL_MODULES_H
#define CENTRAL_MODULES_H

#include <lua.h>

/* dir first, then the system's places, for the libraries open in L. Relative ones are left out: a module in the working
 * directory could be anybody's. */
void modules_find_in(lua_State *L, const char *dir);

#endif
