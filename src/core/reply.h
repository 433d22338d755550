/* core/reply.h - what a provider answers: is it what was asked, and when may it be accepted? The public reply functions
 * are here too; on a worker's thread they are queued and come here from the loop. */
#ifndef CORE_REPLY_H
#define CORE_REPLY_H

#include "core/call.h"

int reply_take_head(struct deputy_call *call, int status, const deputy_header *headers, size_t n_headers);
int reply_take_bytes(struct deputy_call *call, const void *bytes, size_t len);
int reply_take_model(struct deputy_call *call, const char *model);
int reply_take_end(struct deputy_call *call);
int reply_take_fail(struct deputy_call *call, const deputy_failure *failure);

#endif
