/* run:first{...}: several branches at once, each a coroutine of its own; the first that has something wins, and what
 * the others have under way is ended. A branch waits by yielding to first, which then waits for the whole run. */
#include "lua/lua_first.h"

#include "lua/lua_values.h"

enum { BRANCHES_MAX = 8 };

/* Stack: 1 the run, 2 the functions, 3 this object, whose user value keeps coroutines (at i) and failures (at -i). */
struct first {
    int n, running;
    struct branch {
        lua_State *co;
        bool begun, done;
    } branches[BRANCHES_MAX];
};

static int take_winner(lua_State *L, struct run *run, lua_State *co, int results)
{
    unsigned number = lua_reply_number(co, -results, run->id);
    run_drop_open(run, number ? run_find_call(run, number) : NULL);
    luaL_checkstack(L, results, "too many results from a branch of run:first");
    lua_xmove(co, L, results);
    return results;
}

static void keep_failure(lua_State *L, lua_State *co, int i, int results)
{
    if (results < 2)
        return;
    lua_getiuservalue(L, 3, 1);
    lua_pushvalue(co, -results + 1);
    lua_xmove(co, L, 1);
    lua_rawseti(L, -2, -i - 1);
    lua_pop(L, 1);
}

static int give_failure(lua_State *L, const struct first *f)
{
    lua_pushnil(L);
    lua_getiuservalue(L, 3, 1);
    for (int i = 0; i < f->n; i++) {
        if (lua_rawgeti(L, -1, -i - 1) != LUA_TNIL)
            break;
        lua_pop(L, 1);
    }
    if (lua_rawequal(L, -1, 4)) /* none had one */
        lua_pushnil(L);
    lua_remove(L, -2);
    return 2;
}

static int step(lua_State *L, int status, lua_KContext context)
{
    struct run *run = (struct run *)context;
    struct first *f = lua_touserdata(L, 3);
    (void)status;
    for (int i = 0; i < f->n; i++) {
        struct branch *b = &f->branches[i];
        int results = 0;
        if (b->done)
            continue;
        lua_State *outer = run->branch; /* of the run:first that this one is inside, if any */
        run->branch = b->co;
        run->waits = false;
        int ended = policy_resume_inside(L, b->co, b->begun ? 0 : 1, &results);
        run->branch = outer;
        b->begun = true;
        if (ended == LUA_YIELD) {
            lua_pop(b->co, results);
            if (!run->waits)
                return luaL_error(L, "run:first: a branch yielded by itself: only run's own functions may wait");
            continue;
        }
        b->done = true;
        f->running--;
        if (ended != LUA_OK) {
            lua_xmove(b->co, L, 1);
            return lua_error(L);
        }
        if (results > 0 && lua_toboolean(b->co, -results))
            return take_winner(L, run, b->co, results);
        keep_failure(L, b->co, i, results);
    }
    if (f->running == 0)
        return give_failure(L, f);
    run->waits = true;
    return lua_yieldk(L, 0, context, step);
}

int lua_first(lua_State *L, struct run *run)
{
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    lua_Unsigned n = lua_rawlen(L, 2);
    if (n < 1 || n > BRANCHES_MAX)
        return luaL_error(L, "run:first{...}: expected 1 to %d functions, got %d", BRANCHES_MAX, (int)n);
    struct first *f = lua_newuserdatauv(L, sizeof(*f), 1);
    *f = (struct first){.n = (int)n, .running = (int)n};
    lua_newtable(L);
    for (int i = 0; i < f->n; i++) {
        f->branches[i].co = lua_newthread(L);
        lua_rawseti(L, -2, i + 1);
        if (lua_rawgeti(L, 2, i + 1) != LUA_TFUNCTION)
            return luaL_error(L, "run:first{...}: expected a function at %d, got %s", i + 1, luaL_typename(L, -1));
        lua_pushvalue(L, 1);
        lua_xmove(L, f->branches[i].co, 2);
    }
    lua_setiuservalue(L, 3, 1);
    return step(L, LUA_OK, (lua_KContext)run);
}
