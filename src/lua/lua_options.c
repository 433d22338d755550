/* Tables of options, read strictly: what is not understood is an error that names it. */
#include "lua/lua_host.h"

#include <string.h>

enum { NAME_MAX_ = 32 };

static size_t least(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* Levenshtein's distance. */
static size_t distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_ + 1], len = strlen(b);
    if (len > NAME_MAX_ || strlen(a) > NAME_MAX_)
        return NAME_MAX_;
    for (size_t j = 0; j <= len; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t corner = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < len; j++) {
            size_t above = row[j + 1];
            row[j + 1] = least(row[j] + 1, above + 1, corner + (a[i] != b[j]));
            corner = above;
        }
    }
    return row[len];
}

static void unknown(lua_State *L, const char *what, const char *key, const char *const *names)
{
    const char *nearest = NULL;
    size_t best = strlen(key) / 2 + 1;
    for (; *names; names++) {
        size_t d = distance(key, *names);
        if (d <= best && (!nearest || d < best)) {
            best = d;
            nearest = *names;
        }
    }
    if (nearest)
        luaL_error(L, "%s: unknown option '%s' (did you mean '%s'?)", what, key, nearest);
    luaL_error(L, "%s: unknown option '%s'", what, key);
}

void options_check(lua_State *L, int index, const char *what, const char *const *names)
{
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s: options have names, got a key that is a %s", what, luaL_typename(L, -1));
        const char *key = lua_tostring(L, -1);
        size_t i = 0;
        while (names[i] && strcmp(names[i], key) != 0)
            i++;
        if (!names[i])
            unknown(L, what, key, names);
    }
}

int option_push(lua_State *L, int index, const char *what, const char *name, int type)
{
    lua_pushstring(L, name);
    if (lua_rawget(L, index) == LUA_TNIL) {
        lua_pop(L, 1);
        return 0;
    }
    if (lua_type(L, -1) != type)
        luaL_error(L, "%s: %s: expected a %s, got a %s", what, name, lua_typename(L, type), luaL_typename(L, -1));
    return 1;
}

const char *option_text(lua_State *L, int index, const char *what, const char *name, size_t *len)
{
    if (!option_push(L, index, what, name, LUA_TSTRING))
        return NULL;
    const char *text = lua_tolstring(L, -1, len);
    lua_pop(L, 1);
    return text;
}

const char *option_string(lua_State *L, int index, const char *what, const char *name)
{
    size_t len;
    const char *text = option_text(L, index, what, name, &len);
    if (text && strlen(text) != len)
        luaL_error(L, "%s: %s: the string holds a NUL byte", what, name);
    return text;
}

lua_Integer option_number(lua_State *L, int index, const char *what, const char *name, lua_Integer max)
{
    int whole;
    if (!option_push(L, index, what, name, LUA_TNUMBER))
        return 0;
    lua_Integer number = lua_tointegerx(L, -1, &whole);
    if (!whole || number < 1 || number > max)
        luaL_error(L, "%s: %s: expected a whole number from 1 to %I, got %s", what, name, max,
                   luaL_tolstring(L, -1, NULL));
    lua_pop(L, 1);
    return number;
}
