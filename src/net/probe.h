/* net/probe.h - HEAD (or GET) {central}{path} with the caller's token, once, on a connection of its own. It reports
 * what came; what that means is the gate's and the policy's to say. */
#ifndef NET_PROBE_H
#define NET_PROBE_H

#include "deputy.h"
#include "net/loop.h"

struct probe;

struct probe_request {
    const char *central_url;
    const char *path; /* "/api/v1/llms/{llm}" */
    bool get;         /* GET instead of HEAD. A body of over 64 KiB is LIMIT, one whose end nothing marks PROTOCOL */
    const char *llm;
    const char *token; /* NULL, or not a valid token: NO_TOKEN, without I/O */
    const char *ca_file;
    uint32_t connect_ms; /* within timeout_ms */
    uint32_t timeout_ms;
    size_t max_header_bytes;
    void *user;
    /* Exactly once unless cancelled; never from inside probe_start. */
    void (*on_answer)(void *user, const deputy_probe_answer *answer);
};

/* Starts a probe. Every failure that is not ours to report becomes an answer: a bad name is PROTOCOL, no token
 * NO_TOKEN, both delivered at once in *answer with *out left NULL. DEPUTY_OK with *out set: the answer comes later.
 * DEPUTY_ENOMEM: *answer is CONNECT, *out NULL. */
int probe_start(struct loop *loop, const struct probe_request *request, struct probe **out,
                deputy_probe_answer *answer);

/* Ends it now; no answer comes after this. */
void probe_cancel(struct probe *probe);

#endif
