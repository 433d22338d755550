/* http1/parser.h - http-parser or llhttp, whichever is there, for one request at a time. */
#ifndef HTTP1_PARSER_H
#define HTTP1_PARSER_H

#include <stdbool.h>
#include <stddef.h>

#ifdef HTTP1_LLHTTP
#include <llhttp.h>
typedef llhttp_t parser_state;
#else
#include <http_parser.h>
typedef struct http_parser parser_state;
#endif

/* Pieces are whole when the bytes they stand in came in one piece. Anything but 0 stops the parser. */
struct parser_events {
    int (*on_target)(void *user, const char *at, size_t len);
    int (*on_name)(void *user, const char *at, size_t len);
    int (*on_value)(void *user, const char *at, size_t len);
    int (*on_body)(void *user, const char *at, size_t len);
};

struct parser {
    parser_state state;
    const struct parser_events *events;
    void *user;
    bool complete;
};

enum parser_result { PARSER_MORE, PARSER_COMPLETE, PARSER_UNKNOWN_METHOD, PARSER_MALFORMED };

void parser_init(struct parser *parser, const struct parser_events *events, void *user);

/* *used: how many bytes belong to the request. PARSER_COMPLETE comes once, with its last byte; give it none after that.
 */
enum parser_result parser_feed(struct parser *parser, const char *bytes, size_t len, size_t *used);

/* After the head. */
const char *parser_method(const struct parser *parser);
bool parser_is_1_0(const struct parser *parser);
bool parser_is_chunked(const struct parser *parser);
bool parser_keeps_alive(const struct parser *parser); /* RFC 9112 section 9.3 */

#endif
