/* gateway/gateway.h - the ready host: HTTP callers on one side, engines on the other.
 *
 * It knows nothing of files: what it serves and how an engine is made comes through gateway_host. One worker runs on
 * the calling thread, the others on threads of their own, each with its loop, its engine and its http1 server. Metrics,
 * the log, the page and the bounds on connections and runs are one for all of them. */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "deputy.h"

struct uv_loop_s;

struct gateway_list {
    const char *const *items;
    size_t n;
};

/* What a configuration says. Strings live until the host unloads it. */
struct gateway_settings {
    const char *listen; /* "HOST:PORT" or "unix:PATH" */
    unsigned workers;   /* at least 1 */
    struct gateway_list api_keys, allowed_hosts, allowed_origins;
    size_t max_body_bytes, max_buffered_bytes;
    unsigned max_connections, max_in_flight; /* for the whole process */
    bool whole;                              /* streams are held until they are complete */
    uint32_t drain_ms;
    bool log_json; /* else logfmt */
    deputy_log_level log_level;
    const char *script;      /* the policy's file, which is watched */
    const char *config_file; /* where all this stands; or NULL */
    const char *control;     /* "unix:PATH" of the control socket, or NULL for none */
    bool control_is_default; /* nobody named it: when it is taken, the gateway serves without */
    const char *warning;     /* for the log, once it is in force; or NULL */
};

/* What a host knows of a local provider beyond what its engine says; zeroed at first, where 0 and "" mean "not known".
 * Strings by pointer live as long as what was loaded. */
struct gateway_provider {
    const char *type, *url, *model;
    bool managed;   /* the host starts and stops it; else nothing below counts */
    char state[16]; /* a word: "stopped", "starting", "ready", "draining", "stopping", "failed" */
    int64_t pid;    /* of its process, or 0 */
    int64_t since;  /* when this state began, in ms since 1970 */
    uint16_t port;  /* where it listens on this machine */
    uint64_t uptime_ms;
    uint32_t active, queued; /* runs that it serves, callers that wait for it */
    uint64_t starts, crashes, stops;
    double ready_seconds; /* how long the last start took until it was ready */
    uint64_t memory_bytes;
    int64_t gpu_bytes;   /* what it has of the GPUs' memory; -1: not known */
    char last_exit[128]; /* in words: "exit status 1", "signal 9 (SIGKILL)" */
    char problem[256];   /* why it is not ready */
    char *output;        /* the last it wrote; malloc'ed, the asker's to free; only when it was asked for */
};

/* How the gateway gets at its configuration. An opaque `loaded` stands for one that was read. */
struct gateway_host {
    void *user;
    /* Reads it again, and looks at what takes long to look at (the policy). NULL when it is not usable: problem (one
     * line) says why. On a thread of its own, never two at once, while workers go on. */
    void *(*load)(void *user, struct gateway_settings *settings, char *problem, size_t problem_size);
    /* An engine on this loop, policy loaded, providers registered: quickly, for callers wait. On failure *engine may be
     * set all the same and is the caller's to free. On any worker's thread; several at once. */
    int (*make_engine)(void *loaded, struct uv_loop_s *loop, deputy_log_fn on_log, void *log_user,
                       deputy_engine **engine, deputy_error *error);
    void (*unload)(void *loaded); /* from the thread that used it last */
    /* Does what an operator asks for: verb is "start", "stop" or "restart". It only sets that going: the state tells
     * how it goes. DEPUTY_OK, DEPUTY_ENOTFOUND (no such provider), DEPUTY_EINVAL (nothing that can be started or
     * stopped) or another code, error saying why. On the first worker's thread; may be NULL. */
    int (*command)(void *user, void *loaded, const char *provider, const char *verb, deputy_error *error);
    /* What is known of a provider right now; with_output: its last lines too. Must not wait. On any worker's thread,
     * several at once. May be NULL. DEPUTY_OK, or DEPUTY_ENOTFOUND and *facts is untouched. */
    int (*describe)(void *user, void *loaded, const char *provider, bool with_output, struct gateway_provider *facts);
    /* Nobody is served any more: ends what it started, and says whether that has ended. Asked again and again until it
     * has, or until drain_ms are over. On the first worker's thread; may be NULL. */
    bool (*end)(void *user);
};

/* Serves until SIGTERM or SIGINT. loaded is taken over. 0, or 1 with one line on stderr about what is wrong. Signals
 * are the caller's again afterwards; a SIGHUP that the caller holds back (pthread_sigmask) reloads once it serves. */
int gateway_run(const struct gateway_host *host, void *loaded, const struct gateway_settings *settings);

#endif
