/* cli/control.h - asks a running `deputy serve` through its control socket (gateway.control). */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include "config.h"

#include <yajl/yajl_tree.h>

enum control_result {
    CONTROL_ANSWERED,  /* status and json are there */
    CONTROL_NO_SOCKET, /* the configuration names none: problem says why */
    CONTROL_NOBODY,    /* nothing listens there */
    CONTROL_FAILED     /* something does, but there was no usable answer: problem says what happened */
};

struct control_reply {
    int status;
    yajl_val json; /* the whole reply */
    char problem[512];
};

/* Asks; reply is filled, and given back with control_free in every case. timeout_ms bounds all of it. */
enum control_result control_ask(const struct config *config, const char *method, const char *path, uint32_t timeout_ms,
                                struct control_reply *reply);

/* POST /providers/NAME/VERB. The same. */
enum control_result control_command(const struct config *config, const char *provider, const char *verb,
                                    struct control_reply *reply);
void control_free(struct control_reply *reply);

/* Does the host that answered serve this very configuration file? */
bool control_is_same(const struct config *config, const struct control_reply *reply);

/* Members by their name; NULL, fallback or false where they are not, or not of that kind. */
const char *control_text(yajl_val json, const char *name);
double control_number(yajl_val json, const char *name, double fallback);
bool control_flag(yajl_val json, const char *name);
size_t control_list(yajl_val json, const char *name, yajl_val **items); /* how many */

#endif
