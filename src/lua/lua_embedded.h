/* lua/lua_embedded.h - the modules under lua/deputy that policies may require, as text in the library (made by
 * embed.lua). */
#ifndef LUA_EMBEDDED_H
#define LUA_EMBEDDED_H

#include <stddef.h>

struct embedded {
    const char *name; /* "deputy.retry" */
    const char *text;
    size_t len;
};

extern const struct embedded lua_embedded[]; /* ended by a NULL name */

#endif
