/* gateway/log_line.h - a line of the log, in the gateway's form, from a thread that is none of the gateway's. */
#ifndef GATEWAY_LOG_LINE_H
#define GATEWAY_LOG_LINE_H

#include "deputy.h"

#include <stdbool.h>

/* Written at once, when wanted lets that level through. json: else logfmt. Any thread. */
void gateway_log_line(bool json, deputy_log_level wanted, deputy_log_level level, const char *message);

#endif
