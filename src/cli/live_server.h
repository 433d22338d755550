/* cli/live_server.h - what a running host says of a server that it started, for people and for programs. */
#ifndef CLI_LIVE_SERVER_H
#define CLI_LIVE_SERVER_H

#include <stdio.h>
#include <yajl/yajl_gen.h>
#include <yajl/yajl_tree.h>

/* live: the provider's object in GET /providers?output. Nothing is printed for one that no host starts. May ask
 * nvidia-smi, which is waited for (two seconds at most). */

/* "qwen: ready for 12 s, pid 71, port 8001, ...", then what went wrong and its last lines. */
void live_server_print(yajl_val live);

/* The last lines of what a server wrote, each after "  | ", with nothing that could move a terminal's cursor. output
 * may be NULL. */
void live_server_output(FILE *out, const char *output);

/* The members of an open object. */
void live_server_json(yajl_gen json, yajl_val live);

#endif
