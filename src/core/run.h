/* core/run.h - one request on its way: one coroutine, one deadline, one outcome.
 *
 * The script drives a run through the functions below (src/lua/lua_run.c calls them for it). They start legs; the
 * script waits until what it asked for has settled. When it is over, C picks what the caller gets, by its own books:
 * the reply that the script chose, else the primary's failure as C kept it. */
#ifndef CORE_RUN_H
#define CORE_RUN_H

#include "core/call.h"
#include "core/engine.h"
#include "core/gate.h"
#include "core/policy.h"
#include "net/probe.h"

enum { RUN_LEGS_MAX = 32, RUN_TRACE_MAX = 64, RUN_STRINGS = 256, RUN_PERMITS_MAX = 4, RUN_CALLER_SIZE = 33 };

enum run_state {
    RUN_QUEUED,   /* not begun */
    RUN_SCRIPT,   /* the coroutine has it; when waiting is set, it waits */
    RUN_FALLBACK, /* no script, or it ended badly before the primary was asked: C asks it */
    RUN_FLOWING,  /* decided: bytes go to the sink */
    RUN_OVER
};

enum run_choice { CHOICE_NONE, CHOICE_REPLY, CHOICE_FAILURE };

struct run {
    struct run *older, *newer;           /* among engine->runs */
    struct run *same_before, *same_next; /* in its place of engine->by_number */
    struct run *prev, *next;             /* on engine->ready */
    bool queued;
    deputy_engine *engine;
    deputy_run_id id;
    enum run_state state;
    bool check;   /* wants only a verdict */
    bool waiting; /* the coroutine has yielded */
    bool waits;   /* and it was one of our functions that yielded, not the script by itself */

    struct policy *policy; /* the one it began with; NULL: none was loaded */
    struct policy_thread thread;
    struct budget budget;
    lua_State *branch; /* of run:first, while it is resumed; NULL otherwise */
    void *handle;      /* the script's object for this run, or NULL */

    const char *llm, *endpoint, *token; /* in strings, or where that has no room in more_strings */
    char *more_strings;
    struct header_list headers;
    const void *body;
    size_t body_len;
    bool stream, whole, is_get;
    deputy_provider *primary; /* a reference; NULL: there is none to call */
    deputy_sink sink;

    uint64_t start_us, total_us;
    struct timer *timer;
    bool cancelled, late, forced, graced;

    struct deputy_call *calls;   /* newest first */
    struct deputy_call *sending; /* whose provider is being asked right now */
    unsigned n_calls;
    int primaries, locals, probes;
    int denied; /* the number of the newest question that was not answered with a clean 2xx */

    struct claim claim;
    struct permit permits[RUN_PERMITS_MAX]; /* not spent yet */
    struct asking *askings;                 /* newest first */
    deputy_probe_answer last_answer;        /* about the run's own LLM */
    int last_number;                        /* of the question that it answers */
    struct nap *naps;

    enum run_choice choice;
    struct deputy_call *chosen; /* whose bytes flow */
    deputy_failure failure;     /* kind NONE: it went well */
    bool head_sent, sink_paused;
    bool resumed; /* asked for since bytes were last offered to the sink */
    deputy_verdict script_verdict;

    deputy_trace *trace;
    size_t n_trace, trace_size;
    deputy_trace first_trace[6];
    char strings[]; /* RUN_STRINGS bytes, not cleared */
};

/* ---- for the script (on the run's coroutine; each may settle at once) ------------------------------------------ */

/* A new attempt at the primary, or NULL with failure filled (over a limit, out of memory). timeout_ms bounds this
 * attempt alone; 0: the leg's own timeouts. */
struct deputy_call *run_primary(struct run *run, uint32_t timeout_ms, deputy_failure *failure);

/* Hands the run to a local provider if the gate lets it; otherwise NULL with failure filled: kind REFUSED. */
struct deputy_call *run_complete(struct run *run, deputy_provider *provider, uint32_t timeout_ms,
                                 deputy_failure *failure);

/* Ends every leg and question that is still open, but the call given: the rest of a hedge. */
void run_drop_open(struct run *run, const struct deputy_call *but);

/* A pause. over is true when it has passed; then run_wake_from gives it back. NULL when out of memory, or with too many
 * that were not given back. */
struct nap {
    struct nap *next;
    struct run *run;
    struct timer *timer;
    bool over;
};
struct nap *run_nap(struct run *run, uint64_t ms);
void run_wake_from(struct nap *nap);

/* The call of that number, or NULL. */
struct deputy_call *run_find_call(const struct run *run, unsigned number);

/* An opaque, stable name for the caller (caller.c). false: it has no token, or no name could be made. */
bool run_caller(struct run *run, char out[RUN_CALLER_SIZE]);

/* The last probe's answer as the gate sees it; UNREACHABLE before any. */
deputy_verdict run_verdict(const struct run *run);

/* What the script decided. A call that is not GOOD is no reply. */
void run_choose(struct run *run, enum run_choice choice, struct deputy_call *call);

/* The time, from the clock or as it was just before: a look at the clock costs as much as a leg in memory. */
static inline uint64_t run_now(struct run *run)
{
    if (run->budget.now_us == 0)
        run->budget.now_us = loop_now_us();
    return run->budget.now_us;
}

/* ---- the trace (trace.c) ----------------------------------------------------------------------------------------- */

/* An entry that is under way; RUN_TRACE_MAX when there is no room, which trace_end takes for nothing. */
size_t trace_begin(struct run *run, deputy_leg leg, int attempt, const char *provider, uint64_t now_us);
void trace_end_at(struct run *run, size_t at, int status, const char *kind, deputy_verdict verdict, uint64_t now_us);
void trace_end(struct run *run, size_t at, int status, const char *kind, deputy_verdict verdict);

/* What happened to the policy, at once. kind is a static string. */
void run_note(struct run *run, const char *kind);

/* ---- for the engine --------------------------------------------------------------------------------------------- */

/* A new run, on the queue. The public deputy_start, or (check) one that only wants a verdict. */
int run_new(deputy_engine *engine, const deputy_request *request, const deputy_sink *sink, bool check, struct run **out,
            deputy_error *error);

/* Does what is to be done next. The run may be gone afterwards. */
void run_step(struct run *run);

/* Puts it on the queue. */
void run_wake(struct run *run);

/* Offers bytes to the sink, as its on_bytes answers; what that means for the run is done. */
int run_offer(struct run *run, const void *bytes, size_t len);

/* Asks it to end with CANCELLED. */
void run_cancel(struct run *run);

#endif
