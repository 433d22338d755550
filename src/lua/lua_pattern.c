/* Lua's own matcher cannot be interrupted: ("a?"):rep(30) on a text of 30 bytes takes it a minute, (".-"):rep(9)
 * longer. Which patterns are harmless on which texts cannot be told beforehand without refusing useful ones, so this
 * one counts. Every loop below takes a step each time round, and a step costs at most what a few instructions do; each
 * STEPS of them are charged, which looks at the clock. Between two looks there is less than a tenth of a millisecond.
 */
#include "lua/lua_pattern.h"

#include "core/policy.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

enum { STEPS = 4096, DEPTH_MAX = 200, CAPTURES_MAX = 32 };

static const ptrdiff_t OPEN = -1, POSITION = -2; /* a capture's length while it is open, or when it is a position */

struct matcher {
    lua_State *L;
    const char *text, *text_end, *pattern_end;
    unsigned steps;
    int depth, n;
    struct {
        const char *at;
        ptrdiff_t len;
    } captures[CAPTURES_MAX];
};

static void step(struct matcher *m, size_t n)
{
    m->steps += (unsigned)n;
    if (m->steps < STEPS)
        return;
    policy_charge(m->L, m->steps);
    m->steps = 0;
}

/* ---- one character ---------------------------------------------------------------------------------------------- */

static const char *item_end(struct matcher *m, const char *p)
{
    char first = *p++;
    if (first == '%') {
        if (p == m->pattern_end)
            luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (first != '[')
        return p;
    const char *begin = p;
    if (p < m->pattern_end && *p == '^')
        p++;
    do { /* a ']' that comes first is one of the set */
        if (p == m->pattern_end)
            luaL_error(m->L, "malformed pattern (missing ']')");
        char c = *p++;
        if (c == '%') {
            if (p == m->pattern_end)
                luaL_error(m->L, "malformed pattern (missing ']')");
            p++;
        }
    } while (p == m->pattern_end || *p != ']');
    step(m, (size_t)(p - begin) / 8);
    return p + 1;
}

static bool in_class(int c, int class)
{
    int is;
    switch (tolower(class)) {
    case 'a':
        is = isalpha(c);
        break;
    case 'c':
        is = iscntrl(c);
        break;
    case 'd':
        is = isdigit(c);
        break;
    case 'g':
        is = isgraph(c);
        break;
    case 'l':
        is = islower(c);
        break;
    case 'p':
        is = ispunct(c);
        break;
    case 's':
        is = isspace(c);
        break;
    case 'u':
        is = isupper(c);
        break;
    case 'w':
        is = isalnum(c);
        break;
    case 'x':
        is = isxdigit(c);
        break;
    default:
        return class == c;
    }
    return isupper(class) ? !is : is != 0;
}

/* p is at '[', last at the ']' that ends it. */
static bool in_set(struct matcher *m, int c, const char *p, const char *last)
{
    bool found = true;
    step(m, (size_t)(last - p) / 8);
    if (p[1] == '^') {
        found = false;
        p++;
    }
    while (++p < last) {
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p))
                return found;
        } else if (p[1] == '-' && p + 2 < last) {
            if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2])
                return found;
            p += 2;
        } else if ((unsigned char)*p == c) {
            return found;
        }
    }
    return !found;
}

/* Whether the character at s is what the item from p to end says. */
static bool fits(struct matcher *m, const char *s, const char *p, const char *end)
{
    if (s >= m->text_end)
        return false;
    int c = (unsigned char)*s;
    switch (*p) {
    case '.':
        return true;
    case '%':
        return in_class(c, (unsigned char)p[1]);
    case '[':
        return in_set(m, c, p, end - 1);
    default:
        return (unsigned char)*p == c;
    }
}

/* ---- matching: each function returns where the match ends, or NULL ---------------------------------------------- */

static const char *match(struct matcher *m, const char *s, const char *p);

static const char *match_longest(struct matcher *m, const char *s, const char *p, const char *end)
{
    const char *at = s;
    for (; fits(m, at, p, end); at++)
        step(m, 1);
    for (;; at--) {
        const char *found = match(m, at, end + 1);
        if (found || at == s)
            return found;
        step(m, 1);
    }
}

static const char *match_shortest(struct matcher *m, const char *s, const char *p, const char *end)
{
    for (;; s++) {
        const char *found = match(m, s, end + 1);
        if (found)
            return found;
        if (!fits(m, s, p, end))
            return NULL;
        step(m, 1);
    }
}

static const char *match_balanced(struct matcher *m, const char *s, const char *p)
{
    if (m->pattern_end - p < 2)
        luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
    if (s >= m->text_end || *s != p[0])
        return NULL;
    size_t open = 1;
    while (++s < m->text_end) {
        step(m, 1);
        if (*s == p[1] && --open == 0)
            return s + 1;
        if (*s != p[1] && *s == p[0])
            open++;
    }
    return NULL;
}

/* Zero wide: p comes back behind it. */
static const char *match_frontier(struct matcher *m, const char *s, const char **pattern)
{
    const char *p = *pattern;
    if (p >= m->pattern_end || *p != '[')
        luaL_error(m->L, "missing '[' after '%%f' in pattern");
    const char *end = item_end(m, p);
    int before = s == m->text ? '\0' : (unsigned char)s[-1];
    int here = s == m->text_end ? '\0' : (unsigned char)*s;
    bool fit = !in_set(m, before, p, end - 1) && in_set(m, here, p, end - 1);
    *pattern = fit ? end : m->pattern_end;
    return fit ? s : NULL;
}

static const char *match_again(struct matcher *m, const char *s, int digit)
{
    int i = digit - '1';
    if (i < 0 || i >= m->n || m->captures[i].len == OPEN)
        luaL_error(m->L, "invalid capture index %%%d", i + 1);
    size_t len = (size_t)m->captures[i].len;
    if ((size_t)(m->text_end - s) < len)
        return NULL;
    step(m, len / 64);
    return memcmp(m->captures[i].at, s, len) == 0 ? s + len : NULL;
}

static const char *open_capture(struct matcher *m, const char *s, const char *p, ptrdiff_t what)
{
    if (m->n >= CAPTURES_MAX)
        luaL_error(m->L, "too many captures");
    m->captures[m->n].at = s;
    m->captures[m->n].len = what;
    m->n++;
    const char *found = match(m, s, p);
    if (!found)
        m->n--;
    return found;
}

static const char *close_capture(struct matcher *m, const char *s, const char *p)
{
    int i = m->n - 1;
    while (i >= 0 && m->captures[i].len != OPEN)
        i--;
    if (i < 0)
        luaL_error(m->L, "invalid pattern capture");
    m->captures[i].len = s - m->captures[i].at;
    const char *found = match(m, s, p);
    if (!found)
        m->captures[i].len = OPEN;
    return found;
}

static const char *match_special(struct matcher *m, const char *s, const char **p, bool *special)
{
    const char *at = *p;
    bool more = at + 1 < m->pattern_end;
    *special = true;
    switch (*at) {
    case '(':
        *p = m->pattern_end;
        return more && at[1] == ')' ? open_capture(m, s, at + 2, POSITION) : open_capture(m, s, at + 1, OPEN);
    case ')':
        *p = m->pattern_end;
        return close_capture(m, s, at + 1);
    case '$':
        if (more)
            break;
        *p = m->pattern_end;
        return s == m->text_end ? s : NULL;
    case '%':
        if (more && at[1] == 'b') {
            s = match_balanced(m, s, at + 2);
            *p = s ? at + 4 : m->pattern_end;
            return s;
        }
        if (more && at[1] == 'f') {
            *p = at + 2;
            return match_frontier(m, s, p);
        }
        if (more && isdigit((unsigned char)at[1])) {
            s = match_again(m, s, (unsigned char)at[1]);
            *p = s ? at + 2 : m->pattern_end;
            return s;
        }
        break;
    }
    *special = false;
    return NULL;
}

static const char *match_items(struct matcher *m, const char *s, const char *p)
{
    while (p != m->pattern_end) {
        bool special;
        step(m, 1);
        const char *found = match_special(m, s, &p, &special);
        if (special) {
            s = found;
            continue; /* when it failed, or did the rest itself, the pattern is at its end */
        }
        const char *end = item_end(m, p);
        char suffix = end < m->pattern_end ? *end : '\0';
        bool fit = fits(m, s, p, end);
        switch (suffix) {
        case '-':
            if (fit)
                return match_shortest(m, s, p, end);
            p = end + 1;
            break;
        case '*':
            if (fit)
                return match_longest(m, s, p, end);
            p = end + 1;
            break;
        case '+':
            return fit ? match_longest(m, s + 1, p, end) : NULL;
        case '?':
            if (fit && (found = match(m, s + 1, end + 1)) != NULL)
                return found;
            p = end + 1;
            break;
        default:
            if (!fit)
                return NULL;
            s++;
            p = end;
        }
    }
    return s;
}

/* Recursion is bounded by DEPTH_MAX: the stack is C's. */
static const char *match(struct matcher *m, const char *s, const char *p)
{
    if (++m->depth > DEPTH_MAX)
        luaL_error(m->L, "pattern too complex");
    const char *found = match_items(m, s, p);
    m->depth--;
    return found;
}

static const char *match_from(struct matcher *m, const char *s, const char *p)
{
    m->n = 0;
    m->depth = 0;
    step(m, 1);
    return match(m, s, p);
}

/* ---- what was captured ------------------------------------------------------------------------------------------ */

static void push_capture(struct matcher *m, int i, const char *s, const char *end)
{
    if (i >= m->n) {
        if (i != 0)
            luaL_error(m->L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(m->L, s, (size_t)(end - s));
    } else if (m->captures[i].len == POSITION) {
        lua_pushinteger(m->L, m->captures[i].at - m->text + 1);
    } else if (m->captures[i].len == OPEN) {
        luaL_error(m->L, "unfinished capture");
    } else {
        lua_pushlstring(m->L, m->captures[i].at, (size_t)m->captures[i].len);
    }
}

/* All of them; without any the whole match, when s says where it is. */
static int push_captures(struct matcher *m, const char *s, const char *end)
{
    int n = m->n == 0 && s ? 1 : m->n;
    luaL_checkstack(m->L, n, "too many captures");
    for (int i = 0; i < n; i++)
        push_capture(m, i, s, end);
    return n;
}

/* ---- find, match ------------------------------------------------------------------------------------------------ */

static void init_matcher(lua_State *L, struct matcher *m, int text, int pattern)
{
    size_t len;
    m->L = L;
    m->steps = 0;
    m->text = luaL_checklstring(L, text, &len);
    m->text_end = m->text + len;
    m->pattern_end = luaL_checklstring(L, pattern, &len);
    m->pattern_end += len;
    policy_charge(L, len);
}

/* Where a search begins, from 0; more than len: after the end. */
static size_t start_of(lua_State *L, int index, size_t len)
{
    lua_Integer init = luaL_optinteger(L, index, 1);
    if (init > 0)
        return (size_t)init - 1;
    if (init == 0 || init < -(lua_Integer)len)
        return 0;
    return len - (size_t)-init;
}

static int find_plain(lua_State *L, const struct matcher *m, size_t start, const char *p)
{
    size_t len = (size_t)(m->pattern_end - p);
    const char *from = m->text + start;
    policy_charge(L, (uint64_t)(m->text_end - from) / 16);
    const char *at = len ? memmem(from, (size_t)(m->text_end - from), p, len) : from;
    if (!at) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, at - m->text + 1);
    lua_pushinteger(L, at - m->text + (lua_Integer)len);
    return 2;
}

static bool has_specials(const char *p, const char *end)
{
    for (; p < end; p++)
        if (*p && strchr("^$*+?.([%-", *p))
            return true;
    return false;
}

static int search(lua_State *L, bool find)
{
    struct matcher m;
    init_matcher(L, &m, 1, 2);
    const char *p = lua_tostring(L, 2);
    size_t start = start_of(L, 3, (size_t)(m.text_end - m.text));
    if (start > (size_t)(m.text_end - m.text)) {
        lua_pushnil(L);
        return 1;
    }
    if (find && (lua_toboolean(L, 4) || !has_specials(p, m.pattern_end)))
        return find_plain(L, &m, start, p);
    bool anchored = p < m.pattern_end && *p == '^';
    const char *s = m.text + start;
    do {
        const char *end = match_from(&m, s, p + anchored);
        if (!end)
            continue;
        if (!find)
            return push_captures(&m, s, end);
        lua_pushinteger(L, s - m.text + 1);
        lua_pushinteger(L, end - m.text);
        return push_captures(&m, NULL, NULL) + 2;
    } while (s++ < m.text_end && !anchored);
    lua_pushnil(L);
    return 1;
}

static int string_find(lua_State *L)
{
    return search(L, true);
}

static int string_match(lua_State *L)
{
    return search(L, false);
}

/* ---- gmatch ----------------------------------------------------------------------------------------------------- */

/* Upvalues: text, pattern, where to go on (from 0), where the last match ended (or -1). */
static int next_match(lua_State *L)
{
    struct matcher m;
    init_matcher(L, &m, lua_upvalueindex(1), lua_upvalueindex(2));
    const char *p = lua_tostring(L, lua_upvalueindex(2));
    size_t len = (size_t)(m.text_end - m.text), start = (size_t)lua_tointeger(L, lua_upvalueindex(3));
    lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));
    for (; start <= len; start++) {
        const char *s = m.text + start, *end = match_from(&m, s, p);
        if (!end || end - m.text == last)
            continue;
        lua_pushinteger(L, end - m.text);
        lua_pushvalue(L, -1);
        lua_replace(L, lua_upvalueindex(3));
        lua_replace(L, lua_upvalueindex(4));
        return push_captures(&m, s, end);
    }
    return 0;
}

static int string_gmatch(lua_State *L)
{
    size_t len;
    luaL_checklstring(L, 1, &len);
    luaL_checkstring(L, 2);
    size_t start = start_of(L, 3, len);
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)(start > len ? len + 1 : start));
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, next_match, 4);
    return 1;
}

/* ---- gsub ------------------------------------------------------------------------------------------------------- */

static void add_text(struct matcher *m, luaL_Buffer *b, const char *s, const char *end)
{
    size_t len;
    const char *text = lua_tolstring(m->L, 3, &len), *text_end = text + len;
    step(m, len / 8);
    for (; text < text_end; text++) {
        if (*text != '%') {
            luaL_addchar(b, *text);
            continue;
        }
        text++;
        if (text < text_end && *text == '%') {
            luaL_addchar(b, '%');
        } else if (text < text_end && *text == '0') {
            luaL_addlstring(b, s, (size_t)(end - s));
        } else if (text < text_end && isdigit((unsigned char)*text)) {
            push_capture(m, *text - '1', s, end);
            luaL_addvalue(b);
        } else {
            luaL_error(m->L, "invalid use of '%%' in replacement string");
        }
    }
}

/* What the table or function gives for this match; false and nil keep it as it was. */
static void add_value(struct matcher *m, luaL_Buffer *b, const char *s, const char *end, int type)
{
    lua_State *L = m->L;
    if (type == LUA_TTABLE) {
        push_capture(m, 0, s, end);
        lua_gettable(L, 3);
    } else {
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(m, s, end), 1);
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(b, s, (size_t)(end - s));
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    } else {
        luaL_addvalue(b);
    }
}

static int string_gsub(lua_State *L)
{
    struct matcher m;
    luaL_Buffer b;
    lua_Integer n = 0;
    const char *last = NULL;
    init_matcher(L, &m, 1, 2);
    const char *s = m.text, *p = lua_tostring(L, 2);
    int type = lua_type(L, 3);
    luaL_argexpected(L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TTABLE || type == LUA_TFUNCTION, 3,
                     "string/function/table");
    lua_Integer max = luaL_optinteger(L, 4, m.text_end - s + 1);
    bool anchored = p < m.pattern_end && *p == '^';
    luaL_buffinit(L, &b);
    while (n < max) {
        const char *end = match_from(&m, s, p + anchored);
        if (end && end != last) {
            n++;
            if (type == LUA_TTABLE || type == LUA_TFUNCTION)
                add_value(&m, &b, s, end, type);
            else
                add_text(&m, &b, s, end);
            s = last = end;
        } else if (s < m.text_end) {
            luaL_addchar(&b, *s++); /* NOLINT(clang-analyzer-core.NullDereference): a Lua string is never NULL */
        } else {
            break;
        }
        if (anchored)
            break;
        if (luaL_bufflen(&b) > POLICY_STRING_MAX)
            return luaL_error(L, "resulting string too large (at most %d bytes)", POLICY_STRING_MAX);
    }
    luaL_addlstring(&b, s, (size_t)(m.text_end - s));
    luaL_pushresult(&b);
    lua_pushinteger(L, n);
    return 2;
}

void lua_pattern_add(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"find", string_find}, {"match", string_match}, {"gmatch", string_gmatch}, {"gsub", string_gsub}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
