#include "http1/parser.h"

#include <stdint.h>
#include <uv.h>

static struct parser *parser_of(const parser_state *state)
{
    return state->data;
}

static int on_target(parser_state *state, const char *at, size_t len)
{
    return parser_of(state)->events->on_target(parser_of(state)->user, at, len);
}

static int on_name(parser_state *state, const char *at, size_t len)
{
    return parser_of(state)->events->on_name(parser_of(state)->user, at, len);
}

static int on_value(parser_state *state, const char *at, size_t len)
{
    return parser_of(state)->events->on_value(parser_of(state)->user, at, len);
}

static int on_body(parser_state *state, const char *at, size_t len)
{
    return parser_of(state)->events->on_body(parser_of(state)->user, at, len);
}

#ifdef HTTP1_LLHTTP

static int on_complete(parser_state *state)
{
    parser_of(state)->complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_target,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

void parser_init(struct parser *parser, const struct parser_events *events, void *user)
{
    parser->events = events;
    parser->user = user;
    parser->complete = false;
    llhttp_init(&parser->state, HTTP_REQUEST, &settings);
    parser->state.data = parser;
}

enum parser_result parser_feed(struct parser *parser, const char *bytes, size_t len, size_t *used)
{
    llhttp_errno_t error = llhttp_execute(&parser->state, bytes, len);
    const char *stopped = error == HPE_OK ? NULL : llhttp_get_error_pos(&parser->state);

    *used = stopped ? (size_t)(stopped - bytes) : len;
    if (parser->complete && (error == HPE_OK || error == HPE_PAUSED || error == HPE_PAUSED_UPGRADE)) {
        return PARSER_COMPLETE;
    }
    if (error == HPE_INVALID_METHOD) {
        return PARSER_UNKNOWN_METHOD;
    }
    return error == HPE_OK ? PARSER_MORE : PARSER_MALFORMED;
}

const char *parser_method(const struct parser *parser)
{
    return llhttp_method_name((llhttp_method_t)parser->state.method);
}

bool parser_keeps_alive(const struct parser *parser)
{
    return llhttp_should_keep_alive(&parser->state);
}

#else

static int on_complete(parser_state *state)
{
    parser_of(state)->complete = true;
    http_parser_pause(state, 1);
    return 0;
}

static const http_parser_settings settings = {
    .on_url = on_target,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* The bounds are counted before the parser sees the bytes; its own would be a second, unnamed one. */
static void lift_limit(void)
{
    http_parser_set_max_header_size(UINT32_MAX);
}

void parser_init(struct parser *parser, const struct parser_events *events, void *user)
{
    static uv_once_t once = UV_ONCE_INIT;

    uv_once(&once, lift_limit);
    parser->events = events;
    parser->user = user;
    parser->complete = false;
    http_parser_init(&parser->state, HTTP_REQUEST);
    parser->state.data = parser;
}

enum parser_result parser_feed(struct parser *parser, const char *bytes, size_t len, size_t *used)
{
    enum http_errno error;

    *used = http_parser_execute(&parser->state, &settings, bytes, len);
    error = HTTP_PARSER_ERRNO(&parser->state);
    if (parser->complete && (error == HPE_OK || error == HPE_PAUSED)) {
        return PARSER_COMPLETE;
    }
    if (error == HPE_INVALID_METHOD) {
        return PARSER_UNKNOWN_METHOD;
    }
    return error == HPE_OK && *used == len ? PARSER_MORE : PARSER_MALFORMED;
}

const char *parser_method(const struct parser *parser)
{
    return http_method_str((enum http_method)parser->state.method);
}

bool parser_keeps_alive(const struct parser *parser)
{
    return http_should_keep_alive(&parser->state);
}

#endif

bool parser_is_1_0(const struct parser *parser)
{
    return parser->state.http_minor == 0;
}

bool parser_is_chunked(const struct parser *parser)
{
    return (parser->state.flags & F_CHUNKED) != 0;
}
