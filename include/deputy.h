/* deputy.h - the engine, for hosts.
 *
 * A call for a central LLM. When the central cannot answer, a local provider may stand in for it, but only after the
 * control plane has said, for this caller and at this moment, that the caller may still view that LLM. Whatever does
 * not allow fails closed: the caller gets the primary's error, unchanged.
 *
 * Threads: an engine belongs to the thread that made it. From any other thread only deputy_cancel, deputy_wakeup and
 * the reply functions of a provider that blocks (deputy/provider.h) may be called. A host that wants N cores makes N
 * engines.
 *
 * Processes: an engine belongs to the process that made it. After fork the child makes its own and leaves its parent's
 * alone: freeing that would stop what the parent waits for.
 *
 * Sizes: every struct that a host fills begins with its own size, so that a host built against an older header keeps
 * working: DEPUTY_INIT(deputy_options) zeroes one and sets it. A zero in any other field means "the default".
 *
 * Errors: functions return DEPUTY_OK (0) or a negative deputy_code. Those that take a deputy_error fill it with one
 * sentence: what was expected, what came, where, what to do. No token ever stands in it. NULL is allowed.
 *
 * The library keeps no global state beyond libcurl's own initialisation, never exits and writes nothing to stdout or
 * stderr: what it has to say goes through deputy_options.on_log.
 */
#ifndef DEPUTY_H
#define DEPUTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DEPUTY_VERSION "0.1.0"

#if defined(__GNUC__)
#define DEPUTY_API __attribute__((visibility("default")))
#else
#define DEPUTY_API
#endif

/* Every code, its number and its sentence: deputy_code and deputy_strerror are made from this one list. */
/* clang-format off */
#define DEPUTY_CODES(X)                                                                                                \
    X(OK, 0, "done")                                                                                                   \
    X(PAUSE, 1, "not taken: offer the same bytes again after deputy_resume")                                           \
    X(EINVAL, -1, "an argument is not valid")                                                                          \
    X(ENOMEM, -2, "out of memory")                                                                                     \
    X(EBUSY, -3, "not allowed from inside a callback of the same engine")                                              \
    X(ENOTFOUND, -4, "not registered")                                                                                 \
    X(EEXIST, -5, "already registered")                                                                                \
    X(EABI, -6, "built for another version of this interface")                                                         \
    X(ELIMIT, -7, "over a limit")                                                                                      \
    X(EPOLICY, -8, "the policy script is not usable")                                                                  \
    X(EIO, -9, "input or output failed")                                                                               \
    X(ETIMEDOUT, -10, "the time allowed has passed")                                                                   \
    X(ECANCELED, -11, "cancelled")                                                                                     \
    X(ETHREAD, -12, "called from a thread that does not own the engine")                                               \
    X(ESTALE, -13, "the permit is too old or was used")                                                                \
    X(EFAILED, -14, "the run ended with the primary's error")
/* clang-format on */

typedef enum deputy_code {
#define X(name, number, text) DEPUTY_##name = (number),
    DEPUTY_CODES(X)
#undef X
} deputy_code;

/* What the policy makes of a probe. The zero value is the one that allows nothing. */
typedef enum deputy_verdict { DEPUTY_UNREACHABLE = 0, DEPUTY_FORBIDDEN = 1, DEPUTY_ALLOWED = 2 } deputy_verdict;

/* Who decides that a local provider may be called. PROBE: C demands this run's own clean 2xx, whatever the script says.
 * POLICY: the script alone decides; only the host can choose that. */
typedef enum deputy_gate { DEPUTY_GATE_PROBE = 0, DEPUTY_GATE_POLICY = 1 } deputy_gate;

/* What happens when a script that is loaded is not fail-closed in every world that `verify` looks at: it is refused, or
 * loaded with a warning in the log, or not looked at. */
typedef enum deputy_verify { DEPUTY_VERIFY_REFUSE = 0, DEPUTY_VERIFY_WARN = 1, DEPUTY_VERIFY_OFF = 2 } deputy_verify;

typedef enum deputy_log_level {
    DEPUTY_LOG_ERROR = 0,
    DEPUTY_LOG_WARN,
    DEPUTY_LOG_INFO,
    DEPUTY_LOG_DEBUG
} deputy_log_level;

typedef struct deputy_engine deputy_engine;
typedef struct deputy_provider deputy_provider;

/* One run's number. Never used again in the life of an engine, so a late deputy_cancel hits nobody. 0 is no run. */
typedef uint64_t deputy_run_id;

typedef struct deputy_error {
    int code;          /* a deputy_code */
    char message[504]; /* one sentence, always ended by NUL */
} deputy_error;

/* A header field (RFC 9110 section 5). Both strings end with NUL, are never NULL, and live as long as the function that
 * hands them over runs. */
typedef struct deputy_header {
    const char *name;
    const char *value;
} deputy_header;

/* Why a call did not succeed. The script sees the same words: failure.kind. */
/* clang-format off */
#define DEPUTY_FAILURES(X)                                                                                             \
    X(NONE, "none")                                                                                                    \
    X(ERROR, "error")         /* an error without kind or status: a host's own primary */                              \
    X(STATUS, "status")       /* an HTTP status other than 2xx */                                                      \
    X(CONNECT, "connect")     /* refused, or reset before the head of the reply */                                     \
    X(DNS, "dns")                                                                                                      \
    X(TLS, "tls")                                                                                                      \
    X(TIMEOUT, "timeout")     /* code says which: connect, first_byte, first_token, idle */                            \
    X(CUT, "cut")             /* ended before it was complete, after the head */                                       \
    X(MALFORMED, "malformed") /* a 2xx that is empty, HTML or not what was asked */                                    \
    X(IN_BAND, "in_band")     /* an error inside a 2xx, before any output */                                           \
    X(LIMIT, "limit")         /* over a limit of ours */                                                               \
    X(CANCELLED, "cancelled") /* the caller went away */                                                               \
    X(DEADLINE, "deadline")   /* the run's own deadline passed */                                                      \
    X(REFUSED, "refused")     /* not sent at all: the gate, or a request that cannot be expressed */
/* clang-format on */

typedef enum deputy_failure_kind {
#define X(name, text) DEPUTY_FAILURE_##name,
    DEPUTY_FAILURES(X)
#undef X
} deputy_failure_kind;

typedef struct deputy_failure {
    deputy_failure_kind kind;
    int status;             /* the HTTP status, or 0 */
    char code[48];          /* a short word a program can test: "first_byte", "rate_limit_exceeded"; may be empty */
    char message[256];      /* a sentence for people, without secrets */
    int64_t retry_after_ms; /* from Retry-After (RFC 9110 section 10.2.3), or -1 */
} deputy_failure;

/* One thing that happened in a run, in order. Times are microseconds since the run was started. */
typedef enum deputy_leg { DEPUTY_LEG_PRIMARY = 0, DEPUTY_LEG_PROBE, DEPUTY_LEG_LOCAL, DEPUTY_LEG_POLICY } deputy_leg;

typedef struct deputy_trace {
    deputy_leg leg;
    int attempt; /* from 1, for each leg */
    uint64_t start_us;
    uint64_t end_us;        /* 0 while it is under way */
    int status;             /* HTTP status, or 0 */
    const char *kind;       /* "ok", a failure's kind, or a probe's kind; for the policy what happened to it */
    const char *provider;   /* local legs: the provider's name; else NULL */
    deputy_verdict verdict; /* probe legs: what the gate makes of it */
} deputy_trace;

typedef enum deputy_result {
    DEPUTY_RESULT_OK = 0,   /* a reply was delivered whole */
    DEPUTY_RESULT_FAILED,   /* the primary's error was delivered, or there was none that has bytes: see failure */
    DEPUTY_RESULT_CUT,      /* a reply was begun and could not be finished: end your own reply uncleanly */
    DEPUTY_RESULT_CANCELLED /* deputy_cancel, or the engine was freed */
} deputy_result;

/* How a run ended. Valid during on_end; in deputy_reply until deputy_reply_clear. */
typedef struct deputy_outcome {
    size_t size;
    deputy_run_id run;
    deputy_result result;
    int status;                    /* HTTP status that on_head delivered, or 0 when nothing was delivered */
    bool failover;                 /* a local provider answered */
    const char *via;               /* its name, or NULL */
    bool probed;                   /* at least one probe was made */
    deputy_verdict verdict;        /* what the gate makes of the last probe */
    const deputy_failure *failure; /* NULL when result is OK */
    const deputy_trace *trace;
    size_t n_trace;
    uint64_t us; /* how long the run took */
} deputy_outcome;

/* ---- the engine ------------------------------------------------------------------------------------------------ */

/* Milliseconds; 0 takes the default in brackets. */
typedef struct deputy_timeouts {
    uint32_t connect_ms;     /* [2000]   TCP and TLS to any upstream */
    uint32_t first_byte_ms;  /* [300000] a plain reply: from sending to the head of the reply */
    uint32_t first_token_ms; /* [30000]  a stream: from sending to the first event that carries output */
    uint32_t idle_ms;        /* [30000]  the longest silence after that */
    uint32_t total_ms;       /* [600000] the whole run */
    uint32_t probe_ms;       /* [2000]   the whole probe */
} deputy_timeouts;

/* What may grow, and how far. 0 takes the default in brackets. */
typedef struct deputy_limits {
    uint32_t max_runs;            /* [4096]     runs at once */
    size_t max_body_bytes;        /* [33554432] a request's body */
    size_t max_reply_bytes;       /* [67108864] a reply that is held whole */
    size_t max_error_bytes;       /* [1048576]  the body of an error that is kept for the caller */
    size_t max_hold_bytes;        /* [262144]   what a stream may send before its first output */
    size_t max_header_bytes;      /* [65536]    the head of any reply */
    uint64_t policy_instructions; /* [10000000] Lua instructions of one run */
    size_t policy_run_bytes;      /* [8388608]  Lua memory that one run may hold */
    size_t policy_bytes;          /* [67108864] Lua memory of one policy with all its runs */
    uint32_t policy_ms;           /* [200]      time a script may compute while the other runs wait */
} deputy_limits;

/* Which path of the central serves an endpoint. {llm} is the escaped name, {endpoint} what follows /v1/. */
typedef struct deputy_route {
    const char *endpoint; /* "chat/completions", or "*" for all others */
    const char *path;     /* "/api/v1/llms/{llm}/infer" */
} deputy_route;

/* How a probe ended: "ok" means that a well-formed HTTP reply came, whatever its status. */
/* clang-format off */
#define DEPUTY_PROBE_KINDS(X)                                                                                          \
    X(NO_TOKEN, "no_token") /* first: a zeroed answer allows nothing */                                                \
    X(OK, "ok")                                                                                                        \
    X(TIMEOUT, "timeout")                                                                                              \
    X(DNS, "dns")                                                                                                      \
    X(CONNECT, "connect")                                                                                              \
    X(TLS, "tls")                                                                                                      \
    X(PROTOCOL, "protocol")                                                                                            \
    X(LIMIT, "limit")
/* clang-format on */

typedef enum deputy_probe_kind {
#define X(name, text) DEPUTY_PROBE_##name,
    DEPUTY_PROBE_KINDS(X)
#undef X
} deputy_probe_kind;

typedef struct deputy_probe_answer {
    deputy_probe_kind kind;
    int status;            /* 0 unless kind is OK */
    char content_type[64]; /* lower case, without parameters; "" when there was none */
    uint64_t us;
} deputy_probe_answer;

/* Answers a probe in place of HEAD, at once: for a host that IS the control plane, and for measuring. Called on the
 * engine's thread; must not call the engine. The gate treats the answer like any other. */
typedef void (*deputy_probe_fn)(void *user, const char *llm, const char *bearer_token, deputy_probe_answer *answer);

/* Called on the engine's thread (a blocking provider's thread never logs). text ends with NUL, has no line break and no
 * secret, and lives as long as the call. Must not call the engine. */
typedef void (*deputy_log_fn)(void *user, deputy_log_level level, const char *text);

struct uv_loop_s;

typedef struct deputy_options {
    size_t size;
    const char *central_url;  /* "http(s)://host[:port][/prefix]"; may be NULL when requests bring their own primary and
                                 a probe function is set; without either, every probe is unreachable */
    const char *bearer_token; /* for requests that bring none; NULL for none */
    const char *ca_file;      /* PEM bundle to trust instead of the system's, or NULL */
    const char *probe_path;   /* ["/api/v1/llms/{llm}"]; {llm} must be in it */
    bool probe_get; /* the probe is a GET, for a central that answers HEAD with 405. What comes is thrown away;
                       over 64 KiB, or without a length, it counts for nothing */
    const deputy_route *inference; /* [chat/completions -> /api/v1/llms/{llm}/infer, * -> /v1/{endpoint}] */
    size_t n_inference;
    const char *policy_settings; /* a JSON object that reaches the script as `settings`; NULL for {} */
    deputy_gate gate;
    deputy_verify verify;
    uint32_t permit_ms; /* [5000] how long a clean 2xx stays good for its one dispatch */
    deputy_timeouts timeouts;
    deputy_limits limits;
    deputy_probe_fn probe; /* NULL: HEAD to the central */
    void *probe_user;
    deputy_log_fn on_log; /* NULL: silence */
    void *log_user;
    struct uv_loop_s *loop; /* a loop lent by the host, on this thread, which the host runs; NULL: the engine's own */
} deputy_options;

#ifdef __cplusplus
#define DEPUTY_INIT(type)                                                                                              \
    ([] {                                                                                                              \
        type zeroed = {};                                                                                              \
        zeroed.size = sizeof(zeroed);                                                                                  \
        return zeroed;                                                                                                 \
    }())
#else
#define DEPUTY_INIT(type) ((type){.size = sizeof(type)})
#endif

/* Makes an engine. All strings are copied. It has no policy yet: until one is loaded, a run is its primary call and
 * nothing more. On failure *engine is NULL. */
DEPUTY_API int deputy_engine_new(const deputy_options *options, deputy_engine **engine, deputy_error *error);

/* Ends every run (on_end is called for each, CANCELLED), waits for providers that block, and frees. NULL is allowed.
 * From inside a callback it does nothing but log: an engine cannot free itself while it stands on the stack. With a
 * lent loop the loop is run until the engine's handles are closed, so that other callbacks of that loop may come from
 * inside this call. */
DEPUTY_API void deputy_engine_free(deputy_engine *engine);

/* Loads a policy script (text only, no bytecode) into a fresh Lua state and swaps it in when all of it went well; runs
 * in flight finish on the old one. On failure the old one stays and error says file, line and what was expected. */
DEPUTY_API int deputy_load_policy(deputy_engine *engine, const char *path, deputy_error *error);

/* The same from memory; name stands for the file in messages. */
DEPUTY_API int deputy_load_policy_text(deputy_engine *engine, const char *name, const char *text, size_t len,
                                       deputy_error *error);

/* Runs a script against a simulated world, without any network or provider, and reports what it found. */
typedef struct deputy_verify_options {
    size_t size;
    unsigned depth;              /* [3] requests in a row, 1 to 6 */
    const char *format;          /* ["text"] "text", "brief" (the first table alone), "json" or "markdown" */
    const char *policy_settings; /* as in deputy_options */
    deputy_gate gate;            /* as in deputy_options */
    uint32_t timeout_ms;         /* [60000] */
    uint32_t permit_ms;          /* [5000] as in deputy_options */
} deputy_verify_options;

/* *report is malloc'ed text, the caller's, or NULL when the script could not be run at all. *fail_closed is the
 * finding. DEPUTY_OK whenever there is a finding. options may be NULL. Any thread; needs no engine. */
DEPUTY_API int deputy_verify_policy(const deputy_verify_options *options, const char *path, char **report,
                                    bool *fail_closed, deputy_error *error);

/* ---- registry and failover map --------------------------------------------------------------------------------- */

/* Takes over the caller's reference on success. A second provider of the same name is DEPUTY_EEXIST. */
DEPUTY_API int deputy_register(deputy_engine *engine, deputy_provider *provider, deputy_error *error);

/* Removes the provider and every failover entry that points at it. Calls under way at it finish. */
DEPUTY_API int deputy_unregister(deputy_engine *engine, const char *name, deputy_error *error);

/* Lets a registered provider stand in for llm, after those that already may. Saying it twice changes nothing. */
DEPUTY_API int deputy_register_failover(deputy_engine *engine, const char *llm, const char *provider,
                                        deputy_error *error);

/* The name of the first provider that may stand in for llm, or NULL. Valid until the registry changes. */
DEPUTY_API const char *deputy_failover_for(const deputy_engine *engine, const char *llm);

/* Calls each for every entry, sorted by llm, then in the order of registration; stops when it answers other than 0 and
 * returns that. The registry must not change meanwhile. */
typedef int (*deputy_failover_fn)(void *user, const char *llm, const char *provider);
DEPUTY_API int deputy_list_failovers(const deputy_engine *engine, deputy_failover_fn each, void *user);

/* The same for the providers, sorted by name. */
typedef int (*deputy_provider_fn)(void *user, deputy_provider *provider);
DEPUTY_API int deputy_list_providers(const deputy_engine *engine, deputy_provider_fn each, void *user);

/* ---- runs ------------------------------------------------------------------------------------------------------- */

typedef enum deputy_stream {
    DEPUTY_STREAM_AUTO = 0, /* what the body's top-level "stream" says */
    DEPUTY_STREAM_NO,
    DEPUTY_STREAM_YES
} deputy_stream;

typedef struct deputy_request {
    size_t size;
    const char *llm;          /* the central LLM's id or name; copied */
    const char *endpoint;     /* ["chat/completions"] what follows /v1/; copied */
    const char *bearer_token; /* the caller's; NULL: the options'; copied; never sent to a local provider */
    const void *body;         /* JSON, sent byte for byte; BORROWED until on_end */
    size_t body_len;
    const deputy_header *headers; /* further fields for the upstream; copied; those that carry credentials or frame the
                                     message (Authorization, Cookie, Host, Content-Length, ...) are left out */
    size_t n_headers;
    deputy_stream stream;
    bool whole;               /* hold a stream back until it is complete, so that a cut can still fail over */
    uint32_t total_ms;        /* 0: deputy_timeouts.total_ms; only ever shortens it */
    const char *method;       /* ["POST"] the central's alone: "GET" for what is only looked at, as "models"; copied */
    bool primary_only;        /* no script, no failover: the primary's answer or error is the outcome */
    deputy_provider *primary; /* called instead of the central's inference proxy; a reference is held while it runs */
} deputy_request;

/* Where a run's reply goes. Called on the engine's thread, never from inside deputy_start. Inside them deputy_start,
 * deputy_cancel and deputy_resume are allowed; blocking calls answer DEPUTY_EBUSY. */
typedef struct deputy_sink {
    size_t size;
    void *user;
    /* At most once, before any bytes. May be NULL. */
    void (*on_head)(void *user, int status, const deputy_header *headers, size_t n_headers);
    /* DEPUTY_OK: all taken. DEPUTY_PAUSE: none taken; the same bytes come again after deputy_resume, and the upstream
     * is held back meanwhile. Anything else cancels the run. May be NULL. */
    int (*on_bytes)(void *user, const void *bytes, size_t len);
    /* Exactly once, last. The request's body may go after it. */
    void (*on_end)(void *user, const deputy_outcome *outcome);
} deputy_sink;

/* Starts a run; *run (may be NULL) is its number. Needs somebody to turn the loop: deputy_pump, or the lent loop. */
DEPUTY_API int deputy_start(deputy_engine *engine, const deputy_request *request, const deputy_sink *sink,
                            deputy_run_id *run, deputy_error *error);

/* Asks a run to end; on_end follows with CANCELLED, from the loop. Any thread, any moment; an ended run is no error. */
DEPUTY_API void deputy_cancel(deputy_engine *engine, deputy_run_id run);

/* The sink of a paused run takes bytes again. They come from the loop, not from inside this call. From inside the very
 * on_bytes that is about to answer DEPUTY_PAUSE it counts too. */
DEPUTY_API void deputy_resume(deputy_engine *engine, deputy_run_id run);

/* What a run is doing: the leg under way that began last, else the one that ended last. Its strings live until the loop
 * is turned again. DEPUTY_ENOTFOUND when the run is over or has not begun; then *leg is untouched. */
DEPUTY_API int deputy_progress(const deputy_engine *engine, deputy_run_id run, deputy_trace *leg);

/* The local provider whose reply the run's sink gets, or NULL: the primary's, or nothing is decided yet. From on_head
 * on; the string lives until on_end returns, inside which outcome->via says it. */
DEPUTY_API const char *deputy_via(const deputy_engine *engine, deputy_run_id run);

/* What a request's body says at its top level, found without a tree: the LLM ("model", decoded, into llm) and whether
 * "stream" is true (may be NULL). DEPUTY_ENOTFOUND when there is no model, DEPUTY_ELIMIT when nested deeper than 512,
 * else DEPUTY_EINVAL, with error in words: not one JSON object, two models, not a name. Any thread; needs no engine. */
#define DEPUTY_NAME_SIZE 129
DEPUTY_API int deputy_read_body(const void *body, size_t len, char llm[DEPUTY_NAME_SIZE], deputy_stream *stream,
                                deputy_error *error);

/* A whole reply, for callers that wait for it. Owns what it points at. */
typedef struct deputy_reply {
    size_t size;
    int status; /* 0: there is no reply, see outcome.failure */
    deputy_header *headers;
    size_t n_headers;
    char *body; /* ends with a NUL that body_len does not count */
    size_t body_len;
    deputy_outcome outcome;
} deputy_reply;

/* Runs to the end and returns DEPUTY_OK, DEPUTY_EFAILED (reply holds the primary's error as it came, or, when
 * outcome.result is CUT, what had come of a reply), DEPUTY_ECANCELED or another code with error filled. DEPUTY_EBUSY
 * from inside a callback, and on a lent loop, which the host turns. A reply over limits.max_reply_bytes is a failure.
 * Clear the reply in every case. */
DEPUTY_API int deputy_run(deputy_engine *engine, const deputy_request *request, deputy_reply *reply,
                          deputy_error *error);
DEPUTY_API void deputy_reply_clear(deputy_reply *reply);

/* May this caller view llm now? Asks the central, then takes the stricter of the script's verdict and the gate's.
 * bearer_token NULL: deputy_options.bearer_token. Returns DEPUTY_OK whenever there is a verdict. answer (may be NULL)
 * is the probe behind it. Blocking, like deputy_run. */
DEPUTY_API int deputy_check_auth(deputy_engine *engine, const char *llm, const char *bearer_token,
                                 deputy_verdict *verdict, deputy_probe_answer *answer, deputy_error *error);

/* Asks one registered provider, outside any run. Blocking, like deputy_run, for at most timeout_ms (0: connect_ms). */
DEPUTY_API int deputy_is_available(deputy_engine *engine, const char *provider, uint32_t timeout_ms, bool *available,
                                   deputy_error *error);
typedef void (*deputy_model_fn)(void *user, const char *model);
DEPUTY_API int deputy_list_models(deputy_engine *engine, const char *provider, uint32_t timeout_ms,
                                  deputy_model_fn each, void *user, deputy_error *error);

/* The same questions without waiting, for hosts that turn the loop themselves: allowed on a lent loop and inside
 * callbacks. The answer comes exactly once, on the engine's thread, from the loop and never from inside these calls:
 * DEPUTY_OK (it is available; each was called for all its models), DEPUTY_EFAILED (no, and why in words) or
 * DEPUTY_ECANCELED (the engine is being freed). why is never NULL and lives as long as the call; deputy_start and these
 * two are allowed inside it, blocking calls answer DEPUTY_EBUSY. timeout_ms 0: connect_ms. At most 256 at once, else
 * DEPUTY_ELIMIT. each may be NULL. When a code other than DEPUTY_OK is returned, nothing is called. */
typedef void (*deputy_answer_fn)(void *user, int code, const char *why);
DEPUTY_API int deputy_ask_available(deputy_engine *engine, const char *provider, uint32_t timeout_ms,
                                    deputy_answer_fn on_answer, void *user, deputy_error *error);
DEPUTY_API int deputy_ask_models(deputy_engine *engine, const char *provider, uint32_t timeout_ms, deputy_model_fn each,
                                 deputy_answer_fn on_answer, void *user, deputy_error *error);

/* The counters that the script keeps (count(name, n)), sorted by name; each as in deputy_list_failovers. */
typedef int (*deputy_counter_fn)(void *user, const char *name, double value);
DEPUTY_API int deputy_list_counters(const deputy_engine *engine, deputy_counter_fn each, void *user);

/* What the script says about how things are (state(topic, name, word, seconds)), sorted by topic and name; each as in
 * deputy_list_failovers. The default policy's topic is "breaker", its names are LLMs, its words "open" and "half_open";
 * an LLM whose breaker is closed has no entry. left_ms: how long that lasts, -1 until the script says otherwise, 0 when
 * its time is over (an open breaker lets the next run try then). They go with the script: a new one begins without. */
typedef int (*deputy_state_fn)(void *user, const char *topic, const char *name, const char *word, int64_t left_ms);
DEPUTY_API int deputy_list_states(const deputy_engine *engine, deputy_state_fn each, void *user);

/* ---- a host's own loop ------------------------------------------------------------------------------------------ */

/* Before each poll ask deputy_timeout; wait for deputy_fd to be readable, at most that long; after each poll call
 * deputy_pump, readable or not (libuv hands its interest to the kernel only then). Not for a lent loop. */
DEPUTY_API int deputy_fd(const deputy_engine *engine);
DEPUTY_API int deputy_timeout(const deputy_engine *engine); /* milliseconds; 0: now; -1: no limit */
DEPUTY_API int deputy_pump(deputy_engine *engine); /* does what is due, never waits; DEPUTY_EBUSY from a callback */
DEPUTY_API size_t deputy_in_flight(const deputy_engine *engine); /* runs not ended yet */

/* Makes deputy_fd readable. Any thread. */
DEPUTY_API void deputy_wakeup(deputy_engine *engine);

/* ---- words ------------------------------------------------------------------------------------------------------ */

/* All of these are static strings; an unknown number gets a string that says so. */
DEPUTY_API const char *deputy_version(void);
DEPUTY_API const char *deputy_strerror(int code);
DEPUTY_API const char *deputy_verdict_name(deputy_verdict verdict);    /* "unreachable", "forbidden", "allowed" */
DEPUTY_API const char *deputy_failure_name(deputy_failure_kind kind);  /* "status", "connect", ... */
DEPUTY_API const char *deputy_probe_kind_name(deputy_probe_kind kind); /* "ok", "timeout", ... */
DEPUTY_API const char *deputy_leg_name(deputy_leg leg);                /* "primary", "probe", "local", "policy" */

#ifdef __cplusplus
}
#endif
#endif
