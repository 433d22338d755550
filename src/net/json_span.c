#include "net/json_span.h"

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "deputy.h"

/* ARENA_SIZE: yajl's own structs take half a KiB, its stack at MAX_DEPTH another two. */
enum { MAX_DEPTH = 512, ARENA_SIZE = 6144, ARENA_ALIGN = 16 };

/* ---- memory for yajl -------------------------------------------------------------------------------------------- */

struct arena {
    _Alignas(ARENA_ALIGN) unsigned char bytes[ARENA_SIZE];
    size_t used;
    jmp_buf out;
};

/* yajl does not look at what its malloc returns, so this one never returns without memory: it longjmps. */
static void *arena_malloc(void *ctx, size_t size)
{
    struct arena *arena = ctx;
    size_t room = sizeof(arena->bytes) - arena->used;
    unsigned char *block = arena->bytes + arena->used;

    if (room < ARENA_ALIGN || size > room - ARENA_ALIGN) {
        longjmp(arena->out, 1);
    }
    memcpy(block, &size, sizeof(size));
    arena->used += ARENA_ALIGN + (size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (arena->used > sizeof(arena->bytes)) {
        arena->used = sizeof(arena->bytes);
    }
    return block + ARENA_ALIGN;
}

static void arena_free(void *ctx, void *block)
{
    (void)ctx;
    (void)block;
}

static void *arena_realloc(void *ctx, void *old, size_t size)
{
    void *block = arena_malloc(ctx, size);

    if (old) {
        size_t old_size;

        memcpy(&old_size, (unsigned char *)old - ARENA_ALIGN, sizeof(old_size));
        memcpy(block, old, old_size < size ? old_size : size);
    }
    return block;
}

/* ---- characters ------------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* How many bytes the UTF-8 character at s takes (RFC 3629 section 4), or 0 when it is none. */
static size_t utf8_length(const unsigned char *s, size_t len)
{
    static const struct {
        unsigned char first, last, second_min, second_max, length;
    } forms[] = {
        {0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        size_t n = forms[i].length;

        if (len == 0 || s[0] < forms[i].first || s[0] > forms[i].last) {
            continue;
        }
        if (n > len || (n > 1 && (s[1] < forms[i].second_min || s[1] > forms[i].second_max)) ||
            (n > 2 && (s[2] & 0xC0) != 0x80) || (n > 3 && (s[3] & 0xC0) != 0x80)) {
            return 0;
        }
        return n;
    }
    return 0;
}

/* The offset of the first byte that no JSON text may hold, or len. yajl takes overlong UTF-8 and two control bytes. */
static size_t find_bad_byte(const char *text, size_t len)
{
    size_t i = 0;

    while (i < len) {
        uint64_t eight;
        size_t n;

        if (len - i >= sizeof(eight)) {
            memcpy(&eight, text + i, sizeof(eight));
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                i += sizeof(eight);
                continue;
            }
        }
        n = utf8_length((const unsigned char *)text + i, len - i);
        if (n == 0) {
            break;
        }
        i += n;
    }
    for (const char *c = "\v\f"; *c; c++) {
        const char *found = i > 0 ? memchr(text, *c, i) : NULL;

        if (found) {
            i = (size_t)(found - text);
        }
    }
    return i;
}

static int hex4(const char *s, const char *end)
{
    int value = 0;

    if (end - s < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

static size_t encode_utf8(unsigned code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* The escape whose backslash is at *s; moves *s behind it. Bytes written, or 0 when it stands for no character. */
static size_t decode_escape(const char **s, const char *end, char out[4])
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    const char *p = *s + 1;
    const char *letter;
    int high, low;

    if (p >= end) {
        return 0;
    }
    if (*p != 'u') {
        letter = *p ? strchr(letters, *p) : NULL;
        if (!letter) {
            return 0;
        }
        out[0] = bytes[letter - letters];
        *s = p + 1;
        return 1;
    }
    high = hex4(p + 1, end);
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) {
        return 0;
    }
    p += 5;
    if (high < 0xD800 || high > 0xDBFF) {
        *s = p;
        return encode_utf8((unsigned)high, out);
    }
    low = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, end) : -1;
    if (low < 0xDC00 || low > 0xDFFF) {
        return 0;
    }
    *s = p + 6;
    return encode_utf8(0x10000 + ((unsigned)(high - 0xD800) << 10) + (unsigned)(low - 0xDC00), out);
}

/* Where the string whose opening quote is at s ends: its closing quote, or end. */
static const char *closing_quote(const char *s, const char *end)
{
    const char *from = s + 1;

    while (from < end) {
        const char *quote = memchr(from, '"', (size_t)(end - from));
        const char *back = quote;

        if (!quote) {
            return end;
        }
        while (back > from && back[-1] == '\\') {
            back--;
        }
        if ((quote - back) % 2 == 0) {
            return quote;
        }
        from = quote + 1;
    }
    return end;
}

/* Does the inside of a string, [s, end), spell name? */
static bool spells(const char *s, const char *end, const char *name)
{
    size_t left = strlen(name);

    if (!memchr(s, '\\', (size_t)(end - s))) {
        return (size_t)(end - s) == left && memcmp(s, name, left) == 0;
    }
    while (s < end) {
        char decoded[4];
        size_t n = 1;

        if (*s == '\\') {
            n = decode_escape(&s, end, decoded);
        } else {
            decoded[0] = *s++;
        }
        if (n == 0 || n > left || memcmp(decoded, name, n) != 0) {
            return false;
        }
        name += n;
        left -= n;
    }
    return left == 0;
}

/* ---- the walk --------------------------------------------------------------------------------------------------- */

/* One member of the outermost object, or one element of the outermost array. */
struct item {
    enum json_kind kind;
    size_t key_start, key_end; /* inside the quotes */
    size_t start, end;
};

struct walk {
    const char *text;
    size_t len;
    char open; /* '{' or '[': what the text must be */
    void (*each)(void *user, const struct item *item);
    void *user;
    yajl_handle yajl;
    unsigned depth;
    bool deep, broken;
    size_t pos; /* up to here the outermost level has been read */
    size_t end; /* behind the outermost bracket, once it closed */
    struct item item;
    struct arena arena;
};

static enum json_kind kind_of(char first)
{
    switch (first) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
    case 'f':
        return JSON_BOOLEAN;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

static void skip(struct walk *w, size_t limit, char also)
{
    while (w->pos < limit && (is_space(w->text[w->pos]) || w->text[w->pos] == also)) {
        w->pos++;
    }
}

/* The position behind the string that begins at pos. */
static size_t skip_string(struct walk *w, size_t limit)
{
    const char *quote = closing_quote(w->text + w->pos, w->text + limit);

    w->pos = (size_t)(quote - w->text) + (quote < w->text + limit);
    return w->pos;
}

/* Reads the outermost level up to limit, where a container begins or the outermost bracket closes. yajl has read all
 * of it before, so that it is well-formed; the comparisons with limit only make sure. */
static void read_level(struct walk *w, size_t limit)
{
    for (;;) {
        skip(w, limit, ',');
        if (w->pos >= limit) {
            return;
        }
        if (w->open == '{') {
            w->item.key_start = w->pos + 1;
            w->item.key_end = skip_string(w, limit) - 1;
            skip(w, limit, ':');
            if (w->pos >= limit) {
                return;
            }
        }
        w->item.start = w->pos;
        w->item.kind = kind_of(w->text[w->pos]);
        if (w->item.kind == JSON_STRING) {
            skip_string(w, limit);
        } else {
            while (w->pos < limit && !is_space(w->text[w->pos]) && w->text[w->pos] != ',') {
                w->pos++;
            }
        }
        w->item.end = w->pos;
        w->each(w->user, &w->item);
    }
}

/* yajl calls back right after it has read a token, and has counted its bytes by then. What stands there is compared,
 * since its manual promises the count only for the end of a parse. */
static size_t behind_token(struct walk *w, char token)
{
    size_t at = yajl_get_bytes_consumed(w->yajl);

    w->broken = w->broken || at == 0 || at > w->len || w->text[at - 1] != token;
    return at;
}

static int on_open(struct walk *w, char token)
{
    size_t behind = behind_token(w, token);

    if (w->broken) {
        return 0;
    }
    w->depth++;
    if (w->depth > MAX_DEPTH) {
        w->deep = true;
        return 0;
    }
    if (w->depth == 1) {
        w->pos = behind;
    } else if (w->depth == 2) {
        read_level(w, behind - 1);
        w->item.start = behind - 1;
        w->item.kind = kind_of(token);
    }
    return 1;
}

static int on_close(struct walk *w, char token)
{
    size_t behind = behind_token(w, token);

    if (w->broken) {
        return 0;
    }
    w->depth--;
    if (w->depth == 0) {
        read_level(w, behind - 1);
        w->end = behind;
        return 0;
    }
    if (w->depth == 1) {
        w->item.end = behind;
        w->pos = behind;
        w->each(w->user, &w->item);
    }
    return 1;
}

static int on_start_map(void *ctx)
{
    return on_open(ctx, '{');
}

static int on_end_map(void *ctx)
{
    return on_close(ctx, '}');
}

static int on_start_array(void *ctx)
{
    return on_open(ctx, '[');
}

static int on_end_array(void *ctx)
{
    return on_close(ctx, ']');
}

/* No callback for strings and keys: with one, yajl would decode escapes, into a copy, and where CVE-2017-16516 is not
 * patched read behind the string. */
static const yajl_callbacks callbacks = {
    .yajl_start_map = on_start_map,
    .yajl_end_map = on_end_map,
    .yajl_start_array = on_start_array,
    .yajl_end_array = on_end_array,
};

/* What stops it: an error, the closing bracket, or the end of the text. */
static void run_yajl(struct walk *w)
{
    yajl_alloc_funcs memory = {arena_malloc, arena_realloc, arena_free, &w->arena};

    /* yajl asks for more than the arena has only to keep a token that the end of the text cut off */
    if (setjmp(w->arena.out) != 0) {
        return;
    }
    w->yajl = yajl_alloc(&callbacks, &memory, w);
    yajl_config(w->yajl, yajl_dont_validate_strings, 1);
    yajl_parse(w->yajl, (const unsigned char *)w->text, w->len);
}

static int walk_level(struct walk *w, size_t *offset)
{
    size_t at = 0;
    int code = DEPUTY_EINVAL;

    while (at < w->len && is_space(w->text[at])) {
        at++;
    }
    if (at < w->len && w->text[at] == w->open) {
        at = find_bad_byte(w->text, w->len);
        if (at == w->len) {
            run_yajl(w);
            at = w->yajl ? yajl_get_bytes_consumed(w->yajl) : 0;
            if (w->deep) {
                code = DEPUTY_ELIMIT;
            } else if (w->end > 0 && !w->broken) {
                for (at = w->end; at < w->len && is_space(w->text[at]); at++) {
                }
                code = at == w->len ? DEPUTY_OK : DEPUTY_EINVAL;
            }
        }
    }
    if (offset && code != DEPUTY_OK) {
        *offset = at < w->len ? at : w->len;
    }
    return code;
}

/* ---- for callers ------------------------------------------------------------------------------------------------ */

struct search {
    const char *text;
    struct json_member *members;
    size_t n;
};

static void match(void *user, const struct item *item)
{
    struct search *search = user;

    for (size_t i = 0; i < search->n; i++) {
        struct json_member *m = &search->members[i];

        if (spells(search->text + item->key_start, search->text + item->key_end, m->name)) {
            m->kind = item->kind;
            m->start = item->start;
            m->end = item->end;
            m->truth = search->text[item->start] == 't';
            m->count++;
        }
    }
}

int json_span_find(const char *text, size_t len, struct json_member *members, size_t n, size_t *offset)
{
    struct search search = {text, members, n};
    struct walk w;

    for (size_t i = 0; i < n; i++) {
        members[i] = (struct json_member){.name = members[i].name};
    }
    memset(&w, 0, offsetof(struct walk, arena));
    w.arena.used = 0;
    w.text = text;
    w.len = len;
    w.open = '{';
    w.each = match;
    w.user = &search;
    return walk_level(&w, offset);
}

struct elements {
    json_element_fn each;
    void *user;
};

static void hand_over(void *user, const struct item *item)
{
    struct elements *elements = user;

    elements->each(elements->user, item->kind, item->start, item->end);
}

int json_span_each(const char *text, size_t len, json_element_fn each, void *user)
{
    struct elements elements = {each, user};
    struct walk w;

    memset(&w, 0, offsetof(struct walk, arena));
    w.arena.used = 0;
    w.text = text;
    w.len = len;
    w.open = '[';
    w.each = hand_over;
    w.user = &elements;
    return walk_level(&w, NULL);
}

long json_span_string(const char *text, size_t start, size_t end, char *out, size_t size)
{
    const char *s = text + start + 1;
    const char *stop = text + end - 1;
    size_t used = 0;

    if (end < start + 2 || text[start] != '"' || *stop != '"' || size == 0) {
        return -1;
    }
    while (s < stop) {
        char decoded[4];
        size_t n;

        if (*s == '\\') {
            n = decode_escape(&s, stop, decoded);
        } else {
            n = (unsigned char)*s < 0x20 || *s == '"' ? 0 : utf8_length((const unsigned char *)s, (size_t)(stop - s));
            memcpy(decoded, s, n);
            s += n;
        }
        if (n == 0 || decoded[0] == '\0' || n >= size - used) {
            return -1;
        }
        memcpy(out + used, decoded, n);
        used += n;
    }
    out[used] = '\0';
    return (long)used;
}

/* Appends what fits; used stays over size once something did not. */
static void put(char *out, size_t size, size_t *used, const char *bytes, size_t n)
{
    if (*used < size && n < size - *used) {
        memcpy(out + *used, bytes, n);
        *used += n;
    } else {
        *used = size;
    }
}

long json_quote(const char *s, char *out, size_t size)
{
    static const char letters[] = "\"\\bfnrt", bytes[] = "\"\\\b\f\n\r\t";
    size_t left = strlen(s), used = 0;

    put(out, size, &used, "\"", 1);
    while (left > 0) {
        size_t n = utf8_length((const unsigned char *)s, left);
        const char *special = strchr(bytes, *s);
        char escape[8];

        if (n == 0) {
            put(out, size, &used, "\xEF\xBF\xBD", 3);
            n = 1;
        } else if (special) {
            put(out, size, &used, (char[]){'\\', letters[special - bytes]}, 2);
        } else if ((unsigned char)*s < 0x20) {
            snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char)*s);
            put(out, size, &used, escape, 6);
        } else {
            put(out, size, &used, s, n);
        }
        s += n;
        left -= n;
    }
    put(out, size, &used, "\"", 1);
    if (used >= size) {
        return -1;
    }
    out[used] = '\0';
    return (long)used;
}
