/* cli/operate.h - deputy providers start|stop|restart NAME, through the running host's control socket. */
#ifndef CLI_OPERATE_H
#define CLI_OPERATE_H

#include "options.h"

#include <stdbool.h>

/* Is it one of the three? */
bool operate_knows(const char *verb);

/* Asks the host that runs with this configuration; says what came of it. The exit code. */
int operate_run(const struct options *options, const char *verb, const char *provider);

#endif
