/* core/worker.h - providers that block: their functions run on libuv's threads, and what they answer crosses over to
 * the loop in a bounded queue. */
#ifndef CORE_WORKER_H
#define CORE_WORKER_H

#include "core/call.h"

/* Runs the provider's function for the call on a worker thread. The request and its body are copied, since the provider
 * may still read them when the run is over. DEPUTY_OK, DEPUTY_ENOMEM, DEPUTY_EIO. */
int worker_start(struct deputy_call *call);

/* From the worker's thread. bytes waits for room; DEPUTY_ECANCELED once the call was given up. */
int worker_post_head(struct deputy_call *call, int status, const deputy_header *headers, size_t n_headers);
int worker_post_bytes(struct deputy_call *call, const void *bytes, size_t len);
int worker_post_model(struct deputy_call *call, const char *model);
int worker_post_end(struct deputy_call *call, const deputy_failure *failure_or_null, bool failed);

/* deputy_call_admit, from the worker's thread. */
int worker_admit(struct deputy_call *call);

/* On the loop's thread: delivers what was posted, as far as the call takes it. */
void worker_deliver(struct deputy_call *call);

/* What its thread says from now on is refused; what it has said last, delivered or not. */
enum worker_word { WORKER_AT_IT, WORKER_ENDED, WORKER_STALE };
enum worker_word worker_give_up(struct deputy_call *call);

/* The owner is done with the call: it is freed when its thread has come back. */
void worker_abandon(struct deputy_call *call);

/* The central has said no since: a call whose thread has not begun counts as stale. */
void worker_revoke(struct deputy_call *call);

#endif
