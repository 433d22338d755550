/* core/policy.h - a loaded policy script: its Lua state, its coroutines, and what they may use up. What the script can
 * call is added by the floor above through the three functions of policy_bindings. */
#ifndef CORE_POLICY_H
#define CORE_POLICY_H

#include "core/states.h"

#include <lua.h>

struct policy;

struct policy_bindings {
    lua_CFunction open;  /* in a protected call, with a fresh state: opens libraries and types. Argument 1: settings */
    lua_CFunction route; /* a coroutine's body: argument 1 is the run as light userdata */
    lua_CFunction verdict; /* the same, for a run that only asks for a verdict */
};

/* What one run may use up, and what it has used. */
struct budget {
    uint64_t instructions; /* left */
    uint64_t compute_us;   /* left */
    uint64_t deadline_us;  /* on loop_now_us' clock: the run's own; 0: none */
    int64_t bytes;         /* Lua memory that it holds; what it gives back counts */
    int64_t max_bytes;
    uint64_t now_us;    /* the clock's last word; 0 once the script may have worked for long since */
    const char *killed; /* what ran out; sticky: the script runs no further, whatever it catches */
};

/* One coroutine. All zero: none. */
struct policy_thread {
    lua_State *co;
    int ref;
    bool begun;
};

enum policy_result { POLICY_YIELDED, POLICY_RETURNED, POLICY_FAILED };

/* Loads text (no bytecode) as a script: one reference on DEPUTY_OK. Otherwise error says file, line and what was
 * expected. The budget of a load is that of a run. */
int policy_load(const char *name, const char *text, size_t len, const deputy_limits *limits, const char *settings,
                const struct policy_bindings *bindings, void *host, struct policy **policy, deputy_error *error);
struct policy *policy_ref(struct policy *policy);
void policy_unref(struct policy *policy); /* not while one of its coroutines runs; NULL is allowed */

/* From inside Lua: what policy_load was given as host, and the coroutine of the run that is being resumed (or NULL). */
void *policy_host(lua_State *L);
lua_State *policy_running(lua_State *L);

/* For C functions that a script calls. In a state that is no policy's there is no budget: policy_charge calls the count
 * hook that is set there, if any. The first three may raise.
 *
 * policy_charge: what a function does without any instruction being counted, in instructions (about 10 ns each); less
 * than 100 are not worth a look at the clock and are free. */
void policy_charge(lua_State *L, uint64_t instructions);
/* As lua_resume(co, L, ...) and lua_resetthread(co), for every coroutine but the run's own: raises in L once the script
 * was killed inside co, so that nobody catches it. */
int policy_resume_inside(lua_State *L, lua_State *co, int nargs, int *nresults);
int policy_close_inside(lua_State *L, lua_State *co);
/* A state for code of our own that tries scripts out: without limits but max_bytes, except inside
 * policy_resume_limited, which resumes co under a budget as a run's coroutine is, and kills it as one. Not from inside
 * itself. NULL when out of memory; given back by policy_unref. */
struct policy *policy_bare(size_t max_bytes);
lua_State *policy_state(struct policy *policy);
int policy_resume_limited(lua_State *L, lua_State *co, struct budget *budget, int nargs, int *nresults);
/* While set, memory over the limit is granted: for C that would lose its own if Lua raised. What it asks for must be
 * bounded, and it must be unset on every way out. */
void policy_lenient(lua_State *L, bool lenient);

/* The longest string in bytes that a script may make. */
enum { POLICY_STRING_MAX = 64 << 10 };

/* What the bindings keep in a state, each found by its place: the functions that every script has, as they were when it
 * was loaded, and the bindings' own values. policy_keep takes the value from the top of the stack and may raise. */
enum policy_slot {
    POLICY_ROUTE,
    POLICY_SHOULD_FAILOVER,
    POLICY_VERDICT,
    POLICY_FUNCTIONS,
    POLICY_TYPE_RUN = POLICY_FUNCTIONS,
    POLICY_TYPE_FAILURE,
    POLICY_TYPE_REPLY,
    POLICY_TYPE_PROBE,
    POLICY_TYPE_CANDIDATE,
    POLICY_CANDIDATES,
    POLICY_SLOTS
};
void policy_keep(lua_State *L, enum policy_slot slot);
void policy_push(lua_State *L, enum policy_slot slot);

/* A coroutine for a run, ready to be resumed; `check` takes bindings.verdict for its body. DEPUTY_OK or DEPUTY_ENOMEM.
 */
int policy_start(struct policy *policy, bool check, void *run, struct policy_thread *thread);

/* Runs it until it waits, returns or fails; in the last case message says why, without a stack. Not from inside Lua. */
enum policy_result policy_resume(struct policy *policy, struct policy_thread *thread, struct budget *budget,
                                 char *message, size_t size);

/* Gives the coroutine back. done: it returned, and may be used again. */
void policy_stop(struct policy *policy, struct policy_thread *thread, bool done);

/* Fills budget for one run. */
void policy_budget(const deputy_limits *limits, struct budget *budget);

/* What the script says about how things are; from inside Lua, that of the script that says it. */
struct states *policy_states(struct policy *policy);
struct states *policy_states_here(lua_State *L);

const char *policy_name(const struct policy *policy);
size_t policy_bytes(const struct policy *policy);

#endif
