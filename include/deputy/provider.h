/* deputy/provider.h - the vtable, for whoever writes a provider in C, and the providers that come with the engine.
 *
 * A provider completes requests. The engine calls it through a vtable, one deputy_call for each thing it asks, and the
 * provider answers through the reply functions below: at once (before complete returns), later, or in chunks. Each call
 * ends with exactly one of deputy_reply_end and deputy_reply_fail; after it, or after cancel, the call must not be
 * touched again.
 *
 * Threads: everything runs on the engine's thread, unless the provider sets DEPUTY_PROVIDER_BLOCKS. Then complete,
 * list_models and is_available are called on a worker thread and may wait there; they answer on that thread, and the
 * call ends at the latest when they return. cancel still comes on the engine's thread, while they may be running, but
 * not when they have ended the call; where one overtakes the other, a lock of the provider's keeps what both touch. The
 * call and its data are theirs until they return.
 */
#ifndef DEPUTY_PROVIDER_H
#define DEPUTY_PROVIDER_H

#include "../deputy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when the vtable changes its meaning; the engine refuses a provider that was built for another. */
#define DEPUTY_PROVIDER_ABI 1u

/* complete, list_models and is_available may wait: call them off the loop's thread. */
#define DEPUTY_PROVIDER_BLOCKS 0x1u

/* complete may wait long before anything is sent (for a place, for a model that loads) and asks deputy_call_admit
 * before the first byte: the timeouts of a leg (first byte, first token, idle) count from there, not from complete. The
 * run's own deadline counts all the time. */
#define DEPUTY_PROVIDER_WAITS 0x2u

/* One question to one provider. Belongs to the engine. */
typedef struct deputy_call deputy_call;

typedef struct deputy_provider_vtable {
    uint32_t abi;  /* DEPUTY_PROVIDER_ABI */
    uint32_t size; /* sizeof(deputy_provider_vtable), of this or of an earlier release */
    uint32_t flags;
    /* Answers request. It carries no credential of the caller unless the provider is a run's primary; its strings live
     * until complete returns, its body until the call ends. Returning other than DEPUTY_OK fails the call. */
    int (*complete)(void *self, deputy_call *call, const deputy_request *request);
    /* Names each model with deputy_reply_model, then deputy_reply_end. NULL: it has none to name. */
    int (*list_models)(void *self, deputy_call *call);
    /* deputy_reply_end: yes. deputy_reply_fail: no, and why. NULL: always. */
    int (*is_available)(void *self, deputy_call *call);
    /* The engine no longer wants the answer. Without DEPUTY_PROVIDER_BLOCKS the call is gone when this returns; with
     * it, the running function should return soon. NULL: nothing to stop. */
    void (*cancel)(void *self, deputy_call *call);
    /* deputy_reply_bytes answered DEPUTY_PAUSE before; now it takes bytes again. NULL: the provider never chunks. */
    void (*resume)(void *self, deputy_call *call);
    /* The last reference is gone. NULL: nothing to free. */
    void (*destroy)(void *self);

    /* ---- what a vtable may leave out by its size ---- */

    /* The primary of an LLM that this provider may stand in for has failed; whether the provider will be asked, and
     * whether the central would allow it, is not known. Only to take note: no run, no reply, nothing that waits.
     * Engine's thread, maybe in the middle of an exchange; failure lives until it returns. NULL: it is not told. */
    void (*primary_failed)(void *self, const deputy_failure *failure);
    /* A call that deputy_call_admit answered with DEPUTY_ESTALE does not come again. A provider that has this keeps the
     * call's data over DEPUTY_ESTALE, and with it the place that it waited for: each such call ends in complete, which
     * finds the data, or in this. NULL: the data is forgotten. */
    void (*withdrawn)(void *self, deputy_call *call);
} deputy_provider_vtable;

/* Makes a provider with one reference, the caller's. name: 1 to 128 bytes without control bytes, copied. vtable is
 * borrowed for the provider's life; self is handed to every function. On failure *provider is NULL and self is not
 * destroyed. */
DEPUTY_API int deputy_provider_new(const char *name, const deputy_provider_vtable *vtable, void *self,
                                   deputy_provider **provider, deputy_error *error);
DEPUTY_API const char *deputy_provider_name(const deputy_provider *provider);
DEPUTY_API void *deputy_provider_self(const deputy_provider *provider);
DEPUTY_API deputy_provider *deputy_provider_ref(deputy_provider *provider);
DEPUTY_API void deputy_provider_unref(deputy_provider *provider); /* NULL is allowed */

/* ---- answering a call ------------------------------------------------------------------------------------------- */

/* Asked right before the first byte of the request leaves. DEPUTY_OK: send. DEPUTY_ESTALE: the permit grew old while
 * the provider waited (for a queue, a model, a connection): send nothing, touch the call no more; the engine asks the
 * central again and, when it still allows, calls complete again, otherwise withdrawn. DEPUTY_ECANCELED: the call is
 * over. DEPUTY_ENOMEM (with DEPUTY_PROVIDER_BLOCKS, whose complete asks on its own thread, and after DEPUTY_ESTALE
 * returns): send nothing. A provider that sends at once need not ask. */
DEPUTY_API int deputy_call_admit(deputy_call *call);

/* What the provider may keep for this call: one pointer, NULL at first. */
DEPUTY_API void deputy_call_set_data(deputy_call *call, void *data);
DEPUTY_API void *deputy_call_data(const deputy_call *call);

/* The engine that asks: for deputy_options-wide facts. */
DEPUTY_API deputy_engine *deputy_call_engine(const deputy_call *call);

/* The head of the reply, once, before any bytes. Strings are copied. */
DEPUTY_API int deputy_reply_head(deputy_call *call, int status, const deputy_header *headers, size_t n_headers);

/* The next bytes of the body; copied or passed on before it returns. DEPUTY_PAUSE: none was taken, offer the same again
 * after resume. On a worker thread it waits instead, and answers DEPUTY_ECANCELED when the run is over. Any other code:
 * stop, the call is over. */
DEPUTY_API int deputy_reply_bytes(deputy_call *call, const void *bytes, size_t len);

/* One model's name, in answer to list_models. Copied. */
DEPUTY_API int deputy_reply_model(deputy_call *call, const char *model);

/* The reply is complete. Without a head before it: the answer is a value that stays with the host (a Lua table, a C
 * object); the run succeeds and nothing is delivered to its sink. */
DEPUTY_API int deputy_reply_end(deputy_call *call);

/* There is no reply, or no more of it. failure is copied; NULL stands for kind ERROR. */
DEPUTY_API int deputy_reply_fail(deputy_call *call, const deputy_failure *failure);

/* Head, body and end in one: status 200, content type application/json. */
DEPUTY_API int deputy_reply_json(deputy_call *call, const void *body, size_t len);

/* ---- providers that come with the engine ------------------------------------------------------------------------- */

/* Any OpenAI-compatible server. Strings are copied. */
typedef struct deputy_openai_options {
    size_t size;
    const char *name;    /* the provider's name */
    const char *url;     /* base, as in "http://127.0.0.1:8000/v1" */
    const char *model;   /* replaces the request's top-level "model", in the bytes, or is put in where there is none;
                            NULL: the body passes as it came */
    const char *api_key; /* its own key, sent as a bearer token; NULL: none */
    const char *ca_file; /* PEM bundle to trust instead of the system's, or NULL */
} deputy_openai_options;
DEPUTY_API int deputy_openai_new(const deputy_openai_options *options, deputy_provider **provider, deputy_error *error);

/* Answers from within the process: repeats the last thing the user said. For trying things out. */
DEPUTY_API int deputy_echo_new(const char *name, deputy_provider **provider, deputy_error *error);

#ifdef __cplusplus
}
#endif
#endif
