/* lua/lua_verify.h - a look at a policy before it is loaded. */
#ifndef LUA_VERIFY_H
#define LUA_VERIFY_H

#include "core/engine.h"

/* Verifies text at depth 1 as the engine's options say: DEPUTY_OK when it may be loaded, else a code with error filled.
 */
int lua_verify_at_load(const struct deputy_engine *engine, const char *name, const char *text, size_t len,
                       deputy_error *error);

/* The text of a script file, malloc'ed, the caller's. DEPUTY_OK, DEPUTY_EIO, DEPUTY_ELIMIT, DEPUTY_ENOMEM. */
int lua_policy_read(const char *path, char **text, size_t *len, deputy_error *error);

#endif
