/* cli/json_in.h - the strings in a JSON text, each with the place where it stands. */
#ifndef CLI_JSON_IN_H
#define CLI_JSON_IN_H

#include <stdbool.h>
#include <stddef.h>

/* path as in "choices[0].message.content"; text does not end with NUL. Both live as long as the call. What is nested
 * deeper than 12 levels is left out. */
typedef void (*json_string_fn)(void *user, const char *path, const char *text, size_t len);

/* Calls each (may be NULL) for every string that is a value. True when the text is one whole JSON value. */
bool json_each_string(const char *json, size_t len, json_string_fn each, void *user);

#endif
