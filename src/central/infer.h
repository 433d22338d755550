/* central/infer.h - inference: a caller's request goes on to the LLM's upstream, with the upstream's key. */
#ifndef CENTRAL_INFER_H
#define CENTRAL_INFER_H

#include "central/server.h"

extern const struct relay_host infer_host;

/* What Lua has allowed goes on its way, or is answered with an error. The exchange is taken over; reply must not be
 * forgotten before this returns. */
void infer_start(struct central *central, struct http1_exchange *exchange, const char *id,
                 const struct app_reply *reply);

#endif
