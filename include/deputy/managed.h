/* deputy/managed.h - a local provider that owns its model server: started when it is needed, watched, stopped when it
 * is idle.
 *
 * One deputy_managed has at most one child at a time, however many engines use it: each engine registers a provider of
 * its own (deputy_managed_provider), and all of them lead to the same child. The child runs under a small supervisor
 * process, deputy-supervisor, which ends the whole family, grandchildren included, when deputy ends in whatever way.
 *
 *                       a caller, start                    healthy
 *           STOPPED ----------------------> STARTING ---------------------> READY <------.
 *              ^  ^                           |  ^                         |  |  |       | a caller, start
 *              |  |             late, died,   |  | is wanted again  idle,  |  |  |       |
 *              |  | stop        stop, restart |  | (after a pause)  stop,  |  |  |       |
 *              |  |                           v  |               restart   |  |  `--> DRAINING
 *           FAILED <---------------------- STOPPING <----------------------'  |           |
 *                     failed too often     |   ^  ^      deaf, died           |           | drained, late, deaf, died
 *           STOPPED <----------------------'   |  `---------------------------'           |
 *                     the family is gone       `------------------------------------------'
 *
 * Nothing is started for a caller whom the central has not allowed, unless `prewarm` says otherwise: starting a model
 * is already using it.
 *
 * Threads: every function here may be called from any thread; none of them waits for the child. What owns all children
 * of a process is one thread of the library's, which lives while there is a deputy_managed.
 */
#ifndef DEPUTY_MANAGED_H
#define DEPUTY_MANAGED_H

#include "provider.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct deputy_managed deputy_managed;

/* clang-format off */
#define DEPUTY_MANAGED_STATES(X)                                                                                       \
    X(STOPPED, "stopped")                                                                                              \
    X(STARTING, "starting") /* not ready yet, or in the pause before it is tried again */                              \
    X(READY, "ready")                                                                                                  \
    X(DRAINING, "draining") /* takes no new run; stopped when those under way have ended, after 30 s at the latest */  \
    X(STOPPING, "stopping") /* until the last process of the family is gone */                                         \
    X(FAILED, "failed")     /* failed too often: until deputy_managed_start, _restart, _stop, or a caller
                               retry_ms later */
/* clang-format on */

typedef enum deputy_managed_state {
#define X(name, word) DEPUTY_MANAGED_##name,
    DEPUTY_MANAGED_STATES(X)
#undef X
} deputy_managed_state;

/* "stopped", "starting", ...: a static string. */
DEPUTY_API const char *deputy_managed_state_name(deputy_managed_state state);

/* When it is started without an allowed caller that waits. */
typedef enum deputy_prewarm {
    DEPUTY_PREWARM_ON_DEMAND = 0, /* never */
    DEPUTY_PREWARM_ON_FAILURE,    /* when the primary of an LLM that it stands in for has failed in a way that another
                                     server could mend (not a 400, not a 403), before the probe is answered */
    DEPUTY_PREWARM_AT_START       /* at once, and again when it ends by itself; idle_ms still stops it */
} deputy_prewarm;

/* Strings and arrays are copied. 0 or NULL takes the default in brackets. */
typedef struct deputy_managed_options {
    size_t size;
    const char *name;           /* the provider's */
    const char *const *command; /* argv, ended by NULL; no shell. {port} and {model} are filled in, in each of them */
    const char *const *env;  /* [none] "NAME=value", ended by NULL, over the host's environment; filled in likewise */
    const char *cwd;         /* [the host's] */
    const char *model;       /* [none] what the server calls its model: for {model}, and for the request's "model",
                                which passes as it came when this is NULL */
    const char *api_key;     /* [none] sent to the server as a bearer token */
    const char *base_path;   /* ["/v1"] before the endpoint */
    const char *health_path; /* ["/health"] ready when a GET answers 2xx */
    const char *supervisor;  /* [beside the program or the library, else where it was installed] deputy-supervisor */
    uint16_t port;           /* [a free one, picked at each start] on 127.0.0.1 */
    uint32_t ready_ms;       /* [600000] how long a start may take */
    uint32_t idle_ms;        /* [900000] stopped after so long without a run; UINT32_MAX: never */
    uint32_t stop_grace_ms;  /* [10000] between SIGTERM and SIGKILL */
    uint32_t restarts;       /* [3] starts in a row that may fail: with the last of them it has FAILED; UINT32_MAX: no
                                limit. A start that served a run, or stayed ready for a minute, has not failed */
    uint32_t backoff_ms;     /* [1000] before the second start in a row, doubled each time, at most 60 s */
    uint32_t max_concurrent; /* [16] runs at once */
    uint32_t max_queued;     /* [1024] callers that wait for a place or for readiness; what comes on top is refused */
    uint32_t health_ms;      /* [10000] between two looks at health_path while it is ready, each of which may take as
                                long, at most 5 s. Three bad ones in a row are deaf (twelve while it serves runs) */
    uint32_t retry_ms; /* [300000] after it has FAILED: a caller who comes later than that gets one more start, the
                          next ones wait as long again; UINT32_MAX: only an order brings it back */
    bool any_listener; /* [false] Otherwise it gets no byte of a run, nor its key, unless what listens on its port
                          is a process that it started. True where that cannot be so: a container's proxy */
    deputy_prewarm prewarm;
    deputy_log_fn
        on_log; /* [none] from the library's own thread; not called any more once the last reference is gone */
    void *log_user;
} deputy_managed_options;

/* Makes one, STOPPED unless prewarm says AT_START. DEPUTY_EINVAL and error in words when the options make no sense or
 * deputy-supervisor is not found; whether the command exists is seen at the start. */
DEPUTY_API int deputy_managed_new(const deputy_managed_options *options, deputy_managed **managed, deputy_error *error);
DEPUTY_API deputy_managed *deputy_managed_ref(deputy_managed *managed);

/* The last one stops the child (SIGTERM, grace, SIGKILL) without waiting; providers hold references of their own. NULL
 * is allowed. */
DEPUTY_API void deputy_managed_unref(deputy_managed *managed);

/* True when these options would own the same child in the same way: a reload can keep a running one. on_log and
 * log_user do not count. */
DEPUTY_API bool deputy_managed_same(const deputy_managed *managed, const deputy_managed_options *options);

/* A provider that leads to the child, with one reference, the caller's: for one engine. It is available when it can be
 * started, and that is said without starting it. A caller waits for readiness and for its place within its own
 * deadline, and its permit is asked for again when it has grown old before the first byte. */
DEPUTY_API int deputy_managed_provider(deputy_managed *managed, deputy_provider **provider, deputy_error *error);

/* Asks for it, and returns. start: also out of FAILED, and it is started again when it ends by itself. stop: those who
 * wait are turned away, those who are served may finish (for 30 s); a caller who comes later starts it again. restart:
 * those who wait go on waiting. DEPUTY_OK. */
DEPUTY_API int deputy_managed_start(deputy_managed *managed, deputy_error *error);
DEPUTY_API int deputy_managed_stop(deputy_managed *managed, deputy_error *error);
DEPUTY_API int deputy_managed_restart(deputy_managed *managed, deputy_error *error);

typedef struct deputy_managed_status {
    size_t size; /* set by the caller: DEPUTY_INIT */
    deputy_managed_state state;
    int64_t pid;        /* of the server; 0: none */
    uint16_t port;      /* 0: none */
    uint64_t uptime_ms; /* since it was started; 0: not running */
    uint64_t ready_us;  /* how long the last start that got ready took; 0: none did */
    uint64_t rss_bytes; /* resident memory of the whole family */
    uint32_t active;    /* runs that it serves */
    uint32_t queued;    /* callers that wait */
    uint64_t starts;    /* since the beginning, as are the next two */
    uint64_t crashes;   /* ended by themselves, did not get ready in time, or became deaf */
    uint64_t stops;     /* ended because they were asked to: idle, stop, restart */
    char
        last_exit[128]; /* "exit status 1", "signal 9 (SIGKILL)", "could not start ...": how it ended, "" before that */
    char problem[256];  /* what went wrong last; "" when it is well */
} deputy_managed_status;

/* Reads /proc for the memory: a matter of milliseconds, not of microseconds. */
DEPUTY_API void deputy_managed_status_of(deputy_managed *managed, deputy_managed_status *status);

/* The last output, of this child and those before it, at most 64 KiB, oldest first, without NUL bytes; keys and tokens
 * that the child was given are shown as "***". Writes the last size - 1 bytes of it, ended by NUL, and returns how many
 * that are. */
DEPUTY_API size_t deputy_managed_output(deputy_managed *managed, char *text, size_t size);

/* The exact command that a start would run, one argument after the other; {port} stays as it is when it is picked at
 * each start, and the api_key is shown as "***". Nothing is started. DEPUTY_OK or DEPUTY_ENOMEM. */
typedef void (*deputy_argument_fn)(void *user, const char *argument);
DEPUTY_API int deputy_managed_command(deputy_managed *managed, deputy_argument_fn each, void *user);

#ifdef __cplusplus
}
#endif
#endif
