/* core/run.h - one request on its way: one coroutine, one deadline, one outcome.
 *
 * The script drives a run through the functions below (src/lua/lua_run.c calls them for it). They start legs; the script
 * waits until what it asked for has settled. When it is over, C picks what the caller gets, by its own books: the reply
 * that the script chose, else the primary's failure as C kept it. */
#ifndef CORE_RUN_H
#define CORE_RUN_H

#include "core/call.h"
#include "core/engine.h"
#include "core/gate.h"
#include "core/policy.h"
#include "net/probe.h"

#include <uthash.h>

enum { RUN_LEGS_MAX = 32, RUN_TRACE_MAX = 64, RUN_STRINGS = 256 };

enum run_state {
    RUN_QUEUED,   /* not begun */
    RUN_SCRIPT,   /* the coroutine has it; when waiting is set, it waits */
    RUN_FALLBACK, /* no script, or it ended badly before the primary was asked: C asks it */
    RUN_FLOWING,  /* decided: bytes go to the sink */
    RUN_OVER
};

enum run_choice { CHOICE_NONE, CHOICE_REPLY, CHOICE_FAILURE };

/* One question to the central. */
struct asking {
    struct probe *probe; /* under way, or NULL when it was answered at once */
    struct run *run;
    bool pending;
    uint64_t start_us;
    size_t trace;
    deputy_probe_answer answer;
};

struct run {
    UT_hash_handle hh;       /* in engine->runs */
    struct run *prev, *next; /* on engine->ready */
    bool queued, left_out;
    deputy_engine *engine;
    deputy_run_id id;
    enum run_state state;
    bool check;   /* wants only a verdict */
    bool waiting; /* the coroutine has yielded */
    bool waits;   /* and it was one of our functions that yielded, not the script by itself */

    struct policy *policy; /* the one it began with; NULL: none was loaded */
    struct policy_thread thread;
    struct budget budget;
    void *handle; /* the script's object for this run, or NULL */

    const char *llm, *endpoint, *token; /* in strings, or where that has no room in more_strings */
    char *more_strings;
    struct header_list headers;
    const void *body;
    size_t body_len;
    bool stream, whole;
    deputy_provider *primary; /* a reference; NULL: there is none to call */
    deputy_sink sink;

    uint64_t start_us, total_us;
    struct timer *timer;
    bool cancelled, late, forced;

    struct deputy_call *calls; /* newest first */
    struct deputy_call *last_primary;
    unsigned n_calls;
    int primaries, locals, probes;

    struct claim claim;
    struct permit permit;
    struct asking script_probe;
    struct asking renewal;        /* the engine's own, for a permit that grew old */
    struct deputy_call *renewing; /* whose */

    enum run_choice choice;
    struct deputy_call *chosen; /* whose bytes flow */
    deputy_failure failure;     /* kind NONE: it went well */
    bool head_sent, sink_paused;
    deputy_verdict script_verdict;

    deputy_trace *trace;
    size_t n_trace, trace_size;
    deputy_trace first_trace[6];
    char strings[]; /* RUN_STRINGS bytes, not cleared */
};

/* ---- for the script (on the run's coroutine; each may settle at once) ------------------------------------------ */

/* A new attempt at the primary, or NULL with failure filled (over a limit, out of memory). */
struct deputy_call *run_primary(struct run *run, deputy_failure *failure);

/* Hands the run to a local provider if the gate lets it; otherwise NULL with failure filled: kind REFUSED. */
struct deputy_call *run_complete(struct run *run, deputy_provider *provider, deputy_failure *failure);

/* Asks the central. run->script_probe.answer counts when run->script_probe.pending is false again. */
void run_probe(struct run *run);

/* The last probe's answer as the gate sees it; UNREACHABLE before any. */
deputy_verdict run_verdict(const struct run *run);

/* What the script decided. A call that is not GOOD is no reply. */
void run_choose(struct run *run, enum run_choice choice, struct deputy_call *call);

/* What happened, for the trace and the log. */
void run_note(struct run *run, const char *kind);

/* ---- for the engine --------------------------------------------------------------------------------------------- */

/* A new run, on the queue. The public deputy_start, or (check) one that only wants a verdict. */
int run_new(deputy_engine *engine, const deputy_request *request, const deputy_sink *sink, bool check, struct run **run,
            deputy_error *error);

/* Does what is to be done next. The run may be gone afterwards. */
void run_step(struct run *run);

/* Puts it on the queue. */
void run_wake(struct run *run);

/* Asks it to end with CANCELLED. */
void run_cancel(struct run *run);

#endif
