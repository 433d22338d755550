#include "json_in.h"

#include <stdio.h>
#include <string.h>
#include <yajl/yajl_parse.h>

enum { MAX_DEPTH = 512, NAMED_DEPTH = 12, MAX_PATH = 512 };

struct walk {
    json_string_fn each;
    void *user;
    unsigned depth;
    struct {
        size_t path_len; /* of the container's own path */
        unsigned long next;
        bool array;
    } levels[NAMED_DEPTH];
    char path[MAX_PATH];
};

static bool is_named(const struct walk *walk)
{
    return walk->depth <= NAMED_DEPTH;
}

/* An element of an array has its place for a name. */
static void begin_value(struct walk *walk)
{
    if (walk->depth == 0 || !is_named(walk) || !walk->levels[walk->depth - 1].array)
        return;
    size_t at = walk->levels[walk->depth - 1].path_len;
    snprintf(walk->path + at, MAX_PATH - at, "[%lu]", walk->levels[walk->depth - 1].next++);
}

static int on_scalar(void *user)
{
    begin_value(user);
    return 1;
}

static int on_boolean(void *user, int value)
{
    (void)value;
    return on_scalar(user);
}

static int on_number(void *user, const char *text, size_t len)
{
    (void)text, (void)len;
    return on_scalar(user);
}

static int on_string(void *user, const unsigned char *text, size_t len)
{
    struct walk *walk = user;
    begin_value(walk);
    if (walk->each && is_named(walk))
        walk->each(walk->user, walk->path, (const char *)text, len);
    return 1;
}

static int on_key(void *user, const unsigned char *text, size_t len)
{
    struct walk *walk = user;
    if (!is_named(walk))
        return 1;
    size_t at = walk->levels[walk->depth - 1].path_len;
    snprintf(walk->path + at, MAX_PATH - at, "%s%.*s", at > 0 ? "." : "", (int)(len < MAX_PATH ? len : MAX_PATH),
             (const char *)text);
    return 1;
}

static int open_container(struct walk *walk, bool array)
{
    begin_value(walk);
    if (walk->depth == MAX_DEPTH)
        return 0;
    if (walk->depth < NAMED_DEPTH) {
        walk->levels[walk->depth].path_len = strlen(walk->path);
        walk->levels[walk->depth].next = 0;
        walk->levels[walk->depth].array = array;
    }
    walk->depth++;
    return 1;
}

static int on_map(void *user)
{
    return open_container(user, false);
}

static int on_array(void *user)
{
    return open_container(user, true);
}

static int on_close(void *user)
{
    ((struct walk *)user)->depth--;
    return 1;
}

bool json_each_string(const char *json, size_t len, json_string_fn each, void *user)
{
    static const yajl_callbacks callbacks = {
        .yajl_null = on_scalar,
        .yajl_boolean = on_boolean,
        .yajl_number = on_number,
        .yajl_string = on_string,
        .yajl_start_map = on_map,
        .yajl_map_key = on_key,
        .yajl_end_map = on_close,
        .yajl_start_array = on_array,
        .yajl_end_array = on_close,
    };
    struct walk walk = {.each = each, .user = user};
    yajl_handle parser = yajl_alloc(&callbacks, NULL, &walk);
    if (!parser)
        return false;
    bool whole = yajl_parse(parser, (const unsigned char *)json, len) == yajl_status_ok &&
                 yajl_complete_parse(parser) == yajl_status_ok;
    yajl_free(parser);
    return whole;
}
