/* cli/discover.h - deputy providers discover: the model servers that already run on this machine. */
#ifndef CLI_DISCOVER_H
#define CLI_DISCOVER_H

#include "options.h"

/* Looks at the ports of options (--ports, else the usual ones) on 127.0.0.1 and prints what is there. The exit code. */
int discover_run(const struct options *options);

#endif
