/* The sandbox's find, match, gmatch and gsub against Lua's own: a random number of patterns on short texts, and both
 * have to say the same. PATTERN_SEED and PATTERN_ROUNDS choose which. */
#include "lua/lua_sandbox.h"

#include <lualib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Arguments: the stock string table, the sandbox's, a seed, a number of rounds. */
static const char script[] =
    "local stock, ours, seed, rounds = ...\n"
    "math.randomseed(seed)\n"
    "local r = math.random\n"
    "local atoms = { 'a', 'b', 'c', '.', '%a', '%d', '%s', '%w', '%W', '%x', '%p', '%u', '[ab]', '[^ab]', '[a-c]', "
    "'[%d_]',\n"
    "  '[^%s]', '[]]', '[^]]', '[a-]', '[%a-z]', '%%', '%.', '\\0', ' ', '1', '%bab', '%b()', '%f[%w]', '%f[^a]', "
    "'%1', '%2' }\n"
    "local suffixes = { '', '', '', '*', '+', '-', '?' }\n"
    "local odd = { '[', '%', '(', ')', '[^', '[a', '%b', '%f', '^', '$', '*', '[%', '()', ']' }\n"
    "local function pattern()\n"
    "  local p = {}\n"
    "  if r(4) == 1 then p[1] = '^' end\n"
    "  local open = 0\n"
    "  for _ = 1, r(0, 6) do\n"
    "    local k = r(12)\n"
    "    if k == 1 then p[#p + 1] = '('; open = open + 1\n"
    "    elseif k == 2 and open > 0 then p[#p + 1] = ')'; open = open - 1\n"
    "    elseif k == 3 then p[#p + 1] = '()'\n"
    "    elseif k == 4 and r(4) == 1 then p[#p + 1] = odd[r(#odd)]\n"
    "    else p[#p + 1] = atoms[r(#atoms)] .. suffixes[r(#suffixes)] end\n"
    "  end\n"
    "  p[#p + 1] = (')'):rep(open)\n"
    "  if r(5) == 1 then p[#p + 1] = '$' end\n"
    "  return table.concat(p)\n"
    "end\n"
    "local letters = { 'a', 'b', 'c', 'A', '1', '2', ' ', '(', ')', '_', ']', '-', '%', '.', '\\0', '\\200' }\n"
    "local function text()\n"
    "  local t = {}\n"
    "  for i = 1, r(0, 14) do t[i] = letters[r(2) == 1 and r(3) or r(#letters)] end\n"
    "  return table.concat(t)\n"
    "end\n"
    "local replacements = { '<%0>', '%1', '%%', '', 'x', '%2', '%', '%x', 7, { a = 'A', b = false, [1] = 'one' }, {},\n"
    "  function(x) return x end, function() return nil end, function(x, y) return y end, true }\n"
    "local function all(lib, s, p)\n"
    "  local out, n = {}, 0\n"
    "  for a, b, c in lib.gmatch(s, p) do\n"
    "    n = n + 1\n"
    "    out[n] = tostring(a) .. ',' .. tostring(b) .. ',' .. tostring(c)\n"
    "  end\n"
    "  return table.concat(out, ';')\n"
    "end\n"
    "local function same(what, s, p, extra, f, g, ...)\n"
    "  local a, b = table.pack(pcall(f, ...)), table.pack(pcall(g, ...))\n"
    "  local equal = a.n == b.n and a[1] == b[1]\n"
    "  for i = 2, a.n do equal = equal and (a[i] == b[i] or not a[1]) end\n"
    "  if equal and not a[1] then\n"
    "    local function plain(m) return (stock.gsub(stock.gsub(m, '^.-:%d+: ', ''), \" to '.-'\", '')) end\n"
    "    equal = plain(a[2]) == plain(b[2])\n"
    "  end\n"
    "  if not equal then\n"
    "    error(('%s(%q, %q, %s): Lua says %s %s, the sandbox %s %s'):format(what, s, p, extra, a[1], a[2], b[1], "
    "b[2]), 0)\n"
    "  end\n"
    "end\n"
    "for _ = 1, rounds do\n"
    "  local s, p, init = text(), pattern(), r(3) == 1 and r(-16, 16) or nil\n"
    "  same('find', s, p, init, stock.find, ours.find, s, p, init)\n"
    "  same('plain', s, p, init, stock.find, ours.find, s, p, init, true)\n"
    "  same('match', s, p, init, stock.match, ours.match, s, p, init)\n"
    "  same('gmatch', s, p, '', function() return all(stock, s, p) end, function() return all(ours, s, p) end)\n"
    "  local repl, max = replacements[r(#replacements)], r(3) == 1 and r(-1, 5) or nil\n"
    "  same('gsub', s, p, tostring(repl), stock.gsub, ours.gsub, s, p, repl, max)\n"
    "end\n"
    "local long = ('x'):rep(300)\n"
    "for _, p in ipairs{ ('('):rep(33) .. (')'):rep(33), ('x?'):rep(250), ('x*'):rep(250), ('%f[x]'):rep(250),\n"
    "    ('y*'):rep(250), ('(x)'):rep(32), ('()'):rep(32) } do\n"
    "  same('match', long, p, '', stock.match, ours.match, long, p)\n"
    "end\n";

static long number_of(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : otherwise;
}

static void test_same_as_lua(void **state)
{
    (void)state;
    lua_State *L = luaL_newstate();
    *(void **)lua_getextraspace(L) = NULL;
    luaL_openlibs(L);
    assert_int_equal(luaL_loadbufferx(L, script, sizeof(script) - 1, "=script", "t"), LUA_OK);
    lua_newtable(L); /* the sandbox puts its own string table where methods of strings are looked for */
    lua_getglobal(L, "string");
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_settable(L, -5);
    }
    lua_pop(L, 1);
    lua_sandbox_push(L);
    lua_getfield(L, -1, "string");
    lua_remove(L, -2);
    lua_pushinteger(L, number_of("PATTERN_SEED", 1));
    lua_pushinteger(L, number_of("PATTERN_ROUNDS", 20000));
    if (lua_pcall(L, 4, 0, 0) != LUA_OK)
        fail_msg("%s", lua_tostring(L, -1));
    lua_close(L);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_as_lua)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
