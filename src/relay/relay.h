/* relay/relay.h - one exchange of http1 on its way through an engine's run and back: heads both ways, bytes with
 * back-pressure, a caller who leaves, and an end that nobody takes for a clean one when the reply was cut.
 *
 * A host embeds a struct relay at the beginning of what it knows of a request, and says through relay_host what is its
 * own. One thread: that of the loop. */
#ifndef RELAY_RELAY_H
#define RELAY_RELAY_H

#include "relay/errors.h"
#include "relay/events.h"
#include "relay/heads.h"

#include "deputy.h"
#include "http1/server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many header fields a host may add to a reply. */
enum { RELAY_OWN_HEADERS = 8 };

struct relay;

/* All but secret must be there. While they run, relay->exchange is as the comment says. */
struct relay_host {
    /* Fields of the host's own for the head of any reply: how many. via: as in deputy_outcome. */
    size_t (*own_headers)(struct relay *relay, const char *via, struct http1_header headers[RELAY_OWN_HEADERS]);
    /* Should the upstream's reply stay here? Then its bytes go to keep (DEPUTY_OK: go on; else the run is cancelled),
     * and when the run has ended well answer_kept makes the reply. type: its Content-Type, or NULL. */
    bool (*keeps)(struct relay *relay, int status, const char *type);
    int (*keep)(struct relay *relay, const void *bytes, size_t len);
    void (*answer_kept)(struct relay *relay, const deputy_outcome *outcome);
    /* What the caller is told of a run that has no reply to pass on. */
    void (*explain)(struct relay *relay, const deputy_outcome *outcome, const deputy_failure *failure,
                    struct problem *problem);
    void (*streaming)(struct relay *relay, int change);               /* a stream has begun: +1, is over: -1 */
    void (*over)(struct relay *relay, const deputy_outcome *outcome); /* before the reply ends; exchange may be NULL */
    void (*release)(struct relay *relay);                             /* last; the host frees what it embedded */
    /* May be missing: what the upstream knows and the caller must not, or NULL. A header that repeats it stays here; in
     * the body of an error, which may quote what was asked, it is blotted out. */
    const char *(*secret)(struct relay *relay);
};

/* Those of one thread, in order of their beginning. */
struct relays {
    const struct relay_host *host;
    struct relay *all;
    size_t n;
    uint64_t random; /* for ids of traces, which need not be secret */
};

struct relay {
    struct relay *prev, *next;
    struct relays *relays;
    deputy_engine *engine;
    struct http1_exchange *exchange; /* NULL once the caller has left */
    enum dialect dialect;
    deputy_run_id run;
    void *body; /* the request's: the engine borrows it */
    bool kept, head_sent, is_events, is_error, slow;
    size_t taken; /* of bytes that come again */
    struct events events;
    uint64_t start_us, first_us; /* first_us: until the first bytes of the reply, or 0 */
    char traceparent[TRACEPARENT_SIZE];
};

uint64_t relay_clock_us(void); /* CLOCK_MONOTONIC */

/* relay is zeroed. The engine must live until release. */
void relay_begin(struct relay *relay, struct relays *relays, deputy_engine *engine, struct http1_exchange *exchange,
                 enum dialect dialect);

/* Moves the request's body here; request borrows it. */
void relay_take_body(struct relay *relay, deputy_request *request);

/* Starts the run, with the caller's fields that are meant for the upstream. False: problem is filled, nothing is under
 * way, and the host answers. */
bool relay_start(struct relay *relay, deputy_request *request, struct problem *problem);

/* Answers with an error instead of a run, and releases the relay. headers: of the host's own. */
void relay_refuse(struct relay *relay, const struct problem *problem, const struct http1_header *headers, size_t n);

/* For http1_handler; user is not looked at. */
void relay_gone(void *user, struct http1_exchange *exchange);
void relay_room(void *user, struct http1_exchange *exchange);

/* Asks every run to end. */
void relays_cancel(struct relays *relays);

#endif
