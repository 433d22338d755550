#include "core/policy.h"

#include "base/error.h"
#include "net/loop.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOOK_EVERY = 1000, IDLE_THREADS = 256 };

struct policy {
    unsigned refs;
    lua_State *L;
    struct budget *budget; /* of what runs right now; NULL outside */
    lua_State *running;
    void *host;
    uint64_t resumed_us;
    size_t bytes, max_bytes;
    struct policy_bindings bindings;
    int slots[POLICY_SLOTS]; /* references in the registry: found faster than by key */
    size_t n_idle;
    struct policy_thread idle[IDLE_THREADS];
    char name[];
};

static struct policy *policy_of(lua_State *L)
{
    return *(struct policy **)lua_getextraspace(L);
}

/* ---- what a script may use up ----------------------------------------------------------------------------------- */

static void *allocate(void *user, void *ptr, size_t old_size, size_t size)
{
    struct policy *p = user;
    size_t old = ptr ? old_size : 0; /* for a new block Lua passes its type there */
    if (size > old) {
        size_t more = size - old;
        if (more > p->max_bytes || p->bytes > p->max_bytes - more)
            return NULL;
        if (p->budget && (int64_t)more > p->budget->max_bytes - p->budget->bytes)
            return NULL;
    }
    void *block = NULL;
    if (size == 0) {
        free(ptr);
    } else {
        block = realloc(ptr, size);
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

/* Once something ran out every further thousand instructions fail too, in whichever coroutine or handler they are:
 * whatever a script catches, it does not get far. */
static void on_count(lua_State *L, lua_Debug *record)
{
    struct policy *p = policy_of(L);
    struct budget *b = p->budget;
    (void)record;
    if (!b)
        return;
    if (!b->killed) {
        b->now_us = loop_now_us();
        uint64_t spent = b->now_us - p->resumed_us;
        b->instructions = b->instructions > HOOK_EVERY ? b->instructions - HOOK_EVERY : 0;
        if (b->instructions == 0)
            b->killed = "the script used up its instructions (limits: policyInstructions)";
        else if (spent >= b->compute_us)
            b->killed = "the script computed for too long (limits: policyMs)";
    }
    if (b->killed) {
        lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
        luaL_error(L, "%s", b->killed);
    }
}

void policy_budget(const deputy_limits *limits, struct budget *budget)
{
    memset(budget, 0, sizeof(*budget));
    budget->instructions = limits->policy_instructions;
    budget->compute_us = (uint64_t)limits->policy_ms * 1000;
    budget->max_bytes = (int64_t)limits->policy_run_bytes;
}

void *policy_host(lua_State *L)
{
    return policy_of(L)->host;
}

lua_State *policy_running(lua_State *L)
{
    return policy_of(L)->running;
}

static void enter(struct policy *p, struct budget *budget)
{
    p->budget = budget;
    p->resumed_us = budget->now_us = loop_now_us();
}

static void leave(struct policy *p)
{
    struct budget *b = p->budget;
    uint64_t spent = loop_now_us() - p->resumed_us;
    b->compute_us = b->compute_us > spent ? b->compute_us - spent : 1;
    b->now_us = 0;
    p->budget = NULL;
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

static int load_protected(lua_State *L)
{
    const struct source *s = lua_touserdata(L, 1);
    lua_settop(L, 1);
    lua_pushcfunction(L, s->bindings->open);
    lua_pushstring(L, s->settings);
    lua_call(L, 1, 0);
    const char *chunk = lua_pushfstring(L, "@%s", s->name);
    if (luaL_loadbufferx(L, s->text, s->len, chunk, "t") != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 1);
    if (!lua_istable(L, -1))
        return luaL_error(L, "%s: expected the script to return a table with route, should_failover and verdict, it returned %s",
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
        text = "the script ran out of memory (limits: policyRunBytes, policyBytes)";
    else if (!text)
        text = "the script raised an error that is not a string";
    size_t len = strlen(text);
    if (len >= size)
        len = size - 1;
    memcpy(message, text, len);
    message[len] = '\0';
}

int policy_load(const char *name, const char *text, size_t len, const deputy_limits *limits, const char *settings,
                const struct policy_bindings *bindings, void *host, struct policy **policy, deputy_error *error)
{
    size_t name_len = strlen(name) + 1;
    struct policy *p = calloc(1, sizeof(*p) + name_len);
    *policy = NULL;
    if (!p)
        return error_set(error, DEPUTY_ENOMEM, "out of memory while loading %s", name);
    memcpy(p->name, name, name_len);
    p->refs = 1;
    p->bindings = *bindings;
    p->host = host;
    p->max_bytes = limits->policy_bytes;
    p->L = lua_newstate(allocate, p);
    if (!p->L) {
        free(p);
        return error_set(error, DEPUTY_ENOMEM, "out of memory while loading %s", name);
    }
    *(struct policy **)lua_getextraspace(p->L) = p; /* new coroutines inherit it */

    struct source source = {.name = name, .text = text, .len = len, .settings = settings, .bindings = bindings};
    struct budget budget;
    policy_budget(limits, &budget);
    enter(p, &budget);
    lua_sethook(p->L, on_count, LUA_MASKCOUNT, HOOK_EVERY);
    lua_pushcfunction(p->L, load_protected);
    lua_pushlightuserdata(p->L, &source);
    int status = lua_pcall(p->L, 1, 0, 0);
    leave(p);
    if (status != LUA_OK || budget.killed) {
        char message[400];
        if (status != LUA_OK)
            describe(p->L, status, message, sizeof(message));
        else
            strcpy(message, budget.killed);
        policy_unref(p);
        return error_set(error, status == LUA_ERRMEM ? DEPUTY_ENOMEM : DEPUTY_EPOLICY, "cannot load the policy %s: %s",
                         name, message);
    }
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
    lua_close(policy->L);
    free(policy);
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
    enter(policy, budget);
    policy->running = thread->co;
    /* the first resume hands the body its argument; later ones hand nothing over: the body looks for itself */
    status = lua_resume(thread->co, policy->L, begun ? 0 : 1, &n);
    policy->running = NULL;
    if (status == LUA_OK)
        policy->budget = NULL; /* nobody asks any more what is left of it */
    else
        leave(policy);
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
}

const char *policy_name(const struct policy *policy)
{
    return policy->name;
}

size_t policy_bytes(const struct policy *policy)
{
    return policy->bytes;
}
