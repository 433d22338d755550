#include "gateway/log_line.h"

#include "relay/log.h"

void gateway_log_line(bool json, deputy_log_level wanted, deputy_log_level level, const char *message)
{
    struct log log;
    log_init(&log, json, wanted);
    if (log_begin(&log, level, message))
        log_end(&log);
    log_flush(&log);
    log_free(&log);
}
