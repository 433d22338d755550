/* managed/secrets.h - what a model server was given and must not be repeated: its key, and what its environment holds
 * under a name with KEY, TOKEN, SECRET or PASS in it. */
#ifndef MANAGED_SECRETS_H
#define MANAGED_SECRETS_H

#include "managed/settings.h"

/* A list for strings_free, or NULL when out of memory. Values of less than SECRETS_MIN bytes are no secrets. */
enum { SECRETS_MIN = 6 };
char **secrets_collect(const struct settings *settings);

/* Puts "*" over what may be the rest of a secret that text begins with, when text is the end of something longer, and
 * over the first part of one that it ends with, while the rest is still to come. */
void secrets_hide_parts(char *const *secrets, char *text, size_t len, bool is_cut);

/* Puts "***" in place of each, within text. Returns the new length, which is never larger. */
size_t secrets_hide(char *const *secrets, char *text, size_t len);

#endif
