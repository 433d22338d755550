#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http1/connection.h"

enum { BODY_FIRST = 16384, BODY_EXACT = 65536 };

enum kind { OTHER, CONTENT_LENGTH, TRANSFER_ENCODING, HOST, EXPECT };

/* ---- the head --------------------------------------------------------------------------------------------------- */

/* The parser may still look at the byte behind a piece, so that its NUL comes with the next one. */
static void end_piece(struct http1_exchange *e, char *next)
{
    if (e->ends_at) {
        *e->ends_at = '\0';
    }
    e->ends_at = next;
}

static char *own(struct http1_exchange *e, const char *at)
{
    return e->text + (at - e->text);
}

static int on_target(void *user, const char *at, size_t len)
{
    struct http1_exchange *e = user;

    e->target = at;
    end_piece(e, own(e, at + len));
    return 0;
}

static bool same(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && strncasecmp(text, word, len) == 0;
}

static enum kind kind_of(const char *name, size_t len)
{
    switch (len) {
    case 4:
        return same(name, len, "Host") ? HOST : OTHER;
    case 6:
        return same(name, len, "Expect") ? EXPECT : OTHER;
    case 14:
        return same(name, len, "Content-Length") ? CONTENT_LENGTH : OTHER;
    case 17:
        return same(name, len, "Transfer-Encoding") ? TRANSFER_ENCODING : OTHER;
    default:
        return OTHER;
    }
}

static int on_name(void *user, const char *at, size_t len)
{
    struct http1_exchange *e = user;

    if (e->head_parsed) { /* trailers are dropped */
        return 0;
    }
    if (e->n_headers == e->max_headers) {
        return -1;
    }
    e->headers[e->n_headers++] = (struct http1_header){.name = at, .value = ""};
    e->kind = (uint8_t)kind_of(at, len);
    end_piece(e, own(e, at + len));
    return 0;
}

static enum refusal take_length(struct http1_exchange *e, const char *text, size_t len)
{
    e->content_length = 0;
    if (e->lengths++ > 0 || len == 0) {
        return REFUSAL_LENGTH;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return REFUSAL_LENGTH;
        }
        if (e->content_length > (UINT64_MAX - 9) / 10) {
            return REFUSAL_LENGTH;
        }
        e->content_length = e->content_length * 10 + (uint64_t)(text[i] - '0');
    }
    return REFUSAL_NONE;
}

static enum refusal take_value(struct http1_exchange *e, const char *text, size_t len)
{
    switch ((enum kind)e->kind) {
    case CONTENT_LENGTH:
        return take_length(e, text, len);
    case TRANSFER_ENCODING:
        e->chunked = true;
        return e->codings++ > 0 || !same(text, len, "chunked") ? REFUSAL_CODING : REFUSAL_NONE;
    case HOST:
        return e->hosts++ > 0 || !is_host(text, len) ? REFUSAL_HOST : REFUSAL_NONE;
    case EXPECT:
        e->expects_continue = true;
        return same(text, len, "100-continue") ? REFUSAL_NONE : REFUSAL_EXPECTATION;
    case OTHER:
        break;
    }
    return REFUSAL_NONE;
}

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t';
}

static int on_value(void *user, const char *at, size_t len)
{
    struct http1_exchange *e = user;

    if (e->head_parsed) {
        return 0;
    }
    while (len > 0 && is_space(*at)) {
        at++;
        len--;
    }
    while (len > 0 && is_space(at[len - 1])) {
        len--;
    }
    if (len > 0) {
        e->headers[e->n_headers - 1].value = at;
    }
    /* of an empty value the parser only knows that it is past it: `at` may stand in the next line */
    end_piece(e, len > 0 ? own(e, at + len) : NULL);
    e->refusal = take_value(e, at, len);
    return e->refusal == REFUSAL_NONE ? 0 : -1;
}

/* ---- the body -----------------------------------------------------------------------------------------------------
 */

/* What a handler has taken counts until the exchange is over. */
static void give_back(struct http1_exchange *e, size_t size)
{
    e->buffered -= size;
    atomic_fetch_sub(e->c->server->limits.buffered, size);
}

static enum refusal grow(struct http1_exchange *e, size_t size)
{
    const struct http1_limits *limits = &e->c->server->limits;
    size_t more = size - e->body_size, all = atomic_fetch_add(limits->buffered, more) + more;
    char *body;

    e->buffered += more;
    if (all > limits->max_buffered_bytes && all > e->buffered) {
        give_back(e, more);
        return REFUSAL_BUFFERS;
    }
    body = realloc(e->body, size);
    if (!body) {
        give_back(e, more);
        return REFUSAL_MEMORY;
    }
    e->body = body;
    e->body_size = size;
    return REFUSAL_NONE;
}

/* Grows as bytes come: a length that is only promised costs nothing. */
static enum refusal make_room(struct http1_exchange *e, size_t extra)
{
    size_t most = e->chunked ? e->max_body : (size_t)e->content_length;
    size_t need = e->body_len + extra, size = e->body_size < BODY_FIRST / 2 ? BODY_FIRST : e->body_size * 2;

    if (need <= e->body_size) {
        return REFUSAL_NONE;
    }
    if (!e->chunked && most <= BODY_EXACT) {
        size = most;
    }
    size = size < need ? need : size;
    return grow(e, size > most ? most : size);
}

static int on_body(void *user, const char *at, size_t len)
{
    struct http1_exchange *e = user;

    e->refusal =
        chunk_guard_framing(&e->guard, e->c->server->limits.max_header_bytes, e->unread, (size_t)(at - e->unread));
    if (e->refusal == REFUSAL_NONE) {
        e->refusal = chunk_guard_data(&e->guard);
    }
    if (e->refusal == REFUSAL_NONE && len > e->max_body - e->body_len) {
        e->refusal = REFUSAL_BODY;
    }
    if (e->refusal == REFUSAL_NONE) {
        e->refusal = make_room(e, len);
    }
    if (e->refusal != REFUSAL_NONE) {
        return -1;
    }
    memcpy(e->body + e->body_len, at, len);
    e->body_len += len;
    e->unread = at + len;
    return 0;
}

static const struct parser_events events = {on_target, on_name, on_value, on_body};

bool exchange_is_whole(const struct http1_exchange *e)
{
    return e->chunked ? e->parser.complete : e->body_len == e->content_length;
}

static enum refusal take_chunked(struct http1_exchange *e, const char *bytes, size_t len, size_t *used)
{
    enum parser_result result;

    e->unread = bytes;
    result = parser_feed(&e->parser, bytes, len, used);
    if (e->refusal == REFUSAL_NONE) {
        e->refusal = chunk_guard_framing(&e->guard, e->c->server->limits.max_header_bytes, e->unread,
                                         (size_t)(bytes + *used - e->unread));
    }
    if (e->refusal == REFUSAL_NONE &&
        (result > PARSER_COMPLETE || (result == PARSER_COMPLETE) != chunk_guard_done(&e->guard))) {
        e->refusal = REFUSAL_CHUNK;
    }
    return e->refusal;
}

enum refusal exchange_take(struct http1_exchange *e, const char *bytes, size_t len, size_t *used)
{
    uint64_t left = e->content_length - e->body_len;
    enum refusal refusal;

    if (e->chunked) {
        return take_chunked(e, bytes, len, used);
    }
    *used = len < left ? len : (size_t)left;
    refusal = make_room(e, *used);
    if (refusal != REFUSAL_NONE) {
        return refusal;
    }
    if (*used > 0) {
        memcpy(e->body + e->body_len, bytes, *used);
    }
    e->body_len += *used;
    return REFUSAL_NONE;
}

enum refusal exchange_room(struct http1_exchange *e, struct iovec *room)
{
    enum refusal refusal = make_room(e, 1);

    room->iov_base = e->body + e->body_len;
    room->iov_len = e->body_size - e->body_len;
    return refusal;
}

/* ---- the exchange ---------------------------------------------------------------------------------------------------
 */

static enum refusal judge(struct http1_exchange *e, enum parser_result result)
{
    e->http_1_0 = parser_is_1_0(&e->parser);
    e->keep_alive = parser_keeps_alive(&e->parser);
    if (e->lengths > 0 && e->codings > 0) {
        return REFUSAL_TWO_LENGTHS;
    }
    /* RFC 9112 section 6.1: a 1.0 message with a coding has faulty framing */
    if (e->chunked && (e->http_1_0 || !parser_is_chunked(&e->parser))) {
        return REFUSAL_CODING;
    }
    if (e->hosts == 0 && !e->http_1_0) {
        return REFUSAL_HOST;
    }
    if (strcmp(e->method, "CONNECT") == 0) {
        return REFUSAL_METHOD;
    }
    if (e->content_length > e->max_body) {
        return REFUSAL_BODY;
    }
    if ((result == PARSER_COMPLETE) != (!e->chunked && e->content_length == 0)) {
        return REFUSAL_HEAD;
    }
    e->expects_continue = e->expects_continue && !e->http_1_0;
    return REFUSAL_NONE;
}

/* The parser stops without a word of ours: the header that it was at says why. */
static enum refusal stopped_at(const struct http1_exchange *e)
{
    if (e->lengths > 0 && e->codings > 0) {
        return REFUSAL_TWO_LENGTHS;
    }
    if (e->kind == CONTENT_LENGTH) {
        return e->codings > 0 ? REFUSAL_TWO_LENGTHS : REFUSAL_LENGTH;
    }
    if (e->codings > 0) {
        return REFUSAL_CODING;
    }
    return e->n_headers == 0 ? REFUSAL_REQUEST_LINE : REFUSAL_HEAD;
}

static enum refusal parse(struct http1_exchange *e, const char *text, size_t len)
{
    size_t used;
    enum parser_result result;

    parser_init(&e->parser, &events, e);
    result = parser_feed(&e->parser, text, len, &used);
    if (e->refusal != REFUSAL_NONE) {
        return e->refusal;
    }
    if (result == PARSER_UNKNOWN_METHOD) {
        return REFUSAL_METHOD;
    }
    if (result == PARSER_MALFORMED || used != len || !e->target) {
        return stopped_at(e);
    }
    e->head_parsed = true;
    end_piece(e, NULL);
    e->method = parser_method(&e->parser);
    e->is_head = strcmp(e->method, "HEAD") == 0;
    return judge(e, result);
}

enum refusal exchange_open(struct connection *c, const char *head, size_t len)
{
    size_t array = c->guard.headers * sizeof(struct http1_header);
    struct http1_exchange *e = malloc(sizeof(*e) + array + len);
    char *text;

    if (!e) {
        return REFUSAL_MEMORY;
    }
    memset(e, 0, sizeof(*e));
    text = e->text + array;
    memcpy(text, head, len);
    e->c = c;
    e->method = "";
    e->headers = (struct http1_header *)(void *)e->text;
    e->max_headers = c->guard.headers;
    e->max_body = c->server->limits.max_body_bytes;
    chunk_guard_init(&e->guard);
    c->exchange = e;
    return parse(e, text, len);
}

void exchange_free(struct http1_exchange *e)
{
    if (e) {
        give_back(e, e->buffered);
        free(e->body);
        free(e);
    }
}

/* ---- for handlers ---------------------------------------------------------------------------------------------------
 */

const char *http1_method(const struct http1_exchange *exchange)
{
    return exchange->method;
}

const char *http1_target(const struct http1_exchange *exchange)
{
    return exchange->target;
}

const struct http1_header *http1_headers(const struct http1_exchange *exchange, size_t *n)
{
    *n = exchange->n_headers;
    return exchange->headers;
}

const char *http1_header(const struct http1_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < exchange->n_headers; i++) {
        const char *own_name = exchange->headers[i].name;

        /* tokens: what else this bit makes equal, the whole comparison tells apart */
        if ((*own_name | 0x20) == (*name | 0x20) && strcasecmp(own_name, name) == 0) {
            return exchange->headers[i].value;
        }
    }
    return NULL;
}

const void *http1_body(const struct http1_exchange *exchange, size_t *len)
{
    *len = exchange->body ? exchange->body_len : 0;
    return exchange->body ? exchange->body : "";
}

/* body_len stays: it says that the request was whole. */
void *http1_take_body(struct http1_exchange *exchange, size_t *len)
{
    void *body = exchange->body;

    *len = body ? exchange->body_len : 0;
    exchange->body = NULL;
    exchange->body_size = 0;
    return body;
}

const char *http1_peer(const struct http1_exchange *exchange)
{
    const struct connection *c = exchange->c;
    struct http1_exchange *e = c->exchange;
    char host[INET6_ADDRSTRLEN];

    if (c->peer.any.sa_family == AF_UNIX) {
        return "unix";
    }
    if (e->peer[0]) {
        return e->peer;
    }
    if (c->peer.any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &c->peer.v4.sin_addr, host, sizeof(host));
        snprintf(e->peer, sizeof(e->peer), "%s:%u", host, (unsigned)ntohs(c->peer.v4.sin_port));
    } else {
        inet_ntop(AF_INET6, &c->peer.v6.sin6_addr, host, sizeof(host));
        snprintf(e->peer, sizeof(e->peer), "[%s]:%u", host, (unsigned)ntohs(c->peer.v6.sin6_port));
    }
    return e->peer;
}

bool http1_is_local(const struct http1_exchange *exchange)
{
    const struct connection *c = exchange->c;
    const struct in6_addr *v6 = &c->peer.v6.sin6_addr;

    switch (c->peer.any.sa_family) {
    case AF_UNIX:
        return true;
    case AF_INET:
        return (ntohl(c->peer.v4.sin_addr.s_addr) >> 24) == 127;
    case AF_INET6:
        return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
    default:
        return false;
    }
}

void http1_set_data(struct http1_exchange *exchange, void *data)
{
    exchange->data = data;
}

void *http1_data(const struct http1_exchange *exchange)
{
    return exchange->data;
}
