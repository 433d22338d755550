/* The libraries that a policy script may use, and what stands between it and the rest of the process.
 *
 * What is to hold, whatever the script does: it ends within its budget (core/policy.c counts instructions, memory and
 * time and kills it), it reaches nothing but what it is given, and it cannot touch the run's own coroutine. Lua's count
 * hook sees every hundredth instruction, and an instruction may call a C function; so no C function that a script can
 * call may run for long. Those whose time grows with their arguments are bounded here or say what they cost
 * (policy_charge); the rest work on strings of at most 64 KiB and take less than a millisecond.
 *
 * string        find, match, gmatch, gsub count their steps (lua_pattern.c); rep, format, pack are bounded; no dump
 * table         ranges are bounded, tightly where a metatable makes each access cost something; sort counts comparisons
 * load          text only, at most 32 KiB: the compiler takes the square of time for some programs
 * setmetatable  takes the metamethods as they are at that moment, so that what is refused cannot be added later: __gc
 *               runs with hooks switched off, and weak keys can keep one step of the collector busy for seconds
 * coroutine     resume, wrap and close go through core/policy.c; a script gets hold of its own coroutines only
 * JSON          lua-cjson allocates outside Lua's allocator and ends the process when it gets no memory: what goes in
 * is measured first gone          dofile, loadfile, collectgarbage, warn, io, package, debug, and all of os but time,
 * date, clock, difftime
 *
 * What is not covered:
 * - An engine has one thread: while a script computes, every other run of that engine waits, for policyMs at most.
 * - The policy's memory (policyBytes) is shared: a script that keeps everything makes its own later runs fail, closed.
 *   Near the limit a run may meet a whole collection, which takes some 40 ms for 64 MiB.
 * - The order of strings (a < b) is that of the process's locale. A host that sets LC_COLLATE to a language makes
 *   comparing long strings slower, and a script that does nothing else ends later.
 * - A host's own callbacks (on_log, a primary in Lua, a probe function) run outside every budget.
 * - What a script can learn: addresses (tostring of a table), clocks, what earlier runs left in its upvalues.
 * - Bugs of the Lua library itself. */
#include "lua/lua_sandbox.h"

#include "core/policy.h"
#include "lua/lua_pattern.h"
#include "net/loop.h"

#include <lua-cjson.h>
#include <lualib.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

enum {
    RANGE_MAX = 1 << 18,  /* elements that a function of table touches at once */
    META_RANGE_MAX = 200, /* the same when each access may go through 2000 tables (MAXTAGLOOP) */
    RESULTS_MAX = 16384,  /* of table.unpack */
    LOAD_PIECE = 256,
    LOAD_MAX = 32 << 10,   /* bytes of a chunk */
    FORMAT_MAX = 4096,     /* bytes of a format for string.format and pack */
    DATE_FORMAT_MAX = 200, /* the same for os.date */
    JSON_DEPTH_MAX = 100,
    JSON_NODES_MAX = 20000,
    JSON_LOOK_US = 2000, /* how much computing looking through a value may take before it is encoded */
    COMPARISONS_PER_LOOK = 64
};

/* Calls the function it stands in for, which is upvalue 1. It has no upvalues itself. */
static int go_on(lua_State *L)
{
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

static void set_guard(lua_State *L, int library, const char *name, lua_CFunction guard)
{
    lua_getfield(L, library, name);
    lua_pushcclosure(L, guard, 1);
    lua_setfield(L, library, name);
}

static void remove_fields(lua_State *L, int library, const char *const *names)
{
    for (; *names; names++) {
        lua_pushnil(L);
        lua_setfield(L, library, *names);
    }
}

/* ---- base ------------------------------------------------------------------------------------------------------- */

static void check_metamethods(lua_State *L, int mt)
{
    lua_pushliteral(L, "__gc");
    if (lua_rawget(L, mt) != LUA_TNIL)
        luaL_error(L, "a policy may not set __gc: a finalizer runs outside every budget");
    lua_pushliteral(L, "__mode");
    if (lua_rawget(L, mt) == LUA_TSTRING && strchr(lua_tostring(L, -1), 'k') && !strchr(lua_tostring(L, -1), 'v'))
        luaL_error(
            L, "a policy may not have tables with weak keys alone (__mode \"k\"): the collector can take seconds for "
               "them. Use \"v\" or \"kv\"");
    lua_pop(L, 2);
}

/* Pushes what a table gets in place of the metatable at mt: a copy that the script never sees. Its __metatable is what
 * getmetatable answers, and [1] says that the script itself protected it. */
static void push_copy(lua_State *L, int mt)
{
    uint64_t n = 0;
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, mt)) {
        n += 4;
        size_t len = 0;
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tolstring(L, -2, &len) : "";
        if (len < 4 || len > 16 || key[0] != '_' || key[1] != '_') {
            lua_pop(L, 1);
            continue;
        }
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    lua_pushliteral(L, "__metatable");
    if (lua_rawget(L, -2) != LUA_TNIL) {
        lua_pushboolean(L, 1);
        lua_rawseti(L, -3, 1);
    } else {
        lua_pushliteral(L, "__metatable");
        lua_pushvalue(L, mt);
        lua_rawset(L, -4);
    }
    lua_pop(L, 1);
    policy_charge(L, n);
}

static int base_setmetatable(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, lua_isnil(L, 2) || lua_istable(L, 2), 2, "nil or table");
    lua_settop(L, 2);
    if (lua_getmetatable(L, 1) && lua_rawgeti(L, -1, 1) != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    lua_settop(L, 2);
    if (lua_istable(L, 2)) {
        check_metamethods(L, 2);
        push_copy(L, 2);
    }
    lua_setmetatable(L, 1);
    lua_settop(L, 1);
    return 1;
}

struct chunk {
    size_t len;     /* so far */
    const char *at; /* the rest of the text at 5 */
    size_t left;
    bool last;
};

/* Stack of load: 1 the chunk, 5 keeps the text that is being read. */
static bool next_text(lua_State *L, struct chunk *c)
{
    if (c->last)
        return false;
    luaL_checkstack(L, 2, "too many nested functions");
    lua_pushvalue(L, 1);
    c->last = lua_isstring(L, 1) != 0;
    if (!c->last)
        lua_call(L, 0, 1);
    if (!lua_isnil(L, -1) && !lua_isstring(L, -1))
        luaL_error(L, "reader function must return a string");
    lua_replace(L, 5);
    if (lua_isnil(L, 5))
        return false;
    c->at = lua_tolstring(L, 5, &c->left);
    c->len += c->left;
    if (c->len > LOAD_MAX)
        luaL_error(L, "load: expected at most %d bytes of text", LOAD_MAX);
    return c->left > 0;
}

/* In small pieces, so that the clock is looked at while the compiler works. */
static const char *read_chunk(lua_State *L, void *user, size_t *size)
{
    struct chunk *c = user;
    const char *piece = NULL;
    *size = 0;
    if (c->left > 0 || next_text(L, c)) {
        piece = c->at;
        *size = c->left < LOAD_PIECE ? c->left : LOAD_PIECE;
        c->at += *size;
        c->left -= *size;
        policy_charge(L, 100 + *size * 4);
    }
    return piece;
}

/* Upvalue 1: the environment of chunks that get none. Bytecode is not checked by Lua and can do anything. */
static int base_load(lua_State *L)
{
    struct chunk chunk = {0};
    bool has_env = !lua_isnone(L, 4);
    if (!lua_isstring(L, 1))
        luaL_checktype(L, 1, LUA_TFUNCTION);
    const char *name = luaL_optstring(L, 2, lua_isstring(L, 1) ? lua_tostring(L, 1) : "=(load)");
    lua_settop(L, 5);
    if (lua_load(L, read_chunk, &chunk, name, "t") != LUA_OK) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushvalue(L, has_env ? 4 : lua_upvalueindex(1));
    if (!lua_setupvalue(L, -2, 1))
        lua_pop(L, 1);
    return 1;
}

static void guard_base(lua_State *L, int env)
{
    static const char *const gone[] = {"dofile", "loadfile", "collectgarbage", "warn", NULL};
    remove_fields(L, env, gone);
    lua_pushcfunction(L, base_setmetatable);
    lua_setfield(L, env, "setmetatable");
    lua_pushvalue(L, env);
    lua_pushcclosure(L, base_load, 1);
    lua_setfield(L, env, "load");
}

/* ---- string ----------------------------------------------------------------------------------------------------- */

static int string_rep(lua_State *L)
{
    size_t len, sep_len;
    const char *text = luaL_checklstring(L, 1, &len);
    lua_Integer n = luaL_checkinteger(L, 2);
    const char *sep = luaL_optlstring(L, 3, "", &sep_len);
    if (n <= 0 || len + sep_len == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if (len > POLICY_STRING_MAX || sep_len > POLICY_STRING_MAX ||
        (uint64_t)n > (POLICY_STRING_MAX + sep_len) / (len + sep_len))
        return luaL_error(L, "resulting string too large (at most %d bytes)", POLICY_STRING_MAX);
    luaL_Buffer b;
    policy_charge(L, (len + sep_len) * (uint64_t)n / 8);
    luaL_buffinitsize(L, &b, (len + sep_len) * (size_t)n);
    for (lua_Integer i = 0; i < n; i++) {
        if (i > 0)
            luaL_addlstring(&b, sep, sep_len);
        luaL_addlstring(&b, text, len);
    }
    luaL_pushresult(&b);
    return 1;
}

/* string.format, pack, unpack, packsize: the format decides how much is done. */
static int string_by_format(lua_State *L)
{
    size_t len;
    luaL_checklstring(L, 1, &len);
    luaL_argcheck(L, len <= FORMAT_MAX, 1, "expected a format of at most 4096 bytes");
    policy_charge(L, len * 16);
    return go_on(L);
}

static int string_by_length(lua_State *L)
{
    size_t len;
    luaL_checklstring(L, 1, &len);
    policy_charge(L, len / 8);
    return go_on(L);
}

static void guard_string(lua_State *L, int library)
{
    static const char *const gone[] = {"dump", NULL};
    static const char *const by_format[] = {"format", "pack", "packsize", "unpack"};
    static const char *const by_length[] = {"lower", "upper", "reverse"};
    remove_fields(L, library, gone);
    for (size_t i = 0; i < sizeof(by_format) / sizeof(by_format[0]); i++)
        set_guard(L, library, by_format[i], string_by_format);
    for (size_t i = 0; i < sizeof(by_length) / sizeof(by_length[0]); i++)
        set_guard(L, library, by_length[i], string_by_length);
    lua_pushcfunction(L, string_rep);
    lua_setfield(L, library, "rep");
    lua_pushvalue(L, library);
    lua_pattern_add(L);
    lua_pop(L, 1);
    /* the metatable that luaopen_string made leads to this table: ("x"):rep is the one above */
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}

/* ---- table ------------------------------------------------------------------------------------------------------ */

/* n elements of the value at index are about to be touched from within C. */
static void check_range(lua_State *L, int index, lua_Unsigned n)
{
    bool raw = lua_istable(L, index) && !lua_getmetatable(L, index);
    if (!raw && lua_istable(L, index))
        lua_pop(L, 1);
    lua_Unsigned most = raw ? RANGE_MAX : META_RANGE_MAX;
    if (n > most)
        luaL_error(L, "expected a range of at most %d elements%s", (int)most,
                   raw ? "" : " in a table that has a metatable");
    policy_charge(L, n * 4);
}

/* How many from first to last; none when they are the wrong way round. */
static lua_Unsigned count_between(lua_Integer first, lua_Integer last)
{
    if (first > last)
        return 0;
    lua_Unsigned n = (lua_Unsigned)last - (lua_Unsigned)first;
    return n == ~(lua_Unsigned)0 ? n : n + 1;
}

/* The length that Lua's own function will see when it asks again: so no __len, which may say something else then. */
static lua_Integer true_length(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (luaL_getmetafield(L, 1, "__len") != LUA_TNIL)
        luaL_error(L, "expected a table without a __len metamethod");
    return (lua_Integer)lua_rawlen(L, 1);
}

static int table_insert(lua_State *L)
{
    lua_Integer n = true_length(L);
    if (lua_gettop(L) == 3)
        check_range(L, 1, count_between(luaL_checkinteger(L, 2), n));
    return go_on(L);
}

static int table_remove(lua_State *L)
{
    lua_Integer n = true_length(L);
    if (lua_gettop(L) > 1)
        check_range(L, 1, count_between(luaL_checkinteger(L, 2), n));
    return go_on(L);
}

static int table_move(lua_State *L)
{
    lua_Unsigned n = count_between(luaL_checkinteger(L, 2), luaL_checkinteger(L, 3));
    check_range(L, 1, n);
    if (!lua_isnoneornil(L, 5))
        check_range(L, 5, n);
    return go_on(L);
}

static int table_concat(lua_State *L)
{
    lua_Integer first = luaL_optinteger(L, 3, 1);
    if (lua_isnoneornil(L, 4)) {
        lua_settop(L, 3);
        lua_pushinteger(L, luaL_len(L, 1));
    }
    check_range(L, 1, count_between(first, luaL_checkinteger(L, 4)));
    return go_on(L);
}

static int table_unpack(lua_State *L)
{
    lua_settop(L, 3);
    lua_Integer first = luaL_optinteger(L, 2, 1);
    lua_Integer last = lua_isnil(L, 3) ? luaL_len(L, 1) : luaL_checkinteger(L, 3);
    lua_Unsigned n = count_between(first, last);
    if (n > RESULTS_MAX)
        return luaL_error(L, "too many results to unpack (at most %d)", RESULTS_MAX);
    check_range(L, 1, n);
    lua_settop(L, 1);
    lua_pushinteger(L, first);
    lua_pushinteger(L, last);
    return go_on(L);
}

/* A comparison without a Lua function, so that no instruction is counted. Upvalues: a C function or nil, how many so
 * far. */
static int compare(lua_State *L)
{
    unsigned *n = lua_touserdata(L, lua_upvalueindex(2));
    if (++*n % COMPARISONS_PER_LOOK == 0)
        policy_charge(L, (uint64_t)COMPARISONS_PER_LOOK * 20);
    if (lua_type(L, 1) == LUA_TSTRING)
        policy_charge(L, lua_rawlen(L, 1));
    lua_settop(L, 2);
    if (lua_isnil(L, lua_upvalueindex(1))) {
        lua_pushboolean(L, lua_compare(L, 1, 2, LUA_OPLT));
        return 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

static int table_sort(lua_State *L)
{
    check_range(L, 1, (lua_Unsigned)true_length(L));
    lua_settop(L, 2);
    if (!lua_isnil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    if (lua_isnil(L, 2) || lua_iscfunction(L, 2)) {
        *(unsigned *)lua_newuserdatauv(L, sizeof(unsigned), 0) = 0;
        lua_pushcclosure(L, compare, 2);
    }
    return go_on(L);
}

static void guard_table(lua_State *L, int library)
{
    set_guard(L, library, "insert", table_insert);
    set_guard(L, library, "remove", table_remove);
    set_guard(L, library, "move", table_move);
    set_guard(L, library, "concat", table_concat);
    set_guard(L, library, "unpack", table_unpack);
    set_guard(L, library, "sort", table_sort);
}

/* ---- coroutine -------------------------------------------------------------------------------------------------- */

/* Upvalue 1 of create, wrap and running: a table with weak keys, the coroutines that the script made itself. */
static lua_State *new_coroutine(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, -1);
    lua_pushboolean(L, 1);
    lua_rawset(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    return co;
}

static int coroutine_create(lua_State *L)
{
    new_coroutine(L);
    return 1;
}

/* The engine's own coroutines (a run's, a branch of run:first) are not the script's to resume or to close. */
static int coroutine_running(lua_State *L)
{
    lua_pushthread(L);
    lua_pushvalue(L, -1);
    bool own = lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL;
    lua_pop(L, 1);
    if (!own)
        lua_pushnil(L);
    lua_pushboolean(L, !own);
    return 2;
}

/* The top n values go in. True: the results are on L, which n becomes the number of. False: an error is. */
static bool resume(lua_State *L, lua_State *co, int *n)
{
    if (!lua_checkstack(co, *n)) {
        lua_pushliteral(L, "too many arguments to resume");
        return false;
    }
    lua_xmove(L, co, *n);
    int status = policy_resume_inside(L, co, *n, n);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return false;
    }
    if (!lua_checkstack(L, *n + 1)) {
        lua_pop(co, *n);
        lua_pushliteral(L, "too many results to resume");
        return false;
    }
    lua_xmove(co, L, *n);
    return true;
}

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

static int coroutine_resume(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    int n = lua_gettop(L) - 1;
    bool went_well = resume(L, co, &n);
    if (!went_well)
        n = 1;
    lua_pushboolean(L, went_well);
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int call_wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = lua_gettop(L);
    if (resume(L, co, &n))
        return n;
    int status = lua_status(co);
    if (status != LUA_OK &&
        status != LUA_YIELD) { /* it died: what it wanted closed is closed, and may have a later error */
        if (policy_close_inside(L, co) != LUA_OK) {
            lua_xmove(co, L, 1);
            lua_remove(L, -2);
        }
    }
    if (lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int coroutine_wrap(lua_State *L)
{
    new_coroutine(L);
    lua_pushcclosure(L, call_wrapped, 1);
    return 1;
}

static int coroutine_close(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    lua_Debug frame;
    int status = lua_status(co);
    if (co == L || (status == LUA_OK && lua_getstack(co, 0, &frame)))
        return luaL_error(L, "cannot close a %s coroutine", co == L ? "running" : "normal");
    status = policy_close_inside(L, co);
    lua_pushboolean(L, status == LUA_OK);
    if (status == LUA_OK)
        return 1;
    lua_xmove(co, L, 1);
    return 2;
}

static void guard_coroutine(lua_State *L, int library)
{
    static const luaL_Reg functions[] = {
        {"create", coroutine_create},
        {"running", coroutine_running},
        {"wrap", coroutine_wrap},
        {NULL, NULL},
    };
    lua_pushvalue(L, library);
    lua_newtable(L);
    lua_newtable(L);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    luaL_setfuncs(L, functions, 1);
    lua_pop(L, 1);
    lua_pushcfunction(L, coroutine_resume);
    lua_setfield(L, library, "resume");
    lua_pushcfunction(L, coroutine_close);
    lua_setfield(L, library, "close");
}

/* ---- os --------------------------------------------------------------------------------------------------------- */

static int os_date(lua_State *L)
{
    size_t len;
    luaL_optlstring(L, 1, "", &len);
    luaL_argcheck(L, len <= DATE_FORMAT_MAX, 1, "expected a format of at most 200 bytes");
    policy_charge(L, 100 + len * 16);
    return go_on(L);
}

static void guard_os(lua_State *L, int library)
{
    static const char *const gone[] = {"execute", "exit", "getenv", "remove", "rename", "setlocale", "tmpname", NULL};
    remove_fields(L, library, gone);
    set_guard(L, library, "date", os_date);
}

/* ---- all together ----------------------------------------------------------------------------------------------- */

static void open_base(lua_State *L, int env)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); /* what luaopen_base fills */
    lua_pushvalue(L, env);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pushcfunction(L, luaopen_base);
    lua_call(L, 0, 0);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    guard_base(L, env);
}

void lua_sandbox_push(lua_State *L)
{
    static const struct {
        const char *name;
        lua_CFunction open;
        void (*guard)(lua_State *, int);
    } libraries[] = {
        {LUA_STRLIBNAME, luaopen_string, guard_string},
        {LUA_TABLIBNAME, luaopen_table, guard_table},
        {LUA_COLIBNAME, luaopen_coroutine, guard_coroutine},
        {LUA_OSLIBNAME, luaopen_os, guard_os},
        {LUA_MATHLIBNAME, luaopen_math, NULL},
        {LUA_UTF8LIBNAME, luaopen_utf8, NULL},
    };
    lua_newtable(L);
    int env = lua_gettop(L);
    open_base(L, env);
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        lua_pushcfunction(L, libraries[i].open);
        lua_call(L, 0, 1);
        if (libraries[i].guard)
            libraries[i].guard(L, lua_gettop(L));
        lua_setfield(L, env, libraries[i].name);
    }
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

struct measure {
    uint64_t until_us, until_cpu_us; /* the first is cheap to ask for */
    size_t nodes, bytes;
};

static uint64_t cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* The time for which the machine did something else is not the script's. */
static bool is_over(struct measure *m)
{
    uint64_t now = loop_now_us(), cpu;
    if (now <= m->until_us)
        return false;
    cpu = cpu_us();
    m->until_us = now + m->until_cpu_us - cpu;
    return cpu > m->until_cpu_us;
}

static void measure_string(lua_State *L, struct measure *m, int index)
{
    size_t len;
    const char *text = lua_tolstring(L, index, &len);
    m->bytes += len + 2;
    for (size_t i = 0; i < len && len <= POLICY_STRING_MAX; i++) {
        unsigned char c = (unsigned char)text[i];
        m->bytes += c < 0x20 || c == 0x7f ? 5 : c == '"' || c == '\\' || c == '/';
    }
}

/* Adds up what encoding the value at the top comes to. A table that is reached twice is written twice. */
static void measure_value(lua_State *L, struct measure *m, int depth)
{
    m->nodes++;
    m->bytes += 8;
    if (lua_type(L, -1) == LUA_TSTRING)
        measure_string(L, m, -1);
    else if (lua_type(L, -1) == LUA_TNUMBER)
        m->bytes += 24;
    if (m->nodes > JSON_NODES_MAX || m->bytes > POLICY_STRING_MAX)
        luaL_error(L, "JSON.encode: the text would be too large (at most %d bytes and %d values)", POLICY_STRING_MAX,
                   JSON_NODES_MAX);
    if (!lua_istable(L, -1))
        return;
    if (depth >= JSON_DEPTH_MAX)
        luaL_error(L, "JSON.encode: tables too deep in one another (at most %d)", JSON_DEPTH_MAX);
    luaL_checkstack(L, 4, "JSON.encode");
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        if (lua_type(L, -2) == LUA_TSTRING)
            measure_string(L, m, -2);
        else
            m->bytes += 24;
        measure_value(L, m, depth + 1);
        lua_pop(L, 1);
    }
    if (is_over(m)) /* empty slots of large tables: encoding would take several times as long */
        luaL_error(L, "JSON.encode: this takes too long");
}

/* Upvalue 1: cjson's encode, which has an upvalue and so is called. */
static int json_encode(lua_State *L)
{
    struct measure m = {.until_us = loop_now_us() + JSON_LOOK_US, .until_cpu_us = cpu_us() + JSON_LOOK_US};
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    measure_value(L, &m, 0);
    policy_charge(L, m.nodes * 40 + m.bytes);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* Decoding keeps memory that it would lose if Lua's ran out: what it needs is granted, and looked at afterwards. */
static int json_decode(lua_State *L)
{
    size_t len;
    luaL_checklstring(L, 1, &len);
    if (len > POLICY_STRING_MAX)
        return luaL_error(L, "JSON.decode: expected at most %d bytes, got %d", POLICY_STRING_MAX,
                          (int)(len > 1 << 30 ? 1 << 30 : len));
    lua_settop(L, 1);
    policy_charge(L, 100 + len * 8);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    policy_lenient(L, true);
    int status = lua_pcall(L, 1, 1, 0);
    policy_lenient(L, false);
    if (status != LUA_OK)
        return lua_error(L);
    return 1;
}

void lua_sandbox_push_json(lua_State *L)
{
    static const char *const depths[] = {"decode_max_depth", "encode_max_depth"};
    lua_createtable(L, 0, 3);
    lua_pushcfunction(L, luaopen_cjson);
    lua_call(L, 0, 1);
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
        lua_getfield(L, -1, depths[i]);
        lua_pushinteger(L, JSON_DEPTH_MAX);
        lua_call(L, 1, 0);
    }
    lua_getfield(L, -1, "encode");
    lua_pushcclosure(L, json_encode, 1);
    lua_setfield(L, -3, "encode");
    lua_getfield(L, -1, "decode");
    lua_pushcclosure(L, json_decode, 1);
    lua_setfield(L, -3, "decode");
    lua_getfield(L, -1, "null");
    lua_setfield(L, -3, "null");
    lua_pop(L, 1);
}
