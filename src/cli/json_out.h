/* cli/json_out.h - JSON for stdout, on yajl's generator. */
#ifndef CLI_JSON_OUT_H
#define CLI_JSON_OUT_H

#include "deputy.h"

#include <yajl/yajl_gen.h>

/* A generator that prints to stdout as it goes, or NULL without memory. End it with json_end. */
yajl_gen json_begin(void);
void json_end(yajl_gen json); /* with a line break */

void json_key(yajl_gen json, const char *name);
void json_string(yajl_gen json, const char *text);                    /* NULL: null */
void json_text(yajl_gen json, const char *text, size_t len);          /* bytes that are not UTF-8 become "?" */
void json_value_or_text(yajl_gen json, const char *text, size_t len); /* JSON byte for byte, else as a string */

/* The member "trace". */
void json_trace(yajl_gen json, const deputy_outcome *outcome);

#endif
