/* core/call.h - one question to one provider: a leg of a run, or a query outside any run.
 *
 * A call is OPEN until it is GOOD (a reply that may be accepted is there: a plain one whole, a stream with its first
 * output) or BAD (a failure is known). What has come so far is held; once accepted, bytes flow to the owner as they
 * come. A call knows its owner only by the three functions of call_owner. */
#ifndef CORE_CALL_H
#define CORE_CALL_H

#include "base/buffer.h"
#include "core/engine.h"
#include "core/gate.h"
#include "core/provider.h"
#include "net/sse.h"

enum call_purpose { CALL_PRIMARY, CALL_LOCAL, CALL_MODELS, CALL_AVAILABLE };
enum call_state { CALL_OPEN, CALL_GOOD, CALL_BAD };

struct deputy_call;

/* All on the loop's thread, maybe inside libcurl: only to mark and to pass bytes on. */
struct call_owner {
    void (*settled)(struct deputy_call *call); /* left OPEN, or its permit grew stale */
    int (*bytes)(struct deputy_call *call, const void *bytes,
                 size_t len);                /* flowing: DEPUTY_OK, DEPUTY_PAUSE, else stop */
    void (*ended)(struct deputy_call *call); /* flowing: no more bytes; failure.kind says how */
    void (*model)(struct deputy_call *call, const char *model);
};

struct header_list {
    deputy_header *list; /* one block with its strings; NULL when empty */
    size_t n;
    bool borrowed; /* not ours to free */
};

struct worker;

struct deputy_call {
    struct deputy_call *next; /* the owner's */
    struct deputy_call *next_working;
    deputy_engine *engine;
    deputy_provider *provider;
    const struct call_owner *owner;
    void *user; /* the owner's */
    enum call_purpose purpose;
    enum call_state state;
    unsigned number; /* within the run, from 1 */
    int attempt;
    bool live;    /* the provider has not ended it */
    bool flowing; /* accepted: bytes go to the owner */
    bool paused;  /* the provider waits for resume */
    bool stale;   /* its permit grew too old before the first byte */
    bool waits;   /* the provider has not asked to send yet, and said that it may take its time */
    bool has_head, is_stream, wants_stream, whole, json, truncated;
    bool dropped;           /* a hedge gave it up: it has no word in the outcome */
    bool lingering;         /* all that matters has come; a clean end is awaited for a moment */
    deputy_request request; /* what the provider is asked; borrowed from the owner */
    void *_Atomic data;     /* the provider's; a thread of its own may set what cancel reads */
    char *key;              /* that the provider is asked with, or NULL: for no message */
    struct permit permit;   /* CALL_LOCAL: what it was dispatched on */
    struct claim claim;

    int status;
    char content_type[64];
    struct header_list head;
    struct buffer held;
    struct sse sse;
    deputy_failure failure;

    struct timer *timer;
    uint64_t looks_at_us;       /* when the timer fires; 0: it does not */
    uint32_t limit_ms;          /* for the whole leg, until its reply is accepted; 0: none */
    uint64_t start_us, last_us; /* last_us: when something came */
    uint64_t sent_us;           /* from when the first byte is waited for */
    struct worker *worker;      /* the provider blocks */
    size_t trace;
};

/* A call that has not been sent. NULL when out of memory. Takes a reference to the provider. */
struct deputy_call *call_new(deputy_engine *engine, deputy_provider *provider, enum call_purpose purpose,
                             const struct call_owner *owner, void *user);

/* Asks the provider. The call may be settled when this returns; owner->settled is called all the same. */
void call_send(struct deputy_call *call, uint64_t now_us);

/* Asks it again after a stale permit was renewed. */
void call_send_again(struct deputy_call *call);

/* A stale call is not sent again: the provider lets go of what it kept for it. */
void call_withdraw(struct deputy_call *call);

/* Lets the bytes flow: nothing is held back from now on; what is held is the owner's to take (call->held). */
void call_accept(struct deputy_call *call);

/* The owner takes bytes again. */
void call_resume(struct deputy_call *call);

/* Stops the provider if it is still at it. The state stays. */
void call_stop(struct deputy_call *call);

/* Stops and frees. NULL is allowed. */
void call_free(struct deputy_call *call);

/* Fails an OPEN call from our side (timeout, refusal) and stops the provider. */
void call_fail(struct deputy_call *call, const deputy_failure *failure);

/* For reply.c: the provider has ended the call. */
void call_settle(struct deputy_call *call, enum call_state state);
void call_sends(struct deputy_call *call);   /* the first byte of the request leaves now */
void call_rewatch(struct deputy_call *call); /* another timeout counts from now on */
void call_linger(struct deputy_call *call, uint64_t ms);

/* Points at headers that outlive the list. */
void header_list_borrow(struct header_list *to, deputy_header *headers, size_t n);

/* Copies headers into one block. DEPUTY_OK or DEPUTY_ENOMEM. */
int header_list_copy(struct header_list *to, const deputy_header *headers, size_t n);
void header_list_free(struct header_list *list);
const char *header_find(const deputy_header *headers, size_t n, const char *name);

#endif
