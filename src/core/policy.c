#include "core/policy.h"

#include "base/arena.h"
#include "base/error.h"
#include "net/loop.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* HOOK_EVERY: the dearest instruction (comparing two strings of POLICY_STRING_MAX) takes 0.4 ms. LOOK_EVERY_BYTES: what
 * is allocated between two looks at the clock, for loops that spend their time on large blocks. GRACE: what a script
 * that was killed may still allocate in one piece, so that it ends without a collection at every step. CLOSING_MAX: Lua
 * does not count the C stack of coroutines that are closed inside one another. GC_PAUSE: a state is small and what a
 * run leaves behind is smaller, so that it may grow to four times its size before it is searched again. LITTER_BYTES: a
 * run that left more behind than that and its share is cleaned up after at once, so that the next one does not run into
 * its limit. */
enum {
    HOOK_EVERY = 100,
    IDLE_THREADS = 256,
    BLOCK_MAX = 4 << 20,
    LOOK_EVERY_BYTES = 256 << 10,
    GRACE = 4096,
    CLOSING_MAX = 4,
    PIECE = 256,
    JUMPS_MAX = 4096,
    GC_PAUSE = 400,
    LITTER_BYTES = 256 << 10
};

struct policy {
    unsigned refs;
    lua_State *L;
    struct budget *budget; /* of what runs right now; NULL outside */
    lua_State *running;    /* the run's own coroutine */
    lua_State *current;    /* the one whose instructions are carried out: a hook set there fires at once */
    void *host;
    uint64_t resumed_us;
    size_t bytes, max_bytes, unseen_bytes;
    size_t settled_bytes; /* after the last whole collection */
    bool opening, lenient, refused;
    unsigned closing;
    struct policy_bindings bindings;
    struct states states;
    int slots[POLICY_SLOTS]; /* references in the registry: found faster than by key */
    struct arena *arena;     /* of a state that does not live long; NULL: the heap */
    size_t n_idle;
    struct policy_thread idle[IDLE_THREADS];
    char name[];
};

/* A coroutine's extra space holds its policy. The lowest bit marks one that was killed: inside it Lua has hooks
 * switched off for good, so that nothing of it may ever run again, not even what it wanted closed. */
static uintptr_t *extra_of(lua_State *L)
{
    return lua_getextraspace(L);
}

static struct policy *policy_of(lua_State *L)
{
    return (struct policy *)(*extra_of(L) & ~(uintptr_t)1);
}

static bool was_killed(lua_State *L)
{
    return (*extra_of(L) & 1) != 0;
}

/* ---- what a script may use up ----------------------------------------------------------------------------------- */

static void on_count(lua_State *L, lua_Debug *record);

static void kill_script(struct policy *p, const char *why)
{
    if (!p->budget->killed)
        p->budget->killed = why;
    if (p->current)
        lua_sethook(p->current, on_count, LUA_MASKCOUNT, 1);
}

/* Lua's own message for a lack of memory is the one error that calls no message handler: an xpcall's could raise again
 * at every level, and be called again for each. */
static void raise_kill(lua_State *L)
{
    *extra_of(L) |= 1;
    lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    lua_pushliteral(L, "not enough memory");
    lua_error(L);
}

static void spend(struct policy *p, uint64_t instructions)
{
    struct budget *b = p->budget;
    if (b->killed)
        return;
    b->now_us = loop_now_us();
    b->instructions = b->instructions > instructions ? b->instructions - instructions : 0;
    if (b->instructions == 0)
        kill_script(p, "the script used up its instructions (limits: policyInstructions)");
    else if (b->now_us - p->resumed_us >= b->compute_us)
        kill_script(p, "the script computed for too long (limits: policyMs)");
    else if (b->deadline_us && b->now_us >= b->deadline_us)
        kill_script(p, "the script computed past the run's deadline");
}

/* The first refusal makes Lua collect its garbage and ask again; the second one is meant. A block that is too large in
 * any case is refused for good at once. */
static bool may_grow(struct policy *p, bool is_string, size_t size, size_t more)
{
    struct budget *b = p->budget;
    if (p->opening || p->lenient)
        return true;
    if (b && b->killed)
        return more <= GRACE;
    p->unseen_bytes += more;
    if (b && p->unseen_bytes >= LOOK_EVERY_BYTES) {
        p->unseen_bytes = 0;
        spend(p, HOOK_EVERY);
    }
    if (b && (size > BLOCK_MAX || (is_string && size > POLICY_STRING_MAX + 64))) {
        kill_script(p, "the script made too large a string (at most 64 KiB) or table (4 MiB), or called too deeply");
        return false;
    }
    if (more <= p->max_bytes && p->bytes <= p->max_bytes - more && (!b || (int64_t)more <= b->max_bytes - b->bytes)) {
        p->refused = false;
        return true;
    }
    if (b && p->refused)
        kill_script(p, "the script ran out of memory (limits: policyRunBytes, policyBytes)");
    else if (b)
        spend(p, HOOK_EVERY);
    p->refused = true;
    return false;
}

static void *allocate(void *user, void *ptr, size_t old_size, size_t size)
{
    struct policy *p = user;
    size_t old = ptr ? old_size : 0; /* for a new block Lua passes its type there */
    if (size > old && !may_grow(p, !ptr && old_size == LUA_TSTRING, size, size - old))
        return NULL;
    void *block = NULL;
    if (p->arena) {
        block = arena_resize(p->arena, ptr, size);
        if (!block && size > 0)
            return NULL;
    } else if (size == 0) {
        free(ptr);
    } else {
        block = ptr ? realloc(ptr, size) : malloc(size);
        if (!block && size > old)
            return NULL;
        if (!block)
            block = ptr; /* Lua counts on it that a block can always become smaller */
    }
    p->bytes += size - old;
    if (p->budget)
        p->budget->bytes += (int64_t)size - (int64_t)old;
    return block;
}

/* Once something ran out, every further instruction fails too, in whichever function or handler it is. */
static void on_count(lua_State *L, lua_Debug *record)
{
    struct policy *p = policy_of(L);
    (void)record;
    if (!p->budget)
        return;
    spend(p, HOOK_EVERY);
    if (p->budget->killed || was_killed(L))
        raise_kill(L);
}

void policy_charge(lua_State *L, uint64_t instructions)
{
    struct policy *p = policy_of(L);
    if (instructions < HOOK_EVERY)
        return;
    if (!p || !p->budget) {
        lua_Debug record = {.event = LUA_HOOKCOUNT};
        if (lua_gethookmask(L) & LUA_MASKCOUNT)
            lua_gethook(L)(L, &record);
        return;
    }
    spend(p, instructions);
    if (p->budget->killed || was_killed(L))
        raise_kill(L);
}

void policy_lenient(lua_State *L, bool lenient)
{
    struct policy *p = policy_of(L);
    if (p)
        p->lenient = lenient;
}

static void collect(struct policy *p)
{
    lua_gc(p->L, LUA_GCCOLLECT);
    p->settled_bytes = p->bytes;
}

void policy_budget(const deputy_limits *limits, struct budget *budget)
{
    memset(budget, 0, sizeof(*budget));
    budget->instructions = limits->policy_instructions;
    budget->compute_us = (uint64_t)limits->policy_ms * 1000;
    budget->max_bytes = limits->policy_run_bytes < INT64_MAX / 2 ? (int64_t)limits->policy_run_bytes : INT64_MAX / 2;
}

void *policy_host(lua_State *L)
{
    const struct policy *p = policy_of(L);
    return p ? p->host : NULL;
}

lua_State *policy_running(lua_State *L)
{
    const struct policy *p = policy_of(L);
    return p ? p->running : NULL;
}

static void enter(struct policy *p, struct budget *budget, lua_State *L)
{
    p->budget = budget;
    p->current = L;
    p->resumed_us = budget->now_us = loop_now_us();
}

static void leave(struct policy *p)
{
    struct budget *b = p->budget;
    uint64_t spent = loop_now_us() - p->resumed_us;
    b->compute_us = b->compute_us > spent ? b->compute_us - spent : 1;
    b->now_us = 0;
    p->budget = NULL;
    p->current = NULL;
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */

struct source {
    const char *name, *text, *settings;
    size_t len;
    const struct policy_bindings *bindings;
};

static const char *const function_names[POLICY_FUNCTIONS] = {
    [POLICY_ROUTE] = "route", [POLICY_SHOULD_FAILOVER] = "should_failover", [POLICY_VERDICT] = "verdict"};

void policy_keep(lua_State *L, enum policy_slot slot)
{
    policy_of(L)->slots[slot] = luaL_ref(L, LUA_REGISTRYINDEX);
}

void policy_push(lua_State *L, enum policy_slot slot)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, policy_of(L)->slots[slot]);
}

static void keep_function(lua_State *L, const char *file, enum policy_slot slot)
{
    lua_getfield(L, -1, function_names[slot]);
    if (!lua_isfunction(L, -1))
        luaL_error(L, "%s: expected the script's table to have a function '%s', found %s", file, function_names[slot],
                   luaL_typename(L, -1));
    policy_keep(L, slot);
}

/* The compiler takes the text in small pieces, because some programs (a long chain of "and") take it time that grows
 * with the square of their length: so the clock is looked at in between. */
struct reading {
    const char *at;
    size_t left;
};

static const char *read_piece(lua_State *L, void *user, size_t *size)
{
    struct reading *r = user;
    const char *piece = r->at;
    *size = r->left < PIECE ? r->left : PIECE;
    r->at += *size;
    r->left -= *size;
    policy_charge(L, HOOK_EVERY);
    return piece;
}

static size_t count_word(const char *text, size_t len, const char *word)
{
    size_t n = 0;
    const char *end = text + len, *at = text;
    while (at < end && (at = memmem(at, (size_t)(end - at), word, strlen(word))) != NULL) {
        at += strlen(word);
        n++;
    }
    return n;
}

static int load_protected(lua_State *L)
{
    const struct source *s = lua_touserdata(L, 1);
    struct policy *p = policy_of(L);
    struct reading reading = {s->text, s->len};
    lua_settop(L, 1);
    p->opening = true;
    lua_pushcfunction(L, s->bindings->open);
    lua_pushstring(L, s->settings);
    lua_call(L, 1, 0);
    p->opening = false;
    /* all of them may end at one label, which is the one thing that takes the square of time inside a single word */
    if (count_word(s->text, s->len, "goto") + count_word(s->text, s->len, "break") > JUMPS_MAX)
        return luaL_error(L, "expected at most %d goto and break in a script", JUMPS_MAX);
    const char *chunk = lua_pushfstring(L, "@%s", s->name);
    if (lua_load(L, read_piece, &reading, chunk, "t") != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 1);
    if (!lua_istable(L, -1))
        return luaL_error(
            L, "%s: expected the script to return a table with route, should_failover and verdict, it returned %s",
            s->name, luaL_typename(L, -1));
    for (enum policy_slot slot = 0; slot < POLICY_FUNCTIONS; slot++)
        keep_function(L, s->name, slot);
    return 0;
}

/* Turns an error value into a sentence. lua_tolstring may need memory, so only what is text already is looked at. */
static void describe(lua_State *L, int status, char *message, size_t size)
{
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    if (status == LUA_ERRMEM)
        text = "out of memory";
    else if (!text)
        text = "the script raised an error that is not a string";
    size_t len = strlen(text);
    if (len >= size)
        len = size - 1;
    memcpy(message, text, len);
    message[len] = '\0';
}

static void free_state(struct policy *p)
{
    if (p->L)
        lua_close(p->L);
    if (p->arena)
        arena_empty(p->arena);
    free(p->arena);
    states_clear(&p->states);
    free(p);
}

static struct policy *new_state(const char *name, size_t max_bytes, bool is_short)
{
    size_t name_len = strlen(name) + 1;
    struct policy *p = calloc(1, sizeof(*p) + name_len);
    if (!p)
        return NULL;
    memcpy(p->name, name, name_len);
    p->refs = 1;
    p->max_bytes = max_bytes;
    p->arena = is_short ? calloc(1, sizeof(*p->arena)) : NULL;
    p->L = p->arena || !is_short ? lua_newstate(allocate, p) : NULL;
    if (!p->L) {
        free_state(p);
        return NULL;
    }
    *extra_of(p->L) = (uintptr_t)p; /* new coroutines inherit it */
    return p;
}

struct policy *policy_bare(size_t max_bytes)
{
    return new_state("", max_bytes, true);
}

lua_State *policy_state(struct policy *policy)
{
    return policy->L;
}

int policy_load(const char *name, const char *text, size_t len, const deputy_limits *limits, const char *settings,
                const struct policy_bindings *bindings, void *host, struct policy **policy, deputy_error *error)
{
    *policy = NULL;
    struct policy *p = new_state(name, limits->policy_bytes, false);
    if (!p)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while loading %s", name);
    p->bindings = *bindings;
    p->host = host;

    struct source source = {.name = name, .text = text, .len = len, .settings = settings, .bindings = bindings};
    struct budget budget;
    policy_budget(limits, &budget);
    enter(p, &budget, p->L);
    lua_sethook(p->L, on_count, LUA_MASKCOUNT, HOOK_EVERY);
    lua_pushcfunction(p->L, load_protected);
    lua_pushlightuserdata(p->L, &source);
    int status = lua_pcall(p->L, 1, 0, 0);
    leave(p);
    if (status != LUA_OK || budget.killed) {
        char message[400];
        int code = status == LUA_ERRMEM && !budget.killed ? DEPUTY_ENOMEM : DEPUTY_EPOLICY;
        if (budget.killed)
            snprintf(message, sizeof(message), "%s", budget.killed);
        else
            describe(p->L, status, message, sizeof(message));
        policy_unref(p);
        return error_set(error, code, "cannot load the policy %s: %s", name, message);
    }
    lua_gc(p->L, LUA_GCINC, GC_PAUSE, 0, 0);
    collect(p);
    *policy = p;
    return DEPUTY_OK;
}

struct policy *policy_ref(struct policy *policy)
{
    policy->refs++;
    return policy;
}

void policy_unref(struct policy *policy)
{
    if (!policy || --policy->refs > 0)
        return;
    free_state(policy);
}

/* ---- coroutines ------------------------------------------------------------------------------------------------- */

static int new_thread(lua_State *L)
{
    struct policy_thread *thread = lua_touserdata(L, 1);
    lua_State *co = lua_newthread(L);
    thread->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    thread->co = co;
    return 0;
}

int policy_start(struct policy *policy, bool check, void *run, struct policy_thread *thread)
{
    memset(thread, 0, sizeof(*thread));
    if (policy->n_idle > 0) {
        *thread = policy->idle[--policy->n_idle];
    } else {
        lua_pushcfunction(policy->L, new_thread);
        lua_pushlightuserdata(policy->L, thread);
        if (lua_pcall(policy->L, 1, 0, 0) != LUA_OK) {
            lua_settop(policy->L, 0);
            memset(thread, 0, sizeof(*thread));
            return DEPUTY_ENOMEM;
        }
    }
    lua_pushcfunction(thread->co, check ? policy->bindings.verdict : policy->bindings.route);
    lua_pushlightuserdata(thread->co, run);
    return DEPUTY_OK;
}

enum policy_result policy_resume(struct policy *policy, struct policy_thread *thread, struct budget *budget,
                                 char *message, size_t size)
{
    int n = 0, status;
    bool begun = thread->begun;
    if (lua_status(thread->co) != (begun ? LUA_YIELD : LUA_OK)) {
        snprintf(message, size, "the run's coroutine was resumed or closed by somebody else");
        return POLICY_FAILED;
    }
    thread->begun = true;
    enter(policy, budget, thread->co);
    policy->running = thread->co;
    /* the first resume hands the body its argument; later ones hand nothing over: the body looks for itself */
    status = lua_resume(thread->co, policy->L, begun ? 0 : 1, &n);
    policy->running = NULL;
    if (status == LUA_OK)
        policy->budget = NULL; /* nobody asks any more what is left of it */
    else
        leave(policy);
    policy->current = NULL;
    if (status == LUA_YIELD) {
        lua_pop(thread->co, n);
        if (!budget->killed)
            return POLICY_YIELDED;
    }
    if (status == LUA_OK && !budget->killed) {
        lua_settop(thread->co, 0);
        return POLICY_RETURNED;
    }
    if (budget->killed)
        snprintf(message, size, "%s", budget->killed);
    else
        describe(thread->co, status, message, size);
    return POLICY_FAILED;
}

int policy_resume_inside(lua_State *L, lua_State *co, int nargs, int *nresults)
{
    struct policy *p = policy_of(L);
    if (!p)
        return lua_resume(co, L, nargs, nresults);
    /* a new coroutine counts from zero: without a price, one that makes others, which make others, never comes to
     * HOOK_EVERY */
    policy_charge(L, HOOK_EVERY);
    lua_State *outer = p->current;
    p->current = co;
    int status = lua_resume(co, L, nargs, nresults);
    p->current = outer;
    if (p->budget && p->budget->killed)
        raise_kill(L);
    return status;
}

int policy_resume_limited(lua_State *L, lua_State *co, struct budget *budget, int nargs, int *nresults)
{
    struct policy *p = policy_of(L);
    if (lua_gethook(co) != on_count)
        lua_sethook(co, on_count, LUA_MASKCOUNT, HOOK_EVERY);
    enter(p, budget, co);
    int status = lua_resume(co, L, nargs, nresults);
    leave(p);
    return status;
}

int policy_close_inside(lua_State *L, lua_State *co)
{
    struct policy *p = policy_of(L);
    if (was_killed(co))
        return luaL_error(L, "this coroutine was killed by a limit: it cannot be closed");
    if (!p)
        return lua_resetthread(co);
    if (p->closing >= CLOSING_MAX)
        return luaL_error(L, "too many coroutines are being closed inside one another (at most %d)", CLOSING_MAX);
    policy_charge(L, HOOK_EVERY);
    lua_State *outer = p->current;
    p->current = co;
    p->closing++;
    int status = lua_resetthread(co);
    p->closing--;
    p->current = outer;
    if (p->budget && p->budget->killed)
        raise_kill(L);
    return status;
}

void policy_stop(struct policy *policy, struct policy_thread *thread, bool done)
{
    if (!thread->co)
        return;
    thread->begun = false;
    if (done && policy->n_idle < IDLE_THREADS)
        policy->idle[policy->n_idle++] = *thread;
    else
        luaL_unref(policy->L, LUA_REGISTRYINDEX, thread->ref);
    memset(thread, 0, sizeof(*thread));
    if (policy->bytes > policy->settled_bytes * (GC_PAUSE / 100) + LITTER_BYTES)
        collect(policy);
}

struct states *policy_states(struct policy *policy)
{
    return &policy->states;
}

struct states *policy_states_here(lua_State *L)
{
    return &policy_of(L)->states;
}

const char *policy_name(const struct policy *policy)
{
    return policy->name;
}

size_t policy_bytes(const struct policy *policy)
{
    return policy->bytes;
}
